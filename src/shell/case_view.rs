//! A case as a person wants to see it: where it stands, why it waits, and when it acts next.
//!
//! Pure: what was read from the database goes in, a view that prints and serialises comes out.

use std::collections::{BTreeMap, VecDeque};

use chrono::{DateTime, Utc};
use engine::core::case::{
    Ask, Case, CaseState, Ending, Failure, Instance, InstanceState, Mode, StepRun, StepState,
    Verification, WaitReason,
};
use engine::core::definition::{Definition, Start, Step};
use engine::core::event::Event;
use engine::core::id::{DefinitionHash, Place, StepIndex};
use engine::store::{EvidenceRow, HistoryRow};
use serde::Serialize;
use serde_json::Value;
use workflows::directory::{SystemState, SystemStateRow};

/// What stands around a case and explains why it waits.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// The cases of the same subject that this one waits behind: identifier, workflow, state.
    pub ahead: Vec<(String, String, String)>,
    pub systems: Vec<SystemStateRow>,
    /// Whether any node works on this database now.
    pub node_alive: bool,
}

#[derive(Debug, Clone, Serialize)]
pub struct CaseView {
    pub id: String,
    pub workflow: String,
    pub definition: String,
    pub subject: String,
    pub generation: u32,
    pub lane: &'static str,
    pub state: &'static str,
    pub ending: Option<&'static str>,
    /// Who holds the case; it starts nothing until it is resumed.
    pub paused: Option<PauseView>,
    pub initiator: String,
    pub received_at: DateTime<Utc>,
    pub effective_at: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    pub closed_at: Option<DateTime<Utc>>,
    pub deadline_at: Option<DateTime<Utc>>,
    pub deadline_passed: bool,
    pub input: Value,
    pub waits: Vec<Wait>,
    pub steps: Vec<StepView>,
}

#[derive(Debug, Clone, Serialize)]
pub struct PauseView {
    pub at: DateTime<Utc>,
    pub by: String,
    pub reason: String,
}

