//! What the catalog knows about a file: facts seen in the backing tree, and the state of its index.

use std::fmt;

use crate::ids::{FileId, Generation, NodeKey};

/// The root folder's id.
pub const ROOT: FileId = FileId(1);

/// What sort of inode it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A regular file.
    File = 1,
    /// A directory.
    Directory = 2,
    /// A symbolic link.
    Symlink = 3,
    /// A FIFO, socket or device.
    Special = 4,
}

impl Kind {
    /// In a word, for programs.
    pub fn word(self) -> &'static str {
        match self {
            Kind::File => "file",
            Kind::Directory => "directory",
            Kind::Symlink => "symlink",
            Kind::Special => "special",
        }
    }

    pub(super) fn from_number(number: i64) -> Kind {
        match number {
            1 => Kind::File,
            2 => Kind::Directory,
            3 => Kind::Symlink,
            _ => Kind::Special,
        }
    }
}

/// What statx(2) said about an inode when it was last looked at. Times are nanoseconds since the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Which inode it is.
    pub key: NodeKey,
    /// Time of birth, 0 where the filesystem has none. With the key it tells two uses of one inode number apart.
    pub born: i64,
    /// What sort of inode it is.
    pub kind: Kind,
    /// Length in bytes.
    pub size: u64,
    /// Last change of the content.
    pub mtime: i64,
    /// Last change of the inode. The catalog keeps 0 for "look again", when the file was seen so soon after a change
    /// that another change could carry the same time.
    pub ctime: i64,
    /// Type and permission bits (`st_mode`).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Hard links in the backing filesystem.
    pub nlink: u32,
}

impl Facts {
    /// Whether the inode is the same one, not another that got its number later.
    pub fn same_inode(&self, other: &Facts) -> bool {
        self.key == other.key && self.kind == other.kind && self.born == other.born
    }

    /// Whether the content is surely the same as when `seen` was recorded.
    pub fn same_content(&self, seen: &Facts) -> bool {
        self.same_inode(seen)
            && self.size == seen.size
            && self.mtime == seen.mtime
            && self.ctime == seen.ctime
            && seen.ctime != 0
    }
}

/// How far the index of a file has come.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// A folder, link or special file: known by name, without content to search.
    Named,
    /// Searchable as it is.
    Ready,
    /// Not searchable yet; there is no older version.
    Pending,
    /// Changed since it was made searchable; what is found is an older version.
    Stale,
    /// Its content could not be read as text. Tried again when the file changes.
    Failed(String),
    /// A rule keeps it out of the index.
    Excluded(String),
    /// No name is left; its passages are still to be removed.
    Leaving,
    /// No name is left, but something that we were told is kept for its return.
    Orphan,
}

impl State {
    pub(super) fn number(&self) -> i64 {
        match self {
            State::Named => 0,
            State::Ready => 1,
            State::Pending => 2,
            State::Stale => 3,
            State::Failed(_) => 4,
            State::Excluded(_) => 5,
            State::Leaving => 6,
            State::Orphan => 7,
        }
    }

    pub(super) fn why(&self) -> Option<&str> {
        match self {
            State::Failed(why) | State::Excluded(why) => Some(why),
            _ => None,
        }
    }

    pub(super) fn from_number(number: i64, why: Option<String>) -> State {
        match number {
            1 => State::Ready,
            2 => State::Pending,
            3 => State::Stale,
            4 => State::Failed(why.unwrap_or_default()),
            5 => State::Excluded(why.unwrap_or_default()),
            6 => State::Leaving,
            7 => State::Orphan,
            _ => State::Named,
        }
    }

    /// Whether the indexer has work with the file.
    pub fn is_awaiting(&self) -> bool {
        matches!(self, State::Pending | State::Stale | State::Leaving)
    }

    /// Whether the file has a name in the tree.
    pub fn is_live(&self) -> bool {
        !matches!(self, State::Leaving | State::Orphan)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            State::Named => f.write_str("named"),
            State::Ready => f.write_str("ready"),
            State::Pending => f.write_str("pending"),
            State::Stale => f.write_str("stale"),
            State::Failed(why) => write!(f, "failed:{why}"),
            State::Excluded(rule) => write!(f, "excluded:{rule}"),
            State::Leaving | State::Orphan => f.write_str("gone"),
        }
    }
}

/// A file's row, without its passages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRow {
    /// The durable id.
    pub id: FileId,
    /// What was last seen.
    pub facts: Facts,
    /// State of the index.
    pub state: State,
    /// The generation whose commit made the present passages visible; 0 before the first.
    pub indexed: Generation,
    /// blake3 of the content that was indexed last.
    pub hash: Option<[u8; 32]>,
}
