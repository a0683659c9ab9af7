//! The store on SQLite: one file, several processes.
//!
//! One connection writes, behind a lock, in `BEGIN IMMEDIATE` transactions: a read that turns into a write
//! could fail half-way where waiting does not help. A pool of read-only connections reads beside it, each on
//! a snapshot of its own. WAL with `synchronous = FULL`: a commit is on disk when it is acknowledged.

mod commit;
mod ending;
mod forget;
mod inbox;
mod json;
mod leases;
mod migrate;
mod numbers;
mod read;
mod schedules;
mod statements;
mod writer;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use uuid::Uuid;

use crate::core::Timestamp;
use crate::core::admission::OpenCase;
use crate::core::case::CaseState;
use crate::core::id::{CaseId, DefinitionHash, ShardId, Subject};

use super::schedules::ScheduleStore;
use super::{
    Acquire, Batch, Before, Bones, CaseCursor, CaseFilter, CaseSummary, EvidenceRow, Forgotten,
    GenerationRow, Heartbeat, HistoryRow, InboxRow, Migration, NodeRow, ParkedRow, Projection,
    ReplyRow, ShardLease, ShardRow, Store, StoreError, StoredCase, Termination, TimerRow,
    VersionRow, Work,
};
use numbers::Numbers;
use writer::Writer;

const READERS_MAX: u32 = 4;
/// The longest wait for a lock that another process holds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest wait for a reading connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

/// Cases in one SQLite file.
pub struct SqliteStore {
    path: PathBuf,
    writer: Writer,
    numbers: Numbers,
    readers: SqlitePool,
}

impl SqliteStore {
    /// Opens the file, and makes it when it is not there, readable by its owner only.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when it cannot be opened.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        make_file(path).map_err(|error| StoreError::Unavailable(sqlx::Error::Io(error)))?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .busy_timeout(BUSY_TIMEOUT)
            .foreign_keys(false)
            .pragma("temp_store", "memory");
        let writer = options
            .clone()
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            // In KiB: the pages that steps of a few ten thousand cases touch.
            .pragma("cache_size", "-65536")
            // In pages. Rarer checkpoints write a page that changes often once instead of many times.
            .pragma("wal_autocheckpoint", "20000")
            // In bytes: the log is cut back to this after a long reader let it grow.
            .pragma("journal_size_limit", "134217728");
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS_MAX)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .connect_lazy_with(options.read_only(true));
        Ok(Self {
            path: path.to_owned(),
            writer: Writer::open(writer).await?,
            numbers: Numbers::default(),
            readers,
        })
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Read-only connections, for the layer above's own reading.
    #[must_use]
    pub fn readers(&self) -> &SqlitePool {
        &self.readers
    }

    /// Ends every connection; what is in flight is finished first.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

/// SQLite gives its `-wal` and `-shm` files the permissions of the main file.
fn make_file(path: &Path) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn migrate(&self, migrations: &[Migration], shards: u32) -> Result<(), StoreError> {
        migrate::migrate(&self.writer, migrations, shards).await
    }

    fn schedules(&self) -> &dyn ScheduleStore {
        self
    }

    /// One is written at a time, and the other is described meanwhile.
    fn writes_at_once(&self) -> usize {
        2
    }

    async fn shard_count(&self) -> Result<u32, StoreError> {
        migrate::shard_count(&self.readers).await
    }

    async fn acquire(&self, wanted: &Acquire<'_>) -> Result<Vec<ShardLease>, StoreError> {
        leases::acquire(&self.writer, wanted).await
    }

    async fn renew(
        &self,
        node: &str,
        leases: &[ShardLease],
        lease_ms: u32,
    ) -> Result<Vec<ShardId>, StoreError> {
        leases::renew(&self.writer, node, leases, lease_ms).await
    }

    async fn release(&self, node: &str, leases: &[ShardLease]) -> Result<(), StoreError> {
        leases::release(&self.writer, node, leases).await
    }

    async fn shards(&self) -> Result<Vec<ShardRow>, StoreError> {
        leases::shards(&self.readers).await
    }

    async fn beat(&self, beat: &Heartbeat) -> Result<(), StoreError> {
        leases::beat(&self.writer, beat).await
    }

    async fn nodes(&self) -> Result<Vec<NodeRow>, StoreError> {
        leases::nodes(&self.readers).await
    }

    async fn forget_node(&self, owner: &str) -> Result<(), StoreError> {
        leases::forget_node(&self.writer, owner).await
    }

    async fn forget_silent_nodes(&self, silent_ms: u32) -> Result<(), StoreError> {
        leases::forget_silent_nodes(&self.writer, silent_ms).await
    }

    async fn commit(&self, batch: &Batch, projection: &dyn Projection) -> Result<(), StoreError> {
        commit::commit(self, batch, projection).await
    }

    async fn write(&self, work: &dyn Work) -> Result<(), StoreError> {
        inbox::write(&self.writer, work).await
    }

    async fn put_inbox(&self, rows: &[InboxRow]) -> Result<(), StoreError> {
        inbox::put(&self.writer, rows).await
    }

    async fn inbox_since(
        &self,
        shards: &[ShardId],
        since: Option<Timestamp>,
        limit: u32,
    ) -> Result<Vec<InboxRow>, StoreError> {
        inbox::since(&self.readers, shards, since, limit).await
    }

    async fn reply(&self, shard: ShardId, id: Uuid) -> Result<Option<ReplyRow>, StoreError> {
        inbox::reply(&self.readers, shard, id).await
    }

    async fn forget_replies(&self, before: Timestamp) -> Result<(), StoreError> {
        inbox::forget_replies(&self.writer, before).await
    }

    async fn make_room(&self, _: Timestamp) -> Result<(), StoreError> {
        // One file has no partitions.
        Ok(())
    }

    async fn forget(&self, before: &Before) -> Result<Forgotten, StoreError> {
        forget::forget(self, before).await
    }

    async fn load(&self, shard: ShardId, case: CaseId) -> Result<Option<StoredCase>, StoreError> {
        read::load(&self.readers, shard, case).await
    }

    async fn bones(&self, shard: ShardId, case: CaseId) -> Result<Option<Bones>, StoreError> {
        ending::bones(&self.readers, shard, case).await
    }

    async fn terminate(&self, end: &Termination) -> Result<(), StoreError> {
        ending::terminate(&self.writer, end).await
    }

    async fn locate(&self, case: CaseId) -> Result<Option<ShardId>, StoreError> {
        read::locate(&self.readers, case).await
    }

    async fn restless(&self, shards: &[ShardId]) -> Result<Vec<(ShardId, CaseId)>, StoreError> {
        read::restless(&self.readers, shards).await
    }

    async fn generations(&self, shards: &[ShardId]) -> Result<Vec<GenerationRow>, StoreError> {
        ending::generations(&self.readers, shards).await
    }

    async fn existing(&self, cases: &[(ShardId, CaseId)]) -> Result<HashSet<CaseId>, StoreError> {
        read::existing(&self.readers, cases).await
    }

    async fn open_cases(
        &self,
        subjects: &[(ShardId, Subject)],
    ) -> Result<Vec<(Subject, OpenCase)>, StoreError> {
        read::open_cases(&self.readers, subjects).await
    }

    async fn timers(
        &self,
        shards: &[ShardId],
        until: Timestamp,
        limit: u32,
    ) -> Result<Vec<TimerRow>, StoreError> {
        read::timers(&self.readers, shards, until, limit).await
    }

    async fn put_definition(
        &self,
        hash: &DefinitionHash,
        name: &str,
        source: &str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        read::put_definition(&self.writer, hash, name, source, now).await
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
