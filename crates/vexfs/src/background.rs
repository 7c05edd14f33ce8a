//! Running the daemon in the background. The command returns when the mount is usable, or with the reason why not.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use vexfs_mount::{MountError, Result};

/// Tells whoever waits for the mount that it is usable.
#[derive(Debug)]
pub(crate) struct Ready {
    to_command: Option<File>,
}

impl Ready {
    /// The daemon is in the foreground.
    pub(crate) fn nobody_waits() -> Ready {
        Ready { to_command: None }
    }

    /// The mount is usable: the command may return, and the daemon lets go of its terminal and directory.
    pub(crate) fn tell(self) -> io::Result<()> {
        let Some(mut to_command) = self.to_command else {
            return Ok(());
        };
        std::env::set_current_dir("/")?;
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        for standard in [libc::STDIN_FILENO, libc::STDOUT_FILENO, libc::STDERR_FILENO] {
            // SAFETY: both are descriptors of this process; the standard ones are owned by nobody in particular.
            if unsafe { libc::dup2(null.as_raw_fd(), standard) } == -1 {
                return Err(io::Error::last_os_error());
            }
        }
        to_command.write_all(&[0])
    }
}

/// Splits the process: the command waits, the daemon runs `daemon` in a session of its own.
///
/// # Errors
/// In the command, what kept the daemon from becoming ready. In the daemon this does not return.
pub(crate) fn run(daemon: impl FnOnce(Ready) -> Result<()>) -> Result<()> {
    let kernel = |what| move |e: io::Error| MountError::Kernel { what, source: e };
    let (from_daemon, to_command) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| kernel("pipe")(e.into()))?;
    let to_command_again = to_command.try_clone().map_err(kernel("dup"))?;
    // SAFETY: nothing has started a thread in this process yet, so the child has all that it needs: no lock can be
    // held by a thread that does not exist there.
    match unsafe { libc::fork() } {
        -1 => Err(kernel("fork")(io::Error::last_os_error())),
        0 => {
            drop(from_daemon);
            let ready = Ready {
                to_command: Some(File::from(to_command)),
            };
            std::process::exit(i32::from(be_daemon(daemon, ready, to_command_again)))
        }
        _ => {
            drop((to_command, to_command_again));
            wait_for(from_daemon)
        }
    }
}

/// The daemon's life. Gives its exit code.
fn be_daemon(daemon: impl FnOnce(Ready) -> Result<()>, ready: Ready, to_command: OwnedFd) -> u8 {
    // Fails only for a leader of a session, which a child just made is not.
    let _ = rustix::process::setsid();
    match daemon(ready) {
        Ok(()) => 0,
        Err(error) => {
            tracing::error!("{error}");
            let code = error.exit_code();
            let mut message = vec![code];
            message.extend(error.to_string().into_bytes());
            // After it was ready nobody listens any more; the log has the line.
            let _ = File::from(to_command).write_all(&message);
            code
        }
    }
}

/// What the daemon says first: a zero when it is ready, or an exit code and a line.
fn wait_for(from_daemon: OwnedFd) -> Result<()> {
    let mut from_daemon = File::from(from_daemon);
    let mut code = [0];
    match from_daemon.read(&mut code) {
        Ok(1) if code == [0] => Ok(()),
        Ok(1) => {
            let mut line = String::new();
            // A line cut short is better than none.
            let _ = from_daemon.read_to_string(&mut line);
            Err(MountError::Daemon { line, code: code[0] })
        }
        Ok(_) => Err(MountError::Daemon {
            line: "the daemon died before the mount was ready".into(),
            code: 32,
        }),
        Err(source) => Err(MountError::Kernel {
            what: "waiting for the daemon",
            source,
        }),
    }
}
