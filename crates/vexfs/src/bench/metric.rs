//! What is measured: values with their unit, their noise, their workload and what they are to be compared with.

use serde::{Deserialize, Serialize};

use super::machine::Machine;
use super::resources::Resources;

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// More is better: a rate, a share.
    Higher,
    /// Less is better: a time, a size.
    Lower,
}

/// How long single operations took, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// The mean.
    pub average_us: f64,
    /// Half took at most this long.
    pub p50_us: f64,
    /// 99 of 100 took at most this long.
    pub p99_us: f64,
    /// 999 of 1000 took at most this long.
    pub p999_us: f64,
}

/// What a value is compared with: measured in the same run, same unit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reference {
    /// What it is: `native`, or the name of a limit.
    pub what: String,
    /// Its value.
    pub value: f64,
}

/// One measured value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// `part.what[.variant]`, unique in a run.
    pub name: String,
    /// `ops/s`, `us`, `ns`, `GB/s`, `MiB/s`, `bytes`, `share` ...
    pub unit: String,
    /// Which way is better.
    pub better: Better,
    /// The value: the median of the repetitions.
    pub value: f64,
    /// Spread of the repetitions, relative to the value: 1.48 times the median absolute deviation.
    pub noise: f64,
    /// The workload, so that the value can be measured again with other tools.
    pub workload: String,
    /// Latencies of single operations, where they were taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<Latency>,
    /// What the value is gated against.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<Reference>,
    /// Others doing the same in this run, same unit, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<Reference>,
}

impl Metric {
    /// A value for which more is better. `name` and `unit` as in the fields.
    pub fn higher(name: impl Into<String>, unit: &str, value: f64, noise: f64) -> Metric {
        Metric {
            name: name.into(),
            unit: unit.to_owned(),
            better: Better::Higher,
            value,
            noise,
            workload: String::new(),
            latency: None,
            reference: None,
            peers: Vec::new(),
        }
    }

    /// A value for which less is better.
    pub fn lower(name: impl Into<String>, unit: &str, value: f64, noise: f64) -> Metric {
        Metric {
            better: Better::Lower,
            ..Metric::higher(name, unit, value, noise)
        }
    }

    /// States the workload.
    pub fn workload(mut self, workload: impl Into<String>) -> Metric {
        self.workload = workload.into();
        self
    }

    /// Adds latencies.
    pub fn latency(mut self, latency: Latency) -> Metric {
        self.latency = Some(latency);
        self
    }

    /// Names what it is gated against.
    pub fn against(mut self, what: &str, value: f64) -> Metric {
        self.reference = Some(Reference {
            what: what.to_owned(),
            value,
        });
        self
    }

    /// Adds a peer.
    pub fn peer(mut self, what: impl Into<String>, value: f64) -> Metric {
        self.peers.push(Reference {
            what: what.into(),
            value,
        });
        self
    }

    /// How good it is, more is better, without a unit where there is a reference: 1 is as good as the reference.
    /// A share needs no reference. None for what depends on the machine alone.
    pub fn goodness(&self) -> Option<f64> {
        let reference = match &self.reference {
            Some(reference) => reference.value,
            None if self.unit == "share" => 1.0,
            None => return None,
        };
        let (over, under) = match self.better {
            Better::Higher => (self.value, reference),
            Better::Lower => (reference, self.value),
        };
        (under > 0.0).then(|| over / under)
    }
}

/// Rows of figures that are shown and not judged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// What the figures are, with their unit.
    pub title: String,
    /// Heads of the columns after the first.
    pub columns: Vec<String>,
    /// Name and cells of each row; an empty cell was not measured.
    pub rows: Vec<(String, Vec<String>)>,
}

/// What a part gives.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// What is judged.
    pub metrics: Vec<Metric>,
    /// How it was measured: sizes, rounds, what was pinned.
    pub conditions: Vec<String>,
    /// What is shown besides.
    pub tables: Vec<Table>,
    /// The raw measurements; null for none.
    pub raw: serde_json::Value,
}

