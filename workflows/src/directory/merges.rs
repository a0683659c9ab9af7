//! Merges of identities: who was merged into whom, what went along, and how it ended.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use engine::store::{StoreError, Transaction};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Directory;
use super::database::{
    Sql, execute, execute_all, rows_in, rows_of, stored_time, stored_time_option,
};
use super::rows::{AccountRow, GrantRow};
use crate::correlation::Score;

/// How far a merge has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MergeState {
    /// What the absorbed one has at work comes to its end.
    Draining,
    /// What the survivor has at work comes to its end.
    Moving,
    Merged,
    /// It is taken back: what the absorbed one has at work comes to its end.
    Splitting,
    /// So does what the survivor has.
    Returning,
    Split,
}

impl MergeState {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Draining => "draining",
            Self::Moving => "moving",
            Self::Merged => "merged",
            Self::Splitting => "splitting",
            Self::Returning => "returning",
            Self::Split => "split",
        }
    }

    /// Whether the two are one person.
    #[must_use]
    pub fn holds(self) -> bool {
        matches!(self, Self::Draining | Self::Moving | Self::Merged)
    }
}

/// A merge. A stored form: fields may be added, never renamed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MergeRow {
    /// Of the key that was absorbed.
    pub shard_id: i32,
    pub absorbed: String,
    pub merge_id: String,
    pub survivor: String,
    pub state: MergeState,
    /// When the newest statement about it was made, and which it is.
    #[serde(with = "stored_time")]
    pub said_at: DateTime<Utc>,
    pub said_by_event: String,
    #[serde(with = "stored_time_option")]
    pub merged_at: Option<DateTime<Utc>>,
    pub merged_by: Option<String>,
    pub merged_reason: Option<String>,
    /// Why rules said so, where they did.
    pub score: Option<Score>,
    #[serde(with = "stored_time_option")]
    pub split_at: Option<DateTime<Utc>>,
    pub split_by: Option<String>,
    pub split_reason: Option<String>,
    pub moved: Vec<Moved>,
}

impl MergeRow {
    /// Whether the two were one person to those who knew what was known at `at`.
    #[must_use]
    pub fn held_at(&self, at: DateTime<Utc>) -> bool {
        self.merged_at.is_some_and(|merged| merged <= at)
            && self.split_at.is_none_or(|split| split > at)
    }
}

/// An account that went to the survivor, with its rights, as they were.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Moved {
    pub account: AccountRow,
    #[serde(default)]
    pub grants: Vec<GrantRow>,
    /// What the survivor had there before, closed or deleted: it went the other way.
    #[serde(default)]
    pub replaced: Option<AccountRow>,
    #[serde(default)]
    pub replaced_grants: Vec<GrantRow>,
}

/// An account that was there before, and whose it turned out to be. A stored form: fields may be added, never renamed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AdoptedRow {
    pub shard_id: i32,
    pub identity_key: String,
    pub system: String,
    pub native_id: String,
    pub name: String,
    /// The accounts that were adopted together.
    pub wave: String,
    #[serde(with = "stored_time")]
    pub adopted_at: DateTime<Utc>,
    pub adopted_by: String,
    pub reason: String,
    pub score: Option<Score>,
}

impl Directory {
    /// Every account on a system that the directory knows.
    ///
    /// # Errors
    /// When the database does not answer, or holds what this program cannot read.
    pub async fn accounts_on(&self, system: &str) -> Result<Vec<AccountRow>, StoreError> {
        self.reader().rows(&ON_SYSTEM, &json!(system)).await
    }

    /// The merges that a key was absorbed or survived in, newest first.
    ///
    /// # Errors
    /// When the database does not answer, or holds what this program cannot read.
    pub async fn merges(&self, key: &str) -> Result<Vec<MergeRow>, StoreError> {
        let parameter = json!({ "shard_id": self.shard(key), "key": key });
        let mut merges: Vec<MergeRow> = self.reader().rows(&OF_ABSORBED, &parameter).await?;
        merges.extend(
            self.reader()
                .rows::<MergeRow>(&OF_SURVIVOR, &parameter)
                .await?,
        );
        merges.sort_by(|a, b| (b.said_at, &b.merge_id).cmp(&(a.said_at, &a.merge_id)));
        Ok(merges)
    }
}

