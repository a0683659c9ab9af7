//! From a configuration folder to a running node.

pub mod bulk;
pub mod case_view;
pub mod database;
pub mod moving;
pub mod node;
pub mod node_view;
pub mod parked;
pub mod queries;
pub mod reading;
pub mod schedules;
pub mod search;
pub mod source_view;
pub mod transfer;

use chrono::{DateTime, Utc};
use engine::runner::{Clock as _, SystemClock};

pub use database::Database;
pub use node::Running;

/// The machine's clock, in whole microseconds: what both databases keep.
#[must_use]
pub fn now() -> DateTime<Utc> {
    SystemClock.now()
}
