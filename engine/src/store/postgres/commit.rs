//! The group commit: one statement, one round trip, all or nothing.
//!
//! The parts of the statement run on one snapshot and in no order that could be relied on, so no part may
//! need what another writes; [`Writes`] sees to that. The last part counts what the guarded parts found and
//! divides by zero when something is missing: an error is the one thing that takes back what the others
//! wrote. Only then a second statement asks what was missing.
//!
//! The fence locks the rows of the shards, and taking a shard over must update its row: so a takeover waits
//! for a batch that is being written, and a batch that comes after it finds another epoch.

use std::sync::atomic::Ordering;

use sqlx::Postgres;
use sqlx::postgres::{PgArguments, PgConnection};
use sqlx::query::Query;

use crate::core::id::CaseId;
use crate::store::batch::{self, Writes, instance_column, target_columns};
use crate::store::decode::{Reader, ending_name};
use crate::store::failure::from_driver;
use crate::store::rows::stored_time;
use crate::store::{
    Batch, HeadRow, Projection, StateRow, StepRow, StoreError, TimerRow, Transaction,
};

use super::{PostgresStore, ending, is_duplicate, is_guard, leases};

/// `unnest` stands in the select list, where it streams; in FROM its rows would be stored first.
const COMMIT: &str = "
WITH fence AS MATERIALIZED (
    SELECT shard.shard_id
      FROM unnest($1::integer[], $2::bigint[]) AS lease (shard_id, epoch)
      JOIN shard ON shard.shard_id = lease.shard_id AND shard.epoch = lease.epoch
     ORDER BY shard.shard_id
       FOR SHARE OF shard
), moved AS (
    -- `from_version` is the version the case had when it was read.
    UPDATE case_state
       SET version = new.version, state = new.state, ending = new.ending, in_flight = new.in_flight,
           parked = new.parked, unfinished = new.unfinished, unverified = new.unverified, given_up = new.given_up,
           steps_done = new.steps_done, deadline_at = new.deadline_at, deadline_passed = new.deadline_passed,
           closed_at = new.closed_at, changed_at = new.changed_at
      FROM (
        SELECT unnest($3::integer[]) AS shard_id, unnest($4::uuid[]) AS case_id,
               unnest($5::bigint[]) AS from_version, unnest($6::bigint[]) AS version, unnest($7::text[]) AS state,
               unnest($8::text[]) AS ending, unnest($9::integer[]) AS in_flight, unnest($10::integer[]) AS parked,
               unnest($11::integer[]) AS unfinished, unnest($12::integer[]) AS unverified,
               unnest($13::integer[]) AS given_up, unnest($14::integer[]) AS steps_done,
               unnest($15::timestamptz[]) AS deadline_at, unnest($16::boolean[]) AS deadline_passed,
               unnest($17::timestamptz[]) AS closed_at, unnest($18::timestamptz[]) AS changed_at
      ) AS new
     WHERE case_state.shard_id = new.shard_id AND case_state.case_id = new.case_id
       AND case_state.version = new.from_version
    RETURNING 1
), heads AS (
    INSERT INTO case_head (shard_id, case_id, generation, received_at, created_at, effective_at, subject, workflow,
                           definition, lane, initiator, salt, input)
    SELECT unnest($19::integer[]), unnest($20::uuid[]), unnest($21::bigint[]), unnest($22::timestamptz[]),
           unnest($23::timestamptz[]), unnest($24::timestamptz[]), unnest($25::text[]), unnest($26::text[]),
           unnest($27::text[]), unnest($28::text[]), unnest($29::text[]), unnest($30::bytea[]), unnest($31::text[])
), born AS (
    INSERT INTO case_state (shard_id, case_id, version, state, ending, in_flight, parked, unfinished, unverified,
                            given_up, steps_done, deadline_at, deadline_passed, closed_at, changed_at)
    SELECT unnest($32::integer[]), unnest($33::uuid[]), unnest($34::bigint[]), unnest($35::text[]),
           unnest($36::text[]), unnest($37::integer[]), unnest($38::integer[]), unnest($39::integer[]),
           unnest($40::integer[]), unnest($41::integer[]), unnest($42::integer[]), unnest($43::timestamptz[]),
           unnest($44::boolean[]), unnest($45::timestamptz[]), unnest($46::timestamptz[])
), opened AS (
    INSERT INTO case_open (shard_id, case_id, created_at, subject, workflow, lane)
    SELECT unnest($47::integer[]), unnest($48::uuid[]), unnest($49::timestamptz[]), unnest($50::text[]),
           unnest($51::text[]), unnest($52::text[])
), closed AS (
    DELETE FROM case_open
     USING (
        SELECT unnest($53::integer[]) AS shard_id, unnest($54::uuid[]) AS case_id, unnest($114::text[]) AS state
      ) AS gone
     CROSS JOIN LATERAL (
        SELECT open.ctid AS place
          FROM case_open AS open
         WHERE open.shard_id = gone.shard_id AND open.case_id >= gone.case_id AND open.case_id <= gone.case_id
         ORDER BY open.case_id
        OFFSET 0
     ) AS found
     WHERE case_open.ctid = found.place
    RETURNING case_open.shard_id, case_open.workflow, gone.state
), counted AS (
    -- A case that is made and closed in one batch never was open. A row of its own, and not a change of the count: see
    -- [`FOLD`].
    INSERT INTO case_closed_part (shard_id, part, workflow, state, cases)
    SELECT min(ended.shard_id), gen_random_uuid(), ended.workflow, ended.state, count(*)
      FROM (
        SELECT closed.shard_id, closed.workflow, closed.state FROM closed
         UNION ALL
        SELECT unnest($115::integer[]), unnest($116::text[]), unnest($117::text[])
      ) AS ended
     GROUP BY ended.workflow, ended.state
), steps_fresh AS (
    INSERT INTO case_step (shard_id, case_id, step, instance, attempt, failures, away, changed_at, state, body)
    SELECT unnest($55::integer[]), unnest($56::uuid[]), unnest($57::integer[]), unnest($58::integer[]),
           unnest($59::integer[]), unnest($60::integer[]), unnest($61::integer[]), unnest($62::timestamptz[]),
           unnest($63::text[]), unnest($64::text[])
), steps_known AS (
    UPDATE case_step
       SET attempt = new.attempt, failures = new.failures, away = new.away, changed_at = new.changed_at,
           state = new.state, body = new.body
      FROM (
        SELECT unnest($65::integer[]) AS shard_id, unnest($66::uuid[]) AS case_id, unnest($67::integer[]) AS step,
               unnest($68::integer[]) AS instance, unnest($69::integer[]) AS attempt,
               unnest($70::integer[]) AS failures, unnest($71::integer[]) AS away,
               unnest($72::timestamptz[]) AS changed_at, unnest($73::text[]) AS state, unnest($74::text[]) AS body
      ) AS new
     WHERE case_step.shard_id = new.shard_id AND case_step.case_id = new.case_id AND case_step.step = new.step
       AND case_step.instance = new.instance
    RETURNING 1
), steps_either AS (
    INSERT INTO case_step (shard_id, case_id, step, instance, attempt, failures, away, changed_at, state, body)
    SELECT unnest($75::integer[]), unnest($76::uuid[]), unnest($77::integer[]), unnest($78::integer[]),
           unnest($79::integer[]), unnest($80::integer[]), unnest($81::integer[]), unnest($82::timestamptz[]),
           unnest($83::text[]), unnest($84::text[])
    ON CONFLICT (shard_id, case_id, step, instance) DO UPDATE
       SET attempt = excluded.attempt, failures = excluded.failures, away = excluded.away,
           changed_at = excluded.changed_at, state = excluded.state, body = excluded.body
), history AS (
    INSERT INTO case_history (shard_id, case_id, version, at, input, actor, events)
    SELECT unnest($85::integer[]), unnest($86::uuid[]), unnest($87::bigint[]), unnest($88::timestamptz[]),
           unnest($89::text[]), unnest($90::text[]), unnest($91::text[])
), evidence AS (
    INSERT INTO evidence (shard_id, case_id, version, at, leaf)
    SELECT unnest($92::integer[]), unnest($93::uuid[]), unnest($94::bigint[]), unnest($95::timestamptz[]),
           unnest($96::bytea[])
), timers_cleared AS (
    DELETE FROM case_timer
     USING (
        SELECT unnest($97::integer[]) AS shard_id, unnest($98::timestamptz[]) AS due_at,
               unnest($99::uuid[]) AS case_id, unnest($100::integer[]) AS step, unnest($101::integer[]) AS instance
      ) AS gone
     CROSS JOIN LATERAL (
        SELECT timer.ctid AS place
          FROM case_timer AS timer
         WHERE timer.shard_id = gone.shard_id AND timer.due_at >= gone.due_at AND timer.due_at <= gone.due_at
           AND timer.case_id = gone.case_id AND timer.step = gone.step AND timer.instance = gone.instance
         ORDER BY timer.due_at
        OFFSET 0
     ) AS found
     WHERE case_timer.ctid = found.place
), timers_set AS (
    INSERT INTO case_timer (shard_id, due_at, case_id, step, instance)
    SELECT unnest($102::integer[]), unnest($103::timestamptz[]), unnest($104::uuid[]), unnest($105::integer[]),
           unnest($106::integer[])
    ON CONFLICT DO NOTHING
), inbox_done AS (
    DELETE FROM inbox
     USING (
        SELECT unnest($107::integer[]) AS shard_id, unnest($108::uuid[]) AS id
      ) AS gone
     CROSS JOIN LATERAL (
        SELECT message.ctid AS place
          FROM inbox AS message
         WHERE message.shard_id = gone.shard_id AND message.id >= gone.id AND message.id <= gone.id
         ORDER BY message.id
        OFFSET 0
     ) AS found
     WHERE inbox.ctid = found.place
), replies AS (
    -- The first answer to a message stays.
    INSERT INTO inbox_reply (shard_id, id, at, accepted, message)
    SELECT unnest($109::integer[]), unnest($110::uuid[]), unnest($111::timestamptz[]), unnest($112::boolean[]),
           unnest($113::text[])
    ON CONFLICT DO NOTHING
)
SELECT 1 / ((SELECT count(*) FROM fence) = cardinality($1))::integer AS fenced,
       1 / ((SELECT count(*) FROM moved) = cardinality($3))::integer AS moved,
       1 / ((SELECT count(*) FROM steps_known) = cardinality($65))::integer AS steps_known";

