//! A batch while it is being gathered: many transitions, each row once.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use uuid::Uuid;

use crate::core::Timestamp;
use crate::core::case::{Ask, Case, Failure, InstanceState};
use crate::core::decide::{Decision, Row};
use crate::core::definition::Work;
use crate::core::event::Event;
use crate::core::id::{CaseId, Place, ShardId, Subject};
use crate::evidence::{Cause, leaf};
use crate::store::{
    Batch, EvidenceRow, GenerationRow, HistoryRow, Outcome, OutcomeKind, Projection, RebuiltRow,
    ReplyRow, StepEnding, StoreError, TimerRow, head_row, pause_row, state_row, step_row,
};

/// The most transitions one batch gathers.
pub(super) const TRANSITIONS_MAX: usize = 4_000;
/// The most rows of steps one batch gathers.
pub(super) const ROWS_MAX: usize = 30_000;

#[derive(Default)]
pub(super) struct Pending {
    touched: HashMap<CaseId, Touched>,
    order: Vec<CaseId>,
    timers_set: HashSet<TimerRow>,
    timers_cleared: HashSet<TimerRow>,
    /// They fired, and their cases do not wait for them: they may stand in the database or not.
    stray: HashSet<TimerRow>,
    batch: Batch,
    lives: BTreeMap<Subject, GenerationRow>,
    rows: usize,
}

struct Touched {
    /// The version in the database; `None` for a case this batch makes.
    from_version: Option<u64>,
    rows: BTreeSet<Row>,
    moved: bool,
    /// The case came to another version: its rows in the database go.
    rebuilt: bool,
    pause_changed: bool,
}

