//! Searches that look at every row in scope: exact, and over small codes with an exact rerank.
//!
//! Nothing is built and nothing can be stale; a filter only leaves rows out. These are the first tier of the engine,
//! the ground truth for recall, and the fall-back when a graph is missing.

mod allowed;
mod bytes;
mod exact;
mod onebit;
mod plan;
mod rows;

pub use allowed::Allowed;
pub(crate) use bytes::i8_candidates;
pub use bytes::i8_rerank;
pub use exact::{exact, exact_batch, exact_range, exact_subset, rerank};
pub(crate) use exact::{in_parallel, rerank_bounded, rerank_estimated};
pub use onebit::{OneBitRerank, rabitq_rerank};
pub use plan::{Costs, Plan, Scope};
pub(crate) use rows::prefetch;
pub use rows::{Query, RowSlice, Rows, SliceRows};
