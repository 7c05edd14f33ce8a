//! The one table of all metrics: what `.vexfs/metrics` and the socket show, alerts and dashboards name.

use std::fmt::{Display, Write};

/// What sort of metric it is, in the words of Prometheus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only goes up; from 0 when the daemon starts.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts in buckets (`le`), their sum and number.
    Histogram,
}

/// A metric, or several that differ by labels.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// Its whole name.
    pub name: &'static str,
    /// What sort it is.
    pub kind: Kind,
    /// What it is counted in.
    pub unit: &'static str,
    /// What it says.
    pub help: &'static str,
}

const fn family(name: &'static str, kind: Kind, unit: &'static str, help: &'static str) -> Family {
    Family {
        name,
        kind,
        unit,
        help,
    }
}

use Kind::{Counter, Gauge, Histogram};

/// All of them, in the order in which they are shown.
pub const TABLE: [Family; 37] = [
    family(
        "vexfs_operation_seconds",
        Histogram,
        "seconds",
        "Time that filesystem requests took in the daemon.",
    ),
    family(
        "vexfs_operation_quantile_seconds",
        Gauge,
        "seconds",
        "Time within which that share of the requests since the start was answered (p50, p99, p99.9).",
    ),
    family(
        "vexfs_operation_average_seconds",
        Gauge,
        "seconds",
        "Mean time of the requests since the start.",
    ),
    family(
        "vexfs_operation_errors_total",
        Counter,
        "requests",
        "Filesystem requests that ended with an error.",
    ),
    family(
        "vexfs_stack_bytes",
        Gauge,
        "bytes",
        "The most stack that an operation was seen to use, by the threads it ran on; one call in 1024 is measured.",
    ),
    family(
        "vexfs_panics_total",
        Counter,
        "requests",
        "Requests whose handler panicked.",
    ),
    family(
        "vexfs_invalidations_total",
        Counter,
        "messages",
        "Cache invalidations sent to the kernel.",
    ),
    family(
        "vexfs_backing_ids",
        Gauge,
        "files",
        "Backing files held by the kernel for passthrough.",
    ),
    family(
        "vexfs_passthrough",
        Gauge,
        "flag",
        "1 while file data bypasses the daemon.",
    ),
    family(
        "vexfs_control_threads",
        Gauge,
        "threads",
        "Threads serving the control directory.",
    ),
    family(
        "vexfs_control_queue",
        Gauge,
        "requests",
        "Requests of the control directory that wait for a thread.",
    ),
    family(
        "vexfs_inodes",
        Gauge,
        "inodes",
        "Inodes that the kernel has cached.",
    ),
    family(
        "vexfs_open_files",
        Gauge,
        "files",
        "Open files and directories with a descriptor.",
    ),
    family(
        "vexfs_kept_descriptors",
        Gauge,
        "files",
        "Descriptors kept for directories and files in use.",
    ),
    family(
        "vexfs_pool_takes_total",
        Counter,
        "buffers",
        "Buffers taken from the pool.",
    ),
    family(
        "vexfs_pool_misses_total",
        Counter,
        "buffers",
        "Buffers that had to be allocated.",
    ),
    family(
        "vexfs_pool_asked_bytes_total",
        Counter,
        "bytes",
        "Bytes asked for; takes times the tier's size were handed out.",
    ),
    family("vexfs_pool_in_use", Gauge, "buffers", "Buffers in use."),
    family(
        "vexfs_pool_high_water",
        Gauge,
        "buffers",
        "Most buffers in use or in threads' stacks at once.",
    ),
    family(
        "vexfs_pool_idle_bytes",
        Gauge,
        "bytes",
        "Bytes held and not in use.",
    ),
    family(
        "vexfs_pool_hit_ratio",
        Gauge,
        "share",
        "Buffers that needed no allocation, of all taken.",
    ),
    family(
        "vexfs_simd_level",
        Gauge,
        "flag",
        "1 for the vector instructions in use.",
    ),
    family(
        "process_cpu_seconds_total",
        Counter,
        "seconds",
        "Processor time, user and system.",
    ),
    family("process_resident_memory_bytes", Gauge, "bytes", "Memory held."),
    family("process_threads", Gauge, "threads", "Threads."),
    family(
        "vexfs_io_read_bytes_total",
        Counter,
        "bytes",
        "Bytes that devices read for the daemon.",
    ),
    family(
        "vexfs_io_written_bytes_total",
        Counter,
        "bytes",
        "Bytes that devices write for the daemon.",
    ),
    family(
        "vexfs_index_generation",
        Counter,
        "commits",
        "The last commit; every answer names the one it saw.",
    ),
    family(
        "vexfs_index_lag",
        Gauge,
        "files",
        "Files and places that changed after what the generation holds.",
    ),
    family(
        "vexfs_index_queue",
        Gauge,
        "places",
        "Events and places that wait to be looked at.",
    ),
    family("vexfs_index_files", Gauge, "files", "Regular files with a name."),
    family(
        "vexfs_index_ready",
        Gauge,
        "files",
        "Files that are searchable as they are.",
    ),
    family(
        "vexfs_index_failed",
        Gauge,
        "files",
        "Files whose text could not be read.",
    ),
    family(
        "vexfs_index_excluded",
        Gauge,
        "files",
        "Files and folders that a rule keeps out.",
    ),
    family(
        "vexfs_index_passages",
        Gauge,
        "passages",
        "Passages that can be found.",
    ),
    family(
        "vexfs_index_bytes",
        Gauge,
        "bytes",
        "Bytes of the files that are searchable.",
    ),
    family(
        "vexfs_index_scanning",
        Gauge,
        "flag",
        "1 while the tree is being compared with the catalog.",
    ),
];

/// Begins a family.
///
/// # Panics
/// When the name is not in the table.
pub fn head(out: &mut String, name: &str) {
    let family = TABLE
        .iter()
        .find(|family| family.name == name)
        .expect("every metric stands in the table");
    let kind = match family.kind {
        Counter => "counter",
        Gauge => "gauge",
        Histogram => "histogram",
    };
    let _ = writeln!(out, "# HELP {name} {}\n# TYPE {name} {kind}", family.help);
}

/// A family with one value.
pub fn single(out: &mut String, name: &str, value: impl Display) {
    head(out, name);
    let _ = writeln!(out, "{name} {value}");
}

/// A value of a family that was begun, with its labels: `key="value",...`.
pub fn sample(out: &mut String, name: &str, labels: &str, value: impl Display) {
    let _ = writeln!(out, "{name}{{{labels}}} {value}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_end_as_prometheus_wants_it() {
        let mut names: Vec<&str> = TABLE.iter().map(|family| family.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), TABLE.len());
        for family in &TABLE {
            let total = family.name.ends_with("_total") || family.name.ends_with("_generation");
            assert_eq!(total, family.kind == Counter, "{}", family.name);
            assert!(
                !family.unit.is_empty() && family.help.ends_with('.'),
                "{}",
                family.name
            );
        }
    }
}
