//! What our own SQL does, read from its text.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Where the statements are that a step runs: the group commit, and the projection in its transaction.
const STEPS: [&str; 2] = [
    "engine/src/store/postgres/commit.rs",
    "workflows/src/directory/statements.rs",
];

/// Where all statements are that go to our own store.
const OURS: [&str; 4] = ["engine/src", "workflows/src", "src", "migrations"];

/// What the required path must do without: it is not there, or not for a whole cluster.
const WITHOUT: [&str; 7] = [
    "pg_advisory",
    "pg_try_advisory",
    "savepoint ",
    "nextval(",
    "create function",
    "create trigger",
    "with hold",
];

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Column {
    pub table: String,
    pub name: String,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every column that an `UPDATE` or `ON CONFLICT DO UPDATE` of a step sets.
pub fn changed_by_steps() -> BTreeSet<Column> {
    let mut columns = BTreeSet::new();
    for path in STEPS {
        let text = std::fs::read_to_string(root().join(path)).unwrap();
        columns.extend(changed(&text));
    }
    columns
}

fn changed(text: &str) -> BTreeSet<Column> {
    let text = without_comments(text);
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut columns = BTreeSet::new();
    let mut inserting = None;
    for (index, word) in words.iter().enumerate() {
        let next = |offset: usize| words.get(index + offset).copied().unwrap_or_default();
        if word.ends_with("INSERT") && next(1) == "INTO" {
            inserting = Some(next(2));
        }
        if !word.ends_with("UPDATE") {
            continue;
        }
        let (table, set) = match (next(1), next(2), next(4)) {
            ("SET", ..) => (inserting, 2),
            (table, "SET", _) => (Some(table), 3),
            (table, "AS", "SET") => (Some(table), 5),
            _ => continue,
        };
        let Some(table) = table else { continue };
        let list = words.get(index + set..).unwrap_or_default();
        for name in assigned(list) {
            columns.insert(Column {
                table: table.trim_matches('"').to_owned(),
                name,
            });
        }
    }
    columns
}

/// The names before `=` up to the clause that ends the list.
fn assigned(words: &[&str]) -> Vec<String> {
    const ENDS: [&str; 6] = ["FROM", "WHERE", "RETURNING", "INSERT", "UPDATE", "\","];
    let mut names = Vec::new();
    let (mut depth, mut expect_name) = (0_i32, true);
    for pair in words.windows(2) {
        let [word, next] = pair else { continue };
        if depth == 0 && ENDS.contains(word) {
            break;
        }
        if expect_name && *next == "=" {
            names.push((*word).to_owned());
            expect_name = false;
        }
        let brackets = |bracket| i32::try_from(word.matches(bracket).count()).unwrap();
        depth += brackets('(') - brackets(')');
        if depth < 0 || word.ends_with("\",") || word.ends_with("\";") {
            break;
        }
        if depth == 0 && word.ends_with(',') {
            expect_name = true;
        }
    }
    names
}

/// Without comments of SQL and of Rust.
fn without_comments(text: &str) -> String {
    let line = |line: &str| {
        let line = line.split("--").next().unwrap_or_default();
        if line.trim_start().starts_with("//") {
            String::new()
        } else {
            line.to_owned()
        }
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path
            .extension()
            .is_some_and(|kind| kind == "rs" || kind == "sql")
        {
            found.push(path);
        }
    }
}

#[test]
fn our_statements_ask_for_nothing_that_one_machine_alone_has() {
    let mut paths = Vec::new();
    for folder in OURS {
        files(&root().join(folder), &mut paths);
    }
    assert!(paths.len() > 100);
    let mut found = Vec::new();
    for path in paths {
        let text = without_comments(&std::fs::read_to_string(&path).unwrap()).to_lowercase();
        for word in WITHOUT.iter().filter(|word| text.contains(**word)) {
            found.push(format!("{}: `{word}`", path.display()));
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn changed_columns_are_read_from_statements() {
    let check = |text: &str, expected: &[(&str, &str)]| {
        let expected = expected.iter().map(|(table, name)| Column {
            table: (*table).to_owned(),
            name: (*name).to_owned(),
        });
        assert_eq!(changed(text), expected.collect(), "{text}");
    };
    check(
        "UPDATE a SET b = 1, c = now.c FROM x WHERE d = 1",
        &[("a", "b"), ("a", "c")],
    );
    check(
        "UPDATE a AS g SET b = coalesce(x, CASE WHEN y = 1 THEN 2 ELSE 3 END), c = 2 WHERE d = 1",
        &[("a", "b"), ("a", "c")],
    );
    check(
        "INSERT INTO a (k) SELECT 1 ON CONFLICT (k) DO UPDATE SET b = excluded.b, -- why = not\n c = 1\",\n sqlite: \"x = 1",
        &[("a", "b"), ("a", "c")],
    );
    check("SELECT 1 FROM a FOR UPDATE OF a", &[]);
    // The real ones.
    let real = changed_by_steps();
    for (table, name) in [
        ("case_state", "version"),
        ("case_state", "changed_at"),
        ("case_step", "body"),
        ("case_step", "state"),
        ("account", "status"),
        ("grant_held", "status"),
        ("identity", "changed_at"),
    ] {
        let column = Column {
            table: table.to_owned(),
            name: name.to_owned(),
        };
        assert!(real.contains(&column), "{column:?} is not in {real:#?}");
    }
}
