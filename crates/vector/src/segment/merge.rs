//! Merging segments, into memory or into a file.

use std::path::Path;
use std::sync::Arc;

use super::sealed::Writer;
use super::{Row, Segment, label, rows_path, tag};
use crate::error::{Error, Result};
use crate::space::{Dead, SpaceConfig};
use crate::storage::Storage;

/// The live and readable rows of several segments in ascending order of ids, as (segment, row). No id is live in two
/// segments. The walk holds one cursor per segment and nothing else, so that a merge of any size needs no memory: it
/// is repeated for every column.
pub(crate) struct MergeRows<'a> {
    inputs: &'a [(Arc<Segment>, Arc<Dead>)],
    /// The next row of each input, and its id; `u64::MAX` rows at the end.
    next: Vec<Option<(u64, usize)>>,
}

impl<'a> MergeRows<'a> {
    /// Starts at the smallest id.
    pub(crate) fn new(inputs: &'a [(Arc<Segment>, Arc<Dead>)]) -> MergeRows<'a> {
        let mut rows = MergeRows {
            inputs,
            next: vec![None; inputs.len()],
        };
        for input in 0..inputs.len() {
            rows.advance(input, 0);
        }
        rows
    }

    fn advance(&mut self, input: usize, from: usize) {
        let (segment, dead) = &self.inputs[input];
        let row = (from..segment.len()).find(|&row| !dead.contains(row) && segment.readable(row..row + 1));
        self.next[input] = row.map(|row| (segment.ids()[row], row));
    }
}

impl Iterator for MergeRows<'_> {
    type Item = (usize, usize);

    fn next(&mut self) -> Option<(usize, usize)> {
        let heads = self.next.iter().enumerate();
        let (_, input, row) = heads
            .filter_map(|(input, head)| head.map(|(id, row)| (id, input, row)))
            .min()?;
        self.advance(input, row + 1);
        Some((input, row))
    }
}

/// Writes the live rows of `inputs` as segment `number`, makes the content durable, and returns the number of rows.
/// `pace` is called with the bytes about to be written and may sleep or refuse. On an error the file is removed.
pub(crate) fn write_rows(
    storage: &dyn Storage,
    dir: &Path,
    number: u64,
    config: SpaceConfig,
    inputs: &[(Arc<Segment>, Arc<Dead>)],
    pace: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<u64> {
    let path = rows_path(dir, number);
    let rows = MergeRows::new(inputs).count() as u64;
    let written = Writer::create(storage, &path, label(number, rows, config)).and_then(|mut out| {
        write_columns(&mut out, inputs, pace)?;
        out.seal()
    });
    if let Err(e) = written {
        // Best effort: no manifest names the file, so a leftover is removed at the next open.
        let _ = storage.remove(&path);
        return Err(e);
    }
    storage.sync_dir(dir).map_err(|e| Error::io("sync", dir, e))?;
    Ok(rows)
}

fn write_columns(
    out: &mut Writer,
    inputs: &[(Arc<Segment>, Arc<Dead>)],
    pace: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<()> {
    out.section(tag::IDS)?;
    for (input, row) in MergeRows::new(inputs) {
        out.put(&inputs[input].0.ids[row].to_le_bytes())?;
    }
    out.section(tag::SCALES)?;
    for (input, row) in MergeRows::new(inputs) {
        if let Some(scale) = inputs[input].0.scales.get(row) {
            out.put(&scale.to_le_bytes())?;
        }
    }
    out.section(tag::ROWS)?;
    for (input, row) in MergeRows::new(inputs) {
        let bytes: &[u8] = match inputs[input].0.row(row) {
            Row::F32(row) => bytemuck::cast_slice(row),
            Row::F16(row) => bytemuck::cast_slice(row),
            Row::I8(row, _) => bytemuck::cast_slice(row),
        };
        pace(bytes.len())?;
        out.put(bytes)?;
    }
    Ok(())
}
