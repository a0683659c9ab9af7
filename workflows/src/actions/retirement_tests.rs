//! The end of a non-human identity on both databases: put out of use, watched, put back, deleted.

#![allow(
    clippy::large_futures,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::TimeDelta;
use connectors::connector::OperationName;
use engine::core::duration::Span;
use engine::core::id::{Place, StepIndex};
use engine::runner::{Clock as _, Command};

use super::leaving_tests::{Office, day};
use crate::directory::NhiStatus;
use crate::nhi::declare;
use crate::nhi::graph::{Confidence, Edge, Node, NodeKind, Relation};
use crate::testbed::{Leaving, actor, on_both};

/// The steps of `retirement.yaml` that these tests look at, by number.
const APPROVE: u16 = 1;
const LISTEN: u16 = 5;
const AGREE: u16 = 6;

on_both! {
    what_nobody_misses_is_deleted_after_its_window,
    what_is_missed_is_put_back_by_itself,
    what_somebody_asks_back_is_put_back_with_one_command,
    what_is_used_is_not_touched_before_its_owner_agrees,
    what_a_rehearsal_put_out_of_use_is_put_back_by_all_means,
}

async fn office(on_postgres: bool, used: &str) -> Office {
    let office = Office::open(on_postgres, Leaving::default()).await;
    office.company.ldap.put_account("batch", None);
    let text = format!(
        "nhis:\n  - {{key: batch, kind: bot, environment: production, purpose: works, team: data, owner: A1, backup: B2,\n     \
         review: 2027-01-31, accounts: [{{system: ldap, name: batch}}], used_by: [{used}]}}\n"
    );
    let declared = declare::parse("nhis.yaml", &text, &BTreeSet::from(["ldap"])).unwrap();
    let now = office.clock.now();
    let report = (office.company.directory)
        .declare(&declared, &actor("ops"), "so", now)
        .await
        .unwrap();
    assert_eq!(report.refused, Vec::<String>::new());
    office
}

async fn retire(office: &Office) {
    let now = office.clock.now();
    let window = Span::from_s(14 * 86_400);
    (office.company.directory)
        .start_retirement("batch", window, &actor("ops"), "replaced", now)
        .await
        .unwrap();
    office.node.nudge();
}

fn batch(office: &Office) -> String {
    let shown = office.company.ldap.shown();
    let line = shown.iter().find(|line| line.starts_with("batch:"));
    line.cloned().unwrap_or_else(|| "gone".to_owned())
}

