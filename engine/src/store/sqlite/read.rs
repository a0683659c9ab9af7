//! Reading: cases, timers, lists, definitions.

use std::collections::HashSet;

use sqlx::sqlite::SqlitePool;
use uuid::Uuid;

use crate::core::Timestamp;
use crate::core::admission::OpenCase;
use crate::core::case::CaseState;
use crate::core::id::{CaseId, DefinitionHash, ShardId, Subject};
use crate::store::decode::{Reader, all};
use crate::store::failure::from_driver;
use crate::store::rows::stored_time;
use crate::store::{
    CaseCursor, CaseFilter, CaseSummary, EvidenceRow, HistoryRow, PAGE_ROWS_MAX, StoreError,
    StoredCase, TimerRow, VersionRow, WorkFilter,
};

use super::json::Rows;
use super::writer::Writer;

/// A case's head and state in one row.
macro_rules! summary_columns {
    () => {
        "head.shard_id, head.case_id, head.generation, head.received_at, head.created_at, head.effective_at,
       head.subject, head.workflow, head.definition, head.lane, head.initiator, head.salt, head.input,
       state.version, state.deadline_at, state.closed_at, state.changed_at, state.in_flight, state.parked,
       state.unfinished, state.unverified, state.given_up, state.steps_done, state.deadline_passed,
       state.state, state.ending,
       (SELECT pause.body FROM case_pause AS pause
         WHERE pause.shard_id = head.shard_id AND pause.case_id = head.case_id) AS paused"
    };
}

/// What a listing filters by beside the rows it walks over.
macro_rules! list_filter {
    () => {
        "(?1 IS NULL OR state.state IN (SELECT value FROM json_each(?1)))
   AND (?2 IS NULL OR head.workflow = ?2)
   AND (NOT ?3 OR state.parked > 0)
   AND (head.created_at, head.case_id) < (coalesce(?4, 9223372036854775807), ?5)
   AND (?7 IS NULL OR head.definition = ?7)
   AND head.created_at < coalesce(?8, 9223372036854775807)
   AND head.created_at >= coalesce(?9, -9223372036854775808)
 ORDER BY head.created_at DESC, head.case_id DESC
 LIMIT ?6"
    };
}

const LOAD: &str = concat!(
    "
SELECT ",
    summary_columns!(),
    "
  FROM case_head AS head
  JOIN case_state AS state ON state.case_number = head.case_number
 WHERE head.shard_id = ?1 AND head.case_id = ?2"
);

const STEPS: &str = "
SELECT head.shard_id, head.case_id, step.step, step.instance, step.attempt, step.failures, step.away,
       step.changed_at, step.state, step.body
  FROM case_head AS head
  JOIN case_step AS step ON step.case_number = head.case_number
 WHERE head.shard_id = ?1 AND head.case_id = ?2
 ORDER BY step.step, step.instance";

/// One look-up by primary key in each shard.
const LOCATE: &str = "
SELECT shard_id
  FROM case_head
 WHERE shard_id IN (SELECT shard.shard_id FROM shard) AND case_id = ?1";

/// Only open cases are looked at: closed ones are many and at rest.
const RESTLESS: &str = "
SELECT open.shard_id, open.case_id
  FROM json_each(?1) AS wanted
  JOIN case_open AS open ON open.shard_id = wanted.value
  JOIN case_state AS state ON state.case_number = open.case_number
 WHERE state.in_flight > 0 OR state.state = 'queued'
 ORDER BY open.created_at, open.case_id";

const OPEN_CASES: &str = "
SELECT open.shard_id, open.case_id, open.created_at, open.subject, open.workflow, open.lane, head.generation,
       state.state,
       EXISTS (SELECT 1 FROM case_pause AS pause
                WHERE pause.shard_id = open.shard_id AND pause.case_id = open.case_id) AS paused
  FROM json_each(?1) AS wanted
  JOIN case_open AS open ON open.shard_id = wanted.value ->> 0 AND open.subject = wanted.value ->> 1
  JOIN case_head AS head ON head.case_number = open.case_number
  JOIN case_state AS state ON state.case_number = open.case_number
 ORDER BY open.created_at, open.case_id";

/// Walks the key in order of time and stops at the limit; `+` keeps the shards from choosing another way.
const TIMERS: &str = "
SELECT shard_id, due_at, case_id, step, instance
  FROM case_timer
 WHERE due_at <= ?2 AND +shard_id IN (SELECT value FROM json_each(?1))
 ORDER BY due_at, case_id, step, instance
 LIMIT ?3";

