//! Attributes of inodes: getattr, setattr, access, readlink, statfs.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, Gid, Mode, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, Uid};

use super::change::Change;
use super::handle::last_errno;
use super::lookup::proc_path;
use super::node::Node;
use super::ops::{Attr, Caller, SetAttr, Space, TimeSet};
use super::stat::{attr, stat_fd};
use super::{Stack, set_id};
use crate::ids::Ino;
use crate::{Error, Result};

impl Stack {
    /// Attributes, through the open file `fh` if there is one.
    pub fn getattr(&self, ino: Ino, fh: Option<u64>) -> Result<Attr> {
        let node = self.node(ino)?;
        let stat = match fh.and_then(|fh| self.file(fh).ok()) {
            Some(file) => stat_fd(&*file)?,
            None => self.stat(&node)?,
        };
        self.tell(&node, &stat);
        Ok(attr(ino, &stat))
    }

    /// Changes attributes and gives the new ones. Several at once are changed one after the other, and an error
    /// leaves those before it changed: size, owner, mode, times.
    pub fn setattr(&self, caller: &Caller, ino: Ino, set: &SetAttr) -> Result<Attr> {
        let node = self.node(ino)?;
        if let Some(size) = set.size {
            self.truncate(&node, set.fh, size)?;
        }
        let fd = self.fd(&node)?;
        let fd = fd.as_fd();
        if set.is_empty() {
            let being_written = node.is_being_written();
            set_id::drop_bits(caller, fd, being_written)?;
        }
        let by_root = caller.uid == 0 && set.uid.or(set.gid).is_some();
        if by_root || set.mode.is_some_and(|mode| mode & libc::S_ISGID != 0) {
            self.identity.with_fsetid(|| give(fd, set))?;
        } else {
            give(fd, set)?;
        }
        if set.atime.is_some() || set.mtime.is_some() {
            let times = Timestamps {
                last_access: timespec(set.atime),
                last_modification: timespec(set.mtime),
            };
            rustix::fs::utimensat(fd, c"", &times, AtFlags::EMPTY_PATH)?;
        }
        if set.uid.or(set.gid).or(set.mode).is_some() || set.mtime.is_some() {
            node.forget_absent();
            self.changes.changed(Change::Attributes {
                node: self.key(&node),
            });
        }
        let stat = stat_fd(fd)?;
        self.tell(&node, &stat);
        Ok(attr(ino, &stat))
    }

    fn truncate(&self, node: &Arc<Node>, fh: Option<u64>, size: u64) -> Result<()> {
        self.changes.maybe_changed(self.key(node));
        if node.is_file() {
            self.keep_content(node)?;
        }
        if let Some(file) = fh.and_then(|fh| self.file(fh).ok()) {
            // The release of the file will find the change.
            return Ok(rustix::fs::ftruncate(&*file, size)?);
        }
        if !node.is_file() {
            return Err(Error::Os(if node.is_dir() { libc::EISDIR } else { libc::EINVAL }));
        }
        rustix::fs::ftruncate(self.reopen(node, libc::O_WRONLY)?, size)?;
        self.changes.changed(Change::Content { node: self.key(node) });
        Ok(())
    }

    /// Whether the daemon, who is the caller where this is asked, may do what `mask` (R_OK, W_OK, X_OK) says.
    pub fn access(&self, ino: Ino, mask: i32) -> Result<()> {
        let fd = self.fd(&self.node(ino)?)?;
        // SAFETY: the path is a NUL-terminated constant, the descriptor is open during the call.
        let rc = unsafe {
            libc::syscall(
                libc::SYS_faccessat2,
                fd.as_fd().as_raw_fd(),
                c"".as_ptr(),
                mask,
                libc::AT_EMPTY_PATH | libc::AT_EACCESS,
            )
        };
        if rc == 0 { Ok(()) } else { Err(last_errno().into()) }
    }

    /// The target of a symbolic link, as it stands there.
    pub fn readlink(&self, ino: Ino) -> Result<Vec<u8>> {
        let node = self.node(ino)?;
        if node.kind() != libc::S_IFLNK {
            return Err(Error::Os(libc::EINVAL));
        }
        Ok(rustix::fs::readlinkat(self.fd(&node)?, c"", Vec::new())?.into_bytes())
    }

    /// Size and free space of the filesystem on which the inode lies.
    pub fn statfs(&self, ino: Ino) -> Result<Space> {
        let s = rustix::fs::fstatvfs(self.fd(&self.node(ino)?)?)?;
        Ok(Space {
            blocks: s.f_blocks,
            bfree: s.f_bfree,
            bavail: s.f_bavail,
            files: s.f_files,
            ffree: s.f_ffree,
            bsize: s.f_bsize as u32,
            namelen: s.f_namemax as u32,
            frsize: s.f_frsize as u32,
        })
    }
}

/// Changes owner and mode.
fn give(fd: BorrowedFd<'_>, set: &SetAttr) -> Result<()> {
    if set.uid.or(set.gid).is_some() {
        let (uid, gid) = (set.uid.map(Uid::from_raw), set.gid.map(Gid::from_raw));
        rustix::fs::chownat(fd, c"", uid, gid, AtFlags::EMPTY_PATH)?;
    }
    match set.mode {
        Some(mode) => chmod(fd, mode),
        None => Ok(()),
    }
}

/// chmod of an inode that may be open by O_PATH only.
fn chmod(fd: BorrowedFd<'_>, mode: u32) -> Result<()> {
    const SYS_FCHMODAT2: libc::c_long = 452;
    // SAFETY: the path is a NUL-terminated constant, the descriptor is open during the call.
    let rc = unsafe {
        libc::syscall(
            SYS_FCHMODAT2,
            fd.as_raw_fd(),
            c"".as_ptr(),
            mode & 0o7777,
            libc::AT_EMPTY_PATH,
        )
    };
    if rc == 0 {
        return Ok(());
    }
    match last_errno() {
        // Kernels before 6.6.
        rustix::io::Errno::NOSYS => Ok(rustix::fs::chmod(
            proc_path(fd).as_str(),
            Mode::from_raw_mode(mode & 0o7777),
        )?),
        e => Err(e.into()),
    }
}

fn timespec(time: Option<TimeSet>) -> Timespec {
    match time {
        None => Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        Some(TimeSet::Now) => Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_NOW,
        },
        Some(TimeSet::At(t)) => Timespec {
            tv_sec: t.secs,
            tv_nsec: t.nanos.into(),
        },
    }
}
