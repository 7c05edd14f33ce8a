//! Distance kernels, chosen once at start for the CPU at hand: AVX-512, AVX2, NEON or portable scalar code.
//!
//! `VEXFS_SIMD=scalar|avx2|avx512|neon` forces a level that the CPU has, for tests and benchmarks. Every kernel
//! agrees with its scalar twin: exactly for integers, and for floats within
//! `(n / 8 + 8) * f32::EPSILON * sum |terms|`, the rounding of a blocked sum.
//!
//! The batched forms add up in the same order as the single ones: the same two vectors have the same distance in all.
//! The kernels take any length and alignment and allocate nothing. Values must be finite; callers refuse NaN and
//! infinity before they store a vector.

use std::sync::OnceLock;

use half::f16;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

/// An instruction set that kernels are written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Simd {
    /// Portable code, the reference for all others.
    Scalar,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ, VL, VNNI and VPOPCNTDQ.
    Avx512,
    /// 64-bit Arm.
    Neon,
}

impl Simd {
    /// All levels, slowest first.
    pub const ALL: [Simd; 4] = [Simd::Scalar, Simd::Neon, Simd::Avx2, Simd::Avx512];

    /// The name that `VEXFS_SIMD` takes.
    pub fn name(self) -> &'static str {
        match self {
            Simd::Scalar => "scalar",
            Simd::Avx2 => "avx2",
            Simd::Avx512 => "avx512",
            Simd::Neon => "neon",
        }
    }
}

/// The three sums a cosine is made of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sums<T> {
    /// `sum a_i b_i`
    pub dot: T,
    /// `sum a_i^2`
    pub aa: T,
    /// `sum b_i^2`
    pub bb: T,
}

/// How sums of table entries become estimated distances; see [`Kernels::block_bounds`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Line {
    pub(crate) step: f32,
    pub(crate) base: f32,
    pub(crate) bias: f32,
    pub(crate) norm2_weight: f32,
    pub(crate) slope: f32,
    pub(crate) per_error: f32,
    pub(crate) per_scale: f32,
    pub(crate) limit: f32,
}

type Bounds = unsafe fn(&[u32; 32], &[u8; 384], &Line, &mut [f32; 32], &mut [f32; 32]) -> u32;
type Pair<A, B, O> = unsafe fn(&[A], &[B]) -> O;
type Many<A, B, O> = unsafe fn(&[A], &[B], &mut [O]);
type Gather = unsafe fn(&[i8], &[*const u8], &mut [i32]);

/// A table of kernels for one instruction set. Get the best with [`Kernels::get`].
pub struct Kernels {
    simd: Simd,
    l2_f32: Pair<f32, f32, f32>,
    dot_f32: Pair<f32, f32, f32>,
    cos_f32: Pair<f32, f32, Sums<f32>>,
    l2_f16: Pair<f32, f16, f32>,
    dot_f16: Pair<f32, f16, f32>,
    cos_f16: Pair<f32, f16, Sums<f32>>,
    l2_i8: Pair<i8, i8, i32>,
    dot_i8: Pair<i8, i8, i32>,
    cos_i8: Pair<i8, i8, Sums<i32>>,
    hamming: Pair<u8, u8, u32>,
    many_l2_f32: Many<f32, f32, f32>,
    many_dot_f32: Many<f32, f32, f32>,
    many_l2_f16: Many<f32, f16, f32>,
    many_dot_f16: Many<f32, f16, f32>,
    many_l2_i8: Many<i8, i8, i32>,
    many_dot_i8: Many<i8, i8, i32>,
    gather_i8: Gather,
    gather_u4: Gather,
    lut_block: unsafe fn(&[u8], &[u8], &mut [u32; 32]),
    block_bounds: Bounds,
    hadamard: unsafe fn(&mut [f32]),
}

