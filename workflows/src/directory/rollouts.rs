//! How everybody comes under a policy that came into force, and by which policy each node decides.
//!
//! A row is written as a whole, by whoever read the revision before: of two nodes that look at the same page one starts cases
//! and moves the cursor, and the other writes nothing.

use engine::core::Timestamp;
use engine::store::{InboxRow, StoreError, Transaction, Work};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Directory;
use super::database::{Sql, execute, stored_time, stored_time_option, time_text};
use super::identities::Holdings;
use super::left_out::Remainder;
use super::policies::{PLACE, PolicyRow};
use crate::policy::digest;
use crate::policy::guard::{Blast, Slice};

/// The most rollouts a listing holds.
const ROLLOUTS_SHOWN_MAX: u32 = 100;
/// The most changes of one that are shown.
const CHANGES_SHOWN_MAX: u32 = 500;
/// Before the first person: no shard has this number.
const BEFORE_ALL: i32 = -1;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RolloutStatus {
    /// Nodes are to take the policy into use, and it is to be measured.
    Pending,
    /// The guard stopped it; a person has to approve or reject it.
    Waiting,
    Running,
    Done,
    /// Everybody keeps what they have until their next event.
    Rejected,
    /// Another policy came into force.
    Superseded,
}

impl RolloutStatus {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Done => "done",
            Self::Rejected => "rejected",
            Self::Superseded => "superseded",
        }
    }

    /// Whether anything may still come of it.
    #[must_use]
    pub fn is_open(self) -> bool {
        matches!(self, Self::Pending | Self::Waiting | Self::Running)
    }
}

/// How everybody comes under one policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RolloutRow {
    pub shard_id: i32,
    pub rollout_id: String,
    pub policy_hash: String,
    /// The policy before, whose guard measures.
    pub base_hash: String,
    pub status: RolloutStatus,
    /// The person who holds it, whatever its status is.
    #[serde(default)]
    pub paused_by: Option<String>,
    /// The last person who was looked at.
    pub cursor_shard: i32,
    pub cursor_key: String,
    #[serde(with = "stored_time")]
    pub begun_at: Timestamp,
    pub begun_by: String,
    /// Who approved what it does; `None` when nobody had to.
    #[serde(default)]
    pub approved_by: Option<String>,
    /// What they were shown.
    #[serde(default)]
    pub approved: Option<Blast>,
    /// Whom there was to look at when it was measured.
    pub people: u64,
    pub looked: u64,
    /// Who got a case.
    pub started: u64,
    /// For whom a rule had no answer when they were looked at: nothing was started.
    pub undecided: u64,
    #[serde(default)]
    pub difference_id: Option<String>,
    #[serde(default)]
    pub blast: Option<Blast>,
    #[serde(default)]
    pub stopped_by: Option<Vec<String>>,
    /// When everybody was looked at; from then on only those come under the policy who were left out.
    #[serde(with = "stored_time_option", default)]
    pub finished_at: Option<Timestamp>,
    /// When those who were left out were looked at last.
    #[serde(with = "stored_time_option", default)]
    pub left_out_looked_at: Option<Timestamp>,
    /// What it gives and takes, without those who are left out, and what it gave and took of those who came later: the guard
    /// counts it with whoever comes next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counted: Option<Vec<Slice>>,
    #[serde(with = "stored_time")]
    pub changed_at: Timestamp,
    pub revision: i64,
}

impl RolloutRow {
    /// That of a policy which takes the place of `base`.
    pub(super) fn begun(policy: &PolicyRow, base: String) -> Self {
        let at = policy.decided_at.unwrap_or(policy.seen_at);
        let name = json!([policy.policy_hash, base, time_text(at)]);
        let by = policy.decided_by.as_ref().unwrap_or(&policy.seen_by);
        Self {
            shard_id: policy.shard_id,
            rollout_id: format!("rol_{}", digest(&name)),
            policy_hash: policy.policy_hash.clone(),
            base_hash: base,
            status: RolloutStatus::Pending,
            paused_by: None,
            cursor_shard: BEFORE_ALL,
            cursor_key: String::new(),
            begun_at: at,
            begun_by: by.clone(),
            approved_by: policy.decided_by.clone(),
            approved: policy.decided_by.as_ref().map(|_| policy.blast.clone()),
            people: 0,
            looked: 0,
            started: 0,
            undecided: 0,
            difference_id: None,
            blast: None,
            stopped_by: None,
            finished_at: None,
            left_out_looked_at: None,
            counted: None,
            changed_at: at,
            revision: 1,
        }
    }
}

