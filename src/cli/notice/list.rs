//! `tenure notice list`.

use clap::ValueEnum;
use workflows::notices::{NoticeFilter, NoticeState, Outbox};

use crate::cli::format::{Listing, Tone, plain, shortened, time};
use crate::cli::{Context, Exit};
use crate::shell::notices::view::NoticeView;
use crate::shell::now;

/// How much of an identifier tells it from others.
const ID_SHOWN: usize = 8;
/// The longest text of a cell, in characters.
const CELL_CHARS_MAX: usize = 60;

/// List notices, the newest first
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Exit code 1 says that a listed notice waits for a person.

Examples:
  tenure notice list
  tenure notice list --attention
  tenure notice list --state sent --name approval.asked --limit 500
  tenure notice list --case 0199f4 --json | jq -r '.[].state'")]
pub struct List {
    /// Only those in this state; may be given more than once
    #[arg(long = "state", value_name = "STATE", value_enum)]
    states: Vec<State>,
    /// Only those that wait for a person: parked and undeliverable
    #[arg(long, conflicts_with = "states")]
    attention: bool,
    /// Only those of this name
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Only those about this person, by key
    #[arg(long, value_name = "KEY")]
    subject: Option<String>,
    /// Only those of this case: its identifier, or the beginning of it
    #[arg(long, value_name = "CASE")]
    case: Option<String>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum State {
    Waiting,
    Sending,
    Sent,
    Parked,
    Undeliverable,
    Void,
}

impl From<State> for NoticeState {
    fn from(state: State) -> Self {
        match state {
            State::Waiting => Self::Waiting,
            State::Sending => Self::Sending,
            State::Sent => Self::Sent,
            State::Parked => Self::Parked,
            State::Undeliverable => Self::Undeliverable,
            State::Void => Self::Void,
        }
    }
}

pub(super) async fn run(context: &Context, list: List) -> anyhow::Result<Exit> {
    let database = context.database().await?;
    let states = if list.attention {
        Some(vec![NoticeState::Parked, NoticeState::Undeliverable])
    } else {
        let states: Vec<NoticeState> = list.states.into_iter().map(Into::into).collect();
        (!states.is_empty()).then_some(states)
    };
    let case_id = match list.case {
        Some(meant) => Some(database.find_case(&meant).await?.to_string()),
        None => None,
    };
    let filter = NoticeFilter {
        states,
        name: list.name,
        case_id,
        subject: list.subject,
    };
    let outbox = Outbox::new(database.directory.clone());
    let rows = outbox.list(&filter, None, list.limit).await?;
    let attention = rows.iter().any(|row| row.state.waits_for_a_person());
    let views: Vec<NoticeView> = rows.into_iter().map(Into::into).collect();
    context.output.result(&views, |views| table(views))?;
    database.close().await;
    Ok(if attention { Exit::Bad } else { Exit::Good })
}

fn table(views: &[NoticeView]) -> String {
    if views.is_empty() {
        return "no notices".to_owned();
    }
    let headings = ["ID", "STATE", "NAME", "TO", "ABOUT", "MADE", "REASON"];
    let mut listing = Listing::new(&headings).narrow(&[0, 1, 5]);
    for view in views {
        let id: String = view.id.chars().take(ID_SHOWN).collect();
        listing.row([
            (id, Tone::Strong),
            (view.state.to_owned(), super::tone(view.state)),
            (plain(&view.name), Tone::Plain),
            (shortened(&view.to, CELL_CHARS_MAX), Tone::Plain),
            (
                shortened(view.subject.as_deref().unwrap_or_default(), CELL_CHARS_MAX),
                Tone::Plain,
            ),
            (time::relative(view.created_at, now()), Tone::Plain),
            (
                shortened(view.reason.as_deref().unwrap_or_default(), CELL_CHARS_MAX),
                Tone::Dim,
            ),
        ]);
    }
    listing.to_string()
}
