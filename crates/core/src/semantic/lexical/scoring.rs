//! BM25 of passages, word by word over windows of documents.
//!
//! A hundred files are wanted, each of which may have many passages: a list so deep leaves little for pruning block by block
//! (Block-Max WAND), whose bookkeeping costs more than adding up. Here a word's blocks of 128 documents are added to
//! a window of sums that stays in the second-level cache. Words that cannot lift a document into the list by
//! themselves (MaxScore, Turtle and Flood, 1995) are only looked up for those that the other words brought near it.
//!
//! Sums are integers: they do not depend on the order of adding, which differs with what lies in which segment. So the
//! score of a passage is the same however the index came about.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use tantivy::fieldnorm::FieldNormReader;
use tantivy::postings::{BlockSegmentPostings, TermInfo};
use tantivy::query::{EnableScoring, Weight};
use tantivy::schema::{Field, IndexRecordOption};
use tantivy::{DocId, SegmentReader, TERMINATED, Term};

use super::search::{Snapshot, Words};
use crate::error::Result;

/// How much more a word counts in file name and headings than in the text.
const TITLE_BOOST: f32 = 0.5;
/// The parameters of BM25: how soon more of the same word counts no more, and how much the length of a passage counts.
const K1: f32 = 1.2;
const B: f32 = 0.75;
/// Documents in the largest window; their sums take 128 KiB. The first is smaller, and each twice the one before: the first
/// few documents set a floor that keeps most of the others out of the list.
const WINDOW: u32 = 1 << 15;
const FIRST_WINDOW: u32 = 1 << 11;
/// Sums that are looked at together.
const RUN: usize = 16;
/// Parts of a score of 1 in a sum. The highest score, of a page of 256 words that nothing else has, is about 10,000.
const PARTS: f32 = (1 << 18) as f32;

/// A document and its score, in parts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sum {
    pub(super) doc: DocId,
    pub(super) parts: u32,
}

impl Sum {
    /// The score.
    pub(super) fn score(self) -> f32 {
        self.parts as f32 / PARTS
    }

    /// What a sum must reach for its score to be at least this one.
    pub(super) fn reaching(score: f32) -> u32 {
        // Negative scores become 0.
        (score * PARTS) as u32
    }
}

/// The words of a query, looked up in one version of the index.
pub(super) struct Scoring {
    words: Vec<Word>,
    /// What a passage must have beside, for a query with phrases.
    must: Option<Box<dyn Weight>>,
}

/// A word in one field.
struct Word {
    field: Field,
    weight: f32,
    /// The part of a score that the length of a passage takes, by its code; one table a field.
    lengths: Arc<[f32; 256]>,
    /// By segment.
    found: Vec<Option<TermInfo>>,
}

/// A word's documents in a segment.
struct List<'a> {
    word: &'a Word,
    postings: BlockSegmentPostings,
    /// The first document of the block that was not added yet.
    at: usize,
    /// No document has more of it.
    most: u32,
    length_of: FieldNormReader,
}

impl Scoring {
    /// Looks the words up. None when there is nothing to look for.
    pub(super) fn new(snapshot: &Snapshot, words: &Words) -> Result<Option<Scoring>> {
        let terms = snapshot.terms(words);
        let must = snapshot.must(words);
        if terms.is_empty() && must.is_none() {
            return Ok(None);
        }
        let counts = snapshot.counts();
        let scoring = EnableScoring::enabled_from_statistics_provider(&counts, snapshot.searcher());
        let must = must.map(|query| query.weight(scoring)).transpose()?;
        let words = Word::all(snapshot, &terms)?;
        Ok(Some(Scoring { words, must }))
    }

