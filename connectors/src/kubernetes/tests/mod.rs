//! Against an API server of the shapes that Kubernetes answers ([`server`]), whole and in every way half.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::large_futures,
    reason = "tests"
)]

use std::collections::BTreeMap;
use std::sync::Arc;

use secrecy::{ExposeSecret as _, SecretString};
use uuid::Uuid;

use super::*;
use crate::asked::{activate, app, does, holds, id, is_already, refused, state, store};
use crate::conformance::{Fixture, Verdict as Passed, run};
use crate::connector::{Attributes, HandOver, Material, Minted, NewCredential, Slot};
use crate::secret::SecretRef;

mod hostile;
mod server;
pub(super) mod tokens;

use server::{Cluster, Instead, TOKEN};

/// Tenure at a cluster: the folder holds its token, and what it reads of Secrets.
struct Bed {
    cluster: Cluster,
    folder: tempfile::TempDir,
}

impl Bed {
    async fn new() -> Self {
        Self::at(Cluster::start().await)
    }

    fn at(cluster: Cluster) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("token"), format!("{TOKEN}\n")).unwrap();
        Self { cluster, folder }
    }

    fn settings(&self) -> Value {
        json!({
            "server": self.cluster.url,
            "token": format!("file:{}", self.folder.path().join("token").display()),
            "namespaces": ["shop", "ops"],
            "secrets": { "app": {
                "namespace": "shop", "secret": "app-credentials",
                "parts": { "user": "username", "password": "password" },
            } },
            "scratch": self.folder.path().join("scratch"),
            // A machine under load is slow; only what hangs is not waited for.
            "timeout_ms": 30_000,
        })
    }

    /// One that does not wait long.
    fn hasty(&self) -> Kubernetes {
        let mut settings = self.settings();
        settings["timeout_ms"] = json!(1_500);
        Kubernetes::from_settings("cluster", settings).unwrap()
    }

    fn connector(&self) -> Kubernetes {
        Kubernetes::from_settings("cluster", self.settings()).unwrap()
    }

    /// What programs read that have the Secret mounted.
    fn shown(&self) -> BTreeMap<String, String> {
        self.cluster.read("shop", "app-credentials")
    }

    fn password(&self) -> String {
        self.shown()["password"].clone()
    }
}

pub(super) fn fresh() -> String {
    Uuid::new_v4().simple().to_string()
}

pub(super) fn key(text: &str) -> OperationKey {
    OperationKey {
        idempotency: text.to_owned(),
        attempt: 1,
        epoch: 1,
    }
}

pub(super) fn destroy(account: &NativeId, credential: &CredentialId) -> Operation {
    Operation::DestroyCredential {
        account: account.clone(),
        credential: credential.clone(),
    }
}

#[tokio::test]
async fn the_conformance_suite_passes() {
    let bed = Bed::new().await;
    let prefix = fresh()[..12].to_owned();
    // Service accounts are not made by this connector: those the suite will ask for are there.
    for number in 0..60 {
        bed.cluster.account("shop", &format!("k-{prefix}{number}"));
    }
    let fixture = Fixture {
        holder: Some(NativeId::new("shop/k-")),
        missing_account: Some(NativeId::new("shop/nobody")),
        ..Fixture::new(prefix)
    };
    let report = run(Arc::new(bed.connector()), fixture).await;
    assert!(report.is_good(), "{report}");
    for name in [
        "issue a credential: halves handed over, one for one key",
        "issue under another key: another credential",
        "issue, answer lost: found by its key",
        "an issued credential is tried, both ways",
    ] {
        let test = report.tests.iter().find(|test| test.name == name).unwrap();
        assert_eq!(test.verdict, Passed::Passed, "{report}");
    }
}

