//! What hangs on somebody who leaves: who answers for it then, what is replaced and bound anew, and what waits for whom.

#![allow(
    clippy::large_futures,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use chrono::TimeDelta;
use engine::core::case::{Ask, InstanceState};
use engine::core::id::{Place, StepIndex};
use engine::runner::{Clock as _, Command};
use serde_json::{Value, json};

use super::leaving_tests::{Office, day, employed};
use crate::directory::NhiFilter;
use crate::nhi::declare;
use crate::nhi::graph::{Confidence, Edge, Node, NodeKind, Relation};
use crate::sources::EventType;
use crate::testbed::{Leaving, actor, on_both};

/// The steps of `leaver.yaml` and `lockout.yaml` that these tests look at, by number.
const SETTLED: u16 = 12;
const LOCKOUT_SETTLE: u16 = 11;

on_both! {
    twelve_identities_of_a_leaver_go_on_under_somebody_else,
    what_a_leaver_knew_and_made_waits_for_whoever_answers_while_access_is_contained,
    a_key_that_production_uses_ends_a_day_later_and_the_others_at_once,
    a_key_ends_as_soon_as_nothing_needs_it,
    a_lockout_spares_nothing_and_asks_at_once,
}

/// Ann (A1), who reports to Bob (B2), and Cid (C3).
async fn office(on_postgres: bool) -> Office {
    let office = Office::open(on_postgres, Leaving::default()).await;
    office.say("C3", EventType::Hire, employed("B2")).await;
    office.until(&["joiner C3 succeeded"]).await;
    office
}

async fn declare(office: &Office, text: &str) {
    let declared = declare::parse("nhis.yaml", text, &BTreeSet::from(["ldap"])).unwrap();
    let now = office.clock.now();
    let report = (office.company.directory)
        .declare(&declared, &actor("ops"), "so", now)
        .await
        .unwrap();
    assert_eq!(report.refused, Vec::<String>::new());
}

fn nhi(key: &str, owner: &str, backup: &str, credentials: &str) -> String {
    format!(
        "  - {{key: {key}, kind: service_account, environment: production, purpose: works, team: data, owner: {owner}, \
         backup: {backup}, review: 2027-01-31, credentials: [{credentials}]}}\n"
    )
}

async fn uses(office: &Office, consumer: &str, credential: &str) {
    let now = office.clock.now();
    let edge = Edge {
        from: Node::new(NodeKind::Consumer, consumer),
        relation: Relation::Uses,
        to: Node::credential(credential),
        source: "log".into(),
        first_seen_at: now,
        last_seen_at: now,
        confidence: Confidence::Observed,
    };
    office
        .company
        .directory
        .observe(&[edge], &[])
        .await
        .unwrap();
}

/// What people are asked in the case of A1, in order of its steps.
async fn tasks(office: &Office, workflow: &str) -> Vec<(Place, String, String, i64)> {
    let case = office.company.case(workflow, "A1").await;
    let stored = office.company.store.load(case.head.shard, case.head.case);
    let stored = stored.await.unwrap().unwrap();
    let mut tasks = Vec::new();
    for row in &stored.steps {
        let Some(instance) = row.instance else {
            continue;
        };
        let body: Value = serde_json::from_str(&row.body).unwrap();
        if let InstanceState::Asking {
            ask: Ask::Task {
                assignee, title, ..
            },
            due,
            ..
        } = serde_json::from_value(body["state"].clone()).unwrap()
        {
            // What was due at once is told already.
            let wait = due.map_or(TimeDelta::zero(), |due| due - case.head.created_at);
            let place = Place::new(StepIndex(row.step), instance);
            tasks.push((place, assignee, title, wait.num_hours()));
        }
    }
    tasks
}

