//! Rights that a review lets somebody keep for a time: when they go, what moves that, and who is told before.

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
use engine::core::Timestamp;
use engine::core::id::{Place, StepIndex};
use engine::runner::{Clock as _, Command};
use engine::store::SHARDS_DEFAULT;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::leaving_tests::{Office, day, employed};
use crate::directory::{GrantRow, GrantStatus};
use crate::intake::{Due, ExceptionEnd};
use crate::notices::{NoticeFilter, NoticeProjection, Notices, Outbox, Router, kind};
use crate::policy::HeldBy;
use crate::sources::{BusinessEvent, EventType, Key};
use crate::testbed::{Company, FastClock, Leaving, actor, on_both, schema};

on_both! {
    a_right_that_was_kept_goes_exactly_at_its_end_with_its_account,
    ends_follow_policy_and_what_is_decided_later,
    a_role_that_gives_it_by_then_keeps_it,
    an_end_of_an_earlier_life_takes_nothing_in_the_next,
    the_new_manager_gives_a_new_term,
    an_end_waits_for_no_hand_over,
    what_came_while_nobody_was_there_is_caught_up_with,
    of_decisions_in_any_order_the_later_counts,
    an_end_takes_nothing_from_who_is_protected,
    the_manager_is_told_before,
}

const TERMS: &str = r#"
roles:
  - name: staff
    when: "true"
    accounts: [ldap]
    grants: [{ system: ldap, entitlement: staff }]
accounts:
  - { system: ldap, name: lower(identity.key) }
exceptions: { length: 30d, max: 60d }
"#;

const PROTECTED: &str = r#"
roles:
  - name: staff
    when: "true"
    accounts: [ldap]
    grants: [{ system: ldap, entitlement: staff }]
accounts:
  - { system: ldap, name: lower(identity.key) }
guard:
  protected: [{ key: A1 }]
"#;

fn with_roles(roles: &'static str) -> Leaving {
    Leaving {
        roles: Some(roles),
        ..Leaving::default()
    }
}

/// A decision about a right on `ldap`, unless `data` names another system.
fn decision(id: &str, said_at: Timestamp, holds_from: Timestamp, data: Value) -> BusinessEvent {
    let mut all = json!({ "system": "ldap" });
    if let (Value::Object(all), Value::Object(data)) = (&mut all, data) {
        all.extend(data);
    }
    BusinessEvent {
        id: id.to_owned(),
        source: "reviews".to_owned(),
        event_type: EventType::CertificationDecided,
        subject: Key::new("A1"),
        occurred_at: said_at,
        effective_at: holds_from,
        zone: "UTC".to_owned(),
        version: said_at.timestamp_micros(),
        supersedes: None,
        data: all,
    }
}

impl Office {
    /// Rights that somebody gave on the system, and that nobody knows why A1 has.
    async fn finds(&self, rights: &[&str]) {
        for right in rights {
            self.company.ldap.give("a1", right);
            self.finds_on("ldap", right).await;
        }
    }

    async fn finds_on(&self, system: &str, right: &str) {
        let sql = format!(
            "INSERT INTO grant_held (shard_id, identity_key, system, entitlement, status, held_by, reasons, case_id)
             SELECT shard_id, identity_key, '{system}', '{right}', 'active', 'unmanaged', '[]', 'found'
             FROM identity WHERE identity_key = 'A1'
             ON CONFLICT (shard_id, identity_key, system, entitlement) DO UPDATE
                 SET status = 'active', held_by = 'unmanaged', until = NULL"
        );
        self.company.run_sql(sql.leak()).await;
    }

    /// A decision that holds at once.
    async fn decides(&self, data: Value) {
        let now = self.clock.now();
        let id = format!("review-{}", now.timestamp_micros());
        self.hears(&decision(&id, now, now, data)).await;
    }

    async fn hears(&self, event: &BusinessEvent) {
        let (by, now) = (actor("reviews"), self.clock.now());
        self.company.intake.event(event, &by, now).await.unwrap();
        self.company.settled(&self.node).await;
    }

    async fn keeps(&self, right: &str, until: Timestamp) {
        let until = until.to_rfc3339();
        self.decides(json!({ "entitlement": right, "decision": "keep", "until": until }))
            .await;
    }

    async fn becomes(&self, department: &str) {
        self.moves("A1", department).await;
        self.company.settled(&self.node).await;
    }

