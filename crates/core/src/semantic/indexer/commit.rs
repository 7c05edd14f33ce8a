//! Many files become one commit: first the derived indexes, then the rows that name what is in them.
//!
//! A crash between the two leaves rows that say "waiting", so it delays and loses nothing: the tags of the derived
//! indexes are ahead of the watermarks in the store, and the waiting files are cleaned before they are indexed again.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::derived::VectorChanges;
use super::feed::{Event, What};
use super::prepare::{Job, Outcome};
use super::{Shared, Stage};
use crate::error::Result;
use crate::ids::{FileId, Generation};
use crate::semantic::lexical::Entry;
use crate::store::catalog::Derived;
use crate::store::file::State;

/// Files in one commit.
const FILES_MAX: usize = 4_096;
/// Text and vectors in one commit.
const BYTES_MAX: usize = 24 << 20;
/// How long a commit waits for more files while others are worked at: ten times what the last one took, so that
/// commits cost a tenth of the time, within these bounds.
const INTERVAL_MIN: Duration = Duration::from_millis(30);
const INTERVAL_MAX: Duration = Duration::from_secs(2);
/// How long to wait after a failed commit, doubled at each further failure.
const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Commits what workers hand over until they are all gone.
pub(super) fn run(shared: &Shared, jobs: &Receiver<Job>) {
    let mut interval = INTERVAL_MIN;
    let mut retry = RETRY_MIN;
    while let Ok(first) = jobs.recv() {
        let mut batch = gather(shared, jobs, first, interval);
        let bytes = batch.iter().map(|job| job.bytes).sum();
        let ids: Vec<FileId> = batch.iter().map(|job| job.id).collect();
        let start = Instant::now();
        let alone = shared.committing.lock();
        drop_outdated(shared, &mut batch);
        match commit(shared, &mut batch) {
            Ok(()) => {
                drop(alone);
                shared.recovered(Stage::Commit);
                retry = RETRY_MIN;
            }
            Err(error) => {
                tracing::error!(%error, files = batch.len(), "files could not be committed");
                shared.fail(Stage::Commit, &error);
                give_back(shared, &batch);
                drop(alone);
                shared.sleep(retry);
                retry = (retry * 2).min(RETRY_MAX);
            }
        }
        interval = (start.elapsed() * 10).clamp(INTERVAL_MIN, INTERVAL_MAX);
        shared.queue.done(ids.into_iter());
        shared.budget.give(bytes);
    }
}

/// Takes more files as long as some are worked at, for a bounded time: a lone file is committed at once.
fn gather(shared: &Shared, jobs: &Receiver<Job>, first: Job, interval: Duration) -> Vec<Job> {
    let deadline = Instant::now() + interval;
    let mut bytes = first.bytes;
    let mut batch = vec![first];
    while batch.len() < FILES_MAX && bytes < BYTES_MAX {
        if jobs.is_empty() && shared.queue.working() == batch.len() {
            break;
        }
        match jobs.recv_deadline(deadline.min(Instant::now() + Duration::from_millis(5))) {
            Ok(job) => {
                bytes += job.bytes;
                batch.push(job);
            }
            Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
            Err(_) => break,
        }
    }
    batch
}

/// Leaves out what was prepared before the derived indexes were thrown away; those files wait again.
fn drop_outdated(shared: &Shared, batch: &mut Vec<Job>) {
    let epoch = shared.epoch.load(Ordering::Acquire);
    let outdated: Vec<FileId> = batch
        .extract_if(.., |job| job.epoch != epoch)
        .map(|job| job.id)
        .collect();
    shared.queue.touch(&outdated);
}

fn commit(shared: &Shared, batch: &mut [Job]) -> Result<()> {
    let changes = |job: &&Job| !job.vectors.is_empty();
    let vectors: Vec<&VectorChanges> = batch.iter().filter(changes).map(|job| &job.vectors).collect();
    let has_vectors = !vectors.is_empty();
    let has_words = batch
        .iter()
        .any(|job| job.words.replace || !job.words.passages.is_empty());
    let tag = shared.next_tag();
    // Both wait for the disk: at the same time.
    let vectors_done = std::thread::scope(|scope| {
        let apply = scope.spawn(|| {
            if has_vectors {
                shared.model.load().vectors.apply(&vectors, tag)
            } else {
                Ok(())
            }
        });
        let words_done = if has_words {
            commit_words(shared, batch, tag)
        } else {
            Ok(())
        };
        apply
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            .and(words_done)
    });
    vectors_done?;
    shared.at(CrashPoint::DerivedCommitted);
    let (_, generation) = shared.store.write(|tx| {
        let touched = shared.queue.touched(batch.iter().map(|job| job.id));
        for job in batch.iter_mut() {
            match &job.outcome {
                Outcome::Removed => tx.set_removed(job.id)?,
                Outcome::Indexed(indexed) => {
                    tx.set_indexed(job.id, indexed.clone(), touched.contains(&job.id))?;
                    if let Some(hash) = &indexed.hash {
                        tx.adopt_orphan(job.id, hash)?;
                    }
                }
            }
            if let Some(consequence) = job.consequence.take() {
                consequence(tx, job.id)?;
            }
        }
        if has_vectors {
            tx.set_watermark(Derived::Vectors, tag)?;
        }
        if has_words {
            tx.set_watermark(Derived::Words, tag)?;
        }
        Ok(())
    })?;
    publish(shared, batch, generation);
    Ok(())
}

fn commit_words(shared: &Shared, batch: &[Job], tag: u64) -> Result<()> {
    for job in batch {
        if job.words.replace {
            shared.words.delete_file(job.id)?;
        }
        for (id, passage) in &job.words.passages {
            shared.words.add(Entry {
                id: *id,
                title: &passage.title(&job.words.name),
                text: &job.words.text[passage.bytes.clone()],
                lines: (passage.first_line, passage.last_line),
                start: passage.bytes.start as u64,
            })?;
        }
    }
    shared.at(CrashPoint::WordsAdded);
    shared.words.commit(tag)
}

/// After a failure nobody knows what the derived indexes hold about these files.
fn give_back(shared: &Shared, batch: &[Job]) {
    let ids: Vec<FileId> = batch.iter().map(|job| job.id).collect();
    shared.words.rollback();
    // If this fails too, the tags tell at the next start.
    if let Err(error) = shared.store.write(|tx| tx.distrust(&ids)) {
        tracing::error!(%error, "the store could not be written");
    }
    shared
        .queue
        .notify(ids.into_iter().min().unwrap_or(FileId(0)), &[]);
}

fn publish(shared: &Shared, batch: &[Job], generation: Generation) {
    if !shared.feed.is_heard() {
        return;
    }
    let mirror = shared.store.mirror();
    let events = batch.iter().filter_map(|job| {
        let what = match mirror.get(job.id)?.state() {
            State::Ready => What::Indexed,
            State::Failed(_) => What::Failed,
            _ => return None,
        };
        Some(Event {
            generation,
            file: job.id,
            path: mirror.path(job.id)?,
            what,
        })
    });
    let events: Vec<Event> = events.collect();
    drop(mirror);
    shared.feed.publish(&events);
}

/// Where a test may end the process, so to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CrashPoint {
    /// The vectors are committed, or will be; the words are not.
    WordsAdded,
    /// Vectors and words are committed, the rows are not.
    DerivedCommitted,
}
