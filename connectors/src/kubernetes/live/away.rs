//! A login that is over, listings that were forgotten, answers that never come.

use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::{StreamExt as _, stream};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::kubernetes::tests::tokens::{issue, lets_in, request};

#[tokio::test]
#[ignore = "needs a Kubernetes API server: tests/lab/kubernetes.sh"]
async fn who_we_are_comes_to_an_end_and_is_told_apart_from_what_we_may_do() {
    let bed = Bed::new().await;
    let over = std::fs::read_to_string(lab("EXPIRED_TOKEN")).unwrap();
    for token in [over.as_str(), "nonsense"] {
        bed.log_in_with(token);
        let kubernetes = bed.connector();
        for error in [
            refused(&kubernetes, &store("app.1", "one")).await,
            kubernetes.credentials(&app()).await.unwrap_err(),
        ] {
            assert_eq!(error.kind, ErrorKind::AuthExpired, "{error}");
        }
        let health = kubernetes.check().await.unwrap();
        assert_eq!(health.findings.len(), 1, "{health:?}");
        assert_eq!(health.findings[0].what, "login");
    }

    // A certificate whose time is over, and one of somebody they do not know.
    let authority = std::fs::read_to_string(lab("CLIENT_CA")).unwrap();
    let authority_key = std::fs::read_to_string(lab("CLIENT_CA_KEY")).unwrap();
    let authority_key = rcgen::KeyPair::from_pem(&authority_key).unwrap();
    let theirs = rcgen::Issuer::from_ca_cert_pem(&authority, authority_key).unwrap();
    let mut of_stranger = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
    of_stranger.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let strangers = rcgen::Issuer::new(of_stranger, rcgen::KeyPair::generate().unwrap());
    for (what, issuer, year) in [("late", &theirs, 2021), ("strange", &strangers, 2120)] {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
        for (name, text) in [
            (rcgen::DnType::CommonName, "tenure"),
            (rcgen::DnType::OrganizationName, "system:masters"),
        ] {
            params.distinguished_name.push(name, text);
        }
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, issuer).unwrap();
        let mut settings = bed.settings();
        settings.as_object_mut().unwrap().remove("token");
        settings["client_certificate"] = json!({
            "certificate": bed.file(&format!("{what}.pem"), &certificate.pem()),
            "key": bed.file(&format!("{what}.key"), &key.serialize_pem()),
        });
        let kubernetes = Kubernetes::from_settings("cluster", settings).unwrap();
        let error = refused(&kubernetes, &store("app.1", "one")).await;
        assert_eq!(
            error.kind,
            ErrorKind::AuthExpired,
            "{what}: {}",
            error.whole()
        );
    }
    // And one whom we do not know.
    let distrusts = bed.connector_with(&json!({ "ca_file": lab("CLIENT_CA") }));
    let error = refused(&distrusts, &store("app.1", "one")).await;
    assert_eq!(error.kind, ErrorKind::Unreachable, "{}", error.whole());
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: tests/lab/kubernetes.sh"]
async fn a_listing_goes_on_page_by_page_until_the_cluster_has_forgotten_it() {
    /// More than a page.
    const ACCOUNTS: usize = 501;
    let bed = Bed::new().await;
    let kubernetes = bed.connector();
    stream::iter(0..ACCOUNTS)
        .for_each_concurrent(16, |number| {
            let bed = &bed;
            async move { bed.account(&format!("sa-{number:03}")).await }
        })
        .await;
    let pages = async || {
        let (mut names, mut cursors, mut after) = (Vec::new(), Vec::new(), None);
        for _ in 0..10 {
            let page = kubernetes.list(Kind::Account, after).await.unwrap();
            let items = page.items.into_iter();
            names.extend(items.map(|it| it.into_account().unwrap().name));
            assert_eq!(page.complete, page.next.is_none());
            after = page.next;
            match &after {
                Some(cursor) => cursors.push(cursor.clone()),
                None => break,
            }
        }
        (names, cursors)
    };
    let (names, cursors) = pages().await;
    let mut expected = vec!["app".to_owned()];
    expected.extend((0..ACCOUNTS).map(|number| bed.of(&format!("sa-{number:03}"))));
    expected.push(bed.of("tenure"));
    assert_eq!(names, expected);
    assert_eq!(cursors.len(), 2);
    // In life it is remembered for minutes.
    until("the listing is forgotten", async || {
        match kubernetes
            .list(Kind::Account, cursors.last().cloned())
            .await
        {
            Ok(_) => false,
            Err(error) => {
                assert_eq!(error.kind, ErrorKind::Transient, "{error}");
                assert!(error.message.contains("410 Expired"), "{error}");
                true
            }
        }
    })
    .await;
    assert_eq!(pages().await.0, expected);
}

/// A wire to the API server that loses the answer to a request, in one of two ways.
struct Wire {
    url: String,
    armed: Arc<AtomicBool>,
}

