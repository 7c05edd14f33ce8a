//! What takes minutes: a million vectors, and the replacement of all of a hundred thousand. Times are printed, not judged:
//! other programs run too. Run with
//! `cargo test --release -p vexfs-vector --test slow -- --ignored --nocapture --test-threads 1`.

#![allow(
    clippy::unwrap_used,
    reason = "the helpers of these tests fail their test, too"
)]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use roaring::{RoaringBitmap, RoaringTreemap};
use vexfs_vector::quant::{I8Codes, I8Factors};
use vexfs_vector::scan::{Allowed, RowSlice, SliceRows, exact, i8_rerank};
use vexfs_vector::{
    Batch, Database, Effort, Filter, Index, Measure, Neighbor, Options, SearchParams, Space, SpaceConfig,
};

fn roll(dice: &mut u64) -> u64 {
    *dice = dice
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    *dice >> 33
}

/// Roughly normal.
fn normal(dice: &mut u64) -> f32 {
    (0..4)
        .map(|_| roll(dice) as f32 / (1u64 << 31) as f32 - 0.5)
        .sum::<f32>()
        * 1.7
}

/// A Gaussian mixture of low intrinsic dimension: 256 clusters whose centres lie in a shared space of 24 dimensions,
/// each with a subspace of 32 directions with falling spectrum, and a little noise in all directions; unit length.
struct Mixture {
    dim: usize,
    basis: Vec<Vec<f32>>,
    centres: Vec<Vec<f32>>,
}

impl Mixture {
    fn new(dim: usize) -> Mixture {
        let mut dice = 42;
        let mut direction = || -> Vec<f32> {
            (0..dim)
                .map(|_| normal(&mut dice) / (dim as f32).sqrt())
                .collect()
        };
        let basis: Vec<Vec<f32>> = (0..24 + 256).map(|_| direction()).collect();
        let mut dice = 43;
        let centres = (0..256)
            .map(|_| combine(&basis[..24], |_| normal(&mut dice)))
            .collect();
        Mixture { dim, basis, centres }
    }

    fn vector(&self, dice: &mut u64) -> Vec<f32> {
        let cluster = (roll(dice) % 256).min(roll(dice) % 256) as usize;
        let first = 24 + cluster * 7 % 224;
        let inner = combine(&self.basis[first..first + 32], |i| {
            normal(dice) * 1.5 / (1.0 + i as f32).sqrt()
        });
        let noise = 0.25 / (self.dim as f32).sqrt();
        let mut vector: Vec<f32> = self.centres[cluster]
            .iter()
            .zip(&inner)
            .map(|(c, x)| c + x + noise * normal(dice))
            .collect();
        let length = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
        vector.iter_mut().for_each(|x| *x /= length);
        vector
    }
}

fn combine(basis: &[Vec<f32>], mut weight: impl FnMut(usize) -> f32) -> Vec<f32> {
    let mut sum = vec![0.0; basis[0].len()];
    for (i, direction) in basis.iter().enumerate() {
        let weight = weight(i);
        sum.iter_mut()
            .zip(direction)
            .for_each(|(sum, x)| *sum += weight * x);
    }
    sum
}

fn open(dir: &Path) -> Database {
    Database::open(
        dir,
        Options {
            background: false,
            durable: false,
            ..Options::default()
        },
    )
    .unwrap()
}

fn insert(space: &Space, mixture: &Mixture, ids: impl Iterator<Item = u64>, dice: &mut u64) {
    let ids: Vec<u64> = ids.collect();
    for chunk in ids.chunks(2000) {
        let mut batch = Batch::new();
        for &id in chunk {
            batch.upsert(id, &mixture.vector(dice));
        }
        space.apply(&batch).unwrap();
    }
}

fn settle(space: &Space) {
    while space.maintain(Duration::from_secs(3600)).unwrap() {}
}

fn recall(space: &Space, queries: &[Vec<f32>], params: &SearchParams<'_>) -> (f64, f64) {
    let truth = SearchParams {
        effort: Effort::Exact,
        index: Index::Exact,
        ..*params
    };
    let (mut hits, mut wanted, mut time) = (0, 0, Duration::ZERO);
    for query in queries {
        let expected = space.search(query, &truth).unwrap();
        let start = Instant::now();
        let found: Vec<Neighbor> = space.search(query, params).unwrap();
        time += start.elapsed();
        wanted += expected.len();
        hits += found
            .iter()
            .filter(|n| expected.iter().any(|e| e.id == n.id))
            .count();
    }
    (
        hits as f64 / wanted as f64,
        time.as_secs_f64() * 1e6 / queries.len() as f64,
    )
}

