//! What a policy may speak of: the systems that are configured and the attributes that sources deliver.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What kind of value an attribute has.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum AttributeKind {
    #[default]
    Text,
    Integer,
    Boolean,
    /// A day, as text `YYYY-MM-DD`: such texts compare in the order of time.
    Date,
    /// A list of texts.
    List,
}

/// What is promised about one attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttributeDeclaration {
    pub kind: AttributeKind,
    /// Every identity has it, so a rule may use it without asking `has(..)` first.
    pub required: bool,
}

impl AttributeDeclaration {
    #[must_use]
    pub fn required(kind: AttributeKind) -> Self {
        Self {
            kind,
            required: true,
        }
    }
    #[must_use]
    pub fn optional(kind: AttributeKind) -> Self {
        Self {
            kind,
            required: false,
        }
    }
}

/// The declared attributes by name.
pub type AttributeDeclarations = BTreeMap<String, AttributeDeclaration>;

/// What rules may name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Schema {
    pub systems: BTreeSet<String>,
    pub attributes: AttributeDeclarations,
}

impl Schema {
    /// A schema of these systems that knows only the attribute every identity has: its `key`.
    #[must_use]
    pub fn new(systems: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            systems: systems.into_iter().map(Into::into).collect(),
            attributes: BTreeMap::from([(
                "key".to_owned(),
                AttributeDeclaration::required(AttributeKind::Text),
            )]),
        }
    }

    /// Adds what one more source delivers. Call it once for each source: an attribute stays required
    /// only if every source so far promises it, because a rule sees the identities of all of them.
    #[must_use]
    pub fn with_source(mut self, attributes: &AttributeDeclarations) -> Self {
        let first = self.attributes.len() <= 1;
        for (name, declaration) in attributes {
            self.attributes
                .entry(name.clone())
                .and_modify(|known| known.required &= declaration.required)
                .or_insert(AttributeDeclaration {
                    required: declaration.required && first,
                    ..*declaration
                });
        }
        for (name, known) in &mut self.attributes {
            if name != "key" && !attributes.contains_key(name) {
                known.required = false;
            }
        }
        self
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
    use super::*;

    #[test]
    fn an_attribute_is_required_only_when_every_source_promises_it() {
        let text = AttributeKind::Text;
        let hr = BTreeMap::from([
            ("name".to_owned(), AttributeDeclaration::required(text)),
            (
                "department".to_owned(),
                AttributeDeclaration::required(text),
            ),
        ]);
        let contractors = BTreeMap::from([
            ("name".to_owned(), AttributeDeclaration::required(text)),
            ("company".to_owned(), AttributeDeclaration::required(text)),
        ]);
        let schema = Schema::new(["ldap"])
            .with_source(&hr)
            .with_source(&contractors);
        let required: Vec<&str> = schema
            .attributes
            .iter()
            .filter(|(_, declaration)| declaration.required)
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(required, ["key", "name"]);
        assert_eq!(schema.attributes.len(), 4);
    }
}
