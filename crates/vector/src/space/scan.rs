//! Scanning a version of a space: each segment by the cheapest of its structures.
//!
//! First the filter is turned into rows: ranges of ids become ranges of rows, a small set of ids becomes a small set of
//! rows, anything else is asked row by row. Then the structure is chosen by estimated cost, the number of rows in scope
//! included. Every structure ends in exact distances of stored rows, so that distances of one answer compare.

use std::ops::Range;

use roaring::RoaringBitmap;

use super::search::{Effort, Filter, Index, SearchParams};
use super::state::View;
use super::{SpaceConfig, State};
use crate::measure::Neighbor;
use crate::quant::{BLOCK_ROWS, I8Codes, I8Query};
use crate::scan::{
    Allowed, Costs, OneBitRerank, Plan, Scope, exact, exact_range, exact_subset, i8_rerank, rabitq_rerank,
    rerank,
};
use crate::topk::TopK;

/// A filter that lets through less than one row in ... is turned into a set of rows before the scan.
const SPARSE: u64 = 8;
/// Ranges of fewer rows on average are turned into a set of rows: each range scanned by itself prepares the query anew.
const SPAN_ROWS_MIN: usize = 64;
/// Standard errors of the one-bit estimate within which a row is measured exactly. Recall on text embeddings was 0.999
/// at 1.9; at 4 a neighbour is missed less than once in 10,000 times.
const BOUND: f32 = 1.9;
const BOUND_SURE: f32 = 4.0;

/// One search in one version.
pub(super) struct Search<'a> {
    pub(super) config: SpaceConfig,
    pub(super) query: &'a [f32],
    pub(super) params: &'a SearchParams<'a>,
}

/// The rows of a segment that a filter lets through. Dead rows are not yet left out.
enum InScope {
    /// All of these ranges.
    Spans(Vec<Range<usize>>),
    /// These rows: alive.
    Set(RoaringBitmap),
    /// About so many, to be asked one by one.
    Asked(usize),
}

/// Rows of a segment to scan together.
struct Part<'a> {
    view: &'a View,
    rows: Range<usize>,
    /// Only these.
    set: Option<&'a RoaringBitmap>,
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
        let scope = self.params.filter.map(|filter| filter.rows(view));
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
                let estimate = set.len() as usize;
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
            let (rows, estimate) = (0..view.segment.len(), set.len() as usize);
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
            Plan::Bytes => self.bytes(part, first),
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
            let readable = set.iter().filter(|&row| part.allows(row as usize));
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
    fn bytes(&self, part: &Part<'_>, first: usize) -> Option<Vec<(u32, f32)>> {
        let segment = &part.view.segment;
        let (bytes, factors) = segment.codes()?.bytes(segment)?;
        let (dim, end) = (self.config.dim, part.rows.end);
        let codes = I8Codes::new(dim, &bytes[first * dim..end * dim], &factors[first..end]);
        let rows = segment.rows_from(first, end);
        let (query, measure, k) = (self.query, self.config.measure, self.params.k);
        let candidates = self.candidates();
        if let Some(set) = part.set {
            let prepared = I8Query::new(query);
            let mut best = TopK::new(candidates);
            codes.estimate_some(&prepared, measure, set.iter(), |row, d| best.push(row, d));
            let chosen: Vec<u32> = best.into_sorted().into_iter().map(|(row, _)| row).collect();
            let readable: Vec<u32> = chosen
                .into_iter()
                .filter(|&row| part.allows(row as usize))
                .collect();
            return Some(rerank(query, measure, &rows, &readable, k));
        }
        let test = |row: u32| part.allows(first + row as usize);
        Some(i8_rerank(
            query,
            measure,
            codes,
            &rows,
            Allowed::Test(&test),
            k,
            candidates,
        ))
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
            part.set.is_none_or(|set| set.contains(row as u32)) && part.allows(row)
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

impl Filter<'_> {
    /// About how many rows of a segment are in scope.
    pub(super) fn estimate(&self, view: &View) -> usize {
        let ids = view.segment.ids();
        let (Some(&first), Some(&last)) = (ids.first(), ids.last()) else {
            return 0;
        };
        match self {
            Filter::Ranges(ranges) => {
                let from = ranges.partition_point(|range| range.end <= first);
                let ranges = ranges[from..].iter().take_while(|range| range.start <= last);
                ranges.map(|range| view.segment.rows_of(range).len()).sum()
            }
            Filter::Ids(set) => set.range_cardinality(first..=last) as usize,
            Filter::Predicate { selectivity, .. } => {
                (f64::from(*selectivity).clamp(0.0, 1.0) * view.live() as f64) as usize
            }
        }
    }

    /// The rows of a segment in scope.
    fn rows(&self, view: &View) -> InScope {
        let ids = view.segment.ids();
        let (Some(&first), Some(&last)) = (ids.first(), ids.last()) else {
            return InScope::Spans(Vec::new());
        };
        match self {
            Filter::Ranges(ranges) => {
                let from = ranges.partition_point(|range| range.end <= first);
                let ranges = ranges[from..].iter().take_while(|range| range.start <= last);
                let spans = ranges
                    .map(|range| view.segment.rows_of(range))
                    .filter(|rows| !rows.is_empty());
                let spans: Vec<_> = spans.collect();
                let rows: usize = spans.iter().map(Range::len).sum();
                if rows >= spans.len() * SPAN_ROWS_MIN || spans.len() <= 1 {
                    return InScope::Spans(spans);
                }
                InScope::Set(alive(view, spans.into_iter().flatten()))
            }
            Filter::Ids(set) => {
                let inside = set.range_cardinality(first..=last);
                if inside * SPARSE > ids.len() as u64 {
                    return InScope::Asked(inside as usize);
                }
                let mut wanted = set.iter();
                wanted.advance_to(first);
                let mut from = 0;
                let rows = wanted.take_while(|&id| id <= last).filter_map(|id| {
                    from += super::state::gallop(&ids[from..], id);
                    (ids.get(from) == Some(&id)).then_some(from)
                });
                InScope::Set(alive(view, rows))
            }
            Filter::Predicate { test, selectivity } => {
                let estimate = (f64::from(*selectivity).clamp(0.0, 1.0) * view.live() as f64) as usize;
                if estimate as u64 * SPARSE > ids.len() as u64 {
                    return InScope::Asked(estimate);
                }
                InScope::Set(alive(view, (0..ids.len()).filter(|&row| test(ids[row]))))
            }
        }
    }
}

/// The live ones of some ascending rows.
fn alive(view: &View, rows: impl Iterator<Item = usize>) -> RoaringBitmap {
    let mut set = RoaringBitmap::new();
    for row in rows.filter(|&row| !view.dead.contains(row)) {
        set.try_push(row as u32).expect("the rows ascend");
    }
    set
}
