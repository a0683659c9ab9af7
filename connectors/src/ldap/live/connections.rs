//! TLS, logins, lost answers, dead connections, stopped servers.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::time::Instant;

use super::proxy::{Mode, Proxy};
use super::*;
use crate::connector::{ErrorKind, Finding, Kind, OperationName};

async fn reads(connector: &Ldap) -> Result<Option<Object>, Error> {
    connector
        .get(&ObjectRef::AccountNamed("nobody-at-all".to_owned()))
        .await
}

#[tokio::test]
async fn tls_works_both_ways_with_the_right_authority() {
    for lab in [&OPENLDAP, &AD] {
        let connector = lab.connector(json!({}));
        assert!(reads(&connector).await.unwrap().is_none());
        let connector = lab.connector(json!({"url": lab.get("URL"), "start_tls": true}));
        assert!(reads(&connector).await.unwrap().is_none());
        assert!(
            connector
                .capabilities()
                .operations
                .contains(&OperationName::SetPassword)
        );
    }
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused() {
    for lab in [&OPENLDAP, &AD] {
        for url in ["LDAPS_URL", "URL"] {
            let connector = lab.connector(json!({
                "url": lab.get(url),
                "start_tls": url == "URL",
                "ca_file": lab.get("OTHER_CA_FILE"),
            }));
            let error = reads(&connector).await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::Unreachable, "{}", error.whole());
            assert!(error.message.contains("`ca_file`"), "{}", error.whole());
            let health = connector.check().await.unwrap();
            assert!(!health.is_good());
            assert_eq!(health.findings[0].what, "reach");
        }
    }
}

#[tokio::test]
async fn without_tls_no_password_is_sent() {
    let connector = OPENLDAP.connector(json!({"url": OPENLDAP.get("URL"), "ca_file": null}));
    assert!(
        !connector
            .capabilities()
            .operations
            .contains(&OperationName::SetPassword)
    );
    let id = make(&connector, new_account(&fresh("p"))).await;
    let password = SecretString::from(PASSWORD);
    let refused = error(
        apply(
            &connector,
            Operation::SetPassword {
                account: id,
                password: password.clone(),
            },
        )
        .await,
    );
    assert_eq!(refused.kind, ErrorKind::Unsupported);
    let mut new = new_account(&fresh("p"));
    new.password = Some(password);
    let owner = new.owner.clone();
    let refused = error(apply(&connector, Operation::CreateAccount(new)).await);
    assert_eq!(refused.kind, ErrorKind::Unsupported);
    assert!(
        connector
            .get(&ObjectRef::AccountOwnedBy(owner))
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test]
async fn a_wrong_password_concerns_the_whole_system() {
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), "not-the-Passw0rd").unwrap();
    for lab in [&OPENLDAP, &AD] {
        let wrong = format!("file:{}", secret.path().display());
        let connector = lab.connector(json!({"bind_password": wrong}));
        let refused = reads(&connector).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::AuthExpired, "{}", refused.whole());
        assert!(!refused.whole().contains("not-the-Passw0rd"));
        if lab.flavour == Flavour::ActiveDirectory {
            assert!(
                refused.message.contains("name or the password is wrong"),
                "{}",
                refused.message
            );
        }
        let refused = error(
            apply(
                &connector,
                Operation::CreateAccount(new_account(&fresh("p"))),
            )
            .await,
        );
        assert_eq!(refused.kind, ErrorKind::AuthExpired);
        let refused = connector.list(Kind::Account, None).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::AuthExpired);
        let health = connector.check().await.unwrap();
        let login: Vec<&Finding> = health.findings.iter().filter(|f| !f.good).collect();
        assert_eq!(login.len(), 1);
        assert_eq!(login[0].what, "login");
        assert!(login[0].fix.as_deref().unwrap().contains("bind_password"));
    }
}

#[tokio::test]
async fn a_lost_answer_to_a_change_is_ambiguous_and_the_change_is_found_again() {
    let proxy = Proxy::before(&OPENLDAP.get("URL")).await;
    let connector = OPENLDAP.connector(json!({"url": proxy.url, "ca_file": null}));
    let id = make(&connector, new_account(&fresh("l"))).await;
    let group = fresh("lost");
    OPENLDAP.group(&group).await;

    // The grant is one request: the answer that is lost is its own.
    proxy.set(Mode::LoseAnswer);
    match apply(&connector, grant(&id, &group)).await {
        Ok(Outcome::Ambiguous { reason }) => assert!(reason.contains("broke"), "{reason}"),
        other => panic!("expected ambiguous, got {other:?}"),
    }
    proxy.set(Mode::Pass);
    let entitlement = EntitlementName::new(group);
    assert!(
        proven(
            &connector,
            Claim::Granted {
                account: id.clone(),
                entitlement
            }
        )
        .await
    );
    let connections = proxy.connections();

    // A read is asked once more, on a fresh connection; when that breaks too, it is an error.
    proxy.set(Mode::LoseAnswer);
    let failed = reads(&connector).await.unwrap_err();
    assert_eq!(failed.kind, ErrorKind::Unreachable, "{}", failed.whole());
    assert!(proxy.connections() <= connections + 2);
    proxy.set(Mode::Pass);
    assert!(reads(&connector).await.unwrap().is_none());
}

