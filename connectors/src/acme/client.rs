//! The conversation with the authority: the protocol itself is the `instant-acme` crate's, over the HTTP client that is here.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use instant_acme::{
    Account, AccountCredentials, AuthorizationStatus, BodyWrapper, BytesResponse,
    CertificateIdentifier, ChallengeType, ExternalAccountKey, HttpClient, Identifier, NewAccount,
    NewOrder, Order, OrderStatus, RetryPolicy, RevocationReason, RevocationRequest,
};
use reqwest::header::RETRY_AFTER;
use reqwest::{Client, redirect};
use rustls::pki_types::CertificateDer;

use super::challenge::{self, Proof, Shown};
use super::settings::Settings;
use crate::answer;
use crate::answer::roots;
use crate::connector::{Error, ErrorKind, Renewal, RenewalWindow};
use crate::disk;
use crate::layer::Clock;

/// The largest answer: a chain of certificates, or a directory.
const BODY_BYTES_MAX: usize = 1024 * 1024;
/// How much of a foreign message is told.
const MESSAGE_CHARS_MAX: usize = 500;
/// How long to hold back when the authority limits us and does not say for how long.
const LIMITED_S: i64 = 3_600;
const ACCOUNT: &str = "account.json";
/// How long the account and the authority's directory are taken to be what they were: without it every call would ask first.
const ACCOUNT_KEPT: TimeDelta = TimeDelta::minutes(5);

/// What was asked for and is not there, or why.
type Answer<T> = Result<T, instant_acme::Error>;

#[derive(Clone)]
struct Http {
    client: Client,
    /// What the authority said last about when to come back.
    retry_after: Arc<Mutex<Option<String>>>,
}

impl HttpClient for Http {
    fn request(
        &self,
        request: http::Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Answer<BytesResponse>> + Send>> {
        let this = self.clone();
        Box::pin(async move {
            let other = |error: reqwest::Error| instant_acme::Error::Other(error.into());
            let (parts, body) = request.into_parts();
            let request = http::Request::from_parts(parts, reqwest::Body::wrap(body));
            let request = reqwest::Request::try_from(request).map_err(other)?;
            let response = this.client.execute(request).await.map_err(other)?;
            let mut shell = http::Response::new(());
            *shell.status_mut() = response.status();
            shell.headers_mut().clone_from(response.headers());
            if response.status().is_client_error() || response.status().is_server_error() {
                let said = response.headers().get(RETRY_AFTER);
                let said = said
                    .and_then(|value| value.to_str().ok())
                    .map(str::to_owned);
                *this
                    .retry_after
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner) = said;
            }
            let body = answer::body(response, BODY_BYTES_MAX)
                .await
                .map_err(other)?;
            let body = body.ok_or(instant_acme::Error::Str("an answer that is not endless"))?;
            Ok(BytesResponse {
                parts: shell.into_parts().0,
                body: Box::new(Bytes::from(body)),
            })
        })
    }
}

pub(super) struct Authority {
    pub system: String,
    pub settings: Settings,
    http: Http,
    pub clock: Clock,
    /// Our account, and since when it is known.
    known: tokio::sync::Mutex<Option<(Account, DateTime<Utc>)>>,
}

/// An order that has to be gone through.
pub(super) struct Wanted<'a> {
    pub names: &'a [Identifier],
    /// The certificate that is replaced, so that the authority counts it as a renewal.
    pub replaces: Option<&'a CertificateDer<'static>>,
}

