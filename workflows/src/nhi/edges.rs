//! What a declaration says of the graph. Pure.

use chrono::{DateTime, Utc};

use super::check::{CredentialFacts, NhiFacts};
use super::declare::Declared;
use super::graph::{Confidence, Edge, Node, NodeKind, Relation};

/// How the source of what a declaration says is called.
#[must_use]
pub fn source(key: &str) -> String {
    format!("nhi:{key}")
}

/// The edges of a declaration that was made at `at`.
#[must_use]
pub fn edges(declared: &Declared, at: DateTime<Utc>) -> Vec<Edge> {
    let source = source(&declared.key);
    let edge = |from: Node, relation: Relation, to: &Node| Edge {
        from,
        relation,
        to: to.clone(),
        source: source.clone(),
        first_seen_at: at,
        last_seen_at: at,
        confidence: Confidence::Declared,
    };
    let consumer = |name: &String| Node::new(NodeKind::Consumer, name);
    let nhi = Node::nhi(&declared.key);
    let mut edges = vec![
        edge(Node::person(&declared.owner), Relation::Owns, &nhi),
        edge(
            Node::new(NodeKind::Team, &declared.team),
            Relation::Owns,
            &nhi,
        ),
    ];
    edges.extend(
        declared
            .used_by
            .iter()
            .map(|name| edge(consumer(name), Relation::Uses, &nhi)),
    );
    edges.extend(
        declared
            .minted_by
            .iter()
            .map(|by| edge(by.clone(), Relation::Minted, &nhi)),
    );
    for credential in &declared.credentials {
        let node = Node::credential(credential.name());
        edges.push(edge(nhi.clone(), Relation::Owns, &node));
        let uses = credential.used_by.iter();
        edges.extend(uses.map(|name| edge(consumer(name), Relation::Uses, &node)));
        let knows = credential.known_by.iter();
        edges.extend(knows.map(|key| edge(Node::person(key), Relation::Knows, &node)));
        let lies = credential.stored_in.iter();
        edges.extend(
            lies.map(|place| edge(Node::new(NodeKind::Location, place), Relation::Knows, &node)),
        );
        edges.extend(
            credential
                .minted_by
                .iter()
                .map(|by| edge(by.clone(), Relation::Minted, &node)),
        );
    }
    // Said twice is said once.
    edges.sort();
    edges.dedup();
    edges
}

/// What matters of a declaration when something ends.
#[must_use]
pub fn facts(
    declared: &Declared,
    restore_s: Option<u64>,
    quiet_since: Option<DateTime<Utc>>,
) -> NhiFacts {
    // Where the last to go had no successor, nobody is named.
    let named = |key: &String| Some(key.clone()).filter(|key| !key.is_empty());
    NhiFacts {
        owner: named(&declared.owner),
        backup: named(&declared.backup),
        team: Some(declared.team.clone()),
        critical: declared.critical,
        break_glass: declared.break_glass,
        idle_s_max: declared
            .idle_max
            .map(|idle| idle.delta().num_seconds().unsigned_abs()),
        yearly: declared.yearly,
        restore_s,
        quiet_since,
    }
}

/// The same of one of its credentials, by name.
#[must_use]
pub fn credential_facts(
    declared: &Declared,
    name: &str,
    quiet_since: Option<DateTime<Utc>>,
) -> Option<CredentialFacts> {
    let credential = declared
        .credentials
        .iter()
        .find(|credential| credential.name() == name)?;
    Some(CredentialFacts {
        of: Some(Node::nhi(&declared.key)),
        replaceable: credential.replaced_by.is_some(),
        reversible: credential.reversible,
        quiet_since,
    })
}
