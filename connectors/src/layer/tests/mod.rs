//! The layers on virtual time, around a directory in memory that can be told to misbehave.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, TimeZone as _, Utc};
use tokio::time::Instant;

use super::{Clock, Guarded, Limits};
use crate::connector::{
    Capabilities, Changes, Claim, Connector, Coverage, Credential, CredentialId, Cursor, Error,
    ErrorKind, Finding, Handle, Health, Kind, NativeId, Object, ObjectRef, Operation, OperationKey,
    Outcome, Page, Renewal, Use, Verdict,
};
use crate::memory::Memory;

mod breaker;
mod rest;
mod waiting;

/// How the system behaves from now on.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Mood {
    Well,
    /// Never answers.
    Silent,
    Slow(Duration),
    Fails(ErrorKind),
    FailsAfter(Duration, ErrorKind),
}

#[derive(Default)]
struct Counts {
    /// Calls other than checks that reached the system.
    calls: AtomicUsize,
    checks: AtomicUsize,
    running: AtomicUsize,
}

struct Moody {
    inner: Memory,
    mood: Mutex<Mood>,
    counts: Counts,
}

struct Running<'a>(&'a AtomicUsize);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Moody {
    fn new(mood: Mood) -> Arc<Self> {
        Arc::new(Self {
            inner: Memory::default(),
            mood: Mutex::new(mood),
            counts: Counts::default(),
        })
    }

    fn becomes(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    fn calls(&self) -> usize {
        self.counts.calls.load(Ordering::SeqCst)
    }

    fn checks(&self) -> usize {
        self.counts.checks.load(Ordering::SeqCst)
    }

    fn running(&self) -> usize {
        self.counts.running.load(Ordering::SeqCst)
    }

    async fn endure(&self) -> Result<(), Error> {
        let mood = *self.mood.lock().unwrap();
        match mood {
            Mood::Well => Ok(()),
            Mood::Silent => std::future::pending().await,
            Mood::Slow(time) => {
                tokio::time::sleep(time).await;
                Ok(())
            }
            Mood::Fails(kind) => Err(Error::new(kind, "as told")),
            Mood::FailsAfter(time, kind) => {
                tokio::time::sleep(time).await;
                Err(Error::new(kind, "as told"))
            }
        }
    }

    async fn call(&self) -> Result<(), Error> {
        self.counts.calls.fetch_add(1, Ordering::SeqCst);
        self.counts.running.fetch_add(1, Ordering::SeqCst);
        let _running = Running(&self.counts.running);
        self.endure().await
    }
}

#[async_trait]
impl Connector for Moody {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
    async fn check(&self) -> Result<Health, Error> {
        self.counts.checks.fetch_add(1, Ordering::SeqCst);
        match self.endure().await {
            Ok(()) => self.inner.check().await,
            Err(error) => {
                let what = if error.kind == ErrorKind::AuthExpired {
                    "login"
                } else {
                    "reach"
                };
                Ok(Health {
                    findings: vec![Finding::bad(what, error.message, "wait")],
                })
            }
        }
    }
    async fn list(&self, kind: Kind, after: Option<Cursor>) -> Result<Page, Error> {
        self.call().await?;
        self.inner.list(kind, after).await
    }
    async fn get(&self, object: &ObjectRef) -> Result<Option<Object>, Error> {
        self.call().await?;
        self.inner.get(object).await
    }
    async fn changes(&self, after: Option<Cursor>) -> Result<Changes, Error> {
        self.call().await?;
        self.inner.changes(after).await
    }
    async fn apply(&self, operation: &Operation, key: &OperationKey) -> Result<Outcome, Error> {
        self.call().await?;
        self.inner.apply(operation, key).await
    }
    async fn poll(&self, _handle: &Handle) -> Result<Outcome, Error> {
        self.call().await?;
        Ok(Outcome::Done(Default::default()))
    }
    async fn verify(&self, claim: &Claim) -> Result<Verdict, Error> {
        self.call().await?;
        self.inner.verify(claim).await
    }
    async fn credentials(&self, account: &NativeId) -> Result<Coverage<Vec<Credential>>, Error> {
        self.call().await?;
        self.inner.credentials(account).await
    }
    async fn renewal(
        &self,
        account: &NativeId,
        credential: &CredentialId,
    ) -> Result<Renewal, Error> {
        self.call().await?;
        self.inner.renewal(account, credential).await
    }
    async fn dependents(&self, object: &ObjectRef) -> Result<Coverage<Vec<Use>>, Error> {
        self.call().await?;
        self.inner.dependents(object).await
    }
}

/// A clock that moves with tokio's.
fn virtual_clock() -> Clock {
    let (start, base) = (Instant::now(), start_of_time());
    Arc::new(move || base + TimeDelta::from_std(start.elapsed()).unwrap())
}

fn start_of_time() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2030, 1, 1, 0, 0, 0).unwrap()
}

fn guarded(system: &Arc<Moody>, limits: Limits) -> Guarded {
    limits.validate().unwrap();
    Guarded::with_clock(
        "crm",
        Arc::clone(system) as Arc<dyn Connector>,
        limits,
        virtual_clock(),
    )
}

fn key(n: usize) -> OperationKey {
    OperationKey {
        idempotency: format!("case/step/{n}"),
        attempt: 1,
        epoch: 1,
    }
}

fn disable() -> Operation {
    Operation::DisableAccount {
        account: NativeId::new("ann"),
    }
}

fn account(name: &str) -> ObjectRef {
    ObjectRef::AccountNamed(name.to_owned())
}

/// Lets every task that can run do so, without moving the clock.
async fn let_others_run() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}
