//! What happened, once each.

use std::collections::{BTreeMap, BTreeSet};

use engine::core::Timestamp;
use engine::store::{StoreError, Transaction};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::database::{
    ROWS_PER_STATEMENT_MAX, Sql, execute_all, rows_in, rows_of, stored_time, time_text,
};
use super::rows::EventRow;
use crate::sources::EventType;
use crate::sources::data::DECISION_ENDED;

/// All events of these subjects, oldest statement first.
pub(crate) async fn events_in(
    transaction: &mut Transaction<'_>,
    subjects: &[(i32, String)],
) -> Result<Vec<EventRow>, StoreError> {
    rows_of(transaction, &OF_SUBJECTS, subjects).await
}

/// That the event of an identifier is about `subject`. `shard_id` is the shard of the identifier.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Claim {
    pub shard_id: i32,
    pub event_id: String,
    pub subject: String,
}

/// Notes whom events of these identifiers are about, unless events of them are known already, and gives the subjects of those
/// that are known, by identifier. Waits for a transaction that is about to note one.
pub(crate) async fn claim(
    transaction: &mut Transaction<'_>,
    mut claims: Vec<Claim>,
) -> Result<BTreeMap<String, String>, StoreError> {
    // In one order, so that no two transactions wait for each other.
    claims.sort();
    let mut known = BTreeMap::new();
    for part in claims.chunks(ROWS_PER_STATEMENT_MAX) {
        let noted: Vec<Claim> = rows_in(transaction, &CLAIM, &part).await?;
        if noted.len() == part.len() {
            continue;
        }
        let noted: BTreeSet<&str> = noted.iter().map(|claim| claim.event_id.as_str()).collect();
        let is_known = |claim: &&Claim| !noted.contains(claim.event_id.as_str());
        let others: Vec<&Claim> = part.iter().filter(is_known).collect();
        let others: Vec<Claim> = rows_in(transaction, &CLAIMED, &others).await?;
        known.extend(
            others
                .into_iter()
                .map(|claim| (claim.event_id, claim.subject)),
        );
    }
    Ok(known)
}

/// The events of these identifiers, each beside the shard of its subject.
pub(crate) async fn events_named(
    transaction: &mut Transaction<'_>,
    names: &[(i32, String)],
) -> Result<Vec<EventRow>, StoreError> {
    rows_of(transaction, &NAMED, names).await
}

/// Adds events; one that is there already stays as it is. New ones are told apart beforehand by
/// [`events_in`], under the lock of their subjects.
pub(crate) async fn put_events(
    transaction: &mut Transaction<'_>,
    rows: &[EventRow],
) -> Result<(), StoreError> {
    execute_all(transaction, &PUT, rows).await.map(|_| ())
}

/// Moves events on that have not started; gives how many there were. One that has stays as it is.
pub(crate) async fn mark(
    transaction: &mut Transaction<'_>,
    rows: &[EventRow],
) -> Result<u64, StoreError> {
    let changes: Vec<Value> = rows
        .iter()
        .map(|row| {
            json!({
                "shard_id": row.shard_id,
                "event_id": row.event_id,
                "status": row.status,
                "cases": row.cases,
            })
        })
        .collect();
    execute_all(transaction, &MARK, &changes).await
}

/// Subjects with waiting events that are effective by `now`, at most `limit` events, soonest first.
pub(crate) async fn waiting_due(
    directory: &super::Directory,
    now: Timestamp,
    limit: usize,
) -> Result<BTreeSet<(i32, String)>, StoreError> {
    let parameter = json!({ "until": time_text(now), "limit": limit });
    let rows: Vec<EventRow> = directory.reader().rows(&WAITING, &parameter).await?;
    Ok(rows
        .into_iter()
        .map(|row| (row.shard_id, row.subject))
        .collect())
}

/// When a review decided about a right.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Decided {
    pub system: String,
    pub entitlement: String,
    /// From when it holds.
    #[serde(with = "stored_time")]
    pub effective_at: Timestamp,
    /// When it was said.
    #[serde(with = "stored_time")]
    pub occurred_at: Timestamp,
}

