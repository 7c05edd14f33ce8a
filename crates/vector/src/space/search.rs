//! Searching a version of a space.

use std::ops::Range;

use roaring::RoaringTreemap;

use super::state::View;
use super::{SpaceConfig, State};
use crate::error::{Error, Result};
use crate::measure::{Measure, Neighbor};
use crate::segment::{Row, length};
use crate::space::batch::first_not_finite;

/// What to search for besides the query vector.
#[derive(Clone, Copy, Debug)]
pub struct SearchParams<'a> {
    /// The most neighbours to return.
    pub k: usize,
    /// How hard to try.
    pub effort: Effort,
    /// Only ids that pass.
    pub filter: Option<Filter<'a>>,
    /// Only neighbours at most so far away. With a large `k` this is a range search.
    pub max_distance: Option<f32>,
    /// Which index answers, instead of the one chosen by size and filter.
    pub index: Index,
}

impl<'a> SearchParams<'a> {
    /// The `k` nearest, by whatever index is best.
    pub fn new(k: usize) -> SearchParams<'a> {
        SearchParams {
            k,
            effort: Effort::Auto,
            filter: None,
            max_distance: None,
            index: Index::Auto,
        }
    }

    /// With a filter.
    pub fn filter(self, filter: Filter<'a>) -> SearchParams<'a> {
        SearchParams {
            filter: Some(filter),
            ..self
        }
    }

    /// With an effort.
    pub fn effort(self, effort: Effort) -> SearchParams<'a> {
        SearchParams { effort, ..self }
    }

    /// With a largest distance.
    pub fn max_distance(self, distance: f32) -> SearchParams<'a> {
        SearchParams {
            max_distance: Some(distance),
            ..self
        }
    }

    /// With a certain index.
    pub fn index(self, index: Index) -> SearchParams<'a> {
        SearchParams { index, ..self }
    }
}

/// How hard a search tries.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Effort {
    /// A recall of about 0.95 at k = 10, and exact where that is as fast.
    Auto,
    /// The number of candidates that an approximate index keeps; at least `k` is used.
    Ef(usize),
    /// The share of the true neighbours that the answer should contain, above 0, at most 1.
    Recall(f32),
    /// The true neighbours.
    Exact,
}

/// Which index answers a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Index {
    /// Chosen by the number of rows in scope.
    Auto,
    /// Exact distances to all rows in scope.
    Exact,
}

/// Which ids may be in an answer.
#[derive(Clone, Copy)]
pub enum Filter<'a> {
    /// Ids in any of these ranges, which are ascending and disjoint.
    Ranges(&'a [Range<u64>]),
    /// Ids in this set.
    Ids(&'a RoaringTreemap),
    /// Ids for which `test` is true.
    Predicate {
        /// Called once for each candidate, from one thread.
        test: &'a (dyn Fn(u64) -> bool + Sync),
        /// The share of all ids that pass, as far as the caller knows; 0 to 1.
        selectivity: f32,
    },
}

impl std::fmt::Debug for Filter<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Filter::Ranges(ranges) => f.debug_tuple("Ranges").field(ranges).finish(),
            Filter::Ids(ids) => f.debug_tuple("Ids").field(&ids.len()).finish(),
            Filter::Predicate { selectivity, .. } => f.debug_tuple("Predicate").field(selectivity).finish(),
        }
    }
}

/// Refuses a query that no search can answer.
pub(super) fn check(config: SpaceConfig, query: &[f32], params: &SearchParams<'_>) -> Result<()> {
    if query.len() != config.dim {
        return Err(Error::WrongDimension {
            expected: config.dim,
            found: query.len(),
        });
    }
    if let Some(component) = first_not_finite(query) {
        return Err(Error::NotFinite { component });
    }
    match params.effort {
        Effort::Recall(recall) if !(recall > 0.0 && recall <= 1.0) => {
            return Err(Error::BadQuery(format!(
                "a recall of {recall} is not above 0 and at most 1"
            )));
        }
        _ => {}
    }
    if params.max_distance.is_some_and(f32::is_nan) {
        return Err(Error::BadQuery("the largest distance is not a number".into()));
    }
    if let Some(Filter::Ranges(ranges)) = params.filter
        && !ranges.is_sorted_by(|a, b| a.end <= b.start)
    {
        return Err(Error::BadQuery(
            "the ranges of the filter are not ascending and disjoint".into(),
        ));
    }
    Ok(())
}

impl State {
    /// The nearest live rows in scope, nearest first; equal distances in order of ids.
    pub(super) fn search(
        &self,
        config: SpaceConfig,
        query: &[f32],
        params: &SearchParams<'_>,
    ) -> Vec<Neighbor> {
        let mut found: Vec<Neighbor> = Vec::new();
        if params.k == 0 {
            return found;
        }
        let farthest = params.max_distance.unwrap_or(f32::INFINITY);
        for view in self.views() {
            scan(view, config, query, params.filter, |neighbor| {
                if neighbor.distance <= farthest {
                    found.push(neighbor);
                }
            });
        }
        found.sort_unstable_by(|a, b| a.distance.total_cmp(&b.distance).then(a.id.cmp(&b.id)));
        found.truncate(params.k);
        found
    }
}

fn scan(
    view: &View,
    config: SpaceConfig,
    query: &[f32],
    filter: Option<Filter<'_>>,
    mut each: impl FnMut(Neighbor),
) {
    let segment = &view.segment;
    let query_length = length(query);
    for (row, &id) in segment.ids().iter().enumerate() {
        if view.dead.contains(row)
            || !filter.is_none_or(|filter| filter.allows(id))
            || !segment.readable(row..row + 1)
        {
            continue;
        }
        let (dot, l2) = sums(query, segment.row(row));
        let distance = match config.measure {
            Measure::L2 => l2,
            Measure::Dot => -dot,
            Measure::Cosine => Measure::cosine_of(dot, query_length.powi(2), segment.length(row).powi(2)),
        };
        each(Neighbor { id, distance });
    }
}

fn sums(query: &[f32], row: Row<'_>) -> (f32, f32) {
    let component = |i: usize| match row {
        Row::F32(row) => row[i],
        Row::F16(row) => row[i].to_f32(),
        Row::I8(row, scale) => f32::from(row[i]) * scale,
    };
    query.iter().enumerate().fold((0.0, 0.0), |(dot, l2), (i, q)| {
        let x = component(i);
        (dot + q * x, l2 + (q - x) * (q - x))
    })
}

impl Filter<'_> {
    pub(super) fn allows(&self, id: u64) -> bool {
        match self {
            Filter::Ranges(ranges) => {
                let after = ranges.partition_point(|range| range.end <= id);
                ranges.get(after).is_some_and(|range| range.contains(&id))
            }
            Filter::Ids(ids) => ids.contains(id),
            Filter::Predicate { test, .. } => test(id),
        }
    }
}
