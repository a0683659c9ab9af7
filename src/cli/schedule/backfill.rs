//! `tenure schedule backfill`.

use anyhow::{Context as _, bail, ensure};
use chrono::{DateTime, LocalResult, NaiveDate, NaiveDateTime, NaiveTime, TimeZone as _, Utc};
use chrono_tz::Tz;
use engine::core::schedule::BACKFILL_MAX;
use engine::runner::ScheduleCommand as Command;

use super::act::told;
use crate::cli::format::{Listing, Tone, counted, paint};
use crate::cli::{Context, Exit, actor};
use crate::shell::now;
use crate::shell::schedules::{self, BackfillView};

/// How many fire times a preview lists.
const LINES_SHOWN: usize = 20;

/// Run the fire times of a period that have not run
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Without --yes nothing is done: the fire times that would run are shown. They run one after another, with the overlap
policy `allow` all at once. A fire time that has run already does not run again.

FROM and TO are moments (2026-03-01T02:00:00Z), or times on the clock of the schedule's zone (2026-03-01T02:00, or
2026-03-01, which is the beginning of that day); both are included.

Examples:
  tenure schedule backfill nightly-review --from 2026-03-01 --to 2026-03-04
  tenure schedule backfill nightly-review --from 2026-03-01 --to 2026-03-04 --yes --reason 'database was down'")]
pub struct Backfill {
    /// The schedule's name
    name: String,
    /// The first moment
    #[arg(long, value_name = "FROM")]
    from: String,
    /// The last moment
    #[arg(long, value_name = "TO")]
    to: String,
    /// Do it
    #[arg(long, requires = "reason")]
    yes: bool,
    /// Why; needed with --yes
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

pub(super) async fn run(context: &Context, backfill: Backfill) -> anyhow::Result<Exit> {
    let (database, row) = super::open(context, &backfill.name).await?;
    let schedule = schedules::compiled(&row)?;
    let from = moment("--from", &backfill.from, schedule.zone())?;
    let to = moment("--to", &backfill.to, schedule.zone())?;
    ensure!(
        from <= to && to <= now(),
        "the period runs backwards or into the future; give an earlier `--from`, and a `--to` that has passed"
    );
    let view = schedules::preview(&*database.store, &row, &schedule, (from, to)).await?;
    let Some(view) = view else {
        bail!("the period has more than {BACKFILL_MAX} fire times; take it in parts");
    };
    if !backfill.yes {
        context
            .output
            .result(&view, |view| preview(view, &backfill.name))?;
        return Ok(Exit::Good);
    }
    let command = Command::Backfill {
        from,
        to,
        by: actor(),
        reason: backfill.reason.unwrap_or_default(),
    };
    told(
        context,
        &database,
        &backfill.name,
        command,
        "makes up for it",
    )
    .await
}

fn preview(view: &BackfillView, name: &str) -> String {
    let count = u64::try_from(view.runs.len()).unwrap_or(u64::MAX);
    let ran = match view.ran {
        0 => String::new(),
        ran => format!("; {ran} have run already"),
    };
    if view.runs.is_empty() {
        return format!("nothing to run in this period{ran}");
    }
    let mut listing = Listing::new(&["WOULD RUN", "UTC"]).narrow(&[0, 1]);
    for fire in view.runs.iter().take(LINES_SHOWN) {
        listing.row([
            (fire.local.replacen('T', " ", 1), Tone::Plain),
            (
                fire.fire_at.format("%Y-%m-%d %H:%M:%S").to_string(),
                Tone::Dim,
            ),
        ]);
    }
    let more = match view.runs.len().saturating_sub(LINES_SHOWN) {
        0 => String::new(),
        more => format!("\nand {more} more"),
    };
    format!(
        "{listing}{more}\n\n{} would start{ran}. Nothing was done; to do it: {}",
        counted(count, "run", "runs"),
        paint(
            format!("tenure schedule backfill {name} --from ... --to ... --yes --reason '...'"),
            Tone::Code
        )
    )
}

/// A moment, or a time on the clock of `zone`.
fn moment(option: &str, text: &str, zone: Tz) -> anyhow::Result<DateTime<Utc>> {
    if let Ok(moment) = DateTime::parse_from_rfc3339(text) {
        return Ok(moment.to_utc());
    }
    let text = text.replacen(' ', "T", 1);
    let reading = NaiveDateTime::parse_from_str(&text, "%Y-%m-%dT%H:%M:%S")
        .or_else(|_| NaiveDateTime::parse_from_str(&text, "%Y-%m-%dT%H:%M"))
        .or_else(|_| {
            NaiveDate::parse_from_str(&text, "%Y-%m-%d").map(|day| day.and_time(NaiveTime::MIN))
        });
    let reading = reading.with_context(|| {
        format!("`{option} {text}` is no moment; write 2026-03-01, 2026-03-01T02:00 or 2026-03-01T02:00:00Z")
    })?;
    match zone.from_local_datetime(&reading) {
        LocalResult::Single(at) => Ok(at.to_utc()),
        LocalResult::Ambiguous(one, other) => Ok(one.to_utc().min(other.to_utc())),
        LocalResult::None => bail!(
            "`{option} {text}` does not exist on the clock of {zone}, which was set forward; give another, or a moment in UTC"
        ),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn moments_are_read_on_the_clock_of_the_zone() {
        let zone: Tz = "Europe/Berlin".parse().unwrap();
        for (text, expected) in [
            ("2026-03-01", "2026-02-28T23:00:00Z"),
            ("2026-07-01T02:30", "2026-07-01T00:30:00Z"),
            ("2026-07-01 02:30:15", "2026-07-01T00:30:15Z"),
            ("2026-03-01T02:00:00Z", "2026-03-01T02:00:00Z"),
            ("2026-03-01T02:00:00+05:00", "2026-02-28T21:00:00Z"),
            ("2026-10-25T02:30", "2026-10-25T00:30:00Z"),
        ] {
            let expected: DateTime<Utc> = expected.parse().unwrap();
            assert_eq!(moment("--from", text, zone).unwrap(), expected, "{text}");
        }
        for text in ["yesterday", "2026-13-01", "2026-03-29T02:30", ""] {
            assert!(moment("--to", text, zone).is_err(), "{text}");
        }
    }
}
