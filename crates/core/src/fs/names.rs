//! Making, removing and moving names. Every one is a single *at call in directories that are held by descriptor; no
//! path is ever walked.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, RenameFlags};
use rustix::io::Errno;

use super::Stack;
use super::change::Change;
use super::lookup::{NodeFd, open_beneath, proc_path};
use super::node::{Absent, Node, Reference};
use super::open::{NEVER, Opened, Reopen, Use};
use super::ops::{Caller, Entry};
use super::stat::{birth, device, kind, stat_at};
use crate::ids::{Ino, NodeKey};
use crate::{Error, Result};

/// Flags of a creating open that reach the backing filesystem, see `OPEN_FLAGS` in `open`.
const CREATE_FLAGS: i32 =
    libc::O_ACCMODE | libc::O_TRUNC | libc::O_EXCL | libc::O_SYNC | libc::O_DSYNC | libc::O_NOATIME;

impl Stack {
    /// Creates a regular file (or opens it, without O_EXCL) as the caller, open with `flags`.
    pub fn create(
        &self,
        caller: &Caller,
        parent: Ino,
        name: &OsStr,
        (mode, umask): (u32, u32),
        flags: i32,
        how: Reopen,
    ) -> Result<(Entry, Opened)> {
        let (dir, dir_fd) = self.dir_for(parent, name)?;
        // O_NONBLOCK: if the name has just become a FIFO, opening it must not wait.
        if flags & libc::O_EXCL == 0 {
            self.keep_named(dir_fd.as_fd(), name)?;
        }
        let all = flags & CREATE_FLAGS | libc::O_CREAT | libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let fd = self.identity.create(caller, (mode, umask), || {
            Ok(open_beneath(dir_fd.as_fd(), name, all, mode & 0o7777)?)
        })?;
        let (node, stat) = self.find_open(parent, dir_fd.as_fd(), name, fd.as_fd())?;
        let opened = if node.is_file() {
            self.changes.maybe_changed(self.key(&node));
            if stat.stx_size == 0 && stat.stx_nlink == 1 && flags & libc::O_EXCL != 0 {
                node.set_absent(Absent::Capability, self.is_trusted(node.ino));
            }
            let purpose = match flags & libc::O_ACCMODE {
                libc::O_RDONLY => Use::Read,
                _ => Use::writing(flags),
            };
            // The index has not seen a truncated file, nor a new one.
            self.opened(node.clone(), fd, &stat, purpose, Some(NEVER), how)
        } else {
            Err(Error::Os(libc::EEXIST))
        };
        match opened {
            Ok(opened) => {
                self.name_changed(&dir, name);
                Ok((self.entry(&node, &stat), opened))
            }
            Err(e) => {
                self.forget(node.ino, 1);
                Err(e)
            }
        }
    }

    /// Makes a regular file, FIFO, socket or device.
    pub fn mknod(
        &self,
        caller: &Caller,
        parent: Ino,
        name: &OsStr,
        (mode, umask): (u32, u32),
        rdev: u64,
    ) -> Result<Entry> {
        self.make(caller, parent, name, (mode, umask), |dir| {
            let kind = FileType::from_raw_mode(mode);
            rustix::fs::mknodat(dir, name, kind, Mode::from_raw_mode(mode & 0o7777), rdev)
        })
    }

