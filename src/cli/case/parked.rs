//! `tenure case parked`: what waits for somebody to do something about it.

use std::fmt::Write as _;

use anyhow::bail;
use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::cli::format::{Listing, Tone, paint, plain, shortened, time};
use crate::cli::{Context, Exit};
use crate::shell::case_view::short;
use crate::shell::now;
use crate::shell::parked::{self, Kind, Wanted};

/// How many characters of an error a line of the table shows; the rest stands below it with `--whole`.
const ERROR_CHARS: usize = 60;

/// What waits for somebody: parked work, stuck steps, paused cases, the oldest first
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
OWNER is who has to act: whoever was asked, or else whom the workflow's deadline escalates to.

Examples:
  tenure case parked
  tenure case parked --system crm --whole      with the whole error and what to type
  tenure case bulk retry --parked --system crm --reason 'crm is back'")]
pub struct ParkedCommand {
    /// Only of this workflow
    #[arg(long, value_name = "NAME")]
    workflow: Option<String>,
    /// Only about this system
    #[arg(long, value_name = "NAME")]
    system: Option<String>,
    /// The whole error of each, and what can be done
    #[arg(long)]
    whole: bool,
    /// How many
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
    /// Where the list goes on, from `next` of the list before
    #[arg(long, value_name = "PLACE")]
    after: Option<String>,
}

#[derive(Debug, Serialize)]
struct Found {
    items: Vec<parked::Parked>,
    next: Option<String>,
}

pub(super) async fn run(context: &Context, command: ParkedCommand) -> anyhow::Result<Exit> {
    let database = context.database().await?;
    let after = match &command.after {
        None => None,
        Some(text) => match parked::parse_place(text) {
            Some(place) => Some(place),
            None => bail!(
                "`--after {text}` is no place in this list; take it from `next` of the list before"
            ),
        },
    };
    let wanted = Wanted {
        workflow: command.workflow,
        system: command.system,
    };
    let limit = usize::from(command.limit);
    let (items, next) = parked::page(&database, &wanted, after, limit).await?;
    let found = Found {
        items,
        next: next.as_ref().map(parked::place_text),
    };
    context
        .output
        .result(&found, |found| render(found, command.whole, now()))?;
    Ok(Exit::Good)
}

fn render(found: &Found, whole: bool, now: DateTime<Utc>) -> String {
    if found.items.is_empty() {
        return "nothing waits for anybody".to_owned();
    }
    let mut text = if whole {
        let items: Vec<String> = found.items.iter().map(|item| entry(item, now)).collect();
        items.join("\n")
    } else {
        table(&found.items, now)
    };
    if let Some(next) = &found.next {
        let _ = write!(
            text,
            "\n{}",
            paint(
                format!("more: tenure case parked --after {next}"),
                Tone::Dim
            )
        );
    }
    text
}

fn table(items: &[parked::Parked], now: DateTime<Utc>) -> String {
    let mut listing = Listing::new(&[
        "CASE", "SINCE", "WORKFLOW", "SUBJECT", "WHERE", "OWNER", "WHY",
    ])
    .narrow(&[0, 1]);
    for item in items {
        listing.row([
            (short(&item.case.to_string()).to_owned(), Tone::Code),
            (time::relative(item.since, now), tone_of_age(item)),
            (shortened(&item.workflow, 20), Tone::Plain),
            (shortened(&item.subject, 24), Tone::Strong),
            (place(item), Tone::Plain),
            (owner(item), Tone::Plain),
            (
                format!(
                    "{}: {}",
                    item.kind.as_str(),
                    shortened(&item.error, ERROR_CHARS)
                ),
                Tone::Bad,
            ),
        ]);
    }
    listing.to_string()
}

fn tone_of_age(item: &parked::Parked) -> Tone {
    if item.deadline_passed {
        Tone::Bad
    } else {
        Tone::Dim
    }
}

