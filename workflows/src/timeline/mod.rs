//! What is believed about a person: a pure function of everything that was said about them.
//!
//! A statement has two times: when it was made (`version`, `occurred_at`) and from when it holds (`effective_at`). All
//! statements are put in the order in which they were made, whatever the order in which they came, and each changes the
//! picture that the earlier ones left. So late, repeated, corrected and withdrawn statements end in the same picture as
//! those that came in order, and what was believed at an earlier moment is the picture without what came later.
//!
//! | statement | changes |
//! |---|---|
//! | `hire`, `rehire`, `contract.start` | begins a spell; moves one that had not begun when it was made; lifts the end of one that runs |
//! | `hire.rescinded` | takes the last spell away, or ends it when it had begun |
//! | `termination.scheduled`, `.corrected`, `contract.expired` | ends the spell they fall into; the newest stands |
//! | `termination.effective` | as these, and never later than an end that was known |
//! | `termination.cancelled`, `contract.extended` | lifts the end of the last spell |
//! | `access.revoke_now` | nothing is left until a later begin or lifted end |
//! | `leave.start`, `leave.end` | the last that is effective says whether somebody is away |
//! | everything else | attributes, from `effective_at` on |
//!
//! Statements that name a `contract` touch the spells of that contract only; somebody is employed as long as any runs.
//! The same holds of somebody whom sources know under several keys: a contract that ends under one key ends no employment
//! under another, and each key has attributes of its own ([`united`]).
//! A statement that another one names in `supersedes` was never made, unless the other is itself superseded.

mod attributes;
mod precedence;
mod spells;
mod united;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;

use crate::sources::{BusinessEvent, ChangeKind, EventType};

pub use self::precedence::Precedence;
use self::spells::Spells;
pub use self::spells::{Spell, runs_until};

/// What a statement says about employment. The order is the one in which those of one version count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    Rescinded,
    Begins,
    Cancels,
    PlannedEnd,
    Terminated,
    Revoked,
    Other,
}

#[must_use]
pub fn class(event_type: EventType) -> Class {
    match event_type {
        EventType::Hire | EventType::Rehire | EventType::ContractStart => Class::Begins,
        EventType::HireRescinded => Class::Rescinded,
        EventType::TerminationScheduled
        | EventType::TerminationCorrected
        | EventType::ContractExpired => Class::PlannedEnd,
        EventType::TerminationCancelled | EventType::ContractExtended => Class::Cancels,
        EventType::TerminationEffective => Class::Terminated,
        EventType::AccessRevokeNow => Class::Revoked,
        EventType::Transfer
        | EventType::ManagerChanged
        | EventType::CostCenterChanged
        | EventType::EntityTransfer
        | EventType::LeaveStart
        | EventType::LeaveEnd
        | EventType::Conversion
        | EventType::ProjectStart
        | EventType::ProjectEnd
        | EventType::IdentityMerged
        | EventType::IdentitySplit
        | EventType::ServiceRegistered
        | EventType::ServiceRetired
        | EventType::OwnerChanged
        | EventType::CertificationDecided => Class::Other,
    }
}

/// What a statement does to the number of people, for whoever counts.
#[must_use]
pub fn kind(event_type: EventType) -> ChangeKind {
    match class(event_type) {
        Class::Begins => ChangeKind::Create,
        Class::Rescinded | Class::PlannedEnd | Class::Terminated | Class::Revoked => {
            ChangeKind::Remove
        }
        Class::Cancels | Class::Other => ChangeKind::Update,
    }
}

/// Whether there is a business reason for any access.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum Employment {
    /// Nothing says that they ever begin.
    Unknown,
    /// They begin at `from`, and were never there before.
    Expected { from: DateTime<Utc> },
    Employed {
        since: DateTime<Utc>,
        until: Option<DateTime<Utc>>,
    },
    /// Somebody demanded at `at` that nothing is left.
    Revoked { at: DateTime<Utc> },
    Ended {
        at: DateTime<Utc>,
        /// When they come back, as far as that is known.
        returns: Option<DateTime<Utc>>,
    },
}

/// The picture at one moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Belief {
    pub employment: Employment,
    pub on_leave: bool,
    /// Of somebody who has not begun, those of their first day.
    pub attributes: BTreeMap<String, Value>,
    /// The event that each attribute comes from.
    pub origins: BTreeMap<String, String>,
    /// The version of the newest statement that attributes come from.
    pub version: i64,
}

impl Belief {
    #[must_use]
    pub fn is_employed(&self) -> bool {
        matches!(self.employment, Employment::Employed { .. })
    }
}

/// All that was said about one person, in order.
pub struct Timeline<'a> {
    /// Those that count, in the order in which they were made.
    statements: Vec<&'a BusinessEvent>,
    spells: Spells<'a>,
    superseded: BTreeMap<&'a str, &'a str>,
    precedence: Option<&'a Precedence>,
}

