//! What a push would write: the resource as it is to be, the records of everybody concerned, and the facts between. Reads
//! and decides; locks and writes nothing.

use std::collections::{BTreeMap, BTreeSet};

use engine::core::Timestamp;
use engine::core::id::Actor;
use engine::store::StoreError;
use serde_json::{Map, Value, json};

use super::{Action, Push, PushError};
use crate::directory::resources::{self, Membership, ResourceRow, Wanted, name_key};
use crate::intake::Intake;
use crate::intake::guard::pair;
use crate::policy::guard::Pair;
use crate::scim::{Kind, MEMBERS_MAX, Refusal, apply, etag_matches};
use crate::sources::pushed::{Named, Pushed as Person};
use crate::sources::{Change, ChangeKind, Key, Record, Source, Told, differ_pushed};

/// The largest resource, in bytes of JSON.
pub const RESOURCE_BYTES_MAX: usize = 256 * 1024;
/// The longest name or external identifier, in bytes: what an index takes.
pub const RESOURCE_NAME_BYTES_MAX: usize = 1024;

pub(super) enum Planned {
    /// It is so already.
    Nothing(Box<ResourceRow>),
    Write(Box<Plan>),
}

/// Everything that one transaction writes.
pub(super) struct Plan {
    /// What was read and must not have changed.
    pub locks: Vec<ResourceRow>,
    pub write: Step,
    /// Other resources whose look changes with it.
    pub others: Vec<ResourceRow>,
    pub added: Vec<String>,
    pub removed: Vec<String>,
    pub people: Vec<Concerned>,
}

pub(super) enum Step {
    Insert(ResourceRow),
    Update(ResourceRow),
    Delete(ResourceRow),
}

/// A person about whom something new is said.
pub(super) struct Concerned {
    pub key: String,
    /// The record stays as it is: it says the same, or there is none and nothing begins.
    pub stays: bool,
    /// `None` when the source has the person no more.
    pub record: Option<Record>,
    pub changes: Vec<Change>,
    /// What policy sees of the person, before and after.
    pub pair: Pair,
}

impl Concerned {
    pub fn is_removal(&self) -> bool {
        self.changes
            .iter()
            .any(|change| change.kind == ChangeKind::Remove)
    }
}

impl Plan {
    pub fn resource(&self) -> Option<ResourceRow> {
        match &self.write {
            Step::Insert(row) | Step::Update(row) => Some(row.clone()),
            Step::Delete(_) => None,
        }
    }
}

impl Intake {
    pub(super) async fn plan(&self, push: &Push<'_>, now: Timestamp) -> Result<Planned, PushError> {
        let source = push.source.name();
        let current = match push.action {
            Action::Create(_) => None,
            _ => {
                let wanted = Wanted::Id(push.id.to_owned());
                let found = self.directory.resource(source, push.kind, &wanted).await?;
                Some(found.ok_or_else(|| Refusal::not_found(push.id))?)
            }
        };
        if let (Some(current), Some(wanted)) = (&current, push.if_match)
            && !etag_matches(wanted, current.version)
        {
            return Err(Refusal::changed().into());
        }
        let members = match (&current, push.kind) {
            (Some(_), Kind::Group) => self.directory.members_of(source, push.id).await?,
            _ => Vec::new(),
        };
        let Some(mut body) = changed(push, current.as_ref(), &members)? else {
            let current = current.ok_or_else(|| Refusal::not_found(push.id))?;
            return self.without(push, current, &members, now).await;
        };
        let wanted_members = taken_members(push.kind, &mut body)?;
        check_size(&body)?;
        let row = self.row(push, current.as_ref(), body, now);
        let before: BTreeSet<&str> = members.iter().map(|it| it.member_id.as_str()).collect();
        let same_members = push.kind != Kind::Group
            || before == wanted_members.iter().map(String::as_str).collect();
        if let Some(current) = &current
            && current.body == row.body
            && same_members
            && !matches!(push.action, Action::Refresh)
        {
            return Ok(Planned::Nothing(Box::new(current.clone())));
        }
        self.check_name(push, &row).await?;
        let plan = match push.kind {
            Kind::Group => {
                self.plan_group(push, current, row, &members, &wanted_members, now)
                    .await?
            }
            Kind::User | Kind::Person => self.plan_person(push, current, row, now).await?,
        };
        Ok(Planned::Write(Box::new(plan)))
    }

