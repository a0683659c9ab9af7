//! Time in the simulated world. Nobody waits for it: when every task is at rest, it jumps to the next timer.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use chrono::TimeDelta;
use engine::core::Timestamp;
use engine::runner::Clock;
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;

/// One thread, virtual time, no sockets: nothing in it comes from outside.
pub fn runtime() -> Runtime {
    Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
}

/// What the time is, for whoever could know.
#[derive(Debug, Clone, Copy)]
pub struct TrueTime {
    began: Instant,
}

impl TrueTime {
    /// Begins now; inside a [`runtime`] only.
    pub fn begin() -> Self {
        Self {
            began: Instant::now(),
        }
    }

    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    pub fn now(&self) -> Timestamp {
        let epoch = "2026-03-02T08:00:00Z".parse::<Timestamp>().unwrap();
        let micros = i64::try_from(self.elapsed().as_micros()).unwrap();
        epoch + TimeDelta::microseconds(micros)
    }
}

/// The clock of one machine: off by some time, which may jump.
#[derive(Debug, Clone)]
pub struct MachineClock {
    time: TrueTime,
    off_by_us: Arc<AtomicI64>,
}

impl MachineClock {
    pub fn new(time: TrueTime) -> Self {
        Self {
            time,
            off_by_us: Arc::default(),
        }
    }

    pub fn set_off_by_ms(&self, ms: i64) {
        self.off_by_us.store(ms * 1_000, Ordering::SeqCst);
    }
}

impl Clock for MachineClock {
    fn now(&self) -> Timestamp {
        self.time.now() + TimeDelta::microseconds(self.off_by_us.load(Ordering::SeqCst))
    }
}

pub async fn rest_ms(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}
