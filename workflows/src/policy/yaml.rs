//! Reading YAML that people write: a mistake comes back with its place and a fix.

use serde::de::DeserializeOwned;
use serde_saphyr::Error;

use super::problem::{Problem, suggest};

/// The longest YAML file that is read.
pub const YAML_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Reads one YAML document.
///
/// # Errors
/// The first mistake, with line and column.
pub fn parse<T: DeserializeOwned>(file: &str, text: &str) -> Result<T, Problem> {
    if text.len() > YAML_BYTES_MAX {
        return Err(Problem::new(
            file,
            None,
            format!(
                "the file has {} bytes, more than the {YAML_BYTES_MAX} that are read",
                text.len()
            ),
            "split it into several files",
        ));
    }
    serde_saphyr::from_str(text).map_err(|error| explain(file, error.without_snippet()))
}

fn explain(file: &str, error: &Error) -> Problem {
    let at = error
        .location()
        .map(|location| (location.line(), location.column()));
    let (message, fix) = match error {
        Error::SerdeUnknownField {
            field, expected, ..
        } => (
            format!("unknown field `{field}`"),
            suggest(field, "known fields", expected.iter().copied()),
        ),
        Error::SerdeUnknownVariant {
            variant, expected, ..
        } => (
            format!("unknown value `{variant}`"),
            suggest(variant, "known values", expected.iter().copied()),
        ),
        Error::SerdeMissingField { field, .. } => (
            format!("the field `{field}` is missing"),
            format!("add `{field}:` to this entry"),
        ),
        Error::DuplicateMappingKey { key, .. } => (
            match key {
                Some(key) => format!("the key `{key}` is written twice"),
                None => "a key is written twice".to_owned(),
            },
            "keep one of the two".to_owned(),
        ),
        Error::Eof { .. } => (
            "the file is empty or ends too early".to_owned(),
            "write at least one entry, or remove the file".to_owned(),
        ),
        Error::SerdeInvalidType {
            unexpected,
            expected,
            ..
        }
        | Error::SerdeInvalidValue {
            unexpected,
            expected,
            ..
        } => (
            format!("expected {expected}, found {unexpected}"),
            "write the value in the expected form".to_owned(),
        ),
        Error::Unexpected { expected, .. } => (
            format!("expected {expected}"),
            "write the value in the expected form".to_owned(),
        ),
        // What a type of ours says about a value, never the scanner.
        Error::Message { msg, .. } => (
            msg.clone(),
            "write the value in the expected form".to_owned(),
        ),
        other => {
            let text = other.to_string();
            // The place is told in front already.
            let message = match (text.rfind(" at line "), at) {
                (Some(end), Some(_)) => text.get(..end).unwrap_or(&text).to_owned(),
                _ => text,
            };
            (
                format!("not valid YAML: {message}"),
                "mend the YAML here; a value with `: ` or `#` in it must be quoted".to_owned(),
            )
        }
    };
    Problem::new(file, at, message, fix)
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
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its reading is tested")]
    struct File {
        name: String,
        kind: Kind,
        list: Vec<String>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Kind {
        Snapshot,
    }

    #[track_caller]
    fn check(text: &str, expected: &str) {
        assert_eq!(
            parse::<File>("f.yaml", text).unwrap_err().to_string(),
            expected
        );
    }

    #[test]
    fn every_mistake_has_a_place_and_a_fix() {
        check(
            "nmae: x\n",
            "`f.yaml`:1:1: unknown field `nmae`; fix: did you mean `name`? known fields are `name`, `kind`, `list`",
        );
        check(
            "name: x\nkind: snapshoot\n",
            "`f.yaml`:2:7: unknown value `snapshoot`; fix: did you mean `snapshot`? known values are `snapshot`",
        );
        check(
            "name: x\nname: y\n",
            "`f.yaml`:2:1: the key `name` is written twice; fix: keep one of the two",
        );
        check(
            "",
            "`f.yaml`:1:1: the file is empty or ends too early; fix: write at least one entry, or remove the file",
        );
        check(
            "kind: snapshot\nlist: []\nname: a: b\n",
            "`f.yaml`:3:8: not valid YAML: mapping values are not allowed in this context; \
             fix: mend the YAML here; a value with `: ` or `#` in it must be quoted",
        );
        check(
            "name: x\nkind: snapshot\n",
            "`f.yaml`:2:1: the field `list` is missing; fix: add `list:` to this entry",
        );
        check(
            "name: x\nkind: snapshot\nlist: a\n",
            "`f.yaml`:3:7: expected sequence start; fix: write the value in the expected form",
        );
    }
}
