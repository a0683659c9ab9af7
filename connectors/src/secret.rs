//! Secrets by reference.
//!
//! Configuration never holds a secret, only where it is: `env:NAME` or `file:/path`. The value is read when
//! the connector is built and stays inside [`secrecy::SecretString`], which prints as `[REDACTED]`.

use secrecy::SecretString;
use serde::{Deserialize, Serialize};

/// The largest secret file that is read.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// Where a secret is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum SecretRef {
    Env(String),
    File(String),
}

#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("a secret must be given as `env:NAME` or `file:/path`, never as a value")]
    NotAReference,
    #[error("environment variable `{0}` is not set")]
    EnvMissing(String),
    #[error("cannot read secret file `{path}`")]
    File {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("secret file `{path}` is larger than {SECRET_BYTES_MAX} bytes")]
    TooLarge { path: String },
}

impl SecretRef {
    /// Reads the secret. A file's trailing line end is not part of it.
    ///
    /// # Errors
    /// When the variable or the file is missing; the message names the place, never the value.
    pub fn resolve(&self) -> Result<SecretString, SecretError> {
        match self {
            Self::Env(name) => std::env::var(name)
                .map(SecretString::from)
                .map_err(|_| SecretError::EnvMissing(name.clone())),
            Self::File(path) => {
                let error = |source| SecretError::File {
                    path: path.clone(),
                    source,
                };
                if std::fs::metadata(path).map_err(error)?.len() > SECRET_BYTES_MAX {
                    return Err(SecretError::TooLarge { path: path.clone() });
                }
                let text = std::fs::read_to_string(path).map_err(error)?;
                Ok(SecretString::from(
                    text.trim_end_matches(['\r', '\n']).to_owned(),
                ))
            }
        }
    }
}

impl TryFrom<String> for SecretRef {
    type Error = SecretError;
    fn try_from(text: String) -> Result<Self, SecretError> {
        if let Some(name) = text.strip_prefix("env:").filter(|name| !name.is_empty()) {
            Ok(Self::Env(name.to_owned()))
        } else if let Some(path) = text.strip_prefix("file:").filter(|path| !path.is_empty()) {
            Ok(Self::File(path.to_owned()))
        } else {
            Err(SecretError::NotAReference)
        }
    }
}

impl From<SecretRef> for String {
    fn from(reference: SecretRef) -> Self {
        match reference {
            SecretRef::Env(name) => format!("env:{name}"),
            SecretRef::File(path) => format!("file:{path}"),
        }
    }
}
