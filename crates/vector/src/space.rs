//! A space: vectors of one shape under ids that the caller chooses.
//!
//! Readers take the current version and keep it: they never wait for a writer, and a writer never waits for them.
//! A commit goes into the journal, then into a small segment in memory, then a new version is published. Upkeep turns
//! memory into files and merges files behind the commits.
//!
//! Locks, in the order in which they are taken: upkeep, writer, queue, findings.

mod batch;
pub(crate) mod bell;
mod commit;
mod config;
mod dead;
mod indexing;
mod open;
mod pages;
#[cfg(test)]
mod power_loss;
mod scan;
mod scope;
mod search;
mod snapshot;
mod state;
mod upkeep;
mod vamana;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::error::Result;
use crate::measure::Neighbor;
use crate::segment::Segment;
use crate::segment::sealed::Sealed;
use crate::storage::Storage;
pub use batch::Batch;
use bell::Bell;
pub use commit::Commit;
use commit::{Ticket, Writer};
pub use config::{DIM_MAX, Element, Options, SpaceConfig};
pub(crate) use dead::Dead;
pub use pages::{Pages, Place};
pub use search::{Effort, Filter, Index, SearchParams};
pub use snapshot::Snapshot;
use state::{State, View};
use upkeep::Upkeep;

/// A named collection of vectors. All methods may be called from many threads.
pub struct Space {
    config: SpaceConfig,
    state: ArcSwap<State>,
    queue: Mutex<VecDeque<Arc<Ticket>>>,
    writer: Mutex<Writer>,
    upkeep: Mutex<Upkeep>,
    findings: Mutex<Vec<Finding>>,
    stopped: AtomicBool,
    dropped: AtomicBool,
    storage: Arc<dyn Storage>,
    dir: PathBuf,
    options: Options,
    bell: Arc<Bell>,
}

/// Something wrong with a file, found at open or while reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file, relative to the database.
    pub file: String,
    /// What is wrong, where, and what it costs.
    pub what: String,
}

/// Numbers about a space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Vectors.
    pub vectors: u64,
    /// Deleted or replaced rows that merging has not yet removed.
    pub dead_rows: u64,
    /// Segments in files.
    pub files: usize,
    /// Bytes of those files.
    pub file_bytes: u64,
    /// Rows in memory, which the journal has too.
    pub memory_rows: u64,
    /// Bytes of those rows.
    pub memory_bytes: u64,
    /// Rows in the graph; 0 if there is none.
    pub graph_rows: usize,
    /// Bytes of memory that the graph takes.
    pub graph_bytes: usize,
    /// The last commit.
    pub seq: u64,
}

impl Space {
    /// The shape.
    pub fn config(&self) -> SpaceConfig {
        self.config
    }

    /// The present version, which later commits do not change.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::new(self.config, self.state.load_full())
    }

    /// Appends the components of a vector to `out`; `false` if the id is not there.
    pub fn get(&self, id: u64, out: &mut Vec<f32>) -> Result<bool> {
        self.snapshot().get(id, out)
    }

    /// Whether there is a vector with this id.
    pub fn contains(&self, id: u64) -> bool {
        self.state.load().find(id).is_some()
    }

    /// The number of vectors.
    pub fn len(&self) -> u64 {
        self.state.load().live
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The tag of the last tagged commit.
    pub fn committed_tag(&self) -> Option<u64> {
        self.state.load().tag
    }

    /// The nearest vectors, nearest first; equal distances in order of ids.
    pub fn search(&self, query: &[f32], params: &SearchParams<'_>) -> Result<Vec<Neighbor>> {
        search::check(self.config, query, params)?;
        Ok(self.state.load().search(self.config, query, params))
    }

    /// Searches for several queries in one version, on at most so many threads. Answers are in the order of the
    /// queries; one bad query fails all.
    pub fn search_batch(
        &self,
        queries: &[&[f32]],
        params: &SearchParams<'_>,
        threads: usize,
    ) -> Result<Vec<Vec<Neighbor>>> {
        self.snapshot().search_batch(queries, params, threads)
    }

    /// The neighbours of a query page by page, all from the present version.
    pub fn pages<'a>(&self, query: &[f32], params: SearchParams<'a>) -> Result<Pages<'a>> {
        self.snapshot().pages(query, params)
    }

    /// Numbers about the space.
    pub fn stats(&self) -> Stats {
        let state = self.state.load();
        Stats {
            vectors: state.live,
            dead_rows: state.views().map(|view| view.dead.len() as u64).sum(),
            files: state.files.len(),
            file_bytes: state
                .files
                .iter()
                .flat_map(|view| view.segment.files())
                .map(|file| file.len())
                .sum(),
            memory_rows: state.runs.iter().map(|view| view.segment.len() as u64).sum(),
            memory_bytes: state.memory_bytes(),
            graph_rows: state.walk.as_ref().map_or(0, |walk| walk.graph.len()),
            graph_bytes: state.walk.as_ref().map_or(0, |walk| walk.graph.bytes()),
            seq: state.seq,
        }
    }

    /// What was found wrong with the files, at open and since: these bytes are not served.
    pub fn findings(&self) -> Vec<Finding> {
        let mut findings = self.findings.lock().clone();
        findings.extend(
            self.state
                .load()
                .files
                .iter()
                .flat_map(|view| damage(&view.segment)),
        );
        findings
    }

    /// Reads every byte of every file and returns all findings.
    pub fn verify(&self) -> Vec<Finding> {
        let graph = self.verify_graph();
        self.state
            .load()
            .files
            .iter()
            .flat_map(|view| view.segment.files())
            .for_each(|file| file.scrub());
        let mut findings = self.findings();
        findings.extend(graph);
        findings
    }

    /// Ends all writing; the files are about to be removed. Waits for upkeep to end.
    pub(crate) fn retire(&self) {
        self.dropped.store(true, Ordering::Release);
        drop(self.upkeep.lock());
        drop(self.writer.lock());
    }

    pub(crate) fn dir(&self) -> &std::path::Path {
        &self.dir
    }
}

/// The files of a small database, for tests of decoders.
#[cfg(test)]
pub(crate) fn sample_files() -> Vec<(PathBuf, Vec<u8>)> {
    power_loss::sample().0.files()
}

/// The bad blocks of a segment's files, as far as they have been read.
fn damage(segment: &Segment) -> Vec<Finding> {
    let of = |file: &Sealed| {
        let name = file.path().display().to_string();
        let finding = move |at| {
            let what = format!("the checksum of the block at byte {at} does not fit; it is not served");
            Finding {
                file: name.clone(),
                what,
            }
        };
        file.bad_blocks().into_iter().map(finding).collect::<Vec<_>>()
    };
    segment.files().flat_map(of).collect()
}
