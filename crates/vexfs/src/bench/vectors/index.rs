//! The indexes on one data set: recall and speed by effort.

use std::borrow::Cow;
use std::time::Instant;

use serde::Serialize;
use vexfs_vector::Measure;
use vexfs_vector::graph::{Effort, Graph, GraphParams};
use vexfs_vector::quant::{BLOCK_ROWS, I8Codes, I8Factors, RabitqCodes};
use vexfs_vector::scan::{
    Allowed, OneBitRerank, RowSlice, SliceRows, exact, exact_batch, i8_rerank, rabitq_rerank,
};

use super::data::Matrix;

/// Passes over the queries; the fastest counts, because other work on the machine only slows.
const PASSES: usize = 3;

/// Queries of a scan that reads everything.
const SCAN_QUERIES: usize = 100;

/// One set with its exact answers.
pub(super) struct Set<'a> {
    pub(super) base: &'a Matrix,
    pub(super) queries: &'a Matrix,
    pub(super) truth: &'a [Vec<u32>],
    pub(super) measure: Measure,
    pub(super) k: usize,
}

/// What one index achieved at one effort.
#[derive(Debug, Serialize)]
pub(super) struct EffortRow {
    pub(super) index: &'static str,
    /// The beam, or how many rows were reranked.
    pub(super) effort: String,
    pub(super) recall: f64,
    /// Queries per second of CPU time on one thread; for the graph all queries in one call, as its peers are measured.
    pub(super) qps: f64,
    /// The same, each query in a call of its own; the times are of these.
    pub(super) qps_singly: f64,
    /// Queries per second of wall time with two threads.
    pub(super) qps_2_threads: Option<f64>,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
}

/// What building the graph cost.
#[derive(Debug, Serialize)]
pub(super) struct Build {
    pub(super) cpu_s: f64,
    pub(super) rows_per_s: f64,
    /// Of the graph in memory. The exact rows are the caller's.
    pub(super) bytes_per_vector: f64,
    /// Of the graph's file. The exact rows lie in another.
    pub(super) disk_bytes_per_vector: f64,
}

/// Queries answered together by the graph.
#[derive(Debug, Serialize)]
pub(super) struct BatchRow {
    pub(super) size: usize,
    pub(super) threads: usize,
    /// Queries per second of wall time.
    pub(super) qps: f64,
}

pub(super) fn rows_of(base: &Matrix) -> SliceRows<'_> {
    SliceRows::new(base.dim, RowSlice::F32(&base.values))
}

/// Exact answers, on all CPUs.
pub(super) fn truth(base: &Matrix, queries: &Matrix, measure: Measure, k: usize) -> Vec<Vec<u32>> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    exact_batch(&queries.values, measure, &rows_of(base), k, threads)
        .into_iter()
        .map(|found| found.into_iter().map(|p| p.0).collect())
        .collect()
}

/// Seconds of CPU that this thread used.
pub(super) fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// Measures a way to answer: recall and times over the first `count` queries.
pub(super) fn effort(
    set: &Set<'_>,
    index: &'static str,
    effort: String,
    count: usize,
    threads: bool,
    search: impl Fn(&[f32]) -> Vec<u32> + Sync,
) -> EffortRow {
    let count = count.min(set.queries.len());
    let mut best = f64::INFINITY;
    let mut each_us = Vec::with_capacity(count);
    let mut hits = 0;
    for _ in 0..PASSES {
        hits = 0;
        let mut took_us = Vec::with_capacity(count);
        let began = cpu_seconds();
        for i in 0..count {
            let start = Instant::now();
            let found = search(set.queries.row(i));
            took_us.push(start.elapsed().as_secs_f64() * 1e6);
            hits += found.iter().filter(|row| set.truth[i].contains(row)).count();
        }
        let took = cpu_seconds() - began;
        if took < best {
            best = took;
            each_us = took_us;
        }
    }
    each_us.sort_by(f64::total_cmp);
    let at = |percent: usize| each_us[(count * percent).div_ceil(100) - 1];
    EffortRow {
        index,
        effort,
        recall: hits as f64 / (count * set.k) as f64,
        qps: count as f64 / best,
        qps_singly: count as f64 / best,
        qps_2_threads: threads.then(|| two_threads(set, count, &search)),
        p50_us: at(50),
        p99_us: at(99),
    }
}

fn two_threads(set: &Set<'_>, count: usize, search: &(impl Fn(&[f32]) -> Vec<u32> + Sync)) -> f64 {
    let pass = || {
        let began = Instant::now();
        std::thread::scope(|scope| {
            for start in 0..2 {
                scope.spawn(move || {
                    (start..count)
                        .step_by(2)
                        .for_each(|i| drop(search(set.queries.row(i))))
                });
            }
        });
        count as f64 / began.elapsed().as_secs_f64()
    };
    (0..PASSES).map(|_| pass()).fold(0.0, f64::max)
}