impl super::Directory {
    /// What reviews decided about somebody's rights and holds by `now`, without what was replaced.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn decisions(&self, key: &str, now: Timestamp) -> Result<Vec<Decided>, StoreError> {
        let parameter = json!({
            "shard_id": self.shard(key),
            "key": key,
            "type": EventType::CertificationDecided,
            "ended": DECISION_ENDED,
            "now": time_text(now),
        });
        self.reader().rows(&DECISIONS, &parameter).await
    }

    /// Events that wait for their time, soonest first.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn waiting_events(&self, limit: usize) -> Result<Vec<EventRow>, StoreError> {
        let parameter = json!({ "until": Value::Null, "limit": limit });
        self.reader().rows(&WAITING, &parameter).await
    }
}

const OF_SUBJECTS: Sql = Sql {
    table: "business_event",
    postgres: "
        SELECT to_jsonb(e)::text
        FROM business_event AS e
        JOIN jsonb_to_recordset($1::jsonb) AS wanted(shard_id int, key text)
          ON e.shard_id = wanted.shard_id AND e.subject = wanted.key
        ORDER BY e.shard_id, e.subject, e.received_at, e.event_id",
    sqlite: "
        SELECT json_object('shard_id', e.shard_id, 'event_id', e.event_id, 'subject', e.subject, 'source', e.source,
            'event_type', e.event_type, 'version', e.version, 'occurred_at', e.occurred_at,
            'effective_at', e.effective_at, 'zone', e.zone, 'received_at', e.received_at, 'supersedes', e.supersedes,
            'status', e.status, 'data', json(e.data),
            'cases', json(e.cases), 'initiator', e.initiator)
        FROM json_each(?1) AS wanted
        JOIN business_event AS e ON e.shard_id = wanted.value ->> 'shard_id' AND e.subject = wanted.value ->> 'key'
        ORDER BY e.shard_id, e.subject, e.received_at, e.event_id",
};

const DECISIONS: Sql = Sql {
    table: "business_event",
    postgres: "
        SELECT jsonb_build_object('system', e.data->>'system', 'entitlement', e.data->>'entitlement',
            'effective_at', e.effective_at, 'occurred_at', e.occurred_at)::text
        FROM business_event AS e
        WHERE e.shard_id = ($1::jsonb->>'shard_id')::int AND e.subject = $1::jsonb->>'key'
          AND e.event_type = $1::jsonb->>'type' AND e.status IN ('started', 'held')
          AND e.effective_at <= ($1::jsonb->>'now')::timestamptz
          AND e.data->>'decision' <> $1::jsonb->>'ended'
          AND NOT EXISTS (SELECT 1 FROM business_event AS later
                           WHERE later.shard_id = e.shard_id AND later.subject = e.subject
                             AND later.supersedes = e.event_id)",
    sqlite: "
        SELECT json_object('system', e.data ->> 'system', 'entitlement', e.data ->> 'entitlement',
            'effective_at', e.effective_at, 'occurred_at', e.occurred_at)
        FROM business_event AS e
        WHERE e.shard_id = ?1 ->> 'shard_id' AND e.subject = ?1 ->> 'key' AND e.event_type = ?1 ->> 'type'
          AND e.status IN ('started', 'held') AND e.effective_at <= ?1 ->> 'now'
          AND e.data ->> 'decision' <> ?1 ->> 'ended'
          AND NOT EXISTS (SELECT 1 FROM business_event AS later
                           WHERE later.shard_id = e.shard_id AND later.subject = e.subject
                             AND later.supersedes = e.event_id)",
};

const CLAIM: Sql = Sql {
    table: "event_subject",
    postgres: "
        INSERT INTO event_subject (shard_id, event_id, subject)
        SELECT shard_id, event_id, subject FROM jsonb_populate_recordset(NULL::event_subject, $1::jsonb)
        ON CONFLICT (shard_id, event_id) DO NOTHING
        RETURNING to_jsonb(event_subject)::text",
    sqlite: "
        INSERT INTO event_subject (shard_id, event_id, subject)
        SELECT value ->> 'shard_id', value ->> 'event_id', value ->> 'subject'
        FROM json_each(?1) WHERE true
        ON CONFLICT (shard_id, event_id) DO NOTHING
        RETURNING json_object('shard_id', shard_id, 'event_id', event_id, 'subject', subject)",
};

const CLAIMED: Sql = Sql {
    table: "event_subject",
    postgres: "
        SELECT to_jsonb(s)::text FROM event_subject AS s
        JOIN jsonb_to_recordset($1::jsonb) AS wanted(shard_id int, event_id text)
          ON s.shard_id = wanted.shard_id AND s.event_id = wanted.event_id",
    sqlite: "
        SELECT json_object('shard_id', s.shard_id, 'event_id', s.event_id, 'subject', s.subject)
        FROM json_each(?1) AS wanted
        JOIN event_subject AS s ON s.shard_id = wanted.value ->> 'shard_id' AND s.event_id = wanted.value ->> 'event_id'",
};

