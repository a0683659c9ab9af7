//! A small company for tests: an embedded store, a running node, and systems in memory that break on demand.
//!
//! Longer than 800 lines: the system in memory and the company around it are one fixture.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use chrono::NaiveDate;
use connectors::connector::{
    Account, Capabilities, Claim, ClaimName, Connector, Coverage, Credential, CredentialId,
    CredentialKind, Cursor, EntitlementName, Error, ErrorKind, Finding, Health, Kind, NativeId,
    Object, ObjectRef, Observation, Operation, OperationKey, OperationName, Outcome, Page, Receipt,
    Verdict,
};
use connectors::layer::{BreakerLimits, Limits};
use engine::core::Timestamp;
use engine::core::case::{CaseState, Failure};
use engine::core::definition::Lane;
use engine::core::id::{Actor, CaseId, ShardId, Subject};
use engine::core::input::AttemptResult;
use engine::runner::{
    Actions, Attempt, Availability, Clock, Command, Definitions, Host, Message, Node, NodeConfig,
    NodeHandle, Resource, SystemClock,
};
use engine::store::postgres::{PostgresOptions, PostgresStore};
use engine::store::sqlite::SqliteStore;
use engine::store::{
    CaseFilter, CaseSummary, InboxRow, Projection, SHARDS_DEFAULT, Store, StoreError, Transaction,
    Work,
};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::actions::IdentityActions;
use crate::correlation::Correlation;
use crate::definitions;
use crate::directory::{self, Directory, DirectoryProjection};
use crate::intake::{ImportReport, Intake, IntakeError, PolicyCell};
use crate::policy::{PolicySet, Schema, yaml};
use crate::sources::{SnapshotInput, Source};
use crate::systems::{AfterLeaving, InitialPassword, Ownership, System, SystemConfig, Systems};

#[derive(Debug, Default)]
struct State {
    accounts: BTreeMap<String, Account>,
    sessions: BTreeMap<String, u32>,
    /// Keys, each with the account it opens; they open disabled accounts too.
    keys: BTreeMap<String, String>,
    /// Papers, each with the account that owns it.
    papers: BTreeMap<String, String>,
    made: u32,
    /// What really changed something, in order: `create ann`, `grant ann staff`.
    effects: Vec<String>,
    failing: BTreeMap<OperationName, (ErrorKind, u32)>,
    losing: BTreeMap<OperationName, u32>,
    /// How many reads still show the state before.
    stale_reads: u32,
}

/// A system in memory. Clones are the same system.
#[derive(Clone, Default)]
pub(crate) struct Memory {
    state: Arc<Mutex<State>>,
    down: Arc<AtomicBool>,
    calls: Arc<AtomicU32>,
    pub ends_sessions: bool,
}

impl Memory {
    pub fn with_sessions() -> Self {
        Self {
            ends_sessions: true,
            ..Self::default()
        }
    }

    fn state<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock().unwrap())
    }

    pub fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::SeqCst);
    }

    pub fn calls(&self) -> u32 {
        self.calls.load(Ordering::SeqCst)
    }

    /// The next `times` calls of `operation` fail.
    pub fn fail(&self, operation: OperationName, kind: ErrorKind, times: u32) {
        self.state(|state| state.failing.insert(operation, (kind, times)));
    }

    /// The next `times` calls of `operation` take effect and are never answered.
    pub fn lose(&self, operation: OperationName, times: u32) {
        self.state(|state| state.losing.insert(operation, times));
    }

    pub fn stale_reads(&self, reads: u32) {
        self.state(|state| state.stale_reads = reads);
    }

    pub fn effects(&self) -> Vec<String> {
        self.state(|state| state.effects.clone())
    }

    /// Each account as `name: on|off group group`, sorted.
    pub fn shown(&self) -> Vec<String> {
        let mut shown: Vec<String> = self.state(|state| {
            state
                .accounts
                .values()
                .map(|account| {
                    let mut line = format!(
                        "{}: {}",
                        account.name,
                        if account.enabled == Some(true) {
                            "on"
                        } else {
                            "off"
                        }
                    );
                    for entitlement in account.entitlements.iter().flatten() {
                        line.push(' ');
                        line.push_str(entitlement.as_str());
                    }
                    line
                })
                .collect()
        });
        shown.sort();
        shown
    }

    /// Puts an account there that Tenure knows nothing of.
    pub fn put_account(&self, name: &str, owner: Option<&str>) {
        self.state(|state| {
            state.made += 1;
            let id = NativeId::new(format!("id-{}", state.made));
            state.accounts.insert(
                id.to_string(),
                Account {
                    id,
                    name: name.to_owned(),
                    enabled: Some(true),
                    owner: owner.map(str::to_owned),
                    attributes: BTreeMap::new(),
                    entitlements: Some(BTreeSet::new()),
                    version: None,
                },
            );
        });
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut Account)) {
        self.state(|state| {
            let mut accounts = state.accounts.values_mut();
            change(accounts.find(|account| account.name == name).unwrap());
        });
    }

    /// What somebody there gives behind Tenure's back.
    pub fn give(&self, name: &str, entitlement: &str) {
        let entitlement = EntitlementName::new(entitlement);
        self.change(name, |account| {
            account
                .entitlements
                .get_or_insert_default()
                .insert(entitlement);
        });
    }

    pub fn set_attribute(&self, name: &str, attribute: &str, value: &str) {
        let value = json!(value);
        self.change(name, |account| {
            account.attributes.insert(attribute.to_owned(), value);
        });
    }

    pub fn open(&self, name: &str) {
        self.change(name, |account| account.enabled = Some(true));
    }

    pub fn open_session(&self, name: &str) {
        self.state(|state| {
            let id = state
                .accounts
                .values()
                .find(|account| account.name == name)
                .unwrap()
                .id
                .to_string();
            *state.sessions.entry(id).or_default() += 1;
        });
    }

    fn id_of(state: &State, name: &str) -> String {
        let mut accounts = state.accounts.values();
        let found = accounts.find(|account| account.name == name).unwrap();
        found.id.to_string()
    }

    pub fn put_key(&self, name: &str, key: &str) {
        self.state(|state| {
            let id = Self::id_of(state, name);
            state.keys.insert(key.to_owned(), id);
        });
    }

    /// Whether a key opens anything.
    pub fn opens(&self, key: &str) -> bool {
        self.state(|state| state.keys.contains_key(key))
    }

    pub fn put_paper(&self, name: &str, paper: &str) {
        self.state(|state| {
            let id = Self::id_of(state, name);
            state.papers.insert(paper.to_owned(), id);
        });
    }

    /// The name of the account that owns a paper.
    pub fn owner(&self, paper: &str) -> Option<String> {
        self.state(|state| {
            let id = state.papers.get(paper)?;
            state.accounts.get(id).map(|account| account.name.clone())
        })
    }

    pub fn sessions(&self) -> u32 {
        self.state(|state| state.sessions.values().sum())
    }

    pub fn attributes(&self, name: &str) -> BTreeMap<String, Value> {
        self.state(|state| {
            state
                .accounts
                .values()
                .find(|account| account.name == name)
                .unwrap()
                .attributes
                .clone()
        })
    }

    fn up(&self) -> Result<(), Error> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        if self.down.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Unreachable, "connection refused"));
        }
        Ok(())
    }
}

