//! The indexer: keeps what can be searched in step with the backing tree.
//!
//! ```text
//! events of the filesystem ─┐
//! folders to scan ─ walkers ┴─ inbox ─ reconciler ─ rows "pending" ─ workers ─ committer ─ rows "ready"
//!                                      (looks, names)              (read, cut, (vectors, words,
//!                                                                   embed)      rows)
//! ```
//!
//! The rows are the queue between the two halves, so nothing is lost when the process dies. Everything in between is
//! bounded; no stage holds a lock while it waits for the disk or an embedder.

pub mod derived;
pub mod feed;
pub mod inbox;
pub mod marks;

mod below;
mod budget;
mod commit;
mod pace;
mod prepare;
mod queue;
mod reconcile;
mod recover;
mod threads;
mod walk;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use crossbeam_channel::Receiver;
use parking_lot::{Condvar, Mutex};

use crate::change::{Change, ChangeSink};
use crate::error::{Error, Result};
use crate::ids::{FileId, Generation, NodeKey};
use crate::semantic::embed::{Embedder, StaticModel, WordPiece};
use crate::semantic::extract::{Limits, Workers};
use crate::semantic::scan::rules::{RuleOptions, Rules};
use crate::semantic::scan::tree::Tree;
use crate::store::catalog::Derived;
use crate::store::file::{Facts, Kind, ROOT, State};
use crate::store::{Store, Tx};
use budget::Budget;
use derived::{Vectors, Words};
use feed::{Event, Feed};
use inbox::{Inbox, deadline};
use marks::Marks;
use pace::Pace;
use queue::Queue;

/// What the indexer works with.
pub struct IndexerParts {
    /// The catalog.
    pub store: Arc<Store>,
    /// The vectors of passages, made by `embedder`.
    pub vectors: Arc<dyn Vectors>,
    /// The words of passages.
    pub words: Arc<dyn Words>,
    /// Makes the vectors.
    pub embedder: Arc<dyn Embedder>,
    /// The backing directory, opened before anything was mounted over it.
    pub root: OwnedFd,
    /// The rest.
    pub options: IndexerOptions,
}

/// Works out what follows from a file's text, given its path and the text: relations, for one. What it returns runs in
/// the commit that makes the text searchable.
pub type Follow = dyn Fn(&Path, &str) -> Consequence + Send + Sync;

/// Writes down what follows from a file's text.
pub type Consequence = Box<dyn FnOnce(&mut Tx<'_>, FileId) -> Result<()> + Send>;

/// How the indexer works.
#[derive(Clone)]
pub struct IndexerOptions {
    /// What is taken in.
    pub rules: RuleOptions,
    /// The file of the marks, in the store directory.
    pub marks: PathBuf,
    /// Threads that read, cut and embed.
    pub workers: usize,
    /// Processes that read files in hostile formats.
    pub extraction: Arc<Workers>,
    /// Processors that those threads may take together; all that others leave when absent.
    pub cpus_max: Option<f32>,
    /// Where the kernel says whether the machine runs on battery, which slows them down.
    pub power_supplies: PathBuf,
    /// Threads that walk folders.
    pub walkers: usize,
    /// Whether contents are indexed only on demand ([`Indexer::pause`]); names are followed all the same.
    pub manual: bool,
    /// What else follows from a file's text, if anything does.
    pub follow: Option<Arc<Follow>>,
}

impl IndexerOptions {
    /// Two threads a stage at most, fewer on smaller machines.
    pub fn new(marks: &Path) -> IndexerOptions {
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(2);
        IndexerOptions {
            rules: RuleOptions::default(),
            marks: marks.to_owned(),
            workers: threads,
            cpus_max: None,
            power_supplies: "/sys/class/power_supply".into(),
            extraction: Arc::new(Workers::if_declared(Limits::default())),
            walkers: threads,
            manual: false,
            follow: None,
        }
    }
}

/// How far the index is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IndexStatus {
    /// The last commit.
    pub generation: Generation,
    /// Regular files with a name.
    pub files: u64,
    /// Files that are searchable as they are.
    pub ready: u64,
    /// Files that wait, and places that wait to be looked at.
    pub pending: u64,
    /// Files whose text could not be read.
    pub failed: u64,
    /// Files and folders that a rule keeps out.
    pub excluded: u64,
    /// Passages that can be found.
    pub passages: u64,
    /// Bytes of the files that are searchable.
    pub bytes: u64,
    /// Places that wait to be looked at.
    pub queue: u64,
    /// Whether the tree is being scanned.
    pub scanning: bool,
    /// Entries that scans have looked at so far.
    pub walked: u64,
    /// What went wrong last, if anything did.
    pub error: Option<String>,
}

