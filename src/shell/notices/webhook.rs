//! Notices to a program: `POST`, signed as Standard Webhooks says.
//!
//! ```text
//! webhook-id: 0b5e...            the same whenever it is sent again
//! webhook-timestamp: 1674087231  when it was sent
//! webhook-signature: v1,BASE64   HMAC-SHA256 over `ID.TIMESTAMP.BODY`
//! ```
//!
//! An answer of 2xx takes it. 4xx refuses it for good, except those that say "not now"; all else is tried again. Redirects
//! are not followed.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use reqwest::StatusCode;
use reqwest::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use secrecy::ExposeSecret as _;
use workflows::notices::{Away, Carrier, Line, Parcel, Said, Way, WebhookSettings};
use workflows::sources::signature::{SigningKey, head};

use crate::shell::{authorities, now};

/// The longest answer that is read, and how much of it is kept.
const ANSWER_BYTES_MAX: usize = 4 * 1024;
/// The longest pause that a receiver may ask for.
const RETRY_AFTER_S_MAX: i64 = 6 * 3_600;

/// A program that is told.
pub struct Webhook {
    client: reqwest::Client,
    url: reqwest::Url,
    key: std::sync::Arc<SigningKey>,
    limit: Duration,
}

impl Webhook {
    /// # Errors
    /// When the key or the certificates are not where they should be.
    pub fn new(settings: &WebhookSettings) -> anyhow::Result<Self> {
        let place = String::from(settings.secret.clone());
        let key = SigningKey::read(settings.secret.resolve()?.expose_secret())
            .with_context(|| format!("`{place}`"))?;
        let url: reqwest::Url =
            (settings.url.parse()).with_context(|| format!("`url` is `{}`", settings.url))?;
        ensure!(
            url.username().is_empty() && url.password().is_none(),
            "`url` holds a login; requests are signed instead"
        );
        // A process has one provider; a second installation is refused, and that is fine.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let limit = settings.timeout.std();
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("tenure/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .timeout(limit);
        if url.scheme() == "http" {
            // Only this machine is reached so.
            builder = builder.no_proxy();
        }
        if let Some(path) = &settings.ca_file {
            builder = builder.tls_certs_only(authorities::read(path)?);
        }
        Ok(Self {
            client: builder.build().context("cannot make an HTTP client")?,
            url,
            key: std::sync::Arc::new(key),
            limit,
        })
    }
}

#[async_trait]
impl Carrier for Webhook {
    fn way(&self) -> Way {
        Way::Webhook
    }

    fn limit(&self) -> TimeDelta {
        TimeDelta::from_std(self.limit).unwrap_or(TimeDelta::MAX)
    }

    async fn open(&self) -> Result<Box<dyn Line>, Away> {
        Ok(Box::new(OpenWebhook {
            client: self.client.clone(),
            url: self.url.clone(),
            key: std::sync::Arc::clone(&self.key),
        }))
    }
}

struct OpenWebhook {
    client: reqwest::Client,
    url: reqwest::Url,
    key: std::sync::Arc<SigningKey>,
}

#[async_trait]
impl Line for OpenWebhook {
    fn is_open(&self) -> bool {
        true
    }

    async fn send(&mut self, parcel: &Parcel) -> Said {
        let body = parcel.data.to_string().into_bytes();
        let at = now();
        let timestamp = at.timestamp().to_string();
        let signature = self.key.sign(&head(&parcel.message_id, &timestamp), &body);
        let sent = self
            .client
            .post(self.url.clone())
            .header(CONTENT_TYPE, "application/json")
            .header("webhook-id", &parcel.message_id)
            .header("webhook-timestamp", &timestamp)
            .header("webhook-signature", signature)
            .body(body)
            .send()
            .await;
        match sent {
            Ok(response) => said(response, at).await,
            // Nobody was there to take it.
            Err(error) if error.is_connect() => Said::NotSent {
                reason: chain(&error.without_url()),
            },
            Err(error) => Said::Broken {
                reason: chain(&error.without_url()),
            },
        }
    }

    async fn close(&mut self) {}
}

async fn said(mut response: reqwest::Response, at: DateTime<Utc>) -> Said {
    let status = response.status();
    let until = retry_after(response.headers(), at);
    let mut text = Vec::new();
    while text.len() < ANSWER_BYTES_MAX {
        match response.chunk().await {
            Ok(Some(piece)) => {
                let room = ANSWER_BYTES_MAX - text.len();
                text.extend(piece.iter().take(room));
            }
            Ok(None) | Err(_) => break,
        }
    }
    let text = String::from_utf8_lossy(&text);
    let answer = format!("{} {}", status.as_u16(), text.trim());
    let not_now = matches!(
        status,
        StatusCode::REQUEST_TIMEOUT
            | StatusCode::CONFLICT
            | StatusCode::TOO_EARLY
            | StatusCode::TOO_MANY_REQUESTS
    );
    if status.is_success() {
        Said::Taken { answer }
    } else if status.is_client_error() && !not_now {
        Said::Refused { answer }
    } else if status.is_redirection() {
        Said::Refused {
            answer: format!("{answer}; redirects are not followed"),
        }
    } else {
        Said::NotNow { answer, until }
    }
}

fn retry_after(headers: &HeaderMap, at: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let seconds: i64 = headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(at + TimeDelta::seconds(seconds.clamp(0, RETRY_AFTER_S_MAX)))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut told = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        told.push_str(": ");
        told.push_str(&error.to_string());
        cause = error.source();
    }
    told
}
