//! What every target system looks like to the rest of Tenure.
//!
//! A connector translates; it decides nothing. It does not retry, does not wait, keeps no state that a
//! restart would miss, and never turns "I could not see" into "it is not there". Cross-cutting behaviour
//! (time limits, concurrency, breaker, dry run) is a [layer](crate::layer) around it.
//!
//! The life of one operation:
//!
//! 1. the engine makes the intent durable, then calls [`Connector::apply`] with a stable [`OperationKey`];
//! 2. an answer that proves the effect is [`Outcome::Done`], an effect that was already there is
//!    [`Outcome::AlreadySo`]; a time-out after the request left is [`Outcome::Ambiguous`], never an error
//!    that somebody might retry blindly;
//! 3. [`Connector::verify`] reads the claim back independently of the answer;
//! 4. after a crash the engine calls `verify` (or `get`) *before* it repeats anything.
//!
//! Longer than 800 lines: the whole contract of a connector is read in one place.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use crate::credential::{
    Credential, CredentialId, CredentialKind, Renewal, RenewalWindow, Signed, SignedOne,
};
pub use crate::handover::{
    HandOver, Issuing, Material, MaterialName, Minted, NewCredential, Slot, StoredCredential, Takes,
};
use crate::secret::SecretRef;

/// Attributes of an account as the system names them; a value is a string, number, boolean or list of them.
pub type Attributes = BTreeMap<String, Value>;

/// The identifier a system itself uses and never changes: an LDAP entry's DN or GUID, a SCIM `id`, a role name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NativeId(String);

impl NativeId {
    #[must_use]
    pub fn new(id: impl Into<String>) -> Self {
        Self(id.into())
    }
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NativeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A right in one system: a group, a role, a membership. The name a policy uses; each connector documents
/// what it accepts (LDAP: a `cn` below the group base, or a full DN; SCIM: a group's `displayName`;
/// PostgreSQL: a role name).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EntitlementName(String);

impl EntitlementName {
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EntitlementName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What kinds of object a system can list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Account,
    Entitlement,
}

/// How to find one object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ObjectRef {
    /// An account by the system's own identifier.
    Account(NativeId),
    /// An account by its login name.
    AccountNamed(String),
    /// The account that carries this owner key: the value Tenure wrote when it created the account.
    /// This is how a create whose answer was lost is found again.
    AccountOwnedBy(String),
    /// An entitlement by name.
    Entitlement(EntitlementName),
}

/// What a system holds about one object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Object {
    Account(Account),
    Entitlement(Entitlement),
}

