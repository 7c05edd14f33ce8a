//! Buffers for requests: replies of readdir, values of attributes, data that does not go through passthrough, file
//! contents on their way to the hash and the extractor.
//!
//! Such buffers live for microseconds and come in few sizes. Three tiers of 1, 4 and 16 KiB, aligned to a cache line,
//! are kept per thread, over shelves that all threads share. Taking one is a pop from the thread's stack; no lock, no
//! allocation, and no clearing, since a buffer is cleared once in its life. Larger buffers are allocated as asked,
//! but for the sizes that were asked often lately, which [`Pool::tend`] chooses.
//!
//! What is idle is bounded (by shelf and by thread) and goes back to the system when nobody wanted it for a while.
//! What is in use is not bounded here: whoever takes buffers bounds how many requests are under way.
//!
//! A buffer that was used before holds what was written then. Whoever sends one sends only the part that was
//! written since: [`Buffer::truncate`] to the length that read(2) gave.

mod block;
mod counters;
mod large;
mod shelf;
mod statistics;
mod thread_cache;
#[cfg(feature = "bench")]
pub mod trace;

use std::fmt;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::sync::OnceLock;

pub use self::statistics::{LargeStatistics, Statistics, TierStatistics};

use self::block::Block;
use self::counters::Registry;
use self::large::Large;
use self::shelf::Shelf;

/// Sizes of the tiers in bytes.
pub const TIER_BYTES: [usize; 3] = [1 << 10, 4 << 10, 16 << 10];

/// Larger buffers than this are never kept: a FUSE request carries at most 1 MiB of data.
pub const KEPT_BYTES_MAX: usize = 1 << 20;

/// Large buffers that one thread keeps for itself: what a read and its hash take, and no more than this.
const LARGE_PER_THREAD: usize = 2;

/// How much may be kept idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Buffers of each tier in one thread's stack; 0 sends every buffer to the shared shelf.
    pub per_thread: [usize; 3],
    /// Buffers of each tier on the shared shelf at first. [`Pool::tend`] moves it between this and `shared_bytes_max`.
    pub shared: [usize; 3],
    /// The most bytes that one shelf may come to hold.
    pub shared_bytes_max: usize,
    /// The most bytes of idle large buffers that one thread keeps, in two buffers at most.
    pub large_bytes_per_thread: usize,
    /// The most bytes of idle large buffers that are shared.
    pub large_bytes_max: usize,
}

impl Default for Limits {
    /// 176 KiB a thread: two requests under way with some depth each; 256 KiB more for a thread that reads or copies.
    /// 1.25 MiB shared at first, 12 MiB at most, and large buffers for 8 requests of the largest size.
    fn default() -> Limits {
        Limits {
            per_thread: [16, 16, 6],
            shared: [64, 64, 64],
            shared_bytes_max: 4 << 20,
            large_bytes_per_thread: 256 << 10,
            large_bytes_max: 8 << 20,
        }
    }
}

/// A pool of buffers. Pools live as long as the process: the buffers point to them.
#[derive(Debug)]
pub struct Pool {
    limits: Limits,
    shelves: [Shelf; 3],
    large: Large,
    threads: Registry,
}

/// The pool of this process.
pub fn shared() -> &'static Pool {
    static POOL: OnceLock<Pool> = OnceLock::new();
    POOL.get_or_init(|| Pool::new(Limits::default()))
}

/// A buffer of `len` bytes from the pool of this process.
pub fn take(len: usize) -> Buffer {
    shared().take(len)
}

impl Pool {
    /// A pool that keeps at most what `limits` say.
    pub fn new(limits: Limits) -> Pool {
        Pool {
            limits,
            shelves: std::array::from_fn(|tier| {
                let most = (limits.shared_bytes_max / TIER_BYTES[tier]).max(limits.shared[tier]);
                Shelf::new(TIER_BYTES[tier], limits.shared[tier], most)
            }),
            large: Large::new(limits.large_bytes_max),
            threads: Registry::default(),
        }
    }

