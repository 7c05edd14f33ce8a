//! The report: what was measured, for people and for programs.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::Result;
use super::advice::{self, Finding};
use super::charts;
use super::gate::{self, Regression};
use super::metric::{Better, Latency, Measurements, Metric, PartReport, Table};
use super::resources::Resources;
use super::targets::{self, Standing};

/// The directory of the charts.
const CHARTS: &str = "performance_analysis_charts";

/// A run and all that follows from it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// What was measured.
    #[serde(flatten)]
    pub measurements: Measurements,
    /// How it stands to the targets.
    pub targets: Vec<Standing>,
    /// What to do next, what matters most first.
    pub findings: Vec<Finding>,
    /// What got worse against the baseline; empty without one.
    pub regressions: Vec<Regression>,
}

impl Report {
    /// Draws the conclusions.
    pub fn of(measurements: Measurements, baseline: Option<&Measurements>) -> Report {
        Report {
            targets: targets::standings(&measurements),
            findings: advice::findings(&measurements),
            regressions: baseline.map_or(Vec::new(), |before| gate::regressions(before, &measurements)),
            measurements,
        }
    }

    /// Writes `performance_analysis_report.md`, `.json` and a directory of charts into `directory`, and gives the path
    /// of the first.
    ///
    /// # Errors
    /// When a file cannot be written; those before it are.
    pub fn write(&self, directory: &Path) -> Result<PathBuf> {
        let path = directory.join("performance_analysis_report.md");
        let charts = directory.join(CHARTS);
        std::fs::create_dir_all(&charts).with_context(|| format!("making {}", charts.display()))?;
        let mut files = vec![
            (path.with_extension("json"), serde_json::to_string_pretty(self)?),
            (path.clone(), self.markdown()),
        ];
        for (name, svg) in charts::charts(&self.measurements, &self.targets) {
            files.push((charts.join(name).with_extension("svg"), svg));
        }
        for (path, text) in files {
            std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        }
        Ok(path)
    }

    /// What fits on a screen.
    pub fn summary(&self) -> String {
        let mut text = String::new();
        for standing in self.targets.iter().filter(|s| s.value.is_some()) {
            let _ = writeln!(text, "{}", standing_line(standing));
        }
        for part in &self.measurements.parts {
            if part.skipped.is_some() || part.failed.is_some() {
                let _ = writeln!(text, "{}: {}", part.name, part.outcome());
            }
        }
        for finding in &self.findings {
            let _ = writeln!(
                text,
                "{:?}: {} ({})",
                finding.priority, finding.title, finding.evidence
            );
        }
        for regression in &self.regressions {
            let _ = writeln!(text, "REGRESSION {}", regression.line());
        }
        text
    }

    /// The whole, for people.
    pub fn markdown(&self) -> String {
        let mut text = String::from("# Performance analysis\n\n");
        self.write_executive_summary(&mut text);
        self.write_targets(&mut text);
        self.write_findings(&mut text);
        for part in &self.measurements.parts {
            write_part(&mut text, part);
        }
        write_resources(&mut text, &self.measurements.parts);
        self.write_charts(&mut text);
        text
    }

    fn write_executive_summary(&self, text: &mut String) {
        let Measurements { machine, .. } = &self.measurements;
        let m = &self.measurements;
        let _ = writeln!(
            text,
            "VexFS {}, a {} run of {:.0} s, begun {} seconds after 1970, on {} ({} CPUs, {:.0} GiB, Linux {}, \
             {} below the work directory, SIMD {}, load {:.1}).\n",
            m.version,
            if m.quick { "quick" } else { "full" },
            m.seconds,
            m.started_unix,
            machine.cpu,
            machine.cpus,
            machine.memory_bytes as f64 / (1u64 << 30) as f64,
            machine.kernel,
            machine.filesystem,
            machine.simd,
            machine.load,
        );
        let measured: Vec<&Standing> = self.targets.iter().filter(|s| s.value.is_some()).collect();
        let above = measured.iter().filter(|s| s.times_floor >= Some(1.0)).count();
        let _ = writeln!(
            text,
            "{above} of {} measured targets are at or above the specification's figure, {} of {} reach the aim; \
             {} were not measured. {}.\n",
            measured.len(),
            measured.iter().filter(|s| s.reached == Some(true)).count(),
            measured.len(),
            self.targets.len() - measured.len(),
            match self.regressions.len() {
                0 => "No regression was found".to_owned(),
                n => format!("**{n} regressions** against the baseline"),
            },
        );
        for regression in &self.regressions {
            let _ = writeln!(text, "- {}", regression.line());
        }
        text.push_str(
            "Values are medians; the noise is 1.48 times the median absolute deviation between rounds. Every \
             figure was measured in this run.\n\n",
        );
    }

