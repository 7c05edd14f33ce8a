//! `vexfs search`, `ask` and `like`.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::failure::{Failure, NO_HITS};
use super::output::{self, Format};
use super::place::{At, Found, text};

/// Find files by meaning, word and attribute
#[derive(Args, Debug)]
pub(crate) struct SearchArgs {
    /// The query: words, "a phrase", path: name: ext: type: size: mtime: tag: like: linked: space:, -not, OR
    #[arg(required = true, allow_hyphen_values = false)]
    query: String,
    #[command(flatten)]
    how: How,
    #[command(flatten)]
    format: Format,
}

/// Print the best passages, ready for a prompt
#[derive(Args, Debug)]
pub(crate) struct AskArgs {
    /// The question
    query: String,
    #[command(flatten)]
    how: How,
    /// The whole answer as one JSON object
    #[arg(long)]
    json: bool,
}

/// Find the files most similar to one
#[derive(Args, Debug)]
pub(crate) struct LikeArgs {
    /// The file
    file: PathBuf,
    #[command(flatten)]
    how: How,
    #[command(flatten)]
    format: Format,
}

/// Where to search, and how.
#[derive(Args, Debug)]
struct How {
    /// Directory to search below
    #[arg(default_value = ".")]
    path: PathBuf,
    #[command(flatten)]
    ranking: Ranking,
    #[command(flatten)]
    fresh: Freshness,
    #[command(flatten)]
    at: At,
}

impl How {
    /// The daemon to ask, and the body of the request without what is asked.
    fn request(&self) -> Result<(Found, Value), Failure> {
        let found = self.at.find(&self.path)?;
        let body = json!({
            "path": text(&found.below_root)?,
            "options": self.ranking.component(),
            "require_fresh": self.fresh.require_fresh,
            "wait_ms": self.fresh.wait_ms(),
        });
        Ok((found, body))
    }
}

#[derive(Args, Debug)]
struct Ranking {
    /// Number of files
    #[arg(short = 'k', long = "top", value_name = "N")]
    k: Option<usize>,
    /// hybrid, vec, text or rel
    #[arg(long)]
    mode: Option<String>,
    /// The space of vectors to search in
    #[arg(long)]
    space: Option<String>,
    /// Leave out hits below this score
    #[arg(long, value_name = "SCORE")]
    min_score: Option<f32>,
}

impl Ranking {
    /// As an options component of the control directory: one spelling, one parser.
    fn component(&self) -> Option<String> {
        let mut parts = Vec::new();
        parts.extend(self.k.map(|k| format!("k={k}")));
        parts.extend(self.mode.as_ref().map(|mode| format!("mode={mode}")));
        parts.extend(self.space.as_ref().map(|space| format!("space={space}")));
        parts.extend(self.min_score.map(|score| format!("min_score={score}")));
        (!parts.is_empty()).then(|| format!("@{}", parts.join(",")))
    }
}

#[derive(Args, Debug)]
struct Freshness {
    /// Fail with exit code 3 when changed files are not searchable yet
    #[arg(long)]
    require_fresh: bool,
    /// Wait until changed files are searchable, at most S seconds (30 when not given)
    #[arg(long, value_name = "S", num_args = 0..=1, default_missing_value = "30", require_equals = true)]
    wait: Option<f64>,
}

impl Freshness {
    fn wait_ms(&self) -> u64 {
        self.wait
            .map_or(0, |seconds| (seconds.clamp(0.0, 86_400.0) * 1e3) as u64)
    }
}

pub(crate) fn search(args: &SearchArgs) -> Result<u8, Failure> {
    let (found, mut body) = args.how.request()?;
    body["query"] = json!(args.query);
    list(&found, &body, &args.format, &args.how.path)
}

pub(crate) fn like(args: &LikeArgs) -> Result<u8, Failure> {
    let (found, mut body) = args.how.request()?;
    let file = args.how.at.find(&args.file)?;
    let below = file.below_root.strip_prefix(&found.below_root).map_err(|_| {
        Failure::usage(format!(
            "{} is not below {}",
            args.file.display(),
            args.how.path.display()
        ))
    })?;
    body["like"] = json!(text(below)?);
    list(&found, &body, &args.format, &args.how.path)
}

fn list(found: &Found, body: &Value, format: &Format, shown: &std::path::Path) -> Result<u8, Failure> {
    let answer = found.client.post("/v1/search", body)?;
    output::print(&answer, format, &found.below_root, shown)?;
    Ok(exit_code(&answer))
}

pub(crate) fn ask(args: &AskArgs) -> Result<u8, Failure> {
    let (found, mut body) = args.how.request()?;
    body["query"] = json!(args.query);
    let answer = found.client.post("/v1/ask", &body)?;
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{answer}")?;
    } else {
        out.write_all(answer["text"].as_str().unwrap_or_default().as_bytes())?;
    }
    out.flush()?;
    Ok(exit_code(&answer))
}

/// 0 with hits, as grep does.
fn exit_code(answer: &Value) -> u8 {
    match answer["hits"].as_array() {
        Some(hits) if !hits.is_empty() => 0,
        _ => NO_HITS,
    }
}
