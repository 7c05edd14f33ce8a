//! `vexfs relate`, `unrelate` and `related`.

use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};
use vexfs_core::query::answer::path_text;

use super::failure::{Failure, NO_HITS};
use super::output::{self, Colours, Format};
use super::place::{At, Found, text};

/// Bytes of relations that are told in one commit: thousands of them, and within what a request may hold.
const BATCH_BYTES: usize = 1 << 20;

/// Relate a file to another
#[derive(Args, Debug)]
pub(crate) struct RelateArgs {
    /// The file in which the relation starts; with --import a path in the mount
    file: PathBuf,
    /// Its type, such as cites
    #[arg(value_name = "TYPE", required_unless_present = "import")]
    kind: Option<String>,
    /// Where it leads. A target that does not exist dangles until it does
    #[arg(required_unless_present = "import")]
    target: Option<PathBuf>,
    /// A property: text, or a JSON number, true, false or null
    #[arg(long = "prop", value_name = "KEY=VALUE", value_parser = property)]
    properties: Vec<(String, Value)>,
    /// Read relations from FILE or - instead: JSON lines {"from", "type", "to", "properties"}, paths below the root
    #[arg(long, value_name = "FILE", conflicts_with_all = ["kind", "target", "properties"])]
    import: Option<PathBuf>,
    #[command(flatten)]
    at: At,
}

/// Remove a relation
#[derive(Args, Debug)]
pub(crate) struct UnrelateArgs {
    /// The file in which it starts
    file: PathBuf,
    /// Its type
    #[arg(value_name = "TYPE")]
    kind: String,
    /// Where it leads
    target: PathBuf,
    #[command(flatten)]
    at: At,
}

/// Follow the relations of a file
#[derive(Args, Debug)]
pub(crate) struct RelatedArgs {
    /// The file
    file: PathBuf,
    /// Steps to walk
    #[arg(long, default_value_t = 1, value_name = "N")]
    depth: u32,
    /// Follow relations of this type only
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// Follow relations in this direction only
    #[arg(long, value_enum, default_value = "both")]
    direction: Direction,
    /// A shortest way to this file
    #[arg(long = "path", value_name = "TO")]
    to: Option<PathBuf>,
    /// Rank files by relations and likeness together, the nearest first
    #[arg(long, conflicts_with_all = ["to", "depth"])]
    rank: bool,
    /// Number of files [default: 1000, with --rank 10]
    #[arg(short = 'k', long = "top", value_name = "N")]
    limit: Option<usize>,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    at: At,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Direction {
    Out,
    In,
    Both,
}

impl Direction {
    fn word(self) -> &'static str {
        match self {
            Direction::Out => "out",
            Direction::In => "in",
            Direction::Both => "both",
        }
    }
}

/// `key=value`; a value that is a JSON scalar is that, all else is text.
fn property(text: &str) -> Result<(String, Value), String> {
    let (key, value) = text
        .split_once('=')
        .filter(|(key, _)| !key.is_empty())
        .ok_or("KEY=VALUE is expected")?;
    let value = match serde_json::from_str(value) {
        Ok(value @ (Value::Number(_) | Value::Bool(_) | Value::Null | Value::String(_))) => value,
        _ => json!(value),
    };
    Ok((key.to_owned(), value))
}

pub(crate) fn relate(args: &RelateArgs) -> Result<u8, Failure> {
    let found = args.at.find(&args.file)?;
    if let Some(import) = &args.import {
        return relate_all(&found, import);
    }
    let (Some(kind), Some(target)) = (&args.kind, &args.target) else {
        return Err(Failure::usage("FILE, TYPE and TARGET are expected".into()));
    };
    let properties: Map<String, Value> = args.properties.iter().cloned().collect();
    let mut relation = relation(&found, &args.at, kind, target)?;
    if !properties.is_empty() {
        relation["properties"] = json!(properties);
    }
    found
        .client
        .post("/v1/relations", &json!({ "relations": [relation] }))?;
    Ok(0)
}

pub(crate) fn unrelate(args: &UnrelateArgs) -> Result<u8, Failure> {
    let found = args.at.find(&args.file)?;
    let relation = relation(&found, &args.at, &args.kind, &args.target)?;
    let body = json!({ "relations": [relation] }).to_string();
    found.client.bytes("DELETE", "/v1/relations", body.as_bytes())?;
    Ok(0)
}

