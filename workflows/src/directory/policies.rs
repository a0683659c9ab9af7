//! Policies: the one in force, one that waits for a person, and those of before.

use engine::core::Timestamp;
use engine::store::{InboxRow, StoreError, Transaction, Work};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Directory;
use super::database::{Sql, execute, rows_in, stored_time, stored_time_option, time_text};
use super::rollouts::{RolloutRow, begin};
use crate::policy::guard::Blast;

/// All versions lie in the shard of this word.
pub(super) const PLACE: &str = "policy";
/// The most versions a listing holds.
const VERSIONS_SHOWN_MAX: u32 = 200;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyStatus {
    InForce,
    /// The guard stopped it; a person has to approve or reject it.
    Waiting,
    Rejected,
    /// Was in force once.
    Past,
}

/// One version of the policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PolicyRow {
    pub shard_id: i32,
    pub policy_hash: String,
    pub status: PolicyStatus,
    /// Name and text.
    pub files: Vec<(String, String)>,
    pub difference_id: String,
    pub blast: Blast,
    pub stopped_by: Option<Vec<String>>,
    pub base_hash: Option<String>,
    #[serde(with = "stored_time")]
    pub seen_at: Timestamp,
    pub seen_by: String,
    #[serde(with = "stored_time_option", default)]
    pub decided_at: Option<Timestamp>,
    #[serde(default)]
    pub decided_by: Option<String>,
    #[serde(default)]
    pub decided_note: Option<String>,
}

impl Directory {
    /// The policies that were seen, newest first.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn policies(&self) -> Result<Vec<PolicyRow>, StoreError> {
        let parameter = json!({ "shard_id": self.shard(PLACE), "limit": VERSIONS_SHOWN_MAX });
        self.reader().rows(&POLICIES, &parameter).await
    }

    /// The hash of the policy in force; `None` before a node first ran.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn policy_in_force(&self) -> Result<Option<PolicyRow>, StoreError> {
        let parameter = json!({ "shard_id": self.shard(PLACE) });
        self.reader().row(&IN_FORCE, &parameter).await
    }

    pub(crate) fn policy_shard(&self) -> i32 {
        self.shard(PLACE)
    }

    /// Writes a version. One that comes into force takes the place of the one before, if that is still `base_hash`: says
    /// whether it was.
    pub(crate) async fn put_policy(&self, row: &PolicyRow) -> Result<bool, StoreError> {
        let work = PutPolicy {
            row,
            done: std::sync::Mutex::new(false),
        };
        self.write(&work).await?;
        let done = work.done.into_inner();
        Ok(done.unwrap_or_else(std::sync::PoisonError::into_inner))
    }
}

struct PutPolicy<'a> {
    row: &'a PolicyRow,
    done: std::sync::Mutex<bool>,
}

#[async_trait::async_trait]
impl Work for PutPolicy<'_> {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        let row = self.row;
        let parameter = json!({ "shard_id": row.shard_id });
        let now: Vec<PolicyRow> = rows_in(transaction, &IN_FORCE_LOCKED, &parameter).await?;
        let base = now.first().map(|row| row.policy_hash.clone());
        let fits = base == row.base_hash || base.as_ref() == Some(&row.policy_hash);
        *self
            .done
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = fits;
        if !fits {
            return Ok(Vec::new());
        }
        if row.status == PolicyStatus::InForce {
            let parameter = json!({ "shard_id": row.shard_id, "at": time_text(row.seen_at) });
            execute(transaction, &MAKE_PAST, &parameter).await?;
        }
        if let Some(base) =
            base.filter(|base| row.status == PolicyStatus::InForce && *base != row.policy_hash)
        {
            begin(transaction, &RolloutRow::begun(row, base)).await?;
        }
        execute(transaction, &PUT, &[row]).await?;
        Ok(Vec::new())
    }
}

