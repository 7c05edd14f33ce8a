//! Search by meaning and by word: how fast files are indexed, how soon they are found, how fast questions are answered.

mod indexing;
mod queries;
mod texts;

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::ensure;
use vexfs_core::fs::ops::Caller;
use vexfs_core::query::options::{Mode, Options};
use vexfs_core::query::search::{Fresh, Request, What};

use super::metric::{Measured, Metric};
use super::sample::Latencies;
use super::{Result, Run, SEMANTIC_OPS, mount};
use crate::service::Unmounted;

/// Files of the tree take about so many bytes.
const FILE_BYTES: usize = 2_000;
/// The index must have everything within this time.
const INDEXED_WITHIN: Duration = Duration::from_secs(120);

/// Words of the texts; which stand together in a file depends on its topic.
const TOPICS: [&str; 8] = [
    "refund payment invoice card customer charge billing account order receipt",
    "kernel scheduler interrupt thread process memory page driver module syscall",
    "garden soil seed water plant leaf root flower compost harvest",
    "violin concert melody orchestra rhythm chord singer stage opera quartet",
    "glacier mountain summit climb rope weather snow ridge valley camp",
    "protein enzyme cell membrane receptor genome sequence bacteria antibody tissue",
    "contract clause court evidence judge verdict appeal witness statute ruling",
    "dough oven flour yeast butter sugar recipe bread crust knead",
];

const QUERIES: [&str; 8] = [
    "how do refunds to a card work",
    "thread scheduling in the kernel",
    "when to water seeds",
    "concert of a string quartet",
    "climbing a mountain in snow",
    "antibodies that bind a receptor",
    "appeal against a verdict",
    "how long to knead bread dough",
];

/// Indexes and asks.
pub fn measure(run: &Run) -> Result<Measured> {
    let mut measured = Measured::from(over_files(run, if run.quick { 400 } else { 5_000 })?);
    match mount::available() {
        Ok(()) => {
            measured.metrics.extend(indexing::bulk(run)?);
            if let Some(dir) = &run.settings.corpus {
                measured.metrics.push(indexing::corpus(run, dir)?);
            }
        }
        Err(why) => measured.conditions.push(format!(
            "{why}: only the library is measured, not the socket, the virtual directories and indexing behind a mount"
        )),
    }
    let sizes = match (&run.settings.passages[..], run.quick) {
        ([], true) => &[1_000][..],
        ([], false) => &[1_000, 10_000, 100_000],
        (sizes, _) => sizes,
    };
    let asked = queries::measure(run, sizes)?;
    measured.metrics.extend(asked.metrics);
    measured.tables.extend(asked.tables);
    Ok(measured)
}

/// Rates of indexing and of queries over `files` files.
pub(crate) fn over_files(run: &Run, files: usize) -> Result<Vec<Metric>> {
    let dir = tempfile::tempdir_in(&run.work)?;
    let bytes = plant(dir.path(), files)?;
    run.progress.set_message(format!("indexing {files} files"));
    let begin = Instant::now();
    let opened = Unmounted::open(dir.path()).map_err(|failure| anyhow::anyhow!("{failure:?}"))?;
    let knowledge = opened.knowledge();
    ensure!(
        knowledge.wait_idle(INDEXED_WITHIN),
        "not indexed within {INDEXED_WITHIN:?}"
    );
    let seconds = begin.elapsed().as_secs_f64();
    let passages = knowledge.status().passages;

    let caller = Caller {
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        pid: std::process::id(),
    };
    let mut metrics = vec![
        Metric::higher("semantic.index_files", "ops/s", files as f64 / seconds, 0.0).workload(format!(
            "{files} text files of about 2 kB, first scan: read, cut, embed, both indexes, commit"
        )),
        Metric::higher("semantic.index_bytes", "MB/s", bytes as f64 / 1e6 / seconds, 0.0)
            .workload(format!("{files} text files of about 2 kB, first scan")),
    ];
    for (name, mode) in [
        (SEMANTIC_OPS, Mode::Hybrid),
        ("semantic.vector_ops", Mode::Vec),
        ("semantic.text_ops", Mode::Text),
    ] {
        run.progress.set_message(name);
        let options = Options {
            mode,
            ..Options::default()
        };
        // Each question is a new one: an answer that is remembered is no search.
        let mut questions = (0..).map(|i| {
            let about = QUERIES[i % QUERIES.len()];
            let topic: Vec<&str> = TOPICS[i / 7 % TOPICS.len()].split(' ').collect();
            format!("{about} {} {i}", topic[i / 11 % topic.len()])
        });
        let mut empty = 0;
        let latencies = Latencies::repeat(run.budget() * 2, || -> vexfs_core::Result<()> {
            let question = questions.next().unwrap_or_default();
            let answer = knowledge.search(&Request {
                caller: &caller,
                scope: None,
                what: What::Text(&question),
                options: &options,
                fresh: Fresh::default(),
            })?;
            empty += usize::from(answer.hits.is_empty());
            Ok(())
        })?;
        ensure!(empty == 0, "{empty} queries found nothing");
        let (p50, noise) = latencies.p50_us();
        metrics.push(
            Metric::higher(name, "ops/s", 1e6 / p50, noise)
                .latency(latencies.summary())
                .workload(format!(
                    "{passages} passages of {files} files, 10 hits, through the library, one thread"
                )),
        );
    }
    Ok(metrics)
}

/// Makes the files, each mostly of one topic, and says how many bytes they have.
fn plant(dir: &Path, files: usize) -> Result<usize> {
    let mut bytes = 0;
    for file in 0..files {
        let topic: Vec<&str> = TOPICS[file % TOPICS.len()].split(' ').collect();
        let mut text = format!(
            "# Note {file} on {}\n\n",
            topic[file / TOPICS.len() % topic.len()]
        );
        let mut at = file;
        while text.len() < FILE_BYTES {
            // Steps that are coprime to the number of words, so that texts of a topic differ.
            at += 3 + 4 * (file % 5);
            let end = if at % 11 == 0 { ".\n" } else { " " };
            let _ = write!(text, "{}{end}", topic[at % topic.len()]);
        }
        bytes += text.len();
        std::fs::write(dir.join(format!("note{file:05}.md")), text)?;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_tree_is_indexed_and_asked() {
        let dir = tempfile::tempdir().unwrap();
        let run = Run::new(crate::bench::Settings::quick(), dir.path().to_owned());
        let metrics = over_files(&run, 40).unwrap();
        for name in [SEMANTIC_OPS, "semantic.text_ops", "semantic.index_files"] {
            assert!(metrics.iter().any(|m| m.name == name && m.value > 1.0), "{name}");
        }
    }
}