    /// The row to be written; of a person not yet with the key.
    fn row(
        &self,
        push: &Push<'_>,
        current: Option<&ResourceRow>,
        body: Map<String, Value>,
        now: Timestamp,
    ) -> ResourceRow {
        let text = |name: &str| body.get(name).and_then(Value::as_str).map(str::to_owned);
        let name = text(naming(push.kind)).unwrap_or_default();
        let is_refresh = matches!(push.action, Action::Refresh);
        ResourceRow {
            shard_id: self.directory.shard(push.source.name()),
            source: push.source.name().to_owned(),
            kind: push.kind.name().to_owned(),
            resource_id: push.id.to_owned(),
            name_key: name_key(&name),
            external_id: text("externalId"),
            record_key: current.and_then(|row| row.record_key.clone()),
            body,
            version: current.map_or(1, |row| row.version.saturating_add(1)),
            created_at: current.map_or(now, |row| row.created_at),
            modified_at: match current {
                Some(current) if is_refresh => current.modified_at,
                _ => now,
            },
            modified_by: push.by.0.clone(),
        }
    }

    async fn check_name(&self, push: &Push<'_>, row: &ResourceRow) -> Result<(), PushError> {
        for (name, value) in [
            (naming(push.kind), Some(&row.name_key)),
            ("externalId", row.external_id.as_ref()),
        ] {
            if value.is_some_and(|value| value.len() > RESOURCE_NAME_BYTES_MAX) {
                return Err(Refusal::invalid_value(&format!(
                    "`{name}` is longer than {RESOURCE_NAME_BYTES_MAX} bytes"
                ))
                .into());
            }
        }
        let wanted = Wanted::Name(row.name_key.clone());
        let found = self
            .directory
            .resource(push.source.name(), push.kind, &wanted)
            .await?;
        match found {
            Some(other) if other.resource_id != row.resource_id => {
                Err(Refusal::uniqueness(&format!(
                    "another of the {} has this `{}`: `{}`",
                    push.kind.endpoint(),
                    naming(push.kind),
                    other.resource_id
                ))
                .into())
            }
            _ => Ok(()),
        }
    }

    async fn plan_person(
        &self,
        push: &Push<'_>,
        current: Option<ResourceRow>,
        mut row: ResourceRow,
        now: Timestamp,
    ) -> Result<Plan, PushError> {
        let source = push.source.name();
        let groups = match &current {
            Some(_) => self.directory.groups_of(source, &[push.id]).await?,
            None => BTreeMap::new(),
        };
        let none = Vec::new();
        let whole = row.whole(push.kind, groups.get(push.id).unwrap_or(&none), None);
        let person = read_person(push.source, &whole)?;
        let key = person.key.as_str().to_owned();
        if let Some(known) = &row.record_key
            && *known != key
        {
            return Err(Refusal::mutability(&format!(
                "this would make another person of it: the key `{known}` would become `{key}`; \
                 delete the user and create the other, or let the source take its key from what never changes, as `id`"
            ))
            .into());
        }
        let wanted = Wanted::Record(key.clone());
        let other = self.directory.resource(source, push.kind, &wanted).await?;
        if let Some(other) = other.filter(|other| other.resource_id != row.resource_id) {
            return Err(Refusal::uniqueness(&format!(
                "`{}` is this person already: both have the key `{key}`",
                other.resource_id
            ))
            .into());
        }
        row.record_key = Some(key.clone());
        let records = self
            .records(push.source, vec![(push.id.to_owned(), person)], Some(&row))
            .await?;
        let people = self.people(push.source, records, now).await?;
        Ok(Plan {
            locks: current.iter().cloned().collect(),
            write: match current {
                Some(_) => Step::Update(row),
                None => Step::Insert(row),
            },
            others: Vec::new(),
            added: Vec::new(),
            removed: Vec::new(),
            people,
        })
    }

