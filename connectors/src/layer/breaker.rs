//! Keeps calls away from a system that cannot take them.
//!
//! ```text
//! closed  -- refused login ----------------------> open, for the longest interval
//! closed  -- N failures in a row ----------------> open, for the first interval
//! closed  -- the system names a time to come back > held until then
//! held    -- that time has come -----------------> closed
//! open    -- interval over, next call or probe --> half open: one check of the system, nobody else
//! open    -- somebody's own check is good --------> closed, on trial
//! half open -- check good -----------------------> closed, on trial: two failures open it again
//! half open -- check bad ------------------------> open, for twice as long, up to the longest
//! closed, on trial -- an answer -----------------> closed
//! ```
//!
//! The failures are those of different calls: one operation that makes the system choke is that operation's
//! problem, not everybody's. Only "no connection" counts each time, since it cannot be any call's own fault.
//! An answer that says no ("not found", "denied") is an answer, and ends a row of failures. Who does not say when it wishes
//! something to be renewed keeps nobody from anything: that opinion often comes from elsewhere than what it is about.
//!
//! A refused login opens at once and waits long: every further try may lock our own account.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;

use super::Clock;
use super::call::{Answer, Call, Layer, Method};
use crate::connector::{Connector, Error, ErrorKind};

/// How many failures open a breaker that has just closed and has not seen a call succeed since.
const FAILURES_ON_TRIAL: u32 = 2;
/// The longest a system's own "come back at" is believed; a wrong clock there must not hold us for a year.
const HOLD_MS_MAX: u64 = 15 * 60 * 1_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BreakerLimits {
    /// How many failures in a row open the breaker.
    pub failures: u32,
    /// How long it stays open the first time; each time without success doubles it.
    pub open_first_ms: u64,
    pub open_max_ms: u64,
}

impl Default for BreakerLimits {
    fn default() -> Self {
        Self {
            failures: 5,
            open_first_ms: 1_000,
            open_max_ms: 30_000,
        }
    }
}

/// Whether a system takes calls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Availability {
    Ready,
    /// Nothing goes out before `until`. Once that has passed, a [`super::Guarded::probe`] is due.
    HeldUntil {
        until: DateTime<Utc>,
        /// When the trouble began.
        since: DateTime<Utc>,
        reason: String,
    },
}

impl Availability {
    #[must_use]
    pub fn is_ready(&self) -> bool {
        matches!(self, Self::Ready)
    }
}

/// The breaker of one system, shared by its lanes.
pub struct Breaker {
    system: String,
    limits: BreakerLimits,
    clock: Clock,
    circuit: Mutex<Circuit>,
    availability: watch::Sender<Availability>,
}

#[derive(Debug)]
struct Circuit {
    state: State,
    /// Raised with every change of state, so that an answer to a question from before is not counted.
    generation: u64,
    /// How often in a row the breaker opened without a success in between: the exponent of the interval.
    rounds: u32,
}

#[derive(Debug)]
enum State {
    Closed {
        failures: u32,
        failed: BTreeSet<u64>,
    },
    /// The system said when to come back; no probe is needed then.
    Held(Hold),
    Open(Hold),
    HalfOpen(Hold),
}

#[derive(Debug, Clone)]
struct Hold {
    until: Instant,
    until_utc: DateTime<Utc>,
    since: DateTime<Utc>,
    reason: String,
}

/// What a call may do.
enum Admission {
    Go {
        generation: u64,
    },
    /// This call found the interval over: it has to look first whether the system is back.
    Probe {
        generation: u64,
    },
    Refused(Error),
}

impl State {
    fn closed() -> Self {
        Self::Closed {
            failures: 0,
            failed: BTreeSet::new(),
        }
    }
}

impl Breaker {
    #[must_use]
    pub fn new(system: &str, limits: BreakerLimits, clock: Clock) -> Self {
        let circuit = Circuit {
            state: State::closed(),
            generation: 0,
            rounds: 0,
        };
        let limits = BreakerLimits {
            failures: limits.failures.max(1),
            open_first_ms: limits.open_first_ms.max(1),
            open_max_ms: limits.open_max_ms.max(limits.open_first_ms).max(1),
        };
        Self {
            system: system.to_owned(),
            limits,
            clock,
            circuit: Mutex::new(circuit),
            availability: watch::Sender::new(Availability::Ready),
        }
    }

    #[must_use]
    pub fn availability(&self) -> Availability {
        self.availability.borrow().clone()
    }

    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Availability> {
        self.availability.subscribe()
    }

