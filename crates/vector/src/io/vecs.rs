//! The formats of the TEXMEX collections: a count before each vector.

use std::io::{self, BufRead, Write};

use super::{bad, fill};
use crate::error::Result;
use crate::space::DIM_MAX;

/// The next vector; `None` at the end.
pub(super) fn read(input: &mut dyn BufRead, row: u64, integers: bool) -> Result<Option<Vec<f32>>> {
    let format = if integers { "ivecs" } else { "fvecs" };
    let mut count = [0; 4];
    if !fill(input, &mut count, format, row)? {
        return Ok(None);
    }
    let count = i32::from_le_bytes(count);
    let dim = usize::try_from(count)
        .ok()
        .filter(|dim| (1..=DIM_MAX).contains(dim));
    let dim = dim.ok_or_else(|| {
        bad(
            format,
            row,
            format!("{count} components are not in 1..={DIM_MAX}"),
        )
    })?;
    let mut components = vec![0u32; dim];
    if !fill(input, bytemuck::cast_slice_mut(&mut components), format, row)? {
        return Err(bad(format, row, "the file ends in the middle of a vector"));
    }
    let value = |bits: u32| {
        if integers {
            bits as i32 as f32
        } else {
            f32::from_bits(bits)
        }
    };
    Ok(Some(components.into_iter().map(value).collect()))
}

/// Writes a vector.
pub(super) fn write(out: &mut dyn Write, vector: &[f32]) -> io::Result<()> {
    out.write_all(&(vector.len() as i32).to_le_bytes())?;
    out.write_all(bytemuck::cast_slice(vector))
}
