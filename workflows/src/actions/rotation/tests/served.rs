//! A TLS server that reads its certificates again when it is told to, and clients that connect to it all the time.
//!
//! The program that the `file` connector runs after a switch speaks to a port of the server and is answered when the new
//! certificate is shown, or why it is not, as `nginx -s reload` would. Clients look at everything: the chain up to a root they trust,
//! the name, the time, that the server has the key, and the list of the revoked where there is one.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use connectors::connector::{
    Capabilities, Claim, Connector, Coverage, Credential, CredentialId, Cursor, Error, ErrorKind,
    Health, Kind, NativeId, Object, ObjectRef, Operation, OperationKey, Outcome, Page, Verdict,
};
use engine::runner::Clock as _;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, UnixTime,
};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::world::World;
use crate::testbed::FastClock;

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

// --- the server --------------------------------------------------------------------------------------------

/// What the server does when it is told to read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mood {
    Reads,
    /// Says that it did, and goes on with what it has.
    Deaf,
    /// Says no, as one does that finds a mistake in its configuration.
    Refuses,
}

/// What is shown, by the first label of the name that is asked for: that is what its bundle is called.
#[derive(Debug)]
struct Shows {
    root: PathBuf,
    keys: Mutex<HashMap<String, Arc<CertifiedKey>>>,
    mood: Mutex<Mood>,
    reads: AtomicU32,
}

impl ResolvesServerCert for Shows {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let bundle = hello.server_name()?.split('.').next()?;
        self.keys.lock().unwrap().get(bundle).cloned()
    }
}

impl Shows {
    fn read(&self, bundle: &str) -> Result<(), String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        // Looked up once, so that both files are of one version.
        let folder = std::fs::canonicalize(self.root.join(bundle).join("current"));
        let folder = folder.map_err(|error| text(&error))?;
        let chain = CertificateDer::pem_file_iter(folder.join("tls.crt"));
        let chain = chain.map_err(|error| text(&error))?;
        let chain: Vec<_> = chain
            .collect::<Result<_, _>>()
            .map_err(|error| text(&error))?;
        let key = PrivateKeyDer::from_pem_file(folder.join("tls.key"));
        let key = key.map_err(|error| text(&error))?;
        let key = CertifiedKey::from_der(chain, key, &provider()).map_err(|error| text(&error))?;
        let mut keys = self.keys.lock().unwrap();
        keys.insert(bundle.to_owned(), Arc::new(key));
        self.reads.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn told(&self, bundle: &str) -> Result<(), String> {
        let mood = *self.mood.lock().unwrap();
        match mood {
            Mood::Reads => self.read(bundle),
            Mood::Deaf => Ok(()),
            Mood::Refuses => Err("there is a mistake in line 7".to_owned()),
        }
    }
}

/// A server for all bundles below a folder.
pub(super) struct Server {
    pub port: u16,
    control: u16,
    shows: Arc<Shows>,
}

async fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

impl Server {
    pub async fn start(root: &Path) -> Self {
        let shows = Arc::new(Shows {
            root: root.to_owned(),
            keys: Mutex::default(),
            mood: Mutex::new(Mood::Reads),
            reads: AtomicU32::new(0),
        });
        let resolver: Arc<dyn ResolvesServerCert> = shows.clone();
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(resolver);
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let (listener, port) = listen().await;
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    // Whoever only looks hangs up here.
                    if let Ok(mut stream) = acceptor.accept(stream).await {
                        let _ = stream.write_all(b"ok").await;
                        let _ = stream.shutdown().await;
                    }
                });
            }
        });
        let (listener, control) = listen().await;
        let told = Arc::clone(&shows);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let told = Arc::clone(&told);
                tokio::spawn(async move {
                    let mut stream = BufReader::new(stream);
                    let mut bundle = String::new();
                    let _ = stream.read_line(&mut bundle).await;
                    let answer = match told.told(bundle.trim()) {
                        Ok(()) => "ok\n".to_owned(),
                        Err(why) => format!("{why}\n"),
                    };
                    let _ = stream.get_mut().write_all(answer.as_bytes()).await;
                });
            }
        });
        Self {
            port,
            control,
            shows,
        }
    }

    /// What a bundle runs after a switch.
    pub fn reload(&self) -> Value {
        let script = format!(
            "exec 3<>/dev/tcp/127.0.0.1/{} && echo \"$TENURE_BUNDLE\" >&3 && read -r said <&3 && [ \"$said\" = ok ] && exit 0\n\
             echo \"$said\" >&2; exit 1",
            self.control
        );
        json!({ "command": ["/bin/bash", "-c", script], "timeout_ms": 10_000 })
    }

    /// A bundle of the place that the server reads.
    pub fn bundle(&self) -> Value {
        json!({
            "parts": {
                "certificate": { "file": "tls.crt" },
                "key": { "file": "tls.key" },
                "id": { "file": "tls.id" },
            },
            "reload": self.reload(),
        })
    }

    /// As a prober of kind `tls` takes it.
    pub fn endpoint(&self, name: &str) -> String {
        format!("127.0.0.1:{}?name={name}", self.port)
    }

    pub fn set(&self, mood: Mood) {
        *self.shows.mood.lock().unwrap() = mood;
    }

    /// As an operator would make it read.
    pub fn read(&self, bundle: &str) {
        self.shows.read(bundle).unwrap();
    }

    pub fn reads(&self) -> u32 {
        self.shows.reads.load(Ordering::SeqCst)
    }

    /// What each bundle shows.
    pub fn shown(&self) -> BTreeMap<String, CredentialId> {
        let keys = self.shows.keys.lock().unwrap();
        let shown = keys
            .iter()
            .map(|(bundle, key)| (bundle.clone(), CredentialId::of_certificate(&key.cert[0])));
        shown.collect()
    }
}

