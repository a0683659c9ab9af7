//! The statements of a group commit, each with its rows.
//!
//! `jsonb_each` gives a row as a parsed blob; `json_each` would write it out and have it parsed again for every
//! column. The first column of the tables that a step writes to is the case's number.

use crate::core::id::{CaseId, ShardId};
use crate::store::batch::{self, Writes, instance_column, target_columns};
use crate::store::decode::ending_name;
use crate::store::rows::stored_time;
use crate::store::{HeadRow, StateRow, StepRow, StoreError, TimerRow};

use super::json::{Columns, Rows};
use super::numbers::Numbered;

/// `from_version` (1) is the version the case had when it was read.
const MOVED: &str = "
UPDATE case_state
   SET version = new.value ->> 2, state = new.value ->> 3, ending = new.value ->> 4,
       in_flight = new.value ->> 5, parked = new.value ->> 6, unfinished = new.value ->> 7,
       unverified = new.value ->> 8, given_up = new.value ->> 9, steps_done = new.value ->> 10,
       deadline_at = new.value ->> 11, deadline_passed = new.value ->> 12, closed_at = new.value ->> 13,
       changed_at = new.value ->> 14
  FROM jsonb_each(?1) AS new
 WHERE case_state.case_number = new.value ->> 0 AND case_state.version = new.value ->> 1";

const HEADS: &str = "
INSERT INTO case_head (case_number, shard_id, case_id, generation, received_at, created_at, effective_at,
                       subject, workflow, definition, lane, initiator, salt, input)
SELECT value ->> 0, value ->> 1, unhex(value ->> 2), value ->> 3, value ->> 4, value ->> 5, value ->> 6,
       value ->> 7, value ->> 8, value ->> 9, value ->> 10, value ->> 11, unhex(value ->> 12), value ->> 13
  FROM jsonb_each(?1)";

const BORN: &str = "
INSERT INTO case_state (case_number, version, state, ending, in_flight, parked, unfinished, unverified,
                        given_up, steps_done, deadline_at, deadline_passed, closed_at, changed_at)
SELECT value ->> 0, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7,
       value ->> 8, value ->> 9, value ->> 10, value ->> 11, value ->> 12, value ->> 13, value ->> 14
  FROM jsonb_each(?1)";

const OPENED: &str = "
INSERT INTO case_open (case_number, shard_id, case_id, created_at, subject, workflow, lane)
SELECT value ->> 0, value ->> 1, unhex(value ->> 2), value ->> 3, value ->> 4, value ->> 5, value ->> 6
  FROM jsonb_each(?1)";

/// A version that a case left has its steps at other places.
const REBUILT_STEPS: &str = "
DELETE FROM case_step
 WHERE case_number IN (SELECT value ->> 0 FROM jsonb_each(?1))";

const REBUILT_HEADS: &str = "
UPDATE case_head
   SET definition = new.value ->> 1, lane = new.value ->> 2
  FROM jsonb_each(?1) AS new
 WHERE case_head.case_number = new.value ->> 0";

const REBUILT_OPEN: &str = "
UPDATE case_open
   SET lane = new.value ->> 2
  FROM jsonb_each(?1) AS new
 WHERE case_open.case_number = new.value ->> 0 AND case_open.lane <> new.value ->> 2";

const COUNTED: &str = "
INSERT INTO case_closed_count (shard_id, workflow, state, cases)
SELECT open.shard_id, open.workflow, gone.value ->> 1, count(*)
  FROM jsonb_each(?1) AS gone
  JOIN case_open AS open ON open.case_number = gone.value ->> 0
 WHERE true
 GROUP BY open.shard_id, open.workflow, gone.value ->> 1
ON CONFLICT (shard_id, workflow, state) DO UPDATE SET cases = cases + excluded.cases";

/// A case that is made and closed in one batch never was open.
const BORN_CLOSED: &str = "
INSERT INTO case_closed_count (shard_id, workflow, state, cases)
SELECT value ->> 0, value ->> 1, value ->> 2, count(*)
  FROM jsonb_each(?1)
 WHERE true
 GROUP BY value ->> 0, value ->> 1, value ->> 2
ON CONFLICT (shard_id, workflow, state) DO UPDATE SET cases = cases + excluded.cases";

