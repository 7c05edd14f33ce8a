//! The transactions of a mount: begun, looked at, committed, given up; and what a crash left is finished at the start.
//!
//! A commit goes so: make what is staged durable, close the gate, compare, write the steps down in the store (from
//! here on it happens, whatever comes), carry them out, open the gate. The stage is thrown away later, on a thread of
//! its own, when the tree has been made durable and the store has forgotten the steps.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use rustix::fs::{Mode, OFlags};

use super::conflict::written;
use super::gate::Gate;
use super::plan::{self, HOLD, Plan};
use super::rebase::{How, rebase};
#[cfg(debug_assertions)]
use super::settle::die_at_point;
use super::settle::{COMMIT, is_applied, mark_applied, open_dir, places, settle, staged_bytes};
use super::step::{Places, Step, What, decode, encode};
use super::teller::Teller;
use super::transaction::Txn;
use super::view::{NUMBER_BITS, View};
use crate::fs::ops::{Caller, Timestamp};
use crate::fs::{Invalidate, Stack};
use crate::ids::{Generation, Ino};
use crate::store::Store;
use crate::{Error, Result};

/// Free bytes that are wanted for each step: a name in a directory, and its part of a block.
const ROOM_FOR_STEP: u64 = 512;

/// How long a transaction lives unless it is told otherwise: a week. Each holds its stage and its notes of the base.
const LIFE_SECS: i64 = 7 * 24 * 3600;

/// Niceness of the threads that remove stages.
const REMOVAL_NICENESS: i32 = 10;

/// How long an expired one can still be read and given more time.
const GRACE_SECS: i64 = 24 * 3600;

/// Open transactions at a time. Each holds a stage and a table of nodes.
const OPEN_MAX: usize = 256;

/// Numbers of views come again after this many transactions.
const INDEX_BITS: u32 = 20;

/// Transactions over one backing tree.
pub struct Desk {
    stack: Arc<Stack>,
    store: Arc<Store>,
    teller: Arc<dyn Teller>,
    gate: Arc<Gate>,
    tree: OwnedFd,
    /// Where stages are: in the store directory, which is on the backing tree's filesystem.
    stages: PathBuf,
    open: RwLock<BTreeMap<OsString, Arc<Txn>>>,
    last_index: AtomicU32,
    settling: Mutex<Vec<std::thread::JoinHandle<()>>>,
    /// Tests stop a commit at a point: the number of calls left.
    stop_after: AtomicU64,
}

