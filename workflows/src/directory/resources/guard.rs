//! What the guard of a source that pushes remembers: who was taken away when, and what is held back.

use std::collections::BTreeSet;

use engine::core::Timestamp;
use engine::store::{StoreError, Transaction};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::directory::Directory;
use crate::directory::database::{
    ROWS_PER_STATEMENT_MAX, Sql, execute, execute_all, rows_in, stored_time, time_text,
};

/// A person whose change the guard holds back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct HeldRow {
    pub shard_id: i32,
    pub source: String,
    pub record_key: String,
    /// `None` when the source has the person no more.
    pub record: Option<crate::sources::Record>,
    pub changes: Vec<crate::sources::Change>,
    #[serde(with = "stored_time")]
    pub held_at: Timestamp,
}

/// Locks the guard of a source; gives what waits for a person, if something does.
pub(crate) async fn lock_guard(
    transaction: &mut Transaction<'_>,
    shard_id: i32,
    source: &str,
    now: Timestamp,
) -> Result<Option<String>, StoreError> {
    #[derive(Deserialize)]
    struct Guard {
        snapshot_id: Option<String>,
    }
    let parameter = json!({ "shard_id": shard_id, "source": source, "at": time_text(now) });
    execute(transaction, &TOUCH_GUARD, &parameter).await?;
    let found: Vec<Guard> = rows_in(transaction, &READ_GUARD, &parameter).await?;
    Ok(found.into_iter().next().and_then(|guard| guard.snapshot_id))
}

/// Notes what waits for a person.
pub(crate) async fn set_guard(
    transaction: &mut Transaction<'_>,
    shard_id: i32,
    source: &str,
    snapshot_id: Option<&str>,
) -> Result<(), StoreError> {
    let parameter = json!({ "shard_id": shard_id, "source": source, "snapshot_id": snapshot_id });
    execute(transaction, &SET_GUARD, &parameter)
        .await
        .map(|_| ())
}

/// How many people were taken away since, beside `not_these`.
pub(crate) async fn removed_since(
    transaction: &mut Transaction<'_>,
    shard_id: i32,
    source: &str,
    since: Timestamp,
    not_these: &[&str],
) -> Result<u64, StoreError> {
    let parameter = json!({
        "shard_id": shard_id, "source": source, "since": time_text(since), "not_these": not_these,
    });
    let found: Vec<u64> = rows_in(transaction, &REMOVED, &parameter).await?;
    Ok(found.into_iter().next().unwrap_or(0))
}

/// How many people the source has who have not left by `today`; counted up to `most`.
pub(crate) async fn present(
    transaction: &mut Transaction<'_>,
    shard_id: i32,
    source: &str,
    today: chrono::NaiveDate,
    most: u64,
) -> Result<u64, StoreError> {
    let parameter = json!({ "shard_id": shard_id, "source": source, "today": today, "most": most });
    let found: Vec<u64> = rows_in(transaction, &PRESENT, &parameter).await?;
    Ok(found.into_iter().next().unwrap_or(0))
}

/// Notes that people are taken away, and forgets those of before `since`.
pub(crate) async fn put_removals(
    transaction: &mut Transaction<'_>,
    shard_id: i32,
    source: &str,
    keys: &[&str],
    at: Timestamp,
    since: Timestamp,
) -> Result<(), StoreError> {
    let rows: Vec<Value> = keys
        .iter()
        .map(|key| {
            json!({
                "shard_id": shard_id, "source": source, "record_key": key, "at": time_text(at),
            })
        })
        .collect();
    execute_all(transaction, &PUT_REMOVALS, &rows).await?;
    forget_removals(transaction, shard_id, source, since).await
}

/// Forgets who was taken away before `since`.
pub(crate) async fn forget_removals(
    transaction: &mut Transaction<'_>,
    shard_id: i32,
    source: &str,
    since: Timestamp,
) -> Result<(), StoreError> {
    let parameter = json!({
        "shard_id": shard_id, "source": source, "since": time_text(since),
    });
    execute(transaction, &FORGET_REMOVALS, &parameter)
        .await
        .map(|_| ())
}

pub(crate) async fn put_held(
    transaction: &mut Transaction<'_>,
    rows: &[HeldRow],
) -> Result<(), StoreError> {
    execute_all(transaction, &PUT_HELD, rows).await.map(|_| ())
}

/// What is held back of a source.
pub(crate) async fn held(
    transaction: &mut Transaction<'_>,
    shard_id: i32,
    source: &str,
) -> Result<Vec<HeldRow>, StoreError> {
    let parameter = json!({ "shard_id": shard_id, "source": source });
    rows_in(transaction, &HELD, &parameter).await
}

/// How many people are held back of a source, and the first of them.
pub(crate) async fn held_count(
    transaction: &mut Transaction<'_>,
    shard_id: i32,
    source: &str,
    examples: usize,
) -> Result<(u64, Vec<String>), StoreError> {
    #[derive(Deserialize)]
    struct Counted {
        count: u64,
        examples: Vec<String>,
    }
    let parameter = json!({ "shard_id": shard_id, "source": source, "examples": examples });
    let found: Vec<Counted> = rows_in(transaction, &HELD_COUNT, &parameter).await?;
    let counted = found.into_iter().next();
    Ok(counted.map_or_else(Default::default, |counted| {
        (counted.count, counted.examples)
    }))
}

