//! How files look: their length, their lints, and the match that decides about retrying.

use std::collections::BTreeSet;

use super::source::{Finding, Source, words};
use super::{finds, holds};

const LINES_MAX: usize = 800;
/// What the opening comment of a longer file has to say, followed by why.
const LONGER: &str = "Longer than 800 lines:";
/// How far down the opening comment is looked for that sentence.
const OPENING_LINES: usize = 60;

fn length(sources: &[Source]) -> Vec<Finding> {
    let measured = [".rs", ".sql", ".sh", ".py"];
    sources
        .iter()
        .filter(|source| {
            measured
                .iter()
                .any(|extension| source.path.ends_with(extension))
        })
        .filter(|source| source.text.lines().count() > LINES_MAX)
        .filter(|source| {
            !source
                .text
                .lines()
                .take(OPENING_LINES)
                .any(|line| line.contains(LONGER))
        })
        .map(|source| {
            let lines = source.text.lines().count();
            source.finding(
                lines,
                format!("{lines} lines: split it, or say `{LONGER} ...` in the opening comment"),
            )
        })
        .collect()
}

/// `#[allow]` and `#[expect]` say why.
fn silenced(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| source.is_rust()) {
        for word in ["allow(", "expect("] {
            for offset in words(&source.code, word) {
                let before = source.code[..offset].trim_end();
                let in_attribute = before.ends_with("#[")
                    || before.ends_with("#![")
                    || (before.ends_with(',')
                        && before
                            .rsplit('\n')
                            .next()
                            .is_some_and(|line| line.contains("cfg_attr(")));
                let inside = source.code[offset..].split(')').next().unwrap_or_default();
                if in_attribute && words(inside, "reason").next().is_none() {
                    findings.push(source.finding(
                        source.line_of(offset),
                        "a silenced lint needs `reason = \"...\"`",
                    ));
                }
            }
        }
    }
    findings
}

/// The functions that say what an error means for the next attempt name every kind: a new kind must not be
/// retried, or given up, because nobody thought of it.
fn retry_match(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| source.is_rust()) {
        for name in ["retry_class", "failure_class"] {
            for offset in words(&source.code, &format!("fn {name}")) {
                for (start, _) in body(&source.code[offset..]).match_indices("_ =>") {
                    let at = offset + start;
                    // `Kind::A | _ =>` and `_ =>` are wildcards, `name_ =>` is a binding.
                    if !source.code[..at].ends_with(super::source::is_word) {
                        findings.push(source.finding(
                            source.line_of(at),
                            format!("a wildcard in `{name}`: name each kind"),
                        ));
                    }
                }
            }
        }
    }
    findings
}

/// From the start of a function to the brace that closes it.
fn body(code: &str) -> &str {
    let mut depth = 0_usize;
    for (offset, character) in code.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth <= 1 => return &code[..offset],
            '}' => depth -= 1,
            _ => {}
        }
    }
    code
}

/// A test that sleeps is slow on a fast machine and wrong on a slow one.
fn sleeping(sources: &[Source]) -> Vec<Finding> {
    const EXCUSE: &str = "// sleeps:";
    let mut findings = Vec::new();
    // On the virtual clock a sleep takes no time and is exact. What stands beside a test on that clock is its fixture.
    let folder = |source: &Source| {
        source
            .path
            .rsplit_once('/')
            .map(|(folder, _)| folder.to_owned())
    };
    let on_virtual_time = |source: &Source| {
        source.code.contains("start_paused") || source.code.contains("time::pause()")
    };
    let virtual_folders: BTreeSet<_> = sources
        .iter()
        .filter(|source| source.path.contains("/src/") && source.path.contains("/tests/"))
        .filter(|source| on_virtual_time(source))
        .map(folder)
        .collect();
    for source in sources.iter().filter(|source| source.is_rust()) {
        let virtual_time = on_virtual_time(source) || virtual_folders.contains(&folder(source));
        let mut excused = false;
        for ((line, code), (_, text)) in source.code_lines().zip(source.lines()) {
            let on_its_own = text.trim_start().starts_with(EXCUSE);
            excused = (excused && text.trim_start().starts_with("//"))
                || text.contains(EXCUSE)
                || (excused && !code.trim().is_empty() && code.contains("sleep("));
            let thread = words(code, "thread::sleep(").next().is_some();
            let task = words(code, "sleep(").next().is_some() && !thread;
            if source.is_test(line)
                && (thread || (task && !virtual_time))
                && !excused
                && !is_definition(code)
            {
                findings.push(source.finding(
                    line,
                    format!("a test sleeps: wait for the condition, or say `{EXCUSE} why`"),
                ));
            }
            excused = on_its_own || (excused && code.trim().is_empty());
        }
    }
    findings
}

