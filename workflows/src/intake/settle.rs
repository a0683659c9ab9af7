//! From events to cases, in one transaction: what the sources said becomes durable together with what follows
//! from it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use engine::core::Timestamp;
use engine::core::conflict::OnConflict;
use engine::core::definition::Definition;
use engine::core::id::{Actor, CaseId, ShardId, Subject};
use engine::runner::{Definitions, Message, StartCase};
use engine::store::{InboxRow, StoreError, Transaction};
use serde_json::{Value, json};
use uuid::Uuid;

use super::person;
use crate::actions::APPROVED_BY;
use crate::directory::{
    EventRow, EventStatus, IdentityRow, IdentityStatus, events_in, for_update, introduce, mark,
    put_events, put_identities,
};
use crate::sources::{BusinessEvent, EventType};
use crate::timeline::{Belief, Class, Timeline, class};

/// Makes case and message identifiers out of what caused them: the same cause is the same case.
const NAMESPACE: Uuid = Uuid::from_u128(0x6f1c_0f2e_9a37_4f0b_8d55_3c9e_71b2_44aa);

/// Rolls back when somebody was introduced meanwhile by another transaction, which no lock could hold back: all that
/// was decided here was decided without knowing of it.
pub(super) const INTRODUCED: &str = "somebody new was introduced by another transaction";

/// What came of a batch of events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Settled {
    /// Events that were not known before, by what became of them.
    pub events: BTreeMap<EventStatus, u64>,
    /// Cases by workflow.
    pub cases: BTreeMap<String, Vec<CaseId>>,
    /// Subjects that nobody has introduced; nothing was written for anybody.
    pub unknown: Vec<String>,
}

/// Who sends events, and when they came.
pub(super) struct Origin<'a> {
    pub definitions: &'a Definitions,
    pub initiator: &'a Actor,
    pub now: Timestamp,
    /// Whether an event that is known already happens again: a file says so that differs from the one before it.
    pub repeats: bool,
    /// Whether the initiator is a person who approved exactly these events.
    pub approved: bool,
}

/// One person, and everything that is being decided about them.
struct Person {
    shard_id: i32,
    before: Option<IdentityRow>,
    /// What was said before now.
    known: Vec<EventRow>,
    fresh: Vec<EventRow>,
}

/// What follows for one person.
#[derive(Default)]
struct Outcome {
    identity: Option<IdentityRow>,
    /// Known events whose status changed.
    marked: Vec<EventRow>,
    fresh: Vec<EventRow>,
    starts: Vec<StartCase>,
}

/// Takes `events` in, and starts what has become effective for `subjects`, whether new or waiting.
pub(super) async fn settle(
    transaction: &mut Transaction<'_>,
    origin: &Origin<'_>,
    subjects: &BTreeSet<(i32, String)>,
    events: &[BusinessEvent],
) -> Result<(Settled, Vec<InboxRow>, Vec<tracing::Span>), StoreError> {
    let keys: Vec<(i32, String)> = subjects.iter().cloned().collect();
    let mut people: BTreeMap<String, Person> = keys
        .iter()
        .map(|(shard_id, key)| (key.clone(), Person::unknown(*shard_id)))
        .collect();
    for identity in for_update(transaction, &keys).await? {
        if let Some(person) = people.get_mut(&identity.identity_key) {
            person.before = Some(identity);
        }
    }
    for row in events_in(transaction, &keys).await? {
        if let Some(person) = people.get_mut(&row.subject) {
            person.known.push(row);
        }
    }
    let mut settled = Settled::default();
    for event in events {
        if let Some(person) = people.get_mut(event.subject.as_str())
            && !person.hear(event, origin)
        {
            settled.unknown.push(event.subject.as_str().to_owned());
        }
    }
    if !settled.unknown.is_empty() {
        return Ok((settled, Vec::new(), Vec::new()));
    }
    let mut inbox = Vec::new();
    let mut traced = Vec::new();
    let (mut introduced, mut identities) = (Vec::new(), Vec::new());
    let (mut fresh, mut marked) = (Vec::new(), Vec::new());
    for person in people.into_values() {
        let (shard_id, before) = (person.shard_id, person.before.clone());
        let outcome = person.settle(origin);
        for event in &outcome.fresh {
            *settled.events.entry(event.status).or_default() += 1;
        }
        fresh.extend(outcome.fresh);
        marked.extend(outcome.marked);
        if before.is_none() {
            introduced.extend(outcome.identity);
        } else if outcome.identity != before {
            identities.extend(outcome.identity);
        }
        for start in outcome.starts {
            traced.extend(taken_in(&start));
            settled
                .cases
                .entry(start.workflow.clone())
                .or_default()
                .push(start.case);
            inbox.push(message(start, shard_id, origin)?);
        }
    }
    if !introduce(transaction, &introduced).await? {
        return Err(StoreError::Projection(INTRODUCED.to_owned()));
    }
    put_identities(transaction, &identities).await?;
    put_events(transaction, &fresh).await?;
    mark(transaction, &marked).await?;
    Ok((settled, inbox, traced))
}

