//! Reading the states that metrics show: what waits, what is stuck, who is away.
//!
//! The database is asked at most once in [`FRESH`], however many scrape. Numbers that come from it are those of the whole
//! installation, whichever node tells them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use connectors::layer::Availability;
use engine::core::Timestamp;
use engine::core::case::CaseState;
use engine::core::duration::Span;
use engine::runner::{Clock, NodeStatus};
use sqlx::Row as _;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;
use workflows::config::Configuration;
use workflows::directory::LeftOutReason;
use workflows::notices::NoticeState;
use workflows::systems::Systems;

use super::{CredentialScrape, Scrape, SourceScrape};
use crate::shell::Database;
use crate::shell::database::Readers;

/// How old an answer of the database may be.
const FRESH: Duration = Duration::from_secs(10);

/// The inbox is a queue that is nearly always empty.
const INBOX: &str = "SELECT count(*), min(received_at) FROM inbox";

/// Open cases are few beside all that ever were.
const OPEN_POSTGRES: &str = "
SELECT state.state, count(*)
  FROM case_open AS open
  JOIN case_state AS state ON state.shard_id = open.shard_id AND state.case_id = open.case_id
 GROUP BY state.state";
const OPEN_SQLITE: &str = "
SELECT state.state, count(*)
  FROM case_open AS open
  JOIN case_state AS state ON state.case_number = open.case_number
 GROUP BY state.state";

const PARKED_POSTGRES: &str = "
SELECT count(*), min(step.changed_at)
  FROM case_open AS open
  JOIN case_state AS state ON state.shard_id = open.shard_id AND state.case_id = open.case_id
  JOIN case_step AS step ON step.shard_id = open.shard_id AND step.case_id = open.case_id
 WHERE state.parked > 0 AND step.state = 'parked'";
const PARKED_SQLITE: &str = "
SELECT count(*), min(step.changed_at)
  FROM case_open AS open
  JOIN case_state AS state ON state.case_number = open.case_number
  JOIN case_step AS step ON step.case_number = open.case_number
 WHERE state.parked > 0 AND step.state = 'parked'";

const NOTICES: &str = "
SELECT state, count(*), min(due_at) FROM notice WHERE state NOT IN ('sent', 'void') GROUP BY state";

/// Files that wait for a person; and whether a source is believed.
const WAITING: &str =
    "SELECT source, count(*) FROM source_snapshot WHERE status = 'waiting' GROUP BY source";
const DOUBTED: &str = "SELECT source, 1 FROM source_doubt";
const POLICIES: &str = "
    SELECT 'policy', (SELECT count(*) FROM policy_version WHERE status = 'waiting')
        + (SELECT count(*) FROM policy_rollout WHERE status = 'waiting')";
const LEFT_OUT: &str = "SELECT reason, count(*), min(since) FROM policy_left_out GROUP BY reason";
const HEARD: &str = "SELECT source, coalesce(heard_at, known_since) FROM source_heard";

/// Where the states are read from. Cheap to clone.
#[derive(Clone)]
pub struct Look {
    inner: Arc<Inner>,
}

struct Inner {
    database: Database,
    systems: Arc<Systems>,
    /// How long each source may be silent.
    sources: Vec<(String, Option<Span>)>,
    node: watch::Receiver<NodeStatus>,
    clock: Arc<dyn Clock>,
    stored: Mutex<Option<(Instant, Stored)>>,
}

/// What the database says.
#[derive(Debug, Clone, Default)]
struct Stored {
    inbox_messages: u64,
    inbox_oldest: Option<Timestamp>,
    open_cases: Vec<(CaseState, u64)>,
    parked_steps: u64,
    parked_oldest: Option<Timestamp>,
    /// When each source was last heard, or since when it is expected.
    heard: BTreeMap<String, Timestamp>,
    /// By state, how many notices and since when the oldest is due.
    notices: Vec<(NoticeState, u64, Option<Timestamp>)>,
    /// How many differences of each source wait for a person; `policy` stands for the policy itself.
    waiting: BTreeMap<String, u64>,
    /// Sources that are not believed.
    doubted: BTreeSet<String>,
    /// By why rollouts left people out, how many and since when the first.
    left_out: Vec<(String, u64, Option<Timestamp>)>,
    credentials: CredentialScrape,
}

