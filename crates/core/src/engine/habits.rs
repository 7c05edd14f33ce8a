//! Whether a program that lists a directory will ask for the attributes of what is in it.
//!
//! The kernel asks for the first part of every listing with attributes, which costs us some microseconds a name, and
//! for the rest only if the program then used them. So the first part is kept short; unless the program has looked up
//! names of a directory that it listed before, like `find -size` and `tar`, which read a directory to its end first.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::ids::Ino;

/// Names in the first part: more than most directories have.
const FIRST_NAMES: usize = 32;
/// Programs that are remembered. Two in one slot forget each other, and are merely slower.
const SLOTS: usize = 64;

/// What is known of the programs that list directories.
pub(super) struct Habits {
    slots: [Slot; SLOTS],
}

#[derive(Default)]
struct Slot {
    pid: AtomicU32,
    /// The directory of which it last saw the first names only.
    listed: AtomicU64,
    asks: AtomicBool,
}

impl Habits {
    pub(super) fn new() -> Habits {
        Habits {
            slots: std::array::from_fn(|_| Slot::default()),
        }
    }

    /// How many names a part of a listing with attributes should have at most.
    pub(super) fn names(&self, pid: u32, dir: Ino, offset: u64) -> usize {
        let slot = self.slot(pid);
        if slot.pid.swap(pid, Relaxed) != pid {
            slot.asks.store(false, Relaxed);
        }
        if offset != 0 {
            // The kernel has seen that the program uses them.
            slot.asks.store(true, Relaxed);
        }
        if slot.asks.load(Relaxed) {
            return usize::MAX;
        }
        slot.listed.store(dir.0, Relaxed);
        FIRST_NAMES
    }

    /// A name in a directory was looked up.
    pub(super) fn looked_up(&self, pid: u32, dir: Ino) {
        let slot = self.slot(pid);
        if slot.listed.load(Relaxed) == dir.0 && slot.pid.load(Relaxed) == pid {
            slot.asks.store(true, Relaxed);
        }
    }

    fn slot(&self, pid: u32) -> &Slot {
        &self.slots[pid as usize % SLOTS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_looks_up_what_it_lists_gets_it_with_attributes() {
        let habits = Habits::new();
        let (lister, walker) = (7, 8);
        assert_eq!(habits.names(lister, Ino(10), 0), FIRST_NAMES);
        assert_eq!(habits.names(walker, Ino(10), 0), FIRST_NAMES);
        habits.looked_up(walker, Ino(11));
        assert_eq!(
            habits.names(walker, Ino(10), 0),
            FIRST_NAMES,
            "another directory's name"
        );
        habits.looked_up(walker, Ino(10));
        assert_eq!(habits.names(walker, Ino(12), 0), usize::MAX);
        assert_eq!(habits.names(lister, Ino(12), 0), FIRST_NAMES);
        assert_eq!(
            habits.names(lister, Ino(12), 99),
            usize::MAX,
            "the kernel says so"
        );
        let same_slot = lister + SLOTS as u32;
        assert_eq!(habits.names(same_slot, Ino(12), 0), FIRST_NAMES);
    }
}
