//! Words of text and code.
//!
//! Text is split where neither letter, digit nor `_` stands. An identifier of several words (`parseHttpHeader`,
//! `MAX_PATH_LEN`) gives itself whole and its words, so it is found by either; its words stand at positions one after
//! another, the whole at the first, so that a phrase matches both. Then lower case, accents off, stop words out, the
//! rest stemmed (Porter's English stemmer). CJK ideographs are words of one character.

use frostem::{Algorithm, Stemmer};
use rustc_hash::FxHashMap;
use tantivy::tokenizer::{Token, TokenStream, Tokenizer};
use unicode_normalization::char::decompose_canonical;
use unicode_normalization::char::is_combining_mark;

use crate::semantic::embed::wordpiece::is_ideograph;

/// Longer words are hashes, encoded data or generated names: they make the dictionary large and nobody types them.
const WORD_BYTES_MAX: usize = 64;
/// Stems remembered. Text repeats its words, and stemming costs more than all the rest of the analysis.
const STEMS_MAX: usize = 1 << 15;

/// Common words that say nothing about what a passage is about; sorted.
static STOP_WORDS: [&str; 64] = [
    "a", "about", "an", "and", "any", "are", "as", "at", "be", "been", "but", "by", "can", "could", "did",
    "do", "does", "for", "from", "had", "has", "have", "how", "i", "if", "in", "into", "is", "it", "its",
    "me", "my", "no", "not", "of", "on", "or", "s", "should", "so", "such", "t", "than", "that", "the",
    "their", "them", "then", "there", "these", "they", "this", "to", "was", "we", "were", "what", "when",
    "where", "which", "who", "will", "with", "would",
];

/// Splits, lower-cases, drops stop words and stems. One a thread: it remembers stems.
pub struct Analyzer {
    stemmer: Stemmer,
    stems: FxHashMap<Box<str>, Box<str>>,
    /// Words of the identifier in work that are still to be given, as offsets; the last comes first.
    parts: Vec<(usize, usize)>,
    lowered: String,
    token: Token,
}

impl Default for Analyzer {
    fn default() -> Analyzer {
        Analyzer {
            stemmer: Stemmer::new(Algorithm::English),
            stems: FxHashMap::default(),
            parts: Vec::new(),
            lowered: String::new(),
            token: Token::default(),
        }
    }
}

impl Clone for Analyzer {
    fn clone(&self) -> Analyzer {
        Analyzer::default()
    }
}

impl Analyzer {
    /// The terms of a text with their positions.
    pub fn terms(&mut self, text: &str) -> Vec<(usize, String)> {
        let mut terms = Vec::new();
        let mut stream = self.token_stream(text);
        while stream.advance() {
            terms.push((stream.token().position, stream.token().text.clone()));
        }
        terms
    }

    /// Puts the term of a word into the token; false when the word is not indexed.
    fn term(&mut self, word: &str) -> bool {
        self.lowered.clear();
        if word.is_ascii() {
            self.lowered.push_str(word);
            self.lowered.make_ascii_lowercase();
        } else {
            for c in word.chars().flat_map(char::to_lowercase) {
                decompose_canonical(c, |part| {
                    if !is_combining_mark(part) {
                        self.lowered.push(part);
                    }
                });
            }
        }
        let lowered = self.lowered.as_str();
        if lowered.is_empty() || lowered.len() > WORD_BYTES_MAX || STOP_WORDS.binary_search(&lowered).is_ok()
        {
            return false;
        }
        self.token.text.clear();
        if lowered.len() < 3 || !lowered.bytes().all(|b| b.is_ascii_lowercase()) {
            self.token.text.push_str(lowered);
        } else if let Some(stemmed) = self.stems.get(lowered) {
            self.token.text.push_str(stemmed);
        } else {
            let stemmed = self.stemmer.stem(lowered);
            self.token.text.push_str(&stemmed);
            if self.stems.len() == STEMS_MAX {
                self.stems.clear();
            }
            self.stems.insert(lowered.into(), stemmed.into());
        }
        true
    }
}

impl Tokenizer for Analyzer {
    type TokenStream<'a> = Stream<'a>;

    fn token_stream<'a>(&'a mut self, text: &'a str) -> Stream<'a> {
        self.parts.clear();
        self.token.reset();
        Stream {
            analyzer: self,
            text,
            at: 0,
            position: 0,
        }
    }
}

/// The walk through one text.
pub struct Stream<'a> {
    analyzer: &'a mut Analyzer,
    text: &'a str,
    at: usize,
    /// Of the next word, stop words counted.
    position: usize,
}

