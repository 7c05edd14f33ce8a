//! What a name in a control directory leads to, and what is listed there.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use super::handles::DirRow;
use super::names::{below, unescape};
use super::node::{Listing, Node, Report, SavedFile, Scope, Source};
use super::saved;
use super::tree::{ControlTree, S_IFDIR, S_IFLNK, S_IFREG};
use crate::error::{Error, Result};
use crate::fs::ops::Caller;
use crate::query::answer::name_text;
use crate::query::options::Options;
use crate::query::parse;

impl ControlTree {
    /// What a name means in a directory of the control tree.
    pub(super) fn child(&self, caller: &Caller, parent: Node, name: &OsStr) -> Result<Node> {
        let missing = || Error::NotFound(name_text(name));
        Ok(match parent {
            Node::Root { scope } => root_child(scope, name).ok_or_else(missing)?,
            Node::Search { scope, options } if options.is_empty() && is_options(name) => {
                read_options(name)?;
                Node::Search {
                    scope,
                    options: name.into(),
                }
            }
            Node::Search { scope, options } => Node::Results(Arc::new(Listing {
                scope,
                source: read_query(name)?,
                options,
            })),
            Node::Ask { scope, options } if options.is_empty() && is_options(name) => {
                read_options(name)?;
                Node::Ask {
                    scope,
                    options: name.into(),
                }
            }
            Node::Ask { scope, options } => Node::AskFile(Arc::new(Listing {
                scope,
                source: read_query(name)?,
                options,
            })),
            Node::Like { scope, path } => self.like_child(caller, scope, below(&path, name))?,
            Node::Related { scope, path } => self.relation_child(caller, scope, below(&path, name))?,
            Node::RelatedFile { scope, path } => self.relation_type(scope, path, name)?,
            Node::Relations(place) => {
                self.relation_link(caller, &place, name)?;
                Node::Relation(place, name.into())
            }
            Node::Results(listing) if name == "results.jsonl" => Node::ResultsJsonl(listing),
            Node::Results(listing) => match self.lists.get(&listing, caller.uid) {
                Some(list) if list.target(name).is_some() => Node::ResultLink(listing, name.into()),
                _ => return Err(missing()),
            },
            Node::Saved { scope } => {
                self.knowledge.saved_get(caller, name)?;
                Node::SavedQuery {
                    scope,
                    name: name.into(),
                }
            }
            Node::SavedQuery { scope, name: query } => saved_child(scope, query, name).ok_or_else(missing)?,
            _ => return Err(Error::Os(libc::ENOTDIR)),
        })
    }

    /// A directory on the way to a file leads further down; a file is a list of results.
    fn like_child(&self, caller: &Caller, scope: Scope, path: PathBuf) -> Result<Node> {
        let kind = self.file_type(caller, scope, &path)?;
        if kind == S_IFDIR {
            return Ok(Node::Like { scope, path });
        }
        let listing = Listing {
            scope,
            source: Source::Like(path),
            options: OsString::new(),
        };
        Ok(Node::Results(Arc::new(listing)))
    }

    /// The entries of a directory.
    pub(super) fn rows(&self, caller: &Caller, node: &Node) -> Result<Vec<DirRow>> {
        let mut rows = Vec::new();
        let mut add = |name: &OsStr, kind: u32, node: &Node| {
            rows.push(DirRow {
                name: name.into(),
                kind,
                ino: self.nodes.peek(node),
            });
        };
        match node {
            Node::Root { scope } => {
                for name in root_names(*scope) {
                    if let Some(node) = root_child(*scope, OsStr::new(name)) {
                        let report = matches!(node, Node::Report { .. });
                        add(OsStr::new(name), if report { S_IFREG } else { S_IFDIR }, &node);
                    }
                }
            }
            Node::Results(listing) => {
                let list = self.run(caller, listing)?;
                for name in list.names() {
                    add(name, S_IFLNK, &Node::ResultLink(listing.clone(), name.clone()));
                }
                add(
                    OsStr::new("results.jsonl"),
                    S_IFREG,
                    &Node::ResultsJsonl(listing.clone()),
                );
            }
            Node::RelatedFile { scope, path } => {
                for kind in self.relation_types(caller, *scope, path)? {
                    let name = OsStr::new(&*kind);
                    add(name, S_IFDIR, &self.relation_type(*scope, path.clone(), name)?);
                }
            }
            Node::Relations(place) => {
                for (name, _) in self.relation_links(caller, place)?.iter() {
                    add(name, S_IFLNK, &Node::Relation(place.clone(), name.clone()));
                }
            }
            Node::Saved { scope } => {
                for name in self.knowledge.saved_names(caller)? {
                    add(
                        &name,
                        S_IFDIR,
                        &Node::SavedQuery {
                            scope: *scope,
                            name: name.clone(),
                        },
                    );
                }
            }
            Node::SavedQuery { scope, name } => {
                for (file_name, file) in SavedFile::ALL {
                    let node = Node::SavedFile {
                        scope: *scope,
                        name: name.clone(),
                        file,
                    };
                    add(OsStr::new(file_name), S_IFREG, &node);
                }
                let listing = saved::listing(*scope, name);
                add(OsStr::new("results"), S_IFDIR, &Node::Results(Arc::new(listing)));
            }
            // The names in `search`, `ask`, `like` and `rel` are all that can be asked: they are not listed.
            _ => {}
        }
        Ok(rows)
    }
}

/// What stands in a control directory. In a transaction there is what is asked of its tree; saved queries, counters and
/// the feed of changes are of what is committed.
fn root_names(scope: Scope) -> &'static [&'static str] {
    match scope.staged {
        Some(_) => &["search", "ask", "like", "rel", "status", "status.json"],
        None => &[
            "search",
            "ask",
            "like",
            "rel",
            "q",
            "status",
            "status.json",
            "metrics",
            "events",
        ],
    }
}

fn root_child(scope: Scope, name: &OsStr) -> Option<Node> {
    let name = name.to_str()?;
    if scope.staged.is_some() && !root_names(scope).contains(&name) {
        return None;
    }
    Some(match name {
        "search" => Node::Search {
            scope,
            options: OsString::new(),
        },
        "ask" => Node::Ask {
            scope,
            options: OsString::new(),
        },
        "like" => Node::Like {
            scope,
            path: PathBuf::new(),
        },
        "rel" => Node::Related {
            scope,
            path: PathBuf::new(),
        },
        "q" => Node::Saved { scope },
        _ => {
            let (_, report) = Report::ALL.into_iter().find(|(known, _)| *known == name)?;
            Node::Report { scope, report }
        }
    })
}

fn saved_child(scope: Scope, query: OsString, name: &OsStr) -> Option<Node> {
    if name == "results" {
        return Some(Node::Results(Arc::new(saved::listing(scope, &query))));
    }
    let (_, file) = SavedFile::ALL.into_iter().find(|(known, _)| name == *known)?;
    Some(Node::SavedFile {
        scope,
        name: query,
        file,
    })
}

fn is_options(name: &OsStr) -> bool {
    name.as_bytes().first() == Some(&b'@')
}

pub(super) fn read_options(name: &OsStr) -> Result<Options> {
    Options::parse(&unescape(name)?)
}

/// Checks the query here, so that a malformed one is EINVAL at the first look.
fn read_query(name: &OsStr) -> Result<Source> {
    let query = unescape(name)?;
    parse::parse(&query)?;
    Ok(Source::Query(query))
}
