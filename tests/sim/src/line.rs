//! The line between somebody and the database: latency, lost answers, hanging calls, and crashes on either side
//! of a call. What was sent arrives even if the sender is dead by then, as on a network.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use engine::core::Timestamp;
use engine::core::admission::OpenCase;
use engine::core::case::CaseState;
use engine::core::id::{CaseId, DefinitionHash, ShardId, Subject};
use engine::store::{
    Acquire, Batch, Before, Bones, CaseCursor, CaseFilter, CaseSummary, EvidenceRow, Forgotten,
    GenerationRow, Heartbeat, HistoryRow, InboxRow, Migration, NoProjection, NodeRow, ParkedRow,
    Projection, ReplyRow, ShardLease, ShardRow, Store, StoreError, StoredCase, Termination,
    TimerRow, VersionRow, Work,
};
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::database::Database;
use crate::fault::Fault;
use crate::life::{Life, may_die};
use crate::moment::rest_ms;
use crate::plant::Plant;
use crate::trace::note;
use crate::world::World;

/// How often a look that finds nothing is made, compared with a call that changes something.
const LOOKS: u32 = 12;

pub struct Line {
    world: Arc<World>,
    /// Nobody's line is that of a sender outside: it cannot crash, only fail.
    life: Option<Arc<Life>>,
}

/// How a call weighs: looks are made all the time, so that each has fewer faults.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Looks,
    Changes,
}

impl Line {
    pub fn of(world: &Arc<World>, life: &Arc<Life>) -> Self {
        Self {
            world: Arc::clone(world),
            life: Some(Arc::clone(life)),
        }
    }

    pub fn outside(world: &Arc<World>) -> Self {
        Self {
            world: Arc::clone(world),
            life: None,
        }
    }

    fn database(&self) -> Arc<Database> {
        Arc::clone(self.world.database())
    }

    async fn call<T: Send + 'static>(
        &self,
        kind: Kind,
        what: impl fmt::Display + Send + 'static,
        work: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        let less = match kind {
            Kind::Looks => LOOKS,
            Kind::Changes => 1,
        };
        let world = &self.world;
        if let Some(life) = &self.life {
            may_die(life, Fault::CrashBeforeCall, less, "before a call").await;
        }
        let faults = &world.faults;
        let chance = faults.chance();
        let mut latency_ms = (chance.below(3), chance.below(3));
        if faults.strikes_less(Fault::StoreSlow, less) {
            latency_ms = (chance.between(5, 800), chance.between(5, 800));
        }
        if world.is_cut_off(self.life.as_deref()) {
            // Refused at once or never heard of again: both happen.
            rest_ms(if chance.percent(50) { 1 } else { 3_000 }).await;
            return Err(unavailable());
        }
        if faults.strikes_less(Fault::StoreRefuses, less) {
            rest_ms(latency_ms.0).await;
            note!(world, "{} {what}: error, nothing done", self.who());
            return Err(unavailable());
        }
        let hangs = faults.strikes_less(Fault::StoreHangs, less);
        if hangs {
            let arrives = chance.percent(50);
            latency_ms = (chance.between(500, 15_000), chance.between(500, 20_000));
            if !arrives {
                rest_ms(latency_ms.0 + latency_ms.1).await;
                note!(world, "{} {what}: no answer, nothing done", self.who());
                return Err(unavailable());
            }
        }
        let answer_lost = hangs || faults.strikes_less(Fault::StoreAnswerLost, less);
        let crashes = self.life.is_some() && faults.strikes_less(Fault::CrashAfterCall, less);
        if crashes && chance.percent(50) {
            // The last word of the dead may be long on its way.
            latency_ms.0 = chance.between(0, 12_000);
        }
        let (answer, answered) = oneshot::channel();
        let (who, there) = (self.who(), Arc::clone(world));
        tokio::spawn(async move {
            rest_ms(latency_ms.0).await;
            let result = work.await;
            if kind == Kind::Changes {
                let outcome = match &result {
                    Ok(_) => "ok".to_owned(),
                    Err(error) => error.to_string(),
                };
                note!(there, "{who} {what}: {outcome}");
            } else {
                there.trace.count(who.as_bytes());
            }
            rest_ms(latency_ms.1).await;
            let _ = answer.send(result);
        });
        if crashes && let Some(life) = &self.life {
            life.kill("after a call left");
            life.never::<()>().await;
        }
        let result = answered.await.unwrap_or_else(|_| Err(unavailable()));
        if answer_lost && result.is_ok() {
            note!(world, "{} the answer is lost", self.who());
            return Err(unavailable());
        }
        result
    }

    fn who(&self) -> String {
        self.life
            .as_ref()
            .map_or_else(|| "outside".to_owned(), ToString::to_string)
    }
}

