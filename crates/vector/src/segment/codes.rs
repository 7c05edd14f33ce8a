//! Quantized codes of a segment's rows: bytes for scans of few rows, one bit per dimension for scans of many.
//!
//! They are derived: a file of codes that is missing or damaged is made again from the rows, and until then the rows
//! are scanned exactly. A segment in memory makes its codes when a search first wants them.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::column::Column;
use super::sealed::{Kind, Label, Sealed, Writer};
use super::{Components, Segment};
use crate::error::{Error, Result};
use crate::measure::Measure;
use crate::quant::{BLOCK_ROWS, I8Factors, RabitqCodes};
use crate::storage::Storage;

/// Segments in memory with fewer rows are scanned exactly: encoding them costs as much as some exact scans.
pub(super) const ROWS_MIN: usize = 256;
/// Files with fewer rows have no one-bit codes: the bounded rerank would measure most of them anyway.
const ONEBIT_ROWS_MIN: usize = 4096;
/// Rows from which the centre of the one-bit codes is taken.
const CENTRE_SAMPLE: usize = 1024;
/// The seed of the random rotation. Any will do; the file keeps it.
const ROTATION_SEED: u64 = 0x7665_7866_735f_6231;

mod tag {
    pub(super) const BYTES: u32 = 1;
    pub(super) const FACTORS: u32 = 2;
    pub(super) const CENTRE: u32 = 3;
    pub(super) const BLOCKS: u32 = 4;
    pub(super) const SEED: u32 = 5;
}

/// The path of a segment's codes in a space's directory.
pub(crate) fn codes_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:08}.codes"))
}

/// The codes of a segment.
pub(crate) struct Codes {
    /// One byte per component; empty when the segment's own components are bytes.
    bytes: Column<i8>,
    factors: Column<I8Factors>,
    onebit: Option<OneBit>,
    file: Option<Sealed>,
    bytes_good: OnceLock<bool>,
    onebit_good: OnceLock<bool>,
}

/// One-bit codes.
pub(crate) struct OneBit {
    pub(crate) coder: RabitqCodes,
    blocks: Column<u8>,
}

impl OneBit {
    /// The codes of rows from `first`, a multiple of [`BLOCK_ROWS`].
    pub(crate) fn from(&self, first: usize) -> &[u8] {
        &self.blocks[first / BLOCK_ROWS * self.coder.block_bytes()..]
    }
}

impl Codes {
    /// The byte codes of a segment in memory.
    pub(super) fn of_memory(segment: &Segment) -> Option<Codes> {
        (segment.len() >= ROWS_MIN).then(|| {
            let (bytes, factors) = encode_bytes(segment);
            Codes {
                bytes: Column::Owned(bytes),
                factors: Column::Owned(factors),
                onebit: None,
                file: None,
                bytes_good: OnceLock::from(true),
                onebit_good: OnceLock::from(true),
            }
        })
    }

    /// Opens the codes of segment `number`.
    pub(super) fn open(storage: &dyn Storage, dir: &Path, segment: &Segment) -> Result<Codes> {
        let path = codes_path(dir, segment.number());
        let file = Sealed::open(storage, &path, label(segment))?;
        let corrupt = || Error::corrupt(&path, "a section is missing or has the wrong length");
        let (rows, dim) = (segment.len(), segment.config.dim);
        let own = matches!(segment.components, Components::I8(_));
        let bytes = super::column(&file, tag::BYTES, if own { 0 } else { rows * dim }).ok_or_else(corrupt)?;
        let factors = super::column(&file, tag::FACTORS, rows).ok_or_else(corrupt)?;
        let onebit = match file.section(tag::BLOCKS) {
            None => None,
            Some(_) => {
                let small: [Option<Column<u8>>; 2] =
                    [(tag::CENTRE, dim * 4), (tag::SEED, 8)].map(|(tag, len)| super::column(&file, tag, len));
                let [Some(centre), Some(seed)] = small else {
                    return Err(corrupt());
                };
                if ![tag::CENTRE, tag::SEED]
                    .iter()
                    .all(|&t| file.section(t).is_some_and(|at| file.readable(at)))
                {
                    return Err(Error::corrupt(&path, "the checksum of the centre does not fit"));
                }
                let seed = u64::from_le_bytes(seed[..].try_into().expect("8 bytes"));
                let coder = RabitqCodes::new(dim, seed, Some(bytemuck::pod_collect_to_vec(&centre)));
                let blocks = super::column(&file, tag::BLOCKS, coder.bytes(rows)).ok_or_else(corrupt)?;
                Some(OneBit { coder, blocks })
            }
        };
        let (bytes_good, onebit_good) = Default::default();
        Ok(Codes {
            bytes,
            factors,
            onebit,
            file: Some(file),
            bytes_good,
            onebit_good,
        })
    }

    /// The byte codes, unless they are damaged.
    pub(crate) fn bytes<'a>(&'a self, segment: &'a Segment) -> Option<(&'a [i8], &'a [I8Factors])> {
        let good = *self
            .bytes_good
            .get_or_init(|| self.readable(&[tag::BYTES, tag::FACTORS]));
        let bytes = match &segment.components {
            Components::I8(own) if segment.readable(0..segment.len()) => &own[..],
            Components::I8(_) => return None,
            _ => &self.bytes[..],
        };
        good.then(|| (bytes, &self.factors[..]))
    }

    /// The one-bit codes, unless they are damaged.
    pub(crate) fn onebit(&self) -> Option<&OneBit> {
        let good = *self.onebit_good.get_or_init(|| self.readable(&[tag::BLOCKS]));
        self.onebit.as_ref().filter(|_| good)
    }

    /// Whether there are one-bit codes.
    pub(crate) fn has_onebit(&self) -> bool {
        self.onebit.is_some()
    }

    /// The file, unless the segment is in memory.
    pub(crate) fn file(&self) -> Option<&Sealed> {
        self.file.as_ref()
    }

    fn readable(&self, sections: &[u32]) -> bool {
        let Some(file) = &self.file else { return true };
        sections
            .iter()
            .filter_map(|&tag| file.section(tag))
            .all(|at| file.readable(at))
    }
}

