//! Reading the lexical index.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};
use tantivy::columnar::Column;
use tantivy::fastfield::AliveBitSet;
use tantivy::query::{BooleanQuery, EnableScoring, PhraseQuery, Query, TermQuery};
use tantivy::schema::{Field, IndexRecordOption, Value};
use tantivy::{DocAddress, DocId, DocSet, Searcher, SegmentReader, TERMINATED, TantivyDocument, Term};

use super::scoring::{Scoring, Sum};
use super::statistics::{Counts, Statistics};
use super::{Analyzer, Fields};
use crate::error::{Error, Result};
use crate::ids::{FileId, PassageId};

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
    /// The ids of the documents, by segment.
    ids: Arc<[Column<u64>]>,
    fields: Fields,
}

impl Snapshot {
    /// `before` are the counts of an earlier version, which save counting what did not change.
    pub(super) fn new(searcher: Searcher, fields: Fields, before: &Statistics) -> Result<Snapshot> {
        let statistics = Arc::new(Statistics::of(&searcher, fields, before)?);
        let ids = searcher
            .segment_readers()
            .iter()
            .map(|segment| segment.fast_fields().u64("passage"))
            .collect::<tantivy::Result<_>>()?;
        Ok(Snapshot {
            searcher,
            statistics,
            ids,
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
        for (segment, passages) in self.searcher.segment_readers().iter().zip(&*self.ids) {
            ids.extend(
                segment
                    .doc_ids_alive()
                    .filter_map(|doc| passages.first(doc))
                    .map(PassageId),
            );
        }
        Ok(ids)
    }

    pub(super) fn searcher(&self) -> &Searcher {
        &self.searcher
    }

    pub(super) fn fields(&self) -> Fields {
        self.fields
    }

    pub(super) fn counts(&self) -> Counts<'_> {
        Counts {
            searcher: &self.searcher,
            statistics: &self.statistics,
            fields: self.fields,
        }
    }

    /// Looks words up, to search for them.
    pub fn look_up(&self, words: &Words) -> Result<Wanted<'_>> {
        Ok(Wanted {
            snapshot: self,
            scoring: Scoring::new(self, words)?,
        })
    }

    /// The best passages of the best files among those that `allowed` lets pass; see [`Wanted::best`].
    pub fn search(
        &self,
        words: &Words,
        limit: Limit,
        allowed: Option<&(dyn Fn(FileId) -> bool + Sync)>,
    ) -> Result<Vec<Hit>> {
        self.look_up(words)?.best(limit, allowed)
    }

