//! Waiting until every reader that was there has left, without readers ever waiting.
//!
//! Two counters and a phase: a reader counts itself in the current phase; a writer turns the phase and waits for the
//! old counter to reach zero, twice, because a reader may have read the phase just before it turned. (McKenney,
//! "Sleepable read-copy update", 2006.)

use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

#[derive(Default)]
#[repr(align(128))]
struct Counter(AtomicUsize);

/// Counts readers and waits for them.
#[derive(Default)]
pub(super) struct Grace {
    phase: AtomicUsize,
    readers: [Counter; 2],
    writer: Mutex<()>,
}

/// A reader; it leaves when dropped.
pub(super) struct Reader<'a>(&'a Counter);

impl Grace {
    /// Enters as a reader.
    pub(super) fn enter(&self) -> Reader<'_> {
        let counter = &self.readers[self.phase.load(Ordering::SeqCst) % 2];
        counter.0.fetch_add(1, Ordering::SeqCst);
        Reader(counter)
    }

    /// Returns when all readers that entered before the call have left.
    pub(super) fn wait(&self) {
        let _one = self.writer.lock();
        for _ in 0..2 {
            let old = self.phase.fetch_add(1, Ordering::SeqCst) % 2;
            while self.readers[old].0.load(Ordering::SeqCst) != 0 {
                std::thread::yield_now();
            }
        }
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn waits_for_earlier_readers_only() {
        let (grace, left) = (Grace::default(), AtomicBool::new(false));
        grace.wait();
        let reader = grace.enter();
        std::thread::scope(|s| {
            s.spawn(|| {
                grace.wait();
                assert!(left.load(Ordering::SeqCst), "the reader had not left");
            });
            std::thread::sleep(std::time::Duration::from_millis(20));
            left.store(true, Ordering::SeqCst);
            drop(reader);
        });
        let _later = grace.enter();
    }
}
