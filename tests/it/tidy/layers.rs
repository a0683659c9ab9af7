//! Inside the engine: core <- evidence <- store <- runner. Nothing names a layer above its own.

use super::source::{Finding, Source, is_word};
use super::{finds, holds};

/// From the bottom up.
const LAYERS: [&str; 4] = ["core", "evidence", "store", "runner"];
const FOLDER: &str = "engine/src/";

fn rule(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| source.is_rust()) {
        let Some(inside) = source.path.strip_prefix(FOLDER) else {
            continue;
        };
        let modules = module_path(inside);
        let Some(own) = modules.first().and_then(|name| height(name)) else {
            continue;
        };
        for (offset, name) in root_names(&source.code, modules.len()) {
            if height(&name).is_some_and(|other| other > own) {
                let what = format!("`{}` names `{name}`, a layer above it", LAYERS[own]);
                findings.push(source.finding(source.line_of(offset), what));
            }
        }
    }
    findings
}

fn height(name: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| *layer == name)
}

fn module_path(inside: &str) -> Vec<&str> {
    let mut modules: Vec<&str> = inside.trim_end_matches(".rs").split('/').collect();
    if matches!(modules.last(), Some(&"mod" | &"lib")) {
        modules.pop();
    }
    modules
}

/// The names that follow the crate's root in paths: after `crate::`, or after as many `super::` as lead there.
fn root_names(code: &str, depth: usize) -> Vec<(usize, String)> {
    let supers = "super::".repeat(depth);
    let mut names = Vec::new();
    for prefix in ["crate::", supers.as_str()] {
        if prefix.is_empty() {
            continue;
        }
        for (offset, _) in code.match_indices(prefix) {
            let before = code[..offset].chars().next_back();
            if before.is_some_and(|character| is_word(character) || character == ':') {
                continue;
            }
            let rest = &code[offset + prefix.len()..];
            if let Some(group) = rest.strip_prefix('{') {
                for (inner, name) in top_names(group) {
                    names.push((offset + prefix.len() + 1 + inner, name));
                }
            } else {
                names.push((
                    offset,
                    rest.chars()
                        .take_while(|character| is_word(*character))
                        .collect(),
                ));
            }
        }
    }
    names.sort();
    names
}

/// The first name of each element of a group, up to the brace that closes it.
fn top_names(group: &str) -> Vec<(usize, String)> {
    let mut names = Vec::new();
    let mut depth = 0_usize;
    let mut fresh = true;
    for (offset, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => fresh = true,
            character if fresh && depth == 0 && is_word(character) => {
                names.push((
                    offset,
                    group[offset..]
                        .chars()
                        .take_while(|character| is_word(*character))
                        .collect(),
                ));
                fresh = false;
            }
            _ => {}
        }
    }
    names
}

#[test]
fn the_layers_of_the_engine_point_down() {
    holds(rule);
}

#[test]
fn a_layer_that_points_up_is_found() {
    let check = |path: &str, text: &str, lines: &[usize]| finds(rule, &[(path, text)], lines);
    check(
        "engine/src/core/case.rs",
        "\nuse crate::store::Row;\n",
        &[2],
    );
    check(
        "engine/src/core/case.rs",
        "use crate::{\n core::id, runner::{port}, evidence::x};\n",
        &[2, 2],
    );
    check(
        "engine/src/core/case.rs",
        "use super::super::store::Row;\n",
        &[1],
    );
    check(
        "engine/src/core/definition/mod.rs",
        "use super::super::store::Row;\n",
        &[1],
    );
    check(
        "engine/src/evidence/mod.rs",
        "fn a() -> super::runner::Clock {}\n",
        &[1],
    );
    check(
        "engine/src/store/mod.rs",
        "let a = crate::runner::Clock;\n",
        &[1],
    );
    check(
        "engine/src/store/postgres/mod.rs",
        "use super::store;\n",
        &[],
    );
    check(
        "engine/src/runner/mod.rs",
        "use crate::{core, store, evidence};\n",
        &[],
    );
    check(
        "engine/src/core/case.rs",
        "// use crate::store\nlet a = \"crate::store\";\n",
        &[],
    );
    check("engine/src/core/case.rs", "use other_crate::store;\n", &[]);
}
