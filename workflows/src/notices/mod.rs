//! Telling people what they have to know.
//!
//! # Theory of operation
//!
//! A **notice** is a row, written in the transaction of the transition that is the reason for it ([`NoticeProjection`]): there
//! is none without a reason, and no reason without one. It says what happened ([`cause`], pure) and for whom, as it is
//! written: `manager`, `role:security`.
//!
//! Beside the lane the node that owns the notice's shard makes **messages** of it once its time has come ([`Router`]): it looks
//! up who is meant at that moment, and where they read. A message lies in the shard of its address, so that all that goes
//! to one address is in one hand and can be gathered into a digest. Nobody to be found is no reason to be silent: the
//! notice goes to the fallback, and says so.
//!
//! The node that owns the address's shard sends it ([`Courier`], one for each way). Which message it is stands in the database before
//! it leaves, and is its `Message-ID` and `webhook-id`: after a crash it is sent again under that name, so it arrives at
//! least once and a second one can be told from a new one. What is not taken is tried again with longer and longer pauses,
//! and parks in the end, where a person sees it.
//!
//! | state of a notice | means |
//! |---|---|
//! | `waiting` | its time has not come |
//! | `sending` | it became messages, which are on their way |
//! | `sent` | all its messages were taken |
//! | `parked` | a message was refused, or tried for too long; `tenure notice retry` sends it again |
//! | `undeliverable` | nobody is there to send it to |
//! | `void` | what it was about is over: a reminder of a question that is answered |

mod cause;
mod expiries;
mod links;
mod outbox;
mod post;
mod projection;
mod quiet;
mod recipient;
mod route;
mod rows;
mod settings;
mod sponsors;
mod statements;
mod template;

#[cfg(test)]
mod expiry_tests;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use engine::core::definition::{Definition, Work};
use engine::store::Migration;
use serde_json::Value;

use crate::actions::name;
use crate::policy::problem::suggest;
use crate::policy::{Problem, Problems, Schema};

pub(crate) use cause::about_contract;
pub use cause::{NotifyStep, VARS_BYTES_MAX};
pub use expiries::Expiries;
pub(crate) use links::use_link;
pub use links::{LinkRow, Links, PAGE as LINK_PAGE};
pub(crate) use outbox::put_in;
pub use outbox::{
    Found, NoticeCount, NoticeCursor, NoticeDetail, NoticeFilter, Outbox, PAGE_ROWS_MAX,
};
pub use post::{Away, Carrier, Courier, Line, Parcel, Round, Said, TAKEN_MAX};
pub use projection::NoticeProjection;
pub use quiet::QuietHours;
pub use recipient::{Address, Recipient};
pub use route::{Looked, Router};
pub use rows::{ChangeRow, DeliveryRow, DeliveryState, NoticeRow, NoticeState, Way};
pub use settings::{
    EmailSettings, LinkSettings, MailLogin, MailTls, NotificationSettings, WebhookSettings,
};
pub use sponsors::Sponsors;
pub use template::{Manner, RenderError, Rendered, TemplateFile, Templates, Vocabulary, kind};

/// The schema of notices, to be given to the store beside the directory's.
pub const MIGRATIONS: &[Migration] = &[
    Migration {
        version: 14,
        name: "notice",
        postgres: include_str!("../../../migrations/postgres/0014_notice.sql"),
        sqlite: include_str!("../../../migrations/sqlite/0014_notice.sql"),
    },
    Migration {
        version: 21,
        name: "notice_end",
        postgres: include_str!("../../../migrations/postgres/0021_notice_end.sql"),
        sqlite: include_str!("../../../migrations/sqlite/0021_notice_end.sql"),
    },
    Migration {
        version: 22,
        name: "contract_link",
        postgres: include_str!("../../../migrations/postgres/0022_contract_link.sql"),
        sqlite: include_str!("../../../migrations/sqlite/0022_contract_link.sql"),
    },
];

/// What is told, how, and to whom: the configuration of notices.
#[derive(Debug)]
pub struct Notices {
    settings: Option<NotificationSettings>,
    templates: Templates,
}

