//! A database in memory with exactly the semantics of the real ones.
//!
//! It is durable in the simulated world: it outlives every node. It never fails and never waits by itself; that
//! is what the [line](crate::line) between a node and it is for. It passes the engine's conformance suite, so it
//! cannot be kinder than the real ones.
//!
//! The layer above takes part in a real database's transaction through a connection. Here there is none: with a
//! [`Side`] the projection is handed the connection of a small SQLite database beside it (the conformance suite
//! does that), without one it is left out, and what it would have been told is in the batch for the model to see.

mod commit;
mod read;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use chrono::TimeDelta;
use engine::core::Timestamp;
use engine::core::admission::{FIRST_LIFE, OpenCase};
use engine::core::case::CaseState;
use engine::core::id::{CaseId, DefinitionHash, Epoch, ShardId, Subject};
use engine::runner::Clock;
use engine::store::{
    Acquire, Batch, Before, Bones, CaseCursor, CaseFilter, CaseSummary, EvidenceRow, Forgotten,
    GenerationRow, HeadRow, Heartbeat, HistoryRow, InboxRow, Migration, NodeRow, ParkedRow,
    Projection, ReplyRow, ShardLease, ShardRow, StateRow, StepRow, Store, StoreError, StoredCase,
    Termination, TimerRow, Transaction, VersionRow, Work, stored_time,
};
use sqlx::SqliteConnection;
use uuid::Uuid;

type CaseKey = (ShardId, CaseId);
/// The instance as the databases keep it: -1 is the step itself.
type StepKey = (ShardId, CaseId, u16, i64);

/// Everything that is stored.
#[derive(Debug, Default, Clone)]
pub struct Tables {
    pub shards: BTreeMap<ShardId, ShardRow>,
    pub nodes: BTreeMap<String, NodeRow>,
    pub heads: BTreeMap<CaseKey, HeadRow>,
    pub states: BTreeMap<CaseKey, StateRow>,
    pub steps: BTreeMap<StepKey, StepRow>,
    pub history: BTreeMap<(ShardId, CaseId, u64), HistoryRow>,
    pub evidence: BTreeMap<(ShardId, CaseId, u64), EvidenceRow>,
    pub timers: BTreeSet<TimerRow>,
    pub inbox: BTreeMap<(ShardId, Uuid), InboxRow>,
    /// Until when a node holds all of its shards.
    pub node_leases: BTreeMap<String, Timestamp>,
    pub replies: BTreeMap<(ShardId, Uuid), ReplyRow>,
    pub definitions: BTreeMap<DefinitionHash, Version>,
    pub generations: BTreeMap<(ShardId, Subject), u32>,
}

/// A stored version of a workflow.
#[derive(Debug, Clone)]
pub struct Version {
    workflow: String,
    source: String,
    created_at: Timestamp,
}

/// Whoever watches what is written, in the instant it is.
pub trait Watcher: Send + Sync {
    fn taken(&self, leases: &[ShardLease]);
    fn written(&self, batch: &Batch, tables: &Tables);
}

/// What a database leaves unchecked when a bug is planted in it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Unchecked {
    pub epochs: bool,
    pub versions: bool,
}

pub type Side = tokio::sync::Mutex<SqliteConnection>;

pub struct Database {
    tables: Mutex<Tables>,
    /// Writers follow one another, as on a real one.
    writer: tokio::sync::Mutex<()>,
    clock: Arc<dyn Clock>,
    unchecked: Unchecked,
    watcher: Option<Arc<dyn Watcher>>,
    side: Option<Side>,
}

impl Database {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            tables: Mutex::default(),
            writer: tokio::sync::Mutex::default(),
            clock,
            unchecked: Unchecked::default(),
            watcher: None,
            side: None,
        }
    }

    pub fn unchecked(self, unchecked: Unchecked) -> Self {
        Self { unchecked, ..self }
    }

    pub fn watched_by(self, watcher: Arc<dyn Watcher>) -> Self {
        Self {
            watcher: Some(watcher),
            ..self
        }
    }

    #[cfg(test)]
    pub fn beside(self, side: SqliteConnection) -> Self {
        Self {
            side: Some(Side::new(side)),
            ..self
        }
    }

    /// What is stored, for whoever stands outside the world.
    pub fn look<T>(&self, look: impl FnOnce(&Tables) -> T) -> T {
        look(&self.tables())
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn until(&self, lease_ms: u32) -> Timestamp {
        self.clock.now() + TimeDelta::milliseconds(i64::from(lease_ms))
    }
}

fn no_side() -> StoreError {
    StoreError::Projection("the simulated database has no connection to hand out".to_owned())
}

