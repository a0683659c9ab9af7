//! Entries as the server sends them, and how their values become those of an [`Account`].
//!
//! LDAP knows only octets; [`Attributes`] know strings, numbers, booleans and lists. Going out, a number is
//! written in decimal, a boolean as `TRUE` or `FALSE`, a list as several values; an empty list, an empty
//! string or `null` means "no such attribute". Coming back, everything is a string, or a list of strings
//! when there is more than one value; octets that are no text are shown as `base64:…`.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ldap3::ResultEntry;
use serde_json::Value;
use uuid::Uuid;

use super::dn::{self, Dn};
use super::settings::{Flavour, Settings};
use crate::connector::{Account, Attributes, EntitlementName, Error, ErrorKind, NativeId};

/// The value that locks an account until somebody unlocks it (draft-behera-ldap-password-policy, 5.3.3).
pub(super) const LOCKED_FOR_EVER: &str = "000001010000Z";
pub(super) const LOCKED_TIME: &str = "pwdAccountLockedTime";
pub(super) const ACCOUNT_CONTROL: &str = "userAccountControl";
/// The bit of `userAccountControl` that says "disabled"; the others are somebody else's.
pub(super) const ACCOUNT_DISABLED: i64 = 0x2;
/// A plain user account; 512.
pub(super) const NORMAL_ACCOUNT: i64 = 0x200;

/// Never read, never shown, never set as an attribute (in lower case).
const SECRETS: [&str; 9] = [
    "userpassword",
    "unicodepwd",
    "pwdhistory",
    "dbcspwd",
    "supplementalcredentials",
    "krbprincipalkey",
    "sambantpassword",
    "sambalmpassword",
    "authpassword",
];

/// Kept by operations of their own (in lower case).
const KEPT: [&str; 2] = ["pwdaccountlockedtime", "useraccountcontrol"];

/// The name of an attribute and its values as they go over the wire.
pub(super) type Attribute = (String, Vec<Vec<u8>>);

/// One entry. Attribute names are compared without case, as the protocol has it.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) dn: String,
    /// By the name in lower case.
    fields: BTreeMap<String, Field>,
}

#[derive(Debug, Clone)]
struct Field {
    name: String,
    values: Vec<Vec<u8>>,
}

impl Entry {
    /// Reads the BER structure; `None` when the server broke the protocol.
    pub(super) fn decode(entry: ResultEntry) -> Option<Self> {
        let mut parts = entry.0.match_id(4)?.expect_constructed()?.into_iter();
        let dn = String::from_utf8(parts.next()?.expect_primitive()?).ok()?;
        let mut fields = BTreeMap::new();
        for attribute in parts.next()?.expect_constructed()? {
            let mut attribute = attribute.expect_constructed()?.into_iter();
            let name = String::from_utf8(attribute.next()?.expect_primitive()?).ok()?;
            let mut values = Vec::new();
            for value in attribute.next()?.expect_constructed()? {
                values.push(value.expect_primitive()?);
            }
            fields.insert(name.to_ascii_lowercase(), Field { name, values });
        }
        Some(Self { dn, fields })
    }

    pub(super) fn values(&self, attribute: &str) -> &[Vec<u8>] {
        self.fields
            .get(&attribute.to_ascii_lowercase())
            .map_or(&[], |field| &field.values)
    }

    pub(super) fn texts(&self, attribute: &str) -> Vec<String> {
        self.values(attribute)
            .iter()
            .map(|value| text(value))
            .collect()
    }

    pub(super) fn text(&self, attribute: &str) -> Option<String> {
        self.values(attribute).first().map(|value| text(value))
    }

