//! Version 1 of the protocol, as it stands on the line. `docs/exec-protocol.md` is its reference.
//!
//! Types that exist for the line stand here. Objects, claims and verdicts go over it in the form they have
//! anyway; the tests below pin every form, because plugins in other people's hands depend on it.
//!
//! Longer than 800 lines: every form stands beside the test that pins it.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::connector::{
    Attributes, Capabilities, Changes, Claim, ClaimName, Coverage, Credential, CredentialId,
    CredentialKind, Cursor, Error, ErrorKind, Finding, Handle, Health, HumanTask, Issuing, Kind,
    Material, Minted, NativeId, Object, ObjectRef, Operation, OperationKey, OperationName, Outcome,
    Page, Receipt, Use,
};
use crate::secret::SecretRef;

/// The version spoken here.
pub const PROTOCOL: u32 = 1;

/// The longest message of a plugin that is passed on.
const MESSAGE_CHARS_MAX: usize = 2_000;

/// What is asked, without its id.
#[derive(Serialize)]
#[serde(tag = "call", rename_all = "snake_case")]
pub(super) enum Ask<'a> {
    Hello {
        protocol: u32,
        system: &'a str,
        config: &'a Value,
        secrets: BTreeMap<&'a str, &'a str>,
    },
    Check,
    List {
        kind: Kind,
        after: Option<Cursor>,
    },
    Get {
        object: &'a ObjectRef,
    },
    Changes {
        after: Option<Cursor>,
    },
    Apply {
        operation: WireOperation<'a>,
        key: &'a OperationKey,
    },
    Poll {
        handle: &'a Handle,
    },
    Verify {
        claim: Value,
    },
    Credentials {
        account: &'a NativeId,
    },
    Renewal {
        account: &'a NativeId,
        credential: &'a CredentialId,
    },
    Dependents {
        object: &'a ObjectRef,
    },
}

#[derive(Serialize)]
struct Numbered<'a> {
    id: u64,
    #[serde(flatten)]
    ask: &'a Ask<'a>,
}

/// The line for `ask`, with its line end.
pub(super) fn line(id: u64, ask: &Ask<'_>) -> Result<Vec<u8>, serde_json::Error> {
    let mut line = serde_json::to_vec(&Numbered { id, ask })?;
    line.push(b'\n');
    Ok(line)
}

