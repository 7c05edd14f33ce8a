//! Nodes whose distances are computed together.

use super::Graph;
use super::beam::{self, Key};
use crate::quant::{NibbleFactors, NibbleQuery};
use crate::scan::prefetch;

/// Slots and, after [`Batch::measure`], their estimated distances. All memory is reused.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) slots: Vec<u32>,
    codes: Vec<*const u8>,
    sums: Vec<i32>,
    distances: Vec<f32>,
}

// SAFETY: the addresses are working memory: they are written and read within one step of a walk, on one thread.
unsafe impl Send for Batch {}

impl Batch {
    /// Asks the memory for the codes of all slots, none of which is vacant.
    #[inline]
    pub(super) fn fetch(&mut self, graph: &Graph) {
        self.codes.clear();
        for &slot in &self.slots {
            let code = graph.codes.at(slot).cast_const();
            (0..graph.codes.stride())
                .step_by(64)
                .for_each(|line| prefetch(code.wrapping_add(line)));
            prefetch(graph.factors.at(slot));
            self.codes.push(code);
        }
    }

    /// Measures the slots that were fetched.
    #[inline]
    pub(super) fn measure(&mut self, graph: &Graph, query: &NibbleQuery) {
        self.sums.resize(self.codes.len(), 0);
        // SAFETY: each pointer is the code of a slot that is not vacant, `query.codes().len() / 2` bytes long.
        unsafe {
            graph
                .kernels
                .gather_u4(query.codes(), &self.codes, &mut self.sums)
        };
        let factors = self.slots.iter().map(|&slot| graph.factors_of(slot));
        self.distances.clear();
        self.distances.extend(
            self.sums
                .iter()
                .zip(factors)
                .map(|(&sum, f)| query.distance(sum, f)),
        );
    }

    /// Measures nodes whose codes lie elsewhere.
    pub(super) fn measure_these(
        &mut self,
        graph: &Graph,
        query: &NibbleQuery,
        slots: &[u32],
        codes: &[u8],
        factors: &[NibbleFactors],
    ) {
        self.slots.clear();
        self.slots.extend_from_slice(slots);
        self.codes.clear();
        self.codes
            .extend(codes.chunks_exact(graph.codes.stride()).map(<[u8]>::as_ptr));
        assert!(
            self.codes.len() == slots.len() && factors.len() == slots.len(),
            "a code and factors for each"
        );
        self.sums.resize(self.codes.len(), 0);
        // SAFETY: each pointer is a chunk of the stride, which is `query.codes().len() / 2` bytes.
        unsafe {
            graph
                .kernels
                .gather_u4(query.codes(), &self.codes, &mut self.sums)
        };
        self.distances.clear();
        self.distances.extend(
            self.sums
                .iter()
                .zip(factors)
                .map(|(&sum, &f)| query.distance(sum, f)),
        );
    }

    /// Hands the keys of those not farther than `limit` to `meet`. Most are farther: they cost a comparison.
    #[inline]
    pub(super) fn each_within(&self, limit: f32, mut meet: impl FnMut(Key)) {
        for (&slot, &distance) in self.slots.iter().zip(&self.distances) {
            if distance <= limit {
                meet(beam::key(distance, slot));
            }
        }
    }
}
