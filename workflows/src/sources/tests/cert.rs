//! A real feed: twelve months of the CERT company.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::*;
use crate::policy::{IdentityFacts, PolicySet, Schema, evaluate};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn data() -> PathBuf {
    std::env::var_os("TENURE_DATA").map_or_else(|| root().join("../shared/data"), PathBuf::from)
}

fn months() -> Option<Vec<PathBuf>> {
    let folder = data().join("cert-r5.2");
    let mut months: Vec<PathBuf> = std::fs::read_dir(&folder)
        .ok()?
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "csv"))
        .collect();
    months.sort();
    Some(months)
}

fn source() -> Source {
    let path = root().join("tests/cert/config/sources/hr.yaml");
    let text = std::fs::read_to_string(path).unwrap();
    Source::load("sources/hr.yaml", &text).unwrap()
}

fn policy(source: &Source) -> PolicySet {
    let folder = root().join("tests/cert/config/policy");
    let files: Vec<(String, String)> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, std::fs::read_to_string(&path).unwrap())
        })
        .collect();
    let schema = Schema::new(["directory", "scim", "database"]).with_source(&source.declarations());
    let policy = PolicySet::load(&files, &schema).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(policy.warnings(), []);
    policy
}

type Row = BTreeMap<String, String>;

fn rows(path: &std::path::Path) -> Vec<Row> {
    ::csv::Reader::from_path(path)
        .unwrap()
        .deserialize()
        .map(Result::unwrap)
        .collect()
}

/// The plain table that the oracle of the whole product uses, read here without any of our code.
fn wanted_by_table(
    month: &std::path::Path,
    table: &[Row],
) -> BTreeMap<String, BTreeSet<(String, String)>> {
    let holds = |person: &Row, operator: &str, column: &str, value: &str| match operator {
        "any" => true,
        "nonempty" => !person[column].is_empty(),
        "equals" => person[column] == value,
        "prefix" => person[column].starts_with(value),
        other => panic!("operator {other}"),
    };
    rows(month)
        .iter()
        .map(|person| {
            let grants = table
                .iter()
                .filter(|line| {
                    holds(person, &line["operator"], &line["column"], &line["value"])
                        && (line["and_column"].is_empty()
                            || holds(
                                person,
                                &line["and_operator"],
                                &line["and_column"],
                                &line["and_value"],
                            ))
                })
                .map(|line| (line["system"].clone(), line["entitlement"].clone()))
                .collect();
            (person["user_id"].clone(), grants)
        })
        .collect()
}

/// The numbers are those of the data's own description.
#[test]
fn a_year_of_the_company() {
    let Some(months) = months() else {
        assert!(
            std::env::var_os("TENURE_DATA").is_none(),
            "TENURE_DATA names no data"
        );
        return;
    };
    let source = source();
    let policy = policy(&source);
    assert!(policy.roles().count() >= 25);
    let listed: BTreeSet<(String, String)> = rows(&root().join("tests/cert/entitlements.csv"))
        .into_iter()
        .map(|row| (row["system"].clone(), row["entitlement"].clone()))
        .collect();
    let governed: BTreeSet<(String, String)> = policy
        .governed()
        .into_iter()
        .map(|grant| (grant.system, grant.entitlement))
        .collect();
    assert_eq!(governed, listed, "the list of what the lab has to prepare");
    let table = rows(&root().join("tests/cert/policy.csv"));
    let mut before = Records::new();
    let mut gone = BTreeSet::new();
    let mut events: BTreeMap<EventType, usize> = BTreeMap::new();
    let mut projects_changed = 0;
    for month in &months {
        let file = month.file_name().unwrap().to_string_lossy().into_owned();
        let snapshot = read_snapshot(
            &source,
            std::fs::File::open(month).unwrap(),
            &SnapshotInput {
                file: &file,
                ..SnapshotInput::default()
            },
        )
        .unwrap_or_else(|problems| panic!("{problems}"));
        assert!(snapshot.complete);
        assert_eq!(snapshot.as_of.day.format("%Y-%m.csv").to_string(), file);
        assert_eq!(snapshot.warnings, [], "every supervisor is somebody");
        let difference = diff(&source, &LeaverRules::default(), &before, &snapshot, &gone);
        let verdict = assess(&difference, &before, &snapshot.records, source.guard());
        assert!(
            matches!(verdict, Verdict::Pass { .. }),
            "{file}: {verdict:?}"
        );
        let mut on_project = BTreeSet::new();
        for change in &difference.changes {
            *events.entry(change.event.event_type).or_default() += 1;
            match change.event.event_type {
                EventType::TerminationEffective => {
                    gone.insert(change.event.subject.clone());
                }
                EventType::ProjectStart | EventType::ProjectEnd => {
                    on_project.insert(change.event.subject.clone());
                }
                _ => {}
            }
        }
        projects_changed += on_project.len();
        let mut wants = BTreeMap::new();
        for record in snapshot.records.values() {
            let facts = IdentityFacts {
                key: record.key.to_string(),
                attributes: record.attributes.clone(),
                active: true,
                on_leave: false,
            };
            let wanted = evaluate(&policy, &facts).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(wanted.accounts.len(), 3, "everybody has three accounts");
            for account in &wanted.accounts {
                let template = policy.template(&account.system).unwrap();
                template.attributes(&facts).unwrap();
                let name = template.candidates(&facts).next().unwrap().unwrap();
                assert_eq!(name, record.key.as_str().to_lowercase());
            }
            let grants: BTreeSet<(String, String)> = wanted
                .grants
                .into_iter()
                .map(|grant| (grant.system, grant.entitlement))
                .collect();
            wants.insert(record.key.to_string(), grants);
        }
        assert_eq!(wants, wanted_by_table(month, &table), "{file}");
        before = remember(&before, &snapshot);
    }
    assert_eq!(months.len(), 12);
    assert_eq!(events[&EventType::Hire], 2_000);
    assert_eq!(events[&EventType::TerminationEffective], 142);
    assert_eq!(gone.len(), 142);
    assert_eq!(events[&EventType::ManagerChanged], 2);
    assert_eq!(projects_changed, 1_562);
    assert_eq!(events.get(&EventType::Rehire), None);
}