impl TokenStream for Stream<'_> {
    fn advance(&mut self) -> bool {
        loop {
            if let Some((start, end)) = self.analyzer.parts.pop() {
                if self.give(start, end) {
                    return true;
                }
                continue;
            }
            let Some((start, end)) = self.next_run() else {
                return false;
            };
            split_identifier(&self.text[start..end], start, &mut self.analyzer.parts);
            if self.analyzer.parts.len() > 1 {
                let found = self.give(start, end);
                // The whole stands at the position of its first word.
                self.position -= 1;
                if found {
                    return true;
                }
            }
        }
    }

    fn token(&self) -> &Token {
        &self.analyzer.token
    }

    fn token_mut(&mut self) -> &mut Token {
        &mut self.analyzer.token
    }
}

impl Stream<'_> {
    fn give(&mut self, start: usize, end: usize) -> bool {
        let found = self.analyzer.term(&self.text[start..end]);
        let token = &mut self.analyzer.token;
        (token.offset_from, token.offset_to, token.position) = (start, end, self.position);
        self.position += 1;
        found
    }

    /// The next run of letters, digits and inner `_`, or the next ideograph.
    fn next_run(&mut self) -> Option<(usize, usize)> {
        let bytes = self.text.as_bytes();
        let mut start = None;
        while self.at < bytes.len() {
            let byte = bytes[self.at];
            let (inside, len, alone) = if byte < 128 {
                (
                    byte.is_ascii_alphanumeric() || byte == b'_' && start.is_some(),
                    1,
                    false,
                )
            } else {
                let c = self.text[self.at..].chars().next().expect("inside the text");
                (
                    c.is_alphanumeric() || is_combining_mark(c),
                    c.len_utf8(),
                    is_ideograph(c),
                )
            };
            match (inside && !alone, start) {
                (true, None) => start = Some(self.at),
                (false, Some(_)) => break,
                (false, None) if alone => {
                    self.at += len;
                    return Some((self.at - len, self.at));
                }
                _ => {}
            }
            self.at += len;
        }
        let start = start?;
        Some((
            start,
            start + self.text[start..self.at].trim_end_matches('_').len(),
        ))
    }
}

/// Pushes the words of an identifier as offsets, the last word first.
fn split_identifier(run: &str, offset: usize, parts: &mut Vec<(usize, usize)>) {
    let bytes = run.as_bytes();
    let mut start = 0;
    let mut push = |from: usize, to: usize| {
        if from < to {
            parts.push((offset + from, offset + to));
        }
    };
    for i in 1..bytes.len() {
        let (before, here) = (bytes[i - 1], bytes[i]);
        if here == b'_' {
            push(start, i);
            start = i + 1;
        } else if here.is_ascii_uppercase() {
            let next_is_lower = bytes.get(i + 1).is_some_and(u8::is_ascii_lowercase);
            // `parseHttp` before the H; `HTTPServer` before the S.
            if before.is_ascii_lowercase() || before.is_ascii_uppercase() && next_is_lower {
                push(start, i);
                start = i;
            }
        }
    }
    push(start, bytes.len());
    parts.reverse();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: &[(usize, &str)]) {
        let found = Analyzer::default().terms(text);
        let expect: Vec<_> = expect.iter().map(|(at, term)| (*at, term.to_string())).collect();
        assert_eq!(found, expect, "{text:?}");
    }

    #[test]
    fn the_stop_words_are_sorted() {
        assert!(STOP_WORDS.is_sorted());
    }

    #[test]
    fn prose_is_lowered_stemmed_and_keeps_its_positions() {
        check("The Wings of the aircraft", &[(1, "wing"), (4, "aircraft")]);
        check("running, runs; RUN.", &[(0, "run"), (1, "run"), (2, "run")]);
        check("Café naïveté ÉCOLE", &[(0, "cafe"), (1, "naivet"), (2, "ecol")]);
        check("", &[]);
        check("-- __ ..", &[]);
    }

    #[test]
    fn identifiers_give_the_whole_and_their_words() {
        check(
            "parseHttpHeader x",
            &[
                (0, "parsehttphead"),
                (0, "pars"),
                (1, "http"),
                (2, "header"),
                (3, "x"),
            ],
        );
        check(
            "MAX_PATH_LEN",
            &[(0, "max_path_len"), (0, "max"), (1, "path"), (2, "len")],
        );
        check("HTTPServer", &[(0, "httpserver"), (0, "http"), (1, "server")]);
        check("__init__", &[(0, "init")]);
        check(
            "sha256 x86_64",
            &[(0, "sha256"), (1, "x86_64"), (1, "x86"), (2, "64")],
        );
        check("getX", &[(0, "getx"), (0, "get"), (1, "x")]);
    }

    #[test]
    fn ideographs_are_words_of_their_own() {
        check("日本go", &[(0, "日"), (1, "本"), (2, "go")]);
    }

    #[test]
    fn long_runs_are_left_out_but_counted() {
        check(&format!("{} end", "x".repeat(65)), &[(1, "end")]);
        check(&format!("a{} end", "_".repeat(100_000)), &[(1, "end")]);
        assert_eq!(Analyzer::default().terms(&"aB".repeat(100_000)).len(), 100_000);
    }
}