/// The span of taking in what starts a case, from here to when it is durable. `None` when nobody traces.
fn taken_in(start: &StartCase) -> Option<tracing::Span> {
    let span = tracing::debug_span!(
        target: engine::runner::TRACE,
        "intake",
        case = %start.case,
        subject = start.subject.0,
        workflow = start.workflow,
        events = tracing::field::Empty,
    );
    if span.is_disabled() {
        return None;
    }
    let ids: Vec<&str> = causes(start).collect();
    span.record("events", ids.join(","));
    Some(span)
}

impl Person {
    fn unknown(shard_id: i32) -> Self {
        Self {
            shard_id,
            before: None,
            known: Vec::new(),
            fresh: Vec::new(),
        }
    }

    /// Takes a new event in. What is said about somebody of whom nothing is known yet is kept, except a demand that all
    /// access of theirs ends: whoever makes it has to learn that it does nothing.
    fn hear(&mut self, event: &BusinessEvent, origin: &Origin<'_>) -> bool {
        let known = |id: &str| {
            let mut rows = self.known.iter().chain(&self.fresh);
            rows.any(|row| row.event_id == id)
        };
        let again = known(&event.id).then(|| {
            // What is said of the same day in the same words has the same identifier.
            let numbers = 2..=self.known.len() + self.fresh.len() + 2;
            let mut ids = numbers.map(|number| format!("{}.{number}", event.id));
            let id = ids
                .find(|id| !known(id))
                .unwrap_or_else(|| event.id.clone());
            BusinessEvent {
                id,
                ..event.clone()
            }
        });
        let event = match &again {
            Some(_) if !origin.repeats => return true,
            Some(again) => again,
            None => event,
        };
        let nobody = self.before.is_none() && self.fresh.is_empty();
        if nobody && event.event_type == EventType::AccessRevokeNow {
            return false;
        }
        let status = EventStatus::Recorded;
        self.fresh
            .push(row_of(event, self.shard_id, status, origin));
        true
    }