fn error(kind: ErrorKind, message: &str) -> Error {
    Error::new(kind, message)
}

impl State {
    fn account(&mut self, id: &NativeId) -> Result<&mut Account, Error> {
        self.accounts
            .get_mut(id.as_str())
            .ok_or_else(|| error(ErrorKind::NotFound, "no such account"))
    }

    fn outcome(&mut self, id: &NativeId, changed: bool, what: &str) -> Outcome {
        let name = self
            .accounts
            .get(id.as_str())
            .map(|account| account.name.clone());
        let receipt = Receipt {
            account: Some(id.clone()),
            name: name.clone(),
            request_id: Some(format!("r{}", self.effects.len())),
            ..Receipt::default()
        };
        if changed {
            self.effects
                .push(what.replace("{}", name.as_deref().unwrap_or("?")));
            Outcome::Done(receipt)
        } else {
            Outcome::AlreadySo(receipt)
        }
    }

    fn apply(&mut self, operation: &Operation) -> Result<Outcome, Error> {
        match operation {
            Operation::CreateAccount(new) => {
                if let Some(own) = self
                    .accounts
                    .values()
                    .find(|account| account.owner.as_ref() == Some(&new.owner))
                {
                    let id = own.id.clone();
                    return Ok(self.outcome(&id, false, ""));
                }
                if self
                    .accounts
                    .values()
                    .any(|account| account.name == new.name)
                {
                    return Err(error(ErrorKind::Conflict, "the name is taken"));
                }
                self.made += 1;
                let id = NativeId::new(format!("id-{}", self.made));
                self.accounts.insert(
                    id.to_string(),
                    Account {
                        id: id.clone(),
                        name: new.name.clone(),
                        enabled: Some(new.enabled),
                        owner: Some(new.owner.clone()),
                        attributes: new.attributes.clone(),
                        entitlements: Some(BTreeSet::new()),
                        version: None,
                    },
                );
                Ok(self.outcome(&id, true, "create {}"))
            }
            Operation::UpdateAccount {
                account,
                attributes,
            } => {
                let known = self.account(account)?;
                let before = known.attributes.clone();
                known.attributes.extend(attributes.clone());
                let changed = known.attributes != before;
                Ok(self.outcome(account, changed, "update {}"))
            }
            Operation::EnableAccount { account } => {
                let changed = self.account(account)?.enabled.replace(true) != Some(true);
                Ok(self.outcome(account, changed, "enable {}"))
            }
            Operation::DisableAccount { account } => {
                let changed = self.account(account)?.enabled.replace(false) != Some(false);
                Ok(self.outcome(account, changed, "disable {}"))
            }
            Operation::DeleteAccount { account } => {
                let changed = self.accounts.contains_key(account.as_str());
                let outcome = self.outcome(account, changed, "delete {}");
                self.accounts.remove(account.as_str());
                Ok(outcome)
            }
            Operation::Grant {
                account,
                entitlement,
            } => {
                let groups = self.account(account)?.entitlements.get_or_insert_default();
                let changed = groups.insert(entitlement.clone());
                Ok(self.outcome(account, changed, &format!("grant {{}} {entitlement}")))
            }
            Operation::Revoke {
                account,
                entitlement,
            } => {
                let groups = self.account(account)?.entitlements.get_or_insert_default();
                let changed = groups.remove(entitlement);
                Ok(self.outcome(account, changed, &format!("revoke {{}} {entitlement}")))
            }
            Operation::EndSessions { account } => {
                let changed = self
                    .sessions
                    .insert(account.to_string(), 0)
                    .is_some_and(|sessions| sessions > 0);
                Ok(self.outcome(account, changed, "end sessions {}"))
            }
            Operation::DestroyCredential {
                account,
                credential,
            } => {
                let held = self.keys.get(credential.as_str()) == Some(&account.to_string());
                if held {
                    self.keys.remove(credential.as_str());
                }
                Ok(self.outcome(account, held, &format!("destroy {{}} {credential}")))
            }
            Operation::TransferOwnership { from, to } => {
                self.account(to)?;
                let mut moved = 0;
                for owner in self.papers.values_mut() {
                    if *owner == from.to_string() {
                        *owner = to.to_string();
                        moved += 1;
                    }
                }
                Ok(self.outcome(from, moved > 0, "hand over {}"))
            }
            _ => Err(error(ErrorKind::Unsupported, "no such operation")),
        }
    }

