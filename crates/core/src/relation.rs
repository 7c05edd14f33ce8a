//! Relations between files: what a file refers to, and what can be learnt by following relations.
//!
//! Told relations (`ln -s` in the control directory, xattrs, the command line) and derived ones live in the store
//! side by side; the derived ones are marked, and are replaced whenever their file is indexed. This module reads
//! references out of text ([`references()`]), compares texts by sketch ([`sketch`]) and answers questions about the
//! graph: neighbours within a bound and shortest path ([`walk`]), nearness ([`nearness`]).

use std::path::{Component, Path, PathBuf};

mod imports;
mod links;
pub mod nearness;
pub mod sketch;
pub mod walk;

/// Relations that leave a file in a Markdown or wiki link.
pub const LINKS: &str = "links";
/// Images and transclusions.
pub const EMBEDS: &str = "embeds";
/// Imports, includes and module declarations of source files.
pub const IMPORTS: &str = "imports";
/// Files of the same bytes.
pub const DUPLICATES: &str = "duplicates";
/// Files that share most of their text.
pub const RESEMBLES: &str = "resembles";

/// References taken from one file. A generated index of more links than this says little about each.
const REFERENCES_MAX: usize = 1024;

/// Something that a file's text refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// The type of the relation.
    pub kind: &'static str,
    /// Paths relative to the root that could be meant; the first that exists is.
    pub candidates: Vec<PathBuf>,
    /// A bare note name, to be looked for in the whole tree when no candidate exists.
    pub anywhere: Option<String>,
    /// Whether the reference is kept, leading to the first candidate, when nothing of that name exists. References
    /// that usually leave the tree (`import numpy`) are not.
    pub dangles: bool,
    /// Line in the text, from 1.
    pub line: u32,
}

/// What follows from a file's content alone. Made outside of any transaction; [`crate::store::Tx::set_derived`] puts
/// it into the commit that makes the content searchable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Derived {
    /// What the text refers to.
    pub references: Vec<Reference>,
    /// The text's sketch, if it is long enough to be compared.
    pub sketch: Option<sketch::Sketch>,
}

impl Derived {
    /// Reads a file's text. `source` is the file as it was decoded, with its markup: links stand in it. `text` is what
    /// was extracted from it, often the same. `path` is relative to the root of the tree.
    pub fn of(path: &Path, source: &str, text: &str) -> Derived {
        Derived {
            references: references(path, source),
            sketch: sketch::Sketch::of(text),
        }
    }
}

/// The references in a text, in its order and each target once. `path` is relative to the root of the tree; its
/// extension decides how the text is read.
pub fn references(path: &Path, text: &str) -> Vec<Reference> {
    let extension = path
        .extension()
        .and_then(|e| e.to_str())
        .unwrap_or("")
        .to_ascii_lowercase();
    let mut found = match extension.as_str() {
        "md" | "markdown" | "mdx" | "mkd" => links::references(path, text),
        other => imports::references(path, other, text),
    };
    let mut seen = std::collections::HashSet::new();
    found.retain(|reference| seen.insert((reference.kind, reference.candidates.clone())));
    found.truncate(REFERENCES_MAX);
    found
}

/// `target` as seen from the folder `from`, both relative to the root, with `.` and `..` worked out by name alone.
/// `None` when it leads above the root.
fn join(from: &Path, target: &Path) -> Option<PathBuf> {
    let mut joined = PathBuf::new();
    let parts = from.components().chain(target.components());
    for part in parts {
        match part {
            Component::Normal(name) => joined.push(name),
            Component::CurDir => {}
            Component::ParentDir => {
                if !joined.pop() {
                    return None;
                }
            }
            Component::RootDir => joined = PathBuf::new(),
            Component::Prefix(_) => return None,
        }
    }
    Some(joined)
}

/// The folder of a path; the empty path is the root.
fn folder(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joining_stays_below_the_root() {
        let check = |from: &str, target: &str, expect: Option<&str>| {
            assert_eq!(
                join(Path::new(from), Path::new(target)),
                expect.map(PathBuf::from),
                "{from} + {target}"
            );
        };
        check("a/b", "c", Some("a/b/c"));
        check("a/b", "../c", Some("a/c"));
        check("a/b", "./c/./d", Some("a/b/c/d"));
        check("a/b", "/c", Some("c"));
        check("a", "../../c", None);
    }

    #[test]
    fn each_target_is_given_once() {
        let found = references(Path::new("n.md"), "[a](x.md) [b](x.md#part) [c](y.md)");
        assert_eq!(found.len(), 2);
    }
}
