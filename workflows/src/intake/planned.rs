//! Workflows that start before what starts them takes effect, or after. Pure.
//!
//! Each event that counts has one plan for each such workflow, which is made, moved and dropped with what is believed: a
//! first day that is moved moves the week before it, and one that is taken back has none. A plan that has started is kept,
//! so that it never starts again.
//!
//! While it is open who somebody is, what would be given starts nothing: it is held when its time comes, which the clock does
//! not look at again. The transaction that ends the question starts it, if it is still wanted then. What an end calls for is
//! never held.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{NaiveDateTime, TimeDelta, TimeZone as _};
use chrono_tz::Tz;
use engine::core::Timestamp;
use engine::core::definition::Definition;

use crate::directory::{PlannedRow, PlannedStatus};
use crate::sources::BusinessEvent;
use crate::timeline::{Belief, Class, Employment, Timeline, class};

/// Who is told of something later than so long after a workflow should have started for it starts none.
const LATE_MAX: TimeDelta = TimeDelta::days(30);
const DAY: TimeDelta = TimeDelta::days(1);

/// What is to be changed about the plans of one person.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plans<'a> {
    pub put: Vec<PlannedRow>,
    pub dropped: Vec<PlannedRow>,
    pub starts: Vec<Planned<'a>>,
}

/// A workflow whose time has come.
#[derive(Debug, PartialEq)]
pub(super) struct Planned<'a> {
    pub definition: Arc<Definition>,
    pub event: &'a BusinessEvent,
    pub due_at: Timestamp,
}

/// Where and when the plans of somebody are made.
pub(super) struct Whose<'a> {
    pub timeline: &'a Timeline<'a>,
    /// What is believed now.
    pub is: &'a Belief,
    /// Whether nothing may be given for now.
    pub is_held: bool,
    /// Where what is kept about a key lies.
    pub shard: &'a dyn Fn(&str) -> i32,
    pub now: Timestamp,
}

/// Compares the plans that are known with those that `events` call for.
pub(super) fn plans<'a>(
    definitions: &[Arc<Definition>],
    whose: &Whose<'_>,
    events: &'a [(Timestamp, BusinessEvent)],
    known: &[PlannedRow],
) -> Plans<'a> {
    let mut plans = Plans::default();
    let mut left: BTreeMap<(&str, &str), &PlannedRow> = known
        .iter()
        .map(|row| ((row.workflow.as_str(), row.event_id.as_str()), row))
        .collect();
    for definition in definitions {
        for (_, event) in events {
            let reacts = definition
                .on
                .iter()
                .any(|on| on == event.event_type.as_str());
            if !reacts || !whose.calls_for(definition, event) {
                continue;
            }
            let due_at = due(definition, event);
            let before = left.remove(&(definition.name.as_str(), event.id.as_str()));
            let has_started = before.is_some_and(|row| row.status == PlannedStatus::Started);
            let is_too_late = before.is_none() && due_at < whose.now - LATE_MAX;
            if has_started || is_too_late {
                continue;
            }
            let status = if due_at > whose.now {
                PlannedStatus::Planned
            } else if whose.is_held && !ends(event) {
                PlannedStatus::Held
            } else {
                PlannedStatus::Started
            };
            // It lies beside its event, and goes with the key when people are merged or split.
            let subject = event.subject.as_str();
            let place = before.map(|row| (row.shard_id, row.subject.as_str()));
            let (shard_id, subject) = place.unwrap_or(((whose.shard)(subject), subject));
            let row = PlannedRow {
                shard_id,
                subject: subject.to_owned(),
                workflow: definition.name.clone(),
                event_id: event.id.clone(),
                due_at,
                status,
            };
            if status == PlannedStatus::Started {
                plans.starts.push(Planned {
                    definition: Arc::clone(definition),
                    event,
                    due_at,
                });
            }
            if before != Some(&row) {
                plans.put.push(row);
            }
        }
    }
    let gone = left.into_values();
    plans.dropped = gone
        .filter(|row| row.status != PlannedStatus::Started)
        .cloned()
        .collect();
    plans
}

