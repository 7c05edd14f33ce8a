//! Keeping the graph in step with the segments: in small steps, behind the commits.
//!
//! The graph is derived. It is written beside the segments from time to time, so that a large space need not build it
//! again; a graph file that is missing or damaged costs a rebuild, during which scans answer.

mod file;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use roaring::RoaringBitmap;

use super::open::quarantine;
use super::state::View;
use super::upkeep::Upkeep;
use super::vamana::{Beams, Keys, NONE, Reached, Spot, Walk};
use super::{Dead, Finding, Space, SpaceConfig, State};
use crate::error::{Error, Result};
use crate::graph::{Graph, GraphParams};
use crate::measure::Measure;
use crate::segment::{MergeRows, Segment};
pub(super) use file::graph_path;
use file::{Stored, read_graph};

/// Rows inserted in one step, some tenths of a second, during which no flush can begin.
const STEP_ROWS: usize = 4096;
/// The graph is written again when one in ... of its rows has changed since.
const DRIFT_SHARE: usize = 8;
/// Queries with which a graph is calibrated; each costs one exact scan per target.
const CALIBRATION_QUERIES: usize = 24;
/// Rows from which the centre of the codes is taken.
const CENTRE_SAMPLE: usize = 2048;

/// The graph as upkeep sees it.
pub(super) struct Indexing {
    graph: Arc<Graph>,
    spots: Arc<Vec<Spot>>,
    free: Vec<u32>,
    /// By segment: dead rows that have left the graph.
    reaped: HashMap<u64, Arc<Dead>>,
    beams: Beams,
    /// Rows in the graph when it was last calibrated.
    calibrated: usize,
    /// Rows added, removed or moved since the graph was last written.
    drift: usize,
}

impl Space {
    /// One step of indexing; `false` when there was nothing to do.
    pub(super) fn index_some(&self) -> Result<bool> {
        let mut upkeep = self.upkeep.lock();
        let state = self.state.load_full();
        if upkeep.indexing.is_none() {
            return self.begin_graph(&mut upkeep, &state);
        }
        let Some(indexing) = &mut upkeep.indexing else {
            return Ok(false);
        };
        indexing.reap(&state);
        if indexing.graph.wants_sweep() {
            indexing.graph.sweep();
            return Ok(true);
        }
        let waiting = state
            .files
            .iter()
            .find(|view| view.live() > 0 && view.keys.as_ref().is_none_or(|keys| !keys.pending.is_empty()));
        if let Some(view) = waiting {
            let keys = indexing.insert_some(view)?;
            self.publish_keys(indexing, &view.segment, keys);
            return Ok(true);
        }
        if indexing.graph.len() > 2 * indexing.calibrated {
            indexing.pack();
            indexing.calibrate(&state);
            self.publish_walk(indexing);
            return Ok(true);
        }
        if indexing.drift * DRIFT_SHARE > indexing.graph.len() {
            self.write_graph(&mut upkeep, &state)?;
            return Ok(true);
        }
        Ok(false)
    }

    /// Reads the file of the graph, which a graph in memory does not look at again. A damaged one is replaced when the
    /// graph is written next, or built again when the space is opened.
    pub(super) fn verify_graph(&self) -> Option<Finding> {
        let number = self.upkeep.lock().manifest.graph?;
        let path = graph_path(&self.dir, number);
        let error = read_graph(&*self.storage, &path, number, self.config).err()?;
        Some(Finding {
            file: path.display().to_string(),
            what: error.to_string(),
        })
    }

