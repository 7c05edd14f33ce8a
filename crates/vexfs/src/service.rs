//! What is known of a tree, served on a Unix socket: by the daemon of a mount, or, without one, by a command for as
//! long as it runs.

use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use vexfs_core::fs::ops::Caller;
use vexfs_core::knowledge::{EmbedChoice, IndexMode, Knowledge, KnowledgeOptions};
use vexfs_core::store::dir::{StoreDir, StoreLock};
use vexfs_core::{Error, Result as CoreResult};
use vexfs_mount::options::{Embed, Http, Index, MountOptions};
use vexfs_mount::place::Place;
use vexfs_server::{Key, Server};

use crate::cli::failure::Failure;

/// The socket in the store directory.
pub(crate) const STORE_SOCKET: &str = "socket";
/// The key of the TCP interface, in the store directory.
const KEY: &str = "api-key";
/// Longest path of a socket that every system takes (`sun_path` without its end).
const SOCKET_PATH_MAX: usize = 107;

/// The knowledge of a tree, and its API. Dropping it stops both.
pub(crate) struct Service {
    knowledge: Arc<Knowledge>,
    socket: PathBuf,
    servers: Vec<Server>,
    /// Sockets outside of the store; they are removed at the end.
    sockets: Vec<PathBuf>,
}

/// How files are indexed.
#[derive(Default)]
struct How {
    index: IndexMode,
    embed: EmbedChoice,
    cpus_max: Option<f32>,
}

impl Service {
    /// For a mount.
    pub(crate) fn start(
        place: &Place,
        options: &MountOptions,
        store: &StoreDir,
    ) -> vexfs_core::Result<Service> {
        let index = match options.index {
            Index::OnClose | Index::Sync => IndexMode::OnClose,
            Index::Manual => IndexMode::Manual,
        };
        let root = place.source_dir.try_clone()?;
        let embed = match &options.embed {
            Embed::Auto => EmbedChoice::Recorded,
            Embed::Off => EmbedChoice::Off,
            Embed::Profile(name) => EmbedChoice::Profile(name.clone()),
        };
        let cpus_max = options.index_cpu.map(|percent| percent.get() as f32 / 100.0);
        let how = How {
            index,
            embed,
            cpus_max,
        };
        let mut service = Service::open(root, &place.source, Some(&place.mountpoint), how, store)?;
        service.listen_also(&options.http, store)?;
        Ok(service)
    }

    /// Serves on a loopback address or a socket of the user's choice, too.
    fn listen_also(&mut self, http: &Http, store: &StoreDir) -> CoreResult<()> {
        let server = match http {
            Http::Off => return Ok(()),
            Http::Address(address) => {
                let listener = listen_on_loopback(address)?;
                let owner = Caller {
                    uid: rustix::process::geteuid().as_raw(),
                    gid: rustix::process::getegid().as_raw(),
                    pid: std::process::id(),
                };
                let key = Key::in_file(&store.path().join(KEY), owner)?;
                Server::start_tcp(listener, self.knowledge.clone(), key)?
            }
            Http::Unix(path) => {
                let there = std::fs::symlink_metadata(path);
                if there.is_ok_and(|meta| !meta.file_type().is_socket()) {
                    let what = format!("http=unix:{}: something else has this name", path.display());
                    return Err(Error::Invalid(what));
                }
                let listener = listen(path, 0o666)
                    .map_err(|e| Error::Invalid(format!("http=unix:{}: {e}", path.display())))?;
                self.sockets.push(path.clone());
                Server::start(listener, self.knowledge.clone())?
            }
        };
        self.servers.push(server);
        Ok(())
    }

    fn open(
        root: std::os::fd::OwnedFd,
        source: &Path,
        mountpoint: Option<&Path>,
        how: How,
        store: &StoreDir,
    ) -> vexfs_core::Result<Service> {
        // The store may lie below the mountpoint, or be readable to its owner only: others reach the daemon here.
        let public = mountpoint.and_then(|_| public_socket());
        let in_store = store.path().join(STORE_SOCKET);
        let socket = public
            .clone()
            .unwrap_or_else(|| store.location().join(STORE_SOCKET));
        let knowledge = Knowledge::open(
            root,
            KnowledgeOptions {
                source: source.to_owned(),
                store: store.path(),
                store_location: store.location().to_owned(),
                mountpoint: mountpoint.map(Path::to_owned),
                socket: Some(socket.clone()),
                index: how.index,
                embed: how.embed,
                cpus_max: how.cpus_max,
            },
        )?;
        let mut servers = vec![Server::start(listen(&in_store, 0o600)?, knowledge.clone())?];
        if let Some(public) = &public {
            servers.push(Server::start(listen(public, 0o666)?, knowledge.clone())?);
        }
        Ok(Service {
            knowledge,
            socket: public.clone().unwrap_or(in_store),
            servers,
            sockets: public.into_iter().collect(),
        })
    }

