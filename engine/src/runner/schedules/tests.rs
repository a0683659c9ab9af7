//! The clock of schedules on a clock that is moved by hand, and on two nodes of which one is ended.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use sqlx::Connection as _;
use uuid::Uuid;

use super::*;
use crate::core::case::{CaseState, Failure, Verification};
use crate::core::definition::{Definition, Lane};
use crate::core::id::{Actor, Subject};
use crate::core::input::AttemptResult;
use crate::core::proof::Proof;
use crate::core::schedule::{Origin, Outcome, Overlap, Spec};
use crate::runner::{
    Actions, Attempt, Clock, Message, Node, NodeConfig, NodeHandle, Resource, SystemClock,
    SystemHost,
};
use crate::store::postgres::{PostgresOptions, PostgresStore};
use crate::store::sqlite::SqliteStore;
use crate::store::{
    Acquire, CaseFilter, CaseSummary, MIGRATIONS, NoProjection, SHARDS_DEFAULT, ScheduleRunRow,
};

/// A clock that stands still until it is moved.
struct HandClock(Mutex<Timestamp>);

impl HandClock {
    fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(s(0))))
    }
    fn set(&self, to: Timestamp) {
        *self.0.lock().unwrap() = to;
    }
}

impl Clock for HandClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }
}

/// Does everything at once.
struct Quiet;

#[async_trait]
impl Actions for Quiet {
    fn exists(&self, _: &str) -> bool {
        true
    }
    fn fact_roots(&self) -> Vec<&'static str> {
        Vec::new()
    }
    async fn facts(&self, _: &Subject, _: &Value, _: &BTreeSet<String>) -> Result<Value, Failure> {
        Ok(json!({}))
    }
    fn resource(&self, _: &Attempt) -> Option<Resource> {
        None
    }
    async fn run(&self, _: &Attempt) -> AttemptResult {
        AttemptResult::Succeeded {
            output: Value::Null,
            verification: Verification::NotNeeded,
            proof: Proof::default(),
        }
    }
}

/// Ends by itself.
const SHORT: &str = "name: short\nsteps:\n  - {id: a, uses: anything}\n";
/// Ends when it is told to.
const LONG: &str =
    "name: long\nsteps:\n  - {id: w, uses: wait_for, with: {signal: go, timeout: 100d}}\n";

/// Seconds after the beginning of 2026.
fn s(seconds: i64) -> Timestamp {
    "2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap() + TimeDelta::seconds(seconds)
}

fn person() -> Actor {
    Actor("cli:ada".into())
}

fn spec(workflow: &str, cron: &str, overlap: Overlap) -> Spec {
    Spec {
        name: "s".into(),
        workflow: workflow.into(),
        cron: cron.into(),
        zone: "UTC".into(),
        subject: Subject("company".into()),
        input: json!({"scope": "all"}),
        jitter: crate::core::duration::Span::from_ms(0),
        overlap,
        catch_up: crate::core::duration::Span::from_s(60),
        paused: false,
        description: String::new(),
    }
}

fn put(spec: Spec) -> ScheduleCommand {
    ScheduleCommand::Put {
        spec,
        origin: Origin::Person,
        by: person(),
        reason: String::new(),
    }
}

async fn send(store: &dyn Store, command: ScheduleCommand, now: Timestamp) -> (ShardId, Uuid) {
    let (shard, id) = (schedule::shard("s", SHARDS_DEFAULT), Uuid::new_v4());
    let message = Message::Schedule {
        name: "s".into(),
        command,
    };
    let row = message.into_row(shard, id, Lane::Normal, now).unwrap();
    store.put_inbox(&[row]).await.unwrap();
    (shard, id)
}

async fn runs(store: &dyn Store) -> Vec<ScheduleRunRow> {
    let shard = schedule::shard("s", SHARDS_DEFAULT);
    let mut runs = store
        .schedules()
        .runs(shard, "s", None, None, 1_000)
        .await
        .unwrap();
    runs.reverse();
    runs
}