/// The queries per second at a recall, between the two efforts around it.
pub(super) fn qps_at(rows: &[EffortRow], index: &str, recall: f64) -> Option<f64> {
    let rows: Vec<&EffortRow> = rows.iter().filter(|r| r.index == index).collect();
    let above = rows.iter().position(|r| r.recall >= recall)?;
    let after = rows[above];
    let Some(before) = above.checked_sub(1).map(|i| rows[i]) else {
        return Some(after.qps);
    };
    let share = (recall - before.recall) / (after.recall - before.recall);
    Some(before.qps + share * (after.qps - before.qps))
}

pub(super) fn ids(found: Vec<(u32, f32)>) -> Vec<u32> {
    found.into_iter().map(|p| p.0).collect()
}

/// One of the scans: `exact`, `bytes`, `onebit`.
pub(super) fn scans(set: &Set<'_>, tier: &str) -> Vec<EffortRow> {
    let (rows, dim, n) = (rows_of(set.base), set.base.dim, set.base.len());
    let Set { measure, k, .. } = *set;
    match tier {
        "exact" => vec![effort(set, "exact", String::new(), SCAN_QUERIES, true, |q| {
            ids(exact(q, measure, &rows, Allowed::All, k))
        })],
        "bytes" => {
            let mut codes = vec![0; n * dim];
            let factors: Vec<I8Factors> = set
                .base
                .iter()
                .zip(codes.chunks_exact_mut(dim))
                .map(|(r, c)| I8Factors::encode(r, c))
                .collect();
            let view = I8Codes::new(dim, &codes, &factors);
            vec![effort(set, "bytes", "20".into(), SCAN_QUERIES, true, |q| {
                ids(i8_rerank(q, measure, view, &rows, Allowed::All, k, 20))
            })]
        }
        _ => {
            let (coder, codes) = onebit(set.base, measure);
            let how = [
                OneBitRerank::Count(10 * k),
                OneBitRerank::Count(20 * k),
                OneBitRerank::Bound(1.4),
                OneBitRerank::Bound(1.9),
                OneBitRerank::Bound(3.0),
            ];
            how.into_iter()
                .map(|how| {
                    effort(set, "onebit", format!("{how:?}"), SCAN_QUERIES, true, |q| {
                        ids(rabitq_rerank(
                            q,
                            measure,
                            &coder,
                            &codes,
                            n,
                            &rows,
                            Allowed::All,
                            k,
                            how,
                        ))
                    })
                })
                .collect()
        }
    }
}

fn onebit(base: &Matrix, measure: Measure) -> (RabitqCodes, Vec<u8>) {
    let coder = RabitqCodes::new(
        base.dim,
        1,
        (measure == Measure::L2).then(|| centre(base, measure)),
    );
    let mut codes = vec![0; coder.bytes(base.len())];
    for (i, row) in base.iter().enumerate() {
        let at = i / BLOCK_ROWS * coder.block_bytes();
        let row = compared(row, measure);
        coder.encode(&row, &mut codes[at..at + coder.block_bytes()], i % BLOCK_ROWS);
    }
    (coder, codes)
}

/// A row as the codes see it: at unit length under cosine.
fn compared(row: &[f32], measure: Measure) -> Cow<'_, [f32]> {
    let length = row.iter().map(|x| x * x).sum::<f32>().sqrt();
    if measure == Measure::Cosine && length > 0.0 {
        row.iter().map(|x| x / length).collect()
    } else {
        row.into()
    }
}

/// The mean of the rows. A space takes that of a sample.
fn centre(base: &Matrix, measure: Measure) -> Vec<f32> {
    let mut centre = vec![0.0; base.dim];
    for row in base.iter() {
        let row = compared(row, measure);
        centre
            .iter_mut()
            .zip(row.iter())
            .for_each(|(c, x)| *c += x / base.len() as f32);
    }
    centre
}

/// Builds the graph on one thread.
pub(super) fn build(set: &Set<'_>) -> anyhow::Result<(Graph, Build)> {
    let began = cpu_seconds();
    let params = GraphParams {
        centre: Some(centre(set.base, set.measure)),
        ..GraphParams::default()
    };
    let graph = Graph::new(set.base.dim, set.measure, params);
    for (i, row) in set.base.iter().enumerate() {
        graph.insert(u32::try_from(i)?, row)?;
    }
    let graph = graph.packed()?;
    let cpu_s = cpu_seconds() - began;
    let n = set.base.len() as f64;
    let built = Build {
        cpu_s,
        rows_per_s: n / cpu_s,
        bytes_per_vector: graph.bytes() as f64 / n,
        disk_bytes_per_vector: disk_bytes(&graph)? as f64 / n,
    };
    Ok((graph, built))
}

