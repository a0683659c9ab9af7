//! The directory on an embedded store, through the intake and cases that write it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use super::*;
use crate::testbed::{Company, now, on_both_databases};

async fn a_person_is_shown_with_everything_they_hold_and_why(company: &Company) {
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

    let ann = company.directory.identity("A1").await.unwrap().unwrap();
    assert_eq!(ann.identity.status, IdentityStatus::Active);
    assert_eq!(ann.identity.display_name, "Ann Lee");
    assert_eq!(ann.identity.attributes["department"], "Engineering");
    let accounts: Vec<_> = ann
        .accounts
        .iter()
        .map(|account| {
            (
                account.system.as_str(),
                account.name.as_str(),
                account.status,
            )
        })
        .collect();
    assert_eq!(
        accounts,
        [
            ("ldap", "a1", AccountStatus::Active),
            ("scim", "a1", AccountStatus::Active)
        ]
    );
    assert!(
        ann.accounts
            .iter()
            .all(|account| account.verified_at.is_some())
    );
    let grants: Vec<_> = ann
        .grants
        .iter()
        .map(|grant| {
            let roles: Vec<_> = grant
                .reasons
                .iter()
                .map(|reason| reason.role.as_str())
                .collect();
            (
                grant.system.as_str(),
                grant.entitlement.as_str(),
                grant.status,
                roles.join(","),
            )
        })
        .collect();
    assert_eq!(
        grants,
        [
            (
                "ldap",
                "engineers",
                GrantStatus::Active,
                "engineers".to_owned()
            ),
            ("ldap", "staff", GrantStatus::Active, "staff".to_owned()),
            ("scim", "git", GrantStatus::Active, "engineers".to_owned()),
        ]
    );
    assert!(ann.grants.iter().all(|grant| grant.policy_hash.is_some()));
    assert_eq!(ann.events.len(), 1);
    assert_eq!(ann.events[0].cases.len(), 1);
    assert!(company.directory.identity("Z9").await.unwrap().is_none());
}

async fn identities_are_listed_searched_and_counted(company: &Company) {
    company
        .import(
            "2026-01-01",
            &["A1,Ann Lee,Sales", "B2,Bob_Ray,Sales", "C3,Cid %,Sales"],
        )
        .await;
    let list = async |filter: IdentityFilter, after: Option<&str>, limit| {
        let rows = company
            .directory
            .identities(&filter, after, limit)
            .await
            .unwrap();
        rows.into_iter()
            .map(|row| row.identity_key)
            .collect::<Vec<_>>()
    };
    let search = |text: &str| IdentityFilter {
        search: Some(text.to_owned()),
        ..IdentityFilter::default()
    };
    assert_eq!(list(IdentityFilter::default(), None, 2).await, ["A1", "B2"]);
    assert_eq!(list(IdentityFilter::default(), Some("B2"), 2).await, ["C3"]);
    assert_eq!(list(search("LEE"), None, 9).await, ["A1"]);
    assert_eq!(list(search("b2"), None, 9).await, ["B2"]);
    // What LIKE would read as a pattern is text.
    assert_eq!(list(search("%"), None, 9).await, ["C3"]);
    assert_eq!(list(search("b_r"), None, 9).await, ["B2"]);
    let departed = IdentityFilter {
        status: Some(IdentityStatus::Departed),
        search: None,
    };
    assert_eq!(list(departed, None, 9).await, Vec::<String>::new());
    assert_eq!(
        company.directory.identity_counts().await.unwrap(),
        [(IdentityStatus::Expected, 3)]
    );
}

async fn lag_and_accounts_are_counted_by_system(company: &Company) {
    company
        .import(
            "2026-01-01",
            &["A1,Ann,Sales", "B2,Bob,Sales", "C3,Cid,Sales"],
        )
        .await;
    let _node = company.node().await;
    company.closed(3).await;
    company
        .import("2026-02-01", &["A1,Ann,Sales", "B2,Bob,Sales"])
        .await;
    company.closed(4).await;
    let counts: Vec<_> = company
        .directory
        .account_counts()
        .await
        .unwrap()
        .into_iter()
        .map(|count| (count.system, count.status, count.count, count.unverified))
        .collect();
    assert_eq!(
        counts,
        [
            ("ldap".to_owned(), AccountStatus::Active, 2, 0),
            ("ldap".to_owned(), AccountStatus::Disabled, 1, 0),
            ("scim".to_owned(), AccountStatus::Active, 2, 0),
            ("scim".to_owned(), AccountStatus::Disabled, 1, 0),
        ]
    );
    let lag = company.directory.lag(None).await.unwrap();
    let kinds: Vec<_> = lag
        .iter()
        .map(|lag| (lag.system.as_str(), lag.kind, lag.cases, lag.unverified))
        .collect();
    assert_eq!(
        kinds,
        [
            ("ldap", LagKind::Grant, 3, 0),
            ("ldap", LagKind::Removal, 1, 0),
            ("scim", LagKind::Grant, 3, 0),
            ("scim", LagKind::Removal, 1, 0),
        ]
    );
    for lag in &lag {
        // The facts are years old; the lag is what passed since they were known.
        assert!(
            lag.p50_ms <= lag.p99_ms && lag.p99_ms <= lag.max_ms,
            "{lag:?}"
        );
        assert!(lag.max_ms.unwrap() < 60_000, "{lag:?}");
    }
    let later = Some(now() + chrono::TimeDelta::hours(1));
    assert_eq!(company.directory.lag(later).await.unwrap(), []);
}

async fn the_state_of_a_system_is_kept_for_each_process(company: &Company) {
    let at = now();
    let row = |node: &str, state| SystemStateRow {
        shard_id: 0,
        system: "ldap".to_owned(),
        node: node.to_owned(),
        state,
        since: Some(at),
        until: None,
        reason: Some("connection refused".to_owned()),
        changed_at: at,
    };
    for (node, state) in [
        ("a", SystemState::Held),
        ("b", SystemState::Held),
        ("a", SystemState::Ready),
    ] {
        company
            .directory
            .put_system_state(row(node, state))
            .await
            .unwrap();
    }
    let states: Vec<_> = company
        .directory
        .system_states()
        .await
        .unwrap()
        .into_iter()
        .map(|row| (row.node, row.state, row.since))
        .collect();
    assert_eq!(
        states,
        [
            ("a".to_owned(), SystemState::Ready, Some(at)),
            ("b".to_owned(), SystemState::Held, Some(at)),
        ]
    );
    let forget = async |alive: &[&str], before| {
        let alive: Vec<String> = alive.iter().map(|&node| node.to_owned()).collect();
        company
            .directory
            .forget_system_states(&alive, before)
            .await
            .unwrap();
        let left = company.directory.system_states().await.unwrap();
        left.into_iter().map(|row| row.node).collect::<Vec<_>>()
    };
    assert_eq!(forget(&[], at).await, ["a", "b"], "said just now");
    let later = at + chrono::TimeDelta::microseconds(1);
    assert_eq!(forget(&["a", "c"], later).await, ["a"]);
    assert_eq!(forget(&[], later).await, Vec::<String>::new());
}

on_both_databases! {
    a_person_is_shown_with_everything_they_hold_and_why,
    identities_are_listed_searched_and_counted,
    lag_and_accounts_are_counted_by_system,
    the_state_of_a_system_is_kept_for_each_process,
}