    /// What a process that is there does when it is then.
    async fn passes(&self, to: Timestamp) -> Due {
        self.jump(to);
        let due = self.company.intake.start_due(to).await.unwrap();
        self.company.settled(&self.node).await;
        due
    }

    async fn right(&self, name: &str) -> GrantRow {
        let holdings = self.company.directory.holdings("A1").await.unwrap();
        let mut grants = holdings.unwrap().grants.into_iter();
        grants.find(|grant| grant.entitlement == name).unwrap()
    }

    async fn end(&self, name: &str) -> Option<Timestamp> {
        self.right(name).await.exception_until
    }

    /// What the newest case about decisions found.
    async fn found(&self) -> Value {
        let cases = self.company.cases().await;
        let mine = cases
            .iter()
            .filter(|case| case.head.workflow == "certification");
        let newest = mine.max_by_key(|case| case.head.created_at).unwrap();
        let mut outputs = self.company.outputs(newest.head.case, 0).await;
        outputs.remove(0)
    }

    fn shown(&self) -> String {
        self.company.ldap.shown().remove(0)
    }
}

async fn a_right_that_was_kept_goes_exactly_at_its_end_with_its_account(on_postgres: bool) {
    let office = Office::open(on_postgres, with_roles(TERMS)).await;
    office.finds(&["vpn"]).await;
    let scim = &office.company.scim;
    scim.put_account("a1", Some("A1"));
    scim.give("a1", "reports");
    office
        .company
        .run_sql(
            "INSERT INTO account (shard_id, identity_key, system, native_id, name, status, changed_at, case_id)
             SELECT shard_id, identity_key, 'scim', 'id-1', 'a1', 'active', '2026-01-01T00:00:00.000000Z', 'found'
             FROM identity WHERE identity_key = 'A1'",
        )
        .await;
    office.finds_on("scim", "reports").await;
    let end = day(30);
    office.keeps("vpn", end).await;
    let until = end.to_rfc3339();
    office
        .decides(json!({ "system": "scim", "entitlement": "reports", "decision": "keep", "until": until }))
        .await;
    for right in ["vpn", "reports"] {
        let kept = office.right(right).await;
        assert_eq!(
            (kept.held_by, kept.exception_until, kept.until),
            (HeldBy::Exception, Some(end), None),
            "{right}"
        );
    }
    office.jump(end - TimeDelta::minutes(5));
    let almost = end - TimeDelta::microseconds(1);
    let due = office.company.intake.start_due(almost).await.unwrap();
    assert_eq!((due.cases.len(), due.next), (0, Some(end)));
    assert_eq!(
        (office.shown(), scim.shown()),
        (
            "a1: on staff vpn".to_owned(),
            vec!["a1: on reports".to_owned()]
        )
    );
    let due = office.passes(end).await;
    assert_eq!(due.cases["certification"], 1, "both are one case: {due:?}");
    assert_eq!(office.shown(), "a1: on staff");
    assert_eq!(scim.shown(), ["a1: off"], "nothing else needed the account");
    let gone = office.right("vpn").await;
    assert_eq!(
        (gone.status, gone.exception_until),
        (GrantStatus::Revoked, None)
    );
    assert_eq!(office.passes(day(31)).await, Due::default(), "once");
    // Whoever sleeps until the next is due is told of one that may come before.
    let end = ExceptionEnd {
        key: "A1",
        system: "ldap",
        entitlement: "vpn",
        at: day(40),
    };
    let intake = &office.company.intake;
    let (told, now) = (intake.due(), office.clock.now());
    intake.plan_exception_end(&end, now).await.unwrap();
    let told = tokio::time::timeout(Duration::from_secs(5), told.notified());
    told.await.unwrap();
    assert_eq!(intake.start_due(now).await.unwrap().next, Some(day(40)));
    office.close().await;
}

