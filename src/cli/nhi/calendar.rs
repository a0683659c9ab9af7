//! What comes when: credentials that run out and that are replaced, the windows for it, reviews, questions that have to be answered. As a table, as a calendar that other
//! programs read (RFC 5545), and as a picture.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use chrono::{DateTime, Datelike as _, Days, NaiveDate, Utc};
use clap::Args;
use engine::core::duration::Span;
use serde::Serialize;
use workflows::directory::{FoundFilter, NhiFilter, NhiRow, NhiStatus, PAGE_ROWS_MAX};

use super::super::format::markup::escaped;
use super::super::format::{Listing, Tone, plain, shortened, time};
use super::super::{Context, Exit};
use super::CELL_CHARS_MAX;
use crate::shell::now;
use crate::shell::rotations::upcoming;

/// The most of one kind that are read.
const LISTED_MAX: u32 = 100_000;
/// The longest line of a calendar file, in bytes: RFC 5545, section 3.1.
const LINE_BYTES_MAX: usize = 75;
/// How many things a day's tooltip names.
const NAMED_MAX: usize = 12;
/// The most times of one window: what may be changed all the time needs no entry for each.
const WINDOWS_MAX: usize = 400;

/// Show what comes when: ends and replacements of credentials, reviews, questions to be answered
#[derive(Debug, Args)]
#[command(after_long_help = "\
What is late already comes first. Replacements are where they are planned; windows are listed as they are declared, with how
many begin in each.

Examples:
  tenure nhi calendar
  tenure nhi calendar --within 365d --svg > year.svg
  tenure nhi calendar --team data --ics > data.ics")]
pub struct Calendar {
    /// How far ahead
    #[arg(long, value_name = "TIME", value_parser = Span::parse, default_value = "90d")]
    within: Span,
    /// Only what this team answers for
    #[arg(long)]
    team: Option<String>,
    /// Only what this person owns or backs up
    #[arg(long, value_name = "KEY")]
    person: Option<String>,
    /// Write a calendar file (RFC 5545)
    #[arg(long, conflicts_with = "svg")]
    ics: bool,
    /// Write a picture (SVG)
    #[arg(long)]
    svg: bool,
}

/// What has to be done by a moment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Entry {
    at: DateTime<Utc>,
    what: What,
    name: String,
    /// When it is over, of what lasts.
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<DateTime<Utc>>,
    /// How many rotations begin in it, of a window.
    #[serde(skip_serializing_if = "Option::is_none")]
    begin: Option<usize>,
    /// The identity it is of.
    nhi: Option<String>,
    /// Who answers for it.
    owner: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum What {
    Expires,
    Review,
    Answer,
    Replace,
    Window,
}

impl What {
    const ALL: [Self; 5] = [
        Self::Expires,
        Self::Review,
        Self::Answer,
        Self::Replace,
        Self::Window,
    ];

    fn told(self) -> &'static str {
        match self {
            Self::Expires => "expires",
            Self::Review => "review",
            Self::Answer => "answer for it",
            Self::Replace => "replaced",
            Self::Window => "window",
        }
    }

    fn colour(self) -> &'static str {
        match self {
            Self::Expires => "#b3261e",
            Self::Review => "#1f5fa8",
            Self::Answer => "#8a6100",
            Self::Replace => "#1b6e3c",
            Self::Window => "#6b6870",
        }
    }
}

impl Entry {
    /// What happens at one moment.
    fn moment(at: DateTime<Utc>, what: What, name: String) -> Self {
        Self {
            at,
            what,
            name,
            until: None,
            begin: None,
            nhi: None,
            owner: None,
        }
    }

    fn of(self, row: &NhiRow) -> Self {
        Self {
            nhi: Some(row.nhi_key.clone()),
            owner: Some(row.owner.clone()),
            ..self
        }
    }

    /// What it is called in a line.
    fn shown(&self) -> String {
        match self.begin {
            Some(begin) => format!("{} ({begin} begin)", self.name),
            None => self.name.clone(),
        }
    }
}