/// What is held back of a source, for people to look at.
pub(crate) async fn held_of(
    directory: &Directory,
    shard_id: i32,
    source: &str,
) -> Result<Vec<HeldRow>, StoreError> {
    let parameter = json!({ "shard_id": shard_id, "source": source });
    directory.reader().rows(&HELD, &parameter).await
}

/// Takes back what is held of these people; says of whom something was.
pub(crate) async fn release(
    transaction: &mut Transaction<'_>,
    shard_id: i32,
    source: &str,
    keys: &[&str],
) -> Result<BTreeSet<String>, StoreError> {
    let mut released = BTreeSet::new();
    for part in keys.chunks(ROWS_PER_STATEMENT_MAX) {
        let rows: Vec<Value> = part
            .iter()
            .map(|key| json!({ "shard_id": shard_id, "source": source, "record_key": key }))
            .collect();
        released.extend(rows_in::<String>(transaction, &RELEASE, &rows).await?);
    }
    Ok(released)
}

/// Takes back all that is held of a source.
pub(crate) async fn release_all(
    transaction: &mut Transaction<'_>,
    shard_id: i32,
    source: &str,
) -> Result<(), StoreError> {
    let parameter = json!({ "shard_id": shard_id, "source": source });
    execute(transaction, &RELEASE_ALL, &parameter)
        .await
        .map(|_| ())
}

const TOUCH_GUARD: Sql = Sql {
    table: "scim_guard",
    postgres: "
        INSERT INTO scim_guard (shard_id, source, changed_at)
        VALUES (($1::jsonb->>'shard_id')::int, $1::jsonb->>'source', ($1::jsonb->>'at')::timestamptz)
        ON CONFLICT (shard_id, source) DO UPDATE SET changed_at = excluded.changed_at",
    sqlite: "
        INSERT INTO scim_guard (shard_id, source, changed_at)
        VALUES (?1 ->> 'shard_id', ?1 ->> 'source', ?1 ->> 'at')
        ON CONFLICT (shard_id, source) DO UPDATE SET changed_at = excluded.changed_at",
};

const READ_GUARD: Sql = Sql {
    table: "scim_guard",
    postgres: "
        SELECT to_jsonb(g)::text FROM scim_guard AS g
        WHERE g.shard_id = ($1::jsonb->>'shard_id')::int AND g.source = $1::jsonb->>'source'",
    sqlite: "
        SELECT json_object('snapshot_id', snapshot_id) FROM scim_guard
        WHERE shard_id = ?1 ->> 'shard_id' AND source = ?1 ->> 'source'",
};

const SET_GUARD: Sql = Sql {
    table: "scim_guard",
    postgres: "
        UPDATE scim_guard SET snapshot_id = $1::jsonb->>'snapshot_id'
        WHERE shard_id = ($1::jsonb->>'shard_id')::int AND source = $1::jsonb->>'source'",
    sqlite: "
        UPDATE scim_guard SET snapshot_id = ?1 ->> 'snapshot_id'
        WHERE shard_id = ?1 ->> 'shard_id' AND source = ?1 ->> 'source'",
};

const REMOVED: Sql = Sql {
    table: "scim_removal",
    postgres:
        "
        SELECT to_jsonb(count(*))::text FROM scim_removal
        WHERE shard_id = ($1::jsonb->>'shard_id')::int AND source = $1::jsonb->>'source'
          AND at > ($1::jsonb->>'since')::timestamptz AND NOT ($1::jsonb->'not_these') ? record_key",
    sqlite: "
        SELECT CAST(count(*) AS TEXT) FROM scim_removal
        WHERE shard_id = ?1 ->> 'shard_id' AND source = ?1 ->> 'source' AND at > ?1 ->> 'since'
          AND record_key NOT IN (SELECT value FROM json_each(?1, '$.not_these'))",
};

const PRESENT: Sql = Sql {
    table: "source_record",
    postgres: "
        SELECT to_jsonb(count(*))::text FROM (
            SELECT 1 FROM source_record
            WHERE shard_id = ($1::jsonb->>'shard_id')::int AND source = $1::jsonb->>'source' AND status = 'present'
              AND coalesce(attributes->>'employment_status', '') <> 'ended'
              -- Days in this form sort as text.
              AND coalesce(attributes->>'employment_end', '9999') >= $1::jsonb->>'today'
            LIMIT ($1::jsonb->>'most')::bigint) AS found",
    sqlite: "
        SELECT CAST(count(*) AS TEXT) FROM (
            SELECT 1 FROM source_record
            WHERE shard_id = ?1 ->> 'shard_id' AND source = ?1 ->> 'source' AND status = 'present'
              AND coalesce(attributes ->> 'employment_status', '') <> 'ended'
              AND coalesce(attributes ->> 'employment_end', '9999') >= ?1 ->> 'today'
            LIMIT ?1 ->> 'most') AS found",
};

