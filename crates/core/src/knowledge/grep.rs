//! Exact words and patterns in the contents of indexed files, under a query's conditions.
//!
//! Text files are read as they are, so that line numbers are those of the file. Of other files (PDF, office documents,
//! books) the text is searched that was indexed; their line numbers count in that text.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use regex::bytes::{Regex, RegexBuilder};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Knowledge;
use crate::error::{Error, Result};
use crate::fs::ops::Caller;
use crate::ids::{FileId, Generation, PassageId};
use crate::query::answer::{exact_path, path_text};
use crate::semantic::lexical::Snapshot;
use crate::store::file::State;
use crate::store::mirror::Node;

/// A longer file is not searched; the answer says how many were not.
const FILE_BYTES_MAX: u64 = 256 << 20;
/// A text has no NUL in its first bytes.
const PROBED: usize = 8 << 10;
/// Lines of an answer at most.
const LINES_MAX: usize = 100_000;
/// Bytes of a line that are shown: a minified script is one line.
const LINE_BYTES_MAX: usize = 1_000;
/// Files whose readability is asked at once.
const FILES_AT_ONCE: usize = 512;
/// Bytes that a compiled pattern may take.
const PATTERN_BYTES_MAX: usize = 10 << 20;

/// What is looked for, and where.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Pattern {
    /// A regular expression in the syntax of Rust's regex crate, or a text.
    pub pattern: String,
    /// The directory or file to search, below the root.
    #[serde(default)]
    pub path: PathBuf,
    /// Conditions in the query language: filters, phrases, words to exclude.
    #[serde(default)]
    pub conditions: String,
    /// The pattern is a text.
    #[serde(default)]
    pub fixed: bool,
    /// It stands as a word.
    #[serde(default)]
    pub word: bool,
    /// Case does not matter.
    #[serde(default)]
    pub ignore_case: bool,
    /// Lines before a match that are shown.
    #[serde(default)]
    pub before: usize,
    /// Lines after a match that are shown.
    #[serde(default)]
    pub after: usize,
    /// Show files only, with the number of their lines that match.
    #[serde(default)]
    pub files: bool,
    /// Lines of one file that match, at most.
    #[serde(default)]
    pub per_file: Option<usize>,
}

/// Lines that match, by path and line.
#[derive(Clone, Debug)]
pub struct Matches {
    /// The commit that was read.
    pub generation: Generation,
    /// Files that changed and were not in the indexes.
    pub pending: u64,
    /// How long it took.
    pub took: Duration,
    /// Files searched.
    pub searched: usize,
    /// Files that could not be read, or were too long.
    pub skipped: usize,
    /// There are more lines.
    pub truncated: bool,
    /// The lines, each a JSON object.
    pub hits: Vec<Value>,
}

impl Matches {
    /// The answer as one JSON object.
    pub fn json(&self, pattern: &Pattern) -> Value {
        json!({
            "pattern": pattern.pattern,
            "generation": self.generation.0,
            "pending": self.pending,
            "took_ms": (self.took.as_secs_f64() * 1e6).round() / 1e3,
            "searched": self.searched,
            "skipped": self.skipped,
            "truncated": self.truncated,
            "hits": self.hits,
        })
    }
}

impl Pattern {
    fn compile(&self) -> Result<Regex> {
        let body = match self.fixed {
            true => regex::escape(&self.pattern),
            false => self.pattern.clone(),
        };
        let body = match self.word {
            true => format!(r"\b(?:{body})\b"),
            false => body,
        };
        RegexBuilder::new(&body)
            .case_insensitive(self.ignore_case)
            .multi_line(true)
            .crlf(true)
            .size_limit(PATTERN_BYTES_MAX)
            .build()
            .map_err(|e| Error::Invalid(format!("pattern: {e}")))
    }
}

