//! A live case moves to another version of its workflow.
//!
//! A case keeps the version it started with. Moving it is a decision of a person: a [`Mapping`] says which step
//! becomes which, and [`plan`] says whether the case, as it stands now, can go on from there, or every reason why
//! not. What was done stays done: finished work needs a step of the new version that does the same, so that its
//! output can be read and its effect taken back. Nothing is done again, and no need of a begun step is left open.
//!
//! An attempt that is in flight names its place by position. It may stay in flight only where the new version has
//! the same step at the same position; otherwise the case has to wait until it is back.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Timestamp;
use super::case::{Case, CaseState, Ending, InstanceState, StepRun, StepState};
use super::decide::{Decision, Illegal, Machine, Row};
use super::definition::{Definition, OnFailure, Start, Step, Template, Work};
use super::event::Event;
use super::expression::Expression;
use super::id::{Place, StepIndex};
use super::input::{Migrate, TimerTarget};

/// The most reasons one answer names.
const OBSTACLES_TOLD_MAX: usize = 8;

/// Which step of the old version becomes which of the new one. A step that is not named becomes the one of the
/// same id. A stored form: fields are only ever added.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mapping {
    /// Old id to new id.
    pub steps: BTreeMap<String, String>,
    /// Steps of the old version that are left out, though the new one may have a step of that id. None may have
    /// begun.
    pub drop: BTreeSet<String>,
    /// Steps of the new version that a case leaves out when it is past them: something that needs them has begun.
    pub skip: BTreeSet<String>,
}

/// Why a case cannot move.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Obstacle {
    #[error("it is {0} and takes no new version")]
    State(&'static str),
    #[error("it runs workflow `{found}`, and the new version is one of `{wanted}`")]
    OtherWorkflow { found: String, wanted: String },
    #[error("it runs version `{found}`, not `{expected}`")]
    OtherVersion { found: String, expected: String },
    #[error("it runs that version already")]
    SameVersion,
    #[error("the mapping names step `{0}`, which the old version does not have")]
    UnknownOldStep(String),
    #[error("the mapping names step `{0}`, which the new version does not have")]
    UnknownNewStep(String),
    #[error("step `{0}` is both mapped and dropped")]
    MappedAndDropped(String),
    #[error("steps `{first}` and `{second}` would both become `{to}`")]
    TwoBecomeOne {
        first: String,
        second: String,
        to: String,
    },
    #[error(
        "step `{step}` is {state}, and nothing in the new version continues it; map it to a step"
    )]
    NothingContinues { step: String, state: &'static str },
    #[error("step `{step}` is {state}; only a step that has not begun can be dropped")]
    DropsBegun { step: String, state: &'static str },
    #[error(
        "step `{0}` has an attempt in flight and would change its place; wait until it is back"
    )]
    InFlight(String),
    #[error("step `{step}` uses `{uses}`, and `{to}` uses `{other}`")]
    OtherWork {
        step: String,
        uses: String,
        to: String,
        other: String,
    },
    #[error("step `{step}` and `{to}` differ in `for_each`, and its instances exist")]
    OtherFanOut { step: String, to: String },
    #[error(
        "step `{step}` is {state}, and in the new version it needs `{need}`, which is not finished; \
         map a finished step to `{need}`, or say that cases past it skip it"
    )]
    NeedNotFinished {
        step: String,
        state: &'static str,
        need: String,
    },
    #[error("step `{step}` reads `steps.{reads}`, which this case would skip")]
    ReadsSkipped { step: String, reads: String },
    #[error("step `{step}` is done and can be taken back, and `{to}` says no way to")]
    UndoLost { step: String, to: String },
    #[error(
        "it takes back what it did, and the new version never does or does so otherwise (step `{0}`)"
    )]
    UndoChanged(String),
}

/// How a case moves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// For each step of the old version the one it becomes.
    pub steps: Vec<Option<StepIndex>>,
    /// Steps of the new version that the case is past and leaves out.
    pub skipped: Vec<StepIndex>,
    /// Steps of the new version that waited for their time, or were stuck, and wait again for what they need now.
    pub again: Vec<StepIndex>,
    pub known_as: Vec<(StepIndex, String)>,
    pub deadline_at: Option<Timestamp>,
}

