//! What a batch writes is what is read.

use chrono::TimeDelta;
use serde_json::json;

use super::build::*;
use super::*;
use crate::core::id::StepIndex;

const CASE: Numbered = Numbered(1);

pub(super) async fn an_empty_batch_is_written(database: &Database) {
    let (store, leases) = database.owned().await;
    store
        .commit(&Batch::default(), &NoProjection)
        .await
        .unwrap();
    store
        .commit(&batch(&leases, |_| {}), &NoProjection)
        .await
        .unwrap();
}

pub(super) async fn a_new_case_is_read_back_as_it_was_written(database: &Database) {
    let (store, leases) = database.owned().await;
    let written = batch(&leases, |batch| {
        CASE.birth(batch);
        batch.steps.push(CASE.step(0, None, "open"));
        batch.steps.push(CASE.step(2, Some(9_999), "asking"));
    });
    store.commit(&written, &NoProjection).await.unwrap();
    let stored = load(&*store, CASE).await.unwrap();
    assert_eq!(stored.head, CASE.head());
    assert_eq!(
        stored.state,
        StateRow {
            from_version: Some(1),
            ..CASE.state(None, 1)
        }
    );
    let steps = vec![
        CASE.step(0, None, "open"),
        CASE.step(0, Some(0), "running"),
        CASE.step(2, Some(9_999), "asking"),
    ];
    assert_eq!(stored.steps, steps);
    assert_eq!(
        store.history(CASE.shard(), CASE.case()).await.unwrap(),
        [CASE.history(1)]
    );
    assert_eq!(
        store.evidence(CASE.shard(), CASE.case()).await.unwrap(),
        [CASE.evidence(1)]
    );
    assert_eq!(load(&*store, Numbered(2)).await, None);
}

pub(super) async fn a_case_moves_and_its_rows_follow(database: &Database) {
    let (store, leases) = database.owned().await;
    make(&*store, &leases, CASE).await;
    for from in 1..20 {
        let moved = batch(&leases, |batch| CASE.advance(from, batch));
        store.commit(&moved, &NoProjection).await.unwrap();
    }
    let stored = load(&*store, CASE).await.unwrap();
    assert_eq!(stored.state.version, 20);
    let states: Vec<&str> = stored.steps.iter().map(|row| row.state.as_str()).collect();
    assert_eq!(states, [&["done"; 19][..], &["running"]].concat());
    let mut all_null = CASE.state(Some(20), 21);
    (
        all_null.ending,
        all_null.deadline_at,
        all_null.deadline_passed,
    ) = (None, None, false);
    all_null.state = CaseState::Undone;
    all_null.closed_at = Some(at(99));
    let last = batch(&leases, |batch| batch.states.push(all_null.clone()));
    store.commit(&last, &NoProjection).await.unwrap();
    all_null.from_version = Some(21);
    assert_eq!(load(&*store, CASE).await.unwrap().state, all_null);
}

pub(super) async fn rows_are_written_whether_or_not_they_are_known(database: &Database) {
    let (store, leases) = database.owned().await;
    make(&*store, &leases, CASE).await;
    // Nothing says whether there is such a row: once there is none, once there is.
    for state in ["delayed", "skipped"] {
        let either = batch(&leases, |batch| batch.steps.push(CASE.step(5, None, state)));
        store.commit(&either, &NoProjection).await.unwrap();
        let stored = load(&*store, CASE).await.unwrap();
        assert_eq!(stored.steps.last(), Some(&CASE.step(5, None, state)));
    }
}

pub(super) async fn transitions_of_one_case_fold_into_one(database: &Database) {
    let (store, leases) = database.owned().await;
    let several = batch(&leases, |batch| {
        CASE.birth(batch);
        CASE.advance(1, batch);
        CASE.advance(2, batch);
    });
    store.commit(&several, &NoProjection).await.unwrap();
    let several = batch(&leases, |batch| {
        CASE.advance(3, batch);
        CASE.advance(4, batch);
        CASE.advance(5, batch);
    });
    store.commit(&several, &NoProjection).await.unwrap();
    let stored = load(&*store, CASE).await.unwrap();
    assert_eq!(stored.state.version, 6);
    let states: Vec<&str> = stored.steps.iter().map(|row| row.state.as_str()).collect();
    assert_eq!(states, ["done", "done", "done", "done", "done", "running"]);
    assert_eq!(
        store
            .history(CASE.shard(), CASE.case())
            .await
            .unwrap()
            .len(),
        6
    );
}

pub(super) async fn a_large_batch_is_written_whole(database: &Database) {
    const CASES: u32 = 2_000;
    let (store, leases) = database.owned().await;
    let births = batch(&leases, |batch| {
        (0..CASES).for_each(|number| Numbered(number).birth(batch))
    });
    store.commit(&births, &NoProjection).await.unwrap();
    let moves = batch(&leases, |batch| {
        (0..CASES).for_each(|number| Numbered(number).advance(1, batch))
    });
    store.commit(&moves, &NoProjection).await.unwrap();
    assert_eq!(
        store.counts().await.unwrap(),
        [("joiner".to_owned(), CaseState::Running, u64::from(CASES))]
    );
    for number in [0, 999, CASES - 1] {
        let stored = load(&*store, Numbered(number)).await.unwrap();
        assert_eq!((stored.state.version, stored.steps.len()), (2, 2));
    }
}

