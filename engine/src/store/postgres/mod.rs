//! The store on PostgreSQL.
//!
//! A batch is one statement and one round trip: see [`commit`]. Writers and readers have connections of their
//! own, so that no listing keeps a lease from being renewed. Only plain SQL is used: no advisory locks, no
//! savepoints, no triggers, and LISTEN/NOTIFY only as a hint that may be lost ([`hints`]).

mod commit;
mod ending;
mod forget;
mod hints;
mod inbox;
mod leases;
mod migrate;
mod partitions;
mod read;
mod schedules;

use std::collections::HashSet;
use std::str::FromStr;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection, Executor, PgPool};
use uuid::Uuid;

use crate::core::Timestamp;
use crate::core::admission::OpenCase;
use crate::core::case::CaseState;
use crate::core::id::{CaseId, DefinitionHash, ShardId, Subject};

use self::hints::Hints;
use super::failure::from_driver;
use super::schedules::ScheduleStore;
use super::{
    Acquire, Batch, Before, Bones, CaseCursor, CaseFilter, CaseSummary, EvidenceRow, Forgotten,
    GenerationRow, Heartbeat, Hint, HistoryRow, InboxRow, Migration, NodeRow, ParkedRow,
    Projection, ReplyRow, ShardLease, ShardRow, Store, StoreError, StoredCase, Termination,
    TimerRow, VersionRow, Work,
};

/// How to connect.
#[derive(Debug, Clone)]
pub struct PostgresOptions {
    /// Connections that write batches: a lane writes as many at the same time.
    pub lanes_max: u32,
    /// Connections that write the rest: the inbox, leases, what the layer above writes by itself.
    pub writers_max: u32,
    /// Connections that look up what a lane asks for by key.
    pub lookups_max: u32,
    /// Connections that read the rest.
    pub readers_max: u32,
    /// The longest wait for a connection.
    pub acquire_timeout: Duration,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self {
            lanes_max: 2,
            writers_max: 4,
            lookups_max: 4,
            readers_max: 8,
            acquire_timeout: Duration::from_secs(10),
        }
    }
}

/// How long a connection may take to show that it lives; then another one is opened.
const PING_LIMIT: Duration = Duration::from_secs(1);
/// How long a connection may lie idle and still be taken for alive.
const IDLE_UNASKED: Duration = Duration::from_secs(1);

/// Cases in PostgreSQL.
pub struct PostgresStore {
    lanes: PgPool,
    lanes_max: usize,
    writers: PgPool,
    lookups: PgPool,
    readers: PgPool,
    hints: Hints,
    /// How many batches it has written.
    batches: AtomicU64,
}

/// What every connection needs, whatever the server's defaults: statements that see what is committed, and a
/// commit that is on disk once it is acknowledged (`off` is the one setting that breaks this; stronger ones
/// stay). A node that is cut off, or gone with its machine, must not hold its locks for longer than a lease lasts.
const SESSION: &str = "
SET default_transaction_isolation = 'read committed';
SET idle_in_transaction_session_timeout = '10s';
SET tcp_keepalives_idle = 5;
SET tcp_keepalives_interval = 2;
SET tcp_keepalives_count = 3;
SET tcp_user_timeout = '10s';
SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off';
";

/// What a lane's connection needs beside. The plan of a batch must not hang on statistics: tables are empty
/// when it is made and full an hour later. Every part of it walks over an array and looks each element up by
/// primary key, and this says so.
const LANE: &str = "
SET plan_cache_mode = force_generic_plan;
SET enable_seqscan = off;
SET enable_bitmapscan = off;
SET enable_hashjoin = off;
SET enable_mergejoin = off;
SET jit = off;
";

/// What connections need beside that look up what a lane asks for: the index that has the order which a statement asks
/// for, and no other. Of a table that is nearly empty the planner thinks that any index will do; with an old snapshot
/// about, the other one leads over all rows of a shard that were deleted since.
const LOOKUP: &str = "SET enable_sort = off;";

