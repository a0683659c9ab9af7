//! Certificates of OpenSSH that are issued anew, judged by a real server and the `ssh` of this machine.

use std::path::Path;
use std::process::Command as Program;

use connectors::connector::{Connector, NativeId};
use serde_json::json;
use uuid::Uuid;

use super::real::{calls, declared, folder, system};
use super::*;

on_both! {
    the_old_certificate_is_refused_and_the_new_one_lets_in,
    a_node_that_dies_leaves_one_certificate_and_it_lets_in,
}

fn lab(name: &str) -> String {
    let name = format!("TENURE_LAB_SSHD_{name}");
    std::env::var(&name).unwrap_or_else(|_| {
        panic!("`{name}` is not set; start the server: tests/lab/sshd.sh start DIR && . DIR/env")
    })
}

/// Keeps what the place shows now, as somebody has it who read it before.
fn kept(bundle: &Path, beside: &Path) {
    std::fs::create_dir(beside).unwrap();
    for part in ["key", "certificate"] {
        // With its mode: a key that others may read is none to ssh.
        std::fs::copy(bundle.join(part), beside.join(part)).unwrap();
    }
}

/// Whether a login with the key and the certificate that lie in a folder succeeds.
fn enters(folder: &Path) -> bool {
    let done = Program::new("ssh")
        .args(["-F", "none", "-T", "-o", "BatchMode=yes"])
        .args(["-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none"])
        .args([
            "-o",
            &format!("UserKnownHostsFile={}", lab("KNOWN_HOSTS")),
            "-o",
            &format!("CertificateFile={}", folder.join("certificate").display()),
            "-i",
            &folder.join("key").display().to_string(),
            "-p",
            &lab("PORT"),
            &format!("{}@127.0.0.1", lab("USER")),
            "echo hello",
        ])
        .output()
        .unwrap();
    if done.status.success() {
        assert_eq!(done.stdout, b"hello\n");
        return true;
    }
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(said.contains("Permission denied"), "{said}");
    false
}

/// The authority whose certificates the server takes, and whose list of the revoked it reads.
async fn authority() -> Arc<dyn Connector> {
    let authority = json!({
        "folder": format!("{}/authority", lab("FOLDER")),
        "create": true,
        "users": [lab("USER"), "nobody-here"],
        "hosts": [".example.org"],
        "trial": {
            "host": "127.0.0.1", "port": lab("PORT").parse::<u16>().unwrap(),
            "user": lab("USER"), "known_hosts": lab("KNOWN_HOSTS"),
            // A machine under load is slow.
            "timeout_ms": 60_000,
        },
    });
    let authority = system("ssh", authority);
    assert!(authority.check().await.unwrap().is_good());
    authority
}

/// What is declared before anything was issued. Another for each holder: all tests share the authority, and a rotation that
/// begins by itself is named after the credential.
fn first(holder: &str) -> String {
    format!("ssh_certificate:{holder}")
}

/// A rotation of the certificate of a holder.
fn of_certificates(holder: &str, waits: &[&str]) -> String {
    let users = format!("users: [{holder}]");
    let attributes = format!("attributes: {{ principals: [{}] }}", lab("USER"));
    let mut rotation = vec![users.as_str(), attributes.as_str(), "lifetime: 12h"];
    rotation.extend(waits);
    declared(&first(holder), "ssh_certificate", "reissue", &rotation)
}

async fn the_old_certificate_is_refused_and_the_new_one_lets_in(on_postgres: bool) {
    let root = tempfile::tempdir().unwrap();
    let holder = format!("deploy-{}", Uuid::new_v4().simple());
    let authority = authority().await;
    let place = folder(root.path(), &["certificate", "key", "id"]);
    let text = of_certificates(&holder, &["overlap: { reload: 1h }"]);
    let shop = Shop::real(on_postgres, authority, place, &first(&holder), &text).await;
    let bundle = root.path().join("app");
    let node = shop.company.node().await;

    // The first one: nobody had any before.
    shop.begin().await;
    shop.until(&node, Phase::Overlap).await;
    assert!(enters(&bundle));
    shop.jump(&node, shop.clock.now() + TimeDelta::hours(2));
    shop.until(&node, Phase::Closed).await;
    let one = root.path().join("one");
    kept(&bundle, &one);

    // The next: side by side for an hour, then the old one is refused.
    shop.begin().await;
    shop.until(&node, Phase::Overlap).await;
    assert!(enters(&one) && enters(&bundle), "side by side");
    shop.jump(&node, shop.clock.now() + TimeDelta::hours(2));
    let closed = shop.until(&node, Phase::Closed).await;
    assert!(closed.expires_at.is_some());
    assert!(!enters(&one) && enters(&bundle));
    let second = root.path().join("second");
    kept(&bundle, &second);

    // One that is taken back: it is the new one that is refused then.
    shop.begin().await;
    shop.until(&node, Phase::Overlap).await;
    let third = root.path().join("third");
    kept(&bundle, &third);
    assert!(enters(&third));
    shop.take_back("the bastion does not take it").await;
    shop.until(&node, Phase::RolledBack).await;
    assert!(!enters(&third) && enters(&second) && enters(&bundle));

    // Strangers have it: refused at once.
    shop.ask(true).await.unwrap();
    shop.until(&node, Phase::Closed).await;
    assert!(!enters(&second) && enters(&bundle));
    let key = std::fs::read_to_string(bundle.join("key")).unwrap();
    let line = key.lines().nth(3).unwrap().to_owned();
    shop.knows_none_of(&[line]).await;
    shop.close(node).await;
}

async fn a_node_that_dies_leaves_one_certificate_and_it_lets_in(on_postgres: bool) {
    let root = tempfile::tempdir().unwrap();
    let holder = format!("deploy-{}", Uuid::new_v4().simple());
    let (authority, looks_on) = (authority().await, authority().await);
    let place = folder(root.path(), &["certificate", "key", "id"]);
    let text = of_certificates(&holder, &[]);
    let systems = (authority, place);
    let shop = Shop::mortal(on_postgres, Some(&holder), systems, &first(&holder), &text).await;
    let bundle = root.path().join("app");
    let account = NativeId::new(&holder);
    let mut before = String::new();
    for has_effect in [false, true] {
        let mut deaths = 0;
        for call in calls(on_postgres) {
            let died = shop.survives(has_effect, call).await;
            let now = std::fs::read_to_string(bundle.join("id")).unwrap();
            assert_ne!(now, before, "call {call}");
            assert!(enters(&bundle), "call {call}");
            let listed = looks_on.credentials(&account).await.unwrap().value;
            let good = listed.iter().filter(|one| one.active == Some(true));
            let good: Vec<&str> = good.map(|one| one.id.as_str()).collect();
            assert_eq!(good, [now.as_str()], "call {call}");
            before = now;
            if !died {
                break;
            }
            deaths += 1;
        }
        assert!(deaths > 0);
    }
    shop.company.remove().await;
}
