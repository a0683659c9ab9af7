//! Non-human identities as people declare them: a file, checked as a whole. Pure.
//!
//! ```yaml
//! nhis:
//!   - key: billing-sync
//!     kind: service_account
//!     environment: production
//!     purpose: copies invoices into the warehouse every night
//!     team: data
//!     owner: E1003
//!     backup: E0007
//!     review: 2027-01-31
//!     idle_max: 1d
//!     used_by: [cron/billing]
//!     credentials:
//!       - system: warehouse
//!         id: password:billing_sync
//!         kind: password
//!         replaced_by: alternating
//!         stored_in: vault:prod/billing
//!         known_by: [E1003]
//!         expires: 2026-12-01T00:00:00Z
//! ```
//!
//! What has no owner, or a backup who is the owner, is refused: who answers for a thing is the one fact that cannot be looked
//! up once they have gone.

use std::collections::BTreeSet;
use std::fmt;

use chrono::{DateTime, NaiveDate, Utc};
use connectors::connector::CredentialKind;
use engine::core::duration::Span;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_saphyr::Spanned;

use super::graph::{Node, NodeKind};
use crate::policy::{Key, Problem, Problems, yaml};
use crate::rotation::Rotation;

/// The most non-human identities of one file.
pub const DECLARED_MAX: usize = 20_000;
/// The most credentials of one of them.
pub const CREDENTIALS_MAX: usize = 200;
/// The most names in one list.
pub const NAMES_MAX: usize = 500;
const TEXT_BYTES_MAX: usize = 2_000;
const KEY_BYTES_MAX: usize = 200;

/// What kind of non-human identity it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NhiKind {
    /// A login on a system that a program uses.
    ServiceAccount,
    /// A program that proves by where it runs who it is.
    Workload,
    /// Whoever calls an API with a key.
    ApiClient,
    /// A login that several people use. It belongs to a system, a team or an application.
    SharedAccount,
    Device,
    Bot,
    /// Decides by itself what it does; a person answers for it as its sponsor.
    AiAgent,
}

impl NhiKind {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ServiceAccount => "service_account",
            Self::Workload => "workload",
            Self::ApiClient => "api_client",
            Self::SharedAccount => "shared_account",
            Self::Device => "device",
            Self::Bot => "bot",
            Self::AiAgent => "ai_agent",
        }
    }
}

/// How the secret of a credential is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReplaceMode {
    /// Two at once: the new one is made beside the old one.
    TwoSlot,
    /// Two identities take turns.
    Alternating,
    /// The new one takes the place of the old one: for a moment there is none.
    SingleSlot,
    /// It is issued anew, and the old one runs out.
    Reissue,
    /// A certificate authority, in four phases.
    FourPhase,
}

/// A file of non-human identities.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Document {
    #[schemars(with = "Vec<Declared>")]
    pub nhis: Vec<Spanned<Declared>>,
}

/// One non-human identity, as somebody declares it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Declared {
    /// Names it for ever: letters, digits, `-`, `_`, `.`, `/`.
    pub key: String,
    pub kind: NhiKind,
    /// `production`, `staging`: what is of one environment is used in no other.
    pub environment: String,
    /// What it is for, in a sentence.
    pub purpose: String,
    /// The team that answers for it when people change.
    pub team: String,
    /// The person who answers for it, by key.
    pub owner: String,
    /// Another person, for when the owner is gone.
    pub backup: String,
    /// The application it belongs to; for an AI agent the person who answers for what it decides.
    #[serde(default)]
    pub sponsor: Option<String>,
    /// When somebody has to look whether it is still needed.
    pub review: NaiveDate,
    /// Production stops when it does.
    #[serde(default)]
    pub critical: bool,
    /// The way in when everything else fails.
    #[serde(default)]
    pub break_glass: bool,
    /// The longest it lies idle between two uses.
    #[serde(default)]
    pub idle_max: Option<Span>,
    /// It works at the end of a year.
    #[serde(default)]
    pub yearly: bool,
    /// What uses it: programs, jobs, machines.
    #[serde(default)]
    pub used_by: BTreeSet<String>,
    /// What made it: `person:KEY`, `credential:system/id`, `nhi:KEY`.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub minted_by: Option<Node>,
    /// The logins that are it, on systems that are configured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accounts: Vec<DeclaredAccount>,
    #[serde(default)]
    pub credentials: Vec<DeclaredCredential>,
}