    fn holds(&self, claim: &Claim) -> (bool, Option<NativeId>) {
        let find = |id: &NativeId| self.accounts.get(id.as_str());
        let granted = |id: &NativeId, name: &EntitlementName| {
            find(id).is_some_and(|account| {
                account
                    .entitlements
                    .iter()
                    .flatten()
                    .any(|held| held == name)
            })
        };
        match claim {
            Claim::AccountExists { owner } => {
                let found = self
                    .accounts
                    .values()
                    .find(|account| account.owner.as_ref() == Some(owner));
                (found.is_some(), found.map(|account| account.id.clone()))
            }
            Claim::AccountEnabled { account } => (
                find(account).is_some_and(|account| account.enabled == Some(true)),
                None,
            ),
            Claim::AccountDisabled { account } => (
                find(account).is_none_or(|account| account.enabled == Some(false)),
                None,
            ),
            Claim::AccountAbsent { account } => (find(account).is_none(), None),
            Claim::AttributesAre {
                account,
                attributes,
            } => (
                find(account).is_some_and(|account| {
                    attributes
                        .iter()
                        .all(|(name, value)| account.attributes.get(name) == Some(value))
                }),
                None,
            ),
            Claim::Granted {
                account,
                entitlement,
            } => (granted(account, entitlement), None),
            Claim::NotGranted {
                account,
                entitlement,
            } => (!granted(account, entitlement), None),
            Claim::NoSessions { account } => (
                self.sessions.get(account.as_str()).copied().unwrap_or(0) == 0,
                None,
            ),
            Claim::CredentialInactive {
                account,
                credential,
            } => (
                self.keys.get(credential.as_str()) != Some(&account.to_string()),
                None,
            ),
            Claim::CredentialActive { .. }
            | Claim::CredentialIssued { .. }
            | Claim::CredentialStored { .. }
            | Claim::CredentialWorks { .. }
            | Claim::CredentialRefused { .. }
            | Claim::ServesCertificate { .. }
            | Claim::ServesTrusted { .. }
            | Claim::NothingSigned { .. } => (false, None),
            Claim::OwnsNothing { account } => (
                self.papers
                    .values()
                    .all(|owner| *owner != account.to_string()),
                None,
            ),
        }
    }
}

#[async_trait]
impl Connector for Memory {
    fn capabilities(&self) -> Capabilities {
        use OperationName as Op;
        let mut operations = BTreeSet::from([
            Op::CreateAccount,
            Op::UpdateAccount,
            Op::EnableAccount,
            Op::DisableAccount,
            Op::DeleteAccount,
            Op::Grant,
            Op::Revoke,
        ]);
        if self.ends_sessions {
            operations.insert(Op::EndSessions);
            operations.insert(Op::DestroyCredential);
            operations.insert(Op::TransferOwnership);
        }
        let mut claims = BTreeSet::from([ClaimName::AccountExists]);
        let mut credentials = BTreeSet::new();
        if self.ends_sessions {
            claims.insert(ClaimName::CredentialInactive);
            claims.insert(ClaimName::OwnsNothing);
            credentials.insert(CredentialKind::ApiKey);
        }
        Capabilities {
            operations,
            claims,
            credentials,
            finds_by_owner: true,
            ..Capabilities::default()
        }
    }

    async fn check(&self) -> Result<Health, Error> {
        let finding = match self.up() {
            Ok(()) => Finding::good("reach", "in memory"),
            Err(error) => Finding::bad("reach", error.message, "start it"),
        };
        Ok(Health {
            findings: vec![finding],
        })
    }

    async fn list(&self, _kind: Kind, _after: Option<Cursor>) -> Result<Page, Error> {
        self.up()?;
        let accounts = self.state(|state| state.accounts.values().cloned().collect::<Vec<_>>());
        Ok(Page {
            items: accounts.into_iter().map(Object::Account).collect(),
            next: None,
            complete: true,
        })
    }

    async fn get(&self, object: &ObjectRef) -> Result<Option<Object>, Error> {
        self.up()?;
        Ok(self.state(|state| {
            state
                .accounts
                .values()
                .find(|account| match object {
                    ObjectRef::Account(id) => account.id == *id,
                    ObjectRef::AccountNamed(name) => account.name == *name,
                    ObjectRef::AccountOwnedBy(owner) => account.owner.as_ref() == Some(owner),
                    ObjectRef::Entitlement(_) => false,
                })
                .cloned()
                .map(Object::Account)
        }))
    }

