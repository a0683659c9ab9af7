#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]
use super::*;
use crate::policy::schema::AttributeDeclaration;

fn attributes() -> AttributeDeclarations {
    use AttributeKind::{Boolean, Integer, List, Text};
    BTreeMap::from([
        ("key".to_owned(), AttributeDeclaration::required(Text)),
        ("projects".to_owned(), AttributeDeclaration::required(List)),
        (
            "department".to_owned(),
            AttributeDeclaration::optional(Text),
        ),
        ("team".to_owned(), AttributeDeclaration::optional(Text)),
        ("level".to_owned(), AttributeDeclaration::required(Integer)),
        ("remote".to_owned(), AttributeDeclaration::required(Boolean)),
    ])
}

fn report(text: &str) -> Report {
    let attributes = attributes();
    let variables = BTreeMap::from([("identity", Variable::Record(&attributes))]);
    check(
        &Expression::compile(text).unwrap(),
        &variables,
        Kind::Boolean,
    )
}

#[track_caller]
fn good(text: &str) {
    let report = report(text);
    assert!(report.errors.is_empty(), "{text}: {:?}", report.errors);
    assert!(report.warnings.is_empty(), "{text}: {:?}", report.warnings);
}

#[track_caller]
fn bad(text: &str, place: Place, message: &str, fix: &str) {
    let report = report(text);
    let first = report.errors.first().expect("an error");
    assert_eq!(
        (first.place, first.message.as_str(), first.fix.as_str()),
        (Some(place), message, fix),
        "{text}"
    );
}

#[track_caller]
fn risky(text: &str, attributes: &[&str]) {
    let report = report(text);
    assert!(report.errors.is_empty(), "{text}: {:?}", report.errors);
    let told: Vec<&str> = report
        .warnings
        .iter()
        .map(|warning| warning.message.split('`').nth(1).unwrap())
        .collect();
    assert_eq!(told, attributes, "{text}");
}

#[test]
fn sound_rules_pass() {
    good("true");
    good("identity.key == 'a'");
    good("'p' in identity.projects && size(identity.projects) > 0");
    good("identity.projects.exists(p, p.startsWith('Project'))");
    good("identity.projects.map(p, slug(p)) == ['a']");
    good("identity.level + 1 >= 3 || identity.remote");
    good("has(identity.team)");
    good("type(identity.key) == string");
    good("identity['key'].matches('^[a-z]+$')");
    good("identity.key != null");
    good("lower(identity.key) == 'a'");
}

#[test]
fn unknown_names_are_told_with_place_and_fix() {
    bad(
        "identity.key == 'a' && identity.departmnt == 'b'",
        (1, 32),
        "`identity` has no attribute `departmnt`",
        "did you mean `department`? attributes are `department`, `key`, `level`, `projects`, `remote`, `team`",
    );
    bad(
        "department == 'x'",
        (1, 1),
        "`department` is not known",
        "write `identity.department`",
    );
    bad(
        "identity.key ==\n  everybody",
        (2, 3),
        "`everybody` is not known",
        "variables are `identity`; texts are written in quotes",
    );
    bad(
        "identity.key.startWith('a')",
        (1, 23),
        "there is no function `startWith`",
        "did you mean `startsWith`?",
    );
    bad(
        "identity.key.lower() == 'a'",
        (1, 19),
        "`lower` is called wrongly",
        "call it as `lower(..)` with 1 argument(s)",
    );
    bad(
        "has(identity.tem) && true",
        (1, 4),
        "`identity` has no attribute `tem`",
        "did you mean `team`? attributes are `department`, `key`, `level`, `projects`, `remote`, `team`",
    );
}

#[test]
fn kinds_that_cannot_fit_are_told() {
    bad(
        "identity.projects == 'Project 1'",
        (1, 19),
        "`==` compares a list with a text, which are never equal",
        "ask with `in`: `\"a\" in identity.list`",
    );
    bad(
        "identity.level > '3'",
        (1, 16),
        "`>` compares a number with a text, which are never equal",
        "compare values of one kind",
    );
    bad(
        "identity.key && true",
        (1, 9),
        "each side of `&&` must be true or false, not a text",
        "compare it with something, as in `identity.x == \"y\"`",
    );
    bad(
        "'a' in identity.key",
        (1, 5),
        "the right side of `in` is a text, not a list",
        "write a list: `x in [\"a\", \"b\"]`",
    );
    let report = report("identity.key");
    assert_eq!(
        report.errors[0].message,
        "the expression gives a text, not true or false"
    );
}

#[test]
fn an_attribute_that_may_be_missing_must_be_asked_for() {
    risky("identity.department == 'x'", &["identity.department"]);
    good("has(identity.department) && identity.department == 'x'");
    good("identity.department == 'x' && has(identity.department)");
    good("!has(identity.department) || identity.department == 'x'");
    good("has(identity.department) ? identity.department == 'x' : false");
    risky(
        "has(identity.department) ? true : identity.department == 'x'",
        &["identity.department"],
    );
    risky(
        "has(identity.team) && identity.department == 'x'",
        &["identity.department"],
    );
    risky(
        "(has(identity.team) || has(identity.department)) && identity.team == 'x'",
        &["identity.team"],
    );
    good(
        "(has(identity.team) && has(identity.department)) && identity.team == identity.department",
    );
    good("!(!has(identity.team) || !has(identity.department)) && identity.team == 'x'");
    risky(
        "has(identity.team) || identity.team == 'x'",
        &["identity.team"],
    );
}
