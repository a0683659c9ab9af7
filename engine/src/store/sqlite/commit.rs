//! The group commit: one transaction, one statement a table, all or nothing.
//!
//! The transaction holds the write lock of the file from its beginning, so what the fence reads stays true
//! until it ends.

use sqlx::sqlite::{SqliteConnection, SqliteRow};

use crate::store::batch::{self, Writes, instance_column, target_columns};
use crate::store::decode::{Reader, ending_name};
use crate::store::failure::from_driver;
use crate::store::rows::stored_time;
use crate::store::{Batch, Projection, StateRow, StepRow, StoreError, TimerRow, Transaction};

use super::json::{Columns, Rows};
use super::leases;
use super::writer::Writer;

/// `from_version` (2) is the version the case had when it was read.
const MOVED: &str = "
UPDATE case_state
   SET version = new.value ->> 3, state = new.value ->> 4, ending = new.value ->> 5,
       in_flight = new.value ->> 6, parked = new.value ->> 7, unfinished = new.value ->> 8,
       unverified = new.value ->> 9, given_up = new.value ->> 10, steps_done = new.value ->> 11,
       deadline_at = new.value ->> 12, deadline_passed = new.value ->> 13, closed_at = new.value ->> 14,
       changed_at = new.value ->> 15
  FROM jsonb_each(?1) AS new
 WHERE case_state.shard_id = new.value ->> 0 AND case_state.case_id = unhex(new.value ->> 1)
   AND case_state.version = new.value ->> 2";

const HEADS: &str = "
INSERT INTO case_head (shard_id, case_id, generation, received_at, created_at, effective_at, subject,
                       workflow, definition, lane, initiator, salt, input)
SELECT value ->> 0, unhex(value ->> 1), value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6,
       value ->> 7, value ->> 8, value ->> 9, value ->> 10, unhex(value ->> 11), value ->> 12
  FROM jsonb_each(?1)";

const BORN: &str = "
INSERT INTO case_state (shard_id, case_id, version, state, ending, in_flight, parked, unfinished,
                        unverified, given_up, steps_done, deadline_at, deadline_passed, closed_at, changed_at)
SELECT value ->> 0, unhex(value ->> 1), value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7,
       value ->> 8, value ->> 9, value ->> 10, value ->> 11, value ->> 12, value ->> 13, value ->> 14,
       value ->> 15
  FROM jsonb_each(?1)";

const OPENED: &str = "
INSERT INTO case_open (shard_id, case_id, created_at, subject, workflow, lane)
SELECT value ->> 0, unhex(value ->> 1), value ->> 2, value ->> 3, value ->> 4, value ->> 5
  FROM jsonb_each(?1)";

const CLOSED: &str = "
DELETE FROM case_open
 WHERE (shard_id, case_id) IN (SELECT value ->> 0, unhex(value ->> 1) FROM jsonb_each(?1))";

macro_rules! insert_steps {
    () => {
        "
INSERT INTO case_step (shard_id, case_id, step, instance, attempt, failures, away, changed_at, state, body)
SELECT value ->> 0, unhex(value ->> 1), value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6,
       value ->> 7, value ->> 8, value ->> 9
  FROM jsonb_each(?1)"
    };
}

const STEPS_FRESH: &str = insert_steps!();

const STEPS_KNOWN: &str = "
UPDATE case_step
   SET attempt = new.value ->> 4, failures = new.value ->> 5, away = new.value ->> 6,
       changed_at = new.value ->> 7, state = new.value ->> 8, body = new.value ->> 9
  FROM jsonb_each(?1) AS new
 WHERE case_step.shard_id = new.value ->> 0 AND case_step.case_id = unhex(new.value ->> 1)
   AND case_step.step = new.value ->> 2 AND case_step.instance = new.value ->> 3";

/// `WHERE true` keeps the parser from taking ON for part of a join, here and below.
const STEPS_EITHER: &str = concat!(
    insert_steps!(),
    "
 WHERE true
ON CONFLICT (shard_id, case_id, step, instance) DO UPDATE
   SET attempt = excluded.attempt, failures = excluded.failures, away = excluded.away,
       changed_at = excluded.changed_at, state = excluded.state, body = excluded.body"
);

