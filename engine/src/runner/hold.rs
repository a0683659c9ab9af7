//! How long this node may act for its shards, on its own clock.
//!
//! A lease is granted by the database's clock and ends here earlier than there: it counts from the moment the
//! renewal was *sent*, by this machine's monotonic clock, less a margin. A process that was stopped for longer finds
//! the time over at the first thing it does, before anybody has to tell it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// The share of a lease by which the node stops early.
const MARGIN_DIVISOR: u32 = 10;

/// Until when all leases of a node hold, as the node counts. Shared by everything that acts for a shard.
pub(super) struct Hold {
    origin: Instant,
    /// Microseconds after `origin`; 0 for never held.
    until_us: AtomicU64,
}

impl Hold {
    pub fn new() -> Self {
        Self {
            origin: Instant::now(),
            until_us: AtomicU64::new(0),
        }
    }

    /// How long a lease lasts here, from the sending of its renewal.
    pub fn length(lease_ms: u32) -> Duration {
        let lease = Duration::from_millis(u64::from(lease_ms));
        lease.saturating_sub(lease / MARGIN_DIVISOR)
    }

    pub fn set(&self, until: Instant) {
        let until = until.saturating_duration_since(self.origin).as_micros();
        let until = u64::try_from(until).unwrap_or(u64::MAX);
        self.until_us.store(until, Ordering::Release);
    }

    /// From now on nothing may be done.
    pub fn end(&self) {
        self.until_us.store(0, Ordering::Release);
    }

    pub fn is_over(&self) -> bool {
        let now = self.origin.elapsed().as_micros();
        now >= u128::from(self.until_us.load(Ordering::Acquire))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_ends_before_the_lease_does() {
        let hold = Hold::new();
        assert!(hold.is_over(), "nothing was granted yet");
        let sent = Instant::now();
        // sleeps: virtual time; the answer took this long
        tokio::time::sleep(Duration::from_secs(4)).await;
        hold.set(sent + Hold::length(10_000));
        // sleeps: virtual time
        tokio::time::sleep(Duration::from_millis(4_999)).await;
        assert!(!hold.is_over());
        // sleeps: virtual time
        tokio::time::sleep(Duration::from_millis(2)).await;
        assert!(hold.is_over());
        hold.set(Instant::now() + Duration::from_secs(1));
        assert!(!hold.is_over());
        hold.end();
        assert!(hold.is_over());
    }
}
