//! Backing files of passthrough: one for each inode, because the kernel refuses two, and all opens of an inode in one
//! mode, because it refuses to mix them.
//!
//! A backing file stays registered after the last close, so that opening the file again costs no system call; a clock
//! bounds those that nobody has open.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use fuser::BackingId;
use parking_lot::Mutex;
use vexfs_core::fs::Reopen;
use vexfs_core::ids::Ino;
use vexfs_core::metrics::Metrics;

/// Backing files kept though nobody has them open, roughly. Each is an open file in the kernel.
const KEPT_MAX: usize = 4096;
const SHARDS: usize = 16;

pub(super) struct Backings<Id = BackingId> {
    on: AtomicBool,
    shards: [Mutex<HashMap<Ino, Backing<Id>>>; SHARDS],
    /// Taken before a shard. Inodes may stand in it twice, and after they are gone.
    clock: Mutex<VecDeque<Ino>>,
    kept_max: usize,
    metrics: Arc<Metrics>,
}

/// How an inode is open.
struct Backing<Id> {
    /// `None`: the kernel would not have it, we read and write.
    id: Option<Arc<Id>>,
    generation: u64,
    opens: u32,
    hot: bool,
}

impl<Id> Backings<Id> {
    pub(super) fn new(on: bool, metrics: Arc<Metrics>) -> Backings<Id> {
        metrics.passthrough.set(u64::from(on));
        Backings {
            on: AtomicBool::new(on),
            shards: std::array::from_fn(|_| Mutex::default()),
            clock: Mutex::default(),
            kept_max: KEPT_MAX,
            metrics,
        }
    }

    /// Whether files should be opened for passthrough.
    pub(super) fn how(&self) -> Reopen {
        if self.on.load(Relaxed) {
            Reopen::Passthrough
        } else {
            Reopen::Daemon
        }
    }

    /// The kernel does not allow it at all.
    pub(super) fn turn_off(&self) {
        self.on.store(false, Relaxed);
        self.metrics.passthrough.set(0);
    }

    /// The backing file of an inode that is being opened, made by `make` if it has none; `None` if this inode must
    /// be read and written by us. Ends with [`Backings::release`] either way.
    pub(super) fn acquire(
        &self,
        ino: Ino,
        generation: u64,
        make: impl FnOnce() -> io::Result<Id>,
    ) -> Option<Arc<Id>> {
        if let Some(backing) = self.shard(ino).lock().get_mut(&ino)
            && backing.generation == generation
        {
            backing.opens += 1;
            backing.hot = true;
            return backing.id.clone();
        }
        let made = match make() {
            Ok(id) => Some(Arc::new(id)),
            Err(e) => {
                self.refused(&e);
                None
            }
        };
        let fresh = made.is_some();
        let (id, replaced) = {
            let mut shard = self.shard(ino).lock();
            match shard.get_mut(&ino) {
                // Another thread was faster: its file is the one.
                Some(backing) if backing.generation == generation => {
                    backing.opens += 1;
                    (backing.id.clone(), made)
                }
                _ => {
                    let backing = Backing {
                        id: made.clone(),
                        generation,
                        opens: 1,
                        hot: true,
                    };
                    let old = shard.insert(ino, backing);
                    if fresh {
                        self.metrics.backing_ids.add_one();
                    }
                    (made, old.and_then(|b| self.gone(b)))
                }
            }
        };
        drop(replaced); // closes outside the lock
        if fresh {
            self.make_room(ino);
        }
        id
    }

    /// One open less.
    pub(super) fn release(&self, ino: Ino) {
        if ino.is_control() || ino.is_staged() {
            return;
        }
        let mut shard = self.shard(ino).lock();
        if let Some(backing) = shard.get_mut(&ino) {
            backing.opens = backing.opens.saturating_sub(1);
            if backing.opens == 0 && backing.id.is_none() {
                // Next time it may work.
                shard.remove(&ino);
            }
        }
    }

    /// The kernel has forgotten the inode: a kept file would only keep a deleted one's space.
    pub(super) fn forget(&self, ino: Ino) {
        let old = {
            let mut shard = self.shard(ino).lock();
            match shard.get(&ino) {
                Some(backing) if backing.opens == 0 => shard.remove(&ino),
                _ => None,
            }
        };
        drop(old.and_then(|b| self.gone(b)));
    }