/// Why a path is in the index or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The file, when the catalog has it.
    pub file: Option<FileId>,
    /// Its state; for a path that the catalog does not have, the state that its folder or a rule gives it.
    pub state: State,
    /// Passages that can be found.
    pub passages: u32,
    /// The generation since which they can.
    pub indexed: Generation,
}

/// A stage that can be kept from its work, by a full disk for instance.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    /// A thread ended; nothing repairs that.
    Fault,
    Names,
    Contents,
    Commit,
}

/// An embedder and where its vectors go.
struct Model {
    embedder: Arc<dyn Embedder>,
    vectors: Arc<dyn Vectors>,
}

/// What the threads share.
pub(crate) struct Shared {
    store: Arc<Store>,
    model: ArcSwap<Model>,
    words: Arc<dyn Words>,
    tree: Tree,
    rules: Rules,
    options: IndexerOptions,
    marks: Marks,
    inbox: Inbox,
    queue: Queue,
    feed: Feed,
    budget: Budget,
    pace: Pace,
    tag: AtomicU64,
    /// Held by whoever changes the derived indexes: they are changed by one at a time.
    committing: Mutex<()>,
    /// How often the derived indexes were thrown away; what was prepared before that does not fit any more.
    epoch: AtomicU64,
    /// Marks were lost: the first scan compares all contents.
    suspicious: AtomicBool,
    walked_folders: AtomicU64,
    walked_entries: AtomicU64,
    /// What keeps a stage from its work.
    errors: Mutex<BTreeMap<Stage, String>>,
    stopping: Mutex<bool>,
    stop: Condvar,
    #[cfg(test)]
    crash: Mutex<Option<commit::CrashPoint>>,
}

/// A scan that goes on.
pub struct Scan {
    /// Entries that were looked at before it.
    before: u64,
}

/// The indexer of a mounted tree.
pub struct Indexer {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Indexer {
    /// Brings the derived indexes and the rows together and starts the threads. Nothing is scanned yet.
    pub fn start(parts: IndexerParts) -> Result<Arc<Indexer>> {
        let IndexerParts {
            store,
            vectors,
            words,
            embedder,
            root,
            options,
        } = parts;
        let tree = Tree::new(root);
        let marks = Marks::open(&options.marks)?;
        let tag = recover::recover(&store, &*vectors, &*words, &*embedder)?;
        let root_facts = tree.root_facts()?;
        store.write(|tx| tx.bind_root(&root_facts))?;
        let suspicious = marks.overflowed();
        let shared = Arc::new(Shared {
            store,
            model: ArcSwap::from_pointee(Model { embedder, vectors }),
            words,
            tree,
            rules: Rules::new(options.rules.clone()),
            marks,
            inbox: Inbox::default(),
            queue: Queue::new(options.manual),
            feed: Feed::default(),
            budget: Budget::default(),
            pace: Pace::new(options.cpus_max, options.workers, options.power_supplies.clone()),
            tag: AtomicU64::new(tag),
            committing: Mutex::new(()),
            epoch: AtomicU64::new(0),
            suspicious: AtomicBool::new(suspicious),
            walked_folders: AtomicU64::new(0),
            walked_entries: AtomicU64::new(0),
            errors: Mutex::default(),
            stopping: Mutex::new(false),
            stop: Condvar::new(),
            options,
            #[cfg(test)]
            crash: Mutex::new(None),
        });
        let threads = Mutex::new(threads::start(&shared)?);
        Ok(Arc::new(Indexer { shared, threads }))
    }

    /// Where the filesystem sends its changes.
    pub fn sink(self: &Arc<Self>) -> Arc<dyn ChangeSink> {
        Arc::clone(&self.shared) as Arc<dyn ChangeSink>
    }

    /// Compares the whole tree with the catalog and returns when that is done; files that differ are indexed
    /// afterwards. `progress` gets the number of entries looked at, every 50 ms, and ends the waiting (not the scan)
    /// by returning false.
    pub fn scan(&self, progress: impl FnMut(u64) -> bool) -> Result<()> {
        let scan = self.begin_scan()?;
        self.follow_scan(scan, progress)
    }

    /// Begins to compare the whole tree with the catalog: from now on the indexer is not idle before that is done.
    pub fn begin_scan(&self) -> Result<Scan> {
        let before = self.shared.walked_entries.load(Ordering::Relaxed);
        self.shared.scan_everything()?;
        Ok(Scan { before })
    }

