//! Against moto, and through a wire that loses answers.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use std::process::Command;
use std::sync::{Arc, Mutex};

use reqwest::Url;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use uuid::Uuid;

use super::*;
use crate::asked::{activate, app, does, holds, id, is_already, refused, state, store};
use crate::conformance::{Fixture, run};
use crate::secret::SecretRef;

fn lab(name: &str) -> String {
    let name = format!("TENURE_LAB_MOTO_{name}");
    std::env::var(&name).unwrap_or_else(|_| {
        panic!("`{name}` is not set; start the server: tests/lab/moto.sh start /tmp/lab-moto && . /tmp/lab-moto/env")
    })
}

/// Tenure at AWS, with one secret `app` that was made with this value.
struct Bed {
    secret: String,
    folder: tempfile::TempDir,
}

/// A call as the administrator, who Tenure is here too.
async fn call(secrets: &Secrets, name: &str, arguments: Value) -> Value {
    match secrets.call(name, arguments).await {
        Ok(answer) => answer,
        Err(Failure::Refused { why, .. }) => json!({ "refused": why }),
        Err(failure) => panic!("{failure:?}"),
    }
}

const READ: &str = r#"
import sys, boto3
client = boto3.client("secretsmanager", endpoint_url=sys.argv[1], region_name="us-east-1")
# moto believes the first version to be meant when none is named.
print(client.get_secret_value(SecretId=sys.argv[2], VersionStage="AWSCURRENT")["SecretString"])
"#;

impl Bed {
    async fn new(value: &str) -> Self {
        let bed = Self {
            secret: format!("prod/{}", Uuid::new_v4().simple()),
            folder: tempfile::tempdir().unwrap(),
        };
        let new = json!({
            "Name": bed.secret,
            "SecretString": value,
            "ClientRequestToken": Uuid::new_v4().to_string(),
        });
        let made = call(&bed.secrets(), "CreateSecret", new).await;
        assert!(made["ARN"].is_string(), "{made}");
        bed
    }

    fn at(&self, url: &str) -> Secrets {
        let settings = json!({
            "access_key_id": format!("file:{}", lab("ID")),
            "secret_access_key": format!("file:{}", lab("SECRET")),
            "secrets_url": url, "sts_url": lab("URL"), "timeout_ms": 60_000,
            "secrets": { "app": {
                "secret": self.secret,
                "parts": { "user": "username", "password": "password" },
            } },
            "scratch": self.folder.path().join("scratch"),
        });
        Secrets::from_settings("cloud", settings).unwrap()
    }

    fn secrets(&self) -> Secrets {
        self.at(&lab("URL"))
    }

    /// What a program reads at a stage.
    async fn read(&self, stage: &str) -> Value {
        let asked = json!({ "SecretId": self.secret, "VersionStage": stage });
        let answer = call(&self.secrets(), "GetSecretValue", asked).await;
        match answer["SecretString"].as_str() {
            Some(text) => serde_json::from_str(text).unwrap(),
            None => answer,
        }
    }

    /// What a program reads that uses AWS's own client.
    fn read_by_their_own(&self) -> Value {
        let half = |name: &str| std::fs::read_to_string(lab(name)).unwrap();
        let done = Command::new(lab("PYTHON"))
            .args(["-c", READ, &lab("URL"), &self.secret])
            .env("AWS_ACCESS_KEY_ID", half("ID").trim())
            .env("AWS_SECRET_ACCESS_KEY", half("SECRET").trim())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{said}");
        serde_json::from_slice(&done.stdout).unwrap()
    }
}

fn key() -> OperationKey {
    OperationKey {
        idempotency: "x".to_owned(),
        attempt: 1,
        epoch: 1,
    }
}

fn destroy(credential: &str) -> Operation {
    Operation::DestroyCredential {
        account: app(),
        credential: id(credential),
    }
}

#[tokio::test]
async fn the_conformance_suite_passes() {
    let bed = Bed::new("{}").await;
    let prefix = Uuid::new_v4().simple().to_string()[..12].to_owned();
    let fixture = Fixture {
        missing_account: Some(NativeId::new("nobody")),
        ..Fixture::new(prefix)
    };
    let report = run(Arc::new(bed.secrets()), fixture).await;
    assert!(report.is_good(), "{report}");
}

