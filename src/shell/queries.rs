//! Asking sources that are databases, and handing what they say to the intake as if it were a file of now.
//!
//! Every node has this loop for each such source, and the one that owns the shard of the source's name asks. Two that both
//! believe they do (a lease just changed hands) do no harm: of two snapshots at once the intake takes one.
//!
//! The database is asked in a transaction that can only read. What is empty, cut short or not what the source's file
//! declares is refused as a file would be, and the guard stands before everything else.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use chrono::{DateTime, Utc};
use engine::core::id::{Actor, Subject};
use futures_util::TryStreamExt as _;
use secrecy::ExposeSecret as _;
use serde_json::{Map, Value, json};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::sqlite::{SqliteConnectOptions, SqliteRow};
use sqlx::{
    AssertSqlSafe, Column as _, ConnectOptions as _, Connection as _, Row as _, TypeInfo as _,
    ValueRef as _,
};
use tokio::sync::Notify;
use workflows::intake::{ImportReport, ImportStatus, Intake};
use workflows::sources::manifest::Stated;
use workflows::sources::query::{PostgresLogin, QueryConfig, SslMode};
use workflows::sources::{Limits, Manifest, SnapshotInput, Source, read_snapshot};

use super::{Database, now};

/// The most that one answer may hold, in bytes.
const ANSWER_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Between two looks whether this node has become the one that asks.
pub(super) const OWNER_PAUSE: Duration = Duration::from_secs(5);
/// The longest pause after a question that failed.
pub(super) const FAILED_PAUSE_MAX: Duration = Duration::from_secs(60);

/// How much later than we stop waiting SQLite stops working, and after how many of its steps it looks at the clock.
const STOP_GRACE: Duration = Duration::from_millis(500);
const STEPS_BETWEEN_LOOKS: i32 = 10_000;

/// Whether everything is there that asking takes: passwords and certificates.
///
/// # Errors
/// The first that is not.
pub fn check(sources: &BTreeMap<String, Arc<Source>>) -> anyhow::Result<()> {
    for (name, source) in sources {
        if let Some(login) = source.query().and_then(|query| query.postgres.as_ref()) {
            postgres(&login.value).with_context(|| format!("cannot ask source `{name}`"))?;
        }
    }
    Ok(())
}

/// Asks one source again and again, for ever; drop the future to stop. `owner` is the name under which this node owns
/// shards.
pub async fn keep_asking(
    source: Arc<Source>,
    database: Database,
    intake: Intake,
    owner: String,
    node: Arc<Notify>,
    due: Arc<Notify>,
) {
    let Some(query) = source.query().cloned() else {
        return;
    };
    let every = query.every.value.std();
    loop {
        let pause = match is_mine(&database, source.name(), &owner).await {
            Ok(false) => OWNER_PAUSE,
            Ok(true) => match ask(&source, &query, &intake, now()).await {
                Ok(report) => {
                    tell(&report);
                    node.notify_one();
                    due.notify_one();
                    every
                }
                Err(error) => {
                    intake
                        .refused(source.name(), now(), &error.to_string())
                        .await;
                    // Without the mistakes in rows, which name people: `tenure source ask` shows them.
                    tracing::warn!(source = source.name(), error = %error, "a source could not be asked");
                    every.min(FAILED_PAUSE_MAX)
                }
            },
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "cannot tell whose source this is"
                );
                OWNER_PAUSE
            }
        };
        tokio::time::sleep(pause).await;
    }
}

pub(super) async fn is_mine(
    database: &Database,
    source: &str,
    owner: &str,
) -> Result<bool, engine::store::StoreError> {
    let shards = database.store.shards().await?;
    let shard = Subject(source.to_owned()).shard(u32::try_from(shards.len()).unwrap_or(u32::MAX));
    let row = shards.iter().find(|row| row.shard == shard);
    Ok(row.and_then(|row| row.owner.as_deref()) == Some(owner))
}

pub(super) fn tell(report: &ImportReport) {
    let source = report.source.as_str();
    match &report.status {
        ImportStatus::Unchanged => {
            tracing::debug!(source, rows = report.rows, "a source has no news")
        }
        ImportStatus::Applied => tracing::info!(
            source,
            rows = report.rows,
            created = report.created,
            changed = report.changed,
            removed = report.removed,
            "a source was asked"
        ),
        ImportStatus::Previewed { .. } => {}
        ImportStatus::WaitingForApproval { .. } => tracing::warn!(
            source,
            difference = report.difference_id,
            "what a source says changes too much; a person has to decide"
        ),
    }
}