/// A login that is it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeclaredAccount {
    pub system: String,
    /// The login name, or the system's own identifier.
    pub name: String,
}

/// What it proves with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeclaredCredential {
    pub system: String,
    /// A fingerprint, or the system's own number. Never the secret.
    pub id: String,
    #[schemars(with = "String")]
    pub kind: CredentialKind,
    #[serde(default)]
    pub issued: Option<DateTime<Utc>>,
    #[serde(default)]
    pub expires: Option<DateTime<Utc>>,
    /// Its key: `rsa:3072`, `ec:256`, `ed25519`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub key: Option<Key>,
    /// How it is replaced; nothing replaces it without.
    #[serde(default)]
    pub replaced_by: Option<ReplaceMode>,
    /// When and with what it is replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<Rotation>,
    /// It can be put out of use and back.
    #[serde(default)]
    pub reversible: bool,
    /// Where the secret lies: the place, not the secret.
    #[serde(default)]
    pub stored_in: Option<String>,
    /// What uses it: programs, jobs, machines.
    #[serde(default)]
    pub used_by: BTreeSet<String>,
    /// Who has seen the secret, by key.
    #[serde(default)]
    pub known_by: BTreeSet<String>,
    /// What made it: `person:KEY`, `credential:system/id`, `nhi:KEY`.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub minted_by: Option<Node>,
}

impl DeclaredCredential {
    /// One of which nothing else is said.
    #[must_use]
    pub fn new(system: impl Into<String>, id: impl Into<String>, kind: CredentialKind) -> Self {
        Self {
            system: system.into(),
            id: id.into(),
            kind,
            issued: None,
            expires: None,
            key: None,
            replaced_by: None,
            rotation: None,
            reversible: false,
            stored_in: None,
            used_by: BTreeSet::new(),
            known_by: BTreeSet::new(),
            minted_by: None,
        }
    }

    /// The name of its node: `system/id`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.system, self.id)
    }
}

impl fmt::Display for NhiKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Reads a file of non-human identities. `systems` are the names of those that are configured.
///
/// # Errors
/// Every mistake of the file, with its place and how to mend it. Nothing of a file with mistakes is taken.
pub fn parse(file: &str, text: &str, systems: &BTreeSet<&str>) -> Result<Vec<Declared>, Problems> {
    let document: Document = match yaml::parse(file, text) {
        Ok(document) => document,
        Err(problem) => {
            let mut problems = Problems::default();
            problems.push(problem);
            return Err(problems);
        }
    };
    let mut problems = Problems::default();
    if document.nhis.len() > DECLARED_MAX {
        problems.push(Problem::new(
            file,
            None,
            format!(
                "{} non-human identities, more than the {DECLARED_MAX} of one file",
                document.nhis.len()
            ),
            "split it into several files",
        ));
    }
    let (mut keys, mut names) = (BTreeSet::new(), BTreeSet::new());
    let mut logins = BTreeSet::new();
    for declared in &document.nhis {
        let location = declared.referenced;
        let at = Some((location.line(), location.column()));
        let declared = &declared.value;
        let mut wrong = |message: String, fix: &str| {
            problems.push(Problem::new(file, at, message, fix));
        };
        if !keys.insert(declared.key.clone()) {
            wrong(
                format!("`{}` is declared twice", declared.key),
                "keep one of the two",
            );
        }
        for mistake in mistakes(declared, systems) {
            wrong(mistake.0, mistake.1);
        }
        for account in &declared.accounts {
            if !logins.insert((&account.system, &account.name)) {
                wrong(
                    format!(
                        "the account `{}` on `{}` is declared twice",
                        account.name, account.system
                    ),
                    "an account belongs to one identity: keep one of the two",
                );
            }
        }
        for credential in &declared.credentials {
            if !names.insert(credential.name()) {
                wrong(
                    format!("the credential `{}` is declared twice", credential.name()),
                    "a credential belongs to one identity: keep one of the two",
                );
            }
        }
    }
    if problems.list.is_empty() {
        let declared = document.nhis.into_iter().map(|declared| declared.value);
        return Ok(declared.collect());
    }
    Err(problems)
}

