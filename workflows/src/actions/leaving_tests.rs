//! Everything that ends with somebody: keys, ownership, accounts after their time; and what stops or outlives it.

#![allow(
    clippy::large_futures,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use connectors::connector::OperationName;
use engine::core::Timestamp;
use engine::core::case::{Ask, InstanceState};
use engine::core::duration::Span;
use engine::core::id::{Place, StepIndex};
use engine::runner::{Clock as _, Command, NodeHandle};
use serde_json::{Value, json};

use crate::directory::{AccountStatus, NewHold};
use crate::sources::{BusinessEvent, EventType, Key};
use crate::systems::{AfterLeaving, Ownership};
use crate::testbed::{Company, FastClock, Leaving, actor, on_both};

/// A day that has nothing to do with today.
pub(super) fn day(number: i64) -> Timestamp {
    let first: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    first + TimeDelta::days(number)
}

/// Two people on two systems, in a time of their own.
pub(super) struct Office {
    pub(super) company: Company,
    pub(super) clock: Arc<FastClock>,
    pub(super) node: NodeHandle,
}

impl Office {
    /// Nobody is there yet.
    pub(super) async fn empty(on_postgres: bool, leaving: Leaving) -> Self {
        let clock = Arc::new(FastClock::new(day(0), 1));
        let company = Company::leaving(clock.clone(), on_postgres, leaving).await;
        let node = company.node().await;
        Self {
            company,
            clock,
            node,
        }
    }

    pub(super) async fn open(on_postgres: bool, leaving: Leaving) -> Self {
        let office = Self::empty(on_postgres, leaving).await;
        office.say("A1", EventType::Hire, employed("B2")).await;
        office.say("B2", EventType::Hire, employed("")).await;
        let both = ["joiner A1 succeeded", "joiner B2 succeeded"];
        office.company.until(&both).await;
        office
    }

    /// Something that is effective at once.
    pub(super) async fn say(&self, key: &str, event_type: EventType, data: Value) {
        let now = self.clock.now();
        let event = BusinessEvent {
            id: format!("{key}-{event_type}-{}", now.timestamp_micros()),
            source: "hr".to_owned(),
            event_type,
            subject: Key::new(key),
            occurred_at: now,
            effective_at: now,
            zone: "UTC".to_owned(),
            version: now.timestamp_micros(),
            supersedes: None,
            data,
        };
        let report = self.company.intake.event(&event, &actor("hr"), now).await;
        report.unwrap();
        self.node.nudge();
    }

    async fn leave(&self, key: &str) {
        self.say(key, EventType::TerminationEffective, json!({}))
            .await;
    }

    pub(super) fn jump(&self, to: Timestamp) {
        self.clock.jump(to);
        self.node.nudge();
    }

    /// The cases beside the two joiners.
    pub(super) async fn until(&self, expected: &[&str]) {
        let mut all = vec!["joiner A1 succeeded", "joiner B2 succeeded"];
        all.extend(expected);
        all.sort_unstable();
        self.company.until(&all).await;
    }

    async fn account(&self) -> AccountStatus {
        let holdings = self.company.directory.holdings("A1").await.unwrap();
        let mut accounts = holdings.unwrap().accounts.into_iter();
        accounts.find(|it| it.system == "ldap").unwrap().status
    }

    pub(super) async fn close(self) {
        self.node.drain(Duration::from_secs(10)).await.unwrap();
        self.company.remove().await;
    }
}

pub(super) fn employed(manager: &str) -> Value {
    json!({ "attributes": { "name": "x", "department": "Sales", "manager": manager } })
}

fn after_days(days: u32) -> Leaving {
    Leaving {
        after: AfterLeaving {
            delete_after: Some(Span::from_s(days * 86_400)),
        },
        ..Leaving::default()
    }
}

on_both! {
    keys_end_with_the_person_and_nobody_elses_do,
    what_is_owned_goes_to_the_manager,
    what_nobody_can_take_waits_for_a_person_while_access_is_contained,
    accounts_are_deleted_when_their_time_is_over_and_not_before,
    a_parked_delete_kills_no_rehire,
    a_legal_hold_stops_deleting_and_nothing_else,
    a_lockout_ends_a_leaver_that_waits_and_does_its_work,
    questions_that_wait_for_the_person_go_to_somebody_else,
}

