//! When a source is not believed although its file is well formed: it shrank, it says an old thing again, or it has said the
//! same for too long.
//!
//! A feed that is broken looks like one without news, or like one from which many have left. Nobody can tell from the file
//! alone, so a person is asked, and told how to go on.

use chrono::{NaiveDate, TimeDelta};
use engine::core::duration::Span;
use schemars::JsonSchema;
use serde::Deserialize;

use super::diff::Difference;
use super::snapshot::Snapshot;

/// When files of a source are believed. Each is compared only from `rows_min` rows on.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TrustConfig {
    /// By how much of its rows a complete file may be shorter than the last one, 0 to 1.
    pub shrink_max: f64,
    /// How long files of new days may say exactly the same, by their days.
    pub same_for: Span,
    /// How many changes at most a file may have that says what an earlier file said, and not the last one.
    pub old_changes_max: u64,
    /// With fewer rows than this all of that may happen by chance.
    pub rows_min: u64,
}

impl Default for TrustConfig {
    fn default() -> Self {
        Self {
            shrink_max: 0.25,
            same_for: Span::from_s(Self::SAME_FOR_S),
            old_changes_max: 3,
            rows_min: 50,
        }
    }
}

impl TrustConfig {
    /// Four weeks: longer than any holiday.
    const SAME_FOR_S: u32 = 28 * 86_400;
}

/// A file that was applied before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Earlier {
    pub day: NaiveDate,
    /// Over what it says; equal files are equal here.
    pub digest: String,
    pub rows: u64,
    pub complete: bool,
    /// Whether a person decided that it is good.
    pub approved: bool,
}

#[expect(clippy::cast_precision_loss, reason = "counts of rows")]
fn is_less(rows: u64, before: u64, shrink_max: f64) -> bool {
    (rows as f64) < before as f64 * (1.0 - shrink_max)
}

/// Why the file should not be believed, as sentences that say how to go on. `earlier` are the files that were applied, the
/// newest day first; `digest` is that of `snapshot`, in the same form.
#[must_use]
pub fn doubts(
    trust: &TrustConfig,
    earlier: &[Earlier],
    snapshot: &Snapshot,
    digest: &str,
    difference: &Difference,
) -> Vec<String> {
    let mut doubts = Vec::new();
    let Some(last) = earlier.first() else {
        return doubts;
    };
    let day = snapshot.as_of.day;
    let complete = snapshot.complete && last.complete;
    if complete
        && last.rows >= trust.rows_min
        && is_less(snapshot.rows, last.rows, trust.shrink_max)
    {
        doubts.push(format!(
            "the file has {} rows and claims to be complete; that of {} had {}. Ask whoever delivers it whether it was cut; \
             if so, reject it and have it delivered again",
            snapshot.rows, last.day, last.rows
        ));
    }
    if snapshot.rows < trust.rows_min {
        return doubts;
    }
    let changes = difference.changes.len() as u64;
    if last.digest == digest {
        let since = same_since(earlier, digest);
        let length = TimeDelta::days((day - since).num_days());
        if length > trust.same_for.delta() {
            doubts.push(format!(
                "the source has said exactly the same since {since}; the limit is {}. Ask whether its export still runs; if it \
                 is right that nothing changed, approve it, and it is believed for as long again",
                trust.same_for
            ));
        }
    } else if changes > trust.old_changes_max
        && let Some(old) = earlier
            .iter()
            .find(|file| file.digest == digest && file.day < day)
    {
        doubts.push(format!(
            "the file says word for word what that of {} said, and would take back {changes} changes since. Most likely an old \
             file was delivered again; reject it and have today's delivered",
            old.day
        ));
    }
    doubts
}

/// From which day on the newest files say the same; what a person approved begins anew.
fn same_since(earlier: &[Earlier], digest: &str) -> NaiveDate {
    let mut since = earlier.first().map_or(NaiveDate::MAX, |file| file.day);
    for file in earlier.iter().take_while(|file| file.digest == digest) {
        since = file.day;
        if file.approved {
            break;
        }
    }
    since
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn earlier(day: &str, digest: &str, approved: bool) -> Earlier {
        Earlier {
            day: day.parse().unwrap(),
            digest: digest.to_owned(),
            rows: 100,
            complete: true,
            approved,
        }
    }

    #[test]
    fn what_a_person_approved_is_believed_for_as_long_again() {
        let files = |approved| {
            [
                earlier("2026-03-03", "a", false),
                earlier("2026-03-02", "a", approved),
                earlier("2026-03-01", "a", false),
                earlier("2026-02-01", "b", false),
                earlier("2026-01-01", "a", false),
            ]
        };
        let since = |approved| same_since(&files(approved), "a").to_string();
        assert_eq!(since(false), "2026-03-01");
        assert_eq!(since(true), "2026-03-02");
    }
}