pub(super) async fn times_keep_their_microseconds(database: &Database) {
    let (store, leases) = database.owned().await;
    let nanos = |time: Timestamp| time + TimeDelta::nanoseconds(999);
    let far = "9999-12-31T23:59:59.999999Z".parse().unwrap();
    let early: Timestamp = "1969-07-20T20:17:40.000001Z".parse().unwrap();
    let mut head = CASE.head();
    (head.created_at, head.received_at) = (nanos(at(-1)), nanos(early));
    head.effective_at = Some(far);
    let timer = CASE.timer(-1, TimerTarget::Case);
    let written = batch(&leases, |batch| {
        batch.heads.push(head);
        batch.states.push(CASE.state(None, 1));
        batch.timers_set.push(TimerRow {
            due: nanos(timer.due),
            ..timer
        });
    });
    store.commit(&written, &NoProjection).await.unwrap();
    let head = load(&*store, CASE).await.unwrap().head;
    assert_eq!((head.created_at, head.received_at), (at(-1), early));
    assert_eq!(head.effective_at, Some(far));
    assert_eq!(
        store.timers(&all_shards(), at(-1), 10).await.unwrap(),
        [timer]
    );
    // What a case in memory knows of its timer may have more digits than the row.
    let cleared = batch(&leases, |batch| {
        batch.timers_cleared.push(TimerRow {
            due: nanos(timer.due),
            ..timer
        })
    });
    store.commit(&cleared, &NoProjection).await.unwrap();
    assert_eq!(store.timers(&all_shards(), far, 10).await.unwrap(), []);
}

pub(super) async fn a_closed_case_is_not_open_any_more(database: &Database) {
    let (store, leases) = database.owned().await;
    let close = |from: Option<u64>, case: Numbered| StateRow {
        state: CaseState::Succeeded,
        closed_at: Some(at(50)),
        ..case.state(from, 2)
    };
    make(&*store, &leases, CASE).await;
    let other = Numbered(2);
    let closed = batch(&leases, |batch| {
        batch.states.push(close(Some(1), CASE));
        // Made and closed at once.
        batch.heads.push(other.head());
        batch.states.push(other.state(None, 1));
        batch.states.push(close(Some(1), other));
    });
    store.commit(&closed, &NoProjection).await.unwrap();
    for case in [CASE, other] {
        assert_eq!(
            store
                .open_cases(&[(case.shard(), case.subject())])
                .await
                .unwrap(),
            []
        );
        assert_eq!(
            load(&*store, case).await.unwrap().state.state,
            CaseState::Succeeded
        );
    }
    let open = CaseFilter {
        open_only: true,
        ..CaseFilter::default()
    };
    assert_eq!(store.list(&open, None, 10).await.unwrap(), []);
}

pub(super) async fn timers_come_in_order_and_go(database: &Database) {
    let (store, leases) = database.owned().await;
    let other = Numbered(2);
    assert_ne!(CASE.shard(), other.shard());
    let timers = [
        CASE.timer(10, TimerTarget::Case),
        CASE.timer(20, TimerTarget::Step(StepIndex(0))),
        CASE.timer(20, instance(0, 0)),
        CASE.timer(20, instance(0, 9_999)),
        CASE.timer(20, instance(499, 0)),
        other.timer(15, TimerTarget::Case),
        other.timer(30, TimerTarget::Case),
    ];
    let set = batch(&leases, |batch| {
        batch.timers_set.extend(timers.iter().rev())
    });
    store.commit(&set, &NoProjection).await.unwrap();
    // The same timer again is one timer.
    store.commit(&set, &NoProjection).await.unwrap();
    let mut expected = timers.to_vec();
    expected.sort_by_key(|timer| (timer.due, timer.case, timer.target));
    let shards = all_shards();
    assert_eq!(store.timers(&shards, at(30), 100).await.unwrap(), expected);
    assert_eq!(
        store.timers(&shards, at(29), 100).await.unwrap(),
        expected[..6]
    );
    assert_eq!(
        store.timers(&shards, at(30), 3).await.unwrap(),
        expected[..3]
    );
    assert_eq!(
        store.timers(&[other.shard()], at(15), 100).await.unwrap(),
        [timers[5]]
    );
    assert_eq!(store.timers(&[], at(30), 100).await.unwrap(), []);
    let cleared = batch(&leases, |batch| batch.timers_cleared.extend(&timers[..6]));
    store.commit(&cleared, &NoProjection).await.unwrap();
    assert_eq!(
        store.timers(&shards, at(30), 100).await.unwrap(),
        [timers[6]]
    );
}

