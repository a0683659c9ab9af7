//! The foreign authority of the lab, and an opinion of its own about renewals, which it has none of.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use engine::core::Timestamp;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use uuid::Uuid;

fn lab(name: &str) -> String {
    let name = format!("TENURE_LAB_PEBBLE_{name}");
    std::env::var(&name).unwrap_or_else(|_| {
        panic!("`{name}` is not set; start the server: tests/lab/pebble.sh start DIR && . DIR/env")
    })
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

pub(super) struct Pebble {
    pub directory: String,
    /// Whom to trust for its own address.
    ca: PathBuf,
    management: String,
    /// What all names of this test end with.
    zone: String,
}

impl Pebble {
    pub fn of_the_lab() -> Self {
        Self {
            directory: lab("URL"),
            ca: lab("CA").into(),
            management: lab("MANAGEMENT_URL"),
            zone: format!(
                "z{}.example.org",
                &Uuid::new_v4().simple().to_string()[..10]
            ),
        }
    }

    /// A name that nobody else asks for; its first label is `label`.
    pub fn name(&self, label: &str) -> String {
        format!("{label}.{}", self.zone)
    }

    /// Of a system of kind `acme`.
    pub fn settings(&self, folder: &Path, directory: &str) -> Value {
        json!({
            "directory_url": directory, "folder": folder, "terms_agreed": true, "ca_file": self.ca,
            "http01": { "folder": lab("PROOFS") }, "timeout_ms": 20_000, "order_timeout_ms": 60_000,
        })
    }

    /// The root that its certificates lead to, in PEM.
    pub async fn root(&self) -> String {
        self.get(&format!("{}/roots/0", self.management)).await
    }

    /// What it says of a certificate: `Valid` or `Revoked`.
    pub async fn status(&self, certificate: &CertificateDer<'static>) -> String {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("certificate.der");
        std::fs::write(&file, certificate).unwrap();
        let said = std::process::Command::new("openssl")
            .args(["x509", "-inform", "DER", "-noout", "-serial", "-in"])
            .arg(&file)
            .output()
            .unwrap();
        let said = String::from_utf8(said.stdout).unwrap();
        let serial = said.trim().strip_prefix("serial=").unwrap().to_lowercase();
        let serial = serial.trim_start_matches("00");
        let path = format!("{}/cert-status-by-serial/{serial}", self.management);
        let status: Value = serde_json::from_str(&self.get(&path).await).unwrap();
        status["Status"].as_str().unwrap().to_owned()
    }

    async fn get(&self, url: &str) -> String {
        let rest = url.strip_prefix("https://").unwrap();
        let (host, path) = rest.split_once('/').unwrap();
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_file_iter(&self.ca).unwrap() {
            roots.add(root.unwrap()).unwrap();
        }
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(host).await.unwrap();
        let name = ServerName::try_from(host.split(':').next().unwrap().to_owned()).unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        let mut stream = connector.connect(name, stream).await.unwrap();
        // The old version: the answer ends with the connection.
        let ask =
            format!("GET /{path} HTTP/1.0\r\nhost: {host}\r\nuser-agent: tenure-tests\r\n\r\n");
        stream.write_all(ask.as_bytes()).await.unwrap();
        let mut said = Vec::new();
        stream.read_to_end(&mut said).await.unwrap();
        let said = String::from_utf8(said).unwrap();
        let (head, body) = said.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(" 200 "), "{url}: {head}");
        body.to_owned()
    }
}

type Window = (Timestamp, Timestamp);

#[derive(Default)]
struct Opinion {
    /// What it wishes of those that it has not been asked after; none while it has no opinion.
    wish: Option<Window>,
    /// What it wished of each, by the identifier of RFC 9773: it does not change its mind.
    said: HashMap<String, Window>,
    /// Within what it wants the next one back that it is asked after.
    wants_back: Option<Window>,
}

/// The directory of an authority with the address of its opinion in it; everything else is that authority's own.
pub(super) struct Wishes {
    pub directory: String,
    opinion: Arc<Mutex<Opinion>>,
    asked: Arc<AtomicU32>,
}

impl Wishes {
    pub async fn beside(pebble: &Pebble) -> Self {
        let mut directory: Value =
            serde_json::from_str(&pebble.get(&pebble.directory).await).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!(
            "https://localhost:{}",
            listener.local_addr().unwrap().port()
        );
        directory["renewalInfo"] = json!(format!("{base}/ari"));
        let own = |name: &str| pebble.ca.with_file_name(name);
        let chain = CertificateDer::pem_file_iter(own("server.pem")).unwrap();
        let chain: Vec<_> = chain.map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_file(own("server.key")).unwrap();
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let opinion = Arc::new(Mutex::new(Opinion::default()));
        let asked = Arc::new(AtomicU32::new(0));
        let (of, count) = (Arc::clone(&opinion), Arc::clone(&asked));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, directory) = (acceptor.clone(), directory.to_string());
                let (of, count) = (Arc::clone(&of), Arc::clone(&count));
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let mut said = vec![0; 8 * 1024];
                    // One question after another over the same connection.
                    while let Ok(read @ 1..) = stream.read(&mut said).await {
                        let said = String::from_utf8_lossy(&said[..read]).into_owned();
                        let path = said.split_whitespace().nth(1).unwrap_or_default();
                        let (status, body) = match path.strip_prefix("/ari/") {
                            None => ("200 OK", directory.clone()),
                            Some(id) => {
                                count.fetch_add(1, Ordering::SeqCst);
                                of.lock().unwrap().about(id)
                            }
                        };
                        let answer = format!(
                            "HTTP/1.1 {status}\r\nretry-after: 21600\r\ncontent-type: application/json\r\n\
                             content-length: {}\r\n\r\n{body}",
                            body.len()
                        );
                        if stream.write_all(answer.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self {
            directory: format!("{base}/dir"),
            opinion,
            asked,
        }
    }

    /// From now on it wishes those that it is asked after for the first time within this.
    pub fn wish(&self, window: Window) {
        self.opinion.lock().unwrap().wish = Some(window);
    }

    /// It wants the next one back that it is asked after, within this.
    pub fn want_one_back(&self, window: Window) {
        self.opinion.lock().unwrap().wants_back = Some(window);
    }

    pub fn asked(&self) -> u32 {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Opinion {
    fn about(&mut self, id: &str) -> (&'static str, String) {
        if !self.said.contains_key(id)
            && let Some(window) = self.wants_back.take().or(self.wish)
        {
            self.said.insert(id.to_owned(), window);
        }
        match self.said.get(id) {
            Some((start, end)) => {
                let window = json!({ "start": start.to_rfc3339(), "end": end.to_rfc3339() });
                ("200 OK", json!({ "suggestedWindow": window }).to_string())
            }
            None => {
                let problem =
                    json!({ "type": "urn:ietf:params:acme:error:malformed", "status": 404 });
                ("404 Not Found", problem.to_string())
            }
        }
    }
}
