//! The benchmark: parts that measure, and one report, one advice and one gate over what they measured.
//!
//! A part gives [`Metric`]s and knows nothing of the others. Everything after it is a pure function of the
//! [`Measurements`]: the report ([`report`]), the findings ([`advice`]) and the comparison with an
//! earlier run ([`gate`]). So nothing can be said that was not measured, and each rule has a test without a mount.
//!
//! Absolute figures say more about the machine than about the program. So the limits of the machine are measured in
//! the same run ([`machine`]), each metric states its ratio to the limit or to the native operation, and the gate
//! compares ratios.

pub mod advice;
pub mod charts;
pub mod crosslayer;
mod daemon;
pub mod dimensions;
pub mod freshness;
mod fs;
pub mod gate;
pub mod machine;
pub mod metric;
mod mount;
pub mod pool;
pub mod quality;
mod quantiles;
pub mod relations;
pub mod report;
pub mod resources;
pub mod sample;
pub mod semantic;
mod settings;
pub mod simd;
mod stack;
pub mod targets;
pub mod vectors;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use parking_lot::Mutex;

use self::metric::{Measured, Measurements, Metric, PartReport};
use self::resources::Resources;
pub use self::settings::Settings;

/// The result of a part; the error says why it measured nothing.
pub type Result<T, E = anyhow::Error> = std::result::Result<T, E>;

/// One part of the benchmark.
#[derive(Clone, Copy)]
pub struct Part {
    /// Its name, which `--only` takes and its metrics begin with.
    pub name: &'static str,
    /// What it measures, in a few words.
    pub about: &'static str,
    /// Measures.
    pub measure: fn(&Run) -> Result<Measured>,
}

/// Metadata operations that a daemon answers, per second.
pub const FUSE_OPS: &str = "fs.daemon_ops";
/// Metadata operations that the kernel answers from what it was told, per second.
pub const CACHED_OPS: &str = "fs.cached_ops";
/// The reference that is the same operation without VexFS.
pub const NATIVE: &str = "native";
/// Nearest-neighbour searches per second.
pub const VECTOR_OPS: &str = "vectors.search_ops";
/// Hybrid searches per second.
pub const SEMANTIC_OPS: &str = "semantic.hybrid_ops";
/// The most stack that a filesystem operation uses, in bytes.
pub const STACK: &str = "stack.fuse_max";

/// All parts, in the order in which they run. The machine comes first: the others relate to it.
pub const PARTS: [Part; 12] = [
    Part {
        name: "machine",
        about: "limits of the machine",
        measure: machine::measure,
    },
    Part {
        name: "fs",
        about: "filesystem beside the bare directory and its peers",
        measure: fs::measure,
    },
    Part {
        name: "costs",
        about: "requests and system calls of each operation",
        measure: fs::costs::measure,
    },
    Part {
        name: "memory",
        about: "memory of the daemon with many files known",
        measure: fs::memory::measure,
    },
    Part {
        name: "stack",
        about: "stack of each operation",
        measure: stack::measure,
    },
    Part {
        name: "simd",
        about: "distance kernels",
        measure: simd::measure,
    },
    Part {
        name: "pool",
        about: "buffer pool",
        measure: pool::measure,
    },
    Part {
        name: "vectors",
        about: "nearest-neighbour search by dimension",
        measure: dimensions::measure,
    },
    Part {
        name: "semantic",
        about: "indexing and hybrid search",
        measure: semantic::measure,
    },
    Part {
        name: "freshness",
        about: "from a write to an answer",
        measure: freshness::measure,
    },
    Part {
        name: "relations",
        about: "relations between files, told and followed",
        measure: relations::measure,
    },
    Part {
        name: "crosslayer",
        about: "transactions over files and vectors",
        measure: crosslayer::measure,
    },
];

/// This machine cannot run a part: no FUSE, no such device. Reported as skipped, with the reason, not as a failure.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unavailable(pub String);

/// What a part gets to work with.
pub struct Run {
    /// Short measurements: the whole of all parts within a minute.
    pub quick: bool,
    /// A directory for files, on the filesystem to be measured; emptied afterwards.
    pub work: PathBuf,
    /// Shows what is going on; [`ProgressBar::set_message`].
    pub progress: ProgressBar,
    /// What was measured before: the limits of the machine, for ratios.
    pub so_far: Vec<Metric>,
    /// How the run was asked for.
    pub settings: Settings,
    daemons: Mutex<Resources>,
}

impl Run {
    /// A run in the directory `work`.
    pub fn new(settings: Settings, work: PathBuf) -> Run {
        Run {
            quick: settings.quick,
            settings,
            work,
            progress: ProgressBar::hidden(),
            so_far: Vec::new(),
            daemons: Mutex::default(),
        }
    }

