//! Hours in which people are left in peace, on their own clock.

use chrono::{
    DateTime, Datelike as _, Days, NaiveDate, NaiveTime, TimeDelta, TimeZone as _, Utc, Weekday,
};
use chrono_tz::Tz;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};

/// A weekend and the days around it.
const DAYS_MAX: u64 = 7;
/// A reading that a clock skips is looked for this much later, at most this often: no clock skips more than a day.
const STEP_MINUTES: i64 = 15;
const STEPS_MAX: i32 = 2 * 24 * 4;

/// ```yaml
/// quiet_hours: { from: "20:00", to: "07:00", zone: Europe/Berlin, weekend: true }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct QuietHours {
    /// When the quiet begins, as a clock shows it: `20:00`.
    #[serde(deserialize_with = "reading")]
    #[schemars(with = "String")]
    pub from: NaiveTime,
    /// When it is over; earlier than `from` is the next day.
    #[serde(deserialize_with = "reading")]
    #[schemars(with = "String")]
    pub to: NaiveTime,
    /// The IANA zone of recipients of whom none is known.
    #[serde(deserialize_with = "zone")]
    #[schemars(with = "String")]
    pub zone: Tz,
    /// Saturday and Sunday are quiet as a whole.
    #[serde(default)]
    pub weekend: bool,
}

fn reading<'de, D: Deserializer<'de>>(deserializer: D) -> Result<NaiveTime, D::Error> {
    let text = String::deserialize(deserializer)?;
    NaiveTime::parse_from_str(&text, "%H:%M").map_err(|_| {
        serde::de::Error::custom(format!(
            "`{text}` is no time of day; write for example `\"20:00\"`"
        ))
    })
}

fn zone<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Tz, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(|_| {
        serde::de::Error::custom(format!(
            "`{text}` is no time zone; write for example `Europe/Berlin`"
        ))
    })
}

impl QuietHours {
    /// The first moment from `at` on that is not quiet for somebody in `zone`.
    #[must_use]
    pub fn over(&self, at: DateTime<Utc>, zone: Tz) -> DateTime<Utc> {
        if !self.covers(at, zone) {
            return at;
        }
        let today = at.with_timezone(&zone).date_naive();
        let ends = (0..=DAYS_MAX).filter_map(|days| today.checked_add_days(Days::new(days)));
        // A weekend ends at midnight, if that is not quiet anyway.
        ends.flat_map(|day| [(day, NaiveTime::MIN), (day, self.to)])
            .flat_map(|(day, time)| instants(day, time, zone))
            .flatten()
            .find(|end| *end > at && !self.covers(*end, zone))
            .unwrap_or(at)
    }

    fn covers(&self, at: DateTime<Utc>, zone: Tz) -> bool {
        let local = at.with_timezone(&zone);
        let time = local.time();
        let night = if self.from <= self.to {
            self.from <= time && time < self.to
        } else {
            time >= self.from || time < self.to
        };
        night || (self.weekend && matches!(local.weekday(), Weekday::Sat | Weekday::Sun))
    }
}

/// The instants, one or two, at which the clock of `zone` shows `time` on `day` or, when it skips that, the next reading.
fn instants(day: NaiveDate, time: NaiveTime, zone: Tz) -> [Option<DateTime<Utc>>; 2] {
    let wanted = day.and_time(time);
    let found = (0..STEPS_MAX).find_map(|step| {
        let local =
            wanted.checked_add_signed(TimeDelta::minutes(i64::from(step) * STEP_MINUTES))?;
        let shown = zone.from_local_datetime(&local);
        Some((shown.earliest()?, shown.latest()?))
    });
    [
        found.map(|(first, _)| first.with_timezone(&Utc)),
        found.map(|(_, second)| second.with_timezone(&Utc)),
    ]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[track_caller]
    fn check(hours: &str, zone: &str, at: &str, over: &str) {
        let hours: QuietHours = serde_saphyr::from_str(hours).unwrap();
        let over_at = hours.over(at.parse().unwrap(), zone.parse().unwrap());
        assert_eq!(over_at, over.parse::<DateTime<Utc>>().unwrap(), "{over_at}");
    }

    const NIGHT: &str = "{ from: '20:00', to: '07:00', zone: UTC }";
    const NIGHT_AND_WEEKEND: &str = "{ from: '20:00', to: '07:00', zone: UTC, weekend: true }";
    const LUNCH: &str = "{ from: '12:00', to: '13:00', zone: UTC, weekend: true }";

    #[test]
    fn the_night_is_over_on_the_recipients_clock() {
        // 2 March 2026 is a Monday.
        check(NIGHT, "UTC", "2026-03-02T12:00:00Z", "2026-03-02T12:00:00Z");
        check(NIGHT, "UTC", "2026-03-02T20:00:00Z", "2026-03-03T07:00:00Z");
        check(NIGHT, "UTC", "2026-03-02T06:59:59Z", "2026-03-02T07:00:00Z");
        check(NIGHT, "UTC", "2026-03-02T07:00:00Z", "2026-03-02T07:00:00Z");
        check(
            NIGHT,
            "Asia/Tokyo",
            "2026-03-02T12:00:00Z",
            "2026-03-02T22:00:00Z",
        );
        check(
            NIGHT,
            "America/New_York",
            "2026-03-02T02:00:00Z",
            "2026-03-02T12:00:00Z",
        );
        // A day ahead of another place at the same moment.
        check(
            NIGHT,
            "Pacific/Kiritimati",
            "2026-03-02T08:00:00Z",
            "2026-03-02T17:00:00Z",
        );
    }

    #[test]
    fn the_weekend_is_quiet_as_a_whole() {
        check(
            NIGHT_AND_WEEKEND,
            "UTC",
            "2026-03-06T21:00:00Z",
            "2026-03-09T07:00:00Z",
        );
        check(
            NIGHT_AND_WEEKEND,
            "UTC",
            "2026-03-07T12:00:00Z",
            "2026-03-09T07:00:00Z",
        );
        check(LUNCH, "UTC", "2026-03-07T12:30:00Z", "2026-03-09T00:00:00Z");
        check(LUNCH, "UTC", "2026-03-05T12:30:00Z", "2026-03-05T13:00:00Z");
    }

    #[test]
    fn clocks_that_jump_lose_nothing() {
        let hours = "{ from: '22:00', to: '02:30', zone: UTC }";
        // Berlin's clocks go from 02:00 to 03:00 on 29 March 2026, and from 03:00 to 02:00 on 25 October.
        check(
            hours,
            "Europe/Berlin",
            "2026-03-28T23:00:00Z",
            "2026-03-29T01:00:00Z",
        );
        check(
            hours,
            "Europe/Berlin",
            "2026-10-24T22:00:00Z",
            "2026-10-25T00:30:00Z",
        );
        // Half past two comes again: whoever was told before is not left in peace twice for ever.
        check(
            hours,
            "Europe/Berlin",
            "2026-10-25T01:00:00Z",
            "2026-10-25T01:30:00Z",
        );
    }

    #[test]
    fn a_time_that_is_none_is_told() {
        let error =
            serde_saphyr::from_str::<QuietHours>("{ from: '25:00', to: '07:00', zone: UTC }")
                .unwrap_err();
        assert!(
            error.to_string().contains("`25:00` is no time of day"),
            "{error}"
        );
        let error =
            serde_saphyr::from_str::<QuietHours>("{ from: '20:00', to: '07:00', zone: Berlin }")
                .unwrap_err();
        assert!(error.to_string().contains("Berlin"), "{error}");
    }
}
