//! How far back a stream looks into the inbox.
//!
//! What was received before the last look that took everything was taken: the next need not walk over it. A database
//! that keeps deleted rows for somebody's old snapshot makes that walk longer and longer. What comes late all the same (a
//! transaction that took long, a clock that stands behind) is found by a look at the whole, now and then.

use std::time::Duration;

use chrono::TimeDelta;
use tokio::time::Instant;

use crate::core::Timestamp;
use crate::store::InboxRow;

/// How late a message may become visible, by the clock of whoever wrote it, and still be found at once.
const LATE_MS: i64 = 10_000;
/// How often the whole inbox is looked at, at most, and what part of the time that may take.
const WHOLE: Duration = Duration::from_secs(2);
const WHOLE_PART: u32 = 50;

pub(super) struct Look {
    /// Everything received before was taken, as far as it could be seen.
    since: Option<Timestamp>,
    whole_at: Instant,
}

/// A look that has begun.
pub(super) struct Begun {
    pub since: Option<Timestamp>,
    at: Timestamp,
    started: Instant,
}

impl Look {
    pub fn new() -> Self {
        Self {
            since: None,
            whole_at: Instant::now(),
        }
    }

    /// The next one looks at the whole.
    pub fn at_all(&mut self) {
        self.whole_at = Instant::now();
    }

    /// What was taken may be there again.
    pub fn forget(&mut self) {
        self.since = None;
    }

    pub fn begin(&self, at: Timestamp) -> Begun {
        let started = Instant::now();
        let bounded = started < self.whole_at;
        Begun {
            since: self.since.filter(|_| bounded),
            at,
            started,
        }
    }

    /// What a look found, and whether it left nothing.
    pub fn end(&mut self, begun: &Begun, rows: &[InboxRow], took_all: bool) {
        if begun.since.is_none() {
            let now = Instant::now();
            let took = now.duration_since(begun.started);
            self.whole_at = now + WHOLE.max(took * WHOLE_PART);
            let is_late = |since| rows.iter().any(|row| row.received_at < since);
            if self.since.is_some_and(is_late) {
                self.since = None;
            }
        }
        if took_all {
            self.since = Some(begun.at - TimeDelta::milliseconds(LATE_MS));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use uuid::Uuid;

    use super::*;
    use crate::core::definition::Lane;
    use crate::core::id::ShardId;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_timestamp(seconds, 0).unwrap()
    }

    fn received(seconds: i64) -> InboxRow {
        InboxRow {
            shard: ShardId(1),
            id: Uuid::nil(),
            received_at: at(seconds),
            lane: Lane::Normal,
            body: String::new(),
        }
    }

    fn look(look: &mut Look, now: i64, rows: &[InboxRow], took_all: bool) -> Option<Timestamp> {
        let begun = look.begin(at(now));
        look.end(&begun, rows, took_all);
        begun.since
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_taken_is_not_walked_over_again() {
        let mut inbox = Look::new();
        assert_eq!(look(&mut inbox, 100, &[received(99)], false), None);
        assert_eq!(look(&mut inbox, 100, &[], true), None, "more was left");
        assert_eq!(look(&mut inbox, 101, &[], true), Some(at(90)));
        assert_eq!(look(&mut inbox, 102, &[received(101)], false), Some(at(91)));
        assert_eq!(
            look(&mut inbox, 103, &[], true),
            Some(at(91)),
            "what the last one left is still to come"
        );
        inbox.at_all();
        assert_eq!(look(&mut inbox, 104, &[received(103)], false), None);
        assert!(
            look(&mut inbox, 104, &[], true).is_some(),
            "nothing is older"
        );
        inbox.forget();
        assert_eq!(look(&mut inbox, 105, &[], true), None);
    }

    #[tokio::test(start_paused = true)]
    async fn now_and_then_the_whole_is_looked_at() {
        let mut inbox = Look::new();
        look(&mut inbox, 100, &[], true);
        tokio::time::advance(Duration::from_millis(1_999)).await;
        assert!(look(&mut inbox, 101, &[], true).is_some());
        tokio::time::advance(Duration::from_millis(1)).await;
        let begun = inbox.begin(at(102));
        assert_eq!(begun.since, None);
        tokio::time::advance(Duration::from_millis(100)).await;
        inbox.end(&begun, &[], true);
        tokio::time::advance(Duration::from_millis(4_999)).await;
        assert!(look(&mut inbox, 107, &[], true).is_some(), "it took long");
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(look(&mut inbox, 107, &[], true).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_late_is_taken_to_its_end() {
        let mut inbox = Look::new();
        look(&mut inbox, 100, &[], true);
        tokio::time::advance(WHOLE).await;
        assert_eq!(look(&mut inbox, 102, &[received(50)], false), None);
        assert_eq!(look(&mut inbox, 102, &[received(51)], false), None);
        assert_eq!(look(&mut inbox, 102, &[], true), None);
        assert_eq!(look(&mut inbox, 103, &[], true), Some(at(92)));
    }
}
