//! Scanning a version of a space: each segment by the cheapest of its structures.
//!
//! First the filter is turned into rows. Then the structure is chosen by estimated cost, the number of rows in scope
//! included. Every structure ends in exact distances of stored rows, so that distances of one answer compare.

use std::cell::OnceCell;
use std::ops::Range;

use roaring::RoaringBitmap;

use super::scope::{InScope, alive};
use super::search::{Effort, Filter, Index, SearchParams};
use super::state::View;
use super::{SpaceConfig, State};
use crate::measure::Neighbor;
use crate::quant::{BLOCK_ROWS, I8Codes, I8Query};
use crate::scan::{
    Allowed, Costs, OneBitRerank, Plan, Scope, exact, exact_range, exact_subset, i8_candidates,
    rabitq_rerank, rerank_bounded,
};

/// Standard errors of the one-bit estimate within which a row is measured exactly. Recall on text embeddings was 0.999
/// at 1.9; at 4 a neighbour is missed less than once in 10,000 times.
const BOUND: f32 = 1.9;
const BOUND_SURE: f32 = 4.0;

/// One search in one version.
pub(super) struct Search<'a> {
    pub(super) config: SpaceConfig,
    pub(super) query: &'a [f32],
    pub(super) params: &'a SearchParams<'a>,
    /// The query in bytes, once a scan of such codes wanted it.
    pub(super) codes: OnceCell<I8Query>,
}

/// Rows of a segment to scan together.
struct Part<'a> {
    view: &'a View,
    rows: Range<usize>,
    /// Only these.
    set: Option<&'a [u32]>,
    /// Only if the filter allows them.
    ask: Option<Filter<'a>>,
    /// How many of them count.
    estimate: usize,
}

impl State {
    /// The nearest live rows in scope, nearest first; equal distances in order of ids.
    pub(super) fn search(
        &self,
        config: SpaceConfig,
        query: &[f32],
        params: &SearchParams<'_>,
    ) -> Vec<Neighbor> {
        let mut answers = self.search_each(config, &[query], params);
        answers.pop().expect("an answer for each query")
    }

    /// [`State::search`] for each of the queries.
    pub(super) fn search_each(
        &self,
        config: SpaceConfig,
        queries: &[&[f32]],
        params: &SearchParams<'_>,
    ) -> Vec<Vec<Neighbor>> {
        // Nothing is gained by asking for more than there is, and smaller numbers cannot overflow.
        let limit = self.live as usize;
        let effort = match params.effort {
            Effort::Ef(ef) => Effort::Ef(ef.min(limit)),
            other => other,
        };
        let params = &SearchParams {
            k: params.k.min(limit),
            effort,
            ..*params
        };
        if params.k == 0 {
            return vec![Vec::new(); queries.len()];
        }
        let of = |&query| Search {
            config,
            query,
            params,
            codes: OnceCell::new(),
        };
        let searches: Vec<Search<'_>> = queries.iter().map(of).collect();
        let found = match searches.as_slice() {
            [_, _, ..] => self.walk_together(&searches),
            _ => None,
        };
        let found = found.unwrap_or_else(|| searches.iter().map(|search| self.found(search)).collect());
        found.into_iter().map(|found| nearest(found, params)).collect()
    }

    /// All that may be among the nearest, in no order.
    fn found(&self, search: &Search<'_>) -> Vec<Neighbor> {
        self.walk(search).unwrap_or_else(|| {
            let mut found = Vec::new();
            self.views().for_each(|view| search.view(view, &mut found));
            found
        })
    }
}

/// The best of what was found, in order.
pub(super) fn nearest(mut found: Vec<Neighbor>, params: &SearchParams<'_>) -> Vec<Neighbor> {
    if let Some(farthest) = params.max_distance {
        found.retain(|neighbor| neighbor.distance <= farthest);
    }
    found.sort_unstable_by(|a, b| a.distance.total_cmp(&b.distance).then(a.id.cmp(&b.id)));
    found.truncate(params.k);
    found
}

