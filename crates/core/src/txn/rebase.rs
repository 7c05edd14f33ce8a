//! After a conflict: a transaction takes what others have committed since for its base.
//!
//! A text that both changed gets both changes where they touch different lines. Where they touch the same, and for what
//! is no text, the conflict stays, unless the caller says that the transaction's own side shall win. Directories that
//! are in the way stay in conflict: nobody's files are thrown away unseen.

use std::ffi::OsString;
use std::path::PathBuf;

use super::conflict::{Found, conflicts, present, set_directories};
use super::diff::merge;
use super::git::is_binary;
use super::teller::Teller;
use super::view::before::read;
use super::view::{Base, View};
use crate::fs::Reopen;
use crate::ids::{Ino, NodeKey};
use crate::{Error, Result};

/// What becomes of a path that both changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// It gets both changes, where they touch different lines of a text.
    Merge,
    /// It stays as the transaction has it.
    Ours,
}

/// Rebases a view that nobody changes meanwhile. Gives the nodes whose content is another now, and the paths that are
/// still in conflict.
pub(super) fn rebase(view: &View, teller: &dyn Teller, how: How) -> Result<(Vec<Ino>, Vec<PathBuf>)> {
    let touched: Vec<_> = {
        let state = view.state.lock();
        state
            .touched
            .iter()
            .map(|(at, base)| (at.clone(), *base))
            .collect()
    };
    let mut merged = Vec::new();
    for ((dir, name), base) in touched {
        let now = present(view, dir, &name)?;
        if let Found::Is(now) = now
            && now != base
        {
            let conflict = Conflict {
                view,
                dir,
                name,
                base,
                now,
            };
            merged.extend(conflict.resolve(how)?);
        }
    }
    if how == How::Ours {
        view.accept_attributes()?;
        view.accept_read()?;
    }
    view.accept_told(teller, how == How::Ours)?;
    let mut left = conflicts(view)?;
    left.extend(view.told_conflicts(teller)?);
    Ok((merged, left))
}

/// A name that leads to something else in the base than it did.
struct Conflict<'v> {
    view: &'v View,
    dir: u64,
    name: OsString,
    base: Option<Base>,
    now: Option<Base>,
}

