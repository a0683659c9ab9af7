//! Flat attribute names and the SCIM JSON they stand for.
//!
//! Tenure knows attributes by flat names with simple values; SCIM nests them. One grammar serves for writing,
//! comparing and reading back:
//!
//! | name                                   | place in the user                                             |
//! |----------------------------------------|---------------------------------------------------------------|
//! | `title`                                | `title`                                                       |
//! | `name.givenName`                       | `name` / `givenName`                                          |
//! | `emails`                               | the whole list; a single text stands for one primary `work` value |
//! | `emails[work]`                         | the `value` of the element whose `type` is `work`             |
//! | `addresses[work].locality`             | `locality` of that element                                    |
//! | `urn:...:enterprise:2.0:User:department` | `department` in that extension; the URN must be a known schema |
//!
//! `null` removes. Names are compared without regard to case, as RFC 7643 (2.1) says. `userName` renames the
//! account; what other operations are for (`active`, `password`, `groups`) and what belongs to the connector or
//! the server (`externalId`, `id`, `meta`, `schemas`) is refused.

use serde_json::{Map, Value, json};

use crate::connector::Attributes;

pub(super) const USER_SCHEMA: &str = "urn:ietf:params:scim:schemas:core:2.0:User";
const ENTERPRISE_SCHEMA: &str = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User";

/// Core attributes that are lists of `{value, type, primary}`. The second word is the type that a bare text gets.
const LISTS: [(&str, Option<&str>); 7] = [
    ("emails", Some("work")),
    ("phoneNumbers", Some("work")),
    ("ims", None),
    ("photos", None),
    ("entitlements", None),
    ("roles", None),
    ("x509Certificates", None),
];

/// Attributes that cannot be set as attributes, and what to do instead.
const REFUSED: [(&str, &str); 7] = [
    ("active", "enable or disable the account instead"),
    ("password", "set the password instead"),
    ("groups", "grant or revoke entitlements instead"),
    ("externalId", "it holds the owner key"),
    ("id", "the server assigns it"),
    ("meta", "the server assigns it"),
    (
        "schemas",
        "they follow from the attributes; declare your own as `extra_schemas`",
    ),
];

/// What [`flatten`] leaves out because it has a place of its own in an account.
const NOT_ATTRIBUTES: [&str; 8] = [
    "schemas",
    "id",
    "externalId",
    "meta",
    "userName",
    "active",
    "groups",
    "password",
];

/// One parsed name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Path {
    /// The extension it lies in; `None` for the core schema.
    schema: Option<String>,
    attribute: String,
    /// The `type` of the element meant, in a list.
    element: Option<String>,
    sub: Option<String>,
}

impl Path {
    /// Parses a flat name; the error says what is wrong with it.
    pub(super) fn parse(name: &str, extra_schemas: &[String]) -> Result<Self, String> {
        let wrong = |why: &str| format!("attribute `{}`: {why}", name.escape_debug());
        let (schema, rest) = match split_schema(name, extra_schemas) {
            Some((schema, rest)) => ((schema != USER_SCHEMA).then(|| schema.to_owned()), rest),
            None if is_urn(name) => {
                return Err(wrong(
                    "its schema is not known; add the URN to `extra_schemas`",
                ));
            }
            None => (None, name),
        };
        let (head, sub) = match rest.rsplit_once('.') {
            // A dot inside the brackets is part of the type.
            Some((head, sub)) if !sub.contains(']') => (head, Some(sub)),
            _ => (rest, None),
        };
        let (attribute, element) = match head.split_once('[') {
            Some((attribute, element)) => match element.strip_suffix(']') {
                Some(element) if !element.is_empty() && !element.contains(['[', ']']) => {
                    (attribute, Some(element))
                }
                _ => {
                    return Err(wrong(
                        "the bracket must be closed and hold a type, as in `emails[work]`",
                    ));
                }
            },
            None => (head, None),
        };
        if ![Some(attribute), sub].into_iter().flatten().all(is_name) {
            return Err(wrong(
                "a name is a letter followed by letters, digits, `-`, `_` or `$`, with at most one dot",
            ));
        }
        if schema.is_none()
            && let Some((_, instead)) = REFUSED
                .iter()
                .find(|(refused, _)| refused.eq_ignore_ascii_case(attribute))
        {
            return Err(wrong(instead));
        }
        Ok(Self {
            schema,
            attribute: attribute.to_owned(),
            element: element.map(str::to_owned),
            sub: sub.map(str::to_owned),
        })
    }

