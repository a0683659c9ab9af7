//! Bringing everybody under a policy that came into force.
//!
//! ```text
//! pending -> measured -> running -> done
//!               \-> waiting -> approved: running | rejected
//! ```
//!
//! A change of the policy is measured before it comes into force, on what both policies want. What people *hold* may be
//! something else: a policy may have changed before anybody was looked at, or somebody may hold what no policy gave. So the
//! whole way from what is held to what is wanted is measured once more, by the limits of the policy before, and what a
//! person has to decide is decided before anybody is touched. What was approved with the policy itself is not asked about again.
//!
//! Then pages of people are looked at, in the order of their keys. Who differs gets the case that a `transfer` would have
//! started; its identifier is made of the rollout and the person, and the cursor moves in the transaction that starts the cases.
//! So a crash in the middle starts nobody twice and leaves nobody out. Who changes meanwhile has a case of their own.
//!
//! Nothing can be started for somebody of whom it is open who they are, or for whom a rule has no answer. They are remembered,
//! and come under the policy when that is over: see [`left_out`].

mod left_out;
mod measure;

use std::collections::BTreeSet;
use std::sync::Arc;

use engine::core::Timestamp;
use engine::core::id::{Actor, CaseId, ShardId, Subject};
use engine::runner::{Definitions, Message, StartCase};
use engine::store::{InboxRow, StoreError};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::actions::APPROVED_BY;
use crate::directory::{Directory, Holdings, Remainder, RolloutChange, RolloutRow, RolloutStatus};
use crate::policies::{Policies, PolicyError, short};
use crate::policy::PolicySet;
use crate::sources::EventType;
use crate::systems::Systems;

use self::measure::Measured;

pub use self::left_out::LEFT_OUT_PAUSE;

/// How many people are looked at in one transaction.
pub const ROLLOUT_PAGE: u32 = 200;
/// The longest reason, in bytes.
pub const REASON_BYTES_MAX: usize = 2_000;
/// The workflow that ends what somebody keeps for a while.
const HAND_OVER: &str = "handover";
/// Makes identifiers of cases and messages out of the rollout and the person.
const NAMESPACE: Uuid = Uuid::from_u128(0x8a1e_42d7_90b3_4c66_b1f5_7d0c_35ee_9124);

/// Brings people under the policy in force. Cheap to clone.
#[derive(Clone)]
pub struct Rollouts {
    directory: Directory,
    policies: Policies,
    definitions: Arc<Definitions>,
    systems: Arc<Systems>,
}

#[derive(Debug, thiserror::Error)]
pub enum RolloutError {
    #[error("there is no rollout `{0}`; see `tenure policy rollout`")]
    NoSuchRollout(String),
    #[error("the rollout `{id}` is {status}: {wanted}")]
    NotSo {
        id: String,
        status: &'static str,
        wanted: &'static str,
    },
    #[error("what it would do has changed since it was shown; look at `{now}` and approve that")]
    Changed { now: String },
    #[error("somebody else changed the rollout meanwhile; look again")]
    MovedOn,
    #[error("say why, in at most {REASON_BYTES_MAX} bytes")]
    Reason,
    #[error(transparent)]
    Policy(#[from] PolicyError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What one look did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Advance {
    /// Cases that were started.
    pub started: u64,
    /// Whether there is more to do at once.
    pub more: bool,
}

impl Rollouts {
    #[must_use]
    pub fn new(
        directory: Directory,
        policies: Policies,
        definitions: Arc<Definitions>,
        systems: Arc<Systems>,
    ) -> Self {
        Self {
            directory,
            policies,
            definitions,
            systems,
        }
    }

    /// Goes on with the rollout of `policy`: measures it, looks at one page of people, or at all whom it left out. Nothing happens
    /// while it is paused, waits for a person, or is that of another policy. Calling it on several nodes at once is harmless.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn advance(
        &self,
        policy: &PolicySet,
        now: Timestamp,
    ) -> Result<Advance, RolloutError> {
        let Some(row) = self.at_work(policy, now).await? else {
            return Ok(Advance::default());
        };
        match row.status {
            RolloutStatus::Pending => self.begin(row, policy, now).await,
            RolloutStatus::Running => self.page(row, policy, now).await,
            RolloutStatus::Done => self.look_at_left_out(row, policy, now).await,
            RolloutStatus::Waiting | RolloutStatus::Rejected | RolloutStatus::Superseded => {
                Ok(Advance::default())
            }
        }
    }