fn place(item: &parked::Parked) -> String {
    let step = item
        .step
        .clone()
        .unwrap_or_else(|| "the whole case".to_owned());
    if item.label.is_empty() {
        step
    } else {
        format!("{step} {}", shortened(&item.label, 30))
    }
}

fn owner(item: &parked::Parked) -> String {
    if item.owner.is_empty() {
        "nobody named".to_owned()
    } else {
        shortened(&item.owner.join(", "), 30)
    }
}

/// One thing with all that is known of it.
fn entry(item: &parked::Parked, now: DateTime<Utc>) -> String {
    let mut text = format!(
        "{} {}  {}  {}  {}\n",
        paint(Tone::Bad.sign(), Tone::Bad),
        paint(short(&item.case.to_string()), Tone::Code),
        plain(&item.workflow),
        paint(plain(&item.subject), Tone::Strong),
        place(item)
    );
    let late = if item.deadline_passed {
        ", past the case's deadline"
    } else {
        ""
    };
    let _ = writeln!(
        text,
        "  {} {}{late}, {} {}",
        item.kind.as_str(),
        time::relative(item.since, now),
        if item.owner.is_empty() {
            "nobody is named to act;"
        } else {
            "to act:"
        },
        if item.owner.is_empty() {
            "give the workflow `deadline: { escalate_to: ... }`".to_owned()
        } else {
            plain(&item.owner.join(", "))
        }
    );
    for line in item.error.lines() {
        let _ = writeln!(text, "  {}", plain(line));
    }
    for command in commands(item) {
        let _ = writeln!(text, "    {}", paint(command, Tone::Code));
    }
    text
}

/// What to type.
fn commands(item: &parked::Parked) -> Vec<String> {
    let id = item.case.to_string();
    let case = short(&id);
    let step = item.step.as_deref().unwrap_or_default();
    let instance = item
        .instance
        .filter(|_| matches!(item.kind, Kind::Parked | Kind::Undo))
        .map(|number| format!(" --instance {number}"))
        .unwrap_or_default();
    let why = "--reason '...'";
    item.can
        .iter()
        .map(|can| match *can {
            "retry" => format!("tenure case retry {case} --step {step}{instance}"),
            "skip" => format!("tenure case skip {case} --step {step}{instance} {why}"),
            "rerun" => format!("tenure case rerun {case} --step {step} {why}"),
            "force_cancel" => format!("tenure case cancel {case} --force {why}"),
            other => format!("tenure case {other} {case} {why}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
    use super::*;

    #[test]
    fn a_list_says_who_has_to_act_and_what_to_type() {
        let now: DateTime<Utc> = "2026-03-02T10:00:00Z".parse().unwrap();
        let item = parked::Parked {
            case: uuid::Uuid::from_u128(0x6f2c_1a9e_0000_0000_0000_0000_0000_0001),
            workflow: "leaver".to_owned(),
            subject: "E1".to_owned(),
            lane: "revocation",
            kind: Kind::Parked,
            step: Some("disable".to_owned()),
            instance: Some(2),
            label: "crm".to_owned(),
            system: Some("crm".to_owned()),
            owner: vec!["role:security".to_owned()],
            since: "2026-03-02T09:00:00Z".parse().unwrap(),
            attempts: 12,
            error_kind: Some("denied".to_owned()),
            error: "denied\nby the directory".to_owned(),
            deadline_at: None,
            deadline_passed: true,
            can: vec!["retry", "cancel"],
        };
        let found = Found {
            items: vec![item],
            next: None,
        };
        let shown = |whole| anstream::adapter::strip_str(&render(&found, whole, now)).to_string();
        let table = shown(false);
        assert!(
            table.contains("role:security") && table.contains("disable crm"),
            "{table}"
        );
        let whole = shown(true);
        for expected in [
            "past the case's deadline, to act: role:security",
            "by the directory",
            "tenure case retry 6f2c1a9e-0000 --step disable --instance 2",
        ] {
            assert!(whole.contains(expected), "{whole}");
        }
    }
}
