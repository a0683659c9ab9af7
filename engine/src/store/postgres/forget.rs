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
), fewer AS (
    SELECT shard_id, workflow, state, count(*) AS cases FROM heads GROUP BY shard_id, workflow, state
), locked AS MATERIALIZED (
    -- In the order in which batches count, so that neither waits for the other.
    SELECT counted.shard_id, counted.workflow, counted.state, fewer.cases
      FROM case_closed_count AS counted
      JOIN fewer ON fewer.shard_id = counted.shard_id AND fewer.workflow = counted.workflow
       AND fewer.state = counted.state
     ORDER BY counted.shard_id, counted.workflow, counted.state
       FOR UPDATE OF counted
), uncounted AS (
    UPDATE case_closed_count AS counted
       SET cases = counted.cases - locked.cases
      FROM locked
     WHERE counted.shard_id = locked.shard_id AND counted.workflow = locked.workflow
       AND counted.state = locked.state
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
