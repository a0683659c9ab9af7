//! Between a case in memory and its rows.
//!
//! The inverse is exact: taking a case apart with [`head_row`], [`state_row`] and [`step_row`] and putting it
//! together with [`assemble`] gives the same case, while a transition writes only the rows it touched.
//!
//! A step has counters of its own (how many instances are left, how many are without proof), but most steps
//! have no row of their own: keeping one up to date would double the writes of every transition. So each row
//! of a step carries the step's counters *as of the version it was written at*. Nothing changes a counter
//! without writing a row of the step, so the newest row has the right ones.

use std::borrow::Cow;
use std::sync::Arc;

use chrono::SubsecRound;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::core::Timestamp;
use crate::core::case::{
    Case, Failure, Instance, InstanceState, Pause, StepRun, StepState, Verification,
};
use crate::core::decide::Row;
use crate::core::definition::Definition;
use crate::core::id::{Place, StepIndex};

use super::{HeadRow, PauseRow, StateRow, StepRow, StoreError};

/// A case as it lies in the database.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredCase {
    pub head: HeadRow,
    pub state: StateRow,
    /// In order of step and instance, a step's own row before those of its instances.
    pub steps: Vec<StepRow>,
}

/// The row a new case is written with.
#[must_use]
pub fn head_row(case: &Case) -> HeadRow {
    HeadRow {
        shard: case.shard,
        case: case.id,
        subject: case.subject.clone(),
        workflow: case.definition.name.clone(),
        definition: case.definition.hash.clone(),
        lane: case.definition.lane,
        generation: case.generation,
        input: (*case.input).clone(),
        salt: case.salt,
        initiator: case.initiator.clone(),
        effective_at: case.effective_at.map(stored_time),
        received_at: stored_time(case.received_at),
        created_at: stored_time(case.created_at),
    }
}

/// The row of a case as it is now. `from_version` is the version its row has in the database, `None` for a
/// case that has none yet.
#[must_use]
pub fn state_row(case: &Case, from_version: Option<u64>, now: Timestamp) -> StateRow {
    StateRow {
        shard: case.shard,
        case: case.id,
        from_version,
        version: case.version,
        state: case.state,
        ending: case.ending,
        in_flight: case.in_flight,
        parked: case.parked,
        unfinished: case.unfinished,
        unverified: case.unverified,
        given_up: case.given_up,
        steps_done: case.steps_done,
        deadline_at: case.deadline_at.map(stored_time),
        deadline_passed: case.deadline_passed,
        closed_at: case.closed_at.map(stored_time),
        changed_at: stored_time(now),
        paused: case.paused.clone(),
    }
}

/// The row that says who holds the case, or that nobody does any more.
#[must_use]
pub fn pause_row(case: &Case) -> PauseRow {
    PauseRow {
        shard: case.shard,
        case: case.id,
        pause: case.paused.as_ref().map(|pause| Pause {
            at: stored_time(pause.at),
            ..pause.clone()
        }),
    }
}

/// The row of an instance, or of a step that is more than its instances, as it is now; `None` when there is
/// no such place.
#[must_use]
pub fn step_row(case: &Case, row: Row, now: Timestamp) -> Option<StepRow> {
    match row {
        Row::Step(step) => {
            let run = case.step_run(step)?;
            let body = StepBody {
                state: stored_step_state(run.state),
                failure: run.failure.clone(),
                first: run.first,
                run: RunForm::of(run, case.version),
            };
            Some(StepRow {
                shard: case.shard,
                case: case.id,
                step: step.0,
                instance: None,
                state: run.state.as_str().to_owned(),
                attempt: 0,
                failures: 0,
                away: 0,
                planned_version: None,
                body: json(&body),
                changed_at: stored_time(now),
            })
        }
        Row::Instance(place) => {
            let run = case.step_run(place.step)?;
            let instance = case.instance(place)?;
            let body = InstanceBody {
                state: stored_instance_state(&instance.state),
                item: &instance.item,
                with: &instance.with,
                output: &instance.output,
                failure: instance.failure.as_ref(),
                verification: instance.verification.as_ref(),
                finished_version: instance.finished_version,
                planned_version: instance.planned_version,
                run: RunForm::of(run, case.version),
            };
            Some(StepRow {
                shard: case.shard,
                case: case.id,
                step: place.step.0,
                instance: Some(place.instance.0),
                state: instance.state.as_str().to_owned(),
                attempt: instance.attempt,
                failures: instance.failures,
                away: instance.away,
                planned_version: Some(instance.planned_version),
                body: json(&body),
                changed_at: stored_time(instance.changed_at),
            })
        }
    }
}

