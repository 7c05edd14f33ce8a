//! Work behind the commits: memory into segments, small segments into larger ones.
//!
//! Both write a new segment beside the old ones, then replace the manifest, then publish a version with the new
//! segment, then delete the old files. A crash at any point leaves the old manifest with the old files and the whole
//! journal, or the new manifest with all that it names.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::indexing::{Indexing, graph_path};
use super::open::quarantine;
use super::vamana::{Keys, Walk};
use super::{Dead, Space, State, View, damage};
use crate::error::{Error, Result};
use crate::journal;
use crate::manifest::{Manifest, SegmentEntry};
use crate::segment::{ROWS_MAX, Segment, codes_path, rows_path, write_codes, write_rows};
use crate::storage;

/// So many segments of one size class are merged into one; also the factor between classes. A row is rewritten
/// log4(all rows / rows in memory) times, and a space has at most 3 segments per class when merging keeps up.
const MERGE_WIDTH: usize = 4;
/// A segment with this share of dead rows (one in ...) is rewritten alone.
const DEAD_SHARE: usize = 4;
/// Journals that a crash left are flushed away when there are more.
const JOURNALS_MAX: u64 = 16;

/// What the upkeep lock protects: the manifest on disk.
pub(super) struct Upkeep {
    pub(super) manifest: Manifest,
    /// Journals to be kept for inspection once their readable part is in a segment.
    pub(super) corrupt_journals: Vec<u64>,
    /// The graph, once it was read or begun.
    pub(super) indexing: Option<Indexing>,
    pub(super) tide: Tide,
}

/// More rows a second are a bulk load. The graph takes its rows when that is over: until then they are scanned, and the
/// processor is left to the load.
const BULK_ROWS_PER_S: f64 = 4_000.0;
/// How often the rate is measured.
const TIDE: Duration = Duration::from_millis(250);

/// How fast rows come.
pub(super) struct Tide {
    since: Instant,
    rows: u64,
    is_high: bool,
}

impl Tide {
    pub(super) fn at(rows: u64) -> Tide {
        Tide {
            since: Instant::now(),
            rows,
            is_high: false,
        }
    }

    /// Whether a bulk load goes on, given the rows there are now.
    fn is_high(&mut self, rows: u64) -> bool {
        let elapsed = self.since.elapsed();
        if elapsed >= TIDE {
            let rate = rows.saturating_sub(self.rows) as f64 / elapsed.as_secs_f64();
            *self = Tide {
                is_high: rate > BULK_ROWS_PER_S,
                ..Tide::at(rows)
            };
        }
        self.is_high
    }
}

impl Space {
    /// Writes what is in memory as a segment, so that the next open replays nothing.
    pub fn checkpoint(&self) -> Result<()> {
        self.flush_memory()
    }

    /// Does background work until none is left or the time is used up; a step that was begun is finished. Returns
    /// whether work is left. The database's own thread calls this too; calling it from several threads is fine.
    pub fn maintain(&self, budget: Duration) -> Result<bool> {
        let end = Instant::now() + budget;
        loop {
            if !self.maintain_once()? {
                return Ok(false);
            }
            if Instant::now() >= end {
                return Ok(true);
            }
        }
    }

    /// One step of upkeep; `false` when there was nothing to do.
    fn maintain_once(&self) -> Result<bool> {
        self.check_writable()?;
        let state = self.state.load_full();
        let journal_from = self.upkeep.lock().manifest.journal_from;
        let journals = self.writer.lock().next_journal - journal_from;
        if state.memory_bytes() > self.options.memory_bytes as u64 || journals > JOURNALS_MAX {
            self.flush_memory()?;
            return Ok(true);
        }
        if self.merge_some()? || self.complete_codes()? {
            return Ok(true);
        }
        // Whoever maintains a space by hand wants it done.
        if self.options.background && self.upkeep.lock().tide.is_high(state.live) {
            return Ok(false);
        }
        self.index_some()
    }