    /// Returns when a scan that was begun is done; the rest as [`Indexer::scan`].
    pub fn follow_scan(&self, scan: Scan, mut progress: impl FnMut(u64) -> bool) -> Result<()> {
        let Scan { before } = scan;
        while !self.shared.inbox.wait_idle(deadline(Duration::from_millis(50))) {
            if self.shared.is_stopping() {
                return Err(Error::Stopped);
            }
            if !progress(self.shared.walked_entries.load(Ordering::Relaxed) - before) {
                return Ok(());
            }
        }
        if self.shared.suspicious.swap(false, Ordering::Relaxed) {
            self.shared.marks.reset_overflow();
        }
        progress(self.shared.walked_entries.load(Ordering::Relaxed) - before);
        Ok(())
    }

    /// How far the index is.
    pub fn status(&self) -> IndexStatus {
        let queue = self.shared.inbox.waiting() as u64;
        let scanning = self.shared.inbox.is_scanning();
        let counts = self.shared.store.mirror().counts();
        IndexStatus {
            generation: self.shared.store.generation(),
            files: counts.files,
            ready: counts.ready,
            pending: counts.pending + queue,
            failed: counts.failed,
            excluded: counts.excluded,
            passages: counts.passages,
            bytes: counts.bytes,
            queue,
            scanning,
            walked: self.shared.walked_entries.load(Ordering::Relaxed),
            error: self.shared.errors.lock().values().next().cloned(),
        }
    }

    /// Files that wait, and places that wait to be looked at. 0 means that every change reported so far can be found.
    pub fn pending(&self) -> u64 {
        self.shared.pending()
    }

