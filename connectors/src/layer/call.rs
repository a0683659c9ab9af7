//! What all calls have in common, so that a layer is written once and not eight times.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use async_trait::async_trait;

use crate::connector::{
    Capabilities, Changes, Claim, Connector, Coverage, Credential, CredentialId, Cursor, Error,
    ErrorKind, Finding, Handle, Health, Kind, NativeId, Object, ObjectRef, Operation, OperationKey,
    Outcome, Page, Renewal, Use, Verdict,
};

/// The methods of a connector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    Check,
    List,
    Get,
    Changes,
    Apply,
    Poll,
    Verify,
    Credentials,
    Renewal,
    Dependents,
}

impl Method {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Check => "check",
            Self::List => "list",
            Self::Get => "get",
            Self::Changes => "changes",
            Self::Apply => "apply",
            Self::Poll => "poll",
            Self::Verify => "verify",
            Self::Credentials => "credentials",
            Self::Renewal => "renewal",
            Self::Dependents => "dependents",
        }
    }
}

/// One call as the layers see it. Holds nothing that a person wrote and no secret.
#[derive(Debug, Clone)]
pub struct Call {
    pub method: Method,
    /// What is asked, in a word: the operation, the claim, the kind of object.
    pub what: &'static str,
    /// The idempotency key and attempt of a write.
    pub key: Option<OperationKey>,
    /// Equal for calls about the same thing.
    pub identity: u64,
}

impl Call {
    fn new(method: Method, what: &'static str, about: &(impl std::fmt::Debug + ?Sized)) -> Self {
        let mut hasher = DefaultHasher::new();
        (method, what).hash(&mut hasher);
        format!("{about:?}").hash(&mut hasher);
        Self {
            method,
            what,
            key: None,
            identity: hasher.finish(),
        }
    }

    fn apply(operation: &Operation, key: &OperationKey) -> Self {
        let about = Self::new(Method::Apply, operation.name().as_str(), &key.idempotency);
        Self {
            key: Some(key.clone()),
            ..about
        }
    }
}