    /// A refusal that holds for every file turns passthrough off: no right to it, or no such call. ELOOP, a backing
    /// filesystem that is itself stacked, and a lack of memory hold for one.
    fn refused(&self, error: &io::Error) {
        let forever = matches!(
            error.raw_os_error(),
            Some(libc::EPERM | libc::EOPNOTSUPP | libc::ENOTTY | libc::ENOSYS | libc::EINVAL)
        );
        if forever && self.metrics.backing_ids.get() == 0 && self.on.load(Relaxed) {
            tracing::info!("no passthrough: {error}");
            self.turn_off();
        }
    }

    /// Lets go of files that nobody has open, once there are too many.
    fn make_room(&self, newest: Ino) {
        let mut dropped = Vec::new();
        {
            let mut clock = self.clock.lock();
            clock.push_back(newest);
            let mut patience = clock.len();
            while clock.len() > self.kept_max && patience > 0 {
                patience -= 1;
                let Some(ino) = clock.pop_front() else { break };
                let mut shard = self.shard(ino).lock();
                let Some(backing) = shard.get_mut(&ino) else {
                    continue;
                };
                if backing.opens > 0 || std::mem::take(&mut backing.hot) {
                    clock.push_back(ino);
                } else {
                    dropped.extend(shard.remove(&ino).and_then(|b| self.gone(b)));
                }
            }
        }
        drop(dropped);
    }

    fn gone(&self, backing: Backing<Id>) -> Option<Arc<Id>> {
        if backing.id.is_some() {
            self.metrics.backing_ids.take_one();
        }
        backing.id
    }

    fn shard(&self, ino: Ino) -> &Mutex<HashMap<Ino, Backing<Id>>> {
        &self.shards[ino.0 as usize % SHARDS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backings() -> Backings<u32> {
        Backings::new(true, Arc::new(Metrics::new()))
    }

    fn fails(errno: i32) -> io::Result<u32> {
        Err(io::Error::from_raw_os_error(errno))
    }

    #[test]
    fn all_opens_of_an_inode_share_one_file_also_after_the_last_close() {
        let b = backings();
        assert_eq!(b.acquire(Ino(5), 1, || Ok(100)).as_deref(), Some(&100));
        assert_eq!(
            b.acquire(Ino(5), 1, || unreachable!("there is one")).as_deref(),
            Some(&100)
        );
        b.release(Ino(5));
        b.release(Ino(5));
        assert_eq!(
            b.acquire(Ino(5), 1, || unreachable!("it is kept")).as_deref(),
            Some(&100)
        );
        b.forget(Ino(5));
        assert_eq!(b.metrics.backing_ids.get(), 1, "it is open");
        b.release(Ino(5));
        b.forget(Ino(5));
        assert_eq!(b.metrics.backing_ids.get(), 0);
        assert_eq!(b.acquire(Ino(5), 1, || Ok(101)).as_deref(), Some(&101));
    }

    #[test]
    fn another_generation_is_another_file() {
        let b = backings();
        b.acquire(Ino(5), 1, || Ok(100));
        b.release(Ino(5));
        assert_eq!(b.acquire(Ino(5), 2, || Ok(200)).as_deref(), Some(&200));
        assert_eq!(b.metrics.backing_ids.get(), 1);
    }

    #[test]
    fn an_inode_refused_once_stays_in_our_hands_until_it_is_closed() {
        let b = backings();
        b.acquire(Ino(4), 1, || Ok(99));
        assert!(b.acquire(Ino(5), 1, || fails(libc::ELOOP)).is_none());
        assert!(
            b.acquire(Ino(5), 1, || unreachable!("modes do not mix"))
                .is_none()
        );
        b.release(Ino(5));
        assert!(b.acquire(Ino(5), 1, || unreachable!("still open once")).is_none());
        b.release(Ino(5));
        b.release(Ino(5));
        assert!(b.acquire(Ino(5), 1, || Ok(7)).is_some());
        assert_eq!(b.how(), Reopen::Passthrough);
    }

    #[test]
    fn without_the_right_to_it_passthrough_goes_off() {
        let b = backings();
        assert!(b.acquire(Ino(5), 1, || fails(libc::EPERM)).is_none());
        assert_eq!(b.how(), Reopen::Daemon);
        assert_eq!(b.metrics.passthrough.get(), 0);
    }

    #[test]
    fn kept_files_are_bounded_and_open_ones_are_spared() {
        let mut b = backings();
        b.kept_max = 10;
        b.acquire(Ino(1000), 1, || Ok(0));
        for ino in 0..100 {
            b.acquire(Ino(ino), 1, || Ok(ino as u32));
            b.release(Ino(ino));
        }
        assert!(
            b.metrics.backing_ids.get() <= 12,
            "{}",
            b.metrics.backing_ids.get()
        );
        assert!(b.acquire(Ino(1000), 1, || unreachable!("it is open")).is_some());
    }
}
