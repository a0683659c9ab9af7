//! The suite passes on a good system, and goes red on each of the mistakes it is there for.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use secrecy::SecretString;
use serde_json::{Value, json};

use super::{Door, Fixture, Report, Session, Verdict as TestVerdict, run};
use crate::connector::{
    Account, Attributes, Capabilities, Changes, Claim, ClaimName, Connector, Coverage, Credential,
    CredentialId, Cursor, EntitlementName, Error, ErrorKind, HandOver, Health, Kind, NativeId,
    Object, ObjectRef, Operation, OperationKey, OperationName, Outcome, Page, Renewal, Use,
    Verdict,
};
use crate::memory::{Memory, NAME_BYTES_MAX, PAGE_SIZE};

struct MemoryDoor(Arc<Memory>);

#[async_trait]
impl Door for MemoryDoor {
    async fn opens(&self, account: &Account, password: &SecretString) -> Result<bool, String> {
        Ok(self.0.log_in(&account.id, password))
    }
    async fn enter(
        &self,
        account: &Account,
        password: &SecretString,
    ) -> Result<Option<Session>, String> {
        if self.0.log_in(&account.id, password) {
            Ok(Some(Box::new(())))
        } else {
            Err("refused".to_owned())
        }
    }
    async fn takes(
        &self,
        account: &Account,
        credential: &Credential,
    ) -> Result<Option<bool>, String> {
        Ok(Some(self.0.takes(&account.id, &credential.id)))
    }
}

fn fixture(memory: &Arc<Memory>) -> Fixture {
    Fixture {
        entitlements: vec![
            EntitlementName::new("staff"),
            EntitlementName::new("admins"),
        ],
        attributes: Attributes::from([
            ("mail".to_owned(), json!("{name}@example.org")),
            ("title".to_owned(), json!("Clerk")),
        ]),
        changed: Attributes::from([("title".to_owned(), json!("Manager"))]),
        text_attribute: Some("title".to_owned()),
        name_bytes_max: Some(NAME_BYTES_MAX),
        page_size: Some(PAGE_SIZE),
        action: Some(("noop".to_owned(), json!({}))),
        credential_action: Some(("add_key".to_owned(), json!({"account": "{account}"}))),
        ownership_action: Some(("add_document".to_owned(), json!({"account": "{account}"}))),
        door: Some(Arc::new(MemoryDoor(Arc::clone(memory)))),
        ..Fixture::new("conf")
    }
}

#[tokio::test(start_paused = true)]
async fn a_good_system_passes_every_test() {
    let memory = Arc::new(Memory::default());
    let report = run(Arc::clone(&memory) as Arc<dyn Connector>, fixture(&memory)).await;
    assert!(report.is_good(), "{report}");
    assert_eq!(
        report.count(TestVerdict::NotApplicable),
        2,
        "only the by-hand tests: {report}"
    );
    assert!(report.left_behind.is_empty(), "{report}");
    assert_eq!(memory.accounts(), 0, "the suite cleans up after itself");
}

/// One mistake that a real connector could make.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Mistake {
    CreatesAgain,
    SaysDoneTwice,
    AdoptsForeignName,
    CutsNames,
    WildcardLookup,
    AbsenceWhenItCannotSee,
    ProvesEverything,
    RefutesEverything,
    CannotObserve,
    RevokesEverything,
    DisableDoesNothing,
    LastPageNotComplete,
    ListsTwice,
    LosesAPage,
    RepeatsPassword,
    UndeclaredWorks,
    DeclaredDoesNot,
    MangledUnicode,
    MissingAccountSucceeds,
    UnknownEntitlementSucceeds,
    SessionsStay,
    KeysStay,
    AllKeysGo,
    HidesKeys,
    WishesForAll,
    OwnerStays,
    IssuesAgain,
    KeepsTheHalves,
    SecretInTheReceipt,
    StaysOff,
    Hangs,
    SickCheck,
    EmptyFeed,
}

struct Broken {
    inner: Arc<Memory>,
    mistake: Mistake,
    calls: AtomicU32,
}

impl Broken {
    fn is(&self, mistake: Mistake) -> bool {
        self.mistake == mistake
    }
}

#[async_trait]
impl Connector for Broken {
    fn capabilities(&self) -> Capabilities {
        let mut can = self.inner.capabilities();
        if self.is(Mistake::UndeclaredWorks) {
            can.operations.remove(&OperationName::EndSessions);
            can.claims.remove(&ClaimName::NoSessions);
            can.renewal = false;
        }
        can
    }

