//! A database with login names and keys, the place that those who use it read, and a death that comes when it is told to.
//!
//! After every change it is looked whether what must always hold holds: what the place shows opens the database, no more log in
//! than may, and the database knows no secret that the place does not keep.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use connectors::connector::{
    Account, Capabilities, Claim, ClaimName, Connector, Coverage, Credential, CredentialId,
    CredentialKind, Cursor, EntitlementName, Error, ErrorKind, Health, Issuing, Kind, Material,
    MaterialName, Minted, NativeId, NewCredential, Object, ObjectRef, Observation, Operation,
    OperationKey, OperationName, Outcome, Page, Receipt, Verdict,
};
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use tokio::sync::Notify;

/// A login name of the database.
#[derive(Debug, Clone, Default)]
pub(super) struct Login {
    pub enabled: bool,
    pub password: Option<String>,
    pub sessions: u32,
    pub roles: Vec<&'static str>,
    /// Keys that the system issued.
    pub keys: BTreeMap<String, Key>,
}

#[derive(Debug, Clone)]
pub(super) struct Key {
    pub active: bool,
    pub secret: String,
    pub issued_by: String,
}

/// How many keys a login name may have.
const SLOTS: u32 = 2;

impl Login {
    /// How many log in with it.
    fn live(&self) -> usize {
        let keys = self.keys.values().filter(|key| key.active).count();
        keys + usize::from(self.enabled && self.password.is_some())
    }

    fn opens(&self, kept: &BTreeMap<String, String>) -> bool {
        match kept.get("id") {
            Some(id) => self
                .keys
                .get(id)
                .is_some_and(|key| key.active && key.secret == kept["password"]),
            None => self.enabled && self.password.as_ref() == Some(&kept["password"]),
        }
    }
}

#[derive(Default)]
struct State {
    logins: BTreeMap<String, Login>,
    /// What the place keeps, by version.
    kept: BTreeMap<String, BTreeMap<String, String>>,
    shown: Option<String>,
    /// Whether the database has room for one secret only: those who use it are refused for a moment.
    one_slot: bool,
    live_max: usize,
    calls: u32,
    /// The call that is not answered, and whether it has its effect.
    dies_at: Option<(u32, bool)>,
    /// The next so many calls of an operation are refused for good.
    refused: BTreeMap<OperationName, u32>,
    /// Fails for now, until it is let go.
    held: Option<OperationName>,
    broken: Vec<String>,
    stored: u32,
    effects: Vec<String>,
}

/// Both systems. Clones are the same world.
#[derive(Clone)]
pub(super) struct World {
    state: Arc<Mutex<State>>,
    folder: Arc<tempfile::TempDir>,
    pub dies: Arc<Notify>,
    /// Told once the node that died is gone.
    pub gone: Arc<Notify>,
}

impl World {
    /// One login name with a key that the system issued, which the place shows.
    pub fn with_keys() -> Self {
        let world = Self::new(&["app"], 2);
        let key = Key {
            active: true,
            secret: "first".to_owned(),
            issued_by: String::new(),
        };
        world.with(|state| state.one_slot = false);
        world.login("app", |login| {
            login.password = None;
            login.keys.insert("key-0".to_owned(), key);
        });
        let parts = [("user", "app"), ("password", "first"), ("id", "key-0")];
        let parts = parts.map(|(name, text)| (name.to_owned(), text.to_owned()));
        world.keep("app.first", parts.into());
        world
    }

    /// `a` is in use, and the place shows it.
    pub fn new(users: &[&str], live_max: usize) -> Self {
        let world = Self {
            state: Arc::default(),
            folder: Arc::new(tempfile::tempdir().unwrap()),
            dies: Arc::new(Notify::new()),
            gone: Arc::new(Notify::new()),
        };
        world.with(|state| {
            state.live_max = live_max;
            state.one_slot = users.len() == 1;
            for (number, user) in users.iter().enumerate() {
                let login = Login {
                    enabled: number == 0,
                    password: (number == 0).then(|| "first".to_owned()),
                    sessions: 0,
                    roles: vec!["app"],
                    keys: BTreeMap::new(),
                };
                state.logins.insert((*user).to_owned(), login);
            }
        });
        let first = format!("{}.first", users[0]);
        let parts = [("user", users[0]), ("password", "first")];
        let parts = parts.map(|(name, text)| (name.to_owned(), text.to_owned()));
        world.keep(&first, parts.into());
        world.with(|state| state.shown = Some(first));
        world
    }

    fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock().unwrap())
    }

    fn path(&self, version: &str, part: &str) -> PathBuf {
        self.folder.path().join(version).join(part)
    }

    fn keep(&self, version: &str, parts: BTreeMap<String, String>) {
        std::fs::create_dir_all(self.folder.path().join(version)).unwrap();
        for (name, text) in &parts {
            std::fs::write(self.path(version, name), text).unwrap();
        }
        self.with(|state| state.kept.insert(version.to_owned(), parts));
    }

    /// From now on the call of this number is never answered.
    pub fn die_at(&self, call: u32, has_effect: bool) {
        self.with(|state| state.dies_at = Some((call, has_effect)));
    }

    pub fn calls(&self) -> u32 {
        self.with(|state| state.calls)
    }

    pub fn refuse(&self, operation: OperationName, times: u32) {
        self.with(|state| state.refused.insert(operation, times));
    }

    pub fn hold(&self, operation: Option<OperationName>) {
        self.with(|state| state.held = operation);
    }

    pub fn login(&self, user: &str, change: impl FnOnce(&mut Login)) {
        self.with(|state| change(state.logins.get_mut(user).unwrap()));
    }

    /// What the place shows of a part.
    pub fn shown(&self, part: &str) -> String {
        self.with(|state| {
            let version = state.shown.clone().unwrap();
            state.kept[&version][part].clone()
        })
    }

    pub fn effects(&self) -> Vec<String> {
        self.with(|state| state.effects.clone())
    }

    /// Each login name as `name: on|off secret|none`, then how many versions are kept, and what was broken on the way.
    pub fn told(&self) -> Vec<String> {
        self.with(|state| {
            let mut told: Vec<String> = state
                .logins
                .iter()
                .map(|(name, login)| {
                    let on = if login.enabled { "on" } else { "off" };
                    let secret = if login.password.is_some() {
                        "secret"
                    } else {
                        "none"
                    };
                    if login.keys.is_empty() {
                        return format!("{name}: {on} {secret}");
                    }
                    let active = login.keys.values().filter(|key| key.active).count();
                    format!("{name}: {active} of {} keys", login.keys.len())
                })
                .collect();
            told.push(format!("kept: {}", state.kept.len()));
            told.extend(state.broken.clone());
            told
        })
    }

    pub fn database(&self) -> Arc<dyn Connector> {
        Arc::new(Database(self.clone()))
    }

    pub fn place(&self) -> Arc<dyn Connector> {
        Arc::new(Place(self.clone()))
    }

    /// Counts a call, and dies with it if that was told. Gives whether it is to have its effect first.
    async fn called(&self) -> bool {
        match self.counted() {
            None => false,
            Some(true) => true,
            Some(false) => self.die().await,
        }
    }

    /// Counts a call; gives whether the node dies with it, and then whether it has its effect first.
    pub fn counted(&self) -> Option<bool> {
        self.with(|state| {
            state.calls += 1;
            let now = state.calls;
            let dies = state.dies_at.filter(|(call, _)| *call == now);
            dies.map(|(_, has_effect)| has_effect)
        })
    }

    /// Dies, and comes back when the node is gone: what a process holds is given back then.
    pub async fn dies_until_gone(&self) {
        let gone = self.gone.notified();
        tokio::pin!(gone);
        gone.as_mut().enable();
        self.dies.notify_one();
        gone.await;
    }

    /// Notes that something did not hold that always has to.
    pub fn broke(&self, what: String) {
        self.with(|state| state.broken.push(what));
    }

    /// What did not hold.
    pub fn broken(&self) -> Vec<String> {
        self.with(|state| state.broken.clone())
    }

    async fn die<T>(&self) -> T {
        self.dies.notify_one();
        std::future::pending().await
    }

    fn look(&self, after: &str) {
        self.with(|state| {
            let count: usize = state.logins.values().map(Login::live).sum();
            let mut broken = Vec::new();
            if count > state.live_max {
                broken.push(format!("{count} log in after {after}"));
            }
            if count == 0 {
                broken.push(format!("none logs in after {after}"));
            }
            if let Some(kept) = state.shown.as_ref().and_then(|shown| state.kept.get(shown)) {
                let opens = state
                    .logins
                    .get(&kept["user"])
                    .is_some_and(|login| login.opens(kept));
                if !opens && !state.one_slot {
                    broken.push(format!("what is shown does not open after {after}"));
                }
            } else {
                broken.push(format!("nothing is shown after {after}"));
            }
            for (name, login) in &state.logins {
                if let Some(password) = &login.password
                    && !state
                        .kept
                        .values()
                        .any(|kept| kept["password"] == *password)
                    && login.enabled
                {
                    broken.push(format!("nobody knows the secret of {name} after {after}"));
                }
            }
            state.broken.extend(broken);
            state.effects.push(after.to_owned());
        });
    }
}

