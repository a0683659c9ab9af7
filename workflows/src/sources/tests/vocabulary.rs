//! Every type of event: its data, its schema, its line in the documents.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::definitions;
use crate::intake::REGROUP;
use crate::sources::data::{self, EventData, mistakes};
use crate::sources::{EventType, Said, said};

const DOCUMENT: &str = include_str!("../../../../docs/events.md");

/// The cells of the lines that begin with a type.
fn rows() -> BTreeMap<&'static str, Vec<&'static str>> {
    let lines = DOCUMENT.lines().filter(|line| line.starts_with("| `"));
    lines
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            (cells[0].trim_matches('`'), cells)
        })
        .collect()
}

#[test]
fn the_document_says_what_is_so() {
    let definitions = definitions::load(&[]).unwrap();
    let rows = rows();
    assert_eq!(rows.len(), EventType::ALL.len());
    let quoted = |names: Vec<&str>| {
        let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
        names.join(", ")
    };
    for event_type in EventType::ALL {
        let name = event_type.as_str();
        let row = rows
            .get(name)
            .unwrap_or_else(|| panic!("no line for `{name}`"));
        assert_eq!(row[1], event_type.meaning(), "{name}");
        assert_eq!(row[2], quoted(event_type.own_fields()), "{name}");
        let starts = definitions
            .iter()
            .filter(|definition| definition.on.iter().any(|on| on == name));
        let mut starts = quoted(starts.map(|definition| definition.name.as_str()).collect());
        // Merges start their cases themselves, step by step.
        if matches!(
            event_type,
            EventType::IdentityMerged | EventType::IdentitySplit
        ) {
            starts = format!("`{REGROUP}`");
        }
        let begins = if starts.is_empty() {
            "no case"
        } else {
            &starts
        };
        assert!(
            row[3].starts_with(begins),
            "{name}: {} is not {begins}",
            row[3]
        );
    }
}

#[track_caller]
fn check(event_type: &str, data: Value, expected: &[&str]) {
    let data: EventData = serde_json::from_value(data).unwrap();
    let event_type = EventType::parse(event_type).unwrap();
    let found: Vec<String> = mistakes(event_type, &data)
        .into_iter()
        .map(|(at, what)| format!("{at}: {what}"))
        .collect();
    assert_eq!(found.len(), expected.len(), "{found:?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.contains(expected), "`{found}` has no `{expected}`");
    }
}

#[test]
fn what_belongs_to_a_type_is_kept_and_refused_of_others() {
    let values = [
        ("changes", json!({"site": {"to": "Bern"}})),
        ("contract", json!("C-1")),
        ("decision", json!("keep")),
        ("entitlement", json!("payments")),
        ("from", json!({"key": "a"})),
        ("last_day", json!("2026-03-31")),
        ("previous_last_day", json!("2026-03-31")),
        ("project", json!("apollo")),
        ("system", json!("ldap")),
        ("to", json!({"key": "a"})),
        ("until", json!("2026-12-31")),
    ];
    for event_type in EventType::ALL {
        for (name, value) in &values {
            let data: EventData = serde_json::from_value(json!({ *name: value })).unwrap();
            let foreign = format!("/{name}");
            let found = mistakes(*event_type, &data);
            let refused = found
                .iter()
                .any(|(at, what)| *at == foreign && what.contains("does not belong"));
            let belongs = event_type.own_fields().contains(name);
            assert_eq!(refused, !belongs, "{event_type}: {name}");
            assert_eq!(data.said().get(*name), Some(value), "{event_type}: {name}");
        }
    }
}

#[test]
fn whoever_begins_by_a_contract_is_a_contractor_unless_somebody_says_what_else() {
    let type_of = |event_type, attributes: Value| {
        let said = said(event_type, &json!({ "attributes": attributes }));
        let Said::All(all) = said else {
            panic!("{said:?}")
        };
        all.get("type").cloned()
    };
    let nothing = || json!({ "name": "Cy" });
    let guest = json!({ "name": "Cy", "type": "guest" });
    let contractor = Some(json!("contractor"));
    assert_eq!(type_of(EventType::ContractStart, nothing()), contractor);
    assert_eq!(
        type_of(EventType::ContractStart, guest),
        Some(json!("guest"))
    );
    assert_eq!(type_of(EventType::Hire, nothing()), None);
}