/// Says how `case` goes on under `to`, or every reason why it cannot.
///
/// # Errors
/// All obstacles found, in the order of the steps.
pub fn plan(case: &Case, migrate: &Migrate, now: Timestamp) -> Result<Plan, Vec<Obstacle>> {
    let to = &*migrate.to;
    let mut obstacles = whole(case, migrate);
    if !obstacles.is_empty() {
        return Err(obstacles);
    }
    let steps = positions(&case.definition, to, &migrate.mapping, &mut obstacles);
    let moved = Moved {
        case,
        to,
        from: origins(&steps, to.steps.len()),
        steps: &steps,
    };
    moved.check_runs(&migrate.mapping, &mut obstacles);
    let skipped = moved.skipped(&migrate.mapping);
    let again = moved.check_needs(&skipped, &mut obstacles);
    moved.check_reads(&skipped, &mut obstacles);
    if !obstacles.is_empty() {
        return Err(obstacles);
    }
    Ok(Plan {
        known_as: moved.known_as(),
        deadline_at: deadline(case, to, now),
        skipped: skipped.into_iter().collect(),
        again,
        steps,
    })
}

/// What has nothing to do with single steps.
fn whole(case: &Case, migrate: &Migrate) -> Vec<Obstacle> {
    let mut obstacles = Vec::new();
    if case.state.is_closed() || case.state == CaseState::Ending {
        obstacles.push(Obstacle::State(case.state.as_str()));
    }
    if case.definition.name != migrate.to.name {
        obstacles.push(Obstacle::OtherWorkflow {
            found: case.definition.name.clone(),
            wanted: migrate.to.name.clone(),
        });
    }
    if case.definition.hash == migrate.to.hash {
        obstacles.push(Obstacle::SameVersion);
    } else if case.definition.hash != migrate.from {
        obstacles.push(Obstacle::OtherVersion {
            found: case.definition.hash.short().to_owned(),
            expected: migrate.from.short().to_owned(),
        });
    }
    obstacles
}

/// Where each step of the old version stands in the new one. What is wrong with the mapping itself is the same
/// for every case.
pub fn positions(
    from: &Definition,
    to: &Definition,
    mapping: &Mapping,
    obstacles: &mut Vec<Obstacle>,
) -> Vec<Option<StepIndex>> {
    for old in mapping.steps.keys().chain(&mapping.drop) {
        if from.find(old).is_none() {
            obstacles.push(Obstacle::UnknownOldStep(old.clone()));
        }
        if mapping.steps.contains_key(old) && mapping.drop.contains(old) {
            obstacles.push(Obstacle::MappedAndDropped(old.clone()));
        }
    }
    for new in mapping.steps.values().chain(&mapping.skip) {
        if to.find(new).is_none() {
            obstacles.push(Obstacle::UnknownNewStep(new.clone()));
        }
    }
    let mut taken: BTreeMap<StepIndex, &str> = BTreeMap::new();
    let mut positions = Vec::with_capacity(from.steps.len());
    for step in &from.steps {
        let position = if mapping.drop.contains(&step.id) {
            None
        } else {
            to.find(mapping.steps.get(&step.id).unwrap_or(&step.id))
        };
        if let Some(position) = position
            && let Some(first) = taken.insert(position, &step.id)
        {
            obstacles.push(Obstacle::TwoBecomeOne {
                first: first.to_owned(),
                second: step.id.clone(),
                to: name(to, position),
            });
        }
        positions.push(position);
    }
    positions
}

/// For each step of the new version the one it continues.
fn origins(steps: &[Option<StepIndex>], count: usize) -> Vec<Option<StepIndex>> {
    let mut origins = vec![None; count];
    for (old, new) in (0..).map(StepIndex).zip(steps) {
        if let Some(slot) = new.and_then(|new| origins.get_mut(usize::from(new.0))) {
            *slot = Some(old);
        }
    }
    origins
}

fn name(definition: &Definition, step: StepIndex) -> String {
    definition
        .step(step)
        .map(|step| step.id.clone())
        .unwrap_or_default()
}

/// Nothing of it was done yet.
fn waits_to_begin(run: &StepRun) -> bool {
    // A step that is to run again has the instances of its earlier runs.
    run.instances.is_empty()
        && matches!(
            run.state,
            StepState::Pending | StepState::Delayed { .. } | StepState::Stuck
        )
}

/// A case beside the version it is to move to.
struct Moved<'a> {
    case: &'a Case,
    to: &'a Definition,
    steps: &'a [Option<StepIndex>],
    from: Vec<Option<StepIndex>>,
}

