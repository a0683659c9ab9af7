//! PATCH (RFC 7644, 3.5.2): operations on a resource with canonical names.

use serde_json::{Map, Value};

use super::filter::{Comparison, Filter};
use super::refusal::Refusal;
use super::schema::{Attribute, Kind, Mutability, accept_one, accept_value};
use super::value_path::ValuePath;

pub const PATCH_OP: &str = "urn:ietf:params:scim:api:messages:2.0:PatchOp";
/// The most operations one request may carry.
pub const PATCH_OPERATIONS_MAX: usize = 1_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Add,
    Replace,
    Remove,
}

/// What a path points at.
enum Target {
    Attribute(ValuePath),
    Extension(&'static str),
}

/// Applies all operations of a request, or none.
///
/// # Errors
/// The first operation that cannot be applied.
pub fn apply(
    kind: Kind,
    resource: &Map<String, Value>,
    request: &Value,
) -> Result<Map<String, Value>, Refusal> {
    let field = |value: &Value, name: &str| -> Option<Value> {
        let fields = value.as_object()?;
        fields
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.clone())
    };
    let schemas = field(request, "schemas").unwrap_or_default();
    if !schemas
        .as_array()
        .is_some_and(|urns| urns.iter().any(|urn| urn == PATCH_OP))
    {
        return Err(Refusal::invalid_syntax(&format!(
            "`schemas` must hold `{PATCH_OP}`"
        )));
    }
    let Some(Value::Array(operations)) = field(request, "Operations") else {
        return Err(Refusal::invalid_syntax("`Operations` must be a list"));
    };
    if operations.is_empty() || operations.len() > PATCH_OPERATIONS_MAX {
        return Err(Refusal::too_many(&format!(
            "give 1 to {PATCH_OPERATIONS_MAX} operations"
        )));
    }
    let mut patched = resource.clone();
    for operation in &operations {
        let op = match field(operation, "op")
            .and_then(|op| op.as_str().map(str::to_ascii_lowercase))
            .as_deref()
        {
            Some("add") => Op::Add,
            Some("replace") => Op::Replace,
            Some("remove") => Op::Remove,
            _ => {
                return Err(Refusal::invalid_syntax(
                    "`op` must be add, replace or remove",
                ));
            }
        };
        let value = field(operation, "value");
        match field(operation, "path") {
            None | Some(Value::Null) => without_path(kind, &mut patched, op, value)?,
            Some(Value::String(path)) => {
                let target = Target::parse(kind, &path)?;
                at_path(kind, &mut patched, op, &target, value)?;
            }
            Some(_) => return Err(Refusal::invalid_path("`path` must be a text")),
        }
    }
    kind.check_required(&patched)?;
    Ok(patched)
}

impl Target {
    fn parse(kind: Kind, text: &str) -> Result<Self, Refusal> {
        let text = text.trim();
        if let Some(urn) = kind
            .extensions()
            .iter()
            .find(|urn| urn.eq_ignore_ascii_case(text))
        {
            return Ok(Self::Extension(urn));
        }
        ValuePath::parse(kind, text).map(Self::Attribute)
    }
}

/// Without a path the value holds the attributes, by name or by path.
fn without_path(
    kind: Kind,
    resource: &mut Map<String, Value>,
    op: Op,
    value: Option<Value>,
) -> Result<(), Refusal> {
    if op == Op::Remove {
        return Err(Refusal::no_target("`remove` needs a `path`"));
    }
    let Some(Value::Object(fields)) = value else {
        return Err(Refusal::invalid_value(
            "without `path`, `value` must be an object of attributes",
        ));
    };
    for (name, value) in fields {
        // Some clients name the resource again among what they change.
        if SET_BY_SERVER
            .iter()
            .any(|set| set.eq_ignore_ascii_case(&name))
        {
            continue;
        }
        at_path(
            kind,
            resource,
            op,
            &Target::parse(kind, &name)?,
            Some(value),
        )?;
    }
    Ok(())
}

/// What is passed over in a value without a path, as in a whole resource.
const SET_BY_SERVER: [&str; 3] = ["schemas", "id", "meta"];

