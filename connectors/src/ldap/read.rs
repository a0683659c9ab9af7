//! Finding accounts and groups. Absence is only reported when the place looked in was there to be seen.

use std::collections::BTreeSet;

use ldap3::Scope;
use uuid::Uuid;

use super::dn::{self, Dn};
use super::entry::{self, Entry};
use super::settings::Flavour;
use super::wire::Search;
use super::{Ldap, codes};
use crate::connector::{
    Account, Entitlement, EntitlementName, Error, ErrorKind, NativeId, Object, ObjectRef,
};

/// The most groups one account may be in before reading them is refused, not cut short.
const GROUPS_MAX: i32 = 5_000;
/// Enough to see that a key which should be unique is not.
const MATCHES_MAX: i32 = 2;
pub(super) const ANY: &str = "(objectClass=*)";
/// "No attributes", as RFC 4511 spells it.
pub(super) const NONE: &[&str] = &["1.1"];

impl Ldap {
    pub(super) async fn find(&self, object: &ObjectRef) -> Result<Option<Object>, Error> {
        let entry = match object {
            ObjectRef::Account(id) => self.by_id(id, &self.account_attributes()).await?,
            ObjectRef::AccountNamed(name) => self.by_name(name).await?,
            ObjectRef::AccountOwnedBy(owner) => {
                self.by_owner(owner, &self.account_attributes()).await?
            }
            ObjectRef::Entitlement(name) => {
                return Ok(self.group(name).await?.map(Object::Entitlement));
            }
        };
        match entry {
            Some(entry) => Ok(Some(Object::Account(self.account(&entry).await?))),
            None => Ok(None),
        }
    }

    /// The account with the groups it is in.
    pub(super) async fn account(&self, entry: &Entry) -> Result<Account, Error> {
        let mut account = entry.account(&self.settings)?;
        if account.entitlements.is_none() {
            account.entitlements = Some(self.groups_of(&entry.dn).await?);
        }
        self.known.remember(account.id.as_str(), &entry.dn);
        Ok(account)
    }

