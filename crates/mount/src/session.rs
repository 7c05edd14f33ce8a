//! A session: the threads that read the kernel's requests from the device until the mount is gone.

use std::io;
use std::num::NonZeroUsize;
use std::thread::{self, JoinHandle};

use fuser::{Config, Filesystem, Notifier, SessionACL};

use crate::error::{MountError, Result};
use crate::mounting::{Mount, Mounted};
use crate::options::MountOptions;

/// A filesystem that is mounted and answers.
#[derive(Debug)]
pub struct Session {
    mount: Mount,
    notifier: Notifier,
    thread: JoinHandle<()>,
}

impl Session {
    /// Greets the kernel (INIT) and starts the threads. When this returns the mount is usable.
    ///
    /// `ended` is called once, from the last of the threads, when the mount was taken away or the session failed.
    ///
    /// # Errors
    /// The mount is taken away again.
    pub fn start<F, E>(filesystem: F, mounted: Mounted, options: &MountOptions, ended: E) -> Result<Session>
    where
        F: Filesystem + 'static,
        E: FnOnce(io::Result<()>) + Send + 'static,
    {
        let Mounted { device, mount } = mounted;
        let acl = if options.allow_other {
            SessionACL::All
        } else {
            SessionACL::Owner
        };
        let mut config = Config::default();
        config.acl = acl;
        config.n_threads = Some(threads(options));
        config.clone_fd = device_can_be_cloned();
        // `from_fd` never unmounts, whatever happens to the session.
        let session = fuser::Session::from_fd(filesystem, device, acl, config).map_err(|source| {
            give_up(
                &mount,
                MountError::Kernel {
                    what: "FUSE handshake",
                    source,
                },
            )
        })?;
        let notifier = session.notifier();
        let served = mount.clone();
        let thread = thread::Builder::new()
            .name("session".into())
            .spawn(move || {
                // Inherited by the threads that answer.
                let outcome = vexfs_core::fs::give_up_keeping_set_id()
                    .map_err(|e| io::Error::from_raw_os_error(e.errno()))
                    .and_then(|()| session.run())
                    .or_else(end_is_no_error);
                served.set_ended();
                ended(outcome);
            })
            .map_err(|source| {
                give_up(
                    &mount,
                    MountError::Kernel {
                        what: "starting a thread",
                        source,
                    },
                )
            })?;
        Ok(Session {
            mount,
            notifier,
            thread,
        })
    }

    /// Tells the kernel what to forget.
    pub fn notifier(&self) -> Notifier {
        self.notifier.clone()
    }

    /// The mount that is served.
    pub fn mount(&self) -> &Mount {
        &self.mount
    }

    /// Waits for the threads after `ended` was called.
    pub fn join(self) {
        // A panic in a session thread was reported by `ended` already.
        let _ = self.thread.join();
    }
}

/// Takes the mount away after a failed start.
fn give_up(mount: &Mount, error: MountError) -> MountError {
    if let Err(e) = mount.unmount() {
        tracing::warn!(mountpoint = %mount.mountpoint().display(), "cannot unmount: {e}");
    }
    error
}

/// One thread per CPU: more never helped in measurements, fewer leave a CPU idle.
fn threads(options: &MountOptions) -> usize {
    let cpus = thread::available_parallelism();
    options.threads.or(cpus.ok()).map_or(1, NonZeroUsize::get)
}

/// Each thread gets a device of its own if it may open one; a normal user may not where /dev/fuse is root's.
fn device_can_be_cloned() -> bool {
    std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .is_ok()
}

/// An aborted connection is an end like any other: somebody forced the mount away.
fn end_is_no_error(error: io::Error) -> io::Result<()> {
    match error.raw_os_error() {
        Some(libc::ECONNABORTED | libc::ENODEV) => Ok(()),
        _ => Err(error),
    }
}
