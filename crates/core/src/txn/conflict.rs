//! The first committer wins: is everything that a transaction touched still as it found it?
//!
//! The grain is a name. A changed, replaced or removed name must lead to the inode that it led to, with the same size
//! and times; a new name must still be free; a removed directory must have got no new entries. A directory that was
//! moved takes changes of its children along. A directory whose mode or owner was set must have kept those that it had.
//! For a strict transaction everything that it opened or listed must be as it was.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::view::{Base, View};
use crate::fs::ops::Attr;
use crate::ids::Ino;
use crate::{Error, Result};

/// Paths that somebody else changed, in order. The caller keeps the view as it is.
pub(super) fn conflicts(view: &View) -> Result<Vec<PathBuf>> {
    let (touched, emptied) = {
        let state = view.state.lock();
        let touched: Vec<_> = state
            .touched
            .iter()
            .map(|(at, base)| (at.clone(), *base))
            .collect();
        (touched, state.emptied.clone())
    };
    let mut found = Vec::new();
    for ((dir, name), base) in touched {
        if present(view, dir, &name)? != Found::Is(base) {
            found.push(view.path(dir).join(&name));
        }
    }
    for (number, before) in set_directories(view) {
        let node = view.node(Ino(number))?;
        let Some(lower) = node.lower else { continue };
        // A directory that is gone is a conflict of its name.
        if let Ok(now) = view.lower.getattr(lower, None)
            && (now.mode, now.uid, now.gid) != (before.mode, before.uid, before.gid)
        {
            found.push(view.path(number));
        }
    }
    found.extend(
        view.changed_since_read()
            .into_iter()
            .map(|number| view.path(number)),
    );
    for (lower, gone) in emptied {
        for name in entries(view, lower)? {
            if !gone.contains(&name) {
                let dir = view.lower.path_of_dir(lower).unwrap_or_default();
                found.push(dir.join(name));
            }
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// Base directories whose attributes were set, with those that they had before.
pub(super) fn set_directories(view: &View) -> Vec<(u64, Attr)> {
    let state = view.state.lock();
    let set = state
        .nodes
        .iter()
        .filter(|(_, node)| node.set && node.kind == libc::S_IFDIR && node.lower.is_some() && !node.gone);
    set.filter_map(|(number, node)| Some((*number, node.before?)))
        .collect()
}

/// Paths among those touched that somebody has open for writing.
pub(super) fn written(view: &View) -> Vec<PathBuf> {
    let state = view.state.lock();
    let touched: Vec<_> = state
        .touched
        .iter()
        .filter_map(|(at, base)| Some((at.clone(), (*base)?.key)))
        .collect();
    drop(state);
    let open = touched.into_iter().filter(|(_, key)| {
        let ino = view.lower.ino_of(*key);
        ino.is_some_and(|ino| view.lower.is_being_written(ino))
    });
    open.map(|((dir, name), _)| view.path(dir).join(name)).collect()
}

/// What stands at a name of the base.
#[derive(PartialEq)]
pub(super) enum Found {
    Is(Option<Base>),
    /// The directory itself is gone.
    Nowhere,
}

pub(super) fn present(view: &View, dir: u64, name: &OsStr) -> Result<Found> {
    let Some(lower) = view.node(Ino(dir))?.lower else {
        return Ok(Found::Nowhere);
    };
    match view.lower.lookup(lower, name) {
        Ok(found) => {
            let key = view.lower.node_key(found.attr.ino);
            view.lower.forget(found.attr.ino, 1);
            Ok(key.map_or(Found::Nowhere, |key| Found::Is(Some(Base::of(key, &found.attr)))))
        }
        Err(Error::Os(libc::ENOENT)) => Ok(Found::Is(None)),
        Err(Error::Os(libc::ESTALE | libc::ENOTDIR)) => Ok(Found::Nowhere),
        Err(e) => Err(e),
    }
}

/// Names in a base directory; none if it is gone, which the name under which it stood tells as well.
fn entries(view: &View, lower: Ino) -> Result<Vec<OsString>> {
    let fh = match view.lower.opendir(lower) {
        Err(Error::Os(libc::ESTALE | libc::ENOENT)) => return Ok(Vec::new()),
        other => other?,
    };
    let mut names = Vec::new();
    let read = view.lower.readdir(fh, 0, |entry| {
        if entry.name != "." && entry.name != ".." {
            names.push(entry.name.to_owned());
        }
        false
    });
    view.lower.releasedir(fh);
    read.map(|()| names)
}

impl View {
    /// Where the view shows a directory, relative to its root.
    pub(super) fn path(&self, number: u64) -> PathBuf {
        let state = self.state.lock();
        let mut parts: Vec<&Path> = Vec::new();
        let mut at = number;
        while at != self.root().0 {
            let Some(node) = state.nodes.get(&at) else { break };
            parts.push(Path::new(&node.name));
            at = node.parent;
        }
        parts.into_iter().rev().collect()
    }
}
