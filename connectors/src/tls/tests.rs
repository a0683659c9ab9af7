//! Against servers that are well, and servers that hang, babble, stop half-way or lie.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use std::sync::Mutex;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::conformance::{Fixture, run};
use crate::connector::CredentialId;

struct Made {
    id: CredentialId,
    pem: String,
    key: Arc<CertifiedKey>,
}

fn certificate(name: &str) -> Made {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = rustls::crypto::ring::default_provider();
    let key = CertifiedKey::from_der(vec![made.cert.der().clone()], key, &provider).unwrap();
    Made {
        id: CredentialId::of_certificate(made.cert.der()),
        pem: made.cert.pem(),
        key: Arc::new(key),
    }
}

/// Serves what it is told to, and something else for another name.
#[derive(Debug)]
struct Serving {
    now: Mutex<Arc<CertifiedKey>>,
    for_other: Option<Arc<CertifiedKey>>,
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        match (&self.for_other, hello.server_name()) {
            (Some(other), Some("other.example")) => Some(Arc::clone(other)),
            _ => Some(Arc::clone(&self.now.lock().unwrap())),
        }
    }
}

async fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// A TLS server that goes on until the test ends; `before` speaks first.
async fn serve(
    config: ServerConfig,
    before: fn(TcpStream) -> futures_util::future::BoxFuture<'static, TcpStream>,
) -> u16 {
    let (listener, port) = listen().await;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let stream = before(stream).await;
                let _ = acceptor.accept(stream).await;
            });
        }
    });
    port
}

fn nothing_before(stream: TcpStream) -> futures_util::future::BoxFuture<'static, TcpStream> {
    Box::pin(async move { stream })
}

fn config(serving: Arc<Serving>) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(serving)
}

fn prober(changes: Value) -> Tls {
    let mut settings = json!({"anywhere": true, "timeout_ms": 2_000});
    for (name, value) in changes.as_object().unwrap() {
        settings[name] = value.clone();
    }
    Tls::from_settings("edge", settings).unwrap()
}

async fn serves(tls: &Tls, endpoint: &str, id: &CredentialId) -> Result<(bool, Value), Error> {
    let claim = Claim::ServesCertificate {
        endpoint: endpoint.to_owned(),
        certificate: id.clone(),
    };
    match tls.verify(&claim).await? {
        Verdict::Proven(seen) => Ok((true, seen.seen)),
        Verdict::Refuted(seen) => Ok((false, seen.seen)),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_is_really_served_is_seen_by_name_and_at_once_when_it_changes() {
    let (old, new, other) = (
        certificate("a.example"),
        certificate("a.example"),
        certificate("other.example"),
    );
    let serving = Arc::new(Serving {
        now: Mutex::new(Arc::clone(&old.key)),
        for_other: Some(Arc::clone(&other.key)),
    });
    let port = serve(config(Arc::clone(&serving)), nothing_before).await;
    let ca = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(ca.path(), &new.pem).unwrap();
    let tls = prober(json!({"ca_file": ca.path()}));
    let endpoint = format!("127.0.0.1:{port}?name=a.example");
    let (holds, seen) = serves(&tls, &endpoint, &old.id).await.unwrap();
    assert!(holds);
    assert!(
        seen["shown"][0]["not_trusted"]
            .as_str()
            .unwrap()
            .contains("certificate"),
        "{seen}"
    );
    assert!(!serves(&tls, &endpoint, &new.id).await.unwrap().0);
    *serving.now.lock().unwrap() = Arc::clone(&new.key);
    let (holds, seen) = serves(&tls, &endpoint, &new.id).await.unwrap();
    assert!(holds && seen["shown"][0]["not_trusted"].is_null(), "{seen}");
    assert!(!serves(&tls, &endpoint, &old.id).await.unwrap().0);
    let by_name = format!("127.0.0.1:{port}?name=other.example");
    assert!(serves(&tls, &by_name, &other.id).await.unwrap().0);
    let listed = tls
        .credentials(&NativeId::new(endpoint))
        .await
        .unwrap()
        .value;
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].id, new.id);
    assert!(listed[0].expires_at.is_some());
}

#[tokio::test]
async fn whoever_trusts_these_roots_and_nothing_else_accepts_it_or_does_not() {
    let (shown, other) = (certificate("a.example"), certificate("a.example"));
    let serving = Arc::new(Serving {
        now: Mutex::new(Arc::clone(&shown.key)),
        for_other: None,
    });
    let port = serve(config(serving), nothing_before).await;
    let endpoint = format!("127.0.0.1:{port}?name=a.example");
    let both = format!("{}{}", other.pem, shown.pem);
    for (roots, accepted) in [(&shown.pem, true), (&other.pem, false), (&both, true)] {
        let claim = Claim::ServesTrusted {
            endpoint: endpoint.clone(),
            roots: roots.clone(),
        };
        let verdict = prober(json!({})).verify(&claim).await.unwrap();
        assert_eq!(
            matches!(verdict, Verdict::Proven(_)),
            accepted,
            "{verdict:?}"
        );
    }
    // In another time it has not begun yet.
    let before: Clock = Arc::new(|| chrono::DateTime::UNIX_EPOCH);
    let early = Tls::with_clock("edge", json!({"anywhere": true}), before).unwrap();
    let claim = Claim::ServesTrusted {
        endpoint,
        roots: shown.pem,
    };
    let verdict = early.verify(&claim).await.unwrap();
    assert!(matches!(verdict, Verdict::Refuted(_)), "{verdict:?}");
    let nothing = Claim::ServesTrusted {
        endpoint: "127.0.0.1:1".to_owned(),
        roots: "no certificate".to_owned(),
    };
    assert!(prober(json!({})).verify(&nothing).await.is_err());
}