    pub(super) fn schema(&self) -> Option<&str> {
        self.schema.as_deref()
    }

    pub(super) fn is_user_name(&self) -> bool {
        self.schema.is_none() && self.attribute.eq_ignore_ascii_case("userName")
    }

    /// The path as PATCH wants it (RFC 7644, 3.5.2).
    fn in_patch(&self) -> String {
        let mut path = String::new();
        if let Some(schema) = &self.schema {
            path.push_str(schema);
            path.push(':');
        }
        path.push_str(&self.attribute);
        if let Some(element) = &self.element {
            path.push_str(&format!("[type eq {}]", quoted(element)));
        }
        match (&self.element, &self.sub) {
            (_, Some(sub)) => path.push_str(&format!(".{sub}")),
            (Some(_), None) => path.push_str(".value"),
            (None, None) => {}
        }
        path
    }

    fn field(&self) -> &str {
        self.sub.as_deref().unwrap_or("value")
    }

    /// The raw JSON of the attribute without regard to element and sub-attribute.
    fn raw<'a>(&self, user: &'a Value) -> Option<&'a Value> {
        let holder = match &self.schema {
            Some(schema) => member(user, schema)?,
            None => user,
        };
        member(holder, &self.attribute)
    }

    fn element_of<'a>(&self, user: &'a Value) -> Option<&'a Value> {
        let wanted = self.element.as_deref()?;
        self.raw(user)?
            .as_array()?
            .iter()
            .find(|element| type_of(element).is_some_and(|it| it.eq_ignore_ascii_case(wanted)))
    }

    /// What the user holds there now.
    pub(super) fn read<'a>(&self, user: &'a Value) -> Option<&'a Value> {
        let found = match (&self.element, &self.sub) {
            (Some(_), _) => member(self.element_of(user)?, self.field())?,
            (None, Some(sub)) => member(self.raw(user)?, sub)?,
            (None, None) => self.raw(user)?,
        };
        // RFC 7643, 2.5: null and an empty list are the same as no value.
        (!found.is_null() && found.as_array().is_none_or(|items| !items.is_empty()))
            .then_some(found)
    }

    /// Whether the user holds exactly `wanted` there.
    pub(super) fn holds(&self, user: &Value, wanted: &Value) -> bool {
        match (self.read(user), wanted, self.list()) {
            (None, wanted, _) => wanted.is_null() || wanted.as_array().is_some_and(Vec::is_empty),
            (Some(Value::Array(found)), Value::String(_), Some(kind)) => match found.as_slice() {
                // Servers drop `type` and `primary` from an only value.
                [only] => {
                    member(only, "value") == Some(wanted)
                        && kind.is_none_or(|kind| {
                            type_of(only).is_none_or(|it| it.eq_ignore_ascii_case(kind))
                        })
                }
                _ => false,
            },
            (Some(Value::Array(found)), Value::Array(texts), Some(_))
                if texts.iter().all(Value::is_string) =>
            {
                found.len() == texts.len()
                    && texts.iter().all(|text| {
                        found
                            .iter()
                            .any(|element| member(element, "value") == Some(text))
                    })
            }
            (Some(found), wanted, _) => covers(found, wanted),
        }
    }

    /// The type of a bare text, when this names a whole list of `{value, type, primary}`.
    fn list(&self) -> Option<Option<&'static str>> {
        if self.schema.is_some() || self.element.is_some() || self.sub.is_some() {
            return None;
        }
        LISTS
            .iter()
            .find(|(list, _)| list.eq_ignore_ascii_case(&self.attribute))
            .map(|(_, kind)| *kind)
    }

    /// A bare text for a list stands for one element.
    fn expanded(&self, value: &Value) -> Value {
        let Some(kind) = self.list() else {
            return value.clone();
        };
        let element = |text: &Value, first: bool| match kind {
            Some(kind) if first => json!({ "value": text, "type": kind, "primary": true }),
            None if first => json!({ "value": text, "primary": true }),
            _ => json!({ "value": text }),
        };
        match value {
            Value::String(_) => json!([element(value, true)]),
            Value::Array(items) if items.iter().all(Value::is_string) => items
                .iter()
                .enumerate()
                .map(|(index, item)| element(item, index == 0))
                .collect(),
            other => other.clone(),
        }
    }

    /// Writes `value` into a user that is being made.
    pub(super) fn write(&self, user: &mut Map<String, Value>, value: &Value) {
        if value.is_null() {
            return;
        }
        let holder = match &self.schema {
            Some(schema) => object(user.entry(schema.clone()).or_insert_with(|| json!({}))),
            None => Some(user),
        };
        let Some(holder) = holder else { return };
        let value = self.expanded(value);
        match (&self.element, &self.sub) {
            (None, None) => {
                holder.insert(self.attribute.clone(), value);
            }
            (None, Some(sub)) => {
                if let Some(inner) = object(
                    holder
                        .entry(self.attribute.clone())
                        .or_insert_with(|| json!({})),
                ) {
                    inner.insert(sub.clone(), value);
                }
            }
            (Some(kind), _) => {
                let list = holder
                    .entry(self.attribute.clone())
                    .or_insert_with(|| json!([]));
                let Value::Array(elements) = list else { return };
                let known = elements.iter_mut().find(|element| {
                    type_of(element).is_some_and(|it| it.eq_ignore_ascii_case(kind))
                });
                match known.and_then(Value::as_object_mut) {
                    Some(element) => {
                        element.insert(self.field().to_owned(), value);
                    }
                    None => elements.push(self.new_element(kind, &value)),
                }
            }
        }
    }

    fn new_element(&self, kind: &str, value: &Value) -> Value {
        json!({ "type": kind, self.field(): value })
    }

    /// The PATCH operation that makes `user` hold `wanted`; `None` when it already does.
    pub(super) fn patch(&self, user: &Value, wanted: &Value) -> Option<Value> {
        if self.holds(user, wanted) {
            return None;
        }
        if wanted.is_null() {
            // Removing a whole element, not only its value: an address-less address helps nobody.
            let path = match (&self.element, &self.sub) {
                (Some(_), None) => self.in_patch().trim_end_matches(".value").to_owned(),
                _ => self.in_patch(),
            };
            return Some(json!({ "op": "remove", "path": path }));
        }
        if let (Some(kind), None) = (&self.element, self.element_of(user)) {
            // A filter that selects nothing is an error (RFC 7644, 3.5.2.3), so the element is added.
            let list = Self {
                element: None,
                sub: None,
                ..self.clone()
            };
            return Some(
                json!({ "op": "add", "path": list.in_patch(), "value": [self.new_element(kind, wanted)] }),
            );
        }
        Some(json!({ "op": "replace", "path": self.in_patch(), "value": self.expanded(wanted) }))
    }
}

