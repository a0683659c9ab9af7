//! Writes the configuration folder of the demo: what somebody would write by hand for a company like this.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::json;

use super::access::{DOORS, KEYS, WORKSPACE, ZONES, policy};

/// Where things lie in the demo's folder.
#[derive(Debug, Clone)]
pub struct Folder {
    pub root: PathBuf,
}

impl Folder {
    /// Makes the folder. It must be empty or not exist.
    ///
    /// # Errors
    /// When it holds something, or cannot be written to.
    pub fn make(root: &Path) -> anyhow::Result<Self> {
        let shown = root.display();
        for folder in [
            "sources", "systems", "policy", "exports", "secrets", "world",
        ] {
            fs::create_dir_all(root.join(folder))
                .with_context(|| format!("cannot make `{shown}`"))?;
        }
        let root = fs::canonicalize(root).with_context(|| format!("cannot find `{shown}`"))?;
        Ok(Self { root })
    }

    /// The configuration of Tenure.
    #[must_use]
    pub fn exports(&self) -> PathBuf {
        self.root.join("exports")
    }
    /// What belongs to the workspace, not to Tenure.
    #[must_use]
    pub fn workspace_file(&self) -> PathBuf {
        self.root.join("world").join("workspace.sqlite")
    }
    /// What belongs to the door register, not to Tenure.
    #[must_use]
    pub fn doors_file(&self) -> PathBuf {
        self.root.join("world").join("doors.sqlite")
    }

    /// Writes everything. `program` is what the plugin is started from.
    ///
    /// # Errors
    /// When the folder cannot be written to.
    pub fn write(
        &self,
        workspace: &str,
        token: &str,
        program: &Path,
        projects: &[String],
    ) -> anyhow::Result<()> {
        let token_file = self.root.join("secrets").join("workspace-token");
        self.put("tenure.yaml", SETTINGS)?;
        self.put("sources/hr.yaml", SOURCE)?;
        self.put("policy/roles.yaml", &policy(projects))?;
        self.put_secret(&token_file, token)?;
        let text = |value: &str| json!(value).to_string();
        let path = |path: &Path| json!(path.display().to_string()).to_string();
        let workspace = format!(
            "# An application with a SCIM 2.0 interface.\n\
             name: {WORKSPACE}\nkind: scim\n# This one has no page to log in to.\nsessions: none\nsettings:\n  base_url: {}\n  token: {}\n{WORKSPACE_ACCOUNT}",
            text(workspace),
            text(&format!("file:{}", token_file.display())),
        );
        self.put("systems/workspace.yaml", &workspace)?;
        let doors = format!(
            "# The door register. The plugin speaks the protocol of docs/exec-protocol.md.\n\
             name: {DOORS}\nkind: exec\n# A door is open or closed; nobody stays logged in to it.\nsessions: none\nsettings:\n  command: [{}, demo-plugin]\n  config:\n    database: {}\n    zones: {}\n\
             {DOORS_ACCOUNT}",
            path(program),
            path(&self.doors_file()),
            json!(ZONES),
        );
        self.put("systems/doors.yaml", &doors)?;
        self.put("systems/keys.yaml", &format!("name: {KEYS}\n{KEYS_SYSTEM}"))
    }

    fn put(&self, name: &str, text: &str) -> anyhow::Result<()> {
        fs::write(self.root.join(name), text).with_context(|| format!("cannot write `{name}`"))
    }

    fn put_secret(&self, file: &Path, text: &str) -> anyhow::Result<()> {
        use std::io::Write as _;
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut open = options
            .open(file)
            .with_context(|| format!("cannot write `{}`", file.display()))?;
        Ok(open.write_all(text.as_bytes())?)
    }
}

const SETTINGS: &str = "\
store: { url: 'sqlite:tenure.sqlite' }
node: { name: demo }
";

const SOURCE: &str = r#"# What the HR system exports each day: everybody who is employed, and a manifest beside it.
name: hr
kind: snapshot
format: csv
key: employee_id
time_zone: Etc/UTC
complete: true
manifest: required
columns:
  name: { cel: 'row.given_name + " " + row.family_name' }
  given_name: given_name
  family_name: family_name
  email: email
  department: department
  title: title
  location: location
required: [name, given_name, family_name, email, department, title, location]
type: { cel: 'row.type' }
manager: { column: manager_id, by: key }
project: { column: project }
employment: { start: start_date, end: end_date }
# A file that would remove more than a tenth of the company waits for a person.
guard:
  removals: { share_max: 0.1, population_min: 10 }
"#;

const WORKSPACE_ACCOUNT: &str = r#"limits: { concurrency: 16, revocation_reserved: 4 }
account:
  name: slug(identity.given_name) + "." + slug(identity.family_name) + suffix(n)
  attributes:
    displayName: identity.name
    name.givenName: identity.given_name
    name.familyName: identity.family_name
    emails: identity.email
    title: identity.title
    "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User:department": identity.department
"#;

const DOORS_ACCOUNT: &str = r#"limits: { concurrency: 8, revocation_reserved: 2 }
account:
  name: identity.key
  attributes:
    holder: identity.name
    location: identity.location
"#;

const KEYS_SYSTEM: &str = r#"# Nobody has taught the key cabinet a protocol: each change is a task for a person, who says what they saw.
kind: manual
sessions: none
settings:
  assignee: role:facilities
  due: 4h
  where: the key cabinet in room 1.07
  operations: [create_account, enable_account, disable_account, grant, revoke]
account:
  name: identity.key
"#;
