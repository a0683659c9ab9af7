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

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use engine::core::Timestamp;
use engine::core::id::{Actor, CaseId, ShardId, Subject};
use engine::runner::{Definitions, Message, StartCase};
use engine::store::{InboxRow, StoreError};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::actions::{APPROVED_BY, difference};
use crate::directory::{
    AccountStatus, Directory, Holdings, RolloutChange, RolloutRow, RolloutStatus, facts_of,
};
use crate::intake::{holders, protected};
use crate::policies::{Policies, PolicyError, short};
use crate::policy::guard::{
    Blast, Crossed, Effect, Gathering, GuardRules, Operation, POLICY, Pair, Populations,
    attribute_value, attributes_of, is_of_access, judge, questions,
};
use crate::policy::{PolicySet, digest};
use crate::sources::EventType;
use crate::systems::Systems;

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

/// The whole difference between what people hold and what a policy wants.
struct Measured {
    blast: Blast,
    reasons: Vec<String>,
    people: u64,
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

    /// Goes on with the rollout of `policy`: measures it, or looks at one page of people. Nothing happens while it is paused,
    /// waits for a person, or is that of another policy. Calling it on several nodes at once is harmless.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn advance(
        &self,
        policy: &PolicySet,
        now: Timestamp,
    ) -> Result<Advance, RolloutError> {
        let Some(row) = self.directory.open_rollout().await? else {
            return Ok(Advance::default());
        };
        if row.policy_hash != policy.hash() || row.paused_by.is_some() {
            return Ok(Advance::default());
        }
        match row.status {
            RolloutStatus::Pending => self.begin(row, policy, now).await,
            RolloutStatus::Running => self.page(row, policy, now).await,
            RolloutStatus::Waiting
            | RolloutStatus::Done
            | RolloutStatus::Rejected
            | RolloutStatus::Superseded => Ok(Advance::default()),
        }
    }

    /// Whether [`Rollouts::advance`] would do something.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn has_work(&self, policy: &PolicySet) -> Result<bool, RolloutError> {
        let open = self.directory.open_rollout().await?;
        Ok(open.is_some_and(|row| {
            row.policy_hash == policy.hash()
                && row.paused_by.is_none()
                && row.status != RolloutStatus::Waiting
        }))
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
        self.directory.move_rollout(&next, None, Vec::new()).await?;
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
        let busy = self.busy(&people).await?;
        let mut next = next(row, now);
        let mut starts = Vec::new();
        for holdings in &people {
            next.looked += 1;
            if is_open(holdings) {
                continue;
            }
            let differs = match difference(policy, &self.systems, holdings, now) {
                Ok(found) => found.is_some(),
                Err(_) => {
                    next.undecided += 1;
                    continue;
                }
            };
            // What is on its way may have been planned under the policy before, and is not held yet.
            if differs || busy.contains(holdings.identity.identity_key.as_str()) {
                starts.extend(self.starts(&next, holdings, now)?);
                next.started += 1;
            }
        }
        match people.last() {
            Some(last) if u32::try_from(people.len()) == Ok(ROLLOUT_PAGE) => {
                next.cursor_shard = last.identity.shard_id;
                next.cursor_key.clone_from(&last.identity.identity_key);
            }
            _ => next.status = RolloutStatus::Done,
        }
        let more = next.status == RolloutStatus::Running;
        let started = starts.len() as u64;
        let written = self.directory.move_rollout(&next, None, starts).await?;
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

    /// Counts what would become of everybody, by the limits of the policy before.
    async fn measure(
        &self,
        row: &RolloutRow,
        policy: &PolicySet,
        now: Timestamp,
    ) -> Result<Measured, RolloutError> {
        let before = match self.policies.version(&row.base_hash).await {
            Err(PolicyError::Unreadable { .. }) => None,
            found => found?,
        };
        let rules = before.as_deref().unwrap_or(policy).guard();
        let attributes = attributes_of(&rules.limits);
        let mut gathering = Gathering::default();
        let mut crowd = Crowd::default();
        let mut everybody = self.directory.everybody();
        loop {
            let page = everybody.page().await?;
            if page.is_empty() {
                break;
            }
            for holdings in page {
                crowd.add(&holdings, &attributes);
                if is_open(&holdings) {
                    continue;
                }
                match difference(policy, &self.systems, &holdings, now) {
                    Ok(None) => {}
                    Ok(Some(effects)) => {
                        let protected = is_protected(rules, &holdings, &effects);
                        let facts = facts_of(&holdings.identity);
                        let pair = Pair {
                            before: Some(facts),
                            after: None,
                        };
                        gathering.count(rules, &attributes, &pair, &effects, protected);
                    }
                    Err(why) => gathering.unanswered(|| why),
                }
            }
        }
        let blast = gathering.finish();
        let asked = questions(&rules.limits, POLICY, &[], &blast);
        let access = if asked.iter().any(|question| question.is_about_access()) {
            self.directory.access_counts().await?
        } else {
            Vec::new()
        };
        let populations: Populations = asked
            .iter()
            .map(|question| {
                let count = if question.is_about_access() {
                    holders(&access, question, Some(rules))
                } else {
                    crowd.count(&question.by, &question.value)
                };
                let place = (
                    question.operation,
                    question.by.clone(),
                    question.value.clone(),
                );
                (place, count)
            })
            .collect();
        let shown = row.approved.as_ref();
        let mut reasons: Vec<String> = judge(&rules.limits, POLICY, &[], &blast, &populations)
            .iter()
            .filter(|crossed| !was_shown(shown, crossed))
            .map(ToString::to_string)
            .collect();
        let named = |key: &&String| shown.is_none_or(|shown| !shown.protected.contains(key));
        let losing: Vec<String> = blast.protected.iter().filter(named).cloned().collect();
        if !losing.is_empty() {
            reasons.push(protected(&losing));
        }
        if before.is_none() && !blast.is_empty() && shown.is_none() {
            reasons.push(format!(
                "the policy before, {}, cannot be read with the systems and sources of now, so nobody can tell its limits",
                short(&row.base_hash)
            ));
        }
        Ok(Measured {
            blast,
            reasons,
            people: crowd.all,
        })
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
        let policy = self.policies.version(&row.policy_hash).await?;
        let policy = policy.ok_or(RolloutError::MovedOn)?;
        let measured = self.measure(&row, &policy, now).await?;
        let shown = row.blast.as_ref().map(|blast| blast.digest.clone());
        if shown.as_ref() != Some(&measured.blast.digest) {
            let next = next(row, now).measured(measured);
            let asked = next.difference_id.clone().unwrap_or_default();
            self.put(&next, None).await?;
            return Err(RolloutError::Changed { now: asked });
        }
        let mut next = next(row, now);
        next.status = RolloutStatus::Running;
        next.approved_by = Some(by.0.clone());
        // Whole, and not only what is shown of it: who is protected has to be named in it.
        next.approved = Some(Blast {
            protected: measured.blast.protected.clone(),
            ..measured.blast.shown()
        });
        self.change(next, "approve", by, reason, now).await
    }

    /// Drops a rollout that is not over: everybody who was not reached keeps what they have until their next event.
    ///
    /// # Errors
    /// When it is over, or somebody was first.
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
        let mut next = next(row, now);
        next.status = RolloutStatus::Rejected;
        next.paused_by = None;
        self.change(next, "reject", by, reason, now).await
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
        self.change(next, "pause", by, reason, now).await
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
        self.change(next, "resume", by, reason, now).await
    }

    async fn find(&self, id: &str) -> Result<RolloutRow, RolloutError> {
        let rows = self.directory.rollouts().await?;
        rows.into_iter()
            .find(|row| row.rollout_id == id || row.difference_id.as_deref() == Some(id))
            .ok_or_else(|| RolloutError::NoSuchRollout(id.to_owned()))
    }

    /// Writes what a person does, with who and why.
    async fn change(
        &self,
        next: RolloutRow,
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
        self.put(&next, Some(&change)).await?;
        Ok(next)
    }

    async fn put(
        &self,
        next: &RolloutRow,
        change: Option<&RolloutChange>,
    ) -> Result<(), RolloutError> {
        if self
            .directory
            .move_rollout(next, change, Vec::new())
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

impl RolloutRow {
    fn measured(mut self, measured: Measured) -> Self {
        let name = json!([self.rollout_id, measured.blast.digest]);
        self.difference_id = Some(format!("dif_{}", digest(&name)));
        self.people = measured.people;
        self.status = if measured.reasons.is_empty() {
            RolloutStatus::Running
        } else {
            RolloutStatus::Waiting
        };
        self.stopped_by = (!measured.reasons.is_empty()).then_some(measured.reasons);
        self.blast = Some(measured.blast.shown());
        self
    }
}

/// Whether it is open who somebody is: then nothing is given to them.
fn is_open(holdings: &Holdings) -> bool {
    !holdings.identity.disputes.is_empty()
}

/// Whether a person who approves is shown at least as much.
fn was_shown(shown: Option<&Blast>, crossed: &Crossed) -> bool {
    shown.is_some_and(|shown| {
        shown.count(crossed.operation, &crossed.by, &crossed.value) >= crossed.count
    })
}

/// Whether somebody loses something who is protected, or on an account that is.
fn is_protected(rules: &GuardRules, holdings: &Holdings, effects: &[Effect]) -> bool {
    let taken: BTreeSet<&str> = effects
        .iter()
        .filter(|effect| {
            matches!(
                effect.operation,
                Operation::AccountClose | Operation::GrantTake
            )
        })
        .filter_map(|effect| effect.system.as_deref())
        .collect();
    if taken.is_empty() {
        return false;
    }
    let mut accounts = holdings.accounts.iter();
    rules.protects(&facts_of(&holdings.identity))
        || accounts.any(|account| {
            account.status != AccountStatus::Deleted
                && taken.contains(account.system.as_str())
                && rules.protects_account(&account.system, &account.name)
        })
}

/// How many people there are, with which attributes.
#[derive(Default)]
struct Crowd {
    all: u64,
    with: BTreeMap<(String, String), u64>,
}

impl Crowd {
    fn add(&mut self, holdings: &Holdings, attributes: &BTreeSet<String>) {
        self.all += 1;
        for attribute in attributes {
            let value = attribute_value(Some(&holdings.identity.attributes), attribute);
            *self.with.entry((attribute.clone(), value)).or_default() += 1;
        }
    }

    fn count(&self, by: &str, value: &str) -> u64 {
        if by == "all" || is_of_access(by) {
            return self.all;
        }
        let place = (by.to_owned(), value.to_owned());
        self.with.get(&place).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests;
