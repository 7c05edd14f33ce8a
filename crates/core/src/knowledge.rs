//! What is known of the files of one backing directory: the catalog, the derived indexes, the indexer that keeps them
//! up, and the verbs over them. The control directory, the API and the command line all call these verbs.

mod attributes;
pub mod export;
mod feed;
pub mod grep;
pub mod inside;
pub mod migrate;
mod passage_vectors;
pub mod related;
pub mod relations;
pub mod saved;
pub mod snapshots;
mod staged;
mod status;
mod vector_value;
pub mod vectors;
pub mod verify;

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use rustix::fs::{Access, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use serde_json::{Value, json};
use vexfs_vector::kernel::Kernels;
use vexfs_vector::{Database, Measure, Options as VectorOptions, Space, SpaceConfig};

use crate::change::ChangeSink;
use crate::error::{Error, Result};
use crate::fs::Stack;
use crate::fs::ops::Caller;
use crate::ids::NodeKey;
use crate::metrics::Metrics;
use crate::query::access::{readable, refusals};
use crate::query::answer::{Answer, name_text, path_text};
use crate::query::model::Model;
use crate::query::options::Options;
use crate::query::overlay::Overlay;
use crate::query::search::{Request, Searcher, vector_error};
use crate::query::spaces::ToldSpaces;
use crate::relation;
use crate::semantic::embed::Embedder;
use crate::semantic::indexer::feed::Event;
use crate::semantic::indexer::{Consequence, Indexer, IndexerOptions, IndexerParts};
use crate::semantic::lexical::LexicalIndex;
use crate::store::Store;
use crate::txn::Desk;
pub use attributes::{PREFIX as XATTR_PREFIX, is_ours as is_our_xattr};
pub use feed::Feed;
use migrate::Migration;
pub use migrate::{BUILT_IN, EmbedChoice};
use passage_vectors::PassageVectors;
use saved::SavedQuery;
pub use status::Status;

/// Kind of the rows in which saved queries are kept.
const SAVED: &str = "query";

/// With `index=sync`, how long a close waits at most.
const SYNC_WAIT_MAX: Duration = Duration::from_secs(30);

/// How long a search in a directory that was just made waits for the catalog to hear of it.
const NEW_DIRECTORY_WAIT: Duration = Duration::from_millis(500);

/// How long a manual index may take to catch up before it is held again.
const MANUAL_MAX: Duration = Duration::from_secs(24 * 3600);

/// Where things lie, and how the index is kept.
#[derive(Clone, Debug, Default)]
pub struct KnowledgeOptions {
    /// The backing directory, for people to read.
    pub source: PathBuf,
    /// The store directory, by a path that works whatever is mounted over it.
    pub store: PathBuf,
    /// The store directory, for people to read.
    pub store_location: PathBuf,
    /// Where the tree is mounted, if it is.
    pub mountpoint: Option<PathBuf>,
    /// Where the API is served, if it is.
    pub socket: Option<PathBuf>,
    /// When files are indexed.
    pub index: IndexMode,
    /// What makes the vectors of passages.
    pub embed: EmbedChoice,
    /// Processors that indexing may take; all that others leave when absent.
    pub cpus_max: Option<f32>,
}

/// When files are indexed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IndexMode {
    /// In the background, after they are closed; with `index=sync` the close waits.
    #[default]
    OnClose,
    /// On demand.
    Manual,
}

/// The mount that the store belongs to.
struct Mount {
    metrics: Arc<Metrics>,
    stack: Arc<Stack>,
}

/// What is known of the files of one backing directory.
pub struct Knowledge {
    options: KnowledgeOptions,
    store: Arc<Store>,
    searcher: Searcher,
    indexer: Arc<Indexer>,
    spaces: Arc<ToldSpaces>,
    vectors: Arc<Database>,
    migration: Arc<Migration>,
    root: OwnedFd,
    started: Instant,
    mount: OnceLock<Mount>,
    /// The transactions over the tree. They hold this, which they tell through.
    desk: OnceLock<Weak<Desk>>,
}

/// The relations that follow from a file's text.
fn relate(path: &Path, text: &str) -> Consequence {
    let derived = relation::derive(path, text, text);
    Box::new(move |tx, id| tx.set_derived(id, &derived))
}

