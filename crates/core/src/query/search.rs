//! Answering a query: both indexes are asked under the query's conditions, their lists fused, and what the caller may
//! not read taken out before anything is counted or scaled.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use rustc_hash::FxHashSet;
use vexfs_vector::{Effort, Filter as VectorFilter, SearchParams};

use super::access::readable;
use super::answer::{Answer, Hit, HitPassage};
use super::asked::Asked;
use super::filter::Sieve;
use super::fuse::{DEPTH, FusedFile, Scored, fuse};
use super::model::Model;
use super::options::{Mode, Options};
use super::parse::{Filter, Query, TermKind, parse};
use super::remembered::{Known, Question, Remembered};
use super::sight::CallersSight;
use super::spaces::ToldSpaces;
use crate::error::{Error, Result};
use crate::fs::ops::Caller;
use crate::ids::{FileId, Generation, NodeKey, PassageId};
use crate::semantic::lexical::{LexicalIndex, Limit, Snapshot, Wanted};
use crate::store::Store;
use crate::store::file::State;

/// Passages that the vectors are asked for, for each file that is wanted: the best of a list lie in fewer files.
const PASSAGES_PER_FILE: usize = 2;
/// Candidates for each passage that is wanted. Twice as many find those that are shown; what would make the far end of
/// the list exact costs several times as much where many passages are equally far.
const CANDIDATES: usize = 2;
/// Passages of a file that an answer shows.
const PASSAGES_PER_HIT: usize = 3;
/// Lists longer than this are not asked for, however few of their files the caller may read.
const DEPTH_MAX: usize = 25_600;

/// A search.
pub struct Request<'a> {
    /// Who asks: nothing that they may not read is found, counted or scaled by.
    pub caller: &'a Caller,
    /// The directory to search below; the whole tree when absent.
    pub scope: Option<NodeKey>,
    /// What is searched for.
    pub what: What<'a>,
    /// How it is ranked.
    pub options: &'a Options,
    /// How fresh the answer must be.
    pub fresh: Fresh,
}

/// What is searched for.
#[derive(Clone, Debug, PartialEq)]
pub enum What<'a> {
    /// A text in the query language.
    Text(&'a str),
    /// Files similar to this one, a path below the scope.
    Like(&'a Path),
    /// Neighbours of a vector, in a space that programs set, or in the default embedder's.
    Vector {
        /// The space; the default embedder's when absent.
        space: Option<String>,
        /// As many components as the space has.
        vector: Vec<f32>,
    },
}

/// How fresh an answer must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fresh {
    /// Fail with [`Error::NotFresh`] when files are pending.
    pub require: bool,
    /// Wait until no file is pending, at most so long.
    pub wait: Duration,
}

/// What a search reads from.
pub struct Searcher {
    /// The catalog.
    pub store: Arc<Store>,
    /// The embedder and its vectors of passages.
    pub model: ArcSwap<Model>,
    /// Vectors that programs set on files.
    pub spaces: Arc<ToldSpaces>,
    /// Words of passages.
    pub words: Arc<LexicalIndex>,
    /// The backing directory.
    pub root: OwnedFd,
    /// Answers to be given again.
    pub remembered: Remembered,
    /// Queries answered.
    pub answered: AtomicU64,
}

impl Searcher {
    /// Answers from another model from now on, and forgets what was answered from the one before.
    pub fn set_model(&self, model: Arc<Model>) {
        self.model.store(model);
        self.remembered.clear();
    }

