//! Rows to write.

use chrono::TimeDelta;
use serde_json::json;

use super::*;
use crate::core::case::Ending;
use crate::core::id::{Epoch, InstanceIndex, StepIndex};

pub(super) fn at(micros: i64) -> Timestamp {
    "2026-03-01T12:00:00Z".parse::<Timestamp>().unwrap() + TimeDelta::microseconds(micros)
}

/// The case of number `number`: its subject, and so its shard, follow from it.
#[derive(Clone, Copy)]
pub(super) struct Numbered(pub u32);

impl Numbered {
    pub(super) fn subject(self) -> Subject {
        Subject(format!("person-{}", self.0))
    }

    pub(super) fn shard(self) -> ShardId {
        self.subject().shard(SHARDS)
    }

    pub(super) fn case(self) -> CaseId {
        CaseId(Uuid::from_u128(0x1000 + u128::from(self.0)))
    }

    pub(super) fn head(self) -> HeadRow {
        HeadRow {
            shard: self.shard(),
            case: self.case(),
            subject: self.subject(),
            workflow: "joiner".to_owned(),
            definition: DefinitionHash("abc".to_owned()),
            lane: Lane::Normal,
            generation: 3,
            input: json!({"identity": {"name": "Zoë \u{1f600}", "share": 0.5}, "list": [1, null, "x"]}),
            salt: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 255],
            initiator: Actor("source:hr".to_owned()),
            effective_at: Some(at(-5)),
            received_at: at(1),
            created_at: at(i64::from(self.0)),
        }
    }

    pub(super) fn state(self, from_version: Option<u64>, version: u64) -> StateRow {
        StateRow {
            shard: self.shard(),
            case: self.case(),
            from_version,
            version,
            state: CaseState::Running,
            ending: Some(Ending::Undoing),
            in_flight: 1,
            parked: 2,
            unfinished: 3,
            unverified: 4,
            given_up: 5,
            steps_done: 6,
            deadline_at: Some(at(7)),
            deadline_passed: true,
            closed_at: None,
            changed_at: at(8),
            paused: None,
        }
    }

    pub(super) fn step(self, step: u16, instance: Option<u32>, state: &str) -> StepRow {
        StepRow {
            shard: self.shard(),
            case: self.case(),
            step,
            instance,
            state: state.to_owned(),
            attempt: 1,
            failures: 2,
            away: 3,
            planned_version: None,
            body: json!({"state": {"state": state}}).to_string(),
            changed_at: at(9),
        }
    }

    pub(super) fn history(self, version: u64) -> HistoryRow {
        HistoryRow {
            shard: self.shard(),
            case: self.case(),
            version,
            at: at(10),
            input: "start".to_owned(),
            by: "engine".to_owned(),
            events: r#"[{"event":"undo_started"}]"#.to_owned(),
        }
    }

    pub(super) fn evidence(self, version: u64) -> EvidenceRow {
        EvidenceRow {
            shard: self.shard(),
            case: self.case(),
            version,
            at: at(11),
            leaf: format!("{{\"version\":{version},\"who\":\"Zoë\"}}").into_bytes(),
        }
    }

    pub(super) fn timer(self, due: i64, target: TimerTarget) -> TimerRow {
        TimerRow {
            shard: self.shard(),
            due: at(due),
            case: self.case(),
            target,
        }
    }

    pub(super) fn outcome(self, version: u64) -> Outcome {
        Outcome {
            shard: self.shard(),
            case: self.case(),
            version,
            subject: self.subject(),
            workflow: "joiner".to_owned(),
            lane: Lane::Normal,
            generation: 3,
            at: at(12),
            effective_at: None,
            received_at: at(1),
            kind: OutcomeKind::Closed {
                state: CaseState::Succeeded,
            },
        }
    }

    /// Makes the case at version 1 with one step in flight.
    pub(super) fn birth(self, batch: &mut Batch) {
        batch.heads.push(self.head());
        batch.states.push(self.state(None, 1));
        let mut step = self.step(0, Some(0), "running");
        step.planned_version = Some(0);
        batch.steps.push(step);
        batch.history.push(self.history(1));
        batch.evidence.push(self.evidence(1));
    }

    /// Moves the case from `from` to the next version: one step is finished, the next one begun.
    pub(super) fn advance(self, from: u64, batch: &mut Batch) {
        let version = from + 1;
        batch.states.push(self.state(Some(from), version));
        let mut done = self.step(from as u16 - 1, Some(0), "done");
        done.planned_version = Some(from - 1);
        let mut next = self.step(from as u16, Some(0), "running");
        next.planned_version = Some(from);
        batch.steps.extend([done, next]);
        batch.history.push(self.history(version));
        batch.evidence.push(self.evidence(version));
    }
}

