//! Times and lengths of time as people say them.

use chrono::{DateTime, TimeDelta, Utc};

/// `3 min ago`, `in 2 h`, `now`.
#[must_use]
pub fn relative(time: DateTime<Utc>, now: DateTime<Utc>) -> String {
    let distance = time - now;
    if distance.abs() < TimeDelta::seconds(1) {
        return "now".to_owned();
    }
    if distance > TimeDelta::zero() {
        format!("in {}", length(distance))
    } else {
        format!("{} ago", length(-distance))
    }
}

/// A time with its distance: `14:03:12 (in 4 min)`, with the day when it is another one.
#[must_use]
pub fn with_distance(time: DateTime<Utc>, now: DateTime<Utc>) -> String {
    format!("{} ({})", clock(time, now), relative(time, now))
}

/// The time of day; with the day when that is not today's. Always UTC.
#[must_use]
pub fn clock(time: DateTime<Utc>, now: DateTime<Utc>) -> String {
    if time.date_naive() == now.date_naive() {
        time.format("%H:%M:%S").to_string()
    } else {
        time.format("%Y-%m-%d %H:%M").to_string()
    }
}

/// A length in the two largest units that matter: `340 ms`, `1.2 s`, `4 min`, `3 h 5 min`, `12 d`.
#[must_use]
pub fn length(length: TimeDelta) -> String {
    let ms = length.num_milliseconds().max(0);
    let (seconds, minutes, hours, days) =
        (ms / 1_000, ms / 60_000, ms / 3_600_000, ms / 86_400_000);
    let with = |large: i64, unit: &str, small: i64, small_unit: &str| {
        if small == 0 {
            format!("{large} {unit}")
        } else {
            format!("{large} {unit} {small} {small_unit}")
        }
    };
    if ms < 1_000 {
        format!("{ms} ms")
    } else if seconds < 10 {
        format!("{}.{} s", seconds, ms % 1_000 / 100)
    } else if minutes < 1 {
        format!("{seconds} s")
    } else if minutes < 10 {
        with(minutes, "min", seconds % 60, "s")
    } else if hours < 1 {
        format!("{minutes} min")
    } else if hours < 24 {
        with(hours, "h", minutes % 60, "min")
    } else if days < 3 {
        with(days, "d", hours % 24, "h")
    } else {
        format!("{days} d")
    }
}

/// Milliseconds as a length.
#[must_use]
pub fn length_ms(ms: f64) -> String {
    if ms < 10.0 {
        return format!("{ms:.1} ms");
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a length on a screen; the largest saturates"
    )]
    let whole = ms.round() as i64;
    length(TimeDelta::try_milliseconds(whole).unwrap_or(TimeDelta::MAX))
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        reason = "tests"
    )]
    use super::*;

    #[test]
    fn lengths_read_well() {
        for (ms, text) in [
            (0, "0 ms"),
            (340, "340 ms"),
            (1_250, "1.2 s"),
            (59_000, "59 s"),
            (61_000, "1 min 1 s"),
            (240_000, "4 min"),
            (3_599_000, "59 min"),
            (11_100_000, "3 h 5 min"),
            (90_000_000, "1 d 1 h"),
            (1_036_800_000, "12 d"),
        ] {
            assert_eq!(length(TimeDelta::milliseconds(ms)), text);
        }
        assert_eq!(length_ms(0.44), "0.4 ms");
        assert_eq!(length_ms(1_500.0), "1.5 s");
    }

    #[test]
    fn distance_says_the_direction() {
        let now: DateTime<Utc> = "2026-03-02T10:00:00Z".parse().unwrap();
        assert_eq!(relative(now + TimeDelta::minutes(5), now), "in 5 min");
        assert_eq!(relative(now - TimeDelta::hours(2), now), "2 h ago");
        assert_eq!(relative(now + TimeDelta::milliseconds(20), now), "now");
        assert_eq!(
            with_distance(now + TimeDelta::minutes(20), now),
            "10:20:00 (in 20 min)"
        );
        assert_eq!(clock(now - TimeDelta::days(1), now), "2026-03-01 10:00");
    }
}
