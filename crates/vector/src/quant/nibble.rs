//! Four bits a dimension: the multi-bit extension of RaBitQ, in the layout that the graph walks on.
//!
//! After centring and rotation the coordinates of a row are near normal, so one uniform step of `0.3352 sigma`, the
//! optimum for sixteen levels (Max, "Quantizing for minimum distortion", 1960), serves every row. The row is read
//! back as `scale * (code - 7.5)` with the scale that makes the estimated inner product unbiased:
//! `|x|^2 / <x, code - 7.5>`. (Gao et al., "Practical and asymptotically optimal quantization of high-dimensional
//! vectors in Euclidean space for approximate nearest neighbor search", SIGMOD 2025.)

use super::nearest_i8;
use super::rotate::Rotation;
use crate::kernel::Kernels;
use crate::measure::Measure;

/// The optimal step of a 16-level uniform quantiser for a standard normal variable.
const STEP: f32 = 0.3352;

/// What a row keeps beside its nibbles.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub struct NibbleFactors {
    /// Turns the integer sum into an inner product.
    pub scale: f32,
    /// The squared distance from the centre.
    pub norm2: f32,
}

/// The coder: dimension, rotation and centre.
#[derive(Clone, Debug)]
pub struct NibbleCodes {
    rotation: Rotation,
    centre: Option<Vec<f32>>,
}

/// A query (or a row that plays one) made ready for [`NibbleCodes`].
///
/// The estimated distance to a row is `bias + norm2_weight * row.norm2 - slope * row.scale * (sum - 7.5 * total)`,
/// where `sum` is the integer inner product of the query's bytes with the row's nibbles.
#[derive(Clone, Debug, Default)]
pub struct NibbleQuery {
    codes: Vec<i8>,
    offset: f32,
    slope: f32,
    bias: f32,
    norm2_weight: f32,
}

impl NibbleCodes {
    /// A coder for `dim`-dimensional rows. With a centre (a mean of the data) the codes describe the offsets from it,
    /// which are shorter, so the error is smaller.
    ///
    /// # Panics
    /// If `dim` is 0 or the centre has another length.
    pub fn new(dim: usize, seed: u64, centre: Option<Vec<f32>>) -> NibbleCodes {
        assert!(centre.as_ref().is_none_or(|c| c.len() == dim), "wrong dimension");
        NibbleCodes {
            rotation: Rotation::new(dim, seed),
            centre,
        }
    }

    /// The dimension of a vector.
    pub fn dim(&self) -> usize {
        self.rotation.dim()
    }

    /// The centre that was given.
    pub fn centre(&self) -> Option<&[f32]> {
        self.centre.as_deref()
    }

    /// Bytes of a code, without the factors.
    pub fn code_bytes(&self) -> usize {
        self.rotation.padded() / 2
    }

    /// Encodes one row into `code`.
    ///
    /// # Panics
    /// If a length is wrong.
    pub fn encode(&self, row: &[f32], code: &mut [u8]) -> NibbleFactors {
        let mut x = vec![0.0; self.rotation.padded()];
        self.rotation.apply(row, self.centre(), &mut x);
        self.encode_rotated(&x, code)
    }

    fn encode_rotated(&self, x: &[f32], code: &mut [u8]) -> NibbleFactors {
        assert_eq!(code.len(), self.code_bytes(), "wrong code length");
        let norm2 = Kernels::get().dot_f32(x, x);
        let sigma = (norm2 / x.len() as f32).sqrt();
        let inverse = if sigma > 0.0 { 1.0 / (STEP * sigma) } else { 0.0 };
        let level = |x: f32| (x * inverse + 8.0).clamp(0.0, 15.0) as u8;
        let (low, high) = x.split_at(x.len() / 2);
        let mut along = 0.0;
        for ((byte, &a), &b) in code.iter_mut().zip(low).zip(high) {
            let (ca, cb) = (level(a), level(b));
            *byte = ca | cb << 4;
            along += a * (ca as f32 - 7.5) + b * (cb as f32 - 7.5);
        }
        NibbleFactors {
            scale: if along > 0.0 { norm2 / along } else { 0.0 },
            norm2,
        }
    }

    /// Makes `query` ready, reusing its memory. For [`Measure::Cosine`] the rows and `vector` must have unit length;
    /// the estimate is then half the squared distance, which is `1 - cos`.
    ///
    /// # Panics
    /// If the dimension is wrong.
    pub fn prepare(&self, vector: &[f32], measure: Measure, query: &mut NibbleQuery, work: &mut Vec<f32>) {
        work.resize(self.rotation.padded(), 0.0);
        let centred = if measure == Measure::Dot {
            None
        } else {
            self.centre()
        };
        self.rotation.apply(vector, centred, work);
        let kernels = Kernels::get();
        let norm2 = kernels.dot_f32(work, work);
        let bias = match (measure, self.centre()) {
            (Measure::Dot, Some(c)) => -kernels.dot_f32(vector, c),
            (Measure::Dot, None) => 0.0,
            _ => norm2,
        };
        let largest = work.iter().fold(0f32, |m, x| m.max(x.abs()));
        // Below about the smallest normal number the inverse would overflow: such a vector is taken for zero.
        let inverse = if largest > 1e-36 { 127.0 / largest } else { 0.0 };
        query.codes.clear();
        query.codes.extend(work.iter().map(|x| nearest_i8(x * inverse)));
        query.set(measure, largest / 127.0, bias);
    }

