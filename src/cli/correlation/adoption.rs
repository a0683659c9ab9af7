//! `tenure correlation adopt`: accounts that were there before, wave by wave.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context as _, bail};
use clap::Args;
use serde::Serialize;
use workflows::intake::{WaveEffects, WaveReport};
use workflows::takeover::{WAVE_ACCOUNTS_DEFAULT, Wave, WaveFilter, wave};

use crate::cli::format::{Listing, Tone, counted, paint, plain, shortened};
use crate::cli::{Context, Exit, actor, blast, import};
use crate::shell::now;

/// How many accounts of a kind are shown.
const SHOWN_MAX: usize = 30;

/// Let people have the accounts that were on a system before Tenure was
#[derive(Debug, Args)]
#[command(after_long_help = "\
An account that Tenure did not make is unmanaged. Whose it is, says the owner stored in it, or the rules of correlation.yaml,
which see the attributes of the account, and its name as `account`. Without --exactly nothing is done and the wave is shown;
with it exactly that wave is adopted, or nothing, if anything is otherwise by now. Rights that are there are kept as
unmanaged: policy gives what is missing and takes nothing it did not give.

Accounts of people who are not there are left out unless --left is given; adopting them closes them.

What would become of people is counted, and held against the limits of the guard, together with what waves on the same system
did lately. A wave that is too much is kept instead, until somebody approves it with `tenure import approve`.

Examples:
  tenure correlation adopt --system crm
  tenure correlation adopt --system crm --where department=Sales --at-most 20
  tenure correlation adopt --system crm --where department=Sales --at-most 20 --exactly wav_5e1f70c2 --reason 'first wave'

Exit code 3: a wave is shown and waits for you, or the guard stopped it and a person has to decide.")]
pub struct Adopt {
    /// The system, by its name in the configuration
    #[arg(long, value_name = "NAME")]
    system: String,
    /// Only people with this attribute
    #[arg(long = "where", value_name = "ATTRIBUTE=VALUE", value_parser = pair)]
    with: Vec<(String, String)>,
    /// Those of people who are not there, too
    #[arg(long)]
    left: bool,
    /// How many accounts the wave holds at most
    #[arg(long, value_name = "N", default_value_t = WAVE_ACCOUNTS_DEFAULT)]
    at_most: usize,
    /// Adopt exactly this wave, as it was shown
    #[arg(long, value_name = "WAVE", requires = "reason")]
    exactly: Option<String>,
    /// Why; it stands in the record
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write `attribute=value`, as `department=Sales`".to_owned()),
    }
}

#[derive(Serialize)]
#[serde(untagged)]
enum Done {
    Shown {
        #[serde(flatten)]
        wave: Wave,
        #[serde(flatten)]
        effects: WaveEffects,
    },
    Adopted(WaveReport),
}

pub(super) async fn run(context: &Context, adopt: Adopt) -> anyhow::Result<Exit> {
    let configuration = context.configuration()?;
    let system = configuration.systems.get(&adopt.system).with_context(|| {
        let known: Vec<&str> = configuration
            .systems
            .iter()
            .map(|system| system.name())
            .collect();
        format!(
            "there is no system `{}`; the configuration has {}",
            adopt.system,
            known.join(", ")
        )
    })?;
    let database = context.database().await?;
    let filter = WaveFilter {
        with: adopt.with.into_iter().collect::<BTreeMap<_, _>>(),
        left: adopt.left,
    };
    let rules = configuration.correlation.as_deref();
    let shown = wave(&database.directory, system, rules, &filter).await?;
    let shown = shown.first(adopt.at_most);
    let (Some(exactly), Some(reason)) = (&adopt.exactly, &adopt.reason) else {
        let waits = !shown.adoptable.is_empty();
        let effects = import::intake(&configuration, &database)
            .wave_effects(&shown, now())
            .await?;
        let shown = Done::Shown {
            wave: shown,
            effects,
        };
        context.output.result(&shown, describe)?;
        return Ok(if waits { Exit::Waiting } else { Exit::Good });
    };
    if exactly.len() < 12 || !shown.id.starts_with(exactly.as_str()) {
        bail!(
            "the wave is `{}` by now, not `{exactly}`: look at it again without `--exactly`",
            shown.id
        );
    }
    let reason = super::reason(reason)?;
    let intake = import::intake(&configuration, &database);
    let report = intake.adopt(&shown, &actor(), &reason, now()).await?;
    let waits = report.difference_id.is_some();
    context.output.result(&Done::Adopted(report), describe)?;
    Ok(if waits { Exit::Waiting } else { Exit::Good })
}

