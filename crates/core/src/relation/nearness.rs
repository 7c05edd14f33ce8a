//! Which files belong together: personalised PageRank over a bounded neighbourhood, started from a file and from what
//! is similar to it, so that both what is linked and what is alike comes up, and most of all what is both.
//!
//! The walk that PageRank describes follows a relation in either direction, and with probability [`RESTART`] jumps
//! back to a start. Its limit is approximated by forward push (Andersen, Chung, Lang, "Local graph partitioning using
//! PageRank vectors", 2006): work depends on the wanted precision, not on the size of the graph.

use std::collections::{HashMap, VecDeque};

use super::Sight;
use crate::error::Result;
use crate::ids::FileId;
use crate::store::Rows;
use crate::store::relations::Direction;

/// Probability of jumping back: most weight stays within about six steps.
pub const RESTART: f32 = 0.15;

/// A file passes its weight on when it waits for more than this for each of its relations. The sum of all pushes is
/// at most 1 / (RESTART * PRECISION) relations.
const PRECISION: f32 = 1e-4;

/// Files whose relations are read.
const FILES_MAX: usize = 500;

/// Relations read at one file and in one direction.
const EDGES_MAX: usize = 200;

/// Files near to one, the nearest first, without itself. `similar` are files with a similarity above 0, as a vector
/// search gives them; it may be empty. Scores are probabilities: they compare within one answer only.
pub fn related(
    rows: &Rows<'_>,
    file: FileId,
    similar: &[(FileId, f32)],
    limit: usize,
    sight: &mut dyn Sight,
) -> Result<Vec<(FileId, f32)>> {
    let likenesses: f32 = similar.iter().map(|(_, similarity)| similarity.max(0.0)).sum();
    // The file itself weighs as much as all that is like it.
    let mut starts = vec![(file, if likenesses > 0.0 { likenesses } else { 1.0 })];
    starts.extend_from_slice(similar);
    let mut near = around(rows, &starts, limit.saturating_add(1), sight)?;
    near.retain(|(other, _)| *other != file);
    near.truncate(limit);
    Ok(near)
}

/// Files near to several, the nearest first, those among them. `starts` are files with their weights, which may be of
/// any scale; what is not above 0 counts as nothing. Only files that `sight` shows are found and walked through.
pub fn around(
    rows: &Rows<'_>,
    starts: &[(FileId, f32)],
    limit: usize,
    sight: &mut dyn Sight,
) -> Result<Vec<(FileId, f32)>> {
    let total: f32 = starts.iter().map(|(_, weight)| weight.max(0.0)).sum();
    if total <= 0.0 {
        return Ok(Vec::new());
    }
    let shares: Vec<_> = starts
        .iter()
        .map(|(file, weight)| (*file, weight.max(0.0) / total))
        .collect();
    let mut near: Vec<_> = personalised_pagerank(rows, &shares, sight)?
        .into_iter()
        .filter(|(_, weight)| *weight > 0.0)
        .collect();
    near.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    near.truncate(limit);
    Ok(near)
}

