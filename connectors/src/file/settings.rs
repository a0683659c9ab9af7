//! What the configuration says about places for credentials.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::answer::settings_error;
use crate::connector::Error;
use crate::program::{self, Program};

/// How many bundles and parts there may be.
const BUNDLES_MAX: usize = 10_000;
const PARTS_MAX: usize = 16;
/// Parts that anybody may read.
const PUBLIC_PARTS: [&str; 4] = ["bundle", "ca", "certificate", "chain"];

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    root: PathBuf,
    bundles: BTreeMap<String, WrittenBundle>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenBundle {
    #[serde(default)]
    folder: Option<PathBuf>,
    parts: BTreeMap<String, WrittenPart>,
    #[serde(default)]
    owner: Option<u32>,
    #[serde(default)]
    group: Option<u32>,
    #[serde(default)]
    reload: Option<program::Written>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenPart {
    file: String,
    #[serde(default)]
    mode: Option<String>,
}

#[derive(Debug, Clone)]
pub(super) struct Settings {
    /// Nothing outside of it is ever touched.
    pub root: PathBuf,
    pub bundles: BTreeMap<String, Bundle>,
}

/// One place: files that belong together and change together.
#[derive(Debug, Clone)]
pub(super) struct Bundle {
    pub folder: PathBuf,
    pub parts: BTreeMap<String, Part>,
    pub owner: Option<u32>,
    pub group: Option<u32>,
    pub reload: Option<Program>,
}

#[derive(Debug, Clone)]
pub(super) struct Part {
    pub file: String,
    pub mode: u32,
}

impl Settings {
    pub fn parse(system: &str, settings: Value) -> Result<Self, Error> {
        let wrong = settings_error(system, "file");
        let written: Written =
            serde_json::from_value(settings).map_err(|error| wrong(error.to_string()))?;
        if !written.root.is_absolute() || written.root == Path::new("/") {
            return Err(wrong(format!(
                "`root` `{}` must be a folder below `/`",
                written.root.display()
            )));
        }
        if written.bundles.is_empty() || written.bundles.len() > BUNDLES_MAX {
            return Err(wrong(format!("`bundles` must have 1 to {BUNDLES_MAX}")));
        }
        let mut bundles: BTreeMap<String, Bundle> = BTreeMap::new();
        for (name, bundle) in written.bundles {
            let checked = bundle
                .checked(&name, &written.root)
                .map_err(|what| wrong(format!("bundle `{}`: {what}", name.escape_debug())))?;
            if let Some((other, _)) = bundles.iter().find(|(_, known)| {
                known.folder.starts_with(&checked.folder)
                    || checked.folder.starts_with(&known.folder)
            }) {
                return Err(wrong(format!(
                    "bundles `{other}` and `{name}` lie in one another; give each a folder of its own"
                )));
            }
            bundles.insert(name, checked);
        }
        Ok(Self {
            root: written.root,
            bundles,
        })
    }
}

impl WrittenBundle {
    fn checked(self, name: &str, root: &Path) -> Result<Bundle, String> {
        let folder = self.folder.unwrap_or_else(|| PathBuf::from(name));
        let plain = folder
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        if !plain || folder.as_os_str().is_empty() {
            return Err(format!(
                "`folder` `{}` must lie below `root`, without `..`",
                folder.display()
            ));
        }
        if self.parts.is_empty() || self.parts.len() > PARTS_MAX {
            return Err(format!("`parts` must have 1 to {PARTS_MAX}"));
        }
        let mut parts: BTreeMap<String, Part> = BTreeMap::new();
        for (name, part) in self.parts {
            let file = part.file;
            let is_name = !file.is_empty()
                && !file.starts_with('.')
                && file != "current"
                && file
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
            if !is_name {
                return Err(format!(
                    "`file` `{}` must be a plain file name: letters, digits and `._-`",
                    file.escape_debug()
                ));
            }
            if parts.values().any(|known| known.file == file) {
                return Err(format!("two parts are written to `{file}`"));
            }
            let is_public = PUBLIC_PARTS.contains(&name.as_str());
            let mode = match &part.mode {
                None if is_public => 0o644,
                None => 0o600,
                Some(text) => mode(text)?,
            };
            if !is_public && mode & 0o007 != 0 {
                return Err(format!(
                    "mode {mode:04o} of `{name}` lets everybody read a secret; take the last digit away"
                ));
            }
            parts.insert(name, Part { file, mode });
        }
        let reload = self
            .reload
            .map(|reload| reload.checked("reload"))
            .transpose()?;
        Ok(Bundle {
            folder: root.join(folder),
            parts,
            owner: self.owner,
            group: self.group,
            reload,
        })
    }
}

fn mode(text: &str) -> Result<u32, String> {
    let parsed = u32::from_str_radix(text, 8).ok();
    match parsed.filter(|mode| text.len() >= 3 && mode & !0o774 == 0 && mode & 0o400 != 0) {
        Some(mode) => Ok(mode),
        None => Err(format!(
            "`mode` `{}` must be octal digits such as \"0640\", readable for the owner and not writable for others",
            text.escape_debug()
        )),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use serde_json::json;

    use super::*;

    fn parse(bundle: &Value) -> Result<Settings, String> {
        let mut web =
            json!({"parts": {"key": {"file": "tls.key"}, "certificate": {"file": "tls.crt"}}});
        for (name, value) in bundle.as_object().unwrap() {
            web[name] = value.clone();
        }
        let settings = json!({"root": "/etc/credentials", "bundles": {"web": web}});
        Settings::parse("files", settings).map_err(|error| error.message)
    }

    #[test]
    fn secrets_are_private_unless_told_and_never_for_everybody() {
        let settings = parse(&json!({})).unwrap();
        let web = &settings.bundles["web"];
        assert_eq!(web.folder, Path::new("/etc/credentials/web"));
        assert_eq!(web.parts["key"].mode, 0o600);
        assert_eq!(web.parts["certificate"].mode, 0o644);
    }

    #[test]
    fn a_wrong_setting_is_named_with_its_fix() {
        for (changes, why) in [
            (json!({"fodler": "x"}), "unknown field `fodler`"),
            (json!({"folder": "/etc/nginx"}), "must lie below `root`"),
            (json!({"folder": "../nginx"}), "must lie below `root`"),
            (json!({"folder": ""}), "must lie below `root`"),
            (json!({"parts": {}}), "1 to 16"),
            (
                json!({"parts": {"key": {"file": "../key"}}}),
                "plain file name",
            ),
            (
                json!({"parts": {"key": {"file": ".hidden"}}}),
                "plain file name",
            ),
            (
                json!({"parts": {"key": {"file": "current"}}}),
                "plain file name",
            ),
            (
                json!({"parts": {"key": {"file": "a"}, "chain": {"file": "a"}}}),
                "two parts",
            ),
            (
                json!({"parts": {"key": {"file": "a", "mode": "0644"}}}),
                "lets everybody read",
            ),
            (
                json!({"parts": {"chain": {"file": "a", "mode": "0666"}}}),
                "octal digits",
            ),
            (
                json!({"parts": {"chain": {"file": "a", "mode": "rw-"}}}),
                "octal digits",
            ),
            (
                json!({"parts": {"chain": {"file": "a", "mode": "4755"}}}),
                "octal digits",
            ),
            (
                json!({"reload": {"command": []}}),
                "`reload.command` is empty",
            ),
            (
                json!({"reload": {"command": ["nginx", "-s", "reload"]}}),
                "must begin with `/`",
            ),
            (
                json!({"reload": {"command": ["/x"], "timeout_ms": 0}}),
                "timeout_ms",
            ),
            (json!({"owner": "www-data"}), "invalid type"),
        ] {
            let message = parse(&changes).unwrap_err();
            assert!(message.contains(why), "{changes}: {message}");
        }
        let nested = json!({"root": "/c", "bundles": {
            "a": {"folder": "x", "parts": {"key": {"file": "k"}}},
            "b": {"folder": "x/y", "parts": {"key": {"file": "k"}}},
        }});
        let error = Settings::parse("files", nested).unwrap_err();
        assert!(error.message.contains("lie in one another"), "{error}");
        let root = json!({"root": "/", "bundles": {}});
        assert!(Settings::parse("files", root).is_err());
    }
}
