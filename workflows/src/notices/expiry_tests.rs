//! Ends of credentials on virtual time, on both databases: who is told when, once, and what is not told any more.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeSet;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use engine::core::id::Actor;
use engine::store::SHARDS_DEFAULT;

use super::*;
use crate::nhi::declare;
use crate::policy::{CredentialRule, PolicySet};
use crate::takeover::shortfalls;
use crate::testbed::{Company, on_both_databases};

const TWO: &str = "
nhis:
  - {key: web, kind: workload, environment: production, purpose: serves, team: edge, owner: A1, backup: B2, sponsor: B2,
     review: 2099-01-31, credentials: [
       {system: ldap, id: 'certificate:1', kind: certificate, issued: 2026-01-01T00:00:00Z, expires: 2027-01-01T00:00:00Z}]}
  - {key: sync, kind: bot, environment: test, purpose: syncs, team: edge, owner: A1, backup: B2, review: 2099-01-31,
     credentials: [
       {system: ldap, id: 'password:auto', kind: password, issued: 2026-01-01T00:00:00Z, expires: 2027-01-01T00:00:00Z,
        replaced_by: single_slot, rotation: {place: {system: ldap, bundle: x}, users: [auto], before_expiry: 10d}}]}
";

const SETTINGS: &str = "
email: { server: 127.0.0.1, tls: none, from: tenure@example.org }
fallback: [desk@example.org]
";

fn at(text: &str) -> DateTime<Utc> {
    format!("{text}:00Z").parse().unwrap()
}

fn rules() -> Vec<CredentialRule> {
    let file = "
credentials:
  - {name: ends, expiry: [30d, 7d]}
  - {name: production, environments: [production], expiry: [1d, 7d]}
  - {name: test, environments: [test], expiry: [1d]}
roles: [{name: all, when: 'true'}]
";
    let files = [("p.yaml".to_owned(), file.to_owned())];
    let policy = PolicySet::load(&files, &Schema::new([""; 0]));
    policy.unwrap().credentials().to_vec()
}

struct Office<'a> {
    company: &'a Company,
    outbox: Outbox,
    notices: Arc<Notices>,
}

impl<'a> Office<'a> {
    async fn open(company: &'a Company) -> Self {
        let people = ["A1,Ann Lee,Engineering", "B2,Bob Ray,Sales"];
        company.import("2026-01-01", &people).await;
        let settings: NotificationSettings = serde_saphyr::from_str(SETTINGS).unwrap();
        let schema = crate::testbed::schema(&["ldap", "scim"]);
        let office = Self {
            company,
            outbox: Outbox::new(company.directory.clone()),
            notices: Arc::new(Notices::load(Some(settings), &[], &schema, &[]).unwrap()),
        };
        office.declare(TWO).await;
        company
            .directory
            .plan_rotations(at("2026-10-01T00:00"))
            .await
            .unwrap();
        office
    }

    async fn declare(&self, text: &str) {
        let declared = declare::parse("n.yaml", text, &BTreeSet::from(["ldap"])).unwrap();
        let by = Actor("user:ann".into());
        let directory = &self.company.directory;
        let report = directory
            .declare(&declared, &by, "so", at("2026-10-01T00:00"))
            .await
            .unwrap();
        assert_eq!(report.refused, Vec::<String>::new());
    }

    /// What is new at a moment, for whoever has just started: `CREDENTIAL BEFORE RECIPIENT`.
    async fn look(&self, now: &str) -> Vec<String> {
        let before = self.rows().await;
        let expiries = Expiries::new(self.outbox.clone(), Arc::clone(&self.notices), rules());
        let new = expiries.look(&shards(), at(now)).await.unwrap();
        let after = self.rows().await;
        let told: Vec<String> = after.difference(&before).cloned().collect();
        assert_eq!(new, told.len());
        told
    }

    async fn rows(&self) -> BTreeSet<String> {
        let all = NoticeFilter::default();
        let rows = self.outbox.list(&all, None, 1_000);
        let row = |row: &NoticeRow| {
            assert_eq!(row.name, kind::CREDENTIAL_EXPIRING);
            let before = row.vars["before"].as_str().unwrap_or("over");
            let name = row.vars["credential"].as_str().unwrap();
            let urgent = if row.urgent { "!" } else { "" };
            format!("{name} {before}{urgent} {}", row.recipient)
        };
        rows.await.unwrap().iter().map(row).collect()
    }
}

fn shards() -> Vec<i32> {
    (0..i32::try_from(SHARDS_DEFAULT).unwrap()).collect()
}

