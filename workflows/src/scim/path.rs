//! Names of attributes: in filters, in the paths of PATCH, in lists of what to show.

use std::fmt;

use serde_json::{Map, Value};

use super::schema::{Attribute, Kind, Type};

/// An attribute by its name in a filter, a path or a list of attributes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttributePath {
    /// The extension it lies in; `None` for the core schema.
    pub schema: Option<&'static str>,
    pub attribute: &'static Attribute,
    pub sub: Option<&'static Attribute>,
}

impl AttributePath {
    /// Reads `name`, `name.sub`, `urn:...:name` or `urn:...:name.sub`.
    ///
    /// # Errors
    /// A sentence, when no schema of `kind` has such an attribute.
    pub fn parse(kind: Kind, text: &str) -> Result<Self, String> {
        let core = kind.schema();
        let urns = kind
            .extensions()
            .iter()
            .map(|urn| (Some(*urn), *urn))
            .chain([(None, core)]);
        let (schema, rest) = urns
            .into_iter()
            .find_map(|(schema, urn)| {
                let (head, tail) = (text.get(..urn.len())?, text.get(urn.len()..)?);
                (head.eq_ignore_ascii_case(urn)).then_some(())?;
                Some((schema, tail.strip_prefix(':')?))
            })
            .unwrap_or((None, text));
        let (name, sub) = match rest.split_once('.') {
            Some((name, sub)) => (name, Some(sub)),
            None => (rest, None),
        };
        let attribute = kind
            .attribute(schema, name)
            .ok_or_else(|| format!("there is no attribute `{text}`"))?;
        let sub = match sub {
            Some(sub) => Some(
                attribute
                    .sub(sub)
                    .ok_or_else(|| format!("there is no attribute `{text}`"))?,
            ),
            None => None,
        };
        Ok(Self {
            schema,
            attribute,
            sub,
        })
    }

    /// What a name in a list of attributes means: an attribute, or all of an extension. A name that no schema knows means
    /// nothing.
    pub(super) fn named(kind: Kind, name: &str) -> Vec<Self> {
        let extension = kind
            .extensions()
            .iter()
            .find(|urn| urn.eq_ignore_ascii_case(name));
        let Some(urn) = extension else {
            return Self::parse(kind, name).into_iter().collect();
        };
        kind.extension(urn)
            .iter()
            .map(|attribute| Self {
                schema: Some(urn),
                attribute,
                sub: None,
            })
            .collect()
    }

    /// As [`AttributePath::parse`], for people who write a configuration: the URN of an extension may be left out.
    ///
    /// # Errors
    /// As [`AttributePath::parse`].
    pub fn parse_short(kind: Kind, text: &str) -> Result<Self, String> {
        let found = Self::parse(kind, text);
        let full = |urn: &&str| Self::parse(kind, &format!("{urn}:{text}")).ok();
        found.or_else(|why| kind.extensions().iter().find_map(full).ok_or(why))
    }

    pub(super) fn place<'a>(&self, fields: &'a Map<String, Value>) -> Option<&'a Value> {
        match self.schema {
            None => fields.get(self.attribute.name),
            Some(urn) => fields.get(urn)?.get(self.attribute.name),
        }
    }

    /// Everything that stands at this path, lists taken apart.
    pub(super) fn values<'a>(&self, fields: &'a Map<String, Value>) -> Vec<&'a Value> {
        let found = self.place(fields);
        let items: Vec<&Value> = match found {
            Some(Value::Array(items)) => items.iter().collect(),
            Some(one) => vec![one],
            None => Vec::new(),
        };
        match self.leaf() {
            Some(sub) => items
                .into_iter()
                .filter_map(|item| item.get(sub.name))
                .collect(),
            None => items,
        }
    }

    /// The part of one element of this list that is meant.
    pub(super) fn part<'a>(&self, item: &'a Value) -> Option<&'a Value> {
        match self.leaf() {
            Some(sub) => item.get(sub.name),
            None => Some(item),
        }
    }

    /// What a comparison of this path compares: a list of objects is compared by its `value`.
    fn leaf(&self) -> Option<&'static Attribute> {
        self.sub.or_else(|| {
            (self.attribute.of == Type::Complex)
                .then(|| self.attribute.sub("value"))
                .flatten()
        })
    }

    pub(super) fn compared(&self) -> &'static Attribute {
        self.leaf().unwrap_or(self.attribute)
    }

    /// Copies what stands here into `kept`.
    pub fn copy(&self, fields: &Map<String, Value>, kept: &mut Map<String, Value>) {
        let Some(found) = self.place(fields) else {
            return;
        };
        let target = match self.schema {
            None => kept,
            Some(urn) => {
                let extension = kept.entry(urn).or_insert_with(|| Value::Object(Map::new()));
                match extension {
                    Value::Object(fields) => fields,
                    _ => return,
                }
            }
        };
        let Some(sub) = self.sub else {
            target.insert(self.attribute.name.to_owned(), found.clone());
            return;
        };
        match found {
            Value::Object(parts) => {
                let part = parts.get(sub.name).cloned();
                if let (Value::Object(into), Some(part)) = (
                    target
                        .entry(self.attribute.name)
                        .or_insert_with(|| Value::Object(Map::new())),
                    part,
                ) {
                    into.insert(sub.name.to_owned(), part);
                }
            }
            Value::Array(items) => {
                let empty = || Value::Array(vec![Value::Object(Map::new()); items.len()]);
                if let Value::Array(into) = target.entry(self.attribute.name).or_insert_with(empty)
                {
                    for (into, item) in into.iter_mut().zip(items) {
                        if let (Value::Object(into), Some(part)) = (into, item.get(sub.name)) {
                            into.insert(sub.name.to_owned(), part.clone());
                        }
                    }
                }
            }
            _ => {}
        }
    }

    /// Takes what stands here out of `fields`.
    pub fn cut(&self, fields: &mut Map<String, Value>) {
        let target = match self.schema {
            None => Some(fields),
            Some(urn) => fields.get_mut(urn).and_then(Value::as_object_mut),
        };
        let Some(target) = target else { return };
        match (self.sub, target.get_mut(self.attribute.name)) {
            (None, _) => {
                target.remove(self.attribute.name);
            }
            (Some(sub), Some(Value::Object(parts))) => {
                parts.remove(sub.name);
            }
            (Some(sub), Some(Value::Array(items))) => {
                for item in items.iter_mut().filter_map(Value::as_object_mut) {
                    item.remove(sub.name);
                }
            }
            (Some(_), _) => {}
        }
    }
}

impl fmt::Display for AttributePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(urn) = self.schema {
            write!(f, "{urn}:")?;
        }
        f.write_str(self.attribute.name)?;
        match self.sub {
            Some(sub) => write!(f, ".{}", sub.name),
            None => Ok(()),
        }
    }
}
