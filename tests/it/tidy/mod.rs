//! Rules of the house that no compiler knows. Each rule is a function from sources to findings; each has a test
//! that it holds here and a test that it can fail.

mod crates;
mod layers;
mod marks;
mod migrations;
mod purity;
mod shape;
mod source;

use std::fmt::Write as _;
use std::path::PathBuf;

use source::{Finding, Source};

/// The root of the repository.
fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Fails with one line for each finding.
#[track_caller]
fn holds(rule: fn(&[Source]) -> Vec<Finding>) {
    let findings = rule(&source::all(&root()));
    let mut text = String::new();
    for finding in &findings {
        let _ = writeln!(text, "  {finding}");
    }
    assert!(findings.is_empty(), "{} findings:\n{text}", findings.len());
}

/// Fails unless the rule finds exactly `lines` (of the last file) in files made of (path, text).
#[track_caller]
fn finds(rule: fn(&[Source]) -> Vec<Finding>, files: &[(&str, &str)], lines: &[usize]) {
    let sources = source::marked(
        files
            .iter()
            .map(|(path, text)| Source::new(path, text))
            .collect(),
    );
    let found: Vec<usize> = rule(&sources).iter().map(|finding| finding.line).collect();
    assert_eq!(found, lines, "in {files:#?}");
}
