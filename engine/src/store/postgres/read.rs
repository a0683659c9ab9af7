//! Reading: cases, timers, lists, definitions.

use std::collections::HashSet;

use sqlx::PgPool;
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
        "($1::text[] IS NULL OR state.state = ANY($1))
   AND ($2::text IS NULL OR head.workflow = $2)
   AND (NOT $3::boolean OR state.parked > 0)
   AND (head.created_at, head.case_id) < (coalesce($4::timestamptz, 'infinity'), $5::uuid)
   AND ($7::text IS NULL OR head.definition = $7)
   AND head.created_at < coalesce($8::timestamptz, 'infinity')
   AND head.created_at >= coalesce($9::timestamptz, '-infinity')
 ORDER BY head.created_at DESC, head.case_id DESC
 LIMIT $6"
    };
}

const LOAD: &str = concat!(
    "
SELECT ",
    summary_columns!(),
    "
  FROM case_head AS head
  JOIN case_state AS state ON state.shard_id = head.shard_id AND state.case_id = head.case_id
 WHERE head.shard_id = $1 AND head.case_id = $2"
);

const STEPS: &str = "
SELECT shard_id, case_id, step, instance, attempt, failures, away, changed_at, state, body
  FROM case_step
 WHERE shard_id = $1 AND case_id = $2
 ORDER BY step, instance";

/// One look-up by primary key in each shard.
const LOCATE: &str = "
SELECT shard_id
  FROM case_head
 WHERE shard_id = ANY(ARRAY(SELECT shard.shard_id FROM shard)) AND case_id = $1";

/// Only open cases are looked at: closed ones are many and at rest.
const RESTLESS: &str = "
SELECT open.shard_id, open.case_id
  FROM case_open AS open
  JOIN case_state AS state ON state.shard_id = open.shard_id AND state.case_id = open.case_id
 WHERE open.shard_id = ANY($1::integer[])
   AND (state.in_flight > 0 OR state.state = 'queued')
 ORDER BY open.created_at, open.case_id";

/// Inside, a range and an order that only the index by subject has, so that it is the one that is walked: the primary key
/// would lead over every case of the shard that was open since the oldest snapshot.
const OPEN_CASES: &str = "
SELECT open.shard_id, open.case_id, open.created_at, open.subject, open.workflow, open.lane, head.generation,
       state.state,
       EXISTS (SELECT 1 FROM case_pause AS pause
                WHERE pause.shard_id = open.shard_id AND pause.case_id = open.case_id) AS paused
  FROM unnest($1::integer[], $2::text[]) AS wanted (shard_id, subject)
 CROSS JOIN LATERAL (
    SELECT *
      FROM case_open AS open
     WHERE open.shard_id = wanted.shard_id AND open.subject >= wanted.subject AND open.subject <= wanted.subject
     ORDER BY open.subject
    OFFSET 0
 ) AS open
  JOIN case_head AS head ON head.shard_id = open.shard_id AND head.case_id = open.case_id
  JOIN case_state AS state ON state.shard_id = open.shard_id AND state.case_id = open.case_id
 ORDER BY open.created_at, open.case_id";

/// The limit inside keeps a shard with a long queue from being read as a whole.
const TIMERS: &str = "
SELECT timer.*
  FROM unnest($1::integer[]) AS wanted (shard_id)
 CROSS JOIN LATERAL (
    SELECT case_timer.shard_id, case_timer.due_at, case_timer.case_id, case_timer.step, case_timer.instance
      FROM case_timer
     WHERE case_timer.shard_id = wanted.shard_id AND case_timer.due_at <= $2
     ORDER BY case_timer.due_at, case_timer.case_id, case_timer.step, case_timer.instance
     LIMIT $3
 ) AS timer
 ORDER BY timer.due_at, timer.case_id, timer.step, timer.instance
 LIMIT $3";

const PUT_DEFINITION: &str = "
INSERT INTO workflow_definition (hash, name, source, created_at)
VALUES ($1, $2, $3, $4)
ON CONFLICT DO NOTHING";

const DEFINITION: &str = "SELECT source FROM workflow_definition WHERE hash = $1";

/// Walks the index by age from the newest on and stops at the limit.
const LIST: &str = concat!(
    "
SELECT ",
    summary_columns!(),
    "
  FROM case_head AS head
  JOIN case_state AS state ON state.shard_id = head.shard_id AND state.case_id = head.case_id
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
  JOIN case_head AS head ON head.shard_id = open.shard_id AND head.case_id = open.case_id
  JOIN case_state AS state ON state.shard_id = open.shard_id AND state.case_id = open.case_id
 WHERE ",
    list_filter!()
);

const LIST_SUBJECT: &str = concat!(
    "
SELECT ",
    summary_columns!(),
    "
  FROM case_head AS head
  JOIN case_state AS state ON state.shard_id = head.shard_id AND state.case_id = head.case_id
 WHERE head.shard_id = ANY(ARRAY(SELECT shard.shard_id FROM shard)) AND head.subject = $10
   AND ($11::boolean IS FALSE OR state.closed_at IS NULL)
   AND ",
    list_filter!()
);

