//! The number of a case in its file.
//!
//! A number is given once, when the case is made, and never changes, so what is remembered here stays true
//! whichever program writes the file. What a batch gives is remembered only after its commit.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
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
    /// The lowest number that no batch of this program was given; 0 until one looked into the file.
    next: AtomicI64,
}

/// The numbers of the cases of one batch.
pub(super) struct Numbered {
    numbers: HashMap<Key, i64>,
    /// Those that were not known before.
    learned: Vec<(Key, i64)>,
}

impl Numbered {
    /// With the numbers from `first` on for the cases that the batch makes.
    fn made(first: i64, writes: &Writes<'_>) -> Self {
        let keys = writes.heads.iter().map(|head| (head.shard, head.case));
        let learned: Vec<(Key, i64)> = keys.zip(first..).collect();
        let mut numbers = HashMap::with_capacity(writes.moved.len() + learned.len());
        numbers.extend(learned.iter().copied());
        Self { numbers, learned }
    }

    /// # Errors
    /// [`StoreError::Stale`] for a case that is neither in the file nor made by the batch.
    pub(super) fn of(&self, shard: ShardId, case: CaseId) -> Result<i64, StoreError> {
        let number = self.numbers.get(&(shard, case)).copied();
        number.ok_or(StoreError::Stale { case, version: 0 })
    }
}

impl Numbers {
    /// The numbers as far as they can be told without the file, so that the batch can be described before it is its
    /// turn to be written. Whether those it gives are free is to be asked with [`Numbers::are_free`] then.
    pub(super) fn foretell(&self, writes: &Writes<'_>) -> Option<Numbered> {
        let count = i64::try_from(writes.heads.len()).ok()?;
        let mut first = 0;
        if count > 0 {
            // A number that is given to a batch which is not written in the end is never used.
            let reserve = |next| (next > 0).then_some(next + count);
            let order = Ordering::Relaxed;
            first = self.next.fetch_update(order, order, reserve).ok()?;
        }
        let mut numbered = Numbered::made(first, writes);
        self.recall(writes, &mut numbered)
            .is_empty()
            .then_some(numbered)
    }

    /// Whether the numbers that were given are above all in the file.
    pub(super) async fn are_free(
        connection: &mut SqliteConnection,
        numbered: &Numbered,
    ) -> Result<bool, StoreError> {
        match numbered.learned.first() {
            None => Ok(true),
            Some((_, first)) => Ok(highest(connection).await? < *first),
        }
    }

    /// Finds the numbers of the batch's cases and gives one to each that it makes. The write lock must be
    /// held until the batch is written.
    pub(super) async fn of(
        &self,
        connection: &mut SqliteConnection,
        writes: &Writes<'_>,
    ) -> Result<Numbered, StoreError> {
        let highest = match writes.heads {
            [] => 0,
            _ => highest(connection).await?,
        };
        let mut numbered = Numbered::made(highest + 1, writes);
        if let Some((_, last)) = numbered.learned.last() {
            self.next.fetch_max(last + 1, Ordering::Relaxed);
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

async fn highest(connection: &mut SqliteConnection) -> Result<i64, StoreError> {
    sqlx::query_scalar(HIGHEST)
        .fetch_one(connection)
        .await
        .map_err(from_driver)
}
