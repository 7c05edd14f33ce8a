//! AVX2 + FMA + F16C kernels. Tails shorter than a register go to the scalar twins.
//!
//! Without VNNI a product of bytes is widened to 16 bits first: `maddubs` would saturate.

use std::arch::x86_64::*;

use half::f16;

use super::{Line, Sums, scalar};

/// # Safety
/// Eight elements are readable at `p`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn load_f32(p: *const f32) -> __m256 {
    // SAFETY: the caller vouches for eight elements.
    unsafe { _mm256_loadu_ps(p) }
}

/// # Safety
/// Eight elements are readable at `p`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn load_f16(p: *const f16) -> __m256 {
    // SAFETY: the caller vouches for eight elements.
    _mm256_cvtph_ps(unsafe { _mm_loadu_si128(p.cast()) })
}

/// Sixteen signed bytes as 16-bit numbers.
///
/// # Safety
/// Sixteen bytes are readable at `p`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn load_i16(p: *const i8) -> __m256i {
    // SAFETY: the caller vouches for sixteen bytes.
    _mm256_cvtepi8_epi16(unsafe { _mm_loadu_si128(p.cast()) })
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn l2_step(acc: __m256, a: __m256, b: __m256) -> __m256 {
    let d = _mm256_sub_ps(a, b);
    _mm256_fmadd_ps(d, d, acc)
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dot_step(acc: __m256, a: __m256, b: __m256) -> __m256 {
    _mm256_fmadd_ps(a, b, acc)
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn sum_f32(x: __m256) -> f32 {
    let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
    let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    _mm_cvtss_f32(_mm_add_ss(x, _mm_shuffle_ps::<1>(x, x)))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn sum_i32(x: __m256i) -> i32 {
    let x = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
    let x = _mm_add_epi32(x, _mm_shuffle_epi32::<0b01_00_11_10>(x));
    _mm_cvtsi128_si32(_mm_add_epi32(x, _mm_shuffle_epi32::<0b10_11_00_01>(x)))
}

macro_rules! float_kernels {
    ($one:ident, $many:ident, $step:ident, $T:ty, $load:ident) => {
        #[target_feature(enable = "avx2,fma,f16c")]
        pub(super) fn $one(a: &[f32], b: &[$T]) -> f32 {
            let n = a.len().min(b.len());
            let (pa, pb) = (a.as_ptr(), b.as_ptr());
            let mut acc = [_mm256_setzero_ps(); 4];
            let mut i = 0;
            while i + 32 <= n {
                for (j, acc) in acc.iter_mut().enumerate() {
                    let at = i + 8 * j;
                    // SAFETY: at + 8 <= i + 32 <= n, the length of both slices.
                    *acc = unsafe { $step(*acc, load_f32(pa.add(at)), $load(pb.add(at))) };
                }
                i += 32;
            }
            while i + 8 <= n {
                // SAFETY: i + 8 <= n.
                acc[0] = unsafe { $step(acc[0], load_f32(pa.add(i)), $load(pb.add(i))) };
                i += 8;
            }
            let acc = _mm256_add_ps(_mm256_add_ps(acc[0], acc[1]), _mm256_add_ps(acc[2], acc[3]));
            sum_f32(acc) + scalar::$one(&a[i..n], &b[i..n])
        }

        #[target_feature(enable = "avx2,fma,f16c")]
        pub(super) fn $many(query: &[f32], rows: &[$T], out: &mut [f32]) {
            for (row, out) in rows.chunks_exact(query.len()).zip(out) {
                *out = $one(query, row);
            }
        }
    };
}

float_kernels!(l2_f32, many_l2_f32, l2_step, f32, load_f32);
float_kernels!(dot_f32, many_dot_f32, dot_step, f32, load_f32);
float_kernels!(l2_f16, many_l2_f16, l2_step, f16, load_f16);
float_kernels!(dot_f16, many_dot_f16, dot_step, f16, load_f16);

macro_rules! cosine_kernel {
    ($name:ident, $T:ty, $load:ident) => {
        #[target_feature(enable = "avx2,fma,f16c")]
        pub(super) fn $name(a: &[f32], b: &[$T]) -> Sums<f32> {
            let n = a.len().min(b.len());
            let (pa, pb) = (a.as_ptr(), b.as_ptr());
            let zero = [_mm256_setzero_ps(); 2];
            let (mut dot, mut aa, mut bb) = (zero, zero, zero);
            let mut i = 0;
            while i + 16 <= n {
                for j in 0..2 {
                    // SAFETY: i + 8 * j + 8 <= i + 16 <= n.
                    let (x, y) = unsafe { (load_f32(pa.add(i + 8 * j)), $load(pb.add(i + 8 * j))) };
                    dot[j] = _mm256_fmadd_ps(x, y, dot[j]);
                    aa[j] = _mm256_fmadd_ps(x, x, aa[j]);
                    bb[j] = _mm256_fmadd_ps(y, y, bb[j]);
                }
                i += 16;
            }
            let tail = scalar::$name(&a[i..n], &b[i..n]);
            Sums {
                dot: sum_f32(_mm256_add_ps(dot[0], dot[1])) + tail.dot,
                aa: sum_f32(_mm256_add_ps(aa[0], aa[1])) + tail.aa,
                bb: sum_f32(_mm256_add_ps(bb[0], bb[1])) + tail.bb,
            }
        }
    };
}

cosine_kernel!(cos_f32, f32, load_f32);
cosine_kernel!(cos_f16, f16, load_f16);

macro_rules! byte_kernels {
    ($one:ident, $many:ident, $step:expr) => {
        #[target_feature(enable = "avx2,fma,f16c")]
        pub(super) fn $one(a: &[i8], b: &[i8]) -> i32 {
            let n = a.len().min(b.len());
            let (pa, pb) = (a.as_ptr(), b.as_ptr());
            let mut acc = [_mm256_setzero_si256(); 2];
            let mut i = 0;
            while i + 32 <= n {
                for (j, acc) in acc.iter_mut().enumerate() {
                    // SAFETY: i + 16 * j + 16 <= i + 32 <= n.
                    let (x, y) = unsafe { (load_i16(pa.add(i + 16 * j)), load_i16(pb.add(i + 16 * j))) };
                    *acc = _mm256_add_epi32(*acc, $step(x, y));
                }
                i += 32;
            }
            sum_i32(_mm256_add_epi32(acc[0], acc[1])) + scalar::$one(&a[i..n], &b[i..n])
        }

        #[target_feature(enable = "avx2,fma,f16c")]
        pub(super) fn $many(query: &[i8], rows: &[i8], out: &mut [i32]) {
            for (row, out) in rows.chunks_exact(query.len()).zip(out) {
                *out = $one(query, row);
            }
        }
    };
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn square_difference(x: __m256i, y: __m256i) -> __m256i {
    let d = _mm256_sub_epi16(x, y);
    _mm256_madd_epi16(d, d)
}

byte_kernels!(l2_i8, many_l2_i8, square_difference);
byte_kernels!(dot_i8, many_dot_i8, _mm256_madd_epi16);

#[target_feature(enable = "avx2,fma,f16c")]
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
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn gather_i8(query: &[i8], rows: &[*const u8], out: &mut [i32]) {
    for (&row, out) in rows.iter().zip(out) {
        // SAFETY: the caller vouches for `query.len()` readable bytes; every byte is a valid i8.
        *out = dot_i8(query, unsafe {
            std::slice::from_raw_parts(row.cast(), query.len())
        });
    }
}

/// See [`super::Kernels::gather_u4`]. A nibble times a byte twice over stays below 2^12, so `maddubs` is exact here.
///
/// # Safety
/// Each pointer is readable for `query.len() / 2` bytes.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn gather_u4(query: &[i8], rows: &[*const u8], out: &mut [i32]) {
    let half = query.len() / 2;
    let (low, ones) = (_mm256_set1_epi8(15), _mm256_set1_epi16(1));
    let wide = half / 32 * 32;
    for (&row, out) in rows.iter().zip(out) {
        let mut acc = _mm256_setzero_si256();
        let mut i = 0;
        while i < wide {
            // SAFETY: i + 32 <= half: inside the row by the caller's word, inside both halves of the query.
            let (x, q0, q1) = unsafe {
                (
                    _mm256_loadu_si256(row.add(i).cast()),
                    _mm256_loadu_si256(query.as_ptr().add(i).cast()),
                    _mm256_loadu_si256(query.as_ptr().add(half + i).cast()),
                )
            };
            let p0 = _mm256_maddubs_epi16(_mm256_and_si256(x, low), q0);
            let p1 = _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16::<4>(x), low), q1);
            acc = _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_add_epi16(p0, p1), ones));
            i += 32;
        }
        // SAFETY: the caller vouches for `half` readable bytes.
        let tail = unsafe { std::slice::from_raw_parts(row.add(wide), half - wide) };
        *out = sum_i32(acc);
        for (i, &byte) in tail.iter().enumerate() {
            let (q0, q1) = (query[wide + i] as i32, query[half + wide + i] as i32);
            *out += (byte & 15) as i32 * q0 + (byte >> 4) as i32 * q1;
        }
    }
}