/// Looks into the rows of steps of the open cases. What is compared there is the name that leads the stored form of
/// work: JSON functions would refuse a row that holds an escaped U+0000.
const LIST_WORK: &str = concat!(
    "
SELECT ",
    summary_columns!(),
    "
  FROM case_open AS open
  JOIN case_head AS head ON head.shard_id = open.shard_id AND head.case_id = open.case_id
  JOIN case_state AS state ON state.shard_id = open.shard_id AND state.case_id = open.case_id
 WHERE ($10::text IS NULL OR open.subject = $10)
   AND (NOT $11::boolean OR state.unfinished > 0 OR state.parked > 0)
   AND (($12::boolean AND state.state = 'queued') OR EXISTS (
    SELECT 1
      FROM case_step AS step
     WHERE step.shard_id = open.shard_id AND step.case_id = open.case_id
       AND step.state IN ('running', 'waiting', 'asking', 'parked', 'delayed', 'planning', 'stuck')
       AND ($13::text[] IS NULL OR CASE step.state
              WHEN 'asking' THEN split_part(split_part(step.body, '\"kind\":\"', 2), '\"', 1)
              WHEN 'waiting' THEN split_part(split_part(step.body, '\"why\":\"', 2), '\"', 1)
              WHEN 'delayed' THEN 'timer'
              WHEN 'parked' THEN 'parked'
              WHEN 'stuck' THEN 'parked'
              -- In flight to a system that takes no calls: it has not left.
              WHEN 'running' THEN (SELECT 'system_away' FROM unnest($14::text[]) AS held (needle)
                                    WHERE strpos(step.body, held.needle) > 0 LIMIT 1)
            END = ANY($13))
       AND ($15::text IS NULL OR strpos(step.body, $15) > 0)
       AND ($16::text IS NULL OR strpos(step.body, $16) > 0)
       AND ($17::text[] IS NULL OR EXISTS (
        SELECT 1 FROM unnest($17, $18::integer[]) AS wanted (definition, step)
         WHERE wanted.definition = head.definition AND wanted.step = step.step))
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
      JOIN case_head AS head ON head.shard_id = open.shard_id AND head.case_id = open.case_id
     GROUP BY head.definition
  ) AS used ON used.definition = version.hash
 ORDER BY version.name, version.created_at DESC, version.hash";

/// The open ones are counted; the closed ones were, by the batches that closed them.
const COUNTS: &str = "
SELECT counted.workflow, counted.state, sum(counted.cases)::bigint AS cases
  FROM (
    SELECT open.workflow, state.state, count(*) AS cases
      FROM case_open AS open
      JOIN case_state AS state ON state.shard_id = open.shard_id AND state.case_id = open.case_id
     GROUP BY open.workflow, state.state
     UNION ALL
    SELECT workflow, state, sum(cases)::bigint FROM case_closed_count GROUP BY workflow, state
     UNION ALL
    SELECT workflow, state, sum(cases)::bigint FROM case_closed_part GROUP BY workflow, state
  ) AS counted
 GROUP BY counted.workflow, counted.state
HAVING sum(counted.cases) > 0
 ORDER BY counted.workflow, counted.state";

const HISTORY: &str = "
SELECT shard_id, case_id, version, at, input, actor, events
  FROM case_history
 WHERE shard_id = $1 AND case_id = $2
 ORDER BY version";

const EVIDENCE: &str = "
SELECT shard_id, case_id, version, at, leaf
  FROM evidence
 WHERE shard_id = $1 AND case_id = $2
 ORDER BY version";

/// Head, state and steps of one moment: a commit between two of the statements must not be seen by half.
pub(super) async fn load(
    pool: &PgPool,
    shard: ShardId,
    case: CaseId,
) -> Result<Option<StoredCase>, StoreError> {
    const SNAPSHOT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
    let mut snapshot = pool.begin_with(SNAPSHOT).await.map_err(from_driver)?;
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

pub(super) async fn locate(pool: &PgPool, case: CaseId) -> Result<Option<ShardId>, StoreError> {
    let row = sqlx::query(LOCATE)
        .bind(case.0)
        .fetch_optional(pool)
        .await
        .map_err(from_driver)?;
    row.map(|row| Reader::new("case_head", &row).shard())
        .transpose()
}

pub(super) async fn restless(
    pool: &PgPool,
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
    SELECT head.case_id FROM case_head head
      JOIN UNNEST($1::int[], $2::uuid[]) AS wanted (shard_id, case_id)
        ON head.shard_id = wanted.shard_id AND head.case_id = wanted.case_id";

pub(super) async fn existing(
    pool: &PgPool,
    cases: &[(ShardId, CaseId)],
) -> Result<HashSet<CaseId>, StoreError> {
    let (shards, ids): (Vec<i32>, Vec<uuid::Uuid>) =
        cases.iter().map(|(shard, case)| (shard.0, case.0)).unzip();
    let rows = sqlx::query(EXISTING)
        .bind(shards)
        .bind(ids)
        .fetch_all(pool)
        .await
        .map_err(from_driver)?;
    Ok(all("case_head", &rows, Reader::case)?.into_iter().collect())
}

pub(super) async fn open_cases(
    pool: &PgPool,
    subjects: &[(ShardId, Subject)],
) -> Result<Vec<(Subject, OpenCase)>, StoreError> {
    let (shards, names): (Vec<i32>, Vec<&str>) = subjects
        .iter()
        .map(|(shard, subject)| (shard.0, subject.0.as_str()))
        .unzip();
    let rows = sqlx::query(OPEN_CASES)
        .bind(shards)
        .bind(names)
        .fetch_all(pool)
        .await
        .map_err(from_driver)?;
    all("case_open", &rows, Reader::open_case)
}

pub(super) async fn timers(
    pool: &PgPool,
    shards: &[ShardId],
    until: Timestamp,
    limit: u32,
) -> Result<Vec<TimerRow>, StoreError> {
    let rows = sqlx::query(TIMERS)
        .bind(numbers(shards))
        .bind(stored_time(until))
        .bind(i64::from(limit))
        .fetch_all(pool)
        .await
        .map_err(from_driver)?;
    all("case_timer", &rows, Reader::timer)
}

pub(super) async fn put_definition(
    pool: &PgPool,
    hash: &DefinitionHash,
    name: &str,
    source: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query(PUT_DEFINITION)
        .bind(&hash.0)
        .bind(name)
        .bind(source)
        .bind(stored_time(now))
        .execute(pool)
        .await
        .map_err(from_driver)?;
    Ok(())
}

pub(super) async fn definition(
    pool: &PgPool,
    hash: &DefinitionHash,
) -> Result<Option<String>, StoreError> {
    sqlx::query_scalar(DEFINITION)
        .bind(&hash.0)
        .fetch_optional(pool)
        .await
        .map_err(from_driver)
}

pub(super) async fn list(
    pool: &PgPool,
    filter: &CaseFilter,
    after: Option<CaseCursor>,
    limit: u32,
) -> Result<Vec<CaseSummary>, StoreError> {
    let states: Option<Vec<&str>> = match filter.states.as_slice() {
        [] => None,
        states => Some(states.iter().map(|state| state.as_str()).collect()),
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
        .bind(filter.workflow.as_deref())
        .bind(filter.parked_only)
        .bind(after.map(|after| stored_time(after.created_at)))
        .bind(after.map_or(Uuid::nil(), |after| after.case.0))
        .bind(i64::from(limit.min(PAGE_ROWS_MAX)))
        .bind(filter.definition.as_ref().map(|hash| hash.0.as_str()))
        .bind(filter.created_before.map(stored_time))
        .bind(filter.created_from.map(stored_time));
    if !work.is_empty() {
        let steps = work.steps.as_ref().map(|steps| {
            let definitions: Vec<&str> = steps.iter().map(|(hash, _)| hash.0.as_str()).collect();
            let positions: Vec<i32> = steps.iter().map(|(_, step)| i32::from(step.0)).collect();
            (definitions, positions)
        });
        let (definitions, positions) = steps.unzip();
        query = query
            .bind(filter.subject.as_ref().map(|subject| subject.0.as_str()))
            .bind(work.needs_unfinished() && !work.queued())
            .bind(work.queued())
            .bind(work.signs())
            .bind(needles(&work.held))
            .bind(work.system.as_deref().map(WorkFilter::system_needle))
            .bind(work.error.as_deref().map(WorkFilter::error_needle))
            .bind(definitions)
            .bind(positions);
    } else if let Some(subject) = &filter.subject {
        query = query.bind(&subject.0).bind(open_only);
    }
    let rows = query.fetch_all(pool).await.map_err(from_driver)?;
    all("case_state", &rows, Reader::summary)
}

pub(super) async fn versions(pool: &PgPool) -> Result<Vec<VersionRow>, StoreError> {
    let rows = sqlx::query(VERSIONS)
        .fetch_all(pool)
        .await
        .map_err(from_driver)?;
    all("workflow_definition", &rows, Reader::version_row)
}

pub(super) async fn counts(pool: &PgPool) -> Result<Vec<(String, CaseState, u64)>, StoreError> {
    let rows = sqlx::query(COUNTS)
        .fetch_all(pool)
        .await
        .map_err(from_driver)?;
    all("case_state", &rows, Reader::count)
}

pub(super) async fn history(
    pool: &PgPool,
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
    pool: &PgPool,
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

fn needles(systems: &[String]) -> Vec<String> {
    let needles = systems.iter();
    needles
        .map(|system| WorkFilter::system_needle(system))
        .collect()
}

fn numbers(shards: &[ShardId]) -> Vec<i32> {
    shards.iter().map(|shard| shard.0).collect()
}