/// Adds up what batches closed. Were it done by each of them, a count would change some times a second, and while somebody
/// keeps an old snapshot all its versions stay and are walked over by every change.
const FOLD: &str = "
WITH parts AS (
    DELETE FROM case_closed_part RETURNING shard_id, workflow, state, cases
)
INSERT INTO case_closed_count (shard_id, workflow, state, cases)
SELECT shard_id, workflow, state, sum(cases) FROM parts
 GROUP BY shard_id, workflow, state
 ORDER BY shard_id, workflow, state
ON CONFLICT (shard_id, workflow, state) DO UPDATE SET cases = case_closed_count.cases + excluded.cases";

/// After so many batches of one store.
const FOLD_EVERY: u64 = 1_000;

/// Runs before [`COMMIT`] in the same transaction, for the few batches that need it: a version that a case left has
/// its steps at other places.
const REBUILD: &str = "
WITH gone AS (
    DELETE FROM case_step
     USING unnest($1::integer[], $2::uuid[]) AS rebuilt (shard_id, case_id)
     WHERE case_step.shard_id = rebuilt.shard_id AND case_step.case_id = rebuilt.case_id
), open AS (
    UPDATE case_open
       SET lane = rebuilt.lane
      FROM unnest($1::integer[], $2::uuid[], $4::text[]) AS rebuilt (shard_id, case_id, lane)
     WHERE case_open.shard_id = rebuilt.shard_id AND case_open.case_id = rebuilt.case_id
       AND case_open.lane <> rebuilt.lane
)
UPDATE case_head
   SET definition = rebuilt.definition, lane = rebuilt.lane
  FROM unnest($1::integer[], $2::uuid[], $3::text[], $4::text[]) AS rebuilt (shard_id, case_id, definition, lane)
 WHERE case_head.shard_id = rebuilt.shard_id AND case_head.case_id = rebuilt.case_id";

