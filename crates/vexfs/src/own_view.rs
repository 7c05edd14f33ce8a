//! A view of the mounts in which SOURCE stays uncovered, for a mount over SOURCE itself.
//!
//! Libraries that keep the store (the database, the lexical index) resolve its path to the last component and open
//! files by it later. Once our mount lies over SOURCE such a path leads into the mount: to the control directory, and
//! to a daemon that waits for itself. So a thread takes a mount namespace of its own before anything is opened, and
//! every thread that it starts is in it. The mount itself is made by the main thread, where everybody sees it.

use std::io;
use std::path::Path;
use std::sync::mpsc;
use std::thread;

use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use vexfs_mount::mounting::{self, Mounted};
use vexfs_mount::options::MountOptions;
use vexfs_mount::place::Place;
use vexfs_mount::{MountError, Result, mountinfo};

/// Runs `start` in a view of its own, and mounts for it, here, when it asks. After an error nothing is mounted.
///
/// # Errors
/// What kept `start` or the mount from succeeding.
pub(crate) fn start_in_own_view<T: Send>(
    place: &Place,
    options: &MountOptions,
    start: impl FnOnce(&mut dyn FnMut() -> Result<Mounted>) -> Result<T> + Send,
) -> Result<T> {
    let (ask, asked) = mpsc::channel();
    let (answer, answered) = mpsc::channel();
    thread::scope(|scope| {
        let starter = scope.spawn(move || {
            take_own_view(&place.source).map_err(|source| MountError::Kernel {
                what: "a mount namespace for a mount over SOURCE",
                source,
            })?;
            start(&mut || {
                ask.send(()).expect("the main thread waits");
                answered.recv().expect("the main thread answers")
            })
        });
        let mut mount = None;
        // The channel closes when `start` returns, whether it asked or not.
        while asked.recv().is_ok() {
            let mounted = mounting::mount(place, options);
            mount = mounted.as_ref().ok().map(|mounted| mounted.mount.clone());
            answer.send(mounted).expect("the starter waits");
        }
        let outcome = starter.join().expect("starting does not panic");
        if let (Err(_), Some(mount)) = (&outcome, mount) {
            // The thread that failed could not: it does not see the mount.
            if let Err(e) = mount.unmount() {
                tracing::warn!("cannot unmount: {e}");
            }
        }
        outcome
    })
}

/// This thread, and those that it starts, no longer see what is mounted over SOURCE from now on. Mounts elsewhere come
/// and go for them as for everybody.
fn take_own_view(source: &Path) -> io::Result<()> {
    let below = mountinfo::containing(source)?;
    // SAFETY: the descriptor table stays shared; only the view of the mounts, and with it the working directory,
    // becomes this thread's own.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    mount_change(
        "/",
        MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
    )?;
    if let Some(below) = below {
        mount_change(&below.mountpoint, MountPropagationFlags::PRIVATE)?;
    }
    Ok(())
}
