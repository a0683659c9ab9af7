//! SCIM on the program as it is shipped: the suite of others, and being killed while it writes. On both databases.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use reqwest::Client;
use serde_json::{Value, json};

use crate::program::Installation;

const PYTHON: &str = "TENURE_LAB_SCIM_PYTHON";
/// Writers at once while the program is killed, and how often it is.
const WRITERS: usize = 4;
const KILLS: usize = 3;
/// How many writes are acknowledged before each kill.
const WRITES_BEFORE_KILL: usize = 40;

/// The program with a source that is pushed, and the token it is pushed with.
fn configured(installation: &Installation) -> String {
    let write = |name: &str, text: &str| installation.write(name, text);
    write("tenure.yaml", "store: { url: 'env:TENURE_IT_STORE' }\n");
    write(
        "sources/idp.yaml",
        "name: idp\nkind: scim\ntokens: [idp]\ntime_zone: UTC\nkey: id\n\
         columns:\n  name: displayName\n  department: department\n  groups: { column: groups.display, type: list }\n",
    );
    write(
        "systems/badges.yaml",
        "name: badges\nkind: manual\nsettings:\n  assignee: role:facilities\n  due: 1d\n  where: room 1.07\n  \
         operations: [create_account, disable_account]\naccount: { name: identity.key }\n",
    );
    write(
        "policy/roles.yaml",
        "roles:\n  - { name: everybody, when: \"true\", accounts: [badges] }\n",
    );
    let made = installation.call(&["token", "create", "idp", "--role", "provision"]);
    made["token"].as_str().unwrap().to_owned()
}

/// Every check of scim2-tester passes. `TENURE_SCIM_REPORT` names a folder that keeps the reports.
async fn the_suite_of_others_passes(name: &str, installation: Installation) {
    let python = std::env::var(PYTHON).unwrap_or_else(|_| {
        panic!("`{PYTHON}` is not set: run `tests/lab/scim.sh start DIR`, then `. DIR/env`")
    });
    let token = configured(&installation);
    let node = installation.serve();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab/scim_check.py");
    let done = Command::new(python)
        .arg(script)
        .arg(format!("{}/scim/v2", node.address))
        .env("TENURE_SCIM_TOKEN", &token)
        .output()
        .unwrap();
    let report = String::from_utf8_lossy(&done.stdout).into_owned();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    if let Ok(folder) = std::env::var("TENURE_SCIM_REPORT") {
        std::fs::write(Path::new(&folder).join(format!("{name}.txt")), &report).unwrap();
    }
    assert!(done.status.success(), "{report}\n{said}");
    let counts: BTreeMap<String, u64> =
        serde_json::from_str(report.lines().last().unwrap()).unwrap();
    // Fewer would mean that the suite found nothing to check.
    assert!(counts.values().sum::<u64>() > 80, "{counts:?}");
    drop(node);
    installation.drop().await;
}

#[tokio::test]
async fn the_suite_of_others_passes_on_sqlite() {
    the_suite_of_others_passes("sqlite", Installation::on_sqlite()).await;
}

#[tokio::test]
async fn the_suite_of_others_passes_on_postgres() {
    the_suite_of_others_passes("postgres", Installation::on_postgres().await).await;
}

/// What one writer was told.
#[derive(Default)]
struct Acknowledged {
    /// Users by identifier, with the title that was last acknowledged and those sent since without an answer.
    users: BTreeMap<String, (String, Vec<String>)>,
    deleted: Vec<String>,
}

