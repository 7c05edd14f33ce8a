//! Open files of the view.

use std::ffi::OsStr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Acquire;

use super::{Layer, View};
use crate::fs::ops::{Caller, Entry, Timestamp};
use crate::fs::{self, EXECUTES, Opened, Reopen, Stack};
use crate::ids::Ino;
use crate::{Error, Result};

/// Base files that stay open when nobody reads them: a tool that opens them again and again is as fast as outside then.
/// The daemon may have some ten thousand descriptors at least, and few transactions are read at a time.
const KEPT_MAX: usize = 256;

/// An open file of one of the layers.
#[derive(Clone, Copy)]
pub(super) struct OpenFile {
    layer: Layer,
    inner: Ino,
    fh: u64,
    /// A base file that others read through the same descriptor.
    shared: bool,
}

impl OpenFile {
    fn own(layer: Layer, inner: Ino, fh: u64) -> OpenFile {
        OpenFile {
            layer,
            inner,
            fh,
            shared: false,
        }
    }

    /// Closes a file of the base; those of the stage end with it.
    pub(super) fn give_back(&self, base: &Stack) {
        if self.layer == Layer::Lower
            && !self.shared
            && let Err(error) = base.release(self.inner, self.fh)
        {
            tracing::debug!(%error, "a file of an ended transaction");
        }
    }
}

/// A base file that all its readers share. It lives no longer than the view holds the inode.
pub(super) struct Reader {
    inner: Ino,
    fh: u64,
    file: Arc<fs::OpenFile>,
    users: u32,
}

impl Reader {
    /// Closes the file.
    pub(super) fn give_back(&self, base: &Stack) {
        if let Err(error) = base.release(self.inner, self.fh) {
            tracing::debug!(%error, "a file of the base");
        }
    }
}

impl View {
    /// Opens a regular file; for writing, its copy.
    pub fn open(&self, ino: Ino, flags: i32) -> Result<Opened> {
        let truncates = flags & libc::O_TRUNC != 0;
        if truncates || flags & libc::O_ACCMODE != libc::O_RDONLY {
            let _still = self.still()?;
            self.copy_up(ino, !truncates)?;
        }
        let (layer, inner) = self.serving(&self.node(ino)?);
        if layer == Layer::Upper {
            let opened = self.upper.open(inner, flags, Reopen::Daemon)?;
            let keep_cache = self.update(ino, |node| !std::mem::take(&mut node.outdated))?;
            return Ok(self.opened(OpenFile::own(layer, inner, opened.fh), keep_cache));
        }
        self.note_read(ino, inner)?;
        if flags & EXECUTES != 0 {
            // Nobody truncates the file of a program that runs, so each has its own.
            let opened = self.lower.open(inner, flags, Reopen::Daemon)?;
            return Ok(self.opened(OpenFile::own(layer, inner, opened.fh), false));
        }
        let (fh, file) = self.read_base(inner)?;
        match self.is_as_seen(ino, &file) {
            Ok(keep_cache) => {
                let own = OpenFile::own(layer, inner, fh);
                let file = OpenFile { shared: true, ..own };
                Ok(self.opened(file, keep_cache))
            }
            Err(error) => {
                self.read_no_more(inner);
                Err(error)
            }
        }
    }

    /// One more reader of a base file.
    fn read_base(&self, inner: Ino) -> Result<(u64, Arc<fs::OpenFile>)> {
        if let Some(reader) = self.readers.lock().get_mut(&inner) {
            reader.users += 1;
            return Ok((reader.fh, reader.file.clone()));
        }
        let opened = self.lower.open(inner, libc::O_RDONLY, Reopen::Daemon)?;
        let file = opened.file.ok_or(Error::Os(libc::EBADF))?;
        let mut readers = self.readers.lock();
        if let Some(reader) = readers.get_mut(&inner) {
            // Somebody else was faster.
            reader.users += 1;
            let known = (reader.fh, reader.file.clone());
            drop(readers);
            self.lower.release(inner, opened.fh)?;
            return Ok(known);
        }
        let (fh, users) = (opened.fh, 1);
        let reader = Reader {
            inner,
            fh,
            file: file.clone(),
            users,
        };
        readers.insert(inner, reader);
        Ok((fh, file))
    }

    /// One reader less. The file stays open for the next one, unless many do.
    fn read_no_more(&self, inner: Ino) {
        let mut readers = self.readers.lock();
        let many = readers.len() > KEPT_MAX;
        if let Some(reader) = readers.get_mut(&inner) {
            reader.users -= 1;
            if many && reader.users == 0 {
                let last = readers.remove(&inner);
                drop(readers);
                last.iter().for_each(|reader| reader.give_back(&self.lower));
            }
        }
    }

    /// The view is about to let go of a base inode: its number may become that of another.
    pub(in crate::txn) fn read_never(&self, inner: Ino) {
        let last = self.readers.lock().remove(&inner);
        last.iter().for_each(|reader| reader.give_back(&self.lower));
    }