#[tokio::test]
async fn a_version_is_kept_beside_switched_to_as_a_whole_and_switched_back() {
    let bed = Bed::new().await;
    let kubernetes = bed.connector();
    assert_eq!(
        refused(&kubernetes, &activate("app.1")).await.kind,
        ErrorKind::NotFound
    );
    does(&kubernetes, &store("app.1", "one")).await;
    is_already(&kubernetes, &store("app.1", "one")).await;
    let other = refused(&kubernetes, &store("app.1", "other")).await;
    assert_eq!(other.kind, ErrorKind::Conflict);
    assert!(!other.whole().contains("other\""), "{other}");
    assert!(bed.cluster.secret("shop", "app-credentials").is_none());
    assert_eq!(state(&kubernetes, "app.1").await, (true, false, true));

    let receipt = does(&kubernetes, &activate("app.1")).await;
    is_already(&kubernetes, &activate("app.1")).await;
    let secret = bed.cluster.secret("shop", "app-credentials").unwrap();
    assert_eq!(
        receipt.after.unwrap()["resource_version"],
        secret["metadata"]["resourceVersion"]
    );
    assert_eq!(secret["type"], "Opaque");
    let both = BTreeMap::from([
        ("username".to_owned(), "ann".to_owned()),
        ("password".to_owned(), "one".to_owned()),
    ]);
    assert_eq!(bed.shown(), both);
    assert_eq!(state(&kubernetes, "app.1").await, (true, true, false));

    does(&kubernetes, &store("app.2", "two")).await;
    assert_eq!(bed.password(), "one");
    does(&kubernetes, &activate("app.2")).await;
    assert_eq!(bed.password(), "two");
    assert_eq!(state(&kubernetes, "app.1").await, (true, false, true));
    let listed = kubernetes.credentials(&app()).await.unwrap().value;
    let listed: Vec<_> = listed
        .iter()
        .map(|one| (one.id.as_str(), one.active))
        .collect();
    assert_eq!(listed, [("app.1", Some(false)), ("app.2", Some(true))]);
    // The way back, and forth again.
    does(&kubernetes, &activate("app.1")).await;
    assert_eq!(bed.password(), "one");
    does(&kubernetes, &activate("app.2")).await;

    let read = refused(&kubernetes, &destroy(&app(), &id("app.2"))).await;
    assert_eq!(read.kind, ErrorKind::Denied);
    does(&kubernetes, &destroy(&app(), &id("app.1"))).await;
    is_already(&kubernetes, &destroy(&app(), &id("app.1"))).await;
    assert_eq!(state(&kubernetes, "app.1").await, (false, false, true));
    assert_eq!(bed.cluster.with(|state| state.secrets.len()), 2);
    assert_eq!(bed.password(), "two");
}

#[tokio::test]
async fn what_is_kept_can_be_read_here_and_no_secret_is_in_an_answer() {
    let bed = Bed::new().await;
    let kubernetes = bed.connector();
    let receipt = does(&kubernetes, &store("app.1", "hunter2")).await;
    let stored = Claim::CredentialStored {
        account: app(),
        credential: id("app.1"),
    };
    let (kept, seen) = holds(&kubernetes, &stored).await;
    assert!(kept && !seen.to_string().contains("hunter2"));
    assert!(!serde_json::to_string(&receipt).unwrap().contains("hunter2"));
    let reference: SecretRef = serde_json::from_value(seen["parts"]["password"].clone()).unwrap();
    assert_eq!(reference.resolve().unwrap().expose_secret(), "hunter2");
    let version = seen["version"].as_str().unwrap();
    let secret = bed.cluster.secret("shop", version).unwrap();
    assert_eq!(
        seen["resource_version"],
        secret["metadata"]["resourceVersion"]
    );
    // It goes with the version.
    does(&kubernetes, &destroy(&app(), &id("app.1"))).await;
    assert!(reference.resolve().is_err());

    let mut settings = bed.settings();
    settings.as_object_mut().unwrap().remove("scratch");
    let blind = Kubernetes::from_settings("cluster", settings).unwrap();
    does(&blind, &store("app.2", "hunter2")).await;
    let stored = Claim::CredentialStored {
        account: app(),
        credential: id("app.2"),
    };
    let (kept, seen) = holds(&blind, &stored).await;
    assert!(kept && seen.get("parts").is_none());
}

