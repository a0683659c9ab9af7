//! Grant and revoke: one value of one group's member attribute.
//!
//! A `groupOfNames` must have a member. The last one is therefore exchanged for `placeholder_member`, a name
//! that no entry should ever get; it stays in the group and is nobody's entitlement.

use serde_json::json;

use super::entry;
use super::read::{guid_name, missing};
use super::settings::Flavour;
use super::wire::{Answer, Change, Reply, Search, Write};
use super::{Ldap, codes};
use crate::connector::{EntitlementName, Error, ErrorKind, NativeId, Outcome, Receipt};

/// The member value of an account, and whether it is from memory.
struct Member {
    value: String,
    remembered: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Wish {
    Member,
    NoMember,
}

impl Ldap {
    pub(super) async fn grant(
        &self,
        account: &NativeId,
        entitlement: &EntitlementName,
    ) -> Result<Outcome, Error> {
        self.membership(account, entitlement, Wish::Member).await
    }

    pub(super) async fn revoke(
        &self,
        account: &NativeId,
        entitlement: &EntitlementName,
    ) -> Result<Outcome, Error> {
        self.membership(account, entitlement, Wish::NoMember).await
    }

    /// One modification when all is as expected. Only an unexpected answer is worth another question.
    async fn membership(
        &self,
        account: &NativeId,
        entitlement: &EntitlementName,
        wish: Wish,
    ) -> Result<Outcome, Error> {
        let group = entry::group_dn(entitlement, &self.settings)?;
        let mut member = self.member(account).await?;
        let mut reply = match self.change_member(&group, &member.value, wish).await? {
            Answer::Lost(reason) => return Ok(Outcome::Ambiguous { reason }),
            Answer::Answered(reply) => reply,
        };
        // "It was so before" may mean that the account is no longer where it was.
        if member.remembered && reply.code() != codes::SUCCESS {
            let fresh = self.ask_member(account).await?;
            if fresh.value != member.value {
                reply = match self.change_member(&group, &fresh.value, wish).await? {
                    Answer::Lost(reason) => return Ok(Outcome::Ambiguous { reason }),
                    Answer::Answered(reply) => reply,
                };
            }
            member = fresh;
        }
        let receipt = || Receipt {
            account: Some(account.clone()),
            before: Some(json!({"entitlement": entitlement, "held": (wish == Wish::NoMember)})),
            after: Some(json!({"entitlement": entitlement, "held": (wish == Wish::Member)})),
            request_id: reply.version.clone(),
            ..Receipt::default()
        };
        let already = || {
            let mut receipt = receipt();
            receipt.before.clone_from(&receipt.after);
            Ok(Outcome::AlreadySo(receipt))
        };
        match (reply.code(), wish) {
            (codes::SUCCESS, _) => Ok(Outcome::Done(receipt())),
            // Active Directory says "entry already exists" of a member.
            (codes::ATTRIBUTE_OR_VALUE_EXISTS | codes::ENTRY_ALREADY_EXISTS, Wish::Member)
            | (codes::NO_SUCH_ATTRIBUTE, Wish::NoMember) => already(),
            (codes::OBJECT_CLASS_VIOLATION, Wish::NoMember) => {
                match self.exchange_last(&group, &member.value).await? {
                    Answer::Lost(reason) => Ok(Outcome::Ambiguous { reason }),
                    Answer::Answered(reply) if reply.code() == codes::SUCCESS => {
                        let mut receipt = receipt();
                        receipt.request_id = reply.version;
                        Ok(Outcome::Done(receipt))
                    }
                    Answer::Answered(reply) => Err(refused(&group, &reply)),
                }
            }
            (codes::NO_SUCH_OBJECT | codes::UNWILLING_TO_PERFORM, _) => {
                // Active Directory says these two of a missing group, a missing account and an absent
                // member alike: look which.
                match self.holds(account, &group).await? {
                    Held::NoAccount => Err(missing(account)),
                    Held::NoGroup if wish == Wish::Member => Err(Error::new(
                        ErrorKind::NotFound,
                        format!("there is no group `{group}` for entitlement `{entitlement}`"),
                    )),
                    Held::NoGroup | Held::No if wish == Wish::NoMember => already(),
                    Held::Yes if wish == Wish::Member => already(),
                    Held::NoGroup | Held::No | Held::Yes => Err(refused(&group, &reply)),
                }
            }
            _ => Err(refused(&group, &reply)),
        }
    }

