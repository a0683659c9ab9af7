//! From events to cases, in one transaction: what the sources said becomes durable together with what follows
//! from it.
//!
//! Longer than 800 lines: what follows from events is decided here and written here, and neither means anything alone.

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

use super::contracts::Contracts;
use super::correlate::{self, Joined, include};
use super::groups::{Groups, Locked};
use super::merge::OPERATOR_SOURCE;
use super::person;
use super::planned::{Planned, Whose, plans};
use super::things;
use crate::actions::APPROVED_BY;
use crate::correlation::Correlation;
use crate::directory::{
    Directory, EventRow, EventStatus, IdentityRow, IdentityStatus, MergeRow, PlannedRow,
    drop_planned, events_in, holders, introduce, mark, planned_in, put_events, put_identities,
    put_merges, put_planned,
};
use crate::notices::NoticeRow;
use crate::sources::{BusinessEvent, EventType};
use crate::timeline::{Belief, Class, Precedence, Timeline, class};

/// Makes case and message identifiers out of what caused them: the same cause is the same case.
pub(super) const NAMESPACE: Uuid = Uuid::from_u128(0x6f1c_0f2e_9a37_4f0b_8d55_3c9e_71b2_44aa);

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
    /// What became of each event that was not known before, and the cases that it started.
    pub by_event: BTreeMap<String, (EventStatus, Vec<CaseId>)>,
    /// Subjects that nobody has introduced; nothing was written for anybody.
    pub unknown: Vec<String>,
    /// Why something that was said about a thing cannot be so; nothing was written for anybody.
    pub refused: Vec<String>,
}

/// Who sends events, and when they came.
pub(super) struct Origin<'a> {
    pub directory: &'a Directory,
    pub definitions: &'a Definitions,
    /// The rules by which new records are about people who are known; without them each is somebody new.
    pub correlation: Option<&'a Correlation>,
    pub groups: &'a Groups,
    pub initiator: &'a Actor,
    pub now: Timestamp,
    /// Whether an event that is known already happens again: a file says so that differs from the one before it.
    pub repeats: bool,
    /// Whether the initiator is a person who approved exactly these events.
    pub approved: bool,
    /// Which source is believed about what.
    pub precedence: Precedence,
    pub contracts: Option<Contracts>,
}

/// One person, and everything that is being decided about them.
#[derive(Default)]
pub(super) struct Person {
    pub shard_id: i32,
    pub before: Option<IdentityRow>,
    /// The rows of the other keys.
    pub members: Vec<IdentityRow>,
    /// What was said before now.
    pub known: Vec<EventRow>,
    pub fresh: Vec<EventRow>,
    planned: Vec<PlannedRow>,
    /// New keys that are this person.
    pub joined: Vec<Joined>,
    /// Questions that are put about them.
    pub asked: Vec<String>,
    /// What made several people one, or one several: whatever follows from what they hold by now is started.
    pub regrouped: Option<Regrouped>,
}

/// Why access is looked at anew.
pub(super) struct Regrouped {
    pub event: BusinessEvent,
    /// Whether anything is there that could be taken away.
    pub holds: bool,
    /// Other keys whose accounts the person could not take over, and is not to keep.
    pub second: Vec<String>,
}

/// What follows for one person.
#[derive(Default)]
struct Outcome {
    identity: Option<IdentityRow>,
    /// Known events whose status changed.
    marked: Vec<EventRow>,
    fresh: Vec<EventRow>,
    starts: Vec<(i32, StartCase)>,
    /// The same ends, for the other keys, if those hold anything.
    ends: Vec<(IdentityRow, StartCase)>,
    /// The rows of new keys.
    joined: Vec<IdentityRow>,
    merges: Vec<MergeRow>,
    planned: Vec<PlannedRow>,
    unplanned: Vec<PlannedRow>,
    notices: Vec<NoticeRow>,
}