    /// Makes a stored row play the query, for comparing rows with each other.
    ///
    /// # Panics
    /// If the length is wrong.
    pub fn prepare_row(&self, code: &[u8], row: NibbleFactors, measure: Measure, query: &mut NibbleQuery) {
        assert_eq!(code.len(), self.code_bytes(), "wrong code length");
        let twice = |nibble: u8| 2 * nibble as i8 - 15;
        query.codes.clear();
        query.codes.extend(code.iter().map(|&b| twice(b & 15)));
        query.codes.extend(code.iter().map(|&b| twice(b >> 4)));
        let bias = if measure == Measure::Dot { 0.0 } else { row.norm2 };
        query.set(measure, row.scale / 2.0, bias);
    }
}

impl NibbleQuery {
    /// The query's bytes, to be multiplied with nibbles by [`Kernels::gather_u4`].
    #[inline]
    pub fn codes(&self) -> &[i8] {
        &self.codes
    }

    /// The estimated distance that an integer sum stands for.
    #[inline]
    pub fn distance(&self, sum: i32, row: NibbleFactors) -> f32 {
        self.bias + self.norm2_weight * row.norm2 - self.slope * row.scale * (sum as f32 - self.offset)
    }

    fn set(&mut self, measure: Measure, scale: f32, bias: f32) {
        let total: i32 = self.codes.iter().map(|&c| c as i32).sum();
        self.offset = 7.5 * total as f32;
        (self.slope, self.bias, self.norm2_weight) = match measure {
            Measure::L2 => (2.0 * scale, bias, 1.0),
            Measure::Cosine => (scale, 0.5 * bias, 0.5),
            Measure::Dot => (scale, bias, 0.0),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector(dim: usize, salt: f32) -> Vec<f32> {
        (0..dim)
            .map(|i| ((i as f32 + salt) * (0.31 + salt)).sin() + 0.2)
            .collect()
    }

    fn unit(mut v: Vec<f32>) -> Vec<f32> {
        let n = Kernels::get().dot_f32(&v, &v).sqrt();
        v.iter_mut().for_each(|x| *x /= n);
        v
    }

    fn sum(query: &NibbleQuery, code: &[u8]) -> i32 {
        let mut out = [0];
        // SAFETY: the code has as many bytes as half the query has elements.
        unsafe { Kernels::get().gather_u4(query.codes(), &[code.as_ptr()], &mut out) };
        out[0]
    }

    #[test]
    fn estimates_are_near_the_exact_distance_under_every_measure() {
        for dim in [64, 100, 256, 384, 768] {
            let (a, b) = (unit(vector(dim, 0.1)), unit(vector(dim, 0.73)));
            for centre in [None, Some(unit(vector(dim, 0.4)))] {
                let coder = NibbleCodes::new(dim, 5, centre);
                let mut code = vec![0; coder.code_bytes()];
                let factors = coder.encode(&a, &mut code);
                for measure in [Measure::L2, Measure::Dot, Measure::Cosine] {
                    let mut query = NibbleQuery::default();
                    coder.prepare(&b, measure, &mut query, &mut Vec::new());
                    let dot = Kernels::get().dot_f32(&a, &b);
                    let want = match measure {
                        Measure::L2 => 2.0 - 2.0 * dot,
                        Measure::Dot => {
                            // A code of the offset from the centre leaves out what the centre itself contributes
                            // to the query: that is the same for all rows and part of the bias.
                            -dot
                        }
                        Measure::Cosine => 1.0 - dot,
                    };
                    let got = query.distance(sum(&query, &code), factors);
                    assert!(
                        (got - want).abs() < 1.2 / (dim as f32).sqrt(),
                        "{dim} {measure:?}: {got} {want}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_row_as_query_estimates_the_distance_of_two_rows() {
        let dim = 384;
        let coder = NibbleCodes::new(dim, 5, None);
        let (a, b) = (vector(dim, 0.1), vector(dim, 0.73));
        let (mut ca, mut cb) = (vec![0; coder.code_bytes()], vec![0; coder.code_bytes()]);
        let (fa, fb) = (coder.encode(&a, &mut ca), coder.encode(&b, &mut cb));
        let mut query = NibbleQuery::default();
        coder.prepare_row(&ca, fa, Measure::L2, &mut query);
        let want = Kernels::get().l2_f32(&a, &b);
        let got = query.distance(sum(&query, &cb), fb);
        assert!((got - want).abs() < 0.05 * want, "{got} {want}");
    }

    #[test]
    fn a_zero_vector_has_factors_of_zero() {
        let coder = NibbleCodes::new(64, 5, None);
        let mut code = vec![0; coder.code_bytes()];
        assert_eq!(coder.encode(&[0.0; 64], &mut code), NibbleFactors::default());
    }
}
