//! The configured systems, each a connector inside its layers, with the way its accounts are named.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use connectors::connector::{Capabilities, Connector, OperationName};
use connectors::layer::{Availability, Guarded, Limits};
use engine::core::Timestamp;
use engine::core::duration::Span;
use engine::runner::Clock;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_saphyr::Spanned;
use tokio::task::JoinSet;

use crate::directory::{Directory, SystemState, SystemStateRow};
use crate::policy::problem::suggest;
use crate::policy::{
    self, AccountTemplate, CompiledTemplate, IdentityFacts, PolicySet, Problem, Problems, Schema,
    TemplateError, yaml,
};

/// The pause after the database did not answer.
const TROUBLE_PAUSE: Duration = Duration::from_secs(5);
/// How long somebody has to say who takes over what a leaver owns, where the system's file does not say.
const OWNERSHIP_DUE: Span = Span::from_s(14 * 86_400);
/// The most heirs and the most actions of one system.
const OWNERSHIP_LIST_MAX: usize = 20;
/// The longest name of a system, in bytes.
pub const SYSTEM_NAME_BYTES_MAX: usize = 64;

/// One file of the `systems` folder.
///
/// ```yaml
/// name: ldap
/// kind: ldap
/// settings: { url: "ldaps://ldap.example.org", bind_dn: "...", password: "file:/run/secrets/ldap" }
/// limits: { concurrency: 8, rate_per_s: 50 }
/// account:
///   name: lower(identity.key) + suffix(n)
///   attributes: { cn: identity.name, sn: identity.name }
/// initial_password: none
/// ```
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SystemConfig {
    #[schemars(with = "String")]
    pub name: Spanned<String>,
    /// The kind of connector: `exec`, `ldap`, `manual`, `postgres` or `scim`.
    #[schemars(with = "String")]
    pub kind: Spanned<String>,
    /// What the connector of this kind takes. Secrets are `env:NAME` or `file:/path`.
    #[serde(default)]
    #[schemars(with = "serde_json::Value")]
    pub settings: serde_json::Value,
    #[serde(default)]
    #[schemars(with = "serde_json::Value")]
    pub limits: Limits,
    /// How accounts are named and filled. May stand in the policy instead.
    #[serde(default)]
    pub account: Option<AccountTemplate>,
    #[serde(default)]
    pub initial_password: InitialPassword,
    #[serde(default)]
    pub sessions: Sessions,
    /// What becomes of the accounts of people who have left.
    #[serde(default)]
    pub after_leaving: AfterLeaving,
    /// Who takes over what somebody owns here when they leave.
    #[serde(default)]
    pub ownership: Option<Ownership>,
}

/// What becomes of the accounts of people who have left. They are disabled at once, whatever stands here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AfterLeaving {
    /// Deletes them so long after the person's access has ended, such as `30d`. Without it they are kept.
    pub delete_after: Option<Span>,
}

/// Who takes over what somebody owns on a system.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Ownership {
    /// Tried in order: names of attributes whose value is the key of a person, and `person:KEY`.
    pub heirs: Vec<String>,
    /// Who is asked when none of them can take it: a role or a mailbox.
    pub assignee: String,
    /// How long they have.
    pub due: Span,
    /// Actions of the connector that hand over what it does not call ownership (files, a mailbox), in order. Each is
    /// given `from` and `to`, and may be carried out twice.
    pub actions: Vec<String>,
    /// Whether the system's file says anything of it.
    #[serde(skip)]
    pub stated: bool,
}

impl Default for Ownership {
    fn default() -> Self {
        Self {
            heirs: vec!["manager".to_owned(), "backup".to_owned()],
            assignee: "role:identity".to_owned(),
            due: OWNERSHIP_DUE,
            actions: Vec::new(),
            stated: false,
        }
    }
}

/// Whether something can stay open on a system when an account there is disabled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sessions {
    /// People log in there. What they have open has to end with their access; a system that cannot end it leaves a
    /// leaver `unverified`.
    #[default]
    Possible,
    /// Nobody is ever logged in there: a door, a key cabinet, an address book.
    None,
}

