//! Sizes and times in filters.

use std::time::{SystemTime, UNIX_EPOCH};

/// A condition on an ordered value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison<T> {
    /// Less than the bound.
    Below(T),
    /// Less than the bound, or it.
    AtMost(T),
    /// Greater than the bound.
    Above(T),
    /// Greater than the bound, or it.
    AtLeast(T),
    /// From the first to the second, both included.
    Within(T, T),
}

impl<T: PartialOrd + Copy> Comparison<T> {
    /// Whether a value meets the condition.
    pub fn holds(&self, value: T) -> bool {
        match *self {
            Comparison::Below(bound) => value < bound,
            Comparison::AtMost(bound) => value <= bound,
            Comparison::Above(bound) => value > bound,
            Comparison::AtLeast(bound) => value >= bound,
            Comparison::Within(from, to) => value >= from && value <= to,
        }
    }
}

const SIZE: &str = "a size: >1M, <=10k, 1M..2M";
const TIME: &str = "an age or a date: <7d, >1y, >=2024-01-31, 2024-01..2024-03";

/// `>1M`, `<=10k`, `4096`, `1M..2M`; k M G T are powers of 1,024.
pub(super) fn size(text: &str) -> Result<Comparison<u64>, &'static str> {
    compare(text, |value| bytes(value).map(|b| (b, b))).ok_or(SIZE)
}

/// An age (`<7d`: changed less than seven days ago; s m h d w y) or a UTC date (`>2024-01-31`: changed after it).
pub(super) fn time(text: &str) -> Result<Comparison<i64>, &'static str> {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs() as i64);
    let age = |value: &str| age(value).map(|age| (now.saturating_sub(age), now.saturating_sub(age)));
    let found = compare(text, age).map(|comparison| match comparison {
        // A lesser age is a later time.
        Comparison::Below(t) => Comparison::Above(t),
        Comparison::AtMost(t) => Comparison::AtLeast(t),
        Comparison::Above(t) => Comparison::Below(t),
        Comparison::AtLeast(t) => Comparison::AtMost(t),
        // A bare age is "within that age"; a range runs from the greater age to the lesser.
        Comparison::Within(a, b) if a == b => Comparison::AtLeast(a),
        Comparison::Within(a, b) => Comparison::Within(a.min(b), a.max(b)),
    });
    found.or_else(|| compare(text, date)).ok_or(TIME)
}

/// Reads the comparison sign and the value, which `read` gives as its first and last instant or size.
fn compare<T: Copy>(text: &str, read: impl Fn(&str) -> Option<(T, T)>) -> Option<Comparison<T>> {
    if let Some(value) = text.strip_prefix("<=") {
        return read(value).map(|(_, last)| Comparison::AtMost(last));
    }
    if let Some(value) = text.strip_prefix(">=") {
        return read(value).map(|(first, _)| Comparison::AtLeast(first));
    }
    if let Some(value) = text.strip_prefix('<') {
        return read(value).map(|(first, _)| Comparison::Below(first));
    }
    if let Some(value) = text.strip_prefix('>') {
        return read(value).map(|(_, last)| Comparison::Above(last));
    }
    if let Some((from, to)) = text.split_once("..") {
        return Some(Comparison::Within(read(from)?.0, read(to)?.1));
    }
    read(text).map(|(first, last)| Comparison::Within(first, last))
}

fn bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text[digits.len()..]
        .to_ascii_lowercase()
        .trim_end_matches('b')
        .trim_end_matches('i')
    {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return None,
    };
    if let Ok(whole) = digits.parse::<u64>() {
        return whole.checked_mul(1 << shift);
    }
    let part: f64 = digits.parse().ok()?;
    (part.is_finite() && part >= 0.0).then(|| (part * (1u64 << shift) as f64) as u64)
}

fn age(text: &str) -> Option<i64> {
    let unit = text.chars().next_back()?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        'w' => 7 * 86_400,
        'y' => 31_556_952,
        _ => return None,
    };
    text[..text.len() - 1]
        .parse::<u32>()
        .ok()
        .map(|n| i64::from(n) * seconds)
}

/// The first and last second of a year, month or day, UTC.
fn date(text: &str) -> Option<(i64, i64)> {
    let mut parts = text.split('-');
    let year: i64 = parts.next().filter(|y| y.len() == 4)?.parse().ok()?;
    let month: Option<i64> = parts
        .next()
        .map(|m| m.parse().ok().filter(|m| (1..=12).contains(m)))
        .map_or(Some(None), |m| m.map(Some))?;
    let day: Option<i64> = parts
        .next()
        .map(|d| d.parse().ok().filter(|d| (1..=31).contains(d)))
        .map_or(Some(None), |d| d.map(Some))?;
    if parts.next().is_some() {
        return None;
    }
    let first = days(year, month.unwrap_or(1), day.unwrap_or(1));
    let next = match (month, day) {
        (Some(_), Some(_)) => first + 1,
        (Some(12), None) | (None, _) => days(year + 1, 1, 1),
        (Some(month), None) => days(year, month + 1, 1),
    };
    Some((first * 86_400, next * 86_400 - 1))
}

/// Days from 1970-01-01 to a day of the proleptic Gregorian calendar.
fn days(year: i64, month: i64, day: i64) -> i64 {
    // The year begins in March, so that the leap day is its last.
    let shifted = if month > 2 { year } else { year - 1 };
    let era = shifted.div_euclid(400);
    let year_of_era = shifted.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_powers_of_1024() {
        let check = |text: &str, want| assert_eq!(size(text).ok(), want, "{text}");
        check(">1M", Some(Comparison::Above(1 << 20)));
        check("<=10k", Some(Comparison::AtMost(10_240)));
        check("4096", Some(Comparison::Within(4_096, 4_096)));
        check("1.5K", Some(Comparison::Within(1_536, 1_536)));
        check("1M..2MiB", Some(Comparison::Within(1 << 20, 2 << 20)));
        check("", None);
        check(">", None);
        check("1x", None);
        check("99999999999T", None);
    }

    #[test]
    fn dates_are_whole_days_months_or_years() {
        let check = |text: &str, first: i64, last: i64| assert_eq!(date(text), Some((first, last)), "{text}");
        check("1970-01-01", 0, 86_399);
        check("2024-02-29", 1_709_164_800, 1_709_251_199);
        check("2024", 1_704_067_200, 1_735_689_599);
        check("2024-12", 1_733_011_200, 1_735_689_599);
        assert_eq!(date("2024-13"), None);
        assert_eq!(date("24-01"), None);
        assert_eq!(date("2024-01-01-01"), None);
    }

    #[test]
    fn a_lesser_age_is_a_later_time() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
        let young = time("<7d").unwrap();
        assert!(young.holds(now) && !young.holds(now - 8 * 86_400));
        let old = time(">1y").unwrap();
        assert!(!old.holds(now) && old.holds(now - 400 * 86_400));
        assert!(time("7d").unwrap().holds(now - 86_400));
        assert!(time(">2024-01-31").unwrap().holds(now));
        assert!(time("soon").is_err() && time("").is_err() && time("<é").is_err());
    }
}