    /// Reads the graph that the manifest names, or begins one if the space is large enough.
    fn begin_graph(&self, upkeep: &mut Upkeep, state: &State) -> Result<bool> {
        if let Some(number) = upkeep.manifest.graph {
            let path = graph_path(&self.dir, number);
            match read_graph(&*self.storage, &path, number, self.config) {
                Ok(stored) => {
                    upkeep.indexing = Some(self.adopt(stored, state));
                    return Ok(true);
                }
                Err(e) => {
                    let _ = quarantine(&*self.storage, &self.dir, &path);
                    let what = format!("{e}; the graph is built again");
                    self.findings.lock().push(Finding {
                        file: path.display().to_string(),
                        what,
                    });
                    upkeep.manifest.graph = None;
                }
            }
        }
        let rows: usize = state.files.iter().map(View::live).sum();
        if rows < self.options.graph_rows {
            return Ok(false);
        }
        let params = GraphParams {
            centre: Some(centre(state, self.config)),
            ..GraphParams::default()
        };
        let graph = Graph::new(self.config.dim, self.config.measure, params);
        upkeep.indexing = Some(Indexing::new(Arc::new(graph), Beams::default()));
        Ok(true)
    }

    /// Puts a stored graph to use: rows of segments that are gone leave it.
    fn adopt(&self, stored: Stored, state: &State) -> Indexing {
        let mut indexing = Indexing::new(Arc::new(stored.graph), stored.beams);
        indexing.calibrated = indexing.graph.len();
        let mut keys = HashMap::new();
        for (number, of_row) in stored.segments {
            let view = state.files.iter().find(|view| view.segment.number() == number);
            match view.filter(|view| view.segment.len() == of_row.len()) {
                Some(_) => drop(keys.insert(number, of_row)),
                None => {
                    for &key in of_row.iter().filter(|&&key| key != NONE) {
                        indexing.graph.delete(key);
                    }
                }
            }
        }
        let key_count = keys
            .values()
            .flatten()
            .filter(|&&key| key != NONE)
            .max()
            .map_or(0, |&max| max as usize + 1);
        let mut spots = vec![Spot::NOWHERE; key_count];
        let mut views = Vec::new();
        for (number, of_row) in keys {
            for (row, &key) in of_row.iter().enumerate().filter(|(_, key)| **key != NONE) {
                spots[key as usize] = Spot {
                    segment: number as u32,
                    row: row as u32,
                };
            }
            let pending = (0..of_row.len() as u32)
                .filter(|&row| of_row[row as usize] == NONE)
                .collect();
            views.push((
                number,
                Arc::new(Keys {
                    of_row,
                    pending,
                    unfit: RoaringBitmap::new(),
                }),
            ));
        }
        indexing.free = (0..key_count as u32)
            .filter(|&key| spots[key as usize] == Spot::NOWHERE)
            .collect();
        indexing.spots = Arc::new(spots);
        let _writer = self.writer.lock();
        let mut state = State::clone(&self.state.load());
        for (number, keys) in views {
            if let Some(view) = state
                .files
                .iter_mut()
                .find(|view| view.segment.number() == number)
            {
                view.keys = Some(keys);
            }
        }
        state.walk = Some(indexing.walk());
        self.state.store(Arc::new(state));
        indexing
    }

    fn publish_keys(&self, indexing: &Indexing, segment: &Arc<Segment>, keys: Keys) {
        let _writer = self.writer.lock();
        let mut state = State::clone(&self.state.load());
        if let Some(view) = state
            .files
            .iter_mut()
            .find(|view| Arc::ptr_eq(&view.segment, segment))
        {
            view.keys = Some(Arc::new(keys));
        }
        state.walk = Some(indexing.walk());
        self.state.store(Arc::new(state));
    }

    fn publish_walk(&self, indexing: &Indexing) {
        let _writer = self.writer.lock();
        let mut state = State::clone(&self.state.load());
        state.walk = Some(indexing.walk());
        self.state.store(Arc::new(state));
    }

