//! From two states to the facts between them.
//!
//! When a fact holds (`effective_at`), always in the zone of the source:
//!
//! - a hire, contract or rehire: at the start of the first day if the feed tells one, else of the snapshot's day;
//!   in the very first snapshot, people who had begun before it begin with it;
//! - a change, a project, a leave: at the start of the snapshot's day;
//! - an announced end (`termination.scheduled`, `contract.expired`, ...): at the *end* of the last day, or when policy says
//!   ([`LeaverRules`]);
//! - a termination that the feed states: the same, if there is a last day, else at the start of the snapshot's day;
//! - a termination inferred from absence: at the start of the snapshot's day, because a snapshot of that day
//!   already shows the person gone.
//!
//! Every event carries all attributes that hold after it, so whoever handles the last one knows the state.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, NaiveDate, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::declare::Source;
use super::event::{BusinessEvent, EventContent, EventType};
use super::record::{IdentityType, Key, Record, Records, attribute};
use super::snapshot::Snapshot;
use super::time::start_of_day;
use crate::policy::{LeaverRules, hex};

/// What a change does to the number of people. The guard limits each by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    Create,
    Update,
    Remove,
}

impl ChangeKind {
    /// What the people do, for a sentence.
    #[must_use]
    pub fn verb(self) -> &'static str {
        match self {
            Self::Create => "would join",
            Self::Update => "would change",
            Self::Remove => "would leave",
        }
    }
}

/// One fact.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    pub kind: ChangeKind,
    pub event: BusinessEvent,
}

/// Everything between two states.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// A hash over the source, the day and every change.
    pub id: String,
    pub source: String,
    pub as_of: NaiveDate,
    /// By person, then in the order in which they are best handled: ends before starts.
    pub changes: Vec<Change>,
    /// People missing from a snapshot that does not claim to be complete: nothing is inferred.
    pub missing: Vec<Key>,
}

/// What happened between `previous` and `snapshot`. `gone` are people the source had once and who left:
/// when they come back it is a rehire.
#[must_use]
pub fn diff(
    source: &Source,
    leavers: &LeaverRules,
    previous: &Records,
    snapshot: &Snapshot,
    gone: &BTreeSet<Key>,
) -> Difference {
    let mut differ = Differ {
        source,
        leavers,
        zone: source.zone(),
        day: snapshot.as_of.day,
        stated_at: snapshot.as_of.instant,
        pushed: false,
        version: snapshot.as_of.instant.timestamp(),
        baseline: previous.is_empty() && gone.is_empty(),
        changes: Vec::new(),
    };
    let mut missing = Vec::new();
    let keys: BTreeSet<&Key> = previous.keys().chain(snapshot.records.keys()).collect();
    for key in keys {
        let (before, next) = (previous.get(key), snapshot.records.get(key));
        if let Some(record) = next.or(before) {
            differ.zone = source.zone_of(record);
        }
        match (before, next) {
            (None, Some(next)) => differ.appeared(next, gone.contains(key)),
            (Some(before), Some(next)) if before.digest != next.digest => {
                differ.changed(before, next);
            }
            (Some(before), None) if snapshot.complete => differ.vanished(before),
            (Some(_), None) => missing.push(key.clone()),
            (Some(_), Some(_)) | (None, None) => {}
        }
    }
    let changes = differ.changes;
    let of = json!([source.name(), snapshot.as_of.day]).to_string();
    Difference {
        id: difference_id(&of, &changes),
        source: source.name().to_owned(),
        as_of: snapshot.as_of.day,
        changes,
        missing,
    }
}

/// A name for exactly these changes.
pub(crate) fn difference_id(of: &str, changes: &[Change]) -> String {
    let mut hash = Sha256::new();
    hash.update(of);
    for change in changes {
        hash.update(&change.event.id);
    }
    format!("dif_{}", hex(&hash.finalize()))
}

/// One person as a source that pushes told it before, and as it tells it now.
#[derive(Debug, Clone, PartialEq)]
pub struct Told {
    pub before: Option<Record>,
    /// Nothing when the source has the person no more.
    pub next: Option<Record>,
    /// The source had the person once, and they left.
    pub gone: bool,
    /// The version of the last that was said of the person.
    pub said: i64,
}