/// All attributes of a user under flat names. Lists of objects appear twice: `emails` with the values, and
/// `emails[work]` with the value of that type.
pub(super) fn flatten(user: &Value) -> Attributes {
    let mut flat = Attributes::new();
    for (name, value) in user.as_object().into_iter().flatten() {
        if NOT_ATTRIBUTES
            .iter()
            .any(|other| other.eq_ignore_ascii_case(name))
        {
            continue;
        }
        if is_urn(name) {
            for (inner, value) in value.as_object().into_iter().flatten() {
                flatten_one(&format!("{name}:{inner}"), value, &mut flat);
            }
        } else {
            flatten_one(name, value, &mut flat);
        }
    }
    flat
}

fn flatten_one(name: &str, value: &Value, flat: &mut Attributes) {
    match value {
        Value::Null => {}
        Value::Object(inner) => {
            for (sub, value) in inner.iter().filter(|(_, value)| is_simple(value)) {
                flat.insert(format!("{name}.{sub}"), value.clone());
            }
        }
        Value::Array(elements) => {
            let plain: Vec<Value> = elements
                .iter()
                .filter_map(|element| {
                    if element.is_object() {
                        member(element, "value")
                    } else {
                        Some(element)
                    }
                })
                .filter(|value| is_simple(value))
                .cloned()
                .collect();
            match plain.as_slice() {
                [] => {}
                [only] if elements.iter().all(Value::is_object) => {
                    flat.insert(name.to_owned(), only.clone());
                }
                _ => {
                    flat.insert(name.to_owned(), Value::Array(plain));
                }
            }
            for element in elements {
                let Some(kind) = type_of(element) else {
                    continue;
                };
                for (sub, value) in element.as_object().into_iter().flatten() {
                    let key = match sub.as_str() {
                        "type" | "primary" | "display" | "$ref" => continue,
                        "value" => format!("{name}[{kind}]"),
                        sub => format!("{name}[{kind}].{sub}"),
                    };
                    if is_simple(value) {
                        flat.entry(key).or_insert_with(|| value.clone());
                    }
                }
            }
        }
        simple => {
            flat.insert(name.to_owned(), simple.clone());
        }
    }
}

