//! Cron expressions on the wall clock of a zone.
//!
//! # Background
//!
//! A cron expression matches readings of a wall clock, and a wall clock is set forward and back. Two kinds of
//! expression want different things then, and the rule that tells them apart is the hour field:
//!
//! - An expression that **names hours** means a moment of the day, so each of its readings comes once. It fires
//!   when the clock reaches or passes a reading for the first time: a reading that is skipped fires at the first
//!   instant after the gap (several skipped ones fire once there), a reading that comes twice fires the first
//!   time.
//! - An expression that fires **in every hour** means a rhythm, so it goes by what the clock shows: a skipped
//!   reading does not fire, a repeated one fires both times.
//!
//! The crate `cron` finds matching readings; it is asked on a calendar without a zone, and what a zone makes of
//! them is decided here. Days of the week count as in crontab (0 and 7 are Sunday), and so do two restricted
//! day fields: one of them is enough.

use std::collections::BTreeSet;
use std::str::FromStr as _;

use chrono::{LocalResult, NaiveDateTime, Offset as _, TimeDelta, TimeZone as _};
use chrono_tz::Tz;

use crate::core::Timestamp;

/// Changes of a zone's offset that one search looks past: more than two a year up to 2100.
const CHANGES_MAX: usize = 1_000;
/// Skipped or repeated readings that one search looks past: every second of two days.
const READINGS_MAX: usize = 200_000;
/// Two changes of offset in one zone are never closer than this.
const CHANGE_STEP: TimeDelta = TimeDelta::hours(12);
/// No two offsets are further apart.
const OFFSETS_APART: TimeDelta = TimeDelta::hours(36);
const SECOND: TimeDelta = TimeDelta::seconds(1);

/// A checked cron expression.
#[derive(Debug, Clone)]
pub struct Cron {
    text: String,
    /// Any of them matches.
    rules: Vec<cron::Schedule>,
    /// Fires in every hour: goes by what the clock shows.
    every_hour: bool,
}

/// Why a text is no cron expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}; {fix}")]
pub struct CronError {
    pub what: String,
    pub fix: String,
}

fn error<T>(what: impl Into<String>, fix: impl Into<String>) -> Result<T, CronError> {
    Err(CronError {
        what: what.into(),
        fix: fix.into(),
    })
}

/// What a field may hold.
struct Field {
    name: &'static str,
    min: u32,
    max: u32,
    names: &'static [&'static str],
    /// Whether `?` stands for `*`.
    any: bool,
}

