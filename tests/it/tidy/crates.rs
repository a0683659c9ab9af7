//! Crates: which of ours may name which, and what a crate of others has to be like. The lists of licences and of
//! banned crates are those of deny.toml.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use serde_json::Value;

use super::root;

/// Our crates and what each may depend on, in any way.
const ALLOWED: [(&str, &[&str]); 5] = [
    ("engine", &[]),
    ("connectors", &[]),
    ("workflows", &["engine", "connectors"]),
    ("tenure", &["engine", "connectors", "workflows"]),
    ("tenure-sim", &["engine"]),
];
/// Names that say nothing about what is inside.
const NAMELESS: [&str; 7] = [
    "common", "utils", "util", "helpers", "shared", "misc", "types",
];

/// What `cargo metadata` says, for the platform this test runs on.
fn metadata() -> Value {
    let host = Command::new(env!("CARGO")).args(["-vV"]).output().unwrap();
    let host = String::from_utf8(host.stdout).unwrap();
    let host = host
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .unwrap();
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--locked",
            "--offline",
            "--filter-platform",
            host,
        ])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

/// For each of our crates, those of ours that it names.
fn ours(metadata: &Value) -> BTreeMap<String, BTreeSet<String>> {
    let packages = metadata["packages"].as_array().unwrap();
    let local: BTreeSet<&str> = packages
        .iter()
        .filter(|package| package["source"].is_null())
        .map(|package| text(package, "name"))
        .collect();
    packages
        .iter()
        .filter(|package| package["source"].is_null())
        .map(|package| {
            let dependencies = package["dependencies"].as_array().unwrap();
            let named = dependencies
                .iter()
                .map(|dependency| text(dependency, "name"));
            let named = named
                .filter(|name| local.contains(name))
                .map(str::to_owned)
                .collect();
            (text(package, "name").to_owned(), named)
        })
        .collect()
}

fn wrong_directions(ours: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.into_iter().collect();
    let mut wrong = Vec::new();
    for (name, named) in ours {
        if NAMELESS.contains(&name.as_str()) {
            wrong.push(format!(
                "`{name}` is no name for a crate: a crate is a dependency boundary, not a drawer"
            ));
        }
        let Some(allowed) = allowed.get(name.as_str()) else {
            wrong.push(format!("crate `{name}` is not in the list of ours"));
            continue;
        };
        for other in named
            .iter()
            .filter(|other| !allowed.contains(&other.as_str()))
        {
            wrong.push(format!("`{name}` may not depend on `{other}`"));
        }
    }
    wrong
}

