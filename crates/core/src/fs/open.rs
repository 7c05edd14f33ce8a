//! Open files: open, read, write, release, and what else is done through a file handle.
//!
//! With passthrough the kernel reads and writes the backing file itself; then a reader needs no descriptor of ours,
//! and a writer's serves to see at release whether anything was written.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, SeekFrom, Statx};
use rustix::io::ReadWriteFlags;

use super::change::Change;
use super::node::{Node, Uses, Writing};
use super::stat::{Stamp, stat_fd};
use super::{Invalidate, Stack};
use crate::ids::{Ino, NodeKey};
use crate::{Error, Result};

/// The handle of every reader whose data the kernel passes through: there is nothing to remember.
pub const SHARED_FH: u64 = 0;

/// Flags that reach the backing filesystem. O_APPEND is applied to each write, since one descriptor also carries
/// writes of mapped pages, which have their own offset; O_DIRECT would need our buffers aligned; O_CREAT, O_EXCL
/// and O_NOFOLLOW have done their work.
const OPEN_FLAGS: i32 = libc::O_ACCMODE | libc::O_TRUNC | libc::O_SYNC | libc::O_DSYNC | libc::O_NOATIME;

/// The kernel's mark of an open for execve(2) (`__FMODE_EXEC`), which it passes on.
pub(crate) const EXECUTES: i32 = 0x20;

/// A stamp that no file has: whatever is found differs from it.
pub(super) const NEVER: Stamp = Stamp {
    size: u64::MAX,
    mtime: super::ops::Timestamp { secs: 0, nanos: 0 },
    ctime: super::ops::Timestamp { secs: 0, nanos: 0 },
};

/// Who moves the data of an open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reopen {
    /// The kernel, by passthrough.
    Passthrough,
    /// We do, on read and write.
    Daemon,
}

/// An open regular file.
pub struct OpenFile {
    node: Arc<Node>,
    fd: OwnedFd,
    purpose: Use,
}

/// What an open file is open for, as far as others must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    Read,
    /// Also through a mapping, if it may read as well.
    Write {
        may_map: bool,
    },
    Execute,
}

impl Use {
    /// For writing, with these flags of open(2).
    pub(super) fn writing(flags: i32) -> Use {
        let may_map = flags & libc::O_ACCMODE == libc::O_RDWR;
        Use::Write { may_map }
    }
}

impl OpenFile {
    fn writes(&self) -> bool {
        matches!(self.purpose, Use::Write { .. })
    }
}

impl AsFd for OpenFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The answer to open.
pub struct Opened {
    /// The file handle, to be released.
    pub fh: u64,
    /// Generation of the inode: what is kept by inode number is of another inode if it differs.
    pub generation: u64,
    /// Pages that the kernel cached at an earlier open are still right.
    pub keep_cache: bool,
    /// The file itself, unless nothing had to be opened.
    pub file: Option<Arc<OpenFile>>,
}

impl Stack {
    /// Opens a regular file. When this returns for a writer, the index knows that the file may change.
    pub fn open(&self, ino: Ino, flags: i32, how: Reopen) -> Result<Opened> {
        let node = self.node(ino)?;
        if !node.is_file() {
            return Err(Error::Os(if node.is_dir() { libc::EISDIR } else { libc::ENXIO }));
        }
        let purpose = purpose_of(flags);
        if purpose == Use::Read && how == Reopen::Passthrough {
            let generation = u64::from(node.generation);
            return Ok(Opened {
                fh: SHARED_FH,
                generation,
                keep_cache: true,
                file: None,
            });
        }
        let mut flags = flags & OPEN_FLAGS;
        if matches!(purpose, Use::Write { .. }) {
            self.changes.maybe_changed(self.key(&node));
            self.keep_content(&node)?;
        }
        if flags & libc::O_TRUNC != 0 {
            // The kernel finds out only after we have truncated: too late for whoever runs the file.
            if node.look(|uses| uses.executing > 0) == Some(true) {
                return Err(Error::Os(libc::ETXTBSY));
            }
            // A reader may truncate a file that he may write; a descriptor for reading alone may not.
            if flags & libc::O_ACCMODE == libc::O_RDONLY {
                flags |= libc::O_RDWR;
            }
        }
        let (fd, stat) = self.reopen_and_stat(&node, flags)?;
        let before = if flags & libc::O_TRUNC != 0 {
            Some(NEVER)
        } else {
            None
        };
        if matches!(purpose, Use::Write { .. }) {
            self.expect_write(&node, fd.as_fd());
        }
        self.opened(node, fd, &stat, purpose, before, how)
    }

