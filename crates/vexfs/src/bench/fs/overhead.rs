//! What recording metrics costs: the same request with and without it, by turns.

use std::fs::{self, File};
use std::sync::Arc;
use std::time::Instant;

use vexfs_core::change::{Change, ChangeSink};
use vexfs_core::engine::Engine;
use vexfs_core::fs::ops::Caller;
use vexfs_core::fs::{Stack, StackOptions};
use vexfs_core::ids::{Ino, NodeKey};
use vexfs_core::metrics::{Metrics, Operation};

use super::backing::Backing;
use crate::bench::metric::Metric;
use crate::bench::sample::median_and_noise;
use crate::bench::{Result, Run};

/// Turns of each.
const TURNS: usize = 41;
/// Requests of a turn: about a millisecond.
const REQUESTS: u32 = 1_000;

/// Nobody indexes here.
struct Unheard;

impl ChangeSink for Unheard {
    fn maybe_changed(&self, _: NodeKey) {}
    fn changed(&self, _: Change) {}
}

/// The share of a cold stat that recording it takes; nothing if that stat was not measured in this run.
pub(super) fn measure(run: &Run, backing: &Backing) -> Result<Option<Metric>> {
    let Some(stat_us) = run.earlier("fs.stat_cold") else {
        return Ok(None);
    };
    let source = backing.fresh_source()?;
    fs::write(source.path().join("file"), "content")?;
    let root = File::open(source.path())?;
    let stack = Arc::new(Stack::new(
        root.into(),
        StackOptions::default(),
        Arc::new(Unheard),
    )?);
    let metrics = Arc::new(Metrics::new());
    let engine = Engine::new(stack.clone(), None, metrics.clone());
    let caller = Caller {
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        pid: std::process::id(),
    };
    let file = engine.lookup(&caller, Ino::ROOT, "file".as_ref())?.attr.ino;
    let mut differences = Vec::with_capacity(TURNS);
    for _ in 0..TURNS {
        let recorded =
            nanoseconds(|| metrics.time(Operation::Getattr, || stack.getattr(file, None).map(drop)))?;
        let bare = nanoseconds(|| stack.getattr(file, None).map(drop))?;
        differences.push(recorded - bare);
    }
    let (difference_ns, _) = median_and_noise(&differences);
    let share = difference_ns.max(0.0) / 1e3 / stat_us;
    Ok(Some(
        Metric::lower("fs.metrics_overhead", "fraction", share, 0.0).workload(format!(
            "getattr with and without recording, {TURNS} turns of {REQUESTS}: {difference_ns:.0} ns of the {stat_us:.1} us \
             that a stat takes through the mount"
        )),
    ))
}

fn nanoseconds(mut request: impl FnMut() -> vexfs_core::Result<()>) -> Result<f64> {
    let begin = Instant::now();
    for _ in 0..REQUESTS {
        request()?;
    }
    Ok(begin.elapsed().as_nanos() as f64 / f64::from(REQUESTS))
}
