//! Against Pebble, an authority that we did not write.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use secrecy::ExposeSecret as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use uuid::Uuid;

use super::*;
use crate::conformance::{Fixture, Verdict as Passed, run};
use crate::connector::{HandOver, Slot};

fn lab(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("`{name}` is not set; start the server: tests/lab/pebble.sh start /tmp/lab-pebble && . /tmp/lab-pebble/env")
    })
}

struct Lab {
    folder: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn settings(&self, changes: &Value) -> Value {
        let mut settings = json!({
            "directory_url": lab("TENURE_LAB_PEBBLE_URL"), "folder": self.path("acme"), "terms_agreed": true,
            "contact": ["mailto:pki@example.org"], "ca_file": lab("TENURE_LAB_PEBBLE_CA"),
            "http01": {"folder": lab("TENURE_LAB_PEBBLE_PROOFS")}, "timeout_ms": 10_000, "order_timeout_ms": 60_000,
        });
        for (name, value) in changes.as_object().unwrap() {
            settings[name] = value.clone();
        }
        settings
    }

    fn acme(&self, changes: &Value) -> Acme {
        Acme::from_settings("ca", self.settings(changes)).unwrap()
    }

    /// The same account, as if it were with another authority.
    fn moved(&self, url: &str, ca: &Path) -> Acme {
        let path = self.path("acme/account.json");
        let mut account: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        account["directory"] = json!(url);
        std::fs::write(&path, account.to_string()).unwrap();
        self.acme(&json!({"directory_url": url, "ca_file": ca}))
    }

    /// A program that puts names into the lab's DNS.
    fn dns(&self) -> Value {
        let program = self.path("dns-hook");
        let script = format!(
            "#!/bin/sh\ncase $TENURE_ACTION in present) a=set-txt;; *) a=clear-txt;; esac\n\
             echo \"$TENURE_ACTION $TENURE_NAME\" >>{}\n\
             exec python3 -c 'import json,sys,urllib.request as r\n\
             r.urlopen(sys.argv[1], json.dumps({{\"host\": sys.argv[2] + \".\", \"value\": sys.argv[3]}}).encode(), timeout=5).read()' \
             {}/$a \"$TENURE_NAME\" \"$TENURE_VALUE\"\n",
            self.path("dns-calls").display(),
            lab("TENURE_LAB_PEBBLE_DNS_URL"),
        );
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        json!({"command": [program]})
    }
}

fn fresh(suffix: &str) -> String {
    format!("h{}.{suffix}", &Uuid::new_v4().simple().to_string()[..12])
}

fn request(material: Material, names: &[&str]) -> (Operation, Slot) {
    let (into, slot) = HandOver::slot();
    let new = NewCredential {
        account: NativeId::new("web"),
        kind: CredentialKind::Certificate,
        material,
        attributes: serde_json::from_value(json!({ "names": names })).unwrap(),
        lifetime_s: None,
        label: None,
        into,
    };
    (Operation::IssueCredential(new), slot)
}

fn key(text: &str) -> OperationKey {
    OperationKey {
        idempotency: text.to_owned(),
        attempt: 1,
        epoch: 1,
    }
}

async fn issue(acme: &Acme, names: &[&str], under: &str) -> (bool, Minted) {
    let (operation, slot) = request(Material::BySystem, names);
    match acme.apply(&operation, &key(under)).await.unwrap() {
        Outcome::Done(_) => (true, slot.take().unwrap()),
        Outcome::AlreadySo(_) => (false, slot.take().unwrap()),
        other => panic!("{other:?}"),
    }
}

async fn get(url: &str) -> String {
    let pem = std::fs::read(lab("TENURE_LAB_PEBBLE_CA")).unwrap();
    let roots = reqwest::Certificate::from_pem_bundle(&pem).unwrap();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder()
        .tls_certs_only(roots)
        .no_proxy()
        .build()
        .unwrap();
    client.get(url).send().await.unwrap().text().await.unwrap()
}

/// Whether `openssl verify` accepts the chain for a server of this name, under Pebble's root.
async fn verifies(lab_: &Lab, chain: &str, name: &str) -> (bool, String) {
    let root = get(&format!(
        "{}/roots/0",
        lab("TENURE_LAB_PEBBLE_MANAGEMENT_URL")
    ))
    .await;
    let (roots, leaf) = (lab_.path("root.pem"), lab_.path("chain.pem"));
    std::fs::write(&roots, root).unwrap();
    std::fs::write(&leaf, chain).unwrap();
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let done = std::process::Command::new("openssl")
        .args([
            "verify",
            "-no-CApath",
            "-no-CAstore",
            "-CAfile",
            &text(&roots),
            "-untrusted",
            &text(&leaf),
        ])
        .args([
            "-purpose",
            "sslserver",
            "-verify_hostname",
            name,
            &text(&leaf),
        ])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    (done.status.success(), said)
}

