//! The database of an installation, by its address.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use async_trait::async_trait;
use engine::core::case::Case;
use engine::core::definition::Definition;
use engine::core::id::{CaseId, DefinitionHash};
use engine::store::postgres::{PostgresOptions, PostgresStore};
use engine::store::sqlite::SqliteStore;
use engine::store::{
    HistoryRow, InboxRow, MIGRATIONS, Migration, Store, StoreError, Transaction, Work, assemble,
};
use secrecy::ExposeSecret as _;
use uuid::Uuid;
use workflows::actions::FACT_ROOTS;
use workflows::config::{Settings, StoreAddress};
use workflows::directory::{self, Directory};
use workflows::notices;

use super::case_view::{self, Earlier, Surroundings};

/// How many cases are looked through for one whose identifier begins as given.
const PREFIX_CASES_MAX: usize = 100_000;
/// The shortest beginning of an identifier that is looked for.
const PREFIX_CHARS_MIN: usize = 4;
/// How often the schema is brought up to date over connections that break, and the pause between.
const MIGRATE_ATTEMPTS_MAX: u32 = 3;
const MIGRATE_PAUSE: Duration = Duration::from_millis(300);

/// Every schema step of the program, oldest first.
#[must_use]
pub fn migrations() -> Vec<Migration> {
    [
        MIGRATIONS,
        directory::MIGRATIONS,
        notices::MIGRATIONS,
        crate::api::MIGRATIONS,
    ]
    .concat()
}

/// Where the store is: `--store` if given, else what the settings say.
///
/// # Errors
/// When it is no address, or the place that keeps it cannot be read.
pub fn address(
    root: &Path,
    settings: &Settings,
    given: Option<&str>,
) -> anyhow::Result<StoreAddress> {
    let Some(given) = given else {
        return settings
            .store
            .address(root)
            .map_err(|problem| anyhow::anyhow!("{problem}"));
    };
    if let Some(path) = given
        .strip_prefix("sqlite:")
        .filter(|path| !path.is_empty())
    {
        // Typed on the command line: relative to where the person stands.
        return Ok(StoreAddress::Sqlite(
            path.strip_prefix("//").unwrap_or(path).into(),
        ));
    }
    if given.starts_with("postgres://") || given.starts_with("postgresql://") {
        return Ok(StoreAddress::Postgres(given.to_owned().into()));
    }
    bail!(
        "`--store` is no address of a store; write `sqlite:FILE` or `postgres://user@host/database`"
    )
}

/// The address for people: never with a password.
#[must_use]
pub fn shown(address: &StoreAddress) -> String {
    match address {
        StoreAddress::Sqlite(path) => format!("sqlite:{}", path.display()),
        StoreAddress::Postgres(url) => {
            let url = url.expose_secret();
            let (scheme, rest) = url.split_once("://").unwrap_or(("postgres", url));
            let rest = rest.split_once('?').map_or(rest, |(rest, _)| rest);
            let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
            format!("{scheme}://{host}")
        }
    }
}

/// An open database.
#[derive(Clone)]
pub struct Database {
    pub store: Arc<dyn Store>,
    pub directory: Directory,
    opened: Opened,
}