    /// Makes the codes of a segment whose file of codes was missing or damaged at open.
    fn complete_codes(&self) -> Result<bool> {
        let _upkeep = self.upkeep.lock();
        let state = self.state.load_full();
        let Some(view) = state.files.iter().find(|view| view.segment.codes().is_none()) else {
            return Ok(false);
        };
        write_codes(&*self.storage, &self.dir, &view.segment, &mut |_| Ok(()))?;
        view.segment.open_codes(&*self.storage, &self.dir)?;
        Ok(true)
    }

    /// Writes the runs in memory as one segment and lets the journal begin anew.
    pub(super) fn flush_memory(&self) -> Result<()> {
        let mut upkeep = self.upkeep.lock();
        self.check_writable()?;
        let Some((cut, journal_from)) = self.freeze(&upkeep)? else {
            return Ok(());
        };
        let inputs: Vec<_> = cut
            .runs
            .iter()
            .map(|v| (Arc::clone(&v.segment), Arc::clone(&v.dead)))
            .collect();
        let number = upkeep.manifest.next_number;
        let flushed = self.write_segment(number, &inputs, false)?;
        if let Some(indexing) = &mut upkeep.indexing {
            // Segments without a live row are about to vanish, and their keys with them.
            indexing.reap(&cut);
        }

        let kept = cut.files.iter().filter(|view| view.live() > 0);
        let mut segments: Vec<SegmentEntry> = kept.map(entry).collect();
        segments.extend(flushed.iter().map(|segment| entry(&View::shared(segment))));
        let manifest = Manifest {
            config: self.config,
            seq: cut.seq,
            tag: cut.tag,
            journal_from,
            next_number: number + 1,
            graph: upkeep.manifest.graph,
            segments,
        };
        let obsolete = self.switch(&mut upkeep, manifest, &flushed)?;
        self.publish_flush(&cut, flushed);
        self.discard(&obsolete);
        Ok(())
    }

    /// Ends the journal, and fixes the version that the next segment will hold. `None` when the manifest has it all.
    fn freeze(&self, upkeep: &Upkeep) -> Result<Option<(Arc<State>, u64)>> {
        let mut writer = self.writer.lock();
        let mut state = State::clone(&self.state.load());
        if state.seq == upkeep.manifest.seq && writer.next_journal == upkeep.manifest.journal_from {
            return Ok(None);
        }
        if !self.options.durable {
            // If the flush fails, these records stay in a journal that nobody would sync any more.
            self.sync_journal(&mut writer)?;
        }
        writer.journal = None;
        state.frozen = state.runs.len();
        let state = Arc::new(state);
        self.state.store(Arc::clone(&state));
        Ok(Some((state, writer.next_journal)))
    }

    /// Merges one group of segments; `false` when none needs it.
    fn merge_some(&self) -> Result<bool> {
        let mut upkeep = self.upkeep.lock();
        let base = self.state.load_full();
        let Some(group) = choose(&base.files, self.options.memory_bytes as u64) else {
            return Ok(false);
        };
        // The merge leaves out what died up to now, so those commits must not be lost after it.
        if !self.options.durable {
            self.flush()?;
        }
        let inputs: Vec<_> = group
            .iter()
            .map(|v| (Arc::clone(&v.segment), Arc::clone(&v.dead)))
            .collect();
        let number = upkeep.manifest.next_number;
        let merged = self.write_segment(number, &inputs, true)?;
        let keys = upkeep
            .indexing
            .as_mut()
            .zip(merged.as_ref())
            .map(|(indexing, merged)| {
                indexing.reap(&base);
                indexing.move_keys(&group, &inputs, merged)
            });

        let mut manifest = upkeep.manifest.clone();
        manifest.next_number = number + 1;
        manifest
            .segments
            .retain(|entry| !group.iter().any(|view| view.segment.number() == entry.number));
        manifest
            .segments
            .extend(merged.iter().map(|segment| entry(&View::shared(segment))));
        let obsolete = self.switch(&mut upkeep, manifest, &merged)?;
        let walk = upkeep.indexing.as_ref().map(Indexing::walk);
        self.publish_merge(&group, merged, keys.map(Arc::new), walk);
        self.set_aside(&group);
        self.discard(&obsolete);
        Ok(true)
    }