#[tokio::test]
async fn a_version_waits_becomes_current_and_can_be_switched_back() {
    let bed = Bed::new(r#"{"username": "old", "password": "theirs", "host": "db.example"}"#).await;
    let secrets = bed.secrets();
    assert_eq!(
        refused(&secrets, &activate("app.1")).await.kind,
        ErrorKind::NotFound
    );
    does(&secrets, &store("app.1", "one")).await;
    is_already(&secrets, &store("app.1", "one")).await;
    let other = refused(&secrets, &store("app.1", "another")).await;
    assert_eq!(other.kind, ErrorKind::Conflict);
    // Nobody reads it yet, and what is not ours in it comes along.
    assert_eq!(bed.read(CURRENT).await["password"], "theirs");
    assert_eq!(
        bed.read(PENDING).await,
        json!({ "username": "ann", "password": "one", "host": "db.example" })
    );
    assert_eq!(state(&secrets, "app.1").await, (true, false, true));
    does(&secrets, &activate("app.1")).await;
    is_already(&secrets, &activate("app.1")).await;
    assert_eq!(bed.read(CURRENT).await["password"], "one");
    assert_eq!(bed.read(PREVIOUS).await["password"], "theirs");
    assert_eq!(state(&secrets, "app.1").await, (true, true, false));

    does(&secrets, &store("app.2", "two")).await;
    let receipt = does(&secrets, &activate("app.2")).await;
    assert_eq!(receipt.before.unwrap()["credential"], "app.1");
    assert_eq!(bed.read(CURRENT).await["password"], "two");
    assert_eq!(bed.read(PREVIOUS).await["password"], "one");
    // The way back, and forth.
    does(&secrets, &activate("app.1")).await;
    assert_eq!(bed.read(CURRENT).await["password"], "one");
    assert_eq!(bed.read(PREVIOUS).await["password"], "two");
    does(&secrets, &activate("app.2")).await;
    let listed = secrets.credentials(&app()).await.unwrap().value;
    let listed: Vec<_> = listed
        .iter()
        .map(|one| (one.id.as_str(), one.active))
        .collect();
    assert_eq!(listed, [("app.1", Some(false)), ("app.2", Some(true))]);

    let read = refused(&secrets, &destroy("app.2")).await;
    assert_eq!(read.kind, ErrorKind::Denied);
    does(&secrets, &destroy("app.1")).await;
    is_already(&secrets, &destroy("app.1")).await;
    assert_eq!(state(&secrets, "app.1").await, (false, false, true));
    assert_eq!(
        bed.read(PREVIOUS).await["refused"],
        "ResourceNotFoundException"
    );
    assert_eq!(bed.read_by_their_own()["password"], "two");
    let listed = secrets.credentials(&app()).await.unwrap().value;
    assert_eq!(listed.len(), 1);
    // Kept again under the same name it has its label again.
    does(&secrets, &store("app.1", "one")).await;
    assert_eq!(state(&secrets, "app.1").await, (true, false, true));
    assert_eq!(bed.read(CURRENT).await["password"], "two");
}

#[tokio::test]
async fn what_is_kept_can_be_read_here_and_no_secret_is_in_an_answer() {
    let bed = Bed::new("{}").await;
    let secrets = bed.secrets();
    let receipt = does(&secrets, &store("app.1", "hunter2")).await;
    assert!(!serde_json::to_string(&receipt).unwrap().contains("hunter2"));
    let stored = Claim::CredentialStored {
        account: app(),
        credential: id("app.1"),
    };
    let (kept, seen) = holds(&secrets, &stored).await;
    assert!(kept && !seen.to_string().contains("hunter2"), "{seen}");
    let reference: SecretRef = serde_json::from_value(seen["parts"]["password"].clone()).unwrap();
    assert_eq!(reference.resolve().unwrap().expose_secret(), "hunter2");
    does(&secrets, &destroy("app.1")).await;
    assert!(reference.resolve().is_err());
    assert!(secrets.check().await.unwrap().is_good());

    // Too much to keep, the wrong parts, no JSON.
    let error = refused(&secrets, &store("app.2", &"x".repeat(70_000))).await;
    assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
    let Operation::StoreCredential(mut stored) = store("app.2", "x") else {
        panic!();
    };
    stored.parts.remove("user");
    let error = refused(&secrets, &Operation::StoreCredential(stored)).await;
    assert!(error.message.contains("was given password"), "{error}");
    let plain = Bed::new("hunter2").await;
    let error = refused(&plain.secrets(), &store("app.1", "x")).await;
    assert!(error.message.contains("no JSON object"), "{error}");
    assert!(!error.whole().contains("hunter2"));
    // Somebody wants it deleted; somebody has never made it.
    let gone = json!({ "SecretId": plain.secret });
    call(&plain.secrets(), "DeleteSecret", gone).await;
    let error = refused(&plain.secrets(), &store("app.1", "x")).await;
    assert!(error.message.contains("going to be deleted"), "{error}");
    let never = Bed {
        secret: "prod/never".to_owned(),
        folder: tempfile::tempdir().unwrap(),
    };
    let error = refused(&never.secrets(), &store("app.1", "x")).await;
    assert_eq!(error.kind, ErrorKind::NotFound, "{error}");
    assert!(!never.secrets().check().await.unwrap().is_good());
}

#[tokio::test]
async fn sixteen_versions_are_kept_and_no_more() {
    let bed = Bed::new("{}").await;
    let secrets = bed.secrets();
    for number in 0..VERSIONS_MAX {
        does(&secrets, &store(&format!("app.{number}"), "x")).await;
    }
    let error = refused(&secrets, &store("app.x", "x")).await;
    assert_eq!(error.kind, ErrorKind::Full, "{error}");
    does(&secrets, &destroy("app.3")).await;
    does(&secrets, &store("app.x", "x")).await;
}

/// What happens on the wire to a call of this name, once.
#[derive(Clone, Copy, PartialEq)]
enum Wire {
    /// It arrives, and its answer does not.
    Lost,
    /// It arrives after somebody else has made another version current.
    Late,
}

/// Stands before moto, and does that to one call.
async fn wire(name: &'static str, does: Wire, by_hand: Secrets) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let (left, by_hand) = (Arc::new(Mutex::new(Some(does))), Arc::new(by_hand));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (left, by_hand) = (Arc::clone(&left), Arc::clone(&by_hand));
            tokio::spawn(async move {
                let Some(asked) = message(&mut stream).await else {
                    return;
                };
                let target = format!("secretsmanager.{name}\r\n");
                let is_it = String::from_utf8_lossy(&asked).contains(&target);
                let does = if is_it {
                    left.lock().unwrap().take()
                } else {
                    None
                };
                if does == Some(Wire::Late) {
                    let bundle = &by_hand.settings.bundles["app"];
                    let value = Map::from_iter([("password".to_owned(), json!("by hand"))]);
                    let token = Uuid::new_v4().to_string();
                    let put = by_hand.put(bundle, &token, &value, &[CURRENT]);
                    put.await.unwrap();
                }
                let to = Url::parse(&lab("URL")).unwrap();
                let to = (to.host_str().unwrap().to_owned(), to.port().unwrap());
                let mut there = TcpStream::connect(to).await.unwrap();
                there.write_all(&asked).await.unwrap();
                let answer = message(&mut there).await.unwrap();
                if does != Some(Wire::Lost) {
                    let _ = stream.write_all(&answer).await;
                }
            });
        }
    });
    url
}

