//! The gate through which every request by name passes, and which a commit closes for the moment of the switch.
//!
//! What the kernel has cached does not pass here, so a commit first makes it forget what will change, and answers that
//! are given from then on may not be kept: requests then come, and wait. The gate is never closed while the kernel is
//! told something: it may hold a directory's lock for a request that waits here.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// See the module.
#[derive(Default)]
pub struct Gate {
    passage: RwLock<()>,
    switching: AtomicBool,
    /// One commit at a time.
    turn: Mutex<()>,
}

impl Gate {
    /// A request is under way as long as the answer is kept.
    pub fn pass(&self) -> RwLockReadGuard<'_, ()> {
        self.passage.read()
    }

    /// Whether the kernel may keep an answer that is given now.
    pub fn may_be_kept(&self) -> bool {
        !self.switching.load(Ordering::Acquire)
    }

    /// Begins a switch: answers are not kept any more. Returns when no request is under way that began before.
    pub(super) fn prepare(&self) -> Switch<'_> {
        let turn = self.turn.lock();
        self.switching.store(true, Ordering::Release);
        drop(self.passage.write());
        Switch {
            gate: self,
            _turn: turn,
        }
    }
}

/// A switch that has begun and ends with this.
pub(super) struct Switch<'g> {
    gate: &'g Gate,
    _turn: MutexGuard<'g, ()>,
}

impl Switch<'_> {
    /// Waits for the requests under way and holds up others.
    pub(super) fn close(&self) -> RwLockWriteGuard<'_, ()> {
        self.gate.passage.write()
    }
}

impl Drop for Switch<'_> {
    fn drop(&mut self) {
        self.gate.switching.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;
    use std::time::Duration;

    use super::*;

    #[test]
    fn nothing_passes_a_closed_gate_and_nothing_is_kept_before() {
        let gate = Gate::default();
        let passed = AtomicU32::new(0);
        std::thread::scope(|scope| {
            let switch = gate.prepare();
            assert!(!gate.may_be_kept());
            drop(gate.pass());
            let closed = switch.close();
            scope.spawn(|| {
                let _pass = gate.pass();
                passed.store(1, Ordering::SeqCst);
            });
            std::thread::sleep(Duration::from_millis(30));
            assert_eq!(passed.load(Ordering::SeqCst), 0);
            drop(closed);
        });
        assert_eq!(passed.load(Ordering::SeqCst), 1);
        assert!(gate.may_be_kept());
    }
}
