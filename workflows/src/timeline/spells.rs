//! From when to when somebody is employed.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::{Class, Employment, class};
use crate::sources::BusinessEvent;

/// One employment, or one contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spell<'a> {
    /// The key under which it was told.
    pub subject: &'a str,
    /// The contract, where its statements name one.
    pub contract: Option<&'a str>,
    pub start: DateTime<Utc>,
    /// The event it begins with.
    pub begun_by: &'a str,
    /// When it ends, and the event that says so.
    pub end: Option<(DateTime<Utc>, &'a str)>,
}

impl Spell<'_> {
    fn is_of(&self, event: &BusinessEvent) -> bool {
        self.subject == event.subject.as_str() && self.contract == contract(event)
    }

    fn ends_after(&self, at: DateTime<Utc>) -> bool {
        self.end.is_none_or(|(end, _)| end > at)
    }

    fn runs(&self, at: DateTime<Utc>) -> bool {
        self.start <= at && self.ends_after(at)
    }
}

/// Until when somebody is there without a gap, as seen at a moment: through contracts that overlap or follow each other.
/// `None` when nothing runs then, or no end is known. Each spell is its start and its end.
#[must_use]
pub fn runs_until(
    spells: &[(DateTime<Utc>, Option<DateTime<Utc>>)],
    at: DateTime<Utc>,
) -> Option<DateTime<Utc>> {
    let mut until = at;
    // Each round takes one more in.
    for _ in 0..=spells.len() {
        let reaching = spells.iter().filter(|(start, _)| *start <= until);
        let mut ends = reaching
            .map(|(_, end)| *end)
            .filter(|end| end.is_none_or(|end| end > until));
        let Some(first) = ends.next() else { break };
        let furthest = ends.try_fold(first?, |most, end| end.map(|end| most.max(end)))?;
        until = furthest;
    }
    (until > at).then_some(until)
}

#[derive(Default)]
pub(super) struct Spells<'a> {
    pub list: Vec<Spell<'a>>,
    /// Statements that count no more, and what took their place.
    pub void: BTreeMap<&'a str, &'a str>,
    /// Demands that everything ends: since when, and the place among the statements.
    revoked: Vec<(DateTime<Utc>, usize)>,
    /// What lifts such demands.
    lifted: Vec<(DateTime<Utc>, usize)>,
}

impl<'a> Spells<'a> {
    /// Takes the next statement in, in the order in which they were made.
    pub fn hear(&mut self, place: usize, event: &'a BusinessEvent) {
        let said = (event.effective_at, place);
        match class(event.event_type) {
            Class::Begins => {
                self.lifted.push(said);
                self.begins(event);
            }
            Class::Cancels => {
                self.lifted.push(said);
                self.cancels(event);
            }
            Class::Rescinded => self.rescinded(event),
            Class::PlannedEnd | Class::Terminated => self.ends(event),
            Class::Revoked => self.revoked.push(said),
            Class::Other => {}
        }
    }

