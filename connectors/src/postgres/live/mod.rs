//! Against a real cluster: what the server does, seen through its own front door and its own log.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, PgConnection};
use uuid::Uuid;

mod effects;
mod lost;
mod ownership;

use super::*;
use crate::conformance::{Door, Fixture, Session};
use crate::connector::{Account, Attributes, NewAccount};

fn lab(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!(
            "`{name}` is not set; start the server: tests/lab/postgres.sh start /tmp/lab-postgres && . /tmp/lab-postgres/env"
        )
    })
}

fn settings(changes: &Value) -> Value {
    let mut settings = json!({
        "host": lab("TENURE_LAB_POSTGRES_HOST"),
        "port": lab("TENURE_LAB_POSTGRES_PORT").parse::<u16>().unwrap(),
        "database": lab("TENURE_LAB_POSTGRES_TARGET_DATABASE"),
        "user": lab("TENURE_LAB_POSTGRES_TARGET_USER"),
        "password": "env:TENURE_LAB_POSTGRES_TARGET_PASSWORD",
        "sslmode": "verify-full",
        "ca_file": lab("TENURE_LAB_POSTGRES_CA"),
    });
    for (key, value) in changes.as_object().unwrap() {
        settings[key] = value.clone();
    }
    settings
}

fn connector_with(changes: &Value) -> Postgres {
    Postgres::from_settings("cluster", settings(changes)).unwrap()
}

fn connector() -> Postgres {
    connector_with(&json!({}))
}

async fn admin() -> PgConnection {
    PgConnection::connect(&lab("TENURE_LAB_POSTGRES_ADMIN_URL"))
        .await
        .unwrap()
}

async fn sql(connection: &mut PgConnection, text: String) {
    connection
        .execute(sqlx::raw_sql(AssertSqlSafe(text)))
        .await
        .unwrap();
}

async fn value<T>(connection: &mut PgConnection, text: &'static str, bind: &str) -> T
where
    T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
{
    sqlx::query_scalar(text)
        .bind(bind.to_owned())
        .fetch_one(connection)
        .await
        .unwrap()
}

/// A group that Tenure's login may grant, on any version.
async fn make_group() -> EntitlementName {
    let name = fresh("g");
    let mut admin = admin().await;
    let user = lab("TENURE_LAB_POSTGRES_TARGET_USER");
    sql(
        &mut admin,
        format!("CREATE ROLE \"{name}\" NOLOGIN; GRANT \"{name}\" TO {user} WITH ADMIN OPTION"),
    )
    .await;
    EntitlementName::new(name)
}

async fn login(name: &str, password: &str) -> Result<PgConnection, sqlx::Error> {
    PgConnectOptions::new_without_pgpass()
        .host(&lab("TENURE_LAB_POSTGRES_HOST"))
        .port(lab("TENURE_LAB_POSTGRES_PORT").parse().unwrap())
        .database(&lab("TENURE_LAB_POSTGRES_TARGET_DATABASE"))
        .username(name)
        .password(password)
        .ssl_mode(PgSslMode::Disable)
        .connect()
        .await
}

fn fresh(prefix: &str) -> String {
    format!("{prefix}{}", Uuid::new_v4().simple())
}

fn key() -> OperationKey {
    OperationKey {
        idempotency: fresh("key"),
        attempt: 1,
        epoch: 1,
    }
}

fn new(name: &str) -> NewAccount {
    NewAccount {
        name: name.to_owned(),
        owner: format!("owner-{name}"),
        attributes: Attributes::from([("connection_limit".to_owned(), json!(5))]),
        enabled: true,
        password: Some(SecretString::from(format!("Pässword-{name}"))),
    }
}

async fn make(connector: &Postgres, name: &str) -> NativeId {
    match connector
        .apply(&Operation::CreateAccount(new(name)), &key())
        .await
        .unwrap()
    {
        Outcome::Done(receipt) => receipt.account.unwrap(),
        other => panic!("{other:?}"),
    }
}

async fn done(connector: &Postgres, operation: Operation) {
    match connector.apply(&operation, &key()).await.unwrap() {
        Outcome::Done(_) => {}
        other => panic!("{other:?}"),
    }
}

async fn proven(connector: &Postgres, claim: Claim) -> bool {
    matches!(connector.verify(&claim).await.unwrap(), Verdict::Proven(_))
}

/// What a person with a password experiences.
struct FrontDoor;

#[async_trait]
impl Door for FrontDoor {
    async fn opens(&self, account: &Account, password: &SecretString) -> Result<bool, String> {
        match login(&account.name, password.expose_secret()).await {
            Ok(_) => Ok(true),
            Err(sqlx::Error::Database(error))
                if error.code().is_some_and(|code| code.starts_with("28")) =>
            {
                Ok(false)
            }
            Err(error) => Err(error.to_string()),
        }
    }

    async fn enter(
        &self,
        account: &Account,
        password: &SecretString,
    ) -> Result<Option<Session>, String> {
        let session = login(&account.name, password.expose_secret())
            .await
            .map_err(|error| error.to_string())?;
        Ok(Some(Box::new(session)))
    }

    async fn takes(
        &self,
        account: &Account,
        _credential: &crate::connector::Credential,
    ) -> Result<Option<bool>, String> {
        let password = Fixture::new("any").password;
        self.opens(account, &password).await.map(Some)
    }

    async fn gives(&self, account: &Account) -> Result<bool, String> {
        let mut admin = PgConnection::connect(&lab("TENURE_LAB_POSTGRES_ADMIN_URL"))
            .await
            .map_err(|error| error.to_string())?;
        let name = &account.name;
        // Whoever is to own a table must be allowed to make one there.
        let text = format!(
            "CREATE SCHEMA \"s_{name}\"; GRANT ALL ON SCHEMA \"s_{name}\" TO PUBLIC;
             CREATE TABLE \"s_{name}\".t (i int); ALTER TABLE \"s_{name}\".t OWNER TO \"{name}\""
        );
        sql(&mut admin, text).await;
        Ok(true)
    }
}

#[tokio::test]
async fn the_conformance_suite_passes() {
    // What the last of its accounts owns goes with it.
    let settings = json!({ "page_size": 3, "owned_objects": "drop" });
    let connector = Arc::new(connector_with(&settings));
    let mut fixture = Fixture::new(fresh("c"));
    fixture.prefix.truncate(12);
    fixture.entitlements = vec![make_group().await, make_group().await];
    fixture.attributes = Attributes::from([
        ("connection_limit".to_owned(), json!(5)),
        ("valid_until".to_owned(), json!("2035-01-31T12:00:00Z")),
    ]);
    fixture.changed = Attributes::from([("connection_limit".to_owned(), json!(7))]);
    fixture.name_bytes_max = Some(63);
    fixture.page_size = Some(3);
    fixture.door = Some(Arc::new(FrontDoor));
    let report = crate::conformance::run(connector, fixture).await;
    assert!(report.is_good(), "{report}");
}

/// The store's superuser: what a cluster gives to whoever may do everything.
fn superuser(changes: &Value) -> Postgres {
    let url = lab("TENURE_LAB_POSTGRES_STORE_URL");
    let (user, rest) = url
        .strip_prefix("postgres://")
        .unwrap()
        .split_once(':')
        .unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), rest.split_once('@').unwrap().0).unwrap();
    let mut settings = settings(changes);
    settings["user"] = json!(user);
    settings["password"] = json!(format!("file:{}", file.path().display()));
    Postgres::from_settings("cluster", settings).unwrap()
}