fn at_path(
    kind: Kind,
    resource: &mut Map<String, Value>,
    op: Op,
    target: &Target,
    value: Option<Value>,
) -> Result<(), Refusal> {
    let (path, elements) = match target {
        Target::Extension(urn) => return extension(kind, resource, op, urn, value),
        Target::Attribute(ValuePath { path, elements }) => (path, elements.as_ref()),
    };
    let touched = path.sub.unwrap_or(path.attribute);
    if path.attribute.mutability == Mutability::ReadOnly
        || touched.mutability == Mutability::ReadOnly
    {
        return Err(Refusal::mutability(&format!(
            "`{}` is set by the server",
            touched.name
        )));
    }
    let value = match (op, value) {
        (Op::Remove, value) => value,
        (_, Some(value)) => Some(value),
        (_, None) => return Err(Refusal::invalid_value("`value` is missing")),
    };
    let fields = match path.schema {
        None => &mut *resource,
        Some(urn) => match resource
            .entry(urn)
            .or_insert_with(|| Value::Object(Map::new()))
        {
            Value::Object(fields) => fields,
            _ => return Err(Refusal::invalid_path("the extension is not an object")),
        },
    };
    let attribute = path.attribute;
    if attribute.many {
        list(fields, op, attribute, elements, path.sub, value)?;
    } else {
        single(fields, op, attribute, path.sub, value)?;
    }
    if let Some(urn) = path.schema
        && resource
            .get(urn)
            .and_then(Value::as_object)
            .is_some_and(Map::is_empty)
    {
        resource.remove(urn);
    }
    Ok(())
}

fn extension(
    kind: Kind,
    resource: &mut Map<String, Value>,
    op: Op,
    urn: &'static str,
    value: Option<Value>,
) -> Result<(), Refusal> {
    if op == Op::Remove {
        resource.remove(urn);
        return Ok(());
    }
    let Some(Value::Object(fields)) = value else {
        return Err(Refusal::invalid_value(&format!(
            "`{urn}` must be an object"
        )));
    };
    for (name, value) in fields {
        if name.eq_ignore_ascii_case("schemas") {
            continue;
        }
        at_path(
            kind,
            resource,
            op,
            &Target::parse(kind, &format!("{urn}:{name}"))?,
            Some(value),
        )?;
    }
    Ok(())
}

fn single(
    fields: &mut Map<String, Value>,
    op: Op,
    attribute: &'static Attribute,
    sub: Option<&'static Attribute>,
    value: Option<Value>,
) -> Result<(), Refusal> {
    if let Some(sub) = sub {
        let parts = fields
            .entry(attribute.name)
            .or_insert_with(|| Value::Object(Map::new()));
        let Value::Object(parts) = parts else {
            return Err(Refusal::invalid_path(&format!(
                "`{}` has no parts",
                attribute.name
            )));
        };
        set(parts, sub, if op == Op::Remove { None } else { value })?;
        if parts.is_empty() {
            fields.remove(attribute.name);
        }
        return Ok(());
    }
    if op == Op::Remove {
        if attribute.required {
            return Err(Refusal::mutability(&format!(
                "`{}` is required",
                attribute.name
            )));
        }
        fields.remove(attribute.name);
        return Ok(());
    }
    let accepted = accept_value(attribute, &value.unwrap_or_default())?;
    match (fields.get_mut(attribute.name), accepted) {
        // The parts given are changed; the others stay.
        (Some(Value::Object(before)), Some(Value::Object(parts))) => before.extend(parts),
        (_, Some(accepted)) => {
            fields.insert(attribute.name.to_owned(), accepted);
        }
        (_, None) => {
            fields.remove(attribute.name);
        }
    }
    Ok(())
}

fn set(
    parts: &mut Map<String, Value>,
    sub: &'static Attribute,
    value: Option<Value>,
) -> Result<(), Refusal> {
    let accepted = match value {
        Some(value) => accept_value(sub, &value)?,
        None => None,
    };
    if sub.mutability == Mutability::Immutable
        && parts.contains_key(sub.name)
        && parts.get(sub.name) != accepted.as_ref()
    {
        return Err(Refusal::mutability(&format!(
            "`{}` cannot be changed; replace the whole element",
            sub.name
        )));
    }
    match accepted {
        Some(value) => parts.insert(sub.name.to_owned(), value),
        None => parts.remove(sub.name),
    };
    Ok(())
}

