//! Which kinds of connector this build knows, and how a configuration becomes a connector.

use std::sync::Arc;

use serde_json::Value;

use crate::connector::{Connector, Error, ErrorKind};

/// Every `kind` a system's configuration may name.
pub const KINDS: [&str; 13] = [
    "acme",
    "aws",
    "aws_secrets",
    "exec",
    "file",
    "kubernetes",
    "ldap",
    "manual",
    "postgres",
    "scim",
    "ssh",
    "tls",
    "x509",
];

/// Builds the connector of `kind` from its `settings`; `system` is its name in messages.
/// Builds only: nothing is contacted. Layers are added by [`crate::layer::Guarded::new`].
///
/// # Errors
/// [`ErrorKind::Invalid`] names the setting that is wrong, missing or unknown.
pub fn build(system: &str, kind: &str, settings: Value) -> Result<Arc<dyn Connector>, Error> {
    match kind {
        "acme" => Ok(Arc::new(crate::acme::Acme::from_settings(
            system, settings,
        )?)),
        "aws" => Ok(Arc::new(crate::aws::Aws::from_settings(system, settings)?)),
        "aws_secrets" => Ok(Arc::new(crate::aws::secrets::Secrets::from_settings(
            system, settings,
        )?)),
        "exec" => Ok(Arc::new(crate::exec::Exec::from_settings(
            system, settings,
        )?)),
        "file" => Ok(Arc::new(crate::file::Files::from_settings(
            system, settings,
        )?)),
        "kubernetes" => Ok(Arc::new(crate::kubernetes::Kubernetes::from_settings(
            system, settings,
        )?)),
        "ldap" => Ok(Arc::new(crate::ldap::Ldap::from_settings(
            system, settings,
        )?)),
        "manual" => Ok(Arc::new(crate::manual::Manual::from_settings(
            system, settings,
        )?)),
        "postgres" => Ok(Arc::new(crate::postgres::Postgres::from_settings(
            system, settings,
        )?)),
        "scim" => Ok(Arc::new(crate::scim::Scim::from_settings(
            system, settings,
        )?)),
        "ssh" => Ok(Arc::new(crate::ssh::Ssh::from_settings(system, settings)?)),
        "tls" => Ok(Arc::new(crate::tls::Tls::from_settings(system, settings)?)),
        "x509" => Ok(Arc::new(crate::x509::X509::from_settings(
            system, settings,
        )?)),
        _ => Err(Error::new(
            ErrorKind::Invalid,
            format!(
                "unknown connector kind `{kind}`; known kinds are {}",
                KINDS.join(", ")
            ),
        )),
    }
}