fn is_definition(code: &str) -> bool {
    code.contains("fn sleep(")
}

#[test]
fn files_are_short() {
    holds(length);
}

#[test]
fn a_long_file_is_found() {
    let long = "x\n".repeat(801);
    finds(length, &[("src/a.rs", &long)], &[801]);
    finds(length, &[("src/a.rs", &"x\n".repeat(800))], &[]);
    finds(length, &[("src/a.md", &long)], &[]);
    finds(
        length,
        &[("src/a.rs", &format!("//! {LONGER} one match.\n{long}"))],
        &[],
    );
}

#[test]
fn silenced_lints_have_reasons() {
    holds(silenced);
}

#[test]
fn a_lint_silenced_without_a_reason_is_found() {
    let check = |text: &str, lines: &[usize]| finds(silenced, &[("src/a.rs", text)], lines);
    check("#[allow(dead_code)]\n", &[1]);
    check("\n#![expect(\n    dead_code\n)]\n", &[2]);
    check("#[cfg_attr(test, allow(dead_code))]\n", &[1]);
    check("#[allow(dead_code, reason = \"why\")]\n", &[]);
    check(
        "#![expect(\n    dead_code,\n    reason = \"why\"\n)]\n",
        &[],
    );
    check("let a = b.expect(\"c\"); // #[allow(d)]\n", &[]);
}

#[test]
fn retry_decisions_name_every_kind() {
    holds(retry_match);
    let sources = super::source::all(&super::root());
    let found = sources.iter().any(|source| {
        source.path == "connectors/src/connector.rs" && source.code.contains("fn retry_class")
    });
    assert!(found, "the function this rule is about is gone");
}

#[test]
fn a_wildcard_in_a_retry_decision_is_found() {
    let check = |text: &str, lines: &[usize]| finds(retry_match, &[("src/a.rs", text)], lines);
    check(
        "fn retry_class(a: A) -> B {\n match a {\n A::B => {}\n _ => C,\n }\n}\n",
        &[4],
    );
    check(
        "fn failure_class(a: A) -> B {\n match a {\n A::B | _ => C,\n }\n}\n",
        &[3],
    );
    check(
        "fn retry_class(a: A) -> B {\n match a {\n A::B => C,\n }\n}\nfn other() { match a { _ => 1 } }\n",
        &[],
    );
}

#[test]
fn tests_do_not_sleep() {
    holds(sleeping);
}

#[test]
fn a_sleeping_test_is_found() {
    let check = |text: &str, lines: &[usize]| finds(sleeping, &[("tests/it/a.rs", text)], lines);
    check("std::thread::sleep(second);\n", &[1]);
    check("fn a() {\n    tokio::time::sleep(second).await;\n}\n", &[2]);
    check(
        "#[tokio::test(start_paused = true)]\nfn a() {\n    tokio::time::sleep(second).await;\n}\n",
        &[],
    );
    check(
        "#[tokio::test(start_paused = true)]\nfn a() {\n    std::thread::sleep(second);\n}\n",
        &[3],
    );
    check(
        "// sleeps: the server counts seconds\ntokio::time::sleep(second).await;\nsleep(second).await;\n",
        &[3],
    );
    check(
        "sleep(second).await; // sleeps: the server counts seconds\n",
        &[],
    );
    finds(sleeping, &[("src/a.rs", "sleep(second).await;\n")], &[]);
    let paused = (
        "connectors/src/layer/tests/a.rs",
        "#[tokio::test(start_paused = true)]\n",
    );
    let sleeper = "sleep(second).await;\n";
    finds(
        sleeping,
        &[paused, ("connectors/src/layer/tests/b.rs", sleeper)],
        &[],
    );
    finds(
        sleeping,
        &[paused, ("connectors/src/exec/tests/b.rs", sleeper)],
        &[1],
    );
}
