//! The graph as a picture: for Graphviz, and as SVG without it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use workflows::nhi::graph::{Confidence, Edge, Node, NodeKind};

use super::super::format::markup::{escaped, quoted};
use super::super::format::shortened;

const BOX_WIDTH: usize = 210;
const BOX_HEIGHT: usize = 30;
const COLUMN_WIDTH: usize = 330;
const ROW_HEIGHT: usize = 46;
const MARGIN: usize = 20;
/// What fits into a box, in characters: the kind and the name.
const TEXT_CHARS_MAX: usize = 30;
/// Between two lines that pass below everything.
const PASS_HEIGHT: usize = 16;

/// In the language of Graphviz.
#[must_use]
pub(super) fn dot(edges: &[Edge]) -> String {
    let mut text = String::from(
        "digraph nhi {\n  rankdir=LR;\n  node [shape=box, fontname=\"sans-serif\"];\n",
    );
    for node in nodes(edges) {
        let quoted = quoted(&node.to_string());
        let _ = writeln!(
            text,
            "  {quoted} [style=filled, fillcolor=\"{}\"];",
            colour(node.kind)
        );
    }
    for edge in edges {
        let style = match edge.confidence {
            Confidence::Declared => "dashed",
            Confidence::Configured | Confidence::Observed => "solid",
        };
        let _ = writeln!(
            text,
            "  {} -> {} [label=\"{}\", style={style}];",
            quoted(&edge.from.to_string()),
            quoted(&edge.to.to_string()),
            edge.relation.as_str()
        );
    }
    text.push_str("}\n");
    text
}

fn nodes(edges: &[Edge]) -> BTreeSet<&Node> {
    edges
        .iter()
        .flat_map(|edge| [&edge.from, &edge.to])
        .collect()
}

fn colour(kind: NodeKind) -> &'static str {
    match kind {
        NodeKind::Person | NodeKind::Team => "#dbeafe",
        NodeKind::Nhi => "#fde68a",
        NodeKind::Credential => "#fecaca",
        NodeKind::Consumer => "#dcfce7",
        NodeKind::Location | NodeKind::Anchor => "#e5e7eb",
    }
}

/// Who answers for things on the left, then identities, their credentials, and on the right what uses or holds them.
fn column(kind: NodeKind) -> usize {
    match kind {
        NodeKind::Person | NodeKind::Team => 0,
        NodeKind::Nhi => 1,
        NodeKind::Credential => 2,
        NodeKind::Consumer | NodeKind::Location | NodeKind::Anchor => 3,
    }
}

/// As SVG, which needs nothing to be looked at but a browser. What was declared and never seen is drawn dashed.
#[must_use]
pub(super) fn svg(edges: &[Edge]) -> String {
    let mut rows = [0_usize; 4];
    let mut places: BTreeMap<&Node, (usize, usize)> = BTreeMap::new();
    for node in nodes(edges) {
        let column = column(node.kind);
        if let Some(row) = rows.get_mut(column) {
            places.insert(
                node,
                (MARGIN + column * COLUMN_WIDTH, MARGIN + *row * ROW_HEIGHT),
            );
            *row += 1;
        }
    }
    // What leads past a column would lead behind its boxes: it goes below them all.
    let passes = |edge: &Edge| column(edge.from.kind).abs_diff(column(edge.to.kind)) > 1;
    let below = MARGIN + rows.iter().max().copied().unwrap_or(0).max(1) * ROW_HEIGHT;
    let height = below + MARGIN + edges.iter().filter(|edge| passes(edge)).count() * PASS_HEIGHT;
    let mut pass = below;
    let width = 2 * MARGIN + 3 * COLUMN_WIDTH + BOX_WIDTH;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <defs><marker id=\"to\" viewBox=\"0 0 8 8\" refX=\"8\" refY=\"4\" markerWidth=\"7\" markerHeight=\"7\" \
         orient=\"auto\"><path d=\"M0 0 L8 4 L0 8 z\" fill=\"#64748b\"/></marker></defs>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    for edge in edges {
        if let (Some(from), Some(to)) = (places.get(&edge.from), places.get(&edge.to)) {
            if passes(edge) {
                pass += PASS_HEIGHT;
                passing(&mut text, edge, (*from, *to), pass);
            } else {
                line(&mut text, edge, *from, *to);
            }
        }
    }
    for (node, (x, y)) in places {
        let name = shortened(&node.name, TEXT_CHARS_MAX - node.kind.as_str().len());
        let _ = writeln!(
            text,
            "<g><title>{}</title><rect x=\"{x}\" y=\"{y}\" width=\"{BOX_WIDTH}\" height=\"{BOX_HEIGHT}\" rx=\"5\" \
             fill=\"{}\" stroke=\"#94a3b8\"/><text x=\"{}\" y=\"{}\"><tspan fill=\"#475569\">{} </tspan>{}</text></g>",
            escaped(&node.to_string()),
            colour(node.kind),
            x + 8,
            y + 19,
            node.kind.as_str(),
            escaped(&name)
        );
    }
    text.push_str("</svg>\n");
    text
}

