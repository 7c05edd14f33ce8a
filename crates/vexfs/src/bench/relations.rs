//! Relations in the store: how fast they are told, and how fast they are followed, on a graph with hubs.

use std::collections::HashSet;
use std::time::Instant;

use anyhow::ensure;
use vexfs_core::ids::FileId;
use vexfs_core::relation::walk::{Bounds, neighbours, shortest_path};
use vexfs_core::relation::{Everything, nearness};
use vexfs_core::store::Store;
use vexfs_core::store::relations::{Direction, Relation, Target};

use super::metric::{Measured, Metric};
use super::sample::Latencies;
use super::{Result, Run};

/// Relations told in one commit.
const BATCH: usize = 10_000;
/// Files that a bounded walk visits at most, as `vexfs related --depth` does.
const WALK_FILES: usize = 1_000;
/// Files that the search for a way visits at most.
const WAY_FILES: usize = 100_000;
/// Relations told one a commit.
const SINGLE: usize = 100;

/// A graph of 1,000,000 relations between 100,000 files; a quick run has a twentieth of both.
pub fn measure(run: &Run) -> Result<Measured> {
    let (files, edges) = if run.quick {
        (5_000, 50_000)
    } else {
        (100_000, 1_000_000)
    };
    Ok(Measured {
        metrics: over_graph(run, files, edges)?,
        conditions: vec![format!(
            "{edges} relations of 4 types between {files} files; the most linked file has about {} of them; commits of \
             {BATCH} relations, durable",
            (edges as f64 * (1.0 / files as f64).cbrt()) as u64
        )],
        ..Measured::default()
    })
}

fn over_graph(run: &Run, files: u64, edges: usize) -> Result<Vec<Metric>> {
    let dir = tempfile::tempdir_in(&run.work)?;
    let store = Store::open(&dir.path().join("catalog.sqlite"))?;
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let graph = graph(&mut numbers, files, edges);
    run.progress.set_message(format!("telling {edges} relations"));
    let begin = Instant::now();
    for batch in graph.chunks(BATCH) {
        store.write(|tx| batch.iter().try_for_each(|relation| tx.relate(relation)))?;
    }
    let rate = edges as f64 / begin.elapsed().as_secs_f64();
    let mut metrics = vec![
        Metric::higher("relations.insert", "ops/s", rate, 0.0).workload(format!(
            "{edges} relations in commits of {BATCH}, into an empty store"
        )),
    ];
    metrics.push(told_singly(run, &store, &mut numbers, files)?);

    let mut found = 0;
    let mut follow = |name: &str, budget: u32, workload: &str, ask: &mut dyn FnMut(FileId) -> AskResult| {
        run.progress.set_message(name.to_owned());
        let latencies = Latencies::repeat(run.budget() * budget, || -> vexfs_core::Result<()> {
            // Files are asked about as often as they are linked to.
            found += ask(numbers.end(files))?;
            Ok(())
        })?;
        let summary = latencies.summary();
        let (p50, noise) = latencies.p50_us();
        anyhow::Ok(
            Metric::lower(format!("relations.{name}"), "us", p50, noise)
                .latency(summary)
                .workload(workload),
        )
    };
    metrics.push(follow(
        "neighbours",
        2,
        "the relations of one file, both ways, at most 1,000 each",
        &mut |file| {
            let edges = store.read(|rows| rows.edges(file, None, Direction::Both, WALK_FILES))?;
            Ok(edges.len())
        },
    )?);
    metrics.push(follow(
        "outgoing",
        2,
        "the relations that lead away from one file",
        &mut |file| {
            let edges = store.read(|rows| rows.edges(file, None, Direction::Out, WALK_FILES))?;
            Ok(edges.len())
        },
    )?);
    let bounds = Bounds {
        depth: 3,
        files: WALK_FILES,
    };
    metrics.push(follow(
        "walk_depth_3",
        4,
        "three steps both ways, at most 1,000 files",
        &mut |file| {
            let walk =
                store.read(|rows| neighbours(rows, file, None, Direction::Both, bounds, &mut Everything))?;
            Ok(walk.reached.len())
        },
    )?);
    let mut other = Numbers(0x1234_5678_9abc_def1);
    metrics.push(follow(
        "shortest_path",
        4,
        "a shortest way between two files, both ways",
        &mut |file| {
            let ends = (file, FileId(1 + other.below(files)));
            let way = store
                .read(|rows| shortest_path(rows, ends, None, Direction::Both, WAY_FILES, &mut Everything))?;
            Ok(way.map_or(0, |way| way.len()))
        },
    )?);
    metrics.push(follow(
        "nearness",
        4,
        "personalised PageRank from one file, the best 10",
        &mut |file| {
            let near = store.read(|rows| nearness::related(rows, file, &[], 10, &mut Everything))?;
            Ok(near.len())
        },
    )?);
    ensure!(found > 0, "nothing was found");
    Ok(metrics)
}

