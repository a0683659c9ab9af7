//! Against a real cluster: what the server does, seen through its own front door and its own log.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, PgConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use uuid::Uuid;

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
}

#[tokio::test]
async fn the_conformance_suite_passes() {
    let connector = Arc::new(connector_with(&json!({ "page_size": 3 })));
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

#[tokio::test]
async fn a_disabled_role_cannot_log_in_and_an_ended_session_is_cut_off() {
    let connector = connector();
    let name = fresh("u");
    let id = make(&connector, &name).await;
    let password = format!("Pässword-{name}");
    let mut session = login(&name, &password)
        .await
        .expect("a new account logs in");

    done(
        &connector,
        Operation::DisableAccount {
            account: id.clone(),
        },
    )
    .await;
    let refused = login(&name, &password)
        .await
        .expect_err("a disabled account does not log in");
    assert!(
        refused.to_string().contains("not permitted to log in"),
        "{refused}"
    );
    assert!(
        proven(
            &connector,
            Claim::AccountDisabled {
                account: id.clone()
            }
        )
        .await
    );

    session
        .ping()
        .await
        .expect("disabling leaves the open session alone");
    assert!(
        !proven(
            &connector,
            Claim::NoSessions {
                account: id.clone()
            }
        )
        .await
    );
    done(
        &connector,
        Operation::EndSessions {
            account: id.clone(),
        },
    )
    .await;
    assert!(session.ping().await.is_err(), "the session still answers");
    assert!(
        proven(
            &connector,
            Claim::NoSessions {
                account: id.clone()
            }
        )
        .await
    );

    done(&connector, Operation::EnableAccount { account: id }).await;
    login(&name, &password)
        .await
        .expect("an enabled account logs in again");
}

#[tokio::test]
async fn the_sessions_of_a_dropped_role_are_still_seen_and_ended() {
    let connector = connector();
    let name = fresh("u");
    let id = make(&connector, &name).await;
    let mut session = login(&name, &format!("Pässword-{name}")).await.unwrap();
    done(
        &connector,
        Operation::DeleteAccount {
            account: id.clone(),
        },
    )
    .await;
    assert!(
        proven(
            &connector,
            Claim::AccountAbsent {
                account: id.clone()
            }
        )
        .await
    );
    assert!(
        !proven(
            &connector,
            Claim::NoSessions {
                account: id.clone()
            }
        )
        .await
    );
    done(
        &connector,
        Operation::EndSessions {
            account: id.clone(),
        },
    )
    .await;
    assert!(session.ping().await.is_err());
    assert!(proven(&connector, Claim::NoSessions { account: id }).await);
}

#[tokio::test]
async fn a_renamed_role_is_followed_and_a_new_one_of_the_name_is_not_mistaken_for_it() {
    let connector = connector();
    let (old, renamed) = (fresh("u"), fresh("u"));
    let id = make(&connector, &old).await;
    let mut admin = admin().await;
    sql(
        &mut admin,
        format!("ALTER ROLE \"{old}\" RENAME TO \"{renamed}\""),
    )
    .await;
    assert!(
        !proven(
            &connector,
            Claim::AccountDisabled {
                account: id.clone()
            }
        )
        .await,
        "it logs in under its new name"
    );
    done(
        &connector,
        Operation::DisableAccount {
            account: id.clone(),
        },
    )
    .await;
    assert!(
        !value::<bool>(
            &mut admin,
            "SELECT rolcanlogin FROM pg_roles WHERE rolname = $1",
            &renamed
        )
        .await
    );

    sql(
        &mut admin,
        format!("DROP ROLE \"{renamed}\"; CREATE ROLE \"{old}\" LOGIN"),
    )
    .await;
    let error = connector
        .verify(&Claim::AccountAbsent {
            account: id.clone(),
        })
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict, "{}", error.message);
    let error = connector
        .apply(&Operation::DeleteAccount { account: id }, &key())
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict);
    assert!(
        value::<bool>(
            &mut admin,
            "SELECT rolcanlogin FROM pg_roles WHERE rolname = $1",
            &old
        )
        .await
    );
}

