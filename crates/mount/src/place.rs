//! The two ends of a mount, checked: SOURCE, held open from before anything covers it, and MOUNTPOINT.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::error::{MountError, Result};
use crate::{mountinfo, unmounting};

/// Dead mounts may lie on one another; more than this many are left to a human.
const DEAD_MOUNTS_MAX: usize = 16;

/// SOURCE and MOUNTPOINT, both found to be usable.
#[derive(Debug)]
pub struct Place {
    /// SOURCE, absolute and without symbolic links.
    pub source: PathBuf,
    /// SOURCE, open (`O_PATH`): the way to it when the mount lies over it.
    pub source_dir: OwnedFd,
    /// MOUNTPOINT, absolute and without symbolic links.
    pub mountpoint: PathBuf,
    /// MOUNTPOINT's own directory, open (`O_PATH`), as it is below the mount.
    pub mountpoint_dir: OwnedFd,
}

impl Place {
    /// Checks both ends. A dead mount of ours at MOUNTPOINT, left by a daemon that was killed, is removed first.
    ///
    /// # Errors
    /// [`MountError::Source`] or [`MountError::MountPoint`] with what is wrong. Nothing is left behind.
    pub fn find(source: &Path, mountpoint: &Path) -> Result<Place> {
        let mountpoint = find_mountpoint(mountpoint)?;
        let bad_source = |reason: String| MountError::Source {
            path: source.to_owned(),
            reason,
        };
        let full = source
            .canonicalize()
            .map_err(|e| bad_source(describe(&e, "SOURCE does not exist")))?;
        let source_dir = open_directory(&full).map_err(|e| bad_source(describe(&e, "does not exist")))?;
        if full != mountpoint && full.starts_with(&mountpoint) {
            return Err(bad_source(format!(
                "lies inside the mount point {}",
                mountpoint.display()
            )));
        }
        let mountpoint_dir = open_directory(&mountpoint).map_err(|e| MountError::MountPoint {
            path: mountpoint.clone(),
            reason: describe(&e, "does not exist"),
        })?;
        Ok(Place {
            source: full,
            source_dir,
            mountpoint,
            mountpoint_dir,
        })
    }

    /// The mount of ours in which SOURCE lies, if it does.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn source_in_vexfs(&self) -> io::Result<Option<mountinfo::MountEntry>> {
        Ok(mountinfo::containing(&self.source)?.filter(|m| m.is_vexfs()))
    }
}

/// The absolute path of MOUNTPOINT, after dead mounts of ours were taken from it.
fn find_mountpoint(given: &Path) -> Result<PathBuf> {
    let bad = |reason: String| MountError::MountPoint {
        path: given.to_owned(),
        reason,
    };
    for _ in 0..DEAD_MOUNTS_MAX {
        let error = match given.canonicalize() {
            // The path may be right and the directory at its end dead all the same.
            Ok(full) => match asked(&full) {
                Ok(stat) if is_directory(&stat) => return Ok(full),
                Ok(_) => return Err(bad("mount point is not a directory".into())),
                Err(e) => io::Error::from(e),
            },
            Err(e) => e,
        };
        if !error.raw_os_error().is_some_and(is_cut_off) {
            return Err(bad(describe(&error, "mount point does not exist")));
        }
        remove_dead_mount(given).map_err(bad)?;
    }
    Err(bad("too many dead mounts lie on one another".into()))
}

/// What a path leads to. Attributes may come from the kernel's cache, long after a daemon's death; statfs(2) never does.
fn asked(path: &Path) -> rustix::io::Result<rustix::fs::Stat> {
    rustix::fs::statfs(path)?;
    rustix::fs::stat(path)
}

/// Takes away a mount whose daemon is gone. Others' filesystems are left alone.
fn remove_dead_mount(given: &Path) -> Result<(), String> {
    let full = absolute_without_asking(given).map_err(|e| e.to_string())?;
    match mountinfo::topmost_at(&full) {
        Ok(Some(mount)) if mount.is_vexfs() => {
            tracing::info!(mountpoint = %full.display(), "removing a dead mount");
            unmounting::unmount_lazily(&full).map_err(|e| format!("a dead mount is in the way: {e}"))
        }
        Ok(Some(mount)) => Err(format!("a dead mount of type {} is in the way", mount.fstype)),
        Ok(None) => Err("lies in a dead mount".into()),
        Err(e) => Err(e.to_string()),
    }
}

/// The absolute path of something that cannot be asked itself: its parent's path and its name.
///
/// # Errors
/// When the parent cannot be found.
pub fn absolute_without_asking(given: &Path) -> io::Result<PathBuf> {
    let absolute = std::path::absolute(given)?;
    match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => Ok(parent.canonicalize()?.join(name)),
        _ => Ok(absolute),
    }
}

/// Opens the directory and asks of its filesystem, which a dead mount does not answer.
fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(path, flags, Mode::empty())?;
    rustix::fs::fstatfs(&dir)?;
    Ok(dir)
}

/// Whether an error says that the mount's daemon is gone: before the question, or while it waited for an answer.
pub fn is_cut_off(errno: i32) -> bool {
    matches!(errno, libc::ENOTCONN | libc::ECONNABORTED)
}

fn is_directory(stat: &rustix::fs::Stat) -> bool {
    rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory
}

/// The reason in mount(8)'s words where it has some.
fn describe(error: &io::Error, missing: &str) -> String {
    match error.raw_os_error() {
        Some(libc::ENOENT) => missing.to_owned(),
        Some(libc::ENOTDIR) => "not a directory".to_owned(),
        Some(libc::EACCES) => "permission denied".to_owned(),
        Some(code) if is_cut_off(code) => "lies in a mount whose daemon is gone".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn each_bad_end_has_its_reason() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let base = dir.path().canonicalize()?;
        fs::create_dir_all(base.join("source/inner"))?;
        fs::create_dir(base.join("mnt"))?;
        fs::write(base.join("file"), "")?;
        for (source, mountpoint, expect) in [
            ("missing", "mnt", "SOURCE does not exist"),
            ("file", "mnt", "not a directory"),
            ("source", "missing", "mount point does not exist"),
            ("source", "file", "mount point is not a directory"),
            ("source", "file/below", "not a directory"),
            ("source/inner", "source", "lies inside the mount point"),
        ] {
            let error = Place::find(&base.join(source), &base.join(mountpoint)).expect_err(expect);
            assert!(error.to_string().contains(expect), "{error}");
            assert_eq!(error.exit_code(), 32);
        }
        Ok(())
    }

    #[test]
    fn over_itself_and_below_itself_are_places() -> Result<()> {
        let dir = tempfile::tempdir().map_err(|source| MountError::Kernel {
            what: "tempdir",
            source,
        })?;
        let inner = dir.path().join("inner");
        fs::create_dir(&inner).map_err(|source| MountError::Kernel {
            what: "mkdir",
            source,
        })?;
        assert_eq!(
            Place::find(dir.path(), dir.path())?.source,
            Place::find(dir.path(), &inner)?.source
        );
        Ok(())
    }
}