impl Knowledge {
    /// Opens the store of a backing directory and starts its indexer. The caller holds the store's lock.
    pub fn open(root: OwnedFd, options: KnowledgeOptions) -> Result<Arc<Knowledge>> {
        let store = Arc::new(Store::open(&options.store.join("catalog.sqlite"))?);
        let derived = options.store.join("derived");
        std::fs::create_dir_all(&derived)?;
        let embedder = options.embed.embedder(&store)?;
        let vectors = Arc::new(
            Database::open(&derived.join("vectors"), VectorOptions::default()).map_err(vector_error)?,
        );
        let passages = passage_space(&vectors, &*embedder)?;
        let words = Arc::new(open_words(&derived.join("words"))?);
        let spaces = Arc::new(ToldSpaces::open(store.clone(), vectors.clone())?);
        let indexer = Indexer::start(IndexerParts {
            store: store.clone(),
            vectors: Arc::new(PassageVectors::new(passages.clone())),
            words: words.clone(),
            embedder: embedder.clone(),
            root: root.try_clone()?,
            options: IndexerOptions {
                manual: options.index == IndexMode::Manual,
                cpus_max: options.cpus_max,
                follow: Some(Arc::new(relate)),
                ..IndexerOptions::new(&options.store.join("marks"))
            },
        })?;
        let searcher = Searcher {
            store: store.clone(),
            model: ArcSwap::from_pointee(Model { embedder, passages }),
            spaces: spaces.clone(),
            words,
            root: root.try_clone()?,
            remembered: Default::default(),
            answered: Default::default(),
        };
        let knowledge = Arc::new(Knowledge {
            options,
            store,
            searcher,
            indexer,
            spaces,
            vectors,
            migration: Arc::default(),
            root,
            started: Instant::now(),
            mount: OnceLock::new(),
            desk: OnceLock::new(),
        });
        knowledge.resume_migration()?;
        Ok(knowledge)
    }

    /// The store of the tree.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Where the filesystem reports changes.
    pub fn changes(&self) -> Arc<dyn ChangeSink> {
        self.indexer.sink()
    }

    /// Answers a request, first waiting for freshness where it asks for that.
    pub fn search(&self, request: &Request<'_>) -> Result<Answer> {
        if !request.fresh.wait.is_zero() {
            self.indexer.wait_idle(request.fresh.wait);
        }
        if let Some(scope) = request.scope
            && !self.is_catalogued(scope)?
        {
            self.indexer.wait_seen(NEW_DIRECTORY_WAIT);
        }
        let mut answer = self.searcher.search(request)?;
        let status = self.indexer.status();
        answer.pending = status.pending.max(u64::from(status.scanning));
        if request.fresh.require && (answer.pending > 0 || !self.indexer.wait_idle(Duration::ZERO)) {
            return Err(Error::NotFresh {
                pending: answer.pending,
            });
        }
        Ok(answer)
    }

    /// Answers a request about a tree that differs from the catalog.
    pub(crate) fn search_overlaid(&self, request: &Request<'_>, overlay: &Overlay<'_>) -> Result<Answer> {
        let mut answer = self.searcher.search_overlaid(request, overlay)?;
        answer.pending = self.indexer.status().pending;
        Ok(answer)
    }

    fn is_catalogued(&self, directory: NodeKey) -> Result<bool> {
        Ok(self.store.read(|rows| rows.id_of(directory))?.is_some())
    }

    /// Waits until every change that was seen is searchable. False when the time ran out first.
    pub fn wait_idle(&self, timeout: Duration) -> bool {
        self.indexer.wait_idle(timeout)
    }

    /// The mount: its counters tell whether passthrough is on, its tree where a directory stands that the catalog
    /// does not know.
    pub fn set_mount(&self, metrics: Arc<Metrics>, stack: Arc<Stack>) {
        // There is one mount to a store.
        let _ = self.mount.set(Mount { metrics, stack });
    }

    /// From now on it answers in the trees of these transactions too.
    pub fn serve_transactions(&self, desk: &Arc<Desk>) {
        // There is one desk to a mount.
        let _ = self.desk.set(Arc::downgrade(desk));
    }

