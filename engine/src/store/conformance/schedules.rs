//! Schedules and their runs.

use serde_json::json;

use super::build::*;
use super::*;
use crate::core::schedule::{
    self, Cause, ChangeRecord, OpenRun, Operation, Outcome as RunOutcome, Pause, Run, RunKey,
    Waiting,
};

fn name(number: u32) -> String {
    format!("schedule-{number}")
}

fn shard(number: u32) -> ShardId {
    schedule::shard(&name(number), SHARDS)
}

fn key(micros: i64) -> RunKey {
    RunKey {
        fire_at: at(micros),
        by_hand: false,
    }
}

/// A schedule with something in every field.
fn row(number: u32, from_version: Option<u64>, version: u64) -> ScheduleRow {
    let mut state: schedule::State = serde_json::from_value(json!({
        "version": version,
        "spec": {
            "name": name(number), "workflow": "review", "cron": "0 2 * * *", "zone": "Europe/Berlin",
            "subject": "Zoë \u{1f600}", "input": {"a": [1, null]}, "jitter": "5m", "overlap": "queue_one",
            "catch_up": "1h", "description": "'; DROP TABLE schedule; --",
        },
        "origin": "configuration",
        "salt": vec![9; 16],
        "seen": at(1),
    }))
    .unwrap();
    state.paused = Some(Pause {
        by: Actor("cli:zoë".into()),
        reason: "why".into(),
        at: at(2),
    });
    state.last = Some((at(3), RunOutcome::Started));
    state.open.push(OpenRun {
        key: key(3),
        case: CaseId(Uuid::from_u128(3)),
        cause: Cause::Clock,
        initiator: Actor("schedule:x".into()),
        subject: Subject("x".into()),
        seen: true,
        ending: false,
    });
    state.queue.push_back(Waiting {
        key: key(4),
        cause: Cause::Backfill,
        initiator: Actor("cli:zoë".into()),
        reason: None,
    });
    ScheduleRow {
        shard: shard(number),
        from_version,
        state,
        next_due_at: Some(at(5)),
        changed_at: at(6),
    }
}

fn run(number: u32, micros: i64, outcome: RunOutcome) -> ScheduleRunRow {
    ScheduleRunRow {
        shard: shard(number),
        schedule: name(number),
        run: Run {
            key: key(micros),
            cause: Cause::Clock,
            due_at: at(micros + 1),
            decided_at: at(micros + 2),
            outcome,
            case: (outcome == RunOutcome::Started).then(|| CaseId(Uuid::from_u128(77))),
            initiator: Actor("schedule:x".into()),
            reason: "Zoë's".into(),
        },
    }
}

fn change(number: u32, version: u64) -> ScheduleChangeRow {
    ScheduleChangeRow {
        shard: shard(number),
        schedule: name(number),
        change: ChangeRecord {
            version,
            at: at(7),
            by: Actor("cli:zoë".into()),
            operation: Operation::Backfill,
            reason: "lost".into(),
            detail: "a to b".into(),
        },
        leaf: b"{\"a\":1}".to_vec(),
    }
}

fn written(leases: &[ShardLease], fill: impl FnOnce(&mut ScheduleBatch)) -> ScheduleBatch {
    let mut batch = ScheduleBatch {
        leases: leases.to_vec(),
        ..ScheduleBatch::default()
    };
    fill(&mut batch);
    batch
}

/// Everything there is of schedule 1, and the inbox.
async fn all_of(
    store: &dyn Store,
) -> (
    Vec<ScheduleRow>,
    Vec<ScheduleRunRow>,
    Vec<ScheduleChangeRow>,
    Vec<InboxRow>,
) {
    let schedules = store.schedules();
    (
        schedules.of_shards(None).await.unwrap(),
        schedules
            .runs(shard(1), &name(1), None, None, 100)
            .await
            .unwrap(),
        schedules.changes(shard(1), &name(1), 100).await.unwrap(),
        store.inbox(&all_shards(), 100).await.unwrap(),
    )
}

pub(super) async fn a_schedule_is_read_back_as_it_was_written(database: &Database) {
    let (store, leases) = database.owned().await;
    let (start, done) = (message(1, Lane::Normal, 1), message(2, Lane::Normal, 2));
    store.put_inbox(std::slice::from_ref(&done)).await.unwrap();
    let reply = ReplyRow {
        shard: done.shard,
        id: done.id,
        at: at(3),
        accepted: true,
        message: "case".to_owned(),
    };
    let first = written(&leases, |batch| {
        batch.schedules.push(row(1, None, 1));
        batch.runs.push(run(1, 10, RunOutcome::Started));
        batch.runs.push(run(1, 20, RunOutcome::Missed));
        batch.changes.push(change(1, 1));
        batch.messages.push(start.clone());
        batch.inbox_done.push((done.shard, done.id));
        batch.replies.push(reply.clone());
    });
    store.schedules().commit(&first).await.unwrap();
    let expected = (
        vec![row(1, Some(1), 1)],
        vec![
            run(1, 20, RunOutcome::Missed),
            run(1, 10, RunOutcome::Started),
        ],
        vec![change(1, 1)],
        vec![start],
    );
    assert_eq!(all_of(&*store).await, expected);
    assert_eq!(store.reply(done.shard, done.id).await.unwrap(), Some(reply));

    // It moves on; a run is written again.
    let mut moved = row(1, Some(1), 2);
    moved.state.removed = true;
    moved.state.paused = None;
    moved.next_due_at = None;
    let second = written(&leases, |batch| {
        batch.schedules.push(moved.clone());
        batch.runs.push(run(1, 20, RunOutcome::Started));
    });
    store.schedules().commit(&second).await.unwrap();
    moved.from_version = Some(2);
    let (schedules, runs, ..) = all_of(&*store).await;
    assert_eq!(schedules, [moved]);
    assert_eq!(runs[0], run(1, 20, RunOutcome::Started));
}

