//! Making an account: one add that carries the owner, so that it can be found again whatever happens next.
//!
//! OpenLDAP needs more than one step for an account with a password: the server should do the hashing, and
//! only the password modify operation makes it. That operation also takes away the lock of a disabled
//! account, so the lock is set again after it. If the password is refused, the new entry is removed: an
//! error promises that nothing was changed.

use std::collections::BTreeMap;

use secrecy::SecretString;
use serde_json::json;

use super::account::{done, lock, quoted};
use super::dn;
use super::entry::{
    self, ACCOUNT_CONTROL, ACCOUNT_DISABLED, Attribute, Entry, LOCKED_FOR_EVER, LOCKED_TIME,
    NORMAL_ACCOUNT,
};
use super::settings::{Flavour, Settings};
use super::wire::{Answer, Search, Write};
use super::{Ldap, codes, read};
use crate::connector::{Error, ErrorKind, NativeId, NewAccount, Outcome, Receipt};

/// The longest `sAMAccountName` Active Directory accepts for a person.
const AD_NAME_CHARS_MAX: usize = 20;
/// What it does not accept in one.
const AD_NAME_FORBIDDEN: &str = "\"/\\[]:;|=,+*?<>";
/// Classes that demand `cn` and `sn`.
const PERSON_CLASSES: [&str; 3] = ["person", "organizationalPerson", "inetOrgPerson"];
/// Random octets in the password of an account that is made without one.
const UNKNOWN_PASSWORD_BYTES: usize = 32;

/// An entry ready to be added.
#[derive(Debug)]
struct NewEntry {
    dn: String,
    attributes: Vec<Attribute>,
}

impl Ldap {
    pub(super) async fn create(&self, new: &NewAccount) -> Result<Outcome, Error> {
        if new.password.is_some() {
            self.ensure_private()?;
        }
        let entry = new_entry(&self.settings, new)?;
        // One owner, one account: also when an earlier attempt chose another name.
        if let Some(existing) = self.by_owner(&new.owner, &self.state_attributes()).await? {
            return self.already(&existing, new).await;
        }
        let add = Write::Add {
            dn: &entry.dn,
            attributes: &entry.attributes,
        };
        let reply = match self.pool.write(&add).await? {
            Answer::Lost(reason) => return Ok(Outcome::Ambiguous { reason }),
            Answer::Answered(reply) => reply,
        };
        if reply.code() != codes::SUCCESS {
            let refused = done(&format!("create account `{}`", new.name), &reply);
            // Two codes for "the name is taken": the second is the `unique` overlay's, among others.
            if matches!(
                reply.code(),
                codes::ENTRY_ALREADY_EXISTS | codes::CONSTRAINT_VIOLATION
            ) {
                return self.taken(&entry.dn, new, refused).await;
            }
            refused?;
        }
        let id = match reply.id {
            Some(id) => NativeId::new(id),
            None => match self.new_id(&entry.dn).await {
                Ok(id) => id,
                Err(error) => {
                    let reason = format!("made, but cannot be read back: {}", error.message);
                    return Ok(Outcome::Ambiguous { reason });
                }
            },
        };
        self.known.remember(id.as_str(), &entry.dn);
        let receipt = Receipt {
            account: Some(id.clone()),
            name: Some(new.name.clone()),
            before: None,
            after: Some(json!({"dn": entry.dn, "enabled": new.enabled})),
            request_id: reply.version,
            credential: None,
        };
        if let (Flavour::Openldap, Some(password)) = (self.settings.flavour, &new.password) {
            return self.finish(&id, &entry.dn, new, password, receipt).await;
        }
        Ok(Outcome::Done(receipt))
    }

    /// Sets the password of a new OpenLDAP account; takes the account back if the password is refused.
    async fn finish(
        &self,
        id: &NativeId,
        dn: &str,
        new: &NewAccount,
        password: &SecretString,
        receipt: Receipt,
    ) -> Result<Outcome, Error> {
        let error = match self.password_then_lock(dn, new.enabled, password).await {
            Ok(None) => return Ok(Outcome::Done(receipt)),
            Ok(Some(reason)) => return Ok(Outcome::Ambiguous { reason }),
            Err(error) => error,
        };
        let same_entry = self.same_entry(id.as_str());
        let delete = Write::Delete {
            dn,
            only_if: same_entry.as_deref(),
        };
        self.known.forget(id.as_str());
        match self.pool.write(&delete).await {
            Ok(Answer::Answered(reply)) if reply.code() == codes::SUCCESS => Err(error),
            _ => Ok(Outcome::Ambiguous {
                reason: format!("made, but without its password: {}", error.message),
            }),
        }
    }

