//! One request to the API server, and what its answer means.
//!
//! A refusal of Kubernetes is a `Status`. What is refused without one was refused by something else on the way, and is believed
//! only where it cannot be taken for an absence.

use chrono::{DateTime, TimeDelta, Utc};
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Identity, Method, Response, Url, redirect};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;

use super::settings::{ClientCertificate, Settings};
use crate::answer;
use crate::answer::{is_loopback, roots};
use crate::connector::{Error, ErrorKind};
use crate::layer::Clock;
use crate::secret::SecretRef;

/// The largest answer: a Secret has a megabyte at most, a page of names less.
const BODY_BYTES_MAX: usize = 8 * 1024 * 1024;
/// How much of a foreign message is told.
const MESSAGE_CHARS_MAX: usize = 300;
/// When it does not say for how long it wants to be left alone.
const RETRY_AFTER_S: i64 = 1;
const RETRY_AFTER_S_MAX: i64 = 3_600;
const JSON: &str = "application/json";
/// Names and labels without what is in the objects: no secret travels to be listed.
const NAMES_ONLY: &str =
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
const MERGE_PATCH: &str = "application/merge-patch+json";
const QUOTA_EXCEEDED: &str = " is forbidden: exceeded quota: ";
const QUOTA_UNKNOWN: &str = " is forbidden: status unknown for quota: ";
/// How the cluster says, before it reads what was sent, that somebody lacks a right.
const NO_RIGHT: &str = " is forbidden: User ";

pub(super) struct Api {
    system: String,
    client: Client,
    server: Url,
    token: Option<SecretRef>,
    limit_ms: u128,
    clock: Clock,
}

/// What to ask.
pub(super) struct Call<'a> {
    pub method: Method,
    /// Below the address of the server, not yet encoded.
    pub path: Vec<&'a str>,
    pub query: Vec<(&'a str, String)>,
    pub body: Option<Value>,
    /// Whether what is sent holds a secret, which an answer might repeat.
    pub is_secret: bool,
    /// Whether only names and labels are wanted.
    pub names_only: bool,
}

impl<'a> Call<'a> {
    pub fn new(method: Method, path: &[&'a str]) -> Self {
        Self {
            method,
            path: path.to_vec(),
            query: Vec::new(),
            body: None,
            is_secret: false,
            names_only: false,
        }
    }

    pub fn with(mut self, body: Value) -> Self {
        self.body = Some(body);
        self
    }

    /// As [`Self::with`], with a secret in it.
    pub fn with_secret(mut self, body: Value) -> Self {
        self.is_secret = true;
        self.with(body)
    }
}

/// Why Kubernetes said no.
#[derive(Debug, Default)]
pub(super) struct Why {
    reason: String,
    /// The name of the object it is about.
    about: Option<String>,
}

pub(super) type Failure = crate::failure::Failure<Why>;

impl Failure {
    pub fn is(&self, wanted: &str) -> bool {
        matches!(self, Self::Refused { why, .. } if why.reason == wanted)
    }

