//! The example plugin: a complete one, so the whole suite applies to it.

use std::process::Stdio;
use std::sync::Arc;

use tokio::io::AsyncWriteExt as _;

use super::*;
use crate::conformance::{self, Door, Fixture, Session};
use crate::connector::Account;

fn example_exec(folder: &Path, processes_max: usize) -> Exec {
    let settings = json!({
        "command": ["python3", example()],
        "config": {
            "database": folder.join("directory.db"),
            "entitlements": ["staff", "admins"],
            "page_size": 6,
        },
        "processes_max": processes_max,
    });
    Exec::from_settings("example", settings).unwrap()
}

/// Whether the example's database has an active token of this number.
const TOKEN_IS_GOOD: &str = "import sqlite3, sys
found = sqlite3.connect(sys.argv[1]).execute('select active from token where id = ?', (sys.argv[2],)).fetchone()
sys.exit(0 if found and found[0] else 1)";

/// The example's own `login`, which knows nothing of the protocol.
struct ExampleDoor(PathBuf);

impl ExampleDoor {
    async fn login(&self, stay: bool, name: &str, password: &SecretString) -> Result<bool, String> {
        let mut command = tokio::process::Command::new("python3");
        command.arg(example()).arg("login");
        if stay {
            command.arg("--stay");
        }
        let mut child = command
            .arg(&self.0)
            .arg(name)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| error.to_string())?;
        let mut stdin = child.stdin.take().unwrap();
        let line = format!("{}\n", password.expose_secret());
        stdin
            .write_all(line.as_bytes())
            .await
            .map_err(|error| error.to_string())?;
        drop(stdin);
        match child
            .wait()
            .await
            .map_err(|error| error.to_string())?
            .code()
        {
            Some(0) => Ok(true),
            Some(1) => Ok(false),
            other => Err(format!("login ended with {other:?}")),
        }
    }
}

#[async_trait]
impl Door for ExampleDoor {
    async fn opens(&self, account: &Account, password: &SecretString) -> Result<bool, String> {
        self.login(false, &account.name, password).await
    }
    async fn takes(
        &self,
        _account: &Account,
        credential: &crate::connector::Credential,
    ) -> Result<Option<bool>, String> {
        // Nobody knows the token; what the system would compare it with is there, or is not.
        let output = tokio::process::Command::new("python3")
            .args(["-c", TOKEN_IS_GOOD])
            .arg(&self.0)
            .arg(credential.id.as_str())
            .status()
            .await
            .map_err(|error| error.to_string())?;
        Ok(Some(output.success()))
    }
    async fn enter(
        &self,
        account: &Account,
        password: &SecretString,
    ) -> Result<Option<Session>, String> {
        if self.login(true, &account.name, password).await? {
            Ok(Some(Box::new(())))
        } else {
            Err("refused".to_owned())
        }
    }
}

async fn suite_on_the_example(processes_max: usize) {
    let folder = tempfile::tempdir().unwrap();
    let exec = example_exec(folder.path(), processes_max);
    let clerk = Operation::CreateAccount(new_account("clerk"));
    let Outcome::Done(receipt) = exec.apply(&clerk, &key()).await.unwrap() else {
        panic!()
    };
    let clerk = receipt.account.unwrap();
    let action = json!({"name": "plan", "account": clerk});
    let fixture = Fixture {
        entitlements: vec![
            EntitlementName::new("staff"),
            EntitlementName::new("admins"),
        ],
        attributes: Attributes::from([
            ("mail".to_owned(), json!("{name}@example.org")),
            ("title".to_owned(), json!("Clerk")),
            ("floors".to_owned(), json!([1, 2])),
        ]),
        changed: Attributes::from([("title".to_owned(), json!("Manager"))]),
        text_attribute: Some("title".to_owned()),
        name_bytes_max: Some(200),
        page_size: Some(6),
        action: Some(("add_document".to_owned(), action)),
        heir: Some(clerk),
        credential_action: Some(("add_token".to_owned(), json!({"account": "{account}"}))),
        ownership_action: Some((
            "add_document".to_owned(),
            json!({"name": "papers of {account}", "account": "{account}"}),
        )),
        door: Some(Arc::new(ExampleDoor(folder.path().join("directory.db")))),
        ..Fixture::new("conf")
    };
    let report = conformance::run(Arc::new(exec), fixture).await;
    assert!(
        report.is_good() && report.left_behind.is_empty(),
        "{report}"
    );
    assert_eq!(
        report.count(conformance::Verdict::NotApplicable),
        3,
        "only the by-hand tests, and no opinion when to renew: {report}"
    );
}

#[tokio::test]
async fn the_example_passes_the_suite() {
    suite_on_the_example(1).await;
}

#[tokio::test]
async fn the_example_passes_the_suite_with_three_processes_on_one_file() {
    suite_on_the_example(3).await;
}

#[tokio::test]
async fn the_example_keeps_documents_in_view() {
    let folder = tempfile::tempdir().unwrap();
    let exec = example_exec(folder.path(), 1);
    let mut made = Vec::new();
    for name in ["ann", "bob"] {
        let create = Operation::CreateAccount(new_account(name));
        let Outcome::Done(receipt) = exec.apply(&create, &key()).await.unwrap() else {
            panic!()
        };
        made.push(receipt.account.unwrap());
    }
    let [ann, bob] = made.as_slice() else {
        panic!()
    };
    let with = json!({"name": "plan", "account": ann});
    exec.apply(
        &Operation::Action {
            name: "add_document".to_owned(),
            with,
        },
        &key(),
    )
    .await
    .unwrap();
    let uses = async |account: &NativeId| {
        exec.dependents(&ObjectRef::Account(account.clone()))
            .await
            .unwrap()
            .value
            .len()
    };
    assert_eq!((uses(ann).await, uses(bob).await), (1, 0));
    let delete = Operation::DeleteAccount {
        account: ann.clone(),
    };
    assert_eq!(
        exec.apply(&delete, &key()).await.unwrap_err().kind,
        ErrorKind::Invalid
    );
    let transfer = Operation::TransferOwnership {
        from: ann.clone(),
        to: bob.clone(),
    };
    assert!(matches!(
        exec.apply(&transfer, &key()).await.unwrap(),
        Outcome::Done(_)
    ));
    assert_eq!((uses(ann).await, uses(bob).await), (0, 1));
    assert!(matches!(
        exec.apply(&delete, &key()).await.unwrap(),
        Outcome::Done(_)
    ));
}

#[tokio::test]
async fn a_database_that_cannot_be_opened_is_found_by_the_check() {
    let settings = json!({
        "command": ["python3", example()],
        "config": {"database": "/nonexistent/folder/directory.db"},
    });
    let exec = Exec::from_settings("example", settings).unwrap();
    let health = exec.check().await.unwrap();
    assert!(!health.is_good(), "{health:?}");
    let error = exec
        .get(&ObjectRef::AccountNamed("ann".to_owned()))
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unreachable, "{error}");
}

#[test]
fn a_connector_is_built_without_a_runtime_too() {
    let folder = tempfile::tempdir().unwrap();
    let exec = example_exec(folder.path(), 1);
    assert_eq!(exec.capabilities().operations.len(), 15);
    assert!(
        !folder.path().join("directory.db").exists(),
        "a greeting opens nothing"
    );
}
