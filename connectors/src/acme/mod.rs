//! A certificate authority that speaks ACME (RFC 8555).
//!
//! | Tenure     | ACME                                                                                           |
//! |------------|------------------------------------------------------------------------------------------------|
//! | account    | a holder: any name of ours; it exists once something was issued to it                          |
//! | credential | a certificate, by its fingerprint                                                              |
//! | issue      | order, proof of every name, request, download; the account is made with the first one          |
//! | destroy    | `revokeCert` with reason superseded                                                            |
//! | renewal    | the window that the authority suggests (ARI, RFC 9773); only this question asks for it         |
//!
//! # What was ordered is not lost
//!
//! An order is noted in a journal in `folder` before its certificate is asked for. A certificate whose answer was lost is fetched
//! by the next call with the same key. If its key was made here and is lost with the answer, the certificate comes back
//! without it: destroy that one, and issue under another key. Send signing requests, and this cannot happen.
//!
//! Names are proven with a file that a web server shows (`http01`) or with a name in the DNS (`dns01`), which a program of yours
//! puts there: it is started with `TENURE_ACTION` (`present` or `clean`), `TENURE_NAME` and `TENURE_VALUE`. Wildcards need the second.
//!
//! The protocol has no way to ask whether a certificate is revoked. Of one that was revoked here the authority says, when it is
//! told so again, that it was already: that is how it is seen.
//!
//! ```yaml
//! kind: acme
//! settings:
//!   directory_url: https://acme-v02.api.letsencrypt.org/directory
//!   folder: /var/lib/tenure/acme          # the key of the account, and the journal
//!   terms_agreed: true
//!   contact: ["mailto:pki@example.org"]
//!   external_account: { id: kid-1, key: env:ACME_EAB_KEY }       # where the authority asks for one
//!   http01: { folder: /var/www/html/.well-known/acme-challenge }
//!   dns01: { command: [/usr/local/bin/dns-hook], timeout_ms: 30000 }
//!   dns01_wait_ms: 0                      # until the world sees it
//!   ca_file: /etc/tenure/acme-ca.pem      # whom to trust for `directory_url`; default: as the machine
//!   timeout_ms: 30000                     # for one request
//!   order_timeout_ms: 120000              # for a whole order; give the system's own limit as much
//!   renewal_info: true                    # ask the authority when to renew
//! ```
//!
//! Attributes of a request: `names` (hosts, wildcards, addresses; without it those of the signing request), `key_algorithm`
//! (`ecdsa_p256`, `ecdsa_p384`; of a key that is made here), `replaces` (the credential that this one renews; without it the last
//! one of the same holder for the same names).

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use instant_acme::{Identifier, OrderStatus};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use secrecy::SecretString;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::answer::{name_in, named, page};
use crate::connector::{
    Capabilities, Claim, ClaimName, Connector, Coverage, Credential, CredentialId, CredentialKind,
    Cursor, Error, ErrorKind, Finding, Health, Issuing, Kind, Material, MaterialName, Minted,
    NativeId, NewCredential, Object, ObjectRef, Observation, Operation, OperationKey,
    OperationName, Outcome, Page, Receipt, Renewal, Verdict,
};
use crate::disk;
use crate::layer::real_clock;
use crate::x509::key::pem;
use crate::x509::request::Request;

mod challenge;
mod client;
mod ledger;
mod revocation;
mod settings;

#[cfg(test)]
mod tests;

use client::{Authority, Wanted};
use ledger::{Leaf, Ledger, Line};
use settings::Settings;

/// The longest name of a holder.
const HOLDER_CHARS_MAX: usize = 200;
/// How many names one certificate may have.
const NAMES_MAX: usize = 100;
/// How many certificates of a holder are looked at for the one that is renewed.
const RENEWED_MAX: usize = 20;

pub struct Acme {
    authority: Authority,
    ledger: Arc<Mutex<Ledger>>,
}

/// What somebody wants, read.
struct Asked {
    names: Vec<Identifier>,
    replaces: Option<CredentialId>,
    /// In DER.
    request: Vec<u8>,
    /// The key that was made for it.
    secret: Option<SecretString>,
}

