//! What the configuration says about places that serve certificates.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use rustls::pki_types::ServerName;
use serde::Deserialize;
use serde_json::Value;

use crate::answer::settings_error;
use crate::connector::Error;

const ENDPOINTS_MAX: usize = 100_000;
const TIMEOUT_MS_MAX: u64 = 60_000;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    endpoints: BTreeMap<String, WrittenEndpoint>,
    #[serde(default)]
    anywhere: bool,
    #[serde(default)]
    ca_file: Option<PathBuf>,
    #[serde(default = "timeout_ms")]
    timeout_ms: u64,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenEndpoint {
    address: String,
    #[serde(default)]
    server_name: Option<String>,
    #[serde(default)]
    starttls: Option<StartTls>,
}

/// How a conversation in the clear becomes a private one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum StartTls {
    Smtp,
    Ldap,
    Postgres,
}

fn timeout_ms() -> u64 {
    5_000
}

#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub endpoints: BTreeMap<String, Endpoint>,
    /// Whether a place may be asked that the settings do not name.
    pub anywhere: bool,
    pub ca_file: Option<PathBuf>,
    pub limit: Duration,
}

/// One place that serves a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub host: String,
    pub port: u16,
    /// What is asked for, and what the certificate should be for.
    pub server_name: ServerName<'static>,
    pub starttls: Option<StartTls>,
}

impl Endpoint {
    /// `host:port`, with `?name=other.example` and `&starttls=smtp` behind it where needed.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (address, query) = text.split_once('?').unwrap_or((text, ""));
        let (mut name, mut starttls) = (None, None);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("name", value)) => name = Some(value),
                Some(("starttls", "smtp")) => starttls = Some(StartTls::Smtp),
                Some(("starttls", "ldap")) => starttls = Some(StartTls::Ldap),
                Some(("starttls", "postgres")) => starttls = Some(StartTls::Postgres),
                _ => {
                    return Err(format!(
                        "`{}` is neither `name=HOST` nor `starttls=smtp|ldap|postgres`",
                        pair.escape_debug()
                    ));
                }
            }
        }
        Self::new(address, name, starttls)
    }

    fn new(
        address: &str,
        server_name: Option<&str>,
        starttls: Option<StartTls>,
    ) -> Result<Self, String> {
        let wrong = || format!("`{}` must be `host:port`", address.escape_debug());
        let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
        // An IPv6 address stands in brackets.
        let host = host
            .strip_prefix('[')
            .map_or(Some(host), |host| host.strip_suffix(']'))
            .filter(|host| !host.is_empty())
            .ok_or_else(wrong)?;
        let port: u16 = port.parse().map_err(|_| wrong())?;
        let name = server_name.unwrap_or(host);
        let server_name = ServerName::try_from(name.to_owned()).map_err(|_| {
            format!(
                "`{}` is neither a host's name nor an address; set `server_name`",
                name.escape_debug()
            )
        })?;
        if port == 0 {
            return Err(wrong());
        }
        Ok(Self {
            host: host.to_owned(),
            port,
            server_name,
            starttls,
        })
    }
}

impl Settings {
    pub fn parse(system: &str, settings: Value) -> Result<Self, Error> {
        let wrong = settings_error(system, "tls");
        let written: Written =
            serde_json::from_value(settings).map_err(|error| wrong(error.to_string()))?;
        if written.endpoints.len() > ENDPOINTS_MAX {
            return Err(wrong(format!("more than {ENDPOINTS_MAX} `endpoints`")));
        }
        if written.endpoints.is_empty() && !written.anywhere {
            return Err(wrong(
                "name the `endpoints`, or set `anywhere: true` to ask whatever is asked about"
                    .to_owned(),
            ));
        }
        if !(1..=TIMEOUT_MS_MAX).contains(&written.timeout_ms) {
            return Err(wrong(format!(
                "`timeout_ms` is {}; give 1 to {TIMEOUT_MS_MAX}",
                written.timeout_ms
            )));
        }
        let mut endpoints = BTreeMap::new();
        for (name, endpoint) in written.endpoints {
            let server_name = endpoint.server_name.as_deref();
            let checked = Endpoint::new(&endpoint.address, server_name, endpoint.starttls)
                .map_err(|what| wrong(format!("endpoint `{}`: {what}", name.escape_debug())))?;
            endpoints.insert(name, checked);
        }
        Ok(Self {
            endpoints,
            anywhere: written.anywhere,
            ca_file: written.ca_file,
            limit: Duration::from_millis(written.timeout_ms),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use serde_json::json;

    use super::*;

    #[test]
    fn a_place_is_read_in_every_form() {
        let plain = Endpoint::parse("shop.example:443").unwrap();
        assert_eq!(
            (plain.host.as_str(), plain.port, plain.starttls),
            ("shop.example", 443, None)
        );
        let other = Endpoint::parse("10.0.0.1:5432?name=db.example&starttls=postgres").unwrap();
        assert_eq!(other.server_name.to_str(), "db.example");
        assert_eq!(other.starttls, Some(StartTls::Postgres));
        assert_eq!(Endpoint::parse("[::1]:636").unwrap().host, "::1");
        for wrong in [
            "",
            "shop.example",
            ":443",
            "shop.example:0",
            "shop.example:65536",
            "[::1:636",
            "shop.example:443?name=",
            "shop.example:443?name=a b",
            "shop.example:443?starttls=imap",
            "shop example:443",
        ] {
            assert!(Endpoint::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_wrong_setting_is_named_with_its_fix() {
        for (settings, why) in [
            (json!({}), "name the `endpoints`"),
            (json!({"anywhere": true, "timeout_ms": 0}), "`timeout_ms`"),
            (
                json!({"endpoints": {"a": {"address": "a"}}}),
                "endpoint `a`: `a` must be `host:port`",
            ),
            (
                json!({"endpoints": {"a": {"address": "a:1", "starttls": "ftp"}}}),
                "unknown variant `ftp`",
            ),
            (json!({"endpoint": {}}), "unknown field `endpoint`"),
        ] {
            let error = Settings::parse("edge", settings).unwrap_err();
            assert!(error.message.contains(why), "{error}");
        }
    }
}
