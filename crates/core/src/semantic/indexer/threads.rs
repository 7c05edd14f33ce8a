//! The indexer's threads: one that settles names, one that commits, walkers, and workers that prepare files.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Sender, bounded};

use super::pace::Stint;
use super::prepare::{self, Job, Step};
use super::{Shared, Stage, commit, reconcile, walk};
use crate::error::Result;

/// What the threads yield to those that answer requests: with as much to do they get a third of the time.
const NICENESS: i32 = 5;
/// Prepared files between workers and committer.
const JOBS_MAX: usize = 1_024;

/// Starts them all.
pub(super) fn start(shared: &Arc<Shared>) -> Result<Vec<JoinHandle<()>>> {
    let mut threads = Vec::new();
    let mut spawn = |name: &str, run: Box<dyn FnOnce(&Shared) + Send>| -> Result<()> {
        let shared = Arc::clone(shared);
        let builder = std::thread::Builder::new().name(format!("index-{name}"));
        let name = name.to_owned();
        threads.push(builder.spawn(move || {
            // Refused or not, the index is made; only not before what users wait for.
            let _ = rustix::process::setpriority_process(None, NICENESS);
            if catch_unwind(AssertUnwindSafe(|| run(&shared))).is_err() {
                let what = format!("the indexer's thread {name:?} ended by a fault in the program");
                shared.errors.lock().insert(Stage::Fault, what);
            }
        })?);
        Ok(())
    };
    let (sender, receiver) = bounded(JOBS_MAX);
    spawn("names", Box::new(reconcile::run))?;
    spawn("commit", Box::new(move |shared| commit::run(shared, &receiver)))?;
    for _ in 0..shared.options.walkers.max(1) {
        spawn("walk", Box::new(walk::run))?;
    }
    for _ in 0..shared.options.workers.max(1) {
        let sender = sender.clone();
        spawn("work", Box::new(move |shared| work(shared, &sender)))?;
    }
    Ok(threads)
}

/// Prepares awaiting files until the queue is closed.
fn work(shared: &Shared, jobs: &Sender<Job>) {
    let mut stint = Stint::new(&shared.pace);
    loop {
        if let Some(rest) = stint.rest() {
            shared.sleep(rest);
        }
        let id = match shared
            .queue
            .next(&shared.store, || shared.options.extraction.rest())
        {
            Ok(Some(id)) => id,
            Ok(None) => return,
            Err(error) => {
                shared.fail(Stage::Contents, &error);
                shared.sleep(Duration::from_secs(1));
                continue;
            }
        };
        let size = shared
            .store
            .mirror()
            .get(id)
            .map_or(0, |node| node.size() as usize);
        let reserved = shared.budget.take(size);
        let epoch = shared.epoch.load(Ordering::Acquire);
        // The text of a file is hostile until proved otherwise: a fault that it brings to light costs this file only.
        let step = catch_unwind(AssertUnwindSafe(|| prepare::prepare(shared, id)))
            .unwrap_or_else(|_| prepare::fail(shared, id, "a fault in the program"));
        match step {
            Ok(Step::Skip) => shared.queue.done([id].into_iter()),
            Ok(Step::Park) => shared.queue.park(id),
            Ok(Step::Commit(job)) => {
                shared.recovered(Stage::Contents);
                let mut job = *job;
                job.epoch = epoch;
                job.bytes = job.bytes.max(reserved);
                shared.budget.adjust(reserved, job.bytes);
                if jobs.send(job).is_err() {
                    return;
                }
                continue;
            }
            Err(error) => {
                tracing::error!(%error, %id, "a file could not be prepared");
                shared.fail(Stage::Contents, &error);
                shared.queue.park(id);
                shared.sleep(Duration::from_millis(200));
                shared.queue.unpark();
            }
        }
        shared.budget.give(reserved);
    }
}