#[test]
#[ignore = "minutes"]
fn recall_and_memory_hold_when_every_vector_is_replaced() {
    const ROWS: u64 = 100_000;
    let dir = tempfile::tempdir().unwrap();
    let mixture = Mixture::new(384);
    let space: Arc<Space> = open(dir.path())
        .create_space("s", SpaceConfig::new(384, Measure::Cosine))
        .unwrap();
    let mut dice = 1;
    let start = Instant::now();
    insert(&space, &mixture, 0..ROWS, &mut dice);
    space.checkpoint().unwrap();
    println!("inserted {:.0}/s", ROWS as f64 / start.elapsed().as_secs_f64());
    let start = Instant::now();
    settle(&space);
    println!(
        "merged, encoded and indexed {:.0}/s",
        ROWS as f64 / start.elapsed().as_secs_f64()
    );
    let queries: Vec<Vec<f32>> = (0..200).map(|_| mixture.vector(&mut dice)).collect();
    // The beam that gives 0.96 at first, kept for the rest.
    let efs = [24, 32, 48, 64, 96, 128, 192, 256];
    let at = |ef| SearchParams::new(10).index(Index::Graph).effort(Effort::Ef(ef));
    let ef = *efs
        .iter()
        .find(|&&ef| recall(&space, &queries, &at(ef)).0 >= 0.96)
        .unwrap();
    let before = space.stats();
    println!(
        "before: ef {ef}, recall and us {:?}, {before:?}",
        recall(&space, &queries, &at(ef))
    );
    let mut order: Vec<u64> = (0..ROWS).collect();
    (1..order.len())
        .rev()
        .for_each(|i| order.swap(i, roll(&mut dice) as usize % (i + 1)));
    for (part, ids) in order.chunks(ROWS as usize / 10).enumerate() {
        insert(&space, &mixture, ids.iter().copied(), &mut dice);
        space.checkpoint().unwrap();
        settle(&space);
        let (recall, us) = recall(&space, &queries, &at(ef));
        println!(
            "{}0 % replaced: recall {recall:.4}, {us:.0} us, graph {} B",
            part + 1,
            space.stats().graph_bytes
        );
        assert!(recall >= 0.95, "{recall}");
    }
    let after = space.stats();
    println!("after: {after:?}");
    assert!(after.graph_bytes as f64 <= before.graph_bytes as f64 * 1.2);
    assert!(
        after.file_bytes as f64 <= before.file_bytes as f64 * 1.5,
        "dead rows are merged away"
    );

    let start = Instant::now();
    for ids in order[..50_000].chunks(1000) {
        space.delete(ids).unwrap();
    }
    println!("deleted {:.0}/s", 50_000.0 / start.elapsed().as_secs_f64());
    assert_eq!(space.len(), ROWS / 2);
}

/// The rows of a space as plain arrays: what a scan would read that knew each allowed row's place beforehand.
struct Arrays {
    dim: usize,
    rows: Vec<f32>,
    codes: Vec<i8>,
    factors: Vec<I8Factors>,
}

impl Arrays {
    fn of(space: &Space, rows: u64) -> Arrays {
        let dim = space.config().dim;
        let (snapshot, mut all) = (space.snapshot(), Vec::new());
        (0..rows).for_each(|id| assert!(snapshot.get(id, &mut all).unwrap()));
        let mut codes = vec![0; all.len()];
        let pairs = all.chunks_exact(dim).zip(codes.chunks_exact_mut(dim));
        let factors = pairs.map(|(row, code)| I8Factors::encode(row, code)).collect();
        Arrays {
            dim,
            rows: all,
            codes,
            factors,
        }
    }

    /// Microseconds of a scan of these rows: exact distances, and byte codes with 20 of them measured exactly.
    fn scan_us(&self, queries: &[Vec<f32>], measure: Measure, allowed: &RoaringBitmap) -> (f64, f64) {
        let rows = SliceRows::new(self.dim, RowSlice::F32(&self.rows));
        let codes = I8Codes::new(self.dim, &self.codes, &self.factors);
        let allowed = Allowed::Bitmap(allowed);
        (
            best_us(queries, |q| drop(exact(q, measure, &rows, allowed, 10))),
            best_us(queries, |q| {
                drop(i8_rerank(q, measure, codes, &rows, allowed, 10, 20))
            }),
        )
    }
}

/// Microseconds of a search: the best of five passes, because other work on the machine only slows.
fn best_us(queries: &[Vec<f32>], search: impl Fn(&[f32])) -> f64 {
    let pass = || {
        let start = Instant::now();
        queries.iter().for_each(|query| search(query));
        start.elapsed().as_secs_f64() * 1e6 / queries.len() as f64
    };
    (0..7).map(|_| pass()).fold(f64::INFINITY, f64::min)
}