#[tokio::test]
async fn silence_is_a_timeout_for_a_read_and_ambiguous_for_a_change() {
    let proxy = Proxy::before(&OPENLDAP.get("URL")).await;
    let connector = OPENLDAP.connector(
        json!({"url": proxy.url, "ca_file": null, "operation_timeout_ms": 300, "connections_max": 2}),
    );
    let id = make(&connector, new_account(&fresh("l"))).await;
    proxy.set(Mode::Stall);
    let failed = reads(&connector).await.unwrap_err();
    assert_eq!(failed.kind, ErrorKind::Timeout, "{}", failed.whole());
    // No kept connection is left: the login itself gets no answer, so nothing was sent.
    let failed = error(apply(&connector, grant(&id, "any")).await);
    assert_eq!(failed.kind, ErrorKind::Unreachable, "{}", failed.whole());
    proxy.set(Mode::Pass);
    assert!(reads(&connector).await.unwrap().is_none());
    proxy.set(Mode::Stall);
    match apply(&connector, grant(&id, "any")).await {
        Ok(Outcome::Ambiguous { reason }) => assert!(reason.contains("300 ms"), "{reason}"),
        other => panic!("expected ambiguous, got {other:?}"),
    }
}

#[tokio::test]
async fn a_kept_connection_that_died_is_replaced_unnoticed() {
    let proxy = Proxy::before(&OPENLDAP.get("URL")).await;
    let connector = OPENLDAP.connector(json!({"url": proxy.url, "ca_file": null}));
    let id = make(&connector, new_account(&fresh("k"))).await;
    for round in 1..=3 {
        assert_eq!(
            proxy.connections(),
            round,
            "each round makes one connection and keeps it"
        );
        proxy.cut();
        // The end of the stream has to arrive before it can be seen.
        // sleeps: there is nothing to look at before the end of the stream is here
        tokio::time::sleep(Duration::from_millis(50)).await;
        let attributes = Attributes::from([("title".to_owned(), json!(format!("T{round}")))]);
        let update = Operation::UpdateAccount {
            account: id.clone(),
            attributes,
        };
        receipt(apply(&connector, update).await);
    }
}

#[tokio::test]
async fn many_operations_share_few_connections() {
    const ACCOUNTS: usize = 100;
    const GRANTS: usize = 6;
    const CONNECTIONS: usize = 4;
    let accounts = std::env::var("TENURE_LAB_ACCOUNTS").map_or(ACCOUNTS, |count| {
        count.parse().expect("TENURE_LAB_ACCOUNTS is a number")
    });
    let proxy = Proxy::before(&OPENLDAP.get("URL")).await;
    let connector = OPENLDAP
        .connector(json!({"url": proxy.url, "ca_file": null, "connections_max": CONNECTIONS}));
    let mut groups = Vec::new();
    for _ in 0..GRANTS {
        let group = fresh("g");
        OPENLDAP.group(&group).await;
        groups.push(group);
    }
    let started = Instant::now();
    futures_util::stream::iter(0..accounts)
        .for_each_concurrent(16, |_| async {
            let id = make(&connector, new_account(&fresh("m"))).await;
            for group in &groups {
                receipt(apply(&connector, grant(&id, group)).await);
            }
        })
        .await;
    eprintln!(
        "{accounts} creates with {GRANTS} grants each took {} ms on {} connections",
        started.elapsed().as_millis(),
        proxy.connections()
    );
    assert!(
        proxy.connections() <= CONNECTIONS,
        "{}",
        proxy.connections()
    );
}

fn script(verb: &str, folder: &Path) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/lab/openldap.sh");
    let done = Command::new(script).arg(verb).arg(folder).output().unwrap();
    assert!(
        done.status.success(),
        "{}",
        String::from_utf8_lossy(&done.stderr)
    );
}

/// The value of an `export NAME='value'` line.
fn exported(folder: &Path, name: &str) -> String {
    let text = std::fs::read_to_string(folder.join("env")).unwrap();
    let start = format!("export TENURE_LAB_OPENLDAP_{name}='");
    let line = text.lines().find(|line| line.starts_with(&start)).unwrap();
    line.trim_start_matches(&start)
        .trim_end_matches('\'')
        .to_owned()
}

#[tokio::test]
async fn a_stopped_server_is_unreachable_and_nothing_was_sent() {
    let _ = OPENLDAP.get("URL");
    let folder = tempfile::tempdir().unwrap();
    script("start", folder.path());
    let connector = OPENLDAP.connector(json!({
        "url": exported(folder.path(), "LDAPS_URL"),
        "ca_file": exported(folder.path(), "CA_FILE"),
    }));
    let id = make(&connector, new_account(&fresh("s"))).await;
    script("stop", folder.path());

    let failed = reads(&connector).await.unwrap_err();
    assert_eq!(failed.kind, ErrorKind::Unreachable, "{}", failed.whole());
    for operation in [
        Operation::CreateAccount(new_account(&fresh("s"))),
        Operation::DisableAccount {
            account: id.clone(),
        },
        grant(&id, "any"),
    ] {
        let failed = error(apply(&connector, operation).await);
        assert_eq!(failed.kind, ErrorKind::Unreachable, "{}", failed.whole());
    }
    let failed = connector
        .verify(&Claim::AccountAbsent { account: id })
        .await
        .unwrap_err();
    assert_eq!(
        failed.kind,
        ErrorKind::Unreachable,
        "absence is not proven by silence"
    );
    let health = connector.check().await.unwrap();
    assert_eq!(health.findings.len(), 1);
    assert!(
        health.findings[0].detail.contains("refused"),
        "{:?}",
        health.findings
    );
}

#[tokio::test]
async fn a_name_without_address_is_unreachable() {
    let connector = OPENLDAP.connector(json!({"url": "ldaps://no-such-host.invalid"}));
    let failed = reads(&connector).await.unwrap_err();
    assert_eq!(failed.kind, ErrorKind::Unreachable, "{}", failed.whole());
}
