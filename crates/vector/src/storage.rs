//! The few things that we ask of a filesystem, so that a test can fail every one of them.
//!
//! Paths are relative to the database's directory. What the rest of the crate relies on:
//! - bytes written before a successful `sync` of the file survive power loss, others may or may not;
//! - a name created, renamed or removed survives power loss after `sync_dir` of its directory;
//! - a rename within a directory is atomic;
//! - a write inside one 512-byte sector is not torn.

mod disk;
#[cfg(test)]
pub(crate) mod fake;

use std::io;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

pub(crate) use disk::Disk;

/// A directory tree of files.
pub(crate) trait Storage: Send + Sync + 'static {
    /// Creates a file for writing; an existing one is emptied.
    fn create(&self, path: &Path) -> io::Result<Box<dyn StorageFile>>;
    /// Opens an existing file for writing.
    fn open(&self, path: &Path) -> io::Result<Box<dyn StorageFile>>;
    /// The whole file, read-only. It must not be written while the map lives.
    fn map(&self, path: &Path) -> io::Result<Map>;
    /// Renames a file or directory over `to`.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// The names in a directory, unordered.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Creates a directory; an existing one is fine.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Removes a directory and everything in it.
    fn remove_dir(&self, dir: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// A file open for writing.
pub(crate) trait StorageFile: Send + Sync {
    /// Writes all bytes at an offset, growing the file.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes what was written durable.
    fn sync(&self) -> io::Result<()>;
    /// Cuts or grows the file.
    fn set_len(&self, len: u64) -> io::Result<()>;
}

/// A file's bytes, mapped or in memory, aligned to at least 64 bytes. Clones share them.
#[derive(Clone)]
pub(crate) enum Map {
    /// Pages of the file.
    File(Arc<memmap2::Mmap>),
    /// A copy, for storages that have no files.
    #[cfg_attr(
        not(test),
        allow(dead_code, reason = "only the storage of the tests has no files to map")
    )]
    Memory(Arc<Aligned>),
}

/// Bytes that start on a 64-byte boundary, as a mapping does.
pub(crate) struct Aligned {
    lines: Vec<Line>,
    len: usize,
}

#[derive(Clone, Copy, bytemuck::Zeroable, bytemuck::Pod)]
#[repr(C, align(64))]
struct Line([u8; 64]);

impl Aligned {
    /// A copy of `bytes`.
    pub(crate) fn copy_of(bytes: &[u8]) -> Aligned {
        let mut lines = vec![Line([0; 64]); bytes.len().div_ceil(64)];
        bytemuck::cast_slice_mut::<Line, u8>(&mut lines)[..bytes.len()].copy_from_slice(bytes);
        Aligned {
            lines,
            len: bytes.len(),
        }
    }
}

impl Deref for Map {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Map::File(map) => map,
            Map::Memory(copy) => &bytemuck::cast_slice::<Line, u8>(&copy.lines)[..copy.len],
        }
    }
}

/// Writes a small file so that after a crash either the old or the new content is there: temporary, sync, rename,
/// sync of the directory. `Ok(false)` means that all was done but the last sync failed, so that nobody knows which of
/// the two a crash would leave.
pub(crate) fn replace(storage: &dyn Storage, path: &Path, bytes: &[u8]) -> io::Result<bool> {
    let temporary = path.with_extension("tmp");
    let written = (|| {
        let file = storage.create(&temporary)?;
        file.write_at(0, bytes)?;
        file.sync()?;
        storage.rename(&temporary, path)
    })();
    if let Err(e) = written {
        // Best effort: a leftover is removed when the database is opened again.
        let _ = storage.remove(&temporary);
        return Err(e);
    }
    Ok(storage.sync_dir(path.parent().unwrap_or(Path::new(""))).is_ok())
}
