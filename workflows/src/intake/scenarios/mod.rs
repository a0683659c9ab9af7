//! What is said about people, in every order, against the access that follows: in virtual time, with real cases on both
//! databases.
//!
//! Each scenario is lived by many people at once. To the first everything is told when it is said. To the others it
//! is told late, in another order, and some of it again. On every day on which somebody knows all that was said by
//! then, they must hold what the table says.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

mod crashes;
mod mortal;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use chrono_tz::Tz;
use engine::core::Timestamp;
use engine::core::case::CaseState;
use serde_json::json;

use self::table::{Row, TABLE};
use super::IntakeError;
use crate::policy::{PolicySet, Schema};
use crate::sources::{Attributes, BusinessEvent, EventType, Key};
use crate::testbed::{Company, FastClock, actor, page_is};

/// People who live each scenario; the first in order.
const PEOPLE: usize = 51;
/// Days between two looks.
const STEP: i64 = 10;
const LAST_DAY: i64 = 100;
/// How long something is on its way at most.
const LATE_STEPS_MAX: u64 = 4;
/// How fast time goes between two days.
const SPEED: u32 = 60;

fn day(number: i64) -> Timestamp {
    let first: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    first + TimeDelta::days(number)
}

/// A moment within a day, after what is effective on it.
fn moment(number: i64) -> Timestamp {
    day(number) + TimeDelta::minutes(1)
}

/// Somebody who lives a scenario.
struct Person {
    key: String,
    row: &'static Row,
    /// By the day on which they are told; the day they were said beside.
    told: Vec<(i64, i64, BusinessEvent)>,
}

fn parse(key: &str, number: usize, text: &str) -> (i64, BusinessEvent) {
    let words: Vec<&str> = text.split(' ').collect();
    let (said, effective): (i64, i64) = (words[0].parse().unwrap(), words[2].parse().unwrap());
    let mut data = json!({});
    let mut supersedes = None;
    let mut ends = None;
    let mut subject = key.to_owned();
    for word in &words[3..] {
        match word.split_once('=') {
            Some(("to", department)) => {
                data["changes"] = json!({ "department": { "to": department } });
            }
            Some(("contract", contract)) => data["contract"] = json!(contract),
            // Another key of the same person.
            Some(("key", other)) => subject = format!("{key}{other}"),
            Some(("from", other)) => {
                data = json!({ "from": { "key": format!("{key}{other}") }, "to": { "key": key } });
            }
            // The day alone was said, and policy says when it is over.
            Some(("ends", rule)) => ends = Some(rule),
            Some(("replaces", number)) => supersedes = Some(format!("{key}-{number}")),
            None => {
                data["attributes"] = json!({ "name": key, "department": word });
            }
            Some(_) => panic!("{text}"),
        }
    }
    let version = i64::try_from(number).unwrap() + 1;
    let event = BusinessEvent {
        id: format!("{key}-{version}"),
        source: "hr".to_owned(),
        event_type: EventType::parse(words[1]).unwrap_or_else(|| panic!("{text}")),
        subject: Key::new(subject),
        occurred_at: day(said),
        effective_at: ends.map_or(day(effective), |rule| over(rule, day(said), day(effective))),
        zone: "UTC".to_owned(),
        version,
        supersedes,
        data,
    };
    (said, event)
}

/// When access ends whose last day is `last`, by a rule of the policy.
fn over(rule: &str, said: Timestamp, last: Timestamp) -> Timestamp {
    let rule = match rule.split_once('@') {
        Some((rule, time)) => format!("{{ last_day: {rule}, shift_end: '{time}' }}"),
        None => format!("{{ last_day: {rule} }}"),
    };
    let files = [(
        "p.yaml".to_owned(),
        format!("leavers: {rule}\nroles: [{{ name: all, when: 'true' }}]\n"),
    )];
    let policy = PolicySet::load(&files, &Schema::new([""; 0])).unwrap();
    let none = Attributes::new();
    let last = last.date_naive();
    policy.leavers().end(last, Tz::UTC, &none, Some(said))
}

/// A sequence of numbers that looks random and is the same every time.
struct Draw(u64);

