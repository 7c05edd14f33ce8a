//! Walking the graph: from the entries towards the query, with and without a filter.

use std::sync::atomic::Ordering;

use super::beam::{self, Beam, Key};
use super::search::Scratch;
use super::{Graph, NONE};
use crate::scan::{Allowed, prefetch};
use crate::topk::TopK;

/// Entries from which the walk starts: the nearest few.
const STARTS: usize = 4;

/// Nodes that a filtered walk may pass through for each one that it has to find.
const PASSED: usize = 64;

impl Graph {
    /// Fills the beam of `s` with the `keep` nearest nodes it meets, marked ones included, and expands the `ef` nearest
    /// of them: `keep` beyond `ef` costs next to nothing and saves what the estimates put a few places too far back.
    pub(super) fn walk(&self, s: &mut Scratch, ef: usize, keep: usize) {
        self.begin(s, ef, keep);
        while let Some(key) = s.beam.pop() {
            if let Some(next) = s.beam.peek() {
                self.prefetch_edges(beam::slot(next));
            }
            self.look_around(s, beam::slot(key));
            self.meet(s);
        }
    }

    /// Readies `s` for a walk and puts its starts into the beam.
    pub(super) fn begin(&self, s: &mut Scratch, ef: usize, keep: usize) {
        s.visited.reset(self.used.load(Ordering::Acquire));
        s.beam.reset(ef, keep);
        self.start(s, |s, key| s.beam.push(key));
    }

    /// Measures the neighbours that were found and puts those that are near enough into the beam.
    #[inline]
    pub(super) fn meet(&self, s: &mut Scratch) {
        s.batch.measure(self, &s.query);
        let Scratch { batch, beam, .. } = s;
        batch.each_within(beam.limit_distance(), |key| beam.push(key));
    }

    /// Fills `found` with the `ef` nearest allowed nodes. The beam is wide enough to pass through what is not allowed.
    pub(super) fn walk_filtered(&self, s: &mut Scratch, ef: usize, allowed: Allowed<'_>) {
        let used = self.used.load(Ordering::Acquire);
        s.visited.reset(used);
        let width = (ef * PASSED).min(used.max(1) as usize);
        s.beam.reset(width, width);
        let mut nearest = TopK::new(ef);
        let mut meet = |beam: &mut Beam, key: Key| {
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
        self.start(s, |s, key| limit = meet(&mut s.beam, key));
        while let Some(key) = s.beam.pop() {
            if beam::distance(key) > limit {
                break;
            }
            if let Some(next) = s.beam.peek() {
                self.prefetch_edges(beam::slot(next));
            }
            self.look_around(s, beam::slot(key));
            s.batch.measure(self, &s.query);
            let Scratch { batch, beam, .. } = s;
            batch.each_within(limit, |key| limit = meet(beam, key));
        }
        s.found.clear();
        s.found.extend(
            nearest
                .into_sorted()
                .into_iter()
                .map(|(slot, d)| beam::key(d, slot)),
        );
    }

    /// Measures all entries and hands the nearest few to `meet`.
    fn start(&self, s: &mut Scratch, mut meet: impl FnMut(&mut Scratch, Key)) {
        let entries = self.entry_codes();
        let mut nearest = [Key::MAX; STARTS];
        for part in entries.parts() {
            part.measure(self, &s.query, &mut s.batch);
            s.batch.each_within(f32::INFINITY, |key| {
                if key < nearest[STARTS - 1] {
                    let at = nearest.partition_point(|&k| k < key);
                    nearest[at..].rotate_right(1);
                    nearest[at] = key;
                }
            });
        }
        s.nearest_entry = match nearest[0] {
            Key::MAX => f32::INFINITY,
            key => beam::distance(key),
        };
        for key in nearest.into_iter().filter(|&k| k != Key::MAX) {
            if s.visited.insert(beam::slot(key)) {
                meet(s, key);
            }
        }
    }

    /// Finds the unseen neighbours of a node and asks the memory for the codes of all before the first is read.
    #[inline]
    pub(super) fn look_around(&self, s: &mut Scratch, slot: u32) {
        let Scratch { visited, batch, .. } = s;
        let list = self.edge_words(slot);
        let edges = list
            .iter()
            .map(|word| !word.load(Ordering::Acquire))
            .take_while(|&to| to != NONE);
        visited.fresh(edges, &mut batch.slots);
        if self.vacant.load(Ordering::SeqCst) > 0 {
            batch.slots.retain(|&to| !self.is_vacant(to));
        }
        batch.fetch(self);
    }

    pub(super) fn prefetch_edges(&self, slot: u32) {
        let start = self.edges.at(slot).cast_const();
        (0..self.edges.stride())
            .step_by(64)
            .for_each(|line| prefetch(start.wrapping_add(line)));
    }
}