    /// Gives `take` the documents of a segment whose sums reach its last answer, the first time `floor`, a window at a
    /// time; among them deleted ones.
    pub(super) fn walk(
        &self,
        number: usize,
        segment: &SegmentReader,
        mut floor: u32,
        mut take: impl FnMut(&mut Vec<Sum>) -> u32,
    ) -> Result<()> {
        let mut lists = self.lists(number, segment)?;
        if let Some(must) = &self.must {
            let mut found = documents(&**must, segment)?;
            lists.iter_mut().for_each(|list| list.look_up(&mut found));
            take(&mut found);
            return Ok(());
        }
        lists.sort_unstable_by_key(|list| std::cmp::Reverse(list.most));
        let rest = sums_from(&lists);
        let mut window = vec![0u32; WINDOW.min(segment.max_doc()) as usize];
        let mut found = Vec::new();
        let (mut end, mut size) = (0, if floor > 0 { WINDOW } else { FIRST_WINDOW });
        while end < segment.max_doc() {
            let start = end;
            end = start.saturating_add(size).min(segment.max_doc());
            size = WINDOW.min(size * 2);
            // The lists from here on do not reach the floor together.
            let needed = rest.iter().take_while(|rest| **rest >= floor.max(1)).count();
            if needed == 0 {
                break;
            }
            let (needed, further) = lists.split_at_mut(needed);
            needed
                .iter_mut()
                .for_each(|list| list.add(start..end, &mut window));
            let left = &rest[needed.len()..];
            let near = floor.saturating_sub(left[0]).max(1);
            drain(&mut window[..(end - start) as usize], start, near, &mut found);
            for (list, left) in further.iter_mut().zip(&left[1..]) {
                list.look_up(&mut found);
                found.retain(|sum| sum.parts.saturating_add(*left) >= floor);
            }
            floor = floor.max(take(&mut found));
            found.clear();
        }
        Ok(())
    }

    /// The sums of some documents of a segment, in rising order; those without any of the words are left out.
    pub(super) fn of(
        &self,
        number: usize,
        segment: &SegmentReader,
        documents_of: &[DocId],
    ) -> Result<Vec<Sum>> {
        let mut found: Vec<Sum> = match &self.must {
            Some(must) => {
                let mut found = documents(&**must, segment)?;
                found.retain(|sum| documents_of.binary_search(&sum.doc).is_ok());
                found
            }
            None => documents_of.iter().map(|&doc| Sum { doc, parts: 0 }).collect(),
        };
        for mut list in self.lists(number, segment)? {
            list.look_up(&mut found);
        }
        found.retain(|sum| self.must.is_some() || sum.parts > 0);
        Ok(found)
    }

    fn lists(&self, number: usize, segment: &SegmentReader) -> Result<Vec<List<'_>>> {
        let there = self
            .words
            .iter()
            .filter_map(|word| Some((word, word.found[number].as_ref()?)));
        there
            .map(|(word, info)| {
                Ok(List {
                    word,
                    postings: segment
                        .inverted_index(word.field)?
                        .read_block_postings_from_terminfo(info, IndexRecordOption::WithFreqs)?,
                    at: 0,
                    most: (word.weight * PARTS) as u32 + 1,
                    length_of: segment.get_fieldnorms_reader(word.field)?,
                })
            })
            .collect()
    }
}

impl Word {
    fn all(snapshot: &Snapshot, terms: &BTreeMap<String, f32>) -> Result<Vec<Word>> {
        let statistics = snapshot.statistics();
        let mut words = Vec::new();
        for (field, boost) in [
            (snapshot.fields().body, 1.0),
            (snapshot.fields().title, TITLE_BOOST),
        ] {
            let mean = statistics.tokens(snapshot.fields(), field) as f32 / statistics.documents() as f32;
            let lengths = Arc::new(std::array::from_fn(|code| {
                K1 * (1.0 - B + B * FieldNormReader::id_to_fieldnorm(code as u8) as f32 / mean)
            }));
            for (term, count) in terms {
                let term = Term::from_field_text(field, term);
                let mut documents = 0;
                let mut found = Vec::new();
                for segment in snapshot.searcher().segment_readers() {
                    let info = segment.inverted_index(field)?.get_term_info(&term)?;
                    if let Some(info) = &info {
                        documents += statistics.living(segment, field, info)?;
                    }
                    found.push(info);
                }
                if documents > 0 {
                    let weight = boost * count * idf(documents, statistics.documents()) * (K1 + 1.0);
                    words.push(Word {
                        field,
                        weight,
                        lengths: Arc::clone(&lengths),
                        found,
                    });
                }
            }
        }
        Ok(words)
    }
}

