//! What must hold for every file and every pair of states.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::Value;

use super::*;

/// Keeps the state that somebody has who sees the events and nothing else.
fn apply(mut people: BTreeMap<Key, Value>, difference: &Difference) -> BTreeMap<Key, Value> {
    for change in &difference.changes {
        let event = &change.event;
        match event.event_type {
            EventType::TerminationEffective | EventType::HireRescinded => {
                people.remove(&event.subject);
            }
            _ => {
                people.insert(event.subject.clone(), event.data["attributes"].clone());
            }
        }
    }
    people
}

fn state(records: &Records, day: &str) -> BTreeMap<Key, Value> {
    records
        .values()
        .filter(|record| !record.has_ended(day.parse().unwrap()))
        .map(|record| {
            (
                record.key.clone(),
                serde_json::to_value(&record.attributes).unwrap(),
            )
        })
        .collect()
}

prop_compose! {
    fn person(id: u8)(
        name in "[AB]",
        dept in prop::sample::select(vec!["", "Eng", "Law"]),
        kind in prop::sample::select(vec!["", "C"]),
        boss in prop::sample::select(vec!["", "A", "B", "Z"]),
        projects in prop::sample::select(vec!["", "P1", "P2;P1"]),
        from in prop::sample::select(vec!["", "2023-01-01", "2024-03-05"]),
        until in prop::sample::select(vec!["", "2024-02-05", "2024-04-01"]),
        status in prop::sample::select(vec!["", "away", "gone"]),
    ) -> String {
        format!("{id},{name},{dept},,,,,{kind},{boss},{projects},{from},{until},{status}")
    }
}

fn company() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(any::<bool>(), 6).prop_flat_map(|there| {
        let people: Vec<_> = there
            .iter()
            .enumerate()
            .filter(|(_, there)| **there)
            .map(|(id, _)| person(u8::try_from(id).unwrap()))
            .collect();
        people
    })
}

proptest! {
    /// The events tell everything: who follows them has the state of the snapshot.
    #[test]
    fn events_carry_the_whole_difference(before in company(), after in company()) {
        prop_assume!(!before.is_empty() && !after.is_empty());
        let source = hr();
        let rows = |people: &[String]| -> Vec<String> { people.to_vec() };
        let (before, after) = (rows(&before), rows(&after));
        let before = snapshot(&source, "2024-02-29", &before.iter().map(String::as_str).collect::<Vec<_>>());
        let after = snapshot(&source, "2024-03-01", &after.iter().map(String::as_str).collect::<Vec<_>>());
        let difference = changes(&source, &before, &after);
        prop_assert_eq!(
            apply(state(&before.records, "2024-03-01"), &difference),
            state(&after.records, "2024-03-01")
        );
        // And nothing is left to tell.
        prop_assert!(changes(&source, &after, &after).changes.is_empty());
    }

    /// Any bytes give a state or problems, in any format.
    #[test]
    fn no_file_makes_it_panic(bytes in prop_oneof![
        any::<Vec<u8>>(),
        r#"(id|name|"|,|\n|\r|;|1|x|é|\{|\}|\[|\]|:|\\| ){0,60}"#.prop_map(String::into_bytes),
    ]) {
        for format in ["csv", "json", "jsonl"] {
            let text = format!(
                "name: s\nkind: snapshot\nformat: {format}\nkey: id\ntime_zone: UTC\ncolumns: {{ name: name }}\n"
            );
            let source = Source::load("s", &text).unwrap();
            let _ = read_snapshot(&source, bytes.as_slice(), &SnapshotInput {
                file: "f",
                as_of: Some("2024-01-31".parse().unwrap()),
                ..SnapshotInput::default()
            });
        }
    }

    /// The well-known reader understands every well-formed file the same.
    #[test]
    fn csv_is_read_as_others_read_it(
        rows in prop::collection::vec(
            ("[a-z0-9]{1,8}", r#"[a-zé "',;\n\r]{0,12}"#),
            1..8,
        ),
        quote_all in any::<bool>(),
        crlf in any::<bool>(),
    ) {
        let style = if quote_all { ::csv::QuoteStyle::Always } else { ::csv::QuoteStyle::Necessary };
        let end = if crlf { ::csv::Terminator::CRLF } else { ::csv::Terminator::Any(b'\n') };
        let mut writer = ::csv::WriterBuilder::new().quote_style(style).terminator(end).from_writer(Vec::new());
        writer.write_record(["id", "name"]).unwrap();
        for (place, (key, name)) in rows.iter().enumerate() {
            writer.write_record([format!("{place}{key}"), name.clone()]).unwrap();
        }
        let bytes = writer.into_inner().unwrap();
        let theirs: BTreeMap<String, String> = ::csv::Reader::from_reader(bytes.as_slice())
            .records()
            .map(|record| record.unwrap())
            .map(|record| (record[0].to_owned(), record[1].trim().to_owned()))
            .collect();
        let source = Source::load(
            "s",
            "name: s\nkind: snapshot\nformat: csv\nkey: id\ntime_zone: UTC\ncolumns: { name: name }\n",
        ).unwrap();
        let snapshot = read_snapshot(&source, bytes.as_slice(), &SnapshotInput {
            file: "f",
            as_of: Some("2024-01-31".parse().unwrap()),
            ..SnapshotInput::default()
        }).unwrap();
        let ours: BTreeMap<String, String> = snapshot
            .records
            .values()
            .map(|record| (record.key.to_string(), record.text("name").unwrap_or_default().to_owned()))
            .collect();
        prop_assert_eq!(ours, theirs);
    }
}
