//! What must hold between the cases of one subject: the declared rules about conflicts, and lives. Told by what was
//! written only; it knows nothing of how the runner comes to it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use engine::core::Timestamp;
use engine::core::case::{Case, CaseState, Ending, Mode, StepState};
use engine::core::conflict::OnConflict;
use engine::core::definition::{Definition, Lane};
use engine::core::event::Event;
use engine::core::id::{CaseId, Subject};
use engine::runner::StartCase;
use engine::store::Batch;

/// What is kept from batch to batch.
#[derive(Default)]
pub struct Rules {
    /// The life of each subject that has cases.
    lives: BTreeMap<Subject, u32>,
    refused: BTreeSet<CaseId>,
}

/// A case as it was before the batch.
struct Was {
    waits: bool,
    lane: Lane,
}

/// What one batch says.
pub struct Round {
    before: BTreeMap<CaseId, Was>,
    lives_before: BTreeMap<Subject, u32>,
    born: Vec<Born>,
    started: Vec<CaseId>,
    merged: BTreeSet<(CaseId, CaseId)>,
    /// And when.
    absorbed: BTreeMap<(CaseId, CaseId), Timestamp>,
}

struct Born {
    id: CaseId,
    late: bool,
    /// The open cases of its subject that were there before it.
    meets: Vec<CaseId>,
}

impl Rules {
    pub fn begin(&self, cases: &BTreeMap<CaseId, Case>) -> Round {
        let open = cases.values().filter(|case| !case.state.is_closed());
        let was = |case: &Case| Was {
            waits: case.state == CaseState::Queued && case.paused.is_none(),
            lane: case.definition.lane,
        };
        Round {
            before: open.map(|case| (case.id, was(case))).collect(),
            lives_before: self.lives.clone(),
            born: Vec::new(),
            started: Vec::new(),
            merged: BTreeSet::new(),
            absorbed: BTreeMap::new(),
        }
    }

    /// Whoever starts a case without naming a life means the one the subject is in.
    pub fn life_of(&self, start: &StartCase) -> u32 {
        match start.generation {
            0 => self.life(&start.subject),
            generation => generation,
        }
    }

    fn life(&self, subject: &Subject) -> u32 {
        self.lives.get(subject).copied().unwrap_or(1)
    }

    /// A case is made; `cases` are those that were there before it.
    pub fn born(&mut self, new: &Case, cases: &BTreeMap<CaseId, Case>, round: &mut Round) {
        let life = self.life(&new.subject);
        let open = of_subject(cases, &new.subject).filter(|case| !case.state.is_closed());
        round.born.push(Born {
            id: new.id,
            late: new.generation < life,
            meets: open.map(|case| case.id).collect(),
        });
        self.lives
            .insert(new.subject.clone(), life.max(new.generation));
    }

    pub fn was_refused(&self, case: CaseId) -> bool {
        self.refused.contains(&case)
    }

    /// What holds once the batch is written.
    pub fn end(
        &mut self,
        round: &Round,
        batch: &Batch,
        cases: &BTreeMap<CaseId, Case>,
        starts: &BTreeMap<CaseId, StartCase>,
        definitions: &[Arc<Definition>],
    ) -> Result<(), String> {
        for born in &round.born {
            if let Some(new) = cases.get(&born.id) {
                met(new, born, cases)?;
            }
        }
        if !round.merged.iter().eq(round.absorbed.keys()) {
            return Err(format!(
                "merged {:?}, and taken in {:?}",
                round.merged, round.absorbed
            ));
        }
        for ((id, into), at) in &round.absorbed {
            let (Some(case), Some(into)) = (cases.get(id), cases.get(into)) else {
                return Err(format!("case {id} is merged into one that does not exist"));
            };
            let awaited = |case: &Case| case.effective_at.filter(|moment| moment > at);
            if awaited(case) != awaited(into) {
                return Err(format!(
                    "case {id} takes effect at another time than case {}",
                    into.id
                ));
            }
            let alike = (&case.subject, &case.definition.name, case.generation)
                == (&into.subject, &into.definition.name, into.generation);
            if !alike || rule(case, into) != OnConflict::Merge || case.state != CaseState::Merged {
                return Err(format!(
                    "case {id} has no business in case {}, and is {}",
                    into.id,
                    case.state.as_str()
                ));
            }
        }
        for id in &round.started {
            if let Some(case) = cases.get(id) {
                in_its_turn(case, cases, round)?;
            }
        }
        for case in cases.values() {
            let life = self.life(&case.subject);
            if case.generation < life && !ends(case) {
                return Err(format!(
                    "case {} of life {} is {} in life {life}",
                    case.id,
                    case.generation,
                    case.state.as_str()
                ));
            }
        }
        for reply in batch.replies.iter().filter(|reply| !reply.accepted) {
            let id = CaseId(reply.id);
            if let Some(start) = starts.get(&id) {
                self.refused(start, round, cases, definitions)?;
            }
        }
        Ok(())
    }