/// Asks once, and takes in what comes.
///
/// # Errors
/// When the database cannot be asked, or its rows are not what the source's file declares; nothing is changed then.
pub async fn ask(
    source: &Arc<Source>,
    query: &QueryConfig,
    intake: &Intake,
    now: DateTime<Utc>,
) -> anyhow::Result<ImportReport> {
    let limit = query.timeout().std();
    let rows = match tokio::time::timeout(limit, rows(source.name(), query)).await {
        Ok(rows) => rows?,
        Err(_) => bail!("the query took longer than {}", query.timeout()),
    };
    ensure!(
        !rows.is_empty(),
        "the query gave no row; nothing is inferred from that: if really everybody has left, send their events"
    );
    let file = format!("query-{}", source.name());
    let manifest = Manifest {
        as_of: Some(Stated::Moment(now)),
        ..Manifest::default()
    };
    let asked = Arc::clone(source);
    let snapshot = tokio::task::spawn_blocking(move || {
        let input = SnapshotInput {
            file: &file,
            manifest: Some(&manifest),
            as_of: None,
            limits: Limits::default(),
        };
        read_snapshot(&asked, rows.as_slice(), &input)
    })
    .await?;
    let snapshot = snapshot.map_err(Mistaken)?;
    let by = Actor(format!("source:{}", source.name()));
    Ok(intake.import_snapshot(source, &snapshot, &by, now).await?)
}

/// Rows that are not what the source's file declares. Says how many mistakes there are; the mistakes themselves may name
/// people.
#[derive(Debug, thiserror::Error)]
#[error("the rows are refused, for {} mistake(s) in them; nothing was changed; `tenure source ask` shows them", .0.list.len())]
pub struct Mistaken(pub workflows::policy::Problems);

/// One JSON object a line.
async fn rows(source: &str, query: &QueryConfig) -> anyhow::Result<Vec<u8>> {
    if let Some(login) = &query.postgres {
        let options = postgres(&login.value)?;
        return postgres_rows(options, query).await.with_context(|| {
            format!(
                "cannot ask `{}:{}` for source `{source}`",
                login.value.host, login.value.port
            )
        });
    }
    let path = query
        .sqlite
        .as_ref()
        .context("the source names no database")?;
    let options = SqliteConnectOptions::new()
        .filename(&path.value)
        .create_if_missing(false)
        .read_only(true)
        .disable_statement_logging();
    sqlite_rows(options, query).await.with_context(|| {
        format!(
            "cannot ask `{}` for source `{source}`",
            path.value.display()
        )
    })
}

/// How to log in.
///
/// # Errors
/// When the password is not where it should be.
fn postgres(login: &PostgresLogin) -> anyhow::Result<PgConnectOptions> {
    let password = match &login.password {
        Some(reference) => reference.resolve()?,
        // Never what PGPASSWORD happens to hold.
        None => String::new().into(),
    };
    let mode = match login.mode() {
        SslMode::Disable => PgSslMode::Disable,
        SslMode::Prefer => PgSslMode::Prefer,
        SslMode::Require => PgSslMode::Require,
        SslMode::VerifyCa => PgSslMode::VerifyCa,
        SslMode::VerifyFull => PgSslMode::VerifyFull,
    };
    let mut options = PgConnectOptions::new_without_pgpass()
        .host(&login.host)
        .port(login.port)
        .database(&login.database)
        .username(&login.user)
        .password(password.expose_secret())
        .ssl_mode(mode)
        .application_name("tenure")
        .options([("default_transaction_read_only", "on")])
        .disable_statement_logging();
    if let Some(path) = &login.ca_file {
        ensure!(path.is_file(), "cannot read `ca_file` `{}`", path.display());
        options = options.ssl_root_cert(path);
    }
    Ok(options)
}