    /// `Some(reason)` when an answer was lost on the way.
    async fn password_then_lock(
        &self,
        dn: &str,
        enabled: bool,
        password: &SecretString,
    ) -> Result<Option<String>, Error> {
        match self.pool.write(&Write::Password { dn, password }).await? {
            Answer::Lost(reason) => return Ok(Some(reason)),
            Answer::Answered(reply) => done("set the password of the new account", &reply)?,
        }
        if enabled {
            return Ok(None);
        }
        match self
            .pool
            .write(&Write::Modify {
                dn,
                changes: &[lock()],
                only_if: None,
            })
            .await?
        {
            Answer::Lost(reason) => Ok(Some(reason)),
            Answer::Answered(reply) => {
                done("disable the new account", &reply)?;
                Ok(None)
            }
        }
    }

    /// The owner has an account. What an interrupted attempt left undone is done now, as far as it can
    /// only take access away or was never given: a password where there is none, a lock that was asked for.
    /// An account that somebody disabled since is left disabled.
    async fn already(&self, existing: &Entry, new: &NewAccount) -> Result<Outcome, Error> {
        let id = existing.id(&self.settings)?;
        self.known.remember(id.as_str(), &existing.dn);
        let enabled = existing.enabled(self.settings.flavour);
        let mut outcome = Outcome::AlreadySo(Receipt {
            account: Some(id.clone()),
            name: Some(existing.name(&self.settings)),
            after: Some(json!({"dn": existing.dn, "enabled": enabled})),
            ..Receipt::default()
        });
        let lacks_password = match (self.settings.flavour, &new.password) {
            (Flavour::Openldap, Some(password)) if enabled == Some(true) => self
                .has_no_password(&existing.dn)
                .await?
                .then_some(password),
            _ => None,
        };
        if let Some(password) = lacks_password
            && let Some(reason) = self
                .password_then_lock(&existing.dn, new.enabled, password)
                .await?
        {
            return Ok(Outcome::Ambiguous { reason });
        }
        if !new.enabled && lacks_password.is_none() && enabled == Some(true) {
            outcome = match self.disable(&id).await? {
                Outcome::Ambiguous { reason } => Outcome::Ambiguous { reason },
                _ => outcome,
            };
        }
        Ok(outcome)
    }

    /// Presence can be asked for where the value may not be read.
    async fn has_no_password(&self, dn: &str) -> Result<bool, Error> {
        let search = Search::entry(dn, "(userPassword=*)", read::NONE);
        let entries = self
            .pool
            .search(&search)
            .await?
            .success("look for a password")?;
        Ok(entries.is_empty())
    }

    /// The server says that something holds the name already: is it ours?
    async fn taken(
        &self,
        dn: &str,
        new: &NewAccount,
        refused: Result<(), Error>,
    ) -> Result<Outcome, Error> {
        // Another attempt of ours may have been quicker.
        if let Some(existing) = self.by_owner(&new.owner, &self.state_attributes()).await? {
            return self.already(&existing, new).await;
        }
        let holder = match self.at(dn, &self.state_attributes()).await? {
            Some(entry) => Some(entry),
            None => self.name_holder(&new.name).await?,
        };
        let owner = |entry: &Entry| entry.text(&self.settings.owner_attribute);
        match holder {
            // Not matched by `account_filter`, but ours all the same.
            Some(entry) if owner(&entry).as_deref() == Some(&new.owner) => {
                self.already(&entry, new).await
            }
            Some(entry) => Err(Error::new(
                ErrorKind::Conflict,
                format!(
                    "cannot create account `{}`: `{}` has that name and belongs to {}",
                    new.name,
                    entry.dn,
                    owner(&entry).map_or("nobody we know".to_owned(), |owner| format!(
                        "owner `{owner}`"
                    ))
                ),
            )),
            None => refused.and(Err(Error::new(
                ErrorKind::Conflict,
                format!(
                    "cannot create account `{}`: the name was taken a moment ago",
                    new.name
                ),
            ))),
        }
    }

    /// Whatever has this login name, an account or not.
    async fn name_holder(&self, name: &str) -> Result<Option<Entry>, Error> {
        let filter = dn::equals(&self.settings.name_attribute, name);
        let found = self
            .pool
            .search(&Search {
                base: &self.settings.search_base,
                scope: ldap3::Scope::Subtree,
                filter: &filter,
                attributes: &self.state_attributes(),
                entries_max: 1,
                page: None,
            })
            .await?;
        // With a limit of one, more than one is an answer too.
        Ok(found.entries.into_iter().next())
    }

    async fn new_id(&self, dn: &str) -> Result<NativeId, Error> {
        match self.at(dn, &[self.settings.id_attribute()]).await? {
            Some(entry) => entry.id(&self.settings),
            None => Err(read::unreadable(dn)),
        }
    }
}

