//! How fast questions are answered, by number of passages and by the way in. Each question is new: nothing is answered
//! from memory.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use vexfs_core::fs::ops::Caller;
use vexfs_core::knowledge::Knowledge;
use vexfs_core::query::options::{Mode, Options};
use vexfs_core::query::search::{Fresh, Request, What};

use super::indexing;
use super::texts::{Numbers, Texts};
use crate::bench::daemon::Daemon;
use crate::bench::metric::{Measured, Metric, Table};
use crate::bench::sample::Latencies;
use crate::bench::{Run, mount};
use crate::service::Unmounted;

/// Bytes of a file; it has about eleven passages.
const FILE_BYTES: usize = 6_000;
/// About so many bytes of these texts are a passage.
const PASSAGE_BYTES: usize = 560;
/// The index must have everything within this time.
const INDEXED_WITHIN: Duration = Duration::from_secs(3600);

/// Latencies and rates for trees of these numbers of passages.
pub(super) fn measure(run: &Run, sizes: &[usize]) -> Result<Measured> {
    let mut measured = Measured::default();
    let mut rows = Vec::new();
    for &size in sizes {
        let dir = tempfile::tempdir_in(&run.work)?;
        let texts = Texts::new();
        let files = (size * PASSAGE_BYTES).div_ceil(FILE_BYTES).max(1);
        texts.plant(dir.path(), files, FILE_BYTES)?;
        run.progress.set_message(format!("indexing {size} passages"));
        let mut metrics = match mount::available() {
            Ok(()) => through_a_mount(run, dir.path(), &texts, size, files)?,
            Err(_) => Vec::new(),
        };
        metrics.extend(through_the_library(run, dir.path(), &texts, size)?);
        for metric in &metrics {
            let latency = metric
                .latency
                .map(|l| format!("{:.2} / {:.2}", l.p50_us / 1e3, l.p99_us / 1e3));
            rows.push((
                metric.name.clone(),
                vec![
                    latency.unwrap_or_default(),
                    format!("{:.0} {}", metric.value, metric.unit),
                ],
            ));
        }
        measured.metrics.extend(metrics);
    }
    measured.tables.push(Table {
        title: "Questions, each a new one".into(),
        columns: vec!["p50 / p99, ms".into(), "value".into()],
        rows,
    });
    Ok(measured)
}

/// Indexes the tree, then asks the socket and lists directories of results.
fn through_a_mount(
    run: &Run,
    source: &Path,
    texts: &Texts,
    size: usize,
    files: usize,
) -> Result<Vec<Metric>> {
    let begin = Instant::now();
    let daemon = Daemon::mount(source)?;
    let status = daemon.wait(files as u64, INDEXED_WITHIN, &mut |_| {})?;
    let passages = status["passages"].as_u64().unwrap_or(0);
    let indexed = begin.elapsed();
    daemon.wait_quiet(run.quick, INDEXED_WITHIN)?;
    let size_of = sizes(&daemon, source, passages, size)?;
    let quiet = begin.elapsed();
    let mut numbers = Numbers(1);
    run.progress
        .set_message(format!("asking {passages} passages by the socket"));
    let socket = Latencies::repeat(run.budget() * 3, || {
        let body = json!({ "path": "", "query": texts.question(&mut numbers) });
        let answer = daemon.client().post("/v1/search", &body);
        answer.map(drop).map_err(|e| anyhow::anyhow!("{}", e.message))
    })?;
    run.progress
        .set_message(format!("listing results of {passages} passages"));
    let mut found = 0;
    let listed = Latencies::repeat(run.budget() * 3, || -> Result<()> {
        let question = texts.question(&mut numbers);
        let path = daemon.at().join(".vexfs/search").join(&question);
        found += std::fs::read_dir(&path).context(question)?.count();
        Ok(())
    })?;
    ensure!(found > listed.count(), "no results were listed");
    let name = |what: &str| format!("semantic.{what}.{}", short(size));
    let workload = format!("{passages} passages of {files} files, hybrid, 10 hits, one client");
    let mut metrics = size_of;
    metrics.push(
        Metric::lower(name("indexed"), "s", indexed.as_secs_f64(), 0.0).workload(format!(
            "{passages} passages of {files} files, mounted until all is found; {:.0} s until the daemon rests",
            quiet.as_secs_f64()
        )),
    );
    metrics.extend([
        latency(name("socket"), &socket).workload(format!("{workload}, by the socket, a connection each")),
        latency(name("ls"), &listed).workload(format!(
            "{workload}, opendir and readdir of .vexfs/search/QUESTION"
        )),
    ]);
    if size == 1_000 || run.quick {
        metrics.push(indexing::freshness(run, &daemon)?);
    }
    Ok(metrics)
}

