//! `retirement.look`: what hangs on a non-human identity, and which accounts are it. Changes nothing.
//!
//! Gives `{nhi, owner, accounts: [{system, account, name, enabled}], ask, why, digest}`. `ask` names who decides first, and is empty where
//! nothing is known to need it.

use std::collections::BTreeMap;

use connectors::connector::{Connector, ObjectRef, OperationName};
use engine::core::case::{Failure, Verification};
use engine::core::input::AttemptResult;
use engine::core::proof::Proof;
use serde_json::{Value, json};

use super::{key, row};
use crate::actions::apply::failure;
use crate::actions::context::{Context, database, permanent};
use crate::nhi::check::{Finding, Intent, Question, Rules, Verdict, check};
use crate::nhi::graph::Node;

pub(super) async fn run(context: &Context<'_>) -> Result<AttemptResult, Failure> {
    let key = key(context)?;
    let row = row(context, &key).await?;
    let mut accounts = Vec::new();
    for declared in &row.declared.accounts {
        let call = context.call_to(&declared.system)?;
        for needed in [OperationName::DisableAccount, OperationName::EnableAccount] {
            if !call.system.can(needed) {
                return Err(permanent(
                    "not_reversible",
                    format!(
                        "`{}` cannot put an account out of use and back ({} is missing); end `{}` there by hand, then \
                         `tenure nhi retire`",
                        declared.system,
                        needed.as_str(),
                        declared.name
                    ),
                ));
            }
        }
        let named = ObjectRef::AccountNamed(declared.name.clone());
        let found = (call.connector.get(&named).await)
            .map_err(|error| failure(&declared.system, &error))?;
        if let Some(account) = found.and_then(connectors::connector::Object::into_account) {
            accounts.push(json!({
                "system": declared.system,
                "account": account.id,
                "name": account.name,
                "enabled": account.enabled,
            }));
        }
    }
    if accounts.is_empty() {
        return Err(permanent(
            "no_account",
            format!(
                "no account of `{key}` is there; declare its `accounts`, or `tenure nhi retire` it if it is gone"
            ),
        ));
    }
    let question = Question {
        subject: Node::nhi(&key),
        intent: Intent::Disable,
        hostile: false,
    };
    let now = context.actions.clock().now();
    let snapshot = (context.actions.directory())
        .dependencies(question, &BTreeMap::new(), Rules::default(), now)
        .await
        .map_err(|error| database(&error))?
        .map_err(|known| permanent("too_many", format!("{known} things hang on `{key}`")))?;
    let answer = check(&snapshot);
    // That nobody can say whether something needs it is what listening is for.
    let blocked = |finding: &&Finding| finding.verdict == Verdict::Block;
    let why: Vec<String> = answer
        .findings
        .iter()
        .filter(blocked)
        .map(|finding| {
            let why: Vec<String> = finding.reasons.iter().map(ToString::to_string).collect();
            format!("{}: {}", finding.node, why.join("; "))
        })
        .collect();
    let owner = format!("person:{}", row.owner);
    let ask = if why.is_empty() { "" } else { owner.as_str() };
    let output = json!({
        "nhi": key,
        "owner": owner,
        "accounts": accounts,
        "ask": ask,
        "why": why.join(" | "),
        "digest": answer.digest,
    });
    Ok(AttemptResult::Succeeded {
        proof: Proof {
            operation: Some("dependencies".to_owned()),
            object: Some(Node::nhi(&key).to_string()),
            before: Some(json!({ "snapshot": answer.digest })),
            after: Some(Value::Array(
                answer.findings.iter().map(|it| json!(it)).collect(),
            )),
            verified_at: Some(now),
            ..Proof::default()
        },
        output,
        verification: Verification::NotNeeded,
    })
}
