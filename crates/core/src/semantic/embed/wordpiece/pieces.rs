//! The vocabulary's pieces, looked up by the longest that a word begins with.

use super::Token;
use crate::error::{Error, Result};

/// Pieces longer than this many bytes do not occur in the vocabulary (its longest has 18 characters); checked on load.
const PIECE_BYTES_MAX: usize = 60;

/// A set of pieces that finds the longest one at the front of a word: one pass of prefix hashes, then one probe a
/// length.
pub(super) struct Pieces {
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
    pub(super) fn sized(pieces: usize) -> Pieces {
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

    pub(super) fn insert(&mut self, token: Token, piece: &str) -> Result<()> {
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
    pub(super) fn longest(&self, word: &[u8]) -> Option<(Token, usize)> {
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