    /// The identifier that survives renames: `entryUUID` as it is, `objectGUID` in its usual spelling.
    pub(super) fn id(&self, settings: &Settings) -> Result<NativeId, Error> {
        let attribute = settings.id_attribute();
        let value = self.values(attribute).first();
        let id = match settings.flavour {
            Flavour::Openldap => value.map(|value| text(value)),
            // The first three groups are stored with the least byte first.
            Flavour::ActiveDirectory => value
                .and_then(|value| <[u8; 16]>::try_from(value.as_slice()).ok())
                .map(|bytes| Uuid::from_bytes_le(bytes).to_string()),
        };
        id.map(NativeId::new).ok_or_else(|| {
            Error::new(
                ErrorKind::Denied,
                format!(
                    "`{}` came without `{attribute}`, by which accounts are told apart; let the account of `bind_dn` read it",
                    self.dn
                ),
            )
        })
    }

    pub(super) fn control(&self) -> Option<i64> {
        self.text(ACCOUNT_CONTROL)?.parse().ok()
    }

    /// Whether a new login would be let in, as far as the flavour's own means of disabling says.
    pub(super) fn enabled(&self, flavour: Flavour) -> Option<bool> {
        match flavour {
            // Any other time is a lock after too many wrong passwords, which ends by itself.
            Flavour::Openldap => Some(self.text(LOCKED_TIME).as_deref() != Some(LOCKED_FOR_EVER)),
            Flavour::ActiveDirectory => self
                .control()
                .map(|control| control & ACCOUNT_DISABLED == 0),
        }
    }

    /// The groups `memberOf` tells; `None` when it does not tell (all of) them.
    pub(super) fn member_of(&self, settings: &Settings) -> Option<BTreeSet<EntitlementName>> {
        let cut_short = self
            .fields
            .keys()
            .any(|name| name.starts_with("memberof;range="));
        (settings.member_of && !cut_short).then(|| {
            self.texts("memberOf")
                .iter()
                .map(|group| group_name(group, settings))
                .collect()
        })
    }

    pub(super) fn account(&self, settings: &Settings) -> Result<Account, Error> {
        let beside = [
            settings.id_attribute(),
            settings.version_attribute(),
            "memberOf",
        ];
        let attributes = self
            .fields
            .iter()
            .filter(|(name, _)| {
                !is_secret(name)
                    && !beside
                        .iter()
                        .any(|beside| beside.eq_ignore_ascii_case(name))
            })
            .map(|(_, field)| (field.name.clone(), shown(&field.values)))
            .collect();
        Ok(Account {
            id: self.id(settings)?,
            name: self.name(settings),
            enabled: self.enabled(settings.flavour),
            owner: self.text(&settings.owner_attribute),
            attributes,
            entitlements: self.member_of(settings),
            version: self.text(settings.version_attribute()),
        })
    }

    /// The login name; the whole DN when the entry has none.
    pub(super) fn name(&self, settings: &Settings) -> String {
        self.text(&settings.name_attribute)
            .unwrap_or_else(|| self.dn.clone())
    }

    /// Whether the attribute holds exactly these values, in any order.
    pub(super) fn holds(&self, attribute: &str, wanted: &[Vec<u8>]) -> bool {
        let held = self.values(attribute);
        if held.len() != wanted.len() {
            return false;
        }
        wanted
            .iter()
            .all(|wanted| held.iter().any(|held| same_value(held, wanted)))
    }
}

/// Equal octets, or the same distinguished name in two spellings.
fn same_value(held: &[u8], wanted: &[u8]) -> bool {
    if held == wanted {
        return true;
    }
    match (std::str::from_utf8(held), std::str::from_utf8(wanted)) {
        (Ok(held), Ok(wanted)) => match (Dn::parse(held), Dn::parse(wanted)) {
            (Some(held), Some(wanted)) => held.is(&wanted),
            _ => false,
        },
        _ => false,
    }
}

fn text(value: &[u8]) -> String {
    match std::str::from_utf8(value) {
        Ok(text) => text.to_owned(),
        Err(_) => format!("base64:{}", STANDARD.encode(value)),
    }
}