const PUT_DEFINITION: &str = "
INSERT INTO workflow_definition (hash, name, source, created_at)
VALUES (?1, ?2, ?3, ?4)
ON CONFLICT DO NOTHING";

const DEFINITION: &str = "SELECT source FROM workflow_definition WHERE hash = ?1";

/// Walks the index by age from the newest on and stops at the limit.
const LIST: &str = concat!(
    "
SELECT ",
    summary_columns!(),
    "
  FROM case_head AS head
  JOIN case_state AS state ON state.case_number = head.case_number
 WHERE ",
    list_filter!()
);

/// Starts from the open cases, which are few beside all that ever were.
const LIST_OPEN: &str = concat!(
    "
SELECT ",
    summary_columns!(),
    "
  FROM case_open AS open
  JOIN case_head AS head ON head.case_number = open.case_number
  JOIN case_state AS state ON state.case_number = open.case_number
 WHERE ",
    list_filter!()
);

const LIST_SUBJECT: &str = concat!(
    "
SELECT ",
    summary_columns!(),
    "
  FROM case_head AS head
  JOIN case_state AS state ON state.case_number = head.case_number
 WHERE head.shard_id IN (SELECT shard.shard_id FROM shard) AND head.subject = ?10
   AND (NOT ?11 OR state.closed_at IS NULL)
   AND ",
    list_filter!()
);

/// Looks into the rows of steps of the open cases.
const LIST_WORK: &str = concat!(
    "
SELECT ",
    summary_columns!(),
    "
  FROM case_open AS open
  JOIN case_head AS head ON head.case_number = open.case_number
  JOIN case_state AS state ON state.case_number = open.case_number
 WHERE (?10 IS NULL OR open.subject = ?10)
   AND (NOT ?11 OR state.unfinished > 0 OR state.parked > 0)
   AND ((?12 AND state.state = 'queued') OR EXISTS (
    SELECT 1
      FROM case_step AS step
     WHERE step.case_number = open.case_number
       AND step.state IN ('running', 'waiting', 'asking', 'parked', 'delayed', 'planning', 'stuck')
       AND (?13 IS NULL OR CASE step.state
              WHEN 'asking' THEN step.body ->> '$.state.ask.kind'
              WHEN 'waiting' THEN step.body ->> '$.state.why'
              WHEN 'delayed' THEN 'timer'
              WHEN 'parked' THEN 'parked'
              WHEN 'stuck' THEN 'parked'
              -- In flight to a system that takes no calls: it has not left.
              WHEN 'running' THEN (SELECT 'system_away' FROM json_each(?14) AS held
                                    WHERE instr(step.body, held.value) > 0 LIMIT 1)
            END IN (SELECT value FROM json_each(?13)))
       AND (?15 IS NULL OR instr(step.body, ?15) > 0)
       AND (?16 IS NULL OR instr(step.body, ?16) > 0)
       AND (?17 IS NULL OR EXISTS (
        SELECT 1 FROM json_each(?17) AS wanted
         WHERE wanted.value ->> 0 = head.definition AND wanted.value ->> 1 = step.step))
   ))
   AND ",
    list_filter!()
);

const VERSIONS: &str = "
SELECT version.hash, version.name, version.created_at, coalesce(used.cases, 0) AS cases
  FROM workflow_definition AS version
  LEFT JOIN (
    SELECT head.definition, count(*) AS cases
      FROM case_open AS open
      JOIN case_head AS head ON head.case_number = open.case_number
     GROUP BY head.definition
  ) AS used ON used.definition = version.hash
 ORDER BY version.name, version.created_at DESC, version.hash";

/// The open ones are counted; the closed ones were, by the batches that closed them.
const COUNTS: &str = "
SELECT counted.workflow, counted.state, sum(counted.cases) AS cases
  FROM (
    SELECT open.workflow, state.state, count(*) AS cases
      FROM case_open AS open
      JOIN case_state AS state ON state.case_number = open.case_number
     GROUP BY open.workflow, state.state
     UNION ALL
    SELECT workflow, state, sum(cases) FROM case_closed_count GROUP BY workflow, state
  ) AS counted
 WHERE counted.cases > 0
 GROUP BY counted.workflow, counted.state
 ORDER BY counted.workflow, counted.state";

const HISTORY: &str = "
SELECT head.shard_id, head.case_id, history.version, history.at, history.input, history.actor,
       history.events
  FROM case_head AS head
  JOIN case_history AS history ON history.case_number = head.case_number
 WHERE head.shard_id = ?1 AND head.case_id = ?2
 ORDER BY history.version";