/// Read-only access, for questions the store's trait does not have.
pub enum Readers<'a> {
    Sqlite(&'a sqlx::SqlitePool),
    Postgres(&'a sqlx::PgPool),
}

#[derive(Clone)]
enum Opened {
    Sqlite(Arc<SqliteStore>),
    Postgres(Arc<PostgresStore>),
}

impl Opened {
    async fn open(address: &StoreAddress) -> anyhow::Result<Self> {
        let name = shown(address);
        Ok(match address {
            StoreAddress::Sqlite(path) => {
                if let Some(folder) = path
                    .parent()
                    .filter(|folder| !folder.as_os_str().is_empty())
                {
                    std::fs::create_dir_all(folder)
                        .with_context(|| format!("cannot make `{}`", folder.display()))?;
                }
                let store = SqliteStore::open(path)
                    .await
                    .with_context(|| format!("cannot open `{name}`"))?;
                Self::Sqlite(Arc::new(store))
            }
            StoreAddress::Postgres(url) => {
                let store = PostgresStore::connect(url.expose_secret(), PostgresOptions::default())
                    .await
                    .with_context(|| format!("cannot connect to `{name}`"))?;
                Self::Postgres(Arc::new(store))
            }
        })
    }

    fn store(&self) -> Arc<dyn Store> {
        match self {
            Self::Sqlite(store) => Arc::clone(store) as Arc<dyn Store>,
            Self::Postgres(store) => Arc::clone(store) as Arc<dyn Store>,
        }
    }

    async fn into_database(self) -> Result<Database, StoreError> {
        let directory = match &self {
            Self::Sqlite(store) => Directory::on_sqlite(Arc::clone(store)).await?,
            Self::Postgres(store) => Directory::on_postgres(Arc::clone(store)).await?,
        };
        Ok(Database {
            store: self.store(),
            directory,
            opened: self,
        })
    }
}

/// Brings the schema up to date. A connection that breaks meanwhile is no reason to give up: what was done of it is there,
/// and the rest is done again.
async fn migrate(store: &dyn Store, shards: u32) -> Result<(), StoreError> {
    let mut attempts = 1;
    loop {
        match store.migrate(&migrations(), shards).await {
            Err(StoreError::Unavailable(error)) if attempts < MIGRATE_ATTEMPTS_MAX => {
                tracing::debug!(%error, "the connection broke; once more");
                attempts += 1;
                tokio::time::sleep(MIGRATE_PAUSE).await;
            }
            done => return done,
        }
    }
}

impl Database {
    /// Opens a database and brings its schema up to date; makes it, with so many shards, when it is not there.
    ///
    /// # Errors
    /// When it cannot be reached, or was written by a newer program.
    pub async fn prepare(address: &StoreAddress, shards: u32) -> anyhow::Result<Self> {
        let opened = Opened::open(address).await?;
        migrate(&*opened.store(), shards)
            .await
            .with_context(|| format!("cannot prepare `{}`", shown(address)))?;
        let fixed = opened.store().shard_count().await?;
        if fixed != shards {
            tracing::warn!(
                shards = fixed,
                wanted = shards,
                "`store.shards` counts only when a database is made; this one keeps what it has"
            );
        }
        Ok(opened.into_database().await?)
    }

    /// Opens a database that exists, to look into it.
    ///
    /// # Errors
    /// When there is none, it cannot be reached, or its schema is not this program's.
    pub async fn existing(address: &StoreAddress, shards: u32) -> anyhow::Result<Self> {
        let name = shown(address);
        if let StoreAddress::Sqlite(path) = address
            && !path.exists()
        {
            bail!(
                "there is no database at `{name}` yet; `tenure import` and `tenure serve` make it, or give another with `--store`"
            );
        }
        let opened = Opened::open(address).await?;
        let migrated = migrate(&*opened.store(), shards).await;
        migrated.with_context(|| format!("cannot bring `{name}` up to date"))?;
        Ok(opened.into_database().await?)
    }

    #[must_use]
    pub fn readers(&self) -> Readers<'_> {
        match &self.opened {
            Opened::Sqlite(store) => Readers::Sqlite(store.readers()),
            Opened::Postgres(store) => Readers::Postgres(store.readers()),
        }
    }

    /// Counts the closed cases anew: a program of a version that did not count them may have closed some. Nothing is
    /// committed by the nodes meanwhile.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn recount(&self) -> anyhow::Result<()> {
        Ok(self.store.write(&Recount).await?)
    }

    /// Ends every connection; what is in flight is finished first.
    pub async fn close(&self) {
        match &self.opened {
            Opened::Sqlite(store) => store.close().await,
            Opened::Postgres(store) => store.close().await,
        }
    }

    /// Whether some node holds shards on a lease that has not run out. A node of this machine that is certainly dead
    /// does not count: its shards can be taken over at once.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn node_alive(&self) -> anyhow::Result<bool> {
        let shards = self.store.shards().await?;
        Ok(shards.iter().any(|shard| {
            let owner = shard.owner.as_deref();
            owner.is_some_and(|owner| !engine::runner::owner_is_dead(owner)) && shard.is_held()
        }))
    }

    /// The case that a person means: by identifier, by its beginning, or the newest of a subject.
    ///
    /// # Errors
    /// When there is none, or more than one begins that way.
    pub async fn find_case(&self, meant: &str) -> anyhow::Result<CaseId> {
        if let Ok(id) = Uuid::parse_str(meant) {
            return Ok(CaseId(id));
        }
        let mut found: Option<CaseId> = None;
        let looks_like_id = meant.len() >= PREFIX_CHARS_MIN
            && meant.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
        let filter = engine::store::CaseFilter::default();
        let mut after = None;
        let mut seen = 0;
        while looks_like_id && seen < PREFIX_CASES_MAX {
            let page = self
                .store
                .list(&filter, after, engine::store::PAGE_ROWS_MAX)
                .await?;
            let Some(last) = page.last() else { break };
            after = Some(engine::store::CaseCursor {
                created_at: last.head.created_at,
                case: last.head.case,
            });
            seen += page.len();
            for summary in &page {
                if summary
                    .head
                    .case
                    .to_string()
                    .starts_with(&meant.to_ascii_lowercase())
                    && let Some(other) = found.replace(summary.head.case)
                {
                    bail!(
                        "`{meant}` is the beginning of more than one case: `{other}` and `{}`",
                        summary.head.case
                    );
                }
            }
        }
        if let Some(found) = found {
            return Ok(found);
        }
        let subject = engine::core::id::Subject(meant.to_owned());
        let filter = engine::store::CaseFilter {
            subject: Some(subject),
            ..filter
        };
        match self.store.list(&filter, None, 1).await?.first() {
            Some(summary) => Ok(summary.head.case),
            None => bail!(
                "there is no case `{meant}`, and nobody of that key has one; see `tenure case list`"
            ),
        }
    }

    /// A case with its own version of the workflow.
    ///
    /// # Errors
    /// When it does not exist or cannot be read.
    pub async fn case(&self, id: CaseId) -> anyhow::Result<Case> {
        let missing = || format!("there is no case `{id}`");
        let shard = self.store.locate(id).await?.with_context(missing)?;
        let stored = self.store.load(shard, id).await?.with_context(missing)?;
        let hash = stored.head.definition.clone();
        let text = self.store.definition(&hash).await?;
        let text = text.with_context(|| {
            format!(
                "workflow version `{}` of case `{id}` is not stored",
                hash.short()
            )
        })?;
        // Read for showing: a version of before may use actions this program has no more.
        let definition = Definition::parse(&stored.head.workflow, &text, FACT_ROOTS, &|_| true)
            .with_context(|| {
                format!(
                    "workflow version `{}` of case `{id}` cannot be read",
                    hash.short()
                )
            })?;
        Ok(assemble(Arc::new(definition), stored)?)
    }

    /// The versions of its workflow that a case ran under before. One that is not stored any more is left out: its
    /// events then have no names of steps.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn earlier(&self, history: &[HistoryRow]) -> anyhow::Result<Earlier> {
        let mut earlier = Earlier::new();
        for hash in case_view::versions_left(history) {
            if let Some(definition) = self.version(&hash).await? {
                earlier.insert(hash, definition);
            }
        }
        Ok(earlier)
    }

    /// A stored version of a workflow. Read for showing: a version of before may use actions this program has no more.
    ///
    /// # Errors
    /// When the database does not answer, or the version cannot be read.
    pub async fn version(&self, hash: &DefinitionHash) -> anyhow::Result<Option<Definition>> {
        let Some(text) = self.store.definition(hash).await? else {
            return Ok(None);
        };
        let definition = Definition::parse(hash.short(), &text, FACT_ROOTS, &|_| true)
            .with_context(|| format!("workflow version `{}` cannot be read", hash.short()))?;
        Ok(Some(definition))
    }

    /// What stands around a case.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn surroundings(&self, case: &Case) -> anyhow::Result<Surroundings> {
        let mut ahead = Vec::new();
        if !case.state.is_closed() {
            let open = self
                .store
                .open_cases(&[(case.shard, case.subject.clone())])
                .await?;
            ahead = open
                .into_iter()
                .filter(|(_, other)| other.id != case.id && other.created_at <= case.created_at)
                .map(|(_, other)| {
                    (
                        other.id.to_string(),
                        other.workflow,
                        other.state.as_str().to_owned(),
                    )
                })
                .collect();
        }
        Ok(Surroundings {
            ahead,
            systems: self.directory.system_states().await?,
            node_alive: self.node_alive().await?,
        })
    }
}

