//! The query language: the same in a directory name, on the command line and in the API.
//!
//! ```text
//! query  = group*
//! group  = term ( "OR" term )*
//! term   = [ "-" ] ( word | phrase | filter )
//! phrase = '"' text '"'              \" and \\ stand for themselves
//! filter = key ":" ( value | phrase )   path name ext type size mtime tag meta like linked space
//! ```
//!
//! Words rank. Phrases, filters and excluded terms decide: a group with one of them must hold, and holds when any of
//! its terms does. `OR` binds more tightly than standing side by side.

use std::path::PathBuf;
use std::str::FromStr;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use super::kinds::FileType;
use super::quantity::{self, Comparison};
use crate::error::{Error, Result};

/// Bytes of a query: a whole document as the question fits.
const QUERY_BYTES_MAX: usize = 1 << 20;
/// Terms of a query; what is longer is a text, of which the first terms say enough.
const TERMS_MAX: usize = 4_096;

/// A parsed query.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// All of them hold for a hit, or rank it.
    pub groups: Vec<Group>,
}

/// Terms with `OR` between them.
#[derive(Clone, Debug)]
pub struct Group {
    /// At least one.
    pub terms: Vec<Term>,
}

/// A word, phrase or filter.
#[derive(Clone, Debug)]
pub struct Term {
    /// Preceded by `-`.
    pub excluded: bool,
    /// Byte of the query at which it begins.
    pub at: usize,
    /// What it is.
    pub kind: TermKind,
}

/// What a term is.
#[derive(Clone, Debug)]
pub enum TermKind {
    /// Looked for by meaning and by word.
    Word(String),
    /// Occurs as it stands.
    Phrase(String),
    /// A condition on the file.
    Filter(Filter),
}

/// A condition on a file.
#[derive(Clone, Debug)]
pub enum Filter {
    /// The path below the scope, or one of the directories above it, matches.
    Path(GlobSet),
    /// The last component of the path matches.
    Name(GlobSet),
    /// The name ends with this extension, in lower case, without the dot.
    Ext(String),
    /// The name's extension is one of this type's.
    Type(FileType),
    /// Length in bytes.
    Size(Comparison<u64>),
    /// Time of the last change, seconds since the epoch.
    Mtime(Comparison<i64>),
    /// The file carries this tag.
    Tag(String),
    /// The file carries this metadata, with this value where one is given.
    Meta(String, Option<String>),
    /// Ranked by likeness to this file, a path below the scope.
    Like(PathBuf),
    /// Related to this file, by this type of relation where one is given.
    Linked(Option<String>, PathBuf),
    /// The space of vectors to search in.
    Space(String),
}

impl Query {
    /// The words and phrases that rank, in order, with spaces between them.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for word in self.ranking() {
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(word);
        }
        text
    }

    /// The words and phrases that rank: those that are not excluded.
    pub fn ranking(&self) -> impl Iterator<Item = &str> {
        self.terms()
            .filter(|term| !term.excluded)
            .filter_map(|term| match &term.kind {
                TermKind::Word(text) | TermKind::Phrase(text) => Some(text.as_str()),
                TermKind::Filter(_) => None,
            })
    }

    /// The groups that must hold; the others only rank.
    pub fn conditions(&self) -> impl Iterator<Item = &Group> {
        self.groups.iter().filter(|group| group.decides())
    }

    /// Every term, in order.
    pub fn terms(&self) -> impl Iterator<Item = &Term> {
        self.groups.iter().flat_map(|group| &group.terms)
    }

    /// The file that `like:` names.
    pub fn like(&self) -> Option<&PathBuf> {
        self.terms().find_map(|term| match &term.kind {
            TermKind::Filter(Filter::Like(path)) => Some(path),
            _ => None,
        })
    }

    /// The space that `space:` names.
    pub fn space(&self) -> Option<&str> {
        self.terms().find_map(|term| match &term.kind {
            TermKind::Filter(Filter::Space(name)) => Some(name.as_str()),
            _ => None,
        })
    }
}

impl Group {
    /// Whether it must hold.
    pub fn decides(&self) -> bool {
        self.terms.iter().any(|term| match &term.kind {
            TermKind::Word(_) => term.excluded,
            TermKind::Phrase(_) => true,
            TermKind::Filter(filter) => !filter.is_choice(),
        })
    }
}

impl Filter {
    /// Chooses what to rank by, and says nothing about a single file.
    fn is_choice(&self) -> bool {
        matches!(self, Filter::Like(_) | Filter::Space(_))
    }
}