/// The first case that is not as the batch expects: a null version is a case that must not be there.
const STALE: &str = "
SELECT wanted.case_id, coalesce(wanted.version, 0) AS version
  FROM unnest($1::integer[], $2::uuid[], $3::bigint[]) AS wanted (shard_id, case_id, version)
  LEFT JOIN case_state AS state ON state.shard_id = wanted.shard_id AND state.case_id = wanted.case_id
 WHERE state.version IS DISTINCT FROM wanted.version
 LIMIT 1";

/// The first step that must have a row and has none.
const WITHOUT_ROW: &str = "
SELECT wanted.shard_id, wanted.case_id, wanted.step, wanted.instance
  FROM unnest($1::integer[], $2::uuid[], $3::integer[], $4::integer[])
    AS wanted (shard_id, case_id, step, instance)
  LEFT JOIN case_step
    ON case_step.shard_id = wanted.shard_id AND case_step.case_id = wanted.case_id
   AND case_step.step = wanted.step AND case_step.instance = wanted.instance
 WHERE case_step.step IS NULL
 LIMIT 1";

pub(super) async fn commit(
    store: &PostgresStore,
    batch: &Batch,
    projection: &dyn Projection,
) -> Result<(), StoreError> {
    write(store, batch, projection).await?;
    if store.batches.fetch_add(1, Ordering::Relaxed) % FOLD_EVERY == FOLD_EVERY - 1 {
        // The batch is durable, and what is not added up is counted all the same.
        if let Err(error) = sqlx::query(FOLD).execute(&store.writers).await {
            tracing::warn!(%error, "counts of closed cases could not be added up; the next batches try again");
        }
    }
    Ok(())
}