    /// The files with a passage that has this word or phrase.
    pub fn files_with(&self, text: &str) -> Result<HashSet<FileId>> {
        let mut files = HashSet::new();
        let Some(query) = self.literal(text) else {
            return Ok(files);
        };
        let weight = query.weight(EnableScoring::disabled_from_searcher(&self.searcher))?;
        for (segment, passages) in self.searcher.segment_readers().iter().zip(&*self.ids) {
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

    /// The documents of some files in a segment, in rising order.
    fn documents_of(&self, segment: &SegmentReader, files: &[FileId]) -> Result<Vec<DocId>> {
        let index = segment.inverted_index(self.fields.file)?;
        let mut documents = Vec::new();
        for file in files {
            let term = Term::from_field_u64(self.fields.file, file.0);
            if let Some(mut postings) = index.read_postings(&term, IndexRecordOption::Basic)? {
                while postings.doc() != TERMINATED {
                    documents.push(postings.doc());
                    postings.advance();
                }
            }
        }
        documents.sort_unstable();
        Ok(documents)
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

    /// The words that make a score, and how often the query has each.
    pub(super) fn terms(&self, words: &Words) -> BTreeMap<String, f32> {
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
        counts
    }

    /// What a passage must have.
    pub(super) fn must(&self, words: &Words) -> Option<Box<dyn Query>> {
        let clauses = words.all.iter().filter_map(|alternatives| {
            let queries: Vec<_> = alternatives
                .iter()
                .filter_map(|text| self.literal(text))
                .collect();
            (!queries.is_empty()).then(|| Box::new(BooleanQuery::union(queries)) as Box<dyn Query>)
        });
        let clauses: Vec<_> = clauses.collect();
        (!clauses.is_empty()).then(|| Box::new(BooleanQuery::intersection(clauses)) as Box<dyn Query>)
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
                [(_, term)] => {
                    let term = Term::from_field_text(field, term);
                    Box::new(TermQuery::new(term, IndexRecordOption::WithFreqs))
                }
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

/// The words of a query, looked up.
pub struct Wanted<'a> {
    snapshot: &'a Snapshot,
    scoring: Option<Scoring>,
}

impl Wanted<'_> {
    /// The best passages of the best files among those that `allowed` lets pass, the best first, ties in the order of
    /// ids. The filter is asked while the lists are walked, so a narrow one costs no hits. No words give no hits.
    pub fn best(&self, limit: Limit, allowed: Option<&(dyn Fn(FileId) -> bool + Sync)>) -> Result<Vec<Hit>> {
        let Some(scoring) = &self.scoring else {
            return Ok(Vec::new());
        };
        let mut best = Best::new(limit.files);
        for (number, segment) in self.snapshot.searcher.segment_readers().iter().enumerate() {
            let passages = Passages {
                ids: &self.snapshot.ids[number],
                alive: segment.alive_bitset(),
            };
            let mut failed = None;
            let floor = Sum::reaching(best.threshold);
            scoring.walk(number, segment, floor, |found| {
                let rated = best.rate(found, |sum| {
                    let hit = passages.hit(sum)?;
                    Ok(hit.filter(|hit| allowed.is_none_or(|allowed| allowed(hit.id.file()))))
                });
                failed = failed.take().or(rated.err());
                Sum::reaching(best.threshold)
            })?;
            failed.map_or(Ok(()), Err)?;
        }
        let best = best.into_sorted();
        if limit.passages_per_file <= 1 {
            return Ok(best);
        }
        let files: Vec<FileId> = best.iter().map(|hit| hit.id.file()).collect();
        self.passages_of(&files, limit.passages_per_file)
    }

    /// The best passages of these files, the best first, ties in the order of ids; scored as [`Wanted::best`] does.
    /// Costs only as much as the files have passages.
    pub fn passages_of(&self, files: &[FileId], per_file: usize) -> Result<Vec<Hit>> {
        let Some(scoring) = &self.scoring else {
            return Ok(Vec::new());
        };
        let mut of_file: FxHashMap<FileId, Vec<Hit>> = FxHashMap::default();
        for (number, segment) in self.snapshot.searcher.segment_readers().iter().enumerate() {
            let passages = Passages {
                ids: &self.snapshot.ids[number],
                alive: segment.alive_bitset(),
            };
            let documents = self.snapshot.documents_of(segment, files)?;
            for sum in scoring.of(number, segment, &documents)? {
                if let Some(hit) = passages.hit(sum)? {
                    of_file.entry(hit.id.file()).or_default().push(hit);
                }
            }
        }
        let mut hits: Vec<Hit> = of_file
            .into_values()
            .flat_map(|hits| head(hits, per_file))
            .collect();
        hits.sort_unstable_by(by_rank);
        Ok(hits)
    }
}

/// The ids of a segment's documents.
struct Passages<'a> {
    ids: &'a Column<u64>,
    alive: Option<&'a AliveBitSet>,
}

impl Passages<'_> {
    /// A document and its score as a hit; none for a deleted one.
    fn hit(&self, sum: Sum) -> Result<Option<Hit>> {
        if self.alive.is_some_and(|alive| alive.is_deleted(sum.doc)) {
            return Ok(None);
        }
        let id = self.ids.first(sum.doc).ok_or_else(|| Error::Corrupt {
            what: "lexical index".into(),
            at: format!("document {}", sum.doc),
        })?;
        Ok(Some(Hit {
            id: PassageId(id),
            score: sum.score(),
        }))
    }
}

/// The best first, ties in the order of ids.
fn by_rank(a: &Hit, b: &Hit) -> std::cmp::Ordering {
    b.score.total_cmp(&a.score).then(a.id.cmp(&b.id))
}

/// The best, in no order.
fn head(mut hits: Vec<Hit>, count: usize) -> Vec<Hit> {
    if hits.len() > count {
        hits.select_nth_unstable_by(count, by_rank);
        hits.truncate(count);
    }
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

    /// Takes those of the documents that may still be in the answer. The best come first, in growing parts: each raises
    /// the threshold for the next.
    fn rate(&mut self, found: &mut Vec<Sum>, hit: impl Fn(Sum) -> Result<Option<Hit>>) -> Result<()> {
        let mut part = 2 * self.files.max(16);
        while !found.is_empty() {
            let rest = found.len().saturating_sub(part);
            if rest > 0 {
                found.select_nth_unstable_by_key(rest, |sum| sum.parts);
            }
            for sum in found.drain(rest..) {
                self.hits.extend(hit(sum)?);
            }
            self.shrink();
            let floor = Sum::reaching(self.threshold);
            found.retain(|sum| sum.parts >= floor);
            part *= 2;
        }
        Ok(())
    }

    /// Keeps what may still be in the answer, in order.
    fn shrink(&mut self) {
        self.hits.sort_unstable_by(by_rank);
        let mut seen = FxHashSet::default();
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