async fn cases(store: &dyn Store) -> Vec<CaseSummary> {
    let mut cases = store
        .list(&CaseFilter::default(), None, 1_000)
        .await
        .unwrap();
    cases.sort_by_key(|case| case.head.effective_at);
    cases
}

async fn sqlite(folder: &tempfile::TempDir) -> Arc<dyn Store> {
    let store = SqliteStore::open(&folder.path().join("t.sqlite"))
        .await
        .unwrap();
    store.migrate(MIGRATIONS, SHARDS_DEFAULT).await.unwrap();
    Arc::new(store)
}

/// A node on a clock that is moved by hand.
struct Bench {
    store: Arc<dyn Store>,
    clock: Arc<HandClock>,
    node: Option<NodeHandle>,
    _folder: tempfile::TempDir,
}

async fn node(store: &Arc<dyn Store>, clock: Arc<dyn Clock>, lease_ms: u32) -> NodeHandle {
    let definitions = Arc::new(Definitions::new());
    for text in [SHORT, LONG] {
        definitions.add(Definition::parse("w.yaml", text, &[], &|_| true).unwrap());
    }
    let config = NodeConfig {
        name: "test".into(),
        lease_ms,
        ..NodeConfig::default()
    };
    Node::start(
        config,
        Arc::clone(store),
        Arc::new(Quiet),
        Arc::new(NoProjection),
        definitions,
        clock,
    )
    .await
    .unwrap()
}

