//! One login name with room for one secret, in a real database and in a real directory, through a real folder.
//!
//! Between the moment when the system has the new secret and the one when the place shows it, whoever logs in is refused and
//! has to try again. Here it is seen that this is all that happens to them.

use std::path::{Path, PathBuf};
use std::process::Command as Program;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use connectors::connector::{Attributes, NewAccount, Operation, OperationKey, Outcome};
use secrecy::SecretString;
use serde_json::json;
use sqlx::{Connection as _, Executor as _};
use uuid::Uuid;

use super::live::{admin, lab, log_in};
use super::real::{declared, folder, system};
use super::*;

on_both! {
    a_role_of_a_real_database_gets_another_secret_while_programs_log_in,
    an_entry_of_a_real_directory_gets_another_secret,
}

/// How a login that is refused because of its secret is answered.
const REFUSED: &str = "28P01";
/// The longest that a program is refused in a row, in tries that lie 5 ms apart.
const REFUSALS_MAX: u32 = 400;

#[derive(Default)]
struct Seen {
    ends: AtomicBool,
    logins: AtomicU32,
    /// The most refusals in a row.
    refused: AtomicU32,
    others: std::sync::Mutex<Vec<String>>,
}

/// Reads the place and logs in, again and again; one that is refused tries again.
async fn program(folder: PathBuf, seen: Arc<Seen>) {
    let mut in_a_row = 0;
    while !seen.ends.load(Ordering::SeqCst) {
        match log_in(&folder).await {
            Ok(connection) => {
                in_a_row = 0;
                seen.logins.fetch_add(1, Ordering::SeqCst);
                let _ = connection.close().await;
            }
            Err(error) => {
                let code = error.as_database_error().and_then(|error| error.code());
                if code.as_deref() == Some(REFUSED) {
                    in_a_row += 1;
                    seen.refused.fetch_max(in_a_row, Ordering::SeqCst);
                } else {
                    seen.others.lock().unwrap().push(error.to_string());
                }
            }
        }
        // sleeps: a program that was refused waits before it tries again
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn read(bundle: &Path, part: &str) -> String {
    std::fs::read_to_string(bundle.join(part)).unwrap()
}

async fn a_role_of_a_real_database_gets_another_secret_while_programs_log_in(on_postgres: bool) {
    let root = tempfile::tempdir().unwrap();
    let app = format!("one{}", Uuid::new_v4().simple());
    admin(format!("CREATE ROLE {app} LOGIN PASSWORD 'first';")).await;
    let database = json!({
        "host": lab("HOST"),
        "port": lab("PORT").parse::<u16>().unwrap(),
        "database": lab("TARGET_DATABASE"),
        "user": lab("TARGET_USER"),
        "password": "env:TENURE_LAB_POSTGRES_TARGET_PASSWORD",
        "sslmode": "verify-full",
        "ca_file": lab("CA"),
    });
    let place = folder(root.path(), &["user", "password", "env"]);
    let rotation = [
        format!("users: [{app}]"),
        "parts: { env: \"PGUSER={user}\\nPGPASSWORD={password}\\n\" }".to_owned(),
    ];
    let rotation: Vec<&str> = rotation.iter().map(String::as_str).collect();
    let text = declared("password:app", "password", "single_slot", &rotation);
    let database = system("postgres", database);
    let shop = Shop::real(on_postgres, database, place, "password:app", &text).await;
    let bundle = root.path().join("app");
    let node = shop.company.node().await;
    // The first time nobody reads the place yet.
    shop.begin().await;
    shop.until(&node, Phase::Closed).await;

    let seen = Arc::new(Seen::default());
    let programs: Vec<_> = (0..3)
        .map(|_| tokio::spawn(program(bundle.clone(), Arc::clone(&seen))))
        .collect();
    let mut secrets = vec![read(&bundle, "password")];
    let mut open = log_in(&bundle).await.unwrap();
    for _ in 0..3 {
        shop.begin().await;
        shop.until(&node, Phase::Closed).await;
        let secret = read(&bundle, "password");
        assert!(!secrets.contains(&secret));
        secrets.push(secret);
        assert!(log_in(&bundle).await.is_ok());
    }
    // What was open stays open.
    open.execute(sqlx::raw_sql("SELECT 1")).await.unwrap();
    // The old ones are worth nothing.
    let old = tempfile::tempdir().unwrap();
    for secret in &secrets[..3] {
        let env = format!("PGUSER={app}\nPGPASSWORD={secret}\n");
        std::fs::write(old.path().join("env"), env).unwrap();
        let error = log_in(old.path()).await.unwrap_err();
        let code = error.as_database_error().and_then(|error| error.code());
        assert_eq!(code.as_deref(), Some(REFUSED), "{error}");
    }
    seen.ends.store(true, Ordering::SeqCst);
    for program in programs {
        program.await.unwrap();
    }
    assert_eq!(*seen.others.lock().unwrap(), Vec::<String>::new());
    let refused = seen.refused.load(Ordering::SeqCst);
    assert!(refused < REFUSALS_MAX, "{refused} refusals in a row");
    assert!(seen.logins.load(Ordering::SeqCst) > 20);

    // Strangers know it: what is open with it ends too.
    shop.plan().await;
    shop.ask(true).await.unwrap();
    shop.until(&node, Phase::Closed).await;
    assert!(open.execute(sqlx::raw_sql("SELECT 1")).await.is_err());
    assert!(log_in(&bundle).await.is_ok());
    secrets.push(read(&bundle, "password"));
    shop.knows_none_of(&secrets).await;
    shop.close(node).await;
    admin(format!("DROP ROLE {app};")).await;
}

fn directory(name: &str) -> String {
    let name = format!("TENURE_LAB_OPENLDAP_{name}");
    std::env::var(&name).unwrap_or_else(|_| {
        panic!(
            "`{name}` is not set; start the server: tests/lab/openldap.sh start DIR && . DIR/env"
        )
    })
}

/// Whether a bind with this secret succeeds, by OpenLDAP's own client.
fn binds(user: &str, secret: &str) -> bool {
    let entry = format!("uid={user},{}", directory("PEOPLE_BASE"));
    let done = Program::new("ldapwhoami")
        .args([
            "-x",
            "-H",
            &directory("LDAPS_URL"),
            "-D",
            &entry,
            "-w",
            secret,
        ])
        .env("LDAPTLS_CACERT", directory("CA_FILE"))
        .output()
        .unwrap();
    if done.status.success() {
        return true;
    }
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(said.contains("Invalid credentials (49)"), "{said}");
    false
}

async fn an_entry_of_a_real_directory_gets_another_secret(on_postgres: bool) {
    let root = tempfile::tempdir().unwrap();
    let user = format!("one{}", Uuid::new_v4().simple());
    let first = "F1rst-of-the-entry";
    let ldap = system(
        "ldap",
        json!({
            "url": directory("LDAPS_URL"),
            "ca_file": directory("CA_FILE"),
            "bind_dn": directory("BIND_DN"),
            "bind_password": "env:TENURE_LAB_OPENLDAP_PASSWORD",
            "flavour": "openldap",
            "people_base": directory("PEOPLE_BASE"),
            "group_base": directory("GROUP_BASE"),
        }),
    );
    let new = Operation::CreateAccount(NewAccount {
        name: user.clone(),
        owner: format!("owner-{user}"),
        attributes: Attributes::from([("title".to_owned(), json!("Service"))]),
        enabled: true,
        password: Some(SecretString::from(first.to_owned())),
    });
    let key = OperationKey {
        idempotency: user.clone(),
        attempt: 1,
        epoch: 1,
    };
    let made = ldap.apply(&new, &key).await.unwrap();
    assert!(matches!(made, Outcome::Done(_)), "{made:?}");
    assert!(binds(&user, first));

    let place = folder(root.path(), &["user", "password"]);
    let users = format!("users: [{user}]");
    let text = declared("password:app", "password", "single_slot", &[&users]);
    let shop = Shop::real(on_postgres, ldap, place, "password:app", &text).await;
    let bundle = root.path().join("app");
    let node = shop.company.node().await;
    shop.begin().await;
    shop.until(&node, Phase::Closed).await;
    let second = read(&bundle, "password");
    assert!(!binds(&user, first) && binds(&user, &second));

    shop.plan().await;
    shop.ask(true).await.unwrap();
    shop.until(&node, Phase::Closed).await;
    let third = read(&bundle, "password");
    assert!(!binds(&user, &second) && binds(&user, &third));
    assert_eq!(read(&bundle, "user"), user);
    shop.knows_none_of(&[second, third]).await;
    shop.close(node).await;
}