/// Eight bytes a step through the `popcnt` instruction, which every CPU with AVX2 has.
#[target_feature(enable = "avx2,fma,f16c,popcnt")]
pub(super) fn hamming(a: &[u8], b: &[u8]) -> u32 {
    let (ca, cb) = (a.chunks_exact(8), b.chunks_exact(8));
    let tail: u32 = ca
        .remainder()
        .iter()
        .zip(cb.remainder())
        .map(|(x, y)| (x ^ y).count_ones())
        .sum();
    let word = |c: &[u8]| u64::from_le_bytes(std::array::from_fn(|i| c[i]));
    ca.zip(cb)
        .map(|(x, y)| (word(x) ^ word(y)).count_ones())
        .sum::<u32>()
        + tail
}

/// See [`super::Kernels::lut_block`]; the scheme is that of the AVX-512 kernel with two groups a step.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn lut_block(luts: &[u8], codes: &[u8], out: &mut [u32; 32]) {
    let low = _mm256_set1_epi8(15);
    let n = luts.len().min(codes.len()) / 32 * 32;
    let mut total = [_mm256_setzero_si256(); 4];
    let mut i = 0;
    while i < n {
        let end = n.min(i + 32 * 256);
        let mut acc = [_mm256_setzero_si256(); 4];
        while i < end {
            // SAFETY: i + 32 <= n, which both slices have.
            let (lut, code) = unsafe {
                (
                    _mm256_loadu_si256(luts.as_ptr().add(i).cast()),
                    _mm256_loadu_si256(codes.as_ptr().add(i).cast()),
                )
            };
            let first = _mm256_shuffle_epi8(lut, _mm256_and_si256(code, low));
            let second = _mm256_shuffle_epi8(lut, _mm256_and_si256(_mm256_srli_epi16::<4>(code), low));
            acc[0] = _mm256_add_epi16(acc[0], first);
            acc[1] = _mm256_add_epi16(acc[1], _mm256_srli_epi16::<8>(first));
            acc[2] = _mm256_add_epi16(acc[2], second);
            acc[3] = _mm256_add_epi16(acc[3], _mm256_srli_epi16::<8>(second));
            i += 32;
        }
        for half in 0..2 {
            let odd = acc[2 * half + 1];
            let even = _mm256_sub_epi16(acc[2 * half], _mm256_slli_epi16::<8>(odd));
            let (first, second) = fold_lanes(even, odd);
            total[2 * half] = _mm256_add_epi32(total[2 * half], first);
            total[2 * half + 1] = _mm256_add_epi32(total[2 * half + 1], second);
        }
    }
    for (j, total) in total.into_iter().enumerate() {
        // SAFETY: `out` holds four registers of eight sums.
        unsafe { _mm256_storeu_si256(out.as_mut_ptr().add(8 * j).cast(), total) };
    }
    if n < luts.len().min(codes.len()) {
        let mut rest = [0; 32];
        scalar::lut_block(&luts[n..], &codes[n..], &mut rest);
        out.iter_mut().zip(rest).for_each(|(o, r)| *o += r);
    }
}