/// The first lease that is not held any more; any owner will do when none is given.
fn lost(tables: &Tables, leases: &[ShardLease], node: Option<&str>) -> Option<ShardId> {
    let held = |lease: &ShardLease| {
        tables.shards.get(&lease.shard).is_some_and(|row| {
            row.epoch == lease.epoch && node.is_none_or(|node| row.owner.as_deref() == Some(node))
        })
    };
    let lost = leases.iter().filter(|lease| !held(lease));
    lost.map(|lease| lease.shard).min()
}

#[async_trait]
impl Store for Database {
    async fn migrate(&self, _: &[Migration], shards: u32) -> Result<(), StoreError> {
        let mut tables = self.tables();
        if tables.shards.is_empty() {
            for shard in (0..i32::try_from(shards).unwrap()).map(ShardId) {
                let row = ShardRow {
                    shard,
                    epoch: Epoch(0),
                    owner: None,
                    lease_until: None,
                    lease_left_ms: None,
                };
                tables.shards.insert(shard, row);
            }
        }
        // Cases of before lives were kept say which they are.
        let Tables {
            heads, generations, ..
        } = &mut *tables;
        for head in heads.values().filter(|head| head.generation > FIRST_LIFE) {
            let key = (head.shard, head.subject.clone());
            let known = generations.entry(key).or_default();
            *known = (*known).max(head.generation);
        }
        Ok(())
    }

    fn writes_at_once(&self) -> usize {
        2
    }

    async fn shard_count(&self) -> Result<u32, StoreError> {
        Ok(u32::try_from(self.tables().shards.len()).unwrap())
    }

    async fn acquire(&self, wanted: &Acquire<'_>) -> Result<Vec<ShardLease>, StoreError> {
        let _writer = self.writer.lock().await;
        let (now, until) = (self.clock.now(), self.until(wanted.lease_ms));
        let mut leases = Vec::new();
        let mut tables = self.tables();
        let Tables {
            shards,
            node_leases,
            ..
        } = &mut *tables;
        // Whose time is over loses its lease for good before a shard of it is taken.
        node_leases.retain(|owner, until| owner == wanted.node || *until > now);
        node_leases.insert(wanted.node.to_owned(), until);
        for row in shards.values_mut() {
            let free = match &row.owner {
                None => true,
                Some(owner) => {
                    wanted.replaces.contains(owner)
                        || (!node_leases.contains_key(owner)
                            && row.lease_until.is_none_or(|until| until <= now))
                }
            };
            let room = leases.len() < usize::try_from(wanted.shards_max).unwrap();
            if free && room && !wanted.holding.contains(&row.shard) {
                row.epoch = Epoch(row.epoch.0 + 1);
                row.owner = Some(wanted.node.to_owned());
                row.lease_until = Some(until);
                leases.push(ShardLease {
                    shard: row.shard,
                    epoch: row.epoch,
                });
            }
        }
        if let Some(watcher) = &self.watcher {
            watcher.taken(&leases);
        }
        Ok(leases)
    }

    async fn renew(
        &self,
        node: &str,
        leases: &[ShardLease],
        lease_ms: u32,
    ) -> Result<Vec<ShardId>, StoreError> {
        let _writer = self.writer.lock().await;
        let until = self.until(lease_ms);
        let mut tables = self.tables();
        if leases.is_empty() {
            return Ok(Vec::new());
        }
        let Some(lease) = tables.node_leases.get_mut(node) else {
            return Ok(leases.iter().map(|lease| lease.shard).collect());
        };
        *lease = until;
        // What it has without knowing would be held by that lease for ever.
        for row in tables.shards.values_mut() {
            let knows = |lease: &ShardLease| lease.shard == row.shard && lease.epoch == row.epoch;
            if row.owner.as_deref() == Some(node) && !leases.iter().any(knows) {
                row.owner = None;
                row.lease_until = None;
            }
        }
        let lost = leases
            .iter()
            .filter(|lease| lost(&tables, &[**lease], Some(node)).is_some());
        Ok(lost.map(|lease| lease.shard).collect())
    }

    async fn release(&self, node: &str, leases: &[ShardLease]) -> Result<(), StoreError> {
        let _writer = self.writer.lock().await;
        let mut tables = self.tables();
        for lease in leases {
            if lost(&tables, &[*lease], Some(node)).is_none()
                && let Some(row) = tables.shards.get_mut(&lease.shard)
            {
                row.owner = None;
                row.lease_until = None;
            }
        }
        Ok(())
    }

    async fn shards(&self) -> Result<Vec<ShardRow>, StoreError> {
        let now = self.clock.now();
        let tables = self.tables();
        let told = |row: &ShardRow| {
            let of_node = row
                .owner
                .as_ref()
                .and_then(|owner| tables.node_leases.get(owner));
            let lease_until = row.lease_until.max(of_node.copied());
            ShardRow {
                lease_until,
                lease_left_ms: lease_until.map(|until| (until - now).num_milliseconds()),
                ..row.clone()
            }
        };
        Ok(tables.shards.values().map(told).collect())
    }