impl Object {
    /// The account, if this is one.
    #[must_use]
    pub fn into_account(self) -> Option<Account> {
        match self {
            Self::Account(account) => Some(account),
            Self::Entitlement(_) => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Account {
    pub id: NativeId,
    pub name: String,
    /// Whether a login would succeed; `None` when the system does not say.
    pub enabled: Option<bool>,
    /// The owner key stored in the account, if any.
    pub owner: Option<String>,
    #[serde(default)]
    pub attributes: Attributes,
    /// Names of entitlements held; `None` when this read did not look.
    pub entitlements: Option<BTreeSet<EntitlementName>>,
    /// The system's version of the object (an ETag), if it has one.
    pub version: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entitlement {
    pub id: NativeId,
    pub name: EntitlementName,
}

/// An account to be made. `owner` is stored in the system so that the account can be found again.
#[derive(Debug, Clone)]
pub struct NewAccount {
    pub name: String,
    pub owner: String,
    pub attributes: Attributes,
    pub enabled: bool,
    /// `None` creates the account without a usable password.
    pub password: Option<SecretString>,
}

/// What the engine asks a system to do. Every operation is idempotent: done twice it answers
/// [`Outcome::AlreadySo`] the second time.
#[derive(Debug, Clone)]
pub enum Operation {
    CreateAccount(NewAccount),
    UpdateAccount {
        account: NativeId,
        attributes: Attributes,
    },
    EnableAccount {
        account: NativeId,
    },
    /// Makes every new login fail, by the system's own means. Open sessions are [`Operation::EndSessions`].
    DisableAccount {
        account: NativeId,
    },
    DeleteAccount {
        account: NativeId,
    },
    Grant {
        account: NativeId,
        entitlement: EntitlementName,
    },
    Revoke {
        account: NativeId,
        entitlement: EntitlementName,
    },
    /// Ends what is open now: connections, sessions, refresh tokens.
    EndSessions {
        account: NativeId,
    },
    SetPassword {
        account: NativeId,
        password: SecretString,
    },
    /// Makes a new credential beside those there are, or in place of the one where there is room for one only. Under
    /// one [`OperationKey`] never a second.
    IssueCredential(NewCredential),
    /// Keeps a credential in a place, as a version that nobody reads yet.
    StoreCredential(StoredCredential),
    /// Takes [`Operation::DeactivateCredential`] back. In a place that keeps versions: makes this one the one that is
    /// read, and none other.
    ActivateCredential {
        account: NativeId,
        credential: CredentialId,
    },
    /// Makes one credential useless in a way that can be taken back. For some systems there is none.
    DeactivateCredential {
        account: NativeId,
        credential: CredentialId,
    },
    /// Removes one credential for good, and no other.
    DestroyCredential {
        account: NativeId,
        credential: CredentialId,
    },
    /// Hands what `from` owns in this system to `to`.
    TransferOwnership {
        from: NativeId,
        to: NativeId,
    },
    /// A named action of one connector kind.
    Action {
        name: String,
        with: Value,
    },
}

/// The name of an operation: what capabilities, evidence and the `exec` protocol say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationName {
    CreateAccount,
    UpdateAccount,
    EnableAccount,
    DisableAccount,
    DeleteAccount,
    Grant,
    Revoke,
    EndSessions,
    SetPassword,
    IssueCredential,
    StoreCredential,
    ActivateCredential,
    DeactivateCredential,
    DestroyCredential,
    TransferOwnership,
    Action,
}

impl OperationName {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CreateAccount => "create_account",
            Self::UpdateAccount => "update_account",
            Self::EnableAccount => "enable_account",
            Self::DisableAccount => "disable_account",
            Self::DeleteAccount => "delete_account",
            Self::Grant => "grant",
            Self::Revoke => "revoke",
            Self::EndSessions => "end_sessions",
            Self::SetPassword => "set_password",
            Self::IssueCredential => "issue_credential",
            Self::StoreCredential => "store_credential",
            Self::ActivateCredential => "activate_credential",
            Self::DeactivateCredential => "deactivate_credential",
            Self::DestroyCredential => "destroy_credential",
            Self::TransferOwnership => "transfer_ownership",
            Self::Action => "action",
        }
    }
}

impl Operation {
    #[must_use]
    pub fn name(&self) -> OperationName {
        match self {
            Self::CreateAccount(_) => OperationName::CreateAccount,
            Self::UpdateAccount { .. } => OperationName::UpdateAccount,
            Self::EnableAccount { .. } => OperationName::EnableAccount,
            Self::DisableAccount { .. } => OperationName::DisableAccount,
            Self::DeleteAccount { .. } => OperationName::DeleteAccount,
            Self::Grant { .. } => OperationName::Grant,
            Self::Revoke { .. } => OperationName::Revoke,
            Self::EndSessions { .. } => OperationName::EndSessions,
            Self::SetPassword { .. } => OperationName::SetPassword,
            Self::IssueCredential(_) => OperationName::IssueCredential,
            Self::StoreCredential(_) => OperationName::StoreCredential,
            Self::ActivateCredential { .. } => OperationName::ActivateCredential,
            Self::DeactivateCredential { .. } => OperationName::DeactivateCredential,
            Self::DestroyCredential { .. } => OperationName::DestroyCredential,
            Self::TransferOwnership { .. } => OperationName::TransferOwnership,
            Self::Action { .. } => OperationName::Action,
        }
    }
}

/// Names one intended effect. `idempotency` stays the same over every attempt; the fencing pair does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationKey {
    /// Stable for (case, step, instance). Sent to systems that can use it.
    pub idempotency: String,
    pub attempt: u32,
    pub epoch: i64,
}

