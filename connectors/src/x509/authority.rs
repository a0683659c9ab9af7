//! The authority itself: its generations, what they sign, and the files that others read.
//!
//! ```text
//! lock                 held while something is done; several processes may share the folder
//! index.jsonl          what was done (see `index`)
//! g1/root.key          may be carried away: it is needed for the next generation's cross certificate only
//! g1/ca.key            what signs; both are destroyed with their generation
//! bundle.pem           the roots to trust now: all that are not retired
//! chain.pem            what signs now, and what leads from older roots to it
//! crl.pem  g1/crl.der  who is revoked
//! ```
//!
//! Everything but the keys and the index can be made again from the index, and is, whenever it changes.

use std::collections::HashSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CrlDistributionPoint,
    DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, PublicKeyData, RevocationReason, RevokedCertParams, SerialNumber,
};
use x509_parser::prelude::FromDer as _;
use x509_parser::revocation_list::CertificateRevocationList;
use x509_parser::time::ASN1Time;

use super::index::{Generation, Index, Line};
use super::key::pem;
use super::request::{Usage, Wanted};
use super::settings::Settings;
use crate::connector::{CredentialId, Error, ErrorKind};
use crate::disk;

const PRIVATE: u32 = 0o600;
const PUBLIC: u32 = 0o644;

pub(super) struct Authority {
    pub settings: Settings,
    system: String,
    index: Mutex<Index>,
}

/// The authority while nobody else touches its folder.
pub(super) struct Held<'a> {
    authority: &'a Authority,
    pub index: MutexGuard<'a, Index>,
    pub now: DateTime<Utc>,
    /// Unlocked when it is closed.
    _lock: File,
}

/// What is needed to certify a key.
pub(super) struct Signing<'a> {
    pub key: &'a dyn AnyKey,
    pub is_rsa: bool,
    pub wanted: &'a Wanted,
    pub not_before: DateTime<Utc>,
    pub not_after: DateTime<Utc>,
}

/// A public key, of whatever type it is.
pub(super) trait AnyKey: Sync {
    fn signed(
        &self,
        params: &CertificateParams,
        issuer: &Issuer<'_, KeyPair>,
    ) -> Result<rcgen::Certificate, rcgen::Error>;
}

impl<K: PublicKeyData + Sync> AnyKey for K {
    fn signed(
        &self,
        params: &CertificateParams,
        issuer: &Issuer<'_, KeyPair>,
    ) -> Result<rcgen::Certificate, rcgen::Error> {
        params.signed_by(self, issuer)
    }
}

impl Authority {
    pub fn new(system: &str, settings: Settings) -> Self {
        let index = Mutex::new(Index::new(&settings.folder));
        Self {
            settings,
            system: system.to_owned(),
            index,
        }
    }

    pub fn error(&self, kind: ErrorKind, what: impl AsRef<str>) -> Error {
        Error::new(
            kind,
            format!("authority `{}`: {}", self.system, what.as_ref()),
        )
    }

    /// Takes the folder, and reads what others did.
    pub fn hold(&self, now: DateTime<Utc>) -> Result<Held<'_>, Error> {
        let folder = &self.settings.folder;
        if self.settings.create {
            disk::private_folder(folder).map_err(|error| self.disk(folder, error))?;
        }
        let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        let lock = disk::lock(&folder.join("lock"))
            .map_err(|error| {
                self.error(
                    ErrorKind::Unreachable,
                    format!(
                        "cannot use its folder `{}`; make it writable, or set `create: true` for a new authority",
                        folder.display()
                    ),
                )
                .with_source(error)
            })?
            .ok_or_else(|| {
                self.error(
                    ErrorKind::Transient,
                    "another process holds its folder for too long",
                )
            })?;
        index.catch_up()?;
        Ok(Held {
            authority: self,
            index,
            now,
            _lock: lock,
        })
    }

    fn disk(&self, path: &Path, error: std::io::Error) -> Error {
        self.error(
            ErrorKind::Transient,
            format!("`{}` cannot be written", path.display()),
        )
        .with_source(error)
    }

    fn rcgen(&self, what: &str, error: rcgen::Error) -> Error {
        self.error(ErrorKind::Bug, what).with_source(error)
    }

    fn folder_of(&self, generation: u32) -> PathBuf {
        self.settings.folder.join(format!("g{generation}"))
    }
}

