//! What BM25 counts, over live passages only.
//!
//! Tantivy counts deleted documents until a merge removes them, so that scores would depend on the history of the
//! index. Counted here, the scores of an index equal those of one made anew from the same files.

use std::collections::HashMap;
use std::sync::Arc;

use tantivy::index::SegmentId;
use tantivy::postings::TermInfo;
use tantivy::query::Bm25StatisticsProvider;
use tantivy::schema::{Field, IndexRecordOption};
use tantivy::{DocId, DocSet, Opstamp, Searcher, SegmentReader, TERMINATED, Term};

use super::Fields;

/// The counts of one version of the index; segments that did not change are not counted again.
#[derive(Default)]
pub(super) struct Statistics {
    segments: HashMap<(SegmentId, Option<Opstamp>), Arc<Counted>>,
    documents: u64,
    title_tokens: u64,
    body_tokens: u64,
}

/// The counts of a segment.
struct Counted {
    documents: u64,
    title_tokens: u64,
    body_tokens: u64,
    /// In rising order.
    deleted: Vec<DocId>,
}

impl Statistics {
    /// Counts a version, given the counts of an earlier one.
    pub(super) fn of(
        searcher: &Searcher,
        fields: Fields,
        before: &Statistics,
    ) -> tantivy::Result<Statistics> {
        let mut counts = Statistics::default();
        for segment in searcher.segment_readers() {
            let key = key(segment);
            let counted = match before.segments.get(&key) {
                Some(counted) => Arc::clone(counted),
                None => Arc::new(Counted::of(segment, fields)?),
            };
            counts.documents += counted.documents;
            counts.title_tokens += counted.title_tokens;
            counts.body_tokens += counted.body_tokens;
            counts.segments.insert(key, counted);
        }
        Ok(counts)
    }
}

impl Statistics {
    /// Live passages.
    pub(super) fn documents(&self) -> u64 {
        self.documents
    }

    /// Words of all live passages in a field.
    pub(super) fn tokens(&self, fields: Fields, field: Field) -> u64 {
        if field == fields.title {
            self.title_tokens
        } else {
            self.body_tokens
        }
    }

    /// Live documents of a segment that have a word.
    pub(super) fn living(
        &self,
        segment: &SegmentReader,
        field: Field,
        info: &TermInfo,
    ) -> tantivy::Result<u64> {
        let deleted = match self.segments.get(&key(segment)) {
            Some(counted) => &counted.deleted[..],
            None => &[],
        };
        let all = u64::from(info.doc_freq);
        if deleted.is_empty() {
            return Ok(all);
        }
        let inverted = segment.inverted_index(field)?;
        let mut postings = inverted.read_postings_from_terminfo(info, IndexRecordOption::Basic)?;
        let mut dead = 0;
        for &document in deleted {
            let here = postings.doc();
            if here == TERMINATED {
                break;
            }
            if document > here {
                postings.seek(document);
            }
            dead += u64::from(postings.doc() == document);
        }
        Ok(all - dead)
    }
}

fn key(segment: &SegmentReader) -> (SegmentId, Option<Opstamp>) {
    (segment.segment_id(), segment.delete_opstamp())
}

impl Counted {
    fn of(segment: &SegmentReader, fields: Fields) -> tantivy::Result<Counted> {
        let titles = segment.get_fieldnorms_reader(fields.title)?;
        let bodies = segment.get_fieldnorms_reader(fields.body)?;
        let mut counted = Counted {
            documents: 0,
            title_tokens: 0,
            body_tokens: 0,
            deleted: Vec::new(),
        };
        let alive = segment.alive_bitset();
        for document in 0..segment.max_doc() {
            if alive.is_none_or(|alive| alive.is_alive(document)) {
                counted.documents += 1;
                // The lengths as they are stored, rounded: the same however documents lie in segments.
                counted.title_tokens += u64::from(titles.fieldnorm(document));
                counted.body_tokens += u64::from(bodies.fieldnorm(document));
            } else {
                counted.deleted.push(document);
            }
        }
        Ok(counted)
    }
}

/// A version with its counts.
pub(super) struct Counts<'a> {
    pub(super) searcher: &'a Searcher,
    pub(super) statistics: &'a Statistics,
    pub(super) fields: Fields,
}

impl Bm25StatisticsProvider for Counts<'_> {
    fn total_num_tokens(&self, field: Field) -> tantivy::Result<u64> {
        Ok(self.statistics.tokens(self.fields, field))
    }

    fn total_num_docs(&self) -> tantivy::Result<u64> {
        Ok(self.statistics.documents)
    }

    fn doc_freq(&self, term: &Term) -> tantivy::Result<u64> {
        let mut sum = 0;
        for segment in self.searcher.segment_readers() {
            if let Some(info) = segment.inverted_index(term.field())?.get_term_info(term)? {
                sum += self.statistics.living(segment, term.field(), &info)?;
            }
        }
        Ok(sum)
    }
}