/// Reads a query.
pub fn parse(query: &str) -> Result<Query> {
    if query.len() > QUERY_BYTES_MAX {
        return Err(refuse(
            QUERY_BYTES_MAX,
            format!("{} bytes", query.len()),
            "at most 1 MiB",
        ));
    }
    let mut reader = Reader { query, at: 0 };
    let mut groups: Vec<Group> = Vec::new();
    let mut or: Option<usize> = None;
    let mut terms = 0;
    while let Some((start, token)) = reader.token()? {
        match token {
            Token::Or => {
                if groups.is_empty() || or.is_some() {
                    return Err(refuse(start, "OR".into(), "a term before it"));
                }
                or = Some(start);
            }
            Token::Term(term) if terms < TERMS_MAX => {
                terms += 1;
                match (or.take(), groups.last_mut()) {
                    (Some(_), Some(group)) => group.terms.push(term),
                    _ => groups.push(Group { terms: vec![term] }),
                }
            }
            Token::Term(_) => or = None,
        }
    }
    if let Some(at) = or {
        return Err(refuse(at, "OR".into(), "a term after it"));
    }
    check_choices(&groups)?;
    Ok(Query { groups })
}

/// `like:` and `space:` choose what to rank by: once, not excluded, and not as one side of an `OR`.
fn check_choices(groups: &[Group]) -> Result<()> {
    let mut seen = (false, false);
    for group in groups {
        for term in &group.terms {
            let TermKind::Filter(filter) = &term.kind else {
                continue;
            };
            let seen = match filter {
                Filter::Like(_) => &mut seen.0,
                Filter::Space(_) => &mut seen.1,
                _ => continue,
            };
            if term.excluded || group.terms.len() > 1 || std::mem::replace(seen, true) {
                let what = "like: or space: that is excluded, repeated or beside OR".into();
                return Err(refuse(term.at, what, "one of each, standing alone"));
            }
        }
    }
    Ok(())
}

fn refuse(at: usize, what: String, expected: &str) -> Error {
    Error::Query {
        at,
        what,
        expected: expected.into(),
    }
}

enum Token {
    Or,
    Term(Term),
}

struct Reader<'a> {
    query: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.query[self.at..]
    }

    /// The next token and where it begins.
    fn token(&mut self) -> Result<Option<(usize, Token)>> {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
        let at = self.at;
        if self.rest().is_empty() {
            return Ok(None);
        }
        let excluded = self
            .rest()
            .strip_prefix('-')
            .is_some_and(|next| next.starts_with(|c: char| !c.is_whitespace()));
        if excluded {
            self.at += 1;
        }
        let kind = if self.rest().starts_with('"') {
            TermKind::Phrase(self.phrase()?)
        } else if let Some(key) = self.key() {
            self.at += key.len() + 1;
            TermKind::Filter(self.filter(key)?)
        } else {
            let word = self.word();
            if word == "OR" && !excluded {
                return Ok(Some((at, Token::Or)));
            }
            TermKind::Word(word.into())
        };
        Ok(Some((at, Token::Term(Term { excluded, at, kind }))))
    }

    /// The key of a filter, if one begins here. Any other word with a colon is a word.
    fn key(&self) -> Option<&'static str> {
        const KEYS: [&str; 11] = [
            "path", "name", "ext", "type", "size", "mtime", "tag", "meta", "like", "linked", "space",
        ];
        let (head, _) = self.rest().split_once(':')?;
        KEYS.into_iter().find(|key| *key == head)
    }

    fn word(&mut self) -> &'a str {
        let rest = self.rest();
        let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    /// A phrase; the reader stands on its opening quote.
    fn phrase(&mut self) -> Result<String> {
        let open = self.at;
        let mut text = String::new();
        let mut chars = self.rest()[1..].char_indices();
        while let Some((i, c)) = chars.next() {
            match c {
                '"' => {
                    self.at = open + 1 + i + 1;
                    if text.trim().is_empty() {
                        return Err(refuse(open, "an empty phrase".into(), "words between the quotes"));
                    }
                    return Ok(text);
                }
                '\\' => match chars.next() {
                    Some((_, c @ ('"' | '\\'))) => text.push(c),
                    Some((_, c)) => text.extend(['\\', c]),
                    None => break,
                },
                _ => text.push(c),
            }
        }
        Err(refuse(open, "a quote that is not closed".into(), "a second \""))
    }

    fn filter(&mut self, key: &str) -> Result<Filter> {
        let at = self.at;
        let value = if self.rest().starts_with('"') {
            self.phrase()?
        } else {
            self.word().to_owned()
        };
        if value.is_empty() {
            return Err(refuse(at, format!("nothing after {key}:"), "a value"));
        }
        let value = value.as_str();
        Ok(match key {
            "path" => Filter::Path(path_glob(value, at)?),
            "name" => Filter::Name(globs(&[value.to_owned()], at)?),
            "ext" => Filter::Ext(value.trim_start_matches('.').to_lowercase()),
            "type" => Filter::Type(
                FileType::from_str(value).map_err(|known| refuse(at, format!("type {value:?}"), &known))?,
            ),
            "size" => {
                Filter::Size(quantity::size(value).map_err(|expected| refuse(at, value.into(), expected))?)
            }
            "mtime" => {
                Filter::Mtime(quantity::time(value).map_err(|expected| refuse(at, value.into(), expected))?)
            }
            "tag" => Filter::Tag(value.into()),
            "meta" => match value.split_once('=') {
                Some((key, value)) => Filter::Meta(key.into(), Some(value.into())),
                None => Filter::Meta(value.into(), None),
            },
            "like" => Filter::Like(value.into()),
            "linked" => match value.split_once(':') {
                Some((kind, path)) if !kind.is_empty() && !kind.contains('/') && !path.is_empty() => {
                    Filter::Linked(Some(kind.into()), path.into())
                }
                _ => Filter::Linked(None, value.into()),
            },
            _ => Filter::Space(value.into()),
        })
    }
}