impl<'a> Timeline<'a> {
    /// The same, where sources are believed as `precedence` says.
    #[must_use]
    pub fn preferring(self, precedence: &'a Precedence) -> Self {
        Self {
            precedence: Some(precedence),
            ..self
        }
    }

    /// Of events, each with when it came: that counts only between those to which their source gave the same version. The
    /// order of `events` does not matter, nor do repetitions.
    #[must_use]
    pub fn of(events: impl IntoIterator<Item = (DateTime<Utc>, &'a BusinessEvent)>) -> Self {
        let mut statements = in_order(events);
        let mut superseded = BTreeMap::new();
        for event in statements.iter().rev() {
            if let Some(named) = event.supersedes.as_deref()
                && !superseded.contains_key(event.id.as_str())
            {
                superseded.entry(named).or_insert(event.id.as_str());
            }
        }
        // Only what was said can be superseded, and only by what was said later.
        superseded.retain(|named, by| {
            let place = |id: &str| statements.iter().position(|event| event.id == id);
            place(named).is_some_and(|named| Some(named) < place(by))
        });
        statements.retain(|event| !superseded.contains_key(event.id.as_str()));
        let mut spells = Spells::default();
        for (place, event) in statements.iter().enumerate() {
            spells.hear(place, event);
        }
        superseded.append(&mut spells.void);
        Self {
            statements,
            spells,
            superseded,
            precedence: None,
        }
    }

    /// The statement that took the place of this one, if any did.
    #[must_use]
    pub fn superseded_by(&self, id: &str) -> Option<&str> {
        self.superseded.get(id).copied()
    }

    /// From when to when somebody is employed, sorted.
    #[must_use]
    pub fn spells(&self) -> &[Spell<'a>] {
        &self.spells.list
    }

    #[must_use]
    pub fn at(&self, at: DateTime<Utc>) -> Belief {
        let employment = self.spells.at(at);
        let seen_at = match employment {
            Employment::Expected { from } => from,
            _ => at,
        };
        let employed = matches!(employment, Employment::Employed { .. });
        let keys: BTreeSet<&str> = self
            .statements
            .iter()
            .map(|event| event.subject.as_str())
            .collect();
        let (told, on_leave) = if keys.len() > 1 {
            self.united(&keys, at, seen_at)
        } else {
            let told = attributes::told(&self.statements, seen_at, self.precedence);
            let key = keys.first().copied().unwrap_or_default();
            (told, self.is_away(key, at))
        };
        Belief {
            on_leave: employed && on_leave,
            employment,
            version: told.version,
            attributes: told.values,
            origins: told.origins,
        }
    }

    fn is_away(&self, key: &str, at: DateTime<Utc>) -> bool {
        let begun = self.spells.begun(key, at);
        let said = self.statements.iter().enumerate().filter(|(_, event)| {
            matches!(
                event.event_type,
                EventType::LeaveStart | EventType::LeaveEnd
            ) && event.subject.as_str() == key
                && event.effective_at <= at
                && begun.is_some_and(|begun| event.effective_at >= begun)
        });
        said.max_by_key(|(place, event)| (event.effective_at, *place))
            .is_some_and(|(_, event)| event.event_type == EventType::LeaveStart)
    }
}

/// The order in which statements were made, each once. A source numbers its own by `version`; those of different
/// sources are put in order by when they were said, where a later version was never said before an earlier one.
fn in_order<'a>(
    events: impl IntoIterator<Item = (DateTime<Utc>, &'a BusinessEvent)>,
) -> Vec<&'a BusinessEvent> {
    let own = |came: DateTime<Utc>, event: &'a BusinessEvent| {
        let class = class(event.event_type);
        (
            event.version,
            came,
            class,
            event.effective_at,
            event.id.as_str(),
        )
    };
    let mut events: Vec<(DateTime<Utc>, &BusinessEvent)> = events.into_iter().collect();
    events.sort_by_key(|(came, event)| (event.source.as_str(), own(*came, event)));
    events.dedup_by(|a, b| a.1.id == b.1.id);
    let mut said: Vec<(DateTime<Utc>, &BusinessEvent)> = Vec::with_capacity(events.len());
    for (_, event) in events {
        let before = said
            .last()
            .filter(|(_, other)| other.source == event.source);
        let at = before.map_or(event.occurred_at, |(at, _)| event.occurred_at.max(*at));
        said.push((at, event));
    }
    // Those of one moment and source stay as they are.
    said.sort_by(|a, b| (a.0, &a.1.source).cmp(&(b.0, &b.1.source)));
    said.into_iter().map(|(_, event)| event).collect()
}
