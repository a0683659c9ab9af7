//! A database that is made for one run and removed after it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use engine::store::postgres::{PostgresOptions, PostgresStore};
use engine::store::sqlite::SqliteStore;
use engine::store::{MIGRATIONS, SHARDS_DEFAULT, Store};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, SqliteConnection};
use uuid::Uuid;
use workflows::config::StoreAddress;

use super::Database;
use crate::shell::Database as Opened;

/// The database of one run.
pub(super) enum Scratch {
    Sqlite {
        store: Arc<SqliteStore>,
        folder: PathBuf,
    },
    Postgres {
        store: Arc<PostgresStore>,
        server: String,
        name: String,
        url: String,
    },
}

/// A connection beside the engine's.
pub(super) enum Beside {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

impl Scratch {
    /// Makes a database, lets `work` use it, and removes it, whatever became of the work.
    pub(super) async fn within<T>(
        database: Database,
        url: Option<&str>,
        work: impl AsyncFnOnce(&Self) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let scratch = Self::make(database, url).await?;
        let done = work(&scratch).await;
        let removed = scratch.remove().await;
        let done = done?;
        removed?;
        Ok(done)
    }

    /// The same database with everything that `tenure` keeps in one.
    pub(super) async fn prepared(&self) -> anyhow::Result<Opened> {
        let address = match self {
            Self::Sqlite { store, .. } => StoreAddress::Sqlite(store.path().into()),
            Self::Postgres { url, .. } => StoreAddress::Postgres(url.as_str().into()),
        };
        Opened::prepare(&address, SHARDS_DEFAULT).await
    }

    async fn make(database: Database, url: Option<&str>) -> anyhow::Result<Self> {
        let name = format!("tenure_bench_{}", Uuid::new_v4().simple());
        let scratch = match database {
            Database::Sqlite => {
                if url.is_some() {
                    bail!(
                        "`--url` goes with `--store postgres`; on SQLite the run makes its own file"
                    );
                }
                let folder = std::env::temp_dir().join(name);
                std::fs::create_dir(&folder)
                    .with_context(|| format!("cannot make `{}`", folder.display()))?;
                let store = Arc::new(SqliteStore::open(&folder.join("bench.db")).await?);
                Self::Sqlite { store, folder }
            }
            Database::Postgres => {
                let Some(server) = url.map(str::to_owned) else {
                    bail!(
                        "`--store postgres` needs `--url postgres://...`, a server where a scratch database can be made"
                    );
                };
                let mut connection = PgConnection::connect(&server)
                    .await
                    .context("cannot connect to `--url`")?;
                sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {name}")))
                    .execute(&mut connection)
                    .await
                    .context(
                        "cannot make a scratch database; the user of `--url` needs CREATEDB",
                    )?;
                let url = with_database(&server, &name)?;
                let store =
                    Arc::new(PostgresStore::connect(&url, PostgresOptions::default()).await?);
                Self::Postgres {
                    store,
                    server,
                    name,
                    url,
                }
            }
        };
        scratch.store().migrate(MIGRATIONS, SHARDS_DEFAULT).await?;
        Ok(scratch)
    }

    /// A database that another process made; it is that process that removes it.
    pub(super) async fn named(address: &str) -> anyhow::Result<Self> {
        Ok(match address.strip_prefix("sqlite:") {
            Some(file) => Self::Sqlite {
                store: Arc::new(SqliteStore::open(Path::new(file)).await?),
                folder: PathBuf::new(),
            },
            None => Self::Postgres {
                store: Arc::new(PostgresStore::connect(address, PostgresOptions::default()).await?),
                server: String::new(),
                name: String::new(),
                url: address.to_owned(),
            },
        })
    }

    /// What [`Scratch::named`] takes. May hold a password.
    pub(super) fn address(&self) -> String {
        match self {
            Self::Sqlite { store, .. } => format!("sqlite:{}", store.path().display()),
            Self::Postgres { url, .. } => url.clone(),
        }
    }

    pub(super) fn store(&self) -> Arc<dyn Store> {
        match self {
            Self::Sqlite { store, .. } => Arc::clone(store) as Arc<dyn Store>,
            Self::Postgres { store, .. } => Arc::clone(store) as Arc<dyn Store>,
        }
    }

    /// The same database over connections of its own, as another process would have.
    pub(super) async fn another(&self) -> anyhow::Result<Arc<dyn Store>> {
        Ok(match self {
            Self::Sqlite { store, .. } => Arc::new(SqliteStore::open(store.path()).await?),
            Self::Postgres { url, .. } => {
                Arc::new(PostgresStore::connect(url, PostgresOptions::default()).await?)
            }
        })
    }

    pub(super) async fn beside(&self) -> anyhow::Result<Beside> {
        Ok(match self {
            Self::Sqlite { store, .. } => {
                use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
                // The same promises about durability as the engine's own connection.
                let options = SqliteConnectOptions::new()
                    .filename(store.path())
                    .journal_mode(SqliteJournalMode::Wal)
                    .synchronous(SqliteSynchronous::Full)
                    .pragma("cache_size", "-65536")
                    .pragma("wal_autocheckpoint", "8000");
                Beside::Sqlite(SqliteConnection::connect_with(&options).await?)
            }
            Self::Postgres { url, .. } => Beside::Postgres(PgConnection::connect(url).await?),
        })
    }

    /// Closes and removes it.
    async fn remove(self) -> anyhow::Result<()> {
        match self {
            Self::Sqlite { store, folder } => {
                store.close().await;
                std::fs::remove_dir_all(&folder)
                    .with_context(|| format!("cannot remove `{}`", folder.display()))
            }
            Self::Postgres {
                store,
                server,
                name,
                ..
            } => {
                store.close().await;
                let mut connection = PgConnection::connect(&server).await?;
                sqlx::raw_sql(AssertSqlSafe(format!("DROP DATABASE {name} WITH (FORCE)")))
                    .execute(&mut connection)
                    .await
                    .with_context(|| format!("cannot remove the scratch database `{name}`"))?;
                Ok(())
            }
        }
    }
}

/// The same server, another database.
fn with_database(url: &str, name: &str) -> anyhow::Result<String> {
    let (base, query) = match url.split_once('?') {
        Some((base, query)) => (base, Some(query)),
        None => (url, None),
    };
    let Some((scheme, rest)) = base.split_once("://") else {
        bail!("`--url` is not an address; write `postgres://user@host/database`");
    };
    let host = rest.split_once('/').map_or(rest, |(host, _)| host);
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    Ok(format!("{scheme}://{host}/{name}{query}"))
}

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
    fn the_scratch_database_lies_beside_the_one_named() {
        for (url, expected) in [
            (
                "postgres://a@h:5/x?host=/tmp",
                "postgres://a@h:5/b?host=/tmp",
            ),
            ("postgres://h", "postgres://h/b"),
            (
                "postgresql:///x?host=/run/pg",
                "postgresql:///b?host=/run/pg",
            ),
        ] {
            assert_eq!(with_database(url, "b").unwrap(), expected);
        }
        assert!(with_database("localhost/x", "b").is_err());
    }
}
