//! Two identities that are one person, and the way back.
//!
//! ```text
//! said: the two are one      -> keys, timeline and attributes are united at once
//!   case on the absorbed     -> what it has at work has ended: nothing changes its accounts any more
//!   case on the survivor     -> the same there: accounts and rights move, then a case brings access in line
//! said: they are not         -> keys, timelines and attributes are parted at once
//!   case on the survivor     -> what it has at work has ended: what came along goes back, then a case for each
//! ```
//!
//! Each line is one transaction, written together with the message that starts the next case, so it happens once and in
//! this order whatever dies between. The two may lie in different shards: a case begins another life of its subject, and
//! so ends whatever is open there; when it acts, no attempt is out that could write about an account that has moved.
//!
//! Meanwhile nothing is given to either (the merge is a question in `disputes`), and what ends access goes on: an end
//! that comes between is a case for each key that holds anything.
//!
//! Statements about one key count in the order in which they were made, not in which they came: what is older than the
//! newest that is known is recorded and changes nothing.

mod between;
mod said;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use engine::core::Timestamp;
use engine::core::id::{Actor, CaseId, Subject};
use engine::runner::StartCase;
use engine::store::StoreError;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use self::between::GoOn;
use self::said::State;
use super::groups::Groups;
use super::settle::Origin;
use super::{EventReport, Intake, IntakeError};
use crate::directory::{EventStatus, IdentityRow, MergeState};
use crate::sources::{BusinessEvent, EventType, Key};

/// The workflow of the cases between.
pub const REGROUP: &str = "regroup";
/// Who says so when a person does.
pub(super) const OPERATOR_SOURCE: &str = "tenure";
/// Makes identifiers out of what was said.
const NAMESPACE: Uuid = Uuid::from_u128(0x91d0_5b7e_3f0a_4c28_a6d5_08be_44f7_7713);

/// What the case of a merge is started with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegroupInput {
    pub merge: String,
    pub absorbed: String,
    pub survivor: String,
    pub part: Part,
    #[serde(default)]
    pub reason: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Nothing of the absorbed one is at work any more.
    Drained,
    /// Nothing of the survivor is: accounts and rights go where they belong.
    Move,
}

/// What came of a merge or a split.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MergeReport {
    pub merge: String,
    pub survivor: String,
    pub absorbed: String,
    pub state: MergeState,
    /// The case that goes on with it, if there is anything to do.
    pub cases: Vec<CaseId>,
}

/// What a step of a merge did, for the evidence of its case.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct RegroupReport {
    /// Accounts that changed hands, as `system` of `from` to `to`.
    pub moved: Vec<MovedAccount>,
    /// Accounts that stay under the other key, because the person has one on that system.
    pub second: Vec<MovedAccount>,
    /// Cases by workflow.
    pub cases: BTreeMap<String, Vec<CaseId>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MovedAccount {
    pub system: String,
    pub name: String,
    pub from: String,
    pub to: String,
}

impl Intake {
    /// Says that `absorbed` is the same person as `survivor`.
    ///
    /// # Errors
    /// [`IntakeError::NobodyKnown`], [`IntakeError::Merge`] with what is wrong; nothing is changed then.
    pub async fn merge(
        &self,
        survivor: &str,
        absorbed: &str,
        by: &Actor,
        reason: &str,
        now: Timestamp,
    ) -> Result<MergeReport, IntakeError> {
        let event = statement(EventType::IdentityMerged, survivor, absorbed, reason, now);
        let said = Said {
            survivor: survivor.to_owned(),
            absorbed: absorbed.to_owned(),
        };
        self.regroup(&event, &said, by, true, None, now)
            .await
            .map(|done| done.report)
    }

    /// Says that `absorbed` is somebody else than the person it was merged into.
    ///
    /// # Errors
    /// As [`Intake::merge`].
    pub async fn split(
        &self,
        absorbed: &str,
        by: &Actor,
        reason: &str,
        now: Timestamp,
    ) -> Result<MergeReport, IntakeError> {
        let merges = self.directory.merges(absorbed).await?;
        let mut own = merges
            .into_iter()
            .filter(|merge| merge.absorbed == absorbed);
        let Some(merge) = own.find(|merge| merge.state.holds()) else {
            return Err(IntakeError::Merge(format!(
                "`{absorbed}` is merged into nobody; `tenure identity show` tells which keys a person has"
            )));
        };
        let event = statement(
            EventType::IdentitySplit,
            &merge.survivor,
            absorbed,
            reason,
            now,
        );
        let said = Said {
            survivor: merge.survivor,
            absorbed: absorbed.to_owned(),
        };
        self.regroup(&event, &said, by, true, None, now)
            .await
            .map(|done| done.report)
    }

