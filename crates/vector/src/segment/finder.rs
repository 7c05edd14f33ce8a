//! Finding ids among the ascending ids of a segment, many at a time.
//!
//! A table says where the ids of each stretch of numbers begin, so that one id is found by one look into the table and
//! a few comparisons, without regard to those found before: the waits of several overlap. A filter of 1,000 scattered
//! ids among 100,000 takes a tenth of what steps from one id to the next take.

/// Ids of a stretch, on average.
const STRETCH_IDS: u64 = 8;

/// Where ids begin.
pub(crate) struct Finder {
    first: u64,
    last: u64,
    /// A stretch is `1 << shift` numbers.
    shift: u32,
    /// By stretch: the first row in it or after it, and all rows at the end; empty if the ids are without gaps.
    starts: Vec<u32>,
}

impl Finder {
    /// A table for strictly ascending ids.
    pub(super) fn new(ids: &[u64]) -> Finder {
        let (Some(&first), Some(&last)) = (ids.first(), ids.last()) else {
            // No id is between these two.
            return Finder {
                first: 1,
                last: 0,
                shift: 0,
                starts: Vec::new(),
            };
        };
        let (span, count) = (last - first, ids.len() as u64);
        let mut finder = Finder {
            first,
            last,
            shift: 0,
            starts: Vec::new(),
        };
        if span == count - 1 {
            return finder;
        }
        let stretches = count.div_ceil(STRETCH_IDS);
        while finder.shift < 63 && span >> finder.shift >= stretches {
            finder.shift += 1;
        }
        let used = (span >> finder.shift) as usize + 1;
        finder.starts.reserve_exact(used + 1);
        for (row, id) in ids.iter().enumerate() {
            let stretch = ((id - first) >> finder.shift) as usize;
            while finder.starts.len() <= stretch {
                finder.starts.push(row as u32);
            }
        }
        finder.starts.push(ids.len() as u32);
        finder
    }

    /// The row of an id in the `ids` that the table was made for.
    #[inline]
    pub(crate) fn find(&self, ids: &[u64], id: u64) -> Option<usize> {
        if id < self.first || id > self.last {
            return None;
        }
        let from_first = id - self.first;
        if self.starts.is_empty() {
            return Some(from_first as usize);
        }
        let stretch = (from_first >> self.shift) as usize;
        let (start, end) = (self.starts[stretch] as usize, self.starts[stretch + 1] as usize);
        let row = start + ids[start..end].partition_point(|&other| other < id);
        (row < end && ids[row] == id).then_some(row)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn agrees(ids: &[u64], asked: impl Iterator<Item = u64>) {
        let finder = Finder::new(ids);
        for id in asked {
            assert_eq!(finder.find(ids, id), ids.binary_search(&id).ok(), "{id}");
        }
    }

    #[test]
    fn ids_without_gaps_and_at_the_ends_of_the_range_are_found() {
        agrees(&[], [0, 1, u64::MAX].into_iter());
        agrees(&[7], 5..10);
        agrees(&(100..200).collect::<Vec<u64>>(), 90..210);
        agrees(&[0, u64::MAX], [0, 1, u64::MAX - 1, u64::MAX].into_iter());
        agrees(&[0, 1, 2, u64::MAX], [0, 2, 3, 1 << 63, u64::MAX].into_iter());
    }

    proptest! {
        #[test]
        fn it_finds_what_a_binary_search_finds(
            ids in proptest::collection::btree_set(0u64..5000, 0..400),
            files in proptest::collection::btree_set(0u64..1 << 40, 0..40),
        ) {
            // Scattered ids, then clusters far from each other, as files with some passages have them.
            let clusters = files.iter().flat_map(|file| (0..file % 13).map(move |slot| (file + 1) << 20 | slot));
            let ids: Vec<u64> = ids.into_iter().chain(clusters).collect();
            agrees(&ids, (0..5010).chain(ids.iter().flat_map(|&id| [id, id + 1])));
        }
    }
}
