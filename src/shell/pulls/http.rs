//! One question to an HTTP API and its answer: who asks, the limits, and what a strange answer means.
//!
//! What is not the JSON that was asked for is an error with a name, never an empty list: a page to log in that comes with
//! 200 would read as a company without people.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use chrono::{DateTime, Utc};
use reqwest::header::{ACCEPT, CONTENT_TYPE, DATE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url, redirect};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use workflows::sources::pull::{AuthConfig, PullConfig};

use crate::shell::authorities;

/// The largest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// The largest answer with a token, in bytes.
const TOKEN_BYTES_MAX: usize = 64 * 1024;
/// How often one question is asked again because the server wants it slower, and how long that waits at most.
const SLOWER_MAX: u32 = 5;
const SLOWER_WAIT_MAX: Duration = Duration::from_secs(120);
/// How long to wait when it does not say.
const SLOWER_WAIT: Duration = Duration::from_secs(2);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Asks one API.
pub(super) struct Http {
    client: Client,
    origin: Url,
    timeout: Duration,
    auth: Auth,
}

enum Auth {
    None,
    Basic(String, SecretString),
    Bearer(SecretString),
    Header(String, SecretString),
    Oauth2 {
        token_url: Url,
        client_id: String,
        client_secret: SecretString,
        scope: Option<String>,
        token: tokio::sync::Mutex<Option<SecretString>>,
    },
}

/// An answer that is JSON.
pub(super) struct Answer {
    pub body: Value,
    /// When the server says it answered, by its own clock.
    pub date: Option<DateTime<Utc>>,
}

/// The server wants it slower than a question waits for.
#[derive(Debug, thiserror::Error)]
#[error("the server asks to wait for {} s", .0.as_secs())]
pub(super) struct Slower(pub Duration);

/// There is nothing at this address.
#[derive(Debug, thiserror::Error)]
#[error("the server says 404")]
pub(super) struct NotThere;

impl Http {
    /// # Errors
    /// When a secret or certificate is not where the file says, or an address would be asked in the open.
    pub fn new(pull: &PullConfig) -> anyhow::Result<Self> {
        let origin: Url = pull.url.value.parse().context("`url` is no address")?;
        closed(&origin, pull.allow_plaintext)?;
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = Client::builder()
            .user_agent(concat!("tenure/", env!("CARGO_PKG_VERSION")))
            // Following would hand the secret to whoever the server names.
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT);
        if is_loopback(&origin) {
            builder = builder.no_proxy();
        }
        if let Some(path) = &pull.ca_file {
            builder = builder.tls_certs_only(authorities::read(path)?);
        }
        let auth = match &pull.auth {
            AuthConfig::None => Auth::None,
            AuthConfig::Basic { user, password } => Auth::Basic(user.clone(), password.resolve()?),
            AuthConfig::Bearer { token } => Auth::Bearer(token.resolve()?),
            AuthConfig::Header { name, value } => Auth::Header(name.clone(), value.resolve()?),
            AuthConfig::Oauth2 {
                token_url,
                client_id,
                client_secret,
                scope,
            } => {
                let token_url: Url = token_url.parse().context("`token_url` is no address")?;
                closed(&token_url, pull.allow_plaintext)?;
                Auth::Oauth2 {
                    token_url,
                    client_id: client_id.clone(),
                    client_secret: client_secret.resolve()?,
                    scope: scope.clone(),
                    token: tokio::sync::Mutex::new(None),
                }
            }
        };
        Ok(Self {
            client: builder.build().context("cannot set up HTTPS")?,
            origin,
            timeout: pull.timeout().std(),
            auth,
        })
    }

    /// An address on the same server, absolute or beside `url`. Any other would be handed the secret.
    pub fn address(&self, text: &str) -> anyhow::Result<Url> {
        let address = self
            .origin
            .join(text)
            .with_context(|| format!("`{}` is no address", shown(text)))?;
        let place = |url: &Url| {
            let host = url.host_str().map(str::to_owned);
            (url.scheme().to_owned(), host, url.port_or_known_default())
        };
        ensure!(
            place(&address) == place(&self.origin),
            "the answer leads to another server, `{}`; nothing is asked there",
            shown(address.host_str().unwrap_or_default())
        );
        Ok(address)
    }

    /// Asks, more slowly when the server wants it so.
    pub async fn get(&self, address: &Url) -> anyhow::Result<Answer> {
        let mut renewed = false;
        for _ in 0..SLOWER_MAX {
            let request = self.client.get(address.clone()).timeout(self.timeout);
            let request = request.header(ACCEPT, "application/json");
            let response = self.signed(request).await?.send().await;
            let response = response.map_err(|error| broken(&error))?;
            let status = response.status();
            if status == StatusCode::UNAUTHORIZED && !renewed && self.forget_token().await {
                renewed = true;
                continue;
            }
            if matches!(
                status,
                StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
            ) {
                let wait = retry_after(response.headers());
                if wait > SLOWER_WAIT_MAX {
                    return Err(Slower(wait).into());
                }
                tokio::time::sleep(wait).await;
                continue;
            }
            if status == StatusCode::NOT_FOUND {
                return Err(NotThere.into());
            }
            let date = date(response.headers());
            let body = json(response, ANSWER_BYTES_MAX).await?;
            return Ok(Answer { body, date });
        }
        Err(Slower(SLOWER_WAIT_MAX).into())
    }

    async fn signed(&self, request: RequestBuilder) -> anyhow::Result<RequestBuilder> {
        Ok(match &self.auth {
            Auth::None => request,
            Auth::Basic(user, password) => request.basic_auth(user, Some(password.expose_secret())),
            Auth::Bearer(token) => request.bearer_auth(token.expose_secret()),
            Auth::Header(name, value) => {
                let mut value = HeaderValue::from_str(value.expose_secret())
                    .context("the secret holds characters that no header may hold")?;
                value.set_sensitive(true);
                request.header(name, value)
            }
            Auth::Oauth2 { .. } => request.bearer_auth(self.token().await?.expose_secret()),
        })
    }

    /// Takes the token back, so that the next question asks for another; says whether there is one to take.
    async fn forget_token(&self) -> bool {
        match &self.auth {
            Auth::Oauth2 { token, .. } => token.lock().await.take().is_some(),
            _ => false,
        }
    }

    async fn token(&self) -> anyhow::Result<SecretString> {
        let Auth::Oauth2 {
            token_url,
            client_id,
            client_secret,
            scope,
            token,
        } = &self.auth
        else {
            bail!("there is no token to ask for");
        };
        let mut kept = token.lock().await;
        if let Some(token) = &*kept {
            return Ok(token.clone());
        }
        // An address, because it knows how a form is written.
        let mut form = token_url.clone();
        form.query_pairs_mut()
            .clear()
            .append_pair("grant_type", "client_credentials")
            .extend_pairs(scope.as_deref().map(|scope| ("scope", scope)));
        let request = self
            .client
            .post(token_url.clone())
            .timeout(self.timeout)
            .basic_auth(client_id, Some(client_secret.expose_secret()))
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form.query().unwrap_or_default().to_owned());
        let response = request.send().await.map_err(|error| broken(&error))?;
        let body = json(response, TOKEN_BYTES_MAX)
            .await
            .context("no token was given")?;
        let new = body.get("access_token").and_then(Value::as_str);
        let new = new.context("the answer holds no `access_token`")?;
        let new = SecretString::from(new.to_owned());
        *kept = Some(new.clone());
        Ok(new)
    }
}

