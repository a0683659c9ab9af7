//! Which certificate is really served, where, and until when.
//!
//! "Issued" is not "rotated": a file can be new while the process goes on with the old one in its memory. So this looks as a
//! client looks, by a handshake, at every address the name has: one forgotten machine behind a name is found.
//!
//! | Tenure     | here                                                                  |
//! |------------|-----------------------------------------------------------------------|
//! | account    | an endpoint: named in the settings, or `host:port` with `anywhere`    |
//! | credential | the certificate that is shown there now, by its fingerprint           |
//! | claim      | `serves_certificate`: every address of the endpoint shows this one    |
//! | claim      | `serves_trusted`: who trusts these roots alone accepts what it shows  |
//!
//! It changes nothing. An address that does not answer is an error: nothing is known then, and nothing is claimed.
//!
//! ```yaml
//! kind: tls
//! settings:
//!   endpoints:
//!     shop: { address: "shop.example:443" }
//!     mail: { address: "10.0.0.5:25", server_name: mail.example, starttls: smtp }   # or ldap, postgres
//!   anywhere: false      # true: `host:port?name=HOST&starttls=smtp` may be asked without being named here
//!   ca_file: /etc/tenure/ca.pem   # to tell whether it is trusted; default: what the machine trusts
//!   timeout_ms: 5000     # for the whole of one conversation
//! ```

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};

use crate::answer::{all_named, name_in, named, settings_error};
use crate::connector::{
    Capabilities, Claim, ClaimName, Connector, Coverage, Credential, CredentialKind, Cursor, Error,
    ErrorKind, Finding, Health, Kind, NativeId, Object, ObjectRef, Observation, Operation,
    OperationKey, Outcome, Page, Verdict,
};
use crate::layer::{Clock, real_clock};

mod probe;
mod settings;
mod starttls;

#[cfg(test)]
mod tests;

use probe::Shown;
use settings::{Endpoint, Settings};

/// How many addresses of one name are asked.
const ADDRESSES_MAX: usize = 32;
/// How many of them at once.
const AT_ONCE_MAX: usize = 8;
/// How many endpoints one `check` asks.
const CHECKED_MAX: usize = 20;

pub struct Tls {
    system: String,
    settings: Settings,
    /// `None` where nothing is trusted.
    judge: Option<Arc<WebPkiServerVerifier>>,
    clock: Clock,
}

impl Tls {
    /// Reads the settings and what is to be trusted; contacts nobody.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] names the setting that is wrong, missing or unknown.
    pub fn from_settings(system: &str, settings: Value) -> Result<Self, Error> {
        Self::with_clock(system, settings, real_clock())
    }

    /// As [`Tls::from_settings`], in a time of its own: for simulations, and for trials that run ahead.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] names the setting that is wrong, missing or unknown.
    pub fn with_clock(system: &str, settings: Value, clock: Clock) -> Result<Self, Error> {
        let settings = Settings::parse(system, settings)?;
        let judge = judge(&settings).map_err(settings_error(system, "tls"))?;
        Ok(Self {
            system: system.to_owned(),
            settings,
            judge,
            clock,
        })
    }

    fn error(&self, kind: ErrorKind, what: impl AsRef<str>) -> Error {
        Error::new(kind, format!("system `{}`: {}", self.system, what.as_ref()))
    }

    /// The endpoint of this name, or this address; `None` if it is neither.
    fn endpoint(&self, name: &str) -> Result<Option<Endpoint>, Error> {
        if let Some(endpoint) = self.settings.endpoints.get(name) {
            return Ok(Some(endpoint.clone()));
        }
        if !self.settings.anywhere {
            return Ok(None);
        }
        Endpoint::parse(name)
            .map(Some)
            .map_err(|what| self.error(ErrorKind::Invalid, what))
    }

