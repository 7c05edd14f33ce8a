//! Why a command ends, and with which exit code (INTERFACE, section 7).

use std::io;
use std::path::Path;
use std::process::ExitCode;

/// No hits.
pub(crate) const NO_HITS: u8 = 1;
/// Usage or error.
pub(crate) const ERROR: u8 = 2;
/// Not fresh under `--require-fresh`.
pub(crate) const NOT_FRESH: u8 = 3;
/// No daemon, or not a path of ours.
pub(crate) const NO_DAEMON: u8 = 4;
/// Not permitted.
pub(crate) const PERMISSION: u8 = 5;
/// A conflict.
pub(crate) const CONFLICT: u8 = 6;

/// The end of a command: one line, and an exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn usage(message: String) -> Failure {
        Failure { code: ERROR, message }
    }

    pub(crate) fn no_daemon(message: String) -> Failure {
        Failure {
            code: NO_DAEMON,
            message,
        }
    }

    pub(crate) fn from_errno(errno: i32, message: &str) -> Failure {
        let code = match errno {
            libc::EACCES | libc::EPERM => PERMISSION,
            libc::EAGAIN => NOT_FRESH,
            libc::ECANCELED => CONFLICT,
            _ => ERROR,
        };
        Failure {
            code,
            message: message.to_owned(),
        }
    }

    pub(crate) fn from_io(error: &io::Error, path: &Path) -> Failure {
        let message = format!("{}: {error}", path.display());
        Failure::from_errno(error.raw_os_error().unwrap_or(0), &message)
    }

    /// Prints the line and gives the code. A closed pipe is not worth a word.
    pub(crate) fn report(self) -> ExitCode {
        if !self.message.is_empty() {
            eprintln!("vexfs: {}", self.message);
        }
        ExitCode::from(self.code)
    }
}

impl From<vexfs_core::Error> for Failure {
    fn from(error: vexfs_core::Error) -> Failure {
        Failure::from_errno(error.errno(), &error.to_string())
    }
}

impl From<io::Error> for Failure {
    /// A reader that went away ends the command in silence, as grep does.
    fn from(error: io::Error) -> Failure {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Failure {
                code: 0,
                message: String::new(),
            };
        }
        Failure::from_errno(error.raw_os_error().unwrap_or(0), &error.to_string())
    }
}