impl Bench {
    async fn new(spec: Spec) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut bench = Self {
            store: sqlite(&folder).await,
            clock: HandClock::new(),
            node: None,
            _folder: folder,
        };
        bench.start().await;
        bench.command(put(spec)).await.unwrap();
        bench
    }

    async fn start(&mut self) {
        let clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
        self.node = Some(node(&self.store, clock, 60_000).await);
        self.settle().await;
    }

    /// As a crash would end it.
    fn kill(&mut self) {
        self.node = None;
    }

    /// Twice: the first word may be about what was before the clock or the inbox changed.
    async fn settle(&self) {
        let node = self.node.as_ref().unwrap();
        assert!(node.idle().await && node.idle().await);
    }

    async fn command(&self, command: ScheduleCommand) -> Result<String, String> {
        let (shard, id) = send(&*self.store, command, self.clock.now()).await;
        self.settle().await;
        let reply = self.store.reply(shard, id).await.unwrap().unwrap();
        if reply.accepted {
            Ok(reply.message)
        } else {
            Err(reply.message)
        }
    }

    /// Moves the clock, second by second, and lets the node do what there is to do.
    async fn until(&self, from: i64, to: i64) {
        for second in from..=to {
            self.clock.set(s(second));
            self.settle().await;
        }
    }

    /// The fire times in seconds and what became of them.
    async fn told(&self) -> Vec<String> {
        let runs = runs(&*self.store).await;
        let told = |row: &ScheduleRunRow| {
            let second = (row.run.key.fire_at - s(0)).num_seconds();
            format!("{second} {}", row.run.outcome.as_str())
        };
        runs.iter().map(told).collect()
    }

    /// Ends the oldest open case, and waits until the schedule has seen it.
    async fn end_oldest(&self) {
        let cases = cases(&*self.store).await;
        let open = |case: &&CaseSummary| case.state.state == CaseState::Running;
        let head = &cases.iter().find(open).unwrap().head;
        let command = crate::runner::Command::Signal {
            name: "go".into(),
            by: person(),
            payload: Value::Null,
        };
        let message = Message::Command {
            case: head.case,
            definition: None,
            command,
        };
        let row = message.into_row(head.shard, Uuid::new_v4(), Lane::Normal, self.clock.now());
        self.store.put_inbox(&[row.unwrap()]).await.unwrap();
        self.settle().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_case_starts_at_its_fire_time_and_not_before() {
    let bench = Bench::new(spec("short", "*/10 * * * * *", Overlap::Skip)).await;
    bench.until(1, 9).await;
    bench.clock.set(s(10) - TimeDelta::microseconds(1));
    bench.settle().await;
    assert!(cases(&*bench.store).await.is_empty());
    bench.until(10, 25).await;
    let cases = cases(&*bench.store).await;
    assert_eq!(cases.len(), 2);
    let case = &cases[0];
    assert_eq!(case.state.state, CaseState::Succeeded);
    assert_eq!(case.head.created_at, s(10));
    assert_eq!(case.head.effective_at, Some(s(10)));
    assert_eq!(case.head.initiator, Actor("schedule:s".into()));
    assert_eq!(
        case.head.input,
        json!({
            "scope": "all",
            "schedule": {"name": "s", "fire_at": "2026-01-01T00:00:10Z", "zone": "UTC", "cause": "clock"},
        })
    );
    assert_eq!(bench.told().await, ["10 started", "20 started"]);
    let rows = bench.store.schedules().of_shards(None).await.unwrap();
    assert_eq!(
        (rows[0].next_due_at, rows[0].state.last),
        (Some(s(30)), Some((s(20), Outcome::Started)))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn jitter_moves_the_start_and_not_the_name() {
    let spec = Spec {
        jitter: crate::core::duration::Span::from_s(5),
        ..spec("short", "*/10 * * * * *", Overlap::Skip)
    };
    let due = Schedule::new(spec.clone()).unwrap().due(s(10));
    assert!(due > s(10), "this fire time has a jitter");
    let bench = Bench::new(spec).await;
    bench.clock.set(due - TimeDelta::milliseconds(1));
    bench.settle().await;
    assert!(bench.told().await.is_empty());
    bench.clock.set(due);
    bench.settle().await;
    assert_eq!(bench.told().await, ["10 started"]);
    assert_eq!(cases(&*bench.store).await[0].head.created_at, due);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_starts_as_soon_as_the_open_case_has_ended() {
    let bench = Bench::new(spec("long", "*/10 * * * * *", Overlap::QueueAll)).await;
    bench.until(1, 30).await;
    assert_eq!(bench.told().await, ["10 started", "20 queued", "30 queued"]);
    // The clock stands: what wakes the schedule is the end of the case.
    bench.end_oldest().await;
    assert_eq!(
        bench.told().await,
        ["10 started", "20 started", "30 queued"]
    );
    bench.end_oldest().await;
    assert_eq!(
        bench.told().await,
        ["10 started", "20 started", "30 started"]
    );
    let states: Vec<_> = cases(&*bench.store)
        .await
        .iter()
        .map(|case| case.state.state)
        .collect();
    assert_eq!(
        states,
        [
            CaseState::Succeeded,
            CaseState::Succeeded,
            CaseState::Running
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_case_is_left_alone_or_replaced_as_the_policy_says() {
    let bench = Bench::new(spec("long", "*/10 * * * * *", Overlap::Skip)).await;
    bench.until(1, 20).await;
    assert_eq!(bench.told().await, ["10 started", "20 skipped_overlap"]);
    let case = cases(&*bench.store).await[0].head.case;
    let reason = runs(&*bench.store).await[1].run.reason.clone();
    assert_eq!(reason, format!("case {case} was still open"));

    for overlap in [Overlap::CancelRunning, Overlap::TerminateRunning] {
        let bench = Bench::new(spec("long", "*/10 * * * * *", overlap)).await;
        bench.until(1, 30).await;
        assert_eq!(
            bench.told().await,
            ["10 started", "20 started", "30 started"]
        );
        let states: Vec<_> = cases(&*bench.store)
            .await
            .iter()
            .map(|case| case.state.state)
            .collect();
        assert_eq!(
            states,
            [
                CaseState::Cancelled,
                CaseState::Cancelled,
                CaseState::Running
            ]
        );
        let first = &cases(&*bench.store).await[0].head;
        let history = bench.store.history(first.shard, first.case).await.unwrap();
        let verb = match overlap {
            Overlap::TerminateRunning => "terminate",
            _ => "cancel",
        };
        let ended = |row: &crate::store::HistoryRow| row.by == "schedule:s" && row.input == verb;
        assert!(history.iter().any(ended), "{history:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_crash_it_goes_on_where_it_was() {
    let mut bench = Bench::new(spec("short", "*/10 * * * * *", Overlap::Allow)).await;
    bench.until(1, 15).await;
    bench.kill();
    bench.clock.set(s(105));
    bench.start().await;
    // A minute is made up for; what is older is missed.
    let expected = [
        "10 started",
        "20 missed",
        "30 missed",
        "40 missed",
        "50 started",
        "60 started",
        "70 started",
        "80 started",
        "90 started",
        "100 started",
    ];
    assert_eq!(bench.told().await, expected);
    assert_eq!(cases(&*bench.store).await.len(), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn people_pause_run_and_backfill_and_it_stays_in_the_history() {
    let bench = Bench::new(spec("short", "*/10 * * * * *", Overlap::Skip)).await;
    let reason = || "audit".to_owned();
    bench
        .command(ScheduleCommand::Pause {
            by: person(),
            reason: reason(),
        })
        .await
        .unwrap();
    bench.until(1, 25).await;
    assert!(bench.told().await.is_empty());
    let remark = bench
        .command(ScheduleCommand::Run {
            by: person(),
            reason: reason(),
        })
        .await
        .unwrap();
    let by_hand = cases(&*bench.store).await;
    assert_eq!(remark, format!("case {}", by_hand[0].head.case));
    assert_eq!(by_hand[0].head.initiator, person());
    assert_eq!(by_hand[0].head.input["schedule"]["reason"], "audit");
    bench
        .command(ScheduleCommand::Resume {
            by: person(),
            reason: reason(),
        })
        .await
        .unwrap();
    let backfill = |from, to| ScheduleCommand::Backfill {
        from: s(from),
        to: s(to),
        by: person(),
        reason: reason(),
    };
    assert_eq!(bench.command(backfill(0, 20)).await.unwrap(), "3 runs");
    bench.until(26, 31).await;
    assert_eq!(
        bench.told().await,
        [
            "0 started",
            "10 started",
            "20 started",
            "25 started",
            "30 started"
        ]
    );
    let refused = bench.command(backfill(0, 30)).await.unwrap_err();
    assert_eq!(
        refused,
        "the period has no fire time that has not run already"
    );
    assert_eq!(
        bench.command(backfill(-10, 30)).await.unwrap(),
        "1 runs; 4 had run already"
    );
    let shard = schedule::shard("s", SHARDS_DEFAULT);
    let changes = bench
        .store
        .schedules()
        .changes(shard, "s", 10)
        .await
        .unwrap();
    let told: Vec<String> = changes
        .iter()
        .rev()
        .map(|row| {
            format!(
                "{} {} {}",
                row.change.operation.as_str(),
                row.change.by.0,
                row.change.reason
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            "create cli:ada ",
            "pause cli:ada audit",
            "run cli:ada audit",
            "resume cli:ada audit",
            "backfill cli:ada audit",
            "backfill cli:ada audit",
        ]
    );
    assert!(
        changes
            .iter()
            .all(|row| serde_json::from_slice::<Value>(&row.leaf).is_ok())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_case_that_cannot_be_made_is_told() {
    let bench = Bench::new(spec("nowhere", "*/10 * * * * *", Overlap::Skip)).await;
    bench.until(1, 20).await;
    let runs = runs(&*bench.store).await;
    assert_eq!(runs[0].run.outcome, Outcome::Refused);
    assert_eq!(runs[0].run.reason, "there is no workflow `nowhere`");
    assert_eq!(
        runs[1].run.outcome,
        Outcome::Started,
        "it is not in the way of the next"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_command_is_refused_and_taken_out() {
    let bench = Bench::new(spec("short", "@daily", Overlap::Skip)).await;
    let wrong = Spec {
        zone: "Mars/Olympus".into(),
        ..spec("short", "@daily", Overlap::Skip)
    };
    let told = bench.command(put(wrong)).await.unwrap_err();
    assert!(
        told.contains("`Mars/Olympus` is no IANA time zone"),
        "{told}"
    );
    let other = Spec {
        name: "other".into(),
        ..spec("short", "@daily", Overlap::Skip)
    };
    assert_eq!(
        bench.command(put(other)).await.unwrap_err(),
        "the schedule is called `other`"
    );
    let shards: Vec<ShardId> = (0..i32::try_from(SHARDS_DEFAULT).unwrap())
        .map(ShardId)
        .collect();
    assert!(bench.store.inbox(&shards, 10).await.unwrap().is_empty());
}

async fn acquire(store: &dyn Store, node: &str, replaces: &[String]) -> Vec<ShardLease> {
    let wanted = Acquire {
        node,
        lease_ms: 60_000,
        replaces,
        holding: &[],
        shards_max: SHARDS_DEFAULT,
    };
    store.acquire(&wanted).await.unwrap()
}

/// Two lives of the clock side by side, without lanes: the one that lost the shard writes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_lost_the_shard_fires_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = sqlite(&folder).await;
    let definitions = Definitions::new();
    let old = acquire(&*store, "old", &[]).await;
    let mut first = Schedules::new(SHARDS_DEFAULT);
    first.gain(&*store, &old, s(0)).await.unwrap();
    send(
        &*store,
        put(spec("short", "*/10 * * * * *", Overlap::Allow)),
        s(0),
    )
    .await;
    let shards: Vec<ShardId> = old.iter().map(|lease| lease.shard).collect();
    let row = store.inbox(&shards, 1).await.unwrap().remove(0);
    let Message::Schedule { name, command } = serde_json::from_str(&row.body).unwrap() else {
        panic!("another message");
    };
    first.take(row, name, command);
    assert!(
        !first
            .work(&*store, &definitions, &SystemHost, s(0))
            .await
            .unwrap()
    );
    assert_eq!(first.wake_at(), Some(s(10)));
    // Nothing is due before.
    assert!(!first.due(s(10) - TimeDelta::microseconds(1)) && first.due(s(10)));

    let new = acquire(&*store, "new", &["old".into()]).await;
    let mut second = Schedules::new(SHARDS_DEFAULT);
    second.gain(&*store, &new, s(5)).await.unwrap();
    let error = first
        .work(&*store, &definitions, &SystemHost, s(10))
        .await
        .unwrap_err();
    assert!(matches!(error, StoreError::Fenced { .. }), "{error:?}");
    assert!(runs(&*store).await.is_empty() && store.inbox(&shards, 9).await.unwrap().is_empty());
    assert!(
        second
            .work(&*store, &definitions, &SystemHost, s(10))
            .await
            .unwrap()
    );
    assert_eq!(store.inbox(&shards, 9).await.unwrap().len(), 1);

    // One that holds the shard and works on an old state is refused as well.
    let mut third = Schedules::new(SHARDS_DEFAULT);
    third.gain(&*store, &new, s(10)).await.unwrap();
    assert!(
        second
            .work(&*store, &definitions, &SystemHost, s(20))
            .await
            .unwrap()
    );
    let error = third
        .work(&*store, &definitions, &SystemHost, s(20))
        .await
        .unwrap_err();
    assert!(
        matches!(error, StoreError::StaleSchedule { .. }),
        "{error:?}"
    );
    assert_eq!(runs(&*store).await.len(), 2);

    second.lose(&shards.iter().copied().collect());
    assert_eq!(second.wake_at(), None);
}

/// An empty database on the server of the lab.
async fn postgres() -> (String, String) {
    let url = std::env::var("TENURE_LAB_POSTGRES_STORE_URL").unwrap_or_else(|_| {
        panic!(
            "`TENURE_LAB_POSTGRES_STORE_URL` is not set: run `tests/lab/postgres.sh start DIR`, then `. DIR/env`"
        )
    });
    let schema = format!("test_{}", Uuid::new_v4().simple());
    let mut connection = sqlx::PgConnection::connect(&url).await.unwrap();
    let create = sqlx::AssertSqlSafe(format!("CREATE SCHEMA {schema}"));
    sqlx::raw_sql(create)
        .execute(&mut connection)
        .await
        .unwrap();
    (format!("{url}?options=-csearch_path%3D{schema}"), schema)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_of_which_one_is_ended_around_fire_times_make_one_case_each() {
    const LIVES: u32 = 8;
    let (url, schema) = postgres().await;
    let connect = async || {
        let store = PostgresStore::connect(&url, PostgresOptions::default()).await;
        Arc::new(store.unwrap()) as Arc<dyn Store>
    };
    let store = connect().await;
    store.migrate(MIGRATIONS, SHARDS_DEFAULT).await.unwrap();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    send(
        &*store,
        put(spec("short", "* * * * * *", Overlap::Allow)),
        clock.now(),
    )
    .await;
    let mut nodes = vec![node(&connect().await, Arc::clone(&clock), 1_000).await];
    for life in 0..LIVES {
        nodes.push(node(&connect().await, Arc::clone(&clock), 1_000).await);
        // Just before, at and just after the second at which it fires, while the other one waits.
        let now = clock.now();
        let second = TimeDelta::milliseconds(1_000 - i64::from(now.timestamp_subsec_millis()));
        let moment =
            second + TimeDelta::seconds(1) + TimeDelta::milliseconds(i64::from(life) * 8 - 24);
        // sleeps: the moment of the crash is the point of the test
        tokio::time::sleep(moment.to_std().unwrap()).await;
        drop(nodes.remove(0));
    }
    // The last one takes over, and makes up for what came due meanwhile.
    let until = clock.now();
    let up_to = |at: Timestamp| at <= until;
    let (mut fired, mut effective) = (Vec::new(), Vec::new());
    for _ in 0..300 {
        // sleeps: the two nodes are real, and so is the time a lease takes to run out
        tokio::time::sleep(Duration::from_millis(100)).await;
        let runs = runs(&*store).await;
        assert!(runs.iter().all(|row| row.run.outcome == Outcome::Started));
        let caught_up = runs.iter().any(|row| row.run.key.fire_at > until);
        fired = runs
            .iter()
            .map(|row| row.run.key.fire_at)
            .filter(|at| up_to(*at))
            .collect();
        effective = cases(&*store)
            .await
            .iter()
            .filter_map(|case| case.head.effective_at)
            .filter(|at| up_to(*at))
            .collect();
        if caught_up && effective.len() >= fired.len() {
            break;
        }
    }
    drop(nodes);
    assert!(fired.len() > 10, "{fired:?}");
    let gapless: Vec<Timestamp> = (0..)
        .map(|second| fired[0] + TimeDelta::seconds(second))
        .take_while(|at| up_to(*at))
        .collect();
    assert_eq!(fired, gapless, "no fire time is left out");
    assert_eq!(effective, fired, "one case a fire time");
    let mut connection = sqlx::PgConnection::connect(&url).await.unwrap();
    let drop = sqlx::AssertSqlSafe(format!("DROP SCHEMA {schema} CASCADE"));
    sqlx::raw_sql(drop).execute(&mut connection).await.unwrap();
}
