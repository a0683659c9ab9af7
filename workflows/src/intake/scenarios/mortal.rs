//! A node that dies at every commit: the store it writes to, the machine it runs on, and its actions.
//!
//! A life writes one batch and no more. Most die with their next batch on its way, some in the middle of its transaction; some
//! die the moment their batch is durable, before anything of it leaves, and whoever comes after such a one dies with its
//! first batch on its way. So a node dies between any two commits, and what it had decided by then is lost and decided
//! again.
//!
//! What only says that something is attempted once more is written without counting: deaths make it, and would each of
//! those be a death again, nothing would ever be done.
//!
//! Lives are few because results come back together: each batch is about everybody who has come as far.

use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use engine::core::Timestamp;
use engine::core::admission::OpenCase;
use engine::core::case::{CaseState, Failure};
use engine::core::event::Event;
use engine::core::id::{CaseId, DefinitionHash, ShardId, Subject};
use engine::core::input::AttemptResult;
use engine::runner::{Actions, Attempt, Availability, Host, Resource, SystemHost, Task};
use engine::store::{
    Acquire, Batch, Before, Bones, CaseCursor, CaseFilter, CaseSummary, EvidenceRow, Forgotten,
    GenerationRow, Heartbeat, Hint, HistoryRow, InboxRow, Migration, NodeRow, Outcome, OutcomeKind,
    ParkedRow, Projection, ReplyRow, ScheduleStore, ShardLease, ShardRow, Store, StoreError,
    StoredCase, Termination, TimerRow, Transaction, VersionRow, Work,
};
use serde_json::Value;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::Instant;
use uuid::Uuid;

/// Nothing more is begun once nothing was for so long; how long whoever waits for that does so at most.
const QUIET: Duration = Duration::from_millis(20);
const TOGETHER_MAX: Duration = Duration::from_millis(500);
/// Names that nodes have one after the other: each is another one than the node before it.
const NAMES: u64 = 3;
/// One in so many lives ends in the middle of a transaction.
const WITHIN: u64 = 3;

/// How a life ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// With its second batch on its way.
    BeforeNext,
    /// When its batch is durable, before anything of it leaves.
    AtOnce,
    /// With its first batch on its way.
    BeforeAny,
}

/// The fates of lives one after the other.
const FATES: [Fate; 4] = [
    Fate::BeforeNext,
    Fate::BeforeNext,
    Fate::AtOnce,
    Fate::BeforeAny,
];

/// Whether anything goes on with this batch: not if all it says is that something is attempted once more, or that a message was
/// for nobody.
fn is_work(batch: &Batch) -> bool {
    let is_anew = |row: &HistoryRow| {
        let events: Vec<Event> = serde_json::from_str(&row.events).unwrap();
        events
            .iter()
            .all(|event| matches!(event, Event::Attempted { attempt, .. } if *attempt > 1))
    };
    !batch.heads.is_empty() || !batch.history.iter().all(is_anew)
}

/// What became of all lives.
#[derive(Debug, Default)]
pub(super) struct Deaths {
    pub lives: AtomicU64,
    /// Batches that were written.
    pub written: AtomicU64,
    /// Batches that were lost on their way, and those of them in the middle of their transaction.
    pub lost: AtomicU64,
    pub within: AtomicU64,
}

/// One life of a node.
#[derive(Debug)]
pub(super) struct Life {
    name: String,
    fate: Fate,
    is_within: bool,
    has_written: AtomicBool,
    is_over: AtomicBool,
    pub dies: Notify,
    tasks: Mutex<Vec<AbortHandle>>,
}

impl Life {
    pub fn new(deaths: &Deaths) -> Arc<Self> {
        let number = deaths.lives.fetch_add(1, Ordering::SeqCst);
        let place = usize::try_from(number).unwrap() % FATES.len();
        Arc::new(Self {
            name: format!("test/{}", number % NAMES),
            fate: FATES[place],
            is_within: number.is_multiple_of(WITHIN),
            has_written: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            dies: Notify::new(),
            tasks: Mutex::default(),
        })
    }

    /// Whoever calls this does nothing more.
    async fn die<T>(&self) -> T {
        self.is_over.store(true, Ordering::SeqCst);
        self.dies.notify_one();
        std::future::pending().await
    }

    /// Waits until nothing of it runs any more.
    pub async fn end(&self) {
        self.is_over.store(true, Ordering::SeqCst);
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap());
        for task in &tasks {
            task.abort();
        }
        while !tasks.iter().all(AbortHandle::is_finished) {
            tokio::task::yield_now().await;
        }
    }
}

impl Host for Life {
    fn own_name(&self, _: &str) -> String {
        self.name.clone()
    }

    fn is_dead(&self, owner: &str) -> bool {
        owner != self.name
    }

    fn random(&self) -> [u8; 16] {
        SystemHost.random()
    }

    fn spawn(&self, task: Task) -> JoinHandle<()> {
        let mut tasks = self.tasks.lock().unwrap();
        let task = tokio::spawn(task);
        if self.is_over.load(Ordering::SeqCst) {
            task.abort();
        }
        tasks.push(task.abort_handle());
        task
    }
}