/// What a call can answer, and what it means when it does not.
pub trait Answer: Sized + Send {
    /// The call was given up after `after_ms`.
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`] for everything that changes nothing.
    fn none_within(after_ms: u64) -> Result<Self, Error> {
        Err(Error::new(
            ErrorKind::Timeout,
            format!("no answer within {after_ms} ms"),
        ))
    }

    /// An answer which says that the system as a whole is away, as the error it amounts to.
    fn system_away(&self) -> Option<Error> {
        None
    }
}

impl Answer for Page {}
impl Answer for Option<Object> {}
impl Answer for Changes {}
impl Answer for Verdict {}
impl Answer for Coverage<Vec<Use>> {}
impl Answer for Coverage<Vec<Credential>> {}
impl Answer for Renewal {}

impl Answer for Health {
    fn none_within(after_ms: u64) -> Result<Self, Error> {
        let fix = "see whether the system is up and its address is right, or raise `timeout_ms`";
        Ok(Self {
            findings: vec![Finding::bad(
                "reach",
                format!("no answer within {after_ms} ms"),
                fix,
            )],
        })
    }

    fn system_away(&self) -> Option<Error> {
        let bad = |what: &str| {
            self.findings
                .iter()
                .find(|finding| finding.what == what && !finding.good)
        };
        let error = |kind, finding: &Finding| Error::new(kind, finding.detail.clone());
        bad("login")
            .map(|finding| error(ErrorKind::AuthExpired, finding))
            .or_else(|| bad("reach").map(|finding| error(ErrorKind::Unreachable, finding)))
    }
}

impl Answer for Outcome {
    /// The request may have left: whoever asked has to look before asking again.
    fn none_within(after_ms: u64) -> Result<Self, Error> {
        Ok(Self::Ambiguous {
            reason: format!("no answer within {after_ms} ms"),
        })
    }

    fn system_away(&self) -> Option<Error> {
        match self {
            Self::Ambiguous { reason } => Some(Error::new(ErrorKind::Timeout, reason.clone())),
            _ => None,
        }
    }
}

/// Behaviour around every call alike.
pub trait Layer: Send + Sync + 'static {
    /// Runs `next`, or does not. `next` has not started before it is first polled.
    fn around<T: Answer>(
        &self,
        call: &Call,
        next: impl Future<Output = Result<T, Error>> + Send,
    ) -> impl Future<Output = Result<T, Error>> + Send;
}

/// A connector with one layer around it.
pub struct Layered<L> {
    layer: L,
    inner: Arc<dyn Connector>,
}

impl<L: Layer> Layered<L> {
    #[must_use]
    pub fn around(layer: L, inner: Arc<dyn Connector>) -> Arc<dyn Connector> {
        Arc::new(Self { layer, inner })
    }
}

#[async_trait]
impl<L: Layer> Connector for Layered<L> {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn check(&self) -> Result<Health, Error> {
        self.layer
            .around(&Call::new(Method::Check, "check", ""), self.inner.check())
            .await
    }

    async fn list(&self, kind: Kind, after: Option<Cursor>) -> Result<Page, Error> {
        let what = match kind {
            Kind::Account => "accounts",
            Kind::Entitlement => "entitlements",
        };
        self.layer
            .around(
                &Call::new(Method::List, what, &after),
                self.inner.list(kind, after),
            )
            .await
    }

    async fn get(&self, object: &ObjectRef) -> Result<Option<Object>, Error> {
        let what = object_word(object);
        self.layer
            .around(
                &Call::new(Method::Get, what, object),
                self.inner.get(object),
            )
            .await
    }

    async fn changes(&self, after: Option<Cursor>) -> Result<Changes, Error> {
        self.layer
            .around(
                &Call::new(Method::Changes, "changes", &after),
                self.inner.changes(after),
            )
            .await
    }

    async fn apply(&self, operation: &Operation, key: &OperationKey) -> Result<Outcome, Error> {
        self.layer
            .around(
                &Call::apply(operation, key),
                self.inner.apply(operation, key),
            )
            .await
    }

    async fn poll(&self, handle: &Handle) -> Result<Outcome, Error> {
        // A question after an operation changes nothing: no answer is a time-out, never ambiguous.
        let polled = async { self.inner.poll(handle).await.map(Polled) };
        self.layer
            .around(&Call::new(Method::Poll, "poll", handle), polled)
            .await
            .map(|Polled(outcome)| outcome)
    }

    async fn verify(&self, claim: &Claim) -> Result<Verdict, Error> {
        let what = claim_word(claim);
        self.layer
            .around(
                &Call::new(Method::Verify, what, claim),
                self.inner.verify(claim),
            )
            .await
    }

    async fn credentials(&self, account: &NativeId) -> Result<Coverage<Vec<Credential>>, Error> {
        self.layer
            .around(
                &Call::new(Method::Credentials, "credentials", account),
                self.inner.credentials(account),
            )
            .await
    }

    async fn renewal(
        &self,
        account: &NativeId,
        credential: &CredentialId,
    ) -> Result<Renewal, Error> {
        self.layer
            .around(
                &Call::new(Method::Renewal, "renewal", &(account, credential)),
                self.inner.renewal(account, credential),
            )
            .await
    }

    async fn dependents(&self, object: &ObjectRef) -> Result<Coverage<Vec<Use>>, Error> {
        let what = object_word(object);
        self.layer
            .around(
                &Call::new(Method::Dependents, what, object),
                self.inner.dependents(object),
            )
            .await
    }
}

/// What [`Connector::poll`] answers: an outcome, and yet a read.
struct Polled(Outcome);

impl Answer for Polled {}

fn object_word(object: &ObjectRef) -> &'static str {
    match object {
        ObjectRef::Account(_) => "account",
        ObjectRef::AccountNamed(_) => "account_named",
        ObjectRef::AccountOwnedBy(_) => "account_owned_by",
        ObjectRef::Entitlement(_) => "entitlement",
    }
}

fn claim_word(claim: &Claim) -> &'static str {
    match claim {
        Claim::AccountExists { .. } => "account_exists",
        Claim::AccountEnabled { .. } => "account_enabled",
        Claim::AccountDisabled { .. } => "account_disabled",
        Claim::AccountAbsent { .. } => "account_absent",
        Claim::AttributesAre { .. } => "attributes_are",
        Claim::Granted { .. } => "granted",
        Claim::NotGranted { .. } => "not_granted",
        Claim::NoSessions { .. } => "no_sessions",
        Claim::CredentialInactive { .. } => "credential_inactive",
        Claim::CredentialActive { .. } => "credential_active",
        Claim::CredentialIssued { .. } => "credential_issued",
        Claim::CredentialStored { .. } => "credential_stored",
        Claim::CredentialWorks { .. } => "credential_works",
        Claim::CredentialRefused { .. } => "credential_refused",
        Claim::ServesCertificate { .. } => "serves_certificate",
        Claim::ServesTrusted { .. } => "serves_trusted",
        Claim::NothingSigned { .. } => "nothing_signed",
        Claim::OwnsNothing { .. } => "owns_nothing",
    }
}