/// What a passage costs in memory and on disk, everything in the store and all of the daemon's own memory counted.
fn sizes(daemon: &Daemon, source: &Path, passages: u64, size: usize) -> Result<Vec<Metric>> {
    let pid = daemon.pid()?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kilobytes = |field: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(field))?;
        line.trim_matches([':', ' ', '\t', 'k', 'B']).parse().ok()
    };
    let own = kilobytes("RssAnon").context("RssAnon in /proc")? << 10;
    let mapped = kilobytes("RssFile").context("RssFile in /proc")? << 10;
    let disk = disk_bytes(&source.join(".vexfs"))?;
    let each = |bytes: u64| bytes as f64 / passages.max(1) as f64;
    let name = |what: &str| format!("semantic.{what}.{}", short(size));
    let of = |what: &str, bytes: u64| format!("{what}: {} MiB for {passages} passages", bytes >> 20);
    Ok(vec![
        Metric::lower(name("memory"), "B", each(own), 0.0).workload(format!(
            "{}, {} MiB of mapped files besides",
            of("the daemon's own memory a passage", own),
            mapped >> 20
        )),
        Metric::lower(name("disk"), "B", each(disk), 0.0).workload(of("the store's blocks a passage", disk)),
    ])
}

/// Bytes of the blocks of all files below a directory.
fn disk_bytes(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let entry = entry?;
        // What is merged away meanwhile takes no place.
        let Ok(meta) = entry.metadata() else { continue };
        bytes += match meta.is_dir() {
            true => disk_bytes(&entry.path())?,
            false => meta.blocks() * 512,
        };
    }
    Ok(bytes)
}

/// Opens the same store in this process and asks it.
fn through_the_library(run: &Run, source: &Path, texts: &Texts, size: usize) -> Result<Vec<Metric>> {
    let opened = Unmounted::open(source).map_err(|failure| anyhow::anyhow!("{failure:?}"))?;
    let knowledge = opened.knowledge();
    ensure!(
        knowledge.wait_idle(INDEXED_WITHIN),
        "not indexed within {INDEXED_WITHIN:?}"
    );
    let passages = knowledge.status().passages;
    let mut metrics = Vec::new();
    for (what, mode) in [
        ("hybrid", Mode::Hybrid),
        ("vector", Mode::Vec),
        ("text", Mode::Text),
    ] {
        run.progress
            .set_message(format!("{what} questions to {passages} passages"));
        let mut numbers = Numbers(2);
        let latencies = Latencies::repeat(run.budget() * 3, || {
            ask(knowledge, &texts.question(&mut numbers), mode).map(drop)
        })?;
        metrics.push(
            latency(format!("semantic.{what}.{}", short(size)), &latencies).workload(format!(
                "{passages} passages, 10 hits, through the library, one thread"
            )),
        );
    }
    let rate = two_threads(knowledge, texts, run.budget() * 3)?;
    metrics.push(
        Metric::higher(
            format!("semantic.hybrid_rate.{}", short(size)),
            "ops/s",
            rate,
            0.0,
        )
        .workload(format!(
            "{passages} passages, 10 hits, through the library, two threads"
        )),
    );
    Ok(metrics)
}

/// Hybrid questions a second of two threads.
fn two_threads(knowledge: &Knowledge, texts: &Texts, budget: Duration) -> Result<f64> {
    let asked = AtomicU64::new(0);
    let begin = Instant::now();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2)
            .map(|thread| {
                let asked = &asked;
                scope.spawn(move || -> Result<()> {
                    let mut numbers = Numbers(3 + thread);
                    while begin.elapsed() < budget {
                        ask(knowledge, &texts.question(&mut numbers), Mode::Hybrid)?;
                        asked.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(())
                })
            })
            .collect();
        threads.into_iter().try_for_each(|thread| {
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })?;
    Ok(asked.into_inner() as f64 / begin.elapsed().as_secs_f64())
}

/// Asks, and says how many hits there were.
fn ask(knowledge: &Knowledge, question: &str, mode: Mode) -> Result<usize> {
    let caller = Caller {
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        pid: std::process::id(),
    };
    let options = Options {
        mode,
        ..Options::default()
    };
    let answer = knowledge.search(&Request {
        caller: &caller,
        scope: None,
        what: What::Text(question),
        options: &options,
        fresh: Fresh::default(),
    })?;
    Ok(answer.hits.len())
}

fn latency(name: String, latencies: &Latencies) -> Metric {
    let (p50, noise) = latencies.p50_us();
    Metric::lower(name, "us", p50, noise).latency(latencies.summary())
}

/// 1k, 100k, 1M.
fn short(size: usize) -> String {
    match size {
        _ if size.is_multiple_of(1_000_000) => format!("{}M", size / 1_000_000),
        _ if size.is_multiple_of(1_000) => format!("{}k", size / 1_000),
        _ => size.to_string(),
    }
}