/// One reason why a case does not go on, or what it is doing.
#[derive(Debug, Clone, Serialize)]
pub struct Wait {
    pub step: Option<String>,
    pub instance: Option<u32>,
    /// What it is about: `crm`, `crm · sales`.
    pub label: String,
    pub kind: WaitKind,
    pub why: String,
    pub since: Option<DateTime<Utc>>,
    /// When something happens by itself.
    pub next_at: Option<DateTime<Utc>>,
    /// Whether a person has to act.
    pub needs_person: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitKind {
    Paused,
    Parked,
    Approval,
    Task,
    Signal,
    SystemAway,
    Queued,
    Retry,
    Delay,
    InFlight,
}

#[derive(Debug, Clone, Serialize)]
pub struct StepView {
    pub id: String,
    pub uses: String,
    pub needs: Vec<usize>,
    pub state: &'static str,
    /// Whether the step has one instance for each item of a list.
    pub fan_out: bool,
    /// How many instances are in each state.
    pub counts: BTreeMap<&'static str, usize>,
    pub verified: usize,
    pub attested: usize,
    pub unverified: usize,
    /// Instances of earlier runs of the step: what they did stands in the timeline.
    pub earlier: usize,
    pub failure: Option<String>,
    pub started_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
    pub instances: Vec<InstanceView>,
}

#[derive(Debug, Clone, Serialize)]
pub struct InstanceView {
    pub index: u32,
    pub label: String,
    pub state: &'static str,
    pub attempt: u32,
    pub failures: u32,
    pub verification: Option<Verification>,
    pub failure: Option<Failure>,
    pub item: Value,
    pub output: Value,
    pub changed_at: DateTime<Utc>,
}

/// Makes the view of a case.
#[must_use]
pub fn view(case: &Case, surroundings: &Surroundings) -> CaseView {
    let steps = case
        .definition
        .steps
        .iter()
        .zip(&case.steps)
        .map(|(step, run)| step_view(step, run))
        .collect();
    CaseView {
        id: case.id.to_string(),
        workflow: case.definition.name.clone(),
        definition: case.definition.hash.to_string(),
        subject: case.subject.0.clone(),
        generation: case.generation,
        lane: case.definition.lane.as_str(),
        state: case.state.as_str(),
        ending: case.ending.map(Ending::as_str),
        paused: case.paused.as_ref().map(|pause| PauseView {
            at: pause.at,
            by: pause.by.0.clone(),
            reason: pause.reason.clone(),
        }),
        initiator: case.initiator.0.clone(),
        received_at: case.received_at,
        effective_at: case.effective_at,
        created_at: case.created_at,
        closed_at: case.closed_at,
        deadline_at: case.deadline_at,
        deadline_passed: case.deadline_passed,
        input: (*case.input).clone(),
        waits: waits(case, surroundings),
        steps,
    }
}

fn step_view(step: &Step, run: &StepRun) -> StepView {
    let mut counts = BTreeMap::new();
    let (mut verified, mut attested, mut unverified) = (0, 0, 0);
    for instance in run.present() {
        *counts.entry(instance.state.as_str()).or_insert(0) += 1;
        match instance.verification {
            Some(Verification::Verified) => verified += 1,
            Some(Verification::Attested { .. }) => attested += 1,
            Some(Verification::Unverified { .. }) => unverified += 1,
            Some(Verification::NotNeeded) | None => {}
        }
    }
    let changes = run.present().iter().map(|instance| instance.changed_at);
    StepView {
        id: step.id.clone(),
        uses: step.work.uses().to_owned(),
        needs: step.needs.iter().map(|need| usize::from(need.0)).collect(),
        state: run.state.as_str(),
        fan_out: step.for_each.is_some(),
        counts,
        verified,
        attested,
        unverified,
        earlier: usize::try_from(run.first).unwrap_or(usize::MAX),
        failure: run.failure.as_ref().map(|failure| failure.message.clone()),
        started_at: None,
        finished_at: run.state.is_finished().then(|| changes.max()).flatten(),
        instances: run
            .instances
            .iter()
            .enumerate()
            .skip(usize::try_from(run.first).unwrap_or(usize::MAX))
            .map(|(index, instance)| InstanceView {
                index: u32::try_from(index).unwrap_or(u32::MAX),
                label: label(&instance.item, &instance.with),
                state: instance.state.as_str(),
                attempt: instance.attempt,
                failures: instance.failures,
                verification: instance.verification.clone(),
                failure: instance.failure.clone(),
                item: instance.item.clone(),
                output: instance.output.clone(),
                changed_at: instance.changed_at,
            })
            .collect(),
    }
}

/// What an instance is about, in a few words: `crm`, `crm · sales`.
#[must_use]
pub fn label(item: &Value, with: &Value) -> String {
    let field = |name: &str| {
        [item, with]
            .into_iter()
            .find_map(|part| part.get(name).and_then(Value::as_str))
            .filter(|text| !text.is_empty())
    };
    match (field("system"), field("entitlement").or(field("name"))) {
        (Some(system), Some(detail)) => format!("{system} · {detail}"),
        (Some(system), None) => system.to_owned(),
        (None, _) => match item {
            Value::Null => String::new(),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        },
    }
}

/// The system an instance is about.
#[must_use]
pub fn system_of(instance: &Instance) -> Option<&str> {
    [&instance.item, &instance.with, &instance.output]
        .into_iter()
        .find_map(|part| part.get("system").and_then(Value::as_str))
}

/// Everything the case waits for, what needs a person first.
fn waits(case: &Case, surroundings: &Surroundings) -> Vec<Wait> {
    let mut waits = Vec::new();
    if let Some(pause) = &case.paused {
        waits.push(Wait {
            step: None,
            instance: None,
            label: String::new(),
            kind: WaitKind::Paused,
            why: format!(
                "paused by {}: {}{}",
                pause.by.0,
                pause.reason,
                held_back(case)
            ),
            since: Some(pause.at),
            next_at: None,
            needs_person: true,
        });
    }
    if case.state == CaseState::Queued {
        let ahead: Vec<String> = surroundings
            .ahead
            .iter()
            .map(|(id, workflow, state)| format!("case {} ({workflow}, {state})", short(id)))
            .collect();
        let why = if ahead.is_empty() {
            no_node(surroundings, "it is next; a node will start it").to_owned()
        } else {
            format!("queued behind {}", ahead.join(", "))
        };
        waits.push(Wait {
            step: None,
            instance: None,
            label: String::new(),
            kind: WaitKind::Queued,
            why,
            since: Some(case.created_at),
            next_at: None,
            needs_person: false,
        });
    }
    if !case.state.is_closed() {
        for (index, (step, run)) in case.definition.steps.iter().zip(&case.steps).enumerate() {
            waits.extend(step_wait(step, run, surroundings));
            for (number, instance) in run.instances.iter().enumerate() {
                let place = Place::new(
                    StepIndex(u16::try_from(index).unwrap_or(u16::MAX)),
                    u32::try_from(number).unwrap_or(u32::MAX),
                );
                waits.extend(instance_wait(step, place, instance, surroundings));
            }
        }
    }
    if case.paused.is_some() {
        // Nothing of it happens by itself.
        for wait in &mut waits {
            wait.next_at = None;
        }
    }
    waits.sort_by_key(|wait| (wait.kind, wait.next_at));
    waits
}

/// What a paused case would do.
fn held_back(case: &Case) -> String {
    let unfinished = |run: &StepRun| !run.state.is_finished() && run.state != StepState::Cancelled;
    let steps: Vec<&str> = case
        .definition
        .steps
        .iter()
        .zip(&case.steps)
        .filter(|(_, run)| unfinished(run))
        .map(|(step, _)| step.id.as_str())
        .collect();
    if steps.is_empty() {
        return String::new();
    }
    match case.state {
        CaseState::Undoing => "; it does not go on taking back what it did".to_owned(),
        _ => format!("; held back: {}", steps.join(", ")),
    }
}

fn step_wait(step: &Step, run: &StepRun, surroundings: &Surroundings) -> Option<Wait> {
    let (kind, why, next_at) = match run.state {
        StepState::Delayed { due } => {
            let why = match &step.start {
                Start::After(span) => format!("starts {span} after what it needs"),
                Start::At(_) | Start::AtOnce => "starts at its time".to_owned(),
            };
            (WaitKind::Delay, why, Some(due))
        }
        StepState::Stuck => {
            let failure = run
                .failure
                .as_ref()
                .map_or("no reason given", |failure| failure.message.as_str());
            (
                WaitKind::Parked,
                format!("cannot be planned: {failure}"),
                None,
            )
        }
        StepState::Planning => (
            WaitKind::InFlight,
            no_node(surroundings, "facts are being read").to_owned(),
            None,
        ),
        _ => return None,
    };
    Some(Wait {
        step: Some(step.id.clone()),
        instance: None,
        label: String::new(),
        kind,
        why,
        since: None,
        next_at,
        needs_person: kind == WaitKind::Parked,
    })
}

fn instance_wait(
    step: &Step,
    place: Place,
    instance: &Instance,
    surroundings: &Surroundings,
) -> Option<Wait> {
    let failure = || {
        instance
            .failure
            .as_ref()
            .map(|failure| failure.message.as_str())
    };
    let mut since = Some(instance.changed_at);
    let (kind, why, next_at) = match &instance.state {
        InstanceState::Running { .. } if held(instance, surroundings).is_some() => {
            // It has not left: the queue of a system that is away lets nothing out.
            let row = held(instance, surroundings);
            since = row.and_then(|row| row.since).or(since);
            let reason = row
                .and_then(|row| row.reason.as_deref())
                .unwrap_or("no reason given");
            let system = row.map_or("the system", |row| row.system.as_str());
            (
                WaitKind::SystemAway,
                format!(
                    "attempt {} is held back, `{system}` is away: {reason}",
                    instance.attempt
                ),
                row.and_then(|row| row.until),
            )
        }
        InstanceState::Running { mode } => {
            let doing = match mode {
                Mode::Do => format!("attempt {} is in flight", instance.attempt),
                Mode::ReadBack => "is being read back, because an answer was lost".to_owned(),
                Mode::Poll { .. } => "the system is asked whether it is done".to_owned(),
                Mode::Undo => format!("attempt {} to take it back is in flight", instance.attempt),
                Mode::UndoReadBack => "the undo is being read back".to_owned(),
            };
            (
                WaitKind::InFlight,
                no_node(surroundings, &doing).to_owned(),
                None,
            )
        }
        InstanceState::Waiting { due, why, .. } => {
            let (kind, text, at) = waiting(instance, *why, *due, surroundings);
            if let (WaitKind::SystemAway, Some(held)) = (kind, held(instance, surroundings)) {
                since = held.since.or(since);
            }
            (kind, text, at)
        }
        InstanceState::Asking {
            ask,
            due,
            approvals,
        } => {
            let (kind, why) = asking(ask, approvals.len());
            (kind, why, *due)
        }
        InstanceState::Parked { mode } => {
            let what = if mode.is_undo() {
                "taking it back failed for good"
            } else {
                "failed for good"
            };
            (
                WaitKind::Parked,
                format!("{what}: {}", failure().unwrap_or("no reason given")),
                None,
            )
        }
        _ => return None,
    };
    Some(Wait {
        step: Some(step.id.clone()),
        instance: step.for_each.is_some().then_some(place.instance.0),
        label: label(&instance.item, &instance.with),
        kind,
        why,
        since,
        next_at,
        needs_person: matches!(
            kind,
            WaitKind::Parked | WaitKind::Approval | WaitKind::Task | WaitKind::Signal
        ),
    })
}

fn held<'a>(instance: &Instance, surroundings: &'a Surroundings) -> Option<&'a SystemStateRow> {
    let system = system_of(instance)?;
    surroundings
        .systems
        .iter()
        .find(|row| row.system == system && row.state == SystemState::Held)
}

