//! The exact rows behind every structure, as whoever stores them shows them.

use half::f16;

use crate::kernel::Kernels;
use crate::measure::Measure;

/// A run of rows that lie next to each other.
#[derive(Clone, Copy, Debug)]
pub enum RowSlice<'a> {
    /// Single precision.
    F32(&'a [f32]),
    /// Half precision.
    F16(&'a [f16]),
    /// Bytes, and one scale for each row.
    I8(&'a [i8], &'a [f32]),
}

/// Access to rows by number. Rows need not be contiguous as a whole, only in runs.
pub trait Rows: Sync {
    /// The dimension of every row.
    fn dim(&self) -> usize;

    /// The number of rows; all numbers below it are readable.
    fn len(&self) -> usize;

    /// True if there is no row.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Row `first` and as many of those after it as lie next to it in memory; at least the one, and not beyond `len`.
    fn run(&self, first: u32) -> RowSlice<'_>;
}

/// Rows that are one slice.
#[derive(Clone, Copy, Debug)]
pub struct SliceRows<'a> {
    dim: usize,
    rows: RowSlice<'a>,
}

impl<'a> SliceRows<'a> {
    /// Rows of `dim` elements.
    ///
    /// # Panics
    /// If the slice is not whole rows.
    pub fn new(dim: usize, rows: RowSlice<'a>) -> SliceRows<'a> {
        assert!(dim > 0 && rows.elements().is_multiple_of(dim), "not whole rows");
        SliceRows { dim, rows }
    }
}

impl Rows for SliceRows<'_> {
    fn dim(&self) -> usize {
        self.dim
    }

    fn len(&self) -> usize {
        self.rows.elements() / self.dim
    }

    fn run(&self, first: u32) -> RowSlice<'_> {
        self.rows.from(first as usize, self.dim)
    }
}

impl<'a> RowSlice<'a> {
    /// The number of elements of all rows.
    pub fn elements(&self) -> usize {
        match self {
            RowSlice::F32(x) => x.len(),
            RowSlice::F16(x) => x.len(),
            RowSlice::I8(x, _) => x.len(),
        }
    }

    fn from(self, first: usize, dim: usize) -> RowSlice<'a> {
        match self {
            RowSlice::F32(x) => RowSlice::F32(&x[first * dim..]),
            RowSlice::F16(x) => RowSlice::F16(&x[first * dim..]),
            RowSlice::I8(x, scales) => RowSlice::I8(&x[first * dim..], &scales[first..]),
        }
    }

    fn take(self, rows: usize, dim: usize) -> RowSlice<'a> {
        match self {
            RowSlice::F32(x) => RowSlice::F32(&x[..rows * dim]),
            RowSlice::F16(x) => RowSlice::F16(&x[..rows * dim]),
            RowSlice::I8(x, scales) => RowSlice::I8(&x[..rows * dim], &scales[..rows]),
        }
    }

    /// Writes row `i` of the run as f32 into `out`, whose length is the dimension.
    pub fn widen(&self, i: usize, out: &mut [f32]) {
        let dim = out.len();
        match self.from(i, dim) {
            RowSlice::F32(x) => out.copy_from_slice(&x[..dim]),
            RowSlice::F16(x) => out.iter_mut().zip(x).for_each(|(o, x)| *o = x.to_f32()),
            RowSlice::I8(x, scales) => out
                .iter_mut()
                .zip(x)
                .for_each(|(o, &x)| *o = x as f32 * scales[0]),
        }
    }

    fn address(&self) -> (*const u8, usize) {
        match self {
            RowSlice::F32(x) => (x.as_ptr().cast(), 4),
            RowSlice::F16(x) => (x.as_ptr().cast(), 2),
            RowSlice::I8(x, _) => (x.as_ptr().cast(), 1),
        }
    }
}

/// A query bound to a measure: exact distances to rows of any element type.
///
/// Rows of bytes are compared with the query in full precision: the row is widened, not the query rounded.
pub struct Query<'a> {
    vector: &'a [f32],
    measure: Measure,
    kernels: &'static Kernels,
}