fn unavailable() -> StoreError {
    StoreError::Unavailable(sqlx::Error::PoolTimedOut)
}

fn summary(batch: &Batch) -> String {
    let mut text = format!("commit {} rows", batch.history.len());
    for row in &batch.history {
        let case = row.case.0.as_u128() & 0xffff;
        text.push_str(&format!(" [{case:x} v{} {}", row.version, row.input));
        if let Ok(serde_json::Value::Array(events)) = serde_json::from_str(&row.events) {
            for event in events {
                text.push_str(&format!(" {}", event["event"].as_str().unwrap_or("?")));
            }
        }
        text.push(']');
    }
    text
}

#[async_trait]
impl Store for Line {
    async fn migrate(&self, _: &[Migration], _: u32) -> Result<(), StoreError> {
        Ok(())
    }

    fn writes_at_once(&self) -> usize {
        self.database().writes_at_once()
    }

    async fn shard_count(&self) -> Result<u32, StoreError> {
        let database = self.database();
        let work = async move { database.shard_count().await };
        self.call(Kind::Looks, "shard_count", work).await
    }

    async fn acquire(&self, wanted: &Acquire<'_>) -> Result<Vec<ShardLease>, StoreError> {
        let (database, world) = (self.database(), Arc::clone(&self.world));
        let node = wanted.node.to_owned();
        let (replaces, holding) = (wanted.replaces.to_vec(), wanted.holding.to_vec());
        let (lease_ms, shards_max) = (wanted.lease_ms, wanted.shards_max);
        let work = async move {
            let wanted = Acquire {
                node: &node,
                lease_ms,
                replaces: &replaces,
                holding: &holding,
                shards_max,
            };
            let taken = database.acquire(&wanted).await?;
            if !taken.is_empty() {
                let text: Vec<String> = taken
                    .iter()
                    .map(|lease| format!("{}@{}", lease.shard, lease.epoch.0))
                    .collect();
                note!(world, "{node} takes {}", text.join(" "));
            }
            Ok(taken)
        };
        self.call(Kind::Looks, "acquire", work).await
    }

    async fn renew(
        &self,
        node: &str,
        leases: &[ShardLease],
        lease_ms: u32,
    ) -> Result<Vec<ShardId>, StoreError> {
        let (database, node) = (self.database(), node.to_owned());
        let leases = leases.to_vec();
        let work = async move { database.renew(&node, &leases, lease_ms).await };
        self.call(Kind::Changes, "renew", work).await
    }

    async fn beat(&self, beat: &Heartbeat) -> Result<(), StoreError> {
        let (database, beat) = (self.database(), beat.clone());
        let work = async move { database.beat(&beat).await };
        self.call(Kind::Looks, "beat", work).await
    }

    async fn nodes(&self) -> Result<Vec<NodeRow>, StoreError> {
        let database = self.database();
        let work = async move { database.nodes().await };
        self.call(Kind::Looks, "nodes", work).await
    }

    async fn forget_node(&self, owner: &str) -> Result<(), StoreError> {
        let (database, owner) = (self.database(), owner.to_owned());
        let work = async move { database.forget_node(&owner).await };
        self.call(Kind::Looks, "forget_node", work).await
    }

