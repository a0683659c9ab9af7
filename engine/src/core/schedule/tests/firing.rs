//! Fire times on clocks that are set forward and back.

use chrono::{Datelike as _, TimeDelta, TimeZone as _, Timelike as _};
use chrono_tz::Tz;
use proptest::prelude::*;

use super::*;

/// The fire times after `after`, in UTC.
#[track_caller]
fn check(cron: &str, zone: &str, after: &str, expected: &[&str]) {
    let upcoming = schedule(cron, zone).upcoming(at(after), expected.len());
    let told: Vec<String> = upcoming
        .iter()
        .map(|at| at.format("%Y-%m-%dT%H:%M:%SZ").to_string())
        .collect();
    assert_eq!(told, expected, "{cron} in {zone}");
}

#[test]
fn a_moment_of_the_day_keeps_its_place_on_the_clock() {
    // Berlin is an hour ahead of UTC in winter and two in summer.
    check(
        "0 9 * * *",
        "Europe/Berlin",
        "2026-03-28T00:00:00Z",
        &[
            "2026-03-28T08:00:00Z",
            "2026-03-29T07:00:00Z",
            "2026-03-30T07:00:00Z",
        ],
    );
    check(
        "0 9 * * *",
        "Europe/Berlin",
        "2026-10-24T00:00:00Z",
        &[
            "2026-10-24T07:00:00Z",
            "2026-10-25T08:00:00Z",
            "2026-10-26T08:00:00Z",
        ],
    );
    check(
        "0 9 * * *",
        "UTC",
        "2026-03-28T09:00:00Z",
        &["2026-03-29T09:00:00Z"],
    );
}

#[test]
fn a_moment_that_is_skipped_fires_once_right_after_the_gap() {
    // 02:00 becomes 03:00 at 01:00 UTC.
    check(
        "30 2 * * *",
        "Europe/Berlin",
        "2026-03-28T12:00:00Z",
        &["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"],
    );
    // Several skipped moments are one, and one that falls on the end of the gap is not another.
    check(
        "0,15,30 2-3 * * *",
        "Europe/Berlin",
        "2026-03-28T12:00:00Z",
        &[
            "2026-03-29T01:00:00Z",
            "2026-03-29T01:15:00Z",
            "2026-03-29T01:30:00Z",
            "2026-03-30T00:00:00Z",
        ],
    );
    check(
        "30 2 * * *",
        "America/New_York",
        "2026-03-07T12:00:00Z",
        &["2026-03-08T07:00:00Z", "2026-03-09T06:30:00Z"],
    );
    // Asked at the end of the gap and a moment before.
    check(
        "30 2 * * *",
        "Europe/Berlin",
        "2026-03-29T00:59:59Z",
        &["2026-03-29T01:00:00Z"],
    );
    check(
        "30 2 * * *",
        "Europe/Berlin",
        "2026-03-29T01:00:00Z",
        &["2026-03-30T00:30:00Z"],
    );
    check(
        "30 2 * * *",
        "Europe/Berlin",
        "2026-03-29T00:59:59.999Z",
        &["2026-03-29T01:00:00Z"],
    );
}

#[test]
fn a_moment_that_comes_twice_fires_the_first_time() {
    // 03:00 becomes 02:00 at 01:00 UTC.
    check(
        "30 2 * * *",
        "Europe/Berlin",
        "2026-10-24T12:00:00Z",
        &["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"],
    );
    check(
        "30 1 * * *",
        "America/New_York",
        "2026-10-31T12:00:00Z",
        &["2026-11-01T05:30:00Z", "2026-11-02T06:30:00Z"],
    );
    // Asked during the second time.
    check(
        "*/30 2 * * *",
        "Europe/Berlin",
        "2026-10-25T01:10:00Z",
        &["2026-10-26T01:00:00Z", "2026-10-26T01:30:00Z"],
    );
}

#[test]
fn a_rhythm_goes_by_what_the_clock_shows() {
    check(
        "30 * * * *",
        "Europe/Berlin",
        "2026-03-28T23:59:00Z",
        &[
            "2026-03-29T00:30:00Z",
            "2026-03-29T01:30:00Z",
            "2026-03-29T02:30:00Z",
        ],
    );
    check(
        "30 * * * *",
        "Europe/Berlin",
        "2026-10-24T23:59:00Z",
        &[
            "2026-10-25T00:30:00Z",
            "2026-10-25T01:30:00Z",
            "2026-10-25T02:30:00Z",
        ],
    );
    check(
        "*/10 * * * * *",
        "Europe/Berlin",
        "2026-10-25T00:59:45Z",
        &[
            "2026-10-25T00:59:50Z",
            "2026-10-25T01:00:00Z",
            "2026-10-25T01:00:10Z",
        ],
    );
    // A rhythm on one day, at whose beginning the clock is set back: 01:00 becomes 00:00 at 05:00 UTC.
    check(
        "30 * 1 11 *",
        "America/Havana",
        "2026-02-01T00:00:00Z",
        &[
            "2026-11-01T04:30:00Z",
            "2026-11-01T05:30:00Z",
            "2026-11-01T06:30:00Z",
        ],
    );
}

