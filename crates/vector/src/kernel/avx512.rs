//! AVX-512 kernels (F, BW, DQ, VL, VNNI, VPOPCNTDQ). Tails are masked loads, so every length takes one path.
//!
//! The `many_` forms walk four rows at once: one load of the query then serves four multiply-adds, and four
//! streams keep more cache misses in flight than one. They prefetch [`AHEAD`] bytes ahead because the hardware
//! prefetcher stops at a page boundary.

use std::arch::x86_64::*;

use half::f16;

use super::{Line, Sums, scalar};

/// How far ahead of the loads the streaming kernels prefetch.
const AHEAD: usize = 2048;

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq")]
fn mask16(n: usize) -> u16 {
    if n >= 16 { u16::MAX } else { (1u16 << n) - 1 }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq")]
fn mask64(n: usize) -> u64 {
    if n >= 64 { u64::MAX } else { (1u64 << n) - 1 }
}

/// # Safety
/// The elements of `p` selected by `m` are readable.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq")]
unsafe fn load_f32(m: u16, p: *const f32) -> __m512 {
    // SAFETY: masked-off lanes are not read; the caller vouches for the others.
    unsafe { _mm512_maskz_loadu_ps(m, p) }
}

/// # Safety
/// The elements of `p` selected by `m` are readable.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq")]
unsafe fn load_f16(m: u16, p: *const f16) -> __m512 {
    // SAFETY: masked-off lanes are not read; the caller vouches for the others.
    _mm512_cvtph_ps(unsafe { _mm256_maskz_loadu_epi16(m, p.cast()) })
}

/// # Safety
/// The elements of `p` selected by `m` are readable.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq")]
unsafe fn load_i8(m: u64, p: *const i8) -> __m512i {
    // SAFETY: masked-off lanes are not read; the caller vouches for the others.
    unsafe { _mm512_maskz_loadu_epi8(m, p) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq")]
fn l2_step(acc: __m512, a: __m512, b: __m512) -> __m512 {
    let d = _mm512_sub_ps(a, b);
    _mm512_fmadd_ps(d, d, acc)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq")]
fn dot_step(acc: __m512, a: __m512, b: __m512) -> __m512 {
    _mm512_fmadd_ps(a, b, acc)
}

/// The four sums of a row added up to four lanes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq")]
fn lanes4(a: [__m512; 4]) -> __m128 {
    let all = _mm512_add_ps(_mm512_add_ps(a[0], a[1]), _mm512_add_ps(a[2], a[3]));
    let half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps::<1>(all));
    _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps::<1>(half))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq")]
fn sum4(a: [__m512; 4]) -> f32 {
    let x = lanes4(a);
    let pairs = _mm_add_ps(x, _mm_movehl_ps(x, x));
    _mm_cvtss_f32(_mm_add_ss(pairs, _mm_movehdup_ps(pairs)))
}

/// [`sum4`] of four rows at once, with the same order of additions: for short rows the four sums across a register cost
/// as much as the rows.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq")]
fn sum4x4(rows: [[__m512; 4]; 4]) -> __m128 {
    let [a, b, c, d] = [lanes4(rows[0]), lanes4(rows[1]), lanes4(rows[2]), lanes4(rows[3])];
    let ab = _mm_add_ps(_mm_unpacklo_ps(a, b), _mm_unpackhi_ps(a, b));
    let cd = _mm_add_ps(_mm_unpacklo_ps(c, d), _mm_unpackhi_ps(c, d));
    _mm_add_ps(_mm_movelh_ps(ab, cd), _mm_movehl_ps(cd, ab))
}

macro_rules! float_kernels {
    ($one:ident, $many:ident, $rows:ident, $step:ident, $T:ty, $load:ident) => {
        /// One query and `R` rows, four sums each. How many rows go together does not change the order of any sum, so
        /// the same two vectors have the same distance in every form.
        ///
        /// # Safety
        /// `query` has `n` elements, `rows` has `R * n`.
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq")]
        unsafe fn $rows<const R: usize>(n: usize, query: *const f32, rows: *const $T) -> [[__m512; 4]; R] {
            let ahead = AHEAD / size_of::<$T>();
            let mut acc = [[_mm512_setzero_ps(); 4]; R];
            let mut i = 0;
            while i + 64 <= n {
                for s in 0..4 {
                    let at = i + 16 * s;
                    // SAFETY: at + 16 <= n, so all loads stay inside the query and the rows; a prefetch may name
                    // any address.
                    unsafe {
                        let q = load_f32(!0, query.add(at));
                        for (r, acc) in acc.iter_mut().enumerate() {
                            let p = rows.add(r * n + at);
                            if R > 1 {
                                _mm_prefetch::<_MM_HINT_T0>(p.wrapping_add(ahead).cast());
                            }
                            acc[s] = $step(acc[s], q, $load(!0, p));
                        }
                    }
                }
                i += 64;
            }
            if i < n {
                for s in 0..4 {
                    let at = i + 16 * s;
                    let m = mask16(n.saturating_sub(at));
                    // SAFETY: the mask selects only elements before n.
                    unsafe {
                        let q = load_f32(m, query.wrapping_add(at));
                        for (r, acc) in acc.iter_mut().enumerate() {
                            acc[s] = $step(acc[s], q, $load(m, rows.wrapping_add(r * n + at)));
                        }
                    }
                }
            }
            acc
        }

        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq")]
        pub(super) fn $one(a: &[f32], b: &[$T]) -> f32 {
            // SAFETY: both slices have at least n elements.
            let [sum] = unsafe { $rows::<1>(a.len().min(b.len()), a.as_ptr(), b.as_ptr()) };
            sum4(sum)
        }

        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq")]
        pub(super) fn $many(query: &[f32], rows: &[$T], out: &mut [f32]) {
            let n = query.len();
            let mut quads = rows.chunks_exact(4 * n);
            let mut outs = out.chunks_exact_mut(4);
            for (quad, out) in (&mut quads).zip(&mut outs) {
                // SAFETY: the quad holds four rows of n elements.
                let sums = sum4x4(unsafe { $rows::<4>(n, query.as_ptr(), quad.as_ptr()) });
                // SAFETY: `out` holds four sums.
                unsafe { _mm_storeu_ps(out.as_mut_ptr(), sums) };
            }
            for (row, out) in quads.remainder().chunks_exact(n).zip(outs.into_remainder()) {
                *out = $one(query, row);
            }
        }
    };
}

float_kernels!(l2_f32, many_l2_f32, rows_l2_f32, l2_step, f32, load_f32);
float_kernels!(dot_f32, many_dot_f32, rows_dot_f32, dot_step, f32, load_f32);
float_kernels!(l2_f16, many_l2_f16, rows_l2_f16, l2_step, f16, load_f16);
float_kernels!(dot_f16, many_dot_f16, rows_dot_f16, dot_step, f16, load_f16);

macro_rules! cosine_kernel {
    ($name:ident, $T:ty, $load:ident) => {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq")]
        pub(super) fn $name(a: &[f32], b: &[$T]) -> Sums<f32> {
            let n = a.len().min(b.len());
            let (pa, pb) = (a.as_ptr(), b.as_ptr());
            let (mut dot, mut aa, mut bb) = (
                [_mm512_setzero_ps(); 2],
                [_mm512_setzero_ps(); 2],
                [_mm512_setzero_ps(); 2],
            );
            let mut i = 0;
            while i < n {
                for j in 0..2 {
                    let at = i + 16 * j;
                    let m = if at < n { mask16(n - at) } else { 0 };
                    // SAFETY: the mask selects only elements before n.
                    let (x, y) = unsafe {
                        (
                            load_f32(m, pa.wrapping_add(at)),
                            $load(m, pb.wrapping_add(at)),
                        )
                    };
                    dot[j] = _mm512_fmadd_ps(x, y, dot[j]);
                    aa[j] = _mm512_fmadd_ps(x, x, aa[j]);
                    bb[j] = _mm512_fmadd_ps(y, y, bb[j]);
                }
                i += 32;
            }
            Sums {
                dot: _mm512_reduce_add_ps(_mm512_add_ps(dot[0], dot[1])),
                aa: _mm512_reduce_add_ps(_mm512_add_ps(aa[0], aa[1])),
                bb: _mm512_reduce_add_ps(_mm512_add_ps(bb[0], bb[1])),
            }
        }
    };
}

cosine_kernel!(cos_f32, f32, load_f32);
cosine_kernel!(cos_f16, f16, load_f16);

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

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq")]
pub(super) fn l2_i8(a: &[i8], b: &[i8]) -> i32 {
    let n = a.len().min(b.len());
    let (pa, pb) = (a.as_ptr(), b.as_ptr());
    let mut acc = [_mm512_setzero_si512(); 2];
    let mut i = 0;
    while i < n {
        for (j, acc) in acc.iter_mut().enumerate() {
            let at = i + 32 * j;
            let m = mask64(n.saturating_sub(at)) as u32;
            // SAFETY: the mask selects only elements before n.
            let (x, y) = unsafe { (load_i16(m, pa.wrapping_add(at)), load_i16(m, pb.wrapping_add(at))) };
            let d = _mm512_sub_epi16(x, y);
            *acc = _mm512_dpwssd_epi32(*acc, d, d);
        }
        i += 64;
    }
    _mm512_reduce_add_epi32(_mm512_add_epi32(acc[0], acc[1]))
}

/// VNNI multiplies unsigned by signed bytes: `(a + 128) . b - 128 * sum(b)`, both sums in one pass.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq")]
pub(super) fn dot_i8(a: &[i8], b: &[i8]) -> i32 {
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
pub(super) fn cos_i8(a: &[i8], b: &[i8]) -> Sums<i32> {
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

/// Four rows of signed bytes against one query; `bias` is `128 * sum(query)`.
///
/// # Safety
/// Each row is readable for `query.len()` bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq")]
unsafe fn quad_i8<const PREFETCH: bool>(query: &[i8], rows: [*const i8; 4], bias: i32) -> __m128i {
    let n = query.len();
    let flip = _mm512_set1_epi8(-128);
    let mut acc = [_mm512_setzero_si512(); 4];
    let mut i = 0;
    while i < n {
        let m = mask64(n - i);
        // SAFETY: the mask selects only elements before n.
        let q = unsafe { load_i8(m, query.as_ptr().add(i)) };
        for (acc, row) in acc.iter_mut().zip(rows) {
            // SAFETY: as above, by the caller's word on the rows; a prefetch may name any address.
            let x = unsafe {
                if PREFETCH {
                    _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(i + AHEAD));
                }
                load_i8(m, row.add(i))
            };
            *acc = _mm512_dpbusd_epi32(*acc, _mm512_xor_si512(x, flip), q);
        }
        i += 64;
    }
    _mm_sub_epi32(reduce4(acc), _mm_set1_epi32(bias))
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq")]
pub(super) fn many_dot_i8(query: &[i8], rows: &[i8], out: &mut [i32]) {
    let n = query.len();
    let bias = 128 * sum_i8(query);
    let mut quads = rows.chunks_exact(4 * n);
    let mut outs = out.chunks_exact_mut(4);
    for (quad, out) in (&mut quads).zip(&mut outs) {
        let at = |j: usize| quad.as_ptr().wrapping_add(j * n);
        // SAFETY: the quad holds four rows of n bytes, `out` four sums.
        unsafe {
            let sums = quad_i8::<true>(query, [at(0), at(1), at(2), at(3)], bias);
            _mm_storeu_si128(out.as_mut_ptr().cast(), sums);
        }
    }
    for (row, out) in quads.remainder().chunks_exact(n).zip(outs.into_remainder()) {
        *out = dot_i8(query, row);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq")]
pub(super) fn many_l2_i8(query: &[i8], rows: &[i8], out: &mut [i32]) {
    for (row, out) in rows.chunks_exact(query.len()).zip(out) {
        *out = l2_i8(query, row);
    }
}

/// See [`super::Kernels::gather_i8`].
///
/// # Safety
/// Each pointer is readable for `query.len()` bytes.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq")]
pub(super) unsafe fn gather_i8(query: &[i8], rows: &[*const u8], out: &mut [i32]) {
    let bias = 128 * sum_i8(query);
    let mut quads = rows.chunks_exact(4);
    let mut outs = out.chunks_exact_mut(4);
    for (quad, out) in (&mut quads).zip(&mut outs) {
        let rows = [quad[0].cast(), quad[1].cast(), quad[2].cast(), quad[3].cast()];
        // SAFETY: the caller vouches for the rows; `out` holds four sums.
        unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), quad_i8::<false>(query, rows, bias)) };
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
/// Each row is readable for `query.len() / 2` bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq")]
unsafe fn quad_u4(query: &[i8], rows: [*const u8; 4]) -> __m128i {
    let half = query.len() / 2;
    let low = _mm512_set1_epi8(15);
    let mut acc = [_mm512_setzero_si512(); 4];
    let mut i = 0;
    while i < half {
        let m = mask64(half - i);
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

/// See [`super::Kernels::gather_u4`].
///
/// # Safety
/// Each pointer is readable for `query.len() / 2` bytes.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq")]
pub(super) unsafe fn gather_u4(query: &[i8], rows: &[*const u8], out: &mut [i32]) {
    let mut quads = rows.chunks_exact(4);
    let mut outs = out.chunks_exact_mut(4);
    for (quad, out) in (&mut quads).zip(&mut outs) {
        // SAFETY: the caller vouches for the rows; `out` holds four sums.
        unsafe {
            let sums = quad_u4(query, [quad[0], quad[1], quad[2], quad[3]]);
            _mm_storeu_si128(out.as_mut_ptr().cast(), sums);
        }
    }
    let rest = quads.remainder();
    if let Some(&first) = rest.first() {
        let mut rows = [first; 4];
        rows[..rest.len()].copy_from_slice(rest);
        let mut sums = [0i32; 4];
        // SAFETY: every entry is one of the caller's rows; `sums` holds four sums.
        unsafe { _mm_storeu_si128(sums.as_mut_ptr().cast(), quad_u4(query, rows)) };
        outs.into_remainder().copy_from_slice(&sums[..rest.len()]);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq")]
pub(super) fn hamming(a: &[u8], b: &[u8]) -> u32 {
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

/// See [`super::Kernels::lut_block`]. Four groups of dimensions a step: each 128-bit lane holds one group's table
/// and one group's 32 codes. Byte sums are kept in 16-bit pairs (even + 256 * odd, and odd alone), folded into
/// 32 bits before 256 additions could overflow them.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq")]
pub(super) fn lut_block(luts: &[u8], codes: &[u8], out: &mut [u32; 32]) {
    let low = _mm512_set1_epi8(15);
    let n = luts.len().min(codes.len()) / 16 * 16;
    let mut total = [_mm512_setzero_si512(); 2];
    let mut i = 0;
    while i < n {
        let end = n.min(i + 64 * 256);
        let mut acc = [_mm512_setzero_si512(); 4];
        while i < end {
            let m = mask64(end - i);
            // SAFETY: the mask selects only bytes before n, which both slices have.
            let (lut, code) = unsafe {
                (
                    load_i8(m, luts.as_ptr().add(i).cast()),
                    load_i8(m, codes.as_ptr().add(i).cast()),
                )
            };
            let first = _mm512_shuffle_epi8(lut, _mm512_and_si512(code, low));
            let second = _mm512_shuffle_epi8(lut, _mm512_and_si512(_mm512_srli_epi16::<4>(code), low));
            acc[0] = _mm512_add_epi16(acc[0], first);
            acc[1] = _mm512_add_epi16(acc[1], _mm512_srli_epi16::<8>(first));
            acc[2] = _mm512_add_epi16(acc[2], second);
            acc[3] = _mm512_add_epi16(acc[3], _mm512_srli_epi16::<8>(second));
            i += 64;
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

/// See [`super::Kernels::hadamard`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq")]
pub(super) fn hadamard(x: &mut [f32]) {
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

/// See [`super::Kernels::block_bounds`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq")]
pub(super) fn block_bounds(
    sums: &[u32; 32],
    factors: &[u8; 384],
    line: &Line,
    estimates: &mut [f32; 32],
    slack: &mut [f32; 32],
) -> u32 {
    scalar::bounds_body(sums, factors, line, estimates, slack)
}
