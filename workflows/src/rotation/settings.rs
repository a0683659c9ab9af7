//! What is declared about replacing a credential.
//!
//! ```yaml
//! rotation:
//!   place: { system: secrets, bundle: billing }
//!   users: [billing_a, billing_b]
//!   parts: { env: "PGUSER={user}\nPGPASSWORD={password}\n" }
//!   every: 30d
//!   before_expiry: 14d
//!   window: { cron: "0 2 * * SAT", length: 4h, zone: Europe/Zurich }
//!   jitter: 12h
//!   overlap: { reload: 5m, cache: 1m, derived: 1h, propagation: 10s }
//!   soak: 7d
//!   approval: true
//! ```

use std::collections::{BTreeMap, BTreeSet};

use connectors::connector::{Attributes, CredentialKind};
use engine::core::duration::Span;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::overlap::Terms;
use super::window::Window;
use crate::nhi::declare::ReplaceMode;

/// The most parts that are written beside what every place gets.
pub const PARTS_MAX: usize = 20;
const PART_BYTES_MAX: usize = 4_096;
const NAME_BYTES_MAX: usize = 128;
/// The longest that anything is waited for on the way.
const WAIT_MAX: Span = Span::from_s(30 * 86_400);
/// Where a part has the login name, and the secret.
pub const USER: &str = "{user}";
pub const PASSWORD: &str = "{password}";
/// What every place gets: the secret, and the login name beside it.
pub const PART_PASSWORD: &str = "password";
pub const PART_USER: &str = "user";
/// What a place gets of a credential that a system issued: how the system calls it.
pub const PART_ID: &str = "id";
/// What it gets of a certificate.
pub const PART_CERTIFICATE: &str = "certificate";
pub const PART_KEY: &str = "key";
/// What a place has of an authority: the roots that are trusted by whoever reads it.
pub const PART_BUNDLE: &str = "bundle";
/// The most places beside the first in which an authority is trusted.
const TRUSTED_IN_MAX: usize = 1_000;

/// Where those who use a credential read it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// A system that keeps credentials, of kind `file`, `kubernetes` or `aws_secrets`.
    pub system: String,
    /// The name of what is read there, as that system's file has it.
    pub bundle: String,
}

/// How a credential is replaced. A stored form: fields may be added.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rotation {
    /// Where those who use it read it.
    pub place: Place,
    /// Where an authority is trusted, beside `place`: `four_phase` alone has it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trusted_in: Vec<Place>,
    /// The login name it belongs to; for `alternating` the two that take turns, the one in use first.
    pub users: Vec<String>,
    /// What is written beside `user` and `password`, by name: text with `{user}` and `{password}`.
    #[serde(default)]
    pub parts: BTreeMap<String, String>,
    /// The oldest it may become.
    #[serde(default)]
    pub every: Option<Span>,
    /// How long before it expires it is replaced.
    #[serde(default)]
    pub before_expiry: Option<Span>,
    /// When it may be replaced.
    #[serde(default)]
    pub window: Option<Window>,
    /// Up to so much earlier than it is due, by an amount that is drawn once.
    #[serde(default)]
    pub jitter: Option<Span>,
    /// What decides how long the old one works beside the new one.
    #[serde(default)]
    pub overlap: Terms,
    /// How long the old one is out of use, and can be put back, before it is removed.
    #[serde(default)]
    pub soak: Option<Span>,
    /// Somebody who answers for it has to agree first.
    #[serde(default)]
    pub approval: bool,
    /// What a credential that is issued says: `names`, `usage`, as its connector documents.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, serde_json::Value>")]
    pub attributes: Attributes,
    /// How long one that is issued lives; without it as long as its system gives.
    #[serde(default)]
    pub lifetime: Option<Span>,
    /// Where a certificate is shown to whoever connects.
    #[serde(default)]
    pub serves: Option<Serves>,
}

/// Where it can be seen that a certificate is in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Serves {
    /// A system of kind `tls`.
    pub system: String,
    /// As that system takes it: `host:port`.
    pub endpoint: String,
}

impl Rotation {
    /// What is written for a login name and a secret, by name.
    #[must_use]
    pub fn written(&self, user: &str, password: &str) -> BTreeMap<String, String> {
        let own = self.parts.iter().map(|(name, text)| {
            // The name first: a secret that looks like a placeholder stays as it is.
            (name.clone(), filled(text, user, password))
        });
        let mut written: BTreeMap<String, String> = own.collect();
        written.insert(PART_USER.to_owned(), user.to_owned());
        written.insert(PART_PASSWORD.to_owned(), password.to_owned());
        written
    }

