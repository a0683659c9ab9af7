//! What every connector needs and none should write: time limits, slots, a rate, a breaker, a trace.
//!
//! [`Guarded`] stacks the layers around a connector. From the outside in:
//!
//! ```text
//! trace        a span for each call: system, call, idempotency key; nothing a person wrote
//! dry run      answers writes without making them          (only when configured)
//! breaker      refuses at once while the system is held
//! concurrency  waits for a slot; revocations have slots of their own and go first
//! rate         waits for the next moment the rate allows; revocations go first
//! timeout      ends the wait: a read becomes a time-out, a write becomes ambiguous
//! chaos        breaks calls on purpose                      (only when configured)
//! connector
//! ```
//!
//! The breaker stands outside the slots so that a call to a system that is away costs nothing; the time limit
//! stands inside them so that waiting for a slot is not mistaken for a slow system. No layer retries, and none
//! runs a task of its own: who holds a queue asks [`Guarded::availability`], sleeps until the moment it names or
//! until [`Guarded::watch`] changes, and then calls [`Guarded::probe`].
//!
//! A layer that treats all calls alike implements [`Layer`]; [`Layered`] turns it into a connector.

use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::connector::{
    Capabilities, Changes, Claim, Connector, Coverage, Credential, CredentialId, Cursor, Error,
    ErrorKind, Handle, Health, Kind, NativeId, Object, ObjectRef, Operation, OperationKey, Outcome,
    Page, Renewal, Use, Verdict,
};

mod breaker;
mod call;
mod chaos;
mod concurrency;
mod dry_run;
mod rate;
mod timeout;
mod trace;

#[cfg(test)]
mod tests;

pub use breaker::{Availability, Breaker, BreakerLimits};
pub use call::{Answer, Call, Layer, Layered, Method};
pub use chaos::{Chaos, ChaosSettings};
pub use concurrency::{Concurrency, Slots};
pub use dry_run::{DryRun, describe};
pub use rate::{Bucket, Rate};
pub use timeout::Timeout;
pub use trace::Trace;

/// The limits of one system, as its configuration gives them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// How long one call may take, its wait for a slot not counted.
    pub timeout_ms: u64,
    /// How many calls may be under way at once.
    pub concurrency: usize,
    /// How many of these only revocations may use.
    pub revocation_reserved: usize,
    /// How many calls may start in a second; no limit if absent.
    pub rate_per_s: Option<u32>,
    pub breaker: BreakerLimits,
    /// Says what would be done instead of doing it.
    pub dry_run: bool,
    /// Breaks calls on purpose. For tests and simulations.
    pub chaos: Option<ChaosSettings>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            timeout_ms: 10_000,
            concurrency: 8,
            revocation_reserved: 2,
            rate_per_s: None,
            breaker: BreakerLimits::default(),
            dry_run: false,
            chaos: None,
        }
    }
}

impl Limits {
    /// The largest time limit: a call that takes longer has to be an accepted operation that is polled.
    pub const TIMEOUT_MS_MAX: u64 = 600_000;
    pub const CONCURRENCY_MAX: usize = 1_024;

    /// Whether the numbers make sense together.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] names the limit and what it may be.
    pub fn validate(&self) -> Result<(), Error> {
        let problem = if !(1..=Self::TIMEOUT_MS_MAX).contains(&self.timeout_ms) {
            format!(
                "`timeout_ms` is {}; give 1 to {}",
                self.timeout_ms,
                Self::TIMEOUT_MS_MAX
            )
        } else if !(1..=Self::CONCURRENCY_MAX).contains(&self.concurrency) {
            format!(
                "`concurrency` is {}; give 1 to {}",
                self.concurrency,
                Self::CONCURRENCY_MAX
            )
        } else if self.revocation_reserved >= self.concurrency {
            format!(
                "`revocation_reserved` is {} of {} slots, which leaves none for other calls; give less than `concurrency`",
                self.revocation_reserved, self.concurrency
            )
        } else if self.rate_per_s == Some(0) {
            "`rate_per_s` is 0, so no call could ever start; leave it out for no limit".to_owned()
        } else if self.breaker.failures == 0 {
            "`breaker.failures` is 0; give at least 1".to_owned()
        } else if self.breaker.open_first_ms == 0
            || self.breaker.open_first_ms > self.breaker.open_max_ms
        {
            format!(
                "`breaker.open_first_ms` is {}; give 1 to `breaker.open_max_ms`, which is {}",
                self.breaker.open_first_ms, self.breaker.open_max_ms
            )
        } else if let Some(problem) = self.chaos.as_ref().and_then(ChaosSettings::problem) {
            problem
        } else {
            return Ok(());
        };
        Err(Error::new(ErrorKind::Invalid, problem))
    }
}

/// Who is calling. A revocation never waits behind somebody who gets access.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lane {
    #[default]
    Normal,
    Revocation,
}

/// Tells the wall-clock time. Handed in so that tests and simulations can run on virtual time.
pub type Clock = Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>;

/// The one place where layers and connectors meet the real clock.
pub(crate) fn real_clock() -> Clock {
    #[allow(clippy::disallowed_methods, reason = "see above")]
    let clock = Utc::now;
    Arc::new(clock)
}

