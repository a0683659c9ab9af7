//! People whom a rollout cannot bring under a policy: they come by themselves when that is over, on both databases.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use std::time::Duration;

use engine::runner::NodeHandle;

use super::tests::{HOUSE, World, import, people};
use super::*;
use crate::correlation::Correlation;
use crate::directory::{LeftOutReason, LeftOutRow, ReviewFilter};
use crate::sources::{BusinessEvent, Key};
use crate::testbed::{Company, ROLES, actor, now, on_both, policy};

const RULES: &str = "
link_at: 100
ask_at: 60
owner: role:hr
rules:
  - { name: name, attributes: [name], compare: name, agrees: 40, differs: -50 }
  - { name: birth date, attributes: [birth_date], compare: date, agrees: 40, differs: -60 }
";

/// As [`HOUSE`], with a rule that has no answer for people without a department.
fn strict() -> String {
    let guarded = "has(identity.department) && identity.department == \"Sales\"";
    let strict = HOUSE.replace(guarded, "identity.department == \"Sales\"");
    assert_ne!(strict, HOUSE);
    strict
}

async fn company(on_postgres: bool) -> Company {
    if on_postgres {
        Company::on_postgres().await
    } else {
        Company::new().await
    }
}

async fn end(company: Company, node: NodeHandle) {
    node.drain(Duration::from_secs(5)).await.unwrap();
    company.remove().await;
}

async fn said(company: &Company, source: &str, event_type: EventType, key: &str, name: &str) {
    let attributes = json!({ "name": name, "department": "Sales", "birth_date": "1990-01-02" });
    let ends = event_type == EventType::TerminationEffective;
    let event = BusinessEvent {
        id: format!("{source}-{key}-{event_type}"),
        source: source.to_owned(),
        event_type,
        subject: Key::new(key),
        occurred_at: now(),
        effective_at: now(),
        zone: "UTC".to_owned(),
        version: now().timestamp_micros(),
        supersedes: None,
        data: if ends {
            json!({})
        } else {
            json!({ "attributes": attributes })
        },
    };
    let taken = company.intake.event(&event, &actor("hr"), now()).await;
    taken.unwrap();
}

/// The open question about a new key.
async fn question(company: &Company, key: &str) -> String {
    let filter = ReviewFilter::default();
    let open = company.directory.reviews(&filter, 10).await.unwrap();
    let found = open.into_iter().find(|review| review.record_key == key);
    found.unwrap().review_id
}

async fn left_out(company: &Company, world: &World<'_>) -> Vec<LeftOutRow> {
    let rollout = world.row().await.rollout_id;
    let people = company.directory.left_out(&rollout, None, 100).await;
    people.unwrap()
}

async fn keys_left_out(company: &Company, world: &World<'_>) -> Vec<String> {
    let rows = left_out(company, world).await.into_iter();
    rows.map(|row| row.identity_key).collect()
}

/// When those are looked at for whom a rule had no answer.
fn later() -> Timestamp {
    now() + LEFT_OUT_PAUSE
}

