//! What to do next: a pure function from measurements to findings.
//!
//! A rule looks at metrics of one run. It has a threshold, quotes what it saw, and says what would be gained, in
//! figures of the same run. It says nothing about what was not measured.

use serde::{Deserialize, Serialize};

use super::machine::{MEMORY_BANDWIDTH, NULL_FUSE, NULL_FUSE_UNPINNED, SYNC};
use super::metric::{Measurements, Metric};
use super::report::amount;
use super::{CACHED_OPS, NATIVE, STACK, pool, simd};

/// Which part of the system a finding is about: the categories of the specification, and three more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Category {
    /// Buffers and allocation.
    Memory,
    /// Vector instructions.
    Simd,
    /// Use of the stack.
    Stack,
    /// Between files, vectors and words: commits, freshness.
    CrossLayer,
    /// Requests of the filesystem.
    Filesystem,
    /// The vector index.
    Vectors,
    /// The device below.
    Storage,
}

/// How much it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Priority {
    /// A defect, or several times slower than need be.
    High,
    /// Tens of percent.
    Medium,
    /// Good to know.
    Low,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// The rule that found it.
    pub rule: String,
    /// What it is about.
    pub category: Category,
    /// How much it matters.
    pub priority: Priority,
    /// What is the matter.
    pub title: String,
    /// What was measured.
    pub evidence: String,
    /// What would have been unremarkable.
    pub threshold: String,
    /// What to do.
    pub action: String,
    /// What that would bring, from figures of this run.
    pub expected_gain: String,
}

