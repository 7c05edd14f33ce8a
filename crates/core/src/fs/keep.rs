//! The old content of files that a snapshot has, kept before it is lost: a file that is opened for writing is copied
//! first (blocks are shared where the filesystem can), one that loses its last name gets a name here instead.
//!
//! `NUMBER/DEVICE-INODE-BIRTH`, numbers in hexadecimal, is what that inode was at the snapshot of the number. What is
//! not here for a snapshot is looked for at the next one, and in the tree at last. Without a snapshot a change costs a
//! look at one flag; with one, the first change of a file costs its copy, and each one after it a look into a table.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard, RwLock};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, RenameFlags, Statx, StatxFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::copy::copy_content;
use super::lookup::proc_path;
use super::stat::{device, kind, stat_at, stat_fd};
use crate::ids::NodeKey;
use crate::{Error, Result};

/// Files whose content is kept at the same time; two of them rarely meet.
const TURNS: usize = 64;

/// Tells whether a snapshot has an inode: what the index leaves out is not kept.
pub type Knows = dyn Fn(NodeKey) -> bool + Send + Sync;

/// See the module.
pub struct Keeper {
    /// Where snapshots have their directories, by a path that works whatever is mounted over it.
    place: PathBuf,
    knows: Box<Knows>,
    on: AtomicBool,
    latest: RwLock<Option<Latest>>,
    /// What has been done for inodes since the latest snapshot.
    done: Mutex<HashMap<NodeKey, Done>>,
    /// One change of an inode's fate at a time.
    turns: [Mutex<()>; TURNS],
    copies: AtomicU64,
}

struct Latest {
    number: i64,
    /// Nanoseconds since the epoch: what was born later is not in it.
    made: i64,
    dir: OwnedFd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
    /// It is kept, or need not be.
    Settled,
    /// It is kept as the inode that it was: who writes to it, by a descriptor or another name, would write to both.
    Shared,
}

/// An inode as it was at a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Which inode.
    pub key: NodeKey,
    /// Its birth in nanoseconds since the epoch, 0 where the filesystem does not tell.
    pub born: i64,
}

impl Kept {
    fn of(stat: &Statx) -> Kept {
        let told = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME);
        let born = stat.stx_btime;
        let nanos = born.tv_sec.saturating_mul(1_000_000_000) + i64::from(born.tv_nsec);
        Kept {
            key: NodeKey {
                dev: device(stat),
                ino: stat.stx_ino,
            },
            born: if told { nanos } else { 0 },
        }
    }

    fn name(&self) -> String {
        format!("{:x}-{:x}-{:x}", self.key.dev, self.key.ino, self.born)
    }

    fn read(name: &OsStr) -> Option<Kept> {
        let mut parts = name.to_str()?.split('-');
        let mut number = || u64::from_str_radix(parts.next()?, 16).ok();
        let (dev, ino, born) = (number()?, number()?, number()?);
        Some(Kept {
            key: NodeKey { dev, ino },
            born: born as i64,
        })
    }
}

