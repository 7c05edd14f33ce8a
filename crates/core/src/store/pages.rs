//! A map from file ids that costs little more than its values: ids are handed out in order, so the values stand in
//! pages. A hash map of a million values would be half empty.

use rustc_hash::FxHashMap;

use crate::ids::FileId;

/// Values of a page. The last one left of it keeps the whole page.
const PAGE_LEN: u64 = 64;

pub(super) struct Pages<T> {
    pages: FxHashMap<u64, Page<T>>,
}

struct Page<T> {
    used: usize,
    values: Box<[Option<T>]>,
}

impl<T> Default for Pages<T> {
    fn default() -> Pages<T> {
        Pages {
            pages: FxHashMap::default(),
        }
    }
}

impl<T> Pages<T> {
    pub(super) fn get(&self, id: &FileId) -> Option<&T> {
        let (page, at) = place(*id);
        self.pages.get(&page)?.values[at].as_ref()
    }

    pub(super) fn get_mut(&mut self, id: &FileId) -> Option<&mut T> {
        let (page, at) = place(*id);
        self.pages.get_mut(&page)?.values[at].as_mut()
    }

    pub(super) fn insert(&mut self, id: FileId, value: T) {
        let (number, at) = place(id);
        let page = self.pages.entry(number).or_insert_with(|| Page {
            used: 0,
            values: (0..PAGE_LEN).map(|_| None).collect(),
        });
        page.used += usize::from(page.values[at].replace(value).is_none());
    }

    pub(super) fn remove(&mut self, id: &FileId) -> Option<T> {
        let (number, at) = place(*id);
        let page = self.pages.get_mut(&number)?;
        let value = page.values[at].take()?;
        page.used -= 1;
        if page.used == 0 {
            self.pages.remove(&number);
        }
        Some(value)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (FileId, &T)> {
        self.pages.iter().flat_map(|(number, page)| {
            let ids = (number * PAGE_LEN..).map(FileId);
            ids.zip(page.values.iter())
                .filter_map(|(id, value)| Some((id, value.as_ref()?)))
        })
    }
}

fn place(id: FileId) -> (u64, usize) {
    (id.0 / PAGE_LEN, (id.0 % PAGE_LEN) as usize)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn pages_are_a_map() {
        let (mut pages, mut map) = (Pages::default(), BTreeMap::new());
        let mut state = 1_u64;
        for step in 0..10_000_u64 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let id = FileId((state >> 33) % 300);
            match step % 3 {
                0 => assert_eq!(pages.remove(&id), map.remove(&id)),
                1 => {
                    pages.insert(id, step);
                    map.insert(id, step);
                }
                _ => assert_eq!(pages.get(&id), map.get(&id)),
            }
            if let Some(value) = pages.get_mut(&id) {
                *value += 1;
            }
            map.entry(id).and_modify(|value| *value += 1);
        }
        let mut all: Vec<(FileId, u64)> = pages.iter().map(|(id, value)| (id, *value)).collect();
        all.sort();
        assert_eq!(all, map.into_iter().collect::<Vec<_>>());
        for (id, value) in &all {
            assert_eq!(pages.remove(id), Some(*value));
        }
        assert!(pages.pages.is_empty(), "an empty page is not kept");
    }
}
