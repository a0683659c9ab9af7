//! What the guard remembers of every source: what it changed lately, which of its events wait for a person, and whether it
//! is believed.

use engine::core::Timestamp;
use engine::store::{InboxRow, StoreError, Transaction, Work};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Directory;
use super::database::{Sql, execute, execute_all, rows_in, stored_time, time_text};
use crate::policy::guard::Slice;
use crate::sources::BusinessEvent;

/// The most files of a source that are looked at to tell whether it repeats itself.
const FILES_LOOKED_AT: u32 = 400;

/// What one change of a source did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct TallyRow {
    pub shard_id: i32,
    pub source: String,
    pub tally_id: String,
    #[serde(with = "stored_time")]
    pub at: Timestamp,
    pub slices: Vec<Slice>,
}

/// An event that waits for a person.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct HeldEventRow {
    pub shard_id: i32,
    pub source: String,
    pub event_id: String,
    pub subject: String,
    pub event: BusinessEvent,
    #[serde(with = "stored_time")]
    pub held_at: Timestamp,
}

/// Why a source is not believed at the moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoubtRow {
    pub shard_id: i32,
    pub source: String,
    #[serde(with = "stored_time")]
    pub since: Timestamp,
    pub reason: String,
}

/// How many people hold something.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct AccessCount {
    pub system: String,
    /// `None` for an account.
    pub entitlement: Option<String>,
    pub roles: Vec<RoleName>,
    pub count: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct RoleName {
    pub role: String,
}

/// A file of a source, as far as it tells whether the source repeats itself.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct FileSeen {
    pub as_of: chrono::NaiveDate,
    pub digest: String,
    pub row_count: u64,
    /// 0 or 1, or a truth value.
    pub complete: Value,
    pub decided_by: Option<String>,
}

/// An account that is open.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct AccountName {
    pub identity_key: String,
    pub system: String,
    pub name: String,
}

impl Directory {
    /// All accounts that are open. Only asked when a policy protects accounts by name.
    pub(crate) async fn account_names(&self) -> Result<Vec<AccountName>, StoreError> {
        self.reader().rows(&ACCOUNTS, &Value::Null).await
    }

    /// What a source did around `at`, nearer than `window_ms`.
    pub(crate) async fn tallies(
        &self,
        source: &str,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Vec<TallyRow>, StoreError> {
        let parameter = around(self.shard(source), source, from, to);
        self.reader().rows(&TALLIES, &parameter).await
    }

    /// The events of a source that wait for a person.
    pub(crate) async fn held_events(&self, source: &str) -> Result<Vec<HeldEventRow>, StoreError> {
        let parameter = json!({ "shard_id": self.shard(source), "source": source });
        self.reader().rows(&HELD, &parameter).await
    }

    /// How many people hold each account and right, by what gives it.
    pub(crate) async fn access_counts(&self) -> Result<Vec<AccessCount>, StoreError> {
        self.reader().rows(&ACCESS, &Value::Null).await
    }

    /// How many people of a source are expected or active, with this value of an attribute if one is named; counted up to
    /// `most`.
    pub(crate) async fn people_count(
        &self,
        source: &str,
        slice: Option<(&str, &str)>,
        most: u64,
    ) -> Result<u64, StoreError> {
        let parameter = json!({
            "source": source,
            "attribute": slice.map(|(attribute, _)| attribute),
            "value": slice.map(|(_, value)| value),
            "most": most.min(u64::from(u32::MAX)),
        });
        let count = self.reader().row(&PEOPLE, &parameter).await?;
        Ok(count.unwrap_or(0))
    }

    /// The files of a source that were applied, the newest day first.
    pub(crate) async fn files_seen(&self, source: &str) -> Result<Vec<FileSeen>, StoreError> {
        let parameter = json!({
            "shard_id": self.shard(source), "source": source, "limit": FILES_LOOKED_AT,
        });
        self.reader().rows(&FILES, &parameter).await
    }

    /// Sources that are not believed at the moment.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn doubts(&self) -> Result<Vec<DoubtRow>, StoreError> {
        self.reader().rows(&DOUBTS, &Value::Null).await
    }
}