impl Acme {
    /// Reads the settings; contacts nobody.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] names the setting that is wrong, missing or unknown.
    pub fn from_settings(system: &str, settings: Value) -> Result<Self, Error> {
        let settings = Settings::parse(system, settings)?;
        let ledger = Ledger::new(&settings.folder);
        Ok(Self {
            authority: Authority::new(system, settings, real_clock())?,
            ledger: Arc::new(Mutex::new(ledger)),
        })
    }

    fn error(&self, kind: ErrorKind, what: impl AsRef<str>) -> Error {
        self.authority.error(kind, what)
    }

    fn now(&self) -> DateTime<Utc> {
        (self.authority.clock)()
    }

    /// Looks into the journal, or writes into it, while nobody else does.
    async fn ledger<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Ledger) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (ledger, folder) = (
            Arc::clone(&self.ledger),
            self.authority.settings.folder.clone(),
        );
        let done = tokio::task::spawn_blocking(move || {
            let unusable = |error| {
                let what = format!("`{}` cannot be used", folder.display());
                Error::new(ErrorKind::Transient, what).with_source(error)
            };
            disk::private_folder(&folder).map_err(unusable)?;
            let mut ledger = ledger.lock().unwrap_or_else(PoisonError::into_inner);
            let _lock = disk::lock(&folder.join("lock"))
                .map_err(unusable)?
                .ok_or_else(|| {
                    Error::new(
                        ErrorKind::Transient,
                        "another process holds the journal for too long",
                    )
                })?;
            ledger.catch_up()?;
            work(&mut ledger)
        });
        done.await.unwrap_or_else(|error| {
            let what = self.error(ErrorKind::Bug, "the work was broken off");
            Err(what.with_source(error))
        })
    }

    async fn issue(&self, new: &NewCredential, key: &OperationKey) -> Result<Outcome, Error> {
        if new.kind != CredentialKind::Certificate || matches!(new.material, Material::Secret(_)) {
            return Err(self.error(
                ErrorKind::Unsupported,
                "an authority issues certificates, for keys that stay where they are",
            ));
        }
        let holder = new.account.as_str().to_owned();
        if holder.trim().is_empty()
            || holder.chars().count() > HOLDER_CHARS_MAX
            || holder.chars().any(char::is_control)
        {
            return Err(self.error(
                ErrorKind::Invalid,
                format!("a holder's name has 1 to {HOLDER_CHARS_MAX} characters"),
            ));
        }
        if new.lifetime_s.is_some() {
            return Err(self.error(
                ErrorKind::Invalid,
                "the authority alone says how long its certificates live",
            ));
        }
        let key = key.idempotency.clone();
        // Two who ask the same at once must not make two orders.
        let lock = self
            .authority
            .settings
            .folder
            .join(format!("order-{}", digest(&key)));
        let folder = self.authority.settings.folder.clone();
        let path = lock.clone();
        let held = tokio::task::spawn_blocking(move || {
            disk::private_folder(&folder).and_then(|()| disk::lock(&path))
        })
        .await
        .map_err(|error| self.error(ErrorKind::Bug, error.to_string()))?
        .map_err(|error| {
            self.error(
                ErrorKind::Transient,
                format!("`{}` cannot be used", lock.display()),
            )
            .with_source(error)
        })?;
        if held.is_none() {
            return Err(self.error(ErrorKind::Conflict, "another process works on this order"));
        }
        let outcome = self.issue_alone(new, &holder, &key).await;
        // Whoever comes later finds the journal; the file has no meaning of its own.
        let _ = std::fs::remove_file(&lock);
        outcome
    }

    async fn issue_alone(
        &self,
        new: &NewCredential,
        holder: &str,
        key: &str,
    ) -> Result<Outcome, Error> {
        if let Some((minted, receipt)) = self.again(holder, key).await? {
            return Ok(new.into.settle(minted, receipt, Outcome::AlreadySo).await);
        }
        let asked = self.asked(new)?;
        let (of, with) = (holder.to_owned(), key.to_owned());
        let (known, is_of_another) = self
            .ledger(move |ledger| {
                let known = ledger.order(&of, &with).map(str::to_owned);
                Ok((known, ledger.is_of_another(&of, &with)))
            })
            .await?;
        if is_of_another {
            return Err(self.error(
                ErrorKind::Invalid,
                "this operation key ordered something for somebody else",
            ));
        }
        let account = self.authority.account().await?;
        let mut order = match known {
            None => None,
            Some(url) => {
                let order = account.order(url).await;
                let mut order =
                    order.map_err(|error| self.authority.told("asking after an order", error))?;
                (order.state().status != OrderStatus::Invalid).then_some(order)
            }
        };
        // It was finished before, and the answer was lost.
        if let Some(found) = &mut order
            && matches!(
                found.state().status,
                OrderStatus::Valid | OrderStatus::Processing
            )
        {
            let chain = self.authority.fetch(found).await?;
            self.note(new.label.clone(), holder, key, chain).await?;
            let Some((minted, receipt)) = self.again(holder, key).await? else {
                return Err(self.error(ErrorKind::Bug, "what was noted is not in the journal"));
            };
            return Ok(new.into.settle(minted, receipt, Outcome::AlreadySo).await);
        }
        let mut order = match order {
            Some(order) => order,
            None => self.ordered(&account, &asked, holder, key).await?,
        };
        let limit = self.authority.settings.order_limit;
        let late = || self.error(ErrorKind::Timeout, "the authority takes too long");
        // Until the certificate is asked for there is nothing that could be left behind.
        if order.state().status != OrderStatus::Ready {
            let proving = tokio::time::timeout(limit, self.authority.prove(&mut order)).await;
            proving.map_err(|_| late())??;
        }
        let finishing = self.authority.finish(&mut order, &asked.request);
        let chain = match tokio::time::timeout(limit, finishing).await {
            Ok(Ok(chain)) => chain,
            // It said no to the request itself: there is no certificate.
            Ok(Err(error)) if error.kind == ErrorKind::Invalid => return Err(error),
            Ok(Err(error)) => {
                return Ok(Outcome::Ambiguous {
                    reason: error.whole(),
                });
            }
            Err(_) => {
                return Ok(Outcome::Ambiguous {
                    reason: late().whole(),
                });
            }
        };
        if let Err(error) = self.note(new.label.clone(), holder, key, chain).await {
            return Ok(Outcome::Ambiguous {
                reason: format!("issued, and it could not be noted: {}", error.whole()),
            });
        }
        let Some((mut minted, receipt)) = self.again(holder, key).await? else {
            return Err(self.error(ErrorKind::Bug, "what was noted is not in the journal"));
        };
        minted.secret = asked.secret;
        Ok(new.into.settle(minted, receipt, Outcome::Done).await)
    }

    /// A new order, noted before anything is done with it.
    async fn ordered(
        &self,
        account: &instant_acme::Account,
        asked: &Asked,
        holder: &str,
        key: &str,
    ) -> Result<instant_acme::Order, Error> {
        let (of, id, now) = (holder.to_owned(), asked.replaces.clone(), self.now());
        let names = asked.names.clone();
        let replaced = self
            .ledger(move |ledger| match id {
                Some(id) => match ledger.leaf(&of, &id) {
                    Some(leaf) => leaf_of(&ledger.chain(leaf)?).map(Some),
                    None => Ok(None),
                },
                // The last one for the same names is the one that this one renews.
                None => {
                    let good = ledger.of_account(&of).map(|(_, leaf)| leaf);
                    let good = good.filter(|leaf| leaf.is_good(now));
                    let mut good: Vec<&Leaf> = good.collect();
                    good.sort_by_key(|leaf| Reverse(leaf.not_after));
                    for leaf in good.into_iter().take(RENEWED_MAX) {
                        let der = leaf_of(&ledger.chain(leaf)?)?;
                        if is_for(&der, &names) {
                            return Ok(Some(der));
                        }
                    }
                    Ok(None)
                }
            })
            .await?;
        let wanted = Wanted {
            names: &asked.names,
            replaces: replaced.as_ref(),
        };
        let order = self.authority.order(account, &wanted).await?;
        let line = Line::Ordered {
            at: self.now(),
            key: key.to_owned(),
            account: holder.to_owned(),
            url: order.url().to_owned(),
        };
        self.ledger(move |ledger| ledger.append(&line)).await?;
        Ok(order)
    }

    async fn note(
        &self,
        label: Option<String>,
        holder: &str,
        key: &str,
        chain: String,
    ) -> Result<(), Error> {
        let der = leaf_of(&chain)?;
        let line = Line::Issued {
            at: self.now(),
            key: key.to_owned(),
            account: holder.to_owned(),
            id: CredentialId::of_certificate(&der),
            not_after: not_after(&der)?,
            label,
            chain,
        };
        self.ledger(move |ledger| ledger.append(&line)).await
    }

    /// What was issued under this key before.
    async fn again(&self, holder: &str, key: &str) -> Result<Option<(Minted, Receipt)>, Error> {
        let (of, with, now) = (holder.to_owned(), key.to_owned(), self.now());
        self.ledger(move |ledger| {
            let Some((id, leaf)) = ledger.issued(&of, &with) else {
                return Ok(None);
            };
            let credential = listed(id, leaf, now);
            let receipt = Receipt {
                account: Some(NativeId::new(of.as_str())),
                after: Some(json!({ "not_after": leaf.not_after })),
                request_id: Some(leaf.key.clone()),
                credential: Some(credential.clone()),
                ..Receipt::default()
            };
            let minted = Minted {
                credential,
                public: Some(ledger.chain(leaf)?),
                secret: None,
            };
            Ok(Some((minted, receipt)))
        })
        .await
    }

    fn asked(&self, new: &NewCredential) -> Result<Asked, Error> {
        let invalid = |what: String| self.error(ErrorKind::Invalid, what);
        let (mut names, mut replaces, mut algorithm) = (None, None, &rcgen::PKCS_ECDSA_P256_SHA256);
        for (name, value) in &new.attributes {
            match (name.as_str(), value) {
                ("names", Value::Array(list)) => {
                    let texts: Option<Vec<String>> = list
                        .iter()
                        .map(|it| it.as_str().map(str::to_owned))
                        .collect();
                    let texts = texts
                        .ok_or_else(|| invalid("`names` must be a list of texts".to_owned()))?;
                    names = Some(texts);
                }
                ("replaces", Value::String(id)) => replaces = Some(CredentialId::new(id.as_str())),
                ("key_algorithm", Value::String(text)) => {
                    algorithm = match text.as_str() {
                        "ecdsa_p256" => &rcgen::PKCS_ECDSA_P256_SHA256,
                        "ecdsa_p384" => &rcgen::PKCS_ECDSA_P384_SHA384,
                        _ => {
                            return Err(invalid(
                                "`key_algorithm` must be `ecdsa_p256` or `ecdsa_p384`".to_owned(),
                            ));
                        }
                    }
                }
                _ => {
                    return Err(invalid(format!(
                        "`{}` is no attribute here, or not of that type; there are `names`, `key_algorithm` and `replaces`",
                        name.escape_debug()
                    )));
                }
            }
        }
        let request = match &new.material {
            Material::Public(pem) => Some(Request::read(pem)?),
            Material::BySystem | Material::Secret(_) => None,
        };
        let names: Vec<String> = match (names, &request) {
            (Some(names), _) => names.iter().map(|it| it.to_ascii_lowercase()).collect(),
            (None, Some(request)) => request.names.clone(),
            (None, None) => Vec::new(),
        };
        if names.is_empty() || names.len() > NAMES_MAX {
            return Err(invalid(format!("give 1 to {NAMES_MAX} `names`")));
        }
        if let Some(request) = &request {
            let sorted = |names: &[String]| {
                let mut names: Vec<String> =
                    names.iter().map(|it| it.to_ascii_lowercase()).collect();
                names.sort();
                names
            };
            if sorted(&request.names) != sorted(&names) {
                return Err(invalid(
                    "the signing request must ask for exactly the names in `names`: that is what the authority compares".to_owned(),
                ));
            }
        }
        let identifiers = names
            .iter()
            .map(|name| match name.parse() {
                Ok(address) => Identifier::Ip(address),
                Err(_) => Identifier::Dns(name.clone()),
            })
            .collect();
        let (request, secret) = match request {
            Some(request) => (request.der, None),
            None => {
                let made = || -> Result<_, rcgen::Error> {
                    let pair = KeyPair::generate_for(algorithm)?;
                    let mut params = CertificateParams::new(names.clone())?;
                    params.distinguished_name = DistinguishedName::new();
                    let request = params.serialize_request(&pair)?;
                    Ok((request.der().to_vec(), SecretString::from(pem(&pair))))
                };
                let (request, secret) = made().map_err(|error| {
                    invalid("these names cannot be asked for".to_owned()).with_source(error)
                })?;
                (request, Some(secret))
            }
        };
        Ok(Asked {
            names: identifiers,
            replaces,
            request,
            secret,
        })
    }

    /// The certificate of this key, also if only the authority knows of it yet.
    async fn issued(&self, account: &NativeId, key: &str) -> Result<Option<Credential>, Error> {
        let holder = account.as_str();
        if let Some((minted, _)) = self.again(holder, key).await? {
            return Ok(Some(minted.credential));
        }
        let (of, with) = (holder.to_owned(), key.to_owned());
        let order = self
            .ledger(move |ledger| Ok(ledger.order(&of, &with).map(str::to_owned)))
            .await?;
        let Some(url) = order else {
            return Ok(None);
        };
        let acme = self.authority.account().await?;
        let order = acme.order(url).await;
        let mut order =
            order.map_err(|error| self.authority.told("asking after an order", error))?;
        if !matches!(
            order.state().status,
            OrderStatus::Valid | OrderStatus::Processing
        ) {
            return Ok(None);
        }
        let chain = self.authority.fetch(&mut order).await?;
        self.note(None, holder, key, chain).await?;
        Ok(self
            .again(holder, key)
            .await?
            .map(|(minted, _)| minted.credential))
    }

    /// All that are good. What was revoked, or has ended, is not there any more.
    async fn all(&self, account: &NativeId) -> Result<Vec<Credential>, Error> {
        let (of, now) = (account.as_str().to_owned(), self.now());
        self.ledger(move |ledger| {
            let all = ledger.of_account(&of);
            let good = all.filter(|(_, leaf)| leaf.is_good(now));
            Ok(good.map(|(id, leaf)| listed(id, leaf, now)).collect())
        })
        .await
    }
}

