//! Squared distances, inner products and cosines of bytes, and inner products of bytes with nibbles.

use std::arch::x86_64::*;
use std::slice::{ChunksExact, ChunksExactMut};

use super::super::Sums;
use super::{AHEAD, load_i8, mask64};

/// The mask of the first `n` of 64 bytes, where `WHOLE` promises that there are as many: rows of a multiple of 64 bytes, as
/// the usual dimensions have, are read without masks, which is a tenth faster.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq")]
fn first<const WHOLE: bool>(n: usize) -> u64 {
    if WHOLE { u64::MAX } else { mask64(n) }
}

/// 32 signed bytes as 16-bit numbers.
///
/// # Safety
/// The bytes of `p` selected by `m` are readable.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq")]
unsafe fn load_i16(m: u32, p: *const i8) -> __m512i {
    // SAFETY: masked-off lanes are not read; the caller vouches for the others.
    _mm512_cvtepi8_epi16(unsafe { _mm256_maskz_loadu_epi8(m, p) })
}

/// Sums of the squared differences of a query and a row.
///
/// # Safety
/// `row` is readable for `query.len()` bytes, a multiple of 64 if `WHOLE`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq")]
unsafe fn row_l2_i8<const PREFETCH: bool, const WHOLE: bool>(query: &[i8], row: *const i8) -> __m512i {
    let n = query.len();
    let mut sums = [_mm512_setzero_si512(); 2];
    let mut i = 0;
    while i < n {
        if PREFETCH {
            _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(i + AHEAD));
        }
        for (j, sum) in sums.iter_mut().enumerate() {
            let at = i + 32 * j;
            let m = first::<WHOLE>(n.saturating_sub(at)) as u32;
            // SAFETY: the mask selects only elements before n.
            let (x, y) = unsafe {
                (
                    load_i16(m, query.as_ptr().wrapping_add(at)),
                    load_i16(m, row.wrapping_add(at)),
                )
            };
            let d = _mm512_sub_epi16(x, y);
            *sum = _mm512_dpwssd_epi32(*sum, d, d);
        }
        i += 64;
    }
    _mm512_add_epi32(sums[0], sums[1])
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq")]
pub(in crate::kernel) fn l2_i8(a: &[i8], b: &[i8]) -> i32 {
    let n = a.len().min(b.len());
    // SAFETY: both slices have at least n elements.
    _mm512_reduce_add_epi32(unsafe { row_l2_i8::<false, false>(&a[..n], b.as_ptr()) })
}

