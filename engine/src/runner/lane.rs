//! The loop that moves cases: gather, decide, write, then let effects leave.
//!
//! Longer than 800 lines: gathering, deciding and writing share the state of the loop, and apart they would hand
//! it to one another.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::TimeDelta;
use serde_json::Value;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::attempt;
use super::definitions::Definitions;
use super::gate::{Gate, Queued, Work};
use super::hold::Hold;
use super::host::Host;
use super::hot::Hot;
use super::lives::Lives;
use super::message::{Command, Message, StartCase};
use super::node::NodeStatus;
use super::port::{Actions, Attempt, Clock, Resource};
use super::schedules::Schedules;
use super::shards::{News, Order, Shards};
use super::streams::{Arrival, Follow, Gathered, Left, Streams, Writing};
use super::unread::{Fetched, Loaded, termination};
use crate::core::Timestamp;
use crate::core::admission::{self, Admission, OpenCase};
use crate::core::case::{Case, CaseState, Failure, FailureClass, InstanceState, Mode, NewCase};
use crate::core::decide::{Effect, Illegal, decide};
use crate::core::definition::{Definition, Lane as Priority};
use crate::core::id::{Actor, CaseId, DefinitionHash, Epoch, Place, ShardId, StepIndex, Subject};
use crate::core::input::{AttemptResult, Input, Migrate, TimerTarget};
use crate::core::proof::Proof;
use crate::evidence::Cause;
use crate::store::{
    Batch, GenerationRow, InboxRow, Projection, ReplyRow, ShardLease, Store, StoreError, TimerRow,
    assemble,
};

/// How far ahead timers are held in memory.
const HORIZON_MS: i64 = 60_000;
/// How often the inbox is looked at when nobody nudges.
const INBOX_POLL: Duration = Duration::from_millis(250);
/// How many messages one look takes, and how many while revocations are at work: what they wait for is written
/// in small batches then.
const INBOX_ROWS_MAX: u32 = 1_000;
const INBOX_ROWS_BESIDE_REVOCATIONS: u32 = 100;
/// How much of one batch may be the normal lane's while revocations are at work: inputs, and messages among them.
const NORMAL_BESIDE_REVOCATIONS: usize = 100;
const NORMAL_MESSAGES_BESIDE_REVOCATIONS: usize = 20;
/// How many pieces of work may wait in memory before new cases of the normal lane stay in the inbox.
const WAITING_MAX: usize = 500_000;
/// Work that touches no system, and reading facts, go through queues of their own: both ask the database.
const INSIDE: &str = "(inside)";
const FACTS: &str = "(facts)";
const INSIDE_CONCURRENCY: usize = 32;
const INSIDE_RESERVED: usize = 8;
/// How many timers one look takes.
const TIMERS_MAX: usize = 10_000;
/// The most unfinished instances that an end by force lists one by one.
const TERMINATE_INSTANCES_MAX: u32 = 20_000;
/// Pauses while facts cannot be read.
const FACTS_PAUSE_FIRST: Duration = Duration::from_millis(200);
const FACTS_PAUSE_MAX: Duration = Duration::from_secs(30);
/// How often the node says how it stands while it is never without work.
const PUBLISH: Duration = Duration::from_secs(1);
/// How often long-lived tables are tidied.
const TIDY_MS: i64 = 600_000;
/// How long a reply is kept for whoever asked.
const REPLY_KEPT_MS: i64 = 3_600_000;

/// How many cases of shards that were gained are loaded before the others get their turn.
const RESTLESS_ROUND: usize = 64;
/// How long a shard that is given up waits for what is in flight there.
const GIVE_UP_MAX: Duration = Duration::from_secs(10);

/// A new case, for what its admission does.
struct Meets {
    id: CaseId,
    shard: ShardId,
    generation: u32,
    /// The life its subject was in.
    newest: u32,
    effective_at: Option<Timestamp>,
}

/// Writes a batch. What of it belongs to shards that another node has taken is left out, and those are named.
async fn commit(parts: &Parts, mut batch: Batch) -> Result<BTreeSet<ShardId>, StoreError> {
    let mut lost = BTreeSet::new();
    while let Some(lease) = batch.leases.first() {
        // Not even tried: by the time it is written, another may have the shards.
        if parts.hold.is_over() {
            return Err(StoreError::Fenced { shard: lease.shard });
        }
        let fenced = match parts.store.commit(&batch, &*parts.projection).await {
            Ok(()) => break,
            Err(error @ StoreError::Fenced { .. }) => error,
            Err(error) => return Err(error),
        };
        let rows = parts.store.shards().await?;
        let recorded: HashMap<ShardId, Epoch> =
            rows.iter().map(|row| (row.shard, row.epoch)).collect();
        let found: BTreeSet<ShardId> = batch
            .leases
            .iter()
            .filter(|lease| recorded.get(&lease.shard) != Some(&lease.epoch))
            .map(|lease| lease.shard)
            .collect();
        if found.is_empty() {
            return Err(fenced);
        }
        batch.retain_shards(|shard| !found.contains(&shard));
        lost.extend(found);
    }
    Ok(lost)
}

/// Everything a lane works with.
pub(super) struct Parts {
    pub store: Arc<dyn Store>,
    pub projection: Arc<dyn Projection>,
    pub actions: Arc<dyn Actions>,
    pub definitions: Arc<Definitions>,
    pub clock: Arc<dyn Clock>,
    pub host: Arc<dyn Host>,
    pub nudge: Arc<Notify>,
    /// How often somebody asked whether the node is idle: the answer must not come from a look begun before.
    pub asked: Arc<AtomicU64>,
    /// Stop taking work in.
    pub draining: CancellationToken,
    pub status: watch::Sender<NodeStatus>,
    /// Attempts that are out.
    pub tracker: TaskTracker,
    /// How long anything may be done.
    pub hold: Arc<Hold>,
}

pub(super) struct Lane {
    parts: Arc<Parts>,
    shards: Shards,
    shard_count: u32,
    /// Ends everything that is out.
    life: CancellationToken,
    orders: mpsc::UnboundedReceiver<Order>,
    news: mpsc::UnboundedSender<News>,
    /// Cases of gained shards that need their owner, in order; those that have not been recovered yet.
    restless: VecDeque<(ShardId, CaseId)>,
    unrecovered: HashSet<CaseId>,
    hot: Hot,
    gate: Gate,
    arrivals: mpsc::UnboundedReceiver<Arrival>,
    arrive: mpsc::UnboundedSender<Arrival>,
    streams: Streams,
    /// The soonest first, of whatever shard.
    timers: BinaryHeap<Reverse<(Timestamp, TimerRow)>>,
    /// All timers due up to here are in memory, and when the later ones are looked for.
    horizon: Timestamp,
    refill_at: Timestamp,
    lives: Lives,
    /// Cases that are not to be read any more, because they are ended as they are.
    unread: BTreeSet<CaseId>,
    schedules: Schedules,
    tidied_at: Timestamp,
    published: Instant,
    /// How often it was asked whether it is idle.
    answered: u64,
    batches: u64,
    transitions: u64,
}

