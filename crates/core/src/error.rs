//! What can go wrong, named by meaning, and the one table that turns it into an errno.

use std::io;
use std::path::PathBuf;

/// The result of the engine's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the engine.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The backing filesystem said so; its errno reaches the caller untouched.
    #[error("{}", io::Error::from_raw_os_error(*.0))]
    Os(i32),
    /// No such file, query, transaction or attribute value.
    #[error("{0} does not exist")]
    NotFound(String),
    /// The attribute is not set (ENODATA).
    #[error("no such attribute")]
    NoAttribute,
    /// The name is taken.
    #[error("{0} exists already")]
    Exists(String),
    /// An argument is malformed: what, where, what was expected.
    #[error("{0}")]
    Invalid(String),
    /// A query is malformed, at this byte of it.
    #[error("query, byte {at}: {what}, expected {expected}")]
    Query {
        /// Byte offset in the query.
        at: usize,
        /// What was found.
        what: String,
        /// What would have been right.
        expected: String,
    },
    /// The control directory does not offer this operation on this node.
    #[error("operation not permitted on {0}")]
    NotPermitted(&'static str),
    /// The relation follows from the contents of files and cannot be taken away from them.
    #[error("the relation {kind} -> {to} is derived: it goes when the text goes that it follows from")]
    Derived {
        /// Its type.
        kind: String,
        /// Where it leads.
        to: String,
    },
    /// A rule keeps the file out of the catalog, so nothing can be told about it.
    #[error("{0} is kept out of the catalog: nothing can be told about it")]
    Excluded(String),
    /// The control directory's node cannot be changed.
    #[error("read-only")]
    ReadOnly,
    /// The caller may not do this.
    #[error("permission denied")]
    Denied,
    /// A transaction lost against an earlier committer.
    #[error("conflict: {0}")]
    Conflict(String),
    /// The answer is not fresh, and the caller asked for a fresh one.
    #[error("not fresh: {pending} files pending")]
    NotFresh {
        /// Files not yet indexed.
        pending: u64,
    },
    /// Bytes on disk that are not what was written: what, and where.
    #[error("{what} is corrupt at {at}")]
    Corrupt {
        /// The file or table.
        what: String,
        /// The place in it.
        at: String,
    },
    /// Something that is not our store has the store's name.
    #[error("{}: {why}; choose another name with -o ctlname=NAME or another place with -o store=PATH", .location.display())]
    ForeignStore {
        /// What was found.
        location: PathBuf,
        /// Why it is not ours.
        why: String,
    },
    /// Another daemon works on the store.
    #[error("{} is in use by process {}", .location.display(), .pid.map_or("unknown".to_owned(), |p| p.to_string()))]
    StoreBusy {
        /// The store directory.
        location: PathBuf,
        /// The other daemon, if it told its number.
        pid: Option<u32>,
    },
    /// After a failed sync nothing is written any more.
    #[error("the store stopped writing after a failed sync")]
    Stopped,
    /// The store failed.
    #[error("store: {0}")]
    Store(#[from] rusqlite::Error),
    /// The lexical index failed.
    #[error("lexical index: {0}")]
    Lexical(#[from] tantivy::TantivyError),
    /// An embedder could not be reached, or answers what is not expected.
    #[error("{0}")]
    Embedder(String),
    /// The vector index failed.
    #[error("vector index: {0}")]
    Vector(String),
    /// An input or output operation of our own (store, index files) failed.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl Error {
    /// The errno that a system call gets for it.
    pub fn errno(&self) -> i32 {
        match self {
            Error::Os(errno) => *errno,
            Error::NotFound(_) => libc::ENOENT,
            Error::NoAttribute => libc::ENODATA,
            Error::Exists(_) => libc::EEXIST,
            Error::Invalid(_) | Error::Query { .. } | Error::Excluded(_) => libc::EINVAL,
            Error::NotPermitted(_) | Error::Derived { .. } => libc::EPERM,
            Error::ReadOnly | Error::Stopped => libc::EROFS,
            Error::Denied => libc::EACCES,
            Error::Conflict(_) => libc::ECANCELED,
            Error::ForeignStore { .. } => libc::EEXIST,
            Error::StoreBusy { .. } => libc::EBUSY,
            Error::NotFresh { .. } => libc::EAGAIN,
            Error::Corrupt { .. } | Error::Lexical(_) | Error::Vector(_) | Error::Embedder(_) => libc::EIO,
            Error::Store(e) => match e.sqlite_error_code() {
                Some(rusqlite::ErrorCode::DiskFull) => libc::ENOSPC,
                _ => libc::EIO,
            },
            Error::Io(e) => e.raw_os_error().unwrap_or(libc::EIO),
        }
    }
}

impl From<rustix::io::Errno> for Error {
    fn from(e: rustix::io::Errno) -> Error {
        Error::Os(e.raw_os_error())
    }
}