/// The size of the graph's file.
fn disk_bytes(graph: &Graph) -> std::io::Result<u64> {
    struct Count(u64);
    impl std::io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len() as u64;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    graph.write_to(&mut count)?;
    Ok(count.0)
}

/// Batches of several sizes at one beam, on one and on two threads.
pub(super) fn batches(set: &Set<'_>, graph: &Graph) -> anyhow::Result<Vec<BatchRow>> {
    let rows = rows_of(set.base);
    let each: Vec<&[f32]> = set.queries.iter().collect();
    let effort = Effort::new(40, set.k);
    let mut out = Vec::new();
    for size in [1, 16, 256, 1024].map(|size: usize| size.min(set.queries.len())) {
        for threads in [1, 2] {
            let mut best = 0f64;
            for _ in 0..PASSES {
                let began = Instant::now();
                for batch in each.chunks_exact(size) {
                    graph.search_batch(batch, set.k, effort, Allowed::All, &rows, threads)?;
                }
                let answered = set.queries.len() / size * size;
                best = best.max(answered as f64 / began.elapsed().as_secs_f64());
            }
            out.push(BatchRow {
                size,
                threads,
                qps: best,
            });
        }
    }
    Ok(out)
}

/// The graph at each beam.
pub(super) fn graph(
    set: &Set<'_>,
    graph: &Graph,
    beams: &[usize],
    rerank: Option<usize>,
) -> anyhow::Result<Vec<EffortRow>> {
    let rows = rows_of(set.base);
    graph.search(
        set.queries.row(0),
        set.k,
        Effort::new(10, set.k),
        Allowed::All,
        &rows,
    )?;
    let each: Vec<&[f32]> = set.queries.iter().collect();
    let together =
        |how: Effort, threads: usize| graph.search_batch(&each, set.k, how, Allowed::All, &rows, threads);
    let at = |&ef: &usize| {
        let mut how = Effort::new(ef, set.k);
        how.rerank = rerank.unwrap_or(how.rerank);
        let singly = effort(set, "graph", format!("{ef}"), usize::MAX, false, |q| {
            // The first query succeeded, and all have the same dimension and are finite.
            graph
                .search(q, set.k, how, Allowed::All, &rows)
                .map(ids)
                .unwrap_or_default()
        });
        let (mut cpu_s, mut wall_s) = (f64::INFINITY, f64::INFINITY);
        for _ in 0..PASSES {
            let began = cpu_seconds();
            together(how, 1)?;
            cpu_s = cpu_s.min(cpu_seconds() - began);
            let began = Instant::now();
            together(how, 2)?;
            wall_s = wall_s.min(began.elapsed().as_secs_f64());
        }
        Ok(EffortRow {
            qps: each.len() as f64 / cpu_s,
            qps_2_threads: Some(each.len() as f64 / wall_s),
            ..singly
        })
    };
    beams.iter().map(at).collect()
}

#[cfg(test)]
mod tests {
    use super::super::data::clustered;
    use super::super::filters::filters;
    use super::super::updates::updates;
    use super::*;

    #[test]
    fn every_index_is_measured_with_a_recall_that_was_counted() {
        let (base, queries) = clustered(3050, 64, 2).split(3000);
        let truth = truth(&base, &queries, Measure::Cosine, 5);
        let set = Set {
            base: &base,
            queries: &queries,
            truth: &truth,
            measure: Measure::Cosine,
            k: 5,
        };
        let exact = scans(&set, "exact");
        assert_eq!(exact[0].recall, 1.0);
        assert!(scans(&set, "bytes")[0].recall > 0.99);
        assert!(scans(&set, "onebit")[4].recall > 0.99);
        let (index, _) = build(&set).expect("built");
        let rows = graph(&set, &index, &[5, 60], Some(60)).expect("measured");
        assert!(
            rows[0].recall <= rows[1].recall && rows[1].recall > 0.9,
            "{rows:?}"
        );
        assert!(qps_at(&rows, "graph", 0.0) == Some(rows[0].qps) && qps_at(&rows, "graph", 1.1).is_none());
        let batches = batches(&set, &index).expect("measured");
        assert!(
            batches.len() == 8 && batches.iter().all(|b| b.qps > 0.0),
            "{batches:?}"
        );
        let filters = filters(&set, &index).expect("measured");
        assert!(filters.iter().all(|f| f.recall >= 0.9), "{filters:?}");
        let updates = updates(&set, &index).expect("measured");
        assert!(updates.recall_after_replacing_all > 0.85, "{updates:?}");
    }
}