async fn status(chain: &str) -> String {
    let der = leaf_of(chain).unwrap();
    let (_, parsed) = X509Certificate::from_der(&der).unwrap();
    let serial = parsed.tbs_certificate.raw_serial();
    let serial: String = serial.iter().map(|byte| format!("{byte:02x}")).collect();
    let serial = serial.trim_start_matches("00");
    get(&format!(
        "{}/cert-status-by-serial/{serial}",
        lab("TENURE_LAB_PEBBLE_MANAGEMENT_URL")
    ))
    .await
}

#[tokio::test]
async fn the_conformance_suite_passes() {
    let lab = Lab::new();
    let name = fresh("example.org");
    let pair = KeyPair::generate().unwrap();
    let csr = CertificateParams::new(vec![name.clone()])
        .unwrap()
        .serialize_request(&pair)
        .unwrap();
    let fixture = Fixture {
        holder: Some(NativeId::new("host-")),
        issue_attributes: serde_json::from_value(json!({ "names": [name] })).unwrap(),
        public_half: Some(csr.pem().unwrap()),
        missing_account: Some(NativeId::new("nobody")),
        ..Fixture::new("c")
    };
    let report = run(Arc::new(lab.acme(&json!({}))), fixture).await;
    assert!(report.is_good(), "{report}");
    for name in [
        "issue a credential: halves handed over, one for one key",
        "issue under another key: another credential",
        "issue, answer lost: found by its key",
    ] {
        let test = report.tests.iter().find(|test| test.name == name).unwrap();
        assert_eq!(test.verdict, Passed::Passed, "{report}");
    }
}

#[tokio::test]
async fn names_are_proven_by_file_and_by_dns_and_the_proofs_go_away() {
    let lab_ = Lab::new();
    let acme = lab_.acme(&json!({"dns01": lab_.dns()}));
    let name = fresh("example.org");
    let (_, minted) = issue(&acme, &[&name], "1").await;
    let chain = minted.public.unwrap();
    let (good, said) = verifies(&lab_, &chain, &name).await;
    assert!(good, "{said}");
    assert!(KeyPair::from_pem(minted.secret.unwrap().expose_secret()).is_ok());
    assert!(!lab_.path("dns-calls").exists(), "a file was enough");
    let mode = |name: &str| {
        std::fs::metadata(lab_.path(name))
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(
        (
            mode("acme"),
            mode("acme/account.json"),
            mode("acme/journal.jsonl")
        ),
        (0o700, 0o600, 0o600)
    );

    let zone = fresh("example.org");
    let wildcard = format!("*.{zone}");
    let (_, minted) = issue(&acme, &[&wildcard, &zone], "2").await;
    let (good, said) = verifies(&lab_, &minted.public.unwrap(), &format!("any.{zone}")).await;
    assert!(good, "{said}");
    let calls = std::fs::read_to_string(lab_.path("dns-calls")).unwrap();
    assert_eq!(
        calls,
        format!("present _acme-challenge.{zone}\nclean _acme-challenge.{zone}\n")
    );
    let proofs = PathBuf::from(lab("TENURE_LAB_PEBBLE_PROOFS"));
    // Other tests may show proofs of theirs at this moment; ours are gone.
    let account = acme.authority.account().await.unwrap();
    for entry in std::fs::read_dir(proofs).unwrap().flatten() {
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        assert!(!text.ends_with(account.key_thumbprint()), "{text}");
    }
}

#[tokio::test]
async fn a_signing_request_is_certified_and_its_key_never_comes_here() {
    let lab_ = Lab::new();
    let acme = lab_.acme(&json!({}));
    let name = fresh("example.org");
    let pair = KeyPair::generate().unwrap();
    let csr = CertificateParams::new(vec![name.clone()])
        .unwrap()
        .serialize_request(&pair)
        .unwrap()
        .pem()
        .unwrap();
    let (operation, slot) = request(Material::Public(csr.clone()), &[&name.to_uppercase()]);
    assert!(matches!(
        acme.apply(&operation, &key("1")).await.unwrap(),
        Outcome::Done(_)
    ));
    let minted = slot.take().unwrap();
    assert!(minted.secret.is_none());
    assert!(verifies(&lab_, &minted.public.unwrap(), &name).await.0);
    for (names, why) in [
        (vec!["other.example.org"], "exactly the names"),
        (
            vec![name.as_str(), "other.example.org"],
            "exactly the names",
        ),
    ] {
        let (operation, _) = request(Material::Public(csr.clone()), &names);
        let error = acme.apply(&operation, &key("2")).await.unwrap_err();
        assert!(error.message.contains(why), "{error}");
    }
    for (names, why) in [
        (vec![], "give 1 to 100"),
        (vec!["exa mple.org"], ""),
        (vec!["ünicode.example"], ""),
    ] {
        let (operation, _) = request(Material::BySystem, &names);
        let error = acme.apply(&operation, &key("3")).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid, "{names:?}: {error}");
        assert!(error.message.contains(why), "{error}");
    }
}