impl Pending {
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
            && self.batch.inbox_done.is_empty()
            && self.timers_cleared.is_empty()
            && self.stray.is_empty()
            && self.batch.replies.is_empty()
    }

    /// The subject is in this life now.
    pub fn generation(&mut self, row: GenerationRow) {
        self.lives.insert(row.subject.clone(), row);
    }

    /// Whether the batch changes this case.
    pub fn touches(&self, case: CaseId) -> bool {
        self.touched.contains_key(&case)
    }

    /// The timers the batch clears.
    pub fn fired(&self) -> impl Iterator<Item = TimerRow> {
        self.timers_cleared.union(&self.stray).copied()
    }

    /// The cases the batch changes.
    pub fn cases(&self) -> impl Iterator<Item = CaseId> {
        self.order.iter().copied()
    }

    /// Whether it has something of this shard.
    pub fn has(&self, shard: ShardId) -> bool {
        let batch = &self.batch;
        let mut timers = self
            .timers_set
            .iter()
            .chain(self.timers_cleared.union(&self.stray));
        batch.history.iter().any(|row| row.shard == shard)
            || batch.heads.iter().any(|row| row.shard == shard)
            || batch.inbox_done.iter().any(|(of, _)| *of == shard)
            || timers.any(|row| row.shard == shard)
    }

    /// Leaves out all that belongs to these shards, whose cases are `cases`.
    pub fn drop_shards(&mut self, gone: &BTreeSet<ShardId>, cases: &HashSet<CaseId>) {
        self.touched.retain(|case, _| !cases.contains(case));
        self.order.retain(|case| !cases.contains(case));
        self.timers_set.retain(|row| !gone.contains(&row.shard));
        self.timers_cleared.retain(|row| !gone.contains(&row.shard));
        self.stray.retain(|row| !gone.contains(&row.shard));
        self.lives.retain(|_, row| !gone.contains(&row.shard));
        self.batch.retain_shards(|shard| !gone.contains(&shard));
    }

    pub fn is_full(&self) -> bool {
        self.batch.history.len() >= TRANSITIONS_MAX || self.rows >= ROWS_MAX
    }

    pub fn transitions(&self) -> usize {
        self.batch.history.len()
    }

    /// A case this batch makes.
    pub fn created(&mut self, case: &Case) {
        self.batch.heads.push(head_row(case));
        self.touch(case.id, None).moved = true;
    }

    fn touch(&mut self, case: CaseId, from_version: Option<u64>) -> &mut Touched {
        self.touched.entry(case).or_insert_with(|| {
            self.order.push(case);
            Touched {
                from_version,
                rows: BTreeSet::new(),
                moved: false,
                rebuilt: false,
                pause_changed: false,
            }
        })
    }

    /// One transition of a case. `before` is the version the case had before it.
    pub fn transition(
        &mut self,
        case: &Case,
        before: u64,
        decision: &Decision,
        cause: &Cause,
        now: Timestamp,
        projection: &dyn Projection,
    ) -> Result<(), StoreError> {
        self.rows += decision.rows.len();
        for (target, due) in &decision.timers_cleared {
            let row = TimerRow {
                shard: case.shard,
                due: *due,
                case: case.id,
                target: *target,
            };
            if !self.timers_set.remove(&row) {
                self.timers_cleared.insert(row);
            }
        }
        for (target, due) in &decision.timers_set {
            let row = TimerRow {
                shard: case.shard,
                due: *due,
                case: case.id,
                target: *target,
            };
            let stands = self.timers_cleared.remove(&row);
            // One that strayed has left the memory of the lane, whatever the database has.
            if self.stray.remove(&row) || !stands {
                self.timers_set.insert(row);
            }
        }
        if decision.events.is_empty() {
            return Ok(());
        }
        let migrated = decision
            .events
            .iter()
            .any(|event| matches!(event, Event::Migrated { .. }));
        let touched = self.touch(case.id, Some(before));
        touched.moved = true;
        if migrated {
            // They count the steps of the version before.
            touched.rows.clear();
            touched.rebuilt = touched.from_version.is_some();
        }
        touched.pause_changed |= decision.pause_changed;
        touched.rows.extend(decision.rows.iter().copied());
        if migrated {
            self.rebuild(case);
        }
        let events = serde_json::to_string(&decision.events)
            .map_err(|error| StoreError::Projection(format!("events do not serialise: {error}")))?;
        self.batch.history.push(HistoryRow {
            shard: case.shard,
            case: case.id,
            version: case.version,
            at: now,
            input: cause.input.to_owned(),
            by: cause.by.0.clone(),
            events,
        });
        self.batch.evidence.push(EvidenceRow {
            shard: case.shard,
            case: case.id,
            version: case.version,
            at: now,
            leaf: leaf(case, cause, &decision.events, now),
        });
        let steps = decision.events.iter().flat_map(|event| {
            let told = step_outcome(case, event).or_else(|| attention(case, event));
            told.into_iter().chain(planned_asks(case, event))
        });
        let end = OutcomeKind::Closed { state: case.state };
        let outcomes = steps
            .chain(case.state.is_closed().then_some(end))
            .filter(|kind| projection.wants(kind))
            .map(|kind| outcome(case, now, kind));
        self.batch.outcomes.extend(outcomes);
        Ok(())
    }

    fn rebuild(&mut self, case: &Case) {
        let (definition, lane) = (case.definition.hash.clone(), case.definition.lane);
        if let Some(head) = (self.batch.heads.iter_mut()).find(|head| head.case == case.id) {
            (head.definition, head.lane) = (definition, lane);
            return;
        }
        self.batch.rebuilt.retain(|row| row.case != case.id);
        self.batch.rebuilt.push(RebuiltRow {
            shard: case.shard,
            case: case.id,
            definition,
            lane,
        });
    }

    /// Takes out a timer that fired for a case that does not wait for it. The case may come to wait for it again in
    /// this very batch: one that was held goes on.
    pub fn strayed(&mut self, row: TimerRow) {
        if !self.timers_set.remove(&row) {
            self.stray.insert(row);
        }
    }

    pub fn inbox_done(&mut self, shard: ShardId, id: Uuid) {
        self.batch.inbox_done.push((shard, id));
    }

    pub fn reply(&mut self, reply: ReplyRow) {
        self.batch.replies.push(reply);
    }

    /// The finished batch, with the last content of every row that changed, and the timers it sets.
    pub fn finish<'a>(
        mut self,
        find: impl Fn(CaseId) -> Option<&'a Case>,
        now: Timestamp,
    ) -> (Batch, Vec<CaseId>) {
        for id in &self.order {
            let (Some(case), Some(touched)) = (find(*id), self.touched.get(id)) else {
                continue;
            };
            if touched.moved {
                self.batch
                    .states
                    .push(state_row(case, touched.from_version, now));
            }
            if touched.pause_changed {
                self.batch.pauses.push(pause_row(case));
            }
            let rows = touched
                .rows
                .iter()
                .filter_map(|row| step_row(case, *row, now));
            let rebuilt = touched.rebuilt;
            self.batch.steps.extend(rows.map(|mut row| {
                if rebuilt {
                    row.planned_version = None;
                }
                row
            }));
        }
        self.batch.generations = self.lives.into_values().collect();
        self.batch.timers_set = sorted(self.timers_set);
        self.timers_cleared.extend(self.stray);
        self.batch.timers_cleared = sorted(self.timers_cleared);
        (self.batch, self.order)
    }
}

