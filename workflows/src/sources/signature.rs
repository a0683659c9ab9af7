//! How a source signs the events it sends, and how notices to programs are signed, as
//! [Standard Webhooks](https://www.standardwebhooks.com) says: one key, one way to sign and to check.
//!
//! The configuration has only where the secrets are kept: they are read by whoever signs or checks.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use connectors::secret::SecretRef;
use engine::core::duration::Span;
use hmac::{Hmac, KeyInit as _, Mac as _};
use schemars::JsonSchema;
use secrecy::{ExposeSecret as _, SecretSlice};
use serde::Deserialize;
use serde_saphyr::Spanned;
use sha2::Sha256;

/// The most secrets that count at once: the one of now, the next, and those on their way out.
pub const SECRETS_MAX: usize = 4;
/// How far the clock of a request may be from ours, either way, when nobody says.
const WINDOW_DEFAULT_S: u32 = 300;
/// What may be said.
pub const WINDOW_MS: std::ops::RangeInclusive<i64> = 1_000..=3_600_000;

/// What every secret begins with, so that people and scanners know one when they see it.
const PREFIX: &str = "whsec_";
/// How long a key is, in bytes.
const KEY_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// What every signature of this kind begins with.
pub const VERSION_PREFIX: &str = "v1,";

/// A key that signs requests and checks them.
pub struct SigningKey(SecretSlice<u8>);

/// A secret that holds no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0}; write `whsec_` and the base64 of 24 to 64 random bytes, as `openssl rand -base64 32` prints it"
)]
pub struct NoKey(String);

impl SigningKey {
    /// The key that a secret holds.
    ///
    /// # Errors
    /// When it holds none. The secret is not told.
    pub fn read(secret: &str) -> Result<Self, NoKey> {
        let Some(Ok(bytes)) = secret
            .strip_prefix(PREFIX)
            .map(|text| STANDARD.decode(text))
        else {
            return Err(NoKey(
                "does not hold a secret of Standard Webhooks".to_owned(),
            ));
        };
        if !KEY_BYTES.contains(&bytes.len()) {
            return Err(NoKey(format!("holds a key of {} bytes", bytes.len())));
        }
        Ok(Self(bytes.into()))
    }

    /// A key of bytes that nobody else knows.
    #[must_use]
    pub fn of_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }

    fn mac(&self, head: &str, body: &[u8]) -> Option<Hmac<Sha256>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0.expose_secret()).ok()?;
        mac.update(head.as_bytes());
        mac.update(body);
        Some(mac)
    }

    /// Whether this key made `signature`, compared in constant time. `head` is of [`head`].
    #[must_use]
    pub fn made(&self, signature: &[u8], head: &str, body: &[u8]) -> bool {
        self.mac(head, body)
            .is_some_and(|mac| mac.verify_slice(signature).is_ok())
    }

    /// The header `webhook-signature`.
    #[must_use]
    pub fn sign(&self, head: &str, body: &[u8]) -> String {
        // A key of any length makes one.
        let signature = self.mac(head, body).map(|mac| mac.finalize().into_bytes());
        let signature = signature.map(|bytes| STANDARD.encode(bytes));
        format!("{VERSION_PREFIX}{}", signature.unwrap_or_default())
    }
}

/// What is signed before the body.
#[must_use]
pub fn head(id: &str, timestamp: &str) -> String {
    format!("{id}.{timestamp}.")
}

/// ```yaml
/// signature:
///   secrets: [env:HR_WEBHOOK_SECRET, file:/run/secrets/hr-webhook-next]
///   window: 5m
/// ```
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SignatureConfig {
    /// Where each is kept, `env:NAME` or `file:/path`. A request signed with any of them is let in.
    #[schemars(with = "Vec<String>")]
    pub secrets: Spanned<Vec<SecretRef>>,
    /// How old a request may be, and how far ahead its clock: `1s` to `1h`, `5m` when left out.
    #[serde(default)]
    #[schemars(with = "Option<Span>")]
    pub window: Option<Spanned<Span>>,
}

impl SignatureConfig {
    #[must_use]
    pub fn window(&self) -> Span {
        let window = self.window.as_ref().map(|window| window.value);
        window.unwrap_or(Span::from_s(WINDOW_DEFAULT_S))
    }
}