/// The weight of a word that so many of all documents have.
fn idf(having: u64, all: u64) -> f32 {
    (1.0 + (all.saturating_sub(having) as f32 + 0.5) / (having as f32 + 0.5)).ln()
}

impl List<'_> {
    /// Adds to the sums of a window, which follows the one before.
    fn add(&mut self, window: Range<DocId>, sums: &mut [u32]) {
        loop {
            let (docs, freqs) = (self.postings.docs(), self.postings.freqs());
            let Some(last) = docs.last() else { return };
            let to = if *last < window.end {
                docs.len()
            } else {
                docs.partition_point(|doc| *doc < window.end)
            };
            for (doc, freq) in docs[self.at..to].iter().zip(&freqs[self.at..to]) {
                let sum = &mut sums[(doc - window.start) as usize];
                *sum = sum.saturating_add(self.parts(*doc, *freq));
            }
            if to < docs.len() {
                self.at = to;
                return;
            }
            self.postings.advance();
            self.at = 0;
        }
    }

    /// Adds to the sums of these documents, which are in rising order. Those near each other, as the passages of a file
    /// are, lie in one block, which is walked.
    fn look_up(&mut self, found: &mut [Sum]) {
        for sum in found {
            let docs = self.postings.docs();
            if self.at < docs.len() && docs[docs.len() - 1] >= sum.doc {
                self.at += docs[self.at..].iter().take_while(|doc| **doc < sum.doc).count();
            } else {
                self.at = self.postings.seek(sum.doc);
            }
            match self.postings.doc(self.at) {
                TERMINATED => return,
                doc if doc == sum.doc => {
                    let parts = self.parts(doc, self.postings.freq(self.at));
                    sum.parts = sum.parts.saturating_add(parts);
                }
                _ => {}
            }
        }
    }

    #[inline]
    fn parts(&self, doc: DocId, freq: u32) -> u32 {
        let freq = freq as f32;
        let length = self.word.lengths[usize::from(self.length_of.fieldnorm_id(doc))];
        (self.word.weight * freq / (freq + length) * PARTS) as u32
    }
}

/// What the lists from each on have together at most, and at the end nothing.
fn sums_from(lists: &[List<'_>]) -> Vec<u32> {
    let mut sums = vec![0u32; lists.len() + 1];
    for (at, list) in lists.iter().enumerate().rev() {
        sums[at] = sums[at + 1].saturating_add(list.most);
    }
    sums
}

/// Takes out the sums that are high enough, and clears all.
fn drain(window: &mut [u32], start: DocId, least: u32, found: &mut Vec<Sum>) {
    for (first, sums) in (start..).step_by(RUN).zip(window.chunks_mut(RUN)) {
        if sums.iter().fold(0, |most, sum| most.max(*sum)) >= least {
            // Without a branch for each: whether a sum is high enough cannot be predicted.
            let mut high = [Sum { doc: 0, parts: 0 }; RUN];
            let mut count = 0;
            for (doc, &parts) in (first..).zip(&*sums) {
                high[count] = Sum { doc, parts };
                count += usize::from(parts >= least);
            }
            found.extend_from_slice(&high[..count]);
        }
        sums.fill(0);
    }
}

/// The documents that a query finds, in rising order.
fn documents(query: &dyn Weight, segment: &SegmentReader) -> Result<Vec<Sum>> {
    let mut found = Vec::new();
    query.for_each(segment, &mut |doc, score| {
        let parts = Sum::reaching(score);
        found.push(Sum { doc, parts });
    })?;
    Ok(found)
}