async fn ends_follow_policy_and_what_is_decided_later(on_postgres: bool) {
    let office = Office::open(on_postgres, with_roles(TERMS)).await;
    office.finds(&["usual", "long", "short"]).await;
    let keep = |right: &str| json!({ "entitlement": right, "decision": "keep" });
    office.decides(keep("usual")).await;
    // Decided moments after the first day began.
    let soon_after = |end: Timestamp, number: i64| {
        let late = end - day(number);
        assert!(
            late > TimeDelta::zero() && late < TimeDelta::hours(1),
            "{end}"
        );
    };
    let usual = office.end("usual").await.unwrap();
    soon_after(usual, 30);
    let mut long = keep("long");
    long["until"] = json!("2026-12-31T12:00:00+01:00");
    office.decides(long).await;
    let cut = office.end("long").await.unwrap();
    soon_after(cut, 60);
    let found = office.found().await;
    assert_eq!(found["keep"][0]["ends"], json!(cut), "{found}");
    assert_eq!(
        found["keep"][0]["asked"],
        json!("2026-12-31T11:00:00Z"),
        "what was decided is told: {found}"
    );
    let mut short = keep("short");
    short["until"] = json!("2026-01-20");
    office.decides(short).await;
    assert_eq!(office.end("short").await, Some(day(20)), "a whole day");
    assert_eq!(office.found().await["keep"][0].get("asked"), None);
    office.passes(day(10)).await;
    office.keeps("usual", day(50)).await;
    office.passes(day(12)).await;
    office
        .decides(json!({ "entitlement": "long", "decision": "revoke" }))
        .await;
    assert_eq!(office.shown(), "a1: on short staff usual");
    office.passes(day(20)).await;
    assert_eq!(office.shown(), "a1: on staff usual");
    // The end that stood first finds another one.
    let due = office.passes(usual).await;
    assert_eq!(due.cases["certification"], 1);
    let found = office.found().await;
    assert_eq!(found["unchanged"][0]["ends"], json!(day(50)), "{found}");
    assert_eq!(office.shown(), "a1: on staff usual");
    office.passes(day(50)).await;
    assert_eq!(office.shown(), "a1: on staff");
    // What was taken before its end stays taken, and so does what came back by then without an end.
    office.finds(&["long"]).await;
    office.passes(cut).await;
    assert_eq!(office.found().await["unchanged"][0]["entitlement"], "long");
    assert_eq!(office.shown(), "a1: on long staff");
    office.close().await;
}

async fn a_role_that_gives_it_by_then_keeps_it(on_postgres: bool) {
    let office = Office::open(on_postgres, Leaving::default()).await;
    office.finds(&["engineers"]).await;
    office.keeps("engineers", day(10)).await;
    office.becomes("Engineering").await;
    office.passes(day(10)).await;
    assert_eq!(office.shown(), "a1: on engineers staff");
    let held = office.right("engineers").await;
    assert_eq!(
        (held.status, held.held_by, held.exception_until),
        (GrantStatus::Active, HeldBy::Policy, None)
    );
    // From then on it is the role's, and goes with it.
    office.becomes("Sales").await;
    assert_eq!(office.shown(), "a1: on sellers staff");
    office.close().await;
}

async fn an_end_of_an_earlier_life_takes_nothing_in_the_next(on_postgres: bool) {
    let office = Office::open(on_postgres, Leaving::default()).await;
    office.finds(&["vpn", "archive"]).await;
    office.keeps("vpn", day(10)).await;
    office.keeps("archive", day(10)).await;
    office
        .say("A1", EventType::TerminationEffective, json!({}))
        .await;
    office.company.settled(&office.node).await;
    let left = office.right("vpn").await;
    assert_eq!(
        (left.status, left.exception_until),
        (GrantStatus::Revoked, None)
    );
    office.jump(day(5));
    office.say("A1", EventType::Rehire, employed("B2")).await;
    office.company.settled(&office.node).await;
    office.finds(&["vpn", "archive"]).await;
    office.keeps("vpn", day(20)).await;
    office.passes(day(10)).await;
    let found = office.found().await;
    assert_eq!(found["unchanged"].as_array().unwrap().len(), 2, "{found}");
    assert_eq!(office.shown(), "a1: on archive sellers staff vpn");
    office.passes(day(20)).await;
    assert_eq!(office.shown(), "a1: on archive sellers staff");
    office.close().await;
}