/// VNNI multiplies unsigned by signed bytes: `(a + 128) . b - 128 * sum(b)`, both sums in one pass.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq")]
pub(in crate::kernel) fn dot_i8(a: &[i8], b: &[i8]) -> i32 {
    let n = a.len().min(b.len());
    let (pa, pb) = (a.as_ptr(), b.as_ptr());
    let flip = _mm512_set1_epi8(-128);
    let (mut acc, mut bias) = ([_mm512_setzero_si512(); 2], [_mm512_setzero_si512(); 2]);
    let mut i = 0;
    while i < n {
        for j in 0..2 {
            let at = i + 64 * j;
            let m = mask64(n.saturating_sub(at));
            // SAFETY: the mask selects only elements before n.
            let (x, y) = unsafe { (load_i8(m, pa.wrapping_add(at)), load_i8(m, pb.wrapping_add(at))) };
            acc[j] = _mm512_dpbusd_epi32(acc[j], _mm512_xor_si512(x, flip), y);
            bias[j] = _mm512_dpbusd_epi32(bias[j], flip, y);
        }
        i += 128;
    }
    let acc = _mm512_add_epi32(acc[0], acc[1]);
    let bias = _mm512_add_epi32(bias[0], bias[1]);
    _mm512_reduce_add_epi32(_mm512_sub_epi32(acc, bias))
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq")]
pub(in crate::kernel) fn cos_i8(a: &[i8], b: &[i8]) -> Sums<i32> {
    let n = a.len().min(b.len());
    let (pa, pb) = (a.as_ptr(), b.as_ptr());
    let (mut dot, mut aa, mut bb) = (
        _mm512_setzero_si512(),
        _mm512_setzero_si512(),
        _mm512_setzero_si512(),
    );
    let mut i = 0;
    while i < n {
        let m = mask64(n - i) as u32;
        // SAFETY: the mask selects only elements before n.
        let (x, y) = unsafe { (load_i16(m, pa.add(i)), load_i16(m, pb.add(i))) };
        dot = _mm512_dpwssd_epi32(dot, x, y);
        aa = _mm512_dpwssd_epi32(aa, x, x);
        bb = _mm512_dpwssd_epi32(bb, y, y);
        i += 32;
    }
    Sums {
        dot: _mm512_reduce_add_epi32(dot),
        aa: _mm512_reduce_add_epi32(aa),
        bb: _mm512_reduce_add_epi32(bb),
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq")]
fn sum_i8(a: &[i8]) -> i32 {
    let ones = _mm512_set1_epi8(1);
    let mut acc = _mm512_setzero_si512();
    let mut i = 0;
    while i < a.len() {
        // SAFETY: the mask selects only elements of `a`.
        acc = unsafe { _mm512_dpbusd_epi32(acc, ones, load_i8(mask64(a.len() - i), a.as_ptr().add(i))) };
        i += 64;
    }
    _mm512_reduce_add_epi32(acc)
}

/// The four sums of four accumulators, in the order given.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq")]
fn reduce4(acc: [__m512i; 4]) -> __m128i {
    let t0 = _mm512_add_epi32(
        _mm512_unpacklo_epi32(acc[0], acc[1]),
        _mm512_unpackhi_epi32(acc[0], acc[1]),
    );
    let t1 = _mm512_add_epi32(
        _mm512_unpacklo_epi32(acc[2], acc[3]),
        _mm512_unpackhi_epi32(acc[2], acc[3]),
    );
    let t = _mm512_add_epi32(_mm512_unpacklo_epi64(t0, t1), _mm512_unpackhi_epi64(t0, t1));
    let t = _mm256_add_epi32(_mm512_castsi512_si256(t), _mm512_extracti64x4_epi64::<1>(t));
    _mm_add_epi32(_mm256_castsi256_si128(t), _mm256_extracti128_si256::<1>(t))
}

/// Sums of the products of a query and a row whose bytes are taken 128 too large.
///
/// # Safety
/// `row` is readable for `query.len()` bytes, a multiple of 64 if `WHOLE`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq")]
unsafe fn row_dot_i8<const WHOLE: bool>(query: &[i8], row: *const i8) -> __m512i {
    let n = query.len();
    let flip = _mm512_set1_epi8(-128);
    let mut sum = _mm512_setzero_si512();
    let mut i = 0;
    while i < n {
        let m = first::<WHOLE>(n - i);
        _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(i + AHEAD));
        // SAFETY: the mask selects only elements before n, of the query and by the caller's word of the row.
        let (q, x) = unsafe { (load_i8(m, query.as_ptr().add(i)), load_i8(m, row.add(i))) };
        sum = _mm512_dpbusd_epi32(sum, _mm512_xor_si512(x, flip), q);
        i += 64;
    }
    sum
}

/// Sums of a query and each row, four rows at a time; less `bias`.
macro_rules! many_i8 {
    ($name:ident, $quads:ident, $one:ident, $bias:expr, $row:ident $(, $prefetch:literal)?) => {
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq")]
        fn $quads<const WHOLE: bool>(query: &[i8], quads: ChunksExact<i8>, outs: ChunksExactMut<i32>) {
            let n = query.len();
            let bias = _mm_set1_epi32($bias(query));
            for (quad, out) in quads.zip(outs) {
                // SAFETY: the quad holds four rows of n bytes, and the query as many; `out` holds four sums.
                unsafe {
                    // Not by `map`: what it calls would be called without vector registers.
                    let at = |r: usize| quad.as_ptr().wrapping_add(r * n);
                    let sums = [
                        $row::<$($prefetch,)? WHOLE>(query, at(0)),
                        $row::<$($prefetch,)? WHOLE>(query, at(1)),
                        $row::<$($prefetch,)? WHOLE>(query, at(2)),
                        $row::<$($prefetch,)? WHOLE>(query, at(3)),
                    ];
                    _mm_storeu_si128(out.as_mut_ptr().cast(), _mm_sub_epi32(reduce4(sums), bias));
                }
            }
        }

        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq")]
        pub(in crate::kernel) fn $name(query: &[i8], rows: &[i8], out: &mut [i32]) {
            let n = query.len();
            let quads = rows.chunks_exact(4 * n);
            let rest = quads.remainder();
            let (outs, out_rest) = out.split_at_mut(out.len() / 4 * 4);
            if n.is_multiple_of(64) {
                $quads::<true>(query, quads, outs.chunks_exact_mut(4));
            } else {
                $quads::<false>(query, quads, outs.chunks_exact_mut(4));
            }
            for (row, out) in rest.chunks_exact(n).zip(out_rest) {
                *out = $one(query, row);
            }
        }
    };
}

many_i8!(
    many_dot_i8,
    quads_dot_i8,
    dot_i8,
    |query| 128 * sum_i8(query),
    row_dot_i8
);
many_i8!(many_l2_i8, quads_l2_i8, l2_i8, |_| 0, row_l2_i8, true);

/// Four rows of signed bytes anywhere in memory against one query; `bias` is `128 * sum(query)`.
///
/// # Safety
/// Each row is readable for `query.len()` bytes, a multiple of 64 if `WHOLE`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq")]
unsafe fn quad_i8<const WHOLE: bool>(query: &[i8], rows: [*const i8; 4], bias: i32) -> __m128i {
    let n = query.len();
    let flip = _mm512_set1_epi8(-128);
    let mut acc = [_mm512_setzero_si512(); 4];
    let mut i = 0;
    while i < n {
        let m = first::<WHOLE>(n - i);
        // SAFETY: the mask selects only elements before n.
        let q = unsafe { load_i8(m, query.as_ptr().add(i)) };
        for (acc, row) in acc.iter_mut().zip(rows) {
            // SAFETY: as above, by the caller's word on the rows.
            let x = unsafe { load_i8(m, row.add(i)) };
            *acc = _mm512_dpbusd_epi32(*acc, _mm512_xor_si512(x, flip), q);
        }
        i += 64;
    }
    _mm_sub_epi32(reduce4(acc), _mm_set1_epi32(bias))
}

/// See [`crate::kernel::Kernels::gather_i8`].
///
/// # Safety
/// Each pointer is readable for `query.len()` bytes.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq")]
pub(in crate::kernel) unsafe fn gather_i8(query: &[i8], rows: &[*const u8], out: &mut [i32]) {
    // SAFETY: the caller vouches for the rows.
    unsafe {
        if query.len().is_multiple_of(64) {
            gathered_i8::<true>(query, rows, out);
        } else {
            gathered_i8::<false>(query, rows, out);
        }
    }
}

/// # Safety
/// Each pointer is readable for `query.len()` bytes, a multiple of 64 if `WHOLE`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq")]
unsafe fn gathered_i8<const WHOLE: bool>(query: &[i8], rows: &[*const u8], out: &mut [i32]) {
    let bias = 128 * sum_i8(query);
    let mut quads = rows.chunks_exact(4);
    let mut outs = out.chunks_exact_mut(4);
    for (quad, out) in (&mut quads).zip(&mut outs) {
        let rows = [quad[0].cast(), quad[1].cast(), quad[2].cast(), quad[3].cast()];
        // SAFETY: the caller vouches for the rows; `out` holds four sums.
        unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), quad_i8::<WHOLE>(query, rows, bias)) };
    }
    for (&row, out) in quads.remainder().iter().zip(outs.into_remainder()) {
        // SAFETY: the caller vouches for `query.len()` readable bytes; every byte is a valid i8.
        *out = dot_i8(query, unsafe {
            std::slice::from_raw_parts(row.cast(), query.len())
        });
    }
}

