//! Non-human identities on both databases: declared, found again, and asked about.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use engine::core::id::Actor;
use serde_json::json;

use super::*;
use crate::intake::IntakeError;
use crate::nhi::check::{Coverage, Intent, Question, Rules, Verdict, check};
use crate::nhi::declare::{self, Declared};
use crate::nhi::found::Thing;
use crate::nhi::graph::{Confidence, Edge, Node, NodeKind, Relation};
use crate::nhi::uses::{Log, Sees, Uses};
use crate::sources::{BusinessEvent, EventType, Key};
use crate::testbed::{Company, now, on_both_databases};

const TWO: &str = "
nhis:
  - key: billing-sync
    kind: service_account
    environment: production
    purpose: copies invoices
    team: data
    owner: A1
    backup: B2
    review: 2027-01-31
    critical: true
    credentials:
      - {system: ldap, id: 'password:sync', kind: password, replaced_by: alternating, known_by: [A1],
         expires: 2026-04-01T00:00:00Z, stored_in: 'vault:billing', used_by: [cron/billing]}
      - {system: ldap, id: 'ssh_key:SHA256:x', kind: ssh_key, reversible: true, minted_by: 'person:A1'}
  - key: ci
    kind: bot
    environment: production
    purpose: builds
    team: build
    owner: B2
    backup: A1
    review: 2026-03-01
";

fn read(text: &str) -> Vec<Declared> {
    declare::parse("nhis.yaml", text, &BTreeSet::from(["ldap"])).unwrap()
}

async fn declare(company: &Company, text: &str) -> DeclareReport {
    let by = Actor("user:ann".into());
    (company
        .directory
        .declare(&read(text), &by, "so", now())
        .await)
        .unwrap()
}

async fn two_people(company: &Company) {
    let people = ["A1,Ann Lee,Engineering", "B2,Bob Ray,Sales"];
    company.import("2026-01-01", &people).await;
    let _node = company.node().await;
    company
        .until(&["joiner A1 succeeded", "joiner B2 succeeded"])
        .await;
}

async fn what_is_declared_is_found_again_and_said_twice_changes_nothing(company: &Company) {
    two_people(company).await;
    let report = declare(company, TWO).await;
    assert_eq!(report.new, ["billing-sync", "ci"]);
    assert_eq!(report.refused, Vec::<String>::new());
    let again = declare(company, TWO).await;
    assert_eq!(
        (again.new.len(), again.changed.len(), again.unchanged),
        (0, 0, 2)
    );

    let row = company
        .directory
        .nhi("billing-sync")
        .await
        .unwrap()
        .unwrap();
    assert_eq!(row.declared, read(TWO)[0]);
    assert_eq!(row.status, NhiStatus::Active);
    assert_eq!(company.directory.nhi("nobody").await.unwrap(), None);
    let list = |filter: NhiFilter| async move {
        let rows = company.directory.nhis(&filter, None, 100).await.unwrap();
        rows.into_iter().map(|row| row.nhi_key).collect::<Vec<_>>()
    };
    assert_eq!(list(NhiFilter::default()).await, ["billing-sync", "ci"]);
    let person = Some("A1".to_owned());
    assert_eq!(
        list(NhiFilter {
            person,
            ..NhiFilter::default()
        })
        .await
        .len(),
        2
    );
    let team = Some("build".to_owned());
    assert_eq!(
        list(NhiFilter {
            team,
            ..NhiFilter::default()
        })
        .await,
        ["ci"]
    );
    let review_by = "2026-12-31".parse().ok();
    assert_eq!(
        list(NhiFilter {
            review_by,
            ..NhiFilter::default()
        })
        .await,
        ["ci"]
    );
    let page = company
        .directory
        .nhis(&NhiFilter::default(), Some("billing-sync"), 100)
        .await;
    assert_eq!(page.unwrap().len(), 1);

    let before = "2026-04-02T00:00:00Z".parse().unwrap();
    let expiring = company
        .directory
        .nhi_credentials_expiring(before, 10)
        .await
        .unwrap();
    assert_eq!(expiring.len(), 1);
    assert_eq!(expiring[0].name, "ldap/password:sync");
    assert_eq!(
        company.directory.nhi_changes("ci").await.unwrap()[0].by_actor,
        "user:ann"
    );
}