const CLOSED: &str = "
DELETE FROM case_open
 WHERE case_number IN (SELECT value ->> 0 FROM jsonb_each(?1))";

macro_rules! insert_steps {
    () => {
        "
INSERT INTO case_step (case_number, step, instance, attempt, failures, away, changed_at, state, body)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6,
       value ->> 7, value ->> 8
  FROM jsonb_each(?1)"
    };
}

const STEPS_FRESH: &str = insert_steps!();

const STEPS_KNOWN: &str = "
UPDATE case_step
   SET attempt = new.value ->> 3, failures = new.value ->> 4, away = new.value ->> 5,
       changed_at = new.value ->> 6, state = new.value ->> 7, body = new.value ->> 8
  FROM jsonb_each(?1) AS new
 WHERE case_step.case_number = new.value ->> 0
   AND case_step.step = new.value ->> 1 AND case_step.instance = new.value ->> 2";

/// `WHERE true` keeps the parser from taking ON for part of a join, here and below.
const STEPS_EITHER: &str = concat!(
    insert_steps!(),
    "
 WHERE true
ON CONFLICT (case_number, step, instance) DO UPDATE
   SET attempt = excluded.attempt, failures = excluded.failures, away = excluded.away,
       changed_at = excluded.changed_at, state = excluded.state, body = excluded.body"
);

const HISTORY: &str = "
INSERT INTO case_history (case_number, version, at, input, actor, events)
SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5
  FROM jsonb_each(?1)";

const EVIDENCE: &str = "
INSERT INTO evidence (case_number, version, at, leaf)
SELECT value ->> 0, value ->> 1, value ->> 2, CAST(value ->> 3 AS BLOB)
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

/// A statement and its parameter.
pub(super) struct Statement {
    pub sql: &'static str,
    pub rows: String,
    /// How many rows it must change, when every one of its own must be there.
    pub every: Option<u64>,
}

/// The statements that a batch needs.
///
/// # Errors
/// [`StoreError::Stale`] for a case that there is not.
pub(super) fn of(writes: &Writes<'_>, numbers: &Numbered) -> Result<Vec<Statement>, StoreError> {
    let mut list = List(Vec::with_capacity(18));
    list.cases(writes, numbers)?;
    list.steps(writes, numbers)?;
    list.record(writes, numbers)?;
    list.queues(writes);
    Ok(list.0)
}

struct List(Vec<Statement>);

impl List {
    /// What is guarded comes first: a stale batch ends before anything else is written.
    fn cases(&mut self, writes: &Writes<'_>, numbers: &Numbered) -> Result<(), StoreError> {
        let number = |row: &StateRow| numbers.of(row.shard, row.case);
        let moved = in_order(writes.moved.iter(), |(_, row)| number(row))?;
        self.add(MOVED, &moved, 110, |(number, (from, row)), columns| {
            columns.number(*number).number(batch::version(*from));
            state_columns(row, columns);
        });
        let head = |row: &HeadRow| numbers.of(row.shard, row.case);
        let heads = in_order(writes.heads.iter(), head)?;
        self.add(HEADS, &heads, 500, |(number, row), columns| {
            columns.number(*number);
            head_columns(row, columns);
        });
        let born = in_order(writes.born.iter().copied(), number)?;
        self.add(BORN, &born, 110, |(number, row), columns| {
            columns.number(*number).null();
            state_columns(row, columns);
        });
        let opened = in_order(writes.opened.iter().copied(), head)?;
        self.add(OPENED, &opened, 120, |(number, row), columns| {
            columns
                .number(*number)
                .number(row.shard.0)
                .id(row.case.0)
                .time(row.created_at)
                .text(&row.subject.0)
                .text(&row.workflow)
                .text(row.lane.as_str());
        });
        let rebuilt = in_order(writes.rebuilt.iter(), |row| numbers.of(row.shard, row.case))?;
        for sql in [REBUILT_STEPS, REBUILT_HEADS, REBUILT_OPEN] {
            self.add(sql, &rebuilt, 90, |(number, row), columns| {
                columns
                    .number(*number)
                    .text(&row.definition.0)
                    .text(row.lane.as_str());
            });
        }
        let closed = in_order(writes.closed.iter().copied(), number)?;
        for sql in [COUNTED, CLOSED] {
            self.add(sql, &closed, 24, |(number, row), columns| {
                columns.number(*number).text(row.state.as_str());
            });
        }
        self.add(
            BORN_CLOSED,
            &writes.born_closed,
            40,
            |(head, state), columns| {
                columns
                    .number(head.shard.0)
                    .text(&head.workflow)
                    .text(state.as_str());
            },
        );
        Ok(())
    }

