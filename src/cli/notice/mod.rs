//! `tenure notice`: what people are told, and what became of it.

mod list;
mod retry;
mod show;
mod test;

use clap::{Args, Subcommand};
use workflows::notices::NoticeState;

use super::format::Tone;
use super::{Context, Exit};

/// Look at notices: what people are told, and what became of it
#[derive(Debug, Args)]
#[command(after_long_help = "\
Notices leave by mail and by webhook, as `notifications` of tenure.yaml says; docs/notifications.md describes both. One that
is `parked` was refused or tried for too long, one that is `undeliverable` found nobody to send it to: both wait for a person.

Examples:
  tenure notice list
  tenure notice list --attention
  tenure notice show 5b1f
  tenure notice retry 5b1f --reason 'the mailbox is there now'
  tenure notice test --to ann@example.org")]
pub struct NoticeCommand {
    #[command(subcommand)]
    command: Sub,
}

#[derive(Debug, Subcommand)]
enum Sub {
    List(list::List),
    Show(show::Show),
    Retry(retry::Retry),
    Test(test::Test),
    /// Print the JSON Schema of the files in `notices/`
    Schema,
}

/// Runs one of the commands on notices.
///
/// # Errors
/// When the configuration is wrong, there is no such notice, or the database cannot be reached.
pub async fn run(context: &Context, command: NoticeCommand) -> anyhow::Result<Exit> {
    match command.command {
        Sub::List(command) => list::run(context, command).await,
        Sub::Show(command) => show::run(context, command).await,
        Sub::Retry(command) => retry::run(context, command).await,
        Sub::Test(command) => test::run(context, command).await,
        Sub::Schema => {
            let schema = schemars::schema_for!(workflows::notices::TemplateFile);
            context
                .output
                .raw(&serde_json::to_string_pretty(&schema)?)?;
            Ok(Exit::Good)
        }
    }
}

/// How a state looks.
fn tone(state: &str) -> Tone {
    match NoticeState::parse(state) {
        Some(NoticeState::Sent) => Tone::Good,
        Some(NoticeState::Waiting | NoticeState::Sending) => Tone::Busy,
        Some(NoticeState::Parked | NoticeState::Undeliverable) => Tone::Bad,
        Some(NoticeState::Void) | None => Tone::Dim,
    }
}
