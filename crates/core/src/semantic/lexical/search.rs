//! Reading the lexical index.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use rustc_hash::FxHashMap;
use tantivy::query::{
    BooleanQuery, BoostQuery, ConstScoreQuery, EnableScoring, Occur, PhraseQuery, Query, TermQuery, Weight,
};
use tantivy::schema::{Field, IndexRecordOption, Value};
use tantivy::{DocAddress, DocSet, Searcher, SegmentReader, TERMINATED, TantivyDocument, Term};

use super::statistics::{Counts, Statistics};
use super::{Analyzer, Fields};
use crate::error::{Error, Result};
use crate::ids::{FileId, PassageId};

/// How much more a word counts in file name and headings than in the text.
const TITLE_BOOST: f32 = 0.5;
/// Words of one query that are looked up, the rarest kept by no order but their own: a pasted page is still answered.
const TERMS_MAX: usize = 256;

/// What to look for.
#[derive(Clone, Debug, Default)]
pub struct Words {
    /// Words that a passage may have; they make its score.
    pub any: Vec<String>,
    /// Each is a list of words or phrases of which the passage must have one. They count in its score.
    pub all: Vec<Vec<String>>,
}

/// How many hits.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// Files at most.
    pub files: usize,
    /// Passages of one file at most.
    pub passages_per_file: usize,
}

/// A passage and its score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hit {
    /// The passage.
    pub id: PassageId,
    /// The higher the better; comparable only within one answer.
    pub score: f32,
}

/// A passage as it was indexed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredPassage {
    /// File name and headings.
    pub title: String,
    /// The text.
    pub text: String,
    /// First and last line in the file, from 1.
    pub lines: (u32, u32),
    /// The byte of the extracted text at which it begins.
    pub start: u64,
}

/// The index as of one commit.
#[derive(Clone)]
pub struct Snapshot {
    searcher: Searcher,
    statistics: Arc<Statistics>,
    fields: Fields,
}

impl Snapshot {
    /// `before` are the counts of an earlier version, which save counting what did not change.
    pub(super) fn new(searcher: Searcher, fields: Fields, before: &Statistics) -> Result<Snapshot> {
        let statistics = Arc::new(Statistics::of(&searcher, fields, before)?);
        Ok(Snapshot {
            searcher,
            statistics,
            fields,
        })
    }

    pub(super) fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// Passages indexed.
    pub fn passages(&self) -> u64 {
        self.searcher.num_docs()
    }

    /// Every passage, in no order.
    pub fn ids(&self) -> Result<Vec<PassageId>> {
        let mut ids = Vec::new();
        for segment in self.searcher.segment_readers() {
            let passages = segment.fast_fields().u64("passage")?;
            ids.extend(
                segment
                    .doc_ids_alive()
                    .filter_map(|doc| passages.first(doc))
                    .map(PassageId),
            );
        }
        Ok(ids)
    }

    /// The best passages of the best files among those that `allowed` lets pass, the best first, ties in the order of
    /// ids. The filter is asked while the lists are walked, so a narrow one costs no hits. No words give no hits.
    pub fn search(
        &self,
        words: &Words,
        limit: Limit,
        allowed: Option<&(dyn Fn(FileId) -> bool + Sync)>,
    ) -> Result<Vec<Hit>> {
        let Some(query) = self.query(words) else {
            return Ok(Vec::new());
        };
        let weight = self.scoring(&*query)?;
        let mut best = Best::new(limit.files);
        for segment in self.searcher.segment_readers() {
            self.walk(&*weight, segment, allowed, best.threshold, |hit| best.push(hit))?;
        }
        let best = best.into_sorted();
        if limit.passages_per_file <= 1 {
            return Ok(best);
        }
        let files: Vec<FileId> = best.iter().map(|hit| hit.id.file()).collect();
        self.passages_of(&files, words, limit.passages_per_file)
    }