const HISTORY: &str = "
INSERT INTO case_history (shard_id, case_id, version, at, input, actor, events)
SELECT value ->> 0, unhex(value ->> 1), value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6
  FROM jsonb_each(?1)";

const EVIDENCE: &str = "
INSERT INTO evidence (shard_id, case_id, version, at, leaf)
SELECT value ->> 0, unhex(value ->> 1), value ->> 2, value ->> 3, CAST(value ->> 4 AS BLOB)
  FROM jsonb_each(?1)";

const TIMERS_CLEARED: &str = "
DELETE FROM case_timer
 WHERE (shard_id, due_at, case_id, step, instance) IN
       (SELECT value ->> 0, value ->> 1, unhex(value ->> 2), value ->> 3, value ->> 4 FROM jsonb_each(?1))";

const TIMERS_SET: &str = "
INSERT INTO case_timer (shard_id, due_at, case_id, step, instance)
SELECT value ->> 0, value ->> 1, unhex(value ->> 2), value ->> 3, value ->> 4
  FROM jsonb_each(?1)
 WHERE true
ON CONFLICT DO NOTHING";

const INBOX_DONE: &str = "
DELETE FROM inbox
 WHERE (shard_id, id) IN (SELECT value ->> 0, unhex(value ->> 1) FROM jsonb_each(?1))";

/// The first answer to a message stays.
const REPLIES: &str = "
INSERT INTO inbox_reply (shard_id, id, at, accepted, message)
SELECT value ->> 0, unhex(value ->> 1), value ->> 2, value ->> 3, value ->> 4
  FROM jsonb_each(?1)
 WHERE true
ON CONFLICT DO NOTHING";

/// The first case that is not as the batch expects: a null version is a case that must not be there.
const STALE: &str = "
SELECT unhex(wanted.value ->> 1) AS case_id, coalesce(wanted.value ->> 2, 0) AS version
  FROM jsonb_each(?1) AS wanted
  LEFT JOIN case_state AS state
    ON state.shard_id = wanted.value ->> 0 AND state.case_id = unhex(wanted.value ->> 1)
 WHERE state.version IS NOT wanted.value ->> 2
 LIMIT 1";

/// The first step that must have a row and has none.
const WITHOUT_ROW: &str = "
SELECT wanted.value ->> 0 AS shard_id, unhex(wanted.value ->> 1) AS case_id,
       wanted.value ->> 2 AS step, wanted.value ->> 3 AS instance
  FROM jsonb_each(?1) AS wanted
  LEFT JOIN case_step
    ON case_step.shard_id = wanted.value ->> 0 AND case_step.case_id = unhex(wanted.value ->> 1)
   AND case_step.step = wanted.value ->> 2 AND case_step.instance = wanted.value ->> 3
 WHERE case_step.step IS NULL
 LIMIT 1";

pub(super) async fn commit(
    writer: &Writer,
    batch: &Batch,
    projection: &dyn Projection,
) -> Result<(), StoreError> {
    let writes = Writes::of(batch)?;
    let statements = Statements::of(&writes);
    let mut transaction = writer.begin().await?;
    let connection = transaction.connection();
    let written = write(connection, &writes, statements, batch, projection).await;
    let error = match written {
        Ok(()) => return transaction.commit().await,
        Err(Refusal::Known(error)) => return transaction.end(Err(error)).await,
        Err(Refusal::Unknown(error)) => error,
    };
    // What does not fit is seen only once the batch's own writing is out of the way.
    transaction.rollback().await?;
    let mut look = writer.begin().await?;
    let reason = why(look.connection(), &writes, error).await;
    look.end(reason).await.and_then(Err)
}

/// Why a batch was not written.
enum Refusal {
    Known(StoreError),
    /// Something was not as the batch expects.
    Unknown(sqlx::Error),
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::Known(error)
    }
}

