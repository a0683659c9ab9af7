//! How many calls may start in a second: evenly spaced, revocations first.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::Lane;
use super::call::{Answer, Call, Layer};
use crate::connector::Error;

/// The rate of one system, shared by its lanes.
#[derive(Debug)]
pub struct Bucket {
    interval: Duration,
    /// When the next call may start.
    next: Mutex<Option<Instant>>,
    revocations_waiting: AtomicUsize,
}

impl Bucket {
    #[must_use]
    pub fn new(per_s: u32) -> Self {
        Self {
            interval: Duration::from_secs(1) / per_s.max(1),
            next: Mutex::new(None),
            revocations_waiting: AtomicUsize::new(0),
        }
    }

    /// Takes the present moment if it is free; otherwise says when to ask again.
    fn take(&self, lane: Lane) -> Result<(), Instant> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        match *next {
            Some(at) if at > now => Err(at),
            // Free, but somebody more urgent has asked for it and is about to be woken.
            _ if lane == Lane::Normal && self.revocations_waiting.load(Ordering::Acquire) > 0 => {
                Err(now + self.interval)
            }
            _ => {
                *next = Some(now + self.interval);
                Ok(())
            }
        }
    }
}

/// Counts a waiting revocation, also when its caller gives up.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

pub struct Rate {
    bucket: Arc<Bucket>,
    lane: Lane,
}

impl Rate {
    #[must_use]
    pub fn new(bucket: Arc<Bucket>, lane: Lane) -> Self {
        Self { bucket, lane }
    }
}

impl Layer for Rate {
    async fn around<T: Answer>(
        &self,
        _call: &Call,
        next: impl Future<Output = Result<T, Error>> + Send,
    ) -> Result<T, Error> {
        let waiting =
            (self.lane == Lane::Revocation).then(|| Waiting::new(&self.bucket.revocations_waiting));
        // Ends: every moment that is lost is taken by one of the calls that hold a slot, and these are few.
        while let Err(at) = self.bucket.take(self.lane) {
            tokio::time::sleep_until(at).await;
        }
        drop(waiting);
        next.await
    }
}
