//! One signed byte a dimension and a scale a row: 4 times smaller than f32 and nearly as good.
//!
//! A row `x` becomes `round(x_i / scale)` with `scale = max |x_i| / 127`, and two factors: the scale and the squared
//! length of `x`. The error of an estimated inner product with `q` is at most `scale / 2 * sum |q_i|` for the row plus
//! the same with the query's own scale.

use super::nearest_i8;
use crate::kernel::Kernels;
use crate::measure::Measure;
use crate::scan::prefetch;

/// What a row keeps beside its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Zeroable, bytemuck::Pod)]
#[repr(C)]
pub struct I8Factors {
    /// A byte times this is the coordinate.
    pub scale: f32,
    /// The squared length of the original row.
    pub norm2: f32,
}

/// Codes of many rows in borrowed memory: row `i` is `codes[i * dim..][..dim]` and `factors[i]`.
#[derive(Clone, Copy, Debug)]
pub struct I8Codes<'a> {
    dim: usize,
    codes: &'a [i8],
    factors: &'a [I8Factors],
}

/// A query made ready for [`I8Codes`].
#[derive(Clone, Debug)]
pub struct I8Query {
    codes: Vec<i8>,
    factors: I8Factors,
    /// 1 / length, 0 if the length is 0.
    inverse_length: f32,
}

impl I8Factors {
    /// Encodes one row into `codes`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn encode(row: &[f32], codes: &mut [i8]) -> I8Factors {
        assert_eq!(row.len(), codes.len(), "wrong dimension");
        let largest = row.iter().fold(0f32, |m, x| m.max(x.abs()));
        let scale = largest / 127.0;
        // Below the smallest normal number the inverse would overflow: such a row is taken for zero.
        let inverse = if scale >= f32::MIN_POSITIVE {
            1.0 / scale
        } else {
            0.0
        };
        codes
            .iter_mut()
            .zip(row)
            .for_each(|(code, x)| *code = nearest_i8(x * inverse));
        I8Factors {
            scale,
            norm2: Kernels::get().dot_f32(row, row),
        }
    }
}

impl I8Query {
    /// Encodes a query.
    pub fn new(query: &[f32]) -> I8Query {
        let mut codes = vec![0; query.len()];
        let factors = I8Factors::encode(query, &mut codes);
        let length = factors.norm2.sqrt();
        let inverse_length = if length > 0.0 { 1.0 / length } else { 0.0 };
        I8Query {
            codes,
            factors,
            inverse_length,
        }
    }

    /// The query's bytes.
    pub fn codes(&self) -> &[i8] {
        &self.codes
    }

    /// The distance that an inner product of bytes stands for.
    #[inline(always)]
    pub fn distance(&self, measure: Measure, dot: i32, row: I8Factors) -> f32 {
        let dot = dot as f32 * self.factors.scale * row.scale;
        match measure {
            Measure::L2 => (self.factors.norm2 + row.norm2 - 2.0 * dot).max(0.0),
            Measure::Dot => -dot,
            Measure::Cosine if row.norm2 > 0.0 => 1.0 - dot * (self.inverse_length / row.norm2.sqrt()),
            Measure::Cosine => 1.0,
        }
    }

    /// How far off the distance of a row may be: six standard errors of one whose roundings are independent, those of
    /// the row and of the query each `scale / sqrt(12)` a component.
    pub(crate) fn margin(&self, measure: Measure, row: I8Factors) -> f32 {
        const SIGMAS: f32 = 6.0;
        let (length, other) = (row.norm2.sqrt(), self.factors.norm2.sqrt());
        let variance = (row.scale * other).powi(2) + (self.factors.scale * length).powi(2);
        let dot = SIGMAS * (variance / 12.0).sqrt();
        match measure {
            Measure::L2 => 2.0 * dot,
            Measure::Dot => dot,
            Measure::Cosine if length > 0.0 => dot * self.inverse_length / length,
            Measure::Cosine => 0.0,
        }
    }
}

