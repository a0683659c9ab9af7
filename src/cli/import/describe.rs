//! What came of an import, for a person.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use workflows::directory::LagSummary;
use workflows::intake::{ImportReport, ImportStatus};
use workflows::sources::ChangeKind;

use super::{Imported, Worked, short};
use crate::cli::blast;
use crate::cli::format::{Listing, Tone, counted, number, paint, plain, time};

/// How a person goes on with what the guard stopped.
pub(crate) fn decide_hint(difference: &str) -> String {
    let short = short(difference);
    format!(
        "to apply exactly this:  {}\nto drop it:             {}",
        paint(format!("tenure import approve {short}"), Tone::Code),
        paint(
            format!("tenure import reject {short} --note '...'"),
            Tone::Code
        )
    )
}

pub(super) fn people_table(people: &BTreeMap<ChangeKind, u64>, population: u64) -> String {
    let count = |kind| people.get(&kind).copied().unwrap_or(0);
    let share = |count: u64| {
        if population == 0 {
            return String::new();
        }
        #[expect(clippy::cast_precision_loss, reason = "a share for people")]
        let share = count as f64 * 100.0 / population as f64;
        format!("{share:.1} %")
    };
    let mut listing = Listing::new(&["PEOPLE", "", "OF THOSE BEFORE"]).right(&[1, 2]);
    for (kind, word, tone) in [
        (ChangeKind::Create, "join or come back", Tone::Good),
        (ChangeKind::Update, "change", Tone::Busy),
        (ChangeKind::Remove, "leave", Tone::Bad),
    ] {
        let count = count(kind);
        listing.row([
            (word.to_owned(), Tone::Plain),
            (number(count), if count == 0 { Tone::Dim } else { tone }),
            (share(count), Tone::Dim),
        ]);
    }
    listing.to_string()
}

/// The result of an import for a person.
#[must_use]
pub fn describe(imported: &Imported) -> String {
    let mut text = describe_report(&imported.report);
    let started: u64 = imported.report.cases.values().sum();
    if started > 0 && imported.worked.is_none() {
        let _ = write!(text, "\n\n{}", next_step(imported.node_running));
    }
    text
}

fn next_step(node_running: bool) -> String {
    if node_running {
        return format!(
            "a node is working on it; follow it with {}",
            paint("tenure case list --open", Tone::Code)
        );
    }
    format!(
        "no node is running on this database; the cases wait. Start {}, or import with {}",
        paint("tenure serve", Tone::Code),
        paint("--run", Tone::Code)
    )
}