impl Conflict<'_> {
    /// Makes the present base the transaction's, if that loses nothing. Gives the node if its content is another now.
    fn resolve(&self, how: How) -> Result<Option<Ino>> {
        let is_dir = |base: &Option<Base>| base.is_some_and(|base| base.is_dir());
        if is_dir(&self.base) || is_dir(&self.now) {
            return Ok(None);
        }
        let Some(number) = self.staged()? else {
            // Both removed it; or the transaction did what the other changed.
            if self.now.is_none() || how == How::Ours {
                self.accept(None)?;
            }
            return Ok(None);
        };
        let node = self.view.node(number)?;
        if node.is_dir()
            || (self.now.is_none() && !node.copied)
            || self.base.is_none() && node.lower.is_some()
        {
            return Ok(None);
        }
        if how == How::Ours {
            self.accept(Some(number))?;
            return Ok(None);
        }
        let Some((text, theirs)) = self.merged(number)? else {
            return Ok(None);
        };
        self.write(number, &text)?;
        if let Some(now) = self.now {
            self.view.keep_anew(now.key, &theirs)?;
        }
        self.accept(Some(number))?;
        Ok(Some(number))
    }

    /// The node that the transaction has at the name, or to where it moved what it found there.
    fn staged(&self) -> Result<Option<Ino>> {
        let node = self.view.node(Ino(self.dir))?;
        let names = self.view.staged_names(&node)?;
        if let Some((_, number)) = names.into_iter().find(|(name, _)| *name == self.name) {
            return Ok(Some(Ino(number)));
        }
        let state = self.view.state.lock();
        let here = Some((self.dir, self.name.clone()));
        let moved = state
            .nodes
            .iter()
            .find(|(_, node)| node.upper.is_some() && !node.gone && node.origin == here);
        Ok(moved.map(|(number, _)| Ino(*number)))
    }

    /// Both changes of a text, and the other's side alone.
    fn merged(&self, number: Ino) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
        let node = self.view.node(number)?;
        let (Some(upper), Some(base), Some(now)) = (node.upper.filter(|_| node.copied), self.base, self.now)
        else {
            return Ok(None);
        };
        if !base.is_regular() || !now.is_regular() || node.kind != libc::S_IFREG {
            return Ok(None);
        }
        let Some(before) = self.view.before(base.key) else {
            return Ok(None);
        };
        let size = self.view.upper.getattr(upper, None)?.size;
        let ours = read(self.view.upper.backing_fd(upper)?, size)?;
        let theirs = self.with_present(|ino| read(self.view.lower.backing_fd(ino)?, now.size))?;
        if [&before, &ours, &theirs].into_iter().any(|text| is_binary(text)) {
            return Ok((ours == theirs).then_some((ours, theirs)));
        }
        Ok(merge(&before, &ours, &theirs).map(|text| (text, theirs)))
    }

    fn write(&self, number: Ino, text: &[u8]) -> Result<()> {
        let upper = self.view.node(number)?.upper.ok_or(Error::Os(libc::ESTALE))?;
        let opened = self
            .view
            .upper
            .open(upper, libc::O_RDWR | libc::O_TRUNC, Reopen::Daemon)?;
        let written = self.view.upper.write(upper, opened.fh, 0, text, false);
        self.view.upper.release(upper, opened.fh)?;
        match written? == text.len() {
            true => Ok(()),
            false => Err(Error::Os(libc::ENOSPC)),
        }
    }

    /// The base is what stands there now; so is that of the node, if it came from there.
    fn accept(&self, number: Option<Ino>) -> Result<()> {
        if let Some(number) = number {
            self.take_base(number)?;
        }
        let mut state = self.view.state.lock();
        let at = (self.dir, self.name.clone());
        match (number, self.now) {
            (None, None) => {
                state.touched.remove(&at);
                if let Some(hidden) = state.hidden.get_mut(&self.dir) {
                    hidden.remove(&self.name);
                }
            }
            (_, now) => {
                state.touched.insert(at, now);
            }
        }
        Ok(())
    }

    fn take_base(&self, number: Ino) -> Result<()> {
        let came_from = |key: NodeKey, lower: Ino| self.view.lower.node_key(lower) == Some(key);
        let node = self.view.node(number)?;
        let (Some(lower), Some(base)) = (node.lower, self.base) else {
            return Ok(());
        };
        if !came_from(base.key, lower) {
            return Ok(());
        }
        let found = match self.now {
            Some(_) => {
                let dir = self
                    .view
                    .node(Ino(self.dir))?
                    .lower
                    .ok_or(Error::Os(libc::ESTALE))?;
                Some(self.view.lower.lookup(dir, &self.name)?)
            }
            None => None,
        };
        if let (Some(found), Some(upper), true) = (&found, node.upper, node.base_links == 1)
            && found.attr.nlink > 1
            && found.attr.mode & libc::S_IFMT == libc::S_IFREG
        {
            // It got further names, which the commit has to change too.
            self.view.keep_for_links(number, upper)?;
            let mut state = self.view.state.lock();
            if let Some(node) = state.nodes.get_mut(&number.0) {
                node.base_links = found.attr.nlink;
            }
        }
        if found.is_some_and(|found| found.attr.ino == lower) {
            // Changed in place: it is held already.
            self.view.lower.forget(lower, 1);
        } else {
            self.view.read_never(lower);
            let mut state = self.view.state.lock();
            state.by_lower.remove(&lower);
            if let Some(found) = &found {
                state.by_lower.insert(found.attr.ino, number.0);
            }
            if let Some(node) = state.nodes.get_mut(&number.0) {
                node.lower = found.map(|found| found.attr.ino);
                node.lower_generation = found.map_or(0, |found| found.generation);
                node.base_links = found.map_or(1, |found| found.attr.nlink.min(node.base_links));
                node.before = found.map(|found| found.attr);
                node.seen = None;
            }
            drop(state);
            self.view.lower.forget(lower, 1);
        }
        Ok(())
    }

    /// Does something with the present base inode.
    fn with_present<T>(&self, f: impl FnOnce(Ino) -> Result<T>) -> Result<T> {
        let dir = self
            .view
            .node(Ino(self.dir))?
            .lower
            .ok_or(Error::Os(libc::ESTALE))?;
        let found = self.view.lower.lookup(dir, &self.name)?;
        let result = f(found.attr.ino);
        self.view.lower.forget(found.attr.ino, 1);
        result
    }
}

impl View {
    /// Modes of directories that others set count as known.
    fn accept_attributes(&self) -> Result<()> {
        for (number, _) in set_directories(self) {
            let Some(lower) = self.node(Ino(number))?.lower else {
                continue;
            };
            if let Ok(now) = self.lower.getattr(lower, None) {
                let mut state = self.state.lock();
                if let Some(node) = state.nodes.get_mut(&number) {
                    node.before = Some(now);
                }
            }
        }
        Ok(())
    }
}
