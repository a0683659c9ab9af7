//! Counts what was committed: cases made and closed, access lag, and the commits themselves. Counted only once
//! the database has it.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use async_trait::async_trait;
use engine::core::Timestamp;
use engine::core::admission::OpenCase;
use engine::core::case::{CaseState, Verification};
use engine::core::id::{CaseId, DefinitionHash, ShardId, Subject};
use engine::store::{
    Acquire, Batch, Before, Bones, CaseCursor, CaseFilter, CaseSummary, EvidenceRow, Forgotten,
    GenerationRow, Heartbeat, Hint, HistoryRow, InboxRow, Migration, NodeRow, Outcome, OutcomeKind,
    ParkedRow, Projection, ReplyRow, ShardLease, ShardRow, StepEnding, Store, StoreError,
    StoredCase, Termination, TimerRow, VersionRow, Work,
};
use engine::store::{
    ScheduleBatch, ScheduleChangeRow, ScheduleRow, ScheduleRunRow, ScheduleStore, Started,
    Whereabouts,
};
use tokio::time::Instant;
use uuid::Uuid;
use workflows::actions::name;
use workflows::directory::LagKind;

use super::actions::system_of;
use super::{Metrics, Spans};

/// What the names of the workflows begin with that replace credentials.
const ROTATIONS: &str = "rotation_";

/// A store whose commits are counted. Give it to the node; everything else may use the store itself.
pub struct ObservedStore {
    inner: Arc<dyn Store>,
    schedules: ObservedSchedules,
    metrics: Metrics,
    spans: Option<Spans>,
}

impl ObservedStore {
    #[must_use]
    pub fn new(inner: Arc<dyn Store>, metrics: Metrics, spans: Option<Spans>) -> Self {
        let schedules = ObservedSchedules {
            inner: Arc::clone(&inner),
            metrics: metrics.clone(),
        };
        Self {
            inner,
            schedules,
            metrics,
            spans,
        }
    }

    fn count(&self, batch: &Batch) {
        // A timer that is cleared before it is due was not wanted any more. All of a batch is of one moment.
        if let Some(now) = batch.states.iter().map(|row| row.changed_at).max() {
            for timer in batch.timers_cleared.iter().filter(|timer| timer.due <= now) {
                self.metrics.timer_fired((now - timer.due).as_seconds_f64());
            }
        }
        for head in &batch.heads {
            self.metrics.case_started(&head.workflow);
        }
        for outcome in &batch.outcomes {
            match &outcome.kind {
                OutcomeKind::Closed { state } => {
                    self.metrics.case_closed(&outcome.workflow, *state);
                    if outcome.workflow.starts_with(ROTATIONS) {
                        self.metrics.rotation_closed(*state);
                    }
                    if let Some(spans) = &self.spans {
                        spans.closed(outcome);
                    }
                }
                OutcomeKind::Step { uses, ending, .. } => {
                    let ending = match ending {
                        StepEnding::Done => "done",
                        StepEnding::Undone => "undone",
                        StepEnding::Unknown => "unknown",
                    };
                    self.metrics.step(uses, ending);
                }
                OutcomeKind::Asked { .. }
                | OutcomeKind::Overdue { .. }
                | OutcomeKind::Parked { .. }
                | OutcomeKind::DeadlinePassed { .. } => {}
            }
            if let Some((system, kind, seconds)) = lag(outcome) {
                self.metrics.lag(system, kind, seconds);
            }
        }
    }
}

impl ObservedStore {
    fn fenced(&self, error: &StoreError) {
        if let StoreError::Fenced { .. } = error {
            self.metrics.leases_lost(1);
        }
    }
}

/// How long a verified change of access took: from the moment it was effective *and* known.
fn lag(outcome: &Outcome) -> Option<(&str, LagKind, f64)> {
    let OutcomeKind::Step {
        uses,
        ending: StepEnding::Done,
        item,
        with,
        output,
        verification,
        ..
    } = &outcome.kind
    else {
        return None;
    };
    let kind = match uses.as_str() {
        name::ACCOUNT_CREATE | name::ACCOUNT_ENABLE | name::GRANT_ADD => LagKind::Grant,
        name::ACCOUNT_DISABLE
        | name::ACCOUNT_DELETE
        | name::GRANT_REVOKE
        | name::SESSIONS_REVOKE => LagKind::Removal,
        _ => return None,
    };
    if *verification != Some(Verification::Verified) {
        return None;
    }
    let since = outcome
        .effective_at
        .map_or(outcome.received_at, |effective| {
            effective.max(outcome.received_at)
        });
    Some((
        system_of([with, item, output])?,
        kind,
        (outcome.at - since).as_seconds_f64().max(0.0),
    ))
}

