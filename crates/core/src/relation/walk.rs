//! Following relations: the files within some steps of one, and the shortest way between two.
//!
//! Walks go breadth first, so the bound on files cuts off the farthest ones. Cycles end by themselves: no file is
//! visited twice. Each file costs one or two index look-ups, about 10 us.

use std::collections::{HashMap, HashSet};

use super::Sight;
use crate::error::Result;
use crate::ids::FileId;
use crate::store::Rows;
use crate::store::relations::Direction;

/// Relations read at one file and in one direction: what a hub of more than this is related to is chance.
const EDGES_MAX: usize = 1000;

/// Files that sight is asked about in one go: asking in another user's name costs a thread.
const JUDGED_AT_ONCE: usize = 256;

/// How far a walk goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Steps from the start.
    pub depth: u32,
    /// Files visited, the start not counted.
    pub files: usize,
}

impl Default for Bounds {
    /// One step; 1,000 files are about 10 ms.
    fn default() -> Bounds {
        Bounds {
            depth: 1,
            files: 1000,
        }
    }
}

/// A file that a walk came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reached {
    /// The file.
    pub file: FileId,
    /// Steps from the start.
    pub depth: u32,
    /// The file from which it was reached first.
    pub via: FileId,
    /// The type of the relation that was followed.
    pub kind: String,
    /// Whether that relation leads to this file, not from it.
    pub outward: bool,
}

/// The result of a walk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Walk {
    /// The files in the order in which they were reached: by depth.
    pub reached: Vec<Reached>,
    /// Whether the bound on files, or on relations of one file, left some out.
    pub truncated: bool,
}

/// The files within `bounds` of `start` that `sight` shows, following relations of type `kind` (of any, if `None`).
/// What it hides is not walked through either.
pub fn neighbours(
    rows: &Rows<'_>,
    start: FileId,
    kind: Option<&str>,
    direction: Direction,
    bounds: Bounds,
    sight: &mut dyn Sight,
) -> Result<Walk> {
    let mut walk = Walk::default();
    let mut seen = HashSet::from([start]);
    let mut level = vec![start];
    for depth in 1..=bounds.depth {
        let begun = walk.reached.len();
        let mut found = Vec::new();
        for (i, &via) in level.iter().enumerate() {
            let edges = rows.edges(via, kind, direction, EDGES_MAX)?;
            walk.truncated |= edges.len() >= EDGES_MAX;
            for edge in edges {
                if seen.insert(edge.file) {
                    found.push(Reached {
                        file: edge.file,
                        depth,
                        via,
                        kind: edge.kind,
                        outward: edge.outward,
                    });
                }
            }
            if found.len() >= JUDGED_AT_ONCE || i + 1 == level.len() {
                let files: Vec<FileId> = found.iter().map(|reached| reached.file).collect();
                let visible = sight.sees(&files);
                let shown = found.drain(..).zip(visible).filter(|(_, visible)| *visible);
                walk.reached.extend(shown.map(|(reached, _)| reached));
            }
            if walk.reached.len() > bounds.files {
                walk.reached.truncate(bounds.files);
                walk.truncated = true;
                return Ok(walk);
            }
        }
        level = walk.reached[begun..].iter().map(|reached| reached.file).collect();
        if level.is_empty() {
            break;
        }
    }
    Ok(walk)
}

/// A shortest way from one file to another through files that `sight` shows: its steps in order, none when both are
/// one file; or `None` if there is no way within `files_max` visited files. Two searches meet, each going on where
/// fewer files wait.
pub fn shortest_path(
    rows: &Rows<'_>,
    (from, to): (FileId, FileId),
    kind: Option<&str>,
    direction: Direction,
    files_max: usize,
    sight: &mut dyn Sight,
) -> Result<Option<Vec<Reached>>> {
    if from == to {
        return Ok(Some(Vec::new()));
    }
    let backward = match direction {
        Direction::Out => Direction::In,
        Direction::In => Direction::Out,
        Direction::Both => Direction::Both,
    };
    let mut ahead = Front::new(from);
    let mut behind = Front::new(to);
    while !ahead.waiting.is_empty() && !behind.waiting.is_empty() {
        if ahead.steps.len() + behind.steps.len() > files_max {
            return Ok(None);
        }
        let meeting = if ahead.waiting.len() <= behind.waiting.len() {
            ahead.advance(rows, kind, direction, &behind, sight)?
        } else {
            behind.advance(rows, kind, backward, &ahead, sight)?
        };
        if let Some(meeting) = meeting {
            return Ok(Some(ahead.joined(&behind, meeting)));
        }
    }
    Ok(None)
}

