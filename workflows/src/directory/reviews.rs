//! Questions about who somebody is, and the texts by which people who are alike are found.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use engine::store::{StoreError, Transaction};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Directory;
use super::database::{
    ROWS_PER_STATEMENT_MAX, Sql, execute, execute_all, rows_in, rows_of, stored_time,
    stored_time_option, time_text,
};
use crate::correlation::Scored;

/// How many people may have one text in common before it says nothing about anybody.
const BLOCK_IDENTITIES_MAX: usize = 500;

/// Where a question stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReviewStatus {
    Open,
    /// It is one of the candidates.
    Linked,
    /// It is none of them; that is never asked again.
    Separate,
}

impl ReviewStatus {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Linked => "linked",
            Self::Separate => "separate",
        }
    }
}

/// A question about who somebody is. A stored form: fields may be added, never renamed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReviewRow {
    /// Of the new key.
    pub shard_id: i32,
    pub review_id: String,
    pub record_key: String,
    pub source: String,
    pub status: ReviewStatus,
    /// Who is asked.
    pub owner: String,
    /// Best first.
    pub candidates: Vec<Scored>,
    #[serde(with = "stored_time")]
    pub opened_at: DateTime<Utc>,
    #[serde(with = "stored_time_option")]
    pub decided_at: Option<DateTime<Utc>>,
    pub decided_by: Option<String>,
    pub decided_reason: Option<String>,
    pub decided_key: Option<String>,
}

/// Which questions a listing wants.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReviewFilter {
    /// Those that are decided, too.
    pub decided: bool,
    /// The beginning of an identifier.
    pub id: Option<String>,
}

impl Directory {
    /// Questions, the oldest first.
    ///
    /// # Errors
    /// When the database does not answer, or holds what this program cannot read.
    pub async fn reviews(
        &self,
        filter: &ReviewFilter,
        limit: u32,
    ) -> Result<Vec<ReviewRow>, StoreError> {
        let parameter = json!({
            "open": (!filter.decided).then_some("open"),
            "id": filter.id.as_deref().unwrap_or_default(),
            "id_length": filter.id.as_deref().map_or(0, |id| id.chars().count()),
            "limit": limit,
        });
        self.reader().rows(&REVIEWS, &parameter).await
    }

    /// The rules by which the people in the database were made findable, if they were.
    pub(crate) async fn indexed_by(&self) -> Result<Option<String>, StoreError> {
        self.reader().row(&INDEXED, &Value::Null).await
    }
}

pub(crate) async fn review_in(
    transaction: &mut Transaction<'_>,
    shard_id: i32,
    review_id: &str,
) -> Result<Option<ReviewRow>, StoreError> {
    let parameter = json!({ "shard_id": shard_id, "review_id": review_id });
    let found = rows_in(transaction, &REVIEW, &parameter).await?;
    Ok(found.into_iter().next())
}

/// Every question about these new keys, open or decided.
pub(crate) async fn reviews_about(
    transaction: &mut Transaction<'_>,
    keys: &[(i32, String)],
) -> Result<Vec<ReviewRow>, StoreError> {
    rows_of(transaction, &ABOUT, keys).await
}

/// Writes questions, new or decided.
pub(crate) async fn put_reviews(
    transaction: &mut Transaction<'_>,
    rows: &[ReviewRow],
) -> Result<(), StoreError> {
    execute_all(transaction, &PUT_REVIEWS, rows)
        .await
        .map(|_| ())
}

/// A text that somebody has in common with those who are alike.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct BlockRow {
    /// Of the text.
    pub shard_id: i32,
    pub block: String,
    #[serde(default)]
    pub identity_key: String,
}

/// Who has these texts, by text; without those that too many have.
pub(crate) async fn with_blocks(
    transaction: &mut Transaction<'_>,
    blocks: &[BlockRow],
) -> Result<BTreeMap<String, BTreeSet<String>>, StoreError> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for part in blocks.chunks(ROWS_PER_STATEMENT_MAX) {
        for row in rows_in::<BlockRow>(transaction, &WITH_BLOCKS, &part).await? {
            found.entry(row.block).or_default().insert(row.identity_key);
        }
    }
    found.retain(|_, people| people.len() <= BLOCK_IDENTITIES_MAX);
    Ok(found)
}

