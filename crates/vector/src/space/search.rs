//! What a search is asked.

use std::ops::Range;

use roaring::RoaringTreemap;

use super::SpaceConfig;
use crate::error::{Error, Result};
use crate::space::batch::first_not_finite;

/// What to search for besides the query vector.
#[derive(Clone, Copy, Debug)]
pub struct SearchParams<'a> {
    /// The most neighbours to return; not 0.
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

/// Which index answers a search. Where the wanted one does not exist (few rows have neither one-bit codes nor a graph), the search
/// chooses as with `Auto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Index {
    /// Chosen by the number of rows in scope.
    Auto,
    /// Exact distances to all rows in scope.
    Exact,
    /// Byte codes of all rows in scope, then exact distances of the best.
    Bytes,
    /// One-bit codes of all rows in scope, then exact distances of those that may be among the nearest.
    OneBit,
    /// A walk through the graph, then exact distances of the best; rows not yet in the graph are scanned. Where a filter
    /// lets through less than one row in 50, the search chooses as with `Auto`.
    Graph,
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
    if params.k == 0 {
        return Err(Error::BadQuery(
            "k is 0: a search returns at least one neighbour".into(),
        ));
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
