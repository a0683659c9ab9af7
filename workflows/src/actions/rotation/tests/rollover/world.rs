//! An authority, places and a prober that are real, in a time of their own; a TLS server that reads its place when it is told to; and
//! a death that comes when it is told to.
//!
//! After every change it is looked whether what must always hold holds: everybody who reads a bundle accepts what the server shows at
//! this moment, and no more than two authorities are trusted.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use connectors::connector::{
    Capabilities, Claim, Connector, Coverage, Credential, CredentialId, Cursor, Error, Health,
    Kind, NativeId, Object, ObjectRef, Operation, OperationKey, Outcome, Page, Verdict,
};
use connectors::tls::Tls;
use connectors::x509::X509;
use engine::runner::Clock as _;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::testbed::FastClock;

/// The name that the certificate is for.
pub(super) const NAME: &str = "web.example.org";
/// The places where the authority is trusted.
pub(super) const TRUSTS: [&str; 2] = ["trust", "partners"];

#[derive(Debug)]
struct At(DateTime<Utc>);

impl TimeProvider for At {
    fn current_time(&self) -> Option<UnixTime> {
        Some(unix(self.0))
    }
}

fn unix(now: DateTime<Utc>) -> UnixTime {
    let seconds = u64::try_from(now.timestamp()).unwrap();
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

fn roots(bundle: &str) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        roots.add(root.unwrap()).unwrap();
    }
    roots
}

/// How many certificates a text in PEM has.
pub(super) fn count(pem: &str) -> usize {
    pem.matches("BEGIN CERTIFICATE").count()
}

/// Shows what it has read, to whoever connects.
pub(super) struct Server {
    pub port: u16,
    folder: PathBuf,
    shows: Mutex<Option<Arc<CertifiedKey>>>,
    /// What a program holds in memory that reads its bundle when it is told to.
    pub told: Mutex<String>,
    pub read: AtomicU32,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Server")
    }
}

impl ResolvesServerCert for Server {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.shows.lock().unwrap().clone()
    }
}

impl Server {
    /// Serves from `folder`, and reads it again when somebody says so at the second port.
    async fn start(folder: &Path) -> (Arc<Self>, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let control = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let told_at = control.local_addr().unwrap().port();
        let server = Arc::new(Self {
            port: listener.local_addr().unwrap().port(),
            folder: folder.to_owned(),
            shows: Mutex::default(),
            told: Mutex::default(),
            read: AtomicU32::new(0),
        });
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&server) as Arc<dyn ResolvesServerCert>);
        let acceptor = TlsAcceptor::from(Arc::new(config));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    if let Ok(mut stream) = acceptor.accept(stream).await {
                        let _ = stream.shutdown().await;
                    }
                });
            }
        });
        let reads = Arc::clone(&server);
        tokio::spawn(async move {
            while let Ok((stream, _)) = control.accept().await {
                let mut stream = BufReader::new(stream);
                let mut bundle = String::new();
                let _ = stream.read_line(&mut bundle).await;
                let answer = match reads.reload(bundle.trim()) {
                    Ok(()) => "ok\n".to_owned(),
                    Err(why) => format!("{why}\n"),
                };
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        (server, told_at)
    }

    fn reload(&self, bundle: &str) -> Result<(), String> {
        let read = |name: &str| {
            std::fs::read(self.folder.join(bundle).join(name)).map_err(|error| error.to_string())
        };
        if bundle == TRUSTS[0] {
            let text = String::from_utf8(read("ca.pem")?).map_err(|error| error.to_string())?;
            *self.told.lock().unwrap() = text;
            return Ok(());
        }
        let chain = CertificateDer::pem_slice_iter(&read("tls.crt")?)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| error.to_string())?;
        let key =
            PrivateKeyDer::from_pem_slice(&read("tls.key")?).map_err(|error| error.to_string())?;
        let provider = rustls::crypto::ring::default_provider();
        let key =
            CertifiedKey::from_der(chain, key, &provider).map_err(|error| error.to_string())?;
        *self.shows.lock().unwrap() = Some(Arc::new(key));
        self.read.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    /// What it shows now, by name.
    pub fn shown(&self) -> Option<CredentialId> {
        let shows = self.shows.lock().unwrap().clone()?;
        Some(CredentialId::of_certificate(&shows.cert[0]))
    }

    /// Why somebody who trusts a bundle would not go on.
    fn refused(&self, bundle: &str, now: DateTime<Utc>) -> Option<String> {
        let shows = self.shows.lock().unwrap().clone()?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots(bundle)), provider)
                .build()
                .unwrap();
        let (leaf, above) = shows.cert.split_first().unwrap();
        let name = ServerName::try_from(NAME).unwrap();
        // Without the way from the root before: not every authority gives one.
        let judged = verifier.verify_server_cert(leaf, &above[..1], &name, &[], unix(now));
        judged.err().map(|error| error.to_string())
    }

    /// Connects as a program does that trusts a bundle and nothing else.
    pub async fn connect(&self, bundle: &str, now: DateTime<Utc>) -> Result<(), String> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_details(provider, Arc::new(At(now)))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots(bundle))
            .with_no_client_auth();
        let stream = TcpStream::connect(("127.0.0.1", self.port))
            .await
            .map_err(|error| error.to_string())?;
        TlsConnector::from(Arc::new(config))
            .connect(ServerName::try_from(NAME).unwrap(), stream)
            .await
            .map(drop)
            .map_err(|error| error.to_string())
    }
}

