//! The graph as bytes: written in one pass, opened in constant time from a private mapping.
//!
//! # Bytes
//! All numbers are little-endian; sections start at multiples of 4096 and are zero-filled up to there.
//!
//! | section | content |
//! |---|---|
//! | header | magic `VXGRAPH1`, u32 dimension, measure (0 L2, 1 dot, 2 cosine), degree, spare, build_ef, f32 alpha, u64 seed, u32 slots `n`, u32 rows `m`, u32 length of the centre (0 or the dimension), then the centre as f32 |
//! | codes | `n` codes of `D / 2` bytes, `D` the dimension rounded up to 64 |
//! | factors | `n` times f32 scale, f32 squared length |
//! | edges | `n` times `degree + spare` u32, inverted bits (0 is no edge) |
//! | rows | `n` u32, inverted bits: the slot's row, 0 vacant, 1 marked |
//! | slots | `m` u32: the row's slot + 1, or 0 |
//! | entries | 256 u32 slots, all ones for none: an even sample, then those that cover the rest |
//!
//! There is no checksum inside: whoever keeps the bytes in a file has one. Bytes that are damaged all the same give
//! wrong answers, never a read outside the graph.

use std::io::{self, Write};
use std::sync::atomic::Ordering;

use memmap2::MmapMut;

use super::entry::ENTRIES;
use super::{Graph, GraphError, GraphParams, NONE, ROW_MARKED};
use crate::measure::Measure;

const MAGIC: &[u8; 8] = b"VXGRAPH1";
const PAGE: usize = 4096;
const HEADER: usize = 52;

