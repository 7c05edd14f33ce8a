//! Resumable paging through the neighbours of a query.

use super::search::SearchParams;
use super::snapshot::Snapshot;
use crate::error::Result;
use crate::measure::Neighbor;

/// A place in the ordered neighbours of a query. It is all that another process needs to go on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Place {
    /// The last neighbour before it.
    pub last: Neighbor,
    /// How many neighbours lie before it.
    pub seen: usize,
}

/// Pages of neighbours, all from one version.
///
/// Page n is found by a search for n pages of which the earlier ones are left out, so that every index can serve it
/// and nothing is kept between pages but the place.
pub struct Pages<'a> {
    snapshot: Snapshot,
    query: Vec<f32>,
    params: SearchParams<'a>,
    seen: usize,
    last: Option<Neighbor>,
}

impl<'a> Pages<'a> {
    pub(super) fn new(snapshot: Snapshot, query: Vec<f32>, params: SearchParams<'a>) -> Pages<'a> {
        Pages {
            snapshot,
            query,
            params,
            seen: 0,
            last: None,
        }
    }

    /// The next `params.k` neighbours; empty at the end.
    pub fn next_page(&mut self) -> Result<Vec<Neighbor>> {
        let k = self.params.k.saturating_add(self.seen);
        let mut page = self
            .snapshot
            .search(&self.query, &SearchParams { k, ..self.params })?;
        if let Some(last) = self.last {
            page.retain(|next| {
                next.distance
                    .total_cmp(&last.distance)
                    .then(next.id.cmp(&last.id))
                    .is_gt()
            });
        }
        page.truncate(self.params.k);
        self.seen += page.len();
        self.last = page.last().copied().or(self.last);
        Ok(page)
    }

    /// The place after the last page; `None` before the first neighbour.
    pub fn place(&self) -> Option<Place> {
        self.last.map(|last| Place {
            last,
            seen: self.seen,
        })
    }

    /// Goes on at a place that [`Pages::place`] returned for the same query.
    pub fn resume(&mut self, place: Place) {
        (self.last, self.seen) = (Some(place.last), place.seen);
    }
}
