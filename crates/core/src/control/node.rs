//! The nodes of the control directory and their inode numbers.
//!
//! A node is named by what it means (which query, in which scope), and gets a number when the kernel first hears of
//! it. Numbers are counted up and never used again, so a number that the kernel still holds can never come to mean
//! something else.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::ids::{Ino, NodeKey};

/// What an inode of the control directory stands for. `scope` is the directory in which `.vexfs` was looked up.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Node {
    /// `.vexfs` itself.
    Root { scope: Scope },
    /// `search/`, and `search/@options/`.
    Search { scope: Scope, options: OsString },
    /// `search/<query>/`: a list of results.
    Results(Arc<Listing>),
    /// `results.jsonl` in a list of results.
    ResultsJsonl(Arc<Listing>),
    /// A link in a list of results: its name. Where it leads is looked up in the list.
    ResultLink(Arc<Listing>, OsString),
    /// `ask/`, and `ask/@options/`.
    Ask { scope: Scope, options: OsString },
    /// `ask/<query>`.
    AskFile(Arc<Listing>),
    /// `like/` and the directories below it, by their path below the scope.
    Like { scope: Scope, path: PathBuf },
    /// `rel/` and the directories below it, by their path below the scope.
    Related { scope: Scope, path: PathBuf },
    /// `rel/<path>/`: the types of a file's relations.
    RelatedFile { scope: Scope, path: PathBuf },
    /// `rel/<path>/<type>/`.
    Relations(Arc<RelationPlace>),
    /// A link in it, by its name.
    Relation(Arc<RelationPlace>, OsString),
    /// `q/`.
    Saved { scope: Scope },
    /// `q/<name>/`.
    SavedQuery { scope: Scope, name: OsString },
    /// A file of a saved query.
    SavedFile {
        scope: Scope,
        name: OsString,
        file: SavedFile,
    },
    /// `status`, `status.json`, `metrics` or `events`.
    Report { scope: Scope, report: Report },
}

/// The directory in which the control directory stands: its inode for the kernel, and its backing inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Scope {
    /// The backing directory.
    pub(super) dir: NodeKey,
    /// The directory in the view of a transaction, if it stands there; `dir` says nothing then.
    pub(super) staged: Option<Ino>,
}

/// A type of relations of one file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct RelationPlace {
    pub(super) scope: Scope,
    /// The file, by its path below the scope.
    pub(super) path: PathBuf,
    /// The type.
    pub(super) kind: String,
}

/// What makes a list of results.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Listing {
    /// Where it searches.
    pub(super) scope: Scope,
    /// What it searches for.
    pub(super) source: Source,
    /// The options component, `@` and all, or empty.
    pub(super) options: OsString,
}

/// What a list of results is made from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Source {
    /// A query in the query language.
    Query(String),
    /// Files similar to this one, by its path below the scope.
    Like(PathBuf),
    /// A saved query, by its name.
    Saved(OsString),
}

/// The files in the directory of a saved query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum SavedFile {
    /// The text of the query.
    Query,
    /// A vector to search by, f32 little endian.
    Vector,
    /// The results as JSON lines.
    ResultsJsonl,
    /// A blocking read that gives a line for each change of the results.
    Live,
}

impl SavedFile {
    /// All of them with their names.
    pub(super) const ALL: [(&'static str, SavedFile); 4] = [
        ("query", SavedFile::Query),
        ("vector", SavedFile::Vector),
        ("results.jsonl", SavedFile::ResultsJsonl),
        ("live", SavedFile::Live),
    ];
}

/// The reports in the control directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Report {
    /// For people.
    Status,
    /// For programs.
    StatusJson,
    /// Prometheus text.
    Metrics,
    /// The change feed, JSON lines.
    Events,
}

impl Report {
    /// All of them with their names.
    pub(super) const ALL: [(&'static str, Report); 4] = [
        ("status", Report::Status),
        ("status.json", Report::StatusJson),
        ("metrics", Report::Metrics),
        ("events", Report::Events),
    ];
}

/// The numbers of the nodes that the kernel holds.
#[derive(Default)]
pub(super) struct Nodes {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    by_ino: HashMap<u64, (Node, u64)>,
    by_node: HashMap<Node, u64>,
    last: u64,
}

impl Nodes {
    /// The number of a node, counting one more reference by the kernel.
    pub(super) fn refer(&self, node: Node) -> Ino {
        let mut table = self.table.lock();
        if let Some(&ino) = table.by_node.get(&node) {
            if let Some((_, count)) = table.by_ino.get_mut(&ino) {
                *count += 1;
            }
            return Ino(ino);
        }
        table.last += 1;
        let ino = Ino::CONTROL_BIT | table.last;
        table.by_node.insert(node.clone(), ino);
        table.by_ino.insert(ino, (node, 1));
        Ino(ino)
    }

    /// The node behind a number, if the kernel still holds it.
    pub(super) fn get(&self, ino: Ino) -> Option<Node> {
        self.table.lock().by_ino.get(&ino.0).map(|(node, _)| node.clone())
    }

    /// A number for a directory entry of a node that may not have one: the kernel does not look it up by that.
    pub(super) fn peek(&self, node: &Node) -> Ino {
        let table = self.table.lock();
        Ino(table
            .by_node
            .get(node)
            .copied()
            .unwrap_or(Ino::CONTROL_BIT | u64::from(u32::MAX)))
    }

    /// Takes `count` references back. True when the node is gone.
    pub(super) fn forget(&self, ino: Ino, count: u64) -> Option<Node> {
        let mut table = self.table.lock();
        let (_, left) = table.by_ino.get_mut(&ino.0)?;
        *left = left.saturating_sub(count);
        if *left > 0 {
            return None;
        }
        let (node, _) = table.by_ino.remove(&ino.0)?;
        table.by_node.remove(&node);
        Some(node)
    }

    /// How many nodes the kernel holds.
    pub(super) fn len(&self) -> usize {
        self.table.lock().by_ino.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_lives_until_its_last_reference_is_forgotten_and_its_number_is_not_used_again() {
        let nodes = Nodes::default();
        let scope = Scope {
            dir: NodeKey { dev: 1, ino: 2 },
            staged: None,
        };
        let root = Node::Root { scope };
        let ino = nodes.refer(root.clone());
        assert_eq!(nodes.refer(root.clone()), ino);
        assert!(ino.is_control());
        assert_eq!(nodes.forget(ino, 1), None);
        assert_eq!(nodes.get(ino), Some(root.clone()));
        assert_eq!(nodes.forget(ino, 1), Some(root.clone()));
        assert_eq!(nodes.get(ino), None);
        assert_ne!(nodes.refer(root), ino);
        assert_eq!(nodes.len(), 1);
    }
}
