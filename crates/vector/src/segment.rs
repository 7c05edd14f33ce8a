//! A segment: immutable rows, ordered by id, in memory or in a mapped file.
//!
//! Because ids ascend, a range of ids is a range of rows, and an id is found by binary search. The rows are kept as
//! the caller gave them (rounded to the element type).

mod codes;
mod column;
mod finder;
mod merge;
pub(crate) mod sealed;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use half::f16;

use crate::error::{Error, Result};
use crate::scan::{RowSlice, Rows};
use crate::space::{Element, SpaceConfig};
use crate::storage::Storage;
pub(crate) use codes::{Codes, codes_path, write_codes};
use column::Column;
pub(crate) use finder::Finder;
pub(crate) use merge::{MergeRows, write_rows};
use sealed::{Kind, Label, Sealed};

/// The largest number of rows in one segment, so that a row number fits into 32 bits.
pub(crate) const ROWS_MAX: u64 = u32::MAX as u64;

mod tag {
    pub(super) const IDS: u32 = 1;
    pub(super) const ROWS: u32 = 2;
    pub(super) const SCALES: u32 = 3;
}

/// The path of a segment's rows in a space's directory.
pub(crate) fn rows_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:08}.rows"))
}

/// Immutable rows ordered by id.
pub(crate) struct Segment {
    config: SpaceConfig,
    ids: Column<u64>,
    components: Components,
    /// The factor of each row's components (element I8), else empty.
    scales: Column<f32>,
    file: Option<Sealed>,
    codes: OnceLock<Option<Codes>>,
    finder: OnceLock<Finder>,
}

/// The components of all rows, row after row.
enum Components {
    F32(Column<f32>),
    F16(Column<f16>),
    I8(Column<i8>),
}

