//! Notices for people and machines: as the command line and the API show them.

use anyhow::bail;
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use workflows::notices::{Found, NoticeDetail, NoticeRow, Outbox};

/// A notice: that somebody has to be told something.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct NoticeView {
    pub id: String,
    /// `approval.asked`, `case.parked` and so on: the name of its template.
    pub name: String,
    /// `waiting`, `sending`, `sent`, `parked`, `undeliverable` or `void`.
    pub state: &'static str,
    /// Why it is so, or what else is to be said.
    pub reason: Option<String>,
    /// For whom, as it is written: `manager`, `role:security`, an address.
    pub to: String,
    /// The key of the person it is about.
    pub subject: Option<String>,
    pub case: Option<String>,
    pub workflow: Option<String>,
    pub step: Option<String>,
    pub urgent: bool,
    pub created_at: DateTime<Utc>,
    /// When it became, or becomes, messages.
    pub due_at: DateTime<Utc>,
    pub changed_at: DateTime<Utc>,
}

/// A message that a notice became.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct MessageView {
    /// `email` or `webhook`.
    pub way: &'static str,
    /// Empty for the webhook.
    pub address: String,
    /// `waiting`, `sending`, `sent` or `parked`.
    pub state: &'static str,
    /// Stands in its `Message-ID` or `webhook-id`; null before it was sent first. Notices that left together share it.
    pub message: Option<String>,
    pub attempts: u32,
    /// When it was tried last, or is tried next.
    pub due_at: DateTime<Utc>,
    /// What the other side said last.
    pub answer: Option<String>,
    pub sent_at: Option<DateTime<Utc>>,
    /// Why it goes to this address instead of another.
    pub instead_of: Option<String>,
}

/// What a person did about a notice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct NoticeChangeView {
    pub at: DateTime<Utc>,
    pub by: String,
    pub action: String,
    pub reason: String,
}

/// A notice with what became of it.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct NoticeDetailView {
    #[serde(flatten)]
    pub notice: NoticeView,
    /// What its template may name as `vars`.
    #[schema(value_type = Object)]
    pub vars: Value,
    pub messages: Vec<MessageView>,
    pub changes: Vec<NoticeChangeView>,
}

impl From<NoticeRow> for NoticeView {
    fn from(row: NoticeRow) -> Self {
        Self {
            id: row.notice_id,
            name: row.name,
            state: row.state.as_str(),
            reason: row.reason,
            to: row.recipient,
            subject: row.subject,
            case: row.case_id,
            workflow: row.workflow,
            step: row.step,
            urgent: row.urgent,
            created_at: row.created_at,
            due_at: row.due_at,
            changed_at: row.changed_at,
        }
    }
}

impl From<NoticeDetail> for NoticeDetailView {
    fn from(detail: NoticeDetail) -> Self {
        let messages = detail.deliveries.into_iter().map(|row| MessageView {
            way: row.channel.as_str(),
            address: row.address,
            state: row.state.as_str(),
            message: row.message_id,
            attempts: row.attempts,
            due_at: row.due_at,
            answer: row.answer,
            sent_at: row.sent_at,
            instead_of: row.instead_of,
        });
        let changes = detail.changes.into_iter().map(|row| NoticeChangeView {
            at: row.at,
            by: row.actor,
            action: row.action,
            reason: row.reason,
        });
        Self {
            vars: detail.notice.vars.clone(),
            messages: messages.collect(),
            changes: changes.collect(),
            notice: detail.notice.into(),
        }
    }
}

/// The notice that a person means, by its identifier or the beginning of it.
///
/// # Errors
/// When there is none, or more than one.
pub async fn find(outbox: &Outbox, meant: &str) -> anyhow::Result<NoticeRow> {
    match outbox.find(meant).await? {
        Found::One(row) => Ok(*row),
        Found::Several => {
            bail!("`{meant}` is the beginning of more than one notice; write more of it")
        }
        Found::None => bail!("there is no notice `{meant}`; see `tenure notice list`"),
    }
}
