//! Buffers above the tiers: allocated as asked, but for sizes that were asked often, which are kept.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use parking_lot::Mutex;

use super::block::Block;
use super::{KEPT_BYTES_MAX, TIER_BYTES};

/// A size is kept when it was asked this often between two calls of `tend`.
const OFTEN: u64 = 16;

/// Exponents of two above the largest tier that may be kept.
const EXPONENT_MIN: u32 = TIER_BYTES[2].ilog2() + 1;
pub(super) const CLASSES: usize = (KEPT_BYTES_MAX.ilog2() - EXPONENT_MIN + 1) as usize;

/// Large buffers that threads share.
#[derive(Debug)]
pub(super) struct Large {
    idle_bytes_max: usize,
    /// Classes asked often of late: requests get the whole power of two, and it is kept.
    kept: [AtomicBool; CLASSES],
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    classes: [Class; CLASSES],
    idle_bytes: usize,
    /// Bytes that exist and are not here: in use, or kept by a thread.
    out_bytes: usize,
}

/// Requests between one power of two and the next.
#[derive(Debug, Default)]
struct Class {
    idle: Vec<Block>,
    /// Since the last `tend`: the fewest that were idle.
    idle_low: usize,
    /// Requests until the last `tend`.
    asked: u64,
}

/// What is kept at one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LargeCounts {
    pub(super) kept_sizes: usize,
    pub(super) idle_bytes: usize,
    pub(super) out_bytes: usize,
}

impl Large {
    pub(super) fn new(idle_bytes_max: usize) -> Large {
        Large {
            idle_bytes_max,
            kept: Default::default(),
            state: Mutex::default(),
        }
    }

    /// A block, and whether it lay idle.
    pub(super) fn take(&self, len: usize) -> (Block, bool) {
        let kept = self.kept_class(len);
        let bytes = kept.map_or(len, size_of_class);
        let mut state = self.state.lock();
        state.out_bytes += bytes;
        let idle = kept.and_then(|at| {
            let class = &mut state.classes[at];
            let idle = class.idle.pop();
            class.idle_low = class.idle_low.min(class.idle.len());
            idle
        });
        if idle.is_some() {
            state.idle_bytes -= bytes;
        }
        drop(state);
        let found = idle.is_some();
        (idle.unwrap_or_else(|| Block::new(bytes)), found)
    }

    pub(super) fn give(&self, block: Block) {
        let kept = self.kept_class_of(&block);
        let mut state = self.state.lock();
        state.out_bytes -= block.bytes();
        let room = state.idle_bytes + block.bytes() <= self.idle_bytes_max;
        match kept {
            Some(at) if room => {
                state.idle_bytes += block.bytes();
                state.classes[at].idle.push(block);
            }
            // Freed without the lock.
            _ => {
                drop(state);
                drop(block);
            }
        }
    }

    /// The class of a request, if it is kept now.
    #[inline]
    pub(super) fn kept_class(&self, len: usize) -> Option<usize> {
        class_of(len).filter(|&at| self.kept[at].load(Relaxed))
    }

    /// The class that a block may wait in, if there is one.
    #[inline]
    pub(super) fn kept_class_of(&self, block: &Block) -> Option<usize> {
        self.kept_class(block.bytes())
            .filter(|&at| block.bytes() == size_of_class(at))
    }

    /// Looks which sizes were asked often, given the requests of each class so far, and frees what nobody wanted.
    pub(super) fn tend(&self, asked: &[u64; CLASSES]) {
        let mut state = self.state.lock();
        let mut freed = Vec::new();
        let mut freed_bytes = 0;
        for (at, class) in state.classes.iter_mut().enumerate() {
            let lately = asked[at].wrapping_sub(class.asked);
            let kept = lately >= OFTEN || (self.kept[at].load(Relaxed) && lately > 0);
            self.kept[at].store(kept, Relaxed);
            let left = match kept {
                true => class.idle.len() - class.idle_low.min(class.idle.len()),
                false => 0,
            };
            freed_bytes += (class.idle.len() - left) * size_of_class(at);
            freed.extend(class.idle.drain(left..));
            class.idle_low = left;
            class.asked = asked[at];
        }
        state.idle_bytes -= freed_bytes;
        drop(state);
        drop(freed);
    }

    pub(super) fn counts(&self) -> LargeCounts {
        let state = self.state.lock();
        LargeCounts {
            kept_sizes: self.kept.iter().filter(|kept| kept.load(Relaxed)).count(),
            idle_bytes: state.idle_bytes,
            out_bytes: state.out_bytes,
        }
    }
}

/// The class of a request, if such sizes may be kept.
#[inline]
pub(super) fn class_of(len: usize) -> Option<usize> {
    let exponent = len.max(1).next_power_of_two().ilog2().max(EXPONENT_MIN);
    let at = (exponent - EXPONENT_MIN) as usize;
    (at < CLASSES).then_some(at)
}

/// The power of two that holds all requests of a class.
pub(super) fn size_of_class(at: usize) -> usize {
    1 << (EXPONENT_MIN as usize + at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_holds_its_requests_and_wastes_less_than_half() {
        for len in [16_385, 20_000, 32_768, 32_769, 100_000, 131_072, 1 << 20] {
            let size = size_of_class(class_of(len).unwrap());
            assert!(size >= len && size < 2 * len, "{len} {size}");
        }
        assert_eq!(class_of((1 << 20) + 1), None);
    }

    #[test]
    fn idle_bytes_are_bounded_and_return_to_nothing() {
        let large = Large::new(300_000);
        let round = || {
            let blocks: Vec<Block> = (0..20).map(|_| large.take(100_000).0).collect();
            blocks.into_iter().for_each(|block| large.give(block));
        };
        let asked = |times| std::array::from_fn(|at| if at == 2 { times } else { 0 });
        round();
        large.tend(&asked(20));
        round();
        let kept = LargeCounts {
            kept_sizes: 1,
            idle_bytes: 2 * 131_072,
            out_bytes: 0,
        };
        assert_eq!(large.counts(), kept);
        large.tend(&asked(40));
        large.tend(&asked(40));
        assert_eq!(large.counts().idle_bytes, 0);
        assert_eq!(large.counts().kept_sizes, 0);
    }
}
