//! The demo's second system: a door register, reached through the `exec` protocol (`docs/exec-protocol.md`).
//!
//! The program itself is the plugin (`tenure demo-plugin`), so that the demo needs nothing installed. It shares
//! nothing with the connector that talks to it but the protocol, and keeps badges and zones in a database of its
//! own. It answers in the order it is asked.

use std::path::PathBuf;

use anyhow::Context as _;
use chrono::SecondsFormat;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteRow, SqliteSynchronous};
use sqlx::{Connection as _, Row as _, SqliteConnection};
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};

use crate::shell;

const PROTOCOL: u64 = 1;
/// Rows on one page of a listing.
const PAGE_ROWS: i64 = 500;

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS account (
    name TEXT PRIMARY KEY,
    owner TEXT NOT NULL UNIQUE,
    enabled INTEGER NOT NULL,
    attributes TEXT NOT NULL,
    version INTEGER NOT NULL DEFAULT 1
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS zone (name TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS access (account TEXT NOT NULL, zone TEXT NOT NULL, PRIMARY KEY (account, zone)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS change (
    sequence INTEGER PRIMARY KEY,
    at TEXT NOT NULL,
    what TEXT NOT NULL,
    account TEXT NOT NULL,
    detail TEXT NOT NULL
);
";

/// Speaks the protocol on standard input and output until the input ends.
///
/// # Errors
/// When a line cannot be read or written, or is no request.
pub async fn run() -> anyhow::Result<()> {
    serve(BufReader::new(tokio::io::stdin()), tokio::io::stdout()).await
}

async fn serve(
    mut input: impl AsyncBufRead + Unpin,
    mut output: impl AsyncWrite + Unpin,
) -> anyhow::Result<()> {
    let mut register = None;
    let mut line = String::new();
    loop {
        line.clear();
        if input.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let request: Request =
            serde_json::from_str(&line).context("a line is not a request of the protocol")?;
        let answer = match answer(&mut register, request.call).await {
            Ok(ok) => json!({ "id": request.id, "ok": ok }),
            Err(refused) => {
                json!({ "id": request.id, "error": { "kind": refused.kind, "message": refused.message } })
            }
        };
        let mut bytes = answer.to_string().into_bytes();
        bytes.push(b'\n');
        output.write_all(&bytes).await?;
        output.flush().await?;
    }
}

#[derive(Deserialize)]
struct Request {
    id: u64,
    #[serde(flatten)]
    call: Call,
}

#[derive(Deserialize)]
#[serde(tag = "call", rename_all = "snake_case")]
enum Call {
    Hello {
        config: Config,
    },
    Check,
    List {
        kind: String,
        after: Option<String>,
    },
    Get {
        object: Object,
    },
    Apply {
        operation: Operation,
    },
    Verify {
        claim: Claim,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct Config {
    database: PathBuf,
    zones: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Object {
    Account(String),
    AccountNamed(String),
    AccountOwnedBy(String),
    Entitlement(String),
}

#[derive(Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
enum Operation {
    CreateAccount {
        name: String,
        owner: String,
        attributes: Map<String, Value>,
        enabled: bool,
    },
    UpdateAccount {
        account: String,
        attributes: Map<String, Value>,
    },
    EnableAccount {
        account: String,
    },
    DisableAccount {
        account: String,
    },
    DeleteAccount {
        account: String,
    },
    Grant {
        account: String,
        entitlement: String,
    },
    Revoke {
        account: String,
        entitlement: String,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
#[serde(tag = "claim", rename_all = "snake_case")]
enum Claim {
    AccountExists {
        owner: String,
    },
    AccountEnabled {
        account: String,
    },
    AccountDisabled {
        account: String,
    },
    AccountAbsent {
        account: String,
    },
    AttributesAre {
        account: String,
        attributes: Map<String, Value>,
    },
    Granted {
        account: String,
        entitlement: String,
    },
    NotGranted {
        account: String,
        entitlement: String,
    },
    #[serde(other)]
    Other,
}

struct Refused {
    kind: &'static str,
    message: String,
}

impl Refused {
    fn new(kind: &'static str, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }
    fn no_badge(name: &str) -> Self {
        Self::new("not_found", format!("there is no badge `{name}`"))
    }
}

impl From<sqlx::Error> for Refused {
    fn from(error: sqlx::Error) -> Self {
        Self::new("transient", format!("the register cannot be used: {error}"))
    }
}

async fn answer(register: &mut Option<Register>, call: Call) -> Result<Value, Refused> {
    if let Call::Hello { config } = call {
        *register = Some(Register {
            config,
            database: None,
        });
        return Ok(hello());
    }
    let register = register
        .as_mut()
        .ok_or_else(|| Refused::new("bug", "the first call must be `hello`"))?;
    let database = register.database().await?;
    match call {
        Call::Hello { .. } | Call::Other => Err(Refused::new(
            "unsupported",
            "the door register cannot do that",
        )),
        Call::Check => {
            let badges: i64 = sqlx::query_scalar("SELECT count(*) FROM account")
                .fetch_one(database)
                .await?;
            Ok(json!({ "findings": [
                { "what": "reach", "good": true, "detail": format!("the register holds {badges} badges"), "fix": null },
            ] }))
        }
        Call::List { kind, after } => list(database, &kind, after.as_deref()).await,
        Call::Get { object } => get(database, &object).await,
        Call::Apply { operation } => apply(database, operation).await,
        Call::Verify { claim } => verify(database, claim).await,
    }
}

fn hello() -> Value {
    json!({
        "protocol": PROTOCOL,
        "name": "tenure demo door register",
        "version": env!("CARGO_PKG_VERSION"),
        "concurrent": true,
        "capabilities": {
            "operations": [
                "create_account", "update_account", "enable_account", "disable_account", "delete_account", "grant", "revoke",
            ],
            "claims": [
                "account_exists", "account_enabled", "account_disabled", "account_absent", "attributes_are", "granted",
                "not_granted",
            ],
            "lists": ["account", "entitlement"],
            "finds_by_owner": true,
        },
    })
}

/// Opened with the first call that needs it: saying hello must touch nothing.
struct Register {
    config: Config,
    database: Option<SqliteConnection>,
}

impl Register {
    async fn database(&mut self) -> Result<&mut SqliteConnection, Refused> {
        if self.database.is_none() {
            let options = SqliteConnectOptions::new()
                .filename(&self.config.database)
                .create_if_missing(true)
                .journal_mode(SqliteJournalMode::Wal)
                .synchronous(SqliteSynchronous::Normal);
            let mut database = SqliteConnection::connect_with(&options).await?;
            sqlx::raw_sql(SCHEMA).execute(&mut database).await?;
            for zone in &self.config.zones {
                sqlx::query("INSERT OR IGNORE INTO zone (name) VALUES (?)")
                    .bind(zone)
                    .execute(&mut database)
                    .await?;
            }
            self.database = Some(database);
        }
        self.database
            .as_mut()
            .ok_or_else(|| Refused::new("transient", "the register is closed"))
    }
}

const ACCOUNT: &str = "SELECT a.name, a.owner, a.enabled, a.attributes, a.version,
    (SELECT json_group_array(x.zone) FROM access x WHERE x.account = a.name) AS zones FROM account a";

fn account(row: &SqliteRow) -> Result<Value, Refused> {
    let json_of = |column: usize| -> Result<Value, Refused> {
        let text: String = row.try_get(column)?;
        serde_json::from_str(&text)
            .map_err(|error| Refused::new("bug", format!("a badge cannot be read: {error}")))
    };
    let name: String = row.try_get(0)?;
    let version: i64 = row.try_get(4)?;
    Ok(json!({
        "kind": "account",
        "id": name,
        "name": name,
        "owner": row.try_get::<String, _>(1)?,
        "enabled": row.try_get::<bool, _>(2)?,
        "attributes": json_of(3)?,
        "entitlements": json_of(5)?,
        "version": version.to_string(),
    }))
}

async fn list(
    database: &mut SqliteConnection,
    kind: &str,
    after: Option<&str>,
) -> Result<Value, Refused> {
    let after = after.unwrap_or_default();
    let (items, last) = if kind == "account" {
        let rows = sqlx::query(sqlx::AssertSqlSafe(format!(
            "{ACCOUNT} WHERE a.name > ? ORDER BY a.name LIMIT {PAGE_ROWS}"
        )))
        .bind(after)
        .fetch_all(database)
        .await?;
        let items = rows.iter().map(account).collect::<Result<Vec<_>, _>>()?;
        let last = items.last().and_then(|item| item.get("name")).cloned();
        (items, last)
    } else {
        let names: Vec<String> =
            sqlx::query_scalar("SELECT name FROM zone WHERE name > ? ORDER BY name LIMIT ?")
                .bind(after)
                .bind(PAGE_ROWS)
                .fetch_all(database)
                .await?;
        let last = names.last().map(|name| json!(name));
        (
            names
                .iter()
                .map(|name| json!({ "kind": "entitlement", "id": name, "name": name }))
                .collect(),
            last,
        )
    };
    let full = i64::try_from(items.len()).unwrap_or(i64::MAX) >= PAGE_ROWS;
    let next = if full { last } else { None };
    Ok(json!({ "items": items, "complete": next.is_none(), "next": next }))
}

async fn get(database: &mut SqliteConnection, object: &Object) -> Result<Value, Refused> {
    let (column, value) = match object {
        Object::Account(name) | Object::AccountNamed(name) => ("name", name),
        Object::AccountOwnedBy(owner) => ("owner", owner),
        Object::Entitlement(name) => {
            let found: Option<String> = sqlx::query_scalar("SELECT name FROM zone WHERE name = ?")
                .bind(name)
                .fetch_optional(database)
                .await?;
            return Ok(found.map_or(
                Value::Null,
                |name| json!({ "kind": "entitlement", "id": name, "name": name }),
            ));
        }
    };
    find(database, column, value)
        .await
        .map(Option::unwrap_or_default)
}

async fn find(
    database: &mut SqliteConnection,
    column: &str,
    value: &str,
) -> Result<Option<Value>, Refused> {
    let select = sqlx::AssertSqlSafe(format!("{ACCOUNT} WHERE a.{column} = ?"));
    let row = sqlx::query(select)
        .bind(value)
        .fetch_optional(database)
        .await?;
    row.as_ref().map(account).transpose()
}

async fn badge(database: &mut SqliteConnection, name: &str) -> Result<Value, Refused> {
    find(database, "name", name)
        .await?
        .ok_or_else(|| Refused::no_badge(name))
}

/// Carries an operation out and records what took effect, in one transaction.
async fn apply(database: &mut SqliteConnection, operation: Operation) -> Result<Value, Refused> {
    let mut transaction = database.begin_with("BEGIN IMMEDIATE").await?;
    let (account, change) = match operation {
        Operation::CreateAccount {
            name,
            owner,
            attributes,
            enabled,
        } => {
            let change = create(&mut transaction, &name, &owner, attributes, enabled).await?;
            match change {
                Created::Now => (name, Some(("created", owner))),
                Created::Before(name) => (name, None),
            }
        }
        Operation::UpdateAccount {
            account,
            attributes,
        } => {
            let changed = update(&mut transaction, &account, attributes).await?;
            (account, changed.then(|| ("updated", String::new())))
        }
        Operation::EnableAccount { account } => {
            let changed = set_enabled(&mut transaction, &account, true).await?;
            (account, changed.then(|| ("enabled", String::new())))
        }
        Operation::DisableAccount { account } => {
            let changed = set_enabled(&mut transaction, &account, false).await?;
            (account, changed.then(|| ("disabled", String::new())))
        }
        Operation::DeleteAccount { account } => {
            sqlx::query("DELETE FROM access WHERE account = ?")
                .bind(&account)
                .execute(&mut *transaction)
                .await?;
            let done = sqlx::query("DELETE FROM account WHERE name = ?")
                .bind(&account)
                .execute(&mut *transaction)
                .await?;
            (
                account,
                (done.rows_affected() > 0).then(|| ("deleted", String::new())),
            )
        }
        Operation::Grant {
            account,
            entitlement,
        } => {
            badge(&mut transaction, &account).await?;
            let done = sqlx::query("INSERT OR IGNORE INTO access (account, zone) SELECT ?, name FROM zone WHERE name = ?")
                .bind(&account)
                .bind(&entitlement)
                .execute(&mut *transaction)
                .await?;
            if done.rows_affected() == 0 && !knows(&mut transaction, &entitlement).await? {
                return Err(Refused::new(
                    "not_found",
                    format!("there is no zone `{entitlement}`"),
                ));
            }
            (
                account,
                (done.rows_affected() > 0).then_some(("granted", entitlement)),
            )
        }
        Operation::Revoke {
            account,
            entitlement,
        } => {
            badge(&mut transaction, &account).await?;
            let done = sqlx::query("DELETE FROM access WHERE account = ? AND zone = ?")
                .bind(&account)
                .bind(&entitlement)
                .execute(&mut *transaction)
                .await?;
            (
                account,
                (done.rows_affected() > 0).then_some(("revoked", entitlement)),
            )
        }
        Operation::Other => {
            return Err(Refused::new(
                "unsupported",
                "the door register cannot do that",
            ));
        }
    };
    let receipt = json!({ "account": account, "name": account });
    let Some((what, detail)) = change else {
        return Ok(json!({ "outcome": "already_so", "receipt": receipt }));
    };
    sqlx::query("INSERT INTO change (at, what, account, detail) VALUES (?, ?, ?, ?)")
        .bind(shell::now().to_rfc3339_opts(SecondsFormat::Millis, true))
        .bind(what)
        .bind(&account)
        .bind(detail)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(json!({ "outcome": "done", "receipt": receipt }))
}

enum Created {
    Now,
    /// The owner has a badge already; this is its name.
    Before(String),
}

async fn create(
    database: &mut SqliteConnection,
    name: &str,
    owner: &str,
    attributes: Map<String, Value>,
    enabled: bool,
) -> Result<Created, Refused> {
    if let Some(found) = find(database, "owner", owner).await? {
        let name = found
            .get("name")
            .and_then(Value::as_str)
            .unwrap_or_default();
        return Ok(Created::Before(name.to_owned()));
    }
    if find(database, "name", name).await?.is_some() {
        return Err(Refused::new(
            "conflict",
            format!("the badge `{name}` belongs to somebody else"),
        ));
    }
    sqlx::query("INSERT INTO account (name, owner, enabled, attributes) VALUES (?, ?, ?, ?)")
        .bind(name)
        .bind(owner)
        .bind(enabled)
        .bind(Value::Object(attributes).to_string())
        .execute(database)
        .await?;
    Ok(Created::Now)
}

async fn update(
    database: &mut SqliteConnection,
    name: &str,
    wanted: Map<String, Value>,
) -> Result<bool, Refused> {
    let before = badge(database, name).await?;
    let before = before
        .get("attributes")
        .and_then(Value::as_object)
        .cloned()
        .unwrap_or_default();
    let mut after = before.clone();
    for (name, value) in wanted {
        if value.is_null() {
            after.remove(&name);
        } else {
            after.insert(name, value);
        }
    }
    if before == after {
        return Ok(false);
    }
    sqlx::query("UPDATE account SET attributes = ?, version = version + 1 WHERE name = ?")
        .bind(Value::Object(after).to_string())
        .bind(name)
        .execute(database)
        .await?;
    Ok(true)
}

async fn set_enabled(
    database: &mut SqliteConnection,
    name: &str,
    enabled: bool,
) -> Result<bool, Refused> {
    let update =
        "UPDATE account SET enabled = ?1, version = version + 1 WHERE name = ?2 AND enabled <> ?1";
    let done = sqlx::query(update)
        .bind(enabled)
        .bind(name)
        .execute(&mut *database)
        .await?;
    if done.rows_affected() == 0 {
        badge(database, name).await?;
    }
    Ok(done.rows_affected() > 0)
}

async fn knows(database: &mut SqliteConnection, zone: &str) -> Result<bool, Refused> {
    let found: Option<i64> = sqlx::query_scalar("SELECT 1 FROM zone WHERE name = ?")
        .bind(zone)
        .fetch_optional(database)
        .await?;
    Ok(found.is_some())
}

async fn verify(database: &mut SqliteConnection, claim: Claim) -> Result<Value, Refused> {
    let found = match &claim {
        Claim::AccountExists { owner } => find(database, "owner", owner).await?,
        Claim::AccountEnabled { account }
        | Claim::AccountDisabled { account }
        | Claim::AccountAbsent { account }
        | Claim::AttributesAre { account, .. }
        | Claim::Granted { account, .. }
        | Claim::NotGranted { account, .. } => find(database, "name", account).await?,
        Claim::Other => {
            return Ok(
                json!({ "verdict": "cannot_observe", "reason": "the door register does not show that" }),
            );
        }
    };
    let field = |name: &str| found.as_ref().and_then(|badge| badge.get(name));
    let enabled = field("enabled") == Some(&Value::Bool(true));
    let holds_zone = |zone: &str| {
        field("entitlements")
            .and_then(Value::as_array)
            .is_some_and(|it| it.iter().any(|it| it == zone))
    };
    let holds = match &claim {
        Claim::AccountExists { .. } => found.is_some(),
        Claim::AccountEnabled { .. } => enabled,
        Claim::AccountDisabled { .. } => !enabled,
        Claim::AccountAbsent { .. } => found.is_none(),
        Claim::AttributesAre { attributes, .. } => attributes.iter().all(|(name, wanted)| {
            let seen = field("attributes")
                .and_then(|it| it.get(name))
                .unwrap_or(&Value::Null);
            found.is_some() && seen == wanted
        }),
        Claim::Granted { entitlement, .. } => holds_zone(entitlement),
        Claim::NotGranted { entitlement, .. } => !holds_zone(entitlement),
        Claim::Other => false,
    };
    Ok(json!({
        "verdict": if holds { "proven" } else { "refuted" },
        "by": "door register",
        "account": field("name"),
        "seen": { "exists": found.is_some(), "enabled": field("enabled"), "entitlements": field("entitlements") },
    }))
}