    /// Enters an open file with its attributes. `indexed` is what the index knows of it, if that is not what is there now.
    pub(super) fn opened(
        &self,
        node: Arc<Node>,
        fd: OwnedFd,
        stat: &Statx,
        purpose: Use,
        indexed: Option<Stamp>,
        how: Reopen,
    ) -> Result<Opened> {
        let stamp = Stamp::of(stat);
        let mut keep_cache = true;
        node.change(|uses| {
            if purpose == Use::Execute {
                uses.executing += 1;
            }
            if let Use::Write { may_map } = purpose {
                match &mut uses.writing {
                    Some(writing) => {
                        writing.writers += 1;
                        writing.may_map |= may_map;
                        writing.indexed = indexed.unwrap_or(writing.indexed);
                    }
                    None => {
                        let indexed = indexed.unwrap_or(stamp);
                        uses.writing = Some(Box::new(Writing {
                            writers: 1,
                            may_map,
                            indexed,
                            told: stamp,
                        }));
                    }
                }
            }
            if how == Reopen::Daemon && !self.is_trusted(node.ino) {
                keep_cache = uses.settled == Some(stamp);
                uses.settled = Some(stamp);
            }
        });
        if matches!(purpose, Use::Write { .. }) {
            self.about_to_be_written(node.ino, stat);
        }
        let generation = u64::from(node.generation);
        let file = Arc::new(OpenFile { node, fd, purpose });
        Ok(Opened {
            fh: self.files.insert(file.clone()),
            generation,
            keep_cache,
            file: Some(file),
        })
    }

    /// A descriptor for reading a file, with a position of its own.
    pub fn backing_fd(&self, ino: Ino) -> Result<OwnedFd> {
        self.open_file(&self.node(ino)?)
    }

    /// A descriptor for the kernel's passthrough of a file that has none of ours open. Its access mode does not
    /// matter: the kernel opens the file again with that of each user. It is kept, as far as there is room: when a
    /// file was written the kernel asks for its attributes, and every other way to them costs two system calls more.
    pub fn passthrough_fd(&self, ino: Ino) -> Result<Arc<OwnedFd>> {
        let node = self.node(ino)?;
        if !self.mounts.get(node.mount).handles {
            return Ok(Arc::new(self.open_file(&node)?));
        }
        match node.kept_fd() {
            Some(kept) => Ok(kept),
            None => Ok(self.kept.keep(&node, self.open_file(&node)?)),
        }
    }

    fn open_file(&self, node: &Arc<Node>) -> Result<OwnedFd> {
        match node.is_file() {
            true => self.reopen(node, libc::O_RDONLY),
            false => Err(Error::Os(libc::EINVAL)),
        }
    }

    /// Reads into `buffer`; gives the number of bytes, less than asked only at the end of the file.
    pub fn read(&self, ino: Ino, fh: u64, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        self.with_file(ino, fh, |fd| {
            let mut done = 0;
            while done < buffer.len() {
                match rustix::io::pread(fd, &mut buffer[done..], offset + done as u64) {
                    Ok(0) => break,
                    Ok(n) => done += n,
                    Err(rustix::io::Errno::INTR) => {}
                    Err(_) if done > 0 => break,
                    Err(e) => return Err(e.into()),
                }
            }
            Ok(done)
        })
    }