impl Keeper {
    /// A keeper that keeps nothing until the first snapshot. `place` is a directory, on the filesystem of the tree if
    /// possible; it is made if it is not there.
    pub fn open(place: PathBuf, knows: Box<Knows>) -> Result<Keeper> {
        match std::fs::create_dir(&place) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(e.into()),
            _ => {}
        }
        Ok(Keeper {
            place,
            knows,
            on: AtomicBool::new(false),
            latest: RwLock::default(),
            done: Mutex::default(),
            turns: std::array::from_fn(|_| Mutex::new(())),
            copies: AtomicU64::new(0),
        })
    }

    /// From now on keeps for this snapshot, the latest one. What was kept for it before, by another daemon, counts.
    pub fn keep_for(&self, number: i64, made: i64) -> Result<()> {
        let at = self.place.join(number.to_string());
        match std::fs::create_dir(&at) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(e.into()),
            _ => {}
        }
        let dir = rustix::fs::open(&at, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let mut latest = self.latest.write();
        let mut done = self.done.lock();
        done.clear();
        for entry in std::fs::read_dir(&at)? {
            let name = entry?.file_name();
            let Some(kept) = Kept::read(&name) else {
                // A copy that was not finished.
                rustix::fs::unlinkat(&dir, &*name, AtFlags::empty())?;
                continue;
            };
            let stat = stat_at(&dir, &name)?;
            match Kept::of(&stat).key == kept.key {
                // It got its name here, and then kept its own: it is still what it was.
                true if stat.stx_nlink > 1 => rustix::fs::unlinkat(&dir, &*name, AtFlags::empty())?,
                true => drop(done.insert(kept.key, Done::Shared)),
                false => drop(done.insert(kept.key, Done::Settled)),
            }
        }
        *latest = Some(Latest { number, made, dir });
        self.on.store(true, Ordering::Release);
        Ok(())
    }

    /// The snapshot of this number is gone. What was kept for it goes over to the one before, with the time at which that
    /// was made, or goes.
    pub fn drop_snapshot(&self, number: i64, before: Option<(i64, i64)>) -> Result<()> {
        let mut latest = self.latest.write();
        let dropped = self.place.join(number.to_string());
        if let Some((before, _)) = before {
            let heir = self.place.join(before.to_string());
            std::fs::create_dir_all(&heir)?;
            let kept = match std::fs::read_dir(&dropped) {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
                kept => Some(kept?),
            };
            for entry in kept.into_iter().flatten() {
                let entry = entry?;
                let to = heir.join(entry.file_name());
                let flags = RenameFlags::NOREPLACE;
                let cwd = rustix::fs::CWD;
                match rustix::fs::renameat_with(cwd, entry.path(), cwd, to, flags) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(e) => return Err(e.into()),
                }
            }
        }
        match std::fs::remove_dir_all(&dropped) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.into()),
            _ => {}
        }
        if latest.as_ref().is_some_and(|latest| latest.number == number) {
            *latest = match before {
                Some((number, made)) => {
                    let at = self.place.join(number.to_string());
                    let dir = rustix::fs::open(&at, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
                    Some(Latest { number, made, dir })
                }
                None => {
                    self.on.store(false, Ordering::Release);
                    self.done.lock().clear();
                    None
                }
            };
        }
        Ok(())
    }

    /// Where that is which an inode was at a snapshot, if it was kept for that snapshot.
    pub fn find(&self, number: i64, kept: Kept) -> Option<PathBuf> {
        let path = self.place.join(number.to_string()).join(kept.name());
        path.symlink_metadata().is_ok().then_some(path)
    }

    /// Bytes on disk that are kept for a snapshot.
    pub fn bytes(&self, number: i64) -> u64 {
        use std::os::unix::fs::MetadataExt;
        let entries = std::fs::read_dir(self.place.join(number.to_string()));
        let sizes = entries.into_iter().flatten().flatten();
        sizes
            .filter_map(|entry| Some(entry.metadata().ok()?.blocks() * 512))
            .sum()
    }

    /// Whether there is a snapshot to keep for.
    pub(crate) fn is_on(&self) -> bool {
        self.on.load(Ordering::Acquire)
    }

    /// Keeps the content of a regular file that is about to be changed; `open` opens it for reading.
    pub(super) fn before_change(&self, key: NodeKey, open: impl FnOnce() -> Result<OwnedFd>) -> Result<()> {
        if !self.is_on() || self.done.lock().get(&key) == Some(&Done::Settled) {
            return Ok(());
        }
        let _turn = self.turn(key);
        let shared = match self.done.lock().get(&key) {
            Some(Done::Settled) => return Ok(()),
            Some(Done::Shared) => true,
            None => false,
        };
        if !shared && !(self.knows)(key) {
            self.done.lock().insert(key, Done::Settled);
            return Ok(());
        }
        let file = match open() {
            // What the daemon may not read it cannot keep. The diff says so.
            Err(Error::Os(libc::EACCES | libc::EPERM)) => return Ok(()),
            other => other?,
        };
        let stat = stat_fd(&file)?;
        if shared || self.is_in_latest(&stat) {
            self.copy(&file, &stat)?;
        }
        self.done.lock().insert(key, Done::Settled);
        Ok(())
    }

    /// Does something that takes a name from what stands in a directory, and keeps that if the name is its last.
    pub(super) fn losing<T>(
        &self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        lose: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let Some(stat) = stat_at(dir, name).ok().filter(|_| self.is_on()) else {
            return lose();
        };
        let kept = Kept::of(&stat);
        let is_dir = kind(&stat) == libc::S_IFDIR;
        if is_dir || self.done.lock().contains_key(&kept.key) || !(self.knows)(kept.key) {
            return lose();
        }
        let _turn = self.turn(kept.key);
        // Another of its names may just have gone.
        let stat = stat_at(dir, name)?;
        let last = stat.stx_nlink == 1 && Kept::of(&stat) == kept;
        if !last || self.done.lock().contains_key(&kept.key) || !self.is_in_latest(&stat) {
            return lose();
        }
        if !self.name(dir, name, &stat)? {
            return lose();
        }
        self.done.lock().insert(kept.key, Done::Shared);
        let lost = lose();
        if lost.is_err() {
            self.done.lock().remove(&kept.key);
            self.with_latest(|latest| Ok(rustix::fs::unlinkat(&latest.dir, kept.name(), AtFlags::empty())?))?;
        }
        lost
    }

    /// Takes over, from a directory that is about to be removed, what a snapshot has: all that a commit replaced.
    pub(crate) fn take_from(&self, dir: BorrowedFd<'_>) -> Result<()> {
        if !self.is_on() {
            return Ok(());
        }
        let listed = rustix::fs::Dir::read_from(dir)?;
        for entry in listed {
            let entry = entry?;
            let name = OsString::from(<OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(
                entry.file_name().to_bytes(),
            ));
            if name == "." || name == ".." {
                continue;
            }
            let stat = stat_at(dir, &name)?;
            if kind(&stat) == libc::S_IFDIR {
                let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let below = rustix::fs::openat(dir, &name, flags, Mode::empty())?;
                self.take_from(below.as_fd())?;
                continue;
            }
            let kept = Kept::of(&stat);
            let is_done = self.done.lock().contains_key(&kept.key);
            if stat.stx_nlink == 1 && !is_done && self.is_in_latest(&stat) && (self.knows)(kept.key) {
                let _turn = self.turn(kept.key);
                self.with_latest(|latest| Ok(rustix::fs::renameat(dir, &name, &latest.dir, kept.name())?))?;
                self.done.lock().insert(kept.key, Done::Shared);
            }
        }
        Ok(())
    }

    fn turn(&self, key: NodeKey) -> MutexGuard<'_, ()> {
        self.turns[key.ino as usize % TURNS].lock()
    }

    fn is_in_latest(&self, stat: &Statx) -> bool {
        let latest = self.latest.read();
        latest
            .as_ref()
            .is_some_and(|latest| Kept::of(stat).born <= latest.made)
    }

    fn with_latest<T: Default>(&self, work: impl FnOnce(&Latest) -> Result<T>) -> Result<T> {
        match &*self.latest.read() {
            Some(latest) => work(latest),
            // It was dropped in this moment.
            None => Ok(T::default()),
        }
    }

    /// Gives an inode a name among the kept. False where that cannot be done: then regular files are copied.
    fn name(&self, dir: BorrowedFd<'_>, name: &OsStr, stat: &Statx) -> Result<bool> {
        let to = Kept::of(stat).name();
        let linked = self.with_latest(|latest| {
            match rustix::fs::linkat(dir, name, &latest.dir, &*to, AtFlags::empty()) {
                Ok(()) | Err(Errno::EXIST) => Ok(true),
                Err(Errno::XDEV | Errno::PERM | Errno::MLINK | Errno::OPNOTSUPP) => Ok(false),
                Err(e) => Err(e.into()),
            }
        })?;
        if !linked && kind(stat) == libc::S_IFREG {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match rustix::fs::openat(dir, name, flags, Mode::empty()) {
                Ok(file) => self.copy(&file, stat)?,
                Err(Errno::ACCESS | Errno::PERM) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(linked)
    }

    /// Copies a file with its attributes; the copy has its name when it is complete.
    fn copy(&self, file: &OwnedFd, stat: &Statx) -> Result<()> {
        let number = self.copies.fetch_add(1, Ordering::Relaxed);
        let unfinished = format!("unfinished.{}.{number}", std::process::id());
        self.with_latest(|latest| {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
            let copy = rustix::fs::openat(&latest.dir, &*unfinished, flags, Mode::from_raw_mode(0o600))?;
            let copied = copy_content(file.as_fd(), copy.as_fd(), stat.stx_size)
                .and_then(|()| copy_attributes(file.as_fd(), copy.as_fd(), stat))
                .and_then(|()| {
                    let name = Kept::of(stat).name();
                    Ok(rustix::fs::renameat(
                        &latest.dir,
                        &*unfinished,
                        &latest.dir,
                        name,
                    )?)
                });
            if copied.is_err() {
                // The error that counts is the first.
                let _ = rustix::fs::unlinkat(&latest.dir, &*unfinished, AtFlags::empty());
            }
            copied
        })
    }
}

/// Opens what was kept: for reading, or for a look at it if it is no regular file.
pub fn open_kept(path: &Path) -> Result<OwnedFd> {
    let look = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = rustix::fs::open(path, look, Mode::empty())?;
    match kind(&stat_fd(&found)?) {
        libc::S_IFREG => {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            let path = proc_path(found.as_fd());
            Ok(rustix::fs::open(path.as_str(), flags, Mode::empty())?)
        }
        _ => Ok(found),
    }
}

/// Owner, extended attributes, mode, times. What the daemon may not set it leaves: a restore sets what the catalog has.
fn copy_attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>, stat: &Statx) -> Result<()> {
    let owner = (Uid::from_raw(stat.stx_uid), Gid::from_raw(stat.stx_gid));
    let _ = rustix::fs::fchown(to, Some(owner.0), Some(owner.1));
    copy_xattrs(from, to);
    rustix::fs::fchmod(to, Mode::from_raw_mode(u32::from(stat.stx_mode) & 0o7777))?;
    let time = |time: rustix::fs::StatxTimestamp| Timespec {
        tv_sec: time.tv_sec,
        tv_nsec: time.tv_nsec.into(),
    };
    let times = Timestamps {
        last_access: time(stat.stx_atime),
        last_modification: time(stat.stx_mtime),
    };
    Ok(rustix::fs::futimens(to, &times)?)
}

fn copy_xattrs(from: BorrowedFd<'_>, to: BorrowedFd<'_>) {
    let Ok(len) = rustix::fs::flistxattr_query(from) else {
        return;
    };
    let mut names = vec![0; len];
    let Ok(len) = rustix::fs::flistxattr(from, &mut names[..]) else {
        return;
    };
    for name in names[..len].split(|b| *b == 0).filter(|name| !name.is_empty()) {
        let Ok(len) = rustix::fs::fgetxattr_query(from, name) else {
            continue;
        };
        let mut value = vec![0; len];
        if let Ok(len) = rustix::fs::fgetxattr(from, name, &mut value[..]) {
            // Labels that the system gives by itself are refused.
            let _ = rustix::fs::fsetxattr(to, name, &value[..len], rustix::fs::XattrFlags::empty());
        }
    }
}