    async fn plan_group(
        &self,
        push: &Push<'_>,
        current: Option<ResourceRow>,
        row: ResourceRow,
        members: &[Membership],
        wanted: &BTreeSet<String>,
        now: Timestamp,
    ) -> Result<Plan, PushError> {
        let before: BTreeSet<&str> = members.iter().map(|it| it.member_id.as_str()).collect();
        let after: BTreeSet<&str> = wanted.iter().map(String::as_str).collect();
        let added: Vec<&str> = after.difference(&before).copied().collect();
        let removed: Vec<&str> = before.difference(&after).copied().collect();
        let renamed = current
            .as_ref()
            .is_some_and(|current| current.body.get("displayName") != row.body.get("displayName"));
        // A new name shows on every member; else only who comes and goes is concerned.
        let concerned: Vec<&str> = if renamed {
            before.union(&after).copied().collect()
        } else {
            before.symmetric_difference(&after).copied().collect()
        };
        let users = self
            .directory
            .users_by_id(push.source.name(), &concerned)
            .await?;
        let known: BTreeSet<&str> = users.iter().map(|user| user.resource_id.as_str()).collect();
        if let Some(unknown) = added.iter().find(|id| !known.contains(*id)) {
            return Err(Refusal::invalid_value(&format!(
                "there is no user `{unknown}` who could be a member"
            ))
            .into());
        }
        let display = row.body.get("displayName").and_then(Value::as_str);
        let after = after
            .into_iter()
            .map(|member| Membership {
                group_id: row.resource_id.clone(),
                member_id: member.to_owned(),
                display: display.unwrap_or_default().to_owned(),
            })
            .collect();
        let people = self.regrouped(push, &users, after, now).await?;
        Ok(Plan {
            locks: current.iter().chain(&users).cloned().collect(),
            write: match current {
                Some(_) => Step::Update(row),
                None => Step::Insert(row),
            },
            others: touched(users, push.by, now),
            added: added.into_iter().map(str::to_owned).collect(),
            removed: removed.into_iter().map(str::to_owned).collect(),
            people,
        })
    }

    /// The plan of a deletion.
    async fn without(
        &self,
        push: &Push<'_>,
        current: ResourceRow,
        members: &[Membership],
        now: Timestamp,
    ) -> Result<Planned, PushError> {
        let source = push.source.name();
        let (others, people) = match push.kind {
            Kind::Group => {
                let ids: Vec<&str> = members.iter().map(|it| it.member_id.as_str()).collect();
                let users = self.directory.users_by_id(source, &ids).await?;
                let people = self.regrouped(push, &users, Vec::new(), now).await?;
                (users, people)
            }
            Kind::User | Kind::Person => {
                let key = current.record_key.clone().unwrap_or_default();
                let people = self.people(push.source, vec![(key, None)], now).await?;
                (self.groups_with(source, push.id).await?, people)
            }
        };
        Ok(Planned::Write(Box::new(Plan {
            locks: others
                .iter()
                .chain(std::iter::once(&current))
                .cloned()
                .collect(),
            write: Step::Delete(current),
            others: touched(others, push.by, now),
            added: Vec::new(),
            removed: Vec::new(),
            people,
        })))
    }

    /// The groups that somebody is in.
    async fn groups_with(&self, source: &str, id: &str) -> Result<Vec<ResourceRow>, StoreError> {
        let wanted = Wanted::Member(id.to_owned());
        let mut found: Vec<ResourceRow> = Vec::new();
        loop {
            let after = found.last().map(|row| row.resource_id.clone());
            let page = self
                .directory
                .resources(
                    source,
                    Kind::Group,
                    &wanted,
                    after.as_deref().unwrap_or_default(),
                    0,
                    resources::RESOURCES_READ_MAX,
                )
                .await?;
            let last = page.len() < resources::RESOURCES_READ_MAX as usize;
            found.extend(page);
            if last {
                return Ok(found);
            }
        }
    }