/// How an accepted operation ended up.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// The system says it did it now.
    Done(Receipt),
    /// It was so before we asked. A success like `Done`.
    AlreadySo(Receipt),
    /// The system works on it; poll with [`Connector::poll`].
    Accepted(Handle),
    /// A person has to do it.
    NeedsHuman(HumanTask),
    /// The request left and no answer came. It must be read back, never blindly repeated.
    Ambiguous { reason: String },
}

/// What a system told about an effect. No secrets: it ends up in evidence (as digests) and in the history.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// The account the operation was about, with the identifier to use from now on.
    pub account: Option<NativeId>,
    /// The login name, where an operation chose or learned it.
    pub name: Option<String>,
    /// The state read before and after, where the connector saw it.
    pub before: Option<Value>,
    pub after: Option<Value>,
    /// The system's own name for the request, if it gives one.
    pub request_id: Option<String>,
    /// The credential that was issued or kept.
    #[serde(default)]
    pub credential: Option<Credential>,
}

/// A long-running operation inside a system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handle {
    pub token: String,
    pub poll_after_ms: u64,
}

/// Work that only a person can do, described so that a stranger to the case can do it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HumanTask {
    pub title: String,
    pub instructions: String,
    /// Who should do it: a role or a mailbox, as the system's configuration names it.
    pub assignee: String,
    pub due_after_s: u64,
    /// Whether finishing it takes a note of what was seen (a ticket number, a screenshot's digest).
    pub proof_required: bool,
}

/// A statement about a system that a read can prove or refute.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "claim", rename_all = "snake_case")]
pub enum Claim {
    /// An account with this owner key exists.
    AccountExists {
        owner: String,
    },
    AccountEnabled {
        account: NativeId,
    },
    /// No new login can succeed. An account that does not exist is disabled too.
    AccountDisabled {
        account: NativeId,
    },
    AccountAbsent {
        account: NativeId,
    },
    AttributesAre {
        account: NativeId,
        attributes: Attributes,
    },
    Granted {
        account: NativeId,
        entitlement: EntitlementName,
    },
    NotGranted {
        account: NativeId,
        entitlement: EntitlementName,
    },
    NoSessions {
        account: NativeId,
    },
    /// Nobody can prove with this credential who they are: it is gone, or the system says it is inactive. One that
    /// never was, or whose account does not exist, is inactive too.
    CredentialInactive {
        account: NativeId,
        credential: CredentialId,
    },
    /// The credential is there and the system says it is active. In a place that keeps versions: this is the one read.
    CredentialActive {
        account: NativeId,
        credential: CredentialId,
    },
    /// A credential was issued under this idempotency key; the observation tells which
    /// ([`Observation::credential`]). How an issue whose answer was lost is found again.
    CredentialIssued {
        account: NativeId,
        key: String,
    },
    /// The place keeps this credential whole, whether it is the one read there or not.
    CredentialStored {
        account: NativeId,
        credential: CredentialId,
    },
    /// Somebody who has the secret proves with it who they are: shown by a login, a handshake, a signed call made with
    /// it now.
    CredentialWorks {
        account: NativeId,
        credential: CredentialId,
        secret: SecretRef,
    },
    /// Who tries that is refused, because of the credential or the account and nothing else. A system that is away
    /// refuses nobody: that is an error. So is an account nobody can log in to for another reason. Costs a failed
    /// login, which lockout policies count.
    CredentialRefused {
        account: NativeId,
        credential: CredentialId,
        secret: SecretRef,
    },
    /// Whoever connects to `endpoint` is shown this certificate.
    ServesCertificate {
        endpoint: String,
        certificate: CredentialId,
    },
    /// Whoever connects to `endpoint` and trusts these roots (in PEM), and nothing else, accepts what is shown.
    ServesTrusted {
        endpoint: String,
        roots: String,
    },
    /// Nothing that this credential signed is good any more. The observation tells what still is ([`Observation::signed`]).
    NothingSigned {
        account: NativeId,
        credential: CredentialId,
    },
    /// There is nothing in this system that the account owns.
    OwnsNothing {
        account: NativeId,
    },
}

