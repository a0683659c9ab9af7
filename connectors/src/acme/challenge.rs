//! Proof that a name is ours: a file that a web server shows, or a name in the DNS that a program of the operator's sets.

use std::path::PathBuf;

use super::settings::Settings;
use crate::disk;
use crate::program::{self, Failed};

/// The longest token that is taken as the name of a file.
const TOKEN_BYTES_MAX: usize = 200;

/// What has to be shown for one name.
#[derive(Debug, Clone)]
pub(super) enum Proof {
    Http { token: String, content: String },
    Dns { name: String, value: String },
}

/// Something that is shown, and has to be taken away again.
#[derive(Debug)]
pub(super) enum Shown {
    File(PathBuf),
    Name { name: String, value: String },
}

/// Shows it.
///
/// # Errors
/// In words.
pub(super) async fn show(settings: &Settings, proof: Proof) -> Result<Shown, String> {
    match proof {
        Proof::Http { token, content } => {
            let folder = settings
                .http_folder
                .as_ref()
                .ok_or("`http01` is not set up here")?;
            // The token comes from outside and becomes the name of a file.
            let is_name = (1..=TOKEN_BYTES_MAX).contains(&token.len())
                && token
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
            if !is_name {
                return Err("the authority's token is none".to_owned());
            }
            let path = folder.join(token);
            let write = path.clone();
            tokio::task::spawn_blocking(move || disk::replace(&write, content.as_bytes(), 0o644))
                .await
                .map_err(|error| error.to_string())?
                .map_err(|error| format!("`{}` cannot be written: {error}", path.display()))?;
            Ok(Shown::File(path))
        }
        Proof::Dns { name, value } => {
            set(settings, "present", &name, &value).await?;
            if !settings.dns_wait.is_zero() {
                tokio::time::sleep(settings.dns_wait).await;
            }
            Ok(Shown::Name { name, value })
        }
    }
}

/// Takes it away. What cannot be taken away does no harm, and is told.
pub(super) async fn take_away(settings: &Settings, shown: Vec<Shown>) {
    for shown in shown {
        let taken = match &shown {
            Shown::File(path) => std::fs::remove_file(path).map_err(|error| error.to_string()),
            Shown::Name { name, value } => set(settings, "clean", name, value).await,
        };
        if let Err(why) = taken {
            tracing::warn!(what = ?shown, why, "a proof of a name could not be taken away");
        }
    }
}

async fn set(settings: &Settings, action: &str, name: &str, value: &str) -> Result<(), String> {
    let dns = settings.dns.as_ref().ok_or("`dns01` is not set up here")?;
    let variables = [
        ("TENURE_ACTION", action),
        ("TENURE_NAME", name),
        ("TENURE_VALUE", value),
    ];
    match program::run(dns, &variables).await {
        Ok(()) => Ok(()),
        Err(Failed::Refused(why) | Failed::Late(why)) => Err(why),
    }
}
