//! The tokenizer of uncased BERT: clean, lower-case, strip accents, split at white space and punctuation, then cut
//! each word greedily into the longest pieces of the vocabulary ("WordPiece", Devlin et al. 2018, section 3 and the
//! reference implementation's `tokenization.py`).
//!
//! The names of special tokens (`[CLS]`) are text like any other here: the reference implementation takes them for those tokens,
//! which mean nothing to a static model. All else is equal (the tests hold it beside that implementation).
//!
//! Text is walked once, without allocation; a run of ASCII letters and digits, nearly all of any text, never leaves
//! the byte loop.

mod pieces;
mod remembered;

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use pieces::Pieces;
use remembered::Remembered;
use unicode_normalization::char::decompose_canonical;
use unicode_properties::{GeneralCategory, GeneralCategoryGroup, UnicodeGeneralCategory};

use crate::error::{Error, Result};

/// A token's number in the vocabulary.
pub type Token = u32;

/// Words longer than this are one unknown token, as in the reference implementation. It bounds the work a word.
const WORD_CHARS_MAX: usize = 100;
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
        // Next line (U+0085) is a control character to the reference implementation, not white space.
        if c.is_whitespace() && c != '\u{85}' {
            return self.flush(word, each);
        }
        if c == '\u{fffd}' || is_removed(c.general_category()) {
            return true;
        }
        if is_ideograph(c) {
            let mut more = self.flush(word, each);
            // Compatibility ideographs are looked up as what they stand for.
            decompose_canonical(c, |part| more = more && self.single(part, at, end, each));
            return more;
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

/// Unassigned code points stay, and make their word unknown.
fn is_removed(category: GeneralCategory) -> bool {
    matches!(
        category,
        GeneralCategory::Control | GeneralCategory::Format | GeneralCategory::PrivateUse
    )
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
mod tests;
