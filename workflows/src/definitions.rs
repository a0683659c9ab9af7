//! The built-in workflows, and those of the configuration that take their place.

use std::collections::BTreeMap;

use engine::core::definition::Definition;

use crate::actions;
use crate::policy::{Problem, Problems};

/// The built-in workflows: file name and text.
pub const BUILT_IN: [(&str, &str); 3] = [
    ("joiner.yaml", include_str!("../definitions/joiner.yaml")),
    ("mover.yaml", include_str!("../definitions/mover.yaml")),
    ("leaver.yaml", include_str!("../definitions/leaver.yaml")),
];

/// The built-in workflows, with those of `files` (name and text) added; one of the same name replaces.
///
/// # Errors
/// Everything that is wrong with any of them.
pub fn load(files: &[(String, String)]) -> Result<Vec<Definition>, Problems> {
    let mut problems = Problems::default();
    let mut by_name: BTreeMap<String, Definition> = BTreeMap::new();
    for (file, text) in BUILT_IN {
        match parse(file, text) {
            Ok(definition) => {
                by_name.insert(definition.name.clone(), definition);
            }
            Err(found) => problems.extend(found.list),
        }
    }
    let mut own: BTreeMap<String, &str> = BTreeMap::new();
    for (file, text) in files {
        match parse(file, text) {
            Ok(definition) => {
                if let Some(first) = own.insert(definition.name.clone(), file) {
                    problems.push(Problem::new(
                        file,
                        None,
                        format!(
                            "workflow `{}` is defined twice, first in `{first}`",
                            definition.name
                        ),
                        "rename or remove one of them",
                    ));
                }
                by_name.insert(definition.name.clone(), definition);
            }
            Err(found) => problems.extend(found.list),
        }
    }
    let known: Vec<String> = by_name.keys().cloned().collect();
    for definition in by_name.values() {
        for other in &definition.preempts {
            if !by_name.contains_key(other) {
                problems.push(Problem::new(
                    &definition.name,
                    None,
                    format!(
                        "workflow `{}` pre-empts `{other}`, which does not exist",
                        definition.name
                    ),
                    crate::policy::problem::suggest(
                        other,
                        "workflows",
                        known.iter().map(String::as_str),
                    ),
                ));
            }
        }
    }
    problems.into_result(|| by_name.into_values().collect())
}

/// Reads one workflow with the actions and facts of this crate.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse(file: &str, text: &str) -> Result<Definition, Problems> {
    Definition::parse(file, text, actions::FACT_ROOTS, &actions::exists).map_err(|found| {
        let mut problems = Problems::default();
        problems.extend(found.0.into_iter().map(|problem| {
            Problem::new(
                problem.file,
                Some((problem.line, problem.column)),
                problem.what,
                problem.fix,
            )
        }));
        problems
    })
}
