//! The embedder's space of passages as the indexer writes it.

use std::sync::Arc;

use vexfs_vector::{Batch, Space};

use crate::error::Result;
use crate::ids::{FileId, PassageId};
use crate::query::search::vector_error;
use crate::semantic::indexer::derived::{VectorChanges, Vectors};

/// A space whose ids are those of passages.
pub(super) struct PassageVectors {
    space: Arc<Space>,
}

impl PassageVectors {
    pub(super) fn new(space: Arc<Space>) -> PassageVectors {
        PassageVectors { space }
    }
}

impl Vectors for PassageVectors {
    fn apply(&self, changes: &[&VectorChanges], tag: u64) -> Result<()> {
        let mut batch = Batch::new();
        for changes in changes {
            for &file in &changes.files {
                batch.delete_range(PassageId::new(file, 0).0..PassageId::new(FileId(file.0 + 1), 0).0);
            }
            for &passage in &changes.passages {
                batch.delete(passage.0);
            }
            let dim = changes.values.len() / changes.upserts.len().max(1);
            for (passage, vector) in changes.upserts.iter().zip(changes.values.chunks(dim.max(1))) {
                batch.upsert(passage.0, vector);
            }
        }
        batch.tag(tag);
        self.space.apply(&batch).map_err(vector_error)?;
        Ok(())
    }

    fn tag(&self) -> u64 {
        self.space.snapshot().committed_tag().unwrap_or(0)
    }

    fn clear(&self, tag: u64) -> Result<()> {
        let mut batch = Batch::new();
        batch.delete_range(0..u64::MAX);
        batch.tag(tag);
        self.space.apply(&batch).map_err(vector_error)?;
        Ok(())
    }
}
