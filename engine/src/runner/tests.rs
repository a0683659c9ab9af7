//! The node against a real SQLite file.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use uuid::Uuid;

use super::pending::TRANSITIONS_MAX;
use super::*;
use crate::core::case::{CaseState, Failure, FailureClass, Mode, Verification};
use crate::core::definition::{Definition, Lane};
use crate::core::id::{Actor, CaseId, Subject};
use crate::core::input::AttemptResult;
use crate::core::proof::Proof;
use crate::store::sqlite::SqliteStore;
use crate::store::{CaseFilter, MIGRATIONS, NoProjection, SHARDS_DEFAULT, Store};

/// Remembers effects by key, and fails as it is told.
#[derive(Default)]
pub(super) struct World {
    pub(super) effects: Mutex<BTreeMap<String, u32>>,
    /// Attempts in mode `read back`.
    pub(super) read_back: AtomicU32,
    losing: Mutex<BTreeSet<String>>,
}

#[async_trait]
impl Actions for World {
    fn exists(&self, _: &str) -> bool {
        true
    }
    fn fact_roots(&self) -> Vec<&'static str> {
        vec!["identity"]
    }
    async fn facts(&self, _: &Subject, _: &Value, _: &BTreeSet<String>) -> Result<Value, Failure> {
        Ok(json!({"identity": {"accounts": [{"id": "a"}, {"id": "b"}, {"id": "c"}]}}))
    }
    fn resource(&self, attempt: &Attempt) -> Option<Resource> {
        (attempt.uses != "plain").then(|| Resource {
            name: "system".into(),
            concurrency: 2,
            reserved: 1,
        })
    }
    fn at_once(&self, attempt: &Attempt) -> Option<AttemptResult> {
        (attempt.uses == "noop").then(succeeded)
    }
    async fn run(&self, attempt: &Attempt) -> AttemptResult {
        let applied = self
            .effects
            .lock()
            .unwrap()
            .contains_key(&attempt.idempotency_key);
        if matches!(attempt.mode, Mode::ReadBack | Mode::UndoReadBack) {
            self.read_back.fetch_add(1, Ordering::SeqCst);
            return if applied {
                succeeded()
            } else {
                AttemptResult::NotApplied
            };
        }
        if attempt.uses == "slow" {
            // sleeps: the effect of a system that takes its time
            tokio::time::sleep(SLOW).await;
        }
        if attempt.uses == "fail" {
            let failure = Failure {
                kind: "denied".into(),
                message: "no".into(),
                class: FailureClass::Permanent,
            };
            return AttemptResult::Failed {
                failure,
                proof: Proof::default(),
            };
        }
        *self
            .effects
            .lock()
            .unwrap()
            .entry(attempt.idempotency_key.clone())
            .or_default() += 1;
        if self.losing.lock().unwrap().remove(&attempt.step) {
            return AttemptResult::AnswerLost {
                reason: "cut".into(),
                proof: Proof::default(),
            };
        }
        succeeded()
    }
}

/// How long the action `slow` takes.
pub(super) const SLOW: Duration = Duration::from_millis(150);

fn succeeded() -> AttemptResult {
    AttemptResult::Succeeded {
        output: json!({"ok": true}),
        verification: Verification::Verified,
        proof: Proof::default(),
    }
}

pub(super) struct Bench {
    pub(super) store: Arc<SqliteStore>,
    pub(super) world: Arc<World>,
    pub(super) definitions: Arc<Definitions>,
    _folder: tempfile::TempDir,
}

impl Bench {
    pub(super) async fn new(workflows: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(
            SqliteStore::open(&folder.path().join("t.sqlite"))
                .await
                .unwrap(),
        );
        store.migrate(MIGRATIONS, SHARDS_DEFAULT).await.unwrap();
        let definitions = Arc::new(Definitions::new());
        for text in workflows {
            definitions.add(Definition::parse("w.yaml", text, &["identity"], &|_| true).unwrap());
        }
        Self {
            store,
            world: Arc::default(),
            definitions,
            _folder: folder,
        }
    }

    pub(super) async fn node(&self) -> NodeHandle {
        self.node_named("test", 3_000).await
    }

    pub(super) async fn node_named(&self, name: &str, lease_ms: u32) -> NodeHandle {
        Node::start(
            NodeConfig {
                name: name.to_owned(),
                lease_ms,
                ..NodeConfig::default()
            },
            self.store.clone(),
            self.world.clone(),
            Arc::new(NoProjection),
            self.definitions.clone(),
            Arc::new(SystemClock),
        )
        .await
        .unwrap()
    }

