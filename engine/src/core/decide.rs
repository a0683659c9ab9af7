//! The one function that moves a case.
//!
//! [`decide`] takes a case, something that happened and the time, changes the case and says what follows:
//! events for the history, timers, effects for the shell, and which rows changed. It is pure in every way but
//! one: it changes the case in place, because a copy would make a transition of a large case cost what the
//! case weighs. An illegal pair leaves the case untouched. Replaying the events gives the same case.
//!
//! Longer than 800 lines: the table below is one match over state and input, and a reader has to be able to hold
//! the two side by side.
//!
//! # The transition table
//!
//! Of the case as a whole:
//!
//! | state \ input | start | attempt finished, facts, timer, answer, task done, reassign, signal | retry, skip | rerun, undo | cancel | preempt, supersede | terminate | recovered | migrate |
//! |---|---|---|---|---|---|---|---|---|---|
//! | queued | running | illegal | illegal | illegal | cancelled | closed | cancelled | nothing | same |
//! | running | illegal | see below | parked work only | planned anew; ending, then undoing | ending | ending | cancelled | read back | same, starts what is ready |
//! | parked | illegal | see below | goes on | the same | ending | ending | cancelled | read back | same, or running when what was stuck is dropped |
//! | undoing | illegal | undo goes on | parked undo only | illegal | illegal | ending | cancelled | read back | same |
//! | ending | illegal | closes with the last one | illegal | illegal | illegal | illegal | cancelled | read back | illegal |
//! | closed | illegal | illegal | illegal | illegal | illegal | illegal | illegal | nothing | illegal |
//!
//! `supersede` is illegal too for a case that is not of an earlier life. `merge` closes a queued case as merged and is
//! illegal in any other; `absorb` records it in the case that does its work: queued, or running with nothing begun, and
//! taking effect when the other does. A case that is ending so as to undo takes preempt and supersede, and keeps what it did.
//!
//! An undo is illegal for a workflow that only goes forward: a leaver is never undone. A rerun is illegal while an
//! attempt of what it would plan anew is in flight or of unknown outcome.
//!
//! Retry of a step or an instance that is named takes what waits for a moment as well (after a failure, for a system, for
//! a time that an action named): it is tried now.
//!
//! Of *paused*, which stands beside the state: `pause` makes a case paused that is queued, running, parked or
//! undoing and not paused yet, `resume` ends that, and so does the case's own end. While it is paused
//!
//! | input | what happens |
//! |---|---|
//! | start, retry, rerun, undo, absorb | illegal |
//! | attempt finished | recorded; whatever would be attempted next waits, without a timer |
//! | attempt in a queue | is taken out and waits |
//! | facts | the step waits; they are read again at resume |
//! | answer, task done, reassign, signal, skip | recorded; nothing is started by it |
//! | timer | illegal, except the deadline's: no other stands. At resume each is set again, those that are past act at once |
//! | cancel, preempt, supersede, terminate, migrate | as if it were not paused; a migration starts nothing |
//! | recovered | read back: that changes nothing outside |
//!
//! Of one instance, when an attempt in mode `do` ends (`undo` is alike, with `undone` for `done`):
//!
//! | result | next state |
//! |---|---|
//! | succeeded | done |
//! | accepted | waiting, then poll |
//! | needs human | asking |
//! | answer lost | waiting, then read back; unknown if the case is ending |
//! | not applied (read back) | the next attempt, at once; cancelled if the case is ending (an undo: done, as before) |
//! | not sent | cancelled if the case is ending (an undo: done, as before), else the next attempt; a read-back that was not sent: unknown if the case is ending |
//! | failed: retry | waiting; when the budget is spent as permanent |
//! | failed: system away, not before | waiting, counted against nothing |
//! | failed: permanent | park -> parked; forward -> parked, others go on; undo -> failed, case undoes |
//!
//! A failed undo parks, always: a case that could not take everything back stays visible.
//!
//! What people ask for stands in [`operators`](super::operators).

use serde_json::{Value, json};

use super::Timestamp;
use super::case::{
    Ask, Case, CaseState, Ending, Failure, FailureClass, InstanceState, Mode, StepState,
    Verification, WaitReason,
};
use super::definition::{INSTANCES_MAX, OnFailure, OnReject, OnSilence, OnTimeout, Start, Work};
use super::event::{Event, Planned};
use super::expression::ExpressionError;
use super::id::{Actor, Place, StepIndex};
use super::input::{AttemptResult, Input, TimerTarget};
use super::retry::pause_away;
use super::scope::Scope;

/// What follows from an input.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Decision {
    pub events: Vec<Event>,
    pub effects: Vec<Effect>,
    pub timers_set: Vec<(TimerTarget, Timestamp)>,
    pub timers_cleared: Vec<(TimerTarget, Timestamp)>,
    /// Rows whose content changed; a place may stand here twice.
    pub rows: Vec<Row>,
    /// Instances that finished or were undone: what the layer above turns into changes of its own.
    pub outcomes: Vec<Place>,
    /// Whether the case is paused now and was not before, or the other way round.
    pub pause_changed: bool,
}

/// A row of the step table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Row {
    /// The step itself: only for steps that are more than their instances.
    Step(StepIndex),
    Instance(Place),
}

/// What the core asks the shell to do, after the commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Make this attempt.
    Attempt {
        place: Place,
        attempt: u32,
        mode: Mode,
    },
    /// Fetch the facts that a step's expressions read.
    Facts { step: StepIndex },
    /// Drop the attempt if it has not left the queue yet.
    Abort { place: Place, attempt: u32 },
    /// Tell somebody: a deadline passed, or nobody answered.
    Escalate { to: Option<String>, reason: String },
    /// The case is closed: the subject is free.
    Closed,
}