pub async fn run(context: &Context, calendar: &Calendar) -> anyhow::Result<Exit> {
    let at = now();
    let before = at + calendar.within.delta();
    let database = context.database().await?;
    let directory = &database.directory;
    let filter = NhiFilter {
        person: calendar.person.clone(),
        team: calendar.team.clone(),
        ..NhiFilter::default()
    };
    let mut rows: BTreeMap<String, NhiRow> = BTreeMap::new();
    loop {
        let after = rows.keys().next_back().cloned();
        let page = directory
            .nhis(&filter, after.as_deref(), PAGE_ROWS_MAX)
            .await?;
        if page.is_empty() {
            break;
        }
        rows.extend(page.into_iter().map(|row| (row.nhi_key.clone(), row)));
    }
    rows.retain(|_, row| row.status != NhiStatus::Retired);
    let mut entries = Vec::new();
    for row in rows.values() {
        let day = row.review_on.and_time(chrono::NaiveTime::MIN).and_utc();
        if day < before {
            entries.push(Entry::moment(day, What::Review, row.nhi_key.clone()).of(row));
        }
    }
    for credential in directory
        .nhi_credentials_expiring(before, LISTED_MAX)
        .await?
    {
        let (Some(row), Some(end)) = (rows.get(&credential.nhi_key), credential.expires_at) else {
            continue;
        };
        entries.push(Entry::moment(end, What::Expires, credential.name).of(row));
    }
    let mut begin: Vec<DateTime<Utc>> = Vec::new();
    for rotation in upcoming(directory, before).await? {
        let (Some(row), Some(start)) = (rows.get(&rotation.nhi_key), rotation.starts_at) else {
            continue;
        };
        if rotation.declared.window.is_some() && !rotation.past_window {
            begin.push(start);
        }
        entries.push(Entry::moment(start, What::Replace, rotation.name).of(row));
    }
    entries.extend(windows(&rows, &begin, at, before));
    if calendar.team.is_none() && calendar.person.is_none() {
        let filter = FoundFilter {
            due_before: Some(before),
            ..FoundFilter::default()
        };
        for found in directory.found(&filter, LISTED_MAX).await? {
            let name = format!("{}/{}", found.system, found.thing);
            entries.push(Entry {
                nhi: found.nhi_key,
                ..Entry::moment(found.due_at, What::Answer, name)
            });
        }
    }
    database.close().await;
    entries.sort();
    if calendar.ics {
        context.output.raw(&ics(&entries, at))?;
    } else if calendar.svg {
        context
            .output
            .raw(&svg(&entries, at.date_naive(), before.date_naive()))?;
    } else {
        context
            .output
            .result(&entries, |entries| table(entries, at))?;
    }
    Ok(Exit::Good)
}

/// Every time of every window that is declared, and how many of those that begin in a window begin in it.
fn windows(
    rows: &BTreeMap<String, NhiRow>,
    begin: &[DateTime<Utc>],
    at: DateTime<Utc>,
    before: DateTime<Utc>,
) -> Vec<Entry> {
    let credentials = rows.values().flat_map(|row| &row.declared.credentials);
    let declared =
        credentials.filter_map(|credential| credential.rotation.as_ref()?.window.as_ref());
    let mut seen = BTreeSet::new();
    let mut entries = Vec::new();
    for window in declared {
        let name = format!("{} {} {}", window.cron, window.zone, window.length);
        if !seen.insert(name.clone()) {
            continue;
        }
        let mut next = window.at_or_after(at);
        for _ in 0..WINDOWS_MAX {
            let Some(open) = next.filter(|open| open.from < before) else {
                break;
            };
            let within = |start: &&DateTime<Utc>| **start >= open.from && **start < open.until;
            entries.push(Entry {
                until: Some(open.until),
                begin: Some(begin.iter().filter(within).count()),
                ..Entry::moment(open.from, What::Window, name.clone())
            });
            next = window.at_or_after(open.until);
        }
    }
    entries
}

fn table(entries: &[Entry], at: DateTime<Utc>) -> String {
    if entries.is_empty() {
        return "nothing comes within that time".to_owned();
    }
    let mut listing = Listing::new(&["DAY", "IN", "WHAT", "NAME", "OWNER"]).narrow(&[0, 1, 2]);
    for entry in entries {
        let late = if entry.until.unwrap_or(entry.at) <= at {
            Tone::Bad
        } else {
            Tone::Plain
        };
        listing.row([
            (entry.at.date_naive().to_string(), late),
            (time::relative(entry.at, at), late),
            (entry.what.told().to_owned(), Tone::Dim),
            (shortened(&entry.shown(), CELL_CHARS_MAX), Tone::Strong),
            (
                plain(entry.owner.as_deref().unwrap_or_default()),
                Tone::Plain,
            ),
        ]);
    }
    listing.to_string()
}