    async fn change_member(&self, group: &str, member: &str, wish: Wish) -> Result<Answer, Error> {
        let values = vec![member.as_bytes().to_vec()];
        let attribute = self.settings.member_attribute.clone();
        let change = match wish {
            Wish::Member => Change::Add(attribute, values),
            Wish::NoMember => Change::Remove(attribute, values),
        };
        self.pool
            .write(&Write::Modify {
                dn: group,
                changes: &[change],
                only_if: None,
            })
            .await
    }

    /// Takes the last member out and puts the placeholder in, in one change.
    async fn exchange_last(&self, group: &str, member: &str) -> Result<Answer, Error> {
        let Some(placeholder) = &self.settings.placeholder_member else {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("group `{group}` may not be empty and `{member}` is its last member"),
            ));
        };
        let attribute = &self.settings.member_attribute;
        let changes = [
            Change::Add(attribute.clone(), vec![placeholder.as_bytes().to_vec()]),
            Change::Remove(attribute.clone(), vec![member.as_bytes().to_vec()]),
        ];
        self.pool
            .write(&Write::Modify {
                dn: group,
                changes: &changes,
                only_if: None,
            })
            .await
    }

    /// Takes a member out of a group as part of removing its entry. What is not there is fine.
    pub(super) async fn take_out(&self, group: &str, member: &str) -> Result<Answer, Error> {
        match self.change_member(group, member, Wish::NoMember).await? {
            Answer::Answered(reply) if reply.code() == codes::OBJECT_CLASS_VIOLATION => {
                self.exchange_last(group, member).await
            }
            answer => Ok(answer),
        }
    }

    /// How the group names this account, from memory if that is fresh.
    async fn member(&self, account: &NativeId) -> Result<Member, Error> {
        let id = self.identifier(account)?;
        match (self.settings.flavour, self.known.dn(&id)) {
            (Flavour::ActiveDirectory, _) => Ok(Member {
                value: guid_name(&id),
                remembered: false,
            }),
            (Flavour::Openldap, Some(value)) => Ok(Member {
                value,
                remembered: true,
            }),
            (Flavour::Openldap, None) => self.ask_member(account).await,
        }
    }

    async fn ask_member(&self, account: &NativeId) -> Result<Member, Error> {
        let id = self.identifier(account)?;
        self.known.forget(&id);
        let entry = self
            .existing(account, &[self.settings.id_attribute()])
            .await?;
        self.known.remember(&id, &entry.dn);
        Ok(Member {
            value: entry.dn,
            remembered: false,
        })
    }

    /// Whether the account is in the group now, all of it asked afresh.
    pub(super) async fn holds(&self, account: &NativeId, group: &str) -> Result<Held, Error> {
        let id = [self.settings.id_attribute()];
        let Some(entry) = self.by_id(account, &id).await? else {
            return Ok(Held::NoAccount);
        };
        let filter = super::dn::equals(&self.settings.member_attribute, &entry.dn);
        let found = self
            .pool
            .search(&Search::entry(group, &filter, super::read::NONE))
            .await?;
        if found.result.rc == codes::NO_SUCH_OBJECT {
            self.ensure_absent(group).await?;
            return Ok(Held::NoGroup);
        }
        let entries = found.success(&format!("read the members of `{group}`"))?;
        Ok(if entries.is_empty() {
            Held::No
        } else {
            Held::Yes
        })
    }
}

/// What a look at a membership found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    Yes,
    No,
    NoGroup,
    NoAccount,
}

fn refused(group: &str, reply: &Reply) -> Error {
    codes::refused(&format!("change the members of `{group}`"), &reply.result)
}
