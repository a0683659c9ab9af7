//! Holding a case, ending one that is not read, and what waits for people.

use super::build::*;
use super::*;
use crate::core::case::Pause;
use crate::core::id::StepIndex;

const CASE: Numbered = Numbered(1);

fn pause(case: Numbered, seconds: i64, reason: Option<&str>) -> PauseRow {
    PauseRow {
        shard: case.shard(),
        case: case.case(),
        pause: reason.map(|reason| Pause {
            at: at(seconds * 1_000_000),
            by: Actor("user:Zoë".to_owned()),
            reason: reason.to_owned(),
        }),
    }
}

async fn hold(store: &dyn Store, leases: &[ShardLease], row: PauseRow) {
    let batch = batch(leases, |batch| batch.pauses.push(row));
    store.commit(&batch, &NoProjection).await.unwrap();
}

pub(super) async fn a_pause_is_kept_and_lifted(database: &Database) {
    let (store, leases) = database.owned().await;
    make(&*store, &leases, CASE).await;
    make(&*store, &leases, Numbered(2)).await;
    let reason = "because \u{0} of \"this\"";
    hold(&*store, &leases, pause(CASE, 1, Some("before"))).await;
    hold(&*store, &leases, pause(CASE, 1, Some(reason))).await;
    let found = load(&*store, CASE).await.unwrap().state.paused;
    assert_eq!(found, pause(CASE, 1, Some(reason)).pause);
    assert_eq!(load(&*store, Numbered(2)).await.unwrap().state.paused, None);
    let paused = |case: Numbered| {
        let store = Arc::clone(&store);
        async move {
            let subjects = [(case.shard(), case.subject())];
            store.open_cases(&subjects).await.unwrap()[0].1.paused
        }
    };
    assert!(paused(CASE).await);
    assert!(!paused(Numbered(2)).await);
    let listed = store.list(&CaseFilter::default(), None, 10).await.unwrap();
    assert_eq!(
        listed
            .iter()
            .filter(|found| found.state.paused.is_some())
            .count(),
        1
    );
    hold(&*store, &leases, pause(CASE, 1, None)).await;
    assert_eq!(load(&*store, CASE).await.unwrap().state.paused, None);
}

pub(super) async fn a_pause_of_a_lost_shard_is_not_kept(database: &Database) {
    let (store, leases) = database.owned().await;
    make(&*store, &leases, CASE).await;
    let stale = batch(&older(&leases), |batch| {
        batch.pauses.push(pause(CASE, 1, Some("x")));
    });
    let error = store.commit(&stale, &NoProjection).await.unwrap_err();
    assert!(matches!(error, StoreError::Fenced { .. }), "{error:?}");
    assert_eq!(load(&*store, CASE).await.unwrap().state.paused, None);
}

fn end(leases: &[ShardLease], case: Numbered, version: u64) -> Termination {
    let lease = leases.iter().find(|lease| lease.shard == case.shard());
    Termination {
        lease: *lease.unwrap(),
        case: case.case(),
        version,
        at: at(99),
        history: HistoryRow {
            by: "user:op".to_owned(),
            ..case.history(version)
        },
        evidence: case.evidence(version),
    }
}

