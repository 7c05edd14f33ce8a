//! The names of the specification, over what the benchmark measures.
//!
//! ```
//! use vexfs::performance_optimizations::{
//!     BenchmarkResults, PerformanceMetrics, PerformanceOptimizationManager,
//! };
//!
//! # fn main() -> vexfs::performance_optimizations::Result<()> {
//! let mut optimization_manager = PerformanceOptimizationManager::new();
//! let analysis_report = optimization_manager.run_performance_analysis()?;
//!
//! let current_metrics: &PerformanceMetrics = &analysis_report.current_performance;
//! println!("FUSE ops/sec: {}", current_metrics.fuse_ops_per_sec);
//! println!("vector ops/sec: {}", current_metrics.vector_ops_per_sec);
//! assert!(current_metrics.vector_ops_per_sec > 0.0);
//!
//! let results: &BenchmarkResults = &analysis_report.results;
//! assert!(results.metric("pool.hit_rate").is_some());
//! # Ok(())
//! # }
//! ```
//!
//! Nothing here is a constant: an analysis takes a few seconds, mounts a directory of its own in this process, and
//! searches an index of its own. For careful figures run `performance_benchmark`.

use std::fs;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, ensure};
use vexfs_mount::mounting;
use vexfs_mount::options::{Control, MountOptions};
use vexfs_mount::place::Place;
use vexfs_mount::session::Session;

use crate::bench::metric::{Measured, Measurements, Metric};
use crate::bench::sample::Latencies;
use crate::bench::targets::{Standing, standings};
use crate::bench::{self, CACHED_OPS, FUSE_OPS, NATIVE, Part, Run, SEMANTIC_OPS, Settings, VECTOR_OPS};

pub use crate::bench::Result;
pub use crate::bench::advice::{Category as OptimizationCategory, Finding as OptimizationRecommendation};
pub use crate::bench::metric::Measurements as BenchmarkResults;
pub use crate::bench::targets::{TARGETS, Target};

/// Files whose attributes are asked, each once.
const FILES: usize = 2_000;
/// Vectors searched.
const VECTORS: usize = 5_000;
/// Files indexed.
const NOTES: usize = 120;

/// What was measured, in the specification's words. A rate that could not be measured on this machine is NaN, and
/// [`PerformanceAnalysisReport::results`] says why.
#[derive(Clone, Debug, PartialEq)]
pub struct PerformanceMetrics {
    /// Attributes of files that the kernel does not know yet, per second: each is a request to the daemon.
    pub fuse_ops_per_sec: f64,
    /// Attributes of files that the kernel knows, per second.
    pub cached_ops_per_sec: f64,
    /// Nearest-neighbour searches per second.
    pub vector_ops_per_sec: f64,
    /// Hybrid searches per second.
    pub semantic_ops_per_sec: f64,
    /// Mean time of one of those FUSE operations, in microseconds.
    pub avg_latency_us: f64,
    /// 99 of 100 took at most this long, in microseconds.
    pub p99_latency_us: f64,
    /// Share of buffers that needed no allocation, 0 to 1, on recorded mixes.
    pub cache_hit_rate: f64,
    /// Share of handed-out bytes that nobody asked for, 0 to 1.
    pub memory_fragmentation: f64,
    /// Most memory that this process held so far, in bytes.
    pub memory_usage_bytes: u64,
    /// Processors that were busy for this process, on average of the analysis.
    pub cpu_utilization: f64,
    /// Bytes that devices read and wrote for this process during the analysis.
    pub io_bytes: u64,
}

/// The figures asked for, and how the measured ones stand to them.
#[derive(Clone, Debug, PartialEq)]
pub struct PerformanceTargets {
    /// One for each target, in the order of [`TARGETS`].
    pub standings: Vec<Standing>,
}

/// An analysis.
#[derive(Clone, Debug)]
pub struct PerformanceAnalysisReport {
    /// The figures at a glance.
    pub current_performance: PerformanceMetrics,
    /// How they stand to the targets.
    pub targets: PerformanceTargets,
    /// What to do next, what matters most first.
    pub recommendations: Vec<OptimizationRecommendation>,
    /// Everything that was measured, with workloads, noise and references.
    pub results: BenchmarkResults,
}

/// Runs analyses.
#[derive(Debug, Default)]
pub struct PerformanceOptimizationManager {
    last: Option<PerformanceAnalysisReport>,
}

impl PerformanceOptimizationManager {
    /// One that has not measured yet.
    pub fn new() -> PerformanceOptimizationManager {
        PerformanceOptimizationManager::default()
    }

    /// Measures, for a few seconds.
    ///
    /// # Errors
    /// When there is no directory for temporary files. What a machine cannot do (a mount, say) is no error: its figure
    /// is NaN.
    pub fn run_performance_analysis(&mut self) -> Result<PerformanceAnalysisReport> {
        let results = bench::measure(&PARTS, &Settings::silent())?;
        let report = PerformanceAnalysisReport {
            current_performance: metrics_of(&results),
            targets: PerformanceTargets {
                standings: standings(&results),
            },
            recommendations: bench::advice::findings(&results),
            results,
        };
        self.last = Some(report.clone());
        Ok(report)
    }

