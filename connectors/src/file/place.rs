//! One bundle on the disk.
//!
//! ```text
//! web/                       for consumers
//!   tls.crt -> current/tls.crt
//!   tls.key -> current/tls.key
//!   current -> .versions/v2-4f1c...      one rename switches all files at once
//!   .versions/v1-a03b.../                the version before, for the way back
//!   .versions/v2-4f1c.../tls.crt, tls.key, .manifest.json
//!   .reloaded                            which version the consumer was told to read
//! ```
//!
//! A version is written beside, synced, and renamed into its place: it is there whole or not at all. Its manifest has salted
//! digests of its files, so that what a person changed by hand shows, and no digest of a password can be looked up.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::settings::Bundle;
use crate::connector::{CredentialId, Error, ErrorKind};
use crate::disk;

const VERSIONS: &str = ".versions";
const CURRENT: &str = "current";
const MANIFEST: &str = ".manifest.json";
const RELOADED: &str = ".reloaded";
/// How many versions may lie in one bundle.
const VERSIONS_MAX: usize = 100;
/// The largest file that is compared.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// A version as its manifest describes it. A stored form: fields are only ever added.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Manifest {
    credential: CredentialId,
    salt: String,
    /// Digests of the parts, by their names.
    parts: BTreeMap<String, Kept>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Kept {
    file: String,
    digest: String,
}

#[derive(Debug, Clone)]
pub(super) struct Version {
    pub number: u32,
    pub folder: PathBuf,
    pub is_current: bool,
    manifest: Manifest,
}

impl Version {
    pub fn credential(&self) -> &CredentialId {
        &self.manifest.credential
    }

    /// Where its parts are, as references to secrets.
    pub fn references(&self) -> BTreeMap<&str, String> {
        let parts = self.manifest.parts.iter();
        parts
            .map(|(name, kept)| {
                let path = self.folder.join(&kept.file);
                (name.as_str(), format!("file:{}", path.display()))
            })
            .collect()
    }

    /// The parts that are not what they were when they were kept.
    pub fn changed(&self) -> Vec<String> {
        let mut changed = Vec::new();
        for (name, kept) in &self.manifest.parts {
            let read = read_bounded(&self.folder.join(&kept.file));
            let same =
                read.is_ok_and(|content| digest(&self.manifest.salt, &content) == kept.digest);
            if !same {
                changed.push(name.clone());
            }
        }
        changed
    }

    fn holds(&self, parts: &BTreeMap<String, SecretString>) -> bool {
        parts.len() == self.manifest.parts.len()
            && parts.iter().all(|(name, part)| {
                let digest = digest(&self.manifest.salt, part.expose_secret().as_bytes());
                self.manifest
                    .parts
                    .get(name)
                    .is_some_and(|kept| kept.digest == digest)
            })
    }
}

/// A bundle while nobody else changes it.
#[derive(Debug)]
pub(super) struct Place {
    pub bundle: Bundle,
    name: String,
    root: PathBuf,
    /// Unlocked when it is closed.
    _lock: File,
}

fn error(kind: ErrorKind, path: &Path, what: &str) -> Error {
    Error::new(kind, format!("`{}`: {what}", path.display()))
}

fn disk_error(path: &Path, source: io::Error) -> Error {
    let kind = match source.kind() {
        io::ErrorKind::PermissionDenied => ErrorKind::Denied,
        _ => ErrorKind::Transient,
    };
    error(kind, path, "cannot be used").with_source(source)
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    // A link instead of a file leads who knows where.
    if !std::fs::symlink_metadata(path)?.is_file() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    File::open(path)?
        .take(FILE_BYTES_MAX)
        .read_to_end(&mut content)?;
    Ok(content)
}

