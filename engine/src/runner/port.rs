//! What the layer above gives the runner: actions, facts, time.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use chrono::Utc;
use serde_json::Value;

use crate::core::Timestamp;
use crate::core::case::{Failure, Mode};
use crate::core::definition::Lane;
use crate::core::duration::Span;
use crate::core::id::{CaseId, Epoch, Place, ShardId, Subject};
use crate::core::input::AttemptResult;

/// One attempt, with everything an action may need.
#[derive(Debug, Clone)]
pub struct Attempt {
    pub case: CaseId,
    pub shard: ShardId,
    pub subject: Subject,
    pub workflow: String,
    pub lane: Lane,
    pub generation: u32,
    /// What the case was started with.
    pub input: Arc<Value>,
    pub effective_at: Option<Timestamp>,
    pub received_at: Timestamp,
    pub step: String,
    pub place: Place,
    /// The action's name: that of the step, or of its undo.
    pub uses: String,
    pub with: Value,
    /// The element of `for_each`; null without one.
    pub item: Value,
    /// What the step gave when it was done: what an undo takes back.
    pub output: Value,
    pub mode: Mode,
    pub attempt: u32,
    pub epoch: Epoch,
    /// Stable over every attempt of this effect.
    pub idempotency_key: String,
    pub timeout: Span,
}

/// Whether a queue may be worked on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Availability {
    Ready,
    /// Nothing is sent before this time; then one attempt finds out.
    HeldUntil(Timestamp),
}

/// A named queue with its own bound: usually a target system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    pub name: String,
    /// How many attempts may be out at once.
    pub concurrency: usize,
    /// How many of those only the revocation lane may use.
    pub reserved: usize,
}

/// The actions that definitions may use, and the facts their expressions may read.
#[async_trait]
pub trait Actions: Send + Sync {
    fn exists(&self, uses: &str) -> bool;

    /// Roots that expressions may read beside `input`, `steps`, `case` and `item`.
    fn fact_roots(&self) -> Vec<&'static str>;

    /// Reads facts about a subject: an object with a field for each root. A failure of class
    /// [`FailureClass::Permanent`](crate::core::case::FailureClass) stops the step; others are tried again.
    ///
    /// # Errors
    /// Why the facts could not be read.
    async fn facts(
        &self,
        subject: &Subject,
        input: &Value,
        roots: &BTreeSet<String>,
    ) -> Result<Value, Failure>;

    /// The queue an attempt waits in; `None` for work that touches nothing outside.
    fn resource(&self, attempt: &Attempt) -> Option<Resource>;

    /// Whether that queue may be worked on now. Asked before each attempt leaves; must not block.
    fn availability(&self, resource: &str) -> Availability {
        let _ = resource;
        Availability::Ready
    }

    /// The answer to an attempt that asks and changes nothing outside; `None` hands the attempt to [`Actions::run`].
    /// It may be asked before the intent is durable, and is written in the same batch.
    fn at_once(&self, attempt: &Attempt) -> Option<AttemptResult> {
        let _ = attempt;
        None
    }

    /// Makes the attempt. `mode` says what for: `Do`, `ReadBack` (find out whether an earlier attempt had
    /// its effect: answer `Succeeded` or `NotApplied`), `Poll`, `Undo`, `UndoReadBack`. Never panics; the
    /// runner limits its time and takes a time-out for a lost answer.
    async fn run(&self, attempt: &Attempt) -> AttemptResult;
}

/// Where the time comes from.
pub trait Clock: Send + Sync {
    fn now(&self) -> Timestamp;
}

/// The machine's clock, in whole microseconds: what both databases keep.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that asks the machine for the time"
    )]
    fn now(&self) -> Timestamp {
        let now = Utc::now();
        Timestamp::from_timestamp_micros(now.timestamp_micros()).unwrap_or(now)
    }
}
