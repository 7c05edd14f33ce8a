//! Links of Markdown: inline, reference and wiki links, images and transclusions.

use std::path::{Path, PathBuf};

use pulldown_cmark::{Event, LinkType, Options, Parser, Tag};

use super::{EMBEDS, LINKS, folder, join};
use crate::store::relations::Reference;

/// The references of a Markdown text.
pub(super) fn references(path: &Path, text: &str) -> Vec<Reference> {
    let mut options = Options::empty();
    options.insert(Options::ENABLE_WIKILINKS | Options::ENABLE_TABLES | Options::ENABLE_FOOTNOTES);
    let mut lines = Lines::new(text);
    let mut found = Vec::new();
    for (event, range) in Parser::new_ext(text, options).into_offset_iter() {
        let (kind, link_type, target) = match &event {
            Event::Start(Tag::Link {
                link_type, dest_url, ..
            }) => (LINKS, link_type, dest_url),
            Event::Start(Tag::Image {
                link_type, dest_url, ..
            }) => (EMBEDS, link_type, dest_url),
            _ => continue,
        };
        let wiki = matches!(link_type, LinkType::WikiLink { .. });
        if let Some((candidates, anywhere)) = candidates(path, target, wiki) {
            found.push(Reference {
                kind,
                candidates,
                anywhere,
                dangles: true,
                line: lines.at(range.start),
            });
        }
    }
    found
}

/// The paths that a link's target can mean, and for a bare wiki link the note's name. `None` for what does not lead
/// into the tree.
fn candidates(path: &Path, target: &str, wiki: bool) -> Option<(Vec<PathBuf>, Option<String>)> {
    let target = target.split(['#', '?']).next().unwrap_or("");
    if target.is_empty() || target.starts_with("//") || has_scheme(target) {
        return None;
    }
    let name = if wiki {
        target.to_owned()
    } else {
        percent_decoded(target)?
    };
    let named = join(folder(path), Path::new(&name))?;
    if named.as_os_str().is_empty() {
        return None;
    }
    let has_extension = named.extension().is_some_and(|e| e.len() <= 5 && !e.is_empty());
    let with_md = {
        let mut name = named.clone().into_os_string();
        name.push(".md");
        PathBuf::from(name)
    };
    let candidates = match (wiki, has_extension) {
        (true, false) => vec![with_md, named],
        _ => vec![named, with_md],
    };
    let anywhere = (wiki && !name.contains('/')).then(|| {
        let first = candidates[0].file_name().unwrap_or_default();
        first.to_string_lossy().into_owned()
    });
    Some((candidates, anywhere))
}

/// Whether the target begins with a URI scheme (RFC 3986, 3.1): a letter, then letters, digits, `+-.`, then a colon.
/// One letter is a drive, and no scheme that is in use.
fn has_scheme(target: &str) -> bool {
    let Some((scheme, _)) = target.split_once(':') else {
        return false;
    };
    scheme.len() > 1
        && scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
}

/// `%41` is `A`. `None` when the result is not UTF-8 or has a zero byte, which no name has.
fn percent_decoded(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let code = (bytes[at] == b'%')
            .then(|| text.get(at + 1..at + 3))
            .flatten()
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match code {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8(out).ok().filter(|s| !s.contains('\0'))
}

/// Line numbers of offsets that are asked in rising order.
struct Lines<'t> {
    text: &'t str,
    at: usize,
    line: u32,
}

impl<'t> Lines<'t> {
    fn new(text: &'t str) -> Lines<'t> {
        Lines { text, at: 0, line: 1 }
    }

    fn at(&mut self, offset: usize) -> u32 {
        if offset > self.at {
            let passed = &self.text.as_bytes()[self.at..offset];
            self.line += passed.iter().filter(|b| **b == b'\n').count() as u32;
            self.at = offset;
        }
        self.line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, text: &str, expect: &[(&str, &str, u32)]) {
        let found = references(Path::new(path), text);
        let found: Vec<_> = found
            .iter()
            .map(|r| (r.kind, r.candidates[0].to_str().unwrap(), r.line))
            .collect();
        assert_eq!(found, expect, "{text}");
    }

    #[test]
    fn links_of_every_form_are_found_with_their_lines() {
        check(
            "d/n.md",
            "see\n[a](other.md) there",
            &[("links", "d/other.md", 2)],
        );
        check(
            "d/n.md",
            "[a][r]\n\n[r]: ../up.md \"title\"\n",
            &[("links", "up.md", 1)],
        );
        check(
            "d/n.md",
            "![pic](img/a%20b.png)",
            &[("embeds", "d/img/a b.png", 1)],
        );
        check("d/n.md", "[a](/top.md#part)", &[("links", "top.md", 1)]);
        check("n.md", "[[Other Note]]", &[("links", "Other Note.md", 1)]);
        check(
            "n.md",
            "[[Other|shown]] and ![[pic.png]]",
            &[("links", "Other.md", 1), ("embeds", "pic.png", 1)],
        );
    }

    #[test]
    fn what_leads_out_of_the_tree_is_no_reference() {
        check(
            "n.md",
            "[a](https://x.org/y.md) [b](mailto:a@b.c) [c](#part) [d](../out.md) [e](//host/x) `[f](g.md)`",
            &[],
        );
        check("n.md", "[a](%00.md) [b](%ff.md)", &[]);
    }

    #[test]
    fn a_bare_wiki_link_is_looked_for_in_the_whole_tree() {
        let found = references(Path::new("d/n.md"), "[[Note]] [[sub/Note]]");
        assert_eq!(found[0].anywhere.as_deref(), Some("Note.md"));
        assert_eq!(found[1].anywhere, None);
    }
}