    /// Whether the object of this name is not there. That a whole part of the interface is missing is another thing.
    pub fn is_absence_of(&self, name: &str) -> bool {
        matches!(self, Self::Refused { why, .. }
            if why.reason == "NotFound" && why.about.as_deref() == Some(name))
    }
}

/// The one table from what Kubernetes answers to error kinds.
fn kind_of(status: u16, reason: &str, message: &str, until: DateTime<Utc>) -> ErrorKind {
    match status {
        401 => ErrorKind::AuthExpired,
        // A quota is refused as if it were a right, and so is one that nobody has counted yet.
        403 if reason == "Forbidden" && message.contains(QUOTA_EXCEEDED) => ErrorKind::Full,
        403 if reason == "Forbidden" && message.contains(QUOTA_UNKNOWN) => ErrorKind::Transient,
        403 => ErrorKind::Denied,
        404 => ErrorKind::NotFound,
        405 | 406 => ErrorKind::Unsupported,
        409 => ErrorKind::Conflict,
        // A listing took too long, and the cluster has forgotten how it looked then.
        410 => ErrorKind::Transient,
        400 | 413 | 422 => ErrorKind::Invalid,
        429 => ErrorKind::RateLimited { until },
        500.. => ErrorKind::Transient,
        _ => ErrorKind::Bug,
    }
}

fn identity(system: &str, of: &ClientCertificate) -> Result<Identity, Error> {
    let invalid =
        |what: String| Error::new(ErrorKind::Invalid, format!("system `{system}`: {what}"));
    let read = |name: &str, reference: &SecretRef| {
        reference.resolve().map_err(|error| {
            invalid(format!("cannot read `client_certificate.{name}`")).with_source(error)
        })
    };
    let (certificate, key) = (read("certificate", &of.certificate)?, read("key", &of.key)?);
    let both = SecretString::from(format!(
        "{}\n{}\n",
        certificate.expose_secret(),
        key.expose_secret()
    ));
    // The error could hold what it could not read.
    Identity::from_pem(both.expose_secret().as_bytes()).map_err(|_| {
        invalid("`client_certificate` is no certificate and its key, both in PEM".to_owned())
    })
}

impl Api {
    pub fn new(system: &str, settings: &Settings, clock: Clock) -> Result<Self, Error> {
        // reqwest takes the process's provider; a second installation is refused and that is fine.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = Client::builder()
            .user_agent(concat!("tenure/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .retry(reqwest::retry::never())
            .timeout(settings.limit);
        if is_loopback(&settings.server) {
            builder = builder.no_proxy();
        }
        if let Some(path) = &settings.ca_file {
            builder = builder.tls_certs_only(roots(system, path)?);
        }
        if let Some(of) = &settings.client_certificate {
            builder = builder.identity(identity(system, of)?);
        }
        let client = builder.build().map_err(|error| {
            let what = format!("system `{system}`: cannot set up HTTPS with these settings");
            Error::new(ErrorKind::Invalid, what).with_source(error)
        })?;
        Ok(Self {
            system: system.to_owned(),
            client,
            server: settings.server.clone(),
            token: settings.token.clone(),
            limit_ms: settings.limit.as_millis(),
            clock,
        })
    }

    pub fn error(&self, kind: ErrorKind, what: impl AsRef<str>) -> Error {
        Error::new(kind, format!("system `{}`: {}", self.system, what.as_ref()))
    }

    pub fn now(&self) -> DateTime<Utc> {
        (self.clock)()
    }

    pub fn server(&self) -> &Url {
        &self.server
    }

    /// Who we are there. Read anew each time: what a cluster gives to a pod changes by the hour.
    fn authorization(&self) -> Result<Option<HeaderValue>, Error> {
        let Some(reference) = &self.token else {
            return Ok(None);
        };
        let token = reference.resolve().map_err(|error| {
            self.error(ErrorKind::AuthExpired, "cannot read our own `token`")
                .with_source(error)
        })?;
        let header = HeaderValue::from_str(&format!("Bearer {}", token.expose_secret().trim()));
        let mut header = header.map_err(|_| {
            self.error(
                ErrorKind::AuthExpired,
                "our own `token` holds characters that no token has",
            )
        })?;
        header.set_sensitive(true);
        Ok(Some(header))
    }

    fn address(&self, path: &[&str]) -> Result<Url, Error> {
        let no_path = || self.error(ErrorKind::Bug, "no path can be asked for");
        let mut url = self.server.clone();
        let mut segments = url.path_segments_mut().map_err(|()| no_path())?;
        for segment in path {
            // Names are looked at before; an empty or dotted one would ask for something else.
            if segment.is_empty() || segment.bytes().all(|byte| byte == b'.') {
                return Err(no_path());
            }
            segments.push(segment);
        }
        drop(segments);
        Ok(url)
    }

    /// Asks, and gives the object that was answered.
    pub async fn ask(&self, call: Call<'_>) -> Result<Value, Failure> {
        let what = format!("{} /{}", call.method, call.path.join("/"));
        let url = self.address(&call.path).map_err(Failure::NotSent)?;
        let content_type = if call.method == Method::PATCH {
            MERGE_PATCH
        } else {
            JSON
        };
        let accept = if call.names_only { NAMES_ONLY } else { JSON };
        let mut request = self
            .client
            .request(call.method, url)
            .header(ACCEPT, accept)
            .query(&call.query);
        if let Some(header) = self.authorization().map_err(Failure::NotSent)? {
            request = request.header(AUTHORIZATION, header);
        }
        if let Some(body) = call.body {
            request = request
                .header(CONTENT_TYPE, content_type)
                .body(body.to_string());
        }
        let response = request.send().await;
        let response = response.map_err(|error| self.broken(&what, error))?;
        self.read(&what, call.is_secret, response).await
    }

    async fn read(
        &self,
        what: &str,
        is_secret: bool,
        response: Response,
    ) -> Result<Value, Failure> {
        let status = response.status().as_u16();
        let wait_s = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok())
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(RETRY_AFTER_S)
            .clamp(0, RETRY_AFTER_S_MAX);
        let read = answer::body(response, BODY_BYTES_MAX).await;
        let body = read.map_err(|error| self.broken(what, error))?;
        let body = body.ok_or_else(|| {
            let told = format!("{what} was answered with more than {BODY_BYTES_MAX} bytes");
            Failure::Lost(self.error(ErrorKind::Bug, told))
        })?;
        let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
        let is_status = answer.get("kind").and_then(Value::as_str) == Some("Status");
        if (200..300).contains(&status) && answer.is_object() {
            return Ok(answer);
        }
        let text = |name: &str| answer.get(name).and_then(Value::as_str).unwrap_or_default();
        let (reason, message) = (text("reason"), text("message"));
        let until = self.now() + TimeDelta::seconds(wait_s);
        if !is_status {
            let told = format!(
                "{what} was answered {status} with something that Kubernetes does not say; is `server` right, or what stands before it?"
            );
            // Who is not let through to the cluster has done nothing there; anything else may have.
            return Err(match status {
                401 | 403 | 429 => Failure::Refused {
                    why: Why::default(),
                    error: self.error(kind_of(status, "", "", until), told),
                },
                500.. => Failure::Lost(self.error(ErrorKind::Transient, told)),
                _ => Failure::Lost(self.error(ErrorKind::Bug, told)),
            });
        }
        let words = if is_secret {
            without_content(&answer)
        } else {
            plain(message)
        };
        let error = self.error(
            kind_of(status, reason, message, until),
            format!("{what} was refused: {words} ({status} {})", plain(reason)),
        );
        // It broke on their side: it may be done all the same.
        if status >= 500 {
            return Err(Failure::Lost(error));
        }
        let about = answer.pointer("/details/name").and_then(Value::as_str);
        Err(Failure::Refused {
            why: Why {
                reason: reason.to_owned(),
                about: about.map(str::to_owned),
            },
            error,
        })
    }

    fn broken(&self, what: &str, error: reqwest::Error) -> Failure {
        let error = error.without_url();
        if error.is_connect() || error.is_builder() {
            let told = format!("no connection for {what}");
            Failure::NotSent(self.error(ErrorKind::Unreachable, told).with_source(error))
        } else if error.is_timeout() {
            let told = format!("no answer to {what} within {} ms", self.limit_ms);
            Failure::Lost(self.error(ErrorKind::Timeout, told).with_source(error))
        } else {
            let told = format!("the connection broke during {what}");
            Failure::Lost(self.error(ErrorKind::Transient, told).with_source(error))
        }
    }
}

/// A foreign text on one line, and not too long.
fn plain(text: &str) -> String {
    text.chars()
        .filter(|c| !c.is_control())
        .take(MESSAGE_CHARS_MAX)
        .collect()
}

/// Why something was refused that held a secret: in the words of the cluster where it looks at no content, and otherwise in
/// ours.
fn without_content(status: &Value) -> String {
    let text = |name: &str| status.pointer(name).and_then(Value::as_str).unwrap_or("?");
    let about = plain(&format!(
        "{} `{}`",
        text("/details/kind"),
        text("/details/name")
    ));
    let message = text("/message");
    match text("/reason") {
        "NotFound" => format!("{about} is not there"),
        "AlreadyExists" => format!("{about} is there already"),
        "Conflict" => format!("{about} was changed since it was read, or is another one"),
        "Forbidden"
            if [NO_RIGHT, QUOTA_EXCEEDED, QUOTA_UNKNOWN]
                .iter()
                .any(|words| message.contains(words)) =>
        {
            plain(message)
        }
        _ => fields(status),
    }
}

/// Which fields were wrong, without what was in them.
fn fields(status: &Value) -> String {
    let causes = status.pointer("/details/causes").and_then(Value::as_array);
    let names: Vec<&str> = causes
        .into_iter()
        .flatten()
        .filter_map(|cause| cause.get("field").and_then(Value::as_str))
        .collect();
    if names.is_empty() {
        "what it says is not told here, because a secret was sent".to_owned()
    } else {
        plain(&format!("see {}", names.join(", ")))
    }
}
