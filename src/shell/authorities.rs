//! Authorities that may vouch for the other side of a connection, from a file.

use std::path::Path;

use anyhow::{Context as _, ensure};
use reqwest::Certificate;

/// The certificates of a `ca_file`, which hold instead of those of this machine.
///
/// # Errors
/// When it cannot be read, or holds none.
pub(super) fn read(path: &Path) -> anyhow::Result<Vec<Certificate>> {
    let shown = path.display();
    let pem = std::fs::read(path).with_context(|| format!("cannot read `{shown}`"))?;
    let roots = Certificate::from_pem_bundle(&pem)
        .with_context(|| format!("`{shown}` holds no PEM certificate"))?;
    ensure!(!roots.is_empty(), "`{shown}` holds no PEM certificate");
    Ok(roots)
}