    pub(super) async fn start(&self, workflow: &str, subject: &str, number: u128) -> CaseId {
        self.start_with(workflow, subject, number, json!({})).await
    }

    pub(super) async fn start_in_life(
        &self,
        workflow: &str,
        subject: &str,
        number: u128,
        generation: u32,
    ) -> CaseId {
        let input = json!({});
        self.start_as(workflow, subject, number, generation, input)
            .await
    }

    async fn start_with(
        &self,
        workflow: &str,
        subject: &str,
        number: u128,
        input: Value,
    ) -> CaseId {
        self.start_as(workflow, subject, number, 0, input).await
    }

    async fn start_as(
        &self,
        workflow: &str,
        subject: &str,
        number: u128,
        generation: u32,
        input: Value,
    ) -> CaseId {
        let case = CaseId(Uuid::from_u128(number));
        let subject = Subject(subject.into());
        let shard = subject.shard(SHARDS_DEFAULT);
        let message = Message::Start(StartCase {
            case,
            workflow: workflow.into(),
            subject,
            generation,
            input,
            initiator: Actor("source:test".into()),
            effective_at: None,
        });
        let row = message
            .into_row(
                shard,
                Uuid::from_u128(number),
                Lane::Normal,
                SystemClock.now(),
            )
            .unwrap();
        self.store.put_inbox(&[row]).await.unwrap();
        case
    }

    pub(super) async fn state(&self, case: CaseId) -> CaseState {
        let shard = self
            .store
            .locate(case)
            .await
            .unwrap()
            .expect("the case exists");
        self.store
            .load(shard, case)
            .await
            .unwrap()
            .unwrap()
            .state
            .state
    }

