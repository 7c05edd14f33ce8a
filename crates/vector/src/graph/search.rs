//! Walking the graph: the beam, its filtered form, and the exact rerank.

use std::sync::atomic::Ordering;

use super::beam::{self, Beam, Key};
use super::visited::Visited;
use super::{Graph, GraphError, NONE};
use crate::measure::Measure;
use crate::quant::NibbleQuery;
use crate::scan::{Allowed, Rows, prefetch, rerank};
use crate::topk::TopK;

/// How hard a search tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effort {
    /// Nodes kept in the beam. More finds more and costs in proportion.
    pub ef: usize,
    /// Of those, how many are measured exactly.
    pub rerank: usize,
}

impl Effort {
    /// An effort for the `k` nearest with a beam of `ef`: reranks twice `k`, and not less than 20.
    pub fn new(ef: usize, k: usize) -> Effort {
        Effort {
            ef: ef.max(k),
            rerank: (2 * k).max(20),
        }
    }
}

/// Edges of a node, with room for all.
const FAN: usize = 64;

/// Working memory of one search or insert, reused.
#[derive(Default)]
pub(super) struct Scratch {
    pub(super) query: NibbleQuery,
    pub(super) work: Vec<f32>,
    pub(super) beam: Beam,
    pub(super) prune: super::prune::PruneScratch,
    visited: Visited,
    batch: Batch,
    found: Vec<Key>,
}

impl Graph {
    /// The `k` nearest allowed rows that a walk with this effort finds, nearest first with exact distances.
    ///
    /// A filter is tested on the way. Marked and disallowed nodes lead the walk but do not count: the walk goes on until
    /// `ef` allowed nodes are nearer than anything left to expand, so its cost grows like the inverse of the
    /// selectivity; below some percent a scan of the allowed rows is cheaper ([`crate::scan::Costs`]).
    ///
    /// # Errors
    /// [`GraphError::WrongDimension`] or [`GraphError::NotFinite`].
    pub fn search(
        &self,
        query: &[f32],
        k: usize,
        effort: Effort,
        allowed: Allowed<'_>,
        rows: &dyn Rows,
    ) -> Result<Vec<(u32, f32)>, GraphError> {
        let mut candidates = self.candidates(query, effort, effort.rerank.max(k), allowed)?;
        candidates.retain(|&row| (row as usize) < rows.len());
        Ok(rerank(query, self.measure, rows, &candidates, k))
    }

    /// All rows within `radius` that a widening walk finds, nearest first: the beam doubles until less than half of it
    /// lies inside.
    ///
    /// # Errors
    /// [`GraphError::WrongDimension`] or [`GraphError::NotFinite`].
    pub fn search_range(
        &self,
        query: &[f32],
        radius: f32,
        ef: usize,
        allowed: Allowed<'_>,
        rows: &dyn Rows,
    ) -> Result<Vec<(u32, f32)>, GraphError> {
        let mut ef = ef.max(16);
        loop {
            let candidates = self.candidates(query, Effort { ef, rerank: ef }, ef, allowed)?;
            let count = candidates.len();
            let mut found = rerank(query, self.measure, rows, &candidates, count);
            found.retain(|p| p.1 <= radius);
            if found.len() < count / 2 || count < ef || ef >= self.len() {
                return Ok(found);
            }
            ef *= 2;
        }
    }

    /// [`Graph::search`] for several queries, one after the other in `queries`, on up to `threads` threads.
    ///
    /// # Errors
    /// [`GraphError::WrongDimension`] or [`GraphError::NotFinite`] of any query.
    pub fn search_batch(
        &self,
        queries: &[f32],
        k: usize,
        effort: Effort,
        allowed: Allowed<'_>,
        rows: &dyn Rows,
        threads: usize,
    ) -> Result<Vec<Vec<(u32, f32)>>, GraphError> {
        if !queries.len().is_multiple_of(self.dim()) {
            return Err(GraphError::WrongDimension {
                want: self.dim(),
                got: queries.len() % self.dim(),
            });
        }
        let one = |i: usize| self.search(&queries[i * self.dim()..][..self.dim()], k, effort, allowed, rows);
        crate::scan::in_parallel(queries.len() / self.dim(), threads, one)
            .into_iter()
            .collect()
    }