/// A connector inside its layers. Cheap to clone; clones share limits and breaker.
#[derive(Clone)]
pub struct Guarded {
    shared: Arc<Shared>,
    lane: Lane,
}

struct Shared {
    system: String,
    breaker: Arc<Breaker>,
    normal: Arc<dyn Connector>,
    revocation: Arc<dyn Connector>,
}

impl Guarded {
    /// Puts the layers around `inner`. Call [`Limits::validate`] first; a limit out of its range is moved to
    /// the nearest that works.
    #[must_use]
    pub fn new(system: &str, inner: Arc<dyn Connector>, limits: Limits) -> Self {
        Self::with_clock(system, inner, limits, real_clock())
    }

    /// Like [`Guarded::new`], on another clock.
    #[must_use]
    pub fn with_clock(
        system: &str,
        inner: Arc<dyn Connector>,
        limits: Limits,
        clock: Clock,
    ) -> Self {
        let concurrency = limits.concurrency.clamp(1, Limits::CONCURRENCY_MAX);
        let slots = Arc::new(Slots::new(
            concurrency,
            limits
                .revocation_reserved
                .min(concurrency.saturating_sub(1)),
        ));
        let bucket = limits
            .rate_per_s
            .map(|per_s| Arc::new(Bucket::new(per_s.max(1))));
        let breaker = Arc::new(Breaker::new(system, limits.breaker, clock));
        let timeout_ms = limits.timeout_ms.clamp(1, Limits::TIMEOUT_MS_MAX);

        let inner: Arc<dyn Connector> = match limits.chaos {
            Some(settings) => Arc::new(Chaos::new(inner, settings)),
            None => inner,
        };
        let stack = |lane: Lane| {
            let mut stack = Layered::around(Timeout::new(timeout_ms), Arc::clone(&inner));
            if let Some(bucket) = &bucket {
                stack = Layered::around(Rate::new(Arc::clone(bucket), lane), stack);
            }
            stack = Layered::around(Concurrency::new(Arc::clone(&slots), lane), stack);
            stack = Layered::around(
                breaker::Guard::new(Arc::clone(&breaker), Arc::clone(&stack)),
                stack,
            );
            if limits.dry_run {
                stack = Arc::new(DryRun::new(stack));
            }
            Layered::around(Trace::new(system, lane), stack)
        };
        let (normal, revocation) = (stack(Lane::Normal), stack(Lane::Revocation));
        let shared = Shared {
            system: system.to_owned(),
            breaker,
            normal,
            revocation,
        };
        Self {
            shared: Arc::new(shared),
            lane: Lane::Normal,
        }
    }

    /// The same system, called for `lane`.
    #[must_use]
    pub fn with_lane(&self, lane: Lane) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            lane,
        }
    }

    #[must_use]
    pub fn system(&self) -> &str {
        &self.shared.system
    }

    /// Whether calls go through now, and if not, when to look again and why.
    #[must_use]
    pub fn availability(&self) -> Availability {
        self.shared.breaker.availability()
    }

    /// Changes whenever the availability does: the breaker opens, opens again, or closes.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Availability> {
        self.shared.breaker.watch()
    }

    /// Looks whether a held system is back, if it is time to look; otherwise says what is known.
    pub async fn probe(&self) -> Availability {
        let stack = self.stack();
        if self.shared.breaker.is_due() {
            // The breaker probes before it lets any call through; a check is the cheapest call there is.
            let _ = stack.check().await;
        }
        self.availability()
    }

    fn stack(&self) -> &Arc<dyn Connector> {
        match self.lane {
            Lane::Normal => &self.shared.normal,
            Lane::Revocation => &self.shared.revocation,
        }
    }
}

#[async_trait]
impl Connector for Guarded {
    fn capabilities(&self) -> Capabilities {
        self.stack().capabilities()
    }
    async fn check(&self) -> Result<Health, Error> {
        self.stack().check().await
    }
    async fn list(&self, kind: Kind, after: Option<Cursor>) -> Result<Page, Error> {
        self.stack().list(kind, after).await
    }
    async fn get(&self, object: &ObjectRef) -> Result<Option<Object>, Error> {
        self.stack().get(object).await
    }
    async fn changes(&self, after: Option<Cursor>) -> Result<Changes, Error> {
        self.stack().changes(after).await
    }
    async fn apply(&self, operation: &Operation, key: &OperationKey) -> Result<Outcome, Error> {
        self.stack().apply(operation, key).await
    }
    async fn poll(&self, handle: &Handle) -> Result<Outcome, Error> {
        self.stack().poll(handle).await
    }
    async fn verify(&self, claim: &Claim) -> Result<Verdict, Error> {
        self.stack().verify(claim).await
    }
    async fn credentials(&self, account: &NativeId) -> Result<Coverage<Vec<Credential>>, Error> {
        self.stack().credentials(account).await
    }
    async fn renewal(
        &self,
        account: &NativeId,
        credential: &CredentialId,
    ) -> Result<Renewal, Error> {
        self.stack().renewal(account, credential).await
    }
    async fn dependents(&self, object: &ObjectRef) -> Result<Coverage<Vec<Use>>, Error> {
        self.stack().dependents(object).await
    }
}
