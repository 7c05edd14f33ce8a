//! One JSON object per line.

use std::io::{self, BufRead, Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Entry;
use crate::error::{Error, Result};

/// The longest line: the largest dimension with 25 characters per component, and some more.
const LINE_MAX: u64 = 1 << 20;

#[derive(Serialize, Deserialize)]
struct Line<V> {
    id: Option<u64>,
    vector: V,
}

/// The vector of the next line that is not empty; `None` at the end.
pub(super) fn read(input: &mut dyn BufRead, row: u64) -> Result<Option<Entry>> {
    let bad = |what: String| Error::BadInput {
        format: "JSON lines",
        at: format!("line {}", row + 1),
        what,
    };
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = input.take(LINE_MAX).read_until(b'\n', &mut line);
        match read.map_err(|e| Error::io("read", Path::new("the import"), e))? {
            0 => return Ok(None),
            n if n as u64 == LINE_MAX => return Err(bad(format!("it is longer than {LINE_MAX} bytes"))),
            _ if line.iter().all(u8::is_ascii_whitespace) => {}
            _ => break,
        }
    }
    let line: Line<Vec<f32>> = serde_json::from_slice(&line).map_err(|e| bad(e.to_string()))?;
    Ok(Some(Entry {
        id: line.id,
        vector: line.vector,
    }))
}

/// Writes a line.
pub(super) fn write(out: &mut dyn Write, id: u64, vector: &[f32]) -> io::Result<()> {
    serde_json::to_writer(&mut *out, &Line { id: Some(id), vector })?;
    out.write_all(b"\n")
}
