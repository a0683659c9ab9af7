//! One authority takes the place of another: which two they are, and what is issued anew next.
//!
//! Two are trusted at once, never three. What a rollover that came to no end left behind is taken up by the next: the one that
//! waits to sign is the new one, and the one that is still trusted behind the one that signs is the old one.

use std::collections::BTreeSet;

use super::order::order;
use crate::nhi::graph::{Edge, Node, Relation};

/// How many certificates are issued anew at once.
pub const AT_ONCE_MAX: usize = 50;

/// An authority that is trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trusted {
    pub id: String,
    pub signs: bool,
}

/// The two sides of a rollover.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sides {
    pub old: String,
    /// Made already, if it is.
    pub new: Option<String>,
}

/// Which is the old one and which the new one. `trusted` are those that are trusted, in the order in which they were made.
///
/// # Errors
/// In words, what a person has to see to first.
pub fn sides(trusted: &[Trusted]) -> Result<Sides, String> {
    let names = || {
        let names: Vec<&str> = trusted.iter().map(|one| one.id.as_str()).collect();
        names.join("`, `")
    };
    let sides = |old: &Trusted, new: Option<&Trusted>| Sides {
        old: old.id.clone(),
        new: new.map(|new| new.id.clone()),
    };
    match trusted {
        [] => Err(
            "there is no authority yet that could be replaced; it is made with its first certificate"
                .to_owned(),
        ),
        [one] if one.signs => Ok(sides(one, None)),
        // The first signs, and the second waits; or the second signs, and the first is to end.
        [first, second] if first.signs != second.signs => Ok(sides(first, Some(second))),
        [_] | [_, _] => Err(format!(
            "of `{}` not one signs; activate the one that is to",
            names()
        )),
        _ => Err(format!(
            "{} authorities are trusted (`{}`), and never more than two may be; destroy those that nobody needs",
            trusted.len(),
            names()
        )),
    }
}

/// Which of those that wait are issued anew now, beside those under way: what makes others before what it makes, and not more
/// than so many at once. In a circle nothing is before anything.
#[must_use]
pub fn next(waiting: &BTreeSet<Node>, under_way: &BTreeSet<Node>, edges: &[Edge]) -> Vec<Node> {
    let unfinished: BTreeSet<Node> = waiting.union(under_way).cloned().collect();
    let (first, circle) = order(&unfinished, edges);
    let held = |node: &Node| {
        !circle.contains(node)
            && edges.iter().any(|edge| {
                edge.relation == Relation::Minted
                    && edge.to == *node
                    && edge.from != *node
                    && unfinished.contains(&edge.from)
            })
    };
    let room = AT_ONCE_MAX.saturating_sub(under_way.len());
    first
        .iter()
        .chain(&circle)
        .filter(|node| waiting.contains(*node) && !held(node))
        .take(room)
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rotation::order::tests::minted;

    /// Those that are trusted, the one that signs with `!`: the old one and the new one.
    #[test]
    fn what_was_begun_is_taken_up() {
        for (trusted, told) in [
            ("", "no authority yet"),
            ("a!", "a > ?"),
            ("a! b", "a > b"),
            ("a b!", "a > b"),
            ("a b", "not one signs"),
            ("a", "not one signs"),
            ("a! b c", "3 authorities are trusted"),
        ] {
            let known: Vec<Trusted> = trusted
                .split_whitespace()
                .map(|word| Trusted {
                    id: word.trim_end_matches('!').to_owned(),
                    signs: word.ends_with('!'),
                })
                .collect();
            let found = match sides(&known) {
                Ok(sides) => format!("{} > {}", sides.old, sides.new.as_deref().unwrap_or("?")),
                Err(why) => why,
            };
            assert!(found.contains(told), "{trusted}: {found}");
        }
    }

    #[test]
    fn what_makes_others_is_issued_anew_before_what_it_makes() {
        let nodes = |text: &str| text.split_whitespace().map(Node::credential).collect();
        for (waiting, under_way, edges, told) in [
            ("a b c", "", "a>b b>c", "a"),
            ("b c", "a", "a>b b>c", ""),
            ("b c", "", "a>b b>c", "b"),
            ("a b c", "", "", "a b c"),
            ("a b c", "", "a>b b>a", "c a b"),
        ] {
            let edges: Vec<Edge> = edges.split_whitespace().map(minted).collect();
            let found = next(&nodes(waiting), &nodes(under_way), &edges);
            let names: Vec<&str> = found.iter().map(|node| node.name.as_str()).collect();
            assert_eq!(names.join(" "), told, "{waiting} | {under_way} | {edges:?}");
        }
        let many: BTreeSet<Node> = (0..200)
            .map(|number| Node::credential(number.to_string()))
            .collect();
        let (open, rest): (BTreeSet<Node>, BTreeSet<Node>) =
            many.into_iter().partition(|node| node.name.len() == 1);
        assert_eq!(next(&rest, &open, &[]).len(), AT_ONCE_MAX - 10);
    }
}
