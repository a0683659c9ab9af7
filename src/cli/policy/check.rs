//! `tenure policy check`.

use clap::Args;
use serde::Serialize;
use workflows::config::Configuration;
use workflows::policy::Problem;

use crate::cli::check::placed;
use crate::cli::format::{Listing, Tone, counted, paint, plain};
use crate::cli::{Context, Exit};

/// Check the policy, and list its roles
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  tenure policy check
  tenure policy check --json | jq .hash")]
pub struct Check {}

#[derive(Serialize)]
struct Report {
    good: bool,
    hash: Option<String>,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
    roles: Vec<RoleLine>,
}

#[derive(Serialize)]
struct RoleLine {
    name: String,
    description: String,
    rule: Option<String>,
    includes: Vec<String>,
    grants: usize,
    file: String,
    line: u64,
}

pub(super) fn run(context: &Context) -> anyhow::Result<Exit> {
    context.require_folder()?;
    let report = match Configuration::load(&context.config) {
        Err(problems) => Report {
            good: false,
            hash: None,
            problems: problems.list,
            warnings: Vec::new(),
            roles: Vec::new(),
        },
        Ok(configuration) => Report {
            good: true,
            hash: Some(configuration.policy.hash().to_owned()),
            problems: Vec::new(),
            warnings: configuration.policy.warnings().to_vec(),
            roles: configuration
                .policy
                .roles()
                .map(|role| RoleLine {
                    name: role.name.clone(),
                    description: role.description.clone(),
                    rule: role.rule.as_ref().map(|rule| rule.text().to_owned()),
                    includes: role.includes.clone(),
                    grants: role.grants.len(),
                    file: role.file.clone(),
                    line: role.line,
                })
                .collect(),
        },
    };
    let exit = if report.good { Exit::Good } else { Exit::Bad };
    context.output.result(&report, describe)?;
    Ok(exit)
}

fn describe(report: &Report) -> String {
    let mut text = String::new();
    for problem in &report.problems {
        text.push_str(&format!(
            "{} {}\n",
            paint("error:", Tone::Bad),
            placed(problem)
        ));
    }
    for warning in &report.warnings {
        text.push_str(&format!(
            "{} {}\n",
            paint("warning:", Tone::Warn),
            placed(warning)
        ));
    }
    if !report.good {
        return text;
    }
    let mut listing = Listing::new(&["ROLE", "GRANTS", "WHEN", ""])
        .right(&[1])
        .narrow(&[0]);
    for role in &report.roles {
        let when = role.rule.as_deref().map_or_else(
            || ("only by inclusion".to_owned(), Tone::Dim),
            |rule| (plain(rule), Tone::Code),
        );
        let includes = if role.includes.is_empty() {
            String::new()
        } else {
            format!("includes {}", role.includes.join(", "))
        };
        listing.row([
            (plain(&role.name), Tone::Strong),
            (role.grants.to_string(), Tone::Plain),
            when,
            (includes, Tone::Dim),
        ]);
    }
    let count = u64::try_from(report.roles.len()).unwrap_or(u64::MAX);
    let hash = report.hash.as_deref().unwrap_or_default();
    text.push_str(&format!(
        "{listing}\n\n{} {}, version {}",
        paint(Tone::Good.sign(), Tone::Good),
        counted(count, "role", "roles"),
        paint(hash.get(..12).unwrap_or(hash), Tone::Code)
    ));
    text
}
