//! The regression gate: a run against an earlier one, by ratios to the limits measured in the same run.
//!
//! Ratios hold across machines and across noise that slows everything; absolute times do neither.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::Result;
use super::metric::{Measurements, Metric};

/// A metric may get this much worse, at least: two quick runs of the same program differ by about half of it.
const TOLERANCE: f64 = 0.3;

/// And at least this many times the noise of both runs together.
const NOISES: f64 = 4.0;

/// A share (of hits, of recall) is counted, not timed: it may fall by this much.
const SHARE_TOLERANCE: f64 = 0.05;

/// A metric that got worse.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Regression {
    /// Its name.
    pub metric: String,
    /// How good it was: see [`Metric::goodness`].
    pub before: f64,
    /// How good it is; None if it was not measured any more though its part ran.
    pub now: Option<f64>,
    /// The least that would have passed.
    pub least: f64,
}

impl Regression {
    /// One line.
    pub fn line(&self) -> String {
        match self.now {
            Some(now) => format!(
                "{}: {:.3} of its limit, was {:.3}, must be {:.3} at least ({:.0} % slower)",
                self.metric,
                now,
                self.before,
                self.least,
                (self.before / now.max(f64::MIN_POSITIVE) - 1.0) * 100.0
            ),
            None => format!("{}: was measured before, and is not any more", self.metric),
        }
    }
}

/// Reads the report of an earlier run.
///
/// # Errors
/// When it is not there or no report.
pub fn read(path: &Path) -> Result<Measurements> {
    let file = File::open(path).with_context(|| format!("baseline {}", path.display()))?;
    serde_json::from_reader(BufReader::new(file))
        .with_context(|| format!("{} is not a report of performance_benchmark", path.display()))
}

/// What got worse, worst first. Parts that this run left out are not compared.
pub fn regressions(baseline: &Measurements, now: &Measurements) -> Vec<Regression> {
    let mut found: Vec<Regression> = baseline
        .parts
        .iter()
        .filter(|part| now.part(&part.name).is_some_and(|part| part.skipped.is_none()))
        .flat_map(|part| &part.metrics)
        .filter_map(|before| compare(before, now.metric(&before.name)))
        .collect();
    let severity = |r: &Regression| r.now.unwrap_or(0.0) / r.before;
    found.sort_by(|a, b| severity(a).total_cmp(&severity(b)));
    found
}

fn compare(before: &Metric, now: Option<&Metric>) -> Option<Regression> {
    let then = before.goodness()?;
    let regression = |now, least| {
        Some(Regression {
            metric: before.name.clone(),
            before: then,
            now,
            least,
        })
    };
    let Some(now) = now else {
        return regression(None, then);
    };
    let least = then * (1.0 - tolerance(before, now));
    match now.goodness() {
        Some(goodness) if goodness >= least => None,
        goodness => regression(goodness, least),
    }
}

/// How much worse, relatively, is still no regression. Never everything.
fn tolerance(before: &Metric, now: &Metric) -> f64 {
    let counted = before.unit == "share" && before.reference.is_none() && before.noise == 0.0;
    let least = if counted { SHARE_TOLERANCE } else { TOLERANCE };
    (NOISES * before.noise.hypot(now.noise)).clamp(least, 0.8)
}

#[cfg(test)]
mod tests {
    use super::super::metric::tests::measured;
    use super::*;

    fn us(value: f64, noise: f64, limit: f64) -> Measurements {
        measured(vec![
            Metric::lower("fs.getattr", "us", value, noise).against("null", limit),
        ])
    }

    fn names(found: &[Regression]) -> Vec<&str> {
        found.iter().map(|r| r.metric.as_str()).collect()
    }

    #[test]
    fn a_slower_machine_is_no_regression() {
        assert_eq!(regressions(&us(8.0, 0.02, 4.0), &us(80.0, 0.02, 40.0)), []);
    }

    #[test]
    fn a_slower_program_is() {
        let found = regressions(&us(8.0, 0.02, 4.0), &us(16.0, 0.02, 4.0));
        assert_eq!(names(&found), ["fs.getattr"]);
        assert!(found[0].line().contains("100 % slower"), "{}", found[0].line());
    }

    #[test]
    fn noise_widens_what_is_tolerated_but_never_to_everything() {
        assert_eq!(regressions(&us(8.0, 0.15, 4.0), &us(16.0, 0.15, 4.0)), []);
        assert_eq!(regressions(&us(8.0, 3.0, 4.0), &us(80.0, 3.0, 4.0)).len(), 1);
    }

    #[test]
    fn a_share_that_falls_is_noticed_early() {
        let share = |value| measured(vec![Metric::higher("pool.hit_rate", "share", value, 0.0)]);
        assert_eq!(regressions(&share(0.99), &share(0.97)), []);
        assert_eq!(names(&regressions(&share(0.99), &share(0.90))), ["pool.hit_rate"]);
    }

    #[test]
    fn what_is_not_measured_any_more_is_a_regression_unless_its_part_was_left_out() {
        let before = us(8.0, 0.0, 4.0);
        let mut now = measured(vec![]);
        assert_eq!(regressions(&before, &now)[0].now, None);
        now.parts[0].skipped = Some("no /dev/fuse".into());
        assert_eq!(regressions(&before, &now), []);
        now.parts.clear();
        assert_eq!(regressions(&before, &now), []);
    }

    #[test]
    fn the_worst_comes_first() {
        let run = |a, b| {
            measured(vec![
                Metric::lower("a", "us", a, 0.0).against("x", 1.0),
                Metric::lower("b", "us", b, 0.0).against("x", 1.0),
            ])
        };
        assert_eq!(names(&regressions(&run(1.0, 1.0), &run(2.0, 9.0))), ["b", "a"]);
    }
}
