//! Counts of takes and gives, a set for each thread, which nobody else writes, and their sums.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

use super::block::Block;
use super::large::{CLASSES, class_of};
use super::shelf::Source;

/// The counters of one thread.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) tiers: [TierCounters; 3],
    pub(super) large: LargeCounters,
}

#[derive(Debug, Default)]
pub(super) struct TierCounters {
    takes: AtomicU64,
    asked_bytes: AtomicU64,
    gives: AtomicU64,
    from_shelf: AtomicU64,
    from_system: AtomicU64,
}

#[derive(Debug, Default)]
pub(super) struct LargeCounters {
    takes: AtomicU64,
    hits: AtomicU64,
    asked_bytes: AtomicU64,
    handed_bytes: AtomicU64,
    given_bytes: AtomicU64,
    asked: [AtomicU64; CLASSES],
}

/// Sums over threads.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sums {
    pub(super) tiers: [TierSums; 3],
    pub(super) large: LargeSums,
}

/// Sums of counters of one tier.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TierSums {
    pub(super) takes: u64,
    pub(super) asked_bytes: u64,
    pub(super) gives: u64,
    pub(super) from_shelf: u64,
    pub(super) from_system: u64,
}

/// Sums of counters of large buffers; `asked` is the requests of each class.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LargeSums {
    pub(super) takes: u64,
    pub(super) hits: u64,
    pub(super) asked_bytes: u64,
    pub(super) handed_bytes: u64,
    pub(super) given_bytes: u64,
    pub(super) asked: [u64; CLASSES],
}

impl TierCounters {
    #[inline]
    pub(super) fn note_take(&self, len: usize) {
        bump(&self.takes, 1);
        bump(&self.asked_bytes, len as u64);
    }

    #[inline]
    pub(super) fn note_give(&self) {
        bump(&self.gives, 1);
    }

    /// Counts where a block came from that was not in the thread's stack.
    pub(super) fn note_source(&self, source: Source) {
        match source {
            Source::Shelf => bump(&self.from_shelf, 1),
            Source::System => bump(&self.from_system, 1),
        }
    }

    fn add_to(&self, sum: &mut TierSums) {
        sum.takes += self.takes.load(Relaxed);
        sum.asked_bytes += self.asked_bytes.load(Relaxed);
        sum.gives += self.gives.load(Relaxed);
        sum.from_shelf += self.from_shelf.load(Relaxed);
        sum.from_system += self.from_system.load(Relaxed);
    }
}

impl LargeCounters {
    /// Counts a take, of a block that was idle or not.
    #[inline]
    pub(super) fn note_take(&self, len: usize, block: &Block, idle: bool) {
        bump(&self.takes, 1);
        bump(&self.hits, u64::from(idle));
        bump(&self.asked_bytes, len as u64);
        bump(&self.handed_bytes, block.bytes() as u64);
        if let Some(at) = class_of(len) {
            bump(&self.asked[at], 1);
        }
    }

    #[inline]
    pub(super) fn note_give(&self, block: &Block) {
        bump(&self.given_bytes, block.bytes() as u64);
    }

    fn add_to(&self, sum: &mut LargeSums) {
        sum.takes += self.takes.load(Relaxed);
        sum.hits += self.hits.load(Relaxed);
        sum.asked_bytes += self.asked_bytes.load(Relaxed);
        sum.handed_bytes += self.handed_bytes.load(Relaxed);
        sum.given_bytes += self.given_bytes.load(Relaxed);
        for (counted, sum) in self.asked.iter().zip(&mut sum.asked) {
            *sum += counted.load(Relaxed);
        }
    }
}

impl Counters {
    fn add_to(&self, sums: &mut Sums) {
        for (counted, sum) in self.tiers.iter().zip(&mut sums.tiers) {
            counted.add_to(sum);
        }
        self.large.add_to(&mut sums.large);
    }
}

/// Adds without a locked instruction: counters have one writer, their thread or who holds the registry's lock.
#[inline]
fn bump(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(by), Relaxed);
}

/// The counters of all threads that ever used a pool.
#[derive(Debug, Default)]
pub(super) struct Registry {
    live: Mutex<Vec<Arc<Counters>>>,
    /// Sums of the threads that ended.
    ended: Mutex<Sums>,
    /// Counts made while a thread ended, after its cache was gone.
    gone: Mutex<Counters>,
}

impl Registry {
    pub(super) fn join(&self) -> Arc<Counters> {
        let counters = Arc::new(Counters::default());
        self.live.lock().push(Arc::clone(&counters));
        counters
    }

    pub(super) fn leave(&self, counters: &Arc<Counters>) {
        let mut live = self.live.lock();
        live.retain(|other| !Arc::ptr_eq(other, counters));
        counters.add_to(&mut self.ended.lock());
    }

    /// Counts with the counters of threads that have no cache any more.
    pub(super) fn note_gone(&self, note: impl FnOnce(&Counters)) {
        note(&self.gone.lock());
    }

    pub(super) fn sums(&self) -> Sums {
        // Held together, in the order of `leave`, so that no thread is counted twice or not at all.
        let live = self.live.lock();
        let mut sums = *self.ended.lock();
        for counters in live.iter() {
            counters.add_to(&mut sums);
        }
        self.gone.lock().add_to(&mut sums);
        sums
    }
}
