//! The mounts below the backing directory, and the numbers that their inodes get.
//!
//! The kernel wants one number space, and shows the numbers as `st_ino`. Inodes of the root's device keep their
//! own; those of another mount or device are put into a range of that mount's index. Two mounts of one device (bind
//! mounts) are two ranges: a directory may have only one place in the kernel's tree.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use rustix::fs::{Mode, OFlags, Statx};
use rustix::io::Errno;

use super::handle::Handle;
use super::stat::{device, kind};
use crate::ids::Ino;

/// Numbers of other mounts below this are packed; larger ones (overlayfs with xino, some network filesystems) are
/// handed out.
const PACKED_MAX: u64 = 1 << 48;
/// Mounts whose numbers can be packed into bits 48..60.
const INDEX_MAX: u32 = 1 << 12;
/// What statfs(2) says of ext4.
const EXT4_SUPER_MAGIC: u64 = 0xef53;
const OTHER_MOUNT_BIT: u64 = 1 << 61;
const HANDED_OUT_BIT: u64 = 1 << 60;
const UNSEEN_BIT: u64 = 1 << 59;

/// One mount (and one device: an overlay shows several).
pub(super) struct Mount {
    pub(super) index: u32,
    pub(super) device: u64,
    mount_id: u64,
    /// A descriptor on it; one that open_by_handle_at(2) takes where handles work.
    pub(super) fd: OwnedFd,
    /// Whether inodes are found again by handle.
    pub(super) handles: bool,
    /// Whether a handle needs no generation ([`AnyInode32`](super::handle::Form::AnyInode32)).
    pub(super) numbers: bool,
}

pub(super) struct Mounts {
    root: Arc<Mount>,
    root_number: u64,
    all: RwLock<Vec<Arc<Mount>>>,
    odd: Mutex<Odd>,
}

/// Numbers that were handed out one by one.
#[derive(Default)]
struct Odd {
    by_inode: HashMap<(u32, u64), u64>,
    next: u64,
}

impl Mounts {
    /// `handles` may be false to keep away from them.
    pub(super) fn new(root: &OwnedFd, stat: &Statx, handles: bool) -> Result<Mounts, Errno> {
        let (fd, handles) = open_mount(root.as_fd(), OsStr::new("."), handles, stat)?;
        let root = Arc::new(Mount {
            index: 0,
            device: device(stat),
            mount_id: stat.stx_mnt_id,
            numbers: handles && takes_any_generation(&fd),
            fd,
            handles,
        });
        Ok(Mounts {
            root_number: stat.stx_ino,
            all: RwLock::new(vec![root.clone()]),
            root,
            odd: Mutex::default(),
        })
    }

    /// The mount of an inode that was found as `name` in `dir`. The first inode of a new mount opens it.
    pub(super) fn of(&self, stat: &Statx, dir: BorrowedFd<'_>, name: &OsStr) -> Result<Arc<Mount>, Errno> {
        let is_it = |m: &Mount| m.mount_id == stat.stx_mnt_id && m.device == device(stat);
        if is_it(&self.root) {
            return Ok(self.root.clone());
        }
        if let Some(known) = self.all.read().iter().find(|m| is_it(m)) {
            return Ok(known.clone());
        }
        let (fd, handles) = open_mount(dir, name, self.root.handles, stat)?;
        let mut all = self.all.write();
        if let Some(known) = all.iter().find(|m| is_it(m)) {
            return Ok(known.clone());
        }
        let index = all.len() as u32;
        let mount = Arc::new(Mount {
            index,
            device: device(stat),
            mount_id: stat.stx_mnt_id,
            numbers: handles && takes_any_generation(&fd),
            fd,
            handles,
        });
        all.push(mount.clone());
        Ok(mount)
    }

    /// The mount with this index.
    pub(super) fn get(&self, index: u32) -> Arc<Mount> {
        match index {
            0 => self.root.clone(),
            _ => self.all.read()[index as usize].clone(),
        }
    }

    /// The first mount of a device.
    pub(super) fn by_device(&self, device: u64) -> Option<u32> {
        if self.root.device == device {
            return Some(0);
        }
        self.all
            .read()
            .iter()
            .find(|m| m.device == device)
            .map(|m| m.index)
    }

    /// The number of an inode, unless it has none yet.
    pub(super) fn known_ino(&self, mount: u32, number: u64) -> Option<Ino> {
        match (mount, number) {
            (0, 2..UNSEEN_BIT) | (1..INDEX_MAX, 0..PACKED_MAX) => Some(self.ino(mount, number)),
            (0, n) if n == self.root_number => Some(Ino::ROOT),
            _ => self.odd.lock().by_inode.get(&(mount, number)).copied().map(Ino),
        }
    }