impl PostgresStore {
    /// Connects to `url`; the schema is made by [`Store::migrate`].
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the server does not answer, [`StoreError::Refused`] when it does not let
    /// us in.
    pub async fn connect(url: &str, options: PostgresOptions) -> Result<Self, StoreError> {
        let connect = PgConnectOptions::from_str(url).map_err(StoreError::Refused)?;
        let connect = connect.application_name("tenure");
        let pool = |connections_max: u32, setup: &'static [&'static str]| {
            PgPoolOptions::new()
                .max_connections(connections_max)
                .acquire_timeout(options.acquire_timeout)
                // As by default, and within a time: a connection that only looks open would be waited for. One that was
                // used just now is not asked: that would be a round trip more for every statement.
                .test_before_acquire(false)
                .before_acquire(|connection, used| {
                    Box::pin(async move {
                        if used.idle_for < IDLE_UNASKED {
                            return Ok(true);
                        }
                        let answered = tokio::time::timeout(PING_LIMIT, connection.ping()).await;
                        Ok(matches!(answered, Ok(Ok(()))))
                    })
                })
                .after_connect(move |connection, _| {
                    Box::pin(async move {
                        for sql in setup {
                            connection.execute(sqlx::raw_sql(*sql)).await?;
                        }
                        Ok(())
                    })
                })
        };
        let writers = pool(options.writers_max, &[SESSION])
            .connect_with(connect.clone())
            .await
            .map_err(from_driver)?;
        Ok(Self {
            hints: Hints::new(writers.clone()),
            batches: AtomicU64::new(0),
            writers,
            lanes_max: usize::try_from(options.lanes_max).unwrap_or(1),
            lanes: pool(options.lanes_max, &[SESSION, LANE]).connect_lazy_with(connect.clone()),
            lookups: pool(options.lookups_max, &[SESSION, LANE, LOOKUP])
                .connect_lazy_with(connect.clone()),
            readers: pool(options.readers_max, &[SESSION]).connect_lazy_with(connect),
        })
    }

    /// For the layer above's own reading.
    #[must_use]
    pub fn readers(&self) -> &PgPool {
        &self.readers
    }

    /// Ends every connection; what is in flight is finished first.
    pub async fn close(&self) {
        self.hints.close().await;
        self.readers.close().await;
        self.lookups.close().await;
        self.lanes.close().await;
        self.writers.close().await;
    }

    async fn begin(&self) -> Result<sqlx::Transaction<'static, sqlx::Postgres>, StoreError> {
        self.writers.begin().await.map_err(from_driver)
    }
}

/// The error a statement raises on purpose when one of its guards fails: nothing of it stays then.
fn is_guard(error: &sqlx::Error) -> bool {
    const DIVISION_BY_ZERO: &str = "22012";
    sqlstate(error).as_deref() == Some(DIVISION_BY_ZERO)
}

fn is_duplicate(error: &sqlx::Error) -> bool {
    error
        .as_database_error()
        .is_some_and(|error| error.is_unique_violation())
}

fn sqlstate(error: &sqlx::Error) -> Option<String> {
    Some(error.as_database_error()?.code()?.into_owned())
}

#[async_trait]
impl Store for PostgresStore {
    async fn migrate(&self, migrations: &[Migration], shards: u32) -> Result<(), StoreError> {
        migrate::migrate(self, migrations, shards).await
    }

    fn schedules(&self) -> &dyn ScheduleStore {
        self
    }

    fn writes_at_once(&self) -> usize {
        self.lanes_max
    }

    async fn shard_count(&self) -> Result<u32, StoreError> {
        migrate::shard_count(&self.readers).await
    }

    async fn acquire(&self, wanted: &Acquire<'_>) -> Result<Vec<ShardLease>, StoreError> {
        leases::acquire(&self.writers, wanted).await
    }

    async fn renew(
        &self,
        node: &str,
        leases: &[ShardLease],
        lease_ms: u32,
    ) -> Result<Vec<ShardId>, StoreError> {
        leases::renew(&self.writers, node, leases, lease_ms).await
    }

    async fn release(&self, node: &str, leases: &[ShardLease]) -> Result<(), StoreError> {
        leases::release(&self.writers, node, leases).await
    }

    async fn shards(&self) -> Result<Vec<ShardRow>, StoreError> {
        leases::shards(&self.readers).await
    }

    async fn beat(&self, beat: &Heartbeat) -> Result<(), StoreError> {
        leases::beat(&self.writers, beat).await?;
        let nodes = leases::nodes(&self.readers).await?;
        let other = |node: &NodeRow| node.owner != beat.owner && !node.is_silent();
        self.hints.others(nodes.iter().any(other));
        Ok(())
    }

    async fn nodes(&self) -> Result<Vec<NodeRow>, StoreError> {
        leases::nodes(&self.readers).await
    }

    fn hint_ownership(&self) {
        self.hints.ownership();
    }

    async fn hinted(&self) -> Hint {
        self.hints.next().await
    }

    async fn forget_node(&self, owner: &str) -> Result<(), StoreError> {
        leases::forget_node(&self.writers, owner).await
    }

