//! What a transition did to a case, as data. The history is a list of these; applying them in order to a new
//! case gives the case.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Timestamp;
use super::case::{
    Ask, Case, CaseState, Ending, Failure, Instance, InstanceState, Mode, Pause, StepState,
    Verification, WaitReason,
};
use super::id::{Actor, CaseId, DefinitionHash, Place, StepIndex};

/// One change. A stored form: fields may be added with a default, never renamed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    Started {
        deadline_at: Option<Timestamp>,
    },
    StepDelayed {
        step: StepIndex,
        due: Timestamp,
    },
    StepPlanning {
        step: StepIndex,
    },
    /// The step's instances exist. Those of an action have their first attempt in flight; others ask.
    StepPlanned {
        step: StepIndex,
        instances: Vec<Planned>,
    },
    StepSkipped {
        step: StepIndex,
        reason: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<Actor>,
    },
    StepStuck {
        step: StepIndex,
        failure: Failure,
    },
    Attempted {
        place: Place,
        attempt: u32,
        mode: Mode,
        /// A person asked for it: the budget starts anew.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<Actor>,
    },
    Waiting {
        place: Place,
        due: Timestamp,
        mode: Mode,
        why: WaitReason,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failure: Option<Failure>,
    },
    Asked {
        place: Place,
        ask: Ask,
        due: Option<Timestamp>,
        #[serde(default, skip_serializing_if = "Value::is_null")]
        output: Value,
    },
    Approved {
        place: Place,
        by: Actor,
        note: String,
    },
    /// The question is put to somebody else; who approved already has approved.
    Reassigned {
        place: Place,
        /// As it is asked from now on.
        ask: Ask,
        /// Who is asked now and was not before.
        #[serde(default)]
        to: String,
        by: Actor,
        reason: String,
    },
    /// Nobody answered in time; the question stays open and is escalated.
    Overdue {
        place: Place,
    },
    Done {
        place: Place,
        #[serde(default, skip_serializing_if = "Value::is_null")]
        output: Value,
        verification: Verification,
    },
    Parked {
        place: Place,
        mode: Mode,
        failure: Failure,
    },
    Failed {
        place: Place,
        failure: Failure,
    },
    GivenUp {
        place: Place,
        by: Actor,
        reason: String,
    },
    Cancelled {
        place: Place,
    },
    Unknown {
        place: Place,
        reason: String,
    },
    Undone {
        place: Place,
    },
    /// It will not be taken back after all: what was done is still there.
    UndoStopped {
        place: Place,
    },
    DeadlinePassed {
        escalate_to: Option<String>,
    },
    Ending {
        ending: Ending,
        by: Actor,
        reason: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        for_case: Option<CaseId>,
        /// Without waiting for what is in flight.
        #[serde(default, skip_serializing_if = "is_false")]
        forced: bool,
    },
    UndoStarted,
    Closed {
        state: CaseState,
    },
    /// The case goes on under another version of its workflow. Events before it count the steps of `from`, events
    /// after it those of `to`; whoever replays a history gives the case the definition of `to` here.
    Migrated {
        from: DefinitionHash,
        to: DefinitionHash,
        /// For each step of the old version the one it became; none where it is left out.
        steps: Vec<Option<StepIndex>>,
        /// How many steps the new version has.
        count: u16,
        /// Steps that waited to begin and wait again for what they need now.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        again: Vec<StepIndex>,
        /// Steps whose effects carry the name of an older version's step in their idempotency keys.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        known_as: Vec<(StepIndex, String)>,
        deadline_at: Option<Timestamp>,
        by: Actor,
        reason: String,
    },
    Paused {
        by: Actor,
        reason: String,
    },
    Resumed {
        by: Actor,
        reason: String,
    },
    /// The case of the same workflow that does what this one was to do.
    MergedInto {
        case: CaseId,
    },
    /// A case of the same workflow that will not be begun, because this one has not begun either.
    Absorbed {
        case: CaseId,
    },
    /// The step is to be planned anew; what it did before stays in its instances.
    StepRerun {
        step: StepIndex,
        by: Actor,
        reason: String,
    },
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the signature serde calls"
)]
fn is_false(flag: &bool) -> bool {
    !*flag
}

/// An instance as planned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Planned {
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub item: Value,
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub with: Value,
    /// What it asks, when it is no action.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ask: Option<Ask>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due: Option<Timestamp>,
}