fn describe(done: &Done) -> String {
    match done {
        Done::Shown { wave, effects } => describe_wave(wave, effects),
        Done::Adopted(report) => {
            if let Some(difference) = &report.difference_id {
                let mut text = paint("stopped by the guard: nothing was done", Tone::Warn);
                reasons(&mut text, &report.stopped_by);
                let _ = write!(text, "\n{}", import::decide_hint(difference));
                return text;
            }
            let mut text = format!(
                "{} adopted on {}",
                counted(report.adopted as u64, "account", "accounts"),
                plain(&report.system)
            );
            for (workflow, cases) in &report.cases {
                let _ = write!(text, ", {cases} {workflow}");
            }
            if !report.skipped.is_empty() {
                let names: Vec<String> = report.skipped.iter().map(|name| plain(name)).collect();
                let _ = write!(text, "\nnot any more: {}", names.join(", "));
            }
            text
        }
    }
}

/// Why a person has to decide.
fn reasons(text: &mut String, stopped_by: &[String]) {
    for reason in stopped_by {
        let sign = paint(Tone::Warn.sign(), Tone::Warn);
        let _ = write!(text, "\n{sign} {}", plain(reason));
    }
}

fn describe_wave(wave: &Wave, effects: &WaveEffects) -> String {
    let mut text = paint(
        format!(
            "{} on {}, {} managed; {} in this wave, {} left out, {} in doubt, {} of nobody known",
            counted(wave.accounts as u64, "account", "accounts"),
            plain(&wave.system),
            wave.managed,
            wave.adoptable.len(),
            wave.left_out,
            wave.doubtful.len(),
            wave.nobodys.len()
        ),
        Tone::Dim,
    );
    if !wave.adoptable.is_empty() {
        let mut listing =
            Listing::new(&["ACCOUNT", "BECOMES THAT OF", "", "BECAUSE", "RIGHTS", ""])
                .narrow(&[0, 1]);
        for it in wave.adoptable.iter().take(SHOWN_MAX) {
            let because = it.score.as_ref().map_or_else(
                || "the account names them".to_owned(),
                |score| format!("{} points", score.points),
            );
            let rights: Vec<String> = it.entitlements.iter().map(|name| plain(name)).collect();
            listing.row([
                (plain(&it.name), Tone::Strong),
                (plain(&it.key), Tone::Code),
                (shortened(&it.display_name, 32), Tone::Plain),
                (because, Tone::Dim),
                (shortened(&rights.join(" "), 40), Tone::Plain),
                if it.stays {
                    (String::new(), Tone::Dim)
                } else {
                    ("is closed".to_owned(), Tone::Warn)
                },
            ]);
        }
        let _ = write!(text, "\n{listing}");
        if wave.adoptable.len() > SHOWN_MAX {
            let _ = write!(
                text,
                "\nand {} more; --json has all",
                wave.adoptable.len() - SHOWN_MAX
            );
        }
    }
    for it in wave.doubtful.iter().take(SHOWN_MAX) {
        let keys: Vec<String> = it
            .candidates
            .iter()
            .map(|scored| format!("{} ({} points)", plain(&scored.key), scored.score.points))
            .collect();
        let who = if keys.is_empty() {
            "somebody who has another account".to_owned()
        } else {
            keys.join(", ")
        };
        let _ = write!(
            text,
            "\n{} {} may be that of {who}",
            paint(Tone::Warn.sign(), Tone::Warn),
            plain(&it.name)
        );
    }
    if !wave.adoptable.is_empty() {
        let _ = write!(text, "\n\n{}", blast::table(&effects.blast));
        reasons(&mut text, &effects.stopped_by);
        if !effects.stopped_by.is_empty() {
            text.push_str("\nthe guard would keep it until somebody approves it");
        }
    }
    if !wave.adoptable.is_empty() {
        let _ = write!(
            text,
            "\n\nto adopt exactly these:  {}",
            paint(
                format!(
                    "the same, with --exactly {} --reason '...'",
                    wave.id.get(..12).unwrap_or(&wave.id)
                ),
                Tone::Code
            )
        );
    }
    text
}
