//! Removing rows: a mark at once, repair of the edges later.

use std::sync::atomic::Ordering;

use super::search::Scratch;
use super::{Graph, ROW_MARKED, ROW_NONE};

impl Graph {
    /// Marks a row deleted: no search that begins after the return finds it. False if the graph does not have it.
    /// Constant time; the edges are repaired by [`Graph::sweep`].
    pub fn delete(&self, row: u32) -> bool {
        let Some(slot) = self.slot_of(row) else {
            return false;
        };
        let place = self.slots.word(row, 0);
        if place
            .compare_exchange(slot + 1, 0, Ordering::SeqCst, Ordering::SeqCst)
            .is_err()
        {
            return false;
        }
        self.marked.fetch_add(1, Ordering::SeqCst);
        self.set_row(slot, ROW_MARKED);
        self.live.fetch_sub(1, Ordering::Relaxed);
        self.reuse.lock().marked.push(slot);
        true
    }

    /// True if so many rows are marked (one in sixteen) that searches pay for walking through them.
    pub fn wants_sweep(&self) -> bool {
        self.marked() * 16 > self.len() && self.marked() > 0
    }

    /// Reconnects the graph around the marked nodes and gives their slots back; returns how many. A node that pointed
    /// to a marked one chooses its edges anew among those it keeps and the marked one's own. Searches and inserts go
    /// on meanwhile; a second sweep waits for the first.
    pub fn sweep(&self) -> usize {
        let _one = self.sweeping.lock();
        let batch = std::mem::take(&mut self.reuse.lock().marked);
        if batch.is_empty() {
            return 0;
        }
        let used = self.used.load(Ordering::Acquire);
        let mut gone = vec![0u64; used as usize / 64 + 1];
        for &slot in batch.iter().filter(|&&s| s < used) {
            gone[slot as usize / 64] |= 1 << (slot % 64);
        }
        let gone = |slot: u32| {
            gone.get(slot as usize / 64)
                .is_some_and(|w| w >> (slot % 64) & 1 == 1)
        };
        self.with_scratch(|s| {
            for slot in 0..used {
                if !gone(slot) && self.row_of(slot).is_some() && self.edges_of(slot).any(gone) {
                    self.repair(slot, gone, s);
                }
            }
        });
        self.replace_entries(gone);
        self.retire(&batch);
        batch.len()
    }

    fn repair(&self, slot: u32, gone: impl Fn(u32) -> bool + Copy, s: &mut Scratch) {
        let _reader = self.grace.enter();
        let _list = self.stripe(slot).lock();
        let mut others: Vec<u32> = Vec::with_capacity(4 * self.slots_per_node());
        for edge in self.edges_of(slot) {
            if gone(edge) {
                others.extend(self.edges_of(edge));
            } else {
                others.push(edge);
            }
        }
        others.sort_unstable();
        others.dedup();
        others.retain(|&o| o != slot && !gone(o) && self.row_of(o).is_some());
        let (mut keys, mut chosen) = (
            Vec::with_capacity(others.len()),
            Vec::with_capacity(self.params.degree),
        );
        self.keys_from(slot, &others, &mut s.prune, &mut keys);
        self.choose(&keys, &mut s.prune, &mut chosen);
        self.write_edges(slot, &chosen);
    }

    /// Makes slots vacant, waits until nobody can still be reading their codes, and frees them.
    fn retire(&self, batch: &[u32]) {
        for &slot in batch {
            self.set_vacant(slot);
            self.set_row(slot, ROW_NONE);
        }
        self.marked.fetch_sub(batch.len(), Ordering::SeqCst);
        self.grace.wait();
        batch.iter().for_each(|&slot| self.write_edges(slot, &[]));
        self.reuse.lock().free.extend_from_slice(batch);
    }
}
