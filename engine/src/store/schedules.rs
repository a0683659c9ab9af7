//! The part of the store that keeps schedules.
//!
//! Schedules are few and fire seldom beside what cases do, so they do not ride in the group commit: what a
//! decision about them brings is written in a transaction of its own, fenced by the epochs of the shards like
//! any other. The messages that start and end cases are in it, so a fire time that is written down as started has
//! its message, and the other way round.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use uuid::Uuid;

use crate::core::Timestamp;
use crate::core::case::CaseState;
use crate::core::id::{CaseId, ShardId};
use crate::core::schedule::{ChangeRecord, Run, State};

use super::batch::{check_inbox, text};
use super::{InboxRow, ReplyRow, ShardLease, StoreError};

/// A schedule as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct ScheduleRow {
    pub shard: ShardId,
    /// The version the row must have now; `None` for one that is not there. In a row that was read: its version.
    pub from_version: Option<u64>,
    pub state: State,
    pub next_due_at: Option<Timestamp>,
    pub changed_at: Timestamp,
}

/// A run. Key: shard, schedule, fire time, by hand or not; the last content stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduleRunRow {
    pub shard: ShardId,
    pub schedule: String,
    pub run: Run,
}

/// Something done to a schedule. Key: shard, schedule, version. Never updated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScheduleChangeRow {
    pub shard: ShardId,
    pub schedule: String,
    pub change: ChangeRecord,
    /// The canonical bytes of the evidence.
    pub leaf: Vec<u8>,
}

/// Everything that one writing about schedules brings.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ScheduleBatch {
    /// The epoch of every shard it writes schedules, runs, answers or taken messages of; each must still be ours.
    pub leases: Vec<ShardLease>,
    /// At most one for each schedule.
    pub schedules: Vec<ScheduleRow>,
    /// At most one for each key.
    pub runs: Vec<ScheduleRunRow>,
    pub changes: Vec<ScheduleChangeRow>,
    /// Messages to cases, whatever shard they are in.
    pub messages: Vec<InboxRow>,
    pub inbox_done: Vec<(ShardId, Uuid)>,
    pub replies: Vec<ReplyRow>,
}

/// A case that a schedule started, and the message that starts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Started {
    pub shard: ShardId,
    pub case: CaseId,
    pub message: Uuid,
}

/// What is known of a [`Started`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whereabouts {
    /// The message was not taken yet.
    OnItsWay,
    Made(CaseState),
    /// The message was taken and there is no case: why, as long as that is kept.
    Refused(Option<String>),
}

/// Keeps schedules.
#[async_trait]
pub trait ScheduleStore: Send + Sync {
    /// The schedules of these shards, or of all, in order of shard and name; removed ones too.
    async fn of_shards(&self, shards: Option<&[ShardId]>) -> Result<Vec<ScheduleRow>, StoreError>;

    /// Writes a batch: all of it, or nothing.
    ///
    /// # Errors
    /// [`StoreError::Fenced`], [`StoreError::StaleSchedule`]: nothing was written and repeating is pointless.
    /// [`StoreError::Unavailable`]: unknown whether it was written; reload before anything else.
    async fn commit(&self, batch: &ScheduleBatch) -> Result<(), StoreError>;

    /// Runs of a schedule whose fire time is in `[from, before)`, the latest first.
    async fn runs(
        &self,
        shard: ShardId,
        schedule: &str,
        from: Option<Timestamp>,
        before: Option<Timestamp>,
        limit: u32,
    ) -> Result<Vec<ScheduleRunRow>, StoreError>;

    /// The run each of these schedules had last.
    async fn last_runs(
        &self,
        schedules: &[(ShardId, String)],
    ) -> Result<Vec<ScheduleRunRow>, StoreError>;

    /// What was done to a schedule, the latest first.
    async fn changes(
        &self,
        shard: ShardId,
        schedule: &str,
        limit: u32,
    ) -> Result<Vec<ScheduleChangeRow>, StoreError>;

    /// Where these cases stand.
    async fn whereabouts(
        &self,
        started: &[Started],
    ) -> Result<BTreeMap<CaseId, Whereabouts>, StoreError>;

    /// Deletes all but the latest `keep` runs of each schedule of these shards.
    async fn forget_runs(&self, shards: &[ShardId], keep: u32) -> Result<(), StoreError>;
}

/// For a store that keeps no schedules, such as one of a simulation of cases: there are none, and none can be made.
pub struct NoSchedules;

