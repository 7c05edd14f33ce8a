//! Answers of a tree that differs from the catalog in a few files: what a transaction's `root` shows.
//!
//! The catalog's answer, without the files that are other or gone there and with the names that moved ones have, is
//! ranked anew together with the staged files, whose texts are split, embedded and scored when they are asked about:
//! nothing of them is written anywhere. Similarities are those that the index would give. BM25 takes the rarity of words
//! from the index, so staged files stand about where they will after the commit.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::answer::{Answer, Hit, HitPassage};
use super::asked::embedded;
use super::fuse::DEPTH;
use super::kinds::{self, FileType};
use super::model::Model;
use super::options::{Mode, Options};
use super::parse::{Filter, Query, TermKind, parse};
use super::search::{Fresh, Request, Searcher, What};
use crate::error::Result;
use crate::ids::{FileId, Generation, Ino, NodeKey};
use crate::semantic::embed::StaticModel;
use crate::semantic::extract::{Limits, Outcome, Workers, extract};
use crate::semantic::lexical::{Analyzer, Snapshot};
use crate::semantic::passages::Passage;

/// Files that the catalog is asked for where any of them may have moved into the scope, or out of it.
const MOVED_DEPTH: usize = 1_000;
/// Staged files that are read for one answer; further ones are not found, and the answer says that there are more.
const STAGED_MAX: usize = 2_000;

/// BM25's parameters, as in the lexical index.
const K1: f32 = 1.2;
const B: f32 = 0.75;
/// Words that a passage has on the average.
const MEAN_WORDS: f32 = 80.0;
/// How much more a word of the name counts, as in the lexical index.
const NAME_BOOST: f32 = 0.5;

/// How a tree differs from the catalog.
pub(crate) struct Overlay<'a> {
    /// The directory to search below, by its path in the tree.
    pub(crate) dir: PathBuf,
    /// The same directory in the catalog, if it is there.
    pub(crate) base: Option<NodeKey>,
    /// Paths of the catalog that lead elsewhere, with everything below: to a path in the tree, or nowhere.
    pub(crate) moved: BTreeMap<PathBuf, Option<PathBuf>>,
    /// Files with content of their own that the caller may read.
    pub(crate) staged: Vec<Staged>,
    /// The content of a staged file.
    pub(crate) read: &'a dyn Fn(&Staged) -> Result<Vec<u8>>,
    /// The value of an attribute of a staged file.
    pub(crate) told: &'a dyn Fn(&Staged, &str) -> Option<Vec<u8>>,
}

/// A file of the tree that differs from the catalog's.
pub(crate) struct Staged {
    /// Its path in the tree.
    pub(crate) path: PathBuf,
    /// What the tree knows it by.
    pub(crate) number: u64,
    /// In bytes.
    pub(crate) size: u64,
    /// Seconds since the epoch.
    pub(crate) mtime: i64,
}

impl Overlay<'_> {
    /// Where the tree has a file of the catalog as it is, if it has.
    fn place(&self, path: &Path) -> Option<PathBuf> {
        for above in path.ancestors() {
            match self.moved.get(above) {
                Some(Some(to)) => {
                    let rest = path.strip_prefix(above).unwrap_or(Path::new(""));
                    let empty = rest.as_os_str().is_empty();
                    return Some(if empty { to.clone() } else { to.join(rest) });
                }
                Some(None) => return None,
                None => {}
            }
        }
        Some(path.to_owned())
    }
}

impl Searcher {
    /// Answers a request about a tree that differs from the catalog.
    pub(crate) fn search_overlaid(&self, request: &Request<'_>, overlay: &Overlay<'_>) -> Result<Answer> {
        let within = request.options.within.as_deref().unwrap_or("");
        let dir = match within.is_empty() {
            true => overlay.dir.clone(),
            false => overlay.dir.join(within),
        };
        let mut answer = self.base_answer(request, overlay)?;
        answer.hits.retain_mut(|hit| match overlay.place(&hit.path) {
            Some(path) if path.starts_with(&dir) => {
                hit.path = path;
                true
            }
            _ => false,
        });
        let query = match &request.what {
            What::Text(text) if request.options.mode != Mode::Rel => Some((parse(text)?, None)),
            // A vector of the model's own space.
            What::Vector { space: None, vector } => Some((Query::default(), Some(&**vector))),
            _ => None,
        };
        if let Some((query, vector)) = query {
            answer.truncated |= overlay.staged.len() > STAGED_MAX;
            let found = self.staged_hits((&query, vector), &dir, overlay, request.options)?;
            if !found.is_empty() {
                answer.hits.extend(found);
                self.rank(&mut answer.hits, request.options.mode);
            }
        }
        answer.hits.retain(|hit| hit.score >= request.options.min_score);
        answer.truncated |= answer.hits.len() > request.options.k;
        answer.hits.truncate(request.options.k);
        Ok(answer)
    }