/// The name of a claim, as capabilities list it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClaimName {
    AccountExists,
    AccountEnabled,
    AccountDisabled,
    AccountAbsent,
    AttributesAre,
    Granted,
    NotGranted,
    NoSessions,
    CredentialInactive,
    CredentialActive,
    CredentialIssued,
    CredentialStored,
    CredentialWorks,
    CredentialRefused,
    ServesCertificate,
    ServesTrusted,
    NothingSigned,
    OwnsNothing,
}

impl Claim {
    #[must_use]
    pub fn name(&self) -> ClaimName {
        match self {
            Self::AccountExists { .. } => ClaimName::AccountExists,
            Self::AccountEnabled { .. } => ClaimName::AccountEnabled,
            Self::AccountDisabled { .. } => ClaimName::AccountDisabled,
            Self::AccountAbsent { .. } => ClaimName::AccountAbsent,
            Self::AttributesAre { .. } => ClaimName::AttributesAre,
            Self::Granted { .. } => ClaimName::Granted,
            Self::NotGranted { .. } => ClaimName::NotGranted,
            Self::NoSessions { .. } => ClaimName::NoSessions,
            Self::CredentialInactive { .. } => ClaimName::CredentialInactive,
            Self::CredentialActive { .. } => ClaimName::CredentialActive,
            Self::CredentialIssued { .. } => ClaimName::CredentialIssued,
            Self::CredentialStored { .. } => ClaimName::CredentialStored,
            Self::CredentialWorks { .. } => ClaimName::CredentialWorks,
            Self::CredentialRefused { .. } => ClaimName::CredentialRefused,
            Self::ServesCertificate { .. } => ClaimName::ServesCertificate,
            Self::ServesTrusted { .. } => ClaimName::ServesTrusted,
            Self::NothingSigned { .. } => ClaimName::NothingSigned,
            Self::OwnsNothing { .. } => ClaimName::OwnsNothing,
        }
    }
}

/// What a read said about a [`Claim`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    Proven(Observation),
    Refuted(Observation),
    /// The system offers no way to see it; the reason is for a person.
    CannotObserve {
        reason: String,
    },
}

/// What was read, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    /// The means: `ldap search`, `GET /Users/{id}`, `pg_roles`.
    pub by: String,
    /// The account concerned, where one was found.
    pub account: Option<NativeId>,
    pub seen: Value,
}

impl Observation {
    /// The credential that was seen, where the claim was about one that had to be found.
    #[must_use]
    pub fn credential(&self) -> Option<Credential> {
        let seen = self.seen.get("credential")?;
        serde_json::from_value(seen.clone()).ok()
    }

    /// The certificate of an authority that the claim was about, in PEM.
    #[must_use]
    pub fn certificate(&self) -> Option<&str> {
        self.seen.get("certificate")?.as_str()
    }

    /// What an authority signed and is still good.
    #[must_use]
    pub fn signed(&self) -> Option<Signed> {
        serde_json::from_value(self.seen.clone()).ok()
    }
}

/// Where to go on listing. Opaque; belongs to one connector.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cursor(pub String);

/// One page of a listing.
#[derive(Debug, Clone)]
pub struct Page {
    pub items: Vec<Object>,
    pub next: Option<Cursor>,
    /// Only when the last page says `complete` may a missing object be read as deleted.
    pub complete: bool,
}

/// What changed in the system since a cursor.
#[derive(Debug, Clone)]
pub struct Changes {
    pub items: Vec<Object>,
    pub deleted: Vec<NativeId>,
    pub next: Option<Cursor>,
    /// The feed lost something: only a full listing can tell the truth now.
    pub gap: bool,
}

/// One thing that uses an object, and how sure the system is that it listed them all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Use {
    pub by: String,
    pub what: String,
    pub last_seen: Option<DateTime<Utc>>,
}

