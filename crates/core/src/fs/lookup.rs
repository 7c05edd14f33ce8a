//! From names to inodes and back to descriptors: lookup, forget, and every way to open a node again.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, ResolveFlags, Statx, Timespec};
use rustix::io::Errno;

use super::handle::{Form, Handle};
use super::mounts::Mount;
use super::node::{Node, Reference};
use super::ops::Entry;
use super::stat::{birth, is_born_before, kind, now, stat_at, stat_fd};
use super::table::Found;
use super::{Stack, name};
use crate::ids::Ino;
use crate::{Error, Result};

/// How often a name may be replaced between the two calls of one lookup before the caller hears of it.
const RACES_MAX: u32 = 16;

/// Nothing is followed: neither out of the directory, nor through a symbolic link or /proc.
const RESOLVE: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS);

/// A descriptor of a node: kept, or only for this operation.
pub(super) enum NodeFd {
    Kept(Arc<OwnedFd>),
    Own(OwnedFd),
}

impl AsFd for NodeFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            NodeFd::Kept(fd) => fd.as_fd(),
            NodeFd::Own(fd) => fd.as_fd(),
        }
    }
}

impl Stack {
    /// Finds a name in a directory. The answer counts as one lookup. ENOENT for the control directory's name, whose
    /// answer is not ours.
    pub fn lookup(&self, parent: Ino, name: &OsStr) -> Result<Entry> {
        let dir = self.node(parent)?;
        let (node, stat) = self.find(&dir, name)?;
        Ok(self.entry(&node, &stat))
    }

    /// Takes back `count` lookups.
    pub fn forget(&self, ino: Ino, count: u64) {
        if let Some(node) = self.table.forget(ino, count) {
            self.mounts.forget(ino, node.mount, node.number);
        }
    }

    /// Finds a name and counts the lookup: statx, and for what cannot be told by its birth time name_to_handle_at. No
    /// descriptor is opened.
    pub(super) fn find(&self, dir: &Arc<Node>, name: &OsStr) -> Result<(Arc<Node>, Statx)> {
        name::check(name)?;
        if self.is_hidden(dir, name) {
            return Err(Error::Os(libc::ENOENT));
        }
        let dir_fd = self.fd(dir)?;
        self.find_at(dir.ino, dir_fd.as_fd(), name)
    }

    /// The same in a directory that is open, for a name that was checked.
    pub(super) fn find_at(
        &self,
        parent: Ino,
        dir: BorrowedFd<'_>,
        name: &OsStr,
    ) -> Result<(Arc<Node>, Statx)> {
        for _ in 0..RACES_MAX {
            let before = now();
            let stat = stat_at(dir, name)?;
            let mount = self.mounts.of(&stat, dir, name)?;
            if let Some(node) = self.refer_by_birth(&stat, &mount, before) {
                return Ok((node, stat));
            }
            let handle = if mount.handles {
                Some(Handle::at(dir, name)?)
            } else {
                None
            };
            // Between the two calls the name may have been given to another inode.
            let same = match handle.as_ref().map(|h| (h, h.is_of(stat.stx_ino))) {
                None | Some((_, Some(true))) => true,
                Some((_, Some(false))) => false,
                Some((handle, None)) => {
                    let opened = handle.open(&mount.fd, libc::O_PATH)?;
                    stat_fd(opened)?.stx_ino == stat.stx_ino
                }
            };
            if same {
                return Ok((self.refer(&stat, mount.index, handle, Some((parent, name))), stat));
            }
        }
        Err(Error::Os(libc::EAGAIN))
    }

    /// Counts a lookup of an inode that is already open, as `name` in `parent`.
    pub(super) fn find_open(
        &self,
        parent: Ino,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        fd: BorrowedFd<'_>,
    ) -> Result<(Arc<Node>, Statx)> {
        let before = now();
        let stat = stat_fd(fd)?;
        let mount = self.mounts.of(&stat, dir, name)?;
        if let Some(node) = self.refer_by_birth(&stat, &mount, before) {
            return Ok((node, stat));
        }
        let handle = if mount.handles {
            Some(Handle::at(fd, OsStr::new(""))?)
        } else {
            None
        };
        Ok((self.refer(&stat, mount.index, handle, Some((parent, name))), stat))
    }

