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
use crate::core::id::{Actor, CaseId, StepIndex, Subject};
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

/// A case that could not be read when the next life began ends as soon as it can.
#[tokio::test(flavor = "multi_thread")]
async fn a_case_of_an_earlier_life_that_could_not_be_read_fires_never_again() {
    let mut bench = Bench::new(&[DELAYED, WAITS]).await;
    let node = bench.node().await;
    let early = bench.start_in_life("delayed", "ada", 1, 1).await;
    node.nudge();
    bench.until(early, CaseState::Running).await;
    assert!(node.idle().await);
    node.drain(Duration::from_secs(5)).await.unwrap();
    bench
        .execute("UPDATE workflow_definition SET source = '{' || source WHERE name = 'delayed'")
        .await;
    let known = std::mem::replace(&mut bench.definitions, Arc::new(Definitions::new()));
    bench
        .definitions
        .add(Definition::parse("w.yaml", WAITS, &[], &|_| true).unwrap());
    let node = bench.node().await;
    let back = bench.start_in_life("waits", "ada", 2, 2).await;
    node.nudge();
    bench.until(back, CaseState::Queued).await;
    // sleeps: the timer of the second step comes due while nobody can read it
    tokio::time::sleep(Duration::from_millis(1_300)).await;
    drop(node);
    bench.definitions = known;
    let node = bench.node().await;
    bench.until(early, CaseState::Superseded).await;
    bench.until(back, CaseState::Running).await;
    assert!(node.idle().await);
    assert_eq!(bench.world.effects.lock().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_names_no_life_means_the_one_the_subject_is_in() {
    let bench = Bench::new(&[WAITS]).await;
    let node = bench.node().await;
    let back = bench.start_in_life("waits", "ada", 1, 2).await;
    let of_no_life = bench.start("waits", "ada", 2).await;
    node.nudge();
    bench.until(back, CaseState::Running).await;
    bench.until(of_no_life, CaseState::Queued).await;
    let again = bench.start_in_life("waits", "ada", 3, 3).await;
    node.nudge();
    bench.until(again, CaseState::Running).await;
    bench.until(of_no_life, CaseState::Superseded).await;
    bench.until(back, CaseState::Superseded).await;
}

/// Whatever way the case ends that another waits for.
#[tokio::test(flavor = "multi_thread")]
async fn a_queued_case_starts_when_the_one_before_it_ends_in_whichever_way() {
    let undoes = "name: undoes\non_failure: undo\nsteps:\n  - {id: a, uses: plain, undo: {uses: plain}}\n  - {id: w, uses: wait_for, with: {signal: go, timeout: 1h}}\n  - {id: b, uses: plain}\n";
    let fails = "name: fails\nsteps:\n  - {id: w, uses: wait_for, with: {signal: go, timeout: 1h}}\n  - {id: b, uses: fail}\n";
    let bench = Bench::new(&[WAITS, undoes, fails]).await;
    let mut node = bench.node().await;
    let (by, reason) = (by(), because());
    let go = Command::Signal {
        name: "go".into(),
        by: by.clone(),
        payload: serde_json::Value::Null,
    };
    let cancel = Command::Cancel {
        by: by.clone(),
        reason: reason.clone(),
    };
    let undo = Command::Undo { by, reason };
    let ways: [(&str, &[&Command], CaseState); 5] = [
        ("waits", &[&go], CaseState::Succeeded),
        ("waits", &[&cancel], CaseState::Cancelled),
        ("waits", &[&terminate()], CaseState::Cancelled),
        ("undoes", &[&undo], CaseState::Undone),
        ("fails", &[&go, &cancel], CaseState::Cancelled),
    ];
    for (number, (workflow, commands, ends)) in (0..).zip(ways) {
        let subject = format!("p{number}");
        let first = bench.start(workflow, &subject, 10 * number + 1).await;
        node.nudge();
        bench.until(first, CaseState::Running).await;
        let waits = bench.start("waits", &subject, 10 * number + 2).await;
        node.nudge();
        bench.until(waits, CaseState::Queued).await;
        // The queue is in the database.
        drop(node);
        node = bench.node().await;
        for command in commands {
            if bench.state(first).await == CaseState::Running {
                assert!(
                    bench
                        .command(&node, first, (*command).clone())
                        .await
                        .accepted
                );
                assert!(node.idle().await);
                continue;
            }
            bench.until(first, CaseState::Parked).await;
            assert_eq!(bench.state(waits).await, CaseState::Queued);
            assert!(
                bench
                    .command(&node, first, (*command).clone())
                    .await
                    .accepted
            );
        }
        bench.until(first, ends).await;
        bench.until(waits, CaseState::Running).await;
    }
}

/// Held when its turn comes, passed by another, let go again: and all of it before it was started.
#[tokio::test(flavor = "multi_thread")]
async fn a_case_that_is_passed_over_in_its_turn_does_not_start_beside_the_other() {
    /// As many messages as the lane takes in one look.
    const LOOK: u128 = 1_000;
    let bench = Bench::new(&[WAITS]).await;
    let node = bench.node().await;
    let first = bench.start("waits", "ada", 1).await;
    node.nudge();
    bench.until(first, CaseState::Running).await;
    let second = bench.start("waits", "ada", 2).await;
    node.nudge();
    bench.until(second, CaseState::Queued).await;
    let third = CaseId(Uuid::from_u128(3));
    let shard = bench.store.locate(first).await.unwrap().unwrap();
    let command = |case, command| Message::Command {
        case,
        definition: None,
        command,
    };
    let (by, reason) = (by(), because());
    // One look ends the first, and the next finds the rest while the second is about to start.
    let nothing = command(CaseId(Uuid::from_u128(99)), terminate());
    let mut messages = vec![nothing; usize::try_from(LOOK - 1).unwrap()];
    messages.extend([
        command(first, terminate()),
        command(
            second,
            Command::Pause {
                by: by.clone(),
                reason: reason.clone(),
            },
        ),
        Message::Start(StartCase {
            case: third,
            workflow: "waits".into(),
            subject: Subject("ada".into()),
            generation: 0,
            input: serde_json::json!({}),
            initiator: by.clone(),
            effective_at: None,
        }),
        command(second, Command::Resume { by, reason }),
    ]);
    let now = SystemClock.now();
    let rows: Vec<InboxRow> = (1_000..)
        .zip(messages)
        .map(|(number, message)| {
            let id = Uuid::from_u128(number);
            message.into_row(shard, id, Lane::Normal, now).unwrap()
        })
        .collect();
    bench.store.put_inbox(&rows).await.unwrap();
    node.nudge();
    bench.until(first, CaseState::Cancelled).await;
    bench.until(third, CaseState::Running).await;
    assert!(node.idle().await);
    assert_eq!(bench.state(second).await, CaseState::Queued);
    assert!(bench.command(&node, third, terminate()).await.accepted);
    bench.until(second, CaseState::Running).await;
}

/// Waits for no more than the attempt that is out.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_preempts_waits_for_the_running_attempt_only() {
    let join = "name: join\nsteps:\n  - {id: a, uses: slow}\n  - {id: b, uses: slow}\n  - {id: c, uses: slow}\n";
    let leave = "name: leave\nlane: revocation\nconflicts: [{with: join, then: preempt}, {with: leave, then: merge}]\nsteps:\n  - {id: a, uses: plain}\n";
    let bench = Bench::new(&[join, leave]).await;
    let node = bench.node().await;
    let joiner = bench.start("join", "ada", 1).await;
    node.nudge();
    bench.until(joiner, CaseState::Running).await;
    let first = bench.start("leave", "ada", 2).await;
    let second = bench.start("leave", "ada", 3).await;
    node.nudge();
    bench.until(second, CaseState::Merged).await;
    bench.until(first, CaseState::Succeeded).await;
    assert_eq!(bench.state(joiner).await, CaseState::Preempted);
    let effects = bench.world.effects.lock().unwrap();
    assert_eq!(effects.len(), 2, "{effects:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_to_an_earlier_life_never_fires_again() {
    let bench = Bench::new(&[DELAYED, WAITS]).await;
    let node = bench.node().await;
    let early = bench.start_in_life("delayed", "ada", 1, 1).await;
    node.nudge();
    bench.until(early, CaseState::Running).await;
    let queued = bench.start_in_life("waits", "ada", 2, 1).await;
    node.nudge();
    bench.until(queued, CaseState::Queued).await;
    // They come back: another life begins, and ends whatever belongs to the one before.
    let back = bench.start_in_life("waits", "ada", 3, 2).await;
    node.nudge();
    bench.until(back, CaseState::Running).await;
    bench.until(early, CaseState::Superseded).await;
    bench.until(queued, CaseState::Superseded).await;
    let shard = bench.store.locate(early).await.unwrap().unwrap();
    let history = bench.store.history(shard, early).await.unwrap();
    assert_eq!(history.last().unwrap().input, "supersede");
    let evidence = bench.store.evidence(shard, early).await.unwrap();
    assert_eq!(history.len(), evidence.len());
    // It is known after a crash too, when nothing of that life is open any more.
    assert!(bench.command(&node, back, terminate()).await.accepted);
    drop(node);
    let node = bench.node().await;
    let late = bench.start_in_life("waits", "ada", 4, 1).await;
    node.nudge();
    bench.until(late, CaseState::Superseded).await;
    let effects = bench.world.effects.lock().unwrap().len();
    assert_eq!(effects, 1, "only the first step of the first case");
}

#[tokio::test(flavor = "multi_thread")]
async fn starts_are_merged_and_refused_as_the_workflow_says() {
    let merging = WAITS.replace(
        "name: waits",
        "name: merging\nconflicts: [{with: merging, then: merge}]",
    );
    let shy = DELAYED.replace(
        "name: delayed",
        "name: shy\nconflicts: [{with: any, then: reject}]",
    );
    let bench = Bench::new(&[&merging, &shy]).await;
    let node = bench.node().await;
    let first = bench.start("merging", "ada", 1).await;
    node.nudge();
    bench.until(first, CaseState::Running).await;
    // The first has begun: one follower waits, and takes in all that come.
    let follower = bench.start("merging", "ada", 2).await;
    node.nudge();
    bench.until(follower, CaseState::Queued).await;
    for number in 3..=5 {
        let merged = bench.start("merging", "ada", number).await;
        node.nudge();
        bench.until(merged, CaseState::Merged).await;
    }
    let shard = bench.store.locate(follower).await.unwrap().unwrap();
    let history = bench.store.history(shard, follower).await.unwrap();
    let absorbed = history.iter().filter(|row| row.input == "absorb").count();
    assert_eq!(absorbed, 3);
    let refused = bench.start("shy", "ada", 6).await;
    node.nudge();
    assert!(node.idle().await);
    assert_eq!(bench.store.locate(refused).await.unwrap(), None);
    let shard = crate::core::id::Subject("ada".into()).shard(crate::store::SHARDS_DEFAULT);
    let reply = bench.store.reply(shard, Uuid::from_u128(6)).await.unwrap();
    let reply = reply.unwrap();
    assert!(
        !reply.accepted && reply.message.contains("does not start beside it"),
        "{}",
        reply.message
    );
    assert!(bench.command(&node, first, terminate()).await.accepted);
    bench.until(follower, CaseState::Running).await;
}
