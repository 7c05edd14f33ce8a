//! The nearest nodes of a search so far, in order, each with a mark whether its neighbours were looked at.

/// A distance that sorts as an unsigned number, the slot, and the mark in the lowest bit.
pub(super) type Key = u64;

#[inline]
pub(super) fn key(distance: f32, slot: u32) -> Key {
    let bits = distance.to_bits();
    let sortable = bits ^ (((bits as i32 >> 31) as u32) | 0x8000_0000);
    (sortable as u64) << 32 | (slot as u64) << 1
}

#[inline]
pub(super) fn slot(key: Key) -> u32 {
    (key as u32) >> 1
}

#[inline]
pub(super) fn distance(key: Key) -> f32 {
    let sortable = (key >> 32) as u32;
    let bits = if sortable >> 31 == 1 {
        sortable ^ 0x8000_0000
    } else {
        !sortable
    };
    f32::from_bits(bits)
}

/// A sorted list of keys. Insertion moves what is behind: for the few hundred keys of a search that is
/// faster than any heap.
#[derive(Default)]
pub(super) struct Beam {
    keys: Vec<Key>,
    /// How many are kept, and how many of the nearest are expanded.
    keep: usize,
    ef: usize,
    /// All before this are expanded.
    cursor: usize,
}

impl Beam {
    pub(super) fn reset(&mut self, ef: usize, keep: usize) {
        self.keys.clear();
        self.keys.reserve(keep + 1);
        self.ef = ef;
        self.keep = keep.max(ef);
        self.cursor = 0;
    }

    /// The key that a new one must be below.
    #[inline]
    pub(super) fn limit(&self) -> Key {
        if self.keys.len() < self.keep {
            Key::MAX
        } else {
            self.keys[self.keep - 1]
        }
    }

    /// No key of a larger distance is taken.
    #[inline]
    pub(super) fn limit_distance(&self) -> f32 {
        if self.keys.len() < self.keep {
            f32::INFINITY
        } else {
            distance(self.keys[self.keep - 1])
        }
    }

    /// Adds a key; the last one falls out if there are more than are kept.
    #[inline]
    pub(super) fn push(&mut self, key: Key) {
        if key >= self.limit() {
            return;
        }
        let at = self.keys.partition_point(|&k| k < key);
        if self.keys.len() == self.keep {
            self.keys.pop();
        }
        self.keys.insert(at, key);
        self.cursor = self.cursor.min(at);
    }

    /// The nearest node not expanded yet if it is among the `ef` nearest, now marked as expanded.
    #[inline]
    pub(super) fn pop(&mut self) -> Option<Key> {
        let ends = self.ef.min(self.keys.len());
        let found = self.keys[..ends].get_mut(self.cursor)?;
        let key = *found;
        *found |= 1;
        self.cursor += 1;
        while self.keys.get(self.cursor).is_some_and(|k| k & 1 == 1) {
            self.cursor += 1;
        }
        Some(key)
    }

    /// The node that [`Beam::pop`] would give now.
    #[inline]
    pub(super) fn peek(&self) -> Option<Key> {
        self.keys[..self.ef.min(self.keys.len())]
            .get(self.cursor)
            .copied()
    }

    /// The keys, nearest first.
    pub(super) fn keys(&self) -> &[Key] {
        &self.keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn keys_sort_like_distances_and_round_trip(a in -1e6f32..1e6, b in -1e6f32..1e6, s in 0u32..1 << 31) {
            prop_assert_eq!(distance(key(a, s)), a);
            prop_assert_eq!(slot(key(a, s) | 1), s);
            if a < b {
                prop_assert!(key(a, s) < key(b, 0));
            }
        }

        #[test]
        fn pops_the_ef_nearest_in_order_and_keeps_more(
            d in prop::collection::vec(0u32..1000, 1..100), ef in 1usize..20, more in 0usize..10,
        ) {
            let mut beam = Beam::default();
            beam.reset(ef, ef + more);
            for (i, chunk) in d.chunks(3).enumerate() {
                for (j, &x) in chunk.iter().enumerate() {
                    beam.push(key(x as f32, (3 * i + j) as u32));
                }
                let nearest = beam.keys().iter().take(ef).find(|k| *k & 1 == 0).copied();
                prop_assert_eq!(beam.peek(), nearest);
                prop_assert_eq!(beam.pop(), nearest);
            }
            let mut all: Vec<Key> = d.iter().enumerate().map(|(i, &x)| key(x as f32, i as u32)).collect();
            all.sort_unstable();
            all.truncate(ef + more);
            let kept: Vec<Key> = beam.keys().iter().map(|k| k & !1).collect();
            prop_assert_eq!(&kept, &all);
            let farthest = if all.len() < ef + more { f32::INFINITY } else { distance(all[ef + more - 1]) };
            prop_assert_eq!(beam.limit_distance(), farthest);
        }
    }
}