/// How a search came to a file.
struct Step {
    via: FileId,
    kind: String,
    outward: bool,
}

/// One of the two searches.
struct Front {
    start: FileId,
    /// How each file was reached, but for the start.
    steps: HashMap<FileId, Step>,
    /// Files reached by the last step.
    waiting: Vec<FileId>,
}

impl Front {
    fn new(start: FileId) -> Front {
        Front {
            start,
            steps: HashMap::new(),
            waiting: vec![start],
        }
    }

    fn has(&self, file: FileId) -> bool {
        file == self.start || self.steps.contains_key(&file)
    }

    /// One whole step in every direction. Gives a file at which the other search has been too: all such files of one
    /// step are equally far, since the other search has taken whole steps as well.
    fn advance(
        &mut self,
        rows: &Rows<'_>,
        kind: Option<&str>,
        way: Direction,
        other: &Front,
        sight: &mut dyn Sight,
    ) -> Result<Option<FileId>> {
        let mut found: Vec<(FileId, Step)> = Vec::new();
        let mut seen = HashSet::new();
        for via in std::mem::take(&mut self.waiting) {
            for edge in rows.edges(via, kind, way, EDGES_MAX)? {
                if !self.has(edge.file) && seen.insert(edge.file) {
                    let (kind, outward) = (edge.kind, edge.outward);
                    found.push((edge.file, Step { via, kind, outward }));
                }
            }
        }
        let files: Vec<FileId> = found.iter().map(|(file, _)| *file).collect();
        let mut meeting = None;
        for ((file, step), visible) in found.into_iter().zip(sight.sees(&files)) {
            if visible {
                if meeting.is_none() && other.has(file) {
                    meeting = Some(file);
                }
                self.steps.insert(file, step);
                self.waiting.push(file);
            }
        }
        Ok(meeting)
    }

    /// The way from this search's start over the meeting to the other's.
    fn joined(&self, other: &Front, meeting: FileId) -> Vec<Reached> {
        let mut way = Vec::new();
        let mut file = meeting;
        while let Some(step) = self.steps.get(&file) {
            way.push(reached(file, step.via, &step.kind, step.outward));
            file = step.via;
        }
        way.reverse();
        let mut file = meeting;
        while let Some(step) = other.steps.get(&file) {
            // The other search went against the way.
            way.push(reached(step.via, file, &step.kind, !step.outward));
            file = step.via;
        }
        (1..).zip(&mut way).for_each(|(depth, step)| step.depth = depth);
        way
    }
}

