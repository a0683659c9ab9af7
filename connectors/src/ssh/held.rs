//! The folder of the authority while nobody else touches it: what was issued, what is revoked, and what others read.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use chrono::{DateTime, TimeDelta, Utc};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use ssh_key::certificate::{Builder, CertType};
use ssh_key::private::Ed25519Keypair;
use ssh_key::public::KeyData;
use ssh_key::{LineEnding, PrivateKey, PublicKey};

use super::PRIVATE;
use super::krl::{self, Section};
use super::settings::Settings;
use crate::connector::{
    Attributes, Credential, CredentialId, CredentialKind, Error, ErrorKind, Material, Minted,
    NativeId, NewCredential, Receipt,
};
use crate::disk;
use crate::journal::Journal;

const PREFIX: &str = "ssh_certificate:";
/// The longest name of a holder.
const HOLDER_CHARS_MAX: usize = 200;
/// How many names one certificate may have.
const NAMES_MAX: usize = 100;
/// Shorter RSA keys can be factored.
const RSA_BYTES_MIN: usize = 256;
const PUBLIC: u32 = 0o644;

/// One thing that was done. A stored form: fields are only ever added.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Line {
    Issued {
        at: DateTime<Utc>,
        key: String,
        account: String,
        serial: u64,
        is_host: bool,
        principals: Vec<String>,
        not_after: DateTime<Utc>,
        #[serde(default)]
        label: Option<String>,
        certificate: String,
    },
    Revoked {
        at: DateTime<Utc>,
        serial: u64,
        on_hold: bool,
    },
    Released {
        at: DateTime<Utc>,
        serial: u64,
    },
}

#[derive(Debug, Clone)]
pub(super) struct Leaf {
    pub account: String,
    pub key: String,
    pub serial: u64,
    pub is_host: bool,
    pub principals: Vec<String>,
    pub not_after: DateTime<Utc>,
    pub label: Option<String>,
    /// Whether it is revoked, and whether that can be taken back.
    pub revoked: Option<bool>,
    pub certificate: String,
}

pub(super) struct State {
    pub journal: Journal<Line>,
    pub known: Known,
}

#[derive(Default)]
pub(super) struct Known {
    pub leaves: HashMap<u64, Leaf>,
    pub by_key: HashMap<String, u64>,
}

impl Known {
    pub fn take(&mut self, line: Line) {
        match line {
            Line::Issued {
                key,
                account,
                serial,
                is_host,
                principals,
                not_after,
                label,
                certificate,
                ..
            } => {
                self.by_key.insert(key.clone(), serial);
                let leaf = Leaf {
                    account,
                    key,
                    serial,
                    is_host,
                    principals,
                    not_after,
                    label,
                    revoked: None,
                    certificate,
                };
                self.leaves.insert(serial, leaf);
            }
            Line::Revoked {
                serial, on_hold, ..
            } => {
                if let Some(leaf) = self.leaves.get_mut(&serial) {
                    leaf.revoked = Some(on_hold);
                }
            }
            Line::Released { serial, .. } => {
                if let Some(leaf) = self.leaves.get_mut(&serial) {
                    leaf.revoked = None;
                }
            }
        }
    }
}

/// The folder while nobody else touches it.
pub(super) struct Held<'a> {
    pub settings: &'a Settings,
    pub state: &'a mut State,
    pub now: DateTime<Utc>,
}

pub(super) fn invalid(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, what)
}

pub(super) fn unusable(path: &Path, error: std::io::Error) -> Error {
    let what = format!("`{}` cannot be used", path.display());
    Error::new(ErrorKind::Transient, what).with_source(error)
}

pub(super) fn broken(what: &str, error: ssh_key::Error) -> Error {
    Error::new(ErrorKind::Bug, what).with_source(error)
}

pub(super) fn id_of(serial: u64) -> CredentialId {
    CredentialId::new(format!("{PREFIX}{serial}"))
}

pub(super) fn serial_of(credential: &CredentialId) -> Option<u64> {
    credential.as_str().strip_prefix(PREFIX)?.parse().ok()
}