    /// The last analysis.
    pub fn last(&self) -> Option<&PerformanceAnalysisReport> {
        self.last.as_ref()
    }
}

/// What an analysis measures.
const PARTS: [Part; 5] = [
    Part {
        name: "fuse",
        about: "a mount in this process",
        measure: mounted,
    },
    Part {
        name: "simd",
        about: "distance kernels",
        measure: bench::simd::measure,
    },
    Part {
        name: "pool",
        about: "buffer pool",
        measure: bench::pool::measure,
    },
    Part {
        name: "vectors",
        about: "nearest-neighbour search",
        measure: vectors,
    },
    Part {
        name: "semantic",
        about: "hybrid search",
        measure: semantic,
    },
];

fn vectors(run: &Run) -> Result<Measured> {
    let mut metrics = bench::dimensions::at_dimension(run, 256, VECTORS)?;
    if let Some(rate) = metrics.first_mut() {
        rate.name = VECTOR_OPS.to_owned();
    }
    Ok(metrics.into())
}

fn semantic(run: &Run) -> Result<Measured> {
    Ok(bench::semantic::over_files(run, NOTES)?.into())
}

/// Attributes of many files through a mount of this process, first unknown to the kernel, then known.
fn mounted(run: &Run) -> Result<Measured> {
    if !Path::new("/dev/fuse").exists() {
        return Err(bench::Unavailable("this machine has no /dev/fuse".into()).into());
    }
    let (source, mountpoint) = (run.work.join("source"), run.work.join("mnt"));
    fs::create_dir(&source)?;
    fs::create_dir(&mountpoint)?;
    let name = |n: usize| format!("file{n:05}");
    for n in 0..FILES {
        fs::write(source.join(name(n)), b"x")?;
    }
    let mut options = MountOptions::parse([])?;
    options.ctl = Control::Off;
    let place = Place::find(&source, &mountpoint)?;
    let adapter = crate::daemon::compose(&place, &options, None)?;
    let kernel_cache = adapter.kernel_cache();
    let mounted = mounting::mount(&place, &options)?;
    let mount = mounted.mount.clone();
    let (tell, ended) = mpsc::channel();
    let session = Session::start(adapter, mounted, &options, move |outcome| {
        // The receiver lives until the end was told.
        let _ = tell.send(outcome);
    })?;
    kernel_cache.connect(session.notifier());
    let round = |root: &Path| -> std::io::Result<Latencies> {
        let mut latencies = Latencies::default();
        for n in 0..FILES {
            let path = root.join(name(n));
            let start = std::time::Instant::now();
            fs::symlink_metadata(&path)?;
            latencies.add(start.elapsed());
        }
        Ok(latencies)
    };
    let rounds = round(&mountpoint).and_then(|cold| Ok((cold, round(&mountpoint)?, round(&source)?)));
    mount.unmount().context("unmounting")?;
    // Without an end within this time the threads are left alone: waiting for ever would hang the caller.
    if ended.recv_timeout(Duration::from_secs(10)).is_ok() {
        session.join();
    }
    let (cold, warm, native) = rounds?;
    ensure!(cold.count() == FILES, "not all files were found");
    let rate = |latencies: &Latencies| 1e6 / latencies.summary().average_us;
    let metric = |name: &str, latencies: &Latencies, what: &str| {
        Metric::higher(name, "ops/s", rate(latencies), latencies.p50_us().1)
            .latency(latencies.summary())
            .against(NATIVE, rate(&native))
            .workload(format!(
                "lstat of {FILES} files {what}, one thread, mount in the same process"
            ))
    };
    Ok(vec![
        metric(FUSE_OPS, &cold, "unknown to the kernel"),
        metric(CACHED_OPS, &warm, "known to the kernel"),
    ]
    .into())
}

fn metrics_of(results: &Measurements) -> PerformanceMetrics {
    let value = |name: &str| results.value(name).unwrap_or(f64::NAN);
    let latency = results.metric(FUSE_OPS).and_then(|metric| metric.latency);
    let used = results
        .parts
        .iter()
        .map(|part| part.client)
        .reduce(|a, b| a.plus(&b))
        .unwrap_or_default();
    PerformanceMetrics {
        fuse_ops_per_sec: value(FUSE_OPS),
        cached_ops_per_sec: value(CACHED_OPS),
        vector_ops_per_sec: value(VECTOR_OPS),
        semantic_ops_per_sec: value(SEMANTIC_OPS),
        avg_latency_us: latency.map_or(f64::NAN, |l| l.average_us),
        p99_latency_us: latency.map_or(f64::NAN, |l| l.p99_us),
        cache_hit_rate: value(bench::pool::HIT_RATE),
        memory_fragmentation: value(bench::pool::WASTE),
        memory_usage_bytes: used.peak_rss_bytes,
        cpu_utilization: used.cpu_seconds() / results.seconds.max(f64::MIN_POSITIVE),
        io_bytes: used.read_bytes + used.written_bytes,
    }
}
