//! Exact search, and the exact rerank that ends every other search.

use super::allowed::Allowed;
use super::rows::{Query, Rows};
use crate::measure::Measure;
use crate::topk::TopK;

/// Rows measured at a time: their distances fit on the stack, their bytes mostly in the second-level cache.
const TILE: usize = 128;

/// How many rows ahead a rerank asks the memory for.
const LOOKAHEAD: usize = 4;

/// Candidates measured before the errors of their estimates say anything.
const SAMPLE: usize = 8;

/// See [`rerank_estimated`].
const SIGMAS: f32 = 3.5;

/// The `k` nearest allowed rows and their distances, nearest first.
///
/// # Panics
/// If the query's dimension is not that of the rows.
pub fn exact(
    query: &[f32],
    measure: Measure,
    rows: &dyn Rows,
    allowed: Allowed<'_>,
    k: usize,
) -> Vec<(u32, f32)> {
    if let Allowed::Bitmap(bitmap) = allowed
        && bitmap.len() * 4 < rows.len() as u64
    {
        let inside = bitmap.iter().take_while(|&row| (row as usize) < rows.len());
        return exact_subset(query, measure, rows, inside, k);
    }
    if let Allowed::Rows(inside) = allowed {
        return exact_subset(query, measure, rows, inside.iter().copied(), k);
    }
    let mut top = TopK::new(k);
    visit(query, measure, rows, |row, distance| {
        if distance <= top.worst() && allowed.contains(row) {
            top.push(row, distance);
        }
    });
    top.into_sorted()
}

/// The `k` nearest of the rows that the iterator names.
///
/// # Panics
/// If the query's dimension is not that of the rows, or a row is out of range.
pub fn exact_subset(
    query: &[f32],
    measure: Measure,
    rows: &dyn Rows,
    subset: impl Iterator<Item = u32>,
    k: usize,
) -> Vec<(u32, f32)> {
    let mut top = TopK::new(k);
    measured(query, measure, rows, subset, |row, distance| {
        top.push(row, distance)
    });
    top.into_sorted()
}

/// All allowed rows within `radius` (inclusive), nearest first.
///
/// # Panics
/// If the query's dimension is not that of the rows.
pub fn exact_range(
    query: &[f32],
    measure: Measure,
    rows: &dyn Rows,
    allowed: Allowed<'_>,
    radius: f32,
) -> Vec<(u32, f32)> {
    let mut found = Vec::new();
    visit(query, measure, rows, |row, distance| {
        if distance <= radius && allowed.contains(row) {
            found.push((row, distance));
        }
    });
    found.sort_unstable_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0)));
    found
}

/// [`exact`] for several queries (one after the other in `queries`) on up to `threads` threads.
///
/// # Panics
/// If `queries` is not whole vectors.
pub fn exact_batch(
    queries: &[f32],
    measure: Measure,
    rows: &dyn Rows,
    k: usize,
    threads: usize,
) -> Vec<Vec<(u32, f32)>> {
    assert!(queries.len().is_multiple_of(rows.dim()), "not whole vectors");
    in_parallel(queries.len() / rows.dim(), threads, |i| {
        exact(
            &queries[i * rows.dim()..][..rows.dim()],
            measure,
            rows,
            Allowed::All,
            k,
        )
    })
}

/// Measures candidates exactly and keeps the `k` nearest.
///
/// # Panics
/// If the query's dimension is not that of the rows, or a candidate is out of range.
pub fn rerank(
    query: &[f32],
    measure: Measure,
    rows: &dyn Rows,
    candidates: &[u32],
    k: usize,
) -> Vec<(u32, f32)> {
    exact_subset(query, measure, rows, candidates.iter().copied(), k)
}