/// Takes `events` in, and starts what has become effective for `subjects`, whether new or waiting.
pub(super) async fn settle(
    transaction: &mut Transaction<'_>,
    origin: &Origin<'_>,
    subjects: &BTreeSet<(i32, String)>,
    events: &[BusinessEvent],
) -> Result<(Settled, Vec<InboxRow>, Vec<tracing::Span>), StoreError> {
    if subjects.is_empty() {
        return Ok(Default::default());
    }
    let keys: BTreeSet<String> = subjects.iter().map(|(_, key)| key.clone()).collect();
    let locked = origin
        .groups
        .lock(transaction, origin.directory, &keys)
        .await?;
    let mut people = read(transaction, origin, locked).await?;
    let mut settled = Settled::default();
    for event in events {
        let key = event.subject.as_str();
        if let Some(person) = people.get_mut(&origin.groups.root(key))
            && !person.hear(event, origin)
        {
            settled.unknown.push(key.to_owned());
        }
    }
    if !settled.unknown.is_empty() {
        return Ok((settled, Vec::new(), Vec::new()));
    }
    let things: Vec<String> = people
        .iter()
        .filter(|(_, person)| things::is_thing(person))
        .map(|(key, _)| key.clone())
        .collect();
    for key in things {
        if let Some(thing) = people.remove(&key) {
            things::settle(transaction, origin, &key, thing, &mut settled).await?;
        }
    }
    if !settled.refused.is_empty() {
        return Ok((settled, Vec::new(), Vec::new()));
    }
    correlate::recognise(transaction, origin, &keys, &mut people).await?;
    finish(transaction, origin, people, settled).await
}

/// The people under lock, with all that was said about them.
pub(super) async fn read(
    transaction: &mut Transaction<'_>,
    origin: &Origin<'_>,
    locked: BTreeMap<String, Locked>,
) -> Result<BTreeMap<String, Person>, StoreError> {
    let mut people = BTreeMap::new();
    let mut roots: BTreeMap<String, String> = BTreeMap::new();
    for (root, group) in locked {
        roots.insert(root.clone(), root.clone());
        let members = group.members.iter();
        roots.extend(members.map(|row| (row.identity_key.clone(), root.clone())));
        let person = Person {
            shard_id: origin.directory.shard(&root),
            before: group.row,
            members: group.members,
            ..Person::default()
        };
        people.insert(root, person);
    }
    let keys: BTreeSet<(i32, String)> = roots
        .keys()
        .map(|key| (origin.directory.shard(key), key.clone()))
        .collect();
    let keys: Vec<(i32, String)> = keys.into_iter().collect();
    for row in events_in(transaction, &keys).await? {
        let person = roots
            .get(&row.subject)
            .and_then(|root| people.get_mut(root));
        if let Some(person) = person {
            person.known.push(row);
        }
    }
    for row in planned_in(transaction, &keys).await? {
        let root = roots.get(&row.subject);
        if let Some(person) = root.and_then(|root| people.get_mut(root)) {
            person.planned.push(row);
        }
    }
    Ok(people)
}

