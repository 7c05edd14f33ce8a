//! The synchronous engine of VexFS: a stackable filesystem, its catalog, and search over it. It knows neither the
//! FUSE protocol nor the command line.

pub mod change;
pub mod control;
pub mod engine;
pub mod error;
pub mod fs;
pub mod ids;
pub mod knowledge;
mod label;
pub mod metrics;
pub mod pool;
pub mod query;
pub mod relation;
pub mod semantic;
pub mod store;
pub mod txn;

pub use error::{Error, Result};
