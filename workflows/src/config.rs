//! The configuration folder.
//!
//! ```text
//! tenure.yaml      where the store is, the node, the API (may be missing: everything has a default)
//! correlation.yaml when a record is about somebody who is known (may be missing: never)
//! sources/*.yaml   one feed a file
//! systems/*.yaml   one target system a file
//! policy/*.yaml    roles and account templates, split as you like
//! workflows/*.yaml workflows of your own; one with the name of a built-in takes its place
//! notices/*.yaml   what people are told, one notice a file; one with the name of a built-in lies over it
//! schedules/*.yaml what starts cases by the clock, one schedule a file
//! ```
//!
//! Loading reads everything, contacts nobody, and tells all that is wrong at once.
//!
//! Longer than 800 lines: a third are the mistakes that are told, beside what tells them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::TimeDelta;
use connectors::secret::SecretRef;
use engine::core::definition::Definition;
use engine::core::duration::Span;
use engine::core::schedule::Spec;
use engine::runner::Retention;
use engine::store::{SHARDS_DEFAULT, SHARDS_MAX};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::correlation::{CORRELATION_FILE, Correlation};
use crate::definitions;
use crate::notices::{Notices, NotificationSettings, Recipient};
use crate::policy::{PolicySet, Problem, Problems, Schema, yaml};
use crate::schedules;
use crate::sources::{Source, shared_tokens};
use crate::systems::{SystemConfig, Systems};

/// The most files one folder of the configuration may hold.
pub const FILES_MAX: usize = 1_000;
/// The file that says where everything is.
pub const SETTINGS_FILE: &str = "tenure.yaml";

/// Thirteen months: last year's review can still look at every step.
const RETENTION_DEFAULT_S: u32 = 400 * 86_400;
/// The least that closed cases are kept: their events may come again for a while, and must find them.
const CLOSED_CASES_DAYS_MIN: i64 = 90;

/// `tenure.yaml`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    pub store: StoreSettings,
    pub node: NodeSettings,
    pub api: ApiSettings,
    pub retention: RetentionSettings,
    pub telemetry: TelemetrySettings,
    pub notifications: Option<NotificationSettings>,
    pub inventory: InventorySettings,
}

/// Looking at systems for accounts and credentials that answer to nobody.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct InventorySettings {
    /// How long until each system is looked at again.
    pub every: Span,
    /// How long somebody has to answer for what was found.
    pub answer_within: Span,
}