fn error(kind: ErrorKind, message: &str) -> Error {
    Error::new(kind, message)
}

fn verdict(holds: bool, seen: Value) -> Verdict {
    let observation = Observation {
        by: "memory".to_owned(),
        account: None,
        seen,
    };
    if holds {
        Verdict::Proven(observation)
    } else {
        Verdict::Refuted(observation)
    }
}

fn refused(state: &mut State, operation: &Operation) -> Result<(), Error> {
    if state.held == Some(operation.name()) {
        return Err(error(ErrorKind::Transient, "told to wait"));
    }
    match state.refused.get_mut(&operation.name()) {
        Some(times) if *times > 0 => {
            *times -= 1;
            Err(error(ErrorKind::Denied, "told to refuse"))
        }
        _ => Ok(()),
    }
}

fn set(login: &mut Login, credential: &CredentialId, active: bool) -> bool {
    login
        .keys
        .get_mut(credential.as_str())
        .is_some_and(|key| std::mem::replace(&mut key.active, active) != active)
}

/// What an operation does to a login name; whether that changed anything.
type Change<'a> = Box<dyn Fn(&mut Login) -> bool + 'a>;

struct Database(World);

impl Database {
    /// Issues a key under the name of an effect, once.
    async fn issue(
        &self,
        new: &NewCredential,
        key: &OperationKey,
        dies: bool,
    ) -> Result<Outcome, Error> {
        let (id, secret) = self.0.with(|state| {
            refused(state, &Operation::IssueCredential(new.clone()))?;
            let made = state.calls;
            let login = state
                .logins
                .get_mut(new.account.as_str())
                .ok_or_else(|| error(ErrorKind::NotFound, "no such login"))?;
            let known = login
                .keys
                .iter()
                .find(|(_, known)| known.issued_by == key.idempotency);
            if let Some((id, _)) = known {
                return Ok((id.clone(), None));
            }
            if login.keys.len() >= usize::try_from(SLOTS).unwrap() {
                return Err(error(ErrorKind::Full, "every place is taken"));
            }
            let (id, secret) = (format!("key-{made}"), format!("secret-{made}"));
            let issued = Key {
                active: true,
                secret: secret.clone(),
                issued_by: key.idempotency.clone(),
            };
            login.keys.insert(id.clone(), issued);
            Ok((id, Some(secret)))
        })?;
        self.0.look("issue");
        if dies {
            // The worst moment: it is there, and nobody has its secret.
            return self.0.die().await;
        }
        let credential = Credential::new(CredentialId::new(id), CredentialKind::ApiKey);
        let receipt = Receipt {
            credential: Some(credential.clone()),
            ..Receipt::default()
        };
        let minted = Minted {
            credential,
            public: None,
            secret: secret.map(secrecy::SecretString::from),
        };
        Ok(new.into.settle(minted, receipt, Outcome::Done).await)
    }

