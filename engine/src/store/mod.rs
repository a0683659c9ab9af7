//! Where cases live: one trait, two databases, one conformance suite.
//!
//! # Theory of operation
//!
//! A shard has one owner at a time. The owner holds the hot cases in memory and writes what changed in
//! batches ([`Store::commit`]); nothing polls and nothing contends. Every batch is fenced twice in the same
//! transaction: by the *epoch* of each shard it touches (a node that lost its lease matches nothing) and by
//! the *version* each case had when it was read. If either does not match, the whole batch is refused and
//! nothing of it is written.
//!
//! Tables by temperature: `case_head` is written once; `case_state` is narrow, hot and has no index on a
//! column that a step changes; `case_step` has one row an instance; `case_timer` is only inserted into and
//! deleted from; `case_history` and `evidence` are append-only, and on PostgreSQL partitioned by month, so that what is
//! old is dropped and not deleted; `inbox` holds what came from outside until a batch that used it deletes it.
//! Schedules have tables and transactions of their own ([`ScheduleStore`]).

mod batch;
mod decode;
mod failure;
mod migrate;
mod node_rows;
mod rows;
mod schedules;
mod search;

pub mod postgres;
pub mod sqlite;

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;

use std::collections::HashSet;

use async_trait::async_trait;
use serde_json::Value;
use uuid::Uuid;

use crate::core::Timestamp;
use crate::core::admission::OpenCase;
use crate::core::case::{Ask, CaseState, Failure, Pause, Verification};
use crate::core::definition::Lane;
use crate::core::id::{Actor, CaseId, DefinitionHash, Epoch, Place, ShardId, StepIndex, Subject};
use crate::core::input::TimerTarget;

pub use migrate::SHARDS_MAX;
pub use node_rows::{Acquire, Heartbeat, Hint, NodeRow, ShardRow};
pub use rows::{StoredCase, assemble, head_row, pause_row, state_row, step_row, stored_time};
pub use schedules::{
    NoSchedules, ScheduleBatch, ScheduleChangeRow, ScheduleRow, ScheduleRunRow, ScheduleStore,
    Started, Whereabouts,
};
pub use search::{CaseFilter, Waiting, WorkFilter};

/// The number of logical shards a new database gets; fixed for its life.
pub const SHARDS_DEFAULT: u32 = 256;
/// The most rows one page of a listing holds.
pub const PAGE_ROWS_MAX: u32 = 1_000;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another node owns the shard. Drop the work; do not repeat it.
    #[error("shard `{shard}` is no longer leased to this node")]
    Fenced { shard: ShardId },
    /// A case was changed by somebody else since it was read. Reload it.
    #[error("case `{case}` is not at version {version} any more")]
    Stale { case: CaseId, version: u64 },
    /// A schedule was changed by somebody else since it was read. Reload it.
    #[error("schedule `{schedule}` is not at version {version} any more")]
    StaleSchedule { schedule: String, version: u64 },
    #[error("cannot decode `{table}.{column}` for key `{key}`")]
    Corrupt {
        table: &'static str,
        column: &'static str,
        key: String,
        #[source]
        source: BoxError,
    },
    /// Safe to repeat.
    #[error("database did not answer")]
    Unavailable(#[source] sqlx::Error),
    /// A statement the database refused: a defect here, or a schema of another version.
    #[error("database refused a statement")]
    Refused(#[source] sqlx::Error),
    #[error("database has schema version {found}, this program knows {known}; run a newer program")]
    TooNew { found: i64, known: i64 },
    #[error("migration `{name}` failed")]
    Migration {
        name: String,
        #[source]
        source: BoxError,
    },
    /// Found before anything is written; the same on both databases.
    #[error(
        "`{column}` of `{key}` holds the character U+0000 or is no UTF-8 text, which cannot be stored"
    )]
    Unstorable { column: &'static str, key: String },
    /// The layer above could not do its part of the transaction.
    #[error("{0}")]
    Projection(String),
}

/// A shard held by this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardLease {
    pub shard: ShardId,
    pub epoch: Epoch,
}

/// One schema step. `version` orders them over all crates; both databases have the same names.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    pub version: i64,
    pub name: &'static str,
    pub postgres: &'static str,
    pub sqlite: &'static str,
}

