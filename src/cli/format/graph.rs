//! The graph of a workflow as rails of characters, in the way version control draws history.
//!
//! ```text
//! ✓   begin
//! ✓   plan
//! ├─╮
//! ✓ │ create
//!   ✓ grant
//! ```
//!
//! Every column is a rail towards the step it will meet. A step ends the rails that meet it and starts one for
//! each step that needs it. A need that follows from others is not drawn.

use super::tone::{Tone, paint};

/// Wider than this the rails say less than a plain list.
const RAILS_MAX: usize = 16;

/// One step: its sign, and the lines that stand beside it.
pub struct Node {
    pub tone: Tone,
    /// The first line stands on the rail's height, the others below it.
    pub lines: Vec<String>,
    /// Positions of the steps it needs; all before it.
    pub needs: Vec<usize>,
}

/// Draws the graph, one string a line.
#[must_use]
pub fn draw(nodes: &[Node]) -> Vec<String> {
    let children = reduced(nodes);
    let mut rails: Vec<Option<usize>> = Vec::new();
    let mut rows: Vec<Row> = Vec::new();
    for (index, node) in nodes.iter().enumerate() {
        let mut here: Vec<usize> = rails
            .iter()
            .enumerate()
            .filter(|(_, rail)| **rail == Some(index))
            .map(|(column, _)| column)
            .collect();
        let column = match here.first() {
            Some(first) => *first,
            None => free(&mut rails, 0),
        };
        if here.len() > 1 {
            let others = here.split_off(1);
            rows.push(Row::Bend(bend(&rails, column, &others, '╯', '┴')));
            for other in others {
                put(&mut rails, other, None);
            }
        }
        let before: Vec<bool> = rails.iter().map(Option::is_some).collect();
        rows.push(Row::Step {
            column,
            rails: before,
            node: index,
        });
        let mut next = children.get(index).cloned().unwrap_or_default().into_iter();
        put(&mut rails, column, next.next());
        let mut added = Vec::new();
        for child in next {
            let new = free(&mut rails, column + 1);
            put(&mut rails, new, Some(child));
            added.push(new);
        }
        let after: Vec<bool> = rails
            .iter()
            .enumerate()
            .map(|(column, rail)| rail.is_some() && !added.contains(&column))
            .collect();
        for line in node.lines.iter().skip(1) {
            rows.push(Row::Text {
                rails: after.clone(),
                text: line.clone(),
            });
        }
        if !added.is_empty() {
            rows.push(Row::Bend(bend(&rails, column, &added, '╮', '┬')));
        }
        while rails.last() == Some(&None) {
            rails.pop();
        }
    }
    let width = rows.iter().map(Row::width).max().unwrap_or(0);
    rows.into_iter()
        .map(|row| row.text(nodes, if width > RAILS_MAX { 0 } else { width }))
        .collect()
}

enum Row {
    Step {
        column: usize,
        rails: Vec<bool>,
        node: usize,
    },
    Text {
        rails: Vec<bool>,
        text: String,
    },
    Bend(String),
}

impl Row {
    fn width(&self) -> usize {
        match self {
            Self::Step { column, rails, .. } => rails.len().max(column + 1),
            Self::Text { rails, .. } => rails.len(),
            Self::Bend(text) => text.chars().count().div_ceil(2),
        }
    }

    /// The line; with a width of 0 without rails.
    fn text(self, nodes: &[Node], width: usize) -> String {
        match self {
            Self::Step {
                column,
                rails,
                node,
            } => {
                let Some(node) = nodes.get(node) else {
                    return String::new();
                };
                let sign = paint(node.tone.sign(), node.tone);
                let first = node.lines.first().map(String::as_str).unwrap_or_default();
                if width == 0 {
                    return format!("{sign} {first}");
                }
                let mut line = String::new();
                for at in 0..width {
                    let rail = rails.get(at).copied().unwrap_or(false);
                    if at == column {
                        line.push_str(&sign);
                    } else {
                        line.push_str(&gutter(rail));
                    }
                    line.push(' ');
                }
                format!("{line} {first}")
            }
            Self::Text { rails, text } => {
                if width == 0 {
                    return format!("  {text}");
                }
                let mut line = String::new();
                for at in 0..width {
                    line.push_str(&gutter(rails.get(at).copied().unwrap_or(false)));
                    line.push(' ');
                }
                format!("{line} {text}")
            }
            Self::Bend(text) => {
                if width == 0 {
                    String::new()
                } else {
                    paint(text, Tone::Dim)
                }
            }
        }
    }
}

