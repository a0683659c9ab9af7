//! From finished steps of rotations to their rows, in the transaction that records the steps.

use engine::core::Timestamp;
use engine::core::case::{Ask, CaseState};
use engine::store::{Outcome, OutcomeKind, StepEnding, StoreError, Transaction};
use serde::Serialize;
use serde_json::Value;

use super::database::{execute_all, stored_time, stored_time_option};
use super::rotation_statements::MOVE;
use crate::actions::name;
use crate::rotation::Phase;

/// What the subjects of rotations begin with.
pub(super) const SUBJECT: &str = "credential:";
/// The step that asks a person when a program cannot end the old one.
const DESTROY_OLD: &str = "destroy_old";

/// What a case did to its rotation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Moved {
    shard_id: i32,
    name: String,
    case_id: String,
    phase: Phase,
    reason: Option<String>,
    answerable: Option<String>,
    #[serde(with = "stored_time_option")]
    answer_by: Option<Timestamp>,
    turn: Option<String>,
    overlap_s: Option<i64>,
    dominated_by: Option<String>,
    /// Since when the new one is used.
    #[serde(with = "stored_time_option")]
    since: Option<Timestamp>,
    #[serde(with = "stored_time_option")]
    expires_at: Option<Timestamp>,
    /// What it puts into use is made from here on: what was said before of others does not concern it.
    fresh: bool,
    closed: bool,
    #[serde(with = "stored_time")]
    changed_at: Timestamp,
}

impl Moved {
    /// What an outcome says of a rotation, if it is of one.
    pub(super) fn of(outcome: &Outcome) -> Option<Self> {
        let named = outcome.subject.0.strip_prefix(SUBJECT)?;
        let mut moved = Self {
            shard_id: outcome.shard.0,
            name: named.to_owned(),
            case_id: outcome.case.to_string(),
            phase: Phase::Blocked,
            reason: None,
            answerable: None,
            answer_by: None,
            turn: None,
            overlap_s: None,
            dominated_by: None,
            since: None,
            expires_at: None,
            fresh: false,
            closed: false,
            changed_at: outcome.at,
        };
        match &outcome.kind {
            OutcomeKind::Step {
                step,
                uses,
                ending,
                with,
                output,
                ..
            } => {
                moved.phase = reached(step, uses, *ending, output)?;
                let text = |name: &str| output.get(name).and_then(Value::as_str);
                match uses.as_str() {
                    name::ROTATION_PREFLIGHT => {
                        moved.overlap_s = output.get("overlap_s").and_then(Value::as_i64);
                        moved.dominated_by = text("dominated_by").map(str::to_owned);
                        moved.fresh = output.get("fresh").and_then(Value::as_bool) == Some(true);
                    }
                    name::ROTATION_PROMOTE | name::ROTATION_SWITCH | name::ROTATION_SIGN
                        if *ending == StepEnding::Done =>
                    {
                        moved.turn = text("user").map(str::to_owned);
                        moved.since = Some(outcome.at);
                        moved.expires_at = text("expires_at").and_then(|at| at.parse().ok());
                    }
                    // Taken back: it is the old one's turn again.
                    name::ROTATION_PROMOTE | name::ROTATION_SWITCH | name::ROTATION_SIGN => {
                        let old = with.pointer("/plan/old/user").and_then(Value::as_str);
                        moved.turn = old.map(str::to_owned);
                    }
                    _ => {}
                }
            }
            OutcomeKind::Closed { state } => {
                moved.closed = true;
                (moved.phase, moved.reason) = match state {
                    CaseState::Succeeded | CaseState::Unverified => (Phase::Closed, None),
                    CaseState::Incomplete => (
                        Phase::Closed,
                        Some("a person gave something up on the way".to_owned()),
                    ),
                    CaseState::Undone => (Phase::RolledBack, None),
                    other => (
                        Phase::Abandoned,
                        Some(format!("its case ended as {}", other.as_str())),
                    ),
                };
            }
            OutcomeKind::Parked { failure, step, .. } => {
                moved.reason = Some(format!("`{step}`: {}", failure.message));
            }
            OutcomeKind::Asked { step, ask, due, .. } if step == DESTROY_OLD => {
                moved.phase = Phase::Irrevocable;
                moved.reason = Some("the old one has to be ended by hand".to_owned());
                moved.answerable = assigned(ask);
                moved.answer_by = *due;
            }
            OutcomeKind::Asked { .. }
            | OutcomeKind::Overdue { .. }
            | OutcomeKind::DeadlinePassed { .. } => return None,
        }
        Some(moved)
    }

    /// What happened after this in the same transaction.
    pub(super) fn then(&mut self, later: Self) {
        if later.case_id != self.case_id {
            *self = later;
            return;
        }
        *self = Self {
            turn: later.turn.or_else(|| self.turn.take()),
            overlap_s: later.overlap_s.or(self.overlap_s),
            dominated_by: later.dominated_by.or_else(|| self.dominated_by.take()),
            expires_at: if later.since.is_some() {
                later.expires_at
            } else {
                self.expires_at
            },
            since: later.since.or(self.since),
            fresh: later.fresh || self.fresh,
            closed: later.closed || self.closed,
            ..later
        };
    }

    pub(super) fn key(&self) -> (i32, String) {
        (self.shard_id, self.name.clone())
    }

    pub(super) async fn write(
        transaction: &mut Transaction<'_>,
        moved: &[Self],
    ) -> Result<(), StoreError> {
        execute_all(transaction, &MOVE, moved).await.map(drop)
    }
}

/// Who is asked to do something.
fn assigned(ask: &Ask) -> Option<String> {
    match ask {
        Ask::Task { assignee, .. } => Some(assignee.clone()),
        _ => None,
    }
}

/// The phase that a step has reached.
fn reached(step: &str, uses: &str, ending: StepEnding, output: &Value) -> Option<Phase> {
    if ending != StepEnding::Done {
        return uses
            .starts_with(name::ROTATION)
            .then_some(Phase::RollingBack);
    }
    let overlaps = output.get("overlap_until").is_some();
    Some(match uses {
        name::ROTATION_PREFLIGHT => Phase::Preflight,
        name::ROTATION_MINT | name::ROTATION_GENERATE => Phase::Minted,
        name::ROTATION_STAGE | name::ROTATION_ISSUE => Phase::Staged,
        name::ROTATION_VERIFY => Phase::Verified,
        name::ROTATION_PROMOTE if overlaps => Phase::Overlap,
        name::ROTATION_PROMOTE | name::ROTATION_SWITCH => Phase::Promoted,
        name::ROTATION_QUIESCE => Phase::Quiesced,
        name::ROTATION_DISABLE_OLD => Phase::OldDisabled,
        // What is never merely put out of use has no soak: the look ends the overlap.
        name::ROTATION_SOAK if step == "quiesce" => Phase::Quiesced,
        name::ROTATION_SOAK => Phase::Soaked,
        name::ROTATION_DESTROY_OLD | name::ROTATION_CLEAN => Phase::OldDestroyed,
        // Of an authority. What is done place by place has reached nothing before all of it is done.
        name::ROTATION_TRUSTED if step == "verify" => Phase::Verified,
        name::ROTATION_TRUSTED => Phase::Staged,
        name::ROTATION_SIGN => Phase::Promoted,
        name::ROTATION_RENEW if overlaps => Phase::Overlap,
        name::ROTATION_UNNEEDED => Phase::Quiesced,
        name::ROTATION_DISTRUSTED if step == "soak" => Phase::Soaked,
        name::ROTATION_DISTRUSTED => Phase::OldDisabled,
        _ => return None,
    })
}