    /// The number that the kernel sees for an inode. The same as long as the mount lives, for all but the largest
    /// numbers, which keep theirs until they are forgotten.
    pub(super) fn ino(&self, mount: u32, number: u64) -> Ino {
        match (mount, number) {
            (0, n) if n == self.root_number => Ino::ROOT,
            (0, 2..UNSEEN_BIT) => Ino(number),
            (1..INDEX_MAX, 0..PACKED_MAX) => Ino(OTHER_MOUNT_BIT | u64::from(mount) << 48 | number),
            _ => {
                let mut odd = self.odd.lock();
                let next = odd.next;
                let ino = *odd
                    .by_inode
                    .entry((mount, number))
                    .or_insert(HANDED_OUT_BIT | next);
                if ino == HANDED_OUT_BIT | next {
                    odd.next += 1;
                }
                Ino(ino)
            }
        }
    }

    /// The kernel has forgotten the inode.
    pub(super) fn forget(&self, ino: Ino, mount: u32, number: u64) {
        if ino.0 & (OTHER_MOUNT_BIT | HANDED_OUT_BIT) == HANDED_OUT_BIT {
            self.odd.lock().by_inode.remove(&(mount, number));
        }
    }
}

/// Whether an inode is of the root's own mount.
pub(super) fn is_of_root(ino: Ino) -> bool {
    ino.0 & (OTHER_MOUNT_BIT | HANDED_OUT_BIT) == 0
}

/// A number for a name whose inode may not be looked at. No inode has it.
pub(super) fn unseen(ino: Ino) -> Ino {
    Ino(UNSEEN_BIT | ino.0 & (UNSEEN_BIT - 1))
}

/// Opens a mount at one of its inodes, for open_by_handle_at(2), and tells whether handles work there: the filesystem
/// must support them, we need CAP_DAC_READ_SEARCH, and a descriptor with more rights than O_PATH, which a directory
/// gives without harm.
fn open_mount(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    handles: bool,
    stat: &Statx,
) -> Result<(OwnedFd, bool), Errno> {
    let open = |flags| {
        rustix::fs::openat(
            dir,
            name,
            flags | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )
    };
    if handles
        && kind(stat) == libc::S_IFDIR
        && let Ok(fd) = open(OFlags::RDONLY | OFlags::DIRECTORY)
        && Handle::at(fd.as_fd(), OsStr::new("")).is_ok_and(|h| h.open(&fd, libc::O_PATH).is_ok())
    {
        return Ok((fd, true));
    }
    Ok((open(OFlags::PATH)?, false))
}

/// Whether the filesystem opens handles without a generation: ext2, ext3 and ext4 do, which share a number.
fn takes_any_generation(fd: &OwnedFd) -> bool {
    rustix::fs::fstatfs(fd).is_ok_and(|fs| fs.f_type as u64 == EXT4_SUPER_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::stat::stat_fd;

    fn mounts() -> Mounts {
        let root: OwnedFd = std::fs::File::open("/").unwrap().into();
        let stat = stat_fd(&root).unwrap();
        Mounts::new(&root, &stat, true).unwrap()
    }

    #[test]
    fn numbers_never_meet() {
        let mounts = mounts();
        let root = mounts.root_number;
        assert_eq!(mounts.ino(0, root), Ino::ROOT);
        assert_eq!(mounts.ino(0, 77), Ino(77), "the root's device keeps its numbers");
        let mut seen = std::collections::HashSet::new();
        for mount in [0, 1, 2, 4095, 4096] {
            for number in [0, 1, 2, 77, 1 << 32, (1 << 48) - 1, 1 << 48, 1 << 61, u64::MAX] {
                let ino = mounts.ino(mount, number);
                assert!(seen.insert(ino), "{mount} {number} gives {ino}, which is taken");
                assert_eq!(mounts.ino(mount, number), ino, "asked again");
                assert!(!ino.is_control());
            }
        }
    }

    #[test]
    fn forgotten_numbers_are_not_kept() {
        let mounts = mounts();
        let ino = mounts.ino(0, u64::MAX);
        mounts.forget(ino, 0, u64::MAX);
        assert!(mounts.odd.lock().by_inode.is_empty());
        assert_ne!(mounts.ino(0, u64::MAX), ino, "a number is not used twice");
    }

    #[test]
    fn another_filesystem_is_another_mount() {
        let mounts = mounts();
        let root: OwnedFd = std::fs::File::open("/").unwrap().into();
        let stat = crate::fs::stat::stat_at(&root, OsStr::new("proc")).unwrap();
        let proc = mounts.of(&stat, root.as_fd(), OsStr::new("proc")).unwrap();
        assert_eq!(proc.index, 1);
        assert!(Arc::ptr_eq(
            &proc,
            &mounts.of(&stat, root.as_fd(), OsStr::new("proc")).unwrap()
        ));
        assert!(Arc::ptr_eq(&proc, &mounts.get(1)));
    }
}
