//! The built-in workflows, and those of the configuration that take their place.

use std::collections::BTreeMap;

use engine::core::conflict::{OnConflict, contradictions};
use engine::core::definition::Definition;

use crate::actions;
use crate::policy::{Problem, Problems};

/// The built-in workflows: file name and text.
pub const BUILT_IN: [(&str, &str); 21] = [
    ("joiner.yaml", include_str!("../definitions/joiner.yaml")),
    ("mover.yaml", include_str!("../definitions/mover.yaml")),
    (
        "handover.yaml",
        include_str!("../definitions/handover.yaml"),
    ),
    ("leaver.yaml", include_str!("../definitions/leaver.yaml")),
    ("lockout.yaml", include_str!("../definitions/lockout.yaml")),
    (
        "deletion.yaml",
        include_str!("../definitions/deletion.yaml"),
    ),
    ("regroup.yaml", include_str!("../definitions/regroup.yaml")),
    (
        "certification.yaml",
        include_str!("../definitions/certification.yaml"),
    ),
    (
        "separation.yaml",
        include_str!("../definitions/separation.yaml"),
    ),
    (
        "extension.yaml",
        include_str!("../definitions/extension.yaml"),
    ),
    (
        "retirement.yaml",
        include_str!("../definitions/retirement.yaml"),
    ),
    (
        "rotation_alternating.yaml",
        include_str!("../definitions/rotation_alternating.yaml"),
    ),
    (
        "rotation_alternating_at_once.yaml",
        include_str!("../definitions/rotation_alternating_at_once.yaml"),
    ),
    (
        "rotation_single_slot.yaml",
        include_str!("../definitions/rotation_single_slot.yaml"),
    ),
    (
        "rotation_single_slot_at_once.yaml",
        include_str!("../definitions/rotation_single_slot_at_once.yaml"),
    ),
    (
        "rotation_two_slot.yaml",
        include_str!("../definitions/rotation_two_slot.yaml"),
    ),
    (
        "rotation_two_slot_at_once.yaml",
        include_str!("../definitions/rotation_two_slot_at_once.yaml"),
    ),
    (
        "rotation_reissue.yaml",
        include_str!("../definitions/rotation_reissue.yaml"),
    ),
    (
        "rotation_reissue_at_once.yaml",
        include_str!("../definitions/rotation_reissue_at_once.yaml"),
    ),
    (
        "rotation_four_phase.yaml",
        include_str!("../definitions/rotation_four_phase.yaml"),
    ),
    (
        "rotation_four_phase_at_once.yaml",
        include_str!("../definitions/rotation_four_phase_at_once.yaml"),
    ),
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
        for (other, rule) in &definition.conflicts.rules {
            if !by_name.contains_key(other) {
                let does = match rule {
                    OnConflict::Preempt => "pre-empts",
                    OnConflict::Queue => "waits for",
                    OnConflict::Merge => "merges into",
                    OnConflict::Reject => "rejects beside",
                };
                problems.push(Problem::new(
                    &definition.name,
                    None,
                    format!(
                        "workflow `{}` {does} `{other}`, which does not exist",
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
    let all: Vec<&Definition> = by_name.values().collect();
    for (first, second) in contradictions(&all) {
        problems.push(Problem::new(
            &first,
            None,
            format!("workflows `{first}` and `{second}` pre-empt each other: whichever starts last would win"),
            "let one of them wait; `tenure workflow conflicts` shows every pair",
        ));
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn the_built_in_workflows_agree_and_own_ones_that_would_end_each_other_are_told() {
        let built_in = load(&[]).unwrap();
        let then = |new: &str, open: &str| {
            let pairs = engine::core::conflict::table(&built_in.iter().collect::<Vec<_>>());
            let mut pairs = pairs.into_iter();
            let pair = pairs.find(|pair| pair.new == new && pair.open == open);
            pair.unwrap().then
        };
        for (new, open, expected) in [
            ("leaver", "joiner", OnConflict::Preempt),
            ("leaver", "mover", OnConflict::Preempt),
            ("leaver", "leaver", OnConflict::Merge),
            ("mover", "mover", OnConflict::Merge),
            ("mover", "joiner", OnConflict::Queue),
            ("mover", "leaver", OnConflict::Queue),
            ("joiner", "leaver", OnConflict::Queue),
            ("joiner", "mover", OnConflict::Queue),
            ("joiner", "joiner", OnConflict::Queue),
            ("lockout", "leaver", OnConflict::Preempt),
            ("leaver", "lockout", OnConflict::Queue),
            ("leaver", "deletion", OnConflict::Preempt),
            ("joiner", "deletion", OnConflict::Preempt),
            ("mover", "deletion", OnConflict::Queue),
            ("mover", "handover", OnConflict::Preempt),
            ("leaver", "handover", OnConflict::Preempt),
            ("certification", "handover", OnConflict::Preempt),
        ] {
            assert_eq!(then(new, open), expected, "{new} while {open}");
        }
        let own = |name: &str, rule: &str| {
            let text = format!("name: {name}\n{rule}\nsteps: [{{ id: a, uses: noop }}]\n");
            (format!("workflows/{name}.yaml"), text)
        };
        let files = [
            own("w", "conflicts: [{ with: v, then: preempt }]"),
            own("v", "preempts: [w]"),
        ];
        let problems = load(&files).unwrap_err().to_string();
        assert!(
            problems.contains("workflows `v` and `w` pre-empt each other"),
            "{problems}"
        );
    }
}
