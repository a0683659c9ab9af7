//! What was found on systems and answers to nobody, and what people said about it.

use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, Utc};
use engine::core::id::Actor;
use engine::store::{InboxRow, StoreError, Transaction, Work};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Directory;
use super::database::{Sql, execute_all, rows_in, stored_time, time_text};
use crate::nhi::found::{Found, FoundStatus, Thing};

const OF_SYSTEM: Sql = Sql {
    table: "nhi_found",
    postgres: "
        SELECT to_jsonb(f)::text FROM nhi_found AS f
        WHERE f.shard_id = ($1::jsonb->>'shard_id')::int AND f.system = $1::jsonb->>'system'
          AND f.status IN ('open', 'accepted')",
    sqlite: "
        SELECT json_object('shard_id', shard_id, 'system', system, 'thing', thing, 'name', name, 'nhi_key', nhi_key,
            'enabled', json(CASE enabled WHEN 1 THEN 'true' WHEN 0 THEN 'false' ELSE 'null' END), 'status', status,
            'first_seen_at', first_seen_at, 'last_seen_at', last_seen_at, 'due_at', due_at, 'decided_by', decided_by,
            'reason', reason)
        FROM nhi_found
        WHERE shard_id = ?1 ->> 'shard_id' AND system = ?1 ->> 'system' AND status IN ('open', 'accepted')",
};

const LIST: Sql = Sql {
    table: "nhi_found",
    postgres: "
        SELECT to_jsonb(f)::text FROM nhi_found AS f
        WHERE ($1::jsonb->>'system' IS NULL OR f.system = $1::jsonb->>'system')
          AND (f.status = 'open' OR ($1::jsonb->>'all')::boolean)
          AND ($1::jsonb->>'due_before' IS NULL OR f.due_at < ($1::jsonb->>'due_before')::timestamptz)
        ORDER BY f.due_at, f.system, f.thing LIMIT ($1::jsonb->>'limit')::bigint",
    sqlite: "
        SELECT json_object('shard_id', shard_id, 'system', system, 'thing', thing, 'name', name, 'nhi_key', nhi_key,
            'enabled', json(CASE enabled WHEN 1 THEN 'true' WHEN 0 THEN 'false' ELSE 'null' END), 'status', status,
            'first_seen_at', first_seen_at, 'last_seen_at', last_seen_at, 'due_at', due_at, 'decided_by', decided_by,
            'reason', reason)
        FROM nhi_found
        WHERE (?1 ->> 'system' IS NULL OR system = ?1 ->> 'system')
          AND (status = 'open' OR ?1 ->> 'all')
          AND (?1 ->> 'due_before' IS NULL OR due_at < ?1 ->> 'due_before')
        ORDER BY due_at, system, thing LIMIT ?1 ->> 'limit'",
};

const PUT: Sql = Sql {
    table: "nhi_found",
    postgres: "
        INSERT INTO nhi_found (shard_id, system, thing, name, nhi_key, enabled, status, first_seen_at, last_seen_at,
            due_at, decided_by, reason)
        SELECT shard_id, system, thing, name, nhi_key, enabled, status, first_seen_at, last_seen_at, due_at, decided_by,
            reason
        FROM jsonb_populate_recordset(NULL::nhi_found, $1::jsonb)
        ON CONFLICT (shard_id, system, thing) DO UPDATE SET name = excluded.name, nhi_key = excluded.nhi_key,
            enabled = excluded.enabled, status = excluded.status, first_seen_at = excluded.first_seen_at,
            last_seen_at = excluded.last_seen_at, due_at = excluded.due_at, decided_by = excluded.decided_by,
            reason = excluded.reason",
    sqlite: "
        INSERT INTO nhi_found (shard_id, system, thing, name, nhi_key, enabled, status, first_seen_at, last_seen_at,
            due_at, decided_by, reason)
        SELECT value ->> 'shard_id', value ->> 'system', value ->> 'thing', value ->> 'name', value ->> 'nhi_key',
            value ->> 'enabled', value ->> 'status', value ->> 'first_seen_at', value ->> 'last_seen_at',
            value ->> 'due_at', value ->> 'decided_by', value ->> 'reason'
        FROM json_each(?1) WHERE true
        ON CONFLICT (shard_id, system, thing) DO UPDATE SET name = excluded.name, nhi_key = excluded.nhi_key,
            enabled = excluded.enabled, status = excluded.status, first_seen_at = excluded.first_seen_at,
            last_seen_at = excluded.last_seen_at, due_at = excluded.due_at, decided_by = excluded.decided_by,
            reason = excluded.reason",
};