    /// Queries answered so far.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Answers a request.
    pub fn search(&self, request: &Request<'_>) -> Result<Answer> {
        let started = Instant::now();
        self.answered.fetch_add(1, Ordering::Relaxed);
        let (title, query) = match &request.what {
            What::Text(text) => ((*text).to_owned(), parse(text)?),
            What::Like(path) => (
                format!("like:{}", super::answer::path_text(path)),
                Query::default(),
            ),
            What::Vector { .. } => ("vector".to_owned(), Query::default()),
        };
        let empty = Answer {
            query: title,
            generation: self.store.generation(),
            pending: self.store.mirror().counts().pending,
            took: Duration::ZERO,
            truncated: false,
            hits: Vec::new(),
        };
        let Some(scope) = self.scope(request)? else {
            return Ok(empty);
        };
        let question = question(request, &query, scope, empty.generation);
        if let Some(known) = question
            .as_ref()
            .and_then(|question| self.remembered.get(question))
            && readable(self.root.as_fd(), request.caller, &known.paths) == known.readable
        {
            return Ok(Answer {
                truncated: known.truncated,
                hits: known.hits,
                took: started.elapsed(),
                ..empty
            });
        }
        let mut sight = self.sight(request.caller);
        let (hits, truncated) = self.hits(request, &query, scope, &mut sight)?;
        if let Some(question) = question.filter(|_| self.store.generation() == empty.generation) {
            let (paths, readable) = sight.into_asked();
            let hits = hits.clone();
            self.remembered.put(
                question,
                Known {
                    hits,
                    truncated,
                    paths,
                    readable,
                },
            );
        }
        Ok(Answer {
            truncated,
            hits,
            took: started.elapsed(),
            ..empty
        })
    }

    /// The hits, and whether there are more.
    fn hits(
        &self,
        request: &Request<'_>,
        query: &Query,
        scope: Option<FileId>,
        sight: &mut CallersSight<'_>,
    ) -> Result<(Vec<Hit>, bool)> {
        let snapshot = self.words.snapshot();
        let readable = |path: &Path| self.readable_file(request.caller, path);
        let sieve = Sieve::new(query, scope, &self.store, &snapshot, &readable)?;
        let asked = self.asked(request, query, scope)?;
        let k = request.options.k;
        let mut files = match request.options.mode {
            Mode::Rel => self.related(&asked, &sieve, &snapshot, k + 1, sight)?,
            _ => self.ranked(&asked, &sieve, &snapshot, k + 1, sight)?,
        };
        let truncated = files.len() > k;
        files.truncate(k);
        files.retain(|(file, _)| file.score >= request.options.min_score);
        Ok((self.hydrate(files, &snapshot)?, truncated))
    }

    /// The directory to search below, by its id; `Some(None)` for the whole tree, none for a directory of which the
    /// catalog knows nothing: it is kept out, or new.
    fn scope(&self, request: &Request<'_>) -> Result<Option<Option<FileId>>> {
        let mut scope = match request.scope {
            Some(key) => match self.store.read(|rows| rows.id_of(key))? {
                Some(id) => Some(id),
                None => return Ok(None),
            },
            None => None,
        };
        if let Some(within) = &request.options.within {
            let base = scope
                .and_then(|scope| self.store.mirror().path(scope))
                .unwrap_or_default();
            let id = self.store.read(|rows| rows.resolve(&base.join(within)))?;
            scope = Some(id.ok_or_else(|| Error::NotFound(within.clone()))?);
        }
        Ok(Some(scope.filter(|&scope| scope != crate::store::file::ROOT)))
    }

    /// The file at a path below the root, for a caller who may read it. To others it is not there.
    pub(super) fn readable_file(&self, caller: &Caller, path: &Path) -> Result<FileId> {
        let missing = || Error::NotFound(super::answer::path_text(path));
        let file = self.store.read(|rows| rows.resolve(path))?.ok_or_else(missing)?;
        match readable(self.root.as_fd(), caller, &[path.to_owned()])[..] {
            [true] => Ok(file),
            _ => Err(missing()),
        }
    }

    /// What a file is about, in a space or in that of passages; none when nothing is known of it there.
    pub(crate) fn meaning_of(&self, file: FileId, space: Option<&str>) -> Result<Option<Vec<f32>>> {
        let model = self.model.load_full();
        match space.filter(|space| *space != model.embedder.id()) {
            Some(space) => {
                let told = self.store.read(|rows| rows.vector(file, space))?;
                Ok(told.map(|told| told.value))
            }
            None => self.centroid(&model, file),
        }
    }

