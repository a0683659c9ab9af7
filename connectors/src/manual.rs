//! A system that only a person can operate: no API, a paper form, a key cabinet.
//!
//! Settings:
//!
//! ```yaml
//! assignee: role:facilities          # who gets the tasks: a role or a mailbox
//! due: 4h                            # s, m, h or d
//! where: "Cabinet 3 in room 1.07; the list is in the blue folder"
//! proof_required: true
//! operations: [create_account, disable_account]   # default: all a person can do
//! instructions:                      # replaces the built-in text, per operation
//!   create_account: |
//!     Hand out a badge for {name} and note {owner} on the form.
//! ```
//!
//! Every operation becomes a [`HumanTask`]. Nothing can be read: `verify` says so, and `get` is an error,
//! because an answer of "not there" would be a fact that nobody has seen. A person's word is the observation;
//! the engine records it as attested, not as verified.
//!
//! `set_password`, `issue_credential` and `store_credential` are never offered: a secret in a task would be a secret in
//! the database.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use serde::Deserialize;
use serde_json::Value;

use crate::connector::{
    Capabilities, Claim, Connector, Cursor, Error, ErrorKind, Finding, Health, HumanTask, Kind,
    NewCredential, Object, ObjectRef, Operation, OperationKey, OperationName, Outcome, Page,
    StoredCredential, Verdict,
};

/// What a person can be asked to do.
const OPERATIONS: [OperationName; 13] = [
    OperationName::CreateAccount,
    OperationName::UpdateAccount,
    OperationName::EnableAccount,
    OperationName::DisableAccount,
    OperationName::DeleteAccount,
    OperationName::Grant,
    OperationName::Revoke,
    OperationName::EndSessions,
    OperationName::ActivateCredential,
    OperationName::DeactivateCredential,
    OperationName::DestroyCredential,
    OperationName::TransferOwnership,
    OperationName::Action,
];

/// What a template may say; anything else in braces is a mistake in the configuration.
const PLACEHOLDERS: [&str; 14] = [
    "system",
    "where",
    "operation",
    "name",
    "owner",
    "account",
    "entitlement",
    "credential",
    "attributes",
    "state",
    "from",
    "to",
    "action",
    "with",
];

/// The longest template.
const TEMPLATE_BYTES_MAX: usize = 16 * 1024;
/// The longest text one value may add to a task; an attribute can hold anything.
const VALUE_CHARS_MAX: usize = 2_000;
/// The latest a task may be due.
const DUE_S_MAX: u64 = 366 * 24 * 3_600;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    assignee: String,
    #[serde(default = "due")]
    due: String,
    #[serde(default, rename = "where")]
    place: Option<String>,
    #[serde(default = "proof_required")]
    proof_required: bool,
    operations: Option<BTreeSet<OperationName>>,
    #[serde(default)]
    instructions: BTreeMap<OperationName, String>,
}

fn due() -> String {
    "1d".to_owned()
}

fn proof_required() -> bool {
    true
}

/// A connector whose hands are a person's.
#[derive(Debug)]
pub struct Manual {
    system: String,
    assignee: String,
    due_after_s: u64,
    place: String,
    proof_required: bool,
    operations: BTreeSet<OperationName>,
    instructions: BTreeMap<OperationName, String>,
}

impl Manual {
    /// Reads the settings of `system`.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] names the setting that is wrong, missing or unknown.
    pub fn from_settings(system: &str, settings: Value) -> Result<Self, Error> {
        let invalid = |message: String| {
            Error::new(
                ErrorKind::Invalid,
                format!("settings of system `{system}`: {message}"),
            )
        };
        let settings: Settings =
            serde_json::from_value(settings).map_err(|error| invalid(error.to_string()))?;
        if settings.assignee.trim().is_empty() {
            return Err(invalid(
                "`assignee` is empty; name the role or mailbox that gets the tasks".to_owned(),
            ));
        }
        let due_after_s = seconds(&settings.due)
            .filter(|due| (1..=DUE_S_MAX).contains(due))
            .ok_or_else(|| {
                invalid(format!(
                    "`due` is `{}`; give a number with s, m, h or d, such as `4h`, of at most 366d",
                    settings.due
                ))
            })?;
        let operations = settings
            .operations
            .unwrap_or_else(|| OPERATIONS.into_iter().collect());
        if let Some(name) = operations.iter().find(|name| !OPERATIONS.contains(name)) {
            return Err(invalid(format!(
                "`operations` names `{}`, which a task cannot carry because it holds a secret; remove it",
                name.as_str()
            )));
        }
        for (name, template) in &settings.instructions {
            if !operations.contains(name) {
                return Err(invalid(format!(
                    "`instructions.{}` is for an operation that `operations` does not offer",
                    name.as_str()
                )));
            }
            check_template(template).map_err(|problem| {
                invalid(format!("`instructions.{}` {problem}", name.as_str()))
            })?;
        }
        Ok(Self {
            system: system.to_owned(),
            assignee: settings.assignee,
            due_after_s,
            place: settings
                .place
                .unwrap_or_else(|| format!("the administration of {system}")),
            proof_required: settings.proof_required,
            operations,
            instructions: settings.instructions,
        })
    }