    /// What every address of the endpoint shows, and what `judge` says of it.
    ///
    /// # Errors
    /// One of them shows nothing: then nobody knows.
    async fn look(
        &self,
        endpoint: &Endpoint,
        judge: Option<&Arc<WebPkiServerVerifier>>,
    ) -> Result<Vec<Shown>, Error> {
        let found = tokio::time::timeout(
            self.settings.limit,
            tokio::net::lookup_host((endpoint.host.as_str(), endpoint.port)),
        )
        .await;
        let addresses: BTreeSet<SocketAddr> = match found {
            Ok(Ok(found)) => found.take(ADDRESSES_MAX).collect(),
            Ok(Err(error)) => {
                let what = format!("`{}` has no address", endpoint.host);
                return Err(self.error(ErrorKind::Transient, what).with_source(error));
            }
            Err(_) => {
                let what = format!(
                    "no answer to the question for the addresses of `{}`",
                    endpoint.host
                );
                return Err(self.error(ErrorKind::Timeout, what));
            }
        };
        if addresses.is_empty() {
            let what = format!("`{}` has no address", endpoint.host);
            return Err(self.error(ErrorKind::Transient, what));
        }
        let asked: Vec<_> = addresses
            .into_iter()
            .map(|address| {
                let (now, limit) = ((self.clock)(), self.settings.limit);
                probe::ask(endpoint, address, judge.cloned(), now, limit)
            })
            .collect();
        let mut answers = futures_util::stream::iter(asked).buffered(AT_ONCE_MAX);
        let mut shown = Vec::new();
        while let Some(answer) = answers.next().await {
            let answer = answer.map_err(|error| self.error(error.kind, error.message))?;
            shown.push(answer);
        }
        Ok(shown)
    }

    async fn finding(&self, name: &str, endpoint: &Endpoint) -> Finding {
        match self.look(endpoint, self.judge.as_ref()).await {
            Ok(shown) => {
                let untrusted = shown.iter().find_map(|shown| shown.not_trusted.clone());
                let until = shown
                    .iter()
                    .filter_map(|shown| shown.chain.first()?.not_after)
                    .min();
                let detail = format!(
                    "`{name}`: {} addresses, until {}",
                    shown.len(),
                    until.map_or("?".to_owned(), |until| until.to_rfc3339())
                );
                match untrusted {
                    None => Finding::good("certificate", detail),
                    Some(why) => Finding::bad(
                        "certificate",
                        format!("{detail}: {why}"),
                        "replace the certificate, or set `ca_file` to who signed it",
                    ),
                }
            }
            Err(error) => Finding::bad(
                "certificate",
                format!("`{name}`: {}", error.whole()),
                "see whether it is up and its address is right",
            ),
        }
    }
}

/// Who says whether a certificate is trusted.
fn judge(settings: &Settings) -> Result<Option<Arc<WebPkiServerVerifier>>, String> {
    let mut roots = RootCertStore::empty();
    match &settings.ca_file {
        Some(path) => {
            let wrong =
                |error: &dyn std::fmt::Display| format!("`ca_file` `{}`: {error}", path.display());
            for root in CertificateDer::pem_file_iter(path).map_err(|error| wrong(&error))? {
                let root = root.map_err(|error| wrong(&error))?;
                roots.add(root).map_err(|error| wrong(&error))?;
            }
            if roots.is_empty() {
                return Err(wrong(&"it holds no certificate"));
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Ok(None);
            }
        }
    }
    trusting(roots).map(Some)
}

/// Somebody who trusts these and nothing else.
fn trusting(roots: RootCertStore) -> Result<Arc<WebPkiServerVerifier>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| error.to_string())
}

/// Somebody who trusts the certificates in a text in PEM.
fn trusting_pem(pem: &str) -> Result<Arc<WebPkiServerVerifier>, String> {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let root = root.map_err(|error| error.to_string())?;
        roots.add(root).map_err(|error| error.to_string())?;
    }
    trusting(roots)
}

