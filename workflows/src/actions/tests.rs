//! The built-in workflows on a running node and systems in memory: each succeeds, goes on or unwinds from each
//! failing step, and survives every step run twice.
//!
//! Longer than 800 lines: one story after another over the same company.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use std::collections::BTreeSet;

use connectors::connector::{ErrorKind, OperationName};
use engine::runner::Command;
use serde_json::json;

use crate::directory::{AccountStatus, GrantStatus, IdentityStatus};
use crate::sources::{BusinessEvent, EventType, Key};
use crate::testbed::{Company, ROLES, actor, now, on_both_databases};

/// So that the guard has a population to look at, and one leaver is no mass.
const ANN: &str = "A1,Ann Lee,Engineering";
const BOB: &str = "B2,Bob Ray,Sales";

async fn status(company: &Company, key: &str) -> IdentityStatus {
    let person = company.directory.identity(key).await.unwrap().unwrap();
    person.identity.status
}

/// What the directory says is there, as the systems show it.
async fn known(company: &Company, system: &str) -> Vec<String> {
    let mut shown = Vec::new();
    for row in company
        .directory
        .identities(&crate::directory::IdentityFilter::default(), None, 100)
        .await
        .unwrap()
    {
        let person = company
            .directory
            .identity(&row.identity_key)
            .await
            .unwrap()
            .unwrap();
        for account in person
            .accounts
            .iter()
            .filter(|account| account.system == system)
        {
            let state = if account.status == AccountStatus::Active {
                "on"
            } else {
                "off"
            };
            let mut line = format!("{}: {state}", account.name);
            for grant in person
                .grants
                .iter()
                .filter(|grant| grant.system == system && grant.status == GrantStatus::Active)
            {
                line.push(' ');
                line.push_str(&grant.entitlement);
            }
            shown.push(line);
        }
    }
    shown
}

/// The systems and the directory say the same, and it is this.
async fn check(company: &Company, ldap: &[&str], scim: &[&str]) {
    assert_eq!(company.ldap.shown(), ldap, "ldap");
    assert_eq!(company.scim.shown(), scim, "scim");
    assert_eq!(known(company, "ldap").await, ldap, "ldap in the directory");
    assert_eq!(known(company, "scim").await, scim, "scim in the directory");
}

fn assert_each_once(effects: &[String]) {
    let different: BTreeSet<&String> = effects.iter().collect();
    assert_eq!(different.len(), effects.len(), "{effects:?}");
}

// --- each workflow succeeds, and every step may run twice -------------------------------------------------

async fn a_whole_life(company: &Company) {
    company.import("2026-01-01", &[ANN, BOB]).await;
    let node = company.node().await;
    company
        .until(&["joiner A1 succeeded", "joiner B2 succeeded"])
        .await;
    check(
        company,
        &["a1: on engineers staff", "b2: on sellers staff"],
        &["a1: on git", "b2: on"],
    )
    .await;
    assert_eq!(status(company, "A1").await, IdentityStatus::Active);

    // Ann moves from Engineering to Sales; attributes follow.
    company
        .import("2026-02-01", &["A1,Ann Lee,Sales", BOB])
        .await;
    node.nudge();
    company
        .until(&[
            "joiner A1 succeeded",
            "joiner B2 succeeded",
            "mover A1 succeeded",
        ])
        .await;
    check(
        company,
        &["a1: on sellers staff", "b2: on sellers staff"],
        &["a1: on", "b2: on"],
    )
    .await;
    assert_eq!(company.ldap.attributes("a1")["title"], json!("Sales"));
    let effects = company.ldap.effects();
    let place = |what: &str| effects.iter().position(|effect| effect == what).unwrap();
    assert!(
        place("revoke a1 engineers") < place("grant a1 sellers"),
        "{effects:?}"
    );

    // Ann leaves, with a session open.
    company.ldap.open_session("a1");
    company.import("2026-03-01", &[BOB]).await;
    node.nudge();
    company
        .until(&[
            "joiner A1 succeeded",
            "joiner B2 succeeded",
            "leaver A1 unverified",
            "mover A1 succeeded",
        ])
        .await;
    check(
        company,
        &["a1: off", "b2: on sellers staff"],
        &["a1: off", "b2: on"],
    )
    .await;
    assert_eq!(company.ldap.sessions(), 0);
    assert_eq!(status(company, "A1").await, IdentityStatus::Departed);
    let effects = company.ldap.effects();
    let place = |what: &str| effects.iter().position(|effect| effect == what).unwrap();
    assert!(
        place("disable a1") < place("end sessions a1"),
        "{effects:?}"
    );
    assert_each_once(&effects);
    assert_each_once(&company.scim.effects());
    // A system that cannot end sessions says what that leaves open.
    let leaver = company.case("leaver", "A1").await;
    let gaps: Vec<_> = company
        .outputs(leaver.head.case, 2)
        .await
        .into_iter()
        .filter_map(|output| output.get("gap").cloned())
        .collect();
    assert_eq!(
        gaps,
        [json!(
            "`scim` cannot end sessions: what is open there stays open until it ends by itself"
        )]
    );
}

