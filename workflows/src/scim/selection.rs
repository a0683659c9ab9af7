//! Which attributes a client wants to see (RFC 7644, 3.9).

use serde::Deserialize;
use serde_json::{Map, Value};

use super::path::AttributePath;
use super::refusal::Refusal;
use super::schema::Kind;

/// Attribute names: with commas between them in an address, a list in a body.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Names {
    Text(String),
    List(Vec<String>),
}

impl Names {
    fn iter(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        let named: Box<dyn Iterator<Item = &str>> = match self {
            Self::Text(text) => Box::new(text.split(',')),
            Self::List(names) => Box::new(names.iter().map(String::as_str)),
        };
        Box::new(named.map(str::trim).filter(|name| !name.is_empty()))
    }
}

/// What is shown of a resource.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    only: Vec<AttributePath>,
    without: Vec<AttributePath>,
    /// Somebody named attributes, even if none is known.
    chosen: bool,
}

impl Selection {
    /// # Errors
    /// When both are given.
    pub fn parse(
        kind: Kind,
        only: Option<&Names>,
        without: Option<&Names>,
    ) -> Result<Self, Refusal> {
        let given =
            |names: Option<&Names>| names.is_some_and(|names| names.iter().next().is_some());
        if given(only) && given(without) {
            return Err(Refusal::invalid_syntax(
                "give `attributes` or `excludedAttributes`, not both",
            ));
        }
        let paths = |names: Option<&Names>| -> Vec<AttributePath> {
            names
                .into_iter()
                .flat_map(Names::iter)
                .flat_map(|name| AttributePath::named(kind, name))
                .collect()
        };
        Ok(Self {
            only: paths(only),
            without: paths(without),
            chosen: given(only),
        })
    }

    /// Whether this attribute of the core schema will be shown.
    #[must_use]
    pub fn shows(&self, name: &str) -> bool {
        let named = |path: &AttributePath| path.schema.is_none() && path.attribute.name == name;
        if self.chosen {
            self.only.iter().any(named)
        } else {
            !self
                .without
                .iter()
                .any(|path| named(path) && path.sub.is_none())
        }
    }

    /// Cuts a whole resource. `id` and `schemas` are always shown.
    #[must_use]
    pub fn cut(&self, whole: Value) -> Value {
        let Value::Object(mut fields) = whole else {
            return whole;
        };
        if self.chosen {
            let mut kept = Map::new();
            for always in ["schemas", "id"] {
                if let Some(value) = fields.get(always) {
                    kept.insert(always.to_owned(), value.clone());
                }
            }
            for path in &self.only {
                path.copy(&fields, &mut kept);
            }
            return Value::Object(kept);
        }
        for path in &self.without {
            if path.attribute.name != "id" {
                path.cut(&mut fields);
            }
        }
        Value::Object(fields)
    }
}
