//! Role names in SQL, and what identifies a role.
//!
//! DDL takes no parameters, so names and texts are quoted here and nowhere else.
//!
//! A [`NativeId`] of this connector is `name#oid`. The name alone would be wrong after a rename: "there is no
//! role `ada`" would prove her disabled while she logs in as `ada2`. The oid alone would be wrong after the
//! cluster was restored from a dump, where numbers mean other people. With both, a rename is followed, and a
//! contradiction is an error instead of a guess. Last, the oid still names the sessions of a role that was dropped.

use crate::connector::{EntitlementName, NativeId};

/// PostgreSQL cuts longer names silently (NAMEDATALEN); here they are refused.
pub(super) const NAME_BYTES_MAX: usize = 63;

/// A parsed [`NativeId`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RoleId {
    pub name: String,
    /// Absent when somebody wrote only a name, in a configuration for example.
    pub oid: Option<u32>,
}

impl RoleId {
    pub(super) fn parse(id: &NativeId) -> Result<Self, String> {
        let text = id.as_str();
        let (name, oid) = match text.rsplit_once('#') {
            Some((name, oid))
                if !oid.is_empty() && oid.bytes().all(|byte| byte.is_ascii_digit()) =>
            {
                (
                    name,
                    Some(
                        oid.parse()
                            .map_err(|_| wrong(text, "the number after `#` is not an oid"))?,
                    ),
                )
            }
            _ => (text, None),
        };
        check_name(name)?;
        Ok(Self {
            name: name.to_owned(),
            oid,
        })
    }

    pub(super) fn native(name: &str, oid: u32) -> NativeId {
        NativeId::new(format!("{name}#{oid}"))
    }
}

/// Whether `name` can be a role's name at all.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("a role name is empty".to_owned());
    }
    if name.contains('\0') {
        return Err(wrong(name, "a role name cannot hold a zero byte"));
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(wrong(
            name,
            &format!(
                "{} bytes; PostgreSQL would cut it after {NAME_BYTES_MAX}",
                name.len()
            ),
        ));
    }
    Ok(())
}

pub(super) fn check_entitlement(name: &EntitlementName) -> Result<(), String> {
    check_name(name.as_str())
}

fn wrong(name: &str, why: &str) -> String {
    let shown: String = name.chars().take(80).collect();
    format!("role `{}`: {why}", shown.escape_debug())
}

/// An identifier. Zero bytes were refused by [`check_name`]; one that got here would end the statement, so it goes.
pub(super) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('\0', "").replace('"', "\"\""))
}

/// A text. Right only with `standard_conforming_strings = on`, which every session of ours sets.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\0', "").replace('\'', "''"))
}

/// The first line of a role's comment, which is ours; what people wrote stays below it.
const OWNER: &str = "tenure:owner=";
/// Marks an account that Tenure disabled but did not make: without LOGIN it would look like a group.
const ADOPTED: &str = "tenure:account";
/// What a first line of ours starts with.
pub(super) const MARK: &str = "tenure:";

/// The owner key in a role's comment.
pub(super) fn owner_in(comment: Option<&str>) -> Option<&str> {
    comment?
        .lines()
        .next()?
        .strip_prefix(OWNER)
        .filter(|owner| !owner.is_empty())
}

pub(super) fn is_marked(comment: Option<&str>) -> bool {
    comment.is_some_and(|comment| comment.starts_with(MARK))
}

/// The first line for `owner`; the key must fit on it.
pub(super) fn owner_comment(owner: &str) -> Result<String, String> {
    if owner.is_empty() || owner.chars().any(char::is_control) {
        return Err("an owner key is empty or holds control characters".to_owned());
    }
    Ok(format!("{OWNER}{owner}"))
}

/// The comment of an account that was there before Tenure.
pub(super) fn adopted_comment(comment: Option<&str>) -> String {
    match comment {
        Some(text) => format!("{ADOPTED}\n{text}"),
        None => ADOPTED.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        reason = "tests"
    )]
    use proptest::prelude::*;

    use super::*;

    fn parsed(id: &str) -> (String, Option<u32>) {
        let id = RoleId::parse(&NativeId::new(id)).unwrap();
        (id.name, id.oid)
    }

    #[test]
    fn an_identifier_is_a_name_and_an_oid() {
        assert_eq!(parsed("ada#16393"), ("ada".to_owned(), Some(16393)));
        assert_eq!(parsed("a#1#16393"), ("a#1".to_owned(), Some(16393)));
        assert_eq!(parsed("ada"), ("ada".to_owned(), None));
        assert_eq!(parsed("ada#x"), ("ada#x".to_owned(), None));
        for wrong in ["", "#5", "a\0b", "ada#99999999999", &"x".repeat(64)] {
            assert!(RoleId::parse(&NativeId::new(wrong)).is_err(), "{wrong}");
        }
        assert!(RoleId::parse(&NativeId::new("é".repeat(31))).is_ok());
        assert!(
            RoleId::parse(&NativeId::new("é".repeat(32))).is_err(),
            "64 bytes"
        );
    }

    #[test]
    fn the_owner_is_the_first_line_and_the_rest_is_peoples() {
        assert_eq!(owner_in(Some("tenure:owner=E1")), Some("E1"));
        assert_eq!(owner_in(Some("tenure:owner=E1\nask Bob")), Some("E1"));
        assert_eq!(owner_in(Some("ask Bob\ntenure:owner=E1")), None);
        assert_eq!(owner_in(None), None);
        assert_eq!(adopted_comment(Some("ask Bob")), "tenure:account\nask Bob");
        assert!(is_marked(Some("tenure:account")));
        assert!(!is_marked(Some("ask tenure:account")));
        assert!(owner_comment("a\nb").is_err());
    }

    proptest! {
        /// Reading the quoted form back as PostgreSQL's lexer does gives the name, and ends where it ends.
        #[test]
        fn quoting_is_reversible(name in "[^\0]{1,63}") {
            for (quoted, quote) in [(identifier(&name), '"'), (literal(&name), '\'')] {
                let inner = quoted.strip_prefix(quote).unwrap().strip_suffix(quote).unwrap();
                let doubled = format!("{quote}{quote}");
                prop_assert!(!inner.replace(&doubled, "").contains(quote));
                prop_assert_eq!(inner.replace(&doubled, &quote.to_string()), name.clone());
            }
        }

        #[test]
        fn an_identifier_survives_its_own_form(name in "[^\0]{1,15}", oid: u32) {
            let id = RoleId::parse(&RoleId::native(&name, oid)).unwrap();
            prop_assert_eq!((id.name, id.oid), (name, Some(oid)));
        }
    }
}