macro_rules! table {
    ($simd:expr, $m:ident, f16: $half:ident, last: $rest:ident) => {
        Kernels {
            simd: $simd,
            l2_f32: $m::l2_f32,
            dot_f32: $m::dot_f32,
            cos_f32: $m::cos_f32,
            l2_f16: $half::l2_f16,
            dot_f16: $half::dot_f16,
            cos_f16: $half::cos_f16,
            l2_i8: $m::l2_i8,
            dot_i8: $m::dot_i8,
            cos_i8: $m::cos_i8,
            hamming: $m::hamming,
            many_l2_f32: $m::many_l2_f32,
            many_dot_f32: $m::many_dot_f32,
            many_l2_f16: $half::many_l2_f16,
            many_dot_f16: $half::many_dot_f16,
            many_l2_i8: $m::many_l2_i8,
            many_dot_i8: $m::many_dot_i8,
            gather_i8: $m::gather_i8,
            gather_u4: $m::gather_u4,
            lut_block: $m::lut_block,
            block_bounds: $m::block_bounds,
            hadamard: $rest::hadamard,
        }
    };
}

static SCALAR: Kernels = table!(Simd::Scalar, scalar, f16: scalar, last: scalar);
#[cfg(target_arch = "x86_64")]
static AVX2: Kernels = table!(Simd::Avx2, avx2, f16: avx2, last: avx2);
#[cfg(target_arch = "x86_64")]
static AVX512: Kernels = table!(Simd::Avx512, avx512, f16: avx512, last: avx512);
#[cfg(target_arch = "aarch64")]
static NEON: Kernels = table!(Simd::Neon, neon, f16: scalar, last: scalar);

impl Kernels {
    /// The best kernels of this CPU, or those that `VEXFS_SIMD` names if the CPU has them.
    pub fn get() -> &'static Kernels {
        static CHOSEN: OnceLock<&'static Kernels> = OnceLock::new();
        CHOSEN.get_or_init(|| {
            let wanted = std::env::var("VEXFS_SIMD").ok();
            let forced = Simd::ALL
                .into_iter()
                .find(|s| Some(s.name()) == wanted.as_deref());
            match forced.and_then(Kernels::with) {
                Some(kernels) => kernels,
                None => {
                    if let Some(wanted) = wanted.filter(|w| !w.is_empty()) {
                        tracing::warn!(wanted, "VEXFS_SIMD names no instruction set of this CPU; ignored");
                    }
                    Kernels::best()
                }
            }
        })
    }

    /// The kernels of one instruction set, or `None` if this CPU lacks it.
    pub fn with(simd: Simd) -> Option<&'static Kernels> {
        match simd {
            Simd::Scalar => Some(&SCALAR),
            #[cfg(target_arch = "x86_64")]
            Simd::Avx2 if has_avx2() => Some(&AVX2),
            #[cfg(target_arch = "x86_64")]
            Simd::Avx512 if has_avx512() => Some(&AVX512),
            #[cfg(target_arch = "aarch64")]
            Simd::Neon if std::arch::is_aarch64_feature_detected!("neon") => Some(&NEON),
            _ => None,
        }
    }

    fn best() -> &'static Kernels {
        Simd::ALL
            .into_iter()
            .rev()
            .find_map(Kernels::with)
            .unwrap_or(&SCALAR)
    }

    /// Which instruction set these kernels use.
    pub fn simd(&self) -> Simd {
        self.simd
    }
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
        && is_x86_feature_detected!("popcnt")
}

#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    has_avx2()
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vnni")
        && is_x86_feature_detected!("avx512vpopcntdq")
}