    pub(super) async fn until(&self, case: CaseId, wanted: CaseState) {
        let mut last = None;
        for _ in 0..600 {
            if self.store.locate(case).await.unwrap().is_some() {
                let state = self.state(case).await;
                if state == wanted {
                    return;
                }
                last = Some(state);
            }
            // sleeps: between two looks at the database
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("case is {last:?}, not {wanted:?}");
    }
}

pub(super) const MIXED: &str = r"
name: mixed
on_failure: forward
steps:
  - {id: first, uses: noop}
  - {id: plain, uses: plain}
  - {id: each, uses: apply, for_each: identity.accounts, with: {id: '${{ item.id }}'}}
  - {id: last, uses: noop, if: steps.each.all_verified}
";

#[tokio::test(flavor = "multi_thread")]
async fn a_case_runs_to_its_verified_end_and_leaves_its_evidence() {
    let bench = Bench::new(&[MIXED]).await;
    let node = bench.node().await;
    let case = bench.start("mixed", "ada", 1).await;
    node.nudge();
    bench.until(case, CaseState::Succeeded).await;
    let shard = bench.store.locate(case).await.unwrap().unwrap();
    let history = bench.store.history(shard, case).await.unwrap();
    let evidence = bench.store.evidence(shard, case).await.unwrap();
    assert_eq!(history.len(), evidence.len());
    assert_eq!(bench.world.effects.lock().unwrap().len(), 4);
    node.drain(Duration::from_secs(5)).await.unwrap();
    assert!(
        bench
            .store
            .shards()
            .await
            .unwrap()
            .iter()
            .all(|row| row.owner.is_none())
    );
}

/// The soonest fires first, not that of the lowest shard.
#[tokio::test(flavor = "multi_thread")]
async fn a_timer_waits_for_none_that_is_due_later() {
    let bench = Bench::new(&[
        "name: late\nsteps:\n  - {id: a, uses: noop, after: 1h}\n",
        "name: soon\nsteps:\n  - {id: a, uses: noop, after: 300ms}\n",
    ])
    .await;
    let mut subjects: Vec<String> = (0..40).map(|number| format!("s{number}")).collect();
    subjects.sort_by_key(|subject| Subject(subject.clone()).shard(SHARDS_DEFAULT));
    let node = bench.node().await;
    let last = subjects.pop().unwrap();
    for (number, subject) in (1..).zip(&subjects) {
        bench.start("late", subject, number).await;
    }
    let soon = bench.start("soon", &last, 1_000).await;
    node.nudge();
    bench.until(soon, CaseState::Succeeded).await;
    node.drain(Duration::from_secs(5)).await.unwrap();
}

/// A fan-out wider than a batch goes on in the next ones.
#[tokio::test(flavor = "multi_thread")]
async fn steps_that_ask_nobody_are_written_together_as_far_as_a_batch_has_room() {
    const MANY: usize = TRANSITIONS_MAX + 500;
    let bench = Bench::new(&[
        "name: plain\nsteps:\n  - {id: a, uses: noop}\n  - {id: b, uses: noop}\n  - {id: c, uses: noop}\n",
        "name: wide\nsteps:\n  - {id: each, uses: noop, for_each: input.items}\n",
    ])
    .await;
    let node = bench.node().await;
    node.idle().await;
    let case = bench.start("plain", "ada", 1).await;
    node.nudge();
    bench.until(case, CaseState::Succeeded).await;
    assert_eq!((node.status().batches, node.status().transitions), (1, 4));
    let items: Vec<usize> = (0..MANY).collect();
    let input = json!({"items": items});
    let case = bench.start_with("wide", "grace", 2, input).await;
    node.nudge();
    bench.until(case, CaseState::Succeeded).await;
    assert_eq!(node.status().batches, 3);
    let shard = bench.store.locate(case).await.unwrap().unwrap();
    let history = bench.store.history(shard, case).await.unwrap();
    assert_eq!(history.len(), MANY + 1);
    node.drain(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_read_back_and_not_repeated() {
    let bench = Bench::new(&[MIXED]).await;
    bench.world.losing.lock().unwrap().insert("plain".into());
    let node = bench.node().await;
    let case = bench.start("mixed", "ada", 1).await;
    node.nudge();
    bench.until(case, CaseState::Succeeded).await;
    assert!(
        bench
            .world
            .effects
            .lock()
            .unwrap()
            .values()
            .all(|count| *count == 1)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_ended_hard_is_taken_over_and_nothing_is_done_twice() {
    let bench = Bench::new(&[MIXED]).await;
    for round in 0..6_u128 {
        let node = bench.node().await;
        for number in 0..30 {
            bench
                .start(
                    "mixed",
                    &format!("p{number}-{round}"),
                    1_000 * (round + 1) + number,
                )
                .await;
        }
        node.nudge();
        // sleeps: the moment of the crash is the point of the test
        tokio::time::sleep(Duration::from_millis(10 * u64::try_from(round).unwrap())).await;
        drop(node);
    }
    let node = bench.node().await;
    assert!(node.idle().await);
    for round in 0..6_u128 {
        for number in 0..30 {
            bench
                .until(
                    CaseId(Uuid::from_u128(1_000 * (round + 1) + number)),
                    CaseState::Succeeded,
                )
                .await;
        }
    }
    let effects = bench.world.effects.lock().unwrap();
    assert_eq!(effects.len(), 6 * 30 * 4);
    assert!(effects.values().all(|count| *count == 1), "{effects:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn cases_of_one_subject_run_one_after_another_and_a_leaver_preempts() {
    let slow = "name: slow\nsteps:\n  - {id: w, uses: wait_for, with: {signal: go, timeout: 1h}}\n  - {id: a, uses: plain}\n";
    let leave =
        "name: leave\nlane: revocation\npreempts: [slow]\nsteps:\n  - {id: a, uses: plain}\n";
    let bench = Bench::new(&[slow, leave]).await;
    let node = bench.node().await;
    let first = bench.start("slow", "ada", 1).await;
    node.nudge();
    bench.until(first, CaseState::Running).await;
    let second = bench.start("slow", "ada", 2).await;
    node.nudge();
    bench.until(second, CaseState::Queued).await;
    let leaver = bench.start("leave", "ada", 3).await;
    node.nudge();
    bench.until(leaver, CaseState::Succeeded).await;
    bench.until(first, CaseState::Preempted).await;
    bench.until(second, CaseState::Preempted).await;
    let open = bench
        .store
        .list(
            &CaseFilter {
                open_only: true,
                ..CaseFilter::default()
            },
            None,
            10,
        )
        .await
        .unwrap();
    assert!(open.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_joiner_takes_back_what_it_did() {
    let text = "name: j\non_failure: undo\nsteps:\n  - {id: a, uses: plain, undo: {uses: plain}}\n  - {id: b, uses: fail}\n";
    let bench = Bench::new(&[text]).await;
    let node = bench.node().await;
    let case = bench.start("j", "ada", 1).await;
    node.nudge();
    bench.until(case, CaseState::Undone).await;
    assert!(
        bench
            .world
            .effects
            .lock()
            .unwrap()
            .keys()
            .any(|key| key.ends_with("/undo"))
    );
}