/// A value with how much of the world it covers.
#[derive(Debug, Clone)]
pub struct Coverage<T> {
    pub value: T,
    /// What this system cannot see, in words; empty when it sees everything.
    pub blind_spots: Vec<String>,
}

/// What a connector can do. Declared by its code and configuration, never guessed; it selects the
/// conformance tests and lets the planner refuse early.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    pub operations: BTreeSet<OperationName>,
    pub claims: BTreeSet<ClaimName>,
    pub lists: BTreeSet<Kind>,
    pub changes: bool,
    pub dependents: bool,
    /// The kinds of credential whose every one is listed for an account; empty where none can be listed.
    #[serde(default)]
    pub credentials: BTreeSet<CredentialKind>,
    /// The kinds that [`Operation::IssueCredential`] makes, and how.
    #[serde(default)]
    pub issues: BTreeMap<CredentialKind, Issuing>,
    /// Whether it has opinions about when a credential should be renewed.
    #[serde(default)]
    pub renewal: bool,
    /// Whether an account can be found by its owner key.
    pub finds_by_owner: bool,
    /// Whether a person, not a program, carries operations out.
    pub by_hand: bool,
}

/// The answer of `check`: one line for each thing looked at, in the order reach, login, rights.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    pub findings: Vec<Finding>,
}

impl Health {
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.findings.iter().all(|finding| finding.good)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// `reach`, `login`, `rights` or something of the connector's own.
    pub what: String,
    pub good: bool,
    pub detail: String,
    /// What to change when it is not good.
    pub fix: Option<String>,
}

impl Finding {
    #[must_use]
    pub fn good(what: &str, detail: impl Into<String>) -> Self {
        Self {
            what: what.to_owned(),
            good: true,
            detail: detail.into(),
            fix: None,
        }
    }
    #[must_use]
    pub fn bad(what: &str, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            what: what.to_owned(),
            good: false,
            detail: detail.into(),
            fix: Some(fix.into()),
        }
    }
}

/// Why a call did not succeed. Says what happened; [`ErrorKind::retry_class`] says what that means.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    pub kind: ErrorKind,
    pub message: String,
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            source: None,
        }
    }
    #[must_use]
    pub fn with_source(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.source = Some(source.into());
        self
    }
    #[must_use]
    pub fn retry_class(&self) -> RetryClass {
        self.kind.retry_class()
    }
    /// The message with the chain of its causes, for the place that shows the whole error.
    #[must_use]
    pub fn whole(&self) -> String {
        let mut text = self.message.clone();
        let mut cause = self
            .source
            .as_deref()
            .map(|source| source as &dyn std::error::Error);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ErrorKind {
    /// The object of the operation does not exist.
    NotFound,
    /// Something else holds the name or the object changed under us.
    Conflict,
    /// The system refuses the content; the same content will be refused again.
    Invalid,
    /// We are known and may not do this.
    Denied,
    /// Every place for such a thing is taken; a person, or a later step, has to free one first.
    Full,
    /// Our own login was refused. Concerns the whole system, not this operation.
    AuthExpired,
    /// The system told us to come back at this time.
    RateLimited { until: DateTime<Utc> },
    /// The system answered that it cannot just now (5xx, busy, read only).
    Transient,
    /// No answer in time to something that changes nothing. A *change* without answer is [`Outcome::Ambiguous`].
    Timeout,
    /// No connection was made, so nothing was sent. Concerns the whole system.
    Unreachable,
    /// Our own circuit breaker is open; nothing was sent.
    BreakerOpen { until: DateTime<Utc> },
    /// This connector or this system cannot do that at all.
    Unsupported,
    /// The other side broke its protocol, or we did.
    Bug,
}

/// What an error means for the one who decides about retrying: only the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryClass {
    /// The same call will fail again: a person has to look.
    Never,
    /// Try again with growing pauses; each try counts against the step's budget.
    Backoff,
    /// The whole system is away: wait for it, count nothing against the step.
    SystemDown,
    /// Not before this time; counts nothing against the step.
    NotBefore(DateTime<Utc>),
}

