//! Buffers above the tiers: allocated as asked, but for one size that is kept because it was asked often.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

use super::block::Block;
use super::{KEPT_BYTES_MAX, TIER_BYTES};

/// Fewer requests between two calls of `tend` than this say nothing about sizes.
const OBSERVED_MIN: u64 = 16;

/// The kept size holds at least this share of the large requests.
const COVERED_SHARE: f64 = 0.9;

/// Smallest exponent of two above the largest tier, and largest that is kept.
const EXPONENTS: std::ops::RangeInclusive<u32> = TIER_BYTES[2].ilog2() + 1..=KEPT_BYTES_MAX.ilog2();

/// Large buffers. A lock a request is nothing beside filling 32 KiB.
#[derive(Debug)]
pub(super) struct Large {
    idle_bytes_max: usize,
    state: Mutex<State>,
    pub(super) takes: AtomicU64,
    pub(super) hits: AtomicU64,
    pub(super) asked_bytes: AtomicU64,
    pub(super) handed_bytes: AtomicU64,
    pub(super) in_use_bytes: AtomicU64,
}

#[derive(Debug)]
struct State {
    /// The size that is kept, 0 for none.
    kept_bytes: usize,
    idle: Vec<Block>,
    idle_low: usize,
    /// Requests since the last `tend` by the exponent of two that holds them; all above the last in the last place.
    asked: [u64; 64],
}

impl Large {
    pub(super) fn new(idle_bytes_max: usize) -> Large {
        Large {
            idle_bytes_max,
            state: Mutex::new(State {
                kept_bytes: 0,
                idle: Vec::new(),
                idle_low: 0,
                asked: [0; 64],
            }),
            takes: AtomicU64::new(0),
            hits: AtomicU64::new(0),
            asked_bytes: AtomicU64::new(0),
            handed_bytes: AtomicU64::new(0),
            in_use_bytes: AtomicU64::new(0),
        }
    }

    pub(super) fn take(&self, len: usize) -> Block {
        let mut state = self.state.lock();
        state.asked[exponent(len)] += 1;
        // A buffer of the kept size for less than a quarter of it would waste more than it saves.
        let fits = len <= state.kept_bytes && len > state.kept_bytes / 4;
        let bytes = if fits { state.kept_bytes } else { len };
        let idle = if fits { state.idle.pop() } else { None };
        state.idle_low = state.idle_low.min(state.idle.len());
        drop(state);
        self.takes.fetch_add(1, Relaxed);
        self.hits.fetch_add(u64::from(idle.is_some()), Relaxed);
        self.asked_bytes.fetch_add(len as u64, Relaxed);
        self.handed_bytes.fetch_add(bytes as u64, Relaxed);
        self.in_use_bytes.fetch_add(bytes as u64, Relaxed);
        idle.unwrap_or_else(|| Block::new(bytes))
    }

    pub(super) fn give(&self, block: Block) {
        self.in_use_bytes.fetch_sub(block.bytes() as u64, Relaxed);
        let mut state = self.state.lock();
        let room = (state.idle.len() + 1) * block.bytes() <= self.idle_bytes_max;
        let unwanted = if room && block.bytes() == state.kept_bytes {
            state.idle.push(block);
            None
        } else {
            Some(block)
        };
        drop(state);
        // Freed here, without the lock.
        drop(unwanted);
    }

    /// Picks the smallest power of two that holds nine tenths of what was asked, and frees what nobody wanted.
    pub(super) fn tend(&self) {
        let mut state = self.state.lock();
        let asked = std::mem::replace(&mut state.asked, [0; 64]);
        let kept_bytes = size_to_keep(&asked).unwrap_or(state.kept_bytes);
        let freed = if kept_bytes != state.kept_bytes {
            state.kept_bytes = kept_bytes;
            std::mem::take(&mut state.idle)
        } else {
            let left = state.idle.len() - state.idle_low.min(state.idle.len());
            state.idle.split_off(left)
        };
        state.idle_low = state.idle.len();
        drop(state);
        drop(freed);
    }

    /// The kept size in bytes (0 for none) and the bytes that lie idle.
    pub(super) fn kept(&self) -> (usize, usize) {
        let state = self.state.lock();
        (state.kept_bytes, state.idle.len() * state.kept_bytes)
    }
}

/// The exponent of the smallest power of two that holds `len` bytes.
fn exponent(len: usize) -> usize {
    (len.max(1).next_power_of_two().ilog2() as usize).min(63)
}

/// The size worth keeping, given requests by exponent. None when they were too few, or too mixed, to say.
fn size_to_keep(asked: &[u64; 64]) -> Option<usize> {
    let total: u64 = asked.iter().sum();
    if total < OBSERVED_MIN {
        return None;
    }
    let mut covered = 0;
    for exponent in EXPONENTS {
        covered += asked[exponent as usize];
        if covered as f64 >= COVERED_SHARE * total as f64 {
            return Some(1 << exponent);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(asked: &[(usize, u64)], expect: Option<usize>) {
        let mut counts = [0; 64];
        for &(len, times) in asked {
            counts[exponent(len)] += times;
        }
        assert_eq!(size_to_keep(&counts), expect, "{asked:?}");
    }

    #[test]
    fn the_kept_size_covers_nine_tenths_of_the_requests() {
        check(&[], None);
        check(&[(128 << 10, 15)], None);
        check(&[(128 << 10, 16)], Some(128 << 10));
        check(&[(100_000, 95), (1 << 20, 5)], Some(128 << 10));
        check(&[(100_000, 85), (1 << 20, 15)], Some(1 << 20));
        check(&[((128 << 10) + 1, 100)], Some(256 << 10));
        check(&[(20_000, 100)], Some(32 << 10));
    }

    #[test]
    fn sizes_above_a_request_are_never_kept() {
        check(&[(8 << 20, 1000)], None);
        check(&[(8 << 20, 50), (64 << 10, 50)], None);
    }
}
