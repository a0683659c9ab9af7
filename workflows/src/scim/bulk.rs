//! Bulk requests (RFC 7644, 3.7): many operations in one body, and references among them.
//!
//! A resource that a bulk makes has its identifier before anything is done, so a `bulkId` is a text that is replaced by
//! another, wherever it stands, also when two resources refer to one another. What is made comes before what refers to
//! it where that is possible; the answers keep the order of the request.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::refusal::Refusal;
use super::schema::Kind;

/// The most operations of one request.
pub const BULK_OPERATIONS_MAX: usize = 1_000;
/// The largest body, in bytes.
pub const BULK_BYTES_MAX: usize = 8 * 1024 * 1024;
/// The longest `bulkId`, in bytes.
const BULK_ID_BYTES_MAX: usize = 256;
/// How deep a resource may nest where references are looked for. The schemas nest three deep.
const NESTING_MAX: usize = 16;

const BULK_REQUEST: &str = "urn:ietf:params:scim:api:messages:2.0:BulkRequest";
pub const BULK_RESPONSE: &str = "urn:ietf:params:scim:api:messages:2.0:BulkResponse";
const REFERENCE: &str = "bulkId:";

/// What one operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Post,
    Put,
    Patch,
    Delete,
}

impl Method {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }
}

/// A whole request.
#[derive(Debug, Clone, PartialEq)]
pub struct Bulk {
    /// How many operations may fail before the rest is left; `None` for all.
    pub errors_max: Option<u64>,
    pub operations: Vec<Asked>,
    /// In which order they are done: places in `operations`.
    pub order: Vec<usize>,
}

/// One operation as it was sent: what cannot be understood is answered, not done.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    /// As it was sent, for the answer.
    pub method: String,
    pub bulk_id: Option<String>,
    pub operation: Result<Operation, Refusal>,
}

/// One operation that can be done.
#[derive(Debug, Clone, PartialEq)]
pub struct Operation {
    pub method: Method,
    pub kind: Kind,
    /// Which resource; of a new one, the identifier it gets.
    pub id: String,
    pub data: Value,
    /// The version it must have, as an ETag.
    pub version: Option<String>,
    /// The operations that make what it refers to.
    pub needs: BTreeSet<usize>,
}

impl Bulk {
    /// Reads a request. `kind_of` tells the kind behind an endpoint as `Users`; `new_id` gives identifiers.
    ///
    /// # Errors
    /// When the request as a whole has no meaning. One operation without a meaning is no such error.
    pub fn parse(
        body: &Value,
        kind_of: impl Fn(&str) -> Option<Kind>,
        mut new_id: impl FnMut() -> String,
    ) -> Result<Self, Refusal> {
        let fields = body
            .as_object()
            .ok_or_else(|| Refusal::invalid_syntax("a bulk request is a JSON object"))?;
        let schemas = field(fields, "schemas").and_then(Value::as_array);
        if !schemas.is_some_and(|urns| urns.iter().any(|urn| urn == BULK_REQUEST)) {
            return Err(Refusal::invalid_syntax(&format!(
                "`schemas` must hold `{BULK_REQUEST}`"
            )));
        }
        let errors_max = match field(fields, "failOnErrors") {
            None | Some(Value::Null) => None,
            Some(value) => Some(value.as_u64().filter(|most| *most > 0).ok_or_else(|| {
                Refusal::invalid_value("`failOnErrors` must be a whole number from 1")
            })?),
        };
        let Some(Value::Array(sent)) = field(fields, "Operations") else {
            return Err(Refusal::invalid_syntax("`Operations` must be a list"));
        };
        if sent.len() > BULK_OPERATIONS_MAX {
            return Err(Refusal::new(
                413,
                None,
                &format!(
                    "the request has {} operations; at most {BULK_OPERATIONS_MAX} are taken",
                    sent.len()
                ),
            ));
        }
        let mut made: BTreeMap<String, (usize, String)> = BTreeMap::new();
        let mut twice = BTreeSet::new();
        for (place, operation) in sent.iter().enumerate() {
            let is_post =
                text(operation, "method").is_some_and(|it| it.eq_ignore_ascii_case("POST"));
            if let (true, Some(bulk_id)) = (is_post, text(operation, "bulkId"))
                && made.insert(bulk_id.to_owned(), (place, new_id())).is_some()
            {
                twice.insert(bulk_id.to_owned());
            }
        }
        let operations: Vec<Asked> = sent
            .iter()
            .map(|operation| Asked {
                method: text(operation, "method").unwrap_or_default().to_owned(),
                bulk_id: text(operation, "bulkId").map(str::to_owned),
                operation: asked(operation, &kind_of, &made, &twice),
            })
            .collect();
        Ok(Self {
            errors_max,
            order: in_order(&operations),
            operations,
        })
    }
}

