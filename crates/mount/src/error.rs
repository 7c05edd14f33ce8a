//! Why a mount did not come about: one line for people, and the exit code of mount(8) for programs.

use std::io;
use std::path::PathBuf;

/// The result of mounting.
pub type Result<T, E = MountError> = std::result::Result<T, E>;

/// Why a mount did not come about.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// Nobody knows this option.
    #[error("unknown option '{word}'; valid: {valid}")]
    UnknownOption {
        /// The word.
        word: String,
        /// All that would have been right.
        valid: String,
    },
    /// The option is known, its value is not.
    #[error("option {name}={value}: expected {expected}")]
    OptionValue {
        /// Name of the option.
        name: &'static str,
        /// What stood after it.
        value: String,
        /// What should have.
        expected: &'static str,
    },
    /// Two words that exclude one another, or something asked for that this build cannot do.
    #[error("{0}")]
    Usage(String),
    /// SOURCE cannot be used.
    #[error("{}: {reason}", .path.display())]
    Source {
        /// SOURCE as given.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// MOUNTPOINT cannot be used.
    #[error("{}: {reason}", .path.display())]
    MountPoint {
        /// MOUNTPOINT as given.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// There is no FUSE here.
    #[error(
        "/dev/fuse: {0}; is the fuse module loaded (modprobe fuse), the device passed into the container?"
    )]
    NoDevice(io::Error),
    /// A normal user needs the helper.
    #[error("fusermount3: {0}; install the package fuse3, or mount as root")]
    NoHelper(io::Error),
    /// The helper, or the kernel, does not let us.
    #[error("{0}")]
    NotPermitted(String),
    /// The kernel refused.
    #[error("{what}: {source}")]
    Kernel {
        /// What was tried.
        what: &'static str,
        /// Its answer.
        source: io::Error,
    },
    /// The daemon in the background gave this reason.
    #[error("{line}")]
    Daemon {
        /// Its last words.
        line: String,
        /// Its exit code.
        code: u8,
    },
    /// The engine or its store could not be opened.
    #[error(transparent)]
    Engine(#[from] vexfs_core::Error),
}

impl MountError {
    /// The exit code of mount(8): 1 wrong call or no permission, 2 the system lacks something, 32 the mount failed.
    pub fn exit_code(&self) -> u8 {
        match self {
            MountError::UnknownOption { .. }
            | MountError::OptionValue { .. }
            | MountError::Usage(_)
            | MountError::NotPermitted(_) => 1,
            MountError::NoDevice(_) | MountError::NoHelper(_) => 2,
            MountError::Daemon { code, .. } => *code,
            MountError::Source { .. }
            | MountError::MountPoint { .. }
            | MountError::Kernel { .. }
            | MountError::Engine(_) => 32,
        }
    }
}