/// What a person did to a rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutChange {
    pub shard_id: i32,
    pub rollout_id: String,
    pub revision: i64,
    #[serde(with = "stored_time")]
    pub at: Timestamp,
    /// `pause`, `resume`, `approve` or `reject`.
    pub change: String,
    pub actor: String,
    pub reason: String,
}

/// The policy a node decides by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadedRow {
    pub shard_id: i32,
    pub node: String,
    pub policy_hash: String,
    #[serde(with = "stored_time")]
    pub at: Timestamp,
}

impl Directory {
    /// The rollouts there were, newest first.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn rollouts(&self) -> Result<Vec<RolloutRow>, StoreError> {
        let parameter = json!({ "shard_id": self.shard(PLACE), "limit": ROLLOUTS_SHOWN_MAX });
        self.reader().rows(&ROLLOUTS, &parameter).await
    }

    /// The one that is not over, or else the one that brought everybody under `policy`, for those whom it left out.
    pub(crate) async fn rollout_of(&self, policy: &str) -> Result<Option<RolloutRow>, StoreError> {
        let rows = self.rollouts().await?;
        let is_done = |row: &&RolloutRow| row.status == RolloutStatus::Done;
        let mut open = rows.iter().filter(|row| row.status.is_open());
        let mut done = rows.iter().filter(is_done);
        let found = match open.next() {
            Some(open) => Some(open).filter(|row| row.policy_hash == policy),
            None => done.find(|row| row.policy_hash == policy),
        };
        Ok(found.cloned())
    }

    /// The rollout of this identifier, or with this difference.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn rollout(&self, id: &str) -> Result<Option<RolloutRow>, StoreError> {
        let mut rows = self.rollouts().await?.into_iter();
        Ok(rows.find(|row| row.rollout_id == id || row.difference_id.as_deref() == Some(id)))
    }

    /// What people did to a rollout, the first first.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn rollout_changes(&self, rollout: &str) -> Result<Vec<RolloutChange>, StoreError> {
        let parameter = json!({
            "shard_id": self.shard(PLACE), "rollout_id": rollout, "limit": CHANGES_SHOWN_MAX,
        });
        self.reader().rows(&CHANGES, &parameter).await
    }

    /// Writes the next revision of a rollout with what people did, with messages that start cases, and with who is left out: all of
    /// it, or nothing when somebody else wrote that revision. Says whether it was written.
    pub(crate) async fn move_rollout(
        &self,
        row: &RolloutRow,
        change: Option<&RolloutChange>,
        starts: Vec<InboxRow>,
        remainder: Remainder,
    ) -> Result<bool, StoreError> {
        let work = MoveRollout {
            row,
            change,
            starts,
            remainder,
            done: std::sync::Mutex::new(false),
        };
        self.write(&work).await?;
        let done = work.done.into_inner();
        Ok(done.unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// People who are at work with what they hold, in the order of their shards and keys, from the one after a cursor.
    pub(crate) async fn holdings_after(
        &self,
        shard_id: i32,
        key: &str,
        limit: u32,
    ) -> Result<Vec<Holdings>, StoreError> {
        let parameter = json!({ "shard_id": shard_id, "key": key, "limit": limit });
        let page = &super::identities::HOLDINGS_AFTER;
        self.reader().rows(page, &parameter).await
    }

    /// Everybody at work, one page after the other: see [`Directory::holdings_after`].
    pub(crate) fn everybody(&self) -> Everybody<'_> {
        self.walk(&super::identities::HOLDINGS_AFTER)
    }

    /// Everybody who is left out, wherever they stand by now, one page after the other.
    pub(crate) fn everybody_left_out(&self) -> Everybody<'_> {
        self.walk(&super::identities::LEFT_OUT_AFTER)
    }

    fn walk(&self, pages: &'static Sql) -> Everybody<'_> {
        Everybody {
            directory: self,
            pages,
            limit: super::identities::PAGE_ROWS_MAX,
            shard_id: BEFORE_ALL,
            key: String::new(),
        }
    }

    /// Says by which policy a node decides.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn put_policy_loaded(
        &self,
        node: &str,
        policy_hash: &str,
        at: Timestamp,
    ) -> Result<(), StoreError> {
        let row = LoadedRow {
            shard_id: self.shard(PLACE),
            node: node.to_owned(),
            policy_hash: policy_hash.to_owned(),
            at,
        };
        self.write(&Loaded(row)).await
    }

    /// By which policies nodes decide.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn policies_loaded(&self) -> Result<Vec<LoadedRow>, StoreError> {
        let parameter = json!({ "shard_id": self.shard(PLACE) });
        self.reader().rows(&LOADED, &parameter).await
    }

    /// Takes back what nodes said that do not live any more and said nothing since `before`.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn forget_policies_loaded(
        &self,
        alive: &[String],
        before: Timestamp,
    ) -> Result<(), StoreError> {
        let work = Forget {
            shard_id: self.shard(PLACE),
            alive,
            before,
        };
        self.write(&work).await
    }

    /// The shard whose owner sees to rollouts, by its name.
    #[must_use]
    pub fn rollout_place() -> &'static str {
        PLACE
    }
}