    /// Whether the system is held and it is time to look again.
    #[must_use]
    pub fn is_due(&self) -> bool {
        match &self.lock().state {
            State::Held(hold) | State::Open(hold) => hold.until <= Instant::now(),
            State::Closed { .. } | State::HalfOpen(_) => false,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Circuit> {
        self.circuit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn admit(&self) -> Admission {
        let mut circuit = self.lock();
        let now = Instant::now();
        match &circuit.state {
            State::Closed { .. } => Admission::Go {
                generation: circuit.generation,
            },
            State::Held(hold) if hold.until <= now => {
                self.enter(&mut circuit, State::closed());
                Admission::Go {
                    generation: circuit.generation,
                }
            }
            State::Held(hold) => Admission::Refused(Error::new(
                ErrorKind::RateLimited {
                    until: hold.until_utc,
                },
                format!("system `{}` asked us to wait: {}", self.system, hold.reason),
            )),
            State::Open(hold) if hold.until <= now => {
                let hold = hold.clone();
                self.enter(&mut circuit, State::HalfOpen(hold));
                Admission::Probe {
                    generation: circuit.generation,
                }
            }
            State::Open(hold) | State::HalfOpen(hold) => Admission::Refused(self.refusal(hold)),
        }
    }

    fn refusal(&self, hold: &Hold) -> Error {
        // While half open the moment named is past already; whoever reads it must not spin on it.
        let soonest = (self.clock)() + delta(self.limits.open_first_ms);
        let until = if hold.until <= Instant::now() {
            soonest
        } else {
            hold.until_utc
        };
        Error::new(
            ErrorKind::BreakerOpen { until },
            format!(
                "system `{}` is held since {}: {}",
                self.system,
                hold.since.format("%FT%TZ"),
                hold.reason
            ),
        )
    }

    /// Takes note of how a call ended that was let go in `generation`.
    fn note(&self, generation: u64, call: &Call, failure: Option<&Error>) {
        let mut circuit = self.lock();
        if circuit.generation != generation {
            return;
        }
        let on_trial = circuit.rounds > 0;
        let State::Closed { failures, failed } = &mut circuit.state else {
            return;
        };
        let Some(error) = failure else {
            *failures = 0;
            failed.clear();
            // A good check is not yet a call that worked: it must not wipe out what is known.
            if call.method != Method::Check {
                circuit.rounds = 0;
            }
            return;
        };
        if call.method == Method::Renewal {
            return;
        }
        match error.kind {
            ErrorKind::AuthExpired => self.open(&mut circuit, error, self.limits.open_max_ms, None),
            ErrorKind::RateLimited { until } => {
                let ahead = (until - (self.clock)()).to_std().unwrap_or_default();
                let hold_ms = u64::try_from(ahead.as_millis())
                    .unwrap_or(u64::MAX)
                    .min(HOLD_MS_MAX);
                if hold_ms > 0 {
                    let hold = self.hold(hold_ms, None, &error.message);
                    tracing::warn!(system = self.system, hold_ms, "the system asked us to wait");
                    self.enter(&mut circuit, State::Held(hold));
                }
            }
            ErrorKind::Unreachable | ErrorKind::Transient | ErrorKind::Timeout => {
                if failed.insert(call.identity) || error.kind == ErrorKind::Unreachable {
                    *failures += 1;
                }
                let enough = if on_trial {
                    FAILURES_ON_TRIAL.min(self.limits.failures)
                } else {
                    self.limits.failures
                };
                if *failures >= enough || (on_trial && error.kind == ErrorKind::Unreachable) {
                    let open_ms = self.interval_ms(circuit.rounds);
                    circuit.rounds = circuit.rounds.saturating_add(1);
                    self.open(&mut circuit, error, open_ms, None);
                }
            }
            // Answers that refuse show that the system is there. A broken protocol shows neither.
            ErrorKind::NotFound
            | ErrorKind::Conflict
            | ErrorKind::Invalid
            | ErrorKind::Denied
            | ErrorKind::Full
            | ErrorKind::Unsupported => {
                *failures = 0;
                failed.clear();
                circuit.rounds = 0;
            }
            ErrorKind::BreakerOpen { .. } | ErrorKind::Bug => {}
        }
    }

    /// Somebody asked how the system is, past an open breaker, and it is well.
    fn seen_well(&self) {
        let mut circuit = self.lock();
        if matches!(circuit.state, State::Open(_)) {
            tracing::info!(system = self.system, "system is back");
            self.enter(&mut circuit, State::closed());
        }
    }

    fn interval_ms(&self, rounds: u32) -> u64 {
        let factor = 1_u64
            .checked_shl(rounds.min(u64::BITS - 1))
            .unwrap_or(u64::MAX);
        self.limits
            .open_first_ms
            .saturating_mul(factor)
            .min(self.limits.open_max_ms)
    }

    fn hold(&self, ms: u64, since: Option<DateTime<Utc>>, reason: &str) -> Hold {
        let now = (self.clock)();
        Hold {
            until: Instant::now() + Duration::from_millis(ms),
            until_utc: now + delta(ms),
            since: since.unwrap_or(now),
            reason: reason.to_owned(),
        }
    }

    fn open(
        &self,
        circuit: &mut Circuit,
        error: &Error,
        open_ms: u64,
        since: Option<DateTime<Utc>>,
    ) {
        let hold = self.hold(open_ms, since, &error.whole());
        tracing::warn!(
            system = self.system,
            open_ms,
            error.kind = error.kind.as_str(),
            error = hold.reason,
            "system is held"
        );
        circuit.rounds = circuit.rounds.max(1);
        self.enter(circuit, State::Open(hold));
    }

    /// The one place where the state changes, so that whoever watches hears of every change.
    fn enter(&self, circuit: &mut Circuit, state: State) {
        circuit.state = state;
        circuit.generation = circuit.generation.wrapping_add(1);
        let availability = match &circuit.state {
            State::Closed { .. } => Availability::Ready,
            State::Held(hold) | State::Open(hold) | State::HalfOpen(hold) => {
                Availability::HeldUntil {
                    until: hold.until_utc,
                    since: hold.since,
                    reason: hold.reason.clone(),
                }
            }
        };
        self.availability.send_if_modified(|known| {
            let changed = *known != availability;
            *known = availability;
            changed
        });
    }

    /// Ends the half-open state in which `generation` began.
    fn probed(&self, generation: u64, failure: Option<&Error>) -> Result<u64, Error> {
        let mut circuit = self.lock();
        let State::HalfOpen(hold) = &circuit.state else {
            return Ok(circuit.generation);
        };
        if circuit.generation != generation {
            return Err(self.refusal(hold));
        }
        let since = hold.since;
        match failure {
            None => {
                tracing::info!(system = self.system, "system is back");
                self.enter(&mut circuit, State::closed());
                Ok(circuit.generation)
            }
            Some(error) => {
                let open_ms = if error.kind == ErrorKind::AuthExpired {
                    self.limits.open_max_ms
                } else {
                    self.interval_ms(circuit.rounds)
                };
                circuit.rounds = circuit.rounds.saturating_add(1);
                self.open(&mut circuit, error, open_ms, Some(since));
                match &circuit.state {
                    State::Open(hold) => Err(self.refusal(hold)),
                    _ => Ok(circuit.generation),
                }
            }
        }
    }
}

fn delta(ms: u64) -> TimeDelta {
    TimeDelta::milliseconds(i64::try_from(ms).unwrap_or(i64::MAX / 2))
}

/// Puts the breaker back to "open, and due" if the one who probes goes away before it knows.
struct Probing<'a> {
    breaker: &'a Breaker,
    generation: u64,
}

impl Drop for Probing<'_> {
    fn drop(&mut self) {
        let mut circuit = self.breaker.lock();
        if circuit.generation == self.generation
            && let State::HalfOpen(hold) = &circuit.state
        {
            let hold = hold.clone();
            self.breaker.enter(&mut circuit, State::Open(hold));
        }
    }
}

/// The layer: asks the [`Breaker`] before each call and tells it afterwards.
pub struct Guard {
    breaker: Arc<Breaker>,
    /// What the breaker stands around: it probes by that connector's check.
    inner: Arc<dyn Connector>,
}

impl Guard {
    #[must_use]
    pub fn new(breaker: Arc<Breaker>, inner: Arc<dyn Connector>) -> Self {
        Self { breaker, inner }
    }

