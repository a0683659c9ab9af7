//! What the configuration of an internal authority says.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;

use crate::answer::settings_error;
use crate::connector::Error;

const DAY_S: u64 = 24 * 3_600;
/// The longest life of anything here: forty years.
const LIFETIME_S_MAX: u64 = 40 * 366 * DAY_S;
/// How far back a certificate may begin.
const BACKDATE_S_MAX: u64 = DAY_S;
/// The longest name of an authority.
const SUBJECT_CHARS_MAX: usize = 48;
/// How many rules for names there may be.
const NAMES_MAX: usize = 1_000;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    /// Where the authority keeps its keys, certificates, index and lists of the revoked.
    pub folder: PathBuf,
    /// What it calls itself.
    pub subject: String,
    /// Whether it is made when the folder has none.
    #[serde(default)]
    pub create: bool,
    /// Of its own keys.
    #[serde(default)]
    pub key_algorithm: KeyAlgorithm,
    #[serde(default = "root_lifetime_s")]
    pub root_lifetime_s: u64,
    /// Of what signs below the root.
    #[serde(default = "authority_lifetime_s")]
    pub authority_lifetime_s: u64,
    /// The names it may certify: `host.example`, `.example` for all below, an address, `*` for everything.
    #[serde(default)]
    pub names: Vec<NameRule>,
    /// How long a certificate lives that asks for nothing else.
    #[serde(default = "lifetime_s")]
    pub lifetime_s: u64,
    #[serde(default = "lifetime_s_max")]
    pub lifetime_s_max: u64,
    /// How long before now a certificate begins, for clocks that are late.
    #[serde(default = "backdate_s")]
    pub backdate_s: u64,
    /// How long a list of the revoked is good for.
    #[serde(default = "crl_lifetime_s")]
    pub crl_lifetime_s: u64,
    /// Where the list is served, for those who look it up; [`GENERATION`] in it stands for the generation that signed.
    #[serde(default)]
    pub crl_url: Option<String>,
}

/// Each generation has a list of its own, and an address names one list.
const GENERATION: &str = "{generation}";

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum KeyAlgorithm {
    #[default]
    EcdsaP256,
    EcdsaP384,
    Ed25519,
}

impl KeyAlgorithm {
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "ecdsa_p256" => Some(Self::EcdsaP256),
            "ecdsa_p384" => Some(Self::EcdsaP384),
            "ed25519" => Some(Self::Ed25519),
            _ => None,
        }
    }

    pub fn rcgen(self) -> &'static rcgen::SignatureAlgorithm {
        match self {
            Self::EcdsaP256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            Self::EcdsaP384 => &rcgen::PKCS_ECDSA_P384_SHA384,
            Self::Ed25519 => &rcgen::PKCS_ED25519,
        }
    }
}

/// Which names may stand in a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) enum NameRule {
    Any,
    Address(IpAddr),
    Exactly(String),
    /// All below this one, and wildcards of it.
    Below(String),
}

impl TryFrom<String> for NameRule {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let text = text.to_ascii_lowercase();
        if text == "*" {
            return Ok(Self::Any);
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let (rule, name): (fn(String) -> Self, &str) = match text.strip_prefix('.') {
            Some(name) => (Self::Below, name),
            None => (Self::Exactly, &text),
        };
        if is_host_name(name) {
            Ok(rule(name.to_owned()))
        } else {
            Err(format!(
                "`{}` is no rule for names; write `host.example`, `.example`, an address or `*`",
                text.escape_debug()
            ))
        }
    }
}

impl NameRule {
    pub fn allows_address(&self, address: IpAddr) -> bool {
        match self {
            Self::Any => true,
            Self::Address(allowed) => *allowed == address,
            Self::Exactly(_) | Self::Below(_) => false,
        }
    }

    /// `name` in lower case; it may begin with `*.`.
    pub fn allows_name(&self, name: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Address(_) => false,
            Self::Exactly(allowed) => allowed == name,
            Self::Below(parent) => name
                .strip_suffix(parent.as_str())
                .is_some_and(|below| below.ends_with('.') && below.len() > 1),
        }
    }
}

/// Whether it is a name of hosts in lower case (RFC 1123), without a wildcard.
pub(super) fn is_host_name(name: &str) -> bool {
    name.len() <= 253
        && name.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        })
}

fn root_lifetime_s() -> u64 {
    3_650 * DAY_S
}
fn authority_lifetime_s() -> u64 {
    1_825 * DAY_S
}
fn lifetime_s() -> u64 {
    30 * DAY_S
}
fn lifetime_s_max() -> u64 {
    90 * DAY_S
}
fn backdate_s() -> u64 {
    300
}
fn is_http(url: &str) -> bool {
    let server = url.strip_prefix("http://");
    server.is_some_and(|server| !server.is_empty() && !server.starts_with('/'))
        && url.chars().all(|c| c.is_ascii_graphic())
}

fn crl_lifetime_s() -> u64 {
    7 * DAY_S
}

