//! What every test of the suite works with: fresh accounts, applied operations, and how answers are judged.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use secrecy::SecretString;
use uuid::Uuid;

use super::fixture::Fixture;
use crate::connector::{
    Account, Capabilities, Claim, ClaimName, Connector, Cursor, EntitlementName, Error, ErrorKind,
    Kind, NativeId, NewAccount, Object, ObjectRef, Observation, Operation, OperationKey,
    OperationName, Outcome, Receipt, Verdict,
};

/// How often an operation accepted for later is asked after.
const POLLS_MAX: u32 = 100;
/// The longest pause between two such questions, whatever the system wishes.
const POLL_MS_MAX: u64 = 1_000;
/// How many pages one listing may have before the suite calls it endless.
const PAGES_MAX: usize = 100_000;
/// How long to wait between two reads while the system settles.
const SETTLE_STEP_MS: u64 = 50;

pub(super) type Checked<T = ()> = Result<T, Stop>;

/// Why a test ended before its end.
#[derive(Debug)]
pub(super) enum Stop {
    Failed(String),
    NotApplicable(String),
}

pub(super) fn failed<T>(detail: impl Into<String>) -> Checked<T> {
    Err(Stop::Failed(detail.into()))
}

pub(super) fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Checked {
    if holds {
        Ok(())
    } else {
        Err(Stop::Failed(otherwise()))
    }
}

/// An account the suite made.
#[derive(Debug, Clone)]
pub(super) struct Made {
    pub id: NativeId,
    pub name: String,
    pub owner: String,
}

pub(super) struct Bench {
    pub connector: Arc<dyn Connector>,
    pub fixture: Fixture,
    pub can: Capabilities,
    counter: AtomicU32,
    made: Mutex<Vec<NativeId>>,
}

impl Bench {
    pub fn new(connector: Arc<dyn Connector>, fixture: Fixture) -> Self {
        let can = connector.capabilities();
        Self {
            connector,
            fixture,
            can,
            counter: AtomicU32::new(0),
            made: Mutex::new(Vec::new()),
        }
    }

    /// The test goes on only if a program carries out all of `operations`.
    pub fn needs(&self, operations: &[OperationName]) -> Checked {
        if self.can.by_hand {
            return Err(Stop::NotApplicable(
                "a person carries the operations out".to_owned(),
            ));
        }
        for operation in operations {
            if !self.can.operations.contains(operation) {
                return Err(Stop::NotApplicable(format!(
                    "`{}` is not declared",
                    operation.as_str()
                )));
            }
        }
        Ok(())
    }

    pub fn needs_claim(&self, claim: ClaimName) -> Checked {
        if self.can.claims.contains(&claim) && !self.can.by_hand {
            Ok(())
        } else {
            Err(Stop::NotApplicable(format!(
                "claim `{}` is not declared",
                words(&claim)
            )))
        }
    }

    pub fn needs_list(&self, kind: Kind) -> Checked {
        if self.can.lists.contains(&kind) {
            Ok(())
        } else {
            Err(Stop::NotApplicable(format!(
                "listing `{}` is not declared",
                words(&kind)
            )))
        }
    }

    pub fn needs_owner_lookup(&self) -> Checked {
        if self.can.finds_by_owner && !self.can.by_hand {
            Ok(())
        } else {
            Err(Stop::NotApplicable(
                "`finds_by_owner` is not declared".to_owned(),
            ))
        }
    }

    /// The fixture's two entitlements.
    pub fn entitlements(&self) -> Checked<[EntitlementName; 2]> {
        match self.fixture.entitlements.as_slice() {
            [first, second, ..] => Ok([first.clone(), second.clone()]),
            _ => Err(Stop::NotApplicable(
                "the fixture names fewer than two entitlements".to_owned(),
            )),
        }
    }

    pub fn fresh_name(&self) -> String {
        format!(
            "{}{}",
            self.fixture.prefix,
            self.counter.fetch_add(1, Ordering::Relaxed)
        )
    }

    pub fn new_account(&self, name: &str) -> NewAccount {
        NewAccount {
            name: name.to_owned(),
            owner: format!("conformance-{name}"),
            attributes: super::named(&self.fixture.attributes, name),
            enabled: true,
            password: None,
        }
    }

