//! One ranking from two: words and meaning.
//!
//! Each list is scaled to 0..=1 between its own worst and best file, then the two are added with the weight that the
//! embedder's card states (Bruch, Gai and Ingber, "An analysis of fusion functions for hybrid retrieval", 2023).
//! Reciprocal rank fusion, which needs no weight, loses two points of nDCG@10 here, since the lists are unequal.

use rustc_hash::FxHashMap;

use crate::ids::{FileId, PassageId};
pub use crate::semantic::lexical::Hit as Scored;

/// Files that each list should bring: fewer lose what only the sum finds, more flatten the scale.
pub const DEPTH: usize = 100;

/// A file with the scores that brought it up.
#[derive(Clone, Debug, PartialEq)]
pub struct FusedFile {
    /// The file.
    pub file: FileId,
    /// 0..=1, the higher the better.
    pub score: f32,
    /// The best similarity among its passages as it came in, if the vectors found it.
    pub score_vec: Option<f32>,
    /// The best BM25 among its passages as it came in, if the words found it.
    pub score_bm25: Option<f32>,
    /// Its nearness by relations, if those ranked it.
    pub score_rel: Option<f32>,
    /// Its passages with their own fused scores, the best first.
    pub passages: Vec<Scored>,
}

/// Two lists of passages fused into files.
pub struct Fusion {
    /// The best first, ties in the order of ids.
    pub files: Vec<FusedFile>,
    words: Scale,
    words_share: f32,
}

/// Fuses two lists of passages into files. `weight` is the share of `vector`, 0..=1; when one list is empty the other
/// has all of it.
pub fn fuse(lexical: &[Scored], vector: &[Scored], weight: f32) -> Fusion {
    let weight = match (lexical.is_empty(), vector.is_empty()) {
        (true, _) => 1.0,
        (_, true) => 0.0,
        _ => weight,
    };
    let words = Scale::of(lexical);
    let mut files: FxHashMap<FileId, Found> = FxHashMap::default();
    for (side, list, weight) in [(0, lexical, 1.0 - weight), (1, vector, weight)] {
        let scale = if side == 0 { words } else { Scale::of(list) };
        for hit in list {
            let found = files.entry(hit.id.file()).or_default();
            let raw = &mut found.raw[side];
            *raw = Some(raw.map_or(hit.score, |best| best.max(hit.score)));
            let scaled = weight * scale.of_score(hit.score);
            found.scaled[side] = found.scaled[side].max(scaled);
            found.add(hit.id, scaled);
        }
    }
    let mut files: Vec<FusedFile> = files
        .into_iter()
        .map(|(file, found)| found.into_file(file))
        .collect();
    files.sort_unstable_by(|a, b| b.score.total_cmp(&a.score).then(a.file.cmp(&b.file)));
    Fusion {
        files,
        words,
        words_share: 1.0 - weight,
    }
}

impl Fusion {
    /// Adds passages that words found in the first `count` files and that were not in the list, on the same scale. The
    /// lists had the best passage of each file, so the order of files does not change.
    pub fn add_words(&mut self, further: &[Scored], count: usize) {
        for file in self.files.iter_mut().take(count) {
            for hit in further.iter().filter(|hit| hit.id.file() == file.file) {
                let score = self.words_share * self.words.of_score(hit.score);
                match file.passages.iter_mut().find(|known| known.id == hit.id) {
                    Some(known) => known.score += score,
                    None => file.passages.push(Scored { id: hit.id, score }),
                }
            }
            file.passages.sort_unstable_by(best_first);
        }
    }
}

fn best_first(a: &Scored, b: &Scored) -> std::cmp::Ordering {
    b.score.total_cmp(&a.score).then(a.id.cmp(&b.id))
}

#[derive(Default)]
struct Found {
    raw: [Option<f32>; 2],
    scaled: [f32; 2],
    /// A few: each list brings its best.
    passages: Vec<Scored>,
}

impl Found {
    fn add(&mut self, id: PassageId, score: f32) {
        match self.passages.iter_mut().find(|known| known.id == id) {
            Some(known) => known.score += score,
            None => self.passages.push(Scored { id, score }),
        }
    }

    fn into_file(self, file: FileId) -> FusedFile {
        let mut passages = self.passages;
        passages.sort_unstable_by(best_first);
        let [score_bm25, score_vec] = self.raw;
        FusedFile {
            file,
            score: self.scaled[0] + self.scaled[1],
            score_vec,
            score_bm25,
            score_rel: None,
            passages,
        }
    }
}

