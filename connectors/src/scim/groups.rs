//! Entitlements are groups, and membership is asked about without downloading groups where that can be avoided.
//!
//! `displayName eq "N" and members.value eq "U"` answers in one small request whether user U is in group N. It is
//! also a question that servers get wrong: some ignore the second half (everybody seems a member), some cannot
//! look into `members` (nobody seems one, and a revocation looks proven that never happened). So the filter is
//! believed only after it has been tried once in this process on a member known from reading a group, and on
//! somebody who does not exist. A server that fails the trial, or refuses the filter, is asked for whole groups.
//!
//! SCIM does not make `displayName` unique. A grant refuses to choose between two groups of the same name; a
//! revocation leaves none of them.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Scim;
use super::attributes::{member, quoted};
use super::failure::Failure;
use super::http::Request;
use super::listing::{ListResponse, id_of};
use crate::connector::{
    Entitlement, EntitlementName, Error, ErrorKind, NativeId, Outcome, Receipt,
};

pub(super) const PATCH_SCHEMA: &str = "urn:ietf:params:scim:api:messages:2.0:PatchOp";
/// How long a group's id may be used after it was seen under its name.
const ID_SEEN_MS_MAX: u64 = 60_000;
/// How many ids are remembered. A policy names dozens of groups, not thousands.
const IDS_MAX: usize = 10_000;
/// How many groups with all their members one page asks for: they can be large.
const WHOLE_GROUPS_PAGE: u32 = 20;
/// Somebody who is in no group.
const NOBODY: &str = "tenure-nobody-00000000-0000-4000-8000-000000000000";

#[derive(Default)]
pub(super) struct Groups {
    ids: Mutex<HashMap<String, (String, Instant)>>,
    /// Whether the membership filter passed its trial. Unset until it could be tried.
    filter_works: OnceLock<bool>,
}

/// How a question about memberships can be answered.
enum Means {
    Filter,
    WholeGroups,
    /// No group of this server has any member.
    NobodyIsAMember,
}

/// What a look for any member of any group found.
enum Sample {
    Member {
        id: String,
        name: String,
        user: String,
    },
    Nobody,
    /// No member was seen, but neither were all groups.
    Unclear,
}

impl Groups {
    fn id(&self, name: &str) -> Option<String> {
        let ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        let (id, seen) = ids.get(name)?;
        (seen.elapsed() < Duration::from_millis(ID_SEEN_MS_MAX)).then(|| id.clone())
    }

    fn saw(&self, name: &str, id: &str) {
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        if ids.len() >= IDS_MAX {
            ids.clear();
        }
        ids.insert(name.to_owned(), (id.to_owned(), Instant::now()));
    }

    #[cfg(test)]
    pub(super) fn filter_works_for_tests(&self) -> Option<bool> {
        self.filter_works.get().copied()
    }

    fn forget(&self, name: &str) {
        self.ids
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(name);
    }
}

impl Scim {
    /// The groups of exactly this name.
    async fn groups_named(&self, name: &EntitlementName) -> Result<Vec<String>, Error> {
        let filter = format!("displayName eq {}", quoted(name.as_str()));
        let found = match self
            .search("Groups", &filter, ("excludedAttributes", "members"))
            .await
        {
            Ok(found) => found,
            Err(failure) if failure.is_unsupported_question() => {
                self.every_group("excludedAttributes", self.page_size())
                    .await?
            }
            Err(failure) => return Err(failure.of_read()),
        };
        // `displayName` compares without case on most servers; a policy's name is exact.
        let ids: Vec<String> = found
            .iter()
            .filter(|group| is_named(group, name))
            .filter_map(id_of)
            .map(str::to_owned)
            .collect();
        if let [only] = ids.as_slice() {
            self.groups.saw(name.as_str(), only);
        } else {
            self.groups.forget(name.as_str());
        }
        Ok(ids)
    }

    /// The one group of this name; `None` when there is none.
    async fn group_named(&self, name: &EntitlementName) -> Result<Option<String>, Error> {
        let mut ids = self.groups_named(name).await?;
        match ids.len() {
            0 | 1 => Ok(ids.pop()),
            many => Err(self.http.error(
                ErrorKind::Conflict,
                format!("{many} groups have the display name `{name}`; rename all but one"),
            )),
        }
    }

