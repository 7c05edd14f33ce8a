//! Where searches start: a fixed number of nodes spread over the rows, all measured at the start of each search.
//!
//! In clustered data a walk from a single entry spends its first hops finding the cluster, and may end in a wrong one.

use std::sync::atomic::{AtomicU32, Ordering};

use super::{Graph, NONE};

/// Entries measured at the start of a search: about a microsecond, and hot in the second-level cache.
pub(super) const ENTRIES: usize = 256;

pub(super) struct Entries {
    slots: Vec<AtomicU32>,
}

impl Entries {
    pub(super) fn new() -> Entries {
        Entries {
            slots: (0..ENTRIES).map(|_| AtomicU32::new(NONE)).collect(),
        }
    }

    /// The entries there are.
    pub(super) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.slots
            .iter()
            .map(|s| s.load(Ordering::Acquire))
            .filter(|&s| s != NONE)
    }

    fn fill_gap(&self, slot: u32) -> bool {
        let swap = |e: &AtomicU32| {
            e.compare_exchange(NONE, slot, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
        };
        self.slots.iter().any(swap)
    }

    /// Sets all entries, [`NONE`] for those that are not.
    pub(super) fn restore(&self, slots: &[u32]) {
        self.slots
            .iter()
            .zip(slots)
            .for_each(|(entry, &slot)| entry.store(slot, Ordering::Release));
    }
}

impl Graph {
    /// Takes a new node as an entry if there is room, else with the probability that keeps the entries an even sample
    /// of all nodes.
    pub(super) fn offer_entry(&self, slot: u32) {
        let live = self.len();
        // Sweeps may have left gaps; looking for them in a large graph is not worth it.
        if live < 4 * ENTRIES && self.entries.fill_gap(slot) {
            return;
        }
        let mut state = slot as u64 ^ self.params.seed ^ (live as u64) << 32;
        let place = crate::quant::splitmix(&mut state) % live.max(ENTRIES) as u64;
        if let Some(entry) = self.entries.slots.get(place as usize) {
            entry.store(slot, Ordering::Release);
        }
    }

    /// Replaces entries for which `gone` is true by a neighbour that stays, or any node.
    pub(super) fn replace_entries(&self, gone: impl Fn(u32) -> bool) {
        let used = self.used.load(Ordering::Acquire);
        let mut state = self.params.seed;
        for entry in &self.entries.slots {
            let old = entry.load(Ordering::Acquire);
            if old == NONE || !gone(old) {
                continue;
            }
            let stays = |&s: &u32| self.row_of(s).is_some() && !gone(s);
            let mut random = (0..64).map(|_| (crate::quant::splitmix(&mut state) % used as u64) as u32);
            let next = self.edges_of(old).find(stays).or_else(|| random.find(stays));
            let next = next.or_else(|| (0..used).find(stays));
            entry.store(next.unwrap_or(NONE), Ordering::Release);
        }
    }
}
