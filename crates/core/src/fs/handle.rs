//! File handles: the name of a backing inode that needs neither a path nor an open descriptor
//! (name_to_handle_at(2), open_by_handle_at(2)).

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;

use super::name::with_c_str;

/// Bytes kept in place. ext4 and f2fs use 8, XFS and tmpfs 12, btrfs 20; what is longer goes to the heap.
const INLINE_MAX: usize = 24;
/// The kernel's limit (MAX_HANDLE_SZ).
const BYTES_MAX: usize = 128;

/// How often opening is tried again while the inode's number is just being given to another: the kernel has no better word
/// for that than ENOMEM.
const CREATIONS_MAX: u32 = 100;

/// An exportable handle of one inode; equal handles name the same inode of one filesystem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Handle {
    Short {
        kind: i32,
        len: u8,
        bytes: [u8; INLINE_MAX],
    },
    Long(Box<(i32, Vec<u8>)>),
}

/// Handles that say nothing but inode number and generation, and can be made again of them: those of nearly all local
/// filesystems. The layouts are those of the kernel's `enum fid_type` and of the filesystems' export operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Form {
    /// FILEID_INO32_GEN: ext2, ext3, ext4, f2fs, XFS with small inode numbers.
    Inode32,
    /// tmpfs: generation, then the inode number in two halves.
    Tmpfs,
    /// FILEID_INO64_GEN: XFS.
    Inode64,
    /// FILEID_INO32_GEN with generation 0, which ext4 takes for whatever inode has the number now: who opens it must
    /// look at what was opened.
    AnyInode32,
}

/// `struct file_handle` with room for the longest handle.
#[repr(C)]
struct RawHandle {
    bytes_len: u32,
    kind: i32,
    bytes: [u8; BYTES_MAX],
}

impl Handle {
    /// The handle of `name` in `dir`, which is not followed if it is a symbolic link; an empty name is `dir` itself.
    /// EOPNOTSUPP or EOVERFLOW where the filesystem has none.
    pub(crate) fn at(dir: BorrowedFd<'_>, name: &OsStr) -> Result<Handle, Errno> {
        let mut raw = RawHandle {
            bytes_len: BYTES_MAX as u32,
            kind: 0,
            bytes: [0; BYTES_MAX],
        };
        let mut mount_id: libc::c_int = 0;
        let flags = if name.is_empty() { libc::AT_EMPTY_PATH } else { 0 };
        with_c_str(name, |name| {
            // SAFETY: `raw` is a file_handle with bytes_len bytes of room behind it, `name` is NUL-terminated, and
            // both outlive the call.
            let rc = unsafe {
                libc::name_to_handle_at(
                    dir.as_raw_fd(),
                    name.as_ptr(),
                    (&raw mut raw).cast(),
                    &mut mount_id,
                    flags,
                )
            };
            if rc == 0 { Ok(()) } else { Err(last_errno()) }
        })?;
        let len = (raw.bytes_len as usize).min(BYTES_MAX);
        Ok(Handle::new(raw.kind, &raw.bytes[..len]))
    }

    /// A handle as the kernel wrote it.
    pub(crate) fn new(kind: i32, data: &[u8]) -> Handle {
        if data.len() > INLINE_MAX {
            return Handle::Long(Box::new((kind, data.to_vec())));
        }
        let mut bytes = [0; INLINE_MAX];
        bytes[..data.len()].copy_from_slice(data);
        Handle::Short {
            kind,
            len: data.len() as u8,
            bytes,
        }
    }

    /// The handle of an inode on a filesystem whose handles have this form.
    pub(crate) fn of(form: Form, number: u64, generation: u32) -> Handle {
        let (low, high) = (number as u32, (number >> 32) as u32);
        let (kind, words) = match form {
            Form::Inode32 => (1, [low, generation, 0]),
            Form::Tmpfs => (1, [generation, low, high]),
            Form::Inode64 => (0x81, [low, high, generation]),
            Form::AnyInode32 => (1, [low, 0, 0]),
        };
        let len = match form {
            Form::Inode32 | Form::AnyInode32 => 8,
            Form::Tmpfs | Form::Inode64 => 12,
        };
        let mut bytes = [0; 12];
        for (bytes, word) in bytes.chunks_exact_mut(4).zip(words) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        Handle::new(kind, &bytes[..len])
    }