/// One whole message; the connection ends with it.
async fn message(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .map_or(0, |text| text.parse().unwrap());
            if bytes.len() >= end + 4 + length {
                return Some(bytes);
            }
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}

#[tokio::test]
async fn what_was_done_and_whose_answer_was_lost_is_so_already() {
    let bed = Bed::new("{}").await;
    let secrets = bed.secrets();
    for (name, change) in [
        ("PutSecretValue", store("app.1", "one")),
        ("UpdateSecretVersionStage", activate("app.1")),
    ] {
        let losing = bed.at(&wire(name, Wire::Lost, bed.secrets()).await);
        let outcome = losing.apply(&change, &key()).await.unwrap();
        assert!(
            matches!(outcome, Outcome::Ambiguous { .. }),
            "{name}: {outcome:?}"
        );
        is_already(&secrets, &change).await;
    }
    assert_eq!(bed.read(CURRENT).await["password"], "one");
    does(&secrets, &store("app.2", "two")).await;
    does(&secrets, &activate("app.2")).await;
    // Of several labels the first is off: the next try takes off the rest.
    let losing = wire("UpdateSecretVersionStage", Wire::Lost, bed.secrets()).await;
    let outcome = bed
        .at(&losing)
        .apply(&destroy("app.1"), &key())
        .await
        .unwrap();
    assert!(matches!(outcome, Outcome::Ambiguous { .. }), "{outcome:?}");
    does(&secrets, &destroy("app.1")).await;
    assert_eq!(state(&secrets, "app.1").await, (false, false, true));
}

