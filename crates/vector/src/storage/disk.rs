//! The storage that programs use: files in a directory.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Aligned, Map, Storage, StorageFile};

/// A directory of the operating system, held by an exclusive lock.
pub(crate) struct Disk {
    root: PathBuf,
    _lock: File,
}

impl Disk {
    /// Takes the directory, creating it if need be. `WouldBlock` when another process has it.
    pub(crate) fn lock(root: &Path) -> io::Result<Disk> {
        fs::create_dir_all(root)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(root.join("LOCK"))?;
        match lock.try_lock() {
            Ok(()) => Ok(Disk {
                root: root.to_owned(),
                _lock: lock,
            }),
            Err(fs::TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(fs::TryLockError::Error(e)) => Err(e),
        }
    }
}

impl Storage for Disk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn StorageFile>> {
        let path = self.root.join(path);
        Ok(Box::new(
            OpenOptions::new()
                .create(true)
                .truncate(true)
                .write(true)
                .open(path)?,
        ))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn StorageFile>> {
        Ok(Box::new(
            OpenOptions::new().write(true).open(self.root.join(path))?,
        ))
    }

    fn map(&self, path: &Path) -> io::Result<Map> {
        let file = File::open(self.root.join(path))?;
        if file.metadata()?.len() == 0 {
            // An empty range cannot be mapped.
            return Ok(Map::Memory(Arc::new(Aligned::copy_of(&[]))));
        }
        // SAFETY: the map is only read. Nobody else writes the file: the directory is ours by its lock, and this
        // crate never writes into a file that it has mapped (segments and journals are mapped after their last write).
        // A program that truncates our files from outside can still fault us, as with every mapped file.
        let map = unsafe { memmap2::Mmap::map(&file)? };
        Ok(Map::File(Arc::new(map)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(self.root.join(from), self.root.join(to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(self.root.join(path))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let entries = fs::read_dir(self.root.join(dir))?;
        entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect()
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(self.root.join(dir))
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        fs::remove_dir_all(self.root.join(dir))
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(self.root.join(dir))?.sync_all()
    }
}

impl StorageFile for File {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        File::set_len(self, len)
    }
}
