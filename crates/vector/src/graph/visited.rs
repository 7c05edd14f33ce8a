//! The set of nodes a search has seen: a bit a node, 12.5 KB for 100,000, which stays in the first-level cache.

/// The most slots added at once: all edges of a node.
const FAN: usize = 64;

/// A reusable set of slots.
#[derive(Default)]
pub(super) struct Visited {
    words: Vec<u64>,
    seen: Vec<u32>,
    /// Slots from here on do not count: a node that came into being after the search began, or a damaged edge.
    end: u32,
}

impl Visited {
    /// Empties the set and makes room for slots below `slots`. Clears by the list of members where that is shorter than
    /// the bits.
    pub(super) fn reset(&mut self, slots: u32) {
        self.end = slots;
        let slots = slots as usize;
        if self.seen.len() < self.words.len() {
            self.seen.iter().for_each(|&s| self.words[s as usize / 64] = 0);
        } else {
            self.words.fill(0);
        }
        self.seen.clear();
        if self.words.len() < slots.div_ceil(64) {
            // Room for growth, so that a search beside inserts does not reallocate each time.
            self.words.resize((slots + slots / 4).div_ceil(64) + 64, 0);
        }
    }

    /// Adds slots and writes those that were not there yet and count into `fresh`. Whether one was there is as good as
    /// random, so nothing branches on it.
    #[inline]
    pub(super) fn fresh(&mut self, slots: impl Iterator<Item = u32>, fresh: &mut Vec<u32>) {
        fresh.resize(FAN, 0);
        let mut count = 0;
        for slot in slots.take(FAN) {
            if slot >= self.end {
                continue;
            }
            let word = &mut self.words[slot as usize / 64];
            fresh[count] = slot;
            count += usize::from(*word >> (slot % 64) & 1 == 0);
            *word |= 1 << (slot % 64);
        }
        fresh.truncate(count);
        self.seen.extend_from_slice(fresh);
    }

    /// Adds a slot; false if it was there already or is none that counts.
    #[inline]
    pub(super) fn insert(&mut self, slot: u32) -> bool {
        if slot >= self.end {
            return false;
        }
        let word = &mut self.words[slot as usize / 64];
        let bit = 1 << (slot % 64);
        if *word & bit != 0 {
            return false;
        }
        *word |= bit;
        self.seen.push(slot);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_new_once_until_reset() {
        let mut v = Visited::default();
        for round in 0..3 {
            v.reset(1000 * (round + 1));
            assert!(v.insert(5) && !v.insert(5) && v.insert(999));
        }
        assert!(!v.insert(3000) && !v.insert(u32::MAX / 2));
    }

    #[test]
    fn says_which_are_new_and_forgets_them_on_reset() {
        let mut visited = Visited::default();
        let mut fresh = Vec::new();
        for _ in 0..3 {
            visited.reset(100);
            visited.fresh([3, 99, 3, 100, u32::MAX, 64].into_iter(), &mut fresh);
            assert_eq!(fresh, [3, 99, 64]);
            visited.fresh([99, 0].into_iter(), &mut fresh);
            assert_eq!(fresh, [0]);
            assert!(!visited.insert(64) && visited.insert(65) && !visited.insert(100));
            visited.fresh([65, 66].into_iter(), &mut fresh);
            assert_eq!(fresh, [66]);
        }
    }
}
