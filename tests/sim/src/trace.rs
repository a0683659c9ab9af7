//! What happened, as lines; and one number over all of them, which says whether two runs were the same.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};

use crate::moment::TrueTime;

/// How many lines are kept for whoever asks what led to a failure.
const LINES_KEPT: usize = 400;

pub struct Trace {
    time: TrueTime,
    /// Print every line as it comes.
    aloud: bool,
    inner: Mutex<Inner>,
}

struct Inner {
    hash: u64,
    lines: VecDeque<String>,
    count: u64,
}

impl Trace {
    pub fn new(time: TrueTime, aloud: bool) -> Self {
        let inner = Inner {
            hash: 0xcbf2_9ce4_8422_2325,
            lines: VecDeque::new(),
            count: 0,
        };
        Self {
            time,
            aloud,
            inner: Mutex::new(inner),
        }
    }

    pub fn note(&self, what: std::fmt::Arguments<'_>) {
        let mut line = String::with_capacity(96);
        let at = self.time.elapsed();
        let _ = write!(line, "{:>6}.{:03} {what}", at.as_secs(), at.subsec_millis());
        self.count(line.as_bytes());
        if self.aloud {
            println!("{line}");
        }
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.lines.len() >= LINES_KEPT {
            inner.lines.pop_front();
        }
        inner.lines.push_back(line);
    }

    /// Takes bytes into the number that are not worth a line.
    pub fn count(&self, bytes: &[u8]) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.count += 1;
        for byte in bytes {
            inner.hash ^= u64::from(*byte);
            inner.hash = inner.hash.wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    pub fn hash(&self) -> u64 {
        self.inner
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .hash
    }

    pub fn tail(&self, lines: usize) -> Vec<String> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let skip = inner.lines.len().saturating_sub(lines);
        inner.lines.iter().skip(skip).cloned().collect()
    }
}

/// Adds a line to the trace of a world.
macro_rules! note {
    ($world:expr, $($what:tt)*) => { $world.trace.note(format_args!($($what)*)) };
}
pub(crate) use note;
