//! `tenure notice show`.

use std::fmt::Write as _;

use workflows::notices::Outbox;

use crate::cli::format::{Tone, paint, plain, time};
use crate::cli::{Context, Exit};
use crate::shell::notices::view::{NoticeDetailView, find};
use crate::shell::now;

/// Show a notice: for whom, why, and what became of each message
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  tenure notice show 5b1f
  tenure notice show 5b1f --json | jq '.messages[].answer'")]
pub struct Show {
    /// Its identifier, or the beginning of it
    notice: String,
}

pub(super) async fn run(context: &Context, show: Show) -> anyhow::Result<Exit> {
    let database = context.database().await?;
    let outbox = Outbox::new(database.directory.clone());
    let row = find(&outbox, &show.notice).await?;
    let detail: NoticeDetailView = outbox.detail(row).await?.into();
    context.output.result(&detail, page)?;
    database.close().await;
    Ok(Exit::Good)
}

pub(super) fn page(detail: &NoticeDetailView) -> String {
    let notice = &detail.notice;
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{}  {}  {}",
        paint(&notice.id, Tone::Strong),
        plain(&notice.name),
        paint(notice.state, super::tone(notice.state))
    );
    let at = |moment| time::with_distance(moment, now());
    let _ = writeln!(
        text,
        "  to {}{}, made {}",
        plain(&notice.to),
        if notice.urgent { ", urgent" } else { "" },
        at(notice.created_at)
    );
    if let Some(subject) = &notice.subject {
        let _ = write!(text, "  about {}", plain(subject));
        if let (Some(workflow), Some(case)) = (&notice.workflow, &notice.case) {
            let step = notice.step.as_deref().unwrap_or("-");
            let _ = write!(text, ": {} {case}, step {}", plain(workflow), plain(step));
        }
        text.push('\n');
    }
    if let Some(reason) = &notice.reason {
        let _ = writeln!(
            text,
            "  {}",
            paint(plain(reason), super::tone(notice.state))
        );
    }
    if notice.state == "waiting" {
        let _ = writeln!(text, "  due {}", at(notice.due_at));
    }
    for message in &detail.messages {
        let to = if message.address.is_empty() {
            String::new()
        } else {
            format!(" to {}", plain(&message.address))
        };
        let _ = writeln!(
            text,
            "\n{}{to}: {}, {} {}",
            message.way,
            paint(message.state, super::tone(message.state)),
            message.attempts,
            if message.attempts == 1 {
                "attempt"
            } else {
                "attempts"
            },
        );
        if let Some(why) = &message.instead_of {
            let _ = writeln!(text, "  instead of somebody else: {}", plain(why));
        }
        if let Some(answer) = &message.answer {
            let _ = writeln!(text, "  {}", plain(answer));
        }
        match (message.state, message.sent_at) {
            (_, Some(sent)) => {
                let _ = writeln!(text, "  sent {}", at(sent));
            }
            ("waiting" | "sending", None) => {
                let _ = writeln!(text, "  next {}", at(message.due_at));
            }
            _ => {}
        }
        if let Some(id) = &message.message {
            let _ = writeln!(text, "  message {id}");
        }
    }
    for change in &detail.changes {
        let _ = writeln!(
            text,
            "\n{} by {} {}: {}",
            plain(&change.action),
            plain(&change.by),
            at(change.at),
            plain(&change.reason)
        );
    }
    text
}