impl Draw {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

fn people(each: usize) -> Vec<Person> {
    let mut people = Vec::new();
    for (scenario, row) in TABLE.iter().enumerate() {
        for number in 0..each {
            let key = format!("s{scenario}p{number}");
            let mut draw = Draw((scenario * 1_000 + number) as u64);
            let mut told = Vec::new();
            for (place, text) in row.1.iter().enumerate() {
                let (said, event) = parse(&key, place, text);
                let late = |draw: &mut Draw| {
                    let steps = if number == 0 {
                        0
                    } else {
                        draw.below(LATE_STEPS_MAX)
                    };
                    said + i64::try_from(steps).unwrap() * STEP
                };
                told.push((late(&mut draw), said, event.clone()));
                if number > 0 && draw.below(3) == 0 {
                    told.push((late(&mut draw) + STEP, said, event));
                }
            }
            for place in (1..told.len()).rev() {
                let other = if number == 0 {
                    place
                } else {
                    draw.below(place as u64 + 1) as usize
                };
                told.swap(place, other);
            }
            told.sort_by_key(|(on, ..)| *on);
            people.push(Person { key, row, told });
        }
    }
    people
}

impl Person {
    /// Whether they know everything that was said by then.
    fn knows_all(&self, today: i64) -> bool {
        let said: BTreeSet<&str> = self
            .told
            .iter()
            .filter(|(_, said, _)| *said <= today)
            .map(|(.., event)| event.id.as_str())
            .collect();
        let told = self.told.iter().filter(|(on, ..)| *on <= today);
        let told: BTreeSet<&str> = told.map(|(.., event)| event.id.as_str()).collect();
        said.is_subset(&told)
    }

    fn expected(&self, today: i64) -> &'static str {
        let due = self.row.2.iter().rev().find(|(from, _)| *from <= today);
        due.map_or("none", |(_, access)| access)
    }

    /// Whether the table says anything of today: between two of its days what holds may change.
    fn is_asked(&self, today: i64) -> bool {
        today == LAST_DAY || self.row.2.iter().any(|(on, _)| *on == today)
    }
}

/// What people hold on the directory, in the words of the table.
async fn access(company: &Company) -> BTreeMap<String, String> {
    let mut held = BTreeMap::new();
    for line in company.ldap.shown() {
        let (name, rest) = line.split_once(": ").unwrap();
        let mut words = rest.split(' ');
        let is_open = words.next() == Some("on");
        let groups: Vec<&str> = words.collect();
        let groups = match groups.as_slice() {
            [] if !is_open => "off",
            ["sellers", "staff"] => "sales",
            ["engineers", "staff"] => "eng",
            ["staff"] => "staff",
            ["staff", "support"] => "support",
            ["sellers", "staff", "support"] => "sales+support",
            ["engineers", "staff", "support"] => "eng+support",
            _ => rest,
        };
        let away = if is_open || groups == "off" {
            ""
        } else {
            "away:"
        };
        held.insert(name.to_owned(), format!("{away}{groups}"));
    }
    let open: BTreeSet<String> = company
        .scim
        .shown()
        .iter()
        .filter_map(|line| Some(line.split_once(": on")?.0.to_owned()))
        .collect();
    let is_open = |name: &str| {
        let access = held.get(name);
        access.is_some_and(|access| !access.starts_with("away:") && access != "off")
    };
    for (name, access) in &held {
        if open.contains(name) == is_open(name) {
            continue;
        }
        // Of two keys that are one person one account stays on each system, that of the survivor where it has one. A merge that
        // finds its joiner under way finds one on the one system, and none yet on the other.
        let key = name.trim_end_matches('b');
        let keys = [key.to_owned(), format!("{key}b")];
        let other = company.directory.holdings(&keys[1]).await.unwrap();
        assert_eq!(
            (
                other
                    .and_then(|other| other.identity.merged_into)
                    .as_deref(),
                keys.iter().filter(|key| is_open(key)).count(),
                keys.iter().filter(|key| open.contains(*key)).count(),
            ),
            (Some(key), 1, 1),
            "{name}: the second system, beside {access}"
        );
    }
    held
}

/// What somebody holds who may have two keys: of two accounts the one that is open.
fn held_by<'a>(held: &'a BTreeMap<String, String>, key: &str) -> &'a str {
    let of = |key: &str| held.get(key).map_or("none", String::as_str);
    let (own, other) = (of(key), of(&format!("{key}b")));
    let is_open =
        |access: &str| access != "none" && access != "off" && !access.starts_with("away:");
    match (is_open(own), is_open(other)) {
        (true, true) => "two accounts",
        (false, true) => other,
        _ if own == "none" => other,
        _ => own,
    }
}