/// What a file said and what it started.
#[must_use]
pub fn describe_report(report: &ImportReport) -> String {
    let mut text = format!(
        "{}  {} of {}: {}{}\n",
        paint(plain(&report.source), Tone::Strong),
        plain(&report.file),
        report.as_of,
        counted(report.rows, "row", "rows"),
        if report.complete { ", complete" } else { "" }
    );
    for warning in &report.warnings {
        let _ = writeln!(text, "{} {warning}", paint("warning:", Tone::Warn));
    }
    match &report.status {
        ImportStatus::Unchanged => {
            text.push_str("nothing changed: this is what the source said before");
            return text;
        }
        ImportStatus::WaitingForApproval {
            reasons,
            population,
            examples,
        } => {
            let _ = writeln!(
                text,
                "{}",
                paint("stopped by the guard: nothing was done", Tone::Warn)
            );
            for reason in reasons {
                let _ = writeln!(
                    text,
                    "{} {}",
                    paint(Tone::Warn.sign(), Tone::Warn),
                    plain(reason)
                );
            }
            text.push('\n');
            let people = BTreeMap::from([
                (ChangeKind::Create, report.created),
                (ChangeKind::Update, report.changed),
                (ChangeKind::Remove, report.removed),
            ]);
            let _ = writeln!(text, "{}", people_table(&people, *population));
            if let Some(blast) = &report.blast {
                let _ = writeln!(text, "\n{}", blast::table(blast));
            }
            for (kind, keys) in examples {
                let names: Vec<String> = keys.iter().map(|key| plain(key.as_str())).collect();
                let _ = writeln!(
                    text,
                    "{} for example: {}",
                    paint(kind.verb(), Tone::Dim),
                    names.join(" ")
                );
            }
            if let Some(difference) = &report.difference_id {
                let _ = write!(
                    text,
                    "\nto see all of it:       {}\n{}",
                    paint(
                        format!("tenure import show {}", short(difference)),
                        Tone::Code
                    ),
                    decide_hint(difference)
                );
            }
            return text;
        }
        ImportStatus::Previewed {
            reasons,
            population,
            ..
        } => {
            let people = BTreeMap::from([
                (ChangeKind::Create, report.created),
                (ChangeKind::Update, report.changed),
                (ChangeKind::Remove, report.removed),
            ]);
            let _ = writeln!(text, "{}", people_table(&people, *population));
            if let Some(blast) = &report.blast {
                let _ = writeln!(text, "\n{}", blast::table(blast));
            }
            for reason in reasons {
                let sign = paint(Tone::Warn.sign(), Tone::Warn);
                let _ = writeln!(text, "{sign} {}", plain(reason));
            }
            let _ = write!(
                text,
                "\nnothing was done; {}. The difference is {}",
                if reasons.is_empty() {
                    "it would be applied at once"
                } else {
                    "a person would have to decide"
                },
                paint(
                    report.difference_id.as_deref().unwrap_or_default(),
                    Tone::Code
                )
            );
            return text;
        }
        ImportStatus::Applied => {}
    }
    let mut listing = Listing::new(&["EVENT", "PEOPLE"]).right(&[1]);
    for (event, count) in &report.events {
        listing.row([(event.clone(), Tone::Plain), (number(*count), Tone::Plain)]);
    }
    let _ = writeln!(text, "{listing}");
    if report.events_waiting > 0 {
        let _ = writeln!(
            text,
            "{} for its time",
            counted(report.events_waiting, "event waits", "events wait")
        );
    }
    if report.missing_not_removed > 0 {
        let _ = writeln!(
            text,
            "{} {} missing, but the file does not claim to be complete: nobody is taken to have left",
            paint(Tone::Warn.sign(), Tone::Warn),
            counted(report.missing_not_removed, "person is", "people are")
        );
    }
    let cases: Vec<String> = report
        .cases
        .iter()
        .map(|(workflow, count)| format!("{} {workflow}", number(*count)))
        .collect();
    let _ = write!(
        text,
        "cases started: {}",
        if cases.is_empty() {
            "none".to_owned()
        } else {
            cases.join(", ")
        }
    );
    text
}

/// What became of the cases, for a person.
#[must_use]
pub fn describe_worked(worked: &Worked) -> String {
    let took = time::length_ms(f64::from(u32::try_from(worked.took_ms).unwrap_or(u32::MAX)));
    let mut text = format!("{}\n", worked.remaining.describe(&took));
    if !worked.lag.is_empty() {
        let _ = write!(text, "\n{}", lag_table(&worked.lag));
    }
    text
}

/// How long corrections took, by system and direction.
#[must_use]
pub fn lag_table(lag: &[LagSummary]) -> String {
    let ms = |value: Option<u64>| {
        value.map_or_else(
            || "-".to_owned(),
            |ms| time::length_ms(f64::from(u32::try_from(ms).unwrap_or(u32::MAX))),
        )
    };
    let mut listing = Listing::new(&[
        "ACCESS LAG ON",
        "",
        "CASES",
        "P50",
        "P99",
        "MAX",
        "UNVERIFIED",
    ])
    .right(&[2, 3, 4, 5, 6])
    .narrow(&[0, 1, 3, 4, 5]);
    for row in lag {
        let kind = serde_json::to_value(row.kind)
            .ok()
            .and_then(|kind| kind.as_str().map(str::to_owned))
            .unwrap_or_default();
        listing.row([
            (plain(&row.system), Tone::Strong),
            (kind, Tone::Plain),
            (number(row.cases), Tone::Plain),
            (ms(row.p50_ms), Tone::Plain),
            (ms(row.p99_ms), Tone::Plain),
            (ms(row.max_ms), Tone::Plain),
            (
                number(row.unverified),
                if row.unverified > 0 {
                    Tone::Warn
                } else {
                    Tone::Dim
                },
            ),
        ]);
    }
    listing.to_string()
}