#[async_trait]
impl Store for ObservedStore {
    async fn commit(&self, batch: &Batch, projection: &dyn Projection) -> Result<(), StoreError> {
        let start = Instant::now();
        let committed = self.inner.commit(batch, projection).await;
        match &committed {
            Ok(()) => {
                self.metrics.committed(batch.history.len(), start.elapsed());
                self.count(batch);
            }
            Err(error) => {
                self.metrics.commit_failed();
                self.fenced(error);
            }
        }
        committed
    }

    async fn migrate(&self, migrations: &[Migration], shards: u32) -> Result<(), StoreError> {
        self.inner.migrate(migrations, shards).await
    }

    fn schedules(&self) -> &dyn ScheduleStore {
        &self.schedules
    }

    fn writes_at_once(&self) -> usize {
        self.inner.writes_at_once()
    }

    async fn shard_count(&self) -> Result<u32, StoreError> {
        self.inner.shard_count().await
    }

    async fn acquire(&self, wanted: &Acquire<'_>) -> Result<Vec<ShardLease>, StoreError> {
        self.inner.acquire(wanted).await
    }

    async fn renew(
        &self,
        node: &str,
        leases: &[ShardLease],
        lease_ms: u32,
    ) -> Result<Vec<ShardId>, StoreError> {
        let lost = self.inner.renew(node, leases, lease_ms).await?;
        self.metrics.leases_lost(lost.len() as u64);
        Ok(lost)
    }

    async fn release(&self, node: &str, leases: &[ShardLease]) -> Result<(), StoreError> {
        self.inner.release(node, leases).await
    }

    async fn shards(&self) -> Result<Vec<ShardRow>, StoreError> {
        self.inner.shards().await
    }

    async fn beat(&self, beat: &Heartbeat) -> Result<(), StoreError> {
        self.inner.beat(beat).await
    }

    async fn nodes(&self) -> Result<Vec<NodeRow>, StoreError> {
        self.inner.nodes().await
    }

    async fn forget_node(&self, owner: &str) -> Result<(), StoreError> {
        self.inner.forget_node(owner).await
    }

    async fn forget_silent_nodes(&self, silent_ms: u32) -> Result<(), StoreError> {
        self.inner.forget_silent_nodes(silent_ms).await
    }

    fn hint_ownership(&self) {
        self.inner.hint_ownership();
    }

    async fn hinted(&self) -> Hint {
        self.inner.hinted().await
    }

    async fn write(&self, work: &dyn Work) -> Result<(), StoreError> {
        self.inner.write(work).await
    }

    async fn put_inbox(&self, rows: &[InboxRow]) -> Result<(), StoreError> {
        self.inner.put_inbox(rows).await
    }

    async fn inbox_since(
        &self,
        shards: &[ShardId],
        since: Option<Timestamp>,
        limit: u32,
    ) -> Result<Vec<InboxRow>, StoreError> {
        self.inner.inbox_since(shards, since, limit).await
    }

    async fn reply(&self, shard: ShardId, id: Uuid) -> Result<Option<ReplyRow>, StoreError> {
        self.inner.reply(shard, id).await
    }

    async fn forget_replies(&self, before: Timestamp) -> Result<(), StoreError> {
        self.inner.forget_replies(before).await
    }

    async fn make_room(&self, now: Timestamp) -> Result<(), StoreError> {
        self.inner.make_room(now).await
    }

    async fn forget(&self, before: &Before) -> Result<Forgotten, StoreError> {
        let forgotten = self.inner.forget(before).await?;
        self.metrics.removed("partitions", forgotten.partitions);
        self.metrics.removed("rows", forgotten.rows);
        self.metrics.removed("cases", forgotten.cases);
        Ok(forgotten)
    }

    async fn load(&self, shard: ShardId, case: CaseId) -> Result<Option<StoredCase>, StoreError> {
        self.inner.load(shard, case).await
    }

    async fn bones(&self, shard: ShardId, case: CaseId) -> Result<Option<Bones>, StoreError> {
        self.inner.bones(shard, case).await
    }

