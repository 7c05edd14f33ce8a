//! The benchmark: parts that measure, and the report that says what they measured.
//!
//! A part is a module with a [`Part`]. It prints nothing that it did not measure in this run. What is not built yet
//! stands in the report as not measured.

mod fs;
pub mod quality;
mod quantiles;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};

pub use report::{PartReport, Report, Table};

/// How to measure.
#[derive(Clone, Debug, Parser)]
#[command(name = "performance_benchmark", version, max_term_width = 100)]
pub struct Settings {
    /// The parts to measure, all that are built if none is named; or `quality`, alone
    pub parts: Vec<String>,
    /// A judged collection for `quality`: corpus.jsonl, queries.jsonl, qrels.tsv
    #[arg(long, value_name = "DIR")]
    pub corpus: Option<PathBuf>,
    /// Smaller and shorter: a look, not a result
    #[arg(long)]
    pub quick: bool,
    /// The report as JSON on standard output
    #[arg(long)]
    pub json: bool,
    /// Directory on the filesystem to measure; else ext4 in memory as root, a temporary directory otherwise
    #[arg(long, value_name = "DIR")]
    pub backing: Option<PathBuf>,
    /// Client threads, each with files of its own
    #[arg(long, value_delimiter = ',', default_value = "1,2,4")]
    pub threads: Vec<usize>,
    /// Files per thread and phase
    #[arg(long, value_name = "N")]
    pub files: Option<usize>,
    /// Rounds; of each phase the best round counts
    #[arg(long, value_name = "N")]
    pub rounds: Option<usize>,
    /// Where the reports are written
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub output: PathBuf,
}

/// Something that can be measured.
pub trait Part {
    /// The word by which it is asked for.
    fn name(&self) -> &'static str;
    /// Measures.
    ///
    /// # Errors
    /// When it cannot be measured here; the other parts still are.
    fn measure(&self, settings: &Settings, progress: &ProgressBar) -> anyhow::Result<PartReport>;
}

/// The parts that are built.
fn parts() -> Vec<Box<dyn Part>> {
    vec![Box::new(fs::FsPart)]
}

/// Parts of the specification, built or not, in the order of the report.
const PARTS: [&str; 6] = ["fs", "vectors", "semantic", "crosslayer", "pool", "simd"];

impl Settings {
    /// A short measurement of everything that is built, without files written.
    pub fn quick() -> Settings {
        Settings::parse_from(["performance_benchmark", "--quick", "--threads", "1"])
    }
}

/// The program `performance_benchmark`: measures, prints, writes the reports.
pub fn run(settings: &Settings) -> ExitCode {
    if settings.parts == ["quality"] {
        return quality::command(
            settings.corpus.as_deref(),
            settings.json,
            &progress_bar("quality"),
        );
    }
    let outcome = measure(settings).and_then(|report| {
        let written = report.write(&settings.output).context("writing the report")?;
        match settings.json {
            true => println!("{}", report.json()?),
            false => println!("{}\nwritten: {}", report.markdown(), written.display()),
        }
        Ok(report)
    });
    match outcome {
        Ok(report) if report.failed() => ExitCode::from(1),
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("performance_benchmark: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Measures the parts that the settings name.
///
/// # Errors
/// When a part is named that there is not. A part that fails stands in the report with its reason.
pub fn measure(settings: &Settings) -> anyhow::Result<Report> {
    let built = parts();
    for name in &settings.parts {
        if !PARTS.contains(&name.as_str()) {
            bail!("there is no part '{name}'; parts: {}", PARTS.join(" "));
        }
    }
    let mut report = Report::begin(settings);
    for name in PARTS {
        if !settings.parts.is_empty() && !settings.parts.iter().any(|wanted| wanted == name) {
            continue;
        }
        match built.iter().find(|part| part.name() == name) {
            None => report.add_missing(name),
            Some(part) => {
                let progress = progress_bar(name);
                let outcome = part.measure(settings, &progress);
                progress.finish_and_clear();
                report.add(name, outcome);
            }
        }
    }
    Ok(report)
}

/// A bar on standard error; invisible where that is no terminal.
fn progress_bar(name: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix} [{bar:40}] {pos}/{len} {msg} {elapsed}");
    let bar = ProgressBar::new(0).with_prefix(name);
    bar.set_style(style.expect("the template is right").progress_chars("=> "));
    bar
}