fn digest(key: &str) -> String {
    use std::fmt::Write as _;
    let digest = Sha256::digest(key.as_bytes());
    digest
        .iter()
        .take(16)
        .fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

fn listed(id: &CredentialId, leaf: &Leaf, now: DateTime<Utc>) -> Credential {
    Credential {
        active: Some(leaf.is_good(now)),
        label: leaf.label.clone(),
        expires_at: Some(leaf.not_after),
        ..Credential::new(id.clone(), CredentialKind::Certificate)
    }
}

/// The first certificate of a chain in PEM.
fn leaf_of(chain: &str) -> Result<CertificateDer<'static>, Error> {
    CertificateDer::pem_slice_iter(chain.as_bytes())
        .next()
        .and_then(Result::ok)
        .ok_or_else(|| Error::new(ErrorKind::Bug, "the authority gave no certificate in PEM"))
}

/// Whether a certificate says exactly these names.
fn is_for(der: &CertificateDer<'_>, names: &[Identifier]) -> bool {
    let Ok((_, parsed)) = X509Certificate::from_der(der) else {
        return false;
    };
    let Ok(Some(said)) = parsed.subject_alternative_name() else {
        return false;
    };
    let said: BTreeSet<String> = (said.value.general_names.iter())
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        })
        .collect();
    let wanted: Option<BTreeSet<String>> = names
        .iter()
        .map(|name| match name {
            Identifier::Dns(name) => Some(name.clone()),
            _ => None,
        })
        .collect();
    wanted.is_some_and(|wanted| wanted == said)
}