/// The engine's own schema.
pub const MIGRATIONS: &[Migration] = &[
    Migration {
        version: 1,
        name: "engine",
        postgres: include_str!("../../../migrations/postgres/0001_engine.sql"),
        sqlite: include_str!("../../../migrations/sqlite/0001_engine.sql"),
    },
    Migration {
        version: 4,
        name: "nodes",
        postgres: include_str!("../../../migrations/postgres/0004_nodes.sql"),
        sqlite: include_str!("../../../migrations/sqlite/0004_nodes.sql"),
    },
    Migration {
        version: 5,
        name: "retention",
        postgres: include_str!("../../../migrations/postgres/0005_retention.sql"),
        sqlite: include_str!("../../../migrations/sqlite/0005_retention.sql"),
    },
    Migration {
        version: 6,
        name: "pause",
        postgres: include_str!("../../../migrations/postgres/0006_pause.sql"),
        sqlite: include_str!("../../../migrations/sqlite/0006_pause.sql"),
    },
    Migration {
        version: 7,
        name: "schedules",
        postgres: include_str!("../../../migrations/postgres/0007_schedules.sql"),
        sqlite: include_str!("../../../migrations/sqlite/0007_schedules.sql"),
    },
    Migration {
        version: 8,
        name: "counts",
        postgres: include_str!("../../../migrations/postgres/0008_counts.sql"),
        sqlite: include_str!("../../../migrations/sqlite/0008_counts.sql"),
    },
    Migration {
        version: 9,
        name: "generation",
        postgres: include_str!("../../../migrations/postgres/0009_generation.sql"),
        sqlite: include_str!("../../../migrations/sqlite/0009_generation.sql"),
    },
    Migration {
        version: 11,
        name: "node_lease",
        postgres: include_str!("../../../migrations/postgres/0011_node_lease.sql"),
        sqlite: include_str!("../../../migrations/sqlite/0011_node_lease.sql"),
    },
    Migration {
        version: 18,
        name: "closed_part",
        postgres: include_str!("../../../migrations/postgres/0018_closed_part.sql"),
        sqlite: include_str!("../../../migrations/sqlite/0018_closed_part.sql"),
    },
];

/// Up to when what is over may be forgotten; `None` is never. What belongs to an open case always stays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Before {
    /// Transitions recorded before this. Time partitions go as a whole, once all of one is older.
    pub history: Option<Timestamp>,
    pub evidence: Option<Timestamp>,
    /// Head, state and steps of cases that closed before this.
    pub closed_cases: Option<Timestamp>,
}

/// What one call of [`Store::forget`] removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// Time partitions dropped.
    pub partitions: u64,
    /// Rows of history and evidence deleted one by one.
    pub rows: u64,
    pub cases: u64,
    /// Whether to call again.
    pub more: bool,
}

/// The most cases one call of [`Store::forget`] removes.
pub const FORGET_CASES_MAX: u32 = 500;
/// The most rows of history or evidence one call of [`Store::forget`] deletes.
pub const FORGET_ROWS_MAX: u32 = 5_000;

/// What is written once when a case is made.
#[derive(Debug, Clone, PartialEq)]
pub struct HeadRow {
    pub shard: ShardId,
    pub case: CaseId,
    pub subject: Subject,
    pub workflow: String,
    pub definition: DefinitionHash,
    pub lane: Lane,
    pub generation: u32,
    pub input: Value,
    pub salt: [u8; 16],
    pub initiator: Actor,
    pub effective_at: Option<Timestamp>,
    pub received_at: Timestamp,
    pub created_at: Timestamp,
}

/// A case that goes on under another version of its workflow. Its head names that one, and of its rows of steps
/// only those of the same batch remain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RebuiltRow {
    pub shard: ShardId,
    pub case: CaseId,
    pub definition: DefinitionHash,
    pub lane: Lane,
}

/// What changes with a transition of the case.
#[derive(Debug, Clone, PartialEq)]
pub struct StateRow {
    pub shard: ShardId,
    pub case: CaseId,
    /// The version the row must have now; `None` for a case this batch makes.
    pub from_version: Option<u64>,
    pub version: u64,
    pub state: CaseState,
    /// `cancelled`, `preempted` or `undoing` while the case is ending.
    pub ending: Option<crate::core::case::Ending>,
    pub in_flight: u32,
    pub parked: u32,
    /// Instances that are not finished, over all planned steps.
    pub unfinished: u32,
    pub unverified: u32,
    pub given_up: u32,
    pub steps_done: u32,
    pub deadline_at: Option<Timestamp>,
    pub deadline_passed: bool,
    pub closed_at: Option<Timestamp>,
    pub changed_at: Timestamp,
    /// Read with the row, written with [`PauseRow`].
    pub paused: Option<Pause>,
}

