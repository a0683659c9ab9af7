//! What the configuration says about an ACME authority.

use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::Url;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::Value;

use crate::answer::settings_error;
use crate::connector::Error;
use crate::program::{self, Program};
use crate::secret::SecretRef;

const TIMEOUT_MS_MAX: u64 = 600_000;
/// How long one issue may take.
const ORDER_MS_MAX: u64 = 3_600_000;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    directory_url: String,
    folder: PathBuf,
    #[serde(default)]
    contact: Vec<String>,
    #[serde(default)]
    terms_agreed: bool,
    #[serde(default)]
    external_account: Option<WrittenExternal>,
    #[serde(default)]
    http01: Option<WrittenHttp>,
    #[serde(default)]
    dns01: Option<program::Written>,
    #[serde(default)]
    dns01_wait_ms: u64,
    #[serde(default)]
    ca_file: Option<PathBuf>,
    #[serde(default = "timeout_ms")]
    timeout_ms: u64,
    #[serde(default = "order_ms")]
    order_timeout_ms: u64,
    #[serde(default)]
    renewal_info: Option<bool>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenExternal {
    id: String,
    key: SecretRef,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenHttp {
    folder: PathBuf,
}

fn timeout_ms() -> u64 {
    30_000
}
fn order_ms() -> u64 {
    120_000
}

#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub directory: Url,
    /// Where the key of the account and the journal are.
    pub folder: PathBuf,
    pub contact: Vec<String>,
    pub external: Option<External>,
    /// Served as `/.well-known/acme-challenge/`.
    pub http_folder: Option<PathBuf>,
    pub dns: Option<Program>,
    /// How long the world takes to see a name that the program put into the DNS.
    pub dns_wait: Duration,
    pub ca_file: Option<PathBuf>,
    pub limit: Duration,
    pub order_limit: Duration,
    /// Whether the authority is asked when to renew.
    pub renewal_info: bool,
}

/// An account with the authority's operator that ours is bound to.
#[derive(Debug, Clone)]
pub(super) struct External {
    pub id: String,
    pub key: Vec<u8>,
}

impl Settings {
    pub fn parse(system: &str, settings: Value) -> Result<Self, Error> {
        let wrong = settings_error(system, "acme");
        let written: Written =
            serde_json::from_value(settings).map_err(|error| wrong(error.to_string()))?;
        let directory = Url::parse(&written.directory_url)
            .ok()
            .filter(|url| url.scheme() == "https" && url.host_str().is_some())
            .ok_or_else(|| wrong("`directory_url` must be an https address".to_owned()))?;
        if !written.folder.is_absolute() {
            return Err(wrong("`folder` must begin with `/`".to_owned()));
        }
        if !written.terms_agreed {
            return Err(wrong(
                "read the authority's terms of service and set `terms_agreed: true`".to_owned(),
            ));
        }
        if let Some(contact) = written.contact.iter().find(|it| !it.starts_with("mailto:")) {
            return Err(wrong(format!(
                "`contact` `{}` must begin with `mailto:`",
                contact.escape_debug()
            )));
        }
        if written.http01.is_none() && written.dns01.is_none() {
            return Err(wrong(
                "give `http01` or `dns01`: the authority wants proof of every name".to_owned(),
            ));
        }
        if let Some(http) = &written.http01
            && !http.folder.is_absolute()
        {
            return Err(wrong("`http01.folder` must begin with `/`".to_owned()));
        }
        for (name, value, max) in [
            ("timeout_ms", written.timeout_ms, TIMEOUT_MS_MAX),
            ("order_timeout_ms", written.order_timeout_ms, ORDER_MS_MAX),
        ] {
            if !(1..=max).contains(&value) {
                return Err(wrong(format!("`{name}` is {value}; give 1 to {max}")));
            }
        }
        if written.dns01_wait_ms >= written.order_timeout_ms {
            return Err(wrong(
                "`dns01_wait_ms` must be less than `order_timeout_ms`".to_owned(),
            ));
        }
        let external = written
            .external_account
            .map(|external| -> Result<External, Error> {
                let key: SecretString = external.key.resolve().map_err(|error| {
                    wrong("cannot read `external_account.key`".to_owned()).with_source(error)
                })?;
                let text = key.expose_secret().trim().trim_end_matches('=');
                let key = URL_SAFE_NO_PAD.decode(text).map_err(|_| {
                    wrong(
                        "`external_account.key` must be base64url, as the authority gave it"
                            .to_owned(),
                    )
                })?;
                Ok(External {
                    id: external.id,
                    key,
                })
            })
            .transpose()?;
        Ok(Self {
            directory,
            folder: written.folder,
            contact: written.contact,
            external,
            http_folder: written.http01.map(|http| http.folder),
            dns: written
                .dns01
                .map(|program| program.checked("dns01"))
                .transpose()
                .map_err(wrong)?,
            dns_wait: Duration::from_millis(written.dns01_wait_ms),
            ca_file: written.ca_file,
            limit: Duration::from_millis(written.timeout_ms),
            order_limit: Duration::from_millis(written.order_timeout_ms),
            renewal_info: written.renewal_info.unwrap_or(true),
        })
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
            "directory_url": "https://ca.example/dir", "folder": "/acme", "terms_agreed": true,
            "http01": {"folder": "/www"},
        });
        assert!(Settings::parse("ca", good.clone()).is_ok());
        for (changes, why) in [
            (
                json!({"directory_url": "http://ca.example/dir"}),
                "https address",
            ),
            (json!({"folder": "acme"}), "`folder`"),
            (json!({"terms_agreed": false}), "terms of service"),
            (json!({"contact": ["ann@example.org"]}), "mailto:"),
            (json!({"http01": null}), "`http01` or `dns01`"),
            (json!({"http01": {"folder": "www"}}), "`http01.folder`"),
            (json!({"dns01": {"command": ["hook"]}}), "`dns01.command`"),
            (json!({"dns01_wait_ms": 200_000}), "`dns01_wait_ms`"),
            (json!({"timeout_ms": 0}), "`timeout_ms`"),
            (
                json!({"external_account": {"id": "a", "key": "hunter2"}}),
                "env:NAME",
            ),
            (json!({"directory": "x"}), "unknown field `directory`"),
        ] {
            let mut settings = good.clone();
            for (name, value) in changes.as_object().unwrap() {
                settings[name] = value.clone();
            }
            let error = Settings::parse("ca", settings).unwrap_err();
            assert!(error.message.contains(why), "{changes}: {error}");
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "not base64 !").unwrap();
        let mut settings = good;
        let key = format!("file:{}", file.path().display());
        settings["external_account"] = json!({"id": "a", "key": key});
        let error = Settings::parse("ca", settings).unwrap_err();
        assert!(error.message.contains("base64url"), "{error}");
    }
}
