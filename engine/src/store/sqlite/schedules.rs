//! Schedules: a transaction of a few statements, fenced like a batch of cases.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
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
    ScheduleBatch, ScheduleChangeRow, ScheduleRow, ScheduleRunRow, ScheduleStore, Started,
    StoreError, Whereabouts,
};

use super::json::Rows;
use super::read::numbers;
use super::{SqliteStore, inbox, leases};

const MAKE: &str = "
INSERT INTO schedule (shard_id, name, version, changed_at, next_due_at, last_fire_at, paused, removed, state)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
ON CONFLICT DO NOTHING";

const MOVE: &str = "
UPDATE schedule
   SET version = ?3, changed_at = ?4, next_due_at = ?5, last_fire_at = ?6, paused = ?7, removed = ?8, state = ?9
 WHERE shard_id = ?1 AND name = ?2 AND version = ?10";

const RUNS_PUT: &str = "
INSERT INTO schedule_run (shard_id, schedule, fire_at, by_hand, due_at, decided_at, case_id, cause, outcome,
                          initiator, reason)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, unhex(value ->> 6),
       value ->> 7, value ->> 8, value ->> 9, value ->> 10
  FROM json_each(?1)
 WHERE true
ON CONFLICT (shard_id, schedule, fire_at, by_hand) DO UPDATE
   SET due_at = excluded.due_at, decided_at = excluded.decided_at, case_id = excluded.case_id,
       cause = excluded.cause, outcome = excluded.outcome, initiator = excluded.initiator, reason = excluded.reason";

const CHANGES_PUT: &str = "
INSERT INTO schedule_change (shard_id, schedule, version, at, actor, operation, reason, detail, leaf)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7,
       unhex(value ->> 8)
  FROM json_each(?1)";

const INBOX_DONE: &str = "
DELETE FROM inbox
 WHERE (shard_id, id) IN (SELECT value ->> 0, unhex(value ->> 1) FROM json_each(?1))";

/// The first answer to a message stays.
const REPLIES_PUT: &str = "
INSERT INTO inbox_reply (shard_id, id, at, accepted, message)
SELECT value ->> 0, unhex(value ->> 1), value ->> 2, value ->> 3, value ->> 4
  FROM json_each(?1)
 WHERE true
ON CONFLICT DO NOTHING";

const SCHEDULES: &str = "
SELECT shard_id, name, version, changed_at, next_due_at, state
  FROM schedule
 WHERE ?1 IS NULL OR shard_id IN (SELECT value FROM json_each(?1))
 ORDER BY shard_id, name";

const RUNS: &str = "
SELECT shard_id, schedule, fire_at, by_hand, due_at, decided_at, case_id, cause, outcome, initiator, reason
  FROM schedule_run
 WHERE shard_id = ?1 AND schedule = ?2 AND (?3 IS NULL OR fire_at >= ?3) AND (?4 IS NULL OR fire_at < ?4)
 ORDER BY fire_at DESC, by_hand DESC
 LIMIT ?5";

const LAST_RUNS: &str = "
SELECT shard_id, schedule, fire_at, by_hand, due_at, decided_at, case_id, cause, outcome, initiator, reason
  FROM (
    SELECT run.*, row_number() OVER (PARTITION BY run.shard_id, run.schedule
                                         ORDER BY run.fire_at DESC, run.by_hand DESC) AS place
      FROM json_each(?1) AS wanted
      JOIN schedule_run AS run ON run.shard_id = wanted.value ->> 0 AND run.schedule = wanted.value ->> 1
  )
 WHERE place = 1";

const CHANGES: &str = "
SELECT shard_id, schedule, version, at, actor, operation, reason, detail, leaf
  FROM schedule_change
 WHERE shard_id = ?1 AND schedule = ?2
 ORDER BY version DESC
 LIMIT ?3";

const WAITING: &str = "
SELECT inbox.id
  FROM json_each(?1) AS wanted
  JOIN inbox ON inbox.shard_id = wanted.value ->> 0 AND inbox.id = unhex(wanted.value ->> 1)";

const STATES: &str = "
SELECT head.case_id, state.state
  FROM json_each(?1) AS wanted
  JOIN case_head AS head ON head.shard_id = wanted.value ->> 0 AND head.case_id = unhex(wanted.value ->> 1)
  JOIN case_state AS state ON state.case_number = head.case_number";

const REPLIES: &str = "
SELECT reply.id, reply.message
  FROM json_each(?1) AS wanted
  JOIN inbox_reply AS reply ON reply.shard_id = wanted.value ->> 0 AND reply.id = unhex(wanted.value ->> 1)";

const FORGET_RUNS: &str = "
DELETE FROM schedule_run
 WHERE (shard_id, schedule, fire_at, by_hand) IN (
    SELECT shard_id, schedule, fire_at, by_hand
      FROM (
        SELECT shard_id, schedule, fire_at, by_hand,
               row_number() OVER (PARTITION BY shard_id, schedule ORDER BY fire_at DESC, by_hand DESC) AS place
          FROM schedule_run
         WHERE shard_id IN (SELECT value FROM json_each(?1))
      )
     WHERE place > ?2
 )";

#[async_trait]
impl ScheduleStore for SqliteStore {
    async fn of_shards(&self, shards: Option<&[ShardId]>) -> Result<Vec<ScheduleRow>, StoreError> {
        let rows = sqlx::query(SCHEDULES)
            .bind(shards.map(numbers))
            .fetch_all(&self.readers)
            .await
            .map_err(from_driver)?;
        all("schedule", &rows, Reader::schedule)
    }