impl Held<'_> {
    pub fn settings(&self) -> &Settings {
        &self.authority.settings
    }

    /// The generation that signs. A new authority is made if there is none and the settings say so.
    pub fn signing(&mut self) -> Result<Generation, Error> {
        if let Some(number) = self.index.signs {
            return self.generation(number);
        }
        if !self.authority.settings.create {
            return Err(self.authority.error(
                ErrorKind::Invalid,
                format!(
                    "there is none in `{}`; set `create: true` to have one made, or put back the folder that is missing",
                    self.authority.settings.folder.display()
                ),
            ));
        }
        let number = match self.index.generations.keys().next() {
            Some(number) => *number,
            None => self.new_generation("")?.number,
        };
        self.sign_with(number)?;
        self.generation(number)
    }

    pub fn generation(&self, number: u32) -> Result<Generation, Error> {
        self.index.generations.get(&number).cloned().ok_or_else(|| {
            self.authority.error(
                ErrorKind::Bug,
                format!("the index names no generation {number}"),
            )
        })
    }

    /// A new root and what signs below it. It is trusted from now on and signs nothing yet.
    pub fn new_generation(&mut self, key: &str) -> Result<Generation, Error> {
        let authority = self.authority;
        let settings = &authority.settings;
        let number = self
            .index
            .generations
            .keys()
            .next_back()
            .map_or(1, |last| last + 1);
        let folder = authority.folder_of(number);
        // Left by somebody who stopped before its line was written: nobody ever trusted it.
        if folder.exists() {
            std::fs::remove_dir_all(&folder).map_err(|error| authority.disk(&folder, error))?;
        }
        disk::private_folder(&folder).map_err(|error| authority.disk(&folder, error))?;
        let name = |what: &str| format!("{} {what} {number}", settings.subject);
        let algorithm = settings.key_algorithm.rcgen();
        let made = || -> Result<_, rcgen::Error> {
            let not_before = back(self.now, settings.backdate_s);
            let root_key = KeyPair::generate_for(algorithm)?;
            let mut root = authority_params(
                &name("root"),
                BasicConstraints::Unconstrained,
                not_before,
                after(self.now, settings.root_lifetime_s),
            )?;
            let root_certificate = root.self_signed(&root_key)?;
            let signer_key = KeyPair::generate_for(algorithm)?;
            let not_after = after(self.now, settings.authority_lifetime_s);
            let mut signer = authority_params(
                &name("authority"),
                BasicConstraints::Constrained(0),
                not_before,
                not_after,
            )?;
            signer.use_authority_key_identifier_extension = true;
            let root_issuer = Issuer::from_params(&root, &root_key);
            let signer_certificate = signer.signed_by(&signer_key, &root_issuer)?;
            root.use_authority_key_identifier_extension = true;
            root.serial_number = Some(serial());
            Ok((
                root,
                root_key,
                root_certificate,
                signer_key,
                signer_certificate,
                not_after,
            ))
        };
        let (mut root, root_key, root_certificate, signer_key, signer_certificate, not_after) =
            made().map_err(|error| authority.rcgen("a generation could not be made", error))?;
        let cross = match self.index.signs {
            Some(before) => self.cross(before, &mut root, &root_key)?,
            None => None,
        };
        for (file, key) in [("root.key", &root_key), ("ca.key", &signer_key)] {
            let path = folder.join(file);
            disk::create(&path, pem(key).as_bytes(), PRIVATE)
                .map_err(|error| authority.disk(&path, error))?;
        }
        disk::sync_folder(&folder)
            .and_then(|()| disk::sync_folder(&settings.folder))
            .map_err(|error| authority.disk(&folder, error))?;
        self.index.append(&Line::Authority {
            at: self.now,
            key: key.to_owned(),
            generation: number,
            id: CredentialId::of_certificate(root_certificate.der()),
            root: root_certificate.pem(),
            signer: signer_certificate.pem(),
            cross,
            not_after,
        })?;
        self.publish()?;
        self.generation(number)
    }

    /// The new root signed by the one before it, if that one's key is here.
    fn cross(
        &self,
        before: u32,
        root: &mut CertificateParams,
        key: &KeyPair,
    ) -> Result<Option<String>, Error> {
        let authority = self.authority;
        let known = self.generation(before)?;
        let path = authority.folder_of(before).join("root.key");
        let pem = match std::fs::read_to_string(&path) {
            Ok(pem) => pem,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(authority.disk(&path, error)),
        };
        let signed = || -> Result<String, rcgen::Error> {
            let issuer = Issuer::from_ca_cert_pem(&known.root, KeyPair::from_pem(&pem)?)?;
            Ok(root.signed_by(key, &issuer)?.pem())
        };
        signed()
            .map(Some)
            .map_err(|error| authority.rcgen("the cross certificate could not be made", error))
    }

    /// From now on `number` signs.
    pub fn sign_with(&mut self, number: u32) -> Result<(), Error> {
        self.index.append(&Line::Signs {
            at: self.now,
            generation: number,
        })?;
        self.publish()
    }

    pub fn retire(&mut self, number: u32) -> Result<(), Error> {
        self.index.append(&Line::Retired {
            at: self.now,
            generation: number,
        })?;
        self.publish()
    }

    /// Destroys the keys of a generation that nobody is told to trust any more.
    pub fn forget_keys(&self, number: u32) -> Result<(), Error> {
        let folder = self.authority.folder_of(number);
        for file in ["root.key", "ca.key"] {
            let path = folder.join(file);
            match std::fs::remove_file(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(self.authority.disk(&path, error)),
            }
        }
        if folder.exists() {
            disk::sync_folder(&folder).map_err(|error| self.authority.disk(&folder, error))?;
        }
        Ok(())
    }

    fn issuer(&self, generation: &Generation) -> Result<Issuer<'static, KeyPair>, Error> {
        let path = self.authority.folder_of(generation.number).join("ca.key");
        let pem = std::fs::read_to_string(&path).map_err(|error| {
            self.authority
                .error(
                    ErrorKind::Unreachable,
                    format!("its key `{}` cannot be read", path.display()),
                )
                .with_source(error)
        })?;
        KeyPair::from_pem(&pem)
            .and_then(|key| Issuer::from_ca_cert_pem(&generation.signer, key))
            .map_err(|error| {
                self.authority
                    .rcgen("its key and its certificate do not go together", error)
            })
    }

    /// Certifies a key: the certificate and its serial number.
    pub fn certify(
        &self,
        generation: &Generation,
        signing: &Signing<'_>,
    ) -> Result<(rcgen::Certificate, String), Error> {
        let settings = &self.authority.settings;
        let number = serial();
        let text = hex(number.as_ref());
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, signing.wanted.common_name.as_str());
        params.subject_alt_names.clone_from(&signing.wanted.names);
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(number);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        if signing.is_rsa {
            params.key_usages.push(KeyUsagePurpose::KeyEncipherment);
        }
        params.extended_key_usages = match signing.wanted.usage {
            Usage::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
            Usage::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
            Usage::Both => vec![
                ExtendedKeyUsagePurpose::ServerAuth,
                ExtendedKeyUsagePurpose::ClientAuth,
            ],
        };
        if let Some(url) = settings.crl_url_of(generation.number) {
            params.crl_distribution_points = vec![CrlDistributionPoint { uris: vec![url] }];
        }
        let issuer = self.issuer(generation)?;
        let mut made = || -> Result<rcgen::Certificate, rcgen::Error> {
            params.not_before = moment(signing.not_before)?;
            params.not_after = moment(signing.not_after)?;
            signing.key.signed(&params, &issuer)
        };
        let certificate =
            made().map_err(|error| self.authority.rcgen("it could not be signed", error))?;
        Ok((certificate, text))
    }

    /// What stands behind a leaf of this generation: what signed it, and the way from the root before.
    pub fn above(&self, generation: &Generation) -> String {
        let before = self
            .index
            .generations
            .range(..generation.number)
            .any(|(_, known)| !known.retired);
        let mut above = generation.signer.clone();
        if let (Some(cross), true) = (&generation.cross, before) {
            above.push_str(cross);
        }
        above
    }

    /// The roots to trust now.
    pub fn bundle(&self) -> String {
        let trusted = self
            .index
            .generations
            .values()
            .filter(|known| !known.retired);
        trusted.map(|known| known.root.as_str()).collect()
    }

    /// Writes what others read.
    pub fn publish(&self) -> Result<(), Error> {
        let folder = &self.authority.settings.folder;
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            disk::replace(&path, text.as_bytes(), PUBLIC)
                .map_err(|error| self.authority.disk(&path, error))
        };
        write("bundle.pem", &self.bundle())?;
        if let Some(number) = self.index.signs {
            write("chain.pem", &self.above(&self.generation(number)?))?;
        }
        let mut all = String::new();
        for known in self.index.generations.values() {
            // Of one that ended, or that nobody trusts, nothing is valid any more.
            if known.not_after > self.now && !known.retired {
                all.push_str(&self.revoked(known)?);
            }
        }
        write("crl.pem", &all)
    }

    /// The list of the revoked of one generation, as PEM; written as DER beside its keys, and where others read it.
    fn revoked(&self, generation: &Generation) -> Result<String, Error> {
        let authority = self.authority;
        let issuer = self.issuer(generation)?;
        let next = after(self.now, authority.settings.crl_lifetime_s);
        let made = || -> Result<_, rcgen::Error> {
            let revoked = self
                .index
                .revoked_of(generation.number)
                .into_iter()
                .filter_map(|leaf| leaf.revoked.map(|revocation| (leaf, revocation)))
                .map(|(leaf, revocation)| {
                    Ok(RevokedCertParams {
                        serial_number: SerialNumber::from(unhex(&leaf.serial)),
                        revocation_time: moment(revocation.at)?,
                        reason_code: Some(if revocation.on_hold {
                            RevocationReason::CertificateHold
                        } else {
                            RevocationReason::Superseded
                        }),
                        invalidity_date: None,
                    })
                })
                .collect::<Result<Vec<_>, rcgen::Error>>()?;
            CertificateRevocationListParams {
                this_update: moment(self.now)?,
                next_update: moment(next)?,
                // Grows with every line, and with every moment a list is made again without one.
                crl_number: SerialNumber::from(
                    u64::try_from(self.now.timestamp_micros()).unwrap_or_default(),
                ),
                issuing_distribution_point: None,
                revoked_certs: revoked,
                key_identifier_method: KeyIdMethod::Sha256,
            }
            .signed_by(&issuer)
        };
        let list = made()
            .map_err(|error| authority.rcgen("the list of the revoked could not be made", error))?;
        let path = authority.folder_of(generation.number).join("crl.der");
        let shown = authority
            .settings
            .folder
            .join(format!("crl-g{}.der", generation.number));
        for path in [path, shown] {
            disk::replace(&path, list.der(), PUBLIC)
                .map_err(|error| authority.disk(&path, error))?;
        }
        list.pem()
            .map_err(|error| authority.rcgen("the list of the revoked has no form", error))
    }

    /// Makes the lists of the revoked again when half of their life is over.
    pub fn refresh(&self) -> Result<(), Error> {
        let Some(number) = self.index.signs else {
            return Ok(());
        };
        let half = self.authority.settings.crl_lifetime_s / 2;
        match self.revoked_list(number)? {
            Some(list) if list.next_update > after(self.now, half) => Ok(()),
            _ => self.publish(),
        }
    }

    /// The list of the revoked of a generation, as others read it; `None` before there is one.
    pub fn revoked_list(&self, generation: u32) -> Result<Option<RevokedList>, Error> {
        let path = self.authority.folder_of(generation).join("crl.der");
        let der = match std::fs::read(&path) {
            Ok(der) => der,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.authority.disk(&path, error)),
        };
        let (_, list) = CertificateRevocationList::from_der(&der).map_err(|error| {
            let what = format!("`{}` is no list of the revoked; remove it", path.display());
            self.authority
                .error(ErrorKind::Bug, what)
                .with_source(error)
        })?;
        let next = list.next_update().map_or(0, |next| next.timestamp());
        Ok(Some(RevokedList {
            serials: list
                .iter_revoked_certificates()
                .map(|revoked| hex(trimmed(revoked.raw_serial())))
                .collect(),
            next_update: DateTime::from_timestamp(next, 0).unwrap_or_default(),
            der,
        }))
    }
}

