//! The tokenizer of uncased BERT: clean, lower-case, strip accents, split at white space and punctuation, then cut
//! each word greedily into the longest pieces of the vocabulary ("WordPiece", Devlin et al. 2018, section 3 and the
//! reference implementation's `tokenization.py`).
//!
//! Text is walked once, without allocation; a run of ASCII letters and digits, nearly all of any text, never leaves
//! the byte loop.

mod remembered;

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use remembered::Remembered;
use unicode_normalization::char::decompose_canonical;
use unicode_properties::{GeneralCategory, GeneralCategoryGroup, UnicodeGeneralCategory};

use crate::error::{Error, Result};

/// A token's number in the vocabulary.
pub type Token = u32;

/// Words longer than this are one unknown token, as in the reference implementation. It bounds the work a word.
const WORD_CHARS_MAX: usize = 100;
/// Pieces longer than this many bytes do not occur in the vocabulary (its longest has 18 characters); checked on load.
const PIECE_BYTES_MAX: usize = 60;
/// UTF-8 of the longest word, and room for the last character's encoding.
const WORD_BYTES_MAX: usize = 4 * WORD_CHARS_MAX + 4;

/// A word of the text: where it stands and the tokens that it was cut into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word<'a> {
    /// Byte offset of its first character.
    pub start: usize,
    /// Byte offset behind its last character.
    pub end: usize,
    /// Its tokens, one at least; an unknown word is the one token [`WordPiece::unknown`].
    pub tokens: &'a [Token],
}

/// A vocabulary and the way to cut text by it.
pub struct WordPiece {
    begins: Pieces,
    continues: Pieces,
    unknown: Token,
    size: usize,
    /// Tells vocabularies apart, from 1.
    number: u64,
}

static VOCABULARIES: AtomicU64 = AtomicU64::new(1);

thread_local! {
    static REMEMBERED: RefCell<Remembered> = const { RefCell::new(Remembered::new()) };
}

impl WordPiece {
    /// Reads the `tokenizer.json` of a BERT model. Fails when it is not an uncased WordPiece tokenizer.
    pub fn from_json(json: &[u8]) -> Result<WordPiece> {
        #[derive(serde::Deserialize)]
        struct File {
            normalizer: Normalizer,
            model: Model,
        }
        #[derive(serde::Deserialize)]
        struct Normalizer {
            #[serde(rename = "type")]
            kind: String,
            lowercase: bool,
        }
        #[derive(serde::Deserialize)]
        struct Model {
            #[serde(rename = "type")]
            kind: String,
            unk_token: String,
            vocab: HashMap<String, Token>,
        }
        let file: File =
            serde_json::from_slice(json).map_err(|e| Error::Invalid(format!("tokenizer.json: {e}")))?;
        if file.model.kind != "WordPiece"
            || file.normalizer.kind != "BertNormalizer"
            || !file.normalizer.lowercase
        {
            return Err(Error::Invalid(
                "tokenizer.json: expected an uncased BERT WordPiece tokenizer".into(),
            ));
        }
        WordPiece::new(&file.model.vocab, &file.model.unk_token)
    }

    fn new(vocab: &HashMap<String, Token>, unknown: &str) -> Result<WordPiece> {
        let mut pieces = vec![None; vocab.len()];
        for (piece, &token) in vocab {
            match pieces.get_mut(token as usize) {
                Some(place @ None) => *place = Some(piece.as_str()),
                _ => {
                    return Err(Error::Invalid(format!(
                        "tokenizer.json: token {token} is not a number of its own"
                    )));
                }
            }
        }
        let unknown = *vocab
            .get(unknown)
            .ok_or_else(|| Error::Invalid(format!("tokenizer.json: {unknown} is not in the vocabulary")))?;
        let mut built = WordPiece {
            begins: Pieces::sized(vocab.len()),
            continues: Pieces::sized(vocab.len()),
            unknown,
            size: vocab.len(),
            number: VOCABULARIES.fetch_add(1, Ordering::Relaxed),
        };
        for (token, piece) in pieces.into_iter().flatten().enumerate() {
            match piece.strip_prefix("##") {
                Some(rest) if !rest.is_empty() => built.continues.insert(token as Token, rest)?,
                _ => built.begins.insert(token as Token, piece)?,
            }
        }
        Ok(built)
    }

    /// Tokens of the vocabulary.
    pub fn vocabulary_size(&self) -> usize {
        self.size
    }