async fn postgres_rows(options: PgConnectOptions, query: &QueryConfig) -> anyhow::Result<Vec<u8>> {
    let mut connection = options.connect().await?;
    // The server gives up by itself when we do.
    let timeout = format!("SET statement_timeout = {}", query.timeout().ms());
    sqlx::raw_sql(AssertSqlSafe(timeout))
        .execute(&mut connection)
        .await?;
    let mut transaction = connection.begin_with("BEGIN READ ONLY").await?;
    // A line of its own, so that a comment at the end of the statement ends there.
    let sql = format!(
        "SELECT row_to_json(answer)::text FROM (\n{}\n) AS answer",
        query.statement()
    );
    let mut bytes = Vec::new();
    {
        let mut rows = sqlx::query_scalar::<_, String>(AssertSqlSafe(sql)).fetch(&mut *transaction);
        while let Some(row) = rows.try_next().await? {
            line(&mut bytes, &row)?;
        }
    }
    transaction.rollback().await?;
    let _ = connection.close().await;
    Ok(bytes)
}

async fn sqlite_rows(
    options: SqliteConnectOptions,
    query: &QueryConfig,
) -> anyhow::Result<Vec<u8>> {
    let mut connection = options.connect().await?;
    // It works on in a thread of its own when nobody waits any more, unless it is told to stop.
    let end = tokio::time::Instant::now() + query.timeout().std() + STOP_GRACE;
    connection
        .lock_handle()
        .await?
        .set_progress_handler(STEPS_BETWEEN_LOOKS, move || {
            tokio::time::Instant::now() < end
        });
    let mut bytes = Vec::new();
    {
        let sql = query.statement().to_owned();
        let mut rows = sqlx::query(AssertSqlSafe(sql)).fetch(&mut connection);
        while let Some(row) = rows.try_next().await? {
            line(&mut bytes, &object(&row)?.to_string())?;
        }
    }
    let _ = connection.close().await;
    Ok(bytes)
}

fn line(bytes: &mut Vec<u8>, row: &str) -> anyhow::Result<()> {
    ensure!(
        bytes.len() + row.len() < ANSWER_BYTES_MAX,
        "the answer is larger than {ANSWER_BYTES_MAX} bytes; select fewer columns or rows"
    );
    bytes.extend_from_slice(row.as_bytes());
    bytes.push(b'\n');
    Ok(())
}

