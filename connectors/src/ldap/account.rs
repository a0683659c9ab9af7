//! Operations on one account that change its entry; making one is in [`create`](super::create).

use serde_json::{Map, Value, json};

use super::dn::{self, Dn};
use super::entry::{self, ACCOUNT_CONTROL, ACCOUNT_DISABLED, Entry, LOCKED_FOR_EVER, LOCKED_TIME};
use super::read::{guid_name, missing};
use super::settings::{Flavour, Security};
use super::wire::{Answer, Change, Reply, Write};
use super::{Ldap, codes};
use crate::connector::{Attributes, Error, ErrorKind, NativeId, Outcome, Receipt};
use secrecy::{ExposeSecret, SecretString};

impl Ldap {
    /// Replaces what differs, in one modification; a changed naming attribute is a rename before it.
    pub(super) async fn update(
        &self,
        account: &NativeId,
        attributes: &Attributes,
    ) -> Result<Outcome, Error> {
        let wanted = entry::wanted(attributes)?;
        let mut names: Vec<&str> = wanted.iter().map(|(name, _)| name.as_str()).collect();
        names.extend([self.settings.id_attribute(), &self.settings.rdn_attribute]);
        let entry = self.existing(account, &names).await?;
        let id = self.identifier(account)?;
        let same_entry = self.same_entry(&id);
        let only_if = same_entry.as_deref();

        let mut renamed = None;
        let mut changes = Vec::new();
        let (mut before, mut after) = (Map::new(), Map::new());
        for (name, values) in wanted
            .iter()
            .filter(|(name, values)| !entry.holds(name, values))
        {
            before.insert(name.clone(), entry::shown(entry.values(name)));
            after.insert(name.clone(), entry::shown(values));
            match self.new_relative(&entry, name, values)? {
                Some(relative) => renamed = Some(relative),
                None => changes.push(Change::Replace(name.clone(), values.clone())),
            }
        }
        let mut receipt = Receipt {
            account: Some(account.clone()),
            before: Some(Value::Object(before)),
            after: Some(Value::Object(after)),
            ..Receipt::default()
        };
        if renamed.is_none() && changes.is_empty() {
            return Ok(Outcome::AlreadySo(receipt));
        }
        let mut at = self.address(&id, &entry);
        if let Some(relative) = &renamed {
            let rename = Write::Rename {
                // Samba takes no other address in a rename.
                dn: &entry.dn,
                relative,
                only_if,
            };
            let doing = format!("rename account `{account}`");
            match self.write_same(account, rename).await? {
                Answer::Lost(reason) => return Ok(Outcome::Ambiguous { reason }),
                Answer::Answered(reply) => {
                    done(&doing, &reply)?;
                    receipt.request_id = reply.version;
                }
            }
            self.known.forget(&id);
            if self.settings.flavour == Flavour::Openldap {
                at = match Dn::parse(&entry.dn).and_then(|old| old.parent()) {
                    Some(parent) => format!("{relative},{}", parent.text()),
                    None => relative.clone(),
                };
            }
        }
        if changes.is_empty() {
            return Ok(Outcome::Done(receipt));
        }
        let modify = Write::Modify {
            dn: &at,
            changes: &changes,
            only_if,
        };
        match self.write_same(account, modify).await? {
            Answer::Lost(reason) => Ok(Outcome::Ambiguous { reason }),
            Answer::Answered(reply) => match done(&format!("update account `{account}`"), &reply) {
                Ok(()) => {
                    receipt.request_id = reply.version.or(receipt.request_id);
                    Ok(Outcome::Done(receipt))
                }
                Err(error) if renamed.is_some() => {
                    // Something has changed, so this is no plain error.
                    Ok(Outcome::Ambiguous {
                        reason: format!("renamed, then: {}", error.message),
                    })
                }
                Err(error) => Err(error),
            },
        }
    }

