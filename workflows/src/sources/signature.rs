//! How a source signs the events it sends, as [Standard Webhooks](https://www.standardwebhooks.com) says. Only where the
//! secrets are kept: they are read by whoever checks signatures.

use connectors::secret::SecretRef;
use engine::core::duration::Span;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_saphyr::Spanned;

/// The most secrets that count at once: the one of now, the next, and those on their way out.
pub const SECRETS_MAX: usize = 4;
/// How far the clock of a request may be from ours, either way, when nobody says.
const WINDOW_DEFAULT_S: u32 = 300;
/// What may be said.
pub const WINDOW_MS: std::ops::RangeInclusive<i64> = 1_000..=3_600_000;

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