#[tokio::test]
async fn a_role_made_by_somebody_else_stays_an_account_when_it_is_disabled() {
    let connector = connector();
    let name = fresh("u");
    let mut admin = admin().await;
    let user = lab("TENURE_LAB_POSTGRES_TARGET_USER");
    sql(
        &mut admin,
        format!(
            "CREATE ROLE \"{name}\" LOGIN; COMMENT ON ROLE \"{name}\" IS 'ask Bob'; GRANT \"{name}\" TO {user} WITH ADMIN OPTION"
        ),
    )
    .await;
    let found = connector
        .get(&ObjectRef::AccountNamed(name.clone()))
        .await
        .unwrap()
        .unwrap();
    let id = found.into_account().unwrap().id;
    done(&connector, Operation::DisableAccount { account: id }).await;
    let found = connector
        .get(&ObjectRef::AccountNamed(name.clone()))
        .await
        .unwrap()
        .unwrap()
        .into_account()
        .unwrap();
    assert_eq!((found.enabled, found.owner), (Some(false), None));
    assert!(
        connector
            .get(&ObjectRef::Entitlement(EntitlementName::new(&name)))
            .await
            .unwrap()
            .is_none()
    );
    let comment: String = value(
        &mut admin,
        "SELECT shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = $1",
        &name,
    )
    .await;
    assert_eq!(comment, "tenure:account\nask Bob");
}

#[tokio::test]
async fn no_clear_password_reaches_the_servers_log() {
    let connector = connector();
    let name = fresh("u");
    let id = make(&connector, &name).await;
    let password = fresh("Geheim");
    let set = Operation::SetPassword {
        account: id,
        password: SecretString::from(password.clone()),
    };
    done(&connector, set).await;
    login(&name, &password)
        .await
        .expect("the new password works");
    assert!(
        login(&name, &format!("Pässword-{name}")).await.is_err(),
        "the old password works"
    );
    let log = std::fs::read_to_string(lab("TENURE_LAB_POSTGRES_LOG")).unwrap();
    assert!(
        log.contains(&format!("CREATE ROLE \"{name}\"")),
        "the log is the record of effects"
    );
    assert!(log.contains(&format!(
        "ALTER ROLE \"{name}\" PASSWORD 'SCRAM-SHA-256$4096:"
    )));
    assert!(
        !log.contains(&password) && !log.contains(&format!("Pässword-{name}")),
        "a clear password was logged"
    );
}

#[tokio::test]
async fn a_membership_is_taken_away_whoever_gave_it() {
    let connector = connector();
    let (group, name) = (make_group().await, fresh("u"));
    let id = make(&connector, &name).await;
    let mut admin = admin().await;
    sql(&mut admin, format!("GRANT \"{group}\" TO \"{name}\"")).await;
    let super_connector = superuser(&json!({}));
    done(
        &super_connector,
        Operation::Revoke {
            account: id.clone(),
            entitlement: group.clone(),
        },
    )
    .await;
    assert!(
        proven(
            &connector,
            Claim::NotGranted {
                account: id.clone(),
                entitlement: group.clone()
            }
        )
        .await
    );
    let held: i64 = value(
        &mut admin,
        "SELECT count(*) FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.member WHERE r.rolname = $1",
        &name,
    )
    .await;
    assert_eq!(held, 0);
}