impl Event {
    /// A short name for lists and evidence.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Started { .. } => "started",
            Self::StepDelayed { .. } => "step_delayed",
            Self::StepPlanning { .. } => "step_planning",
            Self::StepPlanned { .. } => "step_planned",
            Self::StepSkipped { .. } => "step_skipped",
            Self::StepStuck { .. } => "step_stuck",
            Self::Attempted { .. } => "attempted",
            Self::Waiting { .. } => "waiting",
            Self::Asked { .. } => "asked",
            Self::Approved { .. } => "approved",
            Self::Reassigned { .. } => "reassigned",
            Self::Overdue { .. } => "overdue",
            Self::Done { .. } => "done",
            Self::Parked { .. } => "parked",
            Self::Failed { .. } => "failed",
            Self::GivenUp { .. } => "given_up",
            Self::Cancelled { .. } => "cancelled",
            Self::Unknown { .. } => "unknown",
            Self::Undone { .. } => "undone",
            Self::UndoStopped { .. } => "undo_stopped",
            Self::DeadlinePassed { .. } => "deadline_passed",
            Self::Ending { .. } => "ending",
            Self::UndoStarted => "undo_started",
            Self::Closed { .. } => "closed",
            Self::Migrated { .. } => "migrated",
            Self::Paused { .. } => "paused",
            Self::Resumed { .. } => "resumed",
            Self::StepRerun { .. } => "step_rerun",
            Self::MergedInto { .. } => "merged_into",
            Self::Absorbed { .. } => "absorbed",
        }
    }

    /// The instance it is about, if it is about one.
    #[must_use]
    pub fn place(&self) -> Option<Place> {
        match self {
            Self::Attempted { place, .. }
            | Self::Waiting { place, .. }
            | Self::Asked { place, .. }
            | Self::Approved { place, .. }
            | Self::Reassigned { place, .. }
            | Self::Overdue { place }
            | Self::Done { place, .. }
            | Self::Parked { place, .. }
            | Self::Failed { place, .. }
            | Self::GivenUp { place, .. }
            | Self::Cancelled { place }
            | Self::Unknown { place, .. }
            | Self::Undone { place }
            | Self::UndoStopped { place } => Some(*place),
            Self::Started { .. }
            | Self::StepDelayed { .. }
            | Self::StepPlanning { .. }
            | Self::StepPlanned { .. }
            | Self::StepSkipped { .. }
            | Self::StepStuck { .. }
            | Self::DeadlinePassed { .. }
            | Self::Ending { .. }
            | Self::UndoStarted
            | Self::Closed { .. }
            | Self::Migrated { .. }
            | Self::Paused { .. }
            | Self::Resumed { .. }
            | Self::StepRerun { .. }
            | Self::MergedInto { .. }
            | Self::Absorbed { .. } => None,
        }
    }
}

