//! Who owns, knows, made, uses and trusts what. Pure.
//!
//! A graph says of every edge where it is known from, when it was first and last seen, and how sure that is: somebody
//! *declared* it, a configuration *says* it, or it was *observed*. It never says that there is no edge: that takes
//! [coverage](super::check::Coverage).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The longest name of a node, in bytes.
pub const NAME_BYTES_MAX: usize = 400;

/// What a node is.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum NodeKind {
    /// By the key of the identity.
    Person,
    Team,
    /// A non-human identity.
    Nhi,
    /// `system/id`, in the words of the system.
    Credential,
    /// A program, job or machine that proves with a credential who it is.
    Consumer,
    /// Where a secret lies.
    Location,
    /// A certificate authority, a key set: what others believe.
    Anchor,
}

impl NodeKind {
    pub const ALL: [Self; 7] = [
        Self::Person,
        Self::Team,
        Self::Nhi,
        Self::Credential,
        Self::Consumer,
        Self::Location,
        Self::Anchor,
    ];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Person => "person",
            Self::Team => "team",
            Self::Nhi => "nhi",
            Self::Credential => "credential",
            Self::Consumer => "consumer",
            Self::Location => "location",
            Self::Anchor => "anchor",
        }
    }
}

/// One thing in the graph. Written `kind:name`, as in `person:E1003` or `credential:directory/ssh_key:SHA256:x`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Node {
    pub kind: NodeKind,
    pub name: String,
}

impl Node {
    #[must_use]
    pub fn new(kind: NodeKind, name: impl Into<String>) -> Self {
        Self {
            kind,
            name: name.into(),
        }
    }
    #[must_use]
    pub fn person(key: impl Into<String>) -> Self {
        Self::new(NodeKind::Person, key)
    }
    #[must_use]
    pub fn nhi(key: impl Into<String>) -> Self {
        Self::new(NodeKind::Nhi, key)
    }
    #[must_use]
    pub fn credential(name: impl Into<String>) -> Self {
        Self::new(NodeKind::Credential, name)
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind.as_str(), self.name)
    }
}

impl From<Node> for String {
    fn from(node: Node) -> Self {
        node.to_string()
    }
}

impl FromStr for Node {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let kinds = || NodeKind::ALL.map(NodeKind::as_str).join(", ");
        let Some((kind, name)) = text.split_once(':') else {
            return Err(format!(
                "`{text}` does not say what it is: write `kind:name`, with one of {}",
                kinds()
            ));
        };
        let known = NodeKind::ALL
            .into_iter()
            .find(|known| known.as_str() == kind);
        let Some(kind) = known else {
            return Err(format!(
                "`{kind}` is no kind of node: use one of {}",
                kinds()
            ));
        };
        if name.trim() != name || name.is_empty() || name.chars().any(char::is_control) {
            return Err(format!(
                "`{}` has no usable name: it is empty, or has control characters or blanks around it",
                text.escape_debug()
            ));
        }
        if name.len() > NAME_BYTES_MAX {
            return Err(format!(
                "the name of a {} is longer than {NAME_BYTES_MAX} bytes",
                kind.as_str()
            ));
        }
        Ok(Self::new(kind, name))
    }
}

impl TryFrom<String> for Node {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// How the first node of an edge stands to the second.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Relation {
    /// Answers for it: a person or team for a non-human identity, that for its credentials.
    Owns,
    /// Has seen the secret, or can read it.
    Knows,
    /// Made it, by right of being who they are: it may end when they do.
    Minted,
    /// Proves with it who it is.
    Uses,
    /// Believes what it signs.
    Trusts,
}

impl Relation {
    pub const ALL: [Self; 5] = [
        Self::Owns,
        Self::Knows,
        Self::Minted,
        Self::Uses,
        Self::Trusts,
    ];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Owns => "owns",
            Self::Knows => "knows",
            Self::Minted => "minted",
            Self::Uses => "uses",
            Self::Trusts => "trusts",
        }
    }
}

/// How sure an edge is, from least to most.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Confidence {
    /// Somebody said so.
    Declared,
    /// A configuration that was read says so.
    Configured,
    /// It was seen to happen.
    Observed,
}

impl Confidence {
    pub const ALL: [Self; 3] = [Self::Declared, Self::Configured, Self::Observed];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Declared => "declared",
            Self::Configured => "configured",
            Self::Observed => "observed",
        }
    }
}

