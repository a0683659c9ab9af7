//! Against a real OpenSSH server, over real connections, and judged by `ssh-keygen`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use std::path::Path;
use std::process::Command;

use secrecy::{ExposeSecret as _, SecretString};
use ssh_key::private::Ed25519Keypair;
use ssh_key::{LineEnding, PrivateKey};
use uuid::Uuid;

use super::held::serial_of;
use super::*;
use crate::conformance::{Fixture, Verdict as Passed, run};
use crate::connector::{HandOver, Material, Minted, NewCredential, Slot, StoredCredential};
use crate::secret::SecretRef;

fn lab(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("`{name}` is not set; start the server: tests/lab/sshd.sh start /tmp/lab-sshd && . /tmp/lab-sshd/env")
    })
}

/// The authority that the lab's server trusts. Its tests share it, as several processes would.
async fn ssh() -> Ssh {
    let settings = json!({
        "folder": format!("{}/authority", lab("TENURE_LAB_SSHD_FOLDER")), "create": true,
        "users": [lab("TENURE_LAB_SSHD_USER"), "nobody-here"], "hosts": [".example.org"],
        "trial": {
            "host": "127.0.0.1", "port": lab("TENURE_LAB_SSHD_PORT").parse::<u16>().unwrap(),
            "user": lab("TENURE_LAB_SSHD_USER"), "known_hosts": lab("TENURE_LAB_SSHD_KNOWN_HOSTS"),
            // A machine under load is slow.
            "timeout_ms": 60_000,
        },
    });
    let ssh = Ssh::from_settings("ssh", settings).unwrap();
    let health = ssh.check().await.unwrap();
    assert!(health.is_good(), "{health:?}");
    ssh
}

fn fresh() -> String {
    Uuid::new_v4().simple().to_string()
}

fn request(holder: &str, material: Material, attributes: &Value) -> (NewCredential, Slot) {
    let (into, slot) = HandOver::slot();
    let new = NewCredential {
        account: NativeId::new(holder),
        kind: CredentialKind::SshCertificate,
        material,
        attributes: serde_json::from_value(attributes.clone()).unwrap(),
        lifetime_s: None,
        label: None,
        into,
    };
    (new, slot)
}

fn key(text: &str) -> OperationKey {
    OperationKey {
        idempotency: text.to_owned(),
        attempt: 1,
        epoch: 1,
    }
}

async fn issue(ssh: &Ssh, new: (NewCredential, Slot)) -> Minted {
    let outcome = ssh
        .apply(&Operation::IssueCredential(new.0), &key(&fresh()))
        .await
        .unwrap();
    assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
    new.1.take().unwrap()
}

/// Logs in as somebody would: with the key in a file, and its certificate if there is one.
fn log_in(folder: &Path, secret: &str, certificate: Option<&str>) -> (bool, String) {
    let path = folder.join(fresh());
    disk::create(&path, secret.as_bytes(), 0o600).unwrap();
    let mut command = Command::new("ssh");
    command.args([
        "-F",
        "none",
        "-T",
        "-o",
        "BatchMode=yes",
        "-o",
        "IdentitiesOnly=yes",
        "-o",
        "IdentityAgent=none",
    ]);
    command.arg("-o").arg(format!(
        "UserKnownHostsFile={}",
        lab("TENURE_LAB_SSHD_KNOWN_HOSTS")
    ));
    command
        .arg("-i")
        .arg(&path)
        .args(["-p", &lab("TENURE_LAB_SSHD_PORT")]);
    if let Some(certificate) = certificate {
        let file = folder.join(fresh());
        std::fs::write(&file, certificate).unwrap();
        command
            .arg("-o")
            .arg(format!("CertificateFile={}", file.display()));
    }
    command
        .arg(format!("{}@127.0.0.1", lab("TENURE_LAB_SSHD_USER")))
        .arg("echo hello");
    let done = command.output().unwrap();
    let said =
        String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    (done.status.success() && said.contains("hello"), said)
}

fn keygen(arguments: &[&str]) -> (bool, String) {
    let done = Command::new("ssh-keygen").args(arguments).output().unwrap();
    let said =
        String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    (done.status.success(), said)
}

#[tokio::test]
async fn the_conformance_suite_passes() {
    let pair = PrivateKey::from(Ed25519Keypair::from_seed(&rand::random()));
    let fixture = Fixture {
        holder: Some(NativeId::new(format!("holder-{}-", fresh()))),
        issue_attributes: serde_json::from_value(
            json!({"principals": [lab("TENURE_LAB_SSHD_USER")]}),
        )
        .unwrap(),
        public_half: Some(pair.public_key().to_openssh().unwrap()),
        missing_account: Some(NativeId::new("nobody")),
        ..Fixture::new("c")
    };
    let report = run(Arc::new(ssh().await), fixture).await;
    assert!(report.is_good(), "{report}");
    for name in [
        "issue a credential: halves handed over, one for one key",
        "issue, answer lost: found by its key",
        "deactivate and activate a credential twice each",
        "an issued credential is tried, both ways",
    ] {
        let test = report.tests.iter().find(|test| test.name == name).unwrap();
        assert_eq!(test.verdict, Passed::Passed, "{report}");
    }
}

