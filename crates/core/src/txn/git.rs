//! The forms in which git writes what a unified diff cannot say: names of contents, binary contents, odd paths.

use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use flate2::Compression;
use flate2::write::ZlibEncoder;

/// git takes a content with a zero byte in its first so many bytes for binary.
const PROBED: usize = 8_000;

/// Digits of base 85, as in git and RFC 1924.
const DIGITS: &[u8; 85] =
    b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~";
/// Bytes in a line of base 85.
const LINE_BYTES: usize = 52;

pub(super) fn is_binary(content: &[u8]) -> bool {
    content[..content.len().min(PROBED)].contains(&0)
}

/// The name by which git knows a content, in hexadecimal.
pub(super) fn blob_name(content: &[u8]) -> String {
    let mut blob = format!("blob {}\0", content.len()).into_bytes();
    blob.extend_from_slice(content);
    sha1(&blob).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One side of a `GIT binary patch`.
pub(super) fn literal(out: &mut Vec<u8>, content: &[u8]) -> std::io::Result<()> {
    let mut packed = ZlibEncoder::new(Vec::new(), Compression::default());
    packed.write_all(content)?;
    let packed = packed.finish()?;
    writeln!(out, "literal {}", content.len())?;
    for line in packed.chunks(LINE_BYTES) {
        // A is one byte, Z 26, a 27, z 52.
        let len = line.len() as u8;
        out.push(if len <= 26 {
            b'A' + len - 1
        } else {
            b'a' + len - 27
        });
        for word in line.chunks(4) {
            let mut bytes = [0; 4];
            bytes[..word.len()].copy_from_slice(word);
            let mut number = u32::from_be_bytes(bytes);
            let mut digits = [0; 5];
            for digit in digits.iter_mut().rev() {
                *digit = DIGITS[(number % 85) as usize];
                number /= 85;
            }
            out.extend_from_slice(&digits);
        }
        out.push(b'\n');
    }
    out.push(b'\n');
    Ok(())
}

/// A path after `a/` or `b/`, in quotes if it has bytes that are not plain text.
pub(super) fn quoted(prefix: &str, path: &Path) -> Vec<u8> {
    let bytes = path.as_os_str().as_bytes();
    let odd = |byte: &u8| !(b' '..=b'~').contains(byte) || matches!(byte, b'"' | b'\\');
    let mut out = prefix.as_bytes().to_vec();
    if !bytes.iter().any(odd) {
        out.extend_from_slice(bytes);
        return out;
    }
    out.insert(0, b'"');
    for byte in bytes {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            byte if odd(byte) => out.extend_from_slice(format!("\\{byte:03o}").as_bytes()),
            byte => out.push(*byte),
        }
    }
    out.push(b'"');
    out
}

/// SHA-1 (FIPS 180-4), which git uses for names, not for security.
fn sha1(data: &[u8]) -> [u8; 20] {
    let mut state: [u32; 5] = [0x6745_2301, 0xEFCD_AB89, 0x98BA_DCFE, 0x1032_5476, 0xC3D2_E1F0];
    let mut padded = data.to_vec();
    padded.push(0x80);
    padded.resize(padded.len().next_multiple_of(64), 0);
    if data.len() % 64 >= 56 {
        padded.resize(padded.len() + 64, 0);
    }
    let end = padded.len() - 8;
    padded[end..].copy_from_slice(&(data.len() as u64 * 8).to_be_bytes());
    for block in padded.as_chunks::<64>().0 {
        digest(&mut state, block);
    }
    let mut out = [0; 20];
    for (part, word) in out.as_chunks_mut::<4>().0.iter_mut().zip(state) {
        *part = word.to_be_bytes();
    }
    out
}

fn digest(state: &mut [u32; 5], block: &[u8; 64]) {
    let mut words = [0u32; 80];
    for (word, bytes) in words.iter_mut().zip(block.as_chunks::<4>().0) {
        *word = u32::from_be_bytes(*bytes);
    }
    for at in 16..80 {
        words[at] = (words[at - 3] ^ words[at - 8] ^ words[at - 14] ^ words[at - 16]).rotate_left(1);
    }
    let [mut a, mut b, mut c, mut d, mut e] = *state;
    for (at, word) in words.iter().enumerate() {
        let (f, k) = match at / 20 {
            0 => ((b & c) | (!b & d), 0x5A82_7999),
            1 => (b ^ c ^ d, 0x6ED9_EBA1),
            2 => ((b & c) | (b & d) | (c & d), 0x8F1B_BCDC),
            _ => (b ^ c ^ d, 0xCA62_C1D6_u32),
        };
        let next = a
            .rotate_left(5)
            .wrapping_add(f)
            .wrapping_add(e)
            .wrapping_add(k)
            .wrapping_add(*word);
        (e, d, c, b, a) = (d, c, b.rotate_left(30), a, next);
    }
    for (sum, part) in state.iter_mut().zip([a, b, c, d, e]) {
        *sum = sum.wrapping_add(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_have_the_names_that_git_gives_them() {
        let check = |content: &[u8], name: &str| assert_eq!(blob_name(content), name);
        check(b"", "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391");
        check(b"hello\n", "ce013625030ba8dba906f756967f9e9ca394464a");
        // FIPS 180-4, two blocks.
        let long = sha1(b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq");
        assert_eq!(long[..4], [0x84, 0x98, 0x3e, 0x44]);
    }

    #[test]
    fn odd_paths_are_quoted() {
        let check = |path: &str, expect: &str| {
            assert_eq!(String::from_utf8(quoted("a/", Path::new(path))).unwrap(), expect);
        };
        check("d/with space", "a/d/with space");
        check("d/\u{e4}\n", "\"a/d/\\303\\244\\012\"");
        check("q\"b\\", "\"a/q\\\"b\\\\\"");
    }

    #[test]
    fn a_literal_is_that_of_git() {
        let mut out = Vec::new();
        literal(&mut out, b"").unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "literal 0\nHc$@<O00001\n\n");
    }
}
