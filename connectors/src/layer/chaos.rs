//! Breaks calls on purpose, by a seed, so that a failure found once is found again.
//!
//! What happens to a write depends on the seed, its idempotency key and its attempt, and on nothing else: not
//! on the order in which calls happen to run. A read has no key; it is numbered as it comes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::connector::{
    Capabilities, Changes, Claim, Connector, Coverage, Credential, CredentialId, Cursor, Error,
    ErrorKind, Handle, Health, Kind, NativeId, Object, ObjectRef, Operation, OperationKey, Outcome,
    Page, Renewal, Use, Verdict,
};

/// The longest delay that may be asked for.
const DELAY_MS_MAX: u64 = 600_000;

/// How often what goes wrong; shares of all calls, 0 to 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ChaosSettings {
    pub seed: u64,
    /// The call fails before anything is sent.
    pub fail_before: f64,
    /// The call is made and its answer is lost: a write becomes ambiguous, a read times out.
    pub lose_answer: f64,
    /// A listing breaks off half-way through a page and does not say it is complete.
    pub half_answer: f64,
    /// The call is delayed by up to `delay_ms_max`.
    pub delay: f64,
    pub delay_ms_max: u64,
}

impl Default for ChaosSettings {
    fn default() -> Self {
        Self {
            seed: 0,
            fail_before: 0.0,
            lose_answer: 0.0,
            half_answer: 0.0,
            delay: 0.0,
            delay_ms_max: 100,
        }
    }
}

impl ChaosSettings {
    /// What is wrong with the settings, if anything.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        for (name, share) in [
            ("fail_before", self.fail_before),
            ("lose_answer", self.lose_answer),
            ("half_answer", self.half_answer),
            ("delay", self.delay),
        ] {
            if !(0.0..=1.0).contains(&share) {
                return Some(format!(
                    "`chaos.{name}` is {share}; give a share between 0 and 1"
                ));
            }
        }
        (self.delay_ms_max > DELAY_MS_MAX).then(|| {
            format!(
                "`chaos.delay_ms_max` is {}; give at most {DELAY_MS_MAX}",
                self.delay_ms_max
            )
        })
    }
}

/// What is to happen to one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fate {
    delay_ms: u64,
    fail_before: bool,
    lose_answer: bool,
    half_answer: bool,
}

pub struct Chaos {
    inner: Arc<dyn Connector>,
    settings: ChaosSettings,
    reads: AtomicU64,
}

impl Chaos {
    #[must_use]
    pub fn new(inner: Arc<dyn Connector>, settings: ChaosSettings) -> Self {
        Self {
            inner,
            settings,
            reads: AtomicU64::new(0),
        }
    }

    fn fate(&self, call: &[u8]) -> Fate {
        let mut seed = [0_u8; 32];
        let digest = Sha256::new()
            .chain_update(self.settings.seed.to_le_bytes())
            .chain_update(call)
            .finalize();
        for (byte, value) in seed.iter_mut().zip(digest.iter()) {
            *byte = *value;
        }
        let mut random = StdRng::from_seed(seed);
        let settings = &self.settings;
        let mut hits = |share: f64| random.random_bool(share.clamp(0.0, 1.0));
        let (delayed, fail_before, lose_answer, half_answer) = (
            hits(settings.delay),
            hits(settings.fail_before),
            hits(settings.lose_answer),
            hits(settings.half_answer),
        );
        let delay_ms = if delayed {
            random.random_range(0..=settings.delay_ms_max.min(DELAY_MS_MAX))
        } else {
            0
        };
        Fate {
            delay_ms,
            fail_before,
            lose_answer,
            half_answer,
        }
    }

    fn read_fate(&self) -> Fate {
        let number = self.reads.fetch_add(1, Ordering::Relaxed);
        self.fate(&[b"read ".as_slice(), number.to_le_bytes().as_slice()].concat())
    }

    fn write_fate(&self, key: &OperationKey) -> Fate {
        self.fate(format!("write {} {}", key.attempt, key.idempotency).as_bytes())
    }

    async fn read<T>(
        &self,
        fate: Fate,
        next: impl Future<Output = Result<T, Error>> + Send,
    ) -> Result<T, Error> {
        before(fate).await?;
        let answer = next.await?;
        if fate.lose_answer {
            return Err(Error::new(ErrorKind::Timeout, "chaos: the answer was lost"));
        }
        Ok(answer)
    }
}

async fn before(fate: Fate) -> Result<(), Error> {
    if fate.delay_ms > 0 {
        tokio::time::sleep(Duration::from_millis(fate.delay_ms)).await;
    }
    if fate.fail_before {
        return Err(Error::new(
            ErrorKind::Transient,
            "chaos: refused before anything was sent",
        ));
    }
    Ok(())
}

#[async_trait]
impl Connector for Chaos {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn check(&self) -> Result<Health, Error> {
        self.inner.check().await
    }

    async fn list(&self, kind: Kind, after: Option<Cursor>) -> Result<Page, Error> {
        let fate = self.read_fate();
        let mut page = self.read(fate, self.inner.list(kind, after)).await?;
        if fate.half_answer {
            page.items.truncate(page.items.len() / 2);
            page.next = None;
            page.complete = false;
        }
        Ok(page)
    }

    async fn get(&self, object: &ObjectRef) -> Result<Option<Object>, Error> {
        self.read(self.read_fate(), self.inner.get(object)).await
    }

    async fn changes(&self, after: Option<Cursor>) -> Result<Changes, Error> {
        let fate = self.read_fate();
        let mut changes = self.read(fate, self.inner.changes(after)).await?;
        if fate.half_answer {
            changes.items.truncate(changes.items.len() / 2);
            changes.gap = true;
        }
        Ok(changes)
    }

    async fn apply(&self, operation: &Operation, key: &OperationKey) -> Result<Outcome, Error> {
        let fate = self.write_fate(key);
        before(fate).await?;
        let answer = self.inner.apply(operation, key).await;
        if fate.lose_answer {
            return Ok(Outcome::Ambiguous {
                reason: "chaos: the answer was lost".to_owned(),
            });
        }
        answer
    }

    async fn poll(&self, handle: &Handle) -> Result<Outcome, Error> {
        self.read(self.read_fate(), self.inner.poll(handle)).await
    }

    async fn verify(&self, claim: &Claim) -> Result<Verdict, Error> {
        self.read(self.read_fate(), self.inner.verify(claim)).await
    }

    async fn credentials(&self, account: &NativeId) -> Result<Coverage<Vec<Credential>>, Error> {
        self.read(self.read_fate(), self.inner.credentials(account))
            .await
    }
    async fn renewal(
        &self,
        account: &NativeId,
        credential: &CredentialId,
    ) -> Result<Renewal, Error> {
        self.read(self.read_fate(), self.inner.renewal(account, credential))
            .await
    }
    async fn dependents(&self, object: &ObjectRef) -> Result<Coverage<Vec<Use>>, Error> {
        self.read(self.read_fate(), self.inner.dependents(object))
            .await
    }
}