    async fn apply(&self, operation: &Operation, _key: &OperationKey) -> Result<Outcome, Error> {
        self.up()?;
        tokio::task::yield_now().await;
        self.state(|state| {
            let name = operation.name();
            if let Some((kind, times)) = state.failing.get_mut(&name)
                && *times > 0
            {
                *times -= 1;
                return Err(error(*kind, "told to fail"));
            }
            let outcome = state.apply(operation)?;
            if let Some(times) = state.losing.get_mut(&name)
                && *times > 0
            {
                *times -= 1;
                return Ok(Outcome::Ambiguous {
                    reason: "told to lose the answer".to_owned(),
                });
            }
            Ok(outcome)
        })
    }

    async fn credentials(&self, account: &NativeId) -> Result<Coverage<Vec<Credential>>, Error> {
        self.up()?;
        let keys = self.state(|state| {
            let keys = state.keys.iter();
            let held = keys.filter(|(_, owner)| **owner == account.to_string());
            held.map(|(key, _)| Credential::new(CredentialId::new(key), CredentialKind::ApiKey))
                .collect()
        });
        Ok(Coverage {
            value: keys,
            blind_spots: Vec::new(),
        })
    }

    async fn verify(&self, claim: &Claim) -> Result<Verdict, Error> {
        self.up()?;
        Ok(self.state(|state| {
            let (mut holds, account) = state.holds(claim);
            if state.stale_reads > 0 {
                state.stale_reads -= 1;
                holds = false;
            }
            let seen = Observation {
                by: "memory".to_owned(),
                account,
                seen: json!({ "holds": holds }),
            };
            if holds {
                Verdict::Proven(seen)
            } else {
                Verdict::Refuted(seen)
            }
        }))
    }
}

/// Makes every attempt twice: nothing may come of the second.
struct Twice(Arc<IdentityActions>);

#[async_trait]
impl Actions for Twice {
    fn exists(&self, uses: &str) -> bool {
        self.0.exists(uses)
    }
    fn fact_roots(&self) -> Vec<&'static str> {
        self.0.fact_roots()
    }
    async fn facts(
        &self,
        subject: &Subject,
        input: &Value,
        roots: &BTreeSet<String>,
    ) -> Result<Value, Failure> {
        self.0.facts(subject, input, roots).await
    }
    fn resource(&self, attempt: &Attempt) -> Option<Resource> {
        self.0.resource(attempt)
    }
    fn availability(&self, resource: &str) -> Availability {
        self.0.availability(resource)
    }
    async fn run(&self, attempt: &Attempt) -> AttemptResult {
        let _ = self.0.run(attempt).await;
        self.0.run(attempt).await
    }
}

pub(crate) const ROLES: &str = r#"
roles:
  - name: staff
    when: "true"
    accounts: [ldap, scim]
    grants: [{ system: ldap, entitlement: staff }]
  - name: engineers
    when: has(identity.department) && identity.department == "Engineering"
    grants:
      - { system: ldap, entitlement: engineers }
      - { system: scim, entitlement: git }
  - name: sellers
    when: has(identity.department) && identity.department == "Sales"
    grants: [{ system: ldap, entitlement: sellers }]
  - name: supporters
    when: has(identity.department) && identity.department == "Support"
    grace: 20d
    grants: [{ system: ldap, entitlement: support }]
accounts:
  - system: ldap
    name: lower(identity.key) + suffix(n)
    attributes: { title: "has(identity.department) ? identity.department : 'none'" }
  - system: scim
    name: lower(identity.key)
"#;

const HR: &str = "
name: hr
kind: snapshot
format: csv
key: id
time_zone: UTC
complete: true
columns: { name: name, department: department }
required: [name]
guard: { removals: { share_max: 0.5, population_min: 4 } }
";

/// Where the tests find their server.
const STORE_URL: &str = "TENURE_LAB_POSTGRES_STORE_URL";

/// Makes of each test a test on SQLite and one on PostgreSQL.
macro_rules! on_both_databases {
    ($($name:ident,)*) => {
        mod on_sqlite {
            use super::Company;
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(&Company::new().await).await;
            })*
        }
        mod on_postgres {
            use super::Company;
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                let company = Company::on_postgres().await;
                super::$name(&company).await;
                company.remove().await;
            })*
        }
    };
}
pub(crate) use on_both_databases;

/// Tests of `async fn name(on_postgres: bool)`: each as one on SQLite and one on PostgreSQL.
macro_rules! on_both {
    ($($name:ident,)*) => {
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(false).await;
            })*
        }
        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(true).await;
            })*
        }
    };
}
pub(crate) use on_both;

async fn migrate(store: &dyn Store, shards: u32) {
    let migrations: Vec<_> = engine::store::MIGRATIONS
        .iter()
        .chain(directory::MIGRATIONS)
        .chain(crate::notices::MIGRATIONS)
        .copied()
        .collect();
    store.migrate(&migrations, shards).await.unwrap();
}

async fn run_sql(url: &str, sql: String) {
    use sqlx::Connection as _;
    let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql))
        .execute(&mut connection)
        .await
        .unwrap();
}

