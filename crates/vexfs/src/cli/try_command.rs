//! `vexfs try`: a command in a transaction, at the paths where it always works.
//!
//! The command gets a mount namespace of its own in which the transaction's tree is bound over the mount, so that
//! absolute paths lead into the transaction as well. Without the right to make one, a user namespace gives it.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use clap::Args;
use rustix::mount::{MountPropagationFlags, mount_bind_recursive, mount_change};
use rustix::thread::UnshareFlags;

use super::failure::Failure;
use super::txn::{InMount, commit, print_diff};

/// Run a command in a transaction, show what it changed, and commit or give it up
#[derive(Args, Debug)]
pub(super) struct TryArgs {
    /// Commit when the command succeeds
    #[arg(short = 'y', long)]
    yes: bool,
    /// Keep the transaction open when the command fails or -y is not given
    #[arg(short, long)]
    keep: bool,
    #[command(flatten)]
    at: InMount,
    /// The command and its arguments
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

pub(super) fn run(args: &TryArgs) -> Result<u8, Failure> {
    let desk = args.at.desk()?;
    let name = format!("try-{}", std::process::id());
    let tree = desk.begin(&name)?;
    let status = match run_in(&desk.root, &tree, &args.command) {
        Ok(status) => status,
        Err(error) => {
            desk.abort(&name)?;
            return Err(Failure::from_io(&error, Path::new(&args.command[0])));
        }
    };
    print_diff(&desk, &name)?;
    let code = exit_code(status);
    match (status.success() && args.yes, args.keep) {
        (true, _) => commit(&desk, &name),
        (false, true) => {
            eprintln!("vexfs: kept as {name}: vexfs txn commit {name}, or vexfs txn abort {name}");
            Ok(code)
        }
        (false, false) => {
            desk.abort(&name)?;
            Ok(code)
        }
    }
}

/// Runs the command in the present directory, seen through `tree` in place of `root`.
fn run_in(root: &Path, tree: &Path, command: &[OsString]) -> io::Result<ExitStatus> {
    let here: PathBuf = std::env::current_dir()?;
    let (root, tree) = (root.to_owned(), tree.to_owned());
    let mut child = Command::new(&command[0]);
    child.args(&command[1..]);
    // SAFETY: between fork and exec only system calls are made, and paths are read that were made before.
    unsafe {
        child.pre_exec(move || {
            own_namespace()?;
            mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
            mount_bind_recursive(&tree, &root)?;
            // The directory that one stands in is still the one below the new mount.
            std::env::set_current_dir(&here)
        });
    }
    child.status()
}

/// A mount namespace, within a user namespace if it takes one. There one is root, and files still belong to oneself.
fn own_namespace() -> io::Result<()> {
    // SAFETY: the child of fork has one thread, and none of its memory or descriptors is shared.
    match unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) } {
        Ok(()) => return Ok(()),
        Err(rustix::io::Errno::PERM) => {}
        Err(e) => return Err(e.into()),
    }
    let (uid, gid) = (rustix::process::getuid(), rustix::process::getgid());
    // SAFETY: as above.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER | UnshareFlags::NEWNS) }?;
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("{0} {0} 1", uid.as_raw()))?;
    std::fs::write("/proc/self/gid_map", format!("{0} {0} 1", gid.as_raw()))
}

/// As a shell has it: a signal is 128 more.
fn exit_code(status: ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => code as u8,
        (None, Some(signal)) => 128u8.wrapping_add(signal as u8),
        (None, None) => 1,
    }
}