async fn joiner_mover_and_leaver_bring_access_in_line(company: &Company) {
    a_whole_life(company).await;
}

/// An attempt as the runner makes it.
fn attempt(uses: &str, item: serde_json::Value, number: u32) -> engine::runner::Attempt {
    use engine::core::id::{CaseId, Epoch, Place, ShardId, StepIndex, Subject};
    engine::runner::Attempt {
        case: CaseId(uuid::Uuid::from_u128(1)),
        shard: ShardId(0),
        subject: Subject("A1".to_owned()),
        workflow: "leaver".to_owned(),
        lane: engine::core::definition::Lane::Revocation,
        generation: 1,
        input: std::sync::Arc::new(json!({})),
        effective_at: None,
        received_at: now(),
        step: "step".to_owned(),
        place: Place::new(StepIndex(0), 0),
        uses: uses.to_owned(),
        with: json!({}),
        item,
        output: json!(null),
        mode: engine::core::case::Mode::Do,
        attempt: number,
        epoch: Epoch(1),
        idempotency_key: "key".to_owned(),
        timeout: engine::core::duration::Span::from_s(60),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_read_keeps_refuting_is_tried_again_and_then_left_as_unverified() {
    use engine::core::case::{FailureClass, Verification};
    use engine::core::input::AttemptResult;
    use engine::runner::Actions as _;
    let company = Company::new().await;
    company.ldap.put_account("a1", Some("A1"));
    company.import("2026-01-01", &[ANN]).await;
    let item = json!({"system": "ldap"});
    company.ldap.stale_reads(u32::MAX);
    let first = company
        .actions
        .run(&attempt("account.disable", item.clone(), 1))
        .await;
    let AttemptResult::Failed { failure, .. } = first else {
        panic!("{first:?}");
    };
    assert_eq!(
        (failure.kind.as_str(), failure.class),
        ("refuted", FailureClass::Retry)
    );
    let last = company
        .actions
        .run(&attempt("account.disable", item.clone(), 6))
        .await;
    let AttemptResult::Succeeded {
        verification,
        proof,
        ..
    } = last
    else {
        panic!("{last:?}");
    };
    assert!(
        matches!(verification, Verification::Unverified { .. }),
        "{verification:?}"
    );
    assert!(proof.acknowledged_at.is_some() && proof.verified_at.is_none());
    company.ldap.stale_reads(0);
    let proven = company
        .actions
        .run(&attempt("account.disable", item, 1))
        .await;
    let AttemptResult::Succeeded {
        verification,
        proof,
        output,
    } = proven
    else {
        panic!("{proven:?}");
    };
    assert_eq!(verification, Verification::Verified);
    assert!(proof.already_so && proof.sent_at <= proof.verified_at);
    assert_eq!(
        output,
        json!({"system": "ldap", "account": "id-1", "name": "a1", "changed": false})
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_that_is_not_there_is_disabled_already() {
    use engine::core::input::AttemptResult;
    use engine::runner::Actions as _;
    let company = Company::new().await;
    company.import("2026-01-01", &[ANN]).await;
    // Known by an identifier, and gone: a read proves it.
    let gone = json!({"system": "ldap", "account": "id-99"});
    let result = company
        .actions
        .run(&attempt("account.disable", gone.clone(), 1))
        .await;
    let AttemptResult::Succeeded { verification, .. } = result else {
        panic!("{result:?}");
    };
    assert_eq!(verification, engine::core::case::Verification::Verified);
    // Nothing is known: the system is searched by owner.
    let unknown = json!({"system": "ldap"});
    let result = company
        .actions
        .run(&attempt("account.disable", unknown, 1))
        .await;
    assert!(
        matches!(result, AttemptResult::Succeeded { .. }),
        "{result:?}"
    );
    let result = company
        .actions
        .run(&attempt("account.enable", gone, 1))
        .await;
    assert!(matches!(result, AttemptResult::Failed { .. }), "{result:?}");
    for (item, part) in [
        (json!({}), "gives `account.disable` no `system`"),
        (json!({"system": "moon"}), "there is no system `moon`"),
    ] {
        let AttemptResult::Failed { failure, .. } = company
            .actions
            .run(&attempt("account.disable", item, 1))
            .await
        else {
            panic!();
        };
        assert!(failure.message.contains(part), "{}", failure.message);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_system_that_goes_away_and_comes_back_is_told_in_the_directory() {
    use crate::directory::SystemState;
    let company = Company::new().await;
    let keeper = tokio::spawn(crate::systems::keep_states(
        company.actions.systems_shared(),
        company.directory.clone(),
        "node".to_owned(),
        std::sync::Arc::new(engine::runner::SystemClock),
    ));
    let until = async |wanted: SystemState| {
        for _ in 0..1_000 {
            let states = company.directory.system_states().await.unwrap();
            if states
                .iter()
                .any(|row| row.system == "ldap" && row.state == wanted)
            {
                return states;
            }
            // sleeps: between two looks at the company
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("never {wanted:?}");
    };
    until(SystemState::Ready).await;
    company.ldap.set_down(true);
    company
        .import(
            "2026-01-01",
            &[ANN, BOB, "C3,Cid,Sales", "D4,Dot,Sales", "E5,Eve,Sales"],
        )
        .await;
    let _node = company.node().await;
    let states = until(SystemState::Held).await;
    let row = states.iter().find(|row| row.system == "ldap").unwrap();
    assert!(
        row.reason.as_ref().unwrap().contains("connection refused"),
        "{row:?}"
    );
    company.ldap.set_down(false);
    company.closed(5).await;
    until(SystemState::Ready).await;
    keeper.abort();
}

on_both_databases! {
    joiner_mover_and_leaver_bring_access_in_line,
}

#[tokio::test(flavor = "multi_thread")]
async fn every_step_may_run_twice() {
    a_whole_life(&Company::twice().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_answers_are_read_back_and_nothing_is_done_twice() {
    let company = Company::new().await;
    for operation in [
        OperationName::CreateAccount,
        OperationName::Grant,
        OperationName::Revoke,
        OperationName::DisableAccount,
        OperationName::EndSessions,
    ] {
        company.ldap.lose(operation, 1);
        company.scim.lose(operation, 1);
    }
    a_whole_life(&company).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_who_comes_back_gets_their_accounts_back() {
    let company = Company::new().await;
    company.import("2026-01-01", &[ANN, BOB]).await;
    let node = company.node().await;
    company.closed(2).await;
    company.import("2026-02-01", &[BOB]).await;
    node.nudge();
    company.closed(3).await;
    assert_eq!(status(&company, "A1").await, IdentityStatus::Departed);
    let report = company
        .import("2026-03-01", &["A1,Ann Lee,Sales", BOB])
        .await;
    assert_eq!(report.events["rehire"], 1);
    node.nudge();
    company.closed(4).await;
    check(
        &company,
        &["a1: on sellers staff", "b2: on sellers staff"],
        &["a1: on", "b2: on"],
    )
    .await;
    let person = company.directory.identity("A1").await.unwrap().unwrap();
    assert_eq!(
        (person.identity.status, person.identity.generation),
        (IdentityStatus::Active, 2)
    );
    assert_each_once(
        &company
            .ldap
            .effects()
            .iter()
            .filter(|effect| effect.starts_with("create"))
            .cloned()
            .collect::<Vec<_>>(),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_who_comes_back_while_their_leaving_waits_keeps_nothing_of_before() {
    let company = Company::new().await;
    company.import("2026-01-01", &[ANN, BOB]).await;
    let node = company.node().await;
    company.closed(2).await;
    company.ldap.set_down(true);
    company.import("2026-02-01", &[BOB]).await;
    node.nudge();
    company
        .until(&[
            "joiner A1 succeeded",
            "joiner B2 succeeded",
            "leaver A1 running",
        ])
        .await;
    company
        .import("2026-03-01", &["A1,Ann Lee,Sales", BOB])
        .await;
    node.nudge();
    company
        .until(&[
            "joiner A1 running",
            "joiner A1 succeeded",
            "joiner B2 succeeded",
            "leaver A1 superseded",
        ])
        .await;
    company.ldap.set_down(false);
    company
        .until(&[
            "joiner A1 succeeded",
            "joiner A1 succeeded",
            "joiner B2 succeeded",
            "leaver A1 superseded",
        ])
        .await;
    check(
        &company,
        &["a1: on sellers staff", "b2: on sellers staff"],
        &["a1: on", "b2: on"],
    )
    .await;
    assert_eq!(status(&company, "A1").await, IdentityStatus::Active);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mover_waits_for_the_joiner_and_takes_in_those_that_come_meanwhile() {
    let company = Company::new().await;
    company.ldap.set_down(true);
    company.import("2026-01-01", &[ANN, BOB]).await;
    let node = company.node().await;
    let both = ["joiner A1 running", "joiner B2 running"];
    company.until(&both).await;
    company
        .import("2026-02-01", &["A1,Ann Lee,Sales", BOB])
        .await;
    node.nudge();
    company
        .until(&["joiner A1 running", "joiner B2 running", "mover A1 queued"])
        .await;
    // The queue outlives the node.
    drop(node);
    let node = company.node().await;
    company.import("2026-03-01", &[ANN, BOB]).await;
    node.nudge();
    company
        .until(&[
            "joiner A1 running",
            "joiner B2 running",
            "mover A1 merged",
            "mover A1 queued",
        ])
        .await;
    company.ldap.set_down(false);
    company
        .until(&[
            "joiner A1 succeeded",
            "joiner B2 succeeded",
            "mover A1 merged",
            "mover A1 succeeded",
        ])
        .await;
    check(
        &company,
        &["a1: on engineers staff", "b2: on sellers staff"],
        &["a1: on git", "b2: on"],
    )
    .await;
}

// --- from each failing step -------------------------------------------------------------------------------

/// A joiner whose `operation` on scim is refused for good takes everything back.
async fn a_joiner_unwinds(operation: OperationName) {
    let company = Company::new().await;
    company.scim.fail(operation, ErrorKind::Denied, 1);
    company.import("2026-01-01", &[ANN]).await;
    let _node = company.node().await;
    company.until(&["joiner A1 undone"]).await;
    let open: Vec<String> = company
        .ldap
        .shown()
        .into_iter()
        .chain(company.scim.shown())
        .filter(|line| line != "a1: off")
        .collect();
    assert_eq!(open, Vec::<String>::new(), "after a refused {operation:?}");
    let person = company.directory.identity("A1").await.unwrap().unwrap();
    assert!(
        person
            .accounts
            .iter()
            .all(|account| account.status == AccountStatus::Disabled)
    );
    assert!(
        person
            .grants
            .iter()
            .all(|grant| grant.status == GrantStatus::Revoked)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_joiner_unwinds_from_each_step() {
    a_joiner_unwinds(OperationName::CreateAccount).await;
    a_joiner_unwinds(OperationName::Grant).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_joiner_who_came_back_unwinds_from_a_refused_enable() {
    let company = Company::new().await;
    company.import("2026-01-01", &[ANN, BOB]).await;
    let node = company.node().await;
    company.closed(2).await;
    company.import("2026-02-01", &[BOB]).await;
    node.nudge();
    company.closed(3).await;
    company
        .scim
        .fail(OperationName::EnableAccount, ErrorKind::Denied, 1);
    company.import("2026-03-01", &[ANN, BOB]).await;
    node.nudge();
    company.closed(4).await;
    assert!(
        company
            .shown()
            .await
            .contains(&"joiner A1 undone".to_owned()),
        "{:?}",
        company.shown().await
    );
    assert_eq!(company.ldap.shown()[0], "a1: off");
    assert_eq!(company.scim.shown()[0], "a1: off");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_undo_leaves_what_was_there_before() {
    let company = Company::new().await;
    // Made by somebody else, for the same person: adopted, and not taken away again.
    company.ldap.put_account("old.ann", Some("A1"));
    company
        .scim
        .fail(OperationName::CreateAccount, ErrorKind::Denied, 1);
    company.import("2026-01-01", &[ANN]).await;
    let _node = company.node().await;
    company.until(&["joiner A1 undone"]).await;
    assert_eq!(company.ldap.shown(), ["old.ann: on"]);
}

/// A leaver whose `operation` on scim is refused for good parks there, and everything else is done; a retry
/// finishes it.
async fn a_leaver_goes_on(operation: OperationName, left: &[&str]) {
    let company = Company::new().await;
    company.import("2026-01-01", &[ANN, BOB]).await;
    let node = company.node().await;
    company.closed(2).await;
    company.scim.fail(operation, ErrorKind::Denied, 1);
    company.import("2026-02-01", &[BOB]).await;
    node.nudge();
    company
        .until(&[
            "joiner A1 succeeded",
            "joiner B2 succeeded",
            "leaver A1 parked",
        ])
        .await;
    for _ in 0..500 {
        if company.ldap.shown()[0] == "a1: off" && company.scim.shown()[0] == left[0] {
            break;
        }
        // sleeps: between two looks at the company
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(
        company.ldap.shown()[0],
        "a1: off",
        "after a refused {operation:?}"
    );
    assert_eq!(
        company.scim.shown()[0],
        left[0],
        "after a refused {operation:?}"
    );
    assert_eq!(status(&company, "A1").await, IdentityStatus::Leaving);
    let leaver = company.case("leaver", "A1").await;
    let retry = Command::Retry {
        place: None,
        step: None,
        by: actor("eve"),
        reason: String::new(),
    };
    company.command(&leaver, retry).await;
    node.nudge();
    company
        .until(&[
            "joiner A1 succeeded",
            "joiner B2 succeeded",
            "leaver A1 unverified",
        ])
        .await;
    assert_eq!(company.scim.shown()[0], "a1: off");
    assert_eq!(status(&company, "A1").await, IdentityStatus::Departed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaver_goes_on_from_each_step() {
    a_leaver_goes_on(OperationName::DisableAccount, &["a1: on"]).await;
    a_leaver_goes_on(OperationName::Revoke, &["a1: off git"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaver_whose_sessions_cannot_be_ended_parks_there() {
    let company = Company::new().await;
    company.import("2026-01-01", &[ANN, BOB]).await;
    let node = company.node().await;
    company.closed(2).await;
    company
        .ldap
        .fail(OperationName::EndSessions, ErrorKind::Denied, 1);
    company.import("2026-02-01", &[BOB]).await;
    node.nudge();
    company
        .until(&[
            "joiner A1 succeeded",
            "joiner B2 succeeded",
            "leaver A1 parked",
        ])
        .await;
}

/// A mover goes on from a refused step; a retry finishes it.
async fn a_mover_goes_on(operation: OperationName) {
    let company = Company::new().await;
    company.import("2026-01-01", &[ANN, BOB]).await;
    let node = company.node().await;
    company.closed(2).await;
    company.ldap.fail(operation, ErrorKind::Denied, 1);
    company
        .import("2026-02-01", &["A1,Ann Lee,Sales", BOB])
        .await;
    node.nudge();
    company
        .until(&[
            "joiner A1 succeeded",
            "joiner B2 succeeded",
            "mover A1 parked",
        ])
        .await;
    for _ in 0..500 {
        if company.scim.shown()[0] == "a1: on" {
            break;
        }
        // sleeps: between two looks at the company
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(
        company.scim.shown()[0],
        "a1: on",
        "after a refused {operation:?}"
    );
    let mover = company.case("mover", "A1").await;
    let retry = Command::Retry {
        place: None,
        step: None,
        by: actor("eve"),
        reason: String::new(),
    };
    company.command(&mover, retry).await;
    node.nudge();
    company
        .until(&[
            "joiner A1 succeeded",
            "joiner B2 succeeded",
            "mover A1 succeeded",
        ])
        .await;
    assert_eq!(company.ldap.shown()[0], "a1: on sellers staff");
    assert_eq!(company.ldap.attributes("a1")["title"], json!("Sales"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mover_goes_on_from_each_step() {
    a_mover_goes_on(OperationName::UpdateAccount).await;
    a_mover_goes_on(OperationName::Grant).await;
    a_mover_goes_on(OperationName::Revoke).await;
}

// --- systems that are away, slow or full ------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn a_system_that_is_away_holds_nothing_up_elsewhere() {
    let company = Company::new().await;
    company.ldap.set_down(true);
    let people: Vec<String> = (0..20)
        .map(|n| format!("P{n:02},Person {n},Engineering"))
        .collect();
    let people: Vec<&str> = people.iter().map(String::as_str).collect();
    company.import("2026-01-01", &people).await;
    let node = company.node().await;
    for _ in 0..1_000 {
        if company
            .scim
            .shown()
            .iter()
            .filter(|line| line.ends_with(": on git"))
            .count()
            == 20
        {
            break;
        }
        // sleeps: between two looks at the company
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(company.scim.shown().len(), 20);
    assert!(
        company
            .scim
            .shown()
            .iter()
            .all(|line| line.ends_with(": on git")),
        "{:?}",
        company.scim.shown()
    );
    // Nothing was burnt: everybody still runs, and hardly anything was sent to the system that is away.
    assert!(
        company
            .shown()
            .await
            .iter()
            .all(|line| line.ends_with("running"))
    );
    assert!(company.ldap.calls() < 80, "{} calls", company.ldap.calls());
    company.ldap.set_down(false);
    node.nudge();
    company.closed(20).await;
    assert!(
        company
            .shown()
            .await
            .iter()
            .all(|line| line.ends_with("succeeded")),
        "{:?}",
        company.shown().await
    );
    assert_eq!(company.ldap.shown().len(), 20);
    assert_each_once(&company.ldap.effects());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_taken_is_counted_up() {
    let company = Company::new().await;
    company.ldap.put_account("a1", None);
    company.import("2026-01-01", &[ANN]).await;
    let _node = company.node().await;
    company.until(&["joiner A1 succeeded"]).await;
    assert_eq!(company.ldap.shown(), ["a12: on engineers staff", "a1: on"]);
    let person = company.directory.identity("A1").await.unwrap().unwrap();
    assert_eq!(person.accounts[0].name, "a12");
    // A template without a counter has one name only.
    let company = Company::new().await;
    company.scim.put_account("a1", None);
    company.import("2026-01-01", &[ANN]).await;
    let _node = company.node().await;
    company.until(&["joiner A1 undone"]).await;
    assert!(
        company
            .failures()
            .await
            .contains("all 1 names that the template gives on `scim` are taken")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_that_lag_behind_are_read_again() {
    let company = Company::new().await;
    company.ldap.stale_reads(3);
    company.import("2026-01-01", &[BOB]).await;
    let _node = company.node().await;
    company.until(&["joiner B2 succeeded"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_without_an_answer_holds_the_person_and_says_which() {
    let roles = ROLES.replace(
        "has(identity.department) && identity.department == \"Sales\"",
        "identity.department == \"Sales\"",
    );
    let company = Company::with(&[], &[], &roles).await;
    company.import("2026-01-01", &["A1,Ann Lee,", BOB]).await;
    let _node = company.node().await;
    company
        .until(&["joiner A1 running", "joiner B2 succeeded"])
        .await;
    assert_eq!(company.ldap.shown(), ["b2: on sellers staff"]);
    let failures = company.failures().await;
    for says in ["attribute `department` of `A1`", "rule of role `sellers`"] {
        assert!(failures.contains(says), "{failures}");
    }
}

// --- people as systems, and conflicts ---------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn a_system_operated_by_hand_gives_all_its_tasks_at_once() {
    let roles = ROLES.replace(
        "accounts: [ldap, scim]\n    grants: [",
        "accounts: [ldap, scim, badges]\n    grants: [{ system: badges, entitlement: gate }, ",
    );
    let badges = "name: badges\nkind: manual\nsettings: { assignee: role:facilities, due: 4h, proof_required: false }\n";
    let company = Company::with(&[], &[("badges", badges)], &roles).await;
    company.import("2026-01-01", &[BOB]).await;
    let node = company.node().await;
    let (joiner, asking) = loop {
        // sleeps: between two looks at the company
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        let Some(joiner) = company.cases().await.into_iter().next() else {
            continue;
        };
        let (shard, case) = (joiner.head.shard, joiner.head.case);
        let stored = company.store.load(shard, case).await.unwrap().unwrap();
        let asking: Vec<_> = stored
            .steps
            .iter()
            .filter(|row| row.state == "asking")
            .map(|row| {
                let step = engine::core::id::StepIndex(row.step);
                engine::core::id::Place::new(step, row.instance.unwrap())
            })
            .collect();
        if asking.len() == 2 && company.ldap.shown() == ["b2: on sellers staff"] {
            break (joiner, asking);
        }
    };
    assert_eq!(asking.len(), 2);
    for place in asking {
        let done = Command::TaskDone {
            place,
            by: actor("gus"),
            proof: "seen on the list".to_owned(),
            output: json!({}),
        };
        company.command(&joiner, done).await;
    }
    node.nudge();
    company.until(&["joiner B2 succeeded"]).await;
    let person = company.directory.identity("B2").await.unwrap().unwrap();
    let badge = person
        .accounts
        .iter()
        .find(|account| account.system == "badges")
        .unwrap();
    assert_eq!(
        (badge.name.as_str(), badge.native_id.as_str(), badge.status),
        ("B2", "B2", AccountStatus::Active)
    );
    assert!(
        person
            .grants
            .iter()
            .any(|grant| grant.entitlement == "gate" && grant.status == GrantStatus::Active)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaver_takes_the_place_of_a_joiner_that_waits() {
    let company = Company::new().await;
    company.ldap.set_down(true);
    company.import("2026-01-01", &[ANN]).await;
    let node = company.node().await;
    for _ in 0..1_000 {
        if company.scim.shown() == ["a1: on git"] {
            break;
        }
        // sleeps: between two looks at the company
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let revoke = BusinessEvent {
        id: "revoke-1".to_owned(),
        source: "security".to_owned(),
        event_type: EventType::AccessRevokeNow,
        subject: Key::new("A1"),
        occurred_at: now(),
        effective_at: now(),
        zone: "UTC".to_owned(),
        version: 1,
        supersedes: None,
        data: json!({}),
    };
    company
        .intake
        .event(&revoke, &actor("eve"), now())
        .await
        .unwrap();
    node.nudge();
    company
        .until(&["joiner A1 preempted", "lockout A1 unverified"])
        .await;
    assert_eq!(company.scim.shown(), ["a1: off"]);
    assert_eq!(company.ldap.shown(), Vec::<String>::new());
    assert_eq!(status(&company, "A1").await, IdentityStatus::Departed);
    company.ldap.set_down(false);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_killed_leaves_nothing_undone_and_nothing_done_twice() {
    let company = Company::new().await;
    let people: Vec<String> = (0..30)
        .map(|n| format!("P{n:02},Person {n},Engineering"))
        .collect();
    let people: Vec<&str> = people.iter().map(String::as_str).collect();
    company.import("2026-01-01", &people).await;
    for round in 0..8 {
        let node = company.node().await;
        // sleeps: the moment of the crash is the point of the test
        tokio::time::sleep(std::time::Duration::from_millis(15 * round)).await;
        drop(node);
    }
    let _node = company.node().await;
    company.closed(30).await;
    assert!(
        company
            .shown()
            .await
            .iter()
            .all(|line| line.ends_with("succeeded")),
        "{:?}",
        company.shown().await
    );
    assert_eq!(company.ldap.shown().len(), 30);
    assert!(
        company
            .ldap
            .shown()
            .iter()
            .all(|line| line.ends_with(": on engineers staff"))
    );
    assert_each_once(&company.ldap.effects());
    assert_each_once(&company.scim.effects());
}