/// That one node stands to another in a way, as one source says it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Edge {
    pub from: Node,
    pub relation: Relation,
    pub to: Node,
    /// Where it is known from: a file, a system, an audit log.
    pub source: String,
    pub first_seen_at: DateTime<Utc>,
    pub last_seen_at: DateTime<Utc>,
    pub confidence: Confidence,
}

impl Edge {
    /// Why an edge cannot be: what stands at its ends does not fit its relation.
    #[must_use]
    pub fn misfit(&self) -> Option<String> {
        use NodeKind::{Anchor, Consumer, Credential, Location, Nhi, Person, Team};
        let fits = match self.relation {
            Relation::Owns => {
                matches!(self.from.kind, Person | Team) && self.to.kind != Person
                    || self.from.kind == Nhi && self.to.kind == Credential
            }
            Relation::Knows => {
                matches!(self.from.kind, Person | Team | Consumer | Location)
                    && matches!(self.to.kind, Credential | Nhi)
            }
            Relation::Minted => {
                matches!(self.from.kind, Person | Nhi | Credential | Anchor)
                    && matches!(self.to.kind, Credential | Nhi | Anchor)
            }
            Relation::Uses => {
                matches!(self.from.kind, Person | Nhi | Consumer)
                    && matches!(self.to.kind, Credential | Nhi)
            }
            Relation::Trusts => self.to.kind == Anchor,
        };
        if !fits {
            return Some(format!(
                "a {} cannot stand as `{}` to a {}",
                self.from.kind.as_str(),
                self.relation.as_str(),
                self.to.kind.as_str()
            ));
        }
        if self.from == self.to {
            return Some(format!("`{}` stands to itself", self.from));
        }
        (self.last_seen_at < self.first_seen_at).then(|| {
            format!(
                "it was last seen at {}, before it was first",
                self.last_seen_at
            )
        })
    }
}

/// Edges, looked up from either end.
#[derive(Debug, Default)]
pub struct Graph<'a> {
    out: BTreeMap<&'a Node, Vec<&'a Edge>>,
    into: BTreeMap<&'a Node, Vec<&'a Edge>>,
}

impl<'a> Graph<'a> {
    #[must_use]
    pub fn new(edges: &'a [Edge]) -> Self {
        let mut graph = Self::default();
        for edge in edges {
            graph.out.entry(&edge.from).or_default().push(edge);
            graph.into.entry(&edge.to).or_default().push(edge);
        }
        graph
    }

    /// The edges that begin at `node`.
    pub fn outward(&self, node: &Node, relation: Relation) -> impl Iterator<Item = &'a Edge> {
        let edges = self.out.get(node).into_iter().flatten().copied();
        edges.filter(move |edge| edge.relation == relation)
    }

    /// The edges that end at `node`.
    pub fn inward(&self, node: &Node, relation: Relation) -> impl Iterator<Item = &'a Edge> {
        let edges = self.into.get(node).into_iter().flatten().copied();
        edges.filter(move |edge| edge.relation == relation)
    }

    /// All that can be reached from `start` over edges of these relations, without `start`; nearest first, each once.
    #[must_use]
    pub fn reached(&self, start: &Node, relations: &[Relation]) -> Vec<&'a Node> {
        let mut seen = BTreeSet::new();
        let mut reached = Vec::new();
        let mut queue: VecDeque<&Node> = VecDeque::from([start]);
        while let Some(node) = queue.pop_front() {
            for edge in self.out.get(node).into_iter().flatten() {
                if relations.contains(&edge.relation) && edge.to != *start && seen.insert(&edge.to)
                {
                    reached.push(&edge.to);
                    queue.push_back(&edge.to);
                }
            }
        }
        reached
    }
}