fn object(row: &SqliteRow) -> anyhow::Result<Value> {
    let mut seen = BTreeSet::new();
    let mut members = Map::new();
    for column in row.columns() {
        let (name, place) = (column.name(), column.ordinal());
        ensure!(
            seen.insert(name.to_owned()),
            "the query gives two columns `{name}`"
        );
        let value = row.try_get_raw(place)?;
        let kind = value.type_info().name().to_owned();
        let value = match kind.as_str() {
            _ if value.is_null() => Value::Null,
            "INTEGER" | "INT8" => json!(row.try_get::<i64, _>(place)?),
            "BOOLEAN" => json!(row.try_get::<bool, _>(place)?),
            "REAL" => json!(row.try_get::<f64, _>(place)?),
            "BLOB" => bail!("column `{name}` holds bytes; cast it to text in the query"),
            // Dates and times, as they are written.
            _ => json!(row.try_get_unchecked::<String, _>(place)?),
        };
        members.insert(name.to_owned(), value);
    }
    Ok(Value::Object(members))
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
    use std::path::Path;

    use engine::runner::Definitions;
    use sqlx::{PgConnection, SqliteConnection};
    use uuid::Uuid;
    use workflows::config::{Configuration, StoreAddress};

    use super::*;
    use crate::shell::Running;
    use crate::telemetry::Telemetry;

    /// Somebody's database with a table of people.
    enum Foreign {
        Postgres { admin: PgConnection, table: String },
        Sqlite { connection: SqliteConnection },
    }

    fn lab(name: &str) -> String {
        let name = format!("TENURE_LAB_POSTGRES_{name}");
        std::env::var(&name).unwrap_or_else(|_| {
            panic!("`{name}` is not set: run `tests/lab/postgres.sh start DIR`, then `. DIR/env`")
        })
    }

    impl Foreign {
        async fn sqlite(folder: &Path) -> Self {
            let options = SqliteConnectOptions::new()
                .filename(folder.join("people.db"))
                .create_if_missing(true);
            let connection = options.connect().await.unwrap();
            let mut foreign = Self::Sqlite { connection };
            foreign.table().await;
            foreign
        }

        async fn postgres() -> Self {
            let admin = PgConnection::connect(&lab("ADMIN_URL")).await.unwrap();
            let table = format!("people_{}", Uuid::new_v4().simple());
            let mut foreign = Self::Postgres { admin, table };
            foreign.table().await;
            foreign
                .run(&format!("GRANT SELECT ON people TO {}", lab("TARGET_USER")))
                .await;
            foreign
        }

        async fn table(&mut self) {
            self.run("CREATE TABLE people (id text PRIMARY KEY, name text, department text, grade integer, photo bytea, since date)")
                .await;
            let rows: Vec<String> = (0..25)
                .map(|id| format!("('P{id:02}', 'Name {id}', 'Sales', {id}, NULL, '2026-01-05')"))
                .collect();
            self.run(&format!("INSERT INTO people VALUES {}", rows.join(", ")))
                .await;
        }

        /// Runs a statement about the table `people`.
        async fn run(&mut self, sql: &str) {
            let sql = self.named(sql);
            match self {
                Self::Postgres { admin, .. } => {
                    sqlx::raw_sql(AssertSqlSafe(sql))
                        .execute(admin)
                        .await
                        .unwrap();
                }
                Self::Sqlite { connection } => {
                    sqlx::raw_sql(AssertSqlSafe(sql))
                        .execute(connection)
                        .await
                        .unwrap();
                }
            }
        }

        fn named(&self, sql: &str) -> String {
            match self {
                Self::Postgres { table, .. } => sql.replace("people", table),
                Self::Sqlite { .. } => sql.to_owned(),
            }
        }

        /// The source's file. `place` is what it says about the database.
        fn file(&self, folder: &Path, sql: &str, place: Option<String>) -> String {
            let secret = folder.join("password");
            let usual = match self {
                Self::Postgres { .. } => {
                    std::fs::write(&secret, lab("TARGET_PASSWORD")).unwrap();
                    postgres_place(&lab("PORT"), &secret)
                }
                Self::Sqlite { .. } => format!("sqlite: {}", folder.join("people.db").display()),
            };
            format!(
                "name: hr\nkind: query\nquery:\n  {}\n  every: 10s\n  timeout: 2s\n  sql: |\n    {}\nkey: id\n\
                 time_zone: Europe/Zurich\ncomplete: true\nrequired: [name]\n\
                 columns: {{ name: name, department: department, grade: {{ column: grade, type: integer }}, since: since }}\n",
                place.unwrap_or(usual),
                self.named(sql).replace('\n', "\n    ")
            )
        }

        async fn drop(mut self) {
            if matches!(self, Self::Postgres { .. }) {
                self.run("DROP TABLE people").await;
            }
        }
    }

    fn postgres_place(port: &str, secret: &Path) -> String {
        format!(
            "postgres: {{ host: {}, port: {port}, database: {}, user: {}, password: 'file:{}' }}",
            lab("HOST"),
            lab("TARGET_DATABASE"),
            lab("TARGET_USER"),
            secret.display()
        )
    }

    struct Office {
        folder: tempfile::TempDir,
        database: Database,
        intake: Intake,
    }

    impl Office {
        async fn open() -> Self {
            // Another test may have been first.
            let _ = rustls::crypto::ring::default_provider().install_default();
            let folder = tempfile::tempdir().unwrap();
            let address = StoreAddress::Sqlite(folder.path().join("t.db"));
            let database = Database::prepare(&address, engine::store::SHARDS_DEFAULT)
                .await
                .unwrap();
            let definitions = Definitions::new();
            for definition in workflows::definitions::load(&[]).unwrap() {
                definitions.add(definition);
            }
            let intake = Intake::new(database.directory.clone(), Arc::new(definitions));
            Self {
                folder,
                database,
                intake,
            }
        }

        async fn ask(&self, file: &str) -> anyhow::Result<ImportReport> {
            let source = Arc::new(Source::load("hr.yaml", file).unwrap());
            let query = source.query().unwrap().clone();
            ask(&source, &query, &self.intake, now()).await
        }

        async fn department(&self, key: &str) -> Value {
            let person = self
                .database
                .directory
                .identity(key)
                .await
                .unwrap()
                .unwrap();
            person.identity.attributes["department"].clone()
        }
    }

    const ALL: &str =
        "SELECT id, name, department, grade, since\nFROM people ORDER BY id -- all of them\n;";

    async fn rows_are_a_file_of_now(office: &Office, foreign: &mut Foreign) {
        let file = foreign.file(office.folder.path(), ALL, None);
        let first = office.ask(&file).await.unwrap();
        assert_eq!((first.created, first.rows, first.complete), (25, 25, true));
        let person = office
            .database
            .directory
            .identity("P07")
            .await
            .unwrap()
            .unwrap();
        let attributes = json!(person.identity.attributes);
        assert_eq!(
            (
                &attributes["grade"],
                &attributes["since"],
                &attributes["name"]
            ),
            (&json!(7), &json!("2026-01-05"), &json!("Name 7"))
        );
        assert_eq!(
            office.ask(&file).await.unwrap().status,
            ImportStatus::Unchanged
        );
        foreign
            .run("UPDATE people SET department = 'Research' WHERE id = 'P03'")
            .await;
        foreign.run("DELETE FROM people WHERE id = 'P09'").await;
        let next = office.ask(&file).await.unwrap();
        assert_eq!((next.created, next.changed, next.removed), (0, 1, 1));
        assert_eq!(next.cases["leaver"], 1);
        // To and fro on one day: every change counts.
        for department in ["Sales", "Research", "Sales", "Research"] {
            foreign
                .run(&format!(
                    "UPDATE people SET department = '{department}' WHERE id = 'P03'"
                ))
                .await;
            assert_eq!(office.ask(&file).await.unwrap().changed, 1);
            assert_eq!(office.department("P03").await, department);
        }
        foreign.run("DELETE FROM people WHERE id > 'P05'").await;
        let stopped = office.ask(&file).await.unwrap();
        assert!(
            matches!(stopped.status, ImportStatus::WaitingForApproval { .. }),
            "{stopped:?}"
        );
        foreign.run("DELETE FROM people").await;
        let empty = office.ask(&file).await.unwrap_err();
        assert!(
            empty.to_string().contains("the query gave no row"),
            "{empty}"
        );
        let counts = office.database.directory.identity_counts().await.unwrap();
        assert_eq!(counts.iter().map(|(_, count)| count).sum::<u64>(), 25);
        assert!(
            office.database.directory.heard().await.unwrap()[0]
                .heard_at
                .is_some()
        );
    }

    async fn what_goes_wrong_changes_nothing(
        office: &Office,
        foreign: &mut Foreign,
        cases: &[(&str, Option<String>, &str)],
    ) {
        for (sql, place, expected) in cases {
            let file = foreign.file(office.folder.path(), sql, place.clone());
            let error = office.ask(&file).await.unwrap_err();
            let text = match error.downcast_ref::<Mistaken>() {
                Some(Mistaken(problems)) => {
                    assert!(!error.to_string().contains("P00"), "{error}");
                    problems.to_string()
                }
                None => format!("{error:#}"),
            };
            assert!(
                text.contains(expected),
                "{sql}: `{text}` has no `{expected}`"
            );
            assert!(!text.contains("guessed"), "{text}");
        }
        assert_eq!(
            office.database.directory.identity_counts().await.unwrap(),
            []
        );
        assert_eq!(office.database.directory.heard().await.unwrap(), []);
        // What the statements would have written is not there.
        let file = foreign.file(office.folder.path(), ALL, None);
        assert_eq!(office.ask(&file).await.unwrap().created, 25);
    }

    #[tokio::test]
    async fn rows_of_sqlite_are_a_file_of_now() {
        let office = Office::open().await;
        let mut foreign = Foreign::sqlite(office.folder.path()).await;
        rows_are_a_file_of_now(&office, &mut foreign).await;
    }

    #[tokio::test]
    async fn rows_of_postgres_are_a_file_of_now() {
        let (office, mut foreign) = (Office::open().await, Foreign::postgres().await);
        rows_are_a_file_of_now(&office, &mut foreign).await;
        foreign.drop().await;
    }

    #[tokio::test]
    async fn what_goes_wrong_on_sqlite_changes_nothing() {
        let office = Office::open().await;
        let mut foreign = Foreign::sqlite(office.folder.path()).await;
        let nowhere = office.folder.path().join("nowhere.db");
        let long = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x AS id, x AS name FROM n";
        let cases = [
            ("SELECT * FROM nobody", None, "no such table"),
            (
                "SELECT id, name FROM people WHERE false",
                None,
                "the query gave no row",
            ),
            ("SELECT id, department FROM people", None, "name"),
            (
                "SELECT 'P00' AS id, name, department, grade, since FROM people",
                None,
                "P00",
            ),
            (
                "SELECT id, name, department AS name FROM people",
                None,
                "the query gives two columns `name`",
            ),
            (
                "SELECT id, CAST(name AS blob) AS name FROM people",
                None,
                "holds bytes",
            ),
            (
                "DELETE FROM people RETURNING id, name, department, grade, since",
                None,
                "readonly",
            ),
            ("ATTACH 'other.db' AS other", None, "unable to open"),
            (long, None, "took longer than 2s"),
            (
                ALL,
                Some(format!("sqlite: {}", nowhere.display())),
                "unable to open",
            ),
        ];
        what_goes_wrong_changes_nothing(&office, &mut foreign, &cases).await;
        assert!(!nowhere.exists());
    }

    #[tokio::test]
    async fn what_goes_wrong_on_postgres_changes_nothing() {
        let (office, mut foreign) = (Office::open().await, Foreign::postgres().await);
        let wrong = office.folder.path().join("wrong");
        std::fs::write(&wrong, "guessed").unwrap();
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = closed.local_addr().unwrap().port().to_string();
        drop(closed);
        let cases = [
            ("SELECT * FROM nobody", None, "does not exist"),
            (
                "SELECT id, name FROM people WHERE false",
                None,
                "the query gave no row",
            ),
            ("SELECT id, department FROM people", None, "name"),
            (
                "SELECT 'P00' AS id, name, department, grade, since FROM people",
                None,
                "P00",
            ),
            (
                "SELECT id, name, department AS name FROM people",
                None,
                "twice",
            ),
            (
                "DELETE FROM people RETURNING id, name",
                None,
                "syntax error",
            ),
            (
                "SELECT id, name FROM people) AS a; DELETE FROM people; SELECT (1",
                None,
                "cannot insert multiple commands",
            ),
            (
                "SELECT id, name FROM people FOR UPDATE",
                None,
                "read-only transaction",
            ),
            ("SELECT pg_sleep(9)::text AS id, 'x' AS name", None, "2s"),
            (
                ALL,
                Some(postgres_place(&lab("PORT"), &wrong)),
                "password authentication failed",
            ),
            (
                ALL,
                Some(postgres_place(
                    &lab("PORT"),
                    &office.folder.path().join("none"),
                )),
                "cannot read secret file",
            ),
            (ALL, Some(postgres_place(&port, &wrong)), "refused"),
        ];
        what_goes_wrong_changes_nothing(&office, &mut foreign, &cases).await;
        let nowhere = postgres_place(&lab("PORT"), &office.folder.path().join("none"));
        let file = foreign.file(office.folder.path(), ALL, Some(nowhere));
        let source = Arc::new(Source::load("hr.yaml", &file).unwrap());
        let error = check(&BTreeMap::from([("hr".to_owned(), source)])).unwrap_err();
        let error = format!("{error:#}");
        assert!(
            error.starts_with("cannot ask source `hr`: cannot read secret file"),
            "{error}"
        );
        foreign.drop().await;
    }

    #[tokio::test]
    async fn the_node_that_owns_the_source_asks() {
        let office = Office::open().await;
        let foreign = Foreign::sqlite(office.folder.path()).await;
        let configuration = office.folder.path().join("config");
        for (name, text) in [
            (
                "systems/badges.yaml",
                "name: badges\nkind: manual\nsettings: { assignee: role:facilities, due: 1d }\naccount: { name: identity.key }\n",
            ),
            (
                "policy/roles.yaml",
                "roles:\n  - { name: everybody, when: \"true\", accounts: [badges] }\n",
            ),
            (
                "sources/hr.yaml",
                &foreign.file(office.folder.path(), ALL, None),
            ),
        ] {
            let path = configuration.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        std::fs::write(configuration.join("tenure.yaml"), "node: { name: test }\n").unwrap();
        let configuration = Arc::new(Configuration::load(&configuration).unwrap());
        let database = office.database.clone();
        assert!(!is_mine(&database, "hr", "nobody").await.unwrap());
        let running = Running::start(configuration, database, &Telemetry::default())
            .await
            .unwrap();
        for _ in 0..1_000 {
            if office
                .database
                .directory
                .identity("P00")
                .await
                .unwrap()
                .is_some()
            {
                let initiator = &office
                    .database
                    .directory
                    .identity("P00")
                    .await
                    .unwrap()
                    .unwrap()
                    .events[0]
                    .initiator;
                assert_eq!(initiator, "source:hr");
                running.drain(Duration::from_secs(20)).await.unwrap();
                return;
            }
            // sleeps: between two looks at what another task has taken in
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("nobody asked");
    }
}