    async fn check(&self) -> Result<Health, Error> {
        if self.is(Mistake::SickCheck) {
            return Ok(Health::default());
        }
        self.inner.check().await
    }

    async fn list(&self, kind: Kind, after: Option<Cursor>) -> Result<Page, Error> {
        let first = after.is_none();
        let mut page = self.inner.list(kind, after).await?;
        if self.is(Mistake::LastPageNotComplete) {
            page.complete = false;
        }
        if self.is(Mistake::ListsTwice) {
            page.items.extend(page.items.clone());
        }
        if self.is(Mistake::LosesAPage) && !first {
            page.items.clear();
        }
        Ok(page)
    }

    async fn get(&self, object: &ObjectRef) -> Result<Option<Object>, Error> {
        if self.is(Mistake::WildcardLookup)
            && let ObjectRef::AccountNamed(name) | ObjectRef::AccountOwnedBy(name) = object
            && name.contains('*')
        {
            return self
                .inner
                .list(Kind::Account, None)
                .await
                .map(|page| page.items.into_iter().next());
        }
        if self.is(Mistake::AbsenceWhenItCannotSee)
            && matches!(object, ObjectRef::AccountOwnedBy(_))
        {
            return Ok(None);
        }
        let mut found = self.inner.get(object).await?;
        if self.is(Mistake::MangledUnicode)
            && let Some(Object::Account(account)) = &mut found
        {
            for value in account.attributes.values_mut() {
                if let Value::String(text) = value {
                    text.retain(|c| c.is_ascii());
                }
            }
        }
        Ok(found)
    }

    async fn changes(&self, after: Option<Cursor>) -> Result<Changes, Error> {
        let mut changes = self.inner.changes(after).await?;
        if self.is(Mistake::EmptyFeed) {
            changes.items.clear();
        }
        Ok(changes)
    }

    async fn apply(&self, operation: &Operation, key: &OperationKey) -> Result<Outcome, Error> {
        let mut operation = operation.clone();
        let calls = self.calls.fetch_add(1, Ordering::Relaxed);
        match (&mut operation, self.mistake) {
            (Operation::CreateAccount(new), Mistake::CreatesAgain) if key.attempt > 1 => {
                new.owner.push_str(&format!("-{calls}"));
                new.name.push_str(&format!("-{calls}"));
            }
            (Operation::CreateAccount(new), Mistake::AdoptsForeignName) => {
                let named = ObjectRef::AccountNamed(new.name.clone());
                if let Some(Object::Account(found)) = self.inner.get(&named).await? {
                    let receipt = crate::connector::Receipt {
                        account: Some(found.id),
                        ..Default::default()
                    };
                    return Ok(Outcome::AlreadySo(receipt));
                }
            }
            (Operation::CreateAccount(new), Mistake::CutsNames) => {
                new.name = new.name.chars().take(NAME_BYTES_MAX).collect();
            }
            (Operation::Revoke { account, .. }, Mistake::RevokesEverything) => {
                for name in ["staff", "admins"] {
                    let entitlement = EntitlementName::new(name);
                    let account = account.clone();
                    self.inner
                        .apply(
                            &Operation::Revoke {
                                account,
                                entitlement,
                            },
                            key,
                        )
                        .await?;
                }
                return Ok(Outcome::Done(Default::default()));
            }
            (Operation::DisableAccount { .. }, Mistake::DisableDoesNothing)
            | (Operation::EndSessions { .. }, Mistake::SessionsStay)
            | (Operation::DestroyCredential { .. }, Mistake::KeysStay)
            | (Operation::TransferOwnership { .. }, Mistake::OwnerStays) => {
                return Ok(Outcome::Done(Default::default()));
            }
            (Operation::DestroyCredential { account, .. }, Mistake::AllKeysGo) => {
                for key in self.inner.credentials(account).await?.value {
                    let all = Operation::DestroyCredential {
                        account: account.clone(),
                        credential: key.id,
                    };
                    self.inner.apply(&all, &operation_key()).await?;
                }
                return Ok(Outcome::Done(Default::default()));
            }
            (Operation::SetPassword { .. }, Mistake::DeclaredDoesNot) => {
                return Err(Error::new(ErrorKind::Unsupported, "no"));
            }
            (Operation::ActivateCredential { .. }, Mistake::StaysOff) => {
                return Ok(Outcome::Done(Default::default()));
            }
            (Operation::IssueCredential(new), Mistake::KeepsTheHalves) => {
                new.into = HandOver::slot().0;
            }
            (Operation::IssueCredential(_), Mistake::IssuesAgain) => {
                return self.inner.apply(&operation, &other_key(calls)).await;
            }
            (Operation::Grant { .. }, Mistake::Hangs) => std::future::pending().await,
            _ => {}
        }
        let answer = self.inner.apply(&operation, key).await;
        match (answer, self.mistake) {
            (Ok(Outcome::AlreadySo(receipt)), Mistake::SaysDoneTwice) => Ok(Outcome::Done(receipt)),
            (Ok(Outcome::Done(mut receipt)), Mistake::RepeatsPassword) => {
                receipt.after = Some(json!(format!("{:?}", "C0nformance-Run!")));
                Ok(Outcome::Done(receipt))
            }
            (Ok(Outcome::Done(mut receipt)), Mistake::SecretInTheReceipt) => {
                if let Some(credential) = &receipt.credential {
                    receipt.after = Some(json!(format!("secret of {}", credential.id)));
                }
                Ok(Outcome::Done(receipt))
            }
            (Err(error), Mistake::MissingAccountSucceeds) if error.message.contains("account") => {
                Ok(Outcome::AlreadySo(Default::default()))
            }
            (Err(error), Mistake::UnknownEntitlementSucceeds)
                if error.message.contains("entitlement") =>
            {
                Ok(Outcome::Done(Default::default()))
            }
            (answer, _) => answer,
        }
    }