pub(super) async fn a_timer_set_and_cleared_in_one_batch_ends_as_it_began(database: &Database) {
    let (store, leases) = database.owned().await;
    let (absent, present) = (
        CASE.timer(1, TimerTarget::Case),
        CASE.timer(2, TimerTarget::Case),
    );
    let set = batch(&leases, |batch| batch.timers_set.push(present));
    store.commit(&set, &NoProjection).await.unwrap();
    let both = batch(&leases, |batch| {
        for timer in [absent, present] {
            batch.timers_cleared.push(timer);
            batch.timers_set.push(timer);
        }
    });
    store.commit(&both, &NoProjection).await.unwrap();
    assert_eq!(
        store.timers(&all_shards(), at(9), 10).await.unwrap(),
        [present]
    );
}

pub(super) async fn hostile_text_comes_back_unchanged(database: &Database) {
    let (store, leases) = database.owned().await;
    let hostile = "'; DROP TABLE case_head; -- \" \\ \\u0041 {a,NULL} \r\n\t\u{1}\u{7f} \u{2028}\u{202e} \u{1f600}\u{10ffff}";
    let mut head = CASE.head();
    head.subject = Subject(hostile.to_owned());
    head.workflow = hostile.to_owned();
    head.initiator = Actor(hostile.to_owned());
    head.input = json!({hostile: [hostile, "\u{0}", i64::MIN, u64::MAX, -0.0, 1e300]});
    let mut step = CASE.step(0, Some(0), "running");
    // A megabyte of output, and an escaped U+0000, which is text like any other inside JSON.
    step.body = json!({"output": hostile.repeat(16_384), "nul": "\u{0}"}).to_string();
    assert!(step.body.len() > 1024 * 1024);
    let mut history = CASE.history(1);
    (history.by, history.events) = (hostile.to_owned(), json!([hostile]).to_string());
    let mut evidence = CASE.evidence(1);
    evidence.leaf = json!({"who": hostile}).to_string().into_bytes();
    let written = batch(&leases, |batch| {
        batch.heads.push(head.clone());
        batch.states.push(CASE.state(None, 1));
        batch.steps.push(step.clone());
        batch.history.push(history.clone());
        batch.evidence.push(evidence.clone());
    });
    store.commit(&written, &NoProjection).await.unwrap();
    let stored = load(&*store, CASE).await.unwrap();
    assert_eq!(stored.head, head);
    assert_eq!(stored.steps, [step]);
    assert_eq!(
        store.history(CASE.shard(), CASE.case()).await.unwrap(),
        [history]
    );
    assert_eq!(
        store.evidence(CASE.shard(), CASE.case()).await.unwrap(),
        [evidence]
    );
    let open = store
        .open_cases(&[(CASE.shard(), head.subject.clone())])
        .await
        .unwrap();
    assert_eq!(open.len(), 1);
    assert_eq!(
        (&open[0].0, &open[0].1.workflow),
        (&head.subject, &head.workflow)
    );
}

pub(super) async fn text_that_cannot_be_kept_is_refused_before_anything_is_written(
    database: &Database,
) {
    let (store, leases) = database.owned().await;
    let nul = || "a\u{0}b".to_owned();
    type Change = (&'static str, fn(&mut Batch, String));
    let changes: [Change; 8] = [
        ("case_head.subject", |batch, nul| {
            batch.heads[0].subject = Subject(nul)
        }),
        ("case_head.workflow", |batch, nul| {
            batch.heads[0].workflow = nul
        }),
        ("case_head.initiator", |batch, nul| {
            batch.heads[0].initiator = Actor(nul)
        }),
        ("case_step.state", |batch, nul| batch.steps[0].state = nul),
        ("case_step.body", |batch, nul| batch.steps[0].body = nul),
        ("case_history.actor", |batch, nul| batch.history[0].by = nul),
        ("case_history.events", |batch, nul| {
            batch.history[0].events = nul
        }),
        ("evidence.leaf", |batch, nul| {
            batch.evidence[0].leaf = nul.into_bytes()
        }),
    ];
    for (column, change) in changes {
        let mut bad = batch(&leases, |batch| CASE.birth(batch));
        change(&mut bad, nul());
        let error = store.commit(&bad, &NoProjection).await.unwrap_err();
        assert!(
            matches!(&error, StoreError::Unstorable { column: found, key }
                if *found == column && *key == CASE.case().to_string()),
            "{column}: {error:?}"
        );
    }
    let mut bad = batch(&leases, |batch| CASE.birth(batch));
    bad.evidence[0].leaf = vec![b'"', 0xff, b'"'];
    let error = store.commit(&bad, &NoProjection).await.unwrap_err();
    assert!(
        matches!(
            error,
            StoreError::Unstorable {
                column: "evidence.leaf",
                ..
            }
        ),
        "{error:?}"
    );
    assert_eq!(load(&*store, CASE).await, None);
}