async fn keys_end_with_the_person_and_nobody_elses_do(on_postgres: bool) {
    let office = Office::open(on_postgres, Leaving::default()).await;
    let ldap = &office.company.ldap;
    ldap.put_key("a1", "ann-laptop");
    ldap.put_key("a1", "ann-ci");
    ldap.put_key("b2", "bob-laptop");
    // The first answer is lost: it is read back, and nothing is left or done twice.
    ldap.lose(OperationName::DestroyCredential, 1);
    office.leave("A1").await;
    office.until(&["leaver A1 unverified"]).await;
    assert!(!ldap.opens("ann-laptop") && !ldap.opens("ann-ci"));
    assert!(ldap.opens("bob-laptop"), "somebody else's key");
    let destroyed = ldap.effects();
    let destroyed = destroyed
        .iter()
        .filter(|effect| effect.starts_with("destroy"));
    assert_eq!(destroyed.count(), 2);
    let known = office.company.directory.credentials_of("A1").await.unwrap();
    assert!(!known.is_empty());
    assert!(
        known
            .iter()
            .all(|it| it.status == "ended" && it.system == "ldap")
    );
    office.close().await;
}

async fn what_is_owned_goes_to_the_manager(on_postgres: bool) {
    let office = Office::open(on_postgres, Leaving::default()).await;
    office.company.ldap.put_paper("a1", "plan");
    office.leave("A1").await;
    office.until(&["leaver A1 unverified"]).await;
    assert_eq!(office.company.ldap.owner("plan").as_deref(), Some("b2"));
    let leaver = office.company.case("leaver", "A1").await;
    let outputs = office.company.outputs(leaver.head.case, 6).await;
    assert!(
        outputs.iter().any(|output| output["to"] == "B2"),
        "what moved to whom is on record: {outputs:?}"
    );
    office.close().await;
}

