//! One record of the journal: a commit.
//!
//! The payload is the change itself: deleted ranges, deleted ids, upserted ids, their components. It is aligned so that
//! it is read where it lies, and applying a commit just made and replaying one from disk are the same code.

use std::ops::Range;

use crate::error::{Error, Result};

/// Bytes of a record's header.
pub(super) const HEADER: usize = 64;
/// The largest payload. A batch of that size also stands in memory twice while it commits.
const PAYLOAD_MAX: u64 = 1 << 30;
const FLAG_TAG: u32 = 1;

/// A change to a space, borrowed from a record. Deletions come first, so that one change can replace a range.
#[derive(Clone, Copy)]
pub(crate) struct Change<'a> {
    /// Ranges of ids to delete, `[start, end)`.
    pub(crate) ranges: &'a [[u64; 2]],
    /// Ids to delete.
    pub(crate) deletes: &'a [u64],
    /// Ids to insert or replace.
    pub(crate) upserts: &'a [u64],
    /// Their components, row after row.
    pub(crate) components: &'a [f32],
}

/// A record as it stands in the journal.
pub(crate) struct Record<'a> {
    /// The number of the commit.
    pub(crate) seq: u64,
    /// The caller's tag.
    pub(crate) tag: Option<u64>,
    /// What it changes.
    pub(crate) change: Change<'a>,
    /// Bytes of header and payload.
    pub(super) len: usize,
    /// Its chained checksum.
    pub(super) chain: u32,
}

/// A record on its way into the journal, aligned to 8 bytes.
pub(crate) struct Encoded(Vec<u64>);

/// Encodes a change as a record that still lacks its number and checksum ([`seal`]).
pub(crate) fn encode(
    ranges: &[Range<u64>],
    deletes: &[u64],
    upserts: &[u64],
    components: &[f32],
    tag: Option<u64>,
) -> Result<Encoded> {
    let payload =
        16 * ranges.len() as u64 + 8 * (deletes.len() + upserts.len()) as u64 + 4 * components.len() as u64;
    let payload = payload.next_multiple_of(8);
    if payload > PAYLOAD_MAX {
        return Err(Error::BatchTooLarge {
            bytes: payload,
            limit: PAYLOAD_MAX,
        });
    }
    let mut words = Vec::with_capacity((HEADER + payload as usize) / 8);
    let flags = if tag.is_some() { FLAG_TAG } else { 0 };
    let pair = |low: usize, high: usize| low as u64 | (high as u64) << 32;
    words.extend([
        payload,
        0,
        tag.unwrap_or(0),
        pair(flags as usize, ranges.len()),
        pair(deletes.len(), upserts.len()),
    ]);
    words.resize(HEADER / 8, 0);
    words.extend(ranges.iter().flat_map(|range| [range.start, range.end]));
    words.extend_from_slice(deletes);
    words.extend_from_slice(upserts);
    let at = words.len();
    words.resize((HEADER + payload as usize) / 8, 0);
    bytemuck::cast_slice_mut(&mut words[at..])[..components.len()].copy_from_slice(components);
    let sum = crc32c::crc32c(bytemuck::cast_slice(&words[HEADER / 8..]));
    words[5] = u64::from(sum);
    Ok(Encoded(words))
}

impl Encoded {
    /// The bytes for the journal.
    pub(crate) fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }

    /// The tag and the change, for a space of this dimension.
    pub(crate) fn change(&self, dim: usize) -> (Option<u64>, Change<'_>) {
        let fields = Fields::of(self.bytes()).expect("it has a header");
        let change = fields
            .split(&self.bytes()[HEADER..], dim)
            .expect("it was encoded for this dimension");
        (fields.tag(), change)
    }

    /// Gives the record its number and its checksum, chained to that of the record before it.
    pub(super) fn seal(&mut self, seq: u64, chain: u32) -> u32 {
        self.0[1] = seq;
        let header: &mut [u8] = bytemuck::cast_slice_mut(&mut self.0[..HEADER / 8]);
        let sum = crc32c::crc32c_append(chain, &header[..HEADER - 4]);
        header[HEADER - 4..].copy_from_slice(&sum.to_le_bytes());
        sum
    }
}

/// The header of a record.
struct Fields<'a>(&'a [u8; HEADER]);

