//! The configured sources and whether they are heard, for people and machines.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, NaiveDate, Utc};
use engine::store::StoreError;
use serde::Serialize;
use utoipa::ToSchema;
use workflows::directory::{Directory, DoubtRow, HeardRow, PullMarkRow, SnapshotRow};
use workflows::sources::Source;

/// How many files of a source its detail shows.
pub const FILES_SHOWN: u32 = 10;

/// Whether a source is heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Voice {
    Heard,
    /// Nothing good ever came from it, and it is not yet overdue.
    NeverHeard,
    /// For longer than its `silent_after`.
    Silent,
    /// What it delivered last is not believed.
    Doubted,
}

impl Voice {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Heard => "heard",
            Self::NeverHeard => "never_heard",
            Self::Silent => "silent",
            Self::Doubted => "doubted",
        }
    }
}

/// One source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct SourceView {
    pub name: String,
    pub state: Voice,
    /// How its files are written: `csv`, `json` or `jsonl`; `scim` when its people are pushed, `query` when it is a database
    /// that is asked, `pull` when it is an API.
    pub format: &'static str,
    /// Whether it may sign events.
    pub signs: bool,
    /// How long it may be silent; null when nobody watches.
    pub silent_after: Option<String>,
    /// When something good last came from it: a file, an event, a heartbeat; a few seconds behind at most.
    pub heard_at: Option<DateTime<Utc>>,
    /// When something new last came from it.
    pub news_at: Option<DateTime<Utc>>,
    /// From when on it counts as silent, if nothing more comes.
    pub silent_from: Option<DateTime<Utc>>,
    /// Since when it is expected to be heard; null until a node ran with it.
    pub known_since: Option<DateTime<Utc>>,
    /// The day of the last file that was applied.
    pub as_of: Option<NaiveDate>,
    /// When it was last asked, of one that is; and up to where changes were asked for, by its own clock.
    pub asked_at: Option<DateTime<Utc>>,
    pub cursor: Option<String>,
    /// Why it is not believed, and what to do; null when it is.
    pub doubt: Option<String>,
    pub doubted_since: Option<DateTime<Utc>>,
}

/// One source with its last files.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct SourceDetail {
    #[serde(flatten)]
    pub source: SourceView,
    /// IANA zone in which its days begin and end.
    pub time_zone: String,
    /// Newest first, at most [`FILES_SHOWN`].
    #[schema(value_type = Vec<Object>)]
    pub files: Vec<SnapshotRow>,
}

/// All configured sources, by name.
///
/// # Errors
/// When the database does not answer.
pub async fn sources(
    directory: &Directory,
    configured: &BTreeMap<String, Arc<Source>>,
    now: DateTime<Utc>,
) -> Result<Vec<SourceView>, StoreError> {
    let heard = directory.heard().await?;
    let positions = directory.source_days().await?;
    let doubts = directory.doubts().await?;
    let marks = directory.pull_marks().await?;
    let views = configured.values().map(|source| {
        let row = heard.iter().find(|row| row.source == source.name());
        let doubt = doubts.iter().find(|row| row.source == source.name());
        let as_of = positions.get(source.name()).copied();
        let mark = marks.iter().find(|row| row.source == source.name());
        view(source, (row, doubt, mark), as_of, now)
    });
    Ok(views.collect())
}

/// One configured source.
///
/// # Errors
/// When the database does not answer.
pub async fn detail(
    directory: &Directory,
    source: &Source,
    now: DateTime<Utc>,
) -> Result<SourceDetail, StoreError> {
    let heard = directory.heard().await?;
    let row = heard.iter().find(|row| row.source == source.name());
    let as_of = directory.source_days().await?.get(source.name()).copied();
    let doubts = directory.doubts().await?;
    let doubt = doubts.iter().find(|row| row.source == source.name());
    let mark = directory.pull_mark(source.name()).await?;
    let name = Some(source.name());
    Ok(SourceDetail {
        source: view(source, (row, doubt, mark.as_ref()), as_of, now),
        time_zone: source.zone().name().to_owned(),
        files: directory.snapshots(name, false, FILES_SHOWN).await?,
    })
}

fn view(
    source: &Source,
    (row, doubt, mark): (Option<&HeardRow>, Option<&DoubtRow>, Option<&PullMarkRow>),
    as_of: Option<NaiveDate>,
    now: DateTime<Utc>,
) -> SourceView {
    let silent_from = row
        .zip(source.silent_after())
        .map(|(row, after)| row.silent_from(after));
    let heard_at = row.and_then(|row| row.heard_at);
    SourceView {
        name: source.name().to_owned(),
        state: match heard_at {
            _ if doubt.is_some() => Voice::Doubted,
            _ if silent_from.is_some_and(|from| from <= now) => Voice::Silent,
            Some(_) => Voice::Heard,
            None => Voice::NeverHeard,
        },
        format: match (source.query(), source.format()) {
            _ if source.pull().is_some() => "pull",
            (Some(_), _) => "query",
            (None, Some(format)) => format.as_str(),
            (None, None) => "scim",
        },
        signs: source.signature().is_some(),
        silent_after: source.silent_after().map(|span| span.to_string()),
        heard_at,
        news_at: row.and_then(|row| row.news_at),
        silent_from,
        known_since: row.map(|row| row.known_since),
        as_of,
        asked_at: mark.map(|row| row.asked_at),
        cursor: mark.and_then(|row| {
            let since = row.mark.get("changed_since")?;
            since.as_str().map(str::to_owned)
        }),
        doubt: doubt.map(|row| row.reason.clone()),
        doubted_since: doubt.map(|row| row.since),
    }
}
