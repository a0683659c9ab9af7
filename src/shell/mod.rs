//! From a configuration folder to a running node.

mod authorities;
pub mod bulk;
pub mod case_view;
pub mod database;
pub mod holds;
mod inventory;
pub mod moving;
pub mod node;
pub mod node_view;
pub mod notices;
pub mod parked;
pub mod pulls;
pub mod queries;
pub mod reading;
mod renewals;
pub mod rollouts;
pub mod rotations;
pub mod schedules;
pub mod search;
pub mod source_view;
pub mod transfer;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use chrono_tz::Tz;
use engine::runner::{Clock as _, SystemClock};
use workflows::sources::time::end_of_day;

pub use database::Database;
pub use node::Running;

/// A moment that a person names: a time with its zone, or a day, which is its last microsecond in UTC.
#[must_use]
pub fn moment(text: &str) -> Option<DateTime<Utc>> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Some(time.with_timezone(&Utc));
    }
    let day: NaiveDate = text.parse().ok()?;
    Some(end_of_day(day, Tz::UTC) - TimeDelta::microseconds(1))
}

/// The machine's clock, in whole microseconds: what both databases keep.
#[must_use]
pub fn now() -> DateTime<Utc> {
    SystemClock.now()
}
