//! Distinguished names and filter values: escaping what goes out, comparing what comes back.
//!
//! Two spellings of one name are common: OpenLDAP prints `uid=a,ou=b` for what was written `UID=a, OU=b`,
//! and Active Directory puts the case of the object itself into every reference to it. So names are
//! compared taken apart ([RFC 4514](https://www.rfc-editor.org/rfc/rfc4514)), never as text.

use ldap3::{dn_escape, ldap_escape};

/// A distinguished name taken apart, the most specific part first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Dn {
    parts: Vec<Part>,
}

/// One relative name: usually one attribute, several when they were joined by `+`.
type Part = Vec<Pair>;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Pair {
    attribute: String,
    /// As it is compared: lower case, runs of blanks as one.
    folded: String,
    value: String,
}

/// `attribute=value` with everything escaped that would end or change the name.
pub(super) fn relative(attribute: &str, value: &str) -> String {
    format!("{attribute}={}", dn_escape(value))
}

/// `attribute=value,base`.
pub(super) fn below(attribute: &str, value: &str, base: &str) -> String {
    format!("{},{base}", relative(attribute, value))
}

/// The filter `(attribute=value)` for exactly this value, whatever it contains.
pub(super) fn equals(attribute: &str, value: &str) -> String {
    format!("({attribute}={})", ldap_escape(value))
}

/// The longest name that both are below of or equal to; `None` when they share nothing.
pub(super) fn common(one: &str, other: &str) -> Option<String> {
    let (one_parsed, other) = (Dn::parse(one)?, Dn::parse(other)?);
    let shared = one_parsed
        .parts
        .iter()
        .rev()
        .zip(other.parts.iter().rev())
        .take_while(|(one, other)| same_part(one, other))
        .count();
    let skip = one_parsed.parts.len() - shared;
    (shared > 0).then(|| {
        Dn {
            parts: one_parsed.parts.into_iter().skip(skip).collect(),
        }
        .text()
    })
}

impl Dn {
    /// Takes a name apart; `None` when the text is not one.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = Vec::new();
        let mut part = Vec::new();
        let mut rest = text.trim_matches(' ');
        if rest.is_empty() {
            return None;
        }
        loop {
            let (attribute, after) = rest.split_once('=')?;
            let attribute = attribute.trim_matches(' ');
            if !is_attribute_name(attribute) {
                return None;
            }
            let (value, separator, after) = take_value(after)?;
            part.push(Pair {
                attribute: attribute.to_ascii_lowercase(),
                folded: fold(&value),
                value,
            });
            if separator != Some('+') {
                parts.push(std::mem::take(&mut part));
            }
            match separator {
                None => return Some(Self { parts }),
                Some(_) => rest = after,
            }
        }
    }

    /// How many relative names it has.
    pub(super) fn depth(&self) -> usize {
        self.parts.len()
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        self.parts.len() == other.parts.len()
            && self
                .parts
                .iter()
                .zip(&other.parts)
                .all(|(one, other)| same_part(one, other))
    }

    /// The value of the first relative name, when that is one `attribute=value`.
    pub(super) fn first_value(&self, attribute: &str) -> Option<&str> {
        match self.parts.first().map(Vec::as_slice) {
            Some([pair]) if pair.attribute.eq_ignore_ascii_case(attribute) => Some(&pair.value),
            _ => None,
        }
    }

    /// The name of the entry above; `None` at the top.
    pub(super) fn parent(&self) -> Option<Self> {
        (self.parts.len() > 1).then(|| Self {
            parts: self.parts.iter().skip(1).cloned().collect(),
        })
    }

    pub(super) fn text(&self) -> String {
        let part = |part: &Part| {
            let pairs: Vec<String> = part
                .iter()
                .map(|pair| relative(&pair.attribute, &pair.value))
                .collect();
            pairs.join("+")
        };
        self.parts.iter().map(part).collect::<Vec<_>>().join(",")
    }
}

fn same_part(one: &Part, other: &Part) -> bool {
    let sorted = |part: &Part| {
        let mut pairs: Vec<(String, String)> = part
            .iter()
            .map(|pair| (pair.attribute.clone(), pair.folded.clone()))
            .collect();
        pairs.sort();
        pairs
    };
    sorted(one) == sorted(other)
}

