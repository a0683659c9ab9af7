//! Two roles of a real PostgreSQL take turns, through a real folder, under clients that query all the time.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use connectors::connector::Connector;
use serde_json::json;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, PgConnection};
use uuid::Uuid;

use super::{Shop, World, declared, start};
use crate::rotation::Phase;
use crate::testbed::{FastClock, More, on_both};

pub(super) fn lab(name: &str) -> String {
    let name = format!("TENURE_LAB_POSTGRES_{name}");
    std::env::var(&name).unwrap_or_else(|_| {
        panic!(
            "`{name}` is not set; start the server: tests/lab/postgres.sh start DIR && . DIR/env"
        )
    })
}

pub(super) async fn admin(text: String) {
    let mut admin = PgConnection::connect(&lab("ADMIN_URL")).await.unwrap();
    admin
        .execute(sqlx::raw_sql(AssertSqlSafe(text)))
        .await
        .unwrap();
}

/// As a program that is given a file with a name and a secret.
pub(super) async fn log_in(folder: &Path) -> Result<PgConnection, sqlx::Error> {
    let text = std::fs::read_to_string(folder.join("env")).map_err(sqlx::Error::Io)?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default().to_owned()
    };
    PgConnectOptions::new_without_pgpass()
        .host(&lab("HOST"))
        .port(lab("PORT").parse().unwrap())
        .database(&lab("TARGET_DATABASE"))
        .username(&field("PGUSER="))
        .password(&field("PGPASSWORD="))
        .ssl_mode(PgSslMode::Disable)
        .connect()
        .await
}

/// What clients saw.
#[derive(Default)]
struct Seen {
    ends: AtomicBool,
    queries: AtomicU32,
    logins: AtomicU32,
    failures: std::sync::Mutex<Vec<String>>,
}

/// Asks all the time. One kind logs in for each question; the other keeps its connection for a while, and then reads its file
/// again.
async fn client(folder: PathBuf, table: String, questions: u32, seen: Arc<Seen>) {
    while !seen.ends.load(Ordering::SeqCst) {
        let mut connection = match log_in(&folder).await {
            Ok(connection) => connection,
            Err(error) => {
                seen.failures.lock().unwrap().push(error.to_string());
                // sleeps: a program that was refused waits before it tries again
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        seen.logins.fetch_add(1, Ordering::SeqCst);
        for _ in 0..questions {
            let text = format!("INSERT INTO {table} DEFAULT VALUES");
            match connection.execute(sqlx::raw_sql(AssertSqlSafe(text))).await {
                Ok(_) => {
                    seen.queries.fetch_add(1, Ordering::SeqCst);
                }
                Err(error) => seen.failures.lock().unwrap().push(error.to_string()),
            }
            // sleeps: between two questions
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let _ = connection.close().await;
    }
}

/// The database and the folder as systems; the name of the owning role, and the folder that clients read.
async fn real(root: &Path) -> (Vec<(&'static str, Arc<dyn Connector>)>, String, PathBuf) {
    let app = format!("app{}", Uuid::new_v4().simple());
    admin(format!(
        "CREATE ROLE {app} NOLOGIN;
         CREATE ROLE {app}_a LOGIN IN ROLE {app};
         CREATE ROLE {app}_b LOGIN IN ROLE {app};
         CREATE SCHEMA {app} AUTHORIZATION {app};
         CREATE TABLE {app}.orders (at timestamptz NOT NULL DEFAULT now());
         ALTER TABLE {app}.orders OWNER TO {app};"
    ))
    .await;
    let database = json!({
        "host": lab("HOST"),
        "port": lab("PORT").parse::<u16>().unwrap(),
        "database": lab("TARGET_DATABASE"),
        "user": lab("TARGET_USER"),
        "password": "env:TENURE_LAB_POSTGRES_TARGET_PASSWORD",
        "sslmode": "verify-full",
        "ca_file": lab("CA"),
    });
    let place = json!({
        "root": root,
        "bundles": { "app": { "parts": {
            "user": { "file": "user" },
            "password": { "file": "password" },
            "env": { "file": "env" },
        } } },
    });
    let build = |name: &str, kind: &str, settings| {
        connectors::registry::build(name, kind, settings).unwrap()
    };
    let systems = vec![
        ("db", build("db", "postgres", database)),
        ("secrets", build("secrets", "file", place)),
    ];
    (systems, app, root.join("app"))
}

async fn no_query_fails_while_two_roles_take_turns(on_postgres: bool) {
    let root = tempfile::tempdir().unwrap();
    let (systems, app, folder) = real(root.path()).await;
    let clock = Arc::new(FastClock::new(start(), 1));
    let (company, node) = super::company(&clock, on_postgres, More(systems)).await;
    let shop = Shop {
        company,
        clock,
        // Looks on at nothing here.
        world: World::new(&["none"], 1),
        named: super::NAMED,
    };
    // What is open with the old one lasts for a second at most; nothing waits for days.
    let users = format!("{app}_a, {app}_b");
    let more = "every: 30d\n          overlap: { reload: 1s, derived: 2s }";
    shop.declare(&declared("alternating", &users, more)).await;
    let directory = &shop.company.directory;
    directory.start_rotations(start()).await.unwrap();

    // The first time nobody reads the place yet.
    shop.ask(false).await.unwrap();
    shop.until(&node, Phase::Closed).await;
    let read = |part: &str| std::fs::read_to_string(folder.join(part)).unwrap();
    assert_eq!(read("user"), format!("{app}_b"));

    let seen = Arc::new(Seen::default());
    let table = format!("{app}.orders");
    let clients: Vec<_> = [1, 1, 100, 200]
        .into_iter()
        .map(|questions| {
            let (folder, table, seen) = (folder.clone(), table.clone(), Arc::clone(&seen));
            tokio::spawn(client(folder, table, questions, seen))
        })
        .collect();
    let mut secrets = vec![read("password")];
    for turn in 1..=4 {
        directory.start_rotations(start()).await.unwrap();
        shop.ask(false).await.unwrap();
        let row = shop.until(&node, Phase::Closed).await;
        let user = if turn % 2 == 1 { "_a" } else { "_b" };
        assert_eq!(row.turn, Some(format!("{app}{user}")));
        assert_eq!(read("user"), format!("{app}{user}"));
        let secret = read("password");
        assert!(!secrets.contains(&secret));
        secrets.push(secret);
    }
    seen.ends.store(true, Ordering::SeqCst);
    for client in clients {
        client.await.unwrap();
    }
    let queries = seen.queries.load(Ordering::SeqCst);
    let logins = seen.logins.load(Ordering::SeqCst);
    assert_eq!(*seen.failures.lock().unwrap(), Vec::<String>::new());
    assert!(
        queries > 1_000 && logins > 100,
        "{queries} queries, {logins} logins"
    );

    // And once at once, because strangers know it: whoever has not read the place again is refused then.
    shop.ask(true).await.unwrap();
    shop.until(&node, Phase::Closed).await;
    assert!(log_in(&folder).await.is_ok());

    // No secret has reached the database of Tenure, and only one is kept.
    let stored = shop.company.failures().await;
    secrets.push(read("password"));
    for secret in &secrets {
        assert!(!stored.contains(secret.as_str()));
    }
    shop.close(node).await;
    admin(format!(
        "DROP SCHEMA {app} CASCADE; DROP ROLE {app}_a; DROP ROLE {app}_b; DROP ROLE {app};"
    ))
    .await;
}

on_both! {
    no_query_fails_while_two_roles_take_turns,
}