/// The probability of being at each file, jumps leading to the `starts` by their weights, which sum up to 1.
fn personalised_pagerank(
    rows: &Rows<'_>,
    starts: &[(FileId, f32)],
    sight: &mut dyn Sight,
) -> Result<HashMap<FileId, f32>> {
    let mut rank: HashMap<FileId, f32> = HashMap::new();
    let mut waiting: HashMap<FileId, f32> = HashMap::new();
    let mut known: HashMap<FileId, Vec<FileId>> = HashMap::new();
    let mut queue = VecDeque::new();
    for (file, weight) in starts {
        *waiting.entry(*file).or_default() += weight;
        queue.push_back(*file);
    }
    while let Some(file) = queue.pop_front() {
        let weight = waiting.get(&file).copied().unwrap_or(0.0);
        if weight <= PRECISION {
            continue;
        }
        if !known.contains_key(&file) {
            if known.len() == FILES_MAX {
                continue;
            }
            let edges = rows.edges(file, None, Direction::Both, EDGES_MAX)?;
            let others: Vec<FileId> = edges.into_iter().map(|edge| edge.file).collect();
            let visible = sight.sees(&others);
            let others = others.into_iter().zip(visible).filter(|(_, visible)| *visible);
            known.insert(file, others.map(|(other, _)| other).collect());
        }
        let others = &known[&file];
        if weight <= PRECISION * others.len() as f32 {
            continue;
        }
        waiting.insert(file, 0.0);
        *rank.entry(file).or_default() += RESTART * weight;
        if others.is_empty() {
            // Nowhere to go: what would be passed on stays, or likenesses without relations would lose to linked ones.
            *rank.entry(file).or_default() += (1.0 - RESTART) * weight;
            continue;
        }
        let passed = (1.0 - RESTART) * weight / others.len() as f32;
        for other in others {
            let least = PRECISION * known.get(other).map_or(1, |others| others.len().max(1)) as f32;
            let waits = waiting.entry(*other).or_default();
            let before = *waits;
            *waits += passed;
            // Queued once, when it comes to wait for enough.
            if before <= least && *waits > least {
                queue.push_back(*other);
            }
        }
    }
    // Weight that was not worth passing on is where it is.
    for (file, weight) in waiting {
        *rank.entry(file).or_default() += weight;
    }
    Ok(rank)
}

#[cfg(test)]
mod tests {
    use super::super::Everything;
    use super::*;
    use crate::store::Store;
    use crate::store::relations::{Relation, Target};

    fn graph(edges: &[(u64, u64)]) -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store.db")).unwrap();
        store
            .write(|tx| {
                edges.iter().try_for_each(|(from, to)| {
                    tx.relate(&Relation {
                        from: FileId(*from),
                        kind: "r".into(),
                        to: Target::File(FileId(*to)),
                        properties: None,
                        derived: false,
                    })
                })
            })
            .unwrap();
        (dir, store)
    }

    /// Power iteration over the same walk, to which the push must come close.
    fn exact(edges: &[(u64, u64)], start: u64) -> HashMap<u64, f32> {
        let mut others: HashMap<u64, Vec<u64>> = HashMap::new();
        for (from, to) in edges {
            others.entry(*from).or_default().push(*to);
            others.entry(*to).or_default().push(*from);
        }
        let mut rank = HashMap::from([(start, 1.0f32)]);
        for _ in 0..200 {
            let mut next = HashMap::from([(start, RESTART)]);
            for (file, weight) in &rank {
                for other in &others[file] {
                    *next.entry(*other).or_default() += (1.0 - RESTART) * weight / others[file].len() as f32;
                }
            }
            rank = next;
        }
        rank
    }

    #[test]
    fn pushing_comes_close_to_the_limit_of_the_walk() {
        let edges: Vec<_> = (0..400u64)
            .map(|n| (1 + n * 7919 % 97, 1 + (n * 104_729 + n / 97) % 89))
            .filter(|(from, to)| from != to)
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect();
        let (_dir, store) = graph(&edges);
        let truth = exact(&edges, 5);
        let near = store
            .read(|rows| related(rows, FileId(5), &[], 1000, &mut Everything))
            .unwrap();
        assert!(near.len() > 50);
        for (file, weight) in &near {
            assert!(
                (weight - truth[&file.0]).abs() < 0.005,
                "{file}: {weight}, {}",
                truth[&file.0]
            );
        }
    }

    #[test]
    fn what_is_linked_and_similar_comes_before_what_is_only_one_of_both() {
        let (_dir, store) = graph(&[(1, 2), (1, 3), (4, 5)]);
        let similar = [(FileId(3), 0.8), (FileId(4), 0.8)];
        let near = store
            .read(|rows| related(rows, FileId(1), &similar, 10, &mut Everything))
            .unwrap();
        let files: Vec<_> = near.iter().map(|(file, _)| file.0).collect();
        assert_eq!(files[0], 3);
        assert!(files.contains(&2) && files.contains(&4) && files.contains(&5));
    }

    #[test]
    fn a_file_alone_has_nothing_near() {
        let (_dir, store) = graph(&[(2, 3)]);
        assert_eq!(
            store
                .read(|rows| related(rows, FileId(1), &[], 10, &mut Everything))
                .unwrap(),
            []
        );
    }
}