    /// The smallest beam with which the sample's recall reaches `target`, found by comparing with an exact scan; the
    /// largest tried (4096, or all rows) if none does. `queries` are held-out or typical vectors, some dozens.
    ///
    /// # Errors
    /// [`GraphError::WrongDimension`] or [`GraphError::NotFinite`] of any query.
    pub fn calibrate(
        &self,
        queries: &[f32],
        k: usize,
        target: f32,
        rows: &dyn Rows,
    ) -> Result<Effort, GraphError> {
        let live = |row: u32| self.contains(row);
        let truth: Vec<Vec<(u32, f32)>> = queries
            .chunks_exact(self.dim())
            .map(|q| crate::scan::exact(q, self.measure, rows, Allowed::Test(&live), k))
            .collect();
        let wanted: usize = truth.iter().map(Vec::len).sum();
        let mut ef = k.max(8);
        loop {
            let effort = Effort::new(ef, k);
            let mut hits = 0;
            for (q, truth) in queries.chunks_exact(self.dim()).zip(&truth) {
                let farthest = truth.last().map_or(f32::NEG_INFINITY, |p| p.1);
                hits += self
                    .search(q, k, effort, Allowed::All, rows)?
                    .iter()
                    .filter(|p| p.1 <= farthest)
                    .count();
            }
            if hits as f32 >= target * wanted as f32 || ef >= 4096.min(self.len()) {
                return Ok(effort);
            }
            ef = (ef + ef / 4).max(ef + 2);
        }
    }

    /// Rows in the order of their estimated distances: at most `count`.
    pub(super) fn candidates(
        &self,
        query: &[f32],
        effort: Effort,
        count: usize,
        allowed: Allowed<'_>,
    ) -> Result<Vec<u32>, GraphError> {
        self.check_query(query)?;
        let _reader = self.grace.enter();
        Ok(self.with_scratch(|s| {
            self.prepare(query, &mut s.query, &mut s.work);
            if allowed.is_all() && self.marked() == 0 {
                self.walk(s, effort.ef);
                // A slot may have been deleted since: it has no row.
                s.beam
                    .keys()
                    .iter()
                    .filter_map(|&key| self.row_of(beam::slot(key)))
                    .take(count)
                    .collect()
            } else {
                self.walk_filtered(s, effort.ef, allowed);
                s.found
                    .iter()
                    .filter_map(|&key| self.row_of(beam::slot(key)))
                    .take(count)
                    .collect()
            }
        }))
    }

    /// A query of length zero is allowed: under cosine everything is at distance 1.
    fn check_query(&self, query: &[f32]) -> Result<(), GraphError> {
        match self.check(query) {
            Err(GraphError::NotFinite) if query.iter().all(|x| *x == 0.0) => Ok(()),
            other => other,
        }
    }

    /// Codes a query or a new vector; under cosine at unit length.
    pub(super) fn prepare(&self, vector: &[f32], query: &mut NibbleQuery, work: &mut Vec<f32>) {
        if self.measure == Measure::Cosine {
            self.coder.prepare(&unit(vector), Measure::Cosine, query, work);
        } else {
            self.coder.prepare(vector, self.measure, query, work);
        }
    }

    /// Fills the beam of `s` with the nearest nodes, marked ones included.
    pub(super) fn walk(&self, s: &mut Scratch, ef: usize) {
        let Scratch {
            query,
            beam,
            visited,
            batch,
            ..
        } = s;
        visited.reset(self.used.load(Ordering::Acquire));
        beam.reset(ef);
        self.start(query, visited, batch, |key| beam.push(key));
        while let Some(key) = beam.pop() {
            if let Some(next) = beam.peek() {
                self.prefetch_edges(beam::slot(next));
            }
            self.expand(beam::slot(key), query, visited, batch, |key| beam.push(key));
        }
    }

    /// Fills `found` with the `ef` nearest allowed nodes. The beam is wide enough to pass through what is not allowed.
    fn walk_filtered(&self, s: &mut Scratch, ef: usize, allowed: Allowed<'_>) {
        let Scratch {
            query,
            beam,
            visited,
            batch,
            found,
            ..
        } = s;
        let used = self.used.load(Ordering::Acquire);
        visited.reset(used);
        beam.reset((ef * 64).min(used.max(1) as usize));
        let mut nearest = TopK::new(ef);
        let mut meet = |key: Key, beam: &mut Beam| {
            let distance = beam::distance(key);
            if distance < nearest.worst() {
                beam.push(key);
                if self
                    .row_of(beam::slot(key))
                    .is_some_and(|row| allowed.contains(row))
                {
                    nearest.push(beam::slot(key), distance);
                }
            }
            nearest.worst()
        };
        let mut limit = f32::INFINITY;
        self.start(query, visited, batch, |key| limit = meet(key, beam));
        while let Some(key) = beam.pop() {
            if beam::distance(key) > limit {
                break;
            }
            if let Some(next) = beam.peek() {
                self.prefetch_edges(beam::slot(next));
            }
            self.expand(beam::slot(key), query, visited, batch, |key| {
                limit = meet(key, beam)
            });
        }
        found.clear();
        found.extend(
            nearest
                .into_sorted()
                .into_iter()
                .map(|(slot, d)| beam::key(d, slot)),
        );
    }

