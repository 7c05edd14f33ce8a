//! The machine: what it is, and its limits, which no program on it can pass.

mod null_fuse;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::metric::{Measured, Metric};
use super::sample::{self, Latencies, ROUNDS};
use super::{Result, Run};

/// Memory bandwidth, in a name that other parts refer to.
pub const MEMORY_BANDWIDTH: &str = "machine.memory_read";
/// A request that a FUSE daemon answers with nothing to do, client and daemon on one CPU.
pub const NULL_FUSE: &str = "machine.null_fuse_pinned";
/// The same, where the scheduler puts them.
pub const NULL_FUSE_UNPINNED: &str = "machine.null_fuse";
/// 4 KiB appended and synced.
pub const SYNC: &str = "machine.fdatasync";

/// Far above any cache that a core can call its own, so that the memory is measured.
const STREAM_BYTES: usize = 256 << 20;

/// Where a run took place.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Model of the processor.
    pub cpu: String,
    /// Processors that this process may use.
    pub cpus: usize,
    /// Memory.
    pub memory_bytes: u64,
    /// Kernel.
    pub kernel: String,
    /// Type of the filesystem below the work directory.
    pub filesystem: String,
    /// Vector instructions that the kernels use.
    pub simd: String,
    /// Load average of one minute when the run began: how much else was going on.
    pub load: f64,
}

/// Describes the machine, and the filesystem of `work`.
pub fn describe(work: &Path) -> Machine {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let after = |text: &str, name: &str| {
        text.lines()
            .find(|line| line.starts_with(name))
            .and_then(|line| line.split_once(':'))
            .map(|(_, value)| value.trim().to_owned())
            .unwrap_or_default()
    };
    let memory = after(&read("/proc/meminfo"), "MemTotal");
    let filesystem = vexfs_mount::mountinfo::containing(work).ok().flatten();
    Machine {
        cpu: after(&read("/proc/cpuinfo"), "model name"),
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
        memory_bytes: memory.trim_end_matches(" kB").parse::<u64>().unwrap_or(0) * 1024,
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        filesystem: filesystem.map(|entry| entry.fstype).unwrap_or_default(),
        simd: vexfs_vector::kernel::Kernels::get().simd().name().to_owned(),
        load: read("/proc/loadavg")
            .split_ascii_whitespace()
            .next()
            .and_then(|load| load.parse().ok())
            .unwrap_or(0.0),
    }
}

/// Measures the limits. Without FUSE the null round trip is left out.
pub fn measure(run: &Run) -> Result<Measured> {
    run.progress.set_message("memory bandwidth");
    let mut metrics = vec![memory_bandwidth()];
    run.progress.set_message("sync");
    metrics.push(sync_latency(run)?);
    run.progress.set_message("null FUSE request");
    match null_fuse::measure(run) {
        Ok(round_trips) => metrics.extend(round_trips),
        Err(error) => run.progress.println(format!("no null FUSE request: {error:#}")),
    }
    Ok(metrics.into())
}

/// One core reads memory from end to end, with the C library's memchr: as fast in a debug build of ours as in any.
fn memory_bandwidth() -> Metric {
    // Written once, so that every page exists.
    let bytes = vec![1u8; STREAM_BYTES];
    let rates: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            // SAFETY: `bytes` is as long as it says.
            let found = unsafe { libc::memchr(bytes.as_ptr().cast(), 2, bytes.len()) };
            assert!(found.is_null(), "there is no other byte than 1");
            STREAM_BYTES as f64 / 1e9 / start.elapsed().as_secs_f64()
        })
        .collect();
    let (rate, noise) = sample::median_and_noise(&rates);
    Metric::higher(MEMORY_BANDWIDTH, "GB/s", rate, noise)
        .workload("one core looks through 256 MiB for a byte (memchr)")
}

/// Appends 4 KiB and syncs, as a commit does.
fn sync_latency(run: &Run) -> Result<Metric> {
    let file = File::create(run.work.join("sync"))?;
    let block = [0xa5u8; 4096];
    let mut at = 0;
    let latencies = Latencies::repeat(run.budget() * 2, || {
        file.write_all_at(&block, at)?;
        at += block.len() as u64;
        file.sync_data()
    })?;
    let (p50, noise) = latencies.p50_us();
    Ok(Metric::lower(SYNC, "us", p50, noise)
        .latency(latencies.summary())
        .workload("4 KiB appended to a file, fdatasync"))
}