#[tokio::test]
async fn one_forgotten_address_behind_a_name_refutes_the_claim() {
    let (old, new) = (certificate("localhost"), certificate("localhost"));
    let serving = |made: &Made| {
        config(Arc::new(Serving {
            now: Mutex::new(Arc::clone(&made.key)),
            for_other: None,
        }))
    };
    let port = serve(serving(&new), nothing_before).await;
    // The same port on another address of this machine.
    let Ok(second) = TcpListener::bind(("::1", port)).await else {
        return;
    };
    let acceptor = TlsAcceptor::from(Arc::new(serving(&old)));
    tokio::spawn(async move {
        while let Ok((stream, _)) = second.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move { acceptor.accept(stream).await.map(drop) });
        }
    });
    let tls = prober(json!({}));
    let both: Vec<SocketAddr> = tokio::net::lookup_host(("localhost", port))
        .await
        .unwrap()
        .collect();
    if both.len() < 2 {
        return;
    }
    let (holds, seen) = serves(&tls, &format!("localhost:{port}"), &new.id)
        .await
        .unwrap();
    assert!(!holds, "{seen}");
    assert_eq!(seen["shown"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_server_that_wants_our_certificate_has_shown_its_own() {
    let made = certificate("a.example");
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(made.key.cert[0].clone()).unwrap();
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .build()
                .unwrap();
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(Serving {
                now: Mutex::new(Arc::clone(&made.key)),
                for_other: None,
            }));
        let port = serve(config, nothing_before).await;
        assert!(
            serves(&prober(json!({})), &format!("127.0.0.1:{port}"), &made.id)
                .await
                .unwrap()
                .0
        );
    }
}

/// Shows a certificate without having its key: what everybody can do who ever saw it.
#[tokio::test]
async fn a_certificate_shown_without_its_key_does_not_count() {
    let (shown, own) = (certificate("a.example"), certificate("a.example"));
    let mixed = CertifiedKey::new(shown.key.cert.clone(), Arc::clone(&own.key.key));
    let serving = Serving {
        now: Mutex::new(Arc::new(mixed)),
        for_other: None,
    };
    let port = serve(config(Arc::new(serving)), nothing_before).await;
    let error = serves(&prober(json!({})), &format!("127.0.0.1:{port}"), &shown.id)
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Transient, "{error}");
}

#[tokio::test]
async fn hanging_babbling_and_half_answers_are_bounded_errors() {
    type Behaviour = fn(TcpStream) -> futures_util::future::BoxFuture<'static, ()>;
    let behaviours: [(&str, Behaviour, ErrorKind); 6] = [
        (
            "says nothing",
            |stream| {
                Box::pin(async move {
                    let _kept = stream;
                    std::future::pending().await
                })
            },
            ErrorKind::Timeout,
        ),
        (
            "hangs up",
            |stream| Box::pin(async move { drop(stream) }),
            ErrorKind::Transient,
        ),
        (
            "is no TLS",
            |mut stream| {
                Box::pin(async move {
                    let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
                    std::future::pending().await
                })
            },
            ErrorKind::Transient,
        ),
        (
            "half a record",
            |mut stream| {
                Box::pin(async move {
                    let _ = stream.write_all(&[22, 3, 3, 2, 0, 2, 0, 0]).await;
                    std::future::pending().await
                })
            },
            ErrorKind::Timeout,
        ),
        (
            "one byte now and then",
            |mut stream| {
                Box::pin(async move {
                    let _ = stream.write_all(&[22, 3, 3, 64, 0]).await;
                    loop {
                        let _ = stream.write_all(&[2]).await;
                        // sleeps: to be slow is what it is there for
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                })
            },
            ErrorKind::Transient,
        ),
        (
            "zeros without end",
            |mut stream| {
                Box::pin(async move { while stream.write_all(&[0; 4096]).await.is_ok() {} })
            },
            ErrorKind::Transient,
        ),
    ];
    for (name, behave, kind) in behaviours {
        for starttls in ["", "&starttls=smtp", "&starttls=ldap", "&starttls=postgres"] {
            let (listener, port) = listen().await;
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(behave(stream));
                }
            });
            let tls = prober(json!({"timeout_ms": 300}));
            let endpoint = format!("127.0.0.1:{port}?name=a.example{starttls}");
            let nobody = CredentialId::new("x");
            let asked = serves(&tls, &endpoint, &nobody);
            let error = tokio::time::timeout(Duration::from_secs(5), asked)
                .await
                .unwrap()
                .unwrap_err();
            let bounded = error.kind == kind
                || matches!(error.kind, ErrorKind::Timeout | ErrorKind::Transient)
                    && !starttls.is_empty();
            // What comes byte by byte may be over before it can be seen to be nonsense.
            assert!(
                bounded || name.starts_with("one byte") && error.kind == ErrorKind::Timeout,
                "{name} {starttls}: {error}"
            );
        }
    }
    let (listener, port) = listen().await;
    drop(listener);
    let error = serves(
        &prober(json!({})),
        &format!("127.0.0.1:{port}"),
        &CredentialId::new("x"),
    )
    .await
    .unwrap_err();
    assert!(error.message.contains("no connection"), "{error}");
}

