//! Noting that a source was heard.
//!
//! A source is heard when something good comes from it: a file, an event, or the word that it has no news. What is refused
//! does not count: a feed that sends nothing but nonsense is as good as none.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::TimeDelta;
use engine::core::Timestamp;

use super::{Intake, IntakeError};
use crate::directory::{Expect, HEARD_EVERY_S, Hear};

/// What this process wrote last, so that a busy source costs no statement at all.
#[derive(Debug, Clone, Default)]
pub(super) struct Written {
    by_source: Arc<Mutex<BTreeMap<String, Last>>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Last {
    heard_at: Option<Timestamp>,
    news_at: Option<Timestamp>,
}

impl Intake {
    /// Notes that these sources are expected from now on. Those known already are left as they are.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn expect_sources<'a>(
        &self,
        sources: impl Iterator<Item = &'a str>,
        now: Timestamp,
    ) -> Result<(), IntakeError> {
        let sources: Vec<(i32, String)> = sources
            .map(|source| (self.directory.shard(source), source.to_owned()))
            .collect();
        let work = Expect {
            sources: &sources,
            at: now,
        };
        Ok(self.directory.write(&work).await?)
    }

    /// Notes that a configured source was heard at `at`, and whether it had `news`. Writes at most once in
    /// [`HEARD_EVERY_S`] seconds; what is stored is never further behind.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn heard(&self, source: &str, at: Timestamp, news: bool) -> Result<(), IntakeError> {
        if self.written.covers(source, at, news) {
            return Ok(());
        }
        let work = Hear {
            shard_id: self.directory.shard(source),
            source,
            at,
            news,
        };
        self.directory.write(&work).await?;
        self.written.note(source, at, news);
        Ok(())
    }

    /// As [`Intake::heard`], beside something that is durable already and must not fail because of this.
    pub async fn heard_or_logged(&self, source: &str, at: Timestamp, news: bool) {
        if let Err(error) = self.heard(source, at, news).await {
            tracing::warn!(source, %error, "that a source was heard could not be noted");
        }
    }
}

impl Written {
    fn covers(&self, source: &str, at: Timestamp, news: bool) -> bool {
        let by_source = self
            .by_source
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let last = by_source.get(source).copied().unwrap_or_default();
        let lately = at - TimeDelta::seconds(HEARD_EVERY_S);
        let recent = |written: Option<Timestamp>| written.is_some_and(|written| written > lately);
        recent(last.heard_at) && (!news || recent(last.news_at))
    }

    fn note(&self, source: &str, at: Timestamp, news: bool) {
        let mut by_source = self
            .by_source
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let last = by_source.entry(source.to_owned()).or_default();
        last.heard_at = last.heard_at.max(Some(at));
        if news {
            last.news_at = last.news_at.max(Some(at));
        }
    }
}