/// What is looked at after every change, and the death.
pub(super) struct World {
    pub root: tempfile::TempDir,
    pub clock: Arc<FastClock>,
    pub ca: Arc<dyn Connector>,
    pub server: Arc<Server>,
    pub dies: Arc<Notify>,
    calls: AtomicU32,
    dies_at: Mutex<Option<(u32, bool)>>,
    pub broken: Mutex<Vec<String>>,
    places: Arc<dyn Connector>,
}

impl World {
    pub async fn open(clock: Arc<FastClock>) -> Arc<Self> {
        let root = tempfile::tempdir().unwrap();
        let kept = root.path().join("places");
        std::fs::create_dir(&kept).unwrap();
        let (server, told_at) = Server::start(&kept).await;
        let hook = root.path().join("reload");
        let script = format!(
            "#!/bin/bash\nexec 3<>/dev/tcp/127.0.0.1/{told_at} || exit 1\necho \"$TENURE_BUNDLE\" >&3\nread -r answer <&3\n\
             [ \"$answer\" = ok ] || {{ echo \"$answer\" >&2; exit 1; }}\n"
        );
        std::fs::write(&hook, script).unwrap();
        let reload = json!({ "command": ["/bin/bash", hook] });
        let trust = json!({ "bundle": { "file": "ca.pem" } });
        let places = json!({
            "root": kept,
            "bundles": {
                "web": {
                    "parts": {
                        "certificate": { "file": "tls.crt" },
                        "key": { "file": "tls.key" },
                        "id": { "file": "id" },
                    },
                    "reload": reload,
                },
                "trust": { "parts": trust, "reload": reload },
                "partners": { "parts": trust },
            },
        });
        let places = connectors::registry::build("places", "file", places).unwrap();
        let ca = x509(&root.path().join("ca"), "Example internal", &clock);
        Arc::new(Self {
            root,
            clock,
            ca,
            server,
            dies: Arc::default(),
            calls: AtomicU32::new(0),
            dies_at: Mutex::default(),
            broken: Mutex::default(),
            places,
        })
    }

    /// The systems as Tenure sees them.
    pub fn systems(self: &Arc<Self>) -> Vec<(&'static str, Arc<dyn Connector>)> {
        let time = Arc::clone(&self.clock);
        let edge = Tls::with_clock(
            "edge",
            json!({ "anywhere": true }),
            Arc::new(move || time.now()),
        );
        let watched = |inner: Arc<dyn Connector>| -> Arc<dyn Connector> {
            Arc::new(Watched {
                inner,
                world: Arc::clone(self),
            })
        };
        vec![
            ("ca", watched(Arc::clone(&self.ca))),
            ("places", watched(Arc::clone(&self.places))),
            ("edge", watched(Arc::new(edge.unwrap()))),
        ]
    }

    pub fn file(&self, place: &str, name: &str) -> String {
        let path = self.root.path().join("places").join(place).join(name);
        std::fs::read_to_string(path).unwrap_or_default()
    }

    pub fn bundle(&self, place: &str) -> String {
        self.file(place, "ca.pem")
    }

    /// Puts the roots that are trusted at the beginning where they are read: in the second place beside that of somebody else.
    pub async fn first_trust(&self) -> String {
        let elsewhere = self.root.path().join("other");
        let other = x509(&elsewhere, "Somebody else", &self.clock);
        let generation = Operation::IssueCredential(super::asked("x.example.org", "x"));
        other.apply(&generation, &key("x")).await.unwrap();
        let other = std::fs::read_to_string(elsewhere.join("bundle.pem")).unwrap();
        let ours = std::fs::read_to_string(self.root.path().join("ca/bundle.pem")).unwrap();
        for (place, bundle) in [
            (TRUSTS[0], ours.clone()),
            (TRUSTS[1], format!("# partners\n{other}{ours}")),
        ] {
            let (account, credential) = (NativeId::new(place), CredentialId::new("by-hand"));
            let store = Operation::StoreCredential(connectors::connector::StoredCredential {
                account: account.clone(),
                credential: credential.clone(),
                parts: [("bundle".to_owned(), bundle.into())].into(),
            });
            let show = Operation::ActivateCredential {
                account,
                credential,
            };
            for operation in [store, show] {
                self.places.apply(&operation, &key("first")).await.unwrap();
            }
        }
        other
    }

