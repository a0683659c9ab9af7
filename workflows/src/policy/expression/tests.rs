#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn scope() -> Scope {
    let attributes = json!({
        "key": "u1", "department": "4 - Engineering", "projects": ["Project 1"], "level": 3, "big": u64::MAX
    });
    let mut scope = Scope::new();
    scope.bind_record(
        "identity",
        attributes
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, value)| (name.as_str(), value)),
    );
    scope.bind_integer("n", 0);
    scope
}

#[track_caller]
fn refused(text: &str, place: Option<Place>, message: &str, fix: &str) {
    let error = Expression::compile(text).unwrap_err();
    assert_eq!(
        (error.place, error.message.as_str(), error.fix.as_str()),
        (place, message, fix),
        "{text}"
    );
}

#[track_caller]
fn fails(text: &str, message: &str) {
    let error = Expression::compile(text)
        .unwrap()
        .holds(&scope())
        .unwrap_err();
    assert_eq!(error.to_string(), message, "{text}");
}

#[test]
fn rules_hold_or_do_not() {
    for (text, expected) in [
        ("identity.department == '4 - Engineering'", true),
        ("identity.level + 1 == 4", true),
        ("identity.level > 3", false),
        ("'Project 1' in identity.projects", true),
        ("identity.projects.exists(p, p.endsWith('1'))", true),
        ("has(identity.team) && identity.team == 'x'", false),
        ("identity.big > 5", true),
        ("n == 0", true),
    ] {
        let rule = Expression::compile(text).unwrap();
        assert_eq!(rule.holds(&scope()), Ok(expected), "{text}");
    }
}

#[test]
fn what_is_not_cel_is_told_with_its_place() {
    refused(
        "identity.a = 'x'",
        Some((1, 12)),
        "a single `=` means nothing",
        "compare with `==`",
    );
    refused(
        "identity.a ==",
        Some((1, 14)),
        "the expression ends too early",
        "finish the last part and close every bracket",
    );
    refused(
        "identity.a == 'x",
        Some((1, 15)),
        "a text is not closed",
        "put the closing quote",
    );
    refused(
        "a and b",
        Some((1, 3)),
        "`and` is not an operator",
        "write `&&`, `||` or `!`",
    );
    refused(
        "a\n  && #",
        Some((2, 6)),
        "`#` means nothing here",
        "put texts in quotes; use `&&`, `||`, `!`, `==`, `in`",
    );
    refused(
        "[1].exists(a, [1].exists(b, [1].exists(c, a == c)))",
        None,
        "loops are nested 3 deep, more than the 2 allowed",
        "use `in` or a separate role instead of a loop in a loop",
    );
}

#[test]
fn a_failure_names_types_and_attributes_but_no_values() {
    fails(
        "identity.team == 'x'",
        "`team` is not set; guard it with `has(...)`",
    );
    fails(
        "identity.department",
        "the rule gives a text where true or false is needed",
    );
    fails(
        "identity.department > 3",
        "`>` cannot be applied to (string, int)",
    );
    fails("1 / 0 == 1", "division by zero");
    fails("identity.projects[4] == 'x'", "the list has no such place");
    fails(
        "identity.department + 1 == 'x'",
        "`add` cannot be applied to a text and a number",
    );
    fails(
        "identity.department.matches('(')",
        "`matches` does not take this argument",
    );
}

