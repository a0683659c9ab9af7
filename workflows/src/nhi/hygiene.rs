//! Which credentials fall short of what policy wants of them, and who is told. Pure.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::declare::{Declared, DeclaredCredential};
use super::graph::{Edge, Graph, Node, Relation};
use crate::policy::{CredentialRule, CredentialState, Fault};

/// A credential that falls short of a rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Shortfall {
    /// `system/id`.
    pub credential: String,
    pub nhi: String,
    pub environment: String,
    pub rule: String,
    #[serde(flatten)]
    pub fault: Fault,
    /// Who is told: the owner, then the backup, then the team as a role; more of them as an end comes nearer.
    pub tell: Vec<String>,
}

/// What rules ask about a credential, from what was declared of it and the edges that are known.
#[must_use]
pub fn state(
    declared: &Declared,
    credential: &DeclaredCredential,
    edges: &Graph<'_>,
    elsewhere: BTreeSet<String>,
) -> CredentialState {
    let (node, nhi) = (
        Node::credential(credential.name()),
        Node::nhi(&declared.key),
    );
    let used: Vec<&Edge> = edges
        .inward(&node, Relation::Uses)
        .chain(edges.inward(&nhi, Relation::Uses))
        .collect();
    let observed = used
        .iter()
        .filter(|edge| edge.confidence != super::graph::Confidence::Declared);
    CredentialState {
        name: credential.name(),
        kind: credential.kind,
        environment: declared.environment.clone(),
        issued: credential.issued,
        expires: credential.expires,
        key: credential.key,
        last_used: observed.map(|edge| edge.last_seen_at).max(),
        consumers: used.iter().map(|edge| edge.from.name.clone()).collect(),
        elsewhere,
    }
}

/// Every shortfall of what is declared, by credential and rule.
#[must_use]
pub fn shortfalls(
    declared: &[Declared],
    edges: &[Edge],
    rules: &[CredentialRule],
    now: DateTime<Utc>,
) -> Vec<Shortfall> {
    let graph = Graph::new(edges);
    // What is named by its own fingerprint is the same secret wherever it stands.
    let mut stands: BTreeMap<&str, Vec<(&str, String)>> = BTreeMap::new();
    for one in declared {
        for credential in one
            .credentials
            .iter()
            .filter(|it| it.id.contains(":SHA256:") || it.id.contains(":sha256:"))
        {
            let place = (one.environment.as_str(), credential.name());
            stands.entry(&credential.id).or_default().push(place);
        }
    }
    let mut found = Vec::new();
    for one in declared {
        for credential in &one.credentials {
            let elsewhere = stands.get(credential.id.as_str()).into_iter().flatten();
            let elsewhere = elsewhere.filter(|(environment, _)| *environment != one.environment);
            let elsewhere = elsewhere.map(|(_, name)| name.clone()).collect();
            let state = state(one, credential, &graph, elsewhere);
            for rule in rules {
                for fault in rule.faults(&state, now) {
                    found.push(Shortfall {
                        credential: state.name.clone(),
                        nhi: one.key.clone(),
                        environment: one.environment.clone(),
                        rule: rule.name.clone(),
                        tell: tell(one, &fault),
                        fault,
                    });
                }
            }
        }
    }
    found.sort();
    found
}

