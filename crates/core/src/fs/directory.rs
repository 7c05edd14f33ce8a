//! Reading directories: a stream of the backing directory's own entries and cursors, so that a directory of any size
//! costs one pass and a fixed buffer.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::fs::SeekFrom;

use super::Stack;
use super::handle::last_errno;
use super::mounts::unseen;
use super::node::Node;
use super::open::sync;
use super::ops::{Attr, Entry, Timestamp};
use super::stat::{kind, stat_at};
use crate::ids::Ino;
use crate::pool::{self, Buffer};
use crate::{Error, Result};

/// Bytes read from the backing directory at once.
const BUFFER_LEN: usize = 32 * 1024;

/// Offsets of the fields of `struct linux_dirent64`: d_ino, d_off, d_reclen, d_type, d_name.
const OFF_AT: usize = 8;
const RECLEN_AT: usize = 16;
const TYPE_AT: usize = 18;
const NAME_AT: usize = 19;

/// A directory that is open for reading.
pub(super) struct OpenDir {
    node: Arc<Node>,
    fd: OwnedFd,
    stream: Mutex<Stream>,
}

/// What was last read from the backing directory, and how far it was handed out.
struct Stream {
    buffer: Buffer,
    /// Where the entries that were not handed out begin.
    start: usize,
    end: usize,
    /// The cursor of the entry at `start`.
    cursor: u64,
    /// The cursor of the buffer's first entry.
    first_cursor: u64,
}

/// One name in a directory.
pub struct DirEntry<'a> {
    /// Inode number; what lies under a mount point's name for a mount point.
    pub ino: Ino,
    /// Where to go on after it.
    pub next_offset: u64,
    /// `DT_*`.
    pub kind: u8,
    /// The name.
    pub name: &'a OsStr,
}

impl Stack {
    /// Opens a directory for reading.
    pub fn opendir(&self, ino: Ino) -> Result<u64> {
        let node = self.node(ino)?;
        if !node.is_dir() {
            return Err(Error::Os(libc::ENOTDIR));
        }
        let fd = self.reopen(&node, libc::O_RDONLY | libc::O_DIRECTORY)?;
        let stream = Stream {
            buffer: pool::take(BUFFER_LEN),
            start: 0,
            end: 0,
            cursor: 0,
            first_cursor: 0,
        };
        Ok(self.dirs.insert(Arc::new(OpenDir {
            node,
            fd,
            stream: Mutex::new(stream),
        })))
    }