async fn what_names_nobody_or_takes_from_another_is_refused_as_a_whole(company: &Company) {
    two_people(company).await;
    let report = declare(company, &TWO.replacen("owner: B2", "owner: Z9", 1)).await;
    assert_eq!(
        report.refused,
        ["`ci`: its owner `Z9` is nobody who is known"]
    );
    assert!(
        company
            .directory
            .nhi("billing-sync")
            .await
            .unwrap()
            .is_none()
    );

    declare(company, TWO).await;
    let thief = TWO.replace("key: billing-sync", "key: thief");
    let report = declare(company, &thief).await;
    assert_eq!(report.refused.len(), 2, "{:?}", report.refused);
    assert!(
        report.refused[0].contains("belongs to `billing-sync`"),
        "{:?}",
        report.refused
    );
    assert!(company.directory.nhi("thief").await.unwrap().is_none());
}

async fn a_changed_declaration_takes_its_edges_along(company: &Company) {
    two_people(company).await;
    declare(company, TWO).await;
    let password = Node::credential("ldap/password:sync");
    let knows = |edges: Vec<Edge>| -> Vec<String> {
        let knows = edges
            .into_iter()
            .filter(|edge| edge.relation == Relation::Knows);
        knows.map(|edge| edge.from.to_string()).collect()
    };
    let edges = company.directory.edges_at([&password]).await.unwrap();
    assert_eq!(knows(edges), ["person:A1", "location:vault:billing"]);
    let changed = TWO
        .replace("known_by: [A1]", "known_by: [B2]")
        .replace("used_by: [cron/billing]", "used_by: []");
    let report = declare(company, &changed).await;
    assert_eq!(
        (report.changed.as_slice(), report.unchanged),
        (["billing-sync".to_owned()].as_slice(), 1)
    );
    let edges = company.directory.edges_at([&password]).await.unwrap();
    assert!(
        !edges.iter().any(|edge| edge.relation == Relation::Uses),
        "{edges:?}"
    );
    assert_eq!(knows(edges), ["person:B2", "location:vault:billing"]);
}

async fn a_question_about_a_leaver_is_answered_from_the_database(company: &Company) {
    two_people(company).await;
    declare(company, TWO).await;
    let start = now();
    let at = start + TimeDelta::days(100);
    let key = Node::credential("ldap/ssh_key:SHA256:x");
    // Seen later and earlier: the edge has both moments.
    for days in [99, 98] {
        let seen = start + TimeDelta::days(days);
        let uses = Edge {
            from: Node::new(NodeKind::Consumer, "deploy"),
            relation: Relation::Uses,
            to: key.clone(),
            source: "log".into(),
            first_seen_at: seen,
            last_seen_at: seen,
            confidence: Confidence::Observed,
        };
        company.directory.observe(&[uses], &[]).await.unwrap();
    }
    let looks = Coverage {
        node: key.clone(),
        source: "log".into(),
        from: start,
        until: at,
        delay_s: 60,
        blind_spots: vec!["copies".into()],
        required: true,
    };
    company
        .directory
        .observe(&[], std::slice::from_ref(&looks))
        .await
        .unwrap();
    let question = Question {
        subject: Node::person("A1"),
        intent: Intent::Leave,
        hostile: false,
    };
    let snapshot = company
        .directory
        .dependencies(question.clone(), &BTreeMap::new(), Rules::default(), at)
        .await;
    let snapshot = snapshot.unwrap().unwrap();
    assert_eq!(snapshot.coverage, [looks]);
    let used = snapshot
        .edges
        .iter()
        .find(|edge| edge.source == "log")
        .unwrap();
    assert_eq!(used.last_seen_at - used.first_seen_at, TimeDelta::days(1));
    let answer = check(&snapshot);
    let found: Vec<_> = answer
        .findings
        .iter()
        .map(|finding| (finding.node.to_string(), finding.verdict))
        .collect();
    assert_eq!(
        found,
        [
            ("nhi:billing-sync".to_owned(), Verdict::Reassign),
            ("nhi:ci".to_owned(), Verdict::Reassign),
            (
                "credential:ldap/password:sync".to_owned(),
                Verdict::RotateFirst
            ),
            (
                "credential:ldap/ssh_key:SHA256:x".to_owned(),
                Verdict::Rebind
            ),
        ]
    );
    assert_eq!(answer.findings[0].to, Some(Node::person("B2")));
    // Nothing has changed: the same digest. Somebody else declares something: another.
    let again = company
        .directory
        .dependencies(question.clone(), &BTreeMap::new(), Rules::default(), at)
        .await;
    assert_eq!(check(&again.unwrap().unwrap()).digest, answer.digest);
    declare(company, &TWO.replace("critical: true", "critical: false")).await;
    let after = company
        .directory
        .dependencies(question, &BTreeMap::new(), Rules::default(), at)
        .await;
    assert_ne!(check(&after.unwrap().unwrap()).digest, answer.digest);
}

