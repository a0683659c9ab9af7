//! Days of a place as instants.
//!
//! A business fact comes with a day, and a day begins at a different instant in every zone. Where clocks
//! jump over midnight the day begins at the first instant it has; where midnight comes twice, at the first.

use chrono::{
    DateTime, Days, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, TimeZone, Timelike, Utc,
};
use chrono_tz::Tz;

/// Zones have moved by at most a day (Samoa skipped 30 December 2011); a quarter of an hour divides every
/// change of clocks since 1970.
const STEPS_MAX: i32 = 2 * 24 * 4;
const STEP_MINUTES: i64 = 15;

/// The first instant of `day` in `zone`. For a day the zone skipped, the first instant after it.
#[must_use]
pub fn start_of_day(day: NaiveDate, zone: Tz) -> DateTime<Utc> {
    let midnight = day.and_time(NaiveTime::MIN);
    for step in 0..STEPS_MAX {
        let Some(minutes) = TimeDelta::try_minutes(i64::from(step) * STEP_MINUTES) else {
            break;
        };
        let Some(local) = midnight.checked_add_signed(minutes) else {
            break;
        };
        if let Some(instant) = zone.from_local_datetime(&local).earliest() {
            return instant.with_timezone(&Utc);
        }
    }
    midnight.and_utc()
}

/// The first instant at which `day` is over in `zone`: what ends "at the end of" that day ends here.
#[must_use]
pub fn end_of_day(day: NaiveDate, zone: Tz) -> DateTime<Utc> {
    start_of_day(day.checked_add_days(Days::new(1)).unwrap_or(day), zone)
}

/// The instant at which the clocks of `zone` show `local`; where they jump over it, the first after the gap; where they
/// show it twice, the second: who works until then works until it is over for good.
#[must_use]
pub fn at_or_after(local: NaiveDateTime, zone: Tz) -> DateTime<Utc> {
    if let Some(instant) = zone.from_local_datetime(&local).latest() {
        return instant.with_timezone(&Utc);
    }
    // Gaps end at whole quarters of an hour.
    let minute = i64::from(local.minute()) % STEP_MINUTES;
    let quarter = local.with_second(0).and_then(|at| at.with_nanosecond(0));
    let quarter = quarter.and_then(|at| at.checked_sub_signed(TimeDelta::try_minutes(minute)?));
    for step in 0..STEPS_MAX {
        let shown = quarter
            .zip(TimeDelta::try_minutes(i64::from(step) * STEP_MINUTES))
            .and_then(|(at, later)| at.checked_add_signed(later));
        let Some(shown) = shown else { break };
        if let Some(instant) = zone.from_local_datetime(&shown).earliest() {
            return instant.with_timezone(&Utc);
        }
    }
    local.and_utc()
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

    #[track_caller]
    fn check(day: &str, zone: &str, start: &str, end: &str) {
        let day: NaiveDate = day.parse().unwrap();
        let zone: Tz = zone.parse().unwrap();
        assert_eq!(start_of_day(day, zone).to_rfc3339(), start, "start");
        assert_eq!(end_of_day(day, zone).to_rfc3339(), end, "end");
    }

    #[test]
    fn days_begin_where_people_are() {
        check(
            "2010-02-01",
            "UTC",
            "2010-02-01T00:00:00+00:00",
            "2010-02-02T00:00:00+00:00",
        );
        check(
            "2010-02-01",
            "America/New_York",
            "2010-02-01T05:00:00+00:00",
            "2010-02-02T05:00:00+00:00",
        );
        check(
            "2024-06-30",
            "Australia/Melbourne",
            "2024-06-29T14:00:00+00:00",
            "2024-06-30T14:00:00+00:00",
        );
    }

    #[test]
    fn changing_clocks_make_long_short_and_late_days() {
        // 23 hours.
        check(
            "2010-03-14",
            "America/New_York",
            "2010-03-14T05:00:00+00:00",
            "2010-03-15T04:00:00+00:00",
        );
        // Clocks jump from 24:00 to 01:00: the day begins at one.
        check(
            "2018-11-04",
            "America/Sao_Paulo",
            "2018-11-04T03:00:00+00:00",
            "2018-11-05T02:00:00+00:00",
        );
        // Clocks fall back at midnight: midnight comes twice.
        check(
            "2019-11-03",
            "America/Havana",
            "2019-11-03T04:00:00+00:00",
            "2019-11-04T05:00:00+00:00",
        );
        // Samoa had no 30 December 2011.
        check(
            "2011-12-30",
            "Pacific/Apia",
            "2011-12-30T10:00:00+00:00",
            "2011-12-30T10:00:00+00:00",
        );
    }
}
