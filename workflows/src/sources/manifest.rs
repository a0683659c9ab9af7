//! The note that a feed puts beside its file: how many rows, which bytes, which day, and whether it is all.

use chrono::{DateTime, NaiveDate, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::policy::problem::Problem;

/// The longest manifest that is read.
pub const MANIFEST_BYTES_MAX: usize = 64 * 1024;

/// `<file>.manifest.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// How many people the file holds, the header not counted.
    #[serde(default)]
    pub rows: Option<u64>,
    /// Of the file's bytes, in hex.
    #[serde(default)]
    pub sha256: Option<String>,
    /// A day (`2010-02-01`) or an instant (`2010-02-01T03:00:00Z`).
    #[serde(default)]
    pub as_of: Option<Stated>,
    /// The file holds everybody.
    #[serde(default)]
    pub complete: Option<bool>,
}

/// When something was so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Stated {
    Moment(DateTime<Utc>),
    Day(NaiveDate),
}

impl Manifest {
    /// Reads a manifest. `file` is its own name.
    ///
    /// # Errors
    /// When it is no manifest.
    pub fn parse(file: &str, bytes: &[u8]) -> Result<Self, Problem> {
        let fix = "write `{\"rows\": 2000, \"sha256\": \"...\", \"as_of\": \"2010-02-01\", \"complete\": true}`; \
                   each may be left out";
        if bytes.len() > MANIFEST_BYTES_MAX {
            return Err(Problem::new(
                file,
                None,
                format!("the manifest is longer than {MANIFEST_BYTES_MAX} bytes"),
                fix,
            ));
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(|error| {
            let at = (error.line() as u64, error.column() as u64);
            Problem::new(
                file,
                Some(at),
                format!("not a manifest: {}", without_place(&error)),
                fix,
            )
        })?;
        if let Some(hash) = &manifest.sha256
            && (hash.len() != 64 || !hash.bytes().all(|byte| byte.is_ascii_hexdigit()))
        {
            return Err(Problem::new(
                file,
                None,
                "`sha256` is not 64 hexadecimal digits",
                "write what `sha256sum` prints for the file",
            ));
        }
        Ok(manifest)
    }
}

/// Where the manifest of `file` lies.
#[must_use]
pub fn manifest_name(file: &str) -> String {
    format!("{file}.manifest.json")
}

/// What serde_json says, without the place it appends.
pub(super) fn without_place(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(end) => text.get(..end).unwrap_or(&text).to_owned(),
        None => text,
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
    fn days_and_instants_are_read() {
        let manifest = Manifest::parse(
            "m",
            br#"{"rows": 3, "as_of": "2010-02-01", "complete": true}"#,
        )
        .unwrap();
        assert_eq!(
            manifest.as_of,
            Some(Stated::Day("2010-02-01".parse().unwrap()))
        );
        assert_eq!(manifest.complete, Some(true));
        let manifest = Manifest::parse("m", br#"{"as_of": "2010-02-01T03:00:00+01:00"}"#).unwrap();
        assert_eq!(
            manifest.as_of,
            Some(Stated::Moment("2010-02-01T02:00:00Z".parse().unwrap()))
        );
    }

    #[test]
    fn mistakes_are_told() {
        let check = |text: &str, expected: &str| {
            let problem = Manifest::parse("f.csv.manifest.json", text.as_bytes()).unwrap_err();
            assert!(problem.to_string().starts_with(expected), "{problem}");
        };
        check(
            "{\"row\": 3}",
            "`f.csv.manifest.json`:1:6: not a manifest: unknown field `row`, expected one of `rows`",
        );
        check(
            "{",
            "`f.csv.manifest.json`:1:1: not a manifest: EOF while parsing an object",
        );
        check(
            "{\"sha256\": \"abc\"}",
            "`f.csv.manifest.json`: `sha256` is not 64 hexadecimal digits",
        );
    }
}
