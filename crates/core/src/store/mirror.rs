//! The catalog in memory: what a hit needs (path, facts, state) without a query of the database.
//!
//! About 200 bytes a file. It changes only when a commit has returned, by the [`Touch`]es the transaction left.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustc_hash::FxHashMap;

use super::Rows;
use super::file::{Facts, ROOT, State};
use super::pages::Pages;
use crate::error::Result;
use crate::ids::{FileId, NodeKey};

/// Folders above a file that are followed; PATH_MAX allows no more.
const DEPTH_MAX: usize = 2048;

/// A name of a file: the folder and the entry in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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

/// The names of a file. Nearly all have one.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Names {
    None,
    One(Name),
    Many(Vec<Name>),
}

/// A file or folder of the catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// What was last seen.
    pub facts: Facts,
    /// State of the index.
    pub state: State,
    /// Passages that it has in the derived indexes.
    pub passages: u32,
    names: Names,
}

impl Node {
    /// Its names, more than one for a hard link.
    pub fn names(&self) -> &[Name] {
        match &self.names {
            Names::None => &[],
            Names::One(name) => std::slice::from_ref(name),
            Names::Many(names) => names,
        }
    }
}

/// What a transaction changed.
pub(super) enum Touch {
    File {
        id: FileId,
        facts: Facts,
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
    nodes: Pages<Node>,
    by_key: FxHashMap<NodeKey, FileId>,
    counts: Counts,
}

impl Mirror {
    pub(super) fn load(rows: &Rows<'_>) -> Result<Mirror> {
        let mut mirror = Mirror::default();
        rows.each_file(|id, facts, state, passages| {
            mirror.apply(Touch::File {
                id,
                facts,
                state,
                passages,
            });
        })?;
        rows.each_name(|id, name| mirror.apply(Touch::Named { id, name }))?;
        Ok(mirror)
    }

    /// A file or folder.
    pub fn get(&self, id: FileId) -> Option<&Node> {
        self.nodes.get(&id)
    }

    /// The file that an inode is, if it has a name in the catalog.
    pub fn id_of(&self, key: NodeKey) -> Option<FileId> {
        self.by_key.get(&key).copied()
    }

    /// The path of a name, relative to the root of the tree; the root itself is the empty path.
    pub fn path_of_name(&self, name: &Name) -> Option<PathBuf> {
        let mut parts = vec![&*name.name];
        let mut folder = name.parent;
        while folder != ROOT {
            let [above, ..] = self.nodes.get(&folder)?.names() else {
                return None;
            };
            parts.push(&above.name);
            folder = above.parent;
            if parts.len() > DEPTH_MAX {
                return None;
            }
        }
        parts.reverse();
        Some(PathBuf::from(OsStr::from_bytes(&parts.join(&b'/'))))
    }

    /// A path of the file; of a file with several names, the first that was seen. `None` when it has no name.
    pub fn path(&self, id: FileId) -> Option<PathBuf> {
        if id == ROOT {
            return Some(PathBuf::new());
        }
        self.path_of_name(self.nodes.get(&id)?.names().first()?)
    }

    /// All paths of the file.
    pub fn paths(&self, id: FileId) -> Vec<PathBuf> {
        if id == ROOT {
            return vec![PathBuf::new()];
        }
        let names = self.nodes.get(&id).map_or(&[][..], Node::names);
        names.iter().filter_map(|name| self.path_of_name(name)).collect()
    }

    /// Whether the file has a name in the folder or below it; a folder is within itself.
    pub fn is_within(&self, id: FileId, folder: FileId) -> bool {
        if id == folder || folder == ROOT {
            return self.nodes.get(&id).is_some_and(|node| node.state.is_live());
        }
        let names = self.nodes.get(&id).map_or(&[][..], Node::names);
        names.iter().any(|name| {
            let mut above = name.parent;
            for _ in 0..DEPTH_MAX {
                if above == folder {
                    return true;
                }
                if above == ROOT {
                    return false;
                }
                match self.nodes.get(&above).and_then(|node| node.names().first()) {
                    Some(name) => above = name.parent,
                    None => return false,
                }
            }
            false
        })
    }

    /// Every file and folder, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (FileId, &Node)> {
        self.nodes.iter()
    }

    /// Sums over the catalog.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    pub(super) fn apply(&mut self, touch: Touch) {
        match touch {
            Touch::File {
                id,
                facts,
                state,
                passages,
            } => self.put(id, facts, state, passages),
            Touch::Named { id, name } => self.name(id, name),
            Touch::Unnamed { id, name } => self.unname(id, &name),
            Touch::Dropped(id) => {
                if let Some(node) = self.nodes.remove(&id) {
                    self.uncount(&node);
                    self.forget_key(node.facts.key, id);
                }
            }
        }
    }

    fn put(&mut self, id: FileId, facts: Facts, state: State, passages: u32) {
        let names = match self.nodes.remove(&id) {
            Some(node) => {
                self.uncount(&node);
                self.forget_key(node.facts.key, id);
                node.names
            }
            None => Names::None,
        };
        if state.is_live() {
            self.by_key.insert(facts.key, id);
        }
        let node = Node {
            facts,
            state,
            passages,
            names,
        };
        count(&mut self.counts, &node, 1);
        self.nodes.insert(id, node);
    }

    fn uncount(&mut self, node: &Node) {
        count(&mut self.counts, node, u64::MAX);
    }

    fn forget_key(&mut self, key: NodeKey, id: FileId) {
        if self.by_key.get(&key) == Some(&id) {
            self.by_key.remove(&key);
        }
    }

    fn name(&mut self, id: FileId, name: Name) {
        let Some(node) = self.nodes.get_mut(&id) else {
            return;
        };
        node.names = match std::mem::replace(&mut node.names, Names::None) {
            Names::None => Names::One(name),
            Names::One(first) => Names::Many(vec![first, name]),
            Names::Many(mut names) => {
                names.push(name);
                Names::Many(names)
            }
        };
    }

    fn unname(&mut self, id: FileId, name: &Name) {
        let Some(node) = self.nodes.get_mut(&id) else {
            return;
        };
        node.names = match std::mem::replace(&mut node.names, Names::None) {
            Names::One(only) if only == *name => Names::None,
            Names::Many(mut names) => {
                names.retain(|other| other != name);
                if names.len() == 1 {
                    Names::One(names.remove(0))
                } else {
                    Names::Many(names)
                }
            }
            other => other,
        };
    }
}

/// Adds a node to the sums, `times` it: 1, or -1 as the number that wraps to it.
fn count(counts: &mut Counts, node: &Node, times: u64) {
    let add = |sum: &mut u64, amount: u64| *sum = sum.wrapping_add(amount.wrapping_mul(times));
    add(&mut counts.passages, u64::from(node.passages));
    match (node.facts.kind, node.state.is_live()) {
        (super::file::Kind::File, true) => add(&mut counts.files, 1),
        (super::file::Kind::Directory, true) => add(&mut counts.folders, 1),
        _ => {}
    }
    match node.state {
        State::Ready => {
            add(&mut counts.ready, 1);
            add(&mut counts.bytes, node.facts.size);
        }
        State::Pending | State::Stale | State::Leaving => add(&mut counts.pending, 1),
        State::Failed(_) => add(&mut counts.failed, 1),
        State::Excluded(_) => add(&mut counts.excluded, 1),
        State::Named | State::Orphan => {}
    }
}
