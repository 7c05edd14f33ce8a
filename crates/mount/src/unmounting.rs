//! Taking a mount away: umount2(2) for root, `fusermount3 -u` for everybody else.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

/// Unmounts what is mounted at `mountpoint`, an absolute path without symbolic links.
///
/// # Errors
/// `EBUSY` while files of it are open; others as umount2(2) has them. The mount is then as before.
pub fn unmount_now(mountpoint: &Path) -> io::Result<()> {
    unmount_with(mountpoint, UnmountFlags::NOFOLLOW, false)
}

/// Takes the mount out of the tree at once; what is open in it stays usable until it is closed.
///
/// # Errors
/// As umount2(2).
pub fn unmount_lazily(mountpoint: &Path) -> io::Result<()> {
    unmount_with(mountpoint, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH, true)
}

fn unmount_with(mountpoint: &Path, flags: UnmountFlags, lazily: bool) -> io::Result<()> {
    match unmount(mountpoint, flags) {
        Err(Errno::PERM) => fusermount(mountpoint, lazily),
        other => Ok(other?),
    }
}

/// The set-user-id helper unmounts for the user who mounted.
fn fusermount(mountpoint: &Path, lazily: bool) -> io::Result<()> {
    let mut command = Command::new("fusermount3");
    command.arg("-u");
    if lazily {
        command.arg("-z");
    }
    let output = command.arg("--").arg(mountpoint).stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr);
    let message = message.lines().next().unwrap_or("fusermount3 failed");
    let kind = match message.contains("busy") {
        true => io::ErrorKind::ResourceBusy,
        false => io::ErrorKind::PermissionDenied,
    };
    Err(io::Error::new(
        kind,
        message.trim_start_matches("fusermount3: ").to_owned(),
    ))
}