pub(crate) async fn put_blocks(
    transaction: &mut Transaction<'_>,
    gone: &[BlockRow],
    new: &[BlockRow],
) -> Result<(), StoreError> {
    execute_all(transaction, &DELETE_BLOCKS, gone).await?;
    execute_all(transaction, &PUT_BLOCKS, new).await.map(|_| ())
}

pub(crate) async fn put_indexed(
    transaction: &mut Transaction<'_>,
    rules: &str,
    at: DateTime<Utc>,
) -> Result<(), StoreError> {
    let parameter = json!({ "shard_id": 0, "rules": rules, "built_at": time_text(at) });
    execute(transaction, &PUT_INDEXED, &parameter)
        .await
        .map(|_| ())
}

const REVIEWS: Sql = Sql {
    table: "correlation_review",
    postgres: "
        SELECT to_jsonb(r)::text FROM correlation_review AS r
        WHERE (($1::jsonb->>'open') IS NULL OR r.status = $1::jsonb->>'open')
          AND left(r.review_id, ($1::jsonb->>'id_length')::int) = $1::jsonb->>'id'
        ORDER BY r.opened_at, r.review_id LIMIT ($1::jsonb->>'limit')::bigint",
    sqlite: "
        SELECT json_object('shard_id', shard_id, 'review_id', review_id, 'record_key', record_key, 'source', source,
            'status', status, 'owner', owner, 'candidates', json(candidates), 'opened_at', opened_at,
            'decided_at', decided_at, 'decided_by', decided_by, 'decided_reason', decided_reason,
            'decided_key', decided_key)
        FROM correlation_review
        WHERE (?1 ->> 'open' IS NULL OR status = ?1 ->> 'open')
          AND substr(review_id, 1, ?1 ->> 'id_length') = ?1 ->> 'id'
        ORDER BY opened_at, review_id LIMIT ?1 ->> 'limit'",
};

const REVIEW: Sql = Sql {
    table: "correlation_review",
    postgres: "
        SELECT to_jsonb(r)::text FROM correlation_review AS r
        WHERE r.shard_id = ($1::jsonb->>'shard_id')::int AND r.review_id = $1::jsonb->>'review_id'",
    sqlite: "
        SELECT json_object('shard_id', shard_id, 'review_id', review_id, 'record_key', record_key, 'source', source,
            'status', status, 'owner', owner, 'candidates', json(candidates), 'opened_at', opened_at,
            'decided_at', decided_at, 'decided_by', decided_by, 'decided_reason', decided_reason,
            'decided_key', decided_key)
        FROM correlation_review
        WHERE shard_id = ?1 ->> 'shard_id' AND review_id = ?1 ->> 'review_id'",
};

const ABOUT: Sql = Sql {
    table: "correlation_review",
    postgres: "
        SELECT to_jsonb(r)::text FROM correlation_review AS r
        JOIN jsonb_to_recordset($1::jsonb) AS wanted(shard_id int, key text)
          ON r.shard_id = wanted.shard_id AND r.record_key = wanted.key",
    sqlite: "
        SELECT json_object('shard_id', r.shard_id, 'review_id', r.review_id, 'record_key', r.record_key,
            'source', r.source, 'status', r.status, 'owner', r.owner, 'candidates', json(r.candidates),
            'opened_at', r.opened_at, 'decided_at', r.decided_at, 'decided_by', r.decided_by,
            'decided_reason', r.decided_reason, 'decided_key', r.decided_key)
        FROM json_each(?1) AS wanted
        JOIN correlation_review AS r
          ON r.shard_id = wanted.value ->> 'shard_id' AND r.record_key = wanted.value ->> 'key'",
};