impl Default for InventorySettings {
    fn default() -> Self {
        Self {
            every: Span::from_s(6 * 3_600),
            answer_within: Span::from_s(14 * 86_400),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StoreSettings {
    /// `sqlite:FILE` (a relative file lies beside `tenure.yaml`), `postgres://...` without a password, or where
    /// the whole address is kept: `env:NAME` or `file:/path`.
    pub url: String,
    /// How many shards a new database gets: the most nodes that can share the work, and a few for each to share it
    /// evenly. Fixed when the database is made.
    pub shards: u32,
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self {
            url: "sqlite:tenure.db".to_owned(),
            shards: SHARDS_DEFAULT,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NodeSettings {
    /// Names this process to people.
    pub name: String,
    /// How long another process waits before it takes over the work of this one.
    pub lease: Span,
    /// How long stopping waits for what is in flight.
    pub drain: Span,
}

impl Default for NodeSettings {
    fn default() -> Self {
        Self {
            name: "tenure".to_owned(),
            lease: Span::from_s(10),
            drain: Span::from_s(30),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ApiSettings {
    /// Address and port. Only this machine can reach the default.
    pub listen: String,
    /// Lines of `NAME SHA256-OF-TOKEN`; a relative file lies beside `tenure.yaml`. Without it nobody is let in.
    pub tokens: Option<PathBuf>,
    /// Lets other machines reach the API, whose tokens then travel as the proxy in front protects them.
    pub allow_remote: bool,
    /// A door beside it for sources that show a certificate.
    pub mutual_tls: Option<MutualTlsSettings>,
}

/// Events of sources that show a certificate, over TLS.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MutualTlsSettings {
    /// Address and port of the door.
    pub listen: String,
    /// What it shows itself (PEM); relative files lie beside `tenure.yaml`.
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Who signs the certificates of sources (PEM).
    pub client_ca: PathBuf,
    /// Which source a name in a certificate is: `CN=...`, `DNS:...` or `URI:...`, and the name of a source.
    pub subjects: BTreeMap<String, String>,
}

impl Default for ApiSettings {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:7878".to_owned(),
            tokens: None,
            allow_remote: false,
            mutual_tls: None,
        }
    }
}

/// Where traces and metrics are sent. Without it, and without `OTEL_EXPORTER_OTLP_ENDPOINT`, nowhere.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TelemetrySettings {
    pub otlp: Option<OtlpSettings>,
}

#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OtlpSettings {
    /// Of the collector, for OTLP over HTTP: `http://HOST:4318`. The paths `/v1/traces` and `/v1/metrics` are added.
    pub endpoint: String,
    /// Sent with each request, each by where its value is kept: `{ authorization: env:NAME }`.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, String>")]
    pub headers: BTreeMap<String, SecretRef>,
    /// The share of cases that are traced, 0 to 1.
    #[serde(default = "all_of_them")]
    pub sample: f64,
}

fn all_of_them() -> f64 {
    1.0
}

/// How long what is over is kept. Whatever belongs to an open case stays.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RetentionSettings {
    /// Transitions of cases. On PostgreSQL they go by whole months, so up to a month later.
    pub history: Kept,
    pub evidence: Kept,
    /// Closed cases with their steps. Their evidence stays as long as `evidence` says.
    pub closed_cases: Kept,
}

impl Default for RetentionSettings {
    fn default() -> Self {
        Self {
            history: Kept::For(Span::from_s(RETENTION_DEFAULT_S)),
            evidence: Kept::Ever,
            closed_cases: Kept::For(Span::from_s(RETENTION_DEFAULT_S)),
        }
    }
}

impl RetentionSettings {
    /// As the engine takes it.
    #[must_use]
    pub fn spans(&self) -> Retention {
        Retention {
            history: self.history.span(),
            evidence: self.evidence.span(),
            closed_cases: self.closed_cases.span(),
        }
    }
}

/// A length of time such as `400d`, or `never`: it is never removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Kept {
    For(Span),
    Ever,
}

impl Kept {
    fn span(self) -> Option<Span> {
        match self {
            Self::For(span) => Some(span),
            Self::Ever => None,
        }
    }
}

impl TryFrom<String> for Kept {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text == "never" {
            return Ok(Self::Ever);
        }
        Span::parse(&text).map(Self::For).map_err(|_| {
            format!("`{text}` is no length of time; write for example `400d`, or `never`")
        })
    }
}

impl JsonSchema for Kept {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Kept".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "A length of time such as `400d`, or `never`: it is never removed.",
            "pattern": "^(never|([0-9]+(ms|s|m|h|d))+)$"
        })
    }
}

/// Where cases and the directory are kept.
#[derive(Clone)]
pub enum StoreAddress {
    Sqlite(PathBuf),
    /// May hold a password: never shown.
    Postgres(secrecy::SecretString),
}

impl std::fmt::Debug for StoreAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sqlite(path) => f.debug_tuple("Sqlite").field(path).finish(),
            Self::Postgres(_) => f.write_str("Postgres(..)"),
        }
    }
}

/// Everything the folder says, checked.
#[derive(Debug)]
pub struct Configuration {
    pub root: PathBuf,
    pub settings: Settings,
    pub sources: BTreeMap<String, Arc<Source>>,
    pub systems: Arc<Systems>,
    pub policy: Arc<PolicySet>,
    /// When a record is about somebody who is known under another key; without it never.
    pub correlation: Option<Arc<Correlation>>,
    /// The built-in workflows and those of the folder.
    pub definitions: Vec<Definition>,
    /// By name.
    pub schedules: BTreeMap<String, Spec>,
    /// What people are told.
    pub notices: Arc<Notices>,
    /// What rules may name.
    pub schema: Schema,
    /// What is allowed and likely a slip.
    pub warnings: Vec<Problem>,
}

