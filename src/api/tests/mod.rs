//! The API over real HTTP on the loopback, with an embedded store and a running node.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

mod behaviour;
mod events;
mod guard;
mod holds;
mod hostile;
mod links;
mod moves;
mod mutual;
mod nhis;
mod notices;
mod operations;
mod rights;
mod rotations;
mod schedules;
mod scim;
mod signed;
mod sources;
mod who;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use chrono::TimeDelta;
use engine::runner::SystemClock;
use reqwest::Method;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use sqlx::Connection as _;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use workflows::config::{Configuration, StoreAddress};
use workflows::notices::Links;

use super::auth::Role;
use super::events::door::Doors;
use super::tokens::{NewToken, Tokens};
use super::{Parts, router, server};
use crate::shell::{Database, Running, now};
use crate::telemetry::{Look, Telemetry};

/// Where the lab's PostgreSQL is.
const STORE_URL: &str = "TENURE_LAB_POSTGRES_STORE_URL";

const FILES: [(&str, &str); 5] = [
    ("tenure.yaml", "node: { name: test }\n"),
    (
        "sources/hr.yaml",
        "name: hr\nkind: snapshot\nformat: csv\nkey: id\ntime_zone: Europe/London\ncomplete: true\n\
         columns: { name: name, department: department }\n\
         guard: { removals: { share_max: 0.5, population_min: 2 } }\n",
    ),
    (
        "sources/entra.yaml",
        "name: entra\nkind: scim\ntokens: [entra]\ntime_zone: Europe/Zurich\nkey: externalId\n\
         columns: { name: displayName, department: department, email: 'emails[type eq \"work\"].value', \
         groups: { column: groups.display, type: list } }\nmanager: { column: manager.value, by: id }\n\
         guard: { removals: { count_max: 3 } }\n",
    ),
    (
        "systems/badges.yaml",
        "name: badges\nkind: manual\nsettings:\n  assignee: role:facilities\n  due: 1d\n  where: room 1.07\n  \
         proof_required: true\n  operations: [create_account, disable_account]\naccount: { name: identity.key }\n",
    ),
    (
        "policy/roles.yaml",
        "roles:\n  - { name: everybody, when: \"true\", accounts: [badges] }\n",
    ),
];

/// Of the source that signs: the one of now, and the next.
const SECRETS: [&str; 2] = [
    "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD8Kx3FfSmT8w=",
];

/// Asks, waits for a signal, and ends.
const QUESTION: &str = "
name: question
on: [owner.changed]
steps:
  - id: ask
    uses: approval
    with: { ask: [owner], question: May it be?, timeout: 1d }
  - id: word
    uses: wait_for
    needs: [ask]
    with: { signal: go, timeout: 1d, on_timeout: park }
";

/// A server with its node; everything ends with it.
struct Server {
    url: String,
    client: reqwest::Client,
    /// What is served, for other doors.
    router: axum::Router,
    database: Database,
    running: Option<Running>,
    stop: CancellationToken,
    _folder: TempDir,
}

