//! Which names and addresses policy would give that somebody has already.
//!
//! Asked before a cut-over: for everybody who is there or expected, to whom policy gives an account on the system and who
//! has none that Tenure knows, the first name of the template is looked for among the accounts of the system and among the
//! names of the others in the same report. A name that is taken is no failure later, for the next of the template is
//! tried then; an address of mail that two have is.

use std::collections::BTreeMap;

use connectors::connector::Account;
use serde::Serialize;
use serde_json::Value;

use super::{TakeoverError, accounts_of};
use crate::directory::{
    AccountStatus, Directory, IdentityFilter, IdentityStatus, PAGE_ROWS_MAX, facts_of,
};
use crate::policy::{self, IdentityFacts, PolicySet};
use crate::systems::System;

/// The most collisions that are told; the rest is counted.
pub const COLLISIONS_MAX: usize = 10_000;

/// What would meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    Name,
    /// An address of mail among the attributes.
    Mail,
}

/// Who has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "by", rename_all = "snake_case")]
pub enum Taken {
    /// An account of the system.
    Account {
        account: String,
        name: String,
        /// The key stored in the account, if any.
        owner: Option<String>,
        enabled: Option<bool>,
    },
    /// Somebody else to whom policy would give it.
    Person { key: String },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Collision {
    /// To whom policy would give it.
    pub key: String,
    pub display_name: String,
    pub what: What,
    pub value: String,
    pub taken: Taken,
    /// The first name of the template that nobody has. `None` when all are taken, or for addresses.
    pub free: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CollisionReport {
    pub system: String,
    /// Accounts of the system.
    pub accounts: usize,
    /// People who would get an account.
    pub people: usize,
    pub collisions: Vec<Collision>,
    /// Those that are not told, because there are too many.
    pub more: usize,
}

/// What would meet on a system if policy were carried out there.
///
/// # Errors
/// When the system cannot list all its accounts, the database does not answer, or policy has no answer for somebody.
pub async fn collisions(
    directory: &Directory,
    system: &System,
    policy: &PolicySet,
) -> Result<CollisionReport, TakeoverError> {
    let accounts = accounts_of(system).await?;
    let mut report = CollisionReport {
        system: system.name().to_owned(),
        accounts: accounts.len(),
        ..CollisionReport::default()
    };
    let mut taken = Names::of(accounts.values());
    for status in [IdentityStatus::Active, IdentityStatus::Expected] {
        let filter = IdentityFilter {
            status: Some(status),
            search: None,
        };
        let mut after: Option<String> = None;
        loop {
            let page = directory
                .identities(&filter, after.as_deref(), PAGE_ROWS_MAX)
                .await?;
            let Some(last) = page.last() else { break };
            after = Some(last.identity_key.clone());
            for identity in &page {
                let facts = IdentityFacts {
                    // Whoever is expected is looked at as if the day had come.
                    active: true,
                    ..facts_of(identity)
                };
                if !wants(policy, &facts, system.name())?
                    || has(directory, &facts.key, system.name()).await?
                {
                    continue;
                }
                report.people += 1;
                let wrong =
                    |error: Box<policy::TemplateError>| TakeoverError::Policy(error.to_string());
                let names = system.candidates(policy, &facts).map_err(wrong)?;
                let attributes = system.attributes(policy, &facts).map_err(wrong)?;
                for (what, value, by, free) in taken.give(&facts.key, &names, &attributes) {
                    if report.collisions.len() >= COLLISIONS_MAX {
                        report.more += 1;
                        continue;
                    }
                    report.collisions.push(Collision {
                        key: facts.key.clone(),
                        display_name: identity.display_name.clone(),
                        what,
                        value,
                        taken: by,
                        free,
                    });
                }
            }
        }
    }
    Ok(report)
}

fn wants(policy: &PolicySet, facts: &IdentityFacts, system: &str) -> Result<bool, TakeoverError> {
    let wanted = policy::evaluate(policy, facts)
        .map_err(|error| TakeoverError::Policy(error.to_string()))?;
    Ok(wanted
        .accounts
        .iter()
        .any(|account| account.system == system))
}

async fn has(directory: &Directory, key: &str, system: &str) -> Result<bool, TakeoverError> {
    let holdings = directory.holdings(key).await?;
    let mut accounts = holdings.iter().flat_map(|holdings| &holdings.accounts);
    Ok(accounts.any(|account| {
        account.system == system
            && !matches!(
                account.status,
                AccountStatus::Deleted | AccountStatus::Planned
            )
    }))
}

type Met = (What, String, Taken, Option<String>);

/// What is taken, without regard to case.
struct Names {
    names: BTreeMap<String, Taken>,
    mails: BTreeMap<String, Taken>,
}

impl Names {
    fn of<'a>(accounts: impl Iterator<Item = &'a Account>) -> Self {
        let (mut names, mut mails) = (BTreeMap::new(), BTreeMap::new());
        for account in accounts {
            let taken = Taken::Account {
                account: account.id.to_string(),
                name: account.name.clone(),
                owner: account.owner.clone(),
                enabled: account.enabled,
            };
            for mail in account.attributes.values().flat_map(mails_in) {
                mails.insert(mail, taken.clone());
            }
            names.insert(account.name.to_lowercase(), taken);
        }
        Self { names, mails }
    }

    /// Gives somebody the first free name, and their addresses; says what was taken.
    fn give(
        &mut self,
        key: &str,
        names: &[String],
        attributes: &BTreeMap<String, Value>,
    ) -> Vec<Met> {
        let own = |taken: &Taken| match taken {
            Taken::Account { owner, .. } => owner.as_deref() == Some(key),
            Taken::Person { key: other } => other == key,
        };
        let person = || Taken::Person {
            key: key.to_owned(),
        };
        let mut met = Vec::new();
        let is_free = |taken: Option<&Taken>| taken.is_none_or(own);
        let free = names
            .iter()
            .find(|name| is_free(self.names.get(&name.to_lowercase())));
        if let Some(first) = names.first()
            && let Some(taken) = self.names.get(&first.to_lowercase())
            && !own(taken)
        {
            met.push((What::Name, first.clone(), taken.clone(), free.cloned()));
        }
        if let Some(free) = free {
            self.names.insert(free.to_lowercase(), person());
        }
        for mail in attributes.values().flat_map(mails_in) {
            match self.mails.get(&mail) {
                Some(taken) if !own(taken) => met.push((What::Mail, mail, taken.clone(), None)),
                _ => {
                    self.mails.insert(mail, person());
                }
            }
        }
        met
    }
}

/// The addresses of mail in a value.
fn mails_in(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => match text.split_once('@') {
            Some((mailbox, domain))
                if !mailbox.is_empty() && domain.contains('.') && !text.contains(' ') =>
            {
                vec![text.to_lowercase()]
            }
            _ => Vec::new(),
        },
        Value::Array(values) => values.iter().flat_map(mails_in).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => Vec::new(),
    }
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
    use crate::testbed::{Company, on_both_databases};