    /// The new relative name if `name` is the attribute the entry is named by.
    fn new_relative(
        &self,
        entry: &Entry,
        name: &str,
        values: &[Vec<u8>],
    ) -> Result<Option<String>, Error> {
        if !name.eq_ignore_ascii_case(&self.settings.rdn_attribute) {
            return Ok(None);
        }
        let old = Dn::parse(&entry.dn);
        if old.as_ref().and_then(|old| old.first_value(name)).is_none() {
            // Named by something else: an attribute like any other.
            return Ok(None);
        }
        match values {
            [value] => {
                let value = String::from_utf8_lossy(value);
                Ok(Some(dn::relative(&self.settings.rdn_attribute, &value)))
            }
            _ => Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "`{}` is named by `{name}`: it must have exactly one value",
                    entry.dn
                ),
            )),
        }
    }

    pub(super) async fn enable(&self, account: &NativeId) -> Result<Outcome, Error> {
        let entry = self.existing(account, &self.state_attributes()).await?;
        let change = match self.settings.flavour {
            // A temporary lock goes too: whoever enables an account means that its owner can log in.
            Flavour::Openldap if entry.values(LOCKED_TIME).is_empty() => None,
            Flavour::Openldap => Some(Change::Replace(LOCKED_TIME.to_owned(), Vec::new())),
            Flavour::ActiveDirectory => control_change(&entry, true)?,
        };
        self.set_state(account, &entry, change, true).await
    }

    pub(super) async fn disable(&self, account: &NativeId) -> Result<Outcome, Error> {
        let Some(entry) = self.by_id(account, &self.state_attributes()).await? else {
            // Nobody logs in as what is not there.
            return Ok(Outcome::AlreadySo(Receipt {
                account: Some(account.clone()),
                after: Some(json!({"entry": "absent"})),
                ..Receipt::default()
            }));
        };
        let change = match self.settings.flavour {
            Flavour::Openldap if entry.enabled(Flavour::Openldap) == Some(false) => None,
            Flavour::Openldap => Some(lock()),
            Flavour::ActiveDirectory => control_change(&entry, false)?,
        };
        self.set_state(account, &entry, change, false).await
    }

    async fn set_state(
        &self,
        account: &NativeId,
        entry: &Entry,
        change: Option<Change>,
        enabled: bool,
    ) -> Result<Outcome, Error> {
        let was = entry.enabled(self.settings.flavour);
        let mut receipt = Receipt {
            account: Some(account.clone()),
            name: Some(entry.name(&self.settings)),
            before: Some(json!({"enabled": was})),
            after: Some(json!({"enabled": enabled})),
            ..Receipt::default()
        };
        let Some(change) = change else {
            return Ok(Outcome::AlreadySo(receipt));
        };
        let id = self.identifier(account)?;
        let (address, same_entry) = (self.address(&id, entry), self.same_entry(&id));
        let modify = Write::Modify {
            dn: &address,
            changes: &[change],
            only_if: same_entry.as_deref(),
        };
        let verb = if enabled { "enable" } else { "disable" };
        match self.write_same(account, modify).await? {
            Answer::Lost(reason) => Ok(Outcome::Ambiguous { reason }),
            Answer::Answered(reply) => {
                done(&format!("{verb} account `{account}`"), &reply)?;
                receipt.request_id = reply.version;
                Ok(Outcome::Done(receipt))
            }
        }
    }

    pub(super) async fn delete(&self, account: &NativeId) -> Result<Outcome, Error> {
        let id = self.identifier(account)?;
        let receipt = || Receipt {
            account: Some(account.clone()),
            ..Receipt::default()
        };
        let Some(entry) = self.by_id(account, &self.state_attributes()).await? else {
            return Ok(Outcome::AlreadySo(receipt()));
        };
        self.known.forget(&id);
        if self.settings.flavour == Flavour::Openldap {
            // Active Directory keeps groups in step by itself. OpenLDAP does with an overlay only, and even
            // that leaves a last member behind: whoever got this name next would inherit the group.
            for group in self.group_names_of(&entry.dn).await? {
                match self.take_out(&group, &entry.dn).await? {
                    Answer::Lost(reason) => return Ok(Outcome::Ambiguous { reason }),
                    Answer::Answered(reply) if reply.code() == codes::NO_SUCH_ATTRIBUTE => {}
                    Answer::Answered(reply) => done(&format!("empty group `{group}`"), &reply)?,
                }
            }
        }
        let (address, same_entry) = (self.address(&id, &entry), self.same_entry(&id));
        let delete = Write::Delete {
            dn: &address,
            only_if: same_entry.as_deref(),
        };
        match self.write_same(account, delete).await? {
            Answer::Lost(reason) => Ok(Outcome::Ambiguous { reason }),
            Answer::Answered(reply) if reply.code() == codes::NO_SUCH_OBJECT => {
                // Gone or moved in this very moment.
                match self.by_id(account, &[self.settings.id_attribute()]).await? {
                    None => Ok(Outcome::AlreadySo(receipt())),
                    Some(_) => Err(moved(account)),
                }
            }
            Answer::Answered(reply) => {
                done(&format!("delete account `{account}`"), &reply)?;
                let mut receipt = receipt();
                receipt.name = Some(entry.name(&self.settings));
                Ok(Outcome::Done(receipt))
            }
        }
    }

    pub(super) async fn set_password(
        &self,
        account: &NativeId,
        password: &SecretString,
    ) -> Result<Outcome, Error> {
        self.ensure_private()?;
        let doing = format!("set the password of account `{account}`");
        let answer = match self.settings.flavour {
            Flavour::ActiveDirectory => self.replace_password(account, password, &doing).await?,
            Flavour::Openldap => {
                let entry = self.existing(account, &self.state_attributes()).await?;
                if entry.enabled(Flavour::Openldap) == Some(false) {
                    return Err(Error::new(
                        ErrorKind::Invalid,
                        format!(
                            "cannot {doing}: it is disabled, and OpenLDAP enables an account whose password is \
                             set; enable it first"
                        ),
                    ));
                }
                self.pool
                    .write(&Write::Password {
                        dn: &entry.dn,
                        password,
                    })
                    .await?
            }
        };
        match answer {
            Answer::Lost(reason) => Ok(Outcome::Ambiguous { reason }),
            Answer::Answered(reply) if reply.code() == codes::NO_SUCH_OBJECT => {
                Err(missing(account))
            }
            Answer::Answered(reply) => {
                done(&doing, &reply)?;
                Ok(Outcome::Done(Receipt {
                    account: Some(account.clone()),
                    request_id: reply.version,
                    ..Receipt::default()
                }))
            }
        }
    }

    /// Active Directory lets the password before the newest one in for another hour. Setting the new one twice
    /// makes it the one before the newest, too.
    async fn replace_password(
        &self,
        account: &NativeId,
        password: &SecretString,
        doing: &str,
    ) -> Result<Answer, Error> {
        let name = guid_name(&self.identifier(account)?);
        let changes = [Change::Replace(
            "unicodePwd".to_owned(),
            vec![quoted(password)],
        )];
        let replace = Write::Modify {
            dn: &name,
            changes: &changes,
            only_if: None,
        };
        match self.pool.write(&replace).await? {
            Answer::Answered(reply) if reply.code() == codes::SUCCESS => {}
            answer => return Ok(answer),
        }
        // From here on the password has changed: what does not succeed is to be repeated, not an error.
        Ok(match self.pool.write(&replace).await {
            Ok(Answer::Answered(reply)) if reply.code() != codes::SUCCESS => {
                Answer::Lost(codes::refused(doing, &reply.result).message)
            }
            Ok(answer) => answer,
            Err(error) => Answer::Lost(error.message),
        })
    }

    /// Passwords travel over TLS or not at all, whatever the settings allow for the rest.
    pub(super) fn ensure_private(&self) -> Result<(), Error> {
        if self.settings.security == Security::Plain {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "ldap system `{}` is reached without TLS and passwords are not sent in the clear; use ldaps:// or set `start_tls: true`",
                    self.settings.system
                ),
            ));
        }
        Ok(())
    }

    /// Sends a change that carries the condition of [`same_entry`](Self::same_entry).
    ///
    /// OpenLDAP's `unique` overlay hands the condition on to a search of its own, where it fails for no
    /// reason. "Condition failed" is a certain answer, nothing was changed: if a fresh look finds the entry
    /// where it was, the change is sent once more without the condition.
    pub(super) async fn write_same(
        &self,
        account: &NativeId,
        write: Write<'_>,
    ) -> Result<Answer, Error> {
        let answer = self.pool.write(&write).await?;
        match &answer {
            Answer::Answered(reply) if reply.code() == codes::ASSERTION_FAILED => {}
            _ => return Ok(answer),
        }
        match self.by_id(account, &[self.settings.id_attribute()]).await? {
            Some(entry) if entry.dn == write.dn() => self.pool.write(&write.unconditional()).await,
            _ => Ok(answer),
        }
    }

    /// What a change of this entry is addressed to: on Active Directory an address that no rename touches.
    pub(super) fn address(&self, id: &str, entry: &Entry) -> String {
        match self.settings.flavour {
            Flavour::Openldap => entry.dn.clone(),
            Flavour::ActiveDirectory => guid_name(id),
        }
    }

    /// The condition that an entry found by its identifier is still the one that has its name. Active
    /// Directory knows no such condition.
    pub(super) fn same_entry(&self, id: &str) -> Option<String> {
        (self.settings.flavour == Flavour::Openldap).then(|| dn::equals("entryUUID", id))
    }
}

