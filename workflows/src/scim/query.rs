//! What a listing asks for: filter, order, page by index (RFC 7644, 3.4.2) or by cursor (RFC 9865).
//!
//! A cursor says behind which resource the next page begins, and belongs to one query: it is kept nowhere and never
//! expires. Resources that come or go meanwhile shift nothing.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::filter::Filter;
use super::path::AttributePath;
use super::refusal::Refusal;
use super::schema::{Kind, Type};
use super::selection::Names;
use crate::policy::hex;

/// The most resources on one page, and how many there are when nobody says.
pub const PAGE_MAX: u64 = 1_000;
pub const PAGE_DEFAULT: u64 = 100;
/// How much of a value decides about the order.
const SORT_CHARS_MAX: usize = 128;
/// The longest cursor that is read, in bytes.
const CURSOR_BYTES_MAX: usize = 4_096;

/// A listing as it is asked for, not yet held against a schema.
#[derive(Debug, Clone, Default)]
pub struct ListQuery {
    pub attributes: Option<Names>,
    pub excluded_attributes: Option<Names>,
    pub filter: Option<String>,
    pub sort_by: Option<String>,
    pub descending: bool,
    pub page: Page,
}

/// Which part of the result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Page {
    /// From the `start`-th, counted from 1.
    Index { start: u64, count: u64 },
    /// The first, or behind a cursor that was given out.
    Cursor { cursor: Option<String>, count: u64 },
}

impl Default for Page {
    fn default() -> Self {
        Self::Index {
            start: 1,
            count: PAGE_DEFAULT,
        }
    }
}

impl ListQuery {
    /// Reads the parameters of an address. What is not known is ignored (RFC 7644, 3.4.2).
    ///
    /// # Errors
    /// A parameter that is there twice or has no meaning.
    pub fn of_parameters<'a>(
        pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, Refusal> {
        let mut fields = Map::new();
        for (name, value) in pairs {
            let number = matches!(name, "startIndex" | "count");
            let value = match value.parse::<i64>() {
                Ok(value) if number => Value::from(value),
                _ => Value::from(value),
            };
            if fields.insert(name.to_owned(), value).is_some() {
                return Err(Refusal::invalid_syntax(&format!(
                    "the parameter `{name}` stands there twice"
                )));
            }
        }
        Self::of_fields(&fields)
    }

    /// Reads the body of a search (RFC 7644, 3.4.3).
    ///
    /// # Errors
    /// As [`ListQuery::of_parameters`].
    pub fn of_body(body: &Value) -> Result<Self, Refusal> {
        let fields = body
            .as_object()
            .ok_or_else(|| Refusal::invalid_syntax("a search request is a JSON object"))?;
        let schemas = field(fields, "schemas").and_then(Value::as_array);
        if !schemas.is_some_and(|urns| urns.iter().any(|urn| urn == SEARCH_REQUEST)) {
            return Err(Refusal::invalid_syntax(&format!(
                "`schemas` must hold `{SEARCH_REQUEST}`"
            )));
        }
        Self::of_fields(fields)
    }

    fn of_fields(fields: &Map<String, Value>) -> Result<Self, Refusal> {
        let text = |name: &str| match field(fields, name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(Refusal::invalid_value(&format!("`{name}` must be a text"))),
        };
        let number = |name: &str| match field(fields, name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => value
                .as_i64()
                .map(Some)
                .ok_or_else(|| Refusal::invalid_value(&format!("`{name}` must be a whole number"))),
        };
        let names = |name: &str| match field(fields, name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => Names::deserialize(value)
                .map(Some)
                .map_err(|_| Refusal::invalid_value(&format!("`{name}` must be names"))),
        };
        let descending = match text("sortOrder")? {
            None => false,
            Some(order) if order.eq_ignore_ascii_case("ascending") => false,
            Some(order) if order.eq_ignore_ascii_case("descending") => true,
            Some(_) => {
                return Err(Refusal::invalid_value(
                    "`sortOrder` must be `ascending` or `descending`",
                ));
            }
        };
        let (start, count) = (number("startIndex")?, number("count")?);
        let page = match (text("cursor")?, start) {
            (Some(_), Some(_)) => {
                return Err(Refusal::invalid_value(
                    "give `startIndex` or `cursor`, not both",
                ));
            }
            (Some(cursor), None) => {
                let count = match count {
                    None => PAGE_DEFAULT,
                    Some(count) => u64::try_from(count)
                        .ok()
                        .filter(|count| *count > 0)
                        .ok_or_else(|| {
                            Refusal::invalid_count(&format!("`count` must be from 1 to {PAGE_MAX}"))
                        })?,
                };
                Page::Cursor {
                    cursor: Some(cursor).filter(|cursor| !cursor.is_empty()),
                    count: count.min(PAGE_MAX),
                }
            }
            // What is below the least means the least (RFC 7644, 3.4.2.4).
            (None, start) => Page::Index {
                start: u64::try_from(start.unwrap_or(1)).unwrap_or(1).max(1),
                count: count
                    .map_or(PAGE_DEFAULT, |count| u64::try_from(count).unwrap_or(0))
                    .min(PAGE_MAX),
            },
        };
        Ok(Self {
            attributes: names("attributes")?,
            excluded_attributes: names("excludedAttributes")?,
            filter: text("filter")?,
            sort_by: text("sortBy")?,
            descending,
            page,
        })
    }
}

