//! NumPy's format (NEP 1): a magic string, a version, a Python dictionary as text, and the array.

use std::io::{self, BufRead, Write};

use half::f16;

use super::{bad, fill};
use crate::error::{Error, Result};
use crate::space::DIM_MAX;

const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// The longest header that is read; NumPy itself pads short ones to 64 or 128 bytes.
const HEADER_MAX: usize = 64 << 10;

/// What the header says.
#[derive(Debug, PartialEq)]
pub(super) struct Header {
    pub(super) rows: u64,
    dim: usize,
    element: Element,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Element {
    F16,
    F32,
    F64,
    I8,
}

impl Header {
    pub(super) fn read(input: &mut dyn BufRead) -> Result<Header> {
        let wrong = |what: &str| Error::BadInput {
            format: "npy",
            at: "header".into(),
            what: what.into(),
        };
        let mut start = [0; 10];
        if !fill(input, &mut start, "npy", 0)? || &start[..6] != MAGIC {
            return Err(wrong("this is not an .npy file"));
        }
        let mut len = u32::from(start[8]) | u32::from(start[9]) << 8;
        if start[6] > 1 {
            let mut more = [0; 2];
            fill(input, &mut more, "npy", 0)?;
            len |= u32::from(more[0]) << 16 | u32::from(more[1]) << 24;
        }
        if len as usize > HEADER_MAX {
            return Err(wrong("it is too long"));
        }
        let mut text = vec![0; len as usize];
        fill(input, &mut text, "npy", 0)?;
        let text = String::from_utf8(text).map_err(|_| wrong("it is not text"))?;
        Header::parse(&text).ok_or_else(|| {
            wrong("only arrays of shape (rows, components) in C order of '<f4', '<f2', '<f8' or '|i1' can be read")
        })
    }

    fn parse(text: &str) -> Option<Header> {
        let after = |key: &str| Some(text.split_once(key)?.1.split_once(':')?.1.trim_start());
        let element = match after("'descr'")?.get(1..4)? {
            "<f4" => Element::F32,
            "<f2" => Element::F16,
            "<f8" => Element::F64,
            "|i1" => Element::I8,
            _ => return None,
        };
        if !after("'fortran_order'")?.starts_with("False") {
            return None;
        }
        let shape = after("'shape'")?.strip_prefix('(')?.split_once(')')?.0;
        let mut sizes = shape.split(',').map(str::trim).filter(|size| !size.is_empty());
        let (rows, dim) = (sizes.next()?.parse().ok()?, sizes.next()?.parse().ok()?);
        (sizes.next().is_none() && (1..=DIM_MAX).contains(&dim)).then_some(Header { rows, dim, element })
    }

    /// The next row, whose number is `row`.
    pub(super) fn row(&self, input: &mut dyn BufRead, row: u64) -> Result<Option<Vec<f32>>> {
        let size = match self.element {
            Element::I8 => 1,
            Element::F16 => 2,
            Element::F32 => 4,
            Element::F64 => 8,
        };
        let mut bytes = vec![0; self.dim * size];
        if !fill(input, &mut bytes, "npy", row)? {
            return Err(bad(
                "npy",
                row,
                format!("the file ends, but the header says {} rows", self.rows),
            ));
        }
        let values = bytes.chunks_exact(size).map(|b| match self.element {
            Element::I8 => f32::from(b[0] as i8),
            Element::F16 => f16::from_le_bytes([b[0], b[1]]).to_f32(),
            Element::F32 => f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
            Element::F64 => f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]) as f32,
        });
        Ok(Some(values.collect()))
    }
}

/// Writes the header of an array of `f32`.
pub(super) fn write_header(out: &mut dyn Write, rows: u64, dim: usize) -> io::Result<()> {
    let mut text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {dim}), }}");
    // The array starts at a multiple of 64, and the header ends with a newline.
    let padded = (10 + text.len() + 1).next_multiple_of(64) - 10;
    text.push_str(&" ".repeat(padded - text.len() - 1));
    text.push('\n');
    out.write_all(MAGIC)?;
    out.write_all(&[1, 0])?;
    out.write_all(&(padded as u16).to_le_bytes())?;
    out.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_numpy_are_read() {
        let parse = |text: &str| Header::parse(text).map(|h| (h.rows, h.dim, h.element));
        let plain = "{'descr': '<f4', 'fortran_order': False, 'shape': (3, 2), }    \n";
        assert_eq!(parse(plain), Some((3, 2, Element::F32)));
        assert_eq!(parse(&plain.replace("<f4", "<f8")), Some((3, 2, Element::F64)));
        assert_eq!(parse(&plain.replace("False", "True")), None);
        assert_eq!(parse(&plain.replace("(3, 2)", "(3,)")), None);
        assert_eq!(parse(&plain.replace("(3, 2)", "(3, 2, 1)")), None);
        assert_eq!(parse(&plain.replace("<f4", ">f4")), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn a_written_header_is_read() {
        let mut bytes = Vec::new();
        write_header(&mut bytes, 12_345, 678).unwrap();
        assert!(bytes.len().is_multiple_of(64));
        let header = Header::read(&mut &bytes[..]).unwrap();
        assert_eq!(
            header,
            Header {
                rows: 12_345,
                dim: 678,
                element: Element::F32
            }
        );
    }
}