/// The values of one attribute as [`Attributes`] show them.
pub(super) fn shown(values: &[Vec<u8>]) -> Value {
    match values {
        [value] => Value::String(text(value)),
        values => Value::Array(
            values
                .iter()
                .map(|value| Value::String(text(value)))
                .collect(),
        ),
    }
}

pub(super) fn is_secret(attribute: &str) -> bool {
    let base = attribute.split(';').next().unwrap_or(attribute);
    SECRETS
        .iter()
        .any(|secret| secret.eq_ignore_ascii_case(base))
}

/// What a mapping asks for, as octets; refuses what must not be written as an attribute.
pub(super) fn wanted(attributes: &Attributes) -> Result<Vec<Attribute>, Error> {
    let invalid = |text: String| Error::new(ErrorKind::Invalid, text);
    attributes
        .iter()
        .map(|(name, value)| {
            if !dn::is_attribute_name(name) {
                return Err(invalid(format!("`{name}` is not the name of an LDAP attribute")));
            }
            if is_secret(name) {
                return Err(invalid(format!("`{name}` is a secret: set it with set_password")));
            }
            if KEPT.iter().any(|kept| kept.eq_ignore_ascii_case(name)) {
                return Err(invalid(format!(
                    "`{name}` is kept by enable_account and disable_account; remove it from the mapping"
                )));
            }
            Ok((name.clone(), octets(name, value)?))
        })
        .collect()
}

fn octets(name: &str, value: &Value) -> Result<Vec<Vec<u8>>, Error> {
    let mut values: Vec<Vec<u8>> = match value {
        Value::Array(list) => list
            .iter()
            .map(|value| scalar(name, value))
            .collect::<Result<Vec<_>, _>>()?
            .into_iter()
            .flatten()
            .collect(),
        value => scalar(name, value)?.into_iter().collect(),
    };
    // A set: a repeated value would be refused by the server.
    values.sort();
    values.dedup();
    Ok(values)
}

fn scalar(name: &str, value: &Value) -> Result<Option<Vec<u8>>, Error> {
    let text = match value {
        Value::Null => return Ok(None),
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Bool(true) => "TRUE".to_owned(),
        Value::Bool(false) => "FALSE".to_owned(),
        Value::Array(_) | Value::Object(_) => {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "attribute `{name}` is a nested list or an object; LDAP knows strings, numbers, booleans and lists of them"
                ),
            ));
        }
    };
    Ok((!text.is_empty()).then(|| text.into_bytes()))
}

/// The DN of the group an entitlement names: a full DN as it is, else a `cn` below the group base.
pub(super) fn group_dn(
    entitlement: &EntitlementName,
    settings: &Settings,
) -> Result<String, Error> {
    let name = entitlement.as_str();
    if name.trim().is_empty() {
        return Err(Error::new(
            ErrorKind::Invalid,
            "the name of the entitlement is empty",
        ));
    }
    if is_full_name(name, settings) {
        Ok(name.to_owned())
    } else {
        Ok(dn::below("cn", name, &settings.group_base))
    }
}

/// The name an entitlement goes by: the reverse of [`group_dn`].
pub(super) fn group_name(group: &str, settings: &Settings) -> EntitlementName {
    let short = Dn::parse(group).and_then(|parsed| {
        let directly_below = parsed.parent()?.is(&Dn::parse(&settings.group_base)?);
        let name = parsed.first_value("cn")?;
        (directly_below && !is_full_name(name, settings)).then(|| name.to_owned())
    });
    EntitlementName::new(short.unwrap_or_else(|| group.to_owned()))
}

