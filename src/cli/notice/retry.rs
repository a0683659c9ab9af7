//! `tenure notice retry`.

use anyhow::bail;
use workflows::notices::Outbox;

use crate::cli::{Context, Exit, actor};
use crate::shell::notices::view::{NoticeDetailView, find};
use crate::shell::now;

/// Send a notice again that parked, or found nobody
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
A parked message is sent again under the name it had, so that a receiver who got it after all knows it again; what left in one
message with it goes along. One that found nobody looks up anew who is meant. A running node does it within seconds.

Examples:
  tenure notice retry 5b1f --reason 'the mailbox is there now'")]
pub struct Retry {
    /// Its identifier, or the beginning of it
    notice: String,
    /// Why; stands beside the notice
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

pub(super) async fn run(context: &Context, retry: Retry) -> anyhow::Result<Exit> {
    if retry.reason.trim().is_empty() {
        bail!("`--reason` is empty; say why, it stands beside the notice");
    }
    let database = context.database().await?;
    let outbox = Outbox::new(database.directory.clone());
    let row = find(&outbox, &retry.notice).await?;
    if !row.state.waits_for_a_person() {
        bail!(
            "notice `{}` is `{}`; only one that is `parked` or `undeliverable` is sent again",
            row.notice_id,
            row.state.as_str()
        );
    }
    outbox.retry(&row, &actor(), &retry.reason, now()).await?;
    let row = find(&outbox, &row.notice_id).await?;
    let detail: NoticeDetailView = outbox.detail(row).await?.into();
    context.output.result(&detail, super::show::page)?;
    database.close().await;
    Ok(Exit::Good)
}