    /// A new account with a fresh name.
    pub async fn make(&self) -> Checked<Made> {
        let account = self.new_account(&self.fresh_name());
        self.make_this(account).await
    }

    pub async fn make_with_password(&self, password: &SecretString) -> Checked<Made> {
        let mut account = self.new_account(&self.fresh_name());
        account.password = Some(password.clone());
        self.make_this(account).await
    }

    pub async fn make_this(&self, account: NewAccount) -> Checked<Made> {
        self.needs(&[OperationName::CreateAccount])?;
        let (name, owner) = (account.name.clone(), account.owner.clone());
        match self.create(account, &key()).await {
            Ok((id, Outcome::Done(_))) => Ok(Made { id, name, owner }),
            other => failed(format!(
                "create of `{name}`: expected done, got {}",
                said(&other.map(|made| made.1))
            )),
        }
    }

    /// Creates and remembers what was made, for the clean-up.
    pub async fn create(
        &self,
        account: NewAccount,
        key: &OperationKey,
    ) -> Result<(NativeId, Outcome), Error> {
        let name = account.name.clone();
        let outcome = self.apply(&Operation::CreateAccount(account), key).await?;
        match &outcome {
            Outcome::Done(receipt) | Outcome::AlreadySo(receipt) => match &receipt.account {
                Some(id) => {
                    self.remember(id);
                    Ok((id.clone(), outcome))
                }
                None => Err(Error::new(
                    ErrorKind::Bug,
                    format!("the receipt for creating `{name}` does not name the account"),
                )),
            },
            other => Err(Error::new(
                ErrorKind::Bug,
                format!("creating `{name}` ended as {}", outcome_word(other)),
            )),
        }
    }

    pub fn remember(&self, id: &NativeId) {
        self.made
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(id.clone());
    }

    /// Applies, and waits for what was accepted for later.
    pub async fn apply(&self, operation: &Operation, key: &OperationKey) -> Result<Outcome, Error> {
        let mut outcome = self.connector.apply(operation, key).await?;
        for _ in 0..POLLS_MAX {
            let Outcome::Accepted(handle) = &outcome else {
                return Ok(outcome);
            };
            tokio::time::sleep(Duration::from_millis(handle.poll_after_ms.min(POLL_MS_MAX))).await;
            outcome = self.connector.poll(handle).await?;
        }
        Err(Error::new(
            ErrorKind::Bug,
            format!("still not finished after being asked {POLLS_MAX} times"),
        ))
    }

    /// Applies what must have an effect now.
    pub async fn does(&self, operation: &Operation) -> Checked<Receipt> {
        match self.apply(operation, &key()).await {
            Ok(Outcome::Done(receipt)) => Ok(receipt),
            other => failed(format!(
                "{}: expected done, got {}",
                operation.name().as_str(),
                said(&other)
            )),
        }
    }

    /// Applies what must be so already.
    pub async fn is_already(&self, operation: &Operation) -> Checked<Receipt> {
        match self.apply(operation, &key()).await {
            Ok(Outcome::AlreadySo(receipt)) => Ok(receipt),
            other => failed(format!(
                "{}: expected already so, got {}",
                operation.name().as_str(),
                said(&other)
            )),
        }
    }

    /// Applies what must succeed and cannot tell whether it was so before.
    pub async fn succeeds(&self, operation: &Operation) -> Checked<Receipt> {
        match self.apply(operation, &key()).await {
            Ok(Outcome::Done(receipt) | Outcome::AlreadySo(receipt)) => Ok(receipt),
            other => failed(format!(
                "{}: expected success, got {}",
                operation.name().as_str(),
                said(&other)
            )),
        }
    }

    /// Done the first time, already so under the same key and under a new one.
    pub async fn twice(&self, operation: &Operation) -> Checked<Receipt> {
        let first = key();
        let receipt = match self.apply(operation, &first).await {
            Ok(Outcome::Done(receipt)) => receipt,
            other => {
                return failed(format!(
                    "{}: expected done, got {}",
                    operation.name().as_str(),
                    said(&other)
                ));
            }
        };
        let again = OperationKey {
            attempt: first.attempt.saturating_add(1),
            ..first
        };
        for (which, key) in [("the same key", again), ("a new key", key())] {
            match self.apply(operation, &key).await {
                Ok(Outcome::AlreadySo(_)) => {}
                other => {
                    return failed(format!(
                        "{} again under {which}: expected already so, got {}",
                        operation.name().as_str(),
                        said(&other)
                    ));
                }
            }
        }
        Ok(receipt)
    }