impl Authority {
    pub fn new(system: &str, settings: Settings, clock: Clock) -> Result<Self, Error> {
        let invalid =
            |what: String| Error::new(ErrorKind::Invalid, format!("system `{system}`: {what}"));
        // reqwest takes the process's provider; a second installation is refused and that is fine.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = Client::builder()
            .user_agent(concat!("tenure/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .retry(reqwest::retry::never())
            .https_only(true)
            .timeout(settings.limit);
        if let Some(path) = &settings.ca_file {
            builder = builder.tls_certs_only(roots(system, path)?);
        }
        let client = builder.build().map_err(|error| {
            invalid("cannot set up HTTPS with these settings".to_owned()).with_source(error)
        })?;
        Ok(Self {
            system: system.to_owned(),
            settings,
            http: Http {
                client,
                retry_after: Arc::default(),
            },
            clock,
            known: tokio::sync::Mutex::new(None),
        })
    }

    pub fn error(&self, kind: ErrorKind, what: impl AsRef<str>) -> Error {
        Error::new(kind, format!("system `{}`: {}", self.system, what.as_ref()))
    }

    /// What an error of the protocol means.
    pub fn told(&self, what: &str, error: instant_acme::Error) -> Error {
        use instant_acme::Error as E;
        let (kind, words) = match &error {
            E::Api(problem) => {
                let name = problem.r#type.as_deref().unwrap_or_default();
                let name = name.rsplit(':').next().unwrap_or_default();
                let words: String = problem
                    .to_string()
                    .chars()
                    .filter(|c| !c.is_control())
                    .take(MESSAGE_CHARS_MAX)
                    .collect();
                return self.error(
                    self.kind_of(name, problem.status),
                    format!("{what}: {words}"),
                );
            }
            E::Timeout(_) => (ErrorKind::Timeout, "the authority takes too long"),
            E::Json(_) | E::Str(_) => (
                ErrorKind::Bug,
                "the answer is not the protocol; is `directory_url` right?",
            ),
            E::Other(inner) => match inner.downcast_ref::<reqwest::Error>() {
                Some(error) if error.is_connect() => {
                    (ErrorKind::Unreachable, "the authority cannot be reached")
                }
                Some(error) if error.is_timeout() => (ErrorKind::Timeout, "no answer in time"),
                _ => (ErrorKind::Transient, "the connection broke"),
            },
            E::Unsupported(_) => (ErrorKind::Unsupported, "the authority does not do that"),
            _ => (ErrorKind::Bug, "it could not be asked"),
        };
        self.error(kind, format!("{what}: {words}"))
            .with_source(error)
    }

    pub(super) fn kind_of(&self, name: &str, status: Option<u16>) -> ErrorKind {
        match name {
            "rateLimited" => ErrorKind::RateLimited {
                until: self.come_back(),
            },
            "accountDoesNotExist" => ErrorKind::AuthExpired,
            "unauthorized" | "externalAccountRequired" | "userActionRequired" => ErrorKind::Denied,
            "rejectedIdentifier"
            | "unsupportedIdentifier"
            | "unsupportedContact"
            | "invalidContact"
            | "malformed"
            | "badCSR"
            | "badPublicKey"
            | "caa" => ErrorKind::Invalid,
            // A proof was not seen: what shows it has to be mended, and then it is tried again.
            "dns" | "connection" | "tls" | "incorrectResponse" | "orderNotReady" | "compound" => {
                ErrorKind::Conflict
            }
            // Nothing was done. Authorities refuse one now and then, and the library gives up after three in a row.
            "badNonce" | "serverInternal" => ErrorKind::Transient,
            _ if status.is_some_and(|status| status >= 500) => ErrorKind::Transient,
            _ => ErrorKind::Bug,
        }
    }

    fn come_back(&self) -> DateTime<Utc> {
        let now = (self.clock)();
        let said = self
            .http
            .retry_after
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let usual = now + TimeDelta::seconds(LIMITED_S);
        let Some(said) = said else {
            return usual;
        };
        match said.trim().parse::<u32>() {
            Ok(seconds) => now + TimeDelta::seconds(i64::from(seconds)),
            Err(_) => {
                DateTime::parse_from_rfc2822(&said).map_or(usual, |until| until.with_timezone(&Utc))
            }
        }
    }

    /// Our account: the one in the folder, or a new one, whose key is then kept there.
    pub async fn account(&self) -> Result<Account, Error> {
        let mut known = self.known.lock().await;
        let now = (self.clock)();
        if let Some((account, since)) = &*known
            && (*since..*since + ACCOUNT_KEPT).contains(&now)
        {
            return Ok(account.clone());
        }
        let account = self.kept_account().await?;
        *known = Some((account.clone(), now));
        Ok(account)
    }

    async fn kept_account(&self) -> Result<Account, Error> {
        let path = self.settings.folder.join(ACCOUNT);
        let broken = |error: std::io::Error| {
            self.error(
                ErrorKind::Transient,
                format!("`{}` cannot be used", path.display()),
            )
            .with_source(error)
        };
        let builder = || Account::builder_with_http(Box::new(self.http.clone()));
        disk::private_folder(&self.settings.folder).map_err(broken)?;
        let lock = self.settings.folder.join("account.lock");
        let lock = tokio::task::spawn_blocking(move || disk::lock(&lock))
            .await
            .map_err(|error| self.error(ErrorKind::Bug, error.to_string()))?
            .map_err(broken)?;
        if lock.is_none() {
            return Err(self.error(ErrorKind::Transient, "another process makes the account"));
        }
        match std::fs::read(&path) {
            Ok(text) => {
                let credentials: AccountCredentials =
                    serde_json::from_slice(&text).map_err(|_| {
                        self.error(
                            ErrorKind::Invalid,
                            format!("`{}` is not the key of an account; put back the file that was there", path.display()),
                        )
                    })?;
                builder()
                    .from_credentials(credentials)
                    .await
                    .map_err(|error| self.told("asking the authority", error))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let contact: Vec<&str> = self.settings.contact.iter().map(String::as_str).collect();
                let external =
                    self.settings.external.as_ref().map(|external| {
                        ExternalAccountKey::new(external.id.clone(), &external.key)
                    });
                let new = NewAccount {
                    contact: &contact,
                    terms_of_service_agreed: true,
                    only_return_existing: false,
                };
                let url = self.settings.directory.to_string();
                let (account, credentials) =
                    builder()
                        .create(&new, url, external.as_ref())
                        .await
                        .map_err(|error| self.told("making an account", error))?;
                let text = serde_json::to_vec(&credentials)
                    .map_err(|error| self.error(ErrorKind::Bug, error.to_string()))?;
                disk::replace(&path, &text, 0o600).map_err(broken)?;
                Ok(account)
            }
            Err(error) => Err(broken(error)),
        }
    }

    /// A new order.
    pub async fn order(&self, account: &Account, wanted: &Wanted<'_>) -> Result<Order, Error> {
        let plain = NewOrder::new(wanted.names);
        let replaced = wanted
            .replaces
            .and_then(|der| CertificateIdentifier::try_from(der).ok());
        let asked = match replaced {
            None => account.new_order(&plain).await,
            Some(id) => match account
                .new_order(&NewOrder::new(wanted.names).replaces(id))
                .await
            {
                // It knows of no renewals, or this one was replaced already: a new order is as good.
                Err(instant_acme::Error::Unsupported(_)) => account.new_order(&plain).await,
                Err(instant_acme::Error::Api(problem))
                    if problem
                        .r#type
                        .as_deref()
                        .is_some_and(|name| name.ends_with(":alreadyReplaced")) =>
                {
                    account.new_order(&plain).await
                }
                // It took the order and does not say which one that replaces: it does not look at that.
                Err(instant_acme::Error::Other(error))
                    if error.downcast_ref::<reqwest::Error>().is_none() =>
                {
                    account.new_order(&plain).await
                }
                answer => answer,
            },
        };
        asked.map_err(|error| self.told("ordering", error))
    }

    /// Shows that every name of the order is ours, until the authority believes it.
    pub async fn prove(&self, order: &mut Order) -> Result<(), Error> {
        let mut shown = Vec::new();
        let proven = self.show_all(order, &mut shown).await;
        let ready = match proven {
            Ok(()) => self.until_ready(order).await,
            Err(error) => Err(error),
        };
        challenge::take_away(&self.settings, shown).await;
        ready
    }

    async fn show_all(&self, order: &mut Order, shown: &mut Vec<Shown>) -> Result<(), Error> {
        let asking = |error| self.told("asking what has to be proven", error);
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization.map_err(asking)?;
            let name = authorization.identifier().to_string();
            match authorization.status {
                AuthorizationStatus::Valid => continue,
                AuthorizationStatus::Pending => {}
                _ => {
                    return Err(self.error(
                        ErrorKind::Conflict,
                        format!("`{name}` can no longer be proven in this order"),
                    ));
                }
            }
            let by_dns = self.settings.dns.is_some()
                && (authorization.wildcard || self.settings.http_folder.is_none());
            let kind = if by_dns {
                ChallengeType::Dns01
            } else {
                ChallengeType::Http01
            };
            let Some(mut challenge) = authorization.challenge(kind) else {
                return Err(self.error(
                    ErrorKind::Invalid,
                    format!(
                        "the authority does not take this proof for `{name}`; a wildcard needs `dns01`, an address `http01`"
                    ),
                ));
            };
            let content = challenge.key_authorization();
            let proof = if by_dns {
                let bare = name.strip_prefix("*.").unwrap_or(&name);
                Proof::Dns {
                    name: format!("_acme-challenge.{bare}"),
                    value: content.dns_value(),
                }
            } else {
                Proof::Http {
                    token: challenge.token.clone(),
                    content: content.as_str().to_owned(),
                }
            };
            let showing = challenge::show(&self.settings, proof).await;
            shown.push(showing.map_err(|why| {
                self.error(
                    ErrorKind::Conflict,
                    format!("`{name}` cannot be proven: {why}"),
                )
            })?);
            challenge
                .set_ready()
                .await
                .map_err(|error| self.told(&format!("proving `{name}`"), error))?;
        }
        Ok(())
    }

    async fn until_ready(&self, order: &mut Order) -> Result<(), Error> {
        let polled = order.poll_ready(&self.patience()).await;
        match polled {
            // The order itself tells less than what has to be proven in it.
            Ok(OrderStatus::Invalid) | Err(instant_acme::Error::Api(_)) => {
                Err(self.why_invalid(order).await)
            }
            Ok(_) => Ok(()),
            Err(error) => Err(self.told("proving the names", error)),
        }
    }

    /// What the authority saw instead of the proof.
    async fn why_invalid(&self, order: &mut Order) -> Error {
        let mut authorizations = order.authorizations();
        while let Some(Ok(mut authorization)) = authorizations.next().await {
            let name = authorization.identifier().to_string();
            let Ok(state) = authorization.refresh().await else {
                continue;
            };
            let problem = state.challenges.iter().find_map(|it| it.error.clone());
            if let Some(problem) = problem {
                let what = format!("`{name}` was not proven");
                let error = self.told(&what, instant_acme::Error::Api(problem));
                // What shows the proof has to be mended, whatever the authority saw in its place.
                let kind = match error.kind {
                    ErrorKind::Denied => ErrorKind::Conflict,
                    kind => kind,
                };
                return Error { kind, ..error };
            }
        }
        self.error(
            ErrorKind::Conflict,
            "the authority gave the order up and does not say why",
        )
    }

    /// Asks for the certificate and waits for it.
    pub async fn finish(&self, order: &mut Order, request: &[u8]) -> Result<String, Error> {
        order
            .finalize_csr(request)
            .await
            .map_err(|error| self.told("asking for the certificate", error))?;
        self.fetch(order).await
    }

    /// Takes the certificate of an order that was finished.
    pub async fn fetch(&self, order: &mut Order) -> Result<String, Error> {
        order
            .poll_certificate(&self.patience())
            .await
            .map_err(|error| self.told("waiting for the certificate", error))
    }

    fn patience(&self) -> RetryPolicy {
        RetryPolicy::new()
            .initial_delay(Duration::from_millis(200))
            .backoff(1.5)
            .timeout(self.settings.order_limit)
    }

    /// Revokes it; whether that was done now.
    pub async fn revoke(
        &self,
        account: &Account,
        certificate: &CertificateDer<'static>,
    ) -> Result<bool, instant_acme::Error> {
        let request = RevocationRequest {
            certificate,
            reason: Some(RevocationReason::Superseded),
        };
        match account.revoke(&request).await {
            Ok(()) => Ok(true),
            Err(instant_acme::Error::Api(problem))
                if problem
                    .r#type
                    .as_deref()
                    .is_some_and(|name| name.ends_with(":alreadyRevoked")) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// When the authority wants the certificate to be renewed, and to be asked again.
    pub async fn renewal(
        &self,
        account: &Account,
        certificate: &CertificateDer<'static>,
    ) -> Result<Renewal, Error> {
        let Ok(id) = CertificateIdentifier::try_from(certificate) else {
            return Ok(Renewal::default());
        };
        match account.renewal_info(&id).await {
            Ok((info, again)) => {
                let window = info.suggested_window;
                let at =
                    |time: time::OffsetDateTime| DateTime::from_timestamp(time.unix_timestamp(), 0);
                let window = at(window.start).zip(at(window.end));
                Ok(Renewal {
                    window: window.map(|(start, end)| RenewalWindow { start, end }),
                    // A part of a second went by since it was said.
                    ask_again_s: Some(
                        again
                            .as_millis()
                            .div_ceil(1_000)
                            .try_into()
                            .unwrap_or(u64::MAX),
                    ),
                })
            }
            Err(instant_acme::Error::Unsupported(_)) => Ok(Renewal::default()),
            Err(error) => Err(self.told("asking when to renew", error)),
        }
    }
}