/// Evidence outlives its case.
const EVIDENCE: &str = "
SELECT ?1 AS shard_id, ?2 AS case_id, evidence.version, evidence.at, evidence.leaf
  FROM evidence
 WHERE evidence.case_number IN (
    SELECT case_number FROM case_head WHERE shard_id = ?1 AND case_id = ?2
     UNION ALL
    SELECT case_number FROM case_gone WHERE shard_id = ?1 AND case_id = ?2)
 ORDER BY evidence.case_number, evidence.version";

/// Head, state and steps of one moment: a commit between two of the statements must not be seen by half.
pub(super) async fn load(
    pool: &SqlitePool,
    shard: ShardId,
    case: CaseId,
) -> Result<Option<StoredCase>, StoreError> {
    let mut snapshot = pool.begin().await.map_err(from_driver)?;
    let found = sqlx::query(LOAD)
        .bind(shard.0)
        .bind(case.0)
        .fetch_optional(&mut *snapshot)
        .await
        .map_err(from_driver)?;
    let stored = match found {
        None => None,
        Some(row) => {
            let summary = Reader::new("case_state", &row).summary()?;
            let rows = sqlx::query(STEPS)
                .bind(shard.0)
                .bind(case.0)
                .fetch_all(&mut *snapshot)
                .await
                .map_err(from_driver)?;
            let steps = all("case_step", &rows, Reader::step)?;
            Some(StoredCase {
                head: summary.head,
                state: summary.state,
                steps,
            })
        }
    };
    snapshot.commit().await.map_err(from_driver)?;
    Ok(stored)
}

pub(super) async fn locate(pool: &SqlitePool, case: CaseId) -> Result<Option<ShardId>, StoreError> {
    let row = sqlx::query(LOCATE)
        .bind(case.0)
        .fetch_optional(pool)
        .await
        .map_err(from_driver)?;
    row.map(|row| Reader::new("case_head", &row).shard())
        .transpose()
}

pub(super) async fn restless(
    pool: &SqlitePool,
    shards: &[ShardId],
) -> Result<Vec<(ShardId, CaseId)>, StoreError> {
    let rows = sqlx::query(RESTLESS)
        .bind(numbers(shards))
        .fetch_all(pool)
        .await
        .map_err(from_driver)?;
    all("case_open", &rows, |row| Ok((row.shard()?, row.case()?)))
}

const EXISTING: &str = "
    SELECT head.case_id FROM json_each(?1) wanted
      JOIN case_head head
        ON head.shard_id = wanted.value ->> 0 AND head.case_id = unhex(wanted.value ->> 1)";

pub(super) async fn existing(
    pool: &SqlitePool,
    cases: &[(ShardId, CaseId)],
) -> Result<HashSet<CaseId>, StoreError> {
    let wanted = Rows::of(cases.iter(), 48, |(shard, case), columns| {
        columns.number(shard.0).id(case.0);
    });
    let rows = sqlx::query(EXISTING)
        .bind(wanted)
        .fetch_all(pool)
        .await
        .map_err(from_driver)?;
    Ok(all("case_head", &rows, Reader::case)?.into_iter().collect())
}

pub(super) async fn open_cases(
    pool: &SqlitePool,
    subjects: &[(ShardId, Subject)],
) -> Result<Vec<(Subject, OpenCase)>, StoreError> {
    let wanted = Rows::of(subjects.iter(), 40, |(shard, subject), columns| {
        columns.number(shard.0).text(&subject.0);
    });
    let rows = sqlx::query(OPEN_CASES)
        .bind(wanted)
        .fetch_all(pool)
        .await
        .map_err(from_driver)?;
    all("case_open", &rows, Reader::open_case)
}

pub(super) async fn timers(
    pool: &SqlitePool,
    shards: &[ShardId],
    until: Timestamp,
    limit: u32,
) -> Result<Vec<TimerRow>, StoreError> {
    let rows = sqlx::query(TIMERS)
        .bind(numbers(shards))
        .bind(stored_time(until).timestamp_micros())
        .bind(limit)
        .fetch_all(pool)
        .await
        .map_err(from_driver)?;
    all("case_timer", &rows, Reader::timer)
}

pub(super) async fn put_definition(
    writer: &Writer,
    hash: &DefinitionHash,
    name: &str,
    source: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    let mut transaction = writer.begin().await?;
    let written = sqlx::query(PUT_DEFINITION)
        .bind(hash.0.clone())
        .bind(name.to_owned())
        .bind(source.to_owned())
        .bind(stored_time(now).timestamp_micros())
        .execute(transaction.connection())
        .await
        .map_err(from_driver);
    transaction.end(written).await?;
    Ok(())
}