/// What most naming attributes are compared by: case and the number of blanks do not count.
fn fold(value: &str) -> String {
    value
        .to_lowercase()
        .split(' ')
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

/// A short name or a dotted number, with options such as `;lang-de`.
pub(super) fn is_attribute_name(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text
            .chars()
            .all(|each| each.is_ascii_alphanumeric() || "-.;_".contains(each))
}

/// Reads one value up to an unescaped separator. Answers the value, the separator and what follows it.
fn take_value(text: &str) -> Option<(String, Option<char>, &str)> {
    let text = text.trim_start_matches(' ');
    let bytes = text.as_bytes();
    let mut value = Vec::new();
    // Where the last blank that must stay ends: blanks before a separator are layout unless escaped.
    let mut kept = 0;
    let mut at = 0;
    let hexadecimal = |at: usize| -> Option<u8> {
        let digits = text.get(at..at + 2)?;
        u8::from_str_radix(digits, 16)
            .ok()
            .filter(|_| !digits.starts_with('+'))
    };
    let mut separator = None;
    if bytes.first() == Some(&b'#') {
        // The BER encoding in hexadecimal: kept as it is, so it equals only itself.
        let end = text.find([',', ';', '+']).unwrap_or(text.len());
        let separator = text.get(end..).and_then(|rest| rest.chars().next());
        let after = text.get(end + separator.map_or(0, char::len_utf8)..)?;
        return Some((
            text.get(..end)?.trim_end_matches(' ').to_owned(),
            separator,
            after,
        ));
    }
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'\\' => {
                if let Some(decoded) = hexadecimal(at + 1) {
                    value.push(decoded);
                    at += 3;
                } else {
                    let escaped = text.get(at + 1..)?.chars().next()?;
                    let mut buffer = [0; 4];
                    value.extend_from_slice(escaped.encode_utf8(&mut buffer).as_bytes());
                    at += 1 + escaped.len_utf8();
                }
                kept = value.len();
            }
            b',' | b';' | b'+' => {
                separator = Some(char::from(byte));
                at += 1;
                break;
            }
            b'"' | b'<' | b'>' | 0 => return None,
            _ => {
                value.push(byte);
                at += 1;
                if byte != b' ' {
                    kept = value.len();
                }
            }
        }
    }
    value.truncate(kept);
    Some((String::from_utf8(value).ok()?, separator, text.get(at..)?))
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn same(one: &str, other: &str) -> bool {
        Dn::parse(one).unwrap().is(&Dn::parse(other).unwrap())
    }

    /// Names that broke somebody's directory once.
    pub(in crate::ldap) const HOSTILE: [&str; 12] = [
        "Smith, \"John\" \\ (x)*",
        " leading",
        "trailing ",
        "#hash",
        "a+b=c;d<e>f",
        "日本語 Ünïcødé 🦀",
        "*)(uid=*",
        "admin)(|(objectClass=*",
        "back\\2cslash",
        "nul\0byte",
        "  two  blanks  ",
        "cn=x,dc=evil",
    ];

    #[test]
    fn a_hostile_value_comes_back_from_a_name_unchanged() {
        for value in HOSTILE {
            let name = below("cn", value, "ou=people,dc=ex");
            let parsed = Dn::parse(&name).unwrap_or_else(|| unreachable!("cannot parse `{name}`"));
            assert_eq!(parsed.first_value("CN"), Some(value), "in `{name}`");
            assert_eq!(parsed.depth(), 3, "in `{name}`");
            assert!(
                parsed.is(&Dn::parse(&parsed.text()).unwrap()),
                "in `{name}`"
            );
        }
    }

    #[test]
    fn a_hostile_value_cannot_leave_its_filter() {
        for value in HOSTILE {
            let filter = equals("uid", value);
            let body = filter
                .strip_prefix("(uid=")
                .and_then(|rest| rest.strip_suffix(')'))
                .unwrap();
            assert!(!body.contains(['(', ')', '*', '\0']), "in `{filter}`");
            assert!(ldap3::parse_filter(&filter).is_ok(), "in `{filter}`");
        }
    }

    #[test]
    fn two_spellings_are_one_name() {
        for (one, other, equal) in [
            ("uid=a,ou=b,dc=c", "UID=A, OU=b ,DC=c", true),
            ("cn=Smith\\, John,dc=c", "cn=Smith\\2C John,dc=c", true),
            ("cn=a+uid=b,dc=c", "uid=b+cn=a,dc=c", true),
            ("cn=a  b,dc=c", "cn=a b,dc=c", true),
            ("cn=ü,dc=c", "cn=\\c3\\bc,dc=c", true),
            ("uid=a,dc=c", "uid=a,dc=d", false),
            ("uid=a,dc=c", "uid=a", false),
            ("cn=\\ a,dc=c", "cn=a,dc=cc", false),
        ] {
            assert_eq!(same(one, other), equal, "`{one}` and `{other}`");
        }
    }

    #[test]
    fn what_is_no_name_is_not_taken_for_one() {
        for text in [
            "",
            "engineers",
            "=a",
            "a b=c",
            "cn=\"quoted\"",
            "cn=a,",
            "cn=\\",
        ] {
            assert_eq!(Dn::parse(text), None, "`{text}`");
        }
    }

    #[test]
    fn the_common_part_of_two_bases() {
        let common = |one, other| common(one, other);
        assert_eq!(
            common("ou=people,dc=ex,dc=test", "OU=groups,DC=ex,DC=test").as_deref(),
            Some("dc=ex,dc=test")
        );
        assert_eq!(
            common("ou=a,dc=x", "ou=a,dc=x").as_deref(),
            Some("ou=a,dc=x")
        );
        assert_eq!(common("dc=x", "dc=y"), None);
    }
}
