//! The report: the machine, the conditions, the tables, and what was not measured. As text, and as JSON.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;
use serde_json::Value;

use super::Settings;

/// Everything that one run measured.
#[derive(Debug, Serialize)]
pub struct Report {
    /// When it began, UTC.
    pub date: String,
    /// What it ran on.
    pub machine: Machine,
    /// The command line.
    pub command: String,
    /// Shortened on request: a look, not a result.
    pub quick: bool,
    /// Each part with what it measured, or why it did not.
    pub parts: Vec<(String, Outcome)>,
}

/// What became of a part.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was measured.
    Measured(PartReport),
    /// It could not be measured here.
    Failed(String),
    /// It is not built.
    NotBuilt,
}

/// What one part measured.
#[derive(Debug, Default, Serialize)]
pub struct PartReport {
    /// How: sizes, rounds, what was pinned.
    pub conditions: Vec<String>,
    /// The results.
    pub tables: Vec<Table>,
    /// Single figures by name, with the unit in the name.
    pub figures: std::collections::BTreeMap<String, f64>,
    /// The raw measurements.
    pub raw: Value,
}

/// Rows of figures.
#[derive(Debug, Serialize)]
pub struct Table {
    /// What the figures are, with their unit.
    pub title: String,
    /// Heads of the columns after the first.
    pub columns: Vec<String>,
    /// Name and cells of each row; an empty cell was not measured.
    pub rows: Vec<(String, Vec<String>)>,
}

/// What the run ran on.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// Model of the processor.
    pub cpu: String,
    /// Processors that this process may use.
    pub cpus: usize,
    /// Release of the kernel.
    pub kernel: String,
    /// Main memory.
    pub memory_gib: f64,
    /// Load (1 minute) when it began: other work disturbs.
    pub load: f64,
    /// Whether the program was compiled with optimisation.
    pub optimised: bool,
}

impl Report {
    pub(super) fn begin(settings: &Settings) -> Report {
        Report {
            date: utc_now(),
            machine: Machine::this(),
            command: std::env::args()
                .skip(1)
                .fold("performance_benchmark".into(), |line, arg| line + " " + &arg),
            quick: settings.quick,
            parts: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, name: &str, outcome: anyhow::Result<PartReport>) {
        let outcome = match outcome {
            Ok(measured) => Outcome::Measured(measured),
            Err(error) => Outcome::Failed(format!("{error:#}")),
        };
        self.parts.push((name.to_owned(), outcome));
    }

    pub(super) fn add_missing(&mut self, name: &str) {
        self.parts.push((name.to_owned(), Outcome::NotBuilt));
    }

    pub(super) fn failed(&self) -> bool {
        self.parts
            .iter()
            .any(|(_, outcome)| matches!(outcome, Outcome::Failed(_)))
    }

    /// A single figure of a measured part.
    pub fn figure(&self, part: &str, name: &str) -> Option<f64> {
        self.parts
            .iter()
            .find(|(n, _)| n == part)
            .and_then(|(_, outcome)| match outcome {
                Outcome::Measured(report) => report.figures.get(name).copied(),
                _ => None,
            })
    }

    /// Writes `performance_analysis_report.md` and `.json`; gives the path of the first.
    pub(super) fn write(&self, directory: &Path) -> anyhow::Result<PathBuf> {
        let path = directory.join("performance_analysis_report.md");
        std::fs::write(&path, self.markdown()).with_context(|| path.display().to_string())?;
        std::fs::write(path.with_extension("json"), self.json()?)?;
        Ok(path)
    }

    /// The report for programs.
    pub fn json(&self) -> anyhow::Result<String> {
        Ok(serde_json::to_string_pretty(self)?)
    }

    /// The report for people.
    pub fn markdown(&self) -> String {
        let mut text = String::new();
        self.write_markdown(&mut text).expect("a string takes all");
        text
    }

    fn write_markdown(&self, text: &mut String) -> std::fmt::Result {
        let machine = &self.machine;
        writeln!(text, "# Performance\n")?;
        writeln!(
            text,
            "{}, `{}`{}\n",
            self.date,
            self.command,
            if self.quick {
                " (quick: a look, not a result)"
            } else {
                ""
            }
        )?;
        writeln!(
            text,
            "{}, {} CPUs, {:.0} GiB, Linux {}, load {:.1} at the start{}",
            machine.cpu,
            machine.cpus,
            machine.memory_gib,
            machine.kernel,
            machine.load,
            if machine.optimised {
                ""
            } else {
                ", **compiled without optimisation**"
            }
        )?;
        for (name, outcome) in &self.parts {
            writeln!(text, "\n## {name}\n")?;
            match outcome {
                Outcome::NotBuilt => writeln!(text, "Not measured: not built yet.")?,
                Outcome::Failed(why) => writeln!(text, "Not measured: {why}")?,
                Outcome::Measured(report) => report.write_markdown(text)?,
            }
        }
        Ok(())
    }
}

impl PartReport {
    fn write_markdown(&self, text: &mut String) -> std::fmt::Result {
        for condition in &self.conditions {
            writeln!(text, "- {condition}")?;
        }
        for table in &self.tables {
            writeln!(text, "\n### {}\n\n```", table.title)?;
            table.write(text)?;
            writeln!(text, "```")?;
        }
        if !self.figures.is_empty() {
            writeln!(text)?;
        }
        for (name, value) in &self.figures {
            writeln!(text, "- {name}: {value:.2}")?;
        }
        Ok(())
    }
}

impl Table {
    /// Columns wide enough for what is in them, figures to the right.
    fn write(&self, text: &mut String) -> std::fmt::Result {
        let first = self.rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|c| {
                let cells = self
                    .rows
                    .iter()
                    .filter_map(|(_, cells)| cells.get(c))
                    .map(String::len);
                cells.chain([self.columns[c].len()]).max().unwrap_or(0)
            })
            .collect();
        let line = |text: &mut String, name: &str, cells: &[String]| {
            write!(text, "{name:first$}")?;
            for (cell, width) in cells.iter().zip(&widths) {
                write!(text, "  {cell:>width$}")?;
            }
            writeln!(text)
        };
        line(text, "", &self.columns)?;
        for (name, cells) in &self.rows {
            line(text, name, cells)?;
        }
        Ok(())
    }
}

