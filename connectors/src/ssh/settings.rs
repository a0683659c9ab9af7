//! What the configuration of an SSH authority says.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use crate::answer::settings_error;
use crate::connector::Error;

const DAY_S: u64 = 24 * 3_600;
const LIFETIME_S_MAX: u64 = 10 * 366 * DAY_S;
const BACKDATE_S_MAX: u64 = DAY_S;
const TRIAL_MS_MAX: u64 = 120_000;
/// How many rules for names there may be.
const NAMES_MAX: usize = 1_000;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    pub folder: PathBuf,
    #[serde(default)]
    pub create: bool,
    /// Whom certificates may let in as: `deploy`, or `*`.
    #[serde(default)]
    pub users: Vec<String>,
    /// Which hosts may be certified: `host.example`, `.example` for all below, `*`.
    #[serde(default)]
    pub hosts: Vec<String>,
    #[serde(default = "extensions")]
    pub extensions: Vec<String>,
    #[serde(default = "lifetime_s")]
    pub lifetime_s: u64,
    #[serde(default = "lifetime_s_max")]
    pub lifetime_s_max: u64,
    #[serde(default = "backdate_s")]
    pub backdate_s: u64,
    #[serde(default)]
    pub trial: Option<Trial>,
}

/// Where a certificate of a user is tried.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Trial {
    #[serde(default = "ssh")]
    pub ssh: PathBuf,
    pub host: String,
    #[serde(default = "port")]
    pub port: u16,
    /// Without it, as the first name in the certificate.
    #[serde(default)]
    pub user: Option<String>,
    pub known_hosts: PathBuf,
    #[serde(default = "trial_ms")]
    timeout_ms: u64,
}

impl Trial {
    pub fn limit(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }
}

fn extensions() -> Vec<String> {
    vec!["permit-pty".to_owned()]
}
fn lifetime_s() -> u64 {
    DAY_S
}
fn lifetime_s_max() -> u64 {
    30 * DAY_S
}
fn backdate_s() -> u64 {
    60
}
fn ssh() -> PathBuf {
    PathBuf::from("/usr/bin/ssh")
}
fn port() -> u16 {
    22
}
fn trial_ms() -> u64 {
    10_000
}

/// What can stand in a list of names without being read as two, or as a pattern.
pub(super) fn is_name(text: &str) -> bool {
    (1..=253).contains(&text.len())
        && !text.starts_with('-')
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-@".contains(&byte))
}

impl Settings {
    pub fn parse(system: &str, settings: Value) -> Result<Self, Error> {
        let wrong = settings_error(system, "ssh");
        let settings: Self =
            serde_json::from_value(settings).map_err(|error| wrong(error.to_string()))?;
        match settings.mistake() {
            None => Ok(settings),
            Some(mistake) => Err(wrong(mistake)),
        }
    }

    fn mistake(&self) -> Option<String> {
        if !self.folder.is_absolute() {
            return Some("`folder` must begin with `/`".to_owned());
        }
        let names = self.users.iter().chain(&self.hosts);
        if names.clone().count() > NAMES_MAX {
            return Some(format!("more than {NAMES_MAX} rules for names"));
        }
        if let Some(name) = names
            .clone()
            .find(|name| *name != "*" && !is_name(name.strip_prefix('.').unwrap_or(name)))
        {
            return Some(format!(
                "`{}` is no rule for names; write `deploy`, `host.example`, `.example` or `*`",
                name.escape_debug()
            ));
        }
        if let Some(extension) = self.extensions.iter().find(|it| !is_name(it)) {
            return Some(format!(
                "`{}` is no name of an extension",
                extension.escape_debug()
            ));
        }
        for (name, value, max) in [
            ("lifetime_s_max", self.lifetime_s_max, LIFETIME_S_MAX),
            ("lifetime_s", self.lifetime_s, self.lifetime_s_max),
        ] {
            if !(1..=max).contains(&value) {
                return Some(format!("`{name}` is {value}; give 1 to {max}"));
            }
        }
        if self.backdate_s > BACKDATE_S_MAX {
            return Some(format!("`backdate_s` is more than {BACKDATE_S_MAX}"));
        }
        let trial = self.trial.as_ref()?;
        if !trial.ssh.is_absolute() || !trial.known_hosts.is_absolute() {
            return Some("`trial.ssh` and `trial.known_hosts` must begin with `/`".to_owned());
        }
        if !is_name(&trial.host) || trial.user.as_ref().is_some_and(|user| !is_name(user)) {
            return Some("`trial.host` and `trial.user` must be plain names".to_owned());
        }
        (!(1..=TRIAL_MS_MAX).contains(&trial.timeout_ms))
            .then(|| format!("`trial.timeout_ms` must be 1 to {TRIAL_MS_MAX}"))
    }

    /// Whether a certificate may say this name.
    pub fn allows(&self, is_host: bool, name: &str) -> bool {
        let rules = if is_host { &self.hosts } else { &self.users };
        is_name(name)
            && rules.iter().any(|rule| match rule.strip_prefix('.') {
                _ if rule == "*" => true,
                Some(parent) if is_host => name
                    .strip_suffix(parent)
                    .is_some_and(|below| below.len() > 1 && below.ends_with('.')),
                _ => rule == name,
            })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use serde_json::json;

    use super::*;

    #[test]
    fn a_wrong_setting_is_named_with_its_fix() {
        for (changes, why) in [
            (json!({"folder": "ssh"}), "`folder`"),
            (json!({"users": ["a,b"]}), "no rule for names"),
            (json!({"users": ["-oProxyCommand=x"]}), "no rule for names"),
            (json!({"hosts": ["*.example"]}), "no rule for names"),
            (json!({"lifetime_s": 0}), "`lifetime_s`"),
            (
                json!({"lifetime_s": 10, "lifetime_s_max": 9}),
                "`lifetime_s`",
            ),
            (
                json!({"trial": {"host": "-x", "known_hosts": "/k"}}),
                "`trial.host`",
            ),
            (
                json!({"trial": {"host": "x", "known_hosts": "k"}}),
                "`trial.known_hosts`",
            ),
            (json!({"user": []}), "unknown field `user`"),
        ] {
            let mut settings = json!({"folder": "/ssh"});
            for (name, value) in changes.as_object().unwrap() {
                settings[name] = value.clone();
            }
            let error = Settings::parse("ssh", settings).unwrap_err();
            assert!(error.message.contains(why), "{changes}: {error}");
        }
        let settings = json!({"folder": "/ssh", "users": ["deploy"], "hosts": [".example"]});
        let settings = Settings::parse("ssh", settings).unwrap();
        assert!(settings.allows(false, "deploy") && !settings.allows(false, "root"));
        assert!(settings.allows(true, "a.example") && !settings.allows(true, "example"));
        assert!(
            !settings.allows(true, "a.example,b.other") && !settings.allows(true, "evilexample")
        );
    }
}
