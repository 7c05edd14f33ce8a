//! Which rows of a segment are deleted: a bitmap whose pages are shared between versions.

use std::ops::Range;
use std::sync::Arc;

use roaring::RoaringBitmap;

/// Rows per page: 512 bytes are copied when a row dies, and the page table of a million rows is 2 KB.
const PAGE_ROWS: usize = 4096;
type Page = [u64; PAGE_ROWS / 64];

/// The dead rows of a segment. A clone shares the pages, so that a reader keeps its version for the price of a copy of
/// the page table.
#[derive(Clone, Default)]
pub(crate) struct Dead {
    pages: Vec<Option<Arc<Page>>>,
    count: usize,
}

impl Dead {
    /// The bitmap as a manifest has it.
    pub(crate) fn from_bitmap(rows: &RoaringBitmap) -> Dead {
        let mut dead = Dead::default();
        for row in rows {
            dead.insert(row as usize);
        }
        dead
    }

    /// The bitmap for a manifest.
    pub(crate) fn to_bitmap(&self) -> RoaringBitmap {
        self.iter().map(|row| row as u32).collect()
    }

    /// Whether the row is dead.
    #[inline]
    pub(crate) fn contains(&self, row: usize) -> bool {
        match self.pages.get(row / PAGE_ROWS) {
            Some(Some(page)) => page[row % PAGE_ROWS / 64] >> (row % 64) & 1 == 1,
            _ => false,
        }
    }

    /// Marks a row; `false` if it was dead already.
    pub(crate) fn insert(&mut self, row: usize) -> bool {
        let (page, word, bit) = (row / PAGE_ROWS, row % PAGE_ROWS / 64, row % 64);
        if self.contains(row) {
            return false;
        }
        if self.pages.len() <= page {
            self.pages.resize(page + 1, None);
        }
        let page = self.pages[page].get_or_insert_with(|| Arc::new([0; PAGE_ROWS / 64]));
        Arc::make_mut(page)[word] |= 1 << bit;
        self.count += 1;
        true
    }

    /// Marks all rows of a range and returns how many of them were alive.
    pub(crate) fn insert_range(&mut self, rows: Range<usize>) -> usize {
        rows.map(|row| usize::from(self.insert(row))).sum()
    }

    /// How many rows are dead.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// The 64 rows from `64 * word` as bits.
    #[inline]
    pub(crate) fn word(&self, word: usize) -> u64 {
        match self.pages.get(word / (PAGE_ROWS / 64)) {
            Some(Some(page)) => page[word % (PAGE_ROWS / 64)],
            _ => 0,
        }
    }

    /// The dead rows, ascending.
    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.pages.len() * (PAGE_ROWS / 64)).flat_map(|word| {
            let mut bits = self.word(word);
            std::iter::from_fn(move || {
                let bit = bits.trailing_zeros();
                (bits != 0).then(|| {
                    bits &= bits - 1;
                    word * 64 + bit as usize
                })
            })
        })
    }

    /// The rows dead here and alive in an earlier version.
    pub(crate) fn since<'a>(&'a self, earlier: &'a Dead) -> impl Iterator<Item = usize> + 'a {
        let changed = self
            .pages
            .iter()
            .enumerate()
            .filter(|(i, page)| match (page, earlier.pages.get(*i)) {
                (Some(page), Some(Some(before))) => !Arc::ptr_eq(page, before),
                (page, _) => page.is_some(),
            });
        changed
            .flat_map(|(i, _)| i * PAGE_ROWS..(i + 1) * PAGE_ROWS)
            .filter(|&r| self.contains(r) && !earlier.contains(r))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_keeps_its_version() {
        let mut dead = Dead::default();
        assert!(dead.insert(5000));
        let before = dead.clone();
        assert!(!dead.insert(5000));
        assert_eq!(dead.insert_range(4990..5010), 19);
        assert_eq!((before.len(), dead.len()), (1, 20));
        assert!(!before.contains(4990) && dead.contains(4990) && !dead.contains(4989));
        assert_eq!(
            dead.since(&before).collect::<Vec<_>>(),
            (4990..5010).filter(|&r| r != 5000).collect::<Vec<_>>()
        );
        assert_eq!(dead.iter().collect::<Vec<_>>(), (4990..5010).collect::<Vec<_>>());
    }

    #[test]
    fn the_bitmap_round_trips() {
        let rows: RoaringBitmap = [0, 63, 64, 4095, 4096, 100_000].into_iter().collect();
        assert_eq!(Dead::from_bitmap(&rows).to_bitmap(), rows);
    }
}
