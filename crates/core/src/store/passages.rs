//! The passages of a file as its row keeps them: where each stands in the text, what it hashed to, and its slot.
//!
//! Bytes: version 1, 8 bytes of the blake3 of the file name that was indexed with them, then for each passage in order of the text: start (the distance from the start before), length,
//! first line (distance), lines after the first, slot, all as LEB128 numbers, and 16 bytes of the blake3 of its text.
//! The lone byte 0 stands for "unknown": the derived indexes may hold anything about the file.

use std::ops::Range;

use crate::error::{Error, Result};

const VERSION: u8 = 1;
const UNKNOWN: u8 = 0;

/// A passage of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PassageRow {
    /// Bytes in the extracted text.
    pub bytes: Range<u32>,
    /// Lines in the extracted text, from 1; the end is the last line, included.
    pub lines: (u32, u32),
    /// Its slot in the file (the lower bits of its `PassageId`). Kept as long as its hash stays.
    pub slot: u32,
    /// The first 16 bytes of the blake3 of everything that is embedded and indexed for it.
    pub hash: [u8; 16],
}

/// What the row of a file says of its passages.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Passages {
    /// Nothing about the file is in the derived indexes.
    #[default]
    None,
    /// The derived indexes may hold anything about the file: remove it all before adding.
    Unknown,
    /// Exactly these are in the derived indexes.
    Known {
        /// [`name_hash`] of the file name that was indexed with them.
        name: [u8; 8],
        /// The passages in the order of the text.
        rows: Vec<PassageRow>,
    },
}

impl Passages {
    /// The passages that are surely in the derived indexes.
    pub fn known(&self) -> &[PassageRow] {
        match self {
            Passages::Known { rows, .. } => rows,
            _ => &[],
        }
    }

    /// The column's value.
    pub(super) fn encode(&self) -> Option<Vec<u8>> {
        let (name, rows) = match self {
            Passages::None => return None,
            Passages::Unknown => return Some(vec![UNKNOWN]),
            Passages::Known { name, rows } => (name, rows),
        };
        let mut out = Vec::with_capacity(9 + rows.len() * 24);
        out.push(VERSION);
        out.extend_from_slice(name);
        let (mut start, mut line) = (0, 0);
        for row in rows {
            // Passages overlap but never start before the one in front of them.
            assert!(row.bytes.start >= start && row.lines.0 >= line && row.lines.1 >= row.lines.0);
            put(&mut out, row.bytes.start - start);
            put(&mut out, row.bytes.end - row.bytes.start);
            put(&mut out, row.lines.0 - line);
            put(&mut out, row.lines.1 - row.lines.0);
            put(&mut out, row.slot);
            out.extend_from_slice(&row.hash);
            (start, line) = (row.bytes.start, row.lines.0);
        }
        Some(out)
    }

    /// Reads the column's value.
    pub(super) fn decode(value: Option<&[u8]>) -> Result<Passages> {
        let mut input = match value {
            None => return Ok(Passages::None),
            Some([UNKNOWN]) => return Ok(Passages::Unknown),
            Some([VERSION, rest @ ..]) => rest,
            Some(_) => return Err(corrupt()),
        };
        let (name, rest) = input.split_first_chunk().ok_or_else(corrupt)?;
        input = rest;
        let mut rows = Vec::new();
        let (mut start, mut line) = (0u32, 0u32);
        while !input.is_empty() {
            start = start.checked_add(take(&mut input)?).ok_or_else(corrupt)?;
            let end = start.checked_add(take(&mut input)?).ok_or_else(corrupt)?;
            line = line.checked_add(take(&mut input)?).ok_or_else(corrupt)?;
            let last = line.checked_add(take(&mut input)?).ok_or_else(corrupt)?;
            let slot = take(&mut input)?;
            let (hash, rest) = input.split_first_chunk().ok_or_else(corrupt)?;
            input = rest;
            rows.push(PassageRow {
                bytes: start..end,
                lines: (line, last),
                slot,
                hash: *hash,
            });
        }
        Ok(Passages::Known { name: *name, rows })
    }
}

/// What stands for a file name in [`Passages::Known`].
pub fn name_hash(name: &[u8]) -> [u8; 8] {
    let [a, b, c, d, e, f, g, h, ..] = *blake3::hash(name).as_bytes();
    [a, b, c, d, e, f, g, h]
}

fn corrupt() -> Error {
    Error::Corrupt {
        what: "the store".into(),
        at: "a file's passages".into(),
    }
}

fn put(out: &mut Vec<u8>, mut number: u32) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn take(input: &mut &[u8]) -> Result<u32> {
    let mut number = 0u64;
    for shift in (0..35).step_by(7) {
        let (&byte, rest) = input.split_first().ok_or_else(corrupt)?;
        *input = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return u32::try_from(number).map_err(|_| corrupt());
        }
    }
    Err(corrupt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    prop_compose! {
        fn passage()(start in 0..1_000_000u32, length in 0..5000u32, first in 0..50_000u32, more in 0..300u32,
                     slot in 0..1u32 << 20, hash: [u8; 16]) -> PassageRow {
            PassageRow { bytes: start..start + length, lines: (first, first + more), slot, hash }
        }
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(mut rows in prop::collection::vec(passage(), 0..40), name: [u8; 8]) {
            rows.sort_by_key(|row| row.bytes.start);
            let mut line = 0;
            for row in &mut rows {
                line += row.lines.0;
                row.lines = (line, line + row.lines.1);
            }
            let passages = Passages::Known { name, rows };
            prop_assert_eq!(Passages::decode(passages.encode().as_deref()).unwrap(), passages);
        }

        #[test]
        fn damaged_bytes_give_an_error_or_other_passages_but_no_panic(bytes: Vec<u8>) {
            let _ = Passages::decode(Some(&bytes));
        }
    }

    #[test]
    fn none_and_unknown_are_told_apart() {
        for passages in [
            Passages::None,
            Passages::Unknown,
            Passages::Known {
                name: [7; 8],
                rows: Vec::new(),
            },
        ] {
            assert_eq!(Passages::decode(passages.encode().as_deref()).unwrap(), passages);
        }
    }
}
