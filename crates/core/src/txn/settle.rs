//! The end of a commit, and what is found of one after a crash: the places of its steps, whether they have been carried
//! out, and that they are made durable and forgotten.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
#[cfg(debug_assertions)]
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, Mode, OFlags};

use super::step::Places;
use crate::Result;
use crate::fs::keep::Keeper;
use crate::store::Store;

/// Kind of the store's rows in which the steps of a commit stand until they are settled.
pub(super) const COMMIT: &str = "commit";

/// In a stage: the steps are done.
const APPLIED: &str = "applied";

/// See [`die_at_point`].
#[cfg(debug_assertions)]
const DIE_AT: &str = "VEXFS_DIE_AT";

/// In builds with assertions: dies as by kill -9 at the point of a commit whose number, from 0, stands in the
/// environment variable [`DIE_AT`], for tests of the whole program.
#[cfg(debug_assertions)]
pub(super) fn die_at_point() {
    static LEFT: std::sync::LazyLock<Option<AtomicU64>> = std::sync::LazyLock::new(|| {
        let number = std::env::var(DIE_AT).ok()?.parse().ok()?;
        Some(AtomicU64::new(number))
    });
    if let Some(left) = &*LEFT
        && left.fetch_sub(1, Ordering::Relaxed) == 0
    {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}

/// Bytes on disk of a staged file.
pub(super) fn staged_bytes(places: &Places, path: &Path) -> u64 {
    rustix::fs::statat(&places.stage, path, AtFlags::SYMLINK_NOFOLLOW)
        .map_or(0, |stat| stat.st_blocks as u64 * 512)
}

/// Notes in the stage that all steps are done, for a daemon that starts before the commit is settled: steps that are
/// repeated later could undo what users have done since. It counts until the machine starts anew, since it may reach
/// the disk before the steps do.
pub(super) fn mark_applied(stage: &Path) {
    if let Err(error) = boot().and_then(|boot| std::fs::write(stage.join(APPLIED), boot)) {
        tracing::debug!(%error, "a commit is not marked as applied");
    }
}

pub(super) fn is_applied(stage: &Path) -> bool {
    match (std::fs::read(stage.join(APPLIED)), boot()) {
        (Ok(marked), Ok(boot)) => marked == boot && !boot.is_empty(),
        _ => false,
    }
}

/// What tells one start of the machine from another.
fn boot() -> std::io::Result<Vec<u8>> {
    std::fs::read("/proc/sys/kernel/random/boot_id")
}

/// The steps are done: makes the tree durable, forgets the steps, removes the stage with all that was replaced.
///
/// What snapshots have of it goes to `keeper`.
pub(super) fn settle(store: &Store, tree: &OwnedFd, stage: &Path, keeper: Option<&Keeper>) -> Result<()> {
    if let Some(keeper) = keeper {
        keeper.take_from(open_dir(stage)?.as_fd())?;
    }
    rustix::fs::syncfs(tree)?;
    let name = stage.file_name().unwrap_or_default().as_bytes();
    store.write(|tx| tx.save(COMMIT, name, None))?;
    Ok(std::fs::remove_dir_all(stage)?)
}

pub(super) fn places(stage: &Path, tree: &OwnedFd) -> Result<Places> {
    Ok(Places {
        stage: open_dir(stage)?,
        tree: rustix::io::fcntl_dupfd_cloexec(tree.as_fd(), 0)?,
    })
}

pub(super) fn open_dir(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}