fn speaks_smtp(mut stream: TcpStream) -> futures_util::future::BoxFuture<'static, TcpStream> {
    Box::pin(async move {
        stream
            .write_all(b"220-mail.example\r\n220 ready\r\n")
            .await
            .unwrap();
        let mut asked = [0; 21];
        stream.read_exact(&mut asked).await.unwrap();
        assert_eq!(&asked, b"EHLO tenure.invalid\r\n");
        stream
            .write_all(b"250-mail.example\r\n250-SIZE 1\r\n250 STARTTLS\r\n")
            .await
            .unwrap();
        let mut asked = [0; 10];
        stream.read_exact(&mut asked).await.unwrap();
        assert_eq!(&asked, b"STARTTLS\r\n");
        stream.write_all(b"220 go on\r\n").await.unwrap();
        stream
    })
}

#[tokio::test]
async fn mail_servers_are_asked_to_start_tls() {
    let made = certificate("mail.example");
    let serving = Serving {
        now: Mutex::new(Arc::clone(&made.key)),
        for_other: None,
    };
    let port = serve(config(Arc::new(serving)), speaks_smtp).await;
    let endpoint = format!("127.0.0.1:{port}?name=mail.example&starttls=smtp");
    assert!(
        serves(&prober(json!({})), &endpoint, &made.id)
            .await
            .unwrap()
            .0
    );
}

fn lab(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("`{name}` is not set; start the servers: tests/lab/postgres.sh and tests/lab/openldap.sh start DIR && . DIR/env")
    })
}

/// The certificate that a file of the lab holds.
fn of_file(path: &std::path::Path) -> CredentialId {
    let der = CertificateDer::pem_file_iter(path)
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    CredentialId::of_certificate(&der)
}

#[tokio::test]
async fn a_real_postgresql_and_a_real_directory_are_asked_to_start_tls() {
    let postgres = lab("TENURE_LAB_POSTGRES_CA");
    let (host, port) = (
        lab("TENURE_LAB_POSTGRES_HOST"),
        lab("TENURE_LAB_POSTGRES_PORT"),
    );
    let ldap = lab("TENURE_LAB_OPENLDAP_CA_FILE");
    let plain = lab("TENURE_LAB_OPENLDAP_URL");
    let private = lab("TENURE_LAB_OPENLDAP_LDAPS_URL");
    let address = |url: &str| {
        url.split("//")
            .nth(1)
            .unwrap()
            .trim_end_matches('/')
            .to_owned()
    };
    let server = |ca: &str| of_file(&std::path::Path::new(ca).with_file_name("server.pem"));
    for (endpoint, ca) in [
        (format!("{host}:{port}?starttls=postgres"), &postgres),
        (format!("{}?starttls=ldap", address(&plain)), &ldap),
        (address(&private), &ldap),
    ] {
        let tls = prober(json!({"ca_file": ca}));
        let (holds, seen) = serves(&tls, &endpoint, &server(ca)).await.unwrap();
        assert!(holds, "{endpoint}: {seen}");
        assert!(
            seen["shown"][0]["not_trusted"].is_null(),
            "{endpoint}: {seen}"
        );
    }
}

#[tokio::test]
async fn the_conformance_suite_passes_and_only_what_is_named_is_asked() {
    let made = certificate("localhost");
    let serving = Serving {
        now: Mutex::new(Arc::clone(&made.key)),
        for_other: None,
    };
    let port = serve(config(Arc::new(serving)), nothing_before).await;
    let ca = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(ca.path(), &made.pem).unwrap();
    let shop = json!({"address": format!("127.0.0.1:{port}"), "server_name": "localhost"});
    let settings = json!({"endpoints": {"shop": shop}, "ca_file": ca.path()});
    let tls = Tls::from_settings("edge", settings).unwrap();
    assert!(serves(&tls, "shop", &made.id).await.unwrap().0);
    let error = serves(&tls, &format!("127.0.0.1:{port}"), &made.id)
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
    let fixture = Fixture {
        missing_account: Some(NativeId::new("nobody")),
        ..Fixture::new("c")
    };
    let report = run(Arc::new(tls), fixture).await;
    assert!(report.is_good(), "{report}");
}
