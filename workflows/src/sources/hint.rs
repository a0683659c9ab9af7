//! Hints: a product says that somebody changed. Who is all that is read of it; the rest is fetched.
//!
//! | shape | signature, as its vendor documents it | about whom |
//! |---|---|---|
//! | `bamboohr` | `X-BambooHR-Signature`: hex of HMAC-SHA256 over the body and `X-BambooHR-Timestamp` | `employees[].id` |
//! | `hibob` | `Bob-Signature`: base64 of HMAC-SHA512 over the body | `employee.id`, `data.employeeId` |
//! | `gusto` | `X-Gusto-Signature`: hex of HMAC-SHA256 over the body | `entity_uuid` of an `Employee` |
//! | `personio` | said by `header`, `algorithm` and `encoding` | `payload.person.id`, `payload.employee.id`, `payload.id` |
//! | `declared` | said by `header`, `algorithm` and `encoding` | said by `ids` |

use connectors::secret::SecretRef;
use engine::core::duration::Span;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use serde_saphyr::Spanned;

/// The most people one hint is about; what is more comes with the next time everybody is fetched.
pub const IDS_MAX: usize = 1_000;
/// The longest identifier, in bytes.
pub const ID_BYTES_MAX: usize = 200;
/// How long hints about one person are gathered when nobody says.
const COALESCE_DEFAULT_S: u32 = 5;
/// How far the clock of a product that signs the time may be off, in seconds.
pub const SKEW_S_MAX: i64 = 300;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HintShape {
    Bamboohr,
    Hibob,
    Gusto,
    Personio,
    Declared,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HintAlgorithm {
    #[default]
    Sha256,
    Sha512,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HintEncoding {
    #[default]
    Hex,
    Base64,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HintsConfig {
    #[schemars(with = "HintShape")]
    pub shape: Spanned<HintShape>,
    /// Where the secret is kept that the product signs with.
    #[schemars(with = "String")]
    pub secret: SecretRef,
    /// Where one person is fetched; `{id}` stands for who it is.
    #[schemars(with = "String")]
    pub record: Spanned<String>,
    /// Where the person is in that answer, as a JSON pointer; nothing for the answer itself.
    #[serde(default)]
    pub record_row: String,
    /// How long hints about one person are gathered, `0s` to `10m`; `5s` when left out.
    #[serde(default)]
    #[schemars(with = "Option<Span>")]
    pub coalesce: Option<Spanned<Span>>,
    /// `personio` and `declared`: the header with the signature, what made it, and how it is written.
    #[serde(default)]
    pub header: Option<String>,
    #[serde(default)]
    pub algorithm: HintAlgorithm,
    #[serde(default)]
    pub encoding: HintEncoding,
    /// `declared`: where a hint says who it is about, as JSON pointers; `*` stands for every item of a list.
    #[serde(default)]
    pub ids: Vec<String>,
}

/// How a hint is signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    pub header: String,
    pub algorithm: HintAlgorithm,
    pub encoding: HintEncoding,
    /// A header whose value is signed behind the body: the time, in seconds.
    pub time_header: Option<&'static str>,
}

impl HintsConfig {
    #[must_use]
    pub fn coalesce(&self) -> Span {
        let said = self.coalesce.as_ref().map(|span| span.value);
        said.unwrap_or(Span::from_s(COALESCE_DEFAULT_S))
    }

    /// How it is signed; `None` when that has to be said and is not.
    #[must_use]
    pub fn signed(&self) -> Option<Signed> {
        let vendor = |header: &str, algorithm, encoding, time_header| {
            Some(Signed {
                header: header.to_owned(),
                algorithm,
                encoding,
                time_header,
            })
        };
        match self.shape.value {
            HintShape::Bamboohr => vendor(
                "x-bamboohr-signature",
                HintAlgorithm::Sha256,
                HintEncoding::Hex,
                Some("x-bamboohr-timestamp"),
            ),
            HintShape::Hibob => vendor(
                "bob-signature",
                HintAlgorithm::Sha512,
                HintEncoding::Base64,
                None,
            ),
            HintShape::Gusto => vendor(
                "x-gusto-signature",
                HintAlgorithm::Sha256,
                HintEncoding::Hex,
                None,
            ),
            HintShape::Personio | HintShape::Declared => {
                let header = self.header.as_deref()?;
                vendor(header, self.algorithm, self.encoding, None)
            }
        }
    }

    /// Who a hint is about: nobody when it is about something else, or only a test.
    #[must_use]
    pub fn about(&self, body: &Value) -> Vec<String> {
        let places: &[&str] = match self.shape.value {
            HintShape::Bamboohr => &[
                "/employees/*/id",
                "/employees/*/employeeId",
                "/data/employeeId",
            ],
            HintShape::Hibob => &["/employee/id", "/data/employeeId"],
            HintShape::Gusto => {
                let of = body.get("entity_type").and_then(Value::as_str);
                if of.is_some_and(|of| !of.eq_ignore_ascii_case("employee")) {
                    return Vec::new();
                }
                &["/entity_uuid"]
            }
            HintShape::Personio => &["/payload/person/id", "/payload/employee/id", "/payload/id"],
            HintShape::Declared => &[],
        };
        let said = self.ids.iter().map(String::as_str);
        let mut ids = Vec::new();
        for place in places.iter().copied().chain(said) {
            let path: Vec<&str> = place.split('/').skip(1).collect();
            find(body, &path, &mut ids);
        }
        ids.sort();
        ids.dedup();
        ids.truncate(IDS_MAX);
        ids
    }
}

/// Adds what stands at `path`, where `*` stands for every item.
fn find(value: &Value, path: &[&str], ids: &mut Vec<String>) {
    let Some((first, rest)) = path.split_first() else {
        let id = match value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            _ => return,
        };
        // Two full stops would lead out of the path it becomes a part of.
        let good = !id.is_empty()
            && id.len() <= ID_BYTES_MAX
            && !id.chars().any(char::is_control)
            && !id.trim_matches('.').is_empty();
        if good {
            ids.push(id);
        }
        return;
    };
    if *first == "*" {
        for item in value.as_array().into_iter().flatten() {
            find(item, rest, ids);
        }
    } else if let Some(inner) = value.get(first.replace("~1", "/").replace("~0", "~")) {
        find(inner, rest, ids);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use serde_json::json;

    use super::*;

    fn about(shape: &str, body: &Value) -> Vec<String> {
        let text = format!(
            "shape: {shape}\nsecret: env:X\nrecord: https://h/{{id}}\nids: [\"/list/*/who\"]\n"
        );
        let config: HintsConfig = crate::policy::yaml::parse("h.yaml", &text).unwrap();
        config.about(body)
    }

    #[test]
    fn only_who_is_read() {
        for (shape, body, expected) in [
            (
                "bamboohr",
                json!({ "employees": [{ "id": "7", "fields": { "lastName": { "value": "Evil" } } }, { "id": 8 }, { "id": "7" }] }),
                vec!["7", "8"],
            ),
            (
                "hibob",
                json!({ "type": "employee.updated", "employee": { "id": "33" } }),
                vec!["33"],
            ),
            (
                "hibob",
                json!({ "version": "v2", "data": { "employeeId": "34" } }),
                vec!["34"],
            ),
            ("hibob", json!({ "text": "Ping test" }), vec![]),
            (
                "gusto",
                json!({ "entity_type": "Employee", "entity_uuid": "u-1" }),
                vec!["u-1"],
            ),
            (
                "gusto",
                json!({ "entity_type": "Payroll", "entity_uuid": "u-2" }),
                vec![],
            ),
            (
                "personio",
                json!({ "payload": { "person": { "id": 5 } } }),
                vec!["5"],
            ),
            (
                "declared",
                json!({ "list": [{ "who": "a" }, { "who": "b\n" }, { "who": { "x": 1 } }] }),
                vec!["a"],
            ),
        ] {
            assert_eq!(about(shape, &body), expected, "{shape}");
        }
    }
}