async fn the_new_manager_gives_a_new_term(on_postgres: bool) {
    let office = Office::open(on_postgres, Leaving::default()).await;
    office.finds(&["vpn"]).await;
    office.keeps("vpn", day(40)).await;
    office.jump(day(1));
    office.becomes("Engineering").await;
    let case = office.company.case("handover", "A1").await;
    let yes = Command::Answer {
        place: Place::new(StepIndex(2), 0),
        by: actor("B2"),
        approve: true,
        note: String::new(),
    };
    office.company.command(&case, yes).await;
    office.node.nudge();
    office
        .until(&[
            "certification A1 succeeded",
            "handover A1 succeeded",
            "mover A1 succeeded",
        ])
        .await;
    let kept = office.right("vpn").await;
    assert_eq!((kept.held_by, kept.until), (HeldBy::Exception, None));
    let end = kept.exception_until.unwrap();
    assert!(end > day(181) && end < day(182), "{end}");
    office.passes(day(40)).await;
    assert_eq!(office.shown(), "a1: on engineers staff vpn");
    office.passes(end).await;
    assert_eq!(office.shown(), "a1: on engineers staff");
    office.close().await;
}

async fn an_end_waits_for_no_hand_over(on_postgres: bool) {
    let office = Office::open(on_postgres, Leaving::default()).await;
    office.finds(&["vpn", "archive"]).await;
    office.keeps("vpn", day(5)).await;
    office.keeps("archive", day(100)).await;
    office.becomes("Engineering").await;
    let asked = office.company.directory.asked_of("B2").await.unwrap();
    assert_eq!(asked.len(), 2);
    assert_eq!(
        office.right("vpn").await.until,
        Some(day(5)),
        "nobody is asked for longer than it has"
    );
    let asked_until = office.right("archive").await.until;
    office.passes(day(5)).await;
    assert_eq!(office.shown(), "a1: on archive engineers staff");
    // The question about the other goes on, and may take no longer.
    let asked = office.company.directory.asked_of("B2").await.unwrap();
    assert_eq!(asked.len(), 1);
    assert_eq!(office.right("archive").await.until, asked_until);
    office.jump(day(25));
    office.company.settled(&office.node).await;
    office
        .until(&[
            "certification A1 succeeded",
            "certification A1 succeeded",
            "certification A1 succeeded",
            "handover A1 preempted",
            "handover A1 succeeded",
            "mover A1 succeeded",
        ])
        .await;
    assert_eq!(office.shown(), "a1: on engineers staff");
    office.close().await;
}

async fn what_came_while_nobody_was_there_is_caught_up_with(on_postgres: bool) {
    let office = Office::open(on_postgres, Leaving::default()).await;
    office.finds(&["vpn", "archive"]).await;
    office.keeps("vpn", day(10)).await;
    office.keeps("archive", day(10)).await;
    let now = office.clock.now();
    let until = day(40).to_rfc3339();
    let later = json!({ "entitlement": "archive", "decision": "keep", "until": until });
    office
        .hears(&decision("announced", now, day(9), later))
        .await;
    let Office {
        company,
        clock,
        node,
    } = office;
    node.drain(Duration::from_secs(10)).await.unwrap();
    clock.jump(day(12));
    let node = company.node().await;
    let office = Office {
        company,
        clock,
        node,
    };
    let due = office.passes(day(12)).await;
    assert_eq!(due.cases["certification"], 1, "{due:?}");
    assert_eq!(office.shown(), "a1: on archive sellers staff");
    assert_eq!(office.end("archive").await, Some(day(40)));
    assert_eq!(due.next, None, "the new end is planned by the case");
    let due = office.passes(day(13)).await;
    assert_eq!(due.next, Some(day(40)));
    office.passes(day(41)).await;
    assert_eq!(office.shown(), "a1: on sellers staff");
    office.close().await;
}

async fn of_decisions_in_any_order_the_later_counts(on_postgres: bool) {
    let office = Office::open(on_postgres, Leaving::default()).await;
    office.finds(&["vpn"]).await;
    office.jump(day(3));
    let until = |number: i64| day(number).to_rfc3339();
    let keep =
        |number: i64| json!({ "entitlement": "vpn", "decision": "keep", "until": until(number) });
    let newest = decision("second", day(2), day(2), keep(50));
    office.hears(&newest).await;
    let revoke = json!({ "entitlement": "vpn", "decision": "revoke" });
    let earlier = decision("first", day(1), day(1), revoke);
    office.hears(&earlier).await;
    let found = office.found().await;
    assert_eq!(found["unchanged"][0]["ends"], json!(day(50)), "{found}");
    assert_eq!(office.shown(), "a1: on sellers staff vpn");
    let cases = office.company.cases().await.len();
    for again in [&newest, &earlier] {
        office.hears(again).await;
    }
    assert_eq!(office.company.cases().await.len(), cases, "once each");
    let other = decision("third", day(1), day(1), keep(20));
    office.hears(&other).await;
    assert_eq!(office.end("vpn").await, Some(day(50)));
    office.passes(day(20)).await;
    assert_eq!(office.shown(), "a1: on sellers staff vpn");
    office.passes(day(50)).await;
    assert_eq!(office.shown(), "a1: on sellers staff");
    office.close().await;
}

