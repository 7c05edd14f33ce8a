//! One thread's buffers: a small stack for each tier, and the counters, which nobody else writes.

use std::cell::RefCell;
use std::sync::Arc;

use super::block::Block;
use super::counters::Counters;
use super::large::size_of_class;
use super::{LARGE_PER_THREAD, Limits, Pool};

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
    large: Vec<Block>,
    counters: Arc<Counters>,
}

impl ThreadCache {
    fn new(pool: &'static Pool) -> ThreadCache {
        let Limits { per_thread, .. } = pool.limits;
        ThreadCache {
            pool,
            stacks: per_thread.map(Vec::with_capacity),
            large: Vec::with_capacity(LARGE_PER_THREAD),
            counters: pool.threads.join(),
        }
    }

    #[inline]
    pub(super) fn take(&mut self, tier: usize, len: usize) -> Block {
        self.counters.tiers[tier].note_take(len);
        match self.stacks[tier].pop() {
            Some(block) => block,
            None => self.refill(tier),
        }
    }

    #[inline]
    pub(super) fn give(&mut self, tier: usize, block: Block) {
        self.counters.tiers[tier].note_give();
        let stack = &mut self.stacks[tier];
        if stack.len() < self.pool.limits.per_thread[tier] {
            stack.push(block);
        } else {
            self.spill(tier, block);
        }
    }

    pub(super) fn take_large(&mut self, len: usize) -> Block {
        let kept = self.pool.large.kept_class(len).map(size_of_class);
        let own = self.large.iter().rposition(|block| Some(block.bytes()) == kept);
        let (block, idle) = match own {
            Some(at) => (self.large.swap_remove(at), true),
            None => self.pool.large.take(len),
        };
        self.counters.large.note_take(len, &block, idle);
        block
    }

    pub(super) fn give_large(&mut self, block: Block) {
        self.counters.large.note_give(&block);
        let held: usize = self.large.iter().map(Block::bytes).sum();
        let room = self.large.len() < LARGE_PER_THREAD
            && held + block.bytes() <= self.pool.limits.large_bytes_per_thread;
        if room && self.pool.large.kept_class_of(&block).is_some() {
            self.large.push(block);
        } else {
            self.give_back(block);
        }
    }

    /// The block goes back, and with it those of sizes that are kept no more.
    #[cold]
    fn give_back(&mut self, block: Block) {
        let pool = self.pool;
        let unwanted = self
            .large
            .extract_if(.., |held| pool.large.kept_class_of(held).is_none());
        unwanted.chain([block]).for_each(|block| pool.large.give(block));
    }

    /// Half of the stack goes, so that the next gives and the next takes both find it usable.
    #[cold]
    fn spill(&mut self, tier: usize, block: Block) {
        let kept = self.pool.limits.per_thread[tier] / 2;
        let gone = self.stacks[tier].drain(kept..).chain([block]);
        self.pool.shelves[tier].put(gone);
    }

    #[cold]
    fn refill(&mut self, tier: usize) -> Block {
        let wanted = self.pool.limits.per_thread[tier] / 2 + 1;
        let stack = &mut self.stacks[tier];
        let (block, source) = self.pool.shelves[tier].take(wanted, &mut |spare| stack.push(spare));
        self.counters.tiers[tier].note_source(source);
        block
    }
}

impl Drop for ThreadCache {
    fn drop(&mut self) {
        for (tier, stack) in self.stacks.iter_mut().enumerate() {
            if !stack.is_empty() {
                self.pool.shelves[tier].put(stack.drain(..));
            }
        }
        self.large.drain(..).for_each(|block| self.pool.large.give(block));
        self.pool.threads.leave(&self.counters);
    }
}
