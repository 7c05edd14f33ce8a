//! One version of a space: what a reader sees until it lets go.

use std::ops::Range;
use std::sync::Arc;

use super::vamana::{Keys, Walk};
use super::{Dead, SpaceConfig};
use crate::journal::Change;
use crate::segment::{MergeRows, Segment};

/// A version of a space. Versions share segments and pages of bitmaps; a commit makes a new one.
///
/// Invariant: no id is live in two views. Every commit that adds an id first kills the row that had it.
#[derive(Clone)]
pub(crate) struct State {
    /// The last commit in it.
    pub(crate) seq: u64,
    /// The tag of the last tagged commit.
    pub(crate) tag: Option<u64>,
    /// Segments in files, oldest first.
    pub(crate) files: Vec<View>,
    /// Segments in memory, oldest first. The journal has them too.
    pub(crate) runs: Vec<View>,
    /// So many of the runs are being written to a file: they may lose rows, but are not merged any more.
    pub(crate) frozen: usize,
    /// Live rows.
    pub(crate) live: u64,
    /// The graph over the files, if there is one.
    pub(super) walk: Option<Arc<Walk>>,
}

/// A segment and which of its rows are dead in this version.
#[derive(Clone)]
pub(crate) struct View {
    pub(crate) segment: Arc<Segment>,
    pub(crate) dead: Arc<Dead>,
    /// The rows' keys in the graph; `None` if none of them is in it.
    pub(super) keys: Option<Arc<Keys>>,
}

impl View {
    /// A segment of which all rows live.
    pub(crate) fn new(segment: Segment) -> View {
        View::shared(&Arc::new(segment))
    }

    /// A shared segment of which all rows live.
    pub(super) fn shared(segment: &Arc<Segment>) -> View {
        View {
            segment: Arc::clone(segment),
            dead: Arc::default(),
            keys: None,
        }
    }

    /// Live rows.
    pub(crate) fn live(&self) -> usize {
        self.segment.len() - self.dead.len()
    }

    /// The live row with this id.
    pub(crate) fn find(&self, id: u64) -> Option<usize> {
        self.segment.find(id).filter(|&row| !self.dead.contains(row))
    }

    /// Kills the rows with these ascending ids; returns how many.
    fn kill(&mut self, ids: &[u64]) -> usize {
        let all = self.segment.ids();
        let (Some(&first), Some(&last)) = (all.first(), all.last()) else {
            return 0;
        };
        let start = ids.partition_point(|&id| id < first);
        let ids = &ids[start..start + ids[start..].partition_point(|&id| id <= last)];
        let (mut from, mut killed) = (0, 0);
        for &id in ids {
            from += gallop(&all[from..], id);
            if all.get(from) == Some(&id) {
                // Reached only if something dies: the page table is copied once per commit.
                killed +=
                    usize::from(!self.dead.contains(from) && Arc::make_mut(&mut self.dead).insert(from));
            }
        }
        killed
    }

    /// Kills the rows with ids in a range; returns how many.
    fn kill_range(&mut self, ids: &Range<u64>) -> usize {
        let rows = self.segment.rows_of(ids);
        if rows.is_empty() {
            0
        } else {
            Arc::make_mut(&mut self.dead).insert_range(rows)
        }
    }
}

/// The first place in `ids` with an id not less than `id`, found in steps that grow from the start: neighbouring ids of
/// a batch lie close to each other.
pub(super) fn gallop(ids: &[u64], id: u64) -> usize {
    let mut step = 1;
    while step < ids.len() && ids[step] < id {
        step *= 2;
    }
    let (low, high) = (step / 2, ids.len().min(step + 1));
    low + ids[low..high].partition_point(|&other| other < id)
}

impl State {
    /// A space without rows.
    pub(crate) fn empty() -> State {
        State {
            seq: 0,
            tag: None,
            files: Vec::new(),
            runs: Vec::new(),
            frozen: 0,
            live: 0,
            walk: None,
        }
    }

    /// All segments, oldest first.
    pub(crate) fn views(&self) -> impl Iterator<Item = &View> + Clone {
        self.files.iter().chain(&self.runs)
    }