    async fn beat(&self, beat: &Heartbeat) -> Result<(), StoreError> {
        let _writer = self.writer.lock().await;
        let now = self.clock.now();
        let mut tables = self.tables();
        let started_at = tables
            .nodes
            .get(&beat.owner)
            .map_or(now, |row| row.started_at);
        let row = NodeRow {
            owner: beat.owner.clone(),
            name: beat.name.clone(),
            version: beat.version.clone(),
            address: beat.address.clone(),
            lease_ms: i64::from(beat.lease_ms),
            draining: beat.draining,
            started_at,
            heartbeat_at: now,
            silent_ms: 0,
        };
        tables.nodes.insert(beat.owner.clone(), row);
        Ok(())
    }

    async fn nodes(&self) -> Result<Vec<NodeRow>, StoreError> {
        let now = self.clock.now();
        let told = |row: &NodeRow| NodeRow {
            silent_ms: (now - row.heartbeat_at).num_milliseconds(),
            ..row.clone()
        };
        let mut rows: Vec<NodeRow> = self.tables().nodes.values().map(told).collect();
        rows.sort_by(|a, b| (a.started_at, &a.owner).cmp(&(b.started_at, &b.owner)));
        Ok(rows)
    }

    async fn forget_node(&self, owner: &str) -> Result<(), StoreError> {
        let _writer = self.writer.lock().await;
        let mut tables = self.tables();
        tables.node_leases.remove(owner);
        tables.nodes.remove(owner);
        Ok(())
    }

    async fn forget_silent_nodes(&self, silent_ms: u32) -> Result<(), StoreError> {
        let _writer = self.writer.lock().await;
        let since = self.clock.now() - TimeDelta::milliseconds(i64::from(silent_ms));
        self.tables()
            .nodes
            .retain(|_, row| row.heartbeat_at >= since);
        Ok(())
    }

    async fn make_room(&self, _: Timestamp) -> Result<(), StoreError> {
        Ok(())
    }

    /// No world lasts so long that anything is forgotten.
    async fn forget(&self, _: &Before) -> Result<Forgotten, StoreError> {
        Ok(Forgotten::default())
    }

    async fn commit(&self, batch: &Batch, projection: &dyn Projection) -> Result<(), StoreError> {
        let _writer = self.writer.lock().await;
        commit::check(&self.tables(), batch, self.unchecked)?;
        if let Some(side) = &self.side
            && !batch.outcomes.is_empty()
        {
            let mut side = side.lock().await;
            let mut transaction = sqlx::Connection::begin(&mut *side)
                .await
                .map_err(StoreError::Refused)?;
            projection
                .project(&mut Transaction::Sqlite(&mut transaction), &batch.outcomes)
                .await?;
            transaction.commit().await.map_err(StoreError::Refused)?;
        }
        let mut tables = self.tables();
        commit::apply(&mut tables, batch);
        if let Some(watcher) = &self.watcher {
            watcher.written(batch, &tables);
        }
        Ok(())
    }

    async fn write(&self, work: &dyn Work) -> Result<(), StoreError> {
        let _writer = self.writer.lock().await;
        let mut side = self.side.as_ref().ok_or_else(no_side)?.lock().await;
        let mut transaction = sqlx::Connection::begin(&mut *side)
            .await
            .map_err(StoreError::Refused)?;
        let rows = work.run(&mut Transaction::Sqlite(&mut transaction)).await?;
        commit::check_inbox(&rows)?;
        transaction.commit().await.map_err(StoreError::Refused)?;
        commit::put(&mut self.tables(), &rows);
        Ok(())
    }

    async fn put_inbox(&self, rows: &[InboxRow]) -> Result<(), StoreError> {
        commit::check_inbox(rows)?;
        let _writer = self.writer.lock().await;
        commit::put(&mut self.tables(), rows);
        Ok(())
    }

    async fn inbox_since(
        &self,
        shards: &[ShardId],
        since: Option<Timestamp>,
        limit: u32,
    ) -> Result<Vec<InboxRow>, StoreError> {
        Ok(read::inbox(&self.tables(), shards, since, limit))
    }

    async fn reply(&self, shard: ShardId, id: Uuid) -> Result<Option<ReplyRow>, StoreError> {
        Ok(self.tables().replies.get(&(shard, id)).cloned())
    }

    async fn forget_replies(&self, before: Timestamp) -> Result<(), StoreError> {
        let _writer = self.writer.lock().await;
        let before = stored_time(before);
        self.tables().replies.retain(|_, row| row.at >= before);
        Ok(())
    }