const POLICIES: Sql = Sql {
    table: "policy_version",
    postgres: "
        SELECT to_jsonb(p)::text FROM policy_version AS p
        WHERE p.shard_id = ($1::jsonb->>'shard_id')::int
        ORDER BY p.seen_at DESC, p.policy_hash LIMIT ($1::jsonb->>'limit')::bigint",
    sqlite: "
        SELECT json_object('shard_id', shard_id, 'policy_hash', policy_hash, 'status', status, 'files', json(files),
            'difference_id', difference_id, 'blast', json(blast), 'stopped_by', json(stopped_by), 'base_hash', base_hash,
            'seen_at', seen_at, 'seen_by', seen_by, 'decided_at', decided_at, 'decided_by', decided_by,
            'decided_note', decided_note)
        FROM policy_version WHERE shard_id = ?1 ->> 'shard_id'
        ORDER BY seen_at DESC, policy_hash LIMIT ?1 ->> 'limit'",
};

const IN_FORCE: Sql = Sql {
    table: "policy_version",
    postgres: "
        SELECT to_jsonb(p)::text FROM policy_version AS p
        WHERE p.shard_id = ($1::jsonb->>'shard_id')::int AND p.status = 'in_force'",
    sqlite: "
        SELECT json_object('shard_id', shard_id, 'policy_hash', policy_hash, 'status', status, 'files', json(files),
            'difference_id', difference_id, 'blast', json(blast), 'stopped_by', json(stopped_by), 'base_hash', base_hash,
            'seen_at', seen_at, 'seen_by', seen_by, 'decided_at', decided_at, 'decided_by', decided_by,
            'decided_note', decided_note)
        FROM policy_version WHERE shard_id = ?1 ->> 'shard_id' AND status = 'in_force'",
};

/// As [`IN_FORCE`]; two nodes that start together come one after the other.
const IN_FORCE_LOCKED: Sql = Sql {
    table: "policy_version",
    postgres: "
        SELECT to_jsonb(p)::text FROM policy_version AS p
        WHERE p.shard_id = ($1::jsonb->>'shard_id')::int AND p.status = 'in_force' FOR UPDATE",
    sqlite: IN_FORCE.sqlite,
};

const MAKE_PAST: Sql = Sql {
    table: "policy_version",
    postgres: "
        UPDATE policy_version SET status = 'past'
        WHERE shard_id = ($1::jsonb->>'shard_id')::int AND status = 'in_force'",
    sqlite: "UPDATE policy_version SET status = 'past' WHERE shard_id = ?1 ->> 'shard_id' AND status = 'in_force'",
};

const PUT: Sql = Sql {
    table: "policy_version",
    postgres: "
        INSERT INTO policy_version (shard_id, policy_hash, status, files, difference_id, blast, stopped_by, base_hash,
            seen_at, seen_by, decided_at, decided_by, decided_note)
        SELECT shard_id, policy_hash, status, files, difference_id, blast, nullif(stopped_by, 'null'::jsonb), base_hash,
            seen_at, seen_by, decided_at, decided_by, decided_note
        FROM jsonb_populate_recordset(NULL::policy_version, $1::jsonb)
        ON CONFLICT (shard_id, policy_hash) DO UPDATE SET
            status = excluded.status, files = excluded.files, difference_id = excluded.difference_id,
            blast = excluded.blast, stopped_by = excluded.stopped_by, base_hash = excluded.base_hash,
            seen_at = excluded.seen_at, seen_by = excluded.seen_by, decided_at = excluded.decided_at,
            decided_by = excluded.decided_by, decided_note = excluded.decided_note",
    sqlite: "
        INSERT INTO policy_version (shard_id, policy_hash, status, files, difference_id, blast, stopped_by, base_hash,
            seen_at, seen_by, decided_at, decided_by, decided_note)
        SELECT value ->> 'shard_id', value ->> 'policy_hash', value ->> 'status', value -> 'files',
            value ->> 'difference_id', value -> 'blast', nullif(value -> 'stopped_by', 'null'), value ->> 'base_hash',
            value ->> 'seen_at', value ->> 'seen_by', value ->> 'decided_at', value ->> 'decided_by',
            value ->> 'decided_note'
        FROM json_each(?1) WHERE true
        ON CONFLICT (shard_id, policy_hash) DO UPDATE SET
            status = excluded.status, files = excluded.files, difference_id = excluded.difference_id,
            blast = excluded.blast, stopped_by = excluded.stopped_by, base_hash = excluded.base_hash,
            seen_at = excluded.seen_at, seen_by = excluded.seen_by, decided_at = excluded.decided_at,
            decided_by = excluded.decided_by, decided_note = excluded.decided_note",
};
