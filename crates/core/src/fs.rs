//! Stacking over a backing directory: the only place that makes backing system calls on behalf of a caller.
//!
//! The truth is the backing directory. Nothing of it is cached here but numbers, file handles and a bounded number of
//! descriptors; what may be believed for how long is the kernel's cache, told by the entry's lifetime and by
//! [`Invalidate`].

pub mod ops;

pub use crate::change;

mod attributes;
pub(crate) mod copy;
mod directory;
mod handle;
mod identity;
pub mod keep;
mod lookup;
mod mounts;
mod name;
mod names;
mod node;
mod open;
mod set_id;
mod slab;
mod staging;
mod stat;
mod table;
mod watch;
mod xattr;

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::fs::Statx;

use self::change::ChangeSink;
use self::directory::OpenDir;
use self::identity::Identity;
use self::keep::Keeper;
use self::mounts::Mounts;
use self::node::{KeptFds, Node, Reference};
use self::ops::Entry;
use self::slab::Slab;
use self::table::Table;
use crate::ids::{Ino, NodeKey};
use crate::{Error, Result};

pub use self::directory::DirEntry;
pub(crate) use self::open::EXECUTES;
pub use self::open::{OpenFile, Opened, Reopen, SHARED_FH};
pub use self::set_id::give_up_keeping_set_id;
pub use self::xattr::OWN_PREFIX;

/// Directories, and files in use, whose descriptor is kept. Larger working sets are rare, and cost two system calls more
/// for each cold one.
const KEPT_MAX: usize = 8192;

/// How long the kernel believes what is invalidated when it changes. A time given that is as long is taken for the
/// promise that nobody changes the backing directory behind the mount.
pub(crate) const WATCHED_TTL: Duration = Duration::from_secs(3600);

/// How long it believes the rest. Within a burst of requests it is as good as an hour.
const UNWATCHED_TTL: Duration = Duration::from_secs(1);

/// How the backing directory is shown.
#[derive(Clone, Debug)]
pub struct StackOptions {
    /// The name that belongs to the control directory in every directory; `None` gives it back to the files.
    pub ctlname: Option<OsString>,
    /// The control directory is also listed, in the root.
    pub ctl_listed: bool,
    /// How long the kernel may believe names and attributes; `None` for long if changes behind the mount are noticed
    /// ([`Stack::watch`]), else for a second.
    pub ttl: Option<Duration>,
    /// Use file handles if they work. Without them inodes are found again by name.
    pub handles: bool,
    /// The directory, by key, and the name in it under which the mount itself lies, if that is below the backing
    /// directory: it is cut out of the view, since looking into it would ask ourselves.
    pub mountpoint: Option<(NodeKey, OsString)>,
}

impl Default for StackOptions {
    fn default() -> StackOptions {
        StackOptions {
            ctlname: Some(OsString::from(".vexfs")),
            ctl_listed: false,
            ttl: None,
            handles: true,
            mountpoint: None,
        }
    }
}

/// The way back to the kernel's caches. Called from any thread but never with a lock held.
pub trait Invalidate: Send + Sync {
    /// The name in the directory may lead elsewhere now.
    fn entry(&self, parent: Ino, name: &OsStr);
    /// The attributes changed, and if `data`, cached pages as well.
    fn inode(&self, ino: Ino, data: bool);
}

/// A backing directory as a filesystem.
pub struct Stack {
    options: StackOptions,
    identity: Identity,
    mounts: Mounts,
    table: Table,
    kept: KeptFds,
    files: Slab<OpenFile>,
    dirs: Slab<OpenDir>,
    changes: Arc<dyn ChangeSink>,
    kernel: OnceLock<Arc<dyn Invalidate>>,
    keeper: OnceLock<Arc<Keeper>>,
    watched: AtomicBool,
}

impl Stack {
    /// Stacks over the directory `root`, which may be an O_PATH descriptor. It is kept as long as the stack lives, and
    /// everything is reached from it: what is mounted over the directory later, ourselves included, is not seen.
    pub fn new(root: OwnedFd, options: StackOptions, changes: Arc<dyn ChangeSink>) -> Result<Stack> {
        let stat = stat::stat_fd(&root)?;
        if stat::kind(&stat) != libc::S_IFDIR {
            return Err(Error::Os(libc::ENOTDIR));
        }
        let mounts = Mounts::new(&root, &stat, options.handles)?;
        let capacity = if mounts.get(0).handles {
            KEPT_MAX.min(half_of_descriptors())
        } else {
            // Every inode that is in use may want one.
            half_of_descriptors().clamp(64, 1 << 17)
        };
        let stack = Stack {
            options,
            identity: Identity::of_this_process()?,
            mounts,
            table: Table::new(),
            kept: KeptFds::new(capacity),
            files: Slab::new(),
            dirs: Slab::new(),
            changes,
            kernel: OnceLock::new(),
            keeper: OnceLock::new(),
            watched: AtomicBool::new(false),
        };
        let node = Node::new(
            Ino::ROOT,
            stat.stx_ino,
            0,
            0,
            libc::S_IFDIR,
            Reference::Descriptor,
        );
        node.pin_fd(root);
        stack.table.pin(Arc::new(node));
        Ok(stack)
    }

    /// Says how to reach the kernel's caches. Until then, and without it, they are believed for their lifetime.
    pub fn connect(&self, kernel: Arc<dyn Invalidate>) {
        // A second call comes from a second mount of the same stack, which there is none of.
        let _ = self.kernel.set(kernel);
    }