    /// The spells of the event's contract, the last first.
    fn of(&mut self, event: &'a BusinessEvent) -> impl Iterator<Item = &mut Spell<'a>> {
        let spells = self.list.iter_mut().rev();
        spells.filter(move |spell| spell.is_of(event))
    }

    fn begins(&mut self, event: &'a BusinessEvent) {
        let (start, id) = (event.effective_at, event.id.as_str());
        // The first in time: those of one contract never overlap.
        let open = self
            .of(event)
            .filter(|spell| spell.ends_after(start))
            .last();
        match open {
            // It ran already when this was said: it goes on, and what was to follow is part of it.
            Some(spell) if spell.start <= start && spell.start <= event.occurred_at => {
                let void = spell.end.take().map(|(_, by)| (by, id));
                let ran = spell.start;
                self.void.extend(void);
                self.absorb(event, ran);
            }
            // It was to begin at another moment.
            Some(spell) => {
                let void = std::mem::replace(&mut spell.begun_by, id);
                spell.start = start;
                self.void.insert(void, id);
            }
            None => self.list.push(Spell {
                subject: event.subject.as_str(),
                contract: contract(event),
                start,
                begun_by: id,
                end: None,
            }),
        }
        self.list.sort_by_key(|spell| spell.start);
    }

    /// Lets the spell that began at `start` take in those of its contract that were to follow.
    fn absorb(&mut self, event: &'a BusinessEvent, start: DateTime<Utc>) {
        let follows = |spell: &Spell<'_>| spell.is_of(event) && spell.start > start;
        let later: Vec<Spell<'a>> = self
            .list
            .iter()
            .filter(|spell| follows(spell))
            .cloned()
            .collect();
        self.list.retain(|spell| !follows(spell));
        let end = later.last().and_then(|spell| spell.end);
        for spell in later {
            self.void.insert(spell.begun_by, &event.id);
        }
        if let Some(spell) = self.of(event).next() {
            spell.end = end;
        }
    }

    fn rescinded(&mut self, event: &'a BusinessEvent) {
        let (at, id, said_at) = (event.effective_at, event.id.as_str(), event.occurred_at);
        let Some(spell) = self.of(event).next() else {
            return;
        };
        if spell.start < at && spell.start <= said_at {
            let void = spell.end.replace((at, id)).map(|(_, by)| by);
            self.void.extend(void.map(|void| (void, id)));
        } else {
            let gone = spell.clone();
            self.take_away(&gone, id);
        }
    }

    fn take_away(&mut self, gone: &Spell<'a>, by: &'a str) {
        self.void.insert(gone.begun_by, by);
        self.void.extend(gone.end.map(|(_, end)| (end, by)));
        self.list.retain(|spell| spell != gone);
    }

    fn cancels(&mut self, event: &'a BusinessEvent) {
        let last = self.of(event).next();
        let void = last.and_then(|spell| spell.end.take());
        let void = void.map(|(_, by)| (by, event.id.as_str()));
        self.void.extend(void);
    }

    fn ends(&mut self, event: &'a BusinessEvent) {
        let (at, id) = (event.effective_at, event.id.as_str());
        let is_late = class(event.event_type) == Class::Terminated;
        let runs = self.of(event).find(|spell| spell.start < at);
        let void = runs.map(|spell| match spell.end {
            Some((end, by)) if is_late && end <= at => Some((id, by)),
            _ => spell.end.replace((at, id)).map(|(_, by)| (by, id)),
        });
        if let Some(void) = void {
            self.void.extend(void);
            return;
        }
        // It ends before it begins: it never does.
        if let Some(spell) = self.of(event).last() {
            let gone = spell.clone();
            self.take_away(&gone, id);
        }
    }

    pub fn at(&self, at: DateTime<Utc>) -> Employment {
        let is_lifted = |revoked: usize| {
            let mut lifts = self.lifted.iter();
            lifts.any(|(from, place)| *from <= at && *place > revoked)
        };
        let standing = self
            .revoked
            .iter()
            .filter(|(from, place)| *from <= at && !is_lifted(*place));
        if let Some((revoked, _)) = standing.min() {
            return Employment::Revoked { at: *revoked };
        }
        let mut running = self.list.iter().filter(|spell| spell.runs(at)).peekable();
        if running.peek().is_some() {
            let (mut since, mut until) = (at, Some(DateTime::<Utc>::MIN_UTC));
            for spell in running {
                since = since.min(spell.start);
                let end = spell.end.map(|(end, _)| end);
                until = until.zip(end).map(|(until, end)| until.max(end));
            }
            return Employment::Employed { since, until };
        }
        let next = self.list.iter().map(|spell| spell.start);
        let next = next.filter(|start| *start > at).min();
        let ends = self.list.iter().filter_map(|spell| spell.end);
        let ended = ends.map(|(end, _)| end).filter(|end| *end <= at).max();
        match (ended, next) {
            (Some(at), returns) => Employment::Ended { at, returns },
            (None, Some(from)) => Employment::Expected { from },
            (None, None) => Employment::Unknown,
        }
    }

    /// When the longest of the running spells began that were told under this key.
    pub fn begun(&self, subject: &str, at: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let running = self.list.iter().filter(|spell| spell.runs(at));
        let told = running.filter(|spell| spell.subject == subject);
        told.map(|spell| spell.start).min()
    }
}

/// The contract that an event is about.
fn contract(event: &BusinessEvent) -> Option<&str> {
    event.data.get("contract").and_then(Value::as_str)
}
