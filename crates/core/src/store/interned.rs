//! Values that many files have in common, each kept once and as long as somebody uses it.

use std::hash::Hash;

use rustc_hash::FxHashMap;

/// A value that was taken in; good until it is released as often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Interned(u32);

pub(super) struct Interner<T> {
    slots: Vec<Option<Slot<T>>>,
    by_value: FxHashMap<T, u32>,
    free: Vec<u32>,
}

struct Slot<T> {
    value: T,
    users: u64,
}

impl<T> Default for Interner<T> {
    fn default() -> Interner<T> {
        Interner {
            slots: Vec::new(),
            by_value: FxHashMap::default(),
            free: Vec::new(),
        }
    }
}

impl<T: Clone + Eq + Hash> Interner<T> {
    /// Counts one more user of the value.
    pub(super) fn take(&mut self, value: T) -> Interned {
        if let Some(&at) = self.by_value.get(&value) {
            self.slot_mut(at).users += 1;
            return Interned(at);
        }
        let slot = Slot {
            value: value.clone(),
            users: 1,
        };
        let at = match self.free.pop() {
            Some(at) => {
                self.slots[at as usize] = Some(slot);
                at
            }
            None => {
                self.slots.push(Some(slot));
                u32::try_from(self.slots.len() - 1).expect("files have fewer than 2^32 different states")
            }
        };
        self.by_value.insert(value, at);
        Interned(at)
    }

    /// Counts one user less.
    pub(super) fn release(&mut self, interned: Interned) {
        let slot = self.slot_mut(interned.0);
        slot.users -= 1;
        if slot.users == 0
            && let Some(slot) = self.slots[interned.0 as usize].take()
        {
            self.by_value.remove(&slot.value);
            self.free.push(interned.0);
        }
    }

    pub(super) fn get(&self, interned: Interned) -> &T {
        let slot = self.slots[interned.0 as usize].as_ref();
        &slot.expect("it is released when its last user goes").value
    }

    fn slot_mut(&mut self, at: u32) -> &mut Slot<T> {
        let slot = self.slots[at as usize].as_mut();
        slot.expect("it is released when its last user goes")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_stays_until_its_last_user_goes_and_its_place_is_used_again() {
        let mut interner = Interner::default();
        let (a, b, again) = (interner.take("a"), interner.take("b"), interner.take("a"));
        assert_eq!(a, again);
        interner.release(a);
        assert_eq!((*interner.get(again), *interner.get(b)), ("a", "b"));
        interner.release(again);
        let c = interner.take("c");
        assert_eq!((c, *interner.get(c)), (a, "c"), "the place of the one that went");
        assert_ne!(interner.take("a"), c);
        assert_eq!(interner.by_value.len(), 3);
    }
}