impl<'a> Query<'a> {
    /// A query with the kernels of this CPU.
    pub fn new(vector: &'a [f32], measure: Measure) -> Query<'a> {
        Query {
            vector,
            measure,
            kernels: Kernels::get(),
        }
    }

    /// The query's vector.
    pub fn vector(&self) -> &'a [f32] {
        self.vector
    }

    /// The query's measure.
    pub fn measure(&self) -> Measure {
        self.measure
    }

    /// The exact distance of one row.
    pub fn distance(&self, rows: &dyn Rows, row: u32) -> f32 {
        let mut out = [0.0];
        self.distances(rows.run(row).take(1, self.vector.len()), &mut out);
        out[0]
    }

    /// Exact distances of the first `out.len()` rows of a run.
    ///
    /// # Panics
    /// If the run is shorter.
    pub fn distances(&self, run: RowSlice<'_>, out: &mut [f32]) {
        let (q, k, dim) = (self.vector, self.kernels, self.vector.len());
        match (run.take(out.len(), dim), self.measure) {
            (RowSlice::F32(rows), Measure::L2) => k.many_l2_f32(q, rows, out),
            (RowSlice::F32(rows), Measure::Dot) => k.many_dot_f32(q, rows, out),
            (RowSlice::F16(rows), Measure::L2) => k.many_l2_f16(q, rows, out),
            (RowSlice::F16(rows), Measure::Dot) => k.many_dot_f16(q, rows, out),
            (RowSlice::F32(rows), Measure::Cosine) => {
                each(rows, dim, out, |row| cosine(k.cos_f32(q, row)));
            }
            (RowSlice::F16(rows), Measure::Cosine) => {
                each(rows, dim, out, |row| cosine(k.cos_f16(q, row)));
            }
            (run @ RowSlice::I8(..), measure) => {
                let mut wide = vec![0.0; dim];
                for (i, out) in out.iter_mut().enumerate() {
                    run.widen(i, &mut wide);
                    *out = match measure {
                        Measure::L2 => k.l2_f32(q, &wide),
                        Measure::Dot => k.dot_f32(q, &wide),
                        Measure::Cosine => cosine(k.cos_f32(q, &wide)),
                    };
                }
            }
        }
        if self.measure == Measure::Dot {
            out.iter_mut().for_each(|d| *d = -*d);
        }
    }

    /// Asks the memory for a row that will be compared soon.
    #[inline]
    pub fn prefetch(&self, rows: &dyn Rows, row: u32) {
        let (start, element) = rows.run(row).address();
        for line in (0..self.vector.len() * element).step_by(64) {
            prefetch(start.wrapping_add(line));
        }
    }
}

fn cosine(s: crate::kernel::Sums<f32>) -> f32 {
    Measure::cosine_of(s.dot, s.aa, s.bb)
}

fn each<T>(rows: &[T], dim: usize, out: &mut [f32], distance: impl Fn(&[T]) -> f32) {
    rows.chunks_exact(dim)
        .zip(out)
        .for_each(|(row, out)| *out = distance(row));
}

/// Asks for one cache line; any address will do.
#[inline(always)]
pub(crate) fn prefetch(line: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch never faults, and SSE is part of x86-64.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(line.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_element_types_give_nearly_the_same_distance() {
        let dim = 100;
        let wide: Vec<f32> = (0..3 * dim).map(|i| (i % 37) as f32 - 18.0).collect();
        let half: Vec<f16> = wide.iter().map(|&x| f16::from_f32(x)).collect();
        let bytes: Vec<i8> = wide.iter().map(|&x| (2.0 * x) as i8).collect();
        let q: Vec<f32> = (0..dim).map(|i| (i % 11) as f32).collect();
        for measure in [Measure::L2, Measure::Dot, Measure::Cosine] {
            let query = Query::new(&q, measure);
            let of = |rows: RowSlice| query.distance(&SliceRows::new(dim, rows), 2);
            let want = of(RowSlice::F32(&wide));
            for got in [of(RowSlice::F16(&half)), of(RowSlice::I8(&bytes, &[0.5; 3]))] {
                assert!(
                    (got - want).abs() <= 1e-5 * want.abs().max(1.0),
                    "{measure:?}: {got} {want}"
                );
            }
        }
    }
}