impl Lane {
    /// A lane without shards; `orders` bring them.
    pub fn new(
        parts: Arc<Parts>,
        shard_count: u32,
        life: CancellationToken,
        orders: mpsc::UnboundedReceiver<Order>,
        news: mpsc::UnboundedSender<News>,
    ) -> Self {
        let (arrive, arrivals) = mpsc::unbounded_channel();
        let now = parts.clock.now();
        Self {
            shards: Shards::default(),
            shard_count,
            life,
            orders,
            news,
            restless: VecDeque::new(),
            unrecovered: HashSet::new(),
            hot: Hot::default(),
            gate: Gate::default(),
            arrivals,
            arrive,
            streams: Streams::new(parts.store.writes_at_once()),
            timers: BinaryHeap::new(),
            horizon: now,
            refill_at: now,
            lives: Lives::default(),
            unread: BTreeSet::new(),
            schedules: Schedules::new(shard_count),
            tidied_at: now,
            published: Instant::now(),
            answered: 0,
            batches: 0,
            transitions: 0,
            parts,
        }
    }

    /// Runs until told to drain and nothing is out any more.
    ///
    /// While the batch of one stream is being written its next is gathered, and so are those of the others: the
    /// processor and the disk work at the same time. What is gathered meanwhile rests on what is being written; if
    /// that is refused, both are dropped. Whatever asks the database which cases a subject has waits until nothing
    /// of its stream is being written, so that it sees everything but what is pending. Shards come and go while
    /// nothing is being written at all.
    ///
    /// # Errors
    /// Any refusal of the store: the caller starts again from the database.
    pub async fn run(&mut self) -> Result<(), StoreError> {
        loop {
            let draining = self.parts.draining.is_cancelled();
            let asked = self.parts.asked.load(Ordering::SeqCst);
            if asked != self.answered {
                self.answered = asked;
                self.streams.look_at_all();
            }
            if self.streams.are_quiet() {
                self.take_orders();
                self.open_shards().await?;
            }
            self.let_shards_go();
            // Shards are to come or go: nothing new is begun until all is written. Settled here for the whole round,
            // because whatever is taken from the inbox must be sent before the inbox is looked at again.
            let held_up = !self.orders.is_empty();
            let quiet = if held_up {
                Vec::new()
            } else {
                self.streams.quiet()
            };
            for stream in &quiet {
                self.start_next_of_freed(*stream).await?;
            }
            if !draining && !quiet.is_empty() {
                self.take_restless().await?;
                // Before the inbox is looked at again: it takes messages out by itself.
                self.work_schedules().await?;
                for stream in &quiet {
                    self.take_inbox(*stream).await?;
                }
                self.take_timers().await?;
            }
            self.take_arrivals().await?;
            self.let_leave().await?;
            if !held_up {
                self.write();
            }
            if self.streams.are_quiet() {
                if draining && !held_up && self.gate.out() == 0 {
                    self.publish(true);
                    return Ok(());
                }
                if !draining && self.schedules.due(self.parts.clock.now()) {
                    continue;
                }
                let is_unasked = self.parts.asked.load(Ordering::SeqCst) == asked;
                self.publish(is_unasked && self.is_idle());
            } else if self.published.elapsed() > PUBLISH {
                self.publish(false);
            }
            if let Some((stream, written, lost)) = self.wait(draining, held_up).await {
                self.written(stream, written, lost?).await?;
            }
        }
    }

    /// Sends what was gathered on its way to the database.
    fn write(&mut self) {
        for index in 0..self.streams.len() {
            let Some(stream) = self.streams.get(index).filter(|stream| stream.is_due()) else {
                continue;
            };
            let gathered = std::mem::take(&mut stream.next);
            let writing = self.send(gathered);
            if let Some(stream) = self.streams.get(index) {
                stream.writing = Some(writing);
            }
        }
    }

    fn send(&mut self, gathered: Gathered) -> Writing {
        let now = self.parts.clock.now();
        self.transitions += u64::try_from(gathered.pending.transitions()).unwrap_or(0);
        let (mut batch, touched) = gathered.pending.finish(|id| self.hot.get(id), now);
        batch.leases = self.leases_of(&batch);
        let (timers, fired) = (batch.timers_set.clone(), batch.timers_cleared.clone());
        let parts = Arc::clone(&self.parts);
        self.batches += u64::from(!batch.leases.is_empty());
        let (tell, written) = oneshot::channel();
        let task = self.parts.host.spawn(Box::pin(async move {
            let _ = tell.send(commit(&parts, batch).await);
        }));
        Writing {
            _task: AbortOnDropHandle::new(task),
            written,
            timers,
            fired,
            touched,
            follows: gathered.follows,
            freed: gathered.freed,
        }
    }

    /// What a batch calls for, now that it is durable, except for shards that were `lost`.
    async fn written(
        &mut self,
        stream: usize,
        mut written: Writing,
        lost: BTreeSet<ShardId>,
    ) -> Result<(), StoreError> {
        if !lost.is_empty() {
            tracing::warn!(
                shards = lost.len(),
                "a commit found shards taken by another node"
            );
            let lease = |shard: &ShardId| {
                let epoch = self.shards.epoch(*shard)?;
                Some(ShardLease {
                    shard: *shard,
                    epoch,
                })
            };
            let leases: Vec<ShardLease> = lost.iter().filter_map(lease).collect();
            self.drop_shards(&lost);
            written.freed.retain(|(shard, _)| !lost.contains(shard));
            let _ = self.news.send(News::Lost(leases));
        }
        for timer in written.timers {
            if timer.due <= self.horizon && self.shards.works(timer.shard) {
                self.timers.push(Reverse((timer.due, timer)));
            }
        }
        for follow in written.follows {
            self.follow(follow);
        }
        for id in &written.touched {
            if self.hot.get(*id).is_some_and(|case| case.state.is_closed()) {
                self.schedules.closed(*id);
            }
        }
        if let Some(stream) = self.streams.get(stream) {
            stream.freed.extend(written.freed);
            self.hot
                .settle(&written.touched, |case| stream.next.pending.touches(case));
        }
        if self.hot.is_crowded() {
            let touched = self.streams.touched();
            self.hot.make_room(|case| touched.contains(&case));
        }
        self.tidy(self.parts.clock.now()).await
    }

    // --- shards come and go ---------------------------------------------------------------------------

    fn take_orders(&mut self) {
        while let Ok(order) = self.orders.try_recv() {
            self.obey(order);
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Gain(leases) => {
                // Of an ownership that ended unheard of nothing may stay.
                let before = leases.iter().map(|lease| lease.shard).collect();
                self.drop_shards(&before);
                self.shards.gain(leases);
            }
            Order::Lose(leases) => self.drop_shards(&self.shards.among(&leases)),
            Order::GiveUp(count) => {
                let by = Instant::now() + GIVE_UP_MAX;
                self.shards.give_up(count, by, &self.hot.load());
                let leaving = self.shards.leaving();
                // What has not left yet need not: the intent is durable, and the next owner finds it.
                self.gate.drop_shards(&leaving.iter().copied().collect());
                let _ = self.news.send(News::Leaving(leaving));
            }
        }
    }

