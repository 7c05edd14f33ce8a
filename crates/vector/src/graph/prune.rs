//! Choosing a node's edges from candidates: diverse first, then filled up with the nearest.

use super::Graph;
use super::beam::{self, Key};
use crate::measure::Measure;
use crate::quant::NibbleQuery;

/// Working memory of [`Graph::choose`].
#[derive(Default)]
pub(super) struct PruneScratch {
    query: NibbleQuery,
    codes: Vec<*const u8>,
    sums: Vec<i32>,
    /// Positions of candidates that no chosen one hides yet.
    open: Vec<u32>,
    hidden: Vec<u32>,
}

// SAFETY: the addresses are working memory: they are written and read within one call, on one thread.
unsafe impl Send for PruneScratch {}

impl Graph {
    /// Of `candidates` (sorted by their distance from the node) the edges it shall have: at most `degree`.
    ///
    /// The nearest candidate is chosen and hides all those that are nearer to it, by the factor alpha, than to the node;
    /// so on with the nearest one left. What room remains is given to the nearest hidden ones: a list of 32 edges
    /// instead of 23 costs the search nothing, it reads whole cache lines, and saves hops.
    pub(super) fn choose(&self, candidates: &[Key], s: &mut PruneScratch, chosen: &mut Vec<u32>) {
        chosen.clear();
        s.hidden.clear();
        s.open.clear();
        s.open.extend(0..candidates.len() as u32);
        // Inner products can be negative, where a factor would turn the comparison round.
        let alpha = if self.measure == Measure::Dot {
            1.0
        } else {
            self.params.alpha
        };
        while !s.open.is_empty() && chosen.len() < self.params.degree {
            let nearest = s.open.remove(0);
            let slot = beam::slot(candidates[nearest as usize]);
            chosen.push(slot);
            self.hide(slot, alpha, candidates, s);
        }
        s.hidden.sort_unstable();
        let room = self.params.degree - chosen.len();
        chosen.extend(
            s.hidden
                .iter()
                .take(room)
                .map(|&i| beam::slot(candidates[i as usize])),
        );
    }

    /// Moves the open candidates that are nearer to `slot` than to the node from `open` to `hidden`.
    fn hide(&self, slot: u32, alpha: f32, candidates: &[Key], s: &mut PruneScratch) {
        let at = |i: u32| beam::slot(candidates[i as usize]);
        self.coder.prepare_row(
            self.code_of(slot),
            self.factors_of(slot),
            self.measure,
            &mut s.query,
        );
        s.codes.clear();
        s.codes
            .extend(s.open.iter().map(|&i| self.codes.at(at(i)).cast_const()));
        s.sums.resize(s.codes.len(), 0);
        // SAFETY: each pointer is the code of a slot that is not vacant, `query.codes().len() / 2` bytes long.
        unsafe { self.kernels.gather_u4(s.query.codes(), &s.codes, &mut s.sums) };
        let PruneScratch {
            open,
            hidden,
            sums,
            query,
            ..
        } = s;
        let mut sums = sums.iter();
        open.retain(|&i| {
            let sum = *sums.next().expect("a sum for every open candidate");
            let apart = query.distance(sum, self.factors_of(at(i)));
            let hides = alpha * apart < beam::distance(candidates[i as usize]);
            if hides {
                hidden.push(i);
            }
            !hides
        });
    }

    /// The keys of `others` as seen from `slot`, sorted.
    pub(super) fn keys_from(&self, slot: u32, others: &[u32], s: &mut PruneScratch, keys: &mut Vec<Key>) {
        self.coder.prepare_row(
            self.code_of(slot),
            self.factors_of(slot),
            self.measure,
            &mut s.query,
        );
        s.codes.clear();
        s.codes
            .extend(others.iter().map(|&o| self.codes.at(o).cast_const()));
        s.sums.resize(s.codes.len(), 0);
        // SAFETY: each pointer is the code of a slot that is not vacant, `query.codes().len() / 2` bytes long.
        unsafe { self.kernels.gather_u4(s.query.codes(), &s.codes, &mut s.sums) };
        keys.clear();
        keys.extend(
            others
                .iter()
                .zip(&s.sums)
                .map(|(&o, &sum)| beam::key(s.query.distance(sum, self.factors_of(o)), o)),
        );
        keys.sort_unstable();
    }
}
