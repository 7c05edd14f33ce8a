//! The filesystem beside the bare directory, bindfs and mergerfs, in one run.
//!
//! Regime A pins clients and daemons to one CPU: pure software cost, repeatable to about 5 %. Regime B leaves the choice
//! to the scheduler, with 1, 2 and 4 client threads. Systems take turns round by round, so that what disturbs one
//! disturbs all; of each phase the best round counts.

mod backing;
pub(super) mod costs;
pub(super) mod memory;
mod overhead;
mod systems;
mod workload;

use std::collections::BTreeMap;

use anyhow::Context;
use indicatif::ProgressBar;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde_json::json;

use self::backing::Backing;
use self::systems::System;
use self::workload::{PHASES, Phase, PhaseInfo, Unit, Work};
use super::metric::{Latency, Measured, Metric, Table};
use super::quantiles::Summary;
use super::{CACHED_OPS, FUSE_OPS, NATIVE, Result, Run, mount};

/// The best round of each phase of each system.
type Results = BTreeMap<System, BTreeMap<Phase, Summary>>;

/// Where the threads may run.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Regime {
    /// On one CPU, all of them.
    Pinned,
    /// Where the scheduler wants.
    Free,
}

/// Measures all phases of all systems.
pub(super) fn measure(run: &Run) -> Result<Measured> {
    mount::available()?;
    let (settings, progress) = (&run.settings, &run.progress);
    let work = Work::sized(settings);
    let rounds = settings.rounds.unwrap_or(if settings.quick { 1 } else { 3 });
    let backing = Backing::make(settings)?;
    let systems = systems::installed(settings.quick);
    let plan: Vec<(Regime, usize)> = [(Regime::Pinned, 1)]
        .into_iter()
        .chain(settings.client_threads().into_iter().map(|n| (Regime::Free, n)))
        .collect();

    let mut measured = Measured {
        conditions: conditions(&work, rounds, &backing),
        ..Measured::default()
    };
    let mut raw = Vec::new();
    for (regime, threads) in plan {
        let results = run_regime(regime, threads, rounds, &work, &systems, &backing, progress)?;
        measured
            .tables
            .extend(tables(regime, threads, &systems, &results));
        if regime == Regime::Pinned {
            measured.metrics = metrics(&results);
            measured.metrics.push(cached(&work, &backing)?);
        }
        raw.extend(raw_rows(regime, threads, &results));
    }
    measured.raw = raw.into();
    Ok(measured)
}

fn conditions(work: &Work, rounds: usize, backing: &Backing) -> Vec<String> {
    vec![
        format!("{} files a thread, data files of {} MiB, best of {rounds} rounds", work.files, work.data_mib),
        format!("backing: {}", backing.description()),
        "cold: just mounted again, the caches of the backing filesystem hot; warm: asked before".into(),
        "vexfs: for its owner only, index=manual; vexfs-shared: allow_other, so that the kernel checks permissions"
            .into(),
    ]
}

/// All systems, round by round.
fn run_regime(
    regime: Regime,
    threads: usize,
    rounds: usize,
    work: &Work,
    systems: &[System],
    backing: &Backing,
    progress: &ProgressBar,
) -> anyhow::Result<Results> {
    let before = sched_getaffinity(None).context("sched_getaffinity")?;
    if regime == Regime::Pinned {
        sched_setaffinity(None, &last_of(&before)).context("pinning to one CPU")?;
    }
    let mut best = Results::new();
    let outcome = (0..rounds).try_for_each(|round| {
        systems.iter().try_for_each(|&system| {
            progress.set_message(format!(
                "{}, {threads} threads, round {}",
                system.name(),
                round + 1
            ));
            let measured = workload::run(system, threads, work, backing)
                .with_context(|| format!("{}, {threads} threads", system.name()))?;
            let of_system = best.entry(system).or_default();
            for (phase, summary) in measured {
                let kept = of_system.entry(phase).or_insert(summary);
                let between = (summary.p50_us - kept.p50_us).abs() / kept.p50_us;
                let noise = kept.noise.max(summary.noise).max(between);
                if summary.p50_us < kept.p50_us {
                    *kept = summary;
                }
                kept.noise = noise;
            }
            anyhow::Ok(())
        })
    });
    sched_setaffinity(None, &before).context("unpinning")?;
    outcome.map(|()| best)
}

