//! Memory of fixed-size records that grows without moving: readers keep their addresses.
//!
//! Chunk `c` holds `FIRST << c` records, so 22 chunks cover every `u32` and finding a record is a shift and a
//! multiplication. A chunk is anonymous zeroed memory, of huge pages where the system has them: a random walk over
//! 100 MB of small pages spends a third of its time in the page tables.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering};

use memmap2::{Advice, MmapMut};
use parking_lot::Mutex;

const FIRST_LOG2: u32 = 10;
const FIRST: u64 = 1 << FIRST_LOG2;
const CHUNKS: usize = 23;

// SAFETY: the base is memory of a private mapping that the arena keeps alive; access to it follows the same rules as to
// the chunks, which the graph's module documents.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

/// Records of `stride` bytes, all zero at first, at addresses that never change.
///
/// The first records may lie in a mapping instead, see [`Arena::adopt`]; the chunks then follow them.
pub(super) struct Arena {
    stride: usize,
    base: *mut u8,
    base_records: u32,
    mapping: Option<Arc<MmapMut>>,
    chunks: [AtomicPtr<u8>; CHUNKS],
    capacity: AtomicUsize,
    owned: Mutex<Vec<MmapMut>>,
}

impl Arena {
    pub(super) fn new(stride: usize) -> Arena {
        assert!(stride.is_multiple_of(4), "records are made of words");
        Arena {
            stride,
            base: std::ptr::null_mut(),
            base_records: 0,
            mapping: None,
            chunks: [const { AtomicPtr::new(std::ptr::null_mut()) }; CHUNKS],
            capacity: AtomicUsize::new(0),
            owned: Mutex::default(),
        }
    }

    /// Takes the first `records` records of an empty arena from byte `from` of a private mapping.
    ///
    /// # Errors
    /// More records than a `u32` counts.
    pub(super) fn adopt(&mut self, mapping: Arc<MmapMut>, from: usize, records: usize) -> io::Result<()> {
        assert!(
            self.capacity() == 0 && from.is_multiple_of(8),
            "only an empty arena adopts aligned records"
        );
        let bytes = &mapping[from..from + records * self.stride];
        self.base = bytes.as_ptr().cast_mut();
        self.base_records = u32::try_from(records).map_err(io::Error::other)?;
        self.capacity.store(records, Ordering::Release);
        self.mapping = Some(mapping);
        Ok(())
    }

    pub(super) fn stride(&self) -> usize {
        self.stride
    }

    /// Records that may be used.
    #[inline]
    pub(super) fn capacity(&self) -> usize {
        self.capacity.load(Ordering::Acquire)
    }

    /// Makes room for record `index`. On an error the arena is as before.
    pub(super) fn reserve(&self, index: u32) -> io::Result<()> {
        if (index as usize) < self.capacity() {
            return Ok(());
        }
        let mut owned = self.owned.lock();
        while self.capacity() <= index as usize {
            let c = owned.len();
            let records = (FIRST as usize) << c;
            let mut chunk = MmapMut::map_anon(records * self.stride)?;
            // Huge pages are a wish; without them everything is slower, not wrong.
            #[cfg(target_os = "linux")]
            let _ = chunk.advise(Advice::HugePage);
            self.chunks[c].store(chunk.as_mut_ptr(), Ordering::Release);
            owned.push(chunk);
            self.capacity.fetch_add(records, Ordering::Release);
        }
        Ok(())
    }

    /// The address of a record.
    ///
    /// # Panics
    /// In debug builds, if there is no room for it yet.
    #[inline(always)]
    pub(super) fn at(&self, index: u32) -> *mut u8 {
        debug_assert!((index as usize) < self.capacity());
        if index < self.base_records {
            return self.base.wrapping_add(index as usize * self.stride);
        }
        let x = (index - self.base_records) as u64 + FIRST;
        let c = x.ilog2() - FIRST_LOG2;
        let offset = (x - (FIRST << c)) as usize * self.stride;
        // Relaxed: whoever knows the index learned it after the chunk was there.
        self.chunks[c as usize]
            .load(Ordering::Relaxed)
            .wrapping_add(offset)
    }

    /// Word `i` of a record.
    #[inline(always)]
    pub(super) fn word(&self, index: u32, i: usize) -> &AtomicU32 {
        debug_assert!(i * 4 < self.stride);
        // SAFETY: chunks are page-aligned and strides multiples of 4, so the word is aligned and inside the record; a
        // chunk lives as long as the arena; words of this arena are only accessed as atomics.
        unsafe { AtomicU32::from_ptr(self.at(index).cast::<u32>().add(i)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_start_zeroed_do_not_overlap_and_stay_where_they_are() {
        let arena = Arena::new(12);
        arena.reserve(0).unwrap();
        let first = arena.at(0);
        arena.reserve(100_000).unwrap();
        assert_eq!(arena.at(0), first);
        for i in (0..100_000).step_by(7) {
            for w in 0..3 {
                assert_eq!(arena.word(i, w).swap(i * 3 + w as u32, Ordering::Relaxed), 0);
            }
        }
        for i in (0..100_000).step_by(7) {
            assert_eq!(arena.word(i, 2).load(Ordering::Relaxed), i * 3 + 2);
        }
    }
}
