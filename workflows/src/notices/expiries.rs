//! Credentials that end before long: told to more people the nearer the end is, each moment of it once.
//!
//! A notice follows from the credential, its end and the moment, so looking again, another node and another life of this one make
//! no second. After a time without a node only the moment that came last is told. What is replaced by itself in time is told
//! only at the last moment: until then nobody has to do anything about it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use connectors::connector::CredentialKind;
use engine::store::StoreError;
use serde::Deserialize;
use serde_json::json;

use super::cause::about_credential;
use super::outbox::Outbox;
use super::recipient::Recipient;
use super::{NoticeRow, Notices};
use crate::directory::RotationRow;
use crate::directory::database::{Sql, stored_time, time_text};
use crate::nhi::hygiene::{Answering, tell_end};
use crate::policy::{CredentialRule, horizons};
use crate::rotation::Phase;

/// The most credentials that are read at once.
const PAGE_ROWS: u32 = 500;
/// What the last moment is called.
const EXPIRED: &str = "expired";

/// Looks for credentials that end before long.
pub struct Expiries {
    outbox: Outbox,
    notices: Arc<Notices>,
    rules: Vec<CredentialRule>,
}

/// A credential that ends, and who answers for it.
#[derive(Debug, Clone, Deserialize)]
struct Ending {
    shard_id: i32,
    nhi_key: String,
    name: String,
    kind: CredentialKind,
    environment: String,
    owner: String,
    backup: String,
    team: String,
    #[serde(default)]
    sponsor: Option<String>,
    #[serde(with = "stored_time")]
    expires_at: DateTime<Utc>,
}

/// The moment of an end that came last.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Moment {
    at: DateTime<Utc>,
    /// How long before the end; none when that is over.
    before: Option<String>,
    /// The how many-th of how many.
    told: usize,
    of: usize,
}

impl Moment {
    /// `None` while the end is further away than anybody is told.
    fn of(
        rules: &[CredentialRule],
        kind: CredentialKind,
        environment: &str,
        end: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Option<Self> {
        let horizons = horizons(rules, kind, environment);
        let of = horizons.len();
        if end <= now && of > 0 {
            return Some(Self {
                at: end,
                before: None,
                told: of + 1,
                of,
            });
        }
        let mut moments = horizons.iter().enumerate();
        let (place, before) = moments.rfind(|(_, span)| end - span.delta() <= now)?;
        Some(Self {
            at: end - before.delta(),
            before: Some(before.to_string()),
            told: place + 1,
            of,
        })
    }

    fn is_last(&self) -> bool {
        self.told >= self.of
    }
}

impl Expiries {
    #[must_use]
    pub fn new(outbox: Outbox, notices: Arc<Notices>, rules: Vec<CredentialRule>) -> Self {
        Self {
            outbox,
            notices,
            rules,
        }
    }

    /// Looks at the credentials of these shards; gives how many notices are new.
    ///
    /// # Errors
    /// When the database does not answer; what was told until then stays told.
    pub async fn look(&self, shards: &[i32], now: DateTime<Utc>) -> Result<usize, StoreError> {
        let longest = self.rules.iter().filter_map(CredentialRule::horizon).max();
        let (Some(longest), Some(settings)) = (longest, self.notices.settings()) else {
            return Ok(0);
        };
        // A notice of longer ago may be forgotten by now, and would be told again.
        let keep = settings.keep.delta();
        let (mut new, mut after) = (0, None);
        loop {
            let page = self
                .page(shards, now - keep, now + longest.delta(), after.as_ref())
                .await?;
            let told = self.told(&page, keep, now).await?;
            let known = self.outbox.known(&told).await?;
            let missing: Vec<NoticeRow> = told
                .into_iter()
                .filter(|row| !known.contains(&row.notice_id))
                .collect();
            if !missing.is_empty() {
                self.outbox.put(&missing).await?;
            }
            new += missing.len();
            match page.into_iter().next_back() {
                Some(last) => after = Some((last.expires_at, last.name)),
                None => return Ok(new),
            }
        }
    }

    async fn page(
        &self,
        shards: &[i32],
        from: DateTime<Utc>,
        until: DateTime<Utc>,
        after: Option<&(DateTime<Utc>, String)>,
    ) -> Result<Vec<Ending>, StoreError> {
        let (at, after) = after.map_or((from, ""), |(at, name)| (*at, name.as_str()));
        let parameter = json!({
            "shards": shards,
            "at": time_text(at),
            "after": after,
            "until": time_text(until),
            "limit": PAGE_ROWS,
        });
        let reader = self.outbox.directory().reader();
        reader.rows(&ENDING, &parameter).await
    }

