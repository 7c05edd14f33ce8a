//! The container of every immutable file: a header page, sections, and checksums of each 64 KiB.
//!
//! Opening costs the same whatever the size: the header and the table of checksums are verified, data blocks are
//! verified when they are first touched. A bad block stays known as bad, and its rows are not served.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};

use crate::error::{Error, Result};
use crate::storage::{Map, Storage, StorageFile};

const MAGIC: &[u8; 8] = b"VXSEAL\r\n";
/// The version of the container format.
pub(crate) const VERSION: u32 = 1;
/// Bytes before the first section.
const PAGE: usize = 4096;
/// Bytes covered by one checksum: small enough that one random row costs little, large enough that the table of
/// checksums is 1/16384 of the file.
const BLOCK: usize = 64 << 10;
/// Sections start on lines of the cache.
const ALIGN: u64 = 64;
const SECTION: usize = 24;
const SECTIONS_MAX: usize = 32;

/// What a sealed file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Kind {
    /// Ids and exact rows.
    Rows = 1,
    /// Quantized codes of the rows of the same number.
    Codes = 2,
    /// A graph over the rows of all segments.
    Graph = 3,
}

/// The fields of the header that a kind of file defines for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Label {
    /// What the file holds.
    pub(crate) kind: Kind,
    /// The number of the segment.
    pub(crate) number: u64,
    /// Rows in it.
    pub(crate) rows: u64,
    /// Dimension, element and measure, as in the manifest: two files of one space agree in them.
    pub(crate) shape: [u32; 3],
}

/// Writes a sealed file from front to back.
pub(crate) struct Writer {
    file: Box<dyn StorageFile>,
    path: PathBuf,
    label: Label,
    sections: Vec<(u32, u64, u64)>,
    buffer: Vec<u8>,
    /// Bytes in blocks already written, from the end of the header page.
    flushed: u64,
    sums: Vec<u32>,
}

impl Writer {
    /// Starts a file.
    pub(crate) fn create(storage: &dyn Storage, path: &Path, label: Label) -> Result<Writer> {
        let file = storage.create(path).map_err(|e| Error::io("create", path, e))?;
        let buffer = Vec::with_capacity(BLOCK);
        Ok(Writer {
            file,
            path: path.to_owned(),
            label,
            sections: Vec::new(),
            buffer,
            flushed: 0,
            sums: Vec::new(),
        })
    }

    /// Starts the next section.
    pub(crate) fn section(&mut self, tag: u32) -> Result<()> {
        assert!(self.sections.len() < SECTIONS_MAX);
        let padding = self.at().next_multiple_of(ALIGN) - self.at();
        self.append(&[0; ALIGN as usize][..padding as usize])?;
        self.sections.push((tag, self.at(), 0));
        Ok(())
    }

