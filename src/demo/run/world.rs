//! What the systems themselves say, asked without Tenure: HTTP to the workspace, the file of the door register,
//! the book at the key cabinet. Held against who works in the company.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, ensure};
use serde::Deserialize;
use serde_json::{Value, json};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection as _, SqliteConnection};

use super::access::{DOORS, KEYS, WORKSPACE, Wanted, wanted};
use super::facilities::Facilities;
use super::folder::Folder;
use crate::demo::company::Person;

const PAGE: usize = 200;
/// The most pages that are read; more people than the largest company has.
const PAGES_MAX: usize = 1_000;
/// The most differences that are kept word by word.
pub const DIFFERENCES_MAX: usize = 50;

/// An account as its system has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub owner: String,
    pub name: String,
    pub enabled: bool,
    pub rights: BTreeSet<String>,
}

/// The workspace, seen by its own administrator.
pub struct Workspace {
    client: reqwest::Client,
    base: String,
    token: String,
}

impl Workspace {
    /// # Errors
    /// When no HTTP client can be made.
    pub fn new(base: &str, token: &str) -> anyhow::Result<Self> {
        // A provider that is installed already is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().build()?;
        Ok(Self {
            client,
            base: base.to_owned(),
            token: token.to_owned(),
        })
    }

    /// Makes a group, as whoever set the application up would.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn make_group(&self, name: &str) -> anyhow::Result<()> {
        let group = json!({ "schemas": ["urn:ietf:params:scim:schemas:core:2.0:Group"], "displayName": name });
        let request = self
            .client
            .post(format!("{}/Groups", self.base))
            .bearer_auth(&self.token)
            .json(&group);
        request
            .send()
            .await?
            .error_for_status()
            .with_context(|| format!("cannot make the group `{name}`"))?;
        Ok(())
    }

    /// Everybody who has an account, with the groups.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn accounts(&self) -> anyhow::Result<Vec<Account>> {
        let mut accounts = Vec::new();
        for _ in 0..PAGES_MAX {
            let url = format!(
                "{}/Users?startIndex={}&count={PAGE}",
                self.base,
                accounts.len() + 1
            );
            let answer = self
                .client
                .get(url)
                .bearer_auth(&self.token)
                .send()
                .await?
                .error_for_status()?;
            let page: Page = answer.json().await?;
            let total = page.total;
            ensure!(
                !page.resources.is_empty() || accounts.len() >= total,
                "the workspace ends its list too early"
            );
            accounts.extend(page.resources.into_iter().map(User::account));
            if accounts.len() >= total {
                break;
            }
        }
        Ok(accounts)
    }
}

#[derive(Deserialize)]
struct Page {
    #[serde(rename = "totalResults")]
    total: usize,
    #[serde(rename = "Resources", default)]
    resources: Vec<User>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct User {
    user_name: String,
    #[serde(default)]
    external_id: String,
    active: bool,
    #[serde(default)]
    groups: Vec<Value>,
}

impl User {
    fn account(self) -> Account {
        let rights = self
            .groups
            .iter()
            .filter_map(|group| group.get("display").and_then(Value::as_str));
        Account {
            rights: rights.map(str::to_owned).collect(),
            owner: self.external_id,
            name: self.user_name,
            enabled: self.active,
        }
    }
}

/// The door register, and what took effect there.
pub struct Doors {
    pub accounts: Vec<Account>,
    pub changes: BTreeMap<String, u64>,
}

impl Doors {
    /// Reads the plugin's own database.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn read(folder: &Folder) -> anyhow::Result<Self> {
        let options = SqliteConnectOptions::new()
            .filename(folder.doors_file())
            .read_only(true);
        let mut database = SqliteConnection::connect_with(&options).await?;
        let rows: Vec<(String, String, bool)> =
            sqlx::query_as("SELECT name, owner, enabled FROM account ORDER BY name")
                .fetch_all(&mut database)
                .await?;
        let mut zones: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let access: Vec<(String, String)> = sqlx::query_as("SELECT account, zone FROM access")
            .fetch_all(&mut database)
            .await?;
        for (account, zone) in access {
            zones.entry(account).or_default().insert(zone);
        }
        let accounts = rows
            .into_iter()
            .map(|(name, owner, enabled)| Account {
                rights: zones.remove(&name).unwrap_or_default(),
                owner,
                name,
                enabled,
            })
            .collect();
        let changes: Vec<(String, i64)> =
            sqlx::query_as("SELECT what, count(*) FROM change GROUP BY what")
                .fetch_all(&mut database)
                .await?;
        database.close().await?;
        let changes = changes
            .into_iter()
            .map(|(what, count)| (what, u64::try_from(count).unwrap_or(0)))
            .collect();
        Ok(Self { accounts, changes })
    }
}

/// The key cabinet's book as accounts.
#[must_use]
pub fn key_holders(facilities: &Facilities) -> Vec<Account> {
    let account = |(owner, entry): (&String, &super::facilities::Entry)| Account {
        owner: owner.clone(),
        name: owner.clone(),
        enabled: entry.enabled,
        rights: entry.keys.clone(),
    };
    facilities.book.iter().map(account).collect()
}