/// The actions of one life, whose results come back together.
pub(super) struct Together {
    inner: Arc<dyn Actions>,
    /// Attempts and look-ups that are being made.
    out: AtomicUsize,
    /// When one was begun last: a node takes up what was out a few cases at a time.
    begun: Mutex<Instant>,
}

/// Something that is being made; also when it is cut off.
struct Out<'a>(&'a AtomicUsize);

impl Drop for Out<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Together {
    pub fn new(inner: Arc<dyn Actions>) -> Self {
        Self {
            inner,
            out: AtomicUsize::new(0),
            begun: Mutex::new(Instant::now()),
        }
    }

    /// Does `work`, and keeps what came of it until nothing is out and nothing more is begun.
    async fn kept<T>(&self, work: impl Future<Output = T>) -> T {
        *self.begun.lock().unwrap() = Instant::now();
        self.out.fetch_add(1, Ordering::SeqCst);
        let out = Out(&self.out);
        let result = work.await;
        drop(out);
        let until = Instant::now() + TOGETHER_MAX;
        loop {
            let begun = *self.begun.lock().unwrap();
            let left = QUIET.saturating_sub(begun.elapsed());
            let is_out = self.out.load(Ordering::SeqCst) > 0;
            if Instant::now() >= until || left.is_zero() && !is_out {
                return result;
            }
            let pause = if left.is_zero() { QUIET / 4 } else { left };
            // sleeps: between two looks at what is out
            tokio::time::sleep(pause).await;
        }
    }
}

#[async_trait]
impl Actions for Together {
    fn exists(&self, uses: &str) -> bool {
        self.inner.exists(uses)
    }

    fn fact_roots(&self) -> Vec<&'static str> {
        self.inner.fact_roots()
    }

    async fn facts(
        &self,
        subject: &Subject,
        input: &Value,
        roots: &BTreeSet<String>,
    ) -> Result<Value, Failure> {
        self.kept(self.inner.facts(subject, input, roots)).await
    }

    fn resource(&self, attempt: &Attempt) -> Option<Resource> {
        self.inner.resource(attempt)
    }

    fn availability(&self, resource: &str) -> Availability {
        self.inner.availability(resource)
    }

    fn at_once(&self, attempt: &Attempt) -> Option<AttemptResult> {
        self.inner.at_once(attempt)
    }

    async fn run(&self, attempt: &Attempt) -> AttemptResult {
        self.kept(self.inner.run(attempt)).await
    }
}

/// The store of one life.
pub(super) struct Mortal {
    inner: Arc<dyn Store>,
    life: Arc<Life>,
    deaths: Arc<Deaths>,
    /// One batch is on its way at a time, so that it is known at which one the node dies.
    turn: tokio::sync::Mutex<()>,
}

impl Mortal {
    pub fn new(inner: Arc<dyn Store>, life: Arc<Life>, deaths: Arc<Deaths>) -> Self {
        Self {
            inner,
            life,
            deaths,
            turn: tokio::sync::Mutex::default(),
        }
    }
}

/// Dies in the middle of the transaction.
struct DiesWithin<'a> {
    mortal: &'a Mortal,
    inner: &'a dyn Projection,
}

#[async_trait]
impl Projection for DiesWithin<'_> {
    fn wants(&self, kind: &OutcomeKind) -> bool {
        self.inner.wants(kind)
    }

    async fn project(
        &self,
        transaction: &mut Transaction<'_>,
        outcomes: &[Outcome],
    ) -> Result<(), StoreError> {
        self.inner.project(transaction, outcomes).await?;
        self.mortal.deaths.within.fetch_add(1, Ordering::SeqCst);
        self.mortal.life.die().await
    }
}

#[async_trait]
impl Store for Mortal {
    async fn commit(&self, batch: &Batch, projection: &dyn Projection) -> Result<(), StoreError> {
        let _turn = self.turn.lock().await;
        if !is_work(batch) {
            return self.inner.commit(batch, projection).await;
        }
        let life = &self.life;
        if life.fate == Fate::BeforeAny || life.has_written.load(Ordering::SeqCst) {
            self.deaths.lost.fetch_add(1, Ordering::SeqCst);
            if life.is_within && !batch.outcomes.is_empty() {
                let within = DiesWithin {
                    mortal: self,
                    inner: projection,
                };
                self.inner.commit(batch, &within).await?;
            }
            return life.die().await;
        }
        self.inner.commit(batch, projection).await?;
        life.has_written.store(true, Ordering::SeqCst);
        self.deaths.written.fetch_add(1, Ordering::SeqCst);
        if life.fate == Fate::AtOnce {
            return life.die().await;
        }
        Ok(())
    }

    /// One, so that each batch is about everybody.
    fn writes_at_once(&self) -> usize {
        1
    }

    async fn migrate(&self, migrations: &[Migration], shards: u32) -> Result<(), StoreError> {
        self.inner.migrate(migrations, shards).await
    }

    fn schedules(&self) -> &dyn ScheduleStore {
        self.inner.schedules()
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
        self.inner.renew(node, leases, lease_ms).await
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
        self.inner.forget(before).await
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