    /// The best files that the caller may read, with their paths. Lists are asked for longer until enough of their
    /// files may be read or nothing is left.
    pub(super) fn ranked(
        &self,
        asked: &Asked,
        sieve: &Sieve<'_>,
        snapshot: &Snapshot,
        wanted: usize,
        sight: &mut CallersSight<'_>,
    ) -> Result<Vec<(FusedFile, PathBuf)>> {
        let weight = match (
            &asked.vector,
            asked.words.any.is_empty() && asked.words.all.is_empty(),
        ) {
            (None, true) => return self.listed(sieve, wanted, sight),
            // With one list empty the other has all the weight.
            _ => asked.model.embedder.hybrid_weight(),
        };
        let looked_up = snapshot.look_up(&asked.words)?;
        let mut files = DEPTH.max(wanted);
        loop {
            let (mut vectors, mut words) = self.lists(asked, sieve, &looked_up, files)?;
            let full = distinct(&vectors).max(words.len()) >= files;
            sight.keep_readable([&mut vectors, &mut words]);
            let mut fused = fuse(&words, &vectors, weight);
            if full && fused.files.len() < DEPTH.max(wanted) / 2 && files < DEPTH_MAX {
                files *= 4;
                continue;
            }
            let shown: Vec<FileId> = fused.files.iter().take(wanted).map(|file| file.file).collect();
            let mut further = looked_up.passages_of(&shown, PASSAGES_PER_HIT)?;
            let listed: FxHashSet<PassageId> = words.iter().map(|hit| hit.id).collect();
            further.retain(|hit| !listed.contains(&hit.id));
            fused.add_words(&further, wanted);
            sight.look(shown.iter().copied());
            let with_path = |file: FusedFile| {
                let path = sight.path(file.file).unwrap_or(Path::new("")).to_owned();
                (file, path)
            };
            return Ok(fused.files.into_iter().take(wanted).map(with_path).collect());
        }
    }

    /// The best passages of the best `files` files by vector, and the best passage of each of them by word.
    fn lists(
        &self,
        asked: &Asked,
        sieve: &Sieve<'_>,
        looked_up: &Wanted<'_>,
        files: usize,
    ) -> Result<(Vec<Scored>, Vec<Scored>)> {
        if let Some(space) = &asked.space {
            self.spaces.catch_up(space)?;
        }
        let mirror = self.store.mirror();
        let passes = |file: FileId| Some(file) != asked.except && sieve.passes(&mirror, file);
        let filtered = !sieve.passes_all() || asked.except.is_some();
        let mut vectors = Vec::new();
        match (&asked.vector, &asked.space) {
            (Some(vector), Some(space)) => {
                let selectivity = sieve.selectivity(&mirror);
                let found = self.spaces.search(space, vector, files, &passes, selectivity)?;
                vectors.extend(found.iter().map(|&(file, score)| Scored {
                    id: PassageId::new(file, 0),
                    score,
                }));
            }
            (Some(vector), None) => {
                let test = |id: u64| passes(PassageId(id).file());
                let wanted = files * PASSAGES_PER_FILE;
                let mut params = SearchParams::new(wanted).effort(Effort::Ef(wanted * CANDIDATES));
                if filtered {
                    params = params.filter(VectorFilter::Predicate {
                        test: &test,
                        selectivity: sieve.selectivity(&mirror),
                    });
                }
                let found = asked
                    .model
                    .passages
                    .search(vector, &params)
                    .map_err(vector_error)?;
                vectors.extend(found.iter().map(|n| Scored {
                    id: PassageId(n.id),
                    score: 1.0 - n.distance,
                }));
            }
            (None, _) => {}
        }
        let limit = Limit {
            files,
            passages_per_file: 1,
        };
        let words = looked_up.best(limit, filtered.then_some(&passes as _))?;
        Ok((vectors, words))
    }

    /// A query of conditions alone: the files that meet them, the last changed first.
    fn listed(
        &self,
        sieve: &Sieve<'_>,
        wanted: usize,
        sight: &mut CallersSight<'_>,
    ) -> Result<Vec<(FusedFile, PathBuf)>> {
        let mut found: Vec<(i64, FileId)> = {
            let mirror = self.store.mirror();
            if sieve.passes_all() {
                return Ok(Vec::new());
            }
            mirror
                .iter()
                .filter(|(id, _)| sieve.passes(&mirror, *id))
                .map(|(id, n)| (n.mtime(), id))
                .collect()
        };
        found.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        let mut files = Vec::new();
        for part in found.chunks(wanted.max(DEPTH)) {
            sight.look(part.iter().map(|(_, file)| *file));
            let shown = part
                .iter()
                .filter_map(|(_, file)| Some((*file, sight.path(*file)?.to_owned())));
            files.extend(shown.map(|(file, path)| (FusedFile::alone(file, 1.0), path)));
            if files.len() >= wanted {
                files.truncate(wanted);
                break;
            }
        }
        Ok(files)
    }