/// Measures candidates exactly, as far as they may be among the `k` nearest and not beyond `limit`: each comes with a
/// distance that its own does not fall below.
///
/// # Panics
/// If the query's dimension is not that of the rows, or a candidate is out of range.
pub(crate) fn rerank_bounded(
    query: &[f32],
    measure: Measure,
    rows: &dyn Rows,
    bounded: &[(u32, f32)],
    k: usize,
    limit: f32,
) -> Vec<(u32, f32)> {
    assert_eq!(query.len(), rows.dim(), "wrong dimension");
    let query = Query::new(query, measure);
    let mut top = TopK::new(k);
    let near = |&&(_, bound): &&(u32, f32)| bound <= limit;
    let mut ahead = bounded.iter().filter(near);
    ahead
        .by_ref()
        .take(LOOKAHEAD)
        .for_each(|&(row, _)| query.prefetch(rows, row));
    for &(row, bound) in bounded.iter().filter(near) {
        if let Some(&(row, bound)) = ahead.next()
            && bound <= top.worst()
        {
            query.prefetch(rows, row);
        }
        if bound <= top.worst() {
            top.push(row, query.distance(rows, row));
        }
    }
    top.into_sorted()
}

/// Measures candidates exactly in the order of their estimated distances and keeps the `k` nearest.
///
/// The differences seen so far tell how far estimates are off for this query; candidates whose estimate lies further
/// behind the `k`-th distance than [`SIGMAS`] such differences are not measured, because none of them would be kept but
/// one in hundreds. The rows are what costs: each is some kilobytes from anywhere in memory.
///
/// # Panics
/// If the query's dimension is not that of the rows, or a candidate is out of range.
pub(crate) fn rerank_estimated(
    query: &[f32],
    measure: Measure,
    rows: &dyn Rows,
    estimated: &[(u32, f32)],
    k: usize,
) -> Vec<(u32, f32)> {
    assert_eq!(query.len(), rows.dim(), "wrong dimension");
    let query = Query::new(query, measure);
    let mut top = TopK::new(k);
    let (mut count, mut sum, mut squares) = (0.0, 0.0, 0.0);
    estimated
        .iter()
        .take(LOOKAHEAD)
        .for_each(|&(row, _)| query.prefetch(rows, row));
    for (i, &(row, estimate)) in estimated.iter().enumerate() {
        if i >= k.max(SAMPLE) {
            let mean: f32 = sum / count;
            let spread = (squares / count - mean * mean).max(0.0).sqrt();
            if estimate + mean - SIGMAS * spread > top.worst() {
                break;
            }
        }
        if let Some(&(ahead, _)) = estimated.get(i + LOOKAHEAD) {
            query.prefetch(rows, ahead);
        }
        let distance = query.distance(rows, row);
        top.push(row, distance);
        let off = distance - estimate;
        (count, sum, squares) = (count + 1.0, sum + off, squares + off * off);
    }
    top.into_sorted()
}

