//! Every kernel against its scalar twin: all short lengths, the usual dimensions, misaligned slices.

use half::f16;
use proptest::prelude::*;

use super::*;

fn lengths() -> impl Iterator<Item = usize> {
    (0..=67).chain([
        96, 100, 127, 128, 129, 255, 256, 384, 511, 512, 768, 1000, 1024, 1536, 4096, 16_384,
    ])
}

fn others() -> Vec<&'static Kernels> {
    Simd::ALL
        .into_iter()
        .filter(|&s| s != Simd::Scalar)
        .filter_map(Kernels::with)
        .collect()
}

/// A small deterministic generator, so that a failure can be replayed.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float()).collect()
    }

    fn halves(&mut self, n: usize) -> Vec<f16> {
        (0..n).map(|_| f16::from_f32(self.float())).collect()
    }

    fn bytes(&mut self, n: usize) -> Vec<i8> {
        (0..n).map(|_| self.next() as i8).collect()
    }
}

/// The documented bound, with `magnitude` the sum of the absolute terms.
fn close(got: f32, want: f32, n: usize, magnitude: f32) -> bool {
    (got - want).abs() <= (n as f32 / 8.0 + 8.0) * f32::EPSILON * magnitude + f32::MIN_POSITIVE
}

fn magnitudes(a: &[f32], b: &[f32]) -> (f32, f32, f32, f32) {
    let sum = |f: &dyn Fn(f32, f32) -> f32| a.iter().zip(b).map(|(&x, &y)| f(x, y).abs()).sum::<f32>();
    (
        sum(&|x, y| (x - y) * (x - y)),
        sum(&|x, y| x * y),
        sum(&|x, _| x * x),
        sum(&|_, y| y * y),
    )
}

#[test]
fn float_kernels_agree_with_the_scalar_twin_at_every_length_and_alignment() {
    let mut rng = Rng(7);
    for k in others() {
        for n in lengths() {
            for offset in [0, 1, 3] {
                let (a, b) = (rng.floats(n + offset), rng.floats(n + offset));
                let h = rng.halves(n + offset);
                let (a, b, h) = (&a[offset..], &b[offset..], &h[offset..]);
                let wide: Vec<f32> = h.iter().map(|x| x.to_f32()).collect();
                let (l2, dot, aa, bb) = magnitudes(a, b);
                let at = format!("{:?} length {n} offset {offset}", k.simd());
                assert!(close(k.l2_f32(a, b), SCALAR.l2_f32(a, b), n, l2), "l2_f32 {at}");
                assert!(
                    close(k.dot_f32(a, b), SCALAR.dot_f32(a, b), n, dot),
                    "dot_f32 {at}"
                );
                let (got, want) = (k.cos_f32(a, b), SCALAR.cos_f32(a, b));
                assert!(close(got.dot, want.dot, n, dot), "cos_f32 dot {at}");
                assert!(
                    close(got.aa, want.aa, n, aa) && close(got.bb, want.bb, n, bb),
                    "cos_f32 norms {at}"
                );
                let (l2, dot, aa, bb) = magnitudes(a, &wide);
                assert!(close(k.l2_f16(a, h), SCALAR.l2_f16(a, h), n, l2), "l2_f16 {at}");
                assert!(
                    close(k.dot_f16(a, h), SCALAR.dot_f16(a, h), n, dot),
                    "dot_f16 {at}"
                );
                let (got, want) = (k.cos_f16(a, h), SCALAR.cos_f16(a, h));
                assert!(close(got.dot, want.dot, n, dot), "cos_f16 dot {at}");
                assert!(
                    close(got.aa, want.aa, n, aa) && close(got.bb, want.bb, n, bb),
                    "cos_f16 norms {at}"
                );
            }
        }
    }
}

#[test]
fn integer_kernels_equal_the_scalar_twin_at_every_length_and_alignment() {
    let mut rng = Rng(11);
    for k in others() {
        for n in lengths() {
            for offset in [0, 1, 3] {
                let (a, b) = (rng.bytes(n + offset), rng.bytes(n + offset));
                let (a, b) = (&a[offset..], &b[offset..]);
                let at = format!("{:?} length {n} offset {offset}", k.simd());
                assert_eq!(k.l2_i8(a, b), SCALAR.l2_i8(a, b), "l2_i8 {at}");
                assert_eq!(k.dot_i8(a, b), SCALAR.dot_i8(a, b), "dot_i8 {at}");
                assert_eq!(k.cos_i8(a, b), SCALAR.cos_i8(a, b), "cos_i8 {at}");
                let (ua, ub): (Vec<u8>, Vec<u8>) = (
                    a.iter().map(|&x| x as u8).collect(),
                    b.iter().map(|&x| x as u8).collect(),
                );
                assert_eq!(k.hamming(&ua, &ub), SCALAR.hamming(&ua, &ub), "hamming {at}");
            }
        }
    }
}

