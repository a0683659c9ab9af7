//! Schedules on invented time.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

mod deciding;
mod expressions;
mod firing;

use super::*;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn spec(cron: &str, zone: &str) -> Spec {
    Spec {
        name: "nightly".to_owned(),
        workflow: "review".to_owned(),
        cron: cron.to_owned(),
        zone: zone.to_owned(),
        subject: Subject("company".to_owned()),
        input: Value::Null,
        jitter: Span::from_ms(0),
        overlap: Overlap::Skip,
        catch_up: CATCH_UP_DEFAULT,
        paused: false,
        description: String::new(),
    }
}

fn schedule(cron: &str, zone: &str) -> Schedule {
    Schedule::new(spec(cron, zone)).unwrap()
}