fn reached(file: FileId, via: FileId, kind: &str, outward: bool) -> Reached {
    Reached {
        file,
        depth: 0,
        via,
        kind: kind.to_owned(),
        outward,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Everything;
    use super::*;
    use crate::store::Store;
    use crate::store::relations::{Relation, Target};

    fn graph(edges: &[(u64, &str, u64)]) -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store.db")).unwrap();
        store
            .write(|tx| {
                edges.iter().try_for_each(|(from, kind, to)| {
                    tx.relate(&Relation {
                        from: FileId(*from),
                        kind: (*kind).into(),
                        to: Target::File(FileId(*to)),
                        properties: None,
                        derived: false,
                    })
                })
            })
            .unwrap();
        (dir, store)
    }

    fn walk(
        store: &Store,
        kind: Option<&str>,
        direction: Direction,
        depth: u32,
        files: usize,
    ) -> (Vec<(u64, u32)>, bool) {
        let bounds = Bounds { depth, files };
        let walk = store
            .read(|rows| neighbours(rows, FileId(1), kind, direction, bounds, &mut Everything))
            .unwrap();
        (
            walk.reached.iter().map(|r| (r.file.0, r.depth)).collect(),
            walk.truncated,
        )
    }

    #[test]
    fn walks_end_at_cycles_depth_and_bounds() {
        let (_dir, store) = graph(&[
            (1, "a", 2),
            (2, "a", 3),
            (3, "a", 1),
            (1, "b", 4),
            (5, "a", 1),
            (3, "a", 6),
        ]);
        let both = Direction::Both;
        assert_eq!(
            walk(&store, None, Direction::Out, 1, 9),
            (vec![(2, 1), (4, 1)], false)
        );
        assert_eq!(
            walk(&store, Some("a"), Direction::Out, 9, 9),
            (vec![(2, 1), (3, 2), (6, 3)], false)
        );
        assert_eq!(
            walk(&store, Some("a"), Direction::In, 1, 9),
            (vec![(3, 1), (5, 1)], false)
        );
        assert_eq!(walk(&store, None, both, 9, 9).0.len(), 5);
        let (reached, truncated) = walk(&store, None, both, 9, 2);
        assert_eq!((reached.len(), truncated), (2, true));
        assert_eq!(walk(&store, None, both, 0, 9), (vec![], false));
    }

    #[test]
    fn the_shortest_way_is_found_in_the_asked_direction() {
        let (_dir, store) = graph(&[
            (1, "a", 2),
            (2, "a", 3),
            (3, "a", 4),
            (1, "b", 5),
            (5, "b", 4),
            (7, "a", 1),
        ]);
        let way = |from, to, kind, direction, files| {
            store
                .read(|rows| {
                    let ends = (FileId(from), FileId(to));
                    shortest_path(rows, ends, kind, direction, files, &mut Everything)
                })
                .unwrap()
                .map(|way| {
                    let steps = way.iter().map(|step| step.file.0);
                    std::iter::once(from).chain(steps).collect::<Vec<_>>()
                })
        };
        assert_eq!(way(1, 4, None, Direction::Out, 99), Some(vec![1, 5, 4]));
        assert_eq!(way(1, 4, Some("a"), Direction::Out, 99), Some(vec![1, 2, 3, 4]));
        assert_eq!(way(4, 1, None, Direction::In, 99), Some(vec![4, 5, 1]));
        assert_eq!(way(4, 7, None, Direction::Both, 99), Some(vec![4, 5, 1, 7]));
        assert_eq!(way(4, 1, None, Direction::Out, 99), None);
        assert_eq!(way(1, 1, None, Direction::Out, 99), Some(vec![1]));
        assert_eq!(way(1, 4, Some("a"), Direction::Out, 1), None);
    }

    #[test]
    fn a_shortest_way_is_as_long_as_breadth_first_search_says() {
        let edges: Vec<_> = (0..150u64)
            .map(|n| (1 + n * 31 % 60, "r", 1 + n * n * 17 % 61))
            .collect();
        let (_dir, store) = graph(&edges);
        let depths: HashMap<u64, u32> = walk(&store, None, Direction::Out, 99, 999)
            .0
            .into_iter()
            .collect();
        for to in 2..62u64 {
            let way = store
                .read(|rows| {
                    let ends = (FileId(1), FileId(to));
                    shortest_path(rows, ends, None, Direction::Out, 999, &mut Everything)
                })
                .unwrap();
            assert_eq!(
                way.map(|way| way.len() as u32),
                depths.get(&to).copied(),
                "to {to}"
            );
        }
    }

    #[test]
    fn the_steps_of_a_way_say_which_relation_was_followed_and_whether_forwards() {
        let (_dir, store) = graph(&[
            (1, "cites", 2),
            (3, "quotes", 2),
            (3, "cites", 4),
            (5, "cites", 4),
        ]);
        let way = store
            .read(|rows| {
                let ends = (FileId(1), FileId(5));
                shortest_path(rows, ends, None, Direction::Both, 99, &mut Everything)
            })
            .unwrap()
            .unwrap();
        let steps: Vec<_> = way
            .iter()
            .map(|s| (s.depth, s.via.0, s.kind.as_str(), s.outward, s.file.0))
            .collect();
        assert_eq!(
            steps,
            [
                (1, 1, "cites", true, 2),
                (2, 2, "quotes", false, 3),
                (3, 3, "cites", true, 4),
                (4, 4, "cites", false, 5)
            ]
        );
    }

    #[test]
    fn what_is_hidden_is_neither_shown_nor_walked_through() {
        struct Without(u64);
        impl Sight for Without {
            fn sees(&mut self, files: &[FileId]) -> Vec<bool> {
                files.iter().map(|file| file.0 != self.0).collect()
            }
        }
        let (_dir, store) = graph(&[(1, "a", 2), (2, "a", 3), (1, "a", 4), (4, "a", 5), (5, "a", 3)]);
        let bounds = Bounds { depth: 2, files: 9 };
        let sight = &mut Without(2);
        let (walk, way) = store
            .read(|rows| {
                let walk = neighbours(rows, FileId(1), None, Direction::Out, bounds, sight)?;
                let ends = (FileId(1), FileId(3));
                Ok((walk, shortest_path(rows, ends, None, Direction::Out, 99, sight)?))
            })
            .unwrap();
        let files: Vec<_> = walk.reached.iter().map(|r| r.file.0).collect();
        assert_eq!(files, [4, 5]);
        let way: Vec<_> = way.unwrap().iter().map(|r| r.file.0).collect();
        assert_eq!(way, [4, 5, 3], "the shorter way leads through what is hidden");
    }
}
