//! History and evidence by month: made ahead, dropped as a whole.
//!
//! # Theory of operation
//!
//! A month, not a week: a read of one case looks into every partition, and evidence stays for ever, so ten years are
//! 120 look-ups instead of 520. What a month costs is that rows live up to a month longer than was asked for.
//!
//! The names of the partitions say what they hold, so nothing has to be remembered beside the catalogue:
//!
//! ```text
//! case_history_000000_202702       everything before February 2027
//! case_history_202702_202703       February 2027
//! case_history_202601_202602_open  what is left of January 2026: rows of cases that are still open
//! case_history_rest                the default partition: what has no month yet
//! ```
//!
//! The default partition is the safety net: a row always finds a place, also when no program made room for months,
//! or when a program of the version before writes. It is nearly always empty; when it is not, it becomes a
//! partition of its own and a new one takes its place. That is also how an old table becomes the first partition.
//! The long part of it, a look at every row, is done while others write (a check that is not valid yet, then its
//! validation); what locks the table takes as long as changing the catalogue does.
//!
//! Whoever changes partitions holds a row of `engine_meta`, so two programs never do it at once. A lock that does
//! not come within [`LOCK_MS`] is given up: commits would wait behind it.

use chrono::{DateTime, Datelike, NaiveDate, NaiveTime, Utc};
use sqlx::{AssertSqlSafe, PgConnection};

use crate::core::Timestamp;
use crate::store::failure::from_driver;
use crate::store::{FORGET_ROWS_MAX, Forgotten, StoreError};

use super::PostgresStore;

/// The tables that lie in partitions by the time of their rows. Both have the key (shard, case, version).
const TABLES: [&str; 2] = ["case_history", "evidence"];
/// How many months after this one have a partition.
const MONTHS_AHEAD: i32 = 3;
/// Where a default partition that holds rows is closed off: so far ahead that a program that dies half-way leaves
/// more than a month to the next one.
const CLOSE_MONTHS_AHEAD: i32 = 2;
const LOCK_MS: u32 = 3_000;
/// The most rows of open cases that are copied out of a partition to drop the rest of it.
const KEPT_ROWS_MAX: i64 = 100_000;

const MUTEX: &str = "SELECT value FROM engine_meta WHERE name = 'shards' FOR UPDATE";

const PARTITIONS: &str = "
SELECT child.relname::text
  FROM pg_inherits
  JOIN pg_class AS child ON child.oid = pg_inherits.inhrelid
 WHERE pg_inherits.inhparent = to_regclass($1)
 ORDER BY child.relname";

/// A month of the calendar, counted from the year 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Month(i32);

impl Month {
    fn of(time: Timestamp) -> Self {
        Self(time.year() * 12 + i32::try_from(time.month0()).unwrap_or(0))
    }

    fn plus(self, months: i32) -> Self {
        Self(self.0 + months)
    }

    fn year_and_month(self) -> (i32, u32) {
        let month = u32::try_from(self.0.rem_euclid(12)).unwrap_or(0) + 1;
        (self.0.div_euclid(12), month)
    }

    fn start(self) -> Timestamp {
        let (year, month) = self.year_and_month();
        let day = NaiveDate::from_ymd_opt(year, month, 1).unwrap_or(NaiveDate::MAX);
        DateTime::from_naive_utc_and_offset(day.and_time(NaiveTime::MIN), Utc)
    }

    /// As names of partitions have it: `202611`.
    fn label(self) -> String {
        let (year, month) = self.year_and_month();
        format!("{year:04}{month:02}")
    }

    fn parse(label: &str) -> Option<Self> {
        if label.len() != 6 || !label.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let (year, month) = label.split_at_checked(4)?;
        let (year, month): (i32, i32) = (year.parse().ok()?, month.parse().ok()?);
        (1..=12)
            .contains(&month)
            .then_some(Self(year * 12 + month - 1))
    }

    /// As a bound in SQL.
    fn bound(self) -> String {
        let (year, month) = self.year_and_month();
        format!("'{year:04}-{month:02}-01 00:00:00+00'")
    }
}

/// A partition of whole months.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Months {
    name: String,
    /// `None`: from the beginning of time.
    from: Option<Month>,
    until: Month,
    /// Whether only rows of open cases are left.
    open_only: bool,
}

impl Months {
    fn new(table: &str, from: Option<Month>, until: Month) -> Self {
        let first = from.map_or_else(|| "000000".to_owned(), Month::label);
        Self {
            name: format!("{table}_{first}_{}", until.label()),
            from,
            until,
            open_only: false,
        }
    }

