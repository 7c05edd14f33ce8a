//! `vexfs snapshot`: generations with names, and what differs between them.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde_json::{Value, json};
use vexfs_core::store::dir::CTLNAME_DEFAULT;

use super::client::percent;
use super::failure::{ERROR, Failure};
use super::place::{At, text};

/// Snapshots of the files and of what was told of them
#[derive(Subcommand, Debug)]
pub(crate) enum SnapshotCommand {
    /// Name the present generation. It copies nothing: what changes later is kept then
    Create {
        /// Its name
        name: String,
        #[command(flatten)]
        at: At,
    },
    /// List the snapshots, the oldest first: name, generation, time, bytes that are kept for it
    List {
        /// One JSON object
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        at: At,
    },
    /// List what differs between a snapshot and a later one: A added, D removed, M changed, R renamed, T mode, owner or
    /// time; and PATH#ATTRIBUTE for vectors, tags, metadata and relations
    Diff {
        /// The snapshot
        from: String,
        /// A later one, or the present
        #[arg(default_value = "now")]
        to: String,
        /// One JSON object
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        at: At,
    },
    /// Stage a transaction that brings files, vectors, tags, metadata and relations back, and print its directory. `txn
    /// diff` shows what it changes, `txn commit` makes it so
    Restore {
        /// The snapshot
        name: String,
        /// Only what was below this path
        #[arg(long)]
        path: Option<PathBuf>,
        /// The name of the transaction; restore-NAME if nothing is said
        #[arg(long, value_name = "NAME")]
        txn: Option<String>,
        #[command(flatten)]
        at: At,
    },
    /// Drop a snapshot, with what was kept for it alone
    Drop {
        /// Its name
        name: String,
        #[command(flatten)]
        at: At,
    },
}

pub(crate) fn snapshot(command: &SnapshotCommand) -> Result<u8, Failure> {
    let here = Path::new(".");
    match command {
        SnapshotCommand::Create { name, at } => {
            at.find(here)?
                .client
                .post("/v1/snapshots", &json!({ "name": name }))?;
        }
        SnapshotCommand::List { json, at } => {
            let answer = at.find(here)?.client.get("/v1/snapshots")?;
            let mut out = io::stdout().lock();
            if *json {
                writeln!(out, "{answer}")?;
                return Ok(0);
            }
            for row in answer["snapshots"].as_array().into_iter().flatten() {
                let seconds = row["created_ns"].as_i64().unwrap_or(0) / 1_000_000_000;
                let name = row["name"].as_str().unwrap_or_default();
                let kept = row["kept_bytes"].as_u64().unwrap_or(0);
                writeln!(out, "{name}\t{}\t{}\t{kept}", row["generation"], date(seconds))?;
            }
        }
        SnapshotCommand::Diff { from, to, json, at } => {
            let body = json!({ "from": from, "to": to });
            let answer = at.find(here)?.client.post("/v1/snapshots/diff", &body)?;
            let mut out = io::stdout().lock();
            match json {
                true => writeln!(out, "{answer}")?,
                false => print_diff(&mut out, &answer)?,
            }
        }
        SnapshotCommand::Restore { name, path, txn, at } => {
            let found = at.find(here)?;
            let below = match path {
                Some(path) => found.below(at, path)?,
                None => PathBuf::new(),
            };
            let body = json!({ "name": name, "path": text(&below)?, "transaction": txn });
            let answer = found.client.post("/v1/snapshots/restore", &body)?;
            let transaction = answer["transaction"].as_str().unwrap_or_default();
            let dir = Path::new(CTLNAME_DEFAULT).join("txn").join(transaction);
            writeln!(io::stdout(), "{}", found.root.join(dir).display())?;
            return missing(&answer);
        }
        SnapshotCommand::Drop { name, at } => {
            let target = format!("/v1/snapshots?name={}", percent(name.as_bytes()));
            at.find(here)?.client.bytes("DELETE", &target, b"")?;
        }
    }
    Ok(0)
}

/// Names what a restore leaves as it is.
fn missing(answer: &Value) -> Result<u8, Failure> {
    let mut code = 0;
    for path in answer["missing"].as_array().into_iter().flatten() {
        eprintln!(
            "vexfs: {}: the old content was not kept",
            path.as_str().unwrap_or_default()
        );
        code = ERROR;
    }
    Ok(code)
}

/// A letter and a path a line, as the lists of transactions.
fn print_diff(out: &mut impl Write, answer: &Value) -> io::Result<()> {
    let list = |name: &str| answer[name].as_array().into_iter().flatten();
    let word = |object: &Value, name: &str| object[name].as_str().unwrap_or_default().to_owned();
    let letter = |object: &Value| match object["change"].as_str() {
        Some("added") => 'A',
        Some("removed") => 'D',
        Some("renamed") => 'R',
        Some("attributes") => 'T',
        _ => 'M',
    };
    for file in list("files") {
        let mut path = word(file, "path");
        if file["kept"] == false {
            path.push_str("  (the old content was not kept)");
        }
        match file["from"].as_str() {
            Some(from) => writeln!(out, "{} {from} -> {path}", letter(file))?,
            None => writeln!(out, "{} {path}", letter(file))?,
        }
    }
    for told in list("told") {
        let (path, name) = (word(told, "path"), word(told, "name"));
        match told["target"].as_str() {
            Some(target) => writeln!(out, "{} {path}#{name} -> {target}", letter(told))?,
            None => writeln!(out, "{} {path}#{name}", letter(told))?,
        }
    }
    Ok(())
}

/// Seconds since the epoch as a date and a time in UTC.
fn date(seconds: i64) -> String {
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Years from March on end with the leap day; 146,097 days are 400 years.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_become_dates() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_795_412_116, "2026-11-23T05:35:16Z"),
            (-1, "1969-12-31T23:59:59Z"),
        ] {
            assert_eq!(date(seconds), text);
        }
    }
}