impl Fields<'_> {
    fn of(bytes: &[u8]) -> Option<Fields<'_>> {
        bytes.first_chunk().map(Fields)
    }

    fn u32_at(&self, at: usize) -> u32 {
        u32::from_le_bytes([self.0[at], self.0[at + 1], self.0[at + 2], self.0[at + 3]])
    }

    fn u64_at(&self, at: usize) -> u64 {
        u64::from(self.u32_at(at)) | u64::from(self.u32_at(at + 4)) << 32
    }

    fn tag(&self) -> Option<u64> {
        (self.u32_at(24) & FLAG_TAG != 0).then(|| self.u64_at(16))
    }

    /// Cuts a payload into its parts.
    fn split<'p>(&self, payload: &'p [u8], dim: usize) -> Option<Change<'p>> {
        let [ranges, deletes, upserts] = [28, 32, 36].map(|at| self.u32_at(at) as usize);
        let (ranges, rest) = payload.split_at_checked(ranges.checked_mul(16)?)?;
        let (deletes, rest) = rest.split_at_checked(deletes.checked_mul(8)?)?;
        let (ids, rest) = rest.split_at_checked(upserts.checked_mul(8)?)?;
        let (components, rest) = rest.split_at_checked(upserts.checked_mul(dim)?.checked_mul(4)?)?;
        if rest.len() >= 8 {
            return None;
        }
        Some(Change {
            ranges: bytemuck::try_cast_slice(ranges).ok()?,
            deletes: bytemuck::try_cast_slice(deletes).ok()?,
            upserts: bytemuck::try_cast_slice(ids).ok()?,
            components: bytemuck::try_cast_slice(components).ok()?,
        })
    }
}

/// Reads the record at the start of `bytes`, which must be aligned to 8. The error says what is wrong with it.
pub(crate) fn decode(bytes: &[u8], chain: u32, dim: usize) -> Result<Record<'_>, &'static str> {
    let fields = Fields::of(bytes).ok_or("the header is cut")?;
    let sum = fields.u32_at(HEADER - 4);
    if crc32c::crc32c_append(chain, &bytes[..HEADER - 4]) != sum {
        return Err("the header's checksum does not fit");
    }
    let len = fields.u64_at(0);
    if len > PAYLOAD_MAX || !len.is_multiple_of(8) {
        return Err("the length is impossible");
    }
    let payload = bytes
        .get(HEADER..HEADER + len as usize)
        .ok_or("the payload is cut")?;
    if crc32c::crc32c(payload) != fields.u32_at(40) {
        return Err("the payload's checksum does not fit");
    }
    let change = fields
        .split(payload, dim)
        .ok_or("the counts do not fit the length")?;
    Ok(Record {
        seq: fields.u64_at(8),
        tag: fields.tag(),
        change,
        len: HEADER + payload.len(),
        chain: sum,
    })
}

/// The bytes as a record whose length and checksums fit. For fuzzing.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn with_right_sums(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes.resize(bytes.len().max(HEADER).next_multiple_of(8), 0);
    let (header, payload) = bytes.split_at_mut(HEADER);
    header[..8].copy_from_slice(&(payload.len() as u64).to_le_bytes());
    header[40..44].copy_from_slice(&crc32c::crc32c(payload).to_le_bytes());
    let sum = crc32c::crc32c(&header[..HEADER - 4]);
    header[HEADER - 4..].copy_from_slice(&sum.to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Aligned;

    #[test]
    fn a_record_gives_back_the_change() {
        for (ranges, deletes, upserts) in [(0, 0, 0), (1, 0, 0), (0, 3, 0), (0, 0, 5), (2, 1, 3)] {
            let ranges: Vec<_> = (0..ranges).map(|i| i * 10..i * 10 + 5).collect();
            let deletes: Vec<u64> = (0..deletes).collect();
            let upserts: Vec<u64> = (0..upserts).map(|i| i << 40).collect();
            let components: Vec<f32> = (0..upserts.len() * 3).map(|i| i as f32).collect();
            let mut record = encode(&ranges, &deletes, &upserts, &components, Some(9)).unwrap();
            record.seal(77, 5);
            let bytes = crate::storage::Map::Memory(Aligned::copy_of(record.bytes()).into());
            let record = decode(&bytes, 5, 3).unwrap();
            assert_eq!((record.seq, record.tag, record.len), (77, Some(9), bytes.len()));
            assert_eq!(
                record.change.ranges,
                ranges.iter().map(|r| [r.start, r.end]).collect::<Vec<_>>()
            );
            assert_eq!(record.change.deletes, deletes);
            assert_eq!(record.change.upserts, upserts);
            assert_eq!(record.change.components, components);
        }
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let mut record = encode(&[1..2, 5..9], &[3], &[4], &[1.0, 2.0, 3.0], None).unwrap();
        record.seal(1, 0);
        let bytes = record.bytes().to_vec();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let flipped = crate::storage::Map::Memory(Aligned::copy_of(&flipped).into());
            assert!(decode(&flipped, 0, 3).is_err(), "bit {bit}");
        }
        let whole = crate::storage::Map::Memory(Aligned::copy_of(&bytes).into());
        assert!(decode(&whole, 1, 3).is_err(), "another chain");
    }
}