/// As git's pathspec: a glob matches a path or a directory above it; `/` at its ends says nothing.
fn path_glob(value: &str, at: usize) -> Result<GlobSet> {
    let value = value.trim_matches('/');
    globs(&[value.to_owned(), format!("{value}/**")], at)
}

fn globs(patterns: &[String], at: usize) -> Result<GlobSet> {
    let bad = |e: globset::Error| refuse(at, e.kind().to_string(), "a glob: * ? [a-z] {a,b} **");
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        set.add(
            GlobBuilder::new(pattern)
                .literal_separator(true)
                .build()
                .map_err(bad)?,
        );
    }
    set.build().map_err(bad)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shape(query: &Query) -> String {
        let term = |t: &Term| {
            let sign = if t.excluded { "-" } else { "" };
            match &t.kind {
                TermKind::Word(w) => format!("{sign}{w}"),
                TermKind::Phrase(p) => format!("{sign}<{p}>"),
                TermKind::Filter(f) => format!("{sign}{}", format!("{f:?}").split('(').next().unwrap()),
            }
        };
        let group = |g: &Group| g.terms.iter().map(term).collect::<Vec<_>>().join("|");
        query.groups.iter().map(group).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn queries_are_read_as_the_language_says() {
        let check = |query: &str, want: &str| assert_eq!(shape(&parse(query).unwrap()), want, "{query}");
        check("", "");
        check("how do refunds work", "how do refunds work");
        check("\"a phrase\" word", "<a phrase> word");
        check(r#""say \"hi\"" \o/"#, r#"<say "hi"> \o/"#);
        check("-word -\"no phrase\" -ext:pdf", "-word -<no phrase> -Ext");
        check("ext:pdf OR ext:md refund", "Ext|Ext refund");
        check("a or b", "a or b");
        check("std::io http://x", "std::io http://x");
        check("a - b", "a - b");
        check(
            "path:\"my dir/**\" size:>1M mtime:<7d tag:x",
            "Path Size Mtime Tag",
        );
        check(
            "like:a.md linked:cites:b.md linked:b.md space:mine",
            "Like Linked Linked Space",
        );
    }

    #[test]
    fn malformed_queries_say_where_and_what_was_expected() {
        let check = |query: &str, position: usize| match parse(query) {
            Err(Error::Query { at, expected, .. }) => {
                assert_eq!(at, position, "{query}");
                assert!(!expected.is_empty());
            }
            other => panic!("{query}: {other:?}"),
        };
        check("\"no end", 0);
        check("a \"\"", 2);
        check("OR a", 0);
        check("a OR", 2);
        check("a OR OR b", 5);
        check("ext:", 4);
        check("size:>lots", 5);
        check("x mtime:soon", 8);
        check("path:[a", 5);
        check("type:nothing", 5);
        check("-like:a", 0);
        check("space:a space:b", 8);
        check("like:a OR b", 0);
    }

    #[test]
    fn words_rank_and_everything_else_decides() {
        let query = parse("refund \"late fee\" -draft ext:md OR ext:txt like:a").unwrap();
        assert_eq!(query.text(), "refund late fee");
        assert_eq!(query.conditions().count(), 3);
        assert!(query.like().is_some());
    }

    #[test]
    fn a_path_glob_matches_files_below_a_matching_directory() {
        let check = |glob: &str, path: &str, want: bool| {
            let set = path_glob(glob, 0).unwrap();
            assert_eq!(set.is_match(path), want, "{glob} {path}");
        };
        check("docs", "docs/a/b.md", true);
        check("docs/", "docs/a.md", true);
        check("src/*.rs", "src/lib.rs", true);
        check("src/*.rs", "src/a/lib.rs", false);
        check("**/*.rs", "src/a/lib.rs", true);
        check("doc", "docs/a.md", false);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_at_a_place_inside_it(query in "\\PC{0,80}") {
            if let Err(Error::Query { at, .. }) = parse(&query) {
                prop_assert!(at <= query.len());
            }
        }

        #[test]
        fn any_arrangement_of_the_language_s_parts_is_read_or_refused(
            parts in proptest::collection::vec(
                prop_oneof!["OR", "-", "\"", "\\\\", " ", "ext:", "size:>", "mtime:<", "path:", "7d", "a", "\"b c\"", "é"],
                0..20,
            )
        ) {
            let query = parts.concat();
            if let Err(Error::Query { at, .. }) = parse(&query) {
                prop_assert!(at <= query.len());
            }
        }
    }
}
