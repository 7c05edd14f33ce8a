//! The catalog in memory: what a hit needs (path, size, time, state) without a query of the database.
//!
//! 56 bytes a file, longer names apart. It changes only when a commit has returned, by the [`Touch`]es the transaction
//! left. What is asked of few files at a time, like the inode, stands in the database alone.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::Rows;
use super::file::{Kind, ROOT, State};
use super::interned::{Interned, Interner};
use super::pages::Pages;
use crate::error::Result;
use crate::ids::FileId;
use crate::label::Label;

/// Folders above a file that are followed; PATH_MAX allows no more.
const DEPTH_MAX: usize = 2048;

/// A name of a file: the folder and the entry in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name {
    /// The folder.
    pub parent: FileId,
    /// The entry's bytes.
    pub name: Box<[u8]>,
}

impl Name {
    /// The entry as the system's string.
    pub fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(&self.name)
    }
}

/// A file or folder of the catalog.
#[derive(Clone, Copy)]
pub struct Node<'m> {
    stored: &'m Stored,
    kin: &'m Kin,
}

impl<'m> Node<'m> {
    /// What sort of inode it is.
    pub fn kind(self) -> Kind {
        self.kin.kind
    }

    /// State of the index.
    pub fn state(self) -> &'m State {
        &self.kin.state
    }

    /// Length in bytes when it was last looked at.
    pub fn size(self) -> u64 {
        self.stored.size
    }

    /// Last change of its content then, in nanoseconds since the epoch.
    pub fn mtime(self) -> i64 {
        self.stored.mtime
    }

    /// Passages that it has in the derived indexes.
    pub fn passages(self) -> u32 {
        self.stored.passages
    }

    /// Its names, more than one for a hard link, in the order in which they were seen.
    pub fn names(self) -> impl Iterator<Item = NameRef<'m>> {
        self.stored.names.as_slice().iter().map(|entry| NameRef {
            parent: entry.parent,
            name: entry.label.as_bytes(),
        })
    }
}

/// A [`Name`] that stands in the mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameRef<'m> {
    /// The folder.
    pub parent: FileId,
    /// The entry's bytes.
    pub name: &'m [u8],
}

impl<'m> NameRef<'m> {
    /// The entry as the system's string.
    pub fn as_os_str(self) -> &'m OsStr {
        OsStr::from_bytes(self.name)
    }

    /// A copy.
    pub fn to_name(self) -> Name {
        Name {
            parent: self.parent,
            name: self.name.into(),
        }
    }
}

/// What is kept of a file.
struct Stored {
    size: u64,
    mtime: i64,
    kin: Interned,
    passages: u32,
    names: Names,
}

/// A million files may be known: each byte here is a megabyte.
const _: () = assert!(size_of::<Option<Stored>>() == 56);

/// What a file has in common with many others.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Kin {
    kind: Kind,
    state: State,
}

/// The names of a file. Nearly all have one.
enum Names {
    None,
    One(Entry),
    Many(Box<[Entry]>),
}

/// An entry in a folder.
struct Entry {
    parent: FileId,
    label: Label,
}

impl Entry {
    fn new(name: &Name) -> Entry {
        Entry {
            parent: name.parent,
            label: Label::new(&name.name),
        }
    }

    fn is(&self, name: &Name) -> bool {
        self.parent == name.parent && *self.label.as_bytes() == *name.name
    }
}

impl Names {
    fn as_slice(&self) -> &[Entry] {
        match self {
            Names::None => &[],
            Names::One(entry) => std::slice::from_ref(entry),
            Names::Many(entries) => entries,
        }
    }

    /// The same names, changed.
    fn with(self, change: impl FnOnce(&mut Vec<Entry>)) -> Names {
        let mut entries = match self {
            Names::None => Vec::new(),
            Names::One(entry) => vec![entry],
            Names::Many(entries) => entries.into_vec(),
        };
        change(&mut entries);
        match entries.len() {
            0 => Names::None,
            1 => entries.pop().map_or(Names::None, Names::One),
            _ => Names::Many(entries.into()),
        }
    }
}

/// What a transaction changed.
pub(super) enum Touch {
    File {
        id: FileId,
        kind: Kind,
        size: u64,
        mtime: i64,
        state: State,
        passages: u32,
    },
    Named {
        id: FileId,
        name: Name,
    },
    Unnamed {
        id: FileId,
        name: Name,
    },
    Dropped(FileId),
}

/// Sums over the catalog. Folders, links and special files are not counted as files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Regular files with a name.
    pub files: u64,
    /// Folders.
    pub folders: u64,
    /// Files that are searchable as they are.
    pub ready: u64,
    /// Files that wait for the indexer, stale ones and removals included.
    pub pending: u64,
    /// Files whose text could not be read.
    pub failed: u64,
    /// Files and folders that a rule keeps out.
    pub excluded: u64,
    /// Passages in the derived indexes.
    pub passages: u64,
    /// Bytes of the files that are searchable.
    pub bytes: u64,
}

/// The catalog in memory.
#[derive(Default)]
pub struct Mirror {
    files: Pages<Stored>,
    kin: Interner<Kin>,
    counts: Counts,
}

