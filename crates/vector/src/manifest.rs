//! The two small files that are replaced as a whole: a space's manifest and the database's catalog.

use std::path::Path;

use roaring::RoaringBitmap;

use crate::error::{Error, Result};
use crate::space::SpaceConfig;

/// The version of the manifest and the catalog.
pub(crate) const VERSION: u32 = 1;
const MANIFEST_MAGIC: &[u8; 8] = b"VXMANI\r\n";
const CATALOG_MAGIC: &[u8; 8] = b"VXCATA\r\n";

/// What a space consists of: its segments, and where the journal continues.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Manifest {
    pub(crate) config: SpaceConfig,
    /// The last commit that the segments hold.
    pub(crate) seq: u64,
    /// The tag of the last tagged commit among those.
    pub(crate) tag: Option<u64>,
    /// Journals with lower numbers are obsolete.
    pub(crate) journal_from: u64,
    /// The first number that no segment has used.
    pub(crate) next_number: u64,
    /// The graph file, if one was written.
    pub(crate) graph: Option<u64>,
    pub(crate) segments: Vec<SegmentEntry>,
}

/// A segment as the manifest lists it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SegmentEntry {
    pub(crate) number: u64,
    pub(crate) rows: u64,
    /// Rows deleted up to the manifest's commit.
    pub(crate) dead: RoaringBitmap,
}

impl Manifest {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for field in self.config.shape() {
            out.extend_from_slice(&field.to_le_bytes());
        }
        let flags = u32::from(self.tag.is_some()) | u32::from(self.graph.is_some()) << 1;
        out.extend_from_slice(&flags.to_le_bytes());
        let fields = [
            self.seq,
            self.tag.unwrap_or(0),
            self.journal_from,
            self.next_number,
            self.graph.unwrap_or(0),
        ];
        for field in fields.into_iter().chain([self.segments.len() as u64]) {
            out.extend_from_slice(&field.to_le_bytes());
        }
        for segment in &self.segments {
            for field in [
                segment.number,
                segment.rows,
                segment.dead.serialized_size() as u64,
            ] {
                out.extend_from_slice(&field.to_le_bytes());
            }
            segment
                .dead
                .serialize_into(&mut out)
                .expect("writing into a vector does not fail");
        }
        frame(MANIFEST_MAGIC, out)
    }

    pub(crate) fn decode(bytes: &[u8], path: &Path) -> Result<Manifest> {
        let mut body = Body::open(bytes, MANIFEST_MAGIC, path)?;
        body.manifest()
            .ok_or_else(|| Error::corrupt(path, "its fields do not fit its length"))
    }
}

/// Bodies with the right frame. For fuzzing.
#[cfg(any(test, feature = "fuzzing"))]
impl Manifest {
    pub(crate) fn decode_body(body: &[u8], path: &Path) -> Result<Manifest> {
        Manifest::decode(&frame(MANIFEST_MAGIC, body.to_vec()), path)
    }
}

/// Bodies with the right frame. For fuzzing.
#[cfg(any(test, feature = "fuzzing"))]
impl Catalog {
    pub(crate) fn decode_body(body: &[u8], path: &Path) -> Result<Catalog> {
        Catalog::decode(&frame(CATALOG_MAGIC, body.to_vec()), path)
    }
}

/// The spaces of a database, by name.
#[derive(Clone, Debug, PartialEq, Default)]
pub(crate) struct Catalog {
    /// The first directory number that no space has used.
    pub(crate) next_number: u64,
    /// Name and directory number.
    pub(crate) spaces: Vec<(String, u64)>,
}

impl Catalog {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&self.next_number.to_le_bytes());
        out.extend_from_slice(&(self.spaces.len() as u64).to_le_bytes());
        for (name, number) in &self.spaces {
            out.extend_from_slice(&number.to_le_bytes());
            out.extend_from_slice(&(name.len() as u64).to_le_bytes());
            out.extend_from_slice(name.as_bytes());
        }
        frame(CATALOG_MAGIC, out)
    }

    pub(crate) fn decode(bytes: &[u8], path: &Path) -> Result<Catalog> {
        let mut body = Body::open(bytes, CATALOG_MAGIC, path)?;
        body.catalog()
            .ok_or_else(|| Error::corrupt(path, "its fields do not fit its length"))
    }
}