    async fn commit(&self, batch: &ScheduleBatch) -> Result<(), StoreError> {
        batch.check()?;
        let mut transaction = self.writer.begin().await?;
        let written = write(transaction.connection(), batch).await;
        transaction.end(written).await
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
            .bind(schedule.to_owned())
            .bind(from.map(micros))
            .bind(before.map(micros))
            .bind(limit)
            .fetch_all(&self.readers)
            .await
            .map_err(from_driver)?;
        all("schedule_run", &rows, Reader::schedule_run)
    }

    async fn last_runs(
        &self,
        schedules: &[(ShardId, String)],
    ) -> Result<Vec<ScheduleRunRow>, StoreError> {
        let wanted = Rows::of(schedules.iter(), 80, |(shard, name), columns| {
            columns.number(shard.0).text(name);
        });
        let rows = sqlx::query(LAST_RUNS)
            .bind(wanted)
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
            .bind(schedule.to_owned())
            .bind(limit)
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
        let wanted = |id: fn(&Started) -> Uuid| {
            Rows::of(started.iter(), 50, |one, columns| {
                columns.number(one.shard.0).id(id(one));
            })
        };
        let waiting = self.look(WAITING, wanted(|one| one.message)).await?;
        let states = self.look(STATES, wanted(|one| one.case.0)).await?;
        let replies = self.look(REPLIES, wanted(|one| one.message)).await?;
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
        let mut transaction = self.writer.begin().await?;
        let forgotten = sqlx::query(FORGET_RUNS)
            .bind(numbers(shards))
            .bind(keep)
            .execute(transaction.connection())
            .await
            .map_err(from_driver);
        transaction.end(forgotten).await?;
        Ok(())
    }
}

impl SqliteStore {
    async fn look(&self, sql: &'static str, wanted: String) -> Result<Vec<SqliteRow>, StoreError> {
        sqlx::query(sql)
            .bind(wanted)
            .fetch_all(&self.readers)
            .await
            .map_err(from_driver)
    }
}

async fn write(connection: &mut SqliteConnection, batch: &ScheduleBatch) -> Result<(), StoreError> {
    if let Some(shard) = leases::lost(connection, &batch.leases).await? {
        return Err(StoreError::Fenced { shard });
    }
    for row in &batch.schedules {
        put(connection, row).await?;
    }
    if !batch.runs.is_empty() {
        run(connection, RUNS_PUT, runs(&batch.runs)).await?;
    }
    if !batch.changes.is_empty() {
        run(connection, CHANGES_PUT, changes(&batch.changes)).await?;
    }
    inbox::insert(connection, &batch.messages).await?;
    if !batch.inbox_done.is_empty() {
        let done = Rows::of(batch.inbox_done.iter(), 50, |(shard, id), columns| {
            columns.number(shard.0).id(*id);
        });
        run(connection, INBOX_DONE, done).await?;
    }
    if !batch.replies.is_empty() {
        let replies = Rows::of(batch.replies.iter(), 100, |row, columns| {
            columns
                .number(row.shard.0)
                .id(row.id)
                .time(row.at)
                .flag(row.accepted)
                .text(&row.message);
        });
        run(connection, REPLIES_PUT, replies).await?;
    }
    Ok(())
}

async fn put(connection: &mut SqliteConnection, row: &ScheduleRow) -> Result<(), StoreError> {
    let sql = if row.from_version.is_some() {
        MOVE
    } else {
        MAKE
    };
    let mut query = sqlx::query(sql)
        .bind(row.shard.0)
        .bind(row.name().to_owned())
        .bind(version(row.state.version))
        .bind(micros(row.changed_at))
        .bind(row.next_due_at.map(micros))
        .bind(row.last_fire_at().map(micros))
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

fn runs(rows: &[ScheduleRunRow]) -> String {
    Rows::of(rows.iter(), 200, |row, columns| {
        columns
            .number(row.shard.0)
            .text(&row.schedule)
            .time(row.run.key.fire_at)
            .flag(row.run.key.by_hand)
            .time(row.run.due_at)
            .time(row.run.decided_at);
        match row.run.case {
            Some(case) => columns.id(case.0),
            None => columns.null(),
        };
        columns
            .text(row.run.cause.as_str())
            .text(row.run.outcome.as_str())
            .text(&row.run.initiator.0)
            .text(&row.run.reason);
    })
}

fn changes(rows: &[ScheduleChangeRow]) -> String {
    Rows::of(rows.iter(), 400, |row, columns| {
        columns
            .number(row.shard.0)
            .text(&row.schedule)
            .number(version(row.change.version))
            .time(row.change.at)
            .text(&row.change.by.0)
            .text(row.change.operation.as_str())
            .text(&row.change.reason)
            .text(&row.change.detail)
            .bytes(&row.leaf);
    })
}

async fn run(
    connection: &mut SqliteConnection,
    sql: &'static str,
    rows: String,
) -> Result<(), StoreError> {
    sqlx::query(sql)
        .bind(rows)
        .execute(connection)
        .await
        .map_err(from_driver)?;
    Ok(())
}

fn micros(at: Timestamp) -> i64 {
    stored_time(at).timestamp_micros()
}
