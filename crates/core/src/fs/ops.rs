//! Requests and replies of the filesystem, without any FUSE type, so that a second transport is a second loop.

use std::time::{Duration, SystemTime};

use crate::ids::Ino;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Caller {
    /// Filesystem user id.
    pub uid: u32,
    /// Filesystem group id.
    pub gid: u32,
    /// Process (thread) id, 0 when unknown; supplementary groups are read from its `/proc` entry.
    pub pid: u32,
}

/// Attributes of an inode, as in stat(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// The number shown to the kernel.
    pub ino: Ino,
    /// Length in bytes.
    pub size: u64,
    /// 512-byte blocks.
    pub blocks: u64,
    /// Times as seconds and nanoseconds since the epoch; seconds may be negative.
    pub atime: Timestamp,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Last change of the inode.
    pub ctime: Timestamp,
    /// Type and permission bits (`st_mode`).
    pub mode: u32,
    /// Hard links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a special file, in the kernel's encoding (`st_rdev`).
    pub rdev: u64,
    /// Preferred block size.
    pub blksize: u32,
}

/// A point in time: seconds since the epoch, may be negative, and nanoseconds (0..1e9) after them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp {
    /// Seconds since the epoch.
    pub secs: i64,
    /// Nanoseconds after `secs`.
    pub nanos: u32,
}

impl Timestamp {
    /// The present.
    pub fn now() -> Timestamp {
        let since = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        Timestamp {
            secs: since.as_secs() as i64,
            nanos: since.subsec_nanos(),
        }
    }
}

/// The answer to lookup and to everything that makes a name. It counts as one reference (nlookup).
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Attributes; `attr.ino` is the node id.
    pub attr: Attr,
    /// Distinguishes two uses of one inode number (`i_generation`).
    pub generation: u64,
    /// How long the kernel may believe the name.
    pub entry_ttl: Duration,
    /// How long the kernel may believe the attributes.
    pub attr_ttl: Duration,
}

/// What setattr changes; `None` is left as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct SetAttr {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length in bytes.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<TimeSet>,
    /// Last change of the content.
    pub mtime: Option<TimeSet>,
    /// The open file through which it is done, if through one.
    pub fh: Option<u64>,
}

impl SetAttr {
    /// Whether nothing is to be changed.
    pub fn is_empty(&self) -> bool {
        let numbers = self.mode.or(self.uid).or(self.gid);
        numbers.is_none() && self.size.is_none() && self.atime.is_none() && self.mtime.is_none()
    }
}

/// A time to be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeSet {
    /// The present, by the clock of the filesystem.
    Now,
    /// This time.
    At(Timestamp),
}

/// The size of a filesystem, as in statvfs(3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Size, in units of `frsize`.
    pub blocks: u64,
    /// Free.
    pub bfree: u64,
    /// Free for ordinary users.
    pub bavail: u64,
    /// Inodes.
    pub files: u64,
    /// Free inodes.
    pub ffree: u64,
    /// Preferred block size.
    pub bsize: u32,
    /// Longest name.
    pub namelen: u32,
    /// Unit of the sizes above.
    pub frsize: u32,
}