impl ErrorKind {
    #[must_use]
    pub fn retry_class(self) -> RetryClass {
        match self {
            Self::NotFound
            | Self::Invalid
            | Self::Denied
            | Self::Full
            | Self::Unsupported
            | Self::Bug => RetryClass::Never,
            Self::Conflict | Self::Transient | Self::Timeout => RetryClass::Backoff,
            Self::AuthExpired | Self::Unreachable => RetryClass::SystemDown,
            Self::RateLimited { until } | Self::BreakerOpen { until } => {
                RetryClass::NotBefore(until)
            }
        }
    }

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::Invalid => "invalid",
            Self::Denied => "denied",
            Self::Full => "full",
            Self::AuthExpired => "auth_expired",
            Self::RateLimited { .. } => "rate_limited",
            Self::Transient => "transient",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
            Self::BreakerOpen { .. } => "breaker_open",
            Self::Unsupported => "unsupported",
            Self::Bug => "bug",
        }
    }
}

/// One target system.
#[async_trait]
pub trait Connector: Send + Sync {
    fn capabilities(&self) -> Capabilities;

    /// Reaches, logs in, looks at its rights. A system that is away is a bad [`Finding`], not an error.
    ///
    /// # Errors
    /// Only when the check itself could not be made sense of.
    async fn check(&self) -> Result<Health, Error>;

    /// Lists objects of one kind, page by page.
    ///
    /// # Errors
    /// A failed page; nothing may be inferred from the pages before it.
    async fn list(&self, kind: Kind, after: Option<Cursor>) -> Result<Page, Error>;

    /// Reads one object. `Ok(None)` means the system was asked and does not have it.
    ///
    /// # Errors
    /// Whenever the system was not properly asked.
    async fn get(&self, object: &ObjectRef) -> Result<Option<Object>, Error>;

    /// What changed since `after`.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] unless the capability is declared.
    async fn changes(&self, after: Option<Cursor>) -> Result<Changes, Error> {
        let _ = after;
        Err(Error::new(
            ErrorKind::Unsupported,
            "this system has no change feed",
        ))
    }

    /// Carries out one operation, idempotently.
    ///
    /// # Errors
    /// Only when it is certain that nothing was changed; otherwise [`Outcome::Ambiguous`].
    async fn apply(&self, operation: &Operation, key: &OperationKey) -> Result<Outcome, Error>;

    /// Asks after an [`Outcome::Accepted`] operation.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] when this connector never accepts for later.
    async fn poll(&self, handle: &Handle) -> Result<Outcome, Error> {
        let _ = handle;
        Err(Error::new(
            ErrorKind::Unsupported,
            "this system accepts nothing for later",
        ))
    }

    /// Reads whether `claim` holds now, independently of any earlier answer.
    ///
    /// # Errors
    /// The read failed; nothing is known.
    async fn verify(&self, claim: &Claim) -> Result<Verdict, Error>;

    /// The credentials of an account, of the kinds that the capabilities name; none for an account that does not
    /// exist. What the system cannot show stands among the blind spots.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] unless a kind is declared.
    async fn credentials(&self, account: &NativeId) -> Result<Coverage<Vec<Credential>>, Error> {
        let _ = account;
        Err(Error::new(
            ErrorKind::Unsupported,
            "this system cannot list credentials",
        ))
    }

    /// When the system wishes a credential to be renewed; no opinion about one that it does not have. A question to the system
    /// itself, which nothing else depends on.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] unless the capability is declared.
    async fn renewal(
        &self,
        account: &NativeId,
        credential: &CredentialId,
    ) -> Result<Renewal, Error> {
        let _ = (account, credential);
        Err(Error::new(
            ErrorKind::Unsupported,
            "this system does not say when to renew",
        ))
    }

    /// Who or what uses an object.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] unless the capability is declared.
    async fn dependents(&self, object: &ObjectRef) -> Result<Coverage<Vec<Use>>, Error> {
        let _ = object;
        Err(Error::new(
            ErrorKind::Unsupported,
            "this system cannot tell who uses what",
        ))
    }
}
