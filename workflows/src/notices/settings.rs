//! `notifications` of tenure.yaml: by which ways notices leave, and who stands behind roles.

use std::collections::BTreeMap;
use std::path::PathBuf;

use connectors::secret::SecretRef;
use engine::core::duration::Span;
use engine::core::retry::RetryPolicy;
use schemars::JsonSchema;
use serde::Deserialize;

use super::quiet::QuietHours;
use super::recipient::{Address, Recipient};
use crate::policy::Problem;

/// The most recipients of one role, and of the fallback.
const RECIPIENTS_MAX: usize = 50;
const HOUR_S: u32 = 3_600;
const DAY_S: u32 = 86_400;

/// Tells people what they have to know: by mail, and to other programs by signed requests. Without it nobody is told.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NotificationSettings {
    #[serde(default)]
    pub email: Option<EmailSettings>,
    #[serde(default)]
    pub webhook: Option<WebhookSettings>,
    /// Who stands behind `role:NAME`: addresses, or people as `person:KEY`.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, Vec<String>>")]
    pub roles: BTreeMap<String, Vec<Recipient>>,
    /// Who gets what nobody else can: addresses, or people as `person:KEY`.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub fallback: Vec<Recipient>,
    /// When people are left in peace by what is not urgent.
    #[serde(default)]
    pub quiet_hours: Option<QuietHours>,
    /// How long before its deadline an open question is told again; half of its time, when that is less.
    #[serde(default = "remind_before")]
    pub remind_before: Span,
    /// How often a message that was not taken is sent again.
    #[serde(default = "retry")]
    pub retry: RetryPolicy,
    /// How long a message is tried at most, however seldom; then it parks.
    #[serde(default = "give_up_after")]
    pub give_up_after: Span,
    /// How long notices are kept once they are delivered, parked or void.
    #[serde(default = "keep")]
    pub keep: Span,
    /// The attribute of a person that holds their address.
    #[serde(default = "email_attribute")]
    pub email_attribute: String,
    /// The attribute of a person that holds their time zone, for quiet hours and for times in templates.
    #[serde(default = "zone_attribute")]
    pub zone_attribute: String,
    /// Where people find Tenure; templates see it as `link`.
    #[serde(default)]
    pub link: Option<String>,
    /// Lets sponsors ask for a contract to go on by a link in the mail. Left out, mails have none.
    #[serde(default)]
    pub links: Option<LinkSettings>,
}

/// Links by which somebody does one thing without a login.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LinkSettings {
    /// Where the key is kept that signs them: `env:NAME` or `file:/path`, `whsec_` and base64 of 24 to 64 bytes.
    #[schemars(with = "String")]
    pub secret: SecretRef,
    /// How long one holds, and no longer than the contract it is about.
    #[serde(default = "link_valid")]
    pub valid: Span,
}

fn link_valid() -> Span {
    Span::from_s(14 * DAY_S)
}

fn remind_before() -> Span {
    Span::from_s(4 * HOUR_S)
}

fn retry() -> RetryPolicy {
    RetryPolicy {
        first: Span::from_s(30),
        factor: 2.0,
        max: Span::from_s(HOUR_S),
        attempts: 20,
    }
}

fn give_up_after() -> Span {
    Span::from_s(2 * DAY_S)
}

fn keep() -> Span {
    Span::from_s(90 * DAY_S)
}

fn email_attribute() -> String {
    "email".to_owned()
}

fn zone_attribute() -> String {
    "time_zone".to_owned()
}

/// A server that takes mail.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EmailSettings {
    pub server: String,
    /// 587, or 465 with `tls: implicit`, when left out.
    #[serde(default)]
    pub port: Option<u16>,
    #[serde(default)]
    pub tls: MailTls,
    /// Certificates, in PEM, of the authorities that may vouch for the server, instead of those of this machine.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    #[serde(default)]
    pub login: Option<MailLogin>,
    /// From whom notices come: `tenure@example.org`.
    #[schemars(with = "String")]
    pub from: Address,
    /// The name beside that address.
    #[serde(default = "from_name")]
    pub from_name: String,
    /// How this machine names itself to the server; the domain of `from` when left out.
    #[serde(default)]
    pub hello: Option<String>,
    /// How long the server may take for each message, and to open.
    #[serde(default = "timeout")]
    pub timeout: Span,
}

fn from_name() -> String {
    "Tenure".to_owned()
}

fn timeout() -> Span {
    Span::from_s(30)
}

/// How the way to the server is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MailTls {
    /// Opened in the clear, and nothing is said before it is protected.
    #[default]
    Starttls,
    /// Protected from the first byte.
    Implicit,
    /// Only to this machine.
    None,
}

#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MailLogin {
    pub user: String,
    /// Where it is kept: `env:NAME` or `file:/path`.
    #[schemars(with = "String")]
    pub password: SecretRef,
}

