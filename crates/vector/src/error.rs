//! What can go wrong with a database of vectors, named by meaning.

use std::io;
use std::path::Path;

/// The result of this crate's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the vector database. Unless its text says otherwise, an operation that returns one has changed
/// nothing, and the database stays usable.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No space has this name.
    #[error("there is no space named {0:?}")]
    UnknownSpace(String),
    /// A space has this name already.
    #[error("a space named {0:?} exists already")]
    SpaceExists(String),
    /// The space was dropped while the caller still held it.
    #[error("the space was dropped")]
    Dropped,
    /// Not a name for a space.
    #[error("{0:?} cannot name a space: 1 to 255 bytes, no control characters")]
    BadName(String),
    /// A dimension outside 1..=16384, or another impossible setting.
    #[error("{0}")]
    BadConfig(String),
    /// A vector has the wrong number of components.
    #[error("a vector of {found} components where the space has {expected}")]
    WrongDimension {
        /// The dimension of the space.
        expected: usize,
        /// What the caller gave.
        found: usize,
    },
    /// A component is NaN or infinite.
    #[error("component {component} is not a finite number")]
    NotFinite {
        /// Index of the first such component.
        component: usize,
    },
    /// A component is finite, but too large for the element type in which the space stores it.
    #[error("component {component} is too large for the stored element type")]
    TooLarge {
        /// Index of the first such component.
        component: usize,
    },
    /// A batch of more than 1 GiB, which no journal record can hold.
    #[error("a batch of {bytes} bytes, where {limit} fit into one commit")]
    BatchTooLarge {
        /// The size of the batch in the journal.
        bytes: u64,
        /// The largest possible.
        limit: u64,
    },
    /// Search parameters that contradict each other or lie outside their range.
    #[error("{0}")]
    BadQuery(String),
    /// Bytes on disk are not what was written.
    #[error("{file} is corrupt: {what}")]
    Corrupt {
        /// The file, relative to the database.
        file: String,
        /// What is wrong with it, and where.
        what: String,
    },
    /// A file was written by a newer version of this crate.
    #[error("{file} has format version {found}, this program reads up to {supported}")]
    Version {
        /// The file, relative to the database.
        file: String,
        /// Its version.
        found: u32,
        /// The newest version that this program reads.
        supported: u32,
    },
    /// No room on the device. Nothing of the commit is visible; the next one may succeed.
    #[error("no space left on the device ({0})")]
    Full(String),
    /// A sync failed earlier, so nothing is written until the database is opened again. Reads go on. Whether the
    /// commit that met the failure is there after reopening is not known.
    #[error("writing stopped after a failed sync; reopen the database")]
    Stopped,
    /// Another process has the database open.
    #[error("{0} is in use by another process")]
    Locked(String),
    /// A file to import is malformed.
    #[error("{format}, {at}: {what}")]
    BadInput {
        /// The format that was expected.
        format: &'static str,
        /// Where: a byte offset, a row or a line.
        at: String,
        /// What is wrong there.
        what: String,
    },
    /// The progress callback asked to stop.
    #[error("cancelled")]
    Cancelled,
    /// An input or output operation failed.
    #[error("{what}: {source}")]
    Io {
        /// The operation and the file.
        what: String,
        /// The system's reason.
        source: io::Error,
    },
}

impl Error {
    /// An input or output error with the operation and the file that met it; a full disk gets its own variant.
    pub(crate) fn io(doing: &str, path: &Path, source: io::Error) -> Error {
        let what = format!("{doing} {}", path.display());
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::Full(what),
            _ => Error::Io { what, source },
        }
    }

    /// Corrupt bytes in `file`.
    pub(crate) fn corrupt(file: &Path, what: impl Into<String>) -> Error {
        Error::Corrupt {
            file: file.display().to_string(),
            what: what.into(),
        }
    }

    /// The same error for another member of a group of commits that failed together.
    pub(crate) fn again(&self) -> Error {
        match self {
            Error::Full(what) => Error::Full(what.clone()),
            Error::Io { what, source } => {
                let source = source
                    .raw_os_error()
                    .map_or_else(|| source.kind().into(), io::Error::from_raw_os_error);
                Error::Io {
                    what: what.clone(),
                    source,
                }
            }
            _ => Error::Stopped,
        }
    }
}
