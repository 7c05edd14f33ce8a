//! The price of a FUSE request as such: a filesystem that does nothing, answering GETATTR.

use std::fs;
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use fuser::{FileAttr, FileHandle, FileType, INodeNo, ReplyAttr, Request};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use vexfs_mount::Filesystem;
use vexfs_mount::options::MountOptions;

use super::{NULL_FUSE, NULL_FUSE_UNPINNED};
use crate::bench::metric::Metric;
use crate::bench::sample::Latencies;
use crate::bench::{Result, Run, mount};

/// A directory of which nothing may be cached, so that every stat is a request.
struct Nothing {
    attr: FileAttr,
}

impl Filesystem for Nothing {
    fn getattr(&self, _request: &Request, _ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&Duration::ZERO, &self.attr);
    }
}

/// The round trip with client and daemon on one CPU (the cost of the software alone, repeatable), and where the
/// scheduler puts them (bimodal: waking another CPU costs several times as much).
pub(super) fn measure(run: &Run) -> Result<Vec<Metric>> {
    let mut metrics = Vec::new();
    for (name, pinned, workload) in [
        (
            NULL_FUSE,
            true,
            "stat, 1 GETATTR, daemon does nothing, one CPU for both",
        ),
        (
            NULL_FUSE_UNPINNED,
            false,
            "stat, 1 GETATTR, daemon does nothing, not pinned",
        ),
    ] {
        // A thread of its own, so that the affinity ends with it; the session's threads inherit it.
        let latencies = thread::scope(|scope| {
            let timed = scope.spawn(|| {
                if pinned {
                    pin_to_this_cpu()?;
                }
                round_trips(run)
            });
            timed.join().expect("does not panic")
        })?;
        let (p50, noise) = latencies.p50_us();
        metrics.push(
            Metric::lower(name, "us", p50, noise)
                .latency(latencies.summary())
                .workload(workload),
        );
    }
    Ok(metrics)
}

fn pin_to_this_cpu() -> Result<()> {
    let allowed = sched_getaffinity(None).context("sched_getaffinity")?;
    let first = (0..CpuSet::MAX_CPU).find(|&cpu| allowed.is_set(cpu));
    let mut one = CpuSet::new();
    one.set(first.context("no CPU")?);
    sched_setaffinity(None, &one).context("sched_setaffinity")
}

fn round_trips(run: &Run) -> Result<Latencies> {
    let (source, mountpoint) = (run.work.join("null-source"), run.work.join("null"));
    fs::create_dir_all(&source)?;
    fs::create_dir_all(&mountpoint)?;
    let mut options = MountOptions::parse([])?;
    options.threads = std::num::NonZeroUsize::new(1);
    let nothing = Nothing { attr: attr() };
    mount::served(
        (&source, &mountpoint),
        &options,
        |_| Ok(nothing),
        || {
            // The stat of the first call may wait for the session; it is not representative.
            fs::metadata(&mountpoint)?;
            Latencies::repeat(run.budget() * 2, || fs::metadata(&mountpoint).map(drop))
        },
    )
}

fn attr() -> FileAttr {
    FileAttr {
        ino: INodeNo(1),
        size: 0,
        blocks: 0,
        atime: SystemTime::UNIX_EPOCH,
        mtime: SystemTime::UNIX_EPOCH,
        ctime: SystemTime::UNIX_EPOCH,
        crtime: SystemTime::UNIX_EPOCH,
        kind: FileType::Directory,
        perm: 0o755,
        nlink: 2,
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}
