//! Who answers for a group: its `owner` on OpenLDAP, `managedBy` on Active Directory.

use ldap3::Scope;
use serde_json::json;

use super::account::done;
use super::dn::{self, Dn};
use super::entry::{self, Entry};
use super::wire::{Answer, Change, Search, Write};
use super::{Ldap, codes};
use crate::connector::{Error, ErrorKind, NativeId, Observation, Outcome, Receipt, Verdict};
use crate::ldap::settings::Flavour;

/// The most groups one account may own before handing them over is refused, not done in part.
const OWNED_MAX: i32 = 5_000;

impl Ldap {
    /// Makes `to` the owner of every group that `from` owns. Each group is one change; what is done when one fails
    /// stays done, and the outcome says that it has to be looked at.
    pub(super) async fn transfer(&self, from: &NativeId, to: &NativeId) -> Result<Outcome, Error> {
        let id = [self.settings.id_attribute()];
        let (from_entry, to_entry) = (
            self.existing(from, &id).await?,
            self.existing(to, &id).await?,
        );
        let groups = self.owned_by(&from_entry.dn).await?;
        let names: Vec<_> = groups
            .iter()
            .map(|group| entry::group_name(&group.dn, &self.settings))
            .collect();
        let mut receipt = Receipt {
            account: Some(from.clone()),
            before: Some(json!({"owned": names, "by": from})),
            after: Some(json!({"owned": names, "by": to})),
            ..Receipt::default()
        };
        if groups.is_empty() || from_entry.dn == to_entry.dn {
            return Ok(Outcome::AlreadySo(receipt));
        }
        for (moved, group) in groups.iter().enumerate() {
            let changes = self.owner_change(group, &from_entry.dn, &to_entry.dn);
            let modify = Write::Modify {
                dn: &group.dn,
                changes: &changes,
                only_if: None,
            };
            let doing = format!("make `{to}` the owner of `{}`", group.dn);
            let failed = match self.pool.write(&modify).await {
                Ok(Answer::Lost(reason)) => return Ok(Outcome::Ambiguous { reason }),
                Ok(Answer::Answered(reply)) => match done(&doing, &reply) {
                    Ok(()) => {
                        receipt.request_id = reply.version.or(receipt.request_id);
                        continue;
                    }
                    Err(error) => error,
                },
                Err(error) => error,
            };
            if moved == 0 {
                return Err(failed);
            }
            return Ok(Outcome::Ambiguous {
                reason: format!(
                    "{moved} of {} groups have their new owner; then: {}",
                    groups.len(),
                    failed.message
                ),
            });
        }
        Ok(Outcome::Done(receipt))
    }

    /// The owner taken out under the very spelling the group has, and the heir put in unless they own it as well.
    fn owner_change(&self, group: &Entry, from: &str, to: &str) -> Vec<Change> {
        let attribute = &self.settings.group_owner_attribute;
        if self.settings.flavour == Flavour::ActiveDirectory {
            return vec![Change::Replace(
                attribute.clone(),
                vec![to.as_bytes().to_vec()],
            )];
        }
        let owners = group.texts(attribute);
        let is = |name: &str, other: &str| match (Dn::parse(name), Dn::parse(other)) {
            (Some(name), Some(other)) => name.is(&other),
            _ => name == other,
        };
        let gone: Vec<Vec<u8>> = owners
            .iter()
            .filter(|owner| is(owner, from))
            .map(|owner| owner.clone().into_bytes())
            .collect();
        let mut changes = vec![Change::Remove(attribute.clone(), gone)];
        if !owners.iter().any(|owner| is(owner, to)) {
            changes.push(Change::Add(attribute.clone(), vec![to.as_bytes().to_vec()]));
        }
        changes
    }

    /// Whether no group names the account as its owner, read afresh.
    pub(super) async fn owns_nothing(&self, account: &NativeId) -> Result<Verdict, Error> {
        let id = [self.settings.id_attribute()];
        let groups = match self.by_id(account, &id).await? {
            Some(entry) => self.owned_by(&entry.dn).await?,
            None => Vec::new(),
        };
        let names: Vec<_> = groups
            .iter()
            .map(|group| entry::group_name(&group.dn, &self.settings))
            .collect();
        let observation = Observation {
            by: "ldap search".to_owned(),
            account: Some(account.clone()),
            seen: json!({"owned": names}),
        };
        Ok(if groups.is_empty() {
            Verdict::Proven(observation)
        } else {
            Verdict::Refuted(observation)
        })
    }

    /// The groups below the group base whose owner is the entry of this name.
    async fn owned_by(&self, owner: &str) -> Result<Vec<Entry>, Error> {
        let attribute = self.settings.group_owner_attribute.as_str();
        let filter = format!(
            "(&{}{})",
            dn::equals("objectClass", &self.settings.group_class),
            dn::equals(attribute, owner)
        );
        let found = self
            .pool
            .search(&Search {
                base: &self.settings.group_base,
                scope: Scope::Subtree,
                filter: &filter,
                attributes: &[attribute],
                entries_max: OWNED_MAX,
                page: None,
            })
            .await?;
        if found.result.rc == codes::SIZE_LIMIT_EXCEEDED {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "`{owner}` owns more than {OWNED_MAX} groups; hand some over by hand first"
                ),
            ));
        }
        found.success(&format!("look for groups that `{owner}` owns"))
    }
}
