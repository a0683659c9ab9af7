//! The one binary.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use tenure::cli::format::{Tone, paint};
use tenure::cli::{self, Cli};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.into()),
    };
    match runtime.block_on(cli::run(cli)) {
        Ok(exit) => ExitCode::from(exit.code()),
        Err(error) => failed(&error),
    }
}

/// Tells why, with the chain of causes. What is itself a list of problems stands as it is.
fn failed(error: &anyhow::Error) -> ExitCode {
    let mut stderr = anstream::stderr().lock();
    let mut told = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        // Some errors repeat their cause.
        if !told.contains(&cause) {
            told.push_str(": ");
            told.push_str(&cause);
        }
    }
    let _ = writeln!(stderr, "{} {told}", paint("error:", Tone::Bad));
    ExitCode::from(1)
}