/// The merges in which `key` was absorbed, for whoever holds the lock of the person.
pub(crate) async fn merges_in(
    transaction: &mut Transaction<'_>,
    shard_id: i32,
    key: &str,
) -> Result<Vec<MergeRow>, StoreError> {
    let parameter = json!({ "shard_id": shard_id, "key": key });
    rows_in(transaction, &OF_ABSORBED, &parameter).await
}

/// Of these keys those that were another's and are not any more, each with that other.
pub(crate) async fn split_pairs(
    transaction: &mut Transaction<'_>,
    keys: &[(i32, String)],
) -> Result<Vec<(String, String)>, StoreError> {
    #[derive(Deserialize)]
    struct Pair {
        absorbed: String,
        survivor: String,
    }
    let pairs: Vec<Pair> = rows_of(transaction, &SPLIT_PAIRS, keys).await?;
    Ok(pairs
        .into_iter()
        .map(|pair| (pair.absorbed, pair.survivor))
        .collect())
}

/// The merges that these keys survived, of which nothing is at work any more but what moves accounts.
pub(crate) async fn under_way(
    transaction: &mut Transaction<'_>,
    survivors: &[&str],
) -> Result<Vec<MergeRow>, StoreError> {
    rows_in(transaction, &UNDER_WAY, &survivors).await
}

/// Those of these keys that have an account which is not known to be deleted.
pub(crate) async fn holders(
    transaction: &mut Transaction<'_>,
    keys: &[(i32, String)],
) -> Result<BTreeSet<String>, StoreError> {
    let found: Vec<String> = rows_of(transaction, &HOLDERS, keys).await?;
    Ok(found.into_iter().collect())
}

/// Writes a merge, new or changed.
pub(crate) async fn put_merges(
    transaction: &mut Transaction<'_>,
    rows: &[MergeRow],
) -> Result<(), StoreError> {
    execute_all(transaction, &PUT, rows).await.map(|_| ())
}

pub(crate) async fn put_adopted(
    transaction: &mut Transaction<'_>,
    rows: &[AdoptedRow],
) -> Result<(), StoreError> {
    execute_all(transaction, &PUT_ADOPTED, rows)
        .await
        .map(|_| ())
}

/// Writes accounts and rights exactly as they are given.
pub(crate) async fn put_holdings(
    transaction: &mut Transaction<'_>,
    accounts: &[AccountRow],
    grants: &[GrantRow],
) -> Result<(), StoreError> {
    execute_all(transaction, &PUT_ACCOUNTS, accounts).await?;
    execute_all(transaction, &PUT_GRANTS, grants)
        .await
        .map(|_| ())
}

/// Forgets an account and all rights on its system. They are kept elsewhere.
pub(crate) async fn take_holdings(
    transaction: &mut Transaction<'_>,
    account: &AccountRow,
) -> Result<(), StoreError> {
    execute(transaction, &TAKE_GRANTS, account).await?;
    execute(transaction, &TAKE_ACCOUNT, account)
        .await
        .map(|_| ())
}

const OF_ABSORBED: Sql = Sql {
    table: "identity_merge",
    postgres: "
        SELECT to_jsonb(m)::text FROM identity_merge AS m
        WHERE m.shard_id = ($1::jsonb->>'shard_id')::int AND m.absorbed = $1::jsonb->>'key'
        ORDER BY m.said_at DESC, m.said_by_event DESC",
    sqlite: "
        SELECT json_object('shard_id', shard_id, 'absorbed', absorbed, 'merge_id', merge_id, 'survivor', survivor,
            'state', state, 'said_at', said_at, 'said_by_event', said_by_event, 'merged_at', merged_at,
            'merged_by', merged_by, 'merged_reason', merged_reason, 'score', json(score), 'split_at', split_at,
            'split_by', split_by, 'split_reason', split_reason, 'moved', json(moved))
        FROM identity_merge
        WHERE shard_id = ?1 ->> 'shard_id' AND absorbed = ?1 ->> 'key'
        ORDER BY said_at DESC, said_by_event DESC",
};

