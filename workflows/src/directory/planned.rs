//! Workflows that start before an event takes effect, or after, and when.

use std::collections::BTreeSet;

use engine::core::Timestamp;
use engine::store::{StoreError, Transaction};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Directory;
use super::database::{Sql, execute_all, rows_of, stored_time, time_text};

/// That a workflow starts for an event, or has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedRow {
    pub shard_id: i32,
    pub subject: String,
    pub workflow: String,
    pub event_id: String,
    #[serde(with = "stored_time")]
    pub due_at: Timestamp,
    pub status: PlannedStatus,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlannedStatus {
    Planned,
    /// Its time came while nothing was to be given to the person: whatever lets them have something starts it, or drops it.
    Held,
    Started,
}

/// What is planned for these subjects, and what was.
pub(crate) async fn planned_in(
    transaction: &mut Transaction<'_>,
    subjects: &[(i32, String)],
) -> Result<Vec<PlannedRow>, StoreError> {
    rows_of(transaction, &OF_SUBJECTS, subjects).await
}

pub(crate) async fn put_planned(
    transaction: &mut Transaction<'_>,
    rows: &[PlannedRow],
) -> Result<(), StoreError> {
    execute_all(transaction, &PUT, rows).await.map(|_| ())
}

pub(crate) async fn drop_planned(
    transaction: &mut Transaction<'_>,
    rows: &[PlannedRow],
) -> Result<(), StoreError> {
    execute_all(transaction, &DROP, rows).await.map(|_| ())
}

/// Subjects for whom something is to start by `now`, of at most `limit` plans, soonest first.
pub(crate) async fn planned_due(
    directory: &Directory,
    now: Timestamp,
    limit: usize,
) -> Result<BTreeSet<(i32, String)>, StoreError> {
    let parameter = json!({ "until": time_text(now), "limit": limit });
    let rows: Vec<PlannedRow> = directory.reader().rows(&NEXT, &parameter).await?;
    Ok(rows
        .into_iter()
        .map(|row| (row.shard_id, row.subject))
        .collect())
}

impl Directory {
    /// What is planned, soonest first.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn planned(&self, limit: usize) -> Result<Vec<PlannedRow>, StoreError> {
        let parameter = json!({ "until": Value::Null, "limit": limit });
        self.reader().rows(&NEXT, &parameter).await
    }
}

const OF_SUBJECTS: Sql = Sql {
    table: "planned_start",
    postgres: "
        SELECT to_jsonb(p)::text FROM planned_start AS p
        JOIN jsonb_to_recordset($1::jsonb) AS wanted(shard_id int, key text)
          ON p.shard_id = wanted.shard_id AND p.subject = wanted.key",
    sqlite: "
        SELECT json_object('shard_id', p.shard_id, 'subject', p.subject, 'workflow', p.workflow, 'event_id', p.event_id,
            'due_at', p.due_at, 'status', p.status)
        FROM json_each(?1) AS wanted
        JOIN planned_start AS p ON p.shard_id = wanted.value ->> 'shard_id' AND p.subject = wanted.value ->> 'key'",
};

const PUT: Sql = Sql {
    table: "planned_start",
    postgres: "
        INSERT INTO planned_start (shard_id, subject, workflow, event_id, due_at, status)
        SELECT shard_id, subject, workflow, event_id, due_at, status
        FROM jsonb_populate_recordset(NULL::planned_start, $1::jsonb)
        ON CONFLICT (shard_id, subject, workflow, event_id)
        DO UPDATE SET due_at = EXCLUDED.due_at, status = EXCLUDED.status",
    sqlite: "
        INSERT INTO planned_start (shard_id, subject, workflow, event_id, due_at, status)
        SELECT value ->> 'shard_id', value ->> 'subject', value ->> 'workflow', value ->> 'event_id', value ->> 'due_at',
            value ->> 'status'
        FROM json_each(?1) WHERE true
        ON CONFLICT (shard_id, subject, workflow, event_id)
        DO UPDATE SET due_at = excluded.due_at, status = excluded.status",
};

const DROP: Sql = Sql {
    table: "planned_start",
    postgres: "
        DELETE FROM planned_start AS p
        USING jsonb_to_recordset($1::jsonb) AS gone(shard_id int, subject text, workflow text, event_id text)
        WHERE p.shard_id = gone.shard_id AND p.subject = gone.subject AND p.workflow = gone.workflow
          AND p.event_id = gone.event_id",
    sqlite: "
        DELETE FROM planned_start
        WHERE (shard_id, subject, workflow, event_id) IN (
            SELECT value ->> 'shard_id', value ->> 'subject', value ->> 'workflow', value ->> 'event_id'
            FROM json_each(?1))",
};

const NEXT: Sql = Sql {
    table: "planned_start",
    postgres: "
        SELECT to_jsonb(p)::text FROM planned_start AS p
        WHERE p.status = 'planned'
          AND (($1::jsonb->>'until') IS NULL OR p.due_at <= ($1::jsonb->>'until')::timestamptz)
        ORDER BY p.due_at LIMIT ($1::jsonb->>'limit')::bigint",
    sqlite: "
        SELECT json_object('shard_id', shard_id, 'subject', subject, 'workflow', workflow, 'event_id', event_id,
            'due_at', due_at, 'status', status)
        FROM planned_start
        WHERE status = 'planned' AND (?1 ->> 'until' IS NULL OR due_at <= ?1 ->> 'until')
        ORDER BY due_at LIMIT ?1 ->> 'limit'",
};