fn waiting(
    instance: &Instance,
    why: WaitReason,
    due: DateTime<Utc>,
    surroundings: &Surroundings,
) -> (WaitKind, String, Option<DateTime<Utc>>) {
    let failure = instance
        .failure
        .as_ref()
        .map_or("", |failure| failure.message.as_str());
    match why {
        WaitReason::Retry => (
            WaitKind::Retry,
            format!("attempt {} failed: {failure}", instance.attempt),
            Some(due),
        ),
        WaitReason::SystemAway => match held(instance, surroundings) {
            Some(row) => {
                let reason = row.reason.as_deref().unwrap_or(failure);
                let next = row.until.map_or(due, |until| until.max(due));
                (
                    WaitKind::SystemAway,
                    format!("`{}` is away: {reason}", row.system),
                    Some(next),
                )
            }
            None => {
                let system = system_of(instance).unwrap_or("the system");
                (
                    WaitKind::SystemAway,
                    format!("`{system}` was away: {failure}"),
                    Some(due),
                )
            }
        },
        WaitReason::NotBefore => (
            WaitKind::Retry,
            format!("the system named the time: {failure}"),
            Some(due),
        ),
        WaitReason::Accepted => (
            WaitKind::Retry,
            "the system works on it".to_owned(),
            Some(due),
        ),
        WaitReason::AnswerLost => (
            WaitKind::Retry,
            format!("the answer was lost and will be read back: {failure}"),
            Some(due),
        ),
        WaitReason::Paused => (
            WaitKind::Retry,
            "did not leave, because the case was paused".to_owned(),
            Some(due),
        ),
    }
}

