//! `tenure explain`: why somebody holds something, or why not.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Context as _;
use serde::Serialize;
use serde_json::Value;
use workflows::directory::{GrantStatus, facts_of};
use workflows::policy::explain::Trace;
use workflows::policy::{Explanation, Outcome, Reason, Wanted, WantedGrant, evaluate, explain};

use super::format::{Listing, Tone, paint, plain};
use super::{Context, Exit};

/// Explain why a person holds a right, or why not
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Without a right: everything policy wants for the person, with the role that gives each. With one: the roles that give
it and, for each, which part of its rule holds for this person and which does not.

The answer is about the policy as it stands in the configuration now, and the person as the directory knows them.

Examples:
  tenure explain E10023
  tenure explain E10023 crm sales-team")]
pub struct Explain {
    /// The person's key
    key: String,
    /// The system
    #[arg(requires = "entitlement")]
    system: Option<String>,
    /// The right on that system
    entitlement: Option<String>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Answer {
    One {
        identity: String,
        system: String,
        entitlement: String,
        /// What the directory says about it.
        #[serde(skip_serializing_if = "Option::is_none")]
        status: Option<GrantStatus>,
        policy: String,
        #[serde(flatten)]
        explanation: Explanation,
    },
    All {
        identity: String,
        #[serde(flatten)]
        wanted: Wanted,
    },
}

/// Explains.
///
/// # Errors
/// When the person is not known, or a rule has no answer for them.
pub async fn run(context: &Context, command: Explain) -> anyhow::Result<Exit> {
    let configuration = context.configuration()?;
    let database = context.database().await?;
    let holdings = database.directory.holdings(&command.key).await?;
    let holdings = holdings.with_context(|| {
        format!(
            "nobody with the key `{}` is known; see `tenure identity list --search`",
            command.key
        )
    })?;
    let facts = facts_of(&holdings.identity);
    let policy = &configuration.policy;
    let answer = match (command.system, command.entitlement) {
        (Some(system), Some(entitlement)) => Answer::One {
            explanation: explain(policy, &facts, &system, &entitlement),
            status: holdings
                .grants
                .iter()
                .find(|grant| grant.system == system && grant.entitlement == entitlement)
                .map(|grant| grant.status),
            identity: command.key,
            system,
            entitlement,
            policy: policy.hash().to_owned(),
        },
        _ => {
            let wanted = evaluate(policy, &facts).map_err(|error| anyhow::anyhow!("{error}"))?;
            Answer::All {
                identity: command.key,
                wanted,
            }
        }
    };
    context.output.result(&answer, describe)?;
    Ok(Exit::Good)
}

fn describe(answer: &Answer) -> String {
    match answer {
        Answer::One {
            identity,
            system,
            entitlement,
            status,
            explanation,
            ..
        } => {
            let right = format!(
                "{} on {}",
                paint(plain(entitlement), Tone::Strong),
                paint(plain(system), Tone::Strong)
            );
            let who = paint(plain(identity), Tone::Code);
            let mut text = match explanation {
                Explanation::Held { reasons } => {
                    let mut text = format!("policy wants {right} for {who}, because of");
                    for reason in reasons {
                        let place = paint(
                            format!("{}:{}", plain(&reason.file), reason.line),
                            Tone::Dim,
                        );
                        let _ = write!(
                            text,
                            "\n  {}  {place}\n    {}",
                            reason_text(reason),
                            plain(&reason.rule)
                        );
                    }
                    text
                }
                Explanation::NotHeld { chances } => {
                    let mut text = format!("policy does not want {right} for {who}");
                    for chance in chances {
                        let way = if chance.via.len() < 2 {
                            String::new()
                        } else {
                            format!(" ({})", chance.via.join(" → "))
                        };
                        let _ = write!(
                            text,
                            "\n\n  role {}{way} would give it  {}",
                            paint(plain(&chance.role), Tone::Strong),
                            paint(
                                format!("{}:{}", plain(&chance.file), chance.line),
                                Tone::Dim
                            )
                        );
                        match &chance.rule {
                            Some(rule) => text.push_str(&trace(rule, 2)),
                            None => text.push_str(
                                "\n    it has no rule of its own, so nobody has it by itself",
                            ),
                        }
                    }
                    text
                }
                Explanation::NobodyGivesIt { hint } => format!("no role gives {right}; {hint}"),
                Explanation::NotActive => {
                    format!("{who} is not active, so policy wants nothing for them")
                }
            };
            if let Some(status) = status {
                let status = serde_json::to_value(status)
                    .ok()
                    .and_then(|it| it.as_str().map(str::to_owned))
                    .unwrap_or_default();
                let _ = write!(
                    text,
                    "\n\nthe directory has it as {}",
                    paint(&status, Tone::of_state(&status))
                );
            }
            text
        }
        Answer::All { identity, wanted } => {
            if !wanted.active {
                return format!(
                    "{} is not active, so policy wants nothing for them",
                    paint(plain(identity), Tone::Code)
                );
            }
            let mut listing = Listing::new(&["SYSTEM", "RIGHT", "BECAUSE OF"]).narrow(&[0]);
            let why = |reasons: &[Reason]| {
                reasons
                    .iter()
                    .map(reason_text)
                    .collect::<Vec<_>>()
                    .join("; ")
            };
            let mut systems: BTreeMap<&str, Vec<&WantedGrant>> = BTreeMap::new();
            for grant in &wanted.grants {
                systems.entry(&grant.system).or_default().push(grant);
            }
            for account in &wanted.accounts {
                listing.row([
                    (plain(&account.system), Tone::Strong),
                    ("an account".to_owned(), Tone::Dim),
                    (why(&account.reasons), Tone::Plain),
                ]);
                for grant in systems.remove(account.system.as_str()).unwrap_or_default() {
                    listing.row([
                        (String::new(), Tone::Plain),
                        (plain(&grant.entitlement), Tone::Plain),
                        (why(&grant.reasons), Tone::Plain),
                    ]);
                }
            }
            if listing.is_empty() {
                "policy wants nothing for them".to_owned()
            } else {
                listing.to_string()
            }
        }
    }
}

fn reason_text(reason: &Reason) -> String {
    match reason.via.as_slice() {
        // From the role whose rule holds to the one that gives the right.
        [first, middle @ .., last] if first != last => {
            let way: Vec<String> = middle
                .iter()
                .chain([last])
                .map(|role| plain(role))
                .collect();
            format!(
                "role {}, which includes {}",
                plain(first),
                way.join(", which includes ")
            )
        }
        _ => format!("role {}", plain(&reason.role)),
    }
}

/// A rule taken apart, each part with its outcome and what the person has there.
fn trace(rule: &Trace, depth: usize) -> String {
    let (sign, tone) = match &rule.outcome {
        Outcome::Yes => (Tone::Good.sign(), Tone::Good),
        Outcome::No => (Tone::Bad.sign(), Tone::Bad),
        Outcome::Fails(_) => ('!', Tone::Bad),
    };
    let mut text = format!(
        "\n{}{} {}",
        "  ".repeat(depth),
        paint(sign, tone),
        plain(&rule.text)
    );
    if let Outcome::Fails(why) = &rule.outcome {
        let _ = write!(text, "  {}", paint(plain(why), Tone::Bad));
    }
    let has: Vec<String> = rule
        .attributes
        .iter()
        .map(|(name, value)| match value {
            Some(Value::String(text)) => format!("{} is \"{}\"", plain(name), plain(text)),
            Some(value) => format!("{} is {}", plain(name), plain(&value.to_string())),
            None => format!("{} is not set", plain(name)),
        })
        .collect();
    if !has.is_empty() && rule.outcome != Outcome::Yes {
        let _ = write!(
            text,
            "  {}",
            paint(format!("({})", has.join(", ")), Tone::Dim)
        );
    }
    for part in &rule.parts {
        text.push_str(&trace(part, depth + 1));
    }
    text
}
