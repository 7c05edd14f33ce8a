//! `vexfs umount`.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use vexfs_core::store::dir::{CTLNAME_DEFAULT, StoreDir};
use vexfs_mount::mountinfo::{self, MountEntry};
use vexfs_mount::{MountError, Result, unmounting};

use super::mounts::{Probe, State};

/// Unmount MOUNTPOINT and wait until its daemon has written everything
#[derive(Args, Debug)]
pub(super) struct UmountArgs {
    /// The mount point
    mountpoint: PathBuf,
    /// Take the mount away at once, even while files in it are open
    #[arg(short, long)]
    lazy: bool,
}

/// How long the daemon may take to write what it has and to end.
const DAEMON_END_MAX: Duration = Duration::from_secs(30);

pub(super) fn run(args: &UmountArgs) -> ExitCode {
    match umount(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vexfs: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn umount(args: &UmountArgs) -> Result<()> {
    let bad = |reason: String| MountError::MountPoint {
        path: args.mountpoint.clone(),
        reason,
    };
    let entry = find(&args.mountpoint).map_err(|e| bad(e.to_string()))?;
    let entry = entry.ok_or_else(|| bad("not a VexFS mount".into()))?;
    let probe = Probe::of(&entry);
    let daemon = probe.pid.or_else(|| holder_of_store(entry.source_path()));
    let unmounted = match args.lazy || probe.state == State::Dead {
        true => unmounting::unmount_lazily(&entry.mountpoint),
        false => unmounting::unmount_now(&entry.mountpoint),
    };
    unmounted.map_err(|e| match e.kind() {
        io::ErrorKind::ResourceBusy => {
            bad("busy: files in it are open; -l takes it away all the same".into())
        }
        io::ErrorKind::PermissionDenied => MountError::NotPermitted(e.to_string()),
        _ => bad(e.to_string()),
    })?;
    match daemon.or_else(|| holder_of_store(entry.source_path())) {
        // With files open the daemon lives on, that is what lazy means.
        Some(pid) if !args.lazy => wait_for_end(pid).map_err(bad),
        _ => Ok(()),
    }
}

/// Who has the store of SOURCE, if that is where stores are by default. A mount over SOURCE hides it until it is gone.
fn holder_of_store(source: &Path) -> Option<u32> {
    let store = StoreDir::open(source, None, CTLNAME_DEFAULT.as_ref()).ok()??;
    store.locked_by().ok()?
}

/// The mount of ours at this path, also if it is dead.
fn find(given: &Path) -> io::Result<Option<MountEntry>> {
    let full = match vexfs_mount::place::absolute_without_asking(given) {
        // The last component may be a symbolic link to the mount point.
        Ok(full) => std::fs::canonicalize(&full).unwrap_or(full),
        Err(e) => return Err(e),
    };
    Ok(mountinfo::topmost_at(&full)?.filter(MountEntry::is_vexfs))
}

/// Whether a process still does something: one that has ended and waits for its parent's attention does not.
fn is_running(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// A new mount of the same store can begin when the old daemon is gone.
fn wait_for_end(pid: u32) -> Result<(), String> {
    let until = Instant::now() + DAEMON_END_MAX;
    while is_running(pid) {
        if Instant::now() > until {
            return Err(format!(
                "unmounted, but the daemon (process {pid}) is still writing"
            ));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}
