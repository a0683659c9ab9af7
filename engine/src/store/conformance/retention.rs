//! Forgetting what is over, and nothing else; room for what comes.

use chrono::{Datelike, TimeDelta};

use super::build::*;
use super::*;

fn day(text: &str) -> Timestamp {
    format!("{text}T00:00:00Z").parse().unwrap()
}

/// Puts a case there, made and last changed at `time`, with two transitions; closed then, or open.
fn record(case: Numbered, time: Timestamp, closed: bool, batch: &mut Batch) {
    case.birth(batch);
    case.advance(1, batch);
    for row in &mut batch.heads {
        if row.case == case.case() {
            row.created_at = time;
        }
    }
    for row in &mut batch.states {
        if row.case == case.case() && closed {
            row.state = CaseState::Succeeded;
            row.closed_at = Some(time);
        }
    }
    let times = batch.history.iter_mut().map(|row| (row.case, &mut row.at));
    let leaves = batch.evidence.iter_mut().map(|row| (row.case, &mut row.at));
    for (_, at) in times.chain(leaves).filter(|(id, _)| *id == case.case()) {
        *at = time;
    }
}

async fn keep(
    store: &dyn Store,
    leases: &[ShardLease],
    case: Numbered,
    time: Timestamp,
    closed: bool,
) {
    let batch = batch(leases, |batch| record(case, time, closed, batch));
    store.commit(&batch, &NoProjection).await.unwrap();
}

/// Forgets until there is no more, and sums up.
async fn forget_all(store: &dyn Store, before: Before) -> Forgotten {
    let mut all = Forgotten::default();
    for _ in 0..1_000 {
        let piece = store.forget(&before).await.unwrap();
        assert!(piece.cases <= u64::from(FORGET_CASES_MAX), "{piece:?}");
        assert!(piece.rows <= u64::from(FORGET_ROWS_MAX), "{piece:?}");
        all.partitions += piece.partitions;
        all.rows += piece.rows;
        all.cases += piece.cases;
        if !piece.more {
            return all;
        }
    }
    panic!("there is always more");
}

async fn history(store: &dyn Store, case: Numbered) -> usize {
    let rows = store.history(case.shard(), case.case()).await.unwrap();
    rows.len()
}

async fn evidence(store: &dyn Store, case: Numbered) -> usize {
    let rows = store.evidence(case.shard(), case.case()).await.unwrap();
    rows.len()
}

fn history_before(text: &str) -> Before {
    Before {
        history: Some(day(text)),
        ..Before::default()
    }
}

pub(super) async fn history_is_forgotten_and_that_of_open_cases_is_not(database: &Database) {
    let (store, leases) = database.owned().await;
    store.make_room(day("2026-01-20")).await.unwrap();
    let [old, open, young] = [1, 2, 3].map(Numbered);
    keep(&*store, &leases, old, day("2026-02-03"), true).await;
    keep(&*store, &leases, open, day("2026-02-04"), false).await;
    keep(&*store, &leases, young, day("2026-03-20"), true).await;

    // Nothing is over yet, and nothing goes by itself.
    assert_eq!(
        forget_all(&*store, history_before("2026-01-15")).await,
        Forgotten::default()
    );
    assert_eq!(
        forget_all(&*store, Before::default()).await,
        Forgotten::default()
    );

    let before = history_before("2026-03-01");
    let forgotten = forget_all(&*store, before).await;
    assert_ne!(forgotten, Forgotten::default());
    assert_eq!(history(&*store, old).await, 0);
    assert_eq!(history(&*store, open).await, 2);
    assert_eq!(history(&*store, young).await, 2);
    assert_eq!(evidence(&*store, old).await, 2);
    assert!(load(&*store, old).await.is_some());
    // What is left is not touched again.
    assert_eq!(forget_all(&*store, before).await, Forgotten::default());

    // Once it closes, it is as the others.
    let close = batch(&leases, |batch| {
        open.advance(2, batch);
        batch.states[0].state = CaseState::Succeeded;
        batch.states[0].closed_at = Some(day("2026-04-01"));
        batch.history[0].at = day("2026-04-01");
        batch.evidence[0].at = day("2026-04-01");
    });
    store.commit(&close, &NoProjection).await.unwrap();
    forget_all(&*store, before).await;
    assert_eq!(history(&*store, open).await, 1);
    assert_eq!(evidence(&*store, open).await, 3);
}

