//! AVX-512 kernels (F, BW, DQ, VL, VNNI, VPOPCNTDQ). Tails are masked loads, so every length takes one path.
//!
//! The `many_` forms read rows in the order in which they lie in memory, and add up the sums of four of them at once.
//! They ask for what lies [`AHEAD`] bytes ahead, because the hardware's prefetcher stops at a page. From memory that is
//! 0.9 to 1.0 of the rate of a loop that only reads; four rows side by side were 0.6 to 0.9 of it.

use std::arch::x86_64::*;

use half::f16;

mod bytes;
mod float;
mod onebit;

pub(super) use bytes::{cos_i8, dot_i8, gather_i8, gather_u4, l2_i8, many_dot_i8, many_l2_i8};
pub(super) use float::{
    cos_f16, cos_f32, dot_f16, dot_f32, l2_f16, l2_f32, many_dot_f16, many_dot_f32, many_l2_f16, many_l2_f32,
};
pub(super) use onebit::{block_bounds, hadamard, hamming, lut_block};

/// How far ahead of the loads the streaming kernels ask for memory: a page.
const AHEAD: usize = 4096;

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq")]
pub(super) fn mask16(n: usize) -> u16 {
    if n >= 16 { u16::MAX } else { (1u16 << n) - 1 }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq")]
pub(super) fn mask64(n: usize) -> u64 {
    if n >= 64 { u64::MAX } else { (1u64 << n) - 1 }
}

/// # Safety
/// The elements of `p` selected by `m` are readable.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq")]
pub(super) unsafe fn load_f32(m: u16, p: *const f32) -> __m512 {
    // SAFETY: masked-off lanes are not read; the caller vouches for the others.
    unsafe { _mm512_maskz_loadu_ps(m, p) }
}

/// # Safety
/// The elements of `p` selected by `m` are readable.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq")]
pub(super) unsafe fn load_f16(m: u16, p: *const f16) -> __m512 {
    // SAFETY: masked-off lanes are not read; the caller vouches for the others.
    _mm512_cvtph_ps(unsafe { _mm256_maskz_loadu_epi16(m, p.cast()) })
}

/// # Safety
/// The elements of `p` selected by `m` are readable.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq")]
pub(super) unsafe fn load_i8(m: u64, p: *const i8) -> __m512i {
    // SAFETY: masked-off lanes are not read; the caller vouches for the others.
    unsafe { _mm512_maskz_loadu_epi8(m, p) }
}