fn around(shard_id: i32, source: &str, from: Timestamp, to: Timestamp) -> Value {
    json!({
        "shard_id": shard_id, "source": source, "from": time_text(from), "to": time_text(to),
    })
}

/// As [`Directory::tallies`], inside a transaction that holds the lock of the source's guard.
pub(crate) async fn tallies_in(
    transaction: &mut Transaction<'_>,
    shard_id: i32,
    source: &str,
    from: Timestamp,
    to: Timestamp,
) -> Result<Vec<TallyRow>, StoreError> {
    rows_in(transaction, &TALLIES, &around(shard_id, source, from, to)).await
}

/// Remembers what a change did, and forgets what lies before `since`.
pub(crate) async fn put_tally(
    transaction: &mut Transaction<'_>,
    row: &TallyRow,
    since: Timestamp,
) -> Result<(), StoreError> {
    let parameter =
        json!({ "shard_id": row.shard_id, "source": row.source, "since": time_text(since) });
    execute(transaction, &FORGET_TALLIES, &parameter).await?;
    execute(transaction, &PUT_TALLY, &[row]).await.map(|_| ())
}

/// Forgets all that a source did: a person has looked at it.
pub(crate) async fn forget_tallies(
    transaction: &mut Transaction<'_>,
    shard_id: i32,
    source: &str,
) -> Result<(), StoreError> {
    let parameter =
        json!({ "shard_id": shard_id, "source": source, "since": "9999-12-31T00:00:00Z" });
    execute(transaction, &FORGET_TALLIES, &parameter)
        .await
        .map(|_| ())
}

pub(crate) async fn put_held_events(
    transaction: &mut Transaction<'_>,
    rows: &[HeldEventRow],
) -> Result<(), StoreError> {
    execute_all(transaction, &PUT_HELD, rows).await.map(|_| ())
}

pub(crate) async fn held_events_in(
    transaction: &mut Transaction<'_>,
    shard_id: i32,
    source: &str,
) -> Result<Vec<HeldEventRow>, StoreError> {
    let parameter = json!({ "shard_id": shard_id, "source": source });
    rows_in(transaction, &HELD, &parameter).await
}

/// Takes back all events of a source that are held.
pub(crate) async fn release_events(
    transaction: &mut Transaction<'_>,
    shard_id: i32,
    source: &str,
) -> Result<(), StoreError> {
    let parameter = json!({ "shard_id": shard_id, "source": source });
    execute(transaction, &RELEASE, &parameter).await.map(|_| ())
}

/// That a source is believed.
pub(crate) async fn believe(
    transaction: &mut Transaction<'_>,
    shard_id: i32,
    source: &str,
) -> Result<(), StoreError> {
    let parameter = json!({ "shard_id": shard_id, "source": source });
    execute(transaction, &BELIEVE, &parameter).await.map(|_| ())
}

/// That a source is not believed, or is again.
pub(crate) struct Doubt<'a> {
    pub shard_id: i32,
    pub source: &'a str,
    pub at: Timestamp,
    /// `None`: it is believed.
    pub reason: Option<&'a str>,
}

#[async_trait::async_trait]
impl Work for Doubt<'_> {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        let parameter = json!({
            "shard_id": self.shard_id,
            "source": self.source,
            "since": time_text(self.at),
            "reason": self.reason,
        });
        let sql = if self.reason.is_some() {
            &DOUBT
        } else {
            &BELIEVE
        };
        execute(transaction, sql, &parameter).await?;
        Ok(Vec::new())
    }
}

const TALLIES: Sql = Sql {
    table: "guard_tally",
    postgres: "
        SELECT to_jsonb(t)::text FROM guard_tally AS t
        WHERE t.shard_id = ($1::jsonb->>'shard_id')::int AND t.source = $1::jsonb->>'source'
          AND t.at > ($1::jsonb->>'from')::timestamptz AND t.at < ($1::jsonb->>'to')::timestamptz
        ORDER BY t.tally_id",
    sqlite: "
        SELECT json_object('shard_id', shard_id, 'source', source, 'tally_id', tally_id, 'at', at, 'slices', json(slices))
        FROM guard_tally
        WHERE shard_id = ?1 ->> 'shard_id' AND source = ?1 ->> 'source' AND at > ?1 ->> 'from' AND at < ?1 ->> 'to'
        ORDER BY tally_id",
};