    fn write_targets(&self, text: &mut String) {
        text.push_str("## Targets\n\n| target | specified | aim | measured | times specified | workload |\n|---|---|---|---|---|---|\n");
        for standing in &self.targets {
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} |",
                standing.name,
                amount(standing.floor, &standing.unit),
                standing
                    .aim
                    .map_or(String::new(), |aim| amount(aim, &standing.unit)),
                standing
                    .value
                    .map_or("not measured".into(), |value| amount(value, &standing.unit)),
                standing
                    .times_floor
                    .map_or(String::new(), |times| format!("{times:.2}")),
                standing.workload,
            );
        }
        text.push('\n');
    }

    fn write_findings(&self, text: &mut String) {
        text.push_str("## Recommendations\n\n");
        if self.findings.is_empty() {
            text.push_str("No rule found anything in this run.\n\n");
        }
        for finding in &self.findings {
            let Finding {
                rule,
                category,
                priority,
                title,
                evidence,
                threshold,
                action,
                expected_gain,
            } = finding;
            let _ = writeln!(
                text,
                "### {priority:?}: {title}\n\n- evidence: {evidence}\n- threshold: {threshold}\n- to do: {action}\n\
                 - expected gain: {expected_gain}\n- rule: {rule} ({category:?})\n"
            );
        }
    }

    fn write_charts(&self, text: &mut String) {
        text.push_str("## Charts\n\n");
        for (name, _) in charts::charts(&self.measurements, &self.targets) {
            let _ = writeln!(text, "![{name}]({CHARTS}/{name}.svg)\n");
        }
    }
}

fn standing_line(standing: &Standing) -> String {
    let value = standing
        .value
        .map_or("not measured".into(), |v| amount(v, &standing.unit));
    format!(
        "{:<48} {:>14}   {:>7.2} x the specified {}",
        standing.name,
        value,
        standing.times_floor.unwrap_or(0.0),
        amount(standing.floor, &standing.unit)
    )
}

fn write_part(text: &mut String, part: &PartReport) {
    let _ = writeln!(text, "## {}: {}\n", part.name, part.about);
    if part.skipped.is_some() || part.failed.is_some() {
        let _ = writeln!(text, "{}\n", part.outcome());
    }
    for condition in &part.conditions {
        let _ = writeln!(text, "- {condition}");
    }
    if !part.metrics.is_empty() {
        text.push_str("\n| metric | value | noise | average / p50 / p99 / p99.9 us | of its limit | others | workload |\n|---|---|---|---|---|---|---|\n");
    }
    for metric in &part.metrics {
        let _ = writeln!(
            text,
            "| {} | {} | {:.1} % | {} | {} | {} | {} |",
            metric.name,
            amount(metric.value, &metric.unit),
            metric.noise * 100.0,
            metric.latency.as_ref().map_or(String::new(), latency),
            of_limit(metric),
            peers(metric),
            metric.workload
        );
    }
    text.push('\n');
    for table in &part.tables {
        write_table(text, table);
    }
}

fn write_table(text: &mut String, table: &Table) {
    let _ = writeln!(
        text,
        "{}\n\n| | {} |\n|---|{}",
        table.title,
        table.columns.join(" | "),
        "---|".repeat(table.columns.len())
    );
    for (name, cells) in &table.rows {
        let _ = writeln!(text, "| {name} | {} |", cells.join(" | "));
    }
    text.push('\n');
}

