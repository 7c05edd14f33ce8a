//! Searches: a walk, then exact distances of the best that it met.

use super::batch::Batch;
use super::beam::{self, Beam, Key};
use super::visited::Visited;
use super::{Graph, GraphError};
use crate::measure::Measure;
use crate::quant::NibbleQuery;
use crate::scan::{Allowed, Rows, prefetch, rerank, rerank_estimated};

/// How hard a search tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effort {
    /// Nodes whose neighbours are looked at: the nearest `ef`. More finds more and costs in proportion.
    pub ef: usize,
    /// Of all nodes met, how many of the nearest are measured exactly.
    pub rerank: usize,
}

impl Effort {
    /// An effort for the `k` nearest with a beam of `ef`: reranks half as many again, twice `k`, and not less than 20.
    ///
    /// Fewer would bound the recall however wide the beam: the codes of 4 bits confuse rows that lie close together.
    pub fn new(ef: usize, k: usize) -> Effort {
        let ef = ef.max(k);
        Effort {
            ef,
            rerank: ef.saturating_add(ef / 2).max(k.saturating_mul(2)).max(20),
        }
    }
}

/// The width of an unfiltered walk.
#[derive(Clone, Copy)]
pub(super) struct Width {
    /// Nodes expanded.
    pub(super) ef: usize,
    /// Nodes kept.
    pub(super) keep: usize,
    /// Rows wanted of those kept.
    pub(super) count: usize,
}

/// Working memory of one search or insert, reused.
#[derive(Default)]
pub(super) struct Scratch {
    pub(super) query: NibbleQuery,
    pub(super) work: Vec<f32>,
    pub(super) beam: Beam,
    pub(super) prune: super::prune::PruneScratch,
    pub(super) visited: Visited,
    pub(super) batch: Batch,
    pub(super) found: Vec<Key>,
    /// How far the nearest entry is.
    pub(super) nearest_entry: f32,
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
        let mut met = self.met(query, effort, effort.rerank.max(k), allowed)?;
        met.retain(|m| (m.0 as usize) < rows.len());
        Ok(rerank_estimated(query, self.measure, rows, &met, k))
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

    /// [`Graph::search`] for several queries on up to `threads` threads. Without a filter those of a thread take turns, so
    /// that one computes while another waits for memory.
    ///
    /// # Errors
    /// [`GraphError::WrongDimension`] or [`GraphError::NotFinite`] of any query.
    pub fn search_batch(
        &self,
        queries: &[&[f32]],
        k: usize,
        effort: Effort,
        allowed: Allowed<'_>,
        rows: &dyn Rows,
        threads: usize,
    ) -> Result<Vec<Vec<(u32, f32)>>, GraphError> {
        queries.iter().try_for_each(|query| self.check_query(query))?;
        if !allowed.is_all() {
            let one = |i: usize| self.search(queries[i], k, effort, allowed, rows);
            return crate::scan::in_parallel(queries.len(), threads, one)
                .into_iter()
                .collect();
        }
        let share = queries.len().div_ceil(threads.max(1)).max(1);
        let parts: Vec<_> = queries.chunks(share).collect();
        let answers = crate::scan::in_parallel(parts.len(), threads, |i| {
            self.search_in_turns(parts[i], k, effort, rows)
        });
        Ok(answers.into_iter().flatten().collect())
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
        let met = self.met(query, effort, count, allowed)?;
        Ok(met.into_iter().map(|m| m.0).collect())
    }

    /// Rows with their estimated distances, in order of these: at most `count`.
    fn met(
        &self,
        query: &[f32],
        effort: Effort,
        count: usize,
        allowed: Allowed<'_>,
    ) -> Result<Vec<(u32, f32)>, GraphError> {
        self.check_query(query)?;
        let _reader = self.grace.enter();
        Ok(self.with_scratch(|s| {
            self.prepare(query, &mut s.query, &mut s.work);
            if allowed.is_all() {
                let width = self.width(effort, count);
                self.walk(s, width.ef, width.keep);
                return self.met_by(s, width, effort);
            }
            self.walk_filtered(s, effort.ef, allowed);
            self.rows_of(&s.found, count)
        }))
    }

    /// The rows of what an unfiltered walk of this width met: the nearest `width.count`. A node that is marked, or was
    /// deleted since, has none; where so many lie here that too few are left, the walk is done again past them.
    pub(super) fn met_by(&self, s: &mut Scratch, width: Width, effort: Effort) -> Vec<(u32, f32)> {
        let full = s.beam.keys().len() == width.keep;
        let met = self.rows_of(s.beam.keys(), width.count);
        if met.len() >= width.count || !full || width.keep == width.count.max(effort.ef) {
            return met;
        }
        self.walk_filtered(s, effort.ef, Allowed::All);
        self.rows_of(&s.found, width.count)
    }

    /// How wide a walk must be to meet `count` rows, marked ones not counted.
    pub(super) fn width(&self, effort: Effort, count: usize) -> Width {
        let spare = if self.marked() == 0 { 0 } else { 8 + effort.ef / 8 };
        Width {
            ef: effort.ef + spare,
            keep: effort.ef.max(count).saturating_add(spare),
            count,
        }
    }

    /// Asks the memory for the words that say which rows these nodes are.
    pub(super) fn prefetch_row_words(&self, keys: &[Key]) {
        keys.iter()
            .for_each(|&key| prefetch(self.rows.at(beam::slot(key))));
    }

    fn rows_of(&self, keys: &[Key], count: usize) -> Vec<(u32, f32)> {
        self.prefetch_row_words(keys);
        let there = |&key: &Key| Some((self.row_of(beam::slot(key))?, beam::distance(key)));
        keys.iter().filter_map(there).take(count).collect()
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
}

/// The vector at unit length; a zero vector stays.
pub(super) fn unit(vector: &[f32]) -> Vec<f32> {
    let length = crate::kernel::Kernels::get().dot_f32(vector, vector).sqrt();
    let inverse = if length > 0.0 { 1.0 / length } else { 0.0 };
    vector.iter().map(|x| x * inverse).collect()
}