const PUT_REMOVALS: Sql = Sql {
    table: "scim_removal",
    postgres: "
        INSERT INTO scim_removal (shard_id, source, record_key, at)
        SELECT shard_id, source, record_key, at FROM jsonb_populate_recordset(NULL::scim_removal, $1::jsonb)
        ON CONFLICT (shard_id, source, record_key) DO UPDATE SET at = excluded.at",
    sqlite: "
        INSERT INTO scim_removal (shard_id, source, record_key, at)
        SELECT value ->> 'shard_id', value ->> 'source', value ->> 'record_key', value ->> 'at'
        FROM json_each(?1) WHERE true
        ON CONFLICT (shard_id, source, record_key) DO UPDATE SET at = excluded.at",
};

const FORGET_REMOVALS: Sql = Sql {
    table: "scim_removal",
    postgres: "
        DELETE FROM scim_removal
        WHERE shard_id = ($1::jsonb->>'shard_id')::int AND source = $1::jsonb->>'source'
          AND at <= ($1::jsonb->>'since')::timestamptz",
    sqlite: "
        DELETE FROM scim_removal
        WHERE shard_id = ?1 ->> 'shard_id' AND source = ?1 ->> 'source' AND at <= ?1 ->> 'since'",
};

const PUT_HELD: Sql = Sql {
    table: "scim_held",
    postgres: "
        INSERT INTO scim_held (shard_id, source, record_key, record, changes, held_at)
        SELECT shard_id, source, record_key, nullif(record, 'null'::jsonb), changes, held_at
        FROM jsonb_populate_recordset(NULL::scim_held, $1::jsonb)
        ON CONFLICT (shard_id, source, record_key) DO UPDATE SET
            record = excluded.record, changes = excluded.changes, held_at = excluded.held_at",
    sqlite: "
        INSERT INTO scim_held (shard_id, source, record_key, record, changes, held_at)
        SELECT value ->> 'shard_id', value ->> 'source', value ->> 'record_key', nullif(value -> 'record', 'null'),
            value -> 'changes', value ->> 'held_at'
        FROM json_each(?1) WHERE true
        ON CONFLICT (shard_id, source, record_key) DO UPDATE SET
            record = excluded.record, changes = excluded.changes, held_at = excluded.held_at",
};

const HELD: Sql = Sql {
    table: "scim_held",
    postgres: "
        SELECT to_jsonb(h)::text FROM scim_held AS h
        WHERE h.shard_id = ($1::jsonb->>'shard_id')::int AND h.source = $1::jsonb->>'source'
        ORDER BY h.record_key",
    sqlite: "
        SELECT json_object('shard_id', shard_id, 'source', source, 'record_key', record_key, 'record', json(record),
            'changes', json(changes), 'held_at', held_at)
        FROM scim_held WHERE shard_id = ?1 ->> 'shard_id' AND source = ?1 ->> 'source'
        ORDER BY record_key",
};

const HELD_COUNT: Sql = Sql {
    table: "scim_held",
    postgres: "
        SELECT jsonb_build_object(
            'count', (SELECT count(*) FROM scim_held
                WHERE shard_id = ($1::jsonb->>'shard_id')::int AND source = $1::jsonb->>'source'),
            'examples', coalesce((SELECT jsonb_agg(record_key) FROM (
                SELECT record_key FROM scim_held
                WHERE shard_id = ($1::jsonb->>'shard_id')::int AND source = $1::jsonb->>'source'
                ORDER BY record_key LIMIT ($1::jsonb->>'examples')::bigint) AS first), '[]'::jsonb))::text",
    sqlite: "
        SELECT json_object(
            'count', (SELECT count(*) FROM scim_held WHERE shard_id = ?1 ->> 'shard_id' AND source = ?1 ->> 'source'),
            'examples', json((SELECT json_group_array(record_key) FROM (
                SELECT record_key FROM scim_held WHERE shard_id = ?1 ->> 'shard_id' AND source = ?1 ->> 'source'
                ORDER BY record_key LIMIT ?1 ->> 'examples'))))",
};

const RELEASE: Sql = Sql {
    table: "scim_held",
    postgres: "
        DELETE FROM scim_held AS h
        USING jsonb_to_recordset($1::jsonb) AS gone(shard_id int, source text, record_key text)
        WHERE h.shard_id = gone.shard_id AND h.source = gone.source AND h.record_key = gone.record_key
        RETURNING to_jsonb(h.record_key)::text",
    sqlite: "
        DELETE FROM scim_held
        WHERE (shard_id, source, record_key) IN (
            SELECT value ->> 'shard_id', value ->> 'source', value ->> 'record_key' FROM json_each(?1))
        RETURNING json_quote(record_key)",
};

const RELEASE_ALL: Sql = Sql {
    table: "scim_held",
    postgres: "
        DELETE FROM scim_held
        WHERE shard_id = ($1::jsonb->>'shard_id')::int AND source = $1::jsonb->>'source'",
    sqlite: "DELETE FROM scim_held WHERE shard_id = ?1 ->> 'shard_id' AND source = ?1 ->> 'source'",
};
