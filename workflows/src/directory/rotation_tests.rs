//! Planning on both databases: many in one window without a burst, however many are planned when; and what comes next.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};
use engine::core::id::Actor;

use super::*;
use crate::nhi::declare;
use crate::testbed::{Company, on_both_databases};

fn at(text: &str) -> DateTime<Utc> {
    format!("{text}:00Z").parse().unwrap()
}

/// So many identities with ten credentials each, all due on the 1st of December 2026, a Tuesday; `more` for each.
async fn declared(company: &Company, from: usize, until: usize, more: &str) {
    let one = |number: usize| {
        let credential = |place: usize| {
            format!(
                "{{system: ldap, id: 'password:{number}-{place}', kind: password, issued: 2026-11-01T00:00:00Z, \
                 replaced_by: single_slot, rotation: {{place: {{system: ldap, bundle: x}}, users: [u], every: 30d{more}}}}}"
            )
        };
        let credentials: Vec<String> = (0..10).map(credential).collect();
        format!(
            "  - {{key: bot-{number:04}, kind: bot, environment: test, purpose: syncs, team: t, owner: A1, backup: B2, \
             review: 2099-01-31, credentials: [{}]}}\n",
            credentials.join(", ")
        )
    };
    let text: String = (from..until).map(one).collect();
    let declared = declare::parse(
        "n.yaml",
        &format!("nhis:\n{text}"),
        &BTreeSet::from(["ldap"]),
    );
    let by = Actor("user:ann".into());
    let now = at("2026-11-02T00:00");
    let report = company
        .directory
        .declare(&declared.unwrap(), &by, "so", now)
        .await
        .unwrap();
    assert_eq!(report.refused, Vec::<String>::new());
}

async fn two_people(company: &Company) {
    let people = ["A1,Ann Lee,Engineering", "B2,Bob Ray,Sales"];
    company.import("2026-01-01", &people).await;
}

/// All that is planned, three at a time.
async fn upcoming(company: &Company, page: u32) -> Vec<RotationRow> {
    let until = at("2027-01-01T00:00");
    let mut found: Vec<RotationRow> = Vec::new();
    loop {
        let last = found.last();
        let after = last.map(|row| (row.starts_at.unwrap(), row.name.as_str()));
        let rows = company.directory.rotations_upcoming(until, after, page);
        let rows = rows.await.unwrap();
        if rows.is_empty() {
            return found;
        }
        found.extend(rows);
    }
}

async fn a_fleet_has_no_burst_however_many_are_planned_when(company: &Company) {
    const WINDOW: &str = ", window: {cron: '0 2 * * SAT', length: 4h, zone: UTC}";
    two_people(company).await;
    let now = at("2026-11-03T00:00");
    // More than are planned in one transaction, then few, then one.
    for (from, until) in [(0, 60), (60, 70), (70, 71)] {
        declared(company, from, until, WINDOW).await;
        let planned = company.directory.plan_rotations(now).await.unwrap();
        assert_eq!(planned, (until - from) * 10);
        assert_eq!(company.directory.plan_rotations(now).await.unwrap(), 0);
    }
    let rows = upcoming(company, 500).await;
    assert_eq!(rows.len(), 710);
    let opens = at("2026-11-28T02:00");
    let mut tenths = [0; 24];
    let mut moments = BTreeSet::new();
    for row in &rows {
        let into = row.starts_at.unwrap() - opens;
        assert!(moments.insert(into), "two at the same moment");
        tenths[usize::try_from(into.num_minutes() / 10).unwrap()] += 1;
    }
    // Thirty in ten minutes, give or take three.
    assert!(
        tenths.iter().all(|count| (27..=33).contains(count)),
        "{tenths:?}"
    );
}

async fn what_comes_next_is_listed_by_its_time_page_by_page(company: &Company) {
    two_people(company).await;
    declared(company, 0, 1, "").await;
    declared(company, 1, 2, ", jitter: 5d").await;
    let now = at("2026-11-03T00:00");
    assert_eq!(company.directory.plan_rotations(now).await.unwrap(), 20);
    let rows = upcoming(company, 3).await;
    let order: Vec<(DateTime<Utc>, &str)> = rows
        .iter()
        .map(|row| (row.starts_at.unwrap(), row.name.as_str()))
        .collect();
    assert_eq!(order.len(), 20);
    assert!(order.is_sorted(), "{order:?}");
    let until = at("2026-12-01T00:00");
    assert_eq!(order.iter().filter(|(at, _)| *at == until).count(), 10);
    let begun = company
        .directory
        .start_rotations(until - TimeDelta::seconds(1));
    assert_eq!(begun.await.unwrap().cases.len(), 10);
    assert_eq!(
        upcoming(company, 100).await.len(),
        10,
        "what is under way is not to come"
    );
    let open = RotationFilter {
        open_only: true,
        phase: Some(crate::rotation::Phase::Scheduled),
        ..RotationFilter::default()
    };
    let rows = company.directory.rotations(&open, None, 100).await.unwrap();
    assert_eq!(rows.len(), 10);
}

on_both_databases! {
    a_fleet_has_no_burst_however_many_are_planned_when,
    what_comes_next_is_listed_by_its_time_page_by_page,
}