impl Graph {
    /// Writes the graph. Inserts and deletes must not run meanwhile, searches may.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write_to(&self, out: &mut impl Write) -> io::Result<()> {
        let used = self.used.load(Ordering::Acquire);
        let rows = self.row_words();
        let mut header = MAGIC.to_vec();
        let measure = match self.measure {
            Measure::L2 => 0,
            Measure::Dot => 1,
            Measure::Cosine => 2,
        };
        let centre = self.params.centre.as_deref().unwrap_or_default();
        let word = |n: usize| u32::try_from(n).expect("sizes of a graph fit 32 bits");
        for number in [
            word(self.dim()),
            measure,
            word(self.params.degree),
            word(self.params.spare),
        ] {
            header.extend(number.to_le_bytes());
        }
        header.extend(word(self.params.build_ef).to_le_bytes());
        header.extend(self.params.alpha.to_le_bytes());
        header.extend(self.params.seed.to_le_bytes());
        for number in [used, rows, word(centre.len())] {
            header.extend(number.to_le_bytes());
        }
        centre.iter().for_each(|x| header.extend(x.to_le_bytes()));
        section(out, std::iter::once(header.as_slice()))?;
        // SAFETY: each record below `used` has as many bytes as its arena's stride; the caller keeps writers away, and
        // edges that a search reads meanwhile are not changed by reading.
        let record = |arena: &super::Arena, i: u32| unsafe {
            std::slice::from_raw_parts(arena.at(i).cast_const(), arena.stride())
        };
        for arena in [&self.codes, &self.factors, &self.edges, &self.rows] {
            section(out, (0..used).map(|i| record(arena, i)))?;
        }
        section(out, (0..rows).map(|i| record(&self.slots, i)))?;
        let entries = self.entries.slots();
        let bytes: Vec<u8> = entries.iter().flat_map(|e| e.to_le_bytes()).collect();
        section(out, std::iter::once(bytes.as_slice()))
    }

    /// Reads a graph into memory of its own, with huge pages; the fastest to search.
    ///
    /// # Errors
    /// [`GraphError::Corrupt`] if the bytes are no graph, [`GraphError::NoMemory`].
    pub fn read(bytes: &[u8]) -> Result<Graph, GraphError> {
        let (graph, layout) = Graph::parse(bytes)?;
        for (arena, from, count) in graph.sections(&layout) {
            let source = bytes.get(from..from + count as usize * arena.stride());
            let source = source.ok_or(GraphError::Corrupt("cut short"))?;
            if count > 0 {
                arena.reserve(count - 1)?;
            }
            for (i, record) in (0..count).zip(source.chunks_exact(arena.stride())) {
                // SAFETY: the record was reserved, the graph is not shared yet.
                unsafe { std::ptr::copy_nonoverlapping(record.as_ptr(), arena.at(i), record.len()) };
            }
        }
        graph.settle(bytes, &layout)?;
        Ok(graph)
    }

    /// Opens a graph from a private (copy-on-write) mapping that starts with it; nothing is read but the header and the
    /// entries' page. Changes stay in memory: the file is never written.
    ///
    /// # Errors
    /// [`GraphError::Corrupt`] if the bytes are no graph.
    pub fn open(map: MmapMut) -> Result<Graph, GraphError> {
        let (mut graph, layout) = Graph::parse(&map)?;
        if !(map.as_ptr() as usize).is_multiple_of(PAGE) {
            return Err(GraphError::Corrupt("the mapping does not start at a page"));
        }
        graph.settle(&map, &layout)?;
        let map = std::sync::Arc::new(map);
        let ends = layout.clone();
        for (i, arena) in [
            &mut graph.codes,
            &mut graph.factors,
            &mut graph.edges,
            &mut graph.rows,
            &mut graph.slots,
        ]
        .into_iter()
        .enumerate()
        {
            let count = if i == 4 { ends.rows } else { ends.used };
            arena.adopt(std::sync::Arc::clone(&map), ends.starts[i], count as usize)?;
        }
        Ok(graph)
    }

    fn sections(&self, layout: &Layout) -> [(&super::Arena, usize, u32); 5] {
        let [codes, factors, edges, rows, slots, _] = layout.starts;
        [
            (&self.codes, codes, layout.used),
            (&self.factors, factors, layout.used),
            (&self.edges, edges, layout.used),
            (&self.rows, rows, layout.used),
            (&self.slots, slots, layout.rows),
        ]
    }

    /// Rows that may have a slot: one more than the largest.
    fn row_words(&self) -> u32 {
        let largest = (0..self.used.load(Ordering::Acquire))
            .filter_map(|slot| self.row_of(slot))
            .max();
        largest.map_or(0, |row| row + 1)
    }

    fn parse(bytes: &[u8]) -> Result<(Graph, Layout), GraphError> {
        let corrupt = GraphError::Corrupt;
        if bytes.len() < HEADER || &bytes[..8] != MAGIC {
            return Err(corrupt("no graph, or of another version"));
        }
        let u = |i: usize| u32::from_le_bytes(std::array::from_fn(|b| bytes[8 + 4 * i + b]));
        let seed = u64::from(u(6)) | u64::from(u(7)) << 32;
        let measure = match u(1) {
            0 => Measure::L2,
            1 => Measure::Dot,
            2 => Measure::Cosine,
            _ => return Err(corrupt("unknown measure")),
        };
        let (dim, degree, spare, build_ef) = (u(0) as usize, u(2) as usize, u(3) as usize, u(4) as usize);
        let (alpha, used, rows, centred) = (f32::from_bits(u(5)), u(8), u(9), u(10) as usize);
        if dim == 0 || dim > 1 << 20 || !(4..=64).contains(&degree) || spare > 64 - degree {
            return Err(corrupt("impossible dimension or degree"));
        }
        if used >= 1 << 31 || build_ef > 1 << 20 || !alpha.is_finite() || (centred != 0 && centred != dim) {
            return Err(corrupt("impossible header"));
        }
        let centre = bytes
            .get(HEADER..HEADER + 4 * centred)
            .ok_or(corrupt("cut short"))?;
        let centre: Vec<f32> = centre
            .chunks_exact(4)
            .map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]]))
            .collect();
        let centre = (centred > 0).then_some(centre);
        let graph = Graph::new(
            dim,
            measure,
            GraphParams {
                degree,
                spare,
                build_ef,
                alpha,
                seed,
                centre,
            },
        );
        let mut at = (HEADER + 4 * centred).next_multiple_of(PAGE);
        let mut starts = [0; 6];
        let sizes = [
            used as usize * graph.codes.stride(),
            used as usize * graph.factors.stride(),
            used as usize * graph.edges.stride(),
            used as usize * graph.rows.stride(),
            rows as usize * graph.slots.stride(),
            ENTRIES * 4,
        ];
        for (start, size) in starts.iter_mut().zip(sizes) {
            *start = at;
            at = (at + size).next_multiple_of(PAGE);
        }
        if bytes.len() < at {
            return Err(corrupt("cut short"));
        }
        Ok((graph, Layout { used, rows, starts }))
    }

    /// Sets what is counted rather than stored.
    fn settle(&self, bytes: &[u8], layout: &Layout) -> Result<(), GraphError> {
        let words = |from: usize, count: usize| {
            bytes[from..from + 4 * count]
                .chunks_exact(4)
                .map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]]))
        };
        let mut reuse = self.reuse.lock();
        for (slot, word) in (0..).zip(words(layout.starts[3], layout.used as usize)) {
            match word {
                0 => reuse.free.push(slot),
                w if w == !ROW_MARKED => reuse.marked.push(slot),
                _ => {}
            }
        }
        self.used.store(layout.used, Ordering::Release);
        if layout.used > 0 {
            self.vacancies.reserve((layout.used - 1) / 32)?;
        }
        reuse.free.iter().for_each(|&slot| self.set_vacant(slot));
        self.marked.store(reuse.marked.len(), Ordering::SeqCst);
        self.live.store(
            layout.used as usize - reuse.free.len() - reuse.marked.len(),
            Ordering::Relaxed,
        );
        let entries: Vec<u32> = words(layout.starts[5], ENTRIES).collect();
        if entries.iter().any(|&e| e != NONE && e >= layout.used) {
            return Err(GraphError::Corrupt("an entry beyond the last node"));
        }
        self.entries.restore(entries);
        Ok(())
    }
}

/// Where the sections lie.
#[derive(Clone)]
struct Layout {
    used: u32,
    rows: u32,
    starts: [usize; 6],
}

/// Writes records one after the other and zeros up to the next page.
fn section<'a>(out: &mut impl Write, records: impl Iterator<Item = &'a [u8]>) -> io::Result<()> {
    let mut length = 0;
    for record in records {
        out.write_all(record)?;
        length += record.len();
    }
    let zeros = [0; PAGE];
    out.write_all(&zeros[..length.next_multiple_of(PAGE) - length])
}
