use std::sync::mpsc;
use std::thread;

use proptest::prelude::*;

use super::*;

fn pool(limits: Limits) -> &'static Pool {
    Box::leak(Box::new(Pool::new(limits)))
}

fn ordinary() -> &'static Pool {
    pool(Limits::default())
}

/// A pool that keeps one buffer of each tier and no thread's stack.
fn single() -> &'static Pool {
    pool(Limits {
        per_thread: [0; 3],
        shared: [1; 3],
        shared_bytes_max: 0,
        large_bytes_per_thread: 0,
        large_bytes_max: 0,
    })
}

#[test]
fn a_buffer_has_the_length_asked_for_and_begins_on_a_cache_line() {
    let pool = ordinary();
    for len in [
        0, 1, 1023, 1024, 1025, 4096, 4097, 16_384, 16_385, 131_072, 1_048_577,
    ] {
        let mut buffer = pool.take(len);
        assert_eq!(buffer.len(), len);
        assert_eq!(buffer.as_ptr() as usize % 64, 0);
        buffer.fill(0xa5);
        assert!(buffer.iter().all(|&b| b == 0xa5));
    }
}

#[test]
fn the_tier_is_the_smallest_that_holds_it() {
    for (len, capacity) in [
        (1, 1024),
        (1024, 1024),
        (1025, 4096),
        (4097, 16_384),
        (16_385, 16_385),
    ] {
        assert_eq!(ordinary().take(len).capacity(), capacity);
    }
}

#[test]
fn a_buffer_given_back_is_the_next_one_taken() {
    let pool = ordinary();
    let first = pool.take(100);
    let address = first.as_ptr();
    drop(first);
    assert_eq!(pool.take(900).as_ptr(), address);
    let tier = pool.statistics().tiers[0];
    assert_eq!((tier.takes, tier.thread_hits, tier.misses), (2, 1, 1));
    assert_eq!((tier.in_use, tier.asked_bytes), (0, 1000));
    assert!((tier.internal_fragmentation() - (1.0 - 1000.0 / 2048.0)).abs() < 1e-9);
}

#[test]
fn truncated_and_grown_again_it_keeps_its_bytes() {
    let mut buffer = ordinary().take(10);
    buffer.copy_from_slice(b"0123456789");
    buffer.truncate(4);
    assert_eq!(&buffer[..], b"0123");
    buffer.truncate(8);
    assert_eq!(buffer.len(), 4);
    buffer.set_len(10);
    assert_eq!(&buffer[..], b"0123456789");
}

#[test]
fn a_pool_of_one_buffer_misses_as_soon_as_two_are_in_use() {
    let pool = single();
    for _ in 0..100 {
        let (_a, _b) = (pool.take(4000), pool.take(4000));
    }
    let tier = pool.statistics().tiers[1];
    assert_eq!((tier.takes, tier.misses, tier.shared_idle), (200, 101, 1));
}

#[test]
fn buffers_that_another_thread_drops_come_back_through_the_shelf() {
    let pool = ordinary();
    let (send, receive) = mpsc::sync_channel::<Buffer>(4);
    let consumer = thread::spawn(move || receive.into_iter().count());
    for _ in 0..10_000 {
        send.send(pool.take(4096)).unwrap();
    }
    drop(send);
    assert_eq!(consumer.join().unwrap(), 10_000);
    let tier = pool.statistics().tiers[1];
    assert_eq!((tier.takes, tier.in_use), (10_000, 0));
    assert!(tier.hit_rate() > 0.98, "{tier:?}");
}