#[tokio::test]
async fn what_somebody_put_there_is_kept_and_a_change_by_hand_is_seen() {
    let bed = Bed::new().await;
    let kubernetes = bed.connector();
    let by_hand = |password: &str| {
        use base64::Engine as _;
        let text = base64::engine::general_purpose::STANDARD.encode(password);
        json!({ "password": text })
    };
    // There was one before Tenure came.
    let first = json!({
        "kind": "Secret", "apiVersion": "v1", "type": "example.org/own",
        "metadata": {
            "name": "app-credentials", "namespace": "shop", "uid": fresh(),
            "labels": { "team": "shop" },
        },
        "data": by_hand("theirs"),
    });
    bed.cluster.with(|state| {
        let first = state.touched(first);
        let key = ("shop".to_owned(), "app-credentials".to_owned());
        state.secrets.insert(key, first);
    });
    does(&kubernetes, &store("app.1", "one")).await;
    does(&kubernetes, &activate("app.1")).await;
    assert_eq!(bed.password(), "one");
    let secret = bed.cluster.secret("shop", "app-credentials").unwrap();
    assert_eq!(secret["metadata"]["labels"]["team"], "shop");
    assert_eq!(secret["type"], "example.org/own");
    let kept = kubernetes.credentials(&app()).await.unwrap().value;
    let before = kept
        .iter()
        .find(|one| one.id.as_str().starts_with("before:"))
        .unwrap();
    does(&kubernetes, &activate(before.id.as_str())).await;
    assert_eq!(bed.password(), "theirs");
    does(&kubernetes, &activate("app.1")).await;

    // Somebody changes it by hand: neither active nor out of use, until it is switched again.
    bed.cluster.with(|state| {
        let key = ("shop".to_owned(), "app-credentials".to_owned());
        let mut secret = state.secrets[&key].clone();
        secret["data"]["password"] = by_hand("changed")["password"].clone();
        let secret = state.touched(secret);
        state.secrets.insert(key, secret);
    });
    assert_eq!(state(&kubernetes, "app.1").await, (true, false, false));
    does(&kubernetes, &activate("app.1")).await;
    assert_eq!(state(&kubernetes, "app.1").await, (true, true, false));
    let kept = kubernetes.credentials(&app()).await.unwrap().value;
    assert_eq!(kept.len(), 3, "{kept:?}");

    // What is not ours in it would be lost.
    bed.cluster.with(|state| {
        let key = ("shop".to_owned(), "app-credentials".to_owned());
        let mut secret = state.secrets[&key].clone();
        secret["data"]["ca.crt"] = json!("eA==");
        let secret = state.touched(secret);
        state.secrets.insert(key, secret);
    });
    does(&kubernetes, &store("app.2", "two")).await;
    let error = refused(&kubernetes, &activate("app.2")).await;
    assert_eq!(error.kind, ErrorKind::Invalid);
    assert!(error.message.contains("has ca.crt too"), "{error}");
    assert_eq!(bed.password(), "one");
}

