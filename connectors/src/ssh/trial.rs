//! A certificate is tried as somebody would use it: by a login with the `ssh` of this machine.
//!
//! The key lies in a folder of its own below ours, which nobody else can read, for as long as the login takes.

use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;
use uuid::Uuid;

use super::held::{Leaf, unusable};
use super::settings::Trial;
use super::{PRIVATE, Ssh};
use crate::answer::verdict;
use crate::connector::{CredentialId, Error, ErrorKind, NativeId, Verdict};
use crate::disk;
use crate::handover::to_be_tried;
use crate::program::{self, Failed, Program};
use crate::secret::SecretRef;

/// Removed with all that is in it when the login is over, however it ends.
struct Folder(PathBuf);

impl Folder {
    fn new(below: &Path) -> Result<Self, Error> {
        let path = below.join(format!(".trial-{}", Uuid::new_v4()));
        disk::private_folder(&path).map_err(|error| unusable(&path, error))?;
        Ok(Self(path))
    }

    fn keep(&self, name: &str, content: &str) -> Result<PathBuf, Error> {
        let path = self.0.join(name);
        disk::create(&path, content.as_bytes(), PRIVATE).map_err(|error| unusable(&path, error))?;
        Ok(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Ssh {
    /// Whether a login with the certificate and this key succeeds where `trial` says, against what is claimed.
    pub(super) async fn tried(
        &self,
        account: &NativeId,
        credential: &CredentialId,
        secret: &SecretRef,
        claimed: bool,
    ) -> Result<Verdict, Error> {
        let Some(trial) = &self.settings.trial else {
            return Ok(Verdict::CannotObserve {
                reason: "no `trial` is set up, so nobody can log in with it from here".to_owned(),
            });
        };
        let by = "ssh";
        let (of, id) = (account.clone(), credential.clone());
        let leaf = self
            .held(move |held| Ok(held.of(&of, &id).cloned()))
            .await?;
        let Some(leaf) = leaf else {
            let seen = json!({ "credential": credential, "exists": false });
            return Ok(verdict(!claimed, by, Some(account.clone()), seen));
        };
        if leaf.is_host {
            return Err(self.error(
                ErrorKind::Invalid,
                "a host's certificate lets nobody in; look at the host itself",
            ));
        }
        let let_in = self.lets_in(trial, &leaf, &to_be_tried(secret)?).await?;
        let seen = json!({ "credential": credential, "let_in": let_in, "host": trial.host });
        Ok(verdict(let_in == claimed, by, Some(account.clone()), seen))
    }

    async fn lets_in(&self, trial: &Trial, leaf: &Leaf, key: &SecretString) -> Result<bool, Error> {
        let folder = Folder::new(&self.settings.folder)?;
        // A key without a line end at its end is none to ssh.
        let text = SecretString::from(format!("{}\n", key.expose_secret().trim_end()));
        let key = folder.keep("key", text.expose_secret())?;
        let certificate = folder.keep("key-cert.pub", &leaf.certificate)?;
        let ssh = Program::new(
            trial.ssh.clone(),
            arguments(trial, leaf, &key, &certificate),
            trial.limit(),
        );
        let unknown = |kind, words: String| {
            self.error(kind, format!("nobody could try the certificate: {words}"))
        };
        match program::run(&ssh, &[]).await {
            Ok(()) => Ok(true),
            Err(Failed::Refused(words)) if words.contains("Permission denied") => Ok(false),
            // Not even the key could be read, so it can be nobody's.
            Err(Failed::Refused(words)) if words.contains("invalid format") => Ok(false),
            Err(Failed::Refused(words)) => Err(unknown(ErrorKind::Transient, words)),
            Err(Failed::Late(words)) => Err(unknown(ErrorKind::Timeout, words)),
        }
    }
}

fn arguments(trial: &Trial, leaf: &Leaf, key: &Path, certificate: &Path) -> Vec<String> {
    let first = leaf.principals.first().map(String::as_str);
    let user = trial.user.as_deref().or(first).unwrap_or_default();
    let options = [
        ("IdentityFile", key.display().to_string()),
        ("CertificateFile", certificate.display().to_string()),
        ("IdentitiesOnly", "yes".to_owned()),
        ("IdentityAgent", "none".to_owned()),
        ("PreferredAuthentications", "publickey".to_owned()),
        ("BatchMode", "yes".to_owned()),
        ("StrictHostKeyChecking", "yes".to_owned()),
        (
            "UserKnownHostsFile",
            trial.known_hosts.display().to_string(),
        ),
        ("GlobalKnownHostsFile", "/dev/null".to_owned()),
        ("Port", trial.port.to_string()),
        ("User", user.to_owned()),
    ];
    let mut arguments = vec!["-F".to_owned(), "none".to_owned(), "-T".to_owned()];
    for (name, value) in options {
        arguments.extend(["-o".to_owned(), format!("{name}={value}")]);
    }
    arguments.extend([trial.host.clone(), "true".to_owned()]);
    arguments
}
