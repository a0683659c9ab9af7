//! Notices in the transaction of what they tell of.

use std::sync::Arc;

use async_trait::async_trait;
use engine::store::{Outcome, OutcomeKind, Projection, StoreError, Transaction};
use tokio::sync::Notify;

use super::cause::{caused, may_be_told};
use super::{Notices, outbox};
use crate::directory::DirectoryProjection;

/// Keeps the directory in step with the cases, and notes who has to be told.
#[derive(Debug)]
pub struct NoticeProjection {
    notices: Arc<Notices>,
    /// Told just before something new is durable.
    written: Arc<Notify>,
}

impl NoticeProjection {
    #[must_use]
    pub fn new(notices: Arc<Notices>, written: Arc<Notify>) -> Self {
        Self { notices, written }
    }
}

#[async_trait]
impl Projection for NoticeProjection {
    fn wants(&self, kind: &OutcomeKind) -> bool {
        DirectoryProjection.wants(kind) || may_be_told(kind, &self.notices)
    }

    async fn project(
        &self,
        transaction: &mut Transaction<'_>,
        outcomes: &[Outcome],
    ) -> Result<(), StoreError> {
        DirectoryProjection.project(transaction, outcomes).await?;
        let notices: Vec<_> = outcomes
            .iter()
            .flat_map(|outcome| caused(outcome, &self.notices))
            .collect();
        if !notices.is_empty() {
            outbox::put_in(transaction, &notices).await?;
            self.written.notify_one();
        }
        Ok(())
    }
}