    /// Applies what must be refused with one of `kinds`.
    pub async fn refused(&self, operation: &Operation, kinds: &[&str]) -> Checked {
        match self.apply(operation, &key()).await {
            Err(error) if kinds.contains(&error.kind.as_str()) => Ok(()),
            other => failed(format!(
                "{}: expected {}, got {}",
                operation.name().as_str(),
                kinds.join(" or "),
                said(&other)
            )),
        }
    }

    pub async fn get(&self, object: &ObjectRef) -> Checked<Option<Object>> {
        self.connector.get(object).await.map_err(|error| {
            Stop::Failed(format!(
                "get {object:?}: {}: {}",
                error.kind.as_str(),
                error.whole()
            ))
        })
    }

    /// The account, which must be there.
    pub async fn account(&self, object: &ObjectRef) -> Checked<Account> {
        match self.settled(|| self.get(object), Option::is_some).await? {
            Some(Object::Account(account)) => Ok(account),
            Some(Object::Entitlement(_)) => {
                failed(format!("get {object:?} returned an entitlement"))
            }
            None => failed(format!("get {object:?} found nothing")),
        }
    }

    /// The object must not be there, and the system must say so.
    pub async fn is_missing(&self, object: &ObjectRef) -> Checked {
        match self.settled(|| self.get(object), Option::is_none).await? {
            None => Ok(()),
            Some(found) => failed(format!(
                "get {object:?} should have found nothing and found {found:?}"
            )),
        }
    }

    pub async fn verify(&self, claim: &Claim) -> Checked<Verdict> {
        self.connector.verify(claim).await.map_err(|error| {
            Stop::Failed(format!(
                "verify {}: {}: {}",
                words(&claim.name()),
                error.kind.as_str(),
                error.whole()
            ))
        })
    }

    pub async fn proven(&self, claim: &Claim) -> Checked<Observation> {
        match self
            .settled(
                || self.verify(claim),
                |verdict| matches!(verdict, Verdict::Proven(_)),
            )
            .await?
        {
            Verdict::Proven(observation) => Ok(observation),
            other => failed(format!(
                "verify {}: expected proven, got {other:?}",
                words(&claim.name())
            )),
        }
    }

    pub async fn refuted(&self, claim: &Claim) -> Checked<Observation> {
        match self
            .settled(
                || self.verify(claim),
                |verdict| matches!(verdict, Verdict::Refuted(_)),
            )
            .await?
        {
            Verdict::Refuted(observation) => Ok(observation),
            other => failed(format!(
                "verify {}: expected refuted, got {other:?}",
                words(&claim.name())
            )),
        }
    }

    /// Proves the claim where it can be observed at all.
    pub async fn proven_if_declared(&self, claim: &Claim) -> Checked {
        if self.can.claims.contains(&claim.name()) {
            self.proven(claim).await.map(drop)
        } else {
            Ok(())
        }
    }

    /// Every object of a kind, by following the pages to their end; with the number of pages.
    pub async fn list_all(&self, kind: Kind) -> Checked<(Vec<Object>, usize)> {
        let mut items = Vec::new();
        let mut after: Option<Cursor> = None;
        for pages in 1..=PAGES_MAX {
            let page = match self.connector.list(kind, after.clone()).await {
                Ok(page) => page,
                Err(error) => {
                    return failed(format!(
                        "page {pages}: {}: {}",
                        error.kind.as_str(),
                        error.whole()
                    ));
                }
            };
            items.extend(page.items);
            match page.next {
                None => {
                    ensure(page.complete, || {
                        format!("the last page ({pages}) does not say it is complete")
                    })?;
                    return Ok((items, pages));
                }
                Some(next) => {
                    ensure(!page.complete, || {
                        format!("page {pages} says complete and names a next page")
                    })?;
                    ensure(after.as_ref() != Some(&next), || {
                        format!("page {pages} points to itself")
                    })?;
                    after = Some(next);
                }
            }
        }
        failed(format!("no end after {PAGES_MAX} pages"))
    }

