//! One bit a dimension with an unbiased estimate and a bound on its error: RaBitQ.
//!
//! A row's offset from the centre is rotated to `r`, of which only the signs are kept. With `s` the vector of signs,
//! `<r, q> ~ scale * <s, q>`, `scale = |r|^2 / sum |r_i|`, is unbiased over the rotations, and off by more than
//! `epsilon * error * |q|`, `error = |r| sqrt(1/p^2 - 1) / sqrt(D - 1)`, `p = sum |r_i| / (|r| sqrt(D))`, with a
//! probability that falls like `exp(-epsilon^2 / 2)`. (Gao and Long, "RaBitQ: quantizing high-dimensional vectors with
//! a theoretical error bound for approximate nearest neighbor search", SIGMOD 2024.)
//!
//! # Bytes
//! Rows come in blocks of [`BLOCK_ROWS`]; a block is `128 * 3 + 4 * D` bytes, all little-endian: 32 f32 squared
//! lengths of `r`, 32 scales, 32 errors, then the bits in the order that [`Kernels::lut_block`] reads: for every
//! group of four dimensions 16 bytes, byte `i` with the bits of row `i` in its low and of row `i + 16` in its high
//! half, the first dimension in the lowest bit. Rows that are not there yet are all zero.

use super::rotate::Rotation;
use crate::kernel::{Kernels, Line};
use crate::measure::Measure;

/// Rows of a block.
pub const BLOCK_ROWS: usize = 32;

const FACTOR_BYTES: usize = 4 * BLOCK_ROWS;

/// The coder: dimension, rotation and centre.
#[derive(Clone, Debug)]
pub struct RabitqCodes {
    rotation: Rotation,
    centre: Option<Vec<f32>>,
}

/// A query made ready for [`RabitqCodes`]: tables of partial sums.
#[derive(Clone, Debug)]
pub struct RabitqQuery {
    luts: Vec<u8>,
    /// A table sum times this, plus `base`, is `<s, q>`.
    step: f32,
    base: f32,
    /// At most this much of `<s, q>` was lost by rounding the tables.
    rounding: f32,
    norm: f32,
    slope: f32,
    bias: f32,
    norm2_weight: f32,
}

impl RabitqCodes {
    /// A coder for `dim`-dimensional rows; see [`super::NibbleCodes::new`].
    ///
    /// # Panics
    /// If `dim` is 0 or the centre has another length.
    pub fn new(dim: usize, seed: u64, centre: Option<Vec<f32>>) -> RabitqCodes {
        assert!(centre.as_ref().is_none_or(|c| c.len() == dim), "wrong dimension");
        RabitqCodes {
            rotation: Rotation::new(dim, seed),
            centre,
        }
    }

    /// The dimension of a vector.
    pub fn dim(&self) -> usize {
        self.rotation.dim()
    }

    /// Bytes of a block of 32 rows.
    pub fn block_bytes(&self) -> usize {
        3 * FACTOR_BYTES + 4 * self.rotation.padded()
    }

    /// Bytes that `rows` rows take, in whole blocks.
    pub fn bytes(&self, rows: usize) -> usize {
        rows.div_ceil(BLOCK_ROWS) * self.block_bytes()
    }

    /// Encodes `row` as number `lane` of a block, replacing what was there.
    ///
    /// # Panics
    /// If `lane` is 32 or more, or a length is wrong.
    pub fn encode(&self, row: &[f32], block: &mut [u8], lane: usize) {
        assert!(
            lane < BLOCK_ROWS && block.len() == self.block_bytes(),
            "wrong block"
        );
        let dim = self.rotation.padded();
        let mut r = vec![0.0; dim];
        self.rotation.apply(row, self.centre.as_deref(), &mut r);
        let norm2 = Kernels::get().dot_f32(&r, &r);
        let l1: f32 = r.iter().map(|x| x.abs()).sum();
        let (scale, error) = if l1 > 0.0 {
            let p2 = (l1 as f64 * l1 as f64 / (norm2 as f64 * dim as f64)).min(1.0);
            (
                norm2 / l1,
                (norm2 as f64 * (1.0 / p2 - 1.0) / (dim as f64 - 1.0)).sqrt() as f32,
            )
        } else {
            (0.0, 0.0)
        };
        for (i, factor) in [norm2, scale, error].into_iter().enumerate() {
            block[i * FACTOR_BYTES + 4 * lane..][..4].copy_from_slice(&factor.to_le_bytes());
        }
        let (keep, shift) = if lane < 16 { (0xf0, 0) } else { (0x0f, 4) };
        let bits = &mut block[3 * FACTOR_BYTES..];
        for (group, four) in r.chunks_exact(4).enumerate() {
            let nibble = (0..4).fold(0, |n, i| n | ((four[i] > 0.0) as u8) << i);
            let byte = &mut bits[16 * group + lane % 16];
            *byte = *byte & keep | nibble << shift;
        }
    }