fn said(number: i64, event_type: EventType, subject: &str, at: DateTime<Utc>) -> BusinessEvent {
    BusinessEvent {
        id: format!("cat-{number}"),
        source: "catalogue".to_owned(),
        event_type,
        subject: Key::new(subject),
        occurred_at: at,
        effective_at: at,
        zone: "UTC".to_owned(),
        version: number,
        supersedes: None,
        data: json!({ "reason": "a new team" }),
    }
}

fn moves(number: i64, subject: &str, to: &str, at: DateTime<Utc>) -> BusinessEvent {
    let mut event = said(number, EventType::OwnerChanged, subject, at);
    event.data["to"] = json!({ "key": to });
    event
}

async fn what_a_catalogue_says_changes_what_is_declared(company: &Company) {
    two_people(company).await;
    declare(company, TWO).await;
    let (by, begin) = (Actor("token:catalogue".into()), now());
    let later = |ms: i64| begin + TimeDelta::milliseconds(ms);
    let intake = &company.intake;
    let owners = async |key: &str| {
        let row = company.directory.nhi(key).await.unwrap().unwrap();
        format!("{} {} {}", row.owner, row.backup, row.status.as_str())
    };
    assert_eq!(owners("ci").await, "B2 A1 active");
    // Who was the backup becomes the owner: the other one takes that place.
    let first = moves(3, "ci", "A1", later(30));
    let report = intake.event(&first, &by, later(100)).await.unwrap();
    assert_eq!(report.status, Some(EventStatus::Started));
    assert_eq!(owners("ci").await, "A1 B2 active");
    let change = company.directory.nhi_changes("ci").await.unwrap().remove(0);
    assert_eq!(
        (change.change.as_str(), change.by_actor.as_str()),
        ("owner.changed", "token:catalogue")
    );
    assert!(change.reason.starts_with("a new team ("), "{change:?}");
    let nodes = [Node::nhi("ci")];
    let edges = company.directory.edges_at(&nodes).await.unwrap();
    let owns = |key: &str| {
        let mut edges = edges.iter();
        edges.any(|edge| edge.relation == Relation::Owns && edge.from == Node::person(key))
    };
    assert!(owns("A1") && !owns("B2"));
    // Again it is known; an older one that comes late is kept and changes nothing.
    assert!(!intake.event(&first, &by, later(100)).await.unwrap().new);
    let late = moves(2, "ci", "B2", later(20));
    let report = intake.event(&late, &by, later(110)).await.unwrap();
    assert_eq!(report.status, Some(EventStatus::Recorded));
    // What cannot be so is refused, and may be said again when it can.
    for (event, why) in [
        (
            moves(4, "ci", "Z9", later(40)),
            "`Z9` is nobody who is known",
        ),
        (
            said(5, EventType::OwnerChanged, "ci", later(50)),
            "would have no owner",
        ),
        (said(6, EventType::ServiceRegistered, "web", later(60)), ""),
    ] {
        let mut event = event;
        if why.is_empty() {
            event.data["attributes"] = json!({ "kind": "bot", "team": "build" });
        }
        let error = intake.event(&event, &by, later(120)).await.unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
        assert!(matches!(error, IntakeError::Thing(_)), "{error}");
    }
    assert_eq!(owners("ci").await, "A1 B2 active");
    // One that holds later waits for its time.
    let announced = moves(7, "ci", "B2", later(5_000));
    let report = intake.event(&announced, &by, later(130)).await.unwrap();
    assert_eq!(report.status, Some(EventStatus::Waiting));
    intake.start_due(later(140)).await.unwrap();
    assert_eq!(owners("ci").await, "A1 B2 active");
    intake.start_due(later(5_000)).await.unwrap();
    assert_eq!(owners("ci").await, "B2 A1 active");
    // Registered and retired.
    let mut web = said(8, EventType::ServiceRegistered, "web", later(80));
    web.data["attributes"] = json!({
        "kind": "bot", "environment": "production", "purpose": "answers", "team": "build", "owner": "A1",
        "backup": "B2", "review": "2027-01-01", "used_by": ["cron/web"],
    });
    intake.event(&web, &by, later(150)).await.unwrap();
    assert_eq!(owners("web").await, "A1 B2 active");
    let end = said(9, EventType::ServiceRetired, "web", later(90));
    intake.event(&end, &by, later(160)).await.unwrap();
    assert_eq!(owners("web").await, "A1 B2 retired");
    let edges = company.directory.edges_at([&Node::nhi("web")]).await;
    assert_eq!(edges.unwrap(), [], "nobody expects it any more");
    // A file that is declared later counts more than what is heard late about a moment before it.
    declare(
        company,
        &TWO.replace("purpose: builds", "purpose: builds all"),
    )
    .await;
    let stale = moves(10, "ci", "A1", begin);
    let report = intake.event(&stale, &by, later(9_000)).await.unwrap();
    assert_eq!(report.status, Some(EventStatus::Recorded));
    // They are nobody.
    for key in ["ci", "web"] {
        assert_eq!(company.directory.identity(key).await.unwrap(), None);
    }
    assert_eq!(company.cases().await.len(), 2);
}

