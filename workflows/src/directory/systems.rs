//! What is known about systems: how many accounts, and whether they take calls.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use engine::store::{InboxRow, StoreError, Transaction, Work};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Directory;
use super::database::{Sql, execute, time_text};
use super::rows::{AccountStatus, SystemStateRow};

/// How many accounts a system has in one status, as the directory knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountCount {
    pub system: String,
    pub status: AccountStatus,
    pub count: u64,
    /// How many of these no read has shown to be so.
    pub unverified: u64,
}

impl Directory {
    /// Accounts by system and status.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn account_counts(&self) -> Result<Vec<AccountCount>, StoreError> {
        self.reader().rows(&ACCOUNT_COUNTS, &Value::Null).await
    }

    /// What each process said last about the systems it calls.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn system_states(&self) -> Result<Vec<SystemStateRow>, StoreError> {
        self.reader().rows(&STATES, &Value::Null).await
    }

    /// Forgets what processes said that are not among `alive` any more, as far as they said it before `before`.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn forget_system_states(
        &self,
        alive: &[String],
        before: DateTime<Utc>,
    ) -> Result<(), StoreError> {
        self.write(&ForgetStates { alive, before }).await
    }

    /// Says whether a system takes calls.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn put_system_state(&self, mut row: SystemStateRow) -> Result<(), StoreError> {
        row.shard_id = self.shard(&row.system);
        self.write(&PutState(row)).await
    }
}

struct ForgetStates<'a> {
    alive: &'a [String],
    before: DateTime<Utc>,
}

#[async_trait]
impl Work for ForgetStates<'_> {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        let parameter = json!({ "alive": self.alive, "before": time_text(self.before) });
        execute(transaction, &FORGET_STATES, &parameter).await?;
        Ok(Vec::new())
    }
}

struct PutState(SystemStateRow);

#[async_trait]
impl Work for PutState {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        execute(transaction, &PUT_STATE, &[&self.0]).await?;
        Ok(Vec::new())
    }
}

const ACCOUNT_COUNTS: Sql = Sql {
    table: "account",
    postgres: "
        SELECT jsonb_build_object('system', system, 'status', status, 'count', count(*),
            'unverified', count(*) FILTER (WHERE unverified IS NOT NULL))::text
        FROM account WHERE $1::jsonb IS NOT NULL GROUP BY system, status ORDER BY system, status",
    sqlite: "
        SELECT json_object('system', system, 'status', status, 'count', count(*),
            'unverified', count(*) FILTER (WHERE unverified IS NOT NULL))
        FROM account WHERE ?1 IS NOT NULL GROUP BY system, status ORDER BY system, status",
};

const STATES: Sql = Sql {
    table: "system_state",
    postgres: "
        SELECT to_jsonb(s)::text FROM system_state AS s WHERE $1::jsonb IS NOT NULL ORDER BY s.system, s.node",
    sqlite: "
        SELECT json_object('shard_id', shard_id, 'system', system, 'node', node, 'state', state, 'since', since,
            'until', until, 'reason', reason, 'changed_at', changed_at)
        FROM system_state WHERE ?1 IS NOT NULL ORDER BY system, node",
};

const FORGET_STATES: Sql = Sql {
    table: "system_state",
    postgres: "
        DELETE FROM system_state
         WHERE changed_at < ($1::jsonb ->> 'before')::timestamptz
           AND NOT ($1::jsonb -> 'alive') ? node",
    sqlite: "
        DELETE FROM system_state
         WHERE changed_at < ?1 ->> 'before'
           AND node NOT IN (SELECT value FROM json_each(?1, '$.alive'))",
};

const PUT_STATE: Sql = Sql {
    table: "system_state",
    postgres: "
        INSERT INTO system_state (shard_id, system, node, state, since, until, reason, changed_at)
        SELECT shard_id, system, node, state, since, until, reason, changed_at
        FROM jsonb_populate_recordset(NULL::system_state, $1::jsonb)
        ON CONFLICT (shard_id, system, node) DO UPDATE SET state = excluded.state, since = excluded.since,
            until = excluded.until, reason = excluded.reason, changed_at = excluded.changed_at",
    sqlite: "
        INSERT INTO system_state (shard_id, system, node, state, since, until, reason, changed_at)
        SELECT value ->> 'shard_id', value ->> 'system', value ->> 'node', value ->> 'state', value ->> 'since',
            value ->> 'until', value ->> 'reason', value ->> 'changed_at'
        FROM json_each(?1) WHERE true
        ON CONFLICT (shard_id, system, node) DO UPDATE SET state = excluded.state, since = excluded.since,
            until = excluded.until, reason = excluded.reason, changed_at = excluded.changed_at",
};
