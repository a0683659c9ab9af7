//! The bytes of a file, one at a time, with everything that can be said about bytes: where we are, whether
//! they are UTF-8, their hash, and what kind of file this really is.

use std::io::Read;

use sha2::{Digest, Sha256};

use super::row::Limits;
use crate::policy::hex;
use crate::policy::problem::{Problem, Problems};

/// How much is read from the file at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// Reading cannot go on; the reason is among the problems.
#[derive(Debug)]
pub(super) struct GaveUp;

/// A position: line from one, column in bytes from one.
pub(super) type Position = (u64, u64);

pub(super) struct Input<'a, R> {
    reader: R,
    file: &'a str,
    limits: Limits,
    pub problems: Problems,
    chunk: Vec<u8>,
    next: usize,
    hash: Sha256,
    bytes_read: u64,
    line: u64,
    column: u64,
    last: u8,
    utf8: Utf8,
    /// The last line on which a byte was complained of; one complaint a line is enough.
    complained: u64,
}

impl<'a, R: Read> Input<'a, R> {
    /// Reads the beginning, takes off a byte order mark, and refuses what is plainly something else.
    pub fn open(reader: R, file: &'a str, limits: Limits) -> Result<Self, Problems> {
        let mut input = Self {
            reader,
            file,
            limits,
            problems: Problems::default(),
            chunk: Vec::new(),
            next: 0,
            hash: Sha256::new(),
            bytes_read: 0,
            line: 1,
            column: 0,
            last: 0,
            utf8: Utf8::default(),
            complained: 0,
        };
        if input.fill().is_err() {
            return Err(input.problems);
        }
        let (message, fix) = match input.chunk.as_slice() {
            [] => ("the file is empty", "deliver the whole file again"),
            [0xEF, 0xBB, 0xBF, ..] => {
                input.next = 3;
                return Ok(input);
            }
            [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..] => ("the file is UTF-16", "export it as UTF-8"),
            [b'P', b'K', 3, 4, ..] => (
                "the file is a ZIP archive or an Excel workbook",
                "export it as CSV in UTF-8",
            ),
            [0x1F, 0x8B, ..] => ("the file is compressed with gzip", "unpack it first"),
            _ => return Ok(input),
        };
        Err(Problem::new(file, None, message, fix).into())
    }

    /// The next byte; nothing at the end.
    pub fn next(&mut self) -> Result<Option<u8>, GaveUp> {
        if self.next >= self.chunk.len() {
            self.fill()?;
        }
        let Some(byte) = self.chunk.get(self.next).copied() else {
            if self.utf8.inside() {
                self.utf8 = Utf8::default();
                self.complain_of_bytes(
                    "the file ends inside a character",
                    "deliver the whole file again",
                );
            }
            return Ok(None);
        };
        self.next += 1;
        if self.last == b'\n' || (self.last == b'\r' && byte != b'\n') {
            self.line += 1;
            self.column = 0;
        }
        self.column += 1;
        self.last = byte;
        if byte == 0 {
            self.complain_of_bytes(
                "a NUL byte",
                "the file is damaged or not text; export it as UTF-8 text",
            );
        } else if !self.utf8.take(byte) {
            self.complain_of_bytes(
                &format!("byte 0x{byte:02X} is not valid UTF-8 here"),
                "export the file as UTF-8; it is likely in Latin-1 or Windows-1252",
            );
        }
        Ok(Some(byte))
    }