fn asking(ask: &Ask, approvals: usize) -> (WaitKind, String) {
    match ask {
        Ask::Approval {
            ask,
            quorum,
            question,
            ..
        } => {
            let question = question
                .as_deref()
                .map(|text| format!(": {text}"))
                .unwrap_or_default();
            let so_far = if *quorum > 1 {
                format!(" ({approvals} of {quorum} so far)")
            } else {
                String::new()
            };
            (
                WaitKind::Approval,
                format!("asks {}{so_far}{question}", ask.join(", ")),
            )
        }
        Ask::Task {
            title, assignee, ..
        } => (WaitKind::Task, format!("{assignee} has to: {title}")),
        Ask::Signal { name } => (WaitKind::Signal, format!("waits for the signal `{name}`")),
    }
}

fn no_node<'a>(surroundings: &Surroundings, otherwise: &'a str) -> &'a str {
    if surroundings.node_alive {
        otherwise
    } else {
        "no node is running on this database; start `tenure serve`"
    }
}

/// Enough of an identifier to find the case again: its first half is the time.
#[must_use]
pub fn short(id: &str) -> &str {
    id.get(..13).unwrap_or(id)
}

/// One line of the timeline.
#[derive(Debug, Clone, Serialize)]
pub struct TimelineLine {
    pub at: DateTime<Utc>,
    pub version: u64,
    pub by: String,
    pub event: &'static str,
    pub step: Option<String>,
    pub label: String,
    pub text: String,
    /// When an independent read showed the effect.
    pub verified_at: Option<DateTime<Utc>>,
    pub system: Option<String>,
    pub operation: Option<String>,
}

