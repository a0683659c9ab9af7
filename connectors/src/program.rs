//! A program of the operator's that does one thing and ends: makes a consumer read again, puts a name into the DNS.
//!
//! It is started without a shell, with its own arguments and a few variables of ours: no secret is among them, and nothing of
//! our environment that may hold one. It has a time limit and is waited for; what it says is told only when it fails.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

/// The longest a program may take.
const LIMIT_MS_MAX: u64 = 600_000;

/// How much of what it says is told.
const WORDS_BYTES_MAX: u64 = 4 * 1024;
/// How long after its end somebody else may keep its output open.
const LAST_WORDS: Duration = Duration::from_millis(200);
const ENV_KEPT: [&str; 5] = ["PATH", "HOME", "LANG", "LC_ALL", "TZ"];

/// As it stands in a configuration: `{ command: [/path, argument], timeout_ms: 30000 }`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Written {
    command: Vec<String>,
    #[serde(default = "limit_ms")]
    timeout_ms: u64,
}

fn limit_ms() -> u64 {
    30_000
}

#[derive(Debug, Clone)]
pub(crate) struct Program {
    pub path: PathBuf,
    arguments: Vec<String>,
    limit: Duration,
}

impl Program {
    pub fn new(path: PathBuf, arguments: Vec<String>, limit: Duration) -> Self {
        Self {
            path,
            arguments,
            limit,
        }
    }
}

impl Written {
    /// Reads the setting `name`.
    ///
    /// # Errors
    /// In words, what is wrong with it.
    pub fn checked(self, name: &str) -> Result<Program, String> {
        let Some((program, arguments)) = self.command.split_first() else {
            return Err(format!("`{name}.command` is empty"));
        };
        if !Path::new(program).is_absolute() {
            return Err(format!(
                "`{name}.command` `{}` must begin with `/`: no shell looks for it",
                program.escape_debug()
            ));
        }
        if !(1..=LIMIT_MS_MAX).contains(&self.timeout_ms) {
            return Err(format!(
                "`{name}.timeout_ms` is {}; give 1 to {LIMIT_MS_MAX}",
                self.timeout_ms
            ));
        }
        Ok(Program {
            path: PathBuf::from(program),
            arguments: arguments.to_vec(),
            limit: Duration::from_millis(self.timeout_ms),
        })
    }
}

/// How it went wrong.
#[derive(Debug)]
pub(crate) enum Failed {
    /// It was not started, or said no.
    Refused(String),
    /// It was ended after its time; nobody knows what it did.
    Late(String),
}

/// Runs `of` with these variables in its environment.
///
/// # Errors
/// It did not end well, in time.
pub(crate) async fn run(of: &Program, variables: &[(&str, &str)]) -> Result<(), Failed> {
    let program = of.path.display();
    let mut command = Command::new(&of.path);
    command
        .args(&of.arguments)
        .env_clear()
        .envs(variables.iter().copied())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    for name in ENV_KEPT {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    let mut child = command
        .spawn()
        .map_err(|error| Failed::Refused(format!("`{program}` cannot be started: {error}")))?;
    let (mut out, mut err) = (child.stdout.take(), child.stderr.take());
    let mut words = Vec::new();
    let ended = {
        let speak = async {
            let mut ignored = tokio::io::sink();
            if let Some(err) = &mut err {
                let _ = (&mut *err)
                    .take(WORDS_BYTES_MAX)
                    .read_to_end(&mut words)
                    .await;
                // Whoever is not listened to waits for ever.
                let _ = tokio::io::copy(err, &mut ignored).await;
            }
        };
        let listen = async {
            let mut ignored = tokio::io::sink();
            if let Some(out) = &mut out {
                let _ = tokio::io::copy(out, &mut ignored).await;
            }
        };
        tokio::pin!(speak, listen);
        let (mut spoke, mut listened) = (false, false);
        let deadline = tokio::time::Instant::now() + of.limit;
        let ended = loop {
            tokio::select! {
                ended = child.wait() => break Some(ended),
                () = &mut speak, if !spoke => spoke = true,
                () = &mut listen, if !listened => listened = true,
                () = tokio::time::sleep_until(deadline) => break None,
            }
        };
        if !spoke && ended.is_some() {
            let _ = tokio::time::timeout(LAST_WORDS, &mut speak).await;
        }
        ended
    };
    let said = shown(&words);
    match ended {
        Some(Ok(status)) if status.success() => Ok(()),
        Some(Ok(status)) => Err(Failed::Refused(format!(
            "`{program}` ended with {status}{said}"
        ))),
        Some(Err(error)) => Err(Failed::Late(format!(
            "`{program}` cannot be waited for: {error}"
        ))),
        None => {
            let _ = child.kill().await;
            Err(Failed::Late(format!(
                "`{program}` was ended after {} ms{said}",
                of.limit.as_millis()
            )))
        }
    }
}

fn shown(words: &[u8]) -> String {
    let text = String::from_utf8_lossy(words);
    let text: String = text
        .chars()
        .filter(|c| !c.is_control() || c.is_whitespace())
        .collect();
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.is_empty() {
        String::new()
    } else {
        format!(": {text}")
    }
}