impl<'a> Moved<'a> {
    /// The run that a step of the new version continues.
    fn run(&self, new: StepIndex) -> Option<&'a StepRun> {
        let old = self.from.get(usize::from(new.0)).copied().flatten()?;
        self.case.step_run(old)
    }

    fn new_steps(&self) -> impl Iterator<Item = (StepIndex, &'a Step)> + use<'a> {
        (0..).map(StepIndex).zip(&self.to.steps)
    }

    /// Whether each run fits the step that is to continue it.
    fn check_runs(&self, mapping: &Mapping, obstacles: &mut Vec<Obstacle>) {
        let old_steps = self.case.definition.steps.iter().zip(&self.case.steps);
        for ((old, (step, run)), new) in (0..).map(StepIndex).zip(old_steps).zip(self.steps) {
            let target = new.and_then(|new| Some((new, self.to.step(new)?)));
            let Some((new, target)) = target else {
                let state = run.state.as_str();
                let step = step.id.clone();
                if mapping.drop.contains(&step) && !waits_to_begin(run) {
                    obstacles.push(Obstacle::DropsBegun { step, state });
                } else if !waits_to_begin(run) {
                    obstacles.push(Obstacle::NothingContinues { step, state });
                }
                continue;
            };
            let stays = old == new && step.id == target.id;
            if run.state == StepState::Planning && !(stays && step.facts == target.facts) {
                obstacles.push(Obstacle::InFlight(step.id.clone()));
            }
            if !run.instances.is_empty() {
                self.check_instances(step, run, target, stays, obstacles);
            }
        }
    }

    fn check_instances(
        &self,
        step: &Step,
        run: &StepRun,
        target: &Step,
        stays: bool,
        obstacles: &mut Vec<Obstacle>,
    ) {
        let (id, to) = (|| step.id.clone(), || target.id.clone());
        if step.work.uses() != target.work.uses() {
            obstacles.push(Obstacle::OtherWork {
                step: id(),
                uses: step.work.uses().to_owned(),
                to: to(),
                other: target.work.uses().to_owned(),
            });
        }
        if step.for_each.is_some() != target.for_each.is_some() {
            obstacles.push(Obstacle::OtherFanOut {
                step: id(),
                to: to(),
            });
        }
        let any = |wanted: fn(&InstanceState) -> bool| {
            run.instances.iter().any(|instance| wanted(&instance.state))
        };
        if !stays && any(|state| matches!(state, InstanceState::Running { .. })) {
            obstacles.push(Obstacle::InFlight(id()));
        }
        let undoing =
            self.case.state == CaseState::Undoing || self.case.ending == Some(Ending::Undoing);
        let uses = |step: &Step| step.undo.as_ref().map(|undo| undo.uses.clone());
        if undoing {
            if self.to.on_failure != OnFailure::Undo || uses(step) != uses(target) {
                obstacles.push(Obstacle::UndoChanged(id()));
            }
        } else if self.to.on_failure == OnFailure::Undo
            && step.undo.is_some()
            && target.undo.is_none()
        {
            obstacles.push(Obstacle::UndoLost {
                step: id(),
                to: to(),
            });
        }
    }

    /// The run, when something of it was done or is being done: not while it only waits to begin.
    fn begun(&self, new: StepIndex) -> Option<&'a StepRun> {
        self.run(new).filter(|run| !waits_to_begin(run))
    }

    /// The steps that this case is past: something that needs them, directly or not, has begun.
    fn skipped(&self, mapping: &Mapping) -> BTreeSet<StepIndex> {
        mapping
            .skip
            .iter()
            .filter_map(|id| self.to.find(id))
            .filter(|step| self.begun(*step).is_none() && self.is_past(*step))
            .collect()
    }

    fn is_past(&self, step: StepIndex) -> bool {
        let mut seen = BTreeSet::new();
        let mut open = vec![step];
        while let Some(at) = open.pop() {
            let dependents = self.to.dependents.get(usize::from(at.0));
            for dependent in dependents.into_iter().flatten() {
                if self.begun(*dependent).is_some() {
                    return true;
                }
                if seen.insert(*dependent) {
                    open.push(*dependent);
                }
            }
        }
        false
    }

    /// Whatever has begun must have had what the new version says it needs. A step that only waits to begin waits
    /// again instead: those are the answer.
    fn check_needs(
        &self,
        skipped: &BTreeSet<StepIndex>,
        obstacles: &mut Vec<Obstacle>,
    ) -> Vec<StepIndex> {
        let mut again = Vec::new();
        let finished = |step: StepIndex| {
            skipped.contains(&step) || self.run(step).is_some_and(|run| run.state.is_finished())
        };
        for (index, step) in self.new_steps() {
            let mut missing = step.needs.iter().filter(|need| !finished(**need));
            let state = match self.begun(index) {
                Some(run) => run.state.as_str(),
                None if skipped.contains(&index) => "skipped",
                None => {
                    let waits = self
                        .run(index)
                        .is_some_and(|run| run.state != StepState::Pending);
                    if waits && missing.next().is_some() {
                        again.push(index);
                    }
                    continue;
                }
            };
            obstacles.extend(missing.map(|need| Obstacle::NeedNotFinished {
                step: step.id.clone(),
                state,
                need: name(self.to, *need),
            }));
        }
        again
    }

    /// No expression that is still to be evaluated may read a step that the case skips.
    fn check_reads(&self, skipped: &BTreeSet<StepIndex>, obstacles: &mut Vec<Obstacle>) {
        if skipped.is_empty() {
            return;
        }
        let ids: BTreeSet<String> = skipped.iter().map(|step| name(self.to, *step)).collect();
        for (index, step) in self.new_steps() {
            if skipped.contains(&index) {
                continue;
            }
            let planned = self
                .run(index)
                .is_some_and(|run| !run.instances.is_empty() || run.state.is_finished());
            let mut read = BTreeSet::new();
            if !planned {
                plan_reads(step, &mut read);
            }
            if let Some(undo) = &step.undo {
                template_reads(&undo.with, &mut read);
            }
            for reads in read.intersection(&ids) {
                obstacles.push(Obstacle::ReadsSkipped {
                    step: step.id.clone(),
                    reads: reads.clone(),
                });
            }
        }
    }

    /// Planned steps whose id changes, with the id their effects are known by.
    fn known_as(&self) -> Vec<(StepIndex, String)> {
        let mut known = Vec::new();
        for (index, step) in self.new_steps() {
            let Some(old) = self.from.get(usize::from(index.0)).copied().flatten() else {
                continue;
            };
            let Some(run) = self
                .case
                .step_run(old)
                .filter(|run| !run.instances.is_empty())
            else {
                continue;
            };
            let id = run
                .known_as
                .clone()
                .unwrap_or_else(|| name(&self.case.definition, old));
            if id != step.id {
                known.push((index, id));
            }
        }
        known
    }
}