const MONTHS: [&str; 12] = [
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

const FIELDS: [Field; 6] = [
    Field::plain("second", 0, 59),
    Field::plain("minute", 0, 59),
    Field::plain("hour", 0, 23),
    Field {
        any: true,
        ..Field::plain("day of the month", 1, 31)
    },
    Field {
        names: &MONTHS,
        ..Field::plain("month", 1, 12)
    },
    Field {
        names: &DAYS,
        any: true,
        ..Field::plain("day of the week", 0, 7)
    },
];

impl Field {
    const fn plain(name: &'static str, min: u32, max: u32) -> Self {
        Self {
            name,
            min,
            max,
            names: &[],
            any: false,
        }
    }
}

/// One field, read.
struct Values {
    set: BTreeSet<u32>,
    /// Written with a `*` in front: it does not restrict the day.
    star: bool,
}

impl Cron {
    /// Reads five fields (minute, hour, day of the month, month, day of the week), six (second first) or one of
    /// `@hourly`, `@daily`, `@midnight`, `@weekly`, `@monthly`, `@yearly`, `@annually`.
    ///
    /// # Errors
    /// What is wrong with it, and what to write.
    pub fn parse(text: &str) -> Result<Self, CronError> {
        let whole = match text.trim() {
            "@hourly" => "0 * * * *",
            "@daily" | "@midnight" => "0 0 * * *",
            "@weekly" => "0 0 * * 0",
            "@monthly" => "0 0 1 * *",
            "@yearly" | "@annually" => "0 0 1 1 *",
            other if other.starts_with('@') => {
                return error(
                    format!("`{other}` is no shorthand"),
                    "use `@hourly`, `@daily`, `@weekly`, `@monthly` or `@yearly`, or write the fields",
                );
            }
            other => other,
        };
        let mut words: Vec<&str> = whole.split_whitespace().collect();
        match words.len() {
            5 => words.insert(0, "0"),
            6 => {}
            count => {
                return error(
                    format!("`{whole}` has {count} fields, not 5 or 6"),
                    "write minute, hour, day of the month, month, day of the week: `30 2 * * MON-FRI`",
                );
            }
        }
        let mut values = Vec::with_capacity(FIELDS.len());
        for (field, word) in FIELDS.iter().zip(&words) {
            values.push(read(field, word)?);
        }
        let [second, minute, hour, day, month, weekday] = values.as_slice() else {
            return error("it cannot be read", "write five fields");
        };
        // 7 is Sunday too.
        let weekdays: BTreeSet<u32> = weekday.set.iter().map(|day| day % 7).collect();
        let every_day = || "*".to_owned();
        let days = if day.set.len() == 31 {
            every_day()
        } else {
            list(day.set.iter().copied())
        };
        // The crate counts days of the week from 1, Sunday.
        let weekdays = if weekdays.len() == 7 {
            every_day()
        } else {
            list(weekdays.iter().map(|day| day + 1))
        };
        let either = !day.star && !weekday.star;
        let pairs = if either && days != "*" && weekdays != "*" {
            vec![(days, every_day()), (every_day(), weekdays)]
        } else if either && (days == "*" || weekdays == "*") {
            vec![(every_day(), every_day())]
        } else {
            vec![(days, weekdays)]
        };
        let mut rules = Vec::with_capacity(pairs.len());
        for (days, weekdays) in pairs {
            let normal = format!(
                "{} {} {} {days} {} {weekdays}",
                list(second.set.iter().copied()),
                list(minute.set.iter().copied()),
                list(hour.set.iter().copied()),
                list(month.set.iter().copied()),
            );
            let rule = cron::Schedule::from_str(&normal);
            rules.push(rule.or_else(|problem| {
                error(
                    format!("`{whole}` cannot be read: {problem}"),
                    "write five fields",
                )
            })?);
        }
        let cron = Self {
            text: text.trim().to_owned(),
            rules,
            every_hour: hour.set.len() == 24,
        };
        if cron.reading(NaiveDateTime::default()).is_none() {
            return error(
                format!("`{}` never comes", cron.text),
                "no month it names has such a day",
            );
        }
        Ok(cron)
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The first instant after `after` at which it fires in `zone`; `None` when no year up to 2100 has one.
    #[must_use]
    pub fn next(&self, after: Timestamp, zone: Tz) -> Option<Timestamp> {
        let after = Timestamp::from_timestamp(after.timestamp(), 0)?;
        if self.every_hour {
            self.next_shown(after.checked_add_signed(SECOND)?, zone)
        } else {
            self.next_passed(after, zone)
        }
    }

    /// The first matching reading at or after `from`.
    fn reading(&self, from: NaiveDateTime) -> Option<NaiveDateTime> {
        let before = from.checked_sub_signed(SECOND)?.and_utc();
        self.rules
            .iter()
            .filter_map(|rule| rule.after(&before).next())
            .min()
            .map(|reading| reading.naive_utc())
    }

    /// The first instant from `from` on at which the clock shows a matching reading.
    fn next_shown(&self, mut from: Timestamp, zone: Tz) -> Option<Timestamp> {
        for _ in 0..CHANGES_MAX {
            let offset = offset(zone, from);
            let shown = from.naive_utc().checked_add_signed(offset)?;
            let candidate = self.reading(shown)?.checked_sub_signed(offset)?.and_utc();
            match change(zone, from, candidate) {
                None => return Some(candidate),
                // The clock was set before the candidate came: what it shows from then on is looked at anew.
                Some(change) => from = change,
            }
        }
        None
    }

    /// The first instant after `after` at which the clock reaches or passes a matching reading for the first time.
    fn next_passed(&self, after: Timestamp, zone: Tz) -> Option<Timestamp> {
        let shown = after.naive_utc().checked_add_signed(offset(zone, after))?;
        let mut from = shown.checked_add_signed(SECOND)?;
        for _ in 0..READINGS_MAX {
            let reading = self.reading(from)?;
            let at = passed(zone, reading)?;
            if at > after {
                return Some(at);
            }
            // It was passed before the clock was set back.
            from = reading.checked_add_signed(SECOND)?;
        }
        None
    }
}

impl PartialEq for Cron {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

// --- zones ------------------------------------------------------------------------------------------------

fn offset(zone: Tz, at: Timestamp) -> TimeDelta {
    let offset = zone.offset_from_utc_datetime(&at.naive_utc()).fix();
    TimeDelta::seconds(i64::from(offset.local_minus_utc()))
}

/// The first instant after `from`, up to `until`, that has another offset than `from`.
fn change(zone: Tz, from: Timestamp, until: Timestamp) -> Option<Timestamp> {
    let before = offset(zone, from);
    let mut low = from;
    while low < until {
        let mut high = low.checked_add_signed(CHANGE_STEP)?.min(until);
        if offset(zone, high) == before {
            low = high;
            continue;
        }
        while high - low > SECOND {
            let middle = low + TimeDelta::seconds((high - low).num_seconds() / 2);
            if offset(zone, middle) == before {
                low = middle;
            } else {
                high = middle;
            }
        }
        return Some(high);
    }
    None
}

/// The first instant at which the clock of `zone` shows `reading` or more.
fn passed(zone: Tz, reading: NaiveDateTime) -> Option<Timestamp> {
    match zone.from_local_datetime(&reading) {
        LocalResult::Single(at) => Some(at.to_utc()),
        LocalResult::Ambiguous(one, other) => Some(one.to_utc().min(other.to_utc())),
        LocalResult::None => {
            // It lies in a gap: the clock shows less before, more after, and never the reading itself.
            let mut low = reading.checked_sub_signed(OFFSETS_APART)?.and_utc();
            let mut high = reading.checked_add_signed(OFFSETS_APART)?.and_utc();
            while high - low > SECOND {
                let middle = low + TimeDelta::seconds((high - low).num_seconds() / 2);
                if middle
                    .naive_utc()
                    .checked_add_signed(offset(zone, middle))?
                    < reading
                {
                    low = middle;
                } else {
                    high = middle;
                }
            }
            Some(high)
        }
    }
}

// --- reading fields ---------------------------------------------------------------------------------------

fn list(values: impl Iterator<Item = u32>) -> String {
    let values: Vec<String> = values.map(|value| value.to_string()).collect();
    values.join(",")
}

fn read(field: &Field, word: &str) -> Result<Values, CronError> {
    let mut set = BTreeSet::new();
    for item in word.split(',') {
        let (base, step) = match item.split_once('/') {
            None => (item, None),
            Some((base, step)) => match step.parse::<u32>() {
                Ok(step) if step >= 1 && step <= field.max => (base, Some(step)),
                _ => {
                    return error(
                        format!("`{item}` of the {} has no good step", field.name),
                        format!("write a number from 1 to {} after `/`", field.max),
                    );
                }
            },
        };
        let values = range(field, item, base, step.is_some())?;
        set.extend(
            values
                .into_iter()
                .step_by(usize::try_from(step.unwrap_or(1)).unwrap_or(1)),
        );
    }
    Ok(Values {
        set,
        star: word.starts_with('*') || word.starts_with('?'),
    })
}

/// The values of `*`, `a`, `a-b`; of `a/step` those from `a` on.
fn range(field: &Field, item: &str, base: &str, stepped: bool) -> Result<Vec<u32>, CronError> {
    // Sunday is 0 where days are counted out; 7 is only another way to write it.
    let last = if field.max == 7 { 6 } else { field.max };
    if base == "*" || (base == "?" && field.any) {
        return Ok((field.min..=last).collect());
    }
    if base == "?" {
        return error(
            format!("`?` stands for no {}", field.name),
            "write `*` for each",
        );
    }
    let Some((from, to)) = base.split_once('-') else {
        let value = value(field, item, base)?;
        return Ok(if stepped {
            (value..=last.max(value)).collect()
        } else {
            vec![value]
        });
    };
    let (from, to) = (value(field, item, from)?, value(field, item, to)?);
    if from <= to {
        return Ok((from..=to).collect());
    }
    // `FRI-MON`, `NOV-FEB`: over the end of the week or the year.
    if field.names.is_empty() {
        return error(
            format!("`{item}` of the {} runs backwards", field.name),
            format!("write `{to}-{from}`, or two ranges with a comma between"),
        );
    }
    Ok((from..=last).chain(field.min..=to).collect())
}

fn value(field: &Field, item: &str, text: &str) -> Result<u32, CronError> {
    let lower = text.to_ascii_lowercase();
    let named = field
        .names
        .iter()
        .position(|name| *name == lower)
        .and_then(|position| u32::try_from(position).ok())
        .map(|position| position + field.min);
    let number = text.parse::<u32>().ok();
    match named.or(number) {
        Some(value) if (field.min..=field.max).contains(&value) => Ok(value),
        _ => {
            let names = match field.names {
                [first, .., last] => {
                    format!(" or {}-{}", first.to_uppercase(), last.to_uppercase())
                }
                _ => String::new(),
            };
            error(
                format!("`{item}` is no {}", field.name),
                format!(
                    "write {}-{}{names}, `*`, lists (`1,15`), ranges (`1-5`) or steps (`*/2`)",
                    field.min, field.max
                ),
            )
        }
    }
}
