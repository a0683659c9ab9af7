//! `tenure case reassign`: a question or a task goes to somebody else.

use engine::core::case::{Ask, InstanceState};
use engine::runner::Command;

use super::act::{Target, only, open, told};
use crate::cli::{Context, Exit, actor};

/// Put an open question or task to somebody else
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Its time runs on, and whoever has approved already has approved. A person is named by `person:KEY`, a role by `role:NAME`.

Examples:
  tenure case reassign 6f2c1a9e --from manager --to person:E10044 --reason 'on leave until May'
  tenure case reassign 6f2c1a9e --step handover --instance 2 --from role:identity --to role:archive --reason 'their files'")]
pub struct Reassign {
    #[command(flatten)]
    target: Target,
    /// Whom it is put to now, as `tenure case show` says it
    #[arg(long, value_name = "WHO")]
    from: String,
    /// Whom it is put to from now on
    #[arg(long, value_name = "WHO")]
    to: String,
    /// Why; it stands in the evidence
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

pub(super) async fn run(context: &Context, reassign: Reassign) -> anyhow::Result<Exit> {
    let (database, case) = open(context, &reassign.target.case).await?;
    let what = format!("an answer of `{}`", reassign.from);
    let place = only(&case, &reassign.target, &what, |instance| {
        match &instance.state {
            InstanceState::Asking {
                ask: Ask::Approval { ask, .. },
                ..
            } => ask.contains(&reassign.from),
            InstanceState::Asking {
                ask: Ask::Task { assignee, .. },
                ..
            } => *assignee == reassign.from,
            _ => false,
        }
    })?;
    let command = Command::Reassign {
        place,
        from: reassign.from,
        to: reassign.to,
        by: actor(),
        reason: reassign.reason,
    };
    told(context, &database, &case, command, "asks somebody else").await
}