    /// Waits until nothing waits. Returns whether it was in time.
    pub fn wait_idle(&self, timeout: Duration) -> bool {
        let deadline = deadline(timeout);
        loop {
            if !self.shared.inbox.wait_idle(deadline) || self.shared.is_stopping() {
                return false;
            }
            if self.shared.pending() == 0 && self.shared.queue.working() == 0 && self.shared.inbox.is_idle() {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            self.shared
                .queue
                .wait_changed(deadline.min(Instant::now() + Duration::from_millis(20)));
        }
    }

    /// Waits until the catalog has heard of every change that was reported so far. Returns whether it was in time.
    pub fn wait_seen(&self, timeout: Duration) -> bool {
        self.shared.inbox.wait_settled(deadline(timeout))
    }

    /// The same, and until the folders are walked that this made it look into.
    pub fn wait_followed(&self, timeout: Duration) -> bool {
        let deadline = deadline(timeout);
        self.shared.inbox.wait_settled(deadline) && self.shared.inbox.wait_walked(deadline)
    }

    /// Waits until all changes of a file that were reported so far can be found, for `index=sync`. Returns whether
    /// they can; a file that is kept out, or is gone, counts as done.
    pub fn wait_file(&self, node: NodeKey, timeout: Duration) -> bool {
        let deadline = deadline(timeout);
        if !self.shared.inbox.wait_settled(deadline) {
            return false;
        }
        loop {
            let id = self
                .shared
                .store
                .read(|rows| rows.id_of(node))
                .unwrap_or_default();
            let awaiting = id.is_some_and(|id| {
                let mirror = self.shared.store.mirror();
                mirror.get(id).is_some_and(|node| node.state().is_awaiting())
            });
            if !awaiting {
                return true;
            }
            if Instant::now() >= deadline || self.shared.is_stopping() {
                return false;
            }
            self.shared
                .queue
                .wait_changed(deadline.min(Instant::now() + Duration::from_millis(20)));
        }
    }

    /// What happens from now on.
    pub fn subscribe(&self) -> Receiver<Event> {
        self.shared.feed.subscribe()
    }

    /// Stops or goes on indexing contents; names are followed all the same.
    pub fn pause(&self, paused: bool) {
        self.shared.queue.pause(paused);
    }

    /// Whether contents wait for [`Indexer::pause`].
    pub fn is_paused(&self) -> bool {
        self.shared.queue.is_paused()
    }

    /// Throws the derived indexes away and makes them anew from the files; returns at once, see
    /// [`Indexer::wait_idle`]. Until then less is found.
    pub fn rebuild(&self) -> Result<()> {
        let shared = &self.shared;
        let _alone = shared.committing.lock();
        // Rows first: a crash from here on leaves files that wait, and no file is called ready that cannot be found.
        let (ids, _) = shared.store.write(|tx| tx.distrust_derived(true))?;
        shared.epoch.fetch_add(1, Ordering::AcqRel);
        shared.queue.notify(FileId(0), &[]);
        let tag = shared.next_tag();
        shared.model.load().vectors.clear(tag)?;
        shared.words.clear(tag)?;
        shared.store.write(|tx| {
            tx.set_watermark(Derived::Vectors, tag)?;
            tx.set_watermark(Derived::Words, tag)
        })?;
        tracing::info!(files = ids.len(), "the index is made anew");
        Ok(())
    }

    /// Goes over to another embedder, whose vectors are all there but for what `finish` adds while nothing can be
    /// committed; they get the tag that it is given. `record` joins the commit that makes it so, `switched` runs before
    /// anything else can be committed. After an error the embedder is that of before.
    pub fn switch(
        &self,
        embedder: Arc<dyn Embedder>,
        vectors: Arc<dyn Vectors>,
        finish: impl FnOnce(u64) -> Result<()>,
        record: impl FnOnce(&mut Tx<'_>) -> Result<()>,
        switched: impl FnOnce(),
    ) -> Result<()> {
        let shared = &self.shared;
        let _alone = shared.committing.lock();
        let tag = shared.next_tag();
        finish(tag)?;
        shared.store.write(|tx| {
            tx.set_watermark(Derived::Vectors, tag)?;
            recover::record_recipe(tx, &*embedder)?;
            record(tx)
        })?;
        // What was prepared with the embedder before is prepared anew.
        shared.model.store(Arc::new(Model { embedder, vectors }));
        shared.epoch.fetch_add(1, Ordering::AcqRel);
        switched();
        Ok(())
    }

    /// Why a path, relative to the root, is in the index or not. It may be a path that is not in the catalog.
    pub fn why(&self, path: &Path) -> Result<Explanation> {
        recover::why(&self.shared, path)
    }

    /// Ends the threads. Files that wait go on waiting in their rows. Called by drop as well.
    pub fn stop(&self) {
        *self.shared.stopping.lock() = true;
        self.shared.stop.notify_all();
        self.shared.inbox.close();
        self.shared.queue.close();
        self.shared.budget.close();
        for thread in self.threads.lock().drain(..) {
            // A thread that panicked has said so on standard error already.
            let _ = thread.join();
        }
    }
}

impl Drop for Indexer {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    /// Queues a scan of the whole tree.
    fn scan_everything(&self) -> Result<()> {
        let root = self.tree.root_facts()?;
        self.store.write(|tx| tx.bind_root(&root))?;
        self.inbox.push_folder(ROOT);
        Ok(())
    }

    fn pending(&self) -> u64 {
        let places = self.inbox.waiting() as u64;
        places + self.store.mirror().counts().pending
    }

    /// Whether the content of a file has to be compared because marks were lost.
    fn is_suspect(&self, facts: &Facts) -> bool {
        facts.kind == Kind::File && self.suspicious.load(Ordering::Relaxed)
    }

    fn next_tag(&self) -> u64 {
        self.tag.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Passages are cut by the tokens of the built-in model, whatever embeds them: so they are the same for all.
    fn tokenizer(&self) -> &'static WordPiece {
        StaticModel::built_in().tokenizer()
    }

    /// What else follows from a text.
    fn consequence(&self, path: &Path, text: &str) -> Option<Consequence> {
        self.options.follow.as_ref().map(|follow| follow(path, text))
    }

    /// Keeps an error for the status.
    fn fail(&self, stage: Stage, error: &Error) {
        self.errors.lock().insert(stage, error.to_string());
    }

    /// A stage works again.
    fn recovered(&self, stage: Stage) {
        self.errors.lock().remove(&stage);
    }

    fn is_stopping(&self) -> bool {
        *self.stopping.lock()
    }

    /// Waits, unless the indexer stops.
    fn sleep(&self, time: Duration) {
        let mut stopping = self.stopping.lock();
        if !*stopping {
            self.stop.wait_for(&mut stopping, time);
        }
    }

    /// A named point at which a test may stop everything.
    #[cfg(test)]
    fn at(&self, point: commit::CrashPoint) {
        if *self.crash.lock() == Some(point) {
            panic!("crash at {point:?}");
        }
    }

    #[cfg(not(test))]
    fn at(&self, _point: commit::CrashPoint) {}
}

impl ChangeSink for Shared {
    fn maybe_changed(&self, node: NodeKey) {
        self.marks.mark(node);
    }

    fn changed(&self, change: Change) {
        self.inbox.push(change);
    }
}

#[cfg(test)]
mod tests;