impl Knowledge {
    /// The lines that match in the files that the caller may read. A file that is not indexed - excluded by a rule,
    /// unreadable to the extractor - is not searched; one that waits to be indexed is.
    pub fn grep(&self, caller: &Caller, pattern: &Pattern) -> Result<Matches> {
        let started = Instant::now();
        let regex = pattern.compile()?;
        let mut found = Matches {
            generation: self.store.generation(),
            pending: self.pending()?,
            took: Duration::ZERO,
            searched: 0,
            skipped: 0,
            truncated: false,
            hits: Vec::new(),
        };
        let snapshot = self.searcher.words.snapshot();
        'all: for some in self.searched_files(caller, pattern)?.chunks(FILES_AT_ONCE) {
            let mut sight = self.searcher.sight(caller);
            sight.look(some.iter().map(|(file, _)| *file));
            for (file, _) in some {
                let Some(path) = sight.path(*file) else { continue };
                found.searched += 1;
                let Ok(texts) = self.texts(*file, path, &snapshot) else {
                    found.skipped += 1;
                    continue;
                };
                let room = LINES_MAX - found.hits.len();
                let lines = matching_lines(&texts, &regex, pattern, room);
                append(&mut found.hits, path, &texts, lines, pattern);
                if found.hits.len() >= LINES_MAX {
                    found.truncated = true;
                    break 'all;
                }
            }
        }
        found.took = started.elapsed();
        Ok(found)
    }

    /// The files under the conditions, by path. Whether the caller may read them is not asked yet.
    fn searched_files(&self, caller: &Caller, pattern: &Pattern) -> Result<Vec<(FileId, PathBuf)>> {
        let node = self.node_at(caller, &pattern.path, false)?;
        let scope = self
            .file_id(node)?
            .ok_or_else(|| Error::NotFound(path_text(&pattern.path)))?;
        let passing = self.searcher.passing(caller, &pattern.conditions, scope)?;
        let mirror = self.store.mirror();
        let mut files: Vec<(FileId, PathBuf)> = passing
            .into_iter()
            .filter(|file| {
                let state = mirror.get(*file).map(Node::state);
                matches!(state, Some(State::Ready | State::Stale | State::Pending))
            })
            .filter_map(|file| Some((file, mirror.path(file)?)))
            .collect();
        files.sort_unstable_by(|a, b| a.1.cmp(&b.1));
        Ok(files)
    }

    /// The texts of a file, each with the number of its first line.
    fn texts(&self, file: FileId, path: &Path, snapshot: &Snapshot) -> Result<Vec<(u32, Vec<u8>)>> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_SYMLINKS;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let opened = rustix::fs::openat2(self.root.as_fd(), path, flags, Mode::empty(), resolve)?;
        let mut opened = File::from(opened);
        let meta = opened.metadata()?;
        if !meta.is_file() || meta.len() > FILE_BYTES_MAX {
            return Err(Error::Os(libc::EFBIG));
        }
        let mut bytes = vec![0; PROBED];
        let probed = fill(&mut opened, &mut bytes)?;
        bytes.truncate(probed);
        if !bytes.contains(&0) && !bytes.starts_with(b"%PDF-") {
            opened.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
            return Ok(vec![(1, bytes)]);
        }
        let rows = self.store.read(|rows| rows.passages(file))?;
        let mut texts = Vec::new();
        for row in rows.known() {
            if let Some(passage) = snapshot.passage(PassageId::new(file, row.slot))? {
                texts.push((passage.lines.0, passage.text.into_bytes()));
            }
        }
        Ok(texts)
    }
}

fn fill(file: &mut File, bytes: &mut [u8]) -> Result<usize> {
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read(&mut bytes[filled..])? {
            0 => break,
            n => filled += n,
        }
    }
    Ok(filled)
}

/// Where a line stands: its number, and the text and bytes that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Line {
    number: u32,
    text: usize,
    start: usize,
    end: usize,
}

/// The lines that match, in order, each once: passages overlap.
fn matching_lines(texts: &[(u32, Vec<u8>)], regex: &Regex, pattern: &Pattern, room: usize) -> Vec<Line> {
    let most = pattern.per_file.unwrap_or(usize::MAX).min(room);
    let mut lines: BTreeSet<Line> = BTreeSet::new();
    let mut known = BTreeSet::new();
    for (text, (first, bytes)) in texts.iter().enumerate() {
        let (mut at, mut number, mut counted) = (0, *first, 0);
        while at <= bytes.len() && lines.len() < most {
            let Some(found) = regex.find_at(bytes, at) else {
                break;
            };
            let line = line_at(bytes, found.start());
            number += newlines(&bytes[counted..line.0]);
            counted = line.0;
            // What stands behind the last line's end is no line.
            if line.0 < bytes.len() && known.insert(number) {
                lines.insert(Line {
                    number,
                    text,
                    start: line.0,
                    end: line.1,
                });
            }
            at = line.1 + 1;
        }
    }
    lines.into_iter().collect()
}

fn newlines(bytes: &[u8]) -> u32 {
    bytes.iter().filter(|byte| **byte == b'\n').count() as u32
}

/// First byte and end of the line that a byte is in.
fn line_at(bytes: &[u8], at: usize) -> (usize, usize) {
    let start = bytes[..at]
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |i| i + 1);
    let end = bytes[at..]
        .iter()
        .position(|byte| *byte == b'\n')
        .map_or(bytes.len(), |i| at + i);
    (start, end)
}

