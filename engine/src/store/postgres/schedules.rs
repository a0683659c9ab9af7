//! Schedules: a transaction of a few statements, fenced like a batch of cases.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::core::Timestamp;
use crate::core::case::CaseState;
use crate::core::id::{CaseId, ShardId};
use crate::store::batch::version;
use crate::store::decode::{Reader, all};
use crate::store::failure::from_driver;
use crate::store::rows::stored_time;
use crate::store::schedules::found;
use crate::store::{
    ScheduleBatch, ScheduleChangeRow, ScheduleRow, ScheduleRunRow, ScheduleStore, ShardLease,
    Started, StoreError, Whereabouts,
};

use super::{PostgresStore, inbox, leases};

/// Locks as a commit does: a takeover waits for this transaction, and one that comes after it finds another epoch.
const FENCE: &str = "
SELECT shard.shard_id
  FROM unnest($1::integer[], $2::bigint[]) AS lease (shard_id, epoch)
  JOIN shard ON shard.shard_id = lease.shard_id AND shard.epoch = lease.epoch
 ORDER BY shard.shard_id
   FOR SHARE OF shard";

const MAKE: &str = "
INSERT INTO schedule (shard_id, name, version, changed_at, next_due_at, last_fire_at, paused, removed, state)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT DO NOTHING";

const MOVE: &str = "
UPDATE schedule
   SET version = $3, changed_at = $4, next_due_at = $5, last_fire_at = $6, paused = $7, removed = $8, state = $9
 WHERE shard_id = $1 AND name = $2 AND version = $10";

const RUNS_PUT: &str = "
INSERT INTO schedule_run (shard_id, schedule, fire_at, by_hand, due_at, decided_at, case_id, cause, outcome,
                          initiator, reason)
SELECT *
  FROM unnest($1::integer[], $2::text[], $3::timestamptz[], $4::boolean[], $5::timestamptz[], $6::timestamptz[],
              $7::uuid[], $8::text[], $9::text[], $10::text[], $11::text[])
ON CONFLICT (shard_id, schedule, fire_at, by_hand) DO UPDATE
   SET due_at = excluded.due_at, decided_at = excluded.decided_at, case_id = excluded.case_id,
       cause = excluded.cause, outcome = excluded.outcome, initiator = excluded.initiator, reason = excluded.reason";

const CHANGES_PUT: &str = "
INSERT INTO schedule_change (shard_id, schedule, version, at, actor, operation, reason, detail, leaf)
SELECT *
  FROM unnest($1::integer[], $2::text[], $3::bigint[], $4::timestamptz[], $5::text[], $6::text[], $7::text[],
              $8::text[], $9::bytea[])";

const INBOX_DONE: &str = "
DELETE FROM inbox
 USING unnest($1::integer[], $2::uuid[]) AS gone (shard_id, id)
 CROSS JOIN LATERAL (
    SELECT message.ctid AS place
      FROM inbox AS message
     WHERE message.shard_id = gone.shard_id AND message.id >= gone.id AND message.id <= gone.id
     ORDER BY message.id
    OFFSET 0
 ) AS found
 WHERE inbox.ctid = found.place";

/// The first answer to a message stays.
const REPLIES_PUT: &str = "
INSERT INTO inbox_reply (shard_id, id, at, accepted, message)
SELECT * FROM unnest($1::integer[], $2::uuid[], $3::timestamptz[], $4::boolean[], $5::text[])
ON CONFLICT DO NOTHING";

const SCHEDULES: &str = "
SELECT shard_id, name, version, changed_at, next_due_at, state
  FROM schedule
 WHERE $1::integer[] IS NULL OR shard_id = ANY($1)
 ORDER BY shard_id, name";

const RUNS: &str = "
SELECT shard_id, schedule, fire_at, by_hand, due_at, decided_at, case_id, cause, outcome, initiator, reason
  FROM schedule_run
 WHERE shard_id = $1 AND schedule = $2 AND ($3::timestamptz IS NULL OR fire_at >= $3)
   AND ($4::timestamptz IS NULL OR fire_at < $4)
 ORDER BY fire_at DESC, by_hand DESC
 LIMIT $5";

const LAST_RUNS: &str = "
SELECT run.*
  FROM unnest($1::integer[], $2::text[]) AS wanted (shard_id, schedule)
 CROSS JOIN LATERAL (
    SELECT shard_id, schedule, fire_at, by_hand, due_at, decided_at, case_id, cause, outcome, initiator, reason
      FROM schedule_run
     WHERE schedule_run.shard_id = wanted.shard_id AND schedule_run.schedule = wanted.schedule
     ORDER BY fire_at DESC, by_hand DESC
     LIMIT 1
 ) AS run";

const CHANGES: &str = "
SELECT shard_id, schedule, version, at, actor, operation, reason, detail, leaf
  FROM schedule_change
 WHERE shard_id = $1 AND schedule = $2
 ORDER BY version DESC
 LIMIT $3";

