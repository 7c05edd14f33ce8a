//! Nearest-neighbour search in a durable space, at the dimensions that embedding models have.

use std::time::Instant;

use vexfs_vector::kernel::Kernels;
use vexfs_vector::{Database, Measure, Options, SearchParams, Space, SpaceConfig};

use super::metric::{Measured, Metric};
use super::sample::{self, Latencies};
use super::simd::DIMENSIONS;
use super::vectors::clustered;
use super::{Result, Run, VECTOR_OPS};

/// Neighbours asked for.
const K: usize = 10;
/// Queries with known answers.
const QUERIES: usize = 64;
/// Of the generator: the same vectors in every run.
const SEED: u64 = 1;

/// Searches at every dimension. The rate of the specification is that of 256, the default embedder's.
pub fn measure(run: &Run) -> Result<Measured> {
    let count = if run.quick { 10_000 } else { 100_000 };
    let mut metrics = Vec::new();
    for dim in DIMENSIONS {
        run.progress.set_message(format!("{dim} dimensions"));
        metrics.extend(at_dimension(run, dim, count)?);
    }
    let of = |name: &str| metrics.iter().find(|metric| metric.name == name).cloned();
    if let (Some(mut rate), Some(recall)) = (of("vectors.search.256"), of("vectors.recall.256")) {
        rate.name = VECTOR_OPS.to_owned();
        rate.workload = format!("{}, recall {:.3}", rate.workload, recall.value);
        metrics.push(rate);
    }
    Ok(metrics.into())
}

/// Rate, latencies and recall of searches among `count` vectors.
pub(crate) fn at_dimension(run: &Run, dim: usize, count: usize) -> Result<Vec<Metric>> {
    let made = clustered(count + QUERIES, dim, SEED).values;
    let (rows, queries) = made.split_at(count * dim);
    let dir = tempfile::tempdir_in(&run.work)?;
    let database = Database::open(dir.path(), Options::default())?;
    let space = database.create_space("bench", SpaceConfig::new(dim, Measure::L2))?;
    let (from, begin) = (rows.chunks_exact(dim).zip(0u64..), Instant::now());
    let batch: Vec<(u64, &[f32])> = from.map(|(row, id)| (id, row)).collect();
    for part in batch.chunks(5_000) {
        space.upsert(part)?;
    }
    let inserted = count as f64 / begin.elapsed().as_secs_f64();

    let recall = recall(&space, dim, rows, queries)?;
    let mut next = queries.chunks_exact(dim).cycle();
    let params = SearchParams::new(K);
    let latencies = Latencies::repeat(run.budget() * 2, || {
        let query = next.next().unwrap_or_default();
        space.search(query, &params).map(drop)
    })?;
    let (p50, noise) = latencies.p50_us();
    // What a scan of everything costs: the reference that every index has to beat.
    let kernels = Kernels::get();
    let mut out = vec![0.0; count];
    let (scan_ns, _) = sample::time_ns(run.budget() / 2, || {
        kernels.many_l2_f32(&queries[..dim], rows, &mut out)
    });
    let workload =
        format!("{count} clustered vectors of {dim} dimensions, k = {K}, default effort, one thread");
    Ok(vec![
        Metric::higher(format!("vectors.search.{dim}"), "ops/s", 1e6 / p50, noise)
            .latency(latencies.summary())
            .against("full scan", 1e9 / scan_ns)
            .workload(workload.clone()),
        Metric::higher(format!("vectors.recall.{dim}"), "share", recall, 0.0).workload(workload.clone()),
        Metric::higher(format!("vectors.insert.{dim}"), "ops/s", inserted, 0.0)
            .workload(format!("{workload}; durable batches of 5,000")),
    ])
}

/// The share of the true neighbours that searches find.
fn recall(space: &Space, dim: usize, rows: &[f32], queries: &[f32]) -> Result<f64> {
    let kernels = Kernels::get();
    let mut distances = vec![0.0; rows.len() / dim];
    let mut found = 0;
    for query in queries.chunks_exact(dim) {
        kernels.many_l2_f32(query, rows, &mut distances);
        let mut order: Vec<usize> = (0..distances.len()).collect();
        order.select_nth_unstable_by(K, |&a, &b| distances[a].total_cmp(&distances[b]));
        let hits = space.search(query, &SearchParams::new(K))?;
        found += hits
            .iter()
            .filter(|hit| order[..K].contains(&(hit.id as usize)))
            .count();
    }
    Ok(found as f64 / (queries.len() / dim * K) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn searches_find_what_a_full_scan_finds() {
        let dir = tempfile::tempdir().unwrap();
        let run = Run::new(crate::bench::Settings::quick(), dir.path().to_owned());
        let metrics = at_dimension(&run, 128, 2_000).unwrap();
        let value = |name: &str| metrics.iter().find(|m| m.name == name).unwrap().value;
        assert!(
            value("vectors.recall.128") > 0.9,
            "{}",
            value("vectors.recall.128")
        );
        assert!(value("vectors.search.128") > 100.0);
    }
}
