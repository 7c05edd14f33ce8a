//! What the filesystem tells the index about: which names and contents may have changed.
//!
//! An event never says what the change was. It names a place to look at again, and the backing tree, the truth,
//! is looked at then; so events may be merged, repeated and reordered.

use std::ffi::OsString;

use crate::ids::NodeKey;

/// A place to look at again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// A name in a directory was made, removed or replaced. A rename gives two: the new name first, so that the
    /// file is found moved before its old name is found missing.
    Name {
        /// The directory.
        parent: NodeKey,
        /// The name in it.
        name: OsString,
    },
    /// A file that was open for writing was released, and size, mtime or ctime differ from what was last seen.
    Content {
        /// The file.
        node: NodeKey,
    },
    /// Mode, owner or ACL changed.
    Attributes {
        /// The file or directory.
        node: NodeKey,
    },
    /// Events were lost: everything has to be looked at.
    Everything,
}

/// Where the filesystem sends its changes. Implementations never block and never fail: a full queue merges into
/// [`Change::Everything`].
pub trait ChangeSink: Send + Sync {
    /// The file is about to be open for writing; called before the reply. Survives the death of the daemon.
    fn maybe_changed(&self, node: NodeKey);
    /// Something changed.
    fn changed(&self, change: Change);
}