/// The strings of the list that `key = [` begins in a section of deny.toml.
fn listed(document: &str, section: &str, key: &str) -> Vec<String> {
    let start = document.find(&format!("\n[{section}]")).unwrap();
    let start = start + document[start..].find(&format!("\n{key} = [")).unwrap();
    let list = document[start..].split("\n]").next().unwrap();
    let entries = list
        .lines()
        .map(|line| line.split('#').next().unwrap_or_default())
        .collect::<String>();
    entries
        .split('"')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

fn banned(names: &BTreeSet<String>, document: &str) -> Vec<String> {
    listed(document, "bans", "deny")
        .into_iter()
        .filter(|name| names.contains(name))
        .collect()
}

/// Whether an SPDX expression can be met with the allowed licences. `/` is an old way to write `OR`.
fn licence_is_met(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let mut tokens = spaced.split_whitespace().peekable();
    let met = any_of(&mut tokens, allowed);
    met && tokens.next().is_none()
}

type Tokens<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any_of(tokens: &mut Tokens<'_>, allowed: &BTreeSet<String>) -> bool {
    let mut met = all_of(tokens, allowed);
    while tokens.next_if_eq(&"OR").is_some() {
        met |= all_of(tokens, allowed);
    }
    met
}

fn all_of(tokens: &mut Tokens<'_>, allowed: &BTreeSet<String>) -> bool {
    let mut met = one(tokens, allowed);
    while tokens.next_if_eq(&"AND").is_some() {
        met &= one(tokens, allowed);
    }
    met
}

fn one(tokens: &mut Tokens<'_>, allowed: &BTreeSet<String>) -> bool {
    if tokens.next_if_eq(&"(").is_some() {
        let met = any_of(tokens, allowed);
        return tokens.next_if_eq(&")").is_some() && met;
    }
    let mut name = tokens.next().unwrap_or_default().to_owned();
    if tokens.next_if_eq(&"WITH").is_some() {
        name = format!("{name} WITH {}", tokens.next().unwrap_or_default());
    }
    allowed.contains(&name)
        || name
            .strip_suffix('+')
            .is_some_and(|name| allowed.contains(name))
}

#[test]
fn our_crates_point_one_way() {
    let ours = ours(&metadata());
    assert_eq!(ours.len(), ALLOWED.len(), "{ours:?}");
    assert_eq!(wrong_directions(&ours), Vec::<String>::new());
    for (name, _) in ALLOWED {
        let folder = match name {
            "tenure" => root(),
            "tenure-sim" => root().join("tests/sim"),
            name => root().join(name),
        };
        let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
        assert!(
            manifest.contains("[lints]\nworkspace = true"),
            "`{name}` does not take the workspace's lints"
        );
    }
}

#[test]
fn a_crate_that_points_the_wrong_way_is_found() {
    let check = |name: &str, named: &[&str], count: usize| {
        let named = named.iter().map(|name| (*name).to_owned()).collect();
        let wrong = wrong_directions(&BTreeMap::from([(name.to_owned(), named)]));
        assert_eq!(wrong.len(), count, "{wrong:?}");
    };
    check("engine", &["connectors"], 1);
    check("connectors", &["engine"], 1);
    check("workflows", &["engine", "connectors"], 0);
    check("workflows", &["tenure"], 1);
    check("utils", &[], 2);
}

#[test]
fn no_crate_is_banned() {
    let document = fs::read_to_string(root().join("deny.toml")).unwrap();
    let lock = fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let names = |lock: &str| -> BTreeSet<String> {
        let names = lock
            .lines()
            .filter_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'));
        names.map(str::to_owned).collect()
    };
    assert!(names(&lock).len() > 100);
    assert_eq!(banned(&names(&lock), &document), Vec::<String>::new());

    let with_openssl = format!("{lock}\n[[package]]\nname = \"openssl-sys\"\n");
    assert_eq!(banned(&names(&with_openssl), &document), ["openssl-sys"]);
}

#[test]
fn every_licence_is_allowed() {
    let document = fs::read_to_string(root().join("deny.toml")).unwrap();
    let allowed: BTreeSet<String> = listed(&document, "licenses", "allow").into_iter().collect();
    let exceptions = listed(&document, "licenses", "exceptions");
    let exceptions: BTreeMap<&str, &str> = exceptions
        .chunks(2)
        .map(|pair| (pair[0].as_str(), pair[1].as_str()))
        .collect();
    let metadata = metadata();
    let packages = metadata["packages"].as_array().unwrap();
    let refused: Vec<String> = packages
        .iter()
        .filter(|package| !package["source"].is_null())
        .filter(|package| {
            let mut allowed = allowed.clone();
            allowed.extend(
                exceptions
                    .get(text(package, "name"))
                    .map(|name| (*name).to_owned()),
            );
            !licence_is_met(text(package, "license"), &allowed)
        })
        .map(|package| {
            format!(
                "{} {}: `{}`",
                text(package, "name"),
                text(package, "version"),
                text(package, "license")
            )
        })
        .collect();
    assert_eq!(refused, Vec::<String>::new());
}

/// The crates that no line of the table in ARCHITECTURE.md justifies, and the lines that justify nothing.
fn unjustified(named: &BTreeSet<String>, document: &str) -> (Vec<String>, Vec<String>) {
    let table = document.split("\n## Dependencies\n").nth(1).unwrap();
    let cells = table
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split('|').next());
    let listed: BTreeSet<String> = cells
        .flat_map(|cell| cell.split(','))
        .map(|name| name.trim().to_owned())
        .filter(|name| name != "crate")
        .collect();
    (
        named.difference(&listed).cloned().collect(),
        listed.difference(named).cloned().collect(),
    )
}

#[test]
fn every_dependency_is_justified() {
    let document = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let metadata = metadata();
    let packages = metadata["packages"].as_array().unwrap();
    let named: BTreeSet<String> = packages
        .iter()
        .filter(|package| package["source"].is_null())
        .flat_map(|package| package["dependencies"].as_array().unwrap())
        .filter(|dependency| !dependency["source"].is_null())
        .map(|dependency| text(dependency, "name").to_owned())
        .collect();
    let nothing = (Vec::new(), Vec::new());
    assert_eq!(unjustified(&named, &document), nothing);

    let mut more = named.clone();
    more.insert("left-pad".to_owned());
    more.remove("tokio");
    let found = (vec!["left-pad".to_owned()], vec!["tokio".to_owned()]);
    assert_eq!(unjustified(&more, &document), found);
}

#[test]
fn a_licence_that_is_not_allowed_is_found() {
    let allowed =
        BTreeSet::from(["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned));
    for (expression, met) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("", false),
        ("MIT OR GPL-3.0", true),
        ("GPL-3.0/MIT", true),
        ("MIT AND GPL-3.0", false),
        ("(MIT OR GPL-3.0) AND ISC", true),
        ("(MIT OR GPL-3.0) AND BSD-3-Clause", false),
        ("Apache-2.0 WITH LLVM-exception", true),
        ("Apache-2.0", false),
        ("MIT+", true),
        ("MIT GPL-3.0", false),
    ] {
        assert_eq!(licence_is_met(expression, &allowed), met, "`{expression}`");
    }
}
