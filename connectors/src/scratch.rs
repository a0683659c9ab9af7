//! Where what a place behind an interface keeps can be read on this machine.
//!
//! A secret is told by where it lies and never by value ([`crate::secret`]). A place on this machine lies somewhere; one that
//! answers over a network does not. So what is read back from it is written into a folder of ours, for its owner alone and
//! best in memory (`/run`). It goes with the version it is of, and when nobody has asked for it for a while.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};
use tokio::task::{JoinError, spawn_blocking};

use crate::connector::{CredentialId, Error, ErrorKind};
use crate::disk;

/// How long what nobody asks for stays.
const KEPT_FOR: Duration = Duration::from_secs(600);
/// The most that may lie in it: more is somebody else's folder.
const ENTRIES_MAX: usize = 10_000;
/// What the names of our folders begin with.
const PREFIX: &str = "kept-";

#[derive(Debug, Clone)]
pub(crate) struct Scratch {
    system: String,
    folder: PathBuf,
}

impl Scratch {
    /// Reads the setting `scratch`; touches nothing.
    ///
    /// # Errors
    /// In words, what is wrong with it.
    pub fn checked(system: &str, folder: PathBuf) -> Result<Self, String> {
        if folder.is_absolute() {
            Ok(Self {
                system: system.to_owned(),
                folder,
            })
        } else {
            Err("`scratch` must begin with `/`".to_owned())
        }
    }

    /// Writes the parts of a version and says where each lies, as a reference to a secret.
    ///
    /// # Errors
    /// They cannot be read there; none of them is left.
    pub async fn show(
        &self,
        bundle: &str,
        credential: &CredentialId,
        parts: BTreeMap<String, SecretString>,
    ) -> Result<BTreeMap<String, String>, Error> {
        let (scratch, folder) = (self.clone(), self.folder_of(bundle, credential));
        self.joined(spawn_blocking(move || scratch.write(&folder, &parts)).await)
    }

    /// Takes away what is there of a version.
    ///
    /// # Errors
    /// It is still there.
    pub async fn forget(&self, bundle: &str, credential: &CredentialId) -> Result<(), Error> {
        let folder = self.folder_of(bundle, credential);
        let gone = spawn_blocking(move || match std::fs::remove_dir_all(folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        });
        self.joined(gone.await)
    }

    fn joined<T>(&self, done: Result<io::Result<T>, JoinError>) -> Result<T, Error> {
        let done = done.unwrap_or_else(|error| Err(io::Error::other(error)));
        done.map_err(|error| {
            let kind = match error.kind() {
                io::ErrorKind::PermissionDenied => ErrorKind::Denied,
                _ => ErrorKind::Transient,
            };
            let what = format!(
                "system `{}`: the `scratch` folder `{}` cannot be used",
                self.system,
                self.folder.display()
            );
            Error::new(kind, what).with_source(error)
        })
    }

    fn write(
        &self,
        folder: &Path,
        parts: &BTreeMap<String, SecretString>,
    ) -> io::Result<BTreeMap<String, String>> {
        let write = || -> io::Result<BTreeMap<String, String>> {
            disk::private_folder(&self.folder)?;
            let mode = std::fs::symlink_metadata(&self.folder)?
                .permissions()
                .mode();
            if mode & 0o077 != 0 {
                return Err(io::Error::new(
                    io::ErrorKind::PermissionDenied,
                    "others may look into it; `chmod 0700` it",
                ));
            }
            disk::private_folder(folder)?;
            let mut references = BTreeMap::new();
            for (name, part) in parts {
                let path = folder.join(name);
                disk::replace(&path, part.expose_secret().as_bytes(), 0o600)?;
                references.insert(name.clone(), format!("file:{}", path.display()));
            }
            self.clear(folder)?;
            Ok(references)
        };
        write().inspect_err(|_| {
            let _ = std::fs::remove_dir_all(folder);
        })
    }

    /// Takes away what was written long before `fresh`.
    fn clear(&self, fresh: &Path) -> io::Result<()> {
        let now = std::fs::metadata(fresh)?.modified()?;
        for entry in std::fs::read_dir(&self.folder)?.take(ENTRIES_MAX) {
            let entry = entry?;
            let is_ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
            // Another process may have taken it away since.
            let Ok(written) = entry.metadata().and_then(|seen| seen.modified()) else {
                continue;
            };
            let age = now.duration_since(written).unwrap_or_default();
            if is_ours && age > KEPT_FOR {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
        Ok(())
    }

    fn folder_of(&self, bundle: &str, credential: &CredentialId) -> PathBuf {
        let mut hash = Sha256::new();
        hash.update(bundle.as_bytes());
        hash.update([0]);
        hash.update(credential.as_str().as_bytes());
        let name = hex(&hash.finalize(), 16);
        self.folder.join(format!("{PREFIX}{name}"))
    }
}

/// The first so many bytes of a digest, in hexadecimal digits.
pub(crate) fn hex(digest: &[u8], bytes: usize) -> String {
    use std::fmt::Write as _;
    digest
        .iter()
        .take(bytes)
        .fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// What may be the name of a part, and so of a file.
pub(crate) fn is_part(name: &str) -> bool {
    (1..=128).contains(&name.len())
        && !name.starts_with('.')
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

    use std::fs::{File, FileTimes};

    use super::*;
    use crate::secret::SecretRef;

    #[tokio::test]
    async fn what_is_kept_elsewhere_is_read_here_by_its_owner_alone_and_goes_again() {
        let root = tempfile::tempdir().unwrap();
        let scratch = Scratch::checked("cloud", root.path().join("s")).unwrap();
        let parts = |text: &str| {
            let secret = SecretString::from(text.to_owned());
            BTreeMap::from([("password".to_owned(), secret)])
        };
        let (old, new) = (CredentialId::new("old"), CredentialId::new("new"));
        let at = scratch.show("app", &old, parts("hunter1")).await.unwrap();
        let reference = SecretRef::try_from(at["password"].clone()).unwrap();
        assert_eq!(reference.resolve().unwrap().expose_secret(), "hunter1");
        let path = PathBuf::from(at["password"].strip_prefix("file:").unwrap());
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        // Read again it is the same place.
        assert_eq!(
            scratch.show("app", &old, parts("hunter1")).await.unwrap(),
            at
        );

        // What was asked for long ago goes when something else is asked for.
        let folder = File::open(path.parent().unwrap()).unwrap();
        let long_ago = folder.metadata().unwrap().modified().unwrap() - KEPT_FOR * 2;
        folder
            .set_times(FileTimes::new().set_modified(long_ago))
            .unwrap();
        scratch.show("app", &new, parts("hunter2")).await.unwrap();
        assert!(!path.exists());
        scratch.forget("app", &new).await.unwrap();
        scratch.forget("app", &new).await.unwrap();
        assert_eq!(std::fs::read_dir(root.path().join("s")).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_folder_into_which_others_look_is_refused() {
        let root = tempfile::tempdir().unwrap();
        std::fs::set_permissions(root.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let scratch = Scratch::checked("cloud", root.path().to_path_buf()).unwrap();
        let parts = BTreeMap::from([("a".to_owned(), SecretString::from("x".to_owned()))]);
        let error = scratch
            .show("app", &CredentialId::new("x"), parts)
            .await
            .unwrap_err();
        assert!(error.whole().contains("chmod 0700"), "{}", error.whole());
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
        assert!(Scratch::checked("cloud", PathBuf::from("run")).is_err());
        assert!(is_part("tls.crt") && !is_part("../x") && !is_part(".x") && !is_part(""));
    }
}
