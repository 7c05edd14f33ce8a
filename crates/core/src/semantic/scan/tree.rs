//! The backing tree as the indexer reads it: below one descriptor, never through a path that leads out of it.
//!
//! Every open resolves beneath the root without following links (openat2(2), `RESOLVE_BENEATH`,
//! `RESOLVE_NO_SYMLINKS`, `RESOLVE_NO_MAGICLINKS`), so that nobody can lead the daemon elsewhere by swapping a folder
//! for a link. Access times are not touched where the kernel allows it.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, Mode, OFlags, RawDir, ResolveFlags, Statx, StatxAttributes, StatxFlags, openat2, statx,
};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::ids::NodeKey;
use crate::store::file::{Facts, Kind};

/// openat2(2) gives EAGAIN when something was renamed while it resolved; the kernel's advice is to try again.
const RESOLVE_TRIES: usize = 64;

/// Bytes of a folder's entries that are read with one system call.
const ENTRIES_BYTES: usize = 64 << 10;

/// The backing tree.
pub struct Tree {
    root: OwnedFd,
}

/// What stands at a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// What statx(2) says.
    pub facts: Facts,
    /// Whether another filesystem is mounted there.
    pub is_mount: bool,
}

impl Tree {
    /// The tree below an open directory.
    pub fn new(root: OwnedFd) -> Tree {
        Tree { root }
    }

    /// What the root is.
    pub fn root_facts(&self) -> Result<Facts> {
        Ok(found(&statx(&self.root, "", AtFlags::EMPTY_PATH, MASK)?).facts)
    }

    /// Opens a folder for listing; the empty path is the root.
    pub fn open_folder(&self, path: &Path) -> Result<OwnedFd> {
        self.open(path, OFlags::DIRECTORY)
    }

    /// Opens a file for reading. A FIFO or device that stands there is opened without waiting for its other end:
    /// look at its facts before reading.
    pub fn open_file(&self, path: &Path) -> Result<OwnedFd> {
        self.open(path, OFlags::NONBLOCK | OFlags::NOCTTY)
    }

    fn open(&self, path: &Path, flags: OFlags) -> Result<OwnedFd> {
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        let mut flags = flags | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NOATIME;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let mut tries = 0;
        loop {
            match openat2(&self.root, path, flags, Mode::empty(), resolve) {
                Ok(fd) => return Ok(fd),
                // Only the owner may read without leaving an access time.
                Err(Errno::PERM) if flags.contains(OFlags::NOATIME) => flags -= OFlags::NOATIME,
                Err(Errno::AGAIN | Errno::INTR) if tries < RESOLVE_TRIES => tries += 1,
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// What stands at a name of an open folder; `None` when nothing does.
    pub fn look(&self, folder: BorrowedFd<'_>, name: &OsStr) -> Result<Option<Found>> {
        match statx(folder, name, AtFlags::SYMLINK_NOFOLLOW, MASK) {
            Ok(stat) => Ok(Some(found(&stat))),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// What an open descriptor is.
    pub fn facts_of(&self, fd: impl AsFd) -> Result<Facts> {
        Ok(found(&statx(fd, "", AtFlags::EMPTY_PATH, MASK)?).facts)
    }

    /// Hands each entry of an open folder to `take`, `.` and `..` left out.
    pub fn list(&self, folder: BorrowedFd<'_>, mut take: impl FnMut(&OsStr)) -> Result<()> {
        use std::os::unix::ffi::OsStrExt;
        let mut buffer = Vec::with_capacity(ENTRIES_BYTES);
        let mut entries = RawDir::new(folder, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                take(OsStr::from_bytes(name));
            }
        }
        Ok(())
    }
}

const MASK: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);

fn found(stat: &Statx) -> Found {
    let kind = match u32::from(stat.stx_mode) & libc::S_IFMT {
        libc::S_IFREG => Kind::File,
        libc::S_IFDIR => Kind::Directory,
        libc::S_IFLNK => Kind::Symlink,
        _ => Kind::Special,
    };
    let time = |time: rustix::fs::StatxTimestamp| {
        time.tv_sec
            .saturating_mul(1_000_000_000)
            .saturating_add(i64::from(time.tv_nsec))
    };
    let facts = Facts {
        key: NodeKey {
            dev: rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor),
            ino: stat.stx_ino,
        },
        born: if stat.stx_mask & StatxFlags::BTIME.bits() == 0 {
            0
        } else {
            time(stat.stx_btime)
        },
        kind,
        size: stat.stx_size,
        mtime: time(stat.stx_mtime),
        ctime: time(stat.stx_ctime),
        mode: u32::from(stat.stx_mode),
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        nlink: stat.stx_nlink,
    };
    Found {
        facts,
        is_mount: stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT),
    }
}

/// Whether an error means that the place is not there any more, rather than that it cannot be read.
pub fn is_gone(error: &Error) -> bool {
    matches!(
        error,
        Error::Os(libc::ENOENT | libc::ENOTDIR | libc::ELOOP | libc::ESTALE)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn tree(dir: &Path) -> Tree {
        Tree::new(fs::File::open(dir).unwrap().into())
    }

    #[test]
    fn nothing_is_opened_through_a_link_or_above_the_root() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("root/in")).unwrap();
        fs::write(dir.path().join("secret"), "s").unwrap();
        fs::write(dir.path().join("root/in/x"), "x").unwrap();
        symlink(dir.path().join("secret"), dir.path().join("root/link")).unwrap();
        symlink("in", dir.path().join("root/folder")).unwrap();
        let tree = tree(&dir.path().join("root"));
        assert!(tree.open_file(Path::new("in/x")).is_ok());
        for path in ["link", "folder/x", "../secret", "in/../../secret", "/etc/passwd"] {
            assert!(tree.open_file(Path::new(path)).is_err(), "{path}");
        }
    }

    #[test]
    fn a_listing_names_every_entry_once() {
        let dir = tempfile::tempdir().unwrap();
        let made: BTreeSet<String> = (0..3000)
            .map(|i| format!("file with a rather long name {i}"))
            .collect();
        made.iter()
            .for_each(|name| fs::write(dir.path().join(name), "").unwrap());
        let tree = tree(dir.path());
        let folder = tree.open_folder(Path::new("")).unwrap();
        let mut seen = Vec::new();
        tree.list(folder.as_fd(), |name| {
            seen.push(name.to_str().unwrap().to_owned())
        })
        .unwrap();
        assert_eq!(seen.len(), 3000);
        assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), made);
    }

    #[test]
    fn facts_agree_with_stat() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("x"), "four").unwrap();
        let tree = tree(dir.path());
        let folder = tree.open_folder(Path::new("")).unwrap();
        let facts = tree.look(folder.as_fd(), OsStr::new("x")).unwrap().unwrap().facts;
        let stat = fs::metadata(dir.path().join("x")).unwrap();
        assert_eq!(
            facts.key,
            NodeKey {
                dev: stat.dev(),
                ino: stat.ino()
            }
        );
        assert_eq!((facts.size, facts.kind), (4, Kind::File));
        assert_eq!(facts.mtime, stat.mtime() * 1_000_000_000 + stat.mtime_nsec());
        assert_eq!(tree.look(folder.as_fd(), OsStr::new("y")).unwrap(), None);
    }
}
