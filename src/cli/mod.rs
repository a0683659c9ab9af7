//! The command line: one file a command.

mod bench;
mod blast;
mod case;
mod check;
mod connector;
mod contract;
mod correlation;
mod credential;
mod demo;
mod demo_scim;
mod explain;
pub mod format;
mod identity;
mod import;
mod import_events;
mod init;
mod migrate;
mod nhi;
mod nodes;
mod notice;
mod output;
mod policy;
mod rotation;
mod schedule;
mod serve;
mod source;
mod token;
mod work;
mod workflow;

use std::path::PathBuf;

use clap::{CommandFactory as _, Parser, Subcommand};
use workflows::config::{Configuration, Settings, StoreAddress};

use crate::shell::{Database, database};

pub use output::Output;

/// Keeps access in step with employment, and proves when it ended
#[derive(Debug, Parser)]
#[command(
    name = "tenure",
    version,
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Start with `tenure demo`, then `tenure init`. Each command's `--help` has examples.",
    after_long_help = "\
Exit codes:
  0  done
  1  failed, or something that was checked is not good
  2  the command line was wrong
  3  waits for a person: the guard stopped an import, or the work that is left takes somebody

Environment:
  NO_COLOR        no colour, whatever --color says to terminals
  TENURE_CONFIG   as --config
  TENURE_STORE    as --store"
)]
pub struct Cli {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Args)]
struct Globals {
    /// Print one JSON document instead of text
    #[arg(long, global = true, help_heading = "Global options")]
    json: bool,
    /// The configuration folder
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "TENURE_CONFIG",
        default_value = "tenure",
        help_heading = "Global options"
    )]
    config: PathBuf,
    /// The database, instead of the one the configuration names: `sqlite:FILE` or `postgres://...`
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "TENURE_STORE",
        hide_env_values = true,
        help_heading = "Global options"
    )]
    store: Option<String>,
    /// When to use colour
    #[arg(long, global = true, value_name = "WHEN", value_enum, default_value_t = Colour::Auto, help_heading = "Global options")]
    color: Colour,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Colour {
    /// On a terminal
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::Demo),
    /// The plugin that `tenure demo` starts
    #[command(hide = true)]
    DemoPlugin,
    DemoScim(demo_scim::DemoScim),
    Init(init::Init),
    Check(check::Check),
    Serve(serve::Serve),
    Import(import::Import),
    Source(source::SourceCommand),
    Case(case::CaseCommand),
    Identity(identity::IdentityCommand),
    Contract(contract::ContractCommand),
    Correlation(correlation::CorrelationCommand),
    Nhi(nhi::NhiCommand),
    Credential(credential::CredentialCommand),
    Rotation(rotation::RotationCommand),
    Explain(explain::Explain),
    Workflow(workflow::WorkflowCommand),
    Schedule(schedule::ScheduleCommand),
    Notice(notice::NoticeCommand),
    Policy(policy::PolicyCommand),
    Connector(connector::ConnectorCommand),
    Token(token::TokenCommand),
    Nodes(nodes::Nodes),
    Migrate(migrate::Migrate),
    Bench(bench::Bench),
    Completions(Completions),
}

/// Print a shell's completion script
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  tenure completions bash > /etc/bash_completion.d/tenure
  tenure completions zsh > ~/.zfunc/_tenure
  tenure completions fish > ~/.config/fish/completions/tenure.fish")]
struct Completions {
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

/// How a command ended, when it did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Good,
    /// It ran, and what it found is not good.
    Bad,
    /// A person has to decide.
    Waiting,
}

impl Exit {
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Good => 0,
            Self::Bad => 1,
            Self::Waiting => 3,
        }
    }
}

/// What every command gets.
#[derive(Debug, Clone)]
pub struct Context {
    pub output: Output,
    pub config: PathBuf,
    pub store: Option<String>,
}