const NAMED: Sql = Sql {
    table: "business_event",
    postgres: "
        SELECT to_jsonb(e)::text FROM business_event AS e
        JOIN jsonb_to_recordset($1::jsonb) AS wanted(shard_id int, key text)
          ON e.shard_id = wanted.shard_id AND e.event_id = wanted.key",
    sqlite: "
        SELECT json_object('shard_id', e.shard_id, 'event_id', e.event_id, 'subject', e.subject, 'source', e.source,
            'event_type', e.event_type, 'version', e.version, 'occurred_at', e.occurred_at,
            'effective_at', e.effective_at, 'zone', e.zone, 'received_at', e.received_at, 'supersedes', e.supersedes,
            'status', e.status, 'data', json(e.data), 'cases', json(e.cases), 'initiator', e.initiator)
        FROM json_each(?1) AS wanted
        JOIN business_event AS e ON e.shard_id = wanted.value ->> 'shard_id' AND e.event_id = wanted.value ->> 'key'",
};

const PUT: Sql = Sql {
    table: "business_event",
    postgres: "
        INSERT INTO business_event (shard_id, event_id, subject, source, event_type, version, occurred_at, effective_at,
            zone, received_at, supersedes, status, data, cases, initiator)
        SELECT shard_id, event_id, subject, source, event_type, version, occurred_at, effective_at,
            zone, received_at, supersedes, status, data, cases, initiator
        FROM jsonb_populate_recordset(NULL::business_event, $1::jsonb)
        ON CONFLICT (shard_id, event_id) DO NOTHING",
    sqlite: "
        INSERT INTO business_event (shard_id, event_id, subject, source, event_type, version, occurred_at, effective_at,
            zone, received_at, supersedes, status, data, cases, initiator)
        SELECT value ->> 'shard_id', value ->> 'event_id', value ->> 'subject', value ->> 'source',
            value ->> 'event_type', value ->> 'version', value ->> 'occurred_at', value ->> 'effective_at',
            value ->> 'zone', value ->> 'received_at', value ->> 'supersedes', value ->> 'status', value -> 'data',
            value -> 'cases', value ->> 'initiator'
        FROM json_each(?1) WHERE true
        ON CONFLICT (shard_id, event_id) DO NOTHING",
};

const MARK: Sql = Sql {
    table: "business_event",
    postgres: "
        UPDATE business_event AS e SET status = now.status, cases = now.cases
        FROM jsonb_to_recordset($1::jsonb) AS now(shard_id int, event_id text, status text, cases jsonb)
        WHERE e.shard_id = now.shard_id AND e.event_id = now.event_id AND e.status IN ('waiting', 'superseded', 'held')",
    sqlite: "
        UPDATE business_event SET status = changed.value ->> 'status', cases = changed.value -> 'cases'
        FROM json_each(?1) AS changed
        WHERE business_event.shard_id = changed.value ->> 'shard_id'
          AND business_event.event_id = changed.value ->> 'event_id' AND business_event.status IN ('waiting', 'superseded', 'held')",
};

const WAITING: Sql = Sql {
    table: "business_event",
    postgres: "
        SELECT to_jsonb(e)::text FROM business_event AS e
        WHERE e.status = 'waiting'
          AND (($1::jsonb->>'until') IS NULL OR e.effective_at <= ($1::jsonb->>'until')::timestamptz)
        ORDER BY e.effective_at, e.event_id LIMIT ($1::jsonb->>'limit')::bigint",
    sqlite: "
        SELECT json_object('shard_id', shard_id, 'event_id', event_id, 'subject', subject, 'source', source,
            'event_type', event_type, 'version', version, 'occurred_at', occurred_at, 'effective_at', effective_at,
            'zone', zone, 'received_at', received_at, 'supersedes', supersedes, 'status', status,
            'data', json(data), 'cases', json(cases), 'initiator', initiator)
        FROM business_event
        WHERE status = 'waiting' AND (?1 ->> 'until' IS NULL OR effective_at <= ?1 ->> 'until')
        ORDER BY effective_at, event_id LIMIT ?1 ->> 'limit'",
};