    /// Begins with the shards that were gained.
    async fn open_shards(&mut self) -> Result<(), StoreError> {
        let opened = self.shards.open(&self.life);
        if !opened.is_empty() {
            for row in self.parts.store.generations(&opened).await? {
                self.lives.take(row);
            }
            let restless = self.parts.store.restless(&opened).await?;
            let leases: Vec<ShardLease> = opened
                .iter()
                .filter_map(|shard| {
                    let epoch = self.shards.epoch(*shard)?;
                    Some(ShardLease {
                        shard: *shard,
                        epoch,
                    })
                })
                .collect();
            let now = self.parts.clock.now();
            self.schedules
                .gain(&*self.parts.store, &leases, now)
                .await?;
            self.unrecovered.extend(restless.iter().map(|(_, id)| *id));
            self.restless.extend(restless);
            self.streams.look_anew();
            // Their timers are not in memory yet.
            self.horizon = self.parts.clock.now();
            self.refill_at = self.horizon;
        }
        Ok(())
    }

    /// Gives up the shards whose work is back and written, and those that have waited for long enough.
    fn let_shards_go(&mut self) {
        let mut leave = self.shards.ready_to_leave(Instant::now());
        leave.retain(|lease| self.streams.are_done_with(lease.shard));
        if !leave.is_empty() {
            self.drop_shards(&leave.iter().map(|lease| lease.shard).collect());
            let _ = self.news.send(News::Left(leave));
        }
    }

    /// Forgets all that belongs to these shards. What is out comes back as if from nowhere.
    fn drop_shards(&mut self, gone: &BTreeSet<ShardId>) {
        self.shards.drop(gone);
        let cases = self.hot.drop_shards(gone);
        self.streams.drop_shards(gone, &cases);
        self.gate.drop_shards(gone);
        self.restless.retain(|(shard, _)| !gone.contains(shard));
        self.unrecovered = self.restless.iter().map(|(_, id)| *id).collect();
        self.timers
            .retain(|Reverse((_, timer))| !gone.contains(&timer.shard));
        self.lives.drop_shards(gone);
        self.schedules.lose(gone);
    }

    // --- gathering ------------------------------------------------------------------------------------

    /// Loads some of the cases that need their owner; a few, so that the others are not kept waiting.
    async fn take_restless(&mut self) -> Result<(), StoreError> {
        for _ in 0..RESTLESS_ROUND {
            let Some((shard, id)) = self.restless.pop_front() else {
                break;
            };
            self.recover(shard, id).await?;
        }
        Ok(())
    }

    /// What is in flight of an earlier owner is read back before anything else happens to the case.
    async fn recover(&mut self, shard: ShardId, id: CaseId) -> Result<(), StoreError> {
        if !self.unrecovered.remove(&id) {
            return Ok(());
        }
        let Fetched::Case(case) = self.fetch(shard, id).await? else {
            return Ok(());
        };
        if case.state == CaseState::Queued {
            let subject = (shard, case.subject.clone());
            self.streams.of(shard).freed.insert(subject);
        }
        self.hot.insert(*case);
        if let Err(illegal) = self.decide(id, shard, Input::Recovered)? {
            tracing::error!(case = %id, %illegal, "a case cannot be recovered");
        }
        Ok(())
    }

    /// Notes that something which was out is back: its slot is free at once, its result is decided in turn.
    fn came_back(&mut self, arrival: Arrival) {
        let Some(left) = &arrival.from else {
            let stream = self.streams.of(arrival.shard);
            return stream.ready.push(Priority::Normal, arrival);
        };
        self.gate.returned(&left.queue, left.lane);
        self.shards.returned(arrival.shard, left.epoch);
        if self.shards.epoch(arrival.shard) == Some(left.epoch) {
            let (lane, stream) = (left.lane, self.streams.of(arrival.shard));
            stream.ready.push(lane, arrival);
        } else {
            tracing::debug!(case = %arrival.case, shard = %arrival.shard, "too late: the shard is another's");
        }
    }

    /// Decides over what is ready, revocations first. While there are any, the normal lane gets only a part of
    /// the batch: a small batch is written sooner.
    async fn take_arrivals(&mut self) -> Result<(), StoreError> {
        for stream in 0..self.streams.len() {
            while let Some(arrival) = self.next_arrival(stream) {
                let (id, shard) = (arrival.case, arrival.shard);
                match self.step(id, shard, arrival.input.clone()).await? {
                    Ok(()) => {}
                    // A program that can read the case may find its timers.
                    Err(Illegal::Broken(_)) => {}
                    Err(refused) => {
                        if let Input::TimerDue { target, due } = arrival.input {
                            let row = TimerRow {
                                shard,
                                due,
                                case: id,
                                target,
                            };
                            self.streams.of(shard).next.pending.strayed(row);
                        }
                        tracing::debug!(case = %id, %refused, "an input no longer fits");
                    }
                }
            }
        }
        Ok(())
    }

    fn next_arrival(&mut self, stream: usize) -> Option<Arrival> {
        while let Ok(arrival) = self.arrivals.try_recv() {
            self.came_back(arrival);
        }
        let is_revoking = self.is_revoking();
        let stream = self.streams.get(stream)?;
        if stream.next.pending.is_full() {
            return None;
        }
        if let Some(arrival) = stream.ready.revocation.pop_front() {
            return Some(arrival);
        }
        if stream.next.normal >= NORMAL_BESIDE_REVOCATIONS && is_revoking {
            return None;
        }
        let arrival = stream.ready.normal.pop_front()?;
        stream.next.normal += 1;
        Some(arrival)
    }

    /// Whether a revocation is being worked on.
    fn is_revoking(&self) -> bool {
        self.gate.is_revoking()
            || self
                .streams
                .iter()
                .any(|stream| !stream.ready.revocation.is_empty())
    }

    /// Lets the core decide over one input.
    async fn step(
        &mut self,
        id: CaseId,
        shard: ShardId,
        input: Input,
    ) -> Result<Result<(), Illegal>, StoreError> {
        self.recover(shard, id).await?;
        match self.load(id, shard).await? {
            Loaded::There => {}
            Loaded::Missing => return Ok(Err(Illegal::NoSuchPlace)),
            Loaded::Broken(why) => {
                return match input {
                    Input::Terminate { by, reason } => {
                        self.terminate_unread(shard, id, by, reason).await
                    }
                    _ => Ok(Err(Illegal::Broken(why))),
                };
            }
        }
        self.decide(id, shard, input)
    }

    /// Decides over one input. A case of an earlier life that could not be read when that was over ends first of all.
    fn decide(
        &mut self,
        id: CaseId,
        shard: ShardId,
        input: Input,
    ) -> Result<Result<(), Illegal>, StoreError> {
        let Some(case) = self.hot.get(id) else {
            return Ok(Err(Illegal::NoSuchPlace));
        };
        let (life, newest) = (case.generation, self.lives.of(&case.subject));
        let supersedes = matches!(input, Input::Supersede { .. });
        if life < newest && !case.is_ending() && !supersedes {
            let end = Input::Supersede { generation: newest };
            if let Err(illegal) = self.carry_out(id, shard, end)? {
                return Ok(Err(illegal));
            }
            if input.is_asked() {
                return Ok(Err(Illegal::OfEarlierLife {
                    case: life,
                    subject: newest,
                }));
            }
        }
        self.carry_out(id, shard, input)
    }

