//! What a search gives back, and its forms for programs.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use crate::ids::{FileId, Generation};

/// A ranked list of files, each with its best passage.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The query as given.
    pub query: String,
    /// The commit that the indexes were read at.
    pub generation: Generation,
    /// Files that changed and are not in the indexes yet.
    pub pending: u64,
    /// How long it took.
    pub took: Duration,
    /// More files matched than were asked for.
    pub truncated: bool,
    /// Best first.
    pub hits: Vec<Hit>,
}

/// One file of an answer.
#[derive(Clone, Debug)]
pub struct Hit {
    /// The file.
    pub file: FileId,
    /// Path below the root of the mount.
    pub path: PathBuf,
    /// Fused score, 0..=1.
    pub score: f32,
    /// Similarity of the best passage by vector (cosine), where the vector index found it.
    pub score_vec: Option<f32>,
    /// BM25 of the best passage, where the lexical index found it.
    pub score_bm25: Option<f32>,
    /// Nearness by relations (`mode=rel`), 1 for the nearest file of the answer.
    pub score_rel: Option<f32>,
    /// The best passages of the file, best first; empty where it was found by attributes alone.
    pub passages: Vec<HitPassage>,
    /// The file changed after these passages were indexed.
    pub stale: bool,
    /// The commit that indexed the file.
    pub generation: Generation,
}

/// A passage that matched.
#[derive(Clone, Debug, PartialEq)]
pub struct HitPassage {
    /// First line, from 1.
    pub start_line: u32,
    /// Last line, inclusive.
    pub end_line: u32,
    /// First byte in the extracted text.
    pub start_byte: u64,
    /// The byte after the last.
    pub end_byte: u64,
    /// The text as indexed.
    pub text: String,
    /// Its own fused score.
    pub score: f32,
}

#[derive(Serialize)]
struct Line<'a> {
    start_line: u32,
    end_line: u32,
    start_byte: u64,
    end_byte: u64,
    text: &'a str,
}

impl Hit {
    /// The hit as a JSON object, `rank` counted from 1, with how fresh the whole answer is: a line stands alone. A path that is not UTF-8 is given as text with its odd bytes
    /// escaped (`path`) and exactly, in hexadecimal (`path_hex`).
    pub fn json(&self, rank: usize, answer: &Answer) -> Value {
        let chunk = self.passages.first().map(|p| Line {
            start_line: p.start_line,
            end_line: p.end_line,
            start_byte: p.start_byte,
            end_byte: p.end_byte,
            text: &p.text,
        });
        let mut hit = json!({
            "rank": rank,
            "path": path_text(&self.path),
            "score": round(self.score),
            "scores": { "vec": self.score_vec.map(round), "bm25": self.score_bm25.map(round), "rel": self.score_rel.map(round) },
            "chunk": chunk,
            "stale": self.stale,
            "indexed": self.generation.0,
            "generation": answer.generation.0,
            "pending": answer.pending,
        });
        exact_path(&mut hit, &self.path);
        hit
    }
}

impl Answer {
    /// The whole answer as one JSON object.
    pub fn json(&self) -> Value {
        let hits: Vec<Value> = self
            .hits
            .iter()
            .enumerate()
            .map(|(i, hit)| hit.json(i + 1, self))
            .collect();
        json!({
            "query": self.query,
            "took_ms": (self.took.as_secs_f64() * 1e6).round() / 1e3,
            "generation": self.generation.0,
            "pending": self.pending,
            "truncated": self.truncated,
            "hits": hits,
        })
    }

    /// One JSON object a line and hit.
    pub fn jsonl(&self) -> String {
        let mut lines = String::new();
        for (i, hit) in self.hits.iter().enumerate() {
            lines.push_str(&hit.json(i + 1, self).to_string());
            lines.push('\n');
        }
        lines
    }
}

/// Adds `path_hex` to an object with a `path` that its text does not give exactly.
pub fn exact_path(object: &mut Value, path: &Path) {
    if path.to_str().is_none_or(|text| text != path_text(path)) {
        object["path_hex"] = json!(hex(path.as_os_str().as_bytes()));
    }
}

/// A path as text that is safe to print: UTF-8 stays, control characters and bytes that are not UTF-8 become `\xNN`.
pub fn path_text(path: &Path) -> String {
    name_text(path.as_os_str())
}

/// A name as text that is safe to print; see [`path_text`].
pub fn name_text(name: &OsStr) -> String {
    let mut text = String::with_capacity(name.len());
    for chunk in name.as_bytes().utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() || is_direction(c) {
                text.extend(c.encode_utf8(&mut [0; 4]).bytes().map(|b| format!("\\x{b:02x}")));
            } else {
                text.push(c);
            }
        }
        text.extend(chunk.invalid().iter().map(|b| format!("\\x{b:02x}")));
    }
    text
}

/// Characters that reorder what is printed after them.
fn is_direction(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn round(score: f32) -> f64 {
    (f64::from(score) * 1e4).round() / 1e4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_printed_without_control_characters() {
        let check = |name: &[u8], text: &str| assert_eq!(name_text(OsStr::from_bytes(name)), text);
        check(b"plain.txt", "plain.txt");
        check("übung".as_bytes(), "übung");
        check(b"a\nb\x1b[2J", "a\\x0ab\\x1b[2J");
        check(b"caf\xe9", "caf\\xe9");
        check("x\u{202e}txt".as_bytes(), "x\\xe2\\x80\\xaetxt");
    }

    #[test]
    fn jsonl_has_a_line_for_each_hit_and_exact_bytes_of_odd_paths() {
        let hit = Hit {
            file: FileId(1),
            path: PathBuf::from(OsStr::from_bytes(b"d/\xff.md")),
            score: 0.5,
            score_vec: Some(0.25),
            score_bm25: None,
            score_rel: None,
            passages: vec![],
            stale: true,
            generation: Generation(3),
        };
        let answer = Answer {
            query: "q".into(),
            generation: Generation(4),
            pending: 1,
            took: Duration::from_millis(2),
            truncated: false,
            hits: vec![hit.clone(), hit],
        };
        let lines = answer.jsonl();
        assert_eq!(lines.lines().count(), 2);
        let first: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
        assert_eq!(first["path_hex"], "642fff2e6d64");
        assert_eq!(first["stale"], true);
        assert_eq!((&first["generation"], &first["pending"]), (&json!(4), &json!(1)));
    }
}