async fn what_nobody_can_take_waits_for_a_person_while_access_is_contained(on_postgres: bool) {
    let leaving = Leaving {
        ownership: Some(Ownership {
            heirs: vec![
                "backup".to_owned(),
                "person:A1".to_owned(),
                "person:Z9".to_owned(),
            ],
            assignee: "role:archive".to_owned(),
            ..Ownership::default()
        }),
        ..after_days(1)
    };
    let office = Office::open(on_postgres, leaving).await;
    let ldap = &office.company.ldap;
    ldap.put_paper("a1", "plan");
    ldap.put_key("a1", "ann-laptop");
    ldap.open_session("a1");
    office.leave("A1").await;
    for _ in 0..1_000 {
        if ldap.shown()[0] == "a1: off" && ldap.sessions() == 0 && !ldap.opens("ann-laptop") {
            break;
        }
        // sleeps: between two looks at the system
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(ldap.shown()[0], "a1: off", "contained");
    assert_eq!(ldap.owner("plan").as_deref(), Some("a1"), "not handed over");
    office.until(&["leaver A1 running"]).await;
    // A day later nothing is deleted yet: somebody has to say first who takes it.
    office.jump(day(3));
    assert!(office.node.idle().await);
    assert_eq!(ldap.owner("plan").as_deref(), Some("a1"));
    let leaver = office.company.case("leaver", "A1").await;
    let task = Command::TaskDone {
        place: Place::new(StepIndex(6), 0),
        by: actor("carol"),
        proof: "Dan has it now".to_owned(),
        output: Value::Null,
    };
    office.company.command(&leaver, task).await;
    office.node.nudge();
    office
        .until(&["deletion A1 running", "leaver A1 unverified"])
        .await;
    office.close().await;
}

async fn accounts_are_deleted_when_their_time_is_over_and_not_before(on_postgres: bool) {
    let office = Office::open(on_postgres, after_days(30)).await;
    office.leave("A1").await;
    office
        .until(&["deletion A1 running", "leaver A1 unverified"])
        .await;
    // Access has ended, and the end is not held up by the time that accounts are kept.
    let person = office.company.directory.holdings("A1").await.unwrap();
    assert_eq!(person.unwrap().identity.status.as_str(), "departed");
    office.jump(day(29));
    assert!(office.node.idle().await);
    assert_eq!(office.account().await, AccountStatus::Disabled);
    assert_eq!(
        office.company.ldap.shown(),
        ["a1: off", "b2: on sellers staff"]
    );
    office.jump(day(30) + TimeDelta::minutes(5));
    office
        .until(&["deletion A1 succeeded", "leaver A1 unverified"])
        .await;
    assert_eq!(office.company.ldap.shown(), ["b2: on sellers staff"]);
    assert_eq!(office.account().await, AccountStatus::Deleted);
    // Where nothing is said accounts stay.
    assert_eq!(office.company.scim.shown(), ["a1: off", "b2: on"]);
    office.close().await;
}

/// What others got wrong: the deletion that was planned for the earlier life fires in the later one.
async fn a_parked_delete_kills_no_rehire(on_postgres: bool) {
    let office = Office::open(on_postgres, after_days(30)).await;
    office.leave("A1").await;
    office
        .until(&["deletion A1 running", "leaver A1 unverified"])
        .await;
    office.jump(day(20));
    office.say("A1", EventType::Rehire, employed("B2")).await;
    let after = [
        "deletion A1 superseded",
        "joiner A1 succeeded",
        "leaver A1 unverified",
    ];
    office.until(&after).await;
    office.jump(day(60));
    assert!(office.node.idle().await);
    office.until(&after).await;
    let shown = ["a1: on sellers staff", "b2: on sellers staff"];
    assert_eq!(office.company.ldap.shown(), shown);
    assert_eq!(office.account().await, AccountStatus::Active);
    let effects = office.company.ldap.effects();
    assert!(!effects.contains(&"delete a1".to_owned()), "{effects:?}");
    office.close().await;
}

async fn a_legal_hold_stops_deleting_and_nothing_else(on_postgres: bool) {
    let office = Office::open(on_postgres, after_days(10)).await;
    let hold = |name: &str, until| NewHold {
        key: "A1".to_owned(),
        hold: name.to_owned(),
        reason: "litigation".to_owned(),
        until,
    };
    let (directory, lawyer) = (&office.company.directory, actor("lena"));
    let (open_end, short) = (hold("matter-17", None), hold("audit", Some(day(15))));
    for new in [&open_end, &short] {
        assert!(directory.hold(new, &lawyer, day(0)).await.unwrap());
        assert!(
            !directory.hold(new, &lawyer, day(0)).await.unwrap(),
            "twice"
        );
    }
    let nobody = NewHold {
        key: "nobody".to_owned(),
        ..open_end.clone()
    };
    assert!(!directory.hold(&nobody, &lawyer, day(0)).await.unwrap());
    office.company.ldap.put_key("a1", "ann-laptop");
    office.leave("A1").await;
    let held = ["deletion A1 running", "leaver A1 unverified"];
    office.until(&held).await;
    assert!(
        !office.company.ldap.opens("ann-laptop"),
        "access ends as ever"
    );
    for later in [day(12), day(20), day(40)] {
        office.jump(later);
        assert!(office.node.idle().await);
        office.until(&held).await;
        assert_eq!(office.company.ldap.shown()[0], "a1: off");
    }
    let holds = directory.active_holds("A1", day(40)).await.unwrap();
    assert_eq!(holds.len(), 1, "the other has ended by itself: {holds:?}");
    let release = |name| directory.release("A1", name, "settled", &lawyer, day(40));
    assert!(release("matter-17").await.unwrap());
    assert!(!release("matter-17").await.unwrap(), "twice");
    let deletion = office.company.case("deletion", "A1").await;
    let look = Command::Retry {
        place: None,
        step: Some(StepIndex(0)),
        by: actor("lena"),
        reason: "released".to_owned(),
    };
    office.company.command(&deletion, look).await;
    office.node.nudge();
    office
        .until(&["deletion A1 succeeded", "leaver A1 unverified"])
        .await;
    assert_eq!(office.company.ldap.shown(), ["b2: on sellers staff"]);
    let record = directory.holds_of("A1").await.unwrap();
    let matter = record.iter().find(|hold| hold.hold == "matter-17").unwrap();
    assert_eq!(matter.released_because.as_deref(), Some("settled"));
    office.close().await;
}

/// A leaver that waits for somebody holds up nobody who demands an end at once.
async fn a_lockout_ends_a_leaver_that_waits_and_does_its_work(on_postgres: bool) {
    let leaving = Leaving {
        ownership: Some(Ownership {
            heirs: Vec::new(),
            ..Ownership::default()
        }),
        ..Leaving::default()
    };
    let office = Office::open(on_postgres, leaving).await;
    let ldap = &office.company.ldap;
    ldap.put_paper("a1", "plan");
    office.leave("A1").await;
    office.until(&["leaver A1 running"]).await;
    // Somebody let them in again by hand, and they made themselves a key.
    ldap.put_key("a1", "back-door");
    ldap.open_session("a1");
    office
        .say("A1", EventType::AccessRevokeNow, json!({}))
        .await;
    for _ in 0..1_000 {
        if ldap.sessions() == 0 && !ldap.opens("back-door") {
            break;
        }
        // sleeps: between two looks at the system
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(ldap.sessions() == 0 && !ldap.opens("back-door"));
    office
        .until(&["leaver A1 preempted", "lockout A1 running"])
        .await;
    office.close().await;
}

const QUESTION: &str = "
name: question
on: [owner.changed]
steps:
  - { id: ask, uses: approval, needs: [], with: { ask: [manager, role:security], quorum: 2, timeout: 9d, on_timeout: park } }
  - { id: do, uses: task, needs: [], with: { assignee: A1, title: File it, timeout: 9d } }
";

/// Whom the questions of a case are put to.
async fn asks(office: &Office, subject: &str) -> Vec<String> {
    let case = office.company.case("question", subject).await;
    let stored = office.company.store.load(case.head.shard, case.head.case);
    let stored = stored.await.unwrap().unwrap();
    let mut asked = Vec::new();
    for row in stored.steps.iter().filter(|row| row.instance.is_some()) {
        let body: Value = serde_json::from_str(&row.body).unwrap();
        match serde_json::from_value(body["state"].clone()).unwrap() {
            InstanceState::Asking {
                ask: Ask::Approval { ask, .. },
                ..
            } => asked.push(ask.join(" ")),
            InstanceState::Asking {
                ask: Ask::Task { assignee, .. },
                ..
            } => asked.push(assignee),
            other => panic!("{other:?}"),
        }
    }
    asked
}

async fn questions_that_wait_for_the_person_go_to_somebody_else(on_postgres: bool) {
    let leaving = Leaving {
        workflows: &[("question.yaml", QUESTION)],
        ..Leaving::default()
    };
    let office = Office::open(on_postgres, leaving).await;
    office.say("C3", EventType::Hire, employed("A1")).await;
    office.until(&["joiner C3 succeeded"]).await;
    // One is put to Ann as Cid's manager, one to her by name; one about Bob is put to Bob's manager, who is nobody.
    for about in ["C3", "B2"] {
        office.say(about, EventType::OwnerChanged, json!({})).await;
    }
    office
        .until(&[
            "joiner C3 succeeded",
            "question B2 running",
            "question C3 running",
        ])
        .await;
    assert_eq!(asks(&office, "C3").await, ["manager role:security", "A1"]);
    office.leave("A1").await;
    office
        .until(&[
            "joiner C3 succeeded",
            "leaver A1 unverified",
            "question B2 running",
            "question C3 running",
        ])
        .await;
    // Ann's own manager is Bob, who answers for her; nobody is asked about themselves.
    let about_cid = asks(&office, "C3").await;
    assert_eq!(about_cid, ["person:B2 role:security", "person:B2"]);
    let about_bob = asks(&office, "B2").await;
    assert_eq!(about_bob, ["manager role:security", "role:identity"]);
    let left = office.company.directory.asked_of("A1").await.unwrap();
    assert!(left.is_empty(), "{left:?}");
    office.close().await;
}
