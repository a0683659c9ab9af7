//! Whom a notice is for, as it is written: resolved to addresses only when it is delivered.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::policy::problem::suggest;

/// The longest address, in bytes (RFC 5321), and the longest part before the `@`.
pub const ADDRESS_BYTES_MAX: usize = 254;
const LOCAL_BYTES_MAX: usize = 64;
/// The longest recipient as written, in bytes.
pub const RECIPIENT_BYTES_MAX: usize = 300;
/// Attributes of a person that hold another person, and may be named without `attribute:`.
const RELATED: [&str; 3] = ["manager", "owner", "sponsor"];

/// An address for mail. Only its form is known; whether somebody reads it is not.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address(String);

/// `manager`, `role:security`, `ann@example.org` and so on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Recipient {
    /// The person the case is about.
    Subject,
    /// Whoever an attribute of that person names, by key or by address: `manager`, `owner`, `sponsor`,
    /// `attribute:NAME`.
    Attribute(String),
    /// Those that `notifications.roles` names.
    Role(String),
    /// Somebody by key.
    Person(String),
    Address(Address),
    /// The first of them whom anybody can be found for: `sponsor|role:vendors`.
    FirstOf(Vec<Recipient>),
}

/// Not what it should be. Says what, and what to write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}; {fix}")]
pub struct Malformed {
    pub what: String,
    pub fix: String,
}

impl Address {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands after the `@`.
    #[must_use]
    pub fn domain(&self) -> &str {
        self.0.rsplit_once('@').map_or("", |(_, domain)| domain)
    }

    /// # Errors
    /// When `text` is no address: what would end a header or name several recipients is none.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let good = text.len() <= ADDRESS_BYTES_MAX
            && text.rsplit_once('@').is_some_and(|(local, domain)| {
                let plain = |c: char| {
                    !c.is_control() && !c.is_whitespace() && !"<>()[]\\,;:\"@".contains(c)
                };
                let label = |label: &str| {
                    !label.is_empty()
                        && !label.starts_with('-')
                        && !label.ends_with('-')
                        && label.chars().all(|c| c.is_alphanumeric() || c == '-')
                };
                !local.is_empty()
                    && local.len() <= LOCAL_BYTES_MAX
                    && local.chars().all(plain)
                    && !local.starts_with('.')
                    && !local.ends_with('.')
                    && !local.contains("..")
                    && domain.split('.').all(label)
            });
        if good {
            return Ok(Self(text.to_owned()));
        }
        Err(Malformed {
            what: format!("`{}` is no address for mail", shortened(text)),
            fix: "write `name@example.org`".to_owned(),
        })
    }
}

impl Recipient {
    /// # Errors
    /// When nobody is meant by `text`.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        if text.contains('|') && text.len() <= RECIPIENT_BYTES_MAX {
            let several = text.split('|').map(Self::parse);
            return Ok(Self::FirstOf(several.collect::<Result<_, _>>()?));
        }
        let known = match text.split_once(':') {
            None if text == "person" => Some(Self::Subject),
            None if RELATED.contains(&text) => Some(Self::Attribute(text.to_owned())),
            None if text.contains('@') => return Address::parse(text).map(Self::Address),
            None => None,
            Some((_, "")) => None,
            Some(("address", address)) => return Address::parse(address).map(Self::Address),
            Some(("attribute", name)) => Some(Self::Attribute(name.to_owned())),
            Some(("role", name)) => Some(Self::Role(name.to_owned())),
            Some(("person", key)) => Some(Self::Person(key.to_owned())),
            Some(_) => None,
        };
        let storable = text.len() <= RECIPIENT_BYTES_MAX && !text.chars().any(char::is_control);
        known.filter(|_| storable).ok_or_else(|| {
            let words = ["person"].into_iter().chain(RELATED);
            Malformed {
                what: format!("`{}` is nobody to tell", shortened(text)),
                fix: format!(
                    "{}; or write `role:NAME`, `person:KEY`, `attribute:NAME` or an address",
                    suggest(text, "words", words)
                ),
            }
        })
    }

    /// As an approval or a task names whom it asks: also by key alone.
    #[must_use]
    pub fn asked(text: &str) -> Self {
        Self::parse(text).unwrap_or_else(|_| Self::Person(text.to_owned()))
    }
}

fn shortened(text: &str) -> String {
    text.chars()
        .take(80)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

impl TryFrom<String> for Address {
    type Error = Malformed;

    fn try_from(text: String) -> Result<Self, Malformed> {
        Self::parse(&text)
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.0
    }
}

impl TryFrom<String> for Recipient {
    type Error = Malformed;

    fn try_from(text: String) -> Result<Self, Malformed> {
        Self::parse(&text)
    }
}

impl From<Recipient> for String {
    fn from(recipient: Recipient) -> Self {
        recipient.to_string()
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Subject => f.write_str("person"),
            Self::Attribute(name) if RELATED.contains(&name.as_str()) => f.write_str(name),
            Self::Attribute(name) => write!(f, "attribute:{name}"),
            Self::Role(name) => write!(f, "role:{name}"),
            Self::Person(key) => write!(f, "person:{key}"),
            Self::Address(address) => f.write_str(address.as_str()),
            Self::FirstOf(several) => {
                for (index, one) in several.iter().enumerate() {
                    let between = if index > 0 { "|" } else { "" };
                    write!(f, "{between}{one}")?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<&str, &str>) {
        match (Recipient::parse(text), expected) {
            (Ok(recipient), Ok(expected)) => {
                assert_eq!(recipient.to_string(), expected);
                assert_eq!(Recipient::parse(expected), Ok(recipient));
            }
            (Err(error), Err(expected)) => {
                assert!(error.to_string().contains(expected), "{error}");
            }
            (found, expected) => {
                assert_eq!(format!("{found:?}"), format!("{expected:?}"), "{text}")
            }
        }
    }

    #[test]
    fn everybody_who_can_be_told() {
        check("person", Ok("person"));
        check("manager", Ok("manager"));
        check("attribute:manager", Ok("manager"));
        check("attribute:buddy", Ok("attribute:buddy"));
        check("role:security", Ok("role:security"));
        check("person:E1:7", Ok("person:E1:7"));
        check("ann@example.org", Ok("ann@example.org"));
        check("address:ann@example.org", Ok("ann@example.org"));
        check("grüße@exämple.org", Ok("grüße@exämple.org"));
        check("sponsor|role:vendors", Ok("sponsor|role:vendors"));
        check("sponsor|vendors", Err("`vendors` is nobody to tell"));
        check("mangaer", Err("did you mean `manager`?"));
        check("role:", Err("`role:` is nobody to tell"));
        check("rolle:x", Err("`rolle:x` is nobody to tell"));
        check("", Err("is nobody to tell"));
        assert_eq!(Recipient::asked("ann"), Recipient::Person("ann".to_owned()));
    }

    #[test]
    fn what_would_end_a_header_or_name_two_is_no_address() {
        for text in [
            "a@b\r\nBcc: c@d",
            "a@b,c@d",
            "a b@c",
            "@b",
            "a@",
            "a@b@c",
            "a@-b",
            "a@b..c",
            ".a@b",
            "a..b@c",
            "<a@b>",
            "a@b;c@d",
            "a\u{0}@b",
        ] {
            assert!(Address::parse(text).is_err(), "{text:?}");
        }
        let long = format!("{}@b.org", "a".repeat(65));
        assert!(Address::parse(&long).is_err());
    }
}