    fn task(&self, operation: &Operation) -> HumanTask {
        let name = operation.name();
        let (title, built_in) = built_in(operation);
        let template = self
            .instructions
            .get(&name)
            .map_or(built_in, String::as_str);
        let values = self.values(operation);
        let mut instructions = filled(template, &values);
        if self.proof_required {
            instructions.push_str(
                "\n\nWhen it is done, write into the note what you saw that shows it: a ticket number, the line of the user \
                 list, the time of the log entry. Never write a password there. If it cannot be done, say why instead of \
                 completing the task.",
            );
        }
        HumanTask {
            title: filled(title, &values),
            instructions,
            assignee: self.assignee.clone(),
            due_after_s: self.due_after_s,
            proof_required: self.proof_required,
        }
    }

    fn values(&self, operation: &Operation) -> BTreeMap<&'static str, String> {
        let mut values = BTreeMap::from([
            ("system", self.system.clone()),
            ("where", self.place.clone()),
            ("operation", operation.name().as_str().replace('_', " ")),
        ]);
        match operation {
            Operation::CreateAccount(new) => {
                let state = if new.enabled {
                    "able to log in"
                } else {
                    "locked until further notice"
                };
                values.extend([
                    ("name", new.name.clone()),
                    ("account", new.name.clone()),
                    ("owner", new.owner.clone()),
                    ("attributes", lines(&new.attributes)),
                    ("state", state.to_owned()),
                ]);
            }
            Operation::UpdateAccount {
                account,
                attributes,
            } => {
                values.extend([
                    ("account", account.to_string()),
                    ("name", account.to_string()),
                    ("attributes", lines(attributes)),
                ]);
            }
            Operation::EnableAccount { account }
            | Operation::DisableAccount { account }
            | Operation::DeleteAccount { account }
            | Operation::EndSessions { account }
            | Operation::SetPassword { account, .. }
            | Operation::IssueCredential(NewCredential { account, .. })
            | Operation::StoreCredential(StoredCredential { account, .. }) => {
                values.extend([
                    ("account", account.to_string()),
                    ("name", account.to_string()),
                ]);
            }
            Operation::Grant {
                account,
                entitlement,
            }
            | Operation::Revoke {
                account,
                entitlement,
            } => {
                values.extend([
                    ("account", account.to_string()),
                    ("name", account.to_string()),
                    ("entitlement", entitlement.to_string()),
                ]);
            }
            Operation::ActivateCredential {
                account,
                credential,
            }
            | Operation::DeactivateCredential {
                account,
                credential,
            }
            | Operation::DestroyCredential {
                account,
                credential,
            } => {
                values.extend([
                    ("account", account.to_string()),
                    ("name", account.to_string()),
                    ("credential", credential.to_string()),
                ]);
            }
            Operation::TransferOwnership { from, to } => {
                values.extend([
                    ("account", from.to_string()),
                    ("from", from.to_string()),
                    ("to", to.to_string()),
                ]);
            }
            Operation::Action { name, with } => {
                let with = match with {
                    Value::Object(fields) => lines(
                        &fields
                            .iter()
                            .map(|(key, value)| (key.clone(), value.clone()))
                            .collect(),
                    ),
                    other => format!("- {}", shown(other)),
                };
                values.extend([
                    ("action", name.clone()),
                    ("name", name.clone()),
                    ("with", with),
                ]);
            }
        }
        values
    }
}

