//! Judged by somebody else: what is issued here is verified by the `openssl` command line.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use chrono::{DateTime, TimeDelta};

mod rollover;

use chrono::Utc;

use super::*;
use crate::conformance::{Fixture, run};
use crate::connector::{HandOver, Material, Minted, NewCredential, Slot};

/// A clock that starts with the real one, because `openssl` looks at that, and goes on when it is told.
struct Lab {
    folder: tempfile::TempDir,
    now: Arc<Mutex<DateTime<Utc>>>,
}

impl Lab {
    #[expect(clippy::disallowed_methods, reason = "openssl looks at the real clock")]
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            now: Arc::new(Mutex::new(Utc::now())),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("ca").join(name)
    }

    fn connector(&self, changes: &Value) -> X509 {
        let mut settings = json!({
            "folder": self.path(""), "subject": "Example internal", "create": true,
            "names": [".example.org", "127.0.0.1"],
        });
        for (name, value) in changes.as_object().unwrap() {
            settings[name] = value.clone();
        }
        let now = Arc::clone(&self.now);
        X509::with_clock("ca", settings, Arc::new(move || *now.lock().unwrap())).unwrap()
    }

    fn later(&self, seconds: i64) {
        *self.now.lock().unwrap() += TimeDelta::seconds(seconds);
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Whether `openssl verify` accepts the chain, and what it says.
    fn verifies(&self, chain: &str, roots: &Path, more: &[&str]) -> (bool, String) {
        let leaf = self.write("leaf.pem", &first(chain));
        let above = self.write("above.pem", chain);
        let mut arguments = vec!["verify", "-no-CApath", "-no-CAstore", "-CAfile"];
        let (roots, leaf, above) = (text(roots), text(&leaf), text(&above));
        arguments.extend([roots.as_str(), "-untrusted", &above]);
        arguments.extend(more);
        arguments.push(&leaf);
        openssl(&arguments)
    }

    /// A signing request made by `openssl req` with a key of this kind.
    fn request(&self, key: &[&str], more: &[&str]) -> String {
        let (key_file, out) = (
            self.folder.path().join("k.pem"),
            self.folder.path().join("r.pem"),
        );
        let (key_file, out) = (text(&key_file), text(&out));
        let mut arguments = vec!["req", "-new", "-newkey"];
        arguments.extend(key);
        arguments.extend([
            "-nodes", "-subj", "/CN=web", "-keyout", &key_file, "-out", &out,
        ]);
        arguments.extend(more);
        let (made, said) = openssl(&arguments);
        assert!(made, "{said}");
        std::fs::read_to_string(out).unwrap()
    }
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

fn openssl(arguments: &[&str]) -> (bool, String) {
    let done = Command::new("openssl").args(arguments).output().unwrap();
    let said =
        String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    (done.status.success(), said)
}

fn first(chain: &str) -> String {
    let end = "-----END CERTIFICATE-----\n";
    chain[..chain.find(end).unwrap() + end.len()].to_owned()
}

fn key(text: &str) -> OperationKey {
    OperationKey {
        idempotency: text.to_owned(),
        attempt: 1,
        epoch: 1,
    }
}

fn web(material: Material, attributes: Value) -> (NewCredential, Slot) {
    let (into, slot) = HandOver::slot();
    let new = NewCredential {
        account: NativeId::new("web"),
        kind: CredentialKind::Certificate,
        material,
        attributes: serde_json::from_value(attributes).unwrap(),
        lifetime_s: None,
        label: None,
        into,
    };
    (new, slot)
}

fn by_system() -> (NewCredential, Slot) {
    web(
        Material::BySystem,
        json!({"names": ["a.example.org", "127.0.0.1"]}),
    )
}

async fn issue_new(ca: &X509, new: (NewCredential, Slot), under: &str) -> Result<Minted, Error> {
    match ca
        .apply(&Operation::IssueCredential(new.0), &key(under))
        .await?
    {
        Outcome::Done(_) => Ok(new.1.take().unwrap()),
        other => panic!("{other:?}"),
    }
}

async fn applied(ca: &X509, operation: Operation) -> Result<Outcome, Error> {
    ca.apply(&operation, &key("another")).await
}

fn destroy(account: &str, id: &CredentialId) -> Operation {
    Operation::DestroyCredential {
        account: NativeId::new(account),
        credential: id.clone(),
    }
}

async fn is_inactive(ca: &X509, id: &CredentialId) -> bool {
    let claim = Claim::CredentialInactive {
        account: NativeId::new("web"),
        credential: id.clone(),
    };
    matches!(ca.verify(&claim).await.unwrap(), Verdict::Proven(_))
}

#[tokio::test]
async fn the_conformance_suite_passes() {
    let lab = Lab::new();
    let fixture = Fixture {
        holder: Some(NativeId::new("host-")),
        issue_attributes: serde_json::from_value(json!({"names": ["{name}.example.org"]})).unwrap(),
        public_half: Some(lab.request(&["ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"], &[])),
        missing_account: Some(NativeId::new("nobody")),
        ..Fixture::new("c")
    };
    let report = run(Arc::new(lab.connector(&json!({}))), fixture).await;
    assert!(report.is_good(), "{report}");
    for name in [
        "issue a credential: halves handed over, one for one key",
        "issue, answer lost: found by its key",
        "deactivate and activate a credential twice each",
        "an issued credential is tried, both ways",
    ] {
        let test = report.tests.iter().find(|test| test.name == name).unwrap();
        assert_eq!(
            test.verdict,
            crate::conformance::Verdict::Passed,
            "{report}"
        );
    }
}

#[tokio::test]
async fn openssl_accepts_what_is_issued_with_every_kind_of_key() {
    for algorithm in ["ecdsa_p256", "ecdsa_p384", "ed25519"] {
        let lab = Lab::new();
        let ca = lab.connector(
            &json!({"key_algorithm": algorithm, "crl_url": "http://ca.example.org/crl-{generation}.der"}),
        );
        let minted = issue_new(&ca, by_system(), "1").await.unwrap();
        let chain = minted.public.unwrap();
        let crl = text(&lab.path("crl.pem"));
        let (good, said) = lab.verifies(
            &chain,
            &lab.path("bundle.pem"),
            &[
                "-x509_strict",
                "-purpose",
                "sslserver",
                "-verify_hostname",
                "a.example.org",
                "-crl_check",
                "-CRLfile",
                &crl,
            ],
        );
        assert!(good, "{algorithm}: {said}");
        for (more, why) in [
            (["-verify_hostname", "b.example.org"], "hostname mismatch"),
            (["-purpose", "sslclient"], "unsuitable certificate purpose"),
            (["-purpose", "crlsign"], "unsuitable certificate purpose"),
        ] {
            let (good, said) = lab.verifies(&chain, &lab.path("bundle.pem"), &more);
            assert!(!good && said.contains(why), "{algorithm} {more:?}: {said}");
        }
        // The key that was handed over is that of the certificate.
        let secret = minted.secret.unwrap();
        let key = lab.write("key.pem", secret.expose_secret());
        let leaf = lab.write("leaf.pem", &first(&chain));
        let of_key = openssl(&["pkey", "-in", &text(&key), "-pubout"]);
        let of_leaf = openssl(&["x509", "-in", &text(&leaf), "-noout", "-pubkey"]);
        assert!(of_key.0 && of_key == of_leaf, "{of_key:?} {of_leaf:?}");
        let (_, shown) = openssl(&["x509", "-in", &text(&leaf), "-noout", "-text"]);
        for part in [
            "DNS:a.example.org, IP Address:127.0.0.1",
            "CA:FALSE",
            "http://ca.example.org/crl-g1.der",
            "Digital Signature",
        ] {
            assert!(shown.contains(part), "{part} in {shown}");
        }
        // What lies there is one list, in the form that readers of addresses take.
        let list = text(&lab.path("crl-g1.der"));
        let (good, said) = openssl(&["crl", "-inform", "DER", "-in", &list, "-noout", "-issuer"]);
        assert!(good, "{algorithm}: {said}");
        // Keys are for the owner alone.
        for (name, mode) in [
            ("g1/root.key", 0o600),
            ("g1/ca.key", 0o600),
            ("index.jsonl", 0o600),
            ("g1", 0o700),
            ("bundle.pem", 0o644),
            ("crl-g1.der", 0o644),
        ] {
            let found = std::fs::metadata(lab.path(name))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(found & 0o777, mode, "{name}");
        }
    }
}

#[tokio::test]
async fn requests_made_by_openssl_are_certified_and_weak_ones_refused() {
    let lab = Lab::new();
    let ca = lab.connector(&json!({}));
    let san = ["-addext", "subjectAltName=DNS:a.example.org"];
    let strong: [&[&str]; 5] = [
        &["rsa:2048"],
        &["rsa:4096"],
        &["ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"],
        &["ec", "-pkeyopt", "ec_paramgen_curve:secp384r1"],
        &["ed25519"],
    ];
    for (number, kind) in strong.into_iter().enumerate() {
        let new = web(Material::Public(lab.request(kind, &san)), json!({}));
        let minted = issue_new(&ca, new, &number.to_string()).await.unwrap();
        assert!(minted.secret.is_none());
        let (good, said) = lab.verifies(
            &minted.public.unwrap(),
            &lab.path("bundle.pem"),
            &[
                "-x509_strict",
                "-purpose",
                "sslserver",
                "-verify_hostname",
                "a.example.org",
            ],
        );
        assert!(good, "{kind:?}: {said}");
    }
    let ec = &["ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"][..];
    let good = lab.request(ec, &san);
    // One letter of its signature is another.
    let mut forged: Vec<char> = good.chars().collect();
    let place = forged.len() - 80;
    let place = if forged[place] == '\n' {
        place - 1
    } else {
        place
    };
    forged[place] = if forged[place] == 'A' { 'B' } else { 'A' };
    for (request, attributes, why) in [
        (
            lab.request(&["rsa:1024"], &san),
            json!({}),
            "RSA with 1024 bits",
        ),
        (
            lab.request(&["ec", "-pkeyopt", "ec_paramgen_curve:secp224r1"], &san),
            json!({}),
            "is taken|are taken|is not taken",
        ),
        (
            lab.request(&["ec", "-pkeyopt", "ec_paramgen_curve:secp256k1"], &san),
            json!({}),
            "cannot be used|is not taken",
        ),
        (
            lab.request(ec, &["-addext", "subjectAltName=DNS:a.example.com"]),
            json!({}),
            "may not certify `a.example.com`",
        ),
        (
            lab.request(ec, &["-addext", "basicConstraints=CA:TRUE"]),
            json!({"names": ["a.example.org"]}),
            "asks for more than names",
        ),
        (lab.request(ec, &[]), json!({}), "known by its names"),
        (
            good.clone(),
            json!({"names": ["b.example.org"]}),
            "`names` does not have it",
        ),
        (
            good.clone(),
            json!({"names": ["a.example.org", "*"]}),
            "neither a host",
        ),
        (
            good.clone(),
            json!({"names": ["a.example.org", "*.example.com"]}),
            "may not certify",
        ),
        (good.clone(), json!({"names": [7]}), "list of texts"),
        (
            good.clone(),
            json!({"common_name": "bank.example.com"}),
            "may not certify `bank.example.com`",
        ),
        (
            good.clone(),
            json!({"common_name": "x".repeat(65)}),
            "1 to 64",
        ),
        (
            good.clone(),
            json!({"usage": "everything"}),
            "`usage` must be",
        ),
        (
            good.clone(),
            json!({"not_before": 0}),
            "`not_before` is no attribute",
        ),
        (forged.into_iter().collect(), json!({}), "signature"),
        (String::new(), json!({}), "PEM"),
        (good.replace("REQUEST", "PARTY"), json!({}), "PEM"),
        ("x".repeat(70_000), json!({}), "more than 65536 bytes"),
    ] {
        let (new, slot) = web(Material::Public(request), attributes);
        let error = ca
            .apply(&Operation::IssueCredential(new), &key("weak"))
            .await
            .expect_err(why);
        assert_eq!(error.kind, ErrorKind::Invalid, "{why}: {error}");
        assert!(
            why.split('|').any(|why| error.message.contains(why)),
            "{why}: {error}"
        );
        assert!(slot.take().is_none());
    }
    assert_eq!(
        ca.credentials(&NativeId::new("web"))
            .await
            .unwrap()
            .value
            .len(),
        5
    );
}

#[tokio::test]
async fn one_key_issues_once_whoever_asks_and_whenever() {
    let lab = Lab::new();
    let first = issue_new(&lab.connector(&json!({})), by_system(), "1")
        .await
        .unwrap();
    assert!(first.secret.is_some());
    // Another process, after the answer was lost. Two at once, on one folder.
    let (one, other) = (lab.connector(&json!({})), lab.connector(&json!({})));
    for under in ["1", "2"] {
        let (new, new_slot) = by_system();
        let (same, same_slot) = by_system();
        let (new_key, operation, again) = (
            key(under),
            Operation::IssueCredential(new),
            Operation::IssueCredential(same),
        );
        let (a, b) = tokio::join!(
            one.apply(&operation, &new_key),
            other.apply(&again, &new_key)
        );
        let done = [&a, &b]
            .into_iter()
            .filter(|it| matches!(it, Ok(Outcome::Done(_))))
            .count();
        assert_eq!(done, usize::from(under == "2"), "{a:?} {b:?}");
        let (a, b) = (new_slot.take().unwrap(), same_slot.take().unwrap());
        assert_eq!(a.credential.id, b.credential.id);
        assert_eq!(a.public, b.public);
        assert!(a.secret.is_none() || b.secret.is_none());
        if under == "1" {
            assert_eq!(a.credential.id, first.credential.id);
            assert_eq!(a.public, first.public);
        }
    }
    let claim = |key: &str, account: &str| Claim::CredentialIssued {
        account: NativeId::new(account),
        key: key.to_owned(),
    };
    let Verdict::Proven(seen) = one.verify(&claim("1", "web")).await.unwrap() else {
        panic!();
    };
    assert_eq!(seen.credential().unwrap().id, first.credential.id);
    assert!(matches!(
        one.verify(&claim("3", "web")).await.unwrap(),
        Verdict::Refuted(_)
    ));
    assert!(matches!(
        one.verify(&claim("1", "mail")).await.unwrap(),
        Verdict::Refuted(_)
    ));
    // A key is one operation's: for another holder it is a mistake, not an answer.
    let (mut new, _) = by_system();
    new.account = NativeId::new("mail");
    let error = one
        .apply(&Operation::IssueCredential(new), &key("1"))
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid);
}