    async fn forget_silent_nodes(&self, silent_ms: u32) -> Result<(), StoreError> {
        let database = self.database();
        let work = async move { database.forget_silent_nodes(silent_ms).await };
        self.call(Kind::Looks, "forget_silent_nodes", work).await
    }

    async fn make_room(&self, now: Timestamp) -> Result<(), StoreError> {
        let database = self.database();
        let work = async move { database.make_room(now).await };
        self.call(Kind::Looks, "make_room", work).await
    }

    async fn forget(&self, before: &Before) -> Result<Forgotten, StoreError> {
        let (database, before) = (self.database(), *before);
        let work = async move { database.forget(&before).await };
        self.call(Kind::Looks, "forget", work).await
    }

    async fn release(&self, node: &str, leases: &[ShardLease]) -> Result<(), StoreError> {
        let (database, node) = (self.database(), node.to_owned());
        let leases = leases.to_vec();
        let work = async move { database.release(&node, &leases).await };
        self.call(Kind::Changes, "release", work).await
    }

    async fn shards(&self) -> Result<Vec<ShardRow>, StoreError> {
        let database = self.database();
        let work = async move { database.shards().await };
        self.call(Kind::Looks, "shards", work).await
    }

    async fn commit(&self, batch: &Batch, _: &dyn Projection) -> Result<(), StoreError> {
        let (database, batch) = (self.database(), batch.clone());
        let what = summary(&batch);
        if self.world.plant == Some(Plant::EarlyEffects) {
            // The planted bug: whoever waits for the commit is told so before it is.
            let late = self.world.chance.below(40);
            tokio::spawn(async move {
                rest_ms(late).await;
                let _ = database.commit(&batch, &NoProjection).await;
            });
            return Ok(());
        }
        let work = async move { database.commit(&batch, &NoProjection).await };
        self.call(Kind::Changes, what, work).await
    }

    async fn write(&self, _: &dyn Work) -> Result<(), StoreError> {
        Err(unavailable())
    }

    async fn put_inbox(&self, rows: &[InboxRow]) -> Result<(), StoreError> {
        let (database, rows) = (self.database(), rows.to_vec());
        let what = format!("put_inbox of {}", rows.len());
        let work = async move { database.put_inbox(&rows).await };
        self.call(Kind::Changes, what, work).await
    }

    async fn inbox_since(
        &self,
        shards: &[ShardId],
        since: Option<Timestamp>,
        limit: u32,
    ) -> Result<Vec<InboxRow>, StoreError> {
        let (database, shards) = (self.database(), shards.to_vec());
        let work = async move { database.inbox_since(&shards, since, limit).await };
        self.call(Kind::Looks, "inbox", work).await
    }

    async fn reply(&self, shard: ShardId, id: Uuid) -> Result<Option<ReplyRow>, StoreError> {
        let database = self.database();
        let work = async move { database.reply(shard, id).await };
        self.call(Kind::Looks, "reply", work).await
    }

    async fn forget_replies(&self, before: Timestamp) -> Result<(), StoreError> {
        let database = self.database();
        let work = async move { database.forget_replies(before).await };
        self.call(Kind::Changes, "forget_replies", work).await
    }

    async fn generations(&self, shards: &[ShardId]) -> Result<Vec<GenerationRow>, StoreError> {
        let (database, mut shards) = (self.database(), shards.to_vec());
        if self.world.plant == Some(Plant::ForgottenLives) {
            shards.clear();
        }
        let work = async move { database.generations(&shards).await };
        self.call(Kind::Looks, "generations", work).await
    }

    async fn bones(&self, shard: ShardId, case: CaseId) -> Result<Option<Bones>, StoreError> {
        let database = self.database();
        let work = async move { database.bones(shard, case).await };
        self.call(Kind::Looks, "bones", work).await
    }

    async fn terminate(&self, end: &Termination) -> Result<(), StoreError> {
        let (database, end) = (self.database(), end.clone());
        let work = async move { database.terminate(&end).await };
        self.call(Kind::Changes, "terminate", work).await
    }

