//! One request and its answer: the token, the limits, and what a strange answer means.

use std::time::Duration;

use reqwest::header::{
    AUTHORIZATION, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue, IF_MATCH, LOCATION,
    RETRY_AFTER,
};
use reqwest::{Client, Method, Response, StatusCode, Url, redirect};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use super::failure::{Failure, Refusal, retry_at};
use super::settings::Settings;
use crate::answer;
use crate::answer::{is_loopback, roots};
use crate::connector::{Error, ErrorKind};
use crate::layer::{Clock, real_clock};

/// The largest answer that is read. A page of a thousand users is about one megabyte.
const BODY_BYTES_MAX: usize = 32 * 1024 * 1024;
/// How much of an answer an error message repeats.
const EXCERPT_CHARACTERS_MAX: usize = 160;
/// How much of it is looked through for secrets first.
const SEARCHED_BYTES_MAX: usize = 64 * 1024;
/// How many idle connections are kept.
const IDLE_CONNECTIONS_MAX: usize = 8;
const IDLE_MS_MAX: u64 = 20_000;

const REDACTED: &str = "[REDACTED]";
const SCIM_JSON: &str = "application/scim+json";
const ERROR_SCHEMA: &str = "urn:ietf:params:scim:api:messages:2.0:Error";
/// Where servers put their own name for a request.
const REQUEST_ID: [HeaderName; 2] = [
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("request-id"),
];

pub(super) struct Http {
    system: String,
    client: Client,
    base: Url,
    token: SecretString,
    timeout: Duration,
    clock: Clock,
}

/// A success.
#[derive(Debug)]
pub(super) struct Answer {
    /// The JSON object that was sent, or null when there was none.
    pub body: Value,
    pub etag: Option<String>,
    pub request_id: Option<String>,
}

/// What to ask.
pub(super) struct Request<'a> {
    pub method: Method,
    /// Path segments below the base address, not yet encoded.
    pub path: &'a [&'a str],
    pub query: &'a [(&'a str, &'a str)],
    pub body: Option<&'a Value>,
    pub if_match: Option<&'a str>,
    /// A password inside the body, which a server may repeat in its complaint and we may not.
    pub secret: Option<&'a SecretString>,
}

impl<'a> Request<'a> {
    pub(super) fn new(method: Method, path: &'a [&'a str]) -> Self {
        Self {
            method,
            path,
            query: &[],
            body: None,
            if_match: None,
            secret: None,
        }
    }
}

