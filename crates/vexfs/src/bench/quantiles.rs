//! Times of single operations, and what they say together.

use std::time::Duration;

use super::sample::{ROUNDS, median_and_noise};

/// What one thread or several measured in one phase.
#[derive(Clone, Debug, Default)]
pub(super) struct Times {
    /// Nanoseconds of each operation.
    each_ns: Vec<u32>,
    /// Operations that were timed together with others.
    together: usize,
}

/// A phase of one system in one round, in microseconds an operation.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub(super) struct Summary {
    /// Wall time over operations, all threads together.
    pub mean_us: f64,
    /// Median of the single operations.
    pub p50_us: f64,
    /// Nearest-rank 99th percentile of the single operations.
    pub p99_us: f64,
    /// Nearest-rank 99.9th percentile of the single operations.
    pub p999_us: f64,
    /// Spread of the medians of successive stretches, relative to their median; 0 where operations were timed together.
    pub noise: f64,
    /// Operations measured.
    pub operations: usize,
}

impl Times {
    pub(super) fn with_capacity(operations: usize) -> Times {
        Times {
            each_ns: Vec::with_capacity(operations),
            together: 0,
        }
    }

    /// An operation that took this long; more than 4.2 s counts as that.
    pub(super) fn push(&mut self, took: Duration) {
        self.each_ns
            .push(u32::try_from(took.as_nanos()).unwrap_or(u32::MAX));
    }

    /// Operations that only took this long together; each counts with the mean.
    pub(super) fn push_many(&mut self, took: Duration, operations: usize) {
        self.push(took / operations.max(1) as u32);
        self.together += operations.max(1) - 1;
    }

    /// The times of another thread.
    pub(super) fn append(&mut self, mut other: Times) {
        self.each_ns.append(&mut other.each_ns);
        self.together += other.together;
    }

    /// `None` if nothing was measured.
    pub(super) fn summary(mut self, wall: Duration) -> Option<Summary> {
        let timed = self.each_ns.len();
        if timed == 0 {
            return None;
        }
        let noise = self.noise();
        self.each_ns.sort_unstable();
        let at = |per_mille: usize| f64::from(self.each_ns[(timed * per_mille).div_ceil(1000) - 1]) / 1e3;
        let operations = timed + self.together;
        let mean_us = wall.as_secs_f64() * 1e6 / operations as f64;
        Some(Summary {
            mean_us,
            p50_us: at(500),
            p99_us: at(990),
            p999_us: at(999),
            noise,
            operations,
        })
    }

    fn noise(&self) -> f64 {
        let medians: Vec<f64> = self
            .each_ns
            .chunks(self.each_ns.len().div_ceil(ROUNDS).max(1))
            .map(|stretch| {
                let mut stretch = stretch.to_vec();
                let middle = stretch.len() / 2;
                f64::from(*stretch.select_nth_unstable(middle).1)
            })
            .collect();
        median_and_noise(&medians).1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_nearest_rank() {
        let mut times = Times::default();
        for us in (1..=100).rev() {
            times.push(Duration::from_micros(us));
        }
        let summary = times.summary(Duration::from_micros(200)).expect("measured");
        assert_eq!(
            (summary.p50_us, summary.p99_us, summary.mean_us),
            (50.0, 99.0, 2.0)
        );
        let mut one = Times::default();
        one.push(Duration::from_micros(7));
        assert_eq!(one.summary(Duration::from_micros(7)).map(|s| s.p99_us), Some(7.0));
        let mut drifting = Times::default();
        (0..700).for_each(|n| drifting.push(Duration::from_micros(if n < 300 { 10 } else { 12 })));
        let noise = drifting
            .summary(Duration::from_millis(7))
            .map_or(0.0, |s| s.noise);
        assert!(noise < 0.01, "most stretches agree: {noise}");
        let mut spread = Times::default();
        (0..700).for_each(|n| spread.push(Duration::from_micros(10 + n / 100)));
        let noise = spread.summary(Duration::from_millis(7)).map_or(0.0, |s| s.noise);
        assert!((0.15..0.3).contains(&noise), "{noise}");
        assert_eq!(Times::default().summary(Duration::ZERO), None);
    }
}
