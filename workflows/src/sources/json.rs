//! JSON: an array of objects, or one object a line. Read object by object, so that memory holds one of them
//! whatever the size of the file.

use std::fmt;
use std::io::Read;

use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::csv::Tail;
use super::input::{GaveUp, Input, Position};
use super::manifest::without_place;
use super::row::Row;

/// An object whose names are all different. `serde_json` would keep the last of two values silently.
struct UniqueMap(Map<String, Value>);

impl<'de> Deserialize<'de> for UniqueMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = UniqueMap;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with one member a column")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<UniqueMap, A::Error> {
                let mut members = Map::new();
                while let Some((name, value)) = access.next_entry::<String, Value>()? {
                    if members.contains_key(&name) {
                        return Err(de::Error::custom(format!(
                            "the member `{name}` is there twice"
                        )));
                    }
                    members.insert(name, value);
                }
                Ok(UniqueMap(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// Reads JSON lines.
pub(super) fn read_lines<R: Read>(
    input: &mut Input<'_, R>,
    mut each: impl FnMut(&mut Input<'_, R>, u64, &Row<'_>) -> Result<(), GaveUp>,
) -> Result<Tail, GaveUp> {
    let mut tail = Tail {
        rows: 0,
        terminated: true,
        last_line: 1,
    };
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut start: Position = (0, 0);
        let mut terminated = false;
        while let Some(byte) = input.next()? {
            if byte == b'\n' {
                terminated = true;
                break;
            }
            if line.is_empty() {
                start = input.position();
            }
            push(input, &mut line, byte, start)?;
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            if terminated {
                continue;
            }
            return Ok(tail);
        }
        tail = Tail {
            rows: tail.rows + 1,
            terminated,
            last_line: start.0,
        };
        row(input, &line, start, tail.rows, &mut each)?;
        if !terminated {
            return Ok(tail);
        }
    }
}

/// Reads one array of objects. Its closing bracket proves that the file is whole.
pub(super) fn read_array<R: Read>(
    input: &mut Input<'_, R>,
    mut each: impl FnMut(&mut Input<'_, R>, u64, &Row<'_>) -> Result<(), GaveUp>,
) -> Result<Tail, GaveUp> {
    match visible(input)? {
        Some(b'[') => {}
        _ => {
            let at = Some(input.position());
            return Err(input.give_up(
                at,
                "the file does not begin with `[`",
                "deliver one array of objects, or set `format: jsonl` for one object a line",
            ));
        }
    }
    let mut rows = 0;
    let mut element = Vec::new();
    let mut byte = visible(input)?;
    if byte != Some(b']') {
        loop {
            let start = input.position();
            let end = read_element(input, byte, &mut element)?;
            rows += 1;
            row(input, &element, start, rows, &mut each)?;
            if end == b']' {
                break;
            }
            byte = visible(input)?;
        }
    }
    let last_line = input.position().0;
    if visible(input)?.is_some() {
        let at = Some(input.position());
        return Err(input.give_up(
            at,
            "something follows the array",
            "deliver exactly one array",
        ));
    }
    Ok(Tail {
        rows,
        terminated: true,
        last_line,
    })
}

/// Collects one element up to the `,` or `]` behind it, which is returned. It need not be valid JSON: only
/// brackets and texts matter for finding its end.
fn read_element<R: Read>(
    input: &mut Input<'_, R>,
    first: Option<u8>,
    element: &mut Vec<u8>,
) -> Result<u8, GaveUp> {
    element.clear();
    let start = input.position();
    let (mut depth, mut in_text, mut escaped) = (0_u64, false, false);
    let mut next = first;
    loop {
        let Some(byte) = next else {
            return Err(input.give_up(
                Some(start),
                "the file ends inside the array; the last object begins here",
                "the file was cut; deliver the whole file again",
            ));
        };
        if in_text {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_text = false,
                _ => {}
            }
        } else {
            match byte {
                b'"' => in_text = true,
                b'{' | b'[' => depth += 1,
                b',' | b']' if depth == 0 => return Ok(byte),
                b'}' | b']' => depth = depth.saturating_sub(1),
                _ => {}
            }
        }
        push(input, element, byte, start)?;
        next = input.next()?;
    }
}

fn push<R: Read>(
    input: &mut Input<'_, R>,
    bytes: &mut Vec<u8>,
    byte: u8,
    start: Position,
) -> Result<(), GaveUp> {
    let max = input.limits().record_bytes_max;
    if bytes.len() >= max {
        return Err(input.give_up(
            Some(start),
            format!(
                "the object that begins here is longer than {max} bytes; the rest was not read"
            ),
            "see that the file is the file you meant; for one array set `format: json`",
        ));
    }
    bytes.push(byte);
    Ok(())
}

fn row<R: Read>(
    input: &mut Input<'_, R>,
    bytes: &[u8],
    start: Position,
    rows: u64,
    each: &mut impl FnMut(&mut Input<'_, R>, u64, &Row<'_>) -> Result<(), GaveUp>,
) -> Result<(), GaveUp> {
    if rows > input.limits().rows_max {
        let max = input.limits().rows_max;
        return Err(input.give_up(
            Some(start),
            format!("the file has more than {max} rows"),
            "split the feed into several sources",
        ));
    }
    let members = match serde_json::from_slice::<UniqueMap>(bytes) {
        Ok(UniqueMap(members)) => members,
        Err(error) => {
            let line = start.0 + (error.line() as u64).saturating_sub(1);
            let column = if error.line() <= 1 {
                start.1 + (error.column() as u64).saturating_sub(1)
            } else {
                error.column() as u64
            };
            let fix = if error.is_eof() {
                "the file was cut, or a bracket or quote is missing"
            } else {
                "deliver one JSON object a person"
            };
            return input.complain(
                Some((line, column.max(1))),
                format!("not a JSON object: {}", without_place(&error)),
                fix,
            );
        }
    };
    if members.len() > input.limits().columns_max {
        let max = input.limits().columns_max;
        return input.complain(
            Some(start),
            format!("the object has more than {max} members"),
            "deliver only what the source needs",
        );
    }
    each(input, start.0, &Row::Json(&members))
}

/// The next byte that is not white space.
fn visible<R: Read>(input: &mut Input<'_, R>) -> Result<Option<u8>, GaveUp> {
    loop {
        match input.next()? {
            Some(b' ' | b'\t' | b'\r' | b'\n') => {}
            other => return Ok(other),
        }
    }
}
