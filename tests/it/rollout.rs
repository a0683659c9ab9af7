//! A policy comes into force while two real processes work: people are brought under it once both decide by it, and the one that
//! does it may be killed in the middle. Somebody of whom it is open who they are comes when that is settled.

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
         columns: { name: name, department: department, badge: badge }\nrequired: [name]\n",
    );
    write(
        "sources/vms.yaml",
        "name: vms\nkind: snapshot\nformat: csv\nkey: id\ntime_zone: UTC\n\
         columns: { name: name, badge: badge }\nrequired: [name]\n",
    );
    write(
        "correlation.yaml",
        "link_at: 100\nask_at: 60\nowner: role:hr\nrules:\n\
         \x20 - { name: badge, attributes: [badge], compare: identifier, agrees: 80 }\n",
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
        .map(|number| format!("E{number:03},Person {number},Sales,B{number}\n"))
        .collect();
    write("people.csv", &format!("id,name,department,badge\n{people}"));
    write("contractors.csv", "id,name,badge\nV1,Somebody,B3\n");
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
    let import = |file: &str, source: &str| {
        let file = installation.config().join(file);
        let file = file.to_str().unwrap();
        installation.call(&["import", file, "--source", source, "--as-of", "2026-03-01"]);
    };
    import("people.csv", "hr");
    until("everybody joined", || {
        effects(&installation, "grant", "staff") == PEOPLE
    })
    .await;
    assert_eq!(installation.call(&["policy", "rollout"]), json!([]));
    import("contractors.csv", "vms");

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
        (&done["looked"], &done["started"], &done["left_out"]),
        (
            &json!(PEOPLE),
            &json!(PEOPLE - 1),
            &json!({ "question": 1 })
        )
    );
    until("everybody has what the policy wants", || {
        effects(&installation, "grant", "house") == PEOPLE - 1
            && effects(&installation, "revoke", "staff") == PEOPLE - 1
    })
    .await;
    let id = done["rollout_id"].as_str().unwrap();
    let shown = installation.call(&["policy", "rollout", "show", id]);
    let left_out = &shown["people_left_out"]["people"];
    let questions = installation.call(&["correlation", "list"]);
    let question = questions[0]["review_id"].as_str().unwrap();
    assert_eq!(
        (
            &left_out[0]["identity_key"],
            &left_out[0]["about"],
            &left_out[1]
        ),
        (&json!("E003"), &json!(question), &Value::Null)
    );
    let made = installation.call(&["token", "create", "it", "--role", "read", "--days", "1"]);
    let (client, address) = (reqwest::Client::new(), &first.address);
    let page = async |more: &str| -> Value {
        let url = format!("{address}/v1/rollouts/{id}?limit=1{more}");
        let asked = client.get(url).bearer_auth(made["token"].as_str().unwrap());
        let answer: Value = asked.send().await.unwrap().json().await.unwrap();
        answer["people_left_out"].clone()
    };
    let listed = page("").await;
    assert_eq!(listed["items"], *left_out);
    let cursor = listed["next"].as_str().unwrap();
    assert_eq!(
        page(&format!("&cursor={cursor}")).await,
        json!({ "items": [], "next": null })
    );
    let reason = ["--reason", "met both"];
    installation.call(&[&["correlation", "separate", question][..], &reason].concat());
    until(
        "the one who was in question came, and the other began",
        || {
            effects(&installation, "grant", "house") == PEOPLE + 1
                && effects(&installation, "revoke", "staff") == PEOPLE
        },
    )
    .await;
    assert_eq!(rollout()["left_out"], json!({}));
    drop((first, second));
    installation.drop().await;
}
