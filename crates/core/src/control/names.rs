//! Names in the control directory: escapes of query names, and the names of result links.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use crate::error::{Error, Result};

/// The longest name of a result link, in bytes: what every program can take.
const LINK_NAME_MAX: usize = 255;

/// The query that a name stands for: `%2F` is `/`, `%25` is `%`, `%40` is `@`, all else is itself.
pub(super) fn unescape(name: &OsStr) -> Result<String> {
    let text = std::str::from_utf8(name.as_bytes())
        .map_err(|e| invalid(e.valid_up_to(), "bytes that are not UTF-8", "UTF-8"))?;
    let mut query = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        query.push_str(&rest[..at]);
        let (c, taken) = match rest.as_bytes().get(at + 1..at + 3) {
            Some(b"2F" | b"2f") => ('/', 3),
            Some(b"25") => ('%', 3),
            Some(b"40") => ('@', 3),
            _ => ('%', 1),
        };
        query.push(c);
        rest = &rest[at + taken..];
    }
    query.push_str(rest);
    Ok(query)
}

/// The name that stands for a query in a directory; the inverse of [`unescape`].
pub fn escape(query: &str) -> String {
    let mut name = query.replace('%', "%25").replace('/', "%2F");
    if name.starts_with('@') {
        name.replace_range(..1, "%40");
    }
    name
}

fn invalid(at: usize, what: &str, expected: &str) -> Error {
    Error::Query {
        at,
        what: what.into(),
        expected: expected.into(),
    }
}

/// `001-0.912-name.ext`: sorts by rank in every tool and keeps the extension. Cut in the middle to 255 bytes.
pub(super) fn link_name(rank: usize, ranks: usize, score: f32, path: &Path) -> OsString {
    let digits = ranks.to_string().len().max(3);
    let mut name = format!("{rank:0digits$}-{score:.3}-").into_bytes();
    let base = path.file_name().unwrap_or(OsStr::new("file")).as_bytes();
    let room = LINK_NAME_MAX - name.len();
    if base.len() <= room {
        name.extend_from_slice(base);
    } else {
        let tail = base.len() - extension_start(base).max(base.len().saturating_sub(room / 2));
        let mut head = room - tail - "…".len();
        while head > 0 && is_continuation(base[head]) {
            head -= 1;
        }
        name.extend_from_slice(&base[..head]);
        name.extend_from_slice("…".as_bytes());
        name.extend_from_slice(&base[base.len() - tail..]);
    }
    OsString::from_vec(name)
}

/// Where the extension begins, its dot included; the end when there is none.
fn extension_start(base: &[u8]) -> usize {
    base.iter()
        .rposition(|&b| b == b'.')
        .filter(|&at| at > 0)
        .unwrap_or(base.len())
}

fn is_continuation(byte: u8) -> bool {
    byte & 0xc0 == 0x80
}

/// The way from a link that stands `depth` directories below the scope to a file of the scope.
pub(super) fn link_target(depth: usize, below_scope: &Path) -> Vec<u8> {
    let mut target = PathBuf::new();
    for _ in 0..depth {
        target.push("..");
    }
    target.push(below_scope);
    target.into_os_string().into_vec()
}

/// Appends a component to a path below the scope; `.` and `..` cannot occur in a lookup.
pub(super) fn below(path: &Path, name: &OsStr) -> PathBuf {
    debug_assert!(!matches!(
        Path::new(name).components().next(),
        Some(Component::ParentDir)
    ));
    path.join(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn escapes_are_undone_and_a_lone_percent_stands_for_itself() {
        let check = |name: &str, query: &str| assert_eq!(unescape(OsStr::new(name)).unwrap(), query);
        check("how do refunds work", "how do refunds work");
        check("path:src%2F*.rs", "path:src/*.rs");
        check("100%25", "100%");
        check("50% off", "50% off");
        check("%40home", "@home");
        check("a%2525b", "a%25b");
    }

    #[test]
    fn names_that_are_not_utf8_are_refused_with_the_position() {
        let error = unescape(OsStr::from_bytes(b"ab\xff")).unwrap_err();
        assert!(matches!(error, Error::Query { at: 2, .. }), "{error}");
    }

    #[test]
    fn link_names_sort_by_rank_and_keep_the_extension_when_cut() {
        assert_eq!(link_name(1, 10, 0.9118, Path::new("docs/a.md")), "001-0.912-a.md");
        assert_eq!(link_name(12, 20_000, 0.5, Path::new("a")), "00012-0.500-a");
        let long = "é".repeat(127) + ".tar.gz";
        let name = link_name(1, 10, 0.5, Path::new(&long));
        assert!(name.len() <= 255, "{}", name.len());
        let text = name.into_string().expect("cut between characters");
        assert!(text.ends_with(".gz") && text.contains('…'), "{text}");
    }

    proptest! {
        #[test]
        fn escape_and_unescape_are_inverse(query in "[^\0]{0,60}") {
            let name = escape(&query);
            prop_assert!(!name.contains('/') && !name.starts_with('@'));
            prop_assert_eq!(unescape(OsStr::new(&name)).unwrap(), query);
        }

        #[test]
        fn no_name_makes_a_link_name_longer_than_255_bytes(base in proptest::collection::vec(1u8..=255, 1..600)) {
            let base: Vec<u8> = base.into_iter().filter(|&b| b != b'/').collect();
            let name = link_name(7, 100, 0.25, Path::new(OsStr::from_bytes(&base)));
            prop_assert!(name.len() <= 255);
        }
    }
}
