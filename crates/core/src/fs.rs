//! Stacking over a backing directory: the only place that makes backing system calls on behalf of a caller.

pub mod change;
pub mod ops;
