//! `tenure connector test`: the conformance suite against a configured system.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use connectors::conformance::{self, Fixture};
use uuid::Uuid;

use super::format::{Bar, Listing, Tone, paint, plain, time};
use super::{Context, Exit};

/// Try out connectors
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  tenure connector test crm --fixture crm.fixture.json")]
pub struct ConnectorCommand {
    #[command(subcommand)]
    command: Sub,
}

#[derive(Debug, Subcommand)]
enum Sub {
    Test(Test),
}

/// Run the conformance suite against a system. It makes, changes and removes accounts there
#[derive(Debug, Args)]
#[command(after_long_help = "\
Every operation the connector declares is carried out, repeated and read back. Use a test instance of the system:
accounts whose names begin with a random prefix are made and removed again; what could not be removed is told.

A fixture is JSON and tells the suite what the system needs; everything in it may be left out:

  {
    \"entitlements\": [\"two\", \"groups\"],      that exist and may be given
    \"attributes\": {\"title\": \"Tester\"},      of every account made; {name} stands for its name
    \"changed\": {\"title\": \"Engineer\"},       to change afterwards
    \"text_attribute\": \"title\",               one that takes any text
    \"name_bytes_max\": 20,                    the longest account name
    \"settle_ms\": 500                         how long a read may lag behind a write
  }

Examples:
  tenure connector test crm
  tenure connector test crm --fixture crm.fixture.json --json")]
struct Test {
    /// The system, by its name in the configuration
    system: String,
    /// What the suite has to know about it
    #[arg(long, value_name = "FILE")]
    fixture: Option<PathBuf>,
}

/// Runs `connector test`.
///
/// # Errors
/// When the system or the fixture does not exist.
pub async fn run(context: &Context, command: ConnectorCommand) -> anyhow::Result<Exit> {
    let Sub::Test(test) = command.command;
    let configuration = context.configuration()?;
    let system = configuration.systems.get(&test.system).with_context(|| {
        let known: Vec<&str> = configuration
            .systems
            .iter()
            .map(|system| system.name())
            .collect();
        format!(
            "there is no system `{}`; the configuration has {}",
            test.system,
            known.join(", ")
        )
    })?;
    let fixture = fixture(test.fixture.as_deref())?;
    let bar = Bar::new(&test.system, 0, context.output.json);
    let report = conformance::run(Arc::new(system.connector().clone()), fixture).await;
    bar.end();
    let good = report.is_good();
    context.output.result(&report, |report| {
        let mut listing = Listing::new(&["", "TEST", "TOOK", ""])
            .right(&[2])
            .narrow(&[0, 2]);
        for test in &report.tests {
            let tone = match test.verdict {
                conformance::Verdict::Passed => Tone::Good,
                conformance::Verdict::Failed => Tone::Bad,
                conformance::Verdict::NotApplicable => Tone::Dim,
            };
            let took = time::length_ms(f64::from(u32::try_from(test.took_ms).unwrap_or(u32::MAX)));
            listing.row([
                (test.verdict.as_str().to_owned(), tone),
                (test.name.replace('_', " "), Tone::Plain),
                (took, Tone::Dim),
                (plain(&test.detail), Tone::Dim),
            ]);
        }
        let mut text = format!("{listing}\n\n");
        for left in &report.left_behind {
            text.push_str(&format!(
                "{} left behind: {}\n",
                paint(Tone::Warn.sign(), Tone::Warn),
                plain(left)
            ));
        }
        text.push_str(&format!(
            "{} passed, {} failed, {} not applicable",
            report.count(conformance::Verdict::Passed),
            report.count(conformance::Verdict::Failed),
            report.count(conformance::Verdict::NotApplicable)
        ));
        text
    })?;
    Ok(if good { Exit::Good } else { Exit::Bad })
}

fn fixture(file: Option<&std::path::Path>) -> anyhow::Result<Fixture> {
    let prefix = format!("tnr{}", Uuid::new_v4().simple())
        .chars()
        .take(12)
        .collect::<String>();
    let Some(file) = file else {
        return Ok(Fixture::new(prefix));
    };
    let shown = file.display();
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("cannot read the fixture `{shown}`"))?;
    let mut value: serde_json::Value =
        serde_json::from_str(&text).with_context(|| format!("`{shown}` is not JSON"))?;
    if let Some(fields) = value.as_object_mut() {
        fields
            .entry("prefix")
            .or_insert(serde_json::Value::String(prefix));
    }
    serde_json::from_value(value)
        .with_context(|| format!("`{shown}` is not a fixture; see `tenure connector test --help`"))
}