// --- clients -----------------------------------------------------------------------------------------------

struct At(Arc<FastClock>);

impl std::fmt::Debug for At {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0.now())
    }
}

impl TimeProvider for At {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(self.0.now().timestamp()).unwrap();
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

/// Whom clients trust, at what time, and which list of the revoked they read.
pub(super) struct Trust {
    /// Files, read for each connection.
    roots: PathBuf,
    lists: Option<PathBuf>,
    clock: Arc<FastClock>,
}

impl Trust {
    pub fn new(roots: PathBuf, lists: Option<PathBuf>, clock: Arc<FastClock>) -> Self {
        Self {
            roots,
            lists,
            clock,
        }
    }

    pub fn has_lists(&self) -> bool {
        self.lists.is_some()
    }

    fn verifier(&self) -> Arc<WebPkiServerVerifier> {
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_file_iter(&self.roots).unwrap() {
            roots.add(root.unwrap()).unwrap();
        }
        let mut builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider());
        if let Some(path) = &self.lists {
            let lists = CertificateRevocationListDer::pem_file_iter(path).unwrap();
            builder = builder
                .with_crls(lists.map(Result::unwrap))
                .only_check_end_entity_revocation();
        }
        builder.build().unwrap()
    }

    /// Why nobody accepts a certificate now; `None` when it is good.
    pub fn refused(&self, chain: &[CertificateDer<'static>], name: &str) -> Option<String> {
        let (leaf, above) = chain.split_first().unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let now = At(Arc::clone(&self.clock)).current_time().unwrap();
        let judged = self
            .verifier()
            .verify_server_cert(leaf, above, &name, &[], now);
        judged.err().map(|error| error.to_string())
    }

    /// Connects, looks at everything, and gives the chain that was shown.
    pub async fn connect(
        &self,
        port: u16,
        name: &str,
    ) -> Result<Vec<CertificateDer<'static>>, String> {
        let text = |error: std::io::Error| error.to_string();
        let time = Arc::new(At(Arc::clone(&self.clock)));
        let mut config = ClientConfig::builder_with_details(provider(), time)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_webpki_verifier(self.verifier())
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        let stream = TcpStream::connect(("127.0.0.1", port))
            .await
            .map_err(text)?;
        let server = ServerName::try_from(name.to_owned()).unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        let mut stream = connector.connect(server, stream).await.map_err(text)?;
        let mut said = Vec::new();
        stream.read_to_end(&mut said).await.map_err(text)?;
        if said != b"ok" {
            return Err(format!("the server says {said:?}"));
        }
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        Ok(chain.iter().map(|one| one.clone().into_owned()).collect())
    }
}

/// What clients saw.
#[derive(Default)]
pub(super) struct Seen {
    ends: AtomicBool,
    handshakes: AtomicU32,
    failures: Mutex<Vec<String>>,
    /// What is known to be revoked, and since when.
    revoked: Mutex<HashMap<CredentialId, Instant>>,
}

impl Seen {
    /// From now on nobody may be shown it.
    pub fn revoked(&self, id: CredentialId) {
        let mut revoked = self.revoked.lock().unwrap();
        revoked.entry(id).or_insert_with(Instant::now);
    }

    pub fn handshakes(&self) -> u32 {
        self.handshakes.load(Ordering::SeqCst)
    }

    fn fails(&self, name: &str, why: &str) {
        let mut failures = self.failures.lock().unwrap();
        failures.push(format!("{name}: {why}"));
    }
}

