//! The settings of one directory, checked once.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;
use rustls::ClientConfig;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::dn;
use crate::connector::{Error, ErrorKind};
use crate::secret::SecretRef;

const PAGE_SIZE_MAX: u32 = 5_000;
const CONNECTIONS_MAX: usize = 256;
const TIMEOUT_MS_MAX: u64 = 600_000;

/// What a person writes. Everything that has one usual value per flavour may be left out.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    url: String,
    #[serde(default)]
    start_tls: bool,
    ca_file: Option<String>,
    #[serde(default)]
    allow_plaintext: bool,
    bind_dn: String,
    bind_password: SecretRef,
    flavour: Flavour,
    people_base: String,
    group_base: String,
    search_base: Option<String>,
    rdn_attribute: Option<String>,
    name_attribute: Option<String>,
    owner_attribute: Option<String>,
    object_classes: Option<Vec<String>>,
    account_filter: Option<String>,
    group_class: Option<String>,
    member_attribute: Option<String>,
    group_owner_attribute: Option<String>,
    placeholder_member: Option<String>,
    member_of: Option<bool>,
    password_policy: Option<String>,
    #[serde(default = "page_size")]
    page_size: u32,
    #[serde(default = "connect_timeout_ms")]
    connect_timeout_ms: u64,
    #[serde(default = "operation_timeout_ms")]
    operation_timeout_ms: u64,
    #[serde(default = "connections_max")]
    connections_max: usize,
}

fn page_size() -> u32 {
    500
}
fn connect_timeout_ms() -> u64 {
    5_000
}
fn operation_timeout_ms() -> u64 {
    15_000
}
fn connections_max() -> usize {
    8
}

/// Which dialect of LDAP the server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Flavour {
    Openldap,
    ActiveDirectory,
}

/// How the connection is kept private.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Security {
    Plain,
    StartTls,
    Ldaps,
}

/// Settings that passed every check that needs no server.
pub(super) struct Settings {
    pub(super) system: String,
    pub(super) url: String,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) security: Security,
    pub(super) tls: Option<Arc<ClientConfig>>,
    pub(super) bind_dn: String,
    pub(super) bind_password: SecretString,
    pub(super) flavour: Flavour,
    /// Where accounts are made and listed.
    pub(super) people_base: String,
    pub(super) group_base: String,
    /// Where an account is looked for by its identifier: wider than `people_base`, so that one which was
    /// moved to another part of the tree is found and not taken for deleted.
    pub(super) search_base: String,
    pub(super) rdn_attribute: String,
    pub(super) name_attribute: String,
    pub(super) owner_attribute: String,
    pub(super) object_classes: Vec<String>,
    pub(super) account_filter: String,
    pub(super) group_class: String,
    pub(super) member_attribute: String,
    /// Of a group: who answers for it.
    pub(super) group_owner_attribute: String,
    pub(super) placeholder_member: Option<String>,
    /// Whether `memberOf` of an account tells all its groups.
    pub(super) member_of: bool,
    pub(super) password_policy: Option<String>,
    pub(super) page_size: i32,
    pub(super) connect_timeout: Duration,
    pub(super) operation_timeout: Duration,
    pub(super) connections_max: usize,
}

impl Settings {
    /// Parses and checks; reads the password and the CA file, contacts nothing.
    pub(super) fn read(system: &str, settings: Value) -> Result<Self, Error> {
        let invalid = |text: String| {
            Error::new(
                ErrorKind::Invalid,
                format!("settings of ldap system `{system}`: {text}"),
            )
        };
        let written: Written =
            serde_json::from_value(settings).map_err(|error| invalid(error.to_string()))?;
        Self::check(system, written).map_err(invalid)
    }

