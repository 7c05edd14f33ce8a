//! Mounting: an open /dev/fuse, tied by the kernel to a directory.
//!
//! The mount is made and taken away here and nowhere else. A session that unmounts by itself when it ends would
//! hit whatever lies at that path by then: with a mount over SOURCE, the filesystem below.

use std::ffi::{CString, OsStr, OsString};
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::mount::MountFlags;

use crate::error::{MountError, Result};
use crate::options::{MountOptions, escape_commas};
use crate::place::{Place, is_cut_off};
use crate::{fusermount, mountinfo, unmounting};

/// The device through which the kernel speaks to filesystems in user space.
const DEVICE: &str = "/dev/fuse";

/// A mounted filesystem that nobody answers yet.
#[derive(Debug)]
pub struct Mounted {
    /// The open device; the session answers the kernel through it.
    pub device: OwnedFd,
    /// The mount itself.
    pub mount: Mount,
}

/// A mount of ours, known by its path and its device number.
#[derive(Clone, Debug)]
pub struct Mount {
    mountpoint: PathBuf,
    number: String,
    /// The kernel ended the connection. Where the mount was unmounted its number is free, and may be another's.
    ended: Arc<AtomicBool>,
}

/// Mounts. From now on whoever enters MOUNTPOINT waits for a session.
///
/// Root calls mount(2); who is not allowed to, as a normal user or in a container, goes through fusermount3.
///
/// # Errors
/// Nothing is mounted after an error.
pub fn mount(place: &Place, options: &MountOptions) -> Result<Mounted> {
    if let Err(e) = std::fs::metadata(DEVICE) {
        return Err(MountError::NoDevice(e));
    }
    let source = options.fsname.as_deref().unwrap_or(place.source.as_os_str());
    let device = match rustix::process::geteuid().is_root() {
        true => match mount_directly(source, &place.mountpoint, options) {
            Err(MountError::Kernel { source: e, .. }) if e.raw_os_error() == Some(libc::EPERM) => {
                mount_through_helper(source, &place.mountpoint, options)?
            }
            other => other?,
        },
        false => mount_through_helper(source, &place.mountpoint, options)?,
    };
    let entry = mountinfo::topmost_at(&place.mountpoint).map_err(|source| MountError::Kernel {
        what: "/proc/self/mountinfo",
        source,
    })?;
    match entry {
        Some(entry) if entry.is_vexfs() => {
            let mount = Mount {
                mountpoint: place.mountpoint.clone(),
                number: entry.device,
                ended: Arc::default(),
            };
            Ok(Mounted { device, mount })
        }
        // Closing the device ends the connection, wherever the mount is now.
        _ => Err(MountError::MountPoint {
            path: place.mountpoint.clone(),
            reason: "the mount was taken away at once".into(),
        }),
    }
}

fn mount_directly(source: &OsStr, mountpoint: &Path, options: &MountOptions) -> Result<OwnedFd> {
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .open(DEVICE)
        .map_err(MountError::NoDevice)?;
    let mut data = format!(
        "fd={},rootmode=40000,user_id={},group_id={}",
        device.as_raw_fd(),
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    for (wanted, word) in fuse_options(options) {
        if wanted {
            data.push(',');
            data.push_str(word);
        }
    }
    let data = CString::new(data).expect("has no zero byte");
    rustix::mount::mount(
        source,
        mountpoint,
        mountinfo::FSTYPE,
        options.flags,
        data.as_c_str(),
    )
    .map_err(|e| MountError::Kernel {
        what: "mount",
        source: e.into(),
    })?;
    Ok(device.into())
}

fn mount_through_helper(source: &OsStr, mountpoint: &Path, options: &MountOptions) -> Result<OwnedFd> {
    let mut list = OsString::from("subtype=vexfs,fsname=");
    list.push(escape_commas(source));
    for (wanted, word) in fuse_options(options)
        .into_iter()
        .chain(helper_words(options.flags))
    {
        if wanted {
            list.push(",");
            list.push(word);
        }
    }
    fusermount::mount(mountpoint, &list)
}

/// Options that the kernel's FUSE itself knows.
fn fuse_options(options: &MountOptions) -> [(bool, &'static str); 2] {
    [
        (options.allow_other, "allow_other"),
        (options.default_permissions, "default_permissions"),
    ]
}

/// The flags of mount(2) in the helper's words. It sets nosuid and nodev for everybody but root by itself.
fn helper_words(flags: MountFlags) -> [(bool, &'static str); 7] {
    [
        (flags.contains(MountFlags::RDONLY), "ro"),
        (flags.contains(MountFlags::NOSUID), "nosuid"),
        (flags.contains(MountFlags::NODEV), "nodev"),
        (flags.contains(MountFlags::NOEXEC), "noexec"),
        (flags.contains(MountFlags::NOATIME), "noatime"),
        (flags.contains(MountFlags::SYNCHRONOUS), "sync"),
        (flags.contains(MountFlags::DIRSYNC), "dirsync"),
    ]
}

impl Mount {
    /// Where it is mounted.
    pub fn mountpoint(&self) -> &Path {
        &self.mountpoint
    }

    /// `major:minor`, as the table of mounts and `st_dev` have it.
    pub fn number(&self) -> &str {
        &self.number
    }

    /// Whether it is still what one sees at its path.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn is_mounted(&self) -> io::Result<bool> {
        let top = mountinfo::topmost_at(&self.mountpoint)?;
        let same = top.is_some_and(|entry| entry.is_vexfs() && entry.device == self.number);
        // After the end only a mount that was cut off can be ours, and that is dead; a live one is somebody else's.
        Ok(same && (!self.ended.load(Ordering::Acquire) || self.is_dead()))
    }

    /// The session is over.
    pub(crate) fn set_ended(&self) {
        self.ended.store(true, Ordering::Release);
    }

    fn is_dead(&self) -> bool {
        rustix::fs::statfs(&self.mountpoint).is_err_and(|e| is_cut_off(e.raw_os_error()))
    }

    /// Takes it away, lazily if files are open. Does nothing if it is gone or lies below another mount.
    ///
    /// # Errors
    /// As umount2(2); the mount stays then.
    pub fn unmount(&self) -> io::Result<()> {
        if !self.is_mounted()? {
            return Ok(());
        }
        match unmounting::unmount_now(&self.mountpoint) {
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy => unmounting::unmount_lazily(&self.mountpoint),
            other => other,
        }
    }
}
