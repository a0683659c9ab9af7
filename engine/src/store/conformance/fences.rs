//! What must not be written, is not: not a row of it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use super::build::*;
use super::*;

const CASE: Numbered = Numbered(1);
const OTHER: Numbered = Numbered(2);

/// Counts its calls.
#[derive(Default)]
struct Counts(AtomicU32);

#[async_trait]
impl Projection for Counts {
    async fn project(&self, _: &mut Transaction<'_>, _: &[Outcome]) -> Result<(), StoreError> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

/// Writes a row of its own, then does as it is told.
struct WritesThen(Result<(), &'static str>);

const NOTE: Execute = Execute {
    postgres: "INSERT INTO engine_meta (name, value) VALUES ('note', 'x')",
    sqlite: "INSERT INTO engine_meta (name, value) VALUES ('note', 'x')",
};

#[async_trait]
impl Projection for WritesThen {
    async fn project(
        &self,
        transaction: &mut Transaction<'_>,
        outcomes: &[Outcome],
    ) -> Result<(), StoreError> {
        assert_eq!(outcomes, [CASE.outcome(2)]);
        NOTE.on(transaction).await;
        self.0
            .map_err(|error| StoreError::Projection(error.to_owned()))
    }
}

/// Whether the note is there: writing it again would fail.
async fn note_is_there(store: &dyn Store) -> bool {
    struct Look;
    #[async_trait]
    impl Work for Look {
        async fn run(
            &self,
            transaction: &mut Transaction<'_>,
        ) -> Result<Vec<InboxRow>, StoreError> {
            const COUNT: &str = "SELECT count(*) FROM engine_meta WHERE name = 'note'";
            let count: i64 = match transaction {
                Transaction::Postgres(connection) => sqlx::query_scalar(COUNT)
                    .fetch_one(&mut **connection)
                    .await
                    .unwrap(),
                Transaction::Sqlite(connection) => sqlx::query_scalar(COUNT)
                    .fetch_one(&mut **connection)
                    .await
                    .unwrap(),
            };
            match count {
                0 => Ok(Vec::new()),
                _ => Err(StoreError::Projection("there".to_owned())),
            }
        }
    }
    store.write(&Look).await.is_err()
}

/// Commits a batch that must be refused, and checks that nothing of it was written.
async fn refuse(store: &dyn Store, batch: &Batch, check: impl Fn(&StoreError) -> bool) {
    let before = (
        everything(store, CASE).await,
        everything(store, OTHER).await,
    );
    let counts = Counts::default();
    // With and without a transaction around the statement.
    for outcomes in [batch.outcomes.clone(), Vec::new()] {
        let batch = Batch {
            outcomes,
            ..batch.clone()
        };
        let error = store.commit(&batch, &counts).await.unwrap_err();
        assert!(check(&error), "{error:?}");
        let after = (
            everything(store, CASE).await,
            everything(store, OTHER).await,
        );
        assert_eq!(before, after);
    }
    assert_eq!(counts.0.load(Ordering::SeqCst), 0);
    for reply in &batch.replies {
        assert_eq!(store.reply(reply.shard, reply.id).await.unwrap(), None);
    }
}

pub(super) async fn a_stale_version_writes_nothing(database: &Database) {
    let (store, leases) = database.owned().await;
    prepare_everything(&*store, &leases, CASE).await;
    let mut stale = touch_everything(&leases, CASE, OTHER);
    for state in &mut stale.states {
        state.from_version = state.from_version.map(|_| 5);
    }
    refuse(
        &*store,
        &stale,
        |error| matches!(error, StoreError::Stale { case, version: 5 } if *case == CASE.case()),
    )
    .await;
    // The same batch with the right version is written.
    let right = touch_everything(&leases, CASE, OTHER);
    store.commit(&right, &NoProjection).await.unwrap();
    // And what it was made from is stale from then on.
    refuse(
        &*store,
        &batch(&leases, |batch| CASE.advance(1, batch)),
        |error| matches!(error, StoreError::Stale { version: 1, .. }),
    )
    .await;
}

pub(super) async fn the_case_that_does_not_fit_is_the_one_named(database: &Database) {
    let (store, leases) = database.owned().await;
    for number in [1, 2, 3] {
        make(&*store, &leases, Numbered(number)).await;
    }
    let is = |error: &StoreError, number: u32| matches!(error, StoreError::Stale { case, .. } if *case == Numbered(number).case());
    let moved = batch(&leases, |batch| Numbered(2).advance(1, batch));
    store.commit(&moved, &NoProjection).await.unwrap();
    // Those around it fit, and are moved before it is found.
    let stale = batch(&leases, |batch| {
        (1..=3).for_each(|number| Numbered(number).advance(1, batch));
    });
    refuse(&*store, &stale, |error| is(error, 2)).await;
    let made = batch(&leases, |batch| {
        CASE.advance(1, batch);
        Numbered(3).birth(batch);
    });
    refuse(&*store, &made, |error| is(error, 3)).await;
}

pub(super) async fn a_missing_case_is_stale(database: &Database) {
    let (store, leases) = database.owned().await;
    let mut moved = batch(&leases, |batch| CASE.advance(1, batch));
    moved.steps.clear();
    refuse(
        &*store,
        &moved,
        |error| matches!(error, StoreError::Stale { case, version: 1 } if *case == CASE.case()),
    )
    .await;
}

pub(super) async fn transitions_that_do_not_follow_are_stale(database: &Database) {
    let (store, leases) = database.owned().await;
    make(&*store, &leases, CASE).await;
    let torn = batch(&leases, |batch| {
        CASE.advance(1, batch);
        CASE.advance(3, batch);
    });
    refuse(&*store, &torn, |error| {
        matches!(error, StoreError::Stale { version: 3, .. })
    })
    .await;
}

pub(super) async fn a_case_is_made_once(database: &Database) {
    let (store, leases) = database.owned().await;
    make(&*store, &leases, CASE).await;
    let again = batch(&leases, |batch| {
        OTHER.birth(batch);
        CASE.birth(batch);
    });
    refuse(
        &*store,
        &again,
        |error| matches!(error, StoreError::Stale { case, version: 0 } if *case == CASE.case()),
    )
    .await;
}

pub(super) async fn a_lost_shard_writes_nothing(database: &Database) {
    let (store, leases) = database.owned().await;
    prepare_everything(&*store, &leases, CASE).await;
    let thief = database.open().await;
    let taken = take(&*thief, "node-b", LEASE_MS, &[NODE.to_owned()])
        .await
        .unwrap();
    assert_eq!(taken.len(), SHARDS as usize);
    let late = touch_everything(&leases, CASE, OTHER);
    refuse(&*store, &late, |error| {
        matches!(error, StoreError::Fenced { .. })
    })
    .await;
    // One lost shard among many is enough, and it is named.
    let mut mixed = taken.clone();
    let lost = mixed
        .iter_mut()
        .find(|lease| lease.shard == OTHER.shard())
        .unwrap();
    lost.epoch = leases[0].epoch;
    let late = touch_everything(&mixed, CASE, OTHER);
    refuse(
        &*store,
        &late,
        |error| matches!(error, StoreError::Fenced { shard } if *shard == OTHER.shard()),
    )
    .await;
    // The new owner writes.
    let batch = touch_everything(&taken, CASE, OTHER);
    thief.commit(&batch, &NoProjection).await.unwrap();
}

pub(super) async fn a_shard_without_a_lease_is_fenced(database: &Database) {
    let (store, leases) = database.owned().await;
    prepare_everything(&*store, &leases, CASE).await;
    let others: Vec<ShardLease> = leases
        .iter()
        .filter(|lease| lease.shard != CASE.shard())
        .copied()
        .collect();
    let uncovered = touch_everything(&others, CASE, OTHER);
    refuse(
        &*store,
        &uncovered,
        |error| matches!(error, StoreError::Fenced { shard } if *shard == CASE.shard()),
    )
    .await;
}

/// A defect of the caller, or a damaged database: never a silent half.
pub(super) async fn a_known_step_without_a_row_writes_nothing(database: &Database) {
    let (store, leases) = database.owned().await;
    prepare_everything(&*store, &leases, CASE).await;
    let mut wrong = touch_everything(&leases, CASE, OTHER);
    let mut unheard_of = CASE.step(400, Some(4), "done");
    unheard_of.planned_version = Some(0);
    wrong.steps.push(unheard_of);
    refuse(&*store, &wrong, |error| {
        matches!(error, StoreError::Corrupt { table: "case_step", key, .. }
            if key.ends_with("/400/4"))
    })
    .await;
}

pub(super) async fn a_failing_projection_takes_everything_back(database: &Database) {
    let (store, leases) = database.owned().await;
    prepare_everything(&*store, &leases, CASE).await;
    let before = everything(&*store, CASE).await;
    let batch = touch_everything(&leases, CASE, OTHER);
    let error = store
        .commit(&batch, &WritesThen(Err("no")))
        .await
        .unwrap_err();
    assert!(
        matches!(&error, StoreError::Projection(why) if why == "no"),
        "{error:?}"
    );
    assert_eq!(everything(&*store, CASE).await, before);
    assert_eq!(load(&*store, OTHER).await, None);
    assert!(!note_is_there(&*store).await);
    // The same batch goes through afterwards.
    store.commit(&batch, &WritesThen(Ok(()))).await.unwrap();
    assert_eq!(load(&*store, CASE).await.unwrap().state.version, 2);
}

pub(super) async fn a_projection_writes_in_the_same_transaction(database: &Database) {
    let (store, leases) = database.owned().await;
    prepare_everything(&*store, &leases, CASE).await;
    let batch = touch_everything(&leases, CASE, OTHER);
    store.commit(&batch, &WritesThen(Ok(()))).await.unwrap();
    assert!(note_is_there(&*store).await);
    assert_eq!(load(&*store, CASE).await.unwrap().state.version, 2);
    assert_eq!(load(&*store, OTHER).await.unwrap().state.version, 1);
    let id = batch.replies[0].id;
    let reply = store.reply(CASE.shard(), id).await.unwrap();
    assert_eq!(reply.as_ref(), batch.replies.first());
    assert_eq!(store.inbox(&all_shards(), 10).await.unwrap(), []);
}

/// Says that it is there, and waits for ever or until it is let go.
#[derive(Default)]
struct Waits {
    arrived: Notify,
    go: Notify,
}

#[async_trait]
impl Projection for Waits {
    async fn project(&self, _: &mut Transaction<'_>, _: &[Outcome]) -> Result<(), StoreError> {
        self.arrived.notify_one();
        self.go.notified().await;
        Ok(())
    }
}

pub(super) async fn a_dropped_commit_leaves_nothing_behind(database: &Database) {
    let (store, leases) = database.owned().await;
    prepare_everything(&*store, &leases, CASE).await;
    let before = everything(&*store, CASE).await;
    let batch = touch_everything(&leases, CASE, OTHER);
    let waits = Waits::default();
    tokio::select! {
        done = store.commit(&batch, &waits) => panic!("{done:?}"),
        () = waits.arrived.notified() => {}
    }
    assert_eq!(everything(&*store, CASE).await, before);
    store.commit(&batch, &NoProjection).await.unwrap();
    assert_eq!(load(&*store, CASE).await.unwrap().state.version, 2);
}

pub(super) async fn a_takeover_never_splits_a_batch(database: &Database) {
    let store = database.ready().await;
    // The lease has run out from the beginning; only the epoch protects.
    let leases = take(&*store, NODE, 0, &[]).await.unwrap();
    prepare_everything(&*store, &leases, CASE).await;
    let batch = touch_everything(&leases, CASE, OTHER);
    let waits = Arc::new(Waits::default());
    let commit = {
        let (store, batch, waits) = (Arc::clone(&store), batch.clone(), Arc::clone(&waits));
        tokio::spawn(async move { store.commit(&batch, &*waits).await })
    };
    waits.arrived.notified().await;
    let thief = database.open().await;
    let takeover = {
        let thief = Arc::clone(&thief);
        tokio::spawn(async move { take(&*thief, "node-b", LEASE_MS, &[]).await })
    };
    // One database lets the takeover wait, the other lets it have what is free.
    let early = tokio::time::timeout(Duration::from_millis(200), async {
        takeover.await.unwrap()
    });
    let early = early.await.map(Result::unwrap).unwrap_or_default();
    assert!(
        early.iter().all(|lease| lease.shard != CASE.shard()),
        "the batch's shard was taken"
    );
    waits.go.notify_one();
    commit.await.unwrap().unwrap();
    assert_eq!(load(&*store, CASE).await.unwrap().state.version, 2);
    // Sooner or later the shard is the thief's, and then the old epoch is over.
    take(&*thief, "node-b", LEASE_MS, &[]).await.unwrap();
    assert!(
        store
            .shards()
            .await
            .unwrap()
            .iter()
            .all(|row| row.owner.as_deref() == Some("node-b"))
    );
    let late = batch_after(&leases);
    let error = store.commit(&late, &NoProjection).await.unwrap_err();
    assert!(matches!(error, StoreError::Fenced { .. }), "{error:?}");
}

fn batch_after(leases: &[ShardLease]) -> Batch {
    batch(leases, |batch| CASE.advance(2, batch))
}

/// Two nodes steal the shards from each other and move the same case as fast as they can.
pub(super) async fn two_owners_in_turn_lose_no_transition(database: &Database) {
    const MOVES: u64 = 40;
    let (store, leases) = database.owned().await;
    make(&*store, &leases, CASE).await;
    let node = |name: &'static str, other: &'static str, store: Arc<dyn Store>| async move {
        let (mut moved, mut leases) = (0, Vec::new());
        loop {
            let version = load(&*store, CASE).await.unwrap().state.version;
            if version > MOVES {
                return moved;
            }
            let next = batch(&leases, |batch| CASE.advance(version, batch));
            match store.commit(&next, &NoProjection).await {
                Ok(()) => moved += 1,
                Err(StoreError::Stale { .. }) => {}
                Err(StoreError::Fenced { .. }) => {
                    let names = [other.to_owned(), name.to_owned(), NODE.to_owned()];
                    leases = take(&*store, name, LEASE_MS, &names).await.unwrap();
                }
                Err(error) => panic!("{error:?}"),
            }
        }
    };
    let (first, second) = (database.open().await, database.open().await);
    let (first, second) = tokio::join!(
        tokio::spawn(node("node-b", "node-c", first)),
        tokio::spawn(node("node-c", "node-b", second))
    );
    let moved = first.unwrap() + second.unwrap();
    let stored = load(&*store, CASE).await.unwrap();
    assert_eq!(stored.state.version, moved + 1);
    let history = store.history(CASE.shard(), CASE.case()).await.unwrap();
    let versions: Vec<u64> = history.iter().map(|row| row.version).collect();
    assert_eq!(versions, (1..=moved + 1).collect::<Vec<_>>());
    assert_eq!(stored.steps.len() as u64, moved + 1);
}
