//! What the configuration of secrets in AWS says.

use std::collections::{BTreeMap, BTreeSet};

use reqwest::Url;
use serde::Deserialize;
use serde_json::Value;

use super::super::settings::{Settings as Access, address};
use crate::answer::settings_error;
use crate::connector::Error;
use crate::scratch::{Scratch, is_part};

/// How many secrets may be named.
const NAMES_MAX: usize = 1_000;
const SECRET_BYTES_MAX: usize = 2_048;

/// What is not about who we are and where AWS is.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    secrets_url: Option<String>,
    secrets: BTreeMap<String, Bundle>,
    #[serde(default)]
    scratch: Option<std::path::PathBuf>,
}

/// What the settings of both kinds are read from; what is left belongs to the other part.
const OWN: [&str; 3] = ["secrets_url", "secrets", "scratch"];
/// What only users of IAM have.
const OF_USERS: [&str; 2] = ["iam_url", "path"];

/// A secret that consumers read.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Bundle {
    /// Its name or ARN.
    pub secret: String,
    /// What a stored credential consists of, all of it, and in which field of the secret's JSON each lies.
    pub parts: BTreeMap<String, String>,
}

#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub access: Access,
    pub url: Url,
    pub bundles: BTreeMap<String, Bundle>,
    pub scratch: Option<Scratch>,
}

impl Settings {
    pub fn parse(system: &str, mut settings: Value) -> Result<Self, Error> {
        let wrong = settings_error(system, "aws_secrets");
        let mut own = serde_json::Map::new();
        if let Some(all) = settings.as_object_mut() {
            if let Some(name) = OF_USERS.into_iter().find(|name| all.contains_key(*name)) {
                return Err(wrong(format!(
                    "unknown field `{name}`: that belongs to a system of kind `aws`"
                )));
            }
            for name in OWN {
                if let Some(value) = all.remove(name) {
                    own.insert(name.to_owned(), value);
                }
            }
        }
        let written: Written =
            serde_json::from_value(Value::Object(own)).map_err(|error| wrong(error.to_string()))?;
        if let Some(mistake) = mistake(&written.secrets) {
            return Err(wrong(mistake));
        }
        let mut access = Access::parse(system, settings)?;
        let usual = format!("https://secretsmanager.{}.amazonaws.com/", access.region);
        let url = address("secrets_url", written.secrets_url, usual).map_err(wrong)?;
        access.is_local |= url.scheme() == "http";
        let scratch = written
            .scratch
            .map(|folder| Scratch::checked(system, folder));
        let scratch = scratch.transpose();
        Ok(Self {
            access,
            url,
            bundles: written.secrets,
            scratch: scratch.map_err(wrong)?,
        })
    }
}

fn mistake(bundles: &BTreeMap<String, Bundle>) -> Option<String> {
    if bundles.is_empty() || bundles.len() > NAMES_MAX {
        return Some(format!("`secrets` names none, or more than {NAMES_MAX}"));
    }
    let mut read = BTreeSet::new();
    for (name, bundle) in bundles {
        if name.is_empty() || name.chars().any(char::is_control) {
            return Some(format!(
                "`{}` is no name of ours for a secret",
                name.escape_debug()
            ));
        }
        let secret = &bundle.secret;
        let is_name = (1..=SECRET_BYTES_MAX).contains(&secret.len())
            && secret
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"/_+=.@-:".contains(&byte));
        if !is_name {
            return Some(format!(
                "`secrets.{name}.secret` is neither a name nor an ARN"
            ));
        }
        if !read.insert(secret) {
            return Some(format!(
                "`secrets.{name}` names a secret that another one names too"
            ));
        }
        let fields: BTreeSet<&String> = bundle.parts.values().collect();
        if bundle.parts.is_empty() || fields.len() != bundle.parts.len() {
            return Some(format!(
                "`secrets.{name}.parts` is empty, or gives two parts one field"
            ));
        }
        if let Some(part) = bundle.parts.keys().find(|part| !is_part(part)) {
            return Some(format!(
                "`secrets.{name}.parts` has `{}`; use letters, digits, `-`, `_` and `.`",
                part.escape_debug()
            ));
        }
    }
    None
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
            "region": "eu-central-1",
            "secrets": {"app": {"secret": "prod/app", "parts": {"password": "password"}}},
        });
        let settings = Settings::parse("cloud", good.clone()).unwrap();
        assert_eq!(
            settings.url.as_str(),
            "https://secretsmanager.eu-central-1.amazonaws.com/"
        );
        assert!(!format!("{settings:?}").contains("hunter2"));
        for (changes, why) in [
            (json!({"secrets": {}}), "`secrets` names none"),
            (
                json!({"secrets": {"a": {"secret": "a b", "parts": {"a": "a"}}}}),
                "neither a name",
            ),
            (
                json!({"secrets": {"a": {"secret": "a", "parts": {}}}}),
                "is empty",
            ),
            (
                json!({"secrets": {"a": {"secret": "a", "parts": {"../a": "a"}}}}),
                "use letters",
            ),
            (
                json!({"secrets": {
                    "a": {"secret": "x", "parts": {"a": "a"}}, "b": {"secret": "x", "parts": {"a": "a"}},
                }}),
                "another one names too",
            ),
            (json!({"secrets_url": "http://x.example/"}), "`secrets_url`"),
            (json!({"scratch": "run"}), "`scratch`"),
            (json!({"path": "/services/"}), "kind `aws`"),
            (json!({"regoin": "x"}), "unknown field `regoin`"),
            (json!({"secret_access_key": "hunter2"}), "env:NAME"),
        ] {
            let mut settings = good.clone();
            for (name, value) in changes.as_object().unwrap() {
                settings[name] = value.clone();
            }
            let error = Settings::parse("cloud", settings).unwrap_err();
            assert!(error.message.contains(why), "{changes}: {error}");
            assert!(!error.whole().contains("hunter2"));
        }
    }
}
