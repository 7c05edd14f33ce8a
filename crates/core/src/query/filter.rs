//! Which files a query's conditions let pass.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use super::kinds::{self, FileType};
use super::parse::{Filter, Group, Query, TermKind};
use crate::error::Result;
use crate::ids::FileId;
use crate::semantic::lexical::Snapshot;
use crate::store::Store;
use crate::store::file::Kind;
use crate::store::mirror::{Mirror, Node};

/// Files of which the share that passes is estimated; a tenth of a millisecond.
const SAMPLE: usize = 256;

/// A query's conditions and scope, with everything looked up that they need.
pub(super) struct Sieve<'a> {
    conditions: Vec<&'a Group>,
    scope: Option<FileId>,
    scope_path: std::path::PathBuf,
    sets: HashMap<usize, HashSet<FileId>>,
    known: Mutex<FxHashMap<FileId, bool>>,
}

impl<'a> Sieve<'a> {
    /// Looks up phrases, excluded words, tags, metadata and relations of the query's conditions. `scope` is the
    /// directory to search below, none for the whole tree; `readable` gives the file at a path below the root, if the
    /// caller may read it.
    pub(super) fn new(
        query: &'a Query,
        scope: Option<FileId>,
        store: &Store,
        words: &Snapshot,
        readable: &dyn Fn(&Path) -> Result<FileId>,
    ) -> Result<Sieve<'a>> {
        let scope_path = scope
            .and_then(|scope| store.mirror().path(scope))
            .unwrap_or_default();
        let conditions: Vec<&Group> = query.conditions().collect();
        let mut sets = HashMap::new();
        for term in conditions.iter().flat_map(|group| &group.terms) {
            let set = match &term.kind {
                TermKind::Word(text) | TermKind::Phrase(text) => words.files_with(text)?,
                TermKind::Filter(Filter::Tag(tag)) => {
                    store.read(|rows| rows.tagged(tag))?.into_iter().collect()
                }
                TermKind::Filter(Filter::Meta(key, value)) => store
                    .read(|rows| rows.with_metadata(key))?
                    .into_iter()
                    .filter(|(_, found)| value.as_ref().is_none_or(|value| value.as_bytes() == found))
                    .map(|(file, _)| file)
                    .collect(),
                TermKind::Filter(Filter::Linked(kind, path)) => {
                    let file = readable(&scope_path.join(path))?;
                    let linked = store.read(|rows| rows.linked(file, kind.as_deref()))?;
                    linked.into_iter().collect()
                }
                TermKind::Filter(_) => continue,
            };
            sets.insert(term.at, set);
        }
        Ok(Sieve {
            conditions,
            scope,
            scope_path,
            sets,
            known: Mutex::default(),
        })
    }

    /// Whether there is nothing to sort out.
    pub(super) fn passes_all(&self) -> bool {
        self.conditions.is_empty() && self.scope.is_none()
    }

    /// About which share of all passages lie in files that pass, by a sample: 0 to 1, never quite 0.
    pub(super) fn selectivity(&self, mirror: &Mirror) -> f32 {
        if self.passes_all() {
            return 1.0;
        }
        let found = mirror.iter().filter(|(_, node)| node.passages() > 0).take(SAMPLE);
        let (mut all, mut passing) = (0, 0);
        for (file, node) in found {
            all += node.passages();
            if self.passes(mirror, file) {
                passing += node.passages();
            }
        }
        // What did not turn up in the sample may still be there.
        (passing as f32 + 0.5) / (all as f32 + 1.0)
    }

    /// Whether a file passes. Asked once a file, then remembered.
    pub(super) fn passes(&self, mirror: &Mirror, file: FileId) -> bool {
        if let Some(&known) = self.known.lock().get(&file) {
            return known;
        }
        let passes = mirror
            .get(file)
            .is_some_and(|node| self.judge(mirror, file, node));
        self.known.lock().insert(file, passes);
        passes
    }

    fn judge(&self, mirror: &Mirror, file: FileId, node: Node<'_>) -> bool {
        node.kind() == Kind::File
            && node.state().is_live()
            && self.scope.is_none_or(|scope| mirror.is_within(file, scope))
            && self.conditions.iter().all(|group| {
                group.terms.iter().any(|term| {
                    let holds = match self.sets.get(&term.at) {
                        Some(set) => set.contains(&file),
                        None => match &term.kind {
                            TermKind::Filter(filter) => self.holds(filter, mirror, file, node),
                            TermKind::Word(_) | TermKind::Phrase(_) => false,
                        },
                    };
                    holds != term.excluded
                })
            })
    }

    fn holds(&self, filter: &Filter, mirror: &Mirror, file: FileId, node: Node<'_>) -> bool {
        let name = || node.names().next().map(|name| name.as_os_str());
        match filter {
            Filter::Path(globs) => mirror.paths(file).iter().any(|path| {
                path.strip_prefix(&self.scope_path)
                    .is_ok_and(|below| globs.is_match(below))
            }),
            Filter::Name(globs) => node
                .names()
                .any(|name| globs.is_match(Path::new(name.as_os_str()))),
            Filter::Ext(extension) => name()
                .and_then(kinds::extension)
                .is_some_and(|found| found == *extension || ends_with(name(), extension)),
            Filter::Type(wanted) => name().and_then(FileType::of_name) == Some(*wanted),
            Filter::Size(size) => size.holds(node.size()),
            Filter::Mtime(time) => time.holds(node.mtime().div_euclid(1_000_000_000)),
            // Sets, and choices that say nothing about a single file.
            Filter::Tag(_) | Filter::Meta(..) | Filter::Linked(..) | Filter::Like(_) | Filter::Space(_) => {
                true
            }
        }
    }
}

/// `ext:tar.gz` asks for more than what follows the last dot.
fn ends_with(name: Option<&std::ffi::OsStr>, extension: &str) -> bool {
    let dotted = format!(".{extension}");
    name.and_then(|name| name.to_str())
        .is_some_and(|name| name.to_lowercase().ends_with(&dotted))
}
