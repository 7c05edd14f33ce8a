//! The inodes that the kernel knows, by number, with the count of its lookups.
//!
//! The count goes up by one with every entry that is answered and down with FORGET; a node leaves the table when it
//! reaches zero. Both happen under the lock of the node's shard, so a node that was removed is never revived.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

use super::node::{Node, Reference};
use crate::ids::Ino;

/// Enough that two threads rarely meet, few enough that empty shards cost nothing.
const SHARDS: usize = 64;

/// A count that reaches this stays there, and the node with it: that takes a program four thousand million lookups that
/// the kernel does not take back.
const PINNED: u32 = u32::MAX;

type Shard = Mutex<HashSet<ByNumber, BuildHasherDefault<NumberHasher>>>;

/// A node under its number, which stands in it alone.
struct ByNumber(Arc<Node>);

impl Borrow<u64> for ByNumber {
    fn borrow(&self) -> &u64 {
        &self.0.ino.0
    }
}

impl Hash for ByNumber {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.ino.0.hash(state);
    }
}

impl PartialEq for ByNumber {
    fn eq(&self, other: &ByNumber) -> bool {
        self.0.ino == other.0.ino
    }
}

impl Eq for ByNumber {}

pub(super) struct Table {
    shards: Vec<Shard>,
    len: AtomicU64,
}

/// An inode just found on the backing filesystem.
pub(super) struct Found {
    pub(super) ino: Ino,
    pub(super) number: u64,
    pub(super) mount: u32,
    /// Of its handle, if that was asked for.
    pub(super) generation: Option<u32>,
    pub(super) birth: u32,
    pub(super) kind: u32,
}

impl Found {
    /// Whether it is the inode that has the number already.
    fn is(&self, known: &Node) -> bool {
        let generation = match known.is_by_birth() {
            true => self.birth,
            false => self.generation.unwrap_or(self.birth),
        };
        known.generation == generation && known.kind() == self.kind
    }

    fn node(&self, generation: u32, reference: Reference, lookups: u32) -> Arc<Node> {
        let node = Node::new(
            self.ino,
            self.number,
            self.mount,
            generation,
            self.kind,
            reference,
        );
        node.lookups.store(lookups, Relaxed);
        Arc::new(node)
    }
}

impl Table {
    pub(super) fn new() -> Table {
        Table {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            len: AtomicU64::new(0),
        }
    }

    /// The node with this number.
    pub(super) fn get(&self, ino: Ino) -> Option<Arc<Node>> {
        self.shard(ino).lock().get(&ino.0).map(|known| known.0.clone())
    }

    /// Puts a node in that is never forgotten: the root.
    pub(super) fn pin(&self, node: Arc<Node>) {
        node.lookups.store(PINNED, Relaxed);
        self.shard(node.ino).lock().insert(ByNumber(node));
        self.len.fetch_add(1, Relaxed);
    }

    /// Counts a lookup of the inode that was found, and gives its node. `reference` is asked for a new node, and for
    /// a known one of which `refresh` says that its reference should follow.
    ///
    /// If the number is known for another inode, which is then dead, the new one takes its place and its count: the
    /// kernel notices by the generation, and will forget the sum.
    pub(super) fn refer(
        &self,
        found: &Found,
        refresh: impl FnOnce(&Node) -> bool,
        reference: impl FnOnce() -> Reference,
    ) -> Arc<Node> {
        let generation = found.generation.unwrap_or(found.birth);
        let mut shard = self.shard(found.ino).lock();
        let Some(ByNumber(known)) = shard.get(&found.ino.0) else {
            let node = found.node(generation, reference(), 1);
            self.len.fetch_add(1, Relaxed);
            shard.insert(ByNumber(node.clone()));
            return node;
        };
        let count = known.lookups.load(Relaxed).saturating_add(1);
        known.lookups.store(count, Relaxed);
        if !found.is(known) {
            let node = found.node(generation, reference(), count);
            shard.replace(ByNumber(node.clone()));
            return node;
        }
        if refresh(known) {
            known.set_reference(reference());
        }
        known.clone()
    }

    /// The same without a handle, if the birth time is enough: the known inode is told by it, or there is none and
    /// `unique` says that no inode to come can have both this number and this birth time.
    pub(super) fn refer_by_birth(&self, found: &Found, unique: bool) -> Option<Arc<Node>> {
        let fresh = |lookups| found.node(found.birth, Reference::Number, lookups);
        let mut shard = self.shard(found.ino).lock();
        let Some(ByNumber(known)) = shard.get(&found.ino.0) else {
            if !unique {
                return None;
            }
            let node = fresh(1);
            self.len.fetch_add(1, Relaxed);
            shard.insert(ByNumber(node.clone()));
            return Some(node);
        };
        if !known.is_by_birth() {
            return None;
        }
        let same = found.is(known);
        if !same && !unique {
            return None;
        }
        let count = known.lookups.load(Relaxed).saturating_add(1);
        known.lookups.store(count, Relaxed);
        if same {
            return Some(known.clone());
        }
        let node = fresh(count);
        shard.replace(ByNumber(node.clone()));
        Some(node)
    }

    /// Takes `count` lookups back; gives the node when that was the last one.
    pub(super) fn forget(&self, ino: Ino, count: u64) -> Option<Arc<Node>> {
        let mut shard = self.shard(ino).lock();
        let ByNumber(known) = shard.get(&ino.0)?;
        let lookups = known.lookups.load(Relaxed);
        if lookups == PINNED {
            return None;
        }
        let left = u64::from(lookups).saturating_sub(count) as u32;
        known.lookups.store(left, Relaxed);
        if left > 0 {
            return None;
        }
        self.len.fetch_sub(1, Relaxed);
        shard.take(&ino.0).map(|known| known.0)
    }