pub(super) async fn evidence_goes_only_when_asked(database: &Database) {
    let (store, leases) = database.owned().await;
    store.make_room(day("2026-01-20")).await.unwrap();
    let [old, open] = [1, 2].map(Numbered);
    keep(&*store, &leases, old, day("2026-02-03"), true).await;
    keep(&*store, &leases, open, day("2026-02-04"), false).await;
    let before = Before {
        evidence: Some(day("2026-03-01")),
        ..Before::default()
    };
    forget_all(&*store, before).await;
    assert_eq!(evidence(&*store, old).await, 0);
    assert_eq!(evidence(&*store, open).await, 2);
    assert_eq!(history(&*store, old).await, 2);
}

pub(super) async fn closed_cases_go_in_pieces(database: &Database) {
    const CASES: u32 = 1_200;
    let (store, leases) = database.owned().await;
    let all = batch(&leases, |batch| {
        for number in 1..=CASES {
            let time = day("2026-02-03") + TimeDelta::seconds(i64::from(number));
            record(Numbered(number), time, number % 10 != 0, batch);
        }
    });
    store.commit(&all, &NoProjection).await.unwrap();
    let late = Numbered(CASES + 1);
    keep(&*store, &leases, late, day("2026-05-01"), true).await;
    let before = Before {
        closed_cases: Some(day("2026-04-01")),
        ..Before::default()
    };
    let forgotten = forget_all(&*store, before).await;
    assert_eq!(forgotten.cases, u64::from(CASES - CASES / 10));
    let (gone, open) = (Numbered(1), Numbered(10));
    assert!(load(&*store, gone).await.is_none());
    assert_eq!(store.locate(gone.case()).await.unwrap(), None);
    let existing = [gone, open, late].map(|case| (case.shard(), case.case()));
    let existing = store.existing(&existing).await.unwrap();
    assert_eq!(existing, [open.case(), late.case()].into());
    assert_eq!(load(&*store, open).await.unwrap().steps.len(), 2);
    // What proves it outlives it, and a case made afterwards does not inherit it.
    assert_eq!(evidence(&*store, gone).await, 2);
    let next = Numbered(CASES + 2);
    keep(&*store, &leases, next, day("2026-05-02"), false).await;
    assert_eq!(evidence(&*store, next).await, 2);
    assert_eq!(evidence(&*store, gone).await, 2);
    let counts = store.counts().await.unwrap();
    let left: u64 = counts.iter().map(|(_, _, count)| count).sum();
    assert_eq!(left, u64::from(CASES / 10) + 2);
}

pub(super) async fn every_case_may_go_and_its_evidence_stays_its_own(database: &Database) {
    let (store, leases) = database.owned().await;
    let before = Before {
        closed_cases: Some(day("2026-04-01")),
        ..Before::default()
    };
    for number in 1..=3 {
        keep(&*store, &leases, Numbered(number), day("2026-02-03"), true).await;
        forget_all(&*store, before).await;
    }
    for number in 1..=3 {
        assert_eq!(evidence(&*store, Numbered(number)).await, 2);
    }
}