#[derive(Debug, Clone, Copy)]
enum Loss {
    /// The answer is dropped and the connection closed.
    Cut,
    /// The answer never comes.
    Silence,
}

impl Wire {
    /// Loses the first answer to a request that begins so.
    async fn start(begins: &'static str, loss: Loss) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let armed = Arc::new(AtomicBool::new(true));
        let flag = Arc::clone(&armed);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = to_server().await;
                tokio::spawn(carry(client, server, begins, loss, Arc::clone(&flag)));
            }
        });
        Self { url, armed }
    }
}

async fn to_server() -> TlsStream<TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(lab("CA")).unwrap() {
        roots.add(root.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let url = reqwest::Url::parse(&lab("URL")).unwrap();
    let host = url.host_str().unwrap().to_owned();
    let stream = TcpStream::connect((host.as_str(), url.port().unwrap())).await;
    TlsConnector::from(Arc::new(config))
        .connect(ServerName::try_from(host).unwrap(), stream.unwrap())
        .await
        .unwrap()
}

async fn carry(
    client: TcpStream,
    server: TlsStream<TcpStream>,
    begins: &'static str,
    loss: Loss,
    armed: Arc<AtomicBool>,
) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = tokio::io::split(server);
    let lost = Arc::new(AtomicBool::new(false));
    let losing = Arc::clone(&lost);
    let back = tokio::spawn(async move {
        let mut buffer = vec![0; 65_536];
        while let Ok(read @ 1..) = from_server.read(&mut buffer).await {
            match loss {
                Loss::Cut if losing.load(Ordering::SeqCst) => return,
                Loss::Silence if losing.load(Ordering::SeqCst) => continue,
                _ => {}
            }
            if to_client.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    });
    let mut buffer = vec![0; 65_536];
    while let Ok(read @ 1..) = from_client.read(&mut buffer).await {
        if buffer[..read].starts_with(begins.as_bytes()) && armed.swap(false, Ordering::SeqCst) {
            lost.store(true, Ordering::SeqCst);
        }
        if to_server.write_all(&buffer[..read]).await.is_err() {
            break;
        }
        to_server.flush().await.unwrap();
    }
    let _ = back.await;
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: tests/lab/kubernetes.sh"]
async fn a_change_whose_answer_is_lost_is_unknown_and_then_so_already() {
    for loss in [Loss::Cut, Loss::Silence] {
        let bed = Bed::new().await;
        let kubernetes = bed.connector();
        does(&kubernetes, &store("app.0", "zero")).await;
        does(&kubernetes, &activate("app.0")).await;
        for (begins, change) in [
            ("POST ", store("app.1", "one")),
            ("PUT ", activate("app.1")),
            ("DELETE ", destroy(&app(), &id("app.0"))),
        ] {
            let wire = Wire::start(begins, loss).await;
            let through = bed.connector_with(&json!({ "server": wire.url, "timeout_ms": 2_000 }));
            let outcome = through.apply(&change, &key("x")).await.unwrap();
            assert!(
                matches!(outcome, Outcome::Ambiguous { .. }),
                "{loss:?}, {begins}: {outcome:?}"
            );
            assert!(!wire.armed.load(Ordering::SeqCst), "{begins} never passed");
            is_already(&kubernetes, &change).await;
        }
        assert_eq!(bed.password().await, "one");

        // A token that did not arrive ends with the next one.
        bed.account("web").await;
        let web = bed.of("web");
        let begins = format!("POST {} ", bed.path("serviceaccounts/web/token"));
        let wire = Wire::start(begins.leak(), loss).await;
        let through = bed.connector_with(&json!({ "server": wire.url, "timeout_ms": 2_000 }));
        let (operation, slot) = request(&web, json!({}));
        let outcome = through.apply(&operation, &key("1")).await.unwrap();
        assert!(matches!(outcome, Outcome::Ambiguous { .. }), "{outcome:?}");
        assert!(slot.take().is_none());
        let (is_new, minted) = issue(&kubernetes, &web, "1").await;
        assert!(is_new);
        let (credential, token) = (minted.credential.id, minted.secret.unwrap());
        assert!(lets_in(&kubernetes, &web, &credential, &token).await);
        let listed = kubernetes.credentials(&NativeId::new(&web)).await.unwrap();
        assert_eq!(listed.value.len(), 1);
    }
}

#[tokio::test]
#[ignore = "needs a Kubernetes API server: tests/lab/kubernetes.sh"]
async fn a_read_that_hangs_is_an_error_and_never_an_absence() {
    let bed = Bed::new().await;
    let wire = Wire::start("GET ", Loss::Silence).await;
    let through = bed.connector_with(&json!({ "server": wire.url, "timeout_ms": 1_500 }));
    let error = through.credentials(&app()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Timeout, "{error}");
    // The next one takes another connection.
    assert!(through.credentials(&app()).await.unwrap().value.is_empty());
}
