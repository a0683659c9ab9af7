//! Where users and groups lie: one SQLite file of the server's own.
//!
//! One connection writes, a few read. `change` is the server's own record of what took effect, for whoever wants
//! to check a client's claims.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use chrono::SecondsFormat;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{AssertSqlSafe, Connection, Row as _, SqliteConnection, SqlitePool};
use tokio::sync::Mutex;
use uuid::Uuid;

use workflows::scim::{Kind, Refusal};

use crate::shell;

const READERS: u32 = 4;

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS resource (
    sequence INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    -- userName or displayName, folded: unique without regard to case
    name_key TEXT NOT NULL,
    external_id TEXT,
    body TEXT NOT NULL,
    password_digest BLOB,
    version INTEGER NOT NULL,
    created TEXT NOT NULL,
    modified TEXT NOT NULL,
    UNIQUE (kind, name_key)
);
CREATE INDEX IF NOT EXISTS resource_external ON resource (kind, external_id) WHERE external_id IS NOT NULL;
CREATE TABLE IF NOT EXISTS membership (
    group_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    PRIMARY KEY (group_id, user_id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS membership_user ON membership (user_id, group_id);
CREATE TABLE IF NOT EXISTS change (
    sequence INTEGER PRIMARY KEY,
    at TEXT NOT NULL,
    what TEXT NOT NULL,
    subject TEXT NOT NULL,
    detail TEXT NOT NULL
);
";

/// One stored resource, without what is computed when it is shown.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub id: String,
    pub body: Map<String, Value>,
    pub version: i64,
    pub created: String,
    pub modified: String,
}

/// What an index can answer of a filter. All of it must hold.
#[derive(Debug, Clone, Default)]
pub(super) struct Wanted {
    pub id: Option<String>,
    pub name_key: Option<String>,
    pub external_id: Option<String>,
    pub member: Option<String>,
}

/// A page of rows and how many there are in all.
pub(super) struct Found {
    pub rows: Vec<Row>,
    pub total: u64,
}

pub(super) struct Storage {
    readers: SqlitePool,
    writer: Mutex<SqliteConnection>,
}

impl Storage {
    pub(super) async fn open(file: &Path) -> Result<Self, sqlx::Error> {
        let options = SqliteConnectOptions::new()
            .filename(file)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal);
        let mut writer = SqliteConnection::connect_with(&options).await?;
        sqlx::raw_sql(SCHEMA).execute(&mut writer).await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .connect_with(options.read_only(true))
            .await?;
        Ok(Self {
            readers,
            writer: Mutex::new(writer),
        })
    }

    pub(super) async fn close(&self) {
        self.readers.close().await;
    }

    pub(super) async fn get(&self, kind: Kind, id: &str) -> Result<Option<Row>, Refusal> {
        let wanted = Wanted {
            id: Some(id.to_owned()),
            ..Wanted::default()
        };
        Ok(self.find(kind, &wanted, None).await?.rows.pop())
    }

    /// Rows in the order they were made; `page` is (offset, most rows).
    pub(super) async fn find(
        &self,
        kind: Kind,
        wanted: &Wanted,
        page: Option<(u64, u64)>,
    ) -> Result<Found, Refusal> {
        let mut clauses = String::from("FROM resource WHERE kind = ?");
        let mut values = vec![kind.name().to_owned()];
        let conditions = [
            (&wanted.id, " AND id = ?"),
            (&wanted.name_key, " AND name_key = ?"),
            (&wanted.external_id, " AND external_id = ?"),
            (
                &wanted.member,
                " AND id IN (SELECT group_id FROM membership WHERE user_id = ?)",
            ),
        ];
        for (value, condition) in conditions {
            if let Some(value) = value {
                clauses.push_str(condition);
                values.push(value.clone());
            }
        }
        let (offset, most) = page.unwrap_or((0, u64::from(u32::MAX)));
        let select = format!(
            "SELECT id, body, version, created, modified {clauses} ORDER BY sequence LIMIT {most} OFFSET {offset}"
        );
        let mut query = sqlx::query(AssertSqlSafe(select));
        for value in &values {
            query = query.bind(value);
        }
        let rows = query
            .fetch_all(&self.readers)
            .await
            .map_err(|error| internal(&error))?;
        let rows = rows.iter().map(row).collect::<Result<Vec<_>, _>>()?;
        let found = u64::try_from(rows.len()).unwrap_or(u64::MAX);
        // A page that is not full says itself how many there are; asking again might count what came meanwhile.
        let total = if found < most && (offset == 0 || found > 0) {
            offset + found
        } else {
            let mut query =
                sqlx::query_scalar::<_, i64>(AssertSqlSafe(format!("SELECT count(*) {clauses}")));
            for value in &values {
                query = query.bind(value);
            }
            let total = query
                .fetch_one(&self.readers)
                .await
                .map_err(|error| internal(&error))?;
            u64::try_from(total).unwrap_or(0)
        };
        Ok(Found { rows, total })
    }

    /// The members of a group: identifier and name.
    pub(super) async fn members(&self, group: &str) -> Result<Vec<(String, String)>, Refusal> {
        pairs(
            sqlx::query(
                "SELECT m.user_id, json_extract(r.body, '$.userName') FROM membership m JOIN resource r ON r.id = m.user_id
                 WHERE m.group_id = ? ORDER BY r.sequence",
            )
            .bind(group)
            .fetch_all(&self.readers)
            .await,
        )
    }

    /// The groups a user is in: identifier and name.
    pub(super) async fn groups_of(&self, user: &str) -> Result<Vec<(String, String)>, Refusal> {
        pairs(
            sqlx::query(
                "SELECT m.group_id, json_extract(r.body, '$.displayName') FROM membership m JOIN resource r ON r.id = m.group_id
                 WHERE m.user_id = ? ORDER BY r.sequence",
            )
            .bind(user)
            .fetch_all(&self.readers)
            .await,
        )
    }

    /// Stores a new resource.
    pub(super) async fn insert(
        &self,
        kind: Kind,
        body: Map<String, Value>,
    ) -> Result<Row, Refusal> {
        let mut writer = self.writer.lock().await;
        let mut transaction = writer
            .begin_with("BEGIN IMMEDIATE")
            .await
            .map_err(|error| internal(&error))?;
        let id = Uuid::new_v4().to_string();
        let at = now();
        let parts = Parts::of(kind, &id, body);
        sqlx::query(
            "INSERT INTO resource (id, kind, name_key, external_id, body, password_digest, version, created, modified)
             VALUES (?, ?, ?, ?, ?, ?, 1, ?, ?)",
        )
        .bind(&id)
        .bind(kind.name())
        .bind(&parts.name_key)
        .bind(&parts.external_id)
        .bind(Value::Object(parts.body.clone()).to_string())
        .bind(&parts.password_digest)
        .bind(&at)
        .bind(&at)
        .execute(&mut *transaction)
        .await
        .map_err(|error| taken(kind, &error))?;
        record(&mut transaction, &at, "created", &id, &parts.name_key).await?;
        if let Some(members) = &parts.members {
            set_members(&mut transaction, &at, &id, members).await?;
        }
        transaction
            .commit()
            .await
            .map_err(|error| internal(&error))?;
        Ok(Row {
            id,
            body: parts.body,
            version: 1,
            created: at.clone(),
            modified: at,
        })
    }

    /// Changes a resource: `change` gets it with its members and returns what it shall be.
    pub(super) async fn update(
        &self,
        kind: Kind,
        id: &str,
        if_match: Option<&str>,
        change: impl FnOnce(&Map<String, Value>) -> Result<Map<String, Value>, Refusal>,
    ) -> Result<Row, Refusal> {
        let mut writer = self.writer.lock().await;
        let mut transaction = writer
            .begin_with("BEGIN IMMEDIATE")
            .await
            .map_err(|error| internal(&error))?;
        let before = locked(&mut transaction, kind, id).await?;
        check_version(if_match, before.version)?;
        let mut whole = before.body.clone();
        if kind == Kind::Group {
            let members = current_members(&mut transaction, id).await?;
            let members = members
                .into_iter()
                .map(|id| serde_json::json!({ "value": id }));
            whole.insert("members".to_owned(), Value::Array(members.collect()));
        }
        let wanted = change(&whole)?;
        let at = now();
        let parts = Parts::of(kind, id, wanted);
        let members_changed = match (kind, parts.members.unwrap_or_default()) {
            (Kind::Group, members) => set_members(&mut transaction, &at, id, &members).await?,
            (Kind::User | Kind::Person, _) => false,
        };
        if parts.body == before.body && !members_changed && parts.password_digest.is_none() {
            return Ok(before);
        }
        sqlx::query(
            "UPDATE resource SET name_key = ?, external_id = ?, body = ?, password_digest = coalesce(?, password_digest),
             version = version + 1, modified = ? WHERE id = ? AND version = ?",
        )
        .bind(&parts.name_key)
        .bind(&parts.external_id)
        .bind(Value::Object(parts.body.clone()).to_string())
        .bind(&parts.password_digest)
        .bind(&at)
        .bind(id)
        .bind(before.version)
        .execute(&mut *transaction)
        .await
        .map_err(|error| taken(kind, &error))?;
        let active =
            |body: &Map<String, Value>| body.get("active").and_then(Value::as_bool).unwrap_or(true);
        if kind == Kind::User && active(&before.body) != active(&parts.body) {
            let what = if active(&parts.body) {
                "enabled"
            } else {
                "disabled"
            };
            record(&mut transaction, &at, what, id, &parts.name_key).await?;
        }
        transaction
            .commit()
            .await
            .map_err(|error| internal(&error))?;
        Ok(Row {
            version: before.version + 1,
            body: parts.body,
            modified: at,
            ..before
        })
    }

    pub(super) async fn delete(
        &self,
        kind: Kind,
        id: &str,
        if_match: Option<&str>,
    ) -> Result<(), Refusal> {
        let mut writer = self.writer.lock().await;
        let mut transaction = writer
            .begin_with("BEGIN IMMEDIATE")
            .await
            .map_err(|error| internal(&error))?;
        let before = locked(&mut transaction, kind, id).await?;
        check_version(if_match, before.version)?;
        for statement in [
            "DELETE FROM membership WHERE group_id = ?1 OR user_id = ?1",
            "DELETE FROM resource WHERE id = ?1",
        ] {
            let done = sqlx::query(statement)
                .bind(id)
                .execute(&mut *transaction)
                .await;
            done.map_err(|error| internal(&error))?;
        }
        record(&mut transaction, &now(), "deleted", id, "").await?;
        transaction.commit().await.map_err(|error| internal(&error))
    }
}

