//! What a transaction may be held to: a quota for what it stages, and, if it is strict, that nobody changes what it read.

use std::collections::HashSet;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};

use super::View;
use crate::fs::ops::{Attr, Timestamp};
use crate::ids::Ino;
use crate::{Error, Result};

/// See the module.
#[derive(Default)]
pub(super) struct Limits {
    strict: AtomicBool,
    /// Bytes that may be staged; 0 without a limit.
    quota: AtomicU64,
    /// At least the bytes that are staged: what was removed is taken off when the quota is reached.
    staged: AtomicU64,
}

/// A base inode as it was when it was read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    size: u64,
    mtime: Timestamp,
    ctime: Timestamp,
}

impl Seen {
    fn of(attr: &Attr) -> Seen {
        Seen {
            size: attr.size,
            mtime: attr.mtime,
            ctime: attr.ctime,
        }
    }
}

impl View {
    /// Whether what was read must be as it was at the commit.
    pub fn is_strict(&self) -> bool {
        self.limits.strict.load(Relaxed)
    }

    /// From now on what is opened for reading, and what is listed, is compared at the commit; or no more.
    pub fn set_strict(&self, strict: bool) {
        self.limits.strict.store(strict, Relaxed);
    }

    /// Bytes that may be staged; 0 without a limit.
    pub fn quota(&self) -> u64 {
        self.limits.quota.load(Relaxed)
    }

    /// Limits the bytes that may be staged from now on; 0 takes the limit away.
    pub fn set_quota(&self, bytes: u64) {
        self.limits.quota.store(bytes, Relaxed);
    }

    /// Bytes of all staged files, holes included.
    pub fn staged_bytes(&self) -> u64 {
        // A set, since a removed file that the kernel has not forgotten may have left its inode to another.
        let staged: HashSet<Ino> = {
            let state = self.state.lock();
            let files = state
                .nodes
                .values()
                .filter(|node| node.copied && node.kind == libc::S_IFREG);
            files.filter_map(|node| node.upper).collect()
        };
        let sizes = staged
            .iter()
            .filter_map(|upper| self.upper.getattr(*upper, None).ok());
        // A removed file counts as long as it is open.
        sizes.filter(|attr| attr.nlink > 0).map(|attr| attr.size).sum()
    }

    /// Makes room for so many bytes more. EDQUOT when the quota has none.
    pub(super) fn reserve(&self, bytes: u64) -> Result<()> {
        let quota = self.quota();
        if quota == 0 || bytes == 0 {
            return Ok(());
        }
        if self.limits.staged.fetch_add(bytes, Relaxed) + bytes <= quota {
            return Ok(());
        }
        let staged = self.staged_bytes();
        let fits = staged + bytes <= quota;
        let counted = if fits { staged + bytes } else { staged };
        self.limits.staged.store(counted, Relaxed);
        if fits {
            Ok(())
        } else {
            Err(Error::Os(libc::EDQUOT))
        }
    }

    /// Makes room for a staged file that is about to reach up to `end`.
    pub(super) fn reserve_up_to(&self, upper: Ino, end: u64) -> Result<()> {
        if self.quota() == 0 {
            return Ok(());
        }
        let size = self.upper.getattr(upper, None)?.size;
        self.reserve(end.saturating_sub(size))
    }

    /// Remembers what a strict transaction reads of the base.
    pub(super) fn note_read(&self, ino: Ino, lower: Ino) -> Result<()> {
        if !self.is_strict() {
            return Ok(());
        }
        let seen = Seen::of(&self.lower.getattr(lower, None)?);
        self.state.lock().read.entry(lower).or_insert((ino.0, seen));
        Ok(())
    }

    /// What was read counts as read as it is now.
    pub(in crate::txn) fn accept_read(&self) -> Result<()> {
        let read: Vec<Ino> = self.state.lock().read.keys().copied().collect();
        for lower in read {
            let now = self.lower.getattr(lower, None);
            let mut state = self.state.lock();
            match now {
                Ok(now) => {
                    let seen = Seen::of(&now);
                    state.read.entry(lower).and_modify(|(_, before)| *before = seen);
                }
                Err(_) => {
                    state.read.remove(&lower);
                }
            }
        }
        Ok(())
    }

    /// The nodes whose base is not as it was when it was read.
    pub(in crate::txn) fn changed_since_read(&self) -> Vec<u64> {
        if !self.is_strict() {
            return Vec::new();
        }
        let read: Vec<_> = self.state.lock().read.iter().map(|(k, v)| (*k, *v)).collect();
        let changed = read.into_iter().filter(|(lower, (_, seen))| {
            let now = self.lower.getattr(*lower, None).ok();
            now.is_none_or(|now| Seen::of(&now) != *seen || now.nlink == 0)
        });
        changed.map(|(_, (number, _))| number).collect()
    }
}
