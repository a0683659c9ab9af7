//! People whom a rollout of a policy left out, and why. Each has one row, whatever number of rollouts left them out, and it is
//! there until somebody starts what brings them under the policy in force, or finds that they are in line, or gone.

use std::collections::BTreeMap;

use engine::core::Timestamp;
use engine::store::{StoreError, Transaction};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Directory;
use super::database::{Sql, execute, execute_all, stored_time};

/// The most people one page of a listing holds.
pub const LEFT_OUT_SHOWN_MAX: u32 = 1_000;

/// Why somebody is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeftOutReason {
    /// It is open who they are.
    Question,
    /// A rule or a template has no answer for them.
    Rule,
}

impl LeftOutReason {
    pub const ALL: [Self; 2] = [Self::Question, Self::Rule];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Question => "question",
            Self::Rule => "rule",
        }
    }
}

/// Somebody who is left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOutRow {
    pub shard_id: i32,
    pub identity_key: String,
    /// The rollout that sees to it that they come.
    pub rollout_id: String,
    pub reason: LeftOutReason,
    /// The questions that are open, or the rule that has no answer.
    pub about: String,
    /// The attribute that the rule asks for, if that is why.
    #[serde(default)]
    pub attribute: Option<String>,
    pub why: String,
    #[serde(with = "stored_time")]
    pub since: Timestamp,
    /// The rollout that left them out first.
    pub since_rollout_id: String,
}

/// How many people are left out, by reason.
pub type LeftOutCounts = BTreeMap<LeftOutReason, u64>;

/// What changes about those who are left out. Somebody who was left out before keeps since when.
#[derive(Debug, Clone, Default)]
pub(crate) struct Remainder {
    pub put: Vec<LeftOutRow>,
    pub gone: Vec<(i32, String)>,
    /// Nobody is left out any more.
    pub none: bool,
}

impl Remainder {
    pub(super) async fn write(&self, transaction: &mut Transaction<'_>) -> Result<(), StoreError> {
        if self.none {
            execute(transaction, &DELETE_ALL, &Value::Null).await?;
        }
        let gone = self.gone.iter();
        let gone: Vec<Value> = gone
            .map(|(shard_id, key)| json!({ "shard_id": shard_id, "key": key }))
            .collect();
        execute_all(transaction, &DELETE, &gone).await?;
        execute_all(transaction, &PUT, &self.put).await.map(|_| ())
    }
}

impl Directory {
    /// Whom a rollout has left out, in the order of their keys, from the one after `after`.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn left_out(
        &self,
        rollout: &str,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<LeftOutRow>, StoreError> {
        let parameter = json!({
            "rollout_id": rollout,
            "after": after.unwrap_or_default(),
            "limit": limit.min(LEFT_OUT_SHOWN_MAX),
        });
        self.reader().rows(&LIST, &parameter).await
    }

    /// How many people each rollout has left out.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn left_out_counts(&self) -> Result<BTreeMap<String, LeftOutCounts>, StoreError> {
        #[derive(Deserialize)]
        struct Count {
            rollout_id: String,
            reason: LeftOutReason,
            count: u64,
        }
        let counts: Vec<Count> = self.reader().rows(&COUNTS, &Value::Null).await?;
        let mut by_rollout: BTreeMap<String, LeftOutCounts> = BTreeMap::new();
        for Count {
            rollout_id,
            reason,
            count,
        } in counts
        {
            let counts = by_rollout.entry(rollout_id).or_default();
            counts.insert(reason, count);
        }
        Ok(by_rollout)
    }

    /// Whether anybody is left out of whom nothing is open any more, or who is not at work any more; with `anybody`, whether
    /// anybody is left out at all.
    pub(crate) async fn left_out_is_due(&self, anybody: bool) -> Result<bool, StoreError> {
        let parameter = json!({ "anybody": anybody });
        let found: Option<String> = self.reader().row(&DUE, &parameter).await?;
        Ok(found.is_some())
    }
}

