//! What other products are known to do wrong with people's lives, each as a test that it does not happen here.
//!
//! The clock stands still between two looks, so that a moment before and a moment after can be told apart.

#![allow(
    clippy::large_futures,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use std::sync::Arc;

use chrono::TimeDelta;
use connectors::connector::{ErrorKind, OperationName};
use engine::core::Timestamp;
use engine::core::case::CaseState;
use engine::runner::NodeHandle;
use serde_json::{Value, json};

use super::ImportStatus;
use super::tests::FOUR;
use crate::directory::{AccountStatus, IdentityStatus};
use crate::sources::time::end_of_day;
use crate::sources::{BusinessEvent, EventType, Key};
use crate::testbed::{Company, FastClock, Leaving, actor};

const MILLISECOND: TimeDelta = TimeDelta::milliseconds(1);

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// A company in a time of its own, from `first` on.
struct World {
    company: Company,
    clock: Arc<FastClock>,
    node: NodeHandle,
    now: Timestamp,
    said: i64,
}

impl World {
    async fn new(first: &str, on_postgres: bool) -> Self {
        let clock = Arc::new(FastClock::new(at(first), 0));
        let own = Leaving {
            workflows: &[("prepare.yaml", PREPARE), ("review.yaml", REVIEW)],
            ..Leaving::default()
        };
        let company = Company::leaving(clock.clone(), on_postgres, own).await;
        let node = company.node().await;
        Self {
            company,
            clock,
            node,
            now: at(first),
            said: 0,
        }
    }

    /// Goes on to a moment, and waits until what it brings is done.
    async fn reach(&mut self, moment: Timestamp) {
        self.now = moment;
        self.clock.jump(moment);
        self.company.intake.start_due(moment).await.unwrap();
        self.done().await;
    }

    async fn done(&self) {
        self.node.nudge();
        assert!(self.node.idle().await);
    }

    async fn tell(
        &mut self,
        event_type: EventType,
        who: &str,
        effective_at: Timestamp,
        zone: &str,
        data: Value,
    ) {
        self.say(event_type, who, effective_at, zone, data).await;
        self.done().await;
    }

    async fn say(
        &mut self,
        event_type: EventType,
        who: &str,
        effective_at: Timestamp,
        zone: &str,
        data: Value,
    ) {
        self.said += 1;
        let event = BusinessEvent {
            id: format!("e{}", self.said),
            source: "hr".to_owned(),
            event_type,
            subject: Key::new(who),
            occurred_at: self.now,
            effective_at,
            zone: zone.to_owned(),
            version: self.said,
            supersedes: None,
            data,
        };
        let hr = actor("hr");
        let told = self.company.intake.event(&event, &hr, self.now);
        told.await.unwrap();
        self.node.nudge();
    }

    async fn hire(&mut self, who: &str, department: &str) {
        let data = json!({ "attributes": { "name": who, "department": department } });
        self.tell(EventType::Hire, who, self.now, "UTC", data).await;
    }

    /// Everybody's account on the directory, in the order of names.
    fn directory(&self) -> Vec<String> {
        self.company.ldap.shown()
    }

    fn is_open(&self, who: &str) -> bool {
        let own = format!("{}: on", who.to_lowercase());
        self.directory().iter().any(|line| line.starts_with(&own))
    }

    async fn status(&self, who: &str) -> IdentityStatus {
        let person = self.company.directory.identity(who).await.unwrap();
        person.unwrap().identity.status
    }

    async fn end(self) {
        self.node
            .drain(std::time::Duration::from_secs(10))
            .await
            .unwrap();
        self.company.remove().await;
    }
}

