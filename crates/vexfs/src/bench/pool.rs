//! The buffer pool against the allocators it stands in for, on recorded traces of real work.
//!
//! A trace is recorded while programs list, read attributes and read contents through a mount; then the same takes and
//! gives, in the same order, are replayed against the pool, the system's allocator and mimalloc.

mod replay;
mod workload;

use vexfs_core::pool::trace::Trace;
use vexfs_core::pool::{self, Limits, Pool};

use self::replay::Source;
use super::metric::{Measured, Metric};
use super::sample::{self, ROUNDS};
use super::{Result, Run};

/// Share of takes that needed no allocation.
pub const HIT_RATE: &str = "pool.hit_rate";
/// Share of the bytes handed out that nobody asked for.
pub const WASTE: &str = "pool.internal_fragmentation";
/// Time of a take and its give.
pub const PAIR: &str = "pool.pair";

/// Measures the pool of this process, its bounds included, on every recorded mix.
pub fn measure(run: &Run) -> Result<Measured> {
    let mut metrics = Vec::new();
    for (name, trace) in workload::record(run)? {
        run.progress.set_message(format!("{name}, replay"));
        metrics.extend(of_trace(run, name, &trace));
    }
    // The whole is judged by its worst mix.
    for (whole, worst) in [(HIT_RATE, f64::min as fn(f64, f64) -> f64), (WASTE, f64::max)] {
        let prefix = format!("{whole}.");
        let of_mixes = metrics.iter().filter(|m| m.name.starts_with(&prefix)).cloned();
        let found = of_mixes.reduce(|a, b| if worst(a.value, b.value) == a.value { a } else { b });
        if let Some(mut metric) = found {
            metric.workload = format!("the worst mix, {}", metric.name);
            metric.name = whole.to_owned();
            metrics.push(metric);
        }
    }
    Ok(metrics.into())
}

/// Those of this process's pool, unless others were asked for.
fn limits(run: &Run) -> Limits {
    match run.settings.pool_buffers {
        None => pool::shared().limits(),
        Some(buffers) => Limits {
            per_thread: [0; 3],
            shared: [buffers; 3],
            shared_bytes_max: 0,
            large_bytes_per_thread: 0,
            large_bytes_max: 0,
        },
    }
}

fn of_trace(run: &Run, name: &str, trace: &Trace) -> Vec<Metric> {
    let pool: &'static Pool = Box::leak(Box::new(Pool::new(limits(run))));
    // Once to fill the stacks, as any later minute of a daemon's life finds them; then with statistics.
    replay::run(trace, Source::Pool(pool));
    pool.tend();
    replay::run(trace, Source::Pool(pool));
    let before = pool.statistics();
    replay::run(trace, Source::Pool(pool));
    let counted = pool.statistics().since(&before);

    let [(pooled, noise), (system, _), (uncleared, _), (mimalloc, _)] = pair_ns(run, trace, pool);
    let workload = format!(
        "{name}: {} takes recorded on {} threads, at most {} in use at once",
        trace.steps.len() / 2,
        trace.threads,
        trace.slots
    );
    vec![
        Metric::lower(format!("{PAIR}.{name}"), "ns", pooled, noise)
            .against("system allocator", system)
            .peer("system allocator", system)
            .peer("system allocator, not cleared", uncleared)
            .peer("mimalloc", mimalloc)
            .workload(workload.clone()),
        Metric::higher(format!("{HIT_RATE}.{name}"), "share", counted.hit_rate(), 0.0)
            .workload(workload.clone()),
        Metric::lower(
            format!("{WASTE}.{name}"),
            "fraction",
            counted.internal_fragmentation(),
            0.0,
        )
        .workload(workload.clone()),
        Metric::lower(
            format!("pool.idle_bytes.{name}"),
            "bytes",
            counted.idle_bytes() as f64,
            0.0,
        )
        .workload(workload),
    ]
}

/// Nanoseconds of a take and its give from pool, system (cleared, and not) and mimalloc. Rounds alternate, so that all
/// see the same disturbances.
fn pair_ns(run: &Run, trace: &Trace, pool: &'static Pool) -> [(f64, f64); 4] {
    let sources = [
        Source::Pool(pool),
        Source::System,
        Source::SystemUncleared,
        Source::Mimalloc,
    ];
    let pairs = (trace.steps.len() / 2).max(1);
    let once = replay::run(trace, Source::System).as_secs_f64();
    let repeats = (run.budget().as_secs_f64() / 8.0 / once.max(1e-6)).clamp(1.0, 10_000.0) as usize;
    let mut rounds: [Vec<f64>; 4] = Default::default();
    for _ in 0..ROUNDS {
        for (source, times) in sources.iter().zip(&mut rounds) {
            let took: f64 = (0..repeats)
                .map(|_| replay::run(trace, *source).as_secs_f64())
                .sum();
            times.push(took * 1e9 / (repeats * pairs) as f64);
        }
    }
    rounds.map(|times| sample::median_and_noise(&times))
}