    /// Reads the name; `None` for the default partition and for what somebody else made.
    fn parse(table: &str, name: &str) -> Option<Self> {
        let rest = name.strip_prefix(table)?.strip_prefix('_')?;
        let (months, open_only) = match rest.strip_suffix("_open") {
            Some(months) => (months, true),
            None => (rest, false),
        };
        let (from, until) = months.split_once('_')?;
        let from = match from {
            "000000" => None,
            label => Some(Month::parse(label)?),
        };
        Some(Self {
            name: name.to_owned(),
            from,
            until: Month::parse(until)?,
            open_only,
        })
    }

    fn bounds(&self) -> String {
        let from = self
            .from
            .map_or_else(|| "MINVALUE".to_owned(), Month::bound);
        format!("FROM ({from}) TO ({})", self.until.bound())
    }
}

/// See [`Store::make_room`](crate::store::Store::make_room).
pub(super) async fn make_room(store: &PostgresStore, now: Timestamp) -> Result<(), StoreError> {
    for table in TABLES {
        close_off(store, table, now).await?;
        add_months(store, table, now).await?;
        let analyze = sqlx::raw_sql(AssertSqlSafe(format!("ANALYZE {table}")));
        analyze.execute(&store.writers).await.map_err(from_driver)?;
    }
    Ok(())
}

async fn add_months(store: &PostgresStore, table: &str, now: Timestamp) -> Result<(), StoreError> {
    let mut change = begin(store).await?;
    let known = months(&mut change, table).await?;
    let this = Month::of(now);
    let first = known.iter().map(|partition| partition.until).max();
    let first = first.unwrap_or(this).max(this);
    for number in first.0..=this.plus(MONTHS_AHEAD).0 {
        let month = Month(number);
        let partition = Months::new(table, Some(month), month.plus(1));
        make(&mut change, table, &partition.name).await?;
        attach(&mut change, table, &partition).await?;
    }
    change.commit().await.map_err(from_driver)
}

/// Makes a partition of what lies in the default one, and a new default one.
async fn close_off(store: &PostgresStore, table: &str, now: Timestamp) -> Result<(), StoreError> {
    let range = AssertSqlSafe(format!("SELECT min(at), max(at) FROM {table}_rest"));
    let (oldest, newest): (Option<Timestamp>, Option<Timestamp>) = sqlx::query_as(range)
        .fetch_one(&store.readers)
        .await
        .map_err(from_driver)?;
    let (Some(oldest), Some(newest)) = (oldest, newest) else {
        return Ok(());
    };
    let mut look = begin(store).await?;
    let known = months(&mut look, table).await?;
    let from = known.iter().map(|partition| partition.until).max();
    let until = Month::of(now).plus(CLOSE_MONTHS_AHEAD);
    if newest >= until.start() || from.is_some_and(|from| oldest < from.start() || from >= until) {
        tracing::warn!(
            table, %oldest, %newest,
            "the default partition holds rows of times that have their partitions, or that are far ahead; they stay there"
        );
        return Ok(());
    }
    let lower = from.map_or_else(String::new, |from| format!("at >= {} AND ", from.bound()));
    // From here to the end of this function rows of `until` and later find no place; it is a month off, and
    // whoever comes here after a crash takes the check away first.
    run(
        &mut look,
        format!(
            "ALTER TABLE {table}_rest DROP CONSTRAINT IF EXISTS {table}_rest_bounds;
             ALTER TABLE {table}_rest ADD CONSTRAINT {table}_rest_bounds
                   CHECK ({lower}at < {}) NOT VALID",
            until.bound()
        ),
    )
    .await?;
    look.commit().await.map_err(from_driver)?;
    // Reads every row, and lets others write meanwhile.
    let validate = format!("ALTER TABLE {table}_rest VALIDATE CONSTRAINT {table}_rest_bounds");
    sqlx::raw_sql(AssertSqlSafe(validate))
        .execute(&store.writers)
        .await
        .map_err(from_driver)?;

    let mut change = begin(store).await?;
    let partition = Months::new(table, from, until);
    let name = &partition.name;
    run(
        &mut change,
        format!(
            "ALTER TABLE {table} DETACH PARTITION {table}_rest;
             ALTER TABLE {table}_rest RENAME TO {name};
             ALTER TABLE {name} RENAME CONSTRAINT {table}_rest_pkey TO {name}_pkey"
        ),
    )
    .await?;
    // The check spares it a look at the rows.
    attach(&mut change, table, &partition).await?;
    let rest = format!("{table}_rest");
    make(&mut change, table, &rest).await?;
    run(
        &mut change,
        format!(
            "ALTER TABLE {name} DROP CONSTRAINT {table}_rest_bounds;
             ALTER TABLE {table} ATTACH PARTITION {rest} DEFAULT"
        ),
    )
    .await?;
    change.commit().await.map_err(from_driver)?;
    tracing::info!(
        table,
        partition = name,
        "the default partition was closed off"
    );
    Ok(())
}

