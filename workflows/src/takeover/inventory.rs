//! Looking at a system for what answers to nobody: accounts without a person or a declared identity, credentials that no
//! declaration names; and for what uses the accounts that are declared.
//!
//! Reads the whole of the system and changes nothing there. A listing that is not complete says nothing.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use connectors::connector::{Connector, Error, ErrorKind, NativeId, ObjectRef};
use serde::Serialize;

use super::{TakeoverError, accounts_of};
use crate::directory::{
    AccountStatus, Directory, NhiCredentialRow, NhiFilter, NhiRow, NhiStatus, PAGE_ROWS_MAX,
};
use crate::nhi::check::Coverage;
use crate::nhi::declare::Declared;
use crate::nhi::found::{Found, FoundStatus, There, compare, replaced_on};
use crate::nhi::graph::{Confidence, Edge, Node, NodeKind, Relation};
use crate::nhi::hygiene::{self, Shortfall, Stands};
use crate::policy::CredentialRule;
use crate::systems::System;

/// What a look at a system brought.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Looked {
    pub system: String,
    pub accounts: usize,
    /// Held by people, and by declared identities.
    pub peoples: usize,
    pub declared: usize,
    /// What answers to nobody, by the soonest deadline first.
    pub open: Vec<Found>,
    pub accepted: usize,
    /// What was open before, and somebody answers for by now; and what is gone.
    pub adopted: Vec<Found>,
    pub gone: Vec<Found>,
    /// How many uses of declared accounts were seen.
    pub uses: usize,
    /// What could not be looked at, in words.
    pub gaps: Vec<String>,
}

/// Looks at a system and keeps what it finds. `within` is how long somebody has to answer for what is new.
///
/// # Errors
/// When the system cannot list all its accounts, or the database does not answer.
pub async fn look(
    directory: &Directory,
    system: &System,
    within: TimeDelta,
    now: DateTime<Utc>,
) -> Result<Looked, TakeoverError> {
    let name = system.name();
    let accounts = accounts_of(system).await?;
    let peoples: BTreeSet<String> = (directory.accounts_on(name).await?.into_iter())
        .filter(|row| row.status != AccountStatus::Deleted)
        .map(|row| row.native_id)
        .collect();
    let declared = declared(directory).await?;
    let mut there = There {
        accounts: accounts
            .iter()
            .map(|(id, account)| (id.clone(), (account.name.clone(), account.enabled)))
            .collect(),
        peoples,
        ..There::default()
    };
    for row in &declared {
        for account in row.declared.accounts.iter().filter(|it| it.system == name) {
            there
                .declared
                .insert(account.name.clone(), row.nhi_key.clone());
        }
        there
            .replaced
            .extend(replaced_on(&row.declared, name).map(str::to_owned));
        let credentials = row.declared.credentials.iter();
        let on_it = credentials.filter(|it| it.system == name);
        there.known.extend(on_it.map(|it| it.id.clone()));
    }
    let mut looked = Looked {
        system: name.to_owned(),
        accounts: accounts.len(),
        peoples: there.peoples.len(),
        ..Looked::default()
    };
    let mut observed = Observed::default();
    let theirs: Vec<(&String, String)> = there
        .accounts
        .iter()
        .filter_map(|(id, (login, _))| Some((id, there.identity(id, login)?.to_owned())))
        .collect();
    looked.declared = theirs.len();
    let mut credentials = BTreeMap::new();
    for (id, key) in theirs {
        let login = there
            .accounts
            .get(id)
            .map_or("", |(login, _)| login.as_str());
        match held(system, id, login).await {
            Ok(Some(held)) => drop(credentials.insert(id.clone(), held)),
            Ok(None) => {}
            Err(error) => looked.gap(format!("the credentials of `{id}`: {}", error.whole())),
        }
        if let Err(error) = observed.uses(system, id, &key, now).await {
            looked.gap(format!("who uses `{id}`: {}", error.whole()));
        }
    }
    there.credentials = credentials;
    let before = directory.found_on(name).await?;
    let changed = compare(name, &before, &there, within, now);
    directory.put_found(&changed).await?;
    looked.uses = observed.edges.len();
    directory
        .observe(&observed.edges, &observed.coverage)
        .await?;
    for found in changed {
        match found.status {
            FoundStatus::Open => looked.open.push(found),
            FoundStatus::Accepted => looked.accepted += 1,
            FoundStatus::Adopted => looked.adopted.push(found),
            FoundStatus::Gone => looked.gone.push(found),
        }
    }
    looked
        .open
        .sort_by(|a, b| (a.due_at, &a.thing).cmp(&(b.due_at, &b.thing)));
    Ok(looked)
}

/// The most gaps that are told.
const GAPS_MAX: usize = 20;

impl Looked {
    fn gap(&mut self, what: String) {
        if self.gaps.len() < GAPS_MAX {
            self.gaps.push(what);
        }
    }
}

