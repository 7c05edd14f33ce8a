//! Answering a query: both indexes are asked under the query's conditions, their lists fused, and what the caller may
//! not read taken out before anything is counted or scaled.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use vexfs_vector::{Filter as VectorFilter, SearchParams, Space};

use super::access::readable;
use super::answer::{Answer, Hit, HitPassage};
use super::filter::Sieve;
use super::fuse::{DEPTH, FusedFile, Scored, fuse};
use super::options::{Mode, Options};
use super::parse::{Query, TermKind, parse};
use super::sight::CallersSight;
use super::spaces::ToldSpaces;
use crate::error::{Error, Result};
use crate::fs::ops::Caller;
use crate::ids::{FileId, NodeKey, PassageId};
use crate::semantic::embed::Embedder;
use crate::semantic::lexical::{LexicalIndex, Limit, Snapshot, Words};
use crate::store::Store;
use crate::store::file::State;

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
    /// Vectors of passages.
    pub passages: Arc<Space>,
    /// Vectors that programs set on files.
    pub spaces: Arc<ToldSpaces>,
    /// Words of passages.
    pub words: Arc<LexicalIndex>,
    /// Embeds queries as it embedded the passages.
    pub embedder: Arc<dyn Embedder>,
    /// The backing directory.
    pub root: OwnedFd,
}

/// What the two indexes are asked.
pub(super) struct Asked {
    vector: Option<Vec<f32>>,
    /// The space that the vector is of; the embedder's when absent.
    space: Option<String>,
    words: Words,
    /// The file that the others are compared with is not its own neighbour.
    pub(super) except: Option<FileId>,
}

impl Searcher {
    /// Answers a request.
    pub fn search(&self, request: &Request<'_>) -> Result<Answer> {
        let started = Instant::now();
        let (title, query) = match &request.what {
            What::Text(text) => ((*text).to_owned(), parse(text)?),
            What::Like(path) => (
                format!("like:{}", super::answer::path_text(path)),
                Query::default(),
            ),
            What::Vector { .. } => ("vector".to_owned(), Query::default()),
        };
        let Some(scope) = self.scope(request)? else {
            return Ok(self.answer(title, Vec::new(), false, started));
        };
        let snapshot = self.words.snapshot();
        let readable = |path: &Path| self.readable_file(request.caller, path);
        let sieve = Sieve::new(&query, scope, &self.store, &snapshot, &readable)?;
        let asked = self.asked(request, &query, scope)?;
        let k = request.options.k;
        let files = match request.options.mode {
            Mode::Rel => self.related(request, &asked, &sieve, &snapshot, k + 1)?,
            _ => self.ranked(request, &asked, &sieve, &snapshot, k + 1)?,
        };
        let truncated = files.len() > k;
        let kept = files
            .into_iter()
            .take(k)
            .filter(|(file, _)| file.score >= request.options.min_score);
        let hits = kept
            .map(|(file, path)| self.hydrate(file, path, &snapshot))
            .collect::<Result<Vec<_>>>()?;
        Ok(self.answer(title, hits, truncated, started))
    }

    fn answer(&self, query: String, hits: Vec<Hit>, truncated: bool, started: Instant) -> Answer {
        Answer {
            query,
            generation: self.store.generation(),
            pending: self.store.mirror().counts().pending,
            took: started.elapsed(),
            truncated,
            hits,
        }
    }

    /// The directory to search below, by its id; `Some(None)` for the whole tree, none for a directory of which the
    /// catalog knows nothing: it is kept out, or new.
    fn scope(&self, request: &Request<'_>) -> Result<Option<Option<FileId>>> {
        let mirror = self.store.mirror();
        let mut scope = match request.scope {
            Some(key) => match mirror.id_of(key) {
                Some(id) => Some(id),
                None => return Ok(None),
            },
            None => None,
        };
        if let Some(within) = &request.options.within {
            let base = scope.and_then(|scope| mirror.path(scope)).unwrap_or_default();
            drop(mirror);
            let id = self.store.read(|rows| rows.resolve(&base.join(within)))?;
            scope = Some(id.ok_or_else(|| Error::NotFound(within.clone()))?);
        }
        Ok(Some(scope.filter(|&scope| scope != crate::store::file::ROOT)))
    }