/// The facts that follow from a push.
///
/// A push is a statement at `now`, about `now`: what it changes holds from then on, not from the start of the day. A first
/// day that is past means that the person was there before us, and begins now.
#[must_use]
pub fn differ_pushed(
    source: &Source,
    leavers: &LeaverRules,
    told: &Told,
    now: DateTime<Utc>,
) -> Vec<Change> {
    // Two statements within a second, or from two clocks, still come one after the other.
    let version = now.timestamp().max(told.said.saturating_add(1));
    let zone = told
        .next
        .as_ref()
        .or(told.before.as_ref())
        .map_or(source.zone(), |record| source.zone_of(record));
    let mut differ = Differ {
        source,
        leavers,
        zone,
        day: now.with_timezone(&zone).date_naive(),
        stated_at: now,
        pushed: true,
        version,
        baseline: true,
        changes: Vec::new(),
    };
    match (&told.before, &told.next) {
        (None, Some(next)) => differ.appeared(next, told.gone),
        (Some(before), Some(next)) if before.digest != next.digest => differ.changed(before, next),
        (Some(before), None) => differ.vanished(before),
        (Some(_), Some(_)) | (None, None) => {}
    }
    differ.changes
}

/// The state to keep once `snapshot` is accepted: itself when it is complete, else with those it misses.
#[must_use]
pub fn remember(previous: &Records, snapshot: &Snapshot) -> Records {
    if snapshot.complete {
        return snapshot.records.clone();
    }
    let mut records = previous.clone();
    records.extend(
        snapshot
            .records
            .iter()
            .map(|(key, record)| (key.clone(), record.clone())),
    );
    records
}

struct Differ<'a> {
    source: &'a Source,
    leavers: &'a LeaverRules,
    /// Of the person who is looked at.
    zone: Tz,
    /// The day that is told about.
    day: NaiveDate,
    stated_at: DateTime<Utc>,
    /// Told at the moment it happens, by itself; not found in a file about a day.
    pushed: bool,
    version: i64,
    /// The first snapshot of all: people were there before we looked.
    baseline: bool,
    changes: Vec<Change>,
}