/// The steps that planning this one reads.
fn plan_reads(step: &Step, read: &mut BTreeSet<String>) {
    let mut add = |expression: &Expression| read.extend(expression.steps().iter().cloned());
    if let Some(expression) = &step.condition {
        add(expression);
    }
    if let Some(expression) = &step.for_each {
        add(expression);
    }
    if let Start::At(expression) = &step.start {
        add(expression);
    }
    if let Work::Action { with, .. } = &step.work {
        template_reads(with, read);
    }
}

fn template_reads(template: &Template, read: &mut BTreeSet<String>) {
    for expression in template.expressions.values() {
        read.extend(expression.steps().iter().cloned());
    }
}

/// Counted from the start of the case, as if it had begun under the new version. A case that has not begun has
/// none; one that began without a deadline has it counted from now.
fn deadline(case: &Case, to: &Definition, now: Timestamp) -> Option<Timestamp> {
    if case.state == CaseState::Queued {
        return None;
    }
    let (old, new) = (&case.definition.deadline, &to.deadline);
    let after = |deadline: &Option<super::definition::Deadline>| {
        deadline.as_ref().map(|deadline| deadline.after.delta())
    };
    match (case.deadline_at, after(old), after(new)) {
        (standing, old, new) if old == new => standing,
        (_, _, None) => None,
        (Some(standing), Some(old), Some(new)) => Some(standing - old + new),
        (_, _, Some(new)) => Some(now + new),
    }
}

