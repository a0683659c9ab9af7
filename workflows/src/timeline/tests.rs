//! Pictures of people.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use chrono::{DateTime, NaiveDate, Utc};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::sources::Key;

fn day(text: &str) -> DateTime<Utc> {
    let day: NaiveDate = format!("2026-{text}").parse().unwrap();
    day.and_hms_opt(0, 0, 0).unwrap().and_utc()
}

/// An event of version `version`, said on the day `said`, effective on the day `effective`.
fn event(
    event_type: EventType,
    version: i64,
    said: &str,
    effective: &str,
    data: Value,
) -> BusinessEvent {
    BusinessEvent {
        id: format!("e{version}"),
        source: "hr".to_owned(),
        event_type,
        subject: Key::new("X1"),
        occurred_at: day(said),
        effective_at: day(effective),
        zone: "UTC".to_owned(),
        version,
        supersedes: None,
        data,
    }
}

fn says(event_type: EventType, version: i64, said: &str, effective: &str) -> BusinessEvent {
    event(event_type, version, said, effective, json!({}))
}

/// All that came at once.
fn timeline(events: &[BusinessEvent]) -> Timeline<'_> {
    Timeline::of(events.iter().map(|event| (day("01-01"), event)))
}

/// Where somebody stands on a day: `active`, `away`, `expected`, `ended`, `revoked` or `unknown`.
fn stands(events: &[BusinessEvent], on: &str) -> &'static str {
    let belief = timeline(events).at(day(on));
    match belief.employment {
        Employment::Unknown => "unknown",
        Employment::Expected { .. } => "expected",
        Employment::Employed { .. } if belief.on_leave => "away",
        Employment::Employed { .. } => "active",
        Employment::Revoked { .. } => "revoked",
        Employment::Ended { .. } => "ended",
    }
}

#[track_caller]
fn check(events: &[BusinessEvent], expected: &[(&str, &str)]) {
    for (on, standing) in expected {
        assert_eq!(&stands(events, on), standing, "on {on}");
    }
}

#[test]
fn a_cancellation_that_is_withdrawn_lets_the_end_stand() {
    use EventType::{Hire, TerminationCancelled, TerminationScheduled, Transfer};
    let mut events = vec![
        says(Hire, 1, "01-01", "01-01"),
        says(TerminationScheduled, 2, "02-01", "06-30"),
        says(TerminationCancelled, 3, "03-01", "03-01"),
    ];
    check(&events, &[("06-29", "active"), ("07-01", "active")]);
    let mut withdrawn = says(Transfer, 4, "04-01", "04-01");
    withdrawn.supersedes = Some("e3".to_owned());
    events.push(withdrawn);
    check(&events, &[("06-29", "active"), ("07-01", "ended")]);
    let timeline = timeline(&events);
    assert_eq!(timeline.superseded_by("e3"), Some("e4"));
    assert_eq!(timeline.superseded_by("e2"), None);
}

#[test]
fn a_cycle_of_replacements_keeps_the_newest() {
    let mut first = says(EventType::Hire, 1, "01-01", "01-01");
    first.supersedes = Some("e2".to_owned());
    let mut second = says(EventType::Hire, 2, "01-01", "02-01");
    second.supersedes = Some("e1".to_owned());
    check(
        &[first, second],
        &[("01-15", "expected"), ("02-01", "active")],
    );
}

#[test]
fn somebody_stays_as_long_as_one_contract_runs() {
    use EventType::{ContractExpired, ContractStart};
    let of = |contract: &str| json!({ "contract": contract });
    let events = [
        event(ContractStart, 1, "01-01", "01-01", of("A")),
        event(ContractExpired, 2, "01-01", "06-30", of("A")),
        event(ContractStart, 3, "03-01", "05-01", of("B")),
        event(ContractExpired, 4, "03-01", "06-01", of("B")),
    ];
    check(&events, &[("06-15", "active"), ("06-30", "ended")]);
    let Employment::Employed { since, until } = timeline(&events).at(day("05-15")).employment
    else {
        panic!("not employed");
    };
    assert_eq!((since, until), (day("01-01"), Some(day("06-30"))));
}

