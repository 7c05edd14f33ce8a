//! The filesystem beside the bare directory, bindfs and mergerfs, in one run.
//!
//! Regime A pins clients and daemons to one CPU: pure software cost, repeatable to about 5 %. Regime B leaves the choice
//! to the scheduler, with 1, 2 and 4 client threads. Systems take turns round by round, so that what disturbs one
//! disturbs all; of each phase the best round counts.

mod backing;
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
use super::quantiles::Summary;
use super::{Part, PartReport, Settings, Table};

/// The part `fs`.
pub(super) struct FsPart;

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

impl Part for FsPart {
    fn name(&self) -> &'static str {
        "fs"
    }

    fn measure(&self, settings: &Settings, progress: &ProgressBar) -> anyhow::Result<PartReport> {
        let work = Work::sized(settings);
        let rounds = settings.rounds.unwrap_or(if settings.quick { 1 } else { 3 });
        let backing = Backing::make(settings)?;
        let systems = systems::installed(settings.quick);
        let free = settings.threads.iter().copied().filter(|&threads| threads > 0);
        let plan: Vec<(Regime, usize)> = [(Regime::Pinned, 1)]
            .into_iter()
            .chain(free.map(|n| (Regime::Free, n)))
            .collect();
        progress.set_length((plan.len() * rounds * systems.len()) as u64);

        let mut report = PartReport {
            conditions: conditions(&work, rounds, &backing),
            ..PartReport::default()
        };
        let mut raw = Vec::new();
        for (regime, threads) in plan {
            let results = run_regime(regime, threads, rounds, &work, &systems, &backing, progress)?;
            report.tables.extend(tables(regime, threads, &systems, &results));
            if regime == Regime::Pinned {
                report.figures = figures(&results);
            }
            raw.extend(raw_rows(regime, threads, &results));
        }
        report.raw = raw.into();
        Ok(report)
    }
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
            progress.inc(1);
            let of_system = best.entry(system).or_default();
            for (phase, summary) in measured {
                let kept = of_system.entry(phase).or_insert(summary);
                if summary.p50_us < kept.p50_us {
                    *kept = summary;
                }
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

/// Time over bare time, or bandwidth over bare bandwidth. Times are medians of single operations: other work on the
/// machine, which hits few of them hard, would decide the means.
fn ratio(unit: Unit, measured: &Summary, bare: &Summary) -> f64 {
    match unit {
        Unit::Operation => measured.p50_us / bare.p50_us,
        Unit::Bytes(_) => bare.mean_us / measured.mean_us,
    }
}

fn in_unit(unit: Unit, measured: &Summary) -> String {
    match unit {
        Unit::Operation => format!("{:.2}", measured.p50_us),
        Unit::Bytes(each) => format!(
            "{:.0}",
            each as f64 / f64::from(1 << 20) / (measured.mean_us / 1e6)
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

/// Single figures of VexFS on one CPU.
fn figures(results: &Results) -> BTreeMap<String, f64> {
    let mut figures = BTreeMap::new();
    let (Some(bare), Some(vexfs)) = (results.get(&System::Bare), results.get(&System::Vexfs)) else {
        return figures;
    };
    let (mut operations, mut seconds) = (0.0, 0.0);
    for info in &PHASES {
        let (Some(bare), Some(measured)) = (bare.get(&info.phase), vexfs.get(&info.phase)) else {
            continue;
        };
        let key = serde_json::to_value(info.phase)
            .ok()
            .and_then(|v| v.as_str().map(str::to_owned));
        figures.insert(
            format!("ratio_{}", key.unwrap_or_default()),
            ratio(info.unit, measured, bare),
        );
        if info.unit == Unit::Operation {
            operations += measured.operations as f64;
            seconds += measured.operations as f64 * measured.mean_us / 1e6;
        }
    }
    figures.insert("fuse_ops_per_sec".into(), operations / seconds);
    figures
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