#[tokio::test]
async fn a_membership_through_another_group_is_said() {
    let connector = connector();
    let (inner, outer, name) = (make_group().await, make_group().await, fresh("u"));
    let id = make(&connector, &name).await;
    sql(
        &mut admin().await,
        format!("GRANT \"{inner}\" TO \"{outer}\""),
    )
    .await;
    done(
        &connector,
        Operation::Grant {
            account: id.clone(),
            entitlement: outer,
        },
    )
    .await;
    match connector
        .verify(&Claim::NotGranted {
            account: id,
            entitlement: inner,
        })
        .await
        .unwrap()
    {
        Verdict::Proven(seen) => assert_eq!(seen.seen["through_another_group"], json!(true)),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_account_is_not_granted_to_another() {
    let connector = connector();
    let (one, other) = (fresh("u"), fresh("u"));
    let id = make(&connector, &one).await;
    make(&connector, &other).await;
    let grant = Operation::Grant {
        account: id,
        entitlement: EntitlementName::new(other),
    };
    assert_eq!(
        connector.apply(&grant, &key()).await.unwrap_err().kind,
        ErrorKind::Invalid
    );
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

/// A role that owns a table here, a table in the store's database, and holds a privilege.
async fn owner_of_things(connector: &Postgres) -> (String, NativeId) {
    let name = fresh("u");
    let id = make(connector, &name).await;
    for url in [
        "TENURE_LAB_POSTGRES_ADMIN_URL",
        "TENURE_LAB_POSTGRES_STORE_URL",
    ] {
        let mut connection = PgConnection::connect(&lab(url)).await.unwrap();
        sql(
            &mut connection,
            format!(
                "CREATE SCHEMA \"{name}\"; CREATE TABLE \"{name}\".t (i int); ALTER TABLE \"{name}\".t OWNER TO \"{name}\";
                 GRANT USAGE ON SCHEMA \"{name}\" TO \"{name}\""
            ),
        )
        .await;
    }
    (name, id)
}

const TABLE_OWNER: &str = "SELECT tableowner::text FROM pg_tables WHERE schemaname = $1";

#[tokio::test]
async fn a_role_that_owns_things_is_not_deleted_unless_the_settings_say_how() {
    let connector = connector();
    let (name, id) = owner_of_things(&connector).await;
    let delete = Operation::DeleteAccount {
        account: id.clone(),
    };
    let error = connector.apply(&delete, &key()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Denied);
    assert!(error.message.contains("owns table"), "{}", error.message);
    assert!(
        error.message.contains("database tenure_store"),
        "{}",
        error.message
    );

    let uses = connector
        .dependents(&ObjectRef::Account(id.clone()))
        .await
        .unwrap();
    assert!(
        uses.value.iter().any(|it| it.what.contains("owns table")),
        "{uses:?}"
    );
    assert!(!uses.blind_spots.is_empty());

    let heir = fresh("u");
    make(&connector, &heir).await;
    let reassigning = superuser(&json!({ "owned_objects": "reassign", "reassign_to": heir }));
    done(&reassigning, delete).await;
    assert!(proven(&connector, Claim::AccountAbsent { account: id }).await);
    for url in [
        "TENURE_LAB_POSTGRES_ADMIN_URL",
        "TENURE_LAB_POSTGRES_STORE_URL",
    ] {
        let mut connection = PgConnection::connect(&lab(url)).await.unwrap();
        assert_eq!(
            value::<String>(&mut connection, TABLE_OWNER, &name).await,
            heir,
            "{url}"
        );
    }
}

#[tokio::test]
async fn ownership_is_handed_over_in_every_database_without_superuser() {
    let connector = connector();
    let (name, from) = owner_of_things(&connector).await;
    let heir = fresh("u");
    let to = make(&connector, &heir).await;
    done(
        &connector,
        Operation::TransferOwnership {
            from: from.clone(),
            to: to.clone(),
        },
    )
    .await;
    for url in [
        "TENURE_LAB_POSTGRES_ADMIN_URL",
        "TENURE_LAB_POSTGRES_STORE_URL",
    ] {
        let mut connection = PgConnection::connect(&lab(url)).await.unwrap();
        assert_eq!(
            value::<String>(&mut connection, TABLE_OWNER, &name).await,
            heir,
            "{url}"
        );
    }
    let again = connector
        .apply(&Operation::TransferOwnership { from, to }, &key())
        .await
        .unwrap();
    assert!(matches!(again, Outcome::AlreadySo(_)));
    // Nothing of the rights it gave itself stayed.
    let mut admin = admin().await;
    let kept: i64 = value(
        &mut admin,
        "SELECT count(*) FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid
          WHERE r.rolname = $1 AND m.member = 'tenure_target'::regrole AND NOT m.admin_option",
        &heir,
    )
    .await;
    assert_eq!(kept, 0);
}

#[tokio::test]
async fn what_a_role_owns_goes_with_it_when_the_settings_say_so() {
    let (name, id) = owner_of_things(&connector()).await;
    let dropping = superuser(&json!({ "owned_objects": "drop" }));
    done(&dropping, Operation::DeleteAccount { account: id }).await;
    let left: i64 = value(
        &mut admin().await,
        "SELECT count(*) FROM pg_tables WHERE schemaname = $1",
        &name,
    )
    .await;
    assert_eq!(left, 0);
}

#[tokio::test]
async fn roles_outside_the_prefix_and_our_own_are_never_touched() {
    let prefix = fresh("p");
    let fenced = connector_with(&json!({ "role_prefix": &prefix[..10] }));
    let inside = make(&fenced, &fresh(&prefix[..10])).await;
    let name = fresh("u");
    let outside = make(&connector(), &name).await;
    for operation in [
        Operation::DisableAccount {
            account: outside.clone(),
        },
        Operation::DeleteAccount {
            account: outside.clone(),
        },
        Operation::CreateAccount(new(&fresh("u"))),
    ] {
        let error = fenced.apply(&operation, &key()).await.unwrap_err();
        assert_eq!(
            error.kind,
            ErrorKind::Denied,
            "{}",
            operation.name().as_str()
        );
    }
    let disabled = Claim::AccountDisabled { account: outside };
    assert_eq!(
        fenced.verify(&disabled).await.unwrap_err().kind,
        ErrorKind::Denied,
        "not seen is not absent"
    );
    let listed = fenced.list(Kind::Account, None).await.unwrap();
    assert!(listed.complete);
    let ids: Vec<NativeId> = listed
        .items
        .into_iter()
        .filter_map(Object::into_account)
        .map(|account| account.id)
        .collect();
    assert_eq!(ids, [inside]);

    let own = Operation::DisableAccount {
        account: NativeId::new(lab("TENURE_LAB_POSTGRES_TARGET_USER")),
    };
    assert_eq!(
        connector().apply(&own, &key()).await.unwrap_err().kind,
        ErrorKind::Denied
    );
}

#[tokio::test]
async fn the_check_says_what_is_missing_and_how_to_give_it() {
    assert!(connector().check().await.unwrap().findings.len() >= 4);
    let (name, password) = (fresh("u"), fresh("pw"));
    sql(
        &mut admin().await,
        format!("CREATE ROLE \"{name}\" LOGIN PASSWORD '{password}'"),
    )
    .await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &password).unwrap();
    let secret = format!("file:{}", file.path().display());

    let weak = connector_with(&json!({ "user": name, "password": secret }))
        .check()
        .await
        .unwrap();
    let fixes: Vec<String> = weak
        .findings
        .iter()
        .filter_map(|finding| finding.fix.clone())
        .collect();
    assert!(
        fixes.contains(&format!("ALTER ROLE \"{name}\" CREATEROLE")),
        "{fixes:?}"
    );
    assert!(
        fixes.contains(&format!("GRANT pg_signal_backend TO \"{name}\"")),
        "{fixes:?}"
    );

    for (changes, what) in [
        (json!({ "user": name, "password": "env:HOME" }), "login"),
        (json!({ "database": "nowhere" }), "login"),
        (json!({ "port": 1 }), "reach"),
        (
            json!({ "ca_file": lab("TENURE_LAB_POSTGRES_OTHER_CA") }),
            "reach",
        ),
    ] {
        let health = connector_with(&changes).check().await.unwrap();
        let bad: Vec<&str> = health
            .findings
            .iter()
            .filter(|it| !it.good)
            .map(|it| it.what.as_str())
            .collect();
        assert_eq!(bad, [what], "{changes}");
    }
}

#[tokio::test]
async fn a_wrong_password_and_an_absent_server_are_different_things() {
    let wrong = connector_with(&json!({ "password": "env:HOME" }));
    let error = wrong
        .get(&ObjectRef::AccountNamed("x".to_owned()))
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::AuthExpired);

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let started = tokio::time::Instant::now();
    let absent = connector_with(&json!({ "port": port }));
    let error = absent
        .apply(&Operation::CreateAccount(new("x")), &key())
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unreachable);
    assert!(
        started.elapsed() < Duration::from_secs(1),
        "a refused connection is known at once"
    );
}