/// A pair of state and input that makes no sense. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Illegal {
    #[error("the case is {0:?} and takes no `{1}`")]
    State(CaseState, &'static str),
    #[error("there is no such step or instance")]
    NoSuchPlace,
    #[error("attempt {attempt} is over; the current one is {current}")]
    StaleAttempt { attempt: u32, current: u32 },
    #[error("the timer no longer stands")]
    StaleTimer,
    #[error("the step is not waiting for facts")]
    NotPlanning,
    #[error("the step asks nothing of that kind now")]
    NotAsking,
    #[error("the question is not put to `{0}`")]
    NotPutTo(String),
    #[error("`{0}` has approved already")]
    AlreadyApproved(String),
    #[error("`{0}` asked for it; somebody else has to approve")]
    OwnRequest(String),
    #[error("nothing waits for signal `{0}`")]
    NobodyWaits(String),
    #[error("this task is finished only with a proof: what was seen, or where it is recorded")]
    ProofRequired,
    #[error("a result of kind `{0}` does not belong to this attempt")]
    WrongResult(&'static str),
    #[error("there is nothing parked here")]
    NothingParked,
    #[error("this work is in flight or finished and cannot be skipped")]
    NotSkippable,
    #[error("a reason is needed")]
    ReasonRequired,
    #[error("the case cannot go on under that version: {0}")]
    CannotMigrate(String),
    #[error("the case is paused; resume it first")]
    Paused,
    #[error("the case is not paused")]
    NotPaused,
    #[error("a case of a workflow that only goes forward is never undone")]
    NeverUndone,
    #[error("step `{0}` has not begun; there is nothing to run again")]
    NotBegun(String),
    #[error("an attempt of step `{0}` is in flight or its outcome is unknown; wait for it")]
    InFlight(String),
    #[error("the case cannot be read ({0}); it can only be ended by force")]
    Broken(String),
    #[error("the case has begun")]
    Begun,
    #[error("the case takes effect at another time")]
    OtherTime,
    #[error("the case belongs to life {case} of its subject, which is in life {subject} now")]
    OfEarlierLife { case: u32, subject: u32 },
}

/// Moves `case` by one input.
///
/// # Errors
/// [`Illegal`] when the input does not fit the state; the case is unchanged.
pub fn decide(case: &mut Case, input: Input, now: Timestamp) -> Result<Decision, Illegal> {
    let legal = match (case.state, &input) {
        (state, Input::Recovered) => Ok(state),
        (state, _) if state.is_closed() => Err(state),
        (state, Input::Terminate { .. }) => Ok(state),
        (
            CaseState::Queued,
            Input::Start
            | Input::Cancel { .. }
            | Input::Preempt { .. }
            | Input::Supersede { .. }
            | Input::Pause { .. }
            | Input::Resume { .. }
            | Input::Merge { .. }
            | Input::Absorb { .. }
            | Input::Migrate(_),
        ) => Ok(CaseState::Queued),
        (state @ CaseState::Queued, _) | (state, Input::Start | Input::Merge { .. }) => Err(state),
        (state, Input::Absorb { .. }) if state != CaseState::Running => Err(state),
        (
            state @ (CaseState::Undoing | CaseState::Ending),
            Input::Cancel { .. } | Input::Rerun { .. } | Input::Undo { .. },
        ) => Err(state),
        (state, Input::Preempt { .. } | Input::Supersede { .. }) if case.is_ending() => Err(state),
        (
            state @ CaseState::Ending,
            Input::Retry { .. } | Input::Skip { .. } | Input::Pause { .. } | Input::Migrate(_),
        ) => Err(state),
        (state, _) => Ok(state),
    };
    if let Err(state) = legal {
        return Err(Illegal::State(state, input.name()));
    }
    let starts = matches!(
        input,
        Input::Start
            | Input::Retry { .. }
            | Input::Rerun { .. }
            | Input::Undo { .. }
            | Input::Absorb { .. }
    );
    if starts && case.paused.is_some() {
        return Err(Illegal::Paused);
    }
    let paused = case.paused.is_some();
    let mut machine = Machine {
        case,
        now,
        decision: Decision::default(),
    };
    machine.input(input)?;
    let mut decision = machine.decision;
    decision.pause_changed = paused != case.paused.is_some();
    if !decision.events.is_empty() {
        case.version += 1;
    }
    Ok(decision)
}

pub(super) struct Machine<'a> {
    pub(super) case: &'a mut Case,
    pub(super) now: Timestamp,
    pub(super) decision: Decision,
}