/// Puts a case together again. `definition` is the one its head names.
///
/// # Errors
/// [`StoreError::Corrupt`] names the row that does not fit.
pub fn assemble(definition: Arc<Definition>, stored: StoredCase) -> Result<Case, StoreError> {
    let StoredCase { head, state, steps } = stored;
    if definition.hash != head.definition {
        let wrong = format!(
            "it names definition `{}`, not `{}`",
            head.definition, definition.hash
        );
        let key = format!("{}/{}", head.shard, head.case);
        return Err(StoreError::Corrupt {
            table: "case_head",
            column: "definition",
            key,
            source: wrong.into(),
        });
    }
    let mut runs = vec![StepRun::default(); definition.steps.len()];
    let mut newest: Vec<Option<u64>> = vec![None; runs.len()];
    let mut finished: Vec<(u64, Place)> = Vec::new();
    for row in steps {
        let at = usize::from(row.step);
        let (Some(run), Some(newest)) = (runs.get_mut(at), newest.get_mut(at)) else {
            return Err(corrupt(&row, "step", "the definition has no such step"));
        };
        let counters = match row.instance {
            None => {
                let body: StepBody = decode(&row)?;
                run.state = body.state;
                run.failure = body.failure;
                run.first = body.first;
                body.run
            }
            Some(index) => {
                if usize::try_from(index) != Ok(run.instances.len()) {
                    return Err(corrupt(
                        &row,
                        "instance",
                        "the instance before it is missing",
                    ));
                }
                let body: InstanceForm = decode(&row)?;
                let place = Place::new(StepIndex(row.step), index);
                finished.extend(body.finished_version.map(|version| (version, place)));
                let (instance, counters) = body.into_instance(&row);
                run.instances.push(instance);
                counters
            }
        };
        if newest.is_none_or(|version| version < counters.version) {
            *newest = Some(counters.version);
            run.remaining = counters.remaining;
            run.unverified = counters.unverified;
            run.given_up = counters.given_up;
            run.known_as = counters.known_as;
        }
    }
    for run in &mut runs {
        if !run.present().is_empty() {
            run.state = if run.remaining == 0 {
                StepState::Done
            } else {
                StepState::Open
            };
        }
    }
    if state.state.is_closed() {
        end_unread(&mut runs);
    }
    // Several instances finish in one transition only when one signal answers them all, in order of place.
    finished.sort_unstable();
    Ok(Case {
        id: head.case,
        shard: head.shard,
        subject: head.subject,
        definition,
        generation: head.generation,
        version: state.version,
        state: state.state,
        input: Arc::new(head.input),
        salt: head.salt,
        initiator: head.initiator,
        effective_at: head.effective_at,
        received_at: head.received_at,
        created_at: head.created_at,
        closed_at: state.closed_at,
        deadline_at: state.deadline_at,
        deadline_passed: state.deadline_passed,
        steps: runs,
        in_flight: state.in_flight,
        parked: state.parked,
        unfinished: state.unfinished,
        steps_done: state.steps_done,
        unverified: state.unverified,
        undo_stack: finished.into_iter().map(|(_, place)| place).collect(),
        given_up: state.given_up,
        ending: state.ending,
        paused: state.paused,
    })
}

/// A case that was ended without being read has rows that do not know of its end.
fn end_unread(runs: &mut [StepRun]) {
    for run in runs {
        for instance in &mut run.instances {
            match instance.state {
                InstanceState::Running { .. } => instance.state = InstanceState::Unknown,
                InstanceState::Waiting { .. }
                | InstanceState::Asking { .. }
                | InstanceState::Parked { .. } => instance.state = InstanceState::Cancelled,
                _ => {}
            }
        }
        if matches!(
            run.state,
            StepState::Delayed { .. } | StepState::Planning | StepState::Stuck
        ) {
            run.state = StepState::Cancelled;
        }
    }
}

