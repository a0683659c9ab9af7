//! CSV (RFC 4180): quotes, quotes in quotes, line breaks in quotes, any of the three line ends.
//!
//! Our own reader, because the well-known one cannot refuse what a feed must never get away with: it reads a
//! record of any size into memory, takes a quote that is never closed for a field that ends with the file,
//! and does not say where in the file a field began. A property test holds this one against it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::Read;

use super::input::{GaveUp, Input, Position};
use super::row::{Header, Row};

/// One record: its fields in one buffer, and where it began.
#[derive(Debug, Default)]
pub(super) struct RawRecord {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    pub line: u64,
    /// A line end stood behind it, not the end of the file.
    pub terminated: bool,
}

impl RawRecord {
    fn fields(&self) -> Vec<Cow<'_, str>> {
        let mut start = 0;
        self.ends
            .iter()
            .map(|end| {
                let field = self.bytes.get(start..*end).unwrap_or_default();
                start = *end;
                // Bad bytes were complained of when they were read.
                String::from_utf8_lossy(field)
            })
            .collect()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    FieldStart,
    Plain,
    Quoted,
    /// Behind a quote inside a quoted field: the end of it, or half of a doubled quote.
    QuoteInQuoted,
}

/// Reads every row. `each` gets the rows in order and may complain, too.
pub(super) fn read<R: Read>(
    input: &mut Input<'_, R>,
    delimiter: u8,
    check_header: impl FnOnce(&mut Input<'_, R>, &Header) -> Result<(), GaveUp>,
    mut each: impl FnMut(&mut Input<'_, R>, u64, &Row<'_>) -> Result<(), GaveUp>,
) -> Result<Tail, GaveUp> {
    let mut skip_newline = false;
    let mut record = RawRecord::default();
    if !next(input, delimiter, &mut skip_newline, &mut record)? {
        return Err(input.give_up(
            None,
            "the file has no header",
            "deliver the whole file again",
        ));
    }
    let header = header(input, &record, delimiter)?;
    check_header(input, &header)?;
    let mut rows = 0;
    let mut tail = Tail {
        rows,
        terminated: record.terminated,
        last_line: record.line,
    };
    while next(input, delimiter, &mut skip_newline, &mut record)? {
        rows += 1;
        tail = Tail {
            rows,
            terminated: record.terminated,
            last_line: record.line,
        };
        if rows > input.limits().rows_max {
            let max = input.limits().rows_max;
            return Err(input.give_up(
                Some((record.line, 1)),
                format!("the file has more than {max} rows"),
                "split the feed into several sources",
            ));
        }
        let fields = record.fields();
        if fields.len() != header.names.len() {
            wrong_width(input, &record, fields.len(), header.names.len())?;
            continue;
        }
        let row = Row::Csv {
            header: &header,
            fields: &fields,
        };
        each(input, record.line, &row)?;
    }
    Ok(tail)
}

/// How the file ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tail {
    pub rows: u64,
    pub terminated: bool,
    pub last_line: u64,
}

fn wrong_width<R: Read>(
    input: &mut Input<'_, R>,
    record: &RawRecord,
    fields: usize,
    columns: usize,
) -> Result<(), GaveUp> {
    let message = format!("the row has {fields} fields, the header has {columns}");
    let fix = if fields < columns && !record.terminated {
        "the file was cut here; deliver the whole file again"
    } else if fields > columns {
        "put a field that holds the delimiter in double quotes"
    } else {
        "deliver every column in every row, if need be empty"
    };
    input.complain(Some((record.line, 1)), message, fix)
}

fn header<R: Read>(
    input: &mut Input<'_, R>,
    record: &RawRecord,
    delimiter: u8,
) -> Result<Header, GaveUp> {
    let names: Vec<String> = record
        .fields()
        .iter()
        .map(|name| name.trim().to_owned())
        .collect();
    if names.iter().all(String::is_empty) {
        return Err(input.give_up(
            Some((record.line, 1)),
            "the header has no names",
            "deliver the names of the columns in the first line",
        ));
    }
    if let [only] = names.as_slice()
        && let Some(other) = [b',', b';', b'\t', b'|']
            .into_iter()
            .find(|other| *other != delimiter && only.contains(char::from(*other)))
    {
        return Err(input.give_up(
            Some((record.line, 1)),
            format!("the header is one column, `{}`", shown(only)),
            format!(
                "the delimiter seems to be `{}`: set `delimiter` in the source",
                char::from(other).escape_default()
            ),
        ));
    }
    let mut seen: HashMap<&str, usize> = HashMap::new();
    let mut twice = Vec::new();
    for (place, name) in names.iter().enumerate() {
        if name.is_empty() {
            continue;
        }
        if let Some(first) = seen.insert(name, place) {
            twice.push(format!(
                "the column `{}` is there twice, as number {} and number {}",
                shown(name),
                first + 1,
                place + 1
            ));
        }
    }
    for message in twice {
        input.complain(
            Some((record.line, 1)),
            message,
            "rename or remove one of them",
        )?;
    }
    Ok(Header::new(names))
}