type Rule = (&'static str, fn(&Measurements) -> Vec<Found>);

/// A finding without the name of its rule.
struct Found {
    category: Category,
    priority: Priority,
    title: String,
    evidence: String,
    threshold: String,
    action: String,
    expected_gain: String,
}

/// The rules.
const RULES: [Rule; 11] = [
    ("simd-level", slow_simd_level),
    ("pool-misses", pool_misses),
    ("pool-slower-than-allocator", pool_slower_than_allocator),
    ("pool-waste", pool_waste),
    ("slow-request", slow_requests),
    ("cached-metadata", uncached_metadata),
    ("slow-file-data", slow_file_data),
    ("cross-cpu-wakeup", cross_cpu_wakeups),
    ("slow-sync", slow_sync),
    ("stack", deep_stack),
    ("scan-at-memory-limit", scan_at_memory_limit),
];

/// All findings of a run, what matters most first.
pub fn findings(measurements: &Measurements) -> Vec<Finding> {
    let mut findings: Vec<Finding> = RULES
        .iter()
        .flat_map(|(rule, find)| {
            find(measurements).into_iter().map(|found| Finding {
                rule: (*rule).to_owned(),
                category: found.category,
                priority: found.priority,
                title: found.title,
                evidence: found.evidence,
                threshold: found.threshold,
                action: found.action,
                expected_gain: found.expected_gain,
            })
        })
        .collect();
    findings.sort_by_key(|finding| finding.priority);
    findings
}

fn show(metric: &Metric) -> String {
    format!("{} = {}", metric.name, amount(metric.value, &metric.unit))
}

/// The kernels of a lower level than the CPU has cost a multiple for nothing.
fn slow_simd_level(run: &Measurements) -> Vec<Found> {
    const THRESHOLD: f64 = 0.75;
    let Some(share) = run.metric(simd::LEVEL_SHARE).filter(|m| m.value < THRESHOLD) else {
        return vec![];
    };
    let fastest = run
        .metrics()
        .filter(|m| m.name.starts_with("simd.l2_f32."))
        .flat_map(|m| &m.peers)
        .min_by(|a, b| a.value.total_cmp(&b.value));
    vec![Found {
        category: Category::Simd,
        priority: Priority::High,
        title: format!(
            "Distance kernels run at level '{}', below what the CPU has",
            run.machine.simd
        ),
        evidence: show(share),
        threshold: format!("{:.0} % of the fastest level", THRESHOLD * 100.0),
        action: format!(
            "Take VEXFS_SIMD out of the environment{}.",
            fastest.map_or(String::new(), |level| format!(
                "; '{}' is fastest here",
                level.what
            ))
        ),
        expected_gain: format!("distances in {:.0} % of the time", share.value * 100.0),
    }]
}

/// A pool that misses is an allocator with bookkeeping.
fn pool_misses(run: &Measurements) -> Vec<Found> {
    const THRESHOLD: f64 = 0.85;
    let Some(rate) = run.metric(pool::HIT_RATE).filter(|m| m.value < THRESHOLD) else {
        return vec![];
    };
    let worst = run
        .metrics()
        .find(|m| m.name == rate.workload.rsplit(' ').next().unwrap_or_default());
    vec![Found {
        category: Category::Memory,
        priority: Priority::High,
        title: "The buffer pool allocates too often".into(),
        evidence: format!("{}; {}", show(rate), worst.map_or(rate.workload.as_str(), |m| m.workload.as_str())),
        threshold: format!("{:.0} % of takes without allocation", THRESHOLD * 100.0),
        action: "Raise the limits of the pool (per_thread and shared): fewer buffers are kept than are in use at once."
            .into(),
        expected_gain: format!("{:.0} % of takes become a pop from a stack", (1.0 - rate.value) * 100.0),
    }]
}

/// Where the system's allocator is faster the pool has no reason to be.
fn pool_slower_than_allocator(run: &Measurements) -> Vec<Found> {
    const THRESHOLD: f64 = 1.15;
    let slower = |m: &&Metric| {
        m.name.starts_with(pool::PAIR) && m.goodness().is_some_and(|goodness| goodness * THRESHOLD < 1.0)
    };
    run.metrics()
        .filter(slower)
        .map(|m| Found {
            category: Category::Memory,
            priority: Priority::Medium,
            title: format!("The pool is slower than the system's allocator on {}", m.name),
            evidence: format!("{}, the system's allocator {}", show(m), reference(m)),
            threshold: format!("{THRESHOLD} times the system's allocator"),
            action: "Allocate in this place, or raise the pool's limits if it misses.".into(),
            expected_gain: format!(
                "{:.0} % of the time of a take",
                m.goodness().unwrap_or(1.0) * 100.0
            ),
        })
        .collect()
}

/// Tiers that do not fit what is asked cost memory and cache.
fn pool_waste(run: &Measurements) -> Vec<Found> {
    const THRESHOLD: f64 = 0.5;
    let Some(waste) = run.metric(pool::WASTE).filter(|m| m.value > THRESHOLD) else {
        return vec![];
    };
    vec![Found {
        category: Category::Memory,
        priority: Priority::Low,
        title: "Buffers are much larger than what is asked".into(),
        evidence: format!("{}, {}", show(waste), waste.workload),
        threshold: format!("{:.0} % of the bytes handed out", THRESHOLD * 100.0),
        action: "Look at the sizes asked (the tiers are 1, 4 and 16 KiB); read and readdir can ask for whole tiers.".into(),
        expected_gain: "memory of buffers in use, not time".into(),
    }]
}

/// An operation is a handful of requests; the daemon's own share should be small beside the price of those.
fn slow_requests(run: &Measurements) -> Vec<Found> {
    const THRESHOLD: f64 = 25.0;
    let Some(empty_us) = run.value(NULL_FUSE) else {
        return vec![];
    };
    let slow = |m: &&Metric| m.name.starts_with("fs.") && m.unit == "us" && m.value > THRESHOLD * empty_us;
    run.metrics()
        .filter(slow)
        .map(|m| Found {
            category: Category::Filesystem,
            priority: Priority::High,
            title: format!("{} takes far longer than the requests that it is made of", operation(&m.name)),
            evidence: format!("{}, an empty request {}, native {}", show(m), amount(empty_us, "us"), reference(m)),
            threshold: format!("{THRESHOLD:.0} empty requests"),
            action: format!(
                "Profile the daemon during {} (perf record, strace -c): it computes, waits or makes too many system \
                 calls.",
                operation(&m.name)
            ),
            expected_gain: format!("up to {:.0} % of its time", (1.0 - THRESHOLD * empty_us / m.value) * 100.0),
        })
        .collect()
}

/// What the kernel may answer from its own memory has to be as fast as native.
fn uncached_metadata(run: &Measurements) -> Vec<Found> {
    const THRESHOLD: f64 = 0.5;
    let Some(cached) = run.metric(CACHED_OPS) else {
        return vec![];
    };
    let Some(goodness) = cached.goodness().filter(|g| *g < THRESHOLD) else {
        return vec![];
    };
    vec![Found {
        category: Category::Filesystem,
        priority: Priority::High,
        title: "Metadata that the kernel could remember is asked again".into(),
        evidence: format!("{}, native {}", show(cached), reference(cached)),
        threshold: format!("{:.0} % of native", THRESHOLD * 100.0),
        action:
            "Mount with a long ttl= (the default), and do not change the backing directory behind the mount."
                .into(),
        expected_gain: format!("{:.1} times as many operations a second", 1.0 / goodness),
    }]
}

/// Without passthrough file data goes through the daemon.
fn slow_file_data(run: &Measurements) -> Vec<Found> {
    const THRESHOLD: f64 = 0.5;
    let data = |m: &&Metric| m.unit == "MiB/s" && m.reference.as_ref().is_some_and(|r| r.what == NATIVE);
    run.metrics()
        .filter(data)
        .filter(|m| m.goodness().is_some_and(|goodness| goodness < THRESHOLD))
        .map(|m| Found {
            category: Category::Filesystem,
            priority: Priority::Medium,
            title: format!("{} is far below native", operation(&m.name)),
            evidence: format!("{}, native {}", show(m), reference(m)),
            threshold: format!("{:.0} % of native", THRESHOLD * 100.0),
            action: "Mount with CAP_SYS_ADMIN so that file data passes through the kernel (passthrough=auto), on a \
                     backing filesystem that is not itself stacked."
                .into(),
            expected_gain: format!("up to {:.1} times as fast", 1.0 / m.goodness().unwrap_or(1.0)),
        })
        .collect()
}

/// A request that wakes another CPU costs a multiple of one that does not.
fn cross_cpu_wakeups(run: &Measurements) -> Vec<Found> {
    const THRESHOLD: f64 = 2.5;
    let (Some(pinned), Some(free)) = (run.metric(NULL_FUSE), run.metric(NULL_FUSE_UNPINNED)) else {
        return vec![];
    };
    if free.value < THRESHOLD * pinned.value {
        return vec![];
    }
    vec![Found {
        category: Category::Filesystem,
        priority: Priority::Low,
        title: "Waking the daemon on another CPU dominates a request".into(),
        evidence: format!("{}, {}", show(free), show(pinned)),
        threshold: format!("{THRESHOLD} times the request that stays on its CPU"),
        action: "For work of many small requests pin client and daemon to the same CPUs (taskset).".into(),
        expected_gain: format!(
            "up to {:.0} % of a request's time",
            (1.0 - pinned.value / free.value) * 100.0
        ),
    }]
}

/// Every commit waits for the device.
fn slow_sync(run: &Measurements) -> Vec<Found> {
    const THRESHOLD_US: f64 = 5_000.0;
    let Some(sync) = run.metric(SYNC).filter(|m| m.value > THRESHOLD_US) else {
        return vec![];
    };
    vec![Found {
        category: Category::Storage,
        priority: Priority::Medium,
        title: "The device syncs slowly, and every commit waits for it".into(),
        evidence: show(sync),
        threshold: amount(THRESHOLD_US, "us"),
        action: "Put the store on a faster device (-o store=PATH); set vectors and tags in batches.".into(),
        expected_gain: format!(
            "a batch of 100 commits once: {:.0} us an item instead of {:.0}",
            sync.value / 100.0,
            sync.value
        ),
    }]
}

/// The specification bounds the stack of a FUSE operation.
fn deep_stack(run: &Measurements) -> Vec<Found> {
    const THRESHOLD_BYTES: f64 = 6.0 * 1024.0;
    let Some(stack) = run.metric(STACK).filter(|m| m.value > THRESHOLD_BYTES) else {
        return vec![];
    };
    vec![Found {
        category: Category::Stack,
        priority: Priority::High,
        title: "A filesystem operation uses more stack than allowed".into(),
        evidence: format!("{}, {}", show(stack), stack.workload),
        threshold: amount(THRESHOLD_BYTES, "bytes"),
        action: "Take its buffer from the pool.".into(),
        expected_gain: "threads with small stacks stay safe".into(),
    }]
}

/// A scan at the speed of memory gets faster by fewer bytes alone.
fn scan_at_memory_limit(run: &Measurements) -> Vec<Found> {
    const THRESHOLD: f64 = 0.85;
    let Some(bandwidth) = run.value(MEMORY_BANDWIDTH) else {
        return vec![];
    };
    let Some(scan) = run
        .metric("simd.stream_l2_f32")
        .filter(|m| m.value > THRESHOLD * bandwidth)
    else {
        return vec![];
    };
    vec![Found {
        category: Category::Vectors,
        priority: Priority::Low,
        title: "Scans of full vectors run at the speed of memory".into(),
        evidence: format!("{}, memory {}", show(scan), amount(bandwidth, "GB/s")),
        threshold: format!("{:.0} % of the memory's bandwidth", THRESHOLD * 100.0),
        action: "Scan codes instead of vectors: 8-bit codes are a quarter of the bytes, 1-bit codes a 32nd."
            .into(),
        expected_gain: "up to 4 times (8-bit) and more (1-bit) on scans that no cache holds".into(),
    }]
}

fn reference(metric: &Metric) -> String {
    metric
        .reference
        .as_ref()
        .map_or(String::new(), |reference| amount(reference.value, &metric.unit))
}

/// `fs.getattr.cold` -> `getattr (cold)`.
fn operation(name: &str) -> String {
    let mut words = name.split('.').skip(1);
    let first = words.next().unwrap_or(name).to_owned();
    let rest: Vec<&str> = words.collect();
    if rest.is_empty() {
        first
    } else {
        format!("{first} ({})", rest.join(" "))
    }
}

#[cfg(test)]
mod tests;
