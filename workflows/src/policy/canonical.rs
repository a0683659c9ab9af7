//! Bytes that are equal when values are equal, to hash them.
//!
//! The order in which `serde_json` keeps members depends on a feature that any dependency may switch on, so it
//! is not relied upon: a hash that changes with the build would make every event new.

use std::fmt::Write as _;

use serde_json::Value;
use sha2::{Digest, Sha256};

/// JSON without blanks, members sorted by name.
#[must_use]
pub fn canonical(value: &Value) -> String {
    let mut text = String::new();
    write(&mut text, value);
    text
}

/// The SHA-256 of [`canonical`], in hex.
#[must_use]
pub fn digest(value: &Value) -> String {
    hex(&Sha256::digest(canonical(value)))
}

/// Lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn write(text: &mut String, value: &Value) {
    match value {
        Value::Object(members) => {
            let mut sorted: Vec<(&String, &Value)> = members.iter().collect();
            sorted.sort_by_key(|(name, _)| *name);
            text.push('{');
            for (index, (name, value)) in sorted.into_iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                let _ = write!(text, "{}:", Value::String(name.clone()));
                write(text, value);
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                write(text, item);
            }
            text.push(']');
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            let _ = write!(text, "{value}");
        }
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
    fn the_order_of_members_does_not_matter() {
        let one: Value =
            serde_json::from_str(r#"{"b": [1, {"d": null, "c": "\"x"}], "a": true}"#).unwrap();
        let other: Value =
            serde_json::from_str(r#"{"a": true, "b": [1, {"c": "\"x", "d": null}]}"#).unwrap();
        let text = r#"{"a":true,"b":[1,{"c":"\"x","d":null}]}"#;
        assert_eq!(canonical(&one), text);
        assert_eq!(canonical(&other), text);
        assert_eq!(digest(&one), digest(&other));
    }
}
