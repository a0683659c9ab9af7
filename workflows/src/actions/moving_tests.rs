//! Whoever begins without what policy has to know, and whoever moves: order, time to hand over, and what was asked for.

#![allow(
    clippy::large_futures,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use chrono::TimeDelta;
use engine::core::id::{Place, StepIndex};
use engine::runner::{Clock as _, Command};
use serde_json::{Value, json};

use super::leaving_tests::{Office, day};
use crate::directory::GrantStatus;
use crate::sources::EventType;
use crate::testbed::{Leaving, actor, on_both};

on_both! {
    nobody_is_guessed_about_and_the_case_goes_on_when_the_attribute_comes,
    what_a_role_lets_people_keep_goes_exactly_then,
    a_second_move_moves_no_end_and_an_end_waits_for_none,
    what_was_asked_for_is_reviewed_by_the_new_manager,
    a_question_about_a_right_outlives_what_comes_in_between,
    add_first_leaves_nobody_without_and_exclusive_pairs_go_first,
    an_entity_transfer_keeps_one_person_and_one_history,
}

const DEMANDING: &str = r#"
roles:
  - name: staff
    when: identity.name != ""
    accounts: [ldap]
    grants: [{ system: ldap, entitlement: staff }]
accounts:
  - { system: ldap, name: lower(identity.key) }
attributes:
  department: { owner: hr@example.org, required: true }
"#;

/// Why the plan of a case waits.
async fn why(office: &Office, key: &str) -> Option<(String, String)> {
    let case = office.company.cases().await.into_iter().find(|case| {
        case.head.workflow == "joiner"
            && case.head.subject.0 == key
            && !case.state.state.is_closed()
    })?;
    let stored = office.company.store.load(case.head.shard, case.head.case);
    let stored = stored.await.unwrap().unwrap();
    let row = stored.steps.iter().find(|row| row.step == 1)?;
    let body: Value = serde_json::from_str(&row.body).unwrap();
    let text = |name: &str| body["failure"][name].as_str().map(str::to_owned);
    Some((text("kind")?, text("message")?))
}