    async fn verify(&self, claim: &Claim) -> Result<Verdict, Error> {
        let verdict = self.inner.verify(claim).await?;
        Ok(match (verdict, self.mistake) {
            (Verdict::Refuted(seen), Mistake::ProvesEverything) => Verdict::Proven(seen),
            (Verdict::Proven(seen), Mistake::RefutesEverything) => Verdict::Refuted(seen),
            (_, Mistake::CannotObserve) => Verdict::CannotObserve {
                reason: "fog".to_owned(),
            },
            (verdict, _) => verdict,
        })
    }

    async fn credentials(&self, account: &NativeId) -> Result<Coverage<Vec<Credential>>, Error> {
        let mut listed = self.inner.credentials(account).await?;
        if self.is(Mistake::HidesKeys) {
            listed.value.clear();
        }
        Ok(listed)
    }

    async fn renewal(
        &self,
        account: &NativeId,
        credential: &CredentialId,
    ) -> Result<Renewal, Error> {
        if self.is(Mistake::WishesForAll)
            && let Some(any) = self.inner.credentials(account).await?.value.first()
        {
            return self.inner.renewal(account, &any.id).await;
        }
        self.inner.renewal(account, credential).await
    }

    async fn dependents(&self, object: &ObjectRef) -> Result<Coverage<Vec<Use>>, Error> {
        self.inner.dependents(object).await
    }
}

fn operation_key() -> OperationKey {
    other_key(0)
}

fn other_key(number: u32) -> OperationKey {
    OperationKey {
        idempotency: format!("another-{number}"),
        attempt: 1,
        epoch: 1,
    }
}

async fn suite_on(mistake: Mistake) -> Report {
    let memory = Arc::new(Memory::default());
    let fixture = fixture(&memory);
    run(
        Arc::new(Broken {
            inner: memory,
            mistake,
            calls: AtomicU32::new(0),
        }),
        fixture,
    )
    .await
}