/// The last CPU of the set: interrupts prefer the first.
fn last_of(cpus: &CpuSet) -> CpuSet {
    let mut one = CpuSet::new();
    if let Some(last) = (0..CpuSet::MAX_CPU).rev().find(|&cpu| cpus.is_set(cpu)) {
        one.set(last);
    }
    one
}

/// The tables of one regime: what VexFS does, and how all compare.
fn tables(regime: Regime, threads: usize, systems: &[System], results: &Results) -> Vec<Table> {
    let what = match regime {
        Regime::Pinned => "one CPU, 1 thread".to_owned(),
        Regime::Free => format!(
            "unpinned, {threads} thread{}",
            if threads == 1 { "" } else { "s" }
        ),
    };
    let others: Vec<System> = systems
        .iter()
        .copied()
        .filter(|&system| system != System::Bare)
        .collect();
    let mut ratios = Table {
        title: format!("{what}: ratio to the bare directory (below MiB/s: share of its bandwidth)"),
        columns: ["bare", "unit"]
            .into_iter()
            .chain(others.iter().map(|s| s.name()))
            .map(str::to_owned)
            .collect(),
        rows: Vec::new(),
    };
    let with_goals = regime == Regime::Pinned;
    if with_goals {
        ratios.columns.push("goal".into());
    }
    let mut single = Table {
        title: format!("{what}: single operations, us: median and 99th percentile"),
        columns: ["bare p50", "bare p99", "vexfs p50", "vexfs p99"]
            .map(str::to_owned)
            .to_vec(),
        rows: Vec::new(),
    };
    for info in &PHASES {
        let of = |system| results.get(&system).and_then(|phases| phases.get(&info.phase));
        let Some(bare) = of(System::Bare) else { continue };
        let mut cells = vec![in_unit(info.unit, bare), unit_name(info.unit).to_owned()];
        cells.extend(
            others
                .iter()
                .map(|&s| of(s).map_or(String::new(), |m| format!("{:.2}", ratio(info.unit, m, bare)))),
        );
        if with_goals {
            cells.push(goal(info));
        }
        ratios.rows.push((info.name.to_owned(), cells));
        if let Some(vexfs) = of(System::Vexfs) {
            let times = [bare.p50_us, bare.p99_us, vexfs.p50_us, vexfs.p99_us];
            single
                .rows
                .push((info.name.to_owned(), times.map(|us| format!("{us:.2}")).to_vec()));
        }
    }
    vec![ratios, single]
}

/// Time over bare time, or bandwidth over bare bandwidth, of the median operation: other work on the machine, which
/// hits few of them hard, would decide the means.
fn ratio(unit: Unit, measured: &Summary, bare: &Summary) -> f64 {
    match unit {
        Unit::Operation => measured.p50_us / bare.p50_us,
        Unit::Bytes(_) => bare.p50_us / measured.p50_us,
    }
}

fn in_unit(unit: Unit, measured: &Summary) -> String {
    match unit {
        Unit::Operation => format!("{:.2}", measured.p50_us),
        Unit::Bytes(each) => format!(
            "{:.0}",
            each as f64 / f64::from(1 << 20) / (measured.p50_us / 1e6)
        ),
    }
}

fn unit_name(unit: Unit) -> &'static str {
    match unit {
        Unit::Operation => "us",
        Unit::Bytes(_) => "MiB/s",
    }
}

fn goal(info: &PhaseInfo) -> String {
    match info.unit {
        Unit::Operation => format!("<= {}", info.goal),
        Unit::Bytes(_) => format!(">= {}", info.goal),
    }
}

/// Metadata phases whose every operation reaches the daemon, with one to three requests.
const REACHING: [Phase; 5] = [
    Phase::Create,
    Phase::StatCold,
    Phase::OpenReadCold,
    Phase::Rename,
    Phase::Unlink,
];

