//! Servers that are away, answers that never come: what is certain is an error, what is not is ambiguous.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;

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
        done(&super::connector(), prepare).await;
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