#[derive(Serialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub(super) enum WireOperation<'a> {
    CreateAccount {
        name: &'a str,
        owner: &'a str,
        attributes: &'a Attributes,
        enabled: bool,
        password: Option<&'a str>,
    },
    UpdateAccount {
        account: &'a NativeId,
        attributes: &'a Attributes,
    },
    EnableAccount {
        account: &'a NativeId,
    },
    DisableAccount {
        account: &'a NativeId,
    },
    DeleteAccount {
        account: &'a NativeId,
    },
    Grant {
        account: &'a NativeId,
        entitlement: &'a str,
    },
    Revoke {
        account: &'a NativeId,
        entitlement: &'a str,
    },
    EndSessions {
        account: &'a NativeId,
    },
    SetPassword {
        account: &'a NativeId,
        password: &'a str,
    },
    IssueCredential {
        account: &'a NativeId,
        kind: CredentialKind,
        material: WireMaterial<'a>,
        attributes: &'a Attributes,
        lifetime_s: Option<u64>,
        label: Option<&'a str>,
    },
    StoreCredential {
        account: &'a NativeId,
        credential: &'a CredentialId,
        parts: BTreeMap<&'a str, &'a str>,
    },
    ActivateCredential {
        account: &'a NativeId,
        credential: &'a CredentialId,
    },
    DeactivateCredential {
        account: &'a NativeId,
        credential: &'a CredentialId,
    },
    DestroyCredential {
        account: &'a NativeId,
        credential: &'a CredentialId,
    },
    TransferOwnership {
        from: &'a NativeId,
        to: &'a NativeId,
    },
    Action {
        action: &'a str,
        with: &'a Value,
    },
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum WireMaterial<'a> {
    BySystem,
    Secret(&'a str),
    Public(&'a str),
}

impl<'a> From<&'a Operation> for WireOperation<'a> {
    fn from(operation: &'a Operation) -> Self {
        match operation {
            Operation::CreateAccount(new) => Self::CreateAccount {
                name: &new.name,
                owner: &new.owner,
                attributes: &new.attributes,
                enabled: new.enabled,
                password: new.password.as_ref().map(SecretString::expose_secret),
            },
            Operation::UpdateAccount {
                account,
                attributes,
            } => Self::UpdateAccount {
                account,
                attributes,
            },
            Operation::EnableAccount { account } => Self::EnableAccount { account },
            Operation::DisableAccount { account } => Self::DisableAccount { account },
            Operation::DeleteAccount { account } => Self::DeleteAccount { account },
            Operation::Grant {
                account,
                entitlement,
            } => Self::Grant {
                account,
                entitlement: entitlement.as_str(),
            },
            Operation::Revoke {
                account,
                entitlement,
            } => Self::Revoke {
                account,
                entitlement: entitlement.as_str(),
            },
            Operation::EndSessions { account } => Self::EndSessions { account },
            Operation::SetPassword { account, password } => Self::SetPassword {
                account,
                password: password.expose_secret(),
            },
            Operation::IssueCredential(new) => Self::IssueCredential {
                account: &new.account,
                kind: new.kind,
                material: match &new.material {
                    Material::BySystem => WireMaterial::BySystem,
                    Material::Secret(secret) => WireMaterial::Secret(secret.expose_secret()),
                    Material::Public(public) => WireMaterial::Public(public),
                },
                attributes: &new.attributes,
                lifetime_s: new.lifetime_s,
                label: new.label.as_deref(),
            },
            Operation::StoreCredential(stored) => Self::StoreCredential {
                account: &stored.account,
                credential: &stored.credential,
                parts: stored
                    .parts
                    .iter()
                    .map(|(name, part)| (name.as_str(), part.expose_secret()))
                    .collect(),
            },
            Operation::ActivateCredential {
                account,
                credential,
            } => Self::ActivateCredential {
                account,
                credential,
            },
            Operation::DeactivateCredential {
                account,
                credential,
            } => Self::DeactivateCredential {
                account,
                credential,
            },
            Operation::DestroyCredential {
                account,
                credential,
            } => Self::DestroyCredential {
                account,
                credential,
            },
            Operation::TransferOwnership { from, to } => Self::TransferOwnership { from, to },
            Operation::Action { name, with } => Self::Action { action: name, with },
        }
    }
}

/// The secrets an operation carries: they may come back from nowhere.
pub(super) fn secrets_of(operation: &Operation) -> Vec<&SecretString> {
    match operation {
        Operation::CreateAccount(new) => new.password.iter().collect(),
        Operation::SetPassword { password, .. } => vec![password],
        Operation::IssueCredential(new) => match &new.material {
            Material::Secret(secret) => vec![secret],
            Material::BySystem | Material::Public(_) => Vec::new(),
        },
        Operation::StoreCredential(stored) => stored.parts.values().collect(),
        _ => Vec::new(),
    }
}

/// The secret a claim is about, by reference.
pub(super) fn secret_in(claim: &Claim) -> Option<&SecretRef> {
    match claim {
        Claim::CredentialWorks { secret, .. } | Claim::CredentialRefused { secret, .. } => {
            Some(secret)
        }
        _ => None,
    }
}

/// A claim as it stands on the line: a plugin cannot follow our references, so the secret itself stands there.
///
/// # Errors
/// The claim has no form in JSON.
pub(super) fn claim(
    claim: &Claim,
    secret: Option<&SecretString>,
) -> Result<Value, serde_json::Error> {
    let mut form = serde_json::to_value(claim)?;
    if let (Some(secret), Some(fields)) = (secret, form.as_object_mut()) {
        let secret = Value::String(secret.expose_secret().to_owned());
        fields.insert("secret".to_owned(), secret);
    }
    Ok(form)
}

/// The halves of a credential that a plugin issued.
#[derive(Default)]
pub(super) struct WireMinted {
    public: Option<String>,
    pub secret: Option<SecretString>,
}