/// The same batch in every run, and neighbours in the table stay neighbours.
fn sorted(timers: HashSet<TimerRow>) -> Vec<TimerRow> {
    let mut sorted: Vec<TimerRow> = timers.into_iter().collect();
    sorted.sort_unstable();
    sorted
}

fn outcome(case: &Case, at: Timestamp, kind: OutcomeKind) -> Outcome {
    Outcome {
        shard: case.shard,
        case: case.id,
        version: case.version,
        subject: case.subject.clone(),
        workflow: case.definition.name.clone(),
        lane: case.definition.lane,
        generation: case.generation,
        at,
        effective_at: case.effective_at,
        received_at: case.received_at,
        kind,
    }
}

/// What a finished action is for the layer above; a built-in step is nothing to it.
///
/// The event says how it ended, not the state: what was done may be on its way back in the same transition.
fn step_outcome(case: &Case, event: &Event) -> Option<OutcomeKind> {
    let (place, ending) = match event {
        Event::Done { place, .. } => (*place, StepEnding::Done),
        Event::Undone { place } => (*place, StepEnding::Undone),
        Event::Unknown { place, .. } => (*place, StepEnding::Unknown),
        _ => return None,
    };
    let step = case.step(place.step)?;
    let instance = case.instance(place)?;
    let Work::Action { uses, .. } = &step.work else {
        return None;
    };
    Some(OutcomeKind::Step {
        place,
        step: step.id.clone(),
        uses: uses.clone(),
        ending,
        item: instance.item.clone(),
        with: instance.with.clone(),
        output: instance.output.clone(),
        verification: instance.verification.clone(),
    })
}

/// What calls for a person.
fn attention(case: &Case, event: &Event) -> Option<OutcomeKind> {
    let step = |index| case.step(index).map(|step| step.id.clone());
    let parked = |index, instance, failure: &Failure| {
        let of = case.step(index)?;
        Some(OutcomeKind::Parked {
            index,
            instance,
            step: of.id.clone(),
            uses: of.work.uses().to_owned(),
            failure: failure.clone(),
        })
    };
    match event {
        Event::Asked {
            place, ask, due, ..
        } if for_people(ask) => Some(OutcomeKind::Asked {
            place: *place,
            step: step(place.step)?,
            ask: ask.clone(),
            due: *due,
        }),
        Event::Reassigned { place, ask, to, .. } => {
            // Only who is new is told; the others know.
            let mut ask = ask.clone();
            if let Ask::Approval { ask, .. } = &mut ask {
                ask.retain(|who| who == to);
            }
            let due = match &case.instance(*place)?.state {
                InstanceState::Asking { due, .. } => *due,
                _ => return None,
            };
            Some(OutcomeKind::Asked {
                place: *place,
                step: step(place.step)?,
                ask,
                due,
            })
        }
        Event::Overdue { place } => match &case.instance(*place)?.state {
            InstanceState::Asking { ask, .. } if for_people(ask) => Some(OutcomeKind::Overdue {
                place: *place,
                step: step(place.step)?,
                ask: ask.clone(),
            }),
            _ => None,
        },
        Event::Parked { place, failure, .. } => parked(place.step, Some(place.instance.0), failure),
        Event::StepStuck { step, failure } => parked(*step, None, failure),
        Event::DeadlinePassed { escalate_to } => Some(OutcomeKind::DeadlinePassed {
            escalate_to: escalate_to.clone(),
        }),
        _ => None,
    }
}

/// The questions of a step that has just been planned.
fn planned_asks<'a>(case: &'a Case, event: &'a Event) -> impl Iterator<Item = OutcomeKind> + 'a {
    let planned = match event {
        Event::StepPlanned { step, instances } => case.step(*step).map(|of| {
            let first = case.step_run(*step).map_or(0, |run| run.first);
            (*step, of.id.as_str(), first, instances)
        }),
        _ => None,
    };
    planned
        .into_iter()
        .flat_map(|(step, id, first, instances)| {
            (first..)
                .zip(instances)
                .filter_map(move |(number, planned)| {
                    let ask = planned.ask.as_ref().filter(|ask| for_people(ask))?;
                    Some(OutcomeKind::Asked {
                        place: Place::new(step, number),
                        step: id.to_owned(),
                        ask: ask.clone(),
                        due: planned.due,
                    })
                })
        })
}