#[async_trait]
impl Connector for Tls {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            claims: [ClaimName::ServesCertificate, ClaimName::ServesTrusted].into(),
            lists: [Kind::Account].into(),
            credentials: [CredentialKind::Certificate].into(),
            ..Capabilities::default()
        }
    }

    async fn check(&self) -> Result<Health, Error> {
        let endpoints = self.settings.endpoints.iter().take(CHECKED_MAX);
        let asked: Vec<_> = endpoints
            .map(|(name, endpoint)| self.finding(name, endpoint))
            .collect();
        let findings: Vec<Finding> = futures_util::stream::iter(asked)
            .buffered(AT_ONCE_MAX)
            .collect()
            .await;
        // One endpoint that is down is not the whole of this system being away: none of them is called `reach`.
        Ok(Health { findings })
    }

    async fn list(&self, kind: Kind, _after: Option<Cursor>) -> Result<Page, Error> {
        if kind != Kind::Account {
            return Err(self.error(
                ErrorKind::Unsupported,
                "there are endpoints and nothing else",
            ));
        }
        Ok(all_named(self.settings.endpoints.keys()))
    }

    async fn get(&self, wanted: &ObjectRef) -> Result<Option<Object>, Error> {
        let name = name_in(&self.system, wanted)?;
        Ok(name
            .filter(|name| self.settings.endpoints.contains_key(*name))
            .map(named))
    }

    async fn apply(&self, operation: &Operation, _key: &OperationKey) -> Result<Outcome, Error> {
        Err(self.error(
            ErrorKind::Unsupported,
            format!("it only looks and cannot `{}`", operation.name().as_str()),
        ))
    }

    async fn verify(&self, claim: &Claim) -> Result<Verdict, Error> {
        let (endpoint, certificate, roots) = match claim {
            Claim::ServesCertificate {
                endpoint,
                certificate,
            } => (endpoint, Some(certificate), None),
            Claim::ServesTrusted { endpoint, roots } => (endpoint, None, Some(roots)),
            _ => {
                return Ok(Verdict::CannotObserve {
                    reason: "a handshake shows a certificate and nothing else".to_owned(),
                });
            }
        };
        let account = NativeId::new(endpoint.as_str());
        let Some(known) = self.endpoint(endpoint)? else {
            return Err(self.error(
                ErrorKind::NotFound,
                format!(
                    "there is no endpoint `{}`; name it in the settings, or set `anywhere: true`",
                    endpoint.escape_debug()
                ),
            ));
        };
        let judge = match roots {
            None => self.judge.clone(),
            Some(pem) => Some(trusting_pem(pem).map_err(|what| {
                self.error(ErrorKind::Invalid, format!("no roots to judge by: {what}"))
            })?),
        };
        let shown = self.look(&known, judge.as_ref()).await?;
        let serves = |shown: &Shown| match certificate {
            None => shown.not_trusted.is_none(),
            Some(wanted) => shown.chain.first().is_some_and(|leaf| leaf.id == *wanted),
        };
        let holds = shown.iter().all(serves);
        let observation = Observation {
            by: "tls handshake".to_owned(),
            account: Some(account),
            seen: json!({ "certificate": certificate, "shown": shown }),
        };
        Ok(if holds {
            Verdict::Proven(observation)
        } else {
            Verdict::Refuted(observation)
        })
    }

    async fn credentials(&self, account: &NativeId) -> Result<Coverage<Vec<Credential>>, Error> {
        let mut value: Vec<Credential> = Vec::new();
        if let Some(endpoint) = self.endpoint(account.as_str())? {
            for shown in self.look(&endpoint, self.judge.as_ref()).await? {
                let Some(leaf) = shown.chain.first() else {
                    continue;
                };
                if value.iter().all(|known| known.id != leaf.id) {
                    value.push(Credential {
                        active: Some(true),
                        label: Some(format!("{}, by {}", leaf.subject, leaf.issuer)),
                        expires_at: leaf.not_after,
                        ..Credential::new(leaf.id.clone(), CredentialKind::Certificate)
                    });
                }
            }
        }
        Ok(Coverage {
            value,
            blind_spots: vec![
                "what the same address shows to who asks for another name, or offers other algorithms".to_owned(),
            ],
        })
    }
}