    /// What the catalog says, deep enough for the scales and for what is taken out.
    fn base_answer(&self, request: &Request<'_>, overlay: &Overlay<'_>) -> Result<Answer> {
        let moves = overlay.moved.values().any(Option::is_some) || request.options.within.is_some();
        let lost = overlay.moved.len() + overlay.staged.len();
        let depth = if moves { MOVED_DEPTH } else { DEPTH };
        let options = Options {
            k: depth.max(request.options.k + lost),
            within: None,
            min_score: 0.0,
            ..request.options.clone()
        };
        let scope = match (moves, overlay.dir.as_os_str().is_empty()) {
            (true, _) | (_, true) => None,
            (false, false) => match overlay.base {
                Some(key) => Some(key),
                None => return Ok(nothing(request, self.store.generation())),
            },
        };
        self.search(&Request {
            scope,
            options: &options,
            what: request.what.clone(),
            fresh: Fresh::default(),
            ..*request
        })
    }

    fn staged_hits(
        &self,
        (query, vector): (&Query, Option<&[f32]>),
        dir: &Path,
        overlay: &Overlay<'_>,
        options: &Options,
    ) -> Result<Vec<Hit>> {
        if query.like().is_some() || query.space().is_some() || options.space.is_some() {
            // Ranked by what is stored of files.
            return Ok(Vec::new());
        }
        let snapshot = self.words.snapshot();
        let mut asked = Asked::new(self, query, &snapshot, options.mode)?;
        asked.vector = vector.map(<[f32]>::to_vec).or(asked.vector);
        let workers = Workers::if_declared(Limits::default());
        let mut found = Vec::new();
        let here = overlay
            .staged
            .iter()
            .filter(|staged| staged.path.starts_with(dir));
        for staged in here.take(STAGED_MAX) {
            let name = staged.path.file_name().unwrap_or_default();
            let Ok(Outcome::Text(extracted)) =
                (overlay.read)(staged).map(|content| extract(name, &content, &workers))
            else {
                continue;
            };
            let text = &extracted.text;
            let below = staged.path.strip_prefix(dir).unwrap_or(&staged.path);
            let told = |attribute: &str| (overlay.told)(staged, attribute);
            if !passes(query, staged, below, text, &told) {
                continue;
            }
            let cut = extracted.passages(StaticModel::built_in().tokenizer());
            if let Some(hit) = asked.hit(self, staged, text, &cut)? {
                found.push(hit);
            }
        }
        Ok(found)
    }

    /// Scales both scores over all hits and adds them, as for the catalog alone.
    fn rank(&self, hits: &mut [Hit], mode: Mode) {
        let scale = |scores: &dyn Fn(&Hit) -> Option<f32>| {
            let known = hits.iter().filter_map(scores);
            known.fold(None, |range: Option<(f32, f32)>, score| {
                Some(range.map_or((score, score), |(low, high)| (low.min(score), high.max(score))))
            })
        };
        let vectors = scale(&|hit| hit.score_vec);
        let words = scale(&|hit| hit.score_bm25);
        let weight = match (mode, vectors, words) {
            (Mode::Vec, ..) | (_, _, None) => 1.0,
            (Mode::Text, ..) | (_, None, _) => 0.0,
            _ => self.model.load().embedder.hybrid_weight(),
        };
        if vectors.is_none() && words.is_none() {
            // Conditions alone: all hold for each.
            return;
        }
        for hit in hits.iter_mut() {
            let vector = hit.score_vec.map_or(0.0, |score| scaled(vectors, score));
            let word = hit.score_bm25.map_or(0.0, |score| scaled(words, score));
            hit.score = weight * vector + (1.0 - weight) * word;
            if Ino(hit.file.0).is_staged() {
                // Until now on no scale.
                hit.passages
                    .iter_mut()
                    .for_each(|passage| passage.score = hit.score);
            }
        }
        hits.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| a.path.cmp(&b.path)));
    }
}

