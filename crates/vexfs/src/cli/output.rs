//! The forms of an answer: for a terminal, for a pipe, and for programs.

use std::io::{self, IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::Value;

/// How hits are printed.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Format {
    /// One JSON object: the whole answer
    #[arg(long, conflicts_with_all = ["jsonl", "null"])]
    json: bool,
    /// One JSON object a line and hit
    #[arg(long, conflicts_with = "null")]
    jsonl: bool,
    /// Paths that end with NUL instead of a newline, for xargs -0
    #[arg(short = '0', long)]
    null: bool,
}

impl Format {
    /// Whether a form for programs was asked for.
    pub(crate) fn is_for_programs(&self) -> bool {
        self.json || self.jsonl || self.null
    }
}

/// Prints an answer (the JSON of the API). Paths are shown below `shown`, the path that the user gave; `scope` is the
/// same place below the root of the mount.
pub(crate) fn print(answer: &Value, format: &Format, scope: &Path, shown: &Path) -> io::Result<()> {
    print_lines(answer, format, &|hit| shown_path(hit, scope, shown), &write_hit)
}

/// Writes a hit for a person.
pub(crate) type Line = dyn Fn(&mut dyn Write, &Value, &Path, &Colours) -> io::Result<()>;

/// Prints an answer: for programs as it is, in a pipe the paths, as `path` gives them, on a terminal a `line` a hit.
pub(crate) fn print_lines(
    answer: &Value,
    format: &Format,
    path: &dyn Fn(&Value) -> PathBuf,
    line: &Line,
) -> io::Result<()> {
    let stdout = io::stdout();
    let terminal = stdout.is_terminal();
    let mut out = io::BufWriter::new(stdout.lock());
    if format.json {
        writeln!(out, "{answer}")?;
        return out.flush();
    }
    for hit in answer["hits"].as_array().into_iter().flatten() {
        let path = path(hit);
        if format.jsonl {
            writeln!(out, "{hit}")?;
        } else if format.null {
            out.write_all(path.as_os_str().as_bytes())?;
            out.write_all(b"\0")?;
        } else if terminal {
            line(&mut out, hit, &path, &colours())?;
        } else {
            out.write_all(path.as_os_str().as_bytes())?;
            out.write_all(b"\n")?;
        }
    }
    out.flush()
}

/// The hit's path as the user would write it.
fn shown_path(hit: &Value, scope: &Path, shown: &Path) -> PathBuf {
    let path = exact_path(hit);
    let below = path.strip_prefix(scope).unwrap_or(&path);
    if shown == Path::new(".") {
        below.to_owned()
    } else {
        shown.join(below)
    }
}

pub(crate) fn exact_path(hit: &Value) -> PathBuf {
    match hit["path_hex"].as_str() {
        Some(hex) => {
            let bytes: Vec<u8> = hex
                .as_bytes()
                .chunks(2)
                .filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
                .collect();
            PathBuf::from(std::ffi::OsStr::from_bytes(&bytes))
        }
        None => PathBuf::from(hit["path"].as_str().unwrap_or_default()),
    }
}

/// Sequences that colour what follows; empty ones where `NO_COLOR` says so.
pub(crate) struct Colours {
    pub(crate) score: &'static str,
    pub(crate) path: &'static str,
    pub(crate) line: &'static str,
    pub(crate) stale: &'static str,
    pub(crate) off: &'static str,
}

impl Colours {
    pub(crate) fn none() -> Colours {
        Colours {
            score: "",
            path: "",
            line: "",
            stale: "",
            off: "",
        }
    }
}

pub(crate) fn colours() -> Colours {
    if std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) {
        return Colours::none();
    }
    Colours {
        score: "\x1b[36m",
        path: "\x1b[35m",
        line: "\x1b[32m",
        stale: "\x1b[31m",
        off: "\x1b[0m",
    }
}

/// `score path:line snippet`, the snippet cut to a line.
fn write_hit(out: &mut dyn Write, hit: &Value, path: &Path, c: &Colours) -> io::Result<()> {
    let name = vexfs_core::query::answer::path_text(path);
    let score = hit["score"].as_f64().unwrap_or(0.0);
    write!(out, "{}{score:.3}{} {}{name}{}", c.score, c.off, c.path, c.off)?;
    if let Some(line) = hit["chunk"]["start_line"].as_u64() {
        write!(out, ":{}{line}{}", c.line, c.off)?;
    }
    if hit["stale"] == true {
        write!(out, " {}stale{}", c.stale, c.off)?;
    }
    if let Some(text) = hit["chunk"]["text"].as_str() {
        write!(out, " {}", snippet(text))?;
    }
    writeln!(out)
}

/// The beginning of a passage on one line, without control characters.
fn snippet(text: &str) -> String {
    const CHARS_MAX: usize = 100;
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() {
            line.push(' ');
        }
        line.extend(word.chars().filter(|c| !c.is_control()));
        if let Some((cut, _)) = line.char_indices().nth(CHARS_MAX) {
            line.truncate(cut);
            line.push('…');
            break;
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_are_shown_below_what_the_user_gave() {
        let check = |path: &str, scope: &str, shown: &str, want: &str| {
            let hit = json!({ "path": path });
            assert_eq!(
                shown_path(&hit, Path::new(scope), Path::new(shown)),
                Path::new(want)
            );
        };
        check("docs/a.md", "docs", ".", "a.md");
        check("docs/a.md", "", ".", "docs/a.md");
        check("docs/a.md", "docs", "/mnt/docs", "/mnt/docs/a.md");
        let odd = json!({ "path": "d/\\xff", "path_hex": "642fff" });
        assert_eq!(exact_path(&odd).as_os_str().as_bytes(), b"d/\xff");
    }

    #[test]
    fn a_snippet_is_one_line_of_bounded_length() {
        assert_eq!(snippet(" a\n\tb\x1b[2J "), "a b[2J");
        assert_eq!(snippet(&"word ".repeat(100)).chars().count(), 101);
    }
}
