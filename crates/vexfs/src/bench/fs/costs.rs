//! What each operation costs, counted and not timed: requests that reach the daemon, by its own counters, and system
//! calls of the threads that answer them, by strace(1) where it is installed.
//!
//! Both are small whole numbers that a busy machine does not change. So each has a bound, and a bound that is passed
//! is a defect whatever the clock says.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::backing::Backing;
use super::systems::{Mounted, System};
use crate::bench::metric::{Measured, Metric, Table};
use crate::bench::{Result, Run, mount};

/// Names in the directory of each operation.
const NAMES: usize = 100;
/// What may come in between on a busy machine: a RELEASE that is late, a table that grows, a read that finds nothing.
/// Less than a whole call an operation, so that one more is seen.
const SLACK: f64 = 0.4;
/// How long answers are waited for that nobody waits for, like that to RELEASE.
const LATE: Duration = Duration::from_millis(50);

/// An operation and its bounds.
struct Operation {
    key: &'static str,
    name: &'static str,
    /// Done once before, so that the kernel knows the names.
    warm: bool,
    requests: f64,
    /// Two for each request (read, writev), and those of the work; one more for each close, since a build with debug
    /// assertions looks at the descriptor first.
    syscalls: f64,
    run: fn(&Path) -> io::Result<()>,
}

const fn operation(
    key: &'static str,
    name: &'static str,
    warm: bool,
    (requests, syscalls): (f64, f64),
    run: fn(&Path) -> io::Result<()>,
) -> Operation {
    Operation {
        key,
        name,
        warm,
        requests,
        syscalls,
        run,
    }
}

const OPERATIONS: [Operation; 17] = [
    operation("stat_cold", "stat, cold", false, (1.0, 4.0), |dir| {
        each(dir, |path| fs::metadata(path).map(drop))
    }),
    operation("stat_warm", "stat, warm", true, (0.0, 0.0), |dir| {
        each(dir, |path| fs::metadata(path).map(drop))
    }),
    operation("list_cold", "ls -l cold, an entry", false, (0.1, 2.5), list),
    operation("list_warm", "ls -l warm, an entry", true, (0.03, 0.1), list),
    operation(
        "open_read_cold",
        "open, read, close, cold",
        false,
        (3.0, 11.0),
        |dir| each(dir, read),
    ),
    operation(
        "open_read_warm",
        "open, read, close, warm",
        true,
        (2.0, 4.0),
        |dir| each(dir, read),
    ),
    operation(
        "open_write_warm",
        "open, write, close, warm",
        true,
        (2.0, 9.0),
        |dir| each(dir, write),
    ),
    operation("read", "read of an open file", true, (0.05, 0.2), |dir| {
        let file = File::open(path(dir, 0))?;
        each(dir, |_| file.read_at(&mut [0; 4096], 0).map(drop))
    }),
    operation("write", "write of an open file", true, (0.05, 0.3), |dir| {
        let file = OpenOptions::new().write(true).open(path(dir, 0))?;
        each(dir, |_| file.write_at(&[1; 4096], 0).map(drop))
    }),
    operation("create", "create, close", false, (3.0, 14.0), |dir| {
        each(dir, |path| File::create_new(beside(path)).map(drop))
    }),
    operation(
        "create_write",
        "create, write, close",
        false,
        (4.0, 16.0),
        |dir| {
            each(dir, |path| {
                File::create_new(beside(path))?.write_at(&[1; 4096], 0).map(drop)
            })
        },
    ),
    operation("mkdir", "mkdir", false, (2.0, 9.0), |dir| {
        each(dir, |path| fs::create_dir(beside(path)))
    }),
    operation("rename", "rename, cold", false, (3.0, 10.0), |dir| {
        each(dir, |path| fs::rename(path, beside(path)))
    }),
    operation("unlink", "unlink, cold", false, (2.0, 8.0), |dir| {
        each(dir, |path| fs::remove_file(path))
    }),
    operation("chmod", "chmod, warm", true, (1.0, 7.0), |dir| {
        each(dir, |path| {
            fs::set_permissions(path, fs::Permissions::from_mode(0o600))
        })
    }),
    operation("fsync", "fsync of an open file", true, (1.1, 5.0), |dir| {
        let file = OpenOptions::new().write(true).open(path(dir, 0))?;
        each(dir, |_| file.sync_all())
    }),
    operation("getxattr", "getxattr, warm", true, (1.0, 7.0), |dir| {
        each(dir, |path| {
            match rustix::fs::getxattr(path, "user.none", &mut [0_u8; 64][..]) {
                Ok(_) | Err(rustix::io::Errno::NODATA) => Ok(()),
                Err(e) => Err(e.into()),
            }
        })
    }),
];