impl Configuration {
    /// Reads the folder `root`.
    ///
    /// # Errors
    /// Everything that is wrong, file by file, up to the limit of [`Problems`].
    pub fn load(root: &Path) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let settings = take(Self::load_settings(root), &mut problems).unwrap_or_default();
        let correlation = take(load_correlation(root), &mut problems).flatten();
        let mut warnings = Vec::new();
        let mut read = |folder: &str| take(files(root, folder), &mut problems).unwrap_or_default();
        let (source_files, system_files, policy_files) =
            (read("sources"), read("systems"), read("policy"));
        let (workflow_files, schedule_files, notice_files) =
            (read("workflows"), read("schedules"), read("notices"));

        let mut sources = BTreeMap::new();
        for (file, text) in &source_files {
            let Some(source) = take(Source::load(file, text), &mut problems) else {
                continue;
            };
            warnings.extend(source.warnings().iter().cloned());
            let name = source.name().to_owned();
            if sources.insert(name.clone(), Arc::new(source)).is_some() {
                problems.push(twice(file, "source", &name));
            }
        }
        problems.extend(shared_tokens(sources.values()));
        let mut configs: Vec<(String, SystemConfig)> = Vec::new();
        for (file, text) in &system_files {
            let Some(config) = take(SystemConfig::load(file, text), &mut problems) else {
                continue;
            };
            let name = &config.name.value;
            if configs.iter().any(|(_, other)| other.name.value == *name) {
                problems.push(twice(file, "system", name));
            } else {
                configs.push((file.clone(), config));
            }
        }
        // A feed or system that could not be read would make every rule that names it look wrong, too.
        if !problems.is_empty() {
            return Err(problems);
        }
        let mut schema = Schema::new(configs.iter().map(|(_, config)| &config.name.value));
        for source in sources.values() {
            schema = schema.with_source(&source.declarations());
        }
        let policy = take(PolicySet::load(&policy_files, &schema), &mut problems);
        let definitions = take(definitions::load(&workflow_files), &mut problems);
        let schedules = definitions
            .as_ref()
            .map(|definitions| schedules_of(&schedule_files, definitions, &mut problems))
            .unwrap_or_default();
        let systems = policy
            .as_ref()
            .and_then(|policy| take(Systems::build(&configs, &schema, policy), &mut problems));
        let told = settings.notifications.clone();
        let notices = definitions.as_ref().and_then(|definitions| {
            take(
                Notices::load(told, &notice_files, &schema, definitions),
                &mut problems,
            )
        });
        match (policy, definitions, systems, notices) {
            (Some(policy), Some(definitions), Some(systems), Some(notices))
                if problems.is_empty() =>
            {
                if let Some(rules) = policy.contracts() {
                    // Whom they name is read where people are told.
                    if let Err(error) = Recipient::parse(rules.owner()) {
                        let message = format!("`contractors.owner`: {}", error.what);
                        return Err(Problem::new("policy", None, message, error.fix).into());
                    }
                }
                warnings.extend(policy.warnings().iter().cloned());
                warnings.extend(notices.warnings(SETTINGS_FILE, &definitions));
                Ok(Self {
                    root: root.to_owned(),
                    settings,
                    sources,
                    systems: Arc::new(systems),
                    policy: Arc::new(policy),
                    correlation: correlation.map(Arc::new),
                    definitions,
                    schedules,
                    notices: Arc::new(notices),
                    schema,
                    warnings,
                })
            }
            _ => Err(problems),
        }
    }

    /// Reads `tenure.yaml` alone: enough for commands that only look into the store.
    ///
    /// # Errors
    /// What is wrong with it. That it is missing is not wrong.
    pub fn load_settings(root: &Path) -> Result<Settings, Problems> {
        let path = root.join(SETTINGS_FILE);
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                let settings: Settings = yaml::parse(SETTINGS_FILE, &text)?;
                settings.check()?;
                Ok(settings)
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Settings::default()),
            Err(error) => Err(unreadable(SETTINGS_FILE, &error).into()),
        }
    }
}

