//! A version of a space, held by a reader.

use std::sync::Arc;

use super::pages::Pages;
use super::search::{self, SearchParams};
use super::{SpaceConfig, State};
use crate::error::{Error, Result};
use crate::measure::Neighbor;
use crate::scan::in_parallel;

/// Queries of a batch that are searched as one job.
const TOGETHER: usize = 64;

/// A space as it was at one commit. Holding one keeps its files' bytes on disk, not more.
#[derive(Clone)]
pub struct Snapshot {
    config: SpaceConfig,
    state: Arc<State>,
}

impl Snapshot {
    pub(super) fn new(config: SpaceConfig, state: Arc<State>) -> Snapshot {
        Snapshot { config, state }
    }

    /// The shape of the space.
    pub fn config(&self) -> SpaceConfig {
        self.config
    }

    /// The last commit in it.
    pub fn seq(&self) -> u64 {
        self.state.seq
    }

    /// The tag of the last tagged commit in it.
    pub fn committed_tag(&self) -> Option<u64> {
        self.state.tag
    }

    /// The number of vectors.
    pub fn len(&self) -> u64 {
        self.state.live
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether there is a vector with this id.
    pub fn contains(&self, id: u64) -> bool {
        self.state.find(id).is_some()
    }

    /// Appends the components of a vector to `out`; `false` if the id is not there.
    pub fn get(&self, id: u64, out: &mut Vec<f32>) -> Result<bool> {
        let Some((view, row)) = self.state.find(id) else {
            return Ok(false);
        };
        if !view.segment.readable(row..row + 1) {
            let file = view
                .segment
                .files()
                .next()
                .map(|file| file.path().display().to_string());
            let file = file.unwrap_or_default();
            return Err(Error::Corrupt {
                file,
                what: format!("the row of id {id} lies in a bad block"),
            });
        }
        view.segment.read(row, out);
        Ok(true)
    }

    /// All ids, each once, in no particular order.
    pub fn ids(&self) -> impl Iterator<Item = u64> + '_ {
        self.state.views().flat_map(|view| {
            let ids = view.segment.ids().iter().enumerate();
            ids.filter(|(row, _)| !view.dead.contains(*row))
                .map(|(_, &id)| id)
        })
    }

    /// Calls `each` with every id and its components, in no particular order, until it fails. Rows in corrupt blocks
    /// are left out; the space's findings name them.
    pub fn for_each(&self, mut each: impl FnMut(u64, &[f32]) -> Result<()>) -> Result<()> {
        let mut vector = Vec::with_capacity(self.config.dim);
        for view in self.state.views() {
            for (row, &id) in view.segment.ids().iter().enumerate() {
                if !view.dead.contains(row) && view.segment.readable(row..row + 1) {
                    vector.clear();
                    view.segment.read(row, &mut vector);
                    each(id, &vector)?;
                }
            }
        }
        Ok(())
    }

    /// The nearest vectors, nearest first; equal distances in order of ids.
    pub fn search(&self, query: &[f32], params: &SearchParams<'_>) -> Result<Vec<Neighbor>> {
        search::check(self.config, query, params)?;
        Ok(self.state.search(self.config, query, params))
    }

    /// Searches for several queries on at most so many threads. Answers are in the order of the queries; one bad
    /// query fails all.
    pub fn search_batch(
        &self,
        queries: &[&[f32]],
        params: &SearchParams<'_>,
        threads: usize,
    ) -> Result<Vec<Vec<Neighbor>>> {
        queries
            .iter()
            .try_for_each(|query| search::check(self.config, query, params))?;
        let share = queries.len().div_ceil(threads.max(1)).clamp(1, TOGETHER);
        let parts: Vec<_> = queries.chunks(share).collect();
        let answers = in_parallel(parts.len(), threads, |i| {
            self.state.search_each(self.config, parts[i], params)
        });
        Ok(answers.into_iter().flatten().collect())
    }

    /// The neighbours of a query page by page; `params.k` is the length of a page.
    pub fn pages<'a>(&self, query: &[f32], params: SearchParams<'a>) -> Result<Pages<'a>> {
        search::check(self.config, query, &params)?;
        Ok(Pages::new(self.clone(), query.to_vec(), params))
    }
}
