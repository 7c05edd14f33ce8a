//! Cuts a text into passages: the unit that is embedded, indexed by word, found, and shown.
//!
//! A passage has at most [`TOKENS_MAX`] tokens, as [`counted`]. Where one would be longer it is cut at the strongest
//! break in its last part: a section (heading, top-level definition), a paragraph (blank line, nested definition), a
//! line or the end of a sentence, a word. After a cut inside a paragraph the next passage repeats about [`OVERLAP`]
//! tokens, so that what stands across the cut is whole in one of both. Small sections and paragraphs are joined.
//!
//! The walk is linear in the text and holds one passage's words and the outline; a text without breaks, words or
//! ends is cut all the same.

mod outline;

use std::borrow::Cow;
use std::collections::VecDeque;
use std::ops::Range;

use super::embed::WordPiece;
use super::embed::wordpiece::Word;
use crate::ids::PassageId;
pub use outline::Form;
pub(crate) use outline::{Mark, Strength};

/// Tokens of a passage, as [`counted`]. Measured on five collections of long files: 128 finds better than 256 and 512.
pub const TOKENS_MAX: usize = 128;
/// Tokens that a passage repeats of the one before it when the cut is inside a paragraph.
pub const OVERLAP: usize = 16;
/// A section break ends a passage only when it has this many tokens; smaller sections are joined.
const SECTION_TOKENS_MIN: usize = 48;
/// A cut leaves this many tokens in the passage at least, unless nothing else bounds it: between paragraphs fewer, since
/// a passage of two subjects is found by neither.
const PARAGRAPH_TOKENS_MIN: usize = 40;
const LINE_TOKENS_MIN: usize = 96;
/// Bytes of a passage: 128 tokens of prose have about 700, so only blanks and unbroken blobs reach it.
const BYTES_MAX: usize = 4096;
/// What a word counts at most: hashes, versions and encoded data fall into dozens of pieces and say no more for it.
const WORD_TOKENS_MAX: usize = 2;

/// A stretch of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passage {
    /// Its bytes, on character boundaries, from the first to behind the last word.
    pub bytes: Range<usize>,
    /// The line of its first byte, from 1.
    pub first_line: u32,
    /// The line of its last byte.
    pub last_line: u32,
    /// The headings or definitions around its start, outermost first, joined by " > "; may be empty.
    pub heading: String,
}

impl Passage {
    /// What the passage is found under beside its text: the file's name and the headings.
    pub fn title(&self, name: &str) -> String {
        if self.heading.is_empty() {
            name.to_owned()
        } else {
            format!("{name} > {}", self.heading)
        }
    }

    /// What is embedded for it: its text, below the headings around it where they do not stand in it.
    pub fn embedded<'t>(&self, text: &'t str) -> Cow<'t, str> {
        embedded(&self.heading, &text[self.bytes.clone()])
    }
}

/// What is embedded for a passage of this text below these headings.
pub fn embedded<'t>(heading: &str, body: &'t str) -> Cow<'t, str> {
    let innermost = heading.rsplit(" > ").next().unwrap_or("");
    if innermost.is_empty()
        || body
            .lines()
            .take(HEADING_LINES)
            .any(|line| line.contains(innermost))
    {
        return Cow::Borrowed(body);
    }
    Cow::Owned(format!("{heading}\n{body}"))
}

/// A passage that holds its own heading has it in its first lines, below comments at most.
const HEADING_LINES: usize = 8;

/// Cuts `text`. Files are cut off after [`PassageId::SLOTS_MAX`] passages (about 400 MB of prose).
pub fn split(text: &str, form: Form, tokenizer: &WordPiece) -> Vec<Passage> {
    split_at(text, &outline::marks(text, form), tokenizer)
}

/// Cuts `text` where `marks`, in rising order, say that it is good.
pub(crate) fn split_at(text: &str, marks: &[Mark], tokenizer: &WordPiece) -> Vec<Passage> {
    let mut cutter = Cutter::new(text, marks);
    tokenizer.words(text, |word| {
        cutter.push(word.start, word.end, counted(text, &word))
    });
    cutter.finish()
}