/// Writes what follows for these people.
pub(super) async fn finish(
    transaction: &mut Transaction<'_>,
    origin: &Origin<'_>,
    people: BTreeMap<String, Person>,
    mut settled: Settled,
) -> Result<(Settled, Vec<InboxRow>, Vec<tracing::Span>), StoreError> {
    let mut inbox = Vec::new();
    let mut traced = Vec::new();
    let (mut introduced, mut identities) = (Vec::new(), Vec::new());
    let (mut fresh, mut marked) = (Vec::new(), Vec::new());
    let (mut starts, mut ends, mut merges) = (Vec::new(), Vec::new(), Vec::new());
    let (mut planned, mut unplanned) = (Vec::new(), Vec::new());
    let mut blocks = correlate::Blocks::default();
    let mut notices = Vec::new();
    let offset = origin.definitions.offset();
    for person in people.into_values() {
        let before = person.before.clone();
        let outcome = person.settle(origin, &offset);
        for event in &outcome.fresh {
            *settled.events.entry(event.status).or_default() += 1;
            let became = (event.status, Vec::new());
            settled.by_event.insert(event.event_id.clone(), became);
        }
        planned.extend(outcome.planned);
        unplanned.extend(outcome.unplanned);
        fresh.extend(outcome.fresh);
        marked.extend(outcome.marked);
        starts.extend(outcome.starts);
        ends.extend(outcome.ends);
        merges.extend(outcome.merges);
        notices.extend(outcome.notices);
        introduced.extend(outcome.joined);
        if let Some(after) = outcome.identity
            && before.as_ref() != Some(&after)
        {
            blocks.change(origin, before.as_ref(), &after);
            if before.is_none() {
                introduced.push(after);
            } else {
                identities.push(after);
            }
        }
    }
    if !ends.is_empty() {
        let keys = ends.iter();
        let keys = keys
            .map(|(row, _): &(IdentityRow, StartCase)| (row.shard_id, row.identity_key.clone()));
        let holders = holders(transaction, &keys.collect::<Vec<_>>()).await?;
        ends.retain(|(row, _)| holders.contains(&row.identity_key));
    }
    let ends = ends.into_iter().map(|(mut row, end)| {
        // Whoever would move its accounts sees that they are being closed where they are.
        row.status_case = Some(end.case.to_string());
        let shard_id = row.shard_id;
        let mut others = identities.iter();
        if !others.any(|other| other.identity_key == row.identity_key) {
            identities.push(row);
        }
        (shard_id, end)
    });
    let ends: Vec<(i32, StartCase)> = ends.collect();
    for (shard_id, start) in starts.into_iter().chain(ends) {
        for event in causes(&start) {
            if let Some((_, cases)) = settled.by_event.get_mut(event) {
                cases.push(start.case);
            }
        }
        traced.extend(taken_in(&start));
        settled
            .cases
            .entry(start.workflow.clone())
            .or_default()
            .push(start.case);
        inbox.push(message(start, shard_id, origin)?);
    }
    // Sorted: of two transactions that introduce the same people, one must not wait for the other that waits for it.
    introduced.sort_by(|a, b| (a.shard_id, &a.identity_key).cmp(&(b.shard_id, &b.identity_key)));
    if !introduce(transaction, &introduced).await? {
        return Err(StoreError::Projection(INTRODUCED.to_owned()));
    }
    put_identities(transaction, &identities).await?;
    put_events(transaction, &fresh).await?;
    mark(transaction, &marked).await?;
    drop_planned(transaction, &unplanned).await?;
    put_planned(transaction, &planned).await?;
    put_merges(transaction, &merges).await?;
    blocks.write(transaction).await?;
    crate::notices::put_in(transaction, &notices).await?;
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
    /// Whether this is one of their keys.
    pub fn has(&self, key: &str) -> bool {
        let rows = self.before.iter().chain(&self.members);
        rows.into_iter().any(|row| row.identity_key == key)
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
        let shard_id = origin.directory.shard(event.subject.as_str());
        self.fresh.push(row_of(event, shard_id, origin));
        true
    }

    /// Compares what was believed with what is believed now.
    /// `offset` are the workflows that start beside their events.
    fn settle(self, origin: &Origin<'_>, offset: &[Arc<Definition>]) -> Outcome {
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
        let was = Timeline::of(said().take(self.known.len()));
        let was = was.preferring(&origin.precedence).at(now);
        let timeline = Timeline::of(said()).preferring(&origin.precedence);
        let is = timeline.at(now);
        let Some(before) = self.before.clone().or_else(|| {
            let (_, first) = events.first()?;
            Some(person::introduced(first, self.shard_id, now))
        }) else {
            return Outcome::default();
        };
        let mut identity = person::after(&before, &is, now);
        let (joined, merges) = correlate::join(&mut identity, self.joined, origin);
        for question in self.asked {
            include(&mut identity.disputes, question);
        }
        let contracts = origin.contracts.as_ref();
        let withheld = |belief: &Belief| {
            contracts.map_or_else(Vec::new, |contracts| {
                contracts.missing(belief, identity.status)
            })
        };
        let (missed, missing) = (withheld(&was), withheld(&is));
        let is_disputed = !identity.disputes.is_empty();
        // What waits for a decision, or to be known, goes on as soon as nothing of either is open.
        let waits = is_disputed || !missing.is_empty();
        // What somebody decides here says of nobody whose people they are.
        let told = self
            .fresh
            .iter()
            .filter(|row| row.source != OPERATOR_SOURCE);
        if let Some(newest) = told.max_by_key(|row| row.version)
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
        let is_open = |row: &EventRow| match row.status {
            EventStatus::Waiting | EventStatus::Superseded => true,
            EventStatus::Held => !waits || status(row) == EventStatus::Superseded,
            EventStatus::Started | EventStatus::Recorded => false,
        };
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
            withheld: !missing.is_empty(),
            released: missing.is_empty() && !missed.is_empty(),
            was: &was,
            is: &is,
            before: &before,
            generation: identity.generation,
            due: &due,
            news: &news,
        };
        let mut starts = match &self.regrouped {
            Some(regrouped) => change.standing(origin, &identity, regrouped),
            None => change.starts(origin),
        };
        // Nothing is given on a guess; what ends access waits for nobody.
        let held = waits && is.is_employed();
        if held {
            starts.clear();
        }
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
        let is_short = contracts.is_some_and(|rules| rules.will_be_missing(&timeline, &is));
        let whose = Whose {
            timeline: &timeline,
            is: &is,
            is_held: waits || is_short,
            shard: &|key| origin.directory.shard(key),
            now,
        };
        let plans = plans(offset, &whose, &events, &self.planned);
        let offset = plans.starts.iter();
        starts.extend(offset.map(|planned| change.offset(planned, origin)));
        for row in marked.iter_mut().chain(&mut fresh) {
            let names = |start: &&StartCase| causes(start).any(|id| id == row.event_id);
            let cases: Vec<String> = starts
                .iter()
                .filter(names)
                .map(|start| start.case.to_string())
                .collect();
            if row.status == EventStatus::Started && cases.is_empty() {
                row.status = if held {
                    EventStatus::Held
                } else {
                    EventStatus::Recorded
                };
            }
            // Those that began before its time stay.
            row.cases.extend(cases);
            row.cases.dedup();
        }
        let notices = contracts.map_or_else(Vec::new, |contracts| {
            contracts.notices(&identity, &timeline, &is, &missing, now)
        });
        let second = match &self.regrouped {
            Some(regrouped) if is.is_employed() => change.second(origin, regrouped),
            _ if is.is_employed() => Vec::new(),
            _ => starts.clone(),
        };
        let closes = |member: &&IdentityRow| {
            let named = self.regrouped.as_ref();
            !is.is_employed()
                || named.is_some_and(|regrouped| regrouped.second.contains(&member.identity_key))
        };
        let mut ends = Vec::new();
        for member in self.members.iter().filter(closes) {
            let own = second.iter().map(|end| for_member(end, member, origin));
            ends.extend(own.map(|end| (member.clone(), end)));
        }
        let starts = starts.into_iter().map(|start| (self.shard_id, start));
        Outcome {
            identity: Some(identity),
            marked,
            fresh,
            starts: starts.collect(),
            ends,
            joined,
            merges,
            planned: plans.put,
            unplanned: plans.dropped,
            notices,
        }
    }
}