/// Who is told of a fault: at first whoever answers for it, and more the nearer an end comes.
fn tell(declared: &Declared, fault: &Fault) -> Vec<String> {
    let all = [
        format!("person:{}", declared.owner),
        format!("person:{}", declared.backup),
        format!("role:{}", declared.team),
    ];
    let most = match fault {
        Fault::Expired { .. } => all.len(),
        // The last moment but one tells the backup, too, the last one the team.
        Fault::Expires { told, of, .. } => all.len().saturating_sub(of - told).max(1),
        _ => 1,
    };
    let named = all.into_iter().filter(|who| !who.ends_with(':'));
    named.take(most).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

    use chrono::TimeDelta;

    use super::*;
    use crate::nhi::declare;
    use crate::nhi::graph::{Confidence, NodeKind};
    use crate::policy::{PolicySet, Schema};

    const DECLARED: &str = "
nhis:
  - key: web
    kind: workload
    environment: production
    purpose: serves
    team: edge
    owner: ann
    backup: bob
    review: 2027-01-31
    credentials:
      - {system: ca, id: 'certificate:sha256:ab', kind: certificate, issued: 2026-01-01T00:00:00Z,
         expires: 2026-12-31T00:00:00Z, key: 'rsa:2048', used_by: [nginx, haproxy]}
  - key: web-test
    kind: workload
    environment: test
    purpose: serves
    team: edge
    owner: ann
    backup: bob
    review: 2027-01-31
    credentials:
      - {system: test-ca, id: 'certificate:sha256:ab', kind: certificate, issued: 2026-01-01T00:00:00Z,
         expires: 2026-12-31T00:00:00Z, key: ed25519}
";

    fn rules(text: &str) -> Vec<CredentialRule> {
        let file = format!("credentials:\n{text}\nroles: [{{ name: all, when: 'true' }}]\n");
        let policy = PolicySet::load(&[("p.yaml".to_owned(), file)], &Schema::new([""; 0]));
        policy.unwrap().credentials().to_vec()
    }

    fn told(rule: &str, now: &str) -> Vec<String> {
        let systems = BTreeSet::from(["ca", "test-ca"]);
        let declared = declare::parse("n.yaml", DECLARED, &systems).unwrap();
        let now: DateTime<Utc> = format!("{now}T00:00:00Z").parse().unwrap();
        let mut edges: Vec<Edge> = declared
            .iter()
            .flat_map(|one| crate::nhi::edges(one, now))
            .collect();
        edges.push(Edge {
            from: Node::new(NodeKind::Consumer, "nginx"),
            relation: Relation::Uses,
            to: Node::credential("ca/certificate:sha256:ab"),
            source: "prober".into(),
            first_seen_at: now - TimeDelta::days(200),
            last_seen_at: now - TimeDelta::days(100),
            confidence: Confidence::Observed,
        });
        let found = shortfalls(&declared, &edges, &rules(rule), now);
        let told = found
            .iter()
            .map(|it| format!("{}: {} -> {}", it.credential, it.fault, it.tell.join(" ")));
        told.collect()
    }

    #[test]
    fn each_fault_is_told_with_whom_it_is_told_to() {
        assert_eq!(
            told("  - {name: r, consumers_max: 1}", "2026-06-01"),
            ["ca/certificate:sha256:ab: used by 2 (haproxy, nginx), more than 1 -> person:ann"]
        );
        assert_eq!(
            told("  - {name: r, keys: {rsa: 3072}}", "2026-06-01"),
            [
                "ca/certificate:sha256:ab: its key is rsa:2048, of fewer than 3072 bits -> person:ann"
            ]
        );
        assert_eq!(
            told("  - {name: r, one_environment: true}", "2026-06-01").len(),
            2,
            "each of the two is told of the other"
        );
        // A use that was seen counts, one that was declared does not.
        assert_eq!(
            told(
                "  - {name: r, dormant_after: 90d, environments: [production]}",
                "2026-06-01"
            ),
            ["ca/certificate:sha256:ab: not seen in use since 2026-02-21 -> person:ann"]
        );
        assert_eq!(
            told(
                "  - {name: r, dormant_after: 90d, environments: [test]}",
                "2026-06-01"
            ),
            ["test-ca/certificate:sha256:ab: never seen in use -> person:ann"]
        );
    }

    #[test]
    fn more_people_are_told_the_nearer_an_end_is() {
        let rule = "  - {name: r, environments: [production], expiry: [30d, 7d, 1d]}";
        let rows = [
            ("2026-11-01", ""),
            ("2026-12-02", "person:ann"),
            ("2026-12-25", "person:ann person:bob"),
            ("2026-12-30", "person:ann person:bob role:edge"),
            ("2027-01-01", "person:ann person:bob role:edge"),
        ];
        for (now, expected) in rows {
            let told = told(rule, now);
            let to = told
                .first()
                .map_or("", |line| line.split(" -> ").nth(1).unwrap());
            assert_eq!(to, expected, "{now}");
        }
    }
}
