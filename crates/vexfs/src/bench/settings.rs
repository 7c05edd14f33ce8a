//! The command line of the benchmark.

use std::path::PathBuf;

use clap::Parser;
use clap::builder::PossibleValuesParser;

use super::{PARTS, Part};

/// Measures VexFS through a real mount, and says what to do next
///
/// Writes performance_analysis_report.md and .json, and charts. Exit codes: 0 measured, 1 slower than the baseline, 2
/// wrong usage, or a part failed.
#[derive(Clone, Debug, Parser)]
#[command(name = "performance_benchmark", version, max_term_width = 100)]
pub struct Settings {
    /// The parts to measure, all if none is named; the limits of the machine always are. Or `quality`, alone
    #[arg(value_name = "PART", value_parser = PossibleValuesParser::new(PARTS.map(|p| p.name).into_iter().chain(["quality"])))]
    pub parts: Vec<String>,

    /// A judged collection for `quality`: corpus.jsonl, queries.jsonl, qrels.tsv. For `semantic` a directory whose text
    /// files are indexed as well
    #[arg(long, value_name = "DIR")]
    pub corpus: Option<PathBuf>,

    /// Sizes of the trees that `semantic` asks [default: 1000,10000,100000; of a quick run 1000]
    #[arg(long, value_name = "N,...", value_delimiter = ',')]
    pub passages: Vec<usize>,

    /// `quality` without a mount
    #[arg(long)]
    pub in_memory: bool,

    /// The same, as an option
    #[arg(long, value_name = "PART,...", value_delimiter = ',', value_parser = PossibleValuesParser::new(PARTS.map(|p| p.name)))]
    pub only: Vec<String>,

    /// Smaller and shorter: everything within a minute; a look, not a result
    #[arg(long)]
    pub quick: bool,

    /// The report as JSON on standard output, without progress
    #[arg(long)]
    pub json: bool,

    /// A report of an earlier run (.json): exit 1 if a ratio to the machine's limits got worse
    #[arg(long, value_name = "FILE")]
    pub baseline: Option<PathBuf>,

    /// Directory on the filesystem to measure; else ext4 in memory as root, a temporary directory otherwise
    #[arg(long, value_name = "DIR")]
    pub backing: Option<PathBuf>,

    /// Client threads, each with files of its own [default: 1,2,4; of a quick run none, only the one
    /// that is pinned]
    #[arg(long, value_name = "N,...", value_delimiter = ',')]
    pub threads: Vec<usize>,

    /// Files per thread and phase
    #[arg(long, value_name = "N")]
    pub files: Option<usize>,

    /// Rounds; of each phase the best round counts
    #[arg(long, value_name = "N")]
    pub rounds: Option<usize>,

    /// Measure a pool that keeps at most N idle buffers of each tier, and none for each thread
    #[arg(long, value_name = "N")]
    pub pool_buffers: Option<usize>,

    /// Measure a filesystem in which every getattr sleeps so long
    #[arg(long, value_name = "MICROSECONDS")]
    pub slow_getattr: Option<u64>,

    /// Where the reports are written
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub output: PathBuf,

    /// Show no progress: for a program that measures
    #[arg(skip)]
    pub silent: bool,
}

impl Settings {
    /// A short measurement of everything.
    pub fn quick() -> Settings {
        Settings::parse_from(["performance_benchmark", "--quick"])
    }

    /// The same without progress.
    pub fn silent() -> Settings {
        Settings {
            silent: true,
            ..Settings::quick()
        }
    }

    /// The parts that were asked for.
    pub fn chosen(&self) -> Vec<Part> {
        let named: Vec<&String> = self.parts.iter().chain(&self.only).collect();
        let wanted = |part: &Part| {
            named.is_empty() || part.name == "machine" || named.iter().any(|name| *name == part.name)
        };
        PARTS.into_iter().filter(wanted).collect()
    }

    /// Numbers of client threads to measure with, beside the one that is pinned.
    pub(super) fn client_threads(&self) -> Vec<usize> {
        match (self.threads.is_empty(), self.quick) {
            (true, true) => Vec::new(),
            (true, false) => vec![1, 2, 4],
            _ => self.threads.iter().copied().filter(|&n| n > 0).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(line: &str) -> Vec<&'static str> {
        let settings = Settings::try_parse_from(line.split(' ')).unwrap();
        settings.chosen().iter().map(|part| part.name).collect()
    }

    #[test]
    fn parts_are_chosen_by_name_and_the_machine_is_always_measured() {
        assert_eq!(parts("b"), PARTS.map(|p| p.name));
        assert_eq!(parts("b --only pool"), ["machine", "pool"]);
        assert_eq!(parts("b --only pool,simd"), ["machine", "simd", "pool"]);
        assert_eq!(parts("b pool simd --quick"), ["machine", "simd", "pool"]);
        assert!(Settings::try_parse_from(["b", "--only", "nothing"]).is_err());
        assert!(Settings::try_parse_from(["b", "nothing"]).is_err());
    }
}