impl<'a> Search<'a> {
    /// Adds the nearest rows of a segment.
    pub(super) fn view(&self, view: &'a View, found: &mut Vec<Neighbor>) {
        if view.live() == 0 {
            return;
        }
        let whole = Part {
            view,
            rows: 0..view.segment.len(),
            set: None,
            ask: None,
            estimate: view.live(),
        };
        let asked_last = found.len() >= self.params.k;
        let scope = self.params.filter.map(|filter| filter.rows(view, asked_last));
        match scope {
            None => self.part(&whole, found),
            Some(InScope::Spans(spans)) => {
                for rows in spans {
                    self.part(
                        &Part {
                            estimate: rows.len(),
                            rows,
                            ..whole
                        },
                        found,
                    );
                }
            }
            Some(InScope::Set(set)) if set.is_empty() => {}
            Some(InScope::Set(set)) => {
                let estimate = set.len();
                self.part(
                    &Part {
                        set: Some(&set),
                        estimate,
                        ..whole
                    },
                    found,
                );
            }
            Some(InScope::Asked(estimate)) => {
                self.part(
                    &Part {
                        ask: self.params.filter,
                        estimate,
                        ..whole
                    },
                    found,
                );
            }
        }
    }

    /// Adds the nearest of some rows of a segment, as far as they are alive and pass the filter.
    pub(super) fn set(&self, view: &View, rows: &RoaringBitmap, found: &mut Vec<Neighbor>) {
        let ids = view.segment.ids();
        let passes = |row: &usize| self.params.filter.is_none_or(|filter| filter.allows(ids[*row]));
        let set = alive(view, rows.iter().map(|row| row as usize).filter(passes));
        if !set.is_empty() {
            let (rows, estimate) = (0..view.segment.len(), set.len());
            self.part(
                &Part {
                    view,
                    rows,
                    set: Some(&set),
                    ask: None,
                    estimate,
                },
                found,
            );
        }
    }

    fn part(&self, part: &Part<'_>, found: &mut Vec<Neighbor>) {
        // Codes come in blocks, so the scan starts at one and leaves out what lies before the part.
        let first = part.rows.start / BLOCK_ROWS * BLOCK_ROWS;
        let near = match self.plan(part) {
            Plan::Bytes => self.bytes(part, first, found),
            Plan::OneBit => self.onebit(part, first),
            Plan::Exact | Plan::Graph => None,
        };
        let ids = &part.view.segment.ids()[first..];
        let near = near.unwrap_or_else(|| self.exact(part, first));
        found.extend(near.into_iter().map(|(row, distance)| Neighbor {
            id: ids[row as usize],
            distance,
        }));
    }

    fn plan(&self, part: &Part<'_>) -> Plan {
        let has_bytes = part.view.segment.has_byte_codes();
        let has_onebit = part.view.segment.has_onebit_codes();
        match self.params.index {
            Index::Exact => return Plan::Exact,
            Index::Bytes if has_bytes => return Plan::Bytes,
            Index::OneBit if has_onebit => return Plan::OneBit,
            _ => {}
        }
        let wants_all = self.params.k >= part.estimate;
        if wants_all || matches!(self.params.effort, Effort::Exact) {
            return Plan::Exact;
        }
        let (rows, allowed) = (part.rows.len(), part.estimate.min(part.rows.len()));
        let dim = self.config.dim;
        let scope = Scope {
            rows,
            allowed,
            dim,
            ef: 0,
            has_bytes,
            has_onebit,
            has_graph: false,
        };
        Costs::default().choose(scope)
    }

    fn exact(&self, part: &Part<'_>, first: usize) -> Vec<(u32, f32)> {
        let rows = part.view.segment.rows_from(first, part.rows.end);
        let (query, measure, k) = (self.query, self.config.measure, self.params.k);
        if let Some(set) = part.set {
            let readable = set.iter().copied().filter(|&row| part.allows(row as usize));
            return exact_subset(query, measure, &rows, readable, k);
        }
        let test = |row: u32| part.allows(first + row as usize);
        match self.params.max_distance {
            Some(farthest) if k >= part.estimate => {
                exact_range(query, measure, &rows, Allowed::Test(&test), farthest)
            }
            _ => exact(query, measure, &rows, Allowed::Test(&test), k),
        }
    }

