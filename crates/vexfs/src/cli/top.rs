//! `vexfs top`: what a mount does at the moment, from its metrics, again and again.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::Args;

use super::failure::Failure;

/// Watch what a mount does: operations a second and their times, buffers, processor, memory
#[derive(Args, Debug)]
pub(crate) struct TopArgs {
    /// A directory in the mount
    #[arg(default_value = ".")]
    path: PathBuf,
    /// Seconds between two looks
    #[arg(short, long, default_value_t = 2.0, value_parser = seconds)]
    interval: f64,
    /// Looks before the end; without it, until interrupted
    #[arg(short = 'n', long)]
    count: Option<u64>,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=3600.0).contains(&seconds) => Ok(seconds),
        _ => Err("expected seconds, from 0.1 to 3600".to_owned()),
    }
}

pub(crate) fn top(args: &TopArgs) -> Result<u8, Failure> {
    let page = args.path.join(".vexfs/metrics");
    let (mut before, mut at) = (read(&page)?, Instant::now());
    let terminal = io::stdout().is_terminal();
    let mut shown = 0;
    while args.count.is_none_or(|count| shown < count) {
        sleep(Duration::from_secs_f64(args.interval));
        let now = read(&page)?;
        let screen = render(&before, &now, at.elapsed().as_secs_f64());
        at = Instant::now();
        let mut out = io::stdout().lock();
        // Home and clear to the end: less flicker than clearing first.
        let head = if terminal { "\x1b[H\x1b[J" } else { "" };
        if write!(out, "{head}{screen}").and_then(|()| out.flush()).is_err() {
            // A closed pipe: whoever watched has seen enough.
            return Ok(0);
        }
        before = now;
        shown += 1;
    }
    Ok(0)
}

/// Samples by name and labels, as they stand on the page.
type Samples = BTreeMap<String, f64>;

fn read(page: &Path) -> Result<Samples, Failure> {
    let text = std::fs::read_to_string(page)
        .map_err(|e| Failure::no_daemon(format!("{}: {e}; is it in a VexFS mount?", page.display())))?;
    Ok(parse(&text))
}

fn parse(text: &str) -> Samples {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.rsplit_once(' '))
        .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
        .collect()
}

/// The value of a label in `name{label="value",...}`.
fn label<'a>(sample: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = sample.split_once(&format!("{name}=\""))?;
    rest.split_once('"').map(|(value, _)| value)
}

fn render(before: &Samples, now: &Samples, seconds: f64) -> String {
    let rate = |name: &str| {
        let of = |samples: &Samples| samples.get(name).copied().unwrap_or(0.0);
        (of(now) - of(before)).max(0.0) / seconds
    };
    let sum_of = |samples: &Samples, prefix: &str| -> f64 {
        samples
            .iter()
            .filter(|(name, _)| name.starts_with(prefix))
            .map(|(_, v)| v)
            .sum()
    };
    let value = |name: &str| now.get(name).copied().unwrap_or(0.0);
    let takes = sum_of(now, "vexfs_pool_takes_total");
    let hits = 1.0 - sum_of(now, "vexfs_pool_misses_total") / takes.max(1.0);
    let mut text = format!(
        "cpu {:5.1} %   memory {:6.1} MiB   threads {:.0}   inodes {:.0}   open {:.0}   buffers: {:.1} % hits, {:.0} KiB idle\n\n\
         {:<18}{:>12}{:>12}{:>12}{:>10}\n",
        rate("process_cpu_seconds_total") * 100.0,
        value("process_resident_memory_bytes") / (1 << 20) as f64,
        value("process_threads"),
        value("vexfs_inodes"),
        value("vexfs_open_files"),
        hits * 100.0,
        sum_of(now, "vexfs_pool_idle_bytes") / 1024.0,
        "operation",
        "a second",
        "average us",
        "in all",
        "errors",
    );
    let mut rows: Vec<(f64, String)> = Vec::new();
    for (name, total) in now
        .iter()
        .filter(|(name, _)| name.starts_with("vexfs_operation_seconds_count"))
    {
        let operation = label(name, "operation").unwrap_or(name);
        let sum = format!("vexfs_operation_seconds_sum{{operation=\"{operation}\"}}");
        let errors = format!("vexfs_operation_errors_total{{operation=\"{operation}\"}}");
        let per_second = rate(name);
        let average_us = if per_second > 0.0 {
            rate(&sum) / per_second * 1e6
        } else {
            0.0
        };
        let row = format!(
            "{operation:<18}{per_second:>12.1}{average_us:>12.1}{total:>12.0}{:>10.0}\n",
            value(&errors)
        );
        rows.push((per_second, row));
    }
    rows.sort_by(|a, b| b.0.total_cmp(&a.0));
    for (_, row) in rows {
        let _ = write!(text, "{row}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_come_from_the_difference_of_two_looks() {
        let page = |count: u32, sum: f64| {
            parse(&format!(
                "# TYPE vexfs_operation_seconds histogram\n\
                 vexfs_operation_seconds_sum{{operation=\"lookup\"}} {sum:e}\n\
                 vexfs_operation_seconds_count{{operation=\"lookup\"}} {count}\n\
                 vexfs_operation_errors_total{{operation=\"lookup\"}} 3\n\
                 vexfs_operation_seconds_count{{operation=\"open\"}} 7\n"
            ))
        };
        let screen = render(&page(100, 0.001), &page(300, 0.003), 2.0);
        let rows: Vec<Vec<&str>> = screen
            .lines()
            .skip(3)
            .map(|l| l.split_whitespace().collect())
            .collect();
        assert_eq!(
            rows,
            [
                ["lookup", "100.0", "10.0", "300", "3"],
                ["open", "0.0", "0.0", "7", "0"]
            ]
        );
    }

    #[test]
    fn an_interval_is_some_seconds() {
        assert_eq!(seconds("0.5"), Ok(0.5));
        for wrong in ["0", "-1", "NaN", "1e9", "soon"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