    /// Makes a query ready. For [`Measure::Cosine`] the rows must have been encoded at unit length; the query may have
    /// any length.
    ///
    /// # Panics
    /// If the dimension is wrong.
    pub fn prepare(&self, query: &[f32], measure: Measure) -> RabitqQuery {
        let kernels = Kernels::get();
        let length = kernels.dot_f32(query, query).sqrt();
        let unit: Vec<f32>;
        let query = if measure == Measure::Cosine && length > 0.0 {
            unit = query.iter().map(|x| x / length).collect();
            &unit
        } else {
            query
        };
        let mut q = vec![0.0; self.rotation.padded()];
        let centred = if measure == Measure::L2 {
            self.centre.as_deref()
        } else {
            None
        };
        self.rotation.apply(query, centred, &mut q);
        let norm2 = kernels.dot_f32(&q, &q);
        let along_centre = self.centre.as_deref().map_or(0.0, |c| kernels.dot_f32(query, c));
        let (slope, bias, norm2_weight) = match measure {
            Measure::L2 => (2.0, norm2, 1.0),
            Measure::Dot => (1.0, -along_centre, 0.0),
            Measure::Cosine => (1.0, 1.0 - along_centre, 0.0),
        };
        let (luts, step, base) = tables(&q);
        let rounding = step / 2.0 * (luts.len() / 16) as f32;
        RabitqQuery {
            luts,
            step,
            base,
            rounding,
            norm: norm2.sqrt(),
            slope,
            bias,
            norm2_weight,
        }
    }
}

/// Tables of `<s, q>` over each four dimensions in steps of one 255th of the widest table; the sum of the tables'
/// smallest entries is the base.
fn tables(q: &[f32]) -> (Vec<u8>, f32, f32) {
    let widest = q
        .chunks_exact(4)
        .map(|four| four.iter().map(|x| x.abs()).sum::<f32>())
        .fold(0.0, f32::max);
    let step = 2.0 * widest / 255.0;
    let inverse = if step > 0.0 { 1.0 / step } else { 0.0 };
    let mut base = 0.0;
    let mut luts = Vec::with_capacity(4 * q.len());
    for four in q.chunks_exact(4) {
        base -= four.iter().map(|x| x.abs()).sum::<f32>();
        for pattern in 0..16 {
            // A sign that agrees with the coordinate adds 2|x| to the smallest entry.
            let above: f32 = (0..4)
                .map(|i| {
                    if (pattern >> i & 1 == 1) == (four[i] > 0.0) {
                        2.0 * four[i].abs()
                    } else {
                        0.0
                    }
                })
                .sum();
            luts.push((above * inverse).round_ties_even() as u8);
        }
    }
    (luts, step, base)
}