/// What one operation took.
struct Cost {
    requests: BTreeMap<String, f64>,
    /// None without strace.
    syscalls: Option<f64>,
}

impl Cost {
    fn requests(&self) -> f64 {
        self.requests.values().sum()
    }
}

/// Counts every operation. What passes its bound fails the part.
pub(in crate::bench) fn measure(run: &Run) -> Result<Measured> {
    mount::available()?;
    let backing = Backing::make(&run.settings)?;
    let source = backing.fresh_source()?;
    for operation in &OPERATIONS {
        prepare(&source.path().join(operation.key)).context("files to work on")?;
    }
    let mounted = Mounted::mount(System::Vexfs, source.path(), &backing.mountpoint()?, None)?;
    let counters = Counters::of(&mounted)?;
    let mut measured = Measured {
        conditions: vec![
            format!(
                "{NAMES} of each, one after the other; for the owner only; backing: {}",
                backing.description()
            ),
            "system calls of the answering threads alone: two a request (read, writev), and the work's"
                .into(),
        ],
        ..Measured::default()
    };
    let mut table = Table {
        title: "Requests and system calls of the daemon, for one operation".into(),
        columns: ["requests", "at most", "system calls", "at most", "which requests"]
            .map(str::to_owned)
            .to_vec(),
        rows: Vec::new(),
    };
    let mut over = Vec::new();
    for operation in &OPERATIONS {
        run.progress.set_message(operation.name);
        let cost = count(operation, &mounted, &counters).with_context(|| operation.name)?;
        over.extend(too_much(operation, &cost));
        table.rows.push(row(operation, &cost));
        let name = |what: &str| format!("costs.{}.{what}", operation.key);
        measured
            .metrics
            .push(Metric::lower(name("requests"), "requests", cost.requests(), 0.0));
        if let Some(calls) = cost.syscalls {
            measured
                .metrics
                .push(Metric::lower(name("syscalls"), "calls", calls, 0.0));
        }
    }
    measured.tables.push(table);
    measured.metrics.extend(super::overhead::measure(run, &backing)?);
    ensure!(over.is_empty(), "more than allowed: {}", over.join("; "));
    Ok(measured)
}

fn row(operation: &Operation, cost: &Cost) -> (String, Vec<String>) {
    let which: Vec<String> = cost
        .requests
        .iter()
        .filter(|(_, n)| **n >= 0.005)
        .map(|(kind, n)| format!("{kind} {n:.2}"))
        .collect();
    let cells = vec![
        format!("{:.2}", cost.requests()),
        format!("{}", operation.requests),
        cost.syscalls.map_or("no strace".into(), |n| format!("{n:.2}")),
        format!("{}", operation.syscalls),
        which.join(", "),
    ];
    (operation.name.to_owned(), cells)
}

fn too_much(operation: &Operation, cost: &Cost) -> Vec<String> {
    let mut over = Vec::new();
    if cost.requests() > operation.requests + SLACK {
        over.push(format!("{}: {:.2} requests", operation.name, cost.requests()));
    }
    if let Some(calls) = cost.syscalls
        && calls > operation.syscalls + SLACK
    {
        over.push(format!("{}: {calls:.2} system calls", operation.name));
    }
    over
}

fn count(operation: &Operation, mounted: &Mounted<'_>, counters: &Counters) -> anyhow::Result<Cost> {
    let dir = mounted.path().join(operation.key);
    fs::metadata(&dir)?;
    if operation.warm {
        (operation.run)(&dir)?;
        sleep(LATE);
    }
    let before = counters.read()?;
    let trace = Trace::begin(&counters.answering)?;
    (operation.run)(&dir)?;
    sleep(LATE);
    let syscalls = trace.map(Trace::end).transpose()?;
    let after = counters.read()?;
    let share = |n: u64| n as f64 / NAMES as f64;
    let requests = after.into_iter().map(|(kind, n)| {
        let own = counters.own.get(&kind).copied().unwrap_or(0);
        let n = n - before.get(&kind).copied().unwrap_or(0);
        (kind, share(n.saturating_sub(own)))
    });
    Ok(Cost {
        requests: requests.collect(),
        syscalls: syscalls.map(share),
    })
}

/// The counters of the daemon, by kind of request.
struct Counters {
    metrics: PathBuf,
    /// What reading them costs.
    own: BTreeMap<String, u64>,
    /// The threads that answer.
    answering: Vec<u32>,
}

impl Counters {
    fn of(mounted: &Mounted<'_>) -> anyhow::Result<Counters> {
        let mut counters = Counters {
            metrics: mounted.path().join(".vexfs/metrics"),
            own: BTreeMap::new(),
            answering: answering(mounted.daemon()?)?,
        };
        counters.read()?;
        sleep(LATE);
        let first = counters.read()?;
        sleep(LATE);
        let second = counters.read()?;
        counters.own = second
            .into_iter()
            .map(|(kind, n)| (kind.clone(), n - first.get(&kind).copied().unwrap_or(0)))
            .collect();
        Ok(counters)
    }