/// A batch with the leases it needs, once `fill` has put its rows in.
pub(super) fn batch(leases: &[ShardLease], fill: impl FnOnce(&mut Batch)) -> Batch {
    let mut batch = Batch {
        leases: leases.to_vec(),
        ..Batch::default()
    };
    fill(&mut batch);
    batch
}

pub(super) async fn make(store: &dyn Store, leases: &[ShardLease], case: Numbered) {
    store
        .commit(&batch(leases, |batch| case.birth(batch)), &NoProjection)
        .await
        .unwrap();
}

pub(super) async fn load(store: &dyn Store, case: Numbered) -> Option<StoredCase> {
    store.load(case.shard(), case.case()).await.unwrap()
}

pub(super) fn instance(step: u16, instance: u32) -> TimerTarget {
    TimerTarget::Instance(Place {
        step: StepIndex(step),
        instance: InstanceIndex(instance),
    })
}

/// Takes all that can be had.
pub(super) async fn take(
    store: &dyn Store,
    node: &str,
    lease_ms: u32,
    replaces: &[String],
) -> Result<Vec<ShardLease>, StoreError> {
    let wanted = Acquire {
        node,
        lease_ms,
        replaces,
        holding: &[],
        shards_max: SHARDS,
    };
    store.acquire(&wanted).await
}

pub(super) fn older(leases: &[ShardLease]) -> Vec<ShardLease> {
    let older = |lease: &ShardLease| ShardLease {
        epoch: Epoch(lease.epoch.0 - 1),
        ..*lease
    };
    leases.iter().map(older).collect()
}

pub(super) fn message(number: u32, lane: Lane, received: i64) -> InboxRow {
    InboxRow {
        shard: ShardId((number % SHARDS) as i32),
        id: Uuid::from_u128(u128::from(number)),
        lane,
        received_at: at(received),
        body: json!({"number": number}).to_string(),
    }
}

pub(super) fn all_shards() -> Vec<ShardId> {
    (0..SHARDS as i32).map(ShardId).collect()
}

/// Everything of a case that a failed batch could have left behind.
pub(super) async fn everything(
    store: &dyn Store,
    case: Numbered,
) -> (
    Option<StoredCase>,
    Vec<HistoryRow>,
    Vec<EvidenceRow>,
    Vec<TimerRow>,
    Vec<InboxRow>,
    usize,
) {
    let shards = all_shards();
    let open = store
        .open_cases(&[(case.shard(), case.subject())])
        .await
        .unwrap();
    (
        load(store, case).await,
        store.history(case.shard(), case.case()).await.unwrap(),
        store.evidence(case.shard(), case.case()).await.unwrap(),
        store
            .timers(&shards, at(i64::from(u32::MAX)), 1_000)
            .await
            .unwrap(),
        store.inbox(&shards, 1_000).await.unwrap(),
        open.len(),
    )
}

/// A batch that touches every table for `case`, which must be at version 1.
pub(super) fn touch_everything(leases: &[ShardLease], case: Numbered, other: Numbered) -> Batch {
    batch(leases, |batch| {
        other.birth(batch);
        case.advance(1, batch);
        batch.steps.push(case.step(7, None, "skipped"));
        batch.timers_cleared.push(case.timer(1, TimerTarget::Case));
        batch.timers_set.push(case.timer(2, TimerTarget::Case));
        let done = message(u32::try_from(case.shard().0).unwrap(), Lane::Normal, 0);
        batch.inbox_done.push((done.shard, done.id));
        batch.replies.push(ReplyRow {
            shard: done.shard,
            id: done.id,
            at: at(3),
            accepted: true,
            message: "done".to_owned(),
        });
        batch.outcomes.push(case.outcome(2));
    })
}

/// What [`touch_everything`] needs to be there.
pub(super) async fn prepare_everything(store: &dyn Store, leases: &[ShardLease], case: Numbered) {
    let batch = batch(leases, |batch| {
        case.birth(batch);
        batch.timers_set.push(case.timer(1, TimerTarget::Case));
    });
    store.commit(&batch, &NoProjection).await.unwrap();
    let waiting = message(u32::try_from(case.shard().0).unwrap(), Lane::Normal, 0);
    store.put_inbox(&[waiting]).await.unwrap();
}
