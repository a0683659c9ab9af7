//! What is rare and off the hot path: holding a case, ending one that is not read, and what waits for people.

use sqlx::sqlite::{SqliteConnection, SqlitePool};

use crate::core::id::{CaseId, ShardId};
use crate::store::batch::{self, parked_columns, pause_columns};
use crate::store::decode::{Reader, all};
use crate::store::failure::from_driver;
use crate::store::rows::stored_time;
use crate::store::{
    Bones, GenerationRow, PAGE_ROWS_MAX, ParkedRow, PauseRow, StoreError, Termination,
};

use super::leases;
use super::writer::Writer;

const UNPAUSE: &str = "DELETE FROM case_pause WHERE shard_id = ?1 AND case_id = ?2";
const PAUSE: &str = "INSERT INTO case_pause (shard_id, case_id, at, body) VALUES (?1, ?2, ?3, ?4)";

/// Reads no text that a program has to understand.
const BONES: &str = "
SELECT head.shard_id, head.case_id, head.subject, head.workflow, head.definition, head.generation, head.salt,
       head.effective_at, head.received_at, head.created_at, state.closed_at IS NOT NULL AS closed,
       max(state.version,
           coalesce((SELECT max(history.version) FROM case_history AS history
                      WHERE history.case_number = head.case_number), 0)) AS version
  FROM case_head AS head
  JOIN case_state AS state ON state.case_number = head.case_number
 WHERE head.shard_id = ?1 AND head.case_id = ?2";

/// The case's number, in the statements below.
macro_rules! number {
    () => {
        "(SELECT case_number FROM case_head WHERE shard_id = ?1 AND case_id = ?2)"
    };
}

const END_STATE: &str = concat!(
    "
UPDATE case_state
   SET version = ?3, state = 'cancelled', ending = 'cancelled', in_flight = 0, parked = 0, closed_at = ?4,
       changed_at = ?4
 WHERE closed_at IS NULL AND case_number = ",
    number!()
);

/// Counts it, as a batch that closes a case does.
const END_COUNT: &str = "
INSERT INTO case_closed_count (shard_id, workflow, state, cases)
SELECT shard_id, workflow, 'cancelled', 1 FROM case_open WHERE shard_id = ?1 AND case_id = ?2
ON CONFLICT (shard_id, workflow, state) DO UPDATE SET cases = cases + 1";
const END_OPEN: &str = "DELETE FROM case_open WHERE shard_id = ?1 AND case_id = ?2";
/// Walks the timers: no index leads from a case to its timers, and this is rare.
const END_TIMERS: &str = "DELETE FROM case_timer WHERE shard_id = ?1 AND case_id = ?2";

/// Only the name that lists read; the body may be what cannot be read.
const END_STEPS: &str = concat!(
    "
UPDATE case_step
   SET state = CASE state WHEN 'running' THEN 'unknown' ELSE 'cancelled' END, changed_at = ?3
 WHERE state IN ('running', 'waiting', 'asking', 'parked', 'delayed', 'planning', 'stuck')
   AND case_number = ",
    number!()
);