    /// What is wrong with it, and how to mend it. `named` is the credential.
    #[must_use]
    pub fn mistakes(
        &self,
        named: &str,
        kind: CredentialKind,
        mode: Option<ReplaceMode>,
        systems: &BTreeSet<&str>,
    ) -> Vec<(String, &'static str)> {
        let mut found: Vec<(String, &'static str)> = Vec::new();
        let Some(mode) = mode else {
            found.push((
                format!("`{named}` has a `rotation` and no `replaced_by`"),
                "say how it is replaced: `alternating`, `single_slot`, `two_slot`, `reissue` or `four_phase`",
            ));
            return found;
        };
        let serves = self.serves.as_ref().map(|serves| &serves.system);
        let trusted_in: BTreeSet<&String> =
            self.trusted_in.iter().map(|place| &place.system).collect();
        for system in [&self.place.system]
            .into_iter()
            .chain(serves)
            .chain(trusted_in)
        {
            if !systems.contains(system.as_str()) {
                found.push((
                    format!("`{named}` names `{system}`, which is no configured system"),
                    "use the name of a file in systems/, without its ending",
                ));
            }
        }
        let is_password = kind == CredentialKind::Password;
        let by_password = matches!(mode, ReplaceMode::Alternating | ReplaceMode::SingleSlot);
        if is_password != by_password {
            found.push((
                format!("`{named}` is a {} and cannot be replaced so", kind.as_str()),
                "passwords are `alternating` or `single_slot`, what a system issues is `two_slot` or `reissue`",
            ));
        }
        if is_password && (!self.attributes.is_empty() || self.lifetime.is_some()) {
            found.push((
                format!("`{named}` is a password with `attributes` or a `lifetime`"),
                "leave them out: a password says nothing, and `every` says how old it becomes",
            ));
        }
        if kind.is_certificate() && !self.parts.is_empty() {
            found.push((
                format!("`{named}` is a certificate with `parts`"),
                "leave them out: its place gets `certificate`, `key` and `id`",
            ));
        }
        found.extend(self.authority_mistakes(named, kind, mode));
        for (name, length) in [
            ("soak", self.soak.unwrap_or(Span::from_ms(0))),
            ("overlap", super::overlap(&self.overlap).length),
        ] {
            if length > WAIT_MAX {
                found.push((
                    format!("`{named}` has `{name}` of {length}, longer than {WAIT_MAX}"),
                    "wait for less: a rotation that takes a quarter of a year is none",
                ));
            }
        }
        let different: BTreeSet<&str> = self.users.iter().map(String::as_str).collect();
        let wanted = if mode == ReplaceMode::Alternating {
            2
        } else {
            1
        };
        if self.users.len() != wanted || different.len() != wanted {
            let fix = if wanted == 2 {
                "name the two login names that take turns, the one in use first"
            } else {
                "name the one login name it belongs to"
            };
            found.push((
                format!(
                    "`{named}` has {} different `users` and needs {wanted}",
                    different.len()
                ),
                fix,
            ));
        }
        if self
            .users
            .iter()
            .chain([&self.place.bundle])
            .chain(self.trusted_in.iter().map(|place| &place.bundle))
            .any(|name| !is_name(name))
        {
            found.push((
                format!(
                    "`{named}` has an empty, very long or unprintable name in `users` or `place`"
                ),
                "use names of at most 128 bytes without control characters",
            ));
        }
        for (name, text) in &self.parts {
            if !is_part(name) || [PART_USER, PART_PASSWORD, PART_ID].contains(&name.as_str()) {
                found.push((
                    format!("`{named}` has a part `{}`", name.escape_debug()),
                    "use `a-z`, `0-9`, `-`, `_` and `.`, and none of `user`, `password` and `id`: those are written anyhow",
                ));
            }
            if text.len() > PART_BYTES_MAX || !text.contains(PASSWORD) {
                found.push((
                    format!(
                        "the part `{}` of `{named}` has no `{PASSWORD}`, or is too long",
                        name.escape_debug()
                    ),
                    "write what is to be read there, with {user} and {password} in it",
                ));
            }
        }
        if self.parts.len() > PARTS_MAX {
            found.push((
                format!(
                    "`{named}` has {} parts, more than {PARTS_MAX}",
                    self.parts.len()
                ),
                "write fewer parts",
            ));
        }
        if self.every.is_some_and(|every| every.ms() == 0) {
            found.push((
                format!("`{named}` is replaced `every` 0s"),
                "write a length of time such as `30d`",
            ));
        }
        if let (Some(every), Some(jitter)) = (self.every, self.jitter)
            && jitter >= every
        {
            found.push((
                format!(
                    "`{named}` has a `jitter` of {jitter}, no less than its `every` of {every}"
                ),
                "draw from a shorter time: it would be replaced all the time",
            ));
        }
        if let Some(window) = &self.window
            && let Err((what, fix)) = window.check()
        {
            found.push((format!("the window of `{named}`: {what}"), fix));
        }
        found
    }
}

impl Rotation {
    /// Everywhere an authority is trusted.
    #[must_use]
    pub fn places(&self) -> Vec<Place> {
        let all = [&self.place].into_iter().chain(&self.trusted_in);
        all.cloned().collect()
    }