/// Who holds a case now, or that nobody does any more.
#[derive(Debug, Clone, PartialEq)]
pub struct PauseRow {
    pub shard: ShardId,
    pub case: CaseId,
    pub pause: Option<Pause>,
}

/// One instance, or (`instance` is `None`) a step that waited as a whole.
#[derive(Debug, Clone, PartialEq)]
pub struct StepRow {
    pub shard: ShardId,
    pub case: CaseId,
    pub step: u16,
    /// Stored as -1 for `None`.
    pub instance: Option<u32>,
    /// The name of the state: what lists and filters read.
    pub state: String,
    pub attempt: u32,
    pub failures: u32,
    pub away: u32,
    /// The case version at which the instance was planned: it has a row since. `None` when that is not known,
    /// as for a step's own row, and in a row that was read.
    pub planned_version: Option<u64>,
    /// Everything else of the row as JSON text, `{"state":..., "item":..., "with":..., "output":..., "failure":...,
    /// "verification":..., "finished_version":..., "planned_version":..., "run":...}`; a stored form, fields are only ever added.
    pub body: String,
    pub changed_at: Timestamp,
}

/// The events of one transition. Key: shard, case, version.
#[derive(Debug, Clone, PartialEq)]
pub struct HistoryRow {
    pub shard: ShardId,
    pub case: CaseId,
    /// The version of the case *after* the transition.
    pub version: u64,
    pub at: Timestamp,
    /// The name of the input.
    pub input: String,
    pub by: String,
    /// A JSON array of events.
    pub events: String,
}

/// One leaf of evidence. Key: shard, case, version. Never updated; kept for ever unless [`Before::evidence`] says
/// otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvidenceRow {
    pub shard: ShardId,
    pub case: CaseId,
    pub version: u64,
    pub at: Timestamp,
    /// The canonical bytes.
    pub leaf: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimerRow {
    pub shard: ShardId,
    pub due: Timestamp,
    pub case: CaseId,
    pub target: TimerTarget,
}

/// Something from outside, durable before it is acknowledged, deleted by the batch that used it.
#[derive(Debug, Clone, PartialEq)]
pub struct InboxRow {
    pub shard: ShardId,
    /// Chosen by the sender: the same message sent twice is one message.
    pub id: Uuid,
    pub lane: Lane,
    pub received_at: Timestamp,
    /// JSON text; the runner knows its form.
    pub body: String,
}

/// What became of an inbox message that wanted an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplyRow {
    pub shard: ShardId,
    pub id: Uuid,
    pub at: Timestamp,
    pub accepted: bool,
    pub message: String,
}

/// Everything one group commit writes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Batch {
    /// The epoch of every shard the batch touches; each must still be ours.
    pub leases: Vec<ShardLease>,
    pub heads: Vec<HeadRow>,
    /// Cases that were there before the batch. At most one row a case; every row of their steps in the batch is
    /// without `planned_version`.
    pub rebuilt: Vec<RebuiltRow>,
    pub states: Vec<StateRow>,
    /// At most one row for each (case, step, instance): the last content.
    pub steps: Vec<StepRow>,
    pub history: Vec<HistoryRow>,
    pub evidence: Vec<EvidenceRow>,
    pub timers_cleared: Vec<TimerRow>,
    pub timers_set: Vec<TimerRow>,
    pub inbox_done: Vec<(ShardId, Uuid)>,
    pub replies: Vec<ReplyRow>,
    pub outcomes: Vec<Outcome>,
    /// At most one row a case.
    pub pauses: Vec<PauseRow>,
    /// At most one row a subject.
    pub generations: Vec<GenerationRow>,
}

/// The life that a subject is in. Written with the first case of a life; a row never goes back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GenerationRow {
    pub shard: ShardId,
    pub subject: Subject,
    pub generation: u32,
}

/// What is known of a case without reading its steps, its input or its definition: enough to end it. A column
/// that cannot be read is empty.
#[derive(Debug, Clone, PartialEq)]
pub struct Bones {
    pub subject: Subject,
    pub workflow: String,
    pub definition: DefinitionHash,
    pub generation: u32,
    pub salt: [u8; 16],
    pub effective_at: Option<Timestamp>,
    pub received_at: Timestamp,
    pub created_at: Timestamp,
    /// The highest version in its state and its history.
    pub version: u64,
    pub closed: bool,
}