/// Others cut at midnight of the tenant, or of UTC, whoever works elsewhere.
async fn everyone_is_cut_at_the_end_of_their_own_day(mut world: World) {
    // Where the day ends on the last Saturday of March 2026, when clocks change in Europe, and on a leap day.
    let people = [
        ("K1", "Pacific/Kiritimati", "2026-03-28T10:00:00Z"),
        ("A1", "Pacific/Auckland", "2026-03-28T11:00:00Z"),
        ("L1", "Australia/Lord_Howe", "2026-03-28T13:00:00Z"),
        ("N1", "Asia/Kathmandu", "2026-03-28T18:15:00Z"),
        ("C1", "Africa/Cairo", "2026-03-28T22:00:00Z"),
        ("Z1", "Europe/Zurich", "2026-03-28T23:00:00Z"),
        ("G1", "Europe/London", "2026-03-29T00:00:00Z"),
        ("J1", "America/St_Johns", "2026-03-29T02:30:00Z"),
        ("Y1", "America/New_York", "2026-03-29T04:00:00Z"),
        ("P1", "Pacific/Pago_Pago", "2026-03-29T11:00:00Z"),
    ];
    for (who, ..) in people {
        world.hire(who, "Sales").await;
    }
    for (who, zone, end) in people {
        let effective = end_of_day("2026-03-28".parse().unwrap(), zone.parse().unwrap());
        assert_eq!(effective, at(end), "{who}");
        let said = EventType::TerminationScheduled;
        world.tell(said, who, effective, zone, json!({})).await;
    }
    for (gone, (who, _, end)) in people.into_iter().enumerate() {
        world.reach(at(end) - MILLISECOND).await;
        assert!(world.is_open(who), "{who} a moment before the end");
        let open = world
            .directory()
            .iter()
            .filter(|line| line.contains(": on"))
            .count();
        assert_eq!(open, people.len() - gone, "before {who}");
        let due = world.company.intake.start_due(world.now).await.unwrap();
        assert_eq!(
            due.next,
            Some(at(end)),
            "the clock is set to the moment itself"
        );
        world.reach(at(end)).await;
        assert!(!world.is_open(who), "{who} at the end");
        assert_eq!(world.status(who).await, IdentityStatus::Departed);
    }
    world.end().await;
}

/// Clocks that jump, days that are there twice or not at all, and the 29th of February.
async fn a_day_ends_once_whatever_clocks_do(mut world: World) {
    for (who, zone, day, end) in [
        // A day of 23 hours; one of 25 is below.
        ("Z1", "Europe/Zurich", "2026-03-29", "2026-03-29T22:00:00Z"),
        // Midnight is skipped.
        ("C1", "Africa/Cairo", "2026-04-23", "2026-04-23T22:00:00Z"),
        ("Z2", "Europe/Zurich", "2026-10-25", "2026-10-25T23:00:00Z"),
        // Midnight comes twice.
        ("H1", "America/Havana", "2026-10-31", "2026-11-01T04:00:00Z"),
        (
            "L2",
            "Pacific/Kiritimati",
            "2028-02-29",
            "2028-02-29T10:00:00Z",
        ),
        ("L1", "Europe/Zurich", "2028-02-29", "2028-02-29T23:00:00Z"),
    ] {
        world.hire(who, "Sales").await;
        let effective = end_of_day(day.parse().unwrap(), zone.parse().unwrap());
        assert_eq!(effective, at(end), "{who}");
        let said = EventType::TerminationScheduled;
        world.tell(said, who, effective, zone, json!({})).await;
        world.reach(effective - MILLISECOND).await;
        assert!(world.is_open(who), "{who} a moment before the end");
        world.reach(effective).await;
        assert!(!world.is_open(who), "{who} at the end");
        // Nothing ends for a second time, and nobody comes back by themselves.
        world.reach(effective + TimeDelta::hours(3)).await;
        let shown = world.company.shown().await;
        let ends = shown
            .iter()
            .filter(|case| **case == format!("leaver {who} unverified"));
        assert_eq!(ends.count(), 1, "{shown:?}");
    }
    world.end().await;
}

/// Others apply what is dated ahead as soon as they read it.
async fn a_conversion_known_ahead_waits_for_its_day(mut world: World) {
    world.hire("C1", "Sales").await;
    let day = world.now + TimeDelta::days(30);
    let data = json!({ "changes": {
        "identity_type": { "to": "employee" },
        "department": { "to": "Engineering" },
    } });
    world
        .tell(EventType::Conversion, "C1", day, "UTC", data)
        .await;
    for moment in [world.now + TimeDelta::days(1), day - MILLISECOND] {
        world.reach(moment).await;
        assert_eq!(world.directory(), ["c1: on sellers staff"], "at {moment}");
    }
    world.reach(day).await;
    assert_eq!(world.directory(), ["c1: on engineers staff"]);
    world.end().await;
}

/// Others look at the last three days and at nothing before.
async fn what_happened_long_ago_is_not_skipped(mut world: World) {
    for (who, days) in [("O1", 4), ("O2", 40), ("O3", 800)] {
        world.hire(who, "Sales").await;
        assert!(world.is_open(who));
        let ago = world.now - TimeDelta::days(days);
        // Somebody who began today did not end before: said so, it means they never began.
        let said = EventType::TerminationEffective;
        world.tell(said, who, ago, "UTC", json!({})).await;
        assert!(!world.is_open(who), "{who} left {days} days ago");
    }
    let data = json!({ "attributes": { "name": "N", "department": "Engineering" } });
    let ago = world.now - TimeDelta::days(400);
    world.tell(EventType::Hire, "N1", ago, "UTC", data).await;
    assert!(world.is_open("N1"), "somebody who began long ago");
    world.end().await;
}

