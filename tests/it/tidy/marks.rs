//! Words that a finished project does not hold.

use super::source::{Finding, Source, words};
use super::{finds, holds};

/// Marks of work not done. Spelled in two halves, because this file is looked at too.
const UNFINISHED: [&str; 6] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("HA", "CK"),
    concat!("unimplemented", "!("),
    concat!("todo", "!("),
];

/// Words of the place where the project was written, which mean nothing to its readers.
const WORKPLACE: [&str; 8] = [
    concat!("/wo", "rk/"),
    concat!("/fa", "rm/"),
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
    concat!("before", "-stop"),
    concat!("bash", "_jobs"),
    concat!(".libr", "ary"),
    concat!("issue", " 2"),
];

/// A place that only tests may count on.
const TEMPORARY: &str = concat!("/t", "mp/");

fn unfinished(sources: &[Source]) -> Vec<Finding> {
    find(sources, &UNFINISHED, "says that work is left; finish it")
}

fn workplace(sources: &[Source]) -> Vec<Finding> {
    let mut findings = find(sources, &WORKPLACE, "belongs to one machine or workplace");
    for source in sources
        .iter()
        .filter(|source| source.is_rust() || source.path.ends_with(".yaml"))
    {
        for (line, text) in source.lines().filter(|(line, _)| !source.is_test(*line)) {
            if text.contains(TEMPORARY) {
                findings.push(source.finding(
                    line,
                    format!("`{TEMPORARY}` outside tests: take the folder as input"),
                ));
            }
        }
    }
    findings
}

fn find(sources: &[Source], marks: &[&str], why: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources {
        for (line, text) in source.lines() {
            for mark in marks {
                if words(text, mark).next().is_some() {
                    findings.push(source.finding(line, format!("`{mark}` {why}")));
                }
            }
        }
    }
    findings
}

/// A test that is switched off says why, so that it does not stay so for ever.
fn ignored(sources: &[Source]) -> Vec<Finding> {
    let bare = concat!("#[ign", "ore]");
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| source.is_rust()) {
        for (line, text) in source.code_lines() {
            if text.contains(bare) {
                findings.push(source.finding(line, "a test is switched off without saying why"));
            }
        }
    }
    findings
}

#[test]
fn nothing_is_marked_unfinished() {
    holds(unfinished);
    holds(ignored);
}

#[test]
fn a_mark_is_found() {
    for mark in UNFINISHED {
        finds(
            unfinished,
            &[("docs/a.md", &format!("a\nb {mark} c\n"))],
            &[2],
        );
    }
    finds(
        unfinished,
        &[("src/a.rs", "to do it, fix me, the todo list, PREFIXXXX\n")],
        &[],
    );
    finds(
        ignored,
        &[("src/a.rs", concat!("#[test]\n#[ign", "ore]\n"))],
        &[2],
    );
    finds(
        ignored,
        &[("src/a.rs", concat!("#[ign", "ore = \"long\"]\n"))],
        &[],
    );
}

#[test]
fn nothing_speaks_of_one_workplace() {
    holds(workplace);
}

#[test]
fn a_word_of_the_workplace_is_found() {
    for mark in WORKPLACE {
        finds(workplace, &[("docs/a.md", &format!("a\n{mark}\n"))], &[2]);
    }
    finds(
        workplace,
        &[("src/a.rs", &format!("\"{TEMPORARY}a\"\n"))],
        &[1],
    );
    finds(
        workplace,
        &[("tests/it/a.rs", &format!("\"{TEMPORARY}a\"\n"))],
        &[],
    );
    finds(
        workplace,
        &[("docs/a.md", "the work, homework, tissue 2\n")],
        &[],
    );
}