/// Whether a new account gets a password.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum InitialPassword {
    /// It cannot be logged in to until somebody sets one, or logs in by other means.
    #[default]
    None,
    /// For systems that refuse accounts without one: random, told to nobody, kept nowhere.
    Random,
}

impl SystemConfig {
    /// Reads a system. `file` is its name, for messages.
    ///
    /// # Errors
    /// Everything that is wrong with it but its settings, which only the connector can judge.
    pub fn load(file: &str, text: &str) -> Result<Self, Problems> {
        let config: Self = yaml::parse(file, text)?;
        let mut problems = Problems::default();
        let name = &config.name.value;
        let good = !name.is_empty()
            && name.len() <= SYSTEM_NAME_BYTES_MAX
            && name
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c));
        let at = |value: &Spanned<String>| Some((value.defined.line(), value.defined.column()));
        if !good {
            problems.push(Problem::new(
                file,
                at(&config.name),
                format!("`{name}` is no name for a system"),
                "use 1 to 64 of `a-z`, `0-9`, `-`, `_`, `.`",
            ));
        }
        let kinds = connectors::registry::KINDS;
        if !kinds.contains(&config.kind.value.as_str()) {
            problems.push(Problem::new(
                file,
                at(&config.kind),
                format!("unknown kind of system `{}`", config.kind.value),
                suggest(&config.kind.value, "kinds", kinds),
            ));
        }
        if let Err(error) = config.limits.validate() {
            problems.push(Problem::new(
                file,
                None,
                format!("`limits` of system `{name}`: {error}"),
                "",
            ));
        }
        if let Some(ownership) = &config.ownership {
            let lists = [&ownership.heirs, &ownership.actions];
            if ownership.assignee.trim().is_empty()
                || ownership.due <= Span::from_ms(0)
                || lists.iter().any(|list| list.len() > OWNERSHIP_LIST_MAX)
                || lists
                    .iter()
                    .any(|list| list.iter().any(|it| it.trim().is_empty()))
            {
                problems.push(Problem::new(
                    file,
                    None,
                    format!("`ownership` of system `{name}` has an empty name, no time, or a list that is too long"),
                    format!(
                        "name an `assignee`, a `due` such as `14d`, and at most {OWNERSHIP_LIST_MAX} `heirs` and `actions`"
                    ),
                ));
            }
        }
        problems.into_result(|| config)
    }
}

/// A system ready to be called.
pub struct System {
    name: String,
    kind: String,
    connector: Guarded,
    limits: Limits,
    template: Option<CompiledTemplate>,
    initial_password: InitialPassword,
    sessions: Sessions,
    after_leaving: AfterLeaving,
    ownership: Ownership,
    capabilities: Capabilities,
}

impl System {
    /// Puts a connector into its layers. For systems from configuration use [`Systems::build`].
    #[must_use]
    pub fn new(
        name: &str,
        kind: &str,
        inner: Arc<dyn Connector>,
        limits: Limits,
        template: Option<CompiledTemplate>,
        initial_password: InitialPassword,
    ) -> Self {
        let connector = Guarded::new(name, inner, limits.clone());
        let capabilities = connector.capabilities();
        Self {
            name: name.to_owned(),
            kind: kind.to_owned(),
            connector,
            limits,
            template,
            initial_password,
            sessions: Sessions::default(),
            after_leaving: AfterLeaving::default(),
            ownership: Ownership::default(),
            capabilities,
        }
    }

    #[must_use]
    pub fn with_sessions(mut self, sessions: Sessions) -> Self {
        self.sessions = sessions;
        self
    }

    #[must_use]
    pub fn with_after_leaving(mut self, after_leaving: AfterLeaving) -> Self {
        self.after_leaving = after_leaving;
        self
    }

    /// With what the system's file says of it, if it does.
    #[must_use]
    pub fn with_ownership(mut self, ownership: Option<Ownership>) -> Self {
        if let Some(ownership) = ownership {
            self.ownership = Ownership {
                stated: true,
                ..ownership
            };
        }
        self
    }

    /// How long accounts of people who have left are kept; `None` for ever.
    #[must_use]
    pub fn delete_after(&self) -> Option<Span> {
        self.after_leaving.delete_after
    }

