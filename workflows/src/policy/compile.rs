//! From an expression in a file to a compiled and checked one, with every mistake placed in the file.

use std::collections::BTreeMap;

use serde_saphyr::Spanned;

use super::expression::check::{Finding, Kind, Report, Variable, check};
use super::expression::{CompileError, Expression, Place};
use super::problem::{Problem, Problems};

/// Where an expression stands.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    pub file: &'a str,
    /// What it is, for the message: ``the rule of role `x` ``.
    pub what: &'a str,
}

/// Compiles `text` and checks it. Mistakes go to `problems`, risks to `warnings`.
pub fn compile(
    origin: Origin<'_>,
    text: &Spanned<String>,
    variables: &BTreeMap<&str, Variable<'_>>,
    wanted: Kind,
    problems: &mut Problems,
    warnings: &mut Vec<Problem>,
) -> Option<(Expression, Report)> {
    let at = (text.defined.line(), text.defined.column());
    let expression = match Expression::compile(&text.value) {
        Ok(expression) => expression,
        Err(CompileError {
            place,
            message,
            fix,
        }) => {
            problems.push(placed(origin, at, place, &message, fix));
            return None;
        }
    };
    let mut report = check(&expression, variables, wanted);
    let tell = |finding: Finding| placed(origin, at, finding.place, &finding.message, finding.fix);
    warnings.extend(std::mem::take(&mut report.warnings).into_iter().map(tell));
    let errors = std::mem::take(&mut report.errors);
    if errors.is_empty() {
        return Some((expression, report));
    }
    problems.extend(errors.into_iter().map(tell));
    None
}

/// The place in the file is that of the whole expression: how YAML folded or quoted it is not known.
fn placed(
    origin: Origin<'_>,
    at: (u64, u64),
    place: Option<Place>,
    message: &str,
    fix: String,
) -> Problem {
    let inside = match place {
        Some((1, column)) => format!(" at character {column}"),
        Some((line, column)) => format!(" at line {line}, character {column}"),
        None => String::new(),
    };
    Problem::new(
        origin.file,
        Some(at),
        format!("{}{inside}: {message}", origin.what),
        fix,
    )
}
