//! How long the old credential goes on working beside the new one: as long as the slowest of those who learn of it takes.

use engine::core::duration::Span;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What takes time until nothing needs the old one any more. Each is what is known of it; what is not said takes none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Terms {
    /// Until whoever uses it has read it again.
    pub reload: Option<Span>,
    /// How long somebody between keeps it.
    pub cache: Option<Span>,
    /// How long what was got with it goes on living: a token, a connection.
    pub derived: Option<Span>,
    /// Until the system knows the new one everywhere.
    pub propagation: Option<Span>,
}

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Term {
    Reload,
    Cache,
    Derived,
    Propagation,
    /// The longest that lives of what an old authority signed and nothing replaces.
    Leaf,
}

impl Term {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reload => "reload",
            Self::Cache => "cache",
            Self::Derived => "derived",
            Self::Propagation => "propagation",
            Self::Leaf => "leaf",
        }
    }
}

/// How long both work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overlap {
    pub length: Span,
    /// What it took so long for; none when nothing was said.
    pub dominated_by: Option<Term>,
}

impl Overlap {
    pub const NONE: Self = Self {
        length: Span::from_ms(0),
        dominated_by: None,
    };
}

/// The largest of the terms; of two that are alike, the first.
#[must_use]
pub fn overlap(terms: &Terms) -> Overlap {
    let known = [
        (Term::Reload, terms.reload),
        (Term::Cache, terms.cache),
        (Term::Derived, terms.derived),
        (Term::Propagation, terms.propagation),
    ];
    let mut largest = Overlap::NONE;
    for (term, length) in known {
        if let Some(length) = length
            && length > largest.length
        {
            largest = Overlap {
                length,
                dominated_by: Some(term),
            };
        }
    }
    largest
}

/// How long two authorities are trusted beside each other: as [`overlap`] says, or for as long as the longest lives of what the
/// old one signed and nothing replaces.
#[must_use]
pub fn both_trusted(terms: &Terms, leaf: Span) -> Overlap {
    let known = overlap(terms);
    if leaf > known.length {
        return Overlap {
            length: leaf,
            dominated_by: Some(Term::Leaf),
        };
    }
    known
}

/// Until everybody who reads a bundle of roots has read it: before that nothing is signed by a root that is new in it.
#[must_use]
pub fn distribution(terms: &Terms) -> Overlap {
    overlap(&Terms {
        derived: None,
        ..*terms
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn the_slowest_decides_and_is_named() {
        for (terms, length, dominated_by) in [
            ("{}", "0s", None),
            (r#"{"reload":"5m"}"#, "5m", Some("reload")),
            (r#"{"reload":"5m","cache":"10m"}"#, "10m", Some("cache")),
            (
                r#"{"reload":"5m","derived":"1h","propagation":"59m"}"#,
                "1h",
                Some("derived"),
            ),
            (
                r#"{"propagation":"1d","derived":"1h"}"#,
                "1d",
                Some("propagation"),
            ),
            // Alike: the first.
            (r#"{"propagation":"1h","cache":"1h"}"#, "1h", Some("cache")),
            (r#"{"reload":"0s"}"#, "0s", None),
        ] {
            let terms: Terms = serde_json::from_str(terms).unwrap();
            let found = overlap(&terms);
            assert_eq!(found.length, Span::parse(length).unwrap(), "{terms:?}");
            assert_eq!(
                found.dominated_by.map(Term::as_str),
                dominated_by,
                "{terms:?}"
            );
        }
    }

    #[test]
    fn two_authorities_are_trusted_until_the_last_leaf_ends() {
        let terms: Terms =
            serde_json::from_str(r#"{"reload":"5m","cache":"10m","derived":"1h"}"#).unwrap();
        for (leaf, length, dominated_by) in [
            ("0s", "1h", Some("derived")),
            ("1h", "1h", Some("derived")),
            ("2d", "2d", Some("leaf")),
        ] {
            let found = both_trusted(&terms, Span::parse(leaf).unwrap());
            assert_eq!(found.length, Span::parse(length).unwrap());
            assert_eq!(found.dominated_by.map(Term::as_str), dominated_by, "{leaf}");
        }
        // Trust is not derived from anything.
        let spread = distribution(&terms);
        assert_eq!(spread.dominated_by, Some(Term::Cache));
        let nothing = both_trusted(&Terms::default(), Span::from_s(0));
        assert_eq!(nothing, Overlap::NONE);
    }
}
