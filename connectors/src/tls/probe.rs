//! A handshake, to see what is shown.
//!
//! Whatever is shown is looked at, trusted or not: a certificate that ended yesterday is just what one wants to hear of. But it
//! counts only if the other side proves in the handshake that it has the key; a certificate is public and anybody can show
//! it. Whether it would be trusted is found out beside.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use serde::Serialize;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::settings::Endpoint;
use super::starttls;
use crate::connector::{CredentialId, Error, ErrorKind};

/// How many certificates of a chain are told.
const CHAIN_MAX: usize = 10;
/// The longest name that is told.
const NAME_CHARS_MAX: usize = 200;

/// What one address showed.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Shown {
    pub address: SocketAddr,
    /// The leaf first.
    pub chain: Vec<Certificate>,
    /// Why somebody who trusts what we trust would not go on.
    pub not_trusted: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct Certificate {
    pub id: CredentialId,
    pub subject: String,
    pub issuer: String,
    pub not_after: Option<DateTime<Utc>>,
}

/// Looks at everything and refuses nothing.
#[derive(Debug)]
struct Looking {
    provider: Arc<CryptoProvider>,
    judge: Option<Arc<WebPkiServerVerifier>>,
    now: UnixTime,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    chain: Vec<CertificateDer<'static>>,
    not_trusted: Option<String>,
    /// The other side has the key.
    proven: bool,
}

impl Looking {
    fn proven(&self) {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .proven = true;
    }
}

impl ServerCertVerifier for Looking {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let not_trusted = match &self.judge {
            None => Some("no roots to trust are set up here; set `ca_file`".to_owned()),
            Some(judge) => judge
                .verify_server_cert(leaf, intermediates, server_name, ocsp, self.now)
                .err()
                .map(|error| error.to_string()),
        };
        let chain = std::iter::once(leaf).chain(intermediates);
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Seen {
            chain: chain
                .take(CHAIN_MAX)
                .map(|certificate| certificate.clone().into_owned())
                .collect(),
            not_trusted,
            proven: false,
        };
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
            .inspect(|_| self.proven())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
            .inspect(|_| self.proven())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// Asks one address. What it shows is judged as of `now`. Bounded by `limit`, whatever the other side does.
///
/// # Errors
/// Nothing was shown that counts: [`ErrorKind::Timeout`], or [`ErrorKind::Transient`] with what happened instead.
pub(super) async fn ask(
    endpoint: &Endpoint,
    address: SocketAddr,
    judge: Option<Arc<WebPkiServerVerifier>>,
    now: DateTime<Utc>,
    limit: Duration,
) -> Result<Shown, Error> {
    let place = format!("`{}:{}` at {address}", endpoint.host, endpoint.port);
    let looking = Arc::new(Looking {
        provider: Arc::new(rustls::crypto::ring::default_provider()),
        judge,
        now: UnixTime::since_unix_epoch(Duration::from_secs(
            u64::try_from(now.timestamp()).unwrap_or_default(),
        )),
        seen: Mutex::default(),
    });
    let shaken = tokio::time::timeout(limit, shake(endpoint, address, &looking)).await;
    let seen = std::mem::take(&mut *looking.seen.lock().unwrap_or_else(PoisonError::into_inner));
    // A server that wants a certificate of ours may end the handshake; by then it has shown its own.
    if seen.proven {
        return Ok(Shown {
            address,
            chain: seen.chain.iter().map(told).collect(),
            not_trusted: seen.not_trusted,
        });
    }
    match shaken {
        Err(_) => Err(Error::new(
            ErrorKind::Timeout,
            format!(
                "{place} showed no certificate within {} ms",
                limit.as_millis()
            ),
        )),
        Ok(Err(what)) => Err(Error::new(
            ErrorKind::Transient,
            format!("{place} showed no certificate: {what}"),
        )),
        Ok(Ok(())) => Err(Error::new(
            ErrorKind::Transient,
            format!("{place} agreed on TLS without a certificate"),
        )),
    }
}

async fn shake(
    endpoint: &Endpoint,
    address: SocketAddr,
    looking: &Arc<Looking>,
) -> Result<(), String> {
    let mut stream = TcpStream::connect(address)
        .await
        .map_err(|error| format!("no connection: {error}"))?;
    if let Some(protocol) = endpoint.starttls {
        starttls::ask(&mut stream, protocol).await?;
    }
    let provider = Arc::clone(&looking.provider);
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(looking) as Arc<dyn ServerCertVerifier>)
        .with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));
    let shaken = connector
        .connect(endpoint.server_name.clone(), stream)
        .await;
    shaken.map(drop).map_err(|error| error.to_string())
}

fn told(der: &CertificateDer<'_>) -> Certificate {
    let short = |text: String| text.chars().take(NAME_CHARS_MAX).collect();
    let parsed = X509Certificate::from_der(der)
        .ok()
        .map(|(_, parsed)| parsed);
    let unreadable = || "unreadable".to_owned();
    Certificate {
        id: CredentialId::of_certificate(der),
        subject: parsed
            .as_ref()
            .map_or_else(unreadable, |parsed| short(parsed.subject().to_string())),
        issuer: parsed
            .as_ref()
            .map_or_else(unreadable, |parsed| short(parsed.issuer().to_string())),
        not_after: parsed.and_then(|parsed| {
            DateTime::from_timestamp(parsed.validity().not_after.timestamp(), 0)
        }),
    }
}