    /// Where the byte is that was read last.
    pub fn position(&self) -> Position {
        (self.line, self.column.max(1))
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Notes a problem; [`GaveUp`] when no more can be told.
    pub fn complain(
        &mut self,
        at: Option<Position>,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) -> Result<(), GaveUp> {
        self.problems
            .push(Problem::new(self.file, at, message, fix));
        if self.problems.is_full() {
            Err(GaveUp)
        } else {
            Ok(())
        }
    }

    /// Notes a problem that concerns a whole row; [`GaveUp`] when no more can be told.
    pub fn problem_on_line(
        &mut self,
        line: u64,
        message: String,
        fix: String,
    ) -> Result<(), GaveUp> {
        self.problems
            .push(Problem::on_line(self.file, line, message, fix));
        if self.problems.is_full() {
            Err(GaveUp)
        } else {
            Ok(())
        }
    }

    /// Notes a problem after which nothing can be understood.
    pub fn give_up(
        &mut self,
        at: Option<Position>,
        message: impl Into<String>,
        fix: impl Into<String>,
    ) -> GaveUp {
        self.problems
            .push(Problem::new(self.file, at, message, fix));
        GaveUp
    }

    /// The hash of the whole file and what is wrong with it, once the end was reached.
    pub fn finish(self) -> (String, Problems) {
        (hex(&self.hash.finalize()), self.problems)
    }

    fn complain_of_bytes(&mut self, message: &str, fix: &str) {
        if self.complained != self.line {
            self.complained = self.line;
            let at = Some(self.position());
            self.problems
                .push(Problem::new(self.file, at, message, fix));
        }
    }

    fn fill(&mut self) -> Result<(), GaveUp> {
        if self.problems.is_full() {
            return Err(GaveUp);
        }
        self.chunk.resize(CHUNK_BYTES, 0);
        self.next = 0;
        let read = loop {
            match self.reader.read(&mut self.chunk) {
                Ok(read) => break read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.chunk.clear();
                    return Err(self.give_up(
                        None,
                        format!("the file cannot be read: {error}"),
                        "see that the file is there and may be read",
                    ));
                }
            }
        };
        self.chunk.truncate(read);
        self.hash.update(&self.chunk);
        self.bytes_read += read as u64;
        if self.bytes_read > self.limits.file_bytes_max {
            let max = self.limits.file_bytes_max;
            return Err(self.give_up(
                None,
                format!("the file is longer than {max} bytes"),
                "split the feed into several sources",
            ));
        }
        Ok(())
    }
}

/// Follows UTF-8 byte by byte, as the table of RFC 3629 has it.
#[derive(Debug, Default)]
struct Utf8 {
    /// How many bytes of the character are still to come.
    left: u8,
    /// What the next of them may be.
    low: u8,
    high: u8,
}

impl Utf8 {
    fn inside(&self) -> bool {
        self.left > 0
    }

    /// Whether `byte` may stand here. After a wrong one the next begins a new character.
    fn take(&mut self, byte: u8) -> bool {
        if self.left > 0 {
            if (self.low..=self.high).contains(&byte) {
                self.left -= 1;
                (self.low, self.high) = (0x80, 0xBF);
                return true;
            }
            *self = Self::default();
            return false;
        }
        let (left, low, high) = match byte {
            0x00..=0x7F => return true,
            0xC2..=0xDF => (1, 0x80, 0xBF),
            0xE0 => (2, 0xA0, 0xBF),
            0xED => (2, 0x80, 0x9F),
            0xE1..=0xEF => (2, 0x80, 0xBF),
            0xF0 => (3, 0x90, 0xBF),
            0xF1..=0xF3 => (3, 0x80, 0xBF),
            0xF4 => (3, 0x80, 0x8F),
            _ => return false,
        };
        *self = Self { left, low, high };
        true
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
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The standard library judges the same.
        #[test]
        fn utf8_is_judged_as_the_standard_library_does(bytes in prop_oneof![
            any::<Vec<u8>>(),
            any::<String>().prop_map(String::into_bytes),
            prop::collection::vec(prop::sample::select(vec![
                0x41, 0x7F, 0x80, 0xBF, 0xC0, 0xC2, 0xDF, 0xE0, 0x9F, 0xA0, 0xED, 0xEF, 0xF0, 0x8F, 0x90, 0xF4, 0xF5,
            ]), 0..6),
        ]) {
            let mut utf8 = Utf8::default();
            let wrong = bytes.iter().position(|byte| !utf8.take(*byte));
            let valid = wrong.is_none() && !utf8.inside();
            prop_assert_eq!(valid, std::str::from_utf8(&bytes).is_ok());
        }
    }
}