/// Four rows of packed nibbles against one query whose first half meets the low nibbles.
///
/// # Safety
/// Each row is readable for `query.len() / 2` bytes, a multiple of 64 if `WHOLE`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq")]
unsafe fn quad_u4<const WHOLE: bool>(query: &[i8], rows: [*const u8; 4]) -> __m128i {
    let half = query.len() / 2;
    let low = _mm512_set1_epi8(15);
    let mut acc = [_mm512_setzero_si512(); 4];
    let mut i = 0;
    while i < half {
        let m = first::<WHOLE>(half - i);
        // SAFETY: the mask selects only elements before half, in both halves of the query.
        let (q0, q1) = unsafe {
            (
                load_i8(m, query.as_ptr().add(i)),
                load_i8(m, query.as_ptr().add(half + i)),
            )
        };
        for (acc, row) in acc.iter_mut().zip(rows) {
            // SAFETY: as above, by the caller's word on the rows.
            let x = unsafe { load_i8(m, row.add(i).cast()) };
            let hi = _mm512_and_si512(_mm512_srli_epi16::<4>(x), low);
            *acc = _mm512_dpbusd_epi32(*acc, _mm512_and_si512(x, low), q0);
            *acc = _mm512_dpbusd_epi32(*acc, hi, q1);
        }
        i += 64;
    }
    reduce4(acc)
}

/// See [`crate::kernel::Kernels::gather_u4`].
///
/// # Safety
/// Each pointer is readable for `query.len() / 2` bytes.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq")]
pub(in crate::kernel) unsafe fn gather_u4(query: &[i8], rows: &[*const u8], out: &mut [i32]) {
    // SAFETY: the caller vouches for the rows.
    unsafe {
        if query.len().is_multiple_of(128) {
            gathered_u4::<true>(query, rows, out);
        } else {
            gathered_u4::<false>(query, rows, out);
        }
    }
}

/// # Safety
/// Each pointer is readable for `query.len() / 2` bytes, a multiple of 64 if `WHOLE`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq")]
unsafe fn gathered_u4<const WHOLE: bool>(query: &[i8], rows: &[*const u8], out: &mut [i32]) {
    let mut quads = rows.chunks_exact(4);
    let mut outs = out.chunks_exact_mut(4);
    for (quad, out) in (&mut quads).zip(&mut outs) {
        // SAFETY: the caller vouches for the rows; `out` holds four sums.
        unsafe {
            let sums = quad_u4::<WHOLE>(query, [quad[0], quad[1], quad[2], quad[3]]);
            _mm_storeu_si128(out.as_mut_ptr().cast(), sums);
        }
    }
    let rest = quads.remainder();
    if let Some(&first) = rest.first() {
        let mut rows = [first; 4];
        rows[..rest.len()].copy_from_slice(rest);
        let mut sums = [0i32; 4];
        // SAFETY: every entry is one of the caller's rows; `sums` holds four sums.
        unsafe { _mm_storeu_si128(sums.as_mut_ptr().cast(), quad_u4::<WHOLE>(query, rows)) };
        outs.into_remainder().copy_from_slice(&sums[..rest.len()]);
    }
}