struct Recount;

#[async_trait]
impl Work for Recount {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        let done = match transaction {
            Transaction::Postgres(connection) => sqlx::raw_sql(RECOUNT_POSTGRES)
                .execute(&mut **connection)
                .await
                .map(drop),
            Transaction::Sqlite(connection) => sqlx::raw_sql(RECOUNT_SQLITE)
                .execute(&mut **connection)
                .await
                .map(drop),
        };
        done.map_err(StoreError::Refused)?;
        Ok(Vec::new())
    }
}

/// Every commit share-locks the rows of its shards, so it waits until this is over.
const RECOUNT_POSTGRES: &str = "
SELECT 1 FROM shard ORDER BY shard_id FOR UPDATE;
DELETE FROM case_closed_part;
DELETE FROM case_closed_count;
INSERT INTO case_closed_count (shard_id, workflow, state, cases)
SELECT head.shard_id, head.workflow, state.state, count(*)
  FROM case_head AS head
  JOIN case_state AS state ON state.shard_id = head.shard_id AND state.case_id = head.case_id
  LEFT JOIN case_open AS open ON open.shard_id = head.shard_id AND open.case_id = head.case_id
 WHERE open.case_id IS NULL
 GROUP BY head.shard_id, head.workflow, state.state;";

const RECOUNT_SQLITE: &str = "
DELETE FROM case_closed_count;
INSERT INTO case_closed_count (shard_id, workflow, state, cases)
SELECT head.shard_id, head.workflow, state.state, count(*)
  FROM case_head AS head
  JOIN case_state AS state ON state.case_number = head.case_number
 WHERE head.case_number NOT IN (SELECT case_number FROM case_open)
 GROUP BY head.shard_id, head.workflow, state.state;";

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        reason = "tests"
    )]
    use super::*;

    #[test]
    fn an_address_is_shown_without_its_password() {
        let root = Path::new("/etc/tenure");
        for (given, expected) in [
            ("sqlite:/var/lib/t.db", "sqlite:/var/lib/t.db"),
            (
                "postgres://me:hunter2@db:5432/tenure?password=x",
                "postgres://db:5432/tenure",
            ),
            ("postgresql://db/tenure", "postgresql://db/tenure"),
        ] {
            let address = address(root, &Settings::default(), Some(given)).unwrap();
            assert_eq!(shown(&address), expected);
        }
        assert!(address(root, &Settings::default(), Some("mysql://x")).is_err());
        let default = address(root, &Settings::default(), None).unwrap();
        assert_eq!(shown(&default), "sqlite:/etc/tenure/tenure.db");
    }
}