#[test]
fn data_that_belongs_to_another_type_or_says_nothing_is_told() {
    check("hire", json!({}), &[]);
    check(
        "hire",
        json!({"attributes": {"name": "Ada", "type": "guest", "key": 7}, "reason": "x"}),
        &[],
    );
    check(
        "hire",
        json!({"last_day": "2026-03-31"}),
        &[
            "/last_day: does not belong to `hire`; its data has `attributes`, `contract`, `effective_at`,",
        ],
    );
    check(
        "transfer",
        json!({}),
        &["`transfer` needs one of `changes`, `attributes`"],
    );
    check(
        "transfer",
        json!({"changes": {"site": {"to": "Bern"}, "grade": {"from": 1, "to": null}}}),
        &[],
    );
    for change in [
        json!(1),
        json!(null),
        json!({}),
        json!({"from": 1}),
        json!({"to": {}}),
        json!({"to": 1, "too": 2}),
        json!({"to": [[1]]}),
    ] {
        check(
            "transfer",
            json!({"changes": {"a/b~": change}}),
            &["/changes/a~1b~0: give `{\"from\""],
        );
    }
    check(
        "conversion",
        json!({"changes": {"type": {"to": "alien"}}}),
        &["/changes/type/to: is none of `employee`"],
    );
    check(
        "conversion",
        json!({"changes": {"key": {"to": "E2"}}}),
        &["/changes/key/to: cannot change"],
    );
    check(
        "transfer",
        json!({"changes": {"projects": {"to": "x"}, "manager": {"to": 7}, "employment_end": {"to": "2026-02-30"}, "employment_status": {"to": "gone"}}}),
        &[
            "/employment_end/to: is no day",
            "/employment_status/to: is none of `active`",
            "/manager/to: is no text",
            "/projects/to: is no list",
        ],
    );
    check(
        "hire",
        json!({"attributes": {"employment_start": "soon", "projects": ["a", 1]}}),
        &[
            "/attributes/employment_start: is no day",
            "/attributes/projects: is no list",
        ],
    );
    check(
        "manager.changed",
        json!({"from": {"key": "M1"}}),
        &["needs one of `to`, `attributes`"],
    );
    check(
        "manager.changed",
        json!({"to": {"key": null, "name": "Eve"}}),
        &[],
    );
    for party in [
        json!("M1"),
        json!(["M1"]),
        json!({"id": "M1"}),
        json!({"key": 7}),
    ] {
        check(
            "manager.changed",
            json!({"to": party}),
            &["/to: give `{\"key\""],
        );
    }
    check(
        "project.start",
        json!({}),
        &["/project: is missing; `project.start` needs it"],
    );
    check(
        "project.end",
        json!({"project": " "}),
        &["/project: is empty"],
    );
    check(
        "certification.decided",
        json!({"system": "ldap", "entitlement": " ", "decision": "perhaps"}),
        &[
            "/entitlement: is empty",
            "/decision: is neither `keep` nor `revoke`",
        ],
    );
    let decided = |decision: &str, until: &str| json!({"system": "ldap", "entitlement": "pay", "decision": decision, "until": until});
    for until in ["2026-12-31", "2026-12-31T18:00:00+01:00"] {
        check("certification.decided", decided("keep", until), &[]);
        check(
            "certification.decided",
            decided("revoke", until),
            &["/until: says how long a right is kept, and `decision` is `revoke`"],
        );
    }
    for until in ["", "soon", "2026-02-29", "2026-12-31T18:00:00"] {
        check(
            "certification.decided",
            decided("keep", until),
            &["/until: is neither a day nor a time; write one like `2026-12-31`"],
        );
    }
    check(
        "certification.decided",
        decided("ended", "2026-12-31"),
        &["/decision: is neither `keep` nor `revoke`"],
    );
    check(
        "certification.decided",
        json!({"system": "ldap", "entitlement": "payments"}),
        &["/decision: is missing; `certification.decided` needs it"],
    );
    check(
        "termination.scheduled",
        json!({"reason": "x"}),
        &["needs one of `effective_at`, `last_day`"],
    );
    check(
        "contract.expired",
        json!({"last_day": "2026-02-29"}),
        &["/last_day: is no day"],
    );
    check(
        "termination.corrected",
        json!({"last_day": "2026-03-31", "previous_last_day": "31.3."}),
        &["/previous_last_day: is no day"],
    );
    check(
        "termination.effective",
        json!({"last_day": "2026-03-31", "to": {}}),
        &["/to: does not belong"],
    );
    for event_type in EventType::ALL {
        let foreign = json!({"project": "x", "changes": {}, "from": {}, "last_day": "2026-01-01"});
        let data: EventData = serde_json::from_value(foreign).unwrap();
        assert!(!mistakes(*event_type, &data).is_empty(), "{event_type}");
    }
}

#[test]
fn every_type_has_a_schema_with_its_fields_and_no_others() {
    let all = data::schema();
    assert_eq!(all["oneOf"].as_array().unwrap().len(), EventType::ALL.len());
    for event_type in EventType::ALL {
        let schema = event_type.schema();
        let name = event_type.as_str();
        assert_eq!(schema["properties"]["type"]["const"], name);
        let data = &schema["properties"]["data"];
        assert_eq!(data["additionalProperties"], false);
        let fields: Vec<&String> = data["properties"].as_object().unwrap().keys().collect();
        assert_eq!(fields, event_type.data_fields(), "{name}");
        for (field, said) in data["properties"].as_object().unwrap() {
            assert!(said["description"].is_string(), "{field}");
        }
        assert_eq!(all["$defs"][name]["properties"], schema["properties"]);
        // Whatever a schema points to is in it.
        let text = schema.to_string();
        for reference in text.split("\"$ref\":\"#/$defs/").skip(1) {
            let shape = reference.split('"').next().unwrap();
            assert!(schema["$defs"][shape].is_object(), "{name}: {shape}");
        }
    }
}
