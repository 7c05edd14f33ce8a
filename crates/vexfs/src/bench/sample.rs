//! Taking times: repeated rounds, their median and noise, and percentiles of single operations.

use std::hint::black_box;
use std::time::{Duration, Instant};

use super::metric::Latency;

/// Rounds of a measurement: enough for a median that one disturbed round cannot move.
pub const ROUNDS: usize = 7;

/// The median of some values and their noise: 1.48 times the median absolute deviation over the median, which is
/// the relative standard deviation if they are spread normally, and is not moved by a few disturbed ones.
///
/// # Panics
/// If there are none.
pub fn median_and_noise(values: &[f64]) -> (f64, f64) {
    let median = median(values);
    let deviations: Vec<f64> = values.iter().map(|v| (v - median).abs()).collect();
    let noise = if median == 0.0 {
        0.0
    } else {
        1.48 * self::median(&deviations) / median
    };
    (median, noise)
}

fn median(values: &[f64]) -> f64 {
    assert!(!values.is_empty());
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        sorted[middle]
    } else {
        (sorted[middle - 1] + sorted[middle]) / 2.0
    }
}

/// Nanoseconds of one call of `f`, median over rounds that together take about `budget`, and the noise.
pub fn time_ns<T>(budget: Duration, mut f: impl FnMut() -> T) -> (f64, f64) {
    let round = budget / (ROUNDS as u32 + 2);
    let mut calls = 1u64;
    // Doubles until a round is long enough for the clock; this also warms the caches.
    loop {
        if time(calls, &mut f) >= round || calls >= 1 << 40 {
            break;
        }
        calls *= 2;
    }
    let rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| time(calls, &mut f).as_nanos() as f64 / calls as f64)
        .collect();
    median_and_noise(&rounds)
}

fn time<T>(calls: u64, f: &mut impl FnMut() -> T) -> Duration {
    let start = Instant::now();
    for _ in 0..calls {
        black_box(f());
    }
    start.elapsed()
}

/// Latencies of single operations, and from them percentiles and the rate.
#[derive(Clone, Debug, Default)]
pub struct Latencies {
    ns: Vec<u64>,
}

impl Latencies {
    /// Times `f` again and again for `budget`, at least 10 times.
    pub fn repeat<E>(budget: Duration, mut f: impl FnMut() -> Result<(), E>) -> Result<Latencies, E> {
        let mut latencies = Latencies::default();
        let begin = Instant::now();
        while begin.elapsed() < budget || latencies.ns.len() < 10 {
            let start = Instant::now();
            f()?;
            latencies.add(start.elapsed());
        }
        Ok(latencies)
    }

    /// Adds one operation.
    pub fn add(&mut self, took: Duration) {
        self.ns.push(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.ns.len()
    }

    /// Mean and percentiles; all 0 without operations.
    pub fn summary(&self) -> Latency {
        let mut sorted = self.ns.clone();
        sorted.sort_unstable();
        let at = |share: f64| {
            let rank = (share * sorted.len() as f64).ceil() as usize;
            sorted
                .get(rank.saturating_sub(1))
                .map_or(0.0, |&ns| ns as f64 / 1e3)
        };
        let total: u128 = sorted.iter().map(|&ns| u128::from(ns)).sum();
        Latency {
            average_us: total as f64 / sorted.len().max(1) as f64 / 1e3,
            p50_us: at(0.5),
            p99_us: at(0.99),
            p999_us: at(0.999),
        }
    }

    /// Median in microseconds over stretches of the series, and the noise between the stretches.
    pub fn p50_us(&self) -> (f64, f64) {
        let stretch = self.ns.len().div_ceil(ROUNDS).max(1);
        let medians: Vec<f64> = self
            .ns
            .chunks(stretch)
            .map(|part| median(&part.iter().map(|&ns| ns as f64 / 1e3).collect::<Vec<_>>()))
            .collect();
        median_and_noise(&medians)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_disturbed_round_moves_neither_median_nor_noise() {
        let (median, noise) = median_and_noise(&[10.0, 10.0, 10.2, 9.8, 10.0, 500.0, 10.1]);
        assert_eq!(median, 10.0);
        assert!(noise < 0.02, "{noise}");
    }

    #[test]
    fn percentiles_are_those_of_the_operations() {
        let mut latencies = Latencies::default();
        for us in 1..=1000 {
            latencies.add(Duration::from_micros(us));
        }
        let summary = latencies.summary();
        assert_eq!(
            (summary.p50_us, summary.p99_us, summary.p999_us),
            (500.0, 990.0, 999.0)
        );
        assert!((summary.average_us - 500.5).abs() < 1e-9);
    }

    #[test]
    fn a_sleep_takes_as_long_as_it_takes() {
        let (ns, _) = time_ns(Duration::from_millis(20), || {
            std::thread::sleep(Duration::from_micros(500))
        });
        assert!((500_000.0..5_000_000.0).contains(&ns), "{ns}");
    }
}