#[async_trait]
impl Connector for Manual {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            operations: self.operations.clone(),
            by_hand: true,
            ..Capabilities::default()
        }
    }

    async fn check(&self) -> Result<Health, Error> {
        Ok(Health {
            findings: vec![Finding::good(
                "reach",
                format!(
                    "operated by hand; tasks go to `{}` and are due after {} s",
                    self.assignee, self.due_after_s
                ),
            )],
        })
    }

    async fn list(&self, _kind: Kind, _after: Option<Cursor>) -> Result<Page, Error> {
        Err(self.blind())
    }

    async fn get(&self, _object: &ObjectRef) -> Result<Option<Object>, Error> {
        Err(self.blind())
    }

    async fn apply(&self, operation: &Operation, _key: &OperationKey) -> Result<Outcome, Error> {
        if self.operations.contains(&operation.name()) {
            Ok(Outcome::NeedsHuman(self.task(operation)))
        } else {
            Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "system `{}` does not offer `{}` by hand",
                    self.system,
                    operation.name().as_str()
                ),
            ))
        }
    }

    async fn verify(&self, _claim: &Claim) -> Result<Verdict, Error> {
        Ok(Verdict::CannotObserve {
            reason: format!(
                "`{}` is operated by hand; only the person who did it has seen it",
                self.system
            ),
        })
    }
}

impl Manual {
    fn blind(&self) -> Error {
        Error::new(
            ErrorKind::Unsupported,
            format!(
                "system `{}` is operated by hand and cannot be read",
                self.system
            ),
        )
    }
}

/// The title and the instructions of an operation, for somebody who has never heard of the case.
fn built_in(operation: &Operation) -> (&'static str, &'static str) {
    match operation {
        Operation::CreateAccount(_) => (
            "Create account {name} in {system}",
            "A person needs an account in {system}.\n\
             1. Go to {where}.\n\
             2. Look whether an account named {name} exists. If it does and its reference is not {owner}, stop: it belongs to \
             somebody else. Report it instead of completing this task.\n\
             3. Create the account {name}, {state}, with these data:\n{attributes}\n\
             4. Keep the reference {owner} with the account (comment, note, file), so that it can be matched later.\n\
             5. Hand a first password, if there has to be one, to the person directly.\n\
             It is done when the account is on the list of accounts of {system}.",
        ),
        Operation::UpdateAccount { .. } => (
            "Change account {account} in {system}",
            "The data of an account in {system} have to change.\n\
             1. Go to {where} and open the account {account}.\n\
             2. Set exactly these values and leave all others as they are:\n{attributes}\n\
             It is done when the saved account shows them. If the account does not exist, report that.",
        ),
        Operation::EnableAccount { .. } => (
            "Unlock account {account} in {system}",
            "The account {account} has to work again.\n\
             1. Go to {where} and open the account {account}.\n\
             2. Remove the lock. Do not add any right.\n\
             It is done when {system} shows the account as active.",
        ),
        Operation::DisableAccount { .. } => (
            "Lock account {account} in {system}",
            "The account {account} must stop working now; the person may be leaving or at risk. Do this one first.\n\
             1. Go to {where} and open the account {account}.\n\
             2. Lock it, so that no new login succeeds. Do not delete it. If there is no lock, change its password to a random one \
             that you do not keep, or block the badge or key.\n\
             3. Try, if you can, that a login is refused.\n\
             It is done when {system} shows the account as locked. If the account does not exist, say so in the note: that counts \
             as locked.",
        ),
        Operation::DeleteAccount { .. } => (
            "Delete account {account} in {system}",
            "The account {account} is no longer needed.\n\
             1. Go to {where} and open the account {account}.\n\
             2. Check that it is locked already. If it is in use, stop and report it.\n\
             3. Delete it. This cannot be undone.\n\
             It is done when the account is no longer on the list of accounts of {system}.",
        ),
        Operation::Grant { .. } => (
            "Give {entitlement} to {account} in {system}",
            "The account {account} gets one more right in {system}.\n\
             1. Go to {where} and open the account {account}.\n\
             2. Give it the right {entitlement}, and no other.\n\
             It is done when {system} shows {entitlement} among the rights of {account}. If the account or the right does not \
             exist, report that.",
        ),
        Operation::Revoke { .. } => (
            "Take {entitlement} from {account} in {system}",
            "The account {account} must lose one right in {system}.\n\
             1. Go to {where} and open the account {account}.\n\
             2. Take the right {entitlement} away. Leave all other rights.\n\
             3. Look whether the account has the same right by another way (a group in a group, a second role), and report that.\n\
             It is done when {system} no longer shows {entitlement} among the rights of {account}.",
        ),
        Operation::EndSessions { .. } => (
            "End open sessions of {account} in {system}",
            "Whatever {account} has open in {system} must end now.\n\
             1. Go to {where} and look at who is logged in.\n\
             2. End every session, connection and remembered login of {account}.\n\
             It is done when none is left.",
        ),
        Operation::ActivateCredential { .. } => (
            "Switch on {credential} of {account} in {system}",
            "A key, token or certificate of {account} in {system} that was switched off has to work again.\n\
             1. Go to {where} and open the account {account}.\n\
             2. Switch {credential} on, and no other.\n\
             It is done when {system} shows it as active. If {system} does not know it, report that.",
        ),
        Operation::DeactivateCredential { .. } => (
            "Switch off {credential} of {account} in {system}",
            "A key, token or certificate of {account} in {system} must not work until further notice.\n\
             1. Go to {where} and open the account {account}.\n\
             2. Switch {credential} off, and no other. Do not delete it.\n\
             It is done when {system} shows it as inactive, or does not know it.",
        ),
        Operation::DestroyCredential { .. } => (
            "Remove {credential} of {account} in {system}",
            "A key, token or certificate of {account} in {system} must never work again.\n\
             1. Go to {where} and open the account {account}.\n\
             2. Remove {credential}, and no other. This cannot be undone.\n\
             It is done when {system} does not know it any more.",
        ),
        Operation::SetPassword { .. } => ("Change the password of {account} in {system}", ""),
        Operation::IssueCredential(_) | Operation::StoreCredential(_) => {
            ("Renew a credential of {account} in {system}", "")
        }
        Operation::TransferOwnership { .. } => (
            "Hand over from {from} to {to} in {system}",
            "What {from} owns in {system} gets a new owner.\n\
             1. Go to {where} and find everything that {from} owns: documents, jobs, shared folders, keys on loan.\n\
             2. Make {to} the owner of each.\n\
             It is done when nothing is owned by {from}. List in the note what was handed over.",
        ),
        Operation::Action { .. } => (
            "{action} in {system}",
            "Please carry out \"{action}\" in {system}.\n\
             1. Go to {where}.\n\
             2. Carry it out with these data:\n{with}",
        ),
    }
}