impl Settings {
    pub fn parse(system: &str, settings: Value) -> Result<Self, Error> {
        let wrong = settings_error(system, "x509");
        let settings: Self =
            serde_json::from_value(settings).map_err(|error| wrong(error.to_string()))?;
        match settings.mistake() {
            None => Ok(settings),
            Some(mistake) => Err(wrong(mistake)),
        }
    }

    fn mistake(&self) -> Option<String> {
        if !self.folder.is_absolute() {
            return Some(format!(
                "`folder` `{}` must begin with `/`",
                self.folder.display()
            ));
        }
        let subject = &self.subject;
        if subject.trim().is_empty()
            || subject.chars().count() > SUBJECT_CHARS_MAX
            || subject.chars().any(char::is_control)
        {
            return Some(format!(
                "`subject` must be a name of 1 to {SUBJECT_CHARS_MAX} characters"
            ));
        }
        if self.names.len() > NAMES_MAX {
            return Some(format!("`names` has more than {NAMES_MAX} rules"));
        }
        for (name, value, max) in [
            ("root_lifetime_s", self.root_lifetime_s, LIFETIME_S_MAX),
            (
                "authority_lifetime_s",
                self.authority_lifetime_s,
                self.root_lifetime_s,
            ),
            (
                "lifetime_s_max",
                self.lifetime_s_max,
                self.authority_lifetime_s,
            ),
            ("lifetime_s", self.lifetime_s, self.lifetime_s_max),
            ("crl_lifetime_s", self.crl_lifetime_s, LIFETIME_S_MAX),
        ] {
            if !(1..=max).contains(&value) {
                return Some(format!(
                    "`{name}` is {value}; it must be between 1 and {max}: nothing lives longer than what signed it"
                ));
            }
        }
        if self.backdate_s > BACKDATE_S_MAX {
            return Some(format!(
                "`backdate_s` is {}; at most {BACKDATE_S_MAX}",
                self.backdate_s
            ));
        }
        match &self.crl_url {
            Some(url) if !is_http(url) => {
                // Whoever checks a certificate cannot first check the one of the server with the list.
                Some(
                    "`crl_url` must be an address that begins with `http://` and names a server"
                        .to_owned(),
                )
            }
            _ => None,
        }
    }

    /// Where the list of a generation is served.
    pub(super) fn crl_url_of(&self, generation: u32) -> Option<String> {
        let url = self.crl_url.as_ref()?;
        Some(url.replace(GENERATION, &format!("g{generation}")))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use serde_json::json;

    use super::*;

    #[test]
    fn a_wrong_setting_is_named_with_its_fix() {
        for (changes, why) in [
            (json!({"foldr": "x"}), "unknown field `foldr`"),
            (json!({"folder": "ca"}), "must begin with `/`"),
            (json!({"subject": " "}), "`subject`"),
            (json!({"subject": "x".repeat(49)}), "`subject`"),
            (json!({"names": ["*.example.org"]}), "write `host.example`"),
            (json!({"names": ["exa mple"]}), "is no rule"),
            (
                json!({"lifetime_s": 100, "lifetime_s_max": 99}),
                "between 1 and 99",
            ),
            (
                json!({"authority_lifetime_s": 10, "lifetime_s_max": 11}),
                "lifetime_s_max",
            ),
            (json!({"root_lifetime_s": 0}), "root_lifetime_s"),
            (json!({"backdate_s": 100_000}), "backdate_s"),
            (json!({"crl_url": "https://ca.example/crl"}), "crl_url"),
            (json!({"crl_url": "http://"}), "crl_url"),
            (json!({"crl_url": "http:///crl.der"}), "crl_url"),
            (json!({"crl_url": "http://ca.example/a b"}), "crl_url"),
            (json!({"crl_url": "ca.example/crl.der"}), "crl_url"),
            (
                json!({"key_algorithm": "rsa_1024"}),
                "unknown variant `rsa_1024`",
            ),
        ] {
            let mut settings = json!({"folder": "/ca", "subject": "Example"});
            for (name, value) in changes.as_object().unwrap() {
                settings[name] = value.clone();
            }
            let error = Settings::parse("ca", settings).unwrap_err();
            assert!(error.message.contains(why), "{changes}: {error}");
        }
    }

    #[test]
    fn a_rule_allows_what_is_below_it_and_nothing_that_only_ends_alike() {
        let below = NameRule::try_from(".Svc.Example".to_owned()).unwrap();
        for (name, allowed) in [
            ("a.svc.example", true),
            ("a.b.svc.example", true),
            ("*.svc.example", true),
            ("svc.example", false),
            ("evilsvc.example", false),
            (".svc.example", false),
            ("a.svc.example.org", false),
        ] {
            assert_eq!(below.allows_name(name), allowed, "{name}");
        }
        let host = NameRule::try_from("a.example".to_owned()).unwrap();
        assert!(host.allows_name("a.example") && !host.allows_name("*.example"));
        let address = NameRule::try_from("10.0.0.1".to_owned()).unwrap();
        assert!(address.allows_address([10, 0, 0, 1].into()));
        assert!(!address.allows_address([10, 0, 0, 2].into()));
        assert!(!host.allows_address([10, 0, 0, 1].into()));
    }
}