/// `job(0), job(1), ..` on up to `threads` threads, results in order.
pub(crate) fn in_parallel<T: Send>(count: usize, threads: usize, job: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let threads = threads.clamp(1, count.max(1));
    if threads == 1 {
        return (0..count).map(job).collect();
    }
    let share = count.div_ceil(threads);
    let job = &job;
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|t| {
                scope.spawn(move || {
                    (t * share..count.min((t + 1) * share))
                        .map(job)
                        .collect::<Vec<T>>()
                })
            })
            .collect();
        workers
            .into_iter()
            .flat_map(|w| w.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

fn visit(query: &[f32], measure: Measure, rows: &dyn Rows, mut found: impl FnMut(u32, f32)) {
    assert_eq!(query.len(), rows.dim(), "wrong dimension");
    let query = Query::new(query, measure);
    let mut distances = [0.0; TILE];
    let mut row = 0;
    while row < rows.len() {
        let run = rows.run(row as u32);
        let count = TILE.min(run.elements() / rows.dim()).min(rows.len() - row);
        query.distances(run, &mut distances[..count]);
        for (i, &distance) in distances[..count].iter().enumerate() {
            found((row + i) as u32, distance);
        }
        row += count;
    }
}

fn measured(
    query: &[f32],
    measure: Measure,
    rows: &dyn Rows,
    subset: impl Iterator<Item = u32>,
    mut found: impl FnMut(u32, f32),
) {
    assert_eq!(query.len(), rows.dim(), "wrong dimension");
    let query = Query::new(query, measure);
    let mut ahead = [0u32; LOOKAHEAD];
    let mut count = 0;
    for row in subset {
        query.prefetch(rows, row);
        let due = std::mem::replace(&mut ahead[count % LOOKAHEAD], row);
        if count >= LOOKAHEAD {
            found(due, query.distance(rows, due));
        }
        count += 1;
    }
    for i in count.saturating_sub(LOOKAHEAD)..count {
        let due = ahead[i % LOOKAHEAD];
        found(due, query.distance(rows, due));
    }
}

#[cfg(test)]
mod tests {
    use roaring::RoaringBitmap;

    use super::*;
    use crate::scan::{RowSlice, SliceRows};

    const DIM: usize = 17;

    fn data() -> Vec<f32> {
        (0..500 * DIM).map(|i| ((i * i) % 101) as f32 - 50.0).collect()
    }

    fn brute(rows: &[f32], q: &[f32], keep: impl Fn(u32) -> bool, k: usize) -> Vec<u32> {
        let mut all: Vec<(f32, u32)> = rows
            .chunks_exact(DIM)
            .enumerate()
            .filter(|(i, _)| keep(*i as u32))
            .map(|(i, r)| (r.iter().zip(q).map(|(a, b)| (a - b) * (a - b)).sum(), i as u32))
            .collect();
        all.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        all.into_iter().take(k).map(|p| p.1).collect()
    }

    #[test]
    fn exact_is_brute_force_under_every_filter() {
        let data = data();
        let rows = SliceRows::new(DIM, RowSlice::F32(&data));
        let q = [3.0; DIM];
        let ids = |found: Vec<(u32, f32)>| found.into_iter().map(|p| p.0).collect::<Vec<_>>();
        assert_eq!(
            ids(exact(&q, Measure::L2, &rows, Allowed::All, 10)),
            brute(&data, &q, |_| true, 10)
        );
        let test = |row: u32| row.is_multiple_of(3);
        let filtered = exact(&q, Measure::L2, &rows, Allowed::Test(&test), 10);
        assert_eq!(ids(filtered), brute(&data, &q, test, 10));
        for every in [2, 50] {
            let bitmap: RoaringBitmap = (0..600).filter(|r| r % every == 1).collect();
            let found = exact(&q, Measure::L2, &rows, Allowed::Bitmap(&bitmap), 10);
            assert_eq!(ids(found), brute(&data, &q, |r| bitmap.contains(r), 10));
        }
    }

    #[test]
    fn range_is_inclusive_and_batch_is_exact_in_order() {
        let data = data();
        let rows = SliceRows::new(DIM, RowSlice::F32(&data));
        let q = [3.0; DIM];
        let all = exact(&q, Measure::L2, &rows, Allowed::All, 500);
        let radius = all[40].1;
        let within = exact_range(&q, Measure::L2, &rows, Allowed::All, radius);
        assert!(within.len() > 40 && within[..] == all[..within.len()]);
        assert!(all[within.len()].1 > radius);
        let queries: Vec<f32> = data[..5 * DIM].to_vec();
        for (i, found) in exact_batch(&queries, Measure::L2, &rows, 3, 2)
            .into_iter()
            .enumerate()
        {
            assert_eq!(
                found,
                exact(&queries[i * DIM..][..DIM], Measure::L2, &rows, Allowed::All, 3)
            );
            assert_eq!(found[0].1, 0.0);
        }
    }

    #[test]
    fn nothing_to_search_is_no_error() {
        let rows = SliceRows::new(DIM, RowSlice::F32(&[]));
        assert!(exact(&[0.0; DIM], Measure::Cosine, &rows, Allowed::All, 3).is_empty());
        assert!(exact_batch(&[], Measure::Cosine, &rows, 3, 4).is_empty());
    }
}