fn lines(attributes: &BTreeMap<String, Value>) -> String {
    if attributes.is_empty() {
        return "- (no further data)".to_owned();
    }
    attributes
        .iter()
        .map(|(name, value)| format!("- {name}: {}", shown(value)))
        .collect::<Vec<_>>()
        .join("\n")
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "(empty)".to_owned(),
        Value::Array(items) => items.iter().map(shown).collect::<Vec<_>>().join(", "),
        Value::Object(fields) if fields.is_empty() => "(no further data)".to_owned(),
        other => other.to_string(),
    }
}

/// Fills the placeholders in one pass, so that a value which looks like a placeholder stays as it is.
/// A placeholder that this operation has no value for becomes empty.
fn filled(template: &str, values: &BTreeMap<&'static str, String>) -> String {
    let mut text = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        text.push_str(before);
        match after.split_once('}') {
            Some((name, behind)) if PLACEHOLDERS.contains(&name) => {
                let value = values.get(name).map(String::as_str).unwrap_or_default();
                text.extend(value.chars().take(VALUE_CHARS_MAX));
                rest = behind;
            }
            _ => {
                text.push('{');
                rest = after;
            }
        }
    }
    text.push_str(rest);
    text
}

fn check_template(template: &str) -> Result<(), String> {
    if template.trim().is_empty() {
        return Err("is empty; remove it to use the built-in text".to_owned());
    }
    if template.len() > TEMPLATE_BYTES_MAX {
        return Err(format!("is longer than {TEMPLATE_BYTES_MAX} bytes"));
    }
    for part in template.split('{').skip(1) {
        let name = part.split_once('}').map_or(part, |(name, _)| name);
        if !PLACEHOLDERS.contains(&name) {
            return Err(format!(
                "has the unknown placeholder `{{{name}}}`; known are {}",
                PLACEHOLDERS.map(|known| format!("{{{known}}}")).join(", ")
            ));
        }
    }
    Ok(())
}

