//! Making, removing and moving names in the view.

use std::ffi::OsStr;

use super::{Node, View};
use crate::fs::ops::{Caller, Entry, SetAttr, TimeSet};
use crate::ids::Ino;
use crate::{Error, Result};

/// Flags of renameat2(2).
const NOREPLACE: u32 = libc::RENAME_NOREPLACE;
const EXCHANGE: u32 = libc::RENAME_EXCHANGE;

impl View {
    /// Makes a regular file, FIFO, socket or device.
    pub fn mknod(
        &self,
        caller: &Caller,
        parent: Ino,
        name: &OsStr,
        modes: (u32, u32),
        rdev: u64,
    ) -> Result<Entry> {
        self.make(parent, name, |dir| {
            self.upper.mknod(caller, dir, name, modes, rdev)
        })
    }

    /// Makes a directory. It shows nothing of a base directory that had its name.
    pub fn mkdir(&self, caller: &Caller, parent: Ino, name: &OsStr, mode: u32, umask: u32) -> Result<Entry> {
        self.make(parent, name, |dir| {
            self.upper.mkdir(caller, dir, name, mode, umask)
        })
    }

    /// Makes a symbolic link.
    pub fn symlink(&self, caller: &Caller, parent: Ino, name: &OsStr, target: &OsStr) -> Result<Entry> {
        self.make(parent, name, |dir| self.upper.symlink(caller, dir, name, target))
    }

    fn make(&self, parent: Ino, name: &OsStr, make: impl FnOnce(Ino) -> Result<Entry>) -> Result<Entry> {
        let _still = self.still()?;
        self.must_be_free(parent, name)?;
        let dir = self.copy_up(parent, true)?;
        self.touch(parent, name)?;
        let made = make(dir)?;
        Ok(self.enter_new(parent, name, &made))
    }

    /// Gives a file another name.
    pub fn link(&self, ino: Ino, new_parent: Ino, new_name: &OsStr) -> Result<Entry> {
        let _still = self.still()?;
        self.must_be_free(new_parent, new_name)?;
        let upper = self.copy_up(ino, true)?;
        let dir = self.copy_up(new_parent, true)?;
        self.touch(new_parent, new_name)?;
        let made = self.upper.link(upper, dir, new_name)?;
        self.enter_upper(new_parent, new_name, &made)
    }

    /// Removes the name of a file.
    pub fn unlink(&self, parent: Ino, name: &OsStr) -> Result<()> {
        let _still = self.still()?;
        let file = self.peek(parent, name)?;
        if file.node.is_dir() {
            return Err(Error::Os(libc::EISDIR));
        }
        self.remove(parent, name, |dir| self.upper.unlink(dir, name))?;
        self.is_gone(&file)
    }

    /// Removes an empty directory.
    pub fn rmdir(&self, parent: Ino, name: &OsStr) -> Result<()> {
        let _still = self.still()?;
        let dir = self.peek(parent, name)?;
        if !dir.node.is_dir() {
            return Err(Error::Os(libc::ENOTDIR));
        }
        if !self.is_empty(dir.ino)? {
            return Err(Error::Os(libc::ENOTEMPTY));
        }
        self.remove(parent, name, |above| self.upper.rmdir(above, name))?;
        self.note_emptied(&dir);
        Ok(())
    }

    fn remove(&self, parent: Ino, name: &OsStr, remove: impl FnOnce(Ino) -> Result<()>) -> Result<()> {
        let dir = self.copy_up(parent, true)?;
        self.touch(parent, name)?;
        if self.is_staged(dir, name)? {
            remove(dir)?;
        } else {
            // Nothing was removed from the staged directory, but it changed.
            let set = SetAttr {
                mtime: Some(TimeSet::Now),
                ..SetAttr::default()
            };
            self.upper.setattr(&self.daemon, dir, &set)?;
        }
        self.hide(parent, name);
        Ok(())
    }

    /// A base file that was not copied has no place in the tree where it could be, from now on.
    fn is_gone(&self, file: &Peeked<'_>) -> Result<()> {
        self.update(file.ino, |node| node.gone = node.upper.is_none())
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
        if flags & !(NOREPLACE | EXCHANGE) != 0 || flags == NOREPLACE | EXCHANGE {
            return Err(Error::Os(libc::EINVAL));
        }
        let _still = self.still()?;
        self.check_name(new_parent, new_name)?;
        let exchange = flags & EXCHANGE != 0;
        let moved = self.peek(parent, name)?;
        let target = match self.peek(new_parent, new_name) {
            Ok(target) => Some(target),
            Err(Error::Os(libc::ENOENT)) => None,
            Err(e) => return Err(e),
        };
        match &target {
            Some(_) if flags & NOREPLACE != 0 => return Err(Error::Os(libc::EEXIST)),
            None if exchange => return Err(Error::Os(libc::ENOENT)),
            // Two names of one file: nothing happens, says rename(2).
            Some(target) if target.ino == moved.ino => return Ok(()),
            Some(target) if !exchange => self.may_replace(&moved, target)?,
            _ => {}
        }
        let from = self.copy_up(parent, true)?;
        let to = self.copy_up(new_parent, true)?;
        self.touch(parent, name)?;
        self.touch(new_parent, new_name)?;
        self.stage_name(from, parent, name, moved.ino)?;
        if let Some(target) = target.as_ref().filter(|_| exchange) {
            self.stage_name(to, new_parent, new_name, target.ino)?;
        }
        self.upper.rename(from, name, to, new_name, flags & EXCHANGE)?;
        self.moved_to(moved.ino, new_parent, new_name)?;
        match &target {
            Some(target) if exchange => self.moved_to(target.ino, parent, name)?,
            Some(target) if target.node.is_dir() => self.note_emptied(target),
            Some(target) => self.is_gone(target)?,
            None => {}
        }
        self.hide(parent, name);
        self.hide(new_parent, new_name);
        Ok(())
    }

