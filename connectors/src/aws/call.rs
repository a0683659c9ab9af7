//! One call, of the query protocol (form in, XML out) or of the JSON protocol, and what a refusal means.

use chrono::{DateTime, Utc};
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use reqwest::{Client, Url, redirect};
use serde_json::Value;

use super::settings::Settings;
use super::sign::{self, Key, Signing};
use super::xml::Element;
use crate::answer;
use crate::answer::roots;
use crate::connector::{Error, ErrorKind};
use crate::layer::Clock;

/// The largest answer: a page of users is some hundred kilobytes.
const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How much of a foreign message is told.
const MESSAGE_CHARS_MAX: usize = 300;
const FORM: &str = "application/x-www-form-urlencoded; charset=utf-8";
const JSON: &str = "application/x-amz-json-1.1";
const IAM_VERSION: &str = "2010-05-08";
const STS_VERSION: &str = "2011-06-15";

pub(super) struct Caller {
    system: String,
    client: Client,
    pub settings: Settings,
    pub clock: Clock,
}

/// What is called, and how.
struct Asked<'a> {
    service: &'a str,
    region: &'a str,
    content_type: &'a str,
    target: Option<&'a str>,
}

/// With AWS's code.
pub(super) type Failure = crate::failure::Failure<String>;

impl Failure {
    pub fn is(&self, wanted: &str) -> bool {
        matches!(self, Self::Refused { why, .. } if why == wanted)
    }
}

/// The one table from AWS's codes to error kinds, for calls under our own key.
fn kind_of(code: &str, status: u16) -> ErrorKind {
    match code {
        "InvalidClientTokenId"
        | "SignatureDoesNotMatch"
        | "ExpiredToken"
        | "RequestExpired"
        | "UnrecognizedClientException"
        | "InvalidSignatureException"
        | "ExpiredTokenException"
        | "MissingAuthenticationToken"
        | "InvalidAccessKeyId"
        | "AuthFailure" => ErrorKind::AuthExpired,
        "AccessDenied"
        | "AccessDeniedException"
        | "UnauthorizedOperation"
        // The key that a secret is encrypted with is not for us.
        | "DecryptionFailure"
        | "EncryptionFailure" => ErrorKind::Denied,
        "NoSuchEntity" | "ResourceNotFoundException" => ErrorKind::NotFound,
        "LimitExceeded" | "LimitExceededException" => ErrorKind::Full,
        "EntityAlreadyExists"
        | "ResourceExistsException"
        | "PreconditionNotMetException"
        | "ConcurrentModification"
        | "EntityTemporarilyUnmodifiable"
        | "DeleteConflict" => ErrorKind::Conflict,
        "ValidationError"
        | "ValidationException"
        | "InvalidInput"
        | "InvalidParameterValue"
        | "InvalidParameterException"
        | "InvalidRequestException"
        | "MissingParameter" => ErrorKind::Invalid,
        "Throttling"
        | "ThrottlingException"
        | "RequestLimitExceeded"
        | "ServiceUnavailable"
        | "ServiceFailure"
        | "InternalServiceError"
        | "InternalFailure" => ErrorKind::Transient,
        "OptInRequired" | "InvalidAction" => ErrorKind::Unsupported,
        _ if status >= 500 => ErrorKind::Transient,
        _ => ErrorKind::Bug,
    }
}