#[tokio::test]
async fn what_was_ordered_is_found_after_a_crash_at_any_point() {
    let lab_ = Lab::new();
    let name = fresh("example.org");
    let issued = |key: &str| Claim::CredentialIssued {
        account: NativeId::new("web"),
        key: key.to_owned(),
    };
    // It stopped after the order was noted.
    let acme = lab_.acme(&json!({}));
    let account = acme.authority.account().await.unwrap();
    let (operation, _) = request(Material::BySystem, &[&name]);
    let Operation::IssueCredential(new) = &operation else {
        panic!()
    };
    let asked = acme.asked(new).unwrap();
    let first = acme
        .ordered(&account, &asked, "web", "1")
        .await
        .unwrap()
        .url()
        .to_owned();
    let acme = lab_.acme(&json!({}));
    assert!(matches!(
        acme.verify(&issued("1")).await.unwrap(),
        Verdict::Refuted(_)
    ));
    let (is_new, minted) = issue(&acme, &[&name], "1").await;
    assert!(is_new && minted.secret.is_some());
    let url = acme
        .ledger(|ledger| Ok(ledger.order("web", "1").unwrap().to_owned()))
        .await
        .unwrap();
    assert_eq!(url, first, "the same order was gone through");

    // It stopped after the certificate was made and before it was noted.
    let mut order = acme.ordered(&account, &asked, "web", "2").await.unwrap();
    acme.authority.prove(&mut order).await.unwrap();
    let lost = acme
        .authority
        .finish(&mut order, &asked.request)
        .await
        .unwrap();
    let lost = CredentialId::of_certificate(&leaf_of(&lost).unwrap());
    let acme = lab_.acme(&json!({}));
    let (is_new, minted) = issue(&acme, &[&name], "2").await;
    assert!(!is_new && minted.secret.is_none(), "its key is gone");
    assert_eq!(minted.credential.id, lost);
    let Verdict::Proven(seen) = acme.verify(&issued("2")).await.unwrap() else {
        panic!()
    };
    assert_eq!(seen.credential().unwrap().id, lost);
    let again = lab_.acme(&json!({}));
    assert_eq!(issue(&again, &[&name], "2").await.1.public, minted.public);

    // The same, and somebody only asks whether there is one.
    let mut order = acme.ordered(&account, &asked, "web", "3").await.unwrap();
    acme.authority.prove(&mut order).await.unwrap();
    acme.authority
        .finish(&mut order, &asked.request)
        .await
        .unwrap();
    assert!(matches!(
        acme.verify(&issued("3")).await.unwrap(),
        Verdict::Proven(_)
    ));
    assert_eq!(
        acme.credentials(&NativeId::new("web"))
            .await
            .unwrap()
            .value
            .len(),
        3
    );

    // Two at once: one certificate.
    let (one, other) = (lab_.acme(&json!({})), lab_.acme(&json!({})));
    let names = [name.as_str()];
    let (a, b) = tokio::join!(issue(&one, &names, "4"), issue(&other, &names, "4"));
    assert_eq!(a.1.credential.id, b.1.credential.id);
    assert!(a.0 != b.0);
}

