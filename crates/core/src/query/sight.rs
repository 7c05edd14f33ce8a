//! What one caller may know of, for the time of a request: asked of the kernel once a file.

use std::collections::hash_map::Entry;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use rustc_hash::FxHashMap;

use super::access::{readable, sees_all};
use super::fuse::Scored;
use crate::fs::ops::Caller;
use crate::ids::FileId;
use crate::relation::Sight;
use crate::store::Store;

/// The sight of a caller: files that they may read, under a name that they may reach.
pub(crate) struct CallersSight<'a> {
    store: &'a Store,
    root: BorrowedFd<'a>,
    caller: &'a Caller,
    known: FxHashMap<FileId, Option<PathBuf>>,
    /// All paths that were asked about, and the answers.
    paths: Vec<PathBuf>,
    readable: Vec<bool>,
}

impl<'a> CallersSight<'a> {
    /// `root` is the backing directory.
    pub(crate) fn new(store: &'a Store, root: BorrowedFd<'a>, caller: &'a Caller) -> CallersSight<'a> {
        CallersSight {
            store,
            root,
            caller,
            known: FxHashMap::default(),
            paths: Vec::new(),
            readable: Vec::new(),
        }
    }

    /// Asks about those of the files that nothing is known of yet, all at once.
    pub(crate) fn look(&mut self, files: impl Iterator<Item = FileId>) {
        let (mut asked, mut paths) = (Vec::new(), Vec::new());
        {
            let mirror = self.store.mirror();
            for file in files {
                if let Entry::Vacant(entry) = self.known.entry(file) {
                    entry.insert(None);
                    for path in mirror.paths(file) {
                        asked.push(file);
                        paths.push(path);
                    }
                }
            }
        }
        let readable = readable(self.root, self.caller, &paths);
        for ((file, path), readable) in asked.into_iter().zip(&paths).zip(&readable) {
            if let (true, Some(known @ None)) = (readable, self.known.get_mut(&file)) {
                *known = Some(path.clone());
            }
        }
        self.paths.extend(paths);
        self.readable.extend(readable);
    }

    /// Takes out what lies in files that the caller may not read. For whom everything is readable no path is made of
    /// the hundreds of files that are not shown in the end.
    pub(crate) fn keep_readable(&mut self, lists: [&mut Vec<Scored>; 2]) {
        if sees_all(self.caller) {
            let mirror = self.store.mirror();
            let named = |hit: &Scored| {
                mirror
                    .get(hit.id.file())
                    .is_some_and(|node| node.names().next().is_some())
            };
            lists.into_iter().for_each(|list| list.retain(named));
        } else {
            self.look(lists.iter().flat_map(|list| list.iter().map(|hit| hit.id.file())));
            let allowed = |hit: &Scored| self.path(hit.id.file()).is_some();
            lists.into_iter().for_each(|list| list.retain(allowed));
        }
    }

    /// All paths that were asked about, and the answers.
    pub(crate) fn into_asked(self) -> (Vec<PathBuf>, Vec<bool>) {
        (self.paths, self.readable)
    }

    /// A path under which the caller may read a file that was looked at; none of those that they may not.
    pub(crate) fn path(&self, file: FileId) -> Option<&Path> {
        self.known.get(&file)?.as_deref()
    }
}

impl Sight for CallersSight<'_> {
    fn sees(&mut self, files: &[FileId]) -> Vec<bool> {
        self.look(files.iter().copied());
        files.iter().map(|file| self.path(*file).is_some()).collect()
    }
}