impl<'a> I8Codes<'a> {
    /// A view of `factors.len()` rows.
    ///
    /// # Panics
    /// If `codes` is not as many rows of `dim` bytes.
    pub fn new(dim: usize, codes: &'a [i8], factors: &'a [I8Factors]) -> I8Codes<'a> {
        assert_eq!(
            codes.len(),
            dim * factors.len(),
            "codes and factors differ in number"
        );
        I8Codes { dim, codes, factors }
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.factors.len()
    }

    /// What the rows keep beside their bytes.
    pub(crate) fn factors(&self) -> &'a [I8Factors] {
        self.factors
    }

    /// True if there is no row.
    pub fn is_empty(&self) -> bool {
        self.factors.is_empty()
    }

    /// Estimated distances of rows `first..first + out.len()`, with `sums` as working memory of the same length.
    ///
    /// # Panics
    /// If a row is out of range or the slices differ in length.
    pub fn estimate(
        &self,
        query: &I8Query,
        measure: Measure,
        first: usize,
        sums: &mut [i32],
        out: &mut [f32],
    ) {
        let rows = first..first + out.len();
        let bytes = &self.codes[rows.start * self.dim..rows.end * self.dim];
        Kernels::get().many_dot_i8(&query.codes, bytes, sums);
        let factors = &self.factors[rows];
        // A loop for each measure: one that asks in every round is not done in vector registers.
        match measure {
            Measure::L2 => distances(sums, factors, out, |sum, row| {
                query.distance(Measure::L2, sum, row)
            }),
            Measure::Dot => distances(sums, factors, out, |sum, row| {
                query.distance(Measure::Dot, sum, row)
            }),
            Measure::Cosine => distances(sums, factors, out, |sum, row| {
                query.distance(Measure::Cosine, sum, row)
            }),
        }
    }

    /// Hands the estimated distances of some rows to `found`. Rows that are not next to each other are waited for: some
    /// are asked from memory while those before them are compared.
    ///
    /// # Panics
    /// If a row is out of range.
    pub fn estimate_some(
        &self,
        query: &I8Query,
        measure: Measure,
        rows: impl Iterator<Item = u32>,
        mut found: impl FnMut(u32, f32),
    ) {
        let (mut due, mut asked) = (Asked::default(), Asked::default());
        for row in rows {
            asked.push(row, self.row(row));
            if asked.count == TOGETHER {
                self.estimate_asked(query, measure, &due, &mut found);
                (due, asked) = (asked, Asked::default());
            }
        }
        self.estimate_asked(query, measure, &due, &mut found);
        self.estimate_asked(query, measure, &asked, &mut found);
    }

    fn estimate_asked(
        &self,
        query: &I8Query,
        measure: Measure,
        some: &Asked,
        found: &mut impl FnMut(u32, f32),
    ) {
        let (mut sums, rows) = ([0; TOGETHER], &some.rows[..some.count]);
        let sums = &mut sums[..some.count];
        // SAFETY: each start is that of a row of `dim` codes, and the query has as many.
        unsafe { Kernels::get().gather_i8(&query.codes[..self.dim], &some.starts[..some.count], sums) };
        for (&row, &sum) in rows.iter().zip(&*sums) {
            found(row, query.distance(measure, sum, self.factors[row as usize]));
        }
    }

    /// The codes of a row.
    fn row(&self, row: u32) -> &[i8] {
        &self.codes[row as usize * self.dim..][..self.dim]
    }

    /// The estimated distance of one row.
    ///
    /// # Panics
    /// If the row is out of range.
    pub fn estimate_one(&self, query: &I8Query, measure: Measure, row: u32) -> f32 {
        let dot = Kernels::get().dot_i8(&query.codes, self.row(row));
        query.distance(measure, dot, self.factors[row as usize])
    }
}