impl Machine<'_> {
    fn input(&mut self, input: Input) -> Result<(), Illegal> {
        match input {
            Input::Start => self.start(),
            Input::TimerDue { target, due } => return self.timer(target, due),
            Input::Facts { step, facts } => return self.facts(step, facts),
            Input::AttemptFinished {
                place,
                attempt,
                result,
            } => return self.attempt_finished(place, attempt, *result),
            Input::Recovered => self.recovered(),
            Input::Answered {
                place,
                by,
                approve,
                note,
            } => return self.answered(place, by, approve, note),
            Input::TaskDone {
                place,
                by,
                proof,
                output,
            } => return self.task_done(place, &by, &proof, output),
            Input::Reassign {
                place,
                from,
                to,
                by,
                reason,
            } => return self.reassign(place, &from, to, by, reason),
            Input::Signal { name, by, payload } => return self.signal(&name, &by, payload),
            Input::Retry {
                place, step, by, ..
            } => return self.retry(place, step, &by),
            Input::Skip {
                step,
                place,
                by,
                reason,
            } => return self.skip(step, place, by, reason),
            Input::Migrate(migrate) => return self.migrate(*migrate),
            Input::Cancel { by, reason } => self.end(Ending::Cancelled, by, reason, None),
            Input::Preempt { by } => {
                let reason = "a case that pre-empts this one starts".to_owned();
                self.end(Ending::Preempted, Actor::engine(), reason, Some(by));
            }
            Input::Supersede { generation } => {
                if self.case.generation >= generation {
                    return Err(Illegal::OfEarlierLife {
                        case: self.case.generation,
                        subject: generation,
                    });
                }
                let reason = format!(
                    "the subject has begun life {generation}, and the case belongs to life {}",
                    self.case.generation
                );
                self.end(Ending::Superseded, Actor::engine(), reason, None);
            }
            Input::Merge { into } => {
                self.emit(Event::MergedInto { case: into });
                self.close(CaseState::Merged);
            }
            Input::Absorb { case, effective_at } => return self.absorb(case, effective_at),
            Input::Pause { by, reason } => return self.pause(by, reason),
            Input::Resume { by, reason } => return self.resume(by, reason),
            Input::Rerun { step, by, reason } => return self.rerun(step, &by, &reason),
            Input::Undo { by, reason } => return self.undo(by, reason),
            Input::Terminate { by, reason } => return self.terminate(by, reason),
        }
        Ok(())
    }

    // --- starting -------------------------------------------------------------------------------------

    fn start(&mut self) {
        let deadline_at = self
            .case
            .definition
            .deadline
            .as_ref()
            .map(|deadline| self.now + deadline.after.delta());
        self.emit(Event::Started { deadline_at });
        let first: Vec<StepIndex> = self.steps().filter(|step| self.is_ready(*step)).collect();
        for step in first {
            self.ready(step);
        }
        self.close_when_done();
    }

    pub(super) fn steps(&self) -> impl Iterator<Item = StepIndex> + use<> {
        (0..u16::try_from(self.case.steps.len()).unwrap_or(u16::MAX)).map(StepIndex)
    }

    pub(super) fn is_ready(&self, step: StepIndex) -> bool {
        let pending = self
            .case
            .step_run(step)
            .is_some_and(|run| run.state == StepState::Pending);
        let needs_finished = self.case.step(step).is_some_and(|definition| {
            definition.needs.iter().all(|need| {
                self.case
                    .step_run(*need)
                    .is_some_and(|run| run.state.is_finished())
            })
        });
        pending && needs_finished
    }

    /// A parked case of a workflow that parks starts nothing new; one that goes forward does.
    pub(super) fn may_start(&self) -> bool {
        if self.case.paused.is_some() {
            return false;
        }
        match self.case.state {
            CaseState::Running => true,
            CaseState::Parked => self.case.definition.on_failure == OnFailure::Forward,
            _ => false,
        }
    }

    pub(super) fn ready(&mut self, step: StepIndex) {
        if !self.may_start() {
            return;
        }
        match self.case.step(step).map(|definition| &definition.start) {
            Some(Start::After(span)) => {
                let due = self.now + span.delta();
                self.emit(Event::StepDelayed { step, due });
            }
            Some(Start::AtOnce | Start::At(_)) => self.begin(step),
            None => {}
        }
    }

    /// Plans the step, after its facts were fetched if it reads any.
    pub(super) fn begin(&mut self, step: StepIndex) {
        let Some(definition) = self.case.step(step) else {
            return;
        };
        if definition.facts.is_empty() {
            self.plan(step, &Value::Null);
        } else {
            self.emit(Event::StepPlanning { step });
            self.decision.effects.push(Effect::Facts { step });
        }
    }

    fn plan(&mut self, step: StepIndex, facts: &Value) {
        match self.planned(step, facts) {
            Ok(Plan::Delay(due)) => self.emit(Event::StepDelayed { step, due }),
            Ok(Plan::Skip(reason)) => {
                self.emit(Event::StepSkipped {
                    step,
                    reason,
                    by: None,
                });
                self.step_finished(step);
            }
            Ok(Plan::Open(instances)) => {
                let asks: Vec<bool> = instances
                    .iter()
                    .map(|planned| planned.ask.is_some())
                    .collect();
                let first = self.case.step_run(step).map_or(0, |run| run.first);
                self.emit(Event::StepPlanned { step, instances });
                for (instance, asks) in (first..).zip(asks) {
                    if !asks {
                        let place = Place::new(step, instance);
                        self.decision.effects.push(Effect::Attempt {
                            place,
                            attempt: 1,
                            mode: Mode::Do,
                        });
                    }
                }
            }
            Err(failure) => self.stuck(step, failure),
        }
    }

    fn stuck(&mut self, step: StepIndex, failure: Failure) {
        self.emit(Event::StepStuck {
            step,
            failure: failure.clone(),
        });
        if self.undoes(step) {
            self.end(Ending::Undoing, Actor::engine(), failure.message, None);
        }
    }

    fn planned(&self, step: StepIndex, facts: &Value) -> Result<Plan, Failure> {
        let expression_failure = |error: ExpressionError| Failure {
            kind: "expression".to_owned(),
            message: error.to_string(),
            class: FailureClass::Permanent,
        };
        let definition = self
            .case
            .step(step)
            .ok_or_else(|| expression_failure(ExpressionError::TooDeep))?;
        let scope = Scope::new(self.case, facts);
        let waited = matches!(
            self.case.step_run(step).map(|run| run.state),
            Some(StepState::Delayed { .. })
        );
        if let (Start::At(expression), false) = (&definition.start, waited) {
            let due = scope.evaluate(expression).map_err(expression_failure)?;
            let due = due
                .as_str()
                .and_then(|text| text.parse::<Timestamp>().ok())
                .ok_or_else(|| Failure {
                    kind: "expression".to_owned(),
                    message: format!(
                        "`at: {}` gives `{due}`, which is no RFC 3339 time",
                        expression.source()
                    ),
                    class: FailureClass::Permanent,
                })?;
            let due = whole_us(due);
            if due > self.now {
                return Ok(Plan::Delay(due));
            }
        }
        if let Some(condition) = &definition.condition
            && !scope.evaluate_bool(condition).map_err(expression_failure)?
        {
            return Ok(Plan::Skip(format!("`{}` is false", condition.source())));
        }
        let items = match &definition.for_each {
            None => vec![Value::Null],
            Some(expression) => scope
                .evaluate_list(expression)
                .map_err(expression_failure)?,
        };
        if items.is_empty() {
            return Ok(Plan::Skip("nothing to do: the list is empty".to_owned()));
        }
        if items.len() > INSTANCES_MAX {
            return Err(Failure {
                kind: "too_many".to_owned(),
                message: format!(
                    "`for_each` gives {} items; at most {INSTANCES_MAX} are allowed",
                    items.len()
                ),
                class: FailureClass::Permanent,
            });
        }
        let mut instances = Vec::with_capacity(items.len());
        for item in items {
            let with = match &definition.work {
                Work::Action { with, .. } => {
                    let scope = Scope::new(self.case, facts).with_item(&item);
                    scope.fill(with).map_err(expression_failure)?
                }
                Work::Approval(_) | Work::Task(_) | Work::WaitFor(_) => Value::Null,
            };
            let asked = self.ask_of(step, &item).map_err(expression_failure)?;
            let (ask, due) = match asked {
                Some((ask, due)) => (Some(ask), due),
                None => (None, None),
            };
            instances.push(Planned {
                item,
                with,
                ask,
                due,
            });
        }
        Ok(Plan::Open(instances))
    }

    /// The question a built-in step asks about `item`, and until when.
    pub(super) fn ask_of(
        &self,
        step: StepIndex,
        item: &Value,
    ) -> Result<Option<(Ask, Option<Timestamp>)>, ExpressionError> {
        let Some(definition) = self.case.step(step) else {
            return Ok(None);
        };
        let scope = Scope::new(self.case, &Value::Null).with_item(item);
        let words = scope.fill(&definition.words)?;
        let said = |name: &str, written: &str| match words.get(name) {
            None | Some(Value::Null) => written.to_owned(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        };
        let (ask, timeout) = match &definition.work {
            Work::Action { .. } => return Ok(None),
            Work::Approval(approval) => (
                Ask::Approval {
                    ask: named(words.get("ask"), &approval.ask),
                    quorum: approval.quorum,
                    question: approval
                        .question
                        .as_deref()
                        .map(|written| said("question", written)),
                    four_eyes: approval.four_eyes,
                },
                approval.timeout,
            ),
            Work::Task(task) => (
                Ask::Task {
                    title: said("title", &task.title),
                    instructions: said("instructions", &task.instructions),
                    assignee: said("assignee", &task.assignee),
                    proof_required: task.proof_required,
                },
                task.timeout,
            ),
            Work::WaitFor(wait) => (
                Ask::Signal {
                    name: wait.signal.clone(),
                },
                wait.timeout,
            ),
        };
        let due = timeout.map(|timeout| self.now + timeout.delta());
        Ok(Some((ask, due)))
    }

    // --- timers and facts -----------------------------------------------------------------------------

    fn timer(&mut self, target: TimerTarget, due: Timestamp) -> Result<(), Illegal> {
        if self.case.paused.is_some() && target != TimerTarget::Case {
            return Err(Illegal::StaleTimer);
        }
        match target {
            TimerTarget::Case => {
                if self.case.deadline_at != Some(due) || self.case.deadline_passed {
                    return Err(Illegal::StaleTimer);
                }
                let escalate_to = self
                    .case
                    .definition
                    .deadline
                    .as_ref()
                    .and_then(|deadline| deadline.escalate_to.clone());
                self.emit(Event::DeadlinePassed {
                    escalate_to: escalate_to.clone(),
                });
                let reason = "the case is not finished at its deadline".to_owned();
                self.decision.effects.push(Effect::Escalate {
                    to: escalate_to,
                    reason,
                });
            }
            TimerTarget::Step(step) => {
                let standing = self.case.step_run(step).map(|run| run.state)
                    == Some(StepState::Delayed { due });
                let goes_on = matches!(self.case.state, CaseState::Running | CaseState::Parked);
                if !standing || !goes_on {
                    return Err(Illegal::StaleTimer);
                }
                self.begin(step);
                self.close_when_done();
            }
            TimerTarget::Instance(place) => {
                let instance = self.case.instance(place).ok_or(Illegal::NoSuchPlace)?;
                let attempt = instance.attempt + 1;
                match &instance.state {
                    InstanceState::Waiting {
                        due: standing,
                        mode,
                        ..
                    } if *standing == due => {
                        let mode = mode.clone();
                        self.attempt(place, attempt, mode, None);
                    }
                    InstanceState::Asking {
                        due: Some(standing),
                        ..
                    } if *standing == due => self.silence(place),
                    _ => return Err(Illegal::StaleTimer),
                }
            }
        }
        Ok(())
    }

    /// Nobody answered in time.
    fn silence(&mut self, place: Place) {
        let unanswered = |what: &str| Failure {
            kind: "unanswered".to_owned(),
            message: format!("{what} in time"),
            class: FailureClass::Permanent,
        };
        let work = self.case.step(place.step).map(|step| step.work.clone());
        match work {
            Some(Work::Approval(approval)) => match approval.on_timeout {
                OnTimeout::Approve => {
                    let output = self.answer(place, json!({"approved": true, "timed_out": true}));
                    self.done(place, output, Verification::NotNeeded);
                }
                OnTimeout::Reject if approval.on_reject == OnReject::Continue => {
                    let output = self.answer(place, json!({"approved": false, "timed_out": true}));
                    self.done(place, output, Verification::NotNeeded);
                }
                OnTimeout::Reject => self.permanent(place, Mode::Do, unanswered("nobody approved")),
                OnTimeout::Park => {
                    self.park(place, Mode::Do, unanswered("nobody approved or rejected"))
                }
            },
            Some(Work::WaitFor(wait)) => match wait.on_timeout {
                OnSilence::Continue => {
                    self.done(place, json!({"timed_out": true}), Verification::NotNeeded)
                }
                OnSilence::Park => {
                    self.park(
                        place,
                        Mode::Do,
                        unanswered(&format!("signal `{}` did not come", wait.signal)),
                    );
                }
            },
            Some(Work::Task(_) | Work::Action { .. }) | None => {
                let to = match self.case.instance(place).map(|instance| &instance.state) {
                    Some(InstanceState::Asking {
                        ask: Ask::Task { assignee, .. },
                        ..
                    }) => Some(assignee.clone()),
                    _ => None,
                };
                self.emit(Event::Overdue { place });
                let reason = "a task is not finished in time".to_owned();
                self.decision.effects.push(Effect::Escalate { to, reason });
            }
        }
    }

    fn facts(&mut self, step: StepIndex, facts: Result<Value, Failure>) -> Result<(), Illegal> {
        if self.case.step_run(step).map(|run| run.state) != Some(StepState::Planning) {
            return Err(Illegal::NotPlanning);
        }
        if self.case.ending.is_some() {
            self.emit(Event::StepSkipped {
                step,
                reason: "the case is ending".to_owned(),
                by: None,
            });
        } else {
            match facts {
                // They would be old by the time the case is resumed.
                Ok(_) if self.case.paused.is_some() => {
                    let due = self.now;
                    self.emit(Event::StepDelayed { step, due });
                }
                Ok(facts) => self.plan(step, &facts),
                Err(failure) => self.stuck(step, failure),
            }
        }
        self.close_when_done();
        self.after_ending();
        Ok(())
    }

    // --- attempts -------------------------------------------------------------------------------------

    pub(super) fn attempt(&mut self, place: Place, attempt: u32, mode: Mode, by: Option<Actor>) {
        self.emit(Event::Attempted {
            place,
            attempt,
            mode: mode.clone(),
            by,
        });
        self.decision.effects.push(Effect::Attempt {
            place,
            attempt,
            mode,
        });
    }

    fn attempt_finished(
        &mut self,
        place: Place,
        attempt: u32,
        result: AttemptResult,
    ) -> Result<(), Illegal> {
        let instance = self.case.instance(place).ok_or(Illegal::NoSuchPlace)?;
        let (current, away) = (instance.attempt, instance.away);
        let InstanceState::Running { mode } = instance.state.clone() else {
            return Err(Illegal::StaleAttempt { attempt, current });
        };
        if attempt != current {
            return Err(Illegal::StaleAttempt { attempt, current });
        }
        let reads_back = matches!(mode, Mode::ReadBack | Mode::UndoReadBack);
        if matches!(result, AttemptResult::NotApplied) && !reads_back
            || matches!(
                result,
                AttemptResult::NeedsHuman { .. } | AttemptResult::Accepted { .. }
            ) && mode.is_undo()
        {
            return Err(Illegal::WrongResult(result.name()));
        }
        let ending = self.case.ending.is_some();
        match result {
            AttemptResult::Succeeded {
                output,
                verification,
                ..
            } => {
                if mode.is_undo() {
                    // What nobody could see is not called undone: the case ends incomplete, and somebody looks.
                    if let Verification::Unverified { reason } = &verification {
                        self.unknown(place, reason);
                    } else {
                        self.emit(Event::Undone { place });
                        self.decision.outcomes.push(place);
                    }
                    self.undo_next();
                } else {
                    self.done(place, output, verification);
                }
            }
            AttemptResult::Accepted {
                handle,
                poll_after_ms,
                ..
            } => {
                let due = self.now
                    + chrono::TimeDelta::milliseconds(
                        i64::try_from(poll_after_ms).unwrap_or(60_000),
                    );
                if ending {
                    let reason = "the system had accepted it when the case ended".to_owned();
                    self.emit(Event::Unknown { place, reason });
                    self.decision.outcomes.push(place);
                } else {
                    self.wait(
                        place,
                        due,
                        Mode::Poll { handle },
                        WaitReason::Accepted,
                        None,
                    );
                }
            }
            AttemptResult::NeedsHuman {
                title,
                instructions,
                assignee,
                due_after_ms,
                proof_required,
                output,
            } => {
                if ending {
                    self.emit(Event::Cancelled { place });
                } else {
                    let due = self.now
                        + chrono::TimeDelta::milliseconds(i64::try_from(due_after_ms).unwrap_or(0));
                    let ask = Ask::Task {
                        title,
                        instructions,
                        assignee,
                        proof_required,
                    };
                    self.emit(Event::Asked {
                        place,
                        ask,
                        due: Some(due),
                        output,
                    });
                }
            }
            AttemptResult::AnswerLost { reason, .. } => {
                if ending {
                    self.emit(Event::Unknown { place, reason });
                    self.decision.outcomes.push(place);
                } else {
                    let due = self.now + pause_away(away + 1).delta();
                    self.wait(place, due, mode.read_back(), WaitReason::AnswerLost, None);
                }
            }
            // What was to be found out is not found out: an earlier attempt may have had its effect.
            AttemptResult::NotSent if !matches!(mode, Mode::Do | Mode::Undo) => {
                if ending {
                    let reason = "the case ended before it was read back".to_owned();
                    self.emit(Event::Unknown { place, reason });
                    self.decision.outcomes.push(place);
                } else if self.case.paused.is_some() {
                    self.wait(place, self.now, mode, WaitReason::Paused, None);
                } else {
                    self.attempt(place, attempt + 1, mode, None);
                }
            }
            AttemptResult::NotApplied | AttemptResult::NotSent => {
                let next = if mode.is_undo() { Mode::Undo } else { Mode::Do };
                if ending && mode.is_undo() {
                    self.emit(Event::UndoStopped { place });
                } else if ending {
                    self.emit(Event::Cancelled { place });
                } else if self.case.paused.is_some() {
                    self.wait(place, self.now, next, WaitReason::Paused, None);
                } else {
                    self.attempt(place, attempt + 1, next, None);
                }
            }
            AttemptResult::Failed { failure, .. } => self.failed(place, mode, failure),
        }
        self.after_ending();
        Ok(())
    }

    fn failed(&mut self, place: Place, mode: Mode, failure: Failure) {
        if self.case.ending.is_some() {
            if mode == Mode::Undo {
                self.emit(Event::UndoStopped { place });
            } else if is_unknown(&mode, &failure) {
                self.emit(Event::Unknown {
                    place,
                    reason: failure.message,
                });
                self.decision.outcomes.push(place);
            } else {
                self.emit(Event::Failed { place, failure });
            }
            return;
        }
        let (failures, away) = self
            .case
            .instance(place)
            .map_or((0, 0), |instance| (instance.failures, instance.away));
        match failure.class {
            FailureClass::Permanent => self.permanent(place, mode, failure),
            FailureClass::Retry => {
                let pause = self
                    .case
                    .step(place.step)
                    .and_then(|step| step.retry.pause(failures + 1));
                match pause {
                    Some(pause) => {
                        let due = self.now + pause.delta();
                        self.wait(place, due, mode, WaitReason::Retry, Some(failure));
                    }
                    None => self.permanent(place, mode, failure),
                }
            }
            FailureClass::SystemAway => {
                let due = self.now + pause_away(away + 1).delta();
                self.wait(place, due, mode, WaitReason::SystemAway, Some(failure));
            }
            FailureClass::NotBefore(until) => {
                let due = whole_us(until).max(self.now + pause_away(1).delta());
                self.wait(place, due, mode, WaitReason::NotBefore, Some(failure));
            }
        }
    }

    fn wait(
        &mut self,
        place: Place,
        due: Timestamp,
        mode: Mode,
        why: WaitReason,
        failure: Option<Failure>,
    ) {
        self.emit(Event::Waiting {
            place,
            due,
            mode,
            why,
            failure,
        });
    }

    /// Whether what was done is taken back when a step has failed for good.
    fn undoes(&self, step: StepIndex) -> bool {
        let parks = self.case.step(step).is_some_and(|step| step.parks);
        self.case.definition.on_failure == OnFailure::Undo && !parks
    }

    /// The attempt will not succeed by itself any more.
    fn permanent(&mut self, place: Place, mode: Mode, failure: Failure) {
        let undoes = self.undoes(place.step) && !mode.is_undo();
        // An unknown effect cannot be left behind: somebody has to look before anything is undone.
        if undoes && !is_unknown(&mode, &failure) {
            let reason = failure.message.clone();
            self.emit(Event::Failed { place, failure });
            self.end(Ending::Undoing, Actor::engine(), reason, None);
        } else {
            self.park(place, mode, failure);
        }
    }

    fn park(&mut self, place: Place, mode: Mode, failure: Failure) {
        self.emit(Event::Parked {
            place,
            mode,
            failure,
        });
    }

    fn done(&mut self, place: Place, output: Value, verification: Verification) {
        self.emit(Event::Done {
            place,
            output,
            verification,
        });
        self.decision.outcomes.push(place);
        if self
            .case
            .step_run(place.step)
            .is_some_and(|run| run.state == StepState::Done)
        {
            self.step_finished(place.step);
            self.close_when_done();
        }
    }

    pub(super) fn step_finished(&mut self, step: StepIndex) {
        if self.case.ending.is_some() {
            return;
        }
        let dependents = self
            .case
            .definition
            .dependents
            .get(usize::from(step.0))
            .cloned()
            .unwrap_or_default();
        for dependent in dependents {
            if self.is_ready(dependent) {
                self.ready(dependent);
            }
        }
    }

    pub(super) fn close_when_done(&mut self) {
        let all = u32::try_from(self.case.steps.len()).unwrap_or(u32::MAX);
        if self.case.ending.is_some()
            || self.case.state.is_closed()
            || self.case.state == CaseState::Undoing
        {
            return;
        }
        if self.case.steps_done >= all {
            let state = if self.case.given_up > 0 {
                CaseState::Incomplete
            } else if self.case.unverified > 0 {
                CaseState::Unverified
            } else {
                CaseState::Succeeded
            };
            self.close(state);
        }
    }

    pub(super) fn close(&mut self, state: CaseState) {
        for step in self.steps() {
            if let Some(due) = self.timer_of(TimerTarget::Step(step)) {
                self.clear_timer((TimerTarget::Step(step), due));
            }
        }
        self.emit(Event::Closed { state });
        self.decision.effects.push(Effect::Closed);
    }

    // --- recovery -------------------------------------------------------------------------------------

    fn recovered(&mut self) {
        if self.case.in_flight == 0 {
            return;
        }
        for step in self.steps() {
            if self
                .case
                .step_run(step)
                .is_some_and(|run| run.state == StepState::Planning)
            {
                self.decision.effects.push(Effect::Facts { step });
            }
            for place in self.case.places(step) {
                let Some(instance) = self.case.instance(place) else {
                    continue;
                };
                if let InstanceState::Running { mode } = &instance.state {
                    let (attempt, mode) = (instance.attempt + 1, mode.read_back());
                    self.attempt(place, attempt, mode, None);
                }
            }
        }
    }

    // --- people and signals ---------------------------------------------------------------------------

    fn answered(
        &mut self,
        place: Place,
        by: Actor,
        approve: bool,
        note: String,
    ) -> Result<(), Illegal> {
        let instance = self.case.instance(place).ok_or(Illegal::NoSuchPlace)?;
        let InstanceState::Asking {
            ask: Ask::Approval {
                quorum, four_eyes, ..
            },
            approvals,
            ..
        } = &instance.state
        else {
            return Err(Illegal::NotAsking);
        };
        if approve && *four_eyes && by == self.case.initiator {
            return Err(Illegal::OwnRequest(by.0));
        }
        if approvals.contains(&by.0) {
            return Err(Illegal::AlreadyApproved(by.0));
        }
        if !approve && self.goes_on_rejected(place) {
            let said = json!({"approved": false, "by": [by.0], "note": note});
            let output = self.answer(place, said);
            self.done(place, output, Verification::NotNeeded);
            return Ok(());
        }
        if !approve {
            let message = if note.is_empty() {
                format!("rejected by {}", by.0)
            } else {
                format!("rejected by {}: {note}", by.0)
            };
            let failure = Failure {
                kind: "rejected".to_owned(),
                message,
                class: FailureClass::Permanent,
            };
            self.permanent(place, Mode::Do, failure);
            self.after_ending();
            return Ok(());
        }
        let enough = approvals.len() + 1 >= usize::try_from(*quorum).unwrap_or(usize::MAX);
        let mut everybody: Vec<String> = approvals.iter().cloned().collect();
        everybody.push(by.0.clone());
        self.emit(Event::Approved { place, by, note });
        if enough {
            let output = self.answer(place, json!({"approved": true, "by": everybody}));
            self.done(place, output, Verification::NotNeeded);
        }
        Ok(())
    }

    /// What an approval gives: the answer, and beside it what it was about and when it came, where it was one of several.
    fn answer(&self, place: Place, mut answer: Value) -> Value {
        let item = self.case.instance(place).map(|instance| &instance.item);
        if let (Some(item), Value::Object(fields)) = (item.filter(|it| !it.is_null()), &mut answer)
        {
            fields.insert("item".to_owned(), item.clone());
            fields.insert("at".to_owned(), json!(self.now.to_rfc3339()));
        }
        answer
    }

    fn goes_on_rejected(&self, place: Place) -> bool {
        let work = self.case.step(place.step).map(|step| &step.work);
        matches!(work, Some(Work::Approval(approval)) if approval.on_reject == OnReject::Continue)
    }

    fn task_done(
        &mut self,
        place: Place,
        by: &Actor,
        proof: &str,
        output: Value,
    ) -> Result<(), Illegal> {
        let instance = self.case.instance(place).ok_or(Illegal::NoSuchPlace)?;
        let InstanceState::Asking {
            ask: Ask::Task { proof_required, .. },
            ..
        } = &instance.state
        else {
            return Err(Illegal::NotAsking);
        };
        if *proof_required && proof.trim().is_empty() {
            return Err(Illegal::ProofRequired);
        }
        let mut result = match (&instance.output, output) {
            (Value::Object(prepared), Value::Object(given)) => {
                let mut merged = prepared.clone();
                merged.extend(given);
                Value::Object(merged)
            }
            (Value::Object(prepared), _) => Value::Object(prepared.clone()),
            (_, given @ Value::Object(_)) => given,
            _ => json!({}),
        };
        if let Value::Object(fields) = &mut result {
            fields.insert("done_by".to_owned(), Value::String(by.0.clone()));
            fields.insert("proof".to_owned(), Value::String(proof.to_owned()));
        }
        self.done(place, result, Verification::Attested { by: by.0.clone() });
        Ok(())
    }

    fn signal(&mut self, name: &str, by: &Actor, payload: Value) -> Result<(), Illegal> {
        let waiting: Vec<Place> = self
            .steps()
            .filter(|step| self.case.step_run(*step).is_some_and(|run| run.state == StepState::Open))
            .filter(|step| matches!(self.case.step(*step).map(|step| &step.work), Some(Work::WaitFor(_))))
            .flat_map(|step| self.case.places(step))
            .filter(|place| {
                matches!(
                    self.case.instance(*place).map(|instance| &instance.state),
                    Some(InstanceState::Asking { ask: Ask::Signal { name: asked }, .. }) if asked == name
                )
            })
            .collect();
        if waiting.is_empty() {
            return Err(Illegal::NobodyWaits(name.to_owned()));
        }
        for place in waiting {
            let output = json!({"payload": payload.clone(), "by": by.0});
            self.done(place, output, Verification::NotNeeded);
        }
        Ok(())
    }

    // --- ending and undoing ---------------------------------------------------------------------------

    pub(super) fn end(
        &mut self,
        ending: Ending,
        by: Actor,
        reason: String,
        for_case: Option<super::id::CaseId>,
    ) {
        self.emit(Event::Ending {
            ending,
            by,
            reason: reason.clone(),
            for_case,
            forced: false,
        });
        self.wind_down(&reason, false);
        self.after_ending();
    }

    /// Leaves off what is not finished. What is in flight is waited for, or is left unknown when `forced`.
    pub(super) fn wind_down(&mut self, reason: &str, forced: bool) {
        for step in self.steps() {
            for place in self.case.places(step) {
                let Some(instance) = self.case.instance(place) else {
                    continue;
                };
                match &instance.state {
                    InstanceState::Running { .. } => {
                        let attempt = instance.attempt;
                        self.decision.effects.push(Effect::Abort { place, attempt });
                        if forced {
                            self.unknown(place, reason);
                        }
                    }
                    InstanceState::Waiting {
                        mode: Mode::ReadBack | Mode::Poll { .. } | Mode::UndoReadBack,
                        ..
                    }
                    | InstanceState::Parked {
                        mode: Mode::ReadBack | Mode::Poll { .. } | Mode::UndoReadBack,
                    } => self.unknown(place, reason),
                    InstanceState::Waiting {
                        mode: Mode::Undo, ..
                    }
                    | InstanceState::Parked { mode: Mode::Undo } => {
                        self.emit(Event::UndoStopped { place });
                    }
                    InstanceState::Waiting { .. }
                    | InstanceState::Asking { .. }
                    | InstanceState::Parked { .. } => {
                        self.emit(Event::Cancelled { place });
                    }
                    InstanceState::Done
                    | InstanceState::Failed
                    | InstanceState::GivenUp
                    | InstanceState::Cancelled
                    | InstanceState::Unknown
                    | InstanceState::Undone => {}
                }
            }
        }
    }

    fn unknown(&mut self, place: Place, reason: &str) {
        self.emit(Event::Unknown {
            place,
            reason: reason.to_owned(),
        });
        self.decision.outcomes.push(place);
    }

    /// Takes the next step towards the end once nothing is in flight.
    pub(super) fn after_ending(&mut self) {
        if self.case.in_flight > 0 || self.case.state.is_closed() {
            return;
        }
        match self.case.ending {
            None => {}
            Some(Ending::Cancelled) => self.close(CaseState::Cancelled),
            Some(Ending::Preempted) => self.close(CaseState::Preempted),
            Some(Ending::Superseded) => self.close(CaseState::Superseded),
            Some(Ending::Undoing) => {
                self.emit(Event::UndoStarted);
                self.undo_next();
            }
        }
    }

    /// Undoes the instances of the step that finished last; when none is left the case is undone.
    pub(super) fn undo_next(&mut self) {
        let held = self.case.paused.is_some() || self.case.ending.is_some();
        if held || self.case.in_flight > 0 || self.case.parked > 0 || self.waiting_undo() {
            return;
        }
        let undoable = |place: &&Place| {
            self.case
                .instance(**place)
                .is_some_and(|instance| instance.state == InstanceState::Done)
                && self
                    .case
                    .step(place.step)
                    .is_some_and(|step| step.undo.is_some())
        };
        let group: Vec<Place> = match self.case.undo_stack.iter().rev().find(undoable) {
            None => Vec::new(),
            Some(top) => self
                .case
                .undo_stack
                .iter()
                .rev()
                .filter(|place| place.step == top.step)
                .filter(undoable)
                .copied()
                .collect(),
        };
        if !group.is_empty() {
            for place in group {
                let attempt = self
                    .case
                    .instance(place)
                    .map_or(1, |instance| instance.attempt + 1);
                self.attempt(place, attempt, Mode::Undo, None);
            }
            return;
        }
        let state = if self.case.given_up > 0 || self.any_unknown() {
            CaseState::Incomplete
        } else {
            CaseState::Undone
        };
        self.close(state);
    }

    fn any_unknown(&self) -> bool {
        let mut instances = self.case.steps.iter().flat_map(|run| &run.instances);
        instances.any(|instance| instance.state == InstanceState::Unknown)
    }

    fn waiting_undo(&self) -> bool {
        self.case.steps.iter().any(|run| {
            run.instances.iter().any(
                |instance| matches!(&instance.state, InstanceState::Waiting { mode, .. } if mode.is_undo()),
            )
        })
    }

    // --- recording ------------------------------------------------------------------------------------

    /// Applies an event and keeps timers and changed rows in step with it.
    pub(super) fn emit(&mut self, event: Event) {
        let target = timer_target(&event);
        let before = target.and_then(|target| self.timer_of(target));
        // A step has a row of its own once it waited as a whole; planning must bring that row up to date.
        let had_row = matches!(target, Some(TimerTarget::Step(step))
            if self.case.step_run(step).is_some_and(|run| run.state != StepState::Pending || run.first > 0));
        if matches!(event, Event::Paused { .. }) {
            let held = self.held_timers();
            self.decision.timers_cleared.extend(held);
        }
        self.case.apply(&event, self.now);
        if matches!(event, Event::Resumed { .. }) {
            let held = self.held_timers();
            self.decision.timers_set.extend(held);
        }
        if let Some(target) = target {
            let after = self.timer_of(target);
            if before != after {
                if let Some(due) = before {
                    self.clear_timer((target, due));
                }
                self.decision
                    .timers_set
                    .extend(after.map(|due| (target, due)));
            }
        }
        self.rows_of(&event, had_row);
        self.decision.events.push(event);
    }

    /// One that was set by this decision never stood.
    fn clear_timer(&mut self, timer: (TimerTarget, Timestamp)) {
        let set = &mut self.decision.timers_set;
        if let Some(index) = set.iter().position(|other| *other == timer) {
            set.swap_remove(index);
        } else {
            self.decision.timers_cleared.push(timer);
        }
    }

    /// The timers that a pause takes away and its end gives back.
    fn held_timers(&self) -> Vec<(TimerTarget, Timestamp)> {
        let mut timers: Vec<_> = self.standing().into_iter().collect();
        timers.retain(|(target, _)| *target != TimerTarget::Case);
        timers
    }

    pub(super) fn timer_of(&self, target: TimerTarget) -> Option<Timestamp> {
        if self.case.paused.is_some() && target != TimerTarget::Case {
            return None;
        }
        match target {
            TimerTarget::Case => {
                if self.case.deadline_passed || self.case.state.is_closed() {
                    None
                } else {
                    self.case.deadline_at
                }
            }
            TimerTarget::Step(step) => match self.case.step_run(step)?.state {
                StepState::Delayed { due } => Some(due),
                _ => None,
            },
            TimerTarget::Instance(place) => match &self.case.instance(place)?.state {
                InstanceState::Waiting { due, .. } => Some(*due),
                InstanceState::Asking { due, .. } => *due,
                _ => None,
            },
        }
    }

    fn rows_of(&mut self, event: &Event, had_row: bool) {
        match event {
            Event::StepPlanned { step, instances } => {
                if had_row {
                    self.decision.rows.push(Row::Step(*step));
                }
                let first = self.case.step_run(*step).map_or(0, |run| run.first);
                for (instance, planned) in (first..).zip(instances) {
                    let place = Place::new(*step, instance);
                    self.decision.rows.push(Row::Instance(place));
                    if let Some(due) = planned.due {
                        self.decision
                            .timers_set
                            .push((TimerTarget::Instance(place), due));
                    }
                }
            }
            Event::StepDelayed { step, .. }
            | Event::StepPlanning { step }
            | Event::StepSkipped { step, .. }
            | Event::StepStuck { step, .. }
            | Event::StepRerun { step, .. } => self.decision.rows.push(Row::Step(*step)),
            Event::Closed { .. } | Event::UndoStarted => {
                for step in self.steps() {
                    if self
                        .case
                        .step_run(step)
                        .is_some_and(|run| run.state == StepState::Cancelled)
                    {
                        self.decision.rows.push(Row::Step(step));
                    }
                }
            }
            other => self.decision.rows.extend(other.place().map(Row::Instance)),
        }
    }
}

