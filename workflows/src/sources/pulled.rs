//! What comes out of an HTTP API, as rows that a source's `columns` can name: objects within objects become `outer.inner`,
//! dates of OData become days, and of several rows of a person the one that holds today is taken.

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveDate};
use serde_json::{Map, Value, json};

use super::pull::EffectiveConfig;

/// How deep objects may lie in each other; what lies deeper is left out.
const DEPTH_MAX: usize = 6;
/// The most items of a list of objects that get names.
const ITEMS_MAX: usize = 20;

/// One row without objects in it.
#[must_use]
pub fn flat(row: &Map<String, Value>) -> Map<String, Value> {
    let mut flat = Map::new();
    for (name, value) in row {
        put(&mut flat, name.clone(), value, DEPTH_MAX);
    }
    flat
}

fn put(flat: &mut Map<String, Value>, name: String, value: &Value, depth: usize) {
    match value {
        // What OData says about a row, not in it.
        _ if name == "__metadata"
            || name.ends_with(".__metadata")
            || name.ends_with("__deferred") => {}
        Value::Object(members) => {
            if depth == 0 {
                return;
            }
            // A list of OData stands in an object of its own.
            if let (Some(results), 1) = (members.get("results"), members.len()) {
                return put(flat, name, results, depth - 1);
            }
            for (inner, value) in members {
                put(flat, format!("{name}.{inner}"), value, depth - 1);
            }
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            if depth == 0 {
                return;
            }
            for (place, item) in items.iter().take(ITEMS_MAX).enumerate() {
                put(flat, format!("{name}.{place}"), item, depth - 1);
            }
        }
        Value::String(text) => {
            let value = odata_time(text).unwrap_or_else(|| value.clone());
            flat.insert(name, value);
        }
        value => {
            flat.insert(name, value.clone());
        }
    }
}

/// `/Date(1262304000000)/` as a day, or as a moment when it is not the beginning of one.
fn odata_time(text: &str) -> Option<Value> {
    let inner = text.strip_prefix("/Date(")?.strip_suffix(")/")?;
    // An offset behind it says where the clock stood, not another moment.
    let end = inner
        .char_indices()
        .skip(1)
        .find(|(_, c)| matches!(c, '+' | '-'));
    let digits = inner.get(..end.map_or(inner.len(), |(at, _)| at))?;
    let at = DateTime::from_timestamp_millis(digits.parse().ok()?)?;
    Some(if at.time() == chrono::NaiveTime::MIN {
        json!(at.date_naive().to_string())
    } else {
        json!(at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true))
    })
}

/// Of the rows of each person, the one that holds on `today`; of somebody who has not begun, the first one to come.
///
/// # Errors
/// When a row does not say whose it is, or from when it holds.
pub fn holding(
    rows: Vec<Map<String, Value>>,
    effective: &EffectiveConfig,
    today: NaiveDate,
) -> Result<Vec<Map<String, Value>>, String> {
    // By person: whether it has begun, then the day and the number on it.
    type Place = (bool, NaiveDate, i64);
    let mut held: BTreeMap<String, (Place, Map<String, Value>)> = BTreeMap::new();
    for (number, row) in rows.into_iter().enumerate() {
        let person = row
            .get(&effective.person)
            .and_then(text_of)
            .ok_or_else(|| format!("row {number} has no `{}`", effective.person))?;
        let from = row
            .get(&effective.from)
            .and_then(Value::as_str)
            .and_then(|text| text.get(..10)?.parse::<NaiveDate>().ok())
            .ok_or_else(|| format!("row {number} has no day in `{}`", effective.from))?;
        let sequence = row
            .get(&effective.sequence)
            .and_then(number_of)
            .unwrap_or(0);
        let place: Place = (from <= today, from, sequence);
        let better = match held.get(&person) {
            None => true,
            // Of what has begun the latest, of what has not the soonest; what has begun goes before.
            Some(((begun, day, on_day), _)) => match (place.0, *begun) {
                (true, true) => (from, sequence) >= (*day, *on_day),
                (false, false) => (from, -sequence) < (*day, -*on_day),
                (new, _) => new,
            },
        };
        if better {
            held.insert(person, (place, row));
        }
    }
    Ok(held.into_values().map(|(_, row)| row).collect())
}

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn number_of(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.parse().ok())
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        clippy::panic,
        reason = "tests"
    )]
    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(members) => members,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn objects_become_paths_and_dates_days() {
        let row = object(json!({
            "userId": "1",
            "__metadata": { "uri": "x" },
            "startDate": "/Date(1262304000000)/",
            "lastModifiedDateTime": "/Date(1262307661000+0100)/",
            "userNav": { "__metadata": {}, "email": "a@b", "manager": { "__deferred": { "uri": "y" } } },
            "phones": { "results": [{ "n": "1" }, { "n": "2" }] },
            "tags": ["a", "b"],
            "before": "/Date(-86400000)/",
            "none": null,
        }));
        assert_eq!(
            Value::Object(flat(&row)),
            json!({
                "userId": "1",
                "startDate": "2010-01-01",
                "lastModifiedDateTime": "2010-01-01T01:01:01.000Z",
                "userNav.email": "a@b",
                "phones.0.n": "1",
                "phones.1.n": "2",
                "tags": ["a", "b"],
                "before": "1969-12-31",
                "none": null,
            })
        );
    }

    #[test]
    fn the_row_that_holds_today_is_taken() {
        let row = |person: &str, from: &str, sequence: u32, title: &str| {
            object(
                json!({ "userId": person, "startDate": from, "seqNumber": sequence, "title": title }),
            )
        };
        let rows = vec![
            row("1", "2026-01-01", 1, "past"),
            row("1", "2026-03-01", 2, "second on its day"),
            row("1", "2026-03-01", 1, "first on its day"),
            row("1", "2026-04-01", 1, "to come"),
            row("2", "2026-06-01", 1, "later"),
            row("2", "2026-05-01", 1, "soonest"),
        ];
        let titles = |today: &str| -> Vec<String> {
            let held = holding(
                rows.clone(),
                &EffectiveConfig::default(),
                today.parse().unwrap(),
            );
            let held = held.unwrap();
            held.iter()
                .map(|row| row["title"].as_str().unwrap().to_owned())
                .collect()
        };
        assert_eq!(titles("2026-03-15"), ["second on its day", "soonest"]);
        assert_eq!(titles("2026-04-01"), ["to come", "soonest"]);
        let nobody = holding(
            vec![object(json!({ "startDate": "2026-01-01" }))],
            &EffectiveConfig::default(),
            "2026-01-01".parse().unwrap(),
        );
        assert_eq!(nobody.unwrap_err(), "row 0 has no `userId`");
    }
}