impl Context {
    /// The whole configuration.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn configuration(&self) -> anyhow::Result<Configuration> {
        self.require_folder()?;
        Ok(Configuration::load(&self.config)?)
    }

    /// `tenure.yaml` alone.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn settings(&self) -> anyhow::Result<Settings> {
        if self.store.is_none() {
            self.require_folder()?;
        }
        Ok(Configuration::load_settings(&self.config)?)
    }

    fn require_folder(&self) -> anyhow::Result<()> {
        anyhow::ensure!(
            self.config.is_dir(),
            "there is no configuration folder `{}`; `tenure init` writes one, or name another with `--config`",
            self.config.display()
        );
        Ok(())
    }

    /// Where the store is.
    ///
    /// # Errors
    /// When the configuration does not say.
    pub fn address(&self) -> anyhow::Result<StoreAddress> {
        database::address(&self.config, &self.settings()?, self.store.as_deref())
    }

    /// The database, which must exist.
    ///
    /// # Errors
    /// When it does not, or cannot be reached.
    pub async fn database(&self) -> anyhow::Result<Database> {
        Database::existing(&self.address()?, self.settings()?.store.shards).await
    }

    /// The database, made when it is not there, its schema brought up to date.
    ///
    /// # Errors
    /// When it cannot be reached, or was written by a newer program.
    pub async fn prepared_database(&self) -> anyhow::Result<Database> {
        Database::prepare(&self.address()?, self.settings()?.store.shards).await
    }
}

/// Who a person at this command line is, in evidence.
#[must_use]
pub fn actor() -> engine::core::id::Actor {
    let user = ["TENURE_USER", "SUDO_USER", "USER", "LOGNAME"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|user| !user.is_empty()))
        .or_else(user_id)
        .unwrap_or_else(|| "unknown".to_owned());
    engine::core::id::Actor(format!("cli:{user}"))
}

/// The user this process runs as, by number: services have no `USER`.
fn user_id() -> Option<String> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = std::fs::metadata("/proc/self").ok()?;
    Some(format!("uid-{}", metadata.uid()))
}