impl Case {
    /// Makes one change. Total: an event about a place that does not exist changes nothing, so a history of
    /// another definition cannot crash a reader.
    pub fn apply(&mut self, event: &Event, at: Timestamp) {
        match event {
            Event::Started { deadline_at } => {
                self.state = CaseState::Running;
                self.deadline_at = *deadline_at;
            }
            Event::StepDelayed { step, due } => {
                self.set_step(*step, StepState::Delayed { due: *due })
            }
            Event::StepPlanning { step } => {
                self.set_step(*step, StepState::Planning);
            }
            Event::StepPlanned { step, instances } => self.plan_instances(*step, instances, at),
            Event::StepSkipped { step, reason, .. } => {
                self.set_step(*step, StepState::Skipped);
                self.steps_done += 1;
                if let Some(run) = self.step_run_mut(*step) {
                    run.failure = Some(Failure {
                        kind: "skipped".to_owned(),
                        message: reason.clone(),
                        class: super::case::FailureClass::Permanent,
                    });
                }
            }
            Event::StepStuck { step, failure } => {
                self.set_step(*step, StepState::Stuck);
                if let Some(run) = self.step_run_mut(*step) {
                    run.failure = Some(failure.clone());
                }
            }
            Event::Attempted {
                place,
                attempt,
                mode,
                by,
            } => {
                let by_hand = by.is_some();
                self.change(*place, at, |instance| {
                    instance.state = InstanceState::Running { mode: mode.clone() };
                    instance.attempt = *attempt;
                    if by_hand {
                        instance.failures = 0;
                        instance.away = 0;
                    }
                });
            }
            Event::Waiting {
                place,
                due,
                mode,
                why,
                failure,
            } => self.change(*place, at, |instance| {
                instance.state = InstanceState::Waiting {
                    due: *due,
                    mode: mode.clone(),
                    why: *why,
                };
                match why {
                    WaitReason::Retry => {
                        instance.failures += 1;
                        instance.away = 0;
                    }
                    WaitReason::SystemAway | WaitReason::AnswerLost => instance.away += 1,
                    WaitReason::NotBefore | WaitReason::Accepted => instance.away = 0,
                    WaitReason::Paused => {}
                }
                if failure.is_some() {
                    instance.failure.clone_from(failure);
                }
            }),
            Event::Asked {
                place,
                ask,
                due,
                output,
            } => self.change(*place, at, |instance| {
                instance.state = InstanceState::Asking {
                    ask: ask.clone(),
                    due: *due,
                    approvals: BTreeSet::new(),
                };
                instance.output = output.clone();
            }),
            Event::Approved { place, by, .. } => self.change(*place, at, |instance| {
                if let InstanceState::Asking { approvals, .. } = &mut instance.state {
                    approvals.insert(by.0.clone());
                }
            }),
            Event::Reassigned { place, ask, .. } => self.change(*place, at, |instance| {
                if let InstanceState::Asking { ask: asked, .. } = &mut instance.state {
                    asked.clone_from(ask);
                }
            }),
            Event::Overdue { place } => self.change(*place, at, |instance| {
                if let InstanceState::Asking { due, .. } = &mut instance.state {
                    *due = None;
                }
            }),
            Event::Done {
                place,
                output,
                verification,
            } => {
                let version = self.version;
                let unverified = matches!(verification, Verification::Unverified { .. });
                self.change(*place, at, |instance| {
                    instance.state = InstanceState::Done;
                    instance.output = output.clone();
                    instance.failure = None;
                    instance.verification = Some(verification.clone());
                    instance.finished_version = Some(version);
                });
                if unverified {
                    self.unverified += 1;
                    if let Some(run) = self.step_run_mut(place.step) {
                        run.unverified += 1;
                    }
                }
                self.undo_stack.push(*place);
                self.finish_instance(*place);
            }
            Event::Parked {
                place,
                mode,
                failure,
            } => self.change(*place, at, |instance| {
                instance.state = InstanceState::Parked { mode: mode.clone() };
                instance.failure = Some(failure.clone());
            }),
            Event::Failed { place, failure } => {
                self.change(*place, at, |instance| {
                    instance.state = InstanceState::Failed;
                    instance.failure = Some(failure.clone());
                });
                self.finish_instance(*place);
            }
            Event::GivenUp { place, by, reason } => {
                let undoing =
                    self.state == CaseState::Undoing || self.ending == Some(Ending::Undoing);
                self.change(*place, at, |instance| {
                    instance.state = InstanceState::GivenUp;
                    instance.failure = Some(Failure {
                        kind: "given_up".to_owned(),
                        message: format!("given up by {}: {reason}", by.0),
                        class: super::case::FailureClass::Permanent,
                    });
                });
                self.given_up += 1;
                if let Some(run) = self.step_run_mut(place.step) {
                    run.given_up += 1;
                }
                if !undoing {
                    self.finish_instance(*place);
                }
            }
            Event::Cancelled { place } => {
                self.change(*place, at, |instance| {
                    instance.state = InstanceState::Cancelled
                });
                self.finish_instance(*place);
            }
            Event::Unknown { place, reason } => {
                let undoing = self
                    .instance(*place)
                    .is_some_and(|instance| instance.state.is_undo());
                self.change(*place, at, |instance| {
                    instance.state = InstanceState::Unknown;
                    instance.verification = Some(Verification::Unverified {
                        reason: reason.clone(),
                    });
                });
                self.unverified += 1;
                // What is being taken back was finished before.
                if !undoing {
                    self.finish_instance(*place);
                }
            }
            Event::Undone { place } => self.change(*place, at, |instance| {
                instance.state = InstanceState::Undone
            }),
            Event::UndoStopped { place } => {
                self.change(*place, at, |instance| instance.state = InstanceState::Done)
            }
            Event::DeadlinePassed { .. } => self.deadline_passed = true,
            Event::Ending { ending, .. } => {
                self.ending = Some(*ending);
                self.state = CaseState::Ending;
            }
            Event::UndoStarted => {
                for step in (0..u16::try_from(self.steps.len()).unwrap_or(u16::MAX)).map(StepIndex)
                {
                    if self
                        .step_run(step)
                        .is_some_and(|run| run.state == StepState::Stuck)
                    {
                        self.set_step(step, StepState::Cancelled);
                    }
                }
                self.ending = None;
                self.state = CaseState::Undoing;
            }
            Event::Closed { state } => {
                self.state = *state;
                self.closed_at = Some(at);
                self.parked = 0;
                self.paused = None;
                for run in &mut self.steps {
                    if matches!(
                        run.state,
                        StepState::Pending | StepState::Delayed { .. } | StepState::Stuck
                    ) {
                        run.state = StepState::Cancelled;
                    }
                }
            }
            Event::Migrated {
                steps,
                count,
                again,
                known_as,
                deadline_at,
                ..
            } => self.move_steps(steps, *count, again, known_as, *deadline_at),
            Event::Paused { by, reason } => {
                self.paused = Some(Pause {
                    at,
                    by: by.clone(),
                    reason: reason.clone(),
                });
            }
            Event::Resumed { .. } => self.paused = None,
            Event::StepRerun { step, .. } => self.forget_run(*step),
            Event::MergedInto { .. } | Event::Absorbed { .. } => {}
        }
        self.settle();
    }

