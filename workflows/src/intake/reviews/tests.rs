//! New keys that may be somebody who is known, with real cases on both databases.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use std::time::Duration;

use engine::evidence::salted_digest;
use engine::runner::NodeHandle;
use serde_json::{Value, json};

use super::*;
use crate::correlation::Correlation;
use crate::directory::{EventStatus, IdentityRow, IdentityStatus};
use crate::sources::{BusinessEvent, Key};
use crate::testbed::{Company, actor, now, on_both};

const RULES: &str = r#"
link_at: 100
ask_at: 60
owner: role:hr
rules:
  - { name: national id, attributes: [national_id], compare: identifier, agrees: 100, differs: -100, unique: true }
  - { name: name, attributes: [name], compare: name, agrees: 40, differs: -50 }
  - { name: birth date, attributes: [birth_date], compare: date, agrees: 40, differs: -60 }
  - { name: phone, attributes: [mobile], compare: phone, agrees: 20 }
"#;

fn rules() -> Correlation {
    Correlation::load("correlation.yaml", RULES).unwrap()
}

async fn company(on_postgres: bool) -> Company {
    Company::recognising(rules(), on_postgres).await
}

fn said(source: &str, event_type: EventType, subject: &str, attributes: Value) -> BusinessEvent {
    BusinessEvent {
        id: format!("{source}-{subject}-{event_type}"),
        source: source.to_owned(),
        event_type,
        subject: Key::new(subject),
        occurred_at: now(),
        effective_at: now(),
        zone: "UTC".to_owned(),
        version: now().timestamp_micros(),
        supersedes: None,
        data: if attributes.is_null() {
            json!({})
        } else {
            json!({ "attributes": attributes })
        },
    }
}

fn ann(more: &[(&str, &str)]) -> Value {
    let mut ann = json!({ "name": "Ann Ox", "department": "Sales", "birth_date": "1990-01-02" });
    for (name, value) in more {
        ann[*name] = json!(value);
    }
    ann
}

async fn take(company: &Company, event: &BusinessEvent) -> crate::intake::EventReport {
    company
        .intake
        .event(event, &actor("hr"), now())
        .await
        .unwrap()
}

async fn row(company: &Company, key: &str) -> IdentityRow {
    company
        .directory
        .identity(key)
        .await
        .unwrap()
        .unwrap()
        .identity
}

async fn settled(company: &Company, node: &NodeHandle) {
    company.settled(node).await;
}

async fn open_reviews(company: &Company) -> Vec<ReviewRow> {
    company
        .directory
        .reviews(&ReviewFilter::default(), 10)
        .await
        .unwrap()
}

/// Ann is at work as c7, and somebody very like her begins as e100.
async fn asked(company: &Company, node: &NodeHandle) -> ReviewRow {
    take(
        company,
        &said("vms", EventType::ContractStart, "c7", ann(&[])),
    )
    .await;
    settled(company, node).await;
    let hire = said("hr", EventType::Hire, "e100", ann(&[]));
    let report = take(company, &hire).await;
    assert!(
        !take(company, &hire).await.new,
        "the same again asks nothing new"
    );
    assert_eq!(
        (report.status, report.cases.len()),
        (Some(EventStatus::Held), 0)
    );
    let reviews = open_reviews(company).await;
    assert_eq!(reviews.len(), 1);
    reviews.into_iter().next().unwrap()
}