/// Walks over people with what they hold, in the order of their shards and keys.
pub(crate) struct Everybody<'a> {
    directory: &'a Directory,
    pages: &'static Sql,
    limit: u32,
    shard_id: i32,
    key: String,
}

impl Everybody<'_> {
    /// With so many on a page.
    pub fn by(mut self, limit: u32) -> Self {
        self.limit = limit;
        self
    }

    /// The next page; empty at the end.
    pub async fn page(&mut self) -> Result<Vec<Holdings>, StoreError> {
        let parameter = json!({ "shard_id": self.shard_id, "key": self.key, "limit": self.limit });
        let page: Vec<Holdings> = self.directory.reader().rows(self.pages, &parameter).await?;
        if let Some(last) = page.last() {
            self.shard_id = last.identity.shard_id;
            self.key.clone_from(&last.identity.identity_key);
        }
        Ok(page)
    }
}

/// Begins a rollout; whatever was open of another policy is superseded.
pub(super) async fn begin(
    transaction: &mut Transaction<'_>,
    row: &RolloutRow,
) -> Result<(), StoreError> {
    let parameter = json!({ "shard_id": row.shard_id, "at": time_text(row.begun_at) });
    execute(transaction, &SUPERSEDE, &parameter).await?;
    execute(transaction, &BEGIN, row).await.map(|_| ())
}

struct MoveRollout<'a> {
    row: &'a RolloutRow,
    change: Option<&'a RolloutChange>,
    starts: Vec<InboxRow>,
    remainder: Remainder,
    done: std::sync::Mutex<bool>,
}

#[async_trait::async_trait]
impl Work for MoveRollout<'_> {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        let moved = execute(transaction, &MOVE, self.row).await? == 1;
        *self
            .done
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = moved;
        if !moved {
            return Ok(Vec::new());
        }
        if let Some(change) = self.change {
            execute(transaction, &PUT_CHANGE, change).await?;
        }
        self.remainder.write(transaction).await?;
        Ok(self.starts.clone())
    }
}

struct Loaded(LoadedRow);

#[async_trait::async_trait]
impl Work for Loaded {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        execute(transaction, &PUT_LOADED, &self.0).await?;
        Ok(Vec::new())
    }
}

struct Forget<'a> {
    shard_id: i32,
    alive: &'a [String],
    before: Timestamp,
}

#[async_trait::async_trait]
impl Work for Forget<'_> {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        let parameter = json!({
            "shard_id": self.shard_id, "alive": self.alive, "before": time_text(self.before),
        });
        execute(transaction, &FORGET_LOADED, &parameter).await?;
        Ok(Vec::new())
    }
}

const ROLLOUTS: Sql = Sql {
    table: "policy_rollout",
    postgres: "
        SELECT to_jsonb(r)::text FROM policy_rollout AS r
        WHERE r.shard_id = ($1::jsonb->>'shard_id')::int
        ORDER BY r.begun_at DESC, r.rollout_id LIMIT ($1::jsonb->>'limit')::bigint",
    sqlite: "
        SELECT json_object('shard_id', shard_id, 'rollout_id', rollout_id, 'policy_hash', policy_hash,
            'base_hash', base_hash, 'status', status, 'paused_by', paused_by, 'cursor_shard', cursor_shard,
            'cursor_key', cursor_key, 'begun_at', begun_at, 'begun_by', begun_by, 'approved_by', approved_by,
            'approved', json(approved), 'people', people, 'looked', looked, 'started', started,
            'undecided', undecided, 'difference_id', difference_id, 'blast', json(blast),
            'stopped_by', json(stopped_by), 'finished_at', finished_at, 'left_out_looked_at', left_out_looked_at,
            'counted', json(counted), 'changed_at', changed_at, 'revision', revision)
        FROM policy_rollout WHERE shard_id = ?1 ->> 'shard_id'
        ORDER BY begun_at DESC, rollout_id LIMIT ?1 ->> 'limit'",
};