/// What a system does about people who have left.
#[derive(Debug, Clone, Default)]
pub(crate) struct Leaving {
    pub after: AfterLeaving,
    pub ownership: Option<Ownership>,
    /// Roles instead of [`ROLES`].
    pub roles: Option<&'static str>,
    /// Workflows of its own.
    pub workflows: &'static [(&'static str, &'static str)],
    /// Rules by which new records are about people who are known.
    pub correlation: Option<Arc<Correlation>>,
    /// More systems.
    pub systems: More,
    /// How many shards the database has, instead of as many as by default.
    pub shards: Option<u32>,
    /// How many calls each system takes at once.
    pub concurrency: Option<usize>,
    /// How long a call may take, in real time.
    pub call_max: Option<Duration>,
}

/// Systems by name.
#[derive(Clone, Default)]
pub(crate) struct More(pub Vec<(&'static str, Arc<dyn Connector>)>);

impl std::fmt::Debug for More {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|(name, _)| name))
            .finish()
    }
}

pub(crate) struct Company {
    /// What the guard measures by.
    pub policy: PolicyCell,
    pub store: Arc<dyn Store>,
    pub directory: Directory,
    pub intake: Intake,
    pub definitions: Arc<Definitions>,
    pub actions: Arc<IdentityActions>,
    /// Makes the actions anew, with everything that a process keeps in memory about systems.
    renew: Box<dyn Fn(Directory) -> Arc<IdentityActions> + Send + Sync>,
    pub ldap: Memory,
    pub scim: Memory,
    pub source: Source,
    folder: tempfile::TempDir,
    /// The PostgreSQL server and the schema on it, if that is where the store is.
    postgres: Option<(String, String)>,
    twice: bool,
    clock: Arc<dyn Clock>,
    shards: u32,
}

/// Time that jumps when told, and runs fast between two jumps.
pub(crate) struct FastClock {
    /// The moment shown at `since`.
    base: Mutex<(Timestamp, tokio::time::Instant)>,
    speed: u32,
}

impl FastClock {
    pub fn new(base: Timestamp, speed: u32) -> Self {
        Self {
            base: Mutex::new((base, tokio::time::Instant::now())),
            speed,
        }
    }

    /// Moves on to a moment; it never goes back.
    pub fn jump(&self, to: Timestamp) {
        let now = self.now();
        *self.base.lock().unwrap() = (to.max(now), tokio::time::Instant::now());
    }
}

impl Clock for FastClock {
    fn now(&self) -> Timestamp {
        let (base, since) = *self.base.lock().unwrap();
        let passed = since.elapsed() * self.speed;
        base + chrono::TimeDelta::microseconds(passed.as_micros().try_into().unwrap())
    }
}

pub(crate) fn schema(systems: &[&str]) -> Schema {
    let source = Source::load("hr.yaml", HR).unwrap();
    Schema::new(systems.iter().copied()).with_source(&source.declarations())
}

/// A policy on the two systems of the company.
pub(crate) fn policy(text: &str) -> Arc<PolicySet> {
    let files = [("roles.yaml".to_owned(), text.to_owned())];
    Arc::new(PolicySet::load(&files, &schema(&["ldap", "scim"])).unwrap())
}

impl Company {
    /// Two systems, `ldap` and `scim`, of which the first can end sessions.
    pub async fn new() -> Self {
        Self::with(&[], &[], ROLES).await
    }

    pub async fn twice() -> Self {
        Self {
            twice: true,
            ..Self::new().await
        }
    }

    /// With workflows and manual systems of its own.
    pub async fn with(workflows: &[(&str, &str)], manual: &[(&str, &str)], roles: &str) -> Self {
        Self::build(
            workflows,
            manual,
            roles,
            None,
            Arc::new(SystemClock),
            Leaving::default(),
            None,
        )
        .await
    }

    /// As [`Company::in_time`], with what `ldap` does about people who have left.
    pub async fn leaving(clock: Arc<dyn Clock>, on_postgres: bool, leaving: Leaving) -> Self {
        let postgres = if on_postgres {
            Some(Self::own_schema().await)
        } else {
            None
        };
        let roles = leaving.roles.unwrap_or(ROLES);
        let correlation = leaving.correlation.clone();
        let company = Self::build(
            leaving.workflows,
            &[],
            roles,
            postgres,
            clock,
            leaving,
            correlation.clone(),
        )
        .await;
        let (directory, definitions) = (&company.directory, &company.definitions);
        let intake = Intake::new(directory.clone(), Arc::clone(definitions));
        Self {
            intake: intake.with_correlation(correlation),
            ..company
        }
    }

    /// As [`Company::new`] or [`Company::on_postgres`], in a time of its own. Without the guard: what many people go through
    /// in a short time is what it is there to stop.
    pub async fn in_time(clock: Arc<dyn Clock>, on_postgres: bool) -> Self {
        Self::leaving(clock, on_postgres, Leaving::default()).await
    }

    /// As [`Company::new`] or [`Company::on_postgres`], with workflows of its own.
    pub async fn with_workflows(workflows: &[(&str, &str)], on_postgres: bool) -> Self {
        let postgres = if on_postgres {
            Some(Self::own_schema().await)
        } else {
            None
        };
        let clock = Arc::new(SystemClock);
        Self::build(
            workflows,
            &[],
            ROLES,
            postgres,
            clock,
            Leaving::default(),
            None,
        )
        .await
    }

    /// As [`Company::new`], with its store in a schema of its own on the server of the lab.
    pub async fn on_postgres() -> Self {
        let postgres = Self::own_schema().await;
        let clock = Arc::new(SystemClock);
        let postgres = Some(postgres);
        Self::build(&[], &[], ROLES, postgres, clock, Leaving::default(), None).await
    }