    /// Says who keeps what files were at snapshots.
    pub fn keep_with(&self, keeper: Arc<Keeper>) {
        // There is one store to a stack.
        let _ = self.keeper.set(keeper);
    }

    /// Who keeps old contents, while there is a snapshot.
    pub(crate) fn keeper(&self) -> Option<&Arc<Keeper>> {
        self.keeper.get().filter(|keeper| keeper.is_on())
    }

    /// Device and inode number on the backing filesystem.
    pub fn node_key(&self, ino: Ino) -> Option<NodeKey> {
        self.table.get(ino).map(|node| self.key(&node))
    }

    /// The number that the kernel knows an inode by, if it does know it.
    pub fn ino_of(&self, key: NodeKey) -> Option<Ino> {
        let mount = self.mounts.by_device(key.dev)?;
        let ino = self.mounts.known_ino(mount, key.ino)?;
        self.table.get(ino).map(|node| node.ino)
    }

    /// When an inode that the kernel knows was born, in nanoseconds since the epoch, where the filesystem tells: by it one
    /// is told from another that had the same number.
    pub fn born(&self, key: NodeKey) -> Option<i64> {
        let node = self.node(self.ino_of(key)?).ok()?;
        let stat = stat::stat_fd(&self.fd(&node).ok()?).ok()?;
        let told = stat.stx_mask & rustix::fs::StatxFlags::BTIME.bits() != 0;
        let born = stat.stx_btime;
        told.then(|| {
            born.tv_sec
                .saturating_mul(1_000_000_000)
                .saturating_add(i64::from(born.tv_nsec))
        })
    }

    /// Where a directory that the kernel knows stands now, below the root; the backing filesystem tells it. None if
    /// it is deleted.
    pub fn path_of(&self, key: NodeKey) -> Option<PathBuf> {
        let place = |node: &Arc<Node>| {
            let fd = self.fd(node).ok()?;
            let stat = stat::stat_fd(&fd).ok()?;
            let path = std::fs::read_link(lookup::proc_path(fd.as_fd())).ok()?;
            (stat.stx_nlink > 0).then_some(path)
        };
        let directory = self.node(self.ino_of(key)?).ok()?;
        let root = self.node(Ino::ROOT).ok()?;
        let path = place(&directory)?.strip_prefix(place(&root)?).ok()?.to_owned();
        Some(path)
    }

    /// Inodes that the kernel knows.
    pub fn inodes(&self) -> u64 {
        self.table.len()
    }

    /// Open files and directories that need a descriptor of the daemon.
    pub fn open_files(&self) -> u64 {
        self.files.len() + self.dirs.len()
    }

    /// Descriptors kept for directories and for files in use.
    pub fn kept_descriptors(&self) -> u64 {
        self.kept.len() as u64
    }

    /// Whether inodes of the backing directory's filesystem are held by file handle.
    pub fn uses_handles(&self) -> bool {
        self.mounts.get(0).handles
    }

    /// How the stack was set up.
    pub fn options(&self) -> &StackOptions {
        &self.options
    }

    /// How long the kernel may believe what it is told of an inode.
    pub fn ttl_of(&self, ino: Ino) -> Duration {
        let watched = self.watched.load(Relaxed) && mounts::is_of_root(ino);
        self.options
            .ttl
            .unwrap_or(if watched { WATCHED_TTL } else { UNWATCHED_TTL })
    }

    /// Whether what was asked once need not be asked again: nobody changes the inode unnoticed.
    pub fn is_trusted(&self, ino: Ino) -> bool {
        self.ttl_of(ino) >= WATCHED_TTL
    }

    /// The user that the daemon acts as.
    pub fn owner(&self) -> u32 {
        self.identity.uid()
    }

    fn node(&self, ino: Ino) -> Result<Arc<Node>> {
        self.table.get(ino).ok_or(Error::Os(libc::ESTALE))
    }

    fn key(&self, node: &Node) -> NodeKey {
        NodeKey {
            dev: self.mounts.get(node.mount).device,
            ino: node.number,
        }
    }

    fn entry(&self, node: &Node, stat: &Statx) -> Entry {
        let attr = stat::attr(node.ino, stat);
        Entry {
            attr_ttl: self.attr_ttl(&attr),
            attr,
            generation: u64::from(node.generation),
            entry_ttl: self.ttl_of(node.ino),
        }
    }

    /// Whether the name cannot be used by files: it belongs to the control directory.
    fn is_reserved(&self, name: &OsStr) -> bool {
        self.options.ctlname.as_deref() == Some(name)
    }

    /// Whether the name is left out of the view: reserved, or our own mountpoint.
    fn is_hidden(&self, dir: &Node, name: &OsStr) -> bool {
        self.is_reserved(name)
            || self
                .options
                .mountpoint
                .as_ref()
                .is_some_and(|(parent, n)| n == name && self.key(dir) == *parent)
    }

    /// Refuses to make or remove a name that is not an ordinary one.
    fn check_new_name(&self, dir: &Node, name: &OsStr) -> Result<()> {
        name::check(name)?;
        if self.is_reserved(name) {
            return Err(Error::Os(libc::EPERM));
        }
        if self.is_hidden(dir, name) {
            return Err(Error::Os(libc::EBUSY));
        }
        Ok(())
    }
}

/// Half of what the process may have.
fn half_of_descriptors() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    (limit.unwrap_or(1 << 20) / 2) as usize
}