/// The byte codes of all rows, and their factors.
fn encode_bytes(segment: &Segment) -> (Vec<i8>, Vec<I8Factors>) {
    let own = matches!(segment.components, Components::I8(_));
    let (mut bytes, mut factors) = (Vec::new(), Vec::with_capacity(segment.len()));
    each_code(segment, &mut |code, factor| {
        if !own {
            bytes.extend_from_slice(code);
        }
        factors.push(factor);
        Ok(())
    })
    .expect("the closure does not fail");
    (bytes, factors)
}

/// Encodes row after row. Where the row's own components are bytes the code is the same, and the scale is the row's,
/// because the one computed from the rounded row may differ in its last bit.
fn each_code(segment: &Segment, each: &mut dyn FnMut(&[i8], I8Factors) -> Result<()>) -> Result<()> {
    let (mut row, mut code) = (Vec::new(), vec![0; segment.config.dim]);
    for i in 0..segment.len() {
        read_or_zero(segment, i, &mut row);
        let factors = I8Factors::encode(&row, &mut code);
        let scale = segment.scales.get(i).copied().unwrap_or(factors.scale);
        each(&code, I8Factors { scale, ..factors })?;
    }
    Ok(())
}

/// Writes the codes of an open segment file and makes their content durable. On an error the file is removed.
/// `pace` is called with the bytes about to be written and may sleep or refuse.
pub(crate) fn write_codes(
    storage: &dyn Storage,
    dir: &Path,
    segment: &Segment,
    pace: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<()> {
    let path = codes_path(dir, segment.number());
    let written = Writer::create(storage, &path, label(segment)).and_then(|mut out| {
        write_bytes(&mut out, segment, pace)?;
        if segment.len() >= ONEBIT_ROWS_MIN {
            write_onebit(&mut out, segment, pace)?;
        }
        out.seal()
    });
    written.inspect_err(|_| {
        // Best effort: codes that are not whole are not opened.
        let _ = storage.remove(&path);
    })
}

fn write_bytes(out: &mut Writer, segment: &Segment, pace: &mut dyn FnMut(usize) -> Result<()>) -> Result<()> {
    let own = matches!(segment.components, Components::I8(_));
    let mut factors = Vec::with_capacity(segment.len());
    out.section(tag::BYTES)?;
    each_code(segment, &mut |code, factor| {
        factors.push(factor);
        if own {
            return Ok(());
        }
        pace(code.len())?;
        out.put(bytemuck::cast_slice(code))
    })?;
    out.section(tag::FACTORS)?;
    out.put(bytemuck::cast_slice(&factors))
}

fn write_onebit(
    out: &mut Writer,
    segment: &Segment,
    pace: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<()> {
    let centre = centre(segment);
    out.section(tag::CENTRE)?;
    out.put(bytemuck::cast_slice(&centre))?;
    out.section(tag::SEED)?;
    out.put(&ROTATION_SEED.to_le_bytes())?;
    out.section(tag::BLOCKS)?;
    let coder = RabitqCodes::new(segment.config.dim, ROTATION_SEED, Some(centre));
    let (mut row, mut block) = (Vec::new(), vec![0; coder.block_bytes()]);
    for first in (0..segment.len()).step_by(BLOCK_ROWS) {
        block.fill(0);
        for i in first..segment.len().min(first + BLOCK_ROWS) {
            read_coded(segment, i, &mut row);
            coder.encode(&row, &mut block, i - first);
        }
        pace(block.len())?;
        out.put(&block)?;
    }
    Ok(())
}

/// The mean of a sample of the rows as they are coded.
fn centre(segment: &Segment) -> Vec<f32> {
    let step = segment.len().div_ceil(CENTRE_SAMPLE);
    let (mut sum, mut row, mut count) = (vec![0f64; segment.config.dim], Vec::new(), 0);
    for i in (0..segment.len()).step_by(step) {
        read_coded(segment, i, &mut row);
        sum.iter_mut()
            .zip(&row)
            .for_each(|(sum, &x)| *sum += f64::from(x));
        count += 1;
    }
    sum.iter().map(|sum| (sum / f64::from(count)) as f32).collect()
}

/// A row as the one-bit coder wants it: of unit length for cosine.
fn read_coded(segment: &Segment, row: usize, out: &mut Vec<f32>) {
    read_or_zero(segment, row, out);
    if segment.config.measure == Measure::Cosine {
        let length = out
            .iter()
            .map(|&x| f64::from(x) * f64::from(x))
            .sum::<f64>()
            .sqrt();
        if length > 0.0 {
            out.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
        }
    }
}

fn read_or_zero(segment: &Segment, row: usize, out: &mut Vec<f32>) {
    out.clear();
    if segment.readable(row..row + 1) {
        segment.read(row, out);
    } else {
        out.resize(segment.config.dim, 0.0);
    }
}

fn label(segment: &Segment) -> Label {
    Label {
        kind: Kind::Codes,
        number: segment.number(),
        rows: segment.len() as u64,
        shape: segment.config.shape(),
    }
}
