//! The number of a case in its file.
//!
//! A number is given once, when the case is made, and never changes, so what is remembered here stays true
//! whichever program writes the file. What a batch gives is remembered only after its commit.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use sqlx::sqlite::SqliteConnection;

use crate::core::id::{CaseId, ShardId};
use crate::store::StoreError;
use crate::store::batch::Writes;
use crate::store::decode::Reader;
use crate::store::failure::from_driver;

use super::json::Rows;

/// The most numbers kept in memory, about 6 MiB. Beyond it all are forgotten and looked up again as needed.
const REMEMBERED_MAX: usize = 100_000;

const HIGHEST: &str = "SELECT coalesce(max(case_number), 0) FROM case_head";

const LOOK_UP: &str = "
SELECT head.case_number, head.shard_id, head.case_id
  FROM jsonb_each(?1) AS wanted
  JOIN case_head AS head
    ON head.shard_id = wanted.value ->> 0 AND head.case_id = unhex(wanted.value ->> 1)";

type Key = (ShardId, CaseId);

#[derive(Default)]
pub(super) struct Numbers {
    known: Mutex<HashMap<Key, i64>>,
}

/// The numbers of the cases of one batch.
pub(super) struct Numbered {
    numbers: HashMap<Key, i64>,
    /// Those that were not known before.
    learned: Vec<(Key, i64)>,
}

impl Numbered {
    /// # Errors
    /// [`StoreError::Stale`] for a case that is neither in the file nor made by the batch.
    pub(super) fn of(&self, shard: ShardId, case: CaseId) -> Result<i64, StoreError> {
        let number = self.numbers.get(&(shard, case)).copied();
        number.ok_or(StoreError::Stale { case, version: 0 })
    }
}

impl Numbers {
    /// Finds the numbers of the batch's cases and gives one to each that it makes. The write lock must be
    /// held until the batch is written.
    pub(super) async fn of(
        &self,
        connection: &mut SqliteConnection,
        writes: &Writes<'_>,
    ) -> Result<Numbered, StoreError> {
        let mut numbered = Numbered {
            numbers: HashMap::with_capacity(writes.moved.len() + writes.heads.len()),
            learned: Vec::new(),
        };
        let highest: i64 = match writes.heads {
            [] => 0,
            _ => sqlx::query_scalar(HIGHEST)
                .fetch_one(&mut *connection)
                .await
                .map_err(from_driver)?,
        };
        for (number, head) in (highest + 1..).zip(writes.heads) {
            let key = (head.shard, head.case);
            numbered.numbers.insert(key, number);
            numbered.learned.push((key, number));
        }
        let unknown = self.recall(writes, &mut numbered);
        if !unknown.is_empty() {
            let wanted = Rows::of(unknown.iter(), 44, |(shard, case), columns| {
                columns.number(shard.0).id(case.0);
            });
            let rows = sqlx::query(LOOK_UP)
                .bind(wanted)
                .fetch_all(connection)
                .await
                .map_err(from_driver)?;
            for row in &rows {
                let row = Reader::new("case_head", row);
                let (key, number) = ((row.shard()?, row.case()?), row.big("case_number")?);
                numbered.numbers.insert(key, number);
                numbered.learned.push((key, number));
            }
        }
        Ok(numbered)
    }

    /// Fills in what is remembered and gives back what is not.
    fn recall(&self, writes: &Writes<'_>, numbered: &mut Numbered) -> Vec<Key> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut unknown = Vec::new();
        for key in writes.cases() {
            if numbered.numbers.contains_key(&key) {
                continue;
            }
            match known.get(&key) {
                Some(number) => {
                    numbered.numbers.insert(key, *number);
                }
                None => unknown.push(key),
            }
        }
        unknown.sort_unstable();
        unknown.dedup();
        unknown
    }

    /// To be called once the batch is committed.
    pub(super) fn remember(&self, numbered: Numbered) {
        if numbered.learned.is_empty() {
            return;
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() + numbered.learned.len() > REMEMBERED_MAX {
            known.clear();
        }
        known.extend(numbered.learned);
    }
}
