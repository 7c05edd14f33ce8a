//! Extended attributes: of the backing filesystem, of the control directory, of transactions, and ours in the store.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::Engine;
use crate::control::ControlDirectory;
use crate::fs::OWN_PREFIX;
use crate::fs::ops::Caller;
use crate::ids::Ino;
use crate::metrics::Operation;
use crate::{Error, Result};

impl Engine {
    /// Reads an extended attribute into `buffer`; an empty one asks for the length.
    pub fn getxattr(&self, caller: &Caller, ino: Ino, name: &OsStr, buffer: &mut [u8]) -> Result<usize> {
        self.metrics.time(Operation::Getxattr, || {
            let value = if ino.is_control() {
                self.control()?.getxattr(caller, ino, name)?
            } else if ino.is_staged() {
                let txn = self.staged(ino)?;
                if !is_own(name) {
                    return txn.view().getxattr(ino, name, buffer);
                }
                let value = txn.view().told(self.teller()?, caller, ino, name)?;
                value.ok_or(Error::NoAttribute)?
            } else if is_own(name) {
                let node = self.stack.node_key(ino).ok_or(Error::Os(libc::ESTALE))?;
                self.store_of_attributes()?.get_own_xattr(caller, node, name)?
            } else {
                return self.stack.getxattr(ino, name, buffer);
            };
            if buffer.is_empty() {
                return Ok(value.len());
            }
            let room = buffer.get_mut(..value.len()).ok_or(Error::Os(libc::ERANGE))?;
            room.copy_from_slice(&value);
            Ok(value.len())
        })
    }

    /// Names of extended attributes, each ended by a NUL. Ours of files are not among them.
    pub fn listxattr(&self, caller: &Caller, ino: Ino) -> Result<Vec<u8>> {
        self.metrics
            .time(Operation::Listxattr, || match ino.is_control() {
                _ if ino.is_staged() => self.staged(ino)?.view().listxattr(ino),
                true => self.control()?.listxattr(caller, ino),
                false => self.stack.listxattr(ino),
            })
    }

    /// Sets an extended attribute.
    pub fn setxattr(&self, caller: &Caller, ino: Ino, name: &OsStr, value: &[u8], flags: i32) -> Result<()> {
        self.metrics.time(Operation::Setxattr, || {
            if ino.is_control() {
                return self.control()?.setxattr(caller, ino, name, value, flags);
            }
            if ino.is_staged() {
                return match is_own(name) {
                    true => self
                        .staged(ino)?
                        .view()
                        .tell(self.teller()?, caller, ino, name, Some(value)),
                    false => self.staged(ino)?.view().setxattr(caller, ino, name, value, flags),
                };
            }
            if is_own(name) {
                let node = self.stack.node_key(ino).ok_or(Error::Os(libc::ESTALE))?;
                return self
                    .store_of_attributes()?
                    .set_own_xattr(caller, node, name, value, flags);
            }
            let _pass = self.pass();
            self.stack.setxattr(caller, ino, name, value, flags)
        })
    }

    /// Removes an extended attribute.
    pub fn removexattr(&self, caller: &Caller, ino: Ino, name: &OsStr) -> Result<()> {
        self.metrics.time(Operation::Removexattr, || {
            if ino.is_control() {
                return self.control()?.removexattr(caller, ino, name);
            }
            if ino.is_staged() {
                return match is_own(name) {
                    true => self
                        .staged(ino)?
                        .view()
                        .tell(self.teller()?, caller, ino, name, None),
                    false => self.staged(ino)?.view().removexattr(caller, ino, name),
                };
            }
            if is_own(name) {
                let node = self.stack.node_key(ino).ok_or(Error::Os(libc::ESTALE))?;
                return self.store_of_attributes()?.remove_own_xattr(caller, node, name);
            }
            let _pass = self.pass();
            self.stack.removexattr(caller, ino, name)
        })
    }

    fn store_of_attributes(&self) -> Result<&dyn ControlDirectory> {
        self.control.as_deref().ok_or(Error::Os(libc::EOPNOTSUPP))
    }
}

/// Whether the attribute is one of ours, kept in the store.
pub(super) fn is_own(name: &OsStr) -> bool {
    name.as_bytes().starts_with(OWN_PREFIX)
}