/// A text as filters and paths want it: a JSON string (RFC 7644, 3.4.2.2).
pub(super) fn quoted(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
}

/// A member of an object; exact names first, then without regard to case.
pub(super) fn member<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    let object = value.as_object()?;
    object.get(name).or_else(|| {
        object
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    })
}

/// Whether `found` has everything that `wanted` says. A server may add members to an object, and may order lists.
fn covers(found: &Value, wanted: &Value) -> bool {
    match (found, wanted) {
        (Value::Object(_), Value::Object(wanted)) => wanted.iter().all(|(name, value)| {
            member(found, name).map_or(value.is_null(), |found| covers(found, value))
        }),
        (Value::Array(found), Value::Array(wanted)) => {
            found.len() == wanted.len()
                && wanted
                    .iter()
                    .all(|wanted| found.iter().any(|found| covers(found, wanted)))
        }
        (Value::Number(found), Value::Number(wanted)) => found.as_f64() == wanted.as_f64(),
        (found, wanted) => found == wanted,
    }
}

fn split_schema<'a>(name: &'a str, extra: &'a [String]) -> Option<(&'a str, &'a str)> {
    [USER_SCHEMA, ENTERPRISE_SCHEMA]
        .into_iter()
        .chain(extra.iter().map(String::as_str))
        .find_map(|schema| {
            let start = name.get(..schema.len())?;
            let rest = name.get(schema.len()..)?.strip_prefix(':')?;
            start.eq_ignore_ascii_case(schema).then_some((schema, rest))
        })
}

fn is_urn(name: &str) -> bool {
    name.get(..4)
        .is_some_and(|start| start.eq_ignore_ascii_case("urn:"))
}

fn is_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '$')
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '$'))
}

fn is_simple(value: &Value) -> bool {
    matches!(value, Value::String(_) | Value::Number(_) | Value::Bool(_))
}

fn type_of(element: &Value) -> Option<&str> {
    member(element, "type").and_then(Value::as_str)
}

