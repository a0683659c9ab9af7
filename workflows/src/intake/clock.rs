//! Starts what waits for its time, when its time comes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use engine::core::Timestamp;
use engine::core::id::Actor;
use engine::runner::Clock;
use tokio::sync::Notify;

use super::{Due, Intake, IntakeError};
use crate::directory::{planned_due, waiting_due};

/// The longest sleep: the safety net for events that another process took in, and for clocks that were set.
const SLEEP_MAX: Duration = Duration::from_secs(30);
/// The pause after the database did not answer.
const TROUBLE_PAUSE: Duration = Duration::from_secs(5);

/// How many waiting events are started in one transaction.
const DUE_EVENTS_MAX: usize = 500;
/// The most transactions of one call of [`Intake::start_due`]; the rest is left to the next.
const DUE_ROUNDS_MAX: usize = 200;

impl Intake {
    /// Starts what waited for its time and is effective by `now`. Call it again at `next`, or when an event
    /// came in; calling it more often is harmless.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn start_due(&self, now: Timestamp) -> Result<Due, IntakeError> {
        let nobody = Actor::engine();
        let mut cases: BTreeMap<String, u64> = BTreeMap::new();
        for _ in 0..DUE_ROUNDS_MAX {
            let mut subjects = waiting_due(&self.directory, now, DUE_EVENTS_MAX).await?;
            subjects.extend(planned_due(&self.directory, now, DUE_EVENTS_MAX).await?);
            if subjects.is_empty() {
                break;
            }
            let settled = self.settle(&subjects, &[], &nobody, now).await?;
            for (workflow, started) in settled.cases {
                *cases.entry(workflow).or_default() += started.len() as u64;
            }
        }
        let waiting = self.directory.waiting_events(1).await?;
        let planned = self.directory.planned(1).await?;
        let next = waiting
            .first()
            .map(|event| event.effective_at)
            .into_iter()
            .chain(planned.first().map(|row| row.due_at))
            .min();
        Ok(Due { cases, next })
    }

    /// Starts waiting events as they become effective, for ever; drop the future to stop. Wakes `node` when
    /// cases were started. `news` says that an event came in, which may be due before all others.
    pub async fn keep_starting(&self, clock: Arc<dyn Clock>, node: Arc<Notify>, news: Arc<Notify>) {
        loop {
            let now = clock.now();
            let sleep = match self.start_due(now).await {
                Ok(due) => {
                    if !due.cases.is_empty() {
                        node.notify_one();
                    }
                    due.next
                        .and_then(|next| (next - now).to_std().ok())
                        .map_or(SLEEP_MAX, |until| until.min(SLEEP_MAX))
                }
                Err(error) => {
                    tracing::warn!(%error, "waiting events could not be started; trying again");
                    TROUBLE_PAUSE
                }
            };
            let _ = tokio::time::timeout(sleep, news.notified()).await;
        }
    }
}