/// Adds what a file has to the answer: its lines with their context, or itself.
fn append(hits: &mut Vec<Value>, path: &Path, texts: &[(u32, Vec<u8>)], lines: Vec<Line>, pattern: &Pattern) {
    let object = |mut object: Value| {
        object["path"] = json!(path_text(path));
        exact_path(&mut object, path);
        object
    };
    if pattern.files {
        if !lines.is_empty() {
            hits.push(object(json!({ "count": lines.len() })));
        }
        return;
    }
    let matching: BTreeSet<u32> = lines.iter().map(|line| line.number).collect();
    let mut last = 0;
    for line in lines {
        let bytes = &texts[line.text].1;
        let before = context_before(bytes, line, pattern.before);
        let after = context_after(bytes, line, pattern.after);
        let around = before.into_iter().rev().chain([line]).chain(after);
        for shown in around {
            // Lines that stand between two matches are shown once, as the match where they are one.
            let matches = shown.number == line.number;
            if shown.number <= last || (!matches && matching.contains(&shown.number)) {
                continue;
            }
            last = shown.number;
            hits.push(object(json!({
                "line": shown.number,
                "text": shown_text(&bytes[shown.start..shown.end]),
                "match": matches,
            })));
        }
    }
}

fn context_before(bytes: &[u8], mut line: Line, lines: usize) -> Vec<Line> {
    let mut before = Vec::new();
    while before.len() < lines && line.start > 0 {
        let (start, end) = line_at(bytes, line.start - 1);
        line = Line {
            number: line.number - 1,
            start,
            end,
            ..line
        };
        before.push(line);
    }
    before
}

fn context_after(bytes: &[u8], mut line: Line, lines: usize) -> Vec<Line> {
    let mut after = Vec::new();
    while after.len() < lines && line.end + 1 < bytes.len() {
        let (start, end) = line_at(bytes, line.end + 1);
        line = Line {
            number: line.number + 1,
            start,
            end,
            ..line
        };
        after.push(line);
    }
    after
}

fn shown_text(line: &[u8]) -> String {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let cut = &line[..line.len().min(LINE_BYTES_MAX)];
    String::from_utf8_lossy(cut).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        serde_json::from_value(json!({ "pattern": text })).unwrap()
    }

    fn found(texts: &[(u32, &str)], pattern: &Pattern) -> Vec<(u64, String, bool)> {
        let texts: Vec<_> = texts
            .iter()
            .map(|(line, text)| (*line, text.as_bytes().to_vec()))
            .collect();
        let lines = matching_lines(&texts, &pattern.compile().unwrap(), pattern, 100);
        let mut hits = Vec::new();
        append(&mut hits, Path::new("a"), &texts, lines, pattern);
        let shown = |hit: &Value| {
            let text = hit["text"].as_str().unwrap().to_owned();
            (hit["line"].as_u64().unwrap(), text, hit["match"] == true)
        };
        hits.iter().map(shown).collect()
    }

    fn numbers(texts: &[(u32, &str)], pattern: &Pattern) -> Vec<u64> {
        found(texts, pattern).iter().map(|(line, ..)| *line).collect()
    }

    #[test]
    fn lines_are_numbered_and_given_once() {
        let text = "one\ntwo two\n\nthree\r\ntwo";
        assert_eq!(numbers(&[(1, text)], &pattern("two")), [2, 5]);
        assert_eq!(found(&[(1, text)], &pattern("three$"))[0].1, "three");
        assert_eq!(numbers(&[(1, text)], &pattern("^$")), [3]);
        assert_eq!(numbers(&[(1, "a\n")], &pattern("^")), [1]);
        assert!(numbers(&[(1, "")], &pattern("^")).is_empty());
        // Two passages that overlap.
        assert_eq!(numbers(&[(3, "a\nx"), (4, "x\nb x")], &pattern("x")), [4, 5]);
    }

    #[test]
    fn words_texts_and_case_are_told_apart() {
        let text = "foobar\nfoo bar\nFOO.\nf.o\n";
        let with = |change: fn(&mut Pattern), body: &str| {
            let mut pattern = pattern(body);
            change(&mut pattern);
            numbers(&[(1, text)], &pattern)
        };
        assert_eq!(with(|_| (), "foo"), [1, 2]);
        assert_eq!(with(|p| p.word = true, "foo"), [2]);
        assert_eq!(with(|p| p.ignore_case = true, "foo"), [1, 2, 3]);
        assert_eq!(with(|p| p.fixed = true, "f.o"), [4]);
        assert_eq!(with(|p| p.per_file = Some(1), "o"), [1]);
    }

    #[test]
    fn context_is_shown_once_between_matches() {
        let mut around = pattern("x");
        (around.before, around.after) = (1, 1);
        let hits = found(&[(1, "a\nx1\nb\nx2\nc\nd\n")], &around);
        let shown: Vec<_> = hits
            .iter()
            .map(|(line, text, m)| (*line, text.as_str(), *m))
            .collect();
        assert_eq!(
            shown,
            [
                (1, "a", false),
                (2, "x1", true),
                (3, "b", false),
                (4, "x2", true),
                (5, "c", false)
            ]
        );
    }

    #[test]
    fn a_bad_pattern_says_what_is_wrong() {
        let error = pattern("a(b").compile().unwrap_err().to_string();
        assert!(
            error.contains("pattern") && error.contains("unclosed group"),
            "{error}"
        );
    }
}