    fn asked(&self, request: &Request<'_>, query: &Query, scope: Option<FileId>) -> Result<Asked> {
        let space = match &request.what {
            What::Vector {
                space: Some(space), ..
            } => Some(space.as_str()),
            _ => query.space().or(request.options.space.as_deref()),
        };
        // The embedder's own name means its space.
        let space = space
            .filter(|space| *space != self.embedder.id())
            .map(str::to_owned);
        let like = match &request.what {
            What::Vector { vector, .. } => {
                let vector = if space.is_some() {
                    vector.clone()
                } else {
                    self.checked(vector)?
                };
                return Ok(Asked {
                    vector: Some(vector),
                    space,
                    words: Words::default(),
                    except: None,
                });
            }
            What::Like(path) => Some(*path),
            What::Text(_) => query.like().map(PathBuf::as_path),
        };
        if let Some(path) = like {
            let base = scope.and_then(|scope| self.store.mirror().path(scope));
            let file = self.readable_file(request.caller, &base.unwrap_or_default().join(path))?;
            let vector = match &space {
                Some(space) => self
                    .store
                    .read(|rows| rows.vector(file, space))?
                    .map(|told| told.value),
                None => self.centroid(file)?,
            };
            return Ok(Asked {
                vector,
                space,
                words: words(query),
                except: Some(file),
            });
        }
        let text = query.text();
        if let (Some(space), false) = (&space, text.is_empty()) {
            let what =
                format!("space {space:?} has no model of its own: search it by like:PATH or by a vector");
            return Err(Error::Invalid(what));
        }
        let vector = match text.is_empty() || request.options.mode == Mode::Text {
            true => None,
            false => self.embedded(&text)?,
        };
        let words = if request.options.mode == Mode::Vec {
            Words::default()
        } else {
            words(query)
        };
        Ok(Asked {
            vector,
            space: None,
            words,
            except: None,
        })
    }

    /// The query's vector; none for a text of unknown words, which is similar to nothing.
    fn embedded(&self, text: &str) -> Result<Option<Vec<f32>>> {
        let mut vector = vec![0.0; self.embedder.dim()];
        self.embedder.embed(&[text], &mut vector)?;
        Ok(vector.iter().any(|&x| x != 0.0).then_some(vector))
    }

    /// The file at a path below the root, for a caller who may read it. To others it is not there.
    fn readable_file(&self, caller: &Caller, path: &Path) -> Result<FileId> {
        let missing = || Error::NotFound(super::answer::path_text(path));
        let file = self.store.read(|rows| rows.resolve(path))?.ok_or_else(missing)?;
        match readable(self.root.as_fd(), caller, &[path.to_owned()])[..] {
            [true] => Ok(file),
            _ => Err(missing()),
        }
    }

    fn checked(&self, vector: &[f32]) -> Result<Vec<f32>> {
        if vector.len() == self.embedder.dim() {
            return Ok(vector.to_vec());
        }
        Err(Error::Invalid(format!(
            "vector of {} components, expected {}",
            vector.len(),
            self.embedder.dim()
        )))
    }

    /// The mean of a file's passage vectors; none when it has none.
    fn centroid(&self, file: FileId) -> Result<Option<Vec<f32>>> {
        let passages = self.store.read(|rows| rows.passages(file))?;
        let mut sum = vec![0.0f32; self.embedder.dim()];
        let mut one = Vec::new();
        let mut found = false;
        for row in passages.known() {
            if self
                .passages
                .get(PassageId::new(file, row.slot).0, &mut one)
                .map_err(vector_error)?
            {
                found = true;
                sum.iter_mut().zip(&one).for_each(|(sum, x)| *sum += x);
            }
        }
        Ok(found.then_some(sum))
    }

    /// The best files that the caller may read, with their paths. Lists are asked for longer until enough of their
    /// files may be read or nothing is left.
    pub(super) fn ranked(
        &self,
        request: &Request<'_>,
        asked: &Asked,
        sieve: &Sieve<'_>,
        snapshot: &Snapshot,
        wanted: usize,
    ) -> Result<Vec<(FusedFile, PathBuf)>> {
        let weight = match (
            &asked.vector,
            asked.words.any.is_empty() && asked.words.all.is_empty(),
        ) {
            (None, true) => return self.listed(request, sieve, wanted),
            // With one list empty the other has all the weight.
            _ => self.embedder.hybrid_weight(),
        };
        let mut files = DEPTH.max(wanted);
        let mut sight = self.sight(request.caller);
        loop {
            let (mut vectors, mut words) = self.lists(asked, sieve, snapshot, files)?;
            let full = distinct(&vectors).max(distinct(&words)) >= files;
            sight.look(vectors.iter().chain(&words).map(|hit| hit.id.file()));
            let allowed = |hit: &Scored| sight.path(hit.id.file()).is_some();
            vectors.retain(allowed);
            words.retain(allowed);
            let ranked = fuse(&words, &vectors, weight);
            if !full || ranked.len() >= DEPTH.max(wanted) / 2 || files >= DEPTH_MAX {
                let path = |file: &FusedFile| sight.path(file.file).unwrap_or(Path::new("")).to_owned();
                let best = ranked.into_iter().take(wanted);
                return Ok(best
                    .map(|file| {
                        let path = path(&file);
                        (file, path)
                    })
                    .collect());
            }
            files *= 4;
        }
    }