/// VexFS on one CPU, each phase against the bare directory, and beside its peers.
fn metrics(results: &Results) -> Vec<Metric> {
    let (Some(bare), Some(vexfs)) = (results.get(&System::Bare), results.get(&System::Vexfs)) else {
        return Vec::new();
    };
    let mut metrics = Vec::new();
    for info in &PHASES {
        let (Some(bare), Some(measured)) = (bare.get(&info.phase), vexfs.get(&info.phase)) else {
            continue;
        };
        let name = format!("fs.{}", key(info.phase));
        let mut metric = match info.unit {
            Unit::Operation => Metric::lower(name, "us", value(info.unit, measured), measured.noise),
            Unit::Bytes(_) => Metric::higher(name, "MiB/s", value(info.unit, measured), measured.noise),
        };
        metric = metric
            .against(NATIVE, value(info.unit, bare))
            .latency(latency(measured))
            .workload(format!("{}, one thread, one CPU", info.name));
        for peer in [System::Bindfs, System::Mergerfs] {
            if let Some(of_peer) = results.get(&peer).and_then(|phases| phases.get(&info.phase)) {
                metric = metric.peer(peer.name(), value(info.unit, of_peer));
            }
        }
        metrics.push(metric);
    }
    metrics.extend(rate(FUSE_OPS, &[Phase::StatCold], bare, vexfs));
    metrics.extend(rate("fs.daemon_mix_ops", &REACHING, bare, vexfs));
    metrics
}

/// Stats a second that the kernel answers alone, with a client for each CPU.
fn cached(work: &Work, backing: &Backing) -> anyhow::Result<Metric> {
    let clients = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let bare = workload::run_cached(System::Bare, clients, work, backing).context("cached stats, bare")?;
    let vexfs = workload::run_cached(System::Vexfs, clients, work, backing).context("cached stats, vexfs")?;
    let per_second = |summary: &Summary| 1e6 / summary.mean_us;
    Ok(
        Metric::higher(CACHED_OPS, "ops/s", per_second(&vexfs), vexfs.noise)
            .against(NATIVE, per_second(&bare))
            .workload(format!("stat_warm, {clients} threads together, not pinned")),
    )
}

/// Operations a second over some phases, as many of each, from their medians.
fn rate(
    name: &str,
    phases: &[Phase],
    bare: &BTreeMap<Phase, Summary>,
    vexfs: &BTreeMap<Phase, Summary>,
) -> Option<Metric> {
    let per_second = |of: &BTreeMap<Phase, Summary>| -> Option<f64> {
        let times: Option<Vec<f64>> = phases
            .iter()
            .map(|phase| of.get(phase).map(|s| s.p50_us))
            .collect();
        Some(phases.len() as f64 * 1e6 / times?.iter().sum::<f64>())
    };
    let words: Vec<String> = phases.iter().map(|&phase| key(phase)).collect();
    let noise = phases
        .iter()
        .filter_map(|phase| vexfs.get(phase))
        .map(|s| s.noise);
    Some(
        Metric::higher(name, "ops/s", per_second(vexfs)?, noise.fold(0.0, f64::max))
            .against(NATIVE, per_second(bare)?)
            .workload(format!(
                "as many each of {}; one thread, one CPU",
                words.join(", ")
            )),
    )
}

/// Microseconds an operation, or MiB/s, of the median.
fn value(unit: Unit, summary: &Summary) -> f64 {
    match unit {
        Unit::Operation => summary.p50_us,
        Unit::Bytes(each) => each as f64 / f64::from(1 << 20) / (summary.p50_us / 1e6),
    }
}

fn latency(summary: &Summary) -> Latency {
    Latency {
        average_us: summary.mean_us,
        p50_us: summary.p50_us,
        p99_us: summary.p99_us,
        p999_us: summary.p999_us,
    }
}

/// The phase in one word.
fn key(phase: Phase) -> String {
    let value = serde_json::to_value(phase).expect("a variant without data is a string");
    value.as_str().unwrap_or_default().to_owned()
}

fn raw_rows(regime: Regime, threads: usize, results: &Results) -> Vec<serde_json::Value> {
    let pinned = regime == Regime::Pinned;
    let row = |system: System, phase: Phase, summary: &Summary| json!({ "pinned": pinned, "threads": threads, "system": system.name(), "phase": phase, "measured": summary });
    let of_system = |(&system, phases): (&System, &BTreeMap<Phase, Summary>)| -> Vec<serde_json::Value> {
        phases
            .iter()
            .map(|(&phase, summary)| row(system, phase, summary))
            .collect()
    };
    results.iter().flat_map(of_system).collect()
}