impl Machine {
    fn this() -> Machine {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text
                .lines()
                .find(|line| line.starts_with(name))
                .map(str::to_owned);
            line.and_then(|line| Some(line.split_once(':')?.1.trim().to_owned()))
                .unwrap_or_default()
        };
        let memory = field(&read("/proc/meminfo"), "MemTotal");
        let kib: f64 = memory
            .split(' ')
            .next()
            .and_then(|n| n.parse().ok())
            .unwrap_or(0.0);
        Machine {
            cpu: field(&read("/proc/cpuinfo"), "model name"),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            memory_gib: kib / f64::from(1 << 20),
            load: read("/proc/loadavg")
                .split(' ')
                .next()
                .and_then(|n| n.parse().ok())
                .unwrap_or(0.0),
            optimised: !cfg!(debug_assertions),
        }
    }
}

/// The present as `2026-01-31 23:59 UTC`.
fn utc_now() -> String {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    let (year, month, day) = civil_date((since.as_secs() / 86_400) as i64);
    let minutes = since.as_secs() % 86_400 / 60;
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02} UTC",
        minutes / 60,
        minutes % 60
    )
}

/// Days since 1970-01-01 as a date of the Gregorian calendar, in eras of 400 years that begin in March.
fn civil_date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_become_dates() {
        for (days, date) in [
            (0, (1970, 1, 1)),
            (58, (1970, 2, 28)),
            (11_016, (2000, 2, 29)),
            (19_723, (2024, 1, 1)),
        ] {
            assert_eq!(civil_date(days), date);
        }
    }

    #[test]
    fn what_was_not_measured_says_so() {
        let mut report = Report::begin(&Settings::quick());
        report.add_missing("simd");
        report.add("fs", Err(anyhow::anyhow!("no /dev/fuse")));
        let text = report.markdown();
        assert!(text.contains("## simd\n\nNot measured: not built yet."), "{text}");
        assert!(text.contains("## fs\n\nNot measured: no /dev/fuse"), "{text}");
        assert!(report.failed());
        assert_eq!(report.figure("fs", "anything"), None);
    }
}
