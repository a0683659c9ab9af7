//! Starts what waits for its time, when its time comes.

use std::sync::Arc;
use std::time::Duration;

use engine::runner::Clock;
use tokio::sync::Notify;

use super::Intake;

/// The longest sleep: the safety net for events that another process took in, and for clocks that were set.
const SLEEP_MAX: Duration = Duration::from_secs(30);
/// The pause after the database did not answer.
const TROUBLE_PAUSE: Duration = Duration::from_secs(5);

impl Intake {
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