    /// Writes; `append` puts the data at the end of the file whatever the offset.
    pub fn write(&self, _ino: Ino, fh: u64, offset: u64, data: &[u8], append: bool) -> Result<usize> {
        let file = self.file(fh)?;
        let flags = if append {
            ReadWriteFlags::APPEND
        } else {
            ReadWriteFlags::empty()
        };
        let mut done = 0;
        while done < data.len() {
            let rest = [std::io::IoSlice::new(&data[done..])];
            match rustix::io::pwritev2(&file.fd, &rest, offset + done as u64, flags) {
                Ok(n) => done += n,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) if done > 0 => break,
                Err(e) => return Err(e.into()),
            }
        }
        Ok(done)
    }

    /// Keeps what a file contains for the latest snapshot, before it is changed first.
    pub(super) fn keep_content(&self, node: &Arc<Node>) -> Result<()> {
        match self.keeper() {
            Some(keeper) => keeper.before_change(self.key(node), || self.reopen(node, libc::O_RDONLY)),
            None => Ok(()),
        }
    }

    /// The same for all files that are open for writing: their writers ask nobody again.
    pub(crate) fn keep_open_files(&self) -> Result<()> {
        let open = self.files.select(OpenFile::writes);
        open.iter().try_for_each(|file| self.keep_content(&file.node))
    }

    /// Closes a file. If it was written, the index and the kernel's cache of attributes hear of it before this
    /// returns, and before it stops to be one that is open.
    pub fn release(&self, _ino: Ino, fh: u64) -> Result<()> {
        let Some(file) = self.files.get(fh) else {
            return Ok(());
        };
        let settled = match file.purpose {
            Use::Read => Ok(()),
            Use::Write { .. } => self.settle(&file, true),
            Use::Execute => {
                file.node.change(|uses| uses.executing -= 1);
                Ok(())
            }
        };
        self.files.remove(fh);
        settled
    }

    /// Reports what was written so far through all files that are open, or whose close(2) has returned before the kernel
    /// told us.
    pub fn settle_writers(&self) {
        for file in self.files.select(OpenFile::writes) {
            if let Err(error) = self.settle(&file, false) {
                tracing::warn!(%error, ino = file.node.ino.0, "an open file cannot be looked at");
            }
        }
    }

    /// Files that were written and not reported yet: those that are open for writing, and those of which the kernel has
    /// not told us yet that they were closed.
    pub fn unsettled(&self) -> Vec<NodeKey> {
        let written = |file: &OpenFile| {
            let now = stat_fd(&file.fd).map(|stat| Stamp::of(&stat)).ok()?;
            file.node.look(|uses| {
                uses.writing
                    .as_ref()
                    .is_some_and(|writing| writing.indexed != now)
            })
        };
        let files = self.files.select(OpenFile::writes);
        let files = files.iter().filter(|file| written(file) == Some(true));
        let mut keys: Vec<NodeKey> = files.map(|file| self.key(&file.node)).collect();
        keys.sort_unstable_by_key(|key| (key.dev, key.ino));
        keys.dedup();
        keys
    }

    /// Makes a file durable; `data` alone without timestamps.
    pub fn fsync(&self, ino: Ino, fh: u64, data: bool) -> Result<()> {
        self.with_file(ino, fh, |fd| sync(fd, data))?;
        match self.files.get(fh) {
            Some(file) if matches!(file.purpose, Use::Write { .. }) => self.settle(&file, false),
            _ => Ok(()),
        }
    }

    /// Reports what was written through an open file so far. True when it was open for writing.
    pub fn flush(&self, fh: u64) -> Result<bool> {
        match self.files.get(fh) {
            Some(file) if matches!(file.purpose, Use::Write { .. }) => {
                self.settle(&file, false).map(|()| true)
            }
            _ => Ok(false),
        }
    }

    /// Allocates, punches or zeroes, as fallocate(2) with the same `mode`.
    pub fn fallocate(&self, _ino: Ino, fh: u64, mode: i32, offset: u64, length: u64) -> Result<()> {
        let file = self.file(fh)?;
        let mode = FallocateFlags::from_bits_retain(mode as u32);
        Ok(rustix::fs::fallocate(&file.fd, mode, offset, length)?)
    }

    /// The next data or hole (`SEEK_DATA`, `SEEK_HOLE`) at or after `offset`.
    pub fn lseek(&self, ino: Ino, fh: u64, offset: i64, whence: i32) -> Result<u64> {
        let at = u64::try_from(offset).map_err(|_| Error::Os(libc::ENXIO))?;
        let to = match whence {
            libc::SEEK_DATA => SeekFrom::Data(at),
            libc::SEEK_HOLE => SeekFrom::Hole(at),
            _ => return Err(Error::Os(libc::EINVAL)),
        };
        self.with_file(ino, fh, |fd| Ok(rustix::fs::seek(fd, to)?))
    }

    /// Copies between two files within the backing filesystem, sharing blocks where it can. Gives the bytes copied.
    pub fn copy_file_range(
        &self,
        from: (Ino, u64, u64),
        to: (Ino, u64, u64),
        length: usize,
    ) -> Result<usize> {
        let target = self.file(to.1)?;
        let (mut from_offset, mut to_offset) = (from.2, to.2);
        self.with_file(from.0, from.1, |source| {
            Ok(rustix::fs::copy_file_range(
                source,
                Some(&mut from_offset),
                &target.fd,
                Some(&mut to_offset),
                length,
            )?)
        })
    }

    /// The file behind a handle that has a descriptor.
    pub(super) fn file(&self, fh: u64) -> Result<Arc<OpenFile>> {
        self.files.get(fh).ok_or(Error::Os(libc::EBADF))
    }

    /// Calls `f` with a descriptor of the handle, opened for the occasion if the handle has none.
    fn with_file<T>(&self, ino: Ino, fh: u64, f: impl FnOnce(BorrowedFd<'_>) -> Result<T>) -> Result<T> {
        if fh == SHARED_FH {
            return f(self.passthrough_fd(ino)?.as_fd());
        }
        f(self.file(fh)?.as_fd())
    }

    /// Compares a file that may have been written with what index and kernel were told, and tells them.
    ///
    /// The kernel knows of changes by system calls, which alter the size or drop its attributes; of stores through a
    /// mapping it does not. Those take a file that is open for reading too, and never alter the size: so equal sizes and
    /// other times mean that it must be told.
    fn settle(&self, file: &OpenFile, last: bool) -> Result<()> {
        let stat = stat_fd(&file.fd)?;
        let now = Stamp::of(&stat);
        // Told first and noted then: whoever finds nothing to tell can rely on its having been told.
        let changed = |uses: &Uses| {
            uses.writing
                .as_ref()
                .is_some_and(|writing| writing.indexed != now)
        };
        if file.node.look(changed) == Some(true) {
            self.changes.changed(Change::Content {
                node: self.key(&file.node),
            });
        }
        let mut stale = false;
        file.node.change(|uses| {
            if let Some(writing) = &mut uses.writing {
                stale = writing.may_map && writing.told != now && writing.told.size == now.size;
                writing.indexed = now;
                writing.told = now;
                writing.writers -= u32::from(last);
                if writing.writers == 0 {
                    uses.writing = None;
                    uses.settled = Some(now);
                }
            }
        });
        if stale && let Some(kernel) = self.kernel() {
            kernel.inode(file.node.ino, false);
        }
        Ok(())
    }

    /// Remembers what the kernel is told of a file that is being written.
    pub(super) fn tell(&self, node: &Node, stat: &Statx) {
        if node.is_being_written() {
            node.change(|uses| {
                if let Some(writing) = &mut uses.writing {
                    writing.told = Stamp::of(stat);
                }
            });
        }
    }

    pub(super) fn kernel(&self) -> Option<&Arc<dyn Invalidate>> {
        self.kernel.get()
    }
}

/// What the flags of open(2) and execve(2) ask for.
fn purpose_of(flags: i32) -> Use {
    if flags & libc::O_ACCMODE != libc::O_RDONLY || flags & libc::O_TRUNC != 0 {
        Use::writing(flags)
    } else if flags & EXECUTES != 0 {
        Use::Execute
    } else {
        Use::Read
    }
}

/// fdatasync or fsync.
pub(super) fn sync(fd: impl AsFd, data: bool) -> Result<()> {
    let synced = if data {
        rustix::fs::fdatasync(fd)
    } else {
        rustix::fs::fsync(fd)
    };
    Ok(synced?)
}