    async fn told(
        &self,
        endings: &[Ending],
        keep: TimeDelta,
        now: DateTime<Utc>,
    ) -> Result<Vec<NoticeRow>, StoreError> {
        let moments = endings.iter().filter_map(|ending| {
            let (kind, end) = (ending.kind, ending.expires_at);
            let moment = Moment::of(&self.rules, kind, &ending.environment, end, now)?;
            (now < moment.at + keep).then_some((ending, moment))
        });
        let moments: Vec<(&Ending, Moment)> = moments.collect();
        let early = moments.iter().filter(|(_, moment)| !moment.is_last());
        let early: BTreeSet<&str> = early.map(|(ending, _)| ending.name.as_str()).collect();
        let directory = self.outbox.directory();
        let rotations: BTreeMap<String, RotationRow> = directory.rotations_of(early).await?;
        let rows = moments.iter().flat_map(|(ending, moment)| {
            let rotation = rotations.get(&ending.name);
            if rotation.is_some_and(|row| by_itself(row, ending.expires_at)) {
                return Vec::new();
            }
            ending.told(moment, &self.notices, now)
        });
        Ok(rows.collect())
    }
}

/// Whether nobody has to do anything for it to be replaced before `end`.
fn by_itself(row: &RotationRow, end: DateTime<Utc>) -> bool {
    let goes_on = row.open_case.is_some()
        && !matches!(
            row.phase,
            Phase::Blocked | Phase::Irrevocable | Phase::RollingBack
        );
    let begins = row.open_case.is_none() && row.starts_at.is_some_and(|at| at < end);
    row.wanted && row.failures == 0 && (goes_on || begins)
}

impl Ending {
    fn told(&self, moment: &Moment, notices: &Notices, now: DateTime<Utc>) -> Vec<NoticeRow> {
        let answering = Answering {
            owner: &self.owner,
            backup: &self.backup,
            team: &self.team,
            sponsor: self.sponsor.as_deref(),
        };
        let to = tell_end(&answering, moment.told, moment.of);
        let to = to.iter().map(|one| Recipient::asked(one)).collect();
        let step = moment.before.as_deref().unwrap_or(EXPIRED);
        let root = format!(
            "credential/{}/{}/{}/{step}",
            self.nhi_key,
            self.name,
            time_text(self.expires_at)
        );
        let vars = json!({
            "credential": self.name,
            "kind": self.kind.as_str(),
            "nhi": self.nhi_key,
            "environment": self.environment,
            "team": self.team,
            "owner": self.owner,
            "end": self.expires_at,
            "before": moment.before,
            "expired": moment.before.is_none(),
        });
        let mut rows = about_credential(self.shard_id, &root, to, &vars, notices, now);
        for row in &mut rows {
            row.urgent |= moment.is_last();
        }
        rows
    }
}

/// In the order of the end; those after `at` and `after`.
const ENDING: Sql = Sql {
    table: "nhi_credential",
    postgres: "
        SELECT jsonb_build_object('shard_id', c.shard_id, 'nhi_key', c.nhi_key, 'name', c.name, 'kind', c.kind,
            'environment', n.environment, 'owner', n.owner, 'backup', n.backup, 'team', n.team,
            'sponsor', n.declared->>'sponsor', 'expires_at', c.expires_at)::text
        FROM nhi_credential AS c
        JOIN nhi AS n ON n.shard_id = c.shard_id AND n.nhi_key = c.nhi_key
        WHERE c.status <> 'ended' AND c.status = 'active' AND n.status <> 'retired'
          AND c.shard_id = ANY (ARRAY(SELECT jsonb_array_elements_text($1::jsonb->'shards')::int))
          AND c.expires_at >= ($1::jsonb->>'at')::timestamptz
          AND c.expires_at <= ($1::jsonb->>'until')::timestamptz
          AND (c.expires_at, c.name COLLATE \"C\") > (($1::jsonb->>'at')::timestamptz, $1::jsonb->>'after')
        ORDER BY c.expires_at, c.name COLLATE \"C\" LIMIT ($1::jsonb->>'limit')::bigint",
    sqlite: "
        SELECT json_object('shard_id', c.shard_id, 'nhi_key', c.nhi_key, 'name', c.name, 'kind', c.kind,
            'environment', n.environment, 'owner', n.owner, 'backup', n.backup, 'team', n.team,
            'sponsor', n.declared ->> 'sponsor', 'expires_at', c.expires_at)
        FROM nhi_credential AS c
        JOIN nhi AS n ON n.shard_id = c.shard_id AND n.nhi_key = c.nhi_key
        WHERE c.status <> 'ended' AND c.status = 'active' AND n.status <> 'retired'
          AND c.shard_id IN (SELECT value FROM json_each(?1 -> 'shards'))
          AND c.expires_at >= ?1 ->> 'at' AND c.expires_at <= ?1 ->> 'until'
          AND (c.expires_at, c.name) > (?1 ->> 'at', ?1 ->> 'after')
        ORDER BY c.expires_at, c.name LIMIT ?1 ->> 'limit'",
};
