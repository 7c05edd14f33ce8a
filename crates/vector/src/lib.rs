//! Slices in, neighbours out: distance kernels, quantization, exact scan, graph index, segments.

pub mod kernel;
mod measure;
pub mod quant;
pub mod scan;
mod topk;

pub use measure::{Measure, Neighbor};
pub use topk::TopK;
