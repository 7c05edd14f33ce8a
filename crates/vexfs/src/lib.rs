//! VexFS: a stackable filesystem in which every file can be found by meaning.

mod background;
#[cfg(feature = "bench")]
pub mod bench;
pub mod cli;
mod daemon;
mod logging;
mod own_view;
#[cfg(feature = "bench")]
pub mod performance_optimizations;
mod service;