    /// Measures all entries and hands the nearest few to `meet`.
    fn start(
        &self,
        query: &NibbleQuery,
        visited: &mut Visited,
        batch: &mut Batch,
        mut meet: impl FnMut(Key),
    ) {
        let any_vacant = self.vacant.load(Ordering::SeqCst) > 0;
        let mut nearest = [Key::MAX; STARTS];
        let mut flush = |batch: &mut Batch| {
            batch.measure(self, query, |key| {
                if key < nearest[STARTS - 1] {
                    nearest[STARTS - 1] = key;
                    nearest.sort_unstable();
                }
            });
        };
        for slot in self.entries.iter() {
            if !(any_vacant && self.is_vacant(slot)) {
                batch.add(self, slot);
            }
            if batch.len == FAN {
                flush(batch);
            }
        }
        flush(batch);
        for key in nearest.into_iter().filter(|&k| k != Key::MAX) {
            if visited.insert(beam::slot(key)) {
                meet(key);
            }
        }
    }

    /// Measures the unseen neighbours of a node. The codes of all are asked from memory before the first is read.
    #[inline]
    fn expand(
        &self,
        slot: u32,
        query: &NibbleQuery,
        visited: &mut Visited,
        batch: &mut Batch,
        meet: impl FnMut(Key),
    ) {
        let any_vacant = self.vacant.load(Ordering::SeqCst) > 0;
        for i in 0..self.slots_per_node() {
            let next = self.edge(slot, i);
            if next == NONE {
                break;
            }
            if visited.insert(next) && !(any_vacant && self.is_vacant(next)) {
                batch.add(self, next);
            }
        }
        batch.measure(self, query, meet);
    }

    fn prefetch_edges(&self, slot: u32) {
        let start = self.edges.at(slot).cast_const();
        (0..self.edges.stride())
            .step_by(64)
            .for_each(|line| prefetch(start.wrapping_add(line)));
    }
}

/// Entries from which the walk starts: the nearest few.
const STARTS: usize = 4;

/// Nodes whose distances are computed together.
struct Batch {
    slots: [u32; FAN],
    codes: [*const u8; FAN],
    sums: [i32; FAN],
    len: usize,
}

// SAFETY: the addresses are working memory: they are written and read within one step of a walk, on one thread.
unsafe impl Send for Batch {}

impl Default for Batch {
    fn default() -> Batch {
        Batch {
            slots: [0; FAN],
            codes: [std::ptr::null(); FAN],
            sums: [0; FAN],
            len: 0,
        }
    }
}

impl Batch {
    #[inline]
    fn add(&mut self, graph: &Graph, slot: u32) {
        let code = graph.codes.at(slot).cast_const();
        (0..graph.codes.stride())
            .step_by(64)
            .for_each(|line| prefetch(code.wrapping_add(line)));
        prefetch(graph.factors.at(slot));
        self.slots[self.len] = slot;
        self.codes[self.len] = code;
        self.len += 1;
    }

    /// Hands the key of every node to `meet`, and empties the batch.
    #[inline]
    fn measure(&mut self, graph: &Graph, query: &NibbleQuery, mut meet: impl FnMut(Key)) {
        let Batch {
            slots,
            codes,
            sums,
            len,
        } = self;
        let sums = &mut sums[..*len];
        // SAFETY: each pointer is the code of a slot that is not vacant, `query.codes().len() / 2` bytes long.
        unsafe { graph.kernels.gather_u4(query.codes(), &codes[..*len], sums) };
        for (&slot, &sum) in slots.iter().zip(&*sums) {
            meet(beam::key(query.distance(sum, graph.factors_of(slot)), slot));
        }
        self.len = 0;
    }
}

/// The vector at unit length; a zero vector stays.
pub(super) fn unit(vector: &[f32]) -> Vec<f32> {
    let length = crate::kernel::Kernels::get().dot_f32(vector, vector).sqrt();
    let inverse = if length > 0.0 { 1.0 / length } else { 0.0 };
    vector.iter().map(|x| x * inverse).collect()
}
