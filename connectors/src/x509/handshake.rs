//! Tries a certificate and its key by a TLS handshake, in memory, against somebody who trusts the authority.
//!
//! It fails as a real one fails: a key that belongs to another certificate, a certificate that ended, that is on the list
//! of the revoked, whose authority nobody trusts any more, or that is for something else.

use std::io::Cursor;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName, UnixTime,
};
use rustls::server::WebPkiClientVerifier;
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// How often the two sides take turns: a handshake needs three.
const TURNS_MAX: usize = 20;

/// What is tried, and who looks at it.
pub(super) struct Trial<'a> {
    /// In PEM: the leaf, then what leads from it to the root.
    pub chain: &'a str,
    /// In PEM.
    pub key: &'a str,
    /// In PEM: the roots that are trusted.
    pub bundle: &'a str,
    pub revoked: Vec<Vec<u8>>,
    pub now: DateTime<Utc>,
}

#[derive(Debug)]
struct At(DateTime<Utc>);

impl TimeProvider for At {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(self.0.timestamp()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

impl Trial<'_> {
    /// Shakes hands.
    ///
    /// # Errors
    /// In words, why nobody accepts it.
    pub fn run(&self) -> Result<(), String> {
        let chain = certificates(self.chain)?;
        let leaf = chain.first().ok_or("there is no certificate")?;
        let (_, parsed) = X509Certificate::from_der(leaf).map_err(|error| error.to_string())?;
        let for_servers = parsed
            .extended_key_usage()
            .map_err(|error| error.to_string())?
            .is_none_or(|usage| usage.value.server_auth || usage.value.any);
        let name = first_name(&parsed);
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes())
            .map_err(|error| format!("the secret is no private key in PEM: {error}"))?;
        if for_servers {
            self.as_server(chain.clone(), key, name.ok_or("it names no host")?)
        } else {
            self.as_client(chain.clone(), key)
        }
    }

    fn as_server(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        name: ServerName<'static>,
    ) -> Result<(), String> {
        let provider = provider();
        let server = ServerConfig::builder_with_details(Arc::clone(&provider), self.clock())
            .with_safe_default_protocol_versions()
            .and_then(|config| config.with_no_client_auth().with_single_cert(chain, key))
            .map_err(|error| error.to_string())?;
        let verifier =
            WebPkiServerVerifier::builder_with_provider(self.roots()?, Arc::clone(&provider))
                .with_crls(self.lists())
                .only_check_end_entity_revocation()
                .build()
                .map_err(|error| error.to_string())?;
        let client = ClientConfig::builder_with_details(provider, self.clock())
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_webpki_verifier(verifier)
            .with_no_client_auth();
        shake(client, server, name)
    }

    fn as_client(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<(), String> {
        // Somebody to talk to, who exists only here.
        let peer = rcgen::generate_simple_self_signed(["peer".to_owned()])
            .map_err(|error| error.to_string())?;
        let peer_key = PrivateKeyDer::try_from(peer.signing_key.serialize_der())
            .map_err(ToString::to_string)?;
        let peer_certificate = peer.cert.der().clone();
        let provider = provider();
        let verifier =
            WebPkiClientVerifier::builder_with_provider(self.roots()?, Arc::clone(&provider))
                .with_crls(self.lists())
                .only_check_end_entity_revocation()
                .build()
                .map_err(|error| error.to_string())?;
        let server = ServerConfig::builder_with_details(Arc::clone(&provider), self.clock())
            .with_safe_default_protocol_versions()
            .and_then(|config| {
                config
                    .with_client_cert_verifier(verifier)
                    .with_single_cert(vec![peer_certificate.clone()], peer_key)
            })
            .map_err(|error| error.to_string())?;
        let mut trusted = RootCertStore::empty();
        trusted
            .add(peer_certificate)
            .map_err(|error| error.to_string())?;
        let client = ClientConfig::builder_with_details(provider, self.clock())
            .with_safe_default_protocol_versions()
            .and_then(|config| {
                config
                    .with_root_certificates(trusted)
                    .with_client_auth_cert(chain, key)
            })
            .map_err(|error| error.to_string())?;
        let name = ServerName::try_from("peer").map_err(|error| error.to_string())?;
        shake(client, server, name)
    }

    fn clock(&self) -> Arc<At> {
        Arc::new(At(self.now))
    }

    fn roots(&self) -> Result<Arc<RootCertStore>, String> {
        let mut roots = RootCertStore::empty();
        for root in certificates(self.bundle)? {
            roots.add(root).map_err(|error| error.to_string())?;
        }
        Ok(Arc::new(roots))
    }

    fn lists(&self) -> Vec<CertificateRevocationListDer<'static>> {
        let lists = self.revoked.iter();
        lists.map(|der| der.clone().into()).collect()
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())
}

fn first_name(certificate: &X509Certificate<'_>) -> Option<ServerName<'static>> {
    let names = certificate.subject_alternative_name().ok().flatten()?;
    names
        .value
        .general_names
        .iter()
        .find_map(|name| match name {
            // A wildcard stands for one label.
            GeneralName::DNSName(name) => ServerName::try_from(name.replacen('*', "any", 1)).ok(),
            GeneralName::IPAddress(octets) => {
                let address = match <[u8; 4]>::try_from(*octets) {
                    Ok(four) => std::net::IpAddr::from(four),
                    Err(_) => std::net::IpAddr::from(<[u8; 16]>::try_from(*octets).ok()?),
                };
                Some(ServerName::from(address))
            }
            _ => None,
        })
}

/// Lets the two talk until both are content.
fn shake(
    client: ClientConfig,
    server: ServerConfig,
    name: ServerName<'static>,
) -> Result<(), String> {
    let mut client =
        ClientConnection::new(Arc::new(client), name).map_err(|error| error.to_string())?;
    let mut server = ServerConnection::new(Arc::new(server)).map_err(|error| error.to_string())?;
    for _ in 0..TURNS_MAX {
        let mut said = Vec::new();
        while client.wants_write() {
            client
                .write_tls(&mut said)
                .map_err(|error| error.to_string())?;
        }
        let mut said = Cursor::new(said);
        while server
            .read_tls(&mut said)
            .map_err(|error| error.to_string())?
            > 0
        {
            server
                .process_new_packets()
                .map_err(|error| format!("refused by the server: {error}"))?;
        }
        let mut answered = Vec::new();
        while server.wants_write() {
            server
                .write_tls(&mut answered)
                .map_err(|error| error.to_string())?;
        }
        let mut answered = Cursor::new(answered);
        while client
            .read_tls(&mut answered)
            .map_err(|error| error.to_string())?
            > 0
        {
            client
                .process_new_packets()
                .map_err(|error| format!("refused by the client: {error}"))?;
        }
        if !client.is_handshaking() && !server.is_handshaking() {
            return Ok(());
        }
    }
    Err("the handshake came to no end".to_owned())
}
