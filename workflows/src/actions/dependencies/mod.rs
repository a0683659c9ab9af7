//! What hangs on somebody who leaves, beside their own accounts: looked at, settled, and looked at again.
//!
//! | action | does |
//! |---|---|
//! | `dependencies.check` | looks at what hangs on the person; gives the work |
//! | `dependencies.settle` | sees to one piece of it |
//! | `dependencies.rebind` | asks to bind anew what needs keys of the person that were spared |
//!
//! Each looks for itself when it runs: what was found a while ago may not be so any more. Nothing here holds up that the
//! person's own access ends.

mod rebind;
mod rotate;
mod settle;
mod tasks;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use engine::core::case::{Failure, Verification};
use engine::core::input::AttemptResult;
use engine::core::proof::Proof;
use serde_json::{Value, json};

pub(super) use self::rebind::run as rebind;
pub(super) use self::settle::run as settle;

use super::context::{Context, database, not_needed};
use crate::directory::NODES_MAX;
use crate::nhi::check::{
    self, Answer, CredentialFacts, Finding, Intent, Question, Rules, Snapshot, Verdict,
};
use crate::nhi::graph::{Node, NodeKind};

/// The most names that are listed of what needs nothing, or of what is left.
const NAMES_MAX: usize = 100;

/// `dependencies.check`: what hangs on the person.
///
/// Takes optionally `{hostile: true}`, for whom nothing is held back, and `{after: true}`: the work is done, and what is
/// left counts as unseen to. Gives `{digest, found, work: [{do, to, deadline, things: [{node, why, needs}]}], proceeds,
/// breaks}`.
pub(super) async fn run(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    let own = BTreeMap::new();
    let snapshot = match looked(context, &own).await? {
        Ok(snapshot) => snapshot,
        Err(known) => return Ok(too_many(known)),
    };
    let answer = check::check(&snapshot);
    if answer.findings.is_empty() {
        return Ok(not_needed(json!({
            "digest": answer.digest, "found": 0, "work": [], "proceeds": [], "breaks": [],
        })));
    }
    let names = |nodes: Vec<&Node>| {
        let names = nodes.into_iter().take(NAMES_MAX).map(ToString::to_string);
        json!(names.collect::<Vec<_>>())
    };
    let proceeds = |finding: &&Finding| finding.verdict == Verdict::Proceed;
    let breaks = answer.findings.iter().flat_map(|finding| &finding.breaks);
    let work = answer.work();
    let output = json!({
        "digest": answer.digest,
        "found": answer.findings.len(),
        "work": work,
        "proceeds": names(answer.findings.iter().filter(proceeds).map(|finding| &finding.node).collect()),
        "breaks": names(breaks.collect()),
    });
    if context.truth("after") {
        return looked_again(context, &snapshot, &answer, output).await;
    }
    Ok(AttemptResult::Succeeded {
        verification: Verification::NotNeeded,
        proof: seen(context, &answer),
        output,
    })
}

/// What the evidence names: what was looked at, and what was found.
fn seen(context: &Context<'_>, answer: &Answer) -> Proof {
    Proof {
        operation: Some("dependencies".to_owned()),
        object: Some(subject(context).to_string()),
        before: Some(json!({ "snapshot": answer.digest })),
        after: Some(json!(answer.findings)),
        verified_at: Some(context.actions.clock().now()),
        ..Proof::default()
    }
}

/// Nothing is left, or what is left is said.
async fn looked_again(
    context: &Context<'_>,
    snapshot: &Snapshot,
    answer: &Answer,
    mut output: Value,
) -> Result<AttemptResult, Failure> {
    let keys = snapshot.nhis.keys().map(|node| node.name.as_str());
    let rows =
        (context.actions.directory().nhis_of(keys).await).map_err(|error| database(&error))?;
    let left: Vec<String> = answer
        .findings
        .iter()
        .filter(|finding| finding.verdict != Verdict::Proceed)
        .map(|finding| format!("{} ({})", finding.node, finding.verdict))
        .chain(
            rows.values()
                .filter(|row| row.backup.is_empty())
                .map(|row| format!("nhi:{} (nobody backs it up)", row.nhi_key)),
        )
        .collect();
    let proof = seen(context, answer);
    if left.is_empty() {
        return Ok(AttemptResult::Succeeded {
            output,
            verification: Verification::Verified,
            proof,
        });
    }
    let named = left.iter().take(NAMES_MAX).cloned().collect::<Vec<_>>();
    let gap = format!(
        "{} still hang on the person, as far as it is known: {}",
        left.len(),
        named.join(", ")
    );
    if let Value::Object(output) = &mut output {
        output.insert("gap".to_owned(), json!(gap));
    }
    Ok(AttemptResult::Succeeded {
        output,
        verification: Verification::Unverified { reason: gap },
        proof,
    })
}