const PUT_REVIEWS: Sql = Sql {
    table: "correlation_review",
    postgres: "
        INSERT INTO correlation_review (shard_id, review_id, record_key, source, status, owner, candidates, opened_at,
            decided_at, decided_by, decided_reason, decided_key)
        SELECT shard_id, review_id, record_key, source, status, owner, candidates, opened_at,
            decided_at, decided_by, decided_reason, decided_key
        FROM jsonb_populate_recordset(NULL::correlation_review, $1::jsonb)
        ON CONFLICT (shard_id, review_id) DO UPDATE SET
            status = excluded.status, decided_at = excluded.decided_at, decided_by = excluded.decided_by,
            decided_reason = excluded.decided_reason, decided_key = excluded.decided_key",
    sqlite: "
        INSERT INTO correlation_review (shard_id, review_id, record_key, source, status, owner, candidates, opened_at,
            decided_at, decided_by, decided_reason, decided_key)
        SELECT value ->> 'shard_id', value ->> 'review_id', value ->> 'record_key', value ->> 'source',
            value ->> 'status', value ->> 'owner', value -> 'candidates', value ->> 'opened_at',
            value ->> 'decided_at', value ->> 'decided_by', value ->> 'decided_reason', value ->> 'decided_key'
        FROM json_each(?1) WHERE true
        ON CONFLICT (shard_id, review_id) DO UPDATE SET
            status = excluded.status, decided_at = excluded.decided_at, decided_by = excluded.decided_by,
            decided_reason = excluded.decided_reason, decided_key = excluded.decided_key",
};

const WITH_BLOCKS: Sql = Sql {
    table: "correlation_block",
    postgres: "
        SELECT to_jsonb(b)::text FROM correlation_block AS b
        JOIN jsonb_to_recordset($1::jsonb) AS wanted(shard_id int, block text)
          ON b.shard_id = wanted.shard_id AND b.block = wanted.block",
    sqlite: "
        SELECT json_object('shard_id', b.shard_id, 'block', b.block, 'identity_key', b.identity_key)
        FROM json_each(?1) AS wanted
        JOIN correlation_block AS b
          ON b.shard_id = wanted.value ->> 'shard_id' AND b.block = wanted.value ->> 'block'",
};

const PUT_BLOCKS: Sql = Sql {
    table: "correlation_block",
    postgres: "
        INSERT INTO correlation_block (shard_id, block, identity_key)
        SELECT shard_id, block, identity_key FROM jsonb_populate_recordset(NULL::correlation_block, $1::jsonb)
        ON CONFLICT (shard_id, block, identity_key) DO NOTHING",
    sqlite: "
        INSERT INTO correlation_block (shard_id, block, identity_key)
        SELECT value ->> 'shard_id', value ->> 'block', value ->> 'identity_key'
        FROM json_each(?1) WHERE true
        ON CONFLICT (shard_id, block, identity_key) DO NOTHING",
};

const DELETE_BLOCKS: Sql = Sql {
    table: "correlation_block",
    postgres: "
        DELETE FROM correlation_block AS b
        USING jsonb_to_recordset($1::jsonb) AS gone(shard_id int, block text, identity_key text)
        WHERE b.shard_id = gone.shard_id AND b.block = gone.block AND b.identity_key = gone.identity_key",
    sqlite: "
        DELETE FROM correlation_block
        WHERE (shard_id, block, identity_key) IN (
            SELECT value ->> 'shard_id', value ->> 'block', value ->> 'identity_key' FROM json_each(?1))",
};

const INDEXED: Sql = Sql {
    table: "correlation_index",
    postgres: "
        SELECT to_jsonb(i.rules)::text FROM correlation_index AS i WHERE i.shard_id = 0 AND $1::jsonb IS NOT NULL",
    sqlite: "SELECT json_quote(rules) FROM correlation_index WHERE shard_id = 0 AND ?1 IS NOT NULL",
};

const PUT_INDEXED: Sql = Sql {
    table: "correlation_index",
    postgres: "
        INSERT INTO correlation_index (shard_id, rules, built_at)
        SELECT shard_id, rules, built_at FROM jsonb_populate_record(NULL::correlation_index, $1::jsonb)
        ON CONFLICT (shard_id) DO UPDATE SET rules = excluded.rules, built_at = excluded.built_at",
    sqlite: "
        INSERT INTO correlation_index (shard_id, rules, built_at)
        VALUES (?1 ->> 'shard_id', ?1 ->> 'rules', ?1 ->> 'built_at')
        ON CONFLICT (shard_id) DO UPDATE SET rules = excluded.rules, built_at = excluded.built_at",
};
