//! What answers to nobody on a system, on both databases: found, answered for, accepted, gone.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use std::collections::BTreeSet;

use chrono::TimeDelta;
use engine::core::Timestamp;

use super::*;
use crate::directory::{Decide, FoundFilter};
use crate::nhi::declare;
use crate::nhi::found::{FoundStatus, Thing};
use crate::testbed::{Company, actor, now, on_both_databases};

on_both_databases! {
    what_answers_to_nobody_is_found_until_somebody_answers,
    a_system_that_is_away_says_nothing,
}

const WITHIN: TimeDelta = TimeDelta::days(14);

async fn looked(company: &Company, at: Timestamp) -> Looked {
    let systems = company.actions.systems_shared();
    let system = systems.get("ldap").unwrap();
    look(&company.directory, system, WITHIN, at).await.unwrap()
}

async fn declare(company: &Company, accounts: &str, credentials: &str) {
    let text = format!(
        "nhis:\n  - {{key: batch, kind: bot, environment: production, purpose: works, team: data, owner: A1, backup: B2,\n     \
         review: 2027-01-31, accounts: [{accounts}], credentials: [{credentials}]}}\n"
    );
    let declared = declare::parse("nhis.yaml", &text, &BTreeSet::from(["ldap"])).unwrap();
    let report = (company.directory)
        .declare(&declared, &actor("ops"), "so", now())
        .await
        .unwrap();
    assert_eq!(report.refused, Vec::<String>::new());
}

fn named(found: &[crate::nhi::found::Found]) -> Vec<&str> {
    found.iter().map(|found| found.name.as_str()).collect()
}

async fn what_answers_to_nobody_is_found_until_somebody_answers(company: &Company) {
    company
        .import(
            "2026-01-01",
            &["A1,Ann Lee,Engineering", "B2,Bob Ray,Sales"],
        )
        .await;
    let _node = company.node().await;
    company
        .until(&["joiner A1 succeeded", "joiner B2 succeeded"])
        .await;
    company.ldap.put_account("batch", None);
    company.ldap.put_account("printer", None);
    let start = now();
    let first = looked(company, start).await;
    assert_eq!(
        (first.accounts, first.peoples, first.declared),
        (4, 2, 0),
        "{first:?}"
    );
    assert_eq!(
        named(&first.open).into_iter().collect::<BTreeSet<_>>(),
        BTreeSet::from(["batch", "printer"])
    );
    assert_eq!(first.open[0].due_at, start + WITHIN);

    // Declared, by its login name; and a key of it that nobody declared.
    company.ldap.put_key("batch", "left-over");
    declare(company, "{system: ldap, name: batch}", "").await;
    let second = looked(company, start + TimeDelta::days(1)).await;
    assert_eq!(named(&second.adopted), ["batch"]);
    let things: BTreeSet<String> = second
        .open
        .iter()
        .map(|found| found.thing.to_string())
        .collect();
    assert!(things.contains("credential:left-over"), "{things:?}");
    let printer = second
        .open
        .iter()
        .find(|found| found.name == "printer")
        .unwrap();
    assert_eq!(printer.due_at, start + WITHIN, "its deadline stays");
    let key = "{system: ldap, id: left-over, kind: api_key}";
    declare(company, "{system: ldap, name: batch}", key).await;
    let third = looked(company, start + TimeDelta::days(2)).await;
    assert_eq!(
        (named(&third.open), third.adopted.len()),
        (vec!["printer"], 1)
    );

    // Accepted for a while, and asked about again when that is over.
    let by = actor("ops");
    let until = start + TimeDelta::days(30);
    let mut decide = Decide {
        system: "ldap",
        thing: &printer.thing,
        until,
        by: &by,
        reason: "of the building",
    };
    let accepted = company
        .directory
        .accept_found(decide)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (accepted.status, accepted.due_at),
        (FoundStatus::Accepted, until)
    );
    let nothing = Thing::Account("no-such".into());
    decide.thing = &nothing;
    assert_eq!(company.directory.accept_found(decide).await.unwrap(), None);
    let fourth = looked(company, start + TimeDelta::days(20)).await;
    assert_eq!((fourth.open.len(), fourth.accepted), (0, 1));
    let fifth = looked(company, until + TimeDelta::days(1)).await;
    assert_eq!(named(&fifth.open), ["printer"]);
    assert_eq!(fifth.open[0].reason.as_deref(), Some("of the building"));

    // What is retired is found again.
    assert!(
        company
            .directory
            .retire_nhi("batch", &by, "replaced", now())
            .await
            .unwrap()
    );
    assert!(
        !company
            .directory
            .retire_nhi("batch", &by, "replaced", now())
            .await
            .unwrap(),
        "twice"
    );
    let sixth = looked(company, until + TimeDelta::days(2)).await;
    assert_eq!(
        named(&sixth.open).into_iter().collect::<BTreeSet<_>>(),
        BTreeSet::from(["batch", "printer"])
    );
    let changes = company.directory.nhi_changes("batch").await.unwrap();
    assert_eq!(
        (changes[0].change.as_str(), changes[0].reason.as_str()),
        ("retired", "replaced")
    );

    let overdue = FoundFilter {
        due_before: Some(until + TimeDelta::days(1)),
        ..FoundFilter::default()
    };
    let overdue = company.directory.found(&overdue, 10).await.unwrap();
    assert_eq!(named(&overdue), ["printer"]);
    let all = FoundFilter {
        all: true,
        ..FoundFilter::default()
    };
    assert_eq!(company.directory.found(&all, 10).await.unwrap().len(), 3);
}

async fn a_system_that_is_away_says_nothing(company: &Company) {
    company.ldap.put_account("printer", None);
    assert_eq!(looked(company, now()).await.open.len(), 1);
    company.ldap.set_down(true);
    let systems = company.actions.systems_shared();
    let system = systems.get("ldap").unwrap();
    let away = look(&company.directory, system, WITHIN, now()).await;
    assert!(
        matches!(away, Err(TakeoverError::Unlisted { .. })),
        "{away:?}"
    );
    let still = company
        .directory
        .found(&FoundFilter::default(), 10)
        .await
        .unwrap();
    assert_eq!(named(&still), ["printer"]);
}