impl Notices {
    /// Of the files of `notices/`, checked against what sources deliver and what workflows give.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn load(
        settings: Option<NotificationSettings>,
        files: &[(String, String)],
        schema: &Schema,
        definitions: &[Definition],
    ) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let mut step_vars: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (_, _, with) in notify_steps(definitions) {
            let template = with.get("template").and_then(Value::as_str);
            let named = step_vars
                .entry(template.unwrap_or(kind::MESSAGE).to_owned())
                .or_default();
            let vars = with.get("vars").and_then(Value::as_object);
            named.extend(vars.into_iter().flat_map(|vars| vars.keys().cloned()));
        }
        let vocabulary = Vocabulary {
            attributes: schema.attributes.keys().cloned().collect(),
            step_vars,
        };
        let templates = match Templates::load(files, &vocabulary) {
            Ok(templates) => templates,
            Err(found) => {
                problems.more |= found.more;
                problems.extend(found.list);
                Templates::built_in()?
            }
        };
        for (workflow, step, with) in notify_steps(definitions) {
            check_step(workflow, step, with, &templates, &mut problems);
        }
        problems.into_result(|| Self {
            settings,
            templates,
        })
    }

    /// The built-in notices, and no way by which they leave.
    ///
    /// # Errors
    /// As [`Templates::built_in`].
    pub fn none() -> Result<Self, Problems> {
        Ok(Self {
            settings: None,
            templates: Templates::built_in()?,
        })
    }

    /// `None`: nobody is told anything.
    #[must_use]
    pub fn settings(&self) -> Option<&NotificationSettings> {
        self.settings.as_ref()
    }

    #[must_use]
    pub fn templates(&self) -> &Templates {
        &self.templates
    }

    /// What is allowed and likely a slip: roles that nobody stands behind, notices that nobody gets.
    #[must_use]
    pub fn warnings(&self, file: &str, definitions: &[Definition]) -> Vec<Problem> {
        let warning = |message: String, fix: &str| Problem::new(file, None, message, fix);
        let Some(settings) = &self.settings else {
            let told = notify_steps(definitions).next();
            return told
                .map(|(workflow, step, _)| {
                    warning(
                        format!("step `{step}` of workflow `{workflow}` tells somebody, and there are no `notifications`"),
                        "write `notifications:`; until then nobody is told",
                    )
                })
                .into_iter()
                .collect();
        };
        let mut warnings = Vec::new();
        let mut roles: BTreeMap<String, String> = BTreeMap::new();
        let mut note = |recipient: &Recipient, by: String| {
            if let Recipient::Role(role) = recipient
                && settings.roles.get(role).is_none_or(Vec::is_empty)
            {
                roles.entry(role.clone()).or_insert(by);
            }
        };
        for (name, manner) in self.templates.iter().filter(|(_, manner)| manner.send) {
            for recipient in manner.to.iter().chain(&manner.also) {
                note(recipient, format!("notice `{name}`"));
            }
        }
        for definition in definitions {
            let by = || format!("workflow `{}`", definition.name);
            let late = definition.deadline.as_ref();
            if let Some(to) = late.and_then(|deadline| deadline.escalate_to.as_deref()) {
                note(&Recipient::asked(to), by());
            }
            for step in &definition.steps {
                let asked = match &step.work {
                    Work::Approval(approval) => approval.ask.as_slice(),
                    Work::Task(task) => std::slice::from_ref(&task.assignee),
                    Work::Action { .. } | Work::WaitFor(_) => &[],
                };
                for one in asked {
                    note(&Recipient::asked(one), by());
                }
            }
        }
        if settings.email.is_some() {
            for (role, by) in roles {
                let message = if settings.fallback.is_empty() {
                    format!(
                        "{by} tells `role:{role}`, behind whom nobody stands, and there is no `notifications.fallback`"
                    )
                } else {
                    format!(
                        "{by} tells `role:{role}`, behind whom nobody stands; the fallback is told instead"
                    )
                };
                let fix = format!("add `{role}: [address]` to `notifications.roles`");
                warnings.push(warning(message, &fix));
            }
        }
        let hooked = settings.webhook.as_ref();
        for name in hooked
            .and_then(|hook| hook.notices.as_ref())
            .into_iter()
            .flatten()
        {
            if self.templates.manner(name).is_none() {
                warnings.push(warning(
                    format!("`notifications.webhook.notices` names `{name}`, and there is no such notice"),
                    &suggest(name, "notices", self.templates.names()),
                ));
            }
        }
        warnings
    }
}

/// Workflow, step and parameters of every step that tells somebody.
fn notify_steps(definitions: &[Definition]) -> impl Iterator<Item = (&str, &str, &Value)> {
    definitions.iter().flat_map(|definition| {
        definition.steps.iter().filter_map(|step| match &step.work {
            Work::Action { uses, with } if uses == name::NOTIFY => {
                Some((definition.name.as_str(), step.id.as_str(), with.written()))
            }
            _ => None,
        })
    })
}

/// What can be told of a step before it runs; what an expression gives is told when it does.
fn check_step(
    workflow: &str,
    step: &str,
    with: &Value,
    templates: &Templates,
    problems: &mut Problems,
) {
    let mut wrong = |what: String, fix: String| {
        let message = format!("step `{step}` of workflow `{workflow}`: {what}");
        problems.push(Problem::new(workflow, None, message, fix));
    };
    let constant = |text: &&str| !text.contains("${{");
    let to = match with.get("to") {
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
        Some(Value::String(one)) => vec![one.as_str()],
        _ => Vec::new(),
    };
    for one in to.into_iter().filter(constant) {
        if let Err(error) = Recipient::parse(one) {
            wrong(format!("`to`: {}", error.what), error.fix);
        }
    }
    let template = with.get("template").and_then(Value::as_str);
    if let Some(template) = template.filter(constant)
        && templates.manner(template).is_none()
    {
        wrong(
            format!("there is no notice `{template}`"),
            suggest(template, "notices", templates.names()),
        );
    }
}