#[tokio::test]
async fn a_certificate_lets_in_until_it_is_revoked_or_has_ended() {
    let (ssh, folder) = (ssh().await, tempfile::tempdir().unwrap());
    let user = lab("TENURE_LAB_SSHD_USER");
    let good = json!({ "principals": [user] });
    let minted = issue(&ssh, request("deploy", Material::BySystem, &good)).await;
    let (secret, certificate) = (minted.secret.unwrap(), minted.public.unwrap());
    let (entered, said) = log_in(folder.path(), secret.expose_secret(), Some(&certificate));
    assert!(entered, "{said}");
    assert!(
        !log_in(folder.path(), secret.expose_secret(), None).0,
        "the key alone is nobody's"
    );

    let elsewhere = json!({ "principals": ["nobody-here"] });
    let other = issue(&ssh, request("deploy", Material::BySystem, &elsewhere)).await;
    let other_key = other.secret.unwrap();
    assert!(
        !log_in(
            folder.path(),
            other_key.expose_secret(),
            other.public.as_deref()
        )
        .0,
        "for somebody else"
    );
    assert!(
        !log_in(folder.path(), other_key.expose_secret(), Some(&certificate)).0,
        "the key of another"
    );

    let (mut short, slot) = request("deploy", Material::BySystem, &good);
    short.lifetime_s = Some(1);
    let short = issue(&ssh, (short, slot)).await;
    // sleeps: until a certificate of one second has ended, for the real clock of the server
    tokio::time::sleep(std::time::Duration::from_millis(2_100)).await;
    assert!(
        !log_in(
            folder.path(),
            short.secret.unwrap().expose_secret(),
            short.public.as_deref()
        )
        .0,
        "it has ended"
    );

    let id = minted.credential.id;
    let destroy = |account: &str| Operation::DestroyCredential {
        account: NativeId::new(account),
        credential: id.clone(),
    };
    ssh.apply(&destroy("another"), &key("x")).await.unwrap();
    assert!(
        log_in(folder.path(), secret.expose_secret(), Some(&certificate)).0,
        "it is not another's"
    );
    let file = folder.path().join("cert.pub");
    std::fs::write(&file, &certificate).unwrap();
    let krl = format!("{}/authority/krl", lab("TENURE_LAB_SSHD_FOLDER"));
    assert!(keygen(&["-Q", "-f", &krl, file.to_str().unwrap()]).0);
    assert!(matches!(
        ssh.apply(&destroy("deploy"), &key("x")).await.unwrap(),
        Outcome::Done(_)
    ));
    let (entered, said) = log_in(folder.path(), secret.expose_secret(), Some(&certificate));
    assert!(!entered && said.contains("Permission denied"), "{said}");
    let listed = ssh.credentials(&NativeId::new("deploy")).await.unwrap();
    assert!(!listed.value.iter().any(|one| one.id == id), "it is gone");
    let (kept, said) = keygen(&["-Q", "-f", &krl, file.to_str().unwrap()]);
    assert!(!kept && said.contains("REVOKED"), "{said}");
}

#[tokio::test]
async fn a_key_in_authorized_keys_is_switched_and_the_old_one_refused() {
    ssh().await;
    let folder = tempfile::tempdir().unwrap();
    let settings = json!({
        "root": format!("{}/credentials", lab("TENURE_LAB_SSHD_FOLDER")),
        "bundles": {"keys": {"parts": {"authorized_keys": {"file": "authorized_keys"}}}},
    });
    let files = crate::file::Files::from_settings("files", settings).unwrap();
    let pair = || {
        let pair = PrivateKey::from(Ed25519Keypair::from_seed(&rand::random()));
        let line = pair.public_key().to_openssh().unwrap();
        (pair.to_openssh(LineEnding::LF).unwrap(), line)
    };
    let ((old, old_line), (new, new_line)) = (pair(), pair());
    let enters = |secret: &str| log_in(folder.path(), secret, None).0;
    let put = async |lines: &str| {
        let credential = CredentialId::new(format!("ssh_key:{}", fresh()));
        let stored = StoredCredential {
            account: NativeId::new("keys"),
            credential: credential.clone(),
            parts: [(
                "authorized_keys".to_owned(),
                SecretString::from(lines.to_owned()),
            )]
            .into(),
        };
        files
            .apply(&Operation::StoreCredential(stored), &key("x"))
            .await
            .unwrap();
        let activate = Operation::ActivateCredential {
            account: NativeId::new("keys"),
            credential: credential.clone(),
        };
        let outcome = files.apply(&activate, &key("x")).await.unwrap();
        assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
        credential
    };
    put(&format!("{old_line}\n")).await;
    assert!(enters(&old) && !enters(&new));
    let both = put(&format!("{old_line}\n{new_line}\n")).await;
    assert!(enters(&old) && enters(&new), "side by side");
    put(&format!("{new_line}\n")).await;
    assert!(!enters(&old) && enters(&new));
    let back = Operation::ActivateCredential {
        account: NativeId::new("keys"),
        credential: both,
    };
    files.apply(&back, &key("x")).await.unwrap();
    assert!(enters(&old), "the way back");
}

