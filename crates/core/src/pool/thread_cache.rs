//! One thread's buffers: a small stack for each tier, and the counters, which nobody else writes.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

use super::block::Block;
use super::shelf::Source;
use super::{Limits, Pool};

thread_local! {
    /// The caches of this thread: one for each pool that it uses, which is one but in tests.
    static CACHES: RefCell<Vec<ThreadCache>> = const { RefCell::new(Vec::new()) };
}

/// Runs `f` on this thread's cache for `pool`. None, with `f` not run, while the thread ends.
#[inline]
pub(super) fn with<R>(pool: &'static Pool, f: impl FnOnce(&mut ThreadCache) -> R) -> Option<R> {
    CACHES
        .try_with(|caches| {
            let mut caches = caches.try_borrow_mut().ok()?;
            let at = match caches.iter().position(|cache| std::ptr::eq(cache.pool, pool)) {
                Some(at) => at,
                None => {
                    caches.push(ThreadCache::new(pool));
                    caches.len() - 1
                }
            };
            Some(f(&mut caches[at]))
        })
        .ok()
        .flatten()
}

/// The buffers that one thread keeps of one pool.
#[derive(Debug)]
pub(super) struct ThreadCache {
    pool: &'static Pool,
    stacks: [Vec<Block>; 3],
    counters: Arc<Counters>,
}

impl ThreadCache {
    fn new(pool: &'static Pool) -> ThreadCache {
        let Limits { per_thread, .. } = pool.limits;
        ThreadCache {
            pool,
            stacks: per_thread.map(Vec::with_capacity),
            counters: pool.threads.join(),
        }
    }

    #[inline]
    pub(super) fn take(&mut self, tier: usize, len: usize) -> Block {
        let (block, source) = match self.stacks[tier].pop() {
            Some(block) => (block, Source::Thread),
            None => self.refill(tier),
        };
        self.counters.note_take(tier, len, source);
        block
    }

    #[inline]
    pub(super) fn give(&mut self, tier: usize, block: Block) {
        self.counters.note_give(tier);
        let stack = &mut self.stacks[tier];
        if stack.len() < self.pool.limits.per_thread[tier] {
            stack.push(block);
        } else {
            self.spill(tier, block);
        }
    }

    /// Half of the stack goes, so that the next gives and the next takes both find it usable.
    #[cold]
    fn spill(&mut self, tier: usize, block: Block) {
        let kept = self.pool.limits.per_thread[tier] / 2;
        let gone = self.stacks[tier].drain(kept..).chain([block]);
        self.pool.shelves[tier].put(gone);
    }

    #[cold]
    fn refill(&mut self, tier: usize) -> (Block, Source) {
        let wanted = self.pool.limits.per_thread[tier] / 2 + 1;
        let stack = &mut self.stacks[tier];
        self.pool.shelves[tier].take(wanted, &mut |spare| stack.push(spare))
    }
}

impl Drop for ThreadCache {
    fn drop(&mut self) {
        for (tier, stack) in self.stacks.iter_mut().enumerate() {
            if !stack.is_empty() {
                self.pool.shelves[tier].put(stack.drain(..));
            }
        }
        self.pool.threads.leave(&self.counters);
    }
}

/// The counters of one thread.
#[derive(Debug, Default)]
pub(super) struct Counters {
    tiers: [TierCounters; 3],
}

#[derive(Debug, Default)]
struct TierCounters {
    takes: AtomicU64,
    asked_bytes: AtomicU64,
    gives: AtomicU64,
    from_shelf: AtomicU64,
    from_system: AtomicU64,
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

impl Counters {
    fn note_take(&self, tier: usize, len: usize, source: Source) {
        let tier = &self.tiers[tier];
        bump(&tier.takes, 1);
        bump(&tier.asked_bytes, len as u64);
        match source {
            Source::Thread => {}
            Source::Shelf => bump(&tier.from_shelf, 1),
            Source::System => bump(&tier.from_system, 1),
        }
    }

    fn note_give(&self, tier: usize) {
        bump(&self.tiers[tier].gives, 1);
    }

    fn add_to(&self, sums: &mut [TierSums; 3]) {
        for (counted, sum) in self.tiers.iter().zip(sums) {
            sum.takes += counted.takes.load(Relaxed);
            sum.asked_bytes += counted.asked_bytes.load(Relaxed);
            sum.gives += counted.gives.load(Relaxed);
            sum.from_shelf += counted.from_shelf.load(Relaxed);
            sum.from_system += counted.from_system.load(Relaxed);
        }
    }
}

/// Adds without a locked instruction: counters have one writer, their thread or who holds the registry's lock.
fn bump(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Relaxed).wrapping_add(by), Relaxed);
}

/// The counters of all threads that ever used a pool.
#[derive(Debug, Default)]
pub(super) struct Registry {
    live: Mutex<Vec<Arc<Counters>>>,
    /// Sums of the threads that ended.
    ended: Mutex<[TierSums; 3]>,
    /// Counts made while a thread ended, after its cache was gone.
    gone: Mutex<Counters>,
}

impl Registry {
    fn join(&self) -> Arc<Counters> {
        let counters = Arc::new(Counters::default());
        self.live.lock().push(Arc::clone(&counters));
        counters
    }

    fn leave(&self, counters: &Arc<Counters>) {
        let mut live = self.live.lock();
        live.retain(|other| !Arc::ptr_eq(other, counters));
        counters.add_to(&mut self.ended.lock());
    }

    /// Counts a take of a thread that has no cache any more.
    pub(super) fn note_take(&self, tier: usize, len: usize, source: Source) {
        self.gone.lock().note_take(tier, len, source);
    }

    /// Counts a give of a thread that has no cache any more.
    pub(super) fn note_give(&self, tier: usize) {
        self.gone.lock().note_give(tier);
    }

    pub(super) fn sums(&self) -> [TierSums; 3] {
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