/// Sets of ids from half of all to one in 10,000, beside scans of the same rows in plain arrays.
fn filtered(space: &Space, rows: u64, queries: &[Vec<f32>]) {
    let arrays = Arrays::of(space, rows);
    for share in [2, 10, 100, 1000, 10_000] {
        let scattered = |id: &u64| id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let ids = (0..rows).filter(|id| scattered(id) < (1 << 32) / share);
        let set: RoaringTreemap = ids.collect();
        let params = SearchParams::new(10).filter(Filter::Ids(&set));
        let found = recall(space, queries, &params).0;
        let us = best_us(queries, |q| drop(space.search(q, &params).unwrap()));
        let exact = params.index(Index::Exact);
        let named_us = best_us(queries, |q| drop(space.search(q, &exact).unwrap()));
        let allowed: RoaringBitmap = set.iter().map(|id| id as u32).collect();
        let (exact_us, bytes_us) = arrays.scan_us(queries, space.config().measure, &allowed);
        let range = 1000..1000 + rows / share;
        let ranges = SearchParams::new(10).filter(Filter::Ranges(std::slice::from_ref(&range)));
        let range_recall = recall(space, queries, &ranges).0;
        let range_us = best_us(queries, |q| drop(space.search(q, &ranges).unwrap()));
        println!(
            "1/{share}: {} ids: recall {found:.4}, {us:.1} us; exact scan {named_us:.1}; the allowed in arrays: exact {exact_us:.1}, bytes {bytes_us:.1}; range: {range_recall:.4}, {range_us:.1} us",
            set.len()
        );
        assert!(found >= 0.95 && range_recall >= 0.95);
    }
}

#[test]
#[ignore = "minutes"]
fn a_filter_of_any_width_keeps_recall() {
    const ROWS: u64 = 100_000;
    let dir = tempfile::tempdir().unwrap();
    let mixture = Mixture::new(256);
    let space = open(dir.path())
        .create_space("s", SpaceConfig::new(256, Measure::Cosine))
        .unwrap();
    let mut dice = 1;
    insert(&space, &mixture, 0..ROWS, &mut dice);
    space.checkpoint().unwrap();
    settle(&space);
    let queries: Vec<Vec<f32>> = (0..100).map(|_| mixture.vector(&mut dice)).collect();
    let all = recall(&space, &queries, &SearchParams::new(10));
    println!("no filter: recall {:.4}, {:.0} us", all.0, all.1);
    println!("settled: {:?}", space.stats());
    filtered(&space, ROWS, &queries);
    // Replaced rows lie scattered in two further files and in memory.
    for (first, step) in [(0, 7), (1, 11), (2, 40)] {
        insert(&space, &mixture, (first..ROWS).step_by(step), &mut dice);
        if step < 40 {
            space.checkpoint().unwrap();
        }
    }
    println!("in several segments: {:?}", space.stats());
    filtered(&space, ROWS, &queries);
}

#[test]
#[ignore = "minutes"]
fn rows_that_wait_in_memory_cost_little() {
    const ROWS: u64 = 100_000;
    let dir = tempfile::tempdir().unwrap();
    let mixture = Mixture::new(384);
    let space = open(dir.path())
        .create_space("s", SpaceConfig::new(384, Measure::Cosine))
        .unwrap();
    let mut dice = 1;
    insert(&space, &mixture, 0..ROWS, &mut dice);
    space.checkpoint().unwrap();
    settle(&space);
    let queries: Vec<Vec<f32>> = (0..200).map(|_| mixture.vector(&mut dice)).collect();
    let params = SearchParams::new(10).effort(Effort::Ef(24));
    let mut waiting = 0;
    for more in [0, 1000, 1000, 2000, 4000] {
        insert(&space, &mixture, ROWS + waiting..ROWS + waiting + more, &mut dice);
        waiting += more;
        let found = recall(&space, &queries[..20], &params).0;
        let us = best_us(&queries, |q| drop(space.search(q, &params).unwrap()));
        println!("{waiting} rows in memory: recall {found:.4}, {us:.1} us");
        assert!(found >= 0.95);
    }
}

#[test]
#[ignore = "minutes"]
fn a_million_vectors_are_searched_before_their_graph_is_read() {
    const ROWS: u64 = 1_000_000;
    let dir = tempfile::tempdir().unwrap();
    let mixture = Mixture::new(128);
    {
        let space = open(dir.path())
            .create_space("s", SpaceConfig::new(128, Measure::L2))
            .unwrap();
        let start = Instant::now();
        let mut dice = 1;
        for part in 0..20 {
            insert(
                &space,
                &mixture,
                part * ROWS / 20..(part + 1) * ROWS / 20,
                &mut dice,
            );
            settle(&space);
        }
        space.checkpoint().unwrap();
        settle(&space);
        println!(
            "built 1M in {:.1} s: {:?}",
            start.elapsed().as_secs_f64(),
            space.stats()
        );
    }
    let query = mixture.vector(&mut 77);
    for _ in 0..3 {
        let start = Instant::now();
        let space = open(dir.path()).space("s").unwrap();
        let opened = start.elapsed();
        let first = space.search(&query, &SearchParams::new(10)).unwrap();
        let answered = start.elapsed();
        let start = Instant::now();
        assert_eq!(space.search(&query, &SearchParams::new(10)).unwrap(), first);
        println!(
            "opened {opened:?}, first answer {answered:?}, next {:?}",
            start.elapsed()
        );
        assert_eq!(first.len(), 10);
        let start = Instant::now();
        settle(&space);
        println!("graph back after {:?}", start.elapsed());
        let queries: Vec<Vec<f32>> = (0..50).map(|i| mixture.vector(&mut (i + 500))).collect();
        println!(
            "recall and us with the graph: {:?}",
            recall(&space, &queries, &SearchParams::new(10))
        );
        assert!(space.findings().is_empty());
    }
}
