//! A pseudo-random rotation in O(D log D): rounds of random signs and Walsh-Hadamard transforms.
//!
//! After it, the energy of any vector is spread evenly over all dimensions, which is what makes the error of the
//! coarse codes small and predictable. (Ailon and Chazelle, "The fast Johnson-Lindenstrauss transform", 2009. The
//! overlapping blocks for a dimension that is no power of two follow the idea of Kac's walk.)

use crate::kernel::Kernels;

/// Rounds of signs and transform; three make the coordinates of even a unit vector near normal.
const ROUNDS: usize = 4;

/// An orthogonal map from `dim` numbers to [`Rotation::padded`] numbers, fixed by its seed.
#[derive(Clone, Debug)]
pub struct Rotation {
    dim: usize,
    padded: usize,
    block: usize,
    signs: Vec<f32>,
}

impl Rotation {
    /// The rotation of `dim`-dimensional vectors that belongs to `seed`. The same two numbers give the same rotation
    /// on every machine and in every version.
    ///
    /// # Panics
    /// If `dim` is 0.
    pub fn new(dim: usize, seed: u64) -> Rotation {
        assert!(dim > 0, "a vector has at least one dimension");
        let padded = dim.next_multiple_of(64);
        let block = 1 << padded.ilog2();
        let mut state = seed;
        let scale = 1.0 / (block as f32).sqrt();
        let mut signs = Vec::with_capacity(ROUNDS * padded);
        for round in 0..ROUNDS {
            let mixed = block_of(round, padded, block);
            for i in 0..padded {
                let sign = if splitmix(&mut state) >> 63 == 0 {
                    1.0
                } else {
                    -1.0
                };
                signs.push(if mixed.contains(&i) { sign * scale } else { sign });
            }
        }
        Rotation {
            dim,
            padded,
            block,
            signs,
        }
    }

    /// The dimension of the input.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// The dimension of the output: the input's rounded up to a multiple of 64.
    pub fn padded(&self) -> usize {
        self.padded
    }

    /// Rotates `x - centre` (or `x`, if there is no centre) into `out`.
    ///
    /// # Panics
    /// If a length is wrong.
    pub fn apply(&self, x: &[f32], centre: Option<&[f32]>, out: &mut [f32]) {
        assert!(x.len() == self.dim && out.len() == self.padded, "wrong dimension");
        match centre {
            Some(c) => out.iter_mut().zip(x).zip(c).for_each(|((o, x), c)| *o = x - c),
            None => out[..self.dim].copy_from_slice(x),
        }
        out[self.dim..].fill(0.0);
        let kernels = Kernels::get();
        for (round, signs) in self.signs.chunks_exact(self.padded).enumerate() {
            out.iter_mut().zip(signs).for_each(|(o, s)| *o *= s);
            kernels.hadamard(&mut out[block_of(round, self.padded, self.block)]);
        }
    }
}

/// Even rounds transform the head, odd rounds the tail; the two overlap unless they are the same.
fn block_of(round: usize, padded: usize, block: usize) -> std::ops::Range<usize> {
    if round.is_multiple_of(2) {
        0..block
    } else {
        padded - block..padded
    }
}

/// Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014.
pub(crate) fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rotated(dim: usize, x: &[f32]) -> Vec<f32> {
        let r = Rotation::new(dim, 42);
        let mut out = vec![0.0; r.padded()];
        r.apply(x, None, &mut out);
        out
    }

    #[test]
    fn keeps_lengths_and_angles() {
        for dim in [1, 3, 64, 100, 128, 320, 384, 768, 1000] {
            let a: Vec<f32> = (0..dim).map(|i| (i as f32 * 0.7).sin()).collect();
            let b: Vec<f32> = (0..dim).map(|i| (i as f32 * 1.3).cos()).collect();
            let (ra, rb) = (rotated(dim, &a), rotated(dim, &b));
            let k = Kernels::get();
            let want = k.cos_f32(&a, &b);
            let got = k.cos_f32(&ra, &rb);
            for (got, want) in [(got.dot, want.dot), (got.aa, want.aa), (got.bb, want.bb)] {
                assert!(
                    (got - want).abs() < 1e-4 * (1.0 + dim as f32),
                    "{dim}: {got} {want}"
                );
            }
        }
    }

    #[test]
    fn spreads_a_single_coordinate_over_all() {
        for dim in [64, 128, 320, 384, 768, 1024] {
            let mut x = vec![0.0; dim];
            x[dim / 3] = 1.0;
            let y = rotated(dim, &x);
            let largest = y.iter().fold(0.0f32, |m, v| m.max(v.abs()));
            assert!(largest < 6.0 / (y.len() as f32).sqrt(), "{dim}: {largest}");
        }
    }

    #[test]
    fn the_centre_becomes_the_origin() {
        let r = Rotation::new(100, 1);
        let c: Vec<f32> = (0..100).map(|i| i as f32).collect();
        let mut out = vec![1.0; r.padded()];
        r.apply(&c, Some(&c), &mut out);
        assert!(out.iter().all(|&v| v == 0.0));
    }
}