    /// The transactions over the tree; none without a mount that can have them.
    pub fn desk(&self) -> Option<Arc<Desk>> {
        self.desk.get()?.upgrade()
    }

    /// How fresh the index is.
    pub fn status(&self) -> Status {
        let counts = self.store.mirror().counts();
        let indexer = self.indexer.status();
        let model = self.searcher.model.load();
        Status {
            generation: self.store.generation(),
            files: counts.files,
            ready: counts.ready,
            pending: indexer.pending,
            queue: indexer.queue,
            failed: counts.failed,
            excluded: counts.excluded,
            passages: counts.passages,
            bytes: counts.bytes,
            scanning: indexer.scanning,
            idle: self.indexer.wait_idle(Duration::ZERO),
            error: indexer.error,
            embedder: model.embedder.id().to_owned(),
            dim: model.embedder.dim(),
            migration: self.migration.json(),
            mountpoint: self.options.mountpoint.clone(),
            source: self.options.source.clone(),
            store: self.options.store_location.clone(),
            socket: self.options.socket.clone(),
            simd: Kernels::get().simd().name(),
            queries: self.searcher.answered(),
            uptime_s: self.started.elapsed().as_secs(),
            passthrough: self.mount.get().map(|mount| mount.metrics.passthrough.get() != 0),
        }
    }

    /// A feed of what is committed from now on, of the files that the caller may read.
    pub fn subscribe(self: &Arc<Knowledge>, caller: Caller) -> Feed {
        let events = self.indexer.subscribe();
        let knowledge = self.clone();
        Feed::new(Box::new(move |deadline| match events.recv_deadline(deadline) {
            Ok(event) => {
                let readable = readable(knowledge.root.as_fd(), &caller, std::slice::from_ref(&event.path));
                // What is gone can be read by nobody; who could is not known any more, so only its owner hears of it.
                let hears = readable == [true] || caller.uid == rustix::process::geteuid().as_raw();
                vec![if hears {
                    event_json(&event).to_string()
                } else {
                    String::new()
                }]
            }
            Err(error) if error.is_timeout() => vec![String::new()],
            Err(_) => Vec::new(),
        }))
    }