    fn read(&self) -> anyhow::Result<BTreeMap<String, u64>> {
        let text = fs::read_to_string(&self.metrics).context("the daemon's counters")?;
        let count = |line: &str| -> Option<(String, u64)> {
            let rest = line.strip_prefix("vexfs_operation_seconds_count{operation=\"")?;
            let (kind, count) = rest.split_once("\"} ")?;
            Some((kind.to_owned(), count.parse().ok()?))
        };
        Ok(text.lines().filter_map(count).collect())
    }
}

/// The threads of a daemon that answer requests.
fn answering(daemon: u32) -> anyhow::Result<Vec<u32>> {
    let mut threads = Vec::new();
    for entry in fs::read_dir(format!("/proc/{daemon}/task"))? {
        let at = entry?.path();
        let number: Option<u32> = at
            .file_name()
            .and_then(|n| n.to_str())
            .and_then(|n| n.parse().ok());
        if fs::read_to_string(at.join("comm"))?.starts_with("fuser-") {
            threads.extend(number);
        }
    }
    ensure!(!threads.is_empty(), "the daemon has no thread that answers");
    Ok(threads)
}

/// strace(1), attached to some threads.
struct Trace {
    strace: Child,
    output: tempfile::NamedTempFile,
}

impl Trace {
    /// None if there is no strace, or it may not.
    fn begin(threads: &[u32]) -> anyhow::Result<Option<Trace>> {
        let output = tempfile::NamedTempFile::new()?;
        let mut command = Command::new("strace");
        command
            .args(["-q", "-c", "-U", "calls,name", "-o"])
            .arg(output.path());
        for thread in threads {
            command.arg("-p").arg(thread.to_string());
        }
        let spawned = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let Ok(strace) = spawned else { return Ok(None) };
        let mut trace = Trace { strace, output };
        let until = Instant::now() + Duration::from_secs(5);
        while !threads.iter().all(|&thread| is_traced(thread)) {
            if trace.strace.try_wait()?.is_some() {
                return Ok(None);
            }
            ensure!(Instant::now() < until, "strace does not attach");
            sleep(Duration::from_millis(2));
        }
        Ok(Some(trace))
    }

    /// The number of calls.
    fn end(mut self) -> anyhow::Result<u64> {
        let pid = Pid::from_child(&self.strace);
        kill_process(pid, Signal::INT)?;
        self.strace.wait()?;
        let text = fs::read_to_string(self.output.path())?;
        let calls = |line: &str| line.split_whitespace().next()?.parse::<u64>().ok();
        let rows = text.lines().filter(|line| !line.trim_end().ends_with("total"));
        Ok(rows.filter_map(calls).sum())
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        // It has ended already, but after an error.
        let _ = self.strace.kill();
        let _ = self.strace.wait();
    }
}

fn is_traced(thread: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
    let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
    tracer.is_some_and(|pid| pid.trim() != "0")
}

fn prepare(dir: &Path) -> io::Result<()> {
    fs::create_dir(dir)?;
    (0..NAMES).try_for_each(|n| fs::write(path(dir, n), [7; 4096]))
}

fn path(dir: &Path, n: usize) -> PathBuf {
    dir.join(format!("f{n:03}"))
}

/// Another name in the same directory, which is free.
fn beside(path: &Path) -> PathBuf {
    path.with_extension("new")
}

fn each(dir: &Path, mut f: impl FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    (0..NAMES).try_for_each(|n| f(&path(dir, n)))
}

fn read(path: &Path) -> io::Result<()> {
    File::open(path)?.read_at(&mut [0; 4096], 0).map(drop)
}

fn write(path: &Path) -> io::Result<()> {
    OpenOptions::new()
        .write(true)
        .open(path)?
        .write_at(&[2; 4096], 0)
        .map(drop)
}

fn list(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        entry?.metadata()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cost_above_its_bound_is_named() {
        let cost = |requests: f64, syscalls| Cost {
            requests: BTreeMap::from([("lookup".to_owned(), requests)]),
            syscalls,
        };
        let stat = &OPERATIONS[0];
        assert!(too_much(stat, &cost(1.05, Some(4.1))).is_empty());
        assert!(too_much(stat, &cost(1.0, None)).is_empty());
        assert_eq!(
            too_much(stat, &cost(2.0, Some(4.0))),
            ["stat, cold: 2.00 requests"]
        );
        assert_eq!(
            too_much(stat, &cost(1.0, Some(5.0))),
            ["stat, cold: 5.00 system calls"]
        );
    }
}