async fn write(
    client: Client,
    base: String,
    token: String,
    writer: usize,
    done: Arc<AtomicUsize>,
) -> Acknowledged {
    let mut told = Acknowledged::default();
    let send = async |method: reqwest::Method, path: String, body: Value| {
        let request = client
            .request(method, format!("{base}{path}"))
            .bearer_auth(&token);
        let request = request
            .header("content-type", "application/scim+json")
            .body(body.to_string());
        let answer = request.send().await.ok()?;
        let status = answer.status().as_u16();
        let body = answer.bytes().await.ok()?;
        done.fetch_add(1, Ordering::SeqCst);
        Some((
            status,
            serde_json::from_slice::<Value>(&body).unwrap_or_default(),
        ))
    };
    for number in 0.. {
        let name = format!("{writer}-{number}-{}", uuid::Uuid::new_v4().simple());
        let user = json!({
            "schemas": ["urn:ietf:params:scim:schemas:core:2.0:User"], "userName": name, "displayName": name, "title": "0",
        });
        let Some((status, made)) = send(reqwest::Method::POST, "/Users".to_owned(), user).await
        else {
            return told;
        };
        assert_eq!(status, 201, "{made}");
        let id = made["id"].as_str().unwrap().to_owned();
        told.users.insert(id.clone(), ("0".to_owned(), Vec::new()));
        let path = format!("/Users/{id}");
        for title in ["1", "2"] {
            let operations = json!([{ "op": "replace", "path": "title", "value": title }]);
            let body = json!({ "schemas": ["urn:ietf:params:scim:api:messages:2.0:PatchOp"], "Operations": operations });
            let known = told.users.get_mut(&id).unwrap();
            known.1.push(title.to_owned());
            let Some((status, answer)) = send(reqwest::Method::PATCH, path.clone(), body).await
            else {
                return told;
            };
            assert_eq!(status, 200, "{answer}");
            *known = (title.to_owned(), Vec::new());
        }
        if number % 3 == 0 {
            told.users.remove(&id);
            let Some((status, _)) = send(reqwest::Method::DELETE, path, Value::Null).await else {
                return told;
            };
            assert_eq!(status, 204);
            told.deleted.push(id);
        }
    }
    told
}

/// Nothing that was acknowledged is lost when the program is killed in the middle of writes.
async fn nothing_acknowledged_is_lost(installation: Installation) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let token = configured(&installation);
    let mut all = Acknowledged::default();
    for _ in 0..KILLS {
        let mut node = installation.serve();
        let base = format!("{}/scim/v2", node.address);
        let done = Arc::new(AtomicUsize::new(0));
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let client = Client::builder()
                    .no_proxy()
                    .timeout(Duration::from_secs(20))
                    .build()
                    .unwrap();
                tokio::spawn(write(
                    client,
                    base.clone(),
                    token.clone(),
                    writer,
                    Arc::clone(&done),
                ))
            })
            .collect();
        while done.load(Ordering::SeqCst) < WRITES_BEFORE_KILL {
            // sleeps: between two looks
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        node.process.kill().unwrap();
        node.process.wait().unwrap();
        for writer in writers {
            let told = writer.await.unwrap();
            all.users.extend(told.users);
            all.deleted.extend(told.deleted);
        }
    }
    let node = installation.serve();
    let client = Client::builder().no_proxy().build().unwrap();
    let get = async |path: &str| {
        let url = format!("{}/scim/v2{path}", node.address);
        let answer = client.get(url).bearer_auth(&token).send().await.unwrap();
        (
            answer.status().as_u16(),
            answer.json::<Value>().await.unwrap(),
        )
    };
    for (id, (title, unanswered)) in &all.users {
        let (status, user) = get(&format!("/Users/{id}")).await;
        assert_eq!(status, 200, "`{id}` was acknowledged and is gone");
        let found = user["title"].as_str().unwrap();
        let right = found == title || unanswered.iter().any(|title| title == found);
        assert!(
            right,
            "`{id}` has `{found}`; `{title}` was acknowledged, {unanswered:?} were sent"
        );
    }
    for id in &all.deleted {
        assert_eq!(
            get(&format!("/Users/{id}")).await.0,
            404,
            "`{id}` came back"
        );
    }
    assert!(all.users.len() > KILLS * 5, "{}", all.users.len());
    // What was acknowledged of a person is known of the person, too.
    let (id, _) = all.users.first_key_value().unwrap();
    let person = installation.call(&["identity", "show", id]);
    assert_eq!(person["identity"]["source"], "idp", "{person}");
    drop(node);
    installation.drop().await;
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_on_sqlite() {
    nothing_acknowledged_is_lost(Installation::on_sqlite()).await;
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_on_postgres() {
    nothing_acknowledged_is_lost(Installation::on_postgres().await).await;
}
