//! Words spelt lately: text repeats its words, and finding their pieces costs more than all the rest of the walk.

use super::{Token, WORD_CHARS_MAX};

/// Words remembered by a thread, 56 bytes each; they fill a quarter of a second-level cache. A word takes the place of
/// the one before it there.
const WORDS: usize = 4096;
/// Longer words are spelt each time.
const BYTES_MAX: usize = 24;
const TOKENS_MAX: usize = 6;

/// The spelling of some words by one vocabulary.
pub(super) struct Remembered {
    /// Number of the vocabulary.
    owner: u64,
    entries: Vec<Entry>,
}

#[derive(Clone, Copy)]
struct Entry {
    key: Key,
    /// 0 in a free entry.
    count: usize,
    tokens: [Token; TOKENS_MAX],
}

/// A word's bytes, filled up with zeros, which no word has.
type Key = [u64; BYTES_MAX / 8];

const FREE: Entry = Entry {
    key: [0; BYTES_MAX / 8],
    count: 0,
    tokens: [0; TOKENS_MAX],
};

impl Remembered {
    pub(super) const fn new() -> Remembered {
        Remembered {
            owner: 0,
            entries: Vec::new(),
        }
    }

    /// The tokens of a word, 0 for one that cannot be spelt; `spell` is asked where it is not remembered.
    pub(super) fn spell(
        &mut self,
        owner: u64,
        word: &[u8],
        tokens: &mut [Token; WORD_CHARS_MAX],
        spell: impl FnOnce(&mut [Token; WORD_CHARS_MAX]) -> usize,
    ) -> usize {
        if word.len() > BYTES_MAX {
            return spell(tokens);
        }
        if self.owner != owner {
            self.owner = owner;
            self.entries = vec![FREE; WORDS];
        }
        let key = key(word);
        let entry = &mut self.entries[place(key)];
        if entry.count == 0 || entry.key != key {
            let count = spell(tokens);
            if (1..=TOKENS_MAX).contains(&count) {
                (entry.key, entry.count) = (key, count);
                entry.tokens[..count].copy_from_slice(&tokens[..count]);
            }
            return count;
        }
        tokens[..entry.count].copy_from_slice(&entry.tokens[..entry.count]);
        entry.count
    }
}

fn key(word: &[u8]) -> Key {
    let mut bytes = [0; BYTES_MAX];
    bytes[..word.len()].copy_from_slice(word);
    let (words, _) = bytes.as_chunks();
    [0, 1, 2].map(|i| u64::from_ne_bytes(words[i]))
}

/// Odd numbers without pattern spread the bits of each part to the top.
fn place(key: Key) -> usize {
    let mixed = key[0].wrapping_mul(0x9e37_79b9_7f4a_7c15)
        ^ key[1].wrapping_mul(0xc2b2_ae3d_27d4_eb4f).rotate_left(23)
        ^ key[2].wrapping_mul(0x1656_67b1_9e37_79f9).rotate_left(41);
    (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52) as usize % WORDS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_spelt_once_and_anew_for_another_vocabulary() {
        let mut remembered = Remembered::new();
        let mut tokens = [0; WORD_CHARS_MAX];
        let mut asked = 0;
        for owner in [1, 1, 2, 2, 1] {
            let count = remembered.spell(owner, b"wing", &mut tokens, |tokens| {
                asked += 1;
                tokens[..2].copy_from_slice(&[owner as Token, 9]);
                2
            });
            assert_eq!((count, tokens[..2].to_vec()), (2, vec![owner as Token, 9]));
        }
        assert_eq!(asked, 3);
    }

    #[test]
    fn words_that_are_long_or_cannot_be_spelt_are_asked_each_time() {
        let mut remembered = Remembered::new();
        let mut tokens = [0; WORD_CHARS_MAX];
        for (word, count) in [(&[b'x'; 25][..], 1), (b"odd", 0), (b"many", 7)] {
            let mut asked = 0;
            for _ in 0..2 {
                let spelt = remembered.spell(1, word, &mut tokens, |_| {
                    asked += 1;
                    count
                });
                assert_eq!(spelt, count);
            }
            assert_eq!(asked, 2);
        }
    }
}