fn relation(found: &Found, at: &At, kind: &str, target: &Path) -> Result<Value, Failure> {
    let to = found.below(at, target)?;
    Ok(json!({ "from": text(&found.below_root)?, "type": kind, "to": text(&to)? }))
}

/// Many relations, some thousand a commit. Lines before a bad one are told, and the error says which it was.
fn relate_all(found: &Found, import: &Path) -> Result<u8, Failure> {
    let lines: Box<dyn BufRead> = match import == Path::new("-") {
        true => Box::new(io::stdin().lock()),
        false => {
            let file = std::fs::File::open(import).map_err(|e| Failure::from_io(&e, import))?;
            Box::new(io::BufReader::new(file))
        }
    };
    let (mut batch, mut bytes, mut first) = (Vec::new(), 0, 1);
    let tell = |batch: &mut Vec<Value>, first: usize| -> Result<(), Failure> {
        let body = json!({ "relations": std::mem::take(batch) });
        let told = found.client.post("/v1/relations", &body);
        told.map(|_| ()).map_err(|mut failure| {
            failure.message = format!("{}, lines from {first}: {}", import.display(), failure.message);
            failure
        })
    };
    for (number, line) in (1..).zip(lines.lines()) {
        let line = line?;
        if line.trim().is_empty() {
            continue;
        }
        let bad = |e| Failure::usage(format!("{}, line {number}: {e}", import.display()));
        batch.push(serde_json::from_str(&line).map_err(bad)?);
        bytes += line.len();
        if bytes >= BATCH_BYTES {
            tell(&mut batch, first)?;
            (bytes, first) = (0, number + 1);
        }
    }
    if !batch.is_empty() {
        tell(&mut batch, first)?;
    }
    Ok(0)
}

pub(crate) fn related(args: &RelatedArgs) -> Result<u8, Failure> {
    let found = args.at.find(&args.file)?;
    let to = args
        .to
        .as_deref()
        .map(|to| found.below(&args.at, to))
        .transpose()?;
    let limit = args.limit.unwrap_or(if args.rank { 10 } else { 1000 });
    let answer = found.client.post(
        "/v1/related",
        &json!({
            "path": text(&found.below_root)?,
            "depth": args.depth,
            "type": args.kind,
            "direction": args.direction.word(),
            "to": to.as_deref().map(text).transpose()?,
            "rank": args.rank,
            "limit": limit,
        }),
    )?;
    let path = |hit: &Value| found.shown(&output::exact_path(hit), &args.file, &args.at);
    output::print_lines(&answer, &args.format, &path, &write_step)?;
    let none = answer["hits"].as_array().is_none_or(Vec::is_empty);
    // The way from a file to itself has no steps, and is one.
    let same = to.is_some_and(|to| to == found.below_root);
    Ok(if none && !same { NO_HITS } else { 0 })
}

/// `2 cites -> path derived`, or with a score `0.912 path`.
fn write_step(out: &mut dyn Write, hit: &Value, path: &Path, c: &Colours) -> io::Result<()> {
    let name = path_text(path);
    if let Some(score) = hit["score"].as_f64() {
        return writeln!(out, "{}{score:.3}{} {}{name}{}", c.score, c.off, c.path, c.off);
    }
    let arrow = if hit["direction"] == "in" { "<-" } else { "->" };
    let depth = hit["depth"].as_u64().unwrap_or(1);
    let kind = hit["type"].as_str().unwrap_or_default();
    write!(out, "{}{depth}{} {kind} {arrow} ", c.score, c.off)?;
    write!(out, "{}{name}{}", c.path, c.off)?;
    for mark in ["derived", "dangling"] {
        if hit[mark] == true {
            write!(out, " {}{mark}{}", c.stale, c.off)?;
        }
    }
    for (key, value) in hit["properties"].as_object().into_iter().flatten() {
        write!(out, " {key}={value}")?;
    }
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_are_scalars_and_text() {
        let check = |text: &str, value: Value| assert_eq!(property(text).unwrap(), ("k".into(), value));
        check("k=3", json!(3));
        check("k=true", json!(true));
        check("k=three", json!("three"));
        check("k=\"3\"", json!("3"));
        check("k=[1]", json!("[1]"));
        check("k=", json!(""));
        assert!(property("k").is_err() && property("=v").is_err());
    }
}