/// Which declared credentials fall short of `rules`.
///
/// # Errors
/// When the database does not answer, or holds what this program cannot read.
pub async fn shortfalls(
    directory: &Directory,
    rules: &[CredentialRule],
    now: DateTime<Utc>,
) -> Result<Vec<Shortfall>, TakeoverError> {
    // Twice over all of them: a secret may stand a second time in the last. Their edges are many times as much as they are,
    // so they are never in memory all at once.
    let mut stands = Stands::default();
    let mut pages = Pages::of(directory);
    while let Some(rows) = pages.next().await? {
        for row in &rows {
            stands.note(&row.declared);
        }
    }
    let mut found = Vec::new();
    let mut pages = Pages::of(directory);
    while let Some(rows) = pages.next().await? {
        let nodes = rows.iter().flat_map(|row| {
            let credentials = row.declared.credentials.iter();
            std::iter::once(Node::nhi(&row.nhi_key))
                .chain(credentials.map(|credential| Node::credential(credential.name())))
        });
        let nodes: Vec<Node> = nodes.collect();
        let edges = directory.edges_at(&nodes).await?;
        let held = directory
            .nhi_credentials_of(rows.iter().map(|row| row.nhi_key.as_str()))
            .await?;
        let held: BTreeMap<&str, &NhiCredentialRow> =
            held.iter().map(|row| (row.name.as_str(), row)).collect();
        let mut declared: Vec<Declared> = rows.into_iter().map(|row| row.declared).collect();
        // One that has been replaced lasts otherwise than was declared.
        for credential in declared.iter_mut().flat_map(|one| &mut one.credentials) {
            if let Some(row) = held.get(credential.name().as_str()) {
                credential.issued = row.issued_at;
                credential.expires = row.expires_at;
            }
        }
        found.extend(hygiene::shortfalls(&declared, &edges, &stands, rules, now));
    }
    found.sort();
    Ok(found)
}

/// Every declared identity that is not retired, a page at a time.
struct Pages<'a> {
    directory: &'a Directory,
    after: Option<String>,
}

impl<'a> Pages<'a> {
    fn of(directory: &'a Directory) -> Self {
        Self {
            directory,
            after: None,
        }
    }

    /// `None` after the last. A page may be empty.
    async fn next(&mut self) -> Result<Option<Vec<NhiRow>>, TakeoverError> {
        let after = self.after.as_deref();
        let mut rows = self
            .directory
            .nhis(&NhiFilter::default(), after, PAGE_ROWS_MAX)
            .await?;
        let Some(last) = rows.last() else {
            return Ok(None);
        };
        self.after = Some(last.nhi_key.clone());
        rows.retain(|row| row.status != NhiStatus::Retired);
        Ok(Some(rows))
    }
}

/// Every declared identity that is not retired.
async fn declared(directory: &Directory) -> Result<Vec<NhiRow>, TakeoverError> {
    let mut rows: Vec<NhiRow> = Vec::new();
    let mut pages = Pages::of(directory);
    while let Some(page) = pages.next().await? {
        rows.extend(page);
    }
    Ok(rows)
}

/// How a system calls the one password of an account. Declared it is `password:LOGIN`, which names one on the system.
const PASSWORD: &str = "password";

/// The usable credentials of an account; `None` where the system cannot list them.
async fn held(system: &System, id: &str, login: &str) -> Result<Option<BTreeSet<String>>, Error> {
    if system.capabilities().credentials.is_empty() {
        return Ok(None);
    }
    match system.connector().credentials(&NativeId::new(id)).await {
        Ok(listed) => {
            let usable = (listed.value.into_iter()).filter(|it| it.active != Some(false));
            let named = usable.map(|it| match it.id.as_str() {
                PASSWORD => format!("{PASSWORD}:{login}"),
                id => id.to_owned(),
            });
            Ok(Some(named.collect()))
        }
        Err(error) if error.kind == ErrorKind::Unsupported => Ok(None),
        Err(error) => Err(error),
    }
}

#[derive(Default)]
struct Observed {
    edges: Vec<Edge>,
    coverage: Vec<Coverage>,
}

impl Observed {
    /// What uses one account of a declared identity, and how far that can be believed: a look sees what is there when it
    /// looks, and says so.
    async fn uses(
        &mut self,
        system: &System,
        id: &str,
        key: &str,
        now: DateTime<Utc>,
    ) -> Result<(), Error> {
        if !system.capabilities().dependents {
            return Ok(());
        }
        let object = ObjectRef::Account(NativeId::new(id));
        let seen = system.connector().dependents(&object).await?;
        let nhi = Node::nhi(key);
        for used in seen.value {
            let edge = Edge {
                from: Node::new(NodeKind::Consumer, used.by),
                relation: Relation::Uses,
                to: nhi.clone(),
                source: system.name().to_owned(),
                first_seen_at: used.last_seen.unwrap_or(now).min(now),
                last_seen_at: used.last_seen.unwrap_or(now).min(now),
                confidence: Confidence::Observed,
            };
            // A name that cannot stand in the graph is a blind spot, not a failure.
            if edge.misfit().is_none() && edge.from.to_string().parse::<Node>().is_ok() {
                self.edges.push(edge);
            }
        }
        let mut blind_spots = seen.blind_spots;
        blind_spots.push("between two looks".to_owned());
        self.coverage.push(Coverage {
            node: nhi,
            source: system.name().to_owned(),
            from: now,
            until: now,
            delay_s: 0,
            blind_spots,
            required: false,
        });
        Ok(())
    }
}
