//! The distance kernels: nanoseconds a distance in the second-level cache, and bytes a second from memory, next to the
//! rate at which this machine reads memory at all.

use std::hint::black_box;
use std::time::Instant;

use half::f16;
use memmap2::{Advice, MmapMut};
use serde::Serialize;
use vexfs_vector::kernel::Kernels as Chosen;

use super::super::metric::Table;

/// Rows that stay in the second-level cache, and rows that no cache holds.
const CACHED_BYTES: usize = 256 << 10;
const STREAMED_BYTES: usize = 256 << 20;

/// All kernels at the usual dimensions.
#[derive(Debug, Serialize)]
pub(super) struct Kernels {
    /// GB/s of a loop that only adds up what it reads.
    stream_gb_per_s: f64,
    rows: Vec<KernelRow>,
}

#[derive(Debug, Serialize)]
struct KernelRow {
    kernel: &'static str,
    dim: usize,
    cached_ns: f64,
    streamed_gb_per_s: f64,
    /// Of the rate of the plain loop, measured right before and after.
    of_stream: f64,
}

impl Kernels {
    pub(super) fn table(&self) -> Table {
        let cells = |r: &KernelRow| {
            let cells = vec![
                format!("{:.1}", r.cached_ns),
                format!("{:.1}", r.streamed_gb_per_s),
                format!("{:.2}", r.of_stream),
            ];
            (format!("{} {}", r.kernel, r.dim), cells)
        };
        Table {
            title: format!(
                "Kernels, one query to many rows; memory is read at {:.1} GB/s",
                self.stream_gb_per_s
            ),
            columns: ["ns in cache", "GB/s from memory", "of the limit"]
                .map(str::to_owned)
                .to_vec(),
            rows: self.rows.iter().map(cells).collect(),
        }
    }
}

/// Measures all kernels.
pub(super) fn measured() -> Kernels {
    let memory = Memory::new();
    let mut rows = Vec::new();
    for dim in [128, 256, 384, 512, 768, 1024] {
        let query: Vec<f32> = (0..dim).map(|i| (i as f32 * 0.37).sin()).collect();
        let bytes: Vec<i8> = query.iter().map(|x| (x * 127.0) as i8).collect();
        let k = Chosen::get();
        let mut floats = vec![0.0; CACHED_BYTES];
        let mut sums = vec![0; CACHED_BYTES];
        rows.push(row("l2 f32", dim, 4, &memory, |data| {
            let data = as_f32(data);
            k.many_l2_f32(&query, data, &mut floats[..data.len() / dim]);
        }));
        rows.push(row("dot f32", dim, 4, &memory, |data| {
            let data = as_f32(data);
            k.many_dot_f32(&query, data, &mut floats[..data.len() / dim]);
        }));
        rows.push(row("l2 f16", dim, 2, &memory, |data| {
            let data = as_f16(data);
            k.many_l2_f16(&query, data, &mut floats[..data.len() / dim]);
        }));
        rows.push(row("dot f16", dim, 2, &memory, |data| {
            let data = as_f16(data);
            k.many_dot_f16(&query, data, &mut floats[..data.len() / dim]);
        }));
        rows.push(row("l2 i8", dim, 1, &memory, |data| {
            let data = as_i8(data);
            k.many_l2_i8(&bytes, data, &mut sums[..data.len() / dim]);
        }));
        rows.push(row("dot i8", dim, 1, &memory, |data| {
            let data = as_i8(data);
            k.many_dot_i8(&bytes, data, &mut sums[..data.len() / dim]);
        }));
    }
    let stream = memory.stream_gb_per_s();
    Kernels {
        stream_gb_per_s: stream,
        rows,
    }
}

fn row(
    kernel: &'static str,
    dim: usize,
    element: usize,
    memory: &Memory,
    mut run: impl FnMut(&[u8]),
) -> KernelRow {
    let row_bytes = dim * element;
    let cached = &memory.0[..CACHED_BYTES / row_bytes * row_bytes];
    let cached_ns = best(|| {
        let began = Instant::now();
        (0..64).for_each(|_| run(black_box(cached)));
        began.elapsed().as_secs_f64() * 1e9 / (64 * cached.len() / row_bytes) as f64
    });
    // One pass of the plain loop before each pass of the kernel: the rate of a shared machine drifts by the second.
    let (mut limit, mut took) = (f64::INFINITY, f64::INFINITY);
    let part = CACHED_BYTES / row_bytes * row_bytes;
    for _ in 0..3 {
        limit = limit.min(memory.stream_seconds());
        let began = Instant::now();
        memory.0.chunks_exact(part).for_each(&mut run);
        took = took.min(began.elapsed().as_secs_f64());
    }
    let rate = (STREAMED_BYTES / part * part) as f64 / took;
    KernelRow {
        kernel,
        dim,
        cached_ns,
        streamed_gb_per_s: rate / 1e9,
        of_stream: rate / (STREAMED_BYTES as f64 / limit),
    }
}

