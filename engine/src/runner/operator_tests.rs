//! What people do to cases, through a node on a real SQLite file.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use super::tests::Bench;
use super::*;
use crate::core::case::CaseState;
use crate::core::definition::{Definition, Lane};
use crate::core::id::{Actor, CaseId, StepIndex};
use crate::store::{InboxRow, ReplyRow, Store, StoreError, Transaction, Work};

const WAITS: &str = "name: waits\nsteps:\n  - {id: w, uses: wait_for, with: {signal: go, timeout: 1h}}\n  - {id: a, uses: plain}\n";
const DELAYED: &str = "name: delayed\non_failure: forward\nsteps:\n  - {id: a, uses: plain}\n  - {id: b, uses: plain, after: 1s}\n";

fn by() -> Actor {
    Actor("user:op".into())
}

fn because() -> String {
    "because".to_owned()
}

impl Bench {
    /// Sends a command and waits for what became of it.
    async fn command(&self, node: &NodeHandle, case: CaseId, command: Command) -> ReplyRow {
        let shard = self.store.locate(case).await.unwrap().unwrap();
        let id = Uuid::new_v4();
        let row = Message::Command {
            case,
            definition: None,
            command,
        }
        .into_row(shard, id, Lane::Normal, SystemClock.now())
        .unwrap();
        self.store.put_inbox(&[row]).await.unwrap();
        node.nudge();
        for _ in 0..600 {
            if let Some(reply) = self.store.reply(shard, id).await.unwrap() {
                return reply;
            }
            // sleeps: between two looks at the database
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("no answer");
    }

    async fn execute(&self, sql: &'static str) {
        self.store.write(&Execute(sql)).await.unwrap();
    }
}

struct Execute(&'static str);

#[async_trait]
impl Work for Execute {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        if let Transaction::Sqlite(connection) = transaction {
            sqlx::raw_sql(self.0)
                .execute(&mut **connection)
                .await
                .unwrap();
        }
        Ok(Vec::new())
    }
}

/// Chooses the case that the tests make first.
macro_rules! first {
    () => {
        "WHERE case_number = (SELECT case_number FROM case_head
          WHERE case_id = x'00000000000000000000000000000001')"
    };
}

