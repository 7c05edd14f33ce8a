//! A flat proximity graph over nibble codes, for approximate search in large spaces.
//!
//! Every row is a node with up to [`GraphParams::degree`] edges chosen by the rule of Vamana (an edge is left out when
//! another neighbour is nearer to its end by a factor alpha), filled up with the nearest of those left out; reverse
//! edges go into a few spare slots and only a full list is chosen anew. A search is a beam: expand the nearest
//! unexpanded node, estimate the distances of its unseen neighbours from 4-bit codes, keep the `ef` nearest; the best
//! of them are measured exactly with the rows that the caller holds. It starts at the nearest of a fixed sample of
//! nodes. (Subramanya et al., "DiskANN", NeurIPS 2019; Aguerrebere et al., "Similarity search in the blink of an eye
//! with compressed indices", VLDB 2023; Singh et al., "FreshDiskANN", 2021.)
//!
//! # Concurrency
//! All methods take `&self`. Searches take no lock: an edge is one atomic word, every value it ever had names a node
//! whose code may be read, and a node's memory is used again only after all searches that might have met it ended.
//! Inserts lock one edge list at a time (striped); one sweep runs at a time. Lock order: sweep, then a stripe, then
//! the slot list.
//!
//! # Deletion
//! [`Graph::delete`] marks: the row is never returned again, but still leads to others. [`Graph::sweep`] reconnects the
//! neighbours of marked nodes with the neighbours' neighbours and gives the slots back.

mod arena;
mod batch;
mod beam;
mod crew;
mod delete;
mod entry;
mod grace;
mod insert;
mod pack;
mod persist;
mod prune;
mod search;
mod visited;
mod walk;

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use parking_lot::Mutex;
use thiserror::Error;

use crate::kernel::Kernels;
use crate::measure::Measure;
use crate::quant::{NibbleCodes, NibbleFactors};
use arena::Arena;
use entry::Entries;
use grace::Grace;
use search::Scratch;

pub use search::Effort;

/// No edge, no slot, no row.
const NONE: u32 = u32::MAX;

/// Edge lists sharing a lock; more than the threads that will ever insert at once.
const STRIPES: usize = 1024;