/// Whether an event says that somebody's access ends.
fn ends(event: &BusinessEvent) -> bool {
    matches!(
        class(event.event_type),
        Class::Rescinded | Class::PlannedEnd | Class::Terminated | Class::Revoked
    )
}

impl Whose<'_> {
    /// Whether an event, as far as is known now, is one that `definition` starts beside.
    fn calls_for(&self, definition: &Definition, event: &BusinessEvent) -> bool {
        if self.timeline.superseded_by(&event.id).is_some() {
            return false;
        }
        let begins = matches!(class(event.event_type), Class::Begins | Class::Cancels);
        let ends = ends(event);
        if definition.ahead.is_some() {
            // Nothing is prepared any more once it is there.
            let is_to_come = event.effective_at > self.now;
            return is_to_come && (begins || self.is.is_employed());
        }
        // Before it takes effect only its own time counts; from then on, that it still holds.
        if event.effective_at > self.now {
            return true;
        }
        match self.is.employment {
            Employment::Employed { since, .. } => !ends && event.effective_at >= since,
            Employment::Ended { at, .. } => ends && event.effective_at >= at,
            Employment::Revoked { .. } => ends,
            Employment::Unknown | Employment::Expected { .. } => false,
        }
    }
}

/// When `definition` starts for an event. Whole days are those of the zone, however long they are there.
fn due(definition: &Definition, event: &BusinessEvent) -> Timestamp {
    let delta = |span: Option<engine::core::duration::Span>| {
        span.map_or(TimeDelta::zero(), |span| span.delta())
    };
    let offset = delta(definition.after) - delta(definition.ahead);
    let days = TimeDelta::days(offset.num_days());
    let zone: Tz = event.zone.parse().unwrap_or(Tz::UTC);
    let local = event.effective_at.with_timezone(&zone).naive_local();
    let there = local
        .checked_add_signed(days)
        .map(|local| in_zone(local, zone));
    there.unwrap_or(event.effective_at) + (offset - days)
}

