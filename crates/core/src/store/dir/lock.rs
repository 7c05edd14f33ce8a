//! Who may use a store: one daemon at a time.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags, flock, openat};
use rustix::io::Errno;

use super::StoreDir;
use crate::error::{Error, Result};

/// Locked by the daemon while it lives; holds its process id.
const LOCK_FILE: &str = "lock";

/// How long a daemon that was killed may take to let go of its lock: the kernel first frees its memory.
const DYING_MAX: Duration = Duration::from_secs(5);

/// The right to be the only daemon on a store. The kernel takes it back when the process dies.
#[derive(Debug)]
pub struct StoreLock {
    _file: File,
}

impl StoreDir {
    /// Takes the lock that keeps a second daemon out.
    ///
    /// # Errors
    /// [`Error::StoreBusy`] with the process id of the daemon that has it.
    pub fn lock(&self) -> Result<StoreLock> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let mut file = File::from(openat(&self.dir, LOCK_FILE, flags, Mode::RUSR | Mode::WUSR)?);
        let until = Instant::now() + DYING_MAX;
        while let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
            if error != Errno::WOULDBLOCK {
                return Err(error.into());
            }
            let pid = read_pid(&mut file);
            if !pid.is_some_and(is_dying) || Instant::now() > until {
                return Err(Error::StoreBusy {
                    location: self.location.clone(),
                    pid,
                });
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())?;
        Ok(StoreLock { _file: file })
    }

    /// The process id of the daemon that has the lock, if one has.
    ///
    /// # Errors
    /// Those of the filesystem.
    pub fn locked_by(&self) -> Result<Option<u32>> {
        match self.lock_probe()? {
            Some(mut file) => Ok(read_pid(&mut file)),
            None => Ok(None),
        }
    }

    /// The lock file if another holds the lock.
    fn lock_probe(&self) -> Result<Option<File>> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = match openat(&self.dir, LOCK_FILE, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            other => File::from(other?),
        };
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Err(Errno::WOULDBLOCK) => Ok(Some(file)),
            Err(e) => Err(e.into()),
            Ok(()) => Ok(None),
        }
    }
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    let read = file
        .rewind()
        .and_then(|()| file.take(32).read_to_string(&mut text));
    read.ok().and_then(|_: usize| text.trim().parse().ok())
}

/// Whether a process is on its way out (`PF_EXITING` in proc_pid_stat(5)), or gone.
fn is_dying(pid: u32) -> bool {
    const PF_EXITING: u64 = 4;
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return true;
    };
    let flags = stat
        .rsplit_once(") ")
        .and_then(|(_, rest)| rest.split(' ').nth(6)?.parse::<u64>().ok());
    flags.is_some_and(|flags| flags & PF_EXITING != 0)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;
    use crate::store::dir::CTLNAME_DEFAULT;

    #[test]
    fn a_second_lock_names_the_first_daemon() -> Result<()> {
        let source = tempfile::tempdir()?;
        let open = || StoreDir::open_or_create(source.path(), None, OsStr::new(CTLNAME_DEFAULT));
        let first = open()?;
        let second = open()?;
        assert_eq!(second.locked_by()?, None);
        let lock = first.lock()?;
        match second.lock() {
            Err(Error::StoreBusy { pid, .. }) => assert_eq!(pid, Some(std::process::id())),
            other => panic!("expected StoreBusy, got {other:?}"),
        }
        assert_eq!(second.locked_by()?, Some(std::process::id()));
        drop(lock);
        second.lock()?;
        Ok(())
    }
}
