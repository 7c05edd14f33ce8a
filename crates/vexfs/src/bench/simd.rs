//! The distance kernels: the level in use beside every level that the CPU has, in cache and streaming.

use std::hint::black_box;

use vexfs_vector::kernel::{Kernels, Simd};

use super::machine::MEMORY_BANDWIDTH;
use super::metric::{Measured, Metric};
use super::sample;
use super::{Result, Run};

/// Dimensions that embedding models have.
pub const DIMENSIONS: [usize; 4] = [128, 256, 512, 1024];

/// Rows of a batch that stays in the second-level cache: 256 KiB.
const CACHED_BYTES: usize = 256 << 10;

/// Rows of a scan that no cache holds.
const STREAMED_BYTES: usize = 128 << 20;

/// How fast the level in use is, as a share of the fastest level of this CPU, over all dimensions.
pub const LEVEL_SHARE: &str = "simd.level_share";

/// A share of two times in cache: what two runs of the same level differ by, on a busy machine.
const TIMED_NOISE: f64 = 0.05;

/// Measures all kernels.
pub fn measure(run: &Run) -> Result<Measured> {
    let in_use = Kernels::get();
    let levels: Vec<&Kernels> = Simd::ALL.into_iter().filter_map(Kernels::with).collect();
    let mut metrics = Vec::new();
    let mut shares = Vec::new();
    for dim in DIMENSIONS {
        run.progress.set_message(format!("{dim} dimensions"));
        let (metric, share) = in_cache(run, in_use, &levels, dim);
        metrics.push(metric);
        shares.push(share);
    }
    // How shares differ between dimensions is no noise of the measurement.
    let (share, _) = sample::median_and_noise(&shares);
    metrics.push(
        Metric::higher(LEVEL_SHARE, "share", share.min(1.0), TIMED_NOISE).workload(format!(
            "{} against the fastest level of this CPU, squared distances of f32, median of all dimensions",
            in_use.simd().name()
        )),
    );
    run.progress.set_message("streaming");
    metrics.push(streaming(run, in_use));
    Ok(metrics.into())
}

/// One query against a batch in cache, with the level in use and all others. The reference is the fastest.
fn in_cache(run: &Run, in_use: &Kernels, levels: &[&Kernels], dim: usize) -> (Metric, f64) {
    let count = CACHED_BYTES / 4 / dim;
    let (query, rows) = (wave(dim, 1), wave(dim * count, 2));
    let mut out = vec![0.0f32; count];
    let mut ns = |kernels: &Kernels| {
        let (ns, noise) = sample::time_ns(run.budget() / 2, || {
            kernels.many_l2_f32(black_box(&query), black_box(&rows), &mut out)
        });
        (ns / count as f64, noise)
    };
    let timed: Vec<(Simd, f64, f64)> = levels
        .iter()
        .map(|kernels| {
            let (ns, noise) = ns(kernels);
            (kernels.simd(), ns, noise)
        })
        .collect();
    let fastest = timed.iter().map(|t| t.1).fold(f64::INFINITY, f64::min);
    let (_, mine, noise) = timed
        .iter()
        .copied()
        .find(|t| t.0 == in_use.simd())
        .expect("the level in use is a level of this CPU");
    let mut metric = Metric::lower(format!("simd.l2_f32.{dim}"), "ns", mine, noise)
        .against("fastest level of this CPU", fastest)
        .workload(format!(
            "one squared distance of f32, {dim} dimensions, batch in cache"
        ));
    for (simd, ns, _) in timed {
        metric = metric.peer(simd.name(), ns);
    }
    (metric, fastest / mine)
}

/// A scan over more than any cache holds, beside the memory bandwidth.
fn streaming(run: &Run, kernels: &Kernels) -> Metric {
    const DIM: usize = 384;
    let count = STREAMED_BYTES / 4 / DIM;
    let (query, rows) = (wave(DIM, 1), wave(DIM * count, 2));
    let mut out = vec![0.0f32; count];
    let (ns, noise) = sample::time_ns(run.budget() * 2, || {
        kernels.many_l2_f32(black_box(&query), black_box(&rows), &mut out)
    });
    let rate = (DIM * count * 4) as f64 / ns;
    let metric = Metric::higher("simd.stream_l2_f32", "GB/s", rate, noise)
        .workload("one query against 128 MiB of 384-dimensional f32 rows, one core");
    match run.earlier(MEMORY_BANDWIDTH) {
        Some(limit) => metric.against("memory bandwidth", limit),
        None => metric,
    }
}

/// Finite values without pattern to a kernel; their distribution does not matter to its speed.
fn wave(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..len).map(|_| next()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_of_this_cpu_is_measured_at_every_dimension() {
        let run = Run::new(crate::bench::Settings::quick(), std::env::temp_dir());
        let levels: Vec<&Kernels> = Simd::ALL.into_iter().filter_map(Kernels::with).collect();
        let scalar = Kernels::with(Simd::Scalar).unwrap();
        let (metric, share) = in_cache(&run, scalar, &levels, 256);
        assert_eq!(metric.peers.len(), levels.len());
        assert!(metric.peers.iter().all(|peer| peer.value > 0.0));
        assert!(share > 0.0 && share <= 1.0);
        assert!(metric.goodness().unwrap() <= 1.0);
    }
}