/// A reading of the clock: the first of two, and where clocks jump over it, as much later as they jump.
fn in_zone(local: NaiveDateTime, zone: Tz) -> Timestamp {
    let exact = |local: NaiveDateTime| zone.from_local_datetime(&local).earliest();
    let there = exact(local).or_else(|| {
        // No gap is longer than a day.
        let before = exact(local - DAY)?;
        Some(before + DAY)
    });
    there.map_or_else(|| local.and_utc(), |there| there.to_utc())
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        reason = "tests"
    )]
    use serde_json::json;

    use super::*;
    use crate::sources::{EventType, Key};

    fn definition(text: &str) -> Arc<Definition> {
        let text = format!("{text}\nsteps: [{{ id: a, uses: noop }}]\n");
        Arc::new(Definition::parse("t.yaml", &text, &[], &|_| true).unwrap())
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn event(
        id: &str,
        event_type: EventType,
        effective_at: &str,
        version: i64,
    ) -> (Timestamp, BusinessEvent) {
        let event = BusinessEvent {
            id: id.to_owned(),
            source: "hr".to_owned(),
            event_type,
            subject: Key::new("P1"),
            occurred_at: at("2026-01-01T00:00:00Z"),
            effective_at: at(effective_at),
            zone: "Europe/Zurich".to_owned(),
            version,
            supersedes: None,
            data: json!({}),
        };
        (event.occurred_at, event)
    }

    /// What is started at each moment, and planned after it, going on with what was planned before.
    fn told(
        definitions: &[Arc<Definition>],
        events: &[(Timestamp, BusinessEvent)],
        moments: &[&str],
    ) -> Vec<String> {
        told_while(definitions, events, moments, &[])
    }

    /// The same, with nothing given at the moments of `held`.
    fn told_while(
        definitions: &[Arc<Definition>],
        events: &[(Timestamp, BusinessEvent)],
        moments: &[&str],
        held: &[&str],
    ) -> Vec<String> {
        let mut known: BTreeMap<(String, String), PlannedRow> = BTreeMap::new();
        let mut told = Vec::new();
        for moment in moments {
            let timeline = Timeline::of(events.iter().map(|(came, event)| (*came, event)));
            let is = timeline.at(at(moment));
            let whose = Whose {
                timeline: &timeline,
                is: &is,
                is_held: held.contains(moment),
                shard: &|_| 0,
                now: at(moment),
            };
            let rows: Vec<PlannedRow> = known.values().cloned().collect();
            let plans = plans(definitions, &whose, events, &rows);
            for row in plans.dropped {
                known.remove(&(row.workflow, row.event_id));
            }
            for row in plans.put {
                known.insert((row.workflow.clone(), row.event_id.clone()), row);
            }
            let started = plans
                .starts
                .iter()
                .map(|start| format!("{} {}", start.definition.name, start.event.id));
            let mut started: Vec<String> = started.collect();
            let open = known
                .values()
                .filter(|row| row.status != PlannedStatus::Started);
            started.extend(open.map(|row| match row.status {
                PlannedStatus::Held => format!("{} {} held", row.workflow, row.event_id),
                _ => format!(
                    "{} {} at {}",
                    row.workflow,
                    row.event_id,
                    row.due_at.format("%m-%dT%H")
                ),
            }));
            told.push(started.join(", "));
        }
        told
    }

    #[test]
    fn what_the_page_shows_is_a_workflow() {
        let page = include_str!("../../../docs/workflows.md");
        let (_, rest) = page.split_once("```yaml\n").unwrap();
        let (text, _) = rest.split_once("```").unwrap();
        let own = [("prepare.yaml".to_owned(), text.to_owned())];
        let loaded = crate::definitions::load(&own).unwrap();
        let prepare = loaded
            .iter()
            .find(|definition| definition.name == "prepare")
            .unwrap();
        assert_eq!(prepare.started_by(), "7d before hire, rehire");
    }

    #[test]
    fn what_is_prepared_follows_the_first_day() {
        let week = [definition("name: prepare\non: [hire]\nahead: 7d")];
        // Midnight of the 1st of April in Zurich; the clocks change on the 29th of March.
        let hire = event("h", EventType::Hire, "2026-03-31T22:00:00Z", 1);
        let moments = [
            "2026-03-01T00:00:00Z",
            "2026-03-24T22:59:59Z",
            "2026-03-24T23:00:00Z",
            "2026-03-25T00:00:00Z",
        ];
        assert_eq!(
            told(&week, std::slice::from_ref(&hire), &moments),
            [
                "prepare h at 03-24T23",
                "prepare h at 03-24T23",
                "prepare h",
                ""
            ]
        );
        // Told within the week it starts at once, told after it never does.
        assert_eq!(
            told(
                &week,
                std::slice::from_ref(&hire),
                &["2026-03-30T00:00:00Z", "2026-03-30T00:00:01Z"]
            ),
            ["prepare h", ""]
        );
        assert_eq!(
            told(
                &week,
                std::slice::from_ref(&hire),
                &["2026-04-01T00:00:00Z"]
            ),
            [""]
        );
        // Moved, it is prepared for the new day alone; rescinded, for none.
        let moved = event("m", EventType::Hire, "2026-04-30T22:00:00Z", 2);
        let moments = [
            "2026-03-01T00:00:00Z",
            "2026-03-26T00:00:00Z",
            "2026-04-24T00:00:00Z",
        ];
        assert_eq!(
            told(&week, &[hire.clone(), moved.clone()], &moments),
            [
                "prepare m at 04-23T22",
                "prepare m at 04-23T22",
                "prepare m"
            ]
        );
        let rescinded = event("r", EventType::HireRescinded, "2026-03-02T00:00:00Z", 3);
        assert_eq!(
            told(&week, &[hire, moved, rescinded], &["2026-03-01T00:00:00Z"]),
            [""]
        );
    }

    #[test]
    fn what_comes_after_holds_as_long_as_the_life() {
        let month = [
            definition("name: review\non: [hire, rehire]\nafter: 30d"),
            definition("name: delete\non: [termination.effective]\nafter: 90d"),
        ];
        let hire = event("h", EventType::Hire, "2026-01-10T00:00:00Z", 1);
        let moments = [
            "2026-01-05T00:00:00Z",
            "2026-01-11T00:00:00Z",
            "2026-02-09T00:00:00Z",
            "2026-02-10T00:00:00Z",
        ];
        assert_eq!(
            told(&month, std::slice::from_ref(&hire), &moments),
            [
                "review h at 02-09T00",
                "review h at 02-09T00",
                "review h",
                ""
            ]
        );
        // Years of history start nothing that would have been then.
        assert_eq!(
            told(
                &month,
                std::slice::from_ref(&hire),
                &["2028-01-01T00:00:00Z"]
            ),
            [""]
        );
        let left = event(
            "t",
            EventType::TerminationEffective,
            "2026-01-20T00:00:00Z",
            2,
        );
        assert_eq!(
            told(
                &month,
                &[hire.clone(), left.clone()],
                &[
                    "2026-01-15T00:00:00Z",
                    "2026-01-21T00:00:00Z",
                    "2026-02-10T00:00:00Z"
                ]
            ),
            [
                "delete t at 04-19T23, review h at 02-09T00",
                "delete t at 04-19T23",
                "delete t at 04-19T23"
            ]
        );
        // Back within the grace: nothing of the first life happens in the second.
        let back = event("b", EventType::Rehire, "2026-02-01T00:00:00Z", 3);
        assert_eq!(
            told(
                &month,
                &[hire, left, back],
                &[
                    "2026-01-21T00:00:00Z",
                    "2026-02-02T00:00:00Z",
                    "2026-03-03T00:00:00Z",
                    "2026-05-01T00:00:00Z"
                ]
            ),
            [
                "delete t at 04-19T23, review b at 03-03T00",
                "review b at 03-03T00",
                "review b",
                ""
            ]
        );
    }
    #[test]
    fn what_is_held_starts_once_it_is_not_and_is_still_wanted() {
        let beside = [
            definition("name: prepare\non: [hire]\nahead: 7d"),
            definition("name: review\non: [hire]\nafter: 30d"),
            definition("name: handover\non: [termination.scheduled]\nahead: 7d"),
        ];
        let hire = event("h", EventType::Hire, "2026-03-31T22:00:00Z", 1);
        let (early, week, later) = (
            "2026-03-01T00:00:00Z",
            "2026-03-25T00:00:00Z",
            "2026-03-28T00:00:00Z",
        );
        assert_eq!(
            told_while(
                &beside,
                std::slice::from_ref(&hire),
                &[early, week, week, later, later],
                &[early, week]
            ),
            [
                "prepare h at 03-24T23, review h at 04-30T22",
                "prepare h held, review h at 04-30T22",
                "prepare h held, review h at 04-30T22",
                "prepare h, review h at 04-30T22",
                "review h at 04-30T22"
            ]
        );
        // When the day is there it is not prepared any more; what comes after it waits as long as it has to.
        let (day, month, year) = (
            "2026-04-01T00:00:00Z",
            "2026-05-02T00:00:00Z",
            "2027-05-02T00:00:00Z",
        );
        assert_eq!(
            told_while(
                &beside,
                std::slice::from_ref(&hire),
                &[week, day, month, year],
                &[week, day, month]
            ),
            [
                "prepare h held, review h at 04-30T22",
                "review h at 04-30T22",
                "review h held",
                "review h"
            ]
        );
        // Moved while it is held it is to come again, and taken back it is gone.
        let moved = event("m", EventType::Hire, "2026-05-31T22:00:00Z", 2);
        let rescinded = event("r", EventType::HireRescinded, "2026-03-26T00:00:00Z", 3);
        let started = told_while(&beside, &[hire.clone(), moved.clone()], &[week], &[week]);
        assert_eq!(started, ["prepare m at 05-24T22, review m at 06-30T22"]);
        let started = told_while(&beside, &[hire.clone(), moved, rescinded], &[week], &[week]);
        assert_eq!(started, [""]);
        // An end is prepared, whoever it is.
        let ends = event(
            "t",
            EventType::TerminationScheduled,
            "2026-05-20T00:00:00Z",
            2,
        );
        let may = "2026-05-14T00:00:00Z";
        assert_eq!(
            told_while(&beside, &[hire, ends], &[may], &[may]),
            ["handover t, review h held"]
        );
    }
}