#[test]
fn half_an_hour_of_summer_time() {
    // Lord Howe goes from +10:30 to +11:00 at 02:00 in October, and back at 02:00 in April.
    check(
        "15 2 * * *",
        "Australia/Lord_Howe",
        "2026-10-02T16:00:00Z",
        &["2026-10-03T15:30:00Z", "2026-10-04T15:15:00Z"],
    );
    check(
        "45 1 * * *",
        "Australia/Lord_Howe",
        "2026-04-03T15:00:00Z",
        &["2026-04-04T14:45:00Z", "2026-04-05T15:15:00Z"],
    );
    check(
        "15,45 * * * *",
        "Australia/Lord_Howe",
        "2026-04-04T14:30:00Z",
        &[
            "2026-04-04T14:45:00Z",
            "2026-04-04T15:15:00Z",
            "2026-04-04T15:45:00Z",
        ],
    );
    check(
        "15,45 * * * *",
        "Australia/Lord_Howe",
        "2026-10-03T15:00:00Z",
        &[
            "2026-10-03T15:15:00Z",
            "2026-10-03T15:45:00Z",
            "2026-10-03T16:15:00Z",
        ],
    );
}

#[test]
fn a_day_that_never_was() {
    // Samoa went from the 29th of December 2011 to the 31st, at 10:00 UTC.
    check(
        "0 9 * * *",
        "Pacific/Apia",
        "2011-12-28T00:00:00Z",
        &[
            "2011-12-28T19:00:00Z",
            "2011-12-29T19:00:00Z",
            "2011-12-30T10:00:00Z",
            "2011-12-30T19:00:00Z",
        ],
    );
    check(
        "0 9 30 12 *",
        "Pacific/Apia",
        "2011-06-01T00:00:00Z",
        &["2011-12-30T10:00:00Z", "2012-12-29T19:00:00Z"],
    );
    check(
        "0 0 * * *",
        "Pacific/Apia",
        "2011-12-29T10:00:00Z",
        &["2011-12-30T10:00:00Z", "2011-12-31T10:00:00Z"],
    );
    check(
        "0 */12 * * *",
        "Pacific/Apia",
        "2011-12-29T10:00:00Z",
        &[
            "2011-12-29T22:00:00Z",
            "2011-12-30T10:00:00Z",
            "2011-12-30T22:00:00Z",
        ],
    );
    check(
        "0 * * * *",
        "Pacific/Apia",
        "2011-12-30T08:30:00Z",
        &[
            "2011-12-30T09:00:00Z",
            "2011-12-30T10:00:00Z",
            "2011-12-30T11:00:00Z",
        ],
    );
}

#[test]
fn leap_days_are_found_and_searches_end() {
    check(
        "0 0 29 2 *",
        "UTC",
        "2026-01-01T00:00:00Z",
        &["2028-02-29T00:00:00Z", "2032-02-29T00:00:00Z"],
    );
    // 2100 is no leap year, and the last year that is looked at.
    check(
        "0 0 29 2 *",
        "UTC",
        "2096-01-01T00:00:00Z",
        &["2096-02-29T00:00:00Z"],
    );
    let leap = schedule("0 0 29 2 *", "UTC");
    assert_eq!(leap.next(at("2096-02-29T00:00:00Z")), None);
    assert_eq!(
        schedule("@daily", "UTC").next(at("2101-01-01T00:00:00Z")),
        None
    );
    assert_eq!(
        schedule("* * * * * *", "UTC").next(Timestamp::MAX_UTC),
        None
    );
    let far = schedule("30 * 29 2 *", "Europe/Berlin");
    assert_eq!(
        far.next(at("2090-01-01T00:00:00Z")),
        Some(at("2092-02-28T23:30:00Z"))
    );
    check(
        "0 0 29 2 *",
        "Asia/Kolkata",
        "2026-01-01T00:00:00Z",
        &["2028-02-28T18:30:00Z"],
    );
}

#[test]
fn jitter_is_the_same_for_everybody_and_keeps_the_order() {
    let with = |name: &str, cron: &str, jitter: &str| {
        let spec = Spec {
            name: name.to_owned(),
            jitter: Span::parse(jitter).unwrap(),
            ..spec(cron, "Europe/Berlin")
        };
        Schedule::new(spec).unwrap()
    };
    let (one, again, other) = (
        with("a", "@hourly", "30m"),
        with("a", "@hourly", "30m"),
        with("b", "@hourly", "30m"),
    );
    let fires = one.upcoming(at("2026-01-01T00:00:00Z"), 200);
    let dues: Vec<_> = fires.iter().map(|fire| one.due(*fire)).collect();
    assert_eq!(
        dues,
        fires
            .iter()
            .map(|fire| again.due(*fire))
            .collect::<Vec<_>>()
    );
    assert_ne!(
        dues,
        fires
            .iter()
            .map(|fire| other.due(*fire))
            .collect::<Vec<_>>()
    );
    let jitters: Vec<i64> = fires
        .iter()
        .zip(&dues)
        .map(|(fire, due)| (*due - *fire).num_seconds())
        .collect();
    assert!(jitters.iter().all(|jitter| (0..=1_800).contains(jitter)));
    // Spread over all of it, not heaped at one end.
    assert!(
        jitters.iter().any(|jitter| *jitter < 300) && jitters.iter().any(|jitter| *jitter > 1_500)
    );
    // A jitter longer than the time between two runs does not let them change places.
    let tight = with("a", "*/10 * * * * *", "1h");
    let dues: Vec<_> = tight
        .upcoming(at("2026-01-01T00:00:00Z"), 200)
        .iter()
        .map(|fire| tight.due(*fire))
        .collect();
    assert!(dues.is_sorted());
    // Nodes of different versions must agree: this number must never change.
    assert_eq!(
        one.due(at("2026-01-01T00:00:00Z")),
        at("2026-01-01T00:23:34.318Z")
    );
}

