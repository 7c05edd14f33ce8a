//! Acting as the caller: what a new file belongs to, and who sets an ACL.
//!
//! Permissions are decided by the kernel before it asks us (`default_permissions`), with the caller's real groups and
//! capabilities; a mount without it serves its owner only, who is also the daemon. So for making names it suffices
//! that the thread takes the caller's filesystem ids and keeps its capabilities: the file belongs to the caller, and a
//! right that the caller has by a supplementary group, which a request does not carry, is not refused a second time.

use std::cell::Cell;

use rustix::thread::{CapabilitySet, CapabilitySets};

use super::ops::Caller;
use crate::{Error, Result};

/// Groups read from a process, at most (NGROUPS_MAX).
const GROUPS_MAX: usize = 65_536;

/// Who the daemon is, and whether it can be somebody else.
pub(super) struct Identity {
    uid: u32,
    gid: u32,
    can_switch: bool,
    /// Those of the threads that serve requests: all but CAP_FSETID (module `set_id` says why).
    capabilities: CapabilitySets,
    groups: Vec<u32>,
}

thread_local! {
    /// The umask of this thread once it has one of its own.
    static UMASK: Cell<Option<u32>> = const { Cell::new(None) };
}

impl Identity {
    pub(super) fn of_this_process() -> Result<Identity> {
        let mut capabilities = rustix::thread::capabilities(None)?;
        let needed = CapabilitySet::SETUID | CapabilitySet::SETGID;
        let can_switch = capabilities.effective.contains(needed);
        capabilities.effective = capabilities.permitted - CapabilitySet::FSETID;
        Ok(Identity {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            can_switch,
            capabilities,
            groups: rustix::process::getgroups()?.iter().map(|g| g.as_raw()).collect(),
        })
    }

    /// The daemon's user.
    pub(super) fn uid(&self) -> u32 {
        self.uid
    }

    /// Makes something of this mode that will belong to the caller, with the umask in force. EPERM if the caller is
    /// another user and the daemon cannot act as one.
    pub(super) fn create<T>(
        &self,
        caller: &Caller,
        (mode, umask): (u32, u32),
        f: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        take_umask(umask);
        let _restore = self.switch(caller, None)?;
        match mode & libc::S_ISGID {
            0 => f(),
            _ => self.with_fsetid(f),
        }
    }

    /// Does something with CAP_FSETID, if the daemon may have it: gives a mode that the kernel has decided on.
    pub(super) fn with_fsetid<T>(&self, f: impl FnOnce() -> Result<T>) -> Result<T> {
        let mut capabilities = self.capabilities;
        capabilities.effective |= capabilities.permitted & CapabilitySet::FSETID;
        if capabilities.effective == self.capabilities.effective {
            return f();
        }
        rustix::thread::set_capabilities(None, capabilities)?;
        let _restore = Restore {
            identity: self,
            ids: false,
            groups: false,
        };
        f()
    }

    /// Does something that depends on the caller's groups, and not on CAP_FSETID: setting an ACL, by which a caller
    /// outside the file's group loses the set-group-id bit.
    pub(super) fn impersonate<T>(&self, caller: &Caller, f: impl FnOnce() -> Result<T>) -> Result<T> {
        let groups = if self.is_daemon(caller) {
            Vec::new()
        } else {
            groups_of(caller.pid)
        };
        let _restore = self.switch(caller, Some(&groups))?;
        f()
    }

    fn is_daemon(&self, caller: &Caller) -> bool {
        caller.uid == self.uid && caller.gid == self.gid
    }

    fn switch(&self, caller: &Caller, groups: Option<&[u32]>) -> Result<Option<Restore<'_>>> {
        if self.is_daemon(caller) {
            return Ok(None);
        }
        if !self.can_switch {
            // The same user in another group can do without; another user cannot.
            return if caller.uid == self.uid {
                Ok(None)
            } else {
                Err(Error::Os(libc::EPERM))
            };
        }
        let restore = Restore {
            identity: self,
            ids: true,
            groups: groups.is_some(),
        };
        if let Some(groups) = groups {
            set_groups(groups)?;
        }
        set_fs_ids(caller.uid, caller.gid);
        // A filesystem uid other than 0 took the filesystem capabilities away.
        rustix::thread::set_capabilities(None, self.capabilities)?;
        Ok(Some(restore))
    }
}

/// Gives the thread its own identity back, after a panic as well.
struct Restore<'a> {
    identity: &'a Identity,
    ids: bool,
    groups: bool,
}

impl Drop for Restore<'_> {
    fn drop(&mut self) {
        if self.ids {
            set_fs_ids(self.identity.uid, self.identity.gid);
        }
        let groups = if self.groups {
            set_groups(&self.identity.groups)
        } else {
            Ok(())
        };
        let capabilities = rustix::thread::set_capabilities(None, self.identity.capabilities);
        // A thread that stays somebody else must not serve another request.
        assert!(
            groups.is_ok() && capabilities.is_ok(),
            "the thread cannot get its identity back"
        );
    }
}