    /// Writes and opens a segment with the live rows of `inputs`; `None` if there are none.
    fn write_segment(
        &self,
        number: u64,
        inputs: &[(Arc<Segment>, Arc<Dead>)],
        paced: bool,
    ) -> Result<Option<Arc<Segment>>> {
        if inputs.iter().all(|(segment, dead)| segment.len() == dead.len()) {
            return Ok(None);
        }
        let mut pace = Pace::new(if paced { self.options.merge_bytes_per_s } else { 0 });
        let mut step = |bytes: usize| {
            pace.spend(bytes as u64);
            if self.dropped.load(Ordering::Acquire) {
                Err(Error::Dropped)
            } else {
                Ok(())
            }
        };
        let rows = write_rows(&*self.storage, &self.dir, number, self.config, inputs, &mut step)?;
        let made = Segment::open(&*self.storage, &self.dir, number, rows, self.config).and_then(|segment| {
            write_codes(&*self.storage, &self.dir, &segment, &mut step)?;
            segment.open_codes(&*self.storage, &self.dir)?;
            Ok(segment)
        });
        let segment = made.inspect_err(|_| self.discard(&[number]))?;
        Ok(Some(Arc::new(segment)))
    }

    /// Replaces the manifest, and returns the numbers of the segments that only the old one names. On an error
    /// the old one holds, and the new segment is removed.
    pub(super) fn switch(
        &self,
        upkeep: &mut Upkeep,
        new: Manifest,
        added: &Option<Arc<Segment>>,
    ) -> Result<Vec<u64>> {
        let path = self.dir.join("MANIFEST");
        match storage::replace(&*self.storage, &path, &new.encode()) {
            Ok(true) => {
                let old = std::mem::replace(&mut upkeep.manifest, new);
                for number in old.journal_from..upkeep.manifest.journal_from {
                    let path = journal::path(&self.dir, number);
                    if upkeep.corrupt_journals.contains(&number) {
                        let _ = quarantine(&*self.storage, &self.dir, &path);
                    } else {
                        let _ = self.storage.remove(&path);
                    }
                }
                if let Some(number) = old.graph.filter(|_| old.graph != upkeep.manifest.graph) {
                    let _ = self.storage.remove(&graph_path(&self.dir, number));
                }
                let kept = |number| {
                    upkeep
                        .manifest
                        .segments
                        .iter()
                        .any(|entry| entry.number == number)
                };
                Ok(old
                    .segments
                    .iter()
                    .map(|entry| entry.number)
                    .filter(|&number| !kept(number))
                    .collect())
            }
            Ok(false) => {
                self.stop();
                Err(Error::Stopped)
            }
            Err(e) => {
                if let Some(segment) = added {
                    self.discard(&[segment.number()]);
                }
                Err(Error::io("replace", &path, e))
            }
        }
    }

    /// Publishes a version in which `added` stands for the runs of `cut`.
    fn publish_flush(&self, cut: &State, added: Option<Arc<Segment>>) {
        let _writer = self.writer.lock();
        let mut state = State::clone(&self.state.load());
        let runs: Vec<View> = state.runs.drain(..cut.runs.len()).collect();
        state.frozen = 0;
        let emptied = |view: &View| cut.files.iter().any(|old| old.is_of(view) && old.live() == 0);
        state.files.retain(|view| !emptied(view));
        state
            .files
            .extend(added.map(|segment| successor(segment, cut.runs.iter().zip(&runs))));
        self.state.store(Arc::new(state));
    }