#[tokio::test]
async fn a_revoked_certificate_is_revoked_over_there_too() {
    let lab_ = Lab::new();
    let acme = lab_.acme(&json!({}));
    let name = fresh("example.org");
    let (_, minted) = issue(&acme, &[&name], "1").await;
    let chain = minted.public.unwrap();
    assert!(status(&chain).await.contains("Valid"));
    let destroy = |account: &str| Operation::DestroyCredential {
        account: NativeId::new(account),
        credential: minted.credential.id.clone(),
    };
    assert!(matches!(
        acme.apply(&destroy("mail"), &key("x")).await.unwrap(),
        Outcome::AlreadySo(_)
    ));
    assert!(status(&chain).await.contains("Valid"), "it is not mail's");
    assert!(matches!(
        acme.apply(&destroy("web"), &key("x")).await.unwrap(),
        Outcome::Done(_)
    ));
    assert!(status(&chain).await.contains("Revoked"));
    assert!(matches!(
        acme.apply(&destroy("web"), &key("x")).await.unwrap(),
        Outcome::AlreadySo(_)
    ));
    let inactive = Claim::CredentialInactive {
        account: NativeId::new("web"),
        credential: minted.credential.id.clone(),
    };
    let Verdict::Proven(seen) = acme.verify(&inactive).await.unwrap() else {
        panic!()
    };
    assert_eq!(seen.by, "acme revokeCert");
    assert_eq!(seen.seen["state"], "revoked already");
    // Revoked and not noted: the authority says so.
    let (_, other) = issue(&acme, &[&name], "2").await;
    let der = leaf_of(other.public.as_deref().unwrap()).unwrap();
    let account = acme.authority.account().await.unwrap();
    assert!(acme.authority.revoke(&account, &der).await.unwrap());
    let destroy = Operation::DestroyCredential {
        account: NativeId::new("web"),
        credential: other.credential.id,
    };
    assert!(matches!(
        acme.apply(&destroy, &key("x")).await.unwrap(),
        Outcome::AlreadySo(_)
    ));
    let active = acme.credentials(&NativeId::new("web")).await.unwrap().value;
    assert!(active.iter().all(|it| it.active == Some(false)));
}

#[tokio::test]
async fn an_account_that_must_be_bound_is_bound() {
    let lab_ = Lab::new();
    let url = lab("TENURE_LAB_PEBBLE_EAB_URL");
    let unbound = lab_.acme(&json!({"directory_url": url}));
    let error = unbound.authority.account().await.map(drop).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Denied, "{error}");
    assert!(!unbound.check().await.unwrap().is_good());
    let external = json!({
        "id": lab("TENURE_LAB_PEBBLE_EAB_ID"),
        "key": format!("file:{}", lab("TENURE_LAB_PEBBLE_EAB_KEY")),
    });
    let bound = lab_.acme(&json!({"directory_url": url, "external_account": external}));
    let health = bound.check().await.unwrap();
    assert!(health.is_good(), "{health:?}");
    let name = fresh("example.org");
    issue(&bound, &[&name], "1").await;
}

#[tokio::test]
async fn a_name_that_is_not_proven_says_why_and_a_mended_one_is_issued() {
    let lab_ = Lab::new();
    let elsewhere = lab_.path("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let acme = lab_.acme(&json!({"http01": {"folder": elsewhere}}));
    let name = fresh("example.org");
    let (operation, _) = request(Material::BySystem, &[&name]);
    let error = acme.apply(&operation, &key("1")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict, "{error}");
    assert!(
        error.message.contains(&name) && error.message.contains("not proven"),
        "{error}"
    );
    assert_eq!(
        std::fs::read_dir(&elsewhere).unwrap().count(),
        0,
        "nothing is left"
    );
    // Under the same key, with the folder mended: a new order.
    let acme = lab_.acme(&json!({}));
    assert!(issue(&acme, &[&name], "1").await.0);
    let (operation, _) = request(Material::BySystem, &["*.example.org"]);
    let error = acme.apply(&operation, &key("2")).await.unwrap_err();
    assert!(
        error.message.contains("a wildcard needs `dns01`"),
        "{error}"
    );
    let missing = lab_.acme(&json!({"http01": {"folder": lab_.path("missing")}}));
    assert!(!missing.check().await.unwrap().is_good());
    let (operation, _) = request(Material::BySystem, &[&name]);
    let error = missing.apply(&operation, &key("3")).await.unwrap_err();
    assert!(error.message.contains("cannot be proven"), "{error}");
}

/// An authority of which only the directory and the opinion about renewals exist: Pebble 2.4 has no ARI.
async fn renewing(answer: &'static str) -> (String, tempfile::NamedTempFile) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let ca = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(ca.path(), made.cert.pem()).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!(
        "https://localhost:{}",
        listener.local_addr().unwrap().port()
    );
    let own = base.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, base) = (acceptor.clone(), own.clone());
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await.unwrap();
                let mut asked = vec![0; 8 * 1024];
                let read = stream.read(&mut asked).await.unwrap();
                let asked = String::from_utf8_lossy(&asked[..read]).into_owned();
                let body = if asked.starts_with("GET /dir") {
                    json!({"newNonce": format!("{base}/n"), "newAccount": format!("{base}/a"),
                           "newOrder": format!("{base}/o"), "renewalInfo": format!("{base}/ari")})
                    .to_string()
                } else {
                    // The identifier of RFC 9773: key identifier and serial number, with a dot between.
                    assert!(
                        asked.starts_with("GET /ari/")
                            && asked.lines().next().unwrap().contains('.'),
                        "{asked}"
                    );
                    answer.to_owned()
                };
                let answer = format!(
                    "HTTP/1.1 200 OK\r\nretry-after: 60\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                );
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    (format!("{base}/dir"), ca)
}