impl WireMinted {
    /// Takes `minted` out of an answer, whatever the answer is to: it may hold a secret, and nothing that is kept may.
    ///
    /// # Errors
    /// It is there and is not what the protocol says. The message does not repeat it.
    pub fn out_of(answer: &mut Value) -> Result<Self, String> {
        let wrong =
            || "`minted` must be an object with texts `public` and `secret`, or null".to_owned();
        let mut fields = match answer
            .as_object_mut()
            .and_then(|answer| answer.remove("minted"))
        {
            None | Some(Value::Null) => return Ok(Self::default()),
            Some(Value::Object(fields)) => fields,
            Some(_) => return Err(wrong()),
        };
        let mut half = |name: &str| match fields.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(wrong()),
        };
        Ok(Self {
            public: half("public")?,
            secret: half("secret")?.map(SecretString::from),
        })
    }

    pub fn of(self, credential: Credential) -> Minted {
        Minted {
            credential,
            public: self.public,
            secret: self.secret,
        }
    }
}

/// One line of a plugin: `{"id": 7, "ok": ...}` or `{"id": 7, "error": {...}}`.
pub(super) struct Said {
    pub id: u64,
    pub answer: Result<Value, WireError>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct WireError {
    kind: String,
    message: String,
    until: Option<DateTime<Utc>>,
}

/// Reads one line.
///
/// # Errors
/// In words, what is wrong with it.
pub(super) fn said(line: &str) -> Result<Said, String> {
    let mut fields: Map<String, Value> = serde_json::from_str(line)
        .map_err(|error| format!("a line is not a JSON object: {error}"))?;
    let id = fields
        .get("id")
        .and_then(Value::as_u64)
        .ok_or_else(|| "a line has no `id` that is a number".to_owned())?;
    match (fields.remove("ok"), fields.remove("error")) {
        (Some(ok), None) => Ok(Said { id, answer: Ok(ok) }),
        (None, Some(error)) => {
            let error = serde_json::from_value(error)
                .map_err(|error| format!("the `error` of answer {id}: {error}"))?;
            Ok(Said {
                id,
                answer: Err(error),
            })
        }
        _ => Err(format!("answer {id} must have either `ok` or `error`")),
    }
}

impl WireError {
    pub fn into_error(self, system: &str) -> Error {
        let kind = match self.kind.as_str() {
            "not_found" => ErrorKind::NotFound,
            "conflict" => ErrorKind::Conflict,
            "invalid" => ErrorKind::Invalid,
            "denied" => ErrorKind::Denied,
            "full" => ErrorKind::Full,
            "auth_expired" => ErrorKind::AuthExpired,
            "rate_limited" => match self.until {
                Some(until) => ErrorKind::RateLimited { until },
                None => ErrorKind::Transient,
            },
            "transient" => ErrorKind::Transient,
            "timeout" => ErrorKind::Timeout,
            "unreachable" => ErrorKind::Unreachable,
            "unsupported" => ErrorKind::Unsupported,
            _ => ErrorKind::Bug,
        };
        let message: String = self.message.chars().take(MESSAGE_CHARS_MAX).collect();
        Error::new(kind, format!("plugin of system `{system}`: {message}"))
    }
}

/// The answer to `hello`.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Hello {
    pub protocol: u32,
    pub name: String,
    #[serde(default)]
    pub version: String,
    #[serde(default)]
    pub concurrent: bool,
    pub capabilities: WireCapabilities,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct WireCapabilities {
    operations: BTreeSet<OperationName>,
    claims: BTreeSet<ClaimName>,
    lists: BTreeSet<Kind>,
    changes: bool,
    dependents: bool,
    credentials: BTreeSet<CredentialKind>,
    issues: BTreeMap<CredentialKind, Issuing>,
    renewal: bool,
    finds_by_owner: bool,
    by_hand: bool,
}

impl WireCapabilities {
    /// What `self` has and `other` has not, in the words of the protocol.
    pub fn beyond(&self, other: &Self) -> Vec<String> {
        let mut beyond: Vec<String> = Vec::new();
        beyond.extend(self.operations.difference(&other.operations).map(word));
        beyond.extend(self.claims.difference(&other.claims).map(word));
        beyond.extend(self.lists.difference(&other.lists).map(word));
        beyond.extend(self.credentials.difference(&other.credentials).map(word));
        for (kind, issuing) in &self.issues {
            if other.issues.get(kind) != Some(issuing) {
                beyond.push(format!("issues.{}", kind.as_str()));
            }
        }
        for (name, mine, theirs) in [
            ("changes", self.changes, other.changes),
            ("dependents", self.dependents, other.dependents),
            ("renewal", self.renewal, other.renewal),
            ("finds_by_owner", self.finds_by_owner, other.finds_by_owner),
        ] {
            if mine && !theirs {
                beyond.push(name.to_owned());
            }
        }
        beyond
    }
}

/// A name as it stands on the line.
pub(super) fn word(name: &impl Serialize) -> String {
    match serde_json::to_value(name) {
        Ok(Value::String(word)) => word,
        _ => "?".to_owned(),
    }
}

impl From<WireCapabilities> for Capabilities {
    fn from(wire: WireCapabilities) -> Self {
        Self {
            operations: wire.operations,
            claims: wire.claims,
            lists: wire.lists,
            changes: wire.changes,
            dependents: wire.dependents,
            credentials: wire.credentials,
            issues: wire.issues,
            renewal: wire.renewal,
            finds_by_owner: wire.finds_by_owner,
            by_hand: wire.by_hand,
        }
    }
}

#[derive(Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub(super) enum WireOutcome {
    Done {
        #[serde(default)]
        receipt: WireReceipt,
    },
    AlreadySo {
        #[serde(default)]
        receipt: WireReceipt,
    },
    Accepted {
        handle: Handle,
    },
    NeedsHuman {
        task: HumanTask,
    },
    Ambiguous {
        reason: String,
    },
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct WireReceipt {
    account: Option<NativeId>,
    name: Option<String>,
    before: Option<Value>,
    after: Option<Value>,
    request_id: Option<String>,
    credential: Option<Credential>,
}

impl From<WireReceipt> for Receipt {
    fn from(wire: WireReceipt) -> Self {
        Self {
            account: wire.account,
            name: wire.name,
            before: wire.before,
            after: wire.after,
            request_id: wire.request_id,
            credential: wire.credential,
        }
    }
}

impl From<WireOutcome> for Outcome {
    fn from(wire: WireOutcome) -> Self {
        match wire {
            WireOutcome::Done { receipt } => Self::Done(receipt.into()),
            WireOutcome::AlreadySo { receipt } => Self::AlreadySo(receipt.into()),
            WireOutcome::Accepted { handle } => Self::Accepted(handle),
            WireOutcome::NeedsHuman { task } => Self::NeedsHuman(task),
            WireOutcome::Ambiguous { reason } => Self::Ambiguous { reason },
        }
    }
}

#[derive(Deserialize)]
pub(super) struct WirePage {
    items: Vec<Object>,
    next: Option<Cursor>,
    complete: bool,
}

impl From<WirePage> for Page {
    fn from(wire: WirePage) -> Self {
        Self {
            items: wire.items,
            next: wire.next,
            complete: wire.complete,
        }
    }
}

#[derive(Deserialize)]
pub(super) struct WireChanges {
    items: Vec<Object>,
    #[serde(default)]
    deleted: Vec<NativeId>,
    next: Option<Cursor>,
    gap: bool,
}

impl From<WireChanges> for Changes {
    fn from(wire: WireChanges) -> Self {
        Self {
            items: wire.items,
            deleted: wire.deleted,
            next: wire.next,
            gap: wire.gap,
        }
    }
}

#[derive(Deserialize)]
pub(super) struct WireUses {
    uses: Vec<Use>,
    blind_spots: Vec<String>,
}

impl From<WireUses> for Coverage<Vec<Use>> {
    fn from(wire: WireUses) -> Self {
        Self {
            value: wire.uses,
            blind_spots: wire.blind_spots,
        }
    }
}

#[derive(Deserialize)]
pub(super) struct WireCredentials {
    credentials: Vec<Credential>,
    blind_spots: Vec<String>,
}

impl From<WireCredentials> for Coverage<Vec<Credential>> {
    fn from(wire: WireCredentials) -> Self {
        Self {
            value: wire.credentials,
            blind_spots: wire.blind_spots,
        }
    }
}

#[derive(Deserialize)]
pub(super) struct WireHealth {
    pub findings: Vec<Finding>,
}

impl From<WireHealth> for Health {
    fn from(wire: WireHealth) -> Self {
        Self {
            findings: wire.findings,
        }
    }
}

/// The forms in which a secret may come back: as it is, and as the text of a JSON line that holds it.
pub(super) struct Forms(Vec<String>);

impl Forms {
    pub fn of<'a>(secrets: impl IntoIterator<Item = &'a SecretString>) -> Self {
        let mut forms: Vec<String> = secrets.into_iter().flat_map(Self::of_one).collect();
        forms.retain(|form| !form.is_empty());
        // The longest first: a shorter one may be part of it.
        forms.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        forms.dedup();
        Self(forms)
    }