fn scaled(range: Option<(f32, f32)>, score: f32) -> f32 {
    match range {
        Some((low, high)) if high > low => (score - low) / (high - low),
        _ => 1.0,
    }
}

pub(crate) fn nothing(request: &Request<'_>, generation: Generation) -> Answer {
    let query = match &request.what {
        What::Text(text) => (*text).to_owned(),
        _ => String::new(),
    };
    Answer {
        query,
        generation,
        pending: 0,
        took: Duration::ZERO,
        truncated: false,
        hits: Vec::new(),
    }
}

/// What passages are compared with.
struct Asked {
    model: Arc<Model>,
    vector: Option<Vec<f32>>,
    /// Words with their rarity.
    words: FxHashMap<String, f32>,
}

impl Asked {
    fn new(searcher: &Searcher, query: &Query, snapshot: &Snapshot, mode: Mode) -> Result<Asked> {
        let text = query.text();
        let model = searcher.model.load_full();
        let vector = match text.is_empty() || mode == Mode::Text {
            true => None,
            false => embedded(&model, &text)?,
        };
        let mut words = FxHashMap::default();
        if mode != Mode::Vec {
            let all = snapshot.passages() as f32;
            for (_, word) in Analyzer::default().terms(&text) {
                let with = snapshot.files_with(&word)?.len() as f32;
                let rarity = (1.0 + (all - with).max(0.0) / (with + 0.5)).ln();
                words.insert(word, rarity.max(0.01));
            }
        }
        Ok(Asked { model, vector, words })
    }

    /// A file's hit: by its best passages, by its conditions if nothing ranks, none if nothing of it matches.
    fn hit(&self, searcher: &Searcher, staged: &Staged, text: &str, cut: &[Passage]) -> Result<Option<Hit>> {
        let name = staged
            .path
            .file_name()
            .and_then(OsStr::to_str)
            .unwrap_or_default();
        let similar = self.similarities(text, cut)?;
        let mut best: Vec<(f32, usize)> = Vec::new();
        let (mut score_vec, mut score_bm25) = (None::<f32>, None::<f32>);
        for (at, passage) in cut.iter().enumerate() {
            let word = self.bm25(&text[passage.bytes.clone()], &passage.title(name));
            let vector = similar.get(at).copied();
            score_vec = score_vec.max_with(vector);
            score_bm25 = score_bm25.max_with(word);
            best.push((vector.unwrap_or(0.0) + word.unwrap_or(0.0), at));
        }
        let ranks = self.vector.is_some() || !self.words.is_empty();
        if ranks && score_vec.is_none() && score_bm25.is_none() {
            return Ok(None);
        }
        best.sort_by(|a, b| b.0.total_cmp(&a.0));
        let shown = best.iter().take(usize::from(ranks));
        Ok(Some(Hit {
            file: FileId(staged.number),
            path: staged.path.clone(),
            score: 1.0,
            score_vec,
            score_bm25,
            score_rel: None,
            passages: shown
                .map(|(score, at)| shown_passage(text, &cut[*at], *score))
                .collect(),
            stale: false,
            generation: searcher.store.generation(),
        }))
    }

    fn similarities(&self, text: &str, cut: &[Passage]) -> Result<Vec<f32>> {
        let Some(vector) = self.vector.as_ref().filter(|_| !cut.is_empty()) else {
            return Ok(Vec::new());
        };
        let inputs: Vec<_> = cut.iter().map(|passage| passage.embedded(text)).collect();
        let inputs: Vec<&str> = inputs.iter().map(|input| &**input).collect();
        let mut rows = vec![0.0; inputs.len() * vector.len()];
        self.model.embedder.embed(&inputs, &mut rows)?;
        let length = |row: &[f32]| row.iter().map(|x| x * x).sum::<f32>().sqrt();
        let cosine = |row: &[f32]| {
            let dot: f32 = row.iter().zip(vector).map(|(a, b)| a * b).sum();
            let lengths = length(row) * length(vector);
            if lengths > 0.0 { dot / lengths } else { 0.0 }
        };
        Ok(rows.chunks(vector.len()).map(cosine).collect())
    }