/// The question is settled: they are two, they are one, and of several candidates it is another. One of them leaves meanwhile.
async fn who_was_in_question_comes_when_that_is_settled(on_postgres: bool) {
    let rules = Correlation::load("correlation.yaml", RULES).unwrap();
    let company = Company::recognising(rules, on_postgres).await;
    let world = World::of(&company);
    assert!(world.propose(ROLES).await);
    let node = company.node().await;
    let by = actor("eve");
    let hired = [
        ("c1", "Cid Roe"),
        ("c2", "Cid Roe"),
        ("c6", "Dan Fox"),
        ("c7", "Ann Ox"),
    ];
    for (key, name) in hired {
        said(&company, "vms", EventType::ContractStart, key, name).await;
        if key == "c2" {
            let id = question(&company, key).await;
            let two = company.intake.separate(&id, &by, "brothers", now()).await;
            two.unwrap();
        }
    }
    company.settled(&node).await;
    for (key, name) in [("x3", "Cid Roe"), ("x6", "Dan Fox"), ("x7", "Ann Ox")] {
        said(&company, "hr", EventType::Hire, key, name).await;
    }
    let held = company.ldap.shown();
    assert_eq!(held.len(), 4, "{held:?}");

    assert!(world.propose(HOUSE).await);
    assert_eq!(world.finished(HOUSE).await, 0);
    let row = world.row().await;
    assert_eq!(
        (row.status, row.looked, row.undecided),
        (RolloutStatus::Done, 4, 0)
    );
    // Whoever approves is shown those, too: they come without being asked about again.
    let shown = row.blast.unwrap();
    assert_eq!(
        shown.count(crate::policy::guard::Operation::GrantGive, "all", ""),
        4
    );
    let rows = left_out(&company, &world).await;
    let told: Vec<_> = rows
        .iter()
        .map(|row| (row.identity_key.as_str(), row.reason))
        .collect();
    let open = LeftOutReason::Question;
    assert_eq!(
        told,
        [("c1", open), ("c2", open), ("c6", open), ("c7", open)]
    );
    assert_eq!(rows[3].about, question(&company, "x7").await);
    assert_eq!(rows[3].since_rollout_id, row.rollout_id);
    let counts = company.directory.left_out_counts().await.unwrap();
    assert_eq!(counts[&row.rollout_id][&open], 4);
    assert_eq!(world.finished(HOUSE).await, 0);
    assert_eq!(company.ldap.shown(), held);

    // A leaver waits for nobody.
    said(&company, "vms", EventType::TerminationEffective, "c6", "").await;
    company.settled(&node).await;
    assert_eq!(company.ldap.shown()[2], "c6: off");
    assert_eq!(world.finished(HOUSE).await, 0);
    assert_eq!(keys_left_out(&company, &world).await, ["c1", "c2", "c7"]);

    let id = question(&company, "x7").await;
    let two = company.intake.separate(&id, &by, "met both", now()).await;
    two.unwrap();
    assert_eq!(world.finished(HOUSE).await, 1);
    company.settled(&node).await;
    assert_eq!(
        company.ldap.shown(),
        [
            "c1: on sellers staff",
            "c2: on sellers staff",
            "c6: off",
            "c7: on house sellers",
            "x7: on house sellers",
        ]
    );
    let id = question(&company, "x3").await;
    let one = company.intake.link(&id, "c1", &by, "called him", now());
    one.await.unwrap();
    // The one that it is not is not asked about any more; the other is when what they hold is in one place.
    assert_eq!(world.finished(HOUSE).await, 1);
    company.settled(&node).await;
    assert_eq!(world.finished(HOUSE).await, 0);
    assert_eq!(keys_left_out(&company, &world).await, [""; 0]);
    assert_eq!(
        company.ldap.shown(),
        [
            "c1: on house sellers",
            "c2: on house sellers",
            "c6: off",
            "c7: on house sellers",
            "x7: on house sellers",
        ]
    );
    assert_eq!(world.row().await.started, 2);
    end(company, node).await;
}

/// One is told by a source, which is an event; of the other nobody says anything.
async fn who_had_no_answer_comes_when_there_is_one(on_postgres: bool) {
    let company = company(on_postgres).await;
    let (world, strict) = (World::of(&company), strict());
    assert!(world.propose(ROLES).await);
    let node = company.node().await;
    let mut rows = people(2, "Sales");
    rows.extend(["E0008,Name 8,".to_owned(), "E0009,Name 9,".to_owned()]);
    import(&company, "2026-03-01", &rows).await;
    company.settled(&node).await;
    assert!(!world.propose(&strict).await, "it has no answer for two");
    world.approve_policy(&strict).await;
    assert_eq!(world.finished(&strict).await, 2);
    company.settled(&node).await;
    let left = left_out(&company, &world).await;
    let told: Vec<_> = left
        .iter()
        .map(|row| (row.identity_key.as_str(), row.reason, row.about.as_str()))
        .collect();
    let (rule, role) = (LeftOutReason::Rule, "role `sellers`");
    assert_eq!(told, [("E0008", rule, role), ("E0009", rule, role)]);
    assert_eq!(left[0].attribute.as_deref(), Some("department"));
    assert!(left[0].why.contains("roles.yaml"), "{}", left[0].why);

    rows[3] = "E0009,Name 9,Sales".to_owned();
    import(&company, "2026-03-02", &rows).await;
    company.settled(&node).await;
    assert_eq!(company.ldap.shown()[3], "e0009: on house sellers");
    company
        .run_sql(
            "UPDATE identity SET attributes = '{\"name\": \"Name 8\", \"department\": \"Sales\"}' \
             WHERE identity_key = 'E0008'",
        )
        .await;
    assert_eq!(world.advance(&strict).await, Advance::default());
    assert_eq!(keys_left_out(&company, &world).await, ["E0008", "E0009"]);
    let late = world.rollouts.advance(&policy(&strict), later()).await;
    assert_eq!(
        late.unwrap(),
        Advance {
            started: 1,
            more: false
        }
    );
    company.settled(&node).await;
    assert_eq!(company.ldap.shown()[2], "e0008: on house sellers");
    assert_eq!(keys_left_out(&company, &world).await, [""; 0]);
    end(company, node).await;
}