/// Everything the entry needs from the first moment.
fn new_entry(settings: &Settings, new: &NewAccount) -> Result<NewEntry, Error> {
    let invalid = |text: String| Error::new(ErrorKind::Invalid, text);
    check_name(settings, &new.name)?;
    if new.owner.trim().is_empty() || new.owner.contains(char::is_control) {
        return Err(invalid(format!(
            "owner `{}` of account `{}` is no key",
            new.owner, new.name
        )));
    }
    // By the name in lower case: `CN` and `cn` are one attribute.
    let mut attributes: BTreeMap<String, Attribute> = BTreeMap::new();
    for (name, values) in entry::wanted(&new.attributes)? {
        if attributes
            .insert(name.to_lowercase(), (name.clone(), values))
            .is_some()
        {
            return Err(invalid(format!(
                "attribute `{name}` is given twice in different case"
            )));
        }
    }
    let one = |text: &str| vec![text.as_bytes().to_vec()];
    for (name, value) in [
        (&settings.name_attribute, &new.name),
        (&settings.owner_attribute, &new.owner),
    ] {
        let given = attributes
            .entry(name.to_lowercase())
            .or_insert_with(|| (name.clone(), one(value)));
        if given.1 != one(value) {
            return Err(invalid(format!(
                "attribute `{name}` of account `{}` must be `{value}`; remove it from the mapping",
                new.name
            )));
        }
    }
    let is_person = settings.object_classes.iter().any(|class| {
        PERSON_CLASSES
            .iter()
            .any(|person| person.eq_ignore_ascii_case(class))
    });
    let demanded: &[&str] = if is_person { &["cn", "sn"] } else { &[] };
    for name in demanded
        .iter()
        .copied()
        .chain([settings.rdn_attribute.as_str()])
    {
        let given = attributes
            .entry(name.to_lowercase())
            .or_insert_with(|| (name.to_owned(), one(&new.name)));
        if given.1.is_empty() {
            given.1 = one(&new.name);
        }
    }
    let relative = match attributes.get(&settings.rdn_attribute.to_lowercase()) {
        Some((name, values)) => match values.as_slice() {
            [value] => dn::relative(name, &String::from_utf8_lossy(value)),
            _ => {
                return Err(invalid(format!(
                    "attribute `{name}` names the entry of account `{}` and must have one value",
                    new.name
                )));
            }
        },
        None => dn::relative(&settings.rdn_attribute, &new.name),
    };
    let classes = attributes
        .entry("objectclass".to_owned())
        .or_insert_with(|| ("objectClass".to_owned(), Vec::new()));
    for class in &settings.object_classes {
        let known = classes
            .1
            .iter()
            .any(|known| known.eq_ignore_ascii_case(class.as_bytes()));
        if !known {
            classes.1.push(class.as_bytes().to_vec());
        }
    }
    let mut attributes: Vec<Attribute> = attributes
        .into_values()
        .filter(|(_, values)| !values.is_empty())
        .collect();
    match settings.flavour {
        Flavour::Openldap if new.enabled => {}
        Flavour::Openldap => attributes.push((LOCKED_TIME.to_owned(), one(LOCKED_FOR_EVER))),
        Flavour::ActiveDirectory => {
            let control = if new.enabled {
                NORMAL_ACCOUNT
            } else {
                NORMAL_ACCOUNT | ACCOUNT_DISABLED
            };
            attributes.push((ACCOUNT_CONTROL.to_owned(), one(&control.to_string())));
            // An enabled account must have a password there; one nobody knows is none anybody can use.
            let password = new.password.clone().unwrap_or_else(unknown_password);
            attributes.push(("unicodePwd".to_owned(), vec![quoted(&password)]));
        }
    }
    Ok(NewEntry {
        dn: format!("{relative},{}", settings.people_base),
        attributes,
    })
}

/// A password that lets nobody in, because nobody knows it.
fn unknown_password() -> SecretString {
    use base64::Engine;
    let random: [u8; UNKNOWN_PASSWORD_BYTES] = rand::random();
    let text = base64::engine::general_purpose::STANDARD.encode(random);
    // The end satisfies rules that want every kind of character.
    SecretString::from(format!("{text}aA1-"))
}