// --- RFC 5545 ---------------------------------------------------------------------------------------------------

fn ics(entries: &[Entry], at: DateTime<Utc>) -> String {
    let mut lines = vec![
        "BEGIN:VCALENDAR".to_owned(),
        "VERSION:2.0".to_owned(),
        "PRODID:-//Tenure//non-human identities//EN".to_owned(),
    ];
    let stamp = at.format("%Y%m%dT%H%M%SZ");
    for entry in entries {
        lines.push("BEGIN:VEVENT".to_owned());
        // The same thing keeps its name, so that a calendar which is read again moves it; a window comes again and again.
        let which = match entry.what {
            What::Window => format!(":{}", entry.at.timestamp()),
            _ => String::new(),
        };
        lines.push(format!(
            "UID:{}:{}{which}@tenure",
            entry.what.told().replace(' ', "-"),
            text(&entry.name)
        ));
        lines.push(format!("DTSTAMP:{stamp}"));
        match entry.what {
            What::Review => lines.push(format!("DTSTART;VALUE=DATE:{}", entry.at.format("%Y%m%d"))),
            _ => lines.push(format!("DTSTART:{}", entry.at.format("%Y%m%dT%H%M%SZ"))),
        }
        if let Some(until) = entry.until {
            lines.push(format!("DTEND:{}", until.format("%Y%m%dT%H%M%SZ")));
        }
        lines.push(format!(
            "SUMMARY:{}: {}",
            entry.what.told(),
            text(&entry.shown())
        ));
        if let Some(owner) = &entry.owner {
            lines.push(format!(
                "DESCRIPTION:{}",
                text(&format!("answers for it: {owner}"))
            ));
        }
        lines.push("END:VEVENT".to_owned());
    }
    lines.push("END:VCALENDAR".to_owned());
    lines.iter().map(|line| folded(line)).collect()
}

/// A text as a value: section 3.3.11.
fn text(given: &str) -> String {
    let mut text = String::with_capacity(given.len());
    for c in given.chars() {
        match c {
            '\\' | ';' | ',' => text.extend(['\\', c]),
            '\n' => text.push_str("\\n"),
            c if c.is_control() => {}
            c => text.push(c),
        }
    }
    text
}

/// A line with its end, folded where it is longer than the format allows, between characters.
fn folded(line: &str) -> String {
    let mut folded = String::with_capacity(line.len() + 2);
    let mut bytes = 0;
    for c in line.chars() {
        if bytes + c.len_utf8() > LINE_BYTES_MAX {
            folded.push_str("\r\n ");
            bytes = 1;
        }
        folded.push(c);
        bytes += c.len_utf8();
    }
    folded.push_str("\r\n");
    folded
}

// --- a picture --------------------------------------------------------------------------------------------------

const CELL: u64 = 22;
const LEFT: u64 = 96;
const TOP: u64 = 64;
/// From this share on a number is written in white.
const LIGHT_ON_DARK: usize = 60;

