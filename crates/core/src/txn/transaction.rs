//! One open transaction, and what is to be known of it.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};

use parking_lot::Mutex;

use super::Difference;
use super::conflict::conflicts;
use super::meaning::moved;
use super::patch::patch;
use super::plan;
use super::teller::Teller;
use super::view::View;
use crate::Result;
use crate::fs::ops::{Caller, Timestamp};
use crate::ids::Generation;

/// An open transaction.
pub struct Txn {
    pub(super) name: OsString,
    pub(super) index: u32,
    pub(super) owner: u32,
    pub(super) base: Generation,
    pub(super) begun: Timestamp,
    pub(super) expires: AtomicI64,
    pub(super) mode: AtomicU32,
    pub(super) stage: PathBuf,
    pub(super) view: View,
    /// One call that ends it at a time.
    pub(super) turn: Mutex<()>,
    /// Its steps are written down: it is committed, whatever becomes of them.
    pub(super) recorded: AtomicBool,
}

/// What is to be known of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Its name.
    pub name: OsString,
    /// The user who began it.
    pub owner: u32,
    /// The generation of the store when it began.
    pub base_generation: Generation,
    /// When it began.
    pub begun: Timestamp,
    /// When it ends, if nobody commits it before: seconds since the epoch.
    pub expires: i64,
    /// Bytes that are staged.
    pub bytes: u64,
    /// Bytes that may be staged; 0 without a limit.
    pub quota: u64,
    /// Whether a change of what it read is a conflict too.
    pub strict: bool,
    /// Attributes that were told.
    pub told: usize,
    /// Names that its commit would change.
    pub changed: usize,
    /// Names that somebody else has changed.
    pub conflicts: usize,
}

impl Txn {
    /// Its name.
    pub fn name(&self) -> &OsStr {
        &self.name
    }

    /// The number that tells it from others that are open.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The user who began it.
    pub fn owner(&self) -> u32 {
        self.owner
    }

    /// When it began.
    pub fn begun(&self) -> Timestamp {
        self.begun
    }

    /// The permission bits of its directory: at first only its owner sees what it changes.
    pub fn mode(&self) -> u32 {
        self.mode.load(Ordering::Relaxed)
    }

    /// Gives its directory other permission bits.
    pub fn share(&self, mode: u32) {
        self.mode.store(mode & 0o777, Ordering::Relaxed);
    }

    /// Whether its directory lets a caller in, as the kernel would say at its door.
    pub fn admits(&self, caller: &Caller) -> bool {
        let bit = match (
            caller.uid == self.owner,
            caller.gid == rustix::process::getegid().as_raw(),
        ) {
            (true, _) => 0o100,
            (_, true) => 0o010,
            _ => 0o001,
        };
        caller.uid == 0 || self.mode() & bit != 0
    }

    /// When it ends, in seconds since the epoch.
    pub fn expires(&self) -> i64 {
        self.expires.load(Ordering::Relaxed)
    }

    /// It ends so many seconds from now.
    pub fn expire_in(&self, seconds: u32) {
        let end = Timestamp::now().secs + i64::from(seconds);
        self.expires.store(end, Ordering::Relaxed);
    }

    pub(super) fn is_expired(&self) -> bool {
        Timestamp::now().secs >= self.expires()
    }

    /// The tree as it shows it.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// What a commit would change, by path.
    pub fn differences(&self) -> Result<Vec<(PathBuf, Difference)>> {
        let _quiet = self.view.quiet();
        plan::differences(&self.view)
    }

    /// Changed files with the distance that what they mean has moved, the farthest first; `None` for what has no text.
    pub fn moved(&self, teller: &dyn Teller) -> Result<Vec<(PathBuf, Option<f32>)>> {
        moved(&self.view, teller)
    }

    /// What a commit would change as a patch for `git apply` and `patch -p1`, against what the transaction found.
    pub fn patch(&self) -> Result<Vec<u8>> {
        let _quiet = self.view.quiet();
        patch(&self.view)
    }

    /// Paths that somebody else has changed since this transaction touched them; attributes as path, `#`, name.
    pub fn conflicts(&self, teller: &dyn Teller) -> Result<Vec<PathBuf>> {
        let _quiet = self.view.quiet();
        self.conflicts_of_frozen(teller)
    }

    /// The same, of a view that nobody changes.
    pub(super) fn conflicts_of_frozen(&self, teller: &dyn Teller) -> Result<Vec<PathBuf>> {
        let mut found = conflicts(&self.view)?;
        found.extend(self.view.told_conflicts(teller)?);
        Ok(found)
    }

    /// What is to be known of it.
    pub fn status(&self, teller: &dyn Teller) -> Result<Status> {
        let told = self.view.state.lock().told.len();
        Ok(Status {
            name: self.name.clone(),
            owner: self.owner,
            base_generation: self.base,
            begun: self.begun,
            expires: self.expires(),
            bytes: self.view.staged_bytes(),
            quota: self.view.quota(),
            strict: self.view.is_strict(),
            told,
            changed: self.differences()?.len(),
            conflicts: self.conflicts(teller)?.len(),
        })
    }
}
