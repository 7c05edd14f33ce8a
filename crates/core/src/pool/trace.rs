//! Recording what is taken and given back, so that a benchmark can replay a real mix of operations against other
//! allocators. One recording at a time, process-wide; costs one relaxed load per operation while off.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::ThreadId;

use parking_lot::Mutex;

use super::block::Block;

static RECORDING: AtomicBool = AtomicBool::new(false);
static EVENTS: Mutex<Vec<Event>> = Mutex::new(Vec::new());

/// A recording ends by itself after this many events: 64 MiB of them.
const EVENTS_MAX: usize = 1 << 21;

#[derive(Clone, Copy, Debug)]
struct Event {
    thread: ThreadId,
    address: usize,
    /// 0 for a give.
    len: usize,
}

/// One step of a thread's trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Take a buffer of `len` bytes and put it in `slot`, which is free.
    Take {
        /// Where it is kept.
        slot: usize,
        /// Bytes asked for.
        len: usize,
    },
    /// Give back the buffer in `slot`.
    Give {
        /// Where it is kept.
        slot: usize,
    },
}

/// A recording: the steps of all threads in the order in which they happened.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// The steps. Every slot that is taken is given back.
    pub steps: Vec<Step>,
    /// How many slots they use: the most buffers in use at once.
    pub slots: usize,
    /// Threads that took part.
    pub threads: usize,
}

/// Starts a recording; one that ran is forgotten.
pub fn start() {
    EVENTS.lock().clear();
    RECORDING.store(true, Relaxed);
}

/// Ends the recording.
pub fn stop() -> Trace {
    RECORDING.store(false, Relaxed);
    trace_of(&std::mem::take(&mut *EVENTS.lock()))
}

pub(super) fn taken(block: &Block, len: usize) {
    if RECORDING.load(Relaxed) {
        note(block.address(), len.max(1));
    }
}

pub(super) fn given(block: &Block) {
    if RECORDING.load(Relaxed) {
        note(block.address(), 0);
    }
}

#[cold]
fn note(address: usize, len: usize) {
    let mut events = EVENTS.lock();
    if events.len() < EVENTS_MAX {
        let thread = std::thread::current().id();
        events.push(Event { thread, address, len });
    }
}

/// Turns addresses into slots. What was taken before the recording is left out; what was not given back before its
/// end is given back at the end.
fn trace_of(events: &[Event]) -> Trace {
    let mut trace = Trace::default();
    let mut slot_of = HashMap::new();
    let mut free = Vec::new();
    let mut threads = std::collections::HashSet::new();
    for event in events {
        threads.insert(event.thread);
        if event.len > 0 {
            let slot = free.pop().unwrap_or_else(|| {
                trace.slots += 1;
                trace.slots - 1
            });
            slot_of.insert(event.address, slot);
            trace.steps.push(Step::Take { slot, len: event.len });
        } else if let Some(slot) = slot_of.remove(&event.address) {
            free.push(slot);
            trace.steps.push(Step::Give { slot });
        }
    }
    let mut left: Vec<usize> = slot_of.into_values().collect();
    left.sort_unstable();
    trace
        .steps
        .extend(left.into_iter().map(|slot| Step::Give { slot }));
    trace.threads = threads.len();
    trace
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_used_again_and_everything_is_given_back() {
        let thread = std::thread::current().id();
        let event = |address, len| Event { thread, address, len };
        let trace = trace_of(&[event(9, 0), event(1, 10), event(2, 20), event(1, 0), event(3, 30)]);
        let expected = [
            Step::Take { slot: 0, len: 10 },
            Step::Take { slot: 1, len: 20 },
            Step::Give { slot: 0 },
            Step::Take { slot: 0, len: 30 },
            Step::Give { slot: 0 },
            Step::Give { slot: 1 },
        ];
        assert_eq!(trace.steps, expected);
        assert_eq!((trace.slots, trace.threads), (2, 1));
    }
}