/// The change that locks an OpenLDAP account for good.
pub(super) fn lock() -> Change {
    Change::Replace(
        LOCKED_TIME.to_owned(),
        vec![LOCKED_FOR_EVER.as_bytes().to_vec()],
    )
}

/// Turns one bit of `userAccountControl`; the others (password never expires, smart card, ...) stay.
fn control_change(entry: &Entry, enabled: bool) -> Result<Option<Change>, Error> {
    let Some(control) = entry.control() else {
        return Err(Error::new(
            ErrorKind::Denied,
            format!(
                "`{ACCOUNT_CONTROL}` of `{}` may not be read; let the account of `bind_dn` read it",
                entry.dn
            ),
        ));
    };
    let wanted = if enabled {
        control & !ACCOUNT_DISABLED
    } else {
        control | ACCOUNT_DISABLED
    };
    Ok((wanted != control).then(|| {
        Change::Replace(
            ACCOUNT_CONTROL.to_owned(),
            vec![wanted.to_string().into_bytes()],
        )
    }))
}

/// A password as `unicodePwd` wants it: in quotes, as UTF-16 with the least byte first.
pub(super) fn quoted(password: &SecretString) -> Vec<u8> {
    format!("\"{}\"", password.expose_secret())
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect()
}

/// The reply as a result, with what commonly lies behind a refusal.
pub(super) fn done(doing: &str, reply: &Reply) -> Result<(), Error> {
    match reply.code() {
        codes::SUCCESS => Ok(()),
        codes::ASSERTION_FAILED => Err(Error::new(
            ErrorKind::Conflict,
            format!("cannot {doing}: it was renamed or replaced just now"),
        )),
        code => {
            let mut error = codes::refused(doing, &reply.result);
            if code == codes::UNDEFINED_ATTRIBUTE_TYPE && reply.result.text.contains(LOCKED_TIME) {
                error.message.push_str(
                    "; accounts are disabled by the password policy: load the ppolicy overlay on the server",
                );
            }
            Err(error)
        }
    }
}

fn moved(account: &NativeId) -> Error {
    Error::new(
        ErrorKind::Conflict,
        format!("account `{account}` was renamed just now"),
    )
}