impl Server {
    /// On an embedded database.
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = StoreAddress::Sqlite(folder.path().join("t.db"));
        Self::on(folder, &address).await
    }

    /// In a schema of its own on the lab's PostgreSQL.
    async fn on_postgres() -> Self {
        Self::on(tempfile::tempdir().unwrap(), &postgres_schema().await).await
    }

    async fn on(folder: TempDir, address: &StoreAddress) -> Self {
        Self::linked(folder, address, None).await
    }

    /// With links in mails.
    async fn linked(folder: TempDir, address: &StoreAddress, links: Option<Arc<Links>>) -> Self {
        // Another test may have been first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        for (name, text) in FILES
            .into_iter()
            .chain([("workflows/question.yaml", QUESTION)])
        {
            write(folder.path(), name, text);
        }
        let mut places = Vec::new();
        for (number, secret) in SECRETS.iter().enumerate() {
            let name = format!("secret-{number}");
            write(folder.path(), &name, secret);
            places.push(format!("file:{}", folder.path().join(name).display()));
        }
        let payroll = format!(
            "name: payroll\nkind: snapshot\nformat: csv\nkey: id\ntime_zone: Europe/London\ncolumns: {{ name: name }}\n\
             guard: {{ removals: {{ count_max: 1 }} }}\nsignature: {{ secrets: {} }}\nsilent_after: 1d\n",
            json!(places)
        );
        write(folder.path(), "sources/payroll.yaml", &payroll);
        let configuration = Arc::new(Configuration::load(folder.path()).unwrap());
        let database = Database::prepare(address, engine::store::SHARDS_DEFAULT)
            .await
            .unwrap();
        let telemetry = Telemetry::default();
        let running = Running::start(Arc::clone(&configuration), database.clone(), &telemetry)
            .await
            .unwrap();
        let (nudge, event_nudge, node) = running.handles();
        let look = Look::new(
            database.clone(),
            &configuration,
            node.clone(),
            Arc::new(SystemClock),
        );
        let parts = Parts {
            database: database.clone(),
            intake: running.intake.clone(),
            definitions: Arc::clone(&running.definitions),
            sources: configuration.sources.clone(),
            doors: Doors::open(&configuration.sources).unwrap(),
            systems: Arc::clone(&configuration.systems),
            policy: Arc::clone(&configuration.policy),
            policies: running.policies.clone(),
            clock: Arc::new(SystemClock),
            nudge,
            event_nudge,
            node,
            metrics: telemetry.metrics,
            links,
            look,
        };
        let listener = server::bind("127.0.0.1:0", false).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        let router = router(parts);
        tokio::spawn(server::serve(listener, router.clone(), stop.clone()));
        running.idle().await;
        Self {
            url,
            client: reqwest::Client::new(),
            router,
            database,
            running: Some(running),
            stop,
            _folder: folder,
        }
    }

    /// A token with these roles, living an hour.
    async fn token(&self, name: &str, roles: &[Role]) -> String {
        let new = NewToken {
            name: name.to_owned(),
            roles: roles.iter().copied().collect::<BTreeSet<_>>(),
            expires_at: now() + TimeDelta::hours(1),
        };
        let token = Tokens::new(self.database.clone())
            .create(&new, now())
            .await
            .unwrap();
        token.expose_secret().to_owned()
    }

    /// Somebody who may do everything.
    async fn admin(&self) -> Caller<'_> {
        Caller {
            server: self,
            token: self.token("admin", &[Role::Admin]).await,
        }
    }

    fn address(&self) -> &str {
        self.url.strip_prefix("http://").unwrap()
    }

    /// Until nothing moves.
    async fn settled(&self) {
        assert!(self.running.as_ref().unwrap().idle().await);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A new schema on the lab's PostgreSQL.
async fn postgres_schema() -> StoreAddress {
    let url = std::env::var(STORE_URL).unwrap_or_else(|_| {
        panic!(
            "`{STORE_URL}` is not set: run `tests/lab/postgres.sh start DIR`, then `. DIR/env`; \
             or run all tests with `bash tests/run`"
        )
    });
    let schema = format!("api_{}", Uuid::new_v4().simple());
    let mut connection = sqlx::PgConnection::connect(&url).await.unwrap();
    let create = sqlx::AssertSqlSafe(format!("CREATE SCHEMA {schema}"));
    sqlx::raw_sql(create)
        .execute(&mut connection)
        .await
        .unwrap();
    StoreAddress::Postgres(format!("{url}?options=-csearch_path%3D{schema}").into())
}

fn write(folder: &Path, name: &str, text: &str) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// What came back.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: reqwest::header::HeaderMap,
    body: Value,
}

impl Answer {
    async fn of(response: reqwest::Response) -> Self {
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await.unwrap();
        Self {
            status,
            headers,
            body: serde_json::from_str(&text).unwrap_or(Value::String(text)),
        }
    }

    #[track_caller]
    fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        self.body
    }

    /// A problem with this name.
    #[track_caller]
    fn problem(self, status: u16, name: &str) -> Value {
        assert_eq!(
            self.headers["content-type"], "application/problem+json",
            "{self:?}"
        );
        assert_eq!(
            self.body["type"],
            format!("urn:tenure:problem:{name}"),
            "{self:?}"
        );
        assert_eq!(self.body["status"], status, "{self:?}");
        self.expect(status)
    }
}

/// Somebody with a token.
struct Caller<'a> {
    server: &'a Server,
    token: String,
}

impl Caller<'_> {
    async fn send(
        &self,
        method: Method,
        path: &str,
        media: &str,
        body: impl Into<reqwest::Body>,
    ) -> Answer {
        let request = self
            .server
            .client
            .request(method, format!("{}{path}", self.server.url));
        let request = request
            .bearer_auth(&self.token)
            .header("content-type", media)
            .body(body);
        Answer::of(request.send().await.unwrap()).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, "application/json", "").await
    }

    async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(Method::POST, path, "application/json", body.to_string())
            .await
    }

    async fn event(&self, event: &Value) -> Answer {
        self.send(
            Method::POST,
            "/v1/events",
            "application/cloudevents+json",
            event.to_string(),
        )
        .await
    }

    async fn import(&self, day: &str, csv: &str) -> Answer {
        let path = format!("/v1/imports?source=hr&file=people.csv&as_of={day}");
        self.send(Method::POST, &path, "text/csv", csv.to_owned())
            .await
    }
}

/// A hire, long effective.
fn hire(id: &str, subject: &str) -> Value {
    json!({
        "specversion": "1.0",
        "id": id,
        "source": "hr-events",
        "type": "hire",
        "subject": subject,
        "time": "2026-01-05T08:00:00Z",
        "data": {"zone": "Europe/London", "attributes": {"name": "Ada", "department": "Research"}},
    })
}