    async fn parked(
        &self,
        after: Option<ParkedRow>,
        limit: u32,
    ) -> Result<Vec<ParkedRow>, StoreError> {
        let database = self.database();
        let work = async move { database.parked(after, limit).await };
        self.call(Kind::Looks, "parked", work).await
    }

    async fn load(&self, shard: ShardId, case: CaseId) -> Result<Option<StoredCase>, StoreError> {
        let database = self.database();
        let work = async move { database.load(shard, case).await };
        self.call(Kind::Looks, "load", work).await
    }

    async fn locate(&self, case: CaseId) -> Result<Option<ShardId>, StoreError> {
        let database = self.database();
        let work = async move { database.locate(case).await };
        self.call(Kind::Looks, "locate", work).await
    }

    async fn restless(&self, shards: &[ShardId]) -> Result<Vec<(ShardId, CaseId)>, StoreError> {
        let (database, shards) = (self.database(), shards.to_vec());
        let work = async move { database.restless(&shards).await };
        self.call(Kind::Looks, "restless", work).await
    }

    async fn existing(&self, cases: &[(ShardId, CaseId)]) -> Result<HashSet<CaseId>, StoreError> {
        let (database, cases) = (self.database(), cases.to_vec());
        let forgets = self.world.plant == Some(Plant::StartedTwice);
        let work = async move {
            let known = database.existing(&cases).await?;
            Ok(if forgets { HashSet::new() } else { known })
        };
        self.call(Kind::Looks, "existing", work).await
    }

    async fn open_cases(
        &self,
        subjects: &[(ShardId, Subject)],
    ) -> Result<Vec<(Subject, OpenCase)>, StoreError> {
        let (database, subjects) = (self.database(), subjects.to_vec());
        let work = async move { database.open_cases(&subjects).await };
        self.call(Kind::Looks, "open_cases", work).await
    }

    async fn timers(
        &self,
        shards: &[ShardId],
        until: Timestamp,
        limit: u32,
    ) -> Result<Vec<TimerRow>, StoreError> {
        let (database, shards) = (self.database(), shards.to_vec());
        let work = async move { database.timers(&shards, until, limit).await };
        self.call(Kind::Looks, "timers", work).await
    }

    async fn put_definition(
        &self,
        hash: &DefinitionHash,
        name: &str,
        source: &str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let (database, hash) = (self.database(), hash.clone());
        let (name, source) = (name.to_owned(), source.to_owned());
        let work = async move { database.put_definition(&hash, &name, &source, now).await };
        self.call(Kind::Looks, "put_definition", work).await
    }

    async fn definition(&self, hash: &DefinitionHash) -> Result<Option<String>, StoreError> {
        let (database, hash) = (self.database(), hash.clone());
        let work = async move { database.definition(&hash).await };
        self.call(Kind::Looks, "definition", work).await
    }

    async fn versions(&self) -> Result<Vec<VersionRow>, StoreError> {
        let database = self.database();
        let work = async move { database.versions().await };
        self.call(Kind::Looks, "versions", work).await
    }

    async fn list(
        &self,
        filter: &CaseFilter,
        after: Option<CaseCursor>,
        limit: u32,
    ) -> Result<Vec<CaseSummary>, StoreError> {
        let (database, filter) = (self.database(), filter.clone());
        let work = async move { database.list(&filter, after, limit).await };
        self.call(Kind::Looks, "list", work).await
    }

    async fn counts(&self) -> Result<Vec<(String, CaseState, u64)>, StoreError> {
        let database = self.database();
        let work = async move { database.counts().await };
        self.call(Kind::Looks, "counts", work).await
    }

    async fn history(&self, shard: ShardId, case: CaseId) -> Result<Vec<HistoryRow>, StoreError> {
        let database = self.database();
        let work = async move { database.history(shard, case).await };
        self.call(Kind::Looks, "history", work).await
    }

    async fn evidence(&self, shard: ShardId, case: CaseId) -> Result<Vec<EvidenceRow>, StoreError> {
        let database = self.database();
        let work = async move { database.evidence(shard, case).await };
        self.call(Kind::Looks, "evidence", work).await
    }
}