    /// Runs `check` as the one call that decides whether the breaker closes; gives the generation to go on in.
    async fn probe<T: Answer>(
        &self,
        generation: u64,
        check: impl Future<Output = Result<T, Error>> + Send,
    ) -> (Result<T, Error>, Result<u64, Error>) {
        let probing = Probing {
            breaker: &self.breaker,
            generation,
        };
        let answer = check.await;
        let failure = match &answer {
            Ok(health) => health.system_away(),
            Err(error) => Some(Error::new(error.kind, error.whole())),
        };
        let closed = self.breaker.probed(generation, failure.as_ref());
        drop(probing);
        (answer, closed)
    }
}

impl Layer for Guard {
    async fn around<T: Answer>(
        &self,
        call: &Call,
        next: impl Future<Output = Result<T, Error>> + Send,
    ) -> Result<T, Error> {
        let is_check = call.method == Method::Check;
        let generation = match self.breaker.admit() {
            Admission::Go { generation } => generation,
            Admission::Probe { generation } if is_check => {
                return self.probe(generation, next).await.0;
            }
            Admission::Probe { generation } => self.probe(generation, self.inner.check()).await.1?,
            // A person who asks how the system is gets an answer from the system itself.
            Admission::Refused(_) if is_check => {
                let answer = next.await;
                if answer
                    .as_ref()
                    .is_ok_and(|answer| answer.system_away().is_none())
                {
                    self.breaker.seen_well();
                }
                return answer;
            }
            Admission::Refused(error) => return Err(error),
        };
        let answer = next.await;
        match &answer {
            Ok(answer) => self
                .breaker
                .note(generation, call, answer.system_away().as_ref()),
            Err(error) => self.breaker.note(generation, call, Some(error)),
        }
        answer
    }
}