/// More than the limits allow, counted with the whole; then a node that dies in the middle, and two that go on at once.
async fn many_are_measured_and_nobody_is_started_twice(on_postgres: bool) {
    let company = company(on_postgres).await;
    let (world, strict) = (World::of(&company), strict());
    assert!(world.propose(ROLES).await);
    let count = usize::try_from(ROLLOUT_PAGE).unwrap() + 50;
    import(&company, "2026-03-01", &people(count, "")).await;
    company
        .run_sql("UPDATE identity SET status = 'active'; DELETE FROM inbox")
        .await;
    assert!(!world.propose(&strict).await);
    world.approve_policy(&strict).await;
    assert_eq!(world.finished(&strict).await, 0);
    let done = world.row().await;
    assert_eq!(
        (done.status, done.undecided),
        (RolloutStatus::Done, count as u64)
    );
    let (mut listed, mut after) = (0, None::<String>);
    loop {
        let page = company
            .directory
            .left_out(&done.rollout_id, after.as_deref(), 100);
        let page = page.await.unwrap();
        let Some(last) = page.last() else { break };
        assert!(after.as_ref() < Some(&last.identity_key));
        after = Some(last.identity_key.clone());
        listed += page.len();
    }
    assert_eq!(listed, count);

    company
        .run_sql("UPDATE identity SET attributes = '{\"department\": \"Sales\"}'")
        .await;
    let policy = policy(&strict);
    let waits = world.rollouts.advance(&policy, later()).await.unwrap();
    assert_eq!(waits, Advance::default());
    let waiting = world.row().await;
    assert_eq!(waiting.status, RolloutStatus::Waiting);
    let why = waiting.stopped_by.unwrap();
    assert!(
        why[0].contains("250 of 250 people would get a right"),
        "{why:?}"
    );
    assert!(!world.rollouts.has_work(&policy, later()).await.unwrap());
    let id = waiting.difference_id.unwrap();
    let by = actor("eve");
    let approved = world.rollouts.approve(&id, &by, "seen", now());
    assert_eq!(approved.await.unwrap().status, RolloutStatus::Done);

    let (dying, its_policy) = (world.rollouts.clone(), Arc::clone(&policy));
    let dying = tokio::spawn(async move { dying.advance(&its_policy, later()).await });
    while world.row().await.started == 0 && !dying.is_finished() {
        tokio::task::yield_now().await;
    }
    dying.abort();
    let _ended = dying.await;
    let other = World::of(&company);
    loop {
        let (a, b) = tokio::join!(
            world.rollouts.advance(&policy, later()),
            other.rollouts.advance(&policy, later())
        );
        if !a.unwrap().more && !b.unwrap().more {
            break;
        }
    }
    assert_eq!(world.row().await.started, count as u64);
    let shards: Vec<ShardId> = (0..256).map(ShardId).collect();
    let inbox = company.store.inbox(&shards, 1_000).await.unwrap();
    assert_eq!(inbox.len(), count);
    assert_eq!(keys_left_out(&company, &world).await, [""; 0]);
    company.remove().await;
}

