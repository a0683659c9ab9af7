//! Both databases have the same schema steps: the same names, numbered without a hole.

use std::collections::BTreeSet;

use super::source::{Finding, Source};
use super::{finds, holds};

const FOLDERS: [&str; 2] = ["migrations/postgres/", "migrations/sqlite/"];

fn rule(sources: &[Source]) -> Vec<Finding> {
    let names = |folder: &str| -> BTreeSet<String> {
        sources
            .iter()
            .filter_map(|source| source.path.strip_prefix(folder))
            .map(str::to_owned)
            .collect()
    };
    let [postgres, sqlite] = FOLDERS.map(names);
    let mut findings = Vec::new();
    for (folder, missing) in FOLDERS
        .iter()
        .zip([sqlite.difference(&postgres), postgres.difference(&sqlite)])
    {
        for name in missing {
            findings.push(Finding {
                path: format!("{folder}{name}"),
                line: 0,
                what: "is there for the other database only".to_owned(),
            });
        }
    }
    for (number, name) in (1..).zip(postgres.union(&sqlite)) {
        if !name.starts_with(&format!("{number:04}_")) {
            findings.push(Finding {
                path: format!("{}{name}", FOLDERS[0]),
                line: 0,
                what: format!(
                    "should have the number {number:04}: numbers have no holes and no twins"
                ),
            });
            break;
        }
    }
    findings
}

#[test]
fn both_databases_have_the_same_migrations() {
    holds(rule);
}

#[test]
fn a_missing_migration_is_found() {
    let check = |paths: &[&str], count: usize| {
        let files: Vec<(&str, &str)> = paths.iter().map(|path| (*path, "select 1;\n")).collect();
        finds(rule, &files, &vec![0; count]);
    };
    check(
        &[
            "migrations/postgres/0001_a.sql",
            "migrations/sqlite/0001_a.sql",
        ],
        0,
    );
    check(&["migrations/postgres/0001_a.sql"], 1);
    check(&["migrations/sqlite/0001_a.sql"], 1);
    check(
        &[
            "migrations/postgres/0002_a.sql",
            "migrations/sqlite/0002_a.sql",
        ],
        1,
    );
    let twins = ["postgres", "sqlite"]
        .map(|database| ["a", "b"].map(|name| format!("migrations/{database}/0001_{name}.sql")));
    let twins: Vec<&str> = twins.iter().flatten().map(String::as_str).collect();
    check(&twins, 1);
}
