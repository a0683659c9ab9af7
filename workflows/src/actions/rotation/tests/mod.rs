//! Rotations from beginning to end, on both databases, and through the death of the node at every moment.

#![allow(
    clippy::large_futures,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::type_complexity,
    reason = "tests"
)]

mod bad_news;
mod dying;
mod fleet;
mod keys;
mod leaving;
mod live;
mod one_slot;
mod pebble;
mod real;
mod reissue;
mod rollover;
mod served;
mod ssh;
mod world;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use connectors::connector::OperationName;
use engine::core::Timestamp;
use engine::core::id::{Actor, Place, StepIndex};
use engine::runner::{Clock as _, Command, NodeHandle};

use self::world::World;
use crate::directory::{NotBegun, RotationFilter, RotationRow};
use crate::nhi::declare;
use crate::nhi::graph::{Node, Relation};
use crate::rotation::{Because, Exposed, Phase};
use crate::testbed::{Company, FastClock, Leaving, More, actor, on_both};

/// The name of the credential that is replaced.
const NAMED: &str = "db/password:app";
/// And one of which there may be two.
const KEY: &str = "db/key-0";

fn start() -> Timestamp {
    "2027-01-01T00:00:00Z".parse().unwrap()
}

fn declared(mode: &str, users: &str, more: &str) -> String {
    let (id, kind) = if mode == "two_slot" {
        ("key-0", "api_key")
    } else {
        ("password:app", "password")
    };
    format!(
        "
nhis:
  - key: app
    kind: service_account
    environment: production
    purpose: serves the shop
    team: shop
    owner: A1
    backup: B2
    review: 2027-01-31
    credentials:
      - system: db
        id: '{id}'
        kind: {kind}
        replaced_by: {mode}
        used_by: [shop/web]
        known_by: [B2]
        rotation:
          place: {{ system: secrets, bundle: app }}
          users: [{users}]
          parts: {{ env: \"PGUSER={{user}}\\nPGPASSWORD={{password}}\\n\" }}
          {more}
"
    )
}

/// A company with these systems and two people who may answer for what is on them; and its node.
async fn company(
    clock: &Arc<FastClock>,
    on_postgres: bool,
    systems: More,
) -> (Company, NodeHandle) {
    let leaving = Leaving {
        systems,
        ..Leaving::default()
    };
    let company = Company::leaving(Arc::clone(clock) as _, on_postgres, leaving).await;
    let people = ["A1,Ann Lee,Sales", "B2,Bob Ray,Sales"];
    company.import("2026-01-01", &people).await;
    let node = company.node().await;
    let both = ["joiner A1 succeeded", "joiner B2 succeeded"];
    company.until(&both).await;
    (company, node)
}

/// A company with a database and a place, where somebody owns the credential.
struct Shop {
    company: Company,
    clock: Arc<FastClock>,
    world: World,
    named: &'static str,
}

impl Shop {
    async fn open(on_postgres: bool, mode: &str, more: &str) -> Self {
        let users: &[&str] = if mode == "alternating" {
            &["app_a", "app_b"]
        } else {
            &["app"]
        };
        let (world, named) = if mode == "two_slot" {
            (World::with_keys(), KEY)
        } else {
            (World::new(users, users.len()), NAMED)
        };
        let clock = Arc::new(FastClock::new(start(), 1));
        let systems = More(vec![("db", world.database()), ("secrets", world.place())]);
        let (company, node) = company(&clock, on_postgres, systems).await;
        node.drain(Duration::from_secs(10)).await.unwrap();
        let shop = Self {
            company,
            clock,
            world,
            named,
        };
        shop.declare(&declared(mode, &users.join(", "), more)).await;
        shop
    }

    async fn declare(&self, text: &str) {
        let systems = BTreeSet::from(["db", "secrets"]);
        let declared = declare::parse("nhis.yaml", text, &systems).unwrap();
        let report = self
            .company
            .directory
            .declare(&declared, &actor("user:ann"), "so", self.clock.now())
            .await
            .unwrap();
        assert_eq!(report.refused, Vec::<String>::new());
    }

    async fn row(&self) -> RotationRow {
        let row = self.company.directory.rotation(self.named).await.unwrap();
        row.unwrap()
    }

    async fn ask(&self, compromised: bool) -> Result<(), NotBegun> {
        let exposed = compromised.then_some(Exposed::Both);
        self.say(exposed).await.map(drop)
    }

    /// Asks for it, perhaps because strangers know one of two; gives whether it begins.
    async fn say(&self, exposed: Option<Exposed>) -> Result<bool, NotBegun> {
        let by = Actor("user:ann".into());
        let directory = &self.company.directory;
        let asked = directory
            .ask_rotation(self.named, exposed, &by, "because", self.clock.now())
            .await;
        asked.unwrap().map(|granted| granted.begins)
    }

    /// Waits until the rotation is in a phase.
    async fn until(&self, node: &NodeHandle, phase: Phase) -> RotationRow {
        for _ in 0..1_000 {
            let row = self.row().await;
            if row.phase == phase {
                return row;
            }
            node.nudge();
            // sleeps: between two looks at the rotation
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!(
            "{:?}, not {phase:?}\n{}\n{:?}",
            self.row().await,
            self.company.failures().await,
            self.world.told()
        );
    }

    fn jump(&self, node: &NodeHandle, to: Timestamp) {
        self.clock.jump(to);
        node.nudge();
    }

    async fn close(self, node: NodeHandle) {
        node.drain(Duration::from_secs(10)).await.unwrap();
        self.company.remove().await;
    }
}

const IN_TIME: &str = "every: 30d
          overlap: { reload: 5m, derived: 1h }
          soak: 7d";

async fn the_turn_changes_and_the_old_one_ends_in_its_time(on_postgres: bool) {
    let shop = Shop::open(on_postgres, "alternating", IN_TIME).await;
    let directory = &shop.company.directory;
    // Nothing is due, and the next is planned once.
    let begun = directory.start_rotations(start()).await.unwrap();
    assert!(begun.cases.is_empty());
    let planned = shop.row().await;
    assert_eq!(planned.phase, Phase::Scheduled);
    assert_eq!(planned.because, Some(Because::Age));
    assert_eq!(begun.next, planned.starts_at);
    let due = planned.starts_at.unwrap();
    assert!(due >= start() + TimeDelta::days(30));
    assert_eq!(due, planned.due_at.unwrap());

    let node = shop.company.node().await;
    shop.jump(&node, due);
    let begun = directory.start_rotations(shop.clock.now()).await.unwrap();
    assert_eq!(begun.cases.len(), 1);
    // Looking again begins nothing.
    let again = directory.start_rotations(shop.clock.now()).await.unwrap();
    assert!(again.cases.is_empty());
    assert_eq!(
        shop.ask(false)
            .await
            .unwrap_err()
            .to_string()
            .split(' ')
            .nth(2),
        Some("being")
    );

    let overlap = shop.until(&node, Phase::Overlap).await;
    assert_eq!(overlap.turn.as_deref(), Some("app_b"));
    assert_eq!(overlap.overlap_s, Some(3_600));
    assert_eq!(overlap.dominated_by.as_deref(), Some("derived"));
    assert_eq!(
        shop.world.told(),
        ["app_a: on secret", "app_b: on secret", "kept: 2"]
    );
    let env = format!(
        "PGUSER=app_b\nPGPASSWORD={}\n",
        shop.world.shown("password")
    );
    assert_eq!(shop.world.shown("env"), env);
    // Somebody still uses the old one when the time is over.
    shop.world.login("app_a", |login| login.sessions = 1);
    shop.jump(&node, shop.clock.now() + TimeDelta::hours(2));
    // sleeps: it must not go on
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(shop.row().await.phase, Phase::Overlap);
    shop.world.login("app_a", |login| login.sessions = 0);
    shop.jump(&node, shop.clock.now() + TimeDelta::hours(2));
    shop.until(&node, Phase::OldDisabled).await;
    assert_eq!(
        shop.world.told(),
        ["app_a: off secret", "app_b: on secret", "kept: 2"]
    );
    shop.jump(&node, shop.clock.now() + TimeDelta::days(8));
    let closed = shop.until(&node, Phase::Closed).await;
    assert_eq!(
        shop.world.told(),
        ["app_a: off none", "app_b: on secret", "kept: 1"]
    );
    assert_eq!((closed.open_case.as_deref(), closed.failures), (None, 0));
    assert!(closed.last_rotated_at.unwrap() >= due);

    // Who knew the old one knows nothing now.
    let node_of = Node::credential(NAMED);
    let knows = || async {
        let edges = directory.edges_at([&node_of]).await.unwrap();
        let known = edges.iter().filter(|edge| edge.relation == Relation::Knows);
        known.count()
    };
    assert_eq!(knows().await, 1);
    // The next time it is the turn of the first again.
    directory.start_rotations(shop.clock.now()).await.unwrap();
    assert_eq!(knows().await, 0);
    let planned = shop.row().await;
    assert_eq!(planned.due_at.unwrap(), closed.since + TimeDelta::days(30));
    shop.ask(false).await.unwrap();
    shop.until(&node, Phase::Overlap).await;
    assert_eq!(shop.world.shown("user"), "app_a");
    assert_eq!(
        shop.world.told(),
        ["app_a: on secret", "app_b: on secret", "kept: 2"]
    );
    let open = RotationFilter {
        open_only: true,
        ..RotationFilter::default()
    };
    assert_eq!(directory.rotations(&open, None, 10).await.unwrap().len(), 1);
    shop.close(node).await;
}

async fn it_is_taken_back_until_the_old_one_is_gone(on_postgres: bool) {
    let shop = Shop::open(on_postgres, "alternating", IN_TIME).await;
    shop.company
        .directory
        .start_rotations(start())
        .await
        .unwrap();
    let node = shop.company.node().await;
    shop.ask(false).await.unwrap();
    shop.until(&node, Phase::Overlap).await;
    shop.jump(&node, shop.clock.now() + TimeDelta::hours(2));
    shop.until(&node, Phase::OldDisabled).await;
    let case = shop.case("rotation_alternating").await;
    let undo = Command::Undo {
        by: actor("user:ann"),
        reason: "the shop stands still".to_owned(),
    };
    shop.company.command(&case, undo).await;
    let row = shop.until(&node, Phase::RolledBack).await;
    assert_eq!((row.failures, row.turn.as_deref()), (1, Some("app_a")));
    assert_eq!((row.last_rotated_at, row.promoted_at), (None, None));
    assert_eq!(shop.world.shown("user"), "app_a");
    assert_eq!(
        shop.world.told(),
        ["app_a: on secret", "app_b: off none", "kept: 1"]
    );
    shop.close(node).await;
}

async fn a_login_that_is_refused_ends_it_before_anybody_reads_the_new_one(on_postgres: bool) {
    let shop = Shop::open(on_postgres, "alternating", IN_TIME).await;
    shop.company
        .directory
        .start_rotations(start())
        .await
        .unwrap();
    shop.world.refuse(OperationName::IssueCredential, 1);
    let node = shop.company.node().await;
    shop.ask(false).await.unwrap();
    shop.until(&node, Phase::RolledBack).await;
    assert_eq!(
        shop.world.told(),
        ["app_a: on secret", "app_b: off none", "kept: 1"]
    );
    assert!(
        !shop
            .world
            .effects()
            .iter()
            .any(|one| one.starts_with("show"))
    );
    // It is tried again, and not at once.
    shop.company
        .directory
        .start_rotations(shop.clock.now())
        .await
        .unwrap();
    shop.close(node).await;
}

async fn what_strangers_know_ends_at_once_whatever_is_under_way(on_postgres: bool) {
    let shop = Shop::open(on_postgres, "alternating", IN_TIME).await;
    shop.company
        .directory
        .start_rotations(start())
        .await
        .unwrap();
    let node = shop.company.node().await;
    shop.ask(false).await.unwrap();
    shop.until(&node, Phase::Overlap).await;
    shop.world.login("app_b", |login| login.sessions = 3);
    // What is shown now is what strangers know.
    shop.ask(true).await.unwrap();
    let refused = shop.ask(false).await.unwrap_err();
    assert!(matches!(refused, NotBegun::UnderWay { .. }), "{refused}");
    // It is said once; again it begins nothing beside it.
    assert_eq!(shop.say(Some(Exposed::Old)).await, Ok(false));
    let row = shop.until(&node, Phase::Closed).await;
    assert_eq!(row.exposed_at, None);
    assert_eq!(row.turn.as_deref(), Some("app_a"));
    assert_eq!(
        shop.world.told(),
        ["app_a: on secret", "app_b: off none", "kept: 1"]
    );
    let shown = shop.company.shown().await;
    assert!(
        shown.iter().any(|line| line
            .ends_with("rotation_alternating_at_once credential:db/password:app succeeded")),
        "{shown:?}"
    );
    shop.close(node).await;
}

async fn what_no_program_can_end_is_asked_of_whoever_answers_for_it(on_postgres: bool) {
    let shop = Shop::open(on_postgres, "alternating", "every: 30d").await;
    shop.company
        .directory
        .start_rotations(start())
        .await
        .unwrap();
    let node = shop.company.node().await;
    shop.world.refuse(OperationName::DestroyCredential, 1);
    shop.ask(false).await.unwrap();
    let row = shop.until(&node, Phase::Irrevocable).await;
    assert_eq!(row.answerable.as_deref(), Some("person:A1"));
    assert!(row.answer_by.unwrap() > shop.clock.now() + TimeDelta::days(6));
    assert_eq!(
        shop.world.told(),
        ["app_a: off secret", "app_b: on secret", "kept: 2"]
    );
    // They end it by hand and say so.
    shop.world.login("app_a", |login| login.password = None);
    let case = shop.case("rotation_alternating").await;
    let stored = shop
        .company
        .definitions
        .by_name("rotation_alternating")
        .unwrap();
    let step = stored.find("destroy_old").unwrap();
    let done = Command::TaskDone {
        place: Place::new(StepIndex(step.0), 0),
        by: actor("user:A1"),
        proof: "ticket 7".to_owned(),
        output: serde_json::Value::Null,
    };
    shop.company.command(&case, done).await;
    shop.until(&node, Phase::Closed).await;
    assert_eq!(
        shop.world.told(),
        ["app_a: off none", "app_b: on secret", "kept: 1"]
    );
    shop.close(node).await;
}

async fn what_is_in_the_way_is_told_and_waited_for(on_postgres: bool) {
    let shop = Shop::open(on_postgres, "alternating", "every: 30d").await;
    shop.company
        .directory
        .start_rotations(start())
        .await
        .unwrap();
    shop.world
        .login("app_b", |login| login.roles = vec!["app", "owner"]);
    let node = shop.company.node().await;
    shop.ask(false).await.unwrap();
    shop.told(
        &node,
        "`app_b` may do more than `app_a`: take `owner` from it",
    )
    .await;
    assert_eq!(shop.world.effects(), Vec::<String>::new());
    shop.world.login("app_b", |login| login.roles = vec!["app"]);
    shop.jump(&node, shop.clock.now() + TimeDelta::hours(1));
    shop.until(&node, Phase::Closed).await;
    assert_eq!(
        shop.world.told(),
        ["app_a: off none", "app_b: on secret", "kept: 1"]
    );
    shop.close(node).await;
}

async fn one_slot_is_filled_anew_and_can_be_filled_back(on_postgres: bool) {
    let shop = Shop::open(on_postgres, "single_slot", "approval: true").await;
    shop.company
        .directory
        .start_rotations(start())
        .await
        .unwrap();
    let node = shop.company.node().await;
    shop.ask(false).await.unwrap();
    shop.until(&node, Phase::Preflight).await;
    assert_eq!(shop.world.effects(), Vec::<String>::new());
    let approve = |by: &str| Command::Answer {
        place: Place::new(StepIndex(1), 0),
        by: actor(by),
        approve: true,
        note: String::new(),
    };
    shop.asked("rotation_single_slot").await;
    let case = shop.case("rotation_single_slot").await;
    shop.company.command(&case, approve("person:A1")).await;
    let row = shop.until(&node, Phase::Closed).await;
    assert_eq!(row.turn.as_deref(), Some("app"));
    assert_eq!(shop.world.told(), ["app: on secret", "kept: 1"]);
    assert_ne!(shop.world.shown("password"), "first");
    assert_eq!(
        shop.world.effects(),
        ["store", "issue app", "show app", "drop"]
    );
    shop.close(node).await;
}

async fn of_two_places_the_second_is_filled_and_the_first_freed(on_postgres: bool) {
    let shop = Shop::open(on_postgres, "two_slot", IN_TIME).await;
    let directory = &shop.company.directory;
    directory.start_rotations(start()).await.unwrap();
    // Somebody has made a second one by hand: there is no room, and that is told.
    let by_hand = world::Key {
        active: true,
        secret: "by hand".to_owned(),
        issued_by: String::new(),
    };
    shop.world.login("app", |login| {
        login.keys.insert("key-x".to_owned(), by_hand);
    });
    let node = shop.company.node().await;
    shop.ask(false).await.unwrap();
    shop.told(&node, "there is no room for another").await;
    shop.world.login("app", |login| {
        login.keys.remove("key-x");
    });
    shop.jump(&node, shop.clock.now() + TimeDelta::hours(1));
    shop.until(&node, Phase::Overlap).await;
    assert_eq!(shop.world.told(), ["app: 2 of 2 keys", "kept: 2"]);
    let (id, env) = (shop.world.shown("id"), shop.world.shown("env"));
    assert_ne!(id, "key-0");
    assert_eq!(
        env,
        format!("PGUSER=app\nPGPASSWORD={}\n", shop.world.shown("password"))
    );
    shop.jump(&node, shop.clock.now() + TimeDelta::hours(2));
    shop.until(&node, Phase::OldDisabled).await;
    assert_eq!(shop.world.told(), ["app: 1 of 2 keys", "kept: 2"]);
    // It is missed, and put back.
    let case = shop.case("rotation_two_slot").await;
    let undo = Command::Undo {
        by: actor("user:ann"),
        reason: "a job at night has the old one".to_owned(),
    };
    shop.company.command(&case, undo).await;
    shop.until(&node, Phase::RolledBack).await;
    assert_eq!(shop.world.told(), ["app: 1 of 1 keys", "kept: 1"]);
    assert_eq!(shop.world.shown("id"), "key-0");
    // And once more, when strangers know it.
    shop.ask(true).await.unwrap();
    shop.until(&node, Phase::Closed).await;
    assert_eq!(shop.world.told(), ["app: 1 of 1 keys", "kept: 1"]);
    assert_ne!(shop.world.shown("id"), "key-0");
    shop.close(node).await;
}

impl Shop {
    /// Waits until something stands in a case.
    async fn told(&self, node: &NodeHandle, what: &str) {
        for _ in 0..500 {
            if self.company.failures().await.contains(what) {
                return;
            }
            node.nudge();
            // sleeps: between two looks at the case
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{}", self.company.failures().await);
    }

    async fn case(&self, workflow: &str) -> engine::store::CaseSummary {
        let subject = format!("credential:{}", self.named);
        self.company.case(workflow, &subject).await
    }

    /// Waits until somebody is asked.
    async fn asked(&self, workflow: &str) {
        for _ in 0..500 {
            if self.company.failures().await.contains(" asking ") {
                return;
            }
            // sleeps: between two looks at the case
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{workflow}: {}", self.company.failures().await);
    }
}

on_both! {
    the_turn_changes_and_the_old_one_ends_in_its_time,
    it_is_taken_back_until_the_old_one_is_gone,
    a_login_that_is_refused_ends_it_before_anybody_reads_the_new_one,
    what_strangers_know_ends_at_once_whatever_is_under_way,
    what_no_program_can_end_is_asked_of_whoever_answers_for_it,
    what_is_in_the_way_is_told_and_waited_for,
    one_slot_is_filled_anew_and_can_be_filled_back,
    of_two_places_the_second_is_filled_and_the_first_freed,
}