const PUT_TALLY: Sql = Sql {
    table: "guard_tally",
    postgres: "
        INSERT INTO guard_tally (shard_id, source, tally_id, at, slices)
        SELECT shard_id, source, tally_id, at, slices FROM jsonb_populate_recordset(NULL::guard_tally, $1::jsonb)
        ON CONFLICT (shard_id, source, tally_id) DO UPDATE SET at = excluded.at, slices = excluded.slices",
    sqlite: "
        INSERT INTO guard_tally (shard_id, source, tally_id, at, slices)
        SELECT value ->> 'shard_id', value ->> 'source', value ->> 'tally_id', value ->> 'at', value -> 'slices'
        FROM json_each(?1) WHERE true
        ON CONFLICT (shard_id, source, tally_id) DO UPDATE SET at = excluded.at, slices = excluded.slices",
};

const FORGET_TALLIES: Sql = Sql {
    table: "guard_tally",
    postgres: "
        DELETE FROM guard_tally
        WHERE shard_id = ($1::jsonb->>'shard_id')::int AND source = $1::jsonb->>'source'
          AND at <= ($1::jsonb->>'since')::timestamptz",
    sqlite: "
        DELETE FROM guard_tally
        WHERE shard_id = ?1 ->> 'shard_id' AND source = ?1 ->> 'source' AND at <= ?1 ->> 'since'",
};

const PUT_HELD: Sql = Sql {
    table: "guard_held_event",
    postgres: "
        INSERT INTO guard_held_event (shard_id, source, event_id, subject, event, held_at)
        SELECT shard_id, source, event_id, subject, event, held_at
        FROM jsonb_populate_recordset(NULL::guard_held_event, $1::jsonb)
        ON CONFLICT (shard_id, source, event_id) DO NOTHING",
    sqlite: "
        INSERT INTO guard_held_event (shard_id, source, event_id, subject, event, held_at)
        SELECT value ->> 'shard_id', value ->> 'source', value ->> 'event_id', value ->> 'subject', value -> 'event',
            value ->> 'held_at'
        FROM json_each(?1) WHERE true
        ON CONFLICT (shard_id, source, event_id) DO NOTHING",
};

const HELD: Sql = Sql {
    table: "guard_held_event",
    postgres: "
        SELECT to_jsonb(h)::text FROM guard_held_event AS h
        WHERE h.shard_id = ($1::jsonb->>'shard_id')::int AND h.source = $1::jsonb->>'source'
        ORDER BY h.subject, h.held_at, h.event_id",
    sqlite: "
        SELECT json_object('shard_id', shard_id, 'source', source, 'event_id', event_id, 'subject', subject,
            'event', json(event), 'held_at', held_at)
        FROM guard_held_event WHERE shard_id = ?1 ->> 'shard_id' AND source = ?1 ->> 'source'
        ORDER BY subject, held_at, event_id",
};

const RELEASE: Sql = Sql {
    table: "guard_held_event",
    postgres: "
        DELETE FROM guard_held_event
        WHERE shard_id = ($1::jsonb->>'shard_id')::int AND source = $1::jsonb->>'source'",
    sqlite: "DELETE FROM guard_held_event WHERE shard_id = ?1 ->> 'shard_id' AND source = ?1 ->> 'source'",
};

/// Only asked when a limit of a system, role or right may be crossed.
const ACCESS: Sql = Sql {
    table: "grant_held",
    postgres: "
        SELECT jsonb_build_object('system', system, 'entitlement', entitlement, 'roles', reasons, 'count', count(*))::text
        FROM grant_held WHERE status = 'active' AND $1::jsonb IS NOT NULL
        GROUP BY system, entitlement, reasons
        UNION ALL
        SELECT jsonb_build_object('system', system, 'entitlement', NULL, 'roles', '[]'::jsonb, 'count', count(*))::text
        FROM account WHERE status = 'active' GROUP BY system",
    sqlite: "
        SELECT json_object('system', system, 'entitlement', entitlement, 'roles', json(reasons), 'count', count(*))
        FROM grant_held WHERE status = 'active' AND ?1 IS NOT NULL
        GROUP BY system, entitlement, reasons
        UNION ALL
        SELECT json_object('system', system, 'entitlement', NULL, 'roles', json('[]'), 'count', count(*))
        FROM account WHERE status = 'active' GROUP BY system",
};

