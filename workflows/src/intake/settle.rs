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

use super::order::{Known, rule};
use super::person::{self, Statement};
use crate::directory::{
    EventRow, EventStatus, IdentityRow, events_in, for_update, introduce, mark, put_events,
    put_identities,
};
use crate::sources::{BusinessEvent, Key, said};

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
}

/// One person, and everything that is being decided about them.
struct Person {
    shard_id: i32,
    before: Option<IdentityRow>,
    identity: Option<IdentityRow>,
    known: Vec<Known>,
    statements: Vec<Statement>,
    /// Events that were waiting.
    waiting: BTreeMap<String, EventRow>,
    fresh: Vec<EventRow>,
    /// Events that are effective now, in the order in which they count.
    due: Vec<BusinessEvent>,
    marked: Vec<EventRow>,
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
            person.before = Some(identity.clone());
            person.identity = Some(identity);
        }
    }
    for row in events_in(transaction, &keys).await? {
        if let Some(person) = people.get_mut(&row.subject) {
            person.knows(row);
        }
    }
    let mut settled = Settled::default();
    for person in people.values_mut() {
        person.start_waiting(origin);
    }
    for event in events {
        if let Some(person) = people.get_mut(event.subject.as_str())
            && !person.take(event, origin)
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
        let starts = person.starts(origin);
        let cases: Vec<String> = starts.iter().map(|start| start.case.to_string()).collect();
        for (event, is_fresh) in person
            .fresh
            .into_iter()
            .map(|event| (event, true))
            .chain(person.marked.into_iter().map(|event| (event, false)))
        {
            let mut event = event;
            if event.status == EventStatus::Started {
                if cases.is_empty() {
                    event.status = EventStatus::Recorded;
                }
                event.cases.clone_from(&cases);
            }
            if is_fresh {
                *settled.events.entry(event.status).or_default() += 1;
                fresh.push(event);
            } else {
                marked.push(event);
            }
        }
        if person.before.is_none() {
            introduced.extend(person.identity);
        } else if person.identity != person.before {
            identities.extend(person.identity);
        }
        for start in starts {
            traced.extend(taken_in(&start));
            settled
                .cases
                .entry(start.workflow.clone())
                .or_default()
                .push(start.case);
            inbox.push(message(start, person.shard_id, origin)?);
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
    let events = start.input.get("events").and_then(Value::as_array);
    let ids: Vec<&str> = events
        .into_iter()
        .flatten()
        .filter_map(|event| event.get("id").and_then(Value::as_str))
        .collect();
    span.record("events", ids.join(","));
    Some(span)
}

impl Person {
    fn unknown(shard_id: i32) -> Self {
        Self {
            shard_id,
            before: None,
            identity: None,
            known: Vec::new(),
            statements: Vec::new(),
            waiting: BTreeMap::new(),
            fresh: Vec::new(),
            due: Vec::new(),
            marked: Vec::new(),
        }
    }

    fn knows(&mut self, row: EventRow) {
        self.known.push(Known {
            id: row.event_id.clone(),
            event_type: row.event_type,
            version: row.version,
            status: row.status,
        });
        self.statements.push(Statement {
            event_id: row.event_id.clone(),
            version: row.version,
            effective_at: row.effective_at,
            holds: matches!(row.status, EventStatus::Started | EventStatus::Recorded),
            said: said(row.event_type, &row.data),
        });
        if row.status == EventStatus::Waiting {
            self.waiting.insert(row.event_id.clone(), row);
        }
    }

    /// Starts what waited and is effective by now, soonest first.
    fn start_waiting(&mut self, origin: &Origin<'_>) {
        let mut due: Vec<EventRow> = self
            .waiting
            .values()
            .filter(|row| row.effective_at <= origin.now)
            .cloned()
            .collect();
        due.sort_by(|a, b| {
            (a.effective_at, a.version, &a.event_id).cmp(&(b.effective_at, b.version, &b.event_id))
        });
        for mut row in due {
            let event = event_of(&row);
            self.identity = person::after(
                self.identity.as_ref(),
                &event,
                true,
                &self.statements,
                self.shard_id,
                origin.now,
            )
            .or_else(|| self.identity.take());
            for statement in &mut self.statements {
                statement.holds |= statement.event_id == row.event_id;
            }
            self.waiting.remove(&row.event_id);
            self.set_status(&row.event_id, EventStatus::Started);
            row.status = EventStatus::Started;
            self.marked.push(row);
            self.due.push(event);
        }
    }

    /// Takes a new event in; false when it is about somebody nobody has introduced.
    fn take(&mut self, event: &BusinessEvent, origin: &Origin<'_>) -> bool {
        let known = |id: &str| self.known.iter().any(|known| known.id == id);
        let again = known(&event.id).then(|| {
            // What is said of the same day in the same words has the same identifier.
            let numbers = 2..=self.known.len() + 2;
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
        let ruling = rule(
            event.event_type,
            event.version,
            event.effective_at,
            event.supersedes.as_deref(),
            &self.known,
            origin.now,
        );
        for id in &ruling.supersedes {
            self.set_status(id, EventStatus::Superseded);
            if let Some(mut row) = self.waiting.remove(id) {
                row.status = EventStatus::Superseded;
                self.marked.push(row);
            }
            // Of the same batch: it was to be written as waiting.
            for row in self.fresh.iter_mut().filter(|row| row.event_id == *id) {
                row.status = EventStatus::Superseded;
            }
        }
        if ruling.status != EventStatus::Superseded {
            let started = ruling.status == EventStatus::Started;
            match person::after(
                self.identity.as_ref(),
                event,
                started,
                &self.statements,
                self.shard_id,
                origin.now,
            ) {
                Some(identity) => self.identity = Some(identity),
                None => return false,
            }
            if started {
                self.due.push(event.clone());
            }
        }
        let holds = ruling.status == EventStatus::Started;
        self.statements.push(Statement::of(event, holds));
        self.known.push(Known {
            id: event.id.clone(),
            event_type: event.event_type,
            version: event.version,
            status: ruling.status,
        });
        self.fresh
            .push(row_of(event, self.shard_id, ruling.status, origin));
        true
    }

    fn set_status(&mut self, id: &str, status: EventStatus) {
        for known in self.known.iter_mut().filter(|known| known.id == id) {
            known.status = status;
        }
    }

    /// One case for each workflow that reacts to what is effective now, without those that another of them
    /// would end at once.
    fn starts(&self, origin: &Origin<'_>) -> Vec<StartCase> {
        let Some(identity) = &self.identity else {
            return Vec::new();
        };
        let mut by_workflow: BTreeMap<String, (Arc<Definition>, Vec<&BusinessEvent>)> =
            BTreeMap::new();
        for event in &self.due {
            for definition in origin.definitions.started_by(event.event_type.as_str()) {
                by_workflow
                    .entry(definition.name.clone())
                    .or_insert_with(|| (definition, Vec::new()))
                    .1
                    .push(event);
            }
        }
        let ends = |new: &Definition, other: &Definition| {
            let about = new.conflicts.about(&new.name, &other.name, other.lane);
            new.name != other.name && about == OnConflict::Preempt
        };
        let ended: BTreeSet<String> = by_workflow
            .values()
            .filter(|(other, _)| by_workflow.values().any(|(new, _)| ends(new, other)))
            .map(|(other, _)| other.name.clone())
            .collect();
        by_workflow
            .into_values()
            .filter(|(definition, _)| !ended.contains(&definition.name))
            .filter_map(|(definition, events)| {
                let first = events.first()?;
                let ids: Vec<&str> = events.iter().map(|event| event.id.as_str()).collect();
                let cause = format!("{}\n{}", definition.name, ids.join("\n"));
                Some(StartCase {
                    case: CaseId(Uuid::new_v5(&NAMESPACE, cause.as_bytes())),
                    workflow: definition.name.clone(),
                    subject: Subject(identity.identity_key.clone()),
                    generation: identity.generation,
                    input: json!({
                        "event": told(first),
                        "events": events.iter().map(|event| told(event)).collect::<Vec<_>>(),
                    }),
                    initiator: origin.initiator.clone(),
                    effective_at: events.iter().map(|event| event.effective_at).min(),
                })
            })
            .collect()
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

fn event_of(row: &EventRow) -> BusinessEvent {
    BusinessEvent {
        id: row.event_id.clone(),
        source: row.source.clone(),
        event_type: row.event_type,
        subject: Key::new(&row.subject),
        occurred_at: row.occurred_at,
        effective_at: row.effective_at,
        zone: row.zone.clone(),
        version: row.version,
        supersedes: row.supersedes.clone(),
        data: row.data.clone(),
    }
}