async fn shows(office: &Office, expected: &str) {
    for _ in 0..1_000 {
        if batch(office) == expected {
            return;
        }
        // sleeps: between two looks at the system
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!(
        "{} instead of {expected}; {:#?}",
        batch(office),
        office.company.shown().await
    );
}

async fn status(office: &Office) -> NhiStatus {
    let row = office.company.directory.nhi("batch").await.unwrap();
    row.unwrap().status
}

/// Waits until the directory says so.
async fn becomes(office: &Office, expected: NhiStatus) {
    for _ in 0..1_000 {
        if status(office).await == expected {
            return;
        }
        // sleeps: between two looks at the directory
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{:?}", status(office).await);
}

async fn command(office: &Office, command: Command) {
    let case = office.company.case("retirement", "nhi:batch").await;
    office.company.command(&case, command).await;
    office.node.nudge();
}

async fn answer(office: &Office, step: u16, approve: bool) {
    let answer = Command::Answer {
        place: Place::new(StepIndex(step), 0),
        by: actor("A1"),
        approve,
        note: "so".to_owned(),
    };
    command(office, answer).await;
}

async fn what_nobody_misses_is_deleted_after_its_window(on_postgres: bool) {
    let office = office(on_postgres, "").await;
    retire(&office).await;
    becomes(&office, NhiStatus::Quiet).await;
    // Rehearsed: out, back, and out for the window.
    let effects = office.company.ldap.effects();
    let batch_effects: Vec<&String> = effects
        .iter()
        .filter(|effect| effect.ends_with(" batch"))
        .collect();
    assert_eq!(
        batch_effects,
        ["disable batch", "enable batch", "disable batch"]
    );
    let row = office
        .company
        .directory
        .nhi("batch")
        .await
        .unwrap()
        .unwrap();
    assert!(
        row.restore_s.is_some() && row.quiet_since.is_some(),
        "{row:?}"
    );
    office.jump(day(13));
    assert!(office.node.idle().await);
    shows(&office, "batch: off").await;
    office.jump(day(15));
    office.until(&["retirement nhi:batch running"]).await;
    for _ in 0..1_000 {
        let outputs = {
            let case = office.company.case("retirement", "nhi:batch").await;
            office.company.outputs(case.head.case, LISTEN).await
        };
        if outputs.iter().any(|output| output["until"].is_string()) {
            break;
        }
        // sleeps: between two looks at the case
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    shows(&office, "batch: off").await;
    answer(&office, AGREE, true).await;
    office.until(&["retirement nhi:batch succeeded"]).await;
    shows(&office, "gone").await;
    assert_eq!(status(&office).await, NhiStatus::Retired);
    let changes = office.company.directory.nhi_changes("batch").await.unwrap();
    assert!(
        changes[0].reason.starts_with("replaced: case "),
        "{changes:?}"
    );
    office.close().await;
}

async fn what_is_missed_is_put_back_by_itself(on_postgres: bool) {
    let office = office(on_postgres, "").await;
    retire(&office).await;
    becomes(&office, NhiStatus::Quiet).await;
    office.jump(day(3));
    let now = office.clock.now();
    let edge = Edge {
        from: Node::new(NodeKind::Consumer, "job/year-end"),
        relation: Relation::Uses,
        to: Node::nhi("batch"),
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
    office.jump(day(3) + TimeDelta::minutes(20));
    shows(&office, "batch: on").await;
    office.until(&["retirement nhi:batch undone"]).await;
    assert_eq!(status(&office).await, NhiStatus::Active);
    office.close().await;
}

async fn what_somebody_asks_back_is_put_back_with_one_command(on_postgres: bool) {
    let office = office(on_postgres, "").await;
    retire(&office).await;
    becomes(&office, NhiStatus::Quiet).await;
    // The first answer is lost: it is read back.
    office.company.ldap.lose(OperationName::EnableAccount, 1);
    let undo = Command::Undo {
        by: actor("ops"),
        reason: "the year-end job needs it".to_owned(),
    };
    command(&office, undo).await;
    shows(&office, "batch: on").await;
    office.until(&["retirement nhi:batch undone"]).await;
    assert_eq!(status(&office).await, NhiStatus::Active);
    office.close().await;
}

async fn what_is_used_is_not_touched_before_its_owner_agrees(on_postgres: bool) {
    let office = office(on_postgres, "cron/night").await;
    retire(&office).await;
    office.until(&["retirement nhi:batch running"]).await;
    assert!(office.node.idle().await);
    shows(&office, "batch: on").await;
    let effects = office.company.ldap.effects();
    assert!(
        !effects.contains(&"disable batch".to_owned()),
        "{effects:?}"
    );
    answer(&office, APPROVE, true).await;
    shows(&office, "batch: off").await;
    office.close().await;
}

async fn what_a_rehearsal_put_out_of_use_is_put_back_by_all_means(on_postgres: bool) {
    let office = office(on_postgres, "").await;
    // Putting it back fails twice: it is tried again before anything else.
    office.company.ldap.fail(
        OperationName::EnableAccount,
        connectors::connector::ErrorKind::Denied,
        2,
    );
    retire(&office).await;
    becomes(&office, NhiStatus::Quiet).await;
    let effects = office.company.ldap.effects();
    let last: Vec<&String> = effects
        .iter()
        .filter(|effect| effect.ends_with(" batch"))
        .collect();
    assert_eq!(last, ["disable batch", "enable batch", "disable batch"]);
    office.close().await;
}