fn asked(
    operation: &Value,
    kind_of: &impl Fn(&str) -> Option<Kind>,
    made: &BTreeMap<String, (usize, String)>,
    twice: &BTreeSet<String>,
) -> Result<Operation, Refusal> {
    if !operation.is_object() {
        return Err(Refusal::invalid_syntax("an operation is a JSON object"));
    }
    let method = match text(operation, "method")
        .map(str::to_ascii_uppercase)
        .as_deref()
    {
        Some("POST") => Method::Post,
        Some("PUT") => Method::Put,
        Some("PATCH") => Method::Patch,
        Some("DELETE") => Method::Delete,
        _ => {
            return Err(Refusal::invalid_syntax(
                "`method` must be POST, PUT, PATCH or DELETE",
            ));
        }
    };
    let path = text(operation, "path")
        .ok_or_else(|| Refusal::invalid_syntax("`path` is missing; give one as `/Users`"))?;
    let mut parts = path.trim_start_matches('/').splitn(2, '/');
    let kind = parts
        .next()
        .and_then(kind_of)
        .ok_or_else(|| Refusal::not_found(path))?;
    let named = parts.next().filter(|id| !id.is_empty());
    let mut needs = BTreeSet::new();
    let id = match (method, named) {
        (Method::Post, None) => {
            let bulk_id = text(operation, "bulkId").filter(|id| !id.is_empty());
            let bulk_id = bulk_id
                .ok_or_else(|| Refusal::invalid_syntax("`bulkId` is missing; a POST needs one"))?;
            if bulk_id.len() > BULK_ID_BYTES_MAX {
                return Err(Refusal::invalid_value(&format!(
                    "`bulkId` is longer than {BULK_ID_BYTES_MAX} bytes"
                )));
            }
            if twice.contains(bulk_id) {
                return Err(Refusal::invalid_value(&format!(
                    "the `bulkId` `{bulk_id}` stands there twice"
                )));
            }
            let own = made.get(bulk_id).map(|(_, id)| id.clone());
            own.unwrap_or_default()
        }
        (Method::Post, Some(_)) => return Err(Refusal::method_not_allowed()),
        (_, None) => {
            return Err(Refusal::invalid_syntax(
                "`path` names no resource; give one as `/Users/ID`",
            ));
        }
        (_, Some(id)) => referred(id, made, &mut needs)?.unwrap_or_else(|| id.to_owned()),
    };
    let data = match (method, member(operation, "data")) {
        (Method::Delete, _) => Value::Null,
        (_, Some(data @ Value::Object(_))) => resolved(data, made, &mut needs, 0)?,
        _ => return Err(Refusal::invalid_syntax("`data` must be an object")),
    };
    let version = match member(operation, "version") {
        None | Some(Value::Null) => None,
        Some(Value::String(version)) => Some(version.clone()),
        Some(_) => return Err(Refusal::invalid_syntax("`version` must be a text")),
    };
    Ok(Operation {
        method,
        kind,
        id,
        data,
        version,
        needs,
    })
}

