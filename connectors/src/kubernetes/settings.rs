//! What the configuration of a cluster says.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;
use serde::Deserialize;
use serde_json::Value;

use crate::answer::{is_loopback, settings_error};
use crate::connector::Error;
use crate::scratch::{Scratch, is_part};
use crate::secret::SecretRef;

const TIMEOUT_MS_MAX: u64 = 120_000;
/// Kubernetes gives no token that lives for less.
pub(super) const LIFETIME_S_MIN: u64 = 600;
const LIFETIME_S_MAX: u64 = 365 * 24 * 3_600;
/// How many Secrets and namespaces may be named.
const NAMES_MAX: usize = 1_000;
/// The longest name that a label can hold.
const LABEL_BYTES_MAX: usize = 63;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    server: String,
    #[serde(default)]
    ca_file: Option<PathBuf>,
    #[serde(default)]
    token: Option<SecretRef>,
    #[serde(default)]
    client_certificate: Option<ClientCertificate>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default = "lifetime_s")]
    lifetime_s: u64,
    #[serde(default = "lifetime_s_max")]
    lifetime_s_max: u64,
    #[serde(default)]
    secrets: BTreeMap<String, Bundle>,
    #[serde(default)]
    scratch: Option<PathBuf>,
    #[serde(default = "timeout_ms")]
    timeout_ms: u64,
}

fn lifetime_s() -> u64 {
    3_600
}
fn lifetime_s_max() -> u64 {
    30 * 24 * 3_600
}
fn timeout_ms() -> u64 {
    15_000
}

/// Both halves in PEM.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ClientCertificate {
    pub certificate: SecretRef,
    pub key: SecretRef,
}

/// A Secret that consumers read.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Bundle {
    pub namespace: String,
    pub secret: String,
    /// What a stored credential consists of, all of it, and under which key of the Secret each lies.
    pub parts: BTreeMap<String, String>,
    /// The type that the Secret gets when it is made.
    #[serde(default = "opaque", rename = "type")]
    pub kind: String,
}

fn opaque() -> String {
    "Opaque".to_owned()
}

#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub server: Url,
    pub ca_file: Option<PathBuf>,
    pub token: Option<SecretRef>,
    pub client_certificate: Option<ClientCertificate>,
    /// Those whose service accounts may be given tokens.
    pub namespaces: Vec<String>,
    pub lifetime_s: u64,
    pub lifetime_s_max: u64,
    pub bundles: BTreeMap<String, Bundle>,
    pub scratch: Option<Scratch>,
    pub limit: Duration,
}

/// A name as Kubernetes takes it: `a-z`, `0-9`, `-` and, where `dots` are allowed, `.`.
pub(super) fn is_name(text: &str, bytes_max: usize, dots: bool) -> bool {
    let is_edge = |byte: Option<u8>| {
        byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    text.len() <= bytes_max
        && text.split('.').all(|label| {
            let mut bytes = label.bytes();
            is_edge(bytes.next())
                && is_edge(label.bytes().next_back())
                && bytes
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        })
        && (dots || !text.contains('.'))
}

impl Settings {
    pub fn parse(system: &str, settings: Value) -> Result<Self, Error> {
        let wrong = settings_error(system, "kubernetes");
        let written: Written =
            serde_json::from_value(settings).map_err(|error| wrong(error.to_string()))?;
        if let Some(mistake) = written.mistake() {
            return Err(wrong(mistake));
        }
        let server = address(&written.server).map_err(wrong)?;
        let scratch = written
            .scratch
            .map(|folder| Scratch::checked(system, folder));
        let scratch = scratch.transpose();
        Ok(Self {
            server,
            ca_file: written.ca_file,
            token: written.token,
            client_certificate: written.client_certificate,
            namespaces: written.namespaces,
            lifetime_s: written.lifetime_s,
            lifetime_s_max: written.lifetime_s_max,
            bundles: written.secrets,
            scratch: scratch.map_err(wrong)?,
            limit: Duration::from_millis(written.timeout_ms),
        })
    }
}

fn address(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).ok().filter(|url| {
        url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none()
            && (url.scheme() == "https" || (url.scheme() == "http" && is_loopback(url)))
    });
    let mut url = url.ok_or_else(|| {
        "`server` must be an https address, or one of this machine, without user, `?` and `#`"
            .to_owned()
    })?;
    // Segments are appended; an empty last one would double the slash.
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty();
    }
    Ok(url)
}