fn object(value: &mut Value) -> Option<&mut Map<String, Value>> {
    value.as_object_mut()
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

    const ENTERPRISE: &str = ENTERPRISE_SCHEMA;

    fn path(name: &str) -> Path {
        Path::parse(name, &["urn:acme:1.0:User".to_owned()]).unwrap()
    }

    fn user(attributes: &[(&str, Value)]) -> Value {
        let mut user = Map::new();
        for (name, value) in attributes {
            path(name).write(&mut user, value);
        }
        Value::Object(user)
    }

    #[test]
    fn flat_names_become_nested_json() {
        let made = user(&[
            ("title", json!("Dr")),
            ("name.givenName", json!("Ada")),
            ("name.familyName", json!("Lovelace")),
            ("emails", json!("ada@example.org")),
            ("phoneNumbers[mobile]", json!("+44 1")),
            ("addresses[work].locality", json!("London")),
            ("addresses[work].country", json!("GB")),
            (&format!("{ENTERPRISE}:department"), json!("Engines")),
            (&format!("{ENTERPRISE}:manager.value"), json!("26118915")),
            ("urn:acme:1.0:User:badge", json!(7)),
            ("nickName", Value::Null),
        ]);
        let expected = json!({
            "title": "Dr",
            "name": { "givenName": "Ada", "familyName": "Lovelace" },
            "emails": [{ "value": "ada@example.org", "type": "work", "primary": true }],
            "phoneNumbers": [{ "type": "mobile", "value": "+44 1" }],
            "addresses": [{ "type": "work", "locality": "London", "country": "GB" }],
            ENTERPRISE: { "department": "Engines", "manager": { "value": "26118915" } },
            "urn:acme:1.0:User": { "badge": 7 },
        });
        assert_eq!(made, expected);
    }

    #[test]
    fn what_was_written_reads_back_under_the_same_name() {
        let attributes = [
            ("title", json!("Dr")),
            ("name.givenName", json!("Ada")),
            ("emails[home]", json!("ada@home.example")),
            ("addresses[work].locality", json!("London")),
            ("urn:acme:1.0:User:badge", json!(7)),
        ];
        let made = user(&attributes);
        let flat = flatten(&made);
        for (name, value) in &attributes {
            assert_eq!(flat.get(*name), Some(value), "{name}");
            assert!(path(name).holds(&made, value), "{name}");
            assert!(path(name).patch(&made, value).is_none(), "{name}");
        }
        assert_eq!(
            flatten(&user(&[("emails", json!("a@b"))])).get("emails"),
            Some(&json!("a@b"))
        );
        assert_eq!(
            flatten(&user(&[("emails", json!(["a@b", "c@d"]))])).get("emails"),
            Some(&json!(["a@b", "c@d"]))
        );
    }

    #[test]
    fn names_that_are_wrong_or_belong_elsewhere_are_refused() {
        for (name, why) in [
            ("active", "disable"),
            ("ACTIVE", "disable"),
            ("password", "set the password"),
            ("externalId", "owner key"),
            ("groups", "revoke"),
            ("id", "server"),
            ("", "a name is"),
            ("a b", "a name is"),
            ("emails[work", "bracket"),
            ("emails[]", "bracket"),
            ("a.b.c", "at most one dot"),
            ("x\" or \"1", "a name is"),
            ("urn:unknown:User:x", "extra_schemas"),
            ("emails[a].b]", "bracket"),
        ] {
            let message = Path::parse(name, &[]).unwrap_err();
            assert!(message.contains(why), "{name}: {message}");
        }
        assert!(Path::parse("userName", &[]).is_ok());
    }

    #[test]
    fn a_change_is_one_patch_operation_fit_for_what_is_there() {
        let now = json!({
            "title": "Mr",
            "emails": [{ "value": "old@x", "type": "work" }, { "value": "h@x", "type": "home" }],
        });
        let patch = |name: &str, value: Value| path(name).patch(&now, &value);
        assert_eq!(patch("title", json!("Mr")), None);
        assert_eq!(
            patch("title", json!("Dr")),
            Some(json!({ "op": "replace", "path": "title", "value": "Dr" }))
        );
        assert_eq!(
            patch("title", Value::Null),
            Some(json!({ "op": "remove", "path": "title" }))
        );
        assert_eq!(patch("nickName", Value::Null), None);
        assert_eq!(
            patch("emails[work]", json!("new@x")),
            Some(
                json!({ "op": "replace", "path": "emails[type eq \"work\"].value", "value": "new@x" })
            )
        );
        assert_eq!(
            patch("emails[other]", json!("new@x")),
            Some(
                json!({ "op": "add", "path": "emails", "value": [{ "type": "other", "value": "new@x" }] })
            )
        );
        assert_eq!(
            patch("emails[home]", Value::Null),
            Some(json!({ "op": "remove", "path": "emails[type eq \"home\"]" }))
        );
        assert_eq!(
            patch("emails", json!("one@x")),
            Some(json!({
                "op": "replace",
                "path": "emails",
                "value": [{ "value": "one@x", "type": "work", "primary": true }],
            }))
        );
        assert_eq!(
            patch(&format!("{ENTERPRISE}:department"), json!("D")),
            Some(
                json!({ "op": "replace", "path": format!("{ENTERPRISE}:department"), "value": "D" })
            )
        );
    }

    #[test]
    fn a_bare_address_is_held_by_an_only_work_address() {
        let emails = path("emails");
        let held = |now: Value| emails.holds(&json!({ "emails": now }), &json!("a@x"));
        assert!(held(
            json!([{ "value": "a@x", "type": "work", "primary": true, "display": "A" }])
        ));
        assert!(held(json!([{ "value": "a@x" }])));
        assert!(!held(
            json!([{ "value": "a@x", "type": "home", "primary": true }])
        ));
        assert!(!held(
            json!([{ "value": "a@x", "type": "work", "primary": true }, { "value": "b@x" }])
        ));
        assert!(!held(json!([])));
    }

    #[test]
    fn names_are_compared_without_regard_to_case() {
        let now = json!({ "Name": { "GIVENNAME": "Ada" } });
        assert!(path("name.givenName").holds(&now, &json!("Ada")));
    }

    proptest! {
        #[test]
        fn any_text_is_one_json_string_in_a_filter(text in any::<String>()) {
            let quoted = quoted(&text);
            prop_assert_eq!(serde_json::from_str::<String>(&quoted).unwrap(), text);
            // No quote inside is left unescaped: the text cannot end the string.
            let inner = &quoted[1..quoted.len() - 1];
            prop_assert!(!inner.replace("\\\\", "").replace("\\\"", "").contains('"'));
        }

        #[test]
        fn parsing_never_panics(name in ".{0,40}") {
            let _ = Path::parse(&name, &[]);
        }
    }
}