    /// The form by which this handle can be made again for inode `number`, if there is one.
    pub(crate) fn form(&self, number: u64) -> Option<Form> {
        let form = match (self.kind(), self.bytes().len()) {
            (1, 8) => Form::Inode32,
            (1, 12) => Form::Tmpfs,
            (0x81, 12) => Form::Inode64,
            _ => return None,
        };
        (Handle::of(form, number, self.generation()) == *self).then_some(form)
    }

    /// Opens the inode; `mount` is any descriptor on its mount but an O_PATH one. Needs CAP_DAC_READ_SEARCH. ESTALE when the inode
    /// does not exist any more.
    pub(crate) fn open(&self, mount: impl AsFd, flags: i32) -> Result<OwnedFd, Errno> {
        let mut opened = self.open_once(mount.as_fd(), flags);
        for _ in 0..CREATIONS_MAX {
            if !matches!(opened, Err(Errno::NOMEM)) {
                break;
            }
            std::thread::yield_now();
            opened = self.open_once(mount.as_fd(), flags);
        }
        opened
    }

    fn open_once(&self, mount: BorrowedFd<'_>, flags: i32) -> Result<OwnedFd, Errno> {
        let bytes = self.bytes();
        let bytes = &bytes[..bytes.len().min(BYTES_MAX)];
        let mut raw = RawHandle {
            bytes_len: bytes.len() as u32,
            kind: self.kind(),
            bytes: [0; BYTES_MAX],
        };
        raw.bytes[..bytes.len()].copy_from_slice(bytes);
        // SAFETY: `raw` is a complete file_handle that outlives the call.
        let fd = unsafe {
            libc::open_by_handle_at(mount.as_raw_fd(), (&raw mut raw).cast(), flags | libc::O_CLOEXEC)
        };
        if fd < 0 {
            return Err(last_errno());
        }
        // SAFETY: the call just returned this descriptor, nobody else has it.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }

    /// Tells two inodes apart that had the same inode number at different times: the inode generation where the
    /// handle's layout is known, else a digest of it. Zero is left to inodes without one.
    pub(crate) fn generation(&self) -> u32 {
        match self.layout() {
            Layout::Known { generation, .. } => generation,
            Layout::Unknown => fold(self.bytes()),
        }
    }

    /// Whether the handle is that of inode `number`; `None` if its layout does not tell.
    pub(crate) fn is_of(&self, number: u64) -> Option<bool> {
        match self.layout() {
            Layout::Known {
                number: n, bits: 32, ..
            } => Some(n == number & 0xffff_ffff),
            Layout::Known { number: n, .. } => Some(n == number),
            Layout::Unknown => None,
        }
    }

    /// The inode number, where the layout tells all of it.
    pub(crate) fn number(&self) -> Option<u64> {
        match self.layout() {
            Layout::Known { number, .. } => Some(number),
            Layout::Unknown => None,
        }
    }

    /// Layouts from the kernel's `enum fid_type` and the filesystems' export operations.
    fn layout(&self) -> Layout {
        let b = self.bytes();
        let u32_at = |at: usize| u32::from_ne_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        match (self.kind(), b.len()) {
            // FILEID_INO32_GEN: ext2, ext3, ext4, f2fs, XFS with small inode numbers.
            (1, 8) => Layout::Known {
                number: u64::from(u32_at(0)),
                bits: 32,
                generation: u32_at(4),
            },
            // tmpfs: generation, then the inode number in two halves.
            (1, 12) => Layout::Known {
                number: u64_at(4),
                bits: 64,
                generation: u32_at(0),
            },
            // FILEID_BTRFS_WITHOUT_PARENT: object id, root id, generation.
            (0x4d, 20) => Layout::Known {
                number: u64_at(0),
                bits: 64,
                generation: u32_at(16) ^ u32_at(8),
            },
            // FILEID_INO64_GEN: XFS.
            (0x81, 12) => Layout::Known {
                number: u64_at(0),
                bits: 64,
                generation: u32_at(8),
            },
            _ => Layout::Unknown,
        }
    }

    fn kind(&self) -> i32 {
        match self {
            Handle::Short { kind, .. } => *kind,
            Handle::Long(long) => long.0,
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Handle::Short { len, bytes, .. } => &bytes[..usize::from(*len)],
            Handle::Long(long) => &long.1,
        }
    }
}

enum Layout {
    Known { number: u64, bits: u32, generation: u32 },
    Unknown,
}

/// FNV-1a folded to 32 bits.
pub(crate) fn fold(bytes: &[u8]) -> u32 {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
        (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3)
    });
    (hash ^ hash >> 32) as u32
}