fn too_many(known: usize) -> AttemptResult {
    let gap = format!(
        "more than {NODES_MAX} things hang on the person ({known} were found before the search ended); hand them over in \
         parts (`tenure nhi list --person`), then retry this step"
    );
    AttemptResult::Failed {
        failure: super::context::permanent("too_many", gap),
        proof: Proof::default(),
    }
}

fn subject(context: &Context<'_>) -> Node {
    Node::person(context.subject())
}

/// All that hangs on the person now, or how many things were found when the search was given up.
async fn looked(
    context: &Context<'_>,
    own: &BTreeMap<Node, CredentialFacts>,
) -> Result<Result<Snapshot, usize>, Failure> {
    let question = Question {
        subject: subject(context),
        intent: Intent::Leave,
        hostile: context.truth("hostile"),
    };
    let directory = context.actions.directory();
    let now = context.actions.clock().now();
    directory
        .dependencies(question, own, Rules::default(), now)
        .await
        .map_err(|error| database(&error))
}

/// What of somebody's own keys is needed by others: in use, or something that was made with it is.
#[derive(Debug, Clone)]
pub(super) struct Needed {
    /// By the name of the credential in its system.
    pub findings: BTreeMap<String, Finding>,
    /// What has to be seen to before, of all of them.
    pub first: Vec<Finding>,
}

/// Of the person's own credentials on `system`, those that others need.
pub(super) async fn needed(
    context: &Context<'_>,
    system: &str,
    ids: impl IntoIterator<Item = (String, bool)>,
) -> Result<Needed, Failure> {
    let of = Some(subject(context));
    let own: BTreeMap<Node, CredentialFacts> = ids
        .into_iter()
        .map(|(id, reversible)| {
            let facts = CredentialFacts {
                of: of.clone(),
                reversible,
                ..CredentialFacts::default()
            };
            (Node::credential(format!("{system}/{id}")), facts)
        })
        .collect();
    let none = Needed {
        findings: BTreeMap::new(),
        first: Vec::new(),
    };
    if own.is_empty() {
        return Ok(none);
    }
    let Ok(snapshot) = looked(context, &own).await? else {
        // Nobody can look through so much: nothing is spared for it.
        return Ok(none);
    };
    let answer = check::check(&snapshot);
    let needs = |finding: &&Finding| {
        own.contains_key(&finding.node)
            && (finding.verdict == Verdict::Rebind || !finding.needs.is_empty())
    };
    let prefix = format!("{system}/");
    let findings: BTreeMap<String, Finding> = answer
        .findings
        .iter()
        .filter(needs)
        .filter_map(|finding| {
            let id = finding.node.name.strip_prefix(&prefix)?;
            Some((id.to_owned(), finding.clone()))
        })
        .collect();
    let first = answer.findings.iter().filter(|finding| {
        findings
            .values()
            .any(|own| own.needs.contains(&finding.node))
    });
    Ok(Needed {
        first: first.cloned().collect(),
        findings,
    })
}

/// Until when what others need is spared: as long as a decision may take, from the moment the person's access ended.
pub(super) fn spared_until(context: &Context<'_>) -> DateTime<Utc> {
    let attempt = context.attempt;
    let from = attempt
        .effective_at
        .unwrap_or(attempt.received_at)
        .max(attempt.received_at);
    let within = i64::try_from(Rules::default().decide_within_s).unwrap_or(i64::MAX);
    from + chrono::TimeDelta::try_seconds(within).unwrap_or_default()
}

/// Who is asked: a person by key, a team as a role, and without either whoever looks after identities.
fn assignee(to: Option<&Node>) -> String {
    match to {
        Some(node) if node.kind == NodeKind::Person => format!("person:{}", node.name),
        Some(node) if node.kind == NodeKind::Team => format!("role:{}", node.name),
        _ => "role:identity".to_owned(),
    }
}