const SUPERSEDE: Sql = Sql {
    table: "policy_rollout",
    postgres: "
        UPDATE policy_rollout SET status = 'superseded', revision = revision + 1,
            changed_at = ($1::jsonb->>'at')::timestamptz
        WHERE shard_id = ($1::jsonb->>'shard_id')::int AND status IN ('pending', 'waiting', 'running')",
    sqlite: "
        UPDATE policy_rollout SET status = 'superseded', revision = revision + 1, changed_at = ?1 ->> 'at'
        WHERE shard_id = ?1 ->> 'shard_id' AND status IN ('pending', 'waiting', 'running')",
};

const BEGIN: Sql = Sql {
    table: "policy_rollout",
    postgres: "
        INSERT INTO policy_rollout (shard_id, rollout_id, policy_hash, base_hash, status, paused_by, cursor_shard,
            cursor_key, begun_at, begun_by, approved_by, approved, people, looked, started, undecided, difference_id,
            blast, stopped_by, changed_at, revision)
        SELECT shard_id, rollout_id, policy_hash, base_hash, status, paused_by, cursor_shard, cursor_key, begun_at,
            begun_by, approved_by, nullif(approved, 'null'::jsonb), people, looked, started, undecided, difference_id,
            nullif(blast, 'null'::jsonb), nullif(stopped_by, 'null'::jsonb), changed_at, revision
        FROM jsonb_populate_record(NULL::policy_rollout, $1::jsonb)
        ON CONFLICT (shard_id, rollout_id) DO NOTHING",
    sqlite: "
        INSERT INTO policy_rollout (shard_id, rollout_id, policy_hash, base_hash, status, paused_by, cursor_shard,
            cursor_key, begun_at, begun_by, approved_by, approved, people, looked, started, undecided, difference_id,
            blast, stopped_by, changed_at, revision)
        VALUES (?1 ->> 'shard_id', ?1 ->> 'rollout_id', ?1 ->> 'policy_hash', ?1 ->> 'base_hash', ?1 ->> 'status',
            ?1 ->> 'paused_by', ?1 ->> 'cursor_shard', ?1 ->> 'cursor_key', ?1 ->> 'begun_at', ?1 ->> 'begun_by',
            ?1 ->> 'approved_by', nullif(?1 -> 'approved', 'null'), ?1 ->> 'people', ?1 ->> 'looked',
            ?1 ->> 'started', ?1 ->> 'undecided', ?1 ->> 'difference_id', nullif(?1 -> 'blast', 'null'),
            nullif(?1 -> 'stopped_by', 'null'), ?1 ->> 'changed_at', ?1 ->> 'revision')
        ON CONFLICT (shard_id, rollout_id) DO NOTHING",
};

/// Only from the revision before.
const MOVE: Sql = Sql {
    table: "policy_rollout",
    postgres: "
        UPDATE policy_rollout AS r SET
            status = n.status, paused_by = n.paused_by, cursor_shard = n.cursor_shard, cursor_key = n.cursor_key,
            approved_by = n.approved_by, approved = nullif(n.approved, 'null'::jsonb), people = n.people,
            looked = n.looked, started = n.started, undecided = n.undecided, difference_id = n.difference_id,
            blast = nullif(n.blast, 'null'::jsonb), stopped_by = nullif(n.stopped_by, 'null'::jsonb),
            finished_at = n.finished_at, left_out_looked_at = n.left_out_looked_at, counted = nullif(n.counted, 'null'::jsonb),
            changed_at = n.changed_at, revision = n.revision
        FROM jsonb_populate_record(NULL::policy_rollout, $1::jsonb) AS n
        WHERE r.shard_id = ($1::jsonb->>'shard_id')::int AND r.rollout_id = n.rollout_id
          AND r.revision = n.revision - 1",
    sqlite: "
        UPDATE policy_rollout SET
            status = ?1 ->> 'status', paused_by = ?1 ->> 'paused_by', cursor_shard = ?1 ->> 'cursor_shard',
            cursor_key = ?1 ->> 'cursor_key', approved_by = ?1 ->> 'approved_by',
            approved = nullif(?1 -> 'approved', 'null'), people = ?1 ->> 'people', looked = ?1 ->> 'looked',
            started = ?1 ->> 'started', undecided = ?1 ->> 'undecided', difference_id = ?1 ->> 'difference_id',
            blast = nullif(?1 -> 'blast', 'null'), stopped_by = nullif(?1 -> 'stopped_by', 'null'),
            finished_at = ?1 ->> 'finished_at', left_out_looked_at = ?1 ->> 'left_out_looked_at',
            counted = nullif(?1 -> 'counted', 'null'), changed_at = ?1 ->> 'changed_at', revision = ?1 ->> 'revision'
        WHERE shard_id = ?1 ->> 'shard_id' AND rollout_id = ?1 ->> 'rollout_id'
          AND revision = (?1 ->> 'revision') - 1",
};