/// What was compared, and everything that is not as it should be.
#[derive(Debug, Default)]
pub struct Comparison {
    /// Accounts and rights that were looked at.
    pub checked: u64,
    pub differences: Vec<String>,
    pub differences_more: u64,
}

impl Comparison {
    /// Adds a difference, up to a limit.
    pub fn differs(&mut self, what: String) {
        if self.differences.len() < DIFFERENCES_MAX {
            self.differences.push(what);
        } else {
            self.differences_more += 1;
        }
    }
}

/// Holds `systems` against what the people who work today should have.
#[must_use]
pub fn compare(people: &[Person], systems: &[(&'static str, Vec<Account>)]) -> Comparison {
    let everybody: BTreeMap<&str, Wanted> = people
        .iter()
        .map(|person| (person.id.as_str(), wanted(person)))
        .collect();
    let mut comparison = Comparison::default();
    for (system, accounts) in systems {
        let mut found: BTreeMap<&str, &Account> = BTreeMap::new();
        for account in accounts {
            if found.insert(&account.owner, account).is_some() {
                comparison.differs(format!(
                    "`{}` has two accounts on `{system}`",
                    account.owner
                ));
            }
        }
        for (owner, account) in &found {
            let rights = everybody.get(owner).and_then(|wanted| wanted.get(system));
            comparison.checked += 1 + account.rights.len() as u64;
            match rights {
                Some(_) if !account.enabled => comparison.differs(format!(
                    "`{owner}` works here, and is locked out of `{system}`"
                )),
                Some(rights) => {
                    for missing in rights.difference(&account.rights) {
                        comparison
                            .differs(format!("`{owner}` should have `{missing}` on `{system}`"));
                    }
                    for left in account.rights.difference(rights) {
                        comparison
                            .differs(format!("`{owner}` should not have `{left}` on `{system}`"));
                    }
                }
                None => {
                    if account.enabled {
                        comparison.differs(format!(
                            "`{owner}` should have no open account on `{system}`"
                        ));
                    }
                    for left in &account.rights {
                        comparison
                            .differs(format!("`{owner}` should have lost `{left}` on `{system}`"));
                    }
                }
            }
        }
        for (person, wanted) in &everybody {
            if wanted.contains_key(system) && !found.contains_key(person) {
                comparison.differs(format!("`{person}` should have an account on `{system}`"));
            }
        }
    }
    comparison
}

/// The names of the three systems, in the order in which they are told.
pub const SYSTEMS: [&str; 3] = [WORKSPACE, DOORS, KEYS];

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        reason = "tests"
    )]
    use chrono::NaiveDate;

    use super::*;
    use crate::demo::company::Company;

    fn as_it_should_be(people: &[Person]) -> Vec<(&'static str, Vec<Account>)> {
        SYSTEMS
            .into_iter()
            .map(|system| {
                let accounts = people.iter().filter_map(|person| {
                    let rights = wanted(person).remove(system)?;
                    Some(Account {
                        owner: person.id.clone(),
                        name: person.id.clone(),
                        enabled: true,
                        rights,
                    })
                });
                (system, accounts.collect())
            })
            .collect()
    }

    #[test]
    fn every_kind_of_difference_is_seen() {
        let company = Company::new(1, 60, NaiveDate::from_ymd_opt(2026, 3, 2).unwrap());
        let people = company.people();
        let good = as_it_should_be(people);
        assert_eq!(compare(people, &good).differences, Vec::<String>::new());

        let last = people.last().unwrap();
        let check = |people: &[Person], change: &dyn Fn(&mut Account), expected: &str| {
            let mut systems = good.clone();
            let account = systems[0]
                .1
                .iter_mut()
                .find(|account| account.owner == last.id)
                .unwrap();
            change(account);
            let comparison = compare(people, &systems);
            assert!(
                comparison
                    .differences
                    .iter()
                    .any(|it| it.contains(expected)),
                "{expected}: {comparison:?}"
            );
        };
        check(
            people,
            &|account| account.enabled = false,
            "is locked out of `workspace`",
        );
        check(
            people,
            &|account| account.rights.clear(),
            "should have `everyone` on `workspace`",
        );
        check(
            people,
            &|account| {
                account.rights.insert("x".to_owned());
            },
            "should not have `x`",
        );
        let without: Vec<Person> = people
            .iter()
            .filter(|person| person.id != last.id)
            .cloned()
            .collect();
        check(
            &without,
            &|_| {},
            "should have no open account on `workspace`",
        );
        check(
            &without,
            &|account| account.enabled = false,
            "should have lost `everyone` on `workspace`",
        );
        let mut systems = good.clone();
        systems[0].1.retain(|account| account.owner != last.id);
        assert!(
            compare(people, &systems).differences[0]
                .contains("should have an account on `workspace`")
        );
    }
}
