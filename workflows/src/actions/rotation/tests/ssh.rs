//! Certificates of OpenSSH that are issued anew, judged by a real server and the `ssh` of this machine.

use std::path::Path;
use std::process::Command as Program;

use serde_json::json;
use uuid::Uuid;

use super::real::{declared, folder, system};
use super::*;

on_both! {
    the_old_certificate_is_refused_and_the_new_one_lets_in,
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

async fn the_old_certificate_is_refused_and_the_new_one_lets_in(on_postgres: bool) {
    let root = tempfile::tempdir().unwrap();
    let holder = format!("deploy-{}", Uuid::new_v4().simple());
    let authority = json!({
        "folder": format!("{}/authority", lab("FOLDER")),
        "create": true,
        "users": [lab("USER"), "nobody-here"],
        "hosts": [".example.org"],
        "trial": {
            "host": "127.0.0.1", "port": lab("PORT").parse::<u16>().unwrap(),
            "user": lab("USER"), "known_hosts": lab("KNOWN_HOSTS"),
        },
    });
    let authority = system("ssh", authority);
    // The server reads the list of the revoked that the authority keeps.
    assert!(authority.check().await.unwrap().is_good());
    let place = folder(root.path(), &["certificate", "key", "id"]);
    let id = "ssh_certificate:1";
    let rotation = [
        format!("users: [{holder}]"),
        format!("attributes: {{ principals: [{}] }}", lab("USER")),
        "lifetime: 12h".to_owned(),
        "overlap: { reload: 1h }".to_owned(),
    ];
    let rotation: Vec<&str> = rotation.iter().map(String::as_str).collect();
    let text = declared(id, "ssh_certificate", "reissue", &rotation);
    let shop = Shop::real(on_postgres, authority, place, id, &text).await;
    let bundle = root.path().join("app");
    let node = shop.company.node().await;

    // The first one: nobody had any before.
    shop.begin().await;
    shop.until(&node, Phase::Overlap).await;
    assert!(enters(&bundle));
    shop.jump(&node, shop.clock.now() + TimeDelta::hours(2));
    shop.until(&node, Phase::Closed).await;
    let first = root.path().join("first");
    kept(&bundle, &first);

    // The next: side by side for an hour, then the old one is refused.
    shop.begin().await;
    shop.until(&node, Phase::Overlap).await;
    assert!(enters(&first) && enters(&bundle), "side by side");
    shop.jump(&node, shop.clock.now() + TimeDelta::hours(2));
    let closed = shop.until(&node, Phase::Closed).await;
    assert!(closed.expires_at.is_some());
    assert!(!enters(&first) && enters(&bundle));
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
