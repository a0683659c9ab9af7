//! Which shards this node works on: heartbeat, leases, balance, and starting again after a refusal.
//!
//! # Theory of operation
//!
//! A node tells that it lives and renews its leases at a third of their length. From who else lives it knows its
//! share of the shards. Below it, it takes what is free, has run out, or belonged to a process of this machine that
//! is gone; above it, it gives some up, those with the least in flight first, each once its work is back.
//!
//! The database's clock decides when a lease has run out, and each taking raises the shard's epoch, which every
//! write carries: that is what keeps two nodes apart. Beside it the node stops *before* its leases run out, by its own
//! clock ([`Hold`]), so that it does not even try.
//!
//! The lane goes on while shards come and go. Only a refusal that is not about ownership, a commit of unknown fate,
//! or leases that could not be renewed in time end it; then everything is dropped and started from the database.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::balance::share;
use super::hold::Hold;
use super::lane::{Lane, Parts};
use super::shards::{News, Order};
use crate::core::id::{Epoch, ShardId};
use crate::store::{Acquire, Heartbeat, Hint, NodeRow, ShardLease, StoreError};

/// How long the node waits before it looks again for shards that it lacks.
const ACQUIRE_PAUSE: Duration = Duration::from_millis(250);
/// How often the node looks whether a neighbour on its own machine still lives.
const NEIGHBOUR_PAUSE: Duration = Duration::from_millis(500);
/// The pause after the database did not answer.
const TROUBLE_PAUSE: Duration = Duration::from_millis(200);
/// Pauses between starts after a refusal.
const RESTART_PAUSE_FIRST: Duration = Duration::from_millis(200);
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(2);
/// A lane that ran for so long starts again without the longer pauses.
const GOOD_RUN: Duration = Duration::from_secs(10);
/// How long a dead node is still known.
const DEAD_KEPT_MS: u32 = 600_000;
/// How many hints wait to be read; the rest is found by looking.
const HINTS_MAX: usize = 64;

/// How the work ended.
enum End {
    /// Told to drain, and nothing is out any more.
    Drained,
    /// The store refused, or did not say what became of a write.
    Refused(StoreError),
    /// The leases could not be renewed in time.
    Lapsed,
}

pub(super) struct Ownership {
    parts: Arc<Parts>,
    beat: Heartbeat,
    shard_count: u32,
    held: BTreeMap<ShardId, Epoch>,
    /// Those the lane gives up.
    leaving: BTreeSet<ShardId>,
    /// How many it was told to give up and has not chosen yet.
    asked: usize,
    /// When the last renewal was sent that holds for all.
    renewed: Instant,
    /// When the last heartbeat was sent.
    beaten: Option<Instant>,
    forgot: Option<Instant>,
    look_at: Instant,
    /// Ends every attempt of this node.
    life: CancellationToken,
    hints: mpsc::Receiver<Hint>,
    _listening: AbortOnDropHandle<()>,
}

impl Drop for Ownership {
    fn drop(&mut self) {
        self.parts.hold.end();
        self.life.cancel();
    }
}

impl Ownership {
    pub fn new(parts: Arc<Parts>, beat: Heartbeat, shard_count: u32) -> Self {
        let (tell, hints) = mpsc::channel(HINTS_MAX);
        let store = Arc::clone(&parts.store);
        let listening = parts.host.spawn(Box::pin(async move {
            loop {
                // When many wait, one more tells nothing new.
                let _ = tell.try_send(store.hinted().await);
            }
        }));
        let now = Instant::now();
        Self {
            parts,
            beat,
            shard_count,
            held: BTreeMap::new(),
            leaving: BTreeSet::new(),
            asked: 0,
            renewed: now,
            beaten: None,
            forgot: None,
            look_at: now,
            life: CancellationToken::new(),
            hints,
            _listening: AbortOnDropHandle::new(listening),
        }
    }

    /// Works until told to drain.
    pub async fn keep_running(mut self) {
        let mut pause = RESTART_PAUSE_FIRST;
        let draining = self.parts.draining.clone();
        loop {
            let started = Instant::now();
            let end = self.run_once().await;
            if let End::Drained = end {
                break;
            }
            self.wait_for_what_is_out(&end).await;
            if self.parts.draining.is_cancelled() {
                break;
            }
            if started.elapsed() > GOOD_RUN {
                pause = RESTART_PAUSE_FIRST;
            }
            tokio::select! {
                biased; // the same order in every run
                () = draining.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
                // So that nobody takes the shards from a node that is about to go on.
                () = self.keep_leases() => {}
            }
            pause = (pause * 2).min(RESTART_PAUSE_MAX);
        }
        self.leave().await;
    }

