//! Planning the replacement of credentials: when each begins, spread over the windows they share.
//!
//! What is not planned is planned in rounds of one transaction each. How many begin in a window already is looked up once and then
//! counted along, so that those of later rounds, and of later days, take the places that are left.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use engine::core::Timestamp;
use engine::store::{InboxRow, StoreError, Transaction, Work};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Directory;
use super::database::{execute_all, rows_in, stored_time, stored_time_option, time_text};
use super::rotation_statements::{FORGET_KNOWN, PLAN, PLANNED_IN, REPLACED, UNPLANNED};
use super::rotations::{AT_ONCE_MAX, ROUNDS_MAX, RotationRow};
use crate::nhi::graph::Node;
use crate::rotation::spread::spread;
use crate::rotation::window::Open;
use crate::rotation::{self, Because, Phase, Planned};

#[derive(Serialize)]
struct PlanRow {
    shard_id: i32,
    name: String,
    because: Option<Because>,
    #[serde(with = "stored_time_option")]
    due_at: Option<Timestamp>,
    jitter_s: Option<i64>,
    past_window: bool,
    #[serde(with = "stored_time_option")]
    starts_at: Option<Timestamp>,
    #[serde(with = "stored_time")]
    changed_at: Timestamp,
}

/// A secret that is replaced: what was known of it before is worth nothing.
#[derive(Serialize)]
struct Forgotten {
    shard_id: i32,
    to_node: Node,
    #[serde(with = "stored_time")]
    before: Timestamp,
}

/// A credential that is replaced: since when the one in use is used, and until when it is good.
#[derive(Serialize)]
struct Replaced<'a> {
    shard_id: i32,
    nhi_key: &'a str,
    name: &'a str,
    #[serde(with = "stored_time")]
    issued_at: Timestamp,
    #[serde(with = "stored_time_option")]
    expires_at: Option<Timestamp>,
    #[serde(with = "stored_time")]
    changed_at: Timestamp,
}

/// How many begin in each window already.
type Taken = BTreeMap<Open, u64>;

struct Planning<'a> {
    directory: &'a Directory,
    now: Timestamp,
    taken: Taken,
    planned: Mutex<(usize, Taken)>,
}

#[derive(Deserialize)]
struct TakenRow {
    place: usize,
    planned: u64,
}

/// How many begin in windows that nobody has looked at before.
async fn look_into(
    transaction: &mut Transaction<'_>,
    windows: &[Open],
    taken: &mut Taken,
) -> Result<(), StoreError> {
    if windows.is_empty() {
        return Ok(());
    }
    let asked = (0_usize..).zip(windows).map(|(place, open)| {
        json!({ "place": place, "opens": time_text(open.from), "closes": time_text(open.until) })
    });
    let asked: Vec<Value> = asked.collect();
    let found: Vec<TakenRow> = rows_in(transaction, &PLANNED_IN, &asked).await?;
    let named = found
        .iter()
        .filter_map(|row| Some((*windows.get(row.place)?, row.planned)));
    taken.extend(named);
    Ok(())
}