    /// How long one measurement may take: 0.15 s in a quick run, 1 s in a full one.
    pub fn budget(&self) -> Duration {
        Duration::from_millis(if self.quick { 150 } else { 1000 })
    }

    /// What an earlier part measured.
    pub fn earlier(&self, name: &str) -> Option<f64> {
        self.so_far.iter().find(|m| m.name == name).map(|m| m.value)
    }

    /// Adds what a daemon of this part has used.
    pub fn note_daemon(&self, used: Resources) {
        let mut daemons = self.daemons.lock();
        *daemons = daemons.plus(&used);
    }
}

/// The command `vexfs bench`: what `performance_benchmark` does with these words.
pub fn command(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let words: Vec<OsString> = std::iter::once("vexfs bench".into()).chain(words).collect();
    let plain: Vec<String> = words
        .iter()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    if vectors::reads(&plain) {
        return vectors::run(&words);
    }
    run(words)
}

/// Runs the benchmark as the command line says and gives the exit code: 0; 1 when it is slower than the
/// baseline; 2 for wrong usage, or when a part failed.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let settings = match Settings::try_parse_from(args) {
        Ok(settings) => settings,
        Err(error) => {
            let code = if error.use_stderr() { 2 } else { 0 };
            // A closed pipe: whoever asked for help has seen enough.
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    if settings.parts == ["quality"] {
        let through = if settings.in_memory {
            quality::Through::Memory
        } else {
            quality::Through::Mount
        };
        return quality::command(settings.corpus.as_deref(), through, settings.json, &bar(1));
    }
    match all(&settings) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("performance_benchmark: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn all(settings: &Settings) -> Result<ExitCode> {
    let baseline = settings.baseline.as_deref().map(gate::read).transpose()?;
    let measurements = measure(&settings.chosen(), settings)?;
    let report = report::Report::of(measurements, baseline.as_ref());
    let written = report.write(&settings.output)?;
    if settings.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", report.summary());
        println!("\nreport: {}", written.display());
    }
    let failed = report.measurements.parts.iter().any(|part| part.failed.is_some());
    Ok(match report.regressions.is_empty() {
        _ if failed => ExitCode::from(2),
        true => ExitCode::SUCCESS,
        false => ExitCode::from(1),
    })
}

/// Runs some parts, one after another.
///
/// # Errors
/// When the work directory cannot be made. A part that fails is in the result, with the reason.
pub fn measure(parts: &[Part], settings: &Settings) -> Result<Measurements> {
    let parent = settings.backing.clone().unwrap_or_else(std::env::temp_dir);
    let work = tempfile::Builder::new()
        .prefix("vexfs-bench-")
        .tempdir_in(&parent)
        .with_context(|| format!("a directory to work in, in {}", parent.display()))?;
    let started = SystemTime::now();
    let begin = Instant::now();
    let mut run = Run::new(settings.clone(), work.path().to_owned());
    if !settings.json && !settings.silent {
        run.progress = bar(parts.len());
    }
    let mut reports = Vec::new();
    for part in parts {
        run.progress.set_prefix(part.about);
        run.progress.set_message("");
        let report = measure_one(part, &run);
        run.so_far.extend(report.metrics.iter().cloned());
        run.progress.println(format!(
            "{:<10} {:>5.1} s  {}",
            part.name,
            report.seconds,
            report.outcome()
        ));
        run.progress.inc(1);
        reports.push(report);
    }
    run.progress.finish_and_clear();
    Ok(Measurements {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        quick: settings.quick,
        started_unix: started
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |d| d.as_secs()),
        seconds: begin.elapsed().as_secs_f64(),
        machine: machine::describe(work.path()),
        parts: reports,
    })
}

fn measure_one(part: &Part, run: &Run) -> PartReport {
    let (begin, before) = (Instant::now(), Resources::of_self());
    *run.daemons.lock() = Resources::default();
    let outcome = (part.measure)(run);
    let (measured, skipped, failed) = match outcome {
        Ok(measured) => (measured, None, None),
        Err(error) if error.is::<Unavailable>() => (Measured::default(), Some(error.to_string()), None),
        Err(error) => (Measured::default(), None, Some(format!("{error:#}"))),
    };
    let Measured {
        metrics,
        conditions,
        tables,
        raw,
    } = measured;
    PartReport {
        name: part.name.to_owned(),
        about: part.about.to_owned(),
        seconds: begin.elapsed().as_secs_f64(),
        metrics,
        conditions,
        tables,
        raw,
        skipped,
        failed,
        client: Resources::of_self().since(&before),
        daemon: *run.daemons.lock(),
    }
}

fn bar(parts: usize) -> ProgressBar {
    let bar = ProgressBar::new(parts as u64);
    let style = ProgressStyle::with_template("{spinner} [{pos}/{len}] {elapsed} {prefix}: {msg}");
    bar.set_style(style.expect("a fixed template"));
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}