fn load_correlation(root: &Path) -> Result<Option<Correlation>, Problems> {
    match std::fs::read_to_string(root.join(CORRELATION_FILE)) {
        Ok(text) => Correlation::load(CORRELATION_FILE, &text).map(Some),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unreadable(CORRELATION_FILE, &error).into()),
    }
}

impl Settings {
    fn check(&self) -> Result<(), Problem> {
        let problem = |message: String, fix: &str| Problem::new(SETTINGS_FILE, None, message, fix);
        let lease_ms = self.node.lease.ms();
        if !(1_000..=600_000).contains(&lease_ms) {
            return Err(problem(
                format!("`node.lease` is {}", self.node.lease),
                "give `1s` to `10m`",
            ));
        }
        if !(1..=SHARDS_MAX).contains(&self.store.shards) {
            return Err(problem(
                format!("`store.shards` is {}", self.store.shards),
                &format!("give 1 to {SHARDS_MAX}"),
            ));
        }
        self.retention.check()?;
        if let Some(otlp) = &self.telemetry.otlp {
            if !(0.0..=1.0).contains(&otlp.sample) {
                return Err(problem(
                    format!("`telemetry.otlp.sample` is {}", otlp.sample),
                    "give a share between `0` and `1`",
                ));
            }
            let endpoint = &otlp.endpoint;
            if !(endpoint.starts_with("http://") || endpoint.starts_with("https://")) {
                return Err(problem(
                    format!("`telemetry.otlp.endpoint` is `{endpoint}`"),
                    "write `http://HOST:4318` or `https://HOST:4318`",
                ));
            }
        }
        let every = self.inventory.every;
        if every.delta() < TimeDelta::minutes(1) {
            return Err(problem(
                format!("`inventory.every` is {every}"),
                "give `1m` or more: each look lists every account of a system",
            ));
        }
        if let Some(notifications) = &self.notifications {
            notifications.check(SETTINGS_FILE)?;
        }
        self.store.kind().map(|_| ())
    }
}

impl RetentionSettings {
    fn check(&self) -> Result<(), Problem> {
        let problem =
            |message: String, fix: String| Problem::new(SETTINGS_FILE, None, message, fix);
        let Kept::For(closed_cases) = self.closed_cases else {
            return Ok(());
        };
        if closed_cases.delta() < TimeDelta::days(CLOSED_CASES_DAYS_MIN) {
            return Err(problem(
                format!("`retention.closed_cases` is {closed_cases}"),
                format!("give `{CLOSED_CASES_DAYS_MIN}d` or more, or `never`"),
            ));
        }
        // A history that nobody can find any more would only cost room.
        if self
            .history
            .span()
            .is_none_or(|history| history > closed_cases)
        {
            return Err(problem(
                format!(
                    "`retention.history` is longer than `retention.closed_cases`, {closed_cases}"
                ),
                "keep closed cases at least as long as their history".to_owned(),
            ));
        }
        Ok(())
    }
}

enum StoreKind {
    Sqlite(PathBuf),
    Postgres(String),
    Kept(SecretRef),
}

impl StoreSettings {
    fn kind(&self) -> Result<StoreKind, Problem> {
        let problem = |message: String, fix: &str| Problem::new(SETTINGS_FILE, None, message, fix);
        if let Ok(reference) = SecretRef::try_from(self.url.clone()) {
            return Ok(StoreKind::Kept(reference));
        }
        if let Some(path) = self
            .url
            .strip_prefix("sqlite:")
            .filter(|path| !path.is_empty())
        {
            let path = path.strip_prefix("//").unwrap_or(path);
            return Ok(StoreKind::Sqlite(PathBuf::from(path)));
        }
        if self.url.starts_with("postgres://") || self.url.starts_with("postgresql://") {
            let authority = self.url.split("://").nth(1).unwrap_or_default();
            let user = authority
                .split('/')
                .next()
                .and_then(|part| part.rsplit_once('@'));
            if user.is_some_and(|(user, _)| user.contains(':')) || self.url.contains("password=") {
                return Err(problem(
                    "`store.url` holds a password".to_owned(),
                    "keep the whole address elsewhere and write `env:NAME` or `file:/path`",
                ));
            }
            return Ok(StoreKind::Postgres(self.url.clone()));
        }
        Err(problem(
            "`store.url` is no address of a store".to_owned(),
            "write `sqlite:FILE`, `postgres://...`, `env:NAME` or `file:/path`",
        ))
    }

