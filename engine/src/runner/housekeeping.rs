//! What nobody waits for: room for the months ahead, and forgetting what is over.
//!
//! Every node runs this loop, and only the one that owns the first shard does the work. Two nodes that both believe
//! they do (a lease just changed hands) do no harm: the store lets one of them at a time change partitions, and
//! what is forgotten is chosen anew by each statement. It runs beside the lane, never in it.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::port::Clock;
use crate::core::Timestamp;
use crate::core::duration::Span;
use crate::store::{Before, Forgotten, Store, StoreError};

/// The first turn, soon after a start: a program that ran too long ago left no room for this month.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_secs(3_600);
/// How many turns pass between two looks at the months ahead.
const ROOM_TURNS: u32 = 24;
/// Between two pieces, so that the work of the lane comes first.
const PIECE_PAUSE: Duration = Duration::from_millis(100);
/// The most pieces of one turn; what is left is for the next.
const PIECES_MAX: u32 = 20_000;

/// How long what is over is kept. `None` is for ever.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retention {
    /// Transitions, from the moment each was recorded. Those of an open case stay however old they are.
    pub history: Option<Span>,
    pub evidence: Option<Span>,
    /// Closed cases with their steps, from the moment each closed.
    pub closed_cases: Option<Span>,
}

impl Retention {
    fn before(&self, now: Timestamp) -> Before {
        let since = |kept: Option<Span>| kept.and_then(|kept| now.checked_sub_signed(kept.delta()));
        Before {
            history: since(self.history),
            evidence: since(self.evidence),
            closed_cases: since(self.closed_cases),
        }
    }
}

/// The loop, before it is started.
pub struct Housekeeping {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    retention: Retention,
    /// The name under which this node owns shards.
    owner: String,
}

impl Housekeeping {
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        retention: Retention,
        owner: &str,
    ) -> Self {
        Self {
            store,
            clock,
            retention,
            owner: owner.to_owned(),
        }
    }

    /// Works until told to stop.
    pub async fn run(self, stop: CancellationToken) {
        let mut pause = FIRST_PAUSE;
        let mut turn = 0;
        while stop
            .run_until_cancelled(tokio::time::sleep(pause))
            .await
            .is_some()
        {
            pause = PAUSE;
            let done = stop.run_until_cancelled(self.turn(turn % ROOM_TURNS == 0));
            match done.await {
                None => return,
                // A node that has no shard yet is asked again soon, and has not had its turn.
                Some(Ok(None)) => pause = FIRST_PAUSE.saturating_mul(12),
                Some(Ok(Some(_))) => turn += 1,
                Some(Err(error)) => tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "what is over could not be forgotten just now"
                ),
            }
        }
    }

    /// One turn: `None` when another node does the work.
    ///
    /// # Errors
    /// When the database does not answer, or its tables are in use for too long. The next turn goes on.
    pub async fn turn(&self, make_room: bool) -> Result<Option<Forgotten>, StoreError> {
        let shards = self.store.shards().await?;
        let first = shards.iter().min_by_key(|row| row.shard);
        if first.and_then(|row| row.owner.as_deref()) != Some(&self.owner) {
            return Ok(None);
        }
        let now = self.clock.now();
        if make_room {
            self.store.make_room(now).await?;
        }
        let before = self.retention.before(now);
        let mut all = Forgotten::default();
        for _ in 0..PIECES_MAX {
            let piece = self.store.forget(&before).await?;
            all.partitions += piece.partitions;
            all.rows += piece.rows;
            all.cases += piece.cases;
            all.more = piece.more;
            if !piece.more {
                break;
            }
            tokio::time::sleep(PIECE_PAUSE).await;
        }
        if all != Forgotten::default() {
            tracing::info!(
                partitions = all.partitions,
                rows = all.rows,
                cases = all.cases,
                "what is over was forgotten"
            );
        }
        Ok(Some(all))
    }
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
    use crate::store::sqlite::SqliteStore;
    use crate::store::{Acquire, MIGRATIONS};

    struct Stopped(Timestamp);

    impl Clock for Stopped {
        fn now(&self) -> Timestamp {
            self.0
        }
    }

    #[tokio::test]
    async fn only_the_owner_of_the_first_shard_does_the_work() {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(
            SqliteStore::open(&folder.path().join("x.db"))
                .await
                .unwrap(),
        );
        store.migrate(MIGRATIONS, 4).await.unwrap();
        let wanted = Acquire {
            node: "one",
            lease_ms: 600_000,
            replaces: &[],
            holding: &[],
            shards_max: 4,
        };
        store.acquire(&wanted).await.unwrap();
        let clock = Arc::new(Stopped("2026-11-25T00:00:00Z".parse().unwrap()));
        let turn = async |owner: &str| {
            let store = Arc::clone(&store) as Arc<dyn Store>;
            let clock = Arc::clone(&clock) as Arc<dyn Clock>;
            let housekeeping = Housekeeping::new(store, clock, Retention::default(), owner);
            housekeeping.turn(true).await.unwrap()
        };
        assert_eq!(turn("two").await, None);
        assert_eq!(turn("one").await, Some(Forgotten::default()));
    }

    #[test]
    fn what_is_kept_for_ever_has_no_end() {
        let now: Timestamp = "2026-11-25T00:00:00Z".parse().unwrap();
        let retention = Retention {
            history: Some(Span::parse("400d").unwrap()),
            ..Retention::default()
        };
        let before = retention.before(now);
        assert_eq!(before.history, "2025-10-21T00:00:00Z".parse().ok());
        assert_eq!((before.evidence, before.closed_cases), (None, None));
    }
}