async fn an_identifier_that_is_unique_links_at_once(on_postgres: bool) {
    let company = company(on_postgres).await;
    let node = company.node().await;
    let known = json!({ "name": "Ann Ox", "department": "Engineering", "national_id": "AB 12", "type": "contractor" });
    take(
        &company,
        &said("vms", EventType::ContractStart, "c7", known),
    )
    .await;
    settled(&company, &node).await;
    let hired = json!({ "name": "Ann Lamb", "department": "Sales", "national_id": "ab-12" });
    let hire = said("hr", EventType::Hire, "e100", hired);
    assert!(take(&company, &hire).await.new);
    assert!(!take(&company, &hire).await.new);
    take(
        &company,
        &said("vms", EventType::ContractExpired, "c7", Value::Null),
    )
    .await;
    settled(&company, &node).await;
    assert_eq!(company.ldap.shown(), ["c7: on sellers staff"]);
    let (person, key) = (row(&company, "c7").await, row(&company, "e100").await);
    assert_eq!(
        (person.members, person.generation),
        (vec!["e100".to_owned()], 1)
    );
    assert_eq!(
        (key.status, key.merged_into.as_deref()),
        (IdentityStatus::Merged, Some("c7"))
    );
    let merges = company.directory.merges("c7").await.unwrap();
    let score = merges[0].score.as_ref().unwrap();
    assert!(
        score.unique
            && score
                .rules
                .iter()
                .any(|told| told.rule == "national id" && told.points == 100)
    );
    // It can be taken back like any other.
    let by = actor("ann");
    company
        .intake
        .split("e100", &by, "two people after all", now())
        .await
        .unwrap();
    settled(&company, &node).await;
    assert_eq!(company.ldap.shown(), ["c7: off", "e100: on sellers staff"]);
    node.drain(Duration::from_secs(5)).await.unwrap();
    company.remove().await;
}

async fn who_may_be_known_waits_and_is_given_nothing(on_postgres: bool) {
    let company = company(on_postgres).await;
    let node = company.node().await;
    let review = asked(&company, &node).await;
    assert_eq!(
        (review.record_key.as_str(), review.owner.as_str()),
        ("e100", "role:hr")
    );
    let candidate = &review.candidates[0];
    assert_eq!((candidate.key.as_str(), candidate.score.points), ("c7", 80));
    // What is said of either waits.
    let mut moved = ann(&[]);
    moved["department"] = json!("Engineering");
    let held = take(&company, &said("vms", EventType::Transfer, "c7", moved)).await;
    assert_eq!(held.status, Some(EventStatus::Held));
    settled(&company, &node).await;
    assert_eq!(company.ldap.shown(), ["c7: on sellers staff"]);
    assert_eq!(open_reviews(&company).await.len(), 1);
    // A leaver waits for nobody.
    take(
        &company,
        &said("vms", EventType::TerminationEffective, "c7", Value::Null),
    )
    .await;
    settled(&company, &node).await;
    assert_eq!(company.ldap.shown(), ["c7: off"]);
    assert_eq!(row(&company, "c7").await.status, IdentityStatus::Departed);
    // And the other is somebody else.
    let by = actor("ann");
    let report = company
        .intake
        .separate(&review.review_id, &by, "met both", now())
        .await
        .unwrap();
    assert_eq!(report.review.status, ReviewStatus::Separate);
    assert_eq!(report.review.decided_reason.as_deref(), Some("met both"));
    settled(&company, &node).await;
    assert_eq!(company.ldap.shown(), ["c7: off", "e100: on sellers staff"]);
    assert_eq!(open_reviews(&company).await, []);
    // Who decided, and why, stands in the evidence.
    let case = company.case("separation", "e100").await;
    let leaves = company.store.evidence(case.head.shard, case.head.case);
    let leaves: Vec<Value> = leaves
        .await
        .unwrap()
        .iter()
        .map(|row| serde_json::from_slice(&row.leaf).unwrap())
        .collect();
    let leaf = leaves.iter().find(|leaf| leaf["operation"] == "separate");
    let digest = |text: &str| json!(salted_digest(&case.head.salt, text.as_bytes()));
    let leaf = leaf.unwrap();
    assert_eq!(
        (&leaf["initiator"], &leaf["reason"], &leaf["object"]),
        (&digest("ann"), &digest("met both"), &digest("e100"))
    );
    let again = company
        .intake
        .separate(&review.review_id, &by, "x", now())
        .await
        .unwrap_err();
    assert!(
        again.to_string().contains("decided already by `ann`"),
        "{again}"
    );
    // It is never asked again.
    let mut changed = ann(&[]);
    changed["title"] = json!("Dr.");
    take(&company, &said("hr", EventType::Transfer, "e100", changed)).await;
    assert_eq!(open_reviews(&company).await, []);
    node.drain(Duration::from_secs(5)).await.unwrap();
    company.remove().await;
}