/// What a list of the revoked says.
pub(super) struct RevokedList {
    pub serials: HashSet<String>,
    pub next_update: DateTime<Utc>,
    pub der: Vec<u8>,
}

/// A number without the zero that only says it is not negative.
fn trimmed(bytes: &[u8]) -> &[u8] {
    match bytes {
        [0, rest @ ..] if !rest.is_empty() => rest,
        _ => bytes,
    }
}

fn authority_params(
    name: &str,
    constraints: BasicConstraints,
    not_before: DateTime<Utc>,
    not_after: DateTime<Utc>,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(constraints);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(serial());
    params.not_before = moment(not_before)?;
    params.not_after = moment(not_after)?;
    Ok(params)
}

/// 128 random bits.
fn serial() -> SerialNumber {
    let mut bytes: [u8; 16] = rand::random();
    // Never shorter, so that it reads the same everywhere.
    if let Some(first) = bytes.first_mut().filter(|first| **first == 0) {
        *first = 1;
    }
    SerialNumber::from(bytes.to_vec())
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Vec<u8> {
    text.as_bytes()
        .chunks(2)
        .filter_map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

/// A time as certificates hold it.
fn moment(at: DateTime<Utc>) -> Result<time::OffsetDateTime, rcgen::Error> {
    ASN1Time::from_timestamp(at.timestamp())
        .map(|time| time.to_datetime())
        .map_err(|_| rcgen::Error::Time)
}

pub(super) fn after(at: DateTime<Utc>, seconds: u64) -> DateTime<Utc> {
    i64::try_from(seconds)
        .ok()
        .and_then(chrono::TimeDelta::try_seconds)
        .and_then(|life| at.checked_add_signed(life))
        .unwrap_or(at)
}

pub(super) fn back(at: DateTime<Utc>, seconds: u64) -> DateTime<Utc> {
    at - (after(at, seconds) - at)
}