    /// With rules of correlation.
    pub async fn recognising(correlation: Correlation, on_postgres: bool) -> Self {
        let postgres = if on_postgres {
            Some(Self::own_schema().await)
        } else {
            None
        };
        let correlation = Some(Arc::new(correlation));
        Self::build(
            &[],
            &[],
            ROLES,
            postgres,
            Arc::new(SystemClock),
            Leaving::default(),
            correlation,
        )
        .await
    }

    async fn own_schema() -> (String, String) {
        let url = std::env::var(STORE_URL).unwrap_or_else(|_| {
            panic!(
                "`{STORE_URL}` is not set: run `tests/lab/postgres.sh start DIR`, then `. DIR/env`; \
                 it starts the PostgreSQL server that these tests need"
            )
        });
        let schema = format!("test_{}", Uuid::new_v4().simple());
        run_sql(&url, format!("CREATE SCHEMA {schema}")).await;
        (url, schema)
    }

    /// Removes what the test made outside of its folder.
    pub async fn remove(self) {
        if let Some((url, schema)) = self.postgres {
            run_sql(&url, format!("DROP SCHEMA {schema} CASCADE")).await;
        }
    }

    async fn build(
        workflows: &[(&str, &str)],
        manual: &[(&str, &str)],
        roles: &str,
        postgres: Option<(String, String)>,
        clock: Arc<dyn Clock>,
        leaving: Leaving,
        correlation: Option<Arc<Correlation>>,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let shards = leaving.shards.unwrap_or(SHARDS_DEFAULT);
        let (store, directory) = Self::open(&folder, postgres.as_ref(), shards).await;
        let mut names = vec!["ldap", "scim"];
        names.extend(manual.iter().map(|(name, _)| *name));
        let schema = schema(&names);
        let policy =
            PolicySet::load(&[("roles.yaml".to_owned(), roles.to_owned())], &schema).unwrap();
        let (ldap, scim) = (Memory::with_sessions(), Memory::default());
        let policy = Arc::new(policy);
        let policy_cell = PolicyCell::new(Arc::clone(&policy));
        let usual = Limits::default();
        let limits = Limits {
            breaker: BreakerLimits {
                open_first_ms: 50,
                open_max_ms: 200,
                ..BreakerLimits::default()
            },
            concurrency: leaving.concurrency.unwrap_or(usual.concurrency),
            timeout_ms: leaving
                .call_max
                .map_or(usual.timeout_ms, |max| max.as_secs() * 1_000),
            ..usual
        };
        let by_hand = manual.iter().map(|(name, text)| {
            let config: SystemConfig = yaml::parse("manual.yaml", text).unwrap();
            let inner = connectors::registry::build(name, "manual", config.settings).unwrap();
            ((*name).to_owned(), "manual", inner)
        });
        let memory = |name: &str, memory: &Memory| {
            let inner: Arc<dyn Connector> = Arc::new(memory.clone());
            (name.to_owned(), "memory", inner)
        };
        let more = leaving.systems.0.iter();
        let more = more.map(|(name, inner)| ((*name).to_owned(), "memory", Arc::clone(inner)));
        let inner: Vec<_> = [memory("ldap", &ldap), memory("scim", &scim)]
            .into_iter()
            .chain(by_hand)
            .chain(more)
            .collect();
        let definitions = Arc::new(Definitions::new());
        let own: Vec<_> = workflows
            .iter()
            .map(|(file, text)| ((*file).to_owned(), (*text).to_owned()))
            .collect();
        for definition in definitions::load(&own).unwrap() {
            definitions.add(definition);
        }
        let renew = {
            let clock = Arc::clone(&clock);
            let definitions = Arc::clone(&definitions);
            let correlation = correlation.clone();
            Box::new(move |directory: Directory| {
                let system = |(name, kind, inner): &(String, &'static str, Arc<dyn Connector>)| {
                    let (inner, limits) = (Arc::clone(inner), limits.clone());
                    let system =
                        System::new(name, kind, inner, limits, None, InitialPassword::None);
                    if name != "ldap" {
                        return system;
                    }
                    system
                        .with_after_leaving(leaving.after)
                        .with_ownership(leaving.ownership.clone())
                };
                let intake = Intake::new(directory.clone(), Arc::clone(&definitions));
                let actions = IdentityActions::new(
                    directory,
                    Arc::new(Systems::new(inner.iter().map(system).collect::<Vec<_>>())),
                    Arc::clone(&policy),
                    Arc::clone(&clock),
                );
                Arc::new(actions.with_intake(intake.with_correlation(correlation.clone())))
            })
        };
        let actions = renew(directory.clone());
        let source = Arc::new(Source::load("hr.yaml", HR).unwrap());
        let intake = Intake::new(directory.clone(), Arc::clone(&definitions))
            .guarded(policy_cell.clone(), [&source].into_iter())
            .with_correlation(correlation);
        Self {
            policy: policy_cell,
            intake,
            store,
            directory,
            definitions,
            actions,
            renew,
            ldap,
            scim,
            source: Source::load("hr.yaml", HR).unwrap(),
            folder,
            postgres,
            twice: false,
            clock,
            shards,
        }
    }