    pub(super) async fn entitlement(
        &self,
        name: &EntitlementName,
    ) -> Result<Option<Entitlement>, Error> {
        let id = self.group_named(name).await?;
        Ok(id.map(|id| Entitlement {
            id: NativeId::new(id),
            name: name.clone(),
        }))
    }

    /// The ids of the groups named `name` that `account` is in. Empty is a fact, not a guess.
    pub(super) async fn memberships(
        &self,
        account: &NativeId,
        name: &EntitlementName,
    ) -> Result<Vec<String>, Error> {
        match self.means().await? {
            Means::NobodyIsAMember => Ok(Vec::new()),
            Means::Filter => {
                let filter = in_group(name.as_str(), account.as_str());
                let found = self
                    .search("Groups", &filter, ("excludedAttributes", "members"))
                    .await
                    .map_err(Failure::of_read)?;
                let ids = found
                    .iter()
                    .filter(|group| is_named(group, name))
                    .filter_map(id_of);
                Ok(ids.map(str::to_owned).collect())
            }
            Means::WholeGroups => {
                let mut held = Vec::new();
                for id in self.groups_named(name).await? {
                    if self.reads_member(&id, account.as_str()).await? {
                        held.push(id);
                    }
                }
                Ok(held)
            }
        }
    }

    /// The names of all groups that `user` is in.
    pub(super) async fn held_by(&self, user: &Value) -> Result<BTreeSet<EntitlementName>, Error> {
        if let Some(names) = names_in_user(user) {
            return Ok(names);
        }
        let Some(id) = id_of(user) else {
            return Ok(BTreeSet::new());
        };
        let groups = match self.means().await? {
            Means::NobodyIsAMember => Vec::new(),
            Means::Filter => self
                .search(
                    "Groups",
                    &format!("members.value eq {}", quoted(id)),
                    ("excludedAttributes", "members"),
                )
                .await
                .map_err(Failure::of_read)?,
            Means::WholeGroups => {
                let mut groups = self.every_group("attributes", WHOLE_GROUPS_PAGE).await?;
                groups.retain(|group| has_member(group, id));
                groups
            }
        };
        Ok(groups
            .iter()
            .filter_map(name_of)
            .map(EntitlementName::new)
            .collect())
    }

    async fn means(&self) -> Result<Means, Error> {
        if let Some(works) = self.groups.filter_works.get() {
            return Ok(if *works {
                Means::Filter
            } else {
                Means::WholeGroups
            });
        }
        let (id, name, user) = match self.any_member().await? {
            Sample::Member { id, name, user } => (id, name, user),
            Sample::Nobody => return Ok(Means::NobodyIsAMember),
            Sample::Unclear => return Ok(Means::WholeGroups),
        };
        let works = self.filter_sees(&name, &user, &id).await?
            && !self.filter_sees(&name, NOBODY, &id).await?;
        // A member who left between the two reads must not condemn the filter.
        if works || self.reads_member(&id, &user).await? {
            let _ = self.groups.filter_works.set(works);
            if !works {
                tracing::warn!(
                    system = self.http.system(),
                    "the server cannot filter groups by member; whole groups are read instead"
                );
            }
        }
        Ok(if works {
            Means::Filter
        } else {
            Means::WholeGroups
        })
    }

    async fn any_member(&self) -> Result<Sample, Error> {
        let known = |group: &Value| {
            let user = members(group)
                .find_map(|it| member(it, "value")?.as_str())?
                .to_owned();
            Some(Sample::Member {
                id: id_of(group)?.to_owned(),
                name: name_of(group)?.to_owned(),
                user,
            })
        };
        let mut progress = super::listing::Progress::default();
        loop {
            let judged = self
                .page(
                    "Groups",
                    progress,
                    WHOLE_GROUPS_PAGE,
                    Some(("attributes", "displayName,members")),
                )
                .await?;
            if let Some(found) = judged.fresh.iter().find_map(known) {
                return Ok(found);
            }
            match judged.next {
                Some(next) => progress = next,
                None if judged.complete => return Ok(Sample::Nobody),
                None => return Ok(Sample::Unclear),
            }
        }
    }

    /// Whether the filter shows `user` in the group. A refused filter shows nothing.
    async fn filter_sees(&self, name: &str, user: &str, id: &str) -> Result<bool, Error> {
        match self
            .search(
                "Groups",
                &in_group(name, user),
                ("excludedAttributes", "members"),
            )
            .await
        {
            Ok(found) => Ok(found.iter().any(|group| id_of(group) == Some(id))),
            Err(failure) if failure.is_unsupported_question() => Ok(false),
            Err(failure) => Err(failure.of_read()),
        }
    }

