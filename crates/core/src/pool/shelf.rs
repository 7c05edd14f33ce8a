//! The idle buffers of one tier that all threads share.

use parking_lot::Mutex;

use super::block::Block;

/// Idle blocks of one size, bounded. Nothing is allocated or freed under its lock.
#[derive(Debug)]
pub(super) struct Shelf {
    bytes: usize,
    /// What the bound returns to, and the most that it may become.
    keep_range: (usize, usize),
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    idle: Vec<Block>,
    keep_max: usize,
    /// Blocks that exist and are not here: in use, or in a thread's stack.
    out: usize,
    out_high: usize,
    /// Since the last `tend`: the fewest that were idle, blocks that had to be made, blocks that found no room.
    idle_low: usize,
    made: u64,
    turned_away: u64,
}

/// Where a block came from that was not in its thread's stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Shelf,
    System,
}

/// A shelf's state at one instant.
#[derive(Clone, Copy, Debug)]
pub(super) struct ShelfCounts {
    pub(super) idle: usize,
    pub(super) out: usize,
    pub(super) out_high: usize,
    pub(super) keep_max: usize,
}

impl Shelf {
    pub(super) fn new(bytes: usize, keep: usize, keep_most: usize) -> Shelf {
        Shelf {
            bytes,
            keep_range: (keep, keep_most),
            state: Mutex::new(State {
                idle: Vec::new(),
                keep_max: keep,
                out: 0,
                out_high: 0,
                idle_low: 0,
                made: 0,
                turned_away: 0,
            }),
        }
    }

    /// Takes a block, and up to `most - 1` more if they are idle, which go to `spare`.
    pub(super) fn take(&self, most: usize, spare: &mut dyn FnMut(Block)) -> (Block, Source) {
        let mut state = self.state.lock();
        let first = state.idle.pop();
        if first.is_some() {
            for _ in 1..most {
                let Some(block) = state.idle.pop() else { break };
                state.out += 1;
                spare(block);
            }
        } else {
            state.made += 1;
        }
        state.out += 1;
        state.out_high = state.out_high.max(state.out);
        state.idle_low = state.idle_low.min(state.idle.len());
        drop(state);
        match first {
            Some(block) => (block, Source::Shelf),
            None => (Block::new(self.bytes), Source::System),
        }
    }

    /// Puts blocks back. Those that find no room go to the system.
    pub(super) fn put(&self, blocks: impl IntoIterator<Item = Block>) {
        let mut no_room = Vec::new();
        let mut state = self.state.lock();
        for block in blocks {
            state.out -= 1;
            if state.idle.len() < state.keep_max {
                state.idle.push(block);
            } else {
                state.turned_away += 1;
                no_room.push(block);
            }
        }
        drop(state);
        // Freed here, without the lock.
        drop(no_room);
    }

    /// Frees the blocks that were idle all the time since the last call. Doubles the bound if blocks were made while
    /// others found no room; halves it, down to where it began, when half of it was never used.
    pub(super) fn tend(&self) {
        let mut state = self.state.lock();
        let unwanted = state.idle_low.min(state.idle.len());
        let keep_max = if state.made > 0 && state.turned_away > 0 {
            state.keep_max.saturating_mul(2).max(1)
        } else if unwanted > state.keep_max / 2 {
            state.keep_max / 2
        } else {
            state.keep_max
        };
        state.keep_max = keep_max.clamp(self.keep_range.0, self.keep_range.1);
        let left = state.idle.len() - unwanted;
        let freed = state.idle.split_off(left);
        state.idle_low = left;
        state.made = 0;
        state.turned_away = 0;
        drop(state);
        drop(freed);
    }

    pub(super) fn counts(&self) -> ShelfCounts {
        let state = self.state.lock();
        ShelfCounts {
            idle: state.idle.len(),
            out: state.out,
            out_high: state.out_high,
            keep_max: state.keep_max,
        }
    }
}