/// Versions of its workflow that a case ran under before, by their hashes.
pub type Earlier = BTreeMap<DefinitionHash, Definition>;

/// The timeline of a case: what the history says, with what the evidence knows of each transition. `earlier` has the
/// versions before the present one: an event counts the steps of the version it happened under.
#[must_use]
pub fn timeline(
    case: &Case,
    history: &[HistoryRow],
    evidence: &[EvidenceRow],
    earlier: &Earlier,
) -> Vec<TimelineLine> {
    let mut ahead: VecDeque<Move> = moves(history).into();
    let leaves: BTreeMap<u64, Value> = evidence
        .iter()
        .filter_map(|row| Some((row.version, serde_json::from_slice(&row.leaf).ok()?)))
        .collect();
    let mut lines = Vec::new();
    for row in history {
        let events: Vec<Event> = serde_json::from_str(&row.events).unwrap_or_default();
        let leaf = leaves.get(&row.version);
        for event in &events {
            let Some(text) = told(event) else { continue };
            let place = event.place();
            if matches!(event, Event::Migrated { .. }) {
                ahead.pop_front();
            }
            let index = place.map(|place| place.step).or(step_of(event));
            let definition = match ahead.front() {
                None => Some(&*case.definition),
                Some(next) => earlier.get(&next.from),
            };
            let step = index.and_then(|index| definition?.step(index));
            let instance = place
                .and_then(|place| place_now(place, &ahead))
                .and_then(|place| case.instance(place));
            let field = |path: &str| {
                leaf.and_then(|leaf| leaf.pointer(path))
                    .and_then(Value::as_str)
            };
            let proves = matches!(event, Event::Done { .. } | Event::Undone { .. });
            lines.push(TimelineLine {
                at: row.at,
                version: row.version,
                by: row.by.clone(),
                event: event.name(),
                step: step.map(|step| step.id.clone()),
                label: instance
                    .map(|instance| label(&instance.item, &instance.with))
                    .unwrap_or_default(),
                text,
                verified_at: field("/clocks/verified")
                    .filter(|_| proves)
                    .and_then(|time| time.parse().ok()),
                system: field("/system").filter(|_| proves).map(str::to_owned),
                operation: field("/operation").filter(|_| proves).map(str::to_owned),
            });
        }
    }
    lines
}

/// A move to another version.
struct Move {
    from: DefinitionHash,
    steps: Vec<Option<StepIndex>>,
}

fn moves(history: &[HistoryRow]) -> Vec<Move> {
    let migrations = history.iter().filter(|row| row.input == "migrate");
    migrations
        .flat_map(|row| serde_json::from_str::<Vec<Event>>(&row.events).unwrap_or_default())
        .filter_map(|event| match event {
            Event::Migrated { from, steps, .. } => Some(Move { from, steps }),
            _ => None,
        })
        .collect()
}

/// The versions that a case left, as its history names them.
#[must_use]
pub fn versions_left(history: &[HistoryRow]) -> Vec<DefinitionHash> {
    moves(history).into_iter().map(|it| it.from).collect()
}

/// Where an instance stands after the moves that lie ahead.
fn place_now(place: Place, ahead: &VecDeque<Move>) -> Option<Place> {
    ahead.iter().try_fold(place, |place, next| {
        let step = next.steps.get(usize::from(place.step.0)).copied()??;
        Some(Place { step, ..place })
    })
}

fn step_of(event: &Event) -> Option<StepIndex> {
    match event {
        Event::StepDelayed { step, .. }
        | Event::StepPlanning { step }
        | Event::StepPlanned { step, .. }
        | Event::StepSkipped { step, .. }
        | Event::StepStuck { step, .. }
        | Event::StepRerun { step, .. } => Some(*step),
        _ => None,
    }
}