/// The end of a case that is not read. Its state, history and evidence say so; its timers and whatever holds it
/// go; instances that were in flight are `unknown` from then on, other unfinished ones `cancelled`.
#[derive(Debug, Clone, PartialEq)]
pub struct Termination {
    pub lease: ShardLease,
    pub case: CaseId,
    /// The version the case gets.
    pub version: u64,
    pub at: Timestamp,
    pub history: HistoryRow,
    pub evidence: EvidenceRow,
}

impl Batch {
    /// Leaves out everything of the shards that `kept` refuses.
    pub fn retain_shards(&mut self, kept: impl Fn(ShardId) -> bool) {
        self.leases.retain(|row| kept(row.shard));
        self.heads.retain(|row| kept(row.shard));
        self.rebuilt.retain(|row| kept(row.shard));
        self.states.retain(|row| kept(row.shard));
        self.steps.retain(|row| kept(row.shard));
        self.history.retain(|row| kept(row.shard));
        self.evidence.retain(|row| kept(row.shard));
        self.timers_cleared.retain(|row| kept(row.shard));
        self.timers_set.retain(|row| kept(row.shard));
        self.inbox_done.retain(|(shard, _)| kept(*shard));
        self.replies.retain(|row| kept(row.shard));
        self.outcomes.retain(|row| kept(row.shard));
        self.pauses.retain(|row| kept(row.shard));
        self.generations.retain(|row| kept(row.shard));
    }
}

impl Default for ShardLease {
    fn default() -> Self {
        Self {
            shard: ShardId(0),
            epoch: Epoch(0),
        }
    }
}

/// What a projection is told: something finished, in the transaction that records it.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    pub shard: ShardId,
    pub case: CaseId,
    pub version: u64,
    pub subject: Subject,
    pub workflow: String,
    pub lane: Lane,
    pub generation: u32,
    pub at: Timestamp,
    pub effective_at: Option<Timestamp>,
    pub received_at: Timestamp,
    pub kind: OutcomeKind,
}

#[derive(Debug, Clone, PartialEq)]
pub enum OutcomeKind {
    /// An instance of an action finished (`Done`), was taken back (`Undone`) or is left unknown (`Unknown`).
    Step {
        place: Place,
        step: String,
        uses: String,
        ending: StepEnding,
        item: Value,
        with: Value,
        output: Value,
        verification: Option<Verification>,
    },
    Closed {
        state: CaseState,
    },
    /// A person is asked: for an approval, or to do something by hand. Signals are not told.
    Asked {
        place: Place,
        step: String,
        ask: Ask,
        due: Option<Timestamp>,
    },
    /// Nobody answered in time, and the question stays open.
    Overdue {
        place: Place,
        step: String,
        ask: Ask,
    },
    /// Failed for good, or (`instance` is `None`) cannot be planned: a person has to decide.
    Parked {
        index: StepIndex,
        instance: Option<u32>,
        step: String,
        uses: String,
        failure: Failure,
    },
    /// The case is not finished at its deadline.
    DeadlinePassed {
        escalate_to: Option<String>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepEnding {
    Done,
    Undone,
    Unknown,
}

/// The open transaction, handed to the layer above.
pub enum Transaction<'a> {
    Postgres(&'a mut sqlx::PgConnection),
    Sqlite(&'a mut sqlx::SqliteConnection),
}

/// The layer above, taking part in the engine's transaction. It must not commit, roll back or call out.
#[async_trait]
pub trait Projection: Send + Sync {
    /// Whether such an outcome is to be told: a batch without any is written in one statement, which is a good deal
    /// quicker.
    fn wants(&self, kind: &OutcomeKind) -> bool {
        let _ = kind;
        true
    }

    /// # Errors
    /// Any error rolls the whole batch back.
    async fn project(
        &self,
        transaction: &mut Transaction<'_>,
        outcomes: &[Outcome],
    ) -> Result<(), StoreError>;
}

/// A projection of nothing.
pub struct NoProjection;

#[async_trait]
impl Projection for NoProjection {
    fn wants(&self, _: &OutcomeKind) -> bool {
        false
    }

    async fn project(&self, _: &mut Transaction<'_>, _: &[Outcome]) -> Result<(), StoreError> {
        Ok(())
    }
}

/// A piece of writing that the layer above does in a transaction of its own, with inbox messages in the same one.
#[async_trait]
pub trait Work: Send + Sync {
    /// Returns the inbox rows to put in the same transaction.
    ///
    /// # Errors
    /// Any error rolls the transaction back.
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError>;
}

/// A case as a list shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct CaseSummary {
    pub head: HeadRow,
    pub state: StateRow,
}

/// A stored version of a workflow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionRow {
    pub hash: DefinitionHash,
    pub workflow: String,
    /// When this database first saw it.
    pub created_at: Timestamp,
    /// How many cases run it that are not closed.
    pub open: u64,
}

/// Where a listing goes on: newest first by creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CaseCursor {
    pub created_at: Timestamp,
    pub case: CaseId,
}

