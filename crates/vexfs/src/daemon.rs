//! The daemon, composed in one place: store, engine, mount, session; and its end, in the reverse order.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use vexfs_core::change::{Change, ChangeSink};
use vexfs_core::control::{ControlDirectory, ControlTree, TxnControl};
use vexfs_core::engine::Engine;
use vexfs_core::fs::Stack;
use vexfs_core::fs::keep::Keeper;
use vexfs_core::ids::{Ino, NodeKey};
use vexfs_core::metrics::Metrics;
use vexfs_core::store::dir::StoreDir;
use vexfs_core::txn::Desk;
use vexfs_mount::adapter::{Adapter, AdapterOptions, stack_options};
use vexfs_mount::mounting::{self, Mounted};
use vexfs_mount::options::{Control, Http, MountOptions};
use vexfs_mount::place::Place;
use vexfs_mount::session::Session;
use vexfs_mount::{MountError, Result};

use crate::background::Ready;
use crate::own_view::start_in_own_view;
use crate::service::Service;

/// What is to be mounted, where and how.
#[derive(Debug)]
pub(crate) struct MountRequest {
    pub(crate) source: PathBuf,
    pub(crate) mountpoint: PathBuf,
    pub(crate) options: MountOptions,
}

/// After a signal the mount is taken out of the tree at once. Files that are still open in it work for this long;
/// then the connection is cut.
const OPEN_FILES_GRACE: Duration = Duration::from_secs(5);

/// How often idle buffers go back to the system.
const POOL_TENDED_EVERY: Duration = Duration::from_secs(20);

/// What wakes the daemon's main thread.
enum Event {
    /// A signal asks it to end.
    Signal,
    /// The mount is gone, or the session failed.
    Ended(io::Result<()>),
}

/// Mounts and serves until the mount is taken away or a signal comes.
///
/// # Errors
/// Nothing is mounted after an error.
pub(crate) fn run(request: MountRequest, ready: Ready) -> Result<()> {
    let MountRequest {
        source,
        mountpoint,
        options,
    } = request;
    prepare_process();
    let place = Place::find(&source, &mountpoint)?;
    let store = open_store(&place, &options)?;
    let lock = store.lock().map_err(|error| of_store(error, store.location()))?;
    let (events, happened) = mpsc::channel();
    end_on_signal(events.clone())?;

    let ended = move |outcome| {
        // The receiver is gone only when the daemon ends already.
        let _ = events.send(Event::Ended(outcome));
    };
    let (session, search) = match place.source == place.mountpoint && may_mount() {
        true => start_in_own_view(&place, &options, |mount| {
            start(&place, &options, &store, mount, ended)
        })?,
        false => start(
            &place,
            &options,
            &store,
            &mut || mounting::mount(&place, &options),
            ended,
        )?,
    };
    tracing::info!(source = %place.source.display(), mountpoint = %place.mountpoint.display(), "mounted");
    ready.tell().map_err(|source| MountError::Kernel {
        what: "going into the background",
        source,
    })?;

    let outcome = wait_for_end(session, &happened);
    drop(search);
    drop(lock);
    outcome.map_err(|source| MountError::Kernel {
        what: "the session failed",
        source,
    })
}

/// Opens what is known, mounts, and answers. The threads that it starts see the mounts as this one does.
fn start(
    place: &Place,
    options: &MountOptions,
    store: &StoreDir,
    mount: &mut dyn FnMut() -> Result<Mounted>,
    ended: impl FnOnce(io::Result<()>) + Send + 'static,
) -> Result<(Session, Option<Service>)> {
    let search = match options.ctl {
        Control::Off => None,
        _ => Some(Service::start(place, options, store)?),
    };
    let adapter = compose(place, options, search.as_ref().map(|search| (search, store)))?;
    let kernel_cache = adapter.kernel_cache();
    // Before anybody can ask: nothing is called fresh that was not looked at.
    if let Some(search) = &search {
        search.knowledge().scan_in_background()?;
    }
    let session = Session::start(adapter, mount()?, options, ended)?;
    kernel_cache.connect(session.notifier());
    Ok((session, search))
}

