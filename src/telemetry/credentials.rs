//! What metrics show of the credentials of non-human identities, and of their replacement.

use chrono::{SecondsFormat, TimeDelta};
use engine::core::Timestamp;
use workflows::rotation::Phase;

use crate::shell::Database;
use crate::shell::database::Readers;

/// Within which times ends are counted; each has those of the shorter ones in it.
pub const HORIZONS: [(&str, TimeDelta); 4] = [
    ("1d", TimeDelta::days(1)),
    ("7d", TimeDelta::days(7)),
    ("30d", TimeDelta::days(30)),
    ("90d", TimeDelta::days(90)),
];

/// The phases in which a rotation may stand while its case is open.
pub const OPEN: [Phase; 15] = [
    Phase::Scheduled,
    Phase::Preflight,
    Phase::Approved,
    Phase::Minted,
    Phase::Staged,
    Phase::Verified,
    Phase::Promoted,
    Phase::Overlap,
    Phase::Quiesced,
    Phase::OldDisabled,
    Phase::Soaked,
    Phase::OldDestroyed,
    Phase::Blocked,
    Phase::RollingBack,
    Phase::Irrevocable,
];

const UNDER_WAY: &str =
    "SELECT phase, count(*) FROM rotation WHERE open_case IS NOT NULL GROUP BY phase";

/// Since when the one waits that waits longest for its new one to be in use.
const OVERDUE: &str =
    "SELECT min(due_at) FROM rotation WHERE wanted AND planned AND promoted_at IS NULL";

const ENDS: &str = "
SELECT count(*) FILTER (WHERE expires_at <= $1),
       count(*) FILTER (WHERE expires_at > $1 AND expires_at <= $2),
       count(*) FILTER (WHERE expires_at > $1 AND expires_at <= $3),
       count(*) FILTER (WHERE expires_at > $1 AND expires_at <= $4),
       count(*) FILTER (WHERE expires_at > $1)
  FROM nhi_credential
 WHERE status <> 'ended' AND status = 'active' AND expires_at <= $5";

/// Expired ones that were seen in use since.
const IN_USE: &str = "
SELECT count(DISTINCT c.name)
  FROM nhi_credential AS c
  JOIN graph_edge AS e ON e.to_node = 'credential:' || c.name
   AND e.relation = 'uses' AND e.confidence = 'observed' AND e.last_seen_at > c.expires_at
 WHERE c.status <> 'ended' AND c.status = 'active' AND c.expires_at <= $1";

/// The states of credentials and rotations, of the whole installation.
#[derive(Debug, Clone, Default)]
pub struct CredentialScrape {
    /// Rotations under way, by the phase that was reached last.
    pub under_way: Vec<(Phase, u64)>,
    pub overdue_age_s: f64,
    pub expired: u64,
    pub expired_in_use: u64,
    /// How many end within each horizon, those of the shorter ones among them.
    pub expiring: Vec<(&'static str, u64)>,
}

impl CredentialScrape {
    pub(super) async fn read(database: &Database, now: Timestamp) -> Result<Self, sqlx::Error> {
        let moments = [TimeDelta::zero()]
            .into_iter()
            .chain(HORIZONS.map(|(_, length)| length))
            .map(|ahead| now + ahead);
        let (under_way, overdue, ends, in_use) = match database.readers() {
            Readers::Postgres(pool) => {
                let under_way = sqlx::query_as(UNDER_WAY).fetch_all(pool).await?;
                let overdue = sqlx::query_scalar(OVERDUE).fetch_one(pool).await?;
                let asked = moments.fold(sqlx::query_as(ENDS), |query, at| query.bind(at));
                let ends = asked.fetch_one(pool).await?;
                let asked = sqlx::query_scalar(IN_USE).bind(now);
                (under_way, overdue, ends, asked.fetch_one(pool).await?)
            }
            Readers::Sqlite(pool) => {
                let text = |at: Timestamp| at.to_rfc3339_opts(SecondsFormat::Micros, true);
                let under_way = sqlx::query_as(UNDER_WAY).fetch_all(pool).await?;
                let overdue = sqlx::query_scalar(OVERDUE).fetch_one(pool).await?;
                let asked = moments.fold(sqlx::query_as(ENDS), |query, at| query.bind(text(at)));
                let ends = asked.fetch_one(pool).await?;
                let asked = sqlx::query_scalar(IN_USE).bind(text(now));
                (under_way, overdue, ends, asked.fetch_one(pool).await?)
            }
        };
        let under_way: Vec<(String, i64)> = under_way;
        let overdue: Option<Timestamp> = overdue;
        let (expired, day, week, month, quarter): (i64, i64, i64, i64, i64) = ends;
        let in_use: i64 = in_use;
        let count = |number: i64| u64::try_from(number).unwrap_or(0);
        let of = |phase: Phase| {
            let found = under_way.iter().find(|(name, _)| name == phase.as_str());
            (phase, found.map_or(0, |(_, number)| count(*number)))
        };
        let expiring = HORIZONS.into_iter().zip([day, week, month, quarter]);
        Ok(Self {
            under_way: OPEN.map(of).into(),
            overdue_age_s: overdue.map_or(0.0, |due| (now - due).as_seconds_f64().max(0.0)),
            expired: count(expired),
            expired_in_use: count(in_use),
            expiring: expiring
                .map(|((name, _), number)| (name, count(number)))
                .collect(),
        })
    }
}
