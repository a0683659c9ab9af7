//! A policy comes into force while two real processes work: people are brought under it once both decide by it, and the one that
//! does it may be killed in the middle.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::program::Installation;

const PEOPLE: usize = 12;
/// What waits for a condition gives up after this.
const LIMIT: Duration = Duration::from_secs(60);

fn roles(entitlement: &str) -> String {
    format!(
        "roles:\n  - name: staff\n    when: \"true\"\n    grants: [{{ system: alpha, entitlement: {entitlement} }}]\n"
    )
}

fn configure(installation: &Installation) {
    let write = |name: &str, text: &str| installation.write(name, text);
    write(
        "tenure.yaml",
        "store: { url: 'env:TENURE_IT_STORE' }\nnode: { lease: 2s }\n",
    );
    write(
        "sources/hr.yaml",
        "name: hr\nkind: snapshot\nformat: csv\nkey: id\ntime_zone: UTC\n\
         columns: { name: name, department: department }\nrequired: [name]\n",
    );
    let plugin = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults/target.py");
    let system = json!({
        "name": "alpha",
        "kind": "exec",
        "settings": {
            "command": ["python3", plugin],
            "config": {
                "log": installation.folder().join("alpha.effects"), "entitlements": ["staff", "house"],
            },
        },
        "account": { "name": "lower(identity.key)" },
    });
    write("systems/alpha.yaml", &system.to_string());
    write("policy/roles.yaml", &roles("staff"));
    let people: String = (0..PEOPLE)
        .map(|number| format!("E{number:03},Person {number},Sales\n"))
        .collect();
    write("people.csv", &format!("id,name,department\n{people}"));
}

/// How often each right was given and taken, by the system's own log.
fn effects(installation: &Installation, op: &str, entitlement: &str) -> usize {
    let log = std::fs::read_to_string(installation.folder().join("alpha.effects"));
    let log = log.unwrap_or_default();
    let effects = log.lines().map(|line| serde_json::from_str(line).unwrap());
    effects
        .filter(|effect: &Value| effect["op"] == op && effect["entitlement"] == entitlement)
        .count()
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < LIMIT, "it does not happen: {what}");
        // sleeps: between two looks at other processes
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn everybody_comes_under_a_policy_once_both_nodes_decide_by_it() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let installation = Installation::on_postgres().await;
    configure(&installation);
    let first = installation.serve();
    let second = installation.serve();
    let people = installation.config().join("people.csv");
    let people = people.to_str().unwrap();
    installation.call(&["import", people, "--source", "hr", "--as-of", "2026-03-01"]);
    until("everybody joined", || {
        effects(&installation, "grant", "staff") == PEOPLE
    })
    .await;
    assert_eq!(installation.call(&["policy", "rollout"]), json!([]));

    installation.write("policy/roles.yaml", &roles("house"));
    drop(first);
    let first = installation.serve();
    let rollout = || installation.call(&["policy", "rollout"])[0].clone();
    // The other node still decides by the policy before.
    until("it waits for the other node", || {
        rollout()["waits_for"]
            .as_array()
            .is_some_and(|nodes| nodes.len() == 1)
    })
    .await;
    // sleeps: nothing happens meanwhile
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(rollout()["status"], "pending");
    assert_eq!(effects(&installation, "grant", "house"), 0);

    drop(second);
    let second = installation.serve();
    until("everybody was looked at", || rollout()["status"] == "done").await;
    let done = rollout();
    assert_eq!(
        (&done["looked"], &done["started"]),
        (&json!(PEOPLE), &json!(PEOPLE))
    );
    until("everybody has what the policy wants", || {
        effects(&installation, "grant", "house") == PEOPLE
            && effects(&installation, "revoke", "staff") == PEOPLE
    })
    .await;
    drop((first, second));
    installation.drop().await;
}
