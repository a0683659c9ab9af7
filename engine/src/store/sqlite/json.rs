//! Rows as one JSON parameter: `[[1,"ab",null],...]`, read with `json_each`.
//!
//! One statement for a thousand rows instead of a thousand statements; written by hand into one string,
//! because a tree of values in between would cost more than the rest.

use std::fmt::Write;

use uuid::Uuid;

use crate::core::Timestamp;
use crate::store::rows::stored_time;

/// An array of rows while it is written.
pub(super) struct Rows {
    text: String,
}

/// One row while it is written.
pub(super) struct Columns<'r> {
    text: &'r mut String,
    first: bool,
}

impl Rows {
    /// The parameter for `rows`, each written by `write`. `width` is about what one takes, in bytes.
    pub(super) fn of<'r, R: 'r>(
        rows: impl ExactSizeIterator<Item = R>,
        width: usize,
        write: impl Fn(R, &mut Columns<'_>),
    ) -> String {
        let mut json = Self {
            text: String::with_capacity(2 + rows.len() * width),
        };
        json.text.push('[');
        for (index, row) in rows.enumerate() {
            if index > 0 {
                json.text.push(',');
            }
            json.text.push('[');
            write(
                row,
                &mut Columns {
                    text: &mut json.text,
                    first: true,
                },
            );
            json.text.push(']');
        }
        json.text.push(']');
        json.text
    }
}

impl Columns<'_> {
    fn next(&mut self) -> &mut String {
        if !self.first {
            self.text.push(',');
        }
        self.first = false;
        self.text
    }

    pub(super) fn number(&mut self, number: impl Into<i64>) -> &mut Self {
        let number: i64 = number.into();
        // Writing to a string cannot fail, here and below.
        let _ = write!(self.next(), "{number}");
        self
    }

    pub(super) fn flag(&mut self, flag: bool) -> &mut Self {
        self.number(i64::from(flag))
    }

    pub(super) fn time(&mut self, time: Timestamp) -> &mut Self {
        self.number(stored_time(time).timestamp_micros())
    }

    pub(super) fn maybe_time(&mut self, time: Option<Timestamp>) -> &mut Self {
        match time {
            Some(time) => self.time(time),
            None => self.null(),
        }
    }

    pub(super) fn null(&mut self) -> &mut Self {
        self.next().push_str("null");
        self
    }

    /// As hexadecimal digits, for `unhex`.
    pub(super) fn id(&mut self, id: Uuid) -> &mut Self {
        let mut digits = [0; uuid::fmt::Simple::LENGTH];
        let digits = id.simple().encode_lower(&mut digits);
        let text = self.next();
        text.push('"');
        text.push_str(digits);
        text.push('"');
        self
    }

    /// As hexadecimal digits, for `unhex`.
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        let text = self.next();
        text.push('"');
        for byte in bytes {
            let _ = write!(text, "{byte:02x}");
        }
        text.push('"');
        self
    }

    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        let json = self.next();
        json.push('"');
        let mut plain = 0;
        for (at, byte) in text.bytes().enumerate() {
            // Only ASCII is escaped, so every cut is between characters.
            if byte >= 0x20 && byte != b'"' && byte != b'\\' {
                continue;
            }
            json.push_str(text.get(plain..at).unwrap_or_default());
            plain = at + 1;
            match byte {
                b'"' => json.push_str("\\\""),
                b'\\' => json.push_str("\\\\"),
                control => {
                    let _ = write!(json, "\\u{control:04x}");
                }
            }
        }
        json.push_str(text.get(plain..).unwrap_or_default());
        json.push('"');
        self
    }

    pub(super) fn maybe_text(&mut self, text: Option<&str>) -> &mut Self {
        match text {
            Some(text) => self.text(text),
            None => self.null(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn what_is_written_reads_as_the_same_text() {
        let hostile = "a\"b\\c\nd\u{1}e\u{7f} \u{2028} \u{1f600} '; DROP TABLE x; --";
        let json = Rows::of([hostile, ""].into_iter(), 8, |text, columns| {
            columns
                .text(text)
                .number(-7)
                .flag(true)
                .null()
                .id(Uuid::nil())
                .bytes(&[0, 255]);
        });
        let read: serde_json::Value = serde_json::from_str(&json).unwrap();
        let nil = "0".repeat(32);
        assert_eq!(
            read,
            serde_json::json!([
                [hostile, -7, 1, null, nil, "00ff"],
                ["", -7, 1, null, nil, "00ff"]
            ])
        );
    }
}
