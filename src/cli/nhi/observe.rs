//! `tenure nhi observe`: what the log of a system says of uses.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use chrono::{DateTime, Utc};
use clap::{Args, ValueEnum};
use engine::core::duration::Span;
use workflows::directory::ObserveReport;
use workflows::nhi::uses::{self, LINE_BYTES_MAX, Log, Summary, Uses};

use super::super::format::{Bar, Listing, Tone, counted, number, paint, plain};
use super::super::{Context, Exit, actor};
use crate::shell::now;

/// How many lines are read before the bar moves.
const BAR_LINES: u64 = 20_000;

/// Take a log of who used what, and for how long it has watched
#[derive(Debug, Args)]
#[command(after_long_help = "\
Each line is one use, in JSON, with the account or the credential in the words of the system, and what used it:

  {\"at\": \"2026-11-03T02:00:00Z\", \"account\": \"billing_sync\", \"by\": \"10.0.0.7\"}
  {\"at\": \"2026-11-03T02:00:00Z\", \"credential\": \"password:billing_sync\", \"by\": \"consumer:cron/billing\"}

A use is believed as it is. That nothing used a thing is believed only of a log that has seen every use from --from until
--until, without --blind, up to now, and for as long as docs/dependency-checks.md says. A later export of the same log goes
on where the one before ended; where there is a gap, watching begins anew. With a mistake in it nothing of a log is taken.

Examples:
  tenure nhi observe access.jsonl --system warehouse --from 2026-08-01T00:00:00Z --until 2026-11-03T06:00:00Z \\
      --reason 'export of the audit log'
  tenure nhi observe keys.jsonl --system git --sees credentials --blind 'pulls over HTTPS' \\
      --from 2026-10-01T00:00:00Z --until 2026-11-01T00:00:00Z --reason 'access log of October'")]
pub struct Observe {
    /// The log, a use a line
    file: PathBuf,
    /// Whose log it is: the name of a file in systems/
    #[arg(long)]
    system: String,
    /// Since when it has seen every use
    #[arg(long, value_name = "TIME")]
    from: DateTime<Utc>,
    /// Until when it goes
    #[arg(long, value_name = "TIME")]
    until: DateTime<Utc>,
    /// What it is called, `log:SYSTEM` without: later exports of the same log have the same name
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// What each line tells: which account logged in, or with which credential
    #[arg(long, value_enum, default_value = "accounts")]
    sees: Sees,
    /// How late a use gets into it
    #[arg(long, value_name = "TIME", value_parser = Span::parse, default_value = "0s")]
    delay: Span,
    /// What it does not see; may be given several times
    #[arg(long, value_name = "TEXT")]
    blind: Vec<String>,
    /// Nobody believes in silence without it
    #[arg(long)]
    required: bool,
    /// Why it can be believed; stands beside the change
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Sees {
    Accounts,
    Credentials,
}

pub async fn run(context: &Context, command: &Observe) -> anyhow::Result<Exit> {
    if command.reason.trim().is_empty() {
        bail!("`--reason` is empty; say why the log can be believed, it stands beside the change");
    }
    let configuration = context.configuration()?;
    if !configuration
        .systems
        .iter()
        .any(|system| system.name() == command.system)
    {
        bail!(
            "no system is called `{}`; `--system` is the name of a file in systems/",
            plain(&command.system)
        );
    }
    let log = Log {
        system: command.system.clone(),
        source: (command.source.clone()).unwrap_or_else(|| format!("log:{}", command.system)),
        from: command.from,
        until: command.until,
        delay_s: command.delay.delta().num_seconds().unsigned_abs(),
        blind_spots: command.blind.clone(),
        required: command.required,
        sees: match command.sees {
            Sees::Accounts => uses::Sees::Accounts,
            Sees::Credentials => uses::Sees::Credentials,
        },
    };
    if let Some((what, fix)) = log.mistake(now()) {
        bail!("{what}; {fix}");
    }
    let said = read(context, command, &log)?;
    let database = context.database().await?;
    let report = database
        .directory
        .observe_log(&log, &said, &actor(), &command.reason, now())
        .await?;
    database.close().await;
    context.output.result(&report, told)?;
    Ok(Exit::Good)
}

fn read(context: &Context, command: &Observe, log: &Log) -> anyhow::Result<Summary> {
    let file = command.file.display().to_string();
    let opened = File::open(&command.file).with_context(|| format!("cannot read `{file}`"))?;
    let bytes = opened.metadata().map_or(0, |data| data.len());
    let mut reader = BufReader::new(opened);
    let bar = Bar::new("nhi observe", bytes, context.output.json);
    let mut uses = Uses::new(&file, log);
    let (mut line, mut done, mut lines) = (Vec::new(), 0_u64, 0_u64);
    loop {
        line.clear();
        // Of a line that is too long no more is read than tells that.
        let most = LINE_BYTES_MAX as u64 + 2;
        let read = reader.by_ref().take(most).read_until(b'\n', &mut line);
        let read = read.with_context(|| format!("cannot read `{file}`"))?;
        if read == 0 || !uses.take(&line) {
            break;
        }
        done += read as u64;
        lines += 1;
        if lines % BAR_LINES == 0 {
            bar.set(done, bytes);
        }
    }
    bar.end();
    Ok(uses.finish()?)
}

fn told(report: &ObserveReport) -> String {
    let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    let mut text = format!(
        "{} {}: {} of {}",
        paint(Tone::Good.sign(), Tone::Good),
        counted(report.lines, "line", "lines"),
        counted(count(report.uses), "use", "uses"),
        counted(count(report.nhis), "identity", "identities"),
    );
    if report.unknown.is_empty() {
        return text;
    }
    let mut listing = Listing::new(&["USED, AND DECLARED BY NOBODY", "TIMES"]).right(&[1]);
    for (thing, times) in &report.unknown {
        listing.row([
            (plain(&thing.to_string()), Tone::Plain),
            (number(*times), Tone::Dim),
        ]);
    }
    text += &format!("\n\n{listing}");
    let more = report.unknown_count - report.unknown.len();
    if more > 0 {
        text += &format!("\nand {} more", number(count(more)));
    }
    text
}
