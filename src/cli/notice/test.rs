//! `tenure notice test`.

use anyhow::Context as _;
use chrono_tz::Tz;
use serde::Serialize;
use serde_json::json;
use uuid::Uuid;
use workflows::notices::{Address, Away, Carrier as _, Parcel, Said, kind};

use crate::cli::format::{Tone, paint, plain};
use crate::cli::{Context, Exit};
use crate::shell::notices::{Mail, Webhook};
use crate::shell::now;

/// Send a message that says nothing but that messages arrive
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Sends at once, from this process, and says what the other side answered. Needs neither a node nor the database, and leaves
no trace there. Exit code 1 when it was not taken.

Examples:
  tenure notice test --to ann@example.org
  tenure notice test --webhook")]
#[group(required = true, multiple = false)]
pub struct Test {
    /// By mail, to this address
    #[arg(long, value_name = "ADDRESS")]
    to: Option<String>,
    /// To the webhook
    #[arg(long)]
    webhook: bool,
}

#[derive(Serialize)]
struct Told {
    /// `email` or `webhook`.
    way: &'static str,
    taken: bool,
    answer: String,
    message: String,
}

pub(super) async fn run(context: &Context, test: Test) -> anyhow::Result<Exit> {
    let configuration = context.configuration()?;
    let missing =
        "tenure.yaml has no `notifications`; docs/notifications.md says how to write them";
    let settings = configuration.notices.settings().context(missing)?;
    let at = now();
    let address = match &test.to {
        Some(text) => Address::parse(text)?.as_str().to_owned(),
        None => String::new(),
    };
    let values = json!({
        "recipient": { "address": address, "asked_as": address },
        "notice": { "name": kind::TEST, "created_at": at },
        "link": settings.link,
    });
    let templates = configuration.notices.templates();
    let says = templates.render(kind::TEST, &values, Tz::UTC)?;
    let message = Uuid::new_v4().to_string();
    let parcel = Parcel {
        message_id: message.clone(),
        address,
        person_name: None,
        date: at,
        data: json!({
            "type": format!("tenure.{}", kind::TEST),
            "timestamp": at,
            "data": { "notice": message, "subject": says.subject, "text": says.text },
        }),
        says,
    };
    let (way, said) = if test.webhook {
        let webhook = settings
            .webhook
            .as_ref()
            .context("`notifications` has no `webhook`")?;
        let hook = Webhook::new(webhook).context("cannot use `notifications.webhook`")?;
        (hook.way(), sent(&hook, &parcel).await)
    } else {
        let email = settings
            .email
            .as_ref()
            .context("`notifications` has no `email`")?;
        let mail = Mail::new(email).context("cannot use `notifications.email`")?;
        (mail.way(), sent(&mail, &parcel).await)
    };
    let (taken, answer) = match said {
        Ok(Said::Taken { answer }) => (true, answer),
        Ok(Said::NotNow { answer, .. } | Said::Refused { answer }) => (false, answer),
        Ok(Said::Broken { reason } | Said::NotSent { reason }) | Err(Away(reason)) => {
            (false, reason)
        }
    };
    let told = Told {
        way: way.as_str(),
        taken,
        answer,
        message,
    };
    context.output.result(&told, |told| {
        let answer = plain(&told.answer);
        if told.taken {
            format!(
                "{} taken: {answer}\n  message {}",
                paint(Tone::Good.sign(), Tone::Good),
                told.message
            )
        } else {
            format!("{} not taken: {answer}", paint(Tone::Bad.sign(), Tone::Bad))
        }
    })?;
    Ok(if taken { Exit::Good } else { Exit::Bad })
}

async fn sent(carrier: &dyn workflows::notices::Carrier, parcel: &Parcel) -> Result<Said, Away> {
    let mut line = carrier.open().await?;
    let said = line.send(parcel).await;
    line.close().await;
    Ok(said)
}
