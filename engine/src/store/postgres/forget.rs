//! Forgetting what is over: partitions of history and evidence as a whole, closed cases in small pieces.

use sqlx::Row;

use crate::core::Timestamp;
use crate::store::failure::from_driver;
use crate::store::rows::stored_time;
use crate::store::{Before, FORGET_CASES_MAX, Forgotten, StoreError};

use super::{PostgresStore, partitions};

/// Walks from the oldest case on and stops at the limit. It passes over cases made long ago and not closed long
/// ago, which are few. A case that was changed meanwhile is looked at again, and left if it is not closed any more.
const FORGET_CASES: &str = "
WITH gone AS MATERIALIZED (
    SELECT state.shard_id, state.case_id, state.state
      FROM case_head AS head
      JOIN case_state AS state ON state.shard_id = head.shard_id AND state.case_id = head.case_id
     WHERE head.created_at < $1 AND state.closed_at < $1
     ORDER BY head.created_at, head.case_id
     LIMIT $2
       FOR UPDATE OF state SKIP LOCKED
), steps AS (
    DELETE FROM case_step USING gone
     WHERE case_step.shard_id = gone.shard_id AND case_step.case_id = gone.case_id
), states AS (
    DELETE FROM case_state USING gone
     WHERE case_state.shard_id = gone.shard_id AND case_state.case_id = gone.case_id
), heads AS (
    DELETE FROM case_head USING gone
     WHERE case_head.shard_id = gone.shard_id AND case_head.case_id = gone.case_id
    RETURNING case_head.shard_id, case_head.workflow, gone.state
), uncounted AS (
    INSERT INTO case_closed_part (shard_id, part, workflow, state, cases)
    SELECT min(shard_id), gen_random_uuid(), workflow, state, -count(*) FROM heads GROUP BY workflow, state
)
SELECT count(*) AS cases FROM gone";

/// See [`Store::forget`](crate::store::Store::forget).
pub(super) async fn forget(
    store: &PostgresStore,
    before: &Before,
) -> Result<Forgotten, StoreError> {
    for (table, before) in [
        ("case_history", before.history),
        ("evidence", before.evidence),
    ] {
        if let Some(before) = before {
            let forgotten = partitions::forget(store, table, before).await?;
            if forgotten.more {
                return Ok(forgotten);
            }
        }
    }
    match before.closed_cases {
        Some(before) => forget_cases(store, before).await,
        None => Ok(Forgotten::default()),
    }
}

async fn forget_cases(store: &PostgresStore, before: Timestamp) -> Result<Forgotten, StoreError> {
    let row = sqlx::query(FORGET_CASES)
        .bind(stored_time(before))
        .bind(i64::from(FORGET_CASES_MAX))
        .fetch_one(&store.writers)
        .await
        .map_err(from_driver)?;
    let cases: i64 = row.try_get("cases").map_err(from_driver)?;
    Ok(Forgotten {
        cases: u64::try_from(cases).unwrap_or(0),
        more: cases > 0,
        ..Forgotten::default()
    })
}