    /// Lists a directory from `offset` on until `add` says that it is full; that entry will come again.
    pub fn readdir(&self, fh: u64, offset: u64, mut add: impl FnMut(&DirEntry<'_>) -> bool) -> Result<()> {
        let dir = self.dirs.get(fh).ok_or(Error::Os(libc::EBADF))?;
        self.walk(&dir, offset, |entry| {
            if entry.kind != libc::DT_UNKNOWN {
                return Ok(add(entry));
            }
            // A filesystem that does not keep types in its directories.
            let kind = stat_at(&dir.fd, entry.name).map_or(entry.kind, |stat| (kind(&stat) >> 12) as u8);
            Ok(add(&DirEntry { kind, ..*entry }))
        })
    }

    /// The same with a lookup of every name. An entry counts as looked up if `add` took it.
    pub fn readdirplus(
        &self,
        fh: u64,
        offset: u64,
        mut add: impl FnMut(&DirEntry<'_>, &Entry) -> bool,
    ) -> Result<()> {
        let dir = self.dirs.get(fh).ok_or(Error::Os(libc::EBADF))?;
        self.walk(&dir, offset, |entry| {
            if matches!(entry.name.as_bytes(), b"." | b"..") {
                return Ok(add(entry, &self.bare(entry)));
            }
            match self.find_at(dir.node.ino, dir.fd.as_fd(), entry.name) {
                Ok((node, stat)) => {
                    let full = add(entry, &self.entry(&node, &stat));
                    if full {
                        self.forget(node.ino, 1);
                    }
                    Ok(full)
                }
                // Readable but not searchable: the names are all that may be known. The kernel takes it for a lookup,
                // so it gets a number that is nobody's, and may believe it for no time.
                Err(Error::Os(libc::EACCES)) => {
                    let unseen = DirEntry {
                        ino: unseen(entry.ino),
                        ..*entry
                    };
                    let zero = Duration::ZERO;
                    Ok(add(
                        &unseen,
                        &Entry {
                            entry_ttl: zero,
                            attr_ttl: zero,
                            ..self.bare(&unseen)
                        },
                    ))
                }
                // It is gone, or what is behind it is broken: then the name does not count either.
                Err(_) => Ok(false),
            }
        })
    }

    /// Closes a directory.
    pub fn releasedir(&self, fh: u64) {
        self.dirs.remove(fh);
    }

    /// Makes the directory's names durable.
    pub fn fsyncdir(&self, fh: u64, data: bool) -> Result<()> {
        let dir = self.dirs.get(fh).ok_or(Error::Os(libc::EBADF))?;
        sync(&dir.fd, data)
    }

    fn walk(
        &self,
        dir: &OpenDir,
        offset: u64,
        mut add: impl FnMut(&DirEntry<'_>) -> Result<bool>,
    ) -> Result<()> {
        // One listing at a time goes through one open directory, as in the kernel.
        let mut stream = dir.stream.lock();
        // A caller with a small buffer takes less than a reply holds, and the kernel asks for the rest again.
        if offset != stream.cursor && !stream.rewind(offset) {
            rustix::fs::seek(&dir.fd, SeekFrom::Start(offset))?;
            (stream.start, stream.end, stream.cursor) = (0, 0, offset);
        }
        loop {
            if stream.start == stream.end && !stream.fill(&dir.fd)? {
                return Ok(());
            }
            let (entry, len) = stream.first(|number| self.mounts.ino(dir.node.mount, number))?;
            let next = entry.next_offset;
            let hidden =
                !matches!(entry.name.as_bytes(), b"." | b"..") && self.is_hidden(&dir.node, entry.name);
            if !hidden && add(&entry)? {
                return Ok(());
            }
            stream.start += len;
            stream.cursor = next;
        }
    }

    /// An entry as a listing without lookups has it: number, type and name.
    pub fn bare(&self, entry: &DirEntry<'_>) -> Entry {
        let zero = Timestamp::default();
        let attr = Attr {
            ino: entry.ino,
            size: 0,
            blocks: 0,
            atime: zero,
            mtime: zero,
            ctime: zero,
            mode: u32::from(entry.kind) << 12,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
        };
        Entry {
            attr,
            generation: 0,
            entry_ttl: self.ttl_of(entry.ino),
            attr_ttl: self.ttl_of(entry.ino),
        }
    }
}

impl Stream {
    /// Reads on; false at the end.
    fn fill(&mut self, fd: &OwnedFd) -> Result<bool> {
        // SAFETY: the kernel writes at most `len` bytes into the buffer that we own.
        let n = unsafe {
            libc::syscall(
                libc::SYS_getdents64,
                fd.as_raw_fd(),
                self.buffer.as_mut_ptr(),
                self.buffer.len(),
            )
        };
        if n < 0 {
            return Err(last_errno().into());
        }
        (self.start, self.end, self.first_cursor) = (0, n as usize, self.cursor);
        Ok(n > 0)
    }

    /// Goes back (or on) to the entry at a cursor, if that is still in the buffer. Not to the beginning: who starts
    /// again wants to see the directory as it is now.
    fn rewind(&mut self, cursor: u64) -> bool {
        if cursor == 0 || self.end == 0 {
            return false;
        }
        let (mut at, mut here) = (0, self.first_cursor);
        while here != cursor {
            let field = |range: std::ops::Range<usize>| self.buffer[..self.end].get(range);
            let (Some(len), Some(next)) = (
                field(at + RECLEN_AT..at + TYPE_AT),
                field(at + OFF_AT..at + RECLEN_AT),
            ) else {
                return false;
            };
            at += usize::from(u16::from_ne_bytes(len.try_into().expect("the slice has 2 bytes"))).max(1);
            here = u64::from_ne_bytes(next.try_into().expect("the slice has 8 bytes"));
        }
        (self.start, self.cursor) = (at, cursor);
        true
    }

    /// The first entry that is left, and its length in the buffer.
    fn first(&self, ino: impl Fn(u64) -> Ino) -> Result<(DirEntry<'_>, usize)> {
        let rest = &self.buffer[self.start..self.end];
        let record = |range: std::ops::Range<usize>| rest.get(range).ok_or(Error::Os(libc::EIO));
        let number = |at: usize| -> Result<u64> {
            Ok(u64::from_ne_bytes(
                record(at..at + 8)?.try_into().expect("the slice has 8 bytes"),
            ))
        };
        let len = usize::from(u16::from_ne_bytes(
            record(RECLEN_AT..TYPE_AT)?
                .try_into()
                .expect("the slice has 2 bytes"),
        ));
        let name = record(NAME_AT..len)?;
        let name = &name[..name.iter().position(|b| *b == 0).unwrap_or(name.len())];
        let entry = DirEntry {
            ino: ino(number(0)?),
            next_offset: number(OFF_AT)?,
            kind: rest[TYPE_AT],
            name: OsStr::from_bytes(name),
        };
        Ok((entry, len))
    }
}
