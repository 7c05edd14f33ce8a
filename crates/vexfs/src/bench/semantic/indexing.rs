//! How fast files become searchable.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::texts::Texts;
use crate::bench::Run;
use crate::bench::daemon::Daemon;
use crate::bench::metric::Metric;
use crate::bench::sample::Latencies;

/// The index must have everything within this time.
const INDEXED_WITHIN: Duration = Duration::from_secs(600);
/// How long the index is left alone before a file is written, so that each is written to an idle one.
const PAUSE: Duration = Duration::from_millis(100);

/// Bytes and files a second from the mount to the moment when nothing is pending: read, cut, hash, embed, both
/// indexes, commit. Each tree is mounted anew.
pub(super) fn bulk(run: &Run) -> Result<Vec<Metric>> {
    let texts = Texts::new();
    let mut metrics = Vec::new();
    let sizes = if run.quick {
        [(15, 100_000, "bytes"), (400, 2_000, "files")]
    } else {
        [(800, 100_000, "bytes"), (20_000, 2_000, "files")]
    };
    for (files, bytes, what) in sizes {
        let dir = tempfile::tempdir_in(&run.work)?;
        let written = texts.plant(dir.path(), files, bytes)?;
        run.progress.set_message(format!("indexing {files} files"));
        let (seconds, passages) = index(dir.path(), files)?;
        let workload = format!(
            "{files} generated text files of {bytes} bytes, {passages} passages, mounted for the first time: until \
             nothing is pending"
        );
        let metric = match what {
            "bytes" => Metric::higher("semantic.bulk_bytes", "MB/s", written as f64 / 1e6 / seconds, 0.0),
            _ => Metric::higher("semantic.bulk_files", "ops/s", files as f64 / seconds, 0.0),
        };
        metrics.push(metric.workload(workload));
    }
    Ok(metrics)
}

/// The same for the text files of a directory, which is only read.
pub(super) fn corpus(run: &Run, dir: &Path) -> Result<Metric> {
    let copy = tempfile::tempdir_in(&run.work)?;
    let (mut files, mut bytes) = (0, 0);
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(entry.path());
            }
            let Some(content) = kind.is_file().then(|| plain_text(&entry.path())).flatten() else {
                continue;
            };
            let folder = copy.path().join(format!("part{:04}", files / 500));
            std::fs::create_dir_all(&folder)?;
            std::fs::write(folder.join(format!("{files:06}.txt")), &content)?;
            files += 1;
            bytes += content.len();
        }
    }
    ensure!(files > 0, "{}: no text files", dir.display());
    run.progress
        .set_message(format!("indexing {files} files of {}", dir.display()));
    let (seconds, passages) = index(copy.path(), files)?;
    let workload = format!("{files} text files of {}, {passages} passages", dir.display());
    Ok(Metric::higher("semantic.corpus_bytes", "MB/s", bytes as f64 / 1e6 / seconds, 0.0).workload(workload))
}

/// The content of a file of plain text: what needs a parser would measure the parser.
fn plain_text(path: &Path) -> Option<String> {
    let text = String::from_utf8(std::fs::read(path).ok()?).ok()?;
    (!text.is_empty() && !text.contains('\0')).then_some(text)
}

/// Seconds from the mount until nothing is pending, and the passages there are then.
fn index(source: &Path, files: usize) -> Result<(f64, u64)> {
    let begin = Instant::now();
    let daemon = Daemon::mount(source)?;
    let status = daemon.wait(files as u64, INDEXED_WITHIN, &mut |_| {})?;
    Ok((
        begin.elapsed().as_secs_f64(),
        status["passages"].as_u64().unwrap_or(0),
    ))
}

/// How long after close(2) a file that was written through the mount is found by a word of its own.
pub(super) fn freshness(run: &Run, daemon: &Daemon) -> Result<Metric> {
    run.progress.set_message("close to searchable");
    let texts = Texts::new();
    let mut latencies = Latencies::default();
    let rounds = if run.quick { 10 } else { 200 };
    for round in 0..rounds {
        std::thread::sleep(PAUSE);
        let word = format!("fresh{round}word");
        let text = texts.text(1 << 32 | round, 2_000) + &word;
        std::fs::write(daemon.at().join(format!("fresh{}.md", round % 20)), text)?;
        let closed = Instant::now();
        let body = json!({ "path": "", "options": "@mode=text", "query": word });
        loop {
            let answer = daemon
                .client()
                .post("/v1/search", &body)
                .map_err(|e| anyhow::anyhow!("{}", e.message))?;
            if answer["hits"].as_array().is_some_and(|hits| !hits.is_empty()) {
                break;
            }
            ensure!(closed.elapsed() < INDEXED_WITHIN, "{word} is not found");
            std::thread::sleep(Duration::from_millis(1));
        }
        latencies.add(closed.elapsed());
    }
    let (p50, noise) = latencies.p50_us();
    Ok(Metric::lower("semantic.close_to_searchable", "us", p50, noise)
        .latency(latencies.summary())
        .workload(format!(
            "{rounds} files of 2 kB written through the mount, 100 ms apart, each asked for by a word of its own until \
             it is found"
        )))
}
