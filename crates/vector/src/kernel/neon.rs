//! NEON kernels for the float and byte forms; what is absent here falls back to the scalar twins in the table.

use std::arch::aarch64::*;

use super::{Line, Sums, scalar};

macro_rules! float_kernels {
    ($one:ident, $many:ident, $step:ident) => {
        #[target_feature(enable = "neon")]
        pub(super) fn $one(a: &[f32], b: &[f32]) -> f32 {
            let n = a.len().min(b.len());
            let (pa, pb) = (a.as_ptr(), b.as_ptr());
            let mut acc = [vdupq_n_f32(0.0); 4];
            let mut i = 0;
            while i + 16 <= n {
                for (j, acc) in acc.iter_mut().enumerate() {
                    // SAFETY: i + 4 * j + 4 <= i + 16 <= n, the length of both slices.
                    let (x, y) = unsafe { (vld1q_f32(pa.add(i + 4 * j)), vld1q_f32(pb.add(i + 4 * j))) };
                    *acc = $step(*acc, x, y);
                }
                i += 16;
            }
            let acc = vaddq_f32(vaddq_f32(acc[0], acc[1]), vaddq_f32(acc[2], acc[3]));
            vaddvq_f32(acc) + scalar::$one(&a[i..n], &b[i..n])
        }

        #[target_feature(enable = "neon")]
        pub(super) fn $many(query: &[f32], rows: &[f32], out: &mut [f32]) {
            for (row, out) in rows.chunks_exact(query.len()).zip(out) {
                *out = $one(query, row);
            }
        }
    };
}

#[inline]
#[target_feature(enable = "neon")]
fn l2_step(acc: float32x4_t, a: float32x4_t, b: float32x4_t) -> float32x4_t {
    let d = vsubq_f32(a, b);
    vfmaq_f32(acc, d, d)
}

#[inline]
#[target_feature(enable = "neon")]
fn dot_step(acc: float32x4_t, a: float32x4_t, b: float32x4_t) -> float32x4_t {
    vfmaq_f32(acc, a, b)
}

float_kernels!(l2_f32, many_l2_f32, l2_step);
float_kernels!(dot_f32, many_dot_f32, dot_step);

#[target_feature(enable = "neon")]
pub(super) fn cos_f32(a: &[f32], b: &[f32]) -> Sums<f32> {
    Sums {
        dot: dot_f32(a, b),
        aa: dot_f32(a, a),
        bb: dot_f32(b, b),
    }
}

macro_rules! byte_kernels {
    ($one:ident, $many:ident, $step:ident) => {
        #[target_feature(enable = "neon")]
        pub(super) fn $one(a: &[i8], b: &[i8]) -> i32 {
            let n = a.len().min(b.len());
            let (pa, pb) = (a.as_ptr(), b.as_ptr());
            let mut acc = vdupq_n_s32(0);
            let mut i = 0;
            while i + 16 <= n {
                // SAFETY: i + 16 <= n, the length of both slices.
                let (x, y) = unsafe { (vld1q_s8(pa.add(i)), vld1q_s8(pb.add(i))) };
                acc = $step(acc, vmovl_s8(vget_low_s8(x)), vmovl_s8(vget_low_s8(y)));
                acc = $step(acc, vmovl_s8(vget_high_s8(x)), vmovl_s8(vget_high_s8(y)));
                i += 16;
            }
            vaddvq_s32(acc) + scalar::$one(&a[i..n], &b[i..n])
        }

        #[target_feature(enable = "neon")]
        pub(super) fn $many(query: &[i8], rows: &[i8], out: &mut [i32]) {
            for (row, out) in rows.chunks_exact(query.len()).zip(out) {
                *out = $one(query, row);
            }
        }
    };
}

#[inline]
#[target_feature(enable = "neon")]
fn dot_words(acc: int32x4_t, a: int16x8_t, b: int16x8_t) -> int32x4_t {
    vmlal_high_s16(vmlal_s16(acc, vget_low_s16(a), vget_low_s16(b)), a, b)
}

#[inline]
#[target_feature(enable = "neon")]
fn l2_words(acc: int32x4_t, a: int16x8_t, b: int16x8_t) -> int32x4_t {
    let d = vsubq_s16(a, b);
    dot_words(acc, d, d)
}

byte_kernels!(dot_i8, many_dot_i8, dot_words);
byte_kernels!(l2_i8, many_l2_i8, l2_words);

#[target_feature(enable = "neon")]
pub(super) fn cos_i8(a: &[i8], b: &[i8]) -> Sums<i32> {
    Sums {
        dot: dot_i8(a, b),
        aa: dot_i8(a, a),
        bb: dot_i8(b, b),
    }
}

