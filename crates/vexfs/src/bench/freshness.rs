//! Between the layers, through a real mount: how soon what was written can be found, what a told vector costs, and what
//! indexing costs those who write.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::fs::XattrFlags;
use serde_json::json;

use super::daemon::Daemon;
use super::machine::SYNC;
use super::metric::{Latency, Measured, Metric};
use super::quantiles::{Summary, Times};
use super::{Result, Run};

/// A file must be found within this time.
const FOUND_WITHIN: Duration = Duration::from_secs(30);
/// Components of the vectors that are told: those of the built-in model.
const DIMENSION: usize = 256;

/// Measures all three.
pub fn measure(run: &Run) -> Result<Measured> {
    let files = if run.quick { 15 } else { 100 };
    let source = tempfile::tempdir()?;
    let daemon = Daemon::mount(source.path())?;
    let mut metrics = vec![
        freshness(run, &daemon, files)?,
        told_vectors(run, &daemon, files)?,
    ];
    let many = if run.quick { 300 } else { 2_000 };
    run.progress.set_message("writing while files are indexed");
    let indexed = write_texts(&daemon.at().join("indexed"), many)?;
    drop(daemon);
    let source = tempfile::tempdir()?;
    let daemon = Daemon::mount_with(source.path(), "index=manual")?;
    let manual = write_texts(&daemon.at().join("plain"), many)?;
    metrics.push(
        metric("freshness.write_indexed", &indexed)
            .against("index=manual", manual.p50_us)
            .workload(format!("{many} new text files of 2 kB, indexed meanwhile")),
    );
    Ok(metrics.into())
}

/// From the return of close(2) to the first answer that has the file.
fn freshness(run: &Run, daemon: &Daemon, files: usize) -> Result<Metric> {
    let client = daemon.client();
    let mut times = Times::with_capacity(files);
    let begin = Instant::now();
    for number in 0..files {
        run.progress
            .set_message(format!("finding what was just written, {number}"));
        let word = format!("quaggalike{number:04}");
        std::fs::write(daemon.at().join(format!("{word}.md")), text(number, &word))?;
        let written = Instant::now();
        let question = json!({ "path": "", "options": "@k=1,@mode=text", "query": word });
        loop {
            let answer = client
                .post("/v1/search", &question)
                .map_err(|failure| anyhow::anyhow!("{word}: {}", failure.message))?;
            if answer["hits"].as_array().is_some_and(|hits| !hits.is_empty()) {
                break;
            }
            ensure!(
                written.elapsed() < FOUND_WITHIN,
                "{word} was not found within {FOUND_WITHIN:?}"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
        times.push(written.elapsed());
    }
    let summary = times.summary(begin.elapsed()).context("no file")?;
    Ok(on_disk(run, metric("freshness.found", &summary)).workload(format!(
        "{files} files of 2 kB, one after the other: closed, read, embedded, committed, found by a word of theirs"
    )))
}

/// A vector set as an extended attribute is durable when setxattr(2) returns.
fn told_vectors(run: &Run, daemon: &Daemon, files: usize) -> Result<Metric> {
    run.progress.set_message("telling vectors");
    let mut times = Times::with_capacity(files);
    let begin = Instant::now();
    for number in 0..files {
        let path = daemon.at().join(format!("quaggalike{number:04}.md"));
        let component = |at: usize| ((number * 31 + at * 17) % 97) as f32 - 48.0;
        let vector: Vec<u8> = (0..DIMENSION)
            .flat_map(|at| component(at).to_le_bytes())
            .collect();
        let asked = Instant::now();
        rustix::fs::setxattr(&path, "user.vexfs.vec", &vector, XattrFlags::empty())?;
        times.push(asked.elapsed());
    }
    let summary = times.summary(begin.elapsed()).context("no file")?;
    Ok(on_disk(run, metric("freshness.tell_vector", &summary))
        .workload(format!("{files} vectors of {DIMENSION} components, each durable")))
}

/// Times of making a file and writing a text into it.
fn write_texts(dir: &Path, files: usize) -> Result<Summary> {
    std::fs::create_dir(dir)?;
    let mut times = Times::with_capacity(files);
    let begin = Instant::now();
    for number in 0..files {
        let (path, text) = (dir.join(format!("{number:05}.md")), text(number, "plain"));
        let asked = Instant::now();
        std::fs::write(path, text)?;
        times.push(asked.elapsed());
    }
    times.summary(begin.elapsed()).context("no file")
}

fn text(number: usize, word: &str) -> String {
    const WORDS: [&str; 11] = [
        "glacier", "summit", "rope", "weather", "ridge", "camp", "snow", "valley", "climb", "mountain",
        "stove",
    ];
    let words = (0..300).map(|at| WORDS[(at * (number % 7 + 2) + number) % WORDS.len()]);
    let body: Vec<&str> = words.collect();
    format!("# About {word}\n\n{}.\n", body.join(" "))
}

fn metric(name: &str, summary: &Summary) -> Metric {
    Metric::lower(name, "us", summary.p50_us, 0.0).latency(Latency {
        average_us: summary.mean_us,
        p50_us: summary.p50_us,
        p99_us: summary.p99_us,
        p999_us: summary.p999_us,
    })
}

/// Beside the time of one sync of the device, if that was measured.
fn on_disk(run: &Run, metric: Metric) -> Metric {
    match run.earlier(SYNC) {
        Some(sync_us) => metric.against("one sync", sync_us),
        None => metric,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_have_their_word_and_differ() {
        assert!(text(3, "needle").contains("needle"));
        assert_ne!(text(3, "a"), text(4, "a"));
        assert!((1_500..3_500).contains(&text(5, "a").len()));
    }
}
