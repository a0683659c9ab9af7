//! Reading, each in one instant.

use std::collections::{BTreeMap, BTreeSet};

use engine::core::Timestamp;
use engine::core::admission::OpenCase;
use engine::core::case::CaseState;
use engine::core::definition::Lane;
use engine::core::id::{CaseId, ShardId, StepIndex, Subject};
use engine::store::{
    CaseCursor, CaseFilter, CaseSummary, InboxRow, PAGE_ROWS_MAX, ParkedRow, StoreError,
    StoredCase, TimerRow, VersionRow, stored_time,
};

use super::Tables;
use super::commit::is_open;

pub(super) fn load(tables: &Tables, shard: ShardId, case: CaseId) -> Option<StoredCase> {
    let head = tables.heads.get(&(shard, case))?.clone();
    let state = tables.states.get(&(shard, case))?.clone();
    let steps = tables
        .steps
        .range((shard, case, 0, i64::MIN)..=(shard, case, u16::MAX, i64::MAX));
    Some(StoredCase {
        head,
        state,
        steps: steps.map(|(_, row)| row.clone()).collect(),
    })
}

/// Open cases in order of age.
fn open(tables: &Tables) -> Vec<CaseSummary> {
    let mut open: Vec<CaseSummary> = tables
        .states
        .iter()
        .filter(|(_, state)| is_open(state))
        .filter_map(|(key, state)| {
            Some(CaseSummary {
                head: tables.heads.get(key)?.clone(),
                state: state.clone(),
            })
        })
        .collect();
    open.sort_by_key(|case| (case.head.created_at, case.head.case));
    open
}

pub(super) fn restless(tables: &Tables, shards: &[ShardId]) -> Vec<(ShardId, CaseId)> {
    open(tables)
        .into_iter()
        .filter(|case| shards.contains(&case.head.shard))
        .filter(|case| case.state.in_flight > 0 || case.state.state == CaseState::Queued)
        .map(|case| (case.head.shard, case.head.case))
        .collect()
}

pub(super) fn open_cases(
    tables: &Tables,
    subjects: &[(ShardId, Subject)],
) -> Vec<(Subject, OpenCase)> {
    open(tables)
        .into_iter()
        .filter(|case| subjects.contains(&(case.head.shard, case.head.subject.clone())))
        .map(|case| {
            let open = OpenCase {
                id: case.head.case,
                workflow: case.head.workflow,
                state: case.state.state,
                lane: case.head.lane,
                generation: case.head.generation,
                created_at: case.head.created_at,
                paused: case.state.paused.is_some(),
            };
            (case.head.subject, open)
        })
        .collect()
}

/// What waits for people, longest first.
pub(super) fn parked(tables: &Tables, after: Option<ParkedRow>, limit: u32) -> Vec<ParkedRow> {
    let key = |row: &ParkedRow| {
        let step = row.step.map_or(-1, |step| i32::from(step.0));
        (row.at, row.case, step, row.instance.map_or(-1, i64::from))
    };
    let parked = tables.steps.values().filter(|row| {
        let state = tables.states.get(&(row.shard, row.case));
        state.is_some_and(|state| is_open(state) && state.parked > 0)
            && ["parked", "stuck"].contains(&row.state.as_str())
    });
    let paused = tables.states.values().filter_map(|state| {
        let pause = state.paused.as_ref()?;
        Some(ParkedRow {
            shard: state.shard,
            case: state.case,
            at: pause.at,
            step: None,
            instance: None,
        })
    });
    let mut rows: Vec<ParkedRow> = parked
        .map(|row| ParkedRow {
            shard: row.shard,
            case: row.case,
            at: row.changed_at,
            step: Some(StepIndex(row.step)),
            instance: row.instance,
        })
        .chain(paused)
        .filter(|row| after.is_none_or(|after| key(row) > key(&after)))
        .collect();
    rows.sort_by_key(key);
    rows.truncate(usize::try_from(limit).unwrap());
    rows
}

