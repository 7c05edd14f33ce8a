//! What BM25 counts, over live passages only.
//!
//! Tantivy counts deleted documents until a merge removes them, so that scores would depend on the history of the
//! index. Counted here, the scores of an index equal those of one made anew from the same files.

use std::collections::HashMap;
use std::sync::Arc;

use tantivy::index::SegmentId;
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
        Ok(if field == self.fields.title {
            self.statistics.title_tokens
        } else {
            self.statistics.body_tokens
        })
    }

    fn total_num_docs(&self) -> tantivy::Result<u64> {
        Ok(self.statistics.documents)
    }

    fn doc_freq(&self, term: &Term) -> tantivy::Result<u64> {
        let mut sum = 0;
        for segment in self.searcher.segment_readers() {
            let deleted = match self.statistics.segments.get(&key(segment)) {
                Some(counted) => &counted.deleted[..],
                None => &[],
            };
            sum += live_documents(segment, term, deleted)?;
        }
        Ok(sum)
    }
}

/// Documents of a segment that have the term and live.
fn live_documents(segment: &SegmentReader, term: &Term, deleted: &[DocId]) -> tantivy::Result<u64> {
    let inverted = segment.inverted_index(term.field())?;
    let Some(info) = inverted.get_term_info(term)? else {
        return Ok(0);
    };
    let all = u64::from(info.doc_freq);
    if deleted.is_empty() {
        return Ok(all);
    }
    let mut postings = inverted.read_postings_from_terminfo(&info, IndexRecordOption::Basic)?;
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