    /// Decides over one input, and over all that follows from it without anything leaving.
    fn carry_out(
        &mut self,
        id: CaseId,
        shard: ShardId,
        input: Input,
    ) -> Result<Result<(), Illegal>, StoreError> {
        let mut effects = VecDeque::new();
        if let Err(illegal) = self.transition(id, shard, input, &mut effects)? {
            return Ok(Err(illegal));
        }
        while let Some(effect) = effects.pop_front() {
            let Some((place, attempt, result)) = self.prepare(id, shard, effect) else {
                continue;
            };
            if self.streams.of(shard).next.pending.is_full() {
                self.answer(id, shard, place, attempt, result);
                continue;
            }
            let input = Input::AttemptFinished {
                place,
                attempt,
                result: Box::new(result),
            };
            if let Err(illegal) = self.transition(id, shard, input, &mut effects)? {
                tracing::debug!(case = %id, %illegal, "a result no longer fits");
            }
        }
        Ok(Ok(()))
    }

    fn transition(
        &mut self,
        id: CaseId,
        shard: ShardId,
        input: Input,
        effects: &mut VecDeque<Effect>,
    ) -> Result<Result<(), Illegal>, StoreError> {
        let Some(case) = self.hot.get_mut(id) else {
            return Ok(Err(Illegal::NoSuchPlace));
        };
        let now = self.parts.clock.now();
        let before = case.version;
        let cause = cause(&input);
        let decision = match decide(case, input, now) {
            Ok(decision) => decision,
            Err(illegal) => return Ok(Err(illegal)),
        };
        let next = &mut self.streams.of(shard).next;
        let projection = &*self.parts.projection;
        next.pending
            .transition(case, before, &decision, &cause, now, projection)?;
        // A queued case moves by nothing but its end and its resumption.
        if case.state.is_closed() || case.state == CaseState::Queued {
            next.freed.push((shard, case.subject.clone()));
        }
        effects.extend(decision.effects);
        Ok(Ok(()))
    }

    /// Notes what follows once the batch is written. Gives the result of an attempt that need not leave.
    fn prepare(
        &mut self,
        id: CaseId,
        shard: ShardId,
        effect: Effect,
    ) -> Option<(Place, u32, AttemptResult)> {
        let case = self.hot.get(id)?;
        let since = self.parts.clock.now();
        let queued = |work| Queued {
            case: id,
            shard,
            definition: Arc::clone(&case.definition),
            since,
            work,
        };
        let follow = match effect {
            Effect::Attempt {
                place,
                attempt,
                mode,
            } => {
                let epoch = self.epoch(shard);
                let built = match attempt::build(case, place, attempt, mode.clone(), epoch) {
                    Ok(built) => built,
                    Err(failure) => {
                        let proof = Proof::default();
                        return Some((place, attempt, AttemptResult::Failed { failure, proof }));
                    }
                };
                if let Some(result) = self.parts.actions.at_once(&built) {
                    return Some((place, attempt, result));
                }
                let resource = self.parts.actions.resource(&built);
                let work = Work::Attempt {
                    place,
                    attempt,
                    mode,
                };
                Follow::Queue(resource.unwrap_or_else(|| inside(INSIDE)), queued(work))
            }
            Effect::Facts { step } => Follow::Queue(inside(FACTS), queued(Work::Facts { step })),
            Effect::Abort { place, attempt } => Follow::Abort {
                case: id,
                shard,
                place,
                attempt,
            },
            Effect::Escalate { to, reason } => Follow::Escalate {
                case: id,
                shard,
                to,
                reason,
            },
            Effect::Closed => return None,
        };
        self.streams.of(shard).next.follows.push(follow);
        None
    }

