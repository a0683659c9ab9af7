//! A system that a person operates: every operation is a task, and nobody pretends to have looked.

use super::bench::{Bench, Checked, Stop, ensure, failed, key, said};
use super::honesty::{one_claim_of_each, one_of_each};
use crate::connector::{EntitlementName, NativeId, ObjectRef, Outcome, Verdict};

fn needs_by_hand(bench: &Bench) -> Checked {
    if bench.can.by_hand {
        Ok(())
    } else {
        Err(Stop::NotApplicable("`by_hand` is not declared".to_owned()))
    }
}

pub(super) async fn operations_become_tasks(bench: &Bench) -> Checked {
    needs_by_hand(bench)?;
    let (account, entitlement) = (NativeId::new("an.account"), EntitlementName::new("a right"));
    for operation in one_of_each(
        &account,
        &entitlement,
        bench.new_account(&bench.fresh_name()),
    ) {
        if !bench.can.operations.contains(&operation.name()) {
            continue;
        }
        let word = operation.name().as_str();
        match bench.connector.apply(&operation, &key()).await {
            Ok(Outcome::NeedsHuman(task)) => {
                for (what, text) in [
                    ("title", &task.title),
                    ("instructions", &task.instructions),
                    ("assignee", &task.assignee),
                ] {
                    ensure(!text.trim().is_empty(), || {
                        format!("{word}: the task has no {what}")
                    })?;
                    ensure(!text.contains('{'), || {
                        format!("{word}: a placeholder is left in the {what}: {text}")
                    })?;
                }
                ensure(task.due_after_s > 0, || {
                    format!("{word}: the task is due at once")
                })?;
            }
            other => return failed(format!("{word}: expected a task, got {}", said(&other))),
        }
    }
    Ok(())
}

pub(super) async fn nothing_is_observed(bench: &Bench) -> Checked {
    needs_by_hand(bench)?;
    let (account, entitlement) = (NativeId::new("an.account"), EntitlementName::new("a right"));
    for claim in one_claim_of_each(&account, &entitlement) {
        match bench.connector.verify(&claim).await {
            Ok(Verdict::CannotObserve { .. }) => {}
            Err(error) if error.kind.as_str() == "unsupported" => {}
            other => {
                return failed(format!(
                    "{claim:?} was answered {other:?} though nobody can look"
                ));
            }
        }
    }
    for object in [
        ObjectRef::Account(account),
        ObjectRef::AccountNamed("an.account".to_owned()),
        ObjectRef::AccountOwnedBy("somebody".to_owned()),
        ObjectRef::Entitlement(entitlement),
    ] {
        if let Ok(answer) = bench.connector.get(&object).await {
            return failed(format!(
                "get {object:?} answered {answer:?} though nobody can look"
            ));
        }
    }
    Ok(())
}