    /// The verbs.
    pub(crate) fn knowledge(&self) -> &Arc<Knowledge> {
        &self.knowledge
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.servers.clear();
        self.knowledge.stop();
        for socket in &self.sockets {
            let _ = std::fs::remove_file(socket);
        }
    }
}

/// A socket that other users can reach: `/run/vexfs` for root, `$XDG_RUNTIME_DIR/vexfs` for others, named by the
/// daemon's process id. None where there is no such directory.
fn public_socket() -> Option<PathBuf> {
    let dir = if rustix::process::geteuid().is_root() {
        PathBuf::from("/run/vexfs")
    } else {
        PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR")?).join("vexfs")
    };
    std::fs::create_dir_all(&dir).ok()?;
    std::fs::set_permissions(&dir, PermissionsExt::from_mode(0o755)).ok()?;
    let socket = dir.join(format!("{}.sock", std::process::id()));
    (socket.as_os_str().len() <= SOCKET_PATH_MAX).then_some(socket)
}

/// Listens where only this machine can ask: what is said is not encrypted, and the key opens the whole tree.
fn listen_on_loopback(address: &str) -> CoreResult<TcpListener> {
    let bad = |what: String| Error::Invalid(format!("http={address}: {what}"));
    let addresses: Vec<SocketAddr> = address
        .to_socket_addrs()
        .map_err(|e| bad(e.to_string()))?
        .collect();
    if addresses.is_empty() || addresses.iter().any(|address| !address.ip().is_loopback()) {
        return Err(bad(
            "only loopback addresses, such as 127.0.0.1:7700; others through a proxy with TLS".into(),
        ));
    }
    TcpListener::bind(&*addresses).map_err(|e| bad(e.to_string()))
}

/// Binds a socket in place of one that a dead daemon left.
fn listen(path: &Path, mode: u32) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode))?;
    Ok(listener)
}

/// The store of a directory that is not mounted, open for the time of a command. Its tree is scanned first, so that
/// what changed meanwhile is found.
pub(crate) struct Unmounted {
    service: Service,
    _lock: StoreLock,
    store: StoreDir,
}

impl Unmounted {
    /// Opens the store of a directory, making it where there is none.
    pub(crate) fn open(directory: &Path) -> Result<Unmounted, Failure> {
        let store = StoreDir::open_or_create(directory, None, ".vexfs".as_ref())?;
        let lock = store.lock()?;
        let root = std::fs::File::open(directory).map_err(|e| Failure::from_io(&e, directory))?;
        let service = Service::open(root.into(), directory, None, Default::default(), &store)?;
        service.knowledge.scan()?;
        Ok(Unmounted {
            service,
            _lock: lock,
            store,
        })
    }

    /// As [`Unmounted::open`], with an interface of the user's choice beside the store's socket.
    pub(crate) fn open_and_serve(directory: &Path, http: &Http) -> Result<Unmounted, Failure> {
        let mut unmounted = Unmounted::open(directory)?;
        unmounted.service.listen_also(http, &unmounted.store)?;
        Ok(unmounted)
    }

    /// The store's socket, by a path that other programs can use.
    pub(crate) fn address(&self) -> PathBuf {
        self.store.location().join(STORE_SOCKET)
    }

    /// Looks at the whole tree again; what changed is indexed afterwards.
    pub(crate) fn rescan(&self) -> Result<(), Failure> {
        Ok(self.service.knowledge.scan()?)
    }

    /// The verbs.
    #[cfg(feature = "bench")]
    pub(crate) fn knowledge(&self) -> &Arc<Knowledge> {
        &self.service.knowledge
    }

    /// Where to talk to it.
    pub(crate) fn socket(&self) -> PathBuf {
        self.service.socket.clone()
    }
}