    /// What follows for `users` when the memberships of the group that is changed become `after`.
    async fn regrouped(
        &self,
        push: &Push<'_>,
        users: &[ResourceRow],
        after: Vec<Membership>,
        now: Timestamp,
    ) -> Result<Vec<Concerned>, PushError> {
        if users.is_empty() || !push.source.reads_groups() {
            return Ok(Vec::new());
        }
        let ids: Vec<&str> = users.iter().map(|user| user.resource_id.as_str()).collect();
        let mut groups = self.directory.groups_of(push.source.name(), &ids).await?;
        let mut now_in: BTreeMap<String, Membership> = after
            .into_iter()
            .map(|membership| (membership.member_id.clone(), membership))
            .collect();
        let mut people = Vec::with_capacity(users.len());
        for user in users {
            let mut of_user = groups.remove(&user.resource_id).unwrap_or_default();
            of_user.retain(|membership| membership.group_id != push.id);
            of_user.extend(now_in.remove(&user.resource_id));
            let whole = user.whole(Kind::Person, &of_user, None);
            people.push((user.resource_id.clone(), read_person(push.source, &whole)?));
        }
        let records = self.records(push.source, people, None).await?;
        Ok(self.people(push.source, records, now).await?)
    }

    /// The records of people, with their managers looked up. `own` is not stored yet.
    async fn records(
        &self,
        source: &Source,
        people: Vec<(String, Person)>,
        own: Option<&ResourceRow>,
    ) -> Result<Vec<(String, Option<Record>)>, StoreError> {
        let mut ids: BTreeSet<&str> = BTreeSet::new();
        for (_, person) in &people {
            if let Some(Named::Id(id)) = &person.manager {
                ids.insert(id);
            }
        }
        let ids: Vec<&str> = ids.into_iter().collect();
        let managers: BTreeMap<String, String> = self
            .directory
            .users_by_id(source.name(), &ids)
            .await?
            .iter()
            .chain(own)
            .filter_map(|user| Some((user.resource_id.clone(), user.record_key.clone()?)))
            .collect();
        let mut records = Vec::with_capacity(people.len());
        for (_, person) in people {
            let wanted = match &person.manager {
                Some(Named::UserName(name)) => Some(Wanted::Name(name_key(name))),
                Some(Named::ExternalId(id)) => Some(Wanted::ExternalId(id.clone())),
                _ => None,
            };
            let found = match (&person.manager, wanted) {
                (Some(Named::Id(id)), _) => managers.get(id).cloned(),
                (_, Some(wanted)) => self
                    .directory
                    .resource(source.name(), Kind::Person, &wanted)
                    .await?
                    .and_then(|manager| manager.record_key),
                _ => None,
            };
            let key = person.key.as_str().to_owned();
            records.push((key, Some(person.record(found.as_deref()))));
        }
        Ok(records)
    }

    /// The facts that lie between what the source said of people before and what it says now.
    async fn people(
        &self,
        source: &Source,
        records: Vec<(String, Option<Record>)>,
        now: Timestamp,
    ) -> Result<Vec<Concerned>, StoreError> {
        let keys: Vec<&str> = records.iter().map(|(key, _)| key.as_str()).collect();
        let mut before = self.directory.records_of(source.name(), &keys).await?;
        let said = self.directory.said_of(source.name(), &keys).await?;
        let leavers = self.leavers();
        let mut people = Vec::with_capacity(records.len());
        for (key, next) in records {
            let row = before.remove(&key);
            let gone = row.as_ref().is_some_and(|row| row.status == "gone");
            let before = row.filter(|_| !gone).map(|row| Record {
                key: Key::new(row.record_key),
                attributes: row.attributes,
                digest: row.digest,
            });
            let told = Told {
                before,
                next,
                gone,
                said: said.get(&key).copied().unwrap_or(i64::MIN),
            };
            let changes = differ_pushed(source, &leavers, &told, now);
            let digest = |record: &Option<Record>| record.as_ref().map(|it| it.digest.clone());
            let same = digest(&told.before) == digest(&told.next);
            let day = now.with_timezone(&source.zone()).date_naive();
            let after = told.next.as_ref();
            let leaves = changes
                .iter()
                .any(|change| change.kind == ChangeKind::Remove);
            people.push(Concerned {
                pair: pair(told.before.as_ref(), after.filter(|_| !leaves), day),
                key,
                // Somebody who is pushed as inactive and was never known begins when they become active.
                stays: same || told.before.is_none() && changes.is_empty(),
                record: told.next,
                changes,
            });
        }
        Ok(people)
    }
}

