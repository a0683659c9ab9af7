//! The company of tests/cert in small, on real servers of its own: see the scripts there for what has to be so.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

const SERVERS: [&str; 3] = ["openldap", "scim", "postgres"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Servers that hold nothing yet: the oracle takes whatever it does not know for an error.
struct Lab {
    folder: tempfile::TempDir,
}

impl Lab {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // The database server runs as a user of its own.
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open).unwrap();
        let lab = Self { folder };
        for server in SERVERS {
            let done = lab.script(server, "start");
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            assert!(done.status.success(), "{server} did not start:\n{said}");
        }
        lab
    }

    fn script(&self, server: &str, verb: &str) -> std::process::Output {
        Command::new("bash")
            .arg(root().join(format!("tests/lab/{server}.sh")))
            .arg(verb)
            .arg(self.folder(server))
            .output()
            .unwrap()
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs a script of tests/cert, which says on standard error what differs.
    fn run(&self, script: &str, arguments: &str) {
        let sources: Vec<String> = SERVERS
            .iter()
            .map(|server| format!(". '{}/env'", self.folder(server).display()))
            .collect();
        let command = format!(
            "{} && exec python3 '{}' --program '{}' --work '{}' {arguments}",
            sources.join(" && "),
            root().join("tests/cert").join(script).display(),
            env!("CARGO_BIN_EXE_tenure"),
            self.folder("work").display(),
        );
        let done = Command::new("bash")
            .arg("-c")
            .arg(command)
            .output()
            .unwrap();
        assert!(
            done.status.success(),
            "{script} ended with {}\n{}\n{}",
            done.status,
            String::from_utf8_lossy(&done.stdout),
            String::from_utf8_lossy(&done.stderr)
        );
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for server in SERVERS {
            self.script(server, "stop");
        }
    }
}

#[test]
fn every_month_ends_as_the_feed_says_though_the_program_is_killed() {
    Lab::start().run("company.py", "--people 40 --months 3 --kills 6");
}

/// How much of the company: all of it for a year in the long form.
fn size(people: u32, months: u32) -> String {
    if std::env::var_os("TENURE_LONG").is_some() {
        String::new()
    } else {
        format!("--people {people} --months {months}")
    }
}

#[test]
fn every_month_ends_the_same_when_files_come_shuffled_late_and_twice() {
    let arguments = format!("{} --feed files --disorder", size(40, 4));
    Lab::start().run("company.py", &arguments);
}

#[test]
fn every_month_ends_the_same_when_it_is_told_by_events_in_any_order() {
    let arguments = format!("{} --feed events --disorder", size(40, 4));
    Lab::start().run("company.py", &arguments);
}

#[test]
fn a_directory_that_is_down_costs_no_attempt_and_holds_up_nobody() {
    let lab = Lab::start();
    let folder = lab.folder("openldap");
    lab.run(
        "outage.py",
        &format!("--people 24 --directory '{}'", folder.display()),
    );
}