type AskResult = vexfs_core::Result<usize>;

fn told_singly(run: &Run, store: &Store, numbers: &mut Numbers, files: u64) -> Result<Metric> {
    run.progress.set_message("telling one by one");
    let mut latencies = Latencies::default();
    for n in 0..SINGLE {
        let relation = relation(numbers.below(files) + 1, "single", files + 1 + n as u64);
        let begin = Instant::now();
        store.write(|tx| tx.relate(&relation))?;
        latencies.add(begin.elapsed());
    }
    let (p50, noise) = latencies.p50_us();
    Ok(Metric::lower("relations.insert_one", "us", p50, noise)
        .latency(latencies.summary())
        .workload("one relation a commit, durable"))
}

/// Relations from files of any number to files of which few are linked to often. Each is there once.
fn graph(numbers: &mut Numbers, files: u64, edges: usize) -> Vec<Relation> {
    const KINDS: [&str; 4] = ["links", "cites", "imports", "follows"];
    let mut seen = HashSet::with_capacity(edges);
    let mut graph = Vec::with_capacity(edges);
    while graph.len() < edges {
        let (from, to) = (numbers.below(files) + 1, numbers.end(files).0);
        let kind = KINDS[numbers.below(4) as usize];
        if from != to && seen.insert((from, kind, to)) {
            graph.push(relation(from, kind, to));
        }
    }
    graph
}

fn relation(from: u64, kind: &str, to: u64) -> Relation {
    Relation {
        from: FileId(from),
        kind: kind.to_owned(),
        to: Target::File(FileId(to)),
        properties: None,
        derived: false,
    }
}

/// Numbers that look random and are the same in every run (xorshift64*, Marsaglia and Vigna).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// A file, those of low numbers more often: the share of the first `n` files is the cube root of their share of
    /// all.
    fn end(&mut self, files: u64) -> FileId {
        let x = self.next() as f64 / u64::MAX as f64;
        FileId(1 + ((x * x * x * files as f64) as u64).min(files - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_graph_is_told_and_followed() {
        let dir = tempfile::tempdir().unwrap();
        let mut run = Run::new(crate::bench::Settings::quick(), dir.path().to_owned());
        run.quick = true;
        let metrics = over_graph(&run, 300, 2_000).unwrap();
        for name in [
            "insert",
            "insert_one",
            "neighbours",
            "walk_depth_3",
            "shortest_path",
            "nearness",
        ] {
            let metric = metrics.iter().find(|m| m.name == format!("relations.{name}"));
            assert!(metric.is_some_and(|m| m.value > 0.0), "{name}");
        }
    }

    #[test]
    fn few_files_have_many_of_the_relations() {
        let graph = graph(&mut Numbers(1), 1_000, 10_000);
        let hub = graph.iter().filter(|r| r.to == Target::File(FileId(1))).count();
        assert!((500..2_000).contains(&hub), "{hub}");
    }
}