    fn of_one(secret: &SecretString) -> [String; 3] {
        let plain = secret.expose_secret();
        let quoted = Value::String(plain.to_owned()).to_string();
        let escaped = quoted
            .get(1..quoted.len().saturating_sub(1))
            .unwrap_or_default()
            .to_owned();
        let mut ascii = String::with_capacity(escaped.len());
        for unit in escaped.encode_utf16() {
            match u8::try_from(unit) {
                Ok(byte) if byte.is_ascii() => ascii.push(char::from(byte)),
                _ => ascii.push_str(&format!("\\u{unit:04x}")),
            }
        }
        [plain.to_owned(), escaped, ascii]
    }

    pub fn cut(&self, text: &mut String) {
        for form in &self.0 {
            if text.contains(form.as_str()) {
                *text = text.replace(form.as_str(), "[REDACTED]");
            }
        }
    }

    /// Takes the secret out of every text in `value`.
    pub fn redact(&self, value: &mut Value) {
        match value {
            Value::String(text) => self.cut(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.redact(item)),
            Value::Object(fields) => fields.values_mut().for_each(|field| self.redact(field)),
            _ => {}
        }
    }
}

impl WireError {
    pub fn redact(&mut self, secret: &Forms) {
        secret.cut(&mut self.message);
    }
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

