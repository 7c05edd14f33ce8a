//! One-bit codes: differing bits, blocks of table sums, and the transform that rotates vectors before they are coded.

use std::arch::x86_64::*;

use super::super::{Line, scalar};
use super::{load_i8, mask64};

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq")]
pub(in crate::kernel) fn hamming(a: &[u8], b: &[u8]) -> u32 {
    let n = a.len().min(b.len());
    let (pa, pb) = (a.as_ptr(), b.as_ptr());
    let mut acc = _mm512_setzero_si512();
    let mut i = 0;
    while i < n {
        let m = mask64(n - i);
        // SAFETY: the mask selects only bytes before n.
        let x = unsafe { _mm512_xor_si512(load_i8(m, pa.add(i).cast()), load_i8(m, pb.add(i).cast())) };
        acc = _mm512_add_epi64(acc, _mm512_popcnt_epi64(x));
        i += 64;
    }
    _mm512_reduce_add_epi64(acc) as u32
}

/// See [`crate::kernel::Kernels::lut_block`]. Four groups of dimensions a step: each 128-bit lane holds one group's table
/// and one group's 32 codes. Byte sums are kept in 16-bit pairs (even + 256 * odd, and odd alone), folded into
/// 32 bits before 256 additions could overflow them.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq")]
pub(in crate::kernel) fn lut_block(luts: &[u8], codes: &[u8], out: &mut [u32; 32]) {
    let n = luts.len().min(codes.len()) / 16 * 16;
    let mut total = [_mm512_setzero_si512(); 2];
    let mut i = 0;
    while i < n {
        let end = n.min(i + 64 * 256);
        let mut acc = [_mm512_setzero_si512(); 4];
        while i + 64 <= end {
            // SAFETY: 64 bytes before n, which both slices have.
            unsafe { look_up(&mut acc, u64::MAX, luts.as_ptr().add(i), codes.as_ptr().add(i)) };
            i += 64;
        }
        if i < end {
            // SAFETY: the mask selects only bytes before n.
            unsafe {
                look_up(
                    &mut acc,
                    mask64(end - i),
                    luts.as_ptr().add(i),
                    codes.as_ptr().add(i),
                )
            };
            i = end;
        }
        for half in 0..2 {
            let odd = acc[2 * half + 1];
            let even = _mm512_sub_epi16(acc[2 * half], _mm512_slli_epi16::<8>(odd));
            total[half] = _mm512_add_epi32(total[half], fold_lanes(even, odd));
        }
    }
    // SAFETY: `out` holds two registers of sixteen sums.
    unsafe {
        _mm512_storeu_si512(out.as_mut_ptr().cast(), total[0]);
        _mm512_storeu_si512(out.as_mut_ptr().add(16).cast(), total[1]);
    }
}

/// Adds what the tables of four groups say of 32 codes.
///
/// # Safety
/// The bytes of `luts` and `codes` selected by `m` are readable.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq")]
unsafe fn look_up(acc: &mut [__m512i; 4], m: u64, luts: *const u8, codes: *const u8) {
    let low = _mm512_set1_epi8(15);
    // SAFETY: the caller vouches for the selected bytes.
    let (lut, code) = unsafe { (load_i8(m, luts.cast()), load_i8(m, codes.cast())) };
    let first = _mm512_shuffle_epi8(lut, _mm512_and_si512(code, low));
    let second = _mm512_shuffle_epi8(lut, _mm512_and_si512(_mm512_srli_epi16::<4>(code), low));
    acc[0] = _mm512_add_epi16(acc[0], first);
    acc[1] = _mm512_add_epi16(acc[1], _mm512_srli_epi16::<8>(first));
    acc[2] = _mm512_add_epi16(acc[2], second);
    acc[3] = _mm512_add_epi16(acc[3], _mm512_srli_epi16::<8>(second));
}

/// Adds the four lanes of 16-bit sums for the even and the odd bytes; the result has the sixteen sums in order.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq")]
fn fold_lanes(even: __m512i, odd: __m512i) -> __m512i {
    let (even, odd) = (fold_one(even), fold_one(odd));
    let order_lo = _mm256_unpacklo_epi32(even, odd);
    let order_hi = _mm256_unpackhi_epi32(even, odd);
    let first = _mm256_permute2x128_si256::<0x20>(order_lo, order_hi);
    let second = _mm256_permute2x128_si256::<0x31>(order_lo, order_hi);
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(first), second)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq")]
fn fold_one(x: __m512i) -> __m256i {
    let a = _mm256_cvtepu16_epi32(_mm512_castsi512_si128(x));
    let b = _mm256_cvtepu16_epi32(_mm512_extracti32x4_epi32::<1>(x));
    let c = _mm256_cvtepu16_epi32(_mm512_extracti32x4_epi32::<2>(x));
    let d = _mm256_cvtepu16_epi32(_mm512_extracti32x4_epi32::<3>(x));
    _mm256_add_epi32(_mm256_add_epi32(a, b), _mm256_add_epi32(c, d))
}

/// The transform of sixteen numbers: at each step every lane meets the one whose number differs in one bit; the lane with
/// the bit set takes the difference.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq")]
fn hadamard16(v: __m512) -> __m512 {
    let v = _mm512_mask_sub_ps(_mm512_add_ps(v, swap1(v)), 0xaaaa, swap1(v), v);
    let v = _mm512_mask_sub_ps(_mm512_add_ps(v, swap2(v)), 0xcccc, swap2(v), v);
    let swapped = _mm512_shuffle_f32x4::<0b10_11_00_01>(v, v);
    let v = _mm512_mask_sub_ps(_mm512_add_ps(v, swapped), 0xf0f0, swapped, v);
    let swapped = _mm512_shuffle_f32x4::<0b01_00_11_10>(v, v);
    _mm512_mask_sub_ps(_mm512_add_ps(v, swapped), 0xff00, swapped, v)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq")]
fn swap1(v: __m512) -> __m512 {
    _mm512_permute_ps::<0b10_11_00_01>(v)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq")]
fn swap2(v: __m512) -> __m512 {
    _mm512_permute_ps::<0b01_00_11_10>(v)
}

/// See [`crate::kernel::Kernels::hadamard`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq")]
pub(in crate::kernel) fn hadamard(x: &mut [f32]) {
    let n = x.len();
    if n < 16 {
        return scalar::hadamard(x);
    }
    for block in x.chunks_exact_mut(16) {
        // SAFETY: the block holds sixteen floats.
        unsafe {
            let v = hadamard16(_mm512_loadu_ps(block.as_ptr()));
            _mm512_storeu_ps(block.as_mut_ptr(), v);
        }
    }
    let p = x.as_mut_ptr();
    let mut step = 16;
    while step < n {
        for start in (0..n).step_by(2 * step) {
            for i in (start..start + step).step_by(16) {
                // SAFETY: n is a power of two >= 2 * step, so i + step + 16 <= n.
                unsafe {
                    let (a, b) = (_mm512_loadu_ps(p.add(i)), _mm512_loadu_ps(p.add(i + step)));
                    _mm512_storeu_ps(p.add(i), _mm512_add_ps(a, b));
                    _mm512_storeu_ps(p.add(i + step), _mm512_sub_ps(a, b));
                }
            }
        }
        step *= 2;
    }
}

/// See [`crate::kernel::Kernels::block_bounds`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq")]
pub(in crate::kernel) fn block_bounds(
    sums: &[u32; 32],
    factors: &[u8; 384],
    line: &Line,
    estimates: &mut [f32; 32],
    slack: &mut [f32; 32],
) -> u32 {
    scalar::bounds_body(sums, factors, line, estimates, slack)
}