/// Others close the account and let what is open go on.
async fn no_session_outlives_its_account(mut world: World) {
    world.hire("S1", "Sales").await;
    world.company.ldap.open_session("s1");
    world.company.ldap.open_session("s1");
    assert_eq!(world.company.ldap.sessions(), 2);
    world
        .tell(
            EventType::TerminationEffective,
            "S1",
            world.now,
            "UTC",
            json!({}),
        )
        .await;
    assert_eq!(world.company.ldap.sessions(), 0);
    // The other system cannot end sessions: it is not said that there are none.
    assert_eq!(
        world.company.case("leaver", "S1").await.state.state,
        CaseState::Unverified
    );
    world.end().await;
}

/// Others take success with an empty list for everybody having left.
async fn an_empty_file_is_not_everybody_leaving(world: World) {
    world.company.import("2026-01-01", &FOUR).await;
    world.done().await;
    let before = world.directory();
    assert_eq!(before.len(), FOUR.len());
    let empty = world.company.try_import("2026-01-02", &[]).await;
    let waits = match &empty {
        Ok(report) => matches!(report.status, ImportStatus::WaitingForApproval { .. }),
        Err(_) => true,
    };
    assert!(waits, "{empty:?}");
    world.done().await;
    assert_eq!(world.directory(), before);
    world.end().await;
}

/// Others report the whole as done while a part of it failed.
async fn a_case_is_no_success_while_a_part_of_it_failed(mut world: World) {
    world.hire("F1", "Sales").await;
    let ldap = &world.company.ldap;
    ldap.fail(OperationName::Revoke, ErrorKind::Denied, u32::MAX);
    let gone = EventType::TerminationEffective;
    world.tell(gone, "F1", world.now, "UTC", json!({})).await;
    let case = world.company.case("leaver", "F1").await;
    assert!(!case.state.state.is_closed(), "{:?}", case.state);
    assert_eq!(world.status("F1").await, IdentityStatus::Leaving);
    // Everything else was done, and what is left is what the directory says is left.
    assert_eq!(world.directory(), ["f1: off sellers staff"]);
    let person = world
        .company
        .directory
        .identity("F1")
        .await
        .unwrap()
        .unwrap();
    assert!(
        person
            .accounts
            .iter()
            .all(|account| account.status == AccountStatus::Disabled),
        "{:?}",
        person.accounts
    );
    world.end().await;
}

/// Others make somebody new of a contractor who is hired.
async fn a_contractor_who_is_hired_is_one_person(mut world: World) {
    let data = json!({ "contract": "c-1", "attributes": {
        "name": "Kim", "department": "Sales", "identity_type": "contractor",
    } });
    let end = world.now + TimeDelta::days(20);
    world
        .tell(EventType::ContractStart, "K1", world.now, "UTC", data)
        .await;
    let until = json!({ "contract": "c-1" });
    world
        .tell(EventType::ContractExpired, "K1", end, "UTC", until)
        .await;
    let data = json!({ "attributes": {
        "name": "Kim", "department": "Engineering", "identity_type": "employee",
    } });
    world.tell(EventType::Hire, "K1", end, "UTC", data).await;
    assert_eq!(world.directory(), ["k1: on sellers staff"]);
    world.reach(end).await;
    assert_eq!(world.directory(), ["k1: on engineers staff"]);
    world.reach(end + TimeDelta::days(30)).await;
    assert_eq!(world.directory(), ["k1: on engineers staff"]);
    let created = world.company.ldap.effects();
    let created = created.iter().filter(|effect| effect.starts_with("create"));
    assert_eq!(created.count(), 1);
    let person = world
        .company
        .directory
        .identity("K1")
        .await
        .unwrap()
        .unwrap();
    assert_eq!(person.identity.identity_type, "employee");
    assert_eq!((person.accounts.len(), person.events.len()), (2, 3));
    world.end().await;
}