const ACCOUNTS: Sql = Sql {
    table: "account",
    postgres: "
        SELECT jsonb_build_object('identity_key', identity_key, 'system', system, 'name', name)::text
        FROM account WHERE status = 'active' AND $1::jsonb IS NOT NULL",
    sqlite: "
        SELECT json_object('identity_key', identity_key, 'system', system, 'name', name)
        FROM account WHERE status = 'active' AND ?1 IS NOT NULL",
};

const PEOPLE: Sql = Sql {
    table: "identity",
    postgres: "
        SELECT to_jsonb(count(*))::text FROM (
            SELECT 1 FROM identity
            WHERE source = $1::jsonb->>'source' AND status IN ('expected', 'active')
              AND (($1::jsonb->>'attribute') IS NULL
                   OR coalesce(attributes->>($1::jsonb->>'attribute'), '') = $1::jsonb->>'value')
            LIMIT ($1::jsonb->>'most')::bigint) AS found",
    sqlite: "
        SELECT CAST(count(*) AS TEXT) FROM (
            SELECT 1 FROM identity
            WHERE source = ?1 ->> 'source' AND status IN ('expected', 'active')
              AND (?1 ->> 'attribute' IS NULL
                   OR coalesce(CAST(attributes ->> (?1 ->> 'attribute') AS TEXT), '') = ?1 ->> 'value')
            LIMIT ?1 ->> 'most') AS found",
};

const FILES: Sql = Sql {
    table: "source_snapshot",
    postgres: "
        SELECT jsonb_build_object('as_of', as_of, 'digest', digest, 'row_count', row_count, 'complete', complete,
            'decided_by', decided_by)::text
        FROM source_snapshot
        WHERE shard_id = ($1::jsonb->>'shard_id')::int AND source = $1::jsonb->>'source' AND status = 'applied'
          AND digest <> ''
        ORDER BY as_of DESC, imported_at DESC LIMIT ($1::jsonb->>'limit')::bigint",
    sqlite: "
        SELECT json_object('as_of', as_of, 'digest', digest, 'row_count', row_count, 'complete', complete,
            'decided_by', decided_by)
        FROM source_snapshot
        WHERE shard_id = ?1 ->> 'shard_id' AND source = ?1 ->> 'source' AND status = 'applied' AND digest <> ''
        ORDER BY as_of DESC, imported_at DESC LIMIT ?1 ->> 'limit'",
};

const DOUBTS: Sql = Sql {
    table: "source_doubt",
    postgres: "SELECT to_jsonb(d)::text FROM source_doubt AS d WHERE $1::jsonb IS NOT NULL ORDER BY d.source",
    sqlite: "
        SELECT json_object('shard_id', shard_id, 'source', source, 'since', since, 'reason', reason)
        FROM source_doubt WHERE ?1 IS NOT NULL ORDER BY source",
};

const DOUBT: Sql = Sql {
    table: "source_doubt",
    postgres: "
        INSERT INTO source_doubt (shard_id, source, since, reason)
        VALUES (($1::jsonb->>'shard_id')::int, $1::jsonb->>'source', ($1::jsonb->>'since')::timestamptz,
            $1::jsonb->>'reason')
        ON CONFLICT (shard_id, source) DO UPDATE SET reason = excluded.reason",
    sqlite: "
        INSERT INTO source_doubt (shard_id, source, since, reason)
        VALUES (?1 ->> 'shard_id', ?1 ->> 'source', ?1 ->> 'since', ?1 ->> 'reason')
        ON CONFLICT (shard_id, source) DO UPDATE SET reason = excluded.reason",
};

const BELIEVE: Sql = Sql {
    table: "source_doubt",
    postgres: "
        DELETE FROM source_doubt
        WHERE shard_id = ($1::jsonb->>'shard_id')::int AND source = $1::jsonb->>'source'",
    sqlite: "DELETE FROM source_doubt WHERE shard_id = ?1 ->> 'shard_id' AND source = ?1 ->> 'source'",
};
