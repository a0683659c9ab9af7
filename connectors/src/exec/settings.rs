//! What a system's configuration says about its plugin.

use std::collections::BTreeMap;
use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::Value;

use super::process::Spec;
use super::wire::WireCapabilities;
use crate::connector::{Error, ErrorKind};
use crate::secret::SecretRef;

/// The longest a plugin may take for one answer.
const TIMEOUT_MS_MAX: u64 = 600_000;
/// How many processes of one plugin may run side by side.
const PROCESSES_MAX: usize = 64;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    command: Vec<String>,
    directory: Option<PathBuf>,
    #[serde(default)]
    env: BTreeMap<String, EnvValue>,
    #[serde(default)]
    secrets: BTreeMap<String, SecretRef>,
    #[serde(default)]
    config: Value,
    #[serde(default = "timeout_ms")]
    start_ms: u64,
    #[serde(default = "timeout_ms")]
    timeout_ms: u64,
    #[serde(default = "processes_max")]
    processes_max: usize,
    #[serde(default)]
    restart: Restart,
    pub capabilities: Option<WireCapabilities>,
}

fn timeout_ms() -> u64 {
    10_000
}

fn processes_max() -> usize {
    1
}

/// How long to wait before a plugin that dies without having answered anything is started again.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Restart {
    pub first_ms: u64,
    pub max_ms: u64,
}

impl Default for Restart {
    fn default() -> Self {
        Self {
            first_ms: 200,
            max_ms: 30_000,
        }
    }
}

/// A value for the plugin's environment: a secret's place, or `value:` and the text itself.
#[derive(Debug, Deserialize)]
#[serde(try_from = "String")]
enum EnvValue {
    Secret(SecretRef),
    Plain(String),
}

impl TryFrom<String> for EnvValue {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        if let Some(value) = text.strip_prefix("value:") {
            return Ok(Self::Plain(value.to_owned()));
        }
        // The text is not repeated: it may be the very secret that should not stand here.
        SecretRef::try_from(text).map(Self::Secret).map_err(|_| {
            "an environment value must be `env:NAME`, `file:/path` or `value:TEXT`".to_owned()
        })
    }
}

/// The settings with every secret read.
pub(super) struct Parsed {
    pub spec: Spec,
    pub processes_max: usize,
    pub restart: Restart,
    pub capabilities: Option<WireCapabilities>,
}

pub(super) fn parse(system: &str, settings: Value) -> Result<Parsed, Error> {
    let invalid = |message: String| {
        Error::new(
            ErrorKind::Invalid,
            format!("settings of system `{system}`: {message}"),
        )
    };
    let settings: Settings =
        serde_json::from_value(settings).map_err(|error| invalid(error.to_string()))?;
    let Some((program, arguments)) = settings
        .command
        .split_first()
        .filter(|(program, _)| !program.is_empty())
    else {
        return Err(invalid(
            "`command` is empty; give the program and its arguments as a list".to_owned(),
        ));
    };
    for (name, ms) in [
        ("start_ms", settings.start_ms),
        ("timeout_ms", settings.timeout_ms),
    ] {
        if !(1..=TIMEOUT_MS_MAX).contains(&ms) {
            return Err(invalid(format!(
                "`{name}` is {ms}; give 1 to {TIMEOUT_MS_MAX}"
            )));
        }
    }
    if !(1..=PROCESSES_MAX).contains(&settings.processes_max) {
        return Err(invalid(format!(
            "`processes_max` is {}; give 1 to {PROCESSES_MAX}",
            settings.processes_max
        )));
    }
    if settings.restart.first_ms == 0 || settings.restart.first_ms > settings.restart.max_ms {
        return Err(invalid(format!(
            "`restart.first_ms` is {}; give 1 to `restart.max_ms`, which is {}",
            settings.restart.first_ms, settings.restart.max_ms
        )));
    }
    let read = |what: &str, name: &str, reference: &SecretRef| {
        reference.resolve().map_err(|error| {
            Error::new(
                ErrorKind::Invalid,
                format!("settings of system `{system}`: `{what}.{name}`"),
            )
            .with_source(error)
        })
    };
    let mut env: BTreeMap<String, SecretString> = BTreeMap::new();
    for (name, value) in &settings.env {
        let value = match value {
            EnvValue::Secret(reference) => read("env", name, reference)?,
            EnvValue::Plain(text) => SecretString::from(text.clone()),
        };
        if name.is_empty() || name.contains(['=', '\0']) || value.expose_secret().contains('\0') {
            return Err(invalid(format!(
                "`env.{name}` cannot be an environment variable"
            )));
        }
        env.insert(name.clone(), value);
    }
    let mut secrets = BTreeMap::new();
    for (name, reference) in &settings.secrets {
        secrets.insert(name.clone(), read("secrets", name, reference)?);
    }
    Ok(Parsed {
        spec: Spec {
            system: system.to_owned(),
            program: program.clone(),
            arguments: arguments.to_vec(),
            directory: settings.directory,
            env,
            secrets,
            config: settings.config,
            start_ms: settings.start_ms,
            timeout_ms: settings.timeout_ms,
        },
        processes_max: settings.processes_max,
        restart: settings.restart,
        capabilities: settings.capabilities,
    })
}