    fn change(&self, operation: &Operation) -> Result<(bool, String), Error> {
        self.0.with(|state| {
            refused(state, operation)?;
            let (account, change): (&NativeId, Change<'_>) = match operation {
                Operation::EnableAccount { account } => (
                    account,
                    Box::new(|login: &mut Login| !std::mem::replace(&mut login.enabled, true)),
                ),
                Operation::DisableAccount { account } => (
                    account,
                    Box::new(|login: &mut Login| std::mem::replace(&mut login.enabled, false)),
                ),
                Operation::EndSessions { account } => (
                    account,
                    Box::new(|login: &mut Login| std::mem::take(&mut login.sessions) > 0),
                ),
                Operation::DestroyCredential {
                    account,
                    credential,
                } if credential.as_str() == "password" => (
                    account,
                    Box::new(|login: &mut Login| login.password.take().is_some()),
                ),
                Operation::DestroyCredential {
                    account,
                    credential,
                } => (
                    account,
                    Box::new(|login: &mut Login| login.keys.remove(credential.as_str()).is_some()),
                ),
                Operation::ActivateCredential {
                    account,
                    credential,
                } => (
                    account,
                    Box::new(|login: &mut Login| set(login, credential, true)),
                ),
                Operation::DeactivateCredential {
                    account,
                    credential,
                } => (
                    account,
                    Box::new(|login: &mut Login| set(login, credential, false)),
                ),
                Operation::IssueCredential(new) => {
                    let Material::Secret(secret) = &new.material else {
                        return Err(error(ErrorKind::Invalid, "a secret is wanted"));
                    };
                    let secret = secret.expose_secret().to_owned();
                    let login = state
                        .logins
                        .get_mut(new.account.as_str())
                        .ok_or_else(|| error(ErrorKind::NotFound, "no such login"))?;
                    let changed = login.password.as_ref() != Some(&secret);
                    login.password = Some(secret);
                    return Ok((changed, format!("issue {}", new.account)));
                }
                _ => return Err(error(ErrorKind::Unsupported, "no such operation")),
            };
            let login = state
                .logins
                .get_mut(account.as_str())
                .ok_or_else(|| error(ErrorKind::NotFound, "no such login"))?;
            Ok((
                change(login),
                format!("{} {account}", operation.name().as_str()),
            ))
        })
    }
}

#[async_trait]
impl Connector for Database {
    fn capabilities(&self) -> Capabilities {
        use OperationName as Op;
        Capabilities {
            operations: [
                Op::EnableAccount,
                Op::DisableAccount,
                Op::EndSessions,
                Op::IssueCredential,
                Op::ActivateCredential,
                Op::DeactivateCredential,
                Op::DestroyCredential,
            ]
            .into(),
            claims: [
                ClaimName::AccountEnabled,
                ClaimName::AccountDisabled,
                ClaimName::NoSessions,
                ClaimName::CredentialActive,
                ClaimName::CredentialInactive,
                ClaimName::CredentialIssued,
                ClaimName::CredentialWorks,
            ]
            .into(),
            credentials: [CredentialKind::ApiKey].into(),
            issues: [
                (
                    CredentialKind::Password,
                    Issuing {
                        material: [MaterialName::Secret].into(),
                        slots: Some(1),
                    },
                ),
                (
                    CredentialKind::ApiKey,
                    Issuing {
                        material: [MaterialName::BySystem].into(),
                        slots: Some(SLOTS),
                    },
                ),
            ]
            .into(),
            ..Capabilities::default()
        }
    }

    async fn check(&self) -> Result<Health, Error> {
        Ok(Health::default())
    }

    async fn list(&self, _: Kind, _: Option<Cursor>) -> Result<Page, Error> {
        Err(error(ErrorKind::Unsupported, "nothing is listed"))
    }

    async fn get(&self, object: &ObjectRef) -> Result<Option<Object>, Error> {
        if self.0.called().await {
            return self.0.die().await;
        }
        let ObjectRef::AccountNamed(name) = object else {
            return Ok(None);
        };
        Ok(self.0.with(|state| {
            let login = state.logins.get(name)?;
            let roles = login.roles.iter().map(|role| EntitlementName::new(*role));
            Some(Object::Account(Account {
                id: NativeId::new(name),
                name: name.clone(),
                enabled: Some(login.enabled),
                owner: None,
                attributes: BTreeMap::new(),
                entitlements: Some(roles.collect()),
                version: None,
            }))
        }))
    }