/// A time as both databases keep it: whole microseconds, rounded down.
#[must_use]
pub fn stored_time(time: Timestamp) -> Timestamp {
    time.trunc_subsecs(6)
}

// --- the stored form of a body: fields are only ever added, with a default ------------------------------

#[derive(Serialize, Deserialize)]
struct StepBody {
    state: StepState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    failure: Option<Failure>,
    #[serde(default, skip_serializing_if = "is_zero")]
    first: u32,
    run: RunForm,
}

#[derive(Serialize)]
struct InstanceBody<'a> {
    state: Cow<'a, InstanceState>,
    #[serde(skip_serializing_if = "is_null")]
    item: &'a Value,
    #[serde(skip_serializing_if = "is_null")]
    with: &'a Value,
    #[serde(skip_serializing_if = "is_null")]
    output: &'a Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<&'a Failure>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verification: Option<&'a Verification>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finished_version: Option<u64>,
    planned_version: u64,
    run: RunForm,
}

/// The same, read.
#[derive(Deserialize)]
struct InstanceForm {
    state: InstanceState,
    #[serde(default)]
    item: Value,
    #[serde(default)]
    with: Value,
    #[serde(default)]
    output: Value,
    #[serde(default)]
    failure: Option<Failure>,
    #[serde(default)]
    verification: Option<Verification>,
    #[serde(default)]
    finished_version: Option<u64>,
    planned_version: u64,
    run: RunForm,
}

impl InstanceForm {
    fn into_instance(self, row: &StepRow) -> (Instance, RunForm) {
        let instance = Instance {
            item: self.item,
            with: self.with,
            state: self.state,
            attempt: row.attempt,
            failures: row.failures,
            away: row.away,
            output: self.output,
            failure: self.failure,
            verification: self.verification,
            finished_version: self.finished_version,
            planned_version: self.planned_version,
            changed_at: row.changed_at,
        };
        (instance, self.run)
    }
}

/// The counters of a step as of a version of its case.
#[derive(Clone, Serialize, Deserialize)]
struct RunForm {
    version: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    remaining: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    unverified: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    given_up: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    known_as: Option<String>,
}

impl RunForm {
    fn of(run: &StepRun, version: u64) -> Self {
        Self {
            version,
            remaining: run.remaining,
            unverified: run.unverified,
            given_up: run.given_up,
            known_as: run.known_as.clone(),
        }
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature serde calls"
)]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

fn is_null(value: &&Value) -> bool {
    value.is_null()
}

/// A time in the body must be the time of the timer's row, or the timer would not stand after a restart.
fn stored_step_state(state: StepState) -> StepState {
    match state {
        StepState::Delayed { due } => StepState::Delayed {
            due: stored_time(due),
        },
        other => other,
    }
}

/// The same for an instance; borrowed unless a time has more digits than are kept.
fn stored_instance_state(state: &InstanceState) -> Cow<'_, InstanceState> {
    match state {
        InstanceState::Waiting { due, mode, why } if stored_time(*due) != *due => {
            Cow::Owned(InstanceState::Waiting {
                due: stored_time(*due),
                mode: mode.clone(),
                why: *why,
            })
        }
        InstanceState::Asking {
            ask,
            due: Some(due),
            approvals,
        } if stored_time(*due) != *due => Cow::Owned(InstanceState::Asking {
            ask: ask.clone(),
            due: Some(stored_time(*due)),
            approvals: approvals.clone(),
        }),
        other => Cow::Borrowed(other),
    }
}

/// Plain data always has a JSON form; text of no JSON form would be found by the decoder, never lost.
fn json<T: Serialize>(body: &T) -> String {
    serde_json::to_string(body).unwrap_or_default()
}

fn decode<'a, T: Deserialize<'a>>(row: &'a StepRow) -> Result<T, StoreError> {
    serde_json::from_str(&row.body).map_err(|error| corrupt(row, "body", error))
}

fn corrupt(row: &StepRow, column: &'static str, source: impl Into<super::BoxError>) -> StoreError {
    let instance = row.instance.map_or(-1, i64::from);
    let key = format!("{}/{}/{}/{instance}", row.shard, row.case, row.step);
    StoreError::Corrupt {
        table: "case_step",
        column,
        key,
        source: source.into(),
    }
}

#[cfg(test)]
mod tests;