#[tokio::test]
async fn a_switch_in_between_is_a_conflict_and_never_overwritten() {
    let bed = Bed::new("{}").await;
    let secrets = bed.secrets();
    does(&secrets, &store("app.1", "one")).await;
    let late = wire("UpdateSecretVersionStage", Wire::Late, bed.secrets()).await;
    let error = refused(&bed.at(&late), &activate("app.1")).await;
    assert_eq!(error.kind, ErrorKind::Conflict, "{}", error.whole());
    assert_eq!(bed.read(CURRENT).await["password"], "by hand");
    does(&secrets, &activate("app.1")).await;
    assert_eq!(bed.read(CURRENT).await["password"], "one");
}

/// A server that answers every request with the same bytes.
async fn answering(answer: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let _ = message(&mut stream).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    url
}

#[tokio::test]
async fn refusals_and_nonsense_have_their_kinds() {
    let bed = Bed {
        secret: "prod/x".to_owned(),
        folder: tempfile::tempdir().unwrap(),
    };
    let answer = |status: &str, body: &str| {
        format!(
            "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        )
    };
    let refusal = |status: &str, code: &str| {
        answer(
            status,
            &json!({ "__type": code, "message": "no" }).to_string(),
        )
    };
    for (answer, kind) in [
        (refusal("400", "ResourceNotFoundException"), "not_found"),
        (
            refusal("400", "com.amazonaws.secretsmanager#AccessDeniedException"),
            "denied",
        ),
        (refusal("400", "DecryptionFailure"), "denied"),
        (
            refusal("400", "UnrecognizedClientException"),
            "auth_expired",
        ),
        (refusal("400", "ThrottlingException"), "transient"),
        (refusal("400", "LimitExceededException"), "full"),
        (refusal("500", "InternalServiceError"), "transient"),
        (refusal("418", "Teapot"), "bug"),
        (answer("200", "none"), "bug"),
        (answer("200", "{}"), "bug"),
        (answer("502", ""), "transient"),
        (
            answer("200", r#"{"ARN": "x", "VersionIdsToStages": 7}"#),
            "bug",
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{".to_owned(),
            "transient",
        ),
        (String::new(), "transient"),
    ] {
        let secrets = bed.at(&answering(answer.clone()).await);
        let error = secrets.credentials(&app()).await.unwrap_err();
        assert_eq!(error.kind.as_str(), kind, "{answer}: {}", error.whole());
        // A change that may have been made is never an error that somebody repeats.
        let put = secrets
            .put(
                &secrets.settings.bundles["app"],
                "t",
                &Map::new(),
                &[PENDING],
            )
            .await;
        let is_certain = answer.starts_with("HTTP/1.1 4");
        assert_eq!(
            put.unwrap_err().of_change().is_err(),
            is_certain,
            "{answer}"
        );
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    drop(listener);
    let error = refused(&bed.at(&url), &store("app.1", "one")).await;
    assert_eq!(error.kind, ErrorKind::Unreachable);
}