async fn an_end_takes_nothing_from_who_is_protected(on_postgres: bool) {
    let office = Office::open(on_postgres, with_roles(PROTECTED)).await;
    office.finds(&["vpn"]).await;
    office.keeps("vpn", day(10)).await;
    office.jump(day(10));
    office.company.intake.start_due(day(10)).await.unwrap();
    office.node.nudge();
    let mut told = String::new();
    for _ in 0..500 {
        told = office.company.failures().await;
        if told.contains("`A1` is protected by the policy") {
            break;
        }
        // sleeps: between two looks at the case
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(told.contains("`A1` is protected by the policy"), "{told}");
    assert_eq!(office.shown(), "a1: on staff vpn");
    office.close().await;
}

async fn the_manager_is_told_before(on_postgres: bool) {
    let clock = Arc::new(FastClock::new(day(0), 1));
    let company = Company::leaving(clock.clone(), on_postgres, Leaving::default()).await;
    let settings = "email: { server: 127.0.0.1, tls: none, from: tenure@example.org }\n";
    let settings = Some(serde_saphyr::from_str(settings).unwrap());
    let notices = Notices::load(settings, &[], &schema(&["ldap", "scim"]), &[]);
    let notices = Arc::new(notices.unwrap());
    let projection = NoticeProjection::new(Arc::clone(&notices), Arc::new(Notify::new()));
    let node = company.node_anew(Arc::new(projection), 3_000).await;
    let office = Office {
        company,
        clock,
        node,
    };
    office.say("A1", EventType::Hire, employed("B2")).await;
    let manager = json!({ "attributes": { "name": "Bo", "email": "bo@example.org" } });
    office.say("B2", EventType::Hire, manager).await;
    office.company.settled(&office.node).await;
    office.finds(&["vpn"]).await;
    office.keeps("vpn", day(30)).await;
    let outbox = Outbox::new(office.company.directory.clone());
    let router = Router::new(outbox.clone(), notices, Vec::new());
    let shards: Vec<i32> = (0..i32::try_from(SHARDS_DEFAULT).unwrap()).collect();
    let told = async || {
        let rows = outbox.list(&NoticeFilter::default(), None, 100).await;
        let rows = rows.unwrap().into_iter();
        let mut rows: Vec<_> = rows
            .filter(|row| row.name == kind::EXCEPTION_ENDING)
            .collect();
        rows.sort_by_key(|row| row.due_at);
        rows
    };
    let seen = async || -> Vec<String> {
        let rows = told().await;
        let shown = rows.iter().map(|row| {
            let days = (row.due_at - day(0)).num_days();
            format!("{} on day {days}: {}", row.recipient, row.state.as_str())
        });
        shown.collect()
    };
    assert_eq!(
        seen().await,
        ["manager on day 16: waiting", "manager on day 27: waiting"]
    );
    let first = told().await.remove(0);
    assert_eq!(first.subject.as_deref(), Some("A1"));
    for (name, value) in [
        ("system", json!("ldap")),
        ("entitlement", json!("vpn")),
        ("end", json!(day(30))),
        ("before", json!("14d")),
    ] {
        assert_eq!(first.vars[name], value, "{name}");
    }
    office.passes(day(16)).await;
    router.look(&shards, day(16)).await.unwrap();
    let sent = outbox.detail(told().await.remove(0)).await.unwrap();
    assert_eq!(sent.deliveries[0].address, "bo@example.org");
    // Decided again, what was to be told of the end before is void.
    office.keeps("vpn", day(60)).await;
    office.passes(day(27)).await;
    router.look(&shards, day(27)).await.unwrap();
    assert_eq!(
        seen().await,
        [
            "manager on day 16: sending",
            "manager on day 27: void",
            "manager on day 46: waiting",
            "manager on day 57: waiting",
        ]
    );
    office.close().await;
}
