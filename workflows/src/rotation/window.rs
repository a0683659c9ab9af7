//! Times at which something may be changed: a cron expression that says when they begin, a length, a zone.

use chrono::TimeDelta;
use chrono_tz::Tz;
use engine::core::Timestamp;
use engine::core::duration::Span;
use engine::core::schedule::Cron;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The longest window: what may be changed on most days needs none.
const LENGTH_MAX: Span = Span::from_s(7 * 86_400);
/// How far back it is looked for a beginning, step by step: what begins often is found in the first.
const LOOK_BACK_MINUTES: [i64; 6] = [1, 60, 1_440, 11_520, 57_600, 576_000];
/// The most beginnings that are looked at in one step.
const BEGINNINGS_MAX: usize = 2_000;

/// When something may be changed, as it is declared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// When it begins: minute, hour, day of the month, month, day of the week, on the clock of the zone.
    pub cron: String,
    pub length: Span,
    /// An IANA name: `Europe/Zurich`.
    pub zone: String,
}

/// One time between a beginning and an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Open {
    pub from: Timestamp,
    pub until: Timestamp,
}

impl Window {
    /// # Errors
    /// What is wrong with it, and how to mend it.
    pub fn check(&self) -> Result<(), (String, &'static str)> {
        if self.length == Span::from_ms(0) || self.length > LENGTH_MAX {
            return Err((
                format!("it is {} long", self.length),
                "write a length of up to 7d",
            ));
        }
        self.read().map(drop)
    }

    fn read(&self) -> Result<(Cron, Tz), (String, &'static str)> {
        let cron = Cron::parse(&self.cron).map_err(|error| {
            (
                error.what,
                "write minute, hour, day of the month, month, day of the week: `0 2 * * SAT`",
            )
        })?;
        let zone = self.zone.parse().map_err(|_| {
            (
                format!("`{}` is no IANA time zone", self.zone),
                "write one like `Europe/Zurich`, or `UTC`",
            )
        })?;
        Ok((cron, zone))
    }

    /// The last time that begins at or before `at`, if it is not over then, and else the first that begins after it. `None`
    /// for one that cannot be read, or never comes.
    #[must_use]
    pub fn at_or_after(&self, at: Timestamp) -> Option<Open> {
        let (cron, zone) = self.read().ok()?;
        let last = last_before(&cron, zone, at).map(|from| self.open(from));
        last.filter(|open| open.until > at)
            .or_else(|| cron.next(at, zone).map(|from| self.open(from)))
    }

    /// The last time that begins at or before `at`, whether it is over or not.
    #[must_use]
    pub fn before(&self, at: Timestamp) -> Option<Open> {
        let (cron, zone) = self.read().ok()?;
        last_before(&cron, zone, at).map(|from| self.open(from))
    }

    fn open(&self, from: Timestamp) -> Open {
        Open {
            from,
            until: from + self.length.delta(),
        }
    }
}

fn last_before(cron: &Cron, zone: Tz, at: Timestamp) -> Option<Timestamp> {
    for minutes in LOOK_BACK_MINUTES {
        let mut from = at.checked_sub_signed(TimeDelta::minutes(minutes))?;
        let mut last = None;
        for _ in 0..BEGINNINGS_MAX {
            match cron.next(from, zone) {
                Some(next) if next <= at => {
                    last = Some(next);
                    from = next;
                }
                _ => break,
            }
        }
        if last.is_some() {
            return last;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn the_time_that_is_open_or_the_next_one() {
        let saturdays = ("0 2 * * SAT", "4h", "Europe/Zurich");
        let nights = ("30 2 * * *", "2h", "Europe/Zurich");
        for ((cron, length, zone), now, from, until) in [
            // On a Friday: the next day at two in the morning there, in winter.
            (
                saturdays,
                "2026-11-27T12:00:00Z",
                "2026-11-28T01:00:00Z",
                "2026-11-28T05:00:00Z",
            ),
            // While it is open: itself.
            (
                saturdays,
                "2026-11-28T04:59:59Z",
                "2026-11-28T01:00:00Z",
                "2026-11-28T05:00:00Z",
            ),
            // Its end is not of it.
            (
                saturdays,
                "2026-11-28T05:00:00Z",
                "2026-12-05T01:00:00Z",
                "2026-12-05T05:00:00Z",
            ),
            // In summer.
            (
                saturdays,
                "2026-07-03T12:00:00Z",
                "2026-07-04T00:00:00Z",
                "2026-07-04T04:00:00Z",
            ),
            // The night in which the clock jumps from two to three: it begins when the clock shows three.
            (
                nights,
                "2026-03-28T12:00:00Z",
                "2026-03-29T01:00:00Z",
                "2026-03-29T03:00:00Z",
            ),
            // The night in which half past two comes twice: once.
            (
                nights,
                "2026-10-24T12:00:00Z",
                "2026-10-25T00:30:00Z",
                "2026-10-25T02:30:00Z",
            ),
            (
                nights,
                "2026-10-25T02:30:00Z",
                "2026-10-26T01:30:00Z",
                "2026-10-26T03:30:00Z",
            ),
            (
                ("0 0 1 1 *", "1d", "UTC"),
                "2026-11-26T00:00:00Z",
                "2027-01-01T00:00:00Z",
                "2027-01-02T00:00:00Z",
            ),
        ] {
            let window = Window {
                cron: cron.to_owned(),
                length: Span::parse(length).unwrap(),
                zone: zone.to_owned(),
            };
            window.check().unwrap();
            let open = window.at_or_after(at(now)).unwrap();
            assert_eq!(
                (open.from, open.until),
                (at(from), at(until)),
                "{cron} {now}"
            );
        }
    }

    #[test]
    fn the_last_one_is_found_however_seldom_it_comes() {
        for (cron, now, from) in [
            (
                "* * * * * *",
                "2026-11-26T12:00:30Z",
                "2026-11-26T12:00:30Z",
            ),
            ("* * * * *", "2026-11-26T12:00:30Z", "2026-11-26T12:00:00Z"),
            (
                "0 2 * * SAT",
                "2026-11-27T12:00:00Z",
                "2026-11-21T02:00:00Z",
            ),
            ("0 0 1 1 *", "2026-12-31T23:59:59Z", "2026-01-01T00:00:00Z"),
        ] {
            let window = Window {
                cron: cron.to_owned(),
                length: Span::from_s(60),
                zone: "UTC".to_owned(),
            };
            assert_eq!(window.before(at(now)).unwrap().from, at(from), "{cron}");
        }
    }
}