fn terminate() -> Command {
    Command::Terminate {
        by: by(),
        reason: because(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_case_that_cannot_be_read_stops_no_other_and_is_ended_by_force() {
    let damages = [
        concat!("UPDATE case_step SET body = 'nonsense' ", first!()),
        concat!(
            "UPDATE case_state SET state = 'of another program' ",
            first!()
        ),
        "UPDATE workflow_definition SET source = '{'",
    ];
    for damage in damages {
        let mut bench = Bench::new(&[WAITS]).await;
        let node = bench.node().await;
        let broken = bench.start("waits", "ada", 1).await;
        node.nudge();
        bench.until(broken, CaseState::Running).await;
        let queued = bench.start("waits", "ada", 2).await;
        node.nudge();
        bench.until(queued, CaseState::Queued).await;
        node.drain(Duration::from_secs(5)).await.unwrap();
        bench.execute(damage).await;
        let definitions = Arc::new(Definitions::new());
        let newer = format!("{WAITS}  - {{id: more, uses: plain}}\n");
        definitions.add(Definition::parse("w.yaml", &newer, &[], &|_| true).unwrap());
        bench.definitions = definitions;
        let node = bench.node().await;
        let other = bench.start("waits", "grace", 3).await;
        node.nudge();
        bench.until(other, CaseState::Running).await;
        let refused = bench
            .command(
                &node,
                broken,
                Command::Cancel {
                    by: by(),
                    reason: because(),
                },
            )
            .await;
        assert!(!refused.accepted && refused.message.contains("cannot be read"));
        let ended = bench.command(&node, broken, terminate()).await;
        assert!(ended.accepted, "{damage}: {}", ended.message);
        let shard = bench.store.locate(broken).await.unwrap().unwrap();
        let bones = bench.store.bones(shard, broken).await.unwrap().unwrap();
        assert!(bones.closed);
        let history = bench.store.history(shard, broken).await.unwrap();
        let evidence = bench.store.evidence(shard, broken).await.unwrap();
        assert_eq!(history.len(), evidence.len());
        assert_eq!(history.last().unwrap().by, "user:op");
        // Its subject is free: what waited behind it starts, unless it is as unreadable.
        if !damage.contains("workflow_definition") {
            bench.until(queued, CaseState::Running).await;
        }
        let again = bench.command(&node, broken, terminate()).await;
        assert!(!again.accepted);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_case_stays_paused_over_a_crash_and_acts_at_resume() {
    let bench = Bench::new(&[DELAYED]).await;
    let node = bench.node().await;
    let case = bench.start("delayed", "ada", 1).await;
    node.nudge();
    bench.until(case, CaseState::Running).await;
    let pause = Command::Pause {
        by: by(),
        reason: because(),
    };
    assert!(bench.command(&node, case, pause.clone()).await.accepted);
    assert!(!bench.command(&node, case, pause).await.accepted);
    drop(node);
    let node = bench.node().await;
    // sleeps: the timer of the second step would have come due
    tokio::time::sleep(Duration::from_millis(1_300)).await;
    assert!(node.idle().await);
    assert_eq!(bench.state(case).await, CaseState::Running);
    let shard = bench.store.locate(case).await.unwrap().unwrap();
    let stored = bench.store.load(shard, case).await.unwrap().unwrap();
    assert_eq!(stored.state.paused.unwrap().by, by());
    let resume = Command::Resume {
        by: by(),
        reason: because(),
    };
    assert!(bench.command(&node, case, resume).await.accepted);
    bench.until(case, CaseState::Succeeded).await;
    let stored = bench.store.load(shard, case).await.unwrap().unwrap();
    assert_eq!(stored.state.paused, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_case_in_the_queue_starts_when_it_is_resumed() {
    let bench = Bench::new(&[WAITS, DELAYED]).await;
    let node = bench.node().await;
    let first = bench.start("waits", "ada", 1).await;
    node.nudge();
    bench.until(first, CaseState::Running).await;
    let second = bench.start("delayed", "ada", 2).await;
    node.nudge();
    bench.until(second, CaseState::Queued).await;
    let pause = Command::Pause {
        by: by(),
        reason: because(),
    };
    assert!(bench.command(&node, second, pause).await.accepted);
    assert!(bench.command(&node, first, terminate()).await.accepted);
    // Somebody who comes later goes first.
    let third = bench.start("delayed", "ada", 3).await;
    node.nudge();
    bench.until(third, CaseState::Succeeded).await;
    assert_eq!(bench.state(second).await, CaseState::Queued);
    let resume = Command::Resume {
        by: by(),
        reason: because(),
    };
    assert!(bench.command(&node, second, resume).await.accepted);
    bench.until(second, CaseState::Succeeded).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_runs_again_makes_its_effects_again_also_after_a_crash() {
    let text = "name: again\nsteps:\n  - {id: each, uses: apply, for_each: identity.accounts}\n  - {id: plain, uses: plain}\n  - {id: w, uses: wait_for, with: {signal: go, timeout: 1h}}\n";
    let bench = Bench::new(&[text]).await;
    let mut node = bench.node().await;
    let case = bench.start("again", "ada", 1).await;
    node.nudge();
    bench.until(case, CaseState::Running).await;
    assert!(node.idle().await);
    for round in 1..=3_usize {
        let effects = bench.world.effects.lock().unwrap().len();
        assert_eq!(
            effects,
            4 * round,
            "three accounts and one plain step a run"
        );
        let rerun = Command::Rerun {
            step: StepIndex(0),
            by: by(),
            reason: because(),
        };
        let reply = bench.command(&node, case, rerun).await;
        assert!(reply.accepted, "{}", reply.message);
        if round == 2 {
            drop(node);
            node = bench.node().await;
        }
        assert!(node.idle().await);
    }
    let go = Command::Signal {
        name: "go".into(),
        by: by(),
        payload: serde_json::Value::Null,
    };
    assert!(bench.command(&node, case, go).await.accepted);
    bench.until(case, CaseState::Succeeded).await;
    let effects = bench.world.effects.lock().unwrap();
    assert!(effects.values().all(|count| *count == 1), "{effects:?}");
}