async fn a_later_rollout_takes_over_whom_an_earlier_one_left_out(on_postgres: bool) {
    let company = company(on_postgres).await;
    let (world, strict) = (World::of(&company), strict());
    assert!(world.propose(ROLES).await);
    let node = company.node().await;
    let mut rows = people(2, "Sales");
    rows.push("E0009,Name 9,".to_owned());
    import(&company, "2026-03-01", &rows).await;
    company.settled(&node).await;
    assert!(!world.propose(&strict).await);
    world.approve_policy(&strict).await;
    assert_eq!(world.finished(&strict).await, 2);
    company.settled(&node).await;
    let first = left_out(&company, &world).await.remove(0);

    let stricter = strict.replace(
        "accounts:\n",
        "  - { name: nobody, when: \"false\", accounts: [scim] }\naccounts:\n",
    );
    assert!(world.propose(&stricter).await);
    // Until the later one comes to them they are those of the earlier one.
    assert_eq!(keys_left_out(&company, &world).await, [""; 0]);
    let earlier = company
        .directory
        .left_out(&first.rollout_id, None, 10)
        .await;
    assert_eq!(earlier.unwrap(), std::slice::from_ref(&first));
    assert_eq!(world.finished(&stricter).await, 0);
    let second = left_out(&company, &world).await.remove(0);
    assert_ne!(second.rollout_id, first.rollout_id);
    assert_eq!(
        (&second.since_rollout_id, second.since),
        (&first.rollout_id, first.since)
    );
    let earlier = company
        .directory
        .left_out(&first.rollout_id, None, 10)
        .await;
    assert_eq!(earlier.unwrap(), []);

    assert!(world.propose(HOUSE).await);
    assert_eq!(world.finished(HOUSE).await, 1);
    company.settled(&node).await;
    assert_eq!(company.ldap.shown()[2], "e0009: on house");
    assert!(
        company
            .directory
            .left_out_counts()
            .await
            .unwrap()
            .is_empty()
    );
    end(company, node).await;
}

/// Nobody saw that somebody protected would lose something; and somebody who rejects it drops those who wait, nobody else.
async fn who_is_protected_waits_for_a_person(on_postgres: bool) {
    let company = company(on_postgres).await;
    let protected = "guard:\n  protected: [{ key: E0008 }, { key: E0009 }]\n";
    let old = format!("{ROLES}{protected}");
    let new = format!("{}{protected}", strict());
    let world = World::of(&company);
    assert!(world.propose(&old).await);
    let node = company.node().await;
    let rows = ["E0007,Name 7,", "E0008,Name 8,", "E0009,Name 9,"].map(str::to_owned);
    import(&company, "2026-03-01", &rows).await;
    company.settled(&node).await;
    assert!(!world.propose(&new).await);
    world.approve_policy(&new).await;
    assert_eq!(world.finished(&new).await, 0);
    company
        .run_sql(
            "UPDATE identity SET attributes = '{\"department\": \"Sales\"}' WHERE identity_key <> 'E0007'",
        )
        .await;
    let policy = policy(&new);
    let waits = world.rollouts.advance(&policy, later()).await.unwrap();
    assert_eq!(waits, Advance::default());
    let waiting = world.row().await;
    let why = waiting.stopped_by.unwrap();
    assert!(
        why[0].starts_with("`E0008`, `E0009` would lose access"),
        "{why:?}"
    );
    let id = waiting.rollout_id;
    // One of them left meanwhile: what was shown is not what would be dropped.
    company
        .run_sql("UPDATE identity SET status = 'departed' WHERE identity_key = 'E0008'")
        .await;
    let by = actor("eve");
    let moved = world.rollouts.reject(&id, &by, "never", now()).await;
    assert!(matches!(moved, Err(RolloutError::Changed { .. })));
    let rejected = world.rollouts.reject(&id, &by, "never", now()).await;
    assert_eq!(rejected.unwrap().status, RolloutStatus::Done);
    assert_eq!(keys_left_out(&company, &world).await, ["E0007"]);
    let late = world.rollouts.advance(&policy, later()).await;
    assert_eq!(late.unwrap(), Advance::default());
    assert_eq!(company.cases().await.len(), 3);
    end(company, node).await;
}

on_both! {
    who_was_in_question_comes_when_that_is_settled,
    who_had_no_answer_comes_when_there_is_one,
    many_are_measured_and_nobody_is_started_twice,
    a_later_rollout_takes_over_whom_an_earlier_one_left_out,
    who_is_protected_waits_for_a_person,
}
