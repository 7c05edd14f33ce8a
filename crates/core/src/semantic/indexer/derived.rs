//! What the indexer needs of the two derived indexes.
//!
//! Each remembers with every commit a *tag*, a number that grows. The store's commit that follows names the tags; when
//! the tags differ at the next start, something happened in between, and the rows tell what to do about it
//! (see [`super::recover`]).

use crate::error::Result;
use crate::ids::{FileId, Generation, PassageId};
use crate::semantic::lexical::{Entry, LexicalIndex};

/// The vectors of passages.
pub trait Vectors: Send + Sync {
    /// Commits the changes of several files durably, all or nothing.
    fn apply(&self, changes: &[&VectorChanges], tag: u64) -> Result<()>;
    /// The tag of the last commit, 0 before the first.
    fn tag(&self) -> u64;
    /// Removes everything, durably, and remembers the tag.
    fn clear(&self, tag: u64) -> Result<()>;
}

/// Changes of vectors. Removals happen first.
#[derive(Clone, Debug, Default)]
pub struct VectorChanges {
    /// Files whose vectors go, all of them.
    pub files: Vec<FileId>,
    /// Passages whose vectors go.
    pub passages: Vec<PassageId>,
    /// Passages that get a vector.
    pub upserts: Vec<PassageId>,
    /// Their vectors, one after another.
    pub values: Vec<f32>,
}

impl VectorChanges {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty() && self.passages.is_empty() && self.upserts.is_empty()
    }
}

/// The words of passages.
pub trait Words: Send + Sync {
    /// Adds a passage.
    fn add(&self, entry: Entry<'_>) -> Result<()>;
    /// Removes all passages of a file that were added before.
    fn delete_file(&self, file: FileId) -> Result<()>;
    /// Makes all since the last commit durable and visible.
    fn commit(&self, tag: u64) -> Result<()>;
    /// Forgets all since the last commit.
    fn rollback(&self);
    /// The tag of the last commit, 0 before the first.
    fn tag(&self) -> Result<u64>;
    /// Removes everything, durably, and remembers the tag.
    fn clear(&self, tag: u64) -> Result<()>;
}

impl Words for LexicalIndex {
    fn add(&self, entry: Entry<'_>) -> Result<()> {
        LexicalIndex::add(self, entry)
    }

    fn delete_file(&self, file: FileId) -> Result<()> {
        LexicalIndex::delete_file(self, file)
    }

    fn commit(&self, tag: u64) -> Result<()> {
        LexicalIndex::commit(self, Generation(tag))
    }

    fn rollback(&self) {
        LexicalIndex::rollback(self);
    }

    fn tag(&self) -> Result<u64> {
        Ok(self.committed()?.unwrap_or_default().0)
    }

    fn clear(&self, tag: u64) -> Result<()> {
        LexicalIndex::clear(self)?;
        LexicalIndex::commit(self, Generation(tag))
    }
}
