//! Where searches start: a fixed number of nodes spread over the rows, all measured at the start of each search.
//!
//! In clustered data a walk from a single entry spends its first hops finding the cluster, and may end in a wrong one.
//! Their codes are kept a second time, next to each other: read in order they cost a third of what they cost scattered.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;

use super::batch::Batch;
use super::{Graph, NONE};
use crate::quant::{NibbleFactors, NibbleQuery};

/// Entries measured at the start of a search: about a microsecond, and hot in the second-level cache.
pub(super) const ENTRIES: usize = 256;

/// Entries measured in one go, so that their sums stay in the first-level cache.
const PART: usize = 64;

/// The entries, and a copy of their codes that is made by the first search after a change.
pub(super) struct Entries {
    slots: Mutex<Vec<u32>>,
    codes: ArcSwapOption<EntryCodes>,
}

/// Copies of the entries' codes. A reader may hold them while the entries change: the slots stay readable for it, and a
/// distance that is out of date only makes for another start.
pub(super) struct EntryCodes {
    slots: Vec<u32>,
    codes: Vec<u8>,
    factors: Vec<NibbleFactors>,
}

/// Some of them.
pub(super) struct Part<'a> {
    slots: &'a [u32],
    codes: &'a [u8],
    factors: &'a [NibbleFactors],
}

impl EntryCodes {
    pub(super) fn parts(&self) -> impl Iterator<Item = Part<'_>> {
        let stride = self.codes.len() / self.slots.len().max(1);
        (0..self.slots.len()).step_by(PART).map(move |from| {
            let to = self.slots.len().min(from + PART);
            Part {
                slots: &self.slots[from..to],
                codes: &self.codes[from * stride..to * stride],
                factors: &self.factors[from..to],
            }
        })
    }
}

impl Part<'_> {
    /// Leaves the distances in `batch`.
    pub(super) fn measure(&self, graph: &Graph, query: &NibbleQuery, batch: &mut Batch) {
        batch.measure_these(graph, query, self.slots, self.codes, self.factors);
    }
}

impl Entries {
    pub(super) fn new() -> Entries {
        Entries {
            slots: Mutex::new(vec![NONE; ENTRIES]),
            codes: ArcSwapOption::empty(),
        }
    }

    /// All entries, [`NONE`] for those that are not.
    pub(super) fn slots(&self) -> Vec<u32> {
        self.slots.lock().clone()
    }

    /// Sets all entries.
    pub(super) fn restore(&self, slots: Vec<u32>) {
        self.change(|all| *all = slots);
    }

    /// Changes the entries; the next search copies their codes anew. Both happen under the lock, or a search could
    /// store a copy of what was there before.
    fn change<T>(&self, change: impl FnOnce(&mut Vec<u32>) -> T) -> T {
        let mut slots = self.slots.lock();
        let result = change(&mut slots);
        self.codes.store(None);
        result
    }
}

impl Graph {
    /// The codes of the entries. The caller is a reader of the grace period.
    pub(super) fn entry_codes(&self) -> Arc<EntryCodes> {
        if let Some(codes) = self.entries.codes.load_full() {
            return codes;
        }
        let slots = self.entries.slots.lock();
        let there: Vec<u32> = slots
            .iter()
            .copied()
            .filter(|&slot| slot != NONE && !self.is_vacant(slot))
            .collect();
        let codes = Arc::new(EntryCodes {
            codes: there
                .iter()
                .flat_map(|&slot| self.code_of(slot))
                .copied()
                .collect(),
            factors: there.iter().map(|&slot| self.factors_of(slot)).collect(),
            slots: there,
        });
        self.entries.codes.store(Some(Arc::clone(&codes)));
        codes
    }

    /// Takes a new node as an entry if there is room, else with the probability that keeps the entries an even sample
    /// of all nodes.
    pub(super) fn offer_entry(&self, slot: u32) {
        let live = self.len();
        // Sweeps may have left gaps; looking for them in a large graph is not worth it.
        if live < 4 * ENTRIES {
            let gap = |slots: &mut Vec<u32>| slots.iter().position(|&s| s == NONE).map(|i| slots[i] = slot);
            if self.entries.change(gap).is_some() {
                return;
            }
        }
        let mut state = slot as u64 ^ self.params.seed ^ (live as u64) << 32;
        let place = crate::quant::splitmix(&mut state) % live.max(ENTRIES) as u64;
        if place < ENTRIES as u64 {
            self.entries.change(|slots| slots[place as usize] = slot);
        }
    }

    /// Replaces entries for which `gone` is true by a neighbour that stays, or any node.
    pub(super) fn replace_entries(&self, gone: impl Fn(u32) -> bool) {
        let used = self.used.load(std::sync::atomic::Ordering::Acquire);
        let mut state = self.params.seed;
        let stays = |&s: &u32| self.row_of(s).is_some() && !gone(s);
        self.entries.change(|slots| {
            for entry in slots.iter_mut().filter(|entry| **entry != NONE && gone(**entry)) {
                let mut random = (0..64).map(|_| (crate::quant::splitmix(&mut state) % used as u64) as u32);
                let next = self.edges_of(*entry).find(stays).or_else(|| random.find(stays));
                let next = next.or_else(|| (0..used).find(stays));
                *entry = next.unwrap_or(NONE);
            }
        });
    }
}