/// Puts `nodes` in an order in which each comes after those it `needs`, and says which cannot be put: they need each other.
///
/// Nodes that nothing orders keep the order of their names, so the same graph gives the same order.
#[must_use]
pub fn ordered(needs: &BTreeMap<Node, BTreeSet<Node>>) -> (Vec<Node>, BTreeSet<Node>) {
    let mut left: BTreeMap<&Node, BTreeSet<&Node>> = needs
        .iter()
        .map(|(node, needed)| {
            let known = needed.iter().filter(|other| needs.contains_key(*other));
            (node, known.collect())
        })
        .collect();
    let mut followers: BTreeMap<&Node, Vec<&Node>> = BTreeMap::new();
    for (node, needed) in &left {
        for other in needed {
            followers.entry(other).or_default().push(node);
        }
    }
    let mut ready: BTreeSet<&Node> = left
        .iter()
        .filter(|(_, needed)| needed.is_empty())
        .map(|(node, _)| *node)
        .collect();
    let mut order = Vec::with_capacity(left.len());
    while let Some(node) = ready.pop_first() {
        left.remove(node);
        order.push(node.clone());
        for follower in followers.get(node).into_iter().flatten() {
            if let Some(needed) = left.get_mut(follower) {
                needed.remove(node);
                if needed.is_empty() {
                    ready.insert(follower);
                }
            }
        }
    }
    (order, left.into_keys().cloned().collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn node(text: &str) -> Node {
        text.parse().unwrap()
    }

    fn edge(from: &str, relation: Relation, to: &str) -> Edge {
        let at = "2026-01-05T00:00:00Z".parse().unwrap();
        Edge {
            from: node(from),
            relation,
            to: node(to),
            source: "file".into(),
            first_seen_at: at,
            last_seen_at: at,
            confidence: Confidence::Declared,
        }
    }

    #[test]
    fn a_node_is_read_as_it_is_written_and_nothing_else_is() {
        let key = node("credential:directory/ssh_key:SHA256:ab");
        assert_eq!(key.name, "directory/ssh_key:SHA256:ab");
        assert_eq!(node(&key.to_string()), key);
        let long = format!("nhi:{}", "x".repeat(NAME_BYTES_MAX + 1));
        for wrong in [
            "",
            "E1003",
            "persona:x",
            "nhi:",
            "nhi: x",
            "nhi:a\nb",
            long.as_str(),
        ] {
            assert!(wrong.parse::<Node>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn an_edge_whose_ends_do_not_fit_says_so() {
        assert_eq!(edge("person:a", Relation::Owns, "nhi:x").misfit(), None);
        assert_eq!(edge("nhi:x", Relation::Owns, "credential:k").misfit(), None);
        assert_eq!(
            edge("credential:k", Relation::Minted, "credential:l").misfit(),
            None
        );
        for (from, relation, to) in [
            ("nhi:x", Relation::Owns, "person:a"),
            ("credential:k", Relation::Uses, "credential:l"),
            ("consumer:c", Relation::Trusts, "credential:k"),
            ("nhi:x", Relation::Uses, "nhi:x"),
        ] {
            assert!(edge(from, relation, to).misfit().is_some(), "{from} {to}");
        }
        let mut backwards = edge("person:a", Relation::Owns, "nhi:x");
        backwards.last_seen_at -= chrono::TimeDelta::seconds(1);
        assert!(backwards.misfit().is_some());
    }

    #[test]
    fn what_is_reached_is_named_once_also_over_a_cycle() {
        let edges = [
            edge("person:a", Relation::Minted, "credential:k"),
            edge("credential:k", Relation::Minted, "credential:l"),
            edge("credential:l", Relation::Minted, "credential:k"),
            edge("person:a", Relation::Knows, "credential:m"),
        ];
        let graph = Graph::new(&edges);
        let names = |relations: &[Relation]| -> Vec<String> {
            let reached = graph.reached(&node("person:a"), relations);
            reached.into_iter().map(ToString::to_string).collect()
        };
        assert_eq!(names(&[Relation::Minted]), ["credential:k", "credential:l"]);
        assert_eq!(names(&[Relation::Knows]), ["credential:m"]);
    }

    #[test]
    fn what_is_needed_comes_first_and_a_cycle_is_told() {
        let needs = |pairs: &[(&str, &[&str])]| -> BTreeMap<Node, BTreeSet<Node>> {
            let of = |(name, needed): &(&str, &[&str])| {
                (node(name), needed.iter().map(|other| node(other)).collect())
            };
            pairs.iter().map(of).collect()
        };
        let (order, stuck) = ordered(&needs(&[
            ("nhi:a", &["nhi:b", "nhi:unknown"]),
            ("nhi:b", &["nhi:c"]),
            ("nhi:c", &[]),
        ]));
        assert_eq!(order, [node("nhi:c"), node("nhi:b"), node("nhi:a")]);
        assert!(stuck.is_empty());
        let (order, stuck) = ordered(&needs(&[
            ("nhi:a", &["nhi:b"]),
            ("nhi:b", &["nhi:a"]),
            ("nhi:c", &[]),
        ]));
        assert_eq!(order, [node("nhi:c")]);
        assert_eq!(stuck, BTreeSet::from([node("nhi:a"), node("nhi:b")]));
    }
}