fn list(
    fields: &mut Map<String, Value>,
    op: Op,
    attribute: &'static Attribute,
    elements: Option<&Filter>,
    sub: Option<&'static Attribute>,
    value: Option<Value>,
) -> Result<(), Refusal> {
    let mut items = match fields.remove(attribute.name) {
        Some(Value::Array(items)) => items,
        Some(other) => vec![other],
        None => Vec::new(),
    };
    let meant = |item: &Value| {
        elements.is_none_or(|filter| item.as_object().is_some_and(|item| filter.matches(item)))
    };
    let none_meant = elements.is_some() && !items.iter().any(meant);
    match (op, sub) {
        (Op::Remove, None) => {
            let named = removed_values(attribute, value)?;
            if none_meant {
                return Err(Refusal::no_target(&format!(
                    "no element of `{}` matches",
                    attribute.name
                )));
            }
            items.retain(|item| {
                !(meant(item)
                    && named
                        .as_ref()
                        .is_none_or(|named| named.iter().any(|it| same(it, item))))
            });
        }
        (Op::Remove, Some(sub)) => {
            for item in items
                .iter_mut()
                .filter(|item| meant(item))
                .filter_map(Value::as_object_mut)
            {
                set(item, sub, None)?;
            }
        }
        (Op::Replace, _) if none_meant => {
            return Err(Refusal::no_target(&format!(
                "no element of `{}` matches",
                attribute.name
            )));
        }
        (Op::Replace, None) if elements.is_none() => {
            items = accepted_items(attribute, value.unwrap_or_default())?;
        }
        (Op::Replace, None) => {
            let new = accept_one(attribute, &value.unwrap_or_default())?;
            for item in items.iter_mut().filter(|item| meant(item)) {
                *item = new.clone().unwrap_or_default();
            }
            items.retain(|item| !item.is_null());
        }
        (Op::Add, None) if elements.is_none() => {
            let new = accepted_items(attribute, value.unwrap_or_default())?;
            keep_one_primary(&mut items, &new);
            for item in new {
                if !items.iter().any(|it| same(it, &item)) {
                    items.push(item);
                }
            }
        }
        (Op::Add, None) => {
            let Some(Value::Object(parts)) = accept_one(attribute, &value.unwrap_or_default())?
            else {
                return Err(Refusal::invalid_value(
                    "the element to add must be an object",
                ));
            };
            if none_meant {
                items.push(Value::Object(parts));
            } else {
                for item in items
                    .iter_mut()
                    .filter(|item| meant(item))
                    .filter_map(Value::as_object_mut)
                {
                    item.extend(parts.clone());
                }
            }
        }
        (Op::Add | Op::Replace, Some(sub)) => {
            if items.is_empty() && elements.is_none() {
                items.push(Value::Object(Map::new()));
            }
            if none_meant && op == Op::Replace {
                return Err(Refusal::no_target(&format!(
                    "no element of `{}` matches",
                    attribute.name
                )));
            }
            if none_meant {
                // Adding a part of what is not there makes the element that the path describes: widely used clients
                // fill `emails[type eq "work"].value` so.
                items.push(described(attribute, elements)?);
            }
            for item in items
                .iter_mut()
                .filter(|item| meant(item))
                .filter_map(Value::as_object_mut)
            {
                set(item, sub, value.clone())?;
            }
        }
    }
    items.retain(|item| item.as_object().is_none_or(|item| !item.is_empty()));
    if items.iter().filter(|item| is_primary(item)).count() > 1 {
        return Err(Refusal::invalid_value(&format!(
            "`{}` would have more than one primary value",
            attribute.name
        )));
    }
    if !items.is_empty() {
        fields.insert(attribute.name.to_owned(), Value::Array(items));
    }
    Ok(())
}

/// The element that a path describes by saying what its parts are equal to.
fn described(attribute: &'static Attribute, elements: Option<&Filter>) -> Result<Value, Refusal> {
    let mut parts = Map::new();
    for part in elements.into_iter().cloned().flat_map(Filter::conjuncts) {
        match part {
            Filter::Compare(path, Comparison::Equal, value) if !value.is_null() => {
                set(&mut parts, path.attribute, Some(value))?;
            }
            _ => {
                return Err(Refusal::no_target(&format!(
                    "no element of `{}` matches, and the path does not describe one",
                    attribute.name
                )));
            }
        }
    }
    Ok(Value::Object(parts))
}

