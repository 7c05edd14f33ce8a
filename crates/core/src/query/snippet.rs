//! The few words of a passage to show: where most of the query's words stand close together.

use std::collections::HashSet;
use std::ops::Range;

use tantivy::tokenizer::{TokenStream, Tokenizer};

use crate::semantic::lexical::Analyzer;

/// A piece of a passage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snippet {
    /// Its bytes in the passage, at word boundaries, on character boundaries always.
    pub bytes: Range<usize>,
    /// The line of its first byte in the file, from 1.
    pub line: u32,
    /// Words of the query in it, as bytes of the passage, in order and apart.
    pub highlights: Vec<Range<usize>>,
}

/// Finds the best piece of at most `bytes_max` bytes. `passage_line` is the line of the passage's first byte. Words
/// are compared as the lexical index compares them: by stem, identifiers also by their parts. Without any of the
/// query's words the piece is the passage's beginning.
pub fn snippet(passage: &str, passage_line: u32, query: &str, bytes_max: usize) -> Snippet {
    let hits = hits(passage, query);
    let best = best_run(&hits, bytes_max);
    let bytes = around(
        passage,
        best.first()
            .map_or(0..0, |hit| hit.bytes.start..best[best.len() - 1].bytes.end),
        bytes_max,
    );
    let line = passage_line + passage[..bytes.start].matches('\n').count() as u32;
    let mut highlights: Vec<Range<usize>> = Vec::new();
    for hit in hits
        .iter()
        .filter(|hit| bytes.start <= hit.bytes.start && hit.bytes.end <= bytes.end)
    {
        match highlights.last_mut() {
            // An identifier and its parts overlap.
            Some(last) if hit.bytes.start < last.end => last.end = last.end.max(hit.bytes.end),
            _ => highlights.push(hit.bytes.clone()),
        }
    }
    Snippet {
        bytes,
        line,
        highlights,
    }
}

struct Match {
    bytes: Range<usize>,
    term: String,
}

fn hits(passage: &str, query: &str) -> Vec<Match> {
    let mut analyzer = Analyzer::default();
    let terms: HashSet<String> = analyzer.terms(query).into_iter().map(|(_, term)| term).collect();
    let mut hits = Vec::new();
    let mut stream = analyzer.token_stream(passage);
    while stream.advance() {
        let token = stream.token();
        if terms.contains(&token.text) {
            hits.push(Match {
                bytes: token.offset_from..token.offset_to,
                term: token.text.clone(),
            });
        }
    }
    hits
}

/// The shortest run of matches within `bytes_max` that has most different terms, the first of equals.
fn best_run(hits: &[Match], bytes_max: usize) -> &[Match] {
    let mut best = (0, usize::MAX, 0..0);
    for (from, first) in hits.iter().enumerate() {
        let (mut terms, mut to) = (HashSet::new(), from);
        let reach = first.bytes.start + bytes_max;
        for (i, hit) in hits
            .iter()
            .enumerate()
            .skip(from)
            .take_while(|(_, hit)| hit.bytes.end <= reach)
        {
            if terms.insert(hit.term.as_str()) {
                to = i + 1;
            }
        }
        if to > from {
            let span = hits[to - 1].bytes.end - first.bytes.start;
            if terms.len() > best.0 || terms.len() == best.0 && span < best.1 {
                best = (terms.len(), span, from..to);
            }
        }
    }
    &hits[best.2]
}

/// Widens a run to whole lines where they fit, else to whole words, up to `bytes_max`.
fn around(passage: &str, run: Range<usize>, bytes_max: usize) -> Range<usize> {
    let line_start = passage[..run.start].rfind('\n').map_or(0, |at| at + 1);
    let mut start = if run.end - line_start <= bytes_max {
        line_start
    } else {
        // A little of what stands before, then the words themselves.
        word_start(
            passage,
            run.start
                .saturating_sub(bytes_max / 4)
                .max(run.end.saturating_sub(bytes_max)),
            run.start,
        )
    };
    let mut end = (start + bytes_max).max(run.end).min(passage.len());
    if end < passage.len() {
        while !passage.is_char_boundary(end) {
            end -= 1;
        }
        let cut = passage[run.end.min(end)..end]
            .rfind(char::is_whitespace)
            .map(|at| run.end.min(end) + at);
        end = cut.filter(|cut| *cut > start).unwrap_or(end);
    }
    start += passage[start..end].len() - passage[start..end].trim_start().len();
    start..start + passage[start..end].trim_end().len()
}

/// The first place at or behind `from` where a word begins, `to` at the latest.
fn word_start(passage: &str, from: usize, to: usize) -> usize {
    let mut from = from;
    while !passage.is_char_boundary(from) {
        from += 1;
    }
    passage[from..to]
        .find(char::is_whitespace)
        .map_or(to, |at| from + at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(passage: &str, query: &str, bytes_max: usize, expect: &str, line: u32, marked: &[&str]) {
        let found = snippet(passage, 10, query, bytes_max);
        let highlights: Vec<&str> = found
            .highlights
            .iter()
            .map(|range| &passage[range.clone()])
            .collect();
        assert_eq!((&passage[found.bytes.clone()], found.line), (expect, line));
        assert_eq!(highlights, marked);
    }

    const TEXT: &str =
        "first line about rivers\nsecond line\nthe wings of a plane\nlift of swept wings here\nlast";

    #[test]
    fn the_piece_with_most_of_the_words_is_shown_from_its_line_on() {
        check(
            TEXT,
            "swept wing lift",
            30,
            "lift of swept wings here\nlast",
            13,
            &["lift", "swept", "wings"],
        );
        check(TEXT, "river", 25, "first line about rivers", 10, &["rivers"]);
        check(TEXT, "nothing", 12, "first line", 10, &[]);
        check(TEXT, "", 1000, TEXT, 10, &[]);
    }

    #[test]
    fn identifiers_are_marked_once() {
        check(
            "let x = parseHttpHeader(y)",
            "http header parseHttpHeader",
            100,
            "let x = parseHttpHeader(y)",
            10,
            &["parseHttpHeader"],
        );
        check(
            "let x = parseHttpHeader(y)",
            "header",
            100,
            "let x = parseHttpHeader(y)",
            10,
            &["Header"],
        );
    }

    proptest! {
        #[test]
        fn any_passage_and_size_gives_a_piece_of_it(passage in "(\\PC|[ab \\n]){0,120}", query in "[ab ]{0,10}", max in 1usize..80) {
            let found = snippet(&passage, 1, &query, max);
            prop_assert!(passage.get(found.bytes.clone()).is_some());
            for highlight in &found.highlights {
                prop_assert!(passage.get(highlight.clone()).is_some());
                prop_assert!(found.bytes.start <= highlight.start && highlight.end <= found.bytes.end);
            }
        }
    }
}