    /// The token of every word that the vocabulary cannot spell.
    pub fn unknown(&self) -> Token {
        self.unknown
    }

    /// Calls `each` for every word of the text in order, until it returns false.
    pub fn words(&self, text: &str, mut each: impl FnMut(Word<'_>) -> bool) {
        let bytes = text.as_bytes();
        let mut word = Spelling::new();
        let mut at = 0;
        while at < bytes.len() {
            let byte = bytes[at];
            match CLASS[byte as usize] {
                Class::Letter => {
                    word.begin(at);
                    let run = bytes[at..]
                        .iter()
                        .take_while(|b| CLASS[**b as usize] == Class::Letter)
                        .count();
                    word.push_ascii(&bytes[at..at + run]);
                    at += run;
                    word.end = at;
                }
                Class::Space => {
                    at += 1;
                    if !self.flush(&mut word, &mut each) {
                        return;
                    }
                }
                Class::Punctuation => {
                    if !self.flush(&mut word, &mut each) || !self.single(byte.into(), at, at + 1, &mut each) {
                        return;
                    }
                    at += 1;
                }
                Class::Control => at += 1,
                Class::Wide => {
                    let c = text[at..].chars().next().expect("inside the text");
                    if !self.wide(c, at, &mut word, &mut each) {
                        return;
                    }
                    at += c.len_utf8();
                }
            }
        }
        self.flush(&mut word, &mut each);
    }

    /// A character beyond ASCII: removed, a separator, a word of its own, or lower-cased without its accents.
    fn wide(&self, c: char, at: usize, word: &mut Spelling, each: &mut impl FnMut(Word<'_>) -> bool) -> bool {
        let end = at + c.len_utf8();
        if c.is_whitespace() {
            return self.flush(word, each);
        }
        if c == '\u{fffd}' || c.general_category_group() == GeneralCategoryGroup::Other {
            return true;
        }
        if is_ideograph(c) {
            return self.flush(word, each) && self.single(c, at, end, each);
        }
        let mut more = true;
        decompose_canonical(c, |part| {
            if !more || part.general_category() == GeneralCategory::NonspacingMark {
                return;
            }
            for lower in part.to_lowercase() {
                if lower.general_category_group() == GeneralCategoryGroup::Punctuation
                    || lower.is_ascii_punctuation()
                {
                    more = more && self.flush(word, each) && self.single(lower, at, end, each);
                } else {
                    word.begin(at);
                    word.push(lower);
                    word.end = end;
                }
            }
        });
        more
    }

    fn single(&self, c: char, start: usize, end: usize, each: &mut impl FnMut(Word<'_>) -> bool) -> bool {
        let mut buffer = [0; 4];
        let key = c.encode_utf8(&mut buffer).as_bytes();
        let token = self.begins.longest(key).filter(|(_, len)| *len == key.len());
        each(Word {
            start,
            end,
            tokens: &[token.map_or(self.unknown, |(token, _)| token)],
        })
    }

    fn flush(&self, word: &mut Spelling, each: &mut impl FnMut(Word<'_>) -> bool) -> bool {
        if word.chars == 0 {
            return true;
        }
        let mut tokens = [0; WORD_CHARS_MAX];
        let count = if word.chars > WORD_CHARS_MAX {
            0 // Its bytes are not all there.
        } else {
            let bytes = &word.bytes[..word.len];
            REMEMBERED.with_borrow_mut(|remembered| {
                remembered.spell(self.number, bytes, &mut tokens, |tokens| {
                    self.spell(bytes, tokens)
                })
            })
        };
        let tokens = if count == 0 {
            std::slice::from_ref(&self.unknown)
        } else {
            &tokens[..count]
        };
        let more = each(Word {
            start: word.start,
            end: word.end,
            tokens,
        });
        word.clear();
        more
    }

    /// Cuts a word into pieces, the longest first; 0 when it cannot be spelt to its end.
    fn spell(&self, word: &[u8], tokens: &mut [Token; WORD_CHARS_MAX]) -> usize {
        let (mut at, mut count) = (0, 0);
        let mut pieces = &self.begins;
        while at < word.len() {
            let Some((token, len)) = pieces.longest(&word[at..]) else {
                return 0;
            };
            tokens[count] = token;
            count += 1;
            at += len;
            pieces = &self.continues;
        }
        count
    }
}

/// A set of pieces that finds the longest one at the front of a word: one pass of prefix hashes, then one probe a
/// length.
struct Pieces {
    /// Open addressing, a power of two, never more than half full.
    slots: Vec<Slot>,
    /// All pieces, one after another.
    bytes: Vec<u8>,
    /// By hash of the first [`STEM`] bytes: a bit for each length of a piece that begins so. Most lengths need no probe.
    lengths: Vec<u64>,
}

/// Bytes by which the lengths of pieces are looked up.
const STEM: usize = 3;
/// Entries of that table, a power of two: 32 KiB.
const STEMS: usize = 4096;

#[derive(Clone, Copy)]
struct Slot {
    tag: u32,
    token: Token,
    start: u32,
    /// 0 in a free slot.
    len: u32,
}

impl Pieces {
    fn sized(pieces: usize) -> Pieces {
        let free = Slot {
            tag: 0,
            token: 0,
            start: 0,
            len: 0,
        };
        Pieces {
            slots: vec![free; (pieces * 2).next_power_of_two()],
            bytes: Vec::new(),
            lengths: vec![0; STEMS],
        }
    }

    fn insert(&mut self, token: Token, piece: &str) -> Result<()> {
        if piece.is_empty() || piece.len() > PIECE_BYTES_MAX {
            return Err(Error::Invalid(format!(
                "tokenizer.json: {piece:?} is empty or too long for a piece"
            )));
        }
        let hash = mixed(piece.bytes().fold(HASH_START, hash_byte));
        let mut at = hash as usize & (self.slots.len() - 1);
        while self.slots[at].len != 0 {
            at = (at + 1) & (self.slots.len() - 1);
        }
        let start = self.bytes.len() as u32;
        self.slots[at] = Slot {
            tag: (hash >> 32) as u32,
            token,
            start,
            len: piece.len() as u32,
        };
        self.bytes.extend_from_slice(piece.as_bytes());
        if let Some(stem) = piece.as_bytes().get(..STEM) {
            self.lengths[stem_place(stem.iter().copied().fold(HASH_START, hash_byte))] |= 1 << piece.len();
        }
        Ok(())
    }

    /// The longest piece with which `word` begins, and its length in bytes.
    fn longest(&self, word: &[u8]) -> Option<(Token, usize)> {
        let mut hashes = [0; PIECE_BYTES_MAX];
        let longest = word.len().min(PIECE_BYTES_MAX);
        let mut hash = HASH_START;
        for (place, byte) in hashes.iter_mut().zip(&word[..longest]) {
            hash = hash_byte(hash, *byte);
            *place = hash;
        }
        let found = |len: usize| Some((self.find(hashes[len - 1], &word[..len])?, len));
        if longest >= STEM {
            let mut lengths = self.lengths[stem_place(hashes[STEM - 1])] & (u64::MAX >> (63 - longest));
            while lengths != 0 {
                let len = lengths.ilog2() as usize;
                lengths ^= 1 << len;
                if let Some(piece) = found(len) {
                    return Some(piece);
                }
            }
        }
        (1..STEM.min(longest + 1)).rev().find_map(found)
    }

    fn find(&self, hash: u64, key: &[u8]) -> Option<Token> {
        let hash = mixed(hash);
        let mut at = hash as usize & (self.slots.len() - 1);
        while self.slots[at].len != 0 {
            let Slot {
                tag,
                token,
                start,
                len,
            } = self.slots[at];
            let piece = start as usize..(start + len) as usize;
            if tag == (hash >> 32) as u32 && &self.bytes[piece] == key {
                return Some(token);
            }
            at = (at + 1) & (self.slots.len() - 1);
        }
        None
    }
}

/// FNV-1a, whose value after each byte is the hash of that prefix.
const HASH_START: u64 = 0xcbf2_9ce4_8422_2325;

fn hash_byte(hash: u64, byte: u8) -> u64 {
    (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
}

/// FNV is weak in its low bits for short keys, so slot and tag come from a mixed value.
fn mixed(hash: u64) -> u64 {
    let hash = (hash ^ (hash >> 29)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash ^ (hash >> 32)
}

fn stem_place(hash: u64) -> usize {
    mixed(hash) as usize % STEMS
}

/// A word on the way through the text, lower-cased and without accents.
struct Spelling {
    bytes: [u8; WORD_BYTES_MAX],
    len: usize,
    /// Counted beyond [`WORD_CHARS_MAX`] only as "too long".
    chars: usize,
    start: usize,
    end: usize,
}

impl Spelling {
    fn new() -> Spelling {
        Spelling {
            bytes: [0; WORD_BYTES_MAX],
            len: 0,
            chars: 0,
            start: 0,
            end: 0,
        }
    }

    fn begin(&mut self, at: usize) {
        if self.chars == 0 {
            self.start = at;
        }
    }

    fn push_ascii(&mut self, run: &[u8]) {
        if self.chars + run.len() <= WORD_CHARS_MAX {
            let place = &mut self.bytes[self.len..self.len + run.len()];
            place.copy_from_slice(run);
            place.make_ascii_lowercase();
            self.len += run.len();
        }
        self.chars = (self.chars + run.len()).min(WORD_CHARS_MAX + 1);
    }

    fn push(&mut self, c: char) {
        if self.chars < WORD_CHARS_MAX {
            self.len += c.encode_utf8(&mut self.bytes[self.len..]).len();
        }
        self.chars = (self.chars + 1).min(WORD_CHARS_MAX + 1);
    }

    fn clear(&mut self) {
        self.len = 0;
        self.chars = 0;
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Letter,
    Space,
    Punctuation,
    Control,
    Wide,
}

static CLASS: [Class; 256] = {
    let mut classes = [Class::Wide; 256];
    let mut byte = 0;
    while byte < 128 {
        let b = byte as u8;
        classes[byte] = match b {
            b' ' | b'\t' | b'\n' | b'\r' => Class::Space,
            _ if b.is_ascii_control() => Class::Control,
            _ if b.is_ascii_alphanumeric() => Class::Letter,
            _ => Class::Punctuation,
        };
        byte += 1;
    }
    classes
};

/// The CJK blocks that the reference implementation takes apart into single characters.
pub(crate) fn is_ideograph(c: char) -> bool {
    matches!(u32::from(c),
        0x4e00..=0x9fff | 0x3400..=0x4dbf | 0x20000..=0x2a6df | 0x2a700..=0x2b73f | 0x2b740..=0x2b81f
        | 0x2b920..=0x2ceaf | 0xf900..=0xfaff | 0x2f800..=0x2fa1f)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokenizer() -> WordPiece {
        let words = "[UNK] un ##aff ##able hello , world ! cafe ##s 日 本 naive x ##y"
            .split(' ')
            .map(str::to_owned);
        let vocab = words.zip(0..).collect();
        WordPiece::new(&vocab, "[UNK]").unwrap()
    }

    fn check(text: &str, expect: &[(&str, &[Token])]) {
        let mut found = Vec::new();
        tokenizer().words(text, |w| {
            found.push((text[w.start..w.end].to_owned(), w.tokens.to_vec()));
            true
        });
        let expect: Vec<_> = expect.iter().map(|(w, t)| (w.to_string(), t.to_vec())).collect();
        assert_eq!(found, expect, "{text:?}");
    }

    #[test]
    fn words_are_cut_into_the_longest_pieces() {
        check("unaffable", &[("unaffable", &[1, 2, 3])]);
        check(
            "Hello, WORLD!",
            &[("Hello", &[4]), (",", &[5]), ("WORLD", &[6]), ("!", &[7])],
        );
        check("unaffordable", &[("unaffordable", &[0])]);
        check("", &[]);
        check(" \n\t ", &[]);
    }

    #[test]
    fn accents_controls_and_ideographs_follow_the_reference() {
        check("Café cafe\u{301}s", &[("Café", &[8]), ("cafe\u{301}s", &[8, 9])]);
        check("日本x", &[("日", &[10]), ("本", &[11]), ("x", &[13])]);
        check("hel\u{0}lo\u{200b}", &[("hel\u{0}lo", &[4])]);
        check("naïve\u{a0}x", &[("naïve", &[12]), ("x", &[13])]);
        check("x“x”", &[("x", &[13]), ("“", &[0]), ("x", &[13]), ("”", &[0])]);
    }

    #[test]
    fn a_word_beyond_the_limit_is_unknown_and_bounded() {
        let exactly = format!("x{}", "y".repeat(99));
        let mut pieces: Vec<Token> = vec![13];
        pieces.extend([14; 99]);
        check(&exactly, &[(&exactly, &pieces)]);
        for longer in [
            format!("{exactly}y"),
            format!("{exactly}é"),
            "é".repeat(1_000_000),
        ] {
            check(&longer, &[(&longer, &[0])]);
        }
    }

    #[test]
    fn the_walk_ends_when_the_visitor_says_so() {
        let mut seen = 0;
        tokenizer().words("x x x, x", |_| {
            seen += 1;
            seen < 2
        });
        assert_eq!(seen, 2);
    }
}
