//! Which rows of a segment a filter lets through.
//!
//! Ranges of ids are ranges of rows, because ids ascend. A set of ids that is small beside the segment becomes a set of
//! rows; of a large one, and of a predicate that lets much through, each row is asked that is near enough to count.

use std::ops::Range;

use super::search::Filter;
use super::state::View;

/// A filter that lets through less than one row in ... is turned into a set of rows before the scan. Above, reading
/// all codes in order is as fast as reading those of the set.
const SPARSE: usize = 4;
/// Ids of a segment that are looked at to tell how many a set has.
const SAMPLE: usize = 32;
/// Ranges of fewer rows on average are turned into a set of rows: each range scanned by itself prepares the query anew.
const SPAN_ROWS_MIN: usize = 64;

/// The rows of a segment that a filter lets through. Dead rows are not yet left out.
pub(super) enum InScope {
    /// All of these ranges.
    Spans(Vec<Range<usize>>),
    /// These rows, ascending: alive.
    Set(Vec<u32>),
    /// About so many, to be asked one by one.
    Asked(usize),
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

    /// The rows of a segment in scope. `asked_last`: a scan of codes would ask only for rows nearer than what was found in
    /// other segments.
    pub(super) fn rows(&self, view: &View, asked_last: bool) -> InScope {
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
                let inside = set.range_cardinality(first..=last) as usize;
                if inside * SPARSE > ids.len() {
                    // Many ids of the set are in the range, but perhaps few of the segment's.
                    let count = sampled(ids, |id| set.contains(id));
                    let missed = inside > ids.len() && asked_last && view.segment.has_byte_codes();
                    if missed || count * SPARSE > ids.len() {
                        return InScope::Asked(count);
                    }
                }
                let (finder, mut wanted) = (view.segment.finder(), set.iter());
                wanted.advance_to(first);
                let wanted = wanted.take_while(|&id| id <= last);
                InScope::Set(alive(view, wanted.filter_map(|id| finder.find(ids, id))))
            }
            Filter::Predicate { test, selectivity } => {
                let estimate = (f64::from(*selectivity).clamp(0.0, 1.0) * view.live() as f64) as usize;
                if estimate * SPARSE > ids.len() {
                    return InScope::Asked(estimate);
                }
                InScope::Set(alive(view, (0..ids.len()).filter(|&row| test(ids[row]))))
            }
        }
    }
}

/// About how many ids pass; not 0, because some may.
fn sampled(ids: &[u64], passes: impl Fn(u64) -> bool) -> usize {
    let step = ids.len().div_ceil(SAMPLE).max(1);
    let looked_at = ids.iter().step_by(step);
    let (all, passed) = (looked_at.len(), looked_at.filter(|&&id| passes(id)).count());
    (ids.len() * passed).div_ceil(all.max(1)).max(1)
}

/// The live ones of some ascending rows.
pub(super) fn alive(view: &View, rows: impl Iterator<Item = usize>) -> Vec<u32> {
    let live = rows.filter(|&row| !view.dead.contains(row));
    live.map(|row| row as u32).collect()
}
