//! Buffers above the tiers: allocated as asked, but for sizes that were asked often, which are kept.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

use super::block::Block;
use super::{KEPT_BYTES_MAX, TIER_BYTES};

/// A size is kept when it was asked this often between two calls of `tend`.
const OFTEN: u64 = 16;

/// Exponents of two above the largest tier that may be kept.
const EXPONENT_MIN: u32 = TIER_BYTES[2].ilog2() + 1;
const CLASSES: usize = (KEPT_BYTES_MAX.ilog2() - EXPONENT_MIN + 1) as usize;

/// Large buffers. A lock a request is nothing beside filling 16 KiB.
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

#[derive(Debug, Default)]
struct State {
    classes: [Class; CLASSES],
    idle_bytes: usize,
}

/// Requests between one power of two and the next.
#[derive(Debug, Default)]
struct Class {
    /// Asked often of late: requests get the whole power of two, and it is kept.
    kept: bool,
    idle: Vec<Block>,
    /// Since the last `tend`: the fewest that were idle, and the requests.
    idle_low: usize,
    asked: u64,
}

impl Large {
    pub(super) fn new(idle_bytes_max: usize) -> Large {
        Large {
            idle_bytes_max,
            state: Mutex::default(),
            takes: AtomicU64::new(0),
            hits: AtomicU64::new(0),
            asked_bytes: AtomicU64::new(0),
            handed_bytes: AtomicU64::new(0),
            in_use_bytes: AtomicU64::new(0),
        }
    }

    pub(super) fn take(&self, len: usize) -> Block {
        let (idle, bytes) = self.take_idle(len);
        self.takes.fetch_add(1, Relaxed);
        self.hits.fetch_add(u64::from(idle.is_some()), Relaxed);
        self.asked_bytes.fetch_add(len as u64, Relaxed);
        self.handed_bytes.fetch_add(bytes as u64, Relaxed);
        self.in_use_bytes.fetch_add(bytes as u64, Relaxed);
        idle.unwrap_or_else(|| Block::new(bytes))
    }

    /// A block that lies idle, if one does, and the size that it has or shall have.
    fn take_idle(&self, len: usize) -> (Option<Block>, usize) {
        let Some(at) = class_of(len) else {
            return (None, len);
        };
        let mut state = self.state.lock();
        let class = &mut state.classes[at];
        class.asked += 1;
        if !class.kept {
            return (None, len);
        }
        let idle = class.idle.pop();
        class.idle_low = class.idle_low.min(class.idle.len());
        if idle.is_some() {
            state.idle_bytes -= size_of_class(at);
        }
        (idle, size_of_class(at))
    }

    pub(super) fn give(&self, block: Block) {
        self.in_use_bytes.fetch_sub(block.bytes() as u64, Relaxed);
        let unwanted = match class_of(block.bytes()) {
            Some(at) if block.bytes() == size_of_class(at) => self.keep(at, block),
            _ => Some(block),
        };
        // Freed here, without the lock.
        drop(unwanted);
    }

    /// Keeps the block, or gives it back when its size is not kept or there is no room.
    fn keep(&self, at: usize, block: Block) -> Option<Block> {
        let mut state = self.state.lock();
        if !state.classes[at].kept || state.idle_bytes + block.bytes() > self.idle_bytes_max {
            return Some(block);
        }
        state.idle_bytes += block.bytes();
        state.classes[at].idle.push(block);
        None
    }

    /// Looks which sizes were asked often, and frees what nobody wanted.
    pub(super) fn tend(&self) {
        let mut state = self.state.lock();
        let mut freed = Vec::new();
        let mut freed_bytes = 0;
        for (at, class) in state.classes.iter_mut().enumerate() {
            class.kept = class.asked >= OFTEN || (class.kept && class.asked > 0);
            let left = match class.kept {
                true => class.idle.len() - class.idle_low.min(class.idle.len()),
                false => 0,
            };
            freed_bytes += (class.idle.len() - left) * size_of_class(at);
            freed.extend(class.idle.drain(left..));
            class.idle_low = left;
            class.asked = 0;
        }
        state.idle_bytes -= freed_bytes;
        drop(state);
        drop(freed);
    }

    /// How many sizes are kept, and the bytes that lie idle.
    pub(super) fn kept(&self) -> (usize, usize) {
        let state = self.state.lock();
        let kept = state.classes.iter().filter(|class| class.kept).count();
        (kept, state.idle_bytes)
    }
}

/// The class of a request, if such sizes may be kept.
fn class_of(len: usize) -> Option<usize> {
    let exponent = len.max(1).next_power_of_two().ilog2().max(EXPONENT_MIN);
    let at = (exponent - EXPONENT_MIN) as usize;
    (at < CLASSES).then_some(at)
}

/// The power of two that holds all requests of a class.
fn size_of_class(at: usize) -> usize {
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
            let blocks: Vec<Block> = (0..20).map(|_| large.take(100_000)).collect();
            blocks.into_iter().for_each(|block| large.give(block));
        };
        round();
        large.tend();
        round();
        assert_eq!(large.kept(), (1, 2 * 131_072));
        large.tend();
        large.tend();
        assert_eq!(large.kept(), (0, 0));
    }
}