    /// A start is refused only for a rule that says so.
    fn refused(
        &mut self,
        start: &StartCase,
        round: &Round,
        cases: &BTreeMap<CaseId, Case>,
        definitions: &[Arc<Definition>],
    ) -> Result<(), String> {
        let open = |case: &&Case| {
            round.before.contains_key(&case.id) || round.born.iter().any(|born| born.id == case.id)
        };
        // Of the same life, unless it named none.
        let life = start.generation;
        let forbids = of_subject(cases, &start.subject)
            .filter(open)
            .filter(|case| life == 0 || case.generation == life)
            .any(|case| {
                let known = definitions.iter();
                let mut known = known.filter(|known| known.name == start.workflow);
                known.any(|known| about(known, case) == OnConflict::Reject)
            });
        if !forbids || cases.contains_key(&start.case) {
            return Err(format!(
                "the start of case {} is refused for no reason",
                start.case
            ));
        }
        self.refused.insert(start.case);
        Ok(())
    }
}

impl Round {
    /// One event of a case, before it is applied.
    pub fn event(&mut self, case: &Case, event: &Event, at: Timestamp) -> Result<(), String> {
        let life = self.lives_before.get(&case.subject).copied().unwrap_or(1);
        if case.generation < life && sets_off(event) {
            return Err(format!(
                "case {} of life {} does something in life {life}: {event:?}",
                case.id, case.generation
            ));
        }
        match event {
            Event::Started { .. } => self.started.push(case.id),
            Event::MergedInto { case: into } => {
                self.merged.insert((case.id, *into));
            }
            Event::Absorbed { case: other } => {
                let mut runs = case.steps.iter();
                let waits = |state| matches!(state, StepState::Pending | StepState::Delayed { .. });
                let begun = runs.any(|run| !run.instances.is_empty() || !waits(run.state));
                if begun || case.paused.is_some() || ends(case) {
                    return Err(format!("case {} takes in {other}, too late", case.id));
                }
                self.absorbed.insert((*other, case.id), at);
            }
            _ => {}
        }
        Ok(())
    }
}

/// Whether the event makes a case do something, or take something back.
fn sets_off(event: &Event) -> bool {
    match event {
        Event::Started { .. }
        | Event::StepDelayed { .. }
        | Event::StepPlanning { .. }
        | Event::StepPlanned { .. }
        | Event::Asked { .. }
        | Event::UndoStarted => true,
        Event::Attempted { mode, .. } => matches!(mode, Mode::Do | Mode::Undo),
        _ => false,
    }
}

/// Whether nothing of the case will be begun any more, nor taken back.
fn ends(case: &Case) -> bool {
    match case.state {
        CaseState::Ending => case.ending != Some(Ending::Undoing),
        state => state.is_closed(),
    }
}

fn of_subject<'a>(
    cases: &'a BTreeMap<CaseId, Case>,
    subject: &'a Subject,
) -> impl Iterator<Item = &'a Case> {
    cases.values().filter(move |case| case.subject == *subject)
}

fn about(new: &Definition, open: &Case) -> OnConflict {
    let other = &open.definition;
    new.conflicts.about(&new.name, &other.name, other.lane)
}

fn rule(new: &Case, open: &Case) -> OnConflict {
    about(&new.definition, open)
}

/// A new case and those that were open when it came.
fn met(new: &Case, born: &Born, cases: &BTreeMap<CaseId, Case>) -> Result<(), String> {
    if born.late {
        return match new.state {
            CaseState::Superseded => Ok(()),
            state => Err(format!("case {} came late and is {state:?}", new.id)),
        };
    }
    for open in born.meets.iter().filter_map(|id| cases.get(id)) {
        let then = rule(new, open);
        let stays = if open.generation < new.generation || then == OnConflict::Preempt {
            !ends(open)
        } else {
            then == OnConflict::Reject && !open.state.is_closed()
        };
        if stays {
            return Err(format!(
                "case {} ({}) came, and case {} ({}) is {} still",
                new.id,
                new.definition.name,
                open.id,
                open.definition.name,
                open.state.as_str()
            ));
        }
    }
    Ok(())
}

/// No revocation stays in the queue when something else of its subject starts.
fn in_its_turn(case: &Case, cases: &BTreeMap<CaseId, Case>, round: &Round) -> Result<(), String> {
    if case.definition.lane == Lane::Revocation {
        return Ok(());
    }
    let passed_over = of_subject(cases, &case.subject).find(|other| {
        let was = round.before.get(&other.id);
        other.state == CaseState::Queued
            && was.is_some_and(|was| was.waits && was.lane == Lane::Revocation)
    });
    match passed_over {
        None => Ok(()),
        Some(other) => Err(format!(
            "case {} starts before case {}, which is a revocation",
            case.id, other.id
        )),
    }
}
