//! What was asked for, and how far ahead or behind the measured values are.

use serde::{Deserialize, Serialize};

use super::metric::{Better, Measurements};

/// A floor and an aim for one metric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Target {
    /// What it is called in the specification.
    pub name: &'static str,
    /// The metric that is held against it.
    pub metric: &'static str,
    /// Unit of floor and aim, the metric's.
    pub unit: &'static str,
    /// Which way is better.
    pub better: Better,
    /// The specification's figure.
    pub floor: f64,
    /// The real aim, where there is one.
    pub aim: Option<f64>,
}

const fn target(
    name: &'static str,
    metric: &'static str,
    unit: &'static str,
    better: Better,
    floor: f64,
    aim: Option<f64>,
) -> Target {
    Target {
        name,
        metric,
        unit,
        better,
        floor,
        aim,
    }
}

/// All targets. The specification states no workload for its rates; each is held against a metric that does.
pub const TARGETS: [Target; 8] = [
    target(
        "FUSE operations, answered by the daemon",
        super::FUSE_OPS,
        "ops/s",
        Better::Higher,
        4_000.0,
        Some(50_000.0),
    ),
    target(
        "FUSE operations, answered by the kernel's cache",
        super::CACHED_OPS,
        "ops/s",
        Better::Higher,
        4_000.0,
        Some(500_000.0),
    ),
    target(
        "vector operations",
        super::VECTOR_OPS,
        "ops/s",
        Better::Higher,
        2_000.0,
        Some(10_000.0),
    ),
    target(
        "semantic operations",
        super::SEMANTIC_OPS,
        "ops/s",
        Better::Higher,
        650.0,
        Some(1_000.0),
    ),
    target(
        "buffer pool hit rate",
        super::pool::HIT_RATE,
        "share",
        Better::Higher,
        0.85,
        Some(0.99),
    ),
    target(
        "SIMD level in use",
        super::simd::LEVEL_SHARE,
        "share",
        Better::Higher,
        0.5,
        Some(0.9),
    ),
    target(
        "stack of a FUSE operation",
        super::STACK,
        "bytes",
        Better::Lower,
        6.0 * 1024.0,
        Some(4.0 * 1024.0),
    ),
    target(
        "recording metrics, of a stat",
        "fs.metrics_overhead",
        "fraction",
        Better::Lower,
        0.01,
        None,
    ),
];

/// A target and what was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    /// The target's name.
    pub name: String,
    /// The metric held against it.
    pub metric: String,
    /// Unit.
    pub unit: String,
    /// The specification's figure.
    pub floor: f64,
    /// The real aim.
    pub aim: Option<f64>,
    /// What was measured; None when it was not.
    pub value: Option<f64>,
    /// The workload that it was measured with.
    pub workload: String,
    /// Value over floor, or floor over value, whichever is 1 at the floor and more when better.
    pub times_floor: Option<f64>,
    /// Whether the aim, or without one the floor, was reached.
    pub reached: Option<bool>,
}

/// How a run stands to all targets that it has something to say about.
pub fn standings(measurements: &Measurements) -> Vec<Standing> {
    TARGETS
        .iter()
        .map(|target| standing(target, measurements))
        .collect()
}

fn standing(target: &Target, measurements: &Measurements) -> Standing {
    let metric = measurements.metric(target.metric);
    let value = metric.map(|m| m.value);
    let goodness = |goal: f64| {
        value.map(|value| match target.better {
            Better::Higher => value / goal,
            Better::Lower => goal / value.max(f64::MIN_POSITIVE),
        })
    };
    Standing {
        name: target.name.to_owned(),
        metric: target.metric.to_owned(),
        unit: target.unit.to_owned(),
        floor: target.floor,
        aim: target.aim,
        value,
        workload: metric.map(|m| m.workload.clone()).unwrap_or_default(),
        times_floor: goodness(target.floor),
        reached: goodness(target.aim.unwrap_or(target.floor)).map(|times| times >= 1.0),
    }
}

#[cfg(test)]
mod tests {
    use super::super::metric::Metric;
    use super::super::metric::tests::measured;
    use super::*;

    #[test]
    fn ahead_and_behind_are_told_apart_and_the_unmeasured_is_left_open() {
        let run = measured(vec![
            Metric::higher(super::super::FUSE_OPS, "ops/s", 40_000.0, 0.0).workload("stat"),
            Metric::lower(super::super::STACK, "bytes", 3000.0, 0.0),
        ]);
        let standings = standings(&run);
        let of = |metric: &str| standings.iter().find(|s| s.metric == metric).unwrap();
        let ops = of(super::super::FUSE_OPS);
        assert_eq!(
            (ops.times_floor, ops.reached, ops.workload.as_str()),
            (Some(10.0), Some(false), "stat")
        );
        assert_eq!(of(super::super::STACK).reached, Some(true));
        assert_eq!(of(super::super::VECTOR_OPS).value, None);
        assert_eq!(of(super::super::VECTOR_OPS).reached, None);
    }
}
