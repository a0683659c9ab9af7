//! What makes others is replaced before what it makes: a certificate authority before its certificates, a token before the
//! keys that were got with it.

use std::collections::{BTreeMap, BTreeSet};

use crate::nhi::graph::{Edge, Node, Relation, ordered};

/// `credentials` in the order in which they are to be replaced, and those that made each other in a circle: a person has to
/// untie them.
#[must_use]
pub fn order(credentials: &BTreeSet<Node>, edges: &[Edge]) -> (Vec<Node>, BTreeSet<Node>) {
    let mut needs: BTreeMap<Node, BTreeSet<Node>> = credentials
        .iter()
        .map(|node| (node.clone(), BTreeSet::new()))
        .collect();
    for edge in edges
        .iter()
        .filter(|edge| edge.relation == Relation::Minted)
    {
        if credentials.contains(&edge.from)
            && let Some(first) = needs.get_mut(&edge.to)
        {
            first.insert(edge.from.clone());
        }
    }
    ordered(&needs)
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::nhi::graph::Confidence;

    /// The one and what it made, with `>` between.
    pub(in crate::rotation) fn minted(text: &str) -> Edge {
        let (from, to) = text.split_once('>').unwrap();
        let at = "2026-11-26T00:00:00Z".parse().unwrap();
        Edge {
            from: Node::credential(from),
            relation: Relation::Minted,
            to: Node::credential(to),
            source: "test".to_owned(),
            first_seen_at: at,
            last_seen_at: at,
            confidence: Confidence::Declared,
        }
    }

    #[test]
    fn what_makes_others_comes_first_and_a_circle_is_told() {
        for (names, edges, told) in [
            (
                "s/leaf s/ca s/other",
                "s/ca>s/leaf",
                "s/ca s/leaf s/other |",
            ),
            ("s/c s/b s/a", "s/a>s/b s/b>s/c", "s/a s/b s/c |"),
            // What is not to be replaced now holds nothing up.
            ("s/leaf", "s/ca>s/leaf", "s/leaf |"),
            ("s/a s/b s/c", "s/a>s/b s/b>s/a", "s/c | s/a s/b"),
        ] {
            let nodes = names.split_whitespace().map(Node::credential).collect();
            let edges: Vec<Edge> = edges.split_whitespace().map(minted).collect();
            let (first, circle) = order(&nodes, &edges);
            let show = |nodes: Vec<&Node>| {
                nodes
                    .iter()
                    .map(|node| node.name.as_str())
                    .collect::<Vec<_>>()
                    .join(" ")
            };
            let found = format!(
                "{} | {}",
                show(first.iter().collect()),
                show(circle.iter().collect())
            );
            assert_eq!(found.trim_end(), told, "{names}");
        }
    }
}