fn not_after(der: &CertificateDer<'_>) -> Result<DateTime<Utc>, Error> {
    X509Certificate::from_der(der)
        .ok()
        .and_then(|(_, parsed)| {
            DateTime::from_timestamp(parsed.validity().not_after.timestamp(), 0)
        })
        .ok_or_else(|| Error::new(ErrorKind::Bug, "the authority's certificate cannot be read"))
}

#[async_trait]
impl Connector for Acme {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            operations: [
                OperationName::IssueCredential,
                OperationName::DestroyCredential,
            ]
            .into(),
            claims: [ClaimName::CredentialIssued, ClaimName::CredentialInactive].into(),
            lists: [Kind::Account].into(),
            credentials: [CredentialKind::Certificate].into(),
            issues: [(
                CredentialKind::Certificate,
                Issuing {
                    material: [MaterialName::BySystem, MaterialName::Public].into(),
                    slots: None,
                },
            )]
            .into(),
            renewal: self.authority.settings.renewal_info,
            ..Capabilities::default()
        }
    }

    async fn check(&self) -> Result<Health, Error> {
        let url = &self.authority.settings.directory;
        let mut findings = Vec::new();
        match self.authority.account().await {
            Ok(account) => {
                findings.push(Finding::good("reach", format!("`{url}` answers")));
                findings.push(Finding::good(
                    "login",
                    format!("account `{}`", account.id()),
                ));
            }
            Err(error) => {
                let (what, fix) = match error.kind {
                    ErrorKind::Denied | ErrorKind::AuthExpired | ErrorKind::Invalid => (
                        "login",
                        "see whether the authority wants `external_account`, and whether the folder is the right one",
                    ),
                    _ => (
                        "reach",
                        "see whether `directory_url` and `ca_file` are right",
                    ),
                };
                findings.push(Finding::bad(what, error.whole(), fix));
            }
        }
        if let Some(folder) = &self.authority.settings.http_folder {
            findings.push(if folder.is_dir() {
                Finding::good("proofs", format!("`{}`", folder.display()))
            } else {
                Finding::bad(
                    "proofs",
                    format!("there is no folder `{}`", folder.display()),
                    "make it, let Tenure write into it, and let the web server show it",
                )
            });
        }
        if let Some(program) = &self.authority.settings.dns
            && !program.path.is_file()
        {
            findings.push(Finding::bad(
                "proofs",
                format!("there is no `{}`", program.path.display()),
                "correct `dns01.command`",
            ));
        }
        Ok(Health { findings })
    }

    async fn list(&self, kind: Kind, after: Option<Cursor>) -> Result<Page, Error> {
        if kind != Kind::Account {
            return Err(self.error(
                ErrorKind::Unsupported,
                "an authority has holders and nothing else",
            ));
        }
        self.ledger(move |ledger| Ok(page(ledger.accounts(), after.as_ref())))
            .await
    }

    async fn get(&self, wanted: &ObjectRef) -> Result<Option<Object>, Error> {
        let Some(name) = name_in(&self.authority.system, wanted)?.map(str::to_owned) else {
            return Ok(None);
        };
        self.ledger(move |ledger| {
            let known = ledger.of_account(&name).next().is_some();
            Ok(known.then(|| named(&name)))
        })
        .await
    }

    async fn apply(&self, operation: &Operation, key: &OperationKey) -> Result<Outcome, Error> {
        match operation {
            Operation::IssueCredential(new) => Box::pin(self.issue(new, key)).await,
            Operation::DestroyCredential {
                account,
                credential,
            } => self.destroy(account, credential).await,
            other => Err(self.error(
                ErrorKind::Unsupported,
                format!("an authority has no `{}`", other.name().as_str()),
            )),
        }
    }

    async fn verify(&self, claim: &Claim) -> Result<Verdict, Error> {
        let (account, key) = match claim {
            Claim::CredentialIssued { account, key } => (account, key),
            Claim::CredentialInactive {
                account,
                credential,
            } => return self.inactive(account, credential).await,
            _ => {
                return Ok(Verdict::CannotObserve {
                    reason: "the protocol does not tell whether a certificate is good; look where it is served, and at the authority's lists".to_owned(),
                });
            }
        };
        let found = self.issued(account, key).await?;
        let holds = found.is_some();
        let observation = Observation {
            by: "acme order".to_owned(),
            account: Some(account.clone()),
            seen: json!({ "credential": found }),
        };
        Ok(if holds {
            Verdict::Proven(observation)
        } else {
            Verdict::Refuted(observation)
        })
    }

    async fn credentials(&self, account: &NativeId) -> Result<Coverage<Vec<Credential>>, Error> {
        let others = "certificates that others ordered for the same names, with another account or authority";
        Ok(Coverage {
            value: self.all(account).await?,
            blind_spots: vec![others.to_owned()],
        })
    }

    async fn renewal(
        &self,
        account: &NativeId,
        credential: &CredentialId,
    ) -> Result<Renewal, Error> {
        if !self.authority.settings.renewal_info {
            return Err(self.error(
                ErrorKind::Unsupported,
                "the authority is not asked when to renew; set `renewal_info`",
            ));
        }
        let known = self.known(account, credential).await?;
        let Some((_, certificate)) = known.filter(|(leaf, _)| leaf.is_good(self.now())) else {
            return Ok(Renewal::default());
        };
        let account = self.authority.account().await?;
        self.authority.renewal(&account, &certificate).await
    }
}