#[async_trait::async_trait]
impl Work for Planning<'_> {
    async fn run(&self, transaction: &mut Transaction<'_>) -> Result<Vec<InboxRow>, StoreError> {
        let limit = json!({ "limit": AT_ONCE_MAX });
        let rows: Vec<RotationRow> = rows_in(transaction, &UNPLANNED, &limit).await?;
        let plan = |row: &RotationRow| match row.exposed_at {
            Some(known_at) => Some(rotation::at_once(&row.facts(), known_at, self.now)),
            None => rotation::plan(&row.declared, &row.facts(), &row.name, self.now),
        };
        let planned: Vec<(&RotationRow, Option<Planned>)> =
            rows.iter().map(|row| (row, plan(row))).collect();
        let together = together(&planned, self.now);
        let mut taken = self.taken.clone();
        let unknown = together.keys().filter(|open| !taken.contains_key(*open));
        let unknown: Vec<Open> = unknown.copied().collect();
        look_into(transaction, &unknown, &mut taken).await?;
        let plans = plans(planned, &together, &mut taken, self.now);
        execute_all(transaction, &PLAN, &plans).await?;
        let replaced = rows.iter().filter(|row| row.phase == Phase::Closed);
        let lasts: Vec<Replaced<'_>> = replaced
            .clone()
            .filter_map(|row| {
                Some(Replaced {
                    shard_id: self.directory.shard(&row.nhi_key),
                    nhi_key: &row.nhi_key,
                    name: &row.name,
                    issued_at: row.last_rotated_at?,
                    expires_at: row.expires_at,
                    changed_at: self.now,
                })
            })
            .collect();
        execute_all(transaction, &REPLACED, &lasts).await?;
        let forgotten: Vec<Forgotten> = replaced
            .filter_map(|row| {
                Some(Forgotten {
                    shard_id: self.directory.shard(&row.name),
                    to_node: Node::credential(&row.name),
                    before: row.last_rotated_at?,
                })
            })
            .collect();
        execute_all(transaction, &FORGET_KNOWN, &forgotten).await?;
        *self.planned.lock().unwrap_or_else(PoisonError::into_inner) = (plans.len(), taken);
        Ok(Vec::new())
    }
}

/// Those of one window.
fn together<'a>(
    planned: &[(&'a RotationRow, Option<Planned>)],
    now: Timestamp,
) -> BTreeMap<Open, Vec<&'a str>> {
    let mut together: BTreeMap<Open, Vec<&str>> = BTreeMap::new();
    for (row, planned) in planned {
        // A window that is open already has a part of itself behind it.
        if let Some(open) = planned.and_then(|planned| planned.window) {
            let rest = Open {
                from: open.from.max(now),
                until: open.until,
            };
            together.entry(rest).or_default().push(&row.name);
        }
    }
    together
}

/// When each begins. Those of one window are spread over it, around those that begin in it already.
fn plans(
    planned: Vec<(&RotationRow, Option<Planned>)>,
    together: &BTreeMap<Open, Vec<&str>>,
    taken: &mut Taken,
    now: Timestamp,
) -> Vec<PlanRow> {
    let mut spread_at: BTreeMap<&str, Timestamp> = BTreeMap::new();
    for (open, names) in together {
        let before = taken.entry(*open).or_default();
        let times = spread(names.iter().copied(), *open, *before);
        // One alone begins where it was drawn.
        if *before > 0 || names.len() > 1 {
            spread_at.extend(times.into_iter().map(|(at, name)| (name, at)));
        }
        *before += u64::try_from(names.len()).unwrap_or(0);
    }
    let row = |(row, planned): (&RotationRow, Option<Planned>)| PlanRow {
        shard_id: row.shard_id,
        name: row.name.clone(),
        because: planned.map(|planned| planned.because),
        due_at: planned.map(|planned| planned.due_at),
        jitter_s: planned.map(|planned| planned.jitter.delta().num_seconds()),
        past_window: planned.is_some_and(|planned| planned.past_window),
        starts_at: planned.map(|planned| {
            let bounds = rotation::bounds(&row.declared, &row.facts(), now);
            let spread = spread_at.get(row.name.as_str()).copied();
            spread.filter(|at| bounds.hold(*at)).unwrap_or(planned.at)
        }),
        changed_at: now,
    };
    planned.into_iter().map(row).collect()
}

impl Directory {
    /// Plans what is not planned, tens of thousands at most; gives how many. 0: all is planned.
    ///
    /// # Errors
    /// When the database does not answer, or holds what this program cannot read.
    pub async fn plan_rotations(&self, now: Timestamp) -> Result<usize, StoreError> {
        let (mut planned, mut taken) = (0, Taken::new());
        for _ in 0..ROUNDS_MAX {
            let work = Planning {
                directory: self,
                now,
                taken,
                planned: Mutex::default(),
            };
            self.write(&work).await?;
            let (round, known) = work
                .planned
                .into_inner()
                .unwrap_or_else(PoisonError::into_inner);
            taken = known;
            planned += round;
            if round < AT_ONCE_MAX {
                break;
            }
        }
        Ok(planned)
    }
}