    /// Appends bytes to the current section.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.sections.last_mut().expect("a section was started").2 += bytes.len() as u64;
        self.append(bytes)
    }

    fn append(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min(BLOCK - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            bytes = rest;
            if self.buffer.len() == BLOCK {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Writes the checksums and the header, and makes the content durable (not yet the name).
    pub(crate) fn seal(mut self) -> Result<()> {
        if !self.buffer.is_empty() {
            self.flush()?;
        }
        let data_end = PAGE as u64 + self.flushed;
        let sums: Vec<u8> = self.sums.iter().flat_map(|sum| sum.to_le_bytes()).collect();
        let page = self.header(data_end, crc32c::crc32c(&sums));
        let written = (|| -> io::Result<()> {
            self.file.write_at(data_end, &sums)?;
            self.file.write_at(0, &page)?;
            self.file.sync()
        })();
        written.map_err(|e| Error::io("write", &self.path, e))
    }

    fn header(&self, data_end: u64, sums_sum: u32) -> Vec<u8> {
        let mut page = Vec::with_capacity(PAGE);
        page.extend_from_slice(MAGIC);
        for field in [VERSION, self.label.kind as u32] {
            page.extend_from_slice(&field.to_le_bytes());
        }
        for field in [self.label.number, self.label.rows, data_end] {
            page.extend_from_slice(&field.to_le_bytes());
        }
        for field in self
            .label
            .shape
            .into_iter()
            .chain([sums_sum, self.sections.len() as u32])
        {
            page.extend_from_slice(&field.to_le_bytes());
        }
        for &(tag, offset, len) in &self.sections {
            page.extend_from_slice(&u64::from(tag).to_le_bytes());
            page.extend_from_slice(&offset.to_le_bytes());
            page.extend_from_slice(&len.to_le_bytes());
        }
        page.resize(PAGE - 4, 0);
        page.extend_from_slice(&crc32c::crc32c(&page).to_le_bytes());
        page
    }

    fn at(&self) -> u64 {
        PAGE as u64 + self.flushed + self.buffer.len() as u64
    }

    fn flush(&mut self) -> Result<()> {
        self.sums.push(crc32c::crc32c(&self.buffer));
        let offset = PAGE as u64 + self.flushed;
        self.file
            .write_at(offset, &self.buffer)
            .map_err(|e| Error::io("write", &self.path, e))?;
        self.flushed += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

/// An open sealed file.
pub(crate) struct Sealed {
    map: Map,
    path: PathBuf,
    label: Label,
    sections: Vec<(u32, Range<usize>)>,
    data_end: usize,
    /// One of [`UNKNOWN`], [`GOOD`], [`BAD`] per block.
    blocks: Vec<AtomicU8>,
}

const UNKNOWN: u8 = 0;
const GOOD: u8 = 1;
const BAD: u8 = 2;

impl Sealed {
    /// Opens a file that must carry this kind, number and shape.
    pub(crate) fn open(storage: &dyn Storage, path: &Path, expected: Label) -> Result<Sealed> {
        let map = storage.map(path).map_err(|e| Error::io("map", path, e))?;
        Sealed::read(map, path, expected)
    }

    fn read(map: Map, path: &Path, expected: Label) -> Result<Sealed> {
        let corrupt = |what: &str| Error::corrupt(path, what);
        let page = map.get(..PAGE).ok_or_else(|| corrupt("the header page is cut"))?;
        let u32_at = |at: usize| u32::from_le_bytes([page[at], page[at + 1], page[at + 2], page[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        if &page[..8] != MAGIC || crc32c::crc32c(&page[..PAGE - 4]) != u32_at(PAGE - 4) {
            return Err(corrupt("the header's checksum does not fit"));
        }
        if u32_at(8) > VERSION {
            let file = path.display().to_string();
            return Err(Error::Version {
                file,
                found: u32_at(8),
                supported: VERSION,
            });
        }
        let label = Label {
            kind: expected.kind,
            number: u64_at(16),
            rows: u64_at(24),
            shape: [u32_at(40), u32_at(44), u32_at(48)],
        };
        if u32_at(12) != expected.kind as u32 || label != expected {
            return Err(corrupt("it belongs to another segment"));
        }
        let data_end = usize::try_from(u64_at(32)).map_err(|_| corrupt("its length is impossible"))?;
        let blocks = data_end
            .checked_sub(PAGE)
            .ok_or_else(|| corrupt("its length is impossible"))?
            .div_ceil(BLOCK);
        let sums = map.get(data_end..).filter(|sums| sums.len() == blocks * 4);
        let sums = sums.ok_or_else(|| corrupt("its length is not the one in the header"))?;
        if crc32c::crc32c(sums) != u32_at(52) {
            return Err(corrupt("the checksum of the checksums does not fit"));
        }
        let count = u32_at(56) as usize;
        if count > SECTIONS_MAX {
            return Err(corrupt("it has too many sections"));
        }
        let sections = (0..count).map(|i| {
            let at = 60 + SECTION * i;
            let (offset, len) = (u64_at(at + 8), u64_at(at + 16));
            let end = offset
                .checked_add(len)
                .filter(|&end| end <= data_end as u64 && offset >= PAGE as u64)?;
            offset
                .is_multiple_of(ALIGN)
                .then_some((u32_at(at), offset as usize..end as usize))
        });
        let sections = sections
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| corrupt("a section lies outside"))?;
        let blocks = (0..blocks).map(|_| AtomicU8::new(UNKNOWN)).collect();
        Ok(Sealed {
            map: map.clone(),
            path: path.to_owned(),
            label,
            sections,
            data_end,
            blocks,
        })
    }

    /// Where a section lies in the file.
    pub(crate) fn section(&self, tag: u32) -> Option<Range<usize>> {
        self.sections.iter().find(|s| s.0 == tag).map(|s| s.1.clone())
    }

    /// The file's bytes, not verified: see [`Sealed::readable`].
    pub(crate) fn map(&self) -> &Map {
        &self.map
    }

    /// The path relative to the database.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether these bytes of the file are what was written. The first call for a block reads all of it.
    #[inline]
    pub(crate) fn readable(&self, bytes: Range<usize>) -> bool {
        if bytes.is_empty() {
            return true;
        }
        let (first, last) = ((bytes.start - PAGE) / BLOCK, (bytes.end - 1 - PAGE) / BLOCK);
        // Relaxed: the state is a pure function of immutable bytes, so a stale UNKNOWN only repeats the work.
        (first..=last).all(|block| match self.blocks[block].load(Ordering::Relaxed) {
            GOOD => true,
            BAD => false,
            _ => self.verify(block),
        })
    }

    #[cold]
    fn verify(&self, block: usize) -> bool {
        let start = PAGE + block * BLOCK;
        let bytes = &self.map[start..self.data_end.min(start + BLOCK)];
        let sum = &self.map[self.data_end + 4 * block..self.data_end + 4 * block + 4];
        let good = crc32c::crc32c(bytes).to_le_bytes() == sum;
        self.blocks[block].store(if good { GOOD } else { BAD }, Ordering::Relaxed);
        if !good {
            tracing::error!(file = %self.path.display(), byte = start, "corrupt block; its rows are not served");
        }
        good
    }

    /// Verifies every block, again if need be: [`Sealed::bad_blocks`] knows the outcome.
    pub(crate) fn scrub(&self) {
        for block in 0..self.blocks.len() {
            self.verify(block);
        }
    }

    /// The byte offsets of the blocks already known as bad.
    pub(crate) fn bad_blocks(&self) -> Vec<u64> {
        let bad = (0..self.blocks.len()).filter(|&b| self.blocks[b].load(Ordering::Relaxed) == BAD);
        bad.map(|block| (PAGE + block * BLOCK) as u64).collect()
    }

    /// Bytes of the file.
    pub(crate) fn len(&self) -> u64 {
        self.map.len() as u64
    }

    /// The fields of its header.
    pub(crate) fn label(&self) -> Label {
        self.label
    }
}

/// Reads bytes as a sealed file, and again with the right checksums, and verifies all of it. For fuzzing.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn read_any(bytes: &[u8]) {
    use crate::storage::Aligned;
    for bytes in [bytes.to_vec(), with_right_sums(bytes)] {
        let map = Map::Memory(Aligned::copy_of(&bytes).into());
        let at = |at: usize| {
            bytes
                .get(at..at + 8)
                .map_or(0, |b| u64::from_le_bytes(b.try_into().expect("8 bytes")))
        };
        for kind in [Kind::Rows, Kind::Codes, Kind::Graph] {
            let shape = [at(40) as u32, (at(40) >> 32) as u32, at(48) as u32];
            let label = Label {
                kind,
                number: at(16),
                rows: at(24),
                shape,
            };
            if let Ok(sealed) = Sealed::read(map.clone(), Path::new("fuzz"), label) {
                sealed.scrub();
                for tag in 0..8 {
                    if let Some(section) = sealed.section(tag) {
                        sealed.readable(section);
                    }
                }
            }
        }
    }
}

/// The bytes with the checksums of page and table put right, so that the fields behind them are read.
#[cfg(any(test, feature = "fuzzing"))]
fn with_right_sums(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if bytes.len() < PAGE {
        return bytes;
    }
    let data_end = u64::from_le_bytes(bytes[32..40].try_into().expect("8 bytes")) as usize;
    if let Some(sums) = bytes.get(data_end..) {
        let sum = crc32c::crc32c(sums);
        bytes[52..56].copy_from_slice(&sum.to_le_bytes());
    }
    bytes[..8].copy_from_slice(MAGIC);
    let sum = crc32c::crc32c(&bytes[..PAGE - 4]);
    bytes[PAGE - 4..PAGE].copy_from_slice(&sum.to_le_bytes());
    bytes
}