const WAITING: &str = "
SELECT inbox.id
  FROM unnest($1::integer[], $2::uuid[]) AS wanted (shard_id, id)
  JOIN inbox ON inbox.shard_id = wanted.shard_id AND inbox.id = wanted.id";

const STATES: &str = "
SELECT case_state.case_id, case_state.state
  FROM unnest($1::integer[], $2::uuid[]) AS wanted (shard_id, case_id)
  JOIN case_state ON case_state.shard_id = wanted.shard_id AND case_state.case_id = wanted.case_id";

const REPLIES: &str = "
SELECT inbox_reply.id, inbox_reply.message
  FROM unnest($1::integer[], $2::uuid[]) AS wanted (shard_id, id)
  JOIN inbox_reply ON inbox_reply.shard_id = wanted.shard_id AND inbox_reply.id = wanted.id";

const FORGET_RUNS: &str = "
DELETE FROM schedule_run
 USING (
    SELECT shard_id, schedule, fire_at, by_hand,
           row_number() OVER (PARTITION BY shard_id, schedule ORDER BY fire_at DESC, by_hand DESC) AS place
      FROM schedule_run
     WHERE shard_id = ANY($1)
  ) AS old
 WHERE old.place > $2
   AND schedule_run.shard_id = old.shard_id AND schedule_run.schedule = old.schedule
   AND schedule_run.fire_at = old.fire_at AND schedule_run.by_hand = old.by_hand";

#[async_trait]
impl ScheduleStore for PostgresStore {
    async fn of_shards(&self, shards: Option<&[ShardId]>) -> Result<Vec<ScheduleRow>, StoreError> {
        let rows = sqlx::query(SCHEDULES)
            .bind(shards.map(|shards| column(shards, |shard| shard.0)))
            .fetch_all(&self.readers)
            .await
            .map_err(from_driver)?;
        all("schedule", &rows, Reader::schedule)
    }

    async fn commit(&self, batch: &ScheduleBatch) -> Result<(), StoreError> {
        batch.check()?;
        let mut transaction = self.begin().await?;
        fence(&mut transaction, &batch.leases).await?;
        for row in &batch.schedules {
            put(&mut transaction, row).await?;
        }
        put_runs(&mut transaction, &batch.runs).await?;
        put_changes(&mut transaction, &batch.changes).await?;
        inbox::insert(&mut transaction, &batch.messages).await?;
        answer(&mut transaction, batch).await?;
        transaction.commit().await.map_err(from_driver)?;
        self.hints.inbox(batch.messages.iter().map(|row| row.shard));
        Ok(())
    }

    async fn runs(
        &self,
        shard: ShardId,
        schedule: &str,
        from: Option<Timestamp>,
        before: Option<Timestamp>,
        limit: u32,
    ) -> Result<Vec<ScheduleRunRow>, StoreError> {
        let rows = sqlx::query(RUNS)
            .bind(shard.0)
            .bind(schedule)
            .bind(from.map(stored_time))
            .bind(before.map(stored_time))
            .bind(i64::from(limit))
            .fetch_all(&self.readers)
            .await
            .map_err(from_driver)?;
        all("schedule_run", &rows, Reader::schedule_run)
    }

    async fn last_runs(
        &self,
        schedules: &[(ShardId, String)],
    ) -> Result<Vec<ScheduleRunRow>, StoreError> {
        let rows = sqlx::query(LAST_RUNS)
            .bind(column(schedules, |(shard, _)| shard.0))
            .bind(column(schedules, |(_, name)| name.as_str()))
            .fetch_all(&self.readers)
            .await
            .map_err(from_driver)?;
        all("schedule_run", &rows, Reader::schedule_run)
    }

    async fn changes(
        &self,
        shard: ShardId,
        schedule: &str,
        limit: u32,
    ) -> Result<Vec<ScheduleChangeRow>, StoreError> {
        let rows = sqlx::query(CHANGES)
            .bind(shard.0)
            .bind(schedule)
            .bind(i64::from(limit))
            .fetch_all(&self.readers)
            .await
            .map_err(from_driver)?;
        all("schedule_change", &rows, Reader::schedule_change)
    }

    async fn whereabouts(
        &self,
        started: &[Started],
    ) -> Result<BTreeMap<CaseId, Whereabouts>, StoreError> {
        if started.is_empty() {
            return Ok(BTreeMap::new());
        }
        let shards = || column(started, |one| one.shard.0);
        let messages = || column(started, |one| one.message);
        let look = async |sql: &'static str, ids: Vec<Uuid>| {
            sqlx::query(sql)
                .bind(shards())
                .bind(ids)
                .fetch_all(&self.readers)
                .await
                .map_err(from_driver)
        };
        let waiting = look(WAITING, messages()).await?;
        let states = look(STATES, column(started, |one| one.case.0)).await?;
        let replies = look(REPLIES, messages()).await?;
        let waiting: BTreeSet<Uuid> = all("inbox", &waiting, |row| row.id("id"))?
            .into_iter()
            .collect();
        let states: BTreeMap<CaseId, CaseState> = all("case_state", &states, |row| {
            Ok((row.case()?, row.state_name()?))
        })?
        .into_iter()
        .collect();
        let replies: BTreeMap<Uuid, String> = all("inbox_reply", &replies, |row| {
            Ok((row.id("id")?, row.text("message")?))
        })?
        .into_iter()
        .collect();
        Ok(found(started, &waiting, &states, &replies))
    }

    async fn forget_runs(&self, shards: &[ShardId], keep: u32) -> Result<(), StoreError> {
        sqlx::query(FORGET_RUNS)
            .bind(column(shards, |shard| shard.0))
            .bind(i64::from(keep))
            .execute(&self.writers)
            .await
            .map_err(from_driver)?;
        Ok(())
    }
}