    /// The live row with this id.
    pub(crate) fn find(&self, id: u64) -> Option<(&View, usize)> {
        self.runs
            .iter()
            .rev()
            .chain(self.files.iter().rev())
            .find_map(|view| Some((view, view.find(id)?)))
    }

    /// Bytes of the rows in memory.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.runs.iter().map(|view| view.segment.bytes()).sum()
    }

    /// Applies a commit and returns how many rows it removed, replaced ones included.
    pub(crate) fn apply(
        &mut self,
        config: SpaceConfig,
        seq: u64,
        tag: Option<u64>,
        change: Change<'_>,
    ) -> usize {
        debug_assert_eq!(seq, self.seq + 1);
        let mut removed = 0;
        for &[start, end] in change.ranges {
            removed += self.each_view(|view| view.kill_range(&(start..end)));
        }
        let deletes = ascending(change.deletes);
        removed += self.each_view(|view| view.kill(&deletes));
        if !change.upserts.is_empty() {
            let order = last_of_each(change.upserts);
            let mut run = Segment::in_memory(config);
            for &position in &order {
                let at = position as usize * config.dim;
                run.push(
                    change.upserts[position as usize],
                    &change.components[at..at + config.dim],
                );
            }
            removed += self.each_view(|view| view.kill(run.ids()));
            self.live += run.len() as u64;
            self.runs.push(View::new(run));
        }
        self.live -= removed as u64;
        (self.seq, self.tag) = (seq, tag.or(self.tag));
        self.compact(config);
        removed
    }

    fn each_view(&mut self, kill: impl Fn(&mut View) -> usize) -> usize {
        self.files.iter_mut().chain(&mut self.runs).map(kill).sum()
    }

    /// Merges the youngest runs so that their sizes at least double from young to old. A row is copied log2(rows in
    /// memory / rows per commit) times, and a search meets as many runs.
    fn compact(&mut self, config: SpaceConfig) {
        let (mut first, mut rows) = (self.runs.len(), 0);
        while first > self.frozen && (rows == 0 || self.runs[first - 1].live() < 2 * rows) {
            first -= 1;
            rows += self.runs[first].live();
        }
        if self.runs.len() - first < 2 {
            return;
        }
        let inputs: Vec<_> = self
            .runs
            .drain(first..)
            .map(|view| (view.segment, view.dead))
            .collect();
        let mut merged = Segment::in_memory(config);
        for (input, row) in MergeRows::new(&inputs) {
            merged.push_row(&inputs[input].0, row);
        }
        if merged.len() > 0 {
            self.runs.push(View::new(merged));
        }
    }
}

/// The ids in ascending order.
fn ascending(ids: &[u64]) -> std::borrow::Cow<'_, [u64]> {
    if ids.is_sorted() {
        return ids.into();
    }
    let mut sorted = ids.to_vec();
    sorted.sort_unstable();
    sorted.into()
}

/// Positions in ascending order of their ids; of positions with the same id only the last.
fn last_of_each(ids: &[u64]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..ids.len() as u32).collect();
    if ids.is_sorted_by(|a, b| a < b) {
        return order;
    }
    order.sort_by_key(|&position| ids[position as usize]);
    let positions = order.iter().enumerate();
    let last = |i: usize| {
        order
            .get(i + 1)
            .is_none_or(|&next| ids[next as usize] != ids[order[i] as usize])
    };
    positions
        .filter(|(i, _)| last(*i))
        .map(|(_, &position)| position)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_equal_ids_wins() {
        assert_eq!(last_of_each(&[5, 3, 5, 1, 3]), [3, 4, 2]);
        assert_eq!(last_of_each(&[1, 2, 3]), [0, 1, 2]);
        assert_eq!(last_of_each(&[7, 7, 7]), [2]);
    }

    #[test]
    fn gallop_finds_the_first_not_less() {
        let ids: Vec<u64> = (0..100).map(|i| i * 2).collect();
        for id in 0..205 {
            for from in [0, 1, 50, 99] {
                assert_eq!(
                    gallop(&ids[from..], id),
                    ids[from..].partition_point(|&x| x < id),
                    "{id} from {from}"
                );
            }
        }
        assert_eq!(gallop(&[], 3), 0);
    }
}