#[tokio::test]
async fn a_hosts_certificate_says_what_it_should_and_bad_requests_are_refused() {
    let (ssh, folder) = (ssh().await, tempfile::tempdir().unwrap());
    let path = folder.path().join("k");
    let path = path.to_str().unwrap();
    let (made, said) = keygen(&["-q", "-t", "ecdsa", "-b", "384", "-N", "", "-f", path]);
    assert!(made, "{said}");
    let public = std::fs::read_to_string(format!("{path}.pub")).unwrap();
    let host = json!({"usage": "host", "principals": ["a.example.org"]});
    let minted = issue(
        &ssh,
        request("host-a", Material::Public(public.clone()), &host),
    )
    .await;
    assert!(minted.secret.is_none());
    let file = folder.path().join("host-cert.pub");
    std::fs::write(&file, minted.public.unwrap()).unwrap();
    let (shown, said) = keygen(&["-L", "-f", file.to_str().unwrap()]);
    let number = serial_of(&minted.credential.id).unwrap().to_string();
    assert!(shown, "{said}");
    for part in [
        "host certificate",
        "Key ID: \"host-a\"",
        "a.example.org",
        &number,
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
    assert!(!said.contains("permit-pty"), "{said}");

    keygen(&[
        "-q",
        "-t",
        "rsa",
        "-b",
        "1024",
        "-N",
        "",
        "-f",
        &format!("{path}-weak"),
    ]);
    let weak = std::fs::read_to_string(format!("{path}-weak.pub")).unwrap();
    for (material, attributes, why) in [
        (Material::Public(weak), host.clone(), "the key is weak"),
        (
            Material::Public("no key".to_owned()),
            host.clone(),
            "one line of a public SSH key",
        ),
        (
            Material::Public(public.clone()),
            json!({}),
            "give 1 to 100 `principals`",
        ),
        (
            Material::Public(public.clone()),
            json!({"principals": ["wheel"]}),
            "`users`",
        ),
        (
            Material::Public(public.clone()),
            json!({"usage": "host", "principals": ["a.example.com"]}),
            "`hosts`",
        ),
        (
            Material::Public(public.clone()),
            json!({"usage": "all"}),
            "`usage` is no attribute",
        ),
        (
            Material::Public(public.clone()),
            json!({"principals": "root"}),
            "`principals` is no attribute",
        ),
        (
            Material::Public(public.clone()),
            json!({"usage": "host", "principals": ["a.example.org,b.example.org"]}),
            "`hosts`",
        ),
    ] {
        let (new, slot) = request("host-a", material, &attributes);
        let error = ssh
            .apply(&Operation::IssueCredential(new), &key(&fresh()))
            .await
            .unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
        assert!(error.message.contains(why), "{why}: {error}");
        assert!(slot.take().is_none());
    }
    let (mut long, _) = request("host-a", Material::Public(public), &host);
    long.lifetime_s = Some(u64::MAX);
    let error = ssh
        .apply(&Operation::IssueCredential(long), &key(&fresh()))
        .await
        .unwrap_err();
    assert!(error.message.contains("lifetime_s_max"), "{error}");
}

#[tokio::test]
async fn a_server_that_is_away_refuses_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let settings = json!({
        "folder": folder.path().join("ca"), "create": true, "users": ["*"],
        "trial": {"host": "127.0.0.1", "port": 1, "known_hosts": "/dev/null"},
    });
    let ssh = Ssh::from_settings("ssh", settings).unwrap();
    let minted = issue(
        &ssh,
        request("a", Material::BySystem, &json!({"principals": ["a"]})),
    )
    .await;
    let file = folder.path().join("key");
    std::fs::write(&file, minted.secret.unwrap().expose_secret()).unwrap();
    let claim = Claim::CredentialRefused {
        account: NativeId::new("a"),
        credential: minted.credential.id,
        secret: SecretRef::File(file.display().to_string()),
    };
    let error = ssh.verify(&claim).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Transient, "{error}");
    let left = std::fs::read_dir(folder.path().join("ca"))
        .unwrap()
        .flatten();
    assert!(
        !left
            .into_iter()
            .any(|it| it.file_name().to_string_lossy().starts_with(".trial"))
    );
}