fn latency(latency: &Latency) -> String {
    let Latency {
        average_us,
        p50_us,
        p99_us,
        p999_us,
    } = latency;
    format!("{average_us:.1} / {p50_us:.1} / {p99_us:.1} / {p999_us:.1}")
}

fn of_limit(metric: &Metric) -> String {
    match (&metric.reference, metric.goodness()) {
        (Some(reference), Some(goodness)) => format!(
            "{goodness:.2} of {} ({})",
            amount(reference.value, &metric.unit),
            reference.what
        ),
        _ => String::new(),
    }
}

fn peers(metric: &Metric) -> String {
    let cells: Vec<String> = metric
        .peers
        .iter()
        .map(|peer| format!("{} {}", peer.what, amount(peer.value, &metric.unit)))
        .collect();
    cells.join(", ")
}

fn write_resources(text: &mut String, parts: &[PartReport]) {
    text.push_str(
        "## Resources\n\n| part | seconds | CPU s, benchmark | CPU s, daemon | CPUs busy | peak MiB, benchmark | \
         peak MiB, daemon | read MiB | written MiB | context switches, daemon |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
    );
    let mib = |bytes: u64| bytes as f64 / (1u64 << 20) as f64;
    for part in parts {
        let both: Resources = part.client.plus(&part.daemon);
        let _ = writeln!(
            text,
            "| {} | {:.1} | {:.2} | {:.2} | {:.2} | {:.0} | {:.0} | {:.1} | {:.1} | {} |",
            part.name,
            part.seconds,
            part.client.cpu_seconds(),
            part.daemon.cpu_seconds(),
            both.cpu_seconds() / part.seconds.max(f64::MIN_POSITIVE),
            mib(part.client.peak_rss_bytes),
            mib(part.daemon.peak_rss_bytes),
            mib(both.read_bytes),
            mib(both.written_bytes),
            part.daemon.context_switches,
        );
    }
    text.push('\n');
}

/// A value with its unit, in as many digits as mean something.
pub fn amount(value: f64, unit: &str) -> String {
    let digits = match value.abs() {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        v if v >= 0.1 => 2,
        _ => 4,
    };
    match unit {
        "share" | "fraction" => format!("{:.1} %", value * 100.0),
        _ => format!("{value:.digits$} {unit}"),
    }
}

/// `Better` in a word.
pub fn direction(better: Better) -> &'static str {
    match better {
        Better::Higher => "more is better",
        Better::Lower => "less is better",
    }
}

#[cfg(test)]
mod tests {
    use super::super::metric::tests::measured;
    use super::*;

    #[test]
    fn the_report_shows_every_metric_with_its_limit_and_its_peers() {
        let run = measured(vec![
            Metric::lower("fs.getattr", "us", 8.0, 0.02)
                .against("null request", 4.0)
                .peer("bindfs", 9.3)
                .workload("stat of 8000 files"),
        ]);
        let text = Report::of(run, None).markdown();
        for expected in [
            "fs.getattr",
            "8.00 us",
            "2.0 %",
            "0.50 of 4.00 us (null request)",
            "bindfs 9.30 us",
            "stat of 8000 files",
        ] {
            assert!(text.contains(expected), "{expected} in\n{text}");
        }
    }

    #[test]
    fn what_was_not_measured_is_called_so() {
        let text = Report::of(measured(vec![]), None).markdown();
        assert!(
            text.contains("| semantic operations | 650 ops/s | 1000 ops/s | not measured |"),
            "{text}"
        );
    }

    #[test]
    fn a_report_can_be_the_baseline_of_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let run = |us| measured(vec![Metric::lower("a", "us", us, 0.0).against("x", 1.0)]);
        let written = Report::of(run(1.0), None).write(dir.path()).unwrap();
        let baseline = gate::read(&written.with_extension("json")).unwrap();
        let report = Report::of(run(3.0), Some(&baseline));
        assert_eq!(report.regressions.len(), 1);
        assert!(report.summary().contains("REGRESSION a"), "{}", report.summary());
    }
}
