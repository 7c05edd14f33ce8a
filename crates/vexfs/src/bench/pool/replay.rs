//! Replaying a trace: the same takes and gives in the same order, from different sources of memory.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use vexfs_core::pool::trace::{Step, Trace};
use vexfs_core::pool::{Buffer, Pool};

/// Where buffers come from.
#[derive(Clone, Copy)]
pub(super) enum Source {
    /// The pool.
    Pool(&'static Pool),
    /// The allocator of the C library, cleared: what a slice of bytes would come from otherwise.
    System,
    /// The same, not cleared: the best case of an allocator. A pool's buffer was cleared once in its life.
    SystemUncleared,
    /// mimalloc, cleared.
    Mimalloc,
}

/// Memory of an allocator.
struct Allocated<A: GlobalAlloc + Copy> {
    at: NonNull<u8>,
    layout: Layout,
    allocator: A,
}

impl<A: GlobalAlloc + Copy> Allocated<A> {
    fn new(allocator: A, len: usize, cleared: bool) -> Allocated<A> {
        let layout = Layout::from_size_align(len.max(1), 16).expect("a recorded length fits");
        // SAFETY: the layout's size is not zero.
        let at = unsafe {
            match cleared {
                true => allocator.alloc_zeroed(layout),
                false => allocator.alloc(layout),
            }
        };
        let at = NonNull::new(at).unwrap_or_else(|| std::alloc::handle_alloc_error(layout));
        // SAFETY: the first byte of an allocation of at least one.
        unsafe { at.write_volatile(1) };
        Allocated {
            at,
            layout,
            allocator,
        }
    }
}

impl<A: GlobalAlloc + Copy> Drop for Allocated<A> {
    fn drop(&mut self) {
        // SAFETY: `at` came from this allocator with this layout.
        unsafe { self.allocator.dealloc(self.at.as_ptr(), self.layout) }
    }
}

#[derive(Clone, Copy)]
struct Mimalloc;

// SAFETY: forwards to mimalloc, which keeps the contract.
unsafe impl GlobalAlloc for Mimalloc {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of alloc.
        unsafe { mimalloc::MiMalloc.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of alloc_zeroed.
        unsafe { mimalloc::MiMalloc.alloc_zeroed(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of dealloc.
        unsafe { mimalloc::MiMalloc.dealloc(at, layout) }
    }
}

/// Replays the trace and says how long it took. Each buffer is written to once, as its taker would.
pub(super) fn run(trace: &Trace, source: Source) -> Duration {
    match source {
        Source::Pool(pool) => with(trace, |len| {
            let mut buffer: Buffer = pool.take(len);
            if let Some(first) = buffer.first_mut() {
                *first = 1;
            }
            buffer
        }),
        Source::System => with(trace, |len| Allocated::new(System, len, true)),
        Source::SystemUncleared => with(trace, |len| Allocated::new(System, len, false)),
        Source::Mimalloc => with(trace, |len| Allocated::new(Mimalloc, len, true)),
    }
}

fn with<B>(trace: &Trace, mut take: impl FnMut(usize) -> B) -> Duration {
    let mut slots: Vec<Option<B>> = (0..trace.slots).map(|_| None).collect();
    let start = Instant::now();
    for step in &trace.steps {
        match *step {
            // In place: what a handle costs to move is no part of it.
            Step::Take { slot, len } => _ = slots[slot].get_or_insert_with(|| take(len)),
            Step::Give { slot } => slots[slot] = None,
        }
    }
    start.elapsed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_source_replays_a_trace_and_keeps_nothing() {
        let trace = Trace {
            steps: vec![
                Step::Take { slot: 0, len: 700 },
                Step::Take { slot: 1, len: 70_000 },
                Step::Give { slot: 0 },
                Step::Give { slot: 1 },
            ],
            slots: 2,
            threads: 1,
        };
        let pool: &'static Pool = Box::leak(Box::new(Pool::new(Default::default())));
        for source in [
            Source::Pool(pool),
            Source::System,
            Source::SystemUncleared,
            Source::Mimalloc,
        ] {
            assert!(run(&trace, source) > Duration::ZERO);
        }
        let counted = pool.statistics();
        assert_eq!(
            (
                counted.takes(),
                counted.tiers[0].in_use,
                counted.large.in_use_bytes
            ),
            (2, 0, 0)
        );
    }
}