/// An address where nobody listens.
async fn nowhere() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    format!("https://localhost:{port}/dir")
}

#[tokio::test]
async fn the_authority_says_when_to_renew_if_it_is_asked() {
    const WINDOW: &str =
        r#"{"suggestedWindow":{"start":"2031-01-02T04:00:00Z","end":"2031-01-03T04:00:00Z"}}"#;
    let lab_ = Lab::new();
    let name = fresh("example.org");
    let acme = lab_.acme(&json!({}));
    let id = issue(&acme, &[&name], "1").await.1.credential.id;
    let (web, mail) = (NativeId::new("web"), NativeId::new("mail"));
    assert!(acme.capabilities().renewal);
    let none = Renewal::default();
    let told = acme.renewal(&web, &id).await.unwrap();
    assert_eq!(told, none, "Pebble has no opinion");

    let (url, ca) = renewing(WINDOW).await;
    let acme = lab_.moved(&url, ca.path());
    let told = acme.renewal(&web, &id).await.unwrap();
    let window = told.window.unwrap();
    assert_eq!(window.start.to_rfc3339(), "2031-01-02T04:00:00+00:00");
    assert_eq!(window.end.to_rfc3339(), "2031-01-03T04:00:00+00:00");
    assert_eq!(told.ask_again_s, Some(60));
    let told = acme.renewal(&mail, &id).await.unwrap();
    assert_eq!(told, none, "it is not mail's");

    let (url, ca) = renewing("nonsense").await;
    let error = lab_.moved(&url, ca.path()).renewal(&web, &id).await;
    let error = error.unwrap_err();
    assert!(error.message.contains("when to renew"), "{error}");

    // What is there is listed without the authority.
    let away = lab_.moved(&nowhere().await, ca.path());
    let error = away.renewal(&web, &id).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unreachable, "{}", error.whole());
    let listed = away.credentials(&web).await.unwrap();
    assert_eq!((listed.value.len(), listed.blind_spots.len()), (1, 1));

    let unasked = lab_.acme(&json!({"renewal_info": false}));
    assert!(!unasked.capabilities().renewal);
    let error = unasked.renewal(&web, &id).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unsupported);
}

#[test]
fn what_passes_is_tried_again_and_what_is_wrong_is_not() {
    let lab = Lab::new();
    let acme = lab.acme(&json!({}));
    for (problem, status, kind) in [
        ("badNonce", 400, ErrorKind::Transient),
        ("serverInternal", 500, ErrorKind::Transient),
        ("of another day", 503, ErrorKind::Transient),
        ("badCSR", 400, ErrorKind::Invalid),
        ("dns", 400, ErrorKind::Conflict),
        ("of another day", 400, ErrorKind::Bug),
    ] {
        let found = acme.authority.kind_of(problem, Some(status));
        assert_eq!(found, kind, "{problem} {status}");
    }
}

#[tokio::test]
async fn an_authority_that_is_away_or_is_none_is_told_apart() {
    let lab_ = Lab::new();
    let away = lab_.acme(&json!({"directory_url": nowhere().await}));
    let (operation, _) = request(Material::BySystem, &["a.example.org"]);
    let error = away.apply(&operation, &key("1")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unreachable, "{}", error.whole());
    // It answers, and not with a directory.
    let management = lab("TENURE_LAB_PEBBLE_MANAGEMENT_URL");
    let none = lab_.acme(&json!({"directory_url": format!("{management}/roots/0")}));
    let error = none.apply(&operation, &key("1")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Bug, "{}", error.whole());
    assert!(error.message.contains("directory_url"), "{error}");
    // A file that is not the account's key is not replaced by a new account.
    std::fs::write(lab_.path("acme/account.json"), "{}").unwrap();
    let error = lab_
        .acme(&json!({}))
        .apply(&operation, &key("1"))
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
    assert_eq!(
        std::fs::read_to_string(lab_.path("acme/account.json")).unwrap(),
        "{}"
    );
}
