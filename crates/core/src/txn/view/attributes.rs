//! Attributes of the view: read from the layer that serves a node, changed in the stage.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;

use super::{Layer, View};
use crate::fs::ops::{Attr, Caller, SetAttr, Space};
use crate::ids::Ino;
use crate::{Error, Result};

impl View {
    /// A descriptor that names the inode whose attributes a node shows, and nothing more.
    pub(crate) fn place_fd(&self, ino: Ino) -> Result<OwnedFd> {
        let (layer, inode) = self.serving(&self.node(ino)?);
        self.stack(layer).place_fd(inode)
    }

    /// Attributes, through an open file if there is one.
    pub fn getattr(&self, ino: Ino, fh: Option<u64>) -> Result<Attr> {
        let (layer, inner) = self.serving(&self.node(ino)?);
        let fh = fh.and_then(|fh| self.handle_in(fh, layer));
        Ok(self.numbered(ino, self.stack(layer).getattr(inner, fh)?))
    }

    /// Changes attributes, of a copy if need be.
    pub fn setattr(&self, caller: &Caller, ino: Ino, set: &SetAttr) -> Result<Attr> {
        let upper = {
            let _still = self.still()?;
            self.copy_to_set(ino, set.size != Some(0))?
        };
        if let Some(size) = set.size {
            self.reserve_up_to(upper, size)?;
        }
        let fh = set.fh.and_then(|fh| self.handle_in(fh, Layer::Upper));
        let attr = self.upper.setattr(caller, upper, &SetAttr { fh, ..*set })?;
        Ok(self.numbered(ino, attr))
    }

    /// The target of a symbolic link.
    pub fn readlink(&self, ino: Ino) -> Result<Vec<u8>> {
        let (layer, inner) = self.serving(&self.node(ino)?);
        self.stack(layer).readlink(inner)
    }

    /// Whether the owner of the mount may do what `mask` says.
    pub fn access(&self, ino: Ino, mask: i32) -> Result<()> {
        let (layer, inner) = self.serving(&self.node(ino)?);
        self.stack(layer).access(inner, mask)
    }

    /// Size and free space: those of the one filesystem on which both layers are.
    pub fn statfs(&self) -> Result<Space> {
        self.lower.statfs(Ino::ROOT)
    }

    /// Reads an extended attribute.
    pub fn getxattr(&self, ino: Ino, name: &OsStr, buffer: &mut [u8]) -> Result<usize> {
        let (layer, inner) = self.serving(&self.node(ino)?);
        self.stack(layer).getxattr(inner, name, buffer)
    }

    /// Names of extended attributes.
    pub fn listxattr(&self, ino: Ino) -> Result<Vec<u8>> {
        let (layer, inner) = self.serving(&self.node(ino)?);
        self.stack(layer).listxattr(inner)
    }

    /// Sets an extended attribute, of a copy if need be.
    pub fn setxattr(&self, caller: &Caller, ino: Ino, name: &OsStr, value: &[u8], flags: i32) -> Result<()> {
        let upper = {
            let _still = self.still()?;
            self.copy_to_set(ino, true)?
        };
        self.upper.setxattr(caller, upper, name, value, flags)
    }

    /// Removes an extended attribute. One that is not there is no reason for a copy.
    pub fn removexattr(&self, caller: &Caller, ino: Ino, name: &OsStr) -> Result<()> {
        match self.getxattr(ino, name, &mut []) {
            Err(Error::Os(libc::ENODATA)) => return Err(Error::Os(libc::ENODATA)),
            Err(e) => return Err(e),
            Ok(_) => {}
        }
        let upper = {
            let _still = self.still()?;
            self.copy_to_set(ino, true)?
        };
        self.upper.removexattr(caller, upper, name)
    }

    /// The staged inode of a node whose attributes are about to be set.
    fn copy_to_set(&self, ino: Ino, content: bool) -> Result<Ino> {
        let upper = self.copy_up(ino, content)?;
        self.update(ino, |node| node.set = true)?;
        Ok(upper)
    }
}