/// A program that is told, by requests signed as Standard Webhooks says.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WebhookSettings {
    /// `https://...`; `http://` only on this machine.
    pub url: String,
    /// Where the key is kept: `env:NAME` or `file:/path`, `whsec_` and base64 of 24 to 64 bytes.
    #[schemars(with = "String")]
    pub secret: SecretRef,
    /// Which notices are sent, by name; all when left out.
    #[serde(default)]
    pub notices: Option<Vec<String>>,
    /// Certificates, in PEM, of the authorities that may vouch for the receiver, instead of those of this machine.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    #[serde(default = "webhook_timeout")]
    pub timeout: Span,
}

fn webhook_timeout() -> Span {
    Span::from_s(10)
}

impl EmailSettings {
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.unwrap_or(match self.tls {
            MailTls::Implicit => 465,
            MailTls::Starttls | MailTls::None => 587,
        })
    }

    /// How this machine names itself.
    #[must_use]
    pub fn hello(&self) -> &str {
        self.hello.as_deref().unwrap_or(self.from.domain())
    }
}

impl NotificationSettings {
    /// # Errors
    /// The first thing that is wrong. `file` is where they stand.
    pub fn check(&self, file: &str) -> Result<(), Problem> {
        let problem = |message: String, fix: &str| {
            Err(Problem::new(
                file,
                None,
                format!("`notifications.{message}"),
                fix,
            ))
        };
        let limits = [
            ("give_up_after", self.give_up_after, 60, 30 * DAY_S),
            ("keep", self.keep, DAY_S, 3_650 * DAY_S),
            ("retry.first", self.retry.first, 1, DAY_S),
            ("retry.max", self.retry.max, 1, DAY_S),
            ("remind_before", self.remind_before, 0, 30 * DAY_S),
        ];
        let timeouts = [
            self.email
                .as_ref()
                .map(|email| ("email.timeout", email.timeout, 1, 300)),
            self.webhook
                .as_ref()
                .map(|webhook| ("webhook.timeout", webhook.timeout, 1, 60)),
        ];
        for (name, span, least_s, most_s) in
            limits.into_iter().chain(timeouts.into_iter().flatten())
        {
            let (least, most) = (Span::from_s(least_s), Span::from_s(most_s));
            if span < least || span > most {
                let fix = format!("give `{least}` to `{most}`");
                return problem(format!("{name}` is {span}"), &fix);
            }
        }
        if !(1..=1_000).contains(&self.retry.attempts)
            || !(1.0..=100.0).contains(&self.retry.factor)
        {
            return problem(
                "retry` has a number that is too small or too large".to_owned(),
                "give `attempts` 1 to 1000 and `factor` 1 to 100",
            );
        }
        if self.email.is_none() && self.webhook.is_none() {
            return problem(
                "email` and `notifications.webhook` are both missing".to_owned(),
                "write `email`, `webhook` or both, or leave `notifications` out",
            );
        }
        self.check_people(&problem)?;
        if let Some(hours) = &self.quiet_hours
            && hours.from == hours.to
        {
            return problem(
                "quiet_hours` begins when it ends".to_owned(),
                "give `from` and `to` different times",
            );
        }
        if let Some(link) = &self.link
            && !(link.starts_with("https://") || link.starts_with("http://"))
        {
            return problem(format!("link` is `{link}`"), "write `https://HOST/`");
        }
        if let Some(links) = &self.links {
            let (least, most) = (Span::from_s(60), Span::from_s(90 * DAY_S));
            if links.valid < least || links.valid > most {
                let fix = format!("give `{least}` to `{most}`");
                return problem(format!("links.valid` is {}", links.valid), &fix);
            }
            let safe = self.link.as_deref().is_some_and(|link| {
                let here = link.strip_prefix("http://");
                link.starts_with("https://") || here.is_some_and(|rest| is_this_machine(host(rest)))
            });
            if !safe {
                return problem(
                    "links` needs `notifications.link`, where people find Tenure".to_owned(),
                    "write `link: https://HOST`; whoever reads along could use a link",
                );
            }
        }
        if let Some(email) = &self.email {
            check_email(email, &problem)?;
        }
        if let Some(webhook) = &self.webhook {
            let to_here = webhook
                .url
                .strip_prefix("http://")
                .is_some_and(|rest| is_this_machine(host(rest)));
            if !(webhook.url.starts_with("https://") || to_here) {
                return problem(
                    format!("webhook.url` is `{}`", webhook.url),
                    "write `https://...`; `http://` only reaches `127.0.0.1`, `[::1]` and `localhost`",
                );
            }
        }
        Ok(())
    }