/// What cannot be done with a graph.
#[derive(Debug, Error)]
pub enum GraphError {
    /// The vector has another dimension than the graph.
    #[error("vector of dimension {got}, the graph has {want}")]
    WrongDimension {
        /// The graph's dimension.
        want: usize,
        /// The vector's.
        got: usize,
    },
    /// The vector holds NaN or an infinity, or for cosine has no direction.
    #[error("vector with a value that is not finite, or of length zero under the cosine measure")]
    NotFinite,
    /// The row is in the graph already.
    #[error("row {0} is in the graph already")]
    Duplicate(u32),
    /// The system gave no memory; the graph is unchanged.
    #[error("no memory for more nodes: {0}")]
    NoMemory(#[from] std::io::Error),
    /// The bytes are no graph of this version, or damaged.
    #[error("not a graph: {0}")]
    Corrupt(&'static str),
}

/// The numbers that shape a graph.
#[derive(Clone, Debug, PartialEq)]
pub struct GraphParams {
    /// Edges chosen for a node.
    pub degree: usize,
    /// Further slots for reverse edges before the list is chosen anew.
    pub spare: usize,
    /// Candidates kept while searching for a new node's neighbours.
    pub build_ef: usize,
    /// An edge to `c` is left out if a chosen neighbour `s` has `alpha * distance(s, c) < distance(node, c)`.
    pub alpha: f32,
    /// Seed of the rotation.
    pub seed: u64,
    /// A mean of the data, subtracted before coding; helps where all vectors point the same way.
    pub centre: Option<Vec<f32>>,
}

impl Default for GraphParams {
    fn default() -> GraphParams {
        GraphParams {
            degree: 32,
            spare: 16,
            build_ef: 96,
            alpha: 1.15,
            seed: 0x5eed,
            centre: None,
        }
    }
}

/// The graph. Rows are numbered by the caller; the exact vectors stay with the caller too.
pub struct Graph {
    measure: Measure,
    params: GraphParams,
    coder: NibbleCodes,
    kernels: &'static Kernels,
    /// Per slot: the nibbles.
    codes: Arena,
    /// Per slot: [`NibbleFactors`].
    factors: Arena,
    /// Per slot: `degree + spare` edges, [`NONE`] after the last (stored with all bits flipped, so zero is none).
    edges: Arena,
    /// Per slot: its row and state, see [`Graph::row_of`].
    rows: Arena,
    /// A bit per slot whose code must not be read, so that a walk need not load the row of every neighbour.
    vacancies: Arena,
    /// Per row: its slot plus one, or 0, or [`INSERTING`].
    slots: Arena,
    used: AtomicU32,
    live: AtomicUsize,
    entries: Entries,
    stripes: Vec<Mutex<()>>,
    reuse: Mutex<Reuse>,
    /// Marked nodes that still lead searches.
    marked: AtomicUsize,
    /// Bits set in `vacancies`.
    vacant: AtomicUsize,
    sweeping: Mutex<()>,
    grace: Grace,
    scratch: Mutex<Vec<Scratch>>,
}

#[derive(Default)]
struct Reuse {
    marked: Vec<u32>,
    free: Vec<u32>,
}

/// The slot word of a row that an insert is at work on: no slot there is.
const INSERTING: u32 = u32::MAX;

/// The row word of a slot: the row, or one of these.
const ROW_NONE: u32 = u32::MAX;
const ROW_MARKED: u32 = u32::MAX - 1;
const ROW_MAX: u32 = u32::MAX - 2;

impl Graph {
    /// An empty graph of `dim`-dimensional vectors.
    ///
    /// # Panics
    /// If `dim` is 0, the centre has another length, or the degree is not in 4..=64 with at most 64 slots in all.
    pub fn new(dim: usize, measure: Measure, params: GraphParams) -> Graph {
        assert!(
            (4..=64).contains(&params.degree) && params.degree + params.spare <= 64,
            "impossible degree"
        );
        let coder = NibbleCodes::new(dim, params.seed, params.centre.clone());
        Graph {
            measure,
            codes: Arena::new(coder.code_bytes()),
            factors: Arena::new(size_of::<NibbleFactors>()),
            edges: Arena::new((params.degree + params.spare) * 4),
            rows: Arena::new(4),
            vacancies: Arena::new(4),
            slots: Arena::new(4),
            coder,
            kernels: Kernels::get(),
            params,
            used: AtomicU32::new(0),
            live: AtomicUsize::new(0),
            entries: Entries::new(measure),
            stripes: (0..STRIPES).map(|_| Mutex::new(())).collect(),
            reuse: Mutex::default(),
            marked: AtomicUsize::new(0),
            vacant: AtomicUsize::new(0),
            sweeping: Mutex::new(()),
            grace: Grace::default(),
            scratch: Mutex::default(),
        }
    }

    /// The dimension of every vector.
    pub fn dim(&self) -> usize {
        self.coder.dim()
    }

    /// The measure of every search.
    pub fn measure(&self) -> Measure {
        self.measure
    }

    /// The numbers it was made with.
    pub fn params(&self) -> &GraphParams {
        &self.params
    }

    /// Rows that searches can return.
    pub fn len(&self) -> usize {
        self.live.load(Ordering::Relaxed)
    }

    /// True if no search can return anything.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Deleted rows that wait for a [`Graph::sweep`].
    pub fn marked(&self) -> usize {
        self.marked.load(Ordering::Relaxed)
    }

    /// True if `row` is in the graph.
    pub fn contains(&self, row: u32) -> bool {
        self.slot_of(row).is_some()
    }

    /// Bytes of memory that the nodes occupy.
    pub fn bytes(&self) -> usize {
        let per_slot = self.codes.stride() + self.factors.stride() + self.edges.stride() + self.rows.stride();
        self.used.load(Ordering::Relaxed) as usize * per_slot
            + self.slots.capacity() * self.slots.stride().min(4)
    }

    fn slots_per_node(&self) -> usize {
        self.params.degree + self.params.spare
    }

    /// The slot of a row that is in the graph.
    fn slot_of(&self, row: u32) -> Option<u32> {
        if row as usize >= self.slots.capacity() {
            return None;
        }
        let slot = self.slots.word(row, 0).load(Ordering::Acquire).checked_sub(1)?;
        // One that is being inserted, or damaged bytes, name a slot that is not there.
        (slot < self.used.load(Ordering::Acquire)).then_some(slot)
    }

    /// The row of a slot, unless it is marked or vacant.
    #[inline]
    fn row_of(&self, slot: u32) -> Option<u32> {
        let row = !self.rows.word(slot, 0).load(Ordering::Acquire);
        (row <= ROW_MAX).then_some(row)
    }

    /// True if the slot was given back and not taken again. A slot never used before is not vacant: nothing leads to it
    /// until it is written.
    #[inline]
    fn is_vacant(&self, slot: u32) -> bool {
        self.vacancies.word(slot / 32, 0).load(Ordering::SeqCst) >> (slot % 32) & 1 == 1
    }

    fn set_vacant(&self, slot: u32) {
        self.vacant.fetch_add(1, Ordering::SeqCst);
        self.vacancies
            .word(slot / 32, 0)
            .fetch_or(1 << (slot % 32), Ordering::SeqCst);
    }

    /// Called when the slot's code and edges are written.
    fn clear_vacant(&self, slot: u32) {
        let before = self
            .vacancies
            .word(slot / 32, 0)
            .fetch_and(!(1 << (slot % 32)), Ordering::SeqCst);
        if before >> (slot % 32) & 1 == 1 {
            self.vacant.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn set_row(&self, slot: u32, row: u32) {
        self.rows.word(slot, 0).store(!row, Ordering::SeqCst);
    }

    /// Edge `i` of a slot, or [`NONE`].
    #[inline]
    fn edge(&self, slot: u32, i: usize) -> u32 {
        !self.edges.word(slot, i).load(Ordering::Acquire)
    }

    /// All edge words of a slot: edges with their bits flipped, zeros after the last.
    #[inline]
    fn edge_words(&self, slot: u32) -> &[AtomicU32] {
        // SAFETY: the arena has `stride` bytes for the slot, aligned to 4, accessed as atomic words only.
        unsafe { std::slice::from_raw_parts(self.edges.at(slot).cast(), self.slots_per_node()) }
    }

    fn set_edge(&self, slot: u32, i: usize, to: u32) {
        self.edges.word(slot, i).store(!to, Ordering::Release);
    }

    /// The edges of a slot, in order.
    fn edges_of(&self, slot: u32) -> impl Iterator<Item = u32> + '_ {
        (0..self.slots_per_node())
            .map(move |i| self.edge(slot, i))
            .take_while(|&e| e != NONE)
    }

    fn stripe(&self, slot: u32) -> &Mutex<()> {
        &self.stripes[slot as usize % STRIPES]
    }

    /// The factors of a slot that is not vacant.
    #[inline]
    fn factors_of(&self, slot: u32) -> NibbleFactors {
        // SAFETY: the arena has `stride` = size_of NibbleFactors bytes for the slot, aligned to 8; they were written
        // before the slot could be reached and are not written again while it can.
        unsafe { *self.factors.at(slot).cast::<NibbleFactors>() }
    }

    /// The code of a slot that is not vacant.
    #[inline]
    fn code_of(&self, slot: u32) -> &[u8] {
        // SAFETY: as for the factors; the code is `stride` bytes long.
        unsafe { std::slice::from_raw_parts(self.codes.at(slot), self.coder.code_bytes()) }
    }

    fn check(&self, vector: &[f32]) -> Result<(), GraphError> {
        if vector.len() != self.dim() {
            return Err(GraphError::WrongDimension {
                want: self.dim(),
                got: vector.len(),
            });
        }
        let length2: f32 = vector.iter().map(|x| x * x).sum();
        let directed = self.measure != Measure::Cosine || length2 > 0.0;
        if length2.is_finite() && directed {
            Ok(())
        } else {
            Err(GraphError::NotFinite)
        }
    }

    fn with_scratch<T>(&self, work: impl FnOnce(&mut Scratch) -> T) -> T {
        let mut scratch = self.scratch.lock().pop().unwrap_or_default();
        let result = work(&mut scratch);
        self.scratch.lock().push(scratch);
        result
    }
}

#[cfg(test)]
mod tests;