/// Filesystem ids of the calling thread: the raw calls, since the C library's would change every thread.
fn set_fs_ids(uid: u32, gid: u32) {
    // SAFETY: these calls take numbers and touch no memory. They cannot fail for a thread with CAP_SETUID and
    // CAP_SETGID, nor on the way back to the effective ids.
    unsafe {
        libc::syscall(libc::SYS_setfsgid, libc::c_long::from(gid));
        libc::syscall(libc::SYS_setfsuid, libc::c_long::from(uid));
    }
}

/// Supplementary groups of the calling thread only.
fn set_groups(groups: &[u32]) -> Result<()> {
    // SAFETY: the kernel reads `groups.len()` numbers from the slice.
    let rc = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
    if rc == 0 {
        Ok(())
    } else {
        Err(Error::from(super::handle::last_errno()))
    }
}

/// The supplementary groups of a process: none if it is gone or lives in another pid namespace, which can only take
/// rights away.
fn groups_of(pid: u32) -> Vec<u32> {
    let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else {
        return Vec::new();
    };
    let Some(line) = status.lines().find_map(|l| l.strip_prefix("Groups:")) else {
        return Vec::new();
    };
    line.split_ascii_whitespace()
        .take(GROUPS_MAX)
        .filter_map(|g| g.parse().ok())
        .collect()
}

/// Sets the umask of this thread only: it first gets its own filesystem context. The backing filesystem must apply
/// the mask, since a default ACL of the directory replaces it.
fn take_umask(umask: u32) {
    UMASK.with(|current| {
        if current.get() == Some(umask) {
            return;
        }
        if current.get().is_none() {
            // SAFETY: unshare(CLONE_FS) only separates this thread's umask, root and working directory.
            let rc = unsafe { libc::unshare(libc::CLONE_FS) };
            assert!(
                rc == 0,
                "unshare(CLONE_FS) needs no right, and memory for a few words"
            );
        }
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(umask & 0o777));
        current.set(Some(umask));
    });
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};

    use super::*;

    /// Runs in a thread of its own, whose umask and ids may be spoilt.
    fn in_thread(f: impl FnOnce() + Send + 'static) {
        std::thread::spawn(f).join().unwrap();
    }

    #[test]
    fn the_umask_of_one_thread_is_not_that_of_another() {
        in_thread(|| {
            let dir = tempfile::tempdir().unwrap();
            let me = Identity::of_this_process().unwrap();
            let caller = Caller {
                uid: me.uid,
                gid: me.gid,
                pid: 0,
            };
            let make = |name: &str| {
                let path = dir.path().join(name);
                std::fs::OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(0o666)
                    .open(&path)?;
                Ok(std::fs::metadata(path)?.permissions().mode() & 0o777)
            };
            assert_eq!(me.create(&caller, (0o666, 0o077), || make("a")).unwrap(), 0o600);
            assert_eq!(me.create(&caller, (0o666, 0o002), || make("b")).unwrap(), 0o664);
            let elsewhere = std::thread::scope(|s| s.spawn(|| make("c")).join().unwrap()).unwrap();
            assert_eq!(
                elsewhere & 0o002,
                0o000,
                "another thread keeps the process's umask or the one it inherited"
            );
        });
    }

    #[test]
    fn new_files_belong_to_the_caller_and_the_thread_gets_itself_back() {
        in_thread(|| {
            let me = Identity::of_this_process().unwrap();
            let dir = tempfile::tempdir().unwrap();
            let caller = Caller {
                uid: 61_001,
                gid: 61_002,
                pid: 0,
            };
            let made = me.create(&caller, (0o666, 0o022), || {
                let path = dir.path().join("a");
                std::fs::write(&path, b"")?;
                let m = std::fs::metadata(&path)?;
                Ok((m.uid(), m.gid()))
            });
            if !me.can_switch {
                assert_eq!(made.unwrap_err().errno(), libc::EPERM);
                return;
            }
            // The directory is root's, 0700: the right to write in it is the kernel's business, not ours.
            assert_eq!(made.unwrap(), (61_001, 61_002));
            std::fs::write(dir.path().join("b"), b"").unwrap();
            assert_eq!(std::fs::metadata(dir.path().join("b")).unwrap().uid(), me.uid);
        });
    }

    #[test]
    fn groups_are_those_of_the_process() {
        let mine: Vec<u32> = rustix::process::getgroups()
            .unwrap()
            .iter()
            .map(|g| g.as_raw())
            .collect();
        let mut read = groups_of(std::process::id());
        let mut expected = mine;
        read.sort_unstable();
        expected.sort_unstable();
        assert_eq!(read, expected);
        assert!(groups_of(u32::MAX).is_empty());
    }
}