#[test]
fn no_two_threads_ever_hold_the_same_bytes() {
    let pool = ordinary();
    let workers: Vec<_> = (0..8u64)
        .map(|me| {
            thread::spawn(move || {
                let mut held: Vec<(Buffer, u8)> = Vec::new();
                let mut state = me.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
                for step in 0..20_000u64 {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    if held.len() > 40 || (state & 1 == 0 && !held.is_empty()) {
                        let (buffer, mark) = held.swap_remove(state as usize % held.len());
                        assert!(buffer.iter().all(|&b| b == mark));
                    } else {
                        let mut buffer = pool.take((state >> 8) as usize % 40_000);
                        let mark = (me * 31 + step) as u8;
                        buffer.fill(mark);
                        held.push((buffer, mark));
                    }
                    if step % 4096 == 0 {
                        pool.tend();
                    }
                }
            })
        })
        .collect();
    for worker in workers {
        worker.join().unwrap();
    }
    let statistics = pool.statistics();
    for tier in statistics.tiers {
        assert_eq!((tier.in_use, tier.in_threads), (0, 0), "{tier:?}");
        assert_eq!(tier.takes, tier.thread_hits + tier.shared_hits + tier.misses);
    }
    assert_eq!(statistics.large.in_use_bytes, 0);
}

#[test]
fn what_is_idle_goes_back_to_the_system() {
    let pool = pool(Limits {
        per_thread: [0; 3],
        ..Limits::default()
    });
    drop((0..50).map(|_| pool.take(10_000)).collect::<Vec<_>>());
    assert_eq!(pool.statistics().idle_bytes(), 50 * 16_384);
    pool.tend();
    assert_eq!(
        pool.statistics().idle_bytes(),
        50 * 16_384,
        "wanted in this period"
    );
    drop(pool.take(10_000));
    pool.tend();
    assert_eq!(pool.statistics().idle_bytes(), 16_384, "one was wanted");
    pool.tend();
    assert_eq!(pool.statistics().idle_bytes(), 0);
}

#[test]
fn idle_bytes_never_exceed_the_bound() {
    let limits = Limits {
        per_thread: [4; 3],
        ..Limits::default()
    };
    let pool = pool(limits);
    for round in 0..6 {
        drop((0..2000).map(|_| pool.take(16_384)).collect::<Vec<_>>());
        let tier = pool.statistics().tiers[2];
        assert!(tier.shared_idle <= tier.shared_idle_max);
        assert!(
            tier.idle_bytes() as usize <= limits.shared_bytes_max + 4 * 16_384,
            "{round}"
        );
        pool.tend();
    }
    // Blocks were made while others were turned away, so the shelf grew to what it may be.
    assert_eq!(
        pool.statistics().tiers[2].shared_idle_max as usize,
        limits.shared_bytes_max / 16_384
    );
}

#[test]
fn a_large_size_asked_often_is_kept() {
    let pool = ordinary();
    for _ in 0..100 {
        drop(pool.take(100_000));
    }
    assert_eq!(pool.statistics().large.hits, 0);
    pool.tend();
    for _ in 0..100 {
        assert_eq!(pool.take(100_000).capacity(), 131_072);
    }
    let large = pool.statistics().large;
    assert_eq!((large.kept_sizes, large.takes, large.hits), (1, 200, 99));
    pool.tend();
    pool.tend();
    assert_eq!(pool.statistics().large.idle_bytes, 131_072, "the thread's own");
    drop(pool.take(200_000));
    assert_eq!(pool.statistics().large.idle_bytes, 0, "nobody asks for it now");
}

proptest! {
    #[test]
    fn counters_agree_with_a_list_of_what_is_held(
        steps in prop::collection::vec((any::<bool>(), 0usize..50_000), 1..300),
    ) {
        let pool = single();
        let mut held: Vec<(Buffer, usize)> = Vec::new();
        let mut asked = 0;
        for (take, n) in steps {
            if take || held.is_empty() {
                asked += n as u64;
                held.push((pool.take(n), n));
            } else {
                held.swap_remove(n % held.len());
            }
        }
        let statistics = pool.statistics();
        for (tier, counted) in statistics.tiers.iter().enumerate() {
            let expected = held.iter().filter(|(_, n)| tier_of(*n) == Some(tier)).count();
            prop_assert_eq!(counted.in_use, expected as u64);
            prop_assert!(counted.high_water >= counted.in_use);
        }
        let total = statistics.tiers.iter().map(|t| t.asked_bytes).sum::<u64>() + statistics.large.asked_bytes;
        prop_assert_eq!(total, asked);
        prop_assert!((0.0..=1.0).contains(&statistics.internal_fragmentation()));
    }
}