impl Held<'_> {
    pub fn authority(&self, is_host: bool) -> PathBuf {
        let name = if is_host { "host_ca" } else { "user_ca" };
        self.settings.folder.join(name)
    }

    /// The key that signs; made if there is none and the settings say so.
    pub fn signer(&self, is_host: bool) -> Result<PrivateKey, Error> {
        let path = self.authority(is_host);
        match std::fs::read(&path) {
            Ok(text) => PrivateKey::from_openssh(&text)
                .map_err(|error| broken(&format!("`{}` is no key", path.display()), error)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                if !self.settings.create {
                    return Err(invalid(format!(
                        "there is no authority in `{}`; set `create: true` to have one made, or put back what is missing",
                        path.display()
                    )));
                }
                let key = PrivateKey::from(Ed25519Keypair::from_seed(&rand::random()));
                let form = |error| broken("a key has no form", error);
                let secret = key.to_openssh(LineEnding::LF).map_err(form)?;
                let public = format!("{}\n", key.public_key().to_openssh().map_err(form)?);
                disk::replace(&path, secret.as_bytes(), PRIVATE)
                    .and_then(|()| {
                        disk::replace(&path.with_extension("pub"), public.as_bytes(), PUBLIC)
                    })
                    .map_err(|error| unusable(&path, error))?;
                Ok(key)
            }
            Err(error) => Err(unusable(&path, error)),
        }
    }

    pub fn append(&mut self, line: Line) -> Result<(), Error> {
        self.state.journal.append(&line)?;
        self.state.known.take(line);
        Ok(())
    }

    /// Writes the list that servers read.
    pub fn publish(&self) -> Result<(), Error> {
        let mut sections = Vec::new();
        for is_host in [false, true] {
            if !self.authority(is_host).exists() {
                continue;
            }
            let public = self.signer(is_host)?.public_key().clone();
            let mut serials: Vec<u64> = self
                .state
                .known
                .leaves
                .values()
                .filter(|leaf| leaf.is_host == is_host && leaf.revoked.is_some())
                .map(|leaf| leaf.serial)
                .collect();
            serials.sort_unstable();
            sections.push(Section {
                authority: public
                    .to_bytes()
                    .map_err(|error| broken("a key has no form", error))?,
                serials,
            });
        }
        let at = |number: i64| u64::try_from(number).unwrap_or_default();
        let version = at(self.now.timestamp_micros());
        let file = krl::written(version, at(self.now.timestamp()), &sections);
        let path = self.settings.folder.join("krl");
        disk::replace(&path, &file, PUBLIC).map_err(|error| unusable(&path, error))
    }

    /// Whether servers see it as revoked.
    pub fn is_listed(&self, serial: u64) -> Result<bool, Error> {
        let path = self.settings.folder.join("krl");
        let file = match std::fs::read(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(unusable(&path, error)),
        };
        let sections = krl::read(&file).ok_or_else(|| {
            let what = format!(
                "`{}` is not the list that was written; remove it",
                path.display()
            );
            Error::new(ErrorKind::Bug, what)
        })?;
        Ok(sections
            .iter()
            .any(|section| section.serials.contains(&serial)))
    }

    /// Whom certificates were issued to, each once.
    pub fn holders(&self) -> impl Iterator<Item = &str> {
        let leaves = self.state.known.leaves.values();
        let names: BTreeSet<&str> = leaves.map(|leaf| leaf.account.as_str()).collect();
        names.into_iter()
    }

    pub fn of(&self, account: &NativeId, credential: &CredentialId) -> Option<&Leaf> {
        let leaf = self.state.known.leaves.get(&serial_of(credential)?)?;
        (leaf.account == account.as_str()).then_some(leaf)
    }

    pub fn issued(&self, account: &str, key: &str) -> Option<&Leaf> {
        let leaf = self
            .state
            .known
            .leaves
            .get(self.state.known.by_key.get(key)?)?;
        (leaf.account == account).then_some(leaf)
    }

    pub fn issue(
        &mut self,
        new: &NewCredential,
        key: &str,
    ) -> Result<(Minted, Receipt, bool), Error> {
        if new.kind != CredentialKind::SshCertificate {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "an SSH authority issues SSH certificates and nothing else",
            ));
        }
        let holder = new.account.as_str();
        if holder.trim().is_empty()
            || holder.chars().count() > HOLDER_CHARS_MAX
            || holder.chars().any(char::is_control)
        {
            return Err(invalid(format!(
                "a holder's name has 1 to {HOLDER_CHARS_MAX} characters"
            )));
        }
        if let Some(leaf) = self.issued(holder, key) {
            let (minted, receipt) = self.told(leaf);
            return Ok((minted, receipt, false));
        }
        if self.state.known.by_key.contains_key(key) {
            return Err(invalid(
                "this operation key issued something to somebody else",
            ));
        }
        let (is_host, principals) = self.names(&new.attributes)?;
        let (public, secret) = match &new.material {
            Material::Public(line) => (public_key(line)?, None),
            Material::BySystem => {
                let pair = PrivateKey::from(Ed25519Keypair::from_seed(&rand::random()));
                let secret = pair
                    .to_openssh(LineEnding::LF)
                    .map_err(|error| broken("a key has no form", error))?;
                let secret = SecretString::from(secret.as_str().to_owned());
                (pair.public_key().clone(), Some(secret))
            }
            Material::Secret(_) => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    "a private key stays where it is: send the public one",
                ));
            }
        };
        let lifetime_s = new.lifetime_s.unwrap_or(self.settings.lifetime_s);
        if !(1..=self.settings.lifetime_s_max).contains(&lifetime_s) {
            return Err(invalid(format!(
                "a life of {lifetime_s} s was asked for; `lifetime_s_max` allows 1 to {}",
                self.settings.lifetime_s_max
            )));
        }
        let seconds = |text: u64| TimeDelta::seconds(i64::try_from(text).unwrap_or_default());
        let not_after = self.now + seconds(lifetime_s);
        let not_before = self.now - seconds(self.settings.backdate_s);
        let signer = self.signer(is_host)?;
        let serial = loop {
            let serial: u64 = rand::random();
            // Zero says that there is no number.
            if serial != 0 && !self.state.known.leaves.contains_key(&serial) {
                break serial;
            }
        };
        let certify = || -> Result<String, ssh_key::Error> {
            let nonce: [u8; 32] = rand::random();
            let at = |time: DateTime<Utc>| u64::try_from(time.timestamp()).unwrap_or_default();
            let mut builder = Builder::new(nonce, &public, at(not_before), at(not_after))?;
            builder
                .serial(serial)?
                .key_id(holder)?
                .cert_type(if is_host {
                    CertType::Host
                } else {
                    CertType::User
                })?;
            for name in &principals {
                builder.valid_principal(name)?;
            }
            if !is_host {
                for extension in &self.settings.extensions {
                    builder.extension(extension, "")?;
                }
            }
            builder.sign(&signer)?.to_openssh()
        };
        let certificate =
            certify().map_err(|error| broken("the certificate could not be signed", error))?;
        self.append(Line::Issued {
            at: self.now,
            key: key.to_owned(),
            account: holder.to_owned(),
            serial,
            is_host,
            principals,
            not_after,
            label: new.label.clone(),
            certificate,
        })?;
        if !self.settings.folder.join("krl").exists() {
            // A server that is told of a list and finds none refuses everybody.
            self.publish()?;
        }
        let Some(leaf) = self.issued(holder, key) else {
            return Err(Error::new(
                ErrorKind::Bug,
                "what was noted is not in the journal",
            ));
        };
        let (mut minted, receipt) = self.told(leaf);
        minted.secret = secret;
        Ok((minted, receipt, true))
    }

    pub fn names(&self, attributes: &Attributes) -> Result<(bool, Vec<String>), Error> {
        let (mut is_host, mut principals) = (false, Vec::new());
        for (name, value) in attributes {
            match (name.as_str(), value) {
                ("usage", Value::String(usage)) if usage == "host" => is_host = true,
                ("usage", Value::String(usage)) if usage == "user" => {}
                ("principals", Value::Array(list)) => {
                    let texts: Option<Vec<String>> = list
                        .iter()
                        .map(|it| it.as_str().map(str::to_owned))
                        .collect();
                    principals =
                        texts.ok_or_else(|| invalid("`principals` must be a list of texts"))?;
                }
                _ => {
                    return Err(invalid(format!(
                        "`{}` is no attribute here, or has no such value; there are `principals`, and `usage` with `user` or `host`",
                        name.escape_debug()
                    )));
                }
            }
        }
        if principals.is_empty() || principals.len() > NAMES_MAX {
            // Without any it would let in as everybody.
            return Err(invalid(format!("give 1 to {NAMES_MAX} `principals`")));
        }
        if let Some(name) = principals
            .iter()
            .find(|name| !self.settings.allows(is_host, name))
        {
            let setting = if is_host { "hosts" } else { "users" };
            return Err(invalid(format!(
                "this authority may not certify `{}`; the setting `{setting}` says what it may",
                name.escape_debug()
            )));
        }
        Ok((is_host, principals))
    }

    pub fn listed(&self, leaf: &Leaf) -> Credential {
        Credential {
            active: Some(leaf.revoked.is_none() && leaf.not_after > self.now),
            label: leaf.label.clone(),
            expires_at: Some(leaf.not_after),
            ..Credential::new(id_of(leaf.serial), CredentialKind::SshCertificate)
        }
    }

    pub fn told(&self, leaf: &Leaf) -> (Minted, Receipt) {
        let credential = self.listed(leaf);
        let receipt = Receipt {
            account: Some(NativeId::new(leaf.account.as_str())),
            after: Some(json!({ "principals": leaf.principals, "not_after": leaf.not_after })),
            request_id: Some(leaf.key.clone()),
            credential: Some(credential.clone()),
            ..Receipt::default()
        };
        let minted = Minted {
            credential,
            public: Some(leaf.certificate.clone()),
            secret: None,
        };
        (minted, receipt)
    }

    /// Puts it on the list, or takes it off: whether that was done now.
    pub fn mark(
        &mut self,
        account: &NativeId,
        credential: &CredentialId,
        wanted: Mark,
    ) -> Result<(Receipt, bool), Error> {
        let Some(leaf) = self.of(account, credential).cloned() else {
            if wanted == Mark::Good {
                let what = format!("no certificate `{credential}` was issued to `{account}`");
                return Err(Error::new(ErrorKind::NotFound, what));
            }
            return Ok((receipt(account, credential, "unknown", "unknown"), false));
        };
        let (before, serial, at) = (Mark::of(&leaf), leaf.serial, self.now);
        let line = match (before, wanted) {
            (Mark::Gone, Mark::Good) => {
                return Err(invalid(format!(
                    "`{credential}` was revoked for good; issue another"
                )));
            }
            (before, wanted) if before == wanted || before == Mark::Gone => None,
            (_, Mark::Good) => Some(Line::Released { at, serial }),
            (_, wanted) => Some(Line::Revoked {
                at,
                serial,
                on_hold: wanted == Mark::OnHold,
            }),
        };
        let done = line.is_some();
        if let Some(line) = line {
            self.append(line)?;
        }
        // Somebody may have stopped between the line and the list.
        let on_list = self
            .of(account, credential)
            .is_some_and(|leaf| leaf.revoked.is_some());
        if done || self.is_listed(serial)? != on_list {
            self.publish()?;
        }
        let after = if done { wanted } else { before };
        Ok((
            receipt(account, credential, before.word(), after.word()),
            done,
        ))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    Good,
    OnHold,
    Gone,
}