impl Http {
    pub(super) fn new(system: &str, settings: &Settings, base: Url) -> Result<Self, Error> {
        let invalid = |message: String| {
            Error::new(ErrorKind::Invalid, format!("system `{system}`: {message}"))
        };
        let token = settings.token.resolve().map_err(|error| {
            invalid("cannot read the setting `token`".to_owned()).with_source(error)
        })?;
        if HeaderValue::from_str(token.expose_secret()).is_err() || token.expose_secret().is_empty()
        {
            return Err(invalid(
                "the token is empty or holds characters that no header may hold".to_owned(),
            ));
        }
        // reqwest takes the process's provider; a second installation is refused and that is fine.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = Client::builder()
            .user_agent(concat!("tenure/", env!("CARGO_PKG_VERSION")))
            // Following would hand the token to whoever the server names, and would turn a POST into a GET.
            .redirect(redirect::Policy::none())
            .retry(reqwest::retry::never())
            .connect_timeout(Duration::from_millis(settings.connect_timeout_ms))
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .pool_idle_timeout(Duration::from_millis(IDLE_MS_MAX))
            .https_only(base.scheme() == "https");
        if is_loopback(&base) {
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
            base,
            token,
            timeout: Duration::from_millis(settings.timeout_ms),
            clock: real_clock(),
        })
    }

    #[cfg(test)]
    pub(super) fn set_clock(&mut self, now: chrono::DateTime<chrono::Utc>) {
        self.clock = std::sync::Arc::new(move || now);
    }

    pub(super) fn system(&self) -> &str {
        &self.system
    }

    pub(super) fn base(&self) -> &Url {
        &self.base
    }

    pub(super) async fn send(&self, request: Request<'_>) -> Result<Answer, Failure> {
        let url = self.address(request.path)?;
        let what = format!("{} /{}", request.method, request.path.join("/"));
        let mut builder = self
            .client
            .request(request.method.clone(), url)
            .timeout(self.timeout)
            .header(AUTHORIZATION, self.authorization())
            .header(reqwest::header::ACCEPT, SCIM_JSON);
        if !request.query.is_empty() {
            builder = builder.query(request.query);
        }
        if let Some(version) = request
            .if_match
            .and_then(|version| HeaderValue::from_str(version).ok())
        {
            builder = builder.header(IF_MATCH, version);
        }
        if let Some(body) = request.body {
            builder = builder
                .header(CONTENT_TYPE, SCIM_JSON)
                .body(body.to_string());
        }
        let response = builder
            .send()
            .await
            .map_err(|error| self.broken(&what, error))?;
        self.read(&what, request.secret, response).await
    }

    async fn read(
        &self,
        what: &str,
        secret: Option<&SecretString>,
        response: Response,
    ) -> Result<Answer, Failure> {
        let status = response.status();
        let headers = response.headers().clone();
        let text = |name: &HeaderName| {
            headers
                .get(name)
                .and_then(|value| value.to_str().ok())
                .map(str::to_owned)
        };
        let body = match self.body(what, response).await {
            Ok(body) => body,
            // A refusal stands, whatever became of its explanation.
            Err(_) if !status.is_success() => Vec::new(),
            Err(failure) => return Err(failure),
        };
        if !status.is_success() {
            return Err(Failure::Refused(
                self.refusal(what, secret, status, &headers, &body),
            ));
        }
        Ok(Answer {
            body: self.parse(what, secret, status, &body)?,
            etag: text(&ETAG),
            request_id: REQUEST_ID.iter().find_map(text),
        })
    }

    fn parse(
        &self,
        what: &str,
        secret: Option<&SecretString>,
        status: StatusCode,
        body: &[u8],
    ) -> Result<Value, Failure> {
        if body.iter().all(u8::is_ascii_whitespace) {
            return Ok(Value::Null);
        }
        match serde_json::from_slice::<Value>(body) {
            Ok(value) if value.is_object() => Ok(value),
            _ => Err(Failure::Lost(self.error(
                ErrorKind::Bug,
                format!(
                    "{what} answered {} with something that is not a SCIM message: `{}`; is `base_url` right?",
                    status.as_u16(),
                    self.excerpt(body, secret)
                ),
            ))),
        }
    }

    /// The body, as long as it is not too long.
    async fn body(&self, what: &str, response: Response) -> Result<Vec<u8>, Failure> {
        let read = answer::body(response, BODY_BYTES_MAX).await;
        let body = read.map_err(|error| self.broken(what, error))?;
        body.ok_or_else(|| {
            let told =
                format!("{what} answered with more than {BODY_BYTES_MAX} bytes; lower `page_size`");
            Failure::Lost(self.error(ErrorKind::Bug, told))
        })
    }

    fn refusal(
        &self,
        what: &str,
        secret: Option<&SecretString>,
        status: StatusCode,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Refusal {
        let code = status.as_u16();
        let json: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
        let field = |name: &str| {
            json.get(name)
                .and_then(Value::as_str)
                .filter(|text| !text.is_empty())
        };
        let is_scim = json
            .get("schemas")
            .and_then(Value::as_array)
            .is_some_and(|schemas| schemas.iter().any(|schema| schema == ERROR_SCHEMA));
        let header = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let mut message = format!("system `{}`: {what} answered {code}", self.system);
        if let Some(reason) = status.canonical_reason() {
            message.push_str(&format!(" {reason}"));
        }
        if let Some(scim_type) = field("scimType") {
            message.push_str(&format!(", {}", self.excerpt(scim_type.as_bytes(), secret)));
        }
        if let Some(detail) = field("detail") {
            message.push_str(&format!(": {}", self.excerpt(detail.as_bytes(), secret)));
        } else if !body.is_empty() && !is_scim {
            message.push_str(&format!(": `{}`", self.excerpt(body, secret)));
        }
        if status.is_redirection() {
            let target = header(LOCATION).map_or("somewhere else".to_owned(), |to| {
                self.excerpt(to.as_bytes(), secret)
            });
            message.push_str(&format!("; redirects to `{target}`, which is not followed: set `base_url` to the right place"));
        }
        Refusal {
            status: code,
            scim_type: field("scimType").map(str::to_owned),
            is_scim,
            retry_at: retry_at(code, header(RETRY_AFTER), (self.clock)()),
            message,
        }
    }

    /// The start of a foreign text, fit for a message: one line, without our own token and password.
    fn excerpt(&self, body: &[u8], secret: Option<&SecretString>) -> String {
        let text = String::from_utf8_lossy(body.get(..SEARCHED_BYTES_MAX).unwrap_or(body));
        let mut text = text.replace(self.token.expose_secret(), REDACTED);
        if let Some(secret) = secret
            .map(ExposeSecret::expose_secret)
            .filter(|secret| !secret.is_empty())
        {
            let in_json = Value::from(secret).to_string();
            let escaped = in_json
                .strip_prefix('"')
                .and_then(|text| text.strip_suffix('"'))
                .unwrap_or(secret);
            text = text.replace(escaped, REDACTED).replace(secret, REDACTED);
        }
        let mut excerpt: String = text
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
            .chars()
            .filter(|c| !c.is_control())
            .collect();
        if let Some((end, _)) = excerpt.char_indices().nth(EXCERPT_CHARACTERS_MAX) {
            excerpt.truncate(end);
            excerpt.push_str("...");
        }
        excerpt
    }

    fn broken(&self, what: &str, error: reqwest::Error) -> Failure {
        // The address may hold a filter with personal data.
        let error = error.without_url();
        if error.is_connect() || error.is_builder() {
            let kind = if error.is_builder() {
                ErrorKind::Invalid
            } else {
                ErrorKind::Unreachable
            };
            let host = self.base.host_str().unwrap_or_default();
            let port = self.base.port_or_known_default().unwrap_or_default();
            return Failure::NotSent(
                self.error(kind, format!("no connection to `{host}:{port}`"))
                    .with_source(error),
            );
        }
        if error.is_timeout() {
            let timeout_ms = self.timeout.as_millis();
            return Failure::Lost(self.error(
                ErrorKind::Timeout,
                format!("{what} was not answered within {timeout_ms} ms"),
            ));
        }
        Failure::Lost(
            self.error(
                ErrorKind::Transient,
                format!("{what}: the connection was lost before the answer was complete"),
            )
            .with_source(error),
        )
    }

    fn address(&self, path: &[&str]) -> Result<Url, Failure> {
        let invalid = |segment: &str| {
            let shown: String = segment.chars().take(EXCERPT_CHARACTERS_MAX).collect();
            Failure::NotSent(self.error(
                ErrorKind::Invalid,
                format!("`{}` is not a SCIM identifier", shown.escape_debug()),
            ))
        };
        let mut url = self.base.clone();
        {
            let mut segments = url.path_segments_mut().map_err(|()| invalid("base_url"))?;
            for segment in path {
                // An empty segment would address the whole collection, a dotted one what lies above it.
                if segment.is_empty() || segment.contains('\0') || is_dotted(segment) {
                    return Err(invalid(segment));
                }
                segments.push(segment);
            }
        }
        Ok(url)
    }

    fn authorization(&self) -> HeaderValue {
        let mut value = HeaderValue::from_str(&format!("Bearer {}", self.token.expose_secret()))
            .unwrap_or(HeaderValue::from_static("Bearer"));
        value.set_sensitive(true);
        value
    }

    pub(super) fn error(&self, kind: ErrorKind, message: impl AsRef<str>) -> Error {
        Error::new(
            kind,
            format!("system `{}`: {}", self.system, message.as_ref()),
        )
    }
}

/// Whether a URL parser reads this segment as "here" or "one up", plain or encoded.
fn is_dotted(segment: &str) -> bool {
    matches!(
        segment.to_ascii_lowercase().replace("%2e", ".").as_str(),
        "." | ".."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dots_are_recognised_in_every_spelling() {
        for segment in [".", "..", "%2e", "%2E%2e", ".%2e"] {
            assert!(is_dotted(segment), "{segment}");
        }
        for segment in ["...", "a", "..a", "%2e%2e%2e"] {
            assert!(!is_dotted(segment), "{segment}");
        }
    }
}