    /// The database, as a process that comes to it opens it.
    async fn open(
        folder: &tempfile::TempDir,
        postgres: Option<&(String, String)>,
        shards: u32,
    ) -> (Arc<dyn Store>, Directory) {
        match postgres {
            None => {
                let store = SqliteStore::open(&folder.path().join("t.sqlite"))
                    .await
                    .unwrap();
                let store = Arc::new(store);
                migrate(&*store, shards).await;
                let directory = Directory::on_sqlite(Arc::clone(&store)).await.unwrap();
                (store, directory)
            }
            Some((url, schema)) => {
                let url = format!("{url}?options=-csearch_path%3D{schema}");
                let store = PostgresStore::connect(&url, PostgresOptions::default())
                    .await
                    .unwrap();
                let store = Arc::new(store);
                migrate(&*store, shards).await;
                let directory = Directory::on_postgres(Arc::clone(&store)).await.unwrap();
                (store, directory)
            }
        }
    }

    /// Changes the database behind everybody's back.
    pub async fn run_sql(&self, sql: &'static str) {
        struct Raw(&'static str);
        #[async_trait]
        impl Work for Raw {
            async fn run(
                &self,
                transaction: &mut Transaction<'_>,
            ) -> Result<Vec<InboxRow>, StoreError> {
                let done = match transaction {
                    Transaction::Postgres(connection) => sqlx::raw_sql(self.0)
                        .execute(&mut **connection)
                        .await
                        .map(|_| ()),
                    Transaction::Sqlite(connection) => sqlx::raw_sql(self.0)
                        .execute(&mut **connection)
                        .await
                        .map(|_| ()),
                };
                done.unwrap();
                Ok(Vec::new())
            }
        }
        self.store.write(&Raw(sql)).await.unwrap();
    }

    pub async fn node(&self) -> NodeHandle {
        let actions: Arc<dyn Actions> = if self.twice {
            Arc::new(Twice(Arc::clone(&self.actions)))
        } else {
            Arc::clone(&self.actions) as Arc<dyn Actions>
        };
        let store = Arc::clone(&self.store);
        self.start(store, actions, Arc::new(DirectoryProjection), 3_000)
            .await
    }

    /// A node as in a process of its own, with its own connections and no memory of systems, with leases of `lease_ms` and
    /// `projection` in place of the directory's own.
    pub async fn node_anew(&self, projection: Arc<dyn Projection>, lease_ms: u32) -> NodeHandle {
        let postgres = self.postgres.as_ref();
        let (store, directory) = Self::open(&self.folder, postgres, self.shards).await;
        self.start(store, (self.renew)(directory), projection, lease_ms)
            .await
    }

    /// What a process has that opens the database. On PostgreSQL these are the connections that are there: a life that is short
    /// could not tell them from its own, and spends its time on something else.
    pub async fn opened(&self) -> (Arc<dyn Store>, Directory) {
        if self.postgres.is_some() {
            return (Arc::clone(&self.store), self.directory.clone());
        }
        Self::open(&self.folder, None, self.shards).await
    }

    /// A node as in a process of its own, with no memory of systems, on what [`Company::opened`] gave; perhaps with something
    /// around the store and the actions.
    pub async fn node_on(
        &self,
        store: Arc<dyn Store>,
        directory: Directory,
        host: Arc<dyn Host>,
        around: impl FnOnce(Arc<dyn Actions>) -> Arc<dyn Actions>,
    ) -> NodeHandle {
        let config = NodeConfig {
            name: "test".to_owned(),
            host,
            ..NodeConfig::default()
        };
        let actions = around((self.renew)(directory));
        self.begin(config, store, actions, Arc::new(DirectoryProjection))
            .await
    }

    async fn start(
        &self,
        store: Arc<dyn Store>,
        actions: Arc<dyn Actions>,
        projection: Arc<dyn Projection>,
        lease_ms: u32,
    ) -> NodeHandle {
        let config = NodeConfig {
            name: "test".to_owned(),
            lease_ms,
            ..NodeConfig::default()
        };
        self.begin(config, store, actions, projection).await
    }

    async fn begin(
        &self,
        config: NodeConfig,
        store: Arc<dyn Store>,
        actions: Arc<dyn Actions>,
        projection: Arc<dyn Projection>,
    ) -> NodeHandle {
        Node::start(
            config,
            store,
            actions,
            projection,
            Arc::clone(&self.definitions),
            Arc::clone(&self.clock),
        )
        .await
        .unwrap()
    }

    /// Imports people, each as `key,name,department`, as of a day.
    pub async fn try_import(
        &self,
        day: &str,
        people: &[&str],
    ) -> Result<ImportReport, IntakeError> {
        let text = format!("id,name,department\n{}\n", people.join("\n"));
        let text = if people.is_empty() {
            "id,name,department\n".to_owned()
        } else {
            text
        };
        let input = SnapshotInput {
            file: "hr.csv",
            as_of: Some(day.parse::<NaiveDate>().unwrap()),
            ..SnapshotInput::default()
        };
        self.intake
            .import(&self.source, text.as_bytes(), &input, &actor("ann"), now())
            .await
    }

    pub async fn import(&self, day: &str, people: &[&str]) -> ImportReport {
        self.try_import(day, people).await.unwrap()
    }

    pub async fn cases(&self) -> Vec<CaseSummary> {
        self.store
            .list(&CaseFilter::default(), None, 1_000)
            .await
            .unwrap()
    }

    /// Each case as `workflow subject state`, sorted.
    pub async fn shown(&self) -> Vec<String> {
        let mut shown: Vec<String> = self
            .cases()
            .await
            .iter()
            .map(|case| {
                format!(
                    "{} {} {}",
                    case.head.workflow,
                    case.head.subject,
                    case.state.state.as_str()
                )
            })
            .collect();
        shown.sort();
        shown
    }

    /// Waits until the cases look like this.
    #[track_caller]
    pub fn until(&self, expected: &[&str]) -> impl Future<Output = ()> {
        let place = std::panic::Location::caller();
        async move {
            let mut shown = Vec::new();
            for _ in 0..1_500 {
                shown = self.shown().await;
                if shown == expected {
                    return;
                }
                // sleeps: between two looks at the systems
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            panic!(
                "at {place}: cases are {shown:#?}, not {expected:#?}\n{}",
                self.failures().await
            );
        }
    }

    /// Waits until nothing is open but what waits for its day, and nothing waits to begin.
    pub async fn settled(&self, node: &NodeHandle) {
        for _ in 0..2_000 {
            node.nudge();
            assert!(node.idle().await);
            if self.is_settled().await {
                return;
            }
            // sleeps: between two looks at the cases
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let open = CaseFilter {
            open_only: true,
            ..CaseFilter::default()
        };
        let open = self.store.list(&open, None, 1_000).await.unwrap();
        let open: Vec<_> = open
            .iter()
            .filter(|case| !Self::waits_for_its_day(case))
            .collect();
        panic!(
            "begins: {}; open: {open:#?}\n{}",
            self.begins_something().await,
            self.failures().await
        );
    }

    /// Whether nothing is open but work that is being handed over and waits for its day, and nothing waits to begin.
    pub async fn is_settled(&self) -> bool {
        // In this order: what is taken out of the inbox is an open case by then.
        if self.begins_something().await {
            return false;
        }
        let open = CaseFilter {
            open_only: true,
            ..CaseFilter::default()
        };
        let open = self.store.list(&open, None, 1_000).await.unwrap();
        open.iter().all(Self::waits_for_its_day)
    }

    fn waits_for_its_day(case: &CaseSummary) -> bool {
        case.head.workflow == "handover"
            && case.state.state == CaseState::Running
            && case.state.in_flight == 0
    }

    /// Whether something waits to be made a case.
    pub async fn begins_something(&self) -> bool {
        let shards: Vec<ShardId> = (0..self.shards)
            .map(|shard| ShardId(i32::try_from(shard).unwrap()))
            .collect();
        !self.store.inbox(&shards, 1).await.unwrap().is_empty()
    }

    /// What went wrong in open cases, for a failing test.
    pub async fn failures(&self) -> String {
        let mut told = String::new();
        for case in self.cases().await {
            let stored = self
                .store
                .load(case.head.shard, case.head.case)
                .await
                .unwrap()
                .unwrap();
            for step in stored.steps {
                told.push_str(&format!(
                    "{} {} {} {}\n",
                    case.head.workflow, step.step, step.state, step.body
                ));
            }
        }
        told
    }

    pub async fn command(&self, case: &CaseSummary, command: Command) {
        let message = Message::Command {
            definition: None,
            case: case.head.case,
            command,
        };
        let row = message
            .into_row(case.head.shard, Uuid::new_v4(), Lane::Normal, now())
            .unwrap();
        self.store.put_inbox(&[row]).await.unwrap();
    }

    pub async fn case(&self, workflow: &str, subject: &str) -> CaseSummary {
        self.cases()
            .await
            .into_iter()
            .find(|case| case.head.workflow == workflow && case.head.subject.0 == subject)
            .unwrap()
    }

    /// The output of every instance of a step, by number of the step.
    pub async fn outputs(&self, case: CaseId, step: u16) -> Vec<Value> {
        let shard = self.store.locate(case).await.unwrap().unwrap();
        let stored = self.store.load(shard, case).await.unwrap().unwrap();
        stored
            .steps
            .iter()
            .filter(|row| row.step == step && row.instance.is_some())
            .map(|row| {
                let body: Value = serde_json::from_str(&row.body).unwrap();
                body["output"].clone()
            })
            .collect()
    }

    pub async fn closed(&self, expected: usize) {
        for _ in 0..1_500 {
            let closed = self
                .cases()
                .await
                .iter()
                .filter(|case| case.state.state.is_closed())
                .count();
            if closed == expected {
                return;
            }
            // sleeps: between two looks at the systems
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{:#?}", self.shown().await);
    }
}

pub(crate) fn actor(name: &str) -> Actor {
    Actor(name.to_owned())
}

pub(crate) fn now() -> Timestamp {
    SystemClock.now()
}

/// Holds the table of a page in docs/ to what the tests have, below its mark. With `TENURE_WRITE_PAGES` it is written.
pub(crate) fn page_is(file: &str, table: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../docs")
        .join(file);
    let page = std::fs::read_to_string(&path).unwrap();
    let mark = "<!-- the table, written by the tests -->\n";
    let (head, _) = page
        .split_once(mark)
        .expect("the page has a place for the table");
    let wanted = format!("{head}{mark}\n{table}");
    if page != wanted {
        if std::env::var_os("TENURE_WRITE_PAGES").is_some() {
            std::fs::write(&path, wanted).unwrap();
        } else {
            panic!("docs/{file} is not up to date: run this test with TENURE_WRITE_PAGES=1");
        }
    }
}