/// The filesystem over SOURCE, with search in its control directory.
pub(crate) fn compose(
    place: &Place,
    options: &MountOptions,
    search: Option<(&Service, &StoreDir)>,
) -> Result<Adapter> {
    if options.http != Http::Off && options.ctl == Control::Off {
        return Err(MountError::Usage(
            "http=: with ctl=off nothing is indexed, and there is nothing to ask".into(),
        ));
    }
    let of_kernel = |source| MountError::Kernel {
        what: "SOURCE",
        source,
    };
    let root = place.source_dir.try_clone().map_err(of_kernel)?;
    let stack_options = stack_options(place, options).map_err(of_kernel)?;
    let changes: Arc<dyn ChangeSink> = match search {
        Some((search, _)) => search.knowledge().changes(),
        None => Arc::new(NobodyListens),
    };
    let stack = Arc::new(Stack::new(root, stack_options, changes)?);
    let metrics = Arc::new(Metrics::new());
    if let Some((search, store)) = search.filter(|_| !options.read_only()) {
        keep_for_snapshots(search, store, &stack)?;
    }
    let control = search.map(|(search, _)| {
        search.knowledge().set_mount(metrics.clone(), stack.clone());
        let render = Engine::new(stack.clone(), None, metrics.clone());
        let knowledge = search.knowledge().clone();
        let prometheus = move || {
            let mut text = String::new();
            render.prometheus(&mut text);
            knowledge.status().prometheus(&mut text);
            text
        };
        Arc::new(ControlTree::new(search.knowledge().clone(), Box::new(prometheus)))
    });
    let desk = match search {
        Some((search, store)) => desk(place, options, search, store, &stack)?,
        None => None,
    };
    if let (Some((search, _)), Some(desk)) = (search, &desk) {
        search.knowledge().serve_transactions(desk);
    }
    let engine = match (control, desk) {
        (Some(control), Some(desk)) => {
            let root = stack
                .node_key(Ino::ROOT)
                .ok_or(vexfs_core::Error::Os(libc::ESTALE))?;
            let control = Arc::new(TxnControl::new(desk.clone(), control, root));
            Engine::new(stack, Some(control), metrics).with_transactions(desk)
        }
        (control, _) => {
            let control = control.map(|control| control as Arc<dyn ControlDirectory>);
            Engine::new(stack, control, metrics)
        }
    };
    let mut of_adapter = AdapterOptions::from(options);
    of_adapter.passthrough &= may_mount();
    Ok(Adapter::new(Arc::new(engine), of_adapter))
}

/// Whether this process has CAP_SYS_ADMIN: the kernel lets nobody else tie files to a mount or take a view of the
/// mounts. In a container it may refuse passthrough all the same, at the first open.
fn may_mount() -> bool {
    rustix::thread::capabilities(None)
        .is_ok_and(|sets| sets.effective.contains(rustix::thread::CapabilitySet::SYS_ADMIN))
}

/// What files of snapshots contain is kept in the store before it is lost.
fn keep_for_snapshots(search: &Service, store: &StoreDir, stack: &Arc<Stack>) -> Result<()> {
    let rows = search.knowledge().store().clone();
    // When in doubt it is kept.
    let knows = move |key| rows.read(|rows| rows.knew(key)).unwrap_or(true);
    let keeper = Arc::new(Keeper::open(store.path().join("snapshots"), Box::new(knows))?);
    search.knowledge().keep_with(keeper.clone())?;
    stack.keep_with(keeper);
    Ok(())
}

/// Transactions over the tree. There are none where nothing may be written, or where the store is on another
/// filesystem, from which nothing could be moved into place.
fn desk(
    place: &Place,
    options: &MountOptions,
    search: &Service,
    store: &StoreDir,
    stack: &Arc<Stack>,
) -> Result<Option<Arc<Desk>>> {
    let of_kernel = |source: io::Error| MountError::Kernel {
        what: "SOURCE",
        source,
    };
    let device = |dir: BorrowedFd<'_>| rustix::fs::fstat(dir).map(|stat| stat.st_dev);
    let (here, there) = (device(place.source_dir.as_fd()), device(store.as_fd()));
    if options.read_only()
        || here.map_err(|e| of_kernel(e.into()))? != there.map_err(|e| of_kernel(e.into()))?
    {
        return Ok(None);
    }
    let tree = place.source_dir.try_clone().map_err(of_kernel)?;
    let stages = store.path().join("txn");
    let knowledge = search.knowledge();
    Ok(Some(Arc::new(Desk::open(
        stack.clone(),
        knowledge.store().clone(),
        knowledge.clone(),
        Arc::default(),
        tree,
        stages,
    )?)))
}