const SPLIT_PAIRS: Sql = Sql {
    table: "identity_merge",
    postgres: "
        SELECT jsonb_build_object('absorbed', m.absorbed, 'survivor', m.survivor)::text FROM identity_merge AS m
        JOIN jsonb_to_recordset($1::jsonb) AS wanted(shard_id int, key text)
          ON m.shard_id = wanted.shard_id AND m.absorbed = wanted.key
        WHERE m.state IN ('splitting', 'returning', 'split')",
    sqlite: "
        SELECT json_object('absorbed', m.absorbed, 'survivor', m.survivor)
        FROM json_each(?1) AS wanted
        JOIN identity_merge AS m ON m.shard_id = wanted.value ->> 'shard_id' AND m.absorbed = wanted.value ->> 'key'
        WHERE m.state IN ('splitting', 'returning', 'split')",
};

const OF_SURVIVOR: Sql = Sql {
    table: "identity_merge",
    postgres: "
        SELECT to_jsonb(m)::text FROM identity_merge AS m
        WHERE m.survivor = $1::jsonb->>'key' ORDER BY m.said_at DESC, m.said_by_event DESC",
    sqlite: "
        SELECT json_object('shard_id', shard_id, 'absorbed', absorbed, 'merge_id', merge_id, 'survivor', survivor,
            'state', state, 'said_at', said_at, 'said_by_event', said_by_event, 'merged_at', merged_at,
            'merged_by', merged_by, 'merged_reason', merged_reason, 'score', json(score), 'split_at', split_at,
            'split_by', split_by, 'split_reason', split_reason, 'moved', json(moved))
        FROM identity_merge
        WHERE survivor = ?1 ->> 'key' ORDER BY said_at DESC, said_by_event DESC",
};

const UNDER_WAY: Sql = Sql {
    table: "identity_merge",
    postgres: "
        SELECT to_jsonb(m)::text FROM identity_merge AS m
        JOIN jsonb_array_elements_text($1::jsonb) AS wanted(key) ON m.survivor = wanted.key
        WHERE m.state IN ('moving', 'returning')
        ORDER BY m.said_at, m.said_by_event",
    sqlite: "
        SELECT json_object('shard_id', shard_id, 'absorbed', absorbed, 'merge_id', merge_id, 'survivor', survivor,
            'state', state, 'said_at', said_at, 'said_by_event', said_by_event, 'merged_at', merged_at,
            'merged_by', merged_by, 'merged_reason', merged_reason, 'score', json(score), 'split_at', split_at,
            'split_by', split_by, 'split_reason', split_reason, 'moved', json(moved))
        FROM identity_merge
        WHERE survivor IN (SELECT value FROM json_each(?1)) AND state IN ('moving', 'returning')
        ORDER BY said_at, said_by_event",
};

const HOLDERS: Sql = Sql {
    table: "account",
    postgres: "
        SELECT DISTINCT to_jsonb(a.identity_key)::text FROM account AS a
        JOIN jsonb_to_recordset($1::jsonb) AS wanted(shard_id int, key text)
          ON a.shard_id = wanted.shard_id AND a.identity_key = wanted.key
        WHERE a.status <> 'deleted'",
    sqlite: "
        SELECT DISTINCT json_quote(a.identity_key)
        FROM json_each(?1) AS wanted
        JOIN account AS a ON a.shard_id = wanted.value ->> 'shard_id' AND a.identity_key = wanted.value ->> 'key'
        WHERE a.status <> 'deleted'",
};

