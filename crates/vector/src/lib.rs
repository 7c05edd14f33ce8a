//! Slices in, neighbours out: an embedded, durable vector database.
//!
//! A [`Database`] is a directory of [`Space`]s. A space holds vectors of one dimension under ids that the caller
//! chooses, and answers which of them are nearest to a query. Commits are atomic and durable, readers never wait, and
//! searches can be restricted to ranges or sets of ids.
//!
//! ```
//! use vexfs_vector::{Database, Filter, Measure, Options, SearchParams, SpaceConfig};
//!
//! # fn main() -> vexfs_vector::Result<()> {
//! let dir = tempfile::tempdir().expect("a temporary directory");
//! let database = Database::open(dir.path(), Options::default())?;
//! let space = database.create_space("colours", SpaceConfig::new(3, Measure::Cosine))?;
//! space.upsert(&[(1, &[1.0, 0.0, 0.0]), (2, &[0.9, 0.1, 0.0]), (7, &[0.0, 0.0, 1.0])])?;
//!
//! let near = space.search(&[1.0, 0.05, 0.0], &SearchParams::new(2))?;
//! assert_eq!([near[0].id, near[1].id], [1, 2]);
//!
//! let only = SearchParams::new(2).filter(Filter::Ranges(&[5..10]));
//! assert_eq!(space.search(&[1.0, 0.05, 0.0], &only)?[0].id, 7);
//! # Ok(())
//! # }
//! ```

#[cfg(target_endian = "big")]
compile_error!("the files are little-endian and are read where they lie");

mod database;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod graph;
pub mod io;
mod journal;
pub mod kernel;
mod manifest;
mod measure;
pub mod quant;
pub mod scan;
mod segment;
mod space;
mod storage;
mod topk;

pub use database::{Database, SpaceInfo};
pub use error::{Error, Result};
pub use measure::{Measure, Neighbor};
pub use space::{
    Batch, Commit, DIM_MAX, Effort, Element, Filter, Finding, Index, Options, Pages, Place, SearchParams,
    Snapshot, Space, SpaceConfig, Stats,
};
pub use topk::TopK;
