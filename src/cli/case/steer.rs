//! Commands that change the way a case takes: pause, resume, rerun, undo.

use anyhow::bail;
use engine::core::definition::OnFailure;
use engine::runner::Command;

use super::act::{Aim, open, told};
use crate::cli::{Context, Exit, actor};

/// Hold a case: it starts nothing until it is resumed
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
What is in flight comes back and is recorded; what waits in a queue is taken out of it. Timers that come due
meanwhile act when the case is resumed. Its deadline goes on, so that whoever is told of it is told. Questions
and tasks can be answered; the answers count once the case is resumed.

Holding a leaver leaves access open. `tenure case show` and `tenure case parked` say so until it is resumed.

Examples:
  tenure case pause 6f2c1a9e --reason 'crm is being moved until 18:00'")]
pub struct Pause {
    /// Identifier, its beginning, or a person's key
    #[arg(value_name = "CASE")]
    case: String,
    /// Why
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

/// Let a paused case go on
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  tenure case resume 6f2c1a9e --reason 'crm is back'")]
pub struct Resume {
    /// Identifier, its beginning, or a person's key
    #[arg(value_name = "CASE")]
    case: String,
    /// Why
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

/// Plan a step, and everything behind it, anew
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Facts are read again, lists are made again, and the effects are made again, under keys of their own. What the
step did before stays in the history, and an undo of the case takes back both. It is refused while an attempt
of any of these steps is in flight or of unknown outcome. A case that is closed stays closed.

Examples:
  tenure case rerun 6f2c1a9e --step plan --reason 'the policy is mended'")]
pub struct Rerun {
    /// Identifier, its beginning, or a person's key
    #[arg(value_name = "CASE")]
    case: String,
    /// The step, by its id
    #[arg(long, value_name = "STEP")]
    step: String,
    /// Why
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

/// Take back what a case did, last first
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
As if one of its steps had failed in a workflow with `on_failure: undo`. Steps without `undo:` stay as they are.
A workflow with `on_failure: forward` is never undone: what a leaver took away is given back by the next event
that says so, not by an undo.

Examples:
  tenure case undo 6f2c1a9e --reason 'wrong person'")]
pub struct Undo {
    /// Identifier, its beginning, or a person's key
    #[arg(value_name = "CASE")]
    case: String,
    /// Why
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

pub(super) async fn pause(context: &Context, pause: Pause) -> anyhow::Result<Exit> {
    let database = context.database().await?;
    let aim = Aim::find(&database, &pause.case).await?;
    let command = Command::Pause {
        by: actor(),
        reason: pause.reason,
    };
    told(context, &database, aim, command, "is paused").await
}

pub(super) async fn resume(context: &Context, resume: Resume) -> anyhow::Result<Exit> {
    let database = context.database().await?;
    let aim = Aim::find(&database, &resume.case).await?;
    let command = Command::Resume {
        by: actor(),
        reason: resume.reason,
    };
    told(context, &database, aim, command, "goes on").await
}

pub(super) async fn rerun(context: &Context, rerun: Rerun) -> anyhow::Result<Exit> {
    let (database, case) = open(context, &rerun.case).await?;
    let step = super::act::step(&case, &rerun.step)?;
    let command = Command::Rerun {
        step,
        by: actor(),
        reason: rerun.reason,
    };
    told(context, &database, &case, command, "runs again from there").await
}

pub(super) async fn undo(context: &Context, undo: Undo) -> anyhow::Result<Exit> {
    take_back(context, &undo.case, undo.reason).await
}

/// Asks a case, by its name or by whom it is about, to take back what it did.
pub(crate) async fn take_back(
    context: &Context,
    case: &str,
    reason: String,
) -> anyhow::Result<Exit> {
    let (database, case) = open(context, case).await?;
    if case.definition.on_failure == OnFailure::Forward {
        bail!(
            "workflow `{}` only goes forward (`on_failure: forward`); its cases are never undone",
            case.definition.name
        );
    }
    let command = Command::Undo {
        by: actor(),
        reason,
    };
    told(context, &database, &case, command, "takes back what it did").await
}