    /// Whether the group, read whole, lists `user`. A group that is gone has no members.
    async fn reads_member(&self, id: &str, user: &str) -> Result<bool, Error> {
        // Asked for by name, `members` must come if there are any (RFC 7644, 3.9).
        let group = self
            .read_resource("Groups", id, &[("attributes", "displayName,members")])
            .await?;
        Ok(group.is_some_and(|answer| has_member(&answer.body, user)))
    }

    async fn every_group(&self, how: &str, page_size: u32) -> Result<Vec<Value>, Error> {
        let wanted = if how == "attributes" {
            "displayName,members"
        } else {
            "members"
        };
        let mut all = Vec::new();
        let mut progress = super::listing::Progress::default();
        loop {
            let judged = self
                .page("Groups", progress, page_size, Some((how, wanted)))
                .await?;
            all.extend(judged.fresh);
            match judged.next {
                Some(next) => progress = next,
                None if judged.complete => return Ok(all),
                None => {
                    return Err(self.http.error(
                        ErrorKind::Transient,
                        "the groups changed while they were listed, or the server does not list them all",
                    ));
                }
            }
        }
    }

    pub(super) async fn grant(
        &self,
        account: &NativeId,
        name: &EntitlementName,
    ) -> Result<Outcome, Error> {
        // A server need not check that a member exists; a grant to nobody would lie in wait for a reused id.
        let (user, held) = tokio::try_join!(self.user(account), self.memberships(account, name))?;
        if user.is_none() {
            return Err(self.no_account(account));
        }
        if !held.is_empty() {
            return Ok(Outcome::AlreadySo(membership_receipt(
                account, name, true, true,
            )));
        }
        let add = json!({
            "schemas": [PATCH_SCHEMA],
            "Operations": [{ "op": "add", "path": "members", "value": [{ "value": account.as_str() }] }],
        });
        let id = match self.groups.id(name.as_str()) {
            Some(id) => id,
            None => self.group_to_grant(name).await?,
        };
        let mut failure = match self.patch_group(&id, &add).await {
            Ok(request_id) => return Ok(done(account, name, true, request_id)),
            Err(failure) => failure,
        };
        if failure.status() == Some(404) {
            // The id was remembered from a moment ago; the group may have been made anew.
            self.groups.forget(name.as_str());
            let fresh = self.group_to_grant(name).await?;
            if fresh != id {
                match self.patch_group(&fresh, &add).await {
                    Ok(request_id) => return Ok(done(account, name, true, request_id)),
                    Err(second) => failure = second,
                }
            }
        }
        // Some servers refuse to add a member twice: somebody else was faster.
        if failure.is_taken() && !self.memberships(account, name).await?.is_empty() {
            return Ok(Outcome::AlreadySo(membership_receipt(
                account, name, true, true,
            )));
        }
        failure.of_change()
    }

    async fn group_to_grant(&self, name: &EntitlementName) -> Result<String, Error> {
        self.group_named(name).await?.ok_or_else(|| {
            self.http.error(
                ErrorKind::NotFound,
                format!(
                    "no group has the display name `{}`; make it in the application first",
                    name.as_str().escape_debug()
                ),
            )
        })
    }

    pub(super) async fn revoke(
        &self,
        account: &NativeId,
        name: &EntitlementName,
    ) -> Result<Outcome, Error> {
        let (user, held) = tokio::try_join!(self.user(account), self.memberships(account, name))?;
        if held.is_empty() {
            return match user {
                Some(_) => Ok(Outcome::AlreadySo(membership_receipt(
                    account, name, false, false,
                ))),
                None => Err(self.no_account(account)),
            };
        }
        let remove = json!({
            "schemas": [PATCH_SCHEMA],
            "Operations": [{ "op": "remove", "path": format!("members[value eq {}]", quoted(account.as_str())) }],
        });
        let mut request_id = None;
        for (index, id) in held.iter().enumerate() {
            match self.patch_group(id, &remove).await {
                Ok(id) => request_id = id,
                // The group went away, and the membership with it.
                Err(failure) if failure.status() == Some(404) => {}
                Err(failure) if index == 0 => return failure.of_change(),
                Err(failure) => {
                    return Ok(Outcome::Ambiguous {
                        reason: format!(
                            "removed from {index} of {} groups named `{name}`: {}",
                            held.len(),
                            failure.of_read().whole()
                        ),
                    });
                }
            }
        }
        Ok(done(account, name, false, request_id))
    }