/// No key over all months says so; the version of the case does.
pub(super) async fn a_transition_is_recorded_once_whatever_its_time(database: &Database) {
    let (store, leases) = database.owned().await;
    store.make_room(day("2026-03-05")).await.unwrap();
    let case = Numbered(1);
    make(&*store, &leases, case).await;
    let once = batch(&leases, |batch| case.advance(1, batch));
    store.commit(&once, &NoProjection).await.unwrap();
    let before = everything(&*store, case).await;
    for time in ["2026-03-01", "2026-05-01", "2027-09-01"] {
        let mut again = once.clone();
        again.history[0].at = day(time);
        again.evidence[0].at = day(time);
        let error = store.commit(&again, &NoProjection).await.unwrap_err();
        assert!(
            matches!(error, StoreError::Stale { case: stale, version: 1 } if stale == case.case()),
            "{error:?}"
        );
        assert_eq!(everything(&*store, case).await, before);
    }
}

pub(super) async fn room_is_made_again_and_again_and_by_many(database: &Database) {
    let (store, leases) = database.owned().await;
    let case = Numbered(1);
    make(&*store, &leases, case).await;
    let mut racers = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let store = database.open().await;
        racers.spawn(async move { store.make_room(day("2026-03-05")).await });
    }
    // While some make room, others write.
    for from in 1..30 {
        let moved = batch(&leases, |batch| case.advance(from, batch));
        store.commit(&moved, &NoProjection).await.unwrap();
    }
    let failed = racers.join_all().await.into_iter().filter(Result::is_err);
    assert!(failed.count() < 4);
    // Nobody looked for a year: what was written meanwhile has its place too.
    let mut late = batch(&leases, |batch| case.advance(30, batch));
    late.history[0].at = day("2027-02-10");
    late.evidence[0].at = day("2027-02-10");
    store.commit(&late, &NoProjection).await.unwrap();
    for month in 2..=5 {
        let now = day("2027-02-15").with_month(month).unwrap();
        store.make_room(now).await.unwrap();
        store.make_room(now).await.unwrap();
    }
    assert_eq!(history(&*store, case).await, 31);
    assert_eq!(evidence(&*store, case).await, 31);
    let young = Numbered(2);
    keep(&*store, &leases, young, day("2027-06-10"), true).await;
    assert_eq!(history(&*store, young).await, 2);
}

/// Rows before the step are there after it, the program of before goes on writing, and what was there before goes
/// when its time has come.
pub(super) async fn an_older_database_gets_its_partitions(database: &Database) {
    let store = database.open().await;
    // Without its own step, and with all that a batch writes to.
    let before: Vec<Migration> = MIGRATIONS
        .iter()
        .filter(|migration| migration.name != "retention")
        .copied()
        .collect();
    store.migrate(&before, SHARDS).await.unwrap();
    let leases = take(&*store, NODE, LEASE_MS, &[]).await.unwrap();
    let [old, open] = [1, 2].map(Numbered);
    keep(&*store, &leases, old, day("2026-02-03"), true).await;
    keep(&*store, &leases, open, day("2026-02-03"), false).await;

    let newer = database.open().await;
    newer.migrate(MIGRATIONS, SHARDS).await.unwrap();
    assert_eq!(history(&*newer, old).await, 2);
    let advance = |from, time| {
        let mut moved = batch(&leases, |batch| open.advance(from, batch));
        moved.history[0].at = day(time);
        moved.evidence[0].at = day(time);
        moved
    };
    store
        .commit(&advance(2, "2026-03-10"), &NoProjection)
        .await
        .unwrap();
    newer.make_room(day("2026-03-12")).await.unwrap();
    for (from, time) in [(3, "2026-03-20"), (4, "2026-06-20"), (5, "2028-01-01")] {
        let moved = advance(from, time);
        store.commit(&moved, &NoProjection).await.unwrap();
    }
    assert_eq!(history(&*store, open).await, 6);
    assert_eq!(history(&*newer, open).await, 6);

    forget_all(&*newer, history_before("2026-06-01")).await;
    assert_eq!(history(&*newer, old).await, 0);
    assert_eq!(history(&*newer, open).await, 6);
    assert_eq!(evidence(&*newer, old).await, 2);
}
