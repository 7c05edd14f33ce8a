//! An embedder and the vectors that it made. They are changed together, so a query never compares vectors of two models.

use std::sync::Arc;

use vexfs_vector::Space;

use crate::semantic::embed::Embedder;

/// An embedder and the vectors that it made.
pub struct Model {
    /// Embeds queries as it embedded the passages.
    pub embedder: Arc<dyn Embedder>,
    /// Vectors of passages.
    pub passages: Arc<Space>,
}