#[tokio::test]
async fn openssl_refuses_what_is_on_the_list_and_takes_back_what_was_on_hold() {
    let lab = Lab::new();
    let ca = lab.connector(&json!({}));
    let minted = issue_new(&ca, by_system(), "1").await.unwrap();
    let other = issue_new(&ca, by_system(), "2").await.unwrap();
    let (chain, id) = (minted.public.unwrap(), minted.credential.id);
    let crl = text(&lab.path("crl.pem"));
    let checked = |chain: &str| {
        lab.verifies(
            chain,
            &lab.path("bundle.pem"),
            &["-crl_check", "-CRLfile", &crl],
        )
    };
    assert!(checked(&chain).0 && !is_inactive(&ca, &id).await);

    let (account, credential) = (NativeId::new("web"), id.clone());
    let hold = Operation::DeactivateCredential {
        account: account.clone(),
        credential: credential.clone(),
    };
    let release = Operation::ActivateCredential {
        account,
        credential,
    };
    applied(&ca, hold).await.unwrap();
    let (good, said) = checked(&chain);
    assert!(!good && said.contains("certificate revoked"), "{said}");
    assert!(is_inactive(&ca, &id).await);
    applied(&ca, release.clone()).await.unwrap();
    assert!(checked(&chain).0 && !is_inactive(&ca, &id).await);

    applied(&ca, destroy("web", &id)).await.unwrap();
    assert!(!checked(&chain).0);
    assert!(
        checked(&other.public.unwrap()).0,
        "the other one is as good as before"
    );
    let error = applied(&ca, release).await.unwrap_err();
    assert!(error.message.contains("revoked for good"), "{error}");
    // Of somebody else's certificate nothing is ended.
    let outcome = applied(&ca, destroy("mail", &other.credential.id))
        .await
        .unwrap();
    assert!(matches!(outcome, Outcome::AlreadySo(_)));
    assert!(!is_inactive(&ca, &other.credential.id).await);

    // The line was written and the list was not: the next call mends it.
    std::fs::remove_file(lab.path("g1/crl.der")).unwrap();
    assert!(!is_inactive(&ca, &id).await, "nobody can see it");
    applied(&ca, destroy("web", &id)).await.unwrap();
    assert!(is_inactive(&ca, &id).await);

    // A list that grows old is made again.
    let until = |ca: &X509| {
        ca.authority
            .hold(*lab.now.lock().unwrap())
            .unwrap()
            .revoked_list(1)
            .unwrap()
            .unwrap()
            .next_update
    };
    let before = until(&ca);
    lab.later(3 * 24 * 3_600);
    assert!(ca.check().await.unwrap().is_good());
    assert_eq!(until(&ca), before, "not half over");
    lab.later(24 * 3_600);
    assert!(ca.check().await.unwrap().is_good());
    assert!(until(&ca) > before);
}

