//! Where searches start: a fixed number of nodes, all measured at the start of each search.
//!
//! In clustered data a walk from a single entry spends its first hops finding the cluster, and may end in a wrong one:
//! hardly an edge leads from one cluster to another. Some of the entries are an even sample of all nodes, so that there
//! are many where there is much. The others cover the rest: a new node becomes one if it is far from every entry, and
//! when there is no room left, what counts as far grows until about half of them go. (Charikar et al., "Incremental
//! clustering and dynamic information retrieval", 1997.) Without it one query in 25 ended in a wrong cluster of a million
//! rows.
//!
//! The entries' codes are kept a second time, next to each other: read in order they cost a third of what they cost
//! scattered.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;

use super::batch::Batch;
use super::beam;
use super::search::Scratch;
use super::{Graph, NONE};
use crate::measure::Measure;
use crate::quant::{NibbleFactors, NibbleQuery};

/// Entries measured at the start of a search: about a microsecond, and hot in the second-level cache.
pub(super) const ENTRIES: usize = 256;

/// Entries that cover; the others are the sample.
const COVERING: usize = ENTRIES - 32;

/// Entries measured in one go, so that their sums stay in the first-level cache.
const PART: usize = 64;

/// The entries, and a copy of their codes that is made by the first search after a change.
pub(super) struct Entries {
    /// The sample, then those that cover; [`NONE`] where there is none.
    slots: Mutex<Vec<u32>>,
    codes: ArcSwapOption<EntryCodes>,
    /// How many of them are a sample.
    sampled: usize,
    /// Bits of the distance from all entries beyond which a new node becomes one. Not stored: it grows again.
    far: AtomicU32,
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
    pub(super) fn new(measure: Measure) -> Entries {
        // Far from everything under the inner product are the short rows, which no query looks for.
        let covering = if measure == Measure::Dot { 0 } else { COVERING };
        Entries {
            slots: Mutex::new(vec![NONE; ENTRIES]),
            codes: ArcSwapOption::empty(),
            sampled: ENTRIES - covering,
            far: AtomicU32::new(0f32.to_bits()),
        }
    }

    fn far(&self) -> f32 {
        f32::from_bits(self.far.load(Ordering::Relaxed))
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

    /// Takes a new node as an entry if it belongs to the sample, with the probability that keeps it even, or if it is
    /// far from every entry: `nearest` is the distance of the nearest. The caller is a reader of the grace period.
    pub(super) fn offer_entry(&self, slot: u32, nearest: f32, s: &mut Scratch) {
        let (live, sampled) = (self.len(), self.entries.sampled);
        let free = |slots: &[u32]| slots.iter().position(|&s| s == NONE);
        // Sweeps may have left gaps; looking for them in a large graph is not worth it.
        if live < 4 * ENTRIES {
            let gap = |slots: &mut Vec<u32>| free(&slots[..sampled]).map(|i| slots[i] = slot);
            if self.entries.change(gap).is_some() {
                return;
            }
        }
        let mut state = slot as u64 ^ self.params.seed ^ (live as u64) << 32;
        let place = crate::quant::splitmix(&mut state) % live.max(sampled) as u64;
        if place < sampled as u64 {
            self.entries.change(|slots| slots[place as usize] = slot);
        } else if nearest > self.entries.far() && sampled < ENTRIES {
            self.entries.change(|slots| {
                let covering = &mut slots[sampled..];
                if free(covering).is_none() {
                    self.thin(covering, s);
                }
                if let Some(i) = free(covering) {
                    covering[i] = slot;
                }
            });
        }
    }

    /// Lets what counts as far grow to the median distance of an entry from the nearest other, and drops entries that
    /// are not so far from those before them.
    fn thin(&self, covering: &mut [u32], s: &mut Scratch) {
        let mut keys = Vec::with_capacity(covering.len());
        let mut nearest = |slot: u32, others: &[u32]| {
            self.keys_from(slot, others, &mut s.prune, &mut keys);
            keys.first().map_or(f32::INFINITY, |&key| beam::distance(key))
        };
        let mut apart: Vec<f32> = (0..covering.len())
            .map(|i| {
                let others: Vec<u32> = covering.iter().copied().filter(|&o| o != covering[i]).collect();
                nearest(covering[i], &others)
            })
            .collect();
        apart.sort_unstable_by(f32::total_cmp);
        let far = apart[apart.len() / 2].max(self.entries.far());
        let mut kept: Vec<u32> = Vec::with_capacity(covering.len());
        for &slot in covering.iter() {
            if nearest(slot, &kept) > far {
                kept.push(slot);
            }
        }
        kept.resize(covering.len(), NONE);
        covering.copy_from_slice(&kept);
        self.entries.far.store(far.to_bits(), Ordering::Relaxed);
    }

    /// Replaces entries for which `gone` is true by a neighbour that stays, or any node.
    pub(super) fn replace_entries(&self, gone: impl Fn(u32) -> bool) {
        let used = self.used.load(Ordering::Acquire);
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
