//! Set-user-id and set-group-id bits: whoever changes a file without the right to keep them takes them away.
//!
//! The kernel leaves this to us (FUSE_HANDLE_KILLPRIV_V2); otherwise it would ask for `security.capability` before
//! every write, which costs a request each. We leave it to the backing filesystem: the threads that serve requests
//! live without CAP_FSETID, and with passthrough the kernel writes with the rights of the thread that lent it the
//! file. So the bits fall with every change of the content, whoever makes it, root included; a mode that is asked for
//! is set with the right regained ([`Identity::with_fsetid`]), since the kernel has decided on it already.
//!
//! What is left: the kernel must not run a file with bits that it only remembers. While a file with such bits is open
//! for writing, its attributes have no lifetime ([`Stack::attr_ttl`]).
//!
//! [`Identity::with_fsetid`]: super::identity::Identity::with_fsetid

use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::fs::{AtFlags, Statx};
use rustix::thread::CapabilitySet;

use super::Stack;
use super::ops::{Attr, Caller};
use super::stat::stat_fd;
use crate::ids::Ino;
use crate::{Error, Result};

/// Gives up CAP_FSETID for this thread and those that it will start. To be called before any serves requests.
///
/// # Errors
/// None that a thread which may have capabilities can get.
pub fn give_up_keeping_set_id() -> Result<()> {
    let mut capabilities = rustix::thread::capabilities(None)?;
    if capabilities.effective.contains(CapabilitySet::FSETID) {
        capabilities.effective -= CapabilitySet::FSETID;
        rustix::thread::set_capabilities(None, capabilities)?;
    }
    Ok(())
}

/// Drops the bits when nothing else is asked for: before a write that takes them away, and for a chown(2) that names
/// neither user nor group. The kernel does not say which it was; whoever has the file open for writing could take them
/// away in any case.
///
/// # Errors
/// EPERM for those who may neither.
pub(super) fn drop_bits(caller: &Caller, fd: BorrowedFd<'_>, being_written: bool) -> Result<()> {
    let stat = stat_fd(fd)?;
    if !has_set_id(stat.stx_mode.into()) {
        return Ok(());
    }
    if caller.uid != 0 && caller.uid != stat.stx_uid && !being_written {
        return Err(Error::Os(libc::EPERM));
    }
    Ok(rustix::fs::chownat(fd, c"", None, None, AtFlags::EMPTY_PATH)?)
}

impl Stack {
    /// How long the kernel may believe attributes.
    pub fn attr_ttl(&self, attr: &Attr) -> Duration {
        let may_lose_bits = has_set_id(attr.mode)
            && self
                .table
                .get(attr.ino)
                .is_some_and(|node| node.is_being_written());
        match may_lose_bits {
            true => Duration::ZERO,
            false => self.ttl_of(attr.ino),
        }
    }

    /// Before the first write to a file with such bits, the kernel forgets that it has them.
    pub(super) fn about_to_be_written(&self, ino: Ino, stat: &Statx) {
        if has_set_id(stat.stx_mode.into())
            && let Some(kernel) = self.kernel()
        {
            kernel.inode(ino, false);
        }
    }
}

/// Whether a change of content takes bits away. Without group execution the set-group-id bit means mandatory locking,
/// and stays.
fn has_set_id(mode: u32) -> bool {
    let group = libc::S_ISGID | libc::S_IXGRP;
    mode & libc::S_IFMT == libc::S_IFREG && (mode & libc::S_ISUID != 0 || mode & group == group)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_that_give_rights_are_told_from_those_that_do_not() {
        for mode in [0o104_755, 0o102_755, 0o106_777, 0o104_644] {
            assert!(has_set_id(mode), "{mode:o}");
        }
        for mode in [0o100_755, 0o102_745, 0o042_755, 0o041_777] {
            assert!(!has_set_id(mode), "{mode:o}");
        }
    }
}