    /// Changes a group's members. No `If-Match`: adding and removing one member commute with what others do, and
    /// a popular group changes all the time.
    async fn patch_group(&self, id: &str, patch: &Value) -> Result<Option<String>, Failure> {
        let path = ["Groups", id];
        let request = Request {
            body: Some(patch),
            ..Request::new(Method::PATCH, &path)
        };
        self.http
            .send(request)
            .await
            .map(|answer| answer.request_id)
    }

    /// One search whose few results are wanted whole.
    pub(super) async fn search(
        &self,
        kind: &str,
        filter: &str,
        shape: (&str, &str),
    ) -> Result<Vec<Value>, Failure> {
        let count = self.page_size().to_string();
        let mut found: Vec<Value> = Vec::new();
        for _ in 0..SEARCH_PAGES_MAX {
            let start = found.len().saturating_add(1).to_string();
            let query = [
                ("filter", filter),
                ("startIndex", &start),
                ("count", &count),
                shape,
            ];
            let path = [kind];
            let request = Request {
                query: &query,
                ..Request::new(Method::GET, &path)
            };
            let answer = self.http.send(request).await?;
            let list = ListResponse::read(&answer.body).map_err(|why| {
                Failure::Lost(self.http.error(
                    ErrorKind::Bug,
                    format!("GET /{kind}?filter answered with {why}"),
                ))
            })?;
            let (total, empty) = (list.total, list.resources.is_empty());
            found.extend(list.resources);
            if u64::try_from(found.len()).unwrap_or(u64::MAX) >= total {
                return Ok(found);
            }
            if empty {
                return Err(Failure::Lost(self.http.error(
                    ErrorKind::Bug,
                    format!(
                        "GET /{kind}?filter promised {total} results and gave {}",
                        found.len()
                    ),
                )));
            }
        }
        Err(Failure::Lost(self.http.error(
            ErrorKind::Bug,
            format!(
                "GET /{kind}?filter gave more than {} results; does the server filter at all?",
                found.len()
            ),
        )))
    }
}

/// How many pages a search for something unique or nearly so is followed.
const SEARCH_PAGES_MAX: usize = 100;

fn in_group(name: &str, user: &str) -> String {
    format!(
        "displayName eq {} and members.value eq {}",
        quoted(name),
        quoted(user)
    )
}

fn name_of(group: &Value) -> Option<&str> {
    member(group, "displayName").and_then(Value::as_str)
}

fn is_named(group: &Value, name: &EntitlementName) -> bool {
    name_of(group) == Some(name.as_str())
}

fn members(group: &Value) -> impl Iterator<Item = &Value> {
    member(group, "members")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

fn has_member(group: &Value, user: &str) -> bool {
    members(group).any(|it| member(it, "value").and_then(Value::as_str) == Some(user))
}

/// The user's own `groups`, when the server fills it in with names. Absent or empty says nothing: the
/// attribute is optional. Memberships through another group are that group's.
fn names_in_user(user: &Value) -> Option<BTreeSet<EntitlementName>> {
    let groups = member(user, "groups")?
        .as_array()
        .filter(|groups| !groups.is_empty())?;
    groups
        .iter()
        .filter(|group| member(group, "type").and_then(Value::as_str) != Some("indirect"))
        .map(|group| {
            member(group, "display")
                .and_then(Value::as_str)
                .map(EntitlementName::new)
        })
        .collect()
}

fn done(
    account: &NativeId,
    name: &EntitlementName,
    granted: bool,
    request_id: Option<String>,
) -> Outcome {
    Outcome::Done(Receipt {
        request_id,
        ..membership_receipt(account, name, !granted, granted)
    })
}

fn membership_receipt(
    account: &NativeId,
    name: &EntitlementName,
    before: bool,
    after: bool,
) -> Receipt {
    let state = |granted: bool| Some(json!({ "entitlement": name.as_str(), "granted": granted }));
    Receipt {
        account: Some(account.clone()),
        before: state(before),
        after: state(after),
        ..Receipt::default()
    }
}