/// The calling thread's errno.
pub(crate) fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_handle_opens_the_file_it_was_made_of_even_after_a_rename() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), b"x").unwrap();
        let fd = std::fs::File::open(dir.path()).unwrap();
        let Ok(handle) = Handle::at(fd.as_fd(), OsStr::new("a")) else {
            return;
        };
        let ino = std::fs::metadata(dir.path().join("a")).unwrap().ino();
        assert_ne!(handle.is_of(ino), Some(false));
        assert_ne!(handle.is_of(ino + 1), Some(true));
        std::fs::rename(dir.path().join("a"), dir.path().join("b")).unwrap();
        assert_eq!(Handle::at(fd.as_fd(), OsStr::new("b")).unwrap(), handle);
        match handle.open(&fd, libc::O_PATH) {
            Ok(opened) => assert_eq!(std::fs::File::from(opened).metadata().unwrap().ino(), ino),
            Err(e) => {
                let needed = rustix::thread::CapabilitySet::DAC_READ_SEARCH;
                let missing = !rustix::thread::capabilities(None)
                    .unwrap()
                    .effective
                    .contains(needed);
                assert!(
                    missing && e == Errno::PERM,
                    "only the missing capability is an excuse: {e}"
                );
            }
        }
    }

    #[test]
    fn known_layouts_give_number_and_generation() {
        let short = Handle::new;
        let ext4 = short(1, &[&7u32.to_ne_bytes()[..], &9u32.to_ne_bytes()].concat());
        assert_eq!(
            (ext4.is_of(7), ext4.is_of(8), ext4.generation()),
            (Some(true), Some(false), 9)
        );
        let xfs = short(
            0x81,
            &[&(7u64 << 33).to_ne_bytes()[..], &9u32.to_ne_bytes()].concat(),
        );
        assert_eq!((xfs.is_of(7 << 33), xfs.generation()), (Some(true), 9));
        let other = short(0x97, &[1, 2, 3]);
        assert_eq!(other.is_of(1), None);
        assert_ne!(other.generation(), short(0x97, &[1, 2, 4]).generation());
    }

    #[test]
    fn a_handle_of_a_known_form_is_made_again_of_number_and_generation() {
        for (form, number) in [
            (Form::Inode32, 7),
            (Form::Tmpfs, 7 << 33),
            (Form::Inode64, u64::MAX),
        ] {
            let handle = Handle::of(form, number, 9);
            assert_eq!((handle.is_of(number), handle.generation()), (Some(true), 9));
            assert_eq!(handle.form(number), Some(form));
            assert_eq!(handle.form(number - 1), None, "of another inode");
        }
        assert_eq!(Handle::new(0x97, &[1, 2, 3]).form(1), None);
        let dir = tempfile::tempdir().unwrap();
        let fd = std::fs::File::open(dir.path()).unwrap();
        let number = fd.metadata().unwrap().ino();
        if let Ok(handle) = Handle::at(fd.as_fd(), OsStr::new(""))
            && let Some(form) = handle.form(number)
        {
            assert_eq!(Handle::of(form, number, handle.generation()), handle);
        }
    }
}