    fn bm25(&self, body: &str, title: &str) -> Option<f32> {
        let mut analyzer = Analyzer::default();
        let (body, title) = (analyzer.terms(body), analyzer.terms(title));
        let count =
            |terms: &[(usize, String)], word: &str| terms.iter().filter(|(_, term)| term == word).count();
        let long = K1 * (1.0 - B + B * body.len() as f32 / MEAN_WORDS);
        let mut sum = 0.0;
        for (word, rarity) in &self.words {
            let times = count(&body, word) as f32;
            sum += rarity * times * (K1 + 1.0) / (times + long);
            let named = count(&title, word) as f32;
            sum += NAME_BOOST * rarity * named * (K1 + 1.0) / (named + K1);
        }
        (sum > 0.0).then_some(sum)
    }
}

trait MaxWith {
    /// The greater of both, if either is there.
    fn max_with(self, other: Self) -> Self;
}

impl MaxWith for Option<f32> {
    fn max_with(self, other: Option<f32>) -> Option<f32> {
        match (self, other) {
            (Some(one), Some(other)) => Some(one.max(other)),
            (one, other) => one.or(other),
        }
    }
}

fn shown_passage(text: &str, passage: &Passage, score: f32) -> HitPassage {
    HitPassage {
        start_line: passage.first_line,
        end_line: passage.last_line,
        start_byte: passage.bytes.start as u64,
        end_byte: passage.bytes.end as u64,
        text: text[passage.bytes.clone()].to_owned(),
        score,
    }
}

/// Whether a staged file meets a query's conditions.
fn passes(
    query: &Query,
    staged: &Staged,
    below: &Path,
    text: &str,
    told: &dyn Fn(&str) -> Option<Vec<u8>>,
) -> bool {
    query.conditions().all(|group| {
        group.terms.iter().any(|term| {
            let holds = match &term.kind {
                TermKind::Word(words) | TermKind::Phrase(words) => occurs(text, words),
                TermKind::Filter(filter) => holds(filter, staged, below, told),
            };
            holds != term.excluded
        })
    })
}

/// Whether words stand in a text one after another.
fn occurs(text: &str, words: &str) -> bool {
    let mut analyzer = Analyzer::default();
    let wanted: Vec<String> = analyzer.terms(words).into_iter().map(|(_, term)| term).collect();
    let terms: Vec<String> = analyzer.terms(text).into_iter().map(|(_, term)| term).collect();
    wanted.is_empty() || terms.windows(wanted.len()).any(|part| part == wanted)
}

fn holds(filter: &Filter, staged: &Staged, below: &Path, told: &dyn Fn(&str) -> Option<Vec<u8>>) -> bool {
    let name = staged.path.file_name().unwrap_or_default();
    match filter {
        Filter::Path(globs) => globs.is_match(below),
        Filter::Name(globs) => globs.is_match(Path::new(name)),
        Filter::Ext(extension) => {
            let dotted = format!(".{extension}");
            kinds::extension(name).is_some_and(|found| found == *extension)
                || name
                    .to_str()
                    .is_some_and(|name| name.to_lowercase().ends_with(&dotted))
        }
        Filter::Type(wanted) => FileType::of_name(name) == Some(*wanted),
        Filter::Size(size) => size.holds(staged.size),
        Filter::Mtime(time) => time.holds(staged.mtime),
        Filter::Tag(tag) => told(&format!("user.vexfs.tag.{tag}")).is_some(),
        Filter::Meta(key, value) => told(&format!("user.vexfs.meta.{key}"))
            .is_some_and(|found| value.as_ref().is_none_or(|value| value.as_bytes() == found)),
        // What is related is known of committed files.
        Filter::Linked(..) => false,
        Filter::Like(_) | Filter::Space(_) => true,
    }
}