impl From<Vec<Metric>> for Measured {
    fn from(metrics: Vec<Metric>) -> Measured {
        Measured {
            metrics,
            ..Measured::default()
        }
    }
}

/// What one part measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PartReport {
    /// Its name.
    pub name: String,
    /// What it measures.
    pub about: String,
    /// How long it ran.
    pub seconds: f64,
    /// What it found.
    pub metrics: Vec<Metric>,
    /// How it was measured.
    #[serde(default)]
    pub conditions: Vec<String>,
    /// What is shown besides.
    #[serde(default)]
    pub tables: Vec<Table>,
    /// The raw measurements.
    #[serde(default)]
    pub raw: serde_json::Value,
    /// Why this machine cannot run it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<String>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
    /// What the benchmark itself used, its mounts' callers included.
    pub client: Resources,
    /// What the daemons used.
    pub daemon: Resources,
}

impl PartReport {
    /// One line on how it ended.
    pub fn outcome(&self) -> String {
        match (&self.skipped, &self.failed) {
            (Some(why), _) => format!("skipped: {why}"),
            (_, Some(why)) => format!("FAILED: {why}"),
            _ => format!("{} metrics", self.metrics.len()),
        }
    }
}

/// One run of the benchmark.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measurements {
    /// Version of the program.
    pub version: String,
    /// Whether it was a short run.
    pub quick: bool,
    /// When it began, seconds since 1970.
    pub started_unix: u64,
    /// How long it took.
    pub seconds: f64,
    /// Where it ran.
    pub machine: Machine,
    /// What it measured.
    pub parts: Vec<PartReport>,
}

impl Measurements {
    /// All metrics of all parts.
    pub fn metrics(&self) -> impl Iterator<Item = &Metric> {
        self.parts.iter().flat_map(|part| &part.metrics)
    }

    /// One metric by name.
    pub fn metric(&self, name: &str) -> Option<&Metric> {
        self.metrics().find(|metric| metric.name == name)
    }

    /// One metric's value.
    pub fn value(&self, name: &str) -> Option<f64> {
        self.metric(name).map(|metric| metric.value)
    }

    /// One part by name.
    pub fn part(&self, name: &str) -> Option<&PartReport> {
        self.parts.iter().find(|part| part.name == name)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A run that measured exactly these.
    pub(crate) fn measured(metrics: Vec<Metric>) -> Measurements {
        Measurements {
            version: "0.0.0".into(),
            quick: true,
            started_unix: 0,
            seconds: 1.0,
            machine: Machine::default(),
            parts: vec![PartReport {
                name: "part".into(),
                about: "a part".into(),
                seconds: 1.0,
                metrics,
                conditions: Vec::new(),
                tables: Vec::new(),
                raw: serde_json::Value::Null,
                skipped: None,
                failed: None,
                client: Resources::default(),
                daemon: Resources::default(),
            }],
        }
    }

    #[test]
    fn goodness_is_one_at_the_reference_and_more_is_better() {
        assert_eq!(
            Metric::lower("a", "us", 8.0, 0.0)
                .against("limit", 4.0)
                .goodness(),
            Some(0.5)
        );
        assert_eq!(
            Metric::higher("a", "ops/s", 8.0, 0.0)
                .against("native", 4.0)
                .goodness(),
            Some(2.0)
        );
        assert_eq!(Metric::higher("a", "share", 0.9, 0.0).goodness(), Some(0.9));
        assert_eq!(Metric::lower("a", "us", 8.0, 0.0).goodness(), None);
        assert_eq!(
            Metric::lower("a", "us", 0.0, 0.0).against("x", 1.0).goodness(),
            None
        );
    }

    #[test]
    fn a_report_survives_json() {
        let before = measured(vec![
            Metric::lower("a.b", "us", 1.5, 0.1)
                .against("native", 1.0)
                .peer("other", 2.0),
        ]);
        let text = serde_json::to_string(&before).unwrap();
        let after: Measurements = serde_json::from_str(&text).unwrap();
        assert_eq!(after.metric("a.b"), before.metric("a.b"));
    }
}