const CHANGES: Sql = Sql {
    table: "policy_rollout_change",
    postgres: "
        SELECT to_jsonb(c)::text FROM policy_rollout_change AS c
        WHERE c.shard_id = ($1::jsonb->>'shard_id')::int AND c.rollout_id = $1::jsonb->>'rollout_id'
        ORDER BY c.revision LIMIT ($1::jsonb->>'limit')::bigint",
    sqlite: "
        SELECT json_object('shard_id', shard_id, 'rollout_id', rollout_id, 'revision', revision, 'at', at,
            'change', change, 'actor', actor, 'reason', reason)
        FROM policy_rollout_change WHERE shard_id = ?1 ->> 'shard_id' AND rollout_id = ?1 ->> 'rollout_id'
        ORDER BY revision LIMIT ?1 ->> 'limit'",
};

const PUT_CHANGE: Sql = Sql {
    table: "policy_rollout_change",
    postgres: "
        INSERT INTO policy_rollout_change (shard_id, rollout_id, revision, at, change, actor, reason)
        SELECT shard_id, rollout_id, revision, at, change, actor, reason
        FROM jsonb_populate_record(NULL::policy_rollout_change, $1::jsonb)",
    sqlite: "
        INSERT INTO policy_rollout_change (shard_id, rollout_id, revision, at, change, actor, reason)
        VALUES (?1 ->> 'shard_id', ?1 ->> 'rollout_id', ?1 ->> 'revision', ?1 ->> 'at', ?1 ->> 'change',
            ?1 ->> 'actor', ?1 ->> 'reason')",
};

const PUT_LOADED: Sql = Sql {
    table: "policy_loaded",
    postgres: "
        INSERT INTO policy_loaded (shard_id, node, policy_hash, at)
        SELECT shard_id, node, policy_hash, at FROM jsonb_populate_record(NULL::policy_loaded, $1::jsonb)
        ON CONFLICT (shard_id, node) DO UPDATE SET policy_hash = excluded.policy_hash, at = excluded.at",
    sqlite: "
        INSERT INTO policy_loaded (shard_id, node, policy_hash, at)
        VALUES (?1 ->> 'shard_id', ?1 ->> 'node', ?1 ->> 'policy_hash', ?1 ->> 'at')
        ON CONFLICT (shard_id, node) DO UPDATE SET policy_hash = excluded.policy_hash, at = excluded.at",
};

const LOADED: Sql = Sql {
    table: "policy_loaded",
    postgres: "
        SELECT to_jsonb(l)::text FROM policy_loaded AS l
        WHERE l.shard_id = ($1::jsonb->>'shard_id')::int ORDER BY l.node",
    sqlite: "
        SELECT json_object('shard_id', shard_id, 'node', node, 'policy_hash', policy_hash, 'at', at)
        FROM policy_loaded WHERE shard_id = ?1 ->> 'shard_id' ORDER BY node",
};

const FORGET_LOADED: Sql = Sql {
    table: "policy_loaded",
    postgres: "
        DELETE FROM policy_loaded
        WHERE shard_id = ($1::jsonb->>'shard_id')::int AND at < ($1::jsonb->>'before')::timestamptz
          AND NOT ($1::jsonb->'alive' ? node)",
    sqlite: "
        DELETE FROM policy_loaded
        WHERE shard_id = ?1 ->> 'shard_id' AND at < ?1 ->> 'before'
          AND node NOT IN (SELECT value FROM json_each(?1, '$.alive'))",
};