    use serde_json::json;

    use super::*;
    use crate::connector::{
        EntitlementName, HandOver, NewAccount, NewCredential, Observation, StoredCredential,
        Verdict,
    };

    fn on_the_line(ask: &Ask<'_>) -> Value {
        let line = line(7, ask).unwrap();
        assert_eq!(
            line.iter().filter(|byte| **byte == b'\n').count(),
            1,
            "one line, whatever it holds"
        );
        serde_json::from_slice(&line).unwrap()
    }

    /// Plugins depend on every one of these.
    #[test]
    fn what_is_asked_keeps_its_form() {
        let ann = NativeId::new("a\n1");
        let key = OperationKey {
            idempotency: "k".to_owned(),
            attempt: 2,
            epoch: 3,
        };
        let named = ObjectRef::AccountNamed("ann".to_owned());
        let claim = Claim::Granted {
            account: ann.clone(),
            entitlement: EntitlementName::new("staff"),
        };
        let works = Claim::CredentialWorks {
            account: ann.clone(),
            credential: CredentialId::new("7"),
            secret: SecretRef::File("/run/p".to_owned()),
        };
        let handle = Handle {
            token: "t".to_owned(),
            poll_after_ms: 5,
        };
        let after = || Some(Cursor("c".to_owned()));
        for (ask, form) in [
            (Ask::Check, json!({"id": 7, "call": "check"})),
            (
                Ask::List {
                    kind: Kind::Entitlement,
                    after: None,
                },
                json!({"id": 7, "call": "list", "kind": "entitlement", "after": null}),
            ),
            (
                Ask::List {
                    kind: Kind::Account,
                    after: after(),
                },
                json!({"id": 7, "call": "list", "kind": "account", "after": "c"}),
            ),
            (
                Ask::Get { object: &named },
                json!({"id": 7, "call": "get", "object": {"account_named": "ann"}}),
            ),
            (
                Ask::Get {
                    object: &ObjectRef::Account(ann.clone()),
                },
                json!({"id": 7, "call": "get", "object": {"account": "a\n1"}}),
            ),
            (
                Ask::Get {
                    object: &ObjectRef::AccountOwnedBy("o".to_owned()),
                },
                json!({"id": 7, "call": "get", "object": {"account_owned_by": "o"}}),
            ),
            (
                Ask::Dependents {
                    object: &ObjectRef::Entitlement(EntitlementName::new("staff")),
                },
                json!({"id": 7, "call": "dependents", "object": {"entitlement": "staff"}}),
            ),
            (
                Ask::Changes { after: after() },
                json!({"id": 7, "call": "changes", "after": "c"}),
            ),
            (
                Ask::Poll { handle: &handle },
                json!({"id": 7, "call": "poll", "handle": {"token": "t", "poll_after_ms": 5}}),
            ),
            (
                Ask::Verify {
                    claim: super::claim(&claim, None).unwrap(),
                },
                json!({"id": 7, "call": "verify",
                       "claim": {"claim": "granted", "account": "a\n1", "entitlement": "staff"}}),
            ),
            (
                Ask::Verify {
                    claim: super::claim(&works, Some(&SecretString::from("p".to_owned()))).unwrap(),
                },
                json!({"id": 7, "call": "verify",
                       "claim": {"claim": "credential_works", "account": "a\n1", "credential": "7", "secret": "p"}}),
            ),
            (
                Ask::Credentials { account: &ann },
                json!({"id": 7, "call": "credentials", "account": "a\n1"}),
            ),
            (
                Ask::Renewal {
                    account: &ann,
                    credential: &CredentialId::new("7"),
                },
                json!({"id": 7, "call": "renewal", "account": "a\n1", "credential": "7"}),
            ),
        ] {
            assert_eq!(on_the_line(&ask), form);
        }
        let attributes = Attributes::from([("title".to_owned(), json!("x"))]);
        let password = || SecretString::from("p".to_owned());
        let staff = || EntitlementName::new("staff");
        let account = || ann.clone();
        let issue = |material| {
            Operation::IssueCredential(NewCredential {
                account: ann.clone(),
                kind: CredentialKind::ApiKey,
                material,
                attributes: Attributes::new(),
                lifetime_s: Some(60),
                label: Some("ci".to_owned()),
                into: HandOver::slot().0,
            })
        };
        for (operation, form) in [
            (
                Operation::CreateAccount(NewAccount {
                    name: "ann".to_owned(),
                    owner: "o".to_owned(),
                    attributes: attributes.clone(),
                    enabled: true,
                    password: Some(password()),
                }),
                json!({"op": "create_account", "name": "ann", "owner": "o", "attributes": {"title": "x"},
                       "enabled": true, "password": "p"}),
            ),
            (
                Operation::UpdateAccount {
                    account: account(),
                    attributes,
                },
                json!({"op": "update_account", "account": "a\n1", "attributes": {"title": "x"}}),
            ),
            (
                Operation::EnableAccount { account: account() },
                json!({"op": "enable_account", "account": "a\n1"}),
            ),
            (
                Operation::DisableAccount { account: account() },
                json!({"op": "disable_account", "account": "a\n1"}),
            ),
            (
                Operation::DeleteAccount { account: account() },
                json!({"op": "delete_account", "account": "a\n1"}),
            ),
            (
                Operation::Grant {
                    account: account(),
                    entitlement: staff(),
                },
                json!({"op": "grant", "account": "a\n1", "entitlement": "staff"}),
            ),
            (
                Operation::Revoke {
                    account: account(),
                    entitlement: staff(),
                },
                json!({"op": "revoke", "account": "a\n1", "entitlement": "staff"}),
            ),
            (
                Operation::EndSessions { account: account() },
                json!({"op": "end_sessions", "account": "a\n1"}),
            ),
            (
                Operation::SetPassword {
                    account: account(),
                    password: password(),
                },
                json!({"op": "set_password", "account": "a\n1", "password": "p"}),
            ),
            (
                issue(Material::BySystem),
                json!({"op": "issue_credential", "account": "a\n1", "kind": "api_key", "material": "by_system",
                       "attributes": {}, "lifetime_s": 60, "label": "ci"}),
            ),
            (
                issue(Material::Secret(password())),
                json!({"op": "issue_credential", "account": "a\n1", "kind": "api_key", "material": {"secret": "p"},
                       "attributes": {}, "lifetime_s": 60, "label": "ci"}),
            ),
            (
                issue(Material::Public("CSR".to_owned())),
                json!({"op": "issue_credential", "account": "a\n1", "kind": "api_key", "material": {"public": "CSR"},
                       "attributes": {}, "lifetime_s": 60, "label": "ci"}),
            ),
            (
                Operation::StoreCredential(StoredCredential {
                    account: account(),
                    credential: CredentialId::new("7"),
                    parts: [("key".to_owned(), password())].into(),
                }),
                json!({"op": "store_credential", "account": "a\n1", "credential": "7", "parts": {"key": "p"}}),
            ),
            (
                Operation::ActivateCredential {
                    account: account(),
                    credential: CredentialId::new("7"),
                },
                json!({"op": "activate_credential", "account": "a\n1", "credential": "7"}),
            ),
            (
                Operation::DeactivateCredential {
                    account: account(),
                    credential: CredentialId::new("7"),
                },
                json!({"op": "deactivate_credential", "account": "a\n1", "credential": "7"}),
            ),
            (
                Operation::DestroyCredential {
                    account: account(),
                    credential: CredentialId::new("7"),
                },
                json!({"op": "destroy_credential", "account": "a\n1", "credential": "7"}),
            ),
            (
                Operation::TransferOwnership {
                    from: account(),
                    to: NativeId::new("b"),
                },
                json!({"op": "transfer_ownership", "from": "a\n1", "to": "b"}),
            ),
            (
                Operation::Action {
                    name: "archive".to_owned(),
                    with: json!({"x": 1}),
                },
                json!({"op": "action", "action": "archive", "with": {"x": 1}}),
            ),
        ] {
            let ask = Ask::Apply {
                operation: (&operation).into(),
                key: &key,
            };
            assert_eq!(
                on_the_line(&ask),
                json!({"id": 7, "call": "apply", "operation": form,
                       "key": {"idempotency": "k", "attempt": 2, "epoch": 3}})
            );
        }
    }