async fn write(
    connection: &mut SqliteConnection,
    writes: &Writes<'_>,
    statements: Statements,
    batch: &Batch,
    projection: &dyn Projection,
) -> Result<(), Refusal> {
    if let Some(shard) = leases::lost(connection, writes.leases, None).await? {
        return Err(StoreError::Fenced { shard }.into());
    }
    for statement in statements.0 {
        let done = sqlx::query(statement.sql)
            .bind(statement.rows)
            .execute(&mut *connection)
            .await;
        match done {
            Ok(done)
                if statement
                    .every
                    .is_none_or(|every| done.rows_affected() == every) => {}
            Ok(_) => return Err(Refusal::Unknown(sqlx::Error::RowNotFound)),
            Err(error) if is_duplicate(&error) => return Err(Refusal::Unknown(error)),
            Err(error) => return Err(from_driver(error).into()),
        }
    }
    if batch.outcomes.is_empty() {
        return Ok(());
    }
    projection
        .project(&mut Transaction::Sqlite(connection), &batch.outcomes)
        .await?;
    Ok(())
}

fn is_duplicate(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .is_some_and(|error| error.is_unique_violation())
}

/// Finds out what does not fit: a case that moved on, a case that is there already, a step without its row.
async fn why(
    connection: &mut SqliteConnection,
    writes: &Writes<'_>,
    error: sqlx::Error,
) -> Result<StoreError, StoreError> {
    if let Some(row) = first(connection, STALE, expected_versions(writes)).await? {
        let reader = Reader::new("case_state", &row);
        let version = u64::try_from(reader.big("version")?).unwrap_or(0);
        return Ok(StoreError::Stale {
            case: reader.case()?,
            version,
        });
    }
    let known = Rows::of(writes.steps.known.iter(), 60, |row, columns| {
        step_key(row, columns);
    });
    if let Some(row) = first(connection, WITHOUT_ROW, known).await? {
        return Ok(Reader::new("case_step", &row).missing_step());
    }
    Ok(from_driver(error))
}

fn expected_versions(writes: &Writes<'_>) -> String {
    let moved = writes.moved.iter().map(|(from, row)| (*row, Some(*from)));
    let wanted: Vec<_> = moved
        .chain(writes.born.iter().map(|row| (*row, None)))
        .collect();
    Rows::of(wanted.iter(), 50, |(row, version), columns| {
        columns.number(row.shard.0).id(row.case.0);
        match version {
            Some(version) => columns.number(batch::version(*version)),
            None => columns.null(),
        };
    })
}

async fn first(
    connection: &mut SqliteConnection,
    sql: &'static str,
    rows: String,
) -> Result<Option<SqliteRow>, StoreError> {
    sqlx::query(sql)
        .bind(rows)
        .fetch_optional(connection)
        .await
        .map_err(from_driver)
}

/// The statements a batch needs, each with its parameter: made before the write lock is taken.
struct Statements(Vec<Statement>);

struct Statement {
    sql: &'static str,
    rows: String,
    /// How many rows it must change, when every one of its own must be there.
    every: Option<u64>,
}

impl Statements {
    fn of(writes: &Writes<'_>) -> Self {
        let mut this = Self(Vec::with_capacity(12));
        // What is guarded comes first: a stale batch ends before anything else is written.
        this.add(MOVED, writes.moved.iter(), 150, |(from, row), columns| {
            state_columns(row, Some(*from), columns);
        });
        this.add(BORN, writes.born.iter(), 150, |row, columns| {
            state_columns(row, None, columns)
        });
        this.add_heads(writes);
        this.add(CLOSED, writes.closed.iter(), 44, |row, columns| {
            columns.number(row.shard.0).id(row.case.0);
        });
        this.add(
            STEPS_FRESH,
            writes.steps.fresh.iter(),
            400,
            |row, columns| step_columns(row, columns),
        );
        this.add(
            STEPS_KNOWN,
            writes.steps.known.iter(),
            400,
            |row, columns| {
                step_columns(row, columns);
            },
        );
        this.add(
            STEPS_EITHER,
            writes.steps.either.iter(),
            400,
            |row, columns| {
                step_columns(row, columns);
            },
        );
        this.add_record(writes);
        this.add(
            TIMERS_CLEARED,
            writes.timers_cleared.iter(),
            80,
            timer_columns,
        );
        this.add(TIMERS_SET, writes.timers_set.iter(), 80, timer_columns);
        this.add(
            INBOX_DONE,
            writes.inbox_done.iter(),
            44,
            |(shard, id), columns| {
                columns.number(shard.0).id(*id);
            },
        );
        this.add(REPLIES, writes.replies.iter(), 120, |row, columns| {
            columns
                .number(row.shard.0)
                .id(row.id)
                .time(row.at)
                .flag(row.accepted)
                .text(&row.message);
        });
        this
    }