/// For each mistake a test that must be among the red ones.
#[tokio::test(start_paused = true)]
async fn every_mistake_turns_the_suite_red() {
    for (mistake, expected) in [
        (
            Mistake::CreatesAgain,
            "create, answer lost: found by owner, one account",
        ),
        (
            Mistake::SaysDoneTwice,
            "create twice: done, then already so",
        ),
        (
            Mistake::AdoptsForeignName,
            "a name held by another owner is a conflict",
        ),
        (Mistake::CutsNames, "a name too long is refused, never cut"),
        (
            Mistake::WildcardLookup,
            "names that look like queries find nothing",
        ),
        (
            Mistake::AbsenceWhenItCannotSee,
            "create, answer lost: found by owner, one account",
        ),
        (
            Mistake::ProvesEverything,
            "claims granted and not_granted both ways",
        ),
        (Mistake::ProvesEverything, "claim account_absent both ways"),
        (Mistake::ProvesEverything, "claim account_exists both ways"),
        (Mistake::ProvesEverything, "claim attributes_are both ways"),
        (
            Mistake::ProvesEverything,
            "claims account_enabled and account_disabled both ways",
        ),
        (Mistake::ProvesEverything, "ended sessions are really gone"),
        (Mistake::RefutesEverything, "claims about a missing account"),
        (
            Mistake::RefutesEverything,
            "claim no_sessions for an account nobody uses",
        ),
        (Mistake::CannotObserve, "a declared claim is answered"),
        (
            Mistake::RevokesEverything,
            "revoke twice, and nothing else is revoked",
        ),
        (
            Mistake::DisableDoesNothing,
            "a disabled account cannot log in",
        ),
        (
            Mistake::DisableDoesNothing,
            "disable and delete, answer lost: seen by reading",
        ),
        (
            Mistake::LastPageNotComplete,
            "a listing has every account once and ends complete",
        ),
        (
            Mistake::ListsTwice,
            "a listing has every account once and ends complete",
        ),
        (Mistake::ListsTwice, "a listing has the entitlements"),
        (
            Mistake::LosesAPage,
            "a listing has every account once and ends complete",
        ),
        (
            Mistake::RepeatsPassword,
            "a secret never comes back in a receipt",
        ),
        (
            Mistake::UndeclaredWorks,
            "an undeclared operation is unsupported",
        ),
        (
            Mistake::UndeclaredWorks,
            "an undeclared claim is not answered",
        ),
        (
            Mistake::DeclaredDoesNot,
            "a declared operation is supported",
        ),
        (
            Mistake::MangledUnicode,
            "hostile values are kept exactly or refused",
        ),
        (
            Mistake::MissingAccountSucceeds,
            "operations on a missing account say so",
        ),
        (
            Mistake::UnknownEntitlementSucceeds,
            "an unknown entitlement is not found",
        ),
        (
            Mistake::UnknownEntitlementSucceeds,
            "hostile entitlement names match nothing",
        ),
        (Mistake::SessionsStay, "ended sessions are really gone"),
        (
            Mistake::KeysStay,
            "destroy a credential twice, and no other",
        ),
        (Mistake::KeysStay, "a destroyed credential proves nothing"),
        (
            Mistake::AllKeysGo,
            "destroy a credential twice, and no other",
        ),
        (
            Mistake::AllKeysGo,
            "hostile credential identifiers end nothing",
        ),
        (Mistake::HidesKeys, "credentials of an account are listed"),
        (
            Mistake::WishesForAll,
            "asked when to renew: of what there is, and of nothing else",
        ),
        (
            Mistake::UndeclaredWorks,
            "an undeclared read is unsupported",
        ),
        (
            Mistake::ProvesEverything,
            "claim credential_inactive both ways",
        ),
        (
            Mistake::OwnerStays,
            "what is owned goes to its heir, and the claim says so",
        ),
        (
            Mistake::IssuesAgain,
            "issue a credential: halves handed over, one for one key",
        ),
        (Mistake::IssuesAgain, "issue, answer lost: found by its key"),
        (
            Mistake::KeepsTheHalves,
            "issue a credential: halves handed over, one for one key",
        ),
        (
            Mistake::SecretInTheReceipt,
            "issue under another key: another credential",
        ),
        (
            Mistake::StaysOff,
            "deactivate and activate a credential twice each",
        ),
        (
            Mistake::ProvesEverything,
            "a password is tried by a real login, both ways",
        ),
        (
            Mistake::RefutesEverything,
            "an issued credential is tried, both ways",
        ),
        (Mistake::Hangs, "grant twice: done, then already so"),
        (Mistake::SickCheck, "a healthy system passes its own check"),
        (Mistake::EmptyFeed, "the change feed shows a new account"),
    ] {
        let report = suite_on(mistake).await;
        assert!(
            report.failed().contains(&expected),
            "{mistake:?} should fail `{expected}`:\n{report}"
        );
    }
}

#[test]
fn the_report_is_readable() {
    let report = Report {
        tests: vec![
            super::TestResult {
                name: "one".to_owned(),
                verdict: TestVerdict::Passed,
                detail: String::new(),
                took_ms: 1,
            },
            super::TestResult {
                name: "two".to_owned(),
                verdict: TestVerdict::Failed,
                detail: "because".to_owned(),
                took_ms: 2,
            },
        ],
        left_behind: vec!["account `x`".to_owned()],
    };
    assert_eq!(
        report.to_string(),
        "passed  one\nFAILED  two\n          because\nleft behind: account `x`\n1 passed, 1 failed, 0 not applicable"
    );
    assert!(!report.is_good());
}