    /// One life of a lane.
    async fn run_once(&mut self) -> End {
        let (tell, orders) = mpsc::unbounded_channel();
        let (news_sender, mut news) = mpsc::unbounded_channel();
        // All of it is taken anew, with a new epoch: a write of unknown fate cannot come after that.
        self.held.clear();
        self.leaving.clear();
        self.asked = 0;
        self.beaten = None;
        self.look_at = Instant::now();
        let mut lane = Lane::new(
            Arc::clone(&self.parts),
            self.shard_count,
            self.life.clone(),
            orders,
            news_sender,
        );
        tokio::select! {
            // A lost lease counts before whatever the lane has just finished, and the order is the same in every run.
            biased;
            end = self.keep(&tell, &mut news) => end,
            done = lane.run() => match done {
                Ok(()) => End::Drained,
                Err(error) => End::Refused(error),
            },
        }
    }

    /// Whatever is still out must be back before its attempt is read back. The leases are kept meanwhile, if they can
    /// be; if they cannot, what is out is cut off.
    async fn wait_for_what_is_out(&mut self, end: &End) {
        match end {
            End::Refused(error) => tracing::error!(
                error = error as &dyn std::error::Error,
                "starting again from the database"
            ),
            End::Lapsed | End::Drained => {
                tracing::error!("the leases could not be renewed in time; starting again");
            }
        }
        let tracker = self.parts.tracker.clone();
        tracker.close();
        let lapsed = matches!(end, End::Lapsed)
            || self.parts.hold.is_over()
            || tokio::select! {
                biased; // the same order in every run
                () = tracker.wait() => false,
                () = self.keep_leases() => true,
            };
        if lapsed {
            self.parts.hold.end();
            self.life.cancel();
            self.life = CancellationToken::new();
            tracker.wait().await;
        }
        tracker.reopen();
    }

    /// Renews and nothing else, until that fails for too long.
    async fn keep_leases(&mut self) {
        if self.parts.hold.is_over() {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep_until(self.renewed + self.third()).await;
            loop {
                let until = self.holds_until();
                match tokio::time::timeout_at(until, self.renew()).await {
                    Ok(Ok(lost)) if lost.is_empty() => break,
                    Ok(Ok(_)) | Err(_) => return,
                    Ok(Err(error)) => {
                        tracing::debug!(%error, "a renewal failed; trying again");
                        tokio::time::sleep(TROUBLE_PAUSE).await;
                    }
                }
            }
        }
    }