    async fn apply(&self, operation: &Operation, key: &OperationKey) -> Result<Outcome, Error> {
        let dies = self.0.called().await;
        if let Operation::IssueCredential(new) = operation
            && matches!(new.material, Material::BySystem)
        {
            return self.issue(new, key, dies).await;
        }
        let (changed, what) = self.change(operation)?;
        if changed {
            self.0.look(&what);
        }
        if dies {
            return self.0.die().await;
        }
        Ok(if changed {
            Outcome::Done(Receipt::default())
        } else {
            Outcome::AlreadySo(Receipt::default())
        })
    }

    async fn verify(&self, claim: &Claim) -> Result<Verdict, Error> {
        if self.0.called().await {
            return self.0.die().await;
        }
        let login = |account: &NativeId| {
            let found = self
                .0
                .with(|state| state.logins.get(account.as_str()).cloned());
            found.ok_or_else(|| error(ErrorKind::NotFound, "no such login"))
        };
        Ok(match claim {
            Claim::AccountEnabled { account } => verdict(login(account)?.enabled, json!({})),
            Claim::AccountDisabled { account } => verdict(!login(account)?.enabled, json!({})),
            Claim::NoSessions { account } => {
                let sessions = login(account)?.sessions;
                verdict(sessions == 0, json!({ "sessions": sessions }))
            }
            Claim::CredentialInactive {
                account,
                credential,
            } => {
                let login = login(account)?;
                let inactive = if credential.as_str() == "password" {
                    login.password.is_none()
                } else {
                    login
                        .keys
                        .get(credential.as_str())
                        .is_none_or(|key| !key.active)
                };
                verdict(inactive, json!({}))
            }
            Claim::CredentialActive {
                account,
                credential,
            } => {
                let login = login(account)?;
                let key = login.keys.get(credential.as_str());
                verdict(key.is_some_and(|key| key.active), json!({}))
            }
            Claim::CredentialIssued { account, key } => {
                let login = login(account)?;
                let issued = login.keys.iter().find(|(_, known)| known.issued_by == *key);
                let issued = issued
                    .map(|(id, _)| Credential::new(CredentialId::new(id), CredentialKind::ApiKey));
                verdict(issued.is_some(), json!({ "credential": issued }))
            }
            Claim::CredentialWorks {
                account,
                credential,
                secret,
            } => {
                let secret = secret
                    .resolve()
                    .map_err(|_| error(ErrorKind::Invalid, "no such secret"))?;
                let secret = secret.expose_secret().to_owned();
                let mut kept = BTreeMap::from([("password".to_owned(), secret)]);
                if credential.as_str() != "password" {
                    kept.insert("id".to_owned(), credential.to_string());
                }
                let opens = login(account)?.opens(&kept);
                verdict(opens, json!({ "opens": opens }))
            }
            _ => return Err(error(ErrorKind::Unsupported, "no such claim")),
        })
    }

    async fn credentials(&self, account: &NativeId) -> Result<Coverage<Vec<Credential>>, Error> {
        if self.0.called().await {
            return self.0.die().await;
        }
        Ok(Coverage {
            value: self.0.with(|state| {
                let keys = state.logins.get(account.as_str()).map(|login| &login.keys);
                let listed = keys.into_iter().flatten().map(|(id, key)| Credential {
                    active: Some(key.active),
                    ..Credential::new(CredentialId::new(id), CredentialKind::ApiKey)
                });
                listed.collect()
            }),
            blind_spots: Vec::new(),
        })
    }
}

struct Place(World);