/// A wire between connector and server that can lose the answer to a statement, in one of two ways.
struct Wire {
    port: u16,
    armed: Arc<AtomicBool>,
}

#[derive(Clone, Copy)]
enum Loss {
    /// The server's answer is dropped and the connection closed.
    Cut,
    /// The server's answer never comes.
    Silence,
}

impl Wire {
    async fn start(needle: &'static str, loss: Loss) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let armed = Arc::new(AtomicBool::new(true));
        let flag = Arc::clone(&armed);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect((
                    lab("TENURE_LAB_POSTGRES_HOST"),
                    lab("TENURE_LAB_POSTGRES_PORT").parse::<u16>().unwrap(),
                ))
                .await
                .unwrap();
                tokio::spawn(carry(client, server, needle, loss, Arc::clone(&flag)));
            }
        });
        Self { port, armed }
    }

    fn connector(&self) -> Postgres {
        connector_with(&json!({ "port": self.port, "sslmode": "disable", "timeout_ms": 500 }))
    }
}

async fn carry(
    client: TcpStream,
    server: TcpStream,
    needle: &'static str,
    loss: Loss,
    armed: Arc<AtomicBool>,
) {
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let lost = Arc::new(AtomicBool::new(false));
    let losing = Arc::clone(&lost);
    let back = tokio::spawn(async move {
        let mut buffer = vec![0; 65_536];
        while let Ok(read @ 1..) = from_server.read(&mut buffer).await {
            if losing.load(Ordering::SeqCst) {
                match loss {
                    Loss::Cut => return,
                    Loss::Silence => continue,
                }
            }
            if to_client.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    });
    let mut buffer = vec![0; 65_536];
    while let Ok(read @ 1..) = from_client.read(&mut buffer).await {
        let sent = String::from_utf8_lossy(&buffer[..read]).into_owned();
        if sent.contains(needle) && armed.swap(false, Ordering::SeqCst) {
            lost.store(true, Ordering::SeqCst);
        }
        if to_server.write_all(&buffer[..read]).await.is_err() {
            break;
        }
    }
    let _ = back.await;
}

async fn check_lost(
    needle: &'static str,
    loss: Loss,
    prepare: Option<Operation>,
    operation: Operation,
    claim: Claim,
) {
    let wire = Wire::start(needle, loss).await;
    let connector = wire.connector();
    if let Some(prepare) = prepare {
        done(&self::connector(), prepare).await;
    }
    match connector.apply(&operation, &key()).await.unwrap() {
        Outcome::Ambiguous { reason } => assert!(!reason.is_empty()),
        other => panic!("{needle}: expected ambiguous, got {other:?}"),
    }
    assert!(!wire.armed.load(Ordering::SeqCst), "{needle} never passed");
    assert!(
        proven(&connector, claim).await,
        "{needle}: the effect is seen by reading"
    );
    let again = connector.apply(&operation, &key()).await.unwrap();
    assert!(
        matches!(again, Outcome::AlreadySo(_)),
        "{needle}: {again:?}"
    );
}

#[tokio::test]
async fn a_lost_answer_is_ambiguous_and_the_effect_is_found_by_reading() {
    for loss in [Loss::Cut, Loss::Silence] {
        let name = fresh("u");
        let create = Operation::CreateAccount(new(&name));
        let exists = Claim::AccountExists {
            owner: format!("owner-{name}"),
        };
        check_lost("CREATE ROLE", loss, None, create, exists).await;

        let group = make_group().await;
        let account = make(&connector(), &fresh("u")).await;
        let grant = Operation::Grant {
            account: account.clone(),
            entitlement: group.clone(),
        };
        let revoke = Operation::Revoke {
            account: account.clone(),
            entitlement: group.clone(),
        };
        let granted = Claim::Granted {
            account: account.clone(),
            entitlement: group.clone(),
        };
        let not_granted = Claim::NotGranted {
            account: account.clone(),
            entitlement: group,
        };
        check_lost("GRANT ", loss, None, grant, granted).await;
        check_lost("REVOKE ", loss, None, revoke, not_granted).await;
        let disable = Operation::DisableAccount {
            account: account.clone(),
        };
        check_lost(
            "NOLOGIN",
            loss,
            None,
            disable,
            Claim::AccountDisabled {
                account: account.clone(),
            },
        )
        .await;
        let enable = Operation::EnableAccount {
            account: account.clone(),
        };
        check_lost(
            " LOGIN",
            loss,
            None,
            enable,
            Claim::AccountEnabled {
                account: account.clone(),
            },
        )
        .await;
        let delete = Operation::DeleteAccount {
            account: account.clone(),
        };
        check_lost(
            "DROP ROLE",
            loss,
            None,
            delete,
            Claim::AccountAbsent { account },
        )
        .await;
    }
}

#[tokio::test]
async fn a_lost_answer_to_a_question_is_an_error() {
    for (loss, kind) in [
        (Loss::Cut, ErrorKind::Transient),
        (Loss::Silence, ErrorKind::Timeout),
    ] {
        let wire = Wire::start("pg_shdescription", loss).await;
        let error = wire
            .connector()
            .get(&ObjectRef::AccountNamed("x".to_owned()))
            .await
            .unwrap_err();
        assert_eq!(error.kind, kind, "{}", error.whole());
    }
}

#[tokio::test]
async fn a_server_that_never_answers_a_login_is_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let connector =
        connector_with(&json!({ "port": port, "connect_timeout_ms": 200, "sslmode": "disable" }));
    let error = connector
        .apply(&Operation::CreateAccount(new("x")), &key())
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unreachable);
}

#[tokio::test]
async fn something_that_is_not_postgres_is_said_so() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let connector = connector_with(&json!({ "port": port, "sslmode": "disable" }));
    let error = connector
        .apply(&Operation::CreateAccount(new("x")), &key())
        .await
        .unwrap_err();
    assert!(
        matches!(error.kind, ErrorKind::Bug | ErrorKind::Unreachable),
        "{}",
        error.whole()
    );
}

#[tokio::test]
async fn a_session_that_the_server_ended_is_replaced() {
    let connector = connector();
    let id = make(&connector, &fresh("u")).await;
    let rows = connector
        .sessions
        .read(
            "asking who we are",
            sqlx::query("SELECT pg_backend_pid() AS pid"),
        )
        .await;
    let pid: i32 = rows.unwrap()[0].get("pid");
    sql(
        &mut admin().await,
        format!("SELECT pg_terminate_backend({pid}, 5000)"),
    )
    .await;
    done(&connector, Operation::DisableAccount { account: id }).await;
}