    /// Compares what was believed with what is believed now.
    fn settle(self, origin: &Origin<'_>) -> Outcome {
        // What has started is not undone because somebody's clock is behind.
        let begun = self
            .known
            .iter()
            .filter(|row| matches!(row.status, EventStatus::Started | EventStatus::Recorded));
        let begun = begun.map(|row| row.effective_at).max();
        let now = begun.map_or(origin.now, |begun| begun.max(origin.now));
        let rows = self.known.iter().chain(&self.fresh);
        let events: Vec<(Timestamp, BusinessEvent)> =
            rows.map(|row| (row.received_at, row.event())).collect();
        let said = || events.iter().map(|(came, event)| (*came, event));
        let was = Timeline::of(said().take(self.known.len())).at(now);
        let timeline = Timeline::of(said());
        let is = timeline.at(now);
        let Some(before) = self.before.clone().or_else(|| {
            let (_, first) = events.first()?;
            Some(person::introduced(first, self.shard_id, now))
        }) else {
            return Outcome::default();
        };
        let mut identity = person::after(&before, &is, now);
        if let Some(newest) = self.fresh.iter().max_by_key(|row| row.version)
            && newest.version >= is.version
        {
            identity.source.clone_from(&newest.source);
        }
        let status = |row: &EventRow| {
            if timeline.superseded_by(&row.event_id).is_some() {
                EventStatus::Superseded
            } else if row.effective_at > now {
                EventStatus::Waiting
            } else {
                EventStatus::Started
            }
        };
        let is_open =
            |row: &EventRow| matches!(row.status, EventStatus::Waiting | EventStatus::Superseded);
        let mut marked: Vec<EventRow> = Vec::new();
        for mut row in self.known.iter().filter(|row| is_open(row)).cloned() {
            let status = status(&row);
            if row.status != status {
                row.status = status;
                marked.push(row);
            }
        }
        let mut fresh = self.fresh;
        for row in &mut fresh {
            row.status = status(row);
        }
        let started: BTreeSet<&str> = marked
            .iter()
            .chain(&fresh)
            .filter(|row| row.status == EventStatus::Started)
            .map(|row| row.event_id.as_str())
            .collect();
        let all = events.iter().map(|(_, event)| event);
        let news: Vec<&BusinessEvent> = all.clone().skip(self.known.len()).collect();
        let mut due: Vec<&BusinessEvent> = all
            .filter(|event| started.contains(event.id.as_str()))
            .collect();
        due.sort_by(|a, b| {
            (a.effective_at, a.version, &a.id).cmp(&(b.effective_at, b.version, &b.id))
        });
        let change = Change {
            was: &was,
            is: &is,
            before: &before,
            generation: identity.generation,
            due: &due,
            news: &news,
        };
        let starts = change.starts(origin);
        // From here on nothing is given, and whoever is said to be back begins another life, however far the case that
        // ends this one has come.
        let here = matches!(
            identity.status,
            IdentityStatus::Expected | IdentityStatus::Active
        );
        if here
            && !is.is_employed()
            && let Some(end) = starts.first()
        {
            identity.status = IdentityStatus::Leaving;
            identity.status_case = Some(end.case.to_string());
            identity.changed_at = now;
        }
        for row in marked.iter_mut().chain(&mut fresh) {
            let names = |start: &&StartCase| causes(start).any(|id| id == row.event_id);
            let cases: Vec<String> = starts
                .iter()
                .filter(names)
                .map(|start| start.case.to_string())
                .collect();
            if row.status == EventStatus::Started && cases.is_empty() {
                row.status = EventStatus::Recorded;
            }
            row.cases = cases;
        }
        Outcome {
            identity: Some(identity),
            marked,
            fresh,
            starts,
        }
    }
}

/// The events that a case is started with, by identifier.
fn causes(start: &StartCase) -> impl Iterator<Item = &str> {
    let events = start.input.get("events").and_then(Value::as_array);
    let events = events.into_iter().flatten();
    events.filter_map(|event| event.get("id").and_then(Value::as_str))
}

/// A workflow, and the events it reacts to.
struct Reaction<'a> {
    definition: Arc<Definition>,
    events: Vec<&'a BusinessEvent>,
    /// The type of event that would say what these change together, when none of them does.
    as_if: &'static str,
}

impl Reaction<'_> {
    fn to(definition: Arc<Definition>, as_if: &'static str) -> Self {
        Self {
            definition,
            events: Vec::new(),
            as_if,
        }
    }
}

/// What changed about one person.
struct Change<'a> {
    was: &'a Belief,
    is: &'a Belief,
    before: &'a IdentityRow,
    generation: u32,
    /// Events that have become effective, in the order in which they did.
    due: &'a [&'a BusinessEvent],
    /// Events that nobody knew.
    news: &'a [&'a BusinessEvent],
}