/// An event in words; `None` for those that only prepare another.
fn told(event: &Event) -> Option<String> {
    let failed = |failure: &Failure| failure.message.clone();
    Some(match event {
        Event::Started { .. } => "started".to_owned(),
        Event::StepPlanning { .. } => return None,
        Event::StepDelayed { due, .. } => {
            format!("waits until {}", due.format("%Y-%m-%d %H:%M:%S"))
        }
        Event::StepPlanned { instances, .. } => match instances.as_slice() {
            [one] if one.item.is_null() && one.ask.is_none() => return None,
            many => format!("planned, {} to do", many.len()),
        },
        Event::StepSkipped { reason, by, .. } => match by {
            Some(by) => format!("skipped by {}: {reason}", by.0),
            None => format!("skipped: {reason}"),
        },
        Event::StepStuck { failure, .. } => format!("cannot be planned: {}", failed(failure)),
        Event::Attempted {
            attempt, mode, by, ..
        } => {
            let what = match mode {
                Mode::Do => "tried again",
                Mode::ReadBack => "read back",
                Mode::Poll { .. } => "asked whether it is done",
                Mode::Undo => "being taken back",
                Mode::UndoReadBack => "undo read back",
            };
            match by {
                Some(by) => format!("{what} for {}, attempt {attempt}", by.0),
                None => format!("{what}, attempt {attempt}"),
            }
        }
        Event::Waiting {
            why, failure, due, ..
        } => {
            let why = match why {
                WaitReason::Retry => "failed",
                WaitReason::SystemAway => "system away",
                WaitReason::NotBefore => "told to come back",
                WaitReason::Accepted => "accepted by the system",
                WaitReason::AnswerLost => "answer lost",
                WaitReason::Paused => return Some("held back: the case is paused".to_owned()),
            };
            let detail = failure
                .as_ref()
                .map(|failure| format!(": {}", failed(failure)))
                .unwrap_or_default();
            format!("{why}{detail}; next at {}", due.format("%H:%M:%S"))
        }
        Event::Asked { ask, .. } => asking(ask, 0).1,
        Event::Approved { by, note, .. } if note.is_empty() => format!("approved by {}", by.0),
        Event::Approved { by, note, .. } => format!("approved by {}: {note}", by.0),
        Event::Reassigned {
            ask, by, reason, ..
        } => {
            format!("{}; by {}: {reason}", asking(ask, 0).1, by.0)
        }
        Event::Overdue { .. } => "nobody answered in time; escalated".to_owned(),
        Event::Done { verification, .. } => match verification {
            Verification::Verified => "done, verified".to_owned(),
            Verification::Attested { by } => format!("done, attested by {by}"),
            Verification::NotNeeded => "done".to_owned(),
            Verification::Unverified { reason } => format!("done, unverified: {reason}"),
        },
        Event::Parked { failure, .. } => format!("parked: {}", failed(failure)),
        Event::Failed { failure, .. } => format!("failed: {}", failed(failure)),
        Event::GivenUp { by, reason, .. } => format!("given up by {}: {reason}", by.0),
        Event::Cancelled { .. } => "cancelled".to_owned(),
        Event::Unknown { reason, .. } => format!("left unknown: {reason}"),
        Event::Undone { .. } => "taken back".to_owned(),
        Event::UndoStopped { .. } => "not taken back after all".to_owned(),
        Event::DeadlinePassed { escalate_to } => match escalate_to {
            Some(who) => format!("deadline passed; {who} was told"),
            None => "deadline passed".to_owned(),
        },
        Event::Ending {
            ending,
            by,
            reason,
            forced,
            ..
        } => match ending {
            Ending::Cancelled if *forced => format!("ended by force by {}: {reason}", by.0),
            Ending::Cancelled => format!("cancelled by {}: {reason}", by.0),
            Ending::Preempted => format!("pre-empted: {reason}"),
            Ending::Superseded => format!("superseded: {reason}"),
            Ending::Undoing => format!("will take back what it did: {reason}"),
        },
        Event::UndoStarted => "takes back what it did".to_owned(),
        Event::Paused { by, reason } => format!("paused by {}: {reason}", by.0),
        Event::Resumed { by, reason } => format!("resumed by {}: {reason}", by.0),
        Event::StepRerun { by, reason, .. } => format!("runs again for {}: {reason}", by.0),
        Event::MergedInto { case } => format!("merged into case {case}"),
        Event::Absorbed { case } => format!("does the work of case {case} too"),
        Event::Closed { state } => format!("closed, {}", state.as_str()),
        Event::Migrated {
            from,
            to,
            by,
            reason,
            ..
        } => format!(
            "moved from version {} to {} by {}: {reason}",
            from.short(),
            to.short(),
            by.0
        ),
    })
}