/// One stored row.
#[derive(Clone, Copy)]
pub(crate) enum Row<'a> {
    F32(&'a [f32]),
    F16(&'a [f16]),
    /// Components and their factor.
    I8(&'a [i8], f32),
}

impl Segment {
    /// A segment in memory, to be filled in ascending order of ids.
    pub(crate) fn in_memory(config: SpaceConfig) -> Segment {
        let components = match config.element {
            Element::F32 => Components::F32(Column::default()),
            Element::F16 => Components::F16(Column::default()),
            Element::I8 => Components::I8(Column::default()),
        };
        let (ids, scales) = (Column::default(), Column::default());
        Segment {
            config,
            ids,
            components,
            scales,
            file: None,
            codes: OnceLock::new(),
            finder: OnceLock::new(),
        }
    }

    /// Opens the rows of segment `number`. Verified here: the header and the ids. Components are verified when they
    /// are first read.
    pub(crate) fn open(
        storage: &dyn Storage,
        dir: &Path,
        number: u64,
        rows: u64,
        config: SpaceConfig,
    ) -> Result<Segment> {
        let path = rows_path(dir, number);
        let file = Sealed::open(storage, &path, label(number, rows, config))?;
        let corrupt = || Error::corrupt(&path, "a section is missing or has the wrong length");
        let rows = usize::try_from(rows).map_err(|_| corrupt())?;
        let ids = column(&file, tag::IDS, rows).ok_or_else(corrupt)?;
        let ids_at = file.section(tag::IDS).ok_or_else(corrupt)?;
        if !file.readable(ids_at) || !ids.is_sorted_by(|a, b| a < b) {
            return Err(Error::corrupt(&path, "the ids' checksum does not fit"));
        }
        let all = rows.checked_mul(config.dim).ok_or_else(corrupt)?;
        let components = match config.element {
            Element::F32 => column(&file, tag::ROWS, all).map(Components::F32),
            Element::F16 => column(&file, tag::ROWS, all).map(Components::F16),
            Element::I8 => column(&file, tag::ROWS, all).map(Components::I8),
        };
        let components = components.ok_or_else(corrupt)?;
        let scaled = if config.element == Element::I8 { rows } else { 0 };
        let scales = column(&file, tag::SCALES, scaled).ok_or_else(corrupt)?;
        // The column is small, and every search needs it.
        if !file.section(tag::SCALES).is_some_and(|at| file.readable(at)) {
            return Err(Error::corrupt(&path, "the scales' checksum does not fit"));
        }
        Ok(Segment {
            config,
            ids,
            components,
            scales,
            file: Some(file),
            codes: OnceLock::new(),
            finder: OnceLock::new(),
        })
    }

    /// Opens the codes beside the rows of a file. Without them the rows are scanned exactly.
    pub(crate) fn open_codes(&self, storage: &dyn Storage, dir: &Path) -> Result<()> {
        let codes = Codes::open(storage, dir, self)?;
        let _ = self.codes.set(Some(codes));
        Ok(())
    }

    /// Whether [`Segment::codes`] has byte codes, or would make them.
    pub(crate) fn has_byte_codes(&self) -> bool {
        match &self.file {
            None => self.len() >= codes::ROWS_MIN,
            Some(_) => matches!(self.codes.get(), Some(Some(_))),
        }
    }

    /// Whether [`Segment::codes`] has one-bit codes.
    pub(crate) fn has_onebit_codes(&self) -> bool {
        matches!(self.codes.get(), Some(Some(codes)) if codes.has_onebit())
    }

    /// The codes, if the segment has any.
    pub(crate) fn codes(&self) -> Option<&Codes> {
        match &self.file {
            None => self.codes.get_or_init(|| Codes::of_memory(self)).as_ref(),
            Some(_) => self.codes.get()?.as_ref(),
        }
    }

    /// Appends a row. Its id must be larger than all before.
    pub(crate) fn push(&mut self, id: u64, vector: &[f32]) {
        debug_assert_eq!(vector.len(), self.config.dim);
        debug_assert!(self.ids.last().is_none_or(|&last| last < id));
        self.ids.owned().push(id);
        match &mut self.components {
            Components::F32(all) => all.owned().extend_from_slice(vector),
            Components::F16(all) => all.owned().extend(vector.iter().map(|&x| f16::from_f32(x))),
            Components::I8(all) => {
                let largest = vector.iter().fold(0f32, |max, x| max.max(x.abs()));
                let scale = largest / 127.0;
                let inverse = if scale > 0.0 { scale.recip() } else { 0.0 };
                all.owned()
                    .extend(vector.iter().map(|x| (x * inverse).round() as i8));
                self.scales.owned().push(scale);
            }
        }
    }

    /// Appends a row of another segment of the same space.
    pub(crate) fn push_row(&mut self, from: &Segment, row: usize) {
        self.ids.owned().push(from.ids[row]);
        match (&mut self.components, from.row(row)) {
            (Components::F32(all), Row::F32(one)) => all.owned().extend_from_slice(one),
            (Components::F16(all), Row::F16(one)) => all.owned().extend_from_slice(one),
            (Components::I8(all), Row::I8(one, scale)) => {
                all.owned().extend_from_slice(one);
                self.scales.owned().push(scale);
            }
            _ => unreachable!("the segments of a space have one element type"),
        }
    }

    /// The ids, strictly ascending.
    #[inline]
    pub(crate) fn ids(&self) -> &[u64] {
        &self.ids
    }

    /// The number of rows, deleted ones included.
    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }

    /// The row with this id.
    pub(crate) fn find(&self, id: u64) -> Option<usize> {
        match (self.ids.first(), self.ids.last()) {
            (Some(&first), Some(&last)) if first <= id && id <= last => self.ids.binary_search(&id).ok(),
            _ => None,
        }
    }

    /// The row with an id, for many ids: the first call reads all of them.
    pub(crate) fn finder(&self) -> &Finder {
        self.finder.get_or_init(|| Finder::new(&self.ids))
    }

    /// The rows whose ids lie in a range.
    pub(crate) fn rows_of(&self, ids: &Range<u64>) -> Range<usize> {
        let start = self.ids.partition_point(|&id| id < ids.start);
        start..start + self.ids[start..].partition_point(|&id| id < ids.end)
    }

    /// Whether the components of these rows are what was written. Rows that are not must not be served.
    #[inline]
    pub(crate) fn readable(&self, rows: Range<usize>) -> bool {
        let Some(file) = &self.file else { return true };
        let Some(section) = file.section(tag::ROWS) else {
            return false;
        };
        let bytes = self.config.row_bytes();
        file.readable(section.start + rows.start * bytes..section.start + rows.end * bytes)
    }

    /// A stored row, without regard to its checksum.
    #[inline]
    pub(crate) fn row(&self, row: usize) -> Row<'_> {
        let range = row * self.config.dim..(row + 1) * self.config.dim;
        match &self.components {
            Components::F32(all) => Row::F32(&all[range]),
            Components::F16(all) => Row::F16(&all[range]),
            Components::I8(all) => Row::I8(&all[range], self.scales[row]),
        }
    }

    /// One row for a distance kernel.
    #[inline]
    pub(crate) fn row_slice(&self, row: usize) -> RowSlice<'_> {
        match self.row(row) {
            Row::F32(one) => RowSlice::F32(one),
            Row::F16(one) => RowSlice::F16(one),
            Row::I8(one, _) => RowSlice::I8(one, &self.scales[row..row + 1]),
        }
    }

    /// Appends a row's components to `out`.
    pub(crate) fn read(&self, row: usize, out: &mut Vec<f32>) {
        match self.row(row) {
            Row::F32(row) => out.extend_from_slice(row),
            Row::F16(row) => out.extend(row.iter().map(|x| x.to_f32())),
            Row::I8(row, scale) => out.extend(row.iter().map(|&x| f32::from(x) * scale)),
        }
    }

    /// The files: none if the segment is in memory, else rows and, if there, codes.
    pub(crate) fn files(&self) -> impl Iterator<Item = &Sealed> {
        let codes = self.codes.get().and_then(|codes| codes.as_ref()?.file());
        self.file.iter().chain(codes)
    }

    /// The number of the file; 0 for a segment in memory.
    pub(crate) fn number(&self) -> u64 {
        self.file.as_ref().map_or(0, |file| file.label().number)
    }

    /// Bytes that the rows take.
    pub(crate) fn bytes(&self) -> u64 {
        let per_row = self.config.row_bytes() + 8 + if self.config.element == Element::I8 { 4 } else { 0 };
        (self.len() * per_row) as u64
    }

    /// Some of the rows, for scans that count from the first of them.
    pub(crate) fn rows_from(&self, first: usize, end: usize) -> RowsFrom<'_> {
        RowsFrom {
            segment: self,
            first,
            end,
        }
    }
}

/// The rows `first..end` of a segment.
pub(crate) struct RowsFrom<'a> {
    segment: &'a Segment,
    first: usize,
    end: usize,
}

impl Rows for RowsFrom<'_> {
    fn dim(&self) -> usize {
        self.segment.config.dim
    }

    fn len(&self) -> usize {
        self.end - self.first
    }

    fn run(&self, row: u32) -> RowSlice<'_> {
        let row = self.first + row as usize;
        let at = row * self.segment.config.dim;
        match &self.segment.components {
            Components::F32(all) => RowSlice::F32(&all[at..]),
            Components::F16(all) => RowSlice::F16(&all[at..]),
            Components::I8(all) => RowSlice::I8(&all[at..], &self.segment.scales[row..]),
        }
    }
}

fn label(number: u64, rows: u64, config: SpaceConfig) -> Label {
    Label {
        kind: Kind::Rows,
        number,
        rows,
        shape: config.shape(),
    }
}

fn column<T: bytemuck::Pod>(file: &Sealed, tag: u32, count: usize) -> Option<Column<T>> {
    Column::mapped(file.map(), file.section(tag)?, count)
}