    /// A buffer of `len` bytes. What is in it is unspecified (zeros, or what was written to it before).
    ///
    /// Aborts the process, like every allocation, when memory is exhausted.
    #[inline]
    pub fn take(&'static self, len: usize) -> Buffer {
        let mut block = match tier_of(len) {
            Some(tier) => self.take_tiered(tier, len),
            None => self.take_large(len),
        };
        #[cfg(feature = "bench")]
        trace::taken(&block, len);
        block.set_pool(self);
        Buffer {
            block: ManuallyDrop::new(block),
            len,
        }
    }

    /// How much it may keep idle.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Counts since the pool was made. Reading them takes the shelves' locks for a moment each and no more.
    pub fn statistics(&self) -> Statistics {
        statistics::of(self)
    }

    /// To be called every few seconds: gives back to the system what nobody wanted since the last call, lets the
    /// shelves grow that were too small, and chooses the sizes of large buffers worth keeping.
    pub fn tend(&self) {
        for shelf in &self.shelves {
            shelf.tend();
        }
        self.large.tend(&self.threads.sums().large.asked);
    }

    #[inline]
    fn take_tiered(&'static self, tier: usize, len: usize) -> Block {
        thread_cache::with(self, |cache| cache.take(tier, len)).unwrap_or_else(|| {
            let (block, source) = self.shelves[tier].take(1, &mut |_| {});
            self.threads.note_gone(|counters| {
                counters.tiers[tier].note_take(len);
                counters.tiers[tier].note_source(source);
            });
            block
        })
    }

    fn take_large(&'static self, len: usize) -> Block {
        thread_cache::with(self, |cache| cache.take_large(len)).unwrap_or_else(|| {
            let (block, idle) = self.large.take(len);
            self.threads
                .note_gone(|counters| counters.large.note_take(len, &block, idle));
            block
        })
    }

    fn give(&'static self, block: Block) {
        #[cfg(feature = "bench")]
        trace::given(&block);
        let tier = tier_of(block.bytes());
        // Stays where it is while the thread ends.
        let mut block = Some(block);
        thread_cache::with(self, |cache| match (tier, block.take()) {
            (Some(tier), Some(block)) => cache.give(tier, block),
            (None, Some(block)) => cache.give_large(block),
            (_, None) => {}
        });
        let Some(block) = block else { return };
        match tier {
            Some(tier) => {
                self.threads
                    .note_gone(|counters| counters.tiers[tier].note_give());
                self.shelves[tier].put([block]);
            }
            None => {
                self.threads
                    .note_gone(|counters| counters.large.note_give(&block));
                self.large.give(block);
            }
        }
    }
}

/// The tier that holds `len` bytes, if one does.
fn tier_of(len: usize) -> Option<usize> {
    match len {
        _ if len <= TIER_BYTES[0] => Some(0),
        _ if len <= TIER_BYTES[1] => Some(1),
        _ if len <= TIER_BYTES[2] => Some(2),
        _ => None,
    }
}

/// Bytes from a pool; dropping it gives them back. May be dropped on another thread than it was taken on.
pub struct Buffer {
    /// Moved out when it is dropped.
    block: ManuallyDrop<Block>,
    len: usize,
}

impl Buffer {
    /// Shortens it to `len` bytes; does nothing if it is shorter.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Bytes that it could hold without another take.
    pub fn capacity(&self) -> usize {
        self.block.bytes()
    }

    /// Makes it `len` bytes long, up to its capacity.
    ///
    /// # Panics
    /// If `len` is more than the capacity.
    pub fn set_len(&mut self, len: usize) {
        assert!(len <= self.capacity(), "{len} of {}", self.capacity());
        self.len = len;
    }
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.block.as_slice()[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.block.as_mut_slice()[..self.len]
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} of {} bytes)", self.len, self.capacity())
    }
}

impl Drop for Buffer {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the field is not used again: the buffer is gone after this.
        let block = unsafe { ManuallyDrop::take(&mut self.block) };
        if let Some(pool) = block.pool() {
            pool.give(block);
        }
    }
}

#[cfg(test)]
mod tests;