const PUT: Sql = Sql {
    table: "identity_merge",
    postgres: "
        INSERT INTO identity_merge (shard_id, absorbed, merge_id, survivor, state, said_at, said_by_event, merged_at,
            merged_by, merged_reason, score, split_at, split_by, split_reason, moved)
        SELECT shard_id, absorbed, merge_id, survivor, state, said_at, said_by_event, merged_at,
            merged_by, merged_reason, score, split_at, split_by, split_reason, moved
        FROM jsonb_populate_recordset(NULL::identity_merge, $1::jsonb)
        ON CONFLICT (shard_id, absorbed, merge_id) DO UPDATE SET
            state = excluded.state, said_at = excluded.said_at, said_by_event = excluded.said_by_event,
            split_at = excluded.split_at, split_by = excluded.split_by, split_reason = excluded.split_reason,
            moved = excluded.moved",
    sqlite: "
        INSERT INTO identity_merge (shard_id, absorbed, merge_id, survivor, state, said_at, said_by_event, merged_at,
            merged_by, merged_reason, score, split_at, split_by, split_reason, moved)
        SELECT value ->> 'shard_id', value ->> 'absorbed', value ->> 'merge_id', value ->> 'survivor',
            value ->> 'state', value ->> 'said_at', value ->> 'said_by_event', value ->> 'merged_at',
            value ->> 'merged_by', value ->> 'merged_reason', value -> 'score', value ->> 'split_at',
            value ->> 'split_by', value ->> 'split_reason', value -> 'moved'
        FROM json_each(?1) WHERE true
        ON CONFLICT (shard_id, absorbed, merge_id) DO UPDATE SET
            state = excluded.state, said_at = excluded.said_at, said_by_event = excluded.said_by_event,
            split_at = excluded.split_at, split_by = excluded.split_by, split_reason = excluded.split_reason,
            moved = excluded.moved",
};

const PUT_ACCOUNTS: Sql = Sql {
    table: "account",
    postgres: "
        INSERT INTO account (shard_id, identity_key, system, native_id, name, status, attributes_digest,
            created_at, disabled_at, changed_at, verified_at, unverified, case_id)
        SELECT shard_id, identity_key, system, native_id, name, status, attributes_digest,
            created_at, disabled_at, changed_at, verified_at, unverified, case_id
        FROM jsonb_populate_recordset(NULL::account, $1::jsonb)
        ON CONFLICT (shard_id, identity_key, system) DO UPDATE SET
            native_id = excluded.native_id, name = excluded.name, status = excluded.status,
            attributes_digest = excluded.attributes_digest, created_at = excluded.created_at,
            disabled_at = excluded.disabled_at, changed_at = excluded.changed_at, verified_at = excluded.verified_at,
            unverified = excluded.unverified, case_id = excluded.case_id",
    sqlite: "
        INSERT INTO account (shard_id, identity_key, system, native_id, name, status, attributes_digest,
            created_at, disabled_at, changed_at, verified_at, unverified, case_id)
        SELECT value ->> 'shard_id', value ->> 'identity_key', value ->> 'system', value ->> 'native_id',
            value ->> 'name', value ->> 'status', value ->> 'attributes_digest', value ->> 'created_at',
            value ->> 'disabled_at', value ->> 'changed_at', value ->> 'verified_at', value ->> 'unverified',
            value ->> 'case_id'
        FROM json_each(?1) WHERE true
        ON CONFLICT (shard_id, identity_key, system) DO UPDATE SET
            native_id = excluded.native_id, name = excluded.name, status = excluded.status,
            attributes_digest = excluded.attributes_digest, created_at = excluded.created_at,
            disabled_at = excluded.disabled_at, changed_at = excluded.changed_at, verified_at = excluded.verified_at,
            unverified = excluded.unverified, case_id = excluded.case_id",
};

const PUT_GRANTS: Sql = Sql {
    table: "grant_held",
    postgres: "
        INSERT INTO grant_held (shard_id, identity_key, system, entitlement, status, held_by, reasons, policy_hash,
            since, until, exception_until, verified_at, unverified, case_id)
        SELECT shard_id, identity_key, system, entitlement, status, held_by, reasons, policy_hash,
            since, until, exception_until, verified_at, unverified, case_id
        FROM jsonb_populate_recordset(NULL::grant_held, $1::jsonb)
        ON CONFLICT (shard_id, identity_key, system, entitlement) DO UPDATE SET
            status = excluded.status, held_by = excluded.held_by, reasons = excluded.reasons,
            policy_hash = excluded.policy_hash, since = excluded.since, until = excluded.until,
            exception_until = excluded.exception_until, verified_at = excluded.verified_at,
            unverified = excluded.unverified, case_id = excluded.case_id",
    sqlite: "
        INSERT INTO grant_held (shard_id, identity_key, system, entitlement, status, held_by, reasons, policy_hash,
            since, until, exception_until, verified_at, unverified, case_id)
        SELECT value ->> 'shard_id', value ->> 'identity_key', value ->> 'system', value ->> 'entitlement',
            value ->> 'status', value ->> 'held_by', value -> 'reasons', value ->> 'policy_hash', value ->> 'since',
            value ->> 'until', value ->> 'exception_until', value ->> 'verified_at', value ->> 'unverified', value ->> 'case_id'
        FROM json_each(?1) WHERE true
        ON CONFLICT (shard_id, identity_key, system, entitlement) DO UPDATE SET
            status = excluded.status, held_by = excluded.held_by, reasons = excluded.reasons,
            policy_hash = excluded.policy_hash, since = excluded.since, until = excluded.until,
            exception_until = excluded.exception_until, verified_at = excluded.verified_at,
            unverified = excluded.unverified, case_id = excluded.case_id",
};