    #[must_use]
    pub fn ownership(&self) -> &Ownership {
        &self.ownership
    }

    #[must_use]
    pub fn sessions(&self) -> Sessions {
        self.sessions
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    #[must_use]
    pub fn kind(&self) -> &str {
        &self.kind
    }

    #[must_use]
    pub fn connector(&self) -> &Guarded {
        &self.connector
    }

    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    #[must_use]
    pub fn initial_password(&self) -> InitialPassword {
        self.initial_password
    }

    #[must_use]
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    #[must_use]
    pub fn can(&self, operation: OperationName) -> bool {
        self.capabilities.operations.contains(&operation)
    }

    /// How accounts are named and filled: by the system's own configuration, or by the policy.
    #[must_use]
    pub fn template<'a>(&'a self, policy: &'a PolicySet) -> Option<&'a CompiledTemplate> {
        self.template
            .as_ref()
            .or_else(|| policy.template(&self.name))
    }

    /// Whether a new account can log in at once.
    #[must_use]
    pub fn creates_enabled(&self, policy: &PolicySet) -> bool {
        self.template(policy).is_none_or(CompiledTemplate::enabled)
    }

    /// The names to try for an account, in order: without a template, the key.
    ///
    /// # Errors
    /// When the template has no answer for this person.
    pub fn candidates(
        &self,
        policy: &PolicySet,
        facts: &IdentityFacts,
    ) -> Result<Vec<String>, Box<TemplateError>> {
        match self.template(policy) {
            Some(template) => template.candidates(facts).collect(),
            None => Ok(vec![facts.key.clone()]),
        }
    }

    /// The attributes an account should have.
    ///
    /// # Errors
    /// When the template has no answer for this person.
    pub fn attributes(
        &self,
        policy: &PolicySet,
        facts: &IdentityFacts,
    ) -> Result<BTreeMap<String, serde_json::Value>, Box<TemplateError>> {
        match self.template(policy) {
            Some(template) => template.attributes(facts),
            None => Ok(BTreeMap::new()),
        }
    }

    /// What a leaver's access needs and this system cannot do, as sentences for `check`. One that gives people neither accounts
    /// nor rights, such as an authority, takes none away.
    #[must_use]
    pub fn gaps(&self) -> Vec<String> {
        let gives = [
            OperationName::CreateAccount,
            OperationName::EnableAccount,
            OperationName::Grant,
        ];
        if !gives.into_iter().any(|operation| self.can(operation)) {
            return Vec::new();
        }
        let mut gaps = Vec::new();
        for (operation, consequence) in [
            (
                OperationName::DisableAccount,
                "a leaver's account stays open",
            ),
            (
                OperationName::EndSessions,
                "what a leaver has open stays open until it ends by itself",
            ),
            (OperationName::Revoke, "rights cannot be taken away"),
        ] {
            let concerns =
                operation != OperationName::EndSessions || self.sessions == Sessions::Possible;
            if concerns && !self.can(operation) {
                gaps.push(format!("cannot `{}`: {consequence}", operation.as_str()));
            }
        }
        let ends_keys = self.can(OperationName::DestroyCredential)
            || self.can(OperationName::DeactivateCredential);
        if self.sessions == Sessions::Possible
            && !self.capabilities.by_hand
            && (self.capabilities.credentials.is_empty() || !ends_keys)
        {
            gaps.push(
                "cannot end keys and tokens: one that it takes from a disabled account goes on working"
                    .to_owned(),
            );
        }
        if self.delete_after().is_some() && !self.can(OperationName::DeleteAccount) {
            gaps.push("cannot `delete_account`, which `after_leaving` asks for".to_owned());
        }
        gaps
    }
}

impl std::fmt::Debug for System {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("System")
            .field("name", &self.name)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

/// A digest over attributes, to see whether they have to be written again.
#[must_use]
pub fn attributes_digest(attributes: &BTreeMap<String, serde_json::Value>) -> String {
    policy::digest(&serde_json::json!(attributes))
}

/// All configured systems, by name.
#[derive(Debug, Default)]
pub struct Systems {
    by_name: BTreeMap<String, Arc<System>>,
}

impl Systems {
    /// Builds the connectors of `configs`. Contacts nobody, but reads the secrets they refer to.
    ///
    /// # Errors
    /// Every system whose settings its connector refuses, and every template that is wrong.
    pub fn build(
        configs: &[(String, SystemConfig)],
        schema: &Schema,
        policy: &PolicySet,
    ) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let mut systems = Vec::new();
        for (file, config) in configs {
            let name = &config.name.value;
            let template = match template(file, config, schema, policy) {
                Ok(template) => template,
                Err(found) => {
                    problems.extend(found.list);
                    continue;
                }
            };
            match connectors::registry::build(name, &config.kind.value, config.settings.clone()) {
                Ok(inner) => {
                    let system = System::new(
                        name,
                        &config.kind.value,
                        inner,
                        config.limits.clone(),
                        template,
                        config.initial_password,
                    );
                    systems.push(
                        system
                            .with_sessions(config.sessions)
                            .with_after_leaving(config.after_leaving)
                            .with_ownership(config.ownership.clone()),
                    );
                }
                Err(error) => problems.push(Problem::new(
                    file,
                    None,
                    error.whole(),
                    format!("compare with the settings of kind `{}`", config.kind.value),
                )),
            }
        }
        problems.into_result(|| Self::new(systems))
    }