/// A resource taken apart into what has a column of its own.
struct Parts {
    body: Map<String, Value>,
    name_key: String,
    external_id: Option<String>,
    members: Option<BTreeSet<String>>,
    password_digest: Option<Vec<u8>>,
}

impl Parts {
    fn of(kind: Kind, id: &str, mut body: Map<String, Value>) -> Self {
        let name = match kind {
            Kind::User | Kind::Person => "userName",
            Kind::Group => "displayName",
        };
        let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
        let members = body.remove("members").map(|members| {
            let values = members
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|member| text(member.get("value")));
            values.collect()
        });
        let password = text(body.remove("password").as_ref());
        let password_digest =
            password.map(|it| Sha256::digest(format!("{id}\n{it}").as_bytes()).to_vec());
        Self {
            name_key: name_key(body.get(name).and_then(Value::as_str).unwrap_or_default()),
            external_id: text(body.get("externalId")),
            members,
            password_digest,
            body,
        }
    }
}

fn internal(error: &sqlx::Error) -> Refusal {
    Refusal::new(500, None, &format!("storage failed: {error}"))
}

/// The form of a name in which names are compared.
pub(super) fn name_key(name: &str) -> String {
    name.to_lowercase()
}

/// The version as an ETag.
pub(super) fn etag(version: i64) -> String {
    format!("W/\"{version}\"")
}