pub(super) async fn schedules_are_found_by_shard(database: &Database) {
    let (store, leases) = database.owned().await;
    let batch = written(&leases, |batch| {
        batch
            .schedules
            .extend((1..=20).map(|number| row(number, None, 1)));
    });
    store.schedules().commit(&batch).await.unwrap();
    let all = store.schedules().of_shards(None).await.unwrap();
    assert_eq!(all.len(), 20);
    assert!(all.is_sorted_by_key(|row| (row.shard, row.state.spec.name.clone())));
    let some = store
        .schedules()
        .of_shards(Some(&[shard(3)]))
        .await
        .unwrap();
    assert!(some.iter().any(|row| row.state.spec.name == name(3)));
    assert!(some.iter().all(|row| row.shard == shard(3)));
    assert_eq!(store.schedules().of_shards(Some(&[])).await.unwrap(), []);
}

pub(super) async fn a_lost_shard_writes_nothing_of_a_schedule(database: &Database) {
    let (store, leases) = database.owned().await;
    let first = written(&leases, |batch| batch.schedules.push(row(1, None, 1)));
    store.schedules().commit(&first).await.unwrap();
    let before = all_of(&*store).await;
    let everything = |leases: &[ShardLease]| {
        written(leases, |batch| {
            batch.schedules.push(row(1, Some(1), 2));
            batch.runs.push(run(1, 10, RunOutcome::Started));
            batch.changes.push(change(1, 2));
            batch.messages.push(message(1, Lane::Normal, 1));
        })
    };
    // Another epoch, and a shard it says nothing of.
    let others: Vec<ShardLease> = leases
        .iter()
        .filter(|lease| lease.shard != shard(1))
        .copied()
        .collect();
    for leases in [older(&leases), others] {
        let error = store
            .schedules()
            .commit(&everything(&leases))
            .await
            .unwrap_err();
        assert!(
            matches!(error, StoreError::Fenced { shard: lost } if leases.len() == SHARDS as usize || lost == shard(1)),
            "{error:?}"
        );
        assert_eq!(all_of(&*store).await, before);
    }
    store
        .schedules()
        .commit(&everything(&leases))
        .await
        .unwrap();
}

pub(super) async fn a_stale_schedule_writes_nothing(database: &Database) {
    let (store, leases) = database.owned().await;
    let first = written(&leases, |batch| {
        batch.schedules.extend([row(1, None, 1), row(2, None, 1)])
    });
    store.schedules().commit(&first).await.unwrap();
    let before = all_of(&*store).await;
    // An older version, one that is not there yet, and one that is there already.
    for (stale, from) in [
        (row(1, Some(7), 8), 7),
        (row(3, Some(1), 2), 1),
        (row(1, None, 1), 0),
    ] {
        let name = stale.state.spec.name.clone();
        let batch = written(&leases, |batch| {
            batch.schedules.extend([row(2, Some(1), 2), stale]);
            batch.runs.push(run(2, 10, RunOutcome::Started));
            batch.messages.push(message(1, Lane::Normal, 1));
        });
        let error = store.schedules().commit(&batch).await.unwrap_err();
        assert!(
            matches!(&error, StoreError::StaleSchedule { schedule, version } if *schedule == name && *version == from),
            "{error:?}"
        );
        assert_eq!(all_of(&*store).await, before);
    }
}