/// From the side of the one box that looks at the other.
fn line(text: &mut String, edge: &Edge, from: (usize, usize), to: (usize, usize)) {
    let middle = BOX_HEIGHT / 2;
    let (from_x, to_x) = match from.0.cmp(&to.0) {
        std::cmp::Ordering::Less => (from.0 + BOX_WIDTH, to.0),
        std::cmp::Ordering::Greater => (from.0, to.0 + BOX_WIDTH),
        // In one column: around the right side.
        std::cmp::Ordering::Equal => (from.0 + BOX_WIDTH, to.0 + BOX_WIDTH),
    };
    let (from_y, to_y) = (from.1 + middle, to.1 + middle);
    let bend = if from.0 == to.0 { 60 } else { 0 };
    let control = (from_x + to_x) / 2 + bend;
    let dashes = dashes(edge);
    let _ = writeln!(
        text,
        "<path d=\"M{from_x} {from_y} C{control} {from_y} {control} {to_y} {to_x} {to_y}\" fill=\"none\" \
         stroke=\"#64748b\"{dashes} marker-end=\"url(#to)\"/><text x=\"{}\" y=\"{}\" fill=\"#475569\" font-size=\"10\" \
         text-anchor=\"middle\">{}</text>",
        control,
        (from_y + to_y) / 2 - 3,
        edge.relation.as_str()
    );
}

/// Down from the one box, along `y`, and up to the other.
fn passing(text: &mut String, edge: &Edge, (from, to): ((usize, usize), (usize, usize)), y: usize) {
    let side = |at: (usize, usize), other: (usize, usize)| match at.0 < other.0 {
        true => (at.0 + BOX_WIDTH, at.0 + BOX_WIDTH + PASS_HEIGHT),
        false => (at.0, at.0 - PASS_HEIGHT),
    };
    let ((from_x, from_turn), (to_x, to_turn)) = (side(from, to), side(to, from));
    let (from_y, to_y) = (from.1 + BOX_HEIGHT / 2, to.1 + BOX_HEIGHT / 2);
    let _ = writeln!(
        text,
        "<path d=\"M{from_x} {from_y} C{from_turn} {from_y} {from_turn} {y} {} {y} L{} {y} C{to_turn} {y} {to_turn} {to_y} \
         {to_x} {to_y}\" fill=\"none\" stroke=\"#64748b\"{} marker-end=\"url(#to)\"/><text x=\"{}\" y=\"{}\" \
         fill=\"#475569\" font-size=\"10\" text-anchor=\"middle\">{}</text>",
        turn(from_turn, to_turn),
        turn(to_turn, from_turn),
        dashes(edge),
        (from_x + to_x) / 2,
        y - 3,
        edge.relation.as_str()
    );
}

/// A little from `at` towards `other`.
fn turn(at: usize, other: usize) -> usize {
    if at < other {
        at + PASS_HEIGHT
    } else {
        at - PASS_HEIGHT
    }
}

fn dashes(edge: &Edge) -> &'static str {
    match edge.confidence {
        Confidence::Declared => " stroke-dasharray=\"5 3\"",
        Confidence::Configured | Confidence::Observed => "",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use workflows::nhi::graph::Relation;

    fn edges() -> Vec<Edge> {
        let at = "2026-01-05T00:00:00Z".parse().unwrap();
        let edge = |from: &str, relation, to: &str| Edge {
            from: from.parse().unwrap(),
            relation,
            to: to.parse().unwrap(),
            source: "file".into(),
            first_seen_at: at,
            last_seen_at: at,
            confidence: Confidence::Declared,
        };
        vec![
            edge("person:E1", Relation::Owns, "nhi:a\"<b>"),
            edge("consumer:x", Relation::Uses, "credential:db/k"),
            edge("credential:db/k", Relation::Minted, "credential:db/l"),
        ]
    }

    /// A hostile name stays a name in both.
    #[test]
    fn what_names_hold_is_no_markup() {
        let dot = dot(&edges());
        assert!(dot.contains("\"nhi:a\\\"<b>\""), "{dot}");
        assert_eq!(dot.matches(" -> ").count(), 3);
        let svg = svg(&edges());
        assert!(
            !svg.contains("<b>") && svg.contains("a&quot;&lt;b&gt;"),
            "{svg}"
        );
        assert_eq!(svg.matches("<path d=\"M").count(), 4, "{svg}");
    }
}