impl Mirror {
    pub(super) fn load(rows: &Rows<'_>) -> Result<Mirror> {
        let mut mirror = Mirror::default();
        rows.each_file(|touch| mirror.apply(touch))?;
        rows.each_name(|id, name| mirror.apply(Touch::Named { id, name }))?;
        Ok(mirror)
    }

    /// A file or folder.
    pub fn get(&self, id: FileId) -> Option<Node<'_>> {
        self.files.get(&id).map(|stored| self.node(stored))
    }

    /// The path of a name, relative to the root of the tree; the root itself is the empty path.
    pub fn path_of_name(&self, name: &Name) -> Option<PathBuf> {
        self.path_of(NameRef {
            parent: name.parent,
            name: &name.name,
        })
    }

    /// A path of the file; of a file with several names, the first that was seen. `None` when it has no name.
    pub fn path(&self, id: FileId) -> Option<PathBuf> {
        if id == ROOT {
            return Some(PathBuf::new());
        }
        self.path_of(self.get(id)?.names().next()?)
    }

    /// All paths of the file.
    pub fn paths(&self, id: FileId) -> Vec<PathBuf> {
        if id == ROOT {
            return vec![PathBuf::new()];
        }
        let names = self.get(id).into_iter().flat_map(Node::names);
        names.filter_map(|name| self.path_of(name)).collect()
    }

    /// Whether the file has a name in the folder or below it; a folder is within itself.
    pub fn is_within(&self, id: FileId, folder: FileId) -> bool {
        let Some(node) = self.get(id) else { return false };
        if id == folder || folder == ROOT {
            return node.state().is_live();
        }
        node.names().any(|name| {
            let mut above = name.parent;
            for _ in 0..DEPTH_MAX {
                if above == folder {
                    return true;
                }
                if above == ROOT {
                    return false;
                }
                match self.get(above).and_then(|node| node.names().next()) {
                    Some(name) => above = name.parent,
                    None => return false,
                }
            }
            false
        })
    }

    /// Every file and folder, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (FileId, Node<'_>)> {
        self.files.iter().map(|(id, stored)| (id, self.node(stored)))
    }

    /// Sums over the catalog.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    fn node<'m>(&'m self, stored: &'m Stored) -> Node<'m> {
        Node {
            stored,
            kin: self.kin.get(stored.kin),
        }
    }

    fn path_of(&self, name: NameRef<'_>) -> Option<PathBuf> {
        let mut parts = vec![name.name];
        let mut folder = name.parent;
        while folder != ROOT {
            let above = self.get(folder)?.names().next()?;
            parts.push(above.name);
            folder = above.parent;
            if parts.len() > DEPTH_MAX {
                return None;
            }
        }
        parts.reverse();
        Some(PathBuf::from(OsStr::from_bytes(&parts.join(&b'/'))))
    }

    pub(super) fn apply(&mut self, touch: Touch) {
        match touch {
            Touch::File {
                id,
                kind,
                size,
                mtime,
                state,
                passages,
            } => {
                let names = self.take(id).map_or(Names::None, |known| known.names);
                let stored = Stored {
                    size,
                    mtime,
                    kin: self.kin.take(Kin { kind, state }),
                    passages,
                    names,
                };
                count(&mut self.counts, &stored, self.kin.get(stored.kin), 1);
                self.files.insert(id, stored);
            }
            Touch::Named { id, name } => {
                self.rename(id, |names| names.push(Entry::new(&name)));
            }
            Touch::Unnamed { id, name } => {
                self.rename(id, |names| names.retain(|entry| !entry.is(&name)));
            }
            Touch::Dropped(id) => drop(self.take(id)),
        }
    }

    /// Takes a file out, and out of the sums.
    fn take(&mut self, id: FileId) -> Option<Stored> {
        let stored = self.files.remove(&id)?;
        count(&mut self.counts, &stored, self.kin.get(stored.kin), u64::MAX);
        self.kin.release(stored.kin);
        Some(stored)
    }

    fn rename(&mut self, id: FileId, change: impl FnOnce(&mut Vec<Entry>)) {
        if let Some(stored) = self.files.get_mut(&id) {
            stored.names = std::mem::replace(&mut stored.names, Names::None).with(change);
        }
    }
}

/// Adds a file to the sums, `times` it: 1, or -1 as the number that wraps to it.
fn count(counts: &mut Counts, stored: &Stored, kin: &Kin, times: u64) {
    let add = |sum: &mut u64, amount: u64| *sum = sum.wrapping_add(amount.wrapping_mul(times));
    add(&mut counts.passages, u64::from(stored.passages));
    match (kin.kind, kin.state.is_live()) {
        (Kind::File, true) => add(&mut counts.files, 1),
        (Kind::Directory, true) => add(&mut counts.folders, 1),
        _ => {}
    }
    match kin.state {
        State::Ready => {
            add(&mut counts.ready, 1);
            add(&mut counts.bytes, stored.size);
        }
        State::Pending | State::Stale | State::Leaving => add(&mut counts.pending, 1),
        State::Failed(_) => add(&mut counts.failed, 1),
        State::Excluded(_) => add(&mut counts.excluded, 1),
        State::Named | State::Orphan => {}
    }
}
