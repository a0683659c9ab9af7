//! Several nodes on one database: shards come and go while cases run.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::tests::{Bench, MIXED};
use super::*;
use crate::core::case::CaseState;
use crate::core::id::{CaseId, ShardId};
use crate::store::{Acquire, SHARDS_DEFAULT, ShardLease, Store};

const HALF: usize = SHARDS_DEFAULT as usize / 2;
/// Each step takes a while, so that there is always something in flight.
const SLOW_STEPS: &str = r"
name: slow_steps
steps:
  - {id: a, uses: slow}
  - {id: b, uses: slow, needs: [a]}
  - {id: c, uses: slow, needs: [b]}
";
/// What waits for a condition gives up after this.
const LIMIT: Duration = Duration::from_secs(40);

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < LIMIT, "it does not happen: {what}");
        // sleeps: between two looks
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

impl Bench {
    async fn owners(&self) -> BTreeMap<String, usize> {
        let mut owners = BTreeMap::new();
        for row in self.store.shards().await.unwrap() {
            let owner = row.owner.unwrap_or_default();
            let name = owner.split('@').next().unwrap_or_default().to_owned();
            *owners.entry(name).or_default() += 1;
        }
        owners
    }

    async fn owned(&self, expected: &[(&str, usize)]) {
        let expected: BTreeMap<String, usize> = expected
            .iter()
            .map(|(name, count)| ((*name).to_owned(), *count))
            .collect();
        until(&format!("{expected:?}"), async || {
            self.owners().await == expected
        })
        .await;
    }

    async fn start_many(&self, workflow: &str, from: u128, count: u128) -> Vec<CaseId> {
        for number in from..from + count {
            self.start(workflow, &format!("person-{number}"), number)
                .await;
        }
        (from..from + count)
            .map(|number| CaseId(Uuid::from_u128(number)))
            .collect()
    }

    async fn all_succeed(&self, cases: &[CaseId]) {
        for case in cases {
            self.until(*case, CaseState::Succeeded).await;
        }
    }

    fn effects_are_once(&self, count: usize) {
        let effects = self.world.effects.lock().unwrap();
        assert_eq!(effects.len(), count);
        assert!(effects.values().all(|times| *times == 1), "{effects:?}");
    }