/// A name from a file, short enough for a message.
pub(super) fn shown(text: &str) -> String {
    /// In characters.
    const SHOWN_MAX: usize = 80;
    let mut short: String = text.chars().take(SHOWN_MAX).collect();
    if short.len() < text.len() {
        short.push_str("...");
    }
    short
}

/// Reads the next record that is not an empty line. `false` at the end of the file.
fn next<R: Read>(
    input: &mut Input<'_, R>,
    delimiter: u8,
    skip_newline: &mut bool,
    record: &mut RawRecord,
) -> Result<bool, GaveUp> {
    record.bytes.clear();
    record.ends.clear();
    record.terminated = false;
    let mut state = State::FieldStart;
    let mut begun = false;
    let mut opened: Position = (0, 0);
    loop {
        let Some(byte) = input.next()? else {
            if state == State::Quoted {
                return Err(unclosed(input, opened));
            }
            if begun {
                end_field(input, record, opened)?;
            }
            return Ok(begun);
        };
        if std::mem::take(skip_newline) && byte == b'\n' && state == State::FieldStart && !begun {
            continue;
        }
        if !begun {
            if matches!(byte, b'\r' | b'\n') {
                continue;
            }
            begun = true;
            record.line = input.position().0;
        }
        if record.bytes.len() >= input.limits().record_bytes_max {
            return Err(too_long(input, record.line, state, opened));
        }
        state = match (state, byte) {
            (State::FieldStart, b'"') => {
                opened = input.position();
                State::Quoted
            }
            (State::Quoted, b'"') => State::QuoteInQuoted,
            (State::Quoted, byte) => {
                record.bytes.push(byte);
                State::Quoted
            }
            (State::QuoteInQuoted, b'"') => {
                record.bytes.push(b'"');
                State::Quoted
            }
            (State::FieldStart | State::Plain | State::QuoteInQuoted, b'\r' | b'\n') => {
                end_field(input, record, opened)?;
                record.terminated = true;
                *skip_newline = byte == b'\r';
                return Ok(true);
            }
            (State::FieldStart | State::Plain | State::QuoteInQuoted, byte)
                if byte == delimiter =>
            {
                end_field(input, record, opened)?;
                State::FieldStart
            }
            (State::QuoteInQuoted, byte) => {
                let at = Some(input.position());
                input.complain(
                    at,
                    "text follows a closing quote",
                    "write a quote inside a quoted field twice",
                )?;
                record.bytes.push(byte);
                State::Plain
            }
            (State::FieldStart | State::Plain, byte) => {
                record.bytes.push(byte);
                State::Plain
            }
        };
    }
}

fn end_field<R: Read>(
    input: &mut Input<'_, R>,
    record: &mut RawRecord,
    opened: Position,
) -> Result<(), GaveUp> {
    let start = record.ends.last().copied().unwrap_or(0);
    let length = record.bytes.len() - start;
    let max = input.limits().field_bytes_max;
    if length > max {
        let at = if opened.0 >= record.line {
            opened
        } else {
            (record.line, 1)
        };
        input.complain(
            Some(at),
            format!(
                "field {} is {length} bytes long, more than the {max} that are read",
                record.ends.len() + 1
            ),
            "see whether a quote is missing; shorten the value",
        )?;
    }
    if record.ends.len() >= input.limits().columns_max {
        let max = input.limits().columns_max;
        return Err(input.give_up(
            Some((record.line, 1)),
            format!("the row has more than {max} columns"),
            "deliver only the columns the source needs",
        ));
    }
    record.ends.push(record.bytes.len());
    Ok(())
}

fn unclosed<R: Read>(input: &mut Input<'_, R>, opened: Position) -> GaveUp {
    input.give_up(
        Some(opened),
        "the quote that opens here is never closed",
        "deliver the whole file again if it was cut; else close the quote, or double it inside a field",
    )
}

fn too_long<R: Read>(
    input: &mut Input<'_, R>,
    line: u64,
    state: State,
    opened: Position,
) -> GaveUp {
    let max = input.limits().record_bytes_max;
    if state == State::Quoted {
        return input.give_up(
            Some(opened),
            format!("the quote that opens here is not closed within {max} bytes"),
            "close it, or double it inside a field",
        );
    }
    input.give_up(
        Some((line, 1)),
        format!("the line is longer than {max} bytes; the rest was not read"),
        "see that the file has line ends and is the file you meant",
    )
}