    /// Whether [`Rollouts::advance`] would do something.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn has_work(&self, policy: &PolicySet, now: Timestamp) -> Result<bool, RolloutError> {
        Ok(self.at_work(policy, now).await?.is_some())
    }

    /// The rollout that has something to do.
    async fn at_work(
        &self,
        policy: &PolicySet,
        now: Timestamp,
    ) -> Result<Option<RolloutRow>, RolloutError> {
        let found = self.directory.rollout_of(policy.hash()).await?;
        let Some(row) = found.filter(|row| row.paused_by.is_none()) else {
            return Ok(None);
        };
        let has_work = match row.status {
            RolloutStatus::Pending | RolloutStatus::Running => true,
            RolloutStatus::Done => self.left_out_is_due(&row, now).await?,
            RolloutStatus::Waiting | RolloutStatus::Rejected | RolloutStatus::Superseded => false,
        };
        Ok(has_work.then_some(row))
    }

    /// Measures it: then it runs, or waits for a person.
    async fn begin(
        &self,
        row: RolloutRow,
        policy: &PolicySet,
        now: Timestamp,
    ) -> Result<Advance, RolloutError> {
        let measured = self.measure(&row, policy, now).await?;
        let next = next(row, now).measured(measured);
        if next.status == RolloutStatus::Waiting {
            tracing::warn!(
                policy = short(&next.policy_hash),
                rollout = next.rollout_id,
                "what people hold differs too much from what the policy wants; a person has to decide"
            );
        }
        let more = next.status == RolloutStatus::Running;
        self.directory
            .move_rollout(&next, None, Vec::new(), Remainder::default())
            .await?;
        Ok(Advance { started: 0, more })
    }

    /// Looks at one page of people.
    async fn page(
        &self,
        row: RolloutRow,
        policy: &PolicySet,
        now: Timestamp,
    ) -> Result<Advance, RolloutError> {
        let people = self
            .directory
            .holdings_after(row.cursor_shard, &row.cursor_key, ROLLOUT_PAGE)
            .await?;
        let mut next = next(row, now);
        next.looked += people.len() as u64;
        let looked = self.look(&mut next, policy, &people, now).await?;
        next.undecided += looked.undecided;
        match people.last() {
            Some(last) if u32::try_from(people.len()) == Ok(ROLLOUT_PAGE) => {
                next.cursor_shard = last.identity.shard_id;
                next.cursor_key.clone_from(&last.identity.identity_key);
            }
            _ => {
                next.status = RolloutStatus::Done;
                next.finished_at = Some(now);
                next.left_out_looked_at = Some(now);
            }
        }
        let more = next.status == RolloutStatus::Running;
        let started = looked.starts.len() as u64;
        let written = self
            .directory
            .move_rollout(&next, None, looked.starts, looked.remainder)
            .await?;
        if written && !more {
            tracing::info!(
                policy = short(&next.policy_hash),
                looked = next.looked,
                started = next.started,
                undecided = next.undecided,
                "everybody was looked at under the new policy"
            );
        }
        Ok(Advance {
            started: if written { started } else { 0 },
            more: more || !written,
        })
    }

    /// Who of these has a case that does something about what they hold.
    async fn busy(&self, people: &[Holdings]) -> Result<BTreeSet<String>, StoreError> {
        let subject = |holdings: &Holdings| {
            let identity = &holdings.identity;
            let subject = Subject(identity.identity_key.clone());
            (ShardId(identity.shard_id), subject)
        };
        let subjects: Vec<_> = people.iter().map(subject).collect();
        let open = self.directory.store().open_cases(&subjects).await?;
        // What is handed over waits for its day, and is looked at as something that is held.
        let busy = open
            .into_iter()
            .filter(|(_, case)| case.workflow != HAND_OVER);
        Ok(busy.map(|(subject, _)| subject.0).collect())
    }

    /// The cases that bring somebody in line: of every workflow that a `transfer` starts.
    fn starts(
        &self,
        row: &RolloutRow,
        holdings: &Holdings,
        now: Timestamp,
    ) -> Result<Vec<InboxRow>, RolloutError> {
        let identity = &holdings.identity;
        let key = identity.identity_key.as_str();
        let mut input = json!({
            "rollout": row.rollout_id,
            "policy": row.policy_hash,
            "policy_before": row.base_hash,
        });
        // Who is protected loses only what somebody saw who approved it.
        let approved = row.approved.as_ref();
        let named = approved.is_some_and(|shown| shown.protected.iter().any(|named| named == key));
        if let (Value::Object(fields), Some(by), true) = (&mut input, &row.approved_by, named) {
            fields.insert(APPROVED_BY.to_owned(), json!(by));
        }
        let by = row.approved_by.as_ref().unwrap_or(&row.begun_by);
        let mut starts = Vec::new();
        for definition in self.definitions.started_by(EventType::Transfer.as_str()) {
            let cause = format!("{}\n{}\n{key}", definition.name, row.rollout_id);
            let case = CaseId::caused(&NAMESPACE, row.begun_at, &cause);
            let start = StartCase {
                case,
                workflow: definition.name.clone(),
                subject: Subject(key.to_owned()),
                generation: identity.generation,
                input: input.clone(),
                initiator: Actor(by.clone()),
                effective_at: Some(row.begun_at.min(now)),
            };
            let id = Uuid::new_v5(&NAMESPACE, case.to_string().as_bytes());
            let message = Message::Start(start).into_row(
                ShardId(identity.shard_id),
                id,
                definition.lane,
                now,
            );
            starts.push(message.map_err(|error| {
                StoreError::Projection(format!("a message cannot be written: {error}"))
            })?);
        }
        Ok(starts)
    }

    /// Lets a rollout that the guard stopped go on, if it would still do what was shown.
    ///
    /// # Errors
    /// [`RolloutError::Changed`] when it would do something else by now: then that waits.
    pub async fn approve(
        &self,
        id: &str,
        by: &Actor,
        reason: &str,
        now: Timestamp,
    ) -> Result<RolloutRow, RolloutError> {
        let row = self.find(id).await?;
        if row.status != RolloutStatus::Waiting {
            return Err(not_so(&row, "there is nothing to approve"));
        }
        let measured = self.as_shown(&row, now).await?;
        let next = next(row, now).approved(&measured, by);
        let none = Remainder::default();
        self.change(next, none, "approve", by, reason, now).await
    }

    /// Drops a rollout that is not over: everybody who was not reached keeps what they have until their next event. Of one that
    /// waits because of people whom it had left out, only those are dropped.
    ///
    /// # Errors
    /// When it is over, or somebody was first; [`RolloutError::Changed`] when those who were left out are others by now.
    pub async fn reject(
        &self,
        id: &str,
        by: &Actor,
        reason: &str,
        now: Timestamp,
    ) -> Result<RolloutRow, RolloutError> {
        let row = self.find(id).await?;
        if !row.status.is_open() {
            return Err(not_so(&row, "there is nothing to reject"));
        }
        let is_finished = row.is_finished();
        let remainder = if is_finished {
            Remainder {
                gone: self.as_shown(&row, now).await?.ready,
                ..Remainder::default()
            }
        } else {
            Remainder {
                none: true,
                ..Remainder::default()
            }
        };
        let mut next = next(row, now);
        next.status = if is_finished {
            RolloutStatus::Done
        } else {
            RolloutStatus::Rejected
        };
        next.stopped_by = next.stopped_by.filter(|_| !is_finished);
        next.paused_by = None;
        self.change(next, remainder, "reject", by, reason, now)
            .await
    }

    /// Holds a rollout: no page follows the one that is being written.
    ///
    /// # Errors
    /// When it is over or held already, or somebody was first.
    pub async fn pause(
        &self,
        id: &str,
        by: &Actor,
        reason: &str,
        now: Timestamp,
    ) -> Result<RolloutRow, RolloutError> {
        let row = self.find(id).await?;
        if !row.status.is_open() {
            return Err(not_so(&row, "there is nothing to pause"));
        }
        if row.paused_by.is_some() {
            return Err(not_so(&row, "it is paused already"));
        }
        let mut next = next(row, now);
        next.paused_by = Some(by.0.clone());
        let none = Remainder::default();
        self.change(next, none, "pause", by, reason, now).await
    }

    /// Lets a paused rollout go on. What is left is measured again before.
    ///
    /// # Errors
    /// When it is not paused, or somebody was first.
    pub async fn resume(
        &self,
        id: &str,
        by: &Actor,
        reason: &str,
        now: Timestamp,
    ) -> Result<RolloutRow, RolloutError> {
        let row = self.find(id).await?;
        if row.paused_by.is_none() || !row.status.is_open() {
            return Err(not_so(&row, "it is not paused"));
        }
        let mut next = next(row, now);
        next.paused_by = None;
        if next.status == RolloutStatus::Running {
            next.status = RolloutStatus::Pending;
        }
        let none = Remainder::default();
        self.change(next, none, "resume", by, reason, now).await
    }

    /// What a rollout that waits would do, if that is still what was shown; else that waits.
    async fn as_shown(&self, row: &RolloutRow, now: Timestamp) -> Result<Measured, RolloutError> {
        let policy = self.policies.version(&row.policy_hash).await?;
        let policy = policy.ok_or(RolloutError::MovedOn)?;
        let measured = if row.is_finished() {
            self.measure_left_out(row, &policy, now).await?
        } else {
            self.measure(row, &policy, now).await?
        };
        let shown = row.blast.as_ref().map(|blast| blast.digest.as_str());
        if shown == Some(measured.blast.digest.as_str()) {
            return Ok(measured);
        }
        let next = next(row.clone(), now).measured(measured);
        let asked = next.difference_id.clone().unwrap_or_default();
        self.put(&next, None, Remainder::default()).await?;
        Err(RolloutError::Changed { now: asked })
    }

    async fn find(&self, id: &str) -> Result<RolloutRow, RolloutError> {
        let found = self.directory.rollout(id).await?;
        found.ok_or_else(|| RolloutError::NoSuchRollout(id.to_owned()))
    }

    /// Writes what a person does, with who and why.
    async fn change(
        &self,
        next: RolloutRow,
        remainder: Remainder,
        change: &str,
        by: &Actor,
        reason: &str,
        now: Timestamp,
    ) -> Result<RolloutRow, RolloutError> {
        let reason = reason.trim();
        if reason.is_empty() || reason.len() > REASON_BYTES_MAX {
            return Err(RolloutError::Reason);
        }
        let change = RolloutChange {
            shard_id: next.shard_id,
            rollout_id: next.rollout_id.clone(),
            revision: next.revision,
            at: now,
            change: change.to_owned(),
            actor: by.0.clone(),
            reason: reason.to_owned(),
        };
        self.put(&next, Some(&change), remainder).await?;
        Ok(next)
    }

    async fn put(
        &self,
        next: &RolloutRow,
        change: Option<&RolloutChange>,
        remainder: Remainder,
    ) -> Result<(), RolloutError> {
        if self
            .directory
            .move_rollout(next, change, Vec::new(), remainder)
            .await?
        {
            Ok(())
        } else {
            Err(RolloutError::MovedOn)
        }
    }
}

/// Its next revision.
fn next(row: RolloutRow, now: Timestamp) -> RolloutRow {
    RolloutRow {
        revision: row.revision + 1,
        changed_at: now.max(row.changed_at),
        ..row
    }
}

fn not_so(row: &RolloutRow, wanted: &'static str) -> RolloutError {
    RolloutError::NotSo {
        id: row.rollout_id.clone(),
        status: if row.paused_by.is_some() {
            "paused"
        } else {
            row.status.as_str()
        },
        wanted,
    }
}

#[cfg(test)]
mod left_out_tests;
#[cfg(test)]
mod tests;