fn check_version(if_match: Option<&str>, version: i64) -> Result<(), Refusal> {
    let Some(wanted) = if_match else {
        return Ok(());
    };
    let holds = wanted.split(',').map(str::trim).any(|tag| {
        tag == "*" || tag.trim_start_matches("W/").trim_matches('"') == version.to_string()
    });
    if holds {
        Ok(())
    } else {
        Err(Refusal::changed())
    }
}

fn now() -> String {
    shell::now().to_rfc3339_opts(SecondsFormat::Millis, true)
}

fn row(row: &sqlx::sqlite::SqliteRow) -> Result<Row, Refusal> {
    let decode = || -> Result<Row, sqlx::Error> {
        let body: String = row.try_get(1)?;
        let body =
            serde_json::from_str(&body).map_err(|error| sqlx::Error::Decode(error.into()))?;
        Ok(Row {
            id: row.try_get(0)?,
            body,
            version: row.try_get(2)?,
            created: row.try_get(3)?,
            modified: row.try_get(4)?,
        })
    };
    decode().map_err(|error| internal(&error))
}

fn pairs(
    rows: Result<Vec<sqlx::sqlite::SqliteRow>, sqlx::Error>,
) -> Result<Vec<(String, String)>, Refusal> {
    let decode = || -> Result<Vec<_>, sqlx::Error> {
        rows?
            .iter()
            .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
            .collect()
    };
    decode().map_err(|error| internal(&error))
}

