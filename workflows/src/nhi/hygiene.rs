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
    /// Who is told: the owner; more the nearer an end comes.
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

/// Where secrets stand that are named by their own fingerprint: what has the same name is the same secret.
#[derive(Debug, Default)]
pub struct Stands(BTreeMap<String, Vec<(String, String)>>);

impl Stands {
    /// Notes the credentials of a declared identity.
    pub fn note(&mut self, declared: &Declared) {
        for credential in declared
            .credentials
            .iter()
            .filter(|it| it.id.contains(":SHA256:") || it.id.contains(":sha256:"))
        {
            let place = (declared.environment.clone(), credential.name());
            self.0.entry(credential.id.clone()).or_default().push(place);
        }
    }

    /// Names of the same secret in other environments than this.
    fn elsewhere(&self, id: &str, environment: &str) -> BTreeSet<String> {
        let stands = self.0.get(id).into_iter().flatten();
        let elsewhere = stands.filter(|(other, _)| *other != environment);
        elsewhere.map(|(_, name)| name.clone()).collect()
    }
}

/// Every shortfall of what is declared, by credential and rule. `edges` are those at what is declared; `stands` is of all that
/// is declared anywhere.
#[must_use]
pub fn shortfalls(
    declared: &[Declared],
    edges: &[Edge],
    stands: &Stands,
    rules: &[CredentialRule],
    now: DateTime<Utc>,
) -> Vec<Shortfall> {
    let graph = Graph::new(edges);
    let mut found = Vec::new();
    for one in declared {
        for credential in &one.credentials {
            let elsewhere = stands.elsewhere(&credential.id, &one.environment);
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

/// Who is told of a fault: whoever answers for it, and more the nearer an end comes.
fn tell(declared: &Declared, fault: &Fault) -> Vec<String> {
    let answering = Answering {
        owner: &declared.owner,
        backup: &declared.backup,
        team: &declared.team,
        sponsor: declared.sponsor.as_deref(),
    };
    match fault {
        Fault::Expired { .. } => tell_end(&answering, 1, 0),
        Fault::Expires { told, of, .. } => tell_end(&answering, *told, *of),
        _ => tell_end(&answering, 1, 1),
    }
}

/// Who answers for a non-human identity. What is empty is nobody.
#[derive(Debug, Clone, Copy)]
pub struct Answering<'a> {
    pub owner: &'a str,
    pub backup: &'a str,
    pub team: &'a str,
    pub sponsor: Option<&'a str>,
}

/// Who is told at the `told`-th of `of` moments before an end: at the first whoever answers for it, then the backup and the team
/// as a role, too, and from the last one on the sponsor and `role:security`. A moment after the last is the end itself.
#[must_use]
pub fn tell_end(answering: &Answering<'_>, told: usize, of: usize) -> Vec<String> {
    let person = |key: &str| (!key.is_empty()).then(|| format!("person:{key}"));
    let role = |name: &str| (!name.is_empty()).then(|| format!("role:{name}"));
    let mut tell: Vec<String> = person(answering.owner).into_iter().collect();
    let over = told > of;
    if told > 1 || over {
        tell.extend(person(answering.backup));
        tell.extend(role(answering.team));
    }
    if over || (told > 1 && told == of) {
        tell.extend(answering.sponsor.and_then(person));
        tell.extend(role("security"));
    }
    tell
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
        let mut stands = Stands::default();
        for one in &declared {
            stands.note(one);
        }
        let found = shortfalls(&declared, &edges, &stands, &rules(rule), now);
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
            ("2026-12-25", "person:ann person:bob role:edge"),
            (
                "2026-12-30",
                "person:ann person:bob role:edge role:security",
            ),
            (
                "2027-01-01",
                "person:ann person:bob role:edge role:security",
            ),
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