/// What a log says of uses is believed for what it saw, and a gap in it is none.
async fn a_log_says_what_was_used_and_for_how_long_it_watched(company: &Company) {
    two_people(company).await;
    let text = TWO.replace(
        "    critical: true\n",
        "    accounts: [{system: ldap, name: billing_sync}]\n",
    );
    let text = text.replace(", used_by: [cron/billing]", "");
    assert!(declare(company, &text).await.refused.is_empty());
    let by = Actor("user:ann".into());
    let observe = async |from: DateTime<Utc>, until: DateTime<Utc>, lines: &str| {
        let log = Log {
            system: "ldap".to_owned(),
            source: "log:ldap".to_owned(),
            from,
            until,
            delay_s: 0,
            blind_spots: Vec::new(),
            required: false,
            sees: Sees::Accounts,
        };
        let mut uses = Uses::new("access.jsonl", &log);
        for line in lines.lines() {
            assert!(uses.take(line.as_bytes()));
        }
        let said = uses.finish().unwrap();
        let directory = &company.directory;
        let report = directory
            .observe_log(&log, &said, &by, "export", now())
            .await;
        report.unwrap()
    };
    let verdict = async || {
        let question = Question {
            subject: Node::nhi("billing-sync"),
            intent: Intent::Disable,
            hostile: false,
        };
        let snapshot = company
            .directory
            .dependencies(question, &BTreeMap::new(), Rules::default(), now())
            .await
            .unwrap()
            .unwrap();
        let answer = check(&snapshot);
        let nhi = Node::nhi("billing-sync");
        let of_it = answer.findings.into_iter().find(|found| found.node == nhi);
        of_it.unwrap().verdict
    };
    let today = now();
    let day = |days: i64| today - TimeDelta::days(days);
    assert_eq!(verdict().await, Verdict::InsufficientEvidence);

    // Three exports, one after the other, in any order: together they have watched for long enough.
    let other = format!(
        r#"{{"at":"{}","account":"ann","by":"desk"}}"#,
        day(40).to_rfc3339()
    );
    let report = observe(day(60), day(30), &other).await;
    assert_eq!((report.lines, report.uses, report.nhis), (1, 0, 1));
    assert_eq!(report.unknown, [(Thing::Account("ann".to_owned()), 1)]);
    observe(day(30), day(0), "").await;
    assert_eq!(verdict().await, Verdict::InsufficientEvidence);
    observe(day(120), day(60), "").await;
    assert_eq!(verdict().await, Verdict::Proceed);
    observe(day(30), day(0), "").await;
    assert_eq!(
        verdict().await,
        Verdict::Proceed,
        "said again it changes nothing"
    );

    // A use that was seen is one, whatever the rest says.
    let used = format!(
        r#"{{"at":"{}","account":"billing_sync","by":"cron/billing"}}"#,
        day(3).to_rfc3339()
    );
    let report = observe(day(5), day(0), &used).await;
    assert_eq!((report.uses, report.unknown_count), (1, 0));
    assert_eq!(verdict().await, Verdict::Block);
    let edges = company
        .directory
        .edges_at([&Node::nhi("billing-sync")])
        .await
        .unwrap();
    let seen = edges.iter().find(|edge| edge.source == "log:ldap").unwrap();
    assert_eq!(seen.from.to_string(), "consumer:cron/billing");
    assert_eq!(seen.last_seen_at, day(3));
    let changes = company.directory.nhi_changes("billing-sync").await.unwrap();
    let observed = changes
        .iter()
        .find(|change| change.change == "observed")
        .unwrap();
    assert_eq!(observed.by_actor, "user:ann");
    assert!(observed.reason.starts_with("export (log:ldap watched from"));
}

on_both_databases! {
    a_log_says_what_was_used_and_for_how_long_it_watched,
    what_a_catalogue_says_changes_what_is_declared,
    what_is_declared_is_found_again_and_said_twice_changes_nothing,
    what_names_nobody_or_takes_from_another_is_refused_as_a_whole,
    a_changed_declaration_takes_its_edges_along,
    a_question_about_a_leaver_is_answered_from_the_database,
}