impl Change<'_> {
    /// One case for each workflow that reacts, without those that another of them would end at once.
    fn starts(&self, origin: &Origin<'_>) -> Vec<StartCase> {
        let mut by_workflow: BTreeMap<String, Reaction<'_>> = BTreeMap::new();
        for event in self.due.iter().filter(|event| self.holds(event)) {
            for definition in origin.definitions.started_by(event.event_type.as_str()) {
                by_workflow
                    .entry(definition.name.clone())
                    .or_insert_with(|| Reaction::to(definition, ""))
                    .events
                    .push(event);
            }
        }
        // What was said may change what holds now without being about now itself: an end that was moved after it
        // had come, a cancellation that was withdrawn.
        if let Some(as_if) = self.turn() {
            let reacting = origin.definitions.started_by(as_if.as_str());
            let covered = reacting
                .iter()
                .any(|definition| by_workflow.contains_key(&definition.name));
            if !covered && !self.news.is_empty() {
                for definition in reacting {
                    let mut reaction = Reaction::to(definition, as_if.as_str());
                    reaction.events.extend(self.news);
                    by_workflow.insert(reaction.definition.name.clone(), reaction);
                }
            }
        }
        let ends = |new: &Definition, other: &Definition| {
            let about = new.conflicts.about(&new.name, &other.name, other.lane);
            new.name != other.name && about == OnConflict::Preempt
        };
        let ended: BTreeSet<String> = by_workflow
            .values()
            .map(|reaction| &reaction.definition)
            .filter(|other| {
                let mut all = by_workflow.values();
                all.any(|new| ends(&new.definition, other))
            })
            .map(|other| other.name.clone())
            .collect();
        by_workflow
            .into_values()
            .filter(|reaction| !ended.contains(&reaction.definition.name))
            .filter_map(|reaction| self.start(&reaction, origin))
            .collect()
    }

    /// Whether an event that is effective says what holds now.
    fn holds(&self, event: &BusinessEvent) -> bool {
        match class(event.event_type) {
            Class::Begins | Class::Cancels | Class::Other => self.is.is_employed(),
            Class::Rescinded | Class::PlannedEnd | Class::Terminated | Class::Revoked => {
                !self.is.is_employed()
            }
        }
    }

    /// The type of event that says in which way somebody's standing changed.
    fn turn(&self) -> Option<EventType> {
        let had_left = matches!(
            self.before.status,
            IdentityStatus::Leaving | IdentityStatus::Departed
        );
        match (self.was.is_employed() && !had_left, self.is.is_employed()) {
            (false, true) => Some(EventType::TerminationCancelled),
            (true, false) => Some(EventType::TerminationEffective),
            (true, true)
                if self.was.attributes != self.is.attributes
                    || self.was.on_leave != self.is.on_leave =>
            {
                Some(EventType::Transfer)
            }
            _ => None,
        }
    }

    fn start(&self, reaction: &Reaction<'_>, origin: &Origin<'_>) -> Option<StartCase> {
        let (definition, events) = (&reaction.definition, &reaction.events);
        let first = events.first()?;
        let mut cause = vec![definition.name.as_str()];
        // The same event may be the cause of another case when its own time comes.
        cause.extend(Some(reaction.as_if).filter(|as_if| !as_if.is_empty()));
        cause.extend(events.iter().map(|event| event.id.as_str()));
        let cause = cause.join("\n");
        let effective_at = events.iter().map(|event| event.effective_at).min();
        let mut input = json!({
            "event": told(first),
            "events": events.iter().map(|event| told(event)).collect::<Vec<_>>(),
        });
        if let Value::Object(fields) = &mut input
            && origin.approved
        {
            fields.insert(APPROVED_BY.to_owned(), json!(origin.initiator.0));
        }
        Some(StartCase {
            case: CaseId::caused(&NAMESPACE, first.occurred_at, &cause),
            workflow: definition.name.clone(),
            subject: Subject(self.before.identity_key.clone()),
            generation: self.generation,
            input,
            initiator: origin.initiator.clone(),
            effective_at: effective_at.map(|effective_at| effective_at.min(origin.now)),
        })
    }
}

fn message(start: StartCase, shard_id: i32, origin: &Origin<'_>) -> Result<InboxRow, StoreError> {
    let lane = origin
        .definitions
        .by_name(&start.workflow)
        .map(|definition| definition.lane)
        .unwrap_or_default();
    let id = Uuid::new_v5(&NAMESPACE, start.case.to_string().as_bytes());
    Message::Start(start)
        .into_row(ShardId(shard_id), id, lane, origin.now)
        .map_err(|error| StoreError::Projection(format!("a message cannot be written: {error}")))
}

/// An event as a case keeps it: without the attributes, which the directory has.
fn told(event: &BusinessEvent) -> Value {
    let mut data = event.data.clone();
    if let Value::Object(fields) = &mut data {
        fields.remove("attributes");
    }
    json!({
        "id": event.id,
        "type": event.event_type,
        "source": event.source,
        "subject": event.subject,
        "occurred_at": event.occurred_at,
        "effective_at": event.effective_at,
        "zone": event.zone,
        "data": data,
    })
}

fn row_of(
    event: &BusinessEvent,
    shard_id: i32,
    status: EventStatus,
    origin: &Origin<'_>,
) -> EventRow {
    EventRow {
        shard_id,
        event_id: event.id.clone(),
        subject: event.subject.as_str().to_owned(),
        source: event.source.clone(),
        event_type: event.event_type,
        version: event.version,
        occurred_at: event.occurred_at,
        effective_at: event.effective_at,
        zone: event.zone.clone(),
        received_at: origin.now,
        supersedes: event.supersedes.clone(),
        status,
        data: event.data.clone(),
        cases: Vec::new(),
        initiator: origin.initiator.0.clone(),
    }
}