/// Elements named in the `value` of a `remove`: some clients name members there instead of in the path.
fn removed_values(
    attribute: &'static Attribute,
    value: Option<Value>,
) -> Result<Option<Vec<Value>>, Refusal> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(value) => accepted_items(attribute, value).map(Some),
    }
}

fn accepted_items(attribute: &'static Attribute, value: Value) -> Result<Vec<Value>, Refusal> {
    Ok(match accept_value(attribute, &value)? {
        Some(Value::Array(items)) => items,
        Some(one) => vec![one],
        None => Vec::new(),
    })
}

/// A new primary value takes the place of the old one (RFC 7644, 3.5.2).
fn keep_one_primary(items: &mut [Value], new: &[Value]) {
    if new.iter().any(is_primary) {
        for item in items.iter_mut().filter_map(Value::as_object_mut) {
            item.insert("primary".to_owned(), Value::Bool(false));
        }
    }
}

fn is_primary(item: &Value) -> bool {
    item.get("primary") == Some(&Value::Bool(true))
}

/// Elements are the same when they point at the same thing, or are equal.
fn same(left: &Value, right: &Value) -> bool {
    let one_kind =
        left.get("type").is_none() || right.get("type").is_none() || left.get("$ref").is_some();
    if let (true, Some(left), Some(right)) = (one_kind, left.get("value"), right.get("value")) {
        return left == right;
    }
    left == right
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

    #[track_caller]
    fn check(operations: Value, expected: Value) {
        let user = json!({
            "userName": "ada", "active": true, "name": { "familyName": "L" },
            "emails": [{ "value": "a@x", "type": "work", "primary": true }, { "value": "b@x", "type": "home" }],
        });
        let request = json!({ "schemas": [PATCH_OP], "Operations": operations });
        let mut patched = apply(Kind::User, user.as_object().unwrap(), &request).unwrap();
        for (name, value) in expected.as_object().unwrap() {
            assert_eq!(&patched.remove(name).unwrap_or_default(), value, "{name}");
        }
    }

    #[test]
    fn operations_change_what_they_name() {
        check(
            json!([{ "op": "Replace", "path": "active", "value": false }]),
            json!({ "active": false }),
        );
        check(
            json!([{ "op": "replace", "value": { "active": "False" } }]),
            json!({ "active": false }),
        );
        check(
            json!([{ "op": "add", "path": "name.givenName", "value": "A" }]),
            json!({ "name": { "familyName": "L", "givenName": "A" } }),
        );
        check(
            json!([{ "op": "replace", "path": "emails[type eq \"home\"].value", "value": "c@x" }]),
            json!({ "emails": [{ "value": "a@x", "type": "work", "primary": true }, { "value": "c@x", "type": "home" }] }),
        );
        check(
            json!([{ "op": "Add", "path": "phoneNumbers[type eq \"mobile\" and primary eq true].value", "value": "1" }]),
            json!({ "phoneNumbers": [{ "type": "mobile", "primary": true, "value": "1" }] }),
        );
        check(
            json!([{ "op": "remove", "path": "emails[type eq \"work\"]" }, { "op": "remove", "path": "name" }]),
            json!({ "emails": [{ "value": "b@x", "type": "home" }], "name": null }),
        );
        check(
            json!([{ "op": "add", "path": "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User:department", "value": "Lab" }]),
            json!({ "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User": { "department": "Lab" } }),
        );
        check(
            json!([{ "op": "add", "path": "emails", "value": [{ "value": "z@x", "type": "other", "primary": true }] }]),
            json!({ "emails": [
                { "value": "a@x", "type": "work", "primary": false },
                { "value": "b@x", "type": "home", "primary": false },
                { "value": "z@x", "type": "other", "primary": true },
            ] }),
        );
    }

    #[test]
    fn members_come_and_go() {
        let group = json!({ "displayName": "g", "members": [{ "value": "1" }, { "value": "2" }] });
        let patch = |operations: Value| {
            let request = json!({ "schemas": [PATCH_OP], "Operations": operations });
            let patched = apply(Kind::Group, group.as_object().unwrap(), &request)?;
            let ids: Vec<Value> = patched
                .get("members")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .map(|member| member["value"].clone())
                .collect();
            Ok::<_, Refusal>(json!(ids))
        };
        assert_eq!(
            patch(
                json!([{ "op": "add", "path": "members", "value": [{ "value": "2" }, { "value": "3" }] }])
            ),
            Ok(json!(["1", "2", "3"]))
        );
        assert_eq!(
            patch(json!([{ "op": "remove", "path": "members[value eq \"1\"]" }])),
            Ok(json!(["2"]))
        );
        assert_eq!(
            patch(json!([{ "op": "remove", "path": "members", "value": [{ "value": "2" }] }])),
            Ok(json!(["1"]))
        );
        assert_eq!(
            patch(json!([{ "op": "remove", "path": "members" }])),
            Ok(json!([]))
        );
        assert_eq!(
            patch(json!([{ "op": "replace", "path": "members", "value": [{ "value": "9" }] }])),
            Ok(json!(["9"]))
        );
        assert!(patch(json!([{ "op": "remove", "path": "members[value eq \"7\"]" }])).is_err());
        assert!(
            patch(
                json!([{ "op": "replace", "path": "members[value eq \"1\"].value", "value": "7" }])
            )
            .is_err()
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let user = json!({ "userName": "ada" });
        for operation in [
            json!({ "op": "remove" }),
            json!({ "op": "move", "path": "title" }),
            json!({ "op": "remove", "path": "userName" }),
            json!({ "op": "replace", "path": "id", "value": "x" }),
            json!({ "op": "replace", "path": "groups", "value": [] }),
            json!({ "op": "add", "path": "nothing", "value": 1 }),
            json!({ "op": "add", "path": "active", "value": "perhaps" }),
            json!({ "op": "add", "path": "title" }),
            json!({ "op": "add", "path": "phoneNumbers[type ne \"work\"].value", "value": "1" }),
            json!({ "op": "add", "path": "emails[type eq \"work\"", "value": "x" }),
            json!({ "op": "add", "path": "emails[type eq \"work\"]value", "value": "x" }),
            json!({ "op": "add", "path": "title[value eq \"x\"]", "value": "x" }),
            json!({ "op": "add", "path": "schemas", "value": ["urn:x"] }),
            json!({ "op": "add", "path": "urn:example:Other:title", "value": "x" }),
            json!({ "op": "add", "path": 7, "value": "x" }),
            json!({ "op": "add", "value": "x" }),
            json!({ "path": "title", "value": "x" }),
            json!({ "op": "replace", "path": "emails[type eq \"work\"].value", "value": "x" }),
        ] {
            let request = json!({ "schemas": [PATCH_OP], "Operations": [operation] });
            assert!(
                apply(Kind::User, user.as_object().unwrap(), &request).is_err(),
                "{request}"
            );
        }
    }

    proptest! {
        /// Whatever comes in is applied or refused, and what was applied can be applied to again.
        #[test]
        fn hostile_paths_are_applied_or_refused(
            op in prop::sample::select(vec!["add", "replace", "remove", "ADD"]),
            path in prop_oneof![
                any::<String>(),
                prop::collection::vec(prop::sample::select(vec![
                    "emails", "userName", "name", "active", "[", "]", ".", "value", "type eq \"work\"", " ", "not (", ")",
                    "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User", ":", "manager", "\"", "é",
                ]), 0..8).prop_map(|parts| parts.concat()),
            ],
            value in prop_oneof![
                Just(json!(null)), Just(json!("x")), Just(json!(true)), Just(json!([])), Just(json!([{ "value": "x" }])),
                Just(json!({ "value": "x", "primary": true })), Just(json!(1)), Just(json!([[["x"]]])),
            ],
        ) {
            let user = json!({ "userName": "ada", "emails": [{ "value": "a@x", "type": "work" }] });
            let operation = json!({ "op": op, "path": path, "value": value });
            let request = json!({ "schemas": [PATCH_OP], "Operations": [operation] });
            if let Ok(patched) = apply(Kind::Person, user.as_object().unwrap(), &request) {
                let _ = apply(Kind::Person, &patched, &request);
                prop_assert!(patched.get("userName").is_some());
            }
        }
    }
}