impl Differ<'_> {
    fn day(&self) -> NaiveDate {
        self.day
    }

    /// From when a change holds of which the source names no day.
    fn today(&self) -> DateTime<Utc> {
        if self.pushed {
            self.stated_at
        } else {
            start_of_day(self.day, self.zone)
        }
    }

    /// When access ends of somebody whose last day is `day`. `announced`: by itself, of somebody who is there.
    fn end_of(&self, day: NaiveDate, record: &Record, announced: bool) -> DateTime<Utc> {
        let announced = announced.then(|| self.today());
        self.leavers
            .end(day, self.zone, &record.attributes, announced)
    }

    fn push(
        &mut self,
        kind: ChangeKind,
        event_type: EventType,
        subject: &Key,
        effective_at: DateTime<Utc>,
        data: Value,
    ) {
        let event = BusinessEvent::new(EventContent {
            source: self.source.name(),
            event_type,
            subject,
            occurred_at: self.stated_at,
            effective_at,
            zone: self.zone.name(),
            version: self.version,
            data,
        });
        self.changes.push(Change { kind, event });
    }

    fn appeared(&mut self, next: &Record, gone: bool) {
        // Somebody whose end was over before we ever saw them needs nothing.
        if next.has_ended(self.day()) {
            return;
        }
        self.begins(next, gone);
    }

    fn begins(&mut self, next: &Record, known: bool) {
        let event_type = match (known, next.identity_type()) {
            (true, _) => EventType::Rehire,
            (false, IdentityType::Contractor) => EventType::ContractStart,
            (false, IdentityType::Employee | IdentityType::Guest) => EventType::Hire,
        };
        let effective_at = match next.first_day() {
            // The first day of somebody who was there before us, or of an earlier employment, is no day on
            // which anything was due.
            Some(first) if first >= self.day() || !(known || self.baseline) => {
                let start = start_of_day(first, self.zone);
                // Nothing that is told now has begun before.
                if self.pushed {
                    start.max(self.stated_at)
                } else {
                    start
                }
            }
            _ => self.today(),
        };
        let data = json!({ "attributes": next.attributes });
        self.push(
            ChangeKind::Create,
            event_type,
            &next.key,
            effective_at,
            data,
        );
        self.end_announced(None, next);
        if next.on_leave() {
            let data = json!({ "attributes": next.attributes });
            self.push(
                ChangeKind::Update,
                EventType::LeaveStart,
                &next.key,
                self.today(),
                data,
            );
        }
    }

    /// Somebody who was to begin begins on another day. Nobody more than before, so no creation.
    fn begins_again(&mut self, next: &Record) {
        let event_type = match next.identity_type() {
            IdentityType::Contractor => EventType::ContractStart,
            IdentityType::Employee | IdentityType::Guest => EventType::Hire,
        };
        let first = next.first_day().filter(|first| *first >= self.day());
        let effective_at = first.map_or(self.today(), |first| {
            start_of_day(first, self.zone).max(self.today())
        });
        let data = json!({ "attributes": next.attributes });
        self.push(
            ChangeKind::Update,
            event_type,
            &next.key,
            effective_at,
            data,
        );
    }

    fn changed(&mut self, before: &Record, next: &Record) {
        match (before.has_ended(self.day()), next.has_ended(self.day())) {
            (true, true) => {}
            (true, false) => self.begins(next, true),
            (false, true) => self.ended(before, next),
            (false, false) => self.updated(before, next),
        }
    }

    fn ended(&mut self, before: &Record, next: &Record) {
        let effective_at = match next.last_day() {
            Some(last) if last < self.day() => self.end_of(last, next, false),
            _ => self.today(),
        };
        let event_type = match before.first_day() {
            Some(first) if self.pushed && first > self.day() => EventType::HireRescinded,
            _ => EventType::TerminationEffective,
        };
        let data = json!({
            "inferred": false,
            "last_day": next.last_day(),
            "attributes": next.attributes,
        });
        self.push(
            ChangeKind::Remove,
            event_type,
            &next.key,
            effective_at,
            data,
        );
    }

    fn vanished(&mut self, before: &Record) {
        // Their end was known and has been dealt with.
        if before.has_ended(self.day()) {
            return;
        }
        let event_type = match before.first_day() {
            Some(first) if first > self.day() => EventType::HireRescinded,
            _ => EventType::TerminationEffective,
        };
        let data = json!({
            "inferred": !self.pushed,
            "last_day": before.last_day(),
            "attributes": before.attributes,
        });
        self.push(
            ChangeKind::Remove,
            event_type,
            &before.key,
            self.today(),
            data,
        );
    }

    fn updated(&mut self, before: &Record, next: &Record) {
        let key = &next.key;
        // A first day that has not come yet was moved: what waits for the old one must not begin then.
        let ahead = before.first_day().is_some_and(|first| first > self.day());
        if ahead && before.first_day() != next.first_day() {
            self.begins_again(next);
        }
        if before.identity_type() != next.identity_type() {
            let changes = json!({ attribute::TYPE: from_to(before, next, attribute::TYPE) });
            let data = json!({ "changes": changes, "attributes": next.attributes });
            self.push(
                ChangeKind::Update,
                EventType::Conversion,
                key,
                self.today(),
                data,
            );
        }
        for (event_type, changes) in self.attribute_changes(before, next) {
            let data = json!({ "changes": changes, "attributes": next.attributes });
            self.push(ChangeKind::Update, event_type, key, self.today(), data);
        }
        self.manager(before, next);
        let (old, new) = (before.projects(), next.projects());
        for (event_type, projects) in [
            (EventType::ProjectEnd, old.difference(&new)),
            (EventType::ProjectStart, new.difference(&old)),
        ] {
            for project in projects {
                let data = json!({ "project": project, "attributes": next.attributes });
                self.push(ChangeKind::Update, event_type, key, self.today(), data);
            }
        }
        if before.on_leave() != next.on_leave() {
            let event_type = if next.on_leave() {
                EventType::LeaveStart
            } else {
                EventType::LeaveEnd
            };
            let data = json!({ "attributes": next.attributes });
            self.push(ChangeKind::Update, event_type, key, self.today(), data);
        }
        self.end_announced(Some(before), next);
        // Whatever else differs must not be lost to those who keep the state from events.
        if self
            .changes
            .last()
            .is_none_or(|last| last.event.subject != *key)
        {
            let data = json!({ "changes": {}, "attributes": next.attributes });
            self.push(
                ChangeKind::Update,
                EventType::Transfer,
                key,
                self.today(),
                data,
            );
        }
    }

    /// Changed attributes of the source's own, by the event they make.
    fn attribute_changes(
        &self,
        before: &Record,
        next: &Record,
    ) -> BTreeMap<EventType, serde_json::Map<String, Value>> {
        let names: BTreeSet<&String> = before
            .attributes
            .keys()
            .chain(next.attributes.keys())
            .collect();
        let mut changes: BTreeMap<EventType, serde_json::Map<String, Value>> = BTreeMap::new();
        for name in names {
            let own = !attribute::RESERVED.contains(&name.as_str())
                || name == attribute::EMPLOYMENT_START;
            if own && before.attributes.get(name) != next.attributes.get(name) {
                changes
                    .entry(self.source.change_event(name))
                    .or_default()
                    .insert(name.clone(), from_to(before, next, name));
            }
        }
        changes
    }

    fn manager(&mut self, before: &Record, next: &Record) {
        let manager = |record: &Record| {
            json!({
                "key": record.text(attribute::MANAGER),
                "name": record.text(attribute::MANAGER_NAME),
            })
        };
        let (from, to) = (manager(before), manager(next));
        if from != to {
            let data = json!({ "from": from, "to": to, "attributes": next.attributes });
            self.push(
                ChangeKind::Update,
                EventType::ManagerChanged,
                &next.key,
                self.today(),
                data,
            );
        }
    }

    /// The last day was set, moved or taken back, and is not over yet.
    fn end_announced(&mut self, before: Option<&Record>, next: &Record) {
        let (old, new) = (before.and_then(Record::last_day), next.last_day());
        if old == new {
            return;
        }
        let key = &next.key;
        let data = json!({
            "last_day": new,
            "previous_last_day": old,
            "attributes": next.attributes,
        });
        let contractor = next.identity_type() == IdentityType::Contractor;
        // An end that comes, or comes sooner, takes people away; the guard has to count it as that. The end
        // that a new contract brings with it does not.
        let kind = match (before, old, new) {
            (Some(_), None, Some(_)) => ChangeKind::Remove,
            (Some(_), Some(old), Some(new)) if new < old => ChangeKind::Remove,
            _ => ChangeKind::Update,
        };
        let later = match (old, new) {
            (Some(old), Some(new)) => new > old,
            (Some(_), None) => true,
            (None, _) => false,
        };
        if contractor {
            if later {
                self.push(
                    ChangeKind::Update,
                    EventType::ContractExtended,
                    key,
                    self.today(),
                    data.clone(),
                );
            }
            if let Some(last) = new {
                let effective_at = self.end_of(last, next, false);
                self.push(kind, EventType::ContractExpired, key, effective_at, data);
            }
            return;
        }
        let (event_type, effective_at) = match (old, new) {
            (None, Some(last)) => {
                let effective_at = self.end_of(last, next, before.is_some());
                (EventType::TerminationScheduled, effective_at)
            }
            (Some(_), Some(last)) => {
                let effective_at = self.end_of(last, next, true);
                (EventType::TerminationCorrected, effective_at)
            }
            (_, None) => (EventType::TerminationCancelled, self.today()),
        };
        self.push(kind, event_type, key, effective_at, data);
    }
}

fn from_to(before: &Record, next: &Record, name: &str) -> Value {
    json!({ "from": before.attributes.get(name), "to": next.attributes.get(name) })
}