    /// A case with parked work is parked, unless it is already on its way to an end.
    fn settle(&mut self) {
        if matches!(self.state, CaseState::Running | CaseState::Parked) {
            self.state = if self.parked > 0 {
                CaseState::Parked
            } else {
                CaseState::Running
            };
        }
    }

    fn set_step(&mut self, step: StepIndex, state: StepState) {
        let Some(run) = self.step_run_mut(step) else {
            return;
        };
        let before = std::mem::replace(&mut run.state, state);
        let planning = |state| u32::from(state == StepState::Planning);
        let stuck = |state| u32::from(state == StepState::Stuck);
        self.in_flight = self.in_flight + planning(state) - planning(before).min(self.in_flight);
        self.parked = self.parked + stuck(state) - stuck(before).min(self.parked);
    }

    fn plan_instances(&mut self, step: StepIndex, planned: &[Planned], at: Timestamp) {
        let count = u32::try_from(planned.len()).unwrap_or(u32::MAX);
        self.set_step(step, StepState::Open);
        let mut in_flight = 0;
        let planned_version = self.version;
        if let Some(run) = self.step_run_mut(step) {
            run.remaining = count;
            run.failure = None;
            run.instances
                .truncate(usize::try_from(run.first).unwrap_or(usize::MAX));
            run.instances.extend(planned.iter().map(|planned| {
                let state = match &planned.ask {
                    None => {
                        in_flight += 1;
                        InstanceState::Running { mode: Mode::Do }
                    }
                    Some(ask) => InstanceState::Asking {
                        ask: ask.clone(),
                        due: planned.due,
                        approvals: BTreeSet::new(),
                    },
                };
                Instance {
                    item: planned.item.clone(),
                    with: planned.with.clone(),
                    state,
                    attempt: 1,
                    failures: 0,
                    away: 0,
                    output: Value::Null,
                    failure: None,
                    verification: None,
                    finished_version: None,
                    planned_version,
                    changed_at: at,
                }
            }));
        }
        self.in_flight += in_flight;
        self.unfinished += count;
    }

    /// Puts a step back to where it waits for what it needs. Its instances stay, as those of an earlier run: an
    /// undo of the case still takes back what they did.
    fn forget_run(&mut self, step: StepIndex) {
        let Some(run) = self.step_run_mut(step) else {
            return;
        };
        let finished = u32::from(run.state.is_finished());
        let (unverified, given_up) = (run.unverified, run.given_up);
        run.first = u32::try_from(run.instances.len()).unwrap_or(u32::MAX);
        run.remaining = 0;
        run.unverified = 0;
        run.given_up = 0;
        run.failure = None;
        self.steps_done = self.steps_done.saturating_sub(finished);
        self.unverified = self.unverified.saturating_sub(unverified);
        self.given_up = self.given_up.saturating_sub(given_up);
        self.set_step(step, StepState::Pending);
    }

    /// Changes one instance and keeps the case's counters of what is in flight and parked.
    fn change(&mut self, place: Place, at: Timestamp, change: impl FnOnce(&mut Instance)) {
        let Some(instance) = self.instance_mut(place) else {
            return;
        };
        let running =
            |state: &InstanceState| u32::from(matches!(state, InstanceState::Running { .. }));
        let parked =
            |state: &InstanceState| u32::from(matches!(state, InstanceState::Parked { .. }));
        let before = (running(&instance.state), parked(&instance.state));
        change(instance);
        instance.changed_at = at;
        let after = (running(&instance.state), parked(&instance.state));
        self.in_flight = (self.in_flight + after.0).saturating_sub(before.0);
        self.parked = (self.parked + after.1).saturating_sub(before.1);
    }

    /// Counts a finished instance; the last one finishes its step.
    fn finish_instance(&mut self, place: Place) {
        self.unfinished = self.unfinished.saturating_sub(1);
        let Some(run) = self.step_run_mut(place.step) else {
            return;
        };
        run.remaining = run.remaining.saturating_sub(1);
        if run.remaining == 0 && run.state == StepState::Open {
            run.state = StepState::Done;
            self.steps_done += 1;
        }
    }
}