    /// Creates a file and opens it.
    pub fn create(
        &self,
        caller: &Caller,
        parent: Ino,
        name: &OsStr,
        modes: (u32, u32),
        flags: i32,
    ) -> Result<(Entry, Opened)> {
        let still = self.still()?;
        match self.lookup(parent, name) {
            Ok(entry) => {
                drop(still);
                let opened = match flags & libc::O_EXCL {
                    0 => self.open(entry.attr.ino, flags),
                    _ => Err(Error::Os(libc::EEXIST)),
                };
                if opened.is_err() {
                    self.forget(entry.attr.ino, 1);
                }
                return Ok((entry, opened?));
            }
            Err(Error::Os(libc::ENOENT)) => {}
            Err(e) => return Err(e),
        }
        self.check_name(parent, name)?;
        let dir = self.copy_up(parent, true)?;
        self.touch(parent, name)?;
        let (made, opened) = self
            .upper
            .create(caller, dir, name, modes, flags, Reopen::Daemon)?;
        let entry = self.enter_new(parent, name, &made);
        let file = OpenFile::own(Layer::Upper, made.attr.ino, opened.fh);
        Ok((entry, self.opened(file, true)))
    }

    fn opened(&self, file: OpenFile, keep_cache: bool) -> Opened {
        let number = self.next_handle();
        self.files.lock().insert(number, file);
        Opened {
            fh: number,
            generation: 0,
            keep_cache,
            file: None,
        }
    }

    /// Whether a base file is as it was at the last open, so that the kernel's pages of it are right.
    fn is_as_seen(&self, ino: Ino, file: &fs::OpenFile) -> Result<bool> {
        let stat = rustix::fs::fstat(file)?;
        let time = |secs, nanos| Timestamp {
            secs,
            nanos: nanos as u32,
        };
        let now = Some((
            stat.st_size as u64,
            time(stat.st_mtime, stat.st_mtime_nsec),
            time(stat.st_ctime, stat.st_ctime_nsec),
        ));
        self.update(ino, |node| std::mem::replace(&mut node.seen, now) == now)
    }

    /// The file behind a handle. One that was opened for reading before its file was copied reads the copy from then
    /// on, as a file has one content for all who have it open.
    fn file(&self, ino: Ino, fh: u64) -> Result<OpenFile> {
        let file = *self.files.lock().get(&fh).ok_or(Error::Os(libc::EBADF))?;
        if file.layer == Layer::Upper {
            return Ok(file);
        }
        let node = self.node(ino)?;
        let (Layer::Upper, inner) = self.serving(&node) else {
            return Ok(file);
        };
        let opened = self.upper.open(inner, libc::O_RDONLY, Reopen::Daemon)?;
        let copy = OpenFile::own(Layer::Upper, inner, opened.fh);
        let surplus = {
            let mut files = self.files.lock();
            match files.get_mut(&fh) {
                Some(known) if known.layer == Layer::Lower => std::mem::replace(known, copy),
                _ => copy,
            }
        };
        self.close(surplus)?;
        self.files.lock().get(&fh).copied().ok_or(Error::Os(libc::EBADF))
    }

    /// The handle of a layer behind a handle of the view, if it is of this layer.
    pub(super) fn handle_in(&self, fh: u64, layer: Layer) -> Option<u64> {
        let file = *self.files.lock().get(&fh)?;
        (file.layer == layer).then_some(file.fh)
    }

    /// Reads into `buffer`, and gives the number of bytes.
    pub fn read(&self, ino: Ino, fh: u64, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let file = self.file(ino, fh)?;
        self.stack(file.layer).read(file.inner, file.fh, offset, buffer)
    }

    /// Writes; `append` puts the data at the end of the file.
    pub fn write(&self, ino: Ino, fh: u64, offset: u64, data: &[u8], append: bool) -> Result<usize> {
        if self.frozen.load(Acquire) {
            return Err(Error::Os(libc::EBUSY));
        }
        let file = self.file(ino, fh)?;
        match append {
            true => self.reserve(data.len() as u64)?,
            false => self.reserve_up_to(file.inner, offset + data.len() as u64)?,
        }
        self.stack(file.layer)
            .write(file.inner, file.fh, offset, data, append)
    }

    /// Closes a file.
    pub fn release(&self, fh: u64) -> Result<()> {
        let file = self.files.lock().remove(&fh);
        match file {
            Some(file) => self.close(file),
            None => Ok(()),
        }
    }

    fn close(&self, file: OpenFile) -> Result<()> {
        if file.shared {
            self.read_no_more(file.inner);
            return Ok(());
        }
        self.stack(file.layer).release(file.inner, file.fh)
    }

    /// What is staged becomes durable at the commit, and is lost in a crash before it; until then there is nothing that
    /// a sync could promise. It still reports errors of writing.
    pub fn fsync(&self, ino: Ino, fh: u64, data: bool) -> Result<()> {
        let file = self.file(ino, fh)?;
        match file.layer {
            Layer::Upper => self.upper.fsync(file.inner, file.fh, data),
            Layer::Lower => Ok(()),
        }
    }

    /// Allocates, punches or zeroes a range of a file.
    pub fn fallocate(&self, ino: Ino, fh: u64, mode: i32, offset: u64, length: u64) -> Result<()> {
        if self.frozen.load(Acquire) {
            return Err(Error::Os(libc::EBUSY));
        }
        let file = self.file(ino, fh)?;
        self.reserve_up_to(file.inner, offset + length)?;
        self.stack(file.layer)
            .fallocate(file.inner, file.fh, mode, offset, length)
    }

    /// The next data or hole of a file.
    pub fn lseek(&self, ino: Ino, fh: u64, offset: i64, whence: i32) -> Result<u64> {
        let file = self.file(ino, fh)?;
        self.stack(file.layer).lseek(file.inner, file.fh, offset, whence)
    }
}
