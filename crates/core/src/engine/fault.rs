//! An engine that is slow on purpose, so that the benchmark's gate can be seen to find it.

use std::sync::OnceLock;
use std::thread::sleep;
use std::time::Duration;

/// Names the microseconds that every getattr sleeps.
pub const SLOW_GETATTR: &str = "VEXFS_BENCH_SLOW_GETATTR_US";

static GETATTR: OnceLock<Option<Duration>> = OnceLock::new();

/// Sleeps as long as the environment said when the first attributes were asked for.
pub(super) fn in_getattr() {
    let asked = || std::env::var(SLOW_GETATTR).ok()?.parse().ok();
    if let Some(time) = GETATTR.get_or_init(|| asked().map(Duration::from_micros)) {
        sleep(*time);
    }
}
