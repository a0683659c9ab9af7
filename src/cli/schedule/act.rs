//! Commands to a schedule: each is a message in the inbox, carried out by whichever node owns the schedule.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use engine::core::schedule::Origin;
use engine::runner::ScheduleCommand as Command;
use serde::Serialize;

use crate::cli::format::{Tone, paint, plain};
use crate::cli::{Context, Exit, actor};
use crate::shell::{Database, schedules};

/// How long a command waits for its answer when a node is running.
const ANSWER_WAIT: Duration = Duration::from_secs(10);
/// The largest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Make a schedule out of a file, or change one that was made this way
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
The file has the form of those in `schedules/` of the configuration; `tenure schedule schema` describes it. A schedule
that should be there for good is better kept in the configuration.

Examples:
  tenure schedule put weekly-report.yaml
  tenure schedule put weekly-report.yaml --reason 'asked for by finance'")]
pub struct Put {
    /// The file
    file: PathBuf,
    /// Why
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
}

/// Stop a schedule from firing until it is resumed
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
What has started goes on; what waits for an open run goes on waiting. Fire times that pass meanwhile are not made up for.

Examples:
  tenure schedule pause nightly-review --reason 'audit until Friday'")]
pub struct Pause {
    /// The schedule's name
    name: String,
    /// Why
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

/// Let a paused schedule fire again, from now on
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  tenure schedule resume nightly-review --reason 'audit is over'")]
pub struct Resume {
    /// The schedule's name
    name: String,
    /// Why
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

/// Start a run now, whatever the clock says
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Works for a paused schedule too. The overlap policy holds: with `skip` an open run is in the way.

Examples:
  tenure schedule run nightly-review --reason 'asked for by the auditor'")]
pub struct Run {
    /// The schedule's name
    name: String,
    /// Why
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

/// Remove a schedule that was made with `put` or by the API
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Its runs and its history stay. One that stands in the configuration is removed by removing its file.

Examples:
  tenure schedule delete weekly-report --reason 'replaced by the dashboard'")]
pub struct Delete {
    /// The schedule's name
    name: String,
    /// Why
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

pub(super) async fn put(context: &Context, put: Put) -> anyhow::Result<Exit> {
    let shown = put.file.display().to_string();
    let size = std::fs::metadata(&put.file).with_context(|| format!("cannot read `{shown}`"))?;
    if size.len() > FILE_BYTES_MAX {
        bail!("`{shown}` is larger than {FILE_BYTES_MAX} bytes");
    }
    let text =
        std::fs::read_to_string(&put.file).with_context(|| format!("cannot read `{shown}`"))?;
    let definitions = if context.config.is_dir() {
        context.configuration()?.definitions
    } else {
        workflows::definitions::load(&[])?
    };
    let known = definitions
        .iter()
        .map(|definition| definition.name.as_str());
    let spec = workflows::schedules::load(&shown, &text, known)?;
    let database = context.database().await?;
    let name = spec.name.clone();
    let command = Command::Put {
        spec,
        origin: Origin::Person,
        by: actor(),
        reason: put.reason,
    };
    told(context, &database, &name, command, "is in force").await
}

pub(super) async fn pause(context: &Context, pause: Pause) -> anyhow::Result<Exit> {
    let (database, _) = super::open(context, &pause.name).await?;
    let command = Command::Pause {
        by: actor(),
        reason: pause.reason,
    };
    told(context, &database, &pause.name, command, "is paused").await
}

pub(super) async fn resume(context: &Context, resume: Resume) -> anyhow::Result<Exit> {
    let (database, _) = super::open(context, &resume.name).await?;
    let command = Command::Resume {
        by: actor(),
        reason: resume.reason,
    };
    told(context, &database, &resume.name, command, "fires again").await
}

pub(super) async fn run(context: &Context, run: Run) -> anyhow::Result<Exit> {
    let (database, _) = super::open(context, &run.name).await?;
    let command = Command::Run {
        by: actor(),
        reason: run.reason,
    };
    told(context, &database, &run.name, command, "runs").await
}

pub(super) async fn delete(context: &Context, delete: Delete) -> anyhow::Result<Exit> {
    let (database, _) = super::open(context, &delete.name).await?;
    let command = Command::Remove {
        origin: Origin::Person,
        by: actor(),
        reason: delete.reason,
    };
    told(context, &database, &delete.name, command, "is removed").await
}

#[derive(Serialize)]
struct Told<'a> {
    schedule: &'a str,
    /// `accepted`, `refused` or `stored`.
    answer: &'static str,
    message: String,
}

/// Sends a command, and says what became of it.
pub(super) async fn told(
    context: &Context,
    database: &Database,
    name: &str,
    command: Command,
    what: &str,
) -> anyhow::Result<Exit> {
    let alive = database.node_alive().await?;
    let wait = if alive { ANSWER_WAIT } else { Duration::ZERO };
    let (answer, message) = match schedules::send(database, name, command, wait).await? {
        Some(reply) if reply.accepted => ("accepted", reply.message),
        Some(reply) => ("refused", reply.message),
        None => ("stored", String::new()),
    };
    let told = Told {
        schedule: name,
        answer,
        message,
    };
    context.output.result(&told, |told| {
        let message = plain(&told.message);
        match told.answer {
            "accepted" if message.is_empty() => {
                format!("{} schedule {name} {what}", paint(Tone::Good.sign(), Tone::Good))
            }
            "accepted" => format!("{} schedule {name} {what}: {message}", paint(Tone::Good.sign(), Tone::Good)),
            "refused" => format!("{} refused: {message}", paint(Tone::Bad.sign(), Tone::Bad)),
            _ if alive => format!("stored; no answer yet. See `tenure schedule show {name}`"),
            _ => "stored; no node is running on this database. It is carried out as soon as `tenure serve` runs".to_owned(),
        }
    })?;
    Ok(if answer == "refused" {
        Exit::Bad
    } else {
        Exit::Good
    })
}