/// Damage of every kind; whatever it is, the case can be ended.
#[cfg(test)]
pub(super) async fn a_case_that_cannot_be_read_can_be_ended(database: &Database) {
    let (store, leases) = database.owned().await;
    let damages = [
        "UPDATE case_step SET body = 'nonsense'",
        "UPDATE case_state SET state = 'of another program'",
        "UPDATE case_state SET in_flight = -1, ending = 'nothing'",
        "UPDATE case_head SET input = '{', lane = 'x', generation = -1",
    ];
    for (number, damage) in (1..).zip(damages) {
        let case = Numbered(number);
        make(&*store, &leases, case).await;
        let rows = batch(&leases, |batch| {
            batch.timers_set.push(case.timer(5, instance(0, 0)));
            batch.pauses.push(pause(case, 1, Some("x")));
        });
        store.commit(&rows, &NoProjection).await.unwrap();
        database.execute(&*store, damage, damage).await;
        let error = store.load(case.shard(), case.case()).await;
        assert!(
            error.is_err() || number == 1,
            "{damage}: the rows are read, their bodies are not"
        );
        let bones = store
            .bones(case.shard(), case.case())
            .await
            .unwrap()
            .unwrap();
        assert_eq!((bones.version, bones.closed), (1, false));
        assert_eq!(bones.subject, case.subject());
        // Others of the subject are still asked about.
        let subjects = [(case.shard(), case.subject())];
        let open = store.open_cases(&subjects).await.unwrap();
        assert_eq!(open.len(), 1, "{damage}");
        store.terminate(&end(&leases, case, 2)).await.unwrap();
        assert!(store.open_cases(&subjects).await.unwrap().is_empty());
        let timers = store
            .timers(&all_shards(), at(i64::from(u32::MAX)), 100)
            .await;
        assert!(timers.unwrap().is_empty());
        let history = store.history(case.shard(), case.case()).await.unwrap();
        assert_eq!(
            (history.len(), history[1].by.as_str()),
            (2, "user:op"),
            "{damage}"
        );
        let evidence = store.evidence(case.shard(), case.case()).await.unwrap();
        assert_eq!(evidence.len(), 2);
        let bones = store.bones(case.shard(), case.case()).await.unwrap();
        assert!(bones.unwrap().closed);
        let again = store.terminate(&end(&leases, case, 3)).await.unwrap_err();
        assert!(matches!(again, StoreError::Stale { .. }), "{again:?}");
    }
    assert!(store.parked(None, 10).await.unwrap().is_empty());
    let nobody = Numbered(99);
    assert_eq!(
        store.bones(nobody.shard(), nobody.case()).await.unwrap(),
        None
    );
}

pub(super) async fn an_end_by_a_node_that_lost_its_shard_writes_nothing(database: &Database) {
    let (store, leases) = database.owned().await;
    make(&*store, &leases, CASE).await;
    let before = everything(&*store, CASE).await;
    let stale = end(&older(&leases), CASE, 2);
    let error = store.terminate(&stale).await.unwrap_err();
    assert!(matches!(error, StoreError::Fenced { .. }), "{error:?}");
    assert_eq!(everything(&*store, CASE).await, before);
}

pub(super) async fn what_waits_for_people_comes_in_pages_the_oldest_first(database: &Database) {
    let (store, leases) = database.owned().await;
    for number in 1..=5 {
        make(&*store, &leases, Numbered(number)).await;
    }
    let parked =
        |case: Numbered, step: u16, number: Option<u32>, state: &str, seconds: i64| StepRow {
            changed_at: at(seconds * 1_000_000),
            ..case.step(step, number, state)
        };
    let rows = batch(&leases, |batch| {
        let (first, second) = (Numbered(1), Numbered(2));
        batch.steps.extend([
            parked(first, 3, Some(0), "parked", 30),
            parked(first, 3, Some(1), "parked", 30),
            parked(first, 3, Some(2), "done", 1),
            parked(second, 1, None, "stuck", 20),
            parked(second, 2, Some(0), "waiting", 2),
        ]);
        batch.pauses.push(pause(Numbered(3), 25, Some("x")));
    });
    store.commit(&rows, &NoProjection).await.unwrap();
    let mut found = Vec::new();
    let mut after = None;
    loop {
        let page = store.parked(after, 2).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(*last);
        found.extend(page);
    }
    let row = |case: Numbered, seconds: i64, step: Option<u16>, instance| ParkedRow {
        shard: case.shard(),
        case: case.case(),
        at: at(seconds * 1_000_000),
        step: step.map(StepIndex),
        instance,
    };
    let expected = [
        row(Numbered(2), 20, Some(1), None),
        row(Numbered(3), 25, None, None),
        row(Numbered(1), 30, Some(3), Some(0)),
        row(Numbered(1), 30, Some(3), Some(1)),
    ];
    assert_eq!(found, expected);
    // A case without anything parked is not looked into, and neither is a closed one.
    let mut closed = Numbered(2).state(Some(1), 2);
    closed.state = CaseState::Cancelled;
    let mut calm = Numbered(1).state(Some(1), 2);
    calm.parked = 0;
    let rows = batch(&leases, |batch| batch.states.extend([closed, calm]));
    store.commit(&rows, &NoProjection).await.unwrap();
    assert_eq!(store.parked(None, 10).await.unwrap(), expected[1..2]);
}