fn digest(salt: &str, content: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut hash = Sha256::new();
    hash.update(salt.as_bytes());
    hash.update(content);
    hash.finalize()
        .iter()
        .fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// Whether the folder itself is safe to write into: a folder, no link, and nobody else may put things into it.
///
/// # Errors
/// Says what is wrong, and how to mend it.
pub(super) fn safe(folder: &Path) -> Result<(), Error> {
    let seen = std::fs::symlink_metadata(folder).map_err(|error| disk_error(folder, error))?;
    if seen.is_symlink() {
        return Err(error(
            ErrorKind::Denied,
            folder,
            "is a symbolic link and may lead out of `root`; name the folder itself",
        ));
    }
    if !seen.is_dir() {
        return Err(error(ErrorKind::Denied, folder, "is not a folder"));
    }
    if seen.mode() & 0o002 != 0 {
        return Err(error(
            ErrorKind::Denied,
            folder,
            "everybody may write into it; `chmod o-w` it",
        ));
    }
    Ok(())
}

impl Place {
    /// Takes the bundle. Its folder is made when `root` has none.
    pub fn hold(name: &str, bundle: &Bundle, root: &Path) -> Result<Self, Error> {
        safe(root)?;
        let below = bundle.folder.strip_prefix(root).unwrap_or(Path::new(""));
        let mut folder = root.to_path_buf();
        for part in below.components() {
            folder.push(part);
            match std::fs::create_dir(&folder) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(disk_error(&folder, error)),
            }
            safe(&folder)?;
        }
        let path = folder.join(".lock");
        let lock = disk::lock(&path)
            .map_err(|error| disk_error(&path, error))?
            .ok_or_else(|| {
                error(
                    ErrorKind::Transient,
                    &path,
                    "another process holds it for too long",
                )
            })?;
        let place = Self {
            bundle: bundle.clone(),
            name: name.to_owned(),
            root: root.to_path_buf(),
            _lock: lock,
        };
        let versions = place.versions_folder();
        match std::fs::create_dir(&versions) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(disk_error(&versions, error)),
        }
        safe(&versions)?;
        Ok(place)
    }

    fn versions_folder(&self) -> PathBuf {
        self.bundle.folder.join(VERSIONS)
    }

    /// What `current` points to, if it points to a version of this bundle.
    fn current(&self) -> Result<Option<PathBuf>, Error> {
        let path = self.bundle.folder.join(CURRENT);
        match std::fs::read_link(&path) {
            Ok(target) => Ok(Some(self.bundle.folder.join(target))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(disk_error(&path, error)),
        }
    }

    /// All that are whole, the oldest first.
    pub fn versions(&self) -> Result<Vec<Version>, Error> {
        let folder = self.versions_folder();
        let current = self.current()?;
        let mut versions = Vec::new();
        let entries = std::fs::read_dir(&folder).map_err(|error| disk_error(&folder, error))?;
        for entry in entries {
            let path = entry.map_err(|error| disk_error(&folder, error))?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let Some(number) = name.and_then(number_in) else {
                continue;
            };
            let manifest = path.join(MANIFEST);
            let read = read_bounded(&manifest).map_err(|error| disk_error(&manifest, error))?;
            let manifest = serde_json::from_slice(&read).map_err(|source| {
                error(
                    ErrorKind::Bug,
                    &manifest,
                    "is not what was written there; remove this version",
                )
                .with_source(source)
            })?;
            versions.push(Version {
                number,
                is_current: current.as_deref() == Some(path.as_path()),
                folder: path,
                manifest,
            });
        }
        versions.sort_by_key(|version| version.number);
        Ok(versions)
    }

    pub fn version(&self, credential: &CredentialId) -> Result<Option<Version>, Error> {
        let mut versions = self.versions()?.into_iter();
        Ok(versions.find(|version| version.credential() == credential))
    }

    /// Keeps a credential as a new version; whether it was there before.
    pub fn store(
        &self,
        credential: &CredentialId,
        parts: &BTreeMap<String, SecretString>,
    ) -> Result<(Version, bool), Error> {
        let bundle = &self.bundle;
        if !parts.keys().eq(bundle.parts.keys()) {
            let names = |names: Vec<&String>| {
                names
                    .into_iter()
                    .map(String::as_str)
                    .collect::<Vec<_>>()
                    .join(", ")
            };
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "bundle `{}` keeps the parts {} and was given {}",
                    self.name,
                    names(bundle.parts.keys().collect()),
                    names(parts.keys().collect()),
                ),
            ));
        }
        let too_long = |part: &SecretString| part.expose_secret().len() as u64 >= FILE_BYTES_MAX;
        if parts.values().any(too_long) {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("a part is longer than {FILE_BYTES_MAX} bytes"),
            ));
        }
        let versions = self.versions()?;
        if let Some(known) = versions
            .iter()
            .find(|known| known.credential() == credential)
        {
            if !known.holds(parts) {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!(
                        "bundle `{}` keeps `{credential}` already, with other content",
                        self.name
                    ),
                ));
            }
            if let Some(changed) = known.changed().first() {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!(
                        "`{changed}` of `{credential}` was changed by somebody in `{}`; put it back, or destroy this version",
                        known.folder.display()
                    ),
                ));
            }
            return Ok((known.clone(), true));
        }
        if versions.len() >= VERSIONS_MAX {
            return Err(Error::new(
                ErrorKind::Full,
                format!(
                    "bundle `{}` keeps {VERSIONS_MAX} versions; destroy those that nobody needs",
                    self.name
                ),
            ));
        }
        let number = versions.last().map_or(1, |last| last.number + 1);
        let written = self.write(number, credential, parts)?;
        Ok((written, false))
    }

    fn write(
        &self,
        number: u32,
        credential: &CredentialId,
        parts: &BTreeMap<String, SecretString>,
    ) -> Result<Version, Error> {
        let bundle = &self.bundle;
        let versions = self.versions_folder();
        self.clear_partial()?;
        let partial = versions.join(format!(".partial-{}", Uuid::new_v4()));
        let mut manifest = Manifest {
            credential: credential.clone(),
            salt: Uuid::new_v4().to_string(),
            parts: BTreeMap::new(),
        };
        let tag = digest("", credential.as_str().as_bytes());
        let folder = versions.join(format!("v{number}-{}", tag.get(..16).unwrap_or_default()));
        let mut write = || -> io::Result<()> {
            std::fs::create_dir(&partial)?;
            for (name, part) in parts {
                let Some(place) = bundle.parts.get(name) else {
                    continue;
                };
                let content = part.expose_secret().as_bytes();
                let path = partial.join(&place.file);
                disk::create(&path, content, place.mode)?;
                if bundle.owner.is_some() || bundle.group.is_some() {
                    std::os::unix::fs::chown(&path, bundle.owner, bundle.group)?;
                }
                manifest.parts.insert(
                    name.clone(),
                    Kept {
                        file: place.file.clone(),
                        digest: digest(&manifest.salt, content),
                    },
                );
            }
            let text = serde_json::to_vec(&manifest)?;
            disk::create(&partial.join(MANIFEST), &text, 0o600)?;
            disk::sync_folder(&partial)?;
            std::fs::rename(&partial, &folder)?;
            disk::sync_folder(&versions)
        };
        write().map_err(|error| {
            let _ = std::fs::remove_dir_all(&partial);
            disk_error(&versions, error)
        })?;
        Ok(Version {
            number,
            folder,
            is_current: false,
            manifest,
        })
    }

    /// Removes what somebody who stopped half-way left.
    fn clear_partial(&self) -> Result<(), Error> {
        let versions = self.versions_folder();
        let clear = || -> io::Result<()> {
            for entry in std::fs::read_dir(&versions)? {
                let entry = entry?;
                if entry.file_name().to_string_lossy().starts_with(".partial-") {
                    std::fs::remove_dir_all(entry.path())?;
                }
            }
            Ok(())
        };
        clear().map_err(|error| disk_error(&versions, error))
    }

    /// From now on `version` is read, all its files at once; `None`: nothing is.
    pub fn switch(&self, version: Option<&Version>) -> Result<(), Error> {
        let folder = &self.bundle.folder;
        let switch = || -> io::Result<()> {
            let current = folder.join(CURRENT);
            let Some(version) = version else {
                std::fs::remove_file(&current)?;
                return disk::sync_folder(folder);
            };
            let name = version.folder.file_name().unwrap_or_default();
            replace_link(&Path::new(VERSIONS).join(name), &current)?;
            for part in self.bundle.parts.values() {
                let (target, link) = (Path::new(CURRENT).join(&part.file), folder.join(&part.file));
                if std::fs::read_link(&link).ok().as_deref() != Some(&target) {
                    // A file that was there before is a version nobody kept: it is not thrown away.
                    if std::fs::symlink_metadata(&link).is_ok_and(|seen| !seen.is_symlink()) {
                        std::fs::rename(&link, folder.join(format!("{}.before", part.file)))?;
                    }
                    replace_link(&target, &link)?;
                }
            }
            disk::sync_folder(folder)
        };
        switch().map_err(|error| disk_error(folder, error))
    }

    /// Whether the consumer was told to read this version.
    pub fn is_reloaded(&self, version: &Version) -> bool {
        if self.bundle.reload.is_none() {
            return true;
        }
        let read = std::fs::read_to_string(self.bundle.folder.join(RELOADED));
        read.is_ok_and(|text| text == version.credential().as_str())
    }

    pub fn note_reloaded(&self, version: &Version) -> Result<(), Error> {
        let path = self.bundle.folder.join(RELOADED);
        disk::replace(&path, version.credential().as_str().as_bytes(), 0o600)
            .map_err(|error| disk_error(&path, error))
    }

    pub fn remove(&self, version: &Version) -> Result<(), Error> {
        let versions = self.versions_folder();
        let remove = || -> io::Result<()> {
            // Half removed it must not look like a version.
            let partial = versions.join(format!(".partial-{}", Uuid::new_v4()));
            std::fs::rename(&version.folder, &partial)?;
            disk::sync_folder(&versions)?;
            std::fs::remove_dir_all(&partial)
        };
        remove().map_err(|error| disk_error(&version.folder, error))
    }

    pub fn root(&self) -> &Path {
        &self.root
    }
}

fn number_in(name: &str) -> Option<u32> {
    name.strip_prefix('v')?.split_once('-')?.0.parse().ok()
}

fn replace_link(target: &Path, link: &Path) -> io::Result<()> {
    let beside = link.with_file_name(format!(".link-{}", Uuid::new_v4()));
    symlink(target, &beside)?;
    std::fs::rename(&beside, link).inspect_err(|_| {
        let _ = std::fs::remove_file(&beside);
    })
}
