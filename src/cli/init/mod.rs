//! `tenure init`: an example configuration to start from.

use std::fs;
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use serde_json::json;

use super::format::{Tone, paint};
use super::{Context, Exit};

/// The files, with the folders they lie in.
pub const FILES: [(&str, &str); 12] = [
    ("README.md", include_str!("files/README.md")),
    ("tenure.yaml", include_str!("files/tenure.yaml")),
    ("sources/hr.yaml", include_str!("files/hr.yaml")),
    ("systems/badges.yaml", include_str!("files/badges.yaml")),
    (
        "systems/directory.yaml.example",
        include_str!("files/directory.yaml.example"),
    ),
    (
        "systems/crm.yaml.example",
        include_str!("files/crm.yaml.example"),
    ),
    (
        "systems/warehouse.yaml.example",
        include_str!("files/warehouse.yaml.example"),
    ),
    (
        "systems/plugin.yaml.example",
        include_str!("files/plugin.yaml.example"),
    ),
    ("policy/roles.yaml", include_str!("files/roles.yaml")),
    (
        "schedules/nightly-review.yaml.example",
        include_str!("files/nightly-review.yaml.example"),
    ),
    ("example/people-1.csv", include_str!("files/people-1.csv")),
    ("example/people-2.csv", include_str!("files/people-2.csv")),
];

/// Write an example configuration, with a comment on everything in it
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Never overwrites: when the folder exists and is not empty, nothing is written.

Examples:
  tenure init                  into ./tenure, which is where every command looks
  tenure init /etc/tenure
  tenure --config /etc/tenure check")]
pub struct Init {
    /// The folder; what --config names when left out
    folder: Option<PathBuf>,
}

/// Writes the folder.
///
/// # Errors
/// When it exists and is not empty, or cannot be written.
pub fn run(context: &Context, init: Init) -> anyhow::Result<Exit> {
    let folder = init.folder.unwrap_or_else(|| context.config.clone());
    let shown = folder.display().to_string();
    match fs::read_dir(&folder) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                bail!(
                    "`{shown}` is not empty, so nothing was written; name another folder, or empty this one"
                );
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot look into `{shown}`")),
    }
    for (name, text) in FILES {
        let path = folder.join(name);
        let cannot = || format!("cannot write `{}`", path.display());
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).with_context(cannot)?;
        }
        // The folder was empty a moment ago: a file that is there now is somebody else's.
        let mut file = fs::File::create_new(&path).with_context(cannot)?;
        file.write_all(text.as_bytes()).with_context(cannot)?;
    }
    fs::create_dir_all(folder.join("workflows"))
        .with_context(|| format!("cannot write `{shown}`"))?;
    let files: Vec<&str> = FILES.iter().map(|(name, _)| *name).collect();
    let config = if shown == "tenure" {
        String::new()
    } else {
        format!(" --config {shown}")
    };
    context
        .output
        .result(&json!({ "folder": shown, "files": files }), |_| {
            let mut text = format!("wrote {}\n", paint(&shown, Tone::Strong));
            for file in &files {
                text.push_str(&format!("  {file}\n"));
            }
            text.push_str(&format!(
                "\nnext: {}, then read {}",
                paint(format!("tenure{config} check"), Tone::Code),
                paint(format!("{shown}/README.md"), Tone::Strong)
            ));
            text
        })?;
    Ok(Exit::Good)
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        reason = "tests"
    )]
    use workflows::config::Configuration;
    use workflows::systems::SystemConfig;

    use super::super::Output;
    use super::*;

    fn context(folder: &std::path::Path) -> Context {
        Context {
            output: Output { json: true },
            config: folder.to_owned(),
            store: None,
        }
    }

    #[test]
    fn what_is_written_is_good_and_never_overwritten() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("tenure");
        run(&context(&folder), Init { folder: None }).unwrap();
        let configuration = Configuration::load(&folder).unwrap();
        assert!(
            configuration.warnings.is_empty(),
            "{:?}",
            configuration.warnings
        );
        assert_eq!(configuration.sources.len(), 1);
        assert_eq!(configuration.systems.iter().count(), 1);
        let again = run(&context(&folder), Init { folder: None }).unwrap_err();
        assert!(again.to_string().contains("nothing was written"), "{again}");
    }

    #[test]
    fn every_example_of_a_system_can_be_read() {
        for (name, text) in FILES
            .iter()
            .filter(|(name, _)| name.starts_with("systems/") && name.ends_with(".yaml.example"))
        {
            SystemConfig::load(name, text).unwrap_or_else(|problems| panic!("{problems}"));
        }
    }

    #[test]
    fn the_example_of_a_schedule_can_be_read() {
        let (name, text) = FILES
            .iter()
            .find(|(name, _)| name.starts_with("schedules/"))
            .unwrap();
        workflows::schedules::load(name, text, ["review"])
            .unwrap_or_else(|problems| panic!("{problems}"));
    }

    #[test]
    fn the_example_feeds_are_read() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("tenure");
        run(&context(&folder), Init { folder: None }).unwrap();
        let configuration = Configuration::load(&folder).unwrap();
        for name in ["people-1.csv", "people-2.csv"] {
            let input = workflows::sources::SnapshotInput {
                file: name,
                manifest: None,
                as_of: "2026-02-01".parse().ok(),
                limits: workflows::sources::Limits::default(),
            };
            let file = fs::File::open(folder.join("example").join(name)).unwrap();
            let snapshot =
                workflows::sources::read_snapshot(&configuration.sources["hr"], file, &input)
                    .unwrap();
            assert_eq!(snapshot.rows, 4);
        }
    }
}