impl Caller {
    pub fn new(system: &str, settings: Settings, clock: Clock) -> Result<Self, Error> {
        let invalid =
            |what: String| Error::new(ErrorKind::Invalid, format!("system `{system}`: {what}"));
        // reqwest takes the process's provider; a second installation is refused and that is fine.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = Client::builder()
            .user_agent(concat!("tenure/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .retry(reqwest::retry::never())
            .timeout(settings.limit);
        if settings.is_local {
            builder = builder.no_proxy();
        }
        if let Some(path) = &settings.ca_file {
            builder = builder.tls_certs_only(roots(system, path)?);
        }
        let client = builder.build().map_err(|error| {
            invalid("cannot set up HTTPS with these settings".to_owned()).with_source(error)
        })?;
        Ok(Self {
            system: system.to_owned(),
            client,
            settings,
            clock,
        })
    }

    pub fn error(&self, kind: ErrorKind, what: impl AsRef<str>) -> Error {
        Error::new(kind, format!("system `{}`: {}", self.system, what.as_ref()))
    }

    pub fn now(&self) -> DateTime<Utc> {
        (self.clock)()
    }

    /// A call to IAM under our own key.
    pub async fn iam(&self, action: &str, fields: &[(&str, &str)]) -> Result<Element, Failure> {
        let url = &self.settings.iam;
        // IAM is one for the whole world, and signs as if it were in Virginia.
        let region = if url.host_str() == Some("iam.amazonaws.com") {
            "us-east-1"
        } else {
            &self.settings.region
        };
        let key = &self.settings.key;
        self.call(url, ("iam", region, IAM_VERSION), key, action, fields)
            .await
    }

    /// Who the owner of `key` is.
    pub async fn who(&self, key: &Key) -> Result<Element, Failure> {
        let region = &self.settings.region;
        let service = ("sts", region.as_str(), STS_VERSION);
        self.call(&self.settings.sts, service, key, "GetCallerIdentity", &[])
            .await
    }

    async fn call(
        &self,
        url: &Url,
        (service, region, version): (&str, &str, &str),
        key: &Key,
        action: &str,
        fields: &[(&str, &str)],
    ) -> Result<Element, Failure> {
        let mut form = Url::parse("form:").map_err(|error| {
            Failure::NotSent(self.error(ErrorKind::Bug, "no form").with_source(error))
        })?;
        form.query_pairs_mut()
            .append_pair("Action", action)
            .append_pair("Version", version)
            .extend_pairs(fields);
        let body = form.query().unwrap_or_default().to_owned();
        let asked = Asked {
            service,
            region,
            content_type: FORM,
            target: None,
        };
        let (status, headers, body) = self.send(url, &asked, key, action, body).await?;
        self.read(action, status, &headers, &body)
    }

    /// A call to Secrets Manager under our own key. What it says about a call that carries a secret is not repeated.
    pub async fn secrets(
        &self,
        url: &Url,
        action: &str,
        fields: &Value,
        has_secret: bool,
    ) -> Result<Value, Failure> {
        let target = format!("secretsmanager.{action}");
        let asked = Asked {
            service: "secretsmanager",
            region: &self.settings.region,
            content_type: JSON,
            target: Some(&target),
        };
        let key = &self.settings.key;
        let (status, headers, body) = self
            .send(url, &asked, key, action, fields.to_string())
            .await?;
        let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
        if (200..300).contains(&status) && answer.is_object() {
            return Ok(answer);
        }
        let code = answer.get("__type").and_then(Value::as_str);
        let Some(code) = code.filter(|_| status >= 400) else {
            return Err(Failure::Lost(self.strange(action, status, &headers)));
        };
        // With the name of the service before it, as some answers have it.
        let code = code.rsplit('#').next().unwrap_or(code);
        let message = ["message", "Message"]
            .into_iter()
            .find_map(|name| answer.get(name)?.as_str());
        let message = message.filter(|_| !has_secret).unwrap_or("no more is told");
        Err(self.refused(action, status, code, message))
    }

    /// Sends a signed request and reads the whole answer.
    async fn send(
        &self,
        url: &Url,
        asked: &Asked<'_>,
        key: &Key,
        action: &str,
        body: String,
    ) -> Result<(u16, HeaderMap, Vec<u8>), Failure> {
        let host = match (url.host_str(), url.port()) {
            (Some(host), Some(port)) => format!("{host}:{port}"),
            (host, _) => host.unwrap_or_default().to_owned(),
        };
        let signing = Signing {
            method: "POST",
            host: &host,
            region: asked.region,
            service: asked.service,
            content_type: asked.content_type,
            target: asked.target,
            body: &body,
            now: self.now(),
        };
        let mut request = self.client.post(url.clone());
        for (name, value) in sign::headers(key, &signing) {
            request = request.header(name, value);
        }
        let response = request.body(body).send().await;
        let response = response.map_err(|error| self.broken(action, error))?;
        let (status, headers) = (response.status(), response.headers().clone());
        let read = answer::body(response, BODY_BYTES_MAX).await;
        let body = read.map_err(|error| self.broken(action, error))?;
        let body = body.ok_or_else(|| {
            let what = format!("`{action}` was answered with more than {BODY_BYTES_MAX} bytes");
            Failure::Lost(self.error(ErrorKind::Bug, what))
        })?;
        Ok((status.as_u16(), headers, body))
    }

    /// AWS said no. If it broke on their side, it may be done all the same.
    fn refused(&self, action: &str, status: u16, code: &str, message: &str) -> Failure {
        let plain = |text: &str| -> String {
            let text = text.chars().filter(|c| !c.is_control());
            text.take(MESSAGE_CHARS_MAX).collect()
        };
        let error = self.error(
            kind_of(code, status),
            format!(
                "`{action}` was refused: {} ({})",
                plain(message),
                plain(code)
            ),
        );
        if status >= 500 {
            Failure::Lost(error)
        } else {
            Failure::Refused {
                why: code.to_owned(),
                error,
            }
        }
    }

    fn strange(&self, action: &str, status: u16, headers: &HeaderMap) -> Error {
        let kind = headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or("?");
        self.error(
            if status >= 500 {
                ErrorKind::Transient
            } else {
                ErrorKind::Bug
            },
            format!(
                "`{action}` was answered {status} with something that AWS does not say (`{}`); are the addresses right?",
                kind.escape_debug()
            ),
        )
    }

    fn read(
        &self,
        action: &str,
        status: u16,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Element, Failure> {
        let parsed = std::str::from_utf8(body)
            .map_err(|error| error.to_string())
            .and_then(Element::read);
        let success = (200..300).contains(&status);
        match parsed {
            Ok(answer) if success => Ok(answer),
            Ok(answer) if answer.text_of("Code").is_some() => {
                let text = |name: &str| answer.text_of(name).unwrap_or_default();
                Err(self.refused(action, status, text("Code"), text("Message")))
            }
            Ok(_) | Err(_) => Err(Failure::Lost(self.strange(action, status, headers))),
        }
    }

    fn broken(&self, action: &str, error: reqwest::Error) -> Failure {
        let error = error.without_url();
        if error.is_connect() || error.is_builder() {
            let what = format!("no connection for `{action}`");
            Failure::NotSent(self.error(ErrorKind::Unreachable, what).with_source(error))
        } else if error.is_timeout() {
            let what = format!(
                "no answer to `{action}` within {} ms",
                self.settings.limit.as_millis()
            );
            Failure::Lost(self.error(ErrorKind::Timeout, what).with_source(error))
        } else {
            let what = format!("the connection broke during `{action}`");
            Failure::Lost(self.error(ErrorKind::Transient, what).with_source(error))
        }
    }
}
