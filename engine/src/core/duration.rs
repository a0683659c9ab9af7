//! Lengths of time as people write them: `90s`, `5m`, `4h`, `30d`, `1h30m`, `250ms`.

use std::fmt;

use chrono::TimeDelta;
use serde::{Deserialize, Serialize};

/// The longest length accepted: longer is a typing mistake.
const DAYS_MAX: i64 = 3_660;

/// A length of time in milliseconds, never negative. A day is 24 hours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(i64);

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a length of time; write for example `30s`, `5m`, `4h`, `30d` or `1h30m`")]
pub struct SpanError(String);

impl Span {
    #[must_use]
    pub const fn from_ms(ms: u32) -> Self {
        Self(ms as i64)
    }
    #[must_use]
    pub const fn from_s(seconds: u32) -> Self {
        Self(seconds as i64 * 1_000)
    }
    #[must_use]
    pub fn ms(self) -> i64 {
        self.0
    }
    #[must_use]
    pub fn delta(self) -> TimeDelta {
        TimeDelta::milliseconds(self.0)
    }
    #[must_use]
    pub fn std(self) -> std::time::Duration {
        std::time::Duration::from_millis(u64::try_from(self.0).unwrap_or(0))
    }

    /// # Errors
    /// When `text` is not a chain of numbers with units `ms`, `s`, `m`, `h`, `d`, or is longer than ten years.
    pub fn parse(text: &str) -> Result<Self, SpanError> {
        let error = || SpanError(text.to_owned());
        let mut rest = text.trim();
        if rest.is_empty() {
            return Err(error());
        }
        let mut total: i64 = 0;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(error)?;
            let (number, tail) = rest.split_at(digits);
            let unit_end = tail
                .find(|c: char| c.is_ascii_digit())
                .unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(unit_end);
            let factor: i64 = match unit {
                "ms" => 1,
                "s" => 1_000,
                "m" => 60_000,
                "h" => 3_600_000,
                "d" => 86_400_000,
                _ => return Err(error()),
            };
            let number: i64 = number.parse().map_err(|_| error())?;
            total = number
                .checked_mul(factor)
                .and_then(|ms| total.checked_add(ms))
                .ok_or_else(error)?;
            rest = tail;
        }
        if total > DAYS_MAX * 86_400_000 {
            return Err(error());
        }
        Ok(Self(total))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        if rest == 0 {
            return f.write_str("0s");
        }
        for (unit, factor) in [
            ("d", 86_400_000),
            ("h", 3_600_000),
            ("m", 60_000),
            ("s", 1_000),
            ("ms", 1),
        ] {
            if rest >= factor {
                write!(f, "{}{unit}", rest / factor)?;
                rest %= factor;
            }
        }
        Ok(())
    }
}

impl TryFrom<String> for Span {
    type Error = SpanError;
    fn try_from(text: String) -> Result<Self, SpanError> {
        Self::parse(&text)
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        span.to_string()
    }
}

impl schemars::JsonSchema for Span {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Span".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "A length of time: `30s`, `5m`, `4h`, `30d`, `1h30m`, `250ms`.",
            "pattern": "^([0-9]+(ms|s|m|h|d))+$"
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::expect_used, reason = "tests")]
    use super::*;

    #[test]
    fn lengths_are_read_and_written_back() {
        for (text, ms) in [
            ("90s", 90_000),
            ("1h30m", 5_400_000),
            ("30d", 2_592_000_000),
            ("250ms", 250),
            ("0s", 0),
        ] {
            let span = Span::parse(text).expect("a length");
            assert_eq!(span.ms(), ms, "{text}");
            assert_eq!(Span::parse(&span.to_string()), Ok(span));
        }
    }

    #[test]
    fn what_is_not_a_length_is_refused() {
        for text in [
            "",
            "5",
            "m",
            "5 m",
            "-5m",
            "5y",
            "99999d",
            "99999999999999999999s",
            "5m5",
        ] {
            assert!(Span::parse(text).is_err(), "{text}");
        }
    }
}
