//! Files that may have changed unseen: a set of inodes in a memory-mapped file.
//!
//! A file is marked before it is opened for writing, without a system call, and the mark outlives a killed daemon
//! because the page cache does. The next daemon compares the content of every marked file, whatever its times say.
//! The set is bounded and answers "maybe": marks are 48-bit fingerprints. When it is full it says so, and everything
//! that was changed lately is compared.
//!
//! Bytes, little-endian: magic, the overflow flag, 48 bytes of zeros, then the slots. A slot is 0 or a fingerprint above
//! a 16-bit count of marks, by which the one who clears a mark knows that it was not set anew meanwhile.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::MmapMut;

use crate::error::Result;
use crate::ids::NodeKey;

const MAGIC: u64 = u64::from_le_bytes(*b"VEXMARK1");
/// 512 KiB: files open for writing at one time, with much to spare.
const SLOTS: usize = 1 << 16;
/// Slots in which a fingerprint may stand, from its home on. With half the slots full, 32 in a row are full about
/// once in a million homes.
const WINDOW: usize = 32;
const HEADER_WORDS: usize = 8;
const COUNT_BITS: u32 = 16;

/// The set of marks.
pub struct Marks {
    map: MmapMut,
}

/// A mark as it stood when it was looked at.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    slot: usize,
    word: u64,
}

impl Marks {
    /// Opens the set in a file, or makes it. A file that is damaged counts as a set that overflowed.
    pub fn open(path: &Path) -> Result<Marks> {
        let bytes = ((HEADER_WORDS + SLOTS) * 8) as u64;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
            .open(path)?;
        let existed = file.metadata()?.len();
        if existed != bytes {
            file.set_len(0)?;
            file.set_len(bytes)?;
        }
        // SAFETY: the file is ours alone (it lies in the store directory, which is locked and not readable by
        // others) and keeps its length while it is mapped.
        let map = unsafe { MmapMut::map_mut(&file)? };
        let marks = Marks { map };
        let magic = &marks.words()[0];
        if magic.load(Ordering::Relaxed) != MAGIC {
            marks.words()[HEADER_WORDS..]
                .iter()
                .for_each(|slot| slot.store(0, Ordering::Relaxed));
            marks.overflow().store(u64::from(existed != 0), Ordering::Relaxed);
            magic.store(MAGIC, Ordering::Release);
        }
        Ok(marks)
    }

    /// Marks a file. Lock-free, no system call.
    pub fn mark(&self, key: NodeKey) {
        let print = fingerprint(key);
        // The mark has to be there before the file is written to.
        if self.window(print).any(|slot| bump(slot, print)) {
            return;
        }
        for slot in self.window(print) {
            let fresh = print << COUNT_BITS | 1;
            match slot.compare_exchange(0, fresh, Ordering::SeqCst, Ordering::Relaxed) {
                Ok(_) => return,
                Err(other) if other >> COUNT_BITS == print && bump(slot, print) => return,
                Err(_) => {}
            }
        }
        self.overflow().store(1, Ordering::SeqCst);
    }

    /// Whether a file may be marked.
    pub fn contains(&self, key: NodeKey) -> bool {
        let print = fingerprint(key);
        self.window(print)
            .any(|slot| slot.load(Ordering::SeqCst) >> COUNT_BITS == print)
    }

    /// The marks of a file as they stand. Two threads may have set one each.
    pub fn seen(&self, key: NodeKey) -> Vec<Seen> {
        let print = fingerprint(key);
        let home = home(print);
        let stands = |slot: usize| (slot, self.slots()[slot].load(Ordering::SeqCst));
        let marks = (0..WINDOW).map(|i| stands((home + i) % SLOTS));
        marks
            .filter(|(_, word)| word >> COUNT_BITS == print)
            .map(|(slot, word)| Seen { slot, word })
            .collect()
    }

    /// Clears a mark, unless it was set anew since it was seen.
    pub fn clear(&self, seen: Seen) {
        let slot = &self.slots()[seen.slot];
        let _ = slot.compare_exchange(seen.word, 0, Ordering::SeqCst, Ordering::Relaxed);
    }