/// A row of days for each month, each day as dark as much comes on it, with what that is on hovering.
fn svg(entries: &[Entry], from: NaiveDate, until: NaiveDate) -> String {
    let mut days: BTreeMap<NaiveDate, Vec<&Entry>> = BTreeMap::new();
    for entry in entries {
        // What is late stands on the first day.
        days.entry(entry.at.date_naive().max(from))
            .or_default()
            .push(entry);
    }
    let most = days.values().map(Vec::len).max().unwrap_or(1);
    let first = from.with_day(1).unwrap_or(from);
    let mut months = Vec::new();
    let mut month = first;
    while month <= until && months.len() < 1_200 {
        months.push(month);
        let Some(next) = month.checked_add_months(chrono::Months::new(1)) else {
            break;
        };
        month = next;
    }
    let rows = u64::try_from(months.len()).unwrap_or(0);
    let (width, height) = (LEFT + 31 * CELL + 16, TOP + rows * CELL + 40);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"16\" y=\"26\" font-size=\"16\" font-weight=\"600\" fill=\"#1c1b1f\">What comes from {from} until {until}</text>\n"
    );
    for number in 1..=31_u64 {
        let x = LEFT + (number - 1) * CELL + CELL / 2;
        let _ = writeln!(
            out,
            "<text x=\"{x}\" y=\"{}\" text-anchor=\"middle\" fill=\"#5f5e62\" font-size=\"10\">{number}</text>",
            TOP - 8
        );
    }
    for (row, month) in (0..).zip(&months) {
        let y = TOP + row * CELL;
        let _ = writeln!(
            out,
            "<text x=\"16\" y=\"{}\" fill=\"#1c1b1f\">{}</text>",
            y + 15,
            month.format("%b %Y")
        );
        let mut day = *month;
        while day.month() == month.month() {
            cell(
                &mut out,
                day,
                y,
                days.get(&day).map_or(&[], Vec::as_slice),
                most,
                day >= from && day <= until,
            );
            let Some(next) = day.checked_add_days(Days::new(1)) else {
                break;
            };
            day = next;
        }
    }
    let y = height - 16;
    for (place, what) in (0..).zip(What::ALL) {
        let count = entries.iter().filter(|entry| entry.what == what).count();
        let x = LEFT + place * 136;
        let _ = writeln!(
            out,
            "<rect x=\"{x}\" y=\"{}\" width=\"12\" height=\"12\" rx=\"2\" fill=\"{}\"/><text x=\"{}\" y=\"{y}\" fill=\"#1c1b1f\">{}: {count}</text>",
            y - 11,
            what.colour(),
            x + 18,
            what.told(),
        );
    }
    out.push_str("</svg>\n");
    out
}

