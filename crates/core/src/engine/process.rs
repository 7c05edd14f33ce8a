//! Metrics of the process as a whole: its buffer pool, its vector instructions, and what it uses of the machine.

use vexfs_vector::kernel::Kernels;

use crate::metrics::table::{head, sample, single};
use crate::pool::{self, TierStatistics};

/// Appends them as Prometheus text.
pub(super) fn prometheus(out: &mut String) {
    of_pool(out);
    head(out, "vexfs_simd_level");
    let level = Kernels::get().simd().name();
    sample(out, "vexfs_simd_level", &format!("level=\"{level}\""), 1);
    of_proc(out);
}

/// A metric of each tier: name and value.
type OfTier = (&'static str, fn(&TierStatistics) -> u64);

fn of_pool(out: &mut String) {
    let statistics = pool::shared().statistics();
    let by_tier: [OfTier; 6] = [
        ("vexfs_pool_takes_total", |t| t.takes),
        ("vexfs_pool_misses_total", |t| t.misses),
        ("vexfs_pool_asked_bytes_total", |t| t.asked_bytes),
        ("vexfs_pool_in_use", |t| t.in_use),
        ("vexfs_pool_high_water", |t| t.high_water),
        ("vexfs_pool_idle_bytes", TierStatistics::idle_bytes),
    ];
    for (name, of) in by_tier {
        head(out, name);
        for tier in &statistics.tiers {
            sample(out, name, &format!("tier=\"{}\"", tier.bytes), of(tier));
        }
        let large = match name {
            "vexfs_pool_takes_total" => statistics.large.takes,
            "vexfs_pool_misses_total" => statistics.large.takes.saturating_sub(statistics.large.hits),
            "vexfs_pool_asked_bytes_total" => statistics.large.asked_bytes,
            "vexfs_pool_idle_bytes" => statistics.large.idle_bytes,
            _ => continue,
        };
        sample(out, name, "tier=\"large\"", large);
    }
    let takes: u64 = statistics.tiers.iter().map(|t| t.takes).sum();
    let misses: u64 = statistics.tiers.iter().map(|t| t.misses).sum();
    let hits = 1.0 - misses as f64 / takes.max(1) as f64;
    single(out, "vexfs_pool_hit_ratio", hits);
}

/// Processor time, memory and bytes of devices, from /proc/self; the first under the names that every Prometheus
/// client uses for them.
fn of_proc(out: &mut String) {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
    let (stat, status, io) = (read("stat"), read("status"), read("io"));
    let per_second = rustix::param::clock_ticks_per_second() as f64;
    for (name, value) in [
        ("process_cpu_seconds_total", cpu_ticks(&stat) as f64 / per_second),
        ("process_resident_memory_bytes", field(&status, "VmRSS:") * 1024.0),
        ("process_threads", field(&status, "Threads:")),
        ("vexfs_io_read_bytes_total", field(&io, "read_bytes:")),
        ("vexfs_io_written_bytes_total", field(&io, "write_bytes:")),
    ] {
        single(out, name, value);
    }
}

/// utime and stime of /proc/PID/stat, fields 14 and 15. The name before them, in brackets, may hold anything.
fn cpu_ticks(stat: &str) -> u64 {
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let times = after_name.split_ascii_whitespace().skip(11).take(2);
    times.filter_map(|field| field.parse::<u64>().ok()).sum()
}

/// The number after a name at the beginning of a line.
fn field(text: &str, name: &str) -> f64 {
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_ascii_whitespace().next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_has_a_head_and_a_number() {
        drop(pool::take(100));
        let mut text = String::new();
        prometheus(&mut text);
        let mut heads = std::collections::HashSet::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                heads.insert(rest.split(' ').next().unwrap());
            } else if !line.starts_with('#') {
                let (name, value) = line.rsplit_once(' ').unwrap();
                assert!(heads.contains(name.split('{').next().unwrap()), "{line}");
                assert!(value.parse::<f64>().is_ok_and(|v| v >= 0.0), "{line}");
            }
        }
        assert!(text.contains("vexfs_pool_takes_total{tier=\"1024\"}"));
        let rss = text
            .lines()
            .find(|line| line.starts_with("process_resident_memory_bytes "))
            .unwrap();
        assert!(rss.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap() > 1e6);
    }
}