    /// The files in a directory, or the one file, that meet a query of conditions alone. Whether the caller may read
    /// them is not asked.
    pub(crate) fn passing(&self, caller: &Caller, conditions: &str, scope: FileId) -> Result<Vec<FileId>> {
        let query = parse(conditions)?;
        if let Some(term) = query
            .groups
            .iter()
            .find(|group| !group.decides())
            .and_then(|group| group.terms.first())
        {
            return Err(Error::Query {
                at: term.at,
                what: "a term that only ranks".into(),
                expected: "conditions: filters, \"phrases\", -words".into(),
            });
        }
        let readable = |path: &Path| self.readable_file(caller, path);
        let snapshot = self.words.snapshot();
        let scope = Some(scope).filter(|&scope| scope != crate::store::file::ROOT);
        let sieve = Sieve::new(&query, scope, &self.store, &snapshot, &readable)?;
        let mirror = self.store.mirror();
        let files = mirror.iter().map(|(id, _)| id);
        Ok(files.filter(|id| sieve.passes(&mirror, *id)).collect())
    }

    /// What the caller may know of.
    pub(crate) fn sight<'s>(&'s self, caller: &'s Caller) -> CallersSight<'s> {
        CallersSight::new(&self.store, self.root.as_fd(), caller)
    }

    /// The hits with their passages and what the catalog says of the files, as of one commit.
    fn hydrate(&self, files: Vec<(FusedFile, PathBuf)>, snapshot: &Snapshot) -> Result<Vec<Hit>> {
        self.store.read(|rows| {
            let hydrated = files.into_iter().map(|(file, path)| {
                let row = rows.file(file.file)?;
                let mut passages = Vec::new();
                for &Scored { id, score } in file.passages.iter().take(PASSAGES_PER_HIT) {
                    let Some(stored) = snapshot.passage(id)? else {
                        continue;
                    };
                    passages.push(HitPassage {
                        start_line: stored.lines.0,
                        end_line: stored.lines.1,
                        start_byte: stored.start,
                        end_byte: stored.start + stored.text.len() as u64,
                        text: stored.text,
                        score,
                    });
                }
                let state = row.as_ref().map(|row| &row.state);
                Ok(Hit {
                    file: file.file,
                    path,
                    score: file.score,
                    score_vec: file.score_vec,
                    score_bm25: file.score_bm25,
                    score_rel: file.score_rel,
                    passages,
                    stale: matches!(state, Some(State::Stale | State::Pending)),
                    generation: row.map(|row| row.indexed).unwrap_or_default(),
                })
            });
            hydrated.collect()
        })
    }
}

/// The question by which an answer is remembered; none where it rests on more than the rights to what it shows: on another
/// file, or on relations.
fn question(
    request: &Request<'_>,
    query: &Query,
    scope: Option<FileId>,
    generation: Generation,
) -> Option<Question> {
    let other = |kind: &TermKind| matches!(kind, TermKind::Filter(Filter::Like(_) | Filter::Linked(..)));
    let mut terms = query.groups.iter().flat_map(|group| &group.terms);
    match request.what {
        What::Text(text) if request.options.mode != Mode::Rel && !terms.any(|term| other(&term.kind)) => {
            Some(Question {
                generation,
                uid: request.caller.uid,
                gid: request.caller.gid,
                scope,
                text: text.to_owned(),
                options: request.options.clone(),
            })
        }
        _ => None,
    }
}

fn distinct(list: &[Scored]) -> usize {
    list.iter()
        .map(|hit| hit.id.file())
        .collect::<FxHashSet<_>>()
        .len()
}

pub(crate) fn vector_error(error: vexfs_vector::Error) -> Error {
    Error::Vector(error.to_string())
}