impl Mark {
    pub fn of(leaf: &Leaf) -> Self {
        match leaf.revoked {
            None => Self::Good,
            Some(true) => Self::OnHold,
            Some(false) => Self::Gone,
        }
    }

    pub fn word(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::OnHold => "on hold",
            Self::Gone => "revoked",
        }
    }
}

pub(super) fn receipt(account: &NativeId, id: &CredentialId, before: &str, after: &str) -> Receipt {
    Receipt {
        account: Some(account.clone()),
        before: Some(json!({ "credential": id, "state": before })),
        after: Some(json!({ "credential": id, "state": after })),
        ..Receipt::default()
    }
}

/// A public key that is worth certifying.
pub(super) fn public_key(line: &str) -> Result<PublicKey, Error> {
    let key = PublicKey::from_openssh(line.trim()).map_err(|error| {
        invalid("the public half must be one line of a public SSH key").with_source(error)
    })?;
    let strong = match key.key_data() {
        KeyData::Ed25519(_)
        | KeyData::Ecdsa(_)
        | KeyData::SkEcdsaSha2NistP256(_)
        | KeyData::SkEd25519(_) => true,
        KeyData::Rsa(rsa) => {
            rsa.n
                .as_bytes()
                .iter()
                .skip_while(|byte| **byte == 0)
                .count()
                >= RSA_BYTES_MIN
        }
        _ => false,
    };
    if strong {
        Ok(key)
    } else {
        Err(invalid(
            "the key is weak or of a kind that is not taken; use Ed25519, ECDSA, or RSA from 2048 bits on",
        ))
    }
}