/// The identifier that a reference means; nothing when the text is no reference.
fn referred(
    text: &str,
    made: &BTreeMap<String, (usize, String)>,
    needs: &mut BTreeSet<usize>,
) -> Result<Option<String>, Refusal> {
    let Some(bulk_id) = text.strip_prefix(REFERENCE) else {
        return Ok(None);
    };
    let (place, id) = made.get(bulk_id).ok_or_else(|| {
        Refusal::new(
            409,
            None,
            &format!("no operation of this request makes `{text}`"),
        )
    })?;
    needs.insert(*place);
    Ok(Some(id.clone()))
}

fn resolved(
    value: &Value,
    made: &BTreeMap<String, (usize, String)>,
    needs: &mut BTreeSet<usize>,
    depth: usize,
) -> Result<Value, Refusal> {
    if depth > NESTING_MAX {
        return Err(Refusal::invalid_value(&format!(
            "`data` nests deeper than {NESTING_MAX} levels"
        )));
    }
    Ok(match value {
        Value::String(text) => {
            Value::String(referred(text, made, needs)?.unwrap_or_else(|| text.clone()))
        }
        Value::Array(items) => Value::Array(
            items
                .iter()
                .map(|item| resolved(item, made, needs, depth + 1))
                .collect::<Result<_, _>>()?,
        ),
        Value::Object(fields) => Value::Object(
            fields
                .iter()
                .map(|(name, item)| Ok((name.clone(), resolved(item, made, needs, depth + 1)?)))
                .collect::<Result<_, Refusal>>()?,
        ),
        other => other.clone(),
    })
}

/// What is made before what refers to it, else as sent. Where two refer to one another, the first sent goes first.
fn in_order(operations: &[Asked]) -> Vec<usize> {
    let needs = |place: usize| {
        let operation = operations.get(place).map(|asked| &asked.operation);
        match operation {
            Some(Ok(operation)) => operation.needs.clone(),
            _ => BTreeSet::new(),
        }
    };
    let mut order = Vec::with_capacity(operations.len());
    let mut placed = BTreeSet::new();
    for place in 0..operations.len() {
        // A walk without recursion: a chain of references may be as long as the request.
        let mut open = vec![place];
        let mut under_way = BTreeSet::new();
        while let Some(current) = open.pop() {
            if placed.contains(&current) {
                continue;
            }
            let first: Vec<usize> = needs(current)
                .into_iter()
                .filter(|need| !placed.contains(need) && !under_way.contains(need))
                .filter(|need| *need != current)
                .collect();
            if first.is_empty() {
                placed.insert(current);
                order.push(current);
            } else {
                under_way.insert(current);
                open.push(current);
                open.extend(first.into_iter().rev());
            }
        }
    }
    order
}

fn field<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    let mut fields = fields.iter();
    fields
        .find(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
}

fn member<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    field(value.as_object()?, name)
}

