//! Directories of the view: the stage's names, then the base's that are neither staged nor hidden. A list is made at
//! opendir and stays as it is.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::sync::Arc;

use super::{Layer, Node, View};
use crate::fs::DirEntry;
use crate::fs::ops::Entry;
use crate::ids::Ino;
use crate::{Error, Result};

/// A directory that is open for reading.
pub(super) struct Listing(Vec<Listed>);

struct Listed {
    ino: Ino,
    kind: u8,
    name: OsString,
}

impl View {
    /// Opens a directory for reading.
    pub fn opendir(&self, ino: Ino) -> Result<u64> {
        let node = self.node(ino)?;
        if !node.is_dir() {
            return Err(Error::Os(libc::ENOTDIR));
        }
        if let Some(lower) = node.lower {
            self.note_read(ino, lower)?;
        }
        let listing = self.list(ino, &node)?;
        let number = self.next_handle();
        self.listings.lock().insert(number, Arc::new(listing));
        Ok(number)
    }

    /// Lists a directory until `add` says that it is full.
    pub fn readdir(&self, fh: u64, offset: u64, mut add: impl FnMut(&DirEntry<'_>) -> bool) -> Result<()> {
        let listing = self.listing(fh)?;
        for (at, listed) in listing.0.iter().enumerate().skip(offset as usize) {
            if add(&listed.entry(at)) {
                break;
            }
        }
        Ok(())
    }

    /// Lists a directory with attributes; each entry taken counts as looked up.
    pub fn readdirplus(
        &self,
        dir: Ino,
        fh: u64,
        offset: u64,
        mut add: impl FnMut(&DirEntry<'_>, &Entry) -> bool,
    ) -> Result<()> {
        let listing = self.listing(fh)?;
        for (at, listed) in listing.0.iter().enumerate().skip(offset as usize) {
            let entry = listed.entry(at);
            if listed.is_dots() {
                if add(&entry, &self.lower.bare(&entry)) {
                    break;
                }
                continue;
            }
            // What vanished in the meantime is left out.
            let Ok(found) = self.lookup(dir, &listed.name) else {
                continue;
            };
            let entry = DirEntry {
                ino: found.attr.ino,
                ..entry
            };
            if add(&entry, &found) {
                self.forget(found.attr.ino, 1);
                break;
            }
        }
        Ok(())
    }

    /// Closes a directory.
    pub fn releasedir(&self, fh: u64) {
        self.listings.lock().remove(&fh);
    }

    /// Whether a directory has no names.
    pub(super) fn is_empty(&self, ino: Ino) -> Result<bool> {
        let listing = self.list(ino, &self.node(ino)?)?;
        Ok(listing.0.iter().all(Listed::is_dots))
    }

    /// What is staged in a directory, with the numbers of the nodes, in the order of the names.
    pub(in crate::txn) fn staged_names(&self, node: &Node) -> Result<Vec<(OsString, u64)>> {
        let Some(upper) = node.upper else {
            return Ok(Vec::new());
        };
        let mut names = Vec::new();
        self.each(Layer::Upper, upper, |entry| {
            let number = self.state.lock().by_upper.get(&entry.ino).copied();
            names.push((entry.name.to_owned(), number));
        })?;
        names.sort();
        let known = |(name, number): (OsString, Option<u64>)| Some((name, number?));
        let count = names.len();
        let names: Vec<_> = names.into_iter().filter_map(known).collect();
        // Something in the stage that was not put there through the view: nobody knows what it means.
        if names.len() < count {
            Err(Error::Os(libc::ESTALE))
        } else {
            Ok(names)
        }
    }

    fn listing(&self, fh: u64) -> Result<Arc<Listing>> {
        self.listings
            .lock()
            .get(&fh)
            .cloned()
            .ok_or(Error::Os(libc::EBADF))
    }

    fn list(&self, ino: Ino, node: &Node) -> Result<Listing> {
        let mut listed = vec![
            Listed::directory(ino, "."),
            Listed::directory(Ino(node.parent), ".."),
        ];
        let mut taken = HashSet::new();
        if let Some(upper) = node.upper {
            self.each(Layer::Upper, upper, |entry| {
                taken.insert(entry.name.to_owned());
                listed.push(self.listed(Layer::Upper, entry));
            })?;
        }
        if let Some(lower) = node.lower {
            self.each(Layer::Lower, lower, |entry| {
                if !taken.contains(entry.name) && !self.is_hidden(ino, entry.name) {
                    listed.push(self.listed(Layer::Lower, entry));
                }
            })?;
        }
        Ok(Listing(listed))
    }

    /// Every name of a directory of one layer but the two that all have.
    fn each(&self, layer: Layer, dir: Ino, mut take: impl FnMut(&DirEntry<'_>)) -> Result<()> {
        let stack = self.stack(layer);
        let fh = stack.opendir(dir)?;
        let read = stack.readdir(fh, 0, |entry| {
            if entry.name != "." && entry.name != ".." {
                take(entry);
            }
            false
        });
        stack.releasedir(fh);
        read
    }

    fn listed(&self, layer: Layer, entry: &DirEntry<'_>) -> Listed {
        let mut state = self.state.lock();
        let number = match layer {
            Layer::Upper => state.by_upper.get(&entry.ino).copied().unwrap_or(entry.ino.0),
            Layer::Lower => state.listed_number(self.prefix, entry.ino),
        };
        Listed {
            ino: Ino(number),
            kind: entry.kind,
            name: entry.name.to_owned(),
        }
    }
}

impl Listed {
    fn directory(ino: Ino, name: &str) -> Listed {
        Listed {
            ino,
            kind: libc::DT_DIR,
            name: name.into(),
        }
    }

    fn entry(&self, at: usize) -> DirEntry<'_> {
        DirEntry {
            ino: self.ino,
            next_offset: at as u64 + 1,
            kind: self.kind,
            name: OsStr::new(&self.name),
        }
    }

    fn is_dots(&self) -> bool {
        self.name == "." || self.name == ".."
    }
}
