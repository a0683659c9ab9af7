//! What the configuration of an AWS account says.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;
use serde::Deserialize;
use serde_json::Value;

use super::sign::Key;
use crate::answer::{is_loopback, settings_error};
use crate::connector::Error;
use crate::secret::SecretRef;

const TIMEOUT_MS_MAX: u64 = 120_000;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    access_key_id: SecretRef,
    secret_access_key: SecretRef,
    #[serde(default)]
    session_token: Option<SecretRef>,
    #[serde(default = "region")]
    region: String,
    #[serde(default)]
    iam_url: Option<String>,
    #[serde(default)]
    sts_url: Option<String>,
    #[serde(default = "path")]
    path: String,
    #[serde(default)]
    ca_file: Option<PathBuf>,
    #[serde(default = "timeout_ms")]
    timeout_ms: u64,
}

fn region() -> String {
    "us-east-1".to_owned()
}
fn path() -> String {
    "/".to_owned()
}
fn timeout_ms() -> u64 {
    15_000
}

#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub key: Key,
    pub region: String,
    pub iam: Url,
    pub sts: Url,
    /// Only users below it are accounts.
    pub path: String,
    pub ca_file: Option<PathBuf>,
    pub limit: Duration,
    /// Whether some of it is on this machine, where no proxy is asked.
    pub is_local: bool,
}

impl Settings {
    pub fn parse(system: &str, settings: Value) -> Result<Self, Error> {
        let wrong = settings_error(system, "aws");
        let written: Written =
            serde_json::from_value(settings).map_err(|error| wrong(error.to_string()))?;
        let read = |name: &str, reference: &SecretRef| {
            reference
                .resolve()
                .map_err(|error| wrong(format!("cannot read `{name}`")).with_source(error))
        };
        let id = read("access_key_id", &written.access_key_id)?;
        let key = Key {
            id: secrecy::ExposeSecret::expose_secret(&id).to_owned(),
            secret: read("secret_access_key", &written.secret_access_key)?,
            session: written
                .session_token
                .as_ref()
                .map(|reference| read("session_token", reference))
                .transpose()?,
        };
        if !is_key_id(&key.id) {
            return Err(wrong(
                "`access_key_id` is not the name of an access key".to_owned(),
            ));
        }
        let is_word = |text: &str| {
            !text.is_empty()
                && text
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        };
        if !is_word(&written.region) {
            return Err(wrong(
                "`region` must be a name such as `eu-central-1`".to_owned(),
            ));
        }
        if !written.path.starts_with('/') || !written.path.ends_with('/') {
            return Err(wrong("`path` must begin and end with `/`".to_owned()));
        }
        if !(1..=TIMEOUT_MS_MAX).contains(&written.timeout_ms) {
            return Err(wrong(format!(
                "`timeout_ms` is {}; give 1 to {TIMEOUT_MS_MAX}",
                written.timeout_ms
            )));
        }
        let iam = written.iam_url;
        let iam = address("iam_url", iam, "https://iam.amazonaws.com/".to_owned());
        let sts = format!("https://sts.{}.amazonaws.com/", written.region);
        let sts = address("sts_url", written.sts_url, sts).map_err(wrong)?;
        let iam = iam.map_err(wrong)?;
        Ok(Self {
            is_local: iam.scheme() == "http" || sts.scheme() == "http",
            iam,
            sts,
            key,
            region: written.region,
            path: written.path,
            ca_file: written.ca_file,
            limit: Duration::from_millis(written.timeout_ms),
        })
    }
}

/// An address that was given, or the usual one.
///
/// # Errors
/// In words, what is wrong with it.
pub(super) fn address(name: &str, given: Option<String>, usual: String) -> Result<Url, String> {
    let url = Url::parse(&given.unwrap_or(usual)).ok();
    url.filter(is_private)
        .ok_or_else(|| format!("`{name}` must be an https address, or one of this machine"))
}

/// Whether new keys can come back over it unseen.
fn is_private(url: &Url) -> bool {
    url.path() == "/" && (url.scheme() == "https" || (url.scheme() == "http" && is_loopback(url)))
}

/// `AKIA...`: what stands in a log and in a request.
pub(super) fn is_key_id(text: &str) -> bool {
    (16..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use serde_json::json;

    use super::*;

    #[test]
    fn a_wrong_setting_is_named_with_its_fix() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            json!(format!("file:{}", path.display()))
        };
        let good = json!({
            "access_key_id": file("id", "AKIAIOSFODNN7EXAMPLE"),
            "secret_access_key": file("secret", "hunter2"),
        });
        let settings = Settings::parse("cloud", good.clone()).unwrap();
        assert_eq!(
            settings.sts.as_str(),
            "https://sts.us-east-1.amazonaws.com/"
        );
        assert!(!format!("{settings:?}").contains("hunter2"));
        for (changes, why) in [
            (json!({"secret_access_key": "hunter2"}), "env:NAME"),
            (
                json!({"access_key_id": file("short", "AKIA")}),
                "not the name of an access key",
            ),
            (json!({"region": "eu central"}), "`region`"),
            (json!({"path": "people"}), "`path`"),
            (json!({"iam_url": "http://iam.example/"}), "https address"),
            (json!({"sts_url": "https://sts.example/x"}), "https address"),
            (json!({"timeout_ms": 0}), "timeout_ms"),
            (json!({"regoin": "x"}), "unknown field `regoin`"),
        ] {
            let mut settings = good.clone();
            for (name, value) in changes.as_object().unwrap() {
                settings[name] = value.clone();
            }
            let error = Settings::parse("cloud", settings).unwrap_err();
            assert!(error.message.contains(why), "{changes}: {error}");
            assert!(!error.whole().contains("hunter2"));
        }
        let local = json!({"iam_url": "http://127.0.0.1:5000", "sts_url": "http://[::1]:5000"});
        let mut settings = good;
        for (name, value) in local.as_object().unwrap() {
            settings[name] = value.clone();
        }
        assert!(Settings::parse("cloud", settings).is_ok());
    }
}