const TAKE_ACCOUNT: Sql = Sql {
    table: "account",
    postgres: "
        DELETE FROM account
        WHERE shard_id = ($1::jsonb->>'shard_id')::int AND identity_key = $1::jsonb->>'identity_key'
          AND system = $1::jsonb->>'system'",
    sqlite: "
        DELETE FROM account
        WHERE shard_id = ?1 ->> 'shard_id' AND identity_key = ?1 ->> 'identity_key' AND system = ?1 ->> 'system'",
};

const TAKE_GRANTS: Sql = Sql {
    table: "grant_held",
    postgres: "
        DELETE FROM grant_held
        WHERE shard_id = ($1::jsonb->>'shard_id')::int AND identity_key = $1::jsonb->>'identity_key'
          AND system = $1::jsonb->>'system'",
    sqlite: "
        DELETE FROM grant_held
        WHERE shard_id = ?1 ->> 'shard_id' AND identity_key = ?1 ->> 'identity_key' AND system = ?1 ->> 'system'",
};

const ON_SYSTEM: Sql = Sql {
    table: "account",
    postgres: "SELECT to_jsonb(a)::text FROM account AS a WHERE a.system = $1::jsonb #>> '{}'",
    sqlite: "
        SELECT json_object('shard_id', a.shard_id, 'identity_key', a.identity_key, 'system', a.system,
            'native_id', a.native_id, 'name', a.name, 'status', a.status, 'attributes_digest', a.attributes_digest,
            'created_at', a.created_at, 'disabled_at', a.disabled_at, 'changed_at', a.changed_at,
            'verified_at', a.verified_at, 'unverified', a.unverified, 'case_id', a.case_id)
        FROM account AS a WHERE a.system = ?1 ->> '$'",
};

const PUT_ADOPTED: Sql = Sql {
    table: "account_adopted",
    postgres: "
        INSERT INTO account_adopted (shard_id, identity_key, system, native_id, name, wave, adopted_at, adopted_by, reason,
            score)
        SELECT shard_id, identity_key, system, native_id, name, wave, adopted_at, adopted_by, reason, score
        FROM jsonb_populate_recordset(NULL::account_adopted, $1::jsonb)
        ON CONFLICT (shard_id, identity_key, system) DO UPDATE SET
            native_id = excluded.native_id, name = excluded.name, wave = excluded.wave,
            adopted_at = excluded.adopted_at, adopted_by = excluded.adopted_by, reason = excluded.reason,
            score = excluded.score",
    sqlite: "
        INSERT INTO account_adopted (shard_id, identity_key, system, native_id, name, wave, adopted_at, adopted_by, reason,
            score)
        SELECT value ->> 'shard_id', value ->> 'identity_key', value ->> 'system', value ->> 'native_id',
            value ->> 'name', value ->> 'wave', value ->> 'adopted_at', value ->> 'adopted_by', value ->> 'reason',
            value -> 'score'
        FROM json_each(?1) WHERE true
        ON CONFLICT (shard_id, identity_key, system) DO UPDATE SET
            native_id = excluded.native_id, name = excluded.name, wave = excluded.wave,
            adopted_at = excluded.adopted_at, adopted_by = excluded.adopted_by, reason = excluded.reason,
            score = excluded.score",
};