/// Drops the oldest partition of `table` whose months are over before `before`, or takes a bounded piece from what is
/// left of one.
pub(super) async fn forget(
    store: &PostgresStore,
    table: &str,
    before: Timestamp,
) -> Result<Forgotten, StoreError> {
    let mut look = begin(store).await?;
    let known = months(&mut look, table).await?;
    drop(look);
    let over = known
        .iter()
        .filter(|partition| partition.until.start() <= before);
    for partition in over {
        let forgotten = if partition.open_only {
            shrink(store, table, partition).await?
        } else {
            drop_or_cut(store, table, partition).await?
        };
        if forgotten.more {
            return Ok(forgotten);
        }
    }
    if known.is_empty() {
        // Not closed off yet: what is there will be a partition, and go as one.
        return Ok(Forgotten::default());
    }
    let rows = delete_closed(store, &format!("{table}_rest"), Some(before)).await?;
    Ok(Forgotten {
        rows,
        more: rows > 0,
        ..Forgotten::default()
    })
}

/// Drops a partition. Rows of cases that are still open are copied into one that takes its place.
async fn drop_or_cut(
    store: &PostgresStore,
    table: &str,
    partition: &Months,
) -> Result<Forgotten, StoreError> {
    let name = &partition.name;
    let mut change = begin(store).await?;
    if !months(&mut change, table).await?.contains(partition) {
        // Somebody else was faster.
        return Ok(Forgotten {
            more: true,
            ..Forgotten::default()
        });
    }
    // Nobody writes that far back; now nobody can.
    run(&mut change, format!("LOCK TABLE {name} IN SHARE MODE")).await?;
    let count = AssertSqlSafe(format!(
        "SELECT count(*) FROM (
            SELECT 1 FROM case_open JOIN {name} USING (shard_id, case_id) LIMIT {KEPT_ROWS_MAX} + 1
         ) AS kept"
    ));
    let kept: i64 = sqlx::query_scalar(count)
        .fetch_one(&mut *change)
        .await
        .map_err(from_driver)?;
    if kept > KEPT_ROWS_MAX {
        tracing::warn!(
            table,
            partition = name,
            "too many of its rows belong to open cases; it is kept whole"
        );
        return Ok(Forgotten::default());
    }
    let left = Months {
        name: format!("{name}_open"),
        open_only: true,
        ..partition.clone()
    };
    if kept > 0 {
        make(&mut change, table, &left.name).await?;
        let copy = format!(
            "INSERT INTO {} SELECT {name}.* FROM case_open JOIN {name} USING (shard_id, case_id)",
            left.name
        );
        run(&mut change, copy).await?;
    }
    run(
        &mut change,
        format!("ALTER TABLE {table} DETACH PARTITION {name}; DROP TABLE {name}"),
    )
    .await?;
    if kept > 0 {
        attach(&mut change, table, &left).await?;
    }
    change.commit().await.map_err(from_driver)?;
    tracing::info!(
        table,
        partition = name,
        kept,
        "a partition was dropped: it is older than the retention"
    );
    Ok(Forgotten {
        partitions: 1,
        more: true,
        ..Forgotten::default()
    })
}

/// Takes from what is left of a partition what belongs to no open case any more, and drops it once it is empty.
async fn shrink(
    store: &PostgresStore,
    table: &str,
    partition: &Months,
) -> Result<Forgotten, StoreError> {
    let name = &partition.name;
    let rows = delete_closed(store, name, None).await?;
    if rows > 0 {
        return Ok(Forgotten {
            rows,
            more: true,
            ..Forgotten::default()
        });
    }
    let mut change = begin(store).await?;
    run(&mut change, format!("LOCK TABLE {name} IN SHARE MODE")).await?;
    let any = AssertSqlSafe(format!("SELECT EXISTS (SELECT 1 FROM {name})"));
    let any: bool = sqlx::query_scalar(any)
        .fetch_one(&mut *change)
        .await
        .map_err(from_driver)?;
    if any {
        return Ok(Forgotten::default());
    }
    run(
        &mut change,
        format!("ALTER TABLE {table} DETACH PARTITION {name}; DROP TABLE {name}"),
    )
    .await?;
    change.commit().await.map_err(from_driver)?;
    Ok(Forgotten {
        partitions: 1,
        more: true,
        ..Forgotten::default()
    })
}