    /// Every account whose owner is `owner`, by listing if possible.
    pub async fn ensure_one_account(&self, made: &Made) -> Checked {
        if self.can.lists.contains(&Kind::Account) {
            let (items, _) = self.list_all(Kind::Account).await?;
            let count = items
                .into_iter()
                .filter_map(Object::into_account)
                .filter(|account| {
                    account.name == made.name || account.owner.as_ref() == Some(&made.owner)
                })
                .count();
            ensure(count == 1, || {
                format!(
                    "expected one account of owner `{}`, found {count}",
                    made.owner
                )
            })?;
        }
        let found = self
            .account(&ObjectRef::AccountNamed(made.name.clone()))
            .await?;
        ensure(found.id == made.id, || {
            format!(
                "`{}` is now `{}`, it was `{}`",
                made.name, found.id, made.id
            )
        })
    }

    /// The identifier of an account that is certainly not there.
    pub async fn missing_id(&self) -> Checked<NativeId> {
        if let Some(id) = &self.fixture.missing_account {
            return Ok(id.clone());
        }
        self.needs(&[OperationName::CreateAccount, OperationName::DeleteAccount])?;
        let made = self.make().await?;
        self.does(&Operation::DeleteAccount {
            account: made.id.clone(),
        })
        .await?;
        Ok(made.id)
    }

    /// Repeats a read until it is as wanted or the system's settling time is over; gives the last answer.
    async fn settled<T, F, Fut>(&self, read: F, wanted: impl Fn(&T) -> bool) -> Checked<T>
    where
        F: Fn() -> Fut,
        Fut: Future<Output = Checked<T>>,
    {
        let mut left_ms = self.fixture.settle_ms;
        loop {
            let answer = read().await?;
            if left_ms == 0 || wanted(&answer) {
                return Ok(answer);
            }
            let pause_ms = left_ms.min(SETTLE_STEP_MS);
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
            left_ms = left_ms.saturating_sub(pause_ms);
        }
    }

    /// Removes what the suite made; what could not be removed is disabled and named.
    pub async fn clean_up(&self) -> Option<Vec<String>> {
        let mut made =
            std::mem::take(&mut *self.made.lock().unwrap_or_else(PoisonError::into_inner));
        made.sort();
        made.dedup();
        let mut left = Vec::new();
        for id in made {
            let delete = Operation::DeleteAccount {
                account: id.clone(),
            };
            if !self.can.operations.contains(&OperationName::DeleteAccount) {
                let _ = self
                    .apply(
                        &Operation::DisableAccount {
                            account: id.clone(),
                        },
                        &key(),
                    )
                    .await;
                left.push(format!("account `{id}`: `delete_account` is not declared"));
            } else if let Err(error) = self.apply(&delete, &key()).await {
                left.push(format!("account `{id}`: {}", error.whole()));
            }
        }
        if left.is_empty() { None } else { Some(left) }
    }
}

/// The key of one new operation.
pub(super) fn key() -> OperationKey {
    OperationKey {
        idempotency: format!("conformance-{}", Uuid::new_v4()),
        attempt: 1,
        epoch: 1,
    }
}

/// An answer in words, for a failed line.
pub(super) fn said(answer: &Result<Outcome, Error>) -> String {
    match answer {
        Ok(outcome) => outcome_word(outcome),
        Err(error) => format!("{} ({})", error.kind.as_str(), error.whole()),
    }
}

fn outcome_word(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Done(_) => "done".to_owned(),
        Outcome::AlreadySo(_) => "already so".to_owned(),
        Outcome::Accepted(_) => "accepted for later".to_owned(),
        Outcome::NeedsHuman(_) => "a task for a person".to_owned(),
        Outcome::Ambiguous { reason } => format!("ambiguous ({reason})"),
    }
}

/// The serialised word of a name, as the capabilities spell it.
pub(super) fn words<T: serde::Serialize>(name: &T) -> String {
    match serde_json::to_value(name) {
        Ok(serde_json::Value::String(word)) => word,
        _ => "?".to_owned(),
    }
}
