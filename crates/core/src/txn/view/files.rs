//! Open files of the view.

use std::ffi::OsStr;
use std::sync::atomic::Ordering::Acquire;

use super::{Layer, View};
use crate::fs::ops::{Caller, Entry};
use crate::fs::{Opened, Reopen, Stack};
use crate::ids::Ino;
use crate::{Error, Result};

/// An open file of one of the layers.
#[derive(Clone, Copy)]
pub(super) struct OpenFile {
    layer: Layer,
    inner: Ino,
    fh: u64,
}

impl OpenFile {
    /// Closes a file of the base; those of the stage end with it.
    pub(super) fn give_back(&self, base: &Stack) {
        if self.layer == Layer::Lower
            && let Err(error) = base.release(self.inner, self.fh)
        {
            tracing::debug!(%error, "a file of an ended transaction");
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
        if layer == Layer::Lower {
            self.note_read(ino, inner)?;
        }
        let opened = self.stack(layer).open(inner, flags, Reopen::Daemon)?;
        let keep_cache = match layer {
            Layer::Upper => self.update(ino, |node| !std::mem::take(&mut node.outdated))?,
            Layer::Lower => self.is_as_seen(ino, inner)?,
        };
        Ok(self.opened(layer, inner, &opened, keep_cache))
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
        Ok((entry, self.opened(Layer::Upper, made.attr.ino, &opened, true)))
    }

    fn opened(&self, layer: Layer, inner: Ino, opened: &Opened, keep_cache: bool) -> Opened {
        let number = self.next_handle();
        let file = OpenFile {
            layer,
            inner,
            fh: opened.fh,
        };
        self.files.lock().insert(number, file);
        Opened {
            fh: number,
            generation: 0,
            keep_cache,
            file: None,
        }
    }

    /// Whether a base file is as it was at the last open, so that the kernel's pages of it are right.
    fn is_as_seen(&self, ino: Ino, lower: Ino) -> Result<bool> {
        let attr = self.lower.getattr(lower, None)?;
        let now = Some((attr.size, attr.mtime, attr.ctime));
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
        let copy = OpenFile {
            layer: Layer::Upper,
            inner,
            fh: opened.fh,
        };
        let surplus = {
            let mut files = self.files.lock();
            match files.get_mut(&fh) {
                Some(known) if known.layer == Layer::Lower => std::mem::replace(known, copy),
                _ => copy,
            }
        };
        self.stack(surplus.layer).release(surplus.inner, surplus.fh)?;
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
            Some(file) => self.stack(file.layer).release(file.inner, file.fh),
            None => Ok(()),
        }
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
