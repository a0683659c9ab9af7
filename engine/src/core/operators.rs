//! What people ask of a case: retry, skip, rerun, undo, pause, resume, and the end by force.
//!
//! The second half of the machine in [`decide`](super::decide), where the transition table stands.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::Timestamp;
use super::case::{Ask, CaseState, Ending, InstanceState, Mode, StepState, WaitReason};
use super::decide::{Effect, Illegal, Machine};
use super::definition::OnFailure;
use super::event::Event;
use super::id::{Actor, CaseId, Place, StepIndex};

/// Whether a person may have it tried before its moment. What a system has accepted is asked after when the system said,
/// and an answer that was lost when it can be seen.
fn may_be_hurried(why: WaitReason) -> bool {
    match why {
        WaitReason::Retry | WaitReason::SystemAway | WaitReason::NotBefore => true,
        WaitReason::Accepted | WaitReason::AnswerLost | WaitReason::Paused => false,
    }
}

impl Machine<'_> {
    /// What failed for good is tried again. Of a step or an instance that is named, what waits for a moment is tried now.
    pub(super) fn retry(
        &mut self,
        place: Option<Place>,
        step: Option<StepIndex>,
        by: &Actor,
    ) -> Result<(), Illegal> {
        let wanted = |candidate: StepIndex| {
            place.is_none_or(|place| place.step == candidate)
                && step.is_none_or(|step| step == candidate)
        };
        let named = place.is_some() || step.is_some();
        let stuck: Vec<StepIndex> = self
            .steps()
            .filter(|candidate| wanted(*candidate))
            .filter(|candidate| {
                self.case
                    .step_run(*candidate)
                    .is_some_and(|run| run.state == StepState::Stuck)
            })
            .collect();
        let parked: Vec<Place> = self
            .steps()
            .filter(|candidate| wanted(*candidate))
            .flat_map(|candidate| self.case.places(candidate))
            .filter(|candidate| place.is_none_or(|place| place == *candidate))
            .filter(|candidate| {
                match self
                    .case
                    .instance(*candidate)
                    .map(|instance| &instance.state)
                {
                    Some(InstanceState::Parked { .. }) => true,
                    Some(InstanceState::Waiting { why, .. }) => named && may_be_hurried(*why),
                    _ => false,
                }
            })
            .collect();
        if stuck.is_empty() && parked.is_empty() {
            return Err(Illegal::NothingParked);
        }
        // First what may be refused: nothing is changed then.
        let mut asked = BTreeMap::new();
        for place in &parked {
            if let Some(instance) = self.case.instance(*place) {
                let ask = self.ask_of(place.step, &instance.item);
                asked.insert(
                    *place,
                    ask.map_err(|error| Illegal::Broken(error.to_string()))?,
                );
            }
        }
        for step in stuck {
            self.begin(step);
        }
        for place in parked {
            let Some(instance) = self.case.instance(place) else {
                continue;
            };
            let (InstanceState::Parked { mode } | InstanceState::Waiting { mode, .. }) =
                &instance.state
            else {
                continue;
            };
            let (attempt, mode) = (instance.attempt + 1, mode.clone());
            match asked.remove(&place).flatten() {
                Some((ask, due)) => self.emit(Event::Asked {
                    place,
                    ask,
                    due,
                    output: Value::Null,
                }),
                None => self.attempt(place, attempt, mode, Some(by.clone())),
            }
        }
        self.start_ready();
        self.close_when_done();
        Ok(())
    }

    /// Puts a question to somebody else: `to` stands where `from` stood.
    pub(super) fn reassign(
        &mut self,
        place: Place,
        from: &str,
        to: String,
        by: Actor,
        reason: String,
    ) -> Result<(), Illegal> {
        required(&reason)?;
        let instance = self.case.instance(place).ok_or(Illegal::NoSuchPlace)?;
        let InstanceState::Asking { ask, .. } = &instance.state else {
            return Err(Illegal::NotAsking);
        };
        let not_put_to = || Illegal::NotPutTo(from.to_owned());
        let mut asked = ask.clone();
        match &mut asked {
            Ask::Approval { ask, .. } => {
                let stood = ask.iter().position(|who| who == from);
                let stood = stood.ok_or_else(not_put_to)?;
                ask.retain(|who| *who != from && *who != to);
                ask.insert(stood.min(ask.len()), to.clone());
            }
            Ask::Task { assignee, .. } if assignee == from => assignee.clone_from(&to),
            Ask::Task { .. } => return Err(not_put_to()),
            Ask::Signal { .. } => return Err(Illegal::NotAsking),
        }
        self.emit(Event::Reassigned {
            place,
            ask: asked,
            to,
            by,
            reason,
        });
        Ok(())
    }

    pub(super) fn skip(
        &mut self,
        step: StepIndex,
        place: Option<Place>,
        by: Actor,
        reason: String,
    ) -> Result<(), Illegal> {
        if reason.trim().is_empty() {
            return Err(Illegal::ReasonRequired);
        }
        let state = self.case.step_run(step).ok_or(Illegal::NoSuchPlace)?.state;
        if matches!(state, StepState::Stuck | StepState::Delayed { .. }) && place.is_none() {
            self.emit(Event::StepSkipped {
                step,
                reason,
                by: Some(by),
            });
            self.step_finished(step);
            self.start_ready();
            self.close_when_done();
            return Ok(());
        }
        let places: Vec<Place> = self
            .case
            .places(step)
            .filter(|candidate| place.is_none_or(|place| place == *candidate))
            .filter(|candidate| {
                matches!(
                    self.case
                        .instance(*candidate)
                        .map(|instance| &instance.state),
                    Some(
                        InstanceState::Parked { .. }
                            | InstanceState::Waiting { .. }
                            | InstanceState::Asking { .. }
                    )
                )
            })
            .collect();
        if places.is_empty() {
            return Err(Illegal::NotSkippable);
        }
        let undoing = self.case.state == CaseState::Undoing;
        for place in places {
            self.emit(Event::GivenUp {
                place,
                by: by.clone(),
                reason: reason.clone(),
            });
        }
        if undoing {
            self.undo_next();
            return Ok(());
        }
        if self
            .case
            .step_run(step)
            .is_some_and(|run| run.state == StepState::Done)
        {
            self.step_finished(step);
        }
        self.start_ready();
        self.close_when_done();
        Ok(())
    }

    /// Starts what was held back while the case was parked.
    pub(super) fn start_ready(&mut self) {
        if !self.may_start() {
            return;
        }
        let ready: Vec<StepIndex> = self.steps().filter(|step| self.is_ready(*step)).collect();
        for step in ready {
            self.ready(step);
        }
    }

    /// Holds the case. What waits in a queue is taken out of it: only what has left comes back.
    pub(super) fn pause(&mut self, by: Actor, reason: String) -> Result<(), Illegal> {
        required(&reason)?;
        if self.case.paused.is_some() {
            return Err(Illegal::Paused);
        }
        self.emit(Event::Paused { by, reason });
        for (place, attempt) in self.in_flight() {
            self.decision.effects.push(Effect::Abort { place, attempt });
        }
        Ok(())
    }

    /// Lets the case go on from where it stands.
    pub(super) fn resume(&mut self, by: Actor, reason: String) -> Result<(), Illegal> {
        required(&reason)?;
        if self.case.paused.is_none() {
            return Err(Illegal::NotPaused);
        }
        self.emit(Event::Resumed { by, reason });
        if self.case.state == CaseState::Undoing {
            self.undo_next();
        } else {
            self.start_ready();
            self.close_when_done();
        }
        Ok(())
    }

    /// Plans `step` and every step behind it anew. Their instances so far are history: what of them is not
    /// finished is cancelled, what they did is done again under keys of its own, and an undo takes back both.
    pub(super) fn rerun(
        &mut self,
        step: StepIndex,
        by: &Actor,
        reason: &str,
    ) -> Result<(), Illegal> {
        required(reason)?;
        let run = self.case.step_run(step).ok_or(Illegal::NoSuchPlace)?;
        if run.state == StepState::Pending {
            return Err(Illegal::NotBegun(self.name(step)));
        }
        let affected: Vec<StepIndex> = self
            .and_behind(step)
            .into_iter()
            .filter(|step| {
                self.case
                    .step_run(*step)
                    .is_some_and(|run| run.state != StepState::Pending)
            })
            .collect();
        for step in &affected {
            if self.is_uncertain(*step) {
                return Err(Illegal::InFlight(self.name(*step)));
            }
        }
        for step in affected {
            for place in self.case.places(step) {
                let unfinished = self
                    .case
                    .instance(place)
                    .is_some_and(|instance| !instance.state.is_finished());
                if unfinished {
                    self.emit(Event::Cancelled { place });
                }
            }
            self.emit(Event::StepRerun {
                step,
                by: by.clone(),
                reason: reason.to_owned(),
            });
        }
        self.start_ready();
        self.close_when_done();
        Ok(())
    }

    /// Takes back what the case did, as if one of its steps had failed.
    pub(super) fn undo(&mut self, by: Actor, reason: String) -> Result<(), Illegal> {
        required(&reason)?;
        if self.case.definition.on_failure == OnFailure::Forward {
            return Err(Illegal::NeverUndone);
        }
        self.end(Ending::Undoing, by, reason, None);
        Ok(())
    }

    /// Ends the case in this transition, whatever it waits for.
    pub(super) fn terminate(&mut self, by: Actor, reason: String) -> Result<(), Illegal> {
        required(&reason)?;
        self.emit(Event::Ending {
            ending: Ending::Cancelled,
            by,
            reason: reason.clone(),
            for_case: None,
            forced: true,
        });
        self.wind_down(&reason, true);
        let planning: Vec<StepIndex> = self
            .steps()
            .filter(|step| self.step_is(*step, StepState::Planning))
            .collect();
        for step in planning {
            let reason = "the case was ended by force".to_owned();
            let by = None;
            self.emit(Event::StepSkipped { step, reason, by });
        }
        self.close(CaseState::Cancelled);
        Ok(())
    }

    /// Notes that another case of the same workflow need not run. What it was to do is planned from what is known
    /// then, so nothing of it may have begun here; and it must be done neither before it takes effect nor later.
    pub(super) fn absorb(
        &mut self,
        case: CaseId,
        effective_at: Option<Timestamp>,
    ) -> Result<(), Illegal> {
        let awaited = |at: Option<Timestamp>| at.filter(|at| *at > self.now);
        if awaited(effective_at) != awaited(self.case.effective_at) {
            return Err(Illegal::OtherTime);
        }
        let begun = self.case.steps.iter().any(|run| {
            !run.instances.is_empty()
                || !matches!(run.state, StepState::Pending | StepState::Delayed { .. })
        });
        if begun {
            return Err(Illegal::Begun);
        }
        self.emit(Event::Absorbed { case });
        Ok(())
    }

    // --- looking --------------------------------------------------------------------------------------

    fn in_flight(&self) -> Vec<(Place, u32)> {
        let places = self.steps().flat_map(|step| self.case.places(step));
        places
            .filter_map(|place| {
                let instance = self.case.instance(place)?;
                matches!(instance.state, InstanceState::Running { .. })
                    .then_some((place, instance.attempt))
            })
            .collect()
    }

    /// A step and all that depend on it, directly or not.
    fn and_behind(&self, step: StepIndex) -> BTreeSet<StepIndex> {
        let mut found = BTreeSet::from([step]);
        let mut open = vec![step];
        while let Some(next) = open.pop() {
            let dependents = self.case.definition.dependents.get(usize::from(next.0));
            for dependent in dependents.into_iter().flatten() {
                if found.insert(*dependent) {
                    open.push(*dependent);
                }
            }
        }
        found
    }

    /// Whether it is not known what the step is doing outside.
    fn is_uncertain(&self, step: StepIndex) -> bool {
        self.step_is(step, StepState::Planning)
            || self.case.places(step).any(|place| {
                matches!(
                    self.case.instance(place).map(|instance| &instance.state),
                    Some(
                        InstanceState::Running { .. }
                            | InstanceState::Waiting {
                                mode: Mode::ReadBack | Mode::Poll { .. },
                                ..
                            }
                            | InstanceState::Parked {
                                mode: Mode::ReadBack | Mode::Poll { .. },
                            }
                    )
                )
            })
    }

    fn step_is(&self, step: StepIndex, state: StepState) -> bool {
        self.case
            .step_run(step)
            .is_some_and(|run| run.state == state)
    }

    fn name(&self, step: StepIndex) -> String {
        self.case
            .step(step)
            .map(|step| step.id.clone())
            .unwrap_or_default()
    }
}

fn required(reason: &str) -> Result<(), Illegal> {
    if reason.trim().is_empty() {
        return Err(Illegal::ReasonRequired);
    }
    Ok(())
}