    /// Those of the authority that are trusted.
    pub async fn generations(&self) -> Vec<CredentialId> {
        let listed = self.ca.credentials(&NativeId::new("authority")).await;
        listed
            .unwrap()
            .value
            .into_iter()
            .map(|one| one.id)
            .collect()
    }

    /// How many versions a place keeps.
    pub async fn kept(&self, place: &str) -> usize {
        let listed = self.places.credentials(&NativeId::new(place)).await;
        listed.unwrap().value.len()
    }

    /// Those that were issued to somebody and are not ended.
    pub async fn issued_to(&self, holder: &str) -> Vec<CredentialId> {
        let listed = self.ca.credentials(&NativeId::new(holder)).await;
        listed
            .unwrap()
            .value
            .into_iter()
            .map(|one| one.id)
            .collect()
    }

    /// From now on the call of this number is never answered.
    pub fn die_at(&self, call: u32, has_effect: bool) {
        *self.dies_at.lock().unwrap() = Some((call, has_effect));
    }

    pub fn calls(&self) -> u32 {
        self.calls.load(Ordering::SeqCst)
    }

    /// Counts a call, and dies with it if that was told. Gives whether it is to have its effect first.
    async fn called(&self) -> bool {
        let now = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        let dies = self
            .dies_at
            .lock()
            .unwrap()
            .filter(|(call, _)| *call == now);
        match dies {
            None => false,
            Some((_, true)) => true,
            Some((_, false)) => self.die().await,
        }
    }

    async fn die<T>(&self) -> T {
        self.dies.notify_one();
        std::future::pending().await
    }

    async fn look(&self, after: &str) {
        let mut broken = Vec::new();
        let now = self.clock.now();
        for place in TRUSTS {
            let bundle = self.bundle(place);
            if !bundle.is_empty()
                && let Some(why) = self.server.refused(&bundle, now)
            {
                broken.push(format!("{place} does not accept it after {after}: {why}"));
            }
        }
        let trusted = self.generations().await.len();
        if trusted > 2 {
            broken.push(format!("{trusted} authorities after {after}"));
        }
        self.broken.lock().unwrap().extend(broken);
    }
}

fn x509(folder: &Path, subject: &str, clock: &Arc<FastClock>) -> Arc<dyn Connector> {
    let settings = json!({
        "folder": folder, "subject": subject, "create": true, "names": [".example.org"],
    });
    let time = Arc::clone(clock);
    Arc::new(X509::with_clock("ca", settings, Arc::new(move || time.now())).unwrap())
}

pub(super) fn key(name: &str) -> OperationKey {
    OperationKey {
        idempotency: name.to_owned(),
        attempt: 1,
        epoch: 1,
    }
}

/// A system that is counted, and dies with its node.
struct Watched {
    inner: Arc<dyn Connector>,
    world: Arc<World>,
}

impl Watched {
    async fn before(&self) -> bool {
        self.world.called().await
    }

    async fn after<T>(&self, dies: bool, answer: T) -> T {
        if dies {
            return self.world.die().await;
        }
        answer
    }
}

#[async_trait]
impl Connector for Watched {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn check(&self) -> Result<Health, Error> {
        self.inner.check().await
    }

    async fn list(&self, kind: Kind, after: Option<Cursor>) -> Result<Page, Error> {
        self.inner.list(kind, after).await
    }

    async fn get(&self, object: &ObjectRef) -> Result<Option<Object>, Error> {
        let dies = self.before().await;
        let answer = self.inner.get(object).await;
        self.after(dies, answer).await
    }

    async fn apply(&self, operation: &Operation, key: &OperationKey) -> Result<Outcome, Error> {
        let dies = self.before().await;
        let answer = self.inner.apply(operation, key).await;
        self.world.look(operation.name().as_str()).await;
        self.after(dies, answer).await
    }

    async fn verify(&self, claim: &Claim) -> Result<Verdict, Error> {
        let dies = self.before().await;
        let answer = self.inner.verify(claim).await;
        self.after(dies, answer).await
    }

    async fn credentials(&self, account: &NativeId) -> Result<Coverage<Vec<Credential>>, Error> {
        let dies = self.before().await;
        let answer = self.inner.credentials(account).await;
        self.after(dies, answer).await
    }
}
