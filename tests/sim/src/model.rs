//! An independent view of what must hold. It watches every batch the database takes, in the instant it does, and
//! every attempt that leaves; it knows nothing of how the runner works.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use engine::core::Timestamp;
use engine::core::case::{Ask, Case, CaseState, InstanceState, Mode, NewCase, StepState};
use engine::core::definition::{Definition, OnFailure, Work};
use engine::core::event::Event;
use engine::core::id::{CaseId, DefinitionHash, Epoch, Place, ShardId, StepIndex, Subject};
use engine::core::input::TimerTarget;
use engine::runner::{Attempt, StartCase};
use engine::store::{
    Batch, HeadRow, HistoryRow, OutcomeKind, ShardLease, StepEnding, StoredCase, TimerRow, assemble,
};
use serde_json::Value;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::database::{Tables, Watcher};
use crate::life::Life;
use crate::rules::{Round, Rules};

pub struct Model {
    definitions: BTreeMap<DefinitionHash, Arc<Definition>>,
    inner: Mutex<Inner>,
    failed: Notify,
}

#[derive(Default)]
struct Inner {
    epochs: BTreeMap<ShardId, Epoch>,
    /// Every case, made anew from its history.
    cases: BTreeMap<CaseId, Case>,
    /// The attempts whose intent is durable.
    intents: BTreeMap<(CaseId, Place, u32), Mode>,
    /// What was sent, whether or not its sender knows that it arrived.
    starts: BTreeMap<CaseId, StartCase>,
    /// Messages whose sender was told that they are durable, and what became of them.
    acknowledged: BTreeSet<(ShardId, Uuid)>,
    answered: BTreeSet<(ShardId, Uuid)>,
    rules: Rules,
    /// How many transitions there were, by what brought them about.
    inputs: BTreeMap<String, u64>,
    wrong: Option<String>,
}