#[tokio::test]
async fn nothing_outlives_what_signed_it_and_nothing_is_longer_than_the_policy() {
    let lab = Lab::new();
    let hour = 3_600;
    let ca = lab.connector(&json!({"authority_lifetime_s": 10 * hour, "lifetime_s_max": 5 * hour, "lifetime_s": 4 * hour}));
    let asked = |lifetime_s| {
        let (mut new, slot) = by_system();
        new.lifetime_s = lifetime_s;
        (new, slot)
    };
    let end = issue_new(&ca, asked(None), "1")
        .await
        .unwrap()
        .credential
        .expires_at
        .unwrap();
    let start = *lab.now.lock().unwrap();
    assert_eq!(end - start, TimeDelta::hours(4));
    for wrong in [0, 5 * hour as u64 + 1, u64::MAX] {
        let error = issue_new(&ca, asked(Some(wrong)), "2").await.unwrap_err();
        assert!(error.message.contains("lifetime_s_max"), "{error}");
    }
    lab.later(8 * hour);
    let minted = issue_new(&ca, asked(None), "3").await.unwrap();
    assert_eq!(
        minted.credential.expires_at.unwrap() - start,
        TimeDelta::hours(10),
        "cut at the authority's end"
    );
    let leaf = lab.write("leaf.pem", &first(&minted.public.unwrap()));
    let (_, shown) = openssl(&[
        "x509",
        "-in",
        &text(&leaf),
        "-noout",
        "-enddate",
        "-dateopt",
        "iso_8601",
    ]);
    let shown = shown
        .trim()
        .trim_start_matches("notAfter=")
        .replace(' ', "T");
    let shown: DateTime<Utc> = shown.parse().unwrap();
    assert_eq!(
        shown.timestamp(),
        (start + TimeDelta::hours(10)).timestamp()
    );
    let error = issue_new(&ca, asked(Some(3 * hour as u64)), "4")
        .await
        .unwrap_err();
    assert!(
        error.message.contains("the authority itself ends"),
        "{error}"
    );
    lab.later(2 * hour);
    let error = issue_new(&ca, asked(None), "5").await.unwrap_err();
    assert!(
        error.message.contains("the authority itself ended"),
        "{error}"
    );
    assert!(!ca.check().await.unwrap().is_good());
}