/// What a word counts in the size of a passage: its pieces up to [`WORD_TOKENS_MAX`], punctuation nothing. So code,
/// tables and change logs, half of whose pieces are punctuation and digits, get passages as long as prose does.
fn counted(text: &str, word: &Word<'_>) -> usize {
    if text.as_bytes()[word.start].is_ascii_punctuation() {
        0
    } else {
        word.tokens.len().min(WORD_TOKENS_MAX)
    }
}

/// A word in the window.
#[derive(Clone, Copy)]
struct Seen {
    start: usize,
    end: usize,
    tokens: usize,
    /// What stands before it.
    strength: Strength,
}

struct Cutter<'t> {
    text: &'t str,
    marks: &'t [Mark],
    /// The next mark that no word has passed.
    next_mark: usize,
    /// Words since the start of the passage in work, and their tokens.
    window: VecDeque<Seen>,
    tokens: usize,
    /// End of the last word pushed.
    end: usize,
    headings: Headings<'t>,
    lines: Lines<'t>,
    passages: Vec<Passage>,
}

impl<'t> Cutter<'t> {
    fn new(text: &'t str, marks: &'t [Mark]) -> Cutter<'t> {
        Cutter {
            text,
            marks,
            next_mark: 0,
            window: VecDeque::new(),
            tokens: 0,
            end: 0,
            headings: Headings {
                text,
                marks,
                next: 0,
                stack: Vec::new(),
            },
            lines: Lines { text, at: 0, line: 1 },
            passages: Vec::new(),
        }
    }

    /// Takes a word; false when the file has its largest number of passages.
    fn push(&mut self, start: usize, end: usize, tokens: usize) -> bool {
        let strength = self.strength_before(start);
        let enough = strength >= Strength::Section && self.tokens >= SECTION_TOKENS_MIN;
        if enough || self.first().is_some_and(|first| end - first > BYTES_MAX) {
            self.emit(self.window.len());
            self.drop_words(self.window.len());
        }
        self.window.push_back(Seen {
            start,
            end,
            tokens,
            strength,
        });
        self.tokens += tokens;
        self.end = end;
        while self.tokens > TOKENS_MAX && self.window.len() > 1 {
            self.cut();
        }
        self.passages.len() < PassageId::SLOTS_MAX as usize
    }

    fn finish(mut self) -> Vec<Passage> {
        if !self.window.is_empty() && self.holds_new(self.window.len()) {
            self.emit(self.window.len());
        }
        self.passages.truncate(PassageId::SLOTS_MAX as usize);
        self.passages
    }

    /// Whether the first words of the window are more than the repetition of words in the passage before.
    fn holds_new(&self, words: usize) -> bool {
        self.passages
            .last()
            .is_none_or(|last| last.bytes.end < self.window[words - 1].end)
    }

    fn first(&self) -> Option<usize> {
        self.window.front().map(|word| word.start)
    }

    /// The strongest break between the last word and the one at `start`.
    fn strength_before(&mut self, start: usize) -> Strength {
        let mut strength = Strength::Word;
        while let Some(mark) = self.marks.get(self.next_mark).filter(|mark| mark.at <= start) {
            strength = strength.max(mark.strength);
            self.next_mark += 1;
        }
        if strength == Strength::Word && ends_line_or_sentence(&self.text.as_bytes()[..start], self.end) {
            strength = Strength::Line;
        }
        strength
    }

    /// Ends the passage at the best break before its last word, and keeps what the next one begins with.
    fn cut(&mut self) {
        let (mut best, mut best_strength, mut before) = (self.window.len() - 1, Strength::Word, 0);
        for (i, word) in self.window.iter().enumerate() {
            let least = if word.strength >= Strength::Paragraph {
                PARAGRAPH_TOKENS_MIN
            } else {
                LINE_TOKENS_MIN
            };
            if i > 0 && (least..=TOKENS_MAX).contains(&before) && word.strength >= best_strength {
                (best, best_strength) = (i, word.strength);
            }
            before += word.tokens;
        }
        if !self.holds_new(best) {
            // Before a word of very many tokens there is nothing but the repetition.
            return self.drop_words(best);
        }
        self.emit(best);
        let from = if best_strength >= Strength::Paragraph {
            best
        } else {
            self.overlap_from(best)
        };
        let left: usize = self.window.range(from..).map(|word| word.tokens).sum();
        // A repetition that fills the next passage would make it hold nothing new.
        self.drop_words(if left > TOKENS_MAX { best } else { from });
    }

    /// The word before `cut` at which the next passage begins: the start of a line or sentence near [`OVERLAP`]
    /// tokens back, else the word there.
    fn overlap_from(&self, cut: usize) -> usize {
        let (mut from, mut back) = (cut, 0);
        let mut chosen = None;
        while from > 1 && back < OVERLAP + OVERLAP / 4 {
            from -= 1;
            back += self.window[from].tokens;
            let in_reach = (OVERLAP / 2..=OVERLAP + OVERLAP / 4).contains(&back);
            if in_reach && self.window[from].strength >= Strength::Line {
                chosen = Some(from);
            }
            if back >= OVERLAP && chosen.is_none() {
                chosen = Some(from);
            }
        }
        chosen.unwrap_or(cut)
    }

    fn emit(&mut self, words: usize) {
        let (first, last) = (self.window[0], self.window[words - 1]);
        let mut end = last.end.min(first.start + BYTES_MAX);
        while !self.text.is_char_boundary(end) {
            end -= 1;
        }
        let heading = self.headings.path_at(first.start);
        let first_line = self.lines.line_at(first.start);
        let inside = self.text.as_bytes()[first.start..end]
            .iter()
            .filter(|b| **b == b'\n')
            .count();
        self.passages.push(Passage {
            bytes: first.start..end,
            first_line,
            last_line: first_line.saturating_add(inside as u32),
            heading,
        });
    }

    fn drop_words(&mut self, words: usize) {
        for word in self.window.drain(..words) {
            self.tokens -= word.tokens;
        }
    }
}