    async fn forget_silent_nodes(&self, silent_ms: u32) -> Result<(), StoreError> {
        leases::forget_silent_nodes(&self.writers, silent_ms).await
    }

    async fn commit(&self, batch: &Batch, projection: &dyn Projection) -> Result<(), StoreError> {
        commit::commit(self, batch, projection).await
    }

    async fn write(&self, work: &dyn Work) -> Result<(), StoreError> {
        let told = inbox::write(self, work).await?;
        self.hints.inbox(told.into_iter());
        Ok(())
    }

    async fn put_inbox(&self, rows: &[InboxRow]) -> Result<(), StoreError> {
        inbox::put(&self.writers, rows).await?;
        self.hints.inbox(rows.iter().map(|row| row.shard));
        Ok(())
    }

    async fn inbox_since(
        &self,
        shards: &[ShardId],
        since: Option<Timestamp>,
        limit: u32,
    ) -> Result<Vec<InboxRow>, StoreError> {
        inbox::since(&self.lookups, shards, since, limit).await
    }

    async fn reply(&self, shard: ShardId, id: Uuid) -> Result<Option<ReplyRow>, StoreError> {
        inbox::reply(&self.readers, shard, id).await
    }

    async fn forget_replies(&self, before: Timestamp) -> Result<(), StoreError> {
        inbox::forget_replies(&self.writers, before).await
    }

    async fn make_room(&self, now: Timestamp) -> Result<(), StoreError> {
        partitions::make_room(self, now).await
    }

    async fn forget(&self, before: &Before) -> Result<Forgotten, StoreError> {
        forget::forget(self, before).await
    }

    async fn load(&self, shard: ShardId, case: CaseId) -> Result<Option<StoredCase>, StoreError> {
        read::load(&self.lookups, shard, case).await
    }

    async fn bones(&self, shard: ShardId, case: CaseId) -> Result<Option<Bones>, StoreError> {
        ending::bones(&self.readers, shard, case).await
    }

    async fn terminate(&self, end: &Termination) -> Result<(), StoreError> {
        ending::terminate(self, end).await
    }

    async fn locate(&self, case: CaseId) -> Result<Option<ShardId>, StoreError> {
        read::locate(&self.readers, case).await
    }

    async fn restless(&self, shards: &[ShardId]) -> Result<Vec<(ShardId, CaseId)>, StoreError> {
        read::restless(&self.readers, shards).await
    }

    async fn generations(&self, shards: &[ShardId]) -> Result<Vec<GenerationRow>, StoreError> {
        ending::generations(&self.lookups, shards).await
    }

    async fn existing(&self, cases: &[(ShardId, CaseId)]) -> Result<HashSet<CaseId>, StoreError> {
        read::existing(&self.lookups, cases).await
    }

    async fn open_cases(
        &self,
        subjects: &[(ShardId, Subject)],
    ) -> Result<Vec<(Subject, OpenCase)>, StoreError> {
        read::open_cases(&self.lookups, subjects).await
    }

    async fn timers(
        &self,
        shards: &[ShardId],
        until: Timestamp,
        limit: u32,
    ) -> Result<Vec<TimerRow>, StoreError> {
        read::timers(&self.lookups, shards, until, limit).await
    }

    async fn put_definition(
        &self,
        hash: &DefinitionHash,
        name: &str,
        source: &str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        read::put_definition(&self.writers, hash, name, source, now).await
    }

    async fn definition(&self, hash: &DefinitionHash) -> Result<Option<String>, StoreError> {
        read::definition(&self.readers, hash).await
    }

    async fn versions(&self) -> Result<Vec<VersionRow>, StoreError> {
        read::versions(&self.readers).await
    }

    async fn list(
        &self,
        filter: &CaseFilter,
        after: Option<CaseCursor>,
        limit: u32,
    ) -> Result<Vec<CaseSummary>, StoreError> {
        read::list(&self.readers, filter, after, limit).await
    }

    async fn parked(
        &self,
        after: Option<ParkedRow>,
        limit: u32,
    ) -> Result<Vec<ParkedRow>, StoreError> {
        ending::parked(&self.readers, after, limit).await
    }

    async fn counts(&self) -> Result<Vec<(String, CaseState, u64)>, StoreError> {
        read::counts(&self.readers).await
    }

    async fn history(&self, shard: ShardId, case: CaseId) -> Result<Vec<HistoryRow>, StoreError> {
        read::history(&self.readers, shard, case).await
    }

    async fn evidence(&self, shard: ShardId, case: CaseId) -> Result<Vec<EvidenceRow>, StoreError> {
        read::evidence(&self.readers, shard, case).await
    }
}