/// A stored form: fields may be added, never renamed.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct FoundRow {
    shard_id: i32,
    system: String,
    thing: Thing,
    name: String,
    #[serde(default)]
    nhi_key: Option<String>,
    #[serde(default)]
    enabled: Option<bool>,
    status: FoundStatus,
    #[serde(with = "stored_time")]
    first_seen_at: DateTime<Utc>,
    #[serde(with = "stored_time")]
    last_seen_at: DateTime<Utc>,
    #[serde(with = "stored_time")]
    due_at: DateTime<Utc>,
    #[serde(default)]
    decided_by: Option<String>,
    #[serde(default)]
    reason: Option<String>,
}

impl From<FoundRow> for Found {
    fn from(row: FoundRow) -> Self {
        Self {
            system: row.system,
            thing: row.thing,
            name: row.name,
            nhi_key: row.nhi_key,
            enabled: row.enabled,
            status: row.status,
            first_seen_at: row.first_seen_at,
            last_seen_at: row.last_seen_at,
            due_at: row.due_at,
            decided_by: row.decided_by,
            reason: row.reason,
        }
    }
}

/// Which of what was found a listing wants.
#[derive(Debug, Clone, Default)]
pub struct FoundFilter {
    pub system: Option<String>,
    /// Also what is adopted, accepted or gone.
    pub all: bool,
    pub due_before: Option<DateTime<Utc>>,
}

/// That something found may stay as it is for a while.
#[derive(Debug, Clone, Copy)]
pub struct Decide<'a> {
    pub system: &'a str,
    pub thing: &'a Thing,
    pub until: DateTime<Utc>,
    pub by: &'a Actor,
    pub reason: &'a str,
}

struct Put {
    rows: Vec<FoundRow>,
}

#[async_trait::async_trait]
impl Work for Put {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        execute_all(transaction, &PUT, &self.rows).await?;
        Ok(Vec::new())
    }
}

struct Accept<'a> {
    shard_id: i32,
    decide: Decide<'a>,
    accepted: Mutex<Option<Found>>,
}

#[async_trait::async_trait]
impl Work for Accept<'_> {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        let decide = &self.decide;
        let parameter = json!({ "shard_id": self.shard_id, "system": decide.system });
        let rows: Vec<FoundRow> = rows_in(transaction, &OF_SYSTEM, &parameter).await?;
        let row = rows.into_iter().find(|row| row.thing == *decide.thing);
        let row = row.map(|row| FoundRow {
            status: FoundStatus::Accepted,
            due_at: decide.until,
            decided_by: Some(decide.by.0.clone()),
            reason: Some(decide.reason.to_owned()),
            ..row
        });
        let rows: Vec<FoundRow> = row.into_iter().collect();
        execute_all(transaction, &PUT, &rows).await?;
        *self.accepted.lock().unwrap_or_else(PoisonError::into_inner) =
            rows.into_iter().next().map(Found::from);
        Ok(Vec::new())
    }
}

impl Directory {
    /// What was found on a system and nobody answers for, or is accepted for a while.
    ///
    /// # Errors
    /// When the database does not answer, or holds what this program cannot read.
    pub async fn found_on(&self, system: &str) -> Result<Vec<Found>, StoreError> {
        let parameter = json!({ "shard_id": self.shard(system), "system": system });
        let rows: Vec<FoundRow> = self.reader().rows(&OF_SYSTEM, &parameter).await?;
        Ok(rows.into_iter().map(Found::from).collect())
    }

    /// What a filter wants, the soonest due first.
    ///
    /// # Errors
    /// When the database does not answer, or holds what this program cannot read.
    pub async fn found(&self, filter: &FoundFilter, limit: u32) -> Result<Vec<Found>, StoreError> {
        let parameter = json!({
            "system": filter.system,
            "all": filter.all,
            "due_before": filter.due_before.map(time_text),
            "limit": limit,
        });
        let rows: Vec<FoundRow> = self.reader().rows(&LIST, &parameter).await?;
        Ok(rows.into_iter().map(Found::from).collect())
    }

    /// Writes what changed in what was found.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn put_found(&self, found: &[Found]) -> Result<(), StoreError> {
        let rows = found.iter().map(|found| FoundRow {
            shard_id: self.shard(&found.system),
            system: found.system.clone(),
            thing: found.thing.clone(),
            name: found.name.clone(),
            nhi_key: found.nhi_key.clone(),
            enabled: found.enabled,
            status: found.status,
            first_seen_at: found.first_seen_at,
            last_seen_at: found.last_seen_at,
            due_at: found.due_at,
            decided_by: found.decided_by.clone(),
            reason: found.reason.clone(),
        });
        let work = Put {
            rows: rows.collect(),
        };
        self.write(&work).await
    }

    /// Accepts something that was found, for a while; `None` when nothing of that name is open.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn accept_found(&self, decide: Decide<'_>) -> Result<Option<Found>, StoreError> {
        let work = Accept {
            shard_id: self.shard(decide.system),
            decide,
            accepted: Mutex::default(),
        };
        self.write(&work).await?;
        Ok(work
            .accepted
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner))
    }
}