    fn add_heads(&mut self, writes: &Writes<'_>) {
        self.add(HEADS, writes.heads.iter(), 500, |row, columns| {
            columns
                .number(row.shard.0)
                .id(row.case.0)
                .number(row.generation)
                .time(row.received_at)
                .time(row.created_at)
                .maybe_time(row.effective_at)
                .text(&row.subject.0)
                .text(&row.workflow)
                .text(&row.definition.0)
                .text(row.lane.as_str())
                .text(&row.initiator.0)
                .bytes(&row.salt)
                .text(&row.input.to_string());
        });
        self.add(OPENED, writes.opened.iter(), 120, |row, columns| {
            columns
                .number(row.shard.0)
                .id(row.case.0)
                .time(row.created_at)
                .text(&row.subject.0)
                .text(&row.workflow)
                .text(row.lane.as_str());
        });
    }

    fn add_record(&mut self, writes: &Writes<'_>) {
        self.add(HISTORY, writes.history.iter(), 400, |row, columns| {
            columns
                .number(row.shard.0)
                .id(row.case.0)
                .number(batch::version(row.version))
                .time(row.at)
                .text(&row.input)
                .text(&row.by)
                .text(&row.events);
        });
        self.add(
            EVIDENCE,
            writes.evidence.iter(),
            700,
            |(row, leaf), columns| {
                columns
                    .number(row.shard.0)
                    .id(row.case.0)
                    .number(batch::version(row.version))
                    .time(row.at)
                    .text(leaf);
            },
        );
    }

    fn add<'r, R: 'r>(
        &mut self,
        sql: &'static str,
        rows: impl ExactSizeIterator<Item = &'r R>,
        width: usize,
        write: impl Fn(&'r R, &mut Columns<'_>),
    ) {
        if rows.len() > 0 {
            self.0.push(Statement {
                sql,
                every: [MOVED, STEPS_KNOWN]
                    .contains(&sql)
                    .then_some(rows.len() as u64),
                rows: Rows::of(rows, width, write),
            });
        }
    }
}

fn state_columns(row: &StateRow, from: Option<u64>, columns: &mut Columns<'_>) {
    columns.number(row.shard.0).id(row.case.0);
    match from {
        Some(version) => columns.number(batch::version(version)),
        None => columns.null(),
    };
    columns
        .number(batch::version(row.version))
        .text(row.state.as_str())
        .maybe_text(row.ending.map(ending_name))
        .number(row.in_flight)
        .number(row.parked)
        .number(row.unfinished)
        .number(row.unverified)
        .number(row.given_up)
        .number(row.steps_done)
        .maybe_time(row.deadline_at)
        .flag(row.deadline_passed)
        .maybe_time(row.closed_at)
        .time(row.changed_at);
}

fn step_columns(row: &StepRow, columns: &mut Columns<'_>) {
    step_key(row, columns)
        .number(row.attempt)
        .number(row.failures)
        .number(row.away)
        .time(row.changed_at)
        .text(&row.state)
        .text(&row.body);
}

fn step_key<'c, 't>(row: &StepRow, columns: &'c mut Columns<'t>) -> &'c mut Columns<'t> {
    columns
        .number(row.shard.0)
        .id(row.case.0)
        .number(row.step)
        .number(instance_column(row.instance))
}

fn timer_columns(row: &TimerRow, columns: &mut Columns<'_>) {
    let (step, instance) = target_columns(row.target);
    columns
        .number(row.shard.0)
        .time(stored_time(row.due))
        .id(row.case.0)
        .number(step)
        .number(instance);
}