fn gutter(rail: bool) -> String {
    if rail {
        paint('│', Tone::Dim)
    } else {
        " ".to_owned()
    }
}

/// The line on which rails leave `column` or come to it.
fn bend(
    rails: &[Option<usize>],
    column: usize,
    others: &[usize],
    last: char,
    middle: char,
) -> String {
    let end = others.iter().copied().max().unwrap_or(column);
    let mut line = String::new();
    for at in 0..rails.len() {
        let between = at > column && at < end;
        let sign = if at == column {
            '├'
        } else if at == end {
            last
        } else if others.contains(&at) {
            middle
        } else if rails.get(at).copied().flatten().is_some() {
            if between { '┼' } else { '│' }
        } else if between {
            '─'
        } else {
            ' '
        };
        line.push(sign);
        line.push(if at >= column && at < end { '─' } else { ' ' });
    }
    line.trim_end().to_owned()
}

/// The first free rail from `from` on.
fn free(rails: &mut Vec<Option<usize>>, from: usize) -> usize {
    while rails.len() < from {
        rails.push(None);
    }
    let found = rails
        .iter()
        .enumerate()
        .skip(from)
        .find(|(_, rail)| rail.is_none())
        .map(|(column, _)| column);
    found.unwrap_or_else(|| {
        rails.push(None);
        rails.len() - 1
    })
}

fn put(rails: &mut [Option<usize>], column: usize, target: Option<usize>) {
    if let Some(rail) = rails.get_mut(column) {
        *rail = target;
    }
}

/// For each step the steps that need it, without needs that follow from others.
fn reduced(nodes: &[Node]) -> Vec<Vec<usize>> {
    // For each step everything before it that it needs, directly or not.
    let mut ancestors: Vec<std::collections::BTreeSet<usize>> = Vec::with_capacity(nodes.len());
    for (index, node) in nodes.iter().enumerate() {
        let mut all = std::collections::BTreeSet::new();
        for need in node.needs.iter().filter(|need| **need < index) {
            all.insert(*need);
            if let Some(theirs) = ancestors.get(*need) {
                all.extend(theirs.iter().copied());
            }
        }
        ancestors.push(all);
    }
    let mut children = vec![Vec::new(); nodes.len()];
    for (index, node) in nodes.iter().enumerate() {
        for need in &node.needs {
            let follows = node.needs.iter().any(|other| {
                other != need
                    && ancestors
                        .get(*other)
                        .is_some_and(|theirs| theirs.contains(need))
            });
            if let (false, Some(list)) = (follows, children.get_mut(*need)) {
                list.push(index);
            }
        }
    }
    children
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        reason = "tests"
    )]
    use super::*;

    #[track_caller]
    fn check(steps: &[(&str, &[usize])], expected: &str) {
        let nodes: Vec<Node> = steps
            .iter()
            .map(|(name, needs)| Node {
                tone: Tone::Dim,
                lines: name.split('|').map(str::to_owned).collect(),
                needs: needs.to_vec(),
            })
            .collect();
        let drawn: Vec<String> = draw(&nodes)
            .iter()
            .map(|line| {
                anstream::adapter::strip_str(line)
                    .to_string()
                    .trim_end()
                    .to_owned()
            })
            .collect();
        assert_eq!(drawn.join("\n"), expected);
    }

    #[test]
    fn a_line_is_a_line() {
        check(
            &[("a", &[]), ("b|more", &[0]), ("c", &[1])],
            "·  a\n·  b\n│  more\n·  c",
        );
    }

    #[test]
    fn rails_part_and_meet() {
        check(
            &[
                ("a", &[]),
                ("b", &[0]),
                ("c", &[0]),
                ("d", &[0]),
                ("e", &[1, 2, 3]),
            ],
            "·      a\n\
             ├─┬─╮\n\
             · │ │  b\n\
             │ · │  c\n\
             │ │ ·  d\n\
             ├─┴─╯\n\
             ·      e",
        );
    }

    #[test]
    fn a_need_that_follows_is_not_drawn() {
        check(
            &[("a", &[]), ("b", &[0]), ("c", &[0, 1])],
            "·  a\n·  b\n·  c",
        );
    }

    #[test]
    fn steps_without_needs_stand_beside_each_other() {
        check(&[("a", &[]), ("b", &[]), ("c", &[1])], "·  a\n·  b\n·  c");
    }
}