    /// The best passages of these files, the best first, ties in the order of ids; scored as [`Snapshot::search`] does.
    /// Costs only as much as the files have passages.
    pub fn passages_of(&self, files: &[FileId], words: &Words, per_file: usize) -> Result<Vec<Hit>> {
        let Some(query) = self.query(words).filter(|_| !files.is_empty()) else {
            return Ok(Vec::new());
        };
        let of_file = |file: &FileId| -> Box<dyn Query> {
            let term = Term::from_field_u64(self.fields.file, file.0);
            Box::new(TermQuery::new(term, IndexRecordOption::Basic))
        };
        let among = BooleanQuery::union(files.iter().map(of_file).collect());
        let among: Box<dyn Query> = Box::new(ConstScoreQuery::new(Box::new(among), 0.0));
        let both = BooleanQuery::intersection(vec![among, query]);
        let weight = self.scoring(&both)?;
        let mut of_file: FxHashMap<FileId, Vec<Hit>> = FxHashMap::default();
        for segment in self.searcher.segment_readers() {
            self.walk(&*weight, segment, None, f32::MIN, |hit| {
                of_file.entry(hit.id.file()).or_default().push(hit);
                f32::MIN
            })?;
        }
        let mut hits: Vec<Hit> = of_file
            .into_values()
            .flat_map(|hits| head(hits, per_file))
            .collect();
        hits.sort_unstable_by(by_rank);
        Ok(hits)
    }

    fn scoring(&self, query: &dyn Query) -> Result<Box<dyn Weight>> {
        let counts = Counts {
            searcher: &self.searcher,
            statistics: &self.statistics,
            fields: self.fields,
        };
        let scoring = EnableScoring::enabled_from_statistics_provider(&counts, &self.searcher);
        Ok(query.weight(scoring)?)
    }

    /// Gives every allowed hit above the threshold, which `each` may raise.
    fn walk(
        &self,
        weight: &dyn Weight,
        segment: &SegmentReader,
        allowed: Option<&(dyn Fn(FileId) -> bool + Sync)>,
        mut threshold: f32,
        mut each: impl FnMut(Hit) -> f32,
    ) -> Result<()> {
        let passages = segment.fast_fields().u64("passage")?;
        let alive = segment.alive_bitset();
        let mut damaged = None;
        weight.for_each_pruning(threshold, segment, &mut |doc, score| {
            if alive.is_none_or(|alive| alive.is_alive(doc)) {
                match passages.first(doc).map(PassageId) {
                    Some(id) if allowed.is_none_or(|allowed| allowed(id.file())) => {
                        threshold = each(Hit { id, score });
                    }
                    Some(_) => {}
                    None => damaged = Some(doc),
                }
            }
            threshold
        })?;
        match damaged {
            Some(doc) => Err(Error::Corrupt {
                what: "lexical index".into(),
                at: format!("document {doc}"),
            }),
            None => Ok(()),
        }
    }

    /// The files with a passage that has this word or phrase.
    pub fn files_with(&self, text: &str) -> Result<HashSet<FileId>> {
        let mut files = HashSet::new();
        let Some(query) = self.literal(text) else {
            return Ok(files);
        };
        let weight = query.weight(EnableScoring::disabled_from_searcher(&self.searcher))?;
        for segment in self.searcher.segment_readers() {
            let passages = segment.fast_fields().u64("passage")?;
            let alive = segment.alive_bitset();
            weight.for_each_no_score(segment, &mut |docs| {
                let docs = docs
                    .iter()
                    .filter(|doc| alive.is_none_or(|alive| alive.is_alive(**doc)));
                files.extend(
                    docs.filter_map(|doc| passages.first(*doc))
                        .map(|id| PassageId(id).file()),
                );
            })?;
        }
        Ok(files)
    }

    /// The passage as it was indexed; none when it is not in this snapshot.
    pub fn passage(&self, id: PassageId) -> Result<Option<StoredPassage>> {
        for (number, segment) in self.searcher.segment_readers().iter().enumerate() {
            if let Some(doc) = self.find(segment, id)? {
                let document: TantivyDocument = self.searcher.doc(DocAddress::new(number as u32, doc))?;
                let text = |field| {
                    document
                        .get_first(field)
                        .and_then(|v| v.as_str())
                        .unwrap_or("")
                        .to_owned()
                };
                let number = |field| document.get_first(field).and_then(|v| v.as_u64()).unwrap_or(0);
                let lines = number(self.fields.lines);
                return Ok(Some(StoredPassage {
                    title: text(self.fields.title),
                    text: text(self.fields.body),
                    lines: ((lines >> 32) as u32, lines as u32),
                    start: number(self.fields.start),
                }));
            }
        }
        Ok(None)
    }

