//! More results on demand, without repeats.

use std::collections::HashSet;

use super::{Effort, Graph, GraphError};
use crate::scan::{Allowed, Rows, rerank};

/// A search that can be continued: every call of [`Pager::next_page`] returns the next rows.
///
/// Pages may overlap in distance by what an approximate search misses: a row found late that is nearer than one already
/// returned comes first on the next page. A row is never returned twice.
pub struct Pager {
    query: Vec<f32>,
    ef: usize,
    returned: HashSet<u32>,
}

impl Pager {
    /// A search from its beginning; `ef` is the beam beyond what was returned already.
    pub fn new(query: &[f32], ef: usize) -> Pager {
        Pager {
            query: query.to_vec(),
            ef,
            returned: HashSet::new(),
        }
    }

    /// The next `k` rows, nearest first; fewer only if the graph has no more that the filter allows. The cost grows with
    /// the number returned so far.
    ///
    /// # Errors
    /// [`GraphError::WrongDimension`] or [`GraphError::NotFinite`]; the pager is unchanged.
    pub fn next_page(
        &mut self,
        graph: &Graph,
        k: usize,
        allowed: Allowed<'_>,
        rows: &dyn Rows,
    ) -> Result<Vec<(u32, f32)>, GraphError> {
        let fresh = |row: u32| !self.returned.contains(&row) && allowed.contains(row);
        // The filtered walk counts fresh rows only, so the beam need not hold those returned before.
        let effort = Effort::new(self.ef.max(2 * k), k);
        let candidates = graph.candidates(&self.query, effort, effort.ef, Allowed::Test(&fresh))?;
        let page = rerank(&self.query, graph.measure(), rows, &candidates, k);
        self.returned.extend(page.iter().map(|p| p.0));
        Ok(page)
    }
}