    #[test]
    fn what_is_answered_is_read_in_its_shortest_and_its_longest_form() {
        let read = |text: &str| said(text).unwrap().answer.unwrap();
        let object = |text: &str| serde_json::from_value::<Object>(read(text)).unwrap();
        let Object::Account(short) =
            object(r#"{"id":1,"ok":{"kind":"account","id":"1","name":"ann"}}"#)
        else {
            panic!();
        };
        assert_eq!(
            (short.enabled, short.owner, short.entitlements),
            (None, None, None)
        );
        let Object::Account(long) = object(
            r#"{"id":1,"ok":{"kind":"account","id":"1","name":"ann","enabled":false,"owner":"o","version":"v",
                "attributes":{"a":[1]},"entitlements":["x"]}}"#,
        ) else {
            panic!();
        };
        assert_eq!(
            (long.enabled, long.owner.as_deref(), long.version.as_deref()),
            (Some(false), Some("o"), Some("v"))
        );
        assert!(matches!(
            object(r#"{"id":1,"ok":{"kind":"entitlement","id":"7","name":"staff"}}"#),
            Object::Entitlement(_)
        ));

        let outcome =
            |text: &str| Outcome::from(serde_json::from_str::<WireOutcome>(text).unwrap());
        assert!(
            matches!(outcome(r#"{"outcome":"done"}"#), Outcome::Done(receipt) if receipt == Receipt::default())
        );
        assert!(matches!(
            outcome(
                r#"{"outcome":"already_so","receipt":{"account":"1","name":"ann","request_id":"r"}}"#
            ),
            Outcome::AlreadySo(Receipt {
                account: Some(_),
                request_id: Some(_),
                ..
            })
        ));
        assert!(matches!(
            outcome(r#"{"outcome":"accepted","handle":{"token":"t","poll_after_ms":50}}"#),
            Outcome::Accepted(_)
        ));
        assert!(matches!(
            outcome(
                r#"{"outcome":"needs_human","task":{"title":"t","instructions":"i","assignee":"a",
                    "due_after_s":60,"proof_required":true}}"#
            ),
            Outcome::NeedsHuman(_)
        ));
        assert!(matches!(
            outcome(r#"{"outcome":"ambiguous","reason":"cut off"}"#),
            Outcome::Ambiguous { .. }
        ));

        let verdict = |text: &str| serde_json::from_str::<Verdict>(text).unwrap();
        assert!(matches!(
            verdict(r#"{"verdict":"proven","by":"GET","account":"1","seen":{"active":true}}"#),
            Verdict::Proven(Observation {
                account: Some(_),
                ..
            })
        ));
        assert!(matches!(
            verdict(r#"{"verdict":"refuted","by":"GET","seen":null}"#),
            Verdict::Refuted(_)
        ));
        assert!(matches!(
            verdict(r#"{"verdict":"cannot_observe","reason":"x"}"#),
            Verdict::CannotObserve { .. }
        ));

        let hello: Hello =
            serde_json::from_str(r#"{"protocol":1,"name":"x","capabilities":{}}"#).unwrap();
        assert!(!hello.concurrent && hello.capabilities == WireCapabilities::default());
        let page: WirePage =
            serde_json::from_str(r#"{"items":[],"next":null,"complete":true}"#).unwrap();
        assert!(Page::from(page).complete);
        let changes: WireChanges =
            serde_json::from_str(r#"{"items":[],"next":"c","gap":false}"#).unwrap();
        assert_eq!(Changes::from(changes).next, Some(Cursor("c".to_owned())));
        let finding = r#"{"findings":[{"what":"reach","good":true,"detail":"up"}]}"#;
        let health: WireHealth = serde_json::from_str(finding).unwrap();
        assert!(Health::from(health).is_good());
        let uses = r#"{"uses":[{"by":"b","what":"w","last_seen":"2030-01-01T00:00:00Z"}],"blind_spots":[]}"#;
        let uses: WireUses = serde_json::from_str(uses).unwrap();
        assert_eq!(Coverage::from(uses).value.len(), 1);
        let listed = r#"{"credentials":[{"id":"7","kind":"api_key"},{"id":"8","kind":"token","active":false,
            "label":"ci","expires_at":"2030-01-01T00:00:00Z"}],"blind_spots":[]}"#;
        let listed: WireCredentials = serde_json::from_str(listed).unwrap();
        let listed = Coverage::from(listed).value;
        assert_eq!((listed[0].active, listed[1].active), (None, Some(false)));
    }

    #[test]
    fn what_was_minted_is_taken_out_of_every_answer() {
        let mut answer = json!({"outcome": "done", "receipt": {"credential": {"id": "7", "kind": "token"}},
                                "minted": {"public": "P", "secret": "S3cret"}});
        let minted = WireMinted::out_of(&mut answer).unwrap();
        assert!(!answer.to_string().contains("S3cret"));
        let Outcome::Done(receipt) = serde_json::from_value::<WireOutcome>(answer)
            .unwrap()
            .into()
        else {
            panic!();
        };
        let minted = minted.of(receipt.credential.unwrap());
        assert_eq!(minted.public.as_deref(), Some("P"));
        assert_eq!(minted.secret.unwrap().expose_secret(), "S3cret");

        for wrong in [
            json!("S3cret"),
            json!(["S3cret"]),
            json!({"secret": ["S3cret"]}),
        ] {
            let mut answer = json!({"outcome": "done", "minted": wrong});
            let message = WireMinted::out_of(&mut answer).err().unwrap();
            assert!(!message.contains("S3cret") && !answer.to_string().contains("S3cret"));
        }
        let none = WireMinted::out_of(&mut json!({"outcome": "done", "minted": null})).unwrap();
        assert!(none.secret.is_none() && none.public.is_none());
    }

    /// A listing that forgets to say whether it is complete must not be read as one that is.
    #[test]
    fn what_must_be_said_may_not_be_left_out() {
        assert!(serde_json::from_str::<WirePage>(r#"{"items":[],"next":null}"#).is_err());
        assert!(serde_json::from_str::<WireChanges>(r#"{"items":[],"next":null}"#).is_err());
        for line in [
            "",
            "[]",
            "7",
            r#"{"ok":1}"#,
            r#"{"id":"1","ok":1}"#,
            r#"{"id":1}"#,
            r#"{"id":-1,"ok":1}"#,
        ] {
            assert!(said(line).is_err(), "{line}");
        }
    }

    #[test]
    fn a_secret_is_cut_out_in_every_form() {
        let forms = Forms::of([&SecretString::from("a\"ü🙂".to_owned())]);
        let mut value = json!({
            "plain": "x a\"ü🙂 y",
            "line": [r#"{"password":"a\"ü🙂"}"#],
            "ascii": r#"{"password":"a\"\u00fc\ud83d\ude42"}"#,
        });
        forms.redact(&mut value);
        assert_eq!(
            value,
            json!({
                "plain": "x [REDACTED] y",
                "line": [r#"{"password":"[REDACTED]"}"#],
                "ascii": r#"{"password":"[REDACTED]"}"#,
            })
        );
        let mut value = json!("nothing to cut");
        Forms::of([&SecretString::from(String::new())]).redact(&mut value);
        assert_eq!(value, "nothing to cut");
    }
}
