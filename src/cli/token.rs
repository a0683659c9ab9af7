//! `tenure token`: who may call the API.

use std::collections::BTreeSet;

use anyhow::Context as _;
use chrono::TimeDelta;
use clap::{Args, Subcommand};
use secrecy::ExposeSecret as _;
use serde_json::json;

use super::format::{Listing, Tone, paint, plain, time};
use super::{Context, Exit};
use crate::api::auth::Role;
use crate::api::tokens::{LIFE_DAYS_MAX, NewToken, Token, Tokens};
use crate::shell::now;

/// Make, list and revoke the tokens of the API
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  tenure token create hr-feed --role operate --days 90
  tenure token list
  tenure token revoke hr-feed")]
pub struct TokenCommand {
    #[command(subcommand)]
    command: Sub,
}

#[derive(Debug, Subcommand)]
enum Sub {
    Create(Create),
    /// List the tokens, never their secrets
    List,
    Revoke(Revoke),
}

/// Make a token. It is shown this once and cannot be shown again
#[derive(Debug, Args)]
#[command(after_long_help = "\
Roles: read (look at everything), operate (send events and files, act on cases), approve (answer approvals and stopped
imports), admin (all of it), provision (push people over SCIM into the source that names the token, and nothing else).

Examples:
  tenure token create dashboard --role read
  tenure token create entra --role provision --days 180
  tenure token create hr-feed --role operate --days 90 --json | jq -r .token > /run/secrets/hr-feed")]
struct Create {
    /// What it is for; stands in the evidence as `token:NAME`
    name: String,
    /// What it may do; may be given more than once
    #[arg(long = "role", value_name = "ROLE", required = true, value_parser = role)]
    roles: Vec<Role>,
    /// After how many days it stops working
    #[arg(long, value_name = "DAYS", default_value_t = 90, value_parser = clap::value_parser!(i64).range(1..=LIFE_DAYS_MAX))]
    days: i64,
}

fn role(text: &str) -> Result<Role, String> {
    Role::parse(text)
        .ok_or_else(|| "known roles are read, operate, approve, admin, provision".to_owned())
}

/// End a token at once
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  tenure token revoke hr-feed")]
struct Revoke {
    /// The token's name
    name: String,
}

/// Runs one of the commands on tokens.
///
/// # Errors
/// When the name is taken or wrong, or the database cannot be reached.
pub async fn run(context: &Context, command: TokenCommand) -> anyhow::Result<Exit> {
    let database = context.prepared_database().await?;
    let tokens = Tokens::new(database);
    match command.command {
        Sub::Create(create) => {
            let expires_at = now() + TimeDelta::days(create.days);
            let new = NewToken {
                name: create.name,
                roles: BTreeSet::from_iter(create.roles),
                expires_at,
            };
            let secret = tokens.create(&new, now()).await?;
            let shown = json!({ "name": new.name, "token": secret.expose_secret(), "expires_at": new.expires_at });
            context
                .output
                .result(&shown, |_| secret.expose_secret().to_owned())?;
            context.output.note(paint(
                format!(
                    "this is the only time it is shown; it stops working {}",
                    time::relative(new.expires_at, now())
                ),
                Tone::Dim,
            ))?;
            Ok(Exit::Good)
        }
        Sub::List => {
            let all = tokens.list().await.context("cannot read the tokens")?;
            context.output.result(&all, |all| table(all))?;
            Ok(Exit::Good)
        }
        Sub::Revoke(revoke) => {
            let revoked = tokens.revoke(&revoke.name, now()).await?;
            anyhow::ensure!(
                revoked,
                "there is no token `{}` to revoke; see `tenure token list`",
                revoke.name
            );
            context
                .output
                .result(&json!({ "name": revoke.name, "revoked": true }), |_| {
                    format!("token {} works no more", revoke.name)
                })?;
            Ok(Exit::Good)
        }
    }
}

fn table(all: &[Token]) -> String {
    if all.is_empty() {
        return "no tokens; `tenure token create NAME --role read` makes one".to_owned();
    }
    let now = now();
    let mut listing =
        Listing::new(&["NAME", "MAY", "STATE", "MADE", "LAST USED"]).narrow(&[0, 3, 4]);
    for token in all {
        let roles: Vec<&str> = token.roles.iter().map(|role| role.as_str()).collect();
        let (state, tone) = match token.revoked_at {
            Some(at) => (format!("revoked {}", time::relative(at, now)), Tone::Dim),
            None if token.expires_at <= now => (
                format!("expired {}", time::relative(token.expires_at, now)),
                Tone::Dim,
            ),
            None => (
                format!("expires {}", time::relative(token.expires_at, now)),
                Tone::Good,
            ),
        };
        let used = token
            .last_used_day
            .map_or_else(|| "never".to_owned(), |day| day.to_string());
        listing.row([
            (plain(&token.name), Tone::Strong),
            (roles.join(", "), Tone::Plain),
            (state, tone),
            (time::relative(token.created_at, now), Tone::Dim),
            (used, Tone::Dim),
        ]);
    }
    listing.to_string()
}