    /// Everything an [`Account`] shows. `*` leaves out what OpenLDAP calls operational.
    pub(super) fn account_attributes(&self) -> Vec<&'static str> {
        let mut attributes = vec![
            "*",
            self.settings.id_attribute(),
            self.settings.version_attribute(),
            entry::LOCKED_TIME,
        ];
        if self.settings.member_of {
            attributes.push("memberOf");
        }
        attributes
    }

    /// What operations need to know of an account before they change it.
    pub(super) fn state_attributes(&self) -> Vec<&str> {
        vec![
            self.settings.id_attribute(),
            &self.settings.name_attribute,
            &self.settings.owner_attribute,
            entry::LOCKED_TIME,
            entry::ACCOUNT_CONTROL,
        ]
    }

    /// The entry with this identifier, wherever in the tree it is now.
    pub(super) async fn by_id(
        &self,
        id: &NativeId,
        attributes: &[&str],
    ) -> Result<Option<Entry>, Error> {
        let id = self.identifier(id)?;
        let doing = format!("read account `{id}`");
        match self.settings.flavour {
            Flavour::Openldap => {
                let filter = dn::equals("entryUUID", &id);
                self.only(&self.settings.search_base, &filter, attributes, &doing)
                    .await
            }
            Flavour::ActiveDirectory => {
                let name = guid_name(&id);
                let found = self
                    .pool
                    .search(&Search::entry(&name, ANY, attributes))
                    .await?;
                if found.result.rc == codes::NO_SUCH_OBJECT {
                    return Ok(None);
                }
                Ok(found.success(&doing)?.into_iter().next())
            }
        }
    }

    /// What [`by_id`](Self::by_id) finds, or the error that says it is gone.
    pub(super) async fn existing(
        &self,
        id: &NativeId,
        attributes: &[&str],
    ) -> Result<Entry, Error> {
        self.by_id(id, attributes).await?.ok_or_else(|| missing(id))
    }

    /// An identifier of this system, in its one spelling.
    pub(super) fn identifier(&self, id: &NativeId) -> Result<String, Error> {
        match Uuid::try_parse(id.as_str()) {
            Ok(uuid) => Ok(uuid.hyphenated().to_string()),
            // Not "absent": whoever holds such an identifier took it from somewhere else.
            Err(_) => Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "`{id}` is no identifier of ldap system `{}`: they are `{}` values such as `c52b7aec-7b6d-1041-8a3f-4d4ad808a03c`",
                    self.settings.system,
                    self.settings.id_attribute()
                ),
            )),
        }
    }

    async fn by_name(&self, name: &str) -> Result<Option<Entry>, Error> {
        // No name has control characters; servers differ in whether they overlook them in a comparison.
        if name.trim().is_empty() || name.contains(char::is_control) {
            return Ok(None);
        }
        let settings = &self.settings;
        // A login name is unique in a whole domain there, and below the people base elsewhere.
        let base = match settings.flavour {
            Flavour::Openldap => &settings.people_base,
            Flavour::ActiveDirectory => &settings.search_base,
        };
        let doing = format!("look for an account named `{name}`");
        let filter = format!(
            "(&{}{})",
            settings.account_filter,
            dn::equals(&settings.name_attribute, name)
        );
        self.only(base, &filter, &self.account_attributes(), &doing)
            .await
    }

    pub(super) async fn by_owner(
        &self,
        owner: &str,
        attributes: &[&str],
    ) -> Result<Option<Entry>, Error> {
        if owner.trim().is_empty() || owner.contains(char::is_control) {
            return Ok(None);
        }
        let settings = &self.settings;
        let filter = format!(
            "(&{}{})",
            settings.account_filter,
            dn::equals(&settings.owner_attribute, owner)
        );
        let doing = format!("look for the account of owner `{owner}`");
        let found = self
            .only(&settings.search_base, &filter, attributes, &doing)
            .await?;
        // The server compares without case; `E1` and `e1` are two owners for us.
        Ok(found.filter(|entry| entry.text(&settings.owner_attribute).as_deref() == Some(owner)))
    }

    /// The one entry below `base` that `filter` holds for.
    async fn only(
        &self,
        base: &str,
        filter: &str,
        attributes: &[&str],
        doing: &str,
    ) -> Result<Option<Entry>, Error> {
        let found = self
            .pool
            .search(&Search {
                base,
                scope: Scope::Subtree,
                filter,
                attributes,
                entries_max: MATCHES_MAX,
                page: None,
            })
            .await?;
        match found.result.rc {
            codes::NO_SUCH_OBJECT => return Err(unreadable(base)),
            // More than we asked for is as many as we need to know.
            codes::SIZE_LIMIT_EXCEEDED if found.entries.len() > 1 => {}
            codes::SUCCESS => {}
            _ => return Err(codes::refused(doing, &found.result)),
        }
        let mut entries = found.entries.into_iter();
        match (entries.next(), entries.next()) {
            (None, _) => Ok(None),
            (Some(entry), None) => Ok(Some(entry)),
            (Some(one), Some(other)) => Err(Error::new(
                ErrorKind::Conflict,
                format!(
                    "cannot {doing}: at least `{}` and `{}` answer to it",
                    one.dn, other.dn
                ),
            )),
        }
    }

    /// The entry of this name if it exists, without a look around when it does not.
    pub(super) async fn at(&self, name: &str, attributes: &[&str]) -> Result<Option<Entry>, Error> {
        let found = self
            .pool
            .search(&Search::entry(name, ANY, attributes))
            .await?;
        if found.result.rc == codes::NO_SUCH_OBJECT {
            return Ok(None);
        }
        Ok(found.success(&format!("read `{name}`"))?.into_iter().next())
    }

    async fn group(&self, name: &EntitlementName) -> Result<Option<Entitlement>, Error> {
        let group = entry::group_dn(name, &self.settings)?;
        let filter = dn::equals("objectClass", &self.settings.group_class);
        let id = [self.settings.id_attribute()];
        let found = self
            .pool
            .search(&Search::entry(&group, &filter, &id))
            .await?;
        if found.result.rc == codes::NO_SUCH_OBJECT {
            self.ensure_absent(&group).await?;
            return Ok(None);
        }
        let entries = found.success(&format!("read group `{group}`"))?;
        let Some(entry) = entries.first() else {
            return Ok(None);
        };
        Ok(Some(Entitlement {
            id: entry.id(&self.settings)?,
            name: entry::group_name(&entry.dn, &self.settings),
        }))
    }

    /// "No such object" is what a server says of a missing entry, a misspelt base and a forbidden subtree.
    /// Only where the entry above can be read does it mean the first.
    pub(super) async fn ensure_absent(&self, name: &str) -> Result<(), Error> {
        let Some(parent) = Dn::parse(name).and_then(|parsed| parsed.parent()) else {
            return Err(unreadable(name));
        };
        let parent = parent.text();
        match self.at(&parent, NONE).await? {
            Some(_) => Ok(()),
            None => Err(unreadable(&parent)),
        }
    }

    /// The groups below the group base that name this member.
    pub(super) async fn groups_of(&self, member: &str) -> Result<BTreeSet<EntitlementName>, Error> {
        let groups = self.group_names_of(member).await?;
        Ok(groups
            .iter()
            .map(|group| entry::group_name(group, &self.settings))
            .collect())
    }

    pub(super) async fn group_names_of(&self, member: &str) -> Result<Vec<String>, Error> {
        let filter = format!(
            "(&{}{})",
            dn::equals("objectClass", &self.settings.group_class),
            dn::equals(&self.settings.member_attribute, member)
        );
        let found = self
            .pool
            .search(&Search {
                base: &self.settings.group_base,
                scope: Scope::Subtree,
                filter: &filter,
                attributes: NONE,
                entries_max: GROUPS_MAX,
                page: None,
            })
            .await?;
        if found.result.rc == codes::NO_SUCH_OBJECT {
            return Err(unreadable(&self.settings.group_base));
        }
        let entries = found.success(&format!("list the groups of `{member}`"))?;
        Ok(entries.into_iter().map(|entry| entry.dn).collect())
    }
}

/// How Active Directory takes an identifier wherever a DN may stand (MS-ADTS 3.1.1.3.1.2.4).
pub(super) fn guid_name(id: &str) -> String {
    format!("<GUID={id}>")
}

pub(super) fn missing(id: &NativeId) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no account `{id}`"))
}

pub(super) fn unreadable(base: &str) -> Error {
    Error::new(
        ErrorKind::Invalid,
        format!(
            "`{base}` does not exist or may not be read, so nothing can be said of what is below it; \
             correct the base in the settings or let the account of `bind_dn` read it"
        ),
    )
}