#[async_trait]
impl ScheduleStore for NoSchedules {
    async fn of_shards(&self, _: Option<&[ShardId]>) -> Result<Vec<ScheduleRow>, StoreError> {
        Ok(Vec::new())
    }

    async fn commit(&self, _: &ScheduleBatch) -> Result<(), StoreError> {
        Err(StoreError::Projection(
            "this store keeps no schedules".to_owned(),
        ))
    }

    async fn runs(
        &self,
        _: ShardId,
        _: &str,
        _: Option<Timestamp>,
        _: Option<Timestamp>,
        _: u32,
    ) -> Result<Vec<ScheduleRunRow>, StoreError> {
        Ok(Vec::new())
    }

    async fn last_runs(&self, _: &[(ShardId, String)]) -> Result<Vec<ScheduleRunRow>, StoreError> {
        Ok(Vec::new())
    }

    async fn changes(
        &self,
        _: ShardId,
        _: &str,
        _: u32,
    ) -> Result<Vec<ScheduleChangeRow>, StoreError> {
        Ok(Vec::new())
    }

    async fn whereabouts(
        &self,
        _: &[Started],
    ) -> Result<BTreeMap<CaseId, Whereabouts>, StoreError> {
        Ok(BTreeMap::new())
    }

    async fn forget_runs(&self, _: &[ShardId], _: u32) -> Result<(), StoreError> {
        Ok(())
    }
}

impl ScheduleBatch {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.schedules.is_empty() && self.inbox_done.is_empty() && self.replies.is_empty()
    }

    /// What both databases refuse before they write anything.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] for a row of a shard the batch has no lease for, [`StoreError::Unstorable`] for text
    /// no database keeps.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        let leased: BTreeSet<ShardId> = self.leases.iter().map(|lease| lease.shard).collect();
        let shards = (self.schedules.iter().map(|row| row.shard))
            .chain(self.runs.iter().map(|row| row.shard))
            .chain(self.changes.iter().map(|row| row.shard))
            .chain(self.inbox_done.iter().map(|(shard, _)| *shard))
            .chain(self.replies.iter().map(|row| row.shard));
        for shard in shards {
            if !leased.contains(&shard) {
                return Err(StoreError::Fenced { shard });
            }
        }
        for row in &self.runs {
            let key = || row.schedule.clone();
            text("schedule_run.initiator", &row.run.initiator.0, key)?;
            text("schedule_run.reason", &row.run.reason, key)?;
        }
        for row in &self.changes {
            let key = || row.schedule.clone();
            text("schedule_change.actor", &row.change.by.0, key)?;
            text("schedule_change.reason", &row.change.reason, key)?;
            text("schedule_change.detail", &row.change.detail, key)?;
        }
        for row in &self.replies {
            text("inbox_reply.message", &row.message, || row.id.to_string())?;
        }
        check_inbox(&self.messages)
    }
}

impl ScheduleRow {
    /// The stored form of its state.
    pub(super) fn body(&self) -> Result<String, StoreError> {
        let body = serde_json::to_string(&self.state).map_err(|source| StoreError::Corrupt {
            table: "schedule",
            column: "state",
            key: self.state.spec.name.clone(),
            source: source.into(),
        })?;
        // An escaped U+0000 would come out in a case later.
        text("schedule.state", &body, || self.state.spec.name.clone())?;
        Ok(body)
    }

    pub(super) fn name(&self) -> &str {
        &self.state.spec.name
    }

    /// The error for a row that is not at the version it should be at.
    pub(super) fn stale(&self) -> StoreError {
        StoreError::StaleSchedule {
            schedule: self.name().to_owned(),
            version: self.from_version.unwrap_or(0),
        }
    }

    pub(super) fn last_fire_at(&self) -> Option<Timestamp> {
        self.state.last.map(|(fire_at, _)| fire_at)
    }
}

/// Puts together what three questions found. They are asked in this order: a message that is gone when it is
/// looked for was taken before, and then what became of it is there when that is looked for.
pub(super) fn found(
    started: &[Started],
    waiting: &BTreeSet<Uuid>,
    states: &BTreeMap<CaseId, CaseState>,
    replies: &BTreeMap<Uuid, String>,
) -> BTreeMap<CaseId, Whereabouts> {
    let whereabouts = |one: &Started| match states.get(&one.case) {
        Some(state) => Whereabouts::Made(*state),
        None if waiting.contains(&one.message) => Whereabouts::OnItsWay,
        None => Whereabouts::Refused(replies.get(&one.message).cloned()),
    };
    started
        .iter()
        .map(|one| (one.case, whereabouts(one)))
        .collect()
}