async fn asked(office: &Office, workflow: &str, count: usize) -> Vec<(Place, String, String, i64)> {
    for _ in 0..1_000 {
        let tasks = tasks(office, workflow).await;
        if tasks.len() == count {
            return tasks;
        }
        // sleeps: between two looks at the case
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{:#?}", tasks(office, workflow).await);
}

async fn done(office: &Office, workflow: &str, place: Place) {
    let case = office.company.case(workflow, "A1").await;
    let done = Command::TaskDone {
        place,
        by: actor("bob"),
        proof: "seen to".to_owned(),
        output: Value::Null,
    };
    office.company.command(&case, done).await;
    office.node.nudge();
}

async fn output(office: &Office, workflow: &str, step: u16) -> Vec<Value> {
    let case = office.company.case(workflow, "A1").await;
    office.company.outputs(case.head.case, step).await
}

async fn contained(office: &Office) {
    for _ in 0..1_000 {
        if office.company.ldap.shown()[0] == "a1: off" {
            return;
        }
        // sleeps: between two looks at the system
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{:?}", office.company.ldap.shown());
}

/// Waits until a key opens nothing.
async fn ends(office: &Office, key: &str) {
    for _ in 0..1_000 {
        if !office.company.ldap.opens(key) {
            return;
        }
        // sleeps: between two looks at the system
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("`{key}` still opens; {}", office.company.failures().await);
}

async fn owner(office: &Office) -> String {
    let sync = office.company.directory.nhi("sync").await.unwrap();
    sync.unwrap().owner
}

async fn leave(office: &Office) {
    office
        .say("A1", EventType::TerminationEffective, json!({}))
        .await;
}

async fn twelve_identities_of_a_leaver_go_on_under_somebody_else(on_postgres: bool) {
    let office = office(on_postgres).await;
    let mut file = String::from("nhis:\n");
    for number in 0..12 {
        // Of the last four Ann is the backup only.
        let (owner, backup) = if number < 8 {
            ("A1", "C3")
        } else {
            ("C3", "A1")
        };
        let _ = write!(
            file,
            "{}",
            nhi(&format!("sync-{number}"), owner, backup, "")
        );
    }
    file += &nhi("others", "B2", "C3", "");
    declare(&office, &file).await;
    leave(&office).await;
    office
        .until(&["joiner C3 succeeded", "leaver A1 unverified"])
        .await;
    let directory = &office.company.directory;
    let rows = directory
        .nhis(&NhiFilter::default(), None, 100)
        .await
        .unwrap();
    assert_eq!(rows.len(), 13);
    for row in rows.iter().filter(|row| row.nhi_key != "others") {
        // Ann's manager stands in where nobody does.
        assert_eq!(
            (row.owner.as_str(), row.backup.as_str()),
            ("C3", "B2"),
            "{}",
            row.nhi_key
        );
        assert_eq!(row.declared.owner, "C3");
        let changes = directory.nhi_changes(&row.nhi_key).await.unwrap();
        assert_eq!(changes[0].change, "handed_over");
        assert!(
            changes[0].reason.starts_with("A1 leaves: case "),
            "{changes:?}"
        );
    }
    let others = directory.nhi("others").await.unwrap().unwrap();
    assert_eq!(
        (others.owner.as_str(), others.backup.as_str()),
        ("B2", "C3")
    );
    assert_eq!(directory.nhi_changes("others").await.unwrap().len(), 1);
    let settled = output(&office, "leaver", SETTLED).await;
    assert_eq!(settled[0]["found"], 0, "{settled:?}");
    office.close().await;
}

async fn what_a_leaver_knew_and_made_waits_for_whoever_answers_while_access_is_contained(
    on_postgres: bool,
) {
    let office = office(on_postgres).await;
    let secret = "{system: ldap, id: 'password:sync', kind: password, replaced_by: alternating, known_by: [A1]}";
    let made = "{system: ldap, id: 'key:deploy', kind: api_key, minted_by: 'person:A1', used_by: [build/site]}";
    let file = |secret: &str, made: &str| {
        format!(
            "nhis:\n{}{}",
            nhi("sync", "B2", "C3", secret),
            nhi("site", "C3", "B2", made)
        )
    };
    declare(&office, &file(secret, made)).await;
    leave(&office).await;
    contained(&office).await;
    let tasks = asked(&office, "leaver", 2).await;
    let told: Vec<_> = tasks
        .iter()
        .map(|(_, assignee, title, hours)| (assignee.as_str(), title.as_str(), *hours))
        .collect();
    assert_eq!(
        told.iter().map(|it| (it.0, it.2)).collect::<BTreeSet<_>>(),
        BTreeSet::from([("person:B2", 24), ("person:C3", 24)]),
        "{told:?}"
    );
    assert!(told.iter().any(|it| {
        it.1.starts_with("Replace the secret of credential:ldap/password:sync")
    }));
    assert!(
        told.iter()
            .any(|it| it.1.starts_with("Bind credential:ldap/key:deploy"))
    );
    // Who knows the new secret, and what made the new key, is declared; then the work is done.
    let now = file(
        &secret.replace("known_by: [A1]", "known_by: [B2]"),
        &made.replace("person:A1", "person:C3"),
    );
    declare(&office, &now).await;
    for (place, ..) in &tasks {
        done(&office, "leaver", *place).await;
    }
    office
        .until(&["joiner C3 succeeded", "leaver A1 unverified"])
        .await;
    let settled = output(&office, "leaver", SETTLED).await;
    assert_eq!(settled[0]["found"], 0, "{settled:?}");
    office.close().await;
}

async fn a_key_that_production_uses_ends_a_day_later_and_the_others_at_once(on_postgres: bool) {
    let office = office(on_postgres).await;
    let ldap = &office.company.ldap;
    ldap.put_key("a1", "ann-laptop");
    ldap.put_key("a1", "ann-ci");
    uses(&office, "build/site", "ldap/ann-ci").await;
    leave(&office).await;
    contained(&office).await;
    let tasks = asked(&office, "leaver", 1).await;
    assert_eq!(tasks[0].1, "role:identity");
    assert!(!ldap.opens("ann-laptop"), "nobody needs it");
    assert!(ldap.opens("ann-ci"), "the build needs it");
    // Nobody does anything: a day later it ends all the same.
    office.jump(day(1) + TimeDelta::minutes(5));
    ends(&office, "ann-ci").await;
    done(&office, "leaver", tasks[0].0).await;
    office
        .until(&["joiner C3 succeeded", "leaver A1 unverified"])
        .await;
    let known = office.company.directory.credentials_of("A1").await.unwrap();
    let ended: BTreeSet<_> = known
        .iter()
        .map(|it| (it.credential_id.as_str(), it.status.as_str()))
        .collect();
    assert_eq!(
        ended,
        BTreeSet::from([("ann-ci", "ended"), ("ann-laptop", "ended")])
    );
    office.close().await;
}

async fn a_key_ends_as_soon_as_nothing_needs_it(on_postgres: bool) {
    let office = office(on_postgres).await;
    let ldap = &office.company.ldap;
    ldap.put_key("a1", "ann-ci");
    let made = |by: &str| {
        let made = format!(
            "{{system: ldap, id: 'key:deploy', kind: api_key, minted_by: '{by}', used_by: [build/site]}}"
        );
        format!("nhis:\n{}", nhi("site", "C3", "B2", &made))
    };
    declare(&office, &made("credential:ldap/ann-ci")).await;
    leave(&office).await;
    contained(&office).await;
    let tasks = asked(&office, "leaver", 1).await;
    assert_eq!(
        tasks[0].1, "person:C3",
        "who answers for what was made with it"
    );
    assert!(ldap.opens("ann-ci"));
    declare(&office, &made("person:C3")).await;
    office.jump(day(0) + TimeDelta::minutes(10));
    ends(&office, "ann-ci").await;
    done(&office, "leaver", tasks[0].0).await;
    office
        .until(&["joiner C3 succeeded", "leaver A1 unverified"])
        .await;
    office.close().await;
}

async fn a_lockout_spares_nothing_and_asks_at_once(on_postgres: bool) {
    let office = office(on_postgres).await;
    let ldap = &office.company.ldap;
    ldap.put_key("a1", "ann-ci");
    uses(&office, "build/site", "ldap/ann-ci").await;
    let secret = "{system: ldap, id: 'password:sync', kind: password, replaced_by: alternating, known_by: [A1]}";
    let file = format!("nhis:\n{}", nhi("sync", "A1", "C3", secret));
    declare(&office, &file).await;
    office
        .say("A1", EventType::AccessRevokeNow, json!({}))
        .await;
    contained(&office).await;
    let tasks = asked(&office, "lockout", 1).await;
    ends(&office, "ann-ci").await;
    assert_eq!(tasks[0].3, 0, "due at once: {tasks:?}");
    for _ in 0..1_000 {
        let pieces = output(&office, "lockout", LOCKOUT_SETTLE).await;
        if pieces.len() == 2 && owner(&office).await == "C3" {
            break;
        }
        // sleeps: between two looks at the case
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let sync = office.company.directory.nhi("sync").await.unwrap().unwrap();
    assert_eq!((sync.owner.as_str(), sync.backup.as_str()), ("C3", "B2"));
    let settle = output(&office, "lockout", LOCKOUT_SETTLE).await;
    assert_eq!(settle.len(), 2, "{settle:?}");
    // Nobody declared who knows the new secret: that is said, and not called verified.
    done(&office, "lockout", tasks[0].0).await;
    office
        .until(&["joiner C3 succeeded", "lockout A1 unverified"])
        .await;
    office.close().await;
}
