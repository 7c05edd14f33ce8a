//! Open files by number. The numbers go to the kernel as file handles and come back with every request.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use parking_lot::Mutex;

/// Enough that two threads rarely meet.
const SHARDS: usize = 16;

/// A table of shared values. A value taken out lives on until its last user is done.
pub(super) struct Slab<T> {
    shards: [Mutex<Shard<T>>; SHARDS],
    next: AtomicUsize,
    len: AtomicU64,
}

struct Shard<T> {
    slots: Vec<Option<Arc<T>>>,
    free: Vec<u32>,
}

impl<T> Slab<T> {
    pub(super) fn new() -> Slab<T> {
        let shard = |_| {
            Mutex::new(Shard {
                slots: Vec::new(),
                free: Vec::new(),
            })
        };
        Slab {
            shards: std::array::from_fn(shard),
            next: AtomicUsize::new(0),
            len: AtomicU64::new(0),
        }
    }

    /// Puts a value in; its number is never 0.
    pub(super) fn insert(&self, value: Arc<T>) -> u64 {
        let at = self.next.fetch_add(1, Relaxed) % SHARDS;
        let mut shard = self.shards[at].lock();
        let slot = match shard.free.pop() {
            Some(slot) => slot as usize,
            None => {
                shard.slots.push(None);
                shard.slots.len() - 1
            }
        };
        shard.slots[slot] = Some(value);
        self.len.fetch_add(1, Relaxed);
        (slot * SHARDS + at + 1) as u64
    }

    pub(super) fn get(&self, number: u64) -> Option<Arc<T>> {
        let (at, slot) = place(number)?;
        self.shards[at].lock().slots.get(slot)?.clone()
    }

    pub(super) fn remove(&self, number: u64) -> Option<Arc<T>> {
        let (at, slot) = place(number)?;
        let mut shard = self.shards[at].lock();
        let value = shard.slots.get_mut(slot)?.take()?;
        shard.free.push(slot as u32);
        self.len.fetch_sub(1, Relaxed);
        Some(value)
    }

    /// The values that `which` picks.
    pub(super) fn select(&self, which: impl Fn(&T) -> bool) -> Vec<Arc<T>> {
        let mut picked = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock();
            picked.extend(shard.slots.iter().flatten().filter(|value| which(value)).cloned());
        }
        picked
    }

    pub(super) fn len(&self) -> u64 {
        self.len.load(Relaxed)
    }
}

fn place(number: u64) -> Option<(usize, usize)> {
    let number = usize::try_from(number.checked_sub(1)?).ok()?;
    Some((number % SHARDS, number / SHARDS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_lead_to_their_values_until_removed() {
        let slab = Slab::new();
        let numbers: Vec<u64> = (0..100).map(|i| slab.insert(Arc::new(i))).collect();
        assert_eq!(slab.len(), 100);
        for (i, n) in numbers.iter().enumerate() {
            assert_eq!(*slab.get(*n).unwrap(), i);
        }
        let held = slab.get(numbers[3]).unwrap();
        assert_eq!(*slab.remove(numbers[3]).unwrap(), 3);
        assert!(slab.get(numbers[3]).is_none() && slab.remove(numbers[3]).is_none());
        assert_eq!(slab.select(|value| *value < 10).len(), 9);
        assert_eq!(*held, 3, "a user of the value is not disturbed");
        for bad in [0, 101, u64::MAX] {
            assert!(slab.get(bad).is_none());
        }
        for n in numbers {
            slab.remove(n);
        }
        assert_eq!(slab.len(), 0);
        assert!(slab.insert(Arc::new(7)) <= 112, "slots are used again");
    }
}