fn text<'a>(value: &'a Value, name: &str) -> Option<&'a str> {
    member(value, name)?.as_str()
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

    fn kind_of(endpoint: &str) -> Option<Kind> {
        [Kind::Person, Kind::Group]
            .into_iter()
            .find(|kind| kind.endpoint() == endpoint)
    }

    fn parse(operations: Value) -> Result<Bulk, Refusal> {
        let body =
            json!({ "schemas": [BULK_REQUEST], "failOnErrors": 2, "Operations": operations });
        let mut next = 0;
        Bulk::parse(&body, kind_of, || {
            next += 1;
            format!("id{next}")
        })
    }

    #[test]
    fn references_become_identifiers_and_what_is_made_comes_first() {
        let bulk = parse(json!([
            { "method": "POST", "path": "/Groups", "bulkId": "g", "data": { "members": [{ "value": "bulkId:u" }] } },
            { "method": "post", "path": "Users", "bulkId": "u", "data": { "userName": "u", "manager": "bulkId:m" } },
            { "method": "POST", "path": "/Users", "bulkId": "m", "data": { "userName": "m", "manager": "bulkId:u" } },
            { "method": "PATCH", "path": "/Users/bulkId:u", "data": {}, "version": "W/\"1\"" },
            { "method": "DELETE", "path": "/Users/77" },
        ]))
        .unwrap();
        assert_eq!(bulk.errors_max, Some(2));
        let operation = |place: usize| bulk.operations[place].operation.clone().unwrap();
        assert_eq!(operation(0).data["members"][0]["value"], "id2");
        assert_eq!(
            (operation(1).id, operation(1).data["manager"].clone()),
            ("id2".to_owned(), json!("id3"))
        );
        assert_eq!(operation(2).data["manager"], "id2");
        assert_eq!(
            (operation(3).id.as_str(), operation(3).version.as_deref()),
            ("id2", Some("W/\"1\""))
        );
        assert_eq!(
            (operation(4).id.as_str(), operation(4).kind),
            ("77", Kind::Person)
        );
        // The group after its member; of the two that refer to one another, both somewhere.
        let place = |wanted: usize| bulk.order.iter().position(|it| *it == wanted).unwrap();
        assert!(place(1) < place(0) && place(1) < place(3));
        assert_eq!(bulk.order.len(), 5);
    }

    #[test]
    fn what_has_no_meaning_is_answered_by_itself() {
        let bulk = parse(json!([
            7,
            { "path": "/Users", "bulkId": "a", "data": {} },
            { "method": "GET", "path": "/Users/1" },
            { "method": "POST", "path": "/Users", "data": {} },
            { "method": "POST", "path": "/Users/1", "bulkId": "b", "data": {} },
            { "method": "POST", "path": "/Robots", "bulkId": "c", "data": {} },
            { "method": "PUT", "path": "/Users", "data": {} },
            { "method": "PUT", "path": "/Users/1" },
            { "method": "PUT", "path": "/Users/1", "data": { "a": "bulkId:nobody" } },
            { "method": "PUT", "path": "/Users/1", "data": {}, "version": 1 },
            { "method": "POST", "path": "/Users", "bulkId": "d", "data": {} },
            { "method": "POST", "path": "/Users", "bulkId": "d", "data": {} },
        ]))
        .unwrap();
        let statuses: Vec<u16> = bulk
            .operations
            .iter()
            .map(|asked| asked.operation.as_ref().unwrap_err().status)
            .collect();
        assert_eq!(
            statuses,
            [400, 400, 400, 400, 405, 404, 400, 400, 409, 400, 400, 400]
        );
    }

    #[test]
    fn a_request_without_a_meaning_is_refused_as_a_whole() {
        let many: Vec<Value> = vec![json!({}); BULK_OPERATIONS_MAX + 1];
        assert_eq!(parse(json!(many)).unwrap_err().status, 413);
        assert!(parse(json!({})).is_err());
        for body in [
            json!([]),
            json!({ "Operations": [] }),
            json!({ "schemas": [BULK_REQUEST], "Operations": [], "failOnErrors": 0 }),
            json!({ "schemas": [BULK_REQUEST], "Operations": [], "failOnErrors": "1" }),
        ] {
            assert!(Bulk::parse(&body, kind_of, String::new).is_err(), "{body}");
        }
    }

    proptest! {
        /// Every operation is done once, and after what it needs unless they need one another.
        #[test]
        fn any_references_end_in_an_order(links in prop::collection::vec((0..12_usize, 0..12_usize), 0..30)) {
            let operations: Vec<Value> = (0..12_usize).map(|place| {
                let needs: Vec<String> = links.iter().filter(|(from, _)| *from == place)
                    .map(|(_, to)| format!("bulkId:{to}")).collect();
                json!({ "method": "POST", "path": "/Users", "bulkId": place.to_string(), "data": { "a": needs } })
            }).collect();
            let bulk = parse(json!(operations)).unwrap();
            let mut order = bulk.order.clone();
            order.sort_unstable();
            prop_assert_eq!(order, (0..12).collect::<Vec<_>>());
            // Without a way back there is no excuse.
            if links.iter().all(|(from, to)| from > to) {
                let place = |wanted: usize| bulk.order.iter().position(|it| *it == wanted).unwrap();
                for (from, to) in links {
                    prop_assert!(place(to) < place(from));
                }
            }
        }
    }
}