/// Others let an end that was held up take away what a return has given.
async fn an_end_that_was_held_up_does_not_undo_a_return(mut world: World) {
    world.hire("R1", "Sales").await;
    world.company.ldap.set_down(true);
    let gone = EventType::TerminationEffective;
    world.say(gone, "R1", world.now, "UTC", json!({})).await;
    world
        .company
        .until(&["joiner R1 succeeded", "leaver R1 running"])
        .await;
    assert!(world.is_open("R1"), "the system is away");
    let data = json!({ "attributes": { "name": "R1", "department": "Engineering" } });
    let back = world.now + TimeDelta::hours(1);
    world.now = back;
    world.clock.jump(back);
    world.say(EventType::Rehire, "R1", back, "UTC", data).await;
    world.company.ldap.set_down(false);
    for hours in [2, 30, 600] {
        // What waited for the system is tried again as time goes by.
        for minute in 0..10 {
            world
                .clock
                .jump(back + TimeDelta::hours(hours) + TimeDelta::minutes(minute));
            // sleeps: the system is asked again after a while of real time
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        world.reach(back + TimeDelta::hours(hours + 1)).await;
    }
    assert_eq!(world.directory(), ["r1: on engineers staff"]);
    assert_eq!(world.status("R1").await, IdentityStatus::Active);
    world.end().await;
}

const PREPARE: &str = "
name: prepare
on: [hire, rehire]
ahead: 7d
steps: [{ id: look, uses: access.plan }]
";
const REVIEW: &str = "
name: review
on: [hire, rehire]
after: 30d
steps: [{ id: look, uses: access.plan }]
";

/// What is done for somebody before the first day, and after it, moves with that day.
async fn before_and_after_the_first_day(mut world: World) {
    let day = world.now + TimeDelta::days(20);
    let data = json!({ "attributes": { "name": "H", "department": "Sales" } });
    let hire = EventType::Hire;
    world.tell(hire, "H1", day, "UTC", data.clone()).await;
    world.tell(hire, "H2", day, "UTC", data.clone()).await;
    let due = world.company.intake.start_due(world.now).await.unwrap();
    assert_eq!(due.next, Some(day - TimeDelta::days(7)));
    // The first day of one is moved before anything was done, that of the other is taken back.
    let later = day + TimeDelta::days(5);
    world.tell(hire, "H1", later, "UTC", data.clone()).await;
    world
        .tell(EventType::HireRescinded, "H2", world.now, "UTC", json!({}))
        .await;
    for (moment, shown) in [
        (later - TimeDelta::days(7) - MILLISECOND, &[][..]),
        (later - TimeDelta::days(7), &["prepare H1 succeeded"][..]),
        (later - MILLISECOND, &["prepare H1 succeeded"][..]),
        (later, &["joiner H1 succeeded", "prepare H1 succeeded"][..]),
        (
            later + TimeDelta::days(30) - MILLISECOND,
            &["joiner H1 succeeded", "prepare H1 succeeded"][..],
        ),
        (
            later + TimeDelta::days(30),
            &[
                "joiner H1 succeeded",
                "prepare H1 succeeded",
                "review H1 succeeded",
            ][..],
        ),
        (
            later + TimeDelta::days(300),
            &[
                "joiner H1 succeeded",
                "prepare H1 succeeded",
                "review H1 succeeded",
            ][..],
        ),
    ] {
        // Looked at twice, it is done once.
        world.reach(moment).await;
        world.reach(moment).await;
        let mut now = world.company.shown().await;
        now.retain(|case| !case.starts_with("leaver"));
        assert_eq!(now, shown, "at {moment}");
    }
    let none = world.company.directory.planned(10).await.unwrap();
    assert!(none.iter().all(|row| row.subject != "H2"), "{none:?}");
    world.end().await;
}

macro_rules! in_the_world {
    ($($name:ident,)*) => {
        mod on_sqlite {
            use super::World;
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(World::new("2026-01-01T08:00:00Z", false).await).await;
            })*
        }
        mod on_postgres {
            use super::World;
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(World::new("2026-01-01T08:00:00Z", true).await).await;
            })*
        }
    };
}

in_the_world! {
    everyone_is_cut_at_the_end_of_their_own_day,
    a_day_ends_once_whatever_clocks_do,
    a_conversion_known_ahead_waits_for_its_day,
    what_happened_long_ago_is_not_skipped,
    no_session_outlives_its_account,
    an_empty_file_is_not_everybody_leaving,
    a_case_is_no_success_while_a_part_of_it_failed,
    a_contractor_who_is_hired_is_one_person,
    an_end_that_was_held_up_does_not_undo_a_return,
    before_and_after_the_first_day,
}