    /// Keeps leases and balance beside the lane. Ends only when it cannot.
    async fn keep(
        &mut self,
        tell: &mpsc::UnboundedSender<Order>,
        news: &mut mpsc::UnboundedReceiver<News>,
    ) -> End {
        let draining = self.parts.draining.clone();
        loop {
            tokio::select! {
                biased; // the same order in every run
                Some(news) = news.recv() => {
                    if let Err(end) = self.let_go(news).await {
                        return end;
                    }
                }
                () = draining.cancelled(), if !self.beat.draining => {}
                () = tokio::time::sleep_until(self.look_at) => {}
                Some(hint) = self.hints.recv() => if !self.heard(&hint) { continue },
            }
            if draining.is_cancelled() && !self.beat.draining {
                self.beat.draining = true;
                self.beaten = None;
            }
            let limit = self.limit();
            match tokio::time::timeout_at(limit, self.look(tell)).await {
                Ok(Ok(())) => {}
                Ok(Err(StoreError::Unavailable(error))) if !self.held.is_empty() => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "the leases are not renewed yet; trying again"
                    );
                    self.look_at = Instant::now() + TROUBLE_PAUSE;
                    if Instant::now() >= self.holds_until() {
                        return End::Lapsed;
                    }
                }
                Ok(Err(error)) => return End::Refused(error),
                Err(_) => return End::Lapsed,
            }
        }
    }

    /// Whether a hint asks for a look at ownership.
    fn heard(&self, hint: &Hint) -> bool {
        let inbox = match hint {
            Hint::Inbox(shards) => shards.iter().any(|shard| self.held.contains_key(shard)),
            Hint::Ownership => false,
            Hint::Everything => true,
        };
        if inbox {
            self.parts.nudge.notify_one();
        }
        !matches!(hint, Hint::Inbox(_))
    }

    /// Releases what the lane has let go of.
    async fn let_go(&mut self, news: News) -> Result<(), End> {
        match news {
            News::Leaving(shards) => {
                self.asked = 0;
                self.leaving = shards.into_iter().collect();
                Ok(())
            }
            News::Lost(leases) => {
                self.lose(&leases);
                Ok(())
            }
            News::Left(leases) => {
                self.lose(&leases);
                let released = self.parts.store.release(&self.beat.owner, &leases);
                match tokio::time::timeout_at(self.holds_until(), released).await {
                    Ok(Ok(())) => {
                        tracing::info!(shards = leases.len(), "gave shards up");
                        self.parts.store.hint_ownership();
                        Ok(())
                    }
                    // Not released is as good: these leases are not renewed any more.
                    Ok(Err(StoreError::Unavailable(_))) => Ok(()),
                    Ok(Err(error)) => Err(End::Refused(error)),
                    Err(_) => Err(End::Lapsed),
                }
            }
        }
    }

    /// What was taken anew since stays.
    fn lose(&mut self, leases: &[ShardLease]) {
        for lease in leases {
            if self.held.get(&lease.shard) == Some(&lease.epoch) {
                self.held.remove(&lease.shard);
                self.leaving.remove(&lease.shard);
            }
        }
    }

    /// One look: tells that the node lives, renews, and moves towards its share.
    async fn look(&mut self, tell: &mpsc::UnboundedSender<Order>) -> Result<(), StoreError> {
        let due = |at: Instant, third| Instant::now() >= at + third;
        if self.beaten.is_none_or(|at| due(at, self.third())) || due(self.renewed, self.third()) {
            let first = self.beaten.is_none();
            let sent = Instant::now();
            // Before the leases, so that a silent node's leases never end before it counts as silent.
            self.parts.store.beat(&self.beat).await?;
            let lost = self.renew().await?;
            if !lost.is_empty() {
                tracing::warn!(shards = lost.len(), "shards were taken by another node");
                let _ = tell.send(Order::Lose(lost));
            }
            self.beaten = Some(sent);
            if first {
                self.parts.store.hint_ownership();
            }
            self.forget_the_dead().await?;
        }
        let nodes = self.parts.store.nodes().await?;
        let lacks = !self.beat.draining && self.balance(tell, &nodes).await?;
        self.look_at = self.next_look(&nodes, lacks);
        Ok(())
    }

    /// Takes shards or gives some up. Says whether some are still lacking.
    async fn balance(
        &mut self,
        tell: &mpsc::UnboundedSender<Order>,
        nodes: &[NodeRow],
    ) -> Result<bool, StoreError> {
        let is_dead = |owner: &str| self.parts.host.is_dead(owner);
        let share = share(self.shard_count, &self.beat.owner, nodes, &is_dead);
        let share = usize::try_from(share).unwrap_or(usize::MAX);
        let goes = self.leaving.len() + self.asked;
        let have = self.held.len().saturating_sub(goes);
        if have > share && self.asked == 0 {
            self.asked = have - share;
            let _ = tell.send(Order::GiveUp(have - share));
        }
        if have >= share {
            return Ok(false);
        }
        let taken = self.acquire(share - have).await?;
        let lacks = taken.len() < share - have;
        if !taken.is_empty() {
            tracing::info!(shards = taken.len(), of = self.shard_count, "took shards");
            let _ = tell.send(Order::Gain(taken));
        }
        Ok(lacks)
    }

    async fn acquire(&mut self, shards_max: usize) -> Result<Vec<ShardLease>, StoreError> {
        let holding: Vec<ShardId> = self.held.keys().copied().collect();
        let rows = self.parts.store.shards().await?;
        let owners: BTreeSet<String> = rows.into_iter().filter_map(|row| row.owner).collect();
        let replaces: Vec<String> = owners
            .into_iter()
            .filter(|owner| *owner == self.beat.owner || self.parts.host.is_dead(owner))
            .collect();
        let sent = Instant::now();
        let taken = self
            .parts
            .store
            .acquire(&Acquire {
                node: &self.beat.owner,
                lease_ms: self.beat.lease_ms,
                replaces: &replaces,
                holding: &holding,
                shards_max: u32::try_from(shards_max).unwrap_or(u32::MAX),
            })
            .await?;
        if self.held.is_empty() && !taken.is_empty() {
            self.renewed = sent;
            self.parts.hold.set(self.holds_until());
        }
        self.held
            .extend(taken.iter().map(|lease| (lease.shard, lease.epoch)));
        Ok(taken)
    }

    /// Renews all leases; those that were lost are not held any more.
    async fn renew(&mut self) -> Result<Vec<ShardLease>, StoreError> {
        let leases: Vec<ShardLease> = self
            .held
            .iter()
            .map(|(shard, epoch)| ShardLease {
                shard: *shard,
                epoch: *epoch,
            })
            .collect();
        let sent = Instant::now();
        let lost = self
            .parts
            .store
            .renew(&self.beat.owner, &leases, self.beat.lease_ms)
            .await?;
        let lost: Vec<ShardLease> = leases
            .into_iter()
            .filter(|lease| lost.contains(&lease.shard))
            .collect();
        self.lose(&lost);
        self.renewed = sent;
        if !self.held.is_empty() {
            self.parts.hold.set(self.holds_until());
        }
        Ok(lost)
    }

    async fn forget_the_dead(&mut self) -> Result<(), StoreError> {
        let pause = Duration::from_millis(u64::from(DEAD_KEPT_MS));
        if self.forgot.is_none_or(|at| at.elapsed() > pause) {
            self.parts.store.forget_silent_nodes(DEAD_KEPT_MS).await?;
            self.forgot = Some(Instant::now());
        }
        Ok(())
    }

    /// At the next renewal; sooner when a node is about to be silent for too long, or shards are lacking.
    fn next_look(&self, nodes: &[NodeRow], lacks: bool) -> Instant {
        let now = Instant::now();
        let mut pause = self.third();
        if lacks {
            pause = pause.min(ACQUIRE_PAUSE);
        }
        let others = nodes.iter().filter(|row| row.owner != self.beat.owner);
        for row in others.filter(|row| !row.is_silent()) {
            let host = &self.parts.host;
            if host.is_neighbour(&row.owner) && !host.is_dead(&row.owner) {
                pause = pause.min(NEIGHBOUR_PAUSE);
            }
            let left = u64::try_from(row.lease_ms - row.silent_ms).unwrap_or(0);
            pause = pause.min(Duration::from_millis(left + 1));
        }
        let renewal = self.beaten.map_or(now, |at| at + self.third());
        (now + pause).min(renewal).max(now)
    }

    fn third(&self) -> Duration {
        Duration::from_millis(u64::from(self.beat.lease_ms / 3).max(1))
    }

    fn holds_until(&self) -> Instant {
        self.renewed + Hold::length(self.beat.lease_ms)
    }

    /// Until when a look must be done.
    fn limit(&self) -> Instant {
        if self.held.is_empty() {
            // Nothing to lose, but a connection that says nothing must not be waited for without end.
            Instant::now() + Duration::from_millis(u64::from(self.beat.lease_ms))
        } else {
            self.holds_until()
        }
    }

    /// Gives everything back, as far as that is quick.
    async fn leave(&mut self) {
        self.held.clear();
        let (store, owner) = (&self.parts.store, &self.beat.owner);
        let left = async {
            // With what a life before had and this one has not taken anew, and what was taken without an answer.
            let rows = store.shards().await?.into_iter();
            let leases: Vec<ShardLease> = rows
                .filter(|row| row.owner.as_ref() == Some(owner))
                .map(|row| ShardLease {
                    shard: row.shard,
                    epoch: row.epoch,
                })
                .collect();
            store.release(owner, &leases).await?;
            store.forget_node(owner).await
        };
        match tokio::time::timeout_at(self.holds_until(), left).await {
            Ok(Ok(())) => self.parts.store.hint_ownership(),
            Ok(Err(error)) => tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the shards are not given back; their leases will run out"
            ),
            Err(_) => tracing::warn!("the shards are not given back; their leases will run out"),
        }
    }
}