/// A tokio worker has 2 MiB; a debug build uses the most stack of all, so this is the hard case.
#[test]
fn hostile_expressions_do_not_exhaust_a_small_stack() {
    let hostile = [
        "(".repeat(10_000),
        format!("{}1{}", "(".repeat(BRACKETS_NESTED_MAX), ")".repeat(BRACKETS_NESTED_MAX)),
        format!("{}1{}", "[".repeat(BRACKETS_NESTED_MAX), "]".repeat(BRACKETS_NESTED_MAX)),
        format!("{}1{}", "{'a':".repeat(BRACKETS_NESTED_MAX), "}".repeat(BRACKETS_NESTED_MAX)),
        "!".repeat(5_000),
        format!("{}true", "!".repeat(OPERATORS_MAX)),
        format!("{}1", "-".repeat(OPERATORS_MAX)),
        format!("{}1 == 1", "1 + ".repeat(OPERATORS_MAX - 1)),
        format!("{}1", "1 * ".repeat(OPERATORS_MAX)),
        format!("identity{}", ".a".repeat(OPERATORS_MAX)),
        format!("{}true", "true ? true : ".repeat(OPERATORS_MAX / 2)),
        format!("{}true", "true && ".repeat(900)),
        format!("{}true", "true || ".repeat(900)),
        format!("{}true", "true || false && ".repeat(450)),
        format!("{}1", "1 in ".repeat(OPERATORS_MAX)),
        format!("{}1", "1 < ".repeat(OPERATORS_MAX)),
        format!("identity{}", "[0]".repeat(OPERATORS_MAX)),
        format!("identity{}", ".a()".repeat(OPERATORS_MAX / 2)),
        format!("x in [{}1]", "1,".repeat(3_500)),
        format!("'{}'", "\\".repeat(5_000)),
        "'\\u".to_owned(),
        "\u{0}".to_owned(),
        "a.b{c: 1}".to_owned(),
        "has()".to_owned(),
        "has(has(a))".to_owned(),
        "9223372036854775808".to_owned(),
        "-9223372036854775808 / -1 == 1".to_owned(),
        "-9223372036854775808 % -1 == 1".to_owned(),
        "1e999 > 1.0".to_owned(),
        "int(1e300) == 1".to_owned(),
        "duration('9223372036854775807s') + duration('9223372036854775807s') == duration('1s')".to_owned(),
        "timestamp('9999-12-31T23:59:59Z') + duration('8760h') == timestamp('9999-12-31T23:59:59Z')".to_owned(),
        "identity.all(k, identity[k] == 1)".to_owned(),
        "'x'.matches('(((((((((((((((((((((a{1000}){1000}){1000}))))))))))))))))))')".to_owned(),
    ];
    std::thread::Builder::new()
        .stack_size(2 * 1024 * 1024)
        .spawn(move || {
            for text in hostile {
                if let Ok(expression) = Expression::compile(&text) {
                    let _ = expression.holds(&scope());
                    let attributes = std::collections::BTreeMap::new();
                    let variables = std::collections::BTreeMap::from([(
                        "identity",
                        check::Variable::Record(&attributes),
                    )]);
                    let _ = check::check(&expression, &variables, check::Kind::Boolean);
                }
                let _ = split_top(&text);
            }
        })
        .unwrap()
        .join()
        .unwrap();
}

fn fragment() -> impl Strategy<Value = String> {
    prop::collection::vec(
        prop::sample::select(vec![
            "identity",
            ".",
            "key",
            "department",
            "has",
            "(",
            ")",
            "[",
            "]",
            "{",
            "}",
            "==",
            "!=",
            "&&",
            "||",
            "!",
            "-",
            "+",
            "*",
            "/",
            "%",
            "?",
            ":",
            ",",
            "'a'",
            "\"b\"",
            "1",
            "2u",
            "3.5",
            "true",
            "null",
            "in",
            "exists",
            "all",
            "map",
            "filter",
            "x",
            "size",
            "lower",
            "first",
            "words",
            "join",
            "slug",
            "string",
            "int",
            "timestamp",
            "duration",
            "matches",
            "'('",
            "b'x'",
            "r'\\'",
            "@",
            "`",
            "é",
            " ",
            "\n",
            "//",
            "9223372036854775807",
            "-9223372036854775808",
            "0",
            "'",
            "\"",
        ]),
        0..25,
    )
    .prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever a person types, compiling, checking and evaluating end in a value or an error.
    #[test]
    fn no_text_makes_it_panic(text in prop_oneof![any::<String>(), fragment(), fragment(), fragment()]) {
        let _ = split_top(&text);
        if let Ok(expression) = Expression::compile(&text) {
            let attributes = std::collections::BTreeMap::new();
            let variables = std::collections::BTreeMap::from([
                ("identity", check::Variable::Record(&attributes)),
            ]);
            let _ = check::check(&expression, &variables, check::Kind::Boolean);
            let _ = expression.holds(&scope());
            let _ = expression.json(&scope());
        }
    }
}
