//! How much stack an operation uses: the memory below the caller is painted, and the deepest byte that lost its paint
//! is the mark.

use std::cell::Cell;
use std::hint::black_box;

use super::OPERATIONS;

/// What an operation on a file may use, in bytes: the specification allows 6 KiB and wants 4.
pub const BYTES_MAX: usize = 4096;

/// Bytes painted for an operation on a file.
const DEPTH: usize = 16 << 10;
/// The same for one that searches. Deeper ones count as this deep.
const SEARCH_DEPTH: usize = 256 << 10;
/// Right below the frame that paints; its own calls may use it.
const MARGIN: usize = 512;
const PAINT: u64 = 0xa5a5_a5a5_a5a5_a5a5;

/// One of so many calls of an operation is measured: 1 us of a millisecond.
const ONE_OF: u32 = 1024;

/// Which threads an operation ran on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// Those that answer for files: they never search.
    Session,
    /// Those that answer for the control directory: searches, commits.
    Control,
}

thread_local! {
    static CALLS: [Cell<u32>; OPERATIONS.len()] = const { [const { Cell::new(0) }; OPERATIONS.len()] };
    static THREADS: Cell<Threads> = const { Cell::new(Threads::Session) };
}

/// Says that this thread answers for the control directory.
pub fn serves_control() {
    THREADS.set(Threads::Control);
}

/// Whether this call of an operation is one to measure, and on which threads it runs: the second on each thread, since
/// the first one binds symbols and makes the thread's caches, and now and then a later one.
pub(super) fn due(operation: usize) -> Option<Threads> {
    CALLS.with(|calls| {
        let before = calls[operation].get();
        calls[operation].set(before.wrapping_add(1));
        (before % ONE_OF == 1).then(|| THREADS.get())
    })
}

/// Runs `f` and gives the bytes of stack that it used, at least 512, at most as much as was painted: 16 KiB, or on a
/// thread that searches 256 KiB. The thread must have as much stack left.
pub fn used<T>(threads: Threads, f: impl FnOnce() -> T) -> (T, usize) {
    let depth = match threads {
        Threads::Session => DEPTH,
        Threads::Control => SEARCH_DEPTH,
    };
    let (mut f, mut result) = (Some(f), None);
    let mut run = || result = f.take().map(|f| f());
    let used = painted(depth, &mut run);
    (result.expect("it was called once"), used)
}

/// A frame of its own, so that all of `f` is below it.
#[inline(never)]
fn painted(depth: usize, f: &mut dyn FnMut()) -> usize {
    let frame = 0u64;
    let top = black_box(&raw const frame) as usize & !7;
    let words = depth / size_of::<u64>();
    let lowest = (top - MARGIN - depth) as *mut u64;
    paint(lowest, words);
    f();
    let paint_ends = first_unpainted(lowest, words);
    black_box(&frame);
    depth + MARGIN - paint_ends * size_of::<u64>()
}

#[inline(never)]
fn paint(lowest: *mut u64, words: usize) {
    for at in 0..words {
        // SAFETY: inside this thread's stack, which has this much left (the caller's promise), and more than MARGIN
        // below the frame of `painted`, so below every live frame, this one included.
        unsafe { lowest.add(at).write_volatile(PAINT) };
    }
}

#[inline(never)]
fn first_unpainted(lowest: *mut u64, words: usize) -> usize {
    // SAFETY: as in `paint`; what was painted is initialised.
    let painted = |at: &usize| unsafe { lowest.add(*at).read_volatile() } == PAINT;
    (0..words).find(|at| !painted(at)).unwrap_or(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[inline(never)]
    fn with_a_buffer() {
        let mut buffer = [0u8; 8192];
        buffer[0] = 1;
        black_box(&buffer);
    }

    #[test]
    fn a_buffer_on_the_stack_is_seen() {
        let used_by = |f: fn()| used(Threads::Session, f).1;
        let (nothing, buffer) = (used_by(|| {}), used_by(with_a_buffer));
        assert!(
            nothing < 2048 && (8192..12_000).contains(&buffer),
            "{nothing} {buffer}"
        );
        let deep = used(Threads::Control, || black_box([1u8; 100_000]).len());
        assert_eq!(deep.0, 100_000);
        assert!((100_000..256 << 10).contains(&deep.1), "{}", deep.1);
    }

    #[test]
    fn the_second_call_on_a_thread_is_measured_and_then_few() {
        let due: Vec<bool> = (0..3000).map(|_| due(0).is_some()).collect();
        let measured: Vec<usize> = (0..due.len()).filter(|&at| due[at]).collect();
        assert_eq!(measured, [1, 1025, 2049]);
    }
}
