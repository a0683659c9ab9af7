//! Accounts that nobody here made: whose are they?
//!
//! An account is *unmanaged* as long as the directory has nobody who holds it. It is a known person's when the owner that is
//! stored in it is their key, or when the rules of correlation say so, comparing the attributes of the account with those
//! of people (`account` is its name). Nothing is decided on a guess: what rules leave open is shown, and adopted by nobody.

use std::collections::{BTreeMap, BTreeSet};

use connectors::connector::Account;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{TakeoverError, accounts_of};
use crate::correlation::{Candidate, Correlation, Score, Scored, Verdict, blocks, decide};
use crate::directory::{
    AccountStatus, Directory, IdentityFilter, IdentityRow, IdentityStatus, PAGE_ROWS_MAX,
};
use crate::policy;
use crate::systems::System;

/// The name under which rules see the name of an account.
pub const ACCOUNT_NAME: &str = "account";
/// How many accounts one wave adopts unless a person says more.
pub const WAVE_ACCOUNTS_DEFAULT: usize = 100;

/// Which accounts a wave is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WaveFilter {
    /// Attributes that the person must have: name and value.
    pub with: BTreeMap<String, String>,
    /// Those of people who are not there, too: adopting them closes them.
    pub left: bool,
}

/// An account, and whose it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Adoptable {
    pub native_id: String,
    pub name: String,
    pub enabled: Option<bool>,
    pub entitlements: BTreeSet<String>,
    pub key: String,
    pub display_name: String,
    /// Whether the person is there: the account of somebody who is not is closed.
    pub stays: bool,
    /// `None` when the account itself names the person.
    pub score: Option<Score>,
}

/// An account that may be somebody's.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Doubtful {
    pub native_id: String,
    pub name: String,
    pub candidates: Vec<Scored>,
}

/// What a wave would do.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Wave {
    pub system: String,
    /// Names exactly the accounts in `adoptable`.
    pub id: String,
    /// Accounts of the system, and those of them that are managed already.
    pub accounts: usize,
    pub managed: usize,
    pub adoptable: Vec<Adoptable>,
    /// Known to be somebody's whom the filter leaves out.
    pub left_out: usize,
    /// Rules leave open whose they are.
    pub doubtful: Vec<Doubtful>,
    /// Nobody's who is known.
    pub nobodys: Vec<String>,
}

/// Those who may have one of the accounts, and by what they are found.
struct People {
    by_key: BTreeMap<String, IdentityRow>,
    by_block: BTreeMap<String, BTreeSet<String>>,
}

/// What a wave would adopt on a system.
///
/// # Errors
/// When the system cannot list all its accounts, or the database does not answer.
pub async fn wave(
    directory: &Directory,
    system: &System,
    correlation: Option<&Correlation>,
    filter: &WaveFilter,
) -> Result<Wave, TakeoverError> {
    let accounts = accounts_of(system).await?;
    let held = directory.accounts_on(system.name()).await?;
    let managed: BTreeSet<&str> = held
        .iter()
        .filter(|row| row.status != AccountStatus::Deleted)
        .map(|row| row.native_id.as_str())
        .collect();
    let holders: BTreeSet<&str> = held
        .iter()
        .filter(|row| row.status != AccountStatus::Deleted)
        .map(|row| row.identity_key.as_str())
        .collect();
    let unmanaged = accounts
        .iter()
        .filter(|(native_id, _)| !managed.contains(native_id.as_str()));
    let unmanaged = unmanaged.map(|(_, account)| account);
    let people = People::read(directory, correlation, unmanaged).await?;
    let mut wave = Wave {
        system: system.name().to_owned(),
        accounts: accounts.len(),
        ..Wave::default()
    };
    let mut found: Vec<(Adoptable, &IdentityRow)> = Vec::new();
    for (native_id, account) in &accounts {
        if managed.contains(native_id.as_str()) {
            wave.managed += 1;
            continue;
        }
        match people.whose(account, correlation) {
            Whose::Known(row, score) => {
                let stays = matches!(
                    row.status,
                    IdentityStatus::Active | IdentityStatus::Expected
                );
                let entitlements = account.entitlements.iter().flatten();
                let adoptable = Adoptable {
                    native_id: native_id.clone(),
                    name: account.name.clone(),
                    enabled: account.enabled,
                    entitlements: entitlements.map(|name| name.as_str().to_owned()).collect(),
                    key: row.identity_key.clone(),
                    display_name: row.display_name.clone(),
                    stays,
                    score,
                };
                found.push((adoptable, row));
            }
            Whose::Doubtful(candidates) => wave.doubtful.push(Doubtful {
                native_id: native_id.clone(),
                name: account.name.clone(),
                candidates,
            }),
            Whose::Nobodys => wave.nobodys.push(account.name.clone()),
        }
    }
    // Somebody who has an account there, or two that nobody knows, is not adopted unasked.
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    for (adoptable, _) in &found {
        *times.entry(adoptable.key.clone()).or_default() += 1;
    }
    for (adoptable, row) in found {
        if times.get(&adoptable.key) != Some(&1) || holders.contains(adoptable.key.as_str()) {
            wave.doubtful.push(Doubtful {
                native_id: adoptable.native_id,
                name: adoptable.name,
                candidates: adoptable
                    .score
                    .map(|score| Scored {
                        key: adoptable.key,
                        score,
                    })
                    .into_iter()
                    .collect(),
            });
        } else if filter.takes(row, adoptable.stays) {
            wave.adoptable.push(adoptable);
        } else {
            wave.left_out += 1;
        }
    }
    wave.id = wave.digest();
    Ok(wave)
}

