//! Workflows that start beside their event, for people about whom a question is open.
//!
//! The clock stands still between two looks. Ann Ox is at work as `c7`, and somebody very like her is hired as `e100`.

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
use engine::runner::NodeHandle;
use serde_json::{Value, json};

use crate::correlation::Correlation;
use crate::directory::{IdentityStatus, ReviewFilter};
use crate::sources::{BusinessEvent, EventType, Key};
use crate::testbed::{Company, FastClock, Leaving, actor, on_both};

const RULES: &str = "
link_at: 100
ask_at: 60
owner: role:hr
rules:
  - { name: name, attributes: [name], compare: name, agrees: 40, differs: -50 }
  - { name: birth date, attributes: [birth_date], compare: date, agrees: 40, differs: -60 }
";

const PREPARE: &str = "
name: prepare
on: [hire]
ahead: 7d
steps: [{ id: look, uses: access.plan }]
";
const REVIEW: &str = "
name: review
on: [hire]
after: 30d
steps: [{ id: look, uses: access.plan }]
";
const FAREWELL: &str = "
name: farewell
on: [termination.scheduled]
ahead: 7d
steps: [{ id: look, uses: access.plan }]
";

fn day(number: i64) -> Timestamp {
    let first: Timestamp = "2026-01-01T08:00:00Z".parse().unwrap();
    first + TimeDelta::days(number)
}

struct World {
    company: Company,
    clock: Arc<FastClock>,
    node: Option<NodeHandle>,
    today: i64,
    said: i64,
}

impl World {
    /// Ann was hired on the first day, and whoever it is was said to be hired on the day of `hired` on the tenth.
    async fn new(hired: i64, on_postgres: bool) -> Self {
        let mut world = Self::empty(on_postgres).await;
        world.say(EventType::Hire, "c7", 0, ann()).await;
        world.reach(10).await;
        world.say(EventType::Hire, "e100", hired, ann()).await;
        world
    }

    async fn empty(on_postgres: bool) -> Self {
        let clock = Arc::new(FastClock::new(day(0), 0));
        let own = Leaving {
            workflows: &[
                ("prepare.yaml", PREPARE),
                ("review.yaml", REVIEW),
                ("farewell.yaml", FAREWELL),
            ],
            correlation: Some(Arc::new(
                Correlation::load("correlation.yaml", RULES).unwrap(),
            )),
            ..Leaving::default()
        };
        let company = Company::leaving(clock.clone(), on_postgres, own).await;
        let node = Some(company.node().await);
        Self {
            company,
            clock,
            node,
            today: 0,
            said: 0,
        }
    }

    /// Goes on to a day. Looked at twice, nothing is done twice, and nothing is left to look at a third time.
    async fn reach(&mut self, number: i64) {
        for _ in 0..2 {
            self.look(number).await;
            self.settled().await;
        }
    }

    async fn look(&mut self, number: i64) {
        self.today = number;
        self.clock.jump(day(number));
        let due = self.company.intake.start_due(day(number)).await.unwrap();
        assert!(due.next.is_none_or(|next| next > day(number)), "{due:?}");
    }

    async fn settled(&self) {
        self.company.settled(self.node.as_ref().unwrap()).await;
    }

    /// What begins waits until [`World::go_on`].
    async fn stop(&mut self) {
        let node = self.node.take().unwrap();
        node.drain(Duration::from_secs(5)).await.unwrap();
    }

    async fn go_on(&mut self) {
        self.node = Some(self.company.node().await);
        self.settled().await;
    }

    async fn say(&mut self, event_type: EventType, who: &str, effective: i64, data: Value) {
        self.said += 1;
        // What is said by another source may be about the same person.
        let source = if who == "c7" { "vms" } else { "hr" };
        let event = BusinessEvent {
            id: format!("e{}", self.said),
            source: source.to_owned(),
            event_type,
            subject: Key::new(who),
            occurred_at: day(self.today),
            effective_at: day(effective),
            zone: "UTC".to_owned(),
            version: self.said,
            supersedes: None,
            data,
        };
        let (intake, hr) = (&self.company.intake, actor("hr"));
        intake.event(&event, &hr, day(self.today)).await.unwrap();
        self.settled().await;
    }

    async fn question(&self) -> String {
        let open = ReviewFilter::default();
        let open = self.company.directory.reviews(&open, 10).await.unwrap();
        assert_eq!(open.len(), 1);
        open[0].review_id.clone()
    }

    async fn separate(&mut self) {
        let (id, by) = (self.question().await, actor("ann"));
        let separate = self
            .company
            .intake
            .separate(&id, &by, "met both", day(self.today));
        separate.await.unwrap();
        self.settled().await;
    }

    async fn link(&mut self) {
        let (id, by) = (self.question().await, actor("ann"));
        let link = self
            .company
            .intake
            .link(&id, "c7", &by, "called her", day(self.today));
        link.await.unwrap();
        self.settled().await;
    }

    /// The cases of workflows that start beside their event.
    async fn beside(&self) -> Vec<String> {
        let mut shown = self.company.shown().await;
        let of_ours = ["prepare", "review", "farewell"];
        shown.retain(|case| of_ours.iter().any(|name| case.starts_with(name)));
        shown
    }

    async fn end(mut self) {
        self.stop().await;
        self.company.remove().await;
    }
}