impl Case {
    /// Puts every run where the new version has its step. Total, as every application of an event.
    pub(super) fn move_steps(
        &mut self,
        steps: &[Option<StepIndex>],
        count: u16,
        again: &[StepIndex],
        known_as: &[(StepIndex, String)],
        deadline_at: Option<Timestamp>,
    ) {
        let old = std::mem::take(&mut self.steps);
        self.steps = vec![StepRun::default(); usize::from(count)];
        for (run, new) in old.into_iter().zip(steps) {
            match new.and_then(|new| self.step_run_mut(new)) {
                Some(slot) => *slot = run,
                None if run.state == StepState::Stuck => {
                    self.parked = self.parked.saturating_sub(1);
                }
                None => {}
            }
        }
        for run in &mut self.steps {
            run.known_as = None;
        }
        for step in again {
            if self
                .step_run(*step)
                .is_some_and(|run| run.state == StepState::Stuck)
            {
                self.parked = self.parked.saturating_sub(1);
            }
            if let Some(run) = self.step_run_mut(*step) {
                *run = StepRun::default();
            }
        }
        for (step, id) in known_as {
            if let Some(run) = self.step_run_mut(*step) {
                run.known_as = Some(id.clone());
            }
        }
        let moved = |place: Place| {
            let step = steps.get(usize::from(place.step.0)).copied().flatten()?;
            Some(Place { step, ..place })
        };
        let mut stack: Vec<(Option<u64>, Place)> = std::mem::take(&mut self.undo_stack)
            .into_iter()
            .filter_map(moved)
            .map(|place| {
                let finished = self
                    .instance(place)
                    .and_then(|instance| instance.finished_version);
                (finished, place)
            })
            .collect();
        // What finished in one transition stands in order of place, as after every reading.
        stack.sort_unstable();
        self.undo_stack = stack.into_iter().map(|(_, place)| place).collect();
        if self.deadline_at != deadline_at {
            self.deadline_at = deadline_at;
            self.deadline_passed = false;
        }
    }
}

impl Machine<'_> {
    pub(super) fn migrate(&mut self, migrate: Migrate) -> Result<(), Illegal> {
        if migrate.reason.trim().is_empty() {
            return Err(Illegal::ReasonRequired);
        }
        let plan = plan(self.case, &migrate, self.now)
            .map_err(|obstacles| Illegal::CannotMigrate(told(&obstacles)))?;
        let Migrate { to, by, reason, .. } = migrate;
        let before = self.standing();
        let event = Event::Migrated {
            from: self.case.definition.hash.clone(),
            to: to.hash.clone(),
            steps: plan.steps,
            count: u16::try_from(to.steps.len()).unwrap_or(u16::MAX),
            again: plan.again,
            known_as: plan.known_as,
            deadline_at: plan.deadline_at,
            by: by.clone(),
            reason,
        };
        self.case.definition = Arc::clone(&to);
        self.case.apply(&event, self.now);
        let after = self.standing();
        self.decision
            .timers_cleared
            .extend(before.difference(&after).copied());
        self.decision
            .timers_set
            .extend(after.difference(&before).copied());
        self.every_row();
        self.decision.events.push(event);
        for step in plan.skipped {
            let reason = format!(
                "the case was past it when it came to version {}",
                to.hash.short()
            );
            self.emit(Event::StepSkipped {
                step,
                reason,
                by: Some(by.clone()),
            });
        }
        self.start_ready();
        self.close_when_done();
        Ok(())
    }

    /// Every timer that stands.
    pub(super) fn standing(&self) -> BTreeSet<(TimerTarget, Timestamp)> {
        let steps = self.steps().map(TimerTarget::Step);
        let instances = self
            .steps()
            .flat_map(|step| self.case.places(step))
            .map(TimerTarget::Instance);
        std::iter::once(TimerTarget::Case)
            .chain(steps)
            .chain(instances)
            .filter_map(|target| Some((target, self.timer_of(target)?)))
            .collect()
    }

    /// The rows that the case has under its new version; those of before are not there any more.
    fn every_row(&mut self) {
        for step in self.steps() {
            let Some(run) = self.case.step_run(step) else {
                continue;
            };
            let waits = run.present().is_empty() && run.state != StepState::Pending;
            if waits || run.first > 0 {
                self.decision.rows.push(Row::Step(step));
            }
            self.decision
                .rows
                .extend(self.case.places(step).map(Row::Instance));
        }
    }
}

/// Every timer that stands, as the case's own state says.
#[must_use]
pub fn standing_timers(case: &Case) -> BTreeSet<(TimerTarget, Timestamp)> {
    let mut case = case.clone();
    let machine = Machine {
        now: case.created_at,
        case: &mut case,
        decision: Decision::default(),
    };
    machine.standing()
}

/// The obstacles in one line, not more than a person reads.
#[must_use]
pub fn told(obstacles: &[Obstacle]) -> String {
    let mut text: Vec<String> = obstacles
        .iter()
        .take(OBSTACLES_TOLD_MAX)
        .map(ToString::to_string)
        .collect();
    if let Some(more) = obstacles.len().checked_sub(OBSTACLES_TOLD_MAX + 1) {
        text.push(format!("and {} more", more + 1));
    }
    text.join("; ")
}