    /// The address, with relative files below `root` and kept addresses read.
    ///
    /// # Errors
    /// When it is no address, or the place that keeps it cannot be read.
    pub fn address(&self, root: &Path) -> Result<StoreAddress, Problem> {
        match self.kind()? {
            StoreKind::Sqlite(path) => Ok(StoreAddress::Sqlite(root.join(path))),
            StoreKind::Postgres(url) => Ok(StoreAddress::Postgres(url.into())),
            StoreKind::Kept(reference) => {
                use secrecy::ExposeSecret as _;
                let kept = reference.resolve().map_err(|error| {
                    let whole = match std::error::Error::source(&error) {
                        Some(cause) => format!("`store.url`: {error}: {cause}"),
                        None => format!("`store.url`: {error}"),
                    };
                    Problem::new(SETTINGS_FILE, None, whole, "put the address there")
                })?;
                let url = kept.expose_secret();
                match url.strip_prefix("sqlite:") {
                    Some(path) => Ok(StoreAddress::Sqlite(
                        root.join(path.strip_prefix("//").unwrap_or(path)),
                    )),
                    None => Ok(StoreAddress::Postgres(kept)),
                }
            }
        }
    }
}

fn schedules_of(
    files: &[(String, String)],
    definitions: &[Definition],
    problems: &mut Problems,
) -> BTreeMap<String, Spec> {
    let mut specs = BTreeMap::new();
    for (file, text) in files {
        let workflows = definitions
            .iter()
            .map(|definition| definition.name.as_str());
        let Some(spec) = take(schedules::load(file, text, workflows), problems) else {
            continue;
        };
        let name = spec.name.clone();
        if specs.insert(name.clone(), spec).is_some() {
            problems.push(twice(file, "schedule", &name));
        }
    }
    specs
}

/// The value, or its problems added to the others.
fn take<T>(result: Result<T, Problems>, problems: &mut Problems) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(found) => {
            problems.more |= found.more;
            problems.extend(found.list);
            None
        }
    }
}

fn twice(file: &str, what: &str, name: &str) -> Problem {
    Problem::new(
        file,
        None,
        format!("there is another {what} `{name}`"),
        "rename or remove one of them",
    )
}

fn unreadable(file: &str, error: &std::io::Error) -> Problem {
    Problem::new(
        file,
        None,
        format!("cannot be read: {error}"),
        "look at its permissions and whether it is UTF-8 text",
    )
}