async fn until_it_says(office: &Office, key: &str, what: &str) {
    let mut seen = None;
    for _ in 0..500 {
        seen = why(office, key).await;
        if seen
            .as_ref()
            .is_some_and(|(_, message)| message.contains(what))
        {
            return;
        }
        // sleeps: between two looks at the case
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("{seen:?}");
}

async fn nobody_is_guessed_about_and_the_case_goes_on_when_the_attribute_comes(on_postgres: bool) {
    let leaving = Leaving {
        roles: Some(DEMANDING),
        ..Leaving::default()
    };
    let office = Office::empty(on_postgres, leaving).await;
    office
        .say("A1", EventType::Hire, json!({ "attributes": {} }))
        .await;
    until_it_says(&office, "A1", "hr@example.org").await;
    let (kind, message) = why(&office, "A1").await.unwrap();
    assert_eq!(kind, "missing_attribute");
    assert!(
        message.starts_with("attribute `department` of `A1` is not known"),
        "{message}"
    );
    assert!(office.company.ldap.shown().is_empty(), "nothing is guessed");
    office
        .say(
            "A1",
            EventType::Transfer,
            json!({ "changes": { "department": { "to": "Law" } } }),
        )
        .await;
    office.jump(office.clock.now() + TimeDelta::minutes(10));
    // Now a rule has no answer: it says which, and where it stands.
    until_it_says(&office, "A1", "rule of role `staff` at `roles.yaml`:3").await;
    let (_, message) = why(&office, "A1").await.unwrap();
    assert!(
        message.starts_with("attribute `name` of `A1` is not known, and source `hr`"),
        "{message}"
    );
    office
        .say(
            "A1",
            EventType::Transfer,
            json!({ "changes": { "name": { "to": "Ann Lee" } } }),
        )
        .await;
    for minutes in 1..100 {
        office.jump(office.clock.now() + TimeDelta::minutes(minutes));
        assert!(office.node.idle().await);
        if !office.company.ldap.shown().is_empty() {
            break;
        }
    }
    // The second change was folded into the mover of the first, which waited for the joiner.
    office.company.closed(3).await;
    assert_eq!(office.company.ldap.shown(), ["a1: on staff"]);
    office.close().await;
}

async fn support(on_postgres: bool) -> Office {
    let office = Office::open(on_postgres, Leaving::default()).await;
    office.moves("A1", "Support").await;
    office.until(&["mover A1 succeeded"]).await;
    assert_eq!(office.company.ldap.shown()[0], "a1: on staff support");
    office
}

impl Office {
    pub(super) async fn moves(&self, key: &str, department: &str) {
        let data = json!({ "changes": { "department": { "to": department } } });
        self.say(key, EventType::Transfer, data).await;
    }

    /// Rights that were asked for and given, as an approved exception is kept.
    async fn excepts(&self, key: &str, rights: &[&str]) {
        for right in rights {
            self.company.ldap.give(&key.to_lowercase(), right);
            self.company
                .run_sql(format!(
                    "INSERT INTO grant_held (shard_id, identity_key, system, entitlement, status, held_by, reasons, case_id)
                     SELECT shard_id, identity_key, 'ldap', '{right}', 'active', 'exception', '[]', ''
                     FROM identity WHERE identity_key = '{key}'"
                ).leak())
                .await;
        }
    }
}

async fn what_a_role_lets_people_keep_goes_exactly_then(on_postgres: bool) {
    let office = support(on_postgres).await;
    office.moves("A1", "Sales").await;
    let waits = [
        "handover A1 running",
        "mover A1 succeeded",
        "mover A1 succeeded",
    ];
    office.until(&waits).await;
    assert_eq!(
        office.company.ldap.shown()[0],
        "a1: on sellers staff support"
    );
    office.jump(day(20) - TimeDelta::minutes(5));
    assert!(office.node.idle().await);
    assert_eq!(
        office.company.ldap.shown()[0],
        "a1: on sellers staff support"
    );
    office.jump(day(20) + TimeDelta::minutes(5));
    office
        .until(&[
            "handover A1 succeeded",
            "mover A1 succeeded",
            "mover A1 succeeded",
        ])
        .await;
    assert_eq!(office.company.ldap.shown()[0], "a1: on sellers staff");
    office.close().await;
}

async fn a_second_move_moves_no_end_and_an_end_waits_for_none(on_postgres: bool) {
    let office = support(on_postgres).await;
    office.moves("A1", "Sales").await;
    office
        .until(&[
            "handover A1 running",
            "mover A1 succeeded",
            "mover A1 succeeded",
        ])
        .await;
    office.jump(day(10));
    office.moves("A1", "Engineering").await;
    office
        .until(&[
            "handover A1 preempted",
            "handover A1 running",
            "mover A1 succeeded",
            "mover A1 succeeded",
            "mover A1 succeeded",
        ])
        .await;
    let holdings = office.company.directory.holdings("A1").await.unwrap();
    let grants = holdings.unwrap().grants;
    let kept = grants
        .iter()
        .find(|it| it.entitlement == "support")
        .unwrap();
    assert_eq!(kept.status, GrantStatus::Active);
    let until = kept.until.unwrap();
    assert!(until < day(21), "counted from the first move: {until}");
    // Whoever leaves keeps nothing.
    office
        .say("A1", EventType::TerminationEffective, json!({}))
        .await;
    office
        .until(&[
            "handover A1 preempted",
            "handover A1 preempted",
            "leaver A1 unverified",
            "mover A1 succeeded",
            "mover A1 succeeded",
            "mover A1 succeeded",
        ])
        .await;
    assert_eq!(office.company.ldap.shown()[0], "a1: off");
    office.close().await;
}

async fn what_was_asked_for_is_reviewed_by_the_new_manager(on_postgres: bool) {
    let office = Office::open(on_postgres, Leaving::default()).await;
    office.excepts("A1", &["vpn", "archive"]).await;
    office.moves("A1", "Engineering").await;
    office
        .until(&["handover A1 running", "mover A1 succeeded"])
        .await;
    // The manager who is asked is whoever is it when they answer.
    let asked = office.company.directory.asked_of("B2").await.unwrap();
    assert_eq!(asked.len(), 2);
    assert!(asked.iter().all(|it| it.word == "manager"));
    let case = office.company.case("handover", "A1").await;
    let items = office.company.outputs(case.head.case, 2).await;
    assert_eq!(items.len(), 2);
    let yes = Command::Answer {
        place: Place::new(StepIndex(2), 0),
        by: actor("B2"),
        approve: true,
        note: String::new(),
    };
    office.company.command(&case, yes).await;
    office.node.nudge();
    // Nobody answers the other question in time: that is a no.
    office.jump(day(15));
    office
        .until(&["handover A1 succeeded", "mover A1 succeeded"])
        .await;
    assert_eq!(
        office.company.ldap.shown()[0],
        "a1: on archive engineers staff"
    );
    office.close().await;
}

async fn a_question_about_a_right_outlives_what_comes_in_between(on_postgres: bool) {
    let office = Office::open(on_postgres, Leaving::default()).await;
    office.excepts("A1", &["vpn"]).await;
    let end = async || {
        let holdings = office.company.directory.holdings("A1").await.unwrap();
        let grants = holdings.unwrap().grants;
        let vpn = grants.iter().find(|it| it.entitlement == "vpn").unwrap();
        assert_eq!(vpn.status, GrantStatus::Active);
        vpn.until
    };
    office.moves("A1", "Engineering").await;
    office
        .until(&["handover A1 running", "mover A1 succeeded"])
        .await;
    let first = end().await.unwrap();
    office.jump(day(5));
    let cost = json!({ "changes": { "department": { "to": "Law" } } });
    office.say("A1", EventType::CostCenterChanged, cost).await;
    office
        .until(&[
            "handover A1 preempted",
            "handover A1 running",
            "mover A1 succeeded",
            "mover A1 succeeded",
        ])
        .await;
    assert_eq!(end().await, Some(first), "no later than was said first");
    let asked = office.company.directory.asked_of("B2").await.unwrap();
    assert_eq!(asked.len(), 1, "asked again");
    let cases = office.company.cases().await;
    let mut open = cases.iter().filter(|it| !it.state.state.is_closed());
    let case = open.next().unwrap();
    let yes = Command::Answer {
        place: Place::new(StepIndex(2), 0),
        by: actor("B2"),
        approve: true,
        note: String::new(),
    };
    office.company.command(case, yes).await;
    office.node.nudge();
    let over = [
        "handover A1 preempted",
        "handover A1 succeeded",
        "mover A1 succeeded",
        "mover A1 succeeded",
    ];
    office.until(&over).await;
    assert_eq!(end().await, None, "confirmed");
    let cost = json!({ "changes": { "department": { "to": "Sales" } } });
    office.say("A1", EventType::CostCenterChanged, cost).await;
    let mut all = over.to_vec();
    all.push("mover A1 succeeded");
    office.until(&all).await;
    assert_eq!(office.company.ldap.shown()[0], "a1: on sellers staff vpn");
    office.close().await;
}

const ORDERED: &str = r#"
roles:
  - name: staff
    when: "true"
    accounts: [ldap]
    grants: [{ system: ldap, entitlement: staff }]
  - name: sellers
    when: has(identity.department) && identity.department == "Sales"
    grants: [{ system: ldap, entitlement: sellers }, { system: ldap, entitlement: pay }, { system: ldap, entitlement: buy }]
  - name: engineers
    when: has(identity.department) && identity.department == "Engineering"
    grants: [{ system: ldap, entitlement: engineers }, { system: ldap, entitlement: audit }, { system: ldap, entitlement: sign }]
accounts:
  - { system: ldap, name: lower(identity.key) }
moves:
  order: add_first
  exclusive:
    - [{ system: ldap, entitlement: pay }, { system: ldap, entitlement: audit }]
    - [{ system: ldap, entitlement: sign }, { system: ldap, entitlement: buy }]
    - [{ system: ldap, entitlement: sign }, { system: ldap, entitlement: vpn }]
"#;

async fn add_first_leaves_nobody_without_and_exclusive_pairs_go_first(on_postgres: bool) {
    let leaving = Leaving {
        roles: Some(ORDERED),
        ..Leaving::default()
    };
    let office = Office::open(on_postgres, leaving).await;
    assert_eq!(
        office.company.ldap.shown()[0],
        "a1: on buy pay sellers staff"
    );
    // Nobody asks about what must not be held with what comes.
    office.excepts("A1", &["vpn"]).await;
    office.moves("A1", "Engineering").await;
    office.until(&["mover A1 succeeded"]).await;
    assert_eq!(
        office.company.ldap.shown()[0],
        "a1: on audit engineers sign staff"
    );
    let effects = office.company.ldap.effects();
    let place = |what: &str| effects.iter().position(|effect| effect == what).unwrap();
    assert!(
        place("grant a1 engineers") < place("revoke a1 sellers"),
        "{effects:?}"
    );
    for (old, new) in [("pay", "audit"), ("buy", "sign"), ("vpn", "sign")] {
        let (old, new) = (format!("revoke a1 {old}"), format!("grant a1 {new}"));
        assert!(place(&old) < place(&new), "{effects:?}");
    }
    office.close().await;
}

/// Another company of the group: one person with one history, and access as the new one has it.
async fn an_entity_transfer_keeps_one_person_and_one_history(on_postgres: bool) {
    let office = Office::open(on_postgres, Leaving::default()).await;
    let data = json!({ "changes": { "department": { "from": "Sales", "to": "Engineering" } } });
    office.say("A1", EventType::EntityTransfer, data).await;
    office.until(&["mover A1 succeeded"]).await;
    assert_eq!(office.company.ldap.shown()[0], "a1: on engineers staff");
    let person = office
        .company
        .directory
        .identity("A1")
        .await
        .unwrap()
        .unwrap();
    assert_eq!(person.identity.generation, 1, "the same life");
    assert_eq!(person.events.len(), 2);
    let accounts = office.company.ldap.effects();
    let made = accounts.iter().filter(|it| it.starts_with("create a1"));
    assert_eq!(made.count(), 1, "the same account");
    office.close().await;
}