pub(super) async fn definition(
    pool: &SqlitePool,
    hash: &DefinitionHash,
) -> Result<Option<String>, StoreError> {
    sqlx::query_scalar(DEFINITION)
        .bind(hash.0.clone())
        .fetch_optional(pool)
        .await
        .map_err(from_driver)
}

pub(super) async fn list(
    pool: &SqlitePool,
    filter: &CaseFilter,
    after: Option<CaseCursor>,
    limit: u32,
) -> Result<Vec<CaseSummary>, StoreError> {
    let states: Option<String> = match filter.states.as_slice() {
        [] => None,
        states => {
            let names: Vec<&str> = states.iter().map(|state| state.as_str()).collect();
            Some(serde_json::Value::from(names).to_string())
        }
    };
    let open_only = filter.is_open_only();
    let work = &filter.work;
    let sql = match &filter.subject {
        _ if !work.is_empty() => LIST_WORK,
        Some(_) => LIST_SUBJECT,
        None if open_only => LIST_OPEN,
        None => LIST,
    };
    let mut query = sqlx::query(sql)
        .bind(states)
        .bind(filter.workflow.clone())
        .bind(filter.parked_only)
        .bind(micros(after.map(|after| after.created_at)))
        .bind(after.map_or(Uuid::nil(), |after| after.case.0))
        .bind(limit.min(PAGE_ROWS_MAX))
        .bind(filter.definition.as_ref().map(|hash| hash.0.clone()))
        .bind(micros(filter.created_before))
        .bind(micros(filter.created_from));
    if !work.is_empty() {
        let list = |names: Vec<String>| serde_json::Value::from(names).to_string();
        let held = work.held.iter();
        let held = held
            .map(|system| WorkFilter::system_needle(system))
            .collect();
        let signs = work.signs();
        let steps = work.steps.as_ref().map(|steps| {
            Rows::of(steps.iter(), 80, |(hash, step), columns| {
                columns.text(&hash.0).number(step.0);
            })
        });
        query = query
            .bind(filter.subject.as_ref().map(|subject| subject.0.clone()))
            .bind(work.needs_unfinished() && !work.queued())
            .bind(work.queued())
            .bind(signs.map(|signs| serde_json::Value::from(signs).to_string()))
            .bind(list(held))
            .bind(work.system.as_deref().map(WorkFilter::system_needle))
            .bind(work.error.as_deref().map(WorkFilter::error_needle))
            .bind(steps);
    } else if let Some(subject) = &filter.subject {
        query = query.bind(subject.0.clone()).bind(open_only);
    }
    let rows = query.fetch_all(pool).await.map_err(from_driver)?;
    all("case_state", &rows, Reader::summary)
}

pub(super) async fn versions(pool: &SqlitePool) -> Result<Vec<VersionRow>, StoreError> {
    let rows = sqlx::query(VERSIONS)
        .fetch_all(pool)
        .await
        .map_err(from_driver)?;
    all("workflow_definition", &rows, Reader::version_row)
}

pub(super) async fn counts(pool: &SqlitePool) -> Result<Vec<(String, CaseState, u64)>, StoreError> {
    let rows = sqlx::query(COUNTS)
        .fetch_all(pool)
        .await
        .map_err(from_driver)?;
    all("case_state", &rows, Reader::count)
}

pub(super) async fn history(
    pool: &SqlitePool,
    shard: ShardId,
    case: CaseId,
) -> Result<Vec<HistoryRow>, StoreError> {
    let rows = sqlx::query(HISTORY)
        .bind(shard.0)
        .bind(case.0)
        .fetch_all(pool)
        .await
        .map_err(from_driver)?;
    all("case_history", &rows, Reader::history)
}

pub(super) async fn evidence(
    pool: &SqlitePool,
    shard: ShardId,
    case: CaseId,
) -> Result<Vec<EvidenceRow>, StoreError> {
    let rows = sqlx::query(EVIDENCE)
        .bind(shard.0)
        .bind(case.0)
        .fetch_all(pool)
        .await
        .map_err(from_driver)?;
    all("evidence", &rows, Reader::evidence)
}

fn micros(time: Option<Timestamp>) -> Option<i64> {
    time.map(|time| stored_time(time).timestamp_micros())
}

/// The shards as one JSON array of numbers.
pub(super) fn numbers(shards: &[ShardId]) -> String {
    serde_json::Value::from_iter(shards.iter().map(|shard| shard.0)).to_string()
}
