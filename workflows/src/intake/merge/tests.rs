//! Merges and splits with real cases, on both databases.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use std::time::Duration;

use chrono::TimeDelta;
use engine::core::case::CaseState;
use engine::runner::NodeHandle;
use serde_json::json;

use super::*;
use crate::directory::{AccountStatus, EventStatus, IdentityStatus, MergeState};
use crate::sources::EventType;
use crate::testbed::{Company, actor, now, on_both_databases};

/// What a source says about somebody now.
fn said(
    id: &str,
    source: &str,
    event_type: EventType,
    subject: &str,
    attributes: serde_json::Value,
) -> BusinessEvent {
    BusinessEvent {
        id: id.to_owned(),
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

fn hire(source: &str, subject: &str, department: &str) -> BusinessEvent {
    said(
        &format!("{source}-{subject}-hire"),
        source,
        EventType::Hire,
        subject,
        json!({ "name": format!("{subject} Ox"), "department": department }),
    )
}

async fn take(company: &Company, event: &BusinessEvent) {
    company
        .intake
        .event(event, &actor("hr"), now())
        .await
        .unwrap();
}

async fn settled(company: &Company, node: &NodeHandle) {
    company.settled(node).await;
}

async fn status(company: &Company, key: &str) -> IdentityStatus {
    let found = company.directory.identity(key).await.unwrap().unwrap();
    found.identity.status
}

/// The accounts of a key as the directory knows them: `system name status`.
async fn accounts(company: &Company, key: &str) -> Vec<String> {
    let found = company.directory.holdings(key).await.unwrap().unwrap();
    let line = |account: &crate::directory::AccountRow| {
        let status = match account.status {
            AccountStatus::Active => "open",
            AccountStatus::Disabled => "closed",
            _ => "?",
        };
        format!("{} {} {status}", account.system, account.name)
    };
    found.accounts.iter().map(line).collect()
}

async fn merge(company: &Company, survivor: &str, absorbed: &str) -> MergeReport {
    let by = actor("ann");
    let merged = company
        .intake
        .merge(survivor, absorbed, &by, "the same person", now())
        .await;
    merged.unwrap()
}

async fn split(company: &Company, absorbed: &str) -> MergeReport {
    let by = actor("ann");
    company
        .intake
        .split(absorbed, &by, "a mistake", now())
        .await
        .unwrap()
}

/// Both known, both employed, the second only on the first's other side.
async fn a_merge_unites_what_both_hold_and_a_split_parts_it_again(company: &Company) {
    let node = company.node().await;
    take(company, &hire("hr", "a1", "Sales")).await;
    take(company, &hire("vms", "b2", "Engineering")).await;
    settled(company, &node).await;
    assert_eq!(
        company.ldap.shown(),
        ["a1: on sellers staff", "b2: on engineers staff"]
    );
    let before = (accounts(company, "a1").await, accounts(company, "b2").await);

    let report = merge(company, "a1", "b2").await;
    assert_eq!(report.state, MergeState::Draining);
    assert_eq!(status(company, "b2").await, IdentityStatus::Merged);
    settled(company, &node).await;
    // Each has an account on both systems: those of the other key are closed.
    assert_eq!(
        accounts(company, "a1").await,
        ["ldap a1 open", "scim a1 open"]
    );
    assert_eq!(
        accounts(company, "b2").await,
        ["ldap b2 closed", "scim b2 closed"]
    );
    assert_eq!(company.ldap.shown()[1], "b2: off");
    let merges = company.directory.merges("a1").await.unwrap();
    assert_eq!((merges.len(), merges[0].state), (1, MergeState::Merged));
    assert_eq!(merges[0].merged_by.as_deref(), Some("ann"));
    assert_eq!(merges[0].merged_reason.as_deref(), Some("the same person"));
    assert_eq!(merges[0].moved, []);

    split(company, "b2").await;
    settled(company, &node).await;
    assert_eq!(
        (accounts(company, "a1").await, accounts(company, "b2").await),
        before
    );
    assert_eq!(
        company.ldap.shown(),
        ["a1: on sellers staff", "b2: on engineers staff"]
    );
    for key in ["a1", "b2"] {
        let found = company
            .directory
            .identity(key)
            .await
            .unwrap()
            .unwrap()
            .identity;
        assert_eq!(found.status, IdentityStatus::Active);
        assert_eq!(
            (found.members.len(), found.disputes.len(), found.merged_into),
            (0, 0, None)
        );
    }
    for (workflow, state, cases) in company.store.counts().await.unwrap() {
        assert!(
            state == CaseState::Succeeded || state == CaseState::Unverified || cases == 0,
            "{cases} {workflow} {state:?}"
        );
    }
    node.drain(Duration::from_secs(5)).await.unwrap();
}

/// The failure of others: a contractor who becomes an employee is there twice.
async fn a_contractor_who_becomes_an_employee_is_one_person(company: &Company) {
    let node = company.node().await;
    let start = said(
        "c-1",
        "vms",
        EventType::ContractStart,
        "c7",
        json!({ "name": "Ann Ox", "department": "Engineering", "type": "contractor" }),
    );
    take(company, &start).await;
    settled(company, &node).await;
    assert_eq!(
        accounts(company, "c7").await,
        ["ldap c7 open", "scim c7 open"]
    );
    // HR knows them under a key of its own.
    let merged = said("m-1", "hr", EventType::IdentityMerged, "c7", json!(null));
    let merged = BusinessEvent {
        data: json!({ "from": { "key": "e100" }, "to": { "key": "c7" } }),
        ..merged
    };
    take(company, &merged).await;
    take(company, &hire("hr", "e100", "Sales")).await;
    settled(company, &node).await;
    take(
        company,
        &said("c-2", "vms", EventType::ContractExpired, "c7", json!(null)),
    )
    .await;
    settled(company, &node).await;
    // One person, one account on each system, with what they do now.
    assert_eq!(company.ldap.shown(), ["c7: on sellers staff"]);
    assert_eq!(company.scim.shown(), ["c7: on"]);
    let found = company
        .directory
        .identity("c7")
        .await
        .unwrap()
        .unwrap()
        .identity;
    assert_eq!(
        (found.status, found.generation),
        (IdentityStatus::Active, 1)
    );
    assert_eq!(found.members, ["e100"]);
    assert_eq!(found.attributes["department"], "Sales");
    let believed = company
        .directory
        .believed("c7", now(), now(), &crate::timeline::Precedence::default())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(believed.belief.origins["department"], "hr-e100-hire");
    assert_eq!(believed.spells.len(), 2);
    // The end under the other key is the end.
    take(
        company,
        &said(
            "e-2",
            "hr",
            EventType::TerminationEffective,
            "e100",
            json!(null),
        ),
    )
    .await;
    settled(company, &node).await;
    assert_eq!(company.ldap.shown(), ["c7: off"]);
    assert_eq!(status(company, "c7").await, IdentityStatus::Departed);
    node.drain(Duration::from_secs(5)).await.unwrap();
}

/// Told in the other order: two people with two accounts until it is known.
async fn a_contractor_who_was_hired_twice_becomes_one_person_again(company: &Company) {
    let node = company.node().await;
    let start = said(
        "c-1",
        "vms",
        EventType::ContractStart,
        "c7",
        json!({ "name": "Ann Ox", "department": "Engineering", "type": "contractor" }),
    );
    take(company, &start).await;
    take(
        company,
        &said("c-2", "vms", EventType::ContractExpired, "c7", json!(null)),
    )
    .await;
    take(company, &hire("hr", "e100", "Sales")).await;
    settled(company, &node).await;
    merge(company, "c7", "e100").await;
    settled(company, &node).await;
    let open: Vec<String> = company
        .ldap
        .shown()
        .into_iter()
        .filter(|line| line.contains(": on"))
        .collect();
    assert_eq!(open.len(), 1, "{:?}", company.ldap.shown());
    assert!(open[0].ends_with("on sellers staff"), "{open:?}");
    assert_eq!(status(company, "c7").await, IdentityStatus::Active);
    node.drain(Duration::from_secs(5)).await.unwrap();
}

async fn accounts_move_where_the_survivor_has_none_and_come_back(company: &Company) {
    let node = company.node().await;
    // Known, and not begun.
    let mut later = hire("hr", "a1", "Sales");
    later.effective_at = now() + TimeDelta::days(30);
    take(company, &later).await;
    take(company, &hire("vms", "b2", "Engineering")).await;
    settled(company, &node).await;
    merge(company, "a1", "b2").await;
    settled(company, &node).await;
    assert_eq!(
        accounts(company, "a1").await,
        ["ldap b2 open", "scim b2 open"]
    );
    assert_eq!(accounts(company, "b2").await, Vec::<String>::new());
    assert_eq!(company.ldap.shown(), ["b2: on engineers staff"]);
    assert_eq!(status(company, "a1").await, IdentityStatus::Active);
    // What is said under the other key is said about the person.
    let moved = said(
        "b2-2",
        "vms",
        EventType::Transfer,
        "b2",
        json!({ "name": "b2 Ox", "department": "Sales" }),
    );
    take(company, &moved).await;
    settled(company, &node).await;
    assert_eq!(company.ldap.shown(), ["b2: on sellers staff"]);
    split(company, "b2").await;
    settled(company, &node).await;
    assert_eq!(accounts(company, "a1").await, Vec::<String>::new());
    assert_eq!(
        accounts(company, "b2").await,
        ["ldap b2 open", "scim b2 open"]
    );
    assert_eq!(company.ldap.shown(), ["b2: on sellers staff"]);
    assert_eq!(status(company, "b2").await, IdentityStatus::Active);
    let effects: Vec<String> = company
        .ldap
        .effects()
        .into_iter()
        .filter(|effect| effect.starts_with("create"))
        .collect();
    assert_eq!(effects, ["create b2"], "nobody has two accounts");
    node.drain(Duration::from_secs(5)).await.unwrap();
}

/// While nobody works, the end of somebody who is being merged is taken in and comes first.
async fn an_end_never_waits_for_a_merge(company: &Company) {
    let node = company.node().await;
    take(company, &hire("hr", "a1", "Sales")).await;
    take(company, &hire("vms", "b2", "Engineering")).await;
    settled(company, &node).await;
    node.drain(Duration::from_secs(5)).await.unwrap();
    merge(company, "a1", "b2").await;
    // A change waits for the merge, an end does not.
    let change = said(
        "a1-2",
        "hr",
        EventType::Transfer,
        "a1",
        json!({ "name": "a1 Ox", "department": "Engineering" }),
    );
    let report = company
        .intake
        .event(&change, &actor("hr"), now())
        .await
        .unwrap();
    assert_eq!(
        (report.status, report.cases.len()),
        (Some(EventStatus::Held), 0)
    );
    for (key, source) in [("a1", "hr"), ("b2", "vms")] {
        let end = said(
            &format!("{key}-9"),
            source,
            EventType::TerminationEffective,
            key,
            json!(null),
        );
        let report = company
            .intake
            .event(&end, &actor("hr"), now())
            .await
            .unwrap();
        let cases = if key == "a1" { 0 } else { 2 };
        assert_eq!(report.cases.len(), cases, "{key}: {report:?}");
    }
    let node = company.node().await;
    settled(company, &node).await;
    assert!(
        company
            .ldap
            .shown()
            .iter()
            .all(|line| line.ends_with(": off")),
        "{:?}",
        company.ldap.shown()
    );
    assert!(
        company
            .scim
            .shown()
            .iter()
            .all(|line| line.ends_with(": off")),
        "{:?}",
        company.scim.shown()
    );
    assert_eq!(status(company, "a1").await, IdentityStatus::Departed);
    node.drain(Duration::from_secs(5)).await.unwrap();
}

/// What is said about keys counts in the order in which it was said.
async fn merges_and_splits_come_in_any_order(company: &Company) {
    let node = company.node().await;
    for (number, order) in [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ]
    .iter()
    .enumerate()
    {
        let (a, b) = (format!("a{number}"), format!("b{number}"));
        take(company, &hire("hr", &a, "Sales")).await;
        take(company, &hire("vms", &b, "Sales")).await;
        settled(company, &node).await;
        let types = [
            EventType::IdentityMerged,
            EventType::IdentitySplit,
            EventType::IdentityMerged,
        ];
        let of = |place: usize| BusinessEvent {
            occurred_at: now() + TimeDelta::seconds(i64::try_from(place).unwrap()),
            data: json!({ "from": { "key": b }, "to": { "key": a } }),
            ..said(
                &format!("{number}-{place}"),
                "hr",
                types[place],
                &a,
                json!(null),
            )
        };
        let events = [of(0), of(1), of(2)];
        for place in order {
            take(company, &events[*place]).await;
            take(company, &events[*place]).await;
        }
        settled(company, &node).await;
        assert_eq!(
            status(company, &b).await,
            IdentityStatus::Merged,
            "{order:?}"
        );
        assert_eq!(
            accounts(company, &a).await,
            [format!("ldap {a} open"), format!("scim {a} open")],
            "{order:?}"
        );
        assert_eq!(
            accounts(company, &b).await,
            [format!("ldap {b} closed"), format!("scim {b} closed")],
            "{order:?}"
        );
        let found = company
            .directory
            .identity(&a)
            .await
            .unwrap()
            .unwrap()
            .identity;
        assert_eq!(
            (found.members, found.disputes),
            (vec![b], Vec::<String>::new()),
            "{order:?}"
        );
    }
    node.drain(Duration::from_secs(5)).await.unwrap();
}

async fn what_cannot_be_is_refused(company: &Company) {
    let merge = async |survivor: &str, absorbed: &str| {
        let by = actor("ann");
        let merged = company
            .intake
            .merge(survivor, absorbed, &by, "x", now())
            .await;
        merged
            .map(|report| report.state)
            .map_err(|error| error.to_string())
    };
    for key in ["a1", "b2", "c3"] {
        take(company, &hire("hr", key, "Sales")).await;
    }
    assert!(merge("a1", "a1").await.unwrap_err().contains("is itself"));
    assert!(
        merge("a1", "z9")
            .await
            .unwrap_err()
            .contains("nobody with the key `z9`")
    );
    assert!(
        merge("z9", "a1")
            .await
            .unwrap_err()
            .contains("nobody with the key `z9`")
    );
    merge("a1", "b2").await.unwrap();
    assert!(
        merge("a1", "b2")
            .await
            .unwrap_err()
            .contains("one person already")
    );
    assert!(
        merge("b2", "a1")
            .await
            .unwrap_err()
            .contains("one person already")
    );
    assert!(
        merge("c3", "b2")
            .await
            .unwrap_err()
            .contains("`b2` is part of `a1`")
    );
    // Whoever names a key that was absorbed means the person.
    merge("b2", "c3").await.unwrap();
    let person = company
        .directory
        .identity("a1")
        .await
        .unwrap()
        .unwrap()
        .identity;
    assert_eq!(person.members, ["b2"]);
    let by = actor("ann");
    let error = company
        .intake
        .split("a1", &by, "x", now())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("merged into nobody"), "{error}");
    let bad = said("m-1", "hr", EventType::IdentityMerged, "a1", json!(null));
    let error = company.intake.event(&bad, &by, now()).await.unwrap_err();
    assert!(error.to_string().contains("names nobody"), "{error}");
}

on_both_databases! {
    a_merge_unites_what_both_hold_and_a_split_parts_it_again,
    a_contractor_who_becomes_an_employee_is_one_person,
    a_contractor_who_was_hired_twice_becomes_one_person_again,
    accounts_move_where_the_survivor_has_none_and_come_back,
    an_end_never_waits_for_a_merge,
    merges_and_splits_come_in_any_order,
    what_cannot_be_is_refused,
}