fn ann() -> Value {
    json!({ "attributes": { "name": "Ann Ox", "department": "Sales", "birth_date": "1990-01-02" } })
}

async fn nothing_is_prepared_for_who_may_be_somebody_else(on_postgres: bool) {
    let mut world = World::new(20, on_postgres).await;
    world.reach(13).await;
    assert_eq!(world.beside().await, [""; 0]);
    world.reach(15).await;
    world.separate().await;
    assert_eq!(world.beside().await, ["prepare e100 succeeded"]);
    world.reach(20).await;
    world.reach(60).await;
    assert_eq!(
        world.beside().await,
        [
            "prepare e100 succeeded",
            "review c7 succeeded",
            "review e100 succeeded"
        ]
    );
    world.end().await;
}

async fn a_link_prepares_what_waited(on_postgres: bool) {
    let mut world = World::new(20, on_postgres).await;
    world.reach(15).await;
    world.link().await;
    assert_eq!(world.beside().await, ["prepare c7 succeeded"]);
    world.reach(16).await;
    assert_eq!(world.beside().await, ["prepare c7 succeeded"]);
    world.end().await;
}

/// Once the day is there nothing is prepared for it any more, and what comes after it comes.
async fn what_is_not_wanted_any_more_is_dropped(on_postgres: bool) {
    let mut world = World::new(20, on_postgres).await;
    world.reach(13).await;
    world.reach(40).await;
    assert_eq!(world.beside().await, [""; 0], "the review of c7 waits, too");
    world.separate().await;
    assert_eq!(world.beside().await, ["review c7 succeeded"]);
    world.reach(50).await;
    assert_eq!(
        world.beside().await,
        ["review c7 succeeded", "review e100 succeeded"]
    );
    world.end().await;
}

async fn a_day_that_is_taken_back_or_moved_takes_what_waited_along(on_postgres: bool) {
    let mut world = World::new(20, on_postgres).await;
    world.reach(15).await;
    world.say(EventType::Hire, "e100", 40, ann()).await;
    world.separate().await;
    assert_eq!(world.beside().await, [""; 0], "it is to come again");
    world.reach(33).await;
    assert_eq!(
        world.beside().await,
        ["prepare e100 succeeded", "review c7 succeeded"]
    );
    world.end().await;

    let mut world = World::new(20, on_postgres).await;
    world.reach(15).await;
    world
        .say(EventType::HireRescinded, "e100", 15, json!({}))
        .await;
    world.separate().await;
    world.reach(60).await;
    assert_eq!(world.beside().await, ["review c7 succeeded"]);
    world.end().await;
}

/// However long nobody decides, what waited is no less wanted.
async fn what_waited_for_months_still_comes(on_postgres: bool) {
    let mut world = World::new(12, on_postgres).await;
    world.reach(150).await;
    assert_eq!(world.beside().await, [""; 0]);
    world.separate().await;
    assert_eq!(
        world.beside().await,
        ["review c7 succeeded", "review e100 succeeded"]
    );
    world.end().await;
}

async fn an_end_waits_for_nobody(on_postgres: bool) {
    let mut world = World::new(12, on_postgres).await;
    world
        .say(EventType::TerminationScheduled, "c7", 30, json!({}))
        .await;
    world.reach(22).await;
    assert_eq!(world.beside().await, [""; 0]);
    world.reach(23).await;
    assert_eq!(world.beside().await, ["farewell c7 succeeded"]);
    world.reach(30).await;
    assert_eq!(world.company.ldap.shown(), ["c7: off"]);
    world.separate().await;
    world.reach(60).await;
    assert_eq!(
        world.beside().await,
        ["farewell c7 succeeded", "review e100 succeeded"]
    );
    world.end().await;
}

/// A merge is a question until everything has gone where it belongs, and so is a split.
async fn a_merge_and_a_split_hold_it_and_let_it_go_once(on_postgres: bool) {
    let mut world = World::empty(on_postgres).await;
    world.say(EventType::Hire, "c7", 0, ann()).await;
    let mut other = ann();
    other["attributes"]["name"] = json!("Bo Elk");
    world.say(EventType::Hire, "b1", 0, other).await;
    world.reach(29).await;
    let (by, intake) = (actor("ann"), world.company.intake.clone());
    world.stop().await;
    let merge = intake.merge("c7", "b1", &by, "one person", day(29));
    merge.await.unwrap();
    world.look(30).await;
    assert_eq!(world.beside().await, [""; 0]);
    world.go_on().await;
    let person = world.company.directory.identity("b1").await.unwrap();
    assert_eq!(
        person.unwrap().identity.status,
        IdentityStatus::Merged,
        "it is done"
    );
    let both = ["review c7 succeeded", "review c7 succeeded"];
    assert_eq!(world.beside().await, both, "one for each day");
    world.stop().await;
    let split = intake.split("b1", &by, "two people", day(30));
    split.await.unwrap();
    world.look(31).await;
    world.go_on().await;
    world.reach(32).await;
    assert_eq!(world.beside().await, both, "neither again");
    world.end().await;
}

on_both! {
    nothing_is_prepared_for_who_may_be_somebody_else,
    a_link_prepares_what_waited,
    what_is_not_wanted_any_more_is_dropped,
    a_day_that_is_taken_back_or_moved_takes_what_waited_along,
    what_waited_for_months_still_comes,
    an_end_waits_for_nobody,
    a_merge_and_a_split_hold_it_and_let_it_go_once,
}