fn check_name(settings: &Settings, name: &str) -> Result<(), Error> {
    let invalid = |why: String| {
        Err(Error::new(
            ErrorKind::Invalid,
            format!("`{name}` cannot be an account name: {why}"),
        ))
    };
    if name.is_empty() {
        return invalid("it is empty".to_owned());
    }
    if name.contains(char::is_control) {
        return invalid("it has a control character".to_owned());
    }
    if name.trim() != name {
        return invalid("it begins or ends with a blank, which directories overlook".to_owned());
    }
    if settings
        .name_attribute
        .eq_ignore_ascii_case("sAMAccountName")
    {
        if name.chars().count() > AD_NAME_CHARS_MAX {
            return invalid(format!(
                "Active Directory allows {AD_NAME_CHARS_MAX} characters in `sAMAccountName`"
            ));
        }
        if let Some(forbidden) = name.chars().find(|each| AD_NAME_FORBIDDEN.contains(*each)) {
            return invalid(format!(
                "Active Directory does not allow `{forbidden}` in `sAMAccountName`"
            ));
        }
        if name.ends_with('.') {
            return invalid(
                "Active Directory does not allow a dot at the end of `sAMAccountName`".to_owned(),
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::super::settings::tests::with;
    use super::*;
    use serde_json::{Value, json};

    fn made(settings: Value, new: Value) -> Result<NewEntry, Error> {
        let attributes = new["attributes"].as_object().cloned().unwrap_or_default();
        let new = NewAccount {
            name: new["name"].as_str().unwrap().to_owned(),
            owner: "E1".to_owned(),
            attributes: attributes.into_iter().collect(),
            enabled: new["enabled"].as_bool().unwrap_or(true),
            password: None,
        };
        new_entry(&with(settings).unwrap(), &new)
    }

    fn shown(entry: &NewEntry) -> Vec<(String, Value)> {
        let mut shown: Vec<(String, Value)> = entry
            .attributes
            .iter()
            .filter(|(name, _)| name != "unicodePwd")
            .map(|(name, values)| (name.clone(), entry::shown(values)))
            .collect();
        shown.sort_by(|one, other| one.0.cmp(&other.0));
        shown
    }

    fn ad() -> Value {
        json!({"flavour": "active_directory", "url": "ldaps://dc1.ex"})
    }

    #[test]
    fn a_person_gets_what_its_class_demands() {
        let entry = made(
            json!({}),
            json!({"name": "jo", "attributes": {"sn": "Doe", "mail": []}}),
        );
        let entry = entry.unwrap();
        assert_eq!(entry.dn, "uid=jo,ou=people,dc=ex");
        assert_eq!(
            shown(&entry),
            [
                ("cn".to_owned(), json!("jo")),
                ("employeeNumber".to_owned(), json!("E1")),
                ("objectClass".to_owned(), json!("inetOrgPerson")),
                ("sn".to_owned(), json!("Doe")),
                ("uid".to_owned(), json!("jo")),
            ]
        );
    }

    #[test]
    fn an_active_directory_account_is_complete_from_the_start() {
        let entry = made(
            ad(),
            json!({"name": "jo", "attributes": {"cn": "Doe, Jo"}, "enabled": false}),
        );
        let entry = entry.unwrap();
        assert_eq!(entry.dn, "cn=Doe\\2c Jo,ou=people,dc=ex");
        assert_eq!(
            shown(&entry),
            [
                ("cn".to_owned(), json!("Doe, Jo")),
                ("employeeNumber".to_owned(), json!("E1")),
                ("objectClass".to_owned(), json!("user")),
                ("sAMAccountName".to_owned(), json!("jo")),
                ("userAccountControl".to_owned(), json!("514")),
            ]
        );
        assert!(
            entry
                .attributes
                .iter()
                .any(|(name, _)| name == "unicodePwd")
        );
    }

    #[test]
    fn what_cannot_be_made_is_refused_before_anything_is_sent() {
        for (settings, new, words) in [
            (json!({}), json!({"name": ""}), "empty"),
            (json!({}), json!({"name": "a\0b"}), "control"),
            (json!({}), json!({"name": " a"}), "blank"),
            (
                json!({}),
                json!({"name": "a", "attributes": {"uid": "b"}}),
                "must be `a`",
            ),
            (
                json!({}),
                json!({"name": "a", "attributes": {"employeeNumber": "x"}}),
                "must be `E1`",
            ),
            (
                json!({}),
                json!({"name": "a", "attributes": {"cn": "x", "CN": "y"}}),
                "twice",
            ),
            (
                ad(),
                json!({"name": "a", "attributes": {"cn": ["x", "y"]}}),
                "one value",
            ),
            (ad(), json!({"name": "a".repeat(21)}), "20 characters"),
            (ad(), json!({"name": "a+b"}), "does not allow `+`"),
            (ad(), json!({"name": "a."}), "dot"),
        ] {
            let error = made(settings, new).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Invalid);
            assert!(
                error.message.contains(words),
                "`{}` lacks `{words}`",
                error.message
            );
        }
    }

    #[test]
    fn unknown_passwords_differ() {
        use secrecy::ExposeSecret;
        assert_ne!(
            unknown_password().expose_secret(),
            unknown_password().expose_secret()
        );
    }
}