    /// Fires the schedules that are due. What they start comes through the inbox, like everything else.
    async fn work_schedules(&mut self) -> Result<(), StoreError> {
        let now = self.parts.clock.now();
        if !self.schedules.due(now) {
            return Ok(());
        }
        let parts = Arc::clone(&self.parts);
        let (store, host) = (&*parts.store, &*parts.host);
        let work = self.schedules.work(store, &parts.definitions, host, now);
        match work.await {
            Ok(true) => self.streams.look(),
            Ok(false) => {}
            Err(StoreError::Fenced { shard }) => {
                tracing::warn!(%shard, "a schedule's shard was taken by another node");
                let epoch = self.shards.epoch(shard);
                let lost = epoch.map(|epoch| ShardLease { shard, epoch });
                self.drop_shards(&BTreeSet::from([shard]));
                let _ = self.news.send(News::Lost(lost.into_iter().collect()));
                // What else was to be written is decided again.
                self.streams.look_anew();
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn take_timers(&mut self) -> Result<(), StoreError> {
        let now = self.parts.clock.now();
        // What has fired and is not written yet is still in the database.
        let firing = self
            .streams
            .iter()
            .map(|stream| stream.ready.len())
            .sum::<usize>();
        if now >= self.refill_at && firing < TIMERS_MAX / 4 && !self.shards.working().is_empty() {
            self.refill_timers(now).await?;
        }
        while self
            .timers
            .peek()
            .is_some_and(|Reverse((due, _))| *due <= now)
        {
            let Some(Reverse((_, timer))) = self.timers.pop() else {
                break;
            };
            // Of a shard that is being given up: the next owner finds it. Left here it would wake the lane at once, again
            // and again.
            if !self.shards.works(timer.shard) {
                continue;
            }
            let input = Input::TimerDue {
                target: timer.target,
                due: timer.due,
            };
            let hot = self.hot.get(timer.case);
            let lane = hot.map_or(Priority::Normal, |case| case.definition.lane);
            self.streams.of(timer.shard).ready.push(
                lane,
                Arrival {
                    case: timer.case,
                    shard: timer.shard,
                    from: None,
                    input,
                },
            );
        }
        Ok(())
    }

    async fn refill_timers(&mut self, now: Timestamp) -> Result<(), StoreError> {
        let until = now + TimeDelta::milliseconds(HORIZON_MS);
        let limit = u32::try_from(TIMERS_MAX).unwrap_or(u32::MAX);
        let shards = self.shards.working();
        let rows = self.parts.store.timers(shards, until, limit).await?;
        // A full page ends where it ends; the next is fetched when most of it is due.
        (self.horizon, self.refill_at) = match (rows.last(), rows.get(TIMERS_MAX / 4 * 3)) {
            (Some(last), Some(late)) if rows.len() >= TIMERS_MAX => (last.due, late.due),
            _ => (until, now + TimeDelta::milliseconds(HORIZON_MS / 2)),
        };
        let firing = self.streams.firing();
        let waiting = rows.into_iter().filter(|timer| !firing.contains(timer));
        self.timers = waiting.map(|timer| Reverse((timer.due, timer))).collect();
        Ok(())
    }

    async fn take_inbox(&mut self, stream: usize) -> Result<(), StoreError> {
        let shards = self.streams.shards_of(stream, self.shards.working());
        match self.streams.get(stream) {
            Some(stream) if !shards.is_empty() && !stream.inbox_empty => {}
            Some(stream) => {
                stream.inbox_empty = true;
                return Ok(());
            }
            None => return Ok(()),
        }
        let rows_max = if self.is_revoking() {
            INBOX_ROWS_BESIDE_REVOCATIONS
        } else {
            INBOX_ROWS_MAX
        };
        let waiting: usize = self.streams.iter().map(|stream| stream.ready.len()).sum();
        let crowded = self.gate.waiting() + waiting > WAITING_MAX;
        let Some(look) = self.streams.get(stream) else {
            return Ok(());
        };
        let begun = look.look.begin(self.parts.clock.now());
        let store = &self.parts.store;
        let mut rows = store.inbox_since(&shards, begun.since, rows_max).await?;
        let found = rows.len();
        // What is in the inbox is durable and costs nothing; it is looked at again soon.
        let mut normal_max = match (crowded, self.is_revoking()) {
            (true, _) => 0,
            (false, true) => NORMAL_MESSAGES_BESIDE_REVOCATIONS,
            (false, false) => rows.len(),
        };
        rows.retain(|row| {
            let room = row.lane == Priority::Revocation || normal_max > 0;
            normal_max -= usize::from(row.lane == Priority::Normal && normal_max > 0);
            room
        });
        if let Some(stream) = self.streams.get(stream) {
            let took_all =
                rows.len() == found && u32::try_from(found).is_ok_and(|found| found < rows_max);
            stream.look.end(&begun, &rows, took_all);
            stream.inbox_empty = rows.is_empty();
        }
        if rows.is_empty() {
            return Ok(());
        }
        let mut messages: Vec<(InboxRow, Result<Message, serde_json::Error>)> =
            Vec::with_capacity(rows.len());
        let mut subjects = BTreeSet::new();
        let mut starting = Vec::new();
        for row in rows {
            let message = match serde_json::from_str::<Message>(&row.body) {
                Ok(Message::Schedule { name, command }) => {
                    self.schedules.take(row, name, command);
                    continue;
                }
                other => other,
            };
            if let Ok(Message::Start(start)) = &message {
                subjects.insert((row.shard, start.subject.clone()));
                starting.push((row.shard, start.case));
            }
            messages.push((row, message));
        }
        let subjects: Vec<_> = subjects.into_iter().collect();
        let mut open: HashMap<Subject, Vec<OpenCase>> = HashMap::new();
        let mut known = HashSet::new();
        if !subjects.is_empty() {
            known = self.parts.store.existing(&starting).await?;
            for (subject, case) in self.parts.store.open_cases(&subjects).await? {
                open.entry(subject).or_default().push(case);
            }
        }
        for (row, message) in messages {
            if let Ok(Message::Command {
                case,
                command: Command::Terminate { .. },
                ..
            }) = &message
                && self.is_large(*case)
            {
                if self.streams.of(row.shard).next.pending.touches(*case) {
                    // Once this batch is written.
                    continue;
                }
                // Its end would be a batch of its own size: it is ended as one that cannot be read.
                self.hot.remove(*case);
                self.unread.insert(*case);
            }
            let next = &mut self.streams.of(row.shard).next;
            next.pending.inbox_done(row.shard, row.id);
            let verdict = match message {
                // The same cause sent again: its case is there already.
                Ok(Message::Start(start)) if known.contains(&start.case) => Ok(()),
                Ok(Message::Start(start)) => self.start_case(&row, start, &mut open).await?,
                Ok(Message::Command {
                    case,
                    definition,
                    command,
                }) => self.command(case, row.shard, definition, command).await?,
                // They were taken out above.
                Ok(Message::Schedule { name, .. }) => {
                    Err(format!("a message to schedule `{name}` is out of place"))
                }
                Err(error) => Err(format!("the message is not understood: {error}")),
            };
            let (accepted, message) = match verdict {
                Ok(()) => (true, String::new()),
                Err(message) => (false, message),
            };
            if !accepted {
                tracing::warn!(message = %row.id, reason = %message, "a message was refused");
            }
            let at = self.parts.clock.now();
            let next = &mut self.streams.of(row.shard).next;
            next.pending.reply(ReplyRow {
                shard: row.shard,
                id: row.id,
                at,
                accepted,
                message,
            });
        }
        Ok(())
    }

    async fn command(
        &mut self,
        case: CaseId,
        shard: ShardId,
        definition: Option<DefinitionHash>,
        command: Command,
    ) -> Result<Result<(), String>, StoreError> {
        if let Some(meant) = definition
            && matches!(self.load(case, shard).await?, Loaded::There)
            && let Some(case) = self.hot.get(case)
            && case.definition.hash != meant
        {
            return Ok(Err(format!(
                "the case came to version `{}` of its workflow meanwhile; look at it again",
                case.definition.hash.short()
            )));
        }
        let input = match self.input_of(command).await? {
            Ok(input) => input,
            Err(why) => return Ok(Err(why)),
        };
        let moved = self.step(case, shard, input).await?;
        Ok(moved.map_err(|illegal| illegal.to_string()))
    }

    async fn input_of(&self, command: Command) -> Result<Result<Input, String>, StoreError> {
        Ok(Ok(match command {
            Command::Migrate {
                from,
                to,
                mapping,
                by,
                reason,
            } => match self.definition(&to).await? {
                Ok(to) => Input::Migrate(Box::new(Migrate {
                    from,
                    to,
                    mapping,
                    by,
                    reason,
                })),
                Err(why) => return Ok(Err(why)),
            },
            plain => match Input::try_from(plain) {
                Ok(input) => input,
                Err(_) => return Ok(Err("the command is not understood".to_owned())),
            },
        }))
    }

    async fn start_case(
        &mut self,
        row: &InboxRow,
        start: StartCase,
        open: &mut HashMap<Subject, Vec<OpenCase>>,
    ) -> Result<Result<(), String>, StoreError> {
        let shard = start.subject.shard(self.shard_count);
        if shard != row.shard {
            return Ok(Err(format!(
                "subject belongs to shard {shard}, not {}",
                row.shard
            )));
        }
        let Some(definition) = self.parts.definitions.by_name(&start.workflow) else {
            return Ok(Err(format!("there is no workflow `{}`", start.workflow)));
        };
        let id = start.case;
        if self.hot.get(id).is_some() {
            return Ok(Ok(()));
        }
        let siblings = open.entry(start.subject.clone()).or_default();
        self.bring_up_to_date(siblings);
        let newest = admission::newest_life(self.lives.of(&start.subject), siblings);
        // Whoever knows nothing of lives means the one the subject is in.
        let generation = if start.generation == 0 {
            newest
        } else {
            start.generation
        };
        let admission = admission::admit(&definition, generation, newest, siblings);
        if let Admission::Reject { id, workflow } = admission {
            return Ok(Err(format!(
                "case `{id}` of workflow `{workflow}` is open for this subject, and `{}` does not start beside it",
                definition.name
            )));
        }
        let now = self.parts.clock.now();
        let case = Case::new(NewCase {
            id,
            shard,
            subject: start.subject.clone(),
            definition: Arc::clone(&definition),
            generation,
            input: Arc::new(start.input),
            salt: self.parts.host.random(),
            initiator: start.initiator,
            effective_at: start.effective_at,
            received_at: row.received_at,
            created_at: now,
        });
        self.streams.of(shard).next.pending.created(&case);
        self.hot.insert(case);
        if generation > newest {
            let row = GenerationRow {
                shard,
                subject: start.subject,
                generation,
            };
            self.streams.of(shard).next.pending.generation(row.clone());
            self.lives.take(row);
        }
        let meets = Meets {
            id,
            shard,
            generation,
            newest,
            effective_at: start.effective_at,
        };
        self.meet(&meets, admission, siblings).await?;
        siblings.push(OpenCase {
            id,
            workflow: definition.name.clone(),
            state: CaseState::Queued,
            lane: definition.lane,
            generation,
            created_at: now,
            paused: false,
        });
        Ok(Ok(()))
    }

    /// What the admission of a case does to it and to the open ones of its subject.
    async fn meet(
        &mut self,
        new: &Meets,
        admission: Admission,
        siblings: &mut Vec<OpenCase>,
    ) -> Result<(), StoreError> {
        let (id, shard) = (new.id, new.shard);
        let Admission::Enter {
            supersede,
            preempt,
            merge,
        } = admission
        else {
            let generation = new.newest;
            self.attend(id, shard, Input::Supersede { generation })
                .await?;
            return Ok(());
        };
        for other in supersede {
            let generation = new.generation;
            self.attend(other, shard, Input::Supersede { generation })
                .await?;
        }
        for other in preempt {
            self.attend(other, shard, Input::Preempt { by: id }).await?;
        }
        for into in merge {
            let absorb = Input::Absorb {
                case: id,
                effective_at: new.effective_at,
            };
            if self.attend(into, shard, absorb).await? {
                self.attend(id, shard, Input::Merge { into }).await?;
                return Ok(());
            }
        }
        self.bring_up_to_date(siblings);
        if admission::is_free(siblings) {
            self.streams.of(shard).ready.drop_starts(siblings);
            self.attend(id, shard, Input::Start).await?;
        }
        Ok(())
    }

    /// What the database says of open cases, as of now: it does not have yet what is being gathered.
    fn bring_up_to_date(&self, open: &mut Vec<OpenCase>) {
        open.retain_mut(|case| {
            let Some(hot) = self.hot.get(case.id) else {
                return true;
            };
            case.state = hot.state;
            case.paused = hot.paused.is_some();
            !hot.state.is_closed()
        });
    }

    /// One input that the start of another case brings about; false when it does not fit.
    async fn attend(
        &mut self,
        id: CaseId,
        shard: ShardId,
        input: Input,
    ) -> Result<bool, StoreError> {
        let name = input.name();
        match self.step(id, shard, input).await? {
            Ok(()) => Ok(true),
            Err(illegal) => {
                tracing::debug!(case = %id, input = name, %illegal, "a case is left as it is");
                Ok(false)
            }
        }
    }

    /// Starts the next case of every subject whose case closed.
    async fn start_next_of_freed(&mut self, stream: usize) -> Result<(), StoreError> {
        let Some(stream) = self.streams.get(stream) else {
            return Ok(());
        };
        if stream.freed.is_empty() {
            return Ok(());
        }
        let freed = std::mem::take(&mut stream.freed);
        let works = |(shard, _): &(ShardId, Subject)| self.shards.works(*shard);
        let subjects: Vec<_> = freed.into_iter().filter(works).collect();
        let shard_of: HashMap<Subject, ShardId> = subjects
            .iter()
            .map(|(shard, subject)| (subject.clone(), *shard))
            .collect();
        let mut open: BTreeMap<Subject, Vec<OpenCase>> = BTreeMap::new();
        for (subject, case) in self.parts.store.open_cases(&subjects).await? {
            open.entry(subject).or_default().push(case);
        }
        for (subject, mut cases) in open {
            self.bring_up_to_date(&mut cases);
            if let (Some(next), Some(shard)) = (admission::next(&cases), shard_of.get(&subject)) {
                let lane = cases
                    .iter()
                    .find(|case| case.id == next)
                    .map_or(Priority::Normal, |case| case.lane);
                self.streams.of(*shard).ready.push(
                    lane,
                    Arrival {
                        case: next,
                        shard: *shard,
                        from: None,
                        input: Input::Start,
                    },
                );
            }
        }
        Ok(())
    }

    /// Brings a case into memory.
    async fn load(&mut self, id: CaseId, shard: ShardId) -> Result<Loaded, StoreError> {
        if self.hot.get(id).is_none() {
            match self.fetch(shard, id).await? {
                Fetched::Case(case) => self.hot.insert(*case),
                Fetched::Missing => return Ok(Loaded::Missing),
                Fetched::Broken(why) => return Ok(Loaded::Broken(why)),
            }
        }
        Ok(Loaded::There)
    }

    /// Loads a case. One that cannot be read is told apart from a store that does not answer: it must not keep the
    /// others of the lane from being worked on.
    async fn fetch(&self, shard: ShardId, id: CaseId) -> Result<Fetched, StoreError> {
        let fetched = self.read(shard, id).await;
        if let Ok(Fetched::Broken(why)) = &fetched {
            tracing::error!(case = %id, reason = %why, "a case cannot be read; `tenure case cancel --force` ends it");
        }
        fetched
    }

    async fn read(&self, shard: ShardId, id: CaseId) -> Result<Fetched, StoreError> {
        if self.unread.contains(&id) {
            return Ok(Fetched::Broken("it is being ended".to_owned()));
        }
        let stored = match self.parts.store.load(shard, id).await {
            Ok(Some(stored)) => stored,
            Ok(None) => return Ok(Fetched::Missing),
            Err(error @ StoreError::Corrupt { .. }) => return Ok(Fetched::broken(&error)),
            Err(error) => return Err(error),
        };
        let hash = stored.head.definition.clone();
        let definition = match self.definition(&hash).await? {
            Ok(definition) => definition,
            Err(why) => return Ok(Fetched::Broken(why)),
        };
        match assemble(definition, stored) {
            Ok(case) => Ok(Fetched::Case(Box::new(case))),
            Err(error @ StoreError::Corrupt { .. }) => Ok(Fetched::broken(&error)),
            Err(error) => Err(error),
        }
    }

    /// Ends a case of which no more is known than that it is there. A transaction of its own: nothing of the
    /// case is in memory, so no batch can touch it.
    async fn terminate_unread(
        &mut self,
        shard: ShardId,
        id: CaseId,
        by: Actor,
        reason: String,
    ) -> Result<Result<(), Illegal>, StoreError> {
        self.unread.remove(&id);
        if reason.trim().is_empty() {
            return Ok(Err(Illegal::ReasonRequired));
        }
        let Some(epoch) = self.shards.epoch(shard) else {
            return Err(StoreError::Fenced { shard });
        };
        let Some(bones) = self.parts.store.bones(shard, id).await? else {
            return Ok(Err(Illegal::NoSuchPlace));
        };
        if bones.closed {
            return Ok(Err(Illegal::State(CaseState::Cancelled, "terminate")));
        }
        let input = Input::Terminate {
            by: by.clone(),
            reason: reason.clone(),
        };
        let now = self.parts.clock.now();
        let lease = ShardLease { shard, epoch };
        let end = termination(lease, id, &bones, &cause(&input), by, reason, now)?;
        self.parts.store.terminate(&end).await?;
        let stream = self.streams.of(shard);
        stream.freed.insert((shard, bones.subject));
        Ok(Ok(()))
    }

    fn is_large(&self, id: CaseId) -> bool {
        let unfinished = self.hot.get(id).map_or(0, |case| case.unfinished);
        unfinished > TERMINATE_INSTANCES_MAX
    }

    /// A version of a workflow, or why there is none to work with.
    async fn definition(
        &self,
        hash: &DefinitionHash,
    ) -> Result<Result<Arc<Definition>, String>, StoreError> {
        if let Some(definition) = self.parts.definitions.by_hash(hash) {
            return Ok(Ok(definition));
        }
        let Some(source) = self.parts.store.definition(hash).await? else {
            return Ok(Err(format!("workflow version `{hash}` is not stored")));
        };
        // A stored version was checked when it was added; its actions may have gone since.
        let roots = self.parts.actions.fact_roots();
        let parsed = Definition::parse(hash.short(), &source, &roots, &|_| true);
        Ok(match parsed {
            Ok(parsed) => Ok(self.parts.definitions.keep(parsed)),
            Err(problems) => Err(format!(
                "workflow version `{hash}` cannot be read any more: {problems}"
            )),
        })
    }

    fn leases_of(&self, batch: &Batch) -> Vec<ShardLease> {
        let mut shards: BTreeSet<ShardId> = batch.states.iter().map(|row| row.shard).collect();
        shards.extend(batch.timers_cleared.iter().map(|row| row.shard));
        shards.extend(batch.inbox_done.iter().map(|(shard, _)| *shard));
        shards.extend(batch.replies.iter().map(|row| row.shard));
        let mut leases: Vec<ShardLease> = shards
            .into_iter()
            .filter_map(|shard| {
                Some(ShardLease {
                    shard,
                    epoch: self.shards.epoch(shard)?,
                })
            })
            .collect();
        leases.sort_by_key(|lease| lease.shard);
        leases
    }

    // --- effects, after the commit --------------------------------------------------------------------

    fn follow(&mut self, follow: Follow) {
        match follow {
            // Of a shard that was given up or lost since, the intent is durable, and the next owner finds it.
            Follow::Queue(resource, queued) => {
                if self.shards.works(queued.shard) {
                    self.gate.push(&resource, queued);
                }
            }
            Follow::Abort {
                case,
                shard,
                place,
                attempt,
            } => {
                if self.shards.works(shard) && self.gate.abort(case, place, attempt) {
                    self.answer(case, shard, place, attempt, AttemptResult::NotSent);
                }
            }
            Follow::Escalate {
                case, to, reason, ..
            } => {
                tracing::warn!(case = %case, to = to.as_deref().unwrap_or("nobody"), %reason, "escalated");
            }
        }
    }

    fn epoch(&self, shard: ShardId) -> Epoch {
        self.shards.epoch(shard).unwrap_or(Epoch(0))
    }

    /// An attempt that ended without leaving.
    fn answer(
        &mut self,
        case: CaseId,
        shard: ShardId,
        place: Place,
        attempt: u32,
        result: AttemptResult,
    ) {
        let lane = self
            .hot
            .get(case)
            .map_or(Priority::Normal, |case| case.definition.lane);
        let input = Input::AttemptFinished {
            place,
            attempt,
            result: Box::new(result),
        };
        self.streams.of(shard).ready.push(
            lane,
            Arrival {
                case,
                shard,
                from: None,
                input,
            },
        );
    }

    /// Lets work leave as far as its queues allow.
    async fn let_leave(&mut self) -> Result<(), StoreError> {
        if self.parts.draining.is_cancelled() || self.parts.hold.is_over() {
            return Ok(());
        }
        let now = self.parts.clock.now();
        for (resource, queued) in self.gate.take(&*self.parts.actions, now) {
            if self.hot.get(queued.case).is_none()
                && let Fetched::Case(case) = self.fetch(queued.shard, queued.case).await?
            {
                self.hot.insert(*case);
            }
            if !self.leave(&resource, &queued) {
                self.gate.returned(&resource, queued.lane());
            }
        }
        Ok(())
    }

    /// Sends one piece of work. `false` when its case does not ask for it any more.
    fn leave(&mut self, resource: &str, queued: &Queued) -> bool {
        let Some(case) = self.hot.get(queued.case) else {
            return false;
        };
        match &queued.work {
            Work::Attempt {
                place,
                attempt,
                mode,
            } => {
                let stands = case.instance(*place).is_some_and(|instance| {
                    let running = InstanceState::Running { mode: mode.clone() };
                    instance.attempt == *attempt && instance.state == running
                });
                if !stands {
                    return false;
                }
                // Paused since it was queued. To read back changes nothing outside.
                if case.paused.is_some() && matches!(mode, Mode::Do | Mode::Undo) {
                    let result = AttemptResult::NotSent;
                    self.answer(queued.case, queued.shard, *place, *attempt, result);
                    return false;
                }
                let epoch = self.epoch(queued.shard);
                match attempt::build(case, *place, *attempt, mode.clone(), epoch) {
                    Ok(attempt) => self.spawn(resource.to_owned(), attempt),
                    Err(failure) => {
                        let proof = Default::default();
                        let result = AttemptResult::Failed { failure, proof };
                        self.answer(queued.case, queued.shard, *place, *attempt, result);
                        return false;
                    }
                }
            }
            Work::Facts { step } => self.fetch_facts(resource.to_owned(), queued, *step),
        }
        true
    }

    fn spawn(&mut self, resource: String, attempt: Attempt) {
        let (actions, arrive) = (Arc::clone(&self.parts.actions), self.arrive.clone());
        let (case, shard, place, number) =
            (attempt.case, attempt.shard, attempt.place, attempt.attempt);
        let left = Left {
            queue: resource,
            lane: attempt.lane,
            epoch: attempt.epoch,
        };
        self.shards.sent(shard, left.epoch);
        let (hold, cut) = (Arc::clone(&self.parts.hold), self.shards.cut(shard));
        let host = Arc::clone(&self.parts.host);
        let task = self.parts.tracker.track_future(async move {
            let result = Box::new(attempt::make(&*host, actions, attempt, hold, cut).await);
            let input = Input::AttemptFinished {
                place,
                attempt: number,
                result,
            };
            // A lane that is gone will read the attempt back.
            let _ = arrive.send(Arrival {
                case,
                shard,
                from: Some(left),
                input,
            });
        });
        self.parts.host.spawn(Box::pin(task));
    }

    fn fetch_facts(&mut self, resource: String, queued: &Queued, step: StepIndex) {
        let Some(case) = self.hot.get(queued.case) else {
            return;
        };
        let roots = case
            .step(step)
            .map(|step| step.facts.clone())
            .unwrap_or_default();
        let (subject, input) = (case.subject.clone(), Arc::clone(&case.input));
        let (actions, arrive) = (Arc::clone(&self.parts.actions), self.arrive.clone());
        let draining = self.parts.draining.clone();
        let (id, shard) = (queued.case, queued.shard);
        let left = Left {
            queue: resource,
            lane: queued.lane(),
            epoch: self.epoch(shard),
        };
        self.shards.sent(shard, left.epoch);
        let cut = self.shards.cut(shard);
        let task = self.parts.tracker.track_future(async move {
            let mut pause = FACTS_PAUSE_FIRST;
            let facts: Result<Value, Failure> = loop {
                let read = cut.run_until_cancelled(actions.facts(&subject, &input, &roots));
                match read.await.unwrap_or(Ok(Value::Null)) {
                    Err(failure) if failure.class != FailureClass::Permanent && !draining.is_cancelled() => {
                        tracing::warn!(case = %id, reason = %failure.message, "facts cannot be read just now");
                        let _ = cut.run_until_cancelled(tokio::time::sleep(pause)).await;
                        pause = (pause * 2).min(FACTS_PAUSE_MAX);
                    }
                    other => break other,
                }
            };
            let input = Input::Facts { step, facts };
            // Of a shard that was lost meanwhile nobody reads it.
            let _ = arrive.send(Arrival { case: id, shard, from: Some(left), input });
        });
        self.parts.host.spawn(Box::pin(task));
    }

    // --- waiting and telling --------------------------------------------------------------------------

    fn is_idle(&self) -> bool {
        self.shards.len() > 0
            && self.shards.are_settled()
            && self.orders.is_empty()
            && self.restless.is_empty()
            && self.gate.out() == 0
            && self.gate.waiting() == 0
            && self.streams.iter().all(|stream| {
                stream.ready.len() == 0 && stream.inbox_empty && stream.freed.is_empty()
            })
            && !self.schedules.due(self.parts.clock.now())
    }

    /// Waits for whatever comes first; gives a batch that is written.
    async fn wait(
        &mut self,
        draining: bool,
        held_up: bool,
    ) -> Option<(usize, Writing, Result<BTreeSet<ShardId>, StoreError>)> {
        let now = self.parts.clock.now();
        let mut pause = INBOX_POLL;
        for moment in [
            self.timers.peek().map(|Reverse((due, _))| *due),
            self.gate.wake_at(),
            self.schedules.wake_at(),
        ]
        .into_iter()
        .flatten()
        // Whoever drains takes neither timers nor work from a queue: what is due would wake it for nothing, at once.
        .filter(|_| !draining)
        {
            pause = pause.min((moment - now).to_std().unwrap_or(Duration::ZERO));
        }
        let (quiet, clogged) = (self.streams.are_quiet(), self.streams.are_clogged());
        if quiet && let Some(by) = self.shards.leaves_by() {
            pause = pause.min(by.saturating_duration_since(Instant::now()));
        }
        if !draining && !self.restless.is_empty() {
            pause = Duration::ZERO;
        }
        // What is due is only looked at by a stream that may begin something; till then it would wake the lane for
        // nothing, again and again.
        let can_begin = !held_up && !self.streams.quiet().is_empty();
        let nudge = Arc::clone(&self.parts.nudge);
        tokio::select! {
            biased; // the same order in every run; whatever is not taken now is taken by the next look
            written = self.streams.written() => return Some(written),
            arrival = self.arrivals.recv(), if !clogged => {
                if let Some(arrival) = arrival {
                    self.came_back(arrival);
                }
            }
            order = self.orders.recv(), if quiet => {
                if let Some(order) = order {
                    self.obey(order);
                }
            }
            () = nudge.notified() => self.streams.look(),
            () = self.parts.draining.cancelled(), if !draining => {}
            () = tokio::time::sleep(pause), if can_begin => self.streams.look(),
        }
        None
    }

    fn publish(&mut self, idle: bool) {
        self.published = Instant::now();
        let queues = self.gate.statuses();
        self.parts.status.send_replace(NodeStatus {
            owns_shards: self.shards.len(),
            cases_hot: self.hot.len(),
            attempts_out: self.gate.out(),
            timers_near: self.timers.len(),
            queues,
            batches: self.batches,
            transitions: self.transitions,
            idle,
        });
    }

    async fn tidy(&mut self, now: Timestamp) -> Result<(), StoreError> {
        if now - self.tidied_at > TimeDelta::milliseconds(TIDY_MS) {
            self.tidied_at = now;
            self.parts
                .store
                .forget_replies(now - TimeDelta::milliseconds(REPLY_KEPT_MS))
                .await?;
            self.schedules.tidy(&*self.parts.store).await?;
        }
        Ok(())
    }
}

/// A queue for what asks nobody but the database.
fn inside(name: &str) -> Resource {
    Resource {
        name: name.to_owned(),
        concurrency: INSIDE_CONCURRENCY,
        reserved: INSIDE_RESERVED,
    }
}

/// What the evidence says caused a transition.
fn cause(input: &Input) -> Cause {
    let mut cause = Cause {
        input: input.name(),
        by: Actor::engine(),
        outcome: None,
        place: None,
        attempt: None,
        reason: None,
        approver: None,
        proof: None,
    };
    match input {
        Input::Start | Input::Recovered | Input::Facts { .. } => {}
        Input::TimerDue { target, .. } => {
            if let TimerTarget::Instance(place) = target {
                cause.place = Some(*place);
            }
        }
        Input::AttemptFinished {
            place,
            attempt,
            result,
        } => {
            cause.place = Some(*place);
            cause.attempt = Some(*attempt);
            cause.outcome = Some(result.name());
            cause.proof = result.proof().cloned();
            if let AttemptResult::Failed { failure, .. } = &**result {
                cause.reason = Some(failure.message.clone());
            }
        }
        Input::Answered {
            place,
            by,
            note,
            approve,
        } => {
            cause.place = Some(*place);
            cause.by = by.clone();
            cause.approver = Some(by.clone());
            cause.outcome = Some(if *approve { "approved" } else { "rejected" });
            cause.reason = Some(note.clone());
        }
        Input::TaskDone {
            place, by, proof, ..
        } => {
            cause.place = Some(*place);
            cause.by = by.clone();
            cause.reason = Some(proof.clone());
        }
        Input::Reassign {
            place,
            from,
            to,
            by,
            reason,
        } => {
            cause.place = Some(*place);
            cause.by = by.clone();
            cause.reason = Some(reason.clone());
            cause.proof = Some(Proof {
                operation: Some("reassign".to_owned()),
                before: Some(serde_json::json!({"asked": from})),
                after: Some(serde_json::json!({"asked": to})),
                ..Proof::default()
            });
        }
        Input::Signal { by, .. } => cause.by = by.clone(),
        Input::Retry {
            place, by, reason, ..
        } => {
            cause.place = *place;
            cause.by = by.clone();
            cause.reason = (!reason.is_empty()).then(|| reason.clone());
        }
        Input::Skip {
            place, by, reason, ..
        } => {
            cause.place = *place;
            cause.by = by.clone();
            cause.reason = Some(reason.clone());
        }
        Input::Cancel { by, reason }
        | Input::Pause { by, reason }
        | Input::Resume { by, reason }
        | Input::Undo { by, reason }
        | Input::Terminate { by, reason } => {
            cause.by = by.clone();
            cause.reason = Some(reason.clone());
        }
        Input::Migrate(migrate) => {
            cause.by = migrate.by.clone();
            cause.reason = Some(migrate.reason.clone());
            // What changed is the version: its digests stand where those of any other change do.
            cause.proof = Some(Proof {
                operation: Some("migrate".to_owned()),
                before: Some(serde_json::json!({"definition": migrate.from.0})),
                after: Some(serde_json::json!({
                    "definition": migrate.to.hash.0,
                    "mapping": migrate.mapping,
                })),
                ..Proof::default()
            });
        }
        Input::Rerun { step, by, reason } => {
            cause.by = by.clone();
            cause.place = Some(Place::new(*step, 0));
            cause.reason = Some(reason.clone());
        }
        Input::Preempt { by } => cause.reason = Some(format!("pre-empted by case {by}")),
        Input::Supersede { generation } => {
            cause.reason = Some(format!("superseded by life {generation} of the subject"));
        }
        Input::Merge { into } => cause.reason = Some(format!("merged into case {into}")),
        Input::Absorb { case, .. } => cause.reason = Some(format!("takes in case {case}")),
    }
    cause
}