    async fn terminate(&self, end: &Termination) -> Result<(), StoreError> {
        self.inner.terminate(end).await
    }

    async fn locate(&self, case: CaseId) -> Result<Option<ShardId>, StoreError> {
        self.inner.locate(case).await
    }

    async fn restless(&self, shards: &[ShardId]) -> Result<Vec<(ShardId, CaseId)>, StoreError> {
        self.inner.restless(shards).await
    }

    async fn generations(&self, shards: &[ShardId]) -> Result<Vec<GenerationRow>, StoreError> {
        self.inner.generations(shards).await
    }

    async fn existing(&self, cases: &[(ShardId, CaseId)]) -> Result<HashSet<CaseId>, StoreError> {
        self.inner.existing(cases).await
    }

    async fn open_cases(
        &self,
        subjects: &[(ShardId, Subject)],
    ) -> Result<Vec<(Subject, OpenCase)>, StoreError> {
        self.inner.open_cases(subjects).await
    }

    async fn timers(
        &self,
        shards: &[ShardId],
        until: Timestamp,
        limit: u32,
    ) -> Result<Vec<TimerRow>, StoreError> {
        self.inner.timers(shards, until, limit).await
    }

    async fn put_definition(
        &self,
        hash: &DefinitionHash,
        name: &str,
        source: &str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.inner.put_definition(hash, name, source, now).await
    }

    async fn definition(&self, hash: &DefinitionHash) -> Result<Option<String>, StoreError> {
        self.inner.definition(hash).await
    }

    async fn versions(&self) -> Result<Vec<VersionRow>, StoreError> {
        self.inner.versions().await
    }

    async fn list(
        &self,
        filter: &CaseFilter,
        after: Option<CaseCursor>,
        limit: u32,
    ) -> Result<Vec<CaseSummary>, StoreError> {
        self.inner.list(filter, after, limit).await
    }

    async fn parked(
        &self,
        after: Option<ParkedRow>,
        limit: u32,
    ) -> Result<Vec<ParkedRow>, StoreError> {
        self.inner.parked(after, limit).await
    }

    async fn counts(&self) -> Result<Vec<(String, CaseState, u64)>, StoreError> {
        self.inner.counts().await
    }

    async fn history(&self, shard: ShardId, case: CaseId) -> Result<Vec<HistoryRow>, StoreError> {
        self.inner.history(shard, case).await
    }

    async fn evidence(&self, shard: ShardId, case: CaseId) -> Result<Vec<EvidenceRow>, StoreError> {
        self.inner.evidence(shard, case).await
    }
}

/// The schedules of such a store, whose runs are counted.
struct ObservedSchedules {
    inner: Arc<dyn Store>,
    metrics: Metrics,
}

#[async_trait]
impl ScheduleStore for ObservedSchedules {
    async fn of_shards(&self, shards: Option<&[ShardId]>) -> Result<Vec<ScheduleRow>, StoreError> {
        self.inner.schedules().of_shards(shards).await
    }

    async fn commit(&self, batch: &ScheduleBatch) -> Result<(), StoreError> {
        self.inner.schedules().commit(batch).await?;
        for row in &batch.runs {
            self.metrics.schedule_run(&row.run);
        }
        Ok(())
    }

    async fn runs(
        &self,
        shard: ShardId,
        schedule: &str,
        from: Option<Timestamp>,
        before: Option<Timestamp>,
        limit: u32,
    ) -> Result<Vec<ScheduleRunRow>, StoreError> {
        let schedules = self.inner.schedules();
        schedules.runs(shard, schedule, from, before, limit).await
    }

    async fn last_runs(
        &self,
        schedules: &[(ShardId, String)],
    ) -> Result<Vec<ScheduleRunRow>, StoreError> {
        self.inner.schedules().last_runs(schedules).await
    }

    async fn changes(
        &self,
        shard: ShardId,
        schedule: &str,
        limit: u32,
    ) -> Result<Vec<ScheduleChangeRow>, StoreError> {
        let schedules = self.inner.schedules();
        schedules.changes(shard, schedule, limit).await
    }

    async fn whereabouts(
        &self,
        started: &[Started],
    ) -> Result<BTreeMap<CaseId, Whereabouts>, StoreError> {
        self.inner.schedules().whereabouts(started).await
    }

    async fn forget_runs(&self, shards: &[ShardId], keep: u32) -> Result<(), StoreError> {
        self.inner.schedules().forget_runs(shards, keep).await
    }
}