async fn write(
    store: &PostgresStore,
    batch: &Batch,
    projection: &dyn Projection,
) -> Result<(), StoreError> {
    let writes = Writes::of(batch)?;
    let query = bind(sqlx::query(COMMIT), &writes);
    if batch.outcomes.is_empty()
        && batch.pauses.is_empty()
        && batch.generations.is_empty()
        && writes.rebuilt.is_empty()
    {
        // One statement is a transaction by itself.
        let written = query.execute(&store.lanes).await;
        return match written {
            Ok(_) => Ok(()),
            Err(error) => Err(why(store, &writes, error).await),
        };
    }
    let mut transaction = store.lanes.begin().await.map_err(from_driver)?;
    if !writes.rebuilt.is_empty() {
        let rebuilt = writes.rebuilt;
        sqlx::query(REBUILD)
            .bind(column(rebuilt, |row| row.shard.0))
            .bind(column(rebuilt, |row| row.case.0))
            .bind(column(rebuilt, |row| row.definition.0.as_str()))
            .bind(column(rebuilt, |row| row.lane.as_str()))
            .execute(&mut *transaction)
            .await
            .map_err(from_driver)?;
    }
    if let Err(error) = query.execute(&mut *transaction).await {
        drop(transaction);
        return Err(why(store, &writes, error).await);
    }
    let connection: &mut PgConnection = &mut transaction;
    if !batch.pauses.is_empty() {
        ending::pause(connection, &batch.pauses).await?;
    }
    if !batch.generations.is_empty() {
        ending::begin_lives(connection, &batch.generations).await?;
    }
    if !batch.outcomes.is_empty() {
        projection
            .project(&mut Transaction::Postgres(connection), &batch.outcomes)
            .await?;
    }
    transaction.commit().await.map_err(from_driver)
}

/// Finds out which guard failed. What it finds cannot have been otherwise before: epochs and versions only
/// grow.
async fn why(store: &PostgresStore, writes: &Writes<'_>, error: sqlx::Error) -> StoreError {
    if !is_guard(&error) && !is_duplicate(&error) {
        return from_driver(error);
    }
    match leases::lost(&store.writers, writes.leases).await {
        Ok(Some(shard)) => return StoreError::Fenced { shard },
        Ok(None) => {}
        Err(error) => return error,
    }
    match stale(store, writes).await {
        Ok(Some((case, version))) => return StoreError::Stale { case, version },
        Ok(None) => {}
        Err(error) => return error,
    }
    match without_row(store, writes).await {
        Ok(Some(missing)) => missing,
        Ok(None) => StoreError::Refused(error),
        Err(error) => error,
    }
}