    /// Makes a directory.
    pub fn mkdir(&self, caller: &Caller, parent: Ino, name: &OsStr, mode: u32, umask: u32) -> Result<Entry> {
        self.make(caller, parent, name, (mode, umask), |dir| {
            rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(mode & 0o7777))
        })
    }

    /// Makes a symbolic link.
    pub fn symlink(&self, caller: &Caller, parent: Ino, name: &OsStr, target: &OsStr) -> Result<Entry> {
        self.make(caller, parent, name, (0, 0), |dir| {
            rustix::fs::symlinkat(target, dir, name)
        })
    }

    /// Gives an inode another name.
    pub fn link(&self, ino: Ino, new_parent: Ino, new_name: &OsStr) -> Result<Entry> {
        let node = self.node(ino)?;
        let (dir, dir_fd) = self.dir_for(new_parent, new_name)?;
        let fd = self.fd(&node)?;
        let linked = match rustix::fs::linkat(&fd, c"", &dir_fd, new_name, AtFlags::EMPTY_PATH) {
            // By descriptor it needs CAP_DAC_READ_SEARCH; by /proc it does not.
            Err(Errno::NOENT | Errno::PERM) => {
                let path = proc_path(fd.as_fd());
                rustix::fs::linkat(
                    rustix::fs::CWD,
                    path.as_str(),
                    &dir_fd,
                    new_name,
                    AtFlags::SYMLINK_FOLLOW,
                )
            }
            result => result,
        };
        linked?;
        let (node, stat) = self.find_at(new_parent, dir_fd.as_fd(), new_name)?;
        self.name_changed(&dir, new_name);
        Ok(self.entry(&node, &stat))
    }

    /// Removes the name of a file.
    pub fn unlink(&self, parent: Ino, name: &OsStr) -> Result<()> {
        self.remove(parent, name, AtFlags::empty())
    }

    /// Removes an empty directory.
    pub fn rmdir(&self, parent: Ino, name: &OsStr) -> Result<()> {
        self.remove(parent, name, AtFlags::REMOVEDIR)
    }

    /// Renames; `flags` are those of renameat2(2).
    pub fn rename(
        &self,
        parent: Ino,
        name: &OsStr,
        new_parent: Ino,
        new_name: &OsStr,
        flags: u32,
    ) -> Result<()> {
        let (from, from_fd) = self.dir_for(parent, name)?;
        let (to, to_fd) = self.dir_for(new_parent, new_name)?;
        let moved = self.named_only(&from, from_fd.as_fd(), name);
        let target = self.named_only(&to, to_fd.as_fd(), new_name);
        let flags = RenameFlags::from_bits_retain(flags);
        let rename = || {
            Ok(rustix::fs::renameat_with(
                &from_fd, name, &to_fd, new_name, flags,
            )?)
        };
        match flags.intersects(RenameFlags::EXCHANGE | RenameFlags::NOREPLACE) {
            true => rename()?,
            false => self.losing(to_fd.as_fd(), new_name, rename)?,
        }
        if let Some(target) = &target {
            if flags.contains(RenameFlags::EXCHANGE) {
                target.set_reference(Reference::name(parent, name));
            } else if moved.as_ref().is_none_or(|m| !Arc::ptr_eq(m, target)) {
                target.set_reference(Reference::Descriptor);
            }
        }
        if let Some(moved) = moved {
            moved.set_reference(Reference::name(new_parent, new_name));
        }
        // The new name first: the file is found moved before its old name is found missing.
        self.name_changed(&to, new_name);
        self.name_changed(&from, name);
        Ok(())
    }

    /// Does something that takes a name from a file, which is kept if a snapshot has it and the name is its last.
    fn losing(&self, dir: BorrowedFd<'_>, name: &OsStr, lose: impl FnOnce() -> Result<()>) -> Result<()> {
        match self.keeper() {
            Some(keeper) => keeper.losing(dir, name, lose),
            None => lose(),
        }
    }

    /// Keeps what a name leads to, which is about to be opened for writing.
    fn keep_named(&self, dir: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
        let Some(keeper) = self.keeper() else {
            return Ok(());
        };
        match stat_at(dir, name) {
            Ok(stat) if kind(&stat) == libc::S_IFREG => {
                let (dev, ino) = (device(&stat), stat.stx_ino);
                let flags = libc::O_RDONLY | libc::O_NOFOLLOW | libc::O_NONBLOCK;
                keeper.before_change(NodeKey { dev, ino }, || Ok(open_beneath(dir, name, flags, 0)?))
            }
            _ => Ok(()),
        }
    }

    fn make(
        &self,
        caller: &Caller,
        parent: Ino,
        name: &OsStr,
        modes: (u32, u32),
        make: impl FnOnce(BorrowedFd<'_>) -> Result<(), Errno>,
    ) -> Result<Entry> {
        let (dir, dir_fd) = self.dir_for(parent, name)?;
        self.identity
            .create(caller, modes, || Ok(make(dir_fd.as_fd())?))?;
        let (node, stat) = self.find_at(parent, dir_fd.as_fd(), name)?;
        self.name_changed(&dir, name);
        Ok(self.entry(&node, &stat))
    }

    fn remove(&self, parent: Ino, name: &OsStr, how: AtFlags) -> Result<()> {
        let (dir, dir_fd) = self.dir_for(parent, name)?;
        let victim = self.named_only(&dir, dir_fd.as_fd(), name);
        self.losing(dir_fd.as_fd(), name, || {
            Ok(rustix::fs::unlinkat(&dir_fd, name, how)?)
        })?;
        if let Some(victim) = victim {
            victim.set_reference(Reference::Descriptor);
        }
        self.name_changed(&dir, name);
        Ok(())
    }

    /// The directory in which a name will be made or removed, by descriptor.
    fn dir_for(&self, parent: Ino, name: &OsStr) -> Result<(Arc<Node>, NodeFd)> {
        let dir = self.node(parent)?;
        self.check_new_name(&dir, name)?;
        let fd = self.fd(&dir)?;
        Ok((dir, fd))
    }

    /// The node that only this name leads to, because its filesystem has no handles. It gets a descriptor, so that
    /// it outlives the name.
    fn named_only(&self, dir: &Node, dir_fd: BorrowedFd<'_>, name: &OsStr) -> Option<Arc<Node>> {
        if self.mounts.get(dir.mount).handles {
            return None;
        }
        let stat = stat_at(dir_fd, name).ok()?;
        let mount = self.mounts.of(&stat, dir_fd, name).ok()?;
        let node = self
            .table
            .get(self.mounts.known_ino(mount.index, stat.stx_ino)?)?;
        if node.generation != birth(&stat) {
            return None;
        }
        if !node.reference().is_name(dir.ino, name) {
            return None;
        }
        self.fd(&node).ok()?;
        Some(node)
    }

    fn name_changed(&self, dir: &Node, name: &OsStr) {
        self.changes.changed(Change::Name {
            parent: self.key(dir),
            name: name.to_owned(),
        });
    }
}