impl RabitqQuery {
    /// Estimates the distances of a block's 32 rows into `estimates` and half the width of their confidence intervals
    /// (`epsilon` standard errors of the sign code, and the rounding of the tables) into `slack`. Returns a bit for
    /// every row whose interval reaches below `limit`.
    ///
    /// # Panics
    /// If the block belongs to another dimension.
    #[inline]
    pub fn block(
        &self,
        block: &[u8],
        epsilon: f32,
        limit: f32,
        estimates: &mut [f32; 32],
        slack: &mut [f32; 32],
    ) -> u32 {
        let (factors, bits) = block
            .split_first_chunk()
            .expect("a block starts with its factors");
        let kernels = Kernels::get();
        let mut sums = [0; BLOCK_ROWS];
        kernels.lut_block(&self.luts, bits, &mut sums);
        let line = Line {
            step: self.step,
            base: self.base,
            bias: self.bias,
            norm2_weight: self.norm2_weight,
            slope: self.slope,
            per_error: self.slope * epsilon * self.norm,
            per_scale: self.slope * self.rounding,
            limit,
        };
        kernels.block_bounds(&sums, factors, &line, estimates, slack)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::rotate::splitmix;

    fn gaussian(state: &mut u64, dim: usize) -> Vec<f32> {
        let uniform = |s: &mut u64| (splitmix(s) >> 40) as f32 / (1u64 << 24) as f32;
        (0..dim)
            .map(|_| (0..12).map(|_| uniform(state)).sum::<f32>() - 6.0)
            .collect()
    }

    fn exact(measure: Measure, a: &[f32], b: &[f32]) -> f32 {
        let s = Kernels::get().cos_f32(a, b);
        match measure {
            Measure::L2 => s.aa + s.bb - 2.0 * s.dot,
            Measure::Dot => -s.dot,
            Measure::Cosine => Measure::cosine_of(s.dot, s.aa, s.bb),
        }
    }

    #[test]
    fn the_bound_holds_and_the_estimate_is_unbiased() {
        let mut state = 3;
        for dim in [64, 100, 384] {
            for measure in [Measure::L2, Measure::Dot, Measure::Cosine] {
                let length = if measure == Measure::Cosine {
                    0.3 / (dim as f32).sqrt()
                } else {
                    0.3
                };
                let centre = gaussian(&mut state, dim).iter().map(|x| x * length).collect();
                let coder = RabitqCodes::new(dim, 9, Some(centre));
                let (mut outside, mut total, mut sum_error, mut sum_slack) = (0, 0, 0.0f64, 0.0f64);
                for _ in 0..30 {
                    let query = gaussian(&mut state, dim);
                    let prepared = coder.prepare(&query, measure);
                    let mut block = vec![0; coder.block_bytes()];
                    let rows: Vec<Vec<f32>> = (0..32)
                        .map(|_| {
                            let mut v = gaussian(&mut state, dim);
                            if measure == Measure::Cosine {
                                let n = Kernels::get().dot_f32(&v, &v).sqrt();
                                v.iter_mut().for_each(|x| *x /= n);
                            }
                            v
                        })
                        .collect();
                    rows.iter()
                        .enumerate()
                        .for_each(|(i, r)| coder.encode(r, &mut block, i));
                    let (mut est, mut slack) = ([0.0; 32], [0.0; 32]);
                    prepared.block(&block, 3.5, f32::INFINITY, &mut est, &mut slack);
                    for (i, row) in rows.iter().enumerate() {
                        let want = exact(measure, &query, row);
                        outside += ((est[i] - want).abs() > slack[i]) as u32;
                        total += 1;
                        sum_error += (est[i] - want) as f64;
                        sum_slack += slack[i] as f64;
                    }
                }
                assert!(
                    outside <= 3,
                    "{dim} {measure:?}: {outside} of {total} outside 3.5 standard errors"
                );
                assert!(
                    sum_error.abs() < 0.05 * sum_slack,
                    "{dim} {measure:?}: biased by {sum_error}"
                );
            }
        }
    }

    #[test]
    fn encoding_a_lane_leaves_the_others_alone() {
        let coder = RabitqCodes::new(70, 1, None);
        let mut state = 1;
        let rows: Vec<Vec<f32>> = (0..32).map(|_| gaussian(&mut state, 70)).collect();
        let (mut forward, mut backward) = (vec![0; coder.block_bytes()], vec![0xff; coder.block_bytes()]);
        (0..32).for_each(|i| coder.encode(&rows[i], &mut forward, i));
        (0..32)
            .rev()
            .for_each(|i| coder.encode(&rows[i], &mut backward, i));
        assert_eq!(forward, backward);
    }

    #[test]
    fn a_code_of_384_dimensions_is_at_most_80_bytes() {
        let coder = RabitqCodes::new(384, 1, None);
        assert_eq!(coder.block_bytes() / BLOCK_ROWS, 60);
        assert_eq!(coder.bytes(33), 2 * coder.block_bytes());
    }
}