async fn without_row(
    store: &PostgresStore,
    writes: &Writes<'_>,
) -> Result<Option<StoreError>, StoreError> {
    let known = &writes.steps.known;
    let row = sqlx::query(WITHOUT_ROW)
        .bind(column(known, |row| row.shard.0))
        .bind(column(known, |row| row.case.0))
        .bind(column(known, |row| i32::from(row.step)))
        .bind(column(known, |row| instance_column(row.instance)))
        .fetch_optional(&store.writers)
        .await
        .map_err(from_driver)?;
    Ok(row.map(|row| Reader::new("case_step", &row).missing_step()))
}

async fn stale(
    store: &PostgresStore,
    writes: &Writes<'_>,
) -> Result<Option<(CaseId, u64)>, StoreError> {
    let moved = writes
        .moved
        .iter()
        .map(|(from, row)| (*row, Some(batch::version(*from))));
    let wanted: Vec<(&StateRow, Option<i64>)> = moved
        .chain(writes.born.iter().map(|row| (*row, None)))
        .collect();
    let row = sqlx::query(STALE)
        .bind(
            wanted
                .iter()
                .map(|(row, _)| row.shard.0)
                .collect::<Vec<_>>(),
        )
        .bind(wanted.iter().map(|(row, _)| row.case.0).collect::<Vec<_>>())
        .bind(
            wanted
                .iter()
                .map(|(_, version)| *version)
                .collect::<Vec<_>>(),
        )
        .fetch_optional(&store.writers)
        .await
        .map_err(from_driver)?;
    let Some(row) = row else {
        return Ok(None);
    };
    let reader = Reader::new("case_state", &row);
    Ok(Some((
        reader.case()?,
        u64::try_from(reader.big("version")?).unwrap_or(0),
    )))
}

type Statement = Query<'static, Postgres, PgArguments>;

fn column<'r, R, T>(rows: &'r [R], read: impl Fn(&'r R) -> T) -> Vec<T> {
    rows.iter().map(read).collect()
}

/// Binds in the order of the parameters.
fn bind(query: Statement, writes: &Writes<'_>) -> Statement {
    let (shards, epochs) = leases::columns(writes.leases);
    let query = query.bind(shards).bind(epochs);
    let query = bind_moved(query, &writes.moved);
    let query = bind_heads(query, writes.heads);
    let query = bind_born(query, &writes.born);
    let query = bind_open(query, writes);
    let query = bind_steps(query, &writes.steps.fresh);
    let query = bind_steps(query, &writes.steps.known);
    let query = bind_steps(query, &writes.steps.either);
    let query = bind_record(query, writes);
    let query = bind_timers(query, &writes.timers_cleared);
    let query = bind_timers(query, &writes.timers_set);
    let query = bind_inbox(query, writes);
    bind_counts(query, writes)
}

fn bind_moved(query: Statement, rows: &[(u64, &StateRow)]) -> Statement {
    let states: Vec<&StateRow> = column(rows, |(_, row)| *row);
    let query = query
        .bind(column(&states, |row| row.shard.0))
        .bind(column(&states, |row| row.case.0))
        .bind(column(rows, |(from, _)| batch::version(*from)));
    bind_state(query, &states)
}

fn bind_born(query: Statement, rows: &[&StateRow]) -> Statement {
    let query = query
        .bind(column(rows, |row| row.shard.0))
        .bind(column(rows, |row| row.case.0));
    bind_state(query, rows)
}

/// What an update and an insert of a state share, from `version` on.
fn bind_state(query: Statement, rows: &[&StateRow]) -> Statement {
    query
        .bind(column(rows, |row| batch::version(row.version)))
        .bind(column(rows, |row| row.state.as_str()))
        .bind(column(rows, |row| row.ending.map(ending_name)))
        .bind(column(rows, |row| batch::count(row.in_flight)))
        .bind(column(rows, |row| batch::count(row.parked)))
        .bind(column(rows, |row| batch::count(row.unfinished)))
        .bind(column(rows, |row| batch::count(row.unverified)))
        .bind(column(rows, |row| batch::count(row.given_up)))
        .bind(column(rows, |row| batch::count(row.steps_done)))
        .bind(column(rows, |row| row.deadline_at.map(stored_time)))
        .bind(column(rows, |row| row.deadline_passed))
        .bind(column(rows, |row| row.closed_at.map(stored_time)))
        .bind(column(rows, |row| stored_time(row.changed_at)))
}