    /// The numbers of all inodes that the kernel knows.
    pub(super) fn all(&self) -> Vec<Ino> {
        self.shards
            .iter()
            .flat_map(|shard| shard.lock().iter().map(|known| known.0.ino).collect::<Vec<_>>())
            .collect()
    }

    /// How many inodes the kernel knows.
    pub(super) fn len(&self) -> u64 {
        self.len.load(Relaxed)
    }

    fn shard(&self, ino: Ino) -> &Shard {
        &self.shards[(mix(ino.0) >> 58) as usize % SHARDS]
    }
}

/// Inode numbers come in runs; one multiplication spreads them.
#[derive(Default)]
pub(super) struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.0 = mix(self.0 ^ u64::from(*b));
        }
    }

    fn write_u64(&mut self, n: u64) {
        // The map takes the control byte from the top bits and the bucket from the bottom ones: both must vary.
        self.0 = mix(n).rotate_left(20);
    }
}

fn mix(n: u64) -> u64 {
    n.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(ino: u64, generation: u32) -> Found {
        Found {
            ino: Ino(ino),
            number: ino,
            mount: 0,
            generation: Some(generation),
            birth: 0,
            kind: libc::S_IFREG,
        }
    }

    fn born(ino: u64, birth: u32) -> Found {
        Found {
            generation: None,
            birth,
            ..found(ino, 0)
        }
    }

    #[test]
    fn a_node_leaves_with_its_last_lookup() {
        let table = Table::new();
        let first = table.refer(&found(7, 1), |_| false, || Reference::Descriptor);
        let second = table.refer(&found(7, 1), |_| false, || unreachable!("known"));
        assert!(Arc::ptr_eq(&first, &second));
        assert_eq!(table.len(), 1);
        assert!(table.forget(Ino(7), 1).is_none());
        assert!(table.get(Ino(7)).is_some());
        assert!(table.forget(Ino(7), 1).is_some());
        assert!(table.get(Ino(7)).is_none());
        assert!(
            table.forget(Ino(7), 1).is_none(),
            "forgetting the unknown is harmless"
        );
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn a_reused_number_is_another_node_with_the_old_count() {
        let table = Table::new();
        let old = table.refer(&found(7, 1), |_| false, || Reference::Descriptor);
        let new = table.refer(&found(7, 2), |_| false, || Reference::Descriptor);
        assert!(!Arc::ptr_eq(&old, &new));
        assert!(
            table.forget(Ino(7), 1).is_none(),
            "the kernel still knows the new one"
        );
        assert!(table.forget(Ino(7), 1).is_some());
    }

    #[test]
    fn a_birth_time_that_none_can_share_is_enough() {
        let table = Table::new();
        let old = table.refer_by_birth(&born(7, 100), true).unwrap();
        assert!(old.is_by_birth());
        let again = table.refer_by_birth(&born(7, 100), false).unwrap();
        assert!(
            Arc::ptr_eq(&old, &again),
            "known by its birth time, whatever the time is now"
        );
        let with_handle = Found {
            birth: 100,
            ..found(7, 55)
        };
        let asked = table.refer(&with_handle, |_| false, || unreachable!("known"));
        assert!(
            Arc::ptr_eq(&old, &asked),
            "one inode is one node, however it is found"
        );
        assert!(
            table.refer_by_birth(&born(7, 101), false).is_none(),
            "another inode, which one to come may be taken for"
        );
        let new = table.refer_by_birth(&born(7, 101), true).unwrap();
        assert!(!Arc::ptr_eq(&old, &new));
        assert!(table.forget(Ino(7), 3).is_none(), "the count goes on");
        assert!(table.forget(Ino(7), 1).is_some());
    }

    #[test]
    fn an_inode_that_was_too_young_is_told_by_its_handle_for_ever() {
        let table = Table::new();
        assert!(table.refer_by_birth(&born(7, 100), false).is_none());
        let young = table.refer(
            &Found {
                birth: 100,
                ..found(7, 1)
            },
            |_| false,
            || Reference::Descriptor,
        );
        assert!(
            table.refer_by_birth(&born(7, 100), true).is_none(),
            "another that was born in the same moment may have the number by now"
        );
        let other = table.refer(
            &Found {
                birth: 100,
                ..found(7, 2)
            },
            |_| false,
            || Reference::Descriptor,
        );
        assert!(!Arc::ptr_eq(&young, &other));
    }

    #[test]
    fn a_count_at_its_end_keeps_the_node() {
        let table = Table::new();
        let node = table.refer(&found(7, 1), |_| false, || Reference::Descriptor);
        node.lookups.store(PINNED - 1, Relaxed);
        table.refer(&found(7, 1), |_| false, || Reference::Descriptor);
        table.refer(&found(7, 1), |_| false, || Reference::Descriptor);
        assert!(table.forget(Ino(7), u64::MAX).is_none());
        assert!(table.get(Ino(7)).is_some());
    }

    #[test]
    fn numbers_in_runs_spread_over_the_shards() {
        let table = Table::new();
        for ino in 0..6400 {
            table.refer(&found(ino, 0), |_| false, || Reference::Descriptor);
        }
        let fullest = table.shards.iter().map(|s| s.lock().len()).max().unwrap();
        assert!(fullest < 300, "{fullest} of 6400 in one of {SHARDS} shards");
    }
}
