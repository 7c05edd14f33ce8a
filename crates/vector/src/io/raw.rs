//! Raw components.

use std::io::BufRead;

use super::fill;
use crate::error::Result;

/// The next vector; `None` at the end.
pub(super) fn read(input: &mut dyn BufRead, row: u64, dim: usize) -> Result<Option<Vec<f32>>> {
    let mut vector = vec![0f32; dim];
    Ok(fill(input, bytemuck::cast_slice_mut(&mut vector), "raw f32", row)?.then_some(vector))
}