/// Rows that are asked from memory, and compared, together.
const TOGETHER: usize = 16;

/// Rows asked from memory, and where their codes start.
struct Asked {
    count: usize,
    rows: [u32; TOGETHER],
    starts: [*const u8; TOGETHER],
}

impl Default for Asked {
    fn default() -> Asked {
        Asked {
            count: 0,
            rows: [0; TOGETHER],
            starts: [std::ptr::null(); TOGETHER],
        }
    }
}

impl Asked {
    fn push(&mut self, row: u32, codes: &[i8]) {
        let start = codes.as_ptr().cast::<u8>();
        (0..codes.len())
            .step_by(64)
            .for_each(|line| prefetch(start.wrapping_add(line)));
        (self.rows[self.count], self.starts[self.count]) = (row, start);
        self.count += 1;
    }
}

#[inline(always)]
fn distances(sums: &[i32], rows: &[I8Factors], out: &mut [f32], distance: impl Fn(i32, I8Factors) -> f32) {
    for ((out, &sum), &row) in out.iter_mut().zip(sums).zip(rows) {
        *out = distance(sum, row);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimates_stay_within_the_documented_error() {
        for dim in [1usize, 7, 64, 384, 1000] {
            let row: Vec<f32> = (0..dim).map(|i| (i as f32 * 0.37).sin()).collect();
            let q: Vec<f32> = (0..dim).map(|i| (i as f32 * 0.11).cos()).collect();
            let mut codes = vec![0; dim];
            let factors = [I8Factors::encode(&row, &mut codes)];
            let view = I8Codes::new(dim, &codes, &factors);
            let query = I8Query::new(&q);
            let l1 = |v: &[f32]| v.iter().map(|x| x.abs()).sum::<f32>();
            let bound = factors[0].scale / 2.0 * l1(&q) + query.factors.scale / 2.0 * l1(&row) * 1.02 + 1e-4;
            let exact: f32 = row.iter().zip(&q).map(|(a, b)| a * b).sum();
            assert!(
                (view.estimate_one(&query, Measure::Dot, 0) + exact).abs() <= bound,
                "dim {dim}"
            );
        }
    }

    #[test]
    fn some_rows_are_estimated_as_each_by_itself() {
        let dim = 9;
        let rows: Vec<f32> = (0..50 * dim).map(|i| (i as f32 * 0.7).sin()).collect();
        let mut codes = vec![0; rows.len()];
        let factors: Vec<I8Factors> = rows
            .chunks_exact(dim)
            .zip(codes.chunks_exact_mut(dim))
            .map(|(r, c)| I8Factors::encode(r, c))
            .collect();
        let view = I8Codes::new(dim, &codes, &factors);
        let query = I8Query::new(&rows[..dim]);
        for count in [0, 1, 15, 16, 17, 25] {
            let wanted: Vec<(u32, f32)> = (0..count)
                .map(|i| (2 * i, view.estimate_one(&query, Measure::L2, 2 * i)))
                .collect();
            let mut found = Vec::new();
            view.estimate_some(&query, Measure::L2, (0..count).map(|i| 2 * i), |row, d| {
                found.push((row, d))
            });
            assert_eq!(found, wanted);
        }
    }

    #[test]
    fn a_zero_row_is_no_special_case() {
        let mut codes = [1i8; 4];
        assert_eq!(
            I8Factors::encode(&[0.0; 4], &mut codes),
            I8Factors {
                scale: 0.0,
                norm2: 0.0
            }
        );
        assert_eq!(codes, [0; 4]);
        let factors = [I8Factors::default()];
        let view = I8Codes::new(4, &codes, &factors);
        let query = I8Query::new(&[1.0, 2.0, 3.0, 4.0]);
        assert_eq!(view.estimate_one(&query, Measure::L2, 0), 30.0);
        assert_eq!(view.estimate_one(&query, Measure::Cosine, 0), 1.0);
    }
}
