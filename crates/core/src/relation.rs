//! Relations between files: what a file refers to, and what can be learnt by following relations.
//!
//! Told relations (`ln -s` in the control directory, xattrs, the command line) and derived ones live in the store
//! side by side; the derived ones are marked, and are replaced whenever their file is indexed. This module reads
//! references out of text ([`derive`]) and answers questions about the
//! graph: neighbours within a bound and shortest path ([`walk`]), nearness ([`nearness`]).

use std::path::{Component, Path, PathBuf};

use crate::ids::FileId;
use crate::store::relations::{Derived, Reference};
use crate::store::sketch::Sketch;

mod imports;
mod links;
pub mod nearness;
pub mod walk;

/// Relations that leave a file in a Markdown or wiki link.
pub const LINKS: &str = "links";
/// Images and transclusions.
pub const EMBEDS: &str = "embeds";
/// Imports, includes and module declarations of source files.
pub const IMPORTS: &str = "imports";

/// References taken from one file. A generated index of more links than this says little about each.
const REFERENCES_MAX: usize = 1024;

/// Which files an asker may know of.
pub trait Sight {
    /// One answer for each file.
    fn sees(&mut self, files: &[FileId]) -> Vec<bool>;
}

/// The sight of somebody who may know of all files.
pub struct Everything;

impl Sight for Everything {
    fn sees(&mut self, files: &[FileId]) -> Vec<bool> {
        vec![true; files.len()]
    }
}

/// What follows from a file's text. `source` is the file as it was decoded, with its markup: links stand in it. `text`
/// is what was extracted from it, often the same. `path` is relative to the root of the tree.
pub fn derive(path: &Path, source: &str, text: &str) -> Derived {
    Derived {
        references: references(path, source),
        sketch: Sketch::of(text),
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
mod tests;