const SEARCH_REQUEST: &str = "urn:ietf:params:scim:api:messages:2.0:SearchRequest";

fn field<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    let mut fields = fields.iter();
    fields
        .find(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
}

/// In which order resources stand. Those without a value come last, or first when it is turned round (RFC 7644, 3.4.2.3).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Order {
    pub path: AttributePath,
    pub descending: bool,
}

impl Order {
    /// # Errors
    /// `invalidPath` when the attribute is not known or has no single value.
    pub fn parse(kind: Kind, sort_by: &str, descending: bool) -> Result<Self, Refusal> {
        let path =
            AttributePath::parse(kind, sort_by).map_err(|why| Refusal::invalid_path(&why))?;
        if path.compared().of == Type::Complex {
            return Err(Refusal::invalid_path(&format!(
                "`{sort_by}` has parts; name the one to sort by, as in `name.familyName`"
            )));
        }
        Ok(Self { path, descending })
    }

    /// What is compared, as text: of a list the primary value, else the first.
    #[must_use]
    pub fn key(&self, fields: &Map<String, Value>) -> String {
        let values = self.path.values(fields);
        let primary = self.path.place(fields).and_then(primary_place);
        let value = values.get(primary.unwrap_or(0)).or_else(|| values.first());
        let text = match value {
            None | Some(Value::Null | Value::Array(_) | Value::Object(_)) => return "1".to_owned(),
            Some(Value::String(text)) if self.path.compared().exact => text.clone(),
            Some(Value::String(text)) => text.to_lowercase(),
            Some(value @ (Value::Bool(_) | Value::Number(_))) => value.to_string(),
        };
        std::iter::once('0')
            .chain(text.chars().take(SORT_CHARS_MAX))
            .collect()
    }
}

fn primary_place(value: &Value) -> Option<usize> {
    let items = value.as_array()?;
    items
        .iter()
        .position(|item| item.get("primary") == Some(&Value::Bool(true)))
}

/// Where a page ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Which query it belongs to.
    #[serde(rename = "q")]
    query: String,
    /// How many there were in all when the first page was made.
    #[serde(rename = "t")]
    pub total: u64,
    /// What the last resource is sorted by.
    #[serde(rename = "k", default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    #[serde(rename = "i")]
    pub id: String,
}

impl Position {
    #[must_use]
    pub fn new(query: &str, total: u64, key: Option<String>, id: &str) -> Self {
        Self {
            query: query.to_owned(),
            total,
            key,
            id: id.to_owned(),
        }
    }

