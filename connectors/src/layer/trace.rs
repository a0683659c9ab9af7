//! A span for each call. It names the system, the call and the idempotency key, and nothing a person wrote:
//! no attributes, no names, no identifiers, no secrets.

use tracing::Instrument as _;

use super::Lane;
use super::call::{Answer, Call, Layer};
use crate::connector::Error;

pub struct Trace {
    system: String,
    lane: Lane,
}

impl Trace {
    #[must_use]
    pub fn new(system: &str, lane: Lane) -> Self {
        Self {
            system: system.to_owned(),
            lane,
        }
    }
}

impl Layer for Trace {
    async fn around<T: Answer>(
        &self,
        call: &Call,
        next: impl Future<Output = Result<T, Error>> + Send,
    ) -> Result<T, Error> {
        let (key, attempt) = call
            .key
            .as_ref()
            .map_or(("", 0), |key| (key.idempotency.as_str(), key.attempt));
        let span = tracing::info_span!(
            "connector",
            system = self.system,
            call = call.method.as_str(),
            operation = call.what,
            idempotency_key = key,
            attempt,
            revocation = self.lane == Lane::Revocation,
            error = tracing::field::Empty,
        );
        async {
            let started = tokio::time::Instant::now();
            let answer = next.await;
            let took_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
            // The caller handles the error and logs it there; here only its kind, beside the time it took.
            match &answer {
                Ok(_) => tracing::debug!(took_us, "answered"),
                Err(error) => {
                    let kind = error.kind.as_str();
                    tracing::Span::current().record("error", kind);
                    tracing::debug!(took_us, error.kind = kind, "failed");
                }
            }
            answer
        }
        .instrument(span)
        .await
    }
}