    /// Takes `shards` away from whoever has them, as another node would after their lease ran out.
    async fn steal(&self, thief: &str, shards: &[ShardId]) -> Vec<ShardLease> {
        let rows = self.store.shards().await.unwrap();
        let owners: Vec<String> = rows.iter().filter_map(|row| row.owner.clone()).collect();
        let others: Vec<ShardId> = rows
            .iter()
            .map(|row| row.shard)
            .filter(|shard| !shards.contains(shard))
            .collect();
        self.store
            .acquire(&Acquire {
                node: thief,
                lease_ms: 600_000,
                replaces: &owners,
                holding: &others,
                shards_max: SHARDS_DEFAULT,
            })
            .await
            .unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_gets_its_share_and_what_is_in_flight_is_not_disturbed() {
    let bench = Bench::new(&[SLOW_STEPS]).await;
    let first = bench.node_named("a", 3_000).await;
    bench.owned(&[("a", 2 * HALF)]).await;
    let cases = bench.start_many("slow_steps", 1, 12).await;
    first.nudge();
    until("something is in flight", async || {
        first.status().attempts_out > 0
    })
    .await;
    let second = bench.node_named("b", 3_000).await;
    bench.owned(&[("a", HALF), ("b", HALF)]).await;
    bench.all_succeed(&cases).await;
    bench.effects_are_once(12 * 3);
    assert_eq!(
        (first.status().owns_shards, second.status().owns_shards),
        (HALF, HALF)
    );
    // What one keeps is never taken anew; what the other got, once.
    for row in bench.store.shards().await.unwrap() {
        let epoch = if row.owner.unwrap().starts_with("a@") {
            1
        } else {
            2
        };
        assert_eq!(row.epoch.0, epoch);
    }
    let third = bench.node_named("c", 3_000).await;
    bench.owned(&[("a", 86), ("b", 85), ("c", 85)]).await;
    // Each drains: what it had goes to those that are left.
    first.drain(Duration::from_secs(10)).await.unwrap();
    bench.owned(&[("b", HALF), ("c", HALF)]).await;
    assert_eq!(bench.store.nodes().await.unwrap().len(), 2);
    third.drain(Duration::from_secs(10)).await.unwrap();
    bench.owned(&[("b", 2 * HALF)]).await;
    let more = bench.start_many("slow_steps", 100, 5).await;
    second.nudge();
    bench.all_succeed(&more).await;
    bench.effects_are_once(17 * 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_dies_is_replaced_when_its_leases_run_out() {
    let bench = Bench::new(&[MIXED, SLOW_STEPS]).await;
    let first = bench.node_named("a", 1_000).await;
    let second = bench.node_named("b", 1_000).await;
    bench.owned(&[("a", HALF), ("b", HALF)]).await;
    let mut cases = bench.start_many("mixed", 1, 40).await;
    cases.extend(bench.start_many("slow_steps", 100, 20).await);
    until("both work", async || {
        first.status().attempts_out > 0 && second.status().attempts_out > 0
    })
    .await;
    // Its process goes on, so that nothing but the lease says that it is dead.
    drop(first);
    bench.owned(&[("b", 2 * HALF)]).await;
    bench.all_succeed(&cases).await;
    bench.effects_are_once(40 * 4 + 20 * 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn shards_that_are_taken_away_do_not_disturb_the_others() {
    let bench = Bench::new(&[SLOW_STEPS]).await;
    let node = bench.node_named("a", 600_000).await;
    bench.owned(&[("a", 2 * HALF)]).await;
    let cases = bench.start_many("slow_steps", 1, 24).await;
    node.nudge();
    until("some have begun", async || {
        !bench.world.effects.lock().unwrap().is_empty()
    })
    .await;
    // No renewal comes for minutes: only a commit can find out.
    let taken: Vec<ShardId> = (0..SHARDS_DEFAULT as i32)
        .filter(|n| n % 3 == 0)
        .map(ShardId)
        .collect();
    let leases = bench.steal("thief", &taken).await;
    assert_eq!(leases.len(), taken.len());
    let mut theirs = Vec::new();
    let mut ours = Vec::new();
    for case in &cases {
        let number = case.0.as_u128();
        let shard = crate::core::id::Subject(format!("person-{number}")).shard(SHARDS_DEFAULT);
        if taken.contains(&shard) {
            theirs.push(*case)
        } else {
            ours.push(*case)
        }
    }
    assert!(theirs.len() > 2 && ours.len() > 2);
    bench.all_succeed(&ours).await;
    // Nothing was written for the others under the old epoch, and nothing of ours began anew.
    let rows = bench.store.shards().await.unwrap();
    for row in &rows {
        let epoch = if taken.contains(&row.shard) { 2 } else { 1 };
        assert_eq!(row.epoch.0, epoch, "{row:?}");
    }
    for case in &theirs {
        if bench.store.locate(*case).await.unwrap().is_some() {
            assert_ne!(bench.state(*case).await, CaseState::Succeeded);
        }
    }
    let before = bench.world.read_back.load(Ordering::SeqCst);
    assert_eq!(before, 0);
    // They come back: what was in flight is read back, and all of it happened once.
    bench.store.release("thief", &leases).await.unwrap();
    bench.all_succeed(&theirs).await;
    bench.effects_are_once(24 * 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_cannot_renew_stops_and_starts_anew() {
    let bench = Bench::new(&[SLOW_STEPS]).await;
    let node = bench.node_named("a", 1_000).await;
    let cases = bench.start_many("slow_steps", 1, 8).await;
    node.nudge();
    until("something is in flight", async || {
        node.status().attempts_out > 0
    })
    .await;
    let path = bench.store.path().to_owned();
    let other = crate::store::sqlite::SqliteStore::open(&path)
        .await
        .unwrap();
    struct Holds;
    #[async_trait::async_trait]
    impl crate::store::Work for Holds {
        async fn run(
            &self,
            _: &mut crate::store::Transaction<'_>,
        ) -> Result<Vec<crate::store::InboxRow>, crate::store::StoreError> {
            // sleeps: nobody else can write meanwhile, so the leases run out
            tokio::time::sleep(Duration::from_secs(3)).await;
            Ok(Vec::new())
        }
    }
    let held = tokio::spawn(async move { other.write(&Holds).await });
    // sleeps: the leases ended a second before this, and nothing that was in flight went on
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = bench.world.effects.lock().unwrap().len();
    // sleeps: the rest of the time in which nothing may happen
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(bench.world.effects.lock().unwrap().len(), before);
    held.await.unwrap().unwrap();
    bench.all_succeed(&cases).await;
    bench.effects_are_once(8 * 3);
    let rows = bench.store.shards().await.unwrap();
    assert!(rows.iter().all(|row| row.epoch.0 > 1), "all was taken anew");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_begun_once_the_time_is_over() {
    use std::sync::Arc;

    use tokio_util::sync::CancellationToken;

    use super::hold::Hold;
    use crate::core::input::AttemptResult;

    let bench = Bench::new(&[SLOW_STEPS]).await;
    let attempt = || super::port::Attempt {
        case: CaseId(Uuid::from_u128(1)),
        shard: ShardId(1),
        subject: crate::core::id::Subject("a".into()),
        workflow: "w".into(),
        lane: crate::core::definition::Lane::Normal,
        generation: 0,
        input: Arc::default(),
        effective_at: None,
        received_at: SystemClock.now(),
        step: "s".into(),
        place: crate::core::id::Place::new(crate::core::id::StepIndex(0), 0),
        uses: "slow".into(),
        with: serde_json::Value::Null,
        item: serde_json::Value::Null,
        output: serde_json::Value::Null,
        mode: crate::core::case::Mode::Do,
        attempt: 1,
        epoch: crate::core::id::Epoch(1),
        idempotency_key: "key".into(),
        timeout: crate::core::duration::Span::from_s(60),
    };
    let hold = Arc::new(Hold::new());
    let cut = CancellationToken::new();
    let make = || {
        super::attempt::make(
            &SystemHost,
            bench.world.clone(),
            attempt(),
            Arc::clone(&hold),
            cut.clone(),
        )
    };
    let lost = |result: &AttemptResult| matches!(result, AttemptResult::AnswerLost { .. });
    assert!(lost(&make().await), "nothing was granted");
    // It ends in the middle: what comes after the wait is not done.
    hold.set(Instant::now() + Duration::from_millis(50));
    assert!(lost(&make().await));
    assert!(bench.world.effects.lock().unwrap().is_empty());
    hold.set(Instant::now() + Duration::from_secs(60));
    let (result, ()) = tokio::join!(make(), async {
        // sleeps: until the attempt has begun
        tokio::time::sleep(Duration::from_millis(50)).await;
        cut.cancel();
    });
    assert!(lost(&result));
    assert!(bench.world.effects.lock().unwrap().is_empty());
}

/// Found by simulation: after a restart in which a node took fewer shards than it had, the others stayed its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_drained_node_gives_back_what_it_holds_without_knowing() {
    let bench = Bench::new(&[MIXED]).await;
    let node = bench.node_named("a", 60_000).await;
    bench.owned(&[("a", 2 * HALF)]).await;
    let unknown = bench.steal(node.owner(), &[ShardId(0)]).await;
    assert_eq!(unknown.len(), 1);
    node.drain(Duration::from_secs(5)).await.unwrap();
    assert_eq!(bench.owners().await, [(String::new(), 2 * HALF)].into());
}
