//! Counters: how often each operation ran, how long it took, how it ended.
//!
//! Recording is a handful of relaxed additions to a place of the thread's own, and the time is two readings of the
//! clock: about 1 % of the cheapest request that reaches the daemon.

pub mod stack;
pub mod table;

use std::cell::Cell;
use std::fmt::Write;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use self::stack::Threads;
use self::table::{head, sample, single};

/// An operation of the filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of the FUSE operations")]
pub enum Operation {
    Lookup,
    Getattr,
    Setattr,
    Readlink,
    Mknod,
    Mkdir,
    Unlink,
    Rmdir,
    Symlink,
    Rename,
    Link,
    Open,
    Create,
    Read,
    Write,
    Flush,
    Release,
    Fsync,
    Opendir,
    Readdir,
    Readdirplus,
    Releasedir,
    Fsyncdir,
    Statfs,
    Access,
    Getxattr,
    Setxattr,
    Listxattr,
    Removexattr,
    Fallocate,
    Lseek,
    CopyFileRange,
}

const OPERATIONS: [(Operation, &str); 32] = [
    (Operation::Lookup, "lookup"),
    (Operation::Getattr, "getattr"),
    (Operation::Setattr, "setattr"),
    (Operation::Readlink, "readlink"),
    (Operation::Mknod, "mknod"),
    (Operation::Mkdir, "mkdir"),
    (Operation::Unlink, "unlink"),
    (Operation::Rmdir, "rmdir"),
    (Operation::Symlink, "symlink"),
    (Operation::Rename, "rename"),
    (Operation::Link, "link"),
    (Operation::Open, "open"),
    (Operation::Create, "create"),
    (Operation::Read, "read"),
    (Operation::Write, "write"),
    (Operation::Flush, "flush"),
    (Operation::Release, "release"),
    (Operation::Fsync, "fsync"),
    (Operation::Opendir, "opendir"),
    (Operation::Readdir, "readdir"),
    (Operation::Readdirplus, "readdirplus"),
    (Operation::Releasedir, "releasedir"),
    (Operation::Fsyncdir, "fsyncdir"),
    (Operation::Statfs, "statfs"),
    (Operation::Access, "access"),
    (Operation::Getxattr, "getxattr"),
    (Operation::Setxattr, "setxattr"),
    (Operation::Listxattr, "listxattr"),
    (Operation::Removexattr, "removexattr"),
    (Operation::Fallocate, "fallocate"),
    (Operation::Lseek, "lseek"),
    (Operation::CopyFileRange, "copy_file_range"),
];

/// Buckets to a power of two: a bucket is at most 19 % wide.
const STEPS: u32 = 4;
/// Latencies below 2^8 ns share a bucket, as do those from 2^34 ns (17 s) on.
const FIRST_POWER: u32 = 8;
const LAST_POWER: u32 = 34;
const BUCKETS: usize = ((LAST_POWER - FIRST_POWER) * STEPS) as usize + 2;
/// Threads beyond this number share places.
const PLACES: usize = 8;

/// Latencies of one operation, in nanoseconds, in logarithmic steps.
struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    sum_ns: AtomicU64,
    errors: AtomicU64,
}

/// A number that goes up and down.
#[derive(Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Sets it.
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// Adds one.
    pub fn add_one(&self) {
        self.0.fetch_add(1, Relaxed);
    }

    /// Takes one away.
    pub fn take_one(&self) {
        self.0.fetch_sub(1, Relaxed);
    }

    /// Its value.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// The counters of one mount.
pub struct Metrics {
    places: Vec<Vec<Histogram>>,
    /// The most stack that each operation used, in bytes, on the threads for files and on those for searches.
    stacks: [[AtomicU32; OPERATIONS.len()]; 2],
    /// Handlers that panicked; their callers got EIO.
    pub panics: Gauge,
    /// Backing files that the kernel holds for passthrough.
    pub backing_ids: Gauge,
    /// 1 while file data passes through the kernel.
    pub passthrough: Gauge,
    /// Threads that serve the control directory.
    pub control_threads: Gauge,
    /// Requests that wait for one of them.
    pub control_queue: Gauge,
    /// Invalidations sent to the kernel.
    pub invalidations: Gauge,
}

/// What is known of one operation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OperationCounts {
    /// How often it ran.
    pub count: u64,
    /// How often it failed.
    pub errors: u64,
    /// Half of the calls took at most this long.
    pub p50: Duration,
    /// 99 % of the calls took at most this long.
    pub p99: Duration,
    /// 99.9 % of the calls took at most this long.
    pub p999: Duration,
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

impl Metrics {
    /// All zero.
    pub fn new() -> Metrics {
        let histogram = || Histogram {
            buckets: std::array::from_fn(|_| AtomicU64::new(0)),
            sum_ns: AtomicU64::new(0),
            errors: AtomicU64::new(0),
        };
        Metrics {
            places: (0..PLACES)
                .map(|_| OPERATIONS.iter().map(|_| histogram()).collect())
                .collect(),
            stacks: Default::default(),
            panics: Gauge::default(),
            backing_ids: Gauge::default(),
            passthrough: Gauge::default(),
            control_threads: Gauge::default(),
            control_queue: Gauge::default(),
            invalidations: Gauge::default(),
        }
    }

