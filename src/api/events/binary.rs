//! Binary mode: the attributes of the event in `ce-*` headers, its data as the body.

use axum::http::{HeaderMap, header};
use serde_json::{Map, Value};

use super::{CloudEvent, EventData};
use crate::api::input;
use crate::api::problem::{ApiError, Mistake};

/// What headers with attributes begin with.
const PREFIX: &str = "ce-";

/// Whether any header tells an attribute.
pub(super) fn is_meant(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| name.as_str().starts_with(PREFIX))
}

/// The event as in structured mode, so that the same is checked.
///
/// # Errors
/// [`ApiError::Invalid`] for an attribute that is missing, sent twice or not text; for the body as in
/// [`input::json_error`].
pub(super) fn read(headers: &HeaderMap, body: &[u8]) -> Result<CloudEvent, ApiError> {
    let mut mistakes = Vec::new();
    let mut attributes = Map::new();
    for name in headers.keys() {
        let Some(attribute) = name.as_str().strip_prefix(PREFIX) else {
            continue;
        };
        match attribute_of(headers, attribute, name.as_str()) {
            Ok(text) => {
                attributes.insert(attribute.to_owned(), Value::String(text));
            }
            Err(what) => mistakes.push(Mistake::new(format!("/{attribute}"), what)),
        }
    }
    if !mistakes.is_empty() {
        return Err(ApiError::mistakes(mistakes));
    }
    let mut required = |name: &str| match attributes.remove(name) {
        Some(Value::String(text)) => text,
        _ => {
            let what = format!("is missing; send it as the header `{PREFIX}{name}`");
            mistakes.push(Mistake::new(format!("/{name}"), what));
            String::new()
        }
    };
    let (specversion, id) = (required("specversion"), required("id"));
    let (source, event_type) = (required("source"), required("type"));
    let (subject, time) = (required("subject"), required("time"));
    if !mistakes.is_empty() {
        return Err(ApiError::mistakes(mistakes));
    }
    attributes.remove("dataschema");
    // Data in another form is refused with the other checks.
    let json = matches!(input::media_type(headers).as_str(), "application/json" | "");
    let data = if json && !body.is_empty() {
        serde_json::from_slice(body).map_err(|error| input::json_error(&error))?
    } else {
        EventData::default()
    };
    let media = headers.get(header::CONTENT_TYPE);
    Ok(CloudEvent {
        specversion,
        id,
        source,
        event_type,
        subject,
        time,
        datacontenttype: media.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()),
        dataschema: None,
        data,
        extensions: attributes,
    })
}

/// The text of one attribute, or what is wrong with it.
fn attribute_of(headers: &HeaderMap, attribute: &str, name: &str) -> Result<String, String> {
    match attribute {
        "datacontenttype" => {
            return Err("in binary mode this is the header `Content-Type`".to_owned());
        }
        "data" => return Err("in binary mode data is the body".to_owned()),
        _ => {}
    }
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => decoded(value.as_bytes())
            .ok_or_else(|| format!("is not UTF-8 behind the `%` of the header `{name}`")),
        _ => Err(format!("is there twice; send the header `{name}` once")),
    }
}

/// What a header's value says: without quotes around it, `%XX` as the byte it stands for. `None` when that is not
/// UTF-8. A `%` that nothing of the kind follows stands for itself.
fn decoded(value: &[u8]) -> Option<String> {
    let quoted = value
        .strip_prefix(b"\"")
        .and_then(|value| value.strip_suffix(b"\""));
    let plain: Vec<u8> = match quoted {
        None => value.to_vec(),
        Some(inside) => {
            let mut escaped = false;
            let kept = inside.iter().filter(|byte| {
                escaped = !escaped && **byte == b'\\';
                !escaped
            });
            kept.copied().collect()
        }
    };
    let mut bytes = Vec::with_capacity(plain.len());
    let mut rest = plain.as_slice();
    while let Some((first, after)) = rest.split_first() {
        let octet = match after {
            [high, low, ..] if *first == b'%' => octet(*high, *low),
            _ => None,
        };
        bytes.push(octet.unwrap_or(*first));
        rest = after.get(if octet.is_some() { 2 } else { 0 }..)?;
    }
    String::from_utf8(bytes).ok()
}

fn octet(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_headers_are_decoded() {
        for (value, text) in [
            (&b"plain"[..], Some("plain")),
            (b"", Some("")),
            (b"Z%C3%BCrich%20West", Some("Zürich West")),
            (b"Z\xc3\xbcrich", Some("Zürich")),
            (b"100% sure %4", Some("100% sure %4")),
            (b"%zz%", Some("%zz%")),
            (b"\"a \\\"b\\\\ c\"", Some("a \"b\\ c")),
            (b"\"", Some("\"")),
            (b"%00", Some("\0")),
            (b"%ff", None),
            (b"\xff", None),
        ] {
            assert_eq!(decoded(value).as_deref(), text, "{value:?}");
        }
    }
}
