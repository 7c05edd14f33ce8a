//! Mounts come and go: served, taken away from inside and from outside, left dead and removed. The filesystem behind
//! them is an empty directory, so that nothing but mounting can fail. Where FUSE or root is missing the tests say so
//! and pass.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, SystemTime};

use fuser::{Errno, FileAttr, FileHandle, FileType, Filesystem, INodeNo, ReplyAttr, ReplyEntry, Request};
use vexfs_mount::mounting;
use vexfs_mount::options::MountOptions;
use vexfs_mount::place::Place;
use vexfs_mount::session::Session;
use vexfs_mount::{MountError, Result, mountinfo, unmounting};

/// Longer than any of these steps takes on a busy machine.
const STEP_MAX: Duration = Duration::from_secs(20);

/// Whether mounts can be tried here. A container's root may have the device and still not the right to mount.
fn can_mount() -> bool {
    let device = fs::OpenOptions::new().read(true).write(true).open("/dev/fuse");
    let can = device.is_ok()
        && Command::new("unshare")
            .args(["-m", "true"])
            .status()
            .is_ok_and(|s| s.success());
    if !can {
        eprintln!("skipped: needs /dev/fuse and the right to mount");
    }
    can
}

/// A root directory with nothing in it.
struct EmptyRoot;

impl Filesystem for EmptyRoot {
    fn lookup(&self, _: &Request, _: INodeNo, _: &std::ffi::OsStr, reply: ReplyEntry) {
        reply.error(Errno::ENOENT);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1234);
        let attr = FileAttr {
            ino,
            size: 0,
            blocks: 0,
            atime: then,
            mtime: then,
            ctime: then,
            crtime: then,
            kind: FileType::Directory,
            perm: 0o755,
            nlink: 2,
            uid: rustix::process::geteuid().as_raw(),
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        };
        reply.attr(&Duration::from_secs(60), &attr);
    }
}

/// A served mount at a temporary directory, and the end of its session.
struct Served {
    session: Option<Session>,
    ended: Receiver<io::Result<()>>,
    dir: tempfile::TempDir,
}

impl Served {
    /// `None` where nothing can be mounted at all.
    fn start(options: &str) -> Result<Option<Served>> {
        if !can_mount() {
            return Ok(None);
        }
        let dir = tempfile::tempdir().expect("a temporary directory");
        let served = Served::start_at(dir.path(), dir.path(), options)?;
        Ok(Some(Served {
            session: Some(served.0),
            ended: served.1,
            dir,
        }))
    }

    fn start_at(source: &Path, at: &Path, options: &str) -> Result<(Session, Receiver<io::Result<()>>)> {
        let options = MountOptions::parse([options.as_ref()])?;
        let mounted = mounting::mount(&Place::find(source, at)?, &options)?;
        let (tell, ended) = mpsc::channel();
        let session = Session::start(EmptyRoot, mounted, &options, move |outcome| {
            tell.send(outcome).expect("the test waits");
        })?;
        Ok((session, ended))
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn assert_ends_cleanly(&mut self) {
        let outcome = self
            .ended
            .recv_timeout(STEP_MAX)
            .expect("the session ends in time");
        outcome.expect("the end is clean");
        self.session.take().expect("ends once").join();
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            session.mount().unmount().expect("unmount");
        }
    }
}

#[test]
fn a_mount_over_source_is_served_and_taken_away_by_us() -> Result<()> {
    let Some(mut served) = Served::start("fsname=with\\,comma and space")? else {
        return Ok(());
    };
    assert_eq!(fs::metadata(served.path()).expect("served").mtime(), 1234);
    let entry = mountinfo::topmost_at(served.path())
        .expect("/proc")
        .expect("listed");
    assert_eq!(entry.source, "with,comma and space");
    assert!(
        entry.options.contains("nosuid") && entry.options.contains("nodev"),
        "{}",
        entry.options
    );
    served
        .session
        .as_ref()
        .expect("serving")
        .mount()
        .unmount()
        .expect("unmount");
    served.assert_ends_cleanly();
    assert_ne!(fs::metadata(served.path()).expect("below").mtime(), 1234);
    Ok(())
}

#[test]
fn an_unmount_from_outside_ends_the_session_and_touches_nothing_below() -> Result<()> {
    let Some(mut served) = Served::start("")? else {
        return Ok(());
    };
    unmounting::unmount_now(served.path()).expect("unmount from outside");
    let mount = served.session.as_ref().expect("serving").mount().clone();
    served.assert_ends_cleanly();
    let (above, above_ended) = Served::start_at(served.path(), served.path(), "")?;
    mount.unmount().expect("is gone already");
    assert!(
        above.mount().is_mounted().expect("/proc"),
        "the mount of somebody else stays"
    );
    above.mount().unmount().expect("unmount");
    above_ended
        .recv_timeout(STEP_MAX)
        .expect("ends")
        .expect("cleanly");
    Ok(())
}

#[test]
fn a_busy_mount_is_taken_away_lazily() -> Result<()> {
    let Some(mut served) = Served::start("")? else {
        return Ok(());
    };
    let open = fs::File::open(served.path()).expect("open the root");
    let error = unmounting::unmount_now(served.path()).expect_err("busy");
    assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
    served
        .session
        .as_ref()
        .expect("serving")
        .mount()
        .unmount()
        .expect("lazily");
    assert!(mountinfo::topmost_at(served.path()).expect("/proc").is_none());
    assert_eq!(open.metadata().expect("open files still work").mtime(), 1234);
    drop(open);
    served.assert_ends_cleanly();
    Ok(())
}

#[test]
fn a_dead_mount_of_ours_is_removed_by_the_next_one() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let options = MountOptions::default();
    let mounted = mounting::mount(&Place::find(dir.path(), dir.path())?, &options)?;
    // What the kernel does for a killed daemon: its device is closed.
    drop(mounted.device);
    let error = fs::metadata(dir.path()).expect_err("dead");
    assert_eq!(error.raw_os_error(), Some(libc::ENOTCONN));
    let place = Place::find(dir.path(), dir.path())?;
    assert!(mountinfo::topmost_at(&place.mountpoint).expect("/proc").is_none());
    Ok(())
}

#[test]
fn a_source_inside_a_dead_mount_is_an_error_and_not_a_hang() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let (dead, at) = (
        tempfile::tempdir().expect("dir"),
        tempfile::tempdir().expect("dir"),
    );
    let mounted = mounting::mount(&Place::find(dead.path(), dead.path())?, &MountOptions::default())?;
    drop(mounted.device);
    let refused = Place::find(dead.path(), at.path());
    mounted.mount.unmount().expect("unmount");
    assert!(matches!(refused, Err(MountError::Source { .. })), "{refused:?}");
    Ok(())
}