/// Adds the two lanes of 16-bit sums for the even and the odd bytes; the results have the sums in order.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn fold_lanes(even: __m256i, odd: __m256i) -> (__m256i, __m256i) {
    let (even, odd) = (fold_one(even), fold_one(odd));
    let order_lo = _mm256_unpacklo_epi32(even, odd);
    let order_hi = _mm256_unpackhi_epi32(even, odd);
    (
        _mm256_permute2x128_si256::<0x20>(order_lo, order_hi),
        _mm256_permute2x128_si256::<0x31>(order_lo, order_hi),
    )
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn fold_one(x: __m256i) -> __m256i {
    let a = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(x));
    _mm256_add_epi32(a, _mm256_cvtepu16_epi32(_mm256_extracti128_si256::<1>(x)))
}

/// See [`super::Kernels::hadamard`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn hadamard(x: &mut [f32]) {
    let n = x.len();
    for block in x.chunks_exact_mut(n.min(8)) {
        scalar::hadamard(block);
    }
    let p = x.as_mut_ptr();
    let mut step = 8;
    while step < n {
        for start in (0..n).step_by(2 * step) {
            for i in (start..start + step).step_by(8) {
                // SAFETY: n is a power of two >= 2 * step, so i + step + 8 <= n.
                unsafe {
                    let (a, b) = (_mm256_loadu_ps(p.add(i)), _mm256_loadu_ps(p.add(i + step)));
                    _mm256_storeu_ps(p.add(i), _mm256_add_ps(a, b));
                    _mm256_storeu_ps(p.add(i + step), _mm256_sub_ps(a, b));
                }
            }
        }
        step *= 2;
    }
}

/// See [`super::Kernels::block_bounds`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn block_bounds(
    sums: &[u32; 32],
    factors: &[u8; 384],
    line: &Line,
    estimates: &mut [f32; 32],
    slack: &mut [f32; 32],
) -> u32 {
    scalar::bounds_body(sums, factors, line, estimates, slack)
}
