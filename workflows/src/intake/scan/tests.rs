//! A scan of people who are known, on both databases.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::directory::ReviewFilter;
use crate::sources::{BusinessEvent, EventType, Key};
use crate::testbed::{Company, actor, now, on_both};

const RULES: &str = "
link_at: 100
ask_at: 60
owner: role:hr
rules:
  - { name: national id, attributes: [national_id], compare: identifier, agrees: 100, differs: -100, unique: true }
  - { name: name, attributes: [name], compare: name, agrees: 40, differs: -50 }
  - { name: birth date, attributes: [birth_date], compare: date, agrees: 40, differs: -60 }
";

/// A company that hired these before it had rules, and has them now.
async fn company(people: &[(&str, Value)], on_postgres: bool) -> (Company, Intake) {
    let company = if on_postgres {
        Company::on_postgres().await
    } else {
        Company::new().await
    };
    for (key, attributes) in people {
        let event = BusinessEvent {
            id: format!("hire-{key}"),
            source: format!("source-of-{key}"),
            event_type: EventType::Hire,
            subject: Key::new(*key),
            occurred_at: now(),
            effective_at: now(),
            zone: "UTC".to_owned(),
            version: now().timestamp_micros(),
            supersedes: None,
            data: json!({ "attributes": attributes }),
        };
        company
            .intake
            .event(&event, &actor("hr"), now())
            .await
            .unwrap();
    }
    let rules = Correlation::load("correlation.yaml", RULES).unwrap();
    let intake = company
        .intake
        .clone()
        .with_correlation(Some(std::sync::Arc::new(rules)));
    (company, intake)
}

fn ann() -> Value {
    json!({ "name": "Ann Ox", "department": "Sales", "birth_date": "1990-01-02" })
}

fn bo(number: usize) -> Value {
    let day = format!("19{:02}-{:02}-01", number / 12 % 100, number % 12 + 1);
    json!({ "name": format!("Bo Elk{number}"), "department": "Sales", "birth_date": day })
}

fn found(report: &ScanReport) -> Vec<String> {
    let told = report.found.iter().map(|one| {
        let candidates = one.candidates.iter();
        let candidates: Vec<String> = candidates
            .map(|scored| format!("{} {}", scored.key, scored.score.points))
            .collect();
        format!("{}: {}", one.key, candidates.join(", "))
    });
    told.collect()
}

async fn whoever_is_there_twice_is_found_and_asked_about_once(on_postgres: bool) {
    let mut people = vec![("a1", ann()), ("a3", ann()), ("a2", ann())];
    let mut same = json!({ "name": "Cy Fox", "department": "Law", "national_id": "AB-1" });
    people.push(("c1", same.clone()));
    same["name"] = json!("Cyril Fuchs");
    same["national_id"] = json!("ab 1");
    people.push(("c2", same));
    // Many more than are compared at once, none like another.
    let keys: Vec<String> = (0..60).map(|number| format!("b{number:02}")).collect();
    let others = keys.iter().enumerate();
    people.extend(others.map(|(number, key)| (key.as_str(), bo(number))));
    let (company, intake) = company(&people, on_postgres).await;
    let node = company.node().await;
    company.settled(&node).await;
    let expected = ["a2: a1 80", "a3: a1 80, a2 80", "c2: c1 50"];
    // To look is not to ask.
    let looked = intake.scan(false, now()).await.unwrap();
    assert_eq!(
        (found(&looked), looked.asked),
        (expected.map(String::from).to_vec(), false)
    );
    assert_eq!(looked.compared, 65);
    let open = async || {
        let filter = ReviewFilter::default();
        company.directory.reviews(&filter, 10).await.unwrap()
    };
    assert_eq!(open().await, []);
    let asked = intake.scan(true, now()).await.unwrap();
    assert_eq!(found(&asked), expected);
    assert_eq!(open().await.len(), 3);
    // It holds nobody up.
    let person = company.directory.identity("a1").await.unwrap().unwrap();
    assert_eq!(person.identity.disputes, Vec::<String>::new());
    assert_eq!(found(&intake.scan(true, now()).await.unwrap()), [""; 0]);
    // They are two, and never asked about again.
    let by = actor("ann");
    let question = |key: &str| {
        let mut found = asked.found.iter().filter(|one| one.key == key);
        found.next().unwrap().question.clone()
    };
    let brothers = question("c2");
    let separate = intake.separate(&brothers, &by, "brothers", now());
    separate.await.unwrap();
    // They are one: the question is over, and what is left is another one.
    let link = intake.link(&question("a2"), "a1", &by, "her", now()).await;
    link.unwrap();
    company.settled(&node).await;
    let filter = ReviewFilter::default();
    let left = company.directory.reviews(&filter, 10).await.unwrap();
    let left: Vec<&str> = left
        .iter()
        .map(|review| review.record_key.as_str())
        .collect();
    assert_eq!(left, ["a3"]);
    assert_eq!(found(&intake.scan(true, now()).await.unwrap()), [""; 0]);
    assert_eq!(
        company
            .ldap
            .shown()
            .iter()
            .filter(|line| line.starts_with('a'))
            .count(),
        3
    );
    // A merge that was taken back says that they are two.
    intake.split("a2", &by, "no", now()).await.unwrap();
    company.settled(&node).await;
    assert_eq!(found(&intake.scan(true, now()).await.unwrap()), [""; 0]);
    // Whoever is merged by hand is asked about no more.
    intake.merge("a1", "a3", &by, "one", now()).await.unwrap();
    company.settled(&node).await;
    let left = company.directory.reviews(&filter, 10).await.unwrap();
    assert_eq!(left, []);
    node.drain(Duration::from_secs(5)).await.unwrap();
    company.remove().await;
}

async fn without_rules_nobody_is_compared(on_postgres: bool) {
    let (company, _) = company(&[("a1", ann()), ("a2", ann())], on_postgres).await;
    let error = company.intake.scan(true, now()).await.unwrap_err();
    assert!(
        error.to_string().contains("there is no `correlation.yaml`"),
        "{error}"
    );
    company.remove().await;
}

on_both! {
    whoever_is_there_twice_is_found_and_asked_about_once,
    without_rules_nobody_is_compared,
}
