//! The graph of a space: which of its rows a version can reach through it, and how a search walks it.
//!
//! One graph serves all versions. It knows rows by keys; each version has a table from keys to its own segments, so
//! that merging segments changes the table and not the graph. A walk yields candidates: whether one counts, and its
//! exact distance, is decided by the version's own rows. Rows that are not in the graph yet are scanned beside it.

use std::sync::Arc;

use roaring::RoaringBitmap;

use super::State;
use super::scan::Search;
use super::search::{Effort, Filter, Index};
use super::state::View;
use crate::graph::{self, Graph};
use crate::measure::Neighbor;
use crate::scan::{Allowed, Costs, Plan, RowSlice, Rows, Scope};

/// No key, no segment.
pub(super) const NONE: u32 = u32::MAX;
/// The walk is used when at most one row in ... waits for its place in the graph.
const PENDING_SHARE: u64 = 4;
/// Neighbours asked of the graph beyond those wanted, in place of rows that died since it was told.
const SPARE: usize = 8;
/// A walk that was asked for is not taken when the filter lets through less than one row in ...: what counts is then too
/// far apart for any beam, and scanning it is faster.
const WALKED_THROUGH: usize = 50;
/// What a scan of scattered ids pays for each, besides its distance: the id has to be found among those of the segment.
/// Measured with 1,000 and 10,000 of 100,000.
const NAMED_NS: f64 = 7.0;
/// Beams that found these shares of the 10 nearest on embeddings of text, for graphs that were not calibrated yet.
const BEAMS: Beams = Beams { usual: 64, high: 192 };

/// What a version needs of the graph.
pub(super) struct Walk {
    pub(super) graph: Arc<Graph>,
    /// By key: where the row lies.
    pub(super) spots: Arc<Vec<Spot>>,
    pub(super) beams: Beams,
}

/// The place of a row: number of the segment, row in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    pub(super) segment: u32,
    pub(super) row: u32,
}

impl Spot {
    /// The place of a key that is not in use.
    pub(super) const NOWHERE: Spot = Spot {
        segment: NONE,
        row: NONE,
    };
}

/// How wide a walk must be for a recall of 0.95 and of 0.99.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Beams {
    pub(super) usual: usize,
    pub(super) high: usize,
}

impl Default for Beams {
    fn default() -> Beams {
        BEAMS
    }
}

/// The keys of a segment's rows.
#[derive(Clone)]
pub(super) struct Keys {
    /// By row: its key, or [`NONE`].
    pub(super) of_row: Vec<u32>,
    /// Rows that are not in the graph yet.
    pub(super) pending: RoaringBitmap,
    /// Rows that it cannot take, such as those without direction in a cosine space.
    pub(super) unfit: RoaringBitmap,
}

impl State {
    /// The nearest by a walk, and by scans of what the graph does not have; `None` if scanning everything is cheaper
    /// or there is no graph.
    pub(super) fn walk(&self, search: &Search<'_>) -> Option<Vec<Neighbor>> {
        let walk = self.walk_for(search)?;
        let found = self.walk_found(walk, search)?;
        Some(self.with_the_rest(search, found))
    }