impl Desk {
    /// Finishes what a crash left, and throws away stages of transactions that had not been committed. To be called
    /// before anything looks at the tree. `tree` is the backing directory, `stages` a directory of the store on the same
    /// filesystem, by a path that works whatever is mounted over it; it is made if it is not there.
    pub fn open(
        stack: Arc<Stack>,
        store: Arc<Store>,
        teller: Arc<dyn Teller>,
        gate: Arc<Gate>,
        tree: OwnedFd,
        stages: PathBuf,
    ) -> Result<Desk> {
        // One that was opened as a place only can neither be synced nor given times.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let tree = rustix::fs::openat(&tree, ".", flags, Mode::empty())?;
        match std::fs::create_dir(&stages) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(e.into()),
            _ => {}
        }
        let mut commits = Vec::new();
        for (stage, record) in store.read(|rows| rows.saved_all(COMMIT))? {
            let (after, steps) = decode(&record)?;
            commits.push((after, stages.join(OsStr::from_bytes(&stage)), steps));
        }
        commits.sort_by_key(|(after, ..)| *after);
        for (_, stage, steps) in commits {
            if is_applied(&stage) {
                tracing::info!("settling a commit");
            } else {
                tracing::info!(steps = steps.len(), "finishing a commit");
                places(&stage, &tree)?.carry_out(&steps, |_| Ok(()))?;
            }
            settle(&store, &tree, &stage, stack.keeper().map(|keeper| &**keeper))?;
        }
        for stage in std::fs::read_dir(&stages)? {
            std::fs::remove_dir_all(stage?.path())?;
        }
        Ok(Desk {
            stack,
            store,
            teller,
            gate,
            tree,
            stages,
            open: RwLock::default(),
            last_index: AtomicU32::new(0),
            settling: Mutex::default(),
            stop_after: AtomicU64::new(u64::MAX),
        })
    }

    /// What knows the meaning of attributes.
    pub fn teller(&self) -> &dyn Teller {
        &*self.teller
    }

    /// The gate of the tree's requests.
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// The way to the kernel's caches, if there is a kernel.
    pub fn kernel_caches(&self) -> Option<Arc<dyn Invalidate>> {
        self.stack.kernel_caches()
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// [`Error::Exists`] when the name is taken, [`Error::Invalid`] for a name that means something else or when too
    /// many are open.
    pub fn begin(&self, caller: &Caller, name: &OsStr) -> Result<Arc<Txn>> {
        if name.as_bytes().starts_with(b"@") || name.as_bytes().starts_with(b".") || name.len() > 255 {
            return Err(Error::Invalid(format!(
                "{} is no name of a transaction: expected at most 255 bytes, not beginning with @ or .",
                name.display()
            )));
        }
        self.remove_expired();
        let mut open = self.open.write();
        if open.contains_key(name) {
            return Err(Error::Exists(format!("transaction {}", name.display())));
        }
        if open.len() >= OPEN_MAX {
            return Err(Error::Invalid(format!(
                "{OPEN_MAX} transactions are open already"
            )));
        }
        let index = self.free_index(&open);
        let stage = self.stages.join(format!("{index}-{}", std::process::id()));
        std::fs::create_dir(&stage)?;
        std::fs::create_dir(stage.join(HOLD))?;
        let view = View::new(self.stack.clone(), open_dir(&stage)?, index)?;
        let txn = Arc::new(Txn {
            name: name.to_owned(),
            index,
            owner: caller.uid,
            base: self.store.generation(),
            begun: Timestamp::now(),
            expires: AtomicI64::new(Timestamp::now().secs + LIFE_SECS),
            mode: AtomicU32::new(0o700),
            stage,
            view,
            turn: Mutex::new(()),
            recorded: AtomicBool::new(false),
        });
        open.insert(name.to_owned(), txn.clone());
        Ok(txn)
    }

    /// Gives up what expired longer ago than the time of grace.
    fn remove_expired(&self) {
        let now = Timestamp::now().secs;
        let old: Vec<_> = self
            .list()
            .into_iter()
            .filter(|txn| now >= txn.expires() + GRACE_SECS)
            .collect();
        for txn in old {
            let turn = txn.turn.lock();
            if !txn.recorded.load(Ordering::Acquire) && self.open.write().remove(&txn.name).is_some() {
                tracing::info!(name = %txn.name.display(), "a transaction expired");
                drop(turn);
                self.remove_stage(txn);
            }
        }
    }

    fn free_index(&self, open: &BTreeMap<OsString, Arc<Txn>>) -> u32 {
        loop {
            let index = self.last_index.fetch_add(1, Ordering::Relaxed) % (1 << INDEX_BITS);
            let in_use = open.values().any(|txn| txn.index == index);
            if !in_use
                && !self
                    .stages
                    .join(format!("{index}-{}", std::process::id()))
                    .exists()
            {
                return index;
            }
        }
    }

    /// An open transaction by name.
    pub fn get(&self, name: &OsStr) -> Option<Arc<Txn>> {
        self.open.read().get(name).cloned()
    }

    /// An open transaction by the number of one of its nodes.
    pub fn of(&self, ino: Ino) -> Option<Arc<Txn>> {
        let index = ((ino.0 & !Ino::STAGED_BIT) >> NUMBER_BITS) as u32;
        self.open.read().values().find(|txn| txn.index == index).cloned()
    }

    /// The open transactions, by name.
    pub fn list(&self) -> Vec<Arc<Txn>> {
        self.open.read().values().cloned().collect()
    }

    /// Gives a transaction up. Nothing of it remains.
    ///
    /// # Errors
    /// [`Error::NotFound`]; EPERM for anybody but its owner and root; EBUSY for one whose commit stopped half-way.
    pub fn abort(&self, caller: &Caller, name: &OsStr) -> Result<()> {
        let txn = self.owned(caller, name)?;
        let turn = txn.turn.lock();
        if txn.recorded.load(Ordering::Acquire) {
            return Err(Error::Os(libc::EBUSY));
        }
        self.open.write().remove(name);
        drop(turn);
        self.remove_stage(txn);
        Ok(())
    }

    /// Throws away what was staged, and what a crash leaves of that is thrown away at the next start. The table of nodes
    /// goes later as well: it is as large as the change. Nobody waits for it, so it yields to all others.
    fn remove_stage(&self, txn: Arc<Txn>) {
        self.later(move || {
            // Of this thread alone; where it is not allowed, it does not yield.
            let _ = rustix::process::setpriority_process(None, REMOVAL_NICENESS);
            let stage = txn.stage.clone();
            drop(txn);
            if let Err(error) = std::fs::remove_dir_all(&stage) {
                tracing::warn!(%error, "a stage stays until the next start");
            }
        });
    }

    /// Makes what others have committed since the base of a transaction, with both changes of what both changed.
    ///
    /// # Errors
    /// [`Error::Conflict`] with the paths that are still in conflict: those are as they were, all others rebased. EBUSY
    /// for a transaction whose commit stopped half-way.
    pub fn rebase(&self, caller: &Caller, name: &OsStr, how: How) -> Result<()> {
        let txn = self.owned(caller, name)?;
        let _turn = txn.turn.lock();
        if txn.recorded.load(Ordering::Acquire) {
            return Err(Error::Os(libc::EBUSY));
        }
        txn.view.freeze();
        let rebased = rebase(&txn.view, &*self.teller, how);
        txn.view.thaw();
        let (merged, left) = rebased?;
        if let Some(kernel) = self.stack.kernel_caches() {
            merged.iter().for_each(|ino| kernel.inode(*ino, true));
        }
        match left.is_empty() {
            true => Ok(()),
            false => Err(conflict(&left)),
        }
    }

    /// Commits a transaction. When this returns, all of it is durable and visible.
    ///
    /// # Errors
    /// [`Error::Conflict`] when somebody else changed what it changed, with all paths, and EBUSY when somebody is
    /// writing such a file, ETIMEDOUT when it has expired: the transaction stays as it is. After an input or output error in the middle a second call,
    /// or the next start, does the rest.
    pub fn commit(&self, caller: &Caller, name: &OsStr) -> Result<Generation> {
        let txn = self.owned(caller, name)?;
        let _turn = txn.turn.lock();
        if self.get(name).is_none() {
            // Another caller was faster.
            return Err(Error::NotFound(format!("transaction {}", name.display())));
        }
        if txn.recorded.load(Ordering::Acquire) {
            return self.finish(&txn);
        }
        if txn.is_expired() {
            return Err(Error::Os(libc::ETIMEDOUT));
        }
        txn.view.freeze();
        let committed = self.commit_frozen(&txn);
        if committed.is_err() && !txn.recorded.load(Ordering::Acquire) {
            txn.view.thaw();
        }
        committed
    }

    fn commit_frozen(&self, txn: &Txn) -> Result<Generation> {
        // Before anybody waits: a conflict found now costs nobody anything.
        self.check(txn)?;
        let plan = plan::plan(&txn.view)?;
        let places = places(&txn.stage, &self.tree)?;
        for step in plan.steps.iter().filter(|step| step.what == What::Rewrite) {
            self.stack.keep_content_of(step.key)?;
        }
        rustix::fs::syncfs(&places.stage)?;
        self.point()?;
        let generation = self.switch(txn, &plan, &places)?;
        self.open.write().remove(&txn.name);
        self.tell(&plan);
        self.settle_later(txn.stage.clone(), losing_links(&plan));
        Ok(generation)
    }

    fn switch(&self, txn: &Txn, plan: &Plan, places: &Places) -> Result<Generation> {
        let switch = self.gate.prepare();
        if let Some(kernel) = self.stack.kernel_caches() {
            for (dir, name) in &plan.names {
                kernel.entry(*dir, name);
            }
            plan.inodes.iter().for_each(|ino| kernel.inode(*ino, true));
        }
        let _closed = switch.close();
        self.check(txn)?;
        self.has_room(plan, places)?;
        let record = encode(self.store.generation(), &plan.steps);
        let stage = txn.stage.file_name().unwrap_or_default().as_bytes();
        self.point()?;
        let generation = self.teller.commit(&mut |tx| {
            let told = txn.view.write_told(&*self.teller, tx)?;
            tx.save(COMMIT, stage, Some(&record))?;
            Ok(told)
        })?;
        // From here on it is committed, whatever fails now.
        txn.recorded.store(true, Ordering::Release);
        self.point()?;
        places.carry_out(&plan.steps, |_| self.point())?;
        mark_applied(&txn.stage);
        self.point()?;
        if let Some(kernel) = self.stack.kernel_caches() {
            // What was cached since the switch began. This takes no lock that a request at the gate may hold.
            plan.inodes.iter().for_each(|ino| kernel.inode(*ino, true));
        }
        Ok(generation)
    }

    /// Whether the steps can be carried out: names need room in directories, and a file that is rewritten in place
    /// needs its content twice.
    fn has_room(&self, plan: &Plan, places: &Places) -> Result<()> {
        let free = rustix::fs::fstatvfs(&places.tree)?;
        let mut needed = ROOM_FOR_STEP * plan.steps.len() as u64;
        for step in plan.steps.iter().filter(|step| step.what == What::Rewrite) {
            needed += staged_bytes(places, &step.stage);
        }
        match free.f_bavail * free.f_frsize < needed {
            true => Err(Error::Os(libc::ENOSPC)),
            false => Ok(()),
        }
    }

    /// Does the rest of a commit that stopped at an error.
    fn finish(&self, txn: &Txn) -> Result<Generation> {
        let stage = txn.stage.file_name().unwrap_or_default().as_bytes();
        let record = self.store.read(|rows| rows.saved(COMMIT, stage))?;
        let (_, steps) = decode(&record.ok_or_else(|| Error::NotFound("the record of the commit".into()))?)?;
        {
            let switch = self.gate.prepare();
            let _closed = switch.close();
            places(&txn.stage, &self.tree)?.carry_out(&steps, |_| self.point())?;
            mark_applied(&txn.stage);
        }
        self.open.write().remove(&txn.name);
        self.stack.everything_was_changed();
        self.settle_later(txn.stage.clone(), Vec::new());
        Ok(self.store.generation())
    }

    fn check(&self, txn: &Txn) -> Result<()> {
        let found = txn.conflicts_of_frozen(&*self.teller)?;
        if !found.is_empty() {
            return Err(conflict(&found));
        }
        match written(&txn.view).first() {
            Some(path) => {
                tracing::info!(path = %path.display(), "a commit was refused: somebody is writing the file");
                Err(Error::Os(libc::EBUSY))
            }
            None => Ok(()),
        }
    }

    /// Tells the index what to look at again.
    fn tell(&self, plan: &Plan) {
        for (dir, name) in &plan.names {
            if let Some(key) = self.stack.node_key(*dir) {
                self.stack.name_was_changed(key, Path::new(name));
            }
        }
        plan.inodes
            .iter()
            .for_each(|ino| self.stack.inode_was_changed(*ino));
    }

    fn owned(&self, caller: &Caller, name: &OsStr) -> Result<Arc<Txn>> {
        let txn = self
            .get(name)
            .ok_or_else(|| Error::NotFound(format!("transaction {}", name.display())))?;
        if caller.uid != txn.owner && caller.uid != 0 {
            return Err(Error::NotPermitted("another user's transaction"));
        }
        Ok(txn)
    }

    /// Settles a commit later, and tells the kernel of inodes that have fewer links then.
    fn settle_later(&self, stage: PathBuf, fewer: Vec<Ino>) {
        let (store, stack) = (self.store.clone(), self.stack.clone());
        match rustix::io::fcntl_dupfd_cloexec(&self.tree, 0) {
            Ok(tree) => self.later(move || {
                let keeper = stack.keeper().map(|keeper| &**keeper);
                if let Err(error) = settle(&store, &tree, &stage, keeper) {
                    tracing::warn!(%error, "a commit is settled at the next start");
                }
                if let Some(kernel) = stack.kernel_caches() {
                    fewer.iter().for_each(|ino| kernel.inode(*ino, false));
                }
            }),
            Err(error) => tracing::warn!(%error, "a commit is settled at the next start"),
        }
    }

    /// Does something while no request by name is under way and no commit goes on.
    pub fn quiet<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let switch = self.gate.prepare();
        let _closed = switch.close();
        work()
    }

    /// Waits until nothing is left to do of commits that have returned.
    pub fn wait_settled(&self) {
        let settling = std::mem::take(&mut *self.settling.lock());
        for thread in settling {
            // It has logged what went wrong.
            let _ = thread.join();
        }
    }

    /// Runs something after the answer; the desk waits for it when it closes.
    fn later(&self, work: impl FnOnce() + Send + 'static) {
        let mut settling = self.settling.lock();
        settling.retain(|thread| !thread.is_finished());
        settling.push(std::thread::spawn(work));
    }

    /// A place at which tests stop a commit as a crash would.
    fn point(&self) -> Result<()> {
        #[cfg(debug_assertions)]
        die_at_point();
        let left = self.stop_after.load(Ordering::Relaxed);
        if left == u64::MAX {
            return Ok(());
        }
        if left == 0 {
            return Err(Error::Os(libc::EIO));
        }
        self.stop_after.store(left - 1, Ordering::Relaxed);
        Ok(())
    }
}

/// Inodes that may have further links in the stage until the commit is settled: what was held on its way, and what stood in
/// a removed directory besides.
fn losing_links(plan: &Plan) -> Vec<Ino> {
    let links = |step: &Step| matches!(step.what, What::HoldFile | What::Trash);
    match plan.steps.iter().any(links) {
        true => plan.inodes.clone(),
        false => Vec::new(),
    }
}

fn conflict(paths: &[PathBuf]) -> Error {
    let paths: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
    Error::Conflict(paths.join(", "))
}

impl Drop for Desk {
    fn drop(&mut self) {
        self.wait_settled();
    }
}

#[cfg(test)]
mod tests;