fn bind_heads(query: Statement, rows: &[HeadRow]) -> Statement {
    query
        .bind(column(rows, |row| row.shard.0))
        .bind(column(rows, |row| row.case.0))
        .bind(column(rows, |row| i64::from(row.generation)))
        .bind(column(rows, |row| stored_time(row.received_at)))
        .bind(column(rows, |row| stored_time(row.created_at)))
        .bind(column(rows, |row| row.effective_at.map(stored_time)))
        .bind(column(rows, |row| row.subject.0.as_str()))
        .bind(column(rows, |row| row.workflow.as_str()))
        .bind(column(rows, |row| row.definition.0.as_str()))
        .bind(column(rows, |row| row.lane.as_str()))
        .bind(column(rows, |row| row.initiator.0.as_str()))
        .bind(column(rows, |row| row.salt.as_slice()))
        .bind(column(rows, |row| row.input.to_string()))
}

fn bind_open(query: Statement, writes: &Writes<'_>) -> Statement {
    let opened = &writes.opened;
    query
        .bind(column(opened, |row| row.shard.0))
        .bind(column(opened, |row| row.case.0))
        .bind(column(opened, |row| stored_time(row.created_at)))
        .bind(column(opened, |row| row.subject.0.as_str()))
        .bind(column(opened, |row| row.workflow.as_str()))
        .bind(column(opened, |row| row.lane.as_str()))
        .bind(column(&writes.closed, |row| row.shard.0))
        .bind(column(&writes.closed, |row| row.case.0))
}

fn bind_steps(query: Statement, rows: &[&StepRow]) -> Statement {
    query
        .bind(column(rows, |row| row.shard.0))
        .bind(column(rows, |row| row.case.0))
        .bind(column(rows, |row| i32::from(row.step)))
        .bind(column(rows, |row| instance_column(row.instance)))
        .bind(column(rows, |row| batch::count(row.attempt)))
        .bind(column(rows, |row| batch::count(row.failures)))
        .bind(column(rows, |row| batch::count(row.away)))
        .bind(column(rows, |row| stored_time(row.changed_at)))
        .bind(column(rows, |row| row.state.as_str()))
        .bind(column(rows, |row| row.body.as_str()))
}

fn bind_record(query: Statement, writes: &Writes<'_>) -> Statement {
    let (history, evidence) = (&writes.history, &writes.evidence);
    query
        .bind(column(history, |row| row.shard.0))
        .bind(column(history, |row| row.case.0))
        .bind(column(history, |row| batch::version(row.version)))
        .bind(column(history, |row| stored_time(row.at)))
        .bind(column(history, |row| row.input.as_str()))
        .bind(column(history, |row| row.by.as_str()))
        .bind(column(history, |row| row.events.as_str()))
        .bind(column(evidence, |(row, _)| row.shard.0))
        .bind(column(evidence, |(row, _)| row.case.0))
        .bind(column(evidence, |(row, _)| batch::version(row.version)))
        .bind(column(evidence, |(row, _)| stored_time(row.at)))
        .bind(column(evidence, |(row, _)| row.leaf.as_slice()))
}

fn bind_timers(query: Statement, rows: &[TimerRow]) -> Statement {
    query
        .bind(column(rows, |row| row.shard.0))
        .bind(column(rows, |row| stored_time(row.due)))
        .bind(column(rows, |row| row.case.0))
        .bind(column(rows, |row| target_columns(row.target).0))
        .bind(column(rows, |row| target_columns(row.target).1))
}

fn bind_counts(query: Statement, writes: &Writes<'_>) -> Statement {
    let born = &writes.born_closed;
    query
        .bind(column(&writes.closed, |row| row.state.as_str()))
        .bind(column(born, |(head, _)| head.shard.0))
        .bind(column(born, |(head, _)| head.workflow.as_str()))
        .bind(column(born, |(_, state)| state.as_str()))
}

fn bind_inbox(query: Statement, writes: &Writes<'_>) -> Statement {
    let (done, replies) = (writes.inbox_done, writes.replies);
    query
        .bind(column(done, |(shard, _)| shard.0))
        .bind(column(done, |(_, id)| *id))
        .bind(column(replies, |row| row.shard.0))
        .bind(column(replies, |row| row.id))
        .bind(column(replies, |row| stored_time(row.at)))
        .bind(column(replies, |row| row.accepted))
        .bind(column(replies, |row| row.message.as_str()))
}