/// What went wrong on the way, without the address, which may hold a secret.
fn broken(error: &reqwest::Error) -> anyhow::Error {
    if error.is_timeout() {
        anyhow::anyhow!("the server did not answer in time")
    } else if error.is_connect() {
        anyhow::anyhow!("the server cannot be reached")
    } else {
        anyhow::anyhow!("the answer broke off")
    }
}

async fn json(mut response: Response, bytes_max: usize) -> anyhow::Result<Value> {
    let status = response.status();
    let kind = response
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
        .to_ascii_lowercase();
    if status.is_redirection() {
        bail!(
            "the server leads elsewhere ({status}), as one does that wants a login; is the login right?"
        );
    }
    ensure!(status.is_success(), "the server says {status}");
    ensure!(
        kind.contains("json"),
        "the server answered {status} with `{}` instead of JSON, as a page to log in does; is the login right?",
        shown(&kind)
    );
    let mut bytes = Vec::new();
    while let Some(part) = response.chunk().await.map_err(|error| broken(&error))? {
        ensure!(
            bytes.len() + part.len() <= bytes_max,
            "the answer is larger than {bytes_max} bytes; ask for less, or for smaller pages"
        );
        bytes.extend_from_slice(&part);
    }
    serde_json::from_slice(&bytes)
        .map_err(|error| anyhow::anyhow!("the answer is no JSON: {}", position(&error)))
}

/// Where reading stopped, without what stood there.
fn position(error: &serde_json::Error) -> String {
    let what = if error.is_eof() {
        "it ends in the middle"
    } else {
        "it is wrong"
    };
    format!("{what} at line {}, column {}", error.line(), error.column())
}

fn retry_after(headers: &HeaderMap) -> Duration {
    let said = headers
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok());
    let Some(said) = said else {
        return SLOWER_WAIT;
    };
    if let Ok(seconds) = said.trim().parse::<u64>() {
        return Duration::from_secs(seconds);
    }
    // A date is relative to the clock of whoever wrote it.
    let until = DateTime::parse_from_rfc2822(said).ok();
    let now = date(headers);
    match (until, now) {
        (Some(until), Some(now)) => (until.with_timezone(&Utc) - now)
            .to_std()
            .unwrap_or_default(),
        _ => SLOWER_WAIT,
    }
}

fn date(headers: &HeaderMap) -> Option<DateTime<Utc>> {
    let said = headers.get(DATE)?.to_str().ok()?;
    let date = DateTime::parse_from_rfc2822(said).ok()?;
    Some(date.with_timezone(&Utc))
}

fn closed(url: &Url, allow_plaintext: bool) -> anyhow::Result<()> {
    ensure!(
        url.scheme() == "https" || url.scheme() == "http",
        "`{}` is no scheme to ask over; use `https`",
        url.scheme()
    );
    ensure!(
        url.scheme() == "https" || allow_plaintext || is_loopback(url),
        "without TLS somebody on the way could read the secret and the people; use `https`, or set `allow_plaintext: true`"
    );
    Ok(())
}

fn is_loopback(url: &Url) -> bool {
    url.host_str().is_some_and(|host| {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        host.eq_ignore_ascii_case("localhost")
            || host
                .parse::<std::net::IpAddr>()
                .is_ok_and(|address| address.is_loopback())
    })
}

fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}