    /// `None` if the codes are missing or damaged.
    fn bytes(&self, part: &Part<'_>, first: usize, found: &[Neighbor]) -> Option<Vec<(u32, f32)>> {
        let segment = &part.view.segment;
        let (bytes, factors) = segment.codes()?.bytes(segment)?;
        let (dim, end) = (self.config.dim, part.rows.end);
        let codes = I8Codes::new(dim, &bytes[first * dim..end * dim], &factors[first..end]);
        let rows = segment.rows_from(first, end);
        let (query, measure, k) = (self.query, self.config.measure, self.params.k);
        let test = |row: u32| part.allows(first + row as usize);
        let allowed = part.set.map_or(Allowed::Test(&test), Allowed::Rows);
        let prepared = self.codes.get_or_init(|| I8Query::new(query));
        let limit = self.limit(found);
        let mut chosen = i8_candidates(prepared, measure, codes, allowed, self.candidates(), limit);
        if part.set.is_some() {
            chosen.retain(|&(row, _)| part.allows(row as usize));
        }
        Some(rerank_bounded(
            query,
            measure,
            &rows,
            &chosen,
            k,
            self.limit(found),
        ))
    }

    /// The distance that a row must not pass to be among the nearest, given what was found already.
    fn limit(&self, found: &[Neighbor]) -> f32 {
        if found.len() < self.params.k {
            return f32::INFINITY;
        }
        let mut distances: Vec<f32> = found.iter().map(|neighbor| neighbor.distance).collect();
        *distances
            .select_nth_unstable_by(self.params.k - 1, f32::total_cmp)
            .1
    }

    /// `None` if the codes are missing or damaged.
    fn onebit(&self, part: &Part<'_>, first: usize) -> Option<Vec<(u32, f32)>> {
        let onebit = part.view.segment.codes()?.onebit()?;
        let rows = part.view.segment.rows_from(first, part.rows.end);
        let how = match self.params.effort {
            Effort::Ef(ef) => OneBitRerank::Count(ef),
            Effort::Auto => OneBitRerank::Bound(BOUND),
            Effort::Recall(recall) if recall <= 0.995 => OneBitRerank::Bound(BOUND),
            Effort::Recall(_) | Effort::Exact => OneBitRerank::Bound(BOUND_SURE),
        };
        let test = |row: u32| {
            let row = first + row as usize;
            part.set
                .is_none_or(|set| set.binary_search(&(row as u32)).is_ok())
                && part.allows(row)
        };
        let (query, measure, k) = (self.query, self.config.measure, self.params.k);
        let (codes, len) = (onebit.from(first), part.rows.end - first);
        let allowed = Allowed::Test(&test);
        Some(rabitq_rerank(
            query,
            measure,
            &onebit.coder,
            codes,
            len,
            &rows,
            allowed,
            k,
            how,
        ))
    }

    /// Rows that a scan of bytes measures exactly. Recall was 1.000 with 20 for k = 10 on all sets measured.
    fn candidates(&self) -> usize {
        let k = self.params.k;
        match self.params.effort {
            Effort::Ef(ef) => ef.max(k),
            Effort::Recall(recall) if recall > 0.995 => k.saturating_mul(4).saturating_add(20),
            _ => k.saturating_mul(2).max(20),
        }
    }
}

impl Part<'_> {
    /// Whether the row is alive, in scope, and what was written. Asked last, for rows that are near enough.
    fn allows(&self, row: usize) -> bool {
        row >= self.rows.start
            && !self.view.dead.contains(row)
            && self
                .ask
                .is_none_or(|filter| filter.allows(self.view.segment.ids()[row]))
            && self.view.segment.readable(row..row + 1)
    }
}
