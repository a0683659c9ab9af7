//! What events make of a person. Pure.
//!
//! Some events tell all that is known of a person (`attributes`), others only what changed. The person is as the newest
//! statement of all attributes says, changed by everything partial that it did not know of: what was said later, or holds
//! from later on. Partial statements count in the order from which they hold, and of two that hold from the same moment the
//! one of the higher version wins. So the attributes are the same in whatever order events come.

use engine::core::Timestamp;
use serde_json::Value;

use super::order::{Class, class};
use crate::directory::{IdentityRow, IdentityStatus};
use crate::sources::record::attribute;
use crate::sources::{BusinessEvent, IdentityType, Said};

/// What one event has said about a person.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Statement {
    pub event_id: String,
    pub version: i64,
    pub effective_at: Timestamp,
    /// Whether it holds by now.
    pub holds: bool,
    pub said: Said,
}

impl Statement {
    pub fn of(event: &BusinessEvent, holds: bool) -> Self {
        Self {
            event_id: event.id.clone(),
            version: event.version,
            effective_at: event.effective_at,
            holds,
            said: event.said(),
        }
    }
}

/// The person after `event`, which is effective if `started`, given what all others have said. `None` when nothing is known
/// about the person and the event does not introduce them.
pub(super) fn after(
    before: Option<&IdentityRow>,
    event: &BusinessEvent,
    started: bool,
    others: &[Statement],
    shard_id: i32,
    now: Timestamp,
) -> Option<IdentityRow> {
    let class = class(event.event_type);
    let mut person = match before {
        Some(before) => before.clone(),
        None if class == Class::Begins => introduced(event, shard_id, now),
        None => return None,
    };
    // What is announced changes nothing yet, except that somebody new is known.
    if started {
        take_over(&mut person, event, others, now);
        let back = matches!(class, Class::Begins | Class::Cancels)
            && matches!(
                person.status,
                IdentityStatus::Leaving | IdentityStatus::Departed
            );
        if back {
            person.generation = person.generation.saturating_add(1);
            person.status = IdentityStatus::Expected;
            person.status_case = None;
            person.departed_at = None;
            person.changed_at = now;
        }
    }
    Some(person)
}

fn introduced(event: &BusinessEvent, shard_id: i32, now: Timestamp) -> IdentityRow {
    let mut person = IdentityRow {
        shard_id,
        identity_key: event.subject.as_str().to_owned(),
        identity_type: IdentityType::default().as_str().to_owned(),
        status: IdentityStatus::Expected,
        status_case: None,
        generation: 1,
        source: event.source.clone(),
        display_name: event.subject.as_str().to_owned(),
        attributes: std::collections::BTreeMap::new(),
        attributes_version: i64::MIN,
        first_seen_at: now,
        changed_at: now,
        departed_at: None,
    };
    take_over(&mut person, event, &[], now);
    person
}

/// Takes over what the event says about the person, unless something newer was said.
fn take_over(
    person: &mut IdentityRow,
    event: &BusinessEvent,
    others: &[Statement],
    now: Timestamp,
) {
    let own = Statement::of(event, true);
    let (mut attributes, (base_version, base_from)) = match &own.said {
        Said::All(_) if own.version < person.attributes_version => return,
        Said::All(all) => {
            person.attributes_version = own.version;
            person.source.clone_from(&event.source);
            (all.clone(), (own.version, own.effective_at))
        }
        Said::Some(parts) if parts.is_empty() => return,
        Said::Some(_) => (person.attributes.clone(), base(person, others)),
    };
    // The newest statement of all knew of what was said before it and held by then.
    let covered =
        |other: &Statement| other.version < base_version && other.effective_at <= base_from;
    let mut partial: Vec<&Statement> = others
        .iter()
        .filter(|other| other.holds && other.event_id != own.event_id)
        .chain([&own])
        .filter(|other| !covered(other))
        .collect();
    partial.sort_by_key(|other| (other.effective_at, other.version, &other.event_id));
    for statement in partial {
        if let Said::Some(parts) = &statement.said {
            for part in parts {
                part.apply(&mut attributes);
            }
        }
    }
    let text = |name: &str| attributes.get(name).and_then(Value::as_str);
    if let Some(kind) = text(attribute::TYPE) {
        person.identity_type = kind.to_owned();
    }
    person.display_name = ["name", "display_name", "full_name"]
        .into_iter()
        .find_map(text)
        .unwrap_or(event.subject.as_str())
        .to_owned();
    person.attributes = attributes;
    person.changed_at = now;
}