    fn check_people(
        &self,
        problem: &dyn Fn(String, &str) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        let lists = self
            .roles
            .iter()
            .map(|(role, people)| (format!("roles.{role}"), people));
        for (name, people) in lists.chain([("fallback".to_owned(), &self.fallback)]) {
            if people.len() > RECIPIENTS_MAX {
                return problem(
                    format!("{name}` names more than {RECIPIENTS_MAX}"),
                    "use the address of a list",
                );
            }
            for recipient in people {
                if !matches!(recipient, Recipient::Address(_) | Recipient::Person(_)) {
                    return problem(
                        format!("{name}` names `{recipient}`, who is another one in each case"),
                        "give addresses, or people as `person:KEY`",
                    );
                }
            }
        }
        Ok(())
    }
}

fn check_email(
    email: &EmailSettings,
    problem: &dyn Fn(String, &str) -> Result<(), Problem>,
) -> Result<(), Problem> {
    let name = |text: &str| {
        !text.is_empty()
            && text.len() <= 253
            && text
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-.:[]".contains(c))
    };
    if !name(&email.server) {
        return problem(
            format!("email.server` is `{}`", email.server),
            "write the name or the address of the server alone; `port` and `tls` are fields of their own",
        );
    }
    if !name(email.hello()) {
        return problem(
            format!("email.hello` is `{}`", email.hello()),
            "write a name that stands in the DNS",
        );
    }
    if email.from_name.chars().any(char::is_control) {
        return problem(
            "email.from_name` has a control character".to_owned(),
            "write one line",
        );
    }
    if email.tls == MailTls::None && !is_this_machine(&email.server) {
        return problem(
            format!(
                "email.tls` is `none` and `{}` is another machine",
                email.server
            ),
            "write `tls: starttls` or `tls: implicit`",
        );
    }
    Ok(())
}

fn host(rest: &str) -> &str {
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    match authority.strip_prefix('[') {
        Some(address) => address.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    }
}

fn is_this_machine(host: &str) -> bool {
    matches!(host, "localhost" | "::1" | "[::1]") || {
        let address: Result<std::net::Ipv4Addr, _> = host.parse();
        address.is_ok_and(|address| address.is_loopback())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const WEBHOOK: &str = "webhook: { url: 'https://x.example/', secret: 'env:K' }\n";

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let settings: NotificationSettings = serde_saphyr::from_str(text).unwrap();
        match settings.check("tenure.yaml") {
            Ok(()) => assert_eq!(expected, "", "{text}"),
            Err(problem) => {
                let told = problem.to_string();
                assert!(!expected.is_empty() && told.contains(expected), "{told}");
            }
        }
    }

    #[track_caller]
    fn check_email(fields: &str, expected: &str) {
        check(
            &format!("email: {{ from: a@example.org, {fields} }}"),
            expected,
        );
    }

    #[test]
    fn mistakes_are_told() {
        check(
            "{}",
            "`notifications.email` and `notifications.webhook` are both missing",
        );
        check(WEBHOOK, "");
        check_email("server: mail.example.org", "");
        check_email("server: 'mail.example.org:25'", "");
        check_email("server: 'smtp://mail'", "`port` and `tls` are fields");
        check_email("server: mail.example.org, tls: none", "is another machine");
        check_email("server: 127.0.0.1, tls: none", "");
        check_email(
            "server: m, timeout: 1h",
            "`notifications.email.timeout` is 1h",
        );
        check_email("server: m, hello: 'a b'", "email.hello");
        check(
            "webhook: { url: 'http://x.example/', secret: 'env:K' }",
            "`notifications.webhook.url` is `http://x.example/`",
        );
        check("webhook: { url: 'http://[::1]:80/x', secret: 'env:K' }", "");
        check(
            "webhook: { url: 'http://127.0.0.1@x.example/', secret: 'env:K' }",
            "webhook.url",
        );
        let with = |text: &str| format!("{WEBHOOK}{text}");
        check(
            &with("roles: { a: [manager] }"),
            "`notifications.roles.a` names `manager`, who is another one in each case",
        );
        check(
            &with("fallback: ['role:a']"),
            "`notifications.fallback` names",
        );
        check(&with("keep: 1h"), "`notifications.keep` is 1h");
        check(&with("link: example.org"), "`notifications.link` is");
        check(
            &with("links: { secret: 'env:K' }"),
            "`notifications.links` needs `notifications.link`",
        );
        check(
            &with("link: 'http://x.example'\nlinks: { secret: 'env:K' }"),
            "`notifications.links` needs",
        );
        check(
            &with("link: 'https://x.example'\nlinks: { secret: 'env:K' }"),
            "",
        );
        check(
            &with("link: 'https://x.example'\nlinks: { secret: 'env:K', valid: 1s }"),
            "`notifications.links.valid` is 1s",
        );
        check(&with("retry: { attempts: 0 }"), "`notifications.retry` has");
        check(
            &with("quiet_hours: { from: '20:00', to: '20:00', zone: UTC }"),
            "begins when it ends",
        );
    }
}