    /// The cursor of the next page.
    #[must_use]
    pub fn cursor(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    /// # Errors
    /// `invalidCursor` when it is none that this query gave.
    pub fn read(query: &str, cursor: &str) -> Result<Self, Refusal> {
        (cursor.len() <= CURSOR_BYTES_MAX)
            .then(|| URL_SAFE_NO_PAD.decode(cursor).ok())
            .flatten()
            .and_then(|bytes| serde_json::from_slice::<Self>(&bytes).ok())
            .filter(|position| position.query == query)
            .ok_or_else(|| {
                Refusal::invalid_cursor(
                    "the cursor is none that this query gave; begin again without it",
                )
            })
    }
}

/// A name for a query: the same for all its pages, another for any other.
#[must_use]
pub fn query_name(of: &str, filter: Option<&Filter>, order: Option<&Order>) -> String {
    let filter = filter.map(Filter::to_string).unwrap_or_default();
    let order = order
        .map(|order| format!("{} {}", order.path, order.descending))
        .unwrap_or_default();
    let digest = hex(&Sha256::digest(format!("{of}\n{filter}\n{order}")));
    digest.get(..16).unwrap_or(&digest).to_owned()
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
    use serde_json::json;

    use super::*;

    fn asked(text: &[(&str, &str)]) -> Result<ListQuery, Refusal> {
        ListQuery::of_parameters(text.iter().copied())
    }

    #[test]
    fn pages_are_asked_for_by_index_or_by_cursor() {
        let index = |start, count| Page::Index { start, count };
        let cursor = |cursor: Option<&str>, count| Page::Cursor {
            cursor: cursor.map(str::to_owned),
            count,
        };
        for (text, page) in [
            (&[][..], index(1, PAGE_DEFAULT)),
            (&[("startIndex", "0"), ("count", "-3")], index(1, 0)),
            (
                &[("startIndex", "7"), ("count", "5000")],
                index(7, PAGE_MAX),
            ),
            (&[("cursor", "")], cursor(None, PAGE_DEFAULT)),
            (&[("cursor", "abc"), ("count", "3")], cursor(Some("abc"), 3)),
            (&[("cursor", ""), ("count", "9999")], cursor(None, PAGE_MAX)),
            (&[("unknown", "x"), ("count", "2")], index(1, 2)),
        ] {
            assert_eq!(asked(text).unwrap().page, page, "{text:?}");
        }
        for (text, scim_type) in [
            (&[("cursor", ""), ("count", "0")][..], "invalidCount"),
            (&[("cursor", ""), ("count", "-1")], "invalidCount"),
            (&[("cursor", ""), ("startIndex", "1")], "invalidValue"),
            (&[("count", "many")], "invalidValue"),
            (&[("sortOrder", "upwards")], "invalidValue"),
            (&[("count", "1"), ("count", "2")], "invalidSyntax"),
        ] {
            let refusal = asked(text).unwrap_err();
            assert_eq!(refusal.scim_type, Some(scim_type), "{text:?}");
        }
    }

    #[test]
    fn a_search_is_a_body_with_its_schema() {
        let body = json!({
            "schemas": [SEARCH_REQUEST], "attributes": ["userName"], "filter": "id pr", "sortby": "userName",
            "sortOrder": "descending", "startIndex": 2, "count": 3,
        });
        let query = ListQuery::of_body(&body).unwrap();
        assert_eq!(query.sort_by.as_deref(), Some("userName"));
        assert!(query.descending);
        assert_eq!(query.page, Page::Index { start: 2, count: 3 });
        for bad in [
            json!([]),
            json!({}),
            json!({ "schemas": ["urn:x"] }),
            json!({ "schemas": [SEARCH_REQUEST], "count": "3" }),
            json!({ "schemas": [SEARCH_REQUEST], "filter": 1 }),
            json!({ "schemas": [SEARCH_REQUEST], "attributes": { "a": 1 } }),
        ] {
            assert!(ListQuery::of_body(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn resources_are_sorted_by_the_primary_value_and_those_without_one_come_last() {
        let key = |by: &str, user: Value| {
            let order = Order::parse(Kind::Person, by, false).unwrap();
            order.key(user.as_object().unwrap())
        };
        let mails = json!({ "emails": [{ "value": "Z@x" }, { "value": "A@x", "primary": true }] });
        assert_eq!(key("emails", mails.clone()), "0a@x");
        assert_eq!(key("emails.value", mails), "0a@x");
        assert!(key("title", json!({})) > key("title", json!({ "title": "\u{10FFFF}" })));
        assert!(
            key("userName", json!({ "userName": "B" }))
                > key("userName", json!({ "userName": "a" }))
        );
        assert!(
            key("externalId", json!({ "externalId": "B" }))
                < key("externalId", json!({ "externalId": "a" }))
        );
        for bad in ["nothing", "name", "urn:x:userName", ""] {
            assert_eq!(
                Order::parse(Kind::Person, bad, false)
                    .unwrap_err()
                    .scim_type,
                Some("invalidPath"),
                "{bad}"
            );
        }
    }

    proptest! {
        #[test]
        fn a_cursor_comes_back_and_belongs_to_its_query(
            total in any::<u64>(), key in proptest::option::of(any::<String>()), id in any::<String>(),
        ) {
            let position = Position::new("q", total, key, &id);
            if position.cursor().len() <= CURSOR_BYTES_MAX {
                prop_assert_eq!(Position::read("q", &position.cursor()), Ok(position.clone()));
            }
            prop_assert!(Position::read("other", &position.cursor()).is_err());
        }

        #[test]
        fn a_hostile_cursor_is_refused(text in any::<String>()) {
            prop_assert_eq!(Position::read("q", &text).unwrap_err().scim_type, Some("invalidCursor"));
        }
    }
}
