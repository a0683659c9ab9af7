//! What is rare and off the hot path: holding a case, ending one that is not read, and what waits for people.

use sqlx::PgPool;
use sqlx::postgres::PgConnection;

use crate::core::id::{CaseId, ShardId};
use crate::store::batch::{self, parked_columns, pause_columns};
use crate::store::decode::{Reader, all};
use crate::store::failure::from_driver;
use crate::store::rows::stored_time;
use crate::store::{
    Bones, GenerationRow, PAGE_ROWS_MAX, ParkedRow, PauseRow, StoreError, Termination,
};

use super::PostgresStore;

const UNPAUSE: &str = "
DELETE FROM case_pause
 USING unnest($1::integer[], $2::uuid[]) AS gone (shard_id, case_id)
 WHERE case_pause.shard_id = gone.shard_id AND case_pause.case_id = gone.case_id";

const PAUSE: &str = "
INSERT INTO case_pause (shard_id, case_id, at, body)
SELECT * FROM unnest($1::integer[], $2::uuid[], $3::timestamptz[], $4::text[])";

/// Reads no text that a program has to understand.
const BONES: &str = "
SELECT head.shard_id, head.case_id, head.subject, head.workflow, head.definition, head.generation, head.salt,
       head.effective_at, head.received_at, head.created_at, state.closed_at IS NOT NULL AS closed,
       greatest(state.version,
                (SELECT max(history.version) FROM case_history AS history
                  WHERE history.shard_id = head.shard_id AND history.case_id = head.case_id),
                0) AS version
  FROM case_head AS head
  JOIN case_state AS state ON state.shard_id = head.shard_id AND state.case_id = head.case_id
 WHERE head.shard_id = $1 AND head.case_id = $2";

/// Taking the shard over must update this row, so it waits until the end is written.
const FENCE: &str = "SELECT 1 FROM shard WHERE shard_id = $1 AND epoch = $2 FOR SHARE";

const END_STATE: &str = "
UPDATE case_state
   SET version = $3, state = 'cancelled', ending = 'cancelled', in_flight = 0, parked = 0, closed_at = $4,
       changed_at = $4
 WHERE shard_id = $1 AND case_id = $2 AND closed_at IS NULL";

/// Counts it, as a batch that closes a case does.
const END_OPEN: &str = "
WITH closed AS (
    DELETE FROM case_open WHERE shard_id = $1 AND case_id = $2
    RETURNING shard_id, workflow
)
INSERT INTO case_closed_part (shard_id, part, workflow, state, cases)
SELECT closed.shard_id, gen_random_uuid(), closed.workflow, 'cancelled', 1 FROM closed";
const END_PAUSE: &str = "DELETE FROM case_pause WHERE shard_id = $1 AND case_id = $2";
/// Walks the timers of one shard: no index leads from a case to its timers, and this is rare.
const END_TIMERS: &str = "DELETE FROM case_timer WHERE shard_id = $1 AND case_id = $2";

/// Only the name that lists read; the body may be what cannot be read.
const END_STEPS: &str = "
UPDATE case_step
   SET state = CASE state WHEN 'running' THEN 'unknown' ELSE 'cancelled' END, changed_at = $3
 WHERE shard_id = $1 AND case_id = $2
   AND state IN ('running', 'waiting', 'asking', 'parked', 'delayed', 'planning', 'stuck')";

const END_HISTORY: &str = "
INSERT INTO case_history (shard_id, case_id, version, at, input, actor, events)
VALUES ($1, $2, $3, $4, $5, $6, $7)";

const END_EVIDENCE: &str = "
INSERT INTO evidence (shard_id, case_id, version, at, leaf)
VALUES ($1, $2, $3, $4, $5)";

/// Part of the transaction of a batch.
pub(super) async fn pause(
    connection: &mut PgConnection,
    rows: &[PauseRow],
) -> Result<(), StoreError> {
    let shards: Vec<i32> = rows.iter().map(|row| row.shard.0).collect();
    let cases: Vec<uuid::Uuid> = rows.iter().map(|row| row.case.0).collect();
    sqlx::query(UNPAUSE)
        .bind(shards)
        .bind(cases)
        .execute(&mut *connection)
        .await
        .map_err(from_driver)?;
    let held: Vec<_> = rows
        .iter()
        .filter_map(|row| Some((row, pause_columns(row)?)))
        .collect();
    let shards: Vec<i32> = held.iter().map(|(row, _)| row.shard.0).collect();
    let cases: Vec<uuid::Uuid> = held.iter().map(|(row, _)| row.case.0).collect();
    let times: Vec<_> = held.iter().map(|(_, (at, _))| stored_time(*at)).collect();
    let bodies: Vec<&str> = held.iter().map(|(_, (_, body))| body.as_str()).collect();
    sqlx::query(PAUSE)
        .bind(shards)
        .bind(cases)
        .bind(times)
        .bind(bodies)
        .execute(&mut *connection)
        .await
        .map_err(from_driver)?;
    Ok(())
}