/// Clients that connect by all the names until they are stopped.
pub(super) struct Clients {
    pub seen: Arc<Seen>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Clients {
    pub fn start(
        count: u64,
        pause: Duration,
        trust: &Arc<Trust>,
        port: u16,
        names: &Arc<Vec<String>>,
    ) -> Self {
        let seen = Arc::new(Seen::default());
        let tasks = (0..count)
            .map(|number| {
                let client = Client {
                    trust: Arc::clone(trust),
                    port,
                    names: Arc::clone(names),
                    pause,
                    draw: number,
                    seen: Arc::clone(&seen),
                };
                tokio::spawn(client.connects())
            })
            .collect();
        Self { seen, tasks }
    }

    /// Gives how many handshakes there were. None of them may have failed.
    pub async fn stop(self) -> u32 {
        self.seen.ends.store(true, Ordering::SeqCst);
        for task in self.tasks {
            task.await.unwrap();
        }
        let failures = self.seen.failures.lock().unwrap();
        let handshakes = self.seen.handshakes();
        assert!(
            failures.is_empty(),
            "{} of {handshakes} failed: {:#?}",
            failures.len(),
            failures.iter().take(5).collect::<Vec<_>>()
        );
        handshakes
    }
}

struct Client {
    trust: Arc<Trust>,
    port: u16,
    names: Arc<Vec<String>>,
    pause: Duration,
    draw: u64,
    seen: Arc<Seen>,
}

impl Client {
    async fn connects(mut self) {
        let seen = Arc::clone(&self.seen);
        while !seen.ends.load(Ordering::SeqCst) {
            self.draw = self
                .draw
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let place = usize::try_from(self.draw >> 33).unwrap() % self.names.len();
            let (name, began) = (&self.names[place], Instant::now());
            match self.trust.connect(self.port, name).await {
                Ok(chain) => {
                    seen.handshakes.fetch_add(1, Ordering::SeqCst);
                    let id = CredentialId::of_certificate(&chain[0]);
                    let since = seen.revoked.lock().unwrap().get(&id).copied();
                    if since.is_some_and(|since| since < began) {
                        seen.fails(name, "what is shown was revoked before");
                    }
                }
                Err(why) => seen.fails(name, &why),
            }
            // sleeps: between two connections
            tokio::time::sleep(self.pause).await;
        }
    }
}

// --- systems that the node dies at -------------------------------------------------------------------------

/// A real system at whose calls the node may die, before their effect or after it.
pub(super) struct Mortal {
    inner: Arc<dyn Connector>,
    world: World,
    /// Of whom never more than two credentials may be good.
    holder: Option<&'static str>,
}

impl Mortal {
    pub fn over(
        inner: Arc<dyn Connector>,
        world: &World,
        holder: Option<&'static str>,
    ) -> Arc<dyn Connector> {
        Arc::new(Self {
            inner,
            world: world.clone(),
            holder,
        })
    }

    async fn died(&self) -> Error {
        self.world.dies_until_gone().await;
        Error::new(ErrorKind::Unreachable, "the node has died")
    }

    async fn around<T>(&self, call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        match self.world.counted() {
            None => call.await,
            Some(false) => Err(self.died().await),
            Some(true) => {
                let _ = call.await;
                Err(self.died().await)
            }
        }
    }
}

#[async_trait]
impl Connector for Mortal {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn check(&self) -> Result<Health, Error> {
        self.inner.check().await
    }

    async fn list(&self, kind: Kind, after: Option<Cursor>) -> Result<Page, Error> {
        self.around(self.inner.list(kind, after)).await
    }

    async fn get(&self, object: &ObjectRef) -> Result<Option<Object>, Error> {
        self.around(self.inner.get(object)).await
    }

    async fn apply(&self, operation: &Operation, key: &OperationKey) -> Result<Outcome, Error> {
        let applied = async {
            let done = self.inner.apply(operation, key).await;
            if let Some(holder) = self.holder {
                let listed = self.inner.credentials(&NativeId::new(holder)).await?;
                let good = listed.value.iter().filter(|one| one.active == Some(true));
                let good = good.count();
                if good > 2 {
                    self.world
                        .broke(format!("{good} are good after {:?}", operation.name()));
                }
            }
            done
        };
        self.around(applied).await
    }

    async fn verify(&self, claim: &Claim) -> Result<Verdict, Error> {
        self.around(self.inner.verify(claim)).await
    }

    async fn credentials(&self, account: &NativeId) -> Result<Coverage<Vec<Credential>>, Error> {
        self.around(self.inner.credentials(account)).await
    }
}