impl Written {
    fn mistake(&self) -> Option<String> {
        if self.token.is_some() == self.client_certificate.is_some() {
            return Some(
                "give one of `token` and `client_certificate`: who Tenure is there".to_owned(),
            );
        }
        if self.namespaces.is_empty() && self.secrets.is_empty() {
            return Some(
                "name `secrets` to keep credentials in, or `namespaces` whose service accounts get tokens"
                    .to_owned(),
            );
        }
        if self.namespaces.len() > NAMES_MAX || self.secrets.len() > NAMES_MAX {
            return Some(format!(
                "more than {NAMES_MAX} of `secrets` or `namespaces`"
            ));
        }
        let mut namespaces = self
            .namespaces
            .iter()
            .chain(self.secrets.values().map(|bundle| &bundle.namespace));
        if let Some(name) = namespaces.find(|name| !is_name(name, LABEL_BYTES_MAX, false)) {
            return Some(format!(
                "`{}` is no name of a namespace",
                name.escape_debug()
            ));
        }
        let different: BTreeSet<&String> = self.namespaces.iter().collect();
        if different.len() != self.namespaces.len() {
            return Some("`namespaces` names one twice".to_owned());
        }
        for (name, value, least, most) in [
            (
                "lifetime_s_max",
                self.lifetime_s_max,
                LIFETIME_S_MIN,
                LIFETIME_S_MAX,
            ),
            (
                "lifetime_s",
                self.lifetime_s,
                LIFETIME_S_MIN,
                self.lifetime_s_max,
            ),
            ("timeout_ms", self.timeout_ms, 1, TIMEOUT_MS_MAX),
        ] {
            if !(least..=most).contains(&value) {
                return Some(format!("`{name}` is {value}; give {least} to {most}"));
            }
        }
        let mut read = BTreeSet::new();
        for (name, bundle) in &self.secrets {
            if name.is_empty() || name.contains('/') || name.chars().any(char::is_control) {
                return Some(format!(
                    "`{}` is no name of ours for a Secret; leave `/` out: that is how service accounts are named",
                    name.escape_debug()
                ));
            }
            if !is_name(&bundle.secret, LABEL_BYTES_MAX, true) {
                return Some(format!(
                    "`secrets.{name}.secret` is no name of a Secret, or has more than {LABEL_BYTES_MAX} characters"
                ));
            }
            if !read.insert((&bundle.namespace, &bundle.secret)) {
                return Some(format!(
                    "`secrets.{name}` names a Secret that another one names too"
                ));
            }
            let keys: BTreeSet<&String> = bundle.parts.values().collect();
            if bundle.parts.is_empty() || keys.len() != bundle.parts.len() {
                return Some(format!(
                    "`secrets.{name}.parts` is empty, or gives two parts one key"
                ));
            }
            let mut names = bundle.parts.iter().flat_map(|(part, key)| [part, key]);
            if let Some(part) = names.find(|part| !is_part(part)) {
                return Some(format!(
                    "`secrets.{name}.parts` has `{}`; use letters, digits, `-`, `_` and `.`",
                    part.escape_debug()
                ));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use serde_json::json;

    use super::*;

    #[test]
    fn a_wrong_setting_is_named_with_its_fix() {
        let good = json!({
            "server": "https://10.0.0.1:6443/", "token": "file:/t", "namespaces": ["shop"],
            "secrets": {"app": {"namespace": "shop", "secret": "app.db", "parts": {"password": "password"}}},
        });
        let settings = Settings::parse("cluster", good.clone()).unwrap();
        assert_eq!(settings.bundles["app"].kind, "Opaque");
        for (changes, why) in [
            (json!({"server": "http://10.0.0.1/"}), "https address"),
            (json!({"server": "https://a:b@c/"}), "https address"),
            (json!({"token": "hunter2"}), "env:NAME"),
            (json!({"token": null}), "one of `token`"),
            (
                json!({"client_certificate": {"certificate": "file:/c", "key": "file:/k"}}),
                "one of `token`",
            ),
            (
                json!({"namespaces": ["Shop"]}),
                "`Shop` is no name of a namespace",
            ),
            (json!({"namespaces": ["a", "a"]}), "twice"),
            (json!({"namespaces": [], "secrets": {}}), "name `secrets`"),
            (json!({"lifetime_s": 10}), "give 600 to"),
            (json!({"lifetime_s": 99_999_999}), "`lifetime_s`"),
            (json!({"timeout_ms": 0}), "`timeout_ms`"),
            (json!({"scratch": "run"}), "`scratch`"),
            (
                json!({"secrets": {"a/b": {"namespace": "shop", "secret": "x", "parts": {"a": "a"}}}}),
                "leave `/` out",
            ),
            (
                json!({"secrets": {"a": {"namespace": "shop", "secret": "-x", "parts": {"a": "a"}}}}),
                "no name of a Secret",
            ),
            (
                json!({"secrets": {"a": {"namespace": "shop", "secret": "x", "parts": {}}}}),
                "is empty",
            ),
            (
                json!({"secrets": {"a": {"namespace": "shop", "secret": "x", "parts": {"a": "c", "b": "c"}}}}),
                "one key",
            ),
            (
                json!({"secrets": {"a": {"namespace": "shop", "secret": "x", "parts": {"a": "../c"}}}}),
                "use letters",
            ),
            (
                json!({"secrets": {
                    "a": {"namespace": "shop", "secret": "x", "parts": {"a": "a"}},
                    "b": {"namespace": "shop", "secret": "x", "parts": {"a": "a"}},
                }}),
                "another one names too",
            ),
            (json!({"sever": "x"}), "unknown field `sever`"),
        ] {
            let mut settings = good.clone();
            for (name, value) in changes.as_object().unwrap() {
                settings[name] = value.clone();
            }
            let error = Settings::parse("cluster", settings).unwrap_err();
            assert!(error.message.contains(why), "{changes}: {error}");
            assert!(!error.whole().contains("hunter2"));
        }
        assert!(
            is_name("a-1", 63, false) && !is_name("a.b", 63, false) && is_name("a.b", 63, true)
        );
        for text in ["", "-a", "a-", "a..b", "A", "a_b", ".a"] {
            assert!(!is_name(text, 63, true), "{text}");
        }
    }
}