    /// [`State::walk`] for several searches that differ in nothing but the query and have no filter: they take turns.
    pub(super) fn walk_together(&self, searches: &[Search<'_>]) -> Option<Vec<Vec<Neighbor>>> {
        let first = searches.first().filter(|first| first.params.filter.is_none())?;
        let walk = self.walk_for(first)?;
        let rows = Reached::new(walk, self, first.config.dim);
        let (k, effort) = (first.params.k, self.effort(walk, first));
        let asked = asked(k, effort);
        let queries: Vec<&[f32]> = searches.iter().map(|search| search.query).collect();
        let answers = walk
            .graph
            .search_batch(&queries, asked, effort, Allowed::All, &rows, 1)
            .ok()?;
        let found = searches.iter().zip(answers).map(|(search, near)| {
            let found = match rows.nearest_of(near, k, asked) {
                Some(near) => rows.named(near),
                None => self.walk_found(walk, search)?,
            };
            Some(self.with_the_rest(search, found))
        });
        found.collect()
    }

    /// The graph, if a search shall walk it.
    fn walk_for(&self, search: &Search<'_>) -> Option<&Walk> {
        let walk = self.walk.as_ref()?;
        let forced = search.params.index == Index::Graph
            && self.allowed(search).saturating_mul(WALKED_THROUGH) >= self.live as usize;
        (forced || self.is_worth_walking(walk, search)).then_some(walk)
    }

    /// Adds what is found by scanning the rows that the graph does not have.
    fn with_the_rest(&self, search: &Search<'_>, mut found: Vec<Neighbor>) -> Vec<Neighbor> {
        for view in self.views() {
            match &view.keys {
                None => search.view(view, &mut found),
                Some(keys) => {
                    search.set(view, &keys.pending, &mut found);
                    search.set(view, &keys.unfit, &mut found);
                }
            }
        }
        found
    }

    fn is_worth_walking(&self, walk: &Walk, search: &Search<'_>) -> bool {
        let scans = matches!(search.params.effort, Effort::Exact) || search.params.index != Index::Auto;
        let waits = |view: &View| {
            view.keys
                .as_ref()
                .map_or(view.live() as u64, |keys| keys.pending.len())
        };
        let pending: u64 = self.files.iter().map(waits).sum();
        if scans || pending * PENDING_SHARE > self.live {
            return false;
        }
        let (rows, allowed) = (self.live as usize, self.allowed(search));
        let ef = walk.ef(search);
        let scope = Scope {
            rows,
            allowed,
            dim: search.config.dim,
            ef,
            has_bytes: true,
            has_onebit: true,
            has_graph: true,
        };
        let mut costs = Costs::default();
        if matches!(
            search.params.filter,
            Some(Filter::Ids(_) | Filter::Predicate { .. })
        ) {
            costs.row_ns += NAMED_NS;
            costs.byte_row_ns += NAMED_NS;
        }
        // A walk that would keep most rows is a scan.
        ef < rows / 8 && costs.choose(scope) == Plan::Graph
    }

    /// Rows that the filter lets through, as far as can be told without asking each.
    fn allowed(&self, search: &Search<'_>) -> usize {
        let rows = self.live as usize;
        search.params.filter.map_or(rows, |filter| {
            let estimates = self.views().map(|view| filter.estimate(view));
            estimates.sum::<usize>().min(rows)
        })
    }

    /// The beam of a walk. One that is forced under a narrow filter, where a scan would have been chosen, is twice as wide
    /// for each factor of ten that the filter takes away: what does not count still has to be walked through.
    fn beam(&self, walk: &Walk, search: &Search<'_>) -> usize {
        let ef = walk.ef(search);
        if search.params.index != Index::Graph || search.params.filter.is_none() {
            return ef;
        }
        let share = self.allowed(search).max(1) as f64 / self.live.max(1) as f64;
        (ef as f64 * (-share.min(1.0).log10()).exp2()) as usize
    }

    fn effort(&self, walk: &Walk, search: &Search<'_>) -> graph::Effort {
        graph::Effort::new(self.beam(walk, search), search.params.k)
    }

    fn walk_found(&self, walk: &Walk, search: &Search<'_>) -> Option<Vec<Neighbor>> {
        let rows = Reached::new(walk, self, search.config.dim);
        let (k, effort) = (search.params.k, self.effort(walk, search));
        let walked = |k, allowed| {
            let answer = walk.graph.search(search.query, k, effort, allowed, &rows);
            answer.ok()
        };
        let near = match search.params.filter {
            // Nearly everything counts, so the few that do not are left out afterwards; where they are many, all that
            // the walk met is ranked.
            None => {
                let (asked, all) = (asked(k, effort), effort.rerank.max(k));
                match rows.nearest_of(walked(asked, Allowed::All)?, k, asked) {
                    Some(near) => near,
                    None => rows.nearest_of(walked(all, Allowed::All)?, k, usize::MAX)?,
                }
            }
            Some(filter) => {
                let test = |key: u32| rows.neighbour(key, Some(filter)).is_some();
                walked(k, Allowed::Test(&test))?
            }
        };
        Some(rows.named(near))
    }
}

/// How many neighbours a walk without a filter is asked for when `k` are wanted.
fn asked(k: usize, effort: graph::Effort) -> usize {
    k.saturating_add(SPARE).min(effort.rerank.max(k))
}

impl Walk {
    fn ef(&self, search: &Search<'_>) -> usize {
        let beam = match search.params.effort {
            Effort::Ef(ef) => ef,
            Effort::Recall(recall) if recall > 0.95 => self.beams.high,
            Effort::Auto | Effort::Recall(_) => self.beams.usual,
            Effort::Exact => self.beams.high * 4,
        };
        // The beams were measured for 10 neighbours; more need a wider one.
        beam.max(search.params.k.saturating_mul(2))
    }
}

/// A version's rows by key.
pub(super) struct Reached<'a> {
    walk: &'a Walk,
    state: &'a State,
    dim: usize,
    nowhere: Vec<f32>,
}

impl<'a> Reached<'a> {
    pub(super) fn new(walk: &'a Walk, state: &'a State, dim: usize) -> Reached<'a> {
        Reached {
            walk,
            state,
            dim,
            nowhere: vec![0.0; dim],
        }
    }

    pub(super) fn find(&self, key: u32) -> Option<(&'a View, usize)> {
        let spot = *self.walk.spots.get(key as usize)?;
        let view = self
            .state
            .files
            .iter()
            .find(|view| view.segment.number() == u64::from(spot.segment))?;
        Some((view, spot.row as usize))
    }

    /// The row, if it is alive in this version, passes the filter, and is what was written.
    fn neighbour(&self, key: u32, filter: Option<Filter<'_>>) -> Option<(&'a View, usize)> {
        let (view, row) = self.find(key)?;
        let counts = !view.dead.contains(row)
            && filter.is_none_or(|filter| filter.allows(view.segment.ids()[row]))
            && view.segment.readable(row..row + 1);
        counts.then_some((view, row))
    }
}

impl Reached<'_> {
    /// Of `asked` nearest keys (fewer, if there were no more) the `k` nearest that count in this version; `None` if there
    /// may be more than that.
    fn nearest_of(&self, mut near: Vec<(u32, f32)>, k: usize, asked: usize) -> Option<Vec<(u32, f32)>> {
        let found = near.len();
        near.retain(|&(key, _)| self.neighbour(key, None).is_some());
        if near.len() < k && found == asked {
            return None;
        }
        near.truncate(k);
        Some(near)
    }

    /// The keys' ids.
    fn named(&self, near: Vec<(u32, f32)>) -> Vec<Neighbor> {
        let named = near.into_iter().filter_map(|(key, distance)| {
            let (view, row) = self.find(key)?;
            Some(Neighbor {
                id: view.segment.ids()[row],
                distance,
            })
        });
        named.collect()
    }
}

impl Rows for Reached<'_> {
    fn dim(&self) -> usize {
        self.dim
    }

    fn len(&self) -> usize {
        self.walk.spots.len()
    }

    fn run(&self, key: u32) -> RowSlice<'_> {
        match self.find(key) {
            Some((view, row)) => view.segment.row_slice(row),
            // A key that another version uses; its distance is thrown away.
            None => RowSlice::F32(&self.nowhere),
        }
    }
}