#[tokio::test]
async fn a_handshake_tells_good_from_ended_revoked_and_foreign() {
    let lab = Lab::new();
    let ca = lab.connector(&json!({}));
    let lets_in = async |id: &CredentialId, path: &Path| {
        let claim = Claim::CredentialWorks {
            account: NativeId::new("web"),
            credential: id.clone(),
            secret: SecretRef::File(text(path)),
        };
        match ca.verify(&claim).await.unwrap() {
            Verdict::Proven(_) => Ok(()),
            Verdict::Refuted(seen) => Err(seen.seen["refused"].to_string()),
            other => panic!("{other:?}"),
        }
    };
    let server = issue_new(&ca, by_system(), "1").await.unwrap();
    let client = web(Material::BySystem, json!({"usage": "client"}));
    let client = issue_new(&ca, client, "2").await.unwrap();
    let keys = [&server, &client].map(|minted| minted.secret.clone().unwrap());
    let server_key = lab.write("server.key", keys[0].expose_secret());
    let client_key = lab.write("client.key", keys[1].expose_secret());
    let (server, client) = (server.credential.id, client.credential.id);
    assert_eq!(lets_in(&server, &server_key).await, Ok(()));
    assert_eq!(lets_in(&client, &client_key).await, Ok(()));
    assert!(
        lets_in(&server, &client_key).await.is_err(),
        "the key of another"
    );
    let garbage = lab.write("garbage", "no key");
    assert!(
        lets_in(&server, &garbage)
            .await
            .unwrap_err()
            .contains("no private key")
    );
    applied(&ca, destroy("web", &client)).await.unwrap();
    let why = lets_in(&client, &client_key).await.unwrap_err();
    assert!(why.to_lowercase().contains("revoked"), "{why}");
    assert_eq!(lets_in(&server, &server_key).await, Ok(()));
    lab.later(31 * 24 * 3_600);
    ca.check().await.unwrap();
    let why = lets_in(&server, &server_key).await.unwrap_err();
    assert!(why.to_lowercase().contains("expired"), "{why}");
    assert!(is_inactive(&ca, &server).await);
}