    /// Whether marks were lost since the flag was reset.
    pub fn overflowed(&self) -> bool {
        self.overflow().load(Ordering::SeqCst) != 0
    }

    /// Says that everything that may have changed was compared.
    pub fn reset_overflow(&self) {
        self.overflow().store(0, Ordering::SeqCst);
    }

    fn words(&self) -> &[AtomicU64] {
        // SAFETY: the map is page-aligned, has a multiple of 8 bytes, lives as long as `self`, and nothing accesses
        // it but through these atomics; every bit pattern is a number.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr().cast(), self.map.len() / 8) }
    }

    fn overflow(&self) -> &AtomicU64 {
        &self.words()[1]
    }

    fn slots(&self) -> &[AtomicU64] {
        &self.words()[HEADER_WORDS..]
    }

    fn window(&self, print: u64) -> impl Iterator<Item = &AtomicU64> {
        let home = home(print);
        (0..WINDOW).map(move |i| &self.slots()[(home + i) % SLOTS])
    }
}

/// Counts one more mark in a slot that holds the fingerprint.
fn bump(slot: &AtomicU64, print: u64) -> bool {
    let more = |word: u64| {
        let count = (word + 1) & ((1 << COUNT_BITS) - 1);
        (word >> COUNT_BITS == print).then_some(print << COUNT_BITS | count)
    };
    slot.fetch_update(Ordering::SeqCst, Ordering::Relaxed, more)
        .is_ok()
}

/// 48 bits of an inode number, never 0. The device is left out: its number changes from mount to mount.
fn fingerprint(key: NodeKey) -> u64 {
    // The finalizer of SplitMix64 (Steele, Lea, Flood 2014).
    let mut x = key.ino.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (x ^ x >> 31) >> COUNT_BITS | 1
}

fn home(print: u64) -> usize {
    (print >> 1) as usize % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(ino: u64) -> NodeKey {
        NodeKey { dev: 1, ino }
    }

    #[test]
    fn marks_outlive_their_setter() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("marks");
        let marks = Marks::open(&path).unwrap();
        (0..1000).for_each(|ino| marks.mark(key(ino)));
        // No unmapping, no flushing: as after a kill.
        std::mem::forget(marks);
        let marks = Marks::open(&path).unwrap();
        assert!((0..1000).all(|ino| marks.contains(key(ino))));
        assert!((1000..2000).all(|ino| !marks.contains(key(ino))));
        assert!(!marks.overflowed());
    }

    #[test]
    fn a_mark_set_anew_survives_the_clearing_of_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let marks = Marks::open(&dir.path().join("marks")).unwrap();
        marks.mark(key(7));
        let seen = marks.seen(key(7));
        marks.mark(key(7));
        seen.into_iter().for_each(|seen| marks.clear(seen));
        assert!(marks.contains(key(7)));
        marks.seen(key(7)).into_iter().for_each(|seen| marks.clear(seen));
        assert!(!marks.contains(key(7)));
    }

    #[test]
    fn a_full_set_and_a_damaged_file_say_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("marks");
        let marks = Marks::open(&path).unwrap();
        (0..SLOTS as u64 * 2).for_each(|ino| marks.mark(key(ino)));
        assert!(marks.overflowed());
        marks.reset_overflow();
        drop(marks);
        assert!(!Marks::open(&path).unwrap().overflowed());
        std::fs::write(&path, b"damaged").unwrap();
        assert!(Marks::open(&path).unwrap().overflowed());
    }

    #[test]
    fn threads_that_mark_and_clear_lose_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let marks = Marks::open(&dir.path().join("marks")).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4u64 {
                let marks = &marks;
                scope.spawn(move || {
                    for ino in 0..5000 {
                        marks.mark(key(ino));
                        if ino % 4 == thread {
                            marks
                                .seen(key(ino + 10_000))
                                .into_iter()
                                .for_each(|seen| marks.clear(seen));
                        }
                    }
                });
            }
        });
        assert!((0..5000).all(|ino| marks.contains(key(ino))));
        assert!(!marks.overflowed());
    }
}
