//! What a process used: processor time, memory, bytes from and to devices, context switches; from `/proc`.

use std::fs;
use std::ops::Sub;

use serde::{Deserialize, Serialize};

/// What a process used, or processes together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Resources {
    /// Processor time in its own code.
    pub user_seconds: f64,
    /// Processor time in the kernel on its behalf.
    pub system_seconds: f64,
    /// Memory that it held at its most.
    pub peak_rss_bytes: u64,
    /// Bytes that the devices had to read for it.
    pub read_bytes: u64,
    /// Bytes that it caused devices to write.
    pub written_bytes: u64,
    /// Read and write calls.
    pub io_calls: u64,
    /// Times that it gave up the processor, or lost it.
    pub context_switches: u64,
}

impl Resources {
    /// Of this process.
    pub fn of_self() -> Resources {
        Resources::of("self")
    }

    /// Of another process, of which only what this user may see is filled in.
    pub fn of_process(pid: u32) -> Resources {
        Resources::of(&pid.to_string())
    }

    fn of(pid: &str) -> Resources {
        let file = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let (stat, status, io) = (file("stat"), file("status"), file("io"));
        let (user, system) = cpu_ticks(&stat);
        let per_second = rustix::param::clock_ticks_per_second() as f64;
        Resources {
            user_seconds: user as f64 / per_second,
            system_seconds: system as f64 / per_second,
            peak_rss_bytes: field(&status, "VmHWM:") * 1024,
            read_bytes: field(&io, "read_bytes:"),
            written_bytes: field(&io, "write_bytes:"),
            io_calls: field(&io, "syscr:") + field(&io, "syscw:"),
            context_switches: field(&status, "voluntary_ctxt_switches:")
                + field(&status, "nonvoluntary_ctxt_switches:"),
        }
    }

    /// What was used since `earlier`; the peak of memory is that of the whole life.
    pub fn since(&self, earlier: &Resources) -> Resources {
        Resources {
            user_seconds: less(self.user_seconds, earlier.user_seconds),
            system_seconds: less(self.system_seconds, earlier.system_seconds),
            peak_rss_bytes: self.peak_rss_bytes,
            read_bytes: self.read_bytes.saturating_sub(earlier.read_bytes),
            written_bytes: self.written_bytes.saturating_sub(earlier.written_bytes),
            io_calls: self.io_calls.saturating_sub(earlier.io_calls),
            context_switches: self.context_switches.saturating_sub(earlier.context_switches),
        }
    }

    /// Both together, one after the other: the peak is the higher one.
    pub fn plus(&self, other: &Resources) -> Resources {
        Resources {
            user_seconds: self.user_seconds + other.user_seconds,
            system_seconds: self.system_seconds + other.system_seconds,
            peak_rss_bytes: self.peak_rss_bytes.max(other.peak_rss_bytes),
            read_bytes: self.read_bytes + other.read_bytes,
            written_bytes: self.written_bytes + other.written_bytes,
            io_calls: self.io_calls + other.io_calls,
            context_switches: self.context_switches + other.context_switches,
        }
    }

    /// Processor time in all.
    pub fn cpu_seconds(&self) -> f64 {
        self.user_seconds + self.system_seconds
    }
}

/// Memory of a process that is in memory now; 0 if it is gone.
pub fn resident_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    field(&status, "VmRSS:") * 1024
}

/// The processes that a process has started and that still run.
///
/// # Errors
/// When /proc cannot be read.
pub fn children_of(parent: u32) -> std::io::Result<Vec<u32>> {
    let mut children = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        if field(&status, "PPid:") == u64::from(parent) {
            children.push(pid);
        }
    }
    Ok(children)
}

fn less(a: f64, b: f64) -> f64 {
    a.sub(b).max(0.0)
}

/// utime and stime of /proc/PID/stat, fields 14 and 15. The name before them may hold anything, a bracket included.
fn cpu_ticks(stat: &str) -> (u64, u64) {
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let mut next = || fields.next().and_then(|f| f.parse().ok()).unwrap_or(0);
    (next(), next())
}

/// The number after a name at the beginning of a line.
fn field(text: &str, name: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_ascii_whitespace().next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_with_brackets_does_not_shift_the_fields() {
        let stat = "42 (a) b) c) S 1 42 42 0 -1 4194304 100 0 0 0 17 5 0 0 20 0 1 0 100 0 0";
        assert_eq!(cpu_ticks(stat), (17, 5));
    }

    #[test]
    fn a_child_and_its_memory_are_seen() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let children = children_of(std::process::id()).unwrap();
        let resident = resident_bytes(child.id());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(children.contains(&child.id()));
        assert!(resident > 0);
        assert_eq!(resident_bytes(child.id()), 0, "gone");
    }

    #[test]
    fn busy_time_is_seen() {
        let before = Resources::of_self();
        let start = std::time::Instant::now();
        while start.elapsed().as_millis() < 200 {
            std::hint::black_box(start.elapsed());
        }
        let used = Resources::of_self().since(&before);
        assert!(used.cpu_seconds() > 0.03, "{used:?}");
        assert!(used.peak_rss_bytes > 1 << 20);
    }

    #[test]
    fn a_process_that_is_gone_has_used_nothing() {
        assert_eq!(Resources::of_process(u32::MAX), Resources::default());
    }
}