/// The attribute that names a resource, and is unique.
fn naming(kind: Kind) -> &'static str {
    match kind {
        Kind::User | Kind::Person => "userName",
        Kind::Group => "displayName",
    }
}

/// The resource as it is to be, members among its attributes; `None` when it is to be deleted.
fn changed(
    push: &Push<'_>,
    current: Option<&ResourceRow>,
    members: &[Membership],
) -> Result<Option<Map<String, Value>>, Refusal> {
    let with_members = |row: &ResourceRow| {
        let mut body = row.body.clone();
        if push.kind == Kind::Group {
            let members = members.iter().map(|it| json!({ "value": it.member_id }));
            body.insert("members".to_owned(), Value::Array(members.collect()));
        }
        body
    };
    let mut body = match (&push.action, current) {
        (Action::Delete, _) => return Ok(None),
        (Action::Create(body), _) => {
            let mut body = body.clone();
            if push.kind != Kind::Group {
                body.entry("active").or_insert(Value::Bool(true));
            }
            body
        }
        (Action::Replace(body), current) => {
            let mut body = body.clone();
            // What the body does not say is cleared, but nobody is let in or out by silence.
            if let Some(active) = current.and_then(|row| row.body.get("active")) {
                body.entry("active").or_insert(active.clone());
            }
            body
        }
        (Action::Patch(request), Some(current)) => {
            apply(push.kind, &with_members(current), request)?
        }
        (Action::Refresh, Some(current)) => with_members(current),
        (Action::Patch(_) | Action::Refresh, None) => return Err(Refusal::not_found(push.id)),
    };
    // Nothing here asks for a password, so none is kept.
    body.remove("password");
    Ok(Some(body))
}

/// Takes the members of a group out of its body.
fn taken_members(kind: Kind, body: &mut Map<String, Value>) -> Result<BTreeSet<String>, Refusal> {
    if kind != Kind::Group {
        return Ok(BTreeSet::new());
    }
    let members = body.remove("members");
    let mut wanted = BTreeSet::new();
    for member in members.iter().filter_map(Value::as_array).flatten() {
        let id = member.get("value").and_then(Value::as_str);
        let id = id.ok_or_else(|| Refusal::invalid_value("a member has no `value`"))?;
        wanted.insert(id.to_owned());
    }
    if wanted.len() > MEMBERS_MAX {
        return Err(Refusal::invalid_value(&format!(
            "the group would have {} members; at most {MEMBERS_MAX} are taken",
            wanted.len()
        )));
    }
    Ok(wanted)
}

fn check_size(body: &Map<String, Value>) -> Result<(), Refusal> {
    let bytes = serde_json::to_vec(body).map_or(usize::MAX, |bytes| bytes.len());
    if bytes > RESOURCE_BYTES_MAX {
        return Err(Refusal::invalid_value(&format!(
            "the resource would have {bytes} bytes; at most {RESOURCE_BYTES_MAX} are kept"
        )));
    }
    Ok(())
}

fn read_person(source: &Source, whole: &Map<String, Value>) -> Result<Person, Refusal> {
    Person::read(source, whole).map_err(|complaints| {
        Refusal::invalid_value(&format!(
            "source `{}` cannot read this user: {}",
            source.name(),
            complaints.join("; ")
        ))
    })
}

/// The same resources, a version later.
fn touched(mut rows: Vec<ResourceRow>, by: &Actor, now: Timestamp) -> Vec<ResourceRow> {
    for row in &mut rows {
        row.version = row.version.saturating_add(1);
        row.modified_at = now;
        row.modified_by.clone_from(&by.0);
    }
    rows
}