#[test]
fn a_back_dated_change_leaves_what_became_effective_after_it() {
    use EventType::{CostCenterChanged, Hire, Transfer};
    let changes = |name: &str, to: &str| json!({ "changes": { name: { "to": to } } });
    let all = json!({ "attributes": { "department": "Sales", "cost_center": "1", "title": "A" } });
    let events = [
        event(Hire, 1, "01-01", "01-01", all),
        event(Transfer, 2, "01-05", "06-01", changes("department", "Law")),
        event(
            CostCenterChanged,
            3,
            "02-01",
            "02-01",
            changes("cost_center", "2"),
        ),
        event(
            Transfer,
            4,
            "03-01",
            "01-15",
            changes("department", "Engineering"),
        ),
    ];
    let told = |on: &str| {
        let belief = timeline(&events).at(day(on));
        let of = |name: &str| belief.attributes[name].as_str().unwrap().to_owned();
        (
            of("department"),
            of("cost_center"),
            belief.origins["department"].clone(),
        )
    };
    let told = |on| {
        let (department, cost_center, origin) = told(on);
        format!("{department} {cost_center} {origin}")
    };
    assert_eq!(told("01-10"), "Sales 1 e1");
    assert_eq!(told("01-20"), "Engineering 1 e4");
    assert_eq!(told("03-10"), "Engineering 2 e4");
    assert_eq!(told("06-01"), "Law 2 e2");
}

#[test]
fn what_is_told_beside_a_leave_does_not_undo_what_came_between() {
    use EventType::{Hire, LeaveEnd, LeaveStart, Transfer};
    let all = |department: &str| json!({ "attributes": { "department": department } });
    let events = [
        event(Hire, 1, "01-01", "01-01", all("Sales")),
        event(LeaveStart, 2, "01-10", "02-01", all("Sales")),
        event(LeaveEnd, 3, "01-10", "05-01", all("Sales")),
        event(Transfer, 4, "03-01", "03-01", all("Law")),
    ];
    check(
        &events,
        &[("01-31", "active"), ("02-01", "away"), ("05-01", "active")],
    );
    let belief = timeline(&events).at(day("06-01"));
    assert_eq!(belief.attributes["department"], "Law");
}

#[test]
fn projects_come_and_go_one_by_one() {
    use EventType::{Hire, ProjectEnd, ProjectStart};
    let project = |name: &str| json!({ "project": name });
    let events = [
        event(
            Hire,
            1,
            "01-01",
            "01-01",
            json!({ "attributes": { "projects": ["a"] } }),
        ),
        event(ProjectStart, 2, "01-02", "02-01", project("b")),
        event(ProjectEnd, 3, "01-02", "03-01", project("b")),
        event(ProjectEnd, 4, "02-10", "02-10", project("a")),
    ];
    let on = |on: &str| timeline(&events).at(day(on)).attributes["projects"].clone();
    assert_eq!(on("01-15"), json!(["a"]));
    assert_eq!(on("02-05"), json!(["a", "b"]));
    assert_eq!(on("02-15"), json!(["b"]));
    assert_eq!(on("03-01"), json!([]));
}

#[test]
fn whoever_is_expected_is_seen_as_on_their_first_day() {
    let all = json!({ "attributes": { "department": "Sales" } });
    let events = [event(EventType::Hire, 1, "01-01", "03-01", all)];
    let belief = timeline(&events).at(day("01-15"));
    assert_eq!(
        belief.employment,
        Employment::Expected { from: day("03-01") }
    );
    assert_eq!(belief.attributes["department"], "Sales");
}

fn any_event() -> impl Strategy<Value = BusinessEvent> {
    let types = prop::sample::select(EventType::ALL.to_vec());
    (
        types,
        1..12_i64,
        1..28_u32,
        1..28_u32,
        any::<bool>(),
        0..4_u8,
    )
        .prop_map(|(event_type, version, said, effective, full, detail)| {
            let day = |number: u32| format!("01-{number:02}");
            let department = format!("D{detail}");
            let mut data = if full {
                json!({ "attributes": { "department": department } })
            } else {
                json!({ "changes": { "department": { "to": department } } })
            };
            if detail == 3 {
                data["contract"] = json!("C");
            }
            let mut event = event(event_type, version, &day(said), &day(effective), data);
            event.id = format!("e{version}-{event_type}-{said}-{effective}-{full}-{detail}");
            event
        })
}