const END_HISTORY: &str = concat!(
    "
INSERT INTO case_history (case_number, version, at, input, actor, events)
VALUES (",
    number!(),
    ", ?3, ?4, ?5, ?6, ?7)"
);

const END_EVIDENCE: &str = concat!(
    "
INSERT INTO evidence (case_number, version, at, leaf)
VALUES (",
    number!(),
    ", ?3, ?4, ?5)"
);

/// Part of the transaction of a batch.
pub(super) async fn pause(
    connection: &mut SqliteConnection,
    rows: &[PauseRow],
) -> Result<(), StoreError> {
    for row in rows {
        sqlx::query(UNPAUSE)
            .bind(row.shard.0)
            .bind(row.case.0)
            .execute(&mut *connection)
            .await
            .map_err(from_driver)?;
        if let Some((at, body)) = pause_columns(row) {
            sqlx::query(PAUSE)
                .bind(row.shard.0)
                .bind(row.case.0)
                .bind(stored_time(at).timestamp_micros())
                .bind(body)
                .execute(&mut *connection)
                .await
                .map_err(from_driver)?;
        }
    }
    Ok(())
}

/// Few cases are open, fewer are parked: those are looked at, whatever else there is.
const PARKED: &str = "
SELECT work.shard_id, work.case_id, work.step, work.instance, work.at
  FROM (
    SELECT open.shard_id, open.case_id, step.step, step.instance, step.changed_at AS at
      FROM case_open AS open
      JOIN case_state AS state ON state.case_number = open.case_number AND state.parked > 0
      JOIN case_step AS step ON step.case_number = open.case_number AND step.state IN ('parked', 'stuck')
     UNION ALL
    SELECT pause.shard_id, pause.case_id, -1, -1, pause.at
      FROM case_pause AS pause
  ) AS work
 WHERE ?1 IS NULL OR (work.at, work.case_id, work.step, work.instance) > (?1, ?2, ?3, ?4)
 ORDER BY work.at, work.case_id, work.step, work.instance
 LIMIT ?5";

pub(super) async fn parked(
    pool: &SqlitePool,
    after: Option<ParkedRow>,
    limit: u32,
) -> Result<Vec<ParkedRow>, StoreError> {
    let (step, instance) = after.map_or((-1, -1), |after| parked_columns(&after));
    let rows = sqlx::query(PARKED)
        .bind(after.map(|after| stored_time(after.at).timestamp_micros()))
        .bind(after.map_or(uuid::Uuid::nil(), |after| after.case.0))
        .bind(step)
        .bind(instance)
        .bind(limit.min(PAGE_ROWS_MAX))
        .fetch_all(pool)
        .await
        .map_err(from_driver)?;
    all("case_step", &rows, Reader::parked)
}

/// A life never goes back.
const BEGIN_LIFE: &str = "
INSERT INTO subject_generation (shard_id, subject, generation)
VALUES (?1, ?2, ?3)
ON CONFLICT (shard_id, subject) DO UPDATE
   SET generation = max(generation, excluded.generation)";

const GENERATIONS: &str = "
SELECT shard_id, subject, generation
  FROM subject_generation
 WHERE shard_id IN (SELECT value FROM json_each(?1))";

/// Part of the transaction of a batch.
pub(super) async fn begin_lives(
    connection: &mut SqliteConnection,
    rows: &[GenerationRow],
) -> Result<(), StoreError> {
    for row in rows {
        sqlx::query(BEGIN_LIFE)
            .bind(row.shard.0)
            .bind(row.subject.0.clone())
            .bind(row.generation)
            .execute(&mut *connection)
            .await
            .map_err(from_driver)?;
    }
    Ok(())
}

pub(super) async fn generations(
    pool: &SqlitePool,
    shards: &[ShardId],
) -> Result<Vec<GenerationRow>, StoreError> {
    let rows = sqlx::query(GENERATIONS)
        .bind(super::read::numbers(shards))
        .fetch_all(pool)
        .await
        .map_err(from_driver)?;
    all("subject_generation", &rows, Reader::generation)
}

pub(super) async fn bones(
    pool: &SqlitePool,
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

pub(super) async fn terminate(writer: &Writer, end: &Termination) -> Result<(), StoreError> {
    let mut transaction = writer.begin().await?;
    let ended = write(transaction.connection(), end).await;
    match ended {
        Ok(()) => transaction.commit().await,
        Err(error) => transaction.end(Err(error)).await,
    }
}

async fn write(connection: &mut SqliteConnection, end: &Termination) -> Result<(), StoreError> {
    if let Some(shard) = leases::lost(connection, &[end.lease]).await? {
        return Err(StoreError::Fenced { shard });
    }
    let (shard, case) = (end.lease.shard.0, end.case.0);
    let at = stored_time(end.at).timestamp_micros();
    let version = batch::version(end.version);
    let ended = sqlx::query(END_STATE)
        .bind(shard)
        .bind(case)
        .bind(version)
        .bind(at)
        .execute(&mut *connection)
        .await
        .map_err(from_driver)?;
    if ended.rows_affected() != 1 {
        return Err(StoreError::Stale {
            case: end.case,
            version: end.version,
        });
    }
    for sql in [END_COUNT, END_OPEN, UNPAUSE, END_TIMERS] {
        sqlx::query(sql)
            .bind(shard)
            .bind(case)
            .execute(&mut *connection)
            .await
            .map_err(from_driver)?;
    }
    sqlx::query(END_STEPS)
        .bind(shard)
        .bind(case)
        .bind(at)
        .execute(&mut *connection)
        .await
        .map_err(from_driver)?;
    sqlx::query(END_HISTORY)
        .bind(shard)
        .bind(case)
        .bind(version)
        .bind(at)
        .bind(end.history.input.clone())
        .bind(end.history.by.clone())
        .bind(end.history.events.clone())
        .execute(&mut *connection)
        .await
        .map_err(from_driver)?;
    sqlx::query(END_EVIDENCE)
        .bind(shard)
        .bind(case)
        .bind(version)
        .bind(at)
        .bind(end.evidence.leaf.clone())
        .execute(&mut *connection)
        .await
        .map_err(from_driver)?;
    Ok(())
}