macro_rules! pair {
    ($(#[$doc:meta])* $name:ident, $A:ty, $B:ty, $O:ty) => {
        $(#[$doc])*
        ///
        /// # Panics
        /// If the lengths differ.
        #[inline]
        pub fn $name(&self, a: &[$A], b: &[$B]) -> $O {
            assert_eq!(a.len(), b.len(), "vectors of different length");
            // SAFETY: a table is handed out only after its instruction set was detected.
            unsafe { (self.$name)(a, b) }
        }
    };
}

macro_rules! many {
    ($(#[$doc:meta])* $name:ident, $A:ty, $B:ty, $O:ty) => {
        $(#[$doc])*
        ///
        /// # Panics
        /// If `rows` is not exactly `out.len()` rows of `query.len()` elements.
        #[inline]
        pub fn $name(&self, query: &[$A], rows: &[$B], out: &mut [$O]) {
            assert_eq!(rows.len(), query.len() * out.len(), "rows and results differ in number");
            if query.is_empty() {
                out.fill(Default::default());
                return;
            }
            // SAFETY: a table is handed out only after its instruction set was detected.
            unsafe { (self.$name)(query, rows, out) }
        }
    };
}

impl Kernels {
    pair!(/// Squared Euclidean distance.
        l2_f32, f32, f32, f32);
    pair!(/// Inner product.
        dot_f32, f32, f32, f32);
    pair!(/// The sums of a cosine, in one pass.
        cos_f32, f32, f32, Sums<f32>);
    pair!(/// Squared Euclidean distance to a half-precision row.
        l2_f16, f32, f16, f32);
    pair!(/// Inner product with a half-precision row.
        dot_f16, f32, f16, f32);
    pair!(/// The sums of a cosine with a half-precision row.
        cos_f16, f32, f16, Sums<f32>);
    pair!(/// Squared Euclidean distance of bytes; exact up to 33,000 dimensions.
        l2_i8, i8, i8, i32);
    pair!(/// Inner product of bytes; exact up to 65,000 dimensions.
        dot_i8, i8, i8, i32);
    pair!(/// The sums of a cosine of bytes.
        cos_i8, i8, i8, Sums<i32>);
    pair!(/// The number of bits that differ.
        hamming, u8, u8, u32);
    many!(/// [`Kernels::l2_f32`] of one query and contiguous rows.
        many_l2_f32, f32, f32, f32);
    many!(/// [`Kernels::dot_f32`] of one query and contiguous rows.
        many_dot_f32, f32, f32, f32);
    many!(/// [`Kernels::l2_f16`] of one query and contiguous rows.
        many_l2_f16, f32, f16, f32);
    many!(/// [`Kernels::dot_f16`] of one query and contiguous rows.
        many_dot_f16, f32, f16, f32);
    many!(/// [`Kernels::l2_i8`] of one query and contiguous rows.
        many_l2_i8, i8, i8, i32);
    many!(/// [`Kernels::dot_i8`] of one query and contiguous rows.
        many_dot_i8, i8, i8, i32);

    /// Squared distances of every query to every row, `out[q * rows + r]`: a block of rows that fits in the
    /// first-level cache meets all queries before the next block is read.
    ///
    /// # Panics
    /// If the slices are not whole vectors of `dim` elements, or `out` is not queries x rows long.
    pub fn cross_l2_f32(&self, dim: usize, queries: &[f32], rows: &[f32], out: &mut [f32]) {
        self.cross(dim, queries, rows, out, Kernels::many_l2_f32)
    }

    /// Inner products of every query with every row; see [`Kernels::cross_l2_f32`].
    ///
    /// # Panics
    /// If the slices are not whole vectors of `dim` elements, or `out` is not queries x rows long.
    pub fn cross_dot_f32(&self, dim: usize, queries: &[f32], rows: &[f32], out: &mut [f32]) {
        self.cross(dim, queries, rows, out, Kernels::many_dot_f32)
    }

    fn cross(
        &self,
        dim: usize,
        queries: &[f32],
        rows: &[f32],
        out: &mut [f32],
        many: impl Fn(&Kernels, &[f32], &[f32], &mut [f32]),
    ) {
        assert!(
            dim > 0 && queries.len().is_multiple_of(dim) && rows.len().is_multiple_of(dim),
            "not whole vectors"
        );
        let count = rows.len() / dim;
        assert_eq!(
            out.len(),
            queries.len() / dim * count,
            "results and pairs differ in number"
        );
        let block = (CROSS_BLOCK / (dim * size_of::<f32>())).max(4);
        for start in (0..count).step_by(block) {
            let end = count.min(start + block);
            for (q, query) in queries.chunks_exact(dim).enumerate() {
                let out = &mut out[q * count + start..q * count + end];
                many(self, query, &rows[start * dim..end * dim], out);
            }
        }
    }

    /// Inner products of a query of bytes with rows at scattered addresses.
    ///
    /// # Safety
    /// Each of `rows` is readable for `query.len()` bytes.
    #[inline]
    pub unsafe fn gather_i8(&self, query: &[i8], rows: &[*const u8], out: &mut [i32]) {
        assert_eq!(rows.len(), out.len(), "rows and results differ in number");
        // SAFETY: the instruction set was detected; the caller vouches for the rows.
        unsafe { (self.gather_i8)(query, rows, out) }
    }

    /// Inner products of a query of bytes with rows of nibbles (0..=15) at scattered addresses. Byte `i` of a row
    /// holds element `i` in its low half and element `query.len() / 2 + i` in its high half.
    ///
    /// # Safety
    /// Each of `rows` is readable for `query.len() / 2` bytes.
    #[inline]
    pub unsafe fn gather_u4(&self, query: &[i8], rows: &[*const u8], out: &mut [i32]) {
        assert_eq!(rows.len(), out.len(), "rows and results differ in number");
        // SAFETY: the instruction set was detected; the caller vouches for the rows.
        unsafe { (self.gather_u4)(query, rows, out) }
    }

    /// Sums of table entries for a block of 32 one-bit codes. The codes stand in groups of four dimensions, 16
    /// bytes a group: byte `i` holds the four bits of row `i` in its low half, of row `i + 16` in its high half.
    /// `luts` has 16 bytes a group: the contribution of each of the 16 patterns. (André, Kermarrec, Le Scouarnec,
    /// "Cache locality is not enough", VLDB 2015, introduced the in-register table.)
    ///
    /// # Panics
    /// If the two lengths differ or are no multiple of 16.
    #[inline]
    pub fn lut_block(&self, luts: &[u8], codes: &[u8], out: &mut [u32; 32]) {
        assert!(
            luts.len() == codes.len() && luts.len().is_multiple_of(16),
            "not whole groups"
        );
        // SAFETY: a table is handed out only after its instruction set was detected.
        unsafe { (self.lut_block)(luts, codes, out) }
    }

    /// Estimated distances and their slack for a block of 32 rows, from the sums of [`Kernels::lut_block`] and the
    /// block's factors (32 squared lengths, 32 scales, 32 errors); a set bit for every row whose estimate less its
    /// slack is below the limit.
    #[inline]
    pub(crate) fn block_bounds(
        &self,
        sums: &[u32; 32],
        factors: &[u8; 384],
        line: &Line,
        estimates: &mut [f32; 32],
        slack: &mut [f32; 32],
    ) -> u32 {
        // SAFETY: a table is handed out only after its instruction set was detected.
        unsafe { (self.block_bounds)(sums, factors, line, estimates, slack) }
    }

    /// The unnormalised Walsh-Hadamard transform, in place.
    ///
    /// # Panics
    /// If the length is no power of two.
    #[inline]
    pub fn hadamard(&self, x: &mut [f32]) {
        assert!(x.len().is_power_of_two(), "not a power of two");
        // SAFETY: a table is handed out only after its instruction set was detected.
        unsafe { (self.hadamard)(x) }
    }
}

/// Bytes of rows that meet all queries before the next are read: two thirds of a 48 KiB first-level cache.
const CROSS_BLOCK: usize = 32 << 10;

#[cfg(test)]
mod tests;