impl Model {
    pub fn new(definitions: BTreeMap<DefinitionHash, Arc<Definition>>) -> Self {
        Self {
            definitions,
            inner: Mutex::default(),
            failed: Notify::new(),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something does not hold. The first such thing counts.
    pub fn fail(&self, what: String) {
        self.inner().wrong.get_or_insert(what);
        self.failed.notify_one();
    }

    pub fn wrong(&self) -> Option<String> {
        self.inner().wrong.clone()
    }

    /// Waits until something is wrong.
    pub async fn goes_wrong(&self) {
        while self.wrong().is_none() {
            self.failed.notified().await;
        }
    }

    pub fn sends(&self, start: &StartCase) {
        self.inner().starts.insert(start.case, start.clone());
    }

    /// The sender was told that the message is durable.
    pub fn acknowledged(&self, shard: ShardId, id: Uuid) {
        self.inner().acknowledged.insert((shard, id));
    }

    pub fn inputs(&self) -> BTreeMap<String, u64> {
        self.inner().inputs.clone()
    }

    pub fn cases<T>(&self, look: impl FnOnce(&BTreeMap<CaseId, Case>) -> T) -> T {
        look(&self.inner().cases)
    }

    /// An attempt leaves for the world outside.
    pub fn attempt_leaves(&self, life: &Life, attempt: &Attempt) {
        let wrong = {
            let inner = self.inner();
            let key = (attempt.case, attempt.place, attempt.attempt);
            let generation = inner.cases.get(&attempt.case).map(|case| case.generation);
            match inner.intents.get(&key) {
                None => Some("left before its intent was durable".to_owned()),
                Some(mode) if *mode != attempt.mode => Some(format!("was decided as {mode:?}")),
                Some(_) if generation != Some(attempt.generation) => {
                    Some(format!("is of generation {generation:?}"))
                }
                Some(_) => None,
            }
        };
        if let Some(wrong) = wrong {
            self.fail(format!(
                "{life}: attempt {} of {} ({:?}, generation {}) {wrong}",
                attempt.attempt, attempt.idempotency_key, attempt.mode, attempt.generation
            ));
        }
    }

    /// What must hold at rest. Nothing is out, nothing goes wrong any more.
    pub fn check_rest(&self, tables: &Tables) -> Result<(), String> {
        let inner = self.inner();
        if let Some(((shard, id), _)) = tables.inbox.iter().next() {
            return Err(format!("message {id} of shard {shard} was never taken"));
        }
        for (shard, id) in &inner.acknowledged {
            if !inner.answered.contains(&(*shard, *id)) {
                return Err(format!("message {id} of shard {shard} was never answered"));
            }
        }
        for case in inner.cases.values() {
            if !case.state.is_closed() {
                return Err(format!(
                    "case {} ({}) is {} and nothing moves it any more",
                    case.id,
                    case.definition.name,
                    case.state.as_str()
                ));
            }
        }
        if let Some(timer) = tables.timers.iter().next() {
            return Err(format!("a timer is left of closed case {}", timer.case));
        }
        let (history, evidence) = (tables.history.keys(), tables.evidence.keys());
        if !history.eq(evidence) {
            return Err("history and evidence are not one to one".to_owned());
        }
        if tables.heads.len() != tables.states.len() || tables.heads.len() != inner.cases.len() {
            return Err("heads, states and cases are not one to one".to_owned());
        }
        Ok(())
    }

    /// Every start that was acknowledged has its case. `bad` are those that had to be refused.
    pub fn check_starts(&self, good: &BTreeMap<CaseId, (ShardId, Uuid)>) -> Result<(), String> {
        let inner = self.inner();
        for (case, message) in good {
            let made = inner.cases.contains_key(case) || inner.rules.was_refused(*case);
            if inner.acknowledged.contains(message) && !made {
                return Err(format!("case {case} was acknowledged and is lost"));
            }
        }
        Ok(())
    }
}

impl Watcher for Model {
    fn taken(&self, leases: &[ShardLease]) {
        let mut inner = self.inner();
        for lease in leases {
            inner.epochs.insert(lease.shard, lease.epoch);
        }
    }

    fn written(&self, batch: &Batch, tables: &Tables) {
        let result = self.inner().written(&self.definitions, batch, tables);
        if let Err(wrong) = result {
            self.fail(wrong);
        }
    }
}

impl Inner {
    fn written(
        &mut self,
        definitions: &BTreeMap<DefinitionHash, Arc<Definition>>,
        batch: &Batch,
        tables: &Tables,
    ) -> Result<(), String> {
        self.fenced(batch)?;
        let mut round = self.rules.begin(&self.cases);
        for head in &batch.heads {
            self.born(definitions, head, &mut round)?;
        }
        let mut expected = BTreeMap::new();
        for row in &batch.history {
            self.moved(definitions, row, &mut expected, &mut round)?;
        }
        same_outcomes(batch, expected)?;
        for row in &batch.evidence {
            let twin = batch
                .history
                .iter()
                .find(|other| (other.case, other.version) == (row.case, row.version));
            proves(&row.leaf, twin)?;
        }
        if batch.evidence.len() != batch.history.len() {
            return Err("a batch with more transitions than evidence, or fewer".to_owned());
        }
        for (shard, id) in &batch.inbox_done {
            self.answered.insert((*shard, *id));
        }
        let touched: BTreeSet<CaseId> = (batch.history.iter().map(|row| row.case))
            .chain(batch.states.iter().map(|row| row.case))
            .chain(batch.steps.iter().map(|row| row.case))
            .chain(batch.timers_cleared.iter().map(|row| row.case))
            .chain(batch.timers_set.iter().map(|row| row.case))
            .collect();
        for id in touched {
            let Some(case) = self.cases.get(&id) else {
                return Err(format!("a row of case {id}, which does not exist"));
            };
            same_as_stored(case, tables)?;
            same_timers(case, tables)?;
            counted(case)?;
            self.alone(&case.subject)?;
        }
        let known: Vec<_> = definitions.values().cloned().collect();
        self.rules
            .end(&round, batch, &self.cases, &self.starts, &known)
    }

    /// Every row was written under the epoch its shard has now.
    fn fenced(&self, batch: &Batch) -> Result<(), String> {
        let held: BTreeMap<ShardId, Epoch> = batch
            .leases
            .iter()
            .map(|lease| (lease.shard, lease.epoch))
            .collect();
        let shards = (batch.states.iter().map(|row| row.shard))
            .chain(batch.rebuilt.iter().map(|row| row.shard))
            .chain(batch.steps.iter().map(|row| row.shard))
            .chain(batch.history.iter().map(|row| row.shard))
            .chain(batch.timers_cleared.iter().map(|row| row.shard))
            .chain(batch.timers_set.iter().map(|row| row.shard))
            .chain(batch.inbox_done.iter().map(|(shard, _)| *shard))
            .chain(batch.replies.iter().map(|row| row.shard));
        for shard in shards {
            let (with, current) = (held.get(&shard), self.epochs.get(&shard));
            if with.is_none() || with != current {
                return Err(format!(
                    "a row of shard {shard} was written with epoch {with:?} while {current:?} is the current one"
                ));
            }
        }
        Ok(())
    }

    fn born(
        &mut self,
        definitions: &BTreeMap<DefinitionHash, Arc<Definition>>,
        head: &HeadRow,
        round: &mut Round,
    ) -> Result<(), String> {
        let id = head.case;
        if self.cases.contains_key(&id) {
            return Err(format!("case {id} is made a second time"));
        }
        let Some(start) = self.starts.get(&id) else {
            return Err(format!("case {id} is made, which nobody asked for"));
        };
        let as_asked = start.workflow == head.workflow
            && start.subject == head.subject
            && self.rules.life_of(start) == head.generation
            && start.input == head.input
            && start.initiator == head.initiator;
        if !as_asked {
            return Err(format!("case {id} is not what was asked for: {head:?}"));
        }
        let Some(definition) = definitions.get(&head.definition) else {
            return Err(format!("case {id} has an unknown definition"));
        };
        let case = Case::new(NewCase {
            id,
            shard: head.shard,
            subject: head.subject.clone(),
            definition: Arc::clone(definition),
            generation: head.generation,
            input: Arc::new(head.input.clone()),
            salt: head.salt,
            initiator: head.initiator.clone(),
            effective_at: head.effective_at,
            received_at: head.received_at,
            created_at: head.created_at,
        });
        self.rules.born(&case, &self.cases, round);
        self.cases.insert(id, case);
        Ok(())
    }

    /// Plays one transition, and notes what the layer above must be told of it.
    fn moved(
        &mut self,
        definitions: &BTreeMap<DefinitionHash, Arc<Definition>>,
        row: &HistoryRow,
        expected: &mut BTreeMap<(CaseId, String), i64>,
        round: &mut Round,
    ) -> Result<(), String> {
        let Some(case) = self.cases.get_mut(&row.case) else {
            return Err(format!(
                "a transition of case {}, which does not exist",
                row.case
            ));
        };
        if case.version + 1 != row.version {
            return Err(format!(
                "case {} goes from version {} to {}",
                case.id, case.version, row.version
            ));
        }
        if case.state.is_closed() {
            return Err(format!("case {} was closed and moves again", case.id));
        }
        let events: Vec<Event> = serde_json::from_str(&row.events)
            .map_err(|error| format!("events of case {}: {error}", row.case))?;
        for event in &events {
            intents(case, event, &mut self.intents);
            directed(case, event)?;
            round.event(case, event, row.at)?;
            if let Event::Migrated { to, .. } = event {
                let to = definitions.get(to);
                let to = to.ok_or("a case moves to a version nobody knows")?;
                case.definition = Arc::clone(to);
            }
            case.apply(event, row.at);
            for told in told(case, event).into_iter().chain(asked(case, event)) {
                *expected.entry((case.id, told)).or_default() += 1;
            }
        }
        case.version += 1;
        *self.inputs.entry(row.input.clone()).or_default() += 1;
        Ok(())
    }

    /// One subject, one running case.
    fn alone(&self, subject: &Subject) -> Result<(), String> {
        let running: Vec<CaseId> = self
            .cases
            .values()
            .filter(|case| case.subject == *subject)
            .filter(|case| !case.state.is_closed() && case.state != CaseState::Queued)
            .map(|case| case.id)
            .collect();
        if running.len() > 1 {
            return Err(format!(
                "subject {subject} has more than one case at work: {running:?}"
            ));
        }
        Ok(())
    }
}

/// The attempts that an event makes durable.
fn intents(case: &Case, event: &Event, intents: &mut BTreeMap<(CaseId, Place, u32), Mode>) {
    match event {
        Event::StepPlanned { step, instances } => {
            // Behind those of the runs before.
            let first = case.step_run(*step).map_or(0, |run| run.first);
            for (number, planned) in (first..).zip(instances) {
                if planned.ask.is_none() {
                    intents.insert((case.id, Place::new(*step, number), 1), Mode::Do);
                }
            }
        }
        Event::Attempted {
            place,
            attempt,
            mode,
            ..
        } => {
            intents.insert((case.id, *place, *attempt), mode.clone());
        }
        _ => {}
    }
}

/// Forward workflows are never undone; attempts count up.
fn directed(case: &Case, event: &Event) -> Result<(), String> {
    let forward = case.definition.on_failure == OnFailure::Forward;
    match event {
        Event::UndoStarted if forward => Err(format!(
            "case {} of a workflow that only goes forward undoes",
            case.id
        )),
        Event::Attempted { mode, .. } if forward && mode.is_undo() => {
            Err(format!("case {} takes back what it must not", case.id))
        }
        Event::Attempted { place, attempt, .. } => {
            let before = case.instance(*place).map(|instance| instance.attempt);
            if before.is_none_or(|before| before + 1 != *attempt) {
                return Err(format!(
                    "case {}: attempt {attempt} follows {before:?}",
                    case.id
                ));
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// What the layer above must be told after an event, as a name.
fn told(case: &Case, event: &Event) -> Option<String> {
    let action = |place: &Place| {
        matches!(
            case.step(place.step).map(|step| &step.work),
            Some(Work::Action { .. })
        )
    };
    match event {
        Event::Done { place, .. } if action(place) => Some(format!("{place:?} done")),
        Event::Undone { place } if action(place) => Some(format!("{place:?} undone")),
        Event::Unknown { place, .. } if action(place) => Some(format!("{place:?} unknown")),
        Event::Overdue { place } => Some(format!("{place:?} overdue")),
        Event::Parked { place, .. } => Some(format!("{place:?} parked")),
        Event::StepStuck { step, .. } => Some(format!("{step:?} stuck")),
        Event::DeadlinePassed { .. } => Some("late".to_owned()),
        Event::Closed { state } => Some(state.as_str().to_owned()),
        _ => None,
    }
}

/// The questions put to people, of which the layer above must be told, too.
fn asked(case: &Case, event: &Event) -> Vec<String> {
    let person = |ask: &Ask| !matches!(ask, Ask::Signal { .. });
    match event {
        Event::Asked { place, ask, .. } if person(ask) => vec![format!("{place:?} asked")],
        Event::StepPlanned { step, instances } => {
            let first = case.step_run(*step).map_or(0, |run| run.first);
            let numbered = (first..).zip(instances);
            numbered
                .filter(|(_, planned)| planned.ask.as_ref().is_some_and(person))
                .map(|(number, _)| format!("{:?} asked", Place::new(*step, number)))
                .collect()
        }
        _ => Vec::new(),
    }
}

fn same_outcomes(
    batch: &Batch,
    mut expected: BTreeMap<(CaseId, String), i64>,
) -> Result<(), String> {
    for outcome in &batch.outcomes {
        let told = match &outcome.kind {
            OutcomeKind::Step { place, ending, .. } => {
                let ending = match ending {
                    StepEnding::Done => "done",
                    StepEnding::Undone => "undone",
                    StepEnding::Unknown => "unknown",
                };
                format!("{place:?} {ending}")
            }
            OutcomeKind::Closed { state } => state.as_str().to_owned(),
            OutcomeKind::Asked { place, .. } => format!("{place:?} asked"),
            OutcomeKind::Overdue { place, .. } => format!("{place:?} overdue"),
            OutcomeKind::Parked {
                index,
                instance: Some(instance),
                ..
            } => format!("{:?} parked", Place::new(*index, *instance)),
            OutcomeKind::Parked { index, .. } => format!("{index:?} stuck"),
            OutcomeKind::DeadlinePassed { .. } => "late".to_owned(),
        };
        *expected.entry((outcome.case, told)).or_default() -= 1;
    }
    match expected.into_iter().find(|(_, count)| *count != 0) {
        None => Ok(()),
        Some(((case, told), count)) => Err(format!(
            "the layer above was told `{told}` of case {case} {} time too {}",
            count.abs(),
            if count > 0 { "few" } else { "often" }
        )),
    }
}

fn proves(leaf: &[u8], row: Option<&HistoryRow>) -> Result<(), String> {
    let row = row.ok_or("evidence of no transition")?;
    let leaf: Value = serde_json::from_slice(leaf).map_err(|error| error.to_string())?;
    let events: Vec<Value> =
        serde_json::from_str(&row.events).map_err(|error| error.to_string())?;
    let names: Vec<&Value> = events.iter().map(|event| &event["event"]).collect();
    let proven: Vec<&Value> = leaf["events"].as_array().into_iter().flatten().collect();
    let same = leaf["sequence"] == row.version
        && leaf["case"] == row.case.to_string()
        && leaf["input"] == row.input
        && names == proven;
    if !same {
        return Err(format!("evidence {leaf} does not prove {row:?}"));
    }
    Ok(())
}

/// The rows are those of the case that the history makes.
fn same_as_stored(case: &Case, tables: &Tables) -> Result<(), String> {
    let key = (case.shard, case.id);
    let (Some(head), Some(state)) = (tables.heads.get(&key), tables.states.get(&key)) else {
        return Err(format!("case {} has no row", case.id));
    };
    let steps = tables
        .steps
        .range((case.shard, case.id, 0, i64::MIN)..=(case.shard, case.id, u16::MAX, i64::MAX));
    let stored = StoredCase {
        head: head.clone(),
        state: state.clone(),
        steps: steps.map(|(_, row)| row.clone()).collect(),
    };
    let stored = assemble(Arc::clone(&case.definition), stored)
        .map_err(|error| format!("case {}: {error}", case.id))?;
    if stored != *case {
        return Err(difference(&stored, case));
    }
    Ok(())
}

fn difference(stored: &Case, played: &Case) -> String {
    let (stored_text, played_text) = (format!("{stored:#?}"), format!("{played:#?}"));
    let differing = stored_text
        .lines()
        .zip(played_text.lines())
        .find(|(a, b)| a != b);
    format!(
        "case {} at version {}: its rows are not what its history makes: {differing:?}",
        played.id, played.version
    )
}

/// The timers are those that the case waits for.
fn same_timers(case: &Case, tables: &Tables) -> Result<(), String> {
    let mut expected = BTreeSet::new();
    let mut waits = |target: TimerTarget, due| {
        expected.insert(TimerRow {
            shard: case.shard,
            due,
            case: case.id,
            target,
        });
    };
    if !case.state.is_closed() {
        if let (Some(due), false) = (case.deadline_at, case.deadline_passed) {
            waits(TimerTarget::Case, due);
        }
        // A held case starts nothing: none of its timers stands but the deadline's.
        let steps = if case.paused.is_some() {
            &[]
        } else {
            case.steps.as_slice()
        };
        for (step, run) in (0..).map(StepIndex).zip(steps) {
            // The timer of a case on its way to its end may have fired for nothing.
            let goes_on = matches!(case.state, CaseState::Running | CaseState::Parked);
            if let StepState::Delayed { due } = run.state
                && (goes_on || stands(case, TimerTarget::Step(step), due, tables))
            {
                waits(TimerTarget::Step(step), due);
            }
            for (number, instance) in (0..).zip(&run.instances) {
                let target = TimerTarget::Instance(Place::new(step, number));
                match &instance.state {
                    InstanceState::Waiting { due, .. } => waits(target, *due),
                    InstanceState::Asking { due: Some(due), .. } => waits(target, *due),
                    _ => {}
                }
            }
        }
    }
    let stored: BTreeSet<TimerRow> = tables
        .timers
        .iter()
        .filter(|timer| timer.case == case.id)
        .copied()
        .collect();
    if stored != expected {
        let (more, fewer) = (stored.difference(&expected), expected.difference(&stored));
        return Err(format!(
            "case {} at version {}: timers that nobody waits for: {:?}; waits without a timer: {:?}",
            case.id,
            case.version,
            more.collect::<Vec<_>>(),
            fewer.collect::<Vec<_>>()
        ));
    }
    Ok(())
}

fn stands(case: &Case, target: TimerTarget, due: Timestamp, tables: &Tables) -> bool {
    tables.timers.contains(&TimerRow {
        shard: case.shard,
        due,
        case: case.id,
        target,
    })
}

/// The counters say what the instances say.
fn counted(case: &Case) -> Result<(), String> {
    let (mut in_flight, mut parked, mut unfinished, mut steps_done) = (0, 0, 0, 0);
    for run in &case.steps {
        in_flight += u32::from(run.state == StepState::Planning);
        parked += u32::from(run.state == StepState::Stuck);
        steps_done += u32::from(matches!(run.state, StepState::Done | StepState::Skipped));
        for instance in &run.instances {
            in_flight += u32::from(matches!(instance.state, InstanceState::Running { .. }));
            parked += u32::from(matches!(instance.state, InstanceState::Parked { .. }));
            unfinished += u32::from(!instance.state.is_finished());
        }
    }
    let closed = case.state.is_closed();
    let right = case.in_flight == in_flight
        && (closed || case.parked == parked)
        && (case.definition.on_failure == OnFailure::Undo || case.unfinished == unfinished)
        && case.steps_done == steps_done;
    if !right {
        return Err(format!(
            "case {} at version {} ({}): counted {in_flight} in flight, {parked} parked, {unfinished} unfinished, \
             {steps_done} steps done; it says {}, {}, {}, {}",
            case.id,
            case.version,
            case.state.as_str(),
            case.in_flight,
            case.parked,
            case.unfinished,
            case.steps_done
        ));
    }
    if case.state == CaseState::Ending && in_flight == 0 {
        return Err(format!("case {} is ending and waits for nothing", case.id));
    }
    if closed && (in_flight > 0 || (unfinished > 0 && case.state != CaseState::Incomplete)) {
        return Err(format!("case {} is closed with work left", case.id));
    }
    Ok(())
}
