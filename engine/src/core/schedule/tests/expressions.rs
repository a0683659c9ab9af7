//! What can be written, and what is told about what cannot.

use super::*;

/// The first fire times in UTC from the beginning of 2026, a Thursday.
#[track_caller]
fn check(cron: &str, expected: &[&str]) {
    let upcoming = schedule(cron, "UTC").upcoming(at("2025-12-31T23:59:59Z"), expected.len());
    let told: Vec<String> = upcoming
        .iter()
        .map(|at| at.format("%m-%d %H:%M:%S").to_string())
        .collect();
    assert_eq!(told, expected, "{cron}");
}

#[test]
fn fields_mean_what_they_mean_in_a_crontab() {
    check("30 2 * * *", &["01-01 02:30:00", "01-02 02:30:00"]);
    check("15 30 2 * * *", &["01-01 02:30:15", "01-02 02:30:15"]);
    check(
        "*/20 * * * *",
        &["01-01 00:00:00", "01-01 00:20:00", "01-01 00:40:00"],
    );
    check(
        "5/25 9-10 * * *",
        &[
            "01-01 09:05:00",
            "01-01 09:30:00",
            "01-01 09:55:00",
            "01-01 10:05:00",
        ],
    );
    check(
        "0 0 1,15 * *",
        &["01-01 00:00:00", "01-15 00:00:00", "02-01 00:00:00"],
    );
    check("0 12 * jun-aug *", &["06-01 12:00:00", "06-02 12:00:00"]);
    // Over the end of the year and of the week.
    check(
        "0 0 1 nov-feb *",
        &["01-01 00:00:00", "02-01 00:00:00", "11-01 00:00:00"],
    );
    check(
        "0 6 * * fri-mon",
        &[
            "01-02 06:00:00",
            "01-03 06:00:00",
            "01-04 06:00:00",
            "01-05 06:00:00",
            "01-09 06:00:00",
        ],
    );
    check(
        "0 0 31 * *",
        &["01-31 00:00:00", "03-31 00:00:00", "05-31 00:00:00"],
    );
    check("0 0 29 2 *", &["02-29 00:00:00"]);
}

#[test]
fn days_of_the_week_count_from_sunday_which_is_0_and_7() {
    check("0 0 * * 1", &["01-05 00:00:00", "01-12 00:00:00"]);
    check("0 0 * * mon", &["01-05 00:00:00"]);
    check("0 0 * * 0", &["01-04 00:00:00"]);
    check("0 0 * * 7", &["01-04 00:00:00"]);
    check(
        "0 0 * * 5-7",
        &[
            "01-02 00:00:00",
            "01-03 00:00:00",
            "01-04 00:00:00",
            "01-09 00:00:00",
        ],
    );
    check(
        "0 0 * * 1-5",
        &["01-01 00:00:00", "01-02 00:00:00", "01-05 00:00:00"],
    );
}

#[test]
fn of_two_restricted_day_fields_one_is_enough() {
    check(
        "0 0 13 * fri",
        &[
            "01-02 00:00:00",
            "01-09 00:00:00",
            "01-13 00:00:00",
            "01-16 00:00:00",
        ],
    );
    // A field that begins with `*` does not restrict by itself, so both must hold.
    check("0 0 */2 * mon", &["01-05 00:00:00", "01-19 00:00:00"]);
    check("0 0 ? * mon", &["01-05 00:00:00", "01-12 00:00:00"]);
    check(
        "0 0 1-31 * mon",
        &["01-01 00:00:00", "01-02 00:00:00", "01-03 00:00:00"],
    );
}

#[test]
fn shorthands_are_read() {
    check("@hourly", &["01-01 00:00:00", "01-01 01:00:00"]);
    check("@daily", &["01-01 00:00:00", "01-02 00:00:00"]);
    check("@midnight", &["01-01 00:00:00"]);
    check("@weekly", &["01-04 00:00:00", "01-11 00:00:00"]);
    check("@monthly", &["01-01 00:00:00", "02-01 00:00:00"]);
    check("@yearly", &["01-01 00:00:00"]);
    check("@annually", &["01-01 00:00:00"]);
}

#[track_caller]
fn refused(cron: &str, expected: &str) {
    let error = Cron::parse(cron).unwrap_err().to_string();
    assert!(error.contains(expected), "`{expected}` is not in: {error}");
}

#[test]
fn a_mistake_says_which_field_and_what_to_write() {
    refused(
        "30 2 * *",
        "`30 2 * *` has 4 fields, not 5 or 6; write minute, hour",
    );
    refused("0 30 2 * * * 2026", "has 7 fields");
    refused("", "has 0 fields");
    refused("61 * * * *", "`61` is no minute; write 0-59");
    refused("0 24 * * *", "`24` is no hour");
    refused("0 0 0 * *", "`0` is no day of the month");
    refused("0 0 * 13 *", "`13` is no month; write 1-12 or JAN-DEC");
    refused(
        "0 0 * * 8",
        "`8` is no day of the week; write 0-7 or SUN-SAT",
    );
    refused("0 0 * * monday", "`monday` is no day of the week");
    refused("0 0 L * *", "`L` is no day of the month");
    refused("0 0 * * fri#2", "`fri#2` is no day of the week");
    refused("*/0 * * * *", "`*/0` of the minute has no good step");
    refused("*/90 * * * *", "has no good step");
    refused(
        "50-10 * * * *",
        "`50-10` of the minute runs backwards; write `10-50`",
    );
    refused("0 ? * * *", "`?` stands for no hour");
    refused("1,,2 * * * *", "`` is no minute");
    refused("-5 * * * *", "is no minute");
    refused("@reboot", "`@reboot` is no shorthand; use `@hourly`");
    refused(
        "0 0 30 2 *",
        "`0 0 30 2 *` never comes; no month it names has such a day",
    );
    refused("0 0 31 4,6,9,11 *", "never comes");
}

#[test]
fn every_mistake_of_a_schedule_is_told_at_once() {
    let wrong = Spec {
        name: "a b".into(),
        workflow: String::new(),
        subject: Subject(" x".into()),
        input: serde_json::json!({"schedule": 1}),
        jitter: Span::parse("25h").unwrap(),
        catch_up: Span::from_s(9),
        ..spec("* *", "Mars/Olympus")
    };
    let mistakes = Schedule::new(wrong).unwrap_err();
    let fields: Vec<&str> = mistakes.0.iter().map(|mistake| mistake.field).collect();
    assert_eq!(
        fields,
        [
            "name", "workflow", "subject", "input", "catch_up", "jitter", "zone", "cron"
        ]
    );
    for input in [serde_json::json!([1]), serde_json::json!({"a": ["\u{0}"]})] {
        let wrong = Spec {
            input,
            ..spec("@daily", "UTC")
        };
        assert!(Schedule::new(wrong).is_err());
    }
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_fall_over(text in ".{0,40}", fields in proptest::collection::vec("[0-9*?/,a-z-]{1,6}", 5..7)) {
        let _ = Cron::parse(&text);
        let _ = Cron::parse(&fields.join(" "));
    }
}
