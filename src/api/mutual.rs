//! The events' door for sources that show a certificate instead of a token or a signature.
//!
//! A listener of its own, which speaks TLS and lets nobody in whose certificate a configured authority did not sign. A name in
//! the certificate says which source it is; only events and heartbeats of that source come in here, and nothing goes out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use axum::Router;
use axum::extract::Request;
use axum::http::Method;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use workflows::config::MutualTlsSettings;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::problem::ApiError;

/// How long a caller may take to agree on keys.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// The source whose certificate a connection has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Peer(pub String);

/// How such connections are made. Cheap to clone.
#[derive(Clone)]
pub struct MutualTls {
    acceptor: TlsAcceptor,
    subjects: Arc<BTreeMap<String, String>>,
}

impl MutualTls {
    /// Reads certificates and key. Relative files lie below `root`.
    ///
    /// # Errors
    /// The first that is missing or is none, and subjects of sources that there are not.
    pub fn open<'a>(
        settings: &MutualTlsSettings,
        root: &Path,
        sources: impl Iterator<Item = &'a String>,
    ) -> anyhow::Result<Self> {
        let sources: BTreeSet<&String> = sources.collect();
        for (subject, source) in &settings.subjects {
            ensure!(
                sources.contains(source),
                "`api.mutual_tls.subjects` names the source `{source}`, and there is none of that name"
            );
            ensure!(
                ["CN=", "DNS:", "URI:"]
                    .iter()
                    .any(|kind| subject.starts_with(kind)),
                "`{subject}` in `api.mutual_tls.subjects` is no name; write `CN=...`, `DNS:...` or `URI:...`"
            );
        }
        ensure!(
            !settings.subjects.is_empty(),
            "`api.mutual_tls.subjects` is empty, so nobody could come in"
        );
        let authorities = certificates(&root.join(&settings.client_ca))?;
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            roots
                .add(authority)
                .context("`api.mutual_tls.client_ca` holds something that is no authority")?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .build()
                .context("`api.mutual_tls.client_ca` cannot be used")?;
        let chain = certificates(&root.join(&settings.certificate))?;
        let key_file = root.join(&settings.key);
        let key = PrivateKeyDer::from_pem_file(&key_file)
            .map_err(|_| anyhow::anyhow!("`{}` holds no private key (PEM)", key_file.display()))?;
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .context("TLS cannot be set up")?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .context("`api.mutual_tls.certificate` and `key` do not fit each other")?;
        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            subjects: Arc::new(settings.subjects.clone()),
        })
    }

    /// Agrees on keys, and tells which source it is.
    ///
    /// # Errors
    /// When the certificate is not signed by the authority, or names no source, or more than one.
    pub(super) async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
    ) -> anyhow::Result<(TlsStream<S>, Peer)> {
        let agreed = tokio::time::timeout(HANDSHAKE_TIMEOUT, self.acceptor.accept(stream)).await;
        let stream = agreed.context("took too long")??;
        let (_, connection) = stream.get_ref();
        let shown = connection
            .peer_certificates()
            .and_then(|chain| chain.first());
        let peer = self.peer(shown.context("no certificate was shown")?)?;
        Ok((stream, peer))
    }

    fn peer(&self, certificate: &CertificateDer<'_>) -> anyhow::Result<Peer> {
        let names = names(certificate)?;
        let sources: BTreeSet<&String> = names
            .iter()
            .filter_map(|name| self.subjects.get(name))
            .collect();
        let mut sources = sources.into_iter();
        match (sources.next(), sources.next()) {
            (Some(source), None) => Ok(Peer(source.clone())),
            (None, _) => bail!("the certificate names no source"),
            (Some(_), Some(_)) => bail!("the certificate names more than one source"),
        }
    }
}

/// What a certificate says whose it is.
fn names(certificate: &CertificateDer<'_>) -> anyhow::Result<Vec<String>> {
    let (_, certificate) = X509Certificate::from_der(certificate)
        .map_err(|_| anyhow::anyhow!("the certificate cannot be read"))?;
    let mut names = Vec::new();
    for name in certificate.subject().iter_common_name() {
        names.extend(name.as_str().ok().map(|name| format!("CN={name}")));
    }
    let others = certificate.subject_alternative_name().ok().flatten();
    for name in others.iter().flat_map(|others| &others.value.general_names) {
        match name {
            GeneralName::DNSName(name) => names.push(format!("DNS:{name}")),
            GeneralName::URI(name) => names.push(format!("URI:{name}")),
            _ => {}
        }
    }
    Ok(names)
}

fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let shown = path.display();
    let found = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|_| anyhow::anyhow!("`{shown}` holds no certificates (PEM)"))?;
    ensure!(!found.is_empty(), "`{shown}` holds no certificates (PEM)");
    Ok(found)
}

/// What of the API can be reached with a certificate.
pub fn router(whole: Router) -> Router {
    whole.layer(middleware::from_fn(only_its_own))
}

async fn only_its_own(request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let of = path
        .strip_prefix("/v1/sources/")
        .and_then(|rest| rest.split_once('/'));
    let own = request
        .extensions()
        .get::<Peer>()
        .zip(of)
        .is_some_and(|(peer, (source, what))| {
            peer.0 == source && matches!(what, "events" | "heartbeat")
        });
    let clean = !request
        .headers()
        .contains_key(axum::http::header::AUTHORIZATION);
    if own && clean && request.method() == Method::POST {
        return next.run(request).await;
    }
    tracing::warn!("a request with a certificate asked for something else");
    ApiError::Unsigned.into_response()
}