    async fn generations(&self, shards: &[ShardId]) -> Result<Vec<GenerationRow>, StoreError> {
        let tables = self.tables();
        let rows = tables.generations.iter();
        Ok(rows
            .filter(|((shard, _), _)| shards.contains(shard))
            .map(|((shard, subject), generation)| GenerationRow {
                shard: *shard,
                subject: subject.clone(),
                generation: *generation,
            })
            .collect())
    }

    async fn bones(&self, shard: ShardId, case: CaseId) -> Result<Option<Bones>, StoreError> {
        let tables = self.tables();
        let key = (shard, case);
        let (Some(head), Some(state)) = (tables.heads.get(&key), tables.states.get(&key)) else {
            return Ok(None);
        };
        let history = tables
            .history
            .range((shard, case, 0)..=(shard, case, u64::MAX));
        let newest = history.last().map_or(0, |((_, _, version), _)| *version);
        Ok(Some(Bones {
            subject: head.subject.clone(),
            workflow: head.workflow.clone(),
            definition: head.definition.clone(),
            generation: head.generation,
            salt: head.salt,
            effective_at: head.effective_at,
            received_at: head.received_at,
            created_at: head.created_at,
            version: state.version.max(newest),
            closed: state.closed_at.is_some(),
        }))
    }

    async fn terminate(&self, end: &Termination) -> Result<(), StoreError> {
        let _writer = self.writer.lock().await;
        commit::terminate(&mut self.tables(), end)
    }

    async fn parked(
        &self,
        after: Option<ParkedRow>,
        limit: u32,
    ) -> Result<Vec<ParkedRow>, StoreError> {
        Ok(read::parked(&self.tables(), after, limit))
    }

    async fn load(&self, shard: ShardId, case: CaseId) -> Result<Option<StoredCase>, StoreError> {
        Ok(read::load(&self.tables(), shard, case))
    }

    async fn locate(&self, case: CaseId) -> Result<Option<ShardId>, StoreError> {
        let tables = self.tables();
        let mut keys = tables.heads.keys();
        Ok(keys.find(|(_, id)| *id == case).map(|(shard, _)| *shard))
    }

    async fn restless(&self, shards: &[ShardId]) -> Result<Vec<(ShardId, CaseId)>, StoreError> {
        Ok(read::restless(&self.tables(), shards))
    }

    async fn existing(&self, cases: &[(ShardId, CaseId)]) -> Result<HashSet<CaseId>, StoreError> {
        let tables = self.tables();
        let there = cases.iter().filter(|key| tables.heads.contains_key(key));
        Ok(there.map(|(_, case)| *case).collect())
    }

    async fn open_cases(
        &self,
        subjects: &[(ShardId, Subject)],
    ) -> Result<Vec<(Subject, OpenCase)>, StoreError> {
        Ok(read::open_cases(&self.tables(), subjects))
    }

    async fn timers(
        &self,
        shards: &[ShardId],
        until: Timestamp,
        limit: u32,
    ) -> Result<Vec<TimerRow>, StoreError> {
        Ok(read::timers(&self.tables(), shards, until, limit))
    }

    async fn put_definition(
        &self,
        hash: &DefinitionHash,
        name: &str,
        source: &str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let _writer = self.writer.lock().await;
        let mut tables = self.tables();
        let stored = tables.definitions.entry(hash.clone());
        stored.or_insert_with(|| Version {
            workflow: name.to_owned(),
            source: source.to_owned(),
            created_at: stored_time(now),
        });
        Ok(())
    }

    async fn definition(&self, hash: &DefinitionHash) -> Result<Option<String>, StoreError> {
        let tables = self.tables();
        let version = tables.definitions.get(hash);
        Ok(version.map(|version| version.source.clone()))
    }

    async fn versions(&self) -> Result<Vec<VersionRow>, StoreError> {
        Ok(read::versions(&self.tables()))
    }

    async fn list(
        &self,
        filter: &CaseFilter,
        after: Option<CaseCursor>,
        limit: u32,
    ) -> Result<Vec<CaseSummary>, StoreError> {
        read::list(&self.tables(), filter, after, limit)
    }

    async fn counts(&self) -> Result<Vec<(String, CaseState, u64)>, StoreError> {
        Ok(read::counts(&self.tables()))
    }

    async fn history(&self, shard: ShardId, case: CaseId) -> Result<Vec<HistoryRow>, StoreError> {
        let tables = self.tables();
        let rows = tables
            .history
            .range((shard, case, 0)..=(shard, case, u64::MAX));
        Ok(rows.map(|(_, row)| row.clone()).collect())
    }

    async fn evidence(&self, shard: ShardId, case: CaseId) -> Result<Vec<EvidenceRow>, StoreError> {
        let tables = self.tables();
        let rows = tables
            .evidence
            .range((shard, case, 0)..=(shard, case, u64::MAX));
        Ok(rows.map(|(_, row)| row.clone()).collect())
    }
}
