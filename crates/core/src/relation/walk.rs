//! Following relations: the files within some steps of one, and the shortest way between two.
//!
//! Walks go breadth first, so the bound on files cuts off the farthest ones. Cycles end by themselves: no file is
//! visited twice. Each file costs one or two index look-ups, about 10 us.

use std::collections::HashMap;

use crate::error::Result;
use crate::ids::FileId;
use crate::store::Rows;
use crate::store::relations::Direction;

/// Relations read at one file and in one direction: what a hub of more than this is related to is chance.
const EDGES_MAX: usize = 1000;

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

/// The files within `bounds` of `start`, following relations of type `kind` (of any, if `None`).
pub fn neighbours(
    rows: &Rows<'_>,
    start: FileId,
    kind: Option<&str>,
    direction: Direction,
    bounds: Bounds,
) -> Result<Walk> {
    let mut walk = Walk::default();
    let mut seen = std::collections::HashSet::from([start]);
    let mut next = 0;
    let mut at = (start, 0);
    loop {
        let (file, depth) = at;
        if depth < bounds.depth {
            let edges = rows.edges(file, kind, direction, EDGES_MAX)?;
            walk.truncated |= edges.len() >= EDGES_MAX;
            for edge in edges {
                if seen.contains(&edge.file) {
                    continue;
                }
                if walk.reached.len() == bounds.files {
                    walk.truncated = true;
                    return Ok(walk);
                }
                seen.insert(edge.file);
                walk.reached.push(Reached {
                    file: edge.file,
                    depth: depth + 1,
                    via: file,
                    kind: edge.kind,
                    outward: edge.outward,
                });
            }
        }
        match walk.reached.get(next) {
            Some(reached) => at = (reached.file, reached.depth),
            None => return Ok(walk),
        }
        next += 1;
    }
}

/// A shortest way from one file to another, as the files on it with both ends, or `None` if there is none within
/// `files_max` visited files. Two searches meet, each going on where fewer files wait.
pub fn shortest_path(
    rows: &Rows<'_>,
    from: FileId,
    to: FileId,
    kind: Option<&str>,
    direction: Direction,
    files_max: usize,
) -> Result<Option<Vec<FileId>>> {
    if from == to {
        return Ok(Some(vec![from]));
    }
    let backward = match direction {
        Direction::Out => Direction::In,
        Direction::In => Direction::Out,
        Direction::Both => Direction::Both,
    };
    let mut ahead = Front::new(from);
    let mut behind = Front::new(to);
    while !ahead.waiting.is_empty() && !behind.waiting.is_empty() {
        if ahead.from.len() + behind.from.len() > files_max {
            return Ok(None);
        }
        let forward = ahead.waiting.len() <= behind.waiting.len();
        let (front, other, way) = if forward {
            (&mut ahead, &behind, direction)
        } else {
            (&mut behind, &ahead, backward)
        };
        if let Some(meeting) = front.advance(rows, kind, way, other)? {
            let mut way = ahead.trail(meeting);
            way.reverse();
            way.extend(behind.trail(meeting).into_iter().skip(1));
            return Ok(Some(way));
        }
    }
    Ok(None)
}

/// One of the two searches.
struct Front {
    /// Files that were reached, and from where; the start from itself.
    from: HashMap<FileId, FileId>,
    /// Files reached by the last step.
    waiting: Vec<FileId>,
}

impl Front {
    fn new(start: FileId) -> Front {
        Front {
            from: HashMap::from([(start, start)]),
            waiting: vec![start],
        }
    }

    /// One whole step in every direction. Gives a file at which the other search has been too: all such files of one
    /// step are equally far, since the other search has taken whole steps as well.
    fn advance(
        &mut self,
        rows: &Rows<'_>,
        kind: Option<&str>,
        way: Direction,
        other: &Front,
    ) -> Result<Option<FileId>> {
        for file in std::mem::take(&mut self.waiting) {
            for edge in rows.edges(file, kind, way, EDGES_MAX)? {
                if self.from.contains_key(&edge.file) {
                    continue;
                }
                self.from.insert(edge.file, file);
                if other.from.contains_key(&edge.file) {
                    return Ok(Some(edge.file));
                }
                self.waiting.push(edge.file);
            }
        }
        Ok(None)
    }

    /// From a file back to the start.
    fn trail(&self, mut file: FileId) -> Vec<FileId> {
        let mut trail = vec![file];
        while self.from[&file] != file {
            file = self.from[&file];
            trail.push(file);
        }
        trail
    }
}

#[cfg(test)]
mod tests {
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
            .read(|rows| neighbours(rows, FileId(1), kind, direction, bounds))
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
                .read(|rows| shortest_path(rows, FileId(from), FileId(to), kind, direction, files))
                .unwrap()
                .map(|way| way.iter().map(|file| file.0).collect::<Vec<_>>())
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
                .read(|rows| shortest_path(rows, FileId(1), FileId(to), None, Direction::Out, 999))
                .unwrap();
            assert_eq!(
                way.map(|way| way.len() as u32 - 1),
                depths.get(&to).copied(),
                "to {to}"
            );
        }
    }
}