async fn a_link_makes_one_person_and_lets_go_on_what_waited(on_postgres: bool) {
    let company = company(on_postgres).await;
    let node = company.node().await;
    let review = asked(&company, &node).await;
    let by = actor("ann");
    let wrong = company
        .intake
        .link(&review.review_id, "z9", &by, "x", now())
        .await
        .unwrap_err();
    assert!(wrong.to_string().contains("`z9` is not among"), "{wrong}");
    let short = &review.review_id[..12];
    let report = company
        .intake
        .link(short, "c7", &by, "called her", now())
        .await
        .unwrap();
    assert_eq!(report.review.status, ReviewStatus::Linked);
    assert_eq!(report.review.decided_key.as_deref(), Some("c7"));
    assert_eq!(report.review.decided_reason.as_deref(), Some("called her"));
    settled(&company, &node).await;
    assert_eq!(company.ldap.shown(), ["c7: on sellers staff"]);
    let person = row(&company, "c7").await;
    assert_eq!(
        (person.members, person.disputes),
        (vec!["e100".to_owned()], Vec::<String>::new())
    );
    take(
        &company,
        &said("vms", EventType::ContractExpired, "c7", Value::Null),
    )
    .await;
    settled(&company, &node).await;
    assert_eq!(
        company.ldap.shown(),
        ["c7: on sellers staff"],
        "the employment goes on"
    );
    node.drain(Duration::from_secs(5)).await.unwrap();
    company.remove().await;
}

async fn nobody_is_compared_without_rules(on_postgres: bool) {
    let company = if on_postgres {
        Company::on_postgres().await
    } else {
        Company::new().await
    };
    for key in ["c7", "e100"] {
        let source = if key == "c7" { "vms" } else { "hr" };
        take(
            &company,
            &said(source, EventType::Hire, key, ann(&[("national_id", "A1")])),
        )
        .await;
    }
    assert_eq!(row(&company, "c7").await.members, Vec::<String>::new());
    assert_eq!(row(&company, "e100").await.status, IdentityStatus::Expected);
    // Rules that come later know those who were there before.
    let intake = company
        .intake
        .clone()
        .with_correlation(Some(std::sync::Arc::new(rules())));
    let hire = said("erp", EventType::Hire, "x1", ann(&[]));
    intake.event(&hire, &actor("hr"), now()).await.unwrap();
    let reviews = open_reviews(&company).await;
    let keys: Vec<&str> = reviews[0]
        .candidates
        .iter()
        .map(|scored| scored.key.as_str())
        .collect();
    assert_eq!(keys, ["c7", "e100"]);
    company.remove().await;
}

/// To the source that has both they are two people.
async fn two_records_of_one_source_are_never_linked_unasked(on_postgres: bool) {
    let company = company(on_postgres).await;
    take(
        &company,
        &said(
            "hr",
            EventType::Hire,
            "e1",
            ann(&[("mobile", "+491701234567")]),
        ),
    )
    .await;
    take(
        &company,
        &said(
            "hr",
            EventType::Hire,
            "e2",
            ann(&[("mobile", "+491701234567")]),
        ),
    )
    .await;
    let reviews = open_reviews(&company).await;
    assert_eq!(
        (reviews.len(), reviews[0].candidates[0].score.points),
        (1, 100)
    );
    assert_eq!(row(&company, "e2").await.merged_into, None);
    company.remove().await;
}

on_both! {
    an_identifier_that_is_unique_links_at_once,
    who_may_be_known_waits_and_is_given_nothing,
    a_link_makes_one_person_and_lets_go_on_what_waited,
    nobody_is_compared_without_rules,
    two_records_of_one_source_are_never_linked_unasked,
}
