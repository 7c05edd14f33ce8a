//! What a pool did, in numbers.

use serde::Serialize;

use super::{Pool, TIER_BYTES};

/// Counts of a pool since it was made.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Statistics {
    /// By tier, smallest first.
    pub tiers: [TierStatistics; 3],
    /// Buffers above the tiers.
    pub large: LargeStatistics,
}

/// Counts of one tier.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct TierStatistics {
    /// Size of its buffers.
    pub bytes: usize,
    /// Buffers handed out so far.
    pub takes: u64,
    /// Of these, found in the thread's own stack.
    pub thread_hits: u64,
    /// Of these, found on the shared shelf.
    pub shared_hits: u64,
    /// Of these, allocated.
    pub misses: u64,
    /// Buffers handed out and not yet given back.
    pub in_use: u64,
    /// Buffers in threads' stacks, ready for them alone.
    pub in_threads: u64,
    /// The most buffers that were ever away from the shared shelf, in use or in threads' stacks, at once.
    pub high_water: u64,
    /// Buffers on the shared shelf.
    pub shared_idle: u64,
    /// The most buffers that the shelf keeps now.
    pub shared_idle_max: u64,
    /// Bytes asked for, over all takes.
    pub asked_bytes: u64,
}

/// Counts of buffers above the tiers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LargeStatistics {
    /// Buffers handed out so far.
    pub takes: u64,
    /// Of these, found idle.
    pub hits: u64,
    /// Bytes asked for, over all takes.
    pub asked_bytes: u64,
    /// Bytes handed out, over all takes.
    pub handed_bytes: u64,
    /// Bytes handed out and not yet given back.
    pub in_use_bytes: u64,
    /// Sizes (powers of two) that are kept at present.
    pub kept_sizes: usize,
    /// Bytes that lie idle, those that threads keep included.
    pub idle_bytes: u64,
}

impl TierStatistics {
    /// Share of takes that needed no allocation, 0 to 1; 1 when nothing was asked.
    pub fn hit_rate(&self) -> f64 {
        share(self.thread_hits + self.shared_hits, self.takes, 1.0)
    }

    /// Share of the bytes handed out that nobody asked for, 0 to 1: internal fragmentation.
    pub fn internal_fragmentation(&self) -> f64 {
        1.0 - share(self.asked_bytes, self.takes * self.bytes as u64, 1.0)
    }

    /// Bytes held and not in use: external fragmentation, absolute.
    pub fn idle_bytes(&self) -> u64 {
        (self.in_threads + self.shared_idle) * self.bytes as u64
    }
}

impl Statistics {
    /// Share of all takes, large ones included, that needed no allocation.
    pub fn hit_rate(&self) -> f64 {
        let hits = |t: &TierStatistics| t.thread_hits + t.shared_hits;
        share(
            self.tiers.iter().map(hits).sum::<u64>() + self.large.hits,
            self.takes(),
            1.0,
        )
    }

    /// Buffers handed out so far.
    pub fn takes(&self) -> u64 {
        self.tiers.iter().map(|t| t.takes).sum::<u64>() + self.large.takes
    }

    /// Share of all bytes handed out that nobody asked for.
    pub fn internal_fragmentation(&self) -> f64 {
        let asked = self.tiers.iter().map(|t| t.asked_bytes).sum::<u64>() + self.large.asked_bytes;
        let handed = |t: &TierStatistics| t.takes * t.bytes as u64;
        let handed = self.tiers.iter().map(handed).sum::<u64>() + self.large.handed_bytes;
        1.0 - share(asked, handed, 1.0)
    }

    /// Bytes held and not in use.
    pub fn idle_bytes(&self) -> u64 {
        self.tiers.iter().map(TierStatistics::idle_bytes).sum::<u64>() + self.large.idle_bytes
    }

    /// What happened since `earlier`; states (in use, idle, high water) are those of now.
    pub fn since(&self, earlier: &Statistics) -> Statistics {
        let mut difference = self.clone();
        for (now, then) in difference.tiers.iter_mut().zip(&earlier.tiers) {
            now.takes -= then.takes;
            now.thread_hits -= then.thread_hits;
            now.shared_hits -= then.shared_hits;
            now.misses -= then.misses;
            now.asked_bytes -= then.asked_bytes;
        }
        difference.large.takes -= earlier.large.takes;
        difference.large.hits -= earlier.large.hits;
        difference.large.asked_bytes -= earlier.large.asked_bytes;
        difference.large.handed_bytes -= earlier.large.handed_bytes;
        difference
    }
}

fn share(part: u64, whole: u64, of_nothing: f64) -> f64 {
    if whole == 0 {
        of_nothing
    } else {
        part as f64 / whole as f64
    }
}

pub(super) fn of(pool: &Pool) -> Statistics {
    let sums = pool.threads.sums();
    Statistics {
        tiers: std::array::from_fn(|tier| {
            let (sum, shelf) = (&sums.tiers[tier], pool.shelves[tier].counts());
            let in_use = sum.takes.saturating_sub(sum.gives);
            TierStatistics {
                bytes: TIER_BYTES[tier],
                takes: sum.takes,
                thread_hits: sum.takes.saturating_sub(sum.from_shelf + sum.from_system),
                shared_hits: sum.from_shelf,
                misses: sum.from_system,
                in_use,
                in_threads: (shelf.out as u64).saturating_sub(in_use),
                high_water: shelf.out_high as u64,
                shared_idle: shelf.idle as u64,
                shared_idle_max: shelf.keep_max as u64,
                asked_bytes: sum.asked_bytes,
            }
        }),
        large: {
            let (sum, counts) = (&sums.large, pool.large.counts());
            let in_use = sum.handed_bytes.saturating_sub(sum.given_bytes);
            let in_threads = (counts.out_bytes as u64).saturating_sub(in_use);
            LargeStatistics {
                takes: sum.takes,
                hits: sum.hits,
                asked_bytes: sum.asked_bytes,
                handed_bytes: sum.handed_bytes,
                in_use_bytes: in_use,
                kept_sizes: counts.kept_sizes,
                idle_bytes: counts.idle_bytes as u64 + in_threads,
            }
        },
    }
}