/// A `cn` may look like a distinguished name; one of this tree ends as the group base does.
fn is_full_name(name: &str, settings: &Settings) -> bool {
    Dn::parse(name).is_some_and(|parsed| parsed.depth() > 1)
        && dn::common(name, &settings.group_base).is_some()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use serde_json::json;

    fn attributes(value: Value) -> Attributes {
        value
            .as_object()
            .unwrap()
            .iter()
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect()
    }

    fn entry(fields: &[(&str, &[&str])]) -> Entry {
        Entry {
            dn: "uid=a,ou=people,dc=ex".to_owned(),
            fields: fields
                .iter()
                .map(|(name, values)| {
                    let values = values
                        .iter()
                        .map(|value| value.as_bytes().to_vec())
                        .collect();
                    (
                        name.to_lowercase(),
                        Field {
                            name: (*name).to_owned(),
                            values,
                        },
                    )
                })
                .collect(),
        }
    }

    #[test]
    fn every_type_of_value_is_written_and_nothing_is_lost() {
        let wanted = wanted(&attributes(json!({
            "cn": "A", "uidNumber": 1001, "active": true, "hidden": false,
            "mail": ["b@x", "a@x", "b@x"], "title": "", "sn": null, "rate": 1.5, "empty": [],
        })))
        .unwrap();
        let shown: Vec<(&str, Value)> = wanted
            .iter()
            .map(|(name, values)| (name.as_str(), shown(values)))
            .collect();
        assert_eq!(
            shown,
            [
                ("active", json!("TRUE")),
                ("cn", json!("A")),
                ("empty", json!([])),
                ("hidden", json!("FALSE")),
                ("mail", json!(["a@x", "b@x"])),
                ("rate", json!("1.5")),
                ("sn", json!([])),
                ("title", json!([])),
                ("uidNumber", json!("1001")),
            ]
        );
    }

    #[test]
    fn what_cannot_be_an_attribute_is_refused_by_name() {
        for (name, value) in [
            ("address", json!({"city": "x"})),
            ("mail", json!([["nested"]])),
            ("userPassword", json!("x")),
            ("UNICODEPWD", json!("x")),
            ("userPassword;lang-de", json!("x")),
            ("userAccountControl", json!(512)),
            ("pwdAccountLockedTime", json!("x")),
            ("a)(b", json!("x")),
        ] {
            let error = wanted(&Attributes::from([(name.to_owned(), value)])).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Invalid, "{name}");
            assert!(error.message.contains(name), "{}", error.message);
        }
    }

    #[test]
    fn values_are_compared_as_sets_and_names_without_case() {
        let entry = entry(&[
            ("Mail", &["a@x", "b@x"]),
            ("manager", &["uid=boss,ou=people,dc=ex"]),
            ("title", &["Chief"]),
        ]);
        let octets = |values: &[&str]| -> Vec<Vec<u8>> {
            values
                .iter()
                .map(|value| value.as_bytes().to_vec())
                .collect()
        };
        assert!(entry.holds("mail", &octets(&["b@x", "a@x"])));
        assert!(!entry.holds("mail", &octets(&["a@x"])));
        assert!(entry.holds("MANAGER", &octets(&["UID=boss, OU=people, DC=ex"])));
        assert!(!entry.holds("title", &octets(&["chief"])));
        assert!(entry.holds("none", &[]));
    }

    #[test]
    fn a_temporary_lock_is_not_a_disabled_account() {
        let enabled = |values: &[&str]| entry(&[(LOCKED_TIME, values)]).enabled(Flavour::Openldap);
        assert_eq!(enabled(&[LOCKED_FOR_EVER]), Some(false));
        assert_eq!(enabled(&["20260101000000Z"]), Some(true));
        let enabled =
            |value| entry(&[(ACCOUNT_CONTROL, &[value])]).enabled(Flavour::ActiveDirectory);
        assert_eq!(enabled("514"), Some(false));
        assert_eq!(enabled("66048"), Some(true));
        assert_eq!(enabled("66050"), Some(false));
        assert_eq!(entry(&[]).enabled(Flavour::ActiveDirectory), None);
    }

    #[test]
    fn octets_that_are_no_text_are_shown_all_the_same() {
        assert_eq!(shown(&[vec![0xff, 0x00]]), json!("base64:/wA="));
    }
}
