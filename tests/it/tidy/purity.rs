//! The pure modules are handed everything: they name no clock, no randomness, no I/O and nothing asynchronous.

use super::source::{Finding, Source, words};
use super::{finds, holds};

const PURE: [&str; 9] = [
    "engine/src/core/",
    "engine/src/evidence/",
    "workflows/src/policy/",
    "workflows/src/scim/",
    "workflows/src/sources/",
    "workflows/src/correlation/",
    "workflows/src/timeline/",
    "workflows/src/nhi/",
    "workflows/src/rotation/",
];

/// A word and what it would bring in.
const BANNED: [(&str, &str); 21] = [
    ("tokio", "a runtime"),
    ("async fn", "waiting"),
    ("async move", "waiting"),
    (".await", "waiting"),
    ("sqlx", "a database"),
    ("reqwest", "the network"),
    ("std::net", "the network"),
    ("std::fs", "files"),
    ("std::io::stdin", "the terminal"),
    ("std::env", "the environment"),
    ("std::process", "processes"),
    ("std::thread", "threads"),
    ("Utc::now", "a clock"),
    ("Local::now", "a clock"),
    ("SystemTime", "a clock"),
    ("Instant", "a clock"),
    ("rand", "randomness"),
    ("getrandom", "randomness"),
    ("new_v4", "randomness"),
    ("new_v7", "a clock and randomness"),
    ("now_v7", "a clock and randomness"),
];

fn rule(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| source.is_rust()) {
        if !PURE.iter().any(|folder| source.path.starts_with(folder)) {
            continue;
        }
        for (line, text) in source
            .code_lines()
            .filter(|(line, _)| !source.is_test(*line))
        {
            for (word, brings) in BANNED {
                if words(text, word).next().is_some() {
                    let what = format!(
                        "`{word}` brings {brings} into a pure module; take what it gives as input"
                    );
                    findings.push(source.finding(line, what));
                }
            }
        }
    }
    findings
}

#[test]
fn pure_modules_are_pure() {
    holds(rule);
}

#[test]
fn an_impure_module_is_found() {
    for (word, _) in BANNED {
        let text = format!("//! {word}\nfn a() {{\n    {word}\n}}\n");
        for folder in PURE {
            finds(rule, &[(&format!("{folder}a.rs"), &text)], &[3]);
        }
        finds(rule, &[("engine/src/runner/a.rs", &text)], &[]);
        finds(rule, &[("engine/src/core/tests.rs", &text)], &[]);
    }
    finds(
        rule,
        &[(
            "engine/src/core/a.rs",
            "let operand = 1; let a = \"tokio\"; // rand\n",
        )],
        &[],
    );
}