    /// Runs an operation and records how long it took and whether it failed.
    pub fn time<T, E>(&self, operation: Operation, f: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        if let Some(threads) = stack::due(operation as usize) {
            return self.time_and_measure(operation, threads, f);
        }
        let start = Instant::now();
        let result = f();
        self.record(operation, start.elapsed(), result.is_err());
        result
    }

    #[cold]
    #[inline(never)]
    fn time_and_measure<T, E>(
        &self,
        operation: Operation,
        threads: Threads,
        f: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let ((result, took), used) = stack::used(threads, || {
            let start = Instant::now();
            (f(), start.elapsed())
        });
        self.record(operation, took, result.is_err());
        self.stacks[threads as usize][operation as usize].fetch_max(used as u32, Relaxed);
        result
    }

    /// The most stack that an operation was seen to use, in bytes; None while none was measured.
    pub fn stack_bytes(&self, operation: Operation, threads: Threads) -> Option<usize> {
        let mark = self.stacks[threads as usize][operation as usize].load(Relaxed);
        (mark > 0).then_some(mark as usize)
    }

    /// Records one operation.
    pub fn record(&self, operation: Operation, took: Duration, failed: bool) {
        let histogram = &self.places[place()][operation as usize];
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        histogram.buckets[bucket(ns)].fetch_add(1, Relaxed);
        histogram.sum_ns.fetch_add(ns, Relaxed);
        if failed {
            histogram.errors.fetch_add(1, Relaxed);
        }
    }

    /// The counters of one operation.
    pub fn counts(&self, operation: Operation) -> OperationCounts {
        let (buckets, _, errors) = self.merged(operation);
        let count = buckets.iter().sum();
        OperationCounts {
            count,
            errors,
            p50: quantile(&buckets, 0.5),
            p99: quantile(&buckets, 0.99),
            p999: quantile(&buckets, 0.999),
        }
    }

    /// Operations by name, in a fixed order.
    pub fn operations() -> impl Iterator<Item = (Operation, &'static str)> {
        OPERATIONS.into_iter()
    }

    /// Appends everything as Prometheus text (exposition format 0.0.4). Operations that never ran are left out.
    pub fn prometheus(&self, out: &mut String) {
        head(out, "vexfs_operation_seconds");
        let (mut errors, mut quantiles, mut averages) = (String::new(), String::new(), String::new());
        for (operation, name) in OPERATIONS {
            let (buckets, sum_ns, failed) = self.merged(operation);
            let count: u64 = buckets.iter().sum();
            if count == 0 {
                continue;
            }
            let mut below = 0;
            for (at, n) in buckets.iter().enumerate().take(BUCKETS - 1) {
                below += n;
                // One line per power of four keeps the page short.
                if at.is_multiple_of(2 * STEPS as usize) {
                    let le = upper_ns(at) as f64 / 1e9;
                    let _ = writeln!(
                        out,
                        "vexfs_operation_seconds_bucket{{operation=\"{name}\",le=\"{le:e}\"}} {below}"
                    );
                }
            }
            let _ = writeln!(
                out,
                "vexfs_operation_seconds_bucket{{operation=\"{name}\",le=\"+Inf\"}} {count}\n\
                 vexfs_operation_seconds_sum{{operation=\"{name}\"}} {:e}\n\
                 vexfs_operation_seconds_count{{operation=\"{name}\"}} {count}",
                sum_ns as f64 / 1e9
            );
            let of_operation = format!("operation=\"{name}\"");
            for (share, said) in [(0.5, "0.5"), (0.99, "0.99"), (0.999, "0.999")] {
                let labels = format!("{of_operation},quantile=\"{said}\"");
                let seconds = quantile(&buckets, share).as_secs_f64();
                sample(
                    &mut quantiles,
                    "vexfs_operation_quantile_seconds",
                    &labels,
                    format!("{seconds:e}"),
                );
            }
            let average = format!("{:e}", sum_ns as f64 / 1e9 / count as f64);
            sample(
                &mut averages,
                "vexfs_operation_average_seconds",
                &of_operation,
                average,
            );
            sample(&mut errors, "vexfs_operation_errors_total", &of_operation, failed);
        }
        head(out, "vexfs_operation_quantile_seconds");
        out.push_str(&quantiles);
        head(out, "vexfs_operation_average_seconds");
        out.push_str(&averages);
        head(out, "vexfs_operation_errors_total");
        out.push_str(&errors);
        self.stack_marks(out);
        for (name, gauge) in [
            ("vexfs_panics_total", &self.panics),
            ("vexfs_invalidations_total", &self.invalidations),
            ("vexfs_backing_ids", &self.backing_ids),
            ("vexfs_passthrough", &self.passthrough),
            ("vexfs_control_threads", &self.control_threads),
            ("vexfs_control_queue", &self.control_queue),
        ] {
            single(out, name, gauge.get());
        }
    }