impl Place {
    fn change(&self, operation: &Operation) -> Result<(bool, String), Error> {
        self.0.with(|state| refused(state, operation))?;
        match operation {
            Operation::StoreCredential(new) => {
                let version = new.credential.as_str();
                let parts = new.parts.iter();
                let parts: BTreeMap<String, String> = parts
                    .map(|(name, text)| (name.clone(), text.expose_secret().to_owned()))
                    .collect();
                let before = self.0.with(|state| state.kept.get(version).cloned());
                match before {
                    Some(before) if before == parts => return Ok((false, String::new())),
                    Some(_) => return Err(error(ErrorKind::Conflict, "another is kept")),
                    None => {}
                }
                self.0.keep(version, parts);
                self.0.with(|state| state.stored += 1);
                Ok((true, "store".to_owned()))
            }
            Operation::ActivateCredential { credential, .. } => self.0.with(|state| {
                if !state.kept.contains_key(credential.as_str()) {
                    return Err(error(ErrorKind::NotFound, "no such version"));
                }
                let before = state.shown.replace(credential.to_string());
                let user = credential.as_str().split('.').next().unwrap_or_default();
                Ok((
                    before.as_deref() != Some(credential.as_str()),
                    format!("show {user}"),
                ))
            }),
            Operation::DestroyCredential { credential, .. } => self.0.with(|state| {
                if state.shown.as_deref() == Some(credential.as_str()) {
                    return Err(error(ErrorKind::Conflict, "it is read"));
                }
                Ok((
                    state.kept.remove(credential.as_str()).is_some(),
                    "drop".to_owned(),
                ))
            }),
            _ => Err(error(ErrorKind::Unsupported, "no such operation")),
        }
    }
}

#[async_trait]
impl Connector for Place {
    fn capabilities(&self) -> Capabilities {
        use OperationName as Op;
        Capabilities {
            operations: [
                Op::StoreCredential,
                Op::ActivateCredential,
                Op::DestroyCredential,
            ]
            .into(),
            claims: [
                ClaimName::CredentialStored,
                ClaimName::CredentialActive,
                ClaimName::CredentialInactive,
            ]
            .into(),
            credentials: [CredentialKind::Password].into(),
            ..Capabilities::default()
        }
    }

    async fn check(&self) -> Result<Health, Error> {
        Ok(Health::default())
    }

    async fn list(&self, _: Kind, _: Option<Cursor>) -> Result<Page, Error> {
        Err(error(ErrorKind::Unsupported, "nothing is listed"))
    }

    async fn get(&self, _: &ObjectRef) -> Result<Option<Object>, Error> {
        Ok(None)
    }

    async fn apply(&self, operation: &Operation, _: &OperationKey) -> Result<Outcome, Error> {
        let dies = self.0.called().await;
        let (changed, what) = self.change(operation)?;
        if changed {
            self.0.look(&what);
        }
        if dies {
            return self.0.die().await;
        }
        Ok(if changed {
            Outcome::Done(Receipt::default())
        } else {
            Outcome::AlreadySo(Receipt::default())
        })
    }

    async fn verify(&self, claim: &Claim) -> Result<Verdict, Error> {
        if self.0.called().await {
            return self.0.die().await;
        }
        let is_shown = |credential: &CredentialId| {
            self.0
                .with(|state| state.shown.as_deref() == Some(credential.as_str()))
        };
        Ok(match claim {
            Claim::CredentialStored { credential, .. } => {
                let kept = self
                    .0
                    .with(|state| state.kept.get(credential.as_str()).cloned());
                let parts: BTreeMap<String, String> = kept
                    .iter()
                    .flatten()
                    .map(|(name, _)| {
                        let path = self.0.path(credential.as_str(), name);
                        (name.clone(), format!("file:{}", path.display()))
                    })
                    .collect();
                verdict(kept.is_some(), json!({ "parts": parts }))
            }
            Claim::CredentialActive { credential, .. } => verdict(is_shown(credential), json!({})),
            Claim::CredentialInactive { credential, .. } => {
                verdict(!is_shown(credential), json!({}))
            }
            _ => return Err(error(ErrorKind::Unsupported, "no such claim")),
        })
    }

    async fn credentials(&self, _: &NativeId) -> Result<Coverage<Vec<Credential>>, Error> {
        if self.0.called().await {
            return self.0.die().await;
        }
        Ok(Coverage {
            value: self.0.with(|state| {
                let kept = state.kept.keys().map(|version| Credential {
                    active: Some(state.shown.as_ref() == Some(version)),
                    ..Credential::new(CredentialId::new(version), CredentialKind::Password)
                });
                kept.collect()
            }),
            blind_spots: Vec::new(),
        })
    }
}