/// Whom a question is put to: an expression may name several.
fn named(words: Option<&Value>, written: &[String]) -> Vec<String> {
    let Some(Value::Array(words)) = words else {
        return written.to_vec();
    };
    let mut named = Vec::new();
    for word in words {
        match word {
            Value::Array(several) => {
                let several = several.iter().filter_map(Value::as_str);
                named.extend(several.map(str::to_owned));
            }
            Value::String(one) => named.push(one.clone()),
            _ => {}
        }
    }
    named
}

/// Whether the effect may be there although this attempt failed. A read-back that failed knows nothing. A system
/// that was asked after what it accepted knows that it failed only if it says so for good.
fn is_unknown(mode: &Mode, failure: &Failure) -> bool {
    match mode {
        Mode::ReadBack | Mode::UndoReadBack => true,
        Mode::Poll { .. } => failure.class != FailureClass::Permanent,
        Mode::Do | Mode::Undo => false,
    }
}

enum Plan {
    Delay(Timestamp),
    Skip(String),
    Open(Vec<Planned>),
}

/// Cut to what both databases keep, so that a timer read back is the timer that stands.
fn whole_us(time: Timestamp) -> Timestamp {
    Timestamp::from_timestamp_micros(time.timestamp_micros()).unwrap_or(time)
}

fn timer_target(event: &Event) -> Option<TimerTarget> {
    match event {
        Event::Started { .. } | Event::DeadlinePassed { .. } | Event::Closed { .. } => {
            Some(TimerTarget::Case)
        }
        Event::StepDelayed { step, .. }
        | Event::StepPlanning { step }
        | Event::StepPlanned { step, .. }
        | Event::StepSkipped { step, .. }
        | Event::StepStuck { step, .. }
        | Event::StepRerun { step, .. } => Some(TimerTarget::Step(*step)),
        other => other.place().map(TimerTarget::Instance),
    }
}