    /// Writes the graph beside the segments and names it in the manifest.
    fn write_graph(&self, upkeep: &mut Upkeep, state: &State) -> Result<()> {
        let Some(indexing) = &upkeep.indexing else {
            return Ok(());
        };
        let number = upkeep.manifest.next_number;
        let path = graph_path(&self.dir, number);
        let written = indexing.write(&*self.storage, &path, number, self.config, state);
        let written = written.and_then(|()| {
            self.storage
                .sync_dir(&self.dir)
                .map_err(|e| Error::io("sync", &self.dir, e))
        });
        if let Err(e) = written {
            let _ = self.storage.remove(&path);
            return Err(e);
        }
        let mut manifest = upkeep.manifest.clone();
        (manifest.graph, manifest.next_number) = (Some(number), number + 1);
        self.switch(upkeep, manifest, &None)
            .inspect_err(|_| drop(self.storage.remove(&path)))?;
        if let Some(indexing) = &mut upkeep.indexing {
            indexing.drift = 0;
        }
        Ok(())
    }
}

impl Indexing {
    fn new(graph: Arc<Graph>, beams: Beams) -> Indexing {
        let (spots, free, reaped) = Default::default();
        Indexing {
            graph,
            spots,
            free,
            reaped,
            beams,
            calibrated: 0,
            drift: 0,
        }
    }

    /// The graph as a version sees it.
    pub(super) fn walk(&self) -> Arc<Walk> {
        Arc::new(Walk {
            graph: Arc::clone(&self.graph),
            spots: Arc::clone(&self.spots),
            beams: self.beams,
        })
    }

    /// Removes rows that died from the graph. Their keys are used again; versions that still see the rows find them by
    /// scanning only.
    pub(super) fn reap(&mut self, state: &State) {
        for view in &state.files {
            let Some(keys) = &view.keys else { continue };
            let number = view.segment.number();
            let before = self.reaped.entry(number).or_default();
            if before.len() == view.dead.len() {
                continue;
            }
            let died = view
                .dead
                .since(before)
                .map(|row| keys.of_row[row])
                .filter(|&key| key != NONE);
            for key in died {
                self.graph.delete(key);
                self.free.push(key);
                self.drift += 1;
            }
            self.reaped.insert(number, Arc::clone(&view.dead));
        }
        self.reaped
            .retain(|number, _| state.files.iter().any(|view| view.segment.number() == *number));
    }

    /// Inserts the next rows of a segment and returns its keys.
    fn insert_some(&mut self, view: &View) -> Result<Keys> {
        let segment = &view.segment;
        let mut keys = match &view.keys {
            Some(keys) => Keys::clone(keys),
            None => Keys {
                of_row: vec![NONE; segment.len()],
                pending: (0..segment.len() as u32).collect(),
                unfit: RoaringBitmap::new(),
            },
        };
        let rows: Vec<u32> = keys.pending.iter().take(STEP_ROWS).collect();
        // Dead rows that never were in the graph need not leave it.
        self.reaped
            .entry(segment.number())
            .or_insert_with(|| Arc::clone(&view.dead));
        let mut spots = Vec::clone(&self.spots);
        let mut vector = Vec::new();
        for row in rows {
            keys.pending.remove(row);
            let at = row as usize;
            if view.dead.contains(at) || !segment.readable(at..at + 1) {
                continue;
            }
            vector.clear();
            segment.read(at, &mut vector);
            let key = self.free.pop().unwrap_or(spots.len() as u32);
            match self.graph.insert(key, &vector) {
                Ok(()) => {
                    spots.resize(spots.len().max(key as usize + 1), Spot::NOWHERE);
                    spots[key as usize] = Spot {
                        segment: segment.number() as u32,
                        row,
                    };
                    keys.of_row[at] = key;
                    self.drift += 1;
                }
                Err(crate::graph::GraphError::NoMemory(e)) => {
                    self.free.push(key);
                    return Err(Error::io("grow the graph of", Path::new("the space"), e));
                }
                // A vector without direction, or too long for its square: it is found by scanning.
                Err(_) => {
                    if (key as usize) < spots.len() {
                        self.free.push(key);
                    }
                    keys.unfit.insert(row);
                }
            }
        }
        self.spots = Arc::new(spots);
        Ok(keys)
    }

