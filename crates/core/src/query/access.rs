//! Which files a caller may read, asked of the kernel with the caller's identity.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{Access, AtFlags};
use rustix::io::Errno;

use crate::fs::ops::Caller;

/// Groups read from a process, at most (NGROUPS_MAX).
const GROUPS_MAX: usize = 65_536;

/// For each path below `root`: whether the caller may search every directory on the way and read the file.
pub(crate) fn readable(root: BorrowedFd<'_>, caller: &Caller, paths: &[PathBuf]) -> Vec<bool> {
    let answers = refusals(root, caller, paths, Access::READ_OK);
    answers.into_iter().map(|refusal| refusal.is_none()).collect()
}

/// For each path below `root`: why the kernel refuses the caller this access, none where it does not. So a caller
/// learns of a path what access(2) tells them, and no more: of what lies in a closed directory not even whether it
/// is there.
///
/// A thread of its own takes the caller's ids and groups, loses the daemon's capabilities with them, asks
/// faccessat2(2), and ends; so no identity has to be restored, and no error can leave one behind. A daemon that
/// cannot become the caller answers for itself only.
pub(crate) fn refusals(
    root: BorrowedFd<'_>,
    caller: &Caller,
    paths: &[PathBuf],
    access: Access,
) -> Vec<Option<Errno>> {
    if paths.is_empty() || sees_all(caller) {
        return vec![None; paths.len()];
    }
    let all_refused = || vec![Some(Errno::ACCESS); paths.len()];
    as_caller(caller, || check(root, paths, access)).unwrap_or_else(all_refused)
}

/// Whether the kernel refuses a caller any of these accesses to inodes, by descriptors of them, and why.
pub(crate) fn refusal_of(inodes: &[(OwnedFd, Access)], caller: &Caller) -> Option<Errno> {
    if sees_all(caller) {
        return None;
    }
    let ask = |(inode, access): &(OwnedFd, Access)| inode_access(inode.as_fd(), *access).err();
    as_caller(caller, || inodes.iter().find_map(ask)).unwrap_or(Some(Errno::ACCESS))
}

/// faccessat2(2) of an inode itself, which `rustix` does not offer.
fn inode_access(inode: BorrowedFd<'_>, access: Access) -> Result<(), Errno> {
    let flags = libc::AT_EACCESS | libc::AT_EMPTY_PATH;
    // SAFETY: the path is an empty string that lives as long as the program; the rest are numbers.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_faccessat2,
            inode.as_raw_fd(),
            c"".as_ptr(),
            access.bits(),
            flags,
        )
    };
    match answer {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::ACCESS)),
    }
}

/// Asks with a caller's identity; none for a daemon that cannot take it.
fn as_caller<T: Send>(caller: &Caller, ask: impl Fn() -> T + Sync) -> Option<T> {
    let daemon = rustix::process::geteuid().as_raw();
    if caller.uid == daemon {
        return Some(ask());
    }
    if daemon != 0 {
        return None;
    }
    let groups = groups_of(caller.pid);
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| become_caller(caller, &groups).then(&ask));
        asked.join().unwrap_or_default()
    })
}

/// Whether a caller is refused nothing: root, asking root's daemon.
pub(crate) fn sees_all(caller: &Caller) -> bool {
    caller.uid == 0 && rustix::process::geteuid().is_root()
}

fn check(root: BorrowedFd<'_>, paths: &[PathBuf], access: Access) -> Vec<Option<Errno>> {
    let flags = AtFlags::EACCESS;
    let ask = |path: &PathBuf| rustix::fs::accessat(root.as_fd(), path, access, flags).err();
    paths.iter().map(ask).collect()
}

/// Takes the caller's groups and filesystem ids, for this thread alone.
fn become_caller(caller: &Caller, groups: &[u32]) -> bool {
    // SAFETY: the raw call changes the groups of the calling thread; pointer and length describe one slice.
    let set = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
    // SAFETY: plain numbers; the raw calls change the calling thread only. They report the previous id, so a second
    // call with an impossible id reads what is now in force.
    let (uid, gid) = unsafe {
        libc::syscall(libc::SYS_setfsgid, caller.gid);
        libc::syscall(libc::SYS_setfsuid, caller.uid);
        (
            libc::syscall(libc::SYS_setfsuid, u32::MAX),
            libc::syscall(libc::SYS_setfsgid, u32::MAX),
        )
    };
    set == 0 && uid == i64::from(caller.uid) && gid == i64::from(caller.gid)
}

/// The supplementary groups of a process; none when it is gone.
fn groups_of(pid: u32) -> Vec<u32> {
    let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else {
        return Vec::new();
    };
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("Groups:"))
        .unwrap_or_default();
    line.split_whitespace()
        .filter_map(|group| group.parse().ok())
        .take(GROUPS_MAX)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn mode(path: &std::path::Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_stranger_may_not_read_a_private_file_or_one_below_a_private_directory() {
        if !rustix::process::geteuid().is_root() {
            return; // Only root can ask in another's name.
        }
        let dir = tempfile::tempdir().unwrap();
        mode(dir.path(), 0o755);
        for (name, bits) in [("open", 0o755), ("closed", 0o700)] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
            std::fs::write(dir.path().join(name).join("public"), "x").unwrap();
            std::fs::write(dir.path().join(name).join("private"), "x").unwrap();
            mode(&dir.path().join(name).join("public"), 0o644);
            mode(&dir.path().join(name).join("private"), 0o600);
            mode(&dir.path().join(name), bits);
        }
        let root = std::fs::File::open(dir.path()).unwrap();
        let paths: Vec<PathBuf> = ["open/public", "open/private", "closed/public", "gone"]
            .iter()
            .map(PathBuf::from)
            .collect();
        let stranger = Caller {
            uid: 61_001,
            gid: 61_001,
            pid: std::process::id(),
        };
        assert_eq!(
            readable(root.as_fd(), &stranger, &paths),
            [true, false, false, false]
        );
        let owner = Caller {
            uid: 0,
            gid: 0,
            pid: 0,
        };
        assert_eq!(readable(root.as_fd(), &owner, &paths[..3]), [true, true, true]);
        // The thread that asked is gone, and this one is still root.
        assert!(std::fs::File::open(dir.path().join("closed/private")).is_ok());
    }
}
