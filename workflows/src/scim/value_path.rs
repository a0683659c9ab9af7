//! Paths with brackets (RFC 7644, 3.5.2): `emails[type eq "work"].value`. PATCH changes what stands there; a source takes an
//! attribute of a person from there.

use serde_json::{Map, Value};

use super::filter::Filter;
use super::path::AttributePath;
use super::refusal::Refusal;
use super::schema::Kind;

/// An attribute, of a list perhaps only some elements.
#[derive(Debug, Clone, PartialEq)]
pub struct ValuePath {
    pub path: AttributePath,
    pub elements: Option<Filter>,
}

impl ValuePath {
    /// # Errors
    /// `invalidPath`, or `invalidFilter` for what stands in the brackets.
    pub fn parse(kind: Kind, text: &str) -> Result<Self, Refusal> {
        Self::read(kind, text, AttributePath::parse)
    }

    /// As [`ValuePath::parse`], for people who write a configuration: the URN of an extension may be left out.
    ///
    /// # Errors
    /// As [`ValuePath::parse`].
    pub fn parse_short(kind: Kind, text: &str) -> Result<Self, Refusal> {
        Self::read(kind, text, AttributePath::parse_short)
    }

    fn read(
        kind: Kind,
        text: &str,
        named: fn(Kind, &str) -> Result<AttributePath, String>,
    ) -> Result<Self, Refusal> {
        let text = text.trim();
        let parse = |name: &str| named(kind, name).map_err(|why| Refusal::invalid_path(&why));
        let Some((name, rest)) = text.split_once('[') else {
            return Ok(Self {
                path: parse(text)?,
                elements: None,
            });
        };
        let (inner, tail) = rest
            .rsplit_once(']')
            .ok_or_else(|| Refusal::invalid_path("the bracket in the path is not closed"))?;
        let mut path = parse(name)?;
        if !path.attribute.many || path.sub.is_some() || path.attribute.subs.is_empty() {
            return Err(Refusal::invalid_path(&format!("`{name}` is not a list")));
        }
        let elements = Filter::parse_within(kind, Some(path), inner)?;
        if let Some(sub) = tail.strip_prefix('.') {
            let found = path.attribute.sub(sub);
            path.sub = Some(found.ok_or_else(|| {
                Refusal::invalid_path(&format!("there is no attribute `{text}`"))
            })?);
        } else if !tail.is_empty() {
            return Err(Refusal::invalid_path(&format!(
                "`{tail}` after the bracket is not a sub-attribute"
            )));
        }
        Ok(Self {
            path,
            elements: Some(elements),
        })
    }

    /// What stands there: of a list all elements, the primary one first; nothing when nothing does.
    #[must_use]
    pub fn value(&self, fields: &Map<String, Value>) -> Option<Value> {
        if !self.path.attribute.many {
            return self.path.values(fields).first().map(|it| (*it).clone());
        }
        let items = self.path.place(fields)?.as_array()?;
        let meant = |item: &&Value| {
            self.elements.as_ref().is_none_or(|filter| {
                item.as_object()
                    .is_some_and(|element| filter.matches(element))
            })
        };
        let mut elements: Vec<&Value> = items.iter().filter(meant).collect();
        elements.sort_by_key(|item| item.get("primary") != Some(&Value::Bool(true)));
        let values: Vec<Value> = elements
            .into_iter()
            .filter_map(|item| self.path.part(item))
            .cloned()
            .collect();
        (!values.is_empty()).then_some(Value::Array(values))
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
    use serde_json::json;

    use super::*;

    #[test]
    fn a_path_finds_what_stands_there() {
        let user = json!({
            "userName": "ada",
            "name": { "familyName": "L" },
            "emails": [{ "value": "a@x", "type": "home" }, { "value": "b@x", "type": "work", "primary": true }],
            "groups": [{ "value": "1", "display": "a;b" }],
            "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User": { "department": "Lab", "manager": { "value": "m" } },
            "urn:ietf:params:scim:schemas:extension:tenure:2.0:User": { "startDate": "2027-01-04" },
        });
        let found = |text: &str| {
            let path = ValuePath::parse_short(Kind::Person, text).unwrap();
            path.value(user.as_object().unwrap()).unwrap_or_default()
        };
        for (text, value) in [
            ("userName", json!("ada")),
            ("name.familyName", json!("L")),
            ("emails", json!(["b@x", "a@x"])),
            ("emails[type eq \"home\"].value", json!(["a@x"])),
            ("emails[type eq \"home\"]", json!(["a@x"])),
            ("emails[type eq \"other\"].value", json!(null)),
            ("groups.display", json!(["a;b"])),
            ("department", json!("Lab")),
            ("manager.value", json!("m")),
            ("startDate", json!("2027-01-04")),
            (
                "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User:department",
                json!("Lab"),
            ),
            ("title", json!(null)),
        ] {
            assert_eq!(found(text), value, "{text}");
        }
        for bad in [
            "",
            "nothing",
            "emails[",
            "emails[type]",
            "title[value eq \"x\"]",
            "emails[type pr]x",
            "emails[type pr].x",
        ] {
            assert!(ValuePath::parse_short(Kind::Person, bad).is_err(), "{bad}");
        }
    }
}