    /// A feed of the changes of a saved query's results.
    pub fn live(self: &Arc<Knowledge>, caller: Caller, scope: NodeKey, saved: SavedQuery) -> Result<Feed> {
        saved.what()?;
        let (asks, waits) = (self.clone(), self.clone());
        let run = move || {
            let options = Options {
                k: 100,
                ..Options::default()
            };
            let what = saved.what()?;
            let request = Request {
                caller: &caller,
                scope: Some(scope),
                what,
                options: &options,
                fresh: Default::default(),
            };
            asks.searcher.search(&request)
        };
        let mut seen = self.store.generation();
        let wait = move |deadline: Instant| loop {
            let now = waits.store.generation();
            if now != seen {
                seen = now;
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        Ok(feed::live(run, wait))
    }

    /// Why a file is searchable, or why not.
    pub fn why(&self, caller: &Caller, path: &Path) -> Result<Value> {
        self.node_at(caller, path, false)?;
        let why = self.indexer.why(path)?;
        Ok(json!({
            "path": path_text(path),
            "state": why.state.to_string(),
            "file": why.file.map(|file| file.0),
            "passages": why.passages,
            "generation": why.indexed.0,
        }))
    }

    /// Makes the derived indexes anew; only the daemon's user may.
    pub fn rebuild(&self, caller: &Caller) -> Result<()> {
        self.owner_only(caller)?;
        for space in self.store.read(|rows| rows.spaces())? {
            self.spaces.rebuild(&space.name)?;
        }
        self.indexer.rebuild()?;
        if self.options.index == IndexMode::Manual {
            self.index_once()?;
        }
        Ok(())
    }

    /// Lets a manual index catch up, then holds it again.
    fn index_once(&self) -> Result<()> {
        self.indexer.pause(false);
        let indexer = self.indexer.clone();
        std::thread::Builder::new()
            .name("vexfs-once".into())
            .spawn(move || {
                indexer.wait_idle(MANUAL_MAX);
                indexer.pause(true);
            })?;
        Ok(())
    }

    fn owner_only(&self, caller: &Caller) -> Result<()> {
        let owner = rustix::process::geteuid().as_raw();
        if caller.uid == owner || caller.uid == 0 {
            Ok(())
        } else {
            Err(Error::Denied)
        }
    }

    /// The path of a directory below the root, also of one that is kept out of the catalog or not in it yet.
    pub fn directory_path(&self, directory: NodeKey) -> Result<PathBuf> {
        let id = self.store.read(|rows| rows.id_of(directory))?;
        let known = id.and_then(|id| self.store.mirror().path(id));
        let asked = || self.mount.get()?.stack.path_of(directory);
        known
            .or_else(asked)
            .ok_or_else(|| Error::NotFound("the directory".into()))
    }

    /// The directory at a path below the root, for a caller who may search it.
    pub fn directory_at(&self, caller: &Caller, path: &Path) -> Result<NodeKey> {
        self.stat_at(caller, path, Access::EXEC_OK).map(|(node, _)| node)
    }

    /// The type bits of the mode of what stands at a path below a directory.
    pub fn file_type(&self, caller: &Caller, directory: NodeKey, path: &Path) -> Result<u32> {
        let path = self.directory_path(directory)?.join(path);
        self.stat_at(caller, &path, Access::EXISTS)
            .map(|(_, mode)| mode & libc::S_IFMT)
    }

    fn node_at(&self, caller: &Caller, path: &Path, write: bool) -> Result<NodeKey> {
        let access = if write { Access::WRITE_OK } else { Access::READ_OK };
        self.stat_at(caller, path, access).map(|(node, _)| node)
    }

    fn stat_at(&self, caller: &Caller, path: &Path, access: Access) -> Result<(NodeKey, u32)> {
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        let missing = |e: Errno| match e {
            Errno::NOENT | Errno::NOTDIR => Error::NotFound(path_text(path)),
            e => e.into(),
        };
        // The caller is refused first: whether a path in a closed directory exists is not theirs to know.
        let refused = refusals(self.root.as_fd(), caller, &[path.to_owned()], access);
        match refused.first() {
            // What a symbolic link leads to may be missing while it is there itself.
            Some(None | Some(Errno::NOENT | Errno::NOTDIR)) => {}
            _ => return Err(Error::Denied),
        }
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file =
            rustix::fs::openat2(self.root.as_fd(), path, flags, Mode::empty(), resolve).map_err(missing)?;
        let stat = rustix::fs::fstat(&file)?;
        Ok((
            NodeKey {
                dev: stat.st_dev,
                ino: stat.st_ino,
            },
            stat.st_mode,
        ))
    }

    /// A saved query of the caller.
    pub fn saved_get(&self, caller: &Caller, name: &OsStr) -> Result<SavedQuery> {
        let value = self
            .store
            .read(|rows| rows.saved(SAVED, &saved_key(caller, name)))?;
        let value = value.ok_or_else(|| Error::NotFound(name_text(name)))?;
        serde_json::from_slice(&value).map_err(|e| Error::Corrupt {
            what: "saved query".into(),
            at: e.to_string(),
        })
    }

    /// Makes a saved query.
    pub fn saved_create(&self, caller: &Caller, name: &OsStr) -> Result<()> {
        if self.saved_get(caller, name).is_ok() {
            return Err(Error::Exists(name_text(name)));
        }
        self.saved_put(caller, name, &SavedQuery::default())
    }

    /// Changes a saved query; an error of `change` leaves it as it was.
    pub fn saved_set(
        &self,
        caller: &Caller,
        name: &OsStr,
        change: impl FnOnce(&mut SavedQuery) -> Result<()>,
    ) -> Result<()> {
        let mut saved = self.saved_get(caller, name)?;
        change(&mut saved)?;
        self.saved_put(caller, name, &saved)
    }

    fn saved_put(&self, caller: &Caller, name: &OsStr, saved: &SavedQuery) -> Result<()> {
        let value = json!(saved).to_string();
        self.store
            .write(|tx| tx.save(SAVED, &saved_key(caller, name), Some(value.as_bytes())))?;
        Ok(())
    }

    /// Drops a saved query.
    pub fn saved_drop(&self, caller: &Caller, name: &OsStr) -> Result<()> {
        self.saved_get(caller, name)?;
        self.store
            .write(|tx| tx.save(SAVED, &saved_key(caller, name), None))?;
        Ok(())
    }

    /// Gives a saved query another name; one that has it already is an error.
    pub fn saved_rename(&self, caller: &Caller, name: &OsStr, new: &OsStr) -> Result<()> {
        let value = json!(self.saved_get(caller, name)?).to_string();
        if self.saved_get(caller, new).is_ok() {
            return Err(Error::Exists(name_text(new)));
        }
        self.store.write(|tx| {
            tx.save(SAVED, &saved_key(caller, name), None)?;
            tx.save(SAVED, &saved_key(caller, new), Some(value.as_bytes()))
        })?;
        Ok(())
    }

    /// The names of the caller's saved queries.
    pub fn saved_names(&self, caller: &Caller) -> Result<Vec<OsString>> {
        let prefix = saved_key(caller, OsStr::new(""));
        let all = self.store.read(|rows| rows.saved_all(SAVED))?;
        let names = all.iter().filter_map(|(key, _)| key.strip_prefix(&*prefix));
        Ok(names.map(|name| OsStr::from_bytes(name).to_owned()).collect())
    }

    /// Looks at the whole tree and returns when that is done; what changed is indexed afterwards.
    pub fn scan(&self) -> Result<()> {
        self.indexer.scan(|_| true)
    }

    /// Looks at the whole tree, in a thread of its own: what changed while nobody watched is indexed afterwards.
    pub fn scan_in_background(&self) -> Result<()> {
        let indexer = self.indexer.clone();
        std::thread::Builder::new()
            .name("vexfs-scan".into())
            .spawn(move || match indexer.scan(|_| true) {
                Ok(()) | Err(Error::Stopped) => {}
                Err(error) => tracing::error!(%error, "the scan of the tree failed"),
            })?;
        Ok(())
    }

    /// Waits until what was reported of a file so far can be found.
    pub fn wait_file(&self, node: NodeKey) {
        if !self.indexer.wait_file(node, SYNC_WAIT_MAX) {
            tracing::warn!(ino = node.ino, "a closed file is not searchable yet");
        }
    }

    /// Ends the indexer: what it has begun is committed, what waits is found again at the next start.
    pub fn stop(&self) {
        self.migration.stop();
        self.indexer.stop();
    }
}

/// A line of the change feed.
fn event_json(event: &Event) -> Value {
    json!({
        "generation": event.generation.0,
        "what": event.what.word(),
        "path": path_text(&event.path),
        "id": event.file.0,
    })
}

/// Saved queries belong to their user.
fn saved_key(caller: &Caller, name: &OsStr) -> Vec<u8> {
    let mut key = format!("{}/", caller.uid).into_bytes();
    key.extend_from_slice(name.as_bytes());
    key
}

/// The space of passages of an embedder: another embedder has another space.
fn passage_space_name(embedder: &dyn Embedder) -> String {
    format!("passages.{}", embedder.id())
}

fn passage_space(vectors: &Database, embedder: &dyn Embedder) -> Result<Arc<Space>> {
    let name = passage_space_name(embedder);
    match vectors.space(&name) {
        Ok(space) => Ok(space),
        Err(vexfs_vector::Error::UnknownSpace(_)) => vectors
            .create_space(&name, SpaceConfig::new(embedder.dim(), Measure::Cosine))
            .map_err(vector_error),
        Err(error) => {
            // Derived: what cannot be opened is made anew, and the indexer fills it.
            tracing::warn!(%error, "the vectors of passages are made anew");
            vectors.drop_space(&name).map_err(vector_error)?;
            vectors
                .create_space(&name, SpaceConfig::new(embedder.dim(), Measure::Cosine))
                .map_err(vector_error)
        }
    }
}

/// Opens the lexical index, made anew where it cannot be opened.
fn open_words(dir: &Path) -> Result<LexicalIndex> {
    match LexicalIndex::open(dir, 1) {
        Err(error @ Error::Corrupt { .. }) => {
            tracing::warn!(%error, "the index of words is made anew");
            std::fs::remove_dir_all(dir)?;
            LexicalIndex::open(dir, 1)
        }
        opened => opened,
    }
}