    fn check(system: &str, written: Written) -> Result<Self, String> {
        let address = Address::parse(&written)?;
        for (setting, name) in [
            ("people_base", Some(&written.people_base)),
            ("group_base", Some(&written.group_base)),
            ("search_base", written.search_base.as_ref()),
            ("placeholder_member", written.placeholder_member.as_ref()),
            ("password_policy", written.password_policy.as_ref()),
        ] {
            if let Some(name) = name.filter(|name| dn::Dn::parse(name).is_none()) {
                return Err(format!(
                    "`{setting}` is `{name}`, which is not a distinguished name such as `ou=people,dc=example,dc=org`"
                ));
            }
        }
        let default = Defaults::of(written.flavour);
        let rdn_attribute = written
            .rdn_attribute
            .unwrap_or_else(|| default.rdn_attribute.to_owned());
        let name_attribute = written
            .name_attribute
            .unwrap_or_else(|| match written.flavour {
                Flavour::Openldap => rdn_attribute.clone(),
                Flavour::ActiveDirectory => "sAMAccountName".to_owned(),
            });
        let owner_attribute = written
            .owner_attribute
            .unwrap_or_else(|| "employeeNumber".to_owned());
        let member_attribute = written
            .member_attribute
            .unwrap_or_else(|| "member".to_owned());
        let group_owner_attribute = written
            .group_owner_attribute
            .unwrap_or_else(|| default.group_owner_attribute.to_owned());
        let group_class = written
            .group_class
            .unwrap_or_else(|| default.group_class.to_owned());
        let object_classes = written
            .object_classes
            .unwrap_or_else(|| vec![default.object_class.to_owned()]);
        let attributes = [
            ("rdn_attribute", &rdn_attribute),
            ("name_attribute", &name_attribute),
            ("owner_attribute", &owner_attribute),
            ("member_attribute", &member_attribute),
            ("group_owner_attribute", &group_owner_attribute),
            ("group_class", &group_class),
        ];
        let classes = object_classes.iter().map(|class| ("object_classes", class));
        for (setting, name) in attributes.into_iter().chain(classes) {
            if !dn::is_attribute_name(name) {
                return Err(format!(
                    "`{setting}` is `{name}`, which is not a name of the schema"
                ));
            }
        }
        let account_filter = match (written.account_filter, object_classes.first()) {
            (Some(filter), _) => filter,
            (None, _) if written.flavour == Flavour::ActiveDirectory => {
                // Computers are users too in Active Directory.
                "(&(objectCategory=person)(objectClass=user))".to_owned()
            }
            (None, Some(class)) => dn::equals("objectClass", class),
            (None, None) => return Err("`object_classes` is empty".to_owned()),
        };
        if ldap3::parse_filter(&account_filter).is_err() {
            return Err(format!(
                "`account_filter` is `{account_filter}`, which is not a filter such as `(objectClass=inetOrgPerson)`"
            ));
        }
        let placeholder_member = match written.flavour {
            Flavour::Openldap => Some(
                written
                    .placeholder_member
                    .unwrap_or_else(|| dn::below("cn", "nobody", &written.group_base)),
            ),
            // A group may be empty there.
            Flavour::ActiveDirectory => None,
        };
        let search_base = written.search_base.unwrap_or_else(|| {
            dn::common(&written.people_base, &written.group_base)
                .unwrap_or_else(|| written.people_base.clone())
        });
        let bind_password = written
            .bind_password
            .resolve()
            .map_err(|error| format!("`bind_password`: {error}"))?;
        if bind_password.expose_secret().is_empty() || written.bind_dn.is_empty() {
            // A bind without a password succeeds everywhere, as nobody (RFC 4513, 5.1.2).
            return Err(
                "`bind_dn` or the secret of `bind_password` is empty: that would log in as nobody"
                    .to_owned(),
            );
        }
        let tls = match address.security {
            Security::Plain => None,
            Security::StartTls | Security::Ldaps => Some(tls(written.ca_file.as_deref())?),
        };
        Ok(Self {
            system: system.to_owned(),
            url: written.url,
            host: address.host,
            port: address.port,
            security: address.security,
            tls,
            bind_dn: written.bind_dn,
            bind_password,
            flavour: written.flavour,
            people_base: written.people_base,
            group_base: written.group_base,
            search_base,
            rdn_attribute,
            name_attribute,
            owner_attribute,
            object_classes,
            account_filter,
            group_class,
            member_attribute,
            group_owner_attribute,
            placeholder_member,
            member_of: written
                .member_of
                .unwrap_or(written.flavour == Flavour::ActiveDirectory),
            password_policy: written.password_policy,
            page_size: i32::try_from(within("page_size", written.page_size, PAGE_SIZE_MAX)?)
                .map_err(|error| error.to_string())?,
            connect_timeout: Duration::from_millis(within(
                "connect_timeout_ms",
                written.connect_timeout_ms,
                TIMEOUT_MS_MAX,
            )?),
            operation_timeout: Duration::from_millis(within(
                "operation_timeout_ms",
                written.operation_timeout_ms,
                TIMEOUT_MS_MAX,
            )?),
            connections_max: within("connections_max", written.connections_max, CONNECTIONS_MAX)?,
        })
    }

    /// The attribute that identifies an entry for ever.
    pub(super) fn id_attribute(&self) -> &'static str {
        match self.flavour {
            Flavour::Openldap => "entryUUID",
            Flavour::ActiveDirectory => "objectGUID",
        }
    }

    /// The attribute that changes with every change of an entry.
    pub(super) fn version_attribute(&self) -> &'static str {
        match self.flavour {
            Flavour::Openldap => "entryCSN",
            Flavour::ActiveDirectory => "uSNChanged",
        }
    }
}