#[tokio::test]
async fn an_authority_that_is_missing_is_not_made_again_by_itself() {
    let lab = Lab::new();
    let ca = lab.connector(&json!({"create": false}));
    let error = issue_new(&ca, by_system(), "1").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unreachable, "{error}");
    std::fs::create_dir(lab.path("")).unwrap();
    let error = issue_new(&ca, by_system(), "1").await.unwrap_err();
    assert!(error.message.contains("`create: true`"), "{error}");
    assert!(!ca.check().await.unwrap().is_good());
    // Half a generation, left by somebody who stopped: it is thrown away, nobody trusted it.
    std::fs::create_dir(lab.path("g1")).unwrap();
    std::fs::write(lab.path("g1/root.key"), "half").unwrap();
    let ca = lab.connector(&json!({}));
    assert!(ca.check().await.unwrap().is_good());
    issue_new(&ca, by_system(), "1").await.unwrap();
    // Its key is carried away: it says so and signs nothing.
    std::fs::rename(lab.path("g1/ca.key"), lab.path("away")).unwrap();
    let error = issue_new(&ca, by_system(), "2").await.unwrap_err();
    assert!(error.message.contains("ca.key"), "{error}");
    std::fs::rename(lab.path("away"), lab.path("g1/ca.key")).unwrap();
    issue_new(&ca, by_system(), "2").await.unwrap();
    assert_eq!(
        ca.credentials(&NativeId::new("web"))
            .await
            .unwrap()
            .value
            .len(),
        2
    );
}