/// Few cases are open, fewer are parked: those are looked at, whatever else there is.
const PARKED: &str = "
SELECT work.shard_id, work.case_id, work.step, work.instance, work.at
  FROM (
    SELECT step.shard_id, step.case_id, step.step, step.instance, step.changed_at AS at
      FROM case_open AS open
      JOIN case_state AS state
        ON state.shard_id = open.shard_id AND state.case_id = open.case_id AND state.parked > 0
      JOIN case_step AS step
        ON step.shard_id = open.shard_id AND step.case_id = open.case_id AND step.state IN ('parked', 'stuck')
     UNION ALL
    SELECT pause.shard_id, pause.case_id, -1, -1, pause.at
      FROM case_pause AS pause
  ) AS work
 WHERE $1::timestamptz IS NULL
    OR (work.at, work.case_id, work.step, work.instance) > ($1, $2::uuid, $3::integer, $4::integer)
 ORDER BY work.at, work.case_id, work.step, work.instance
 LIMIT $5";

pub(super) async fn parked(
    pool: &PgPool,
    after: Option<ParkedRow>,
    limit: u32,
) -> Result<Vec<ParkedRow>, StoreError> {
    let (step, instance) = after.map_or((-1, -1), |after| parked_columns(&after));
    let rows = sqlx::query(PARKED)
        .bind(after.map(|after| stored_time(after.at)))
        .bind(after.map_or(uuid::Uuid::nil(), |after| after.case.0))
        .bind(step)
        .bind(instance)
        .bind(i64::from(limit.min(PAGE_ROWS_MAX)))
        .fetch_all(pool)
        .await
        .map_err(from_driver)?;
    all("case_step", &rows, Reader::parked)
}

/// A life never goes back.
const BEGIN_LIVES: &str = "
INSERT INTO subject_generation (shard_id, subject, generation)
SELECT * FROM unnest($1::integer[], $2::text[], $3::bigint[])
ON CONFLICT (shard_id, subject) DO UPDATE
   SET generation = greatest(subject_generation.generation, excluded.generation)";

const GENERATIONS: &str = "
SELECT shard_id, subject, generation
  FROM subject_generation
 WHERE shard_id = ANY($1::integer[])";

/// Part of the transaction of a batch.
pub(super) async fn begin_lives(
    connection: &mut PgConnection,
    rows: &[GenerationRow],
) -> Result<(), StoreError> {
    let shards: Vec<i32> = rows.iter().map(|row| row.shard.0).collect();
    let subjects: Vec<&str> = rows.iter().map(|row| row.subject.0.as_str()).collect();
    let lives: Vec<i64> = rows.iter().map(|row| i64::from(row.generation)).collect();
    sqlx::query(BEGIN_LIVES)
        .bind(shards)
        .bind(subjects)
        .bind(lives)
        .execute(&mut *connection)
        .await
        .map_err(from_driver)?;
    Ok(())
}

pub(super) async fn generations(
    pool: &PgPool,
    shards: &[ShardId],
) -> Result<Vec<GenerationRow>, StoreError> {
    let shards: Vec<i32> = shards.iter().map(|shard| shard.0).collect();
    let rows = sqlx::query(GENERATIONS)
        .bind(shards)
        .fetch_all(pool)
        .await
        .map_err(from_driver)?;
    all("subject_generation", &rows, Reader::generation)
}

pub(super) async fn bones(
    pool: &PgPool,
    shard: ShardId,
    case: CaseId,
) -> Result<Option<Bones>, StoreError> {
    let row = sqlx::query(BONES)
        .bind(shard.0)
        .bind(case.0)
        .fetch_optional(pool)
        .await
        .map_err(from_driver)?;
    Ok(row.map(|row| Reader::new("case_head", &row).bones()))
}

pub(super) async fn terminate(store: &PostgresStore, end: &Termination) -> Result<(), StoreError> {
    let (shard, case, at) = (end.lease.shard.0, end.case.0, stored_time(end.at));
    let mut transaction = store.lanes.begin().await.map_err(from_driver)?;
    let ours = sqlx::query(FENCE)
        .bind(shard)
        .bind(end.lease.epoch.0)
        .fetch_optional(&mut *transaction)
        .await
        .map_err(from_driver)?;
    if ours.is_none() {
        return Err(StoreError::Fenced {
            shard: end.lease.shard,
        });
    }
    let ended = sqlx::query(END_STATE)
        .bind(shard)
        .bind(case)
        .bind(batch::version(end.version))
        .bind(at)
        .execute(&mut *transaction)
        .await
        .map_err(from_driver)?;
    if ended.rows_affected() != 1 {
        return Err(StoreError::Stale {
            case: end.case,
            version: end.version,
        });
    }
    for sql in [END_OPEN, END_PAUSE, END_TIMERS] {
        sqlx::query(sql)
            .bind(shard)
            .bind(case)
            .execute(&mut *transaction)
            .await
            .map_err(from_driver)?;
    }
    sqlx::query(END_STEPS)
        .bind(shard)
        .bind(case)
        .bind(at)
        .execute(&mut *transaction)
        .await
        .map_err(from_driver)?;
    sqlx::query(END_HISTORY)
        .bind(shard)
        .bind(case)
        .bind(batch::version(end.version))
        .bind(at)
        .bind(&end.history.input)
        .bind(&end.history.by)
        .bind(&end.history.events)
        .execute(&mut *transaction)
        .await
        .map_err(from_driver)?;
    sqlx::query(END_EVIDENCE)
        .bind(shard)
        .bind(case)
        .bind(batch::version(end.version))
        .bind(at)
        .bind(end.evidence.leaf.as_slice())
        .execute(&mut *transaction)
        .await
        .map_err(from_driver)?;
    transaction.commit().await.map_err(from_driver)
}
