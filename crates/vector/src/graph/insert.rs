//! Adding a row: find its neighbours by a walk, choose edges, link back.

use std::sync::atomic::Ordering;

use super::beam::{self, Key};
use super::search::{Scratch, unit};
use super::{Graph, GraphError, INSERTING, NONE};
use crate::measure::Measure;
use crate::quant::NibbleFactors;

impl Graph {
    /// Adds a row; searches that begin after the return can find it. Any number of threads may insert and search at
    /// the same time. A row that was deleted can be added again at once.
    ///
    /// # Errors
    /// The row must be new, the vector finite and of the graph's dimension. On an error the graph is unchanged.
    pub fn insert(&self, row: u32, vector: &[f32]) -> Result<(), GraphError> {
        self.check(vector)?;
        self.slots.reserve(row)?;
        let place = self.slots.word(row, 0);
        if place
            .compare_exchange(0, INSERTING, Ordering::SeqCst, Ordering::SeqCst)
            .is_err()
        {
            return Err(GraphError::Duplicate(row));
        }
        let _reader = self.grace.enter();
        let slot = self
            .take_slot()
            .inspect_err(|_| place.store(0, Ordering::SeqCst))?;
        self.with_scratch(|s| {
            self.prepare(vector, &mut s.query, &mut s.work);
            self.walk(s, self.params.build_ef, self.params.build_ef);
            self.write_code(slot, vector);
            let mut chosen = Vec::with_capacity(self.params.degree);
            let usable = |key: &Key| beam::slot(*key) != slot && self.row_of(beam::slot(*key)).is_some();
            let candidates: Vec<Key> = s.beam.keys().iter().map(|k| k & !1).filter(usable).collect();
            self.choose(&candidates, &mut s.prune, &mut chosen);
            self.write_edges(slot, &chosen);
            self.set_row(slot, row);
            self.clear_vacant(slot);
            chosen.iter().for_each(|&neighbour| self.link(neighbour, slot, s));
            self.offer_entry(slot, s.nearest_entry, s);
        });
        self.live.fetch_add(1, Ordering::Relaxed);
        // Last: from here on the row can be deleted.
        place.store(slot + 1, Ordering::SeqCst);
        Ok(())
    }

    /// A slot that nobody reads: a vacant one, or one never used.
    fn take_slot(&self) -> Result<u32, GraphError> {
        let mut reuse = self.reuse.lock();
        if let Some(slot) = reuse.free.pop() {
            return Ok(slot);
        }
        let slot = self.used.load(Ordering::Acquire);
        self.reserve_slots(slot as usize + 1)?;
        self.used.store(slot + 1, Ordering::Release);
        Ok(slot)
    }

    /// Makes room for so many slots.
    pub(super) fn reserve_slots(&self, slots: usize) -> Result<(), GraphError> {
        let Some(last) = slots.checked_sub(1) else {
            return Ok(());
        };
        for arena in [&self.codes, &self.factors, &self.edges, &self.rows] {
            arena.reserve(last as u32)?;
        }
        Ok(self.vacancies.reserve(last as u32 / 32)?)
    }

    fn write_code(&self, slot: u32, vector: &[f32]) {
        // SAFETY: the slot is vacant or new, and this thread alone took it, so nobody else reads or writes its code.
        let code = unsafe { std::slice::from_raw_parts_mut(self.codes.at(slot), self.coder.code_bytes()) };
        let factors = if self.measure == Measure::Cosine {
            self.coder.encode(&unit(vector), code)
        } else {
            self.coder.encode(vector, code)
        };
        // SAFETY: as above; the arena's records are as large as the factors and aligned.
        unsafe { *self.factors.at(slot).cast::<NibbleFactors>() = factors };
    }

    /// Replaces the edges of a slot. Readers may see some old and some new ones; all are nodes.
    pub(super) fn write_edges(&self, slot: u32, edges: &[u32]) {
        for i in 0..self.slots_per_node() {
            self.set_edge(slot, i, edges.get(i).copied().unwrap_or(NONE));
        }
    }

    /// Adds an edge; a full list is chosen anew with it.
    fn link(&self, from: u32, to: u32, s: &mut Scratch) {
        let _list = self.stripe(from).lock();
        let mut others = Vec::with_capacity(self.slots_per_node() + 1);
        others.extend(self.edges_of(from));
        if others.contains(&to) || self.is_vacant(from) {
            return;
        }
        if others.len() < self.slots_per_node() {
            self.set_edge(from, others.len(), to);
            return;
        }
        others.push(to);
        others.retain(|&o| self.row_of(o).is_some());
        let (mut keys, mut chosen) = (
            Vec::with_capacity(others.len()),
            Vec::with_capacity(self.params.degree),
        );
        self.keys_from(from, &others, &mut s.prune, &mut keys);
        self.choose(&keys, &mut s.prune, &mut chosen);
        self.write_edges(from, &chosen);
    }
}
