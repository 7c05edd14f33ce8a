//! How much of the processors indexing takes.
//!
//! Its threads yield to all others by their niceness. Where the user set a cap, and on battery, those that read, cut and
//! embed rest in proportion to what they did as well; the stages behind them then have as much less to do. A file that
//! comes alone is never held up: rest is owed only by those who go on working.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};

/// On battery all workers together take so much of one processor.
const BATTERY_CPUS: f32 = 0.5;
/// How long what the kernel said of the power supply is believed.
const BELIEVED: Duration = Duration::from_secs(10);
/// Less rest than this is not taken yet.
const OWED_MIN: Duration = Duration::from_millis(100);
/// More is forgiven: a clock that was set, or a machine that slept.
const OWED_MAX: Duration = Duration::from_secs(10);

/// The pace of all workers.
pub(super) struct Pace {
    /// Processors that all workers together may take.
    cpus_max: Option<f32>,
    workers: usize,
    /// `/sys/class/power_supply`.
    supplies: PathBuf,
    on_battery: Mutex<Option<(Instant, bool)>>,
}

impl Pace {
    pub(super) fn new(cpus_max: Option<f32>, workers: usize, supplies: PathBuf) -> Pace {
        Pace {
            cpus_max,
            workers: workers.max(1),
            supplies,
            on_battery: Mutex::new(None),
        }
    }

    /// The share of a processor that one worker may take; none when nothing holds it.
    fn share(&self) -> Option<f32> {
        let battery = self.is_on_battery().then_some(BATTERY_CPUS);
        let cpus = match (self.cpus_max, battery) {
            (Some(cap), Some(battery)) => cap.min(battery),
            (cap, battery) => cap.or(battery)?,
        };
        Some(cpus / self.workers as f32).filter(|share| *share < 1.0)
    }

    fn is_on_battery(&self) -> bool {
        let mut known = self.on_battery.lock();
        match *known {
            Some((since, is)) if since.elapsed() < BELIEVED => is,
            _ => {
                let is = discharges(&self.supplies);
                *known = Some((Instant::now(), is));
                is
            }
        }
    }
}

/// Whether a battery of the machine feeds it, by the files of `/sys/class/power_supply`
/// (Documentation/ABI/testing/sysfs-class-power). The batteries of mice and keyboards do not count.
fn discharges(supplies: &Path) -> bool {
    let Ok(entries) = fs::read_dir(supplies) else {
        return false;
    };
    entries.flatten().any(|entry| {
        let says = |name: &str, value: &str| {
            fs::read_to_string(entry.path().join(name)).is_ok_and(|text| text.trim() == value)
        };
        says("type", "Battery") && !says("scope", "Device") && says("status", "Discharging")
    })
}

/// What one worker owes.
pub(super) struct Stint<'a> {
    pace: &'a Pace,
    /// Processor time of the thread, and the clock, when they were looked at last.
    worked: Duration,
    at: Instant,
    owed: Duration,
}

impl Stint<'_> {
    pub(super) fn new(pace: &Pace) -> Stint<'_> {
        Stint {
            pace,
            worked: thread_time(),
            at: Instant::now(),
            owed: Duration::ZERO,
        }
    }

    /// How long to rest now.
    pub(super) fn rest(&mut self) -> Option<Duration> {
        let (worked, at) = (thread_time(), Instant::now());
        let (did, took) = (worked.saturating_sub(self.worked), at - self.at);
        (self.worked, self.at) = (worked, at);
        self.owe(did, took, self.pace.share())
    }

    /// Counts work of `did` in a time of `took`.
    fn owe(&mut self, did: Duration, took: Duration, share: Option<f32>) -> Option<Duration> {
        let Some(share) = share else {
            self.owed = Duration::ZERO;
            return None;
        };
        let due = self.owed + did.div_f64(f64::from(share.max(0.001)));
        self.owed = due.saturating_sub(took).min(OWED_MAX);
        (self.owed >= OWED_MIN).then_some(self.owed)
    }
}

fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn supply(dir: &Path, name: &str, files: &[(&str, &str)]) {
        fs::create_dir_all(dir.join(name)).unwrap();
        for (file, text) in files {
            fs::write(dir.join(name).join(file), format!("{text}\n")).unwrap();
        }
    }

    fn pace(cap: Option<f32>, workers: usize, supplies: &Path) -> Pace {
        Pace::new(cap, workers, supplies.to_owned())
    }

    #[test]
    fn a_battery_that_feeds_the_machine_slows_indexing_down() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path();
        assert_eq!(pace(None, 2, &at.join("none")).share(), None);
        supply(at, "AC", &[("type", "Mains"), ("online", "1")]);
        supply(at, "BAT0", &[("type", "Battery"), ("status", "Charging")]);
        supply(
            at,
            "mouse",
            &[
                ("type", "Battery"),
                ("status", "Discharging"),
                ("scope", "Device"),
            ],
        );
        assert_eq!(pace(None, 2, at).share(), None);
        supply(at, "BAT0", &[("status", "Discharging")]);
        assert_eq!(pace(None, 2, at).share(), Some(0.25));
        assert_eq!(pace(Some(0.1), 1, at).share(), Some(0.1), "the cap is lower");
    }

    #[test]
    fn a_cap_is_shared_by_the_workers_and_no_cap_where_all_may_be_taken() {
        let none = Path::new("/nonexistent");
        assert_eq!(pace(Some(0.5), 2, none).share(), Some(0.25));
        assert_eq!(pace(Some(2.0), 2, none).share(), None);
    }

    #[test]
    fn rest_is_owed_in_proportion_and_paid_by_waiting() {
        let pace = pace(None, 1, Path::new("/nonexistent"));
        let mut stint = Stint::new(&pace);
        let ms = Duration::from_millis;
        assert_eq!(stint.owe(ms(20), ms(20), Some(0.25)), None, "a file alone");
        assert_eq!(stint.owe(ms(20), ms(20), Some(0.25)), Some(ms(120)), "two on end");
        assert_eq!(stint.owe(ms(0), ms(120), Some(0.25)), None, "rested");
        assert_eq!(stint.owe(ms(20), ms(1_000), Some(0.25)), None, "long after");
        assert_eq!(stint.owe(ms(900), ms(900), None), None, "nothing holds it");
    }
}