    /// Takes in what a source says about who is whom.
    pub(super) async fn event_about_keys(
        &self,
        event: &BusinessEvent,
        initiator: &Actor,
        now: Timestamp,
    ) -> Result<EventReport, IntakeError> {
        let key = |name: &str| {
            let party = event.data.get(name);
            let key = party
                .and_then(|party| party.get("key"))
                .and_then(Value::as_str);
            key.filter(|key| !key.is_empty()).map(str::to_owned)
        };
        let absorbed = key("from").ok_or_else(|| {
            IntakeError::Merge(format!(
                "`{}` names nobody: give `from: {{ key: ... }}`, the key that is absorbed",
                event.event_type
            ))
        })?;
        let survivor = key("to").unwrap_or_else(|| event.subject.as_str().to_owned());
        if event.subject.as_str() != survivor && event.subject.as_str() != absorbed {
            return Err(IntakeError::Merge(format!(
                "the subject `{}` is neither `from` nor `to`",
                event.subject
            )));
        }
        let said = Said { survivor, absorbed };
        let done = self
            .regroup(event, &said, initiator, false, None, now)
            .await?;
        Ok(EventReport {
            id: event.id.clone(),
            new: done.status.is_some(),
            status: done.status,
            cases: done.report.cases,
        })
    }

    pub(super) async fn regroup(
        &self,
        event: &BusinessEvent,
        said: &Said,
        by: &Actor,
        by_hand: bool,
        review: Option<&Decided<'_>>,
        now: Timestamp,
    ) -> Result<Done, IntakeError> {
        if said.survivor == said.absorbed {
            return Err(IntakeError::Merge(format!(
                "`{}` is itself; name two keys",
                said.survivor
            )));
        }
        let work = State {
            intake: self,
            event,
            said,
            by,
            by_hand,
            review,
            now,
            groups: Groups::default(),
            done: Mutex::default(),
            refused: Mutex::default(),
        };
        let written = self.write(&work).await;
        let refused = work
            .refused
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        if let (Err(StoreError::Projection(_)), Some(refused)) = (&written, refused) {
            return Err(refused);
        }
        written?;
        let done = work
            .done
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        Ok(done.unwrap_or_else(|| Done::nothing(said)))
    }

    /// Does what the case of a merge is there for, once. Later calls find it done.
    ///
    /// # Errors
    /// When the database does not answer, or holds what this program cannot read.
    pub async fn go_on_regrouping(
        &self,
        subject: &str,
        input: &RegroupInput,
        by: &Actor,
        now: Timestamp,
    ) -> Result<RegroupReport, IntakeError> {
        let work = GoOn {
            intake: self,
            subject,
            input,
            by,
            now,
            groups: Groups::default(),
            also: Mutex::default(),
            report: Mutex::default(),
        };
        self.write(&work).await?;
        Ok(work
            .report
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn origin<'a>(
        &'a self,
        by: &'a Actor,
        groups: &'a Groups,
        now: Timestamp,
    ) -> Origin<'a> {
        Origin {
            directory: &self.directory,
            definitions: &self.definitions,
            correlation: self.correlation.as_deref(),
            groups,
            initiator: by,
            now,
            repeats: false,
            approved: false,
            precedence: self.precedence(),
            contracts: self.contracts_in_force(),
        }
    }
}

/// Who is whom.
#[derive(Debug, Clone)]
pub(super) struct Said {
    pub survivor: String,
    pub absorbed: String,
}

/// A question that is decided by a merge.
pub(super) struct Decided<'a> {
    pub reason: &'a str,
}

#[derive(Debug)]
pub(super) struct Done {
    pub report: MergeReport,
    /// `None` when it was known.
    pub status: Option<EventStatus>,
}

impl Done {
    fn nothing(said: &Said) -> Self {
        Self {
            report: MergeReport {
                merge: String::new(),
                survivor: said.survivor.clone(),
                absorbed: said.absorbed.clone(),
                state: MergeState::Merged,
                cases: Vec::new(),
            },
            status: None,
        }
    }
}

/// What a person says about two keys, as an event.
pub(super) fn statement(
    event_type: EventType,
    survivor: &str,
    absorbed: &str,
    reason: &str,
    now: Timestamp,
) -> BusinessEvent {
    let of = format!(
        "{event_type}\n{survivor}\n{absorbed}\n{}",
        now.timestamp_micros()
    );
    BusinessEvent {
        id: format!("evt_{}", Uuid::new_v5(&NAMESPACE, of.as_bytes()).simple()),
        source: OPERATOR_SOURCE.to_owned(),
        event_type,
        subject: Key::new(survivor),
        occurred_at: now,
        effective_at: now,
        zone: "UTC".to_owned(),
        version: now.timestamp(),
        supersedes: None,
        data: json!({ "from": { "key": absorbed }, "to": { "key": survivor }, "reason": reason }),
    }
}

/// The case that goes on with a merge, in the life of `subject` that begins with it.
pub(super) fn regroup_case(
    subject: &IdentityRow,
    input: &RegroupInput,
    by: &Actor,
    now: Timestamp,
) -> StartCase {
    let key = &subject.identity_key;
    let cause = format!("{REGROUP}\n{}\n{key}\n{}", input.merge, subject.generation);
    StartCase {
        case: CaseId::caused(&NAMESPACE, now, &cause),
        workflow: REGROUP.to_owned(),
        subject: Subject(key.clone()),
        generation: subject.generation,
        input: serde_json::to_value(input).unwrap_or_default(),
        initiator: by.clone(),
        effective_at: Some(now),
    }
}
