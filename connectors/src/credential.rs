//! What somebody proves with that they are who they say: passwords, keys, certificates, tokens.
//!
//! A disabled account is not the end of its credentials. An SSH key in a directory is read by every server that asks
//! for it, whatever the state of the account; a token may outlive the login that made it. So credentials are listed
//! and ended one by one, each by an identifier that says nothing secret: a fingerprint, or the system's own number.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Names one credential of an account, in the words of its system. Never the secret, nor anything it can be made from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CredentialId(String);

impl CredentialId {
    #[must_use]
    pub fn new(id: impl Into<String>) -> Self {
        Self(id.into())
    }
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Of a public SSH key as it stands in `authorized_keys`: its fingerprint as `ssh-keygen -l` shows it. Two lines
    /// that differ in nothing but their comment are one key.
    #[must_use]
    pub fn of_ssh_key(line: &[u8]) -> Self {
        let blob = std::str::from_utf8(line).ok().and_then(|line| {
            // Options may stand before the type.
            line.split_whitespace()
                .find(|word| word.starts_with("AAAA"))
                .and_then(|word| STANDARD.decode(word).ok())
        });
        let digest = Sha256::digest(blob.as_deref().unwrap_or(line));
        Self(format!("ssh_key:SHA256:{}", STANDARD_NO_PAD.encode(digest)))
    }

    /// Of a certificate in DER: its fingerprint.
    #[must_use]
    pub fn of_certificate(der: &[u8]) -> Self {
        use fmt::Write as _;
        let mut id = String::from("certificate:sha256:");
        for byte in Sha256::digest(der) {
            let _ = write!(id, "{byte:02x}");
        }
        Self(id)
    }

    /// The kind, where the identifier begins with its name, as those of this workspace do; else a token.
    #[must_use]
    pub fn kind(&self) -> CredentialKind {
        let word = self.0.split_once(':').map_or(self.0.as_str(), |it| it.0);
        CredentialKind::ALL
            .into_iter()
            .find(|kind| kind.as_str() == word)
            .unwrap_or(CredentialKind::Token)
    }
}

impl fmt::Display for CredentialId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What kind of thing it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CredentialKind {
    Password,
    SshKey,
    Certificate,
    ApiKey,
    /// A personal access token, an app password, an OAuth grant.
    Token,
    /// What an SSH authority signed: a key with names and an end.
    SshCertificate,
}

impl CredentialKind {
    pub const ALL: [Self; 6] = [
        Self::Password,
        Self::SshKey,
        Self::Certificate,
        Self::ApiKey,
        Self::Token,
        Self::SshCertificate,
    ];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::SshKey => "ssh_key",
            Self::Certificate => "certificate",
            Self::ApiKey => "api_key",
            Self::Token => "token",
            Self::SshCertificate => "ssh_certificate",
        }
    }

    /// Whether it is of two halves that are kept beside one another: what everybody may see, and its key.
    #[must_use]
    pub fn is_certificate(self) -> bool {
        matches!(self, Self::Certificate | Self::SshCertificate)
    }
}

/// One credential of an account, as its system lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    pub id: CredentialId,
    pub kind: CredentialKind,
    /// Whether somebody can prove with it who they are; `None` when the system does not say.
    #[serde(default)]
    pub active: Option<bool>,
    /// What people call it: the comment of a key. No secret.
    #[serde(default)]
    pub label: Option<String>,
    #[serde(default)]
    pub expires_at: Option<DateTime<Utc>>,
}

/// When something should be renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewalWindow {
    pub start: DateTime<Utc>,
    pub end: DateTime<Utc>,
}

/// What a system says when it is asked when a credential should be renewed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Renewal {
    /// Within what; none if it has no opinion.
    pub window: Option<RenewalWindow>,
    /// After how long it wants to be asked again, if it says.
    pub ask_again_s: Option<u64>,
}

/// What an authority signed and is still good, as far as it tells: not more than the first so many.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signed {
    /// How many there are.
    pub good: u64,
    /// Until when the last of them is.
    #[serde(default)]
    pub until: Option<DateTime<Utc>>,
    pub signed: Vec<SignedOne>,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SignedOne {
    /// Who holds it, as the authority names them.
    pub account: String,
    pub credential: CredentialId,
    pub until: DateTime<Utc>,
}

impl Credential {
    /// One whose state the system does not tell.
    #[must_use]
    pub fn new(id: CredentialId, kind: CredentialKind) -> Self {
        Self {
            id,
            kind,
            active: None,
            label: None,
            expires_at: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key and its fingerprint as `ssh-keygen -lf` of OpenSSH gives it.
    #[test]
    fn an_ssh_key_goes_by_its_fingerprint() {
        let key =
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0Y7lOv8dn/9JG1oZ7bIc0IoyEZH6KgnQVVSkZlnDKX";
        let plain = CredentialId::of_ssh_key(key.as_bytes());
        let commented = CredentialId::of_ssh_key(format!("{key} ann@laptop").as_bytes());
        let limited = CredentialId::of_ssh_key(format!("no-pty {key} x").as_bytes());
        assert_eq!(plain, commented);
        assert_eq!(plain, limited);
        assert!(plain.as_str().starts_with("ssh_key:SHA256:"));
        assert_ne!(plain, CredentialId::of_ssh_key(b"no key at all"));
    }

    #[test]
    fn a_certificate_goes_by_the_digest_of_its_octets() {
        assert_eq!(
            CredentialId::of_certificate(b"").as_str(),
            "certificate:sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }
}