pub(super) async fn runs_are_listed_from_the_latest_and_the_oldest_are_forgotten(
    database: &Database,
) {
    let (store, leases) = database.owned().await;
    let batch = written(&leases, |batch| {
        batch.schedules.extend([row(1, None, 1), row(2, None, 1)]);
        batch
            .runs
            .extend((0..10).map(|micros| run(1, micros, RunOutcome::Missed)));
        batch.runs.push(run(2, 1, RunOutcome::Queued));
        let mut by_hand = run(1, 9, RunOutcome::Started);
        by_hand.run.key.by_hand = true;
        batch.runs.push(by_hand);
    });
    let schedules = store.schedules();
    schedules.commit(&batch).await.unwrap();
    let list = async |from: Option<i64>, before: Option<i64>, limit| {
        let runs = schedules
            .runs(shard(1), &name(1), from.map(at), before.map(at), limit)
            .await
            .unwrap();
        runs.iter()
            .map(|row| (row.run.key.fire_at - at(0)).num_microseconds().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(list(None, None, 3).await, [9, 9, 8]);
    assert_eq!(list(Some(3), Some(6), 100).await, [5, 4, 3]);
    let wanted = [
        (shard(1), name(1)),
        (shard(2), name(2)),
        (shard(3), name(3)),
    ];
    let mut last = schedules.last_runs(&wanted).await.unwrap();
    last.sort_by_key(|row| row.schedule.clone());
    let last: Vec<_> = last
        .iter()
        .map(|row| (row.schedule.as_str(), row.run.key.by_hand))
        .collect();
    assert_eq!(last, [("schedule-1", true), ("schedule-2", false)]);
    schedules.forget_runs(&all_shards(), 4).await.unwrap();
    assert_eq!(list(None, None, 100).await, [9, 9, 8, 7]);
    assert_eq!(schedules.last_runs(&wanted).await.unwrap().len(), 2);
}

pub(super) async fn the_cases_of_a_schedule_are_followed(database: &Database) {
    let (store, leases) = database.owned().await;
    make(&*store, &leases, Numbered(1)).await;
    let ended = batch(&leases, |batch| {
        let case = Numbered(2);
        case.birth(batch);
        let state = batch.states.last_mut().unwrap();
        state.state = CaseState::Succeeded;
        state.closed_at = Some(at(9));
    });
    store.commit(&ended, &NoProjection).await.unwrap();
    let waiting = message(3, Lane::Normal, 1);
    store
        .put_inbox(std::slice::from_ref(&waiting))
        .await
        .unwrap();
    let refused = batch(&leases, |batch| {
        batch.replies.push(ReplyRow {
            shard: ShardId(4),
            id: Uuid::from_u128(4),
            at: at(1),
            accepted: false,
            message: "no workflow".to_owned(),
        });
    });
    store.commit(&refused, &NoProjection).await.unwrap();
    let started = |number: u32, shard: ShardId| Started {
        shard,
        case: Numbered(number).case(),
        message: Uuid::from_u128(u128::from(number)),
    };
    let all = [
        started(1, Numbered(1).shard()),
        started(2, Numbered(2).shard()),
        started(3, waiting.shard),
        started(4, ShardId(4)),
        started(5, ShardId(5)),
    ];
    let found = store.schedules().whereabouts(&all).await.unwrap();
    let found: Vec<Whereabouts> = all.iter().map(|one| found[&one.case].clone()).collect();
    assert_eq!(
        found,
        [
            Whereabouts::Made(CaseState::Running),
            Whereabouts::Made(CaseState::Succeeded),
            Whereabouts::OnItsWay,
            Whereabouts::Refused(Some("no workflow".to_owned())),
            Whereabouts::Refused(None),
        ]
    );
    assert!(store.schedules().whereabouts(&[]).await.unwrap().is_empty());
}

pub(super) async fn text_that_cannot_be_kept_is_refused_in_schedules_too(database: &Database) {
    let (store, leases) = database.owned().await;
    let bad = |fill: fn(&mut ScheduleBatch)| {
        written(&leases, |batch| {
            batch.schedules.push(row(1, None, 1));
            fill(batch);
        })
    };
    for batch in [
        bad(|batch| {
            let mut change = change(1, 1);
            change.change.reason = "a\0".into();
            batch.changes.push(change);
        }),
        bad(|batch| {
            let mut run = run(1, 1, RunOutcome::Missed);
            run.run.reason = "a\0".into();
            batch.runs.push(run);
        }),
        bad(|batch| {
            let mut message = message(1, Lane::Normal, 1);
            message.body = "a\0".into();
            batch.messages.push(message);
        }),
    ] {
        let error = store.schedules().commit(&batch).await.unwrap_err();
        assert!(matches!(error, StoreError::Unstorable { .. }), "{error:?}");
        assert_eq!(store.schedules().of_shards(None).await.unwrap(), []);
    }
}

pub(super) async fn a_schedule_is_written_by_the_owner_of_its_shard(database: &Database) {
    let (store, leases) = database.owned().await;
    let first = written(&leases, |batch| batch.schedules.push(row(1, None, 1)));
    store.schedules().commit(&first).await.unwrap();
    let other = database.open().await;
    let replaces = [NODE.to_owned()];
    let taken = take(&*other, "node-b", LEASE_MS, &replaces).await.unwrap();
    let write =
        |leases: &[ShardLease]| written(leases, |batch| batch.schedules.push(row(1, Some(1), 2)));
    let error = store.schedules().commit(&write(&leases)).await.unwrap_err();
    assert!(matches!(error, StoreError::Fenced { .. }), "{error:?}");
    other.schedules().commit(&write(&taken)).await.unwrap();
}
