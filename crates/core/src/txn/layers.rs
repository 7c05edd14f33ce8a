//! What a transaction shows otherwise than the base, for searches in it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::plan::collect;
use super::transaction::Txn;
use super::view::View;
use super::view::before::read;
use crate::fs::ops::Attr;
use crate::ids::{Ino, NodeKey};
use crate::{Error, Result};

/// See the module.
pub struct Layers {
    /// Paths of the base that lead elsewhere, with everything below: to a path in the transaction, or nowhere.
    pub moved: BTreeMap<PathBuf, Option<PathBuf>>,
    /// Regular files with content of their own: path, number, attributes.
    pub staged: Vec<(PathBuf, Ino, Attr)>,
}

impl Txn {
    /// What it shows otherwise than the base.
    pub fn layers(&self) -> Result<Layers> {
        let _quiet = self.view.quiet();
        layers(&self.view)
    }

    /// Where it shows a directory, and the base directory that is shown there, if there is one.
    pub fn place(&self, dir: Ino) -> Result<(PathBuf, Option<NodeKey>)> {
        self.view.node(dir)?;
        Ok((self.view.path(dir.0), self.view.base_key(dir)))
    }

    /// The size of a regular file with content of its own; none of any other.
    pub fn staged_size(&self, file: Ino) -> Result<Option<u64>> {
        let node = self.view.node(file)?;
        match node.copied && node.kind == libc::S_IFREG {
            true => Ok(Some(self.view.getattr(file, None)?.size)),
            false => Ok(None),
        }
    }

    /// The content of one of its files.
    pub fn content(&self, file: Ino, size: u64) -> Result<Vec<u8>> {
        let upper = self.view.node(file)?.upper.ok_or(Error::Os(libc::ESTALE))?;
        read(self.view.upper.backing_fd(upper)?, size)
    }
}

fn layers(view: &View) -> Result<Layers> {
    let mut found = Vec::new();
    collect(view, view.root().0, Path::new(""), &mut found)?;
    let mut staged = Vec::new();
    for (path, _, number) in found {
        let Some(number) = number.map(Ino) else { continue };
        let node = view.node(number)?;
        if node.copied && node.kind == libc::S_IFREG {
            staged.push((path, number, view.getattr(number, None)?));
        }
    }
    let touched: Vec<_> = {
        let state = view.state.lock();
        let touched = state.touched.iter();
        touched
            .filter_map(|(at, base)| Some((at.clone(), (*base)?)))
            .collect()
    };
    let mut moved = BTreeMap::new();
    for ((dir, name), base) in touched {
        let lower = view.node(Ino(dir))?.lower;
        let Some(Ok(above)) = lower.map(|lower| view.lower.path_of_dir(lower)) else {
            continue;
        };
        let ino = view.lower.ino_of(base.key);
        let shown = {
            let state = view.state.lock();
            let mut nodes = state.nodes.iter();
            nodes
                .find(|(_, node)| ino.is_some() && node.lower == ino && node.upper.is_some() && !node.gone)
                .map(|(number, node)| (*number, node.is_dir() || !node.copied))
        };
        let from = above.join(&name);
        match shown {
            Some((number, true)) => {
                let to = view.path(number);
                if to != from {
                    moved.insert(from, Some(to));
                }
            }
            _ => {
                moved.insert(from, None);
            }
        }
    }
    Ok(Layers { moved, staged })
}