/// Puts magic, version, length and checksum before a body.
fn frame(magic: &[u8; 8], body: Vec<u8>) -> Vec<u8> {
    let mut out = Vec::with_capacity(24 + body.len());
    out.extend_from_slice(magic);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&(body.len() as u64).to_le_bytes());
    out.extend_from_slice(&body);
    let sum = crc32c::crc32c(&out);
    out.extend_from_slice(&sum.to_le_bytes());
    out
}

/// The bytes of a body not yet read. Every reader returns `None` at their end.
struct Body<'a>(&'a [u8]);

impl<'a> Body<'a> {
    fn open(bytes: &'a [u8], magic: &[u8; 8], path: &Path) -> Result<Body<'a>> {
        let (framed, sum) = bytes
            .split_last_chunk::<4>()
            .ok_or_else(|| Error::corrupt(path, "it is cut"))?;
        if framed.len() < 24 || &framed[..8] != magic || crc32c::crc32c(framed) != u32::from_le_bytes(*sum) {
            return Err(Error::corrupt(path, "its checksum does not fit"));
        }
        let mut body = Body(&framed[8..]);
        let version = body.u32().unwrap_or(0);
        if version > VERSION {
            return Err(Error::Version {
                file: path.display().to_string(),
                found: version,
                supported: VERSION,
            });
        }
        body.u32();
        match body.u64() {
            Some(len) if len == body.0.len() as u64 => Ok(body),
            _ => Err(Error::corrupt(path, "its length is not the one in its header")),
        }
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (now, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(now)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from(self.u32()?) | u64::from(self.u32()?) << 32)
    }

    fn manifest(&mut self) -> Option<Manifest> {
        let config = SpaceConfig::from_shape([self.u32()?, self.u32()?, self.u32()?])?;
        let flags = self.u32()?;
        let (seq, tag, journal_from) = (self.u64()?, self.u64()?, self.u64()?);
        let (next_number, graph, count) = (self.u64()?, self.u64()?, self.u64()?);
        let segments = (0..count).map(|_| self.segment()).collect::<Option<Vec<_>>>()?;
        let tag = (flags & 1 != 0).then_some(tag);
        let graph = (flags & 2 != 0).then_some(graph);
        self.0.is_empty().then_some(Manifest {
            config,
            seq,
            tag,
            journal_from,
            next_number,
            graph,
            segments,
        })
    }

    fn segment(&mut self) -> Option<SegmentEntry> {
        let (number, rows, len) = (self.u64()?, self.u64()?, self.u64()?);
        let bytes = self.take(usize::try_from(len).ok()?)?;
        let dead = RoaringBitmap::deserialize_from(bytes).ok()?;
        (dead.max().is_none_or(|max| u64::from(max) < rows)).then_some(SegmentEntry { number, rows, dead })
    }

    fn catalog(&mut self) -> Option<Catalog> {
        let (next_number, count) = (self.u64()?, self.u64()?);
        let spaces = (0..count).map(|_| {
            let (number, len) = (self.u64()?, self.u64()?);
            let name = self.take(usize::try_from(len).ok()?)?;
            Some((String::from_utf8(name.to_vec()).ok()?, number))
        });
        let spaces = spaces.collect::<Option<Vec<_>>>()?;
        self.0.is_empty().then_some(Catalog { next_number, spaces })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Measure;

    fn manifest() -> Manifest {
        Manifest {
            config: SpaceConfig::new(7, Measure::Cosine),
            seq: 12,
            tag: Some(3),
            journal_from: 4,
            next_number: 9,
            graph: Some(8),
            segments: vec![
                SegmentEntry {
                    number: 1,
                    rows: 100,
                    dead: (5..50).collect(),
                },
                SegmentEntry {
                    number: 5,
                    rows: 1,
                    dead: RoaringBitmap::new(),
                },
            ],
        }
    }

    #[test]
    fn what_was_encoded_is_decoded() {
        let path = Path::new("x");
        assert_eq!(Manifest::decode(&manifest().encode(), path).unwrap(), manifest());
        let catalog = Catalog {
            next_number: 3,
            spaces: vec![("ä b".into(), 1), ("c".into(), 2)],
        };
        assert_eq!(Catalog::decode(&catalog.encode(), path).unwrap(), catalog);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_seen() {
        let bytes = manifest().encode();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Manifest::decode(&flipped, Path::new("x")).is_err(), "bit {bit}");
        }
        for len in 0..bytes.len() {
            assert!(
                Manifest::decode(&bytes[..len], Path::new("x")).is_err(),
                "cut to {len}"
            );
        }
    }
}