struct Defaults {
    rdn_attribute: &'static str,
    object_class: &'static str,
    group_class: &'static str,
    group_owner_attribute: &'static str,
}

impl Defaults {
    fn of(flavour: Flavour) -> Self {
        match flavour {
            Flavour::Openldap => Self {
                rdn_attribute: "uid",
                object_class: "inetOrgPerson",
                group_class: "groupOfNames",
                group_owner_attribute: "owner",
            },
            Flavour::ActiveDirectory => Self {
                rdn_attribute: "cn",
                object_class: "user",
                group_class: "group",
                group_owner_attribute: "managedBy",
            },
        }
    }
}

fn within<T: PartialOrd + Default + std::fmt::Display>(
    setting: &str,
    value: T,
    max: T,
) -> Result<T, String> {
    if value > T::default() && value <= max {
        Ok(value)
    } else {
        Err(format!(
            "`{setting}` is {value}, which is not between 1 and {max}"
        ))
    }
}

struct Address {
    host: String,
    port: u16,
    security: Security,
}

impl Address {
    fn parse(written: &Written) -> Result<Self, String> {
        const SHAPE: &str = "write it as `ldaps://host`, `ldaps://host:port` or `ldap://host` with `start_tls: true`";
        let text = &written.url;
        let url =
            Url::parse(text).map_err(|error| format!("`url` is `{text}`: {error}; {SHAPE}"))?;
        let security = match (url.scheme(), written.start_tls) {
            ("ldaps", false) => Security::Ldaps,
            ("ldaps", true) => {
                return Err(
                    "`start_tls` is for ldap:// only: ldaps:// is encrypted from the start"
                        .to_owned(),
                );
            }
            ("ldap", true) => Security::StartTls,
            ("ldap", false) => Security::Plain,
            _ => return Err(format!("`url` is `{text}`; {SHAPE}")),
        };
        let host = url.host_str().filter(|host| !host.is_empty());
        let Some(host) = host.map(|host| host.trim_matches(['[', ']']).to_owned()) else {
            return Err(format!("`url` is `{text}`, which names no host; {SHAPE}"));
        };
        if !matches!(url.path(), "" | "/") || url.query().is_some() || !url.username().is_empty() {
            return Err(format!(
                "`url` is `{text}`, which has more than scheme, host and port; {SHAPE}"
            ));
        }
        let ip = host.parse::<IpAddr>().ok();
        match security {
            Security::Plain => {
                let loopback = ip.map_or(host == "localhost", |ip| ip.is_loopback());
                if written.flavour == Flavour::ActiveDirectory {
                    return Err(format!(
                        "`url` is `{text}`: Active Directory takes passwords over TLS only; use ldaps:// or set `start_tls: true`"
                    ));
                }
                if !loopback && !written.allow_plaintext {
                    return Err(format!(
                        "`url` is `{text}`: passwords would cross the network in the clear; use ldaps://, \
                         set `start_tls: true`, or accept it with `allow_plaintext: true`"
                    ));
                }
                if written.ca_file.is_some() {
                    return Err(
                        "`ca_file` is of use with ldaps:// or `start_tls: true` only".to_owned(),
                    );
                }
            }
            Security::StartTls | Security::Ldaps if matches!(ip, Some(IpAddr::V6(_))) => {
                return Err(format!(
                    "`url` is `{text}`: give a host name, the TLS library cannot check an IPv6 address"
                ));
            }
            Security::StartTls | Security::Ldaps => {}
        }
        let usual = if security == Security::Ldaps {
            636
        } else {
            389
        };
        Ok(Self {
            host,
            port: url.port().unwrap_or(usual),
            security,
        })
    }
}

