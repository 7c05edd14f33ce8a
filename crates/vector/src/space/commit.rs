//! Committing: lock, journal, sync, apply, publish.
//!
//! Callers encode their batches in parallel and queue them. Whoever gets the writer's lock first commits everything
//! that is queued with one write and one sync; the others find their outcome when they get the lock.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use super::{Batch, Space, State};
use crate::error::{Error, Result};
use crate::journal::{AppendError, Encoded, Journal};

/// A group takes no further commits beyond this size, so that the first of them does not wait for a gigabyte.
const GROUP_BYTES_MAX: usize = 16 << 20;
/// Commits wait for a flush when the memory holds so many times what it should.
const MEMORY_EXCESS_MAX: u64 = 4;

/// What a commit did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Its number: commits of a space are numbered without gaps.
    pub seq: u64,
    /// Vectors that it removed, those replaced by it included.
    pub removed: usize,
}

/// A queued commit.
pub(super) struct Ticket {
    record: Mutex<Option<Encoded>>,
    outcome: Mutex<Option<Result<Commit>>>,
}

/// What the writer's lock protects.
pub(super) struct Writer {
    /// The journal to append to; made by the first commit after opening or after a flush.
    pub(super) journal: Option<Journal>,
    /// The number of the next journal.
    pub(super) next_journal: u64,
}

impl Space {
    /// Inserts or replaces vectors, all or none.
    pub fn upsert(&self, vectors: &[(u64, &[f32])]) -> Result<Commit> {
        let mut batch = Batch::new();
        for &(id, vector) in vectors {
            batch.upsert(id, vector);
        }
        self.apply(&batch)
    }

    /// Deletes vectors, all or none. Ids that are not there are fine.
    pub fn delete(&self, ids: &[u64]) -> Result<Commit> {
        let mut batch = Batch::new();
        for &id in ids {
            batch.delete(id);
        }
        self.apply(&batch)
    }

    /// Deletes all vectors with ids in these ranges.
    pub fn delete_ranges(&self, ranges: &[Range<u64>]) -> Result<Commit> {
        let mut batch = Batch::new();
        for ids in ranges {
            batch.delete_range(ids.clone());
        }
        self.apply(&batch)
    }

    /// Commits a batch. When it returns, readers that start now see all of it, and with [`Options::durable`] it
    /// survives power loss. After an error none of it is visible; after [`Error::Stopped`] it is not known whether it
    /// will be there when the database is opened again.
    ///
    /// [`Options::durable`]: crate::Options::durable
    pub fn apply(&self, batch: &Batch) -> Result<Commit> {
        let record = batch.record(self.config)?;
        if batch.is_empty() {
            return Ok(Commit {
                seq: self.state.load().seq,
                removed: 0,
            });
        }
        self.make_room()?;
        let ticket = Arc::new(Ticket {
            record: Mutex::new(Some(record)),
            outcome: Mutex::new(None),
        });
        self.queue.lock().push_back(Arc::clone(&ticket));
        let mut writer = self.writer.lock();
        loop {
            if let Some(outcome) = ticket.outcome.lock().take() {
                return outcome;
            }
            self.commit_group(&mut writer);
        }
    }

    /// Makes everything committed so far durable: for databases that do not sync each commit.
    pub fn flush(&self) -> Result<()> {
        let mut writer = self.writer.lock();
        self.check_writable()?;
        self.sync_journal(&mut writer)
    }

    pub(super) fn sync_journal(&self, writer: &mut Writer) -> Result<()> {
        let Some(journal) = &mut writer.journal else {
            return Ok(());
        };
        journal.sync().inspect_err(|_| self.stop())
    }

    /// Refuses to write after a failed sync, or when the space is gone.
    pub(super) fn check_writable(&self) -> Result<()> {
        if self.dropped.load(Ordering::Acquire) {
            return Err(Error::Dropped);
        }
        if self.stopped.load(Ordering::Acquire) {
            Err(Error::Stopped)
        } else {
            Ok(())
        }
    }

    /// Stops writing until the database is opened again.
    pub(super) fn stop(&self) {
        tracing::error!(space = %self.dir.display(), "a sync failed; writing stops");
        self.stopped.store(true, Ordering::Release);
    }

    /// Keeps the rows in memory bounded: asks for a flush, and does it here when nobody else will.
    fn make_room(&self) -> Result<()> {
        let limit = self.options.memory_bytes as u64;
        let bytes = self.state.load().memory_bytes();
        if bytes > limit {
            let attended = self.bell.ring();
            if !attended || bytes > limit * MEMORY_EXCESS_MAX {
                self.check_writable()?;
                self.flush_memory()?;
            }
        }
        Ok(())
    }

    /// Commits what is queued. Nothing in memory changes before the journal has it.
    fn commit_group(&self, writer: &mut Writer) {
        let group = self.take_group();
        let mut records: Vec<Encoded> = group
            .iter()
            .filter_map(|ticket| ticket.record.lock().take())
            .collect();
        let first_seq = self.state.load().seq + 1;
        if let Err(error) = self.write_ahead(writer, &mut records, first_seq) {
            for ticket in &group[1..] {
                *ticket.outcome.lock() = Some(Err(error.again()));
            }
            *group[0].outcome.lock() = Some(Err(error));
            return;
        }
        let mut state = State::clone(&self.state.load());
        for ((seq, ticket), record) in (first_seq..).zip(&group).zip(&records) {
            let (tag, change) = record.change(self.config.dim);
            let removed = state.apply(self.config, seq, tag, change);
            *ticket.outcome.lock() = Some(Ok(Commit { seq, removed }));
        }
        self.state.store(Arc::new(state));
    }

    fn take_group(&self) -> Vec<Arc<Ticket>> {
        let mut queue = self.queue.lock();
        let (mut group, mut bytes) = (Vec::new(), 0);
        while let Some(ticket) = queue.front() {
            bytes += ticket
                .record
                .lock()
                .as_ref()
                .map_or(0, |record| record.bytes().len());
            if bytes > GROUP_BYTES_MAX && !group.is_empty() {
                break;
            }
            group.extend(queue.pop_front());
        }
        group
    }

    /// Appends the records to the journal and, if so configured, syncs it. After an error the journal is as before, or
    /// writing has stopped.
    fn write_ahead(&self, writer: &mut Writer, records: &mut [Encoded], first_seq: u64) -> Result<()> {
        self.check_writable()?;
        let journal = match &mut writer.journal {
            Some(journal) => journal,
            none => {
                let number = writer.next_journal;
                let journal = Journal::create(&*self.storage, &self.dir, number, first_seq, self.config.dim)?;
                writer.next_journal = number + 1;
                none.insert(journal)
            }
        };
        match journal.append(records, first_seq) {
            Ok(()) => {}
            Err(AppendError::Undone(error)) => return Err(error),
            Err(AppendError::Unknown(error)) => {
                self.stop();
                return Err(error);
            }
        }
        if self.options.durable {
            self.sync_journal(writer)
        } else {
            Ok(())
        }
    }
}