/// Version and moment of the statement of all attributes that the person is as.
fn base(person: &IdentityRow, others: &[Statement]) -> (i64, Timestamp) {
    let all = others.iter().filter(|other| {
        matches!(other.said, Said::All(_)) && other.version == person.attributes_version
    });
    all.map(|other| (other.version, other.effective_at))
        .max()
        .unwrap_or((person.attributes_version, Timestamp::MAX_UTC))
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
    use chrono::TimeDelta;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::sources::{EventType, Key};

    fn start() -> Timestamp {
        "2026-03-01T12:00:00Z".parse().unwrap()
    }

    /// An event that holds `day` days after the start.
    fn event(
        id: usize,
        event_type: EventType,
        version: i64,
        day: i64,
        data: Value,
    ) -> BusinessEvent {
        BusinessEvent {
            id: format!("e{id}"),
            source: "hr".to_owned(),
            event_type,
            subject: Key::new("E1"),
            occurred_at: start(),
            effective_at: start() + TimeDelta::days(day),
            zone: "UTC".to_owned(),
            version,
            supersedes: None,
            data,
        }
    }

    /// Somebody of whom nothing is known, after these events in this order, all of which hold.
    fn told(events: &[&BusinessEvent]) -> IdentityRow {
        let hire = event(999, EventType::Hire, 0, 0, json!({}));
        let mut person = after(None, &hire, true, &[], 0, start()).unwrap();
        let mut others = vec![Statement::of(&hire, true)];
        for event in events {
            person = after(Some(&person), event, true, &others, 0, start()).unwrap();
            others.push(Statement::of(event, true));
        }
        person
    }

    fn sets(department: &str) -> Value {
        json!({ "changes": { "department": { "to": department } } })
    }

    #[track_caller]
    fn check(events: &[BusinessEvent], expected: Value) {
        let there: Vec<&BusinessEvent> = events.iter().collect();
        let back: Vec<&BusinessEvent> = events.iter().rev().collect();
        for order in [there, back] {
            let person = told(&order);
            assert_eq!(json!(person.attributes), expected, "{order:#?}");
        }
    }

    #[test]
    fn what_changed_is_taken_over_and_the_rest_stays() {
        use EventType::{
            Conversion, LeaveEnd, LeaveStart, ManagerChanged, ProjectEnd, ProjectStart,
            TerminationCancelled, Transfer,
        };
        let all = |version, day| {
            let attributes = json!({ "name": "Ada", "department": "Sales", "projects": ["x"] });
            event(
                0,
                Transfer,
                version,
                day,
                json!({ "attributes": attributes }),
            )
        };
        check(
            &[
                all(1, 0),
                event(1, Transfer, 2, 1, sets("Research")),
                event(2, ManagerChanged, 3, 1, json!({ "to": { "key": "M1" } })),
                event(3, ProjectStart, 4, 1, json!({ "project": "a" })),
                event(4, ProjectEnd, 4, 2, json!({ "project": "x" })),
                event(5, LeaveStart, 5, 1, json!({})),
                event(
                    6,
                    Conversion,
                    6,
                    1,
                    json!({ "changes": { "type": { "to": "contractor" } } }),
                ),
            ],
            json!({ "name": "Ada", "department": "Research", "manager": "M1", "projects": ["a"],
                "employment_status": "leave", "type": "contractor" }),
        );
        // A newer statement of everything knew of it.
        check(
            &[event(1, Transfer, 2, 1, sets("Research")), all(3, 2)],
            json!({ "name": "Ada", "department": "Sales", "projects": ["x"] }),
        );
        // It knew of it, but it did not hold yet.
        check(
            &[event(1, Transfer, 2, 9, sets("Research")), all(3, 2)],
            json!({ "name": "Ada", "department": "Research", "projects": ["x"] }),
        );
        // The one that holds from later on, and of two that hold from the same moment the newer one.
        check(
            &[
                event(1, Transfer, 9, 1, sets("A")),
                event(2, Transfer, 2, 3, sets("B")),
            ],
            json!({ "department": "B" }),
        );
        check(
            &[
                event(1, Transfer, 3, 1, sets("A")),
                event(2, Transfer, 2, 1, sets("B")),
            ],
            json!({ "department": "A" }),
        );
        check(
            &[
                event(1, LeaveStart, 1, 1, json!({})),
                event(2, LeaveEnd, 2, 5, json!({})),
            ],
            json!({ "employment_status": "active" }),
        );
        let gone = json!({ "to": { "key": null, "name": "Eve" } });
        check(
            &[
                event(1, ManagerChanged, 1, 1, json!({ "to": { "key": "M" } })),
                event(2, ManagerChanged, 2, 1, gone),
            ],
            json!({ "manager_name": "Eve" }),
        );
        let planned = event(
            1,
            Transfer,
            1,
            1,
            json!({ "attributes": { "employment_end": "2026-04-30" } }),
        );
        check(
            &[planned, event(2, TerminationCancelled, 2, 1, json!({}))],
            json!({}),
        );
        assert_eq!(
            told(&[&event(
                1,
                Transfer,
                1,
                1,
                json!({ "changes": { "name": { "to": "Ada" } } })
            )])
            .display_name,
            "Ada"
        );
    }

    proptest! {
        /// Every order of the same statements, with different versions, ends in the same person.
        #[test]
        fn any_order_ends_in_the_same_person(
            drawn in prop::collection::vec((0..7_usize, 0..4_i64, 0..3_u8), 1..9),
            seed in any::<u64>(),
        ) {
            let events: Vec<BusinessEvent> = drawn.iter().enumerate().map(|(id, (kind, day, value))| {
                let version = i64::try_from(id).unwrap() + 1;
                let value = value.to_string();
                let (event_type, data) = match kind {
                    0 => (EventType::Transfer, json!({ "attributes": { "department": value, "grade": value, "projects": [value] } })),
                    1 => (EventType::Transfer, sets(&value)),
                    2 => (EventType::CostCenterChanged, json!({ "changes": { "grade": { "to": null }, "cost_center": { "to": value } } })),
                    3 => (EventType::ProjectStart, json!({ "project": value })),
                    4 => (EventType::ProjectEnd, json!({ "project": value })),
                    5 => (EventType::ManagerChanged, json!({ "to": { "key": value } })),
                    _ => (EventType::LeaveStart, json!({})),
                };
                event(id, event_type, version, *day, data)
            }).collect();
            let in_order: Vec<&BusinessEvent> = events.iter().collect();
            let mut shuffled = in_order.clone();
            let mut draw = seed;
            for place in (1..shuffled.len()).rev() {
                draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                shuffled.swap(place, (draw >> 33) as usize % (place + 1));
            }
            prop_assert_eq!(told(&in_order), told(&shuffled));
        }
    }
}
