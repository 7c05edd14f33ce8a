//! Bytes of files in work: bounded, so that large files do not meet in memory.

use parking_lot::{Condvar, Mutex};

/// Bytes of files that are read, prepared or being committed. A larger file goes alone.
const BUDGET_BYTES: usize = 96 << 20;

/// Bytes that may be held by files in work.
#[derive(Default)]
pub(super) struct Budget {
    /// Bytes taken, and whether waiting is over.
    state: Mutex<(usize, bool)>,
    freed: Condvar,
}

impl Budget {
    /// Takes so many bytes; waits until there is room, or nothing else holds any.
    pub(super) fn take(&self, bytes: usize) -> usize {
        let mut state = self.state.lock();
        while state.0 > 0 && state.0 + bytes > BUDGET_BYTES && !state.1 {
            self.freed.wait(&mut state);
        }
        state.0 += bytes;
        bytes
    }

    /// A file turned out to hold more or less; does not wait.
    pub(super) fn adjust(&self, from: usize, to: usize) {
        let mut state = self.state.lock();
        state.0 = state.0 + to - from;
        self.freed.notify_all();
    }

    pub(super) fn give(&self, bytes: usize) {
        self.state.lock().0 -= bytes;
        self.freed.notify_all();
    }

    pub(super) fn close(&self) {
        self.state.lock().1 = true;
        self.freed.notify_all();
    }
}