async fn locked(connection: &mut SqliteConnection, kind: Kind, id: &str) -> Result<Row, Refusal> {
    let found = sqlx::query(
        "SELECT id, body, version, created, modified FROM resource WHERE kind = ? AND id = ?",
    )
    .bind(kind.name())
    .bind(id)
    .fetch_optional(connection)
    .await
    .map_err(|error| internal(&error))?;
    found.map_or_else(|| Err(Refusal::not_found(id)), |found| row(&found))
}

async fn current_members(
    connection: &mut SqliteConnection,
    group: &str,
) -> Result<Vec<String>, Refusal> {
    sqlx::query_scalar("SELECT user_id FROM membership WHERE group_id = ?")
        .bind(group)
        .fetch_all(connection)
        .await
        .map_err(|error| internal(&error))
}

/// Writes only what differs; says whether anything did.
async fn set_members(
    connection: &mut SqliteConnection,
    at: &str,
    group: &str,
    wanted: &BTreeSet<String>,
) -> Result<bool, Refusal> {
    let before: BTreeSet<String> = current_members(connection, group)
        .await?
        .into_iter()
        .collect();
    let failed = |error| internal(&error);
    for user in wanted.difference(&before) {
        let added = sqlx::query(
            "INSERT INTO membership (group_id, user_id) SELECT ?1, id FROM resource WHERE id = ?2 AND kind = 'User'",
        )
        .bind(group)
        .bind(user)
        .execute(&mut *connection)
        .await
        .map_err(failed)?;
        if added.rows_affected() == 0 {
            return Err(Refusal::invalid_value(&format!(
                "there is no user `{user}` who could be a member"
            )));
        }
        record(connection, at, "member_added", user, group).await?;
    }
    for user in before.difference(wanted) {
        sqlx::query("DELETE FROM membership WHERE group_id = ? AND user_id = ?")
            .bind(group)
            .bind(user)
            .execute(&mut *connection)
            .await
            .map_err(failed)?;
        record(connection, at, "member_removed", user, group).await?;
    }
    Ok(before != *wanted)
}

async fn record(
    connection: &mut SqliteConnection,
    at: &str,
    what: &str,
    subject: &str,
    detail: &str,
) -> Result<(), Refusal> {
    sqlx::query("INSERT INTO change (at, what, subject, detail) VALUES (?, ?, ?, ?)")
        .bind(at)
        .bind(what)
        .bind(subject)
        .bind(detail)
        .execute(connection)
        .await
        .map(|_| ())
        .map_err(|error| internal(&error))
}

fn taken(kind: Kind, error: &sqlx::Error) -> Refusal {
    let unique = error
        .as_database_error()
        .is_some_and(sqlx::error::DatabaseError::is_unique_violation);
    if unique {
        Refusal::uniqueness(&format!("another of the {} has this name", kind.endpoint()))
    } else {
        internal(error)
    }
}

/// How often each kind of change took effect, by the server's own record.
pub(super) async fn changes(storage: &Storage) -> Result<BTreeMap<String, u64>, sqlx::Error> {
    let rows = sqlx::query("SELECT what, count(*) FROM change GROUP BY what")
        .fetch_all(&storage.readers)
        .await?;
    rows.iter()
        .map(|row| {
            let count: i64 = row.try_get(1)?;
            Ok((row.try_get(0)?, u64::try_from(count).unwrap_or(0)))
        })
        .collect()
}