    async fn names_that_are_taken_are_told_before_the_cut_over(company: &Company) {
        let four = [
            "A1,Ann,Sales",
            "B2,Bob,Sales",
            "C3,Cid,Sales",
            "D4,Dot,Sales",
        ];
        company.import("2026-01-01", &four).await;
        let report = async || {
            let systems = company.actions.systems_shared();
            let system = systems.get("ldap").unwrap();
            collisions(&company.directory, system, &company.policy.get().unwrap())
                .await
                .unwrap()
        };
        assert_eq!(
            (report().await.people, report().await.collisions.len()),
            (4, 0)
        );
        // Somebody else's, one's own, and one that is like none.
        company.ldap.put_account("A1", Some("X9"));
        company.ldap.put_account("b2", Some("B2"));
        company.ldap.put_account("zz", None);
        let found = report().await;
        assert_eq!((found.accounts, found.collisions.len()), (3, 1));
        let met = &found.collisions[0];
        assert_eq!(
            (met.key.as_str(), met.value.as_str(), met.what),
            ("A1", "a1", What::Name)
        );
        assert_eq!(met.free.as_deref(), Some("a12"));
        assert!(matches!(&met.taken, Taken::Account { owner: Some(owner), .. } if owner == "X9"));
        assert_eq!(
            company.ldap.effects(),
            Vec::<String>::new(),
            "nothing was changed there"
        );
    }

    #[test]
    fn an_address_that_two_would_have_is_told() {
        let mut names = Names::of([].iter());
        let attributes = |mail: &str| BTreeMap::from([("mail".to_owned(), mail.into())]);
        let ann = names.give("A1", &["ann".to_owned()], &attributes("Ann@example.com"));
        assert!(ann.is_empty());
        let other = names.give(
            "A2",
            &["ann".to_owned(), "ann2".to_owned()],
            &attributes("ann@example.com"),
        );
        let told: Vec<(What, &str, Option<&str>)> = other
            .iter()
            .map(|(what, value, _, free)| (*what, value.as_str(), free.as_deref()))
            .collect();
        assert_eq!(
            told,
            [
                (What::Name, "ann", Some("ann2")),
                (What::Mail, "ann@example.com", None)
            ]
        );
    }

    on_both_databases! {
        names_that_are_taken_are_told_before_the_cut_over,
    }
}