#[tokio::test]
async fn a_change_in_between_is_a_conflict_and_never_overwritten() {
    let bed = Bed::new().await;
    let kubernetes = bed.connector();
    for (credential, password) in [("app.1", "one"), ("app.2", "two")] {
        does(&kubernetes, &store(credential, password)).await;
    }
    does(&kubernetes, &activate("app.1")).await;
    let mut left = 1;
    bed.cluster.between(move |asked, state| {
        if asked.short() == "PUT secrets/app-credentials" && left > 0 {
            left -= 1;
            let key = ("shop".to_owned(), "app-credentials".to_owned());
            let mut secret = state.secrets[&key].clone();
            secret["metadata"]["labels"]["touched"] = json!("by somebody");
            let secret = state.touched(secret);
            state.secrets.insert(key, secret);
        }
        None
    });
    let error = refused(&kubernetes, &activate("app.2")).await;
    assert_eq!(error.kind, ErrorKind::Conflict);
    assert_eq!(
        error.retry_class(),
        crate::connector::RetryClass::Backoff,
        "it is tried again"
    );
    assert_eq!(bed.password(), "one");
    does(&kubernetes, &activate("app.2")).await;
    let secret = bed.cluster.secret("shop", "app-credentials").unwrap();
    assert_eq!(secret["metadata"]["labels"]["touched"], "by somebody");
    assert_eq!(bed.password(), "two");

    // Two nodes at once, each with another version: one of them has to look again.
    let (one, other) = (bed.connector(), bed.connector());
    let (first, second) = (activate("app.1"), activate("app.1"));
    let (key_of_one, key_of_other) = (key("a"), key("b"));
    let (first, second) = tokio::join!(
        one.apply(&first, &key_of_one),
        other.apply(&second, &key_of_other)
    );
    for outcome in [first, second] {
        match outcome {
            Ok(Outcome::Done(_) | Outcome::AlreadySo(_)) => {}
            Err(error) => assert_eq!(error.kind, ErrorKind::Conflict, "{error}"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(bed.password(), "one");
}

#[tokio::test]
async fn a_secret_that_is_removed_is_switched_only_when_it_is_gone() {
    let bed = Bed::new().await;
    let kubernetes = bed.connector();
    for (credential, password) in [("app.1", "one"), ("app.2", "two")] {
        does(&kubernetes, &store(credential, password)).await;
    }
    does(&kubernetes, &activate("app.1")).await;
    let of_app = || ("shop".to_owned(), "app-credentials".to_owned());
    // Somebody's finalizer holds it still.
    bed.cluster.with(|state| {
        let mut secret = state.secrets[&of_app()].clone();
        secret["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        let secret = state.touched(secret);
        state.secrets.insert(of_app(), secret);
    });
    for credential in ["app.1", "app.2"] {
        let error = refused(&kubernetes, &activate(credential)).await;
        assert_eq!(error.kind, ErrorKind::Conflict, "{error}");
        assert!(error.message.contains("is being removed"), "{error}");
    }
    bed.cluster.with(|state| state.secrets.remove(&of_app()));
    does(&kubernetes, &activate("app.1")).await;

    // Or it goes between the look and the switch.
    bed.cluster.between(move |asked, state| {
        if asked.short() == "PUT secrets/app-credentials" {
            state.secrets.remove(&of_app());
        }
        None
    });
    let error = refused(&kubernetes, &activate("app.2")).await;
    assert_eq!(error.kind, ErrorKind::Conflict, "{error}");
    assert!(error.message.contains("was removed since"), "{error}");
    does(&kubernetes, &activate("app.2")).await;
    assert_eq!(bed.password(), "two");
}

#[tokio::test]
async fn listings_go_on_page_by_page_and_begin_again_when_the_cluster_forgot() {
    let bed = Bed::new().await;
    let kubernetes = bed.connector();
    for number in 0..7 {
        does(&kubernetes, &store(&format!("app.{number}"), "x")).await;
        bed.cluster.account("shop", &format!("sa-{number}"));
    }
    bed.cluster.account("ops", "runner");
    bed.cluster.account("secret-ops", "hidden");
    bed.cluster.with(|state| {
        state.page_size = 2;
        state.asked.clear();
    });
    let credentials = async || kubernetes.credentials(&app()).await;
    assert_eq!(credentials().await.unwrap().value.len(), 7);
    assert_eq!(bed.cluster.asked("GET secrets"), 5);
    // No secret travels to be listed.
    bed.cluster.with(|state| {
        let lists = state.asked.iter().filter(|it| it.short() == "GET secrets");
        assert!(
            lists
                .into_iter()
                .all(|it| it.accept.contains("PartialObjectMetadataList"))
        );
    });
    bed.cluster.with(|state| state.forgets = 2);
    assert_eq!(credentials().await.unwrap().value.len(), 7);
    bed.cluster.with(|state| state.forgets = 3);
    let error = credentials().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Transient, "{error}");
    assert!(error.message.contains("forgotten half-way"), "{error}");
    bed.cluster.with(|state| state.forgets = 0);

    let mut names = Vec::new();
    let mut after = None;
    for _ in 0..20 {
        let page = kubernetes.list(Kind::Account, after).await.unwrap();
        names.extend(
            page.items
                .into_iter()
                .map(|it| it.into_account().unwrap().name),
        );
        assert_eq!(page.complete, page.next.is_none());
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let mut expected = vec!["app".to_owned()];
    expected.extend((0..7).map(|number| format!("shop/sa-{number}")));
    expected.push("ops/runner".to_owned());
    assert_eq!(names, expected);

    // Forgotten in the middle, nothing is said to be complete.
    let first = kubernetes.list(Kind::Account, None).await.unwrap();
    let second = kubernetes.list(Kind::Account, first.next).await.unwrap();
    bed.cluster.with(|state| state.forgets = 1);
    let error = kubernetes
        .list(Kind::Account, second.next)
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Transient);
    let nonsense = Some(Cursor("nonsense".to_owned()));
    let error = kubernetes.list(Kind::Account, nonsense).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid);
}