    /// What is wrong with an authority, and with what only an authority may say.
    fn authority_mistakes(
        &self,
        named: &str,
        kind: CredentialKind,
        mode: ReplaceMode,
    ) -> Vec<(String, &'static str)> {
        let mut found: Vec<(String, &'static str)> = Vec::new();
        if mode != ReplaceMode::FourPhase {
            if !self.trusted_in.is_empty() {
                found.push((
                    format!("`{named}` is no authority and says where it is `trusted_in`"),
                    "leave it out: only what is replaced by `four_phase` is trusted anywhere",
                ));
            }
            return found;
        }
        if kind != CredentialKind::Certificate {
            found.push((
                format!("`{named}` is a {} and no authority", kind.as_str()),
                "`four_phase` replaces authorities, which are of kind `certificate`",
            ));
        }
        if !self.attributes.is_empty() || self.lifetime.is_some() || self.serves.is_some() {
            found.push((
                format!("`{named}` is an authority with `attributes`, a `lifetime` or `serves`"),
                "leave them out: its system says how it lives, and what it signed says where that is served",
            ));
        }
        if self.trusted_in.len() > TRUSTED_IN_MAX {
            found.push((
                format!(
                    "`{named}` is trusted in {} places, more than {TRUSTED_IN_MAX}",
                    self.trusted_in.len()
                ),
                "name one place that several read",
            ));
        }
        let different: BTreeSet<&Place> =
            [&self.place].into_iter().chain(&self.trusted_in).collect();
        if different.len() != self.trusted_in.len() + 1 {
            found.push((
                format!("`{named}` names a place twice"),
                "name each place once, in `place` or in `trusted_in`",
            ));
        }
        found
    }
}

fn filled(text: &str, user: &str, password: &str) -> String {
    let parts: Vec<String> = text
        .split(PASSWORD)
        .map(|part| part.replace(USER, user))
        .collect();
    parts.join(password)
}

fn is_name(name: &str) -> bool {
    !name.trim().is_empty() && name.len() <= NAME_BYTES_MAX && !name.chars().any(char::is_control)
}

fn is_part(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
    !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && name.chars().all(allowed)
        && !name.starts_with('.')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn rotation(text: &str) -> Rotation {
        crate::policy::yaml::parse("rotation.yaml", text).unwrap()
    }

    const GOOD: &str = "
place: { system: secrets, bundle: billing }
users: [billing_a, billing_b]
parts: { env: \"PGUSER={user}\\nPGPASSWORD={password}\\n\" }
every: 30d
before_expiry: 14d
window: { cron: \"0 2 * * SAT\", length: 4h, zone: Europe/Zurich }
jitter: 12h
overlap: { reload: 5m, cache: 1m, derived: 1h, propagation: 10s }
soak: 7d
approval: true
";

    const AUTHORITY: &str = "
place: { system: secrets, bundle: ca }
trusted_in: [{ system: secrets, bundle: partners }]
users: [authority]
before_expiry: 180d
soak: 7d
";

    #[test]
    fn what_is_declared_is_read_and_written_out() {
        let rotation = rotation(GOOD);
        let systems = BTreeSet::from(["secrets"]);
        assert_eq!(
            rotation.mistakes(
                "x",
                CredentialKind::Password,
                Some(ReplaceMode::Alternating),
                &systems
            ),
            []
        );
        let written = rotation.written("billing_b", "{user}");
        let env = written.get("env").map(String::as_str);
        assert_eq!(env, Some("PGUSER=billing_b\nPGPASSWORD={user}\n"));
        assert_eq!(written.get("user").map(String::as_str), Some("billing_b"));
        let stored: Rotation =
            serde_json::from_value(serde_json::to_value(&rotation).unwrap()).unwrap();
        assert_eq!(stored, rotation);
    }

    #[test]
    fn what_the_page_shows_is_a_declaration() {
        let page = include_str!("../../../docs/rotation.md");
        let (_, rest) = page.split_once("```yaml\n").unwrap();
        let (text, _) = rest.split_once("```").unwrap();
        let systems = BTreeSet::from(["warehouse", "secrets"]);
        let declared = crate::nhi::declare::parse("nhis.yaml", text, &systems).unwrap();
        assert!(
            declared
                .iter()
                .flat_map(|one| &one.credentials)
                .any(|one| one.rotation.is_some())
        );
    }

    /// Each mistake alone, and what is said of it.
    #[test]
    fn what_is_wrong_is_told() {
        for (from, to, told) in [
            ("system: secrets", "system: secret", "no configured system"),
            (
                "[billing_a, billing_b]",
                "[billing_a]",
                "1 different `users` and needs 2",
            ),
            (
                "[billing_a, billing_b]",
                "[billing_a, billing_a]",
                "1 different `users` and needs 2",
            ),
            (
                "[billing_a, billing_b]",
                "[billing_a, ' ']",
                "empty, very long",
            ),
            ("bundle: billing", "bundle: ''", "empty, very long"),
            ("env:", "../env:", "a part `../env`"),
            ("env:", "password:", "a part `password`"),
            ("{password}", "{pasword}", "no `{password}`"),
            ("every: 30d", "every: 0s", "`every` 0s"),
            ("jitter: 12h", "jitter: 30d", "no less than its `every`"),
            ("0 2 * * SAT", "0 26 * * SAT", "the window of `x`"),
            ("Europe/Zurich", "Europe/Zurch", "no IANA time zone"),
            ("length: 4h", "length: 0s", "the window of `x`"),
            ("soak: 7d", "soak: 31d", "`soak` of 31d, longer than 30d"),
            ("derived: 1h", "derived: 40d", "`overlap` of 40d"),
        ] {
            let text = GOOD.replacen(from, to, 1);
            assert_ne!(text, GOOD, "{from}");
            let systems = BTreeSet::from(["secrets"]);
            let mistakes = rotation(&text).mistakes(
                "x",
                CredentialKind::Password,
                Some(ReplaceMode::Alternating),
                &systems,
            );
            let all = format!("{mistakes:?}");
            assert!(all.contains(told), "{told}: {all}");
        }
        let systems = BTreeSet::from(["secrets"]);
        let mistakes = rotation(GOOD).mistakes(
            "x",
            CredentialKind::Password,
            Some(ReplaceMode::SingleSlot),
            &systems,
        );
        assert!(format!("{mistakes:?}").contains("needs 1"), "{mistakes:?}");
        let mistakes = rotation(GOOD).mistakes(
            "x",
            CredentialKind::Password,
            Some(ReplaceMode::FourPhase),
            &systems,
        );
        assert!(
            format!("{mistakes:?}").contains("cannot be replaced so"),
            "{mistakes:?}"
        );
        for (text, mode, told) in [
            (AUTHORITY, ReplaceMode::FourPhase, "[]"),
            (AUTHORITY, ReplaceMode::Reissue, "is no authority and says"),
            (
                "place: { system: secrets, bundle: ca }\nusers: [authority]\nlifetime: 30d\n",
                ReplaceMode::FourPhase,
                "is an authority with",
            ),
            (
                "place: { system: secrets, bundle: ca }\nusers: [authority]\n\
                 trusted_in: [{ system: secrets, bundle: ca }]\n",
                ReplaceMode::FourPhase,
                "names a place twice",
            ),
            (
                "place: { system: secrets, bundle: ca }\nusers: [authority]\n\
                 trusted_in: [{ system: elsewhere, bundle: ca }]\n",
                ReplaceMode::FourPhase,
                "no configured system",
            ),
        ] {
            let kind = CredentialKind::Certificate;
            let mistakes = rotation(text).mistakes("x", kind, Some(mode), &systems);
            let all = format!("{mistakes:?}");
            assert!(all.contains(told), "{told}: {all}");
        }
        let key = CredentialKind::ApiKey;
        let mode = Some(ReplaceMode::FourPhase);
        let mistakes = rotation(AUTHORITY).mistakes("x", key, mode, &systems);
        assert!(
            format!("{mistakes:?}").contains("no authority"),
            "{mistakes:?}"
        );
        let mistakes = rotation(GOOD).mistakes("x", CredentialKind::Password, None, &systems);
        assert!(
            format!("{mistakes:?}").contains("no `replaced_by`"),
            "{mistakes:?}"
        );
    }
}
