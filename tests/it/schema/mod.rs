//! The schema as PostgreSQL really has it can be spread over many machines.
//!
//! Everything here is read from the catalogue of a migrated database, so a migration that breaks a rule is found
//! whoever wrote it. A table is hot unless it is named in [`REFERENCE`].

mod citus;
mod rules;
mod statements;

use std::collections::BTreeSet;

use engine::store::Store as _;
use engine::store::postgres::{PostgresOptions, PostgresStore};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

const STORE_URL: &str = "TENURE_LAB_POSTGRES_STORE_URL";
const SHARDS: u32 = 4;

/// Tables that are small, change rarely, and are asked for by every shard: copied to every machine. Each with why.
const REFERENCE: [(&str, &str); 6] = [
    (
        "schema_version",
        "a row a migration; says which program may write",
    ),
    ("engine_meta", "the number of shards"),
    (
        "workflow_definition",
        "a row a version of a workflow; any shard may run it",
    ),
    (
        "api_token",
        "a row a token; a request names its token before anybody knows whose shard it is about",
    ),
    ("node", "a row a process; all of them ask who lives"),
    ("node_lease", "a row a process, beside it"),
];

/// A migrated database of its own, with partitions made for the months ahead.
struct Migrated {
    connection: PgConnection,
    schema: String,
}

impl Migrated {
    async fn new() -> Self {
        let url = std::env::var(STORE_URL).unwrap_or_else(|_| {
            panic!(
                "`{STORE_URL}` is not set: run `tests/lab/postgres.sh start DIR`, then `. DIR/env`; \
                 it starts the PostgreSQL server that these tests need"
            )
        });
        let schema = format!("schema_{}", uuid::Uuid::new_v4().simple());
        let mut connection = PgConnection::connect(&url).await.unwrap();
        let create = format!("CREATE SCHEMA {schema}; SET search_path = {schema}");
        sqlx::raw_sql(AssertSqlSafe(create))
            .execute(&mut connection)
            .await
            .unwrap();
        let own = format!("{url}?options=-csearch_path%3D{schema}");
        let store = PostgresStore::connect(&own, PostgresOptions::default())
            .await
            .unwrap();
        let migrations = tenure::shell::database::migrations();
        store.migrate(&migrations, SHARDS).await.unwrap();
        store.make_room(tenure::shell::now()).await.unwrap();
        store.close().await;
        Self { connection, schema }
    }

    /// Rows of text columns.
    async fn rows<const N: usize>(&mut self, sql: &'static str) -> Vec<[String; N]> {
        use sqlx::Row as _;
        let rows = sqlx::query(sql)
            .bind(&self.schema)
            .fetch_all(&mut self.connection)
            .await
            .unwrap();
        let text = |row: &sqlx::postgres::PgRow, index: usize| row.get::<String, _>(index);
        rows.iter()
            .map(|row| std::array::from_fn(|index| text(row, index)))
            .collect()
    }

    async fn execute(&mut self, sql: &'static str) {
        sqlx::raw_sql(sql)
            .execute(&mut self.connection)
            .await
            .unwrap();
    }

    /// Tables that a migration makes; partitions go with their parents.
    async fn tables(&mut self) -> BTreeSet<String> {
        let rows = self
            .rows::<1>(
                "SELECT relname::text FROM pg_class
                  WHERE relnamespace = to_regnamespace($1) AND relkind IN ('r', 'p') AND NOT relispartition",
            )
            .await;
        rows.into_iter().map(|[name]| name).collect()
    }

    async fn drop(mut self) {
        let drop = format!("DROP SCHEMA {} CASCADE", self.schema);
        sqlx::raw_sql(AssertSqlSafe(drop))
            .execute(&mut self.connection)
            .await
            .unwrap();
    }
}

fn is_reference(table: &str) -> bool {
    REFERENCE.iter().any(|(name, _)| *name == table)
}