    /// The keys of a segment that was merged from `group`, whose rows it has in the order of [`MergeRows`].
    pub(super) fn move_keys(
        &mut self,
        group: &[View],
        inputs: &[(Arc<Segment>, Arc<Dead>)],
        merged: &Segment,
    ) -> Keys {
        let mut keys = Keys {
            of_row: Vec::with_capacity(merged.len()),
            pending: RoaringBitmap::new(),
            unfit: RoaringBitmap::new(),
        };
        let mut spots = Vec::clone(&self.spots);
        for (row, (input, from)) in (0..).zip(MergeRows::new(inputs)) {
            let old = group[input].keys.as_ref();
            let key = old.map_or(NONE, |old| old.of_row[from]);
            keys.of_row.push(key);
            if key != NONE {
                spots[key as usize] = Spot {
                    segment: merged.number() as u32,
                    row,
                };
                self.drift += 1;
            } else if old.is_some_and(|old| old.unfit.contains(from as u32)) {
                keys.unfit.insert(row);
            } else {
                keys.pending.insert(row);
            }
        }
        self.spots = Arc::new(spots);
        keys
    }

    /// Puts nodes that lead to each other side by side, now that the graph has doubled. For a moment there are two; where
    /// there is no memory for that it stays as it is.
    fn pack(&mut self) {
        match self.graph.packed() {
            Ok(packed) => self.graph = Arc::new(packed),
            Err(e) => tracing::debug!(error = %e, "the graph is not packed"),
        }
    }

    /// Measures how wide a walk must be. The queries are rows, which find themselves, so the beams get a margin.
    fn calibrate(&mut self, state: &State) {
        self.calibrated = self.graph.len();
        let walk = self.walk();
        let rows = Reached::new(&walk, state, self.graph.dim());
        let step = (self.spots.len() / CALIBRATION_QUERIES).max(1);
        let live = (0..self.spots.len())
            .step_by(step)
            .filter(|&key| self.graph.contains(key as u32));
        let mut queries = Vec::new();
        for key in live {
            if let Some((view, row)) = rows.find(key as u32) {
                view.segment.read(row, &mut queries);
            }
        }
        let beam = |target: f32, usual: usize| match self.graph.calibrate(&queries, 10, target, &rows) {
            Ok(effort) => (effort.ef * 5 / 4).max(32),
            Err(_) => usual,
        };
        let usual = beam(0.96, self.beams.usual);
        let high = beam(0.993, self.beams.high).max(usual);
        self.beams = Beams { usual, high };
        tracing::debug!(rows = self.calibrated, ?self.beams, "calibrated the graph");
    }
}

/// The mean of a sample of the rows, at unit length for cosine.
fn centre(state: &State, config: SpaceConfig) -> Vec<f32> {
    let rows: usize = state.files.iter().map(|view| view.segment.len()).sum();
    let step = rows.div_ceil(CENTRE_SAMPLE).max(1);
    let (mut sum, mut vector, mut count) = (vec![0f64; config.dim], Vec::new(), 0u32);
    for view in &state.files {
        for row in (0..view.segment.len())
            .step_by(step)
            .filter(|&row| view.segment.readable(row..row + 1))
        {
            vector.clear();
            view.segment.read(row, &mut vector);
            let length = vector
                .iter()
                .map(|&x| f64::from(x) * f64::from(x))
                .sum::<f64>()
                .sqrt();
            let scale = if config.measure == Measure::Cosine && length > 0.0 {
                length
            } else {
                1.0
            };
            sum.iter_mut()
                .zip(&vector)
                .for_each(|(sum, &x)| *sum += f64::from(x) / scale);
            count += 1;
        }
    }
    sum.iter()
        .map(|sum| (sum / f64::from(count.max(1))) as f32)
        .collect()
}