impl Wave {
    /// The first of them, as a wave of its own.
    #[must_use]
    pub fn first(mut self, most: usize) -> Self {
        if self.adoptable.len() > most {
            self.left_out += self.adoptable.len() - most;
            self.adoptable.truncate(most);
            self.id = self.digest();
        }
        self
    }

    fn digest(&self) -> String {
        let accounts: Vec<Value> = self
            .adoptable
            .iter()
            .map(|it| {
                json!([
                    it.native_id,
                    it.name,
                    it.key,
                    it.stays,
                    it.enabled,
                    it.entitlements
                ])
            })
            .collect();
        let digest = policy::digest(&json!([self.system, accounts]));
        format!("wav_{}", digest.get(..32).unwrap_or(&digest))
    }
}

impl WaveFilter {
    fn takes(&self, row: &IdentityRow, stays: bool) -> bool {
        let has = |(name, wanted): (&String, &String)| match row.attributes.get(name) {
            Some(Value::String(text)) => text == wanted,
            Some(Value::Number(number)) => {
                let number = number.to_string();
                number == *wanted
            }
            Some(Value::Bool(is)) => *wanted == if *is { "true" } else { "false" },
            Some(Value::Null | Value::Array(_) | Value::Object(_)) | None => false,
        };
        (stays || self.left) && self.with.iter().all(has)
    }
}

enum Whose<'a> {
    Known(&'a IdentityRow, Option<Score>),
    Doubtful(Vec<Scored>),
    Nobodys,
}

/// What rules see of an account.
fn attributes_of(account: &Account) -> BTreeMap<String, Value> {
    let mut attributes: BTreeMap<String, Value> = account.attributes.clone().into_iter().collect();
    attributes
        .entry(ACCOUNT_NAME.to_owned())
        .or_insert_with(|| json!(account.name));
    attributes
}

impl People {
    /// Goes over everybody and keeps whom an account names, and who has something in common with one.
    async fn read(
        directory: &Directory,
        correlation: Option<&Correlation>,
        accounts: impl Iterator<Item = &Account>,
    ) -> Result<Self, TakeoverError> {
        let (mut owners, mut wanted) = (BTreeSet::new(), BTreeSet::new());
        for account in accounts {
            owners.extend(account.owner.as_deref());
            if let Some(rules) = correlation {
                wanted.extend(blocks(rules, &attributes_of(account)));
            }
        }
        let mut people = Self {
            by_key: BTreeMap::new(),
            by_block: BTreeMap::new(),
        };
        let mut after: Option<String> = None;
        loop {
            let page = directory
                .identities(&IdentityFilter::default(), after.as_deref(), PAGE_ROWS_MAX)
                .await?;
            let Some(last) = page.last() else { break };
            after = Some(last.identity_key.clone());
            for row in page {
                let mut is_near = owners.contains(row.identity_key.as_str());
                let texts = correlation.map(|rules| blocks(rules, &row.attributes));
                for text in texts.into_iter().flatten() {
                    if wanted.contains(&text) {
                        is_near = true;
                        let keys = people.by_block.entry(text).or_default();
                        keys.insert(row.identity_key.clone());
                    }
                }
                if is_near {
                    people.by_key.insert(row.identity_key.clone(), row);
                }
            }
        }
        people.add_survivors(directory).await?;
        Ok(people)
    }

    /// Whoever one of them has become.
    async fn add_survivors(&mut self, directory: &Directory) -> Result<(), TakeoverError> {
        let into = |row: &IdentityRow| row.merged_into.clone();
        let mut open: BTreeSet<String> = self.by_key.values().filter_map(into).collect();
        while let Some(key) = open.pop_first() {
            if self.by_key.contains_key(&key) {
                continue;
            }
            if let Some(held) = directory.holdings(&key).await? {
                open.extend(into(&held.identity));
                self.by_key.insert(key, held.identity);
            }
        }
        Ok(())
    }

    /// The person that a key stands for.
    fn person(&self, key: &str) -> Option<&IdentityRow> {
        let mut row = self.by_key.get(key)?;
        // A chain of merges is never longer than there are people.
        for _ in 0..self.by_key.len() {
            match &row.merged_into {
                Some(into) => row = self.by_key.get(into)?,
                None => break,
            }
        }
        Some(row)
    }

    fn whose(&self, account: &Account, correlation: Option<&Correlation>) -> Whose<'_> {
        if let Some(row) = account
            .owner
            .as_deref()
            .and_then(|owner| self.person(owner))
        {
            return Whose::Known(row, None);
        }
        let Some(rules) = correlation else {
            return Whose::Nobodys;
        };
        let attributes = attributes_of(account);
        let texts = blocks(rules, &attributes);
        let keys: BTreeSet<&String> = texts
            .iter()
            .filter_map(|text| self.by_block.get(text))
            .flatten()
            .collect();
        let mut candidates: BTreeMap<&str, &IdentityRow> = BTreeMap::new();
        for row in keys.into_iter().filter_map(|key| self.person(key)) {
            candidates.insert(&row.identity_key, row);
        }
        let candidates: Vec<Candidate<'_>> = candidates
            .into_iter()
            .map(|(key, row)| Candidate {
                key,
                attributes: &row.attributes,
                beside: false,
            })
            .collect();
        match decide(rules, &attributes, &candidates) {
            Verdict::Link(scored) => match self.person(&scored.key) {
                Some(row) => Whose::Known(row, Some(scored.score)),
                None => Whose::Nobodys,
            },
            Verdict::Ask(candidates) => Whose::Doubtful(candidates),
            Verdict::New => Whose::Nobodys,
        }
    }
}
