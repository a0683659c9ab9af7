//! Pulling sources that are behind an HTTP API, and following hints that somebody changed.
//!
//! As with databases, every node has this loop for each such source, and the one that owns the shard of the source's name
//! asks. What comes is handed to the intake as if it were a file of now: checked, guarded, believed or not.
//!
//! The mark of what was asked for is stored only once what came is durable, and not while a person has to decide about it:
//! what was asked for twice says the same, what was never asked for again is lost. A mark that is lost means that everybody
//! is asked for.
//!
//! A hint is stored before it is acknowledged, gathered for a moment with others about the same person, and answered by
//! asking for that person. Nobody is ever taken away because of one, unless the API itself says that they have ended.

mod fetch;
mod http;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use chrono::{DateTime, Utc};
use engine::core::id::Actor;
use serde_json::{Map, Value};
use tokio::sync::Notify;
use tokio::time::Instant;
use workflows::directory::HintRow;
use workflows::intake::{ImportReport, ImportStatus, Intake};
use workflows::sources::manifest::Stated;
use workflows::sources::pull::PullConfig;
use workflows::sources::{Limits, Manifest, SnapshotInput, Source, read_snapshot};

use self::fetch::Mark;
use self::http::{Http, Slower};
use super::queries::{FAILED_PAUSE_MAX, Mistaken, OWNER_PAUSE, is_mine, tell};
use super::{Database, now};

/// Between two looks for hints.
const HINTS_PAUSE: Duration = Duration::from_secs(1);
/// How many people are fetched because of hints before anything else is looked at.
const HINTS_AT_ONCE: u32 = 100;

/// Whether everything is there that asking takes: secrets and certificates.
///
/// # Errors
/// The first that is not.
pub fn check(sources: &BTreeMap<String, Arc<Source>>) -> anyhow::Result<()> {
    for (name, source) in sources {
        if let Some(pull) = source.pull() {
            Http::new(pull).with_context(|| format!("cannot ask source `{name}`"))?;
        }
    }
    Ok(())
}

/// One source that is pulled.
pub struct Pull {
    source: Arc<Source>,
    pull: PullConfig,
    http: Http,
    database: Database,
    intake: Intake,
}

impl Pull {
    /// # Errors
    /// When the source is none that is pulled, or a secret is not where its file says.
    pub fn new(source: Arc<Source>, database: Database, intake: Intake) -> anyhow::Result<Self> {
        let pull = source.pull().cloned();
        let pull = pull.with_context(|| format!("source `{}` is not pulled", source.name()))?;
        let http =
            Http::new(&pull).with_context(|| format!("cannot ask source `{}`", source.name()))?;
        Ok(Self {
            source,
            pull,
            http,
            database,
            intake,
        })
    }

    /// Asks again and again, and follows hints, for ever; drop the future to stop.
    pub async fn keep_asking(self, owner: String, node: Arc<Notify>, due: Arc<Notify>) {
        let name = self.source.name().to_owned();
        let mut next = Instant::now();
        // Until when the server asked to be left alone.
        let mut slower = Instant::now();
        loop {
            match is_mine(&self.database, &name, &owner).await {
                Ok(true) => {}
                Ok(false) => {
                    tokio::time::sleep(OWNER_PAUSE).await;
                    continue;
                }
                Err(error) => {
                    tracing::warn!(
                        source = name,
                        error = &error as &dyn std::error::Error,
                        "cannot tell whose source this is"
                    );
                    tokio::time::sleep(OWNER_PAUSE).await;
                    continue;
                }
            }
            let mut told = false;
            if next <= Instant::now() && slower <= Instant::now() {
                match self.ask(now(), false).await {
                    Ok(report) => {
                        next = Instant::now() + self.pull.every.value.std();
                        told = true;
                        if let Some(report) = report {
                            tell(&report);
                        }
                    }
                    Err(error) => {
                        let pause = self.failed(&error).await;
                        next = Instant::now() + pause;
                        slower = slower.max(left_alone(&error));
                    }
                }
            }
            if self.pull.hints.is_some() && slower <= Instant::now() {
                match self.follow_hints(now()).await {
                    Ok(None) => {}
                    Ok(Some(report)) => {
                        told = true;
                        tell(&report);
                    }
                    Err(error) => {
                        let pause = self.failed(&error).await;
                        slower = slower.max(Instant::now() + pause).max(left_alone(&error));
                    }
                }
            }
            if told {
                node.notify_one();
                due.notify_one();
            }
            let pause = match self.pull.hints {
                Some(_) => HINTS_PAUSE,
                None => OWNER_PAUSE,
            };
            let wake = next.max(slower).min(Instant::now() + pause);
            tokio::time::sleep_until(wake).await;
        }
    }

    async fn failed(&self, error: &anyhow::Error) -> Duration {
        let name = self.source.name();
        self.intake
            .refused(name, now(), &format!("{error:#}"))
            .await;
        // Without the mistakes in rows, which name people: `tenure source ask` shows them.
        tracing::warn!(
            source = name,
            error = format!("{error:#}"),
            "a source could not be asked"
        );
        self.pull.every.value.std().min(FAILED_PAUSE_MAX)
    }

