//! Ends the wait for an answer. What that means depends on the call: see [`Answer::none_within`].

use std::time::Duration;

use super::call::{Answer, Call, Layer};
use crate::connector::Error;

pub struct Timeout {
    limit_ms: u64,
}

impl Timeout {
    #[must_use]
    pub fn new(limit_ms: u64) -> Self {
        Self { limit_ms }
    }
}

impl Layer for Timeout {
    async fn around<T: Answer>(
        &self,
        _call: &Call,
        next: impl Future<Output = Result<T, Error>> + Send,
    ) -> Result<T, Error> {
        match tokio::time::timeout(Duration::from_millis(self.limit_ms), next).await {
            Ok(answer) => answer,
            Err(_) => T::none_within(self.limit_ms),
        }
    }
}