/// What is wrong with one, and how to mend it.
#[must_use]
pub fn mistakes(declared: &Declared, systems: &BTreeSet<&str>) -> Vec<(String, &'static str)> {
    let mut found: Vec<(String, &'static str)> = Vec::new();
    let key = &declared.key;
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    if key.is_empty() || key.len() > KEY_BYTES_MAX || !key.chars().all(allowed) {
        found.push((
            format!("`{}` is no usable key", key.escape_debug()),
            "use up to 200 letters, digits, `-`, `_`, `.` and `/`",
        ));
    }
    let texts = [
        ("environment", &declared.environment),
        ("purpose", &declared.purpose),
        ("team", &declared.team),
        ("owner", &declared.owner),
        ("backup", &declared.backup),
    ];
    for (name, text) in texts {
        if let Some(why) = unusable(text) {
            found.push((
                format!("`{key}` has no usable `{name}`: it {why}"),
                "say it in a few words",
            ));
        }
    }
    if declared.owner == declared.backup {
        found.push((
            format!("`{key}` has the same person as `owner` and as `backup`"),
            "name two people: when one leaves the other is there",
        ));
    }
    if declared.kind == NhiKind::AiAgent && declared.sponsor.is_none() {
        found.push((
            format!("`{key}` is an AI agent without `sponsor`"),
            "name the person who answers for what it decides",
        ));
    }
    if declared.credentials.len() > CREDENTIALS_MAX {
        found.push((
            format!(
                "`{key}` has {} credentials, more than {CREDENTIALS_MAX}",
                declared.credentials.len()
            ),
            "declare one identity for each workload",
        ));
    }
    if declared.accounts.len() > NAMES_MAX {
        found.push((
            format!(
                "`{key}` has {} accounts, more than {NAMES_MAX}",
                declared.accounts.len()
            ),
            "declare one identity for each workload",
        ));
    }
    for account in &declared.accounts {
        if !systems.contains(account.system.as_str()) {
            found.push((
                format!(
                    "`{key}` has an account on `{}`, which is no configured system",
                    account.system
                ),
                "use the name of a file in systems/, without its ending",
            ));
        }
        if let Some(why) = unusable(&account.name) {
            found.push((
                format!("`{key}` has an account without usable `name`: it {why}"),
                "use the login name, or the system's own identifier",
            ));
        }
    }
    let mut names = vec![("used_by", &declared.used_by)];
    for credential in &declared.credentials {
        names.push(("used_by", &credential.used_by));
        names.push(("known_by", &credential.known_by));
        found.extend(credential_mistakes(key, credential, systems));
    }
    for (name, list) in names {
        if list.len() > NAMES_MAX {
            found.push((
                format!(
                    "`{key}` has {} names in `{name}`, more than {NAMES_MAX}",
                    list.len()
                ),
                "name the group they are of",
            ));
        }
        let nodes = list
            .iter()
            .map(|text| format!("consumer:{text}").parse::<Node>());
        if let Some(why) = nodes.filter_map(Result::err).next() {
            found.push((
                format!("a name in `{name}` of `{key}` cannot be used: {why}"),
                "mend the name",
            ));
        }
    }
    let minted = declared
        .credentials
        .iter()
        .map(|credential| &credential.minted_by);
    for by in minted.chain([&declared.minted_by]).flatten() {
        if matches!(
            by.kind,
            NodeKind::Team | NodeKind::Consumer | NodeKind::Location
        ) {
            found.push((
                format!("`{by}` cannot have made anything of `{key}`"),
                "name a person, a credential, another identity or an anchor",
            ));
        }
    }
    found
}

fn credential_mistakes(
    key: &str,
    credential: &DeclaredCredential,
    systems: &BTreeSet<&str>,
) -> Vec<(String, &'static str)> {
    let mut found = Vec::new();
    if !systems.contains(credential.system.as_str()) {
        found.push((
            format!(
                "`{key}` has a credential on `{}`, which is no configured system",
                credential.system
            ),
            "use the name of a file in systems/, without its ending",
        ));
    }
    if let Some(why) = unusable(&credential.id) {
        found.push((
            format!("`{key}` has a credential without usable `id`: it {why}"),
            "use a fingerprint, or the system's own number",
        ));
    }
    if let Some(rotation) = &credential.rotation {
        found.extend(rotation.mistakes(
            &credential.name(),
            credential.kind,
            credential.replaced_by,
            systems,
        ));
    }
    if let (Some(issued), Some(expires)) = (credential.issued, credential.expires)
        && expires <= issued
    {
        found.push((
            format!(
                "`{}` expires at {expires}, before it was issued",
                credential.name()
            ),
            "mend one of the two times",
        ));
    }
    found
}

/// Why a text says nothing, if it does not.
fn unusable(text: &str) -> Option<String> {
    if text.trim().is_empty() {
        return Some("is empty".to_owned());
    }
    if text.len() > TEXT_BYTES_MAX {
        return Some(format!("is longer than {TEXT_BYTES_MAX} bytes"));
    }
    text.chars()
        .any(char::is_control)
        .then(|| "has control characters".to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    const GOOD: &str = "
nhis:
  - key: billing-sync
    kind: service_account
    environment: production
    purpose: copies invoices
    team: data
    owner: E1003
    backup: E0007
    review: 2027-01-31
    idle_max: 1d
    used_by: [cron/billing]
    accounts: [{system: warehouse, name: billing_sync}]
    credentials:
      - system: warehouse
        id: password:billing_sync
        kind: password
        replaced_by: alternating
        known_by: [E1003]
        minted_by: person:E0001
        expires: 2026-12-01T00:00:00Z
";

    fn read(text: &str) -> Result<Vec<Declared>, String> {
        parse("nhis.yaml", text, &BTreeSet::from(["warehouse"]))
            .map_err(|problems| problems.to_string())
    }

    #[test]
    fn what_is_declared_is_read() {
        let declared = read(GOOD).unwrap();
        assert_eq!(declared.len(), 1);
        assert_eq!(
            declared[0].credentials[0].name(),
            "warehouse/password:billing_sync"
        );
        assert_eq!(
            declared[0].credentials[0].minted_by,
            Some(Node::person("E0001"))
        );
    }

    /// Each mistake is told with its place, and nothing of the file is taken.
    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        for (from, to, told) in [
            ("    owner: E1003\n", "", "`owner` is missing"),
            ("owner: E1003", "owner: ' '", "no usable `owner`"),
            ("backup: E0007", "backup: E1003", "name two people"),
            (
                "kind: service_account",
                "kind: ai_agent",
                "without `sponsor`",
            ),
            (
                "kind: service_account",
                "kind: robot",
                "unknown value `robot`",
            ),
            (
                "system: warehouse",
                "system: warehose",
                "no configured system",
            ),
            ("review: 2027-01-31", "review: 2027-02-31", "out of range"),
            ("key: billing-sync", "key: 'a b'", "no usable key"),
            (
                "minted_by: person:E0001",
                "minted_by: team:data",
                "cannot have made",
            ),
            ("minted_by: person:E0001", "minted_by: E0001", "kind:name"),
            (
                "        expires: 2026",
                "        issued: 2027-01-01T00:00:00Z\n        expires: 2026",
                "before it was issued",
            ),
            (
                "purpose: copies invoices",
                "purpose: \"a\\u0007b\"",
                "control characters",
            ),
            ("idle_max: 1d", "idle_max: soon", "soon"),
            ("    team: data", "    teem: data", "teem"),
        ] {
            let text = GOOD.replacen(from, to, 1);
            assert_ne!(text, GOOD, "{from}");
            let problems = read(&text).unwrap_err();
            assert!(problems.contains(told), "{told}: {problems}");
            assert!(problems.contains("nhis.yaml"), "{problems}");
        }
        let twice = format!("{GOOD}{}", GOOD.replacen("\nnhis:", "", 1));
        let problems = read(&twice).unwrap_err();
        assert!(
            problems.contains("`billing-sync` is declared twice"),
            "{problems}"
        );
        assert!(
            problems.contains("the credential `warehouse/password:billing_sync` is declared twice"),
            "{problems}"
        );
    }
}