    fn may_replace(&self, moved: &Peeked<'_>, target: &Peeked<'_>) -> Result<()> {
        match (moved.node.is_dir(), target.node.is_dir()) {
            (true, false) => Err(Error::Os(libc::ENOTDIR)),
            (false, true) => Err(Error::Os(libc::EISDIR)),
            (true, true) if !self.is_empty(target.ino)? => Err(Error::Os(libc::ENOTEMPTY)),
            _ => Ok(()),
        }
    }

    /// Makes sure that a name stands in the stage: as it is there already, as an empty directory that goes on showing
    /// its base, or as a placeholder of a base file.
    fn stage_name(&self, dir: Ino, parent: Ino, name: &OsStr, ino: Ino) -> Result<()> {
        if self.is_staged(dir, name)? {
            return Ok(());
        }
        let node = self.node(ino)?;
        if node.is_dir() {
            self.copy_up(ino, true)?;
            return Ok(());
        }
        if let Some(upper) = node.upper {
            // Another name of a file that is in the stage under the first.
            let made = self.upper.link(upper, dir, name)?;
            self.upper.forget(made.attr.ino, 1);
            return Ok(());
        }
        let lower = node.lower.ok_or(Error::Os(libc::ESTALE))?;
        let attr = self.lower.getattr(lower, None)?;
        let upper = self.unnoticed(dir, || self.placeholder(dir, name, &attr, lower))?;
        let mut state = self.state.lock();
        state.by_upper.insert(upper, ino.0);
        let node = state.nodes.get_mut(&ino.0).ok_or(Error::Os(libc::ESTALE))?;
        node.upper = Some(upper);
        (node.parent, node.name) = (parent.0, name.to_owned());
        node.origin = Some((parent.0, name.to_owned()));
        Ok(())
    }

    fn moved_to(&self, ino: Ino, parent: Ino, name: &OsStr) -> Result<()> {
        self.update(ino, |node| {
            (node.parent, node.name) = (parent.0, name.to_owned());
        })
    }

    /// Hides the base's name, if the base has it.
    fn hide(&self, parent: Ino, name: &OsStr) {
        let key = (parent.0, name.to_owned());
        let mut state = self.state.lock();
        if let Some(Some(_)) = state.touched.get(&key) {
            state.hidden.entry(key.0).or_default().insert(key.1);
        }
    }

    /// Remembers which names were seen to be gone from a base directory that goes itself.
    fn note_emptied(&self, dir: &Peeked<'_>) {
        let mut state = self.state.lock();
        if let Some(node) = state.nodes.get_mut(&dir.ino.0) {
            node.gone = true;
        }
        if let Some(lower) = dir.node.lower {
            let gone = state.hidden.get(&dir.ino.0).cloned().unwrap_or_default();
            state.emptied.push((lower, gone));
        }
    }

    pub(super) fn check_name(&self, parent: Ino, name: &OsStr) -> Result<()> {
        self.lower.check_name_to_come(self.node(parent)?.lower, name)
    }

    fn is_staged(&self, dir: Ino, name: &OsStr) -> Result<bool> {
        match self.upper.lookup(dir, name) {
            Ok(found) => {
                self.upper.forget(found.attr.ino, 1);
                Ok(true)
            }
            Err(Error::Os(libc::ENOENT)) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// EEXIST for a name that is there, EPERM or EBUSY for one that the base could not have.
    fn must_be_free(&self, parent: Ino, name: &OsStr) -> Result<()> {
        self.check_name(parent, name)?;
        match self.peek(parent, name) {
            Ok(_) => Err(Error::Os(libc::EEXIST)),
            Err(Error::Os(libc::ENOENT)) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// What a name means, for as long as the answer is kept.
    fn peek(&self, parent: Ino, name: &OsStr) -> Result<Peeked<'_>> {
        let ino = self.lookup(parent, name)?.attr.ino;
        let node = self.node(ino)?;
        Ok(Peeked {
            view: self,
            ino,
            node,
        })
    }
}

/// A node that was looked up for one operation.
struct Peeked<'v> {
    view: &'v View,
    ino: Ino,
    node: Node,
}

impl Drop for Peeked<'_> {
    fn drop(&mut self) {
        self.view.forget(self.ino, 1);
    }
}