/// Something that waits for a person to do something about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParkedRow {
    pub shard: ShardId,
    pub case: CaseId,
    /// Since when.
    pub at: Timestamp,
    /// The step that is parked or stuck; `None`: the case as a whole is paused.
    pub step: Option<StepIndex>,
    /// The instance that is parked; `None`: the step is stuck.
    pub instance: Option<u32>,
}

/// A database that holds cases.
///
/// All times come from the caller, except the lease clock, which is the database's own.
#[async_trait]
pub trait Store: Send + Sync {
    /// Brings the schema up to date, oldest first, each in its own transaction, and makes the shards of a new
    /// database. Two callers at once are safe.
    ///
    /// # Errors
    /// [`StoreError::TooNew`] when the database was written by a newer program.
    async fn migrate(&self, migrations: &[Migration], shards: u32) -> Result<(), StoreError>;

    /// The part that keeps schedules. A store that has none refuses to be given any.
    fn schedules(&self) -> &dyn ScheduleStore {
        &NoSchedules
    }

    /// How many batches one lane may usefully write at the same time, of different shards.
    fn writes_at_once(&self) -> usize {
        1
    }

    /// The number of shards of this database.
    async fn shard_count(&self) -> Result<u32, StoreError>;

    /// Takes shards that are free, whose lease has run out, or whose owner is known to be dead. Raises each one's
    /// epoch. A shard that another node takes at this moment, or whose last owner is still writing a batch, is left
    /// to the next call.
    async fn acquire(&self, wanted: &Acquire<'_>) -> Result<Vec<ShardLease>, StoreError>;

    /// Extends those of `leases` that are still held, and names the shards that are not.
    async fn renew(
        &self,
        node: &str,
        leases: &[ShardLease],
        lease_ms: u32,
    ) -> Result<Vec<ShardId>, StoreError>;

    /// Gives the shards back at once.
    async fn release(&self, node: &str, leases: &[ShardLease]) -> Result<(), StoreError>;

    async fn shards(&self) -> Result<Vec<ShardRow>, StoreError>;

    /// Says that a node lives.
    async fn beat(&self, beat: &Heartbeat) -> Result<(), StoreError>;

    /// All nodes that are not forgotten, the longest running first.
    async fn nodes(&self) -> Result<Vec<NodeRow>, StoreError>;

    /// A node that ended in good order is not known any more.
    async fn forget_node(&self, owner: &str) -> Result<(), StoreError>;

    /// Nodes that have been silent for longer than `silent_ms` are not known any more.
    async fn forget_silent_nodes(&self, silent_ms: u32) -> Result<(), StoreError>;

    /// Tells the other nodes that shards became free or a node came or went. May be lost.
    fn hint_ownership(&self) {}

    /// Waits until another process hints that there is something to look at. A hint saves waiting for the next look
    /// and nothing else: it may be lost, and a database that has none waits for ever.
    async fn hinted(&self) -> Hint {
        std::future::pending().await
    }

    /// Writes a batch: all of it, or nothing.
    ///
    /// # Errors
    /// [`StoreError::Fenced`], [`StoreError::Stale`]: nothing was written and repeating is pointless.
    /// [`StoreError::Unavailable`]: unknown whether it was written; reload before anything else.
    async fn commit(&self, batch: &Batch, projection: &dyn Projection) -> Result<(), StoreError>;

    /// Runs the layer above's own writing in one transaction and puts its messages into the inbox.
    async fn write(&self, work: &dyn Work) -> Result<(), StoreError>;

    /// Puts messages into the inbox; one that is there already stays as it is.
    async fn put_inbox(&self, rows: &[InboxRow]) -> Result<(), StoreError>;

    /// Messages of the given shards, the revocation lane first, then the oldest. Fewer than `limit` are all there are.
    async fn inbox(&self, shards: &[ShardId], limit: u32) -> Result<Vec<InboxRow>, StoreError> {
        self.inbox_since(shards, None, limit).await
    }

    /// As [`Store::inbox`], of the messages received at `since` or later: what was taken out before costs nothing then,
    /// however long the database must keep it for somebody's old snapshot.
    async fn inbox_since(
        &self,
        shards: &[ShardId],
        since: Option<Timestamp>,
        limit: u32,
    ) -> Result<Vec<InboxRow>, StoreError>;

    async fn reply(&self, shard: ShardId, id: Uuid) -> Result<Option<ReplyRow>, StoreError>;

    /// Deletes replies older than `before`.
    async fn forget_replies(&self, before: Timestamp) -> Result<(), StoreError>;

    /// Makes the time partitions of the months ahead, and has the planner look at their parents, which it never does
    /// by itself. Call it once a day. Two callers at once are safe. There is nothing to do where a table is not
    /// partitioned.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] also when somebody else uses the tables for too long: try again later. Rows
    /// for which there is no partition yet are kept in the default one meanwhile.
    async fn make_room(&self, now: Timestamp) -> Result<(), StoreError>;

    /// Removes a bounded piece of what is over: one time partition, or a few thousand rows.
    ///
    /// # Errors
    /// As [`Store::make_room`]; nothing was removed then.
    async fn forget(&self, before: &Before) -> Result<Forgotten, StoreError>;

    async fn load(&self, shard: ShardId, case: CaseId) -> Result<Option<StoredCase>, StoreError>;

    /// What can be read of a case that cannot be loaded. Never [`StoreError::Corrupt`].
    async fn bones(&self, shard: ShardId, case: CaseId) -> Result<Option<Bones>, StoreError>;

    /// Ends a case without reading it, in one transaction.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] when the shard is not ours, [`StoreError::Stale`] when the case is closed already.
    async fn terminate(&self, end: &Termination) -> Result<(), StoreError>;

    /// The shard of a case, if it exists.
    async fn locate(&self, case: CaseId) -> Result<Option<ShardId>, StoreError>;

    /// Cases that need their owner right after a take-over: attempts in flight, or queued.
    async fn restless(&self, shards: &[ShardId]) -> Result<Vec<(ShardId, CaseId)>, StoreError>;

    /// The lives that subjects of these shards are in, where they are not in the first.
    async fn generations(&self, shards: &[ShardId]) -> Result<Vec<GenerationRow>, StoreError>;

    /// Which of these cases exist, open or closed.
    async fn existing(&self, cases: &[(ShardId, CaseId)]) -> Result<HashSet<CaseId>, StoreError>;

    /// The open cases of each of these subjects.
    async fn open_cases(
        &self,
        subjects: &[(ShardId, Subject)],
    ) -> Result<Vec<(Subject, OpenCase)>, StoreError>;

    /// Timers due up to `until`, soonest first.
    async fn timers(
        &self,
        shards: &[ShardId],
        until: Timestamp,
        limit: u32,
    ) -> Result<Vec<TimerRow>, StoreError>;

    async fn put_definition(
        &self,
        hash: &DefinitionHash,
        name: &str,
        source: &str,
        now: Timestamp,
    ) -> Result<(), StoreError>;

    async fn definition(&self, hash: &DefinitionHash) -> Result<Option<String>, StoreError>;

    /// Every stored version, by workflow, the newest first.
    async fn versions(&self) -> Result<Vec<VersionRow>, StoreError>;

    async fn list(
        &self,
        filter: &CaseFilter,
        after: Option<CaseCursor>,
        limit: u32,
    ) -> Result<Vec<CaseSummary>, StoreError>;

    /// Parked instances, stuck steps and paused cases, those that wait longest first, behind `after`.
    async fn parked(
        &self,
        after: Option<ParkedRow>,
        limit: u32,
    ) -> Result<Vec<ParkedRow>, StoreError>;

    /// How many cases there are by workflow and state: the open ones counted now, the closed ones by the batches that
    /// closed them.
    async fn counts(&self) -> Result<Vec<(String, CaseState, u64)>, StoreError>;

    async fn history(&self, shard: ShardId, case: CaseId) -> Result<Vec<HistoryRow>, StoreError>;

    async fn evidence(&self, shard: ShardId, case: CaseId) -> Result<Vec<EvidenceRow>, StoreError>;
}
