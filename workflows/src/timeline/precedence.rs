//! Which source is believed about which attribute, when several speak of one person.
//!
//! ```yaml
//! # policy/sources.yaml
//! precedence:
//!   default: [hr, directory]
//!   attributes:
//!     email: [directory, hr]
//! ```
//!
//! For each attribute the first source of its list counts that says something; what that one takes back falls to the next.
//! Sources that are in no list come after those that are, the one that spoke last before the others. Whether somebody is
//! employed is not a question of precedence: they are as long as any source says so.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Precedence {
    /// For attributes that are not named below.
    #[serde(rename = "default")]
    pub usual: Vec<String>,
    pub attributes: BTreeMap<String, Vec<String>>,
}

impl Precedence {
    /// Whether nobody is preferred: then whoever spoke last speaks of everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.usual.is_empty() && self.attributes.is_empty()
    }

    /// The sources that are believed about an attribute, the best first.
    #[must_use]
    pub fn order(&self, attribute: &str) -> &[String] {
        self.attributes.get(attribute).unwrap_or(&self.usual)
    }
}