    /// The best passages of the best `files` files in each index.
    fn lists(
        &self,
        asked: &Asked,
        sieve: &Sieve<'_>,
        snapshot: &Snapshot,
        files: usize,
    ) -> Result<(Vec<Scored>, Vec<Scored>)> {
        let mirror = self.store.mirror();
        let passes = |file: FileId| Some(file) != asked.except && sieve.passes(&mirror, file);
        let filtered = !sieve.passes_all() || asked.except.is_some();
        let mut vectors = Vec::new();
        match (&asked.vector, &asked.space) {
            (Some(vector), Some(space)) => {
                let found = self.spaces.search(space, vector, files, &passes)?;
                vectors.extend(found.iter().map(|&(file, score)| Scored {
                    id: PassageId::new(file, 0),
                    score,
                }));
            }
            (Some(vector), None) => {
                let test = |id: u64| passes(PassageId(id).file());
                let mut params = SearchParams::new(files * PASSAGES_PER_HIT);
                if filtered {
                    params = params.filter(VectorFilter::Predicate {
                        test: &test,
                        selectivity: 0.5,
                    });
                }
                let found = self.passages.search(vector, &params).map_err(vector_error)?;
                vectors.extend(found.iter().map(|n| Scored {
                    id: PassageId(n.id),
                    score: 1.0 - n.distance,
                }));
            }
            (None, _) => {}
        }
        let limit = Limit {
            files,
            passages_per_file: PASSAGES_PER_HIT,
        };
        let words = snapshot.search(&asked.words, limit, filtered.then_some(&passes as _))?;
        Ok((vectors, words))
    }

    /// A query of conditions alone: the files that meet them, the last changed first.
    fn listed(
        &self,
        request: &Request<'_>,
        sieve: &Sieve<'_>,
        wanted: usize,
    ) -> Result<Vec<(FusedFile, PathBuf)>> {
        let mut found: Vec<(i64, FileId)> = {
            let mirror = self.store.mirror();
            if sieve.passes_all() {
                return Ok(Vec::new());
            }
            mirror
                .iter()
                .filter(|(id, _)| sieve.passes(&mirror, *id))
                .map(|(id, n)| (n.facts.mtime, id))
                .collect()
        };
        found.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        let mut files = Vec::new();
        let mut sight = self.sight(request.caller);
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

    fn hydrate(&self, file: FusedFile, path: PathBuf, snapshot: &Snapshot) -> Result<Hit> {
        let (row, rows) = self
            .store
            .read(|rows| Ok((rows.file(file.file)?, rows.passages(file.file)?)))?;
        let mut passages = Vec::new();
        for &Scored { id, score } in file.passages.iter().take(PASSAGES_PER_HIT) {
            let Some(stored) = snapshot.passage(id)? else {
                continue;
            };
            let bytes = rows
                .known()
                .iter()
                .find(|row| row.slot == id.slot())
                .map(|row| row.bytes.clone());
            let bytes = bytes.unwrap_or_default();
            passages.push(HitPassage {
                start_line: stored.lines.0,
                end_line: stored.lines.1,
                start_byte: bytes.start.into(),
                end_byte: bytes.end.into(),
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
    }
}

/// The words that rank, and the phrases of which each must occur in a passage that is found by words.
fn words(query: &Query) -> Words {
    let phrase = |term: &super::parse::Term| match &term.kind {
        TermKind::Phrase(text) if !term.excluded => Some(text.clone()),
        _ => None,
    };
    let all = query
        .groups
        .iter()
        .filter_map(|group| group.terms.iter().map(phrase).collect::<Option<Vec<_>>>());
    Words {
        any: query.ranking().map(str::to_owned).collect(),
        all: all.collect(),
    }
}

fn distinct(list: &[Scored]) -> usize {
    list.iter().map(|hit| hit.id.file()).collect::<HashSet<_>>().len()
}

pub(crate) fn vector_error(error: vexfs_vector::Error) -> Error {
    Error::Vector(error.to_string())
}
