//! Extended attributes and ACLs of backing files. Ours (`user.vexfs.*`) never come here.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::Stack;
use super::change::Change;
use super::lookup::{NodeFd, proc_path};
use super::node::{Absent, Node};
use super::ops::Caller;
use crate::ids::Ino;
use crate::{Error, Result};

/// Attributes under this prefix are ours and live in the store.
pub const OWN_PREFIX: &[u8] = b"user.vexfs.";

impl Stack {
    /// Reads an attribute into `buffer` and gives its length; an empty buffer asks for the length only. ERANGE if
    /// the buffer is too small.
    pub fn getxattr(&self, ino: Ino, name: &OsStr, buffer: &mut [u8]) -> Result<usize> {
        let node = self.node(ino)?;
        let absent = Absent::by_name(name);
        if absent.is_some_and(|what| node.is_absent(what)) {
            return Err(Error::Os(libc::ENODATA));
        }
        match read(&node, &self.fd(&node)?, name, buffer) {
            Err(Errno::NODATA) => {
                // A change of the attribute comes through us, or is not expected.
                if let Some(what) = absent.filter(|_| self.is_trusted(ino)) {
                    node.set_absent(what, true);
                }
                Err(Error::Os(libc::ENODATA))
            }
            other => Ok(other?),
        }
    }

    /// The kernel will ask whether a file that is open now has capabilities, before the first write to it.
    pub(super) fn expect_write(&self, node: &Node, file: BorrowedFd<'_>) {
        let what = Absent::Capability;
        if !node.is_absent(what)
            && self.is_trusted(node.ino)
            && rustix::fs::fgetxattr_query(file, "security.capability") == Err(Errno::NODATA)
        {
            node.set_absent(what, true);
        }
    }

    /// The names of all attributes, each ended by a NUL, without ours.
    pub fn listxattr(&self, ino: Ino) -> Result<Vec<u8>> {
        let fd = self.fd(&self.node(ino)?)?;
        let path = proc_path(fd.as_fd());
        loop {
            let mut list = vec![0; rustix::fs::listxattr_query(path.as_str())?];
            match rustix::fs::listxattr(path.as_str(), &mut list[..]) {
                Ok(len) => {
                    list.truncate(len);
                    return Ok(without_ours(&list));
                }
                // It grew in between.
                Err(Errno::RANGE) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Sets an attribute; `flags` are XATTR_CREATE and XATTR_REPLACE.
    pub fn setxattr(&self, caller: &Caller, ino: Ino, name: &OsStr, value: &[u8], flags: i32) -> Result<()> {
        self.change_xattr(caller, ino, name, |path| {
            rustix::fs::setxattr(path, name, value, XattrFlags::from_bits_retain(flags as u32))
        })
    }

    /// Removes an attribute.
    pub fn removexattr(&self, caller: &Caller, ino: Ino, name: &OsStr) -> Result<()> {
        self.change_xattr(caller, ino, name, |path| rustix::fs::removexattr(path, name))
    }

    fn change_xattr(
        &self,
        caller: &Caller,
        ino: Ino,
        name: &OsStr,
        change: impl FnOnce(&str) -> Result<(), Errno>,
    ) -> Result<()> {
        let node = self.node(ino)?;
        let fd = self.fd(&node)?;
        let path = proc_path(fd.as_fd());
        let absent = Absent::by_name(name);
        match absent {
            // Setting an ACL may take the set-group-id bit away, depending on the caller's groups.
            Some(Absent::AccessAcl) => self.identity.impersonate(caller, || Ok(change(&path)?))?,
            _ => change(&path)?,
        }
        if let Some(what) = absent {
            node.set_absent(what, false);
            self.changes.changed(Change::Attributes {
                node: self.key(&node),
            });
        }
        Ok(())
    }
}

/// getxattr(2) of an inode that may be open by O_PATH only.
fn read(node: &Node, fd: &NodeFd, name: &OsStr, buffer: &mut [u8]) -> Result<usize, Errno> {
    if node.is_file() && matches!(fd, NodeFd::Kept(_)) {
        let read = match buffer.is_empty() {
            true => rustix::fs::fgetxattr_query(fd, name),
            false => rustix::fs::fgetxattr(fd, name, &mut *buffer),
        };
        if read != Err(Errno::BADF) {
            return read;
        }
    }
    let path = proc_path(fd.as_fd());
    match buffer.is_empty() {
        true => rustix::fs::getxattr_query(path.as_str(), name),
        false => rustix::fs::getxattr(path.as_str(), name, buffer),
    }
}

fn without_ours(list: &[u8]) -> Vec<u8> {
    list.split_inclusive(|b| *b == 0)
        .filter(|name| !name.starts_with(OWN_PREFIX))
        .flatten()
        .copied()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_attributes_are_not_listed() {
        let list = b"user.a\0user.vexfs.vec\0security.capability\0user.vexfs.\0user.vexfsx\0";
        assert_eq!(without_ours(list), b"user.a\0security.capability\0user.vexfsx\0");
        assert!(without_ours(b"").is_empty());
    }
}