    /// Counts a lookup of what was found, if its birth time tells it from all inodes that ever have its number. `before`
    /// is from before its attributes were asked for.
    fn refer_by_birth(&self, stat: &Statx, mount: &Mount, before: Timespec) -> Option<Arc<Node>> {
        if !mount.numbers {
            return None;
        }
        let found = self.found(stat, mount.index, None);
        let node = self.table.refer_by_birth(&found, is_born_before(stat, before))?;
        self.tell(&node, stat);
        Some(node)
    }

    fn found(&self, stat: &Statx, mount: u32, generation: Option<u32>) -> Found {
        Found {
            ino: self.mounts.ino(mount, stat.stx_ino),
            number: stat.stx_ino,
            mount,
            generation,
            birth: birth(stat),
            kind: kind(stat),
        }
    }

    /// Counts a lookup of what was found, by its handle or, without one, by its place.
    fn refer(
        &self,
        stat: &Statx,
        mount: u32,
        handle: Option<Handle>,
        place: Option<(Ino, &OsStr)>,
    ) -> Arc<Node> {
        let found = self.found(stat, mount, handle.as_ref().map(Handle::generation));
        let by_name = handle.is_none();
        let node = self.table.refer(
            &found,
            |known| by_name && !place.is_none_or(|(parent, name)| known.reference().is_name(parent, name)),
            || match (handle, place) {
                (Some(handle), _) => Reference::Handle(handle),
                (None, Some((parent, name))) => Reference::name(parent, name),
                (None, None) => Reference::Descriptor,
            },
        );
        self.tell(&node, stat);
        node
    }

    /// A descriptor that names the node and nothing more (O_PATH or better). Those of directories are kept.
    pub(super) fn fd(&self, node: &Arc<Node>) -> Result<NodeFd> {
        if let Some(kept) = node.kept_fd() {
            return Ok(NodeFd::Kept(kept));
        }
        let fd = self.reopen(node, libc::O_PATH | libc::O_NOFOLLOW)?;
        let keep = node.is_dir() || !self.mounts.get(node.mount).handles;
        Ok(if keep {
            NodeFd::Kept(self.kept.keep(node, fd))
        } else {
            NodeFd::Own(fd)
        })
    }

    /// Opens the node anew. `flags` must not create, and for anything but O_PATH the node must be a regular file
    /// or a directory: opening a device or FIFO acts.
    pub(super) fn reopen(&self, node: &Arc<Node>, flags: i32) -> Result<OwnedFd> {
        debug_assert!(flags & (libc::O_CREAT | libc::O_EXCL) == 0);
        debug_assert!(flags & libc::O_PATH != 0 || node.is_dir() || node.is_file());
        self.with_room(|| self.reopen_once(node, flags))
    }

    /// The same with the attributes of what was opened.
    pub(super) fn reopen_and_stat(&self, node: &Arc<Node>, flags: i32) -> Result<(OwnedFd, Statx)> {
        if node.is_by_birth() && flags & libc::O_TRUNC == 0 {
            return self.with_room(|| self.reopen_by_number(node, flags));
        }
        let fd = self.reopen(node, flags)?;
        let stat = stat_fd(&fd)?;
        Ok((fd, stat))
    }

    /// Opens something, if need be instead of what is kept.
    fn with_room<T>(&self, open: impl Fn() -> Result<T>) -> Result<T> {
        match open() {
            Err(Error::Os(libc::EMFILE)) => {
                self.kept.shrink();
                open()
            }
            result => result,
        }
    }

    /// Attributes of a node, and of a directory the descriptor that is kept anyway.
    pub(super) fn stat(&self, node: &Arc<Node>) -> Result<Statx> {
        if !node.is_by_birth() || node.is_dir() {
            return Ok(stat_fd(self.fd(node)?)?);
        }
        match node.kept_fd() {
            Some(kept) => Ok(stat_fd(kept)?),
            None => Ok(self.reopen_and_stat(node, libc::O_PATH | libc::O_NOFOLLOW)?.1),
        }
    }