    fn steps(&mut self, writes: &Writes<'_>, numbers: &Numbered) -> Result<(), StoreError> {
        let steps = &writes.steps;
        for (sql, rows) in [
            (STEPS_FRESH, &steps.fresh),
            (STEPS_KNOWN, &steps.known),
            (STEPS_EITHER, &steps.either),
        ] {
            let rows = in_order(rows.iter().copied(), |row: &StepRow| {
                numbers.of(row.shard, row.case)
            })?;
            self.add(sql, &rows, 350, |(number, row), columns| {
                columns
                    .number(*number)
                    .number(row.step)
                    .number(instance_column(row.instance))
                    .number(row.attempt)
                    .number(row.failures)
                    .number(row.away)
                    .time(row.changed_at)
                    .text(&row.state)
                    .text(&row.body);
            });
        }
        Ok(())
    }

    fn record(&mut self, writes: &Writes<'_>, numbers: &Numbered) -> Result<(), StoreError> {
        let number = |shard: ShardId, case: CaseId| numbers.of(shard, case);
        let history = in_order(writes.history.iter().copied(), |row| {
            number(row.shard, row.case)
        })?;
        self.add(HISTORY, &history, 400, |(number, row), columns| {
            columns
                .number(*number)
                .number(batch::version(row.version))
                .time(row.at)
                .text(&row.input)
                .text(&row.by)
                .text(&row.events);
        });
        let evidence = in_order(writes.evidence.iter(), |(row, _)| {
            number(row.shard, row.case)
        })?;
        self.add(
            EVIDENCE,
            &evidence,
            700,
            |(number, (row, leaf)), columns| {
                columns
                    .number(*number)
                    .number(batch::version(row.version))
                    .time(row.at)
                    .text(leaf);
            },
        );
        Ok(())
    }

    fn queues(&mut self, writes: &Writes<'_>) {
        self.add(TIMERS_CLEARED, &writes.timers_cleared, 80, timer_columns);
        self.add(TIMERS_SET, &writes.timers_set, 80, timer_columns);
        self.add(INBOX_DONE, writes.inbox_done, 44, |(shard, id), columns| {
            columns.number(shard.0).id(*id);
        });
        self.add(REPLIES, writes.replies, 120, |row, columns| {
            columns
                .number(row.shard.0)
                .id(row.id)
                .time(row.at)
                .flag(row.accepted)
                .text(&row.message);
        });
    }

    fn add<R>(
        &mut self,
        sql: &'static str,
        rows: &[R],
        width: usize,
        write: impl Fn(&R, &mut Columns<'_>),
    ) {
        if rows.is_empty() {
            return;
        }
        self.0.push(Statement {
            sql,
            rows: Rows::of(rows.iter(), width, write),
            every: [MOVED, STEPS_KNOWN]
                .contains(&sql)
                .then_some(rows.len() as u64),
        });
    }
}

/// The rows with the numbers of their cases, in order of number: neighbours in the file.
fn in_order<R>(
    rows: impl Iterator<Item = R>,
    number: impl Fn(R) -> Result<i64, StoreError>,
) -> Result<Vec<(i64, R)>, StoreError>
where
    R: Copy,
{
    let mut rows: Vec<(i64, R)> = rows
        .map(|row| Ok((number(row)?, row)))
        .collect::<Result<_, StoreError>>()?;
    // Stable: the rows of one case keep their order.
    rows.sort_by_key(|(number, _)| *number);
    Ok(rows)
}

fn head_columns(row: &HeadRow, columns: &mut Columns<'_>) {
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
}

/// From `version` on.
fn state_columns(row: &StateRow, columns: &mut Columns<'_>) {
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

fn timer_columns(row: &TimerRow, columns: &mut Columns<'_>) {
    let (step, instance) = target_columns(row.target);
    columns
        .number(row.shard.0)
        .time(stored_time(row.due))
        .id(row.case.0)
        .number(step)
        .number(instance);
}