/// See [`super::Kernels::gather_i8`].
///
/// # Safety
/// Each pointer is readable for `query.len()` bytes.
#[target_feature(enable = "neon")]
pub(super) unsafe fn gather_i8(query: &[i8], rows: &[*const u8], out: &mut [i32]) {
    for (&row, out) in rows.iter().zip(out) {
        // SAFETY: the caller vouches for `query.len()` readable bytes; every byte is a valid i8.
        *out = dot_i8(query, unsafe {
            std::slice::from_raw_parts(row.cast(), query.len())
        });
    }
}

/// See [`super::Kernels::gather_u4`].
///
/// # Safety
/// Each pointer is readable for `query.len() / 2` bytes.
#[target_feature(enable = "neon")]
pub(super) unsafe fn gather_u4(query: &[i8], rows: &[*const u8], out: &mut [i32]) {
    let half = query.len() / 2;
    let wide = half / 16 * 16;
    for (&row, out) in rows.iter().zip(out) {
        let mut acc = vdupq_n_s32(0);
        let mut i = 0;
        while i < wide {
            // SAFETY: i + 16 <= half: inside the row by the caller's word, inside both halves of the query.
            let (x, q0, q1) = unsafe {
                (
                    vld1q_u8(row.add(i)),
                    vld1q_s8(query.as_ptr().add(i)),
                    vld1q_s8(query.as_ptr().add(half + i)),
                )
            };
            let lo = vreinterpretq_s8_u8(vandq_u8(x, vdupq_n_u8(15)));
            let hi = vreinterpretq_s8_u8(vshrq_n_u8::<4>(x));
            let products = vmlal_s8(
                vmull_s8(vget_low_s8(lo), vget_low_s8(q0)),
                vget_low_s8(hi),
                vget_low_s8(q1),
            );
            acc = vpadalq_s16(acc, products);
            acc = vpadalq_s16(acc, vmlal_high_s8(vmull_high_s8(lo, q0), hi, q1));
            i += 16;
        }
        *out = vaddvq_s32(acc);
        // SAFETY: the caller vouches for `half` readable bytes.
        let tail = unsafe { std::slice::from_raw_parts(row.add(wide), half - wide) };
        for (i, &byte) in tail.iter().enumerate() {
            let (q0, q1) = (query[wide + i] as i32, query[half + wide + i] as i32);
            *out += (byte & 15) as i32 * q0 + (byte >> 4) as i32 * q1;
        }
    }
}

#[target_feature(enable = "neon")]
pub(super) fn hamming(a: &[u8], b: &[u8]) -> u32 {
    let n = a.len().min(b.len());
    let mut sum = 0;
    let mut i = 0;
    while i + 16 <= n {
        // SAFETY: i + 16 <= n, the length of both slices.
        let x = unsafe { veorq_u8(vld1q_u8(a.as_ptr().add(i)), vld1q_u8(b.as_ptr().add(i))) };
        sum += vaddlvq_u8(vcntq_u8(x)) as u32;
        i += 16;
    }
    sum + scalar::hamming(&a[i..n], &b[i..n])
}

/// See [`super::Kernels::lut_block`].
#[target_feature(enable = "neon")]
pub(super) fn lut_block(luts: &[u8], codes: &[u8], out: &mut [u32; 32]) {
    *out = [0; 32];
    // 257 additions of a byte fill 16 bits.
    for (luts, codes) in luts.chunks(16 * 256).zip(codes.chunks(16 * 256)) {
        let mut acc = [vdupq_n_u16(0); 4];
        for (lut, code) in luts.chunks_exact(16).zip(codes.chunks_exact(16)) {
            // SAFETY: both chunks hold sixteen bytes.
            let (lut, code) = unsafe { (vld1q_u8(lut.as_ptr()), vld1q_u8(code.as_ptr())) };
            let first = vqtbl1q_u8(lut, vandq_u8(code, vdupq_n_u8(15)));
            let second = vqtbl1q_u8(lut, vshrq_n_u8::<4>(code));
            acc[0] = vaddw_u8(acc[0], vget_low_u8(first));
            acc[1] = vaddw_high_u8(acc[1], first);
            acc[2] = vaddw_u8(acc[2], vget_low_u8(second));
            acc[3] = vaddw_high_u8(acc[3], second);
        }
        for (acc, out) in acc.into_iter().zip(out.chunks_exact_mut(8)) {
            let mut sums = [0u16; 8];
            // SAFETY: `sums` holds eight numbers.
            unsafe { vst1q_u16(sums.as_mut_ptr(), acc) };
            out.iter_mut().zip(sums).for_each(|(o, s)| *o += s as u32);
        }
    }
}

/// See [`super::Kernels::block_bounds`].
#[target_feature(enable = "neon")]
pub(super) fn block_bounds(
    sums: &[u32; 32],
    factors: &[u8; 384],
    line: &Line,
    estimates: &mut [f32; 32],
    slack: &mut [f32; 32],
) -> u32 {
    scalar::bounds_body(sums, factors, line, estimates, slack)
}