/// Trusts the authorities in `ca_file` alone, or those of the machine when there is no such setting.
fn tls(ca_file: Option<&str>) -> Result<Arc<ClientConfig>, String> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        Some(path) => {
            let wrong = |error: &dyn std::fmt::Display| {
                format!("`ca_file`: `{path}` cannot be read as PEM certificates: {error}")
            };
            let certificates =
                CertificateDer::pem_file_iter(path).map_err(|error| wrong(&error))?;
            for certificate in certificates {
                roots
                    .add(certificate.map_err(|error| wrong(&error))?)
                    .map_err(|error| wrong(&error))?;
            }
            if roots.is_empty() {
                return Err(format!("`ca_file`: `{path}` holds no certificate"));
            }
        }
        None => {
            // One unreadable certificate of the machine must not keep us from using the others.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err(
                    "this machine has no certificate authorities installed; set `ca_file` to the directory's"
                        .to_owned(),
                );
            }
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use super::*;
    use serde_json::json;

    pub(in crate::ldap) fn with(changes: Value) -> Result<Settings, Error> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "secret\n").unwrap();
        let mut settings = json!({
            "url": "ldap://127.0.0.1:389",
            "bind_dn": "cn=tenure,dc=ex",
            "bind_password": format!("file:{}", file.path().display()),
            "flavour": "openldap",
            "people_base": "ou=people,dc=ex",
            "group_base": "ou=groups,dc=ex",
        });
        for (key, value) in changes.as_object().unwrap() {
            if value.is_null() {
                settings.as_object_mut().unwrap().remove(key);
            } else {
                settings
                    .as_object_mut()
                    .unwrap()
                    .insert(key.clone(), value.clone());
            }
        }
        Settings::read("dir", settings)
    }

    #[track_caller]
    fn refused(changes: Value, words: &str) {
        match with(changes) {
            Ok(_) => panic!("accepted; expected `{words}`"),
            Err(error) => {
                assert_eq!(error.kind, ErrorKind::Invalid);
                assert!(
                    error.message.contains(words),
                    "`{}` lacks `{words}`",
                    error.message
                );
                assert!(error.message.contains("`dir`"), "{}", error.message);
            }
        }
    }

    #[test]
    fn the_usual_values_come_with_the_flavour() {
        let settings = with(json!({})).unwrap();
        assert_eq!(settings.name_attribute, "uid");
        assert_eq!(settings.search_base, "dc=ex");
        assert_eq!(
            settings.placeholder_member.as_deref(),
            Some("cn=nobody,ou=groups,dc=ex")
        );
        assert_eq!(settings.account_filter, "(objectClass=inetOrgPerson)");
        assert!(!settings.member_of);
        let settings =
            with(json!({"flavour": "active_directory", "url": "ldaps://dc1.ex"})).unwrap();
        assert_eq!((settings.port, settings.security), (636, Security::Ldaps));
        assert_eq!(settings.rdn_attribute, "cn");
        assert_eq!(settings.name_attribute, "sAMAccountName");
        assert_eq!(settings.placeholder_member, None);
        assert!(settings.member_of);
    }

    #[test]
    fn secrets_do_not_cross_a_network_in_the_clear_by_accident() {
        refused(json!({"url": "ldap://ldap.ex"}), "allow_plaintext");
        refused(json!({"url": "ldap://10.0.0.1"}), "start_tls");
        assert!(with(json!({"url": "ldap://ldap.ex", "allow_plaintext": true})).is_ok());
        assert!(with(json!({"url": "ldap://localhost"})).is_ok());
        assert!(with(json!({"url": "ldap://[::1]:389"})).is_ok());
        let settings = with(json!({"url": "ldap://ldap.ex", "start_tls": true})).unwrap();
        assert_eq!(
            (settings.port, settings.security),
            (389, Security::StartTls)
        );
        refused(json!({"flavour": "active_directory"}), "Active Directory");
    }

    #[test]
    fn a_wrong_setting_is_named() {
        refused(json!({"colour": "red"}), "unknown field `colour`");
        refused(json!({"url": null}), "missing field `url`");
        refused(json!({"url": "https://ldap.ex"}), "ldaps://host");
        refused(json!({"url": "ldaps://"}), "no host");
        refused(json!({"url": "ldaps://h/dc=ex"}), "more than scheme");
        refused(json!({"url": "ldaps://h", "start_tls": true}), "start_tls");
        refused(json!({"url": "ldaps://[fe80::1]"}), "host name");
        refused(
            json!({"people_base": "people"}),
            "`people_base` is `people`",
        );
        refused(json!({"owner_attribute": "a)(b"}), "owner_attribute");
        refused(json!({"object_classes": []}), "object_classes");
        refused(json!({"account_filter": "uid=x)"}), "account_filter");
        refused(json!({"page_size": 0}), "between 1 and 5000");
        refused(json!({"connections_max": 0}), "connections_max");
        refused(json!({"bind_password": "hunter2"}), "env:NAME");
        refused(
            json!({"bind_password": "env:TENURE_NO_SUCH_VARIABLE"}),
            "TENURE_NO_SUCH_VARIABLE",
        );
        refused(json!({"bind_dn": ""}), "as nobody");
        refused(json!({"flavour": "novell"}), "novell");
        refused(
            json!({"url": "ldaps://h", "ca_file": "/no/such.pem"}),
            "/no/such.pem",
        );
    }

    #[test]
    fn the_secret_is_in_no_message() {
        let Err(error) = with(json!({"bind_password": "hunter2"})) else {
            panic!("accepted")
        };
        assert!(!error.whole().contains("hunter2"), "{}", error.whole());
    }
}