/// The YAML files of a folder in the order of their names, with their texts. No folder, no files.
fn files(root: &Path, folder: &str) -> Result<Vec<(String, String)>, Problems> {
    let path = root.join(folder);
    let entries = match std::fs::read_dir(&path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(folder, &error).into()),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| unreadable(folder, &error))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let hidden = name.starts_with('.');
        if !hidden && (name.ends_with(".yaml") || name.ends_with(".yml")) {
            names.push(name);
        }
    }
    if names.len() > FILES_MAX {
        return Err(Problem::new(
            folder,
            None,
            format!(
                "the folder has {} files, more than {FILES_MAX}",
                names.len()
            ),
            "merge files",
        )
        .into());
    }
    names.sort();
    let mut problems = Problems::default();
    let mut found = Vec::with_capacity(names.len());
    for name in names {
        let shown = format!("{folder}/{name}");
        let size = std::fs::metadata(path.join(&name)).map(|metadata| metadata.len());
        if size.is_ok_and(|size| size > yaml::YAML_BYTES_MAX as u64) {
            problems.push(Problem::new(
                shown,
                None,
                format!("the file is larger than {} bytes", yaml::YAML_BYTES_MAX),
                "split it into several files",
            ));
            continue;
        }
        match std::fs::read_to_string(path.join(&name)) {
            Ok(text) => found.push((shown, text)),
            Err(error) => problems.push(unreadable(&shown, &error)),
        }
    }
    problems.into_result(|| found)
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        reason = "tests"
    )]
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        folder
    }

    const HR: &str = "name: hr\nkind: snapshot\nformat: csv\nkey: id\ntime_zone: UTC\ncolumns: { name: name, department: department }\nrequired: [name]\n";
    const BADGES: &str = "name: badges\nkind: manual\nsettings: { assignee: role:facilities }\n";
    const ROLES: &str = "roles:\n  - name: staff\n    when: \"true\"\n    accounts: [badges]\n";

    #[test]
    fn a_folder_is_read() {
        let folder = folder(&[
            (
                "tenure.yaml",
                "store: { url: 'sqlite:data/x.db' }\nnode: { name: a, lease: 5s }\n",
            ),
            ("sources/hr.yaml", HR),
            ("systems/badges.yaml", BADGES),
            ("policy/roles.yaml", ROLES),
            ("policy/.draft.yaml", "nonsense: ["),
            (
                "workflows/own.yaml",
                "name: mover\non: [transfer]\nsteps:\n  - { id: plan, uses: access.plan }\n",
            ),
        ]);
        let configuration = Configuration::load(folder.path()).unwrap();
        assert_eq!(configuration.settings.node.lease.ms(), 5_000);
        assert!(matches!(
            configuration.settings.store.address(folder.path()),
            Ok(StoreAddress::Sqlite(path)) if path == folder.path().join("data/x.db")
        ));
        let definitions = configuration.definitions.iter();
        let names: Vec<_> = definitions
            .map(|definition| format!("{} {}", definition.name, definition.steps.len()))
            .collect();
        let expected = [
            "certification 9",
            "deletion 1",
            "extension 2",
            "handover 9",
            "joiner 8",
            "leaver 13",
            "lockout 13",
            "mover 1",
            "regroup 1",
            "retirement 9",
            "rotation_alternating 12",
            "rotation_alternating_at_once 11",
            "rotation_four_phase 14",
            "rotation_four_phase_at_once 10",
            "rotation_reissue 9",
            "rotation_reissue_at_once 6",
            "rotation_single_slot 6",
            "rotation_single_slot_at_once 6",
            "rotation_two_slot 10",
            "rotation_two_slot_at_once 7",
            "separation 1",
        ];
        assert_eq!(names, expected);
        assert!(configuration.systems.get("badges").is_some());
        assert_eq!(configuration.sources.len(), 1);
    }

    #[test]
    fn what_is_over_is_kept_as_long_as_the_file_says() {
        let read = |text: &str| {
            let folder = folder(&[("tenure.yaml", text)]);
            Configuration::load_settings(folder.path())
                .unwrap()
                .retention
                .spans()
        };
        let days = |days: u32| Some(Span::from_s(days * 86_400));
        assert_eq!(read("{}"), read("retention: { history: 400d }\n"));
        let default = read("{}");
        assert_eq!(default.history, days(400));
        assert_eq!(default.closed_cases, days(400));
        assert_eq!(default.evidence, None);
        let text = "retention: { history: 90d, evidence: 3650d, closed_cases: never }\n";
        let own = read(text);
        assert_eq!(own.history, days(90));
        assert_eq!(own.evidence, days(3_650));
        assert_eq!(own.closed_cases, None);
    }

    #[track_caller]
    fn check(files: &[(&str, &str)], expected: &[&str]) {
        let mut all = vec![
            ("sources/hr.yaml", HR),
            ("systems/badges.yaml", BADGES),
            ("policy/roles.yaml", ROLES),
        ];
        for (name, text) in files {
            all.retain(|(other, _)| other != name);
            all.push((name, text));
        }
        let folder = folder(&all);
        let problems = Configuration::load(folder.path()).unwrap_err();
        let told: Vec<String> = problems.list.iter().map(ToString::to_string).collect();
        assert_eq!(told.len(), expected.len(), "{told:#?}");
        for (told, expected) in told.iter().zip(expected) {
            assert!(told.contains(expected), "`{expected}` is not in: {told}");
        }
    }

    #[test]
    fn mistakes_are_told_with_file_and_fix() {
        check(
            &[(
                "tenure.yaml",
                "store: { url: 'postgres://me:secret@db/x' }\n",
            )],
            &["`tenure.yaml`: `store.url` holds a password; fix: keep the whole address elsewhere"],
        );
        check(
            &[("tenure.yaml", "store: { shards: 0 }\n")],
            &["`tenure.yaml`: `store.shards` is 0; fix: give 1 to 16384"],
        );
        check(
            &[("tenure.yaml", "retention: { closed_cases: 30d }\n")],
            &["`retention.closed_cases` is 30d; fix: give `90d` or more, or `never`"],
        );
        check(
            &[("tenure.yaml", "retention: { history: never }\n")],
            &[
                "`retention.history` is longer than `retention.closed_cases`, 400d; fix: keep closed cases",
            ],
        );
        check(
            &[("tenure.yaml", "retention: { history: forever }\n")],
            &["`forever` is no length of time; write for example `400d`, or `never`"],
        );
        check(
            &[(
                "tenure.yaml",
                "telemetry: { otlp: { endpoint: 'collector:4317' } }\n",
            )],
            &["`telemetry.otlp.endpoint` is `collector:4317`; fix: write `http://HOST:4318`"],
        );
        check(
            &[(
                "tenure.yaml",
                "telemetry: { otlp: { endpoint: 'http://c', sample: 50 } }\n",
            )],
            &["`telemetry.otlp.sample` is 50; fix: give a share between `0` and `1`"],
        );
        check(
            &[(
                "tenure.yaml",
                "telemetry: { otlp: { endpoint: 'http://c', headers: { a: secret } } }\n",
            )],
            &["a secret must be given as `env:NAME` or `file:/path`, never as a value"],
        );
        check(
            &[("tenure.yaml", "stor: {}\n")],
            &["`tenure.yaml`:1:1: unknown field `stor`; fix: did you mean `store`?"],
        );
        check(
            &[("systems/other.yaml", BADGES)],
            &["`systems/other.yaml`: there is another system `badges`"],
        );
        check(
            &[("systems/badges.yaml", "name: badges\nkind: manuel\n")],
            &[
                "`systems/badges.yaml`:2:7: unknown kind of system `manuel`; fix: did you mean `manual`?",
            ],
        );
        check(
            &[("systems/badges.yaml", "name: badges\nkind: manual\n")],
            &["`systems/badges.yaml`: settings of system `badges`: "],
        );
        check(
            &[
                (
                    "policy/roles.yaml",
                    "roles:\n  - name: a\n    when: identity.nme == 'x'\n    accounts: [badges]\n",
                ),
                (
                    "workflows/w.yaml",
                    "name: w\nsteps:\n  - { id: a, uses: account.destroy }\n",
                ),
            ],
            &["has no attribute `nme`", "unknown action `account.destroy`"],
        );
        check(
            &[(
                "schedules/s.yaml",
                "name: s\nworkflow: joinr\ncron: 61 * * * *\nzone: UTC\nsubject: x\n",
            )],
            &[
                "`schedules/s.yaml`:2:11: there is no workflow `joinr`; fix: did you mean `joiner`?",
                "`schedules/s.yaml`:3:7: `61` is no minute; fix: write 0-59",
            ],
        );
        let nightly = "name: s\nworkflow: joiner\ncron: '@daily'\nzone: UTC\nsubject: x\n";
        check(
            &[("schedules/a.yaml", nightly), ("schedules/b.yaml", nightly)],
            &["`schedules/b.yaml`: there is another schedule `s`"],
        );
        check(
            &[(
                "workflows/w.yaml",
                "name: w\npreempts: [joinr]\nsteps:\n  - { id: a, uses: noop }\n",
            )],
            &["workflow `w` pre-empts `joinr`, which does not exist; fix: did you mean `joiner`?"],
        );
    }

    #[test]
    fn an_empty_folder_has_no_policy() {
        let folder = tempfile::tempdir().unwrap();
        let problems = Configuration::load(folder.path()).unwrap_err();
        assert!(
            problems.to_string().contains("the policy has no roles"),
            "{problems}"
        );
    }
}