const LIST: Sql = Sql {
    table: "policy_left_out",
    postgres: "
        SELECT to_jsonb(l)::text FROM policy_left_out AS l
        WHERE l.rollout_id = $1::jsonb->>'rollout_id' AND l.identity_key > $1::jsonb->>'after'
        ORDER BY l.identity_key LIMIT ($1::jsonb->>'limit')::bigint",
    sqlite: "
        SELECT json_object('shard_id', shard_id, 'identity_key', identity_key, 'rollout_id', rollout_id, 'reason', reason,
            'about', about, 'attribute', attribute, 'why', why, 'since', since, 'since_rollout_id', since_rollout_id)
        FROM policy_left_out WHERE rollout_id = ?1 ->> 'rollout_id' AND identity_key > ?1 ->> 'after'
        ORDER BY identity_key LIMIT ?1 ->> 'limit'",
};

const COUNTS: Sql = Sql {
    table: "policy_left_out",
    postgres: "
        SELECT jsonb_build_object('rollout_id', rollout_id, 'reason', reason, 'count', count(*))::text
        FROM policy_left_out WHERE $1::jsonb IS NOT NULL GROUP BY rollout_id, reason",
    sqlite: "
        SELECT json_object('rollout_id', rollout_id, 'reason', reason, 'count', count(*))
        FROM policy_left_out WHERE ?1 IS NOT NULL GROUP BY rollout_id, reason",
};

const DUE: Sql = Sql {
    table: "policy_left_out",
    postgres: "
        SELECT to_jsonb(l.identity_key)::text FROM policy_left_out AS l
        JOIN identity AS i ON i.shard_id = l.shard_id AND i.identity_key = l.identity_key
        WHERE ($1::jsonb->>'anybody')::boolean OR i.status <> 'active'
           OR l.reason = 'question' AND coalesce(i.disputes, '[]'::jsonb) = '[]'::jsonb
        LIMIT 1",
    sqlite: "
        SELECT json_quote(l.identity_key) FROM policy_left_out AS l
        JOIN identity AS i ON i.shard_id = l.shard_id AND i.identity_key = l.identity_key
        WHERE ?1 ->> 'anybody' OR i.status <> 'active'
           OR l.reason = 'question' AND json_array_length(coalesce(i.disputes, '[]')) = 0
        LIMIT 1",
};

/// What is the same as before is not written.
const PUT: Sql = Sql {
    table: "policy_left_out",
    postgres: "
        INSERT INTO policy_left_out (shard_id, identity_key, rollout_id, reason, about, attribute, why, since,
            since_rollout_id)
        SELECT shard_id, identity_key, rollout_id, reason, about, attribute, why, since, since_rollout_id
        FROM jsonb_populate_recordset(NULL::policy_left_out, $1::jsonb)
        ON CONFLICT (shard_id, identity_key) DO UPDATE SET
            rollout_id = excluded.rollout_id, reason = excluded.reason, about = excluded.about,
            attribute = excluded.attribute, why = excluded.why
        WHERE policy_left_out.rollout_id <> excluded.rollout_id OR policy_left_out.why <> excluded.why",
    sqlite: "
        INSERT INTO policy_left_out (shard_id, identity_key, rollout_id, reason, about, attribute, why, since,
            since_rollout_id)
        SELECT value ->> 'shard_id', value ->> 'identity_key', value ->> 'rollout_id', value ->> 'reason',
            value ->> 'about', value ->> 'attribute', value ->> 'why', value ->> 'since', value ->> 'since_rollout_id'
        FROM json_each(?1) WHERE true
        ON CONFLICT (shard_id, identity_key) DO UPDATE SET
            rollout_id = excluded.rollout_id, reason = excluded.reason, about = excluded.about,
            attribute = excluded.attribute, why = excluded.why
        WHERE policy_left_out.rollout_id <> excluded.rollout_id OR policy_left_out.why <> excluded.why",
};

const DELETE: Sql = Sql {
    table: "policy_left_out",
    postgres: "
        DELETE FROM policy_left_out AS l
        USING jsonb_to_recordset($1::jsonb) AS gone(shard_id int, key text)
        WHERE l.shard_id = gone.shard_id AND l.identity_key = gone.key",
    sqlite: "
        DELETE FROM policy_left_out
        WHERE (shard_id, identity_key) IN (SELECT value ->> 'shard_id', value ->> 'key' FROM json_each(?1))",
};

const DELETE_ALL: Sql = Sql {
    table: "policy_left_out",
    postgres: "DELETE FROM policy_left_out WHERE $1::jsonb IS NOT NULL",
    sqlite: "DELETE FROM policy_left_out WHERE ?1 IS NOT NULL",
};