/// Runs what the command line says.
///
/// # Errors
/// Why the command failed.
pub async fn run(cli: Cli) -> anyhow::Result<Exit> {
    match cli.globals.color {
        Colour::Auto => {}
        Colour::Always => anstream::ColorChoice::Always.write_global(),
        Colour::Never => anstream::ColorChoice::Never.write_global(),
    }
    let context = Context {
        output: Output {
            json: cli.globals.json,
        },
        config: cli.globals.config,
        store: cli.globals.store,
    };
    match cli.command {
        Command::Demo(command) => demo::run(&context, command).await,
        Command::DemoPlugin => demo::plugin().await,
        Command::DemoScim(command) => demo_scim::run(&context, command).await,
        Command::Init(command) => init::run(&context, command),
        Command::Check(command) => check::run(&context, command).await,
        Command::Serve(command) => serve::run(&context, command).await,
        Command::Import(command) => import::run(&context, command).await,
        Command::Source(command) => source::run(&context, command).await,
        Command::Case(command) => case::run(&context, command).await,
        Command::Identity(command) => identity::run(&context, command).await,
        Command::Contract(command) => contract::run(&context, command).await,
        Command::Correlation(command) => correlation::run(&context, command).await,
        Command::Nhi(command) => nhi::run(&context, command).await,
        Command::Credential(command) => credential::run(&context, command).await,
        Command::Rotation(command) => rotation::run(&context, command).await,
        Command::Explain(command) => explain::run(&context, command).await,
        Command::Workflow(command) => workflow::run(&context, command).await,
        Command::Schedule(command) => schedule::run(&context, command).await,
        Command::Notice(command) => notice::run(&context, command).await,
        Command::Policy(command) => policy::run(&context, command).await,
        Command::Connector(command) => connector::run(&context, command).await,
        Command::Token(command) => token::run(&context, command).await,
        Command::Nodes(command) => nodes::run(&context, command).await,
        Command::Migrate(command) => migrate::run(&context, command).await,
        Command::Bench(command) => bench::run(&context, command).await,
        Command::Completions(command) => {
            let mut script = Vec::new();
            clap_complete::generate(command.shell, &mut Cli::command(), "tenure", &mut script);
            context.output.raw(&String::from_utf8_lossy(&script))?;
            Ok(Exit::Good)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic, reason = "tests")]
    use super::*;

    #[test]
    fn the_command_line_makes_sense() {
        Cli::command().debug_assert();
    }

    /// Options of a command that share a name with a global one clash only when they are read.
    #[test]
    fn every_command_reads_its_line() {
        for line in [
            "demo --once --json",
            "init",
            "init /tmp/x",
            "check --offline --system a --system b",
            "serve --listen 127.0.0.1:0",
            "import people.csv --source hr --as-of 2026-03-01 --run",
            "import list --waiting",
            "import show x",
            "import approve x --run --timeout 5",
            "import reject x --note why",
            "source list --json",
            "source show hr",
            "source ask hr --run",
            "source events",
            "source schema",
            "source schema transfer",
            "source schema --files",
            "case list --open --state parked --workflow leaver",
            "case list --waits person --waits system-away --system crm --step s --error denied --version 3f0c --older-than 2d --newer-than 9d",
            "case migrate --workflow w --from 3f0c --to w.yaml --map a=b --drop c --skip d --map-file f.yaml --reason r --possible-only --yes",
            "case migrate E1 --workflow w --from 3f0c",
            "case export E1 E2 -o f.jsonl",
            "case export --workflow leaver --closed -o -",
            "case import f.jsonl --take-over",
            "case show E1 --all",
            "case watch E1",
            "case retry E1 --step s --instance 2",
            "case skip E1 --step s --reason r",
            "case cancel E1 --reason r",
            "case approve E1 --note n",
            "correlation scan --dry-run",
            "contract extend E1 --until 2026-03-01 --reason r",
            "case reject E1",
            "case complete-task E1 --proof p --output {}",
            "case signal E1 name --payload {}",
            "identity list --status leaving --search x",
            "identity show E1",
            "contract list --within 30d",
            "contract list --incomplete",
            "contract extend C1 --until 2026-12-31 --contract A --reason r",
            "nhi declare nhis.yaml --reason r",
            "nhi list --person E1 --team t --environment e --review-within 30d",
            "nhi show n",
            "nhi check person:E1 --to leave --hostile",
            "nhi graph nhi:n --svg",
            "nhi look s",
            "nhi found --system s --all --due-within 7d",
            "nhi adopt s account:1 --key k --kind bot --environment e --purpose p --team t --owner A --backup B --review 2027-01-31 --reason r",
            "nhi accept s account:1 --until 2027-01-31 --reason r",
            "nhi retire n --window 14d --reason r",
            "nhi restore n --reason r",
            "nhi calendar --within 365d --team t --person E1 --ics",
            "credential list --expiring 30d",
            "credential check --environment e --rule r",
            "rotation plan --within 30d --histogram",
            "rotation run s/i --compromised --reason r",
            "rotation rollback s/i --reason r",
            "rotation status --all --nhi n",
            "explain E1",
            "explain E1 crm sales",
            "workflow list",
            "workflow show leaver",
            "workflow schema",
            "workflow actions",
            "workflow conflicts --json",
            "workflow graph leaver",
            "schedule list",
            "schedule show s --runs 5",
            "schedule put s.yaml --reason r",
            "schedule pause s --reason r",
            "schedule resume s --reason r",
            "schedule run s --reason r",
            "schedule backfill s --from 2026-03-01 --to 2026-03-02",
            "schedule backfill s --from 2026-03-01 --to 2026-03-02 --yes --reason r",
            "schedule delete s --reason r",
            "schedule schema",
            "workflow graph leaver --svg",
            "workflow graph 3f0c --dot",
            "workflow show leaver --steps",
            "workflow diff 3f0c leaver",
            "notice list --state parked --state sent --name case.parked --subject E1 --case 0199 --limit 5",
            "notice list --attention",
            "notice show 5b1f",
            "notice retry 5b1f --reason r",
            "notice test --to a@b.org",
            "notice test --webhook",
            "notice schema",
            "policy check",
            "policy diff --json",
            "policy list",
            "policy approve dif_1 --note x",
            "policy reject dif_1 --note x",
            "import preview people.csv --source hr --as-of 2026-03-01 --json",
            "import people.csv --source hr --approve dif_1",
            "connector test crm --fixture f.json",
            "token create a --role read --role operate --days 3",
            "token list",
            "token revoke a",
            "nodes --json",
            "migrate",
            "migrate --recount",
            "bench engine --store sqlite --cases 10 --steps 10 --for-each 5 --json",
            "completions bash",
        ] {
            let words = ["tenure", "--store", "sqlite:x.db"]
                .into_iter()
                .chain(line.split(' '));
            let words: Vec<&str> = if line.contains("--store") {
                ["tenure"].into_iter().chain(line.split(' ')).collect()
            } else {
                words.collect()
            };
            if let Err(error) = Cli::try_parse_from(words) {
                panic!("{line}: {error}");
            }
        }
        assert!(Cli::try_parse_from(["tenure", "notice", "test"]).is_err());
        assert!(Cli::try_parse_from(["tenure", "import"]).is_err());
        assert!(Cli::try_parse_from(["tenure", "import", "people.csv"]).is_err());
    }
}