#[test]
fn extreme_bytes_do_not_overflow() {
    for k in others() {
        let (a, b) = (vec![-128i8; 16_384], vec![127i8; 16_384]);
        assert_eq!(k.dot_i8(&a, &b), -128 * 127 * 16_384);
        assert_eq!(k.dot_i8(&a, &a), 128 * 128 * 16_384);
        assert_eq!(k.l2_i8(&a, &b), 255 * 255 * 16_384);
        let mut out = [0];
        // SAFETY: the row has as many bytes as half the query has elements.
        unsafe { k.gather_u4(&b, &[vec![0xffu8; 8192].as_ptr()], &mut out) };
        assert_eq!(out[0], 15 * 127 * 16_384);
    }
}

#[test]
fn batched_kernels_equal_the_single_ones() {
    let mut rng = Rng(13);
    for k in others() {
        for n in [1, 5, 16, 63, 64, 65, 128, 384, 1000] {
            for count in [0, 1, 3, 4, 5, 9] {
                let (q, rows, halves) = (rng.floats(n), rng.floats(n * count), rng.halves(n * count));
                let at = format!("{:?} length {n} rows {count}", k.simd());
                let mut out = vec![0.0; count];
                k.many_l2_f32(&q, &rows, &mut out);
                for (row, got) in rows.chunks_exact(n).zip(&out) {
                    assert!(
                        close(*got, SCALAR.l2_f32(&q, row), n, magnitudes(&q, row).0),
                        "l2_f32 {at}"
                    );
                }
                k.many_dot_f32(&q, &rows, &mut out);
                for (row, got) in rows.chunks_exact(n).zip(&out) {
                    assert!(
                        close(*got, SCALAR.dot_f32(&q, row), n, magnitudes(&q, row).1),
                        "dot_f32 {at}"
                    );
                }
                k.many_l2_f16(&q, &halves, &mut out);
                for (row, got) in halves.chunks_exact(n).zip(&out) {
                    assert!(
                        close(*got, SCALAR.l2_f16(&q, row), n, 4.0 * n as f32),
                        "l2_f16 {at}"
                    );
                }
                k.many_dot_f16(&q, &halves, &mut out);
                for (row, got) in halves.chunks_exact(n).zip(&out) {
                    assert!(close(*got, SCALAR.dot_f16(&q, row), n, n as f32), "dot_f16 {at}");
                    assert_eq!(*got, k.dot_f16(&q, row), "one and many differ {at}");
                }
                let (q, rows) = (rng.bytes(n), rng.bytes(n * count));
                let mut out = vec![0; count];
                k.many_l2_i8(&q, &rows, &mut out);
                assert!(
                    rows.chunks_exact(n)
                        .zip(&out)
                        .all(|(r, &o)| o == SCALAR.l2_i8(&q, r)),
                    "l2_i8 {at}"
                );
                k.many_dot_i8(&q, &rows, &mut out);
                assert!(
                    rows.chunks_exact(n)
                        .zip(&out)
                        .all(|(r, &o)| o == SCALAR.dot_i8(&q, r)),
                    "dot_i8 {at}"
                );
            }
        }
    }
}

#[test]
fn gathering_kernels_equal_the_scalar_twin() {
    let mut rng = Rng(17);
    for k in others() {
        for n in [2, 14, 62, 64, 66, 128, 130, 256, 384, 1024] {
            for count in 0..=9 {
                let q = rng.bytes(n);
                let rows: Vec<u8> = rng.bytes(n * count + 1).iter().map(|&x| x as u8).collect();
                let at: Vec<*const u8> = (0..count).rev().map(|i| rows[1 + i * n..].as_ptr()).collect();
                let (mut got, mut want) = (vec![0; count], vec![0; count]);
                // SAFETY: each pointer has n bytes of `rows` behind it.
                unsafe {
                    k.gather_i8(&q, &at, &mut got);
                    SCALAR.gather_i8(&q, &at, &mut want);
                }
                assert_eq!(got, want, "gather_i8 {:?} length {n}", k.simd());
                // SAFETY: as above; n / 2 bytes are read.
                unsafe {
                    k.gather_u4(&q, &at, &mut got);
                    SCALAR.gather_u4(&q, &at, &mut want);
                }
                assert_eq!(got, want, "gather_u4 {:?} length {n}", k.simd());
            }
        }
    }
}

