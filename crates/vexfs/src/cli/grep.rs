//! `vexfs grep`: exact words and patterns in indexed files, under a query's conditions.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};
use vexfs_core::query::answer::path_text;

use super::failure::{Failure, NO_HITS};
use super::output::{self, Colours, Format};
use super::place::{At, text};

/// Find exact words and patterns in indexed files
///
/// Prints path:line:text, as grep -rn does. PDF, office documents and books are searched as text.
#[derive(Args, Debug)]
pub(crate) struct GrepArgs {
    /// A regular expression
    pattern: String,
    /// Directory or file to search
    #[arg(default_value = ".")]
    path: PathBuf,
    /// Conditions of the query language: ext: type: tag: mtime: size: path: linked: "a phrase" -word
    #[arg(
        short = 'q',
        long = "where",
        value_name = "QUERY",
        default_value = "",
        allow_hyphen_values = true
    )]
    conditions: String,
    /// PATTERN is a text, not a regular expression
    #[arg(short = 'F', long)]
    fixed_strings: bool,
    /// PATTERN stands as a word
    #[arg(short, long)]
    word_regexp: bool,
    /// Case does not matter
    #[arg(short, long)]
    ignore_case: bool,
    /// Show the names of files only
    #[arg(short = 'l', long, conflicts_with = "count")]
    files_with_matches: bool,
    /// Show for each file how many lines match
    #[arg(short, long)]
    count: bool,
    /// Stop after N lines of a file
    #[arg(short, long, value_name = "N")]
    max_count: Option<usize>,
    /// Lines to show before each match
    #[arg(short = 'B', long, value_name = "N", default_value_t = 0)]
    before_context: usize,
    /// Lines to show after each match
    #[arg(short = 'A', long, value_name = "N", default_value_t = 0)]
    after_context: usize,
    /// Lines to show around each match
    #[arg(long, value_name = "N")]
    context: Option<usize>,
    /// Of grep: lines always have their number, directories are always searched whole
    #[arg(short = 'n', long, hide = true)]
    line_number: bool,
    #[arg(short, long, hide = true)]
    recursive: bool,
    /// Search files of this name only, with * ? [a-z] {a,b}
    #[arg(long, value_name = "GLOB")]
    include: Vec<String>,
    /// Leave out files of this name
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<String>,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    at: At,
}

impl GrepArgs {
    /// The conditions, with the names to search and to leave out among them.
    fn conditions(&self) -> String {
        let mut query = self.conditions.clone();
        let name = |glob: &String| format!("name:\"{}\"", glob.replace('\\', "\\\\").replace('"', "\\\""));
        if !self.include.is_empty() {
            let any: Vec<String> = self.include.iter().map(name).collect();
            query = format!("{query} {}", any.join(" OR "));
        }
        for glob in &self.exclude {
            query = format!("{query} -{}", name(glob));
        }
        query.trim().to_owned()
    }
}

pub(crate) fn grep(args: &GrepArgs) -> Result<u8, Failure> {
    let found = args.at.find(&args.path)?;
    let files = args.files_with_matches || args.count;
    let answer = found.client.post(
        "/v1/grep",
        &json!({
            "pattern": args.pattern,
            "path": text(&found.below_root)?,
            "conditions": args.conditions(),
            "fixed": args.fixed_strings,
            "word": args.word_regexp,
            "ignore_case": args.ignore_case,
            "before": args.context.unwrap_or(args.before_context),
            "after": args.context.unwrap_or(args.after_context),
            "files": files,
            "per_file": if args.files_with_matches { Some(1) } else { args.max_count },
        }),
    )?;
    let shown = |hit: &Value| found.shown(&output::exact_path(hit), &args.path, &args.at);
    if args.format.is_for_programs() || args.files_with_matches {
        output::print_lines(&answer, &args.format, &shown, &write_name)?;
    } else {
        print(&answer, args, &shown)?;
    }
    if answer["truncated"] == true {
        eprintln!("vexfs: there are more lines; a narrower search shows them");
    }
    if let Some(skipped) = answer["skipped"].as_u64().filter(|skipped| *skipped > 0) {
        eprintln!("vexfs: {skipped} files could not be read");
    }
    Ok(if answer["hits"].as_array().is_none_or(Vec::is_empty) {
        NO_HITS
    } else {
        0
    })
}

fn write_name(out: &mut dyn Write, _: &Value, path: &Path, c: &Colours) -> io::Result<()> {
    writeln!(out, "{}{}{}", c.path, path_text(path), c.off)
}

/// `path:line:text`, lines of context with `-` for `:`, groups of lines apart by `--`.
fn print(answer: &Value, args: &GrepArgs, shown: &dyn Fn(&Value) -> PathBuf) -> io::Result<()> {
    let stdout = io::stdout();
    let terminal = stdout.is_terminal();
    let c = match terminal {
        true => output::colours(),
        false => Colours::none(),
    };
    let mut out = io::BufWriter::new(stdout.lock());
    let around = args
        .context
        .unwrap_or(args.before_context.max(args.after_context))
        > 0;
    let mut last: Option<(PathBuf, u64)> = None;
    for hit in answer["hits"].as_array().into_iter().flatten() {
        let path = shown(hit);
        let name = path_text(&path);
        if args.count {
            writeln!(out, "{}{name}{}:{}", c.path, c.off, hit["count"])?;
            continue;
        }
        let line = hit["line"].as_u64().unwrap_or(0);
        let follows = |(before, at): &(PathBuf, u64)| *before == path && at + 1 == line;
        if around && last.as_ref().is_some_and(|last| !follows(last)) {
            writeln!(out, "--")?;
        }
        let mark = if hit["match"] == true { ':' } else { '-' };
        let text = hit["text"].as_str().unwrap_or_default();
        write!(
            out,
            "{}{name}{}{mark}{}{line}{}{mark}",
            c.path, c.off, c.line, c.off
        )?;
        match terminal {
            // A file must not write to the terminal what it likes.
            true => writeln!(
                out,
                "{}",
                text.replace(|c: char| c.is_control() && c != '\t', "\u{fffd}")
            )?,
            false => writeln!(out, "{text}")?,
        }
        last = Some((path, line));
    }
    out.flush()
}