    /// Publishes a version in which `added` stands for the segments of `group`.
    fn publish_merge(
        &self,
        group: &[View],
        added: Option<Arc<Segment>>,
        keys: Option<Arc<Keys>>,
        walk: Option<Arc<Walk>>,
    ) {
        let _writer = self.writer.lock();
        let mut state = State::clone(&self.state.load());
        let (old, kept): (Vec<View>, _) = state
            .files
            .drain(..)
            .partition(|now| group.iter().any(|old| old.is_of(now)));
        state.files = kept;
        // A group is in the order of the files, so the two lists pair up.
        let added = added.map(|segment| View {
            keys,
            ..successor(segment, group.iter().zip(&old))
        });
        state.walk = walk.or(state.walk.take());
        // Rows in corrupt blocks did not come along.
        let before: usize = old.iter().map(View::live).sum();
        state.live -= (before - added.as_ref().map_or(0, View::live)) as u64;
        state.files.extend(added);
        self.state.store(Arc::new(state));
    }

    /// Moves damaged files to the quarantine, and remembers what was wrong with them.
    fn set_aside(&self, group: &[View]) {
        for view in group {
            let damage = damage(&view.segment);
            if !damage.is_empty() {
                for file in view.segment.files() {
                    let _ = quarantine(&*self.storage, &self.dir, file.path());
                }
                self.findings.lock().extend(damage);
            }
        }
    }

    /// Removes the files of segments that no manifest names. Readers that still have them mapped keep them.
    fn discard(&self, numbers: &[u64]) {
        for &number in numbers {
            let _ = self.storage.remove(&rows_path(&self.dir, number));
            let _ = self.storage.remove(&codes_path(&self.dir, number));
        }
    }
}

/// The view of a segment made from older views: rows of those that died in the meantime die in it too.
fn successor<'a>(segment: Arc<Segment>, inputs: impl Iterator<Item = (&'a View, &'a View)>) -> View {
    let mut dead = Dead::default();
    for (before, now) in inputs {
        for row in now.dead.since(&before.dead) {
            if let Some(row) = segment.find(before.segment.ids()[row]) {
                dead.insert(row);
            }
        }
    }
    View {
        dead: Arc::new(dead),
        ..View::shared(&segment)
    }
}

impl View {
    fn is_of(&self, other: &View) -> bool {
        Arc::ptr_eq(&self.segment, &other.segment)
    }
}

fn entry(view: &View) -> SegmentEntry {
    SegmentEntry {
        number: view.segment.number(),
        rows: view.segment.len() as u64,
        dead: view.dead.to_bitmap(),
    }
}

/// The segments to merge next: a damaged one, the smallest class that is full, or one with many dead rows.
fn choose(files: &[View], unit: u64) -> Option<Vec<View>> {
    let class = |view: &View| {
        let share = view.live() as u64 * view.segment.bytes() / view.segment.len().max(1) as u64;
        (share / unit.max(1)).max(1).ilog(MERGE_WIDTH as u64)
    };
    let classes = files.iter().map(class).max()?;
    if let Some(damaged) = files.iter().find(|view| !damage(&view.segment).is_empty()) {
        return Some(vec![damaged.clone()]);
    }
    for wanted in 0..=classes {
        let group: Vec<View> = files
            .iter()
            .filter(|view| class(view) == wanted)
            .cloned()
            .collect();
        let rows: u64 = group.iter().map(|view| view.live() as u64).sum();
        if group.len() >= MERGE_WIDTH && rows <= ROWS_MAX {
            return Some(group);
        }
    }
    files
        .iter()
        .find(|view| view.dead.len() * DEAD_SHARE > view.segment.len())
        .map(|view| vec![view.clone()])
}

/// Spreads writing over time.
struct Pace {
    bytes_per_s: u64,
    start: Instant,
    spent: u64,
}

impl Pace {
    fn new(bytes_per_s: u64) -> Pace {
        Pace {
            bytes_per_s,
            start: Instant::now(),
            spent: 0,
        }
    }

    fn spend(&mut self, bytes: u64) {
        self.spent += bytes;
        if self.bytes_per_s == 0 {
            return;
        }
        let due = Duration::from_secs_f64(self.spent as f64 / self.bytes_per_s as f64);
        let ahead = due.saturating_sub(self.start.elapsed());
        // Short sleeps cost more in wake-ups than they smooth.
        if ahead > Duration::from_millis(10) {
            std::thread::sleep(ahead);
        }
    }
}