/// `90s`, `15m`, `4h`, `2d` in seconds.
fn seconds(text: &str) -> Option<u64> {
    let text = text.trim();
    let unit_s = match text.chars().last()? {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return None,
    };
    text.get(..text.len().checked_sub(1)?)?
        .parse::<u64>()
        .ok()?
        .checked_mul(unit_s)
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        reason = "tests"
    )]

    use std::sync::Arc;

    use secrecy::SecretString;
    use serde_json::json;

    use super::*;
    use crate::connector::{Attributes, EntitlementName, NativeId, NewAccount};

    fn manual(settings: Value) -> Result<Manual, String> {
        Manual::from_settings("badges", settings).map_err(|error| error.whole())
    }

    fn key() -> OperationKey {
        OperationKey {
            idempotency: "k".to_owned(),
            attempt: 1,
            epoch: 1,
        }
    }

    async fn task(manual: &Manual, operation: Operation) -> HumanTask {
        match manual.apply(&operation, &key()).await.unwrap() {
            Outcome::NeedsHuman(task) => task,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn the_suite_passes() {
        let manual = manual(json!({"assignee": "role:facilities"})).unwrap();
        let report =
            crate::conformance::run(Arc::new(manual), crate::conformance::Fixture::new("m")).await;
        assert!(report.is_good(), "{report}");
        assert!(
            report.count(crate::conformance::Verdict::Passed) >= 6,
            "{report}"
        );
    }

    #[tokio::test]
    async fn a_task_tells_a_stranger_everything_but_secrets() {
        let manual =
            manual(json!({"assignee": "role:facilities", "due": "4h", "where": "cabinet 3"}))
                .unwrap();
        let task = task(
            &manual,
            Operation::CreateAccount(NewAccount {
                name: "ann".to_owned(),
                owner: "id-7".to_owned(),
                attributes: Attributes::from([
                    ("floor".to_owned(), json!(2)),
                    ("doors".to_owned(), json!(["a", "b"])),
                    ("note".to_owned(), json!("{system} is not filled in here")),
                ]),
                enabled: true,
                password: Some(SecretString::from("hunter2".to_owned())),
            }),
        )
        .await;
        assert_eq!(task.title, "Create account ann in badges");
        assert_eq!(task.assignee, "role:facilities");
        assert_eq!(task.due_after_s, 4 * 3_600);
        assert!(task.proof_required);
        for part in [
            "cabinet 3",
            "id-7",
            "- floor: 2",
            "- doors: a, b",
            "able to log in",
            "{system} is not filled in here",
        ] {
            assert!(
                task.instructions.contains(part),
                "`{part}` missing in: {}",
                task.instructions
            );
        }
        assert!(!task.instructions.contains("hunter2"));
    }

    #[tokio::test]
    async fn own_instructions_replace_the_built_in_ones() {
        let manual = manual(json!({
            "assignee": "keys@example.org",
            "proof_required": false,
            "instructions": {"revoke": "Take key {entitlement} back from {account}."},
        }))
        .unwrap();
        let revoke = Operation::Revoke {
            account: NativeId::new("ann"),
            entitlement: EntitlementName::new("K7"),
        };
        assert_eq!(
            task(&manual, revoke).await.instructions,
            "Take key K7 back from ann."
        );
    }

    #[tokio::test]
    async fn absence_is_never_claimed() {
        let manual = manual(json!({"assignee": "x"})).unwrap();
        let error = manual
            .get(&ObjectRef::AccountNamed("ann".to_owned()))
            .await
            .unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unsupported);
        let verdict = manual
            .verify(&Claim::AccountAbsent {
                account: NativeId::new("ann"),
            })
            .await
            .unwrap();
        assert!(
            matches!(verdict, Verdict::CannotObserve { .. }),
            "{verdict:?}"
        );
    }

    #[test]
    fn a_wrong_setting_is_named() {
        for (settings, part) in [
            (json!({}), "assignee"),
            (json!({"assignee": " "}), "`assignee` is empty"),
            (json!({"assignee": "x", "due": "soon"}), "`due` is `soon`"),
            (json!({"assignee": "x", "due": "0h"}), "`due` is `0h`"),
            (
                json!({"assignee": "x", "due": "9999999999999999d"}),
                "`due`",
            ),
            (json!({"assignee": "x", "colour": 1}), "colour"),
            (
                json!({"assignee": "x", "operations": ["set_password"]}),
                "`set_password`",
            ),
            (
                json!({"assignee": "x", "operations": ["grant"], "instructions": {"revoke": "x"}}),
                "`instructions.revoke`",
            ),
            (
                json!({"assignee": "x", "instructions": {"grant": "{acount}"}}),
                "`{acount}`",
            ),
            (
                json!({"assignee": "x", "instructions": {"grant": " "}}),
                "is empty",
            ),
        ] {
            let error = manual(settings.clone()).unwrap_err();
            assert!(
                error.contains(part) && error.contains("`badges`"),
                "{settings}: {error}"
            );
        }
    }
}