    fn stack_marks(&self, out: &mut String) {
        head(out, "vexfs_stack_bytes");
        for (threads, said) in [(Threads::Session, "session"), (Threads::Control, "control")] {
            for (operation, name) in OPERATIONS {
                if let Some(bytes) = self.stack_bytes(operation, threads) {
                    let labels = format!("operation=\"{name}\",threads=\"{said}\"");
                    sample(out, "vexfs_stack_bytes", &labels, bytes);
                }
            }
        }
    }

    fn merged(&self, operation: Operation) -> ([u64; BUCKETS], u64, u64) {
        let (mut buckets, mut sum_ns, mut errors) = ([0; BUCKETS], 0, 0);
        for place in &self.places {
            let histogram = &place[operation as usize];
            for (sum, n) in buckets.iter_mut().zip(&histogram.buckets) {
                *sum += n.load(Relaxed);
            }
            sum_ns += histogram.sum_ns.load(Relaxed);
            errors += histogram.errors.load(Relaxed);
        }
        (buckets, sum_ns, errors)
    }
}

/// The time within which a share of the calls ended, as the upper bound of a bucket.
fn quantile(buckets: &[u64; BUCKETS], share: f64) -> Duration {
    let count: u64 = buckets.iter().sum();
    let rank = (count as f64 * share).ceil() as u64;
    let mut seen = 0;
    let at = buckets.iter().position(|n| {
        seen += n;
        seen >= rank && seen > 0
    });
    at.map_or(Duration::ZERO, |b| Duration::from_nanos(upper_ns(b)))
}

/// The bucket of a latency: the power of two, and the next two bits below it.
fn bucket(ns: u64) -> usize {
    if ns < 1 << FIRST_POWER {
        return 0;
    }
    let power = ns.ilog2();
    if power >= LAST_POWER {
        return BUCKETS - 1;
    }
    let step = (ns >> (power - 2)) & u64::from(STEPS - 1);
    1 + ((power - FIRST_POWER) * STEPS) as usize + step as usize
}

/// The latencies of a bucket are below this.
fn upper_ns(bucket: usize) -> u64 {
    if bucket == 0 {
        return 1 << FIRST_POWER;
    }
    let (power, step) = (
        (bucket as u32 - 1) / STEPS + FIRST_POWER,
        (bucket as u64 - 1) % u64::from(STEPS),
    );
    (1 << power) + (step + 1) * (1 << (power - 2))
}

/// The place of this thread.
fn place() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static PLACE: Cell<usize> = const { Cell::new(usize::MAX) });
    PLACE.with(|p| {
        if p.get() == usize::MAX {
            p.set(NEXT.fetch_add(1, Relaxed) % PLACES);
        }
        p.get()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_stand_at_their_own_number() {
        for (at, (operation, _)) in OPERATIONS.into_iter().enumerate() {
            assert_eq!(operation as usize, at);
        }
    }

    #[test]
    fn buckets_cover_every_latency_and_grow() {
        let mut last = 0;
        for power in 0..63 {
            for ns in [
                1u64 << power,
                (1 << power) + (1 << power) / 3,
                (1 << power) * 2 - 1,
            ] {
                let b = bucket(ns);
                assert!(b >= last && b < BUCKETS, "{ns}");
                assert!(b == BUCKETS - 1 || ns < upper_ns(b), "{ns} below {}", upper_ns(b));
                assert!(b == 0 || b == BUCKETS - 1 || ns >= upper_ns(b - 1), "{ns}");
                last = b;
            }
        }
    }

    #[test]
    fn counts_and_quantiles_come_from_all_threads() {
        let metrics = Metrics::new();
        std::thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    for i in 0..100 {
                        let took = if i < 98 { 4_000 } else { 4_000_000 };
                        metrics.record(Operation::Lookup, Duration::from_nanos(took), i == 0);
                    }
                });
            }
        });
        let counts = metrics.counts(Operation::Lookup);
        assert_eq!((counts.count, counts.errors), (400, 4));
        assert!(counts.p50 >= Duration::from_micros(4) && counts.p50 < Duration::from_micros(5));
        assert!(counts.p99 >= Duration::from_millis(4) && counts.p99 < Duration::from_millis(5));
        let mut text = String::new();
        metrics.prometheus(&mut text);
        assert!(text.contains("vexfs_operation_seconds_count{operation=\"lookup\"} 400"));
        assert!(text.contains("vexfs_operation_errors_total{operation=\"lookup\"} 4"));
        assert!(!text.contains("\"mkdir\""), "what never ran is left out");
    }

    #[test]
    fn a_failure_is_counted_and_passed_on() {
        let metrics = Metrics::new();
        assert_eq!(metrics.time(Operation::Open, || Err::<(), _>(7)), Err(7));
        assert_eq!(metrics.counts(Operation::Open).errors, 1);
    }
}
