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

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        reason = "tests"
    )]
    use std::sync::Arc;

    use chrono::TimeDelta;

    use super::*;
    use crate::intake::ImportStatus;
    use crate::intake::tests::FOUR;
    use crate::sources::SnapshotInput;
    use crate::testbed::{Company, actor, now, on_both_databases};

    async fn a_busy_source_is_noted_once_in_a_while(company: &Company) {
        let row = async || {
            let rows = company.directory.heard().await.unwrap();
            assert_eq!(rows.len(), 1);
            rows.into_iter().next().unwrap()
        };
        let start = now();
        let at = |ms: i64| start + TimeDelta::milliseconds(ms);
        company
            .intake
            .expect_sources(["hr"].into_iter(), at(0))
            .await
            .unwrap();
        company
            .intake
            .expect_sources(["hr"].into_iter(), at(9_000))
            .await
            .unwrap();
        let known = row().await;
        assert_eq!(
            (known.known_since, known.heard_at, known.news_at),
            (at(0), None, None)
        );
        // Another process remembers nothing of what this one wrote; the database decides then.
        let other = Intake::new(company.directory.clone(), Arc::clone(&company.definitions));
        for (ms, news, heard_ms, news_ms) in [
            (10, false, 10, None),
            (20, false, 10, None),
            (30, true, 30, Some(30)),
            (40, true, 30, Some(30)),
            (5_029, true, 30, Some(30)),
            (5_030, false, 5_030, Some(30)),
            (5_031, true, 5_031, Some(5_031)),
            // Late words of another node.
            (1_000, true, 5_031, Some(5_031)),
            (20_000, true, 20_000, Some(20_000)),
            (14_000, true, 20_000, Some(20_000)),
        ] {
            for intake in [&company.intake, &other] {
                intake.heard("hr", at(ms), news).await.unwrap();
                let row = row().await;
                assert_eq!(
                    (row.heard_at, row.news_at),
                    (Some(at(heard_ms)), news_ms.map(at)),
                    "{ms}"
                );
            }
        }
    }

    async fn a_file_is_heard_unless_it_is_refused(company: &Company) {
        company
            .try_import("2026-01-01", &["A1,,Sales"])
            .await
            .unwrap_err();
        assert_eq!(company.directory.heard().await.unwrap(), []);
        company.import("2026-01-01", &FOUR).await;
        let row = company.directory.heard().await.unwrap().remove(0);
        assert_eq!((row.source.as_str(), row.heard_at), ("hr", row.news_at));
        // The day after it says what it said before: heard, and no news.
        let input = SnapshotInput {
            file: "hr.csv",
            as_of: Some("2026-01-02".parse().unwrap()),
            ..SnapshotInput::default()
        };
        let text = format!("id,name,department\n{}\n", FOUR.join("\n"));
        let later = now() + TimeDelta::days(1);
        let by = actor("ann");
        let import = company
            .intake
            .import(&company.source, text.as_bytes(), &input, &by, later)
            .await;
        assert_eq!(import.unwrap().status, ImportStatus::Unchanged);
        let then = company.directory.heard().await.unwrap().remove(0);
        assert_eq!((then.heard_at, then.news_at), (Some(later), row.news_at));
        let span = engine::core::duration::Span::parse("26h").unwrap();
        assert_eq!(then.silent_from(span), later + TimeDelta::hours(26));
        assert_eq!(
            company.directory.source_days().await.unwrap()["hr"].to_string(),
            "2026-01-02"
        );
    }

    on_both_databases! {
        a_busy_source_is_noted_once_in_a_while,
        a_file_is_heard_unless_it_is_refused,
    }
}
