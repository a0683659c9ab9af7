//! What a SCIM system's configuration says.

use std::path::PathBuf;

use reqwest::Url;
use serde::Deserialize;
use serde_json::Value;

use crate::answer::is_loopback;
use crate::connector::{Error, ErrorKind};
use crate::secret::SecretRef;

/// Most objects asked for on one page. Servers may give fewer.
const PAGE_SIZE_MAX: u32 = 1_000;
/// The longest wait that may be configured.
const TIMEOUT_MS_MAX: u64 = 600_000;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    /// Where `Users` and `Groups` are: `https://host/scim/v2`.
    pub base_url: String,
    /// The bearer token.
    pub token: SecretRef,
    /// Trust exactly the certificates in this PEM file instead of the operating system's.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Lets the token travel in clear text to another machine.
    #[serde(default)]
    pub allow_plaintext: bool,
    #[serde(default = "page_size")]
    pub page_size: u32,
    #[serde(default = "connect_timeout_ms")]
    pub connect_timeout_ms: u64,
    /// The longest wait for a whole answer.
    #[serde(default = "timeout_ms")]
    pub timeout_ms: u64,
    /// Schema URNs of the server's own user extensions, beside the core and the enterprise one.
    #[serde(default)]
    pub extra_schemas: Vec<String>,
    /// Whether the server takes a new `password` by PATCH.
    #[serde(default)]
    pub set_password: bool,
    /// Whether the server has `x509Certificates` of its users.
    #[serde(default)]
    pub certificates: bool,
}

fn page_size() -> u32 {
    100
}
fn connect_timeout_ms() -> u64 {
    5_000
}
fn timeout_ms() -> u64 {
    30_000
}

impl Settings {
    pub(super) fn parse(system: &str, settings: Value) -> Result<(Self, Url), Error> {
        let invalid = |message: String| {
            Error::new(ErrorKind::Invalid, format!("system `{system}`: {message}"))
        };
        let settings: Self = serde_json::from_value(settings)
            .map_err(|error| invalid(format!("scim settings: {error}")))?;
        let base = settings.base().map_err(invalid)?;
        if !(1..=PAGE_SIZE_MAX).contains(&settings.page_size) {
            return Err(invalid(format!(
                "`page_size` is {}; it must be between 1 and {PAGE_SIZE_MAX}",
                settings.page_size
            )));
        }
        for (name, value) in [
            ("connect_timeout_ms", settings.connect_timeout_ms),
            ("timeout_ms", settings.timeout_ms),
        ] {
            if !(1..=TIMEOUT_MS_MAX).contains(&value) {
                return Err(invalid(format!(
                    "`{name}` is {value}; it must be between 1 and {TIMEOUT_MS_MAX}"
                )));
            }
        }
        if let Some(schema) = settings
            .extra_schemas
            .iter()
            .find(|schema| !schema.starts_with("urn:"))
        {
            return Err(invalid(format!(
                "extra schema `{schema}` is not a URN; it must start with `urn:`"
            )));
        }
        Ok((settings, base))
    }

    fn base(&self) -> Result<Url, String> {
        let text = &self.base_url;
        let mut url =
            Url::parse(text).map_err(|error| format!("`base_url` is not an address: {error}"))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(
                "`base_url` holds a user or a password; give the secret as `token`".to_owned(),
            );
        }
        if url.query().is_some() || url.fragment().is_some() || url.cannot_be_a_base() {
            return Err(format!(
                "`base_url` `{text}` must end with its path, without `?` and `#`"
            ));
        }
        match url.scheme() {
            "https" => {}
            "http" if self.allow_plaintext || is_loopback(&url) => {}
            "http" => {
                return Err(format!(
                    "`base_url` `{text}` would send the token in clear text; use https://, or set `allow_plaintext: true`"
                ));
            }
            scheme => {
                return Err(format!(
                    "`base_url` starts with `{scheme}://`; it must be https://"
                ));
            }
        }
        // Segments are appended; an empty last one would double the slash.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty();
        }
        Ok(url)
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        reason = "tests"
    )]
    use serde_json::json;

    use super::*;

    fn refused(changes: &Value) -> String {
        let mut settings =
            json!({ "base_url": "https://app.example/scim/v2", "token": "env:TOKEN" });
        for (key, value) in changes.as_object().unwrap() {
            settings[key] = value.clone();
        }
        Settings::parse("app", settings).unwrap_err().message
    }

    #[test]
    fn a_clear_text_address_is_taken_only_on_this_machine_or_on_purpose() {
        let parse = |url: &str, allow: bool| {
            Settings::parse(
                "app",
                json!({ "base_url": url, "token": "env:T", "allow_plaintext": allow }),
            )
            .is_ok()
        };
        for local in [
            "http://127.0.0.1:8080/v2",
            "http://[::1]/v2",
            "http://localhost/v2",
            "https://app.example",
        ] {
            assert!(parse(local, false), "{local}");
        }
        for remote in [
            "http://app.example/v2",
            "http://10.0.0.1/v2",
            "http://127.0.0.1.example/v2",
            "ftp://x/v2",
        ] {
            assert!(!parse(remote, false), "{remote}");
        }
        assert!(parse("http://app.example/v2", true));
        assert!(!parse("ftp://app.example/v2", true));
    }

    #[test]
    fn a_wrong_setting_is_named_with_its_fix() {
        assert!(refused(&json!({ "pagesize": 10 })).contains("unknown field `pagesize`"));
        assert!(refused(&json!({ "token": "hunter2" })).contains("env:NAME"));
        assert!(!refused(&json!({ "token": "hunter2" })).contains("hunter2"));
        assert!(refused(&json!({ "page_size": 0 })).contains("between 1 and 1000"));
        assert!(
            refused(&json!({ "base_url": "https://a:b@c/v2" }))
                .contains("give the secret as `token`")
        );
        assert!(refused(&json!({ "base_url": "http://app.example/" })).contains("allow_plaintext"));
        assert!(refused(&json!({ "extra_schemas": ["acme"] })).contains("must start with `urn:`"));
    }

    #[test]
    fn a_slash_at_the_end_of_the_address_does_not_matter() {
        for text in [
            "https://app.example/scim/v2",
            "https://app.example/scim/v2/",
        ] {
            let (_, base) =
                Settings::parse("app", json!({ "base_url": text, "token": "env:T" })).unwrap();
            assert_eq!(base.path(), "/scim/v2");
        }
    }
}