fn for_people(ask: &Ask) -> bool {
    match ask {
        Ask::Approval { .. } | Ask::Task { .. } => true,
        Ask::Signal { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::core::case::{FailureClass, NewCase, Verification};
    use crate::core::decide::decide;
    use crate::core::definition::Definition;
    use crate::core::id::{Actor, StepIndex, Subject};
    use crate::core::input::{AttemptResult, Input};
    use crate::core::proof::Proof;

    const TEXT: &str = "
name: t
on_failure: undo
steps:
  - {id: a, uses: make, needs: [], undo: {uses: unmake}}
  - {id: b, uses: fail, needs: []}
";

    struct EveryOutcome;

    #[async_trait::async_trait]
    impl Projection for EveryOutcome {
        async fn project(
            &self,
            _: &mut crate::store::Transaction<'_>,
            _: &[Outcome],
        ) -> Result<(), StoreError> {
            Ok(())
        }
    }

    fn case(definition: &str) -> Case {
        let now = at();
        Case::new(NewCase {
            id: CaseId(Uuid::from_u128(7)),
            shard: ShardId(0),
            subject: Subject("ada".into()),
            definition: Arc::new(Definition::parse("t.yaml", definition, &[], &|_| true).unwrap()),
            generation: 0,
            input: Arc::new(json!({})),
            salt: [0; 16],
            initiator: Actor::engine(),
            effective_at: None,
            received_at: now,
            created_at: now,
        })
    }

    fn at() -> Timestamp {
        "2026-03-01T12:00:00Z".parse().unwrap()
    }

    fn cause(input: &'static str) -> Cause {
        Cause {
            input,
            by: Actor::engine(),
            outcome: None,
            place: None,
            attempt: None,
            reason: None,
            approver: None,
            proof: None,
        }
    }

    impl Pending {
        fn take(&mut self, case: &mut Case, input: Input, now: Timestamp) {
            let (before, name) = (case.version, input.name());
            let decision = decide(case, input, now).unwrap();
            (self.transition(case, before, &decision, &cause(name), now, &EveryOutcome)).unwrap();
        }
    }

    /// Found by simulation: the wait of a case that was held past its time, and let go on, was lost.
    #[test]
    fn a_timer_that_strayed_while_its_case_was_held_stands_again_when_it_goes_on() {
        let mut case = case("name: t\nsteps: [{id: a, uses: make, after: 2s}]\n");
        let person = || (Actor("user:u".into()), "so".to_owned());
        let mut first = Pending::default();
        first.take(&mut case, Input::Start, at());
        let (batch, _) = first.finish(|_| Some(&case), at());
        let [timer] = batch.timers_set.as_slice() else {
            panic!("{batch:?}");
        };

        // What is held is cleared in a batch before, or in this one.
        let (by, reason) = person();
        let mut held = Pending::default();
        held.take(&mut case, Input::Pause { by, reason }, at());
        let later = at() + chrono::TimeDelta::seconds(3);
        for mut pending in [Pending::default(), held] {
            let mut case = case.clone();
            pending.strayed(*timer);
            assert_eq!(pending.fired().collect::<Vec<_>>(), [*timer]);
            let (by, reason) = person();
            pending.take(&mut case, Input::Resume { by, reason }, later);
            let (batch, _) = pending.finish(|_| Some(&case), later);
            assert_eq!(batch.timers_set, [*timer]);
            assert_eq!(batch.timers_cleared, []);
        }
    }

    /// Found by simulation: the layer above never learned of it, and so of nothing to look after if the undo fails.
    #[test]
    fn what_is_taken_back_at_once_is_told_as_done_first() {
        let (now, mut case) = (at(), case(TEXT));
        let finished = |step, result| Input::AttemptFinished {
            place: Place::new(StepIndex(step), 0),
            attempt: 1,
            result: Box::new(result),
        };
        let failed = AttemptResult::Failed {
            failure: Failure {
                kind: "denied".into(),
                message: "no".into(),
                class: FailureClass::Permanent,
            },
            proof: Proof::default(),
        };
        let succeeded = AttemptResult::Succeeded {
            output: json!({"id": "x"}),
            verification: Verification::Verified,
            proof: Proof::default(),
        };
        decide(&mut case, Input::Start, now).unwrap();
        decide(&mut case, finished(1, failed), now).unwrap();
        let mut pending = Pending::default();
        pending.take(&mut case, finished(0, succeeded), now);
        let told: Vec<_> = pending
            .batch
            .outcomes
            .iter()
            .map(|outcome| &outcome.kind)
            .collect();
        assert!(
            matches!(
                told.as_slice(),
                [OutcomeKind::Step { ending: StepEnding::Done, output, .. }] if output["id"] == "x"
            ),
            "{told:?}"
        );
    }
}