async fn delete_closed(
    store: &PostgresStore,
    name: &str,
    before: Option<Timestamp>,
) -> Result<u64, StoreError> {
    let delete = AssertSqlSafe(format!(
        "DELETE FROM {name}
          WHERE ctid = ANY(ARRAY(
                SELECT kept.ctid
                  FROM {name} AS kept
                 WHERE ($1::timestamptz IS NULL OR kept.at < $1)
                   AND NOT EXISTS (SELECT 1 FROM case_open AS open
                                    WHERE open.shard_id = kept.shard_id AND open.case_id = kept.case_id)
                 LIMIT $2))"
    ));
    let deleted = sqlx::query(delete)
        .bind(before)
        .bind(i64::from(FORGET_ROWS_MAX))
        .execute(&store.writers)
        .await
        .map_err(from_driver)?;
    Ok(deleted.rows_affected())
}

// --- the catalogue --------------------------------------------------------------------------------------

type Change = sqlx::Transaction<'static, sqlx::Postgres>;

/// Begins to change partitions: alone, and not for long.
async fn begin(store: &PostgresStore) -> Result<Change, StoreError> {
    let mut change = store.begin().await?;
    run(
        &mut change,
        format!("SET LOCAL lock_timeout = '{LOCK_MS}ms'"),
    )
    .await?;
    let _: Option<String> = sqlx::query_scalar(MUTEX)
        .fetch_optional(&mut *change)
        .await
        .map_err(from_driver)?;
    Ok(change)
}

/// Runs statements made of names of tables and of months.
async fn run(connection: &mut PgConnection, sql: String) -> Result<(), StoreError> {
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(connection)
        .await
        .map_err(from_driver)?;
    Ok(())
}

/// The partitions of whole months, the oldest first.
async fn months(connection: &mut PgConnection, table: &str) -> Result<Vec<Months>, StoreError> {
    let names: Vec<String> = sqlx::query_scalar(PARTITIONS)
        .bind(table)
        .fetch_all(connection)
        .await
        .map_err(from_driver)?;
    let mut months: Vec<Months> = names
        .iter()
        .filter_map(|name| Months::parse(table, name))
        .collect();
    months.sort_by_key(|partition| partition.until);
    Ok(months)
}

/// Makes a table that can become a partition, with the key that each has by itself.
async fn make(connection: &mut PgConnection, table: &str, name: &str) -> Result<(), StoreError> {
    let create = format!(
        "CREATE TABLE {name} (
            LIKE {table},
            CONSTRAINT {name}_pkey PRIMARY KEY (shard_id, case_id, version)
         )"
    );
    run(connection, create).await
}

async fn attach(
    connection: &mut PgConnection,
    table: &str,
    partition: &Months,
) -> Result<(), StoreError> {
    let attach = format!(
        "ALTER TABLE {table} ATTACH PARTITION {} FOR VALUES {}",
        partition.name,
        partition.bounds()
    );
    run(connection, attach).await
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
    use super::*;

    #[test]
    fn the_name_of_a_partition_says_what_it_holds() {
        for (name, bounds) in [
            (
                "evidence_000000_202702",
                "FROM (MINVALUE) TO ('2027-02-01 00:00:00+00')",
            ),
            (
                "evidence_202612_202701",
                "FROM ('2026-12-01 00:00:00+00') TO ('2027-01-01 00:00:00+00')",
            ),
        ] {
            let months = Months::parse("evidence", name).unwrap();
            assert_eq!(months.bounds(), bounds);
            assert_eq!(Months::new("evidence", months.from, months.until), months);
            let open = Months::parse("evidence", &format!("{name}_open")).unwrap();
            assert!(open.open_only);
            assert_eq!(open.bounds(), bounds);
        }
        for name in [
            "evidence_rest",
            "evidence_202613_202701",
            "evidence_2026_27",
            "case_history_202612_202701",
            "evidence_202612_202701_mine",
        ] {
            assert_eq!(Months::parse("evidence", name), None, "{name}");
        }
    }

    #[test]
    fn months_follow_one_another() {
        let time = |text: &str| text.parse::<Timestamp>().unwrap();
        let december = Month::of(time("2026-12-31T23:59:59.999999Z"));
        assert_eq!(december.label(), "202612");
        assert_eq!(december.plus(1).start(), time("2027-01-01T00:00:00Z"));
        assert_eq!(Month::parse("202701"), Some(december.plus(1)));
        assert_eq!(Month::of(december.start()), december);
    }
}
