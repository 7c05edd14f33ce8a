//! What is measured beside what.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use anyhow::Context;
use vexfs_core::engine::fault::SLOW_GETATTR;
use vexfs_mount::{mountinfo, unmounting};

use super::backing::run;

/// How long a system is left alone after mounting. A cold listing of 128 MiB takes 4 ms; the start of a daemon, its store
/// and its threads takes tens.
const SETTLING: Duration = Duration::from_millis(200);

/// A way to reach the backing directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum System {
    /// The backing directory itself.
    Bare,
    /// VexFS for its owner only.
    Vexfs,
    /// VexFS for all users: the kernel checks permissions.
    VexfsShared,
    /// VexFS as a normal user has it: every byte goes through the daemon.
    VexfsNoPassthrough,
    /// bindfs.
    Bindfs,
    /// mergerfs with one branch.
    Mergerfs,
}

/// The systems that can be measured here. Bare first: the others are compared with it.
pub(super) fn installed(quick: bool) -> Vec<System> {
    let mut systems = vec![System::Bare, System::Vexfs];
    if !quick {
        systems.extend([System::VexfsShared, System::VexfsNoPassthrough]);
    }
    for (peer, program) in [(System::Bindfs, "bindfs"), (System::Mergerfs, "mergerfs")] {
        if on_path(program) {
            systems.push(peer);
        }
    }
    systems
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

impl System {
    pub(super) fn name(self) -> &'static str {
        match self {
            System::Bare => "bare",
            System::Vexfs => "vexfs",
            System::VexfsShared => "vexfs-shared",
            System::VexfsNoPassthrough => "vexfs-nopass",
            System::Bindfs => "bindfs",
            System::Mergerfs => "mergerfs",
        }
    }

    /// The command that mounts it and returns when it is mounted.
    fn command(self, source: &Path, at: &Path) -> anyhow::Result<Option<Command>> {
        let vexfs = |options: &str| -> anyhow::Result<Command> {
            let mut command = Command::new(std::env::current_exe().context("finding this program")?);
            command
                .args(["mount", "-o", &format!("index=manual{options}")])
                .arg(source)
                .arg(at);
            Ok(command)
        };
        let peer = |program: &str| {
            let mut command = Command::new(program);
            command.arg(source).arg(at);
            command
        };
        Ok(match self {
            System::Bare => None,
            System::Vexfs => Some(vexfs("")?),
            System::VexfsShared => Some(vexfs(",allow_other")?),
            System::VexfsNoPassthrough => Some(vexfs(",passthrough=off")?),
            System::Bindfs => Some(peer("bindfs")),
            System::Mergerfs => Some(peer("mergerfs")),
        })
    }
}

/// A system at work on a backing directory; unmounted on drop.
pub(super) struct Mounted<'a> {
    system: System,
    source: &'a Path,
    at: PathBuf,
    slow_getattr: Option<u64>,
}

impl<'a> Mounted<'a> {
    /// Mounts; with `slow_getattr` every getattr sleeps so many microseconds.
    pub(super) fn mount(
        system: System,
        source: &'a Path,
        mountpoint: &Path,
        slow_getattr: Option<u64>,
    ) -> anyhow::Result<Mounted<'a>> {
        let at = if system == System::Bare {
            source
        } else {
            mountpoint
        };
        let mounted = Mounted {
            system,
            source,
            at: at.to_owned(),
            slow_getattr,
        };
        mounted.start()?;
        Ok(mounted)
    }

    /// Where its files are reached.
    pub(super) fn path(&self) -> &Path {
        &self.at
    }

    /// The process id of the daemon of a VexFS, from the lock in its store.
    pub(super) fn daemon(&self) -> anyhow::Result<u32> {
        let lock = std::fs::read_to_string(self.source.join(".vexfs/lock")).context("the store's lock")?;
        lock.trim().parse().context("the store's lock")
    }

    /// Mounts again: the kernel's caches of this mount are empty then, and so are the daemon's.
    pub(super) fn remount(&self) -> anyhow::Result<()> {
        self.stop().context("unmounting")?;
        self.start()
    }

    fn start(&self) -> anyhow::Result<()> {
        let Some(mut command) = self.system.command(self.source, &self.at)? else {
            return Ok(());
        };
        if let Some(microseconds) = self.slow_getattr {
            command.env(SLOW_GETATTR, microseconds.to_string());
        }
        run(&mut command)?;
        // What a daemon does when it starts, and the one before it when it ends, is not part of an operation.
        sleep(SETTLING);
        Ok(())
    }

    /// Unmounts and waits until another mount of the same directory can begin.
    fn stop(&self) -> anyhow::Result<()> {
        if self.system == System::Bare || mountinfo::topmost_at(&self.at)?.is_none() {
            return Ok(());
        }
        if matches!(self.system, System::Bindfs | System::Mergerfs) {
            unmounting::unmount_now(&self.at)?;
            sleep(Duration::from_millis(100));
            return Ok(());
        }
        run(Command::new(std::env::current_exe()?).arg("umount").arg(&self.at))
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        if self.stop().is_err() {
            // Nothing may stay mounted, whatever holds it.
            let _ = unmounting::unmount_lazily(&self.at);
        }
    }
}
