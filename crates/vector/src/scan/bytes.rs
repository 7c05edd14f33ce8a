//! Scan of byte codes, then exact distances for the best few: recall 1.000 with 20 of them on every set measured.

use super::allowed::Allowed;
use super::exact::rerank_bounded;
use super::rows::Rows;
use crate::measure::Measure;
use crate::quant::{I8Codes, I8Query};
use crate::topk::TopK;

const TILE: usize = 128;

/// The `k` nearest allowed rows, nearest first with exact distances: the codes choose `max(candidates, k)` rows, `rows`
/// ranks them. Few allowed rows are walked instead of tested.
///
/// # Panics
/// If the query's dimension is not that of the rows, or there are more codes than rows.
pub fn i8_rerank(
    query: &[f32],
    measure: Measure,
    codes: I8Codes<'_>,
    rows: &dyn Rows,
    allowed: Allowed<'_>,
    k: usize,
    candidates: usize,
) -> Vec<(u32, f32)> {
    let prepared = I8Query::new(query);
    let chosen = i8_candidates(
        &prepared,
        measure,
        codes,
        allowed,
        candidates.max(k),
        f32::INFINITY,
    );
    rerank_bounded(query, measure, rows, &chosen, k, f32::INFINITY)
}

/// The `count` allowed rows whose codes are nearest, in that order, with distances that theirs hardly fall below. Rows
/// that are certainly farther than `limit` are left out, and not asked for if `allowed` is a test.
pub(crate) fn i8_candidates(
    query: &I8Query,
    measure: Measure,
    codes: I8Codes<'_>,
    allowed: Allowed<'_>,
    count: usize,
    limit: f32,
) -> Vec<(u32, f32)> {
    let mut best = TopK::new(count);
    match allowed {
        Allowed::Bitmap(bitmap) if bitmap.len() * 4 < codes.len() as u64 => {
            let inside = bitmap.iter().take_while(|&row| (row as usize) < codes.len());
            codes.estimate_some(query, measure, inside, |row, d| best.push(row, d));
        }
        Allowed::Rows(rows) => {
            codes.estimate_some(query, measure, rows.iter().copied(), |row, d| best.push(row, d));
        }
        _ => scan(query, measure, codes, allowed, limit, &mut best),
    }
    let mut found = best.into_sorted();
    for (row, distance) in &mut found {
        *distance -= query.margin(measure, codes.factors()[*row as usize]);
    }
    found
}

fn scan(
    query: &I8Query,
    measure: Measure,
    codes: I8Codes<'_>,
    allowed: Allowed<'_>,
    limit: f32,
    best: &mut TopK,
) {
    let (mut sums, mut distances) = ([0; TILE], [0.0; TILE]);
    for first in (0..codes.len()).step_by(TILE) {
        let count = TILE.min(codes.len() - first);
        codes.estimate(query, measure, first, &mut sums[..count], &mut distances[..count]);
        for (i, &distance) in distances[..count].iter().enumerate() {
            let row = (first + i) as u32;
            let near = |margin: f32| distance - margin <= limit;
            if distance <= best.worst()
                && (near(0.0) || near(query.margin(measure, codes.factors()[first + i])))
                && allowed.contains(row)
            {
                best.push(row, distance);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::I8Factors;
    use crate::scan::{RowSlice, SliceRows, exact};
    use roaring::RoaringBitmap;

    #[test]
    fn finds_what_the_exact_scan_finds() {
        let (dim, n) = (48, 1000);
        let mut seed = 5;
        let data: Vec<f32> = (0..dim * n)
            .map(|_| crate::quant::splitmix(&mut seed) as u32 as f32 / u32::MAX as f32 - 0.5)
            .collect();
        let mut codes = vec![0; dim * n];
        let factors: Vec<I8Factors> = data
            .chunks(dim)
            .zip(codes.chunks_mut(dim))
            .map(|(r, c)| I8Factors::encode(r, c))
            .collect();
        let (view, rows) = (
            I8Codes::new(dim, &codes, &factors),
            SliceRows::new(dim, RowSlice::F32(&data)),
        );
        let few: RoaringBitmap = (0..2000).step_by(13).collect();
        for measure in [Measure::L2, Measure::Dot, Measure::Cosine] {
            for allowed in [Allowed::All, Allowed::Bitmap(&few)] {
                for q in [3, 500, 999] {
                    let query = &data[q * dim..][..dim];
                    let got = i8_rerank(query, measure, view, &rows, allowed, 10, 40);
                    assert_eq!(
                        got,
                        exact(query, measure, &rows, allowed, 10),
                        "{measure:?} query {q}"
                    );
                }
            }
        }
    }
}
