//! A filesystem served by threads of this process, for what only the inside of a daemon can see.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::Context;
use vexfs_mount::options::MountOptions;
use vexfs_mount::place::Place;
use vexfs_mount::session::Session;
use vexfs_mount::{Filesystem, mounting};

use super::{Result, Unavailable};

/// Whether this machine can mount at all.
///
/// # Errors
/// [`Unavailable`], with what opening the device of FUSE says.
pub(super) fn available() -> Result<(), Unavailable> {
    let device = File::options().read(true).write(true).open("/dev/fuse");
    match device {
        Ok(_) => Ok(()),
        Err(error) => Err(Unavailable(format!(
            "nothing can be mounted here: /dev/fuse: {error}"
        ))),
    }
}

/// How long the session may take to end. Its threads are left alone then: waiting for ever would hang the benchmark.
const ENDS_WITHIN: Duration = Duration::from_secs(10);

/// Mounts what `filesystem` makes for a place, runs `work` on the mount, and unmounts, whatever came of it.
pub(super) fn served<F: Filesystem + Send + Sync + 'static, T>(
    (source, mountpoint): (&Path, &Path),
    options: &MountOptions,
    filesystem: impl FnOnce(&Place) -> vexfs_mount::Result<F>,
    work: impl FnOnce() -> io::Result<T>,
) -> Result<T> {
    available()?;
    let place = Place::find(source, mountpoint)?;
    let filesystem = filesystem(&place)?;
    let mounted = mounting::mount(&place, options)?;
    let mount = mounted.mount.clone();
    let (tell, ended) = mpsc::channel();
    let session = Session::start(filesystem, mounted, options, move |outcome| {
        // The receiver lives until the end was told.
        let _ = tell.send(outcome);
    })?;
    let outcome = work();
    mount.unmount().context("unmounting")?;
    if ended.recv_timeout(ENDS_WITHIN).is_ok() {
        session.join();
    }
    Ok(outcome?)
}