async fn more_people_are_told_the_nearer_an_end_is_and_each_moment_once(company: &Company) {
    let office = Office::open(company).await;
    assert_eq!(office.look("2026-11-30T23:59").await, [""; 0]);
    let moments: [(&str, &[&str]); 6] = [
        // What is replaced by itself on the 22nd is nobody's work.
        ("2026-12-02T00:00", &["ldap/certificate:1 30d person:A1"]),
        (
            "2026-12-25T00:00",
            &[
                "ldap/certificate:1 7d person:A1",
                "ldap/certificate:1 7d person:B2",
                "ldap/certificate:1 7d role:edge",
            ],
        ),
        ("2026-12-30T23:59", &[]),
        (
            "2026-12-31T00:00",
            &[
                "ldap/certificate:1 1d! person:A1",
                "ldap/certificate:1 1d! person:B2",
                "ldap/certificate:1 1d! role:edge",
                "ldap/certificate:1 1d! role:security",
                "ldap/password:auto 1d! person:A1",
                "ldap/password:auto 1d! person:B2",
                "ldap/password:auto 1d! role:edge",
                "ldap/password:auto 1d! role:security",
            ],
        ),
        (
            "2027-01-01T00:00",
            &[
                "ldap/certificate:1 over! person:A1",
                "ldap/certificate:1 over! person:B2",
                "ldap/certificate:1 over! role:edge",
                "ldap/certificate:1 over! role:security",
                "ldap/password:auto over! person:A1",
                "ldap/password:auto over! person:B2",
                "ldap/password:auto over! role:edge",
                "ldap/password:auto over! role:security",
            ],
        ),
        ("2027-02-01T00:00", &[]),
    ];
    for (now, told) in moments {
        assert_eq!(office.look(now).await, told, "{now}");
        assert_eq!(office.look(now).await, [""; 0], "{now}, once more");
    }
    // What was told and is over is forgotten, and is not told again for that.
    office
        .company
        .run_sql("UPDATE notice SET state = 'sent'")
        .await;
    let all = shards();
    let forget = || office.outbox.forget(&all, at("2027-05-01T00:00"));
    while forget().await.unwrap() > 0 {}
    assert_eq!(office.rows().await.len(), 0);
    assert_eq!(office.look("2027-05-01T00:00").await, [""; 0]);
}

async fn after_a_time_without_a_node_only_the_last_moment_is_told(company: &Company) {
    let office = Office::open(company).await;
    let told = office.look("2026-12-28T00:00").await;
    assert_eq!(
        told,
        [
            "ldap/certificate:1 7d person:A1",
            "ldap/certificate:1 7d person:B2",
            "ldap/certificate:1 7d role:edge",
        ]
    );
    // One that did not get to its end needs somebody.
    office
        .company
        .run_sql("UPDATE rotation SET failures = 1")
        .await;
    let told = office.look("2026-12-28T00:00").await;
    assert_eq!(
        told,
        [
            "ldap/password:auto 7d person:A1",
            "ldap/password:auto 7d person:B2",
            "ldap/password:auto 7d role:edge",
        ]
    );
}

async fn what_has_been_replaced_is_not_told_and_ends_when_the_new_one_does(company: &Company) {
    let office = Office::open(company).await;
    assert_eq!(office.look("2026-12-31T00:00").await.len(), 8);
    office
        .company
        .run_sql(
            "UPDATE rotation SET phase = 'closed', planned = (1 = 0), since = '2026-12-31T00:00:00.000000Z',
                last_rotated_at = '2026-12-31T00:00:00.000000Z', expires_at = '2027-12-31T00:00:00.000000Z'",
        )
        .await;
    let directory = &office.company.directory;
    let now = at("2026-12-31T01:00");
    directory.plan_rotations(now).await.unwrap();
    let router = Router::new(
        office.outbox.clone(),
        Arc::clone(&office.notices),
        Vec::new(),
    );
    router.look(&shards(), now).await.unwrap();
    let rows = office
        .outbox
        .list(&NoticeFilter::default(), None, 100)
        .await;
    for row in rows.unwrap() {
        let replaced = row.vars["credential"] == "ldap/password:auto";
        assert_eq!(row.state == NoticeState::Void, replaced, "{row:?}");
    }
    let short = async |now: DateTime<Utc>| {
        let found = shortfalls(directory, &rules(), now).await.unwrap();
        let named = found.into_iter().map(|it| it.credential);
        named.collect::<BTreeSet<String>>()
    };
    assert_eq!(short(now).await, ["ldap/certificate:1".to_owned()].into());

    // What is said later says nothing of it.
    let ends = async || {
        let held = directory.nhi_credentials_of(["sync"]).await.unwrap();
        let row = directory.rotation("ldap/password:auto").await.unwrap();
        (
            held[0].expires_at.unwrap(),
            row.unwrap().expires_at.unwrap(),
        )
    };
    let new = at("2027-12-31T00:00");
    assert_eq!(ends().await, (new, new));
    office.declare(&TWO.replace("syncs", "copies")).await;
    assert_eq!(ends().await, (new, new));
    for end in ["2028-01-01", "2029-01-01"] {
        office.declare(&TWO.replace("2027-01-01", end)).await;
        assert_eq!(ends().await, (new, new));
        let web = directory.nhi_credentials_of(["web"]).await.unwrap();
        assert_eq!(web[0].expires_at, Some(at(&format!("{end}T00:00"))));
    }
}

on_both_databases! {
    more_people_are_told_the_nearer_an_end_is_and_each_moment_once,
    after_a_time_without_a_node_only_the_last_moment_is_told,
    what_has_been_replaced_is_not_told_and_ends_when_the_new_one_does,
}