/// Whoever is told late may never have had what is closed behind others, or what others hand over.
fn same(held: &str, expected: &str, in_order: bool) -> bool {
    let is_closed =
        |access: &str| access == "none" || access == "off" || access.starts_with("away:");
    let never_had = || expected.strip_suffix("+support") == Some(held);
    held == expected || (!in_order && (is_closed(held) && is_closed(expected) || never_had()))
}

/// Tells people what they are to be told by today; gives what was refused because nobody knew them yet.
async fn tell(company: &Company, people: &mut [Person], today: i64, now: Timestamp) {
    for person in people {
        for index in 0..person.told.len() {
            let (on, _, event) = &person.told[index];
            if *on != today {
                continue;
            }
            match company.intake.event(event, &actor("hr"), now).await {
                Ok(_) => {}
                // Whoever demands that access ends is told that nobody is there, and tries again.
                Err(IntakeError::UnknownSubject(_)) => person.told[index].0 = today + STEP,
                Err(error) => panic!("{}: {error}", event.id),
            }
        }
    }
}

async fn check(company: &Company, people: &[Person], today: i64) -> u64 {
    let held = access(company).await;
    let mut wrong = Vec::new();
    let mut looks = 0;
    for person in people {
        if !person.is_asked(today) || !person.knows_all(today) {
            continue;
        }
        looks += 1;
        let held = held_by(&held, &person.key);
        let expected = person.expected(today);
        if !same(held, expected, person.key.ends_with("p0")) {
            wrong.push(format!(
                "{} ({}): day {today}: {held}, not {expected}; told {:?}",
                person.key,
                person.row.0,
                person
                    .told
                    .iter()
                    .map(|(on, _, event)| (on, &event.id))
                    .collect::<Vec<_>>()
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {looks}: {:#?}",
        wrong.len(),
        &wrong[..wrong.len().min(10)]
    );
    looks
}

/// Everything came to an end, and nothing failed.
async fn everything_ended_well(company: &Company) {
    for (workflow, state, cases) in company.store.counts().await.unwrap() {
        let is_good = matches!(
            state,
            CaseState::Succeeded
                | CaseState::Unverified
                | CaseState::Superseded
                | CaseState::Merged
                | CaseState::Preempted
        );
        assert!(
            is_good || cases == 0,
            "{cases} of {workflow} ended {state:?}"
        );
    }
}

async fn all_orders_end_the_same(on_postgres: bool) {
    let clock = Arc::new(FastClock::new(moment(0), SPEED));
    let company = Company::in_time(clock.clone(), on_postgres).await;
    let mut people = people(PEOPLE);
    let node = company.node().await;
    let mut looks = 0;
    for today in (0..=LAST_DAY).step_by(usize::try_from(STEP).unwrap()) {
        clock.jump(moment(today));
        company.intake.start_due(moment(today)).await.unwrap();
        tell(&company, &mut people, today, moment(today)).await;
        company.settled(&node).await;
        looks += check(&company, &people, today).await;
    }
    assert!(looks > TABLE.len() as u64 * PEOPLE as u64, "{looks}");
    everything_ended_well(&company).await;
    node.drain(Duration::from_secs(10)).await.unwrap();
    if on_postgres {
        company.remove().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_orders_end_the_same_on_sqlite() {
    all_orders_end_the_same(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_orders_end_the_same_on_postgres() {
    all_orders_end_the_same(true).await;
}

/// The page that people read is the table that is tested.
#[test]
fn the_page_is_the_table() {
    let mut text = String::from("| | what happens | what is said | access |\n|--:|---|---|---|\n");
    for (number, (name, said, access)) in TABLE.iter().enumerate() {
        let said: Vec<String> = said.iter().map(|event| format!("`{event}`")).collect();
        let access: Vec<String> = access
            .iter()
            .map(|(day, access)| format!("{day}: {access}"))
            .collect();
        let number = number + 1;
        writeln!(
            text,
            "| {number} | {name} | {} | {} |",
            said.join(", "),
            access.join(", ")
        )
        .unwrap();
    }
    page_is("scenarios.md", &text);
}