/// Whether a line or a sentence ends in the gap behind `from`.
fn ends_line_or_sentence(before: &[u8], from: usize) -> bool {
    let gap = &before[from.min(before.len())..];
    if gap.is_empty() {
        return false;
    }
    gap.contains(&b'\n') || from > 0 && matches!(before[from - 1], b'.' | b'!' | b'?')
}

/// Follows the marks to the headings around a place; places are asked for in rising order, but for the overlap.
struct Headings<'t> {
    text: &'t str,
    marks: &'t [Mark],
    next: usize,
    stack: Vec<&'t Mark>,
}

/// Bytes of one heading in a path; a longer one is named by its beginning.
const HEADING_BYTES_MAX: usize = 200;
/// Headings in a path.
const HEADINGS_MAX: usize = 4;

impl Headings<'_> {
    fn path_at(&mut self, at: usize) -> String {
        while let Some(mark) = self.marks.get(self.next).filter(|mark| mark.at <= at) {
            self.next += 1;
            while self.stack.last().is_some_and(|outer| outer.level >= mark.level) {
                self.stack.pop();
            }
            if !mark.title.is_empty() {
                self.stack.push(mark);
            }
        }
        let titles = self.stack.iter().filter(|mark| mark.at <= at).take(HEADINGS_MAX);
        let titles: Vec<&str> = titles
            .map(|mark| cut_at_char(&self.text[mark.title.clone()]))
            .collect();
        titles.join(" > ")
    }
}

fn cut_at_char(title: &str) -> &str {
    let end = (0..=title.len().min(HEADING_BYTES_MAX))
        .rev()
        .find(|at| title.is_char_boundary(*at));
    title[..end.unwrap_or(0)].trim_end()
}

/// Counts lines on the way; an overlap asks for a place a little back.
struct Lines<'t> {
    text: &'t str,
    at: usize,
    line: u32,
}

impl Lines<'_> {
    fn line_at(&mut self, at: usize) -> u32 {
        let bytes = self.text.as_bytes();
        let newlines = |range: Range<usize>| bytes[range].iter().filter(|b| **b == b'\n').count() as u32;
        if at >= self.at {
            self.line = self.line.saturating_add(newlines(self.at..at));
        } else {
            self.line = self.line.saturating_sub(newlines(at..self.at));
        }
        self.at = at;
        self.line
    }
}

#[cfg(test)]
mod tests;
