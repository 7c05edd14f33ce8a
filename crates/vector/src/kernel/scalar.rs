//! The portable twins: what every other kernel must agree with. Eight independent sums, so that the compiler
//! may vectorise them for the baseline instruction set.

use half::f16;

use super::{Line, Sums};

const LANES: usize = 8;

macro_rules! float_kernels {
    ($l2:ident, $dot:ident, $cos:ident, $T:ty) => {
        pub(super) fn $l2(a: &[f32], b: &[$T]) -> f32 {
            lanes(a, b, |x, y: $T| {
                let d = x - Widen::widen(y);
                d * d
            })
        }

        pub(super) fn $dot(a: &[f32], b: &[$T]) -> f32 {
            lanes(a, b, |x, y: $T| x * Widen::widen(y))
        }

        pub(super) fn $cos(a: &[f32], b: &[$T]) -> Sums<f32> {
            Sums {
                dot: $dot(a, b),
                aa: lanes(a, a, |x, y: f32| x * y),
                bb: lanes(b, b, |x: $T, y: $T| Widen::widen(x) * Widen::widen(y)),
            }
        }
    };
}

trait Widen: Copy {
    fn widen(self) -> f32;
}

impl Widen for f32 {
    fn widen(self) -> f32 {
        self
    }
}

impl Widen for f16 {
    fn widen(self) -> f32 {
        self.to_f32()
    }
}

float_kernels!(l2_f32, dot_f32, cos_f32, f32);
float_kernels!(l2_f16, dot_f16, cos_f16, f16);

#[inline]
fn lanes<A: Copy, B: Copy>(a: &[A], b: &[B], term: impl Fn(A, B) -> f32) -> f32 {
    let mut sums = [0f32; LANES];
    let (ca, cb) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let tail: f32 = ca
        .remainder()
        .iter()
        .zip(cb.remainder())
        .map(|(&x, &y)| term(x, y))
        .sum();
    for (x, y) in ca.zip(cb) {
        for i in 0..LANES {
            sums[i] += term(x[i], y[i]);
        }
    }
    sums.iter().sum::<f32>() + tail
}

pub(super) fn l2_i8(a: &[i8], b: &[i8]) -> i32 {
    a.iter()
        .zip(b)
        .map(|(&x, &y)| {
            let d = x as i32 - y as i32;
            d * d
        })
        .sum()
}

pub(super) fn dot_i8(a: &[i8], b: &[i8]) -> i32 {
    a.iter().zip(b).map(|(&x, &y)| x as i32 * y as i32).sum()
}

pub(super) fn cos_i8(a: &[i8], b: &[i8]) -> Sums<i32> {
    Sums {
        dot: dot_i8(a, b),
        aa: dot_i8(a, a),
        bb: dot_i8(b, b),
    }
}

pub(super) fn hamming(a: &[u8], b: &[u8]) -> u32 {
    let (ca, cb) = (a.chunks_exact(8), b.chunks_exact(8));
    let tail: u32 = ca
        .remainder()
        .iter()
        .zip(cb.remainder())
        .map(|(x, y)| (x ^ y).count_ones())
        .sum();
    ca.zip(cb)
        .map(|(x, y)| (word(x) ^ word(y)).count_ones())
        .sum::<u32>()
        + tail
}

fn word(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| bytes[i]))
}

macro_rules! many {
    ($name:ident, $one:ident, $Q:ty, $T:ty, $O:ty) => {
        pub(super) fn $name(query: &[$Q], rows: &[$T], out: &mut [$O]) {
            for (row, out) in rows.chunks_exact(query.len()).zip(out) {
                *out = $one(query, row);
            }
        }
    };
}

many!(many_l2_f32, l2_f32, f32, f32, f32);
many!(many_dot_f32, dot_f32, f32, f32, f32);
many!(many_l2_f16, l2_f16, f32, f16, f32);
many!(many_dot_f16, dot_f16, f32, f16, f32);
many!(many_l2_i8, l2_i8, i8, i8, i32);
many!(many_dot_i8, dot_i8, i8, i8, i32);

/// See [`super::Kernels::gather_i8`].
///
/// # Safety
/// Each pointer is readable for `query.len()` bytes.
pub(super) unsafe fn gather_i8(query: &[i8], rows: &[*const u8], out: &mut [i32]) {
    for (&row, out) in rows.iter().zip(out) {
        // SAFETY: the caller vouches for `query.len()` readable bytes; every byte is a valid i8.
        let row = unsafe { std::slice::from_raw_parts(row.cast::<i8>(), query.len()) };
        *out = dot_i8(query, row);
    }
}

/// See [`super::Kernels::gather_u4`].
///
/// # Safety
/// Each pointer is readable for `query.len() / 2` bytes.
pub(super) unsafe fn gather_u4(query: &[i8], rows: &[*const u8], out: &mut [i32]) {
    let half = query.len() / 2;
    for (&row, out) in rows.iter().zip(out) {
        // SAFETY: the caller vouches for `half` readable bytes behind each pointer.
        let row = unsafe { std::slice::from_raw_parts(row, half) };
        *out = row
            .iter()
            .enumerate()
            .map(|(i, &byte)| {
                (byte & 15) as i32 * query[i] as i32 + (byte >> 4) as i32 * query[half + i] as i32
            })
            .sum();
    }
}

/// See [`super::Kernels::lut_block`].
pub(super) fn lut_block(luts: &[u8], codes: &[u8], out: &mut [u32; 32]) {
    *out = [0; 32];
    for (lut, code) in luts.chunks_exact(16).zip(codes.chunks_exact(16)) {
        for i in 0..16 {
            out[i] += lut[(code[i] & 15) as usize] as u32;
            out[i + 16] += lut[(code[i] >> 4) as usize] as u32;
        }
    }
}

/// See [`super::Kernels::hadamard`].
pub(super) fn hadamard(x: &mut [f32]) {
    let mut step = 1;
    while step < x.len() {
        for pair in x.chunks_exact_mut(2 * step) {
            let (lo, hi) = pair.split_at_mut(step);
            for (a, b) in lo.iter_mut().zip(hi) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        step *= 2;
    }
}

/// See [`super::Kernels::block_bounds`].
pub(super) fn block_bounds(
    sums: &[u32; 32],
    factors: &[u8; 384],
    line: &Line,
    estimates: &mut [f32; 32],
    slack: &mut [f32; 32],
) -> u32 {
    bounds_body(sums, factors, line, estimates, slack)
}

/// Straight loops over 32 rows, inlined into a function of each instruction set and vectorised there.
#[inline(always)]
pub(super) fn bounds_body(
    sums: &[u32; 32],
    factors: &[u8; 384],
    line: &Line,
    estimates: &mut [f32; 32],
    slack: &mut [f32; 32],
) -> u32 {
    let factor = |at: usize| {
        f32::from_le_bytes([
            factors[4 * at],
            factors[4 * at + 1],
            factors[4 * at + 2],
            factors[4 * at + 3],
        ])
    };
    for i in 0..32 {
        let (norm2, scale, error) = (factor(i), factor(32 + i), factor(64 + i));
        let along = scale * (sums[i] as i32 as f32 * line.step + line.base);
        estimates[i] = line.bias + line.norm2_weight * norm2 - line.slope * along;
        slack[i] = line.per_error * error + line.per_scale * scale;
    }
    let mut below = 0;
    for i in 0..32 {
        below |= ((estimates[i] - slack[i] < line.limit) as u32) << i;
    }
    below
}