    /// Opens a node by its number, and looks whether that is still its own; with its attributes.
    fn reopen_by_number(&self, node: &Node, flags: i32) -> Result<(OwnedFd, Statx)> {
        let mount = self.mounts.get(node.mount);
        let number = Handle::of(Form::AnyInode32, node.number, 0);
        // Another inode may be a FIFO, where opening waits, and must not be cut.
        let careful = flags & !libc::O_TRUNC | libc::O_NONBLOCK;
        let fd = match number.open(&mount.fd, careful) {
            // Somebody has a lease, which has to be waited for.
            Err(Errno::AGAIN) => {
                let fd = number.open(&mount.fd, libc::O_PATH)?;
                check_born(node, &stat_fd(&fd)?)?;
                Handle::at(fd.as_fd(), OsStr::new(""))?.open(&mount.fd, flags & !libc::O_TRUNC)?
            }
            opened => opened?,
        };
        let stat = stat_fd(&fd)?;
        check_born(node, &stat)?;
        if flags & libc::O_TRUNC != 0 {
            rustix::fs::ftruncate(&fd, 0)?;
        }
        Ok((fd, stat))
    }

    fn reopen_once(&self, node: &Arc<Node>, flags: i32) -> Result<OwnedFd> {
        match node.reference() {
            Reference::Handle(handle) => Ok(handle.open(&self.mounts.get(node.mount).fd, flags)?),
            Reference::Number => self.reopen_by_number(node, flags).map(|(fd, _)| fd),
            Reference::Name { parent, name } => {
                let parent = self.node(parent)?;
                let dir = self.fd(&parent)?;
                // Truncation waits until it is known that this is the file that was meant.
                let fd = open_beneath(
                    dir.as_fd(),
                    OsStr::from_bytes(name.as_bytes()),
                    flags & !libc::O_TRUNC | libc::O_NOFOLLOW,
                    0,
                )
                .map_err(|e| {
                    if matches!(e, Errno::NOENT | Errno::LOOP) {
                        Errno::STALE
                    } else {
                        e
                    }
                })?;
                check_born(node, &stat_fd(&fd)?)?;
                if flags & libc::O_TRUNC != 0 {
                    rustix::fs::ftruncate(&fd, 0)?;
                }
                Ok(fd)
            }
            Reference::Descriptor => {
                let kept = node.kept_fd().ok_or(Error::Os(libc::ESTALE))?;
                match node.kind() {
                    libc::S_IFDIR => Ok(open_beneath(kept.as_fd(), OsStr::new("."), flags, 0)?),
                    _ => reopen_fd(kept.as_fd(), flags),
                }
            }
        }
    }
}

/// Refuses another inode that has the number of this one, which is then dead.
fn check_born(node: &Node, stat: &Statx) -> Result<()> {
    let same = stat.stx_ino == node.number && birth(stat) == node.generation && kind(stat) == node.kind();
    match same {
        true => Ok(()),
        false => Err(Error::Os(libc::ESTALE)),
    }
}

/// Opens the inode behind a descriptor anew, by its place in /proc.
pub(super) fn reopen_fd(fd: BorrowedFd<'_>, flags: i32) -> Result<OwnedFd> {
    // Following the magic link is the point here; it ends at the inode itself, also if that is a symbolic link.
    let path = proc_path(fd);
    let flags = OFlags::from_bits_retain((flags & !libc::O_NOFOLLOW | libc::O_CLOEXEC) as u32);
    Ok(rustix::fs::open(path.as_str(), flags, Mode::empty())?)
}

/// The magic link of a descriptor, for calls that take no O_PATH descriptor.
pub(super) fn proc_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Opens one component beneath a directory. `flags` are O_* of open(2).
pub(super) fn open_beneath(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    flags: i32,
    mode: u32,
) -> Result<OwnedFd, Errno> {
    let flags = OFlags::from_bits_retain((flags | libc::O_CLOEXEC) as u32);
    rustix::fs::openat2(dir, name, flags, Mode::from_raw_mode(mode & 0o7777), RESOLVE)
}