fn best(mut pass: impl FnMut() -> f64) -> f64 {
    (0..5).map(|_| pass()).fold(f64::INFINITY, f64::min)
}

/// Memory larger than any cache, on huge pages where the system has them, filled with small finite numbers.
struct Memory(MmapMut);

impl Memory {
    fn new() -> Memory {
        let mut map = MmapMut::map_anon(STREAMED_BYTES).expect("256 MiB of memory for the benchmark");
        let _ = map.advise(Advice::HugePage);
        // 0x3c00 and 0x3c003c00 are small finite numbers as f16 and as f32.
        map.chunks_exact_mut(2)
            .for_each(|pair| pair.copy_from_slice(&0x3c00u16.to_le_bytes()));
        Memory(map)
    }

    fn stream_gb_per_s(&self) -> f64 {
        STREAMED_BYTES as f64 / best(|| self.stream_seconds()) / 1e9
    }

    /// Seconds to read it all once and add it up: what no kernel can beat.
    fn stream_seconds(&self) -> f64 {
        let began = Instant::now();
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the CPU has AVX-512.
            black_box(unsafe { sum_avx512(&self.0) });
            return began.elapsed().as_secs_f64();
        }
        black_box(sum_words(&self.0));
        began.elapsed().as_secs_f64()
    }
}

/// The sum of all whole words: eight cache lines a step, as many running sums as the widest registers hold.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn sum_avx512(bytes: &[u8]) -> i64 {
    use std::arch::x86_64::{
        _mm512_add_epi64, _mm512_loadu_si512, _mm512_reduce_add_epi64, _mm512_setzero_si512,
    };
    let mut sums = [_mm512_setzero_si512(); 8];
    for block in bytes.chunks_exact(512) {
        for (sum, line) in sums.iter_mut().zip(block.chunks_exact(64)) {
            // SAFETY: the line has 64 bytes.
            *sum = _mm512_add_epi64(*sum, unsafe { _mm512_loadu_si512(line.as_ptr().cast()) });
        }
    }
    sums.into_iter()
        .fold(0i64, |all, sum| all.wrapping_add(_mm512_reduce_add_epi64(sum)))
}

fn sum_words(bytes: &[u8]) -> u64 {
    // SAFETY: any eight bytes are a word.
    let (_, words, _) = unsafe { bytes.align_to::<u64>() };
    let mut sums = [0u64; 32];
    for block in words.chunks_exact(32) {
        for (sum, word) in sums.iter_mut().zip(block) {
            *sum = sum.wrapping_add(*word);
        }
    }
    sums.into_iter().fold(0, u64::wrapping_add)
}

fn as_f32(bytes: &[u8]) -> &[f32] {
    // SAFETY: any four bytes are an f32.
    aligned(unsafe { bytes.align_to() })
}

fn as_f16(bytes: &[u8]) -> &[f16] {
    // SAFETY: any two bytes are an f16.
    aligned(unsafe { bytes.align_to() })
}

fn as_i8(bytes: &[u8]) -> &[i8] {
    // SAFETY: any byte is an i8.
    aligned(unsafe { bytes.align_to() })
}

fn aligned<'a, T>((before, middle, after): (&'a [u8], &'a [T], &'a [u8])) -> &'a [T] {
    assert!(
        before.is_empty() && after.is_empty(),
        "parts of the mapping start at multiples of the row"
    );
    middle
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_plain_loops_read_every_word() {
        let bytes: Vec<u8> = (0..4096u32).map(|i| (i * 7 % 251) as u8).collect();
        let words = bytes
            .chunks_exact(8)
            .map(|w| u64::from_le_bytes(std::array::from_fn(|i| w[i])));
        let want = words.fold(0, u64::wrapping_add);
        assert_eq!(sum_words(&bytes), want);
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the CPU has AVX-512.
            assert_eq!(unsafe { sum_avx512(&bytes) } as u64, want);
        }
    }
}