    fn find(&self, segment: &SegmentReader, id: PassageId) -> Result<Option<u32>> {
        let term = Term::from_field_u64(self.fields.passage, id.0);
        let postings = segment
            .inverted_index(self.fields.passage)?
            .read_postings(&term, IndexRecordOption::Basic)?;
        let Some(mut postings) = postings else {
            return Ok(None);
        };
        let alive = segment.alive_bitset();
        while postings.doc() != TERMINATED {
            if alive.is_none_or(|alive| alive.is_alive(postings.doc())) {
                return Ok(Some(postings.doc()));
            }
            postings.advance();
        }
        Ok(None)
    }

    fn query(&self, words: &Words) -> Option<Box<dyn Query>> {
        let mut counts: BTreeMap<String, f32> = BTreeMap::new();
        let mut analyzer = Analyzer::default();
        for (_, term) in words
            .any
            .iter()
            .flat_map(|word| analyzer.terms(word))
            .take(TERMS_MAX)
        {
            *counts.entry(term).or_default() += 1.0;
        }
        let mut clauses = Vec::new();
        for (term, count) in counts {
            clauses.push((Occur::Should, self.term(self.fields.body, &term, count)));
            clauses.push((
                Occur::Should,
                self.term(self.fields.title, &term, count * TITLE_BOOST),
            ));
        }
        for alternatives in &words.all {
            let queries: Vec<_> = alternatives
                .iter()
                .filter_map(|text| self.literal(text))
                .collect();
            if !queries.is_empty() {
                clauses.push((
                    Occur::Must,
                    Box::new(BooleanQuery::union(queries)) as Box<dyn Query>,
                ));
            }
        }
        (!clauses.is_empty()).then(|| Box::new(BooleanQuery::new(clauses)) as Box<dyn Query>)
    }

    fn term(&self, field: Field, term: &str, boost: f32) -> Box<dyn Query> {
        let query = TermQuery::new(Term::from_field_text(field, term), IndexRecordOption::WithFreqs);
        if boost == 1.0 {
            Box::new(query)
        } else {
            Box::new(BoostQuery::new(Box::new(query), boost))
        }
    }

    /// A word or phrase in text or title; none when it has no words but stop words.
    fn literal(&self, text: &str) -> Option<Box<dyn Query>> {
        let mut terms = Analyzer::default().terms(text);
        // Of an identifier its words are enough: the whole stands where its first word stands.
        let first_of: HashMap<usize, usize> = terms.iter().enumerate().map(|(i, (at, _))| (*at, i)).collect();
        let mut index = 0;
        terms.retain(|(at, _)| {
            index += 1;
            first_of[at] == index - 1
        });
        let in_field = |field: Field| -> Box<dyn Query> {
            match &terms[..] {
                [(_, term)] => self.term(field, term, 1.0),
                _ => Box::new(PhraseQuery::new_with_offset(
                    terms
                        .iter()
                        .map(|(at, term)| (*at, Term::from_field_text(field, term)))
                        .collect(),
                )),
            }
        };
        if terms.is_empty() {
            return None;
        }
        Some(Box::new(BooleanQuery::union(vec![
            in_field(self.fields.body),
            in_field(self.fields.title),
        ])))
    }
}

/// The best first, ties in the order of ids.
fn by_rank(a: &Hit, b: &Hit) -> std::cmp::Ordering {
    b.score.total_cmp(&a.score).then(a.id.cmp(&b.id))
}

fn head(mut hits: Vec<Hit>, count: usize) -> Vec<Hit> {
    hits.sort_unstable_by(by_rank);
    hits.truncate(count);
    hits
}

/// The best passage of each of the best files so far.
struct Best {
    files: usize,
    hits: Vec<Hit>,
    /// Just below the score of the last file, so that a tie is still seen and decided by its id.
    threshold: f32,
}

impl Best {
    fn new(files: usize) -> Best {
        Best {
            files,
            hits: Vec::new(),
            threshold: f32::MIN,
        }
    }

    fn push(&mut self, hit: Hit) -> f32 {
        self.hits.push(hit);
        if self.hits.len() >= 4 * self.files.max(16) {
            self.shrink();
        }
        self.threshold
    }

    /// Keeps what may still be in the answer, in order.
    fn shrink(&mut self) {
        self.hits.sort_unstable_by(by_rank);
        let mut seen = HashSet::new();
        let files = self.files;
        self.hits
            .retain(|hit| seen.len() < files && seen.insert(hit.id.file()));
        if let Some(last) = self.hits.last().filter(|_| seen.len() == files) {
            self.threshold = last.score.next_down();
        }
    }

    fn into_sorted(mut self) -> Vec<Hit> {
        self.shrink();
        self.hits
    }
}
