//! nDCG, recall and reciprocal rank, as trec_eval defines them.

use std::collections::HashMap;

use serde::Serialize;

/// Measures of one ranking, or their sums and means over many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Measures {
    /// Normalised discounted cumulative gain of the first 10 (Jarvelin and Kekalainen 2002, linear gains).
    pub ndcg_at_10: f64,
    /// Share of the relevant documents among the first 10.
    pub recall_at_10: f64,
    /// Share of the relevant documents among the first 100.
    pub recall_at_100: f64,
    /// One over the rank of the first relevant document, 0 beyond 10.
    pub mrr_at_10: f64,
}

impl Measures {
    /// Of a ranking, best first, against grades above 0 of the relevant documents.
    pub fn of(ranking: &[usize], grades: &HashMap<usize, f64>) -> Measures {
        let hits = |depth: usize| {
            ranking
                .iter()
                .take(depth)
                .filter(|id| grades.contains_key(id))
                .count() as f64
        };
        let relevant = grades.len().max(1) as f64;
        let gains = ranking
            .iter()
            .take(10)
            .map(|id| grades.get(id).copied().unwrap_or(0.0));
        let mut ideal: Vec<f64> = grades.values().copied().collect();
        ideal.sort_unstable_by(|a, b| b.total_cmp(a));
        let best = discounted(ideal.into_iter().take(10));
        let first = ranking.iter().take(10).position(|id| grades.contains_key(id));
        Measures {
            ndcg_at_10: if best > 0.0 { discounted(gains) / best } else { 0.0 },
            recall_at_10: hits(10) / relevant,
            recall_at_100: hits(100) / relevant,
            mrr_at_10: first.map_or(0.0, |rank| 1.0 / (rank + 1) as f64),
        }
    }

    /// Adds another ranking's.
    pub fn add(&mut self, other: &Measures) {
        self.ndcg_at_10 += other.ndcg_at_10;
        self.recall_at_10 += other.recall_at_10;
        self.recall_at_100 += other.recall_at_100;
        self.mrr_at_10 += other.mrr_at_10;
    }

    /// The mean of a sum over `count` rankings.
    pub fn mean(self, count: usize) -> Measures {
        let count = count.max(1) as f64;
        Measures {
            ndcg_at_10: self.ndcg_at_10 / count,
            recall_at_10: self.recall_at_10 / count,
            recall_at_100: self.recall_at_100 / count,
            mrr_at_10: self.mrr_at_10 / count,
        }
    }
}

fn discounted(gains: impl Iterator<Item = f64>) -> f64 {
    gains
        .enumerate()
        .map(|(rank, gain)| gain / ((rank + 2) as f64).log2())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ranking_is_measured_against_the_ideal_one() {
        let grades = HashMap::from([(1, 2.0), (2, 1.0), (3, 1.0)]);
        let ideal = Measures::of(&[1, 2, 3], &grades);
        assert_eq!(
            ideal,
            Measures {
                ndcg_at_10: 1.0,
                recall_at_10: 1.0,
                recall_at_100: 1.0,
                mrr_at_10: 1.0
            }
        );
        assert_eq!(Measures::of(&[], &grades), Measures::default());
        // 9, 2, 1: 1 / log2(3) + 2 / log2(4) over 2 + 1 / log2(3) + 1 / log2(4).
        let found = Measures::of(&[9, 2, 1], &grades);
        let log3 = 3f64.log2();
        assert!((found.ndcg_at_10 - (1.0 / log3 + 1.0) / (2.0 + 1.0 / log3 + 0.5)).abs() < 1e-12);
        assert_eq!((found.recall_at_10, found.mrr_at_10), (2.0 / 3.0, 0.5));
    }

    #[test]
    fn what_stands_beyond_the_cut_does_not_count() {
        let grades = HashMap::from([(50, 1.0)]);
        let ranking: Vec<usize> = (0..200).collect();
        let found = Measures::of(&ranking, &grades);
        assert_eq!(
            (
                found.ndcg_at_10,
                found.recall_at_10,
                found.recall_at_100,
                found.mrr_at_10
            ),
            (0.0, 0.0, 1.0, 0.0)
        );
    }
}