#[test]
fn table_sums_equal_the_scalar_twin_even_where_sixteen_bits_would_overflow() {
    let mut rng = Rng(19);
    for k in others() {
        for groups in [0, 1, 2, 3, 4, 5, 24, 96, 97, 1023, 4096] {
            let codes: Vec<u8> = rng.bytes(groups * 16).iter().map(|&x| x as u8).collect();
            for luts in [
                vec![255u8; groups * 16],
                rng.bytes(groups * 16).iter().map(|&x| x as u8).collect(),
            ] {
                let (mut got, mut want) = ([1; 32], [2; 32]);
                k.lut_block(&luts, &codes, &mut got);
                SCALAR.lut_block(&luts, &codes, &mut want);
                assert_eq!(got, want, "{:?} groups {groups}", k.simd());
            }
        }
    }
}

#[test]
fn block_bounds_agree_with_the_scalar_twin() {
    let mut rng = Rng(31);
    let line = Line {
        step: 0.01,
        base: -3.0,
        bias: 0.5,
        norm2_weight: 1.0,
        slope: 2.0,
        per_error: 1.9,
        per_scale: 0.1,
        limit: 1.0,
    };
    for k in others() {
        for _ in 0..100 {
            let sums: [u32; 32] = std::array::from_fn(|_| (rng.next() % 600) as u32);
            let mut factors = [0u8; 384];
            factors
                .chunks_exact_mut(4)
                .for_each(|f| f.copy_from_slice(&rng.float().to_le_bytes()));
            let (mut e0, mut s0, mut e1, mut s1) = ([0.0; 32], [0.0; 32], [0.0; 32], [0.0; 32]);
            let got = k.block_bounds(&sums, &factors, &line, &mut e0, &mut s0);
            let want = SCALAR.block_bounds(&sums, &factors, &line, &mut e1, &mut s1);
            for i in 0..32 {
                let lower = e1[i] - s1[i];
                assert!((e0[i] - e1[i]).abs() < 1e-5 && (s0[i] - s1[i]).abs() < 1e-5);
                assert!(got >> i & 1 == want >> i & 1 || (lower - line.limit).abs() < 1e-5);
            }
        }
    }
}

#[test]
fn hadamard_twice_is_the_identity_times_the_length() {
    let mut rng = Rng(23);
    for k in Simd::ALL.into_iter().filter_map(Kernels::with) {
        for n in [1usize, 2, 4, 8, 16, 32, 256, 2048] {
            let x = rng.floats(n);
            let mut y = x.clone();
            k.hadamard(&mut y);
            k.hadamard(&mut y);
            for (x, y) in x.iter().zip(&y) {
                assert!(
                    (x * n as f32 - y).abs() < 1e-4 * n as f32,
                    "{:?} length {n}",
                    k.simd()
                );
            }
        }
    }
}

#[test]
fn cross_is_every_pair() {
    let mut rng = Rng(29);
    let (dim, queries, rows) = (100, 7, 333);
    let (q, r) = (rng.floats(dim * queries), rng.floats(dim * rows));
    let mut out = vec![0.0; queries * rows];
    Kernels::get().cross_l2_f32(dim, &q, &r, &mut out);
    for i in 0..queries {
        for j in 0..rows {
            let (a, b) = (&q[i * dim..][..dim], &r[j * dim..][..dim]);
            assert!(close(
                out[i * rows + j],
                SCALAR.l2_f32(a, b),
                dim,
                magnitudes(a, b).0
            ));
        }
    }
}

proptest! {
    #[test]
    fn any_two_vectors_agree_on_every_instruction_set(
        v in prop::collection::vec((-1e3f32..1e3, -1e3f32..1e3, any::<i8>(), any::<i8>()), 0..300),
    ) {
        let a: Vec<f32> = v.iter().map(|x| x.0).collect();
        let b: Vec<f32> = v.iter().map(|x| x.1).collect();
        let (l2, dot, _, _) = magnitudes(&a, &b);
        let (x, y): (Vec<i8>, Vec<i8>) = v.iter().map(|v| (v.2, v.3)).unzip();
        for k in others() {
            prop_assert!(close(k.l2_f32(&a, &b), SCALAR.l2_f32(&a, &b), v.len(), l2));
            prop_assert!(close(k.dot_f32(&a, &b), SCALAR.dot_f32(&a, &b), v.len(), dot));
            prop_assert_eq!(k.dot_i8(&x, &y), SCALAR.dot_i8(&x, &y));
            prop_assert_eq!(k.l2_i8(&x, &y), SCALAR.l2_i8(&x, &y));
        }
    }
}