    /// Asks once, for everybody if `all`, and takes in what comes. `None` when nobody changed.
    ///
    /// # Errors
    /// When the API cannot be asked, or what it says is not what the source's file declares; nothing is changed then.
    pub async fn ask(&self, now: DateTime<Utc>, all: bool) -> anyhow::Result<Option<ImportReport>> {
        let name = self.source.name();
        let stored = self.database.directory.pull_mark(name).await?;
        // What cannot be read is as good as lost.
        let mark: Option<Mark> = stored.and_then(|row| serde_json::from_value(row.mark).ok());
        let today = now.with_timezone(&self.source.zone()).date_naive();
        let known = mark.as_ref().filter(|_| !all);
        let fetched = fetch::fetch(&self.http, &self.pull, known, (now, today)).await?;
        if fetched.rows.is_empty() {
            ensure!(
                !fetched.complete,
                "the API gave nobody; nothing is inferred from that: if really everybody has left, send their events"
            );
            self.keep(&fetched.mark, now).await?;
            self.intake.heard(name, now, false).await?;
            return Ok(None);
        }
        let report = self.take_in(fetched.rows, fetched.complete, now).await?;
        // Whoever rejects it wants to be asked again by what comes next.
        if !matches!(report.status, ImportStatus::WaitingForApproval { .. }) {
            self.keep(&fetched.mark, now).await?;
        }
        Ok(Some(report))
    }

    async fn keep(&self, mark: &Mark, now: DateTime<Utc>) -> anyhow::Result<()> {
        let mark = serde_json::to_value(mark)?;
        let directory = &self.database.directory;
        Ok(directory
            .put_pull_mark(self.source.name(), mark, now)
            .await?)
    }

    /// Fetches the people that hints were about, long enough ago that no more are to be expected.
    ///
    /// # Errors
    /// When one of them cannot be fetched; their hints stay.
    pub async fn follow_hints(&self, now: DateTime<Utc>) -> anyhow::Result<Option<ImportReport>> {
        let Some(hints) = &self.pull.hints else {
            return Ok(None);
        };
        let directory = &self.database.directory;
        let until = now - hints.coalesce().delta();
        let due = directory
            .hints_due(self.source.name(), until, HINTS_AT_ONCE)
            .await?;
        if due.is_empty() {
            return Ok(None);
        }
        let today = now.with_timezone(&self.source.zone()).date_naive();
        let mut rows = Vec::new();
        let mut done: Vec<HintRow> = Vec::new();
        let mut stopped = None;
        for hint in due {
            match fetch::one(&self.http, &self.pull, &hint.hint_id, today).await {
                // That the API knows them no more is no proof that they left: everybody is asked for now and then.
                Ok(row) => {
                    rows.extend(row);
                    done.push(hint);
                }
                Err(error) => {
                    stopped = Some(error);
                    break;
                }
            }
        }
        let report = if rows.is_empty() {
            None
        } else {
            Some(self.take_in(rows, false, now).await?)
        };
        directory.hints_done(&done).await?;
        match (report, stopped) {
            (None, Some(error)) => Err(error),
            (report, _) => Ok(report),
        }
    }

    async fn take_in(
        &self,
        mut rows: Vec<Map<String, Value>>,
        complete: bool,
        now: DateTime<Utc>,
    ) -> anyhow::Result<ImportReport> {
        if !complete {
            // Few people may have nothing to say about a member that others have.
            for row in &mut rows {
                for column in self.source.column_names() {
                    row.entry(column).or_insert(Value::Null);
                }
            }
        }
        let mut bytes = Vec::new();
        for row in rows {
            serde_json::to_writer(&mut bytes, &row)?;
            bytes.push(b'\n');
        }
        let manifest = Manifest {
            as_of: Some(Stated::Moment(now)),
            complete: Some(complete),
            ..Manifest::default()
        };
        let file = format!("pull-{}", self.source.name());
        let asked = Arc::clone(&self.source);
        let snapshot = tokio::task::spawn_blocking(move || {
            let input = SnapshotInput {
                file: &file,
                manifest: Some(&manifest),
                as_of: None,
                limits: Limits::default(),
            };
            read_snapshot(&asked, bytes.as_slice(), &input)
        })
        .await?;
        let snapshot = snapshot.map_err(Mistaken)?;
        let by = Actor(format!("source:{}", self.source.name()));
        let taken = self
            .intake
            .import_snapshot(&self.source, &snapshot, &by, now)
            .await?;
        Ok(taken)
    }
}

/// Until when the server wants to be left alone.
fn left_alone(error: &anyhow::Error) -> Instant {
    let slower = error
        .chain()
        .find_map(|cause| cause.downcast_ref::<Slower>());
    Instant::now() + slower.map_or(Duration::ZERO, |slower| slower.0)
}