fn cell(
    out: &mut String,
    day: NaiveDate,
    y: u64,
    entries: &[&Entry],
    most: usize,
    is_within: bool,
) {
    let x = LEFT + u64::from(day.day0()) * CELL;
    let size = CELL - 2;
    let Some(worst) = entries.iter().map(|entry| entry.what).min() else {
        let fill = if is_within { "#f1f0f4" } else { "#fafafa" };
        let _ = writeln!(
            out,
            "<rect x=\"{x}\" y=\"{y}\" width=\"{size}\" height=\"{size}\" rx=\"3\" fill=\"{fill}\"/>"
        );
        return;
    };
    // Never so light that one thing cannot be seen, in hundredths.
    let share = 35 + 64 * entries.len() / most.max(1);
    let mut named: Vec<String> = entries
        .iter()
        .take(NAMED_MAX)
        .map(|entry| format!("{}: {}", entry.what.told(), escaped(&entry.shown())))
        .collect();
    if entries.len() > NAMED_MAX {
        named.push(format!("and {} more", entries.len() - NAMED_MAX));
    }
    let _ = writeln!(
        out,
        "<g><title>{day}\n{}</title><rect x=\"{x}\" y=\"{y}\" width=\"{size}\" height=\"{size}\" rx=\"3\" fill=\"{}\" \
         fill-opacity=\"0.{share:02}\"/><text x=\"{}\" y=\"{}\" text-anchor=\"middle\" font-size=\"10\" fill=\"{}\">{}</text></g>",
        named.join("\n"),
        worst.colour(),
        x + size / 2,
        y + 14,
        if share >= LIGHT_ON_DARK {
            "#ffffff"
        } else {
            "#1c1b1f"
        },
        entries.len(),
    );
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn entry(day: &str, what: What, name: &str) -> Entry {
        let at = format!("{day}T12:00:00Z").parse().unwrap();
        Entry {
            owner: Some("ann, of \"data\"".to_owned()),
            ..Entry::moment(at, what, name.to_owned())
        }
    }

    #[test]
    fn windows_are_listed_with_how_many_begin_in_each() {
        let text = "
nhis:
  - {key: sync, kind: bot, environment: production, purpose: syncs, team: data, owner: ann, backup: bob, review: 2027-01-31,
     credentials: [
       {system: db, id: 'password:a', kind: password, replaced_by: single_slot, rotation: {place: {system: db, bundle: a},
        users: [a], window: {cron: '0 2 * * SAT', length: 4h, zone: Europe/Zurich}}},
       {system: db, id: 'password:b', kind: password, replaced_by: single_slot, rotation: {place: {system: db, bundle: b},
        users: [b], window: {cron: '0 2 * * SAT', length: 4h, zone: Europe/Zurich}}}]}";
        let systems = BTreeSet::from(["db"]);
        let declared = workflows::nhi::declare::parse("n.yaml", text, &systems).unwrap();
        let at: DateTime<Utc> = "2026-11-26T12:00:00Z".parse().unwrap();
        let row = |declared: &workflows::nhi::declare::Declared| {
            let row: NhiRow = serde_json::from_value(serde_json::json!({
                "shard_id": 1, "nhi_key": declared.key, "kind": "bot", "status": "active",
                "environment": "production", "team": "data", "owner": "ann", "backup": "bob",
                "review_on": "2027-01-31", "declared": declared, "declared_at": at, "changed_at": at,
            }))
            .unwrap();
            (declared.key.clone(), row)
        };
        let rows = declared.iter().map(row).collect();
        let begin: Vec<DateTime<Utc>> = [
            "2026-11-28T01:00:00Z",
            "2026-11-28T04:59:59Z",
            "2026-12-05T05:00:00Z",
        ]
        .map(|at| at.parse().unwrap())
        .into();
        let entries = windows(&rows, &begin, at, at + chrono::TimeDelta::days(14));
        let told: Vec<String> = entries
            .iter()
            .map(|entry| format!("{} {}", entry.at.to_rfc3339(), entry.shown()))
            .collect();
        assert_eq!(
            told,
            [
                "2026-11-28T01:00:00+00:00 0 2 * * SAT Europe/Zurich 4h (2 begin)",
                "2026-12-05T01:00:00+00:00 0 2 * * SAT Europe/Zurich 4h (0 begin)",
            ]
        );
        let file = ics(&entries, at).replace("\r\n ", "");
        assert!(file.contains("DTEND:20261128T050000Z"), "{file}");
        let names: BTreeSet<&str> = file
            .lines()
            .filter(|line| line.starts_with("UID:"))
            .collect();
        assert_eq!(names.len(), 2, "{file}");
    }

    #[test]
    fn a_calendar_file_keeps_to_its_format_whatever_names_hold() {
        let hostile = format!("ldap/a;b,c\\d\r\nEND:VEVENT {}", "ü".repeat(80));
        let at = "2026-01-01T00:00:00Z".parse().unwrap();
        let file = ics(
            &[
                entry("2026-02-01", What::Expires, &hostile),
                entry("2026-02-03", What::Review, "x"),
            ],
            at,
        );
        assert!(file.ends_with("END:VCALENDAR\r\n"));
        assert_eq!(file.matches("BEGIN:VEVENT").count(), 2);
        assert_eq!(
            file.lines().filter(|line| *line == "END:VEVENT").count(),
            2,
            "{file}"
        );
        for line in file.split("\r\n") {
            assert!(
                line.len() <= LINE_BYTES_MAX && !line.contains(['\r', '\n']),
                "{line}"
            );
        }
        let unfolded = file.replace("\r\n ", "");
        assert!(
            unfolded.contains("SUMMARY:expires: ldap/a\\;b\\,c\\\\d\\nEND:VEVENT ü"),
            "{unfolded}"
        );
        assert!(unfolded.contains("DTSTART;VALUE=DATE:20260203"));
        assert!(unfolded.contains("DESCRIPTION:answers for it: ann\\, of \"data\""));
    }

    #[test]
    fn a_picture_is_well_formed_and_shows_each_day() {
        let entries = [
            entry("2025-12-24", What::Expires, "late <&> \"x\""),
            entry("2026-02-28", What::Review, "b"),
            entry("2026-02-28", What::Answer, "c"),
        ];
        let picture = svg(
            &entries,
            "2026-01-01".parse().unwrap(),
            "2026-03-31".parse().unwrap(),
        );
        assert!(picture.contains("late &lt;&amp;&gt;"), "{picture}");
        assert_eq!(picture.matches("<title>").count(), 2);
        assert!(
            picture.contains("2026-01-01\nexpires: late"),
            "what is late stands on the first day"
        );
        // Every day of January to March.
        assert_eq!(picture.matches("<rect x=").count(), 90 + What::ALL.len());
        let nothing = svg(
            &[],
            "2026-01-31".parse().unwrap(),
            "2026-01-31".parse().unwrap(),
        );
        assert!(nothing.ends_with("</svg>\n"));
    }
}