/// Zones with every kind of oddity, and moments near one of their changes.
const ODD: [(&str, &str); 9] = [
    ("Europe/Berlin", "2026-03-29T01:00:00Z"),
    ("Europe/Berlin", "2026-10-25T01:00:00Z"),
    ("America/New_York", "2026-11-01T06:00:00Z"),
    ("Pacific/Apia", "2011-12-30T10:00:00Z"),
    ("Australia/Lord_Howe", "2026-04-04T15:00:00Z"),
    ("Australia/Lord_Howe", "2026-10-03T15:30:00Z"),
    ("Asia/Beirut", "2025-10-25T21:00:00Z"),
    ("Africa/Casablanca", "2026-02-15T02:00:00Z"),
    ("UTC", "2026-03-01T00:00:00Z"),
];

/// What a person would do who looks at the clock every minute and knows how far it has ever been.
fn looked_up(cron: &str, zone: Tz, after: Timestamp, minutes: i64) -> Vec<Timestamp> {
    let fields: Vec<&str> = cron.split(' ').collect();
    let within = |field: &str, value: u32| {
        field == "*" || field.split(',').any(|one| one.parse() == Ok(value))
    };
    let matches = |reading: chrono::NaiveDateTime| {
        within(fields[0], reading.minute())
            && within(fields[1], reading.hour())
            && within(fields[2], reading.day())
    };
    let shown = |at: Timestamp| zone.from_utc_datetime(&at.naive_utc()).naive_local();
    let minute = TimeDelta::minutes(1);
    let mut furthest = (0..3 * 1_440)
        .map(|back| shown(after - minute * back))
        .max()
        .unwrap();
    let mut found = Vec::new();
    for step in 1..=minutes {
        let now = after + minute * i32::try_from(step).unwrap();
        let reading = shown(now);
        let fires = if fields[1] == "*" {
            matches(reading)
        } else {
            let mut passed = furthest + minute;
            let mut any = false;
            while passed <= reading {
                any |= matches(passed);
                passed += minute;
            }
            any
        };
        furthest = furthest.max(reading);
        if fires {
            found.push(now);
        }
    }
    found
}

fn some_field(max: u32) -> impl Strategy<Value = String> {
    prop_oneof![
        1 => Just("*".to_owned()),
        3 => proptest::collection::btree_set(0..max, 1..4)
            .prop_map(|set| set.iter().map(u32::to_string).collect::<Vec<_>>().join(",")),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn fire_times_are_those_of_somebody_who_watches_the_clock(
        minute in some_field(60),
        hour in some_field(24),
        day in prop_oneof![3 => Just("*".to_owned()), 1 => Just("1,15,25,29,30".to_owned())],
        odd in 0..ODD.len(),
        before in 0..2_000_i64,
    ) {
        let (zone, change) = ODD[odd];
        let cron = format!("{minute} {hour} {day} * *");
        let after = at(change) - TimeDelta::minutes(before);
        let expected = looked_up(&cron, zone.parse().unwrap(), after, 4_000);
        let schedule = schedule(&cron, zone);
        let mut last = after;
        for expected in expected {
            let next = schedule.next(last);
            prop_assert_eq!(next, Some(expected), "{} in {} after {}", cron, zone, last);
            last = expected;
        }
    }

    #[test]
    fn asking_in_between_gives_the_same_fire_time(
        second in 0..60_u32, step in 1..30_u32, zone in 0..ODD.len(), start in 0..400_000_i64, within in 0..1_000_i64,
    ) {
        let (zone, change) = ODD[zone];
        let schedule = schedule(&format!("{second} */{step} 1-5 * * *"), zone);
        let from = at(change) - TimeDelta::seconds(200_000) + TimeDelta::seconds(start);
        let next = schedule.next(from).unwrap();
        prop_assert!(next > from);
        let between = from + (next - from) * i32::try_from(within).unwrap() / 1_000;
        if between < next {
            prop_assert_eq!(schedule.next(between), Some(next));
        }
        prop_assert!(schedule.next(next).unwrap() > next);
    }
}