/// Between the worst and the best *file* of a list, so that further passages of good files change nothing.
#[derive(Clone, Copy)]
struct Scale {
    low: f32,
    high: f32,
}

impl Scale {
    fn of(list: &[Scored]) -> Scale {
        let mut best: FxHashMap<FileId, f32> = FxHashMap::default();
        for hit in list {
            best.entry(hit.id.file())
                .and_modify(|score| *score = score.max(hit.score))
                .or_insert(hit.score);
        }
        let low = best.values().copied().fold(f32::INFINITY, f32::min);
        let high = best.values().copied().fold(f32::NEG_INFINITY, f32::max);
        Scale { low, high }
    }

    fn of_score(&self, score: f32) -> f32 {
        if self.high > self.low {
            ((score - self.low) / (self.high - self.low)).max(0.0)
        } else {
            1.0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(scores: &[(u64, u32, f32)]) -> Vec<Scored> {
        let scored = |&(file, slot, score): &(u64, u32, f32)| Scored {
            id: PassageId::new(FileId(file), slot),
            score,
        };
        scores.iter().map(scored).collect()
    }

    fn ranked(lexical: &[(u64, u32, f32)], vector: &[(u64, u32, f32)], weight: f32) -> Vec<(u64, f32)> {
        let fused = fuse(&list(lexical), &list(vector), weight);
        fused
            .files
            .iter()
            .map(|file| (file.file.0, (file.score * 1000.0).round() / 1000.0))
            .collect()
    }

    #[test]
    fn scores_are_scaled_weighted_and_added() {
        let lexical = [(1, 0, 12.0), (2, 0, 8.0), (3, 0, 2.0)];
        let vector = [(3, 0, 0.9), (2, 0, 0.6), (4, 0, 0.5)];
        assert_eq!(
            ranked(&lexical, &vector, 0.3),
            [(1, 0.7), (2, 0.495), (3, 0.3), (4, 0.0)]
        );
    }

    #[test]
    fn one_list_alone_keeps_its_order_on_the_full_scale() {
        let some = [(1, 0, 3.0), (2, 0, 2.0), (3, 0, 1.0)];
        assert_eq!(ranked(&some, &[], 0.3), [(1, 1.0), (2, 0.5), (3, 0.0)]);
        assert_eq!(ranked(&[], &some, 0.3), [(1, 1.0), (2, 0.5), (3, 0.0)]);
        assert_eq!(ranked(&[], &[], 0.3), []);
        assert_eq!(ranked(&[(7, 0, 3.0)], &[], 0.3), [(7, 1.0)]);
    }

    #[test]
    fn ties_are_in_the_order_of_ids() {
        let same = [(9, 0, 1.0), (3, 0, 1.0), (5, 0, 1.0)];
        assert_eq!(ranked(&same, &[], 0.3), [(3, 1.0), (5, 1.0), (9, 1.0)]);
    }

    #[test]
    fn a_file_is_as_good_as_its_best_passages_and_lists_them_by_their_own_score() {
        let lexical = [(1, 4, 10.0), (1, 2, 5.0), (2, 0, 0.0)];
        let vector = [(1, 2, 0.8), (2, 0, 0.4)];
        let files = fuse(&list(&lexical), &list(&vector), 0.5).files;
        assert_eq!((files[0].file, files[0].score), (FileId(1), 1.0));
        assert_eq!((files[0].score_bm25, files[0].score_vec), (Some(10.0), Some(0.8)));
        let slots: Vec<u32> = files[0].passages.iter().map(|p| p.id.slot()).collect();
        assert_eq!(slots, [2, 4], "0.25 + 0.5 before 0.5");
    }

    #[test]
    fn further_passages_join_those_that_made_the_order() {
        let mut fused = fuse(
            &list(&[(1, 4, 10.0), (2, 0, 0.0)]),
            &list(&[(1, 2, 0.8), (2, 0, 0.4)]),
            0.5,
        );
        fused.add_words(&list(&[(1, 2, 5.0), (1, 7, 2.0), (9, 0, 3.0)]), 1);
        let passages: Vec<_> = fused.files[0]
            .passages
            .iter()
            .map(|p| (p.id.slot(), p.score))
            .collect();
        assert_eq!(passages, [(2, 0.75), (4, 0.5), (7, 0.1)]);
        assert_eq!(fused.files.len(), 2);
    }
}