/// The same case for another key of the person.
fn for_member(start: &StartCase, member: &IdentityRow, origin: &Origin<'_>) -> StartCase {
    let cause = format!("{}\n{}", start.case, member.identity_key);
    StartCase {
        case: CaseId::caused(&NAMESPACE, start.effective_at.unwrap_or(origin.now), &cause),
        subject: Subject(member.identity_key.clone()),
        generation: member.generation,
        ..start.clone()
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
    /// Something has to be known before anything is given: nothing begins.
    withheld: bool,
    /// Nothing of that is missing any more.
    released: bool,
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
        if self.withheld {
            return Vec::new();
        }
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

    /// What brings access in line with where the person stands, whatever was said.
    fn standing(
        &self,
        origin: &Origin<'_>,
        identity: &IdentityRow,
        regrouped: &Regrouped,
    ) -> Vec<StartCase> {
        let is_here = identity.status == IdentityStatus::Active;
        // Its case may have been ended by this one.
        let leaves = identity.status == IdentityStatus::Leaving;
        let as_if = if self.is.is_employed() {
            if is_here {
                EventType::Transfer
            } else {
                EventType::Hire
            }
        } else if is_here || leaves || regrouped.holds {
            EventType::TerminationEffective
        } else {
            return Vec::new();
        };
        let definitions = origin.definitions.started_by(as_if.as_str());
        let starts = definitions.into_iter().filter_map(|definition| {
            let mut reaction = Reaction::to(definition, as_if.as_str());
            reaction.events.push(&regrouped.event);
            self.start(&reaction, origin)
        });
        starts.collect()
    }

    /// What closes the accounts of another key that nobody is to keep.
    fn second(&self, origin: &Origin<'_>, regrouped: &Regrouped) -> Vec<StartCase> {
        let as_if = EventType::TerminationEffective.as_str();
        let definitions = origin.definitions.started_by(as_if).into_iter();
        let starts = definitions.filter_map(|definition| {
            let mut reaction = Reaction::to(definition, as_if);
            reaction.events.push(&regrouped.event);
            self.start(&reaction, origin)
        });
        starts.collect()
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
        if self.released && self.is.is_employed() {
            return Some(EventType::ContractStart);
        }
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

    /// A case that starts at another moment than its event takes effect.
    fn offset(&self, planned: &Planned<'_>, origin: &Origin<'_>) -> StartCase {
        let (name, event) = (&planned.definition.name, planned.event);
        let cause = format!("{name}\noffset\n{}", event.id);
        StartCase {
            case: CaseId::caused(&NAMESPACE, event.occurred_at, &cause),
            workflow: name.clone(),
            subject: Subject(self.before.identity_key.clone()),
            generation: self.generation,
            input: json!({ "event": told(event), "events": [told(event)] }),
            initiator: origin.initiator.clone(),
            effective_at: Some(planned.due_at),
        }
    }

    fn start(&self, reaction: &Reaction<'_>, origin: &Origin<'_>) -> Option<StartCase> {
        let (definition, events) = (&reaction.definition, &reaction.events);
        let first = events.first()?;
        let mut cause = vec![definition.name.as_str()];
        // The same event may be the cause of another case when its own time comes.
        cause.extend(Some(reaction.as_if).filter(|as_if| !as_if.is_empty()));
        cause.extend(events.iter().map(|event| event.id.as_str()));
        // One event may be the cause of cases of several people.
        let generation = self.generation.to_string();
        if is_about_several(first) {
            cause.extend([self.before.identity_key.as_str(), &generation]);
        }
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

fn is_about_several(event: &BusinessEvent) -> bool {
    matches!(
        event.event_type,
        EventType::IdentityMerged | EventType::IdentitySplit
    )
}

pub(super) fn message(
    start: StartCase,
    shard_id: i32,
    origin: &Origin<'_>,
) -> Result<InboxRow, StoreError> {
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

pub(super) fn row_of(event: &BusinessEvent, shard_id: i32, origin: &Origin<'_>) -> EventRow {
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
        status: EventStatus::Recorded,
        data: event.data.clone(),
        cases: Vec::new(),
        initiator: origin.initiator.0.clone(),
    }
}