pub(super) async fn a_life_is_kept_and_never_goes_back(database: &Database) {
    let (store, leases) = database.owned().await;
    let (one, two) = (Numbered(1), Numbered(2));
    let row = |case: Numbered, generation| GenerationRow {
        shard: case.shard(),
        subject: case.subject(),
        generation,
    };
    for rows in [
        vec![row(one, 2), row(two, 7)],
        vec![row(one, 3), row(two, 5)],
    ] {
        let lives = batch(&leases, |batch| batch.generations.extend(rows));
        store.commit(&lives, &NoProjection).await.unwrap();
    }
    let stale = batch(&older(&leases), |batch| batch.generations.push(row(one, 9)));
    let error = store.commit(&stale, &NoProjection).await.unwrap_err();
    assert!(matches!(error, StoreError::Fenced { .. }), "{error:?}");
    let mut found = store.generations(&all_shards()).await.unwrap();
    found.sort_by(|a, b| a.subject.cmp(&b.subject));
    assert_eq!(found, [row(one, 3), row(two, 7)]);
    let elsewhere: Vec<ShardId> = all_shards()
        .into_iter()
        .filter(|shard| *shard != one.shard() && *shard != two.shard())
        .collect();
    assert_eq!(store.generations(&elsewhere).await.unwrap(), []);
}

/// The program of before writes no lives, and its cases tell them.
pub(super) async fn lives_of_cases_of_before_are_known(database: &Database) {
    let store = database.open().await;
    let before: Vec<Migration> = MIGRATIONS
        .iter()
        .filter(|migration| migration.name != "generation")
        .copied()
        .collect();
    store.migrate(&before, SHARDS).await.unwrap();
    let leases = take(&*store, NODE, LEASE_MS, &[]).await.unwrap();
    let of = |subject: Numbered, case: Numbered, generation, batch: &mut Batch| {
        let shard = subject.shard();
        batch.heads.push(HeadRow {
            shard,
            subject: subject.subject(),
            generation,
            ..case.head()
        });
        batch.states.push(StateRow {
            shard,
            ..case.state(None, 1)
        });
    };
    let (again, once) = (Numbered(1), Numbered(2));
    let written = batch(&leases, |batch| {
        of(again, Numbered(1), 1, batch);
        of(again, Numbered(3), 4, batch);
        of(again, Numbered(4), 2, batch);
        of(once, Numbered(2), 1, batch);
    });
    store.commit(&written, &NoProjection).await.unwrap();
    let newer = database.open().await;
    newer.migrate(MIGRATIONS, SHARDS).await.unwrap();
    let known = GenerationRow {
        shard: again.shard(),
        subject: again.subject(),
        generation: 4,
    };
    assert_eq!(newer.generations(&all_shards()).await.unwrap(), [known]);
    // It goes on.
    let more = batch(&leases, |batch| Numbered(5).birth(batch));
    store.commit(&more, &NoProjection).await.unwrap();
}

pub(super) async fn what_is_left_out_of_a_batch_leaves_nothing(database: &Database) {
    let (store, leases) = database.owned().await;
    let (kept, gone) = (Numbered(1), Numbered(2));
    assert_ne!(kept.shard(), gone.shard());
    make(&*store, &leases, kept).await;
    make(&*store, &leases, gone).await;
    let mut both = batch(&leases, |batch| {
        for case in [kept, gone] {
            case.advance(1, batch);
            batch.pauses.push(pause(case, 1, Some("because")));
            batch.generations.push(GenerationRow {
                shard: case.shard(),
                subject: case.subject(),
                generation: 2,
            });
        }
    });
    both.retain_shards(|shard| shard == kept.shard());
    store.commit(&both, &NoProjection).await.unwrap();
    let paused = |stored: Option<StoredCase>| stored.unwrap().state.paused.is_some();
    assert!(paused(load(&*store, kept).await));
    assert!(!paused(load(&*store, gone).await));
    assert_eq!(store.generations(&[gone.shard()]).await.unwrap(), []);
}
