//! Entrances for fuzzing: every decoder of bytes that we did not just write.
//!
//! Random bytes seldom pass a checksum, so each entrance also puts the right checksums in, as an attacker or a bug in
//! a writer would.

use std::path::Path;

use crate::io::{Entries, Format};
use crate::journal;
use crate::manifest::{Catalog, Manifest};
use crate::segment::sealed;

/// Reads bytes as a journal, then as the records of one.
pub fn journal(bytes: &[u8]) {
    journal::read_any(bytes);
}

/// Reads bytes as a manifest and a catalog, then as their bodies.
pub fn manifest(bytes: &[u8]) {
    let path = Path::new("fuzz");
    let _ = Manifest::decode(bytes, path);
    let _ = Catalog::decode(bytes, path);
    let _ = Manifest::decode_body(bytes, path);
    let _ = Catalog::decode_body(bytes, path);
}

/// Reads bytes as a segment, as codes and as a graph's container.
pub fn sealed(bytes: &[u8]) {
    sealed::read_any(bytes);
}

/// Reads bytes as a file to import; the first byte chooses the format.
pub fn import(bytes: &[u8]) {
    let formats = [
        Format::Npy,
        Format::Fvecs,
        Format::Ivecs,
        Format::JsonLines,
        Format::RawF32 { dim: 3 },
    ];
    let Some((&first, mut bytes)) = bytes.split_first() else {
        return;
    };
    if let Ok(entries) = Entries::read(formats[first as usize % formats.len()], &mut bytes) {
        // An .npy header may promise any number of rows; the input ends long before.
        entries.take(1 << 16).for_each(drop);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::fake::roll;

    /// A few changes to a copy: bytes replaced, cut, repeated.
    fn mutated(bytes: &[u8], dice: &mut u64) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for _ in 0..1 + roll(dice) % 4 {
            let at = roll(dice) as usize % bytes.len().max(1);
            match roll(dice) % 4 {
                0 => bytes.truncate(at),
                1 => bytes.extend_from_within(at..),
                _ if at < bytes.len() => {
                    bytes[at] = [0, 1, 0x7f, 0x80, 0xff, roll(dice) as u8][roll(dice) as usize % 6]
                }
                _ => {}
            }
        }
        bytes
    }

    #[test]
    fn no_decoder_panics_on_damaged_files() {
        let seeds: Vec<Vec<u8>> = crate::space::sample_files()
            .into_iter()
            .map(|(_, bytes)| bytes)
            .collect();
        let mut npy = Vec::new();
        npy.extend_from_slice(
            b"\x00\x93NUMPY\x01\x00\x46\x00{'descr': '<f4', 'fortran_order': False, 'shape': (2, 1), }",
        );
        npy.resize(10 + 1 + 0x46, b' ');
        npy.extend_from_slice(&[0; 8]);
        let others = [
            npy,
            b"\x03{\"id\": 1, \"vector\": [1, 2.5e3]}\n".to_vec(),
            b"\x01\x02\0\0\0abcdefgh".to_vec(),
        ];
        let mut dice = 3;
        for seed in seeds.iter().chain(&others) {
            for _ in 0..3000 {
                let bytes = mutated(seed, &mut dice);
                for decode in [journal, manifest, sealed, import] {
                    decode(&bytes);
                }
            }
        }
    }
}