async fn fence(connection: &mut PgConnection, held: &[ShardLease]) -> Result<(), StoreError> {
    let (shards, epochs) = leases::columns(held);
    let rows = sqlx::query(FENCE)
        .bind(shards)
        .bind(epochs)
        .fetch_all(connection)
        .await
        .map_err(from_driver)?;
    let found: BTreeSet<ShardId> = all("shard", &rows, Reader::shard)?.into_iter().collect();
    match held.iter().find(|lease| !found.contains(&lease.shard)) {
        Some(lost) => Err(StoreError::Fenced { shard: lost.shard }),
        None => Ok(()),
    }
}

async fn put(connection: &mut PgConnection, row: &ScheduleRow) -> Result<(), StoreError> {
    let sql = if row.from_version.is_some() {
        MOVE
    } else {
        MAKE
    };
    let mut query = sqlx::query(sql)
        .bind(row.shard.0)
        .bind(row.name())
        .bind(version(row.state.version))
        .bind(stored_time(row.changed_at))
        .bind(row.next_due_at.map(stored_time))
        .bind(row.last_fire_at().map(stored_time))
        .bind(row.state.is_paused())
        .bind(row.state.removed)
        .bind(row.body()?);
    if let Some(from) = row.from_version {
        query = query.bind(version(from));
    }
    let done = query.execute(connection).await.map_err(from_driver)?;
    if done.rows_affected() != 1 {
        return Err(row.stale());
    }
    Ok(())
}

async fn put_runs(
    connection: &mut PgConnection,
    rows: &[ScheduleRunRow],
) -> Result<(), StoreError> {
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(RUNS_PUT)
        .bind(column(rows, |row| row.shard.0))
        .bind(column(rows, |row| row.schedule.as_str()))
        .bind(column(rows, |row| stored_time(row.run.key.fire_at)))
        .bind(column(rows, |row| row.run.key.by_hand))
        .bind(column(rows, |row| stored_time(row.run.due_at)))
        .bind(column(rows, |row| stored_time(row.run.decided_at)))
        .bind(column(rows, |row| row.run.case.map(|case| case.0)))
        .bind(column(rows, |row| row.run.cause.as_str()))
        .bind(column(rows, |row| row.run.outcome.as_str()))
        .bind(column(rows, |row| row.run.initiator.0.as_str()))
        .bind(column(rows, |row| row.run.reason.as_str()))
        .execute(connection)
        .await
        .map_err(from_driver)?;
    Ok(())
}

async fn put_changes(
    connection: &mut PgConnection,
    rows: &[ScheduleChangeRow],
) -> Result<(), StoreError> {
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(CHANGES_PUT)
        .bind(column(rows, |row| row.shard.0))
        .bind(column(rows, |row| row.schedule.as_str()))
        .bind(column(rows, |row| version(row.change.version)))
        .bind(column(rows, |row| stored_time(row.change.at)))
        .bind(column(rows, |row| row.change.by.0.as_str()))
        .bind(column(rows, |row| row.change.operation.as_str()))
        .bind(column(rows, |row| row.change.reason.as_str()))
        .bind(column(rows, |row| row.change.detail.as_str()))
        .bind(column(rows, |row| row.leaf.as_slice()))
        .execute(connection)
        .await
        .map_err(from_driver)?;
    Ok(())
}

async fn answer(connection: &mut PgConnection, batch: &ScheduleBatch) -> Result<(), StoreError> {
    if !batch.inbox_done.is_empty() {
        sqlx::query(INBOX_DONE)
            .bind(column(&batch.inbox_done, |(shard, _)| shard.0))
            .bind(column(&batch.inbox_done, |(_, id)| *id))
            .execute(&mut *connection)
            .await
            .map_err(from_driver)?;
    }
    if !batch.replies.is_empty() {
        let rows = &batch.replies;
        sqlx::query(REPLIES_PUT)
            .bind(column(rows, |row| row.shard.0))
            .bind(column(rows, |row| row.id))
            .bind(column(rows, |row| stored_time(row.at)))
            .bind(column(rows, |row| row.accepted))
            .bind(column(rows, |row| row.message.as_str()))
            .execute(connection)
            .await
            .map_err(from_driver)?;
    }
    Ok(())
}

fn column<'r, R, T>(rows: &'r [R], read: impl Fn(&'r R) -> T) -> Vec<T> {
    rows.iter().map(read).collect()
}