impl Look {
    #[must_use]
    pub fn new(
        database: Database,
        configuration: &Configuration,
        node: watch::Receiver<NodeStatus>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let inner = Inner {
            database,
            systems: Arc::clone(&configuration.systems),
            sources: configuration
                .sources
                .values()
                .map(|source| (source.name().to_owned(), source.silent_after()))
                .collect(),
            node,
            clock,
            stored: Mutex::new(None),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// The states of now.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn now(&self) -> Result<Scrape, sqlx::Error> {
        let inner = &self.inner;
        let stored = self.stored().await?;
        let now = inner.clock.now();
        let age_s = |since: Option<Timestamp>| {
            since.map_or(0.0, |since| (now - since).as_seconds_f64().max(0.0))
        };
        let held = inner.systems.iter().map(|system| {
            let availability = system.connector().availability();
            let held = matches!(availability, Availability::HeldUntil { .. });
            (system.name().to_owned(), held)
        });
        let sources = inner.sources.iter().filter_map(|(name, silent_after)| {
            let since = *stored.heard.get(name)?;
            Some(SourceScrape {
                name: name.clone(),
                heard_age_s: age_s(Some(since)),
                silent: silent_after.map(|after| since + after.delta() <= now),
                doubted: stored.doubted.contains(name),
            })
        });
        let unfinished = NoticeState::ALL
            .into_iter()
            .filter(|state| !matches!(state, NoticeState::Sent | NoticeState::Void));
        let notices = unfinished.map(|state| {
            let found = stored.notices.iter().find(|(other, ..)| *other == state);
            let (count, oldest) = found.map_or((0, None), |(_, count, oldest)| (*count, *oldest));
            (state.as_str(), count, age_s(oldest))
        });
        let left_out = LeftOutReason::ALL.map(|reason| {
            let mut rows = stored.left_out.iter();
            let found = rows.find(|(name, ..)| name == reason.as_str());
            let (count, oldest) = found.map_or((0, None), |(_, count, oldest)| (*count, *oldest));
            (reason.as_str(), count, age_s(oldest))
        });
        Ok(Scrape {
            at: now,
            left_out: left_out.into(),
            notices: notices.collect(),
            sources: sources.collect(),
            node: inner.node.borrow().clone(),
            held: held.collect(),
            inbox_age_s: age_s(stored.inbox_oldest),
            inbox_messages: stored.inbox_messages,
            open_cases: stored.open_cases,
            parked_steps: stored.parked_steps,
            parked_age_s: age_s(stored.parked_oldest),
            guard_waiting: stored.waiting,
            credentials: stored.credentials,
        })
    }

    /// What the database says, asked by one at a time.
    async fn stored(&self) -> Result<Stored, sqlx::Error> {
        let mut kept = self.inner.stored.lock().await;
        if let Some((asked, stored)) = &*kept
            && asked.elapsed() < FRESH
        {
            return Ok(stored.clone());
        }
        let (database, now) = (&self.inner.database, self.inner.clock.now());
        let mut stored = read(database).await?;
        stored.credentials = CredentialScrape::read(database, now).await?;
        *kept = Some((Instant::now(), stored.clone()));
        Ok(stored)
    }
}

async fn read(database: &Database) -> Result<Stored, sqlx::Error> {
    let (inbox, open, parked, heard, notices, mut waiting, doubted, policies, left_out) =
        match database.readers() {
            Readers::Postgres(pool) => {
                let pair = |row: sqlx::postgres::PgRow| Ok((row.try_get(0)?, row.try_get(1)?));
                let open = sqlx::query_as(OPEN_POSTGRES).fetch_all(pool).await?;
                let inbox = sqlx::query(INBOX).fetch_one(pool).await.and_then(pair)?;
                let parked = sqlx::query(PARKED_POSTGRES).fetch_one(pool).await;
                let heard = sqlx::query_as(HEARD).fetch_all(pool).await?;
                let notices = sqlx::query_as(NOTICES).fetch_all(pool).await?;
                let waiting = sqlx::query_as(WAITING).fetch_all(pool).await?;
                let doubted = sqlx::query_as(DOUBTED).fetch_all(pool).await?;
                let policies = sqlx::query_as(POLICIES).fetch_all(pool).await?;
                let left_out = sqlx::query_as(LEFT_OUT).fetch_all(pool).await?;
                let parked = parked.and_then(pair)?;
                (
                    inbox, open, parked, heard, notices, waiting, doubted, policies, left_out,
                )
            }
            Readers::Sqlite(pool) => {
                let pair = |row: sqlx::sqlite::SqliteRow| {
                    let micros: Option<i64> = row.try_get(1)?;
                    Ok((
                        row.try_get(0)?,
                        micros.and_then(Timestamp::from_timestamp_micros),
                    ))
                };
                let open = sqlx::query_as(OPEN_SQLITE).fetch_all(pool).await?;
                let inbox = sqlx::query(INBOX).fetch_one(pool).await.and_then(pair)?;
                let parked = sqlx::query(PARKED_SQLITE).fetch_one(pool).await;
                let heard = sqlx::query_as(HEARD).fetch_all(pool).await?;
                let notices = sqlx::query_as(NOTICES).fetch_all(pool).await?;
                let waiting = sqlx::query_as(WAITING).fetch_all(pool).await?;
                let doubted = sqlx::query_as(DOUBTED).fetch_all(pool).await?;
                let policies = sqlx::query_as(POLICIES).fetch_all(pool).await?;
                let left_out = sqlx::query_as(LEFT_OUT).fetch_all(pool).await?;
                let parked = parked.and_then(pair)?;
                (
                    inbox, open, parked, heard, notices, waiting, doubted, policies, left_out,
                )
            }
        };
    let policies: Vec<(String, i64)> = policies;
    waiting.extend(policies);
    let waiting: Vec<(String, i64)> = waiting;
    let doubted: Vec<(String, i32)> = doubted;
    let (inbox, parked): ((i64, Option<Timestamp>), (i64, Option<Timestamp>)) = (inbox, parked);
    let count = |number: i64| u64::try_from(number).unwrap_or(0);
    let open: Vec<(String, i64)> = open;
    let heard: Vec<(String, Timestamp)> = heard;
    let notices: Vec<(String, i64, Option<Timestamp>)> = notices;
    let left_out: Vec<(String, i64, Option<Timestamp>)> = left_out;
    let left_out = left_out.into_iter();
    let left_out = left_out.map(|(reason, number, since)| (reason, count(number), since));
    let notices = notices.into_iter().filter_map(|(state, number, oldest)| {
        Some((NoticeState::parse(&state)?, count(number), oldest))
    });
    let state = |(name, number): (String, i64)| {
        let known = CaseState::ALL.iter().find(|state| state.as_str() == name);
        known.map(|state| (*state, count(number)))
    };
    Ok(Stored {
        inbox_messages: count(inbox.0),
        inbox_oldest: inbox.1,
        open_cases: open.into_iter().filter_map(state).collect(),
        parked_steps: count(parked.0),
        parked_oldest: parked.1,
        heard: heard.into_iter().collect(),
        notices: notices.collect(),
        waiting: waiting
            .into_iter()
            .map(|(source, number)| (source, count(number)))
            .collect(),
        doubted: doubted.into_iter().map(|(source, _)| source).collect(),
        left_out: left_out.collect(),
        credentials: CredentialScrape::default(),
    })
}