/// The process gets what a filesystem needs: files exactly with the mode that was asked for, and as many descriptors
/// as it may have.
fn prepare_process() {
    rustix::process::umask(Mode::empty());
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let most = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(e) = rustix::process::setrlimit(Resource::Nofile, most) {
        tracing::info!("descriptors stay limited to {:?}: {e}", limit.current);
    }
}

/// Opens the store where the options say, before the mount covers it.
fn open_store(place: &Place, options: &MountOptions) -> Result<StoreDir> {
    match &options.store {
        Some(store) => check_store_place(store, place)?,
        None => {
            let over = place.source_in_vexfs().map_err(|source| MountError::Kernel {
                what: "/proc",
                source,
            })?;
            if let Some(mount) = over {
                return Err(MountError::Source {
                    path: place.source.clone(),
                    reason: format!("is mounted by VexFS already, at {}", mount.mountpoint.display()),
                });
            }
        }
    }
    if options.store.is_none() && place.source == place.mountpoint && !may_mount() {
        // Our mount would hide a store in SOURCE from ourselves.
        return Ok(StoreDir::open_or_create_elsewhere(&place.source)?);
    }
    StoreDir::open_or_create(&place.source, options.store.as_deref(), &options.ctlname)
        .map_err(|error| of_store(error, options.store.as_ref().unwrap_or(&place.source)))
}

/// The system's own words do not say of what.
fn of_store(error: vexfs_core::Error, at: &Path) -> MountError {
    match error {
        vexfs_core::Error::Os(_) | vexfs_core::Error::Io(_) => MountError::Source {
            path: at.to_owned(),
            reason: format!("cannot keep the store here: {error}; store=DIRECTORY names another place"),
        },
        error => MountError::Engine(error),
    }
}

/// A store that the user chose must neither show in the mount nor lie behind it: writing to it would ask ourselves.
fn check_store_place(store: &Path, place: &Place) -> Result<()> {
    let parent = store
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let Ok(parent) = parent.canonicalize() else {
        return Ok(());
    };
    for (dir, what) in [(&place.source, "SOURCE"), (&place.mountpoint, "MOUNTPOINT")] {
        if parent.starts_with(dir) {
            return Err(MountError::Usage(format!(
                "store={}: lies inside {what}; leave store= out to keep the state in SOURCE, hidden",
                store.display()
            )));
        }
    }
    Ok(())
}

/// SIGTERM, SIGINT and SIGHUP end the daemon cleanly.
fn end_on_signal(events: Sender<Event>) -> Result<()> {
    let of_kernel = |source| MountError::Kernel {
        what: "handling signals",
        source,
    };
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(of_kernel)?;
    let forward = move || {
        for _ in signals.forever() {
            if events.send(Event::Signal).is_err() {
                return;
            }
        }
    };
    thread::Builder::new()
        .name("signals".into())
        .spawn(forward)
        .map_err(of_kernel)?;
    Ok(())
}

/// Waits for the end of the mount, and brings it about when a signal asks for it.
fn wait_for_end(session: Session, happened: &Receiver<Event>) -> io::Result<()> {
    let mut deadline = None::<Instant>;
    loop {
        let event = match deadline {
            None => match happened.recv_timeout(POOL_TENDED_EVERY) {
                Err(RecvTimeoutError::Timeout) => {
                    vexfs_core::pool::shared().tend();
                    continue;
                }
                event => event,
            },
            Some(at) => happened.recv_timeout(at.saturating_duration_since(Instant::now())),
        };
        match event {
            Ok(Event::Signal) if deadline.is_some() => {}
            Ok(Event::Signal) => {
                deadline = Some(Instant::now() + OPEN_FILES_GRACE);
                if let Err(e) = session.mount().unmount() {
                    tracing::warn!("cannot unmount, the connection will be cut: {e}");
                }
            }
            Ok(Event::Ended(outcome)) => {
                // Only a mount that was cut off is still there, and dead.
                if let Err(e) = session.mount().unmount() {
                    tracing::warn!("a dead mount stays: {e}");
                }
                session.join();
                return outcome;
            }
            Err(_) => {
                tracing::warn!("files are still open; the connection is cut");
                return Ok(());
            }
        }
    }
}

/// Without a control directory nothing is indexed.
struct NobodyListens;

impl ChangeSink for NobodyListens {
    fn maybe_changed(&self, _: NodeKey) {}
    fn changed(&self, _: Change) {}
}
