//! statx(2), the one way in which attributes are read, and what is made of its answer.

use std::ffi::OsStr;
use std::os::fd::AsFd;

use rustix::fs::{AtFlags, Statx, StatxFlags, StatxTimestamp, Timespec};
use rustix::io::Errno;
use rustix::time::ClockId;

use super::handle::fold;
use super::ops::{Attr, Timestamp};
use crate::ids::Ino;

const WANTED: StatxFlags = StatxFlags::BASIC_STATS
    .union(StatxFlags::BTIME)
    .union(StatxFlags::MNT_ID);
const HOW: AtFlags = AtFlags::SYMLINK_NOFOLLOW.union(AtFlags::NO_AUTOMOUNT);

/// Attributes of the inode behind a descriptor.
pub(crate) fn stat_fd(fd: impl AsFd) -> Result<Statx, Errno> {
    rustix::fs::statx(fd, c"", HOW | AtFlags::EMPTY_PATH, WANTED)
}

/// Attributes of `name` in `dir`, which is not followed if it is a symbolic link.
pub(crate) fn stat_at(dir: impl AsFd, name: &OsStr) -> Result<Statx, Errno> {
    rustix::fs::statx(dir, name, HOW, WANTED)
}

/// The device number that stat(2) would show.
pub(crate) fn device(stat: &Statx) -> u64 {
    libc::makedev(stat.stx_dev_major, stat.stx_dev_minor)
}

/// The type bits of the mode.
pub(crate) fn kind(stat: &Statx) -> u32 {
    u32::from(stat.stx_mode) & libc::S_IFMT
}

/// Inodes get the time of the clock's last tick; ticks are ten milliseconds apart at most.
const TICKS_NANOS: i64 = 20_000_000;

/// The clock by which inodes are born.
pub(crate) fn now() -> Timespec {
    rustix::time::clock_gettime(ClockId::RealtimeCoarse)
}

/// Whether every inode that is made after `now` has another birth time.
pub(crate) fn is_born_before(stat: &Statx, now: Timespec) -> bool {
    let born = stat.stx_btime;
    let nanos = i64::from(born.tv_nsec) + TICKS_NANOS;
    has_birth(stat)
        && (born.tv_sec + nanos / 1_000_000_000, nanos % 1_000_000_000) < (now.tv_sec, now.tv_nsec)
}

fn has_birth(stat: &Statx) -> bool {
    StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME)
}

/// What tells two uses of an inode number apart without handles: the birth time.
pub(crate) fn birth(stat: &Statx) -> u32 {
    if !has_birth(stat) {
        return 0;
    }
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&stat.stx_btime.tv_sec.to_ne_bytes());
    bytes[8..].copy_from_slice(&stat.stx_btime.tv_nsec.to_ne_bytes());
    fold(&bytes)
}

/// The attributes as the caller sees them.
pub(crate) fn attr(ino: Ino, stat: &Statx) -> Attr {
    Attr {
        ino,
        size: stat.stx_size,
        blocks: stat.stx_blocks,
        atime: timestamp(stat.stx_atime),
        mtime: timestamp(stat.stx_mtime),
        ctime: timestamp(stat.stx_ctime),
        mode: u32::from(stat.stx_mode),
        nlink: stat.stx_nlink,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        rdev: libc::makedev(stat.stx_rdev_major, stat.stx_rdev_minor),
        blksize: stat.stx_blksize,
    }
}

fn timestamp(t: StatxTimestamp) -> Timestamp {
    Timestamp {
        secs: t.tv_sec,
        nanos: t.tv_nsec,
    }
}

/// What changes when a file's content does. ctime cannot be set by a program, so equal stamps mean equal contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) size: u64,
    pub(crate) mtime: Timestamp,
    pub(crate) ctime: Timestamp,
}

impl Stamp {
    pub(crate) fn of(stat: &Statx) -> Stamp {
        Stamp {
            size: stat.stx_size,
            mtime: timestamp(stat.stx_mtime),
            ctime: timestamp(stat.stx_ctime),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_inode_of_this_moment_may_have_a_twin_and_an_old_one_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = std::fs::File::create(dir.path().join("new")).unwrap();
        let stat = stat_fd(file.as_fd()).unwrap();
        if !has_birth(&stat) {
            assert!(!is_born_before(&stat, now()));
            return;
        }
        let born = Timespec {
            tv_sec: stat.stx_btime.tv_sec,
            tv_nsec: stat.stx_btime.tv_nsec.into(),
        };
        assert!(!is_born_before(&stat, born));
        std::thread::sleep(Duration::from_millis(40));
        assert!(is_born_before(&stat, now()));
    }
}