    /// A registry of systems that exist already.
    #[must_use]
    pub fn new(systems: impl IntoIterator<Item = System>) -> Self {
        Self {
            by_name: systems
                .into_iter()
                .map(|system| (system.name.clone(), Arc::new(system)))
                .collect(),
        }
    }

    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<System>> {
        self.by_name.get(name)
    }

    /// In the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<System>> {
        self.by_name.values()
    }
}

/// Keeps the directory told whether each system takes calls, as `node` sees it, for ever; drop the future to
/// stop. What people see from another process comes from here.
pub async fn keep_states(
    systems: Arc<Systems>,
    directory: Directory,
    node: String,
    clock: Arc<dyn Clock>,
) {
    let mut watching = JoinSet::new();
    for system in systems.iter() {
        let (system, directory) = (Arc::clone(system), directory.clone());
        let (node, clock) = (node.clone(), Arc::clone(&clock));
        watching.spawn(async move {
            let mut availability = system.connector().watch();
            loop {
                let seen = availability.borrow_and_update().clone();
                let row = state_row(system.name(), &node, seen, clock.now());
                while let Err(error) = directory.put_system_state(row.clone()).await {
                    tracing::warn!(system = system.name(), %error, "state of a system could not be written");
                    tokio::time::sleep(TROUBLE_PAUSE).await;
                }
                if availability.changed().await.is_err() {
                    return;
                }
            }
        });
    }
    while watching.join_next().await.is_some() {}
}

fn state_row(system: &str, node: &str, seen: Availability, now: Timestamp) -> SystemStateRow {
    let (state, since, until, reason) = match seen {
        Availability::Ready => (SystemState::Ready, None, None, None),
        Availability::HeldUntil {
            until,
            since,
            reason,
        } => (SystemState::Held, Some(since), Some(until), Some(reason)),
    };
    SystemStateRow {
        shard_id: 0,
        system: system.to_owned(),
        node: node.to_owned(),
        state,
        since,
        until,
        reason,
        changed_at: now,
    }
}

/// The account template of a system's own configuration; the policy may have it instead, not as well.
fn template(
    file: &str,
    config: &SystemConfig,
    schema: &Schema,
    policy: &PolicySet,
) -> Result<Option<CompiledTemplate>, Problems> {
    let name = &config.name.value;
    let Some(own) = &config.account else {
        return Ok(None);
    };
    if policy.template(name).is_some() {
        return Err(Problem::new(
            file,
            Some((own.name.defined.line(), own.name.defined.column())),
            format!("accounts of system `{name}` are described here and in the policy"),
            "keep one of the two",
        )
        .into());
    }
    CompiledTemplate::compile(file, name, own, schema).map(|(template, _)| Some(template))
}
