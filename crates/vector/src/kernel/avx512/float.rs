//! Squared distances, inner products and cosines of f32, and of f32 with half precision.

use std::arch::x86_64::*;
use std::slice::{ChunksExact, ChunksExactMut};

use half::f16;

use super::super::Sums;
use super::{AHEAD, load_f16, load_f32, mask16};

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
    ($one:ident, $many:ident, $quads:ident, $row:ident, $step:ident, $T:ty, $load:ident) => {
        /// Four sums of one query and one row. Every form adds up in this order, so the same two vectors have the same
        /// distance in all. `WHOLE` promises that n is a multiple of 64.
        ///
        /// # Safety
        /// `query` and `row` have `n` elements.
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq")]
        unsafe fn $row<const PREFETCH: bool, const WHOLE: bool>(
            n: usize,
            query: *const f32,
            row: *const $T,
        ) -> [__m512; 4] {
            const LINE: usize = 64 / size_of::<$T>();
            let mut sums = [_mm512_setzero_ps(); 4];
            let mut i = 0;
            while i + 64 <= n {
                for (s, sum) in sums.iter_mut().enumerate() {
                    let at = i + 16 * s;
                    // SAFETY: at + 16 <= n, so the loads stay inside query and row; a prefetch may name any address.
                    unsafe {
                        if PREFETCH && at % LINE == 0 {
                            _mm_prefetch::<_MM_HINT_T0>(row.add(at).cast::<i8>().wrapping_add(AHEAD));
                        }
                        *sum = $step(*sum, load_f32(!0, query.add(at)), $load(!0, row.add(at)));
                    }
                }
                i += 64;
            }
            if !WHOLE && i < n {
                for (s, sum) in sums.iter_mut().enumerate() {
                    let at = i + 16 * s;
                    let m = mask16(n.saturating_sub(at));
                    // SAFETY: the mask selects only elements before n.
                    unsafe {
                        *sum = $step(
                            *sum,
                            load_f32(m, query.wrapping_add(at)),
                            $load(m, row.wrapping_add(at)),
                        );
                    }
                }
            }
            sums
        }

        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq")]
        pub(in crate::kernel) fn $one(a: &[f32], b: &[$T]) -> f32 {
            // SAFETY: both slices have at least n elements.
            sum4(unsafe { $row::<false, false>(a.len().min(b.len()), a.as_ptr(), b.as_ptr()) })
        }

        /// Distances of one query to groups of four rows.
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq")]
        fn $quads<const WHOLE: bool>(query: &[f32], quads: ChunksExact<$T>, outs: ChunksExactMut<f32>) {
            let n = query.len();
            for (quad, out) in quads.zip(outs) {
                let row = |r: usize| {
                    // SAFETY: the quad holds four rows of n elements.
                    unsafe { $row::<true, WHOLE>(n, query.as_ptr(), quad.as_ptr().add(r * n)) }
                };
                let sums = [row(0), row(1), row(2), row(3)];
                // SAFETY: `out` holds four sums.
                unsafe { _mm_storeu_ps(out.as_mut_ptr(), sum4x4(sums)) };
            }
        }

        /// The usual dimensions are multiples of 64. A loop without the code for a rest reads from memory a tenth faster.
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq")]
        pub(in crate::kernel) fn $many(query: &[f32], rows: &[$T], out: &mut [f32]) {
            let n = query.len();
            let (grouped, outs) = (rows.chunks_exact(4 * n), out.len() / 4 * 4);
            let rest = grouped.remainder();
            let (outs, out_rest) = out.split_at_mut(outs);
            if n.is_multiple_of(64) {
                $quads::<true>(query, grouped, outs.chunks_exact_mut(4));
            } else {
                $quads::<false>(query, grouped, outs.chunks_exact_mut(4));
            }
            for (row, out) in rest.chunks_exact(n).zip(out_rest) {
                *out = $one(query, row);
            }
        }
    };
}

float_kernels!(
    l2_f32,
    many_l2_f32,
    quads_l2_f32,
    row_l2_f32,
    l2_step,
    f32,
    load_f32
);
float_kernels!(
    dot_f32,
    many_dot_f32,
    quads_dot_f32,
    row_dot_f32,
    dot_step,
    f32,
    load_f32
);
float_kernels!(
    l2_f16,
    many_l2_f16,
    quads_l2_f16,
    row_l2_f16,
    l2_step,
    f16,
    load_f16
);
float_kernels!(
    dot_f16,
    many_dot_f16,
    quads_dot_f16,
    row_dot_f16,
    dot_step,
    f16,
    load_f16
);

macro_rules! cosine_kernel {
    ($name:ident, $T:ty, $load:ident) => {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vpopcntdq")]
        pub(in crate::kernel) fn $name(a: &[f32], b: &[$T]) -> Sums<f32> {
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