proptest! {
    /// What counts is what was said, not when it came nor how often.
    #[test]
    fn any_order_of_arrival_gives_the_same_picture(
        events in prop::collection::vec(any_event(), 1..12),
        shuffled in any::<prop::sample::Index>(),
        named in any::<prop::sample::Index>(),
    ) {
        let mut events = events;
        let id = events[named.index(events.len())].id.clone();
        events[0].supersedes = Some(id);
        let mut other = events.clone();
        other.rotate_left(shuffled.index(events.len()));
        other.extend(events.iter().rev().cloned());
        let (a, b) = (timeline(&events), timeline(&other));
        prop_assert_eq!(&a.superseded, &b.superseded);
        for number in 1..29 {
            let at = day(&format!("01-{number:02}"));
            prop_assert_eq!(a.at(at), b.at(at));
        }
        // A spell begins before it ends, and those of one contract do not overlap.
        for spell in a.spells() {
            prop_assert!(spell.end.is_none_or(|(end, _)| spell.start < end), "{:?}", spell);
        }
        for (one, two) in a.spells().iter().zip(a.spells().iter().skip(1)) {
            if one.contract == two.contract {
                prop_assert!(one.end.is_some_and(|(end, _)| end <= two.start), "{:?} {:?}", one, two);
            }
        }
    }
}

/// What `badge` and `hr` say, in the order in which they said it.
fn two_voices() -> Vec<BusinessEvent> {
    let by = |source: &str, event: BusinessEvent| BusinessEvent {
        id: format!("{source}-{}", event.id),
        source: source.to_owned(),
        ..event
    };
    let all = |version, said: &str, attributes: Value| {
        event(
            EventType::Transfer,
            version,
            said,
            said,
            json!({ "attributes": attributes }),
        )
    };
    let hire = json!({ "attributes": { "name": "Ann", "email": "ann@hr", "phone": "1" } });
    vec![
        by("hr", event(EventType::Hire, 1, "01-01", "01-01", hire)),
        by(
            "badge",
            all(2, "02-01", json!({ "email": "ann@badge", "room": "B1" })),
        ),
        by(
            "hr",
            all(
                3,
                "03-01",
                json!({ "name": "Ann", "email": "ann@hr", "phone": "1" }),
            ),
        ),
        by("badge", all(4, "04-01", json!({ "room": "B2" }))),
        by("hr", all(5, "05-01", json!({ "name": "Ann B" }))),
    ]
}

fn preferring(precedence: &str, on: &str) -> Vec<String> {
    let precedence: Precedence = crate::policy::yaml::parse("p.yaml", precedence).unwrap();
    let events = two_voices();
    let belief = timeline(&events).preferring(&precedence).at(day(on));
    let origin = |name: &String| belief.origins[name].split('-').next().unwrap().to_owned();
    let told = belief.attributes.iter();
    told.map(|(name, value)| format!("{name}={} {}", value.as_str().unwrap(), origin(name)))
        .collect()
}

#[test]
fn each_attribute_comes_from_the_best_source_that_says_it() {
    let badge_first = "{ default: [hr, badge], attributes: { email: [badge, hr] } }";
    for (on, expected) in [
        (
            "01-15",
            vec!["email=ann@hr hr", "name=Ann hr", "phone=1 hr"],
        ),
        (
            "02-15",
            vec![
                "email=ann@badge badge",
                "name=Ann hr",
                "phone=1 hr",
                "room=B1 badge",
            ],
        ),
        (
            "03-15",
            vec![
                "email=ann@badge badge",
                "name=Ann hr",
                "phone=1 hr",
                "room=B1 badge",
            ],
        ),
        // What is taken back falls to the next.
        (
            "04-15",
            vec![
                "email=ann@hr hr",
                "name=Ann hr",
                "phone=1 hr",
                "room=B2 badge",
            ],
        ),
        // And is gone when nobody says it.
        ("05-15", vec!["name=Ann B hr", "room=B2 badge"]),
    ] {
        assert_eq!(preferring(badge_first, on), expected, "{on}");
    }
    // Sources in no list come last; of those the one that spoke last comes first.
    assert_eq!(
        preferring("{ attributes: { email: [other] } }", "02-15")[0],
        "email=ann@badge badge"
    );
    assert_eq!(
        preferring("{ attributes: { email: [other] } }", "03-15")[0],
        "email=ann@hr hr"
    );
    // Where nothing is said, whoever spoke last speaks of everything.
    assert_eq!(
        preferring("{}", "02-15"),
        ["email=ann@badge badge", "room=B1 badge"]
    );
}

proptest! {
    /// In whatever order they come.
    #[test]
    fn precedence_does_not_depend_on_the_order(order in Just((0..5_usize).collect::<Vec<_>>()).prop_shuffle()) {
        let precedence: Precedence =
            crate::policy::yaml::parse("p.yaml", "{ default: [hr, badge] }").unwrap();
        let events = two_voices();
        let shuffled: Vec<BusinessEvent> = order.iter().map(|place| events[*place].clone()).collect();
        let at = day("05-15");
        prop_assert_eq!(
            timeline(&shuffled).preferring(&precedence).at(at),
            timeline(&events).preferring(&precedence).at(at)
        );
    }
}