pub(super) fn timers(
    tables: &Tables,
    shards: &[ShardId],
    until: Timestamp,
    limit: u32,
) -> Vec<TimerRow> {
    let until = stored_time(until);
    let mut timers: Vec<TimerRow> = tables
        .timers
        .iter()
        .filter(|timer| timer.due <= until && shards.contains(&timer.shard))
        .copied()
        .collect();
    timers.sort_by_key(|timer| (timer.due, timer.case, timer.target));
    timers.truncate(usize::try_from(limit).unwrap());
    timers
}

pub(super) fn inbox(
    tables: &Tables,
    shards: &[ShardId],
    since: Option<Timestamp>,
    limit: u32,
) -> Vec<InboxRow> {
    let mut rows: Vec<InboxRow> = tables
        .inbox
        .values()
        .filter(|row| shards.contains(&row.shard))
        .filter(|row| since.is_none_or(|since| row.received_at >= since))
        .cloned()
        .collect();
    rows.sort_by_key(|row| (row.lane != Lane::Revocation, row.received_at, row.id));
    rows.truncate(usize::try_from(limit).unwrap());
    rows
}

pub(super) fn list(
    tables: &Tables,
    filter: &CaseFilter,
    after: Option<CaseCursor>,
    limit: u32,
) -> Result<Vec<CaseSummary>, StoreError> {
    if !filter.work.is_empty() {
        // What waits where is for people to search; nothing in this world does.
        return Err(StoreError::Refused(sqlx::Error::RowNotFound));
    }
    let states: BTreeSet<CaseState> = filter.states.iter().copied().collect();
    let mut found: Vec<CaseSummary> = tables
        .states
        .iter()
        .filter_map(|(key, state)| {
            Some(CaseSummary {
                head: tables.heads.get(key)?.clone(),
                state: state.clone(),
            })
        })
        .filter(|case| states.is_empty() || states.contains(&case.state.state))
        .filter(|case| {
            let wanted = filter.workflow.as_ref();
            wanted.is_none_or(|workflow| *workflow == case.head.workflow)
        })
        .filter(|case| {
            let wanted = filter.subject.as_ref();
            wanted.is_none_or(|subject| *subject == case.head.subject)
        })
        .filter(|case| {
            let wanted = filter.definition.as_ref();
            wanted.is_none_or(|hash| *hash == case.head.definition)
        })
        .filter(|case| {
            let created = case.head.created_at;
            filter
                .created_before
                .is_none_or(|before| created < stored_time(before))
                && filter
                    .created_from
                    .is_none_or(|from| created >= stored_time(from))
        })
        .filter(|case| !filter.is_open_only() || is_open(&case.state))
        .filter(|case| !filter.parked_only || case.state.parked > 0)
        .filter(|case| {
            after.is_none_or(|after| {
                (case.head.created_at, case.head.case) < (stored_time(after.created_at), after.case)
            })
        })
        .collect();
    found.sort_by_key(|case| std::cmp::Reverse((case.head.created_at, case.head.case)));
    found.truncate(usize::try_from(limit.min(PAGE_ROWS_MAX)).unwrap());
    Ok(found)
}

/// By workflow, the newest first.
pub(super) fn versions(tables: &Tables) -> Vec<VersionRow> {
    let open = open(tables);
    let mut versions: Vec<VersionRow> = tables
        .definitions
        .iter()
        .map(|(hash, version)| VersionRow {
            hash: hash.clone(),
            workflow: version.workflow.clone(),
            created_at: version.created_at,
            open: open
                .iter()
                .filter(|case| case.head.definition == *hash)
                .count() as u64,
        })
        .collect();
    versions.sort_by(|a, b| {
        let age = b.created_at.cmp(&a.created_at);
        a.workflow
            .cmp(&b.workflow)
            .then(age)
            .then(a.hash.cmp(&b.hash))
    });
    versions
}

pub(super) fn counts(tables: &Tables) -> Vec<(String, CaseState, u64)> {
    let mut counts: BTreeMap<(String, &'static str), (CaseState, u64)> = BTreeMap::new();
    for (key, state) in &tables.states {
        if let Some(head) = tables.heads.get(key) {
            let key = (head.workflow.clone(), state.state.as_str());
            counts.entry(key).or_insert((state.state, 0)).1 += 1;
        }
    }
    counts
        .into_iter()
        .map(|((workflow, _), (state, count))| (workflow, state, count))
        .collect()
}
