//! How commits wake the thread that flushes, merges and indexes.

use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// A bell with at most one listener.
#[derive(Default)]
pub(crate) struct Bell {
    state: Mutex<Attention>,
    rung: Condvar,
}

#[derive(Default)]
struct Attention {
    /// A thread listens, or will after its current work.
    attended: bool,
    rung: bool,
    closed: bool,
}

impl Bell {
    /// A bell that somebody listens to until [`Bell::close`].
    pub(crate) fn attended() -> Bell {
        let bell = Bell::default();
        bell.state.lock().attended = true;
        bell
    }

    /// Rings. `false` when nobody listens, so that the caller does the work itself.
    pub(crate) fn ring(&self) -> bool {
        let mut state = self.state.lock();
        state.rung = true;
        self.rung.notify_one();
        state.attended
    }

    /// Waits for a ring, at most so long. `false` after [`Bell::close`].
    pub(crate) fn wait(&self, at_most: Duration) -> bool {
        let mut state = self.state.lock();
        if !state.rung && !state.closed {
            self.rung.wait_for(&mut state, at_most);
        }
        state.rung = false;
        !state.closed
    }

    /// Whether [`Bell::close`] was called.
    pub(crate) fn is_closed(&self) -> bool {
        self.state.lock().closed
    }

    /// Ends the listening.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock();
        (state.closed, state.attended) = (true, false);
        self.rung.notify_all();
    }
}
